//! What has changed since the last delta was taken, at most one change for a key.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{Change, Delta, Key, Value};

/// Changes not taken yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// For each key touched: its value when the last delta was taken, and now.
    elements: FxHashMap<Key, (Option<Value>, Option<Value>)>,
    rejudge: BTreeSet<IpAddr>,
    rejudge_ranges: BTreeSet<(IpAddr, IpAddr)>,
    comments: FxHashMap<Key, Arc<str>>,
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

    /// Says something about an element for those who read the kernel's list.
    pub(super) fn comment(&mut self, key: Key, text: Arc<str>) {
        self.comments.insert(key, text);
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
        let gone = |key: &Key| self.elements.get(key).is_some_and(|(_, now)| now.is_none());
        self.comments.retain(|key, _| !gone(key));
        let mut elements: Vec<Change> = std::mem::take(&mut self.elements)
            .into_iter()
            .filter(|(_, (before, now))| before != now)
            .map(|(key, (_, value))| Change { key, value })
            .collect();
        elements.sort_unstable_by_key(|change| change.key);
        let mut comments: Vec<_> = std::mem::take(&mut self.comments).into_iter().collect();
        comments.sort_unstable_by_key(|(key, _)| *key);
        let delta = Delta {
            elements,
            rejudge: std::mem::take(&mut self.rejudge).into_iter().collect(),
            rejudge_ranges: std::mem::take(&mut self.rejudge_ranges).into_iter().collect(),
            deciders: Vec::new(),
            comments,
        };
        (delta != Delta::default()).then_some(delta)
    }
}
