//! What cargo runs: checks of the workspace, and the crates' own tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tokio::process::Command;

use super::{Outcome, Tally, libtest};
use crate::control_plane::binaries::{self, Found};
use crate::process;
use crate::progress::error_line;

/// A build from nothing on two busy cores.
const BUILD: Duration = Duration::from_secs(3600);
const DOCUMENTATION: &str = "check::doc";
/// One program of tests.
const TESTS: Duration = Duration::from_secs(1800);

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

async fn run(command: Command, within: Duration) -> Result<Output> {
    process::capture(command, None, b"", within).await
}

/// Formatting, lints, each crate alone, and the supply chain.
pub(super) async fn checks(tally: &mut Tally) -> Result<()> {
    check(tally, "check::fmt", &["fmt", "--all", "--check"]).await?;
    let lints = [
        "clippy",
        "-q",
        "--workspace",
        "--all-targets",
        "--features",
        "e2e/fabric",
        "--",
        "-D",
        "warnings",
    ];
    check(tally, "check::clippy", &lints).await?;
    for package in ["bgpd", "ipam", "felix"] {
        // What is of use by itself: with its own features only, not those that others ask of shared
        // dependencies. Every package more would compile most dependencies once more.
        check(tally, &format!("check::alone::{package}"), &["check", "-q", "-p", package]).await?;
    }
    if !tally.wants("check::deny") {
        return Ok(());
    }
    let outcome = if !root().join("deny.toml").is_file() {
        Outcome::Failed("there is no deny.toml".into())
    } else if run(cargo(&["deny", "--version"]), BUILD).await?.status.success() {
        let args = ["deny", "--offline", "--all-features", "check", "bans", "licenses", "sources"];
        outcome(&run(cargo(&args), BUILD).await?)
    } else {
        Outcome::Skipped("cargo-deny is not installed (cargo install cargo-deny)".into())
    };
    tally.add("check::deny", None, outcome);
    Ok(())
}

async fn check(tally: &mut Tally, name: &str, args: &[&str]) -> Result<()> {
    if tally.wants(name) {
        let start = Instant::now();
        let done = run(cargo(args), BUILD).await?;
        tally.add(name, Some(start.elapsed()), outcome(&done));
    }
    Ok(())
}

fn outcome(done: &Output) -> Outcome {
    if done.status.success() {
        return Outcome::Passed;
    }
    let text = [&done.stdout[..], &done.stderr[..]].concat();
    Outcome::Failed(String::from_utf8_lossy(&text).into_owned())
}

/// A program made of tests.
#[derive(Debug)]
struct Program {
    package: String,
    /// The package's folder: where cargo runs it.
    folder: PathBuf,
    executable: PathBuf,
}

/// Builds and runs the tests of every crate, and their documentation's.
pub(super) async fn tests(tally: &mut Tally) -> Result<()> {
    let packages = ["api", "bgpd", "ipam", "netlink", "felix", "e2e"];
    let wanted = packages.iter().any(|package| tally.may_want(&format!("{package}::")));
    // A suite's name is nobody else's: no need to build what has none of its tests.
    let programs = if wanted && !tally.means_suites() {
        error_line("building the tests");
        build().await?
    } else if tally.wants(DOCUMENTATION) {
        Vec::new()
    } else {
        return Ok(());
    };
    let environment = environment().await?;
    for program in &programs {
        run_program(tally, program, &environment).await?;
    }
    documentation(tally, &environment).await
}

/// What tests find a real control plane by.
async fn environment() -> Result<Vec<(&'static str, PathBuf)>> {
    let found = match binaries::find()? {
        Found::Buildable(folder) => {
            error_line("building kube-apiserver and etcd with Go, once");
            Found::Ready(binaries::build(&folder).await?)
        }
        found => found,
    };
    Ok(match found {
        Found::Ready(found) => vec![
            ("TEST_ASSET_KUBE_APISERVER", found.kube_apiserver),
            ("TEST_ASSET_ETCD", found.etcd),
        ],
        Found::Buildable(_) | Found::Nowhere(_) => Vec::new(),
    })
}

async fn build() -> Result<Vec<Program>> {
    let args =
        ["test", "--workspace", "--features", "e2e/fabric", "--no-run", "--message-format=json"];
    let done = run(cargo(&args), BUILD).await?;
    if !done.status.success() {
        bail!("the tests do not build:\n{}", String::from_utf8_lossy(&done.stderr));
    }
    let mut programs = Vec::new();
    for line in done.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Value>(line) else { continue };
        let test = message["profile"]["test"] == true;
        let (true, Some(executable)) = (test, message["executable"].as_str()) else { continue };
        let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
        let folder = manifest.parent().context("a manifest without a folder")?.to_path_buf();
        let manifest = std::fs::read_to_string(&manifest)?;
        let name = manifest.lines().find_map(|line| line.strip_prefix("name = "));
        programs.push(Program {
            package: name.unwrap_or_default().trim_matches('"').to_owned(),
            folder,
            executable: executable.into(),
        });
    }
    Ok(programs)
}

impl Program {
    fn command(&self, environment: &[(&str, PathBuf)]) -> Command {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command.envs(environment.iter().cloned());
        command
    }
}

async fn run_program(
    tally: &mut Tally,
    program: &Program,
    environment: &[(&'static str, PathBuf)],
) -> Result<()> {
    let mut list = program.command(environment);
    list.args(["--list", "--format=terse"]);
    let listed = String::from_utf8_lossy(&run(list, TESTS).await?.stdout).into_owned();
    let names: BTreeMap<&str, String> = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(|test| (test, format!("{}::{test}", program.package)))
        .filter(|(_, name)| tally.wants(name))
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let start = Instant::now();
    let mut command = program.command(environment);
    command.args(["--show-output", "--exact"]).args(names.keys());
    let (text, status) = match run(command, TESTS).await {
        Ok(done) => {
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            (text + &String::from_utf8_lossy(&done.stderr), done.status.to_string())
        }
        Err(error) => (String::new(), format!("{error:#}")),
    };
    let took = (names.len() == 1).then(|| start.elapsed());
    match libtest::parse(&text) {
        Some(mut results) => {
            for (test, name) in &names {
                let unknown = || Outcome::Failed(format!("it was not run: {status}"));
                tally.add(name, took, results.remove(*test).unwrap_or_else(unknown));
            }
        }
        None => {
            let said = format!("{} crashed: {status}\n{text}", program.executable.display());
            for name in names.values() {
                tally.add(name, took, Outcome::Failed(said.clone()));
            }
        }
    }
    Ok(())
}

/// Documentation tests, which only cargo itself can run. All at once: asked for one by one, crates
/// would have other features, and be built again for each.
async fn documentation(tally: &mut Tally, environment: &[(&'static str, PathBuf)]) -> Result<()> {
    if tally.wants(DOCUMENTATION) {
        let start = Instant::now();
        let args = ["test", "-q", "--doc", "--workspace", "--features", "e2e/fabric"];
        let mut command = cargo(&args);
        command.envs(environment.iter().cloned());
        let done = run(command, TESTS).await?;
        tally.add(DOCUMENTATION, Some(start.elapsed()), outcome(&done));
    }
    Ok(())
}
