//! The end-to-end tests: real packets, real routers, a real control plane.
//!
//! A test is a function that gets a lab. Tests that can share a lab name the same bed; each bed is
//! raised once, its tests run in turn, and it is taken down. A test that breaks its lab has a bed
//! of its own. Two beds are up at the same time, which is what two cores take.

mod beside;
mod drain;
mod drops;
mod explain;
mod fabric;
mod foreign;
mod hosts;
mod kernel;
mod kit;
mod leftovers;
mod names;
mod nogap;
mod outage;
mod policy;
mod reach;
mod restart;
mod services;
mod teardown;
mod wrong;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::cluster::SourceKind;
use crate::control_plane::binaries::{self, Found};
use crate::harness::{Outcome, Tally};
use crate::lab::{IpamKind, Lab, Options, temporary_name};
use crate::progress::{Progress, error_line};
use crate::topology::{Shape, Size};

/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(600);

/// A lab that tests share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bed {
    pub(crate) name: &'static str,
    pub(crate) size: Size,
    pub(crate) source: SourceKind,
    pub(crate) ipam: IpamKind,
}

/// A test's body.
pub(crate) type Body = for<'a> fn(&'a mut Lab) -> BoxFuture<'a, Result<()>>;

/// A test.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    /// `SUITE::TEST`.
    pub(crate) name: &'static str,
    pub(crate) bed: &'static Bed,
    pub(crate) body: Body,
}

const fn racks(nodes: u8, dual_homed: u8) -> Size {
    Size { shape: Shape::Racks, nodes, racks: 2, dual_homed }
}

/// Three nodes in two racks: the lab of `cargo lab up`.
pub(crate) static RACKS: Bed =
    Bed { name: "racks", size: racks(3, 0), source: SourceKind::Kubernetes, ipam: IpamKind::Etcd };
/// The same, for tests that compare what there was with what there is: address blocks that busier
/// tests have filled are given back minutes later.
pub(crate) static CALM: Bed = Bed { name: "calm", ..RACKS };
/// The same, for tests with other programs in a node's netfilter.
pub(crate) static BESIDE: Bed = Bed { name: "beside", size: racks(2, 0), ..RACKS };
/// A node on both ToRs.
pub(crate) static DUAL_HOMED: Bed = Bed { name: "dual", size: racks(3, 1), ..DIRECTORY };
/// The same without Kubernetes.
pub(crate) static DIRECTORY: Bed =
    Bed { name: "files", size: racks(3, 0), source: SourceKind::Directory, ipam: IpamKind::Etcd };
/// iBGP, no router.
pub(crate) static MESH: Bed = Bed {
    name: "mesh",
    size: Size { shape: Shape::Mesh, nodes: 3, racks: 1, dual_homed: 0 },
    ..DIRECTORY
};
/// Neither Kubernetes nor etcd: a machine alone.
pub(crate) static ALONE: Bed = Bed {
    name: "alone",
    size: Size { shape: Shape::Racks, nodes: 1, racks: 1, dual_homed: 0 },
    ipam: IpamKind::Embedded,
    ..DIRECTORY
};
/// Racks, for a test that breaks something for good.
pub(crate) static BREAKABLE: Bed = Bed { name: "broken", ..DIRECTORY };
/// Another one, whose ToR forgets what graceful restart is.
pub(crate) static FORGETFUL: Bed = Bed { name: "forget", ..DIRECTORY };

static BEDS: [&Bed; 9] =
    [&RACKS, &CALM, &BESIDE, &DIRECTORY, &DUAL_HOMED, &MESH, &ALONE, &BREAKABLE, &FORGETFUL];

/// Every test, in the order in which they run on their bed.
pub(crate) fn all() -> Vec<Test> {
    [
        reach::TESTS,
        fabric::TESTS,
        foreign::TESTS,
        drain::TESTS,
        policy::TESTS,
        explain::TESTS,
        drops::TESTS,
        hosts::TESTS,
        names::TESTS,
        nogap::TESTS,
        restart::TESTS,
        wrong::TESTS,
        teardown::TESTS,
        outage::TESTS,
        services::TESTS,
        beside::TESTS,
        leftovers::TESTS,
    ]
    .concat()
}

/// What a bed's tests are told when it cannot be raised.
enum Raised {
    Up(Box<Lab>),
    Impossible(String),
    Failed(String),
}

/// Runs the tests that are asked for.
pub(crate) async fn run(tally: &mut Tally) -> Result<()> {
    let wanted: Vec<(String, Test)> = all()
        .into_iter()
        .map(|test| (format!("e2e::{}", test.name), test))
        .filter(|(name, _)| tally.wants(name))
        .collect();
    let on = |bed: &'static Bed| -> Vec<(String, Test)> {
        wanted.iter().filter(|(_, test)| std::ptr::eq(test.bed, bed)).cloned().collect()
    };
    let runs = BEDS.into_iter().map(|bed| (bed, on(bed))).filter(|(_, tests)| !tests.is_empty());
    let runs = runs.map(|(bed, tests)| run_bed(bed, tests));
    let mut results = futures::StreamExt::buffered(futures::stream::iter(runs), 2);
    while let Some(outcomes) = futures::StreamExt::next(&mut results).await {
        for (name, took, outcome) in outcomes {
            tally.add(&name, Some(took), outcome);
        }
    }
    Ok(())
}

type Results = Vec<(String, Duration, Outcome)>;

/// Runs a bed's tests; after one that failed the rest get a fresh lab.
async fn run_bed(bed: &'static Bed, mut tests: Vec<(String, Test)>) -> Results {
    let mut results = Vec::new();
    while !tests.is_empty() {
        let mut some = run_until_failure(bed, &tests).await;
        let done = |name: &String| some.iter().any(|(done, ..)| done == name);
        tests.retain(|(name, _)| !done(name));
        results.append(&mut some);
    }
    results
}

/// Raises a lab and runs tests in it until one fails or all are done.
async fn run_until_failure(bed: &'static Bed, tests: &[(String, Test)]) -> Results {
    let start = Instant::now();
    error_line(&format!("raising lab {} for {} tests", bed.name, tests.len()));
    let mut lab = match raise(bed).await {
        Raised::Up(lab) => lab,
        Raised::Impossible(why) => {
            let skipped = |(name, _): &(String, Test)| {
                (name.clone(), Duration::ZERO, Outcome::Skipped(why.clone()))
            };
            return tests.iter().map(skipped).collect();
        }
        Raised::Failed(why) => {
            let failed = |(name, _): &(String, Test)| {
                (name.clone(), start.elapsed(), Outcome::Failed(why.clone()))
            };
            return tests.iter().map(failed).collect();
        }
    };
    let mut outcomes = Vec::new();
    for (name, test) in tests {
        let start = Instant::now();
        let body = AssertUnwindSafe((test.body)(&mut lab)).catch_unwind();
        let outcome = match tokio::time::timeout(LIMIT, body).await {
            Ok(Ok(Ok(()))) => Outcome::Passed,
            Ok(Ok(Err(error))) => failed(&format!("{error:#}"), &lab),
            Ok(Err(panic)) => failed(&panic_text(panic.as_ref()), &lab),
            Err(_) => failed(&format!("not done within {} s", LIMIT.as_secs()), &lab),
        };
        let broken = outcome != Outcome::Passed;
        outcomes.push((name.clone(), start.elapsed(), outcome));
        if broken {
            // What it left half done must not fail the next.
            break;
        }
    }
    let start = Instant::now();
    if let Err(error) = lab.down().await {
        let name = format!("e2e::down::{}", bed.name);
        outcomes.push((name, start.elapsed(), Outcome::Failed(format!("{error:#}"))));
    }
    outcomes
}

async fn raise(bed: &'static Bed) -> Raised {
    if bed.source == SourceKind::Kubernetes {
        match binaries::find() {
            Ok(Found::Nowhere(why)) => return Raised::Impossible(why),
            Err(error) => return Raised::Failed(format!("{error:#}")),
            Ok(_) => {}
        }
    }
    let options = Options {
        // Beside a lab that a person has up, and beside other tests.
        name: temporary_name(bed.name),
        size: bed.size,
        pods: 0,
        source: Some(bed.source),
        ipam: bed.ipam,
        agents: true,
    };
    match Lab::up(&options, &Progress::hidden()).await {
        Ok(lab) => Raised::Up(Box::new(lab)),
        Err(error) => Raised::Failed(format!("the lab {} did not come up: {error:#}", bed.name)),
    }
}

fn failed(why: &str, lab: &Lab) -> Outcome {
    Outcome::Failed(format!("{why}\n\n{}", lab.diagnostics()))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_test_has_a_name_of_its_own_and_a_bed_that_is_raised() {
        let names: BTreeSet<_> = all().iter().map(|test| test.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(all().iter().all(|test| BEDS.iter().any(|bed| std::ptr::eq(*bed, test.bed))));
        let beds: BTreeSet<_> = BEDS.iter().map(|bed| bed.name).collect();
        assert_eq!(beds.len(), BEDS.len());
    }
}
