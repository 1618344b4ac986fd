//! The brain: from what should be (pods, policies, pools; endpoints of this node) to the map
//! elements that make the kernel do it. Pure: no IO, no clock, no async.
//!
//! ```text
//!  policies ─▶ which apply here ─▶ atoms: what active policies ask about an address
//!                    │                │
//!  pods ─▶ shapes ───┼────────────────┴─▶ addresses ─▶ classes   (one element an address)
//!                    └─▶ programs: class ─▶ table of verdicts     (elements an endpoint)
//! ```
//! An address is in one *class*: the set of selectors, networks and named ports of active policies
//! that are true of it. A *program* is the ordered policies of an endpoint and direction, flattened
//! into a table of final verdicts for each class that they tell apart. So a pod anywhere in the
//! cluster is one element, and a packet costs the same whatever the policies are.
//!
//! [`Engine::apply`] and its like record; [`Engine::take_delta`] works out what follows from all
//! that was recorded since, and what that changes. The result depends on the present alone, not on
//! the order in which it came about.

mod addresses;
mod atoms;
mod classes;
mod convert;
mod idset;
mod pending;
mod policies;
mod policy;
mod pools;
mod postings;
mod program;
mod programs;
mod ranges;
mod report;
mod shapes;
mod stable_hash;
mod table;
mod terms;
#[cfg(test)]
mod tests;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use self::atoms::{Atoms, Question};
use self::classes::Classes;
use self::convert::FieldError;
use self::pending::Pending;
use self::policies::{Policies, Revision};
pub use self::policy::PolicyId;
use self::policy::Tier;
use self::pools::Pools;
use self::program::ProgramKey;
use self::programs::{Programs, User};
pub use self::report::{AppliedPolicy, Counts, Problem};
use self::workloads::{Local, Workloads};
use crate::model::{
    Delta, Direction, EndpointId, Flow, Kind, LocalEndpoint, NamedPort, Object, ObjectKey, Pod,
    Update, Verdict,
};

/// See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    workloads: Workloads,
    policies: Policies,
    default_tier: Arc<Tier>,
    atoms: Atoms,
    classes: Classes,
    programs: Programs,
    pools: Pools,
    host: BTreeSet<IpAddr>,
    errors: BTreeMap<PolicyId, Vec<FieldError>>,
    pending: Pending,
    in_sync: bool,
    /// A delta has been made: from now on only what changes is judged again.
    started: bool,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// An engine that knows nothing.
    pub fn new() -> Self {
        Self {
            workloads: Workloads::default(),
            policies: Policies::default(),
            default_tier: Arc::new(Tier::default_tier()),
            atoms: Atoms::default(),
            classes: Classes::default(),
            programs: Programs::default(),
            pools: Pools::default(),
            host: BTreeSet::new(),
            errors: BTreeMap::new(),
            pending: Pending::default(),
            in_sync: false,
            started: false,
        }
    }

    /// Takes in one change of intent. Kinds that policy does not depend on are ignored, and what
    /// is wrong with an object is kept for [`Self::problems`].
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::InSync => self.in_sync = true,
            Update::Set(object) => self.set(object),
            Update::Remove(kind, key) => self.remove(kind, &key),
        }
    }

    /// The source has yielded everything that exists. Until then there is nothing to take: a
    /// policy not seen yet would read as permission.
    pub fn in_sync(&self) -> bool {
        self.in_sync
    }

    /// An endpoint is on this node. The next delta has everything it needs, so that policy is in
    /// the kernel before the link exists. If another endpoint has the same interface index it is
    /// forgotten, and reported as a problem: an index names one interface.
    pub fn endpoint_set(&mut self, endpoint: LocalEndpoint) {
        for gone in self.workloads.set_local(endpoint, &mut self.pending) {
            self.forget(&gone);
        }
    }

    /// An endpoint is not on this node any more; everything made for it goes with the next delta.
    pub fn endpoint_remove(&mut self, id: &EndpointId) {
        if let Some(gone) = self.workloads.remove_local(id, &mut self.pending) {
            self.forget(&gone);
        }
    }

    /// An endpoint of this node, with the labels and the account that its pod was last known to
    /// have: what should be on record for the next start.
    pub fn endpoint(&self, id: &EndpointId) -> Option<&LocalEndpoint> {
        self.workloads.local(id).map(|local| &local.endpoint)
    }

    /// All endpoints of this node, by id.
    pub fn endpoints(&self) -> impl Iterator<Item = &LocalEndpoint> {
        self.workloads.locals().map(|(_, local)| &local.endpoint)
    }

    /// The addresses of the host itself. Traffic from the host to its own pods is always allowed,
    /// so that the kubelet can probe them; see [`Self::verdict`].
    pub fn set_host_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.host = addresses.into_iter().collect();
    }

    /// What must change in the kernel since the last call, in key order: one transaction. None if
    /// nothing must, and before the source is in sync.
    pub fn take_delta(&mut self) -> Option<Delta> {
        if !self.in_sync {
            return None;
        }
        self.settle();
        let delta = self.pending.take();
        self.classes.delta_taken();
        delta
    }

    /// The verdict on the first packet of a flow, found in the same tables and in the same order
    /// as the kernel does with everything up to the last delta. What neither begins nor ends at an
    /// endpoint of this node is allowed: it is not ours to judge.
    pub fn verdict(&self, flow: &Flow) -> Verdict {
        let judge = |side: IpAddr, peer: IpAddr, direction: Direction| {
            let class = self.workloads.addresses.class(peer);
            self.workloads.holders(side).all(|local| {
                let program = local.programs[slot(direction)].and_then(|id| self.programs.get(id));
                program.is_some_and(|program| {
                    let table = program.table(class);
                    table.verdict(flow.protocol, flow.destination_port) == Verdict::Allow
                })
            })
        };
        let allowed = judge(flow.source, flow.destination, Direction::Egress)
            && (self.host.contains(&flow.source)
                || judge(flow.destination, flow.source, Direction::Ingress));
        if allowed { Verdict::Allow } else { Verdict::Deny }
    }

    /// A pod, if the source knows it.
    pub fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.workloads.pod(key)
    }

    /// The policies that applied to an endpoint of this node when the last delta was made, in the
    /// order in which they are evaluated.
    pub fn policies_for(&self, id: &EndpointId) -> Vec<AppliedPolicy> {
        let revisions = self.workloads.local(id).map(|local| local.policies.as_slice());
        let policies = revisions.into_iter().flatten();
        policies
            .filter_map(|revision| self.policies.policy(*revision))
            .map(|policy| AppliedPolicy {
                id: policy.id.clone(),
                ingress: policy.ingress.is_some(),
                egress: policy.egress.is_some(),
            })
            .collect()
    }

    /// What is wrong with which object now, ordered by object.
    pub fn problems(&self) -> Vec<Problem> {
        let policies = self.errors.iter().flat_map(|(id, errors)| {
            errors.iter().map(|error| Problem {
                kind: id.kind,
                key: id.key.clone(),
                field: error.field.clone(),
                reason: error.reason.clone(),
            })
        });
        let pools = self.pools.problems().map(|(key, reason)| Problem {
            kind: Kind::IPPool,
            key,
            field: "spec.cidr".into(),
            reason,
        });
        let displaced = self.workloads.displaced().map(|(key, index)| Problem {
            kind: Kind::Pod,
            key: key.clone(),
            field: String::new(),
            reason: format!("its interface index {index} was given to another endpoint"),
        });
        let mut problems: Vec<Problem> = policies.chain(pools).chain(displaced).collect();
        problems.sort_unstable();
        problems
    }

    /// How much the engine holds, for metrics.
    pub fn counts(&self) -> Counts {
        let (policies, active_policies) = self.policies.counts();
        Counts {
            pods: self.workloads.pod_count(),
            shapes: self.workloads.shapes.len(),
            addresses: self.workloads.addresses.len(),
            endpoints: self.workloads.locals().count(),
            policies,
            active_policies,
            atoms: self.atoms.len(),
            classes: self.classes.len(),
            programs: self.programs.len(),
        }
    }

    fn set(&mut self, object: Object) {
        match object {
            Object::Pod(pod) => self.workloads.set_pod(pod),
            Object::Namespace(namespace) => {
                self.workloads.set_namespace(&namespace.name, Some(&namespace.labels));
            }
            Object::ServiceAccount(account) => {
                self.workloads.set_account(&account.key, Some(&account.labels));
            }
            Object::KubernetesNetworkPolicy(object) => {
                let (policy, errors) = convert::network_policy(&object, self.default_tier.clone());
                let id = policy.id.clone();
                self.policies.set(policy);
                if errors.is_empty() {
                    self.errors.remove(&id);
                } else {
                    self.errors.insert(id, errors);
                }
            }
            Object::IPPool(pool) => {
                let name = pool.metadata.name.as_deref().unwrap_or_default();
                self.pools.set(name, &pool.spec.cidr, pool.spec.nat_outgoing);
            }
            _ => {}
        }
    }

    fn remove(&mut self, kind: Kind, key: &ObjectKey) {
        match kind {
            Kind::Pod => self.workloads.remove_pod(key),
            Kind::Namespace => self.workloads.set_namespace(&key.name, None),
            Kind::ServiceAccount => self.workloads.set_account(key, None),
            Kind::KubernetesNetworkPolicy => {
                let id = PolicyId { kind, key: key.clone() };
                self.policies.remove(&id);
                self.errors.remove(&id);
            }
            Kind::IPPool => self.pools.remove(&key.name),
            _ => {}
        }
    }

    fn forget(&mut self, gone: &Local) {
        self.policies.reapply(&gone.policies, &[]);
        for program in gone.programs.into_iter().flatten() {
            self.programs.unassign(gone.endpoint.host_index, program, &mut self.pending);
        }
    }

    /// Works out what follows from everything recorded, from the policies down to the elements.
    fn settle(&mut self) {
        let reassigned = self.reapply_policies();
        self.policies.settle(&mut self.atoms);

        let changes = self.atoms.take_changes();
        let Workloads { shapes, addresses, .. } = &mut self.workloads;
        for (id, question) in &changes.deactivated {
            if let Question::Networks(_) = question {
                addresses.deactivate(*id);
            }
            for shape in shapes.deactivate(*id, question) {
                addresses.shape_changed(shape, shapes);
            }
        }
        for (id, question) in &changes.activated {
            if let Question::Networks(networks) = question {
                addresses.activate(*id, networks);
            }
            for shape in shapes.activate(*id, question) {
                addresses.shape_changed(shape, shapes);
            }
        }

        let moves = addresses.settle(shapes, &mut self.classes, &mut self.pending);
        let class_changes = self.classes.take_changes();
        let news = moves.into_iter().filter(|moved| !self.is_new_here(moved));
        let moves: Vec<addresses::Move> = news.collect();
        self.programs.classes_changed(&class_changes, &moves, &self.classes, &mut self.pending);
        self.classes.retire(&class_changes.emptied);

        for id in reassigned {
            self.reassign(&id);
        }
        self.programs.sweep();
        self.pools.settle(&mut self.pending);
        if !self.started {
            self.started = true;
            // What was decided before this start is not known.
            for (_, local) in self.workloads.locals() {
                local.endpoint.addresses.iter().for_each(|a| self.pending.rejudge(*a));
            }
        }
    }

    /// An address that an endpoint of this node has just got has no flows yet.
    fn is_new_here(&self, moved: &addresses::Move) -> bool {
        let mut holders = self.workloads.holders(moved.address).peekable();
        moved.is_new
            && holders.peek().is_some()
            && holders.all(|local| local.programs == [None, None])
    }

    /// Finds the policies of every endpoint that may have others than before, and returns the
    /// endpoints whose programs must be looked at, in order.
    fn reapply_policies(&mut self) -> Vec<EndpointId> {
        let dirty = self.workloads.take_dirty();
        let changes = self.policies.take_changes();
        if dirty.is_empty() && changes.is_empty() {
            return Vec::new();
        }
        let mut changed: Vec<(EndpointId, Vec<Revision>)> = Vec::new();
        for (id, local) in self.workloads.locals() {
            let shapes = &self.workloads.shapes;
            if dirty.contains(id) {
                changed.push((id.clone(), self.policies.applicable(shapes, local.shape)));
                continue;
            }
            let mut list = local.policies.clone();
            list.retain(|revision| changes.retired.binary_search(revision).is_err());
            let mut added = changes.added.clone();
            added.retain(|revision| self.policies.applies(*revision, shapes, local.shape));
            if list.len() < local.policies.len() || !added.is_empty() {
                list.append(&mut added);
                self.policies.sort(&mut list);
                changed.push((id.clone(), list));
            }
        }
        let mut reassigned = Vec::new();
        for (id, list) in changed {
            if let Some(local) = self.workloads.local_mut(&id) {
                self.policies.reapply(&local.policies, &list);
                local.policies = list;
                reassigned.push(id);
            }
        }
        reassigned
    }

    /// Has an endpoint use the programs that follow from its policies.
    fn reassign(&mut self, id: &EndpointId) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let Some(local) = self.workloads.local(id) else { return };
            let looks = |revision: &Revision| {
                let policy = self.policies.policy(*revision);
                policy.is_some_and(|policy| policy.rules(direction).is_some())
            };
            let revisions: Vec<Revision> = local.policies.iter().copied().filter(looks).collect();
            let policies: Vec<_> = revisions
                .iter()
                .filter_map(|revision| self.policies.active(*revision).cloned())
                .collect();
            let ports = match direction {
                Direction::Ingress => self.own_ports(local, &policies),
                Direction::Egress => Vec::new(),
            };
            let key = ProgramKey { direction, policies: revisions.into(), ports: ports.into() };
            let user = User {
                index: local.endpoint.host_index,
                addresses: local.endpoint.addresses.clone(),
            };
            let before = local.programs[slot(direction)];
            let (program, changed) = self.programs.assign(
                &user,
                before,
                key,
                &policies,
                &self.classes,
                &mut self.pending,
            );
            if changed {
                user.addresses.iter().for_each(|address| self.pending.rejudge(*address));
            }
            if let Some(local) = self.workloads.local_mut(id) {
                local.programs[slot(direction)] = Some(program);
            }
        }
    }

    /// The named ports of an endpoint, as far as its policies ask for them. Sorted.
    fn own_ports(&self, local: &Local, policies: &[Arc<program::ActivePolicy>]) -> Vec<NamedPort> {
        let names: BTreeSet<(u8, &Arc<str>)> =
            policies.iter().flat_map(|policy| policy.own_port_names()).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let ports = self.workloads.shapes.key(local.shape).map(|key| &key.ports);
        let mut ports: Vec<NamedPort> = ports
            .into_iter()
            .flat_map(|ports| ports.iter())
            .filter(|port| names.contains(&(port.protocol, &port.name)))
            .cloned()
            .collect();
        ports.sort_unstable_by(|a, b| {
            (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port))
        });
        ports.dedup();
        ports
    }
}

/// Where a direction's program is kept.
fn slot(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}
