//! `cargo lab test`: the workspace's checks, every crate's own tests, then the suites in labs.

mod cargo;
mod libtest;
mod tally;

use std::process::ExitCode;

use anyhow::Result;

pub(crate) use self::tally::{Outcome, Tally};
use crate::suites;

/// Runs every test whose name contains `filter`, or lists their names.
///
/// Names are `check::CHECK`, `CRATE::PATH` as libtest has it, and `e2e::SUITE::TEST`.
///
/// # Errors
/// When the tests could not be run at all. A failed test is not an error but an exit code.
pub(crate) async fn run(filter: &str, list: bool) -> Result<ExitCode> {
    let mut tally = Tally::new(filter, list);
    cargo::checks(&mut tally).await?;
    cargo::tests(&mut tally).await?;
    suites::run(&mut tally).await?;
    Ok(tally.finish())
}
