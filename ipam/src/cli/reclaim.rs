//! Releasing what nobody uses: all addresses of a handle or none, in one transaction, which rests
//! on each of them still being the very allocation that was found unused.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;

use anyhow::bail;
use ipam::IpamConfig;
use ipam::block::{AddressState, Block, Release};
use ipam::model::{self, Handle};
use ipam::store::{MAX_TXN_OPS, Outcome as Done, Revision, Store, Txn};
use ipam::timestamp::Timestamp;
use ipnet::IpNet;
use serde::Serialize;

use super::check::Allocation;
use super::{Outcome, json};

/// How often others may interfere with one handle before this gives up.
const ATTEMPTS: usize = 100;

/// What is to go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unused {
    /// By handle; allocations without one are each of their own.
    groups: Vec<Group>,
    /// Handles without an address.
    handles: BTreeSet<String>,
}

/// The allocations of a handle, with their sequence numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    handle: Option<String>,
    addresses: BTreeMap<IpAddr, Option<u64>>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reclaimed {
    dry_run: bool,
    released: Vec<IpAddr>,
    deleted_handles: Vec<String>,
    kept: Vec<Kept>,
}

#[derive(Debug, Serialize)]
struct Kept {
    handle: String,
    ips: Vec<IpAddr>,
    reason: String,
}

impl Unused {
    /// What a report says is not in use.
    pub(super) fn new<'a>(
        allocations: impl Iterator<Item = &'a Allocation>,
        leaked: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut by_handle: BTreeMap<String, BTreeMap<IpAddr, Option<u64>>> = BTreeMap::new();
        let mut groups = Vec::new();
        let unused = allocations.filter(|one| one.in_use == Some(false) && !one.cooling_down);
        for Allocation { ip, handle, sequence_number, .. } in unused {
            if handle.is_empty() {
                let addresses = BTreeMap::from([(*ip, *sequence_number)]);
                groups.push(Group { handle: None, addresses });
            } else {
                by_handle.entry(handle.clone()).or_default().insert(*ip, *sequence_number);
            }
        }
        let handles = by_handle
            .into_iter()
            .map(|(handle, addresses)| Group { handle: Some(handle), addresses });
        groups.extend(handles);
        Self { groups, handles: leaked.into_iter().collect() }
    }

    /// What both found.
    pub(super) fn intersect(&mut self, other: &Self) {
        self.groups.retain(|group| other.groups.contains(group));
        self.handles.retain(|handle| other.handles.contains(handle));
    }

    /// Releases it, if it is still what it was; says what else became of it.
    pub(super) async fn release(
        self,
        store: &dyn Store,
        now: Timestamp,
        dry_run: bool,
        as_json: bool,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let mut done = Reclaimed { dry_run, ..Reclaimed::default() };
        let count: usize = self.groups.iter().map(|group| group.addresses.len()).sum();
        if !as_json {
            let verb = if dry_run { "Would release" } else { "Releasing" };
            writeln!(out, "{verb} {count} old IPs...")?;
        }
        for group in self.groups {
            let ips: Vec<IpAddr> = group.addresses.keys().copied().collect();
            if dry_run {
                done.released.extend(ips);
                continue;
            }
            match group.release(store, now).await? {
                Ok(()) => done.released.extend(ips),
                Err(reason) => {
                    done.kept.push(Kept { handle: group.handle.unwrap_or_default(), ips, reason });
                }
            }
        }
        for handle in self.handles {
            let deleted = if dry_run { Ok(()) } else { forget(store, &handle).await? };
            match deleted {
                Ok(()) => done.deleted_handles.push(handle),
                Err(reason) => done.kept.push(Kept { handle, ips: Vec::new(), reason }),
            }
        }
        let found = !done.kept.is_empty() || (dry_run && !done.is_empty());
        if as_json {
            json(out, &done)?;
        } else {
            done.print(out)?;
        }
        Ok(if found { Outcome::Found } else { Outcome::Well })
    }
}

impl Reclaimed {
    fn is_empty(&self) -> bool {
        self.released.is_empty() && self.deleted_handles.is_empty()
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        if self.dry_run {
            for ip in &self.released {
                writeln!(out, "  {ip}")?;
            }
            for handle in &self.deleted_handles {
                writeln!(out, "Would delete handle {handle}")?;
            }
            return Ok(());
        }
        writeln!(out, "Released {} IPs successfully", self.released.len())?;
        writeln!(out, "Deleted {} handles", self.deleted_handles.len())?;
        for Kept { handle, ips, reason } in &self.kept {
            let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
            writeln!(out, "Not released: {handle} {}: {reason}", ips.join(" "))?;
        }
        Ok(())
    }
}

impl Group {
    /// Ok(Err) says why the handle keeps its addresses.
    async fn release(
        &self,
        store: &dyn Store,
        now: Timestamp,
    ) -> anyhow::Result<Result<(), String>> {
        for _ in 0..ATTEMPTS {
            let seen =
                match Seen::load(store, self.handle.as_deref(), self.nets(store).await?).await? {
                    Ok(seen) => seen,
                    Err(reason) => return Ok(Err(reason)),
                };
            let txn = match self.transaction(seen, now) {
                Ok(txn) => txn,
                Err(reason) => return Ok(Err(reason)),
            };
            if let Done::Committed(_) = store.txn(txn).await? {
                return Ok(Ok(()));
            }
            // Somebody changed one of the blocks meanwhile: look again.
        }
        bail!("gave up on {self:?} after {ATTEMPTS} conflicts with the owners of its blocks")
    }

    /// The blocks that hold the addresses.
    async fn nets(&self, store: &dyn Store) -> anyhow::Result<BTreeSet<IpNet>> {
        let keys = store.list_keys(model::BLOCKS).await?.keys;
        let nets = keys.iter().filter_map(|key| model::parse_block_key(key));
        Ok(nets.filter(|net| self.addresses.keys().any(|ip| net.contains(ip))).collect())
    }

    /// Everything is compared with what was seen; Err if that is not what was found unused.
    fn transaction(&self, seen: Seen, now: Timestamp) -> Result<Txn, String> {
        let Seen { mut blocks, record, cooldown } = seen;
        let mut missing: BTreeSet<IpAddr> = self.addresses.keys().copied().collect();
        let mut txn = Txn::default();
        let mut left = record.as_ref().map(|(handle, _)| handle.clone()).unwrap_or_default();
        for (cidr, (block, revision)) in &mut blocks {
            let own: Vec<IpAddr> = match &self.handle {
                Some(handle) => block.addresses_of(handle).collect(),
                None => missing.iter().filter(|ip| cidr.contains(*ip)).copied().collect(),
            };
            block.expire(now, cooldown);
            for ip in own {
                let Some(sequence) = self.addresses.get(&ip) else {
                    return Err(format!("it holds {ip} by now"));
                };
                match block.state(ip) {
                    Some(AddressState::Allocated(attribute, now)) => {
                        if self.handle.is_none() && attribute.handle_id.is_some() {
                            return Err(format!("{ip} was allocated again"));
                        }
                        if now != *sequence {
                            return Err(format!("{ip} was allocated again"));
                        }
                    }
                    _ => return Err(format!("{ip} is not assigned")),
                }
                block
                    .release_address(ip, self.handle.as_deref(), *sequence, Release::Rest(now))
                    .map_err(|error| error.to_string())?;
                missing.remove(&ip);
            }
            block.seal();
            left.block.remove(cidr);
            let key = model::block_key(cidr);
            txn = txn.when(key.clone(), *revision);
            let keep = block.affinity().is_some() || !block.is_empty();
            txn = if keep { txn.put(key, block.encode()) } else { txn.delete(key) };
        }
        if let Some(ip) = missing.first() {
            return Err(format!("{ip} is not assigned to it"));
        }
        if let (Some(handle), Some((_, revision))) = (&self.handle, record) {
            let key = model::handle_key(handle);
            txn = txn.when(key.clone(), revision);
            txn = match left.block.is_empty() {
                true => txn.delete(key),
                false => txn.put(key, model::encode(&left)),
            };
        }
        if txn.writes.len() > MAX_TXN_OPS {
            return Err(format!("it is in more than {MAX_TXN_OPS} blocks"));
        }
        Ok(txn)
    }
}

/// What the store has of a handle now.
struct Seen {
    blocks: BTreeMap<IpNet, (Block, Revision)>,
    record: Option<(Handle, Revision)>,
    cooldown: std::time::Duration,
}

impl Seen {
    /// These blocks, and all that the handle's record names. Ok(Err): one cannot be read.
    async fn load(
        store: &dyn Store,
        handle: Option<&str>,
        mut nets: BTreeSet<IpNet>,
    ) -> anyhow::Result<Result<Self, String>> {
        let mut record = None;
        if let Some(handle) = handle {
            let key = model::handle_key(handle);
            let read = store.read(std::slice::from_ref(&key)).await?;
            if let Some(entry) = read.get(&key) {
                match model::decode::<Handle>(&key, &entry.value) {
                    Ok(value) => {
                        nets.extend(value.block.keys());
                        record = Some((value, entry.mod_revision));
                    }
                    Err(corrupt) => return Ok(Err(corrupt.to_string())),
                }
            }
        }
        let config = [model::CONFIG.to_owned()];
        let read = store.read(&config).await?;
        let cooldown = match read.get(model::CONFIG) {
            Some(entry) => model::decode::<IpamConfig>(&entry.key, &entry.value)?.cooldown(),
            None => IpamConfig::DEFAULT_COOLDOWN,
        };
        let mut blocks = BTreeMap::new();
        for cidr in nets {
            let key = model::block_key(&cidr);
            let read = store.read(std::slice::from_ref(&key)).await?;
            let Some(entry) = read.get(&key) else { continue };
            match model::decode_block(&key, &entry.value) {
                Ok(block) => blocks.insert(cidr, (block, entry.mod_revision)),
                Err(corrupt) => return Ok(Err(corrupt.to_string())),
            };
        }
        Ok(Ok(Self { blocks, record, cooldown }))
    }
}

/// Deletes the record of a handle, if no block that it names holds an address of it.
async fn forget(store: &dyn Store, handle: &str) -> anyhow::Result<Result<(), String>> {
    for _ in 0..ATTEMPTS {
        let seen = match Seen::load(store, Some(handle), BTreeSet::new()).await? {
            Ok(seen) => seen,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some((record, revision)) = seen.record else { return Ok(Ok(())) };
        let holds = seen.blocks.values().find_map(|(block, _)| block.addresses_of(handle).next());
        if let Some(ip) = holds {
            return Ok(Err(format!("it holds {ip} by now")));
        }
        let key = model::handle_key(handle);
        let mut txn = Txn::default().when(key.clone(), revision).delete(key);
        for cidr in record.block.keys() {
            let revision = seen.blocks.get(cidr).map_or(0, |(_, revision)| *revision);
            txn = txn.when(model::block_key(cidr), revision);
        }
        if let Done::Committed(_) = store.txn(txn).await? {
            return Ok(Ok(()));
        }
    }
    bail!("gave up on handle {handle} after {ATTEMPTS} conflicts")
}
