//! `ipam gc`.

use std::io::Write;

use anyhow::ensure;
use ipam::store::Store;
use ipam::timestamp::Timestamp;

use super::Outcome;
use super::check::{self, Evidence};
use super::data::Data;
use super::holdings::Holdings;
use super::reclaim::{How, Seen, Unused};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Say what would be released, and release nothing. Exits with 1 if there is anything.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    evidence: Evidence,
}

pub(crate) async fn run(
    store: &dyn Store,
    data: &Data,
    options: &Options,
    now: Timestamp,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let Options { dry_run, evidence } = options;
    ensure!(
        evidence.pods.is_some(),
        "--pods: needed to know what is in use; make the file with: kubectl get \
         pods,nodes,namespaces -A -o yaml"
    );
    let report = check::examine(data, evidence, now)?;
    let seen = Seen { revision: data.revision, at: now };
    let unused = Unused::new(report.allocations.values().flatten(), report.leaked_handles, seen);
    // What is created from now on is in the handles' records, which are compared.
    let mut known = Holdings::new(store, now, data.blocks.keys().copied());
    let how = How { dry_run: *dry_run, grace: evidence.grace(), now };
    unused.release(&mut known, how, as_json, out).await
}
