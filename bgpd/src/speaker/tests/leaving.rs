//! What is done to routes between ASes beside policies: AS numbers hidden or replaced, roles, and
//! the announcement that a session is about to end.

use super::*;
use crate::config::{LocalAs, RemovePrivateAs};
use crate::speaker::{Effect, PathStatus, Reason};
use crate::wire::{Community, Role};

/// The path of a node to a prefix from a neighbor.
fn path(network: &mut Network, at: usize, prefix: &str, from: usize) -> Option<PathStatus> {
    let name = format!("n{from}");
    let paths = network.route(at, prefix)?.paths;
    paths.into_iter().find(|p| p.neighbor.as_deref() == Some(&*name))
}

/// A chain: node 0 - 1 - 2 - ..., of these ASes; node 0 announces 10.0.0.0/26.
fn chain(seed: u64, asns: &[u32]) -> Network {
    let mut network = mesh(seed, asns);
    for at in 0..asns.len() {
        network.change(at, |c| {
            c.peers.retain(|p| {
                p.name == format!("n{}", at + 1) || p.name == format!("n{}", at.wrapping_sub(1))
            });
        });
    }
    network.change(0, |c| c.networks = own(&["10.0.0.0/26"]));
    network.run_for(MINUTE);
    network
}

fn edit(network: &mut Network, at: usize, to: usize, f: impl FnOnce(&mut PeerConfig)) {
    let report = network.change(at, |c| {
        f(c.peers.iter_mut().find(|p| p.name == format!("n{to}")).unwrap());
    });
    assert!(report.changes.iter().all(|c| c.effect == Effect::ReEvaluated), "{report:?}");
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.neighbor(at, to).counters.established, 1);
}

#[test]
fn sites_of_one_as_reach_each_other_through_another_that_overrides_it() {
    let mut network = chain(50, &[65001, 65000, 65001]);
    let refused = path(&mut network, 2, "10.0.0.0/26", 1).unwrap();
    assert_eq!((refused.reason, &*refused.attributes.as_path), (Reason::AsPathLoop, "65000 65001"));
    edit(&mut network, 1, 2, |p| p.as_override = true);
    let taken = path(&mut network, 2, "10.0.0.0/26", 1).unwrap();
    assert_eq!((taken.used, &*taken.attributes.as_path), (true, "65000 65000"));
    edit(&mut network, 1, 2, |p| p.as_override = false);
    assert!(!path(&mut network, 2, "10.0.0.0/26", 1).unwrap().used);
}

#[test]
fn private_as_numbers_can_be_hidden_from_a_peer() {
    let mut network = chain(51, &[64512, 1000, 2000]);
    let shown = |n: &mut Network| path(n, 2, "10.0.0.0/26", 1).unwrap().attributes.as_path;
    assert_eq!(shown(&mut network), "1000 64512");
    edit(&mut network, 1, 2, |p| p.remove_private_as = RemovePrivateAs::All);
    assert_eq!(shown(&mut network), "1000");
    edit(&mut network, 1, 2, |p| p.remove_private_as = RemovePrivateAs::Replace);
    assert_eq!(shown(&mut network), "1000 1000");
}

#[test]
fn an_as_number_for_one_peer_shows_where_it_is_wanted() {
    // Node 1 is AS 3000 to node 0 only.
    let mut network = chain(52, &[1000, 2000, 4000]);
    network.change(1, |c| c.networks = own(&["10.1.0.0/26"]));
    network.change(1, |c| c.peers[0].local_asn = Some(3000));
    network.change(0, |c| c.peers[0].asn = 3000.into());
    network.run_for(MINUTE);
    let both = |n: &mut Network| {
        let told = path(n, 0, "10.1.0.0/26", 1).unwrap().attributes.as_path;
        (told, path(n, 2, "10.0.0.0/26", 1).unwrap().attributes.as_path)
    };
    assert_eq!(both(&mut network), ("3000".into(), "2000 1000".into()));
    let resets = network.neighbor(1, 0).counters.established;
    for (no_prepend, replace_as, wanted) in [
        (false, true, ("3000", "2000 3000 1000")),
        (false, false, ("3000 2000", "2000 3000 1000")),
        (true, false, ("3000 2000", "2000 1000")),
    ] {
        network.change(1, |c| c.peers[0].local_as = LocalAs { no_prepend, replace_as });
        network.run_for(Duration::from_secs(1));
        assert_eq!(both(&mut network), (wanted.0.into(), wanted.1.into()));
    }
    assert_eq!(network.neighbor(1, 0).counters.established, resets);
}

#[test]
fn a_route_from_above_goes_to_customers_only() {
    // 0 is the provider of 1, which is a customer also of 2, and a peer of 3.
    let mut network = mesh(53, &[1000, 2000, 3000, 4000]);
    for at in [0, 2, 3] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n1"));
    }
    network.change(0, |c| c.networks = own(&["10.0.0.0/26"]));
    network.run_for(MINUTE);
    assert!(path(&mut network, 2, "10.0.0.0/26", 1).is_some(), "a leak, without roles");
    for (other, role) in [(0, Role::Customer), (2, Role::Customer), (3, Role::Peer)] {
        network.change(1, |c| {
            c.peers.iter_mut().find(|p| p.name == format!("n{other}")).unwrap().role = Some(role);
        });
        network.change(other, |c| c.peers[0].role = Some(role.opposite()));
    }
    network.run_for(MINUTE);
    assert_eq!(network.used(1, "10.0.0.0/26"), ["n0"]);
    assert!(path(&mut network, 2, "10.0.0.0/26", 1).is_none());
    assert!(path(&mut network, 3, "10.0.0.0/26", 1).is_none());
    let session = network.neighbor(1, 0).session.unwrap();
    assert_eq!(session.peer_role, Some(Role::Provider));
    // One that leaks all the same is found out by those who have a role: 1 forgets its own.
    for at in [0, 2, 3] {
        network.change(1, |c| {
            let peer = c.peers.iter_mut().find(|p| p.name == format!("n{at}")).unwrap();
            peer.role = None;
        });
    }
    network.run_for(MINUTE);
    for at in [2, 3] {
        let leak = path(&mut network, at, "10.0.0.0/26", 1).unwrap();
        assert_eq!((leak.reason, leak.used), (Reason::RouteLeak, false), "{at}");
    }
}

#[test]
fn roles_that_do_not_fit_make_no_session() {
    let mut network = chain(54, &[1000, 2000]);
    let role = |network: &mut Network, at: usize, role, strict| {
        network.change(at, |c| (c.peers[0].role, c.peers[0].role_strict) = (role, strict));
        network.run_for(2 * MINUTE);
    };
    role(&mut network, 0, Some(Role::Provider), false);
    assert!(network.is_up(0, 1), "the other says nothing");
    role(&mut network, 1, Some(Role::Provider), false);
    assert!(!network.is_up(0, 1));
    let reasons: Vec<String> = [(0, 1), (1, 0)]
        .map(|(at, other)| network.neighbor(at, other).last_error.unwrap().reason.to_string())
        .to_vec();
    assert!(reasons.iter().any(|r| r.contains("Role Mismatch (2/11)")), "{reasons:?}");
    role(&mut network, 1, Some(Role::Customer), true);
    assert!(network.is_up(0, 1));
    role(&mut network, 0, None, false);
    assert!(!network.is_up(0, 1), "strict");
    role(&mut network, 1, Some(Role::Customer), false);
    assert!(network.is_up(0, 1));
}

/// RFC 8326.
#[test]
fn traffic_moves_away_from_a_session_before_it_ends() {
    // 0 reaches the network of 3 by way of 1 and 2; 4 is internal to 1.
    let mut network = mesh(55, &[1000, 2000, 3000, 4000, 2000]);
    for (at, with) in [(0, &["n1", "n2"][..]), (3, &["n1", "n2"]), (4, &["n1"])] {
        network.change(at, |c| c.peers.retain(|p| with.contains(&&*p.name)));
    }
    network.change(1, |c| c.peers.retain(|p| p.name != "n2"));
    network.change(2, |c| c.peers.retain(|p| ["n0", "n3"].contains(&&*p.name)));
    network.change(3, |c| c.networks = own(&["10.3.0.0/26"]));
    network.change(0, |c| c.networks = own(&["10.0.0.0/26"]));
    network.run_for(MINUTE);
    assert_eq!(network.used(0, "10.3.0.0/26"), ["n1", "n2"]);

    let report = network.change(1, |c| c.graceful_shutdown = true);
    assert!(report.changes.iter().all(|c| c.effect == Effect::ReEvaluated), "{report:?}");
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.used(0, "10.3.0.0/26"), ["n2"]);
    let drained = path(&mut network, 0, "10.3.0.0/26", 1).unwrap();
    assert_eq!((drained.attributes.local_pref, drained.reason), (Some(0), Reason::LocalPref));
    assert_eq!(drained.attributes.communities, [Community::GRACEFUL_SHUTDOWN]);
    assert_eq!(network.used(3, "10.0.0.0/26"), ["n2"]);
    let inside = path(&mut network, 4, "10.3.0.0/26", 1).unwrap();
    assert_eq!((inside.attributes.local_pref, inside.attributes.communities.len()), (Some(0), 0));
    assert!(network.neighbor(1, 0).graceful_shutdown);
    // The receiver may see it otherwise.
    edit(&mut network, 0, 1, |p| p.honor_graceful_shutdown = false);
    assert_eq!(network.used(0, "10.3.0.0/26"), ["n1", "n2"]);
    network.change(1, |c| c.graceful_shutdown = false);
    network.run_for(Duration::from_secs(1));
    assert!(path(&mut network, 0, "10.3.0.0/26", 1).unwrap().attributes.communities.is_empty());

    // One session of many; what comes over it is the last choice here, too.
    edit(&mut network, 1, 3, |p| p.graceful_shutdown = true);
    assert_eq!(path(&mut network, 1, "10.3.0.0/26", 3).unwrap().attributes.local_pref, Some(0));
    assert_eq!(network.used(3, "10.0.0.0/26"), ["n2"]);
    assert_eq!(path(&mut network, 4, "10.3.0.0/26", 1).unwrap().attributes.local_pref, Some(0));
    for (at, other) in [(0, 1), (1, 3), (1, 0), (1, 4)] {
        assert_eq!(network.neighbor(at, other).counters.established, 1);
    }
}
