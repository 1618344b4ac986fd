//! All pods of the cluster, by key. There may be very many, so a key is kept once, in the pod, and the
//! table, which is up to twice as large as it need be, holds nothing but pointers.

use std::hash::BuildHasher as _;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::FxBuildHasher;

use super::shapes::ShapeId;
use crate::model::{ObjectKey, Pod};

#[derive(Clone, Debug)]
pub(super) struct PodEntry {
    pub(super) pod: Pod,
    /// None if it has no addresses of its own: not started, finished, or on the host's network.
    pub(super) shape: Option<ShapeId>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Pods {
    table: HashTable<Box<PodEntry>>,
}

fn hash(key: &ObjectKey) -> u64 {
    FxBuildHasher.hash_one(key)
}

impl Pods {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&PodEntry> {
        let found = self.table.find(hash(key), |entry| entry.pod.key == *key);
        found.map(|entry| &**entry)
    }

    /// What was there under the pod's key before.
    pub(super) fn insert(&mut self, entry: PodEntry) -> Option<PodEntry> {
        let key = &entry.pod.key;
        let slot = self.table.entry(
            hash(key),
            |known| known.pod.key == *key,
            |known| hash(&known.pod.key),
        );
        match slot {
            Entry::Occupied(mut known) => Some(std::mem::replace(&mut **known.get_mut(), entry)),
            Entry::Vacant(vacant) => {
                vacant.insert(Box::new(entry));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<PodEntry> {
        let found = self.table.find_entry(hash(key), |entry| entry.pod.key == *key).ok()?;
        Some(*found.remove().0)
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &PodEntry> {
        self.table.iter().map(|entry| &**entry)
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Labels;

    fn entry(name: usize, uid: &str) -> PodEntry {
        let pod = Pod {
            key: ObjectKey::namespaced("ns", &name.to_string()),
            uid: uid.into(),
            mirror_uid: None,
            node: None,
            labels: Labels::default(),
            service_account: "default".into(),
            addresses: smallvec::SmallVec::new(),
            ports: Arc::default(),
            host_network: false,
            annotations: Labels::default(),
        };
        PodEntry { pod, shape: None }
    }

    #[test]
    fn a_pod_is_found_by_its_key_as_it_was_put_in_last() {
        let mut pods = Pods::default();
        for name in 0..1000 {
            assert!(pods.insert(entry(name, "first")).is_none());
        }
        for name in 0..500 {
            let before = pods.insert(entry(name, "second")).unwrap();
            assert_eq!(*before.pod.uid, *"first");
        }
        assert_eq!(pods.len(), 1000);
        let uid = |pods: &Pods, name: usize| {
            let key = entry(name, "").pod.key;
            pods.get(&key).map(|entry| entry.pod.uid.to_string())
        };
        assert_eq!(uid(&pods, 499).as_deref(), Some("second"));
        assert_eq!(uid(&pods, 500).as_deref(), Some("first"));
        assert_eq!(uid(&pods, 1000), None);
        assert!(pods.remove(&entry(7, "").pod.key).is_some_and(|gone| *gone.pod.uid == *"second"));
        assert!(pods.remove(&entry(7, "").pod.key).is_none());
        assert_eq!((uid(&pods, 7), pods.len(), pods.iter().count()), (None, 999, 999));
    }
}
