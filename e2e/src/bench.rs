//! `cargo lab bench`: figures, with the tools one would otherwise use measured in the same run.

mod add;
mod agent;
mod bgp;
mod change;
mod ipam;
mod kit;
mod message;
mod notices;
mod policy;
mod raise;
mod route;
mod sender;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use comfy_table::{Table, presets};
use futures::future::BoxFuture;
use serde::Serialize;

use crate::cli::Output;
use crate::progress::{Progress, error_line, print};

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) workload: String,
    /// What did it.
    pub(crate) subject: String,
    /// What was measured: `p50`, `p99`, `rate`, ...
    pub(crate) figure: String,
    pub(crate) unit: String,
    /// The median of the runs.
    pub(crate) value: f64,
    /// With what it is compared.
    pub(crate) peer: Option<String>,
    /// `value` divided by the peer's.
    pub(crate) ratio: Option<f64>,
    /// What it should be, such as `< 3 ms`.
    pub(crate) aim: Option<String>,
    /// Whether it is.
    pub(crate) met: Option<bool>,
}

impl Row {
    /// One figure, compared with nothing yet.
    pub(crate) fn new(workload: &str, subject: &str, figure: &str, unit: &str, value: f64) -> Self {
        Self {
            workload: workload.into(),
            subject: subject.into(),
            figure: figure.into(),
            unit: unit.into(),
            value,
            peer: None,
            ratio: None,
            aim: None,
            met: None,
        }
    }

    /// Beside what `peer` reached in the same run.
    #[must_use]
    pub(crate) fn against(mut self, peer: &str, reached: f64) -> Self {
        self.peer = Some(peer.into());
        self.ratio = Some(self.value / reached);
        self
    }

    /// It should be less.
    #[must_use]
    pub(crate) fn below(mut self, limit: f64) -> Self {
        self.aim = Some(format!("< {limit} {}", self.unit));
        self.met = Some(self.value < limit);
        self
    }

    /// It should be at most so many times what the peer reached, to the hundredth that is printed.
    #[must_use]
    pub(crate) fn at_most_times(mut self, limit: f64) -> Self {
        self.aim = Some(format!("<= {limit} of it"));
        self.met = self.ratio.map(|ratio| (ratio * 100.0).round() <= limit * 100.0);
        self
    }

    /// It should be at least that.
    #[must_use]
    pub(crate) fn at_least(mut self, limit: f64) -> Self {
        self.aim = Some(format!(">= {limit} {}", self.unit));
        self.met = Some(self.value >= limit);
        self
    }
}

/// A benchmark: rows out.
#[derive(Clone, Copy)]
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    pub(crate) body: for<'a> fn(&'a Progress) -> BoxFuture<'a, Result<Vec<Row>>>,
}

/// Every benchmark but [`bgp::BENCHES`], which follow.
const ALL: &[Bench] = &[
    add::BENCH,
    change::BENCH,
    route::BENCH,
    agent::BENCH,
    raise::BENCH,
    ipam::BENCH,
    policy::BENCH,
];

/// Runs the benchmark of that name, else those whose name contains `filter`.
///
/// # Errors
/// When there is none of that name, or one fails: half a comparison is none.
pub(crate) async fn run(filter: &str, output: Output) -> Result<ExitCode> {
    let all = || ALL.iter().chain(&bgp::BENCHES);
    let exact = all().any(|bench| bench.name == filter);
    let wanted = |name: &str| if exact { name == filter } else { name.contains(filter) };
    let chosen: Vec<&Bench> = all().filter(|bench| wanted(bench.name)).collect();
    let names: Vec<&str> = all().map(|bench| bench.name).collect();
    ensure!(!chosen.is_empty(), "no benchmark {filter}; there are: {}", names.join(" "));
    let progress = Progress::shown();
    let mut rows = Vec::new();
    for bench in chosen {
        error_line(&format!("benchmark {}", bench.name));
        rows.extend((bench.body)(&progress).await?);
    }
    match output {
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&rows)?)),
        Output::Table => print(&format!("{}\n", table(&rows))),
    }
    Ok(ExitCode::SUCCESS)
}

/// How often each measurement is made, unless `BENCH_RUNS` says otherwise.
const RUNS: usize = 5;

/// `BENCH_RUNS`: at least one.
///
/// # Errors
/// It is not such a number.
fn runs() -> Result<usize> {
    let Ok(text) = std::env::var("BENCH_RUNS") else { return Ok(RUNS) };
    let runs = text.parse().with_context(|| format!("BENCH_RUNS={text}"))?;
    ensure!(runs > 0, "BENCH_RUNS=0: of nothing there is no median");
    Ok(runs)
}

/// The median; of an even number, the mean of the middle two.
///
/// # Errors
/// Of nothing there is none.
pub(crate) fn median(values: &[f64]) -> Result<f64> {
    ensure!(!values.is_empty(), "nothing was measured");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    Ok(if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    })
}

/// The value that `percent` of the values do not exceed (nearest rank).
///
/// # Errors
/// Of nothing there is none.
pub(crate) fn percentile(values: &[f64], percent: usize) -> Result<f64> {
    ensure!(!values.is_empty(), "nothing was measured");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).clamp(1, sorted.len());
    Ok(sorted[rank - 1])
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["workload", "subject", "figure", "value", "peer", "ratio", "aim", "met"]);
    for row in rows {
        let met = row.met.map(|met| if met { "yes" } else { "no" }.to_owned());
        table.add_row(vec![
            row.workload.clone(),
            row.subject.clone(),
            row.figure.clone(),
            format!("{:.3} {}", row.value, row.unit),
            row.peer.clone().unwrap_or_default(),
            row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            row.aim.clone().unwrap_or_default(),
            met.unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]).unwrap() - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]).unwrap() - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).is_err());
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert!((percentile(&values, 99).unwrap() - 198.0).abs() < f64::EPSILON);
        assert!((percentile(&[7.0], 99).unwrap() - 7.0).abs() < f64::EPSILON);
        assert!(percentile(&[], 50).is_err());
    }

    #[test]
    fn a_row_says_whether_its_aim_is_met() {
        let row = Row::new("w", "s", "p50", "ms", 2.0).against("other", 8.0).below(3.0);
        assert_eq!(
            (row.ratio, row.met, row.aim.as_deref()),
            (Some(0.25), Some(true), Some("< 3 ms"))
        );
        assert_eq!(Row::new("w", "s", "rate", "/s", 2.0).at_least(3.0).met, Some(false));
        let row = Row::new("w", "s", "CPU", "s", 2.0).against("other", 8.0);
        assert_eq!(row.clone().at_most_times(0.25).met, Some(true));
        assert_eq!(row.at_most_times(0.2).met, Some(false));
        assert_eq!(Row::new("w", "s", "CPU", "s", 2.0).at_most_times(0.2).met, None);
    }
}
