//! The brain: from what should be (pods, policies, pools; endpoints of this node) to the map
//! elements that make the kernel do it. Pure: no IO, no clock, no async.
//!
//! ```text
//!  policies ─▶ which apply here ─▶ atoms: what active policies ask about an address
//!                    │                │
//!  pods ─▶ shapes ───┼────────────────┴─▶ addresses ─▶ classes   (one element an address)
//!  slices ─▶ services, nodes ─────────────────┘
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

mod active;
mod addresses;
mod atoms;
mod automatic;
mod calico;
mod classes;
mod cluster_policy;
mod comments;
mod convert;
mod counting;
mod explain;
mod host_tables;
mod hosts;
mod idset;
mod names;
mod network_sets;
mod nodes;
mod objects;
mod pending;
mod pods;
mod policies;
mod policy;
mod pools;
mod postings;
mod program;
mod programs;
mod ranges;
mod report;
mod services;
mod settle;
mod settle_hosts;
mod shapes;
mod stable_hash;
mod staged;
mod table;
mod terms;
#[cfg(test)]
mod tests;
mod tiers;
mod views;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::v3;

use self::atoms::Atoms;
use self::automatic::Automatic;
use self::classes::Classes;
use self::convert::FieldError;
use self::counting::Counting;
pub use self::explain::{
    Considered, Denial, Element, Example, Judgement, Outcome, Passage, Place, RuleText, Side,
    VerdictChange,
};
use self::hosts::Hosts;
pub use self::hosts::{Failsafe, HostLink, default_failsafe};
use self::names::Names;
use self::nodes::Nodes;
use self::objects::problems_of;
use self::pending::Pending;
use self::policies::Policies;
pub use self::policy::PolicyId;
use self::pools::Pools;
use self::program::Program;
use self::programs::{Programs, Site};
pub use self::report::{AppliedPolicy, Counts, PolicyStanding, Problem};
use self::services::Services;
pub use self::staged::{Staged, StagedStanding};
use self::table::{Header, Step};
use self::tiers::Tiers;
use self::workloads::{Local, Workloads};
use crate::model::{
    Class, Delta, Direction, EndpointId, Flow, IfIndex, Kind, LocalEndpoint, Object, ObjectKey,
    Parties, Pod, Update, Verdict,
};
use crate::names::learned;

/// The tier of Kubernetes' policies.
const DEFAULT_TIER: &str = v3::DEFAULT_TIER;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Engine {
    workloads: Workloads,
    services: Services,
    nodes: Nodes,
    automatic: Automatic,
    policies: Policies,
    tiers: Tiers,
    atoms: Atoms,
    classes: Classes,
    programs: Programs,
    counting: Counting,
    pools: Pools,
    hosts: Hosts,
    names: Names,
    host: BTreeSet<IpAddr>,
    /// Policies as their authors wrote them. The source shares them.
    written: BTreeMap<PolicyId, Object>,
    /// What is wrong with policies and network sets.
    errors: BTreeMap<(Kind, ObjectKey), Vec<FieldError>>,
    /// Of these, what has not been told yet.
    news: Vec<Problem>,
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
            services: Services::default(),
            nodes: Nodes::default(),
            automatic: Automatic::default(),
            policies: Policies::default(),
            tiers: Tiers::default(),
            atoms: Atoms::default(),
            classes: Classes::default(),
            programs: Programs::default(),
            counting: Counting::default(),
            pools: Pools::default(),
            hosts: Hosts::default(),
            names: Names::default(),
            host: BTreeSet::new(),
            written: BTreeMap::new(),
            errors: BTreeMap::new(),
            news: Vec::new(),
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

    /// The node this is, whose host endpoints are acted on, and how the names of workloads' interfaces
    /// begin, which are none. Said once, before host endpoints come.
    pub fn set_node(&mut self, name: &str, prefix: &str) {
        self.hosts.set_node(name, prefix);
    }

    /// The node's interfaces with their addresses, for host endpoints that are named by these.
    pub fn set_host_links(&mut self, links: Vec<HostLink>) {
        self.hosts.set_links(links);
    }

    /// The ports that policy of host endpoints does not close; at first none.
    pub fn set_failsafe(&mut self, ports: Vec<Failsafe>) {
        self.hosts.set_failsafe(ports);
    }

    /// Whether packets of workloads and of host endpoints are counted by who decides about them, from
    /// the next delta on; at first they are not. Where they are, more is told apart, which costs
    /// elements; verdicts are the same.
    pub fn set_counting(&mut self, on: bool) {
        if self.counting.set(on) {
            self.workloads.touch_locals();
            self.hosts.touch();
        }
    }

    /// Something else is known of what names stand for, by the DNS answers of an endpoint; one that is not
    /// on this node is passed over. Established flows are not looked at again, unless they are cut.
    pub fn learn(&mut self, change: learned::Change) {
        if let Some(local) = self.workloads.local(&change.endpoint) {
            let index = local.endpoint.host_index;
            self.names.learn(&change.endpoint, index, change.address, change.known);
        }
    }

    /// All flows of these were judged again, and those to these destinations are cut. A change of policy
    /// looks at all flows that it concerns; names that are learned only let more through, and so only at
    /// those that are cut.
    pub fn flows_judged(&mut self, of: &Parties, cut: impl IntoIterator<Item = IpAddr>) {
        self.names.judged(&of.addresses, cut);
    }

    /// The endpoint at an interface of this node.
    pub fn endpoint_at(&self, index: IfIndex) -> Option<&EndpointId> {
        self.workloads.at(index).map(|local| &local.endpoint.id)
    }

    /// Whether policy of an endpoint asked of a name when the last delta was made.
    pub fn asks_of(&self, id: &EndpointId, name: &str) -> bool {
        self.names.asks(id, name)
    }

    /// The ClusterNetworkPolicies that ask of names.
    pub fn asking_of_names(&self) -> impl Iterator<Item = ObjectKey> {
        let asks = |rule: &policy::Rule| match &rule.peers {
            policy::Peers::OneOf(peers) => peers.iter().any(|peer| peer.names.is_some()),
            policy::Peers::Any => false,
        };
        let policies = self.policies.all();
        let asking = policies.filter(move |policy| policy.egress.iter().flatten().any(asks));
        asking.map(|policy| policy.id.key.clone())
    }

    /// What must change in the kernel since the last call, in key order: one transaction. None if
    /// nothing must, and before the source is in sync.
    pub fn take_delta(&mut self) -> Option<Delta> {
        if !self.in_sync {
            return None;
        }
        self.settle();
        let mut delta = self.pending.take();
        if let Some(delta) = &mut delta {
            delta.deciders = self.counting.take_news();
        }
        self.classes.delta_taken();
        delta
    }

    /// The verdict on the first packet of a flow, found in the same tables and in the same order
    /// as the kernel does with everything up to the last delta. What neither begins nor ends at an
    /// endpoint of this node is allowed: it is not ours to judge.
    pub fn verdict(&self, flow: &Flow) -> Verdict {
        self.judge_flow(flow, false)
    }

    /// The verdict on a flow that was established before: what names stood for when it began counts for it,
    /// also if it would not for a new one.
    pub fn verdict_on_established(&self, flow: &Flow) -> Verdict {
        self.judge_flow(flow, true)
    }

    fn judge_flow(&self, flow: &Flow, established: bool) -> Verdict {
        let judge = |side: IpAddr, peer: IpAddr, direction: Direction| {
            self.workloads.holders(side).all(|local| {
                let program = local.programs[slot(direction)].and_then(|id| self.programs.get(id));
                program.is_some_and(|program| {
                    let table = program.table(self.class_for(local, direction, peer));
                    table.verdict(Header::of(flow)) == Verdict::Allow
                        || (established && self.was_allowed(local, program, direction, peer, flow))
                })
            })
        };
        let allowed = judge(flow.source, flow.destination, Direction::Egress)
            && (self.host.contains(&flow.source)
                || judge(flow.destination, flow.source, Direction::Ingress));
        if allowed { Verdict::Allow } else { Verdict::Deny }
    }

    /// The class that the kernel finds for the other side of an endpoint's flow.
    fn class_for(&self, local: &Local, direction: Direction, peer: IpAddr) -> Class {
        let own = match direction {
            Direction::Egress => self.names.class(&local.endpoint.id, peer),
            Direction::Ingress => None,
        };
        own.unwrap_or_else(|| self.workloads.addresses.class(peer))
    }

    /// By what names stood for.
    fn was_allowed(
        &self,
        local: &Local,
        program: &Program,
        direction: Direction,
        peer: IpAddr,
        flow: &Flow,
    ) -> bool {
        let addresses = &self.workloads.addresses;
        let once = || self.names.once(&local.endpoint.id, peer, addresses, &self.classes);
        let atoms = (direction == Direction::Egress).then(once).flatten();
        atoms.is_some_and(|atoms| {
            let last = program.trace(&atoms, Header::of(flow)).pop();
            last.is_some_and(|met| met.step == Step::Decide(Verdict::Allow))
        })
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

    /// How all policies stand on this node, in the order in which they are evaluated; the number of
    /// endpoints is that of the last delta.
    pub fn policies(&self) -> impl Iterator<Item = PolicyStanding> {
        let ordered = self.policies.in_order().into_iter();
        ordered.filter_map(|revision| {
            let policy = self.policies.policy(revision)?;
            let written = self.written.get(&policy.id);
            Some(PolicyStanding {
                id: policy.id.clone(),
                tier: policy.tier.name.clone(),
                ingress: policy.ingress.is_some(),
                egress: policy.egress.is_some(),
                endpoints: self.policies.applied(revision),
                generation: written.and_then(Object::generation),
            })
        })
    }

    /// What is wrong with which object now, ordered by object.
    pub fn problems(&self) -> Vec<Problem> {
        let tierless = self.policies.all().filter(|policy| !policy.tier.exists);
        let tierless = tierless.map(|policy| Problem {
            kind: policy.id.kind,
            key: policy.id.key.clone(),
            field: "spec.tier".into(),
            reason: format!(
                "tier {:?} does not exist: the policy comes after those of all other tiers",
                policy.tier.name
            ),
        });
        let tiers = self.tiers.problems().map(|(name, reason)| Problem {
            kind: Kind::Tier,
            key: ObjectKey { namespace: None, name: name.clone() },
            field: "spec".into(),
            reason: reason.clone(),
        });
        let policies = self.errors.iter().flat_map(|(id, errors)| problems_of(id, errors));
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
        let mut problems: Vec<Problem> =
            policies.chain(tierless).chain(tiers).chain(pools).chain(displaced).collect();
        problems.extend(self.host_problems());
        problems.sort_unstable();
        problems
    }

    /// What has been found wrong with policies and network sets since the last call, for the log.
    pub fn take_news(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.news)
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

    fn forget(&mut self, gone: &Local) {
        self.policies.reapply(&gone.policies, &[]);
        self.names.remove(&gone.endpoint.id, &mut self.classes, &mut self.pending);
        for program in gone.programs.into_iter().flatten() {
            let site = Site::Workload(gone.endpoint.host_index);
            self.programs.unassign(site, program, &mut self.pending);
        }
    }
}

/// Where a direction's program is kept.
fn slot(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}
