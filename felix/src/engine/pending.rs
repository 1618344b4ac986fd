//! What has changed since the last delta was taken, at most one change for a key.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::model::{Change, Delta, Key, Value};

/// Changes not taken yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// For each key touched: its value when the last delta was taken, and now.
    elements: FxHashMap<Key, (Option<Value>, Option<Value>)>,
    rejudge: BTreeSet<IpAddr>,
    rejudge_ranges: BTreeSet<(IpAddr, IpAddr)>,
}

impl Pending {
    /// Records that `key` goes from `before` to `now`. `before` is what the previous call for this
    /// key said `now` was, or what the last delta left.
    pub(super) fn set(&mut self, key: Key, before: Option<Value>, now: Option<Value>) {
        if before == now {
            return;
        }
        let entry = self.elements.entry(key).or_insert((before, before));
        debug_assert_eq!(entry.1, before, "two owners of {key:?}");
        entry.1 = now;
    }

    /// Has the flows of `address` judged again.
    pub(super) fn rejudge(&mut self, address: IpAddr) {
        self.rejudge.insert(address);
    }

    /// The same of all addresses from `first` to `last`, of one family.
    pub(super) fn rejudge_range(&mut self, first: IpAddr, last: IpAddr) {
        self.rejudge_ranges.insert((first, last));
    }

    /// Everything recorded, in key order; None if it comes to nothing.
    pub(super) fn take(&mut self) -> Option<Delta> {
        let mut elements: Vec<Change> = std::mem::take(&mut self.elements)
            .into_iter()
            .filter(|(_, (before, now))| before != now)
            .map(|(key, (_, value))| Change { key, value })
            .collect();
        elements.sort_unstable_by_key(|change| change.key);
        let rejudge: Vec<IpAddr> = std::mem::take(&mut self.rejudge).into_iter().collect();
        let rejudge_ranges: Vec<_> = std::mem::take(&mut self.rejudge_ranges).into_iter().collect();
        let something = !elements.is_empty() || !rejudge.is_empty() || !rejudge_ranges.is_empty();
        something.then(|| Delta { elements, rejudge, rejudge_ranges, deciders: Vec::new() })
    }
}
