//! Active policies: the rules of a policy that applies to an endpoint of this node, with every
//! question that they ask about an address numbered.

use std::sync::Arc;

use smallvec::SmallVec;

use super::atoms::{Atom, AtomId, Atoms, Question, answers};
use super::policy::{
    Action, Own, Peer, Peers, Policy, PolicyId, PortMatch, PortSet, Ports, ProtocolPorts, Rule,
    Tier, Traffics,
};
use super::ranges::Family;
use super::terms::Analysis;
use crate::model::Direction;
use crate::names::DomainNames;

/// The rules of an active policy.
#[derive(Debug)]
pub(super) struct ActivePolicy {
    pub(super) id: PolicyId,
    pub(super) tier: Arc<Tier>,
    ingress: Option<Vec<ActiveRule>>,
    egress: Option<Vec<ActiveRule>>,
    /// Every question acquired for it, once for each use.
    atoms: Vec<AtomId>,
    /// Those of them that are about names.
    names: Vec<(AtomId, DomainNames)>,
}

/// A rule.
#[derive(Debug)]
pub(super) struct ActiveRule {
    pub(super) action: Action,
    /// None is every address.
    pub(super) peers: Option<Vec<Condition>>,
    /// What the endpoint's own address of a family must be.
    own: Option<(Family, Condition)>,
    /// As `unknown`, of the endpoint's own address.
    own_unknown: Option<AtomId>,
    /// Asked where the rule must not wait for the labels of a namespace: is the namespace of the
    /// peer unknown?
    pub(super) unknown: Option<AtomId>,
    pub(super) traffic: ActiveTraffics,
}

/// A peer: all of these and none of those.
#[derive(Debug, Default)]
pub(super) struct Condition {
    pub(super) all: SmallVec<[AtomId; 2]>,
    pub(super) none: SmallVec<[AtomId; 1]>,
}

/// Which traffic.
#[derive(Debug)]
pub(super) struct ActiveTraffics {
    /// All protocols that are not in `of` too.
    pub(super) others: bool,
    /// At most one for a protocol.
    pub(super) of: Vec<ActiveTraffic>,
}

/// Ports of a protocol.
#[derive(Debug)]
pub(super) struct ActiveTraffic {
    pub(super) protocol: u8,
    pub(super) destination: ActiveMatch,
    pub(super) source: ActiveMatch,
}

/// Ports at one end.
#[derive(Debug)]
pub(super) struct ActiveMatch {
    /// None is all.
    pub(super) ports: Option<ActivePorts>,
    /// And none of these.
    pub(super) except: ActivePorts,
}

/// Some ports.
#[derive(Debug, Default)]
pub(super) struct ActivePorts {
    pub(super) ranges: Vec<(u16, u16)>,
    pub(super) names: Vec<PortName>,
}

/// A named port means what the pod at that end calls so: as a destination the endpoint itself for
/// ingress and the peer for egress, as a source the other way round. The peer's Service may say so in
/// its place.
#[derive(Debug)]
pub(super) enum PortName {
    Own(Arc<str>),
    Peer(AtomId),
}

impl ActivePolicy {
    /// Numbers the questions of a policy.
    pub(super) fn new(policy: &Policy, atoms: &mut Atoms) -> Self {
        let (mut acquired, mut names) = (Vec::new(), Vec::new());
        let mut acquire = |question: Question| {
            let id = atoms.acquire(&question);
            acquired.push(id);
            if let Question::Names(of) = question {
                names.push((id, of));
            }
            id
        };
        let mut rules = |direction: Direction| {
            let rules = policy.rules(direction)?;
            Some(rules.iter().map(|rule| ActiveRule::new(rule, direction, &mut acquire)).collect())
        };
        let (ingress, egress) = (rules(Direction::Ingress), rules(Direction::Egress));
        let (id, tier) = (policy.id.clone(), policy.tier.clone());
        Self { id, tier, ingress, egress, atoms: acquired, names }
    }

    /// Gives the questions back.
    pub(super) fn release(&self, atoms: &mut Atoms) {
        for id in &self.atoms {
            atoms.release(*id);
        }
    }

    /// What it asks of names.
    pub(super) fn names(&self) -> &[(AtomId, DomainNames)] {
        &self.names
    }

    /// The rules for one direction.
    pub(super) fn rules(&self, direction: Direction) -> &[ActiveRule] {
        let rules = match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        };
        rules.as_deref().unwrap_or_default()
    }

    /// The names that the endpoint itself must resolve for this policy.
    pub(super) fn own_port_names(
        &self,
        direction: Direction,
    ) -> impl Iterator<Item = (u8, &Arc<str>)> {
        let traffic = self.rules(direction).iter().flat_map(|rule| &rule.traffic.of);
        traffic.flat_map(|traffic| {
            traffic.names().filter_map(|name| match name {
                PortName::Own(name) => Some((traffic.protocol, name)),
                PortName::Peer(_) => None,
            })
        })
    }

    /// What is asked about the endpoint's own address of a family.
    pub(super) fn own_questions(
        &self,
        direction: Direction,
    ) -> impl Iterator<Item = (Family, AtomId)> {
        self.rules(direction).iter().filter_map(|rule| Some((rule, rule.own.as_ref()?))).flat_map(
            |(rule, (family, own))| {
                own.all.iter().chain(&own.none).chain(&rule.own_unknown).map(|id| (*family, *id))
            },
        )
    }
}

impl ActiveRule {
    fn new(
        rule: &Rule,
        direction: Direction,
        acquire: &mut impl FnMut(Question) -> AtomId,
    ) -> Self {
        let (peers, unknown) = match &rule.peers {
            Peers::Any => (None, None),
            Peers::OneOf(peers) => {
                let unknown = peers.iter().any(|peer| waits_for_namespace(rule.action, peer));
                let unknown = unknown.then(|| acquire(Question::NamespaceUnknown));
                let peers = peers.iter().map(|peer| Condition::new(peer, acquire)).collect();
                (Some(peers), unknown)
            }
        };
        let waits = |own: &&Own| waits_for_namespace(rule.action, &own.address);
        let own_unknown =
            rule.own.as_ref().filter(waits).map(|_| acquire(Question::NamespaceUnknown));
        let own = rule
            .own
            .as_ref()
            .map(|Own { family, address }| (*family, Condition::new(address, acquire)));
        let mut listed = |list: &[ProtocolPorts], others: bool| {
            let of = list.iter().map(|of| ActiveTraffic::new(of, direction, acquire));
            ActiveTraffics { others, of: of.collect() }
        };
        let traffic = match &rule.traffic {
            Traffics::Any => listed(&[], true),
            Traffics::OneOf(list) => listed(list, false),
            Traffics::AllBut(list) => listed(list, true),
        };
        Self { action: rule.action, peers, own, own_unknown, unknown, traffic }
    }

    /// Whether it matches peers of these memberships.
    pub(super) fn matches_peer(&self, class: &[Atom]) -> bool {
        let has = |id: &AtomId| !answers(class, *id).is_empty();
        self.peers.as_ref().is_none_or(|peers| peers.iter().any(|peer| peer.holds(has)))
    }

    /// Whether it asks about the endpoint's own address.
    pub(super) fn asks_own(&self) -> bool {
        self.own.is_some()
    }

    /// Whether it can match at all, given what is true of the endpoint's own addresses. Sorted.
    pub(super) fn matches_own(&self, truths: &[(Family, AtomId)]) -> bool {
        self.own.as_ref().is_none_or(|(family, own)| {
            own.holds(|id| truths.binary_search(&(*family, *id)).is_ok())
                || self.is_own_unknown(truths)
        })
    }

    /// Whether it is not known yet what it asks about the endpoint's own address.
    pub(super) fn is_own_unknown(&self, truths: &[(Family, AtomId)]) -> bool {
        self.own
            .as_ref()
            .zip(self.own_unknown)
            .is_some_and(|((family, _), id)| truths.binary_search(&(*family, id)).is_ok())
    }
}

/// As long as the labels of a workload's namespace are not known, nothing that asks for them
/// selects it. Where that could let traffic through, the rule has to know.
fn waits_for_namespace(action: Action, peer: &Peer) -> bool {
    let asks = |selector: &Option<_>| {
        selector.as_ref().is_some_and(|selector| Analysis::of(selector).namespace_labels)
    };
    let closes = matches!(action, Action::Deny | Action::Pass);
    action != Action::Log && (asks(&peer.not_selector) || (closes && asks(&peer.selector)))
}

impl ActiveTraffic {
    fn new(
        of: &ProtocolPorts,
        direction: Direction,
        acquire: &mut impl FnMut(Question) -> AtomId,
    ) -> Self {
        let protocol = of.protocol;
        let peer_is_destination = direction == Direction::Egress;
        Self {
            protocol,
            destination: ActiveMatch::new(&of.destination, protocol, peer_is_destination, acquire),
            source: ActiveMatch::new(&of.source, protocol, !peer_is_destination, acquire),
        }
    }

    /// All names of ports in it.
    pub(super) fn names(&self) -> impl Iterator<Item = &PortName> {
        [&self.destination, &self.source]
            .into_iter()
            .flat_map(|ends| ends.ports.iter().chain([&ends.except]).flat_map(|ports| &ports.names))
    }
}

impl ActiveMatch {
    fn new(
        of: &PortMatch,
        protocol: u8,
        is_peers: bool,
        acquire: &mut impl FnMut(Question) -> AtomId,
    ) -> Self {
        let mut numbered = |set: &PortSet| {
            let names = set.names.iter().map(|name| {
                if is_peers {
                    PortName::Peer(acquire(Question::NamedPort { name: name.clone(), protocol }))
                } else {
                    PortName::Own(name.clone())
                }
            });
            ActivePorts { names: names.collect(), ranges: set.ranges.clone() }
        };
        let except = numbered(&of.except);
        let ports = match &of.ports {
            Ports::All => None,
            Ports::Some(set) => Some(numbered(set)),
            Ports::OfService(service) => {
                let service = service.clone();
                let name = PortName::Peer(acquire(Question::ServicePort { service, protocol }));
                Some(ActivePorts { names: vec![name], ranges: Vec::new() })
            }
        };
        Self { ports, except }
    }

    /// Whether it leaves any port out.
    pub(super) fn asks(&self) -> bool {
        let ActivePorts { ranges, names } = &self.except;
        self.ports.is_some() || !ranges.is_empty() || !names.is_empty()
    }
}

impl Condition {
    fn new(peer: &Peer, acquire: &mut impl FnMut(Question) -> AtomId) -> Self {
        let mut condition = Self::default();
        if let Some(selector) = &peer.selector {
            condition.all.push(acquire(Question::Selector(selector.clone())));
        }
        if let Some(service) = &peer.service {
            condition.all.push(acquire(Question::Service(service.clone())));
        }
        if let Some(nodes) = &peer.nodes {
            condition.all.push(acquire(Question::Nodes(nodes.clone())));
        }
        if let Some(networks) = &peer.networks {
            condition.all.push(acquire(Question::Networks(networks.clone())));
        }
        if let Some(names) = &peer.names {
            condition.all.push(acquire(Question::Names(names.clone())));
        }
        if let Some(selector) = &peer.not_selector {
            condition.none.push(acquire(Question::Selector(selector.clone())));
        }
        condition
    }

    fn holds(&self, is_true: impl Fn(&AtomId) -> bool) -> bool {
        self.all.iter().all(&is_true) && !self.none.iter().any(&is_true)
    }
}
