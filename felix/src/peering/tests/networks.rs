//! What a node tells of itself.

use bgpd::wire::Community;

use super::*;
use crate::config::Drain;

#[test]
fn blocks_are_announced_unless_their_pool_is_kept_back() {
    let mut pool = v3::IPPool::new("inside", v3::IPPoolSpec::new("10.65.0.0/16"));
    pool.spec.disable_bgp_export = true;
    let mut updates = three_nodes();
    updates.push(Update::Set(Object::IPPool(Arc::new(pool))));
    let blocks = ["10.64.0.0/26", "10.65.0.64/26", "fd00:64::/122"].map(|b| b.parse().unwrap());
    let local = Local { blocks: Arc::new(blocks), restarting: true, ..Local::default() };
    let plan = peering(updates).plan(&local).unwrap();
    let prefixes: Vec<_> = plan.config.networks.iter().map(|n| n.prefix.to_string()).collect();
    assert_eq!(prefixes, ["10.64.0.0/26", "fd00:64::/122"]);
    assert!(plan.config.graceful_restart.restarting);
}

#[test]
fn own_routes_carry_the_nodes_communities_else_the_clusters() {
    let advertise = |community: &str| {
        let spec = serde_json::json!({
            "prefixAdvertisements": [{ "cidr": "10.0.0.0/8", "communities": [community] }],
        });
        serde_json::from_value::<v3::BGPConfigurationSpec>(spec).unwrap()
    };
    let local = Local { blocks: ["10.244.0.0/26".parse().unwrap()].into(), ..Local::default() };
    let mut updates = three_nodes();
    updates.push(configuration("default", advertise("64512:1")));
    let carried = |updates: Vec<Update>| {
        let plan = peering(updates).plan(&local).unwrap();
        assert_eq!(plan.problems, []);
        plan.config.networks[0].communities.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(carried(updates.clone()), ["64512:1"]);
    updates.push(configuration("node.node1", advertise("64512:2")));
    updates.push(configuration("node.node2", advertise("64512:3")));
    assert_eq!(carried(updates.clone()), ["64512:2"]);
    updates.push(configuration("default", advertise("nobody")));
    updates.push(Update::Remove(Kind::BGPConfiguration, ObjectKey::cluster("node.node1")));
    let plan = peering(updates).plan(&local).unwrap();
    assert_eq!(plan.config.networks.len(), 1, "announced all the same");
    assert_eq!(plan.problems[0].object, "BGPConfiguration/default");
}

#[test]
fn borrowed_addresses_are_announced_one_by_one() {
    let mut pool = v3::IPPool::new("inside", v3::IPPoolSpec::new("10.65.0.0/16"));
    pool.spec.disable_bgp_export = true;
    let mut updates = three_nodes();
    updates.push(Update::Set(Object::IPPool(Arc::new(pool))));
    let blocks = ["10.64.0.0/26", "10.64.2.2/32"].map(|b| b.parse().unwrap());
    let borrowed =
        ["10.64.9.7", "fd00:64::9", "10.65.0.1", "10.64.2.2"].map(|a| a.parse().unwrap());
    let local =
        Local { blocks: Arc::new(blocks), borrowed: Arc::new(borrowed), ..Local::default() };
    let plan = peering(updates).plan(&local).unwrap();
    plan.config.validate().unwrap();
    let prefixes: Vec<_> = plan.config.networks.iter().map(|n| n.prefix.to_string()).collect();
    assert_eq!(prefixes, ["10.64.0.0/26", "10.64.2.2/32", "10.64.9.7/32", "fd00:64::9/128"]);
    // The owner of the block takes the host route in: nothing of it is filtered.
    assert_eq!(plan.config.peers[0].import, Some(bgpd::policy::Policy::accept()));
}

#[test]
fn a_tor_is_told_of_addresses_on_its_own_link() {
    let link = |nets: [&str; 2]| Link { addresses: nets.map(|n| n.parse().unwrap()).to_vec() };
    let links = vec![link(["10.1.0.1/24", "fd00:1::1/64"]), link(["10.2.0.1/24", "fd00:2::1/64"])];
    let mut updates = three_nodes();
    updates.extend([no_mesh(), peer("tor1", tor("10.1.0.254")), peer("tor2", tor("10.2.0.254"))]);
    updates.push(peer("far", tor("10.9.0.254")));
    let local = Local { links: links.into(), ..Local::default() };
    let peers = peering(updates).plan(&local).unwrap().config.peers;
    let hops: Vec<_> = peers.iter().map(|p| (p.next_hop_v4, p.next_hop_v6)).collect();
    let v6 = |text: &str| (None, Some(text.parse().unwrap()));
    assert_eq!(hops, [v6("fd00:1::1"), v6("fd00:2::1"), v6("fd00::1")]);
}

/// RFC 8326.
#[test]
fn a_cordoned_node_is_the_last_choice_and_keeps_its_sessions() {
    let cordoned = |name: &str| {
        let mut node = node(name, Some("10.0.0.1"), Some("fd00::1"), &[("rack", "1")]);
        node.unschedulable = true;
        Update::Set(Object::Node(node))
    };
    let blocks: Arc<[_]> = ["10.64.0.0/26", "fd00:64::/122"].map(|b| b.parse().unwrap()).into();
    let borrowed: Arc<[IpAddr]> = ["10.64.9.7".parse().unwrap()].into();
    let local = Local { blocks, borrowed, ..Local::default() };
    let advertise = serde_json::json!({
        "prefixAdvertisements": [{ "cidr": "10.64.0.0/26", "communities": ["64512:1", "65535:0"] }],
    });
    let mut updates = three_nodes();
    updates.push(configuration("default", serde_json::from_value(advertise).unwrap()));
    updates.push(peer("tor1", tor("10.1.0.254")));
    let mut peering = peering(updates);
    let usual = peering.plan(&local).unwrap().config;
    assert!(!usual.graceful_shutdown);

    assert!(peering.apply(&cordoned("node1")));
    let plan = peering.plan(&local).unwrap();
    assert_eq!(plan.problems, []);
    plan.config.validate().unwrap();
    assert!(plan.config.graceful_shutdown);
    let own: Community = "64512:1".parse().unwrap();
    let carried: Vec<_> =
        plan.config.networks.iter().map(|n| (n.prefix.to_string(), &n.communities[..])).collect();
    let shut_down = Community::GRACEFUL_SHUTDOWN;
    let wanted = [
        ("10.64.0.0/26".to_owned(), &[own, shut_down][..]),
        ("10.64.9.7/32".to_owned(), &[shut_down]),
        ("fd00:64::/122".to_owned(), &[shut_down]),
    ];
    assert_eq!(carried, wanted);
    // All else is as before: the speaker has no reason to reset anything.
    let mut otherwise = plan.config;
    otherwise.graceful_shutdown = false;
    otherwise.networks.clone_from(&usual.networks);
    assert_eq!(otherwise, usual);

    let never = Local { drain: Drain::Never, ..local.clone() };
    assert_eq!(peering.plan(&never).unwrap().config, usual);
    assert!(peering.apply(&three_nodes()[0]));
    assert_eq!(peering.plan(&local).unwrap().config, usual, "uncordoned");
    // Another node's cordon is told by that node.
    assert!(peering.apply(&cordoned("node3")));
    assert!(!peering.plan(&local).unwrap().config.graceful_shutdown);
}
