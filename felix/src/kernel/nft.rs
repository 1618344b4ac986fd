//! The writer of table `inet caracal`: what is wanted against what is programmed, and the
//! transactions between them.
//!
//! What the kernel has is read at start, after a refused transaction, and when another program
//! changed the table; at no other time. Until the agent is in sync, everything that was there at
//! start stays unless it is contradicted.

mod channel;
mod comments;
mod counts;
mod flush;
mod host_parts;
mod shared;
mod structure;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink::nft::Transaction;
use rustc_hash::FxHashMap;

use self::channel::OWNED;
pub(super) use self::channel::{Channel, queue, rejects};
use self::comments::Comments;
use self::counts::Counts;
use self::host_parts::HostParts;
pub(super) use self::shared::{Shared, Write, open};
use super::elements;
use super::layout::{DenyAction, FAMILY, HostAction, LogRules, Params, TABLE};
use super::{Error, Rejected};
use crate::model::{Change, Delta, Key, Value};

/// Most elements that are written by whoever asks for it: some 0.2 ms, less than the engine takes to
/// work out which they are.
const BRIEF: usize = 128;
/// An element that leads to a chain has the kernel look through every map of verdicts for a loop,
/// which takes 0.2 µs for each element there is, and more where they do not fit into its caches: with more
/// than these, that is the thread's.
const WALKED: usize = 1000;
/// Counters and facts for metrics and status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NftStatus {
    /// Elements in the kernel, without those of fixed sets.
    pub elements: usize,
    /// Transactions that took effect.
    pub transactions: u64,
    /// Differences between the kernel and memory that were repaired.
    pub repairs: u64,
    /// Transactions that the kernel refused.
    pub refused: u64,
    /// The ruleset's generation (of all tables).
    pub generation: u32,
    /// Whether the table has an owner that it outlives.
    pub owned: bool,
    /// Elements that the kernel does not take.
    pub rejected: Vec<Rejected>,
    /// Why the last transaction failed; none once one took effect.
    pub last_error: Option<String>,
}

/// An element that a transaction writes, deletes, or both.
#[derive(Clone, Copy, Debug)]
struct Step {
    key: Key,
    before: Option<Value>,
    after: Option<Value>,
}

#[derive(Debug)]
pub(super) struct Writer<C> {
    channel: C,
    params: Params,
    flags: u32,
    /// What has to be there.
    wanted: FxHashMap<Key, Value>,
    /// Networks as they were asked for; `wanted` has those that lie in no other.
    nets: BTreeSet<Key>,
    /// What was there at start, until the agent is in sync.
    retained: FxHashMap<Key, Value>,
    /// The ranges among these, by kind and first address: no wanted one may overlap them.
    retained_ranges: BTreeMap<(u8, IpAddr), (IpAddr, Key)>,
    /// What is there.
    programmed: FxHashMap<Key, Value>,
    /// Where the last two may differ, each with the number of its set: as they came until
    /// [`Writer::arrange`].
    dirty: Vec<(u64, Key)>,
    /// What the kernel refused, and is not sent again until it changes.
    rejected: FxHashMap<Key, String>,
    /// How many masqueraded networks are programmed; the nat chain is there if this is not 0.
    masquerading: usize,
    /// Of the elements that are programmed.
    hosts: HostParts,
    /// How many interfaces are programmed whose DNS answers are read; the chain for that is there if this
    /// is not 0.
    asking: usize,
    in_sync: bool,
    /// Who decides, and what was counted for them by elements that are gone.
    counts: Counts,
    comments: Comments,
    /// Chains and sets are in the kernel as they should be.
    built: bool,
    /// `programmed` is what the kernel has.
    known: bool,
    /// Another program may have changed it, or memory was wrong.
    doubted: bool,
    /// How many elements were left out of the last transaction.
    left_out: usize,
    transactions: u64,
    repairs: u64,
    refused: u64,
    last_error: Option<String>,
}

impl<C: Channel> Writer<C> {
    /// Reads what is in the kernel and takes the table, or creates it without content: that comes
    /// with the first transaction, so that nothing is cut before it is known what is allowed.
    /// Fails with [`Error::Held`] if another process has the table.
    pub(super) fn start(channel: C, params: Params, owned: bool) -> Result<Self, Error> {
        let mut writer = Self {
            channel,
            params,
            flags: if owned { OWNED } else { 0 },
            wanted: FxHashMap::default(),
            nets: BTreeSet::new(),
            retained: FxHashMap::default(),
            retained_ranges: BTreeMap::new(),
            programmed: FxHashMap::default(),
            dirty: Vec::new(),
            rejected: FxHashMap::default(),
            masquerading: 0,
            hosts: HostParts::default(),
            asking: 0,
            in_sync: false,
            counts: Counts::default(),
            comments: Comments::default(),
            built: false,
            known: false,
            doubted: false,
            left_out: 0,
            transactions: 0,
            repairs: 0,
            refused: 0,
            last_error: None,
        };
        let found = writer.read()?;
        writer.retain(&found);
        let had_chains = found.ruleset.as_ref().is_some_and(|ruleset| !ruleset.chains.is_empty());
        let mut tx = Transaction::new(FAMILY, TABLE);
        let mut steps = Vec::new();
        if had_chains {
            steps = writer.structure(&found, &mut tx);
        } else if found.table.as_ref().is_none_or(|table| owned && table.owner.is_none()) {
            if found.table.is_some_and(|table| table.flags != writer.flags) {
                tx.delete_table();
            }
            tx.add_table(writer.flags, None);
        }
        match writer.channel.commit(tx) {
            Ok(()) => {
                writer.committed(&steps);
                writer.built = had_chains;
                writer.known = true;
                Ok(writer)
            }
            Err(error) if error.is(libc::EPERM) => Err(Error::Held { port: None }),
            Err(error) => Err(Error::Kernel(format!("table inet {TABLE}: {error}"))),
        }
    }

    /// What the kernel has under these keys, each read from it.
    pub(super) fn values(&mut self, keys: &[Key]) -> Result<Vec<Option<Value>>, Error> {
        let mut values = Vec::new();
        for key in keys {
            let encoded = elements::encode(key);
            let found = self
                .channel
                .element(encoded.set, &encoded.asked())
                .map_err(|error| Error::Kernel(format!("{}: {error}", elements::describe(key))))?;
            let value = found.and_then(|raw| elements::value_of(key, &raw));
            values.push(value.map(|value| counts::known_as(value, self.programmed.get(key))));
        }
        Ok(values)
    }

    /// The highest interface index that an element mentions.
    pub(super) fn highest_index(&self) -> u32 {
        self.programmed
            .keys()
            .map(|key| match key {
                Key::Workload(index)
                | Key::Source(_, index)
                | Key::Policy { index, .. }
                | Key::Asks(index)
                | Key::Learned(index, _) => *index,
                _ => 0,
            })
            .max()
            .unwrap_or(0)
    }

    /// Takes a change of intent; it is written by the next [`Writer::flush`].
    pub(super) fn change(&mut self, delta: &Delta) {
        self.counts.learn(&delta.deciders);
        self.comments.learn(delta);
        for Change { key, value } in &delta.elements {
            match key {
                Key::Masquerade(net) => self.change_net(Key::Masquerade(net.trunc()), *value),
                Key::Pool(net) => self.change_net(Key::Pool(net.trunc()), *value),
                _ => self.want(*key, *value),
            }
        }
        delta.comments.iter().for_each(|(key, _)| self.touch(*key));
    }

    fn want(&mut self, key: Key, value: Option<Value>) {
        let before = match value {
            Some(value) => self.wanted.insert(key, value),
            None => self.wanted.remove(&key),
        };
        if before.is_some() && value.is_none() {
            // It was ours to say: it goes even if it was there before us.
            self.retained.remove(&key);
        }
        if value.is_some() && !self.retained_ranges.is_empty() {
            self.contradict(&key);
        }
        if !self.rejected.is_empty() {
            self.rejected.remove(&key);
        }
        self.touch(key);
    }

    fn touch(&mut self, key: Key) {
        self.dirty.push((elements::set_number(&key), key));
    }

    /// What was there at start and overlaps a range that is wanted now gives way to it.
    fn contradict(&mut self, key: &Key) {
        let Some((kind, first, last)) = elements::span(key) else { return };
        let overlapping: Vec<((u8, IpAddr), Key)> = self
            .retained_ranges
            .range(..=(kind, last))
            .rev()
            .take_while(|((other, _), (end, _))| *other == kind && *end >= first)
            .map(|(start, (_, old))| (*start, *old))
            .collect();
        for (start, old) in overlapping {
            self.retained_ranges.remove(&start);
            self.retained.remove(&old);
            self.touch(old);
        }
    }

    /// Pools may lie in one another; ranges in the kernel may not.
    fn change_net(&mut self, key: Key, value: Option<Value>) {
        if value.is_some() {
            self.nets.insert(key)
        } else {
            self.nets.remove(&key)
        };
        let inside = |inner: &Key, outer: &Key| match (inner, outer) {
            (Key::Masquerade(inner), Key::Masquerade(outer))
            | (Key::Pool(inner), Key::Pool(outer)) => outer.contains(inner) && inner != outer,
            _ => false,
        };
        let alike = |other: &Key| inside(other, &key) || inside(&key, other) || *other == key;
        let affected: Vec<Key> = self.nets.iter().copied().chain([key]).filter(alike).collect();
        for net in affected {
            let widest =
                self.nets.contains(&net) && !self.nets.iter().any(|outer| inside(&net, outer));
            let value = widest.then_some(Value::Member);
            if self.wanted.get(&net) != value.as_ref() {
                self.want(net, value);
            }
        }
    }

    /// What is wanted is complete now: what else is in the kernel goes with the next flush.
    pub(super) fn set_in_sync(&mut self) {
        self.in_sync = true;
        self.retained = FxHashMap::default();
        self.retained_ranges = BTreeMap::new();
        self.touch_rejected();
        let stale = self.programmed.keys().filter(|key| !self.wanted.contains_key(*key));
        self.dirty.extend(stale.map(|key| (elements::set_number(key), *key)));
    }

    /// Changes what becomes of packets to the node.
    pub(super) fn set_host_action(&mut self, action: HostAction) {
        if action != self.params.host_action {
            self.params.host_action = action;
            self.known = false;
        }
    }

    /// Changes what becomes of packets that policy denies.
    pub(super) fn set_deny_action(&mut self, action: DenyAction) {
        if action != self.params.deny {
            self.params.deny = action;
            self.known = false;
        }
    }

    /// Whether the agent is told of what is let through.
    pub(super) fn set_sampling(&mut self, sampling: bool) {
        if sampling != self.params.sampling {
            self.params.sampling = sampling;
            self.known = false;
        }
    }

    /// Changes how rules log that log.
    pub(super) fn set_log_rules(&mut self, log: LogRules) {
        if log != self.params.log {
            self.params.log = log;
            self.known = false;
        }
    }

    /// The kernel may have something else than it was given: the next flush reads it.
    pub(super) fn doubt(&mut self) {
        self.known = false;
        self.doubted = true;
        // What was refused because of another program may be taken now.
        self.touch_rejected();
    }

    /// What was refused is tried again.
    fn touch_rejected(&mut self) {
        let rejected = self.rejected.drain().map(|(key, _)| (elements::set_number(&key), key));
        self.dirty.extend(rejected);
    }

    /// Whether the last flush failed: the kernel does not have what is wanted.
    pub(super) fn unwritten(&self) -> bool {
        self.last_error.is_some()
    }

    /// Whether the kernel took all of these elements; else names the first that it did not take.
    pub(super) fn accepted(&self, keys: &[Key]) -> Result<(), Error> {
        if self.rejected.is_empty() {
            return Ok(());
        }
        let refused = keys.iter().find_map(|key| Some((key, self.rejected.get(key)?)));
        refused.map_or(Ok(()), |(key, reason)| {
            let object = elements::describe(key);
            Err(Error::Rejected(Rejected { object, reason: reason.clone() }))
        })
    }

    pub(super) fn status(&mut self) -> NftStatus {
        NftStatus {
            elements: self.programmed.len(),
            transactions: self.transactions,
            repairs: self.repairs,
            refused: self.refused,
            generation: self.channel.generation().unwrap_or(0),
            owned: self.flags == OWNED,
            rejected: self
                .rejected
                .iter()
                .map(|(key, reason)| Rejected {
                    object: elements::describe(key),
                    reason: reason.clone(),
                })
                .collect(),
            last_error: self.last_error.clone(),
        }
    }

    /// Whether an element is to be written, or deleted: it has this value now, and should have that.
    fn differs(&self, key: &Key, now: Option<&Value>, after: Option<&Value>) -> bool {
        now != after || after.is_some_and(|value| self.comments.differ(key, value))
    }

    fn target(&self, key: &Key) -> Option<Value> {
        if !self.rejected.is_empty() && self.rejected.contains_key(key) {
            // Rather what is there than nothing.
            return self.programmed.get(key).copied();
        }
        self.wanted.get(key).or_else(|| self.retained.get(key)).copied()
    }
}

#[cfg(test)]
mod tests;
