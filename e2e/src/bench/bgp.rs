//! `cargo lab bench bgp`: our speaker beside BIRD 2, FRR and GoBGP, each with the same peers.
//!
//! `bgpload` is the peers, and reads the subject's CPU time and memory from the kernel. Every run
//! has a fresh subject in a namespace of its own. `BENCH_SUBJECTS=bgpd,bird` names the subjects
//! (also `frr-eager`), `BENCH_RUNS=3` the runs of each.

mod figures;
mod subject;
mod workload;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::FutureExt as _;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::process::Command;

use self::figures::Measured;
use self::subject::Subject;
use self::workload::Workload;
use super::kit::bare;
use super::{Bench, Row, runs};
use crate::agent::program;
use crate::lab::Bare;
use crate::netns::Netns;
use crate::process;
use crate::progress::Progress;

pub(super) const BENCHES: [Bench; 8] = [
    Bench { name: "bgp-one", body: |progress| run(&workload::ONE, progress).boxed() },
    Bench { name: "bgp-fwd", body: |progress| run(&workload::FORWARD, progress).boxed() },
    Bench { name: "bgp-dfz", body: |progress| run(&workload::INTERNET, progress).boxed() },
    Bench { name: "bgp-probe", body: |progress| run(&workload::PROBE, progress).boxed() },
    Bench { name: "bgp-rr", body: |progress| run(&workload::REFLECT, progress).boxed() },
    Bench { name: "bgp-fan", body: |progress| run(&workload::FAN, progress).boxed() },
    Bench { name: "bgp-herd", body: |progress| run(&workload::HERD, progress).boxed() },
    Bench { name: "bgp-withdraw", body: |progress| run(&workload::WITHDRAW, progress).boxed() },
];

/// The load generator gives up by itself, and says why; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(600);

async fn run(workload: &Workload, progress: &Progress) -> Result<Vec<Row>> {
    let subjects = subjects()?;
    let runs = runs()?;
    let work = async |bare: &Bare| measure(bare, workload, &subjects, runs, progress).await;
    figures::rows(workload, &bare("bgp", work).await?)
}

/// All subjects in turns, so that what else the machine does hits each alike.
async fn measure(
    bare: &Bare,
    workload: &Workload,
    subjects: &[Subject],
    runs: usize,
    progress: &Progress,
) -> Result<Vec<Measured>> {
    let new = |subject: &Subject| Measured { subject: *subject, answers: Vec::new() };
    let mut measured: Vec<Measured> = subjects.iter().map(new).collect();
    for _ in 0..runs {
        for one in &mut measured {
            let what = format!("{}: {}", workload.name, one.subject.title());
            let answer = progress.step(&what, once(bare, workload, one.subject)).await?;
            one.answers.push(answer);
        }
    }
    Ok(measured)
}

/// A fresh subject, one measurement, and everything is gone again.
async fn once(bare: &Bare, workload: &Workload, subject: Subject) -> Result<Value> {
    let load = program("bgpload")?.into_os_string().into_string();
    let load = load.map_err(|path| anyhow::anyhow!("{path:?} is not UTF-8"))?;
    let sizes = workload.sizes(subject);
    let ask = async |words: &[&str]| process::output(&load, words.iter().chain(sizes)).await;
    let addresses: Value = serde_json::from_str(&ask(&["addresses", workload.name]).await?)?;
    let config = ask(&["config", workload.name, subject.name()]).await?;

    let (own, peers) = (bare.place.netns("subject"), bare.place.netns("peers"));
    for netns in [&own, &peers] {
        bare.record.create_namespace(netns).await?;
    }
    link(&own, &peers, &addresses).await?;
    let directory = bare.place.directory_of("subject");
    std::fs::create_dir_all(&directory)?;
    let mut daemon = subject.start(&bare.record, &own, &directory, &config).await?;

    let mut command = Command::new(&load);
    command.args(["run", workload.name, "--pid", &daemon.id().pid.to_string()]).args(sizes);
    let output = process::capture(command, Some(&peers), b"", PATIENCE).await?;
    // One that has ended says why better than its peers can.
    daemon.check()?;
    if !output.status.success() {
        let tail = process::log_tail(daemon.log(), 10);
        bail!("{}\n{tail}", String::from_utf8_lossy(&output.stderr).trim());
    }
    daemon.stop(Signal::SIGKILL, Duration::from_secs(5)).await?;
    for netns in [&own, &peers] {
        bare.record.delete_namespace(netns).await?;
    }
    std::fs::remove_dir_all(&directory)?;
    serde_json::from_slice(&output.stdout).context("bgpload's answer")
}

/// One link, with the subject's address at its end and all peers' at the other.
async fn link(own: &Netns, peers: &Netns, addresses: &Value) -> Result<()> {
    let subject = addresses["subject"].as_str().context("no address of the subject")?;
    own.ip_batch(&format!(
        "link add bgp type veth peer name bgp netns {}\naddr add {subject} dev bgp\nlink set bgp up\n",
        peers.name()
    ))
    .await?;
    let mut lines = String::new();
    for peer in addresses["peers"].as_array().context("no addresses of peers")? {
        let peer = peer.as_str().context("an address is no text")?;
        lines.push_str(&format!("addr add {peer} dev bgp\n"));
    }
    lines.push_str("link set bgp up\n");
    peers.ip_batch(&lines).await
}

/// `BENCH_SUBJECTS`: some of them, separated by commas.
fn subjects() -> Result<Vec<Subject>> {
    match std::env::var("BENCH_SUBJECTS") {
        Ok(names) => names.split(',').map(|name| name.trim().parse()).collect(),
        Err(_) => Ok(Subject::USUAL.to_vec()),
    }
}
