//! Namespaces, links between them, and daemons in them.
//!
//! ```text
//!   let lab = Lab::new();                       a folder; namespaces without a name
//!   let (us, frr) = (lab.node("us"), lab.node("frr"));
//!   let link = lab.link(&us, &frr);             10.0.1.1 and .2, fd00:1::1 and ::2, fe80::1:1 and ::2
//!   let frr = Frr::start(&frr, "router bgp ...");
//!   let us = Daemon::start(&us, "router-id: ...");
//!   us.established("frr");                      waits, and says why if it does not come
//! ```
//!
//! Nothing is shared between tests. Processes die with the thread that started them at the latest,
//! a namespace with its last process and handle, the folder with the [`Lab`]. When a test panics,
//! the ends of all logs are printed.

mod bird;
mod daemon;
mod embedded;
mod frr;
mod gobgp;
mod netns;
pub(crate) mod pair;
mod process;
pub(crate) mod script;

use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) use bird::Bird;
pub(crate) use daemon::Daemon;
pub(crate) use embedded::Embedded;
pub(crate) use frr::{Frr, With};
pub(crate) use gobgp::Gobgp;
pub(crate) use netns::{End, Lab, Link, Node};
pub(crate) use pair::Pair;
pub(crate) use process::Process;
pub(crate) use script::{Routes, Script, Speaker};

/// What is usual in tests: either an answer, or why there is none yet.
pub(crate) type Result<T> = anyhow::Result<T>;

/// The longest that anything usual may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until there is an answer, and returns it.
///
/// # Panics
/// With `what` and the last reason, when `limit` has passed without one.
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(answer) => return answer,
            Err(reason) if Instant::now() > end => {
                panic!("not within {limit:?}: {what}: {reason:#}")
            }
            Err(_) => sleep(PAUSE),
        }
    }
}

/// Looks for as long as `span`, and returns when it always was so.
///
/// # Panics
/// With `what` and the reason, as soon as it is not so.
pub(crate) fn throughout(what: &str, span: Duration, mut look: impl FnMut() -> Result<()>) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if let Err(reason) = look() {
            panic!("no longer: {what}: {reason:#}");
        }
        sleep(PAUSE);
    }
}
