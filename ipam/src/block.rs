//! One block of addresses as pure functions over Calico's JSON model (`AllocationBlock` in etcd).
//! No IO and no clock: times come in as arguments.
//!
//! ```text
//!   allocations[ordinal] ──index──▶ attributes[..]   who has the address, or since when it rests
//!   unallocated: FIFO of free ordinals; taken from the head, given back at the tail
//!   sequenceNumber: + 1 with every write; an ordinal remembers the one it was last changed under
//! ```
//!
//! A change is made by calling the mutating functions and then [`Block::seal`], once, before the
//! block is written.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::net::{self, Family};
use crate::timestamp::Timestamp;

mod cooldown;
mod delta;
mod json;
mod merge;
#[cfg(test)]
mod tests;

pub(crate) use cooldown::Vacancy;
pub(crate) use delta::Delta;
pub use json::DecodeError;
pub(crate) use json::encode as encode_json;

/// The most host bits a block may have (65,536 addresses). Calico's pools stop at 12.
pub const MAX_HOST_BITS: u8 = 16;

/// What an allocation is for: `attributes[]` of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// The handle that holds the address; none while it rests after its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// Calico's "active owner attributes": pod, namespace, node, timestamp, type, ...
    #[serde(default, skip_serializing_if = "json::none_or_empty", rename = "secondary")]
    pub owner: Option<BTreeMap<String, String>>,
    /// The other side of a virtual machine's migration.
    #[serde(default, skip_serializing_if = "json::none_or_empty", rename = "alternateOwnerAttrs")]
    pub alternate_owner: Option<BTreeMap<String, String>>,
    /// Set while the address rests after its release (cooldown).
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "releasedAt")]
    pub released_at: Option<Timestamp>,
    /// What a younger Calico writes beside these, kept as it is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Fields that this version does not know, in the order they were read in; written back after the
/// known ones.
pub type Unknown = serde_json::Map<String, serde_json::Value>;

impl Attribute {
    /// The value under `key` of the owner's attributes.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.owner.as_ref()?.get(key).map(String::as_str)
    }
}

/// An aligned block of addresses, its owner and its allocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    cidr: IpNet,
    affinity: Option<String>,
    affinity_claim_time: Option<Timestamp>,
    /// By ordinal: an index into `attributes`.
    allocations: Vec<Option<u32>>,
    unallocated: VecDeque<u32>,
    attributes: Vec<Arc<Attribute>>,
    sequence_number: u64,
    /// By ordinal: the sequence number that it was last changed under.
    changed_under: Vec<Option<u64>>,
    deleted: bool,
    unknown: Unknown,
}

/// What one address of a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressState<'a> {
    /// Not allocated.
    Free,
    /// Released at this time, not yet given back.
    CoolingDown(Timestamp),
    /// Allocated, with its attributes and the block's sequence number at that time (none if a
    /// foreign writer left it out).
    Allocated(&'a Attribute, Option<u64>),
}

/// What becomes of a released address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It rests, counted from this time, until [`Block::expire`] frees it.
    Rest(Timestamp),
    /// It goes to the tail of the free ones at once: nobody ever used it.
    Now,
}

/// Why a block cannot be made or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Too many host bits.
    #[error("block {0} has more than {MAX_HOST_BITS} host bits")]
    TooLarge(IpNet),
    /// The network's address has host bits set.
    #[error("{0} has host bits set")]
    NotMasked(IpNet),
    /// The address is outside the block.
    #[error("{address} is not in block {block}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The block.
        block: IpNet,
    },
    /// The address is allocated.
    #[error("{address} is allocated to {}", handle.as_deref().unwrap_or("<no handle>"))]
    Allocated {
        /// The address.
        address: IpAddr,
        /// Who has it.
        handle: Option<String>,
    },
    /// A guarded release found another handle (Calico's ErrorBadHandle).
    #[error("{address} is held by {}, not by {given}", held.as_deref().unwrap_or("<no handle>"))]
    BadHandle {
        /// The address.
        address: IpAddr,
        /// The handle that the caller named.
        given: String,
        /// The handle that holds it.
        held: Option<String>,
    },
    /// A guarded release found a later allocation (Calico's ErrorBadSequenceNumber).
    #[error("{address} was allocated again: its sequence number is {}, not {given}",
        held.map_or_else(|| "unknown".to_owned(), |n| n.to_string()))]
    BadSequenceNumber {
        /// The address.
        address: IpAddr,
        /// The number that the caller named.
        given: u64,
        /// The number it has.
        held: Option<u64>,
    },
}

impl Block {
    /// A block without allocations. Its sequence number starts at `now` in nanoseconds, as
    /// Calico's does, so that numbers of a block created anew are never those of an older one.
    ///
    /// # Errors
    /// The network has host bits set, or more than [`MAX_HOST_BITS`] of them.
    pub fn new(cidr: IpNet, affinity: Option<String>, now: Timestamp) -> Result<Self, BlockError> {
        let size = size_of(&cidr)?;
        Ok(Self {
            cidr,
            affinity_claim_time: affinity.is_some().then(|| now.whole_seconds()),
            affinity,
            allocations: vec![None; size as usize],
            unallocated: (0..size).collect(),
            attributes: Vec::new(),
            sequence_number: now.unix_nanos(),
            changed_under: vec![None; size as usize],
            deleted: false,
            unknown: Unknown::new(),
        })
    }

    /// The network.
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// `host:NODE`, `virtual:NAME`, or none.
    pub fn affinity(&self) -> Option<&str> {
        self.affinity.as_deref()
    }

    /// The node that the block belongs to, if it belongs to a node.
    pub fn node(&self) -> Option<&str> {
        self.affinity.as_deref()?.strip_prefix("host:")
    }

    /// When the owner claimed the block.
    pub fn claimed_at(&self) -> Option<Timestamp> {
        self.affinity_claim_time
    }

    /// Number of addresses.
    pub fn capacity(&self) -> usize {
        self.allocations.len()
    }

    /// Addresses that are not free: allocated or resting. Calico's IPS IN USE.
    pub fn in_use(&self) -> usize {
        self.capacity() - self.unallocated.len()
    }

    /// True if nothing is allocated and nothing rests.
    pub fn is_empty(&self) -> bool {
        self.allocations.iter().all(Option::is_none)
    }

    /// True if somebody has an address of it; resting ones are nobody's.
    pub fn has_allocations(&self) -> bool {
        let taken = |index: &u32| {
            self.attributes.get(*index as usize).is_some_and(|a| a.released_at.is_none())
        };
        self.allocations.iter().flatten().any(taken)
    }

    /// True if its writer marked it as deleted (only the Kubernetes datastore does).
    pub fn deleted(&self) -> bool {
        self.deleted
    }

    /// The number that the next change is recorded under.
    pub fn sequence_number(&self) -> u64 {
        self.sequence_number
    }

    /// Free addresses that are not reserved, in the order they will be given.
    pub fn free<'a>(&'a self, reserved: &'a [IpNet]) -> impl Iterator<Item = IpAddr> + 'a {
        let addresses = self.unallocated.iter().map(|ordinal| self.address(*ordinal));
        addresses.filter(|address| !is_reserved(*address, reserved))
    }

    /// What `address` is, or None if it is outside the block.
    pub fn state(&self, address: IpAddr) -> Option<AddressState<'_>> {
        let ordinal = self.ordinal(address).ok()?;
        let Some(attribute) = self.attribute(ordinal) else { return Some(AddressState::Free) };
        let sequence = self.changed_under(ordinal);
        Some(match attribute.released_at {
            Some(since) => AddressState::CoolingDown(since),
            None => AddressState::Allocated(attribute, sequence),
        })
    }

    /// Every address that is not free, in address order.
    pub fn occupied(&self) -> impl Iterator<Item = (IpAddr, AddressState<'_>)> {
        self.ordinals().filter_map(|ordinal| {
            let address = self.address(ordinal);
            self.state(address).filter(|state| *state != AddressState::Free).map(|s| (address, s))
        })
    }

    /// The addresses that `handle` holds, in address order.
    pub fn addresses_of<'a>(&'a self, handle: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        let held = move |attribute: &Attribute| attribute.handle_id.as_deref() == Some(handle);
        self.ordinals()
            .filter(move |ordinal| self.attribute(*ordinal).is_some_and(held))
            .map(|ordinal| self.address(ordinal))
    }

    /// The handle of every address that has one, in address order.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &str> {
        let attributes = self.ordinals().filter_map(|ordinal| self.attribute(ordinal));
        attributes.filter_map(|attribute| attribute.handle_id.as_deref())
    }

    /// Gives the first free address that is not reserved, or None if there is none.
    pub fn allocate(&mut self, owner: &Attribute, reserved: &[IpNet]) -> Option<IpAddr> {
        let at = self
            .unallocated
            .iter()
            .position(|ordinal| !is_reserved(self.address(*ordinal), reserved))?;
        let ordinal = self.unallocated.remove(at)?;
        self.occupy(ordinal, owner);
        Some(self.address(ordinal))
    }

    /// Gives this very address, even if it is reserved or resting: who asks for an address by
    /// name had it before, or knows.
    ///
    /// # Errors
    /// The address is outside the block, or allocated.
    pub fn allocate_address(
        &mut self,
        address: IpAddr,
        owner: &Attribute,
    ) -> Result<(), BlockError> {
        let ordinal = self.ordinal(address)?;
        if let Some(AddressState::Allocated(attribute, _)) = self.state(address) {
            return Err(BlockError::Allocated { address, handle: attribute.handle_id.clone() });
        }
        self.unallocated.retain(|free| *free != ordinal);
        self.occupy(ordinal, owner);
        self.prune();
        Ok(())
    }

    /// Releases all that `handle` holds here and says what that was. Holding nothing is no error.
    pub fn release_handle(&mut self, handle: &str, how: Release) -> Vec<IpAddr> {
        let addresses: Vec<_> = self.addresses_of(handle).collect();
        self.release_all(&addresses, how);
        addresses
    }

    /// Releases one address, guarded by the handle and the sequence number that the caller saw, if
    /// it names them. False if it was free or already resting.
    ///
    /// # Errors
    /// The address is outside the block, or has meanwhile been given to someone else.
    pub fn release_address(
        &mut self,
        address: IpAddr,
        handle: Option<&str>,
        sequence_number: Option<u64>,
        how: Release,
    ) -> Result<bool, BlockError> {
        self.ordinal(address)?;
        let Some(AddressState::Allocated(attribute, held)) = self.state(address) else {
            return Ok(false);
        };
        if let Some(given) = handle.filter(|given| attribute.handle_id.as_deref() != Some(given)) {
            let held = attribute.handle_id.clone();
            return Err(BlockError::BadHandle { address, given: given.to_owned(), held });
        }
        if let Some(given) = sequence_number.filter(|given| held != Some(*given)) {
            return Err(BlockError::BadSequenceNumber { address, given, held });
        }
        self.release_all(&[address], how);
        Ok(true)
    }

    /// Sets or clears the owner.
    pub fn set_affinity(&mut self, affinity: Option<String>, now: Timestamp) {
        self.affinity_claim_time = affinity.is_some().then(|| now.whole_seconds());
        self.affinity = affinity;
    }

    /// Ends a change: the next sequence number. Call it once for each write of the block.
    pub fn seal(&mut self) {
        self.sequence_number = self.sequence_number.wrapping_add(1);
    }

    /// Everything that must hold of a block, as the list of what does not. Readers, Calico's
    /// `ipam check` among them, depend on it.
    ///
    /// # Errors
    /// What is wrong, one sentence each.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        match size_of(&self.cidr) {
            Err(error) => wrong.push(error.to_string()),
            Ok(size) if size as usize != self.allocations.len() => wrong.push(format!(
                "allocations has {} entries, a block of {} needs {size}",
                self.allocations.len(),
                self.cidr
            )),
            Ok(_) => {}
        }
        for (ordinal, index) in self.allocations.iter().enumerate() {
            if index.is_some_and(|index| self.attributes.get(index as usize).is_none()) {
                wrong.push(format!("allocations[{ordinal}] names an attribute that is not there"));
            }
        }
        let mut seen = vec![0_u32; self.allocations.len()];
        for ordinal in &self.unallocated {
            match seen.get_mut(*ordinal as usize) {
                None => wrong.push(format!("unallocated holds {ordinal}, outside the block")),
                Some(count) => *count += 1,
            }
        }
        for (ordinal, count) in seen.into_iter().enumerate() {
            match (self.allocations[ordinal].is_some(), count) {
                (true, 0) | (false, 1) => {}
                (true, _) => {
                    wrong.push(format!("ordinal {ordinal} is both allocated and unallocated"));
                }
                (false, 0) => {
                    wrong.push(format!("ordinal {ordinal} is neither allocated nor unallocated"));
                }
                (false, _) => wrong.push(format!("ordinal {ordinal} is unallocated {count} times")),
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn ordinals(&self) -> impl Iterator<Item = u32> + use<> {
        #[allow(clippy::cast_possible_truncation, reason = "at most 2^MAX_HOST_BITS")]
        let size = self.allocations.len() as u32;
        0..size
    }

    fn address(&self, ordinal: u32) -> IpAddr {
        let base = net::number(self.cidr.network());
        net::address(Family::of_net(&self.cidr), base + u128::from(ordinal))
    }

    fn ordinal(&self, address: IpAddr) -> Result<u32, BlockError> {
        let outside = BlockError::Outside { address, block: self.cidr };
        if !self.cidr.contains(&address) {
            return Err(outside);
        }
        let offset = net::number(address) - net::number(self.cidr.network());
        u32::try_from(offset).map_err(|_| outside)
    }

    fn attribute(&self, ordinal: u32) -> Option<&Attribute> {
        let index = (*self.allocations.get(ordinal as usize)?)?;
        self.attributes.get(index as usize).map(|attribute| &**attribute)
    }

    fn changed_under(&self, ordinal: u32) -> Option<u64> {
        self.changed_under.get(ordinal as usize).copied().flatten()
    }

    fn set_changed_under(&mut self, ordinal: u32, number: Option<u64>) {
        if let Some(slot) = self.changed_under.get_mut(ordinal as usize) {
            *slot = number;
        }
    }

    /// Points `ordinal`, which is not among the free ones any more, at `attribute`.
    fn occupy(&mut self, ordinal: u32, attribute: &Attribute) {
        let index = self.intern(attribute);
        if let Some(slot) = self.allocations.get_mut(ordinal as usize) {
            *slot = Some(index);
        }
        let number = self.sequence_number;
        self.set_changed_under(ordinal, Some(number));
    }

    /// The index of an equal attribute, which is added if there is none: equal ones are shared.
    #[allow(clippy::cast_possible_truncation, reason = "no more attributes than addresses")]
    fn intern(&mut self, attribute: &Attribute) -> u32 {
        let found = self.attributes.iter().position(|known| **known == *attribute);
        let index = found.unwrap_or_else(|| {
            self.attributes.push(Arc::new(attribute.clone()));
            self.attributes.len() - 1
        });
        index as u32
    }

    fn release_all(&mut self, addresses: &[IpAddr], how: Release) {
        for ordinal in
            addresses.iter().filter_map(|address| self.ordinal(*address).ok()).collect::<Vec<_>>()
        {
            match how {
                Release::Now => self.free_ordinal(ordinal),
                Release::Rest(now) => {
                    let resting = Attribute {
                        released_at: Some(now.whole_seconds()),
                        ..Attribute::default()
                    };
                    self.occupy(ordinal, &resting);
                }
            }
        }
        if !addresses.is_empty() {
            self.prune();
        }
    }

    fn free_ordinal(&mut self, ordinal: u32) {
        if let Some(slot) = self.allocations.get_mut(ordinal as usize)
            && slot.take().is_some()
        {
            self.unallocated.push_back(ordinal);
        }
        self.set_changed_under(ordinal, None);
    }

    /// Drops attributes that no allocation names and renumbers the rest, keeping their order.
    fn prune(&mut self) {
        let mut used = vec![false; self.attributes.len()];
        for index in self.allocations.iter().flatten() {
            if let Some(flag) = used.get_mut(*index as usize) {
                *flag = true;
            }
        }
        if used.iter().all(|used| *used) {
            return;
        }
        let mut next = 0;
        let renumbered: Vec<u32> = used
            .iter()
            .map(|used| {
                let index = next;
                next += u32::from(*used);
                index
            })
            .collect();
        for slot in self.allocations.iter_mut().flatten() {
            if let Some(index) = renumbered.get(*slot as usize) {
                *slot = *index;
            }
        }
        let mut keep = used.into_iter();
        self.attributes.retain(|_| keep.next().unwrap_or(false));
    }
}

/// Number of addresses of a block.
fn size_of(cidr: &IpNet) -> Result<u32, BlockError> {
    if *cidr != cidr.trunc() {
        return Err(BlockError::NotMasked(*cidr));
    }
    let bits = cidr.max_prefix_len() - cidr.prefix_len();
    if bits > MAX_HOST_BITS {
        return Err(BlockError::TooLarge(*cidr));
    }
    Ok(1 << bits)
}

fn is_reserved(address: IpAddr, reserved: &[IpNet]) -> bool {
    reserved.iter().any(|net| net.contains(&address))
}
