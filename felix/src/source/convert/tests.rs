use serde_json::json;

use super::*;

fn convert<K: Convert + DeserializeOwned>(json: Value) -> (Object, Vec<String>) {
    let resource: K = serde_json::from_value(json).unwrap();
    let Converted { object, problems } = resource.convert().unwrap();
    assert_eq!(object.kind(), K::KIND);
    (object, problems.iter().map(ToString::to_string).collect())
}

fn pod(json: Value) -> (Pod, Vec<String>) {
    match convert::<core::Pod>(json) {
        (Object::Pod(pod), problems) => (pod, problems),
        other => panic!("{other:?}"),
    }
}

fn node(json: Value) -> (Node, Vec<String>) {
    match convert::<core::Node>(json) {
        (Object::Node(node), problems) => (node, problems),
        other => panic!("{other:?}"),
    }
}

fn ips(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn a_whole_pod() {
    let (pod, problems) = pod(json!({
        "metadata": {
            "namespace": "shop", "name": "web-0", "uid": "u-1",
            "labels": {"app": "web", "tier": "front"},
            "annotations": {
                "cni.projectcalico.org/ipv4pools": "[\"pool-a\"]",
                "projectcalico.org/x": "y",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "example.com/cni.projectcalico.org/": "no",
            },
        },
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "web",
            "containers": [
                {"name": "a", "ports": [
                    {"name": "http", "containerPort": 8080},
                    {"containerPort": 9000},
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                ]},
                {"name": "b", "ports": [{"name": "assoc", "containerPort": 5000, "protocol": "SCTP"}]},
                {"name": "c"},
            ],
            "initContainers": [
                {"name": "sidecar", "restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15001}]},
                {"name": "setup", "ports": [{"name": "setup", "containerPort": 1}]},
            ],
        },
        "status": {"phase": "Running", "podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}]},
    }));
    assert_eq!(problems, Vec::<String>::new());
    let port = |name: &str, protocol, port| NamedPort { name: name.into(), protocol, port };
    assert_eq!(
        pod,
        Pod {
            key: ObjectKey::namespaced("shop", "web-0"),
            uid: "u-1".into(),
            mirror_uid: None,
            node: Some("n1".into()),
            labels: [("app", "web"), ("tier", "front")].into_iter().collect(),
            service_account: "web".into(),
            addresses: ips(&["10.0.0.5", "fd00::5"]).into(),
            ports: [
                port("http", 6, 8080),
                port("dns", 17, 53),
                port("assoc", 132, 5000),
                port("proxy", 6, 15001)
            ]
            .into(),
            host_network: false,
            annotations: [
                ("cni.projectcalico.org/ipv4pools", "[\"pool-a\"]"),
                ("projectcalico.org/x", "y")
            ]
            .into_iter()
            .collect(),
        }
    );
}

#[test]
fn the_least_of_a_pod() {
    let (pod, problems) = pod(json!({"metadata": {"name": "p"}}));
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(pod.key, ObjectKey::namespaced("default", "p"));
    assert_eq!((&*pod.uid, &*pod.service_account, pod.node), ("", "default", None));
    assert!(pod.addresses.is_empty() && pod.ports.is_empty() && !pod.host_network);
    let (host, _) = self::pod(
        json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": []}}),
    );
    assert!(host.host_network);
}

/// The kubelet tells the runtime the hash of a static pod's configuration as its uid.
#[test]
fn a_mirror_pod_answers_to_the_uid_of_its_static_pod() {
    let hash = "4f2bdd5b4e5a0ad4e8b1a0a8a6ab0f5c";
    let (mirror, _) = pod(json!({"metadata": {"name": "p", "uid": "u-1", "annotations": {
        "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash,
    }}}));
    assert!(mirror.has_uid("u-1") && mirror.has_uid(hash) && mirror.has_uid(""));
    assert!(!mirror.has_uid("u-2"), "an earlier pod of the name");
    let (plain, _) = pod(json!({"metadata": {"name": "p", "uid": "u-1"}}));
    assert!(plain.has_uid("u-1") && !plain.has_uid(hash));
}

#[test]
fn the_addresses_of_a_pod_follow_its_life() {
    let running = |status: Value, annotations: Value| {
        pod(json!({"metadata": {"name": "p", "annotations": annotations}, "status": status}))
    };
    let cases = [
        ("not yet placed", json!({"phase": "Pending"}), json!({}), ips(&[])),
        (
            "podIPs",
            json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}),
            json!({}),
            ips(&["10.0.0.1"]),
        ),
        (
            "podIP alone",
            json!({"phase": "Running", "podIP": "10.0.0.1"}),
            json!({}),
            ips(&["10.0.0.1"]),
        ),
        (
            "said twice",
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}),
            json!({}),
            ips(&["10.0.0.1"]),
        ),
        ("empty entry", json!({"podIPs": [{"ip": ""}]}), json!({}), ips(&[])),
        (
            "succeeded",
            json!({"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.1"}]}),
            json!({}),
            ips(&[]),
        ),
        ("failed", json!({"phase": "Failed", "podIPs": [{"ip": "10.0.0.1"}]}), json!({}), ips(&[])),
        (
            "the status is not written yet",
            json!({"phase": "Pending"}),
            json!({"cni.projectcalico.org/podIP": "10.0.0.1/32", "cni.projectcalico.org/podIPs": "10.0.0.1/32,fd00::1/128"}),
            ips(&["10.0.0.1", "fd00::1"]),
        ),
        (
            "the sandbox is gone, the status is not rewritten yet",
            json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}),
            json!({"cni.projectcalico.org/podIPs": ""}),
            ips(&[]),
        ),
    ];
    for (case, status, annotations, wanted) in cases {
        let (pod, problems) = running(status, annotations);
        assert_eq!((pod.addresses.to_vec(), problems.len()), (wanted, 0), "{case}");
    }
}

#[test]
fn what_cannot_be_read_of_a_pod_is_named_and_the_rest_stands() {
    let (pod, problems) = pod(json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "ports": [
            {"name": "quic", "containerPort": 443, "protocol": "QUIC"},
            {"name": "big", "containerPort": 70000},
            {"name": "ok", "containerPort": 80},
        ]}]},
        "status": {"podIPs": [{"ip": "nonsense"}, {"ip": "10.0.0.1"}]},
    }));
    assert_eq!(
        problems,
        [
            "status.podIPs: \"nonsense\" is not an IP address",
            "spec.containers[a].ports[quic]: unknown protocol \"QUIC\"",
            "spec.containers[a].ports[big]: 70000 is not a port from 1 to 65535",
        ]
    );
    assert_eq!(pod.addresses.to_vec(), ips(&["10.0.0.1"]));
    assert_eq!(pod.ports.len(), 1);
}

#[test]
fn nodes_have_calicos_addresses_first() {
    let addresses = json!({"addresses": [
        {"type": "Hostname", "address": "n1"},
        {"type": "ExternalIP", "address": "198.51.100.1"},
        {"type": "InternalIP", "address": "192.0.2.1"},
        {"type": "InternalIP", "address": "2001:db8::1"},
        {"type": "InternalIP", "address": "192.0.2.9"},
    ]});
    let (plain, problems) =
        node(json!({"metadata": {"name": "n1", "labels": {"rack": "r1"}}, "status": addresses}));
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(
        plain,
        Node {
            name: "n1".into(),
            labels: [("rack", "r1")].into_iter().collect(),
            ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
            ipv6: Some("2001:db8::1".parse().unwrap()),
            addresses: ["192.0.2.1", "192.0.2.9", "198.51.100.1", "2001:db8::1"]
                .map(|text| text.parse().unwrap())
                .into(),
            internal: ["192.0.2.1", "192.0.2.9", "2001:db8::1"]
                .map(|text| text.parse().unwrap())
                .into(),
            as_number: None,
            route_reflector_cluster_id: None,
            unschedulable: false,
            pod_cidrs: Arc::default(),
        }
    );
    let (annotated, problems) = node(json!({
        "metadata": {"name": "n1", "annotations": {
            "projectcalico.org/IPv4Address": "10.1.0.1/24",
            "projectcalico.org/IPv6Address": "fd00::1",
            "projectcalico.org/ASNumber": "64512.7",
            "projectcalico.org/RouteReflectorClusterID": "244.0.0.1",
            "projectcalico.org/IPv4VXLANTunnelAddr": "10.8.1.1",
            "projectcalico.org/IPv6WireguardInterfaceAddr": "fd00:8::1",
            "projectcalico.org/IPv4IPIPTunnelAddr": "",
        }},
        "spec": {"unschedulable": true, "podCIDR": "10.8.1.0/24"},
        "status": addresses,
    }));
    assert_eq!(problems, Vec::<String>::new());
    assert!(annotated.unschedulable);
    assert_eq!(*annotated.pod_cidrs, ["10.8.1.0/24".parse().unwrap()]);
    assert_eq!(annotated.ipv4, Some(Ipv4Addr::new(10, 1, 0, 1)));
    assert_eq!(annotated.ipv6, Some("fd00::1".parse().unwrap()));
    let all: Vec<String> = annotated.addresses.iter().map(ToString::to_string).collect();
    let v4 = ["10.1.0.1", "10.8.1.1", "192.0.2.1", "192.0.2.9", "198.51.100.1"];
    assert_eq!(all, [v4.as_slice(), &["2001:db8::1", "fd00::1", "fd00:8::1"]].concat());
    let internal: Vec<String> = annotated.internal.iter().map(ToString::to_string).collect();
    let v4 = ["10.1.0.1", "10.8.1.1", "192.0.2.1", "192.0.2.9"];
    assert_eq!(internal, [v4.as_slice(), &["2001:db8::1", "fd00::1", "fd00:8::1"]].concat());
    assert_eq!(annotated.as_number, Some(64512 << 16 | 7));
    assert_eq!(annotated.route_reflector_cluster_id, Some(Ipv4Addr::new(244, 0, 0, 1)));
}

#[test]
fn a_nodes_networks_for_pods_are_those_of_the_list() {
    let (read, problems) = node(json!({"metadata": {"name": "n1"}, "spec": {
        "podCIDR": "10.8.1.0/24",
        "podCIDRs": ["10.8.1.7/24", "10.8.2.0/33", "fd00:8::/64"],
    }}));
    let expected = ["10.8.1.0/24", "fd00:8::/64"].map(|net| net.parse().unwrap());
    assert_eq!(*read.pod_cidrs, expected);
    let wrong = "spec.podCIDRs[1]: \"10.8.2.0/33\" is not an address with a prefix length";
    assert_eq!(problems, [wrong]);
}

#[test]
fn a_bad_annotation_of_a_node_is_named_and_counts_as_absent() {
    for (name, value) in [
        ("IPv4Address", "fd00::1"),
        ("IPv4Address", "10.0.0.1/33"),
        ("IPv4Address", "0.0.0.0"),
        ("IPv6Address", "10.0.0.1"),
        ("ASNumber", "0"),
        ("ASNumber", "4294967296"),
        ("ASNumber", "1.65536"),
        ("ASNumber", "AS64512"),
        ("RouteReflectorClusterID", "1"),
    ] {
        let key = format!("projectcalico.org/{name}");
        let mut json = json!({
            "metadata": {"name": "n1", "annotations": {}},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        });
        json["metadata"]["annotations"][&key] = value.into();
        let (node, problems) = node(json);
        assert_eq!(problems, [format!("metadata.annotations[{key}]: {value:?} cannot be read")]);
        assert_eq!(
            node.ipv4,
            Some(Ipv4Addr::new(192, 0, 2, 1)),
            "{name}: the address of the status stands"
        );
        assert_eq!(
            (node.ipv6, node.as_number, node.route_reflector_cluster_id),
            (None, None, None)
        );
    }
    let (node, problems) = node(
        json!({"metadata": {"name": "n1", "annotations": {"projectcalico.org/ASNumber": ""}}}),
    );
    assert_eq!((node.as_number, problems.len()), (None, 0), "an empty one is absent");
    for (text, wanted) in
        [("64512", Some(64512)), ("4294967295", Some(u32::MAX)), ("0.1", Some(1)), ("0.0", None)]
    {
        assert_eq!(as_number(text), wanted, "{text}");
    }
}

#[test]
fn namespaces_and_service_accounts() {
    let (object, _) = convert::<core::Namespace>(json!({"metadata": {
        "name": "shop", "labels": {"team": "a"},
        "annotations": {"cni.projectcalico.org/ipv4pools": "[]", "other": "x"},
    }}));
    let Object::Namespace(namespace) = object else { panic!("not a namespace") };
    assert_eq!(namespace.labels.get("kubernetes.io/metadata.name"), Some("shop"));
    assert_eq!(namespace.labels.get("team"), Some("a"));
    assert_eq!(
        namespace.annotations.iter().collect::<Vec<_>>(),
        [("cni.projectcalico.org/ipv4pools", "[]")]
    );
    let (object, _) =
        convert::<core::ServiceAccount>(json!({"metadata": {"name": "sa", "namespace": "shop"}}));
    assert_eq!(object.key(), ObjectKey::namespaced("shop", "sa"));
}

#[test]
fn secrets_are_decoded_and_never_shown() {
    let (object, _) = convert::<core::Secret>(json!({
        "metadata": {"name": "bgp", "namespace": "caracal-system"},
        "data": {"a": "aHVudGVyMg=="},
        "stringData": {"b": "hunter3"},
    }));
    assert!(!format!("{object:?}").contains("hunter"));
    let Object::Secret(secret) = object else { panic!("not a secret") };
    assert_eq!((&secret.data["a"][..], &secret.data["b"][..]), (&b"hunter2"[..], &b"hunter3"[..]));
}

#[test]
fn a_secret_that_cannot_be_read_is_not_shown() {
    for (data, place) in [
        (json!({"stringData": {"password": 7_777_777}}), "stringData.password"),
        (json!({"data": {"password": 7_777_777}}), "data.password"),
        (json!({"data": {"password": "7777777!"}}), "data.password"),
        (json!({"stringData": {"password": ["7777777"]}}), "stringData.password"),
        (json!({"stringData": "7777777"}), "stringData"),
    ] {
        let mut json = json!({"metadata": {"name": "bgp", "namespace": "caracal-system"}});
        json.as_object_mut().unwrap().append(&mut data.as_object().unwrap().clone());
        let problem = decode::<core::Secret>(json).unwrap_err().to_string();
        assert_eq!(problem, format!("Secret: cannot be read: {place}"));
    }
    let problem = decode::<core::Pod>(json!({"metadata": {"name": 7}})).unwrap_err().to_string();
    assert!(problem.contains("invalid type: integer `7`"), "{problem}");
}

#[test]
fn policies_lose_what_is_of_no_use() {
    let (object, _) = convert::<networking::NetworkPolicy>(json!({
        "metadata": {
            "name": "p", "resourceVersion": "7", "generation": 3, "uid": "u",
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        },
        "spec": {"podSelector": {}},
    }));
    let Object::KubernetesNetworkPolicy(policy) = &object else { panic!("not a policy") };
    let meta = &policy.metadata;
    assert_eq!(
        (&meta.resource_version, meta.generation, &meta.managed_fields),
        (&None, Some(3), &None)
    );
    assert_eq!((meta.namespace.as_deref(), &meta.annotations), (Some("default"), &None));
    assert_eq!(object.key(), ObjectKey::namespaced("default", "p"));
}

#[test]
fn an_object_without_a_name_is_refused() {
    let nameless: core::Pod = serde_json::from_value(json!({"metadata": {"name": ""}})).unwrap();
    assert_eq!(nameless.convert().unwrap_err().to_string(), "metadata.name: required");
}

#[test]
fn objects_are_told_apart_and_what_is_stripped_is_not() {
    let policy = |version: &str, label: &str| {
        let (object, _) = convert::<networking::NetworkPolicy>(json!({
            "metadata": {"name": "p", "namespace": "d", "resourceVersion": version},
            "spec": {"podSelector": {"matchLabels": {"app": label}}},
        }));
        object
    };
    assert_eq!(policy("1", "a"), policy("2", "a"));
    assert_ne!(policy("1", "a"), policy("1", "b"));
    let state = std::hash::RandomState::new();
    let digest = |status: Value| {
        let (pod, _) = pod(json!({"metadata": {"name": "p"}, "status": status}));
        Object::Pod(pod).digest(&state).unwrap()
    };
    assert_eq!(
        digest(json!({"phase": "Running"})),
        digest(json!({"phase": "Pending", "message": "noise"}))
    );
    assert_ne!(digest(json!({"podIP": "10.0.0.1"})), digest(json!({"podIP": "10.0.0.2"})));
}
