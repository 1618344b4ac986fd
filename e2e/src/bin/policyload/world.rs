//! Clusters that are full of policies: pods, namespaces and NetworkPolicies, made one by one, so that
//! what is measured holds none of them but what it keeps itself.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use felix::model::{
    EndpointId, Kind, Labels, LocalEndpoint, Namespace, Object, ObjectKey, Pod, Update,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

/// Policies allow ports from here on.
const PORT: usize = 8000;
/// Where the addresses of pods on other nodes begin, and those of this node's.
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const MEMBERS: Ipv4Addr = Ipv4Addr::new(10, 192, 0, 0);
/// The first interface index of an endpoint.
const INDEX: u32 = 1_000_000;

type Pairs = Vec<(String, String)>;

/// How many there are of everything, and what they say.
pub(crate) struct World {
    namespaces: usize,
    pods: usize,
    endpoints: usize,
    policies: usize,
    labels: fn(usize) -> Pairs,
    endpoint_labels: fn(usize) -> Pairs,
    /// The `spec` of a NetworkPolicy.
    policy: fn(usize) -> Value,
    /// Of a pod that comes and goes.
    member: fn() -> Pairs,
}

impl World {
    /// 100 selectors of 100 members each, in policies that ten pods of this node have in common, each
    /// with a port of its own.
    pub(crate) fn hundred_selectors() -> Self {
        Self {
            namespaces: 1,
            pods: 10_000,
            endpoints: 10,
            policies: 100,
            labels: |pod| vec![label("s", pod % 100)],
            endpoint_labels: |_| vec![("app".into(), "server".into())],
            policy: |policy| {
                json!({ "podSelector": { "matchLabels": { "app": "server" } },
                    "ingress": [rule("s", policy, PORT + policy * 2)] })
            },
            member: || (0..100).map(|selector| label("s", selector)).collect(),
        }
    }

    /// 2,000 selectors of 100 members each, each pod in ten; 2,000 policies of ten rules, twenty for each
    /// of 100 pods of this node.
    pub(crate) fn two_thousand_selectors() -> Self {
        Self {
            namespaces: 1,
            pods: 20_000,
            endpoints: 100,
            policies: 2000,
            labels: |pod| (0..10).map(|at| label("s", (pod * 10 + at) % 2000)).collect(),
            endpoint_labels: |endpoint| vec![label("e", endpoint)],
            policy: |policy| {
                let rule = |at: usize| rule("s", (policy * 7 + at * 201) % 2000, PORT + at);
                ten_rules(policy % 100, rule)
            },
            member: || (0..10).map(|at| label("s", at)).collect(),
        }
    }

    /// 10,000 selectors of ten members each, in 1,000 policies of ten rules.
    pub(crate) fn ten_thousand_selectors() -> Self {
        Self {
            namespaces: 1,
            pods: 100_000,
            endpoints: 100,
            policies: 1000,
            labels: |pod| vec![label("s", pod % 10_000), ("app".into(), "web".into())],
            endpoint_labels: |endpoint| vec![label("e", endpoint)],
            policy: |policy| ten_rules(policy % 100, |at| rule("s", policy * 10 + at, PORT + at)),
            member: || vec![label("s", 0), ("app".into(), "web".into())],
        }
    }

    /// 250,000 pods in 500 namespaces, with twenty policies each.
    pub(crate) fn large() -> Self {
        Self {
            namespaces: 500,
            pods: 250_000,
            endpoints: 100,
            policies: 10_000,
            labels: |pod| vec![("app".into(), format!("a{}", pod / 500 % 50))],
            endpoint_labels: |endpoint| vec![("app".into(), format!("a{}", endpoint % 20))],
            policy: |policy| {
                let (namespace, at) = (policy % 500, policy / 500);
                let app = |at: usize| json!({ "matchLabels": { "app": format!("a{}", at % 50) } });
                let next = format!("ns{}", (namespace + 1) % 500);
                let other = json!({ "matchLabels": { "kubernetes.io/metadata.name": next } });
                json!({ "podSelector": app(at), "ingress": [
                    { "from": [{ "podSelector": app(at + 1) }], "ports": [{ "port": PORT + at }] },
                    { "from": [{ "podSelector": app(at), "namespaceSelector": other }] },
                ] })
            },
            member: Vec::new,
        }
    }

    /// One pod of this node, and the policy that [`policy_of_ports`] makes.
    pub(crate) fn one_policy() -> Self {
        Self {
            namespaces: 1,
            pods: 10,
            endpoints: 1,
            policies: 1,
            labels: |_| vec![label("s", 0)],
            endpoint_labels: |_| vec![("app".into(), "server".into())],
            policy: |_| ports(0),
            member: Vec::new,
        }
    }

    /// Two pods of this node whose every flow is judged at both ends, by so many policies, of
    /// which one lets them talk.
    pub(crate) fn both_ways(policies: usize) -> Self {
        Self {
            namespaces: 1,
            pods: policies,
            endpoints: 2,
            policies,
            labels: |pod| vec![label("s", pod)],
            endpoint_labels: |_| vec![("app".into(), "server".into())],
            policy: |policy| {
                let own = json!({ "matchLabels": { "app": "server" } });
                let (peer, port) = match policy {
                    0 => (own.clone(), usize::from(super::packets::ALLOWED)),
                    other => (selector("s", other), PORT + other % 500),
                };
                let peers = json!([{ "podSelector": peer }]);
                let ports = json!([{ "port": port, "protocol": "UDP" }, { "port": port }]);
                json!({ "podSelector": own, "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{ "from": peers, "ports": ports }],
                    "egress": [{ "to": peers, "ports": ports }] })
            },
            member: Vec::new,
        }
    }

    /// All objects: namespaces, then policies, then pods.
    pub(crate) fn objects(&self) -> impl Iterator<Item = Result<Object>> {
        let namespaces = (0..self.namespaces).map(|number| {
            let name: Arc<str> = format!("ns{number}").into();
            let labels = [("kubernetes.io/metadata.name", &*name)].into_iter().collect();
            Ok(Object::Namespace(Namespace { name, labels, annotations: Labels::default() }))
        });
        let policies = (0..self.policies).map(|number| {
            let namespace = format!("ns{}", number % self.namespaces);
            network_policy(&namespace, &format!("policy-{number}"), (self.policy)(number))
        });
        let pods = (0..self.pods).map(|number| {
            let namespace = format!("ns{}", number % self.namespaces);
            let name = format!("pod-{number}");
            Ok(pod(&namespace, &name, (self.labels)(number), address(REMOTE, number)))
        });
        namespaces.chain(policies).chain(pods)
    }

    /// This node's own endpoints, as an agent has them on record.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = LocalEndpoint> {
        (0..self.endpoints).map(|number| LocalEndpoint {
            id: EndpointId { container_id: format!("c{number}"), ifname: "eth0".into() },
            namespace: format!("ns{}", number % self.namespaces),
            pod: format!("local-{number}"),
            pod_uid: String::new(),
            netns: String::new(),
            host_interface: format!("cali{number}"),
            host_index: INDEX + u32::try_from(number).unwrap_or_default(),
            mac: [2, 0, 0, 0, 0, 1],
            addresses: [address(LOCAL, number)].into_iter().collect(),
            handle: String::new(),
            mtu: 1500,
            labels: (self.endpoint_labels)(number).into_iter().collect(),
            service_account: "default".into(),
        })
    }

    /// A pod that comes.
    pub(crate) fn member(&self, number: usize) -> Object {
        pod("ns0", &format!("member-{number}"), (self.member)(), address(MEMBERS, number))
    }

    /// It goes.
    pub(crate) fn no_member(&self, number: usize) -> Update {
        Update::Remove(Kind::Pod, ObjectKey::namespaced("ns0", &format!("member-{number}")))
    }
}

/// The policy of [`World::one_policy`], which allows so many ports and one more.
pub(crate) fn policy_of_ports(count: u16) -> Result<Object> {
    network_policy("ns0", "policy-0", ports(count))
}

fn ports(count: u16) -> Value {
    // Not next to each other: ports in a row are one range.
    let numbers = (0..=count).map(|at| json!({ "port": PORT + usize::from(at) * 2 }));
    json!({ "podSelector": { "matchLabels": { "app": "server" } }, "ingress": [
        { "from": [{ "podSelector": selector("s", 0) }], "ports": numbers.collect::<Vec<_>>() },
    ] })
}

fn ten_rules(endpoint: usize, rule: impl Fn(usize) -> Value) -> Value {
    let rules: Vec<Value> = (0..10).map(rule).collect();
    json!({ "podSelector": selector("e", endpoint), "ingress": rules })
}

fn label(prefix: &str, number: usize) -> (String, String) {
    (format!("{prefix}{number}"), "yes".into())
}

fn selector(prefix: &str, number: usize) -> Value {
    let (key, value) = label(prefix, number);
    json!({ "matchLabels": { key: value } })
}

fn rule(prefix: &str, number: usize, port: usize) -> Value {
    json!({ "from": [{ "podSelector": selector(prefix, number) }], "ports": [{ "port": port }] })
}

fn network_policy(namespace: &str, name: &str, spec: Value) -> Result<Object> {
    let object = json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec });
    let policy: NetworkPolicy =
        serde_json::from_value(object).with_context(|| format!("policy {namespace}/{name}"))?;
    Ok(Object::KubernetesNetworkPolicy(Arc::new(policy)))
}

fn pod(namespace: &str, name: &str, labels: Pairs, address: IpAddr) -> Object {
    Object::Pod(Pod {
        key: ObjectKey::namespaced(namespace, name),
        uid: "".into(),
        mirror_uid: None,
        node: Some("elsewhere".into()),
        labels: labels.into_iter().collect(),
        service_account: "default".into(),
        addresses: [address].into_iter().collect(),
        ports: Arc::default(),
        host_network: false,
        annotations: Labels::default(),
    })
}

fn address(base: Ipv4Addr, number: usize) -> IpAddr {
    Ipv4Addr::from_bits(base.to_bits() + 1 + u32::try_from(number).unwrap_or_default()).into()
}
