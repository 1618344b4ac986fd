//! Why a packet is let through or not: from the tables that the kernel's elements are made of, and
//! from the rules that these were made of.
//!
//! Everything here is as of the last delta taken.

mod denial;
mod host;
mod what_if;

use std::net::IpAddr;
use std::sync::Arc;

use api::v3::Protocol;
use serde::{Deserialize, Serialize};

use super::active::ActivePolicy;
use super::atoms::{Atom, Question};
use super::policies::Revision;
use super::policy::{Policy, Rule};
use super::program::Met;
use super::table::{Header, Step};
use super::workloads::Local;
use super::{Engine, slot};
use crate::model::host::HostHook;
use crate::model::{Class, Direction, Flow, Key, Object, ObjectKey, Value, Verdict};

pub use denial::Denial;
pub use host::Passage;
pub use what_if::{Example, VerdictChange};

/// Most policies in one answer that do nothing to the packet, and most that is said of its other
/// side: it has to fit in a message of the agent's socket.
const LISTED: usize = 500;

/// What becomes of a packet at one end of its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Who judges it.
    pub place: Place,
    /// How; one for each endpoint of this node that has the address, which is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judgements: Vec<Judgement>,
}

/// Who judges what an address sends or gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// This agent.
    Here,
    /// The agent of this node, which is to be asked.
    Node(String),
    /// Nobody: it is no pod's address, nor one of a node with host endpoints.
    Nobody,
    /// A host endpoint of this node.
    HostEndpoint,
    /// Nobody: a node reaches its own pods whatever their policies are.
    OwnNode,
}

/// A verdict and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// The pod, `namespace/name`, or `HostEndpoint name`.
    pub endpoint: String,
    /// The host's end of its link, or the host's interface.
    pub interface: String,
    /// Which traffic of a host endpoint it is judged as; None: it is a pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HostHook>,
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// All policies of the cluster, rules of theirs that log the packet, and the ends of tiers that are
    /// reached, in the order of evaluation. Of those that do nothing to the packet the first 500.
    pub considered: Vec<Considered>,
    /// How many policies there are.
    pub policies: usize,
    /// The class of the other side; 0 is every address of which nothing is asked.
    pub class: u32,
    /// What is true of it: selectors, networks, services and ports that policies in force ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub memberships: Vec<String>,
    /// What the kernel decides by.
    pub elements: Vec<Element>,
}

/// A policy, or the end of a tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Considered {
    /// The tier.
    pub tier: String,
    /// Kind, namespace and name; None for the end of the tier, and of the last one. With no tier, what
    /// decides at a host that is no policy: `profiles`, or why policy is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// The rule that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleText>,
}

/// What came of a policy, or of the end of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It does not select the endpoint.
    NotSelecting,
    /// It does not look at this direction.
    OtherDirection,
    /// It is about other traffic of host endpoints: forwarded or not, before connection tracking or
    /// destination NAT, or not.
    OtherTraffic,
    /// None of its rules matches.
    NoRuleMatches,
    /// The packet is logged, and evaluation goes on.
    Logs,
    /// It leaves the packet to the next tier.
    Passes,
    /// It lets the packet through.
    Allows,
    /// It drops the packet.
    Denies,
    /// An earlier one had decided, or passed to a later tier.
    NotReached,
}

impl Outcome {
    fn of(met: &Met<'_>) -> Self {
        match met.step {
            Step::SkipTo(_) => Self::Passes,
            Step::Log => Self::Logs,
            Step::Decide(Verdict::Allow | Verdict::Accept) => Self::Allows,
            Step::Decide(Verdict::Deny) => Self::Denies,
        }
    }

    /// Whether it settles the matter.
    pub fn decides(self) -> bool {
        matches!(self, Self::Allows | Self::Denies)
    }
}

/// A rule as its author wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleText {
    /// Where it stands in the object, `spec.ingress[0]`; `spec` for one that stands in for what is wrong.
    pub field: String,
    /// The rule; of one that stands in, what is wrong with the policy.
    pub text: serde_json::Value,
}

/// An element of the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Element {
    /// Which.
    #[serde(skip)]
    pub key: Option<Key>,
    /// What it should be; None: that there is none.
    #[serde(skip)]
    pub value: Option<Value>,
    /// Both for people.
    pub text: String,
    /// Whether the kernel says the same; None: it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agrees: Option<bool>,
}

impl Element {
    fn new(key: Key, value: Option<Value>) -> Self {
        let value_text = match value {
            Some(Value::Member) => String::new(),
            Some(Value::Class(Class(number))) => format!(": class {number}"),
            Some(Value::Verdict(Verdict::Allow)) => ": allow".to_owned(),
            Some(Value::Verdict(Verdict::Deny)) => ": deny".to_owned(),
            Some(Value::Verdict(Verdict::Accept)) => ": accept".to_owned(),
            Some(Value::Logged(Verdict::Allow)) => ": log, then allow".to_owned(),
            Some(Value::Logged(Verdict::Deny)) => ": log, then deny".to_owned(),
            Some(Value::Counted { verdict, log, .. }) => {
                let log = if log { "log, then " } else { "" };
                let verdict = if verdict == Verdict::Allow { "allow" } else { "deny" };
                format!(": count, then {log}{verdict}")
            }
            Some(Value::Logged(Verdict::Accept)) => ": log, then accept".to_owned(),
            Some(Value::Table(table)) => format!(": table {}", table.number()),
            Some(Value::View(view)) => format!(": view {}", view.number()),
            None => ": none, so that it is denied".to_owned(),
        };
        let text = format!("{}{value_text}", describe(&key));
        Self { key: Some(key), value, text, agrees: None }
    }
}

impl Engine {
    /// What becomes of the first packet of a flow at its source (egress) or destination (ingress),
    /// and why. That a node reaches its own pods is for those to say who know which addresses are
    /// the node's.
    pub fn explain(&self, flow: &Flow, direction: Direction) -> Side {
        let (own, peer) = ends(flow, direction);
        let here = self.workloads.holders(own);
        let judgements: Vec<Judgement> =
            here.map(|local| self.judge(local, own, peer, direction, flow)).collect();
        let place = if judgements.is_empty() { self.elsewhere(own) } else { Place::Here };
        Side { place, judgements }
    }

    /// Whether rules at an end of a flow that could match its first packet ask about its source port.
    pub fn asks_source_port(&self, flow: &Flow, direction: Direction) -> bool {
        let (own, peer) = ends(flow, direction);
        let mut here = self.workloads.holders(own);
        here.any(|local| {
            let atoms = self.classes.atoms(self.class_for(local, direction, peer));
            let program = local.programs[slot(direction)].and_then(|id| self.programs.get(id));
            program.is_some_and(|program| {
                program.asks_source(atoms, flow.protocol, flow.destination_port)
            })
        })
    }

    /// The pod of the cluster, or of an endpoint here, that has an address of its own.
    pub fn pod_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        self.workloads.pods().find(|(held, _)| *held == address).map(|(_, key)| key)
    }

    fn elsewhere(&self, address: IpAddr) -> Place {
        let Some(key) = self.pod_at(address) else { return Place::Nobody };
        let node = self.workloads.pod(key).and_then(|pod| pod.node.as_deref());
        Place::Node(node.unwrap_or("that it is bound to").to_owned())
    }

    fn judge(
        &self,
        local: &Local,
        own: IpAddr,
        peer: IpAddr,
        direction: Direction,
        flow: &Flow,
    ) -> Judgement {
        let index = local.endpoint.host_index;
        let class = self.class_for(local, direction, peer);
        let atoms = self.classes.atoms(class);
        let mut elements = vec![Element::new(Key::Workload(index), Some(Value::Member))];
        if direction == Direction::Egress {
            elements.push(Element::new(Key::Source(own, index), Some(Value::Member)));
        }
        if let Some(key) = self.workloads.addresses.element(peer) {
            let class = self.workloads.addresses.class(peer);
            elements.push(Element::new(key, Some(Value::Class(class))));
        }
        let (id, mut memberships) = (&local.endpoint.id, Vec::new());
        if direction == Direction::Egress {
            if self.names.class(id, peer).is_some() {
                elements.push(Element::new(Key::Learned(index, peer), Some(Value::Class(class))));
            }
            memberships.extend(self.names.known(id, peer).into_iter().flat_map(|known| {
                let now = known
                    .names
                    .iter()
                    .map(|name| format!("{name}, by a DNS answer to the endpoint"));
                let once = known
                    .lapsed
                    .iter()
                    .map(|name| format!("{name}, by a DNS answer whose time is over"));
                now.chain(once)
            }));
        }
        memberships.extend(atoms.iter().filter_map(|atom| self.membership(*atom)));
        memberships.truncate(LISTED);
        let program = local.programs[slot(direction)].and_then(|id| self.programs.get(id));
        let header = Header::of(flow);
        // An endpoint that no delta has been made for yet carries nothing.
        let mut verdict = Verdict::Deny;
        let mut met = Vec::new();
        if let Some(program) = program {
            let (traffic, ruling) = program.table(class).find(header);
            verdict = ruling.verdict;
            let class = program.told_apart(class).map(|_| class);
            let key = Key::Policy { direction, index, class, traffic };
            elements.push(Element::new(key, Some(ruling.into())));
            met = program.trace(atoms, header);
        }
        Judgement {
            endpoint: format!("{}/{}", local.endpoint.namespace, local.endpoint.pod),
            interface: local.endpoint.host_interface.clone(),
            hook: None,
            verdict,
            considered: self.considered(&local.policies, (direction, None), &met),
            policies: self.policies.counts().0,
            class: class.0,
            memberships,
            elements,
        }
    }

    /// All policies in order, and what came of each.
    fn considered(
        &self,
        applied: &[Revision],
        (direction, hook): (Direction, Option<HostHook>),
        met: &[Met<'_>],
    ) -> Vec<Considered> {
        // Before others that judge, no tier has an end.
        let early = hook.is_some_and(HostHook::is_early);
        let in_order = self.policies.in_order();
        let policy = |revision: &Revision| self.policies.policy(*revision);
        let mut rows = Vec::new();
        let (mut met, mut decided) = (met.iter().peekable(), false);
        for tier in
            in_order.chunk_by(|a, b| policy(a).map(|p| &p.tier) == policy(b).map(|p| &p.tier))
        {
            let (mut passed, mut looked) = (decided, false);
            let mut name = String::new();
            for revision in tier {
                let Some(policy) = policy(revision) else { continue };
                name = policy.tier.name.to_string();
                let selects = applied.contains(revision);
                let directed = policy.rules(direction).is_some();
                let looks = directed && hook.is_none_or(|hook| policy.hosts.judges_at(hook));
                let active = self.policies.active(*revision);
                let (mut outcome, mut rule) = (Outcome::NoRuleMatches, None);
                let tier = &name;
                let logs = std::iter::from_fn(|| {
                    let line = met.next_if(|line| line.step == Step::Log && is_of(line, active))?;
                    let rule = line.rule.and_then(|(_, n)| self.text(policy, direction, n));
                    let (tier, policy) = (tier.clone(), Some(policy.id.to_string()));
                    Some(Considered { tier, policy, outcome: Outcome::Logs, rule })
                });
                let before = rows.len();
                rows.extend(logs);
                let logged = rows.len() > before;
                if !selects {
                    outcome = Outcome::NotSelecting;
                } else if !directed {
                    outcome = Outcome::OtherDirection;
                } else if !looks {
                    outcome = Outcome::OtherTraffic;
                } else if passed {
                    outcome = Outcome::NotReached;
                } else if let Some(line) = met.next_if(|line| is_of(line, active)) {
                    outcome = Outcome::of(line);
                    rule = line.rule.and_then(|(_, n)| self.text(policy, direction, n));
                    (passed, decided) = (true, outcome.decides());
                }
                looked |= selects && looks;
                if logged && outcome == Outcome::NoRuleMatches {
                    // No other rule does.
                    continue;
                }
                if rule.is_some() || rows.len() < LISTED {
                    let policy = Some(policy.id.to_string());
                    rows.push(Considered { tier: name.clone(), policy, outcome, rule });
                }
            }
            if looked
                && !passed
                && !early
                && let Some(line) = met.next()
            {
                let outcome = Outcome::of(line);
                decided = outcome.decides();
                rows.push(Considered { tier: name, policy: None, outcome, rule: None });
            }
        }
        // What no tier has denied.
        rows.extend(met.next().map(|line| Considered {
            tier: String::new(),
            policy: None,
            // Early, it is left to those that follow.
            outcome: if early { Outcome::Passes } else { Outcome::of(line) },
            rule: None,
        }));
        rows
    }

    /// A rule by its place among those of the policy in the engine's own words.
    fn text(&self, policy: &Policy, direction: Direction, number: u32) -> Option<RuleText> {
        let rule = policy.rules(direction)?.get(usize::try_from(number).ok()?)?;
        let field = field(rule, direction);
        if rule.number.is_none() {
            let errors = self.errors.get(&(policy.id.kind, policy.id.key.clone()));
            let lines = errors.into_iter().flatten();
            let lines = lines.map(|error| format!("{}: {}", error.field, error.reason));
            return Some(RuleText { field, text: lines.collect() });
        }
        let object = self.written.get(&policy.id).and_then(to_json)?;
        let pointer = format!("/{}", field.replace(['.', '['], "/").replace(']', ""));
        let text = object.pointer(&pointer).cloned().unwrap_or_default();
        Some(RuleText { field, text })
    }

    fn membership(&self, atom: Atom) -> Option<String> {
        Some(match self.atoms.question(atom.id())? {
            Question::Selector(selector) => format!("selector {selector}"),
            Question::Networks(networks) => format!("networks {networks}"),
            Question::Nodes(selector) => format!("node of {selector}"),
            Question::NamedPort { name, protocol } => {
                format!("port {name} of protocol {protocol} is {}", atom.port_number())
            }
            Question::Service(service) => format!("endpoint of service {service}"),
            Question::ServicePort { service, protocol } => {
                let protocol = Protocol(*protocol);
                format!("{protocol} port {} of service {service}", atom.port_number())
            }
            Question::NamespaceUnknown => "its namespace is not known yet".to_owned(),
            Question::Names(names) => format!("domain names {names}"),
        })
    }
}

/// Where a rule stands in the object.
pub(super) fn field(rule: &Rule, direction: Direction) -> String {
    let list = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    rule.number.map_or_else(|| "spec".into(), |number| format!("spec.{list}[{number}]"))
}

/// The address that is judged, and the other side's.
fn ends(flow: &Flow, direction: Direction) -> (IpAddr, IpAddr) {
    match direction {
        Direction::Egress => (flow.source, flow.destination),
        Direction::Ingress => (flow.destination, flow.source),
    }
}

fn is_of(line: &Met<'_>, active: Option<&Arc<ActivePolicy>>) -> bool {
    match (line.rule, active) {
        (Some((policy, _)), Some(active)) => Arc::ptr_eq(policy, active),
        _ => false,
    }
}

/// As the source had it. Only policies are asked for.
fn to_json(object: &Object) -> Option<serde_json::Value> {
    match object {
        Object::KubernetesNetworkPolicy(policy) => serde_json::to_value(&**policy).ok(),
        Object::ClusterNetworkPolicy(policy) => serde_json::to_value(&**policy).ok(),
        Object::NetworkPolicy(policy) => serde_json::to_value(&**policy).ok(),
        Object::GlobalNetworkPolicy(policy) => serde_json::to_value(&**policy).ok(),
        _ => None,
    }
}

/// A key for people.
fn describe(key: &Key) -> String {
    match key {
        Key::Workload(index) => format!("interface {index} is an endpoint's"),
        Key::Source(address, index) => format!("interface {index} may send from {address}"),
        Key::Class(address) => format!("address {address}"),
        Key::ClassRange(first, last) => format!("addresses {first} to {last}"),
        Key::Masquerade(net) => format!("masqueraded network {net}"),
        Key::Pool(net) => format!("pool {net}"),
        Key::Policy { direction, index, class, traffic } => {
            let class = match class {
                Some(Class(number)) => format!("class {number}"),
                None => "all other classes".to_owned(),
            };
            format!("{direction:?} of interface {index}, {class}, {traffic}")
        }
        Key::Asks(index) => format!("interface {index}: its DNS answers are read"),
        Key::Learned(index, address) => format!("address {address} for interface {index}"),
        Key::HostInterface(name) => format!("interface {name} is a host endpoint"),
        Key::HostTable { hook, interface, view, class: Class(number) } => {
            let interface = interface.map_or("all others".into(), |name| name.to_string());
            let view = match view.number() {
                0 => String::new(),
                number => format!(", view {number}"),
            };
            format!("{hook:?} of interface {interface}{view}, class {number}")
        }
        Key::HostView { hook, interface, class: Class(number) } => {
            let interface = interface.map_or("all others".into(), |name| name.to_string());
            format!("{hook:?} of interface {interface}, own side of class {number}")
        }
        Key::HostPolicy { table, traffic } => format!("table {}, {traffic}", table.number()),
        Key::Failsafe(direction, protocol, port, net) => {
            format!("failsafe {direction:?} protocol {protocol} port {port} of {net}")
        }
    }
}
