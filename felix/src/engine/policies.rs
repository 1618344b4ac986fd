//! The policies known, and which of them apply to which endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::active::ActivePolicy;
use super::atoms::Atoms;
use super::policy::{OfHosts, Policy, PolicyId, Tier};
use super::postings::SelectorIndex;
use super::shapes::{Bearer, ShapeId, Shapes};
use super::terms::{Analysis, Term};

/// Numbers one content of one policy. Never given twice, so that what was compiled from an older
/// content is never taken for the new one.
pub(super) type Revision = u64;

#[derive(Clone, Debug)]
struct Entry {
    policy: Arc<Policy>,
    /// What its subject is filed under.
    term: Option<Term>,
    /// Endpoints of this node that it applies to.
    applied: u32,
    /// Present while it applies to any.
    active: Option<Arc<ActivePolicy>>,
    /// Replaced or removed; kept until no endpoint refers to it.
    retired: bool,
}

/// All policies.
#[derive(Clone, Debug, Default)]
pub(super) struct Policies {
    by_id: BTreeMap<PolicyId, Revision>,
    entries: BTreeMap<Revision, Entry>,
    subjects: SelectorIndex<Revision>,
    last: Revision,
    added: Vec<Revision>,
    retired: Vec<Revision>,
    /// Entries whose `applied` changed.
    touched: Vec<Revision>,
}

/// Policies that came and went, ascending.
#[derive(Debug, Default)]
pub(super) struct PolicyChanges {
    pub(super) added: Vec<Revision>,
    pub(super) retired: Vec<Revision>,
}

impl PolicyChanges {
    /// Nothing came or went.
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.retired.is_empty()
    }
}

impl Policies {
    /// The policy is now this.
    pub(super) fn set(&mut self, policy: Policy) {
        if let Some(entry) = self.by_id.get(&policy.id).and_then(|old| self.entries.get(old))
            && *entry.policy == policy
        {
            return;
        }
        self.remove(&policy.id);
        self.last += 1;
        let revision = self.last;
        // Few endpoints are local: any label will do, a value better than mere presence.
        let term = Analysis::of(&policy.subject).terms.into_iter().min_by_key(|term| match term {
            Term::Label(_, Some(_)) => 0,
            Term::Namespace(_) => 1,
            Term::NamespaceLabel(_, Some(_)) => 2,
            Term::Label(_, None) | Term::NamespaceLabel(_, None) => 3,
        });
        self.subjects.insert(revision, term.as_ref());
        self.by_id.insert(policy.id.clone(), revision);
        let policy = Arc::new(policy);
        let entry = Entry { policy, term, applied: 0, active: None, retired: false };
        self.entries.insert(revision, entry);
        self.added.push(revision);
    }

    /// The tier is now this, or missing.
    pub(super) fn set_tier(&mut self, tier: &Arc<Tier>) {
        let of_tier = self.all().filter(|policy| policy.tier.name == tier.name);
        let moved: Vec<Policy> =
            of_tier.map(|policy| Policy { tier: tier.clone(), ..Policy::clone(policy) }).collect();
        moved.into_iter().for_each(|policy| self.set(policy));
    }

    /// All policies in force, by id.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Policy>> {
        let entries = self.by_id.values().filter_map(|revision| self.entries.get(revision));
        entries.map(|entry| &entry.policy)
    }

    /// The revisions in force, in evaluation order.
    pub(super) fn in_order(&self) -> Vec<Revision> {
        let mut all: Vec<Revision> = self.by_id.values().copied().collect();
        self.sort(&mut all);
        all
    }

    /// The policy is gone.
    pub(super) fn remove(&mut self, id: &PolicyId) {
        let Some(revision) = self.by_id.remove(id) else { return };
        if let Some(entry) = self.entries.get_mut(&revision) {
            entry.retired = true;
            self.subjects.remove(revision, entry.term.as_ref());
            self.retired.push(revision);
        }
    }

    /// What came and went since the last call.
    pub(super) fn take_changes(&mut self) -> PolicyChanges {
        let mut added = std::mem::take(&mut self.added);
        let mut retired = std::mem::take(&mut self.retired);
        retired.sort_unstable();
        added.retain(|revision| self.entries.get(revision).is_some_and(|entry| !entry.retired));
        for revision in &retired {
            self.forget_if_unused(*revision);
        }
        PolicyChanges { added, retired }
    }

    /// The policies that apply to a workload, in evaluation order.
    pub(super) fn applicable(&self, shapes: &Shapes, shape: ShapeId) -> Vec<Revision> {
        let Some(view) = shapes.view(shape) else { return Vec::new() };
        let mut list = self.subjects.candidates(&view);
        list.retain(|revision| self.applies(*revision, shapes, shape));
        self.sort(&mut list);
        list
    }

    /// Whether a policy applies to a workload.
    pub(super) fn applies(&self, revision: Revision, shapes: &Shapes, shape: ShapeId) -> bool {
        let is_host = shapes.key(shape).is_some_and(|key| key.bearer == Bearer::HostEndpoint);
        let concerns = |hosts: OfHosts| match hosts {
            OfHosts::Nothing => !is_host,
            OfHosts::Own | OfHosts::Forwarded => true,
            OfHosts::PreDnat | OfHosts::Untracked | OfHosts::Unclear => is_host,
        };
        let entry = self.entries.get(&revision);
        entry.is_some_and(|entry| {
            !entry.retired
                && concerns(entry.policy.hosts)
                && shapes.matches(shape, &entry.policy.subject)
        })
    }

    /// Puts policies in evaluation order.
    pub(super) fn sort(&self, list: &mut [Revision]) {
        list.sort_by(|a, b| match (self.entries.get(a), self.entries.get(b)) {
            (Some(a), Some(b)) => a.policy.evaluation_order(&b.policy),
            _ => a.cmp(b),
        });
    }

    /// An endpoint is subject to `now` instead of `before`.
    pub(super) fn reapply(&mut self, before: &[Revision], now: &[Revision]) {
        for revision in now {
            if let Some(entry) = self.entries.get_mut(revision) {
                entry.applied += 1;
            }
        }
        for revision in before {
            if let Some(entry) = self.entries.get_mut(revision) {
                entry.applied -= 1;
            }
        }
        self.touched.extend(before.iter().chain(now));
    }

    /// Makes policies active that apply to an endpoint now, and gives back what others asked.
    pub(super) fn settle(&mut self, atoms: &mut Atoms) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for revision in &touched {
            if let Some(entry) = self.entries.get_mut(revision)
                && entry.applied > 0
                && entry.active.is_none()
            {
                entry.active = Some(Arc::new(ActivePolicy::new(&entry.policy, atoms)));
            }
        }
        for revision in touched {
            if let Some(entry) = self.entries.get_mut(&revision)
                && entry.applied == 0
                && let Some(active) = entry.active.take()
            {
                active.release(atoms);
            }
            self.forget_if_unused(revision);
        }
    }

    /// A policy as its author wrote it.
    pub(super) fn policy(&self, revision: Revision) -> Option<&Arc<Policy>> {
        self.entries.get(&revision).map(|entry| &entry.policy)
    }

    /// To how many endpoints of this node it applies.
    pub(super) fn applied(&self, revision: Revision) -> usize {
        self.entries.get(&revision).map_or(0, |entry| entry.applied as usize)
    }

    /// A policy that applies to an endpoint.
    pub(super) fn active(&self, revision: Revision) -> Option<&Arc<ActivePolicy>> {
        self.entries.get(&revision)?.active.as_ref()
    }

    /// How many policies there are, and how many of them apply to an endpoint of this node.
    pub(super) fn counts(&self) -> (usize, usize) {
        let active = self.entries.values().filter(|entry| entry.active.is_some());
        (self.by_id.len(), active.count())
    }

    fn forget_if_unused(&mut self, revision: Revision) {
        if self
            .entries
            .get(&revision)
            .is_some_and(|entry| entry.retired && entry.applied == 0 && entry.active.is_none())
        {
            self.entries.remove(&revision);
        }
    }
}
