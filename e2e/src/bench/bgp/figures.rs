//! From the load generator's answers to rows.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::subject::Subject;
use super::workload::{Aim, Figure, Phase, Workload};
use crate::bench::{Row, median, percentile};

/// All runs of one subject.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) subject: Subject,
    pub(super) answers: Vec<Value>,
}

/// The medians, phase by phase: ours with their aims, and all of full size beside BIRD's.
pub(super) fn rows(workload: &Workload, measured: &[Measured]) -> Result<Vec<Row>> {
    let bird = measured.iter().find(|one| one.subject == Subject::Bird);
    let mut rows = Vec::new();
    for phase in workload.phases {
        for one in measured {
            let beside = bird.filter(|bird| {
                one.subject != bird.subject && workload.fewer(one.subject).is_none()
            });
            let subject = title(workload, one);
            for figure in figures(phase, one) {
                let Some(value) = one.median(phase, figure)? else { continue };
                let name = figure_title(figure, &one.answers);
                let mut row = Row::new(phase.title, &subject, &name, figure.unit(), value);
                // What the generator took says how far it is from being what is measured.
                if let Some(bird) = beside.filter(|_| figure != Figure::GeneratorCpu)
                    && let Some(reached) = bird.median(phase, figure)?
                {
                    row = row.against(bird.subject.title(), reached);
                }
                let aim = phase.aims.iter().find(|aim| aim.0 == figure).map(|aim| aim.1);
                rows.push(match aim.filter(|_| one.subject == Subject::Bgpd) {
                    Some(Aim::TimesBird(limit)) => row.at_most_times(limit),
                    Some(Aim::Below(limit)) => row.below(limit),
                    None => row,
                });
            }
        }
    }
    Ok(rows)
}

/// Who, how often, and how much less than the others.
fn title(workload: &Workload, one: &Measured) -> String {
    let runs = one.answers.len();
    let plural = if runs == 1 { "" } else { "s" };
    let fewer = workload.fewer(one.subject).map(|fewer| format!(", {}", fewer.title));
    format!("{}, {runs} run{plural}{}", one.subject.title(), fewer.unwrap_or_default())
}

/// Of sessions that did not all come up the time says only when that was given up.
fn figure_title(figure: Figure, answers: &[Value]) -> String {
    let up = answers.iter().filter_map(|answer| Some((&answer["up"], answer["up"].as_u64()?)));
    let fewest = up.map(|(_, count)| count).min();
    let peers = answers.first().and_then(|answer| answer["peers"].as_u64());
    match (figure, fewest, peers) {
        (Figure::Wall, Some(up), Some(peers)) if up < peers => {
            format!("wall, given up with {up} of {peers} up")
        }
        _ => figure.title().to_owned(),
    }
}

/// Those that the answers have.
fn figures(phase: &Phase, one: &Measured) -> Vec<Figure> {
    use Figure::{BytesPerRoute, Cpu, GeneratorCpu, P50, P99, Wall};
    let all = [Wall, Cpu, BytesPerRoute, P50, P99, GeneratorCpu];
    let has = |figure: &Figure| one.answers.iter().any(|a| of(a, phase, *figure).is_some());
    all.into_iter().filter(has).collect()
}

impl Measured {
    /// The median of the runs; None if they have no such figure.
    fn median(&self, phase: &Phase, figure: Figure) -> Result<Option<f64>> {
        let values: Option<Vec<f64>> =
            self.answers.iter().map(|answer| of(answer, phase, figure)).collect();
        let what = || format!("{}, {}", phase.name, figure.title());
        values.map(|values| median(&values).with_context(what)).transpose()
    }
}

/// A figure of one run.
fn of(answer: &Value, phase: &Phase, figure: Figure) -> Option<f64> {
    let clocks = || answer["phases"].as_array()?.iter().find(|part| part["name"] == phase.name);
    let probes = |percent| {
        let times: Option<Vec<f64>> =
            answer["probes_s"].as_array()?.iter().map(Value::as_f64).collect();
        percentile(&times?, percent).ok().map(|seconds| seconds * 1e3)
    };
    match figure {
        Figure::Wall => clocks()?["wall_s"].as_f64(),
        Figure::Cpu => clocks()?["cpu_s"].as_f64(),
        Figure::GeneratorCpu => clocks()?["generator_cpu_s"].as_f64(),
        Figure::BytesPerRoute => answer["bytes_per_route"].as_f64(),
        Figure::P50 => probes(50),
        Figure::P99 => probes(99),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::workload;
    use super::*;

    fn measured(subject: Subject, cpu: &[f64]) -> Measured {
        let answer = |cpu: &f64| {
            json!({ "bytes_per_route": 70, "phases": [
                { "name": "announce", "wall_s": 2.0, "cpu_s": cpu, "generator_cpu_s": 0.1 },
            ] })
        };
        Measured { subject, answers: cpu.iter().map(answer).collect() }
    }

    #[test]
    fn ours_stands_beside_bird_with_its_aims() {
        let all = [
            measured(Subject::Bgpd, &[0.1, 0.3, 0.2]),
            measured(Subject::Bird, &[0.4]),
            measured(Subject::Gobgp, &[9.0]),
        ];
        let rows = rows(&workload::ONE, &all).unwrap();
        let row = |subject: &str, figure: &str| {
            let mut found = rows.iter().filter(|r| r.subject == subject && r.figure == figure);
            found.next().unwrap().clone()
        };
        let ours = row("caracal, 3 runs", "CPU");
        assert!((ours.value - 0.2).abs() < 1e-9 && (ours.ratio.unwrap() - 0.5).abs() < 1e-9);
        assert_eq!((ours.aim.as_deref(), ours.met), (Some("<= 0.7 of it"), Some(true)));
        assert_eq!(row("caracal, 3 runs", "memory per route").met, Some(false));
        assert_eq!(row("caracal, 3 runs", "generator's CPU").ratio, None);
        assert_eq!(row("BIRD 2, 1 run", "CPU").ratio, None);
        // Of another size, so nothing to compare.
        assert_eq!(row("GoBGP, 1 run, 50,000 routes only", "CPU").ratio, None);
    }

    #[test]
    fn latencies_are_percentiles_in_milliseconds() {
        let times: Vec<f64> = (1..=300).map(|n| f64::from(n) / 1e6).collect();
        let probes = Measured {
            subject: Subject::Frr,
            answers: vec![json!({ "phases": [], "probes_s": times })],
        };
        let rows = rows(&workload::PROBE, &[probes]).unwrap();
        let values: Vec<(&str, f64)> = rows.iter().map(|r| (r.figure.as_str(), r.value)).collect();
        assert_eq!(values.len(), 2);
        assert!((values[0].1 - 0.15).abs() < 1e-9 && (values[1].1 - 0.297).abs() < 1e-9);
    }

    #[test]
    fn a_herd_that_is_not_all_up_says_so() {
        let clocks = json!({ "name": "up", "wall_s": 30.0, "cpu_s": 1, "generator_cpu_s": 1 });
        let answer = json!({ "peers": 200, "up": 190, "phases": [clocks] });
        let bird = Measured { subject: Subject::Bird, answers: vec![answer] };
        let rows = rows(&workload::HERD, &[bird]).unwrap();
        assert_eq!(rows[0].figure, "wall, given up with 190 of 200 up");
        assert_eq!(rows[1].figure, "CPU");
    }
}
