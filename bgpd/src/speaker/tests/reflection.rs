//! Route reflection (RFC 4456).

use super::*;
use crate::config::NextHopMode;
use crate::speaker::Reason;

const AS: u32 = 65001;

/// One AS: node 0 has sessions with all others, and those of `clients` are its clients.
fn star(seed: u64, nodes: usize, clients: &[usize]) -> Network {
    let mut network = mesh(seed, &vec![AS; nodes]);
    for at in 1..nodes {
        network.change(at, |c| {
            c.peers.retain(|p| p.name == "n0");
            c.networks = own(&[&format!("10.{at}.0.0/26"), &format!("fd00:{at}::/122")]);
        });
    }
    network.change(0, |c| {
        for peer in &mut c.peers {
            peer.route_reflector_client = clients.iter().any(|at| peer.name == format!("n{at}"));
        }
    });
    network.run_for(MINUTE);
    network
}

/// Which nodes' networks a node can use, with the next hops that it has for them.
fn knows(network: &mut Network, at: usize) -> Vec<(String, Vec<IpAddr>)> {
    let routes = network.routes(at).into_iter().filter(|route| !route.next_hops.is_empty());
    routes.map(|r| (r.prefix.to_string(), r.next_hops.iter().map(|h| h.addr).collect())).collect()
}

#[test]
fn clients_have_of_a_reflector_what_a_full_mesh_would_give_them() {
    let mut full = mesh(1, &[AS; 6]);
    for at in 1..6 {
        full.change(at, |c| {
            c.networks = own(&[&format!("10.{at}.0.0/26"), &format!("fd00:{at}::/122")]);
        });
    }
    full.run_for(MINUTE);
    let mut star = star(1, 6, &[1, 2, 3, 4, 5]);
    for at in 0..6 {
        let wanted = knows(&mut full, at);
        assert_eq!(wanted.len(), if at == 0 { 10 } else { 8 });
        assert_eq!(knows(&mut star, at), wanted, "node {at}");
    }
}

#[test]
fn between_two_that_are_no_clients_nothing_is_reflected() {
    let mut network = star(2, 5, &[1, 2]);
    let has = |network: &mut Network, at: usize, of: usize| {
        network.route(at, &format!("10.{of}.0.0/26")).is_some_and(|r| !r.next_hops.is_empty())
    };
    for (at, of, reflected) in
        [(1, 2, true), (1, 3, true), (3, 1, true), (4, 2, true), (3, 4, false), (4, 3, false)]
    {
        assert_eq!(has(&mut network, at, of), reflected, "{of} to {at}");
    }
    // A client that is none any more; no session notices.
    network.change(0, |c| c.peers[0].route_reflector_client = false);
    network.run_for(MINUTE);
    assert_eq!([1, 3].map(|of| network.neighbor(0, of).counters.established), [1, 1]);
    assert!(!has(&mut network, 1, 3) && !has(&mut network, 3, 1));
    assert!(has(&mut network, 1, 2) && has(&mut network, 2, 1), "2 still is one");
}

#[test]
fn a_cluster_has_its_own_routes_from_within_only() {
    // Two reflectors of one cluster, each with the same two clients.
    let mut network = mesh(3, &[AS; 4]);
    for at in [0, 1] {
        network.change(at, |c| {
            c.cluster_id = Some(Ipv4Addr::new(9, 9, 9, 9));
            for peer in &mut c.peers {
                peer.route_reflector_client = ["n2", "n3"].contains(&&*peer.name);
            }
        });
    }
    for at in [2, 3] {
        network.change(at, |c| c.peers.retain(|p| ["n0", "n1"].contains(&&*p.name)));
    }
    network.change(2, |c| c.networks = own(&["10.2.0.0/26"]));
    network.run_for(MINUTE);
    let reason = |network: &mut Network, at: usize, from: &str| {
        let route = network.route(at, "10.2.0.0/26").unwrap();
        route.paths.iter().find(|p| p.neighbor.as_deref() == Some(from)).map(|p| p.reason)
    };
    assert_eq!(reason(&mut network, 0, "n1"), Some(Reason::ClusterLoop));
    assert_eq!(reason(&mut network, 1, "n0"), Some(Reason::ClusterLoop));
    assert_eq!(network.route(3, "10.2.0.0/26").unwrap().paths.len(), 2, "from either");
    // The control: in clusters of their own they take it from each other, as the second best.
    network.change(1, |c| c.cluster_id = None);
    network.run_for(MINUTE);
    assert_ne!(reason(&mut network, 0, "n1"), Some(Reason::ClusterLoop));
    assert_eq!(network.used(0, "10.2.0.0/26")[0], "n2", "from the client itself first");
    // Nobody is told of its own network.
    let route = network.route(2, "10.2.0.0/26").unwrap();
    assert!(route.paths.iter().all(|p| p.best || p.reason == Reason::OriginatorLoop), "{route:?}");
    // One that has it from the other reflector only tells of it, and says what will become of that.
    network.change(0, |c| {
        let from_2 = c.peers.iter_mut().find(|p| p.name == "n2").unwrap();
        from_2.import = Some(crate::policy::Policy::reject());
    });
    network.run_for(MINUTE);
    let told = advertised::advertisement(&mut network, 0, "10.2.0.0/26", 2);
    let refused = told.paths[0].refused.as_deref().unwrap();
    assert!(refused.starts_with("192.0.0.3 is its ORIGINATOR_ID"), "{refused}");
}

#[test]
fn what_leaves_the_as_does_not_say_how_it_was_reflected() {
    // 1 and 2 are clients of 0; 3 is external to 2.
    let mut network = mesh(4, &[AS, AS, AS, 65002]);
    for (at, with) in [(1, &["n0"][..]), (2, &["n0", "n3"]), (3, &["n2"])] {
        network.change(at, |c| c.peers.retain(|p| with.contains(&&*p.name)));
    }
    network.change(0, |c| {
        c.peers.retain(|p| p.name != "n3");
        c.peers.iter_mut().for_each(|p| p.route_reflector_client = true);
    });
    network.change(1, |c| c.networks = own(&["10.1.0.0/26"]));
    network.run_for(MINUTE);
    let reflected = network.route(2, "10.1.0.0/26").unwrap();
    assert_eq!(reflected.next_hops[0].addr, address(1), "the next hop stays");
    assert_eq!(reflected.paths[0].attributes.originator, Some(Ipv4Addr::new(192, 0, 0, 2)));
    assert_eq!(reflected.paths[0].attributes.clusters, [Ipv4Addr::new(192, 0, 0, 1)]);
    let outside = network.route(3, "10.1.0.0/26").unwrap();
    assert_eq!(
        (outside.paths[0].attributes.originator, &*outside.paths[0].attributes.clusters),
        (None, &[][..])
    );
    assert_eq!(outside.paths[0].attributes.as_path, "65001");
}

/// RFC 8326: a reflector that goes away is the last choice for what leads to it or through it. What
/// it only tells of, as RFC 4456 section 10 has it, keeps its preference.
#[test]
fn a_reflector_that_goes_away_says_so_of_its_own_routes() {
    let mut network = star(7, 3, &[1, 2]);
    network.change(0, |c| c.networks = own(&["10.0.0.0/26"]));
    network.run_for(MINUTE);
    let local_prefs = |network: &mut Network| {
        ["10.0.0.0/26", "10.1.0.0/26", "fd00:1::/122"]
            .map(|prefix| network.route(2, prefix).unwrap().paths[0].attributes.local_pref)
    };
    assert_eq!(local_prefs(&mut network), [Some(100); 3]);
    network.change(0, |c| c.graceful_shutdown = true);
    network.run_for(MINUTE);
    assert_eq!(local_prefs(&mut network), [Some(0), Some(100), Some(100)]);
    // With the reflector as next hop its clients' packets go through it.
    network.change(0, |c| {
        c.peers.iter_mut().for_each(|peer| peer.next_hop = NextHopMode::Ourselves);
    });
    network.run_for(MINUTE);
    assert_eq!(local_prefs(&mut network), [Some(0); 3]);
    network.change(0, |c| c.graceful_shutdown = false);
    network.run_for(MINUTE);
    assert_eq!(local_prefs(&mut network), [Some(100); 3]);
    assert_eq!(network.neighbor(0, 2).counters.established, 1);
}
