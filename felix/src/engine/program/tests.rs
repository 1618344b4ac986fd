//! Programs of every shape against an evaluator that reads the rules one by one: tiers, passes,
//! denials, negated selectors and named ports, which Kubernetes policies do not all have.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::engine::atoms::{Atoms, Question};
use crate::engine::policy::{
    Networks, OfHosts, Order, Peer, Peers, Policy, PolicyId, PortMatch, PortSet, Ports,
    ProtocolPorts, Rule, Tier, Traffics,
};
use crate::engine::table::Ruling;
use crate::model::{Kind, ObjectKey};

/// What is true of a peer, in place of an address.
#[derive(Clone, Debug, Default)]
struct Truth {
    selectors: Vec<usize>,
    networks: Vec<usize>,
    named: Vec<(&'static str, u8, u16)>,
}

/// Where rules may change their minds, and the neighbours.
const PORTS: [u16; 19] =
    [0, 1, 2, 70, 71, 72, 78, 79, 80, 81, 82, 149, 150, 1000, 1050, 1070, 3080, 4000, 4001];

const NAMES: [&str; 2] = ["http", "dns"];

fn selector(number: usize) -> api::selector::Selector {
    api::selector::Selector::parse(&format!("s{number} == 'x'")).unwrap()
}

fn networks(number: usize) -> Networks {
    Networks::new(&[format!("10.{number}.0.0/16").parse().unwrap()], &[])
}

#[derive(Clone, Debug)]
struct RawPeer {
    selector: Option<usize>,
    not_selector: Option<usize>,
    networks: Option<usize>,
}

#[derive(Clone, Debug)]
struct RawRule {
    action: Action,
    peers: Option<Vec<RawPeer>>,
    /// Whether protocols that are not listed match too, and the list.
    traffic: Option<(bool, Vec<ProtocolPorts>)>,
}

type RawTier = (bool, Vec<Vec<RawRule>>);

fn ports() -> impl Strategy<Value = Ports> {
    let range = (select(vec![1u16, 79, 80, 81, 1000]), select(vec![0u16, 1, 70, 3000]));
    prop_oneof![
        1 => Just(Ports::All),
        3 => (prop::option::of(range), subsequence(NAMES.to_vec(), 0..=2)).prop_map(
            |(range, names)| Ports::Some(PortSet::new(
                range.map(|(first, more)| (first, first + more)).into_iter().collect(),
                names.into_iter().map(Into::into).collect(),
            ))
        ),
    ]
}

fn port_match() -> impl Strategy<Value = PortMatch> {
    (ports(), ports()).prop_map(|(ports, except)| match except {
        Ports::Some(except) => PortMatch { ports, except },
        _ => PortMatch { ports, except: PortSet::default() },
    })
}

fn rule() -> impl Strategy<Value = RawRule> {
    let peer = (
        prop::option::weighted(0.7, 0..4usize),
        prop::option::weighted(0.3, 0..4usize),
        prop::option::weighted(0.3, 0..2usize),
    )
        .prop_map(|(selector, not_selector, networks)| RawPeer {
            selector,
            not_selector,
            networks,
        });
    let traffic = subsequence(vec![1u8, 6, 17], 0..=3).prop_flat_map(|protocols| {
        let each = protocols.into_iter().map(|protocol| {
            let source = if protocol == 1 {
                Just(PortMatch::default()).boxed()
            } else {
                prop_oneof![2 => Just(PortMatch::default()), 1 => port_match()].boxed()
            };
            (port_match(), source).prop_map(move |(destination, source)| ProtocolPorts {
                protocol,
                destination,
                source,
            })
        });
        each.collect::<Vec<_>>()
    });
    (
        select(vec![Action::Allow, Action::Deny, Action::Pass, Action::Log]),
        prop::option::weighted(0.8, prop::collection::vec(peer, 0..3)),
        prop::option::weighted(0.6, (prop::bool::weighted(0.3), traffic)),
    )
        .prop_map(|(action, peers, traffic)| RawRule { action, peers, traffic })
}

fn tiers() -> impl Strategy<Value = Vec<RawTier>> {
    let policy = prop::collection::vec(rule(), 0..4);
    prop::collection::vec((any::<bool>(), prop::collection::vec(policy, 1..4)), 0..4)
}

fn truth() -> impl Strategy<Value = Truth> {
    let named = (select(NAMES.to_vec()), select(vec![6u8, 17]), select(vec![80u16, 81, 1050]));
    (
        subsequence(vec![0, 1, 2, 3], 0..=4),
        subsequence(vec![0, 1], 0..=2),
        prop::collection::vec(named, 0..3),
    )
        .prop_map(|(selectors, networks, named)| Truth { selectors, networks, named })
}

/// As the policies are meant: tier by tier, policy by policy, rule by rule.
fn naive(
    tiers: &[RawTier],
    direction: Direction,
    own: &[(&str, u8, u16)],
    peer: &Truth,
    Header { protocol, source, port }: Header,
) -> Ruling {
    let mut log = false;
    let ruling = Ruling::new;
    'tiers: for (pass_by_default, policies) in tiers {
        for rule in policies.iter().flatten() {
            let is_peer = rule.peers.as_ref().is_none_or(|peers| {
                peers.iter().any(|wanted| {
                    wanted.selector.is_none_or(|s| peer.selectors.contains(&s))
                        && wanted.not_selector.is_none_or(|s| !peer.selectors.contains(&s))
                        && wanted.networks.is_none_or(|n| peer.networks.contains(&n))
                })
            });
            let (of_source, of_destination) = match direction {
                Direction::Ingress => (&*peer.named, own),
                Direction::Egress => (own, &*peer.named),
            };
            let is_in = |set: &PortSet, names: &[(&str, u8, u16)], port: u16| {
                set.ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
                    || names.iter().any(|(name, p, number)| {
                        *p == protocol
                            && *number == port
                            && set.names.iter().any(|wanted| **wanted == **name)
                    })
            };
            let is_traffic = rule.traffic.as_ref().is_none_or(|(others, traffic)| {
                match traffic.iter().find(|of| of.protocol == protocol) {
                    None => *others,
                    Some(of) => {
                        let has = |of: &PortMatch, names, port| {
                            let included = match &of.ports {
                                Ports::All => true,
                                Ports::Some(set) => is_in(set, names, port),
                                Ports::OfService(service) => panic!("{service}"),
                            };
                            included && !is_in(&of.except, names, port)
                        };
                        has(&of.destination, of_destination, port)
                            && has(&of.source, of_source, source)
                    }
                }
            });
            if is_peer && is_traffic {
                match rule.action {
                    Action::Allow => return ruling(Verdict::Allow, log),
                    Action::Deny => return ruling(Verdict::Deny, log),
                    Action::Log => log = true,
                    Action::Pass => continue 'tiers,
                }
            }
        }
        if !pass_by_default {
            return ruling(Verdict::Deny, log);
        }
    }
    ruling(Verdict::Allow, log)
}

fn policies(tiers: &[RawTier], direction: Direction) -> Vec<Policy> {
    let mut policies = Vec::new();
    for (place, (pass, list)) in (0u32..).zip(tiers) {
        let default_action = if *pass { Action::Pass } else { Action::Deny };
        let name = format!("tier-{place}");
        let tier = Arc::new(Tier::new(&name, Order::new(place.into()), default_action));
        for (number, rules) in list.iter().enumerate() {
            let rules = rules.iter().map(|rule| Rule {
                number: None,
                action: rule.action,
                peers: match &rule.peers {
                    None => Peers::Any,
                    Some(peers) => Peers::OneOf(
                        peers
                            .iter()
                            .map(|peer| Peer {
                                selector: peer.selector.map(selector),
                                not_selector: peer.not_selector.map(selector),
                                networks: peer.networks.map(networks),
                                nodes: None,
                                service: None,
                                names: None,
                            })
                            .collect(),
                    ),
                },
                own: None,
                traffic: match rule.traffic.clone() {
                    None => Traffics::Any,
                    Some((false, list)) => Traffics::OneOf(list),
                    Some((true, list)) => Traffics::AllBut(list),
                },
            });
            let rules: Vec<Rule> = rules.collect();
            let name = format!("{number}");
            policies.push(Policy {
                id: PolicyId { kind: Kind::NetworkPolicy, key: ObjectKey::cluster(&name) },
                tier: tier.clone(),
                order: Order::new(0.0),
                subject: api::selector::Selector::all(),
                hosts: OfHosts::Nothing,
                ingress: (direction == Direction::Ingress).then(|| rules.clone()),
                egress: (direction == Direction::Egress).then_some(rules),
            });
        }
    }
    policies.sort_by(Policy::evaluation_order);
    policies
}

/// The answers to the questions that policies asked.
fn answer(atoms: &mut Atoms, truth: &Truth) -> Vec<Atom> {
    let mut answers = Vec::new();
    for (id, question) in atoms.take_changes().activated {
        match question {
            Question::Selector(asked) => {
                let yes = truth.selectors.iter().any(|number| selector(*number) == asked);
                answers.extend(yes.then(|| Atom::yes(id)));
            }
            Question::Networks(asked) => {
                let yes = truth.networks.iter().any(|number| networks(*number) == asked);
                answers.extend(yes.then(|| Atom::yes(id)));
            }
            Question::NamespaceUnknown
            | Question::Nodes(_)
            | Question::Service(_)
            | Question::ServicePort { .. }
            | Question::Names(_) => {}
            Question::NamedPort { name, protocol } => {
                let named = truth.named.iter().filter(|(n, p, _)| **n == *name && *p == protocol);
                answers.extend(named.map(|(_, _, port)| Atom::port(id, *port)));
            }
        }
    }
    answers.sort_unstable();
    answers.dedup();
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_program_decides_as_its_rules_do(
        tiers in tiers(),
        direction in select(vec![Direction::Ingress, Direction::Egress]),
        own in truth(),
        peer in truth(),
    ) {
        let mut atoms = Atoms::default();
        let policies: Vec<Arc<ActivePolicy>> = policies(&tiers, direction)
            .iter()
            .map(|policy| Arc::new(ActivePolicy::new(policy, &mut atoms)))
            .collect();
        let mut classes = Classes::default();
        let class = classes.acquire(&answer(&mut atoms, &peer));
        let own = own.named;
        let ports = own.iter().map(|(name, protocol, port)| NamedPort {
            name: (*name).into(),
            protocol: *protocol,
            port: *port,
        });
        let key = ProgramKey {
            direction,
            role: Role::Workload,
            policies: Box::default(),
            ports: ports.collect(),
            own: Some(Box::default()),
            counted: false,
        };
        let program = Program::new(key, &policies, Box::default(), &classes);
        let nothing = Truth::default();
        for (protocol, port) in [1, 6, 17, 47].into_iter().flat_map(|p| PORTS.map(|port| (p, port))) {
            let sources = if [6, 17].contains(&protocol) { &PORTS[..] } else { &[0] };
            for &source in sources {
                let header = Header { protocol, source, port };
                let truth = |peer| naive(&tiers, direction, &own, peer, header);
                prop_assert_eq!(program.table(class).find(header).1, truth(&peer));
                prop_assert_eq!(program.default_table().find(header).1, truth(&nothing));
            }
        }
    }
}
