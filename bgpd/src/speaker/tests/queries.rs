//! What one sees from outside: routes by query, why they are what they are, neighbors in full.

use super::*;
use crate::rib::Reason;
use crate::speaker::status::Cursor;
use crate::speaker::{Core, PrefixMatch};
use crate::wire::{Community, Family};

/// The prefixes that a query finds on a node.
fn found(network: &mut Network, at: usize, query: RouteQuery) -> Vec<String> {
    network.core(at).routes(&query).iter().map(|route| route.prefix.to_string()).collect()
}

/// Nodes 0 to 2 of three ASes; 1 and 2 both announce 10.0.0.0/8, and each something of its own.
fn triangle() -> Network {
    let mut network = mesh(7, &[65001, 65002, 65003]);
    network.change(1, |c| {
        c.networks = own(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "fd00:1::/32"]);
        c.networks[1].communities = vec![Community(65002 << 16 | 7)];
        c.networks[1].large_communities = vec![crate::wire::LargeCommunity([65002, 1, 2])];
    });
    network.change(2, |c| c.networks = own(&["10.0.0.0/8", "192.168.0.0/16"]));
    network.run_for(MINUTE);
    network
}

#[test]
fn routes_are_found_by_what_they_are() {
    let mut network = triangle();
    let query = RouteQuery::default;
    let net = |text: &str| Some(net(text));
    let inside =
        RouteQuery { prefix: net("10.1.0.0/16"), matching: PrefixMatch::Longer, ..query() };
    assert_eq!(found(&mut network, 0, inside), ["10.1.0.0/16", "10.1.2.0/24"]);
    let around =
        RouteQuery { prefix: net("10.1.2.3/32"), matching: PrefixMatch::Covering, ..query() };
    assert_eq!(
        found(&mut network, 0, around.clone()),
        ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24"]
    );
    assert_eq!(found(&mut network, 0, RouteQuery { limit: 2, ..around }).len(), 2);
    let exact = RouteQuery { prefix: net("10.1.2.0/25"), ..query() };
    assert!(found(&mut network, 0, exact).is_empty());
    let longest = RouteQuery { address: Some("10.1.3.3".parse().unwrap()), ..query() };
    assert_eq!(found(&mut network, 0, longest), ["10.1.0.0/16"]);
    let tagged = RouteQuery { community: Some(Community(65002 << 16 | 7)), ..query() };
    assert_eq!(found(&mut network, 0, tagged), ["10.1.0.0/16"]);
    let large = crate::wire::LargeCommunity([65002, 1, 2]);
    let tagged = RouteQuery { large_community: Some(large), ..query() };
    assert_eq!(found(&mut network, 0, tagged), ["10.1.0.0/16"]);
    let v6 = RouteQuery { family: Some(Family::Ipv6Unicast), ..query() };
    assert_eq!(found(&mut network, 0, v6), ["fd00:1::/32"]);
    // By the AS that a path ends in, and any that it has: node 2 tells of node 1's as well.
    let of_2 = RouteQuery { origin_as: Some(65003), ..query() };
    assert_eq!(found(&mut network, 0, of_2.clone()), ["10.0.0.0/8", "192.168.0.0/16"]);
    // Both must hold for one path.
    let not_from_1 = RouteQuery { neighbor: Some("n1".into()), ..of_2 };
    assert_eq!(found(&mut network, 0, not_from_1), ["192.168.0.0/16"]);
    let through = RouteQuery { as_number: Some(65002), ..query() };
    assert_eq!(found(&mut network, 0, through).len(), 5, "and what node 1 was told");
    let told = RouteQuery { advertised_to: Some("n2".into()), ..query() };
    assert!(found(&mut network, 0, told).contains(&"10.1.0.0/16".to_owned()));
    let nobody = RouteQuery { neighbor: Some("nobody".into()), ..query() };
    assert!(found(&mut network, 0, nobody).is_empty());
    // Node 0 hears its own prefix back from nobody; what loops is kept with its reason.
    network.change(0, |c| c.networks = own(&["172.16.0.0/12"]));
    network.run_for(MINUTE);
    let longer_way = RouteQuery { reason: Some(Reason::AsPathLength), ..query() };
    assert!(found(&mut network, 0, longer_way).contains(&"10.1.0.0/16".to_owned()));
}

#[test]
fn each_path_says_where_it_lost_and_to_what() {
    let mut network = triangle();
    let prefix = net("10.1.0.0/16");
    let all = network.core(0).explain(prefix, true).unwrap();
    assert_eq!(all.paths.len(), 2, "{all:?}");
    let (best, other) = (&all.paths[0], &all.paths[1]);
    assert!(best.path.best && !other.path.best);
    assert_eq!((best.path.neighbor.as_deref(), best.step.number), (Some("n1"), 4));
    assert_eq!(other.why, "AS_PATH of length 2, the best has 1");
    assert_eq!((other.step.number, other.step.source), (4, "RFC 4271 9.1.2.2 a"));
    assert_eq!(best.peer_address, Some(address(1)));
    assert_eq!(all.advertised_to, ["n2"]);
    assert_eq!(all.next_hops.len(), 1);

    // Equal as far as it matters: both are used, and the one that is told has the lower id.
    let shared = network.core(0).explain(net("10.0.0.0/8"), true).unwrap();
    assert!(shared.paths.iter().all(|p| p.path.used));
    assert!(shared.paths[1].why.starts_with("used beside the best; router id"), "{shared:?}");

    // A path that its policy refuses is said to be that, and an own network goes first.
    network.change(0, |c| c.peers[0].import = Some(crate::policy::Policy::reject()));
    network.change(0, |c| c.networks = own(&["10.0.0.0/8"]));
    network.run_for(MINUTE);
    let refused = network.core(0).explain(prefix, true).unwrap();
    let refused = refused.paths.iter().find(|p| p.path.neighbor.as_deref() == Some("n1")).unwrap();
    assert_eq!((refused.step.number, &*refused.why), (0, "refused by import policy"));
    let own = network.core(0).explain("10.9.9.9/32".parse().unwrap(), false).unwrap();
    assert_eq!(own.prefix, net("10.0.0.0/8"));
    assert_eq!((own.paths[0].peer_address, own.paths[0].step.number), (None, 1));
    assert!(network.core(0).explain(net("11.0.0.0/8"), true).is_none());
}

#[test]
fn a_neighbor_shows_both_opens_and_what_was_said_last() {
    let mut network = triangle();
    let now = network.now;
    let detail = network.core(0).neighbor_detail("n1", now).unwrap();
    let (ours, theirs) = (detail.open_sent.unwrap(), detail.open_received.unwrap());
    assert_eq!((ours.asn, theirs.asn), (65001, 65002));
    assert!(theirs.capabilities.iter().any(|c| c == "multiprotocol ipv6-unicast"), "{theirs:?}");
    assert!(ours.capabilities.contains(&"four-octet-as 65001".to_owned()));
    let said = |received: bool, kind| {
        let mut messages = detail.messages.iter().filter(|m| m.received == received);
        messages.any(|m| m.kind == kind)
    };
    use crate::wire::MessageType::{Keepalive, Open, Update};
    for received in [true, false] {
        assert!(said(received, Open) && said(received, Keepalive) && said(received, Update));
    }
    let counters = detail.status.counters;
    // One more may have gone out on a connection that lost the collision.
    assert!(counters.opens_received >= 1 && counters.opens_sent >= 1, "{counters:?}");
    let c = counters;
    let received = [c.opens_received, c.updates_received, c.keepalives_received];
    let received: u64 = received.iter().sum();
    let others = c.notifications_received + c.route_refreshes_received;
    assert_eq!(c.messages_received, received + others);
    let sent: u64 = [c.opens_sent, c.updates_sent, c.keepalives_sent].iter().sum();
    assert_eq!(c.messages_sent, sent + c.notifications_sent + c.route_refreshes_sent);

    // After the end one still sees what the end was.
    network.stop(1, Some(&crate::wire::Notification::communication(2, "bye", "")));
    network.run_for(Duration::from_secs(1));
    let now = network.now;
    let detail = network.core(0).neighbor_detail("n1", now).unwrap();
    assert_eq!((detail.status.counters.established, detail.status.counters.dropped), (1, 1));
    let last = detail.messages.iter().rfind(|m| m.received).unwrap();
    assert!(last.summary.contains("\"bye\""), "{last:?}");
    assert!(network.core(0).neighbor_detail("nobody", now).is_none());
    serde_json::to_string(&detail).unwrap();
}

#[test]
fn a_large_table_is_answered_in_slices_while_it_changes() {
    const ROUTES: u32 = 100_000;
    let mut config = config(0, 65001);
    let prefix = |n: u32| IpNet::new(Ipv4Addr::from(0x0a00_0000 + (n << 4)).into(), 28).unwrap();
    config.networks = (0..ROUTES).map(|n| OwnNetwork::new(prefix(n))).collect();
    let mut core = Core::new(config.clone(), Duration::ZERO, 1);
    while core.work(Duration::ZERO) {}
    let query = RouteQuery::default();
    let mut seen = std::collections::HashSet::new();
    let (mut next, mut slices) = (Some(Cursor::default()), 0);
    while let Some(cursor) = next {
        let (routes, cursor) = core.route_slice(&query, cursor);
        assert!(routes.len() <= 512, "{}", routes.len());
        for route in routes {
            assert!(seen.insert(route.prefix), "{} is there twice", route.prefix);
        }
        next = cursor;
        slices += 1;
        if slices == 10 {
            // Half of them go, others come in their places.
            config.networks.truncate(ROUTES as usize / 2);
            let new = (0..1000).map(|n| OwnNetwork::new(prefix(ROUTES + n)));
            config.networks.extend(new);
            core.apply(Duration::ZERO, config.clone());
            while core.work(Duration::ZERO) {}
        }
    }
    // What was there all the time was seen, and the rest did not last to be looked at.
    assert!((0..ROUTES / 2).all(|n| seen.contains(&prefix(n))));
    assert!(seen.len() < ROUTES as usize * 3 / 4, "{}", seen.len());
    // Who looks for what is not there does not look at everything at once.
    let query = RouteQuery { origin_as: Some(1), ..query };
    let (mut next, mut slices) = (Some(Cursor::default()), 0);
    while let Some(cursor) = next {
        next = core.route_slice(&query, cursor).1;
        slices += 1;
    }
    assert!(slices >= ROUTES / (16 * 1024), "{slices}");
    let limited = RouteQuery { limit: 700, ..RouteQuery::default() };
    assert_eq!(core.routes(&limited).len(), 700);
}
