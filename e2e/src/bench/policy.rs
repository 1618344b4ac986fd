//! `cargo lab bench policy`: the engine and the kernel's writer, beside the program `nft`.
//!
//! `policyload` does the work, each workload as a fresh process in a fresh network namespace. The figures
//! are the medians over rounds; `BENCH_RUNS=3` sets their number.

mod packets;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use serde_json::Value;
use tokio::process::Command;

use super::kit::{answer, bare};
use super::{Bench, Row, median, percentile, runs};
use crate::agent::program;
use crate::lab::Bare;
use crate::progress::Progress;

pub(super) const BENCH: Bench = Bench { name: "policy", body: |progress| run(progress).boxed() };

/// For a workload that hangs.
const PATIENCE: Duration = Duration::from_secs(300);
const CARACAL: &str = "caracal";
const NFT: &str = "nft -f";

const WORKLOADS: [&str; 7] =
    ["member", "member-nft", "start", "selectors", "selectors-nft", "edit", "index"];

/// One round's answers, by workload.
type Round = BTreeMap<&'static str, Value>;

async fn run(progress: &Progress) -> Result<Vec<Row>> {
    rows(&bare("policy", async |bare| measure(bare, progress).await).await?)
}

async fn measure(bare: &Bare, progress: &Progress) -> Result<Vec<Round>> {
    let load = program("policyload")?;
    let mut rounds = Vec::new();
    for at in 0..runs()? {
        let mut round = Round::new();
        for workload in WORKLOADS {
            let netns = bare.place.netns(&format!("{workload}-{at}"));
            bare.record.create_namespace(&netns).await?;
            let mut command = Command::new(&load);
            command.arg(workload);
            let what = format!("round {}: {workload}", at + 1);
            let answer = progress.step(&what, answer(command, &netns, PATIENCE)).await;
            round.insert(workload, answer.context(workload)?);
        }
        for variant in packets::VARIANTS {
            let what = format!("round {}: {}", at + 1, variant.name);
            let work = packets::measure(bare, &load, variant, at);
            round.insert(variant.name, progress.step(&what, work).await?);
        }
        rounds.push(round);
    }
    Ok(rounds)
}

/// The median of the rounds of a percentile within each; in the unit of `scale`.
struct Measured<'a>(&'a [Round]);

impl Measured<'_> {
    fn get(&self, workload: &str, figure: &str, percent: usize, scale: f64) -> Result<f64> {
        let of = |round: &Round| -> Result<f64> {
            let values = round.get(workload).and_then(|answer| answer[figure].as_array());
            let values = values.with_context(|| format!("{workload}: no {figure}"))?;
            let values: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
            Ok(percentile(&values, percent)? * scale)
        };
        median(&self.0.iter().map(of).collect::<Result<Vec<f64>>>()?)
    }
}

const MICROS: f64 = 1e6;
const MILLIS: f64 = 1e3;

fn rows(rounds: &[Round]) -> Result<Vec<Row>> {
    let all = Measured(rounds);
    let mut rows = Vec::new();

    let member = "one pod joins or leaves 100 selectors, 10,000 pods present";
    for (percent, aim) in [(50, 30.0), (99, 200.0)] {
        let ours = all.get("member", "like-others.whole", percent, MICROS)?;
        let peer = all.get("member-nft", "whole", percent, MICROS)?;
        let row = Row::new(member, CARACAL, &format!("p{percent}"), "µs", ours);
        rows.push(row.against(NFT, peer).below(aim));
    }
    let engine = all.get("member", "like-others.engine", 50, MICROS)?;
    rows.push(Row::new(member, CARACAL, "of that, the engine: p50", "µs", engine));
    let first = "the same, the first pod of its labels";
    let elements = all.get("member", "first-of-its-kind.elements", 50, 1.0)?;
    let whole = all.get("member", "first-of-its-kind.whole", 50, MICROS)?;
    let peer = all.get("member-nft", "whole", 50, MICROS)?;
    rows.push(Row::new(first, CARACAL, "p50", "µs", whole).against(NFT, peer));
    rows.push(Row::new(first, CARACAL, "elements", "", elements));

    let start = "start: 250,000 pods, 100 of them here, 10,000 policies";
    let wall = all.get("start", "wall", 50, 1.0)?;
    rows.push(Row::new(start, CARACAL, "wall", "s", wall).below(3.0));
    let memory = all.get("start", "peak-MB", 50, 1.0)?;
    rows.push(Row::new(start, CARACAL, "peak memory", "MB", memory).below(250.0));

    let many = "2,000 selectors of 100 members, 2,000 policies of 10 rules";
    for (figure, peers, aim) in [("build", "build", 0.4), ("resync", "list", 0.25)] {
        let peer = if peers == "list" { "nft -j list ruleset" } else { NFT };
        let reached = all.get("selectors-nft", peers, 50, 1.0)?;
        let ours = all.get("selectors", figure, 50, 1.0)?;
        rows.push(Row::new(many, CARACAL, figure, "s", ours).against(peer, reached).below(aim));
    }
    let ours = all.get("selectors", "member", 50, MICROS)?;
    let peer = all.get("selectors-nft", "member", 50, MICROS)?;
    let row = Row::new(many, CARACAL, "one member: p50", "µs", ours);
    rows.push(row.against(NFT, peer).below(10.0));

    for (tuples, aim) in [(1, 11.5), (10, 25.0), (100, 160.0), (1000, 1510.0)] {
        let edit = format!("policy edit of {tuples} tuples");
        let kernel = all.get("edit", &format!("{tuples}.kernel"), 50, MICROS)?;
        rows.push(Row::new(&edit, CARACAL, "kernel: p50", "µs", kernel).below(aim));
        let engine = all.get("edit", &format!("{tuples}.engine"), 50, MICROS)?;
        rows.push(Row::new(&edit, CARACAL, "engine: p50", "µs", engine));
    }

    let parse = all.get("index", "parse-1000", 50, MICROS)? / 1000.0;
    let matching = all.get("index", "match-100000", 50, MICROS)? / 100_000.0 * 1e3;
    rows.push(Row::new("a selector of four terms", CARACAL, "parsed in", "µs", parse));
    rows.push(Row::new("a selector of four terms", CARACAL, "matched in", "ns", matching));
    for (figure, name) in [
        ("parse-allocations", "allocations to parse it"),
        ("match-allocations", "allocations to match it"),
    ] {
        let value = all.get("index", figure, 50, 1.0)?;
        rows.push(Row::new("a selector of four terms", CARACAL, name, "", value));
    }
    let index = "10,000 selectors, 100,000 pods";
    for (figure, name, unit, scale) in [
        ("build", "engine filled in", "ms", MILLIS),
        ("one-pod", "one pod more or less: p50", "µs", MICROS),
        ("one-pod-allocations", "one pod more: allocations", "", 1.0),
        ("engine-MB", "memory", "MB", 1.0),
    ] {
        let value = all.get("index", figure, 50, scale)?;
        rows.push(Row::new(index, CARACAL, name, unit, value));
    }
    rows.extend(packets::rows(&all)?);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_medians_of_the_rounds() {
        let round = |value: f64| -> Round { [("start", json!({ "wall": [value] }))].into() };
        let rounds = [round(0.001), round(0.004), round(0.002)];
        let all = Measured(&rounds);
        assert!((all.get("start", "wall", 50, MILLIS).unwrap() - 2.0).abs() < 1e-9);
        let error = all.get("start", "peak-MB", 50, 1.0).unwrap_err();
        assert!(error.to_string().contains("start: no peak-MB"), "{error}");
        assert!(rows(&rounds).is_err(), "half a comparison is none");
    }
}
