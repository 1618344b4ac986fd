//! `ipam split`.

use std::io::Write;

use anyhow::{Context, bail, ensure};
use ipam::store::{Entry, Outcome as Done, Store, Txn};
use ipam::timestamp::Timestamp;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use super::data::{Cluster, POOLS};
use super::{Outcome, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Into how many: a power of two, at most 64.
    number: u8,
    /// The pool, by its network.
    #[arg(long, required_unless_present = "name", conflicts_with = "name")]
    cidr: Option<IpNet>,
    /// The pool, by its name.
    #[arg(long)]
    name: Option<String>,
    /// Also while the datastore is not locked. The change is one transaction all the same.
    #[arg(long)]
    force: bool,
}

/// One of the new pools.
#[derive(Serialize)]
struct Part {
    name: String,
    cidr: IpNet,
}

pub(crate) async fn run(
    store: &dyn Store,
    options: &Options,
    now: Timestamp,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let Options { number, cidr, name, force } = options;
    ensure!(
        number.is_power_of_two() && (2..=64).contains(number),
        "{number} is not a power of two from 2 to 64"
    );
    ensure!(
        *force || Cluster::load(store).await?.locked,
        "the datastore is not locked: run `calicoctl datastore migrate lock`, or use --force"
    );
    let pools = store.list(POOLS, None).await?;
    let named = |entry: &&Entry| match name {
        Some(name) => entry.key.strip_prefix(POOLS) == Some(name),
        None => read(entry).is_ok_and(|(_, net)| Some(net) == *cidr),
    };
    let Some(entry) = pools.entries.iter().find(named) else {
        bail!(
            "no IPPool {} in {}; pools that are Kubernetes' are split there",
            name.clone().or(cidr.map(|net| net.to_string())).unwrap_or_default(),
            store.name()
        );
    };
    let (pool, net) = read(entry)?;
    let old = entry.key.strip_prefix(POOLS).unwrap_or_default();
    let length = net.prefix_len() + u8::try_from(number.trailing_zeros())?;
    let block = pool.pointer("/spec/blockSize").and_then(Value::as_u64);
    let block =
        block.filter(|size| *size > 0).unwrap_or(if net.addr().is_ipv4() { 26 } else { 122 });
    ensure!(
        u64::from(length) <= block,
        "IPPool {old}: {net} in {number} parts would be /{length}, smaller than its blocks (/{block})"
    );
    let mut txn = Txn::default().when(entry.key.clone(), entry.mod_revision);
    let mut parts = Vec::new();
    for (n, cidr) in net.subnets(length)?.enumerate() {
        let name = format!("split-{old}-{n}");
        let mut part = pool.clone();
        part["spec"]["cidr"] = cidr.to_string().into();
        part["metadata"] = serde_json::json!({
            "name": name,
            "uid": uid(),
            "creationTimestamp": now.whole_seconds().to_string(),
        });
        let key = format!("{POOLS}{name}");
        txn = txn.when(key.clone(), 0).put(key, serde_json::to_vec(&part)?);
        parts.push(Part { name, cidr });
    }
    txn = txn.delete(entry.key.clone());
    if let Done::Conflict(_) = store.txn(txn).await? {
        bail!("IPPool {old} changed just now, or a pool split-{old}-N exists; nothing was done");
    }
    if as_json {
        json(out, &parts)?;
    } else {
        for Part { name, cidr } in &parts {
            writeln!(out, "Created pool {name} with {cidr}")?;
        }
        writeln!(out, "Successfully split pool {old} into {number} parts")?;
    }
    Ok(Outcome::Well)
}

/// A pool's object and its network.
fn read(entry: &Entry) -> anyhow::Result<(Value, IpNet)> {
    let pool: Value =
        serde_json::from_slice(&entry.value).with_context(|| format!("{}: not JSON", entry.key))?;
    let cidr = pool.pointer("/spec/cidr").and_then(Value::as_str).unwrap_or_default();
    let net: IpNet = cidr.parse().with_context(|| format!("{}: spec.cidr: {cidr:?}", entry.key))?;
    Ok((pool, net.trunc()))
}

/// A random UUID (RFC 9562, version 4).
fn uid() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_uid_says_its_version() {
        let uid = super::uid();
        let parts: Vec<_> = uid.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{uid}");
    }
}
