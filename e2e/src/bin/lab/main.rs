//! `cargo lab`: makes a bare machine ready, builds everything, and becomes the lab.
//!
//! This program needs neither protoc nor a cluster's crates, so it builds where they do not yet
//! exist. It installs the Debian packages that are missing, builds the workspace's programs in
//! one cargo invocation (one profile, so tests and the lab share what is built; benchmarks have
//! the release profile), and then replaces itself by `labctl` with the same arguments.

mod fuzz;
mod packages;

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

/// Shared with `labctl`, so that asking for help builds and installs nothing.
const USAGE: &str = include_str!("../../usage.txt");

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let wants_help = args.is_empty()
        || args
            .iter()
            .take_while(|a| *a != "--")
            .any(|a| a == "-h" || a == "--help" || a == "help");
    if wants_help {
        // Not println: a closed pipe is not an error worth a panic.
        let _ = std::io::stdout().lock().write_all(USAGE.as_bytes());
        return ExitCode::SUCCESS;
    }
    let done = match fuzzing(&args) {
        Some(args) => workspace_root().and_then(|root| fuzz::run(&root, &args)),
        None => run(&args).map(|never| match never {}),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[OsString]) -> Result<std::convert::Infallible> {
    let profile = match command(args) {
        // Figures are of what runs in production.
        Some("bench") => Profile::Release,
        _ => Profile::Dev,
    };
    let labctl = profile.directory()?.join("labctl");
    // To look at a lab or to end it, what raised it will do, whatever the sources say by now.
    if makes_labs(args) || !labctl.exists() {
        let root = workspace_root()?;
        packages::install_missing()?;
        build(&root, profile)?;
    }
    if !labctl.exists() {
        bail!("{} was not built", labctl.display());
    }
    // Only the lab itself needs root: building as the user keeps the target folder the user's.
    let mut command = if is_root() {
        Command::new(&labctl)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("--preserve-env").arg("env");
        for name in ["PATH", "HOME", "CARGO_HOME", "CARGO_TARGET_DIR"] {
            if let Some(value) = std::env::var_os(name) {
                let mut pair = OsString::from(format!("{name}="));
                pair.push(value);
                sudo.arg(pair);
            }
        }
        sudo.arg(&labctl);
        sudo
    };
    let error = command.args(args).exec();
    Err(error).with_context(|| format!("cannot run {}", labctl.display()))
}

/// What is asked for, among the options.
fn command(args: &[OsString]) -> Option<&str> {
    let mut args = args.iter().filter_map(|arg| arg.to_str());
    while let Some(arg) = args.next() {
        match arg {
            // The only option before a command that has a value.
            "--name" => drop(args.next()),
            option if option.starts_with('-') => {}
            command => return Some(command),
        }
    }
    None
}

/// What follows the command that fuzzes, if it is that one: it needs no lab.
fn fuzzing(args: &[OsString]) -> Option<Vec<&str>> {
    let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    args.split_first().filter(|(command, _)| **command == "fuzz").map(|(_, rest)| rest.to_vec())
}

/// Is the command one that raises a lab?
fn makes_labs(args: &[OsString]) -> bool {
    command(args).is_none_or(|command| ["up", "test", "bench"].contains(&command))
}

/// How the programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// For tests and the lab: built soon.
    Dev,
    /// As they are released.
    Release,
}

impl Profile {
    /// Cargo puts all programs of one build into one folder: this program's, or its neighbour.
    fn directory(self) -> Result<PathBuf> {
        let exe = std::env::current_exe().context("cannot find this program's own path")?;
        let own = exe.parent().context("this program has no directory")?;
        Ok(match self {
            Self::Dev => own.to_path_buf(),
            Self::Release => own.with_file_name("release"),
        })
    }
}

/// Builds every program of the workspace; cargo shows its own progress on standard error.
fn build(root: &Path, profile: Profile) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--features", "e2e/fabric", "--bins"])
        .args(["-p", "felix", "-p", "bgpd", "-p", "ipam", "-p", "e2e"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the build failed ({status})");
    }
    Ok(())
}

/// The workspace this program was built from.
fn workspace_root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().context("the e2e crate has no parent directory")?;
    if !root.join("Cargo.lock").exists() {
        bail!("{} is no longer the workspace this program was built from", root.display());
    }
    Ok(root.to_path_buf())
}

#[allow(unsafe_code, reason = "geteuid is the only system call here; this program has no nix")]
fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, returns a number and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// One line on standard error.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_raises_a_lab_is_preceded_by_a_build() {
        let makes =
            |line: &str| makes_labs(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(makes("up --nodes 3") && makes("--name down up") && makes("--name=x test policy"));
        assert!(!makes("down") && !makes("--name up down") && !makes("exec node1 -- up"));
    }

    #[test]
    fn fuzzing_needs_no_lab() {
        let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(fuzzing(&args("fuzz mrt 5")), Some(vec!["mrt", "5"]));
        assert_eq!(fuzzing(&args("test fuzz")), None);
    }
}
