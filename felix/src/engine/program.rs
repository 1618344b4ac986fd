//! A program: what the policies that apply to an endpoint in one direction come to, as a function
//! from class to [`Table`]. Endpoints to which the same policies apply share one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::active::{ActiveMatch, ActivePolicy, ActivePorts, ActiveRule, ActiveTraffic, PortName};
use super::atoms::{Atom, AtomId, answers};
use super::classes::Classes;
use super::policy::{Action, PolicyId};
use super::programs::Site;
use super::ranges::{Family, subtract};
use super::table::{ALL_PORTS, Flattener, Header, Step, Table};
use crate::model::{Class, Decider, Direction, NamedPort, Verdict};

/// Whose traffic a program judges: what holds for what no policy decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// A workload's: what nothing denies is allowed.
    Workload,
    /// The host's own: what its profiles say.
    Host { allows: bool },
    /// What the host forwards: what nothing denies is allowed.
    Forward,
    /// What comes before that: what no rule decides is left to it, whatever the tiers say, and what a
    /// rule allows is accepted without it.
    Early,
}

impl Role {
    /// What becomes of what no policy decides.
    fn rest(self) -> Verdict {
        match self {
            Self::Workload | Self::Forward | Self::Early | Self::Host { allows: true } => {
                Verdict::Allow
            }
            Self::Host { allows: false } => Verdict::Deny,
        }
    }
}

/// What makes two programs the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProgramKey {
    pub(super) direction: Direction,
    pub(super) role: Role,
    /// Revisions of the policies that look at this direction, in evaluation order.
    pub(super) policies: Box<[u64]>,
    /// The endpoint's own named ports, as far as these policies ask for them. Sorted.
    pub(super) ports: Box<[NamedPort]>,
    /// What these policies ask about the endpoint's own side of a packet and is true of it. Sorted. None:
    /// that is not known, and rules that ask allow nothing.
    pub(super) own: Option<Box<[(Family, AtomId)]>>,
    /// Packets are counted by who decides.
    pub(super) counted: bool,
}

impl ProgramKey {
    /// Whether two programs have the same verdicts on everything: they differ in what they count at
    /// most.
    pub(super) fn judges_as(&self, other: &Self) -> bool {
        *self == Self { counted: self.counted, ..other.clone() }
    }
}

#[derive(Clone, Debug)]
struct Line {
    step: Step,
    /// The policy and its rule; None matches everything: the end of a tier, or of the program.
    rule: Option<(Arc<ActivePolicy>, u32)>,
}

/// A line that matches a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Met<'a> {
    /// Its place among the lines, of which each policy has one for each rule, and each tier one more.
    pub(super) number: u32,
    /// The policy and its rule; None: the end of a tier, or of the program.
    pub(super) rule: Option<(&'a Arc<ActivePolicy>, u32)>,
    /// What it does to the packet.
    pub(super) step: Step,
}

/// A compiled program and who uses it.
#[derive(Clone, Debug)]
pub(super) struct Program {
    key: ProgramKey,
    lines: Vec<Line>,
    /// Who decides by each line; empty where nothing is counted.
    deciders: Box<[Decider]>,
    /// Those of the key.
    policies: Box<[Arc<ActivePolicy>]>,
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
    /// The endpoints that use it: where they are, and their addresses.
    pub(super) users: BTreeMap<Site, SmallVec<[IpAddr; 2]>>,
}

impl Program {
    /// Compiles the program for all classes there are. `policies` are those of the key, `deciders` as
    /// [`super::Engine::deciders`] has them.
    pub(super) fn new(
        key: ProgramKey,
        policies: &[Arc<ActivePolicy>],
        deciders: Box<[Decider]>,
        classes: &Classes,
    ) -> Self {
        let lines = lay_out(key.direction, key.role, policies);
        let mut by_atom: FxHashMap<AtomId, Vec<u32>> = FxHashMap::default();
        let mut always = Vec::new();
        let mut relevant = FxHashSet::default();
        for (number, line) in (0u32..).zip(&lines) {
            let Some(rule) = line.rule(key.direction) else {
                always.push(number);
                continue;
            };
            if key.own.as_ref().is_some_and(|own| !rule.matches_own(own)) {
                continue;
            }
            for name in rule.traffic.of.iter().flat_map(ActiveTraffic::names) {
                if let PortName::Peer(id) = name {
                    relevant.insert(*id);
                }
            }
            if let Some(id) = rule.unknown {
                relevant.insert(id);
                by_atom.entry(id).or_default().push(number);
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
            deciders,
            policies: policies.into(),
            by_atom,
            always,
            relevant,
            tables: FxHashMap::default(),
            default: Arc::new(Flattener::new(&[]).finish()),
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

    /// Who decides; empty where nothing is counted.
    pub(super) fn deciders(&self) -> &[Decider] {
        &self.deciders
    }

    /// Its policies, in evaluation order.
    pub(super) fn policies(&self) -> impl ExactSizeIterator<Item = &PolicyId> + Clone {
        self.policies.iter().map(|policy| &policy.id)
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
        let mut flattener = Flattener::new(&self.deciders);
        for number in self.candidates(signature) {
            let line = &self.lines[number as usize];
            let Some(rule) = line.rule(self.key.direction) else {
                if flattener.all_traffic(number, line.step) {
                    break;
                }
                continue;
            };
            let Some(step) = self.step_for(line, rule, signature) else { continue };
            if rule.traffic.others {
                let listed: SmallVec<[u8; 4]> =
                    rule.traffic.of.iter().map(|of| of.protocol).collect();
                if flattener.all_but(number, step, &listed) {
                    break;
                }
            }
            for of in &rule.traffic.of {
                self.apply(&mut flattener, number, step, of, signature);
            }
        }
        flattener.finish()
    }

    /// The lines that can match a peer with these answers, in order.
    fn candidates(&self, signature: &[Atom]) -> SmallVec<[u32; 16]> {
        let mut candidates: SmallVec<[u32; 16]> = SmallVec::from_slice(&self.always);
        for atom in signature {
            candidates.extend(self.by_atom.get(&atom.id()).into_iter().flatten().copied());
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }

    /// The lines that match a packet from or to a peer of which this is true, in order, up to the
    /// one that decides.
    pub(super) fn trace(&self, atoms: &[Atom], header: Header) -> Vec<Met<'_>> {
        let (mut met, mut from) = (Vec::new(), 0);
        for place in self.candidates(atoms) {
            let line = &self.lines[place as usize];
            let step = match line.rule(self.key.direction) {
                None => Some(line.step),
                Some(rule) if self.covers(rule, header, atoms) => self.step_for(line, rule, atoms),
                Some(_) => None,
            };
            let Some(step) = step.filter(|_| place >= from) else { continue };
            let rule = line.rule.as_ref().map(|(policy, number)| (policy, *number));
            met.push(Met { number: place, rule, step });
            match step {
                Step::Decide(_) => break,
                Step::SkipTo(next) => from = next,
                Step::Log => {}
            }
        }
        met
    }

    /// Whether a rule that can match a packet of this protocol to this port, from or to a peer of
    /// which this is true, asks about its source port.
    pub(super) fn asks_source(&self, atoms: &[Atom], protocol: u8, port: u16) -> bool {
        self.candidates(atoms).into_iter().any(|number| {
            let line = &self.lines[number as usize];
            let rule = line.rule(self.key.direction);
            rule.is_some_and(|rule| {
                let of = rule.traffic.of.iter().find(|of| of.protocol == protocol);
                self.step_for(line, rule, atoms).is_some()
                    && of.is_some_and(|of| {
                        of.source.asks() && self.has(&of.destination, protocol, port, atoms)
                    })
            })
        })
    }

    /// Whether a rule is about a packet of this protocol and these ports.
    fn covers(&self, rule: &ActiveRule, header: Header, signature: &[Atom]) -> bool {
        let Header { protocol, source, port } = header;
        let Some(of) = rule.traffic.of.iter().find(|of| of.protocol == protocol) else {
            return rule.traffic.others;
        };
        self.has(&of.destination, protocol, port, signature)
            && self.has(&of.source, protocol, source, signature)
    }

    /// What a line does with a peer of these answers; None if its rule does not match.
    fn step_for(&self, line: &Line, rule: &ActiveRule, signature: &[Atom]) -> Option<Step> {
        let matches = || rule.matches_peer(signature);
        let closes = match &self.key.own {
            Some(own) => rule.is_own_unknown(own),
            None => rule.asks_own(),
        };
        let is_unknown = rule.unknown.is_some_and(|id| !answers(signature, id).is_empty());
        match (is_unknown, rule.action) {
            (true, Action::Allow | Action::Log) => None,
            // Whether it denies, or leaves to a later tier, what then must not be allowed.
            (true, Action::Deny | Action::Pass) => Some(Step::Decide(Verdict::Deny)),
            (_, Action::Allow | Action::Log) if closes => None,
            _ if closes => matches().then_some(Step::Decide(Verdict::Deny)),
            _ => matches().then_some(line.step),
        }
    }

    fn has(&self, of: &ActiveMatch, protocol: u8, port: u16, signature: &[Atom]) -> bool {
        match self.ranges(of, protocol, signature) {
            None => true,
            Some(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&port)),
        }
    }

    fn apply(
        &self,
        flattener: &mut Flattener<'_>,
        number: u32,
        step: Step,
        traffic: &ActiveTraffic,
        signature: &[Atom],
    ) {
        let protocol = traffic.protocol;
        let all = || vec![ALL_PORTS];
        let ranges = |of: &ActiveMatch| self.ranges(of, protocol, signature);
        match (ranges(&traffic.destination), ranges(&traffic.source)) {
            (None, None) => flattener.protocol(number, step, protocol),
            (ports, sources) => {
                let ports = ports.unwrap_or_else(all);
                for source in sources.unwrap_or_else(all) {
                    for range in &ports {
                        flattener.ports(number, step, protocol, *range, source);
                    }
                }
            }
        }
    }

    /// The ports meant, which may overlap; None is all.
    fn ranges(
        &self,
        of: &ActiveMatch,
        protocol: u8,
        signature: &[Atom],
    ) -> Option<Vec<(u16, u16)>> {
        let resolve = |ports: &ActivePorts| self.resolve(ports, protocol, signature);
        let except = resolve(&of.except);
        let ports = match &of.ports {
            None if except.is_empty() => return None,
            None => vec![ALL_PORTS],
            Some(ports) => resolve(ports),
        };
        Some(subtract(&ports, &except))
    }

    /// Ports by their numbers; may overlap.
    fn resolve(&self, ports: &ActivePorts, protocol: u8, signature: &[Atom]) -> Vec<(u16, u16)> {
        let mut ranges = ports.ranges.clone();
        for name in &ports.names {
            match name {
                PortName::Own(name) => {
                    let own = self.key.ports.iter();
                    let own = own.filter(|own| own.name == *name && own.protocol == protocol);
                    ranges.extend(own.map(|own| (own.port, own.port)));
                }
                PortName::Peer(id) => {
                    let numbers = answers(signature, *id).iter().map(|atom| atom.port_number());
                    ranges.extend(numbers.map(|port| (port, port)));
                }
            }
        }
        ranges
    }
}

impl Line {
    fn rule(&self, direction: Direction) -> Option<&ActiveRule> {
        let (policy, number) = self.rule.as_ref()?;
        policy.rules(direction).get(*number as usize)
    }
}

/// The rules of all policies in one list, each tier closed by its default action, if it has one
/// there, and after the last tier what holds for what nothing has decided.
fn lay_out(direction: Direction, role: Role, policies: &[Arc<ActivePolicy>]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let early = role == Role::Early;
    for tier in policies.chunk_by(|a, b| a.tier == b.tier) {
        let rules: u32 = tier.iter().map(|policy| count(policy.rules(direction))).sum();
        let next_tier = count(&lines) + rules + u32::from(!early);
        let step = |action| match action {
            Action::Allow if early => Step::Decide(Verdict::Accept),
            Action::Allow => Step::Decide(Verdict::Allow),
            Action::Deny => Step::Decide(Verdict::Deny),
            Action::Pass => Step::SkipTo(next_tier),
            Action::Log => Step::Log,
        };
        for policy in tier {
            for (number, rule) in (0u32..).zip(policy.rules(direction)) {
                lines.push(Line { step: step(rule.action), rule: Some((policy.clone(), number)) });
            }
        }
        let end = tier.first().filter(|_| !early);
        lines.extend(end.map(|of| Line { step: step(of.tier.default_action), rule: None }));
    }
    lines.push(Line { step: Step::Decide(role.rest()), rule: None });
    lines
}

/// Rules are counted in 32 bits: a program of four thousand million would not fit in memory.
fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
