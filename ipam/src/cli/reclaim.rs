//! Releasing what nobody uses: all addresses of a handle or none, in one transaction, which rests
//! on each of them still being the very allocation that was found unused.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::bail;
use ipam::block::{AddressState, Block, Release};
use ipam::model;
use ipam::store::{Revision, Txn};
use ipam::timestamp::Timestamp;
use ipnet::IpNet;
use serde::Serialize;

use super::check::Allocation;
use super::holdings::{ATTEMPTS, Holdings};
use super::{Outcome, json};

/// What is to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unused {
    /// By handle; allocations without one are each of their own.
    groups: Vec<Group>,
    /// Handles without an address.
    handles: BTreeSet<String>,
    seen: Seen,
}

/// When it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The store's revision.
    pub(super) revision: Revision,
    /// The time, or later.
    pub(super) at: Timestamp,
}

/// How a release is to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Only to tell what would be released.
    pub(super) dry_run: bool,
    /// How long a handle must have been without an address: Calico writes it down before it
    /// allocates.
    pub(super) grace: Duration,
    pub(super) now: Timestamp,
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
    /// What a report says is not in use, and when that was so.
    pub(super) fn new<'a>(
        allocations: impl Iterator<Item = &'a Allocation>,
        leaked: impl IntoIterator<Item = String>,
        seen: Seen,
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
        Self { groups, handles: leaked.into_iter().collect(), seen }
    }

    /// What both found.
    pub(super) fn intersect(&mut self, other: &Self) {
        self.groups.retain(|group| other.groups.contains(group));
        self.handles.retain(|handle| other.handles.contains(handle));
        if other.seen.at < self.seen.at {
            self.seen = other.seen;
        }
    }

    /// Everybody's addresses: whose blocks must be known.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.groups.iter().flat_map(|group| group.addresses.keys().copied())
    }

    /// Releases it, if it is still what it was; says what else became of it.
    pub(super) async fn release(
        self,
        holdings: &mut Holdings<'_>,
        how: How,
        as_json: bool,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let How { dry_run, .. } = how;
        let mut done = Reclaimed { dry_run, ..Reclaimed::default() };
        if !as_json {
            let verb = if dry_run { "Would release" } else { "Releasing" };
            writeln!(out, "{verb} {} old IPs...", self.addresses().count())?;
        }
        self.read(holdings).await?;
        for group in self.groups {
            let ips: Vec<IpAddr> = group.addresses.keys().copied().collect();
            let handle = group.handle.as_deref();
            match change(holdings, handle, dry_run, |known| group.transaction(known, how.now))
                .await?
            {
                Ok(()) => done.released.extend(ips),
                Err(reason) => {
                    done.kept.push(Kept { handle: group.handle.unwrap_or_default(), ips, reason });
                }
            }
        }
        let young = self.seen.at.plus(how.grace) > how.now;
        for handle in self.handles {
            let forget = |known: &Holdings<'_>| match young {
                true => Err(format!(
                    "it may be of a request on its way: seen without an address for less than {} \
                     minutes; a report that old (`ipam check -o json`) proves it",
                    how.grace.as_secs() / 60
                )),
                false => forget(known, &handle, self.seen.revision),
            };
            match change(holdings, Some(&handle), dry_run, forget).await? {
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

    /// Reads at once all that is concerned, but blocks that only records name.
    async fn read(&self, holdings: &mut Holdings<'_>) -> anyhow::Result<()> {
        let blocks: BTreeSet<IpNet> =
            self.addresses().flat_map(|ip| holdings.blocks_of(ip)).collect();
        let handles = self.groups.iter().filter_map(|group| group.handle.as_ref());
        let handles = handles.chain(&self.handles).map(|handle| model::handle_key(handle));
        let blocks = blocks.iter().map(model::block_key);
        let config = [model::CONFIG.to_owned()];
        let keys: Vec<String> = blocks.chain(handles).chain(config).collect();
        Ok(holdings.read(keys).await?)
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
            return self.print_kept("Would keep", out);
        }
        writeln!(out, "Released {} IPs successfully", self.released.len())?;
        writeln!(out, "Deleted {} handles", self.deleted_handles.len())?;
        self.print_kept("Not released", out)
    }

    fn print_kept(&self, verb: &str, out: &mut dyn Write) -> std::io::Result<()> {
        for Kept { handle, ips, reason } in &self.kept {
            let ips: String = ips.iter().map(|ip| format!(" {ip}")).collect();
            writeln!(out, "{verb}: {handle}{ips}: {reason}")?;
        }
        Ok(())
    }
}

/// Plans a change and does it, again when others have changed what it rests on. Ok(Err) says why the
/// handle keeps what it has.
async fn change(
    holdings: &mut Holdings<'_>,
    handle: Option<&str>,
    dry_run: bool,
    plan: impl Fn(&Holdings<'_>) -> Result<Txn, String>,
) -> anyhow::Result<Result<(), String>> {
    for _ in 0..ATTEMPTS {
        if let Some(handle) = handle {
            holdings.read_blocks_of(handle).await?;
        }
        let txn = match plan(holdings) {
            Ok(txn) => txn,
            Err(reason) => return Ok(Err(reason)),
        };
        if dry_run || holdings.commit(txn).await? {
            return Ok(Ok(()));
        }
    }
    let handle = handle.unwrap_or("an address without a handle");
    bail!("gave up on {handle} after {ATTEMPTS} conflicts with the owners of its blocks")
}

impl Group {
    /// Err: it is not what was found unused.
    fn transaction(&self, known: &Holdings<'_>, now: Timestamp) -> Result<Txn, String> {
        let mut nets: BTreeSet<IpNet> =
            self.addresses.keys().flat_map(|ip| known.blocks_of(*ip)).collect();
        if let Some(handle) = &self.handle {
            let record = known.record(handle).map_err(|corrupt| corrupt.to_string())?;
            nets.extend(record.into_iter().flat_map(|record| record.block.into_keys()));
        }
        let mut missing: BTreeSet<IpAddr> = self.addresses.keys().copied().collect();
        let mut changed = BTreeMap::new();
        for cidr in nets {
            let block = known.block(&cidr).map_err(|corrupt| corrupt.to_string())?;
            let Some(mut block) = block else { continue };
            let own: Vec<IpAddr> = match &self.handle {
                Some(handle) => block.addresses_of(handle).collect(),
                None => missing.iter().filter(|ip| cidr.contains(*ip)).copied().collect(),
            };
            for ip in &own {
                self.release_one(*ip, &mut block, now)?;
                missing.remove(ip);
            }
            if !own.is_empty() {
                changed.insert(cidr, block);
            }
        }
        if let Some(ip) = missing.first() {
            return Err(format!("{ip} is not assigned to it"));
        }
        known.release(self.handle.as_deref(), changed)
    }

    fn release_one(&self, ip: IpAddr, block: &mut Block, at: Timestamp) -> Result<(), String> {
        let Some(sequence) = self.addresses.get(&ip) else {
            return Err(format!("it holds {ip} by now"));
        };
        match block.state(ip) {
            Some(AddressState::Allocated(attribute, now)) => {
                if now != *sequence || self.handle.is_none() && attribute.handle_id.is_some() {
                    return Err(format!("{ip} was allocated again"));
                }
            }
            _ => return Err(format!("{ip} is not assigned")),
        }
        let how = Release::Rest(at);
        let released = block.release_address(ip, self.handle.as_deref(), *sequence, how);
        released.map(drop).map_err(|error| error.to_string())
    }
}

/// Deletes the record of a handle, if it is none of a younger revision and no block that it names
/// holds an address of it.
fn forget(known: &Holdings<'_>, handle: &str, until: Revision) -> Result<Txn, String> {
    if known.record_revision(handle) > until {
        return Err("its record was written since".to_owned());
    }
    let record = known.record(handle).map_err(|corrupt| corrupt.to_string())?;
    for cidr in record.iter().flat_map(|record| record.block.keys()) {
        let block = known.block(cidr).map_err(|corrupt| corrupt.to_string())?;
        let held = block.as_ref().and_then(|block| block.addresses_of(handle).next());
        if let Some(ip) = held {
            return Err(format!("it holds {ip} by now"));
        }
    }
    known.release(Some(handle), BTreeMap::new())
}

#[cfg(test)]
mod tests;
