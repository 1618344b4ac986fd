//! The state that the memory and the embedded store share: keys, revisions, and the history that
//! watches and reads of the past need. Pure.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use super::{Entry, Event, NoneCreated, Outcome, Revision, Snapshot, Txn, Write};

/// One change of one key.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) key: String,
    before: Option<Entry>,
    pub(crate) after: Option<Entry>,
}

impl Change {
    fn event(&self) -> Event {
        match &self.after {
            Some(entry) => Event::Put(entry.clone()),
            None => Event::Delete(self.key.clone(), self.revision),
        }
    }
}

/// A revision that is older than the history kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compacted(pub(crate) Revision);

#[derive(Debug)]
pub(crate) struct Mvcc {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    /// Changes after `compacted`, oldest first.
    history: VecDeque<Change>,
    compacted: Revision,
    keep: usize,
}

impl Mvcc {
    /// `keep` bounds the number of changes remembered.
    pub(crate) fn new(entries: Vec<Entry>, revision: Revision, keep: usize) -> Self {
        let entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        Self { entries, revision, history: VecDeque::new(), compacted: revision, keep }
    }

    /// The same, without its past.
    pub(crate) fn copy(&self) -> Self {
        Self::new(self.entries.values().cloned().collect(), self.revision, self.keep)
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn read(&self, keys: &[String]) -> Snapshot {
        let entries = keys.iter().filter_map(|key| self.entries.get(key).cloned()).collect();
        Snapshot { entries, revision: self.revision }
    }

    pub(crate) fn list(&self, prefix: &str, at: Option<Revision>) -> Result<Snapshot, Compacted> {
        let at = at.unwrap_or(self.revision).min(self.revision);
        if at < self.compacted {
            return Err(Compacted(at));
        }
        let mut entries: BTreeMap<&str, &Entry> = self
            .entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (key.as_str(), entry))
            .collect();
        for change in self.history.iter().rev().take_while(|change| change.revision > at) {
            if change.key.starts_with(prefix) {
                match &change.before {
                    Some(entry) => entries.insert(&change.key, entry),
                    None => entries.remove(change.key.as_str()),
                };
            }
        }
        Ok(Snapshot { entries: entries.into_values().cloned().collect(), revision: at })
    }

    /// The changes that a transaction makes, or what it found instead. Does nothing yet.
    pub(crate) fn evaluate(&self, txn: &Txn) -> Result<Vec<Change>, Vec<Option<Entry>>> {
        let found: Vec<_> =
            txn.compares.iter().map(|compare| self.entries.get(&compare.key)).collect();
        let holds = txn
            .compares
            .iter()
            .zip(&found)
            .all(|(want, entry)| want.mod_revision == entry.map_or(0, |e| e.mod_revision));
        if !holds || txn.none_created.iter().any(|guard| self.created_since(guard)) {
            return Err(found.into_iter().map(Option::<&Entry>::cloned).collect());
        }
        let revision = self.revision + 1;
        let changes = txn.writes.iter().filter_map(|write| {
            let key = write.key().to_owned();
            let before = self.entries.get(&key).cloned();
            let after = match write {
                Write::Put(key, value) => Some(Entry {
                    key: key.clone(),
                    value: Arc::from(value.as_slice()),
                    mod_revision: revision,
                }),
                Write::Delete(_) => None,
            };
            (before.is_some() || after.is_some()).then_some(Change { revision, key, before, after })
        });
        Ok(changes.collect())
    }

    /// What the keys that a transaction compares hold.
    pub(crate) fn compared(&self, txn: &Txn) -> Vec<Option<Entry>> {
        txn.compares.iter().map(|compare| self.entries.get(&compare.key).cloned()).collect()
    }

    /// True if a key that exists came into being after the revision, or if that is forgotten.
    fn created_since(&self, guard: &NoneCreated) -> bool {
        let first = self.history.partition_point(|change| change.revision <= guard.since);
        guard.since < self.compacted
            || self.history.iter().skip(first).any(|change| {
                change.before.is_none()
                    && change.key.starts_with(&guard.prefix)
                    && self.entries.contains_key(&change.key)
            })
    }

    /// Makes the changes that [`Mvcc::evaluate`] found.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) -> Outcome {
        for change in changes {
            self.revision = change.revision;
            match change.after.clone() {
                Some(entry) => self.entries.insert(change.key.clone(), entry),
                None => self.entries.remove(&change.key),
            };
            self.history.push_back(change);
        }
        while self.history.len() > self.keep {
            if let Some(dropped) = self.history.pop_front() {
                self.compact(dropped.revision);
            }
        }
        Outcome::Committed(self.revision)
    }

    /// Forgets what happened up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision.min(self.revision));
        while self.history.front().is_some_and(|change| change.revision <= self.compacted) {
            self.history.pop_front();
        }
    }

    /// What happened under a prefix after `after`.
    pub(crate) fn since(&self, prefix: &str, after: Revision) -> Result<Vec<Event>, Compacted> {
        if after < self.compacted {
            return Err(Compacted(after));
        }
        let first = self.history.partition_point(|change| change.revision <= after);
        let changes = self.history.iter().skip(first);
        Ok(changes.filter(|change| change.key.starts_with(prefix)).map(Change::event).collect())
    }
}
