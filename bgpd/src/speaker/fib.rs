//! The forwarding table as its consumers pull it: for each, which destinations changed since it
//! last asked. At most one change per prefix waits, however often it changes.

use std::collections::VecDeque;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;
use tokio::sync::Notify;

use super::core::Core;
use super::installed::Unconfirmed;
use crate::rib::{
    Bitmap, DestId, DirtyList, FibNextHops, Rib, RibPrefix, SetId, Table, with_family,
};
use crate::wire::Family;

/// What is to become of one prefix in the forwarding table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FibDelta {
    /// The prefix.
    pub prefix: IpNet,
    /// Its next hops, more than one for ECMP; empty: the route is to be removed.
    pub next_hops: FibNextHops,
}

/// What [`crate::FibSubscription::take`] returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FibBatch {
    /// Rises by one with every batch; to be acknowledged once it is in the kernel.
    pub sequence: u64,
    /// The changes, one per prefix.
    pub deltas: Vec<FibDelta>,
    /// More is waiting.
    pub more: bool,
    /// With this batch the consumer has everything that was known when the initial convergence
    /// was over. Routes in the kernel that it was not told by now can be removed.
    pub converged: bool,
}

#[derive(Debug)]
struct Subscriber {
    id: u64,
    /// Told of these, and they have next hops.
    told: [Bitmap; 2],
    pending: [DirtyList; 2],
    sequence: u64,
    unacknowledged: VecDeque<u64>,
    unconfirmed: Unconfirmed,
    /// Knows that the initial convergence is over.
    converged: bool,
    wake: Arc<Notify>,
}

impl Subscriber {
    fn holds(&self, family: Family, dest: DestId) -> bool {
        self.told[family.index()].contains(dest) || self.pending[family.index()].contains(dest)
    }

    fn is_empty(&self) -> bool {
        self.pending.iter().all(DirtyList::is_empty)
    }

    fn mark<P: RibPrefix>(&mut self, table: &mut Table<P>, dest: DestId) {
        let held = self.holds(P::FAMILY, dest);
        self.pending[P::FAMILY.index()].insert(dest);
        if !held {
            table.hold(dest);
        }
    }

    /// Up to `max` changes; `settled` are those that nobody waits for.
    fn take<P: RibPrefix>(
        &mut self,
        rib: &mut Rib,
        max: usize,
        deltas: &mut Vec<FibDelta>,
        settled: &mut Vec<(Family, DestId)>,
    ) {
        let family = P::FAMILY.index();
        while deltas.len() < max {
            let Some(dest) = self.pending[family].pop() else { return };
            let entry = P::table(rib).dest(dest);
            let (prefix, set) = (entry.prefix.to_net(), entry.next_hops);
            let told = if set == SetId::NONE {
                self.told[family].remove(dest)
            } else {
                self.told[family].insert(dest);
                true
            };
            if set == SetId::NONE {
                self.unconfirmed.forget(P::FAMILY, dest);
                settled.push((P::FAMILY, dest));
            } else {
                self.unconfirmed.taken(P::FAMILY, dest, self.sequence + 1);
            }
            if told {
                deltas.push(FibDelta { prefix, next_hops: rib.next_hops.get(set) });
            }
            if !self.holds(P::FAMILY, dest) {
                P::table_mut(rib).unhold(dest);
            }
        }
    }

    fn release(&self, rib: &mut Rib) {
        for family in Family::ALL {
            with_family!(family, P => {
                let table = P::table_mut(rib);
                let all: Vec<DestId> = table
                    .iter()
                    .map(|(id, _)| id)
                    .filter(|id| self.holds(family, *id))
                    .collect();
                for dest in all {
                    table.unhold(dest);
                }
            });
        }
    }
}

/// All consumers.
#[derive(Debug, Default)]
pub(crate) struct Fib {
    subscribers: Vec<Subscriber>,
    last: u64,
    /// Announcements wait until the kernel has the route.
    wait: bool,
    /// Destinations with changes that a consumer has not carried out yet, by family; empty unless
    /// announcements wait for that.
    pub(super) awaited: [Bitmap; 2],
}

impl Fib {
    pub(super) fn mark<P: RibPrefix>(&mut self, table: &mut Table<P>, dest: DestId) {
        for subscriber in &mut self.subscribers {
            subscriber.mark(table, dest);
            if self.wait {
                subscriber.unconfirmed.mark(P::FAMILY, dest);
                self.awaited[P::FAMILY.index()].insert(dest);
            }
        }
    }

    pub(super) fn unconfirmed(&mut self, id: u64) -> Option<&mut Unconfirmed> {
        self.subscribers.iter_mut().find(|s| s.id == id).map(|s| &mut s.unconfirmed)
    }

    /// Whether the destination was awaited, and now no consumer has it still to carry out.
    pub(super) fn settle(&mut self, family: Family, dest: DestId) -> bool {
        let more = self.subscribers.iter().any(|s| s.unconfirmed.contains(family, dest));
        !more && self.awaited[family.index()].remove(dest)
    }

    /// Has announcements wait, or not; returns those that need not any more.
    pub(super) fn wait_for_kernel(&mut self, wait: bool) -> Vec<(Family, DestId)> {
        self.wait = wait;
        if wait {
            return Vec::new();
        }
        for subscriber in &mut self.subscribers {
            subscriber.unconfirmed = Unconfirmed::default();
        }
        let awaited = std::mem::take(&mut self.awaited);
        let of = |family: Family| awaited[family.index()].iter().map(move |dest| (family, dest));
        Family::ALL.into_iter().flat_map(of).collect()
    }

    /// Prefixes with changes that a consumer has not carried out yet.
    pub(super) fn awaited(&self) -> usize {
        self.awaited.iter().map(Bitmap::len).sum()
    }

    /// Wakes those that have something to take.
    pub(super) fn notify(&self, converged: bool) {
        for subscriber in &self.subscribers {
            if !subscriber.is_empty() || (converged && !subscriber.converged) {
                subscriber.wake.notify_one();
            }
        }
    }

    /// Most changes that wait for one subscriber, and batches not acknowledged.
    pub(super) fn backlog(&self) -> (usize, usize) {
        let waiting =
            self.subscribers.iter().map(|s| s.pending.iter().map(DirtyList::len).sum()).max();
        let unacknowledged = self.subscribers.iter().map(|s| s.unacknowledged.len()).sum();
        (waiting.unwrap_or(0), unacknowledged)
    }
}

impl Core {
    /// A new consumer: everything there is waits for it.
    pub(crate) fn subscribe(&mut self, wake: Arc<Notify>) -> u64 {
        self.fib.last += 1;
        let mut subscriber = Subscriber {
            id: self.fib.last,
            told: Default::default(),
            pending: Default::default(),
            sequence: 0,
            unacknowledged: VecDeque::new(),
            unconfirmed: Unconfirmed::default(),
            converged: false,
            wake,
        };
        for family in Family::ALL {
            with_family!(family, P => {
                let table = P::table_mut(&mut self.rib);
                let all: Vec<DestId> = table
                    .iter()
                    .filter(|(_, dest)| dest.next_hops != SetId::NONE)
                    .map(|(id, _)| id)
                    .collect();
                for dest in all {
                    subscriber.mark(table, dest);
                    if self.fib.wait {
                        subscriber.unconfirmed.mark(family, dest);
                        self.fib.awaited[family.index()].insert(dest);
                    }
                }
            });
        }
        self.fib.subscribers.push(subscriber);
        self.fib.notify(self.progress.converged);
        self.fib.last
    }

    pub(crate) fn unsubscribe(&mut self, id: u64) {
        if let Some(at) = self.fib.subscribers.iter().position(|s| s.id == id) {
            let subscriber = self.fib.subscribers.swap_remove(at);
            self.confirm_all(&subscriber.unconfirmed);
            subscriber.release(&mut self.rib);
        }
    }

    /// Up to `max` changes for a consumer; None if it is not one.
    pub(crate) fn take_deltas(&mut self, id: u64, max: usize) -> Option<FibBatch> {
        let converged = self.progress.converged;
        let subscriber = self.fib.subscribers.iter_mut().find(|s| s.id == id)?;
        let mut deltas = Vec::new();
        let mut settled = Vec::new();
        for family in Family::ALL {
            with_family!(family, P => {
                subscriber.take::<P>(&mut self.rib, max, &mut deltas, &mut settled);
            });
        }
        let more = !subscriber.is_empty();
        subscriber.converged |= converged && !more;
        subscriber.sequence += 1;
        if !deltas.is_empty() {
            subscriber.unacknowledged.push_back(subscriber.sequence);
        }
        if more {
            subscriber.wake.notify_one();
        }
        let (sequence, converged) = (subscriber.sequence, subscriber.converged);
        for (family, dest) in settled {
            self.fib.settle(family, dest);
        }
        Some(FibBatch { sequence, deltas, more, converged })
    }

    /// A consumer has carried out all batches up to this one.
    pub(crate) fn acknowledge(&mut self, id: u64, sequence: u64) {
        if let Some(subscriber) = self.fib.subscribers.iter_mut().find(|s| s.id == id) {
            subscriber.unacknowledged.retain(|taken| *taken > sequence);
        }
        self.confirm(id, sequence);
    }
}
