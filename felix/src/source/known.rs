//! What has been yielded of one kind, so that only real changes pass. Pure.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::model::{Kind, Object, ObjectKey, Update};

/// The objects of one kind that are in force.
///
/// A list is taken in as it arrives: objects between [`Known::begin_list`] and
/// [`Known::end_list`] pass at once where they differ from what is known, and what the list did
/// not hold is removed at its end. A list that breaks off removes nothing.
pub(super) struct Known<S = RandomState> {
    kind: Kind,
    state: S,
    objects: HashMap<ObjectKey, Memory>,
    /// What the list under way has held so far.
    listed: Option<HashSet<ObjectKey>>,
}

/// What is kept of an object, to tell whether it changes.
#[derive(PartialEq)]
enum Memory {
    Digest(u64),
    /// Shared with whoever else keeps it.
    Whole(Object),
}

impl Known {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, state: RandomState::new(), objects: HashMap::new(), listed: None }
    }
}

impl<S: BuildHasher> Known<S> {
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// A list begins; one that was under way is forgotten.
    pub(super) fn begin_list(&mut self) {
        self.listed = Some(HashSet::with_capacity(self.objects.len()));
    }

    /// The object is there and is now this. None: as it was already.
    pub(super) fn set(&mut self, object: Object) -> Option<Update> {
        let key = object.key();
        let memory = object
            .digest(&self.state)
            .map_or_else(|| Memory::Whole(object.clone()), Memory::Digest);
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        if self.objects.get(&key) == Some(&memory) {
            return None;
        }
        self.objects.insert(key, memory);
        Some(Update::Set(object))
    }

    /// The object is there but cannot be read: what is known of it stays.
    pub(super) fn keep(&mut self, key: ObjectKey) {
        if let Some(listed) = &mut self.listed {
            listed.insert(key);
        }
    }

    /// The object is gone. None: it was not known.
    pub(super) fn remove(&mut self, key: ObjectKey) -> Option<Update> {
        if let Some(listed) = &mut self.listed {
            listed.remove(&key);
        }
        self.objects.remove(&key).map(|_| Update::Remove(self.kind, key))
    }

    /// The list is complete: what it did not hold is gone.
    pub(super) fn end_list(&mut self) -> Vec<Update> {
        let Some(listed) = self.listed.take() else { return Vec::new() };
        let mut gone: Vec<ObjectKey> =
            self.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
        gone.sort_unstable();
        gone.into_iter().filter_map(|key| self.remove(key)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Namespace;

    fn namespace(name: &str, label: &str) -> Object {
        Object::Namespace(Namespace {
            name: name.into(),
            labels: [("l", label)].into_iter().collect(),
            annotations: crate::model::Labels::default(),
        })
    }

    fn removed(updates: &[Update]) -> Vec<String> {
        updates
            .iter()
            .map(|update| match update {
                Update::Remove(Kind::Namespace, key) => key.to_string(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn only_real_changes_pass() {
        let mut known = Known::new(Kind::Namespace);
        assert!(known.set(namespace("a", "1")).is_some());
        assert!(known.set(namespace("a", "1")).is_none());
        assert!(known.set(namespace("a", "2")).is_some());
        assert!(known.remove(ObjectKey::cluster("a")).is_some());
        assert!(known.remove(ObjectKey::cluster("a")).is_none());
        assert!(known.set(namespace("a", "2")).is_some());
        assert_eq!(known.len(), 1);
    }

    #[test]
    fn a_list_removes_what_it_did_not_hold() {
        let mut known = Known::new(Kind::Namespace);
        for name in ["a", "b", "c", "d"] {
            known.set(namespace(name, "1"));
        }
        known.begin_list();
        assert!(known.set(namespace("b", "1")).is_none());
        assert!(known.set(namespace("e", "1")).is_some());
        known.keep(ObjectKey::cluster("d"));
        assert_eq!(removed(&known.end_list()), ["a", "c"]);
        assert!(known.end_list().is_empty(), "no list is under way");
        assert_eq!(known.len(), 3);
    }

    #[test]
    fn a_list_that_breaks_off_removes_nothing() {
        let mut known = Known::new(Kind::Namespace);
        for name in ["a", "b"] {
            known.set(namespace(name, "1"));
        }
        known.begin_list();
        known.begin_list();
        known.set(namespace("a", "1"));
        assert_eq!(removed(&known.end_list()), ["b"]);
    }
}
