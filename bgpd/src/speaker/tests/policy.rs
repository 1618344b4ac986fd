//! Policies on sessions that are up.

use super::*;
use crate::policy::Policy;
use crate::speaker::{Effect, PathStatus, Reason};

/// The rules in YAML; what none of them decides about is accepted.
fn policy(yaml: &str) -> Option<Policy> {
    Some(serde_saphyr::from_str(&format!("{{default: accept, rules: [{yaml}]}}")).unwrap())
}

/// The path of a node to a prefix.
fn path(network: &mut Network, at: usize, prefix: &str) -> PathStatus {
    network.route(at, prefix).unwrap().paths[0].clone()
}

#[test]
fn a_named_set_that_changes_re_evaluates_without_a_reset() {
    let mut network = mesh(40, &[65001, 65002, 65003]);
    network.change(1, |c| c.networks = own(&["10.2.0.0/26", "10.3.0.0/26"]));
    network.run_for(MINUTE);
    let set = |c: &mut Config, prefix: &str| {
        let all = vec![crate::policy::PrefixMatch::inside(net(prefix))];
        c.prefix_sets.insert("unwanted".into(), all);
    };
    network.change(0, |c| {
        set(c, "10.2.0.0/16");
        for peer in &mut c.peers {
            peer.import = policy("{prefix-sets: [unwanted], action: reject}");
        }
        c.peers[1].export = policy("{prefix-sets: [unwanted], action: reject}");
    });
    network.run_for(Duration::from_secs(1));
    assert_eq!(path(&mut network, 0, "10.2.0.0/26").reason, Reason::ImportPolicy);
    assert_eq!(network.used(0, "10.3.0.0/26")[0], "n1");
    let from_0 = |n: &mut Network, prefix: &str| {
        let route = n.route(2, prefix).unwrap();
        route.paths.iter().any(|p| p.neighbor.as_deref() == Some("n0"))
    };
    assert!(!from_0(&mut network, "10.2.0.0/26") && from_0(&mut network, "10.3.0.0/26"));

    let report = network.change(0, |c| set(c, "10.3.0.0/16"));
    let changes: Vec<_> = report.changes.iter().map(|c| (&*c.object, c.effect)).collect();
    assert_eq!(changes, [("speaker", Effect::ReEvaluated)]);
    network.run_for(Duration::from_secs(1));
    assert_eq!(path(&mut network, 0, "10.3.0.0/26").reason, Reason::ImportPolicy);
    assert_eq!(network.used(0, "10.2.0.0/26")[0], "n1");
    assert!(from_0(&mut network, "10.2.0.0/26") && !from_0(&mut network, "10.3.0.0/26"));
    for other in [1, 2] {
        assert_eq!(network.neighbor(0, other).counters.established, 1);
    }
}

#[test]
fn changes_of_several_rules_come_together_on_both_ways() {
    let mut network = mesh(41, &[65001, 65002]);
    network.change(0, |c| c.networks = own(&["10.1.0.0/26", "10.2.0.0/26"]));
    network.change(0, |c| {
        c.peers[0].export = policy(
            "{action: continue, set: {add-communities: ['65001:1'], prepend-own: 2}}, \
             {prefixes: [{prefix: 10.1.0.0/26}], action: accept, set: {med: 5}}",
        );
    });
    network.change(1, |c| {
        c.peers[0].import = policy(
            "{action: continue, set: {local-pref: 50}}, \
             {community-match: {any: ['65001:*']}, action: continue, set: {med: {add: 1}}}, \
             {prefixes: [{prefix: 10.2.0.0/26}], action: reject}",
        );
    });
    network.run_for(MINUTE);
    let first = path(&mut network, 1, "10.1.0.0/26");
    assert_eq!((first.attributes.local_pref, first.attributes.med), (Some(50), Some(6)));
    assert_eq!(first.attributes.as_path, "65001 65001 65001");
    assert_eq!(first.attributes.communities, ["65001:1".parse().unwrap()]);
    assert_eq!(path(&mut network, 1, "10.2.0.0/26").reason, Reason::ImportPolicy);
    network.change(1, |c| c.peers[0].import = None);
    let second = path(&mut network, 1, "10.2.0.0/26");
    assert_eq!((second.attributes.local_pref, second.attributes.med), (None, None));
    assert_eq!(second.attributes.as_path, "65001 65001 65001");
}

#[test]
fn a_policy_has_the_last_word_on_the_next_hop() {
    // 0 is external to 1; 1 and 2 are one AS.
    let mut network = mesh(42, &[65001, 65002, 65002]);
    for at in [0, 2] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n1"));
    }
    network.change(0, |c| c.networks = own(&["10.1.0.0/26", "fd00:1::/64"]));
    network.change(2, |c| c.networks = own(&["10.2.0.0/26"]));
    network.run_for(MINUTE);
    let hop = |n: &mut Network, at: usize, prefix: &str| path(n, at, prefix).attributes.next_hop;
    let export = |n: &mut Network, to: &str, yaml: &str| {
        n.change(1, |c| c.peers.iter_mut().find(|p| p.name == to).unwrap().export = policy(yaml));
        n.run_for(Duration::from_secs(1));
    };
    assert_eq!(hop(&mut network, 2, "10.1.0.0/26"), address(0));
    export(&mut network, "n2", "{action: accept, set: {next-hop: self}}");
    assert_eq!(hop(&mut network, 2, "10.1.0.0/26"), address(1));
    assert_eq!(hop(&mut network, 2, "fd00:1::/64"), IpAddr::from(address_v6(1)));
    export(&mut network, "n2", "{action: accept, set: {next-hop: 198.51.100.7}}");
    assert_eq!(hop(&mut network, 2, "10.1.0.0/26"), IpAddr::from([198, 51, 100, 7]));
    assert_eq!(hop(&mut network, 2, "fd00:1::/64"), IpAddr::from(address_v6(0)), "as it was");
    assert_eq!(hop(&mut network, 0, "10.2.0.0/26"), address(1));
    export(&mut network, "n0", "{action: accept, set: {next-hop: unchanged}}");
    assert_eq!(hop(&mut network, 0, "10.2.0.0/26"), address(2));

    // On the way in: another router, but not ourselves.
    let import = |n: &mut Network, to: &str| {
        let set = format!("{{action: accept, set: {{next-hop: {to}}}}}");
        n.change(1, |c| {
            c.peers.iter_mut().find(|p| p.name == "n0").unwrap().import = policy(&set);
        });
    };
    import(&mut network, "198.51.100.9");
    let route = network.route(1, "10.1.0.0/26").unwrap();
    assert_eq!(route.next_hops[0].addr, IpAddr::from([198, 51, 100, 9]));
    import(&mut network, &address(1).to_string());
    let route = network.route(1, "10.1.0.0/26").unwrap();
    assert_eq!(route.paths[0].reason, Reason::NextHop);
    assert!(route.next_hops.is_empty());
}

#[test]
fn a_rule_can_look_at_the_neighbor_a_route_is_from() {
    let mut network = mesh(43, &[65001, 65002, 65003, 65004]);
    for at in [1, 2, 3] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n0"));
    }
    for at in [1, 2] {
        network.change(at, |c| {
            // The same attributes from both, but for who sends them.
            c.networks = own(&[&format!("10.{at}.0.0/26")]);
            c.peers[0].export =
                policy("{action: accept, set: {next-hop: 198.51.100.7, prepend-as-path: [65009]}}");
        });
        network.change(0, |c| {
            let peer = c.peers.iter_mut().find(|p| p.name == format!("n{at}")).unwrap();
            peer.import = policy("{action: accept, set: {private-as: remove}}");
        });
    }
    network.change(0, |c| {
        let peer = c.peers.iter_mut().find(|p| p.name == "n3").unwrap();
        peer.export = policy(&format!("{{neighbors: [{}], action: reject}}", address(1)));
    });
    network.run_for(MINUTE);
    let sets: Vec<_> = ["10.1.0.0/26", "10.2.0.0/26"]
        .map(|prefix| path(&mut network, 0, prefix))
        .map(|p| (p.attributes.as_path, p.attributes.next_hop, p.attributes.local_pref))
        .to_vec();
    assert_eq!(sets[0], sets[1], "one attribute set");
    assert!(network.route(3, "10.1.0.0/26").is_none());
    assert!(network.route(3, "10.2.0.0/26").is_some());
}
