//! Staged policies: a second engine in which they are in force, beside the one whose tables the kernel
//! has. It exists while there is a staged policy that would change anything, takes in what the first
//! takes in, and what it comes to goes nowhere: it is only asked.
//!
//! A staged policy stands for the policy of its name and kind. While it is there the second engine has
//! it in that one's place, or, if it is to delete it, neither.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::v3::StagedAction;
use k8s_openapi::api::networking::v1 as networking;
use kube::core::ObjectMeta;

use super::{Denial, Engine, Failsafe, HostLink, PolicyId, PolicyStanding, Problem};
use crate::model::{EndpointId, Flow, IfIndex, Kind, LocalEndpoint, Object, ObjectKey, Update};
use crate::names::learned::Change;

/// How a staged policy stands on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedStanding {
    /// As if it were in force; the endpoints are those that it would select.
    pub standing: PolicyStanding,
    /// What it would do.
    pub action: StagedAction,
}

/// A staged policy.
#[derive(Clone, Debug)]
struct Entry {
    action: StagedAction,
    /// The policy as it would be.
    policy: Object,
}

/// All staged policies, and what is as if they were in force.
#[derive(Debug, Default)]
pub struct Staged {
    /// By the policy that they stand for.
    entries: BTreeMap<PolicyId, Entry>,
    then: Option<Box<Engine>>,
}

impl Staged {
    /// Takes in one change of intent, before `engine` does.
    pub fn apply(&mut self, update: &Update, engine: &Engine) {
        let id = match update {
            Update::Set(object) => match entry(object) {
                Some(entry) => {
                    let id = PolicyId { kind: entry.policy.kind(), key: entry.policy.key() };
                    self.entries.insert(id.clone(), entry);
                    id
                }
                None => return self.pass_on(update, object.kind(), &object.key()),
            },
            Update::Remove(kind, key) => match stands_for(*kind) {
                Some(kind) => {
                    let id = PolicyId { kind, key: key.clone() };
                    self.entries.remove(&id);
                    id
                }
                None => return self.pass_on(update, *kind, key),
            },
            Update::InSync => {
                if let Some(then) = &mut self.then {
                    then.apply(Update::InSync);
                }
                return;
            }
        };
        if !self.changes_anything() {
            self.then = None;
        } else if let Some(then) = &mut self.then {
            then.apply(wanted(&id, self.entries.get(&id), engine));
        }
    }

    /// An endpoint is on this node.
    pub fn endpoint_set(&mut self, endpoint: &LocalEndpoint) {
        if let Some(then) = &mut self.then {
            then.endpoint_set(endpoint.clone());
        }
    }

    /// As [`Engine::learn`].
    pub fn learn(&mut self, change: &Change) {
        if let Some(then) = &mut self.then {
            then.learn(change.clone());
        }
    }

    /// As [`Engine::set_host_links`].
    pub fn set_host_links(&mut self, links: &[HostLink]) {
        if let Some(then) = &mut self.then {
            then.set_host_links(links.to_vec());
        }
    }

    /// As [`Engine::set_failsafe`].
    pub fn set_failsafe(&mut self, ports: &[Failsafe]) {
        if let Some(then) = &mut self.then {
            then.set_failsafe(ports.to_vec());
        }
    }

    /// An endpoint is not on this node any more.
    pub fn endpoint_remove(&mut self, id: &EndpointId) {
        if let Some(then) = &mut self.then {
            then.endpoint_remove(id);
        }
    }

    /// Works out what follows from all that was taken in. The first time, and once `engine` is in
    /// sync, that is a copy of all of it.
    pub fn settle(&mut self, engine: &Engine) {
        if self.then.is_none() && engine.in_sync() && self.changes_anything() {
            let mut then = Box::new(engine.clone());
            for (id, entry) in &self.entries {
                then.apply(wanted(id, Some(entry), engine));
            }
            self.then = Some(then);
        }
        if let Some(then) = &mut self.then {
            // The kernel gets nothing of it, and nobody is told of it unasked.
            drop(then.take_delta());
            drop(then.take_news());
        }
    }

    /// What is as if the staged policies were in force; None where that would change nothing.
    pub fn engine(&self) -> Option<&Engine> {
        self.then.as_deref()
    }

    /// Who would deny a packet; see [`Engine::denial`]. Staged policies have their own names.
    pub fn denial(
        &self,
        flow: &Flow,
        input: Option<IfIndex>,
        output: Option<IfIndex>,
    ) -> Option<Denial> {
        let mut denial = self.then.as_ref()?.denial(flow, input, output)?;
        for name in denial.policy.iter_mut().chain(&mut denial.selected_by) {
            self.rename(name);
        }
        Some(denial)
    }

    /// Puts the name of a staged policy in the place of that of the policy which it stands for.
    pub fn rename(&self, policy: &mut String) {
        let of = |(id, entry): &(&PolicyId, &Entry)| {
            entry.action == StagedAction::Set && id.to_string() == *policy
        };
        if let Some((id, _)) = self.entries.iter().find(of) {
            *policy = staged(id).to_string();
        }
    }

    /// How the staged policies stand, in no order that means anything.
    pub fn policies(&self) -> Vec<StagedStanding> {
        let mut evaluated: BTreeMap<PolicyId, PolicyStanding> = BTreeMap::new();
        if let Some(then) = &self.then {
            evaluated.extend(then.policies().map(|standing| (standing.id.clone(), standing)));
        }
        let standing = |(id, entry): (&PolicyId, &Entry)| {
            let known = evaluated.remove(id).filter(|_| entry.action == StagedAction::Set);
            let standing = known.unwrap_or_else(|| PolicyStanding {
                id: id.clone(),
                tier: tier(&entry.policy),
                ingress: false,
                egress: false,
                endpoints: 0,
                generation: None,
            });
            let generation = entry.policy.generation();
            let standing = PolicyStanding { id: staged(id), generation, ..standing };
            StagedStanding { standing, action: entry.action }
        };
        self.entries.iter().map(standing).collect()
    }

    /// What is wrong with them.
    pub fn problems(&self) -> Vec<Problem> {
        let all = self.then.iter().flat_map(|then| then.problems());
        let ours = all.filter_map(|problem| {
            let id = PolicyId { kind: problem.kind, key: problem.key.clone() };
            let entry = self.entries.get(&id)?;
            let kind = staged(&id).kind;
            (entry.action == StagedAction::Set).then_some(Problem { kind, ..problem })
        });
        ours.collect()
    }

    fn changes_anything(&self) -> bool {
        let acts = |entry: &Entry| matches!(entry.action, StagedAction::Set | StagedAction::Delete);
        self.entries.values().any(acts)
    }

    /// A change of something else; of a policy that a staged one stands for it changes nothing.
    fn pass_on(&mut self, update: &Update, kind: Kind, key: &ObjectKey) {
        let Some(then) = &mut self.then else { return };
        let id = PolicyId { kind, key: key.clone() };
        let acts = |entry: &Entry| matches!(entry.action, StagedAction::Set | StagedAction::Delete);
        if !self.entries.get(&id).is_some_and(acts) {
            then.apply(update.clone());
        }
    }
}

/// What the second engine is to have under a policy's name.
fn wanted(id: &PolicyId, entry: Option<&Entry>, engine: &Engine) -> Update {
    let gone = || Update::Remove(id.kind, id.key.clone());
    match entry.map(|entry| (entry.action, &entry.policy)) {
        Some((StagedAction::Set, policy)) => Update::Set(policy.clone()),
        Some((StagedAction::Delete, _)) => gone(),
        Some((StagedAction::Learn | StagedAction::Ignore, _)) | None => {
            engine.written.get(id).cloned().map_or_else(gone, Update::Set)
        }
    }
}

/// A staged policy as what it stands for; None: it is something else.
fn entry(object: &Object) -> Option<Entry> {
    let own = |meta: &ObjectMeta| meta.clone();
    Some(match object {
        Object::StagedNetworkPolicy(staged) => Entry {
            action: staged.spec.staged_action,
            policy: Object::NetworkPolicy(Arc::new(api::v3::NetworkPolicy {
                metadata: own(&staged.metadata),
                spec: staged.spec.policy.clone(),
            })),
        },
        Object::StagedGlobalNetworkPolicy(staged) => Entry {
            action: staged.spec.staged_action,
            policy: Object::GlobalNetworkPolicy(Arc::new(api::v3::GlobalNetworkPolicy {
                metadata: own(&staged.metadata),
                spec: staged.spec.policy.clone(),
            })),
        },
        Object::StagedKubernetesNetworkPolicy(staged) => Entry {
            action: staged.spec.staged_action,
            policy: Object::KubernetesNetworkPolicy(Arc::new(networking::NetworkPolicy {
                metadata: own(&staged.metadata),
                spec: Some(staged.spec.policy.clone()),
            })),
        },
        _ => return None,
    })
}

/// The kind that a staged kind stands for.
fn stands_for(kind: Kind) -> Option<Kind> {
    Some(match kind {
        Kind::StagedNetworkPolicy => Kind::NetworkPolicy,
        Kind::StagedGlobalNetworkPolicy => Kind::GlobalNetworkPolicy,
        Kind::StagedKubernetesNetworkPolicy => Kind::KubernetesNetworkPolicy,
        _ => return None,
    })
}

/// The staged policy that stands for one.
fn staged(id: &PolicyId) -> PolicyId {
    let kind = match id.kind {
        Kind::NetworkPolicy => Kind::StagedNetworkPolicy,
        Kind::GlobalNetworkPolicy => Kind::StagedGlobalNetworkPolicy,
        Kind::KubernetesNetworkPolicy => Kind::StagedKubernetesNetworkPolicy,
        other => other,
    };
    PolicyId { kind, key: id.key.clone() }
}

fn tier(policy: &Object) -> Arc<str> {
    match policy {
        Object::NetworkPolicy(policy) => policy.spec.tier.as_str().into(),
        Object::GlobalNetworkPolicy(policy) => policy.spec.tier.as_str().into(),
        _ => api::v3::DEFAULT_TIER.into(),
    }
}
