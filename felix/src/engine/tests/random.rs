//! Random histories of random clusters: whatever happened, and however it was cut into deltas, the
//! kernel must hold what an engine would give it that sees the present only, and that must be what
//! the API says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::prelude::*;
use proptest::sample::select;

use super::explain::{EXPLAINED, Header, explained};
use super::kernel::Kernel;
use super::oracle::{Cluster, OraclePod, Way};
use super::strategies::{
    NAMESPACES, OUTSIDE, POD_NAMES, POLICY_NAMES, addresses, namespace_labels, pod, policy,
};
use super::world::{SOURCE_PORT, endpoint_of, ip};
use crate::engine::Engine;
use crate::model::{
    Direction, EndpointId, Flow, IfIndex, Kind, Labels, LocalEndpoint, Namespace, Object,
    ObjectKey, Pod, Update, Verdict,
};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Namespace(usize, BTreeMap<String, String>),
    Pod(Pod),
    PodGone(usize, usize),
    /// The pod of this place is given to this node.
    Endpoint(usize, usize),
    EndpointGone(usize, usize),
    Policy(Box<NetworkPolicy>),
    PolicyGone(&'static str, &'static str),
    /// Everything is listed again.
    Relist,
    /// The kernel gets what has changed.
    Take,
}

fn place() -> impl Strategy<Value = (usize, usize)> {
    (0..NAMESPACES.len(), 0..POD_NAMES.len())
}

fn event() -> impl Strategy<Value = Event> {
    let policy_name = || (select(NAMESPACES.to_vec()), select(POLICY_NAMES.to_vec()));
    prop_oneof![
        1 => (0..NAMESPACES.len(), namespace_labels()).prop_map(|(n, l)| Event::Namespace(n, l)),
        6 => place().prop_flat_map(|(n, s)| pod(n, s)).prop_map(Event::Pod),
        1 => place().prop_map(|(n, s)| Event::PodGone(n, s)),
        3 => place().prop_map(|(n, s)| Event::Endpoint(n, s)),
        1 => place().prop_map(|(n, s)| Event::EndpointGone(n, s)),
        6 => policy_name().prop_flat_map(|(n, p)| policy(n, p)).prop_map(|p| Event::Policy(p.into())),
        1 => policy_name().prop_map(|(n, p)| Event::PolicyGone(n, p)),
        1 => Just(Event::Relist),
        3 => Just(Event::Take),
    ]
}

/// The present: what any history comes to.
#[derive(Clone, Debug, Default)]
struct Present {
    namespaces: BTreeMap<usize, BTreeMap<String, String>>,
    pods: BTreeMap<(usize, usize), Pod>,
    /// Endpoints, each with its pod as it was last known.
    endpoints: BTreeMap<(usize, usize), Pod>,
    policies: BTreeMap<(String, String), NetworkPolicy>,
}

/// As the source and the CNI server would tell it.
#[derive(Clone, Debug)]
enum Told {
    Source(Update),
    Endpoint(LocalEndpoint),
    EndpointGone(EndpointId),
}

impl Told {
    fn to(self, engine: &mut Engine) {
        match self {
            Self::Source(update) => engine.apply(update),
            Self::Endpoint(endpoint) => engine.endpoint_set(endpoint),
            Self::EndpointGone(id) => engine.endpoint_remove(&id),
        }
    }
}

fn index(place: (usize, usize)) -> IfIndex {
    u32::try_from(100 + place.0 * 10 + place.1).unwrap()
}

fn endpoint(place: (usize, usize), pod: &Pod) -> LocalEndpoint {
    let mut endpoint = endpoint_of(pod, index(place));
    endpoint.id.container_id = format!("{place:?}");
    // The address is known to the node before the source says so.
    endpoint.addresses = addresses(place.0, place.1).into_iter().collect();
    endpoint
}

fn set_namespace(number: usize, labels: &BTreeMap<String, String>) -> Told {
    Told::Source(Update::Set(Object::Namespace(Namespace {
        name: NAMESPACES[number].into(),
        labels: labels.iter().collect(),
        annotations: Labels::default(),
    })))
}

fn set_policy(policy: &NetworkPolicy) -> Told {
    Told::Source(Update::Set(Object::KubernetesNetworkPolicy(Arc::new(policy.clone()))))
}

fn set_pod(pod: &Pod) -> Told {
    Told::Source(Update::Set(Object::Pod(pod.clone())))
}

impl Present {
    fn start() -> Self {
        let namespaces = (0..NAMESPACES.len()).map(|number| (number, BTreeMap::new())).collect();
        Self { namespaces, ..Self::default() }
    }

    /// Lets an event happen. Returns how it is told.
    fn happen(&mut self, event: &Event) -> Vec<Told> {
        match event {
            Event::Namespace(number, labels) => {
                self.namespaces.insert(*number, labels.clone());
                vec![set_namespace(*number, labels)]
            }
            Event::Pod(pod) => {
                let place = place_of(&pod.key);
                self.pods.insert(place, pod.clone());
                if let Some(known) = self.endpoints.get_mut(&place) {
                    *known = pod.clone();
                }
                vec![set_pod(pod)]
            }
            Event::PodGone(namespace, slot) => {
                self.pods.remove(&(*namespace, *slot));
                let key = ObjectKey::namespaced(NAMESPACES[*namespace], POD_NAMES[*slot]);
                vec![Told::Source(Update::Remove(Kind::Pod, key))]
            }
            Event::Endpoint(namespace, slot) => {
                let place = (*namespace, *slot);
                match self.pods.get(&place) {
                    Some(pod) if !pod.host_network => {
                        self.endpoints.insert(place, pod.clone());
                        vec![Told::Endpoint(endpoint(place, pod))]
                    }
                    _ => Vec::new(),
                }
            }
            Event::EndpointGone(namespace, slot) => {
                let place = (*namespace, *slot);
                let id = EndpointId { container_id: format!("{place:?}"), ifname: "eth0".into() };
                self.endpoints.remove(&place);
                vec![Told::EndpointGone(id)]
            }
            Event::Policy(policy) => {
                self.policies.insert(policy_key(policy), (**policy).clone());
                vec![set_policy(policy)]
            }
            Event::PolicyGone(namespace, name) => {
                self.policies.remove(&((*namespace).into(), (*name).into()));
                let key = ObjectKey::namespaced(namespace, name);
                vec![Told::Source(Update::Remove(Kind::KubernetesNetworkPolicy, key))]
            }
            Event::Relist => {
                let mut told = self.objects();
                told.push(Told::Source(Update::InSync));
                told
            }
            Event::Take => Vec::new(),
        }
    }

    /// All objects, as a list gives them.
    fn objects(&self) -> Vec<Told> {
        let namespaces = self.namespaces.iter().map(|(n, labels)| set_namespace(*n, labels));
        let pods = self.pods.values().map(set_pod);
        let policies = self.policies.values().map(set_policy);
        pods.chain(policies).chain(namespaces).collect()
    }

    /// Everything, told to an engine that knows nothing, shuffled by `seed`.
    fn replay(&self, seed: u64) -> (Engine, Kernel) {
        let mut engine = Engine::new();
        // Endpoints whose pod is gone keep what was known of it.
        for (place, pod) in
            self.endpoints.iter().filter(|(place, _)| !self.pods.contains_key(*place))
        {
            set_pod(pod).to(&mut engine);
            Told::Endpoint(endpoint(*place, pod)).to(&mut engine);
            engine.apply(Update::Remove(Kind::Pod, pod.key.clone()));
        }
        let mut told = self.objects();
        for (place, pod) in
            self.endpoints.iter().filter(|(place, _)| self.pods.contains_key(*place))
        {
            told.push(Told::Endpoint(endpoint(*place, pod)));
        }
        let mut state = seed | 1;
        for at in (1..told.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            told.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
        }
        told.into_iter().for_each(|told| told.to(&mut engine));
        assert_eq!(engine.take_delta(), None, "nothing is known to be complete yet");
        engine.apply(Update::InSync);
        let mut kernel = Kernel::default();
        kernel.apply(&engine.take_delta().unwrap_or_default());
        (engine, kernel)
    }

    fn oracle(&self) -> Cluster {
        let names = self.namespaces.iter().map(|(number, labels)| {
            let name = NAMESPACES[*number].to_owned();
            let mut labels = labels.clone();
            labels.insert("kubernetes.io/metadata.name".into(), name.clone());
            (name, labels)
        });
        let mut pods = Vec::new();
        for namespace in 0..NAMESPACES.len() {
            for slot in 0..POD_NAMES.len() {
                let place = (namespace, slot);
                let local = self.endpoints.get(&place);
                // What holds an address: the endpoint here, else what the pod's status says.
                if let Some(pod) = local {
                    pods.push(oracle_pod(namespace, pod, addresses(namespace, slot).to_vec()));
                } else if let Some(pod) = self.pods.get(&place).filter(|pod| !pod.host_network) {
                    pods.push(oracle_pod(namespace, pod, pod.addresses.to_vec()));
                }
            }
        }
        Cluster {
            namespaces: names.collect(),
            pods,
            policies: self.policies.values().cloned().collect(),
        }
    }
}

fn oracle_pod(namespace: usize, pod: &Pod, addresses: Vec<IpAddr>) -> OraclePod {
    let name = |protocol| match protocol {
        6 => "TCP",
        17 => "UDP",
        _ => "SCTP",
    };
    OraclePod {
        namespace: NAMESPACES[namespace].into(),
        labels: pod.labels.iter().map(|(key, value)| (key.into(), value.into())).collect(),
        addresses,
        ports: pod
            .ports
            .iter()
            .map(|port| ((*port.name).into(), name(port.protocol).into(), port.port))
            .collect(),
    }
}

fn place_of(key: &ObjectKey) -> (usize, usize) {
    let namespace = key.namespace.as_deref().unwrap();
    (
        NAMESPACES.iter().position(|name| *name == namespace).unwrap(),
        POD_NAMES.iter().position(|name| **name == *key.name).unwrap(),
    )
}

fn policy_key(policy: &NetworkPolicy) -> (String, String) {
    (policy.metadata.namespace.clone().unwrap(), policy.metadata.name.clone().unwrap())
}

const TRAFFIC: [(u8, &str); 4] = [(6, "TCP"), (17, "UDP"), (132, "SCTP"), (1, "ICMP")];

/// Ports at which a random rule may change its mind, and their neighbours.
const PORTS: [u16; 24] = [
    0, 1, 2, 53, 54, 58, 59, 64, 65, 66, 78, 79, 80, 81, 82, 86, 143, 144, 145, 146, 8080, 8144,
    8145, 65535,
];

/// For every endpoint, peer, protocol and port, or one in so many of them: the API, the kernel's maps and the
/// engine agree.
fn agree(
    present: &Present,
    engine: &Engine,
    kernel: &Kernel,
    one_in: usize,
) -> Result<(), TestCaseError> {
    let cluster = present.oracle();
    // Other ones with every history.
    let mut turn = cluster.policies.len();
    let mut asked = turn + kernel.elements.len();
    let mut peers: Vec<IpAddr> = OUTSIDE.iter().map(|text| ip(text)).collect();
    for namespace in 0..NAMESPACES.len() {
        peers.extend((0..POD_NAMES.len()).flat_map(|slot| addresses(namespace, slot)));
    }
    for place in present.endpoints.keys() {
        let own = addresses(place.0, place.1);
        let pod = cluster.pods.iter().find(|pod| pod.addresses.contains(&own[0])).unwrap();
        for peer in peers.iter().filter(|peer| !own.contains(peer)) {
            for (protocol, name) in TRAFFIC {
                for port in PORTS {
                    asked += 1;
                    if !asked.is_multiple_of(one_in) {
                        continue;
                    }
                    let mut both = true;
                    for (way, direction) in
                        [(Way::To, Direction::Ingress), (Way::From, Direction::Egress)]
                    {
                        let wanted = cluster.allows(way, pod, *peer, name, port);
                        let found = kernel.lookup(
                            direction,
                            index(*place),
                            *peer,
                            protocol,
                            (SOURCE_PORT, port),
                        );
                        prop_assert_eq!(
                            found == Verdict::Allow,
                            wanted,
                            "{:?} {:?} peer {} {} {}",
                            place,
                            direction,
                            peer,
                            name,
                            port
                        );
                        let own = own[usize::from(peer.is_ipv6())];
                        let source_port = SOURCE_PORT;
                        let header =
                            Header { direction, own, peer: *peer, protocol, source_port, port };
                        turn += 1;
                        if turn.is_multiple_of(EXPLAINED) {
                            explained(engine, kernel, index(*place), header)?;
                        }
                        both &= wanted;
                    }
                    let is_local = present
                        .endpoints
                        .keys()
                        .any(|place| addresses(place.0, place.1).contains(peer));
                    if !is_local {
                        let own = own[usize::from(peer.is_ipv6())];
                        let flow = |source, destination| Flow {
                            protocol,
                            source,
                            destination,
                            source_port: SOURCE_PORT,
                            destination_port: port,
                        };
                        let to = engine.verdict(&flow(*peer, own)) == Verdict::Allow;
                        let from = engine.verdict(&flow(own, *peer)) == Verdict::Allow;
                        prop_assert_eq!(to && from, both, "verdict {} {} {}", peer, name, port);
                    }
                }
            }
        }
    }
    Ok(())
}

/// A delta is a transaction, and what is between two of them is what packets meet: as the API says, too. Of the
/// packets after each one in so many is asked about, others each time.
pub(super) const IN_BETWEEN: usize = 97;

pub(super) fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases.unwrap_or(default))
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn any_history_comes_to_what_the_api_says(
        events in prop::collection::vec(event(), 1..60),
        seed in any::<u64>(),
    ) {
        let mut present = Present::start();
        let (mut engine, mut kernel) = present.replay(seed);
        for event in &events {
            present.happen(event).into_iter().for_each(|told| told.to(&mut engine));
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

        // What the kernel is told again changes nothing.
        for told in present.objects() {
            told.to(&mut engine);
        }
        engine.apply(Update::InSync);
        prop_assert_eq!(engine.take_delta(), None);
    }

    /// However often the changes are taken, they add up to the same.
    #[test]
    fn how_changes_are_cut_into_deltas_does_not_matter(
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut present = Present::start();
        let (mut each, mut each_kernel) = present.replay(1);
        let (mut once, mut once_kernel) = present.replay(1);
        for event in &events {
            for told in present.happen(event) {
                told.clone().to(&mut each);
                told.to(&mut once);
                each_kernel.apply(&each.take_delta().unwrap_or_default());
            }
            agree(&present, &each, &each_kernel, IN_BETWEEN)?;
        }
        once_kernel.apply(&once.take_delta().unwrap_or_default());
        prop_assert_eq!(each_kernel.canonical(), once_kernel.canonical());
        prop_assert_eq!(each.counts(), once.counts());
    }

    /// When everything is gone, nothing is left, in the kernel or in memory.
    #[test]
    fn everything_is_given_back(events in prop::collection::vec(event(), 1..40)) {
        let mut present = Present::start();
        let (mut engine, mut kernel) = present.replay(1);
        for event in &events {
            present.happen(event).into_iter().for_each(|told| told.to(&mut engine));
            kernel.apply(&engine.take_delta().unwrap_or_default());
        }
        let mut last = Vec::new();
        for place in present.endpoints.keys() {
            last.push(Event::EndpointGone(place.0, place.1));
        }
        for place in present.pods.keys() {
            last.push(Event::PodGone(place.0, place.1));
        }
        for namespace in NAMESPACES {
            last.extend(POLICY_NAMES.map(|name| Event::PolicyGone(namespace, name)));
        }
        for event in &last {
            present.happen(event).into_iter().for_each(|told| told.to(&mut engine));
        }
        kernel.apply(&engine.take_delta().unwrap_or_default());
        prop_assert!(kernel.elements.is_empty(), "left: {:?}", kernel.elements);
        prop_assert_eq!(engine.counts(), Default::default());
    }
}
