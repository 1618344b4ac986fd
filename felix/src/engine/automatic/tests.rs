use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn node(name: &str, labels: &[(&str, &str)], addresses: &[&str]) -> Node {
    let addresses: Arc<[IpAddr]> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    Node {
        name: name.into(),
        labels: labels.iter().copied().collect(),
        ipv4: None,
        ipv6: None,
        addresses: addresses.clone(),
        internal: addresses,
        as_number: None,
        route_reflector_cluster_id: None,
        unschedulable: false,
        pod_cidrs: Arc::default(),
    }
}

fn configuration(name: &str, host_endpoint: &str) -> v3::KubeControllersConfiguration {
    serde_saphyr::from_str(&format!(
        "apiVersion: projectcalico.org/v3
kind: KubeControllersConfiguration
metadata: {{name: {name}}}
spec: {{controllers: {{node: {{hostEndpoint: {host_endpoint}}}}}}}
"
    ))
    .unwrap()
}

fn written(object: &v3::HostEndpoint) -> String {
    let labels: Vec<String> = object
        .metadata
        .labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let v3::HostEndpointSpec { node, interface_name, expected_ips, profiles, ports } = &object.spec;
    assert!(ports.is_empty());
    assert_eq!(profiles, &["projectcalico-default-allow"]);
    let name = object.metadata.name.as_deref().unwrap();
    format!("{name}: {node} {interface_name:?} {} {}", expected_ips.join(","), labels.join(","))
}

/// What is there after these changes.
fn follow(there: &mut BTreeMap<Arc<str>, Arc<v3::HostEndpoint>>, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Set(object) => {
                let name = object.metadata.name.as_deref().unwrap().into();
                assert_ne!(there.insert(name, object.clone()), Some(object), "nothing changes");
            }
            Change::Remove(name) => assert!(there.remove(&name).is_some(), "{name} is not there"),
        }
    }
}

const CREATED: &str = "projectcalico.org/created-by=calico-kube-controllers";

#[test]
fn every_node_has_one_as_calico_would_write_it() {
    let nodes = [node("a", &[("rack", "r1")], &["192.0.2.1", "2001:db8::1"]), node("b", &[], &[])];
    let mut automatic = Automatic::default();
    for off in [
        "{}",
        "{autoCreate: Disabled}",
        "{autoCreate: Enabled, createDefaultHostEndpoint: Disabled}",
    ] {
        let (changes, errors) =
            automatic.configure(Some(&configuration("default", off)), nodes.iter());
        assert_eq!((changes, errors.len()), (vec![], 0), "{off}");
    }
    let other = configuration("other", "{autoCreate: Enabled}");
    assert_eq!(automatic.configure(Some(&other), nodes.iter()).0, [], "only default counts");
    let on = configuration("default", "{autoCreate: Enabled}");
    let mut there = BTreeMap::new();
    follow(&mut there, automatic.configure(Some(&on), nodes.iter()).0);
    assert_eq!(
        there.values().map(|object| written(object)).collect::<Vec<_>>(),
        [
            format!("a-auto-hep: a \"*\" 192.0.2.1,2001:db8::1 {CREATED},rack=r1"),
            format!("b-auto-hep: b \"*\"  {CREATED}"),
        ]
    );
    assert_eq!(automatic.configure(Some(&on), nodes.iter()).0, [], "nothing has changed");
    follow(&mut there, automatic.configure(None, nodes.iter()).0);
    assert!(there.is_empty());
}

#[test]
fn templates_are_for_nodes_with_an_address_in_their_networks() {
    let nodes = [
        node("a", &[("rack", "r1"), ("side", "node's")], &["192.0.2.1", "10.1.0.1", "fd00::1"]),
        node("b", &[("rack", "r1")], &["192.0.2.2"]),
        node("c", &[], &["10.1.0.3"]),
    ];
    let lan = "{autoCreate: Enabled, createDefaultHostEndpoint: Disabled, templates: [\
        {generateName: lan, interfaceCIDRs: [10.0.0.0/8, 'fd00::/64'], labels: {side: lan}, \
         nodeSelector: has(rack)}]}";
    let mut automatic = Automatic::default();
    let mut there = BTreeMap::new();
    follow(&mut there, automatic.configure(Some(&configuration("default", lan)), nodes.iter()).0);
    let all: Vec<_> = there.values().map(|object| written(object)).collect();
    let expected = format!("a-lan-auto-hep: a \"\" 10.1.0.1,fd00::1 {CREATED},rack=r1,side=lan");
    assert_eq!(all, [expected]);
}

#[test]
fn what_is_wrong_with_a_template_is_told_and_the_others_go_on() {
    let nodes = [node("a", &[], &["10.1.0.1"])];
    let some = "{autoCreate: Enabled, createDefaultHostEndpoint: Disabled, templates: [\
        {interfaceCIDRs: [10.0.0.0/8]}, {generateName: w, interfacePattern: ^wan}, \
        {generateName: x, interfaceCIDRs: [10.0.0.0/8, ten]}, \
        {generateName: y, interfaceCIDRs: [10.0.0.0/8], nodeSelector: 'rack ='}, \
        {generateName: z, interfaceCIDRs: [10.0.0.0/8]}, \
        {generateName: z, interfaceCIDRs: [10.0.0.0/8]}]}";
    let mut automatic = Automatic::default();
    let (changes, errors) =
        automatic.configure(Some(&configuration("default", some)), nodes.iter());
    let fields: Vec<_> = errors
        .iter()
        .map(|error| error.field.strip_prefix("spec.controllers.node.hostEndpoint.").unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "templates[0].generateName",
            "templates[1].interfacePattern",
            "templates[2].interfaceCIDRs[1]",
            "templates[3].nodeSelector",
            "templates[5].generateName",
        ]
    );
    assert_eq!(changes.len(), 1);
}

/// The one of the first node is in force, and the other's once that is gone.
#[test]
fn a_name_is_one_nodes() {
    let both =
        "{autoCreate: Enabled, templates: [{generateName: '1', interfaceCIDRs: [10.0.0.0/8]}]}";
    let (first, second) = (node("w", &[], &["10.0.0.1"]), node("w-1", &[], &["192.0.2.9"]));
    for order in [[&first, &second], [&second, &first]] {
        let mut automatic = Automatic::default();
        automatic.configure(Some(&configuration("default", both)), [].into_iter());
        let mut there = BTreeMap::new();
        for node in order {
            follow(&mut there, automatic.set_node(node));
        }
        assert_eq!(there["w-1-auto-hep"].spec.node, "w");
        assert_eq!(
            automatic.clashes().map(|(name, _)| &**name).collect::<Vec<_>>(),
            ["w-1-auto-hep"]
        );
        follow(&mut there, automatic.remove_node("w"));
        assert_eq!(there["w-1-auto-hep"].spec.node, "w-1");
        assert_eq!(automatic.clashes().count(), 0);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Node(usize, usize),
    NoNode(usize),
    Configure(usize),
    Write(usize),
    Erase(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, 0..4_usize).prop_map(|(node, version)| Step::Node(node, version)),
        1 => (0..3_usize).prop_map(Step::NoNode),
        2 => (0..4_usize).prop_map(Step::Configure),
        2 => (0..3_usize).prop_map(Step::Write),
        2 => (0..3_usize).prop_map(Step::Erase),
    ]
}

proptest! {
    /// Whatever came before, there are those that the nodes and the configuration of now ask for, but
    /// for those that are written; and nothing is said twice.
    #[test]
    fn what_there_is_depends_on_the_present_alone(steps in prop::collection::vec(step(), 1..40)) {
        // The template's name for the first is the second's own.
        const NAMES: [&str; 3] = ["a", "a-t", "c"];
        let version = |name, version: usize| match version {
            0 => node(name, &[], &["192.0.2.1"]),
            1 => node(name, &[("rack", "r1")], &["192.0.2.1", "10.0.0.1"]),
            2 => node(name, &[("rack", "r1")], &["10.0.0.2"]),
            _ => node(name, &[], &[]),
        };
        let configured = |version: usize| (version > 0).then(|| configuration("default", [
            "{autoCreate: Enabled}",
            "{autoCreate: Enabled, templates: [{generateName: t, interfaceCIDRs: [10.0.0.0/8], nodeSelector: has(rack)}]}",
            "{autoCreate: Disabled}",
        ][version - 1]));
        let (mut automatic, mut there) = (Automatic::default(), BTreeMap::new());
        let (mut nodes, mut current, mut by_hand) =
            (BTreeMap::new(), 0, BTreeSet::<String>::new());
        for step in steps {
            match step {
                Step::Node(at, to) => {
                    let node = version(NAMES[at], to);
                    follow(&mut there, automatic.set_node(&node));
                    nodes.insert(NAMES[at], node);
                }
                Step::NoNode(at) => {
                    nodes.remove(NAMES[at]);
                    follow(&mut there, automatic.remove_node(NAMES[at]));
                }
                Step::Configure(to) => {
                    current = to;
                    let configuration = configured(to);
                    let (changes, _) = automatic.configure(configuration.as_ref(), nodes.values());
                    follow(&mut there, changes);
                }
                Step::Write(at) => {
                    let name = format!("{}-auto-hep", NAMES[at]);
                    automatic.write(&name);
                    // It takes the place of the one that was made.
                    there.remove(&*name);
                    by_hand.insert(name);
                }
                Step::Erase(at) => {
                    let name = format!("{}-auto-hep", NAMES[at]);
                    let (was, made) = (by_hand.remove(&name), automatic.erase(&name));
                    if was {
                        there.extend(made.map(|made| (name.into(), made)));
                    }
                }
            }
            let mut anew = Automatic::default();
            let mut expected = BTreeMap::new();
            let configuration = configured(current);
            follow(&mut expected, anew.configure(configuration.as_ref(), nodes.values()).0);
            expected.retain(|name, _| !by_hand.contains(&**name));
            prop_assert_eq!(&there, &expected);
        }
    }
}
