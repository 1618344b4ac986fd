//! Random histories of clusters with policies of Calico, of Kubernetes and of the cluster side by side, network
//! sets and tiers: what the kernel holds in the end is what an engine would give it that sees the
//! present only, and decides what the API says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::calico_oracle::{CalicoCluster, OracleSet, OracleSlice, Packet};
use super::calico_strategies::{
    ACCOUNTS, endpoint_slice, global_network_set, global_policy, network_set, policy, tier,
};
use super::cluster_oracle::{OracleName, OracleNode};
use super::cluster_strategies::{cluster_node, cluster_policy};
use super::explain::{EXPLAINED, Header, explained, foretold};
use super::kernel::Kernel;
use super::oracle::{OraclePod, Way};
use super::random::{IN_BETWEEN, cases};
use super::strategies::{
    NAMESPACES, OUTSIDE, POD_NAMES, addresses, namespace_labels, pod, policy as kubernetes_policy,
};
use super::world::{endpoint_of, ip};
use crate::engine::Engine;
use crate::model::{
    Change, Direction, EndpointId, IfIndex, Key, Kind, Labels, LocalEndpoint, Namespace, Object,
    ObjectKey, Pod, ServiceAccount, Update, Verdict,
};
use crate::names::learned::{self, Known};

/// Of a pod: its namespace and its number in it.
pub(super) type Place = (usize, usize);

#[derive(Clone, Debug)]
pub(super) enum Event {
    Set(Box<Object>),
    /// One of the objects there are goes, if it is of a kind that can.
    Gone(u8),
    /// The pod of this place is given to this node, as it is then.
    Endpoint(usize, usize),
    /// Packets are counted by who decides, or not.
    Counting(bool),
    /// The endpoint of this place knows this of an address.
    Learned(Place, IpAddr, Known),
    /// The kernel gets what has changed.
    Take,
}

pub(super) fn event() -> BoxedStrategy<Event> {
    let name = || select(vec!["p", "p-1", "q"]);
    let namespace = || select(NAMESPACES.to_vec());
    let place = || (0..NAMESPACES.len(), 0..POD_NAMES.len());
    let set = |object: Object| Event::Set(Box::new(object));
    let of_name = |name: &'static str| name;
    let labels = |map: &BTreeMap<String, String>| -> Labels { map.iter().collect() };
    prop_oneof![
        1 => (namespace(), namespace_labels()).prop_map(move |(name, map)| {
            set(Object::Namespace(namespace_of(name, labels(&map))))
        }),
        1 => (namespace(), select(ACCOUNTS.to_vec()), namespace_labels()).prop_map(
            move |(namespace, name, map)| {
                let key = ObjectKey::namespaced(namespace, name);
                set(Object::ServiceAccount(ServiceAccount { key, labels: labels(&map) }))
            }
        ),
        6 => place().prop_flat_map(pod_at),
        2 => tier().prop_map(move |tier| set(tier.into())),
        4 => (namespace(), name()).prop_flat_map(|(s, n)| policy(s, n))
            .prop_map(move |policy| set(policy.into())),
        4 => name().prop_map(of_name).prop_flat_map(global_policy)
            .prop_map(move |policy| set(policy.into())),
        1 => (namespace(), name()).prop_flat_map(|(s, n)| kubernetes_policy(s, n))
            .prop_map(move |policy| set(Object::KubernetesNetworkPolicy(Arc::new(policy)))),
        4 => name().prop_map(of_name).prop_flat_map(cluster_policy)
            .prop_map(move |it| set(Object::ClusterNetworkPolicy(it.into()))),
        4 => cluster_node().prop_map(move |it| set(Object::Node(it))),
        2 => (namespace(), name()).prop_flat_map(|(s, n)| network_set(s, n))
            .prop_map(move |it| set(it.into())),
        4 => (namespace(), name()).prop_flat_map(|(s, n)| endpoint_slice(s, n))
            .prop_map(move |it| set(Object::EndpointSlice(it))),
        2 => name().prop_flat_map(global_network_set).prop_map(move |it| set(it.into())),
        3 => any::<u8>().prop_map(Event::Gone),
        4 => place().prop_map(|(n, s)| Event::Endpoint(n, s)),
        1 => any::<bool>().prop_map(Event::Counting),
        6 => (place(), peer(), names(), names()).prop_map(|(place, address, names, lapsed)| {
            Event::Learned(place, address, Known { names, lapsed })
        }),
        3 => Just(Event::Take),
    ]
    .boxed()
}

/// The pod of this place, with some account.
pub(super) fn pod_at((namespace, slot): Place) -> BoxedStrategy<Event> {
    (pod(namespace, slot), select(ACCOUNTS.to_vec()))
        .prop_map(|(pod, account)| {
            Event::Set(Box::new(Object::Pod(Pod { service_account: account.into(), ..pod })))
        })
        .boxed()
}

/// An address that is looked at in the end.
fn peer() -> BoxedStrategy<IpAddr> {
    let outside = select(OUTSIDE.to_vec()).prop_map(ip);
    let pods = (0..NAMESPACES.len(), 0..POD_NAMES.len(), 0usize..2);
    prop_oneof![2 => outside, 1 => pods.prop_map(|(n, s, of)| addresses(n, s)[of])].boxed()
}

fn names() -> BoxedStrategy<Vec<Arc<str>>> {
    let names = ["a.example.org", "b.example.org", "c.test", "d.b.example.org", "example.org"];
    subsequence(names.to_vec(), 0..=2)
        .prop_map(|names| names.into_iter().map(Arc::from).collect())
        .boxed()
}

fn namespace_of(name: &str, labels: Labels) -> Namespace {
    let named = [("kubernetes.io/metadata.name", name)];
    Namespace {
        name: name.into(),
        labels: labels.iter().chain(named).collect(),
        annotations: Labels::default(),
    }
}

/// The present: what any history comes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Present {
    objects: BTreeMap<(Kind, ObjectKey), Object>,
    pub(super) endpoints: BTreeSet<Place>,
    counting: bool,
    pub(super) learned: BTreeMap<(Place, IpAddr), Known>,
}

pub(super) enum Told {
    Counting(bool),
    Source(Update),
    Endpoint(Box<LocalEndpoint>),
    Learned(learned::Change),
}

impl Told {
    pub(super) fn to(self, engine: &mut Engine) {
        match self {
            Self::Counting(on) => engine.set_counting(on),
            Self::Source(update) => engine.apply(update),
            Self::Endpoint(endpoint) => engine.endpoint_set(*endpoint),
            Self::Learned(change) => engine.learn(change),
        }
    }
}

fn pod_key((namespace, slot): Place) -> ObjectKey {
    ObjectKey::namespaced(NAMESPACES[namespace], POD_NAMES[slot])
}

fn told_of(place: Place, address: IpAddr, known: Known) -> learned::Change {
    let endpoint = EndpointId { container_id: format!("{place:?}"), ifname: "eth0".into() };
    learned::Change { endpoint, address, known }
}

pub(super) fn index((namespace, slot): Place) -> u32 {
    u32::try_from(100 + namespace * 10 + slot).unwrap()
}

impl Present {
    pub(super) fn start() -> Self {
        let mut present = Self::default();
        for name in NAMESPACES {
            present.put(Object::Namespace(namespace_of(name, Labels::default())));
        }
        present
    }

    fn put(&mut self, object: Object) {
        self.objects.insert((object.kind(), object.key()), object);
    }

    fn pod(&self, place: Place) -> Option<&Pod> {
        match self.objects.get(&(Kind::Pod, pod_key(place))) {
            Some(Object::Pod(pod)) => Some(pod),
            _ => None,
        }
    }

    fn endpoint(&self, place: Place) -> LocalEndpoint {
        let mut endpoint = endpoint_of(self.pod(place).unwrap(), index(place));
        endpoint.id.container_id = format!("{place:?}");
        endpoint.addresses = addresses(place.0, place.1).into_iter().collect();
        endpoint
    }

    pub(super) fn happen(&mut self, event: &Event) -> Option<Told> {
        match event {
            Event::Set(object) => {
                if let Object::Pod(pod) = &**object
                    && pod.host_network
                {
                    return None;
                }
                self.put((**object).clone());
                Some(Told::Source(Update::Set((**object).clone())))
            }
            Event::Gone(number) => {
                // Pods of endpoints, and namespaces of pods, stay.
                let may_go = |kind: Kind| !matches!(kind, Kind::Pod | Kind::Namespace);
                let some: Vec<_> = self.objects.keys().filter(|(kind, _)| may_go(*kind)).collect();
                let (kind, key) = (*some.get(usize::from(*number) % some.len().max(1))?).clone();
                self.objects.remove(&(kind, key.clone()));
                Some(Told::Source(Update::Remove(kind, key)))
            }
            Event::Endpoint(namespace, slot) => {
                let place = (*namespace, *slot);
                self.pod(place)?;
                self.endpoints.insert(place);
                Some(Told::Endpoint(Box::new(self.endpoint(place))))
            }
            Event::Counting(on) => {
                self.counting = *on;
                Some(Told::Counting(*on))
            }
            Event::Learned(place, address, known) => {
                if !self.endpoints.contains(place) {
                    return None;
                }
                if known.is_empty() {
                    self.learned.remove(&(*place, *address));
                } else {
                    self.learned.insert((*place, *address), known.clone());
                }
                Some(Told::Learned(told_of(*place, *address, known.clone())))
            }
            Event::Take => None,
        }
    }

    /// Everything, told to an engine that knows nothing, in another order for another `seed`.
    pub(super) fn replay(&self, seed: u64) -> (Engine, Kernel) {
        let objects = self.objects.values().cloned();
        let mut told: Vec<Told> = objects.map(|o| Told::Source(Update::Set(o))).collect();
        let here = self.endpoints.iter().map(|place| self.endpoint(*place));
        told.extend(here.map(|endpoint| Told::Endpoint(Box::new(endpoint))));
        told.push(Told::Counting(self.counting));
        let mut state = seed | 1;
        for at in (1..told.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            told.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
        }
        let known = self.learned.iter();
        told.extend(known.map(|((place, address), known)| {
            Told::Learned(told_of(*place, *address, known.clone()))
        }));
        let mut engine = Engine::new();
        told.into_iter().for_each(|told| told.to(&mut engine));
        engine.apply(Update::InSync);
        let mut kernel = Kernel::default();
        kernel.apply(&engine.take_delta().unwrap_or_default());
        (engine, kernel)
    }

    pub(super) fn oracle(&self) -> CalicoCluster {
        self.oracle_that_knows(|known| known.names.clone())
    }

    /// The same, if names stood for all that they ever did.
    pub(super) fn oracle_of_once(&self) -> CalicoCluster {
        self.oracle_that_knows(|known| [&known.names[..], &known.lapsed].concat())
    }

    fn oracle_that_knows(&self, names: impl Fn(&Known) -> Vec<Arc<str>>) -> CalicoCluster {
        let mut cluster = CalicoCluster::default();
        let owned = |labels: &Labels| -> BTreeMap<String, String> {
            labels.iter().map(|(key, value)| (key.into(), value.into())).collect()
        };
        for object in self.objects.values() {
            match object {
                Object::Namespace(it) => {
                    cluster.kubernetes.namespaces.insert((*it.name).into(), owned(&it.labels));
                }
                Object::ServiceAccount(it) => {
                    let namespace = it.key.namespace.as_deref().unwrap();
                    let key = (namespace.into(), (*it.key.name).into());
                    cluster.accounts.insert(key, owned(&it.labels));
                }
                Object::Tier(it) => {
                    let name = it.metadata.name.clone().unwrap();
                    cluster.tiers.insert(name, it.spec.clone());
                }
                Object::KubernetesNetworkPolicy(it) => {
                    cluster.kubernetes.policies.push((**it).clone());
                }
                Object::NetworkPolicy(it) => cluster.policies.push((**it).clone()),
                Object::GlobalNetworkPolicy(it) => cluster.global_policies.push((**it).clone()),
                Object::ClusterNetworkPolicy(it) => cluster.cluster_policies.push((**it).clone()),
                Object::Node(it) => cluster.nodes.push(OracleNode {
                    labels: owned(&it.labels),
                    addresses: it.addresses.to_vec(),
                }),
                Object::NetworkSet(it) => cluster.sets.push(OracleSet {
                    namespace: it.metadata.namespace.clone(),
                    labels: it.metadata.labels.clone().unwrap_or_default(),
                    nets: it.spec.nets.clone(),
                }),
                Object::GlobalNetworkSet(it) => cluster.sets.push(OracleSet {
                    namespace: None,
                    labels: it.metadata.labels.clone().unwrap_or_default(),
                    nets: it.spec.nets.clone(),
                }),
                Object::EndpointSlice(it) => cluster.slices.push(OracleSlice {
                    namespace: it.key.namespace.as_deref().unwrap().into(),
                    service: it.service.as_deref().unwrap_or_default().into(),
                    addresses: it.addresses.to_vec(),
                    ports: it.ports.to_vec(),
                }),
                _ => {}
            }
        }
        for (namespace, name) in NAMESPACES.iter().enumerate() {
            for slot in 0..POD_NAMES.len() {
                let place = (namespace, slot);
                let Some(pod) = self.pod(place) else { continue };
                let here = self.endpoints.contains(&place);
                let protocol = |number| TRAFFIC.iter().find(|(n, _)| *n == number).unwrap().1;
                let ports = pod.ports.iter();
                cluster.pod_accounts.push((*pod.service_account).into());
                cluster.kubernetes.pods.push(OraclePod {
                    namespace: (*name).into(),
                    labels: owned(&pod.labels),
                    addresses: if here {
                        addresses(namespace, slot).to_vec()
                    } else {
                        pod.addresses.to_vec()
                    },
                    ports: ports
                        .map(|p| ((*p.name).into(), protocol(p.protocol).into(), p.port))
                        .collect(),
                });
            }
        }
        cluster.learned.extend(self.learned.iter().map(|((place, address), known)| OracleName {
            pod: addresses(place.0, place.1).to_vec(),
            address: *address,
            names: names(known).iter().map(ToString::to_string).collect(),
        }));
        cluster
    }
}

pub(super) const TRAFFIC: [(u8, &str); 5] =
    [(6, "TCP"), (17, "UDP"), (132, "SCTP"), (1, "ICMP"), (58, "ICMPv6")];

/// At and beside the numbers that ports have.
pub(super) const PORTS: [u16; 11] = [1, 2, 53, 54, 79, 80, 81, 85, 144, 8080, 17080];

/// Types and codes at and beside those that rules name.
const TYPES: [u16; 11] =
    [0, 0x02ff, 0x0300, 0x0303, 0x0304, 0x0305, 0x03ff, 0x0400, 0x7fff, 0x8000, 0x8001];

/// For every endpoint, peer, protocol and port, or one in so many of them: the API and the kernel's maps agree.
fn agree(
    present: &Present,
    engine: &Engine,
    kernel: &Kernel,
    one_in: usize,
) -> Result<Vec<(IfIndex, Header)>, TestCaseError> {
    let mut headers = Vec::new();
    let cluster = present.oracle();
    // Other ones with every history.
    let mut turn = present.objects.len();
    let mut asked = turn + kernel.elements.len();
    let mut peers: Vec<IpAddr> = OUTSIDE.iter().map(|text| ip(text)).collect();
    for namespace in 0..NAMESPACES.len() {
        peers.extend((0..POD_NAMES.len()).flat_map(|slot| addresses(namespace, slot)));
    }
    for place in &present.endpoints {
        let both = addresses(place.0, place.1);
        let pods = &cluster.kubernetes.pods;
        let pod = pods.iter().position(|pod| pod.addresses.contains(&both[0])).unwrap();
        for peer in peers.iter().filter(|peer| !both.contains(peer)) {
            let own = both[usize::from(peer.is_ipv6())];
            for protocol in TRAFFIC {
                let is_icmp = [1, 58].contains(&protocol.0);
                for &port in if is_icmp { &TYPES } else { &PORTS } {
                    for (way, direction) in
                        [(Way::To, Direction::Ingress), (Way::From, Direction::Egress)]
                    {
                        asked += 1;
                        if !asked.is_multiple_of(one_in) {
                            continue;
                        }
                        turn += 1;
                        // Which port meets which source port differs with every history.
                        let source_port = PORTS[(turn + turn / PORTS.len()) % PORTS.len()];
                        let packet = Packet { way, own, peer: *peer, protocol, source_port, port };
                        let ports = (source_port, port);
                        let (found, logged) =
                            kernel.ruling(direction, index(*place), *peer, protocol.0, ports);
                        prop_assert_eq!(
                            (found == Verdict::Allow, logged),
                            cluster.judges(pod, packet),
                            "{:?} {:?}",
                            place,
                            packet
                        );
                        let counted =
                            kernel.decision(direction, index(*place), *peer, protocol.0, ports);
                        prop_assert_eq!(counted.is_some(), engine.counting.is_on());
                        let header = Header {
                            direction,
                            own,
                            peer: *peer,
                            protocol: protocol.0,
                            source_port,
                            port,
                        };
                        if turn.is_multiple_of(EXPLAINED) {
                            explained(engine, kernel, index(*place), header)?;
                            headers.push((index(*place), header));
                        }
                    }
                }
            }
        }
    }
    Ok(headers)
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn any_history_with_policies_of_both_kinds_comes_to_what_the_api_says(
        events in prop::collection::vec(event(), 1..70),
        seed in any::<u64>(),
    ) {
        let mut present = Present::start();
        let (mut engine, mut kernel) = present.replay(seed);
        for event in &events {
            if let Some(told) = present.happen(event) {
                told.to(&mut engine);
            }
            if matches!(event, Event::Take) {
                kernel.apply(&engine.take_delta().unwrap_or_default());
                agree(&present, &engine, &kernel, IN_BETWEEN)?;
            }
        }
        kernel.apply(&engine.take_delta().unwrap_or_default());
        prop_assert_eq!(engine.take_delta(), None, "a delta is taken once");
        let (_, scratch) = present.replay(seed);
        prop_assert_eq!(kernel.canonical(), scratch.canonical());
        agree(&present, &engine, &kernel, 1)?;
        // Counting or not is no matter of verdicts, nor of flows, and can be undone.
        let before = kernel.clone();
        for on in [!present.counting, present.counting] {
            engine.set_counting(on);
            let delta = engine.take_delta().unwrap_or_default();
            prop_assert!(delta.rejudge.is_empty(), "{:?}", delta.rejudge);
            let policy = |change: &Change| matches!(change.key, Key::Policy { .. });
            prop_assert!(delta.elements.iter().all(policy), "{:?}", delta);
            kernel.apply(&delta);
            agree(&present, &engine, &kernel, 1)?;
        }
        prop_assert_eq!(kernel.canonical(), before.canonical());
    }

    /// Something that may happen is foretold as it then does.
    #[test]
    fn what_would_change_is_what_changes(
        events in prop::collection::vec(event(), 1..40),
        more in prop::collection::vec(event(), 1..4),
        seed in any::<u64>(),
    ) {
        let mut present = Present::start();
        for event in &events {
            present.happen(event);
        }
        let (mut engine, kernel) = present.replay(seed);
        let headers = agree(&present, &engine, &kernel, 1)?;
        let mut next = present.clone();
        let updates: Vec<Update> = more
            .iter()
            .filter(|event| !matches!(event, Event::Endpoint(..) | Event::Learned(..) | Event::Counting(_)))
            .filter_map(|event| match next.happen(event)? {
                Told::Source(update) => Some(update),
                Told::Endpoint(_) | Told::Learned(_) | Told::Counting(_) => None,
            })
            .collect();
        let then = engine.with(updates.clone());
        foretold(&engine, &then, &headers)?;
        let mut after = kernel.clone();
        updates.into_iter().for_each(|update| engine.apply(update));
        after.apply(&engine.take_delta().unwrap_or_default());
        for (index, header) in headers {
            explained(&then, &after, index, header)?;
        }
    }
}
