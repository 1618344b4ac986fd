//! Named cases of what peers a node shall have, and of what it tells them.

mod networks;
mod refused;

use std::net::IpAddr;
use std::sync::Arc;

use api::v3;
use bgpd::wire::Family;
use kube::core::ObjectMeta;

use super::peers::parse_peer_ip;
use super::*;
use crate::model::Object;

fn node(name: &str, ipv4: Option<&str>, ipv6: Option<&str>, labels: &[(&str, &str)]) -> Node {
    Node {
        name: name.into(),
        labels: labels.iter().copied().collect(),
        ipv4: ipv4.map(|a| a.parse().unwrap()),
        ipv6: ipv6.map(|a| a.parse().unwrap()),
        addresses: Arc::default(),
        internal: Arc::default(),
        as_number: None,
        route_reflector_cluster_id: None,
        unschedulable: false,
        pod_cidrs: Arc::default(),
    }
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() }
}

fn peer(name: &str, spec: v3::BGPPeerSpec) -> Update {
    let mut object = v3::BGPPeer::new(name, spec);
    object.metadata = metadata(name);
    Update::Set(Object::BGPPeer(Arc::new(object)))
}

fn configuration(name: &str, spec: v3::BGPConfigurationSpec) -> Update {
    Update::Set(Object::BGPConfiguration(Arc::new(v3::BGPConfiguration::new(name, spec))))
}

fn peering(updates: impl IntoIterator<Item = Update>) -> Peering {
    let mut peering = Peering::new("node1", "caracal-system");
    for update in updates {
        peering.apply(&update);
    }
    peering
}

fn three_nodes() -> Vec<Update> {
    [
        node("node1", Some("10.0.0.1"), Some("fd00::1"), &[("rack", "1")]),
        node("node2", Some("10.0.0.2"), Some("fd00::2"), &[("rack", "2")]),
        node("node3", None, Some("fd00::3"), &[("rack", "2")]),
    ]
    .into_iter()
    .map(|node| Update::Set(Object::Node(node)))
    .collect()
}

fn plan(updates: impl IntoIterator<Item = Update>) -> Plan {
    peering(updates).plan(&Local::default()).unwrap()
}

fn tor(peer_ip: &str) -> v3::BGPPeerSpec {
    v3::BGPPeerSpec {
        peer_ip: peer_ip.into(),
        as_number: Some(v3::AsNumber(65101)),
        ..v3::BGPPeerSpec::default()
    }
}

fn no_mesh() -> Update {
    configuration(
        "default",
        v3::BGPConfigurationSpec {
            node_to_node_mesh_enabled: Some(false),
            ..v3::BGPConfigurationSpec::default()
        },
    )
}

#[test]
fn an_unknown_node_has_no_plan() {
    assert!(peering([]).plan(&Local::default()).is_none());
}

#[test]
fn without_configuration_nodes_are_a_full_mesh_in_calicos_default_as() {
    let plan = plan(three_nodes());
    assert_eq!(plan.config.asn, 64512);
    assert_eq!(plan.config.router_id, Ipv4Addr::new(10, 0, 0, 1));
    let peers: Vec<_> = plan.config.peers.iter().map(|p| (p.address, p.asn.clone())).collect();
    let v4: IpAddr = "10.0.0.2".parse().unwrap();
    let v6: IpAddr = "fd00::3".parse().unwrap();
    assert_eq!(peers, [(v4, 64512.into()), (v6, 64512.into())]);
    assert_eq!(plan.config.peers[0].families, Family::ALL);
    assert_eq!(plan.config.peers[0].source_address, Some("10.0.0.1".parse().unwrap()));
    assert_eq!(plan.config.peers[0].next_hop_v6, Some("fd00::1".parse().unwrap()));
    assert_eq!(plan.config.peers[0].multihop, None, "internal peers have their own default");
    assert_eq!(plan.problems, []);
    plan.config.validate().unwrap();
}

#[test]
fn route_reflectors_are_not_in_the_mesh() {
    let mut updates = three_nodes();
    let mut reflector = node("node2", Some("10.0.0.2"), None, &[]);
    reflector.route_reflector_cluster_id = Some(Ipv4Addr::new(1, 0, 0, 1));
    updates.push(Update::Set(Object::Node(reflector)));
    assert_eq!(plan(updates).config.peers.len(), 1);
}

#[test]
fn a_route_reflector_has_nodes_as_clients_and_tells_internal_peers_of_the_pools() {
    let cluster = Ipv4Addr::new(1, 0, 0, 1);
    let with_cluster = |name: &str, address: &str, id: Option<Ipv4Addr>| {
        let mut node = node(name, Some(address), None, &[]);
        node.route_reflector_cluster_id = id;
        Update::Set(Object::Node(node))
    };
    let all = v3::BGPPeerSpec { peer_selector: "all()".into(), ..v3::BGPPeerSpec::default() };
    let pool = |name: &str, cidr: &str, disable_bgp_export: bool| {
        let spec = v3::IPPoolSpec { disable_bgp_export, ..v3::IPPoolSpec::new(cidr) };
        Update::Set(Object::IPPool(Arc::new(v3::IPPool::new(name, spec))))
    };
    let plan = plan([
        with_cluster("node1", "10.0.0.1", Some(cluster)),
        with_cluster("node2", "10.0.0.2", None),
        with_cluster("node3", "10.0.0.3", Some(cluster)),
        with_cluster("node4", "10.0.0.4", Some(Ipv4Addr::new(1, 0, 0, 2))),
        no_mesh(),
        peer("nodes", all),
        peer("tor", tor("10.1.0.254")),
        pool("pods", "10.244.0.0/16", false),
        pool("inside", "10.245.0.0/16", true),
    ]);
    assert_eq!(plan.problems, []);
    assert_eq!(plan.config.cluster_id, Some(cluster));
    plan.config.validate().unwrap();
    let clients: Vec<(&str, bool)> =
        plan.config.peers.iter().map(|p| (&*p.name, p.route_reflector_client)).collect();
    let wanted =
        [("Node_node2", true), ("Node_node3", false), ("Node_node4", true), ("tor", false)];
    assert_eq!(clients, wanted);
    for session in &plan.config.peers {
        let rules = &session.export.as_ref().unwrap().rules;
        let (last, others) = rules.split_last().unwrap();
        assert_eq!(last.action, bgpd::policy::Action::Reject, "of what else is learned");
        let told: Vec<String> = others
            .iter()
            .flat_map(|rule| rule.prefixes.iter().flatten())
            .map(|inside| inside.prefix.to_string())
            .collect();
        let wanted: &[&str] = if session.name == "tor" { &[] } else { &["10.244.0.0/16"] };
        assert_eq!(told, wanted, "{}", session.name);
    }
}

#[test]
fn a_tor_gets_own_blocks_only_and_may_be_hops_away() {
    let mut updates = three_nodes();
    updates.extend([no_mesh(), peer("tor1", tor("10.1.0.254"))]);
    let plan = plan(updates);
    let [session] = &plan.config.peers[..] else { panic!("{:?}", plan.config.peers) };
    assert_eq!((session.name.as_str(), session.port), ("tor1", 179));
    assert_eq!(session.asn, 65101);
    assert_eq!(session.multihop, Some(64));
    let export = session.export.as_ref().unwrap();
    assert_eq!(export.rules[0].source, Some(bgpd::policy::Source::RemotePeers));
    assert_eq!(export.rules[0].action, bgpd::policy::Action::Reject);
}

#[test]
fn filters_come_first_and_a_peer_whose_filter_is_missing_is_left_out() {
    let spec = serde_json::json!({
        "exportV4": [{ "cidr": "10.244.0.0/26", "matchOperator": "Equal", "action": "Reject" }],
        "importV6": [{ "action": "Reject" }],
    });
    let mut filter = v3::BGPFilter::new("quiet", serde_json::from_value(spec).unwrap());
    filter.metadata = metadata("quiet");
    let filtered = v3::BGPPeerSpec { filters: vec!["quiet".into()], ..tor("10.1.0.254") };
    let missing = v3::BGPPeerSpec { filters: vec!["gone".into()], ..tor("10.1.0.253") };
    let elsewhere = v3::BGPPeerSpec { node: "node2".into(), ..missing.clone() };
    let mut updates = three_nodes();
    updates.push(Update::Set(Object::BGPFilter(Arc::new(filter))));
    updates.extend([no_mesh(), peer("a", filtered), peer("b", missing), peer("c", elsewhere)]);
    let mut peering = peering(updates);
    let plan = peering.plan(&Local::default()).unwrap();
    let [session] = &plan.config.peers[..] else { panic!("{:?}", plan.config.peers) };
    let export = &session.export.as_ref().unwrap().rules;
    assert_eq!((export.len(), export[0].action), (2, bgpd::policy::Action::Reject));
    assert_eq!(export[0].source, None, "own networks too");
    assert_eq!(session.import.as_ref().unwrap().rules.len(), 1);
    let [problem] = &plan.problems[..] else { panic!("{:?}", plan.problems) };
    assert_eq!((problem.object.as_str(), problem.field), ("BGPPeer/b", "spec.filters"));
    assert_eq!(problem.reason, "there is no BGPFilter gone");

    // A filter that somebody still wants outlives its object.
    assert!(peering.apply(&Update::Remove(Kind::BGPFilter, ObjectKey::cluster("quiet"))));
    let without = peering.plan(&Local::default()).unwrap();
    assert_eq!(without.config.peers, plan.config.peers);
    assert_eq!(without.problems.len(), 2, "{:?}", without.problems);
    // But not the last one that wanted it.
    peering.apply(&Update::Remove(Kind::BGPPeer, ObjectKey::cluster("a")));
    let again = v3::BGPPeerSpec { filters: vec!["quiet".into()], ..tor("10.1.0.254") };
    peering.apply(&peer("a", again));
    assert!(peering.plan(&Local::default()).unwrap().config.peers.is_empty());
}

#[test]
fn selectors_choose_the_nodes_that_peer_and_the_nodes_they_peer_with() {
    let elsewhere = v3::BGPPeerSpec { node_selector: "rack == '2'".into(), ..tor("10.1.0.254") };
    let named = v3::BGPPeerSpec { node: "node2".into(), ..tor("10.1.0.253") };
    let nodes =
        v3::BGPPeerSpec { peer_selector: "rack == '2'".into(), ..v3::BGPPeerSpec::default() };
    let mut updates = three_nodes();
    updates.extend([no_mesh(), peer("a", elsewhere), peer("b", named), peer("c", nodes)]);
    let names: Vec<_> = plan(updates).config.peers.into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["Node_node2", "Node_node3"]);
}

#[test]
fn a_node_that_others_peer_with_has_the_other_side_of_the_session() {
    let spec = |reverse_peering| v3::BGPPeerSpec {
        node_selector: "rack == '2'".into(),
        peer_selector: "rack == '1'".into(),
        local_as_number: Some(v3::AsNumber(65002)),
        reverse_peering,
        ..v3::BGPPeerSpec::default()
    };
    let of = |name: &str, reverse| {
        let mut peering = Peering::new(name, "caracal-system");
        let updates = [no_mesh(), peer("racks", spec(reverse))];
        for update in three_nodes().iter().chain(&updates) {
            peering.apply(update);
        }
        let plan = peering.plan(&Local::default()).unwrap();
        assert_eq!(plan.problems, []);
        plan.config.validate().unwrap();
        let sessions = plan.config.peers.into_iter();
        sessions.map(|p| (p.name, p.local_asn, p.asn.number(0))).collect::<Vec<_>>()
    };
    let node1 = [("Node_node1".to_owned(), Some(65002), Some(64512))];
    for reverse in [None, Some(v3::ReversePeering::Auto), Some(v3::ReversePeering::Manual)] {
        assert_eq!(of("node2", reverse), node1);
        assert_eq!(of("node3", reverse), node1);
    }
    let others = [
        ("Node_node2".to_owned(), None, Some(65002)),
        ("Node_node3".to_owned(), None, Some(65002)),
    ];
    assert_eq!(of("node1", None), others);
    assert_eq!(of("node1", Some(v3::ReversePeering::Manual)), []);
}

#[test]
fn a_peer_of_all_nodes_goes_before_the_same_one_of_some() {
    let mut updates = three_nodes();
    updates.extend([
        no_mesh(),
        peer("a", v3::BGPPeerSpec { node: "node1".into(), ..tor("10.1.0.1") }),
        peer("b", v3::BGPPeerSpec { node_selector: "has(rack)".into(), ..tor("10.1.0.1") }),
        peer("c", tor("10.1.0.1")),
        peer("d", v3::BGPPeerSpec { node: "node1".into(), ..tor("10.1.0.1:1790") }),
    ]);
    let names: Vec<_> = plan(updates).config.peers.into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["c", "d"], "another port is another peer");
}

#[test]
fn a_nodes_own_settings_go_before_the_clusters() {
    let port = |port| v3::BGPConfigurationSpec { listen_port: Some(port), ..Default::default() };
    let mut updates = three_nodes();
    updates.extend([configuration("default", port(1790)), configuration("node.node2", port(1792))]);
    let mut own = node("node1", Some("10.0.0.1"), None, &[]);
    own.as_number = Some(65001);
    updates.push(Update::Set(Object::Node(own)));
    let plan = plan(updates);
    assert_eq!(plan.config.asn, 65001);
    assert_eq!(plan.config.listen[0].port(), 1790);
    let [session] = &plan.config.peers[..] else { panic!("{:?}", plan.config.peers) };
    assert_eq!(session.port, 1792);
    assert_eq!(session.asn, 64512);
}

#[test]
fn the_agents_own_configuration_goes_before_all() {
    let port = v3::BGPConfigurationSpec { listen_port: Some(1790), ..Default::default() };
    let mut updates = three_nodes();
    updates.push(configuration("node.node1", port));
    let router_id = Ipv4Addr::new(192, 0, 2, 1);
    let local = Local { port: Some(1179), router_id: Some(router_id), ..Local::default() };
    let config = peering(updates).plan(&local).unwrap().config;
    assert_eq!(config.router_id, router_id);
    let ports: Vec<u16> = config.listen.iter().map(std::net::SocketAddr::port).collect();
    assert_eq!(ports, [1179, 1179]);
    assert_eq!(config.peers[0].port, 179, "where others listen is not ours to say");
}

#[test]
fn router_ids_without_ipv4_are_stable_and_of_a_unicast_class() {
    assert_eq!(hashed_router_id("node1"), hashed_router_id("node1"));
    assert_ne!(hashed_router_id("node1"), hashed_router_id("node2"));
    for n in 0..1000 {
        assert!(hashed_router_id(&format!("node{n}")).octets()[0] <= 223);
    }
}

#[test]
fn peer_addresses_may_carry_a_port() {
    let parsed = |text| parse_peer_ip(text).map(|(a, p)| (a.to_string(), p));
    assert_eq!(parsed("10.0.0.1"), Some(("10.0.0.1".into(), None)));
    assert_eq!(parsed("10.0.0.1:1790"), Some(("10.0.0.1".into(), Some(1790))));
    assert_eq!(parsed("fd00::1"), Some(("fd00::1".into(), None)));
    assert_eq!(parsed("[fd00::1]:1790"), Some(("fd00::1".into(), Some(1790))));
    assert_eq!(parsed("10.0.0.1:0"), None);
    assert_eq!(parsed("tor1"), None);
}

#[test]
fn equal_nodes_and_secrets_change_nothing() {
    let mut peering = peering(three_nodes());
    assert!(!peering.apply(&three_nodes()[0]));
    assert!(peering.apply(&Update::Remove(Kind::Node, ObjectKey::cluster("node3"))));
    assert!(!peering.apply(&Update::Remove(Kind::Node, ObjectKey::cluster("node3"))));
}
