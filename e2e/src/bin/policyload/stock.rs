//! The same work as a dataplane does it that keeps a named set for each selector and a chain for each
//! policy, and changes them by running `nft`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::{Figures, Times};

const TABLE: &str = "add table inet stock\n";

/// Runs `nft -f -`.
fn apply(text: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft")?;
    child.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&done.stderr).lines().next().unwrap_or_default());
    }
    Ok(())
}

/// Sets of so many addresses each.
fn sets(count: usize, members: usize) -> String {
    let mut text = String::new();
    for set in 0..count {
        let _ = write!(text, "add set inet stock s{set} {{ type ipv4_addr; elements = {{ ");
        for member in 0..members {
            let _ = write!(text, "{}, ", address(set * members + member));
        }
        text += "} }\n";
    }
    text
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255)
}

/// One pod joins 100 sets of 100 members and leaves them.
pub(super) fn member() -> Result<Figures> {
    apply(&(TABLE.to_owned() + &sets(100, 100)))?;
    let times = in_and_out(100, 100)?;
    let mut figures = Figures::default();
    figures.put("whole", &times.0);
    Ok(figures)
}

/// An address joins so many sets and leaves them, so often: each time one run of `nft`.
fn in_and_out(sets: usize, rounds: usize) -> Result<Times> {
    let mut times = Times::default();
    for round in 0..rounds {
        let verb = if round % 2 == 0 { "add" } else { "delete" };
        let mut text = String::new();
        for set in 0..sets {
            let _ = writeln!(text, "{verb} element inet stock s{set} {{ 10.192.0.1 }}");
        }
        times.time(|| apply(&text))?;
    }
    Ok(times)
}

/// 2,000 sets of 100 members, 2,000 chains of ten rules.
pub(super) fn selectors() -> Result<Figures> {
    let mut text = TABLE.to_owned() + &sets(2000, 100);
    for chain in 0..2000 {
        let _ = writeln!(text, "add chain inet stock c{chain}");
        for at in 0..10 {
            let set = (chain * 7 + at * 201) % 2000;
            let port = 8000 + at;
            let _ = writeln!(
                text,
                "add rule inet stock c{chain} ip saddr @s{set} tcp dport {port} accept"
            );
        }
    }
    let mut figures = Figures::default();
    let mut build = Times::default();
    build.time(|| apply(&text))?;
    figures.put("build", &build.0);
    figures.put("member", &in_and_out(10, 40)?.0);
    // What is there has to be known before it can be put right.
    let mut list = Times::default();
    let listed = list.time(|| {
        Command::new("nft").args(["-j", "list", "ruleset"]).stderr(Stdio::null()).output()
    })?;
    if !listed.status.success() || listed.stdout.len() < 1_000_000 {
        bail!("nft -j list ruleset: {}, {} bytes", listed.status, listed.stdout.len());
    }
    figures.put("list", &list.0);
    Ok(figures)
}
