//! Which revision of each policy the kernel has, and since when. Pure.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::engine::PolicyId;
use crate::model::{Kind, Update};

/// A revision that is in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// `metadata.generation`; None in a folder.
    pub(super) generation: Option<i64>,
    pub(super) since: Instant,
}

/// Of all policies.
#[derive(Debug, Default)]
pub(super) struct Revisions {
    /// Taken in, but not yet known to be in the kernel.
    wanted: BTreeMap<PolicyId, Option<i64>>,
    held: BTreeMap<PolicyId, Held>,
}

impl Revisions {
    /// Notes a change of a policy. A source tells of one that is as it was no second time.
    pub(super) fn take_in(&mut self, update: &Update) {
        match update {
            Update::Set(object) if is_policy(object.kind()) => {
                let id = PolicyId { kind: object.kind(), key: object.key() };
                self.wanted.insert(id, object.generation());
            }
            Update::Remove(kind, key) if is_policy(*kind) => {
                let id = PolicyId { kind: *kind, key: key.clone() };
                self.wanted.remove(&id);
                self.held.remove(&id);
            }
            _ => {}
        }
    }

    /// What has been taken in is in the kernel now.
    pub(super) fn written(&mut self, now: Instant) {
        for (id, generation) in std::mem::take(&mut self.wanted) {
            self.held.insert(id, Held { generation, since: now });
        }
    }

    /// What the kernel has of a policy, and whether that is the latest. None if it never had any.
    pub(super) fn held(&self, id: &PolicyId) -> Option<(Held, bool)> {
        self.held.get(id).map(|held| (*held, !self.wanted.contains_key(id)))
    }
}

fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::KubernetesNetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn set(name: &str, generation: Option<i64>) -> Update {
        let object = json!({ "metadata": { "name": name, "generation": generation }, "spec": {} });
        let policy: api::v3::GlobalNetworkPolicy = serde_json::from_value(object).unwrap();
        Update::Set(policy.into())
    }

    #[test]
    fn a_revision_counts_from_when_the_kernel_has_it() {
        let key = crate::model::ObjectKey::cluster("a");
        let id = PolicyId { kind: Kind::GlobalNetworkPolicy, key: key.clone() };
        let mut revisions = Revisions::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let first = Held { generation: Some(1), since: start };
        revisions.take_in(&set("a", Some(1)));
        assert_eq!(revisions.held(&id), None);
        revisions.written(start);
        assert_eq!(revisions.held(&id), Some((first, true)));
        revisions.written(later);
        assert_eq!(revisions.held(&id), Some((first, true)), "others were written");
        revisions.take_in(&set("a", None));
        assert_eq!(revisions.held(&id), Some((first, false)));
        revisions.written(later);
        let second = Held { generation: None, since: later };
        assert_eq!(revisions.held(&id), Some((second, true)));
        revisions.take_in(&Update::Remove(Kind::GlobalNetworkPolicy, key));
        assert_eq!(revisions.held(&id), None);
    }
}
