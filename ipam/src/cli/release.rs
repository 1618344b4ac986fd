//! `ipam release`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use ipam::block::{AddressState, BlockError, Release};
use ipam::store::{Revision, Store};
use ipam::timestamp::Timestamp;
use ipam::{Family, model};
use serde::{Deserialize, Serialize};

use super::check::Allocation;
use super::data::Cluster;
use super::holdings::{ATTEMPTS, Holdings};
use super::live::Live;
use super::reclaim::{How, Seen, Unused};
use super::{Outcome, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The address. Make sure that nothing uses it.
    #[arg(long, value_name = "IP", required_unless_present = "from_report")]
    ip: Option<IpAddr>,
    /// Release it only if this handle holds it.
    #[arg(long, requires = "ip")]
    handle: Option<String>,
    /// Release what a report says is not in use: the output of `check --pods FILE -o json`. With
    /// several reports, what all of them say. May be repeated.
    #[arg(long, value_name = "FILE", conflicts_with = "ip")]
    from_report: Vec<PathBuf>,
    /// Use a report of another cluster (by its clusterGUID).
    #[arg(long, requires = "from_report")]
    force: bool,
}

#[derive(Serialize)]
struct Released {
    ip: IpAddr,
    released: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<String>,
}

pub(crate) async fn run(
    store: &dyn Store,
    options: &Options,
    now: Timestamp,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let Options { ip, handle, from_report, force } = options;
    let Some(ip) = ip else {
        let unused = unused(store, from_report, *force).await?;
        let families: BTreeSet<Family> = unused.addresses().map(Family::of).collect();
        let mut known = Holdings::list(store, now, families).await?;
        let how = How { dry_run: false, grace: Live::GRACE, now };
        return unused.release(&mut known, how, as_json, out).await;
    };
    let released = match release(store, *ip, handle.as_deref(), now).await {
        Ok(released) => released,
        Err(error) if error.is::<BlockError>() && !as_json => {
            writeln!(out, "Not released: {error}")?;
            return Ok(Outcome::Found);
        }
        Err(error) => return Err(error),
    };
    let found = if released.released { Outcome::Well } else { Outcome::Found };
    if as_json {
        json(out, &released)?;
    } else if released.released {
        writeln!(out, "Successfully released IP address {ip}")?;
    } else {
        writeln!(out, "{ip} is not assigned")?;
    }
    Ok(found)
}

/// The part of a report that counts here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    #[serde(default, rename = "clusterGUID")]
    cluster_guid: String,
    #[serde(default)]
    revision: Revision,
    allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    #[serde(default)]
    leaked_handles: Vec<String>,
}

async fn unused(store: &dyn Store, files: &[PathBuf], force: bool) -> anyhow::Result<Unused> {
    let guid = Cluster::load(store).await?.guid;
    let mut unused: Option<Unused> = None;
    for path in files {
        let name = path.display();
        // Not earlier than that it was made; and before it is read, for it may be written again.
        let written = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        let at = Timestamp::from(written.with_context(|| format!("cannot read {name}"))?);
        let text = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let report: Report = serde_json::from_slice(&text)
            .with_context(|| format!("{name} is not a report of `ipam check -o json`"))?;
        let Report { cluster_guid, revision, allocations, leaked_handles } = report;
        if cluster_guid != guid && !force {
            bail!("{name}: of cluster {cluster_guid:?}, but this is {guid:?}; --force uses it");
        }
        let all = || allocations.values().flatten();
        if all().any(|one| !one.cooling_down && one.in_use.is_none()) {
            bail!(
                "{name}: does not say what is in use; make it with: ipam check --pods FILE -o json"
            );
        }
        let found = Unused::new(all(), leaked_handles, Seen { revision, at });
        match &mut unused {
            Some(unused) => unused.intersect(&found),
            None => unused = Some(found),
        }
    }
    unused.context("--from-report: needs a file")
}

async fn release(
    store: &dyn Store,
    ip: IpAddr,
    only: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<Released> {
    let not_assigned = Released { ip, released: false, handle: None };
    let mut known = Holdings::list(store, now, [Family::of(ip)]).await?;
    for _ in 0..ATTEMPTS {
        let Some(cidr) = known.blocks_of(ip).next() else { return Ok(not_assigned) };
        known.read([model::block_key(&cidr), model::CONFIG.to_owned()]).await?;
        let Some(mut block) = known.block(&cidr)? else { return Ok(not_assigned) };
        let handle = match block.state(ip) {
            Some(AddressState::Allocated(attribute, _)) => attribute.handle_id.clone(),
            _ => return Ok(not_assigned),
        };
        block.release_address(ip, only, None, Release::Rest(now))?;
        known.read(handle.as_deref().map(model::handle_key)).await?;
        let txn = known.release(handle.as_deref(), [(cidr, block)].into());
        if known.commit(txn.map_err(anyhow::Error::msg)?).await? {
            return Ok(Released { ip, released: true, handle });
        }
        // The owner changed the block meanwhile.
    }
    bail!("gave up on {ip} after {ATTEMPTS} conflicts with its block's owner")
}
