//! Many seeds on all cores, and how to run the one again that fails.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs a test, which this closure is all of, with each of these seeds; `BGPD_SEEDS=100..2000` runs
/// others in their place, `BGPD_SEEDS=17` one. Fails with the command that runs the seed again which
/// failed.
///
/// Tens of thousands are for an optimised build, which takes three times as long to make and a seventh
/// of the time to run: `cargo --config profile.dev.package.bgpd.opt-level=1 test -p bgpd --lib storm`.
pub(super) fn each<F: Fn(u64) + Sync>(default: Range<u64>, run: F) {
    each_of(wanted(default), run);
}

/// The seeds that a test is to run.
pub(super) fn wanted(default: Range<u64>) -> Range<u64> {
    std::env::var("BGPD_SEEDS").map_or(default, |given| parse(&given))
}

fn each_of<F: Fn(u64) + Sync>(seeds: Range<u64>, run: F) {
    let next = AtomicU64::new(seeds.start);
    let failed: Mutex<Option<u64>> = Mutex::new(None);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.lock().unwrap().is_some() {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| run(seed))).is_err() {
                failed.lock().unwrap().get_or_insert(seed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failed = *failed.lock().unwrap();
    if let Some(seed) = failed {
        panic!("a seed failed; replay: {}", command(seed, std::any::type_name::<F>()));
    }
}

fn parse(given: &str) -> Range<u64> {
    match given.split_once("..") {
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
        None => given.parse().unwrap()..given.parse::<u64>().unwrap() + 1,
    }
}

/// The name of a closure ends in that of the function that it stands in.
fn command(seed: u64, closure: &str) -> String {
    let mut path = closure.rsplit("::").skip_while(|part| part.starts_with('{'));
    let test = path.next().unwrap_or_default();
    format!("BGPD_SEEDS={seed} cargo test -p bgpd --lib {test}")
}

#[test]
fn a_failing_seed_says_how_to_run_it_again() {
    let run = |seed| assert!(seed != 3, "as planted");
    let failure = catch_unwind(|| each_of(0..8, run)).unwrap_err();
    let test = "a_failing_seed_says_how_to_run_it_again";
    let wanted = format!("replay: BGPD_SEEDS=3 cargo test -p bgpd --lib {test}");
    assert!(failure.downcast_ref::<String>().unwrap().ends_with(&wanted), "{failure:?}");
    assert_eq!((parse("17"), parse("100..2000")), (17..18, 100..2000));
}
