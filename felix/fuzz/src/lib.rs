//! What the agent reads from others, each as one plain function: whatever it is given, it must return.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::selector::Selector;
use felix::engine::Engine;
use felix::model::{EndpointId, LocalEndpoint, Update};
use felix::names::answer;

/// Names the folder that a target puts what it starts from into.
pub const SEEDS: &str = "FUZZ_SEEDS";

/// Writes what a target starts from, each input into a file of its own, if there is a folder for
/// that. libFuzzer reads its folders after this.
///
/// # Panics
/// Where a file cannot be written.
pub fn plant(seeds: Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os(SEEDS).map(PathBuf::from) else { return };
    for (at, seed) in seeds.into_iter().enumerate() {
        let file = folder.join(format!("{at:03}"));
        std::fs::write(&file, seed).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

/// A selector. What can be read is written so that it reads the same.
///
/// # Panics
/// Where that is not so.
pub fn selector(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let Ok(selector) = Selector::parse(text) else { return };
    let labels: BTreeMap<String, String> = [("app".to_owned(), "web".to_owned())].into();
    let again = Selector::parse(&selector.to_string());
    let again = again.unwrap_or_else(|error| panic!("{selector} is not read again: {error}"));
    assert_eq!(again, selector, "{text:?}");
    assert_eq!(again.matches(&labels), selector.matches(&labels), "{text:?}");
}

/// See [`selector`].
pub fn seeds_of_selector() -> Vec<Vec<u8>> {
    let all = [
        "all()",
        "global()",
        "app == 'web' && tier in {'a', \"b\"}",
        "!has(x) || (name starts with 'db' && zone not in {'1'})",
        "pcns.team contains \"x\" && projectcalico.org/name ends with 'y'",
        "a != 'b' || ! (c == \"d\")",
    ];
    all.into_iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Objects as JSON or YAML, of which a node with a pod and a host endpoint learns, and which are then
/// gone again: the kernel is to have as many elements as before.
///
/// # Panics
/// Where that is not so.
pub fn policy(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let Ok(objects) = felix::source::objects(text) else { return };
    let mut engine = node();
    let mut kernel = BTreeMap::new();
    let mut settle = |engine: &mut Engine| {
        let delta = engine.take_delta().unwrap_or_default();
        for change in delta.elements {
            match change.value {
                Some(value) => kernel.insert(change.key, value),
                None => kernel.remove(&change.key),
            };
        }
        // Classes have other numbers by now.
        kernel.len()
    };
    let before = settle(&mut engine);
    let known: Vec<_> = objects.iter().map(|object| (object.kind(), object.key())).collect();
    for object in objects {
        engine.apply(Update::Set(object));
    }
    settle(&mut engine);
    engine.set_counting(true);
    settle(&mut engine);
    drop((engine.problems(), engine.policies().count()));
    engine.set_counting(false);
    for (kind, key) in known {
        engine.apply(Update::Remove(kind, key));
    }
    // What the node had of these kinds and names is written anew.
    for object in own() {
        engine.apply(Update::Set(object));
    }
    assert_eq!(settle(&mut engine), before);
}

/// What the node knows from the beginning.
fn own() -> Vec<felix::model::Object> {
    let text = include_str!("node.yaml");
    felix::source::objects(text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn node() -> Engine {
    let mut engine = Engine::new();
    engine.set_node("node1", "cali");
    let addresses = ["10.0.0.1", "fd00::1"].into_iter().filter_map(|text| text.parse().ok());
    engine.endpoint_set(LocalEndpoint {
        id: EndpointId { container_id: "c".into(), ifname: "eth0".into() },
        namespace: "shop".into(),
        pod: "web".into(),
        pod_uid: String::new(),
        netns: "/n".into(),
        host_interface: "cali0".into(),
        host_index: 7,
        mac: [2; 6],
        addresses: addresses.collect(),
        handle: "h".into(),
        mtu: 1500,
        labels: [("app".to_owned(), "web".to_owned())].into(),
        service_account: "default".into(),
    });
    for object in own() {
        engine.apply(Update::Set(object));
    }
    engine.apply(Update::InSync);
    engine
}

/// See [`policy`].
pub fn seeds_of_policy() -> Vec<Vec<u8>> {
    let files = [
        include_str!("../../../manifests/install/examples/policy-allow-frontend.yaml"),
        include_str!("../../../manifests/install/examples/policy-default-deny-ingress.yaml"),
        include_str!("../../../manifests/install/examples/policy-cluster-admin.yaml"),
        include_str!("../../../manifests/install/examples/policy-cluster-baseline.yaml"),
        r#"{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "g"},
            "spec": {"tier": "t", "order": 1, "selector": "hep == 'h'", "applyOnForward": true, "doNotTrack": false,
            "types": ["Ingress", "Egress"],
            "ingress": [{"action": "Log", "protocol": "TCP", "source": {"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"]},
                         "destination": {"ports": [80, "1:7", "http"], "notPorts": [81]}},
                        {"action": "Pass", "icmp": {"type": 8, "code": 0}, "protocol": "ICMP", "ipVersion": 4}],
            "egress": [{"action": "Deny", "notProtocol": "UDP", "destination": {"selector": "app == 'web'", "namespaceSelector": "global()"}},
                       {"action": "Allow", "destination": {"services": {"name": "s", "namespace": "shop"}}}]}}"#,
        r#"{"apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy", "metadata": {"name": "n", "namespace": "shop"},
            "spec": {"selector": "app == 'web'", "ingress": [{"action": "Allow", "source": {"serviceAccounts": {"names": ["default"]}}}]}}"#,
        r#"{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet", "metadata": {"name": "s", "labels": {"app": "web"}},
            "spec": {"nets": ["192.0.2.0/24", "2001:db8::/32"]}}"#,
    ];
    files.into_iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// An answer of the DNS, as a datagram and as a segment of TCP.
pub fn dns(octets: &[u8]) {
    drop((answer::read(octets), answer::read_segment(octets)));
}

/// See [`dns`].
pub fn seeds_of_dns() -> Vec<Vec<u8>> {
    // A question for example.org, an alias and an address (RFC 1035 section 4.1).
    let mut message =
        b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\0\x07example\x03org\0\0\x01\0\x01".to_vec();
    message.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03www\xc0\x0c");
    message.extend(b"\xc0\x29\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
    let mut segment = u16::try_from(message.len()).unwrap_or_default().to_be_bytes().to_vec();
    segment.extend(&message);
    vec![message, segment]
}

/// Messages of the kernel.
pub fn netlink_replies(octets: &[u8]) {
    netlink::fuzz::replies(octets);
}

/// See [`netlink_replies`].
pub fn seeds_of_netlink_replies() -> Vec<Vec<u8>> {
    netlink::fuzz::seeds()
}
