//! An engine, a kernel that its deltas are applied to, and short ways to make objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::policy::ClusterNetworkPolicy;
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::kernel::Kernel;
use crate::engine::Engine;
use crate::model::{
    Delta, Direction, EndpointId, EndpointSlice, Flow, IfIndex, Kind, Labels, LocalEndpoint,
    NamedPort, Namespace, Node, Object, ObjectKey, Pod, Update, Verdict,
};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;

/// Where packets come from that are not said to come from another port.
pub(super) const SOURCE_PORT: u16 = 50000;

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) kernel: Kernel,
    endpoints: BTreeMap<EndpointId, (IfIndex, Vec<IpAddr>)>,
    next: IfIndex,
}

impl World {
    /// A world in sync, with these namespaces; each has the label `team` with its name.
    pub(super) fn new(namespaces: &[&str]) -> Self {
        let mut world = Self { next: 10, ..Self::default() };
        for name in namespaces {
            world.engine.apply(set_namespace(name, &[("team", name)]));
        }
        world.engine.apply(Update::InSync);
        world.settle();
        world
    }

    /// Takes the delta and gives it to the kernel.
    pub(super) fn settle(&mut self) -> Delta {
        let delta = self.engine.take_delta().unwrap_or_default();
        self.kernel.apply(&delta);
        delta
    }

    /// A pod of this node, known to the source as well.
    pub(super) fn local(
        &mut self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        ips: &[&str],
    ) {
        self.local_with_ports(namespace, name, labels, ips, &[]);
    }

    pub(super) fn local_with_ports(
        &mut self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        ips: &[&str],
        ports: &[(&str, u8, u16)],
    ) {
        self.next += 1;
        let pod = pod(namespace, name, labels, ips, ports);
        let endpoint = endpoint_of(&pod, self.next);
        self.endpoints.insert(endpoint.id.clone(), (self.next, endpoint.addresses.to_vec()));
        self.engine.endpoint_set(endpoint);
        self.engine.apply(Update::Set(Object::Pod(pod)));
        self.settle();
    }

    /// A pod of another node.
    pub(super) fn remote(
        &mut self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        ips: &[&str],
    ) -> Delta {
        self.engine.apply(Update::Set(Object::Pod(pod(namespace, name, labels, ips, &[]))));
        self.settle()
    }

    pub(super) fn policy(&mut self, yaml: &str) -> Delta {
        self.engine.apply(set_policy(yaml));
        self.settle()
    }

    /// Objects of Calico, separated by lines of three dashes, each with its kind.
    pub(super) fn calico(&mut self, yaml: &str) -> Delta {
        for document in yaml.split("---\n").filter(|document| !document.trim().is_empty()) {
            self.engine.apply(Update::Set(parse_calico(document)));
        }
        self.settle()
    }

    /// ClusterNetworkPolicies, separated by lines of three dashes.
    pub(super) fn cluster_policies(&mut self, yaml: &str) -> Delta {
        for document in yaml.split("---\n").filter(|document| !document.trim().is_empty()) {
            let policy: ClusterNetworkPolicy = serde_saphyr::from_str(document).unwrap();
            self.engine.apply(Update::Set(Object::ClusterNetworkPolicy(Arc::new(policy))));
        }
        self.settle()
    }

    /// A slice of a service of its own name up to the first dash.
    pub(super) fn slice(
        &mut self,
        namespace: &str,
        name: &str,
        ips: &[&str],
        ports: &[(u8, u16)],
    ) -> Delta {
        let slice = EndpointSlice {
            key: ObjectKey::namespaced(namespace, name),
            service: name.split('-').next().map(Into::into),
            addresses: ips.iter().map(|text| ip(text)).collect(),
            ports: ports.into(),
        };
        self.engine.apply(Update::Set(Object::EndpointSlice(slice)));
        self.settle()
    }

    pub(super) fn remove(&mut self, kind: Kind, key: ObjectKey) -> Delta {
        self.engine.apply(Update::Remove(kind, key));
        self.settle()
    }

    /// What is wrong, as people read it.
    pub(super) fn problems(&self) -> Vec<String> {
        self.engine.problems().iter().map(ToString::to_string).collect()
    }

    pub(super) fn remove_policy(&mut self, namespace: &str, name: &str) -> Delta {
        let key = ObjectKey::namespaced(namespace, name);
        self.engine.apply(Update::Remove(Kind::KubernetesNetworkPolicy, key));
        self.settle()
    }

    /// Whether a flow gets through, by the kernel's tables, which must be what the engine says.
    #[track_caller]
    pub(super) fn allows(&self, source: &str, destination: &str, protocol: u8, port: u16) -> bool {
        self.allows_from(SOURCE_PORT, source, destination, protocol, port)
    }

    /// The same of a flow from a certain port.
    #[track_caller]
    pub(super) fn allows_from(
        &self,
        source_port: u16,
        source: &str,
        destination: &str,
        protocol: u8,
        port: u16,
    ) -> bool {
        let (source, destination) = (ip(source), ip(destination));
        let side = |address, peer, direction| {
            self.endpoints.values().filter(|(_, addresses)| addresses.contains(&address)).all(
                |(index, _)| {
                    let ports = (source_port, port);
                    self.kernel.lookup(direction, *index, peer, protocol, ports) == Verdict::Allow
                },
            )
        };
        let allowed = side(source, destination, Direction::Egress)
            && side(destination, source, Direction::Ingress);
        let flow = Flow { protocol, source, destination, source_port, destination_port: port };
        let verdict = self.engine.verdict(&flow);
        assert_eq!(allowed, verdict == Verdict::Allow, "kernel and engine disagree: {flow:?}");
        allowed
    }
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn id_of(pod: &str) -> EndpointId {
    EndpointId { container_id: format!("c-{pod}"), ifname: "eth0".into() }
}

pub(super) fn pod(
    namespace: &str,
    name: &str,
    labels: &[(&str, &str)],
    ips: &[&str],
    ports: &[(&str, u8, u16)],
) -> Pod {
    let ports: Vec<NamedPort> = ports
        .iter()
        .map(|(name, protocol, port)| NamedPort {
            name: (*name).into(),
            protocol: *protocol,
            port: *port,
        })
        .collect();
    Pod {
        key: ObjectKey::namespaced(namespace, name),
        uid: format!("uid-{namespace}-{name}").as_str().into(),
        mirror_uid: None,
        node: Some("node".into()),
        labels: labels.iter().copied().collect(),
        service_account: "default".into(),
        addresses: ips.iter().map(|text| ip(text)).collect(),
        ports: ports.into(),
        host_network: false,
        annotations: Labels::default(),
    }
}

/// The endpoint of a pod, as the CNI server records it.
pub(super) fn endpoint_of(pod: &Pod, index: IfIndex) -> LocalEndpoint {
    LocalEndpoint {
        id: id_of(&pod.key.name),
        namespace: pod.key.namespace.as_deref().unwrap().into(),
        pod: (*pod.key.name).into(),
        pod_uid: (*pod.uid).into(),
        netns: String::new(),
        host_interface: format!("cali{index}"),
        host_index: index,
        mac: [2, 0, 0, 0, 0, 1],
        addresses: pod.addresses.clone(),
        handle: String::new(),
        mtu: 1500,
        labels: pod.labels.iter().map(|(k, v)| (k.into(), v.into())).collect(),
        service_account: (*pod.service_account).into(),
    }
}

pub(super) fn set_namespace(name: &str, labels: &[(&str, &str)]) -> Update {
    Update::Set(Object::Namespace(Namespace {
        name: name.into(),
        labels: labels.iter().copied().chain([("kubernetes.io/metadata.name", name)]).collect(),
        annotations: Labels::default(),
    }))
}

/// A node without labels.
pub(super) fn node(name: &str, addresses: &[IpAddr]) -> Node {
    Node {
        name: name.into(),
        labels: Labels::default(),
        ipv4: None,
        ipv6: None,
        addresses: addresses.into(),
        internal: addresses.into(),
        as_number: None,
        route_reflector_cluster_id: None,
        unschedulable: false,
        pod_cidrs: Arc::default(),
    }
}

pub(super) fn parse_policy(yaml: &str) -> NetworkPolicy {
    serde_saphyr::from_str(yaml).unwrap()
}

pub(super) fn set_policy(yaml: &str) -> Update {
    Update::Set(Object::KubernetesNetworkPolicy(Arc::new(parse_policy(yaml))))
}

pub(super) fn parse_calico(yaml: &str) -> Object {
    fn read<T: serde::de::DeserializeOwned>(object: serde_json::Value) -> T {
        serde_json::from_value(object).unwrap()
    }
    let mut object: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
    object["apiVersion"] = api::v3::API_VERSION.into();
    let kind = object["kind"].as_str().unwrap().to_owned();
    match kind.as_str() {
        "Tier" => read::<api::v3::Tier>(object).into(),
        "NetworkPolicy" => read::<api::v3::NetworkPolicy>(object).into(),
        "GlobalNetworkPolicy" => read::<api::v3::GlobalNetworkPolicy>(object).into(),
        "NetworkSet" => read::<api::v3::NetworkSet>(object).into(),
        "HostEndpoint" => read::<api::v3::HostEndpoint>(object).into(),
        "KubeControllersConfiguration" => {
            read::<api::v3::KubeControllersConfiguration>(object).into()
        }
        "GlobalNetworkSet" => read::<api::v3::GlobalNetworkSet>(object).into(),
        other => panic!("kind {other}"),
    }
}
