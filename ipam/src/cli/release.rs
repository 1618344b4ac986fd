//! `ipam release`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use ipam::block::{AddressState, BlockError, Release};
use ipam::model::{self, Handle, IpamConfig};
use ipam::store::{Entry, Outcome as Done, Store, Txn};
use ipam::timestamp::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::check::Allocation;
use super::data::Cluster;
use super::reclaim::Unused;
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

/// How often others may interfere before this gives up.
const ATTEMPTS: usize = 100;

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
        return unused.release(store, now, false, as_json, out).await;
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
    allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    #[serde(default)]
    leaked_handles: Vec<String>,
}

async fn unused(store: &dyn Store, files: &[PathBuf], force: bool) -> anyhow::Result<Unused> {
    let guid = Cluster::load(store).await?.guid;
    let mut unused: Option<Unused> = None;
    for path in files {
        let name = path.display();
        let text = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let report: Report = serde_json::from_slice(&text)
            .with_context(|| format!("{name} is not a report of `ipam check -o json`"))?;
        let Report { cluster_guid, allocations, leaked_handles } = report;
        if cluster_guid != guid && !force {
            bail!("{name}: of cluster {cluster_guid:?}, but this is {guid:?}; --force uses it");
        }
        let all = || allocations.values().flatten();
        if all().any(|one| !one.cooling_down && one.in_use.is_none()) {
            bail!(
                "{name}: does not say what is in use; make it with: ipam check --pods FILE -o json"
            );
        }
        let found = Unused::new(all(), leaked_handles);
        match &mut unused {
            Some(unused) => unused.intersect(&found),
            None => unused = Some(found),
        }
    }
    Ok(unused.unwrap_or_default())
}

async fn release(
    store: &dyn Store,
    ip: IpAddr,
    only: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<Released> {
    let not_assigned = Released { ip, released: false, handle: None };
    for _ in 0..ATTEMPTS {
        let Some(cidr) = block_of(store, ip).await? else { return Ok(not_assigned) };
        let keys = [model::block_key(&cidr), model::CONFIG.to_owned()];
        let read = store.read(&keys).await?;
        let Some(entry) = read.get(&keys[0]) else { continue };
        let mut block = model::decode_block(&entry.key, &entry.value)?;
        let config = match read.get(model::CONFIG) {
            Some(entry) => model::decode(&entry.key, &entry.value)?,
            None => IpamConfig::default(),
        };
        block.expire(now, config.cooldown());
        let handle = match block.state(ip) {
            Some(AddressState::Allocated(attribute, _)) => attribute.handle_id.clone(),
            _ => return Ok(not_assigned),
        };
        block.release_address(ip, only, None, Release::Rest(now))?;
        block.seal();
        let txn = Txn::default()
            .when(keys[0].clone(), entry.mod_revision)
            .put(keys[0].clone(), block.encode());
        let txn = match &handle {
            Some(handle) => {
                let key = model::handle_key(handle);
                let record = store.read(std::slice::from_ref(&key)).await?;
                let left = block.addresses_of(handle).count();
                forget(txn, record.get(&key), cidr, u32::try_from(left)?)?
            }
            None => txn,
        };
        if let Done::Committed(_) = store.txn(txn).await? {
            return Ok(Released { ip, released: true, handle });
        }
        // The owner changed the block meanwhile: look again.
    }
    bail!("gave up on {ip} after {ATTEMPTS} conflicts with its block's owner")
}

/// The network of the block that holds an address.
async fn block_of(store: &dyn Store, ip: IpAddr) -> anyhow::Result<Option<IpNet>> {
    let keys = store.list_keys(model::blocks_of(ipam::Family::of(ip))).await?.keys;
    Ok(keys.iter().filter_map(|key| model::parse_block_key(key)).find(|cidr| cidr.contains(&ip)))
}

/// Adds to a transaction that a handle now holds `left` addresses of a block.
fn forget(txn: Txn, record: Option<&Entry>, cidr: IpNet, left: u32) -> anyhow::Result<Txn> {
    let Some(entry) = record else { return Ok(txn) };
    let mut handle: Handle = model::decode(&entry.key, &entry.value)?;
    if left == 0 {
        handle.block.remove(&cidr);
    } else {
        handle.block.insert(cidr, left);
    }
    let txn = txn.when(entry.key.clone(), entry.mod_revision);
    Ok(match handle.block.is_empty() {
        true => txn.delete(entry.key.clone()),
        false => txn.put(entry.key.clone(), model::encode(&handle)),
    })
}
