//! `cargo lab bench ipam`: addresses given and given back, beside plain writes of the same etcd.
//!
//! `ipamload` is the nodes. Each round has an etcd of its own with its data on disk, and asks for
//! every workload in turn; the figures are the medians of the rounds. `BENCH_RUNS=3` sets their number.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use serde_json::Value;
use tokio::process::Command;

use super::kit::{answer, bare};
use super::{Bench, Row, median, percentile, runs};
use crate::agent::program;
use crate::control_plane::{Etcd, NAMESPACE};
use crate::lab::Bare;
use crate::progress::Progress;

pub(super) const BENCH: Bench = Bench { name: "ipam", body: |progress| run(progress).boxed() };

/// A workload gives up by itself when one request waits too long; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(120);
const ETCD: &str = "etcd alone";
const CARACAL: &str = "caracal, etcd before the answer";
const LOCAL: &str = "caracal, own log before the answer";

/// In the order of a round: each beside what it is compared with.
const WORKLOADS: [&str; 11] = [
    "put-alone",
    "pairs-alone",
    "put-16",
    "pairs-16",
    "put-64",
    "pairs-64-nodes",
    "txn-alone",
    "claims",
    "local-alone",
    "local-16",
    "local-64-nodes",
];

/// One round's answers, by workload.
type Round = BTreeMap<&'static str, Value>;

async fn run(progress: &Progress) -> Result<Vec<Row>> {
    rows(&bare("ipam", async |bare| measure(bare, progress).await).await?)
}

async fn measure(bare: &Bare, progress: &Progress) -> Result<Vec<Round>> {
    let load = program("ipamload")?;
    let netns = bare.place.netns(NAMESPACE);
    bare.record.create_namespace(&netns).await?;
    netns.ip_batch("link set lo up\n").await?;
    let mut rounds = Vec::new();
    for at in 0..runs()? {
        let program = PathBuf::from("/usr/bin/etcd");
        let address = (Ipv4Addr::LOCALHOST, 2379);
        let mut etcd = Etcd::new(&bare.place, &bare.record, "etcd", program, address, &[]);
        etcd.start().await?;
        let state = bare.place.directory_of("nodes");
        let mut round = Round::new();
        for workload in WORKLOADS {
            // Each has nodes of its own.
            let directory = state.join(workload);
            std::fs::create_dir_all(&directory)?;
            let mut command = Command::new(&load);
            command.arg(etcd.endpoint()).arg(&directory).arg(workload);
            let what = format!("round {}: {workload}", at + 1);
            let answer = progress.step(&what, answer(command, &netns, PATIENCE)).await;
            round.insert(workload, answer.context(workload)?);
        }
        rounds.push(round);
        etcd.kill().await?;
        for directory in [bare.place.directory_of("etcd"), state] {
            std::fs::remove_dir_all(&directory)?;
        }
    }
    Ok(rounds)
}

/// A figure of one round.
#[derive(Clone, Copy)]
enum Figure {
    /// Milliseconds of the first operation of each pair, or of the only one.
    First(usize),
    /// Milliseconds of the second.
    Second(usize),
    /// Operations, or pairs of them, in a second.
    Rate,
}

impl Figure {
    fn of(self, answer: &Value) -> Result<f64> {
        let times = |field: &str| -> Result<Vec<f64>> {
            let times = answer[field].as_array().with_context(|| format!("no {field}"))?;
            Ok(times.iter().filter_map(Value::as_f64).collect())
        };
        Ok(match self {
            Self::First(percent) => percentile(&times("first_s")?, percent)? * 1e3,
            Self::Second(percent) => percentile(&times("second_s")?, percent)? * 1e3,
            Self::Rate => {
                let count = times("first_s")?.len();
                let wall = answer["wall_s"].as_f64().context("no wall_s")?;
                f64::from(u32::try_from(count)?) / wall
            }
        })
    }

    fn median(self, rounds: &[Round], workload: &str) -> Result<f64> {
        let values: Result<Vec<f64>> = rounds
            .iter()
            .map(|round| self.of(round.get(workload).context("not measured")?))
            .collect();
        median(&values.with_context(|| workload.to_owned())?)
    }
}

fn rows(rounds: &[Round]) -> Result<Vec<Row>> {
    let value = |workload: &str, figure: Figure| figure.median(rounds, workload);
    let row = |title: &str, subject: &str, name: &str, unit: &str, workload: &str, figure| {
        anyhow::Ok(Row::new(title, subject, name, unit, value(workload, figure)?))
    };
    let mut rows = Vec::new();

    let alone = "one pod after the other on a node";
    for (name, figure) in [("p50", Figure::First(50)), ("p99", Figure::First(99))] {
        let put = value("put-alone", figure)?;
        let add = row(alone, CARACAL, &format!("ADD {name}"), "ms", "pairs-alone", figure)?;
        let add = add.against(ETCD, put);
        rows.push(if name == "p50" { add.at_most_times(1.5) } else { add });
        rows.push(Row::new(alone, ETCD, &format!("put {name}"), "ms", put));
    }
    let put = value("put-alone", Figure::First(50))?;
    let del = row(alone, CARACAL, "DEL p50", "ms", "pairs-alone", Figure::Second(50))?;
    rows.push(del.against(ETCD, put));

    let busy = "16 pods at once on a node";
    let pairs = row(busy, CARACAL, "ADD + DEL", "pairs/s", "pairs-16", Figure::Rate)?;
    rows.push(pairs.at_least(8000.0));
    rows.push(row(busy, CARACAL, "ADD p50", "ms", "pairs-16", Figure::First(50))?);
    rows.push(row(busy, ETCD, "put", "1/s", "put-16", Figure::Rate)?);

    for (name, figure) in [("p50", Figure::First(50)), ("p99", Figure::First(99))] {
        let put = value("put-alone", figure)?;
        let add = row(alone, LOCAL, &format!("ADD {name}"), "ms", "local-alone", figure)?;
        let add = add.against(ETCD, put);
        rows.push(if name == "p50" { add.below(0.15) } else { add });
    }
    let pairs = row(busy, LOCAL, "ADD + DEL", "pairs/s", "local-16", Figure::Rate)?;
    rows.push(pairs.at_least(30_000.0));

    let cluster = "64 nodes, one pod after the other on each";
    let mut changes = row(cluster, CARACAL, "changes", "1/s", "pairs-64-nodes", Figure::Rate)?;
    changes.value *= 2.0;
    rows.push(changes.against(ETCD, value("put-64", Figure::Rate)?).at_least(10_000.0));
    let mut changes = row(cluster, LOCAL, "changes", "1/s", "local-64-nodes", Figure::Rate)?;
    changes.value *= 2.0;
    rows.push(changes.against(ETCD, value("put-64", Figure::Rate)?).at_least(10_000.0));
    rows.push(row(cluster, ETCD, "put", "1/s", "put-64", Figure::Rate)?);

    let claims = "a block for every pod";
    let txn = value("txn-alone", Figure::First(50))?;
    let with = value("claims", Figure::First(50))?;
    rows.push(Row::new(claims, CARACAL, "ADD p50", "ms", with));
    let without = value("pairs-alone", Figure::First(50))?;
    let claim = Row::new(
        claims,
        CARACAL,
        "its claim: p50 less that of an ADD without",
        "ms",
        with - without,
    );
    rows.push(claim.against(ETCD, txn).at_most_times(2.0));
    rows.push(Row::new(claims, ETCD, "transaction of two keys p50", "ms", txn));
    rows.push(row(claims, CARACAL, "claims", "1/s", "claims", Figure::Rate)?);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_medians_of_the_rounds_beside_etcds() {
        let round = |seconds: f64| -> Round {
            let answer = json!({
                "first_s": [seconds, seconds], "second_s": [seconds * 3.0, seconds * 3.0], "wall_s": 0.5
            });
            WORKLOADS.iter().map(|workload| (*workload, answer.clone())).collect()
        };
        let all = rows(&[round(0.001), round(0.002), round(0.004)]).unwrap();
        let find = |figure: &str| all.iter().find(|row| row.figure == figure).unwrap();
        let add = find("ADD p50");
        assert!((add.value - 2.0).abs() < 1e-9 && (add.ratio.unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(add.met, Some(true));
        assert!((find("DEL p50").value - 6.0).abs() < 1e-9);
        assert!((find("ADD + DEL").value - 4.0).abs() < 1e-9);
        assert_eq!(find("ADD + DEL").met, Some(false));
        assert!((find("changes").value - 8.0).abs() < 1e-9);
        assert!(rows(&[]).is_err(), "of nothing there is no median");
    }
}
