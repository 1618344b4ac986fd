//! A program: what the policies that apply to an endpoint in one direction come to, as a function
//! from class to [`Table`]. Endpoints to which the same policies apply share one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::atoms::{Atom, AtomId, Atoms, Question, answers};
use super::classes::Classes;
use super::policy::{Action, Peer, Peers, Policy, Ports, Rule, Tier, Traffics};
use super::table::{Flattener, Step, Table};
use crate::model::{Class, Direction, IfIndex, NamedPort, Verdict};

/// The rules of an active policy, their questions numbered.
#[derive(Debug)]
pub(super) struct ActivePolicy {
    tier: Arc<Tier>,
    ingress: Option<Vec<ActiveRule>>,
    egress: Option<Vec<ActiveRule>>,
    /// Every question acquired for it, once for each use.
    atoms: Vec<AtomId>,
}

#[derive(Debug)]
struct ActiveRule {
    action: Action,
    /// None is every address.
    peers: Option<Vec<Condition>>,
    /// None is every protocol.
    traffic: Option<Vec<ActiveTraffic>>,
}

/// A peer: all of these and none of those.
#[derive(Debug, Default)]
struct Condition {
    all: SmallVec<[AtomId; 2]>,
    none: SmallVec<[AtomId; 1]>,
}

#[derive(Debug)]
struct ActiveTraffic {
    protocol: u8,
    /// None is the whole protocol.
    ports: Option<ActivePorts>,
}

#[derive(Debug)]
struct ActivePorts {
    ranges: Vec<(u16, u16)>,
    names: Vec<PortName>,
}

/// A named port means what the destination calls so: the endpoint itself for ingress, the peer
/// for egress.
#[derive(Debug)]
enum PortName {
    Own(Arc<str>),
    Peer(AtomId),
}

impl ActivePolicy {
    /// Numbers the questions of a policy.
    pub(super) fn new(policy: &Policy, atoms: &mut Atoms) -> Self {
        let mut acquired = Vec::new();
        let mut acquire = |question: Question| {
            let id = atoms.acquire(&question);
            acquired.push(id);
            id
        };
        let mut rules = |direction: Direction| {
            let rules = policy.rules(direction)?;
            Some(rules.iter().map(|rule| ActiveRule::new(rule, direction, &mut acquire)).collect())
        };
        let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
        Self { tier: policy.tier.clone(), ingress, egress, atoms: acquired }
    }

    /// Gives the questions back.
    pub(super) fn release(&self, atoms: &mut Atoms) {
        for id in &self.atoms {
            atoms.release(*id);
        }
    }

    fn rules(&self, direction: Direction) -> &[ActiveRule] {
        let rules = match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        };
        rules.as_deref().unwrap_or_default()
    }

    /// The names that the endpoint itself must resolve for this policy.
    pub(super) fn own_port_names(&self) -> impl Iterator<Item = (u8, &Arc<str>)> {
        let traffic =
            self.rules(Direction::Ingress).iter().filter_map(|rule| rule.traffic.as_ref());
        traffic.flatten().flat_map(|traffic| {
            let names = traffic.ports.iter().flat_map(|ports| &ports.names);
            names.filter_map(|name| match name {
                PortName::Own(name) => Some((traffic.protocol, name)),
                PortName::Peer(_) => None,
            })
        })
    }
}

impl ActiveRule {
    fn new(
        rule: &Rule,
        direction: Direction,
        acquire: &mut impl FnMut(Question) -> AtomId,
    ) -> Self {
        let peers = match &rule.peers {
            Peers::Any => None,
            Peers::OneOf(peers) => {
                Some(peers.iter().map(|peer| Condition::new(peer, acquire)).collect())
            }
        };
        let traffic = match &rule.traffic {
            Traffics::Any => None,
            Traffics::OneOf(traffic) => Some(
                traffic
                    .iter()
                    .map(|of| ActiveTraffic {
                        protocol: of.protocol,
                        ports: match &of.ports {
                            Ports::All => None,
                            Ports::Some { ranges, names } => {
                                let name = |name: &Arc<str>| match direction {
                                    Direction::Ingress => PortName::Own(name.clone()),
                                    Direction::Egress => {
                                        PortName::Peer(acquire(Question::NamedPort {
                                            name: name.clone(),
                                            protocol: of.protocol,
                                        }))
                                    }
                                };
                                let names = names.iter().map(name).collect();
                                Some(ActivePorts { ranges: ranges.clone(), names })
                            }
                        },
                    })
                    .collect(),
            ),
        };
        Self { action: rule.action, peers, traffic }
    }

    fn matches_peer(&self, class: &[Atom]) -> bool {
        let has = |id: &AtomId| !answers(class, *id).is_empty();
        self.peers.as_ref().is_none_or(|peers| {
            peers.iter().any(|peer| peer.all.iter().all(has) && !peer.none.iter().any(has))
        })
    }
}

impl Condition {
    fn new(peer: &Peer, acquire: &mut impl FnMut(Question) -> AtomId) -> Self {
        let mut condition = Self::default();
        if let Some(selector) = &peer.selector {
            condition.all.push(acquire(Question::Selector(selector.clone())));
        }
        if let Some(networks) = &peer.networks {
            condition.all.push(acquire(Question::Networks(networks.clone())));
        }
        if let Some(selector) = &peer.not_selector {
            condition.none.push(acquire(Question::Selector(selector.clone())));
        }
        condition
    }
}

/// What makes two programs the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProgramKey {
    pub(super) direction: Direction,
    /// Revisions of the policies that look at this direction, in evaluation order.
    pub(super) policies: Box<[u64]>,
    /// The endpoint's own named ports, as far as these policies ask for them. Sorted.
    pub(super) ports: Box<[NamedPort]>,
}

#[derive(Debug)]
struct Line {
    step: Step,
    /// The policy and its rule; None matches everything: the end of a tier, or of the program.
    rule: Option<(Arc<ActivePolicy>, u32)>,
}

/// A compiled program and who uses it.
#[derive(Debug)]
pub(super) struct Program {
    key: ProgramKey,
    lines: Vec<Line>,
    /// The lines that can match a peer because of one question, ascending.
    by_atom: FxHashMap<AtomId, Vec<u32>>,
    /// The lines that can match peers of class 0 too.
    always: Vec<u32>,
    /// The questions that make a difference to it.
    relevant: FxHashSet<AtomId>,
    /// By the relevant part of a class.
    tables: FxHashMap<Box<[Atom]>, Arc<Table>>,
    /// Of class 0.
    default: Arc<Table>,
    /// The classes told apart from class 0.
    told_apart: FxHashMap<Class, Arc<Table>>,
    /// The endpoints that use it: interface and addresses.
    pub(super) users: BTreeMap<IfIndex, SmallVec<[IpAddr; 2]>>,
}

impl Program {
    /// Compiles the program for all classes there are. `policies` are those of the key.
    pub(super) fn new(key: ProgramKey, policies: &[Arc<ActivePolicy>], classes: &Classes) -> Self {
        let lines = lay_out(key.direction, policies);
        let mut by_atom: FxHashMap<AtomId, Vec<u32>> = FxHashMap::default();
        let mut always = Vec::new();
        let mut relevant = FxHashSet::default();
        for (number, line) in (0u32..).zip(&lines) {
            let Some(rule) = line.rule(key.direction) else {
                always.push(number);
                continue;
            };
            for name in rule.traffic.iter().flatten().flat_map(ActiveTraffic::names) {
                if let PortName::Peer(id) = name {
                    relevant.insert(*id);
                }
            }
            match &rule.peers {
                None => always.push(number),
                Some(peers) => {
                    for peer in peers {
                        relevant.extend(peer.all.iter().chain(&peer.none).copied());
                        let lines = match peer.all.first() {
                            Some(id) => by_atom.entry(*id).or_default(),
                            None => &mut always,
                        };
                        if lines.last() != Some(&number) {
                            lines.push(number);
                        }
                    }
                }
            }
        }
        let mut program = Self {
            key,
            lines,
            by_atom,
            always,
            relevant,
            tables: FxHashMap::default(),
            default: Arc::new(Flattener::new().finish()),
            told_apart: FxHashMap::default(),
            users: BTreeMap::new(),
        };
        program.default = Arc::new(program.flatten(&[]));
        for class in classes.with_any_of(program.relevant.iter().copied()) {
            program.add_class(class, classes.atoms(class));
        }
        program
    }

    /// What it was made from.
    pub(super) fn key(&self) -> &ProgramKey {
        &self.key
    }

    /// The questions that make a difference to it.
    pub(super) fn relevant(&self) -> impl Iterator<Item = AtomId> {
        self.relevant.iter().copied()
    }

    /// The verdicts on peers of a class.
    pub(super) fn table(&self, class: Class) -> &Arc<Table> {
        self.told_apart.get(&class).unwrap_or(&self.default)
    }

    /// The verdicts on peers of no class, and of all that are not told apart.
    pub(super) fn default_table(&self) -> &Arc<Table> {
        &self.default
    }

    /// The table of a class, if it is told apart.
    pub(super) fn told_apart(&self, class: Class) -> Option<&Arc<Table>> {
        self.told_apart.get(&class)
    }

    /// All classes told apart, ascending.
    pub(super) fn classes(&self) -> Vec<Class> {
        let mut classes: Vec<Class> = self.told_apart.keys().copied().collect();
        classes.sort_unstable();
        classes
    }

    /// Takes in a class it does not know. Its table, if it is told apart.
    pub(super) fn add_class(&mut self, class: Class, atoms: &[Atom]) -> Option<&Arc<Table>> {
        let signature: SmallVec<[Atom; 8]> =
            atoms.iter().filter(|atom| self.relevant.contains(&atom.id())).copied().collect();
        let table = match self.tables.get(&*signature) {
            Some(table) => table.clone(),
            None => {
                let mut table = Arc::new(self.flatten(&signature));
                if table == self.default {
                    table = self.default.clone();
                }
                self.forget_unused_tables();
                self.tables.insert(signature.as_slice().into(), table.clone());
                table
            }
        };
        if Arc::ptr_eq(&table, &self.default) {
            return None;
        }
        self.told_apart.insert(class, table);
        self.told_apart.get(&class)
    }

    /// Forgets a class. Its table, if it was told apart.
    pub(super) fn remove_class(&mut self, class: Class) -> Option<Arc<Table>> {
        self.told_apart.remove(&class)
    }

    /// Keeps the memory of signatures within a multiple of the classes that have them.
    fn forget_unused_tables(&mut self) {
        if self.tables.len() > 2 * self.told_apart.len() + 64 {
            let default = &self.default;
            self.tables
                .retain(|_, table| Arc::strong_count(table) > 1 && !Arc::ptr_eq(table, default));
        }
    }

    /// The verdicts on peers with these answers to the relevant questions.
    fn flatten(&self, signature: &[Atom]) -> Table {
        let mut candidates: SmallVec<[u32; 16]> = SmallVec::from_slice(&self.always);
        for atom in signature {
            candidates.extend(self.by_atom.get(&atom.id()).into_iter().flatten().copied());
        }
        candidates.sort_unstable();
        candidates.dedup();
        let mut flattener = Flattener::new();
        for number in candidates {
            let line = &self.lines[number as usize];
            let rule = line.rule(self.key.direction);
            if rule.is_some_and(|rule| !rule.matches_peer(signature)) {
                continue;
            }
            match rule.and_then(|rule| rule.traffic.as_ref()) {
                None => {
                    if flattener.all_traffic(number, line.step) {
                        break;
                    }
                }
                Some(traffic) => {
                    for of in traffic {
                        self.apply(&mut flattener, number, line.step, of, signature);
                    }
                }
            }
        }
        flattener.finish()
    }

    fn apply(
        &self,
        flattener: &mut Flattener,
        number: u32,
        step: Step,
        traffic: &ActiveTraffic,
        signature: &[Atom],
    ) {
        let Some(ActivePorts { ranges, names }) = &traffic.ports else {
            return flattener.protocol(number, step, traffic.protocol);
        };
        let mut port = |port| flattener.ports(number, step, traffic.protocol, (port, port));
        for name in names {
            match name {
                PortName::Own(name) => self
                    .key
                    .ports
                    .iter()
                    .filter(|own| own.name == *name && own.protocol == traffic.protocol)
                    .for_each(|own| port(own.port)),
                PortName::Peer(id) => {
                    answers(signature, *id).iter().for_each(|atom| port(atom.port_number()));
                }
            }
        }
        for range in ranges {
            flattener.ports(number, step, traffic.protocol, *range);
        }
    }
}

impl ActiveTraffic {
    fn names(&self) -> impl Iterator<Item = &PortName> {
        self.ports.iter().flat_map(|ports| &ports.names)
    }
}

impl Line {
    fn rule(&self, direction: Direction) -> Option<&ActiveRule> {
        let (policy, number) = self.rule.as_ref()?;
        policy.rules(direction).get(*number as usize)
    }
}

/// The rules of all policies in one list, each tier closed by its default action, and after the
/// last tier what holds for workloads that nothing has denied: allow.
fn lay_out(direction: Direction, policies: &[Arc<ActivePolicy>]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for tier in policies.chunk_by(|a, b| a.tier == b.tier) {
        let rules: u32 = tier.iter().map(|policy| count(policy.rules(direction))).sum();
        let next_tier = count(&lines) + rules + 1;
        let step = |action| match action {
            Action::Allow => Step::Decide(Verdict::Allow),
            Action::Deny => Step::Decide(Verdict::Deny),
            Action::Pass => Step::SkipTo(next_tier),
        };
        for policy in tier {
            for (number, rule) in (0u32..).zip(policy.rules(direction)) {
                lines.push(Line { step: step(rule.action), rule: Some((policy.clone(), number)) });
            }
        }
        lines
            .extend(tier.first().map(|of| Line { step: step(of.tier.default_action), rule: None }));
    }
    lines.push(Line { step: Step::Decide(Verdict::Allow), rule: None });
    lines
}

/// Rules are counted in 32 bits: a program of four thousand million would not fit in memory.
fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
