//! `cargo lab fuzz`: the targets of `bgpd/fuzz` and `felix/fuzz` with libFuzzer, on the stable compiler.
//!
//! libFuzzer needs to be told which branches were taken. cargo-fuzz asks the compiler for that with an
//! option that only a nightly one has; the LLVM pass behind it can be had from any.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Where there are targets.
const CRATES: [&str; 2] = ["bgpd/fuzz", "felix/fuzz"];
/// Counters at the branches, a table of them, and what is compared with what.
const RUSTFLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];
/// An input that takes longer, in seconds, or needs more memory, in MiB, is a finding.
const LIMITS: [&str; 2] = ["-timeout=5", "-rss_limit_mb=1024"];
/// The longest message, and more than any other input needs.
const MAX_LEN: &str = "-max_len=65535";
/// For each target, where nothing else is asked for.
const SECONDS: u32 = 60;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    /// None: all.
    target: Option<String>,
    seconds: u32,
}

impl Wish {
    /// # Errors
    /// Fails when there is more than a target and a number of seconds.
    fn parse(args: &[&str]) -> Result<Self> {
        let mut wish = Self { target: None, seconds: SECONDS };
        for arg in args {
            match arg.parse::<u32>() {
                Ok(seconds) if seconds > 0 => wish.seconds = seconds,
                Ok(_) => bail!("fuzzing takes at least a second"),
                Err(_) if wish.target.is_none() => wish.target = Some((*arg).to_owned()),
                Err(_) => bail!("usage: cargo lab fuzz [TARGET] [SECONDS]; what is {arg}?"),
            }
        }
        Ok(wish)
    }
}

/// Fuzzes one target or all, each for some time, and says what came of it.
///
/// # Errors
/// Fails when a target cannot be built or finds something.
pub(crate) fn run(root: &Path, args: &[&str]) -> Result<()> {
    let wish = Wish::parse(args)?;
    let mut all = Vec::new();
    for crate_ in CRATES.map(|name| root.join(name)) {
        let names = targets(&crate_)?;
        all.push((crate_, names));
    }
    let is_wanted = |name: &String| wish.target.as_ref().is_none_or(|target| target == name);
    let folders = Folders::find()?;
    let mut chosen = Vec::new();
    for (crate_, names) in &all {
        let of_crate: Vec<&String> = names.iter().filter(|name| is_wanted(name)).collect();
        if !of_crate.is_empty() {
            build(crate_, &folders, &of_crate)?;
        }
        chosen.extend(of_crate);
    }
    if chosen.is_empty() {
        let names: Vec<&str> = all.iter().flat_map(|(_, names)| names).map(|n| &**n).collect();
        bail!("there is no such target; there are {}", names.join(", "));
    }
    let mut found = Vec::new();
    for name in chosen {
        super::say(&format!("{name}: {} s", wish.seconds));
        let ending = fuzz(&folders, name, wish.seconds)?;
        super::say(&format!("{name}: {}", ending.figures));
        found.extend(ending.found);
    }
    if !found.is_empty() {
        bail!("found something:\n{}", found.join("\n"));
    }
    Ok(())
}

/// The names of the targets: each is a file.
fn targets(crate_: &Path) -> Result<Vec<String>> {
    let folder = crate_.join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("rs")) {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Where things are, all below the target folder of the workspace.
struct Folders {
    /// Everything about fuzzing.
    base: PathBuf,
    /// The compiler's name for this machine, which is that of cargo's folder too.
    triple: String,
}

impl Folders {
    /// Beside this program, which cargo put into `TARGET/TRIPLE/PROFILE`.
    fn find() -> Result<Self> {
        let exe = std::env::current_exe().context("cannot find this program's own path")?;
        let mut above = exe.ancestors().skip(2);
        let both = above.next().and_then(|triple| Some((triple.file_name()?, above.next()?)));
        let (triple, target) = both.context("this program is not in a target folder")?;
        Ok(Self { base: target.join("fuzz"), triple: triple.to_string_lossy().into_owned() })
    }

    fn of(&self, what: &str, name: &str) -> Result<PathBuf> {
        let folder = self.base.join(what).join(name);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    }
}

fn build(crate_: &Path, folders: &Folders, names: &[&String]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(crate_)
        .args(["build", "--release", "--target", &folders.triple, "--target-dir"])
        .arg(&folders.base)
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\u{1f}"));
    for name in names {
        command.args(["--bin", name]);
    }
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the fuzzers do not build ({status}); libFuzzer needs a C++ compiler");
    }
    Ok(())
}

/// How a run ended.
struct Ending {
    figures: String,
    /// What there is to look at, if anything.
    found: Option<String>,
}

fn fuzz(folders: &Folders, name: &str, seconds: u32) -> Result<Ending> {
    let corpus = folders.of("corpus", name)?;
    let seeds = folders.of("seeds", name)?;
    let findings = folders.of("findings", name)?;
    let log = folders.base.join(format!("{name}.log"));
    let output = File::create(&log).with_context(|| log.display().to_string())?;
    let program = folders.base.join(&folders.triple).join("release").join(name);
    // What is new goes to the first folder.
    let status = Command::new(&program)
        .args([&corpus, &seeds])
        .args(LIMITS)
        .args([MAX_LEN, "-print_final_stats=1", &format!("-max_total_time={seconds}")])
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .env("FUZZ_SEEDS", &seeds)
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = fs::read(&log).with_context(|| log.display().to_string())?;
    let said = String::from_utf8_lossy(&said);
    let found = (!status.success())
        .then(|| format!("{name} ended with {status}: {}\n{}", log.display(), last_lines(&said)));
    Ok(Ending { figures: figures(&said), found })
}

/// What libFuzzer counted, out of what it printed.
fn figures(said: &str) -> String {
    let last = |key: &str| {
        let line = said.lines().rev().find(|line| line.contains(key))?;
        line.split(key).nth(1)?.split_whitespace().next()
    };
    let of = |key| last(key).unwrap_or("?").trim_start_matches('(');
    format!(
        "{} executions, {} a second, coverage {} of {} branches, {} inputs kept",
        of("stat::number_of_executed_units:"),
        of("stat::average_exec_per_sec:"),
        of(" cov: "),
        of("PC tables "),
        of(" corp: ").split('/').next().unwrap_or("?"),
    )
}

fn last_lines(said: &str) -> String {
    let from = said.lines().count().saturating_sub(30);
    said.lines().skip(from).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_and_a_time_in_any_order() {
        let wish = |target: Option<&str>, seconds| Wish { target: target.map(Into::into), seconds };
        assert_eq!(Wish::parse(&[]).unwrap(), wish(None, SECONDS));
        assert_eq!(Wish::parse(&["5"]).unwrap(), wish(None, 5));
        assert_eq!(Wish::parse(&["mrt", "5"]).unwrap(), wish(Some("mrt"), 5));
        assert_eq!(Wish::parse(&["mrt"]).unwrap(), wish(Some("mrt"), SECONDS));
        assert!(Wish::parse(&["mrt", "bfd"]).is_err() && Wish::parse(&["0"]).is_err());
    }

    #[test]
    fn what_libfuzzer_counts_is_found() {
        let said = "INFO: Loaded 1 PC tables (41234 PCs): 41234 [0x5,0x6),\n\
                    #2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #900\tDONE   cov: 120 ft: 400 corp: 17/1523b lim: 4096 exec/s: 450 rss: 40Mb\n\
                    stat::number_of_executed_units: 900\nstat::average_exec_per_sec:     450\n";
        assert_eq!(
            figures(said),
            "900 executions, 450 a second, coverage 120 of 41234 branches, 17 inputs kept"
        );
        assert!(figures("").starts_with("? executions"));
    }

    #[test]
    fn every_target_is_a_program_of_the_crate() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut all = Vec::new();
        for crate_ in CRATES.map(|name| root.join(name)) {
            let manifest = fs::read_to_string(crate_.join("Cargo.toml")).unwrap();
            let names = targets(&crate_).unwrap();
            assert!(names.len() >= 4);
            for name in &names {
                let path = format!("path = \"fuzz_targets/{name}.rs\"");
                assert!(manifest.contains(&path), "{name}");
            }
            all.extend(names);
        }
        // They are asked for by their names alone.
        let of_all = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), of_all);
    }
}
