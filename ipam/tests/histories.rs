//! A model checker: random histories of a small cluster with the real allocator on the store of
//! tests. Pods come and go; agents restart, and die before or after any of their transactions;
//! machines lose power, are installed anew under their old name, and meet their doubles; links are
//! cut; requests and replies are lost, or arrive long after their sender gave up; callers give up;
//! Kubernetes deletes nodes and makes them again, others give back what they held, and successors
//! take it over; pools change; nodes answer from logs of their own, and learn of strictAffinity at
//! times of their own; time passes. Whatever happens, no two living pods have one address, and one
//! collection later nothing is lost.
//!
//! `IPAM_MODEL_SEEDS` is how many histories (40 unless told), `IPAM_MODEL_FROM` the first seed,
//! `IPAM_MODEL_STEPS` how many steps each has (120). A history is replayed by its seed, as the failure
//! says. The scheduler and the clock of each history are its own, so that it takes the same course
//! again but for what depends on how fast the machine is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

mod common;
#[path = "histories/world.rs"]
mod world;

use common::link::Forgotten;
use world::World;

/// How many histories run at once, each on a thread of its own: they wait most of their time.
const AT_ONCE: usize = 40;

/// What became of a history: how many steps it had, or why it ended early. It ends also when it is
/// `over`, because another one failed.
fn run(
    seed: u64,
    steps: u64,
    forgotten: Option<Forgotten>,
    over: impl Fn() -> bool,
) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut world = runtime.block_on(async { World::new(seed, forgotten) });
    let course = AssertUnwindSafe(|| {
        runtime.block_on(async {
            for _ in 0..steps {
                if over() {
                    return;
                }
                world.step().await;
                world.check().await;
            }
            world.settle().await;
        });
    });
    // The panic's text is on standard error; here it is for the summary.
    let end = std::panic::catch_unwind(course);
    end.map(|()| steps).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("{}\n{:#?}", text.unwrap_or_default(), world.history())
    })
}

/// Runs these seeds until one fails.
fn explore(
    seeds: std::ops::Range<u64>,
    steps: u64,
    forgotten: Option<Forgotten>,
) -> Result<u64, (u64, String)> {
    let next = Arc::new(AtomicU64::new(seeds.start));
    let failed = Arc::new(Mutex::new(None));
    let threads: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let (next, failed, end) = (next.clone(), failed.clone(), seeds.end);
            std::thread::spawn(move || {
                let mut done = 0;
                let over = || failed.lock().unwrap().is_some();
                while !over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match run(seed, steps, forgotten, over) {
                        Ok(steps) => done += steps,
                        Err(why) => drop(failed.lock().unwrap().get_or_insert((seed, why))),
                    }
                }
                done
            })
        })
        .collect();
    let done = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let failed = failed.lock().unwrap().take();
    failed.map_or(Ok(done), Err)
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

#[test]
fn no_history_gives_an_address_twice_or_loses_one() {
    let (from, seeds) = (setting("IPAM_MODEL_FROM", 0), setting("IPAM_MODEL_SEEDS", 40));
    let steps = setting("IPAM_MODEL_STEPS", 120);
    let start = std::time::Instant::now();
    match explore(from..from + seeds, steps, None) {
        Ok(done) => eprintln!("{seeds} histories, {done} steps in {:.1?}", start.elapsed()),
        Err((seed, why)) => panic!(
            "{why}\nseed {seed} failed; again: IPAM_MODEL_FROM={seed} IPAM_MODEL_SEEDS=1 \
             IPAM_MODEL_STEPS={steps} cargo test -p ipam --test histories no_history"
        ),
    }
}

/// A positive control: what goes wrong where a comparison is missing is seen.
#[test]
fn a_store_that_forgets_a_comparison_is_caught() {
    for forgotten in [Forgotten::Blocks, Forgotten::Creations, Forgotten::Marks] {
        let caught = explore(0..400, 120, Some(forgotten));
        let (_, why) = caught.expect_err("a history should have gone wrong");
        let why = why.lines().find(|line| line.starts_with("assertion")).unwrap_or_default();
        let seen = [
            "too",
            "is free",
            "is lost",
            "overlaps",
            "in two blocks",
            "handles and",
            "affinities and",
        ];
        assert!(seen.iter().any(|seen| why.contains(seen)), "{forgotten:?}: {why}");
    }
}
