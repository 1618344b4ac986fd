//! Announcing a route only once the kernel has it: what the consumers of the forwarding table have
//! not carried out yet.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::core::Core;
use crate::rib::{DestId, RibPrefix, with_family};
use crate::wire::Family;

/// Stands for a change that is in no batch yet.
const WAITING: u64 = u64::MAX;

/// Changes of one consumer that it has not acknowledged. Removals are none: nobody waits for them.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    /// The batch that the latest change of a destination went with, by family.
    latest: [FxHashMap<DestId, u64>; 2],
    /// In the order of the batches; with some that have changed again since.
    queue: VecDeque<(u64, Family, DestId)>,
}

impl Unconfirmed {
    /// A change waits to be taken.
    pub(super) fn mark(&mut self, family: Family, dest: DestId) {
        self.latest[family.index()].insert(dest, WAITING);
    }

    /// It went with a batch.
    pub(super) fn taken(&mut self, family: Family, dest: DestId, sequence: u64) {
        let Some(latest) = self.latest[family.index()].get_mut(&dest) else { return };
        *latest = sequence;
        self.queue.push_back((sequence, family, dest));
        // A consumer that never acknowledges shall not make it grow without end.
        let current: usize = self.latest.iter().map(FxHashMap::len).sum();
        if self.queue.len() > 2 * current + 1024 {
            let latest = &self.latest;
            self.queue.retain(|(at, family, dest)| latest[family.index()].get(dest) == Some(at));
        }
    }

    /// It is no longer to be waited for.
    pub(super) fn forget(&mut self, family: Family, dest: DestId) {
        self.latest[family.index()].remove(&dest);
    }

    /// All batches up to this one are carried out; what they hold, unless it has changed again.
    fn acknowledged(&mut self, sequence: u64) -> Vec<(Family, DestId)> {
        let mut done = Vec::new();
        while let Some(&(at, family, dest)) = self.queue.front()
            && at <= sequence
        {
            self.queue.pop_front();
            if self.latest[family.index()].get(&dest) == Some(&at) {
                self.forget(family, dest);
                done.push((family, dest));
            }
        }
        done
    }

    pub(super) fn contains(&self, family: Family, dest: DestId) -> bool {
        self.latest[family.index()].contains_key(&dest)
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    fn all(&self) -> Vec<(Family, DestId)> {
        let of = |family: Family| self.latest[family.index()].keys().map(move |d| (family, *d));
        let mut all: Vec<_> = Family::ALL.into_iter().flat_map(of).collect();
        // What is announced in which order shall not depend on how a map is laid out.
        all.sort_unstable_by_key(|(family, dest)| (family.index(), dest.index()));
        all
    }
}

impl Core {
    /// A consumer has carried out all batches up to this one.
    pub(super) fn confirm(&mut self, id: u64, sequence: u64) {
        let done = self.fib.unconfirmed(id).map(|it| it.acknowledged(sequence));
        self.installed(done.unwrap_or_default());
    }

    /// A consumer is gone: nobody waits for it.
    pub(super) fn confirm_all(&mut self, unconfirmed: &Unconfirmed) {
        self.installed(unconfirmed.all());
    }

    /// Announcements wait for the kernel from here on, or do not any more.
    pub(super) fn wait_for_kernel(&mut self, wait: bool) {
        for (family, dest) in self.fib.wait_for_kernel(wait) {
            with_family!(family, P => self.groups.mark_again(P::table_mut(&mut self.rib), dest));
        }
    }

    /// What no other consumer has still to carry out can be announced.
    fn installed(&mut self, done: Vec<(Family, DestId)>) {
        for (family, dest) in done {
            if self.fib.settle(family, dest) {
                with_family!(family, P => self.groups.mark_again(P::table_mut(&mut self.rib), dest));
            }
        }
    }
}
