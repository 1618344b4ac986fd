//! Reconfiguration while sessions are up.

use super::*;

use crate::config::{NextHopMode, Password, TcpAo, TcpAoAlgorithm, TcpAoKey};
use crate::policy::{Action, Changes, Policy, PrefixMatch, Rule};
use crate::speaker::Effect;

#[test]
fn networks_come_and_go_without_touching_a_session() {
    let mut network = mesh(1, &[65001, 65002]);
    network.run_for(MINUTE);
    let report = network.change(0, |c| c.networks = own(&["10.1.0.0/26", "fd00:1::/122"]));
    assert_eq!(report.changes.len(), 2);
    assert!(report.changes.iter().all(|c| c.effect == Effect::Added));
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.routes(1).len(), 2);
    let report = network.change(0, |c| c.networks[0].med = Some(5));
    assert_eq!(report.changes[0].effect, Effect::ReEvaluated);
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.route(1, "10.1.0.0/26").unwrap().paths[0].attributes.med, Some(5));
    let report = network.change(0, |c| c.networks.clear());
    assert!(report.changes.iter().all(|c| c.effect == Effect::Removed));
    network.run_for(Duration::from_secs(1));
    assert!(network.routes(1).is_empty());
    assert!(network.change(0, |_| {}).changes.is_empty(), "nothing changed");
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
}

#[test]
fn an_export_policy_sends_differences_only() {
    let mut network = mesh(2, &[65001, 65002, 65003]);
    let prefixes: Vec<String> = (0..100).map(|n| format!("10.1.{n}.0/24")).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    network.change(0, |c| c.networks = own(&prefixes));
    network.run_for(MINUTE);
    let updates = network.neighbor(0, 1).counters.updates_sent;
    let others = network.neighbor(0, 2).counters.updates_sent;
    let report = network.change(0, |c| {
        c.peers[0].export =
            Some(Policy::accept_only(vec![PrefixMatch::inside(net("10.1.0.0/18"))]));
    });
    assert_eq!(report.changes[0].effect, Effect::ReEvaluated);
    assert_eq!(report.changes[0].fields, ["export"]);
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.neighbor(1, 0).families[0].received, 64);
    assert_eq!(network.neighbor(0, 1).families[0].advertised, 64);
    let sent = network.neighbor(0, 1).counters.updates_sent - updates;
    assert_eq!(sent, 1, "one UPDATE withdraws the 36 others");
    assert_eq!(network.neighbor(0, 2).counters.updates_sent, others, "the other hears nothing");
    network.change(0, |c| c.peers[0].export = None);
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.neighbor(1, 0).families[0].received, 100);
    assert_eq!(network.core(0).status().update_groups, 2, "one policy, one group");
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
}

#[test]
fn an_import_policy_needs_no_refresh() {
    let mut network = mesh(3, &[65001, 65002]);
    network.change(1, |c| c.networks = own(&["10.2.0.0/26", "10.3.0.0/26"]));
    network.run_for(MINUTE);
    let received = network.neighbor(0, 1).counters.messages_received;
    network.change(0, |c| {
        c.peers[0].import = Some(Policy {
            rules: vec![
                Rule {
                    prefixes: Some(vec![PrefixMatch::equal(net("10.2.0.0/26"))]),
                    action: Action::Reject,
                    ..Rule::default()
                },
                Rule {
                    set: Changes { local_pref: Some(50), ..Changes::default() },
                    ..Rule::default()
                },
            ],
            default: Action::Accept,
        });
    });
    assert!(network.used(0, "10.2.0.0/26").is_empty());
    let route = network.route(0, "10.2.0.0/26").unwrap();
    assert_eq!(route.paths[0].reason, crate::speaker::Reason::ImportPolicy);
    assert!(route.next_hops.is_empty());
    assert_eq!(network.route(0, "10.3.0.0/26").unwrap().paths[0].attributes.local_pref, Some(50));
    let status = network.neighbor(0, 1);
    assert_eq!((status.families[0].received, status.families[0].accepted), (2, 1));
    network.change(0, |c| c.peers[0].import = None);
    assert_eq!(network.used(0, "10.2.0.0/26"), ["n1"]);
    assert_eq!(network.route(0, "10.3.0.0/26").unwrap().paths[0].attributes.local_pref, None);
    assert_eq!(network.neighbor(0, 1).counters.messages_received, received);
}

fn ao() -> TcpAo {
    let (algorithm, key) = (TcpAoAlgorithm::HmacSha1, Password::new("k"));
    TcpAo { keys: vec![TcpAoKey { send_id: 1, recv_id: 2, algorithm, key }] }
}

#[test]
fn what_the_open_says_resets_the_session_and_nothing_else_does() {
    type Edit = fn(&mut Config);
    let cases: [(Edit, Effect); 21] = [
        (|c| c.peers[0].description = "x".into(), Effect::Live),
        (|c| c.peers[0].hold_time = 30, Effect::NextSession),
        (|c| c.peers[0].keepalive_time = Some(5), Effect::Live),
        (|c| c.peers[0].send_hold_time = Some(100), Effect::Live),
        (|c| c.peers[0].connect_retry_time = 7, Effect::Live),
        (|c| c.peers[0].restart_time = Some(7), Effect::NextSession),
        (|c| c.peers[0].passive = true, Effect::Live),
        (|c| c.peers[0].port = 1179, Effect::NextSession),
        (|c| c.peers[0].password = Some(Password::new("k")), Effect::Live),
        (|c| c.peers[0].ttl_security = Some(1), Effect::Live),
        (|c| c.peers[0].next_hop = NextHopMode::Keep, Effect::ReEvaluated),
        (|c| c.peers[0].allowas_in = 1, Effect::ReEvaluated),
        (|c| c.peers[0].enforce_first_as = false, Effect::ReEvaluated),
        (|c| c.peers[0].as_override = true, Effect::ReEvaluated),
        (|c| c.peers[0].honor_graceful_shutdown = false, Effect::ReEvaluated),
        (|c| c.peers[0].graceful_shutdown = true, Effect::ReEvaluated),
        (|c| c.peers[0].role = Some(crate::wire::Role::Peer), Effect::SessionReset),
        (|c| c.peers[0].families = vec![crate::Family::Ipv4Unicast], Effect::SessionReset),
        (|c| c.peers[0].tcp_ao = Some(ao()), Effect::SessionReset),
        (|c| c.peers[0].source_interface = Some("eth0".into()), Effect::SessionReset),
        (|c| c.peers[0].local_asn = Some(65001), Effect::SessionReset),
    ];
    for (at, (edit, effect)) in cases.into_iter().enumerate() {
        let mut network = mesh(4, &[65001, 65002]);
        network.run_for(MINUTE);
        let report = network.change(0, edit);
        assert_eq!(report.changes.len(), 1, "case {at}");
        assert_eq!(report.changes[0].effect, effect, "case {at}: {report:?}");
        network.run_for(MINUTE);
        let status = network.neighbor(0, 1);
        assert_eq!(status.state, State::Established, "case {at}");
        let resets = u64::from(effect == Effect::SessionReset);
        assert_eq!(status.counters.established, 1 + resets, "case {at}");
    }
}

#[test]
fn peers_are_added_removed_and_shut_down() {
    let mut network = mesh(5, &[65001, 65002, 65003]);
    network.change(1, |c| c.networks = own(&["10.2.0.0/26"]));
    network.run_for(MINUTE);
    let report = network.change(0, |c| c.peers.retain(|p| p.name != "n1"));
    assert_eq!(report.changes[0].effect, Effect::Removed);
    network.run_for(Duration::from_secs(1));
    let reason = network.neighbor(1, 0).last_down.unwrap().reason.to_string();
    assert!(reason.contains("Peer De-configured"), "{reason}");
    assert_eq!(network.used(0, "10.2.0.0/26"), ["n2"]);
    let report = network.change(0, |c| c.peers.push(peer(0, 1, 65002)));
    assert_eq!(report.changes[0].effect, Effect::Added);
    network.run_for(MINUTE);
    assert_eq!(network.used(0, "10.2.0.0/26"), ["n1"]);

    network.change(0, |c| c.peers[1].shutdown = Some("till Monday".into()));
    network.run_for(MINUTE);
    let status = network.neighbor(0, 1);
    assert!(status.shutdown && status.state == State::Idle);
    let reason = network.neighbor(1, 0).last_down.unwrap().reason.to_string();
    assert!(!network.is_up(1, 0), "{reason}");
    assert_eq!(network.used(0, "10.2.0.0/26"), ["n2"]);
    network.change(0, |c| c.peers[1].shutdown = None);
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1));
    assert_eq!(network.neighbor(0, 2).counters.established, 1, "the other was left alone");
}

#[test]
fn a_renamed_peer_keeps_its_session() {
    let mut network = mesh(19, &[65001, 65002, 65003]);
    network.change(1, |c| c.networks = own(&["10.2.0.0/26"]));
    network.run_for(MINUTE);
    let report = network.change(0, |c| {
        let peer = c.peers.iter_mut().find(|p| p.name == "n1").unwrap();
        peer.name = "reflector".into();
        peer.description = "as before".into();
    });
    let effects: Vec<_> = report.changes.iter().map(|c| (&*c.fields, c.effect)).collect();
    assert_eq!(effects, [(&["name"][..], Effect::Live), (&["description"], Effect::Live)]);
    network.run_for(MINUTE);
    let now = network.now;
    let all = network.core(0).neighbor_statuses(now);
    let status = all.into_iter().find(|n| n.name == "reflector").unwrap();
    assert_eq!((status.state, status.counters.established), (State::Established, 1));
    assert_eq!(network.used(0, "10.2.0.0/26"), ["reflector"]);
}

#[test]
fn a_new_identity_resets_everybody() {
    let mut network = mesh(6, &[65001, 65002, 65003]);
    network.run_for(MINUTE);
    let report = network.change(0, |c| c.router_id = Ipv4Addr::new(9, 9, 9, 9));
    assert_eq!(report.changes[0].effect, Effect::SessionReset);
    network.run_for(MINUTE);
    for other in [1, 2] {
        assert_eq!(network.neighbor(0, other).counters.established, 2);
        let session = network.neighbor(other, 0).session.unwrap();
        assert_eq!(session.router_id, Ipv4Addr::new(9, 9, 9, 9));
    }
}

#[test]
fn next_hops_towards_internal_peers() {
    // 0 is external to 1; 1 and 2 are one AS.
    let mut network = mesh(7, &[65001, 65002, 65002]);
    network.change(0, |c| c.peers.retain(|p| p.name == "n1"));
    network.change(2, |c| c.peers.retain(|p| p.name == "n1"));
    network.change(0, |c| c.networks = own(&["10.1.0.0/26"]));
    network.change(1, |c| c.networks = own(&["10.2.0.0/26"]));
    network.run_for(MINUTE);
    let hop = |n: &mut Network, at, prefix: &str| n.route(at, prefix).unwrap().next_hops[0].addr;
    assert_eq!(hop(&mut network, 2, "10.1.0.0/26"), address(0), "kept inside the AS");
    assert_eq!(hop(&mut network, 2, "10.2.0.0/26"), address(1), "our own is our own");
    let route = network.route(2, "10.1.0.0/26").unwrap();
    assert_eq!(route.paths[0].attributes.local_pref, Some(100));
    assert_eq!(route.paths[0].attributes.as_path, "65001");
    network.change(1, |c| {
        c.peers.iter_mut().find(|p| p.name == "n2").unwrap().next_hop = NextHopMode::Ourselves;
    });
    network.run_for(Duration::from_secs(1));
    assert_eq!(hop(&mut network, 2, "10.1.0.0/26"), address(1));
    // Towards an external peer it is ourselves, unless kept.
    assert_eq!(hop(&mut network, 0, "10.2.0.0/26"), address(1));
}

#[test]
fn our_own_as_in_a_path_is_refused_unless_allowed() {
    // Two sites of one AS with another AS between.
    let mut network = mesh(8, &[65001, 65002, 65001]);
    network.change(0, |c| c.peers.retain(|p| p.name == "n1"));
    network.change(2, |c| c.peers.retain(|p| p.name == "n1"));
    network.change(2, |c| c.networks = own(&["10.2.0.0/26"]));
    network.run_for(MINUTE);
    let route = network.route(0, "10.2.0.0/26").unwrap();
    assert_eq!(route.paths[0].reason, crate::speaker::Reason::AsPathLoop);
    assert!(route.next_hops.is_empty());
    network.change(0, |c| c.peers[0].allowas_in = 1);
    assert_eq!(network.used(0, "10.2.0.0/26"), ["n1"]);
}

#[test]
fn communities_bound_how_far_a_route_goes() {
    // 0 - 1 external, 1 - 2 internal, 1 - 3 external.
    let mut network = mesh(9, &[65001, 65002, 65002, 65003]);
    for at in [0, 2, 3] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n1"));
    }
    network.change(0, |c| {
        c.networks = own(&["10.1.0.0/26", "10.1.0.64/26", "10.1.0.128/26"]);
        c.networks[1].communities = vec![crate::wire::Community::NO_EXPORT];
        c.networks[2].communities = vec![crate::wire::Community::NO_ADVERTISE];
    });
    network.run_for(MINUTE);
    // The originator obeys its own communities: NO_EXPORT routes do not leave to external peers.
    assert_eq!(network.routes(1).len(), 1);
    network.change(0, |c| {
        c.networks.iter_mut().for_each(|n| n.communities.clear());
        let community = |text: &str, prefix: &str| Rule {
            prefixes: Some(vec![PrefixMatch::equal(net(prefix))]),
            set: Changes { add_communities: vec![text.parse().unwrap()], ..Changes::default() },
            ..Rule::default()
        };
        c.peers[0].export = Some(Policy {
            rules: vec![
                community("no-export", "10.1.0.64/26"),
                community("no-advertise", "10.1.0.128/26"),
            ],
            default: Action::Accept,
        });
    });
    network.run_for(Duration::from_secs(5));
    assert_eq!(network.routes(1).len(), 3, "added on the way out they bind the receiver");
    assert_eq!(network.routes(2).len(), 2);
    assert_eq!(network.routes(3).len(), 1);
}

#[test]
fn forwarding_changes_wait_once_per_prefix() {
    let mut network = mesh(10, &[65001, 65002, 65003]);
    for at in [1, 2] {
        network.change(at, |c| c.networks = own(&["10.9.0.0/16"]));
    }
    network.run_for(MINUTE);
    let wake = std::sync::Arc::new(tokio::sync::Notify::new());
    let fib = network.core(0).subscribe(wake);
    let take = |n: &mut Network, max| n.core(0).take_deltas(fib, max).unwrap();
    let batch = take(&mut network, 10);
    assert!(batch.converged && !batch.more);
    assert_eq!(batch.deltas.len(), 1);
    assert_eq!(batch.deltas[0].next_hops.len(), 2);
    assert_eq!(network.core(0).status().fib_unacknowledged, 1);
    network.core(0).acknowledge(fib, batch.sequence);
    assert_eq!(network.core(0).status().fib_unacknowledged, 0);

    // Away and back again: nothing new, but the latest is told. Away for good: told once.
    for _ in 0..5 {
        network.change(1, |c| c.networks.clear());
        network.run_for(Duration::from_secs(1));
        network.change(1, |c| c.networks = own(&["10.9.0.0/16"]));
        network.run_for(Duration::from_secs(1));
    }
    assert_eq!(network.core(0).status().fib_pending, 1);
    assert_eq!(take(&mut network, 10).deltas[0].next_hops.len(), 2);
    for at in [1, 2] {
        network.change(at, |c| c.networks = own(&["10.8.0.0/16"]));
    }
    network.run_for(Duration::from_secs(1));
    let batch = take(&mut network, 1);
    assert!(batch.more, "one at a time");
    let mut deltas = batch.deltas;
    deltas.extend(take(&mut network, 10).deltas);
    deltas.sort_by_key(|d| d.prefix);
    assert_eq!(deltas[0].prefix, net("10.8.0.0/16"));
    assert_eq!(deltas[0].next_hops.len(), 2);
    assert!(deltas[1].prefix == net("10.9.0.0/16") && deltas[1].next_hops.is_empty());

    // A route that came and went between two takes was never there.
    network.change(1, |c| c.networks.push(OwnNetwork::new(net("10.7.0.0/16"))));
    network.run_for(Duration::from_secs(1));
    network.change(1, |c| c.networks.retain(|n| n.prefix != net("10.7.0.0/16")));
    network.run_for(Duration::from_secs(1));
    assert!(take(&mut network, 10).deltas.is_empty());
    // A new subscriber starts with everything.
    let other = network.core(0).subscribe(std::sync::Arc::default());
    assert_eq!(network.core(0).take_deltas(other, 10).unwrap().deltas.len(), 1);
    network.core(0).unsubscribe(other);
    assert!(network.core(0).take_deltas(other, 10).is_none());
}

#[test]
fn a_refresh_brings_everything_again() {
    let mut network = mesh(11, &[65001, 65002]);
    network.change(1, |c| c.networks = own(&["10.2.0.0/26", "fd00:2::/122"]));
    network.run_for(MINUTE);
    let updates = network.neighbor(0, 1).counters.updates_received;
    // Asks for a refresh, because refused routes of this kind are not kept.
    network.change(0, |c| c.peers[0].enforce_first_as = false);
    network.run_for(Duration::from_secs(1));
    assert_eq!(network.neighbor(0, 1).counters.updates_received, updates + 2);
    assert_eq!(network.routes(0).len(), 2);
    assert_eq!(network.core(1).status().update_groups, 2);
}

/// RFC 7606 section 7.11: an MP_REACH_NLRI that cannot be parsed disables its family; what the
/// same UPDATE announces of it otherwise is not taken in either.
#[test]
fn a_disabled_family_stays_empty() {
    let mut network = mesh(12, &[65001, 65002]);
    network.change(1, |c| c.networks = own(&["10.2.0.0/26", "fd00:2::/122"]));
    network.run_for(MINUTE);
    let mut attributes = Vec::new();
    for (flags, kind, value) in [
        (0x40, 1, &[0][..]),
        (0x40, 2, &[2, 1, 0, 0, 0xfd, 0xea]),
        (0x40, 3, &[192, 0, 0, 2]),
        // IPv4 unicast, a next hop, and a prefix of 33 bits.
        (0x80, 14, &[0, 1, 1, 4, 192, 0, 0, 2, 0, 33, 10, 9, 0, 0, 0]),
    ] {
        crate::wire::attributes::push(&mut attributes, flags, kind, value);
    }
    let len = |octets: usize| u16::try_from(octets).unwrap().to_be_bytes();
    let body = [&[0, 0], &len(attributes.len())[..], &attributes, &[24, 10, 9, 9]].concat();
    let message = [&[0xff; 16][..], &len(19 + body.len()), &[2], &body].concat();
    let now = network.now;
    let conn = network.core(0).connections_of("n1")[0];
    network.core(0).received(now, conn, &message);
    network.run_for(Duration::from_secs(1));
    assert!(network.is_up(0, 1), "{:?}", network.neighbor(0, 1).last_down);
    let prefixes: Vec<String> = network.routes(0).iter().map(|r| r.prefix.to_string()).collect();
    assert_eq!(prefixes, ["fd00:2::/122"]);
    assert_eq!(network.neighbor(0, 1).families[0].received, 0);
    network.change(0, |c| c.networks = own(&["10.1.0.0/26", "fd00:1::/122"]));
    network.run_for(MINUTE);
    let mut said = |prefix: &str| advertised::said(&mut network, 0, prefix, 1);
    assert_eq!(
        (said("10.1.0.0/26"), said("fd00:1::/122")),
        ("family-disabled".into(), "told".into())
    );
}

/// RFC 4271 wants a new session for none of these: no OPEN says anything of them.
#[test]
fn another_cluster_is_told_and_judged_without_a_new_session() {
    let mut network = mesh(13, &[65001; 3]);
    for at in [1, 2] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n0"));
    }
    network.change(0, |c| c.peers.iter_mut().for_each(|p| p.route_reflector_client = true));
    network.change(1, |c| c.networks = own(&["10.1.0.0/26", "fd00:1::/122"]));
    network.run_for(MINUTE);
    let told = |n: &mut Network, prefix: &str| n.route(2, prefix).unwrap().paths[0].clone();
    let before = network.neighbor(0, 2).counters.established;
    for cluster in [Some(Ipv4Addr::new(9, 9, 9, 9)), None] {
        let report = network.change(0, |c| c.cluster_id = cluster);
        let [change] = &report.changes[..] else { panic!("{report:?}") };
        assert_eq!((&change.fields[..], change.effect), (&["cluster-id"][..], Effect::ReEvaluated));
        network.run_for(Duration::from_secs(1));
        let wanted = cluster.unwrap_or(Ipv4Addr::new(192, 0, 0, 1));
        for prefix in ["10.1.0.0/26", "fd00:1::/122"] {
            assert_eq!(told(&mut network, prefix).attributes.clusters, [wanted]);
        }
    }
    // What the others reflected in the cluster of this one is a loop, and none in another.
    network.change(2, |c| c.cluster_id = Some(Ipv4Addr::new(192, 0, 0, 1)));
    let route = told(&mut network, "10.1.0.0/26");
    assert_eq!(route.reason, crate::speaker::Reason::ClusterLoop);
    network.change(2, |c| c.cluster_id = None);
    assert_eq!(network.used(2, "10.1.0.0/26"), ["n0"]);
    assert_eq!(network.neighbor(0, 2).counters.established, before);
    assert_eq!(network.neighbor(2, 0).counters.established, before);
}

#[test]
fn a_client_comes_and_goes_without_a_new_session() {
    let mut network = mesh(14, &[65001; 4]);
    for at in [1, 2, 3] {
        network.change(at, |c| {
            c.peers.retain(|p| p.name == "n0");
            c.networks = own(&[&format!("10.{at}.0.0/26"), &format!("fd00:{at}::/122")]);
        });
    }
    network.run_for(MINUTE);
    let knows = |n: &mut Network, at| n.routes(at).len() / 2;
    assert_eq!([1, 2, 3].map(|at| knows(&mut network, at)), [1; 3]);
    for _ in 0..2 {
        for (client, known) in [(true, [3, 2, 2]), (false, [1; 3])] {
            let report = network.change(0, |c| c.peers[0].route_reflector_client = client);
            let [change] = &report.changes[..] else { panic!("{report:?}") };
            assert_eq!(change.effect, Effect::ReEvaluated);
            network.run_for(Duration::from_secs(1));
            assert_eq!([1, 2, 3].map(|at| knows(&mut network, at)), known, "{client}");
        }
    }
    for other in [1, 2, 3] {
        assert_eq!(network.neighbor(0, other).counters.established, 1);
    }
}

/// Only who is told another AS number, or is of another kind now, starts anew.
#[test]
fn a_confederation_changes_for_those_whom_it_concerns() {
    // 1 is within, 2 of another member from the third step on, 3 outside.
    let mut network = mesh(15, &[65001, 65001, 65002, 65003]);
    for at in [1, 2, 3] {
        network.change(at, |c| c.peers.retain(|p| p.name == "n0"));
    }
    network.run_for(MINUTE);
    let of = |identifier, members: &[u32]| {
        Some(crate::config::Confederation { identifier, members: members.to_vec() })
    };
    let established = |n: &mut Network| [1, 2, 3].map(|o| n.neighbor(0, o).counters.established);
    let mut change = |confederation, effect, wanted| {
        let report = network.change(0, |c| c.confederation = confederation);
        let [change] = &report.changes[..] else { panic!("{report:?}") };
        assert_eq!((&change.fields[..], change.effect), (&["confederation"][..], effect));
        // The others follow.
        let whole = network.nodes[0].config.confederation.clone();
        network.change(1, |c| c.confederation = whole.clone());
        for (at, asn) in [(2, 65002), (3, 65003)] {
            let inside = whole.as_ref().is_some_and(|c| c.members.contains(&asn));
            network.change(at, |c| {
                let outside = whole.as_ref().map_or(65001, |c| c.identifier);
                c.peers[0].asn = if inside { 65001 } else { outside }.into();
                c.confederation = whole.clone().filter(|_| inside);
                if let Some(confederation) = &mut c.confederation {
                    confederation.members = vec![65001];
                }
            });
        }
        network.run_for(2 * MINUTE);
        assert_eq!(established(&mut network), wanted);
    };
    change(of(1000, &[]), Effect::SessionReset, [1, 2, 2]);
    change(of(1000, &[65099]), Effect::ReEvaluated, [1, 2, 2]);
    change(of(1000, &[65099, 65002]), Effect::SessionReset, [1, 3, 2]);
    change(of(1000, &[65002]), Effect::ReEvaluated, [1, 3, 2]);
    change(of(2000, &[65002]), Effect::SessionReset, [1, 3, 3]);
    change(None, Effect::SessionReset, [1, 4, 4]);
}
