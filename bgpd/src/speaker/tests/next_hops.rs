//! Next hops of the other family, and link-local ones (RFC 2545, RFC 8950).

use super::*;
use crate::config::NextHopMode;
use crate::speaker::{Effect, FibNextHop};

/// The interface that every link-local session here is on.
const INTERFACE: u32 = 7;

fn global(at: usize) -> IpAddr {
    address_v6(at).into()
}

fn link_local(at: usize) -> IpAddr {
    Ipv6Addr::from(0xfe80 << 112 | (at as u128 + 1)).into()
}

/// Nodes in a row, each a peer of those beside it, over IPv6.
fn row(asns: &[u32], address: fn(usize) -> IpAddr) -> Network {
    let mut network = Network::new(5);
    for (at, asn) in asns.iter().enumerate() {
        let mut config = config(at, *asn);
        for (other, asn) in asns.iter().enumerate().filter(|(other, _)| other.abs_diff(at) == 1) {
            let mut peer = PeerConfig::new(format!("n{other}"), address(other), *asn);
            if address(other) != global(other) {
                peer.scope_id = INTERFACE;
            }
            config.peers.push(peer);
        }
        let at = u8::try_from(at).unwrap();
        config.networks = own(&[&format!("10.{at}.0.0/26"), &format!("fd00:{at}::/122")]);
        network.add(address(at.into()), config);
    }
    network.start_all();
    network
}

fn hop(network: &mut Network, at: usize, prefix: &str) -> Option<FibNextHop> {
    network.route(at, prefix)?.next_hops.first().copied()
}

#[test]
fn ipv4_routes_go_over_a_session_between_ipv6_addresses() {
    let mut network = row(&[65001, 65002, 65003], global);
    network.run_for(MINUTE);
    for prefix in ["10.1.0.0/26", "fd00:1::/122", "10.2.0.0/26", "fd00:2::/122"] {
        let expected = FibNextHop { addr: global(1), interface: None };
        assert_eq!(hop(&mut network, 0, prefix), Some(expected), "{prefix}");
    }
    let status = network.neighbor(0, 1);
    assert!(status.session.unwrap().extended_next_hop);
    assert_eq!(status.families[0].next_hop, Some(global(0)));

    // An IPv4 address of our own goes before it.
    network.change(1, |c| c.peers[0].next_hop_v4 = Some(Ipv4Addr::new(192, 0, 2, 9)));
    network.run_for(MINUTE);
    let expected = IpAddr::from([192, 0, 2, 9]);
    assert_eq!(hop(&mut network, 0, "10.1.0.0/26").unwrap().addr, expected);
    assert_eq!(hop(&mut network, 0, "fd00:1::/122").unwrap().addr, global(1));
    assert_eq!(network.neighbor(0, 1).counters.established, 1, "nothing was reset");
}

#[test]
fn without_the_capability_no_ipv4_route_has_an_ipv6_next_hop() {
    let mut network = row(&[65001, 65002], global);
    network.run_for(MINUTE);
    assert!(network.route(0, "10.1.0.0/26").is_some());
    let report = network.change(1, |c| c.peers[0].extended_next_hop = Some(false));
    assert_eq!(report.changes[0].effect, Effect::SessionReset);
    assert_eq!(report.changes[0].fields, ["extended-next-hop"]);
    network.run_for(MINUTE);
    for (at, other) in [(0, 1), (1, 0)] {
        assert!(network.is_up(at, other));
        let status = network.neighbor(at, other);
        assert!(!status.session.unwrap().extended_next_hop);
        assert_eq!((status.families[0].negotiated, status.families[0].next_hop), (true, None));
        assert_eq!(status.families[0].received, 0);
        assert_eq!(status.families[1].received, 1);
    }
}

#[test]
fn a_next_hop_of_the_other_family_is_the_reason_where_it_cannot_be_told() {
    let mut network = row(&[65001, 65002, 65003], global);
    network.run_for(MINUTE);
    let said = |network: &mut Network| advertised::said(network, 1, "10.2.0.0/26", 0);
    assert_eq!(said(&mut network), "told");
    network.change(1, |c| {
        c.peers[0].extended_next_hop = Some(false);
        c.peers[0].next_hop = NextHopMode::Keep;
    });
    network.run_for(MINUTE);
    assert_eq!(said(&mut network), "next-hop-family");
}

/// The first is external to the others; what it said of its link means nothing on another.
#[test]
fn a_link_local_next_hop_is_told_to_nobody_else() {
    let mut network = row(&[65001, 65002, 65002], link_local);
    network.run_for(MINUTE);
    let by = |at| Some(FibNextHop { addr: link_local(at), interface: Some(INTERFACE) });
    for prefix in ["10.0.0.0/26", "fd00:0::/122"] {
        assert_eq!(hop(&mut network, 1, prefix), by(0), "{prefix}");
        assert_eq!(hop(&mut network, 2, prefix), by(1), "{prefix}");
    }
    network.change(1, |c| c.peers[1].next_hop = NextHopMode::Keep);
    network.run_for(MINUTE);
    assert_eq!(hop(&mut network, 2, "10.0.0.0/26"), by(1));
    for prefix in ["10.2.0.0/26", "fd00:2::/122"] {
        assert_eq!(hop(&mut network, 0, prefix), by(1), "{prefix}");
    }
}

/// RFC 2545 section 3: the global address, and on the link that is shared the link-local one too.
#[test]
fn a_global_next_hop_on_a_link_comes_with_the_link_local_one() {
    let mut network = row(&[65001, 65002, 65002], link_local);
    network.change(1, |c| {
        for peer in &mut c.peers {
            peer.next_hop_v6 = Some(address_v6(1));
        }
    });
    network.run_for(MINUTE);
    for prefix in ["10.1.0.0/26", "fd00:1::/122"] {
        let route = network.route(0, prefix).unwrap();
        assert_eq!(route.paths[0].attributes.next_hop, global(1), "{prefix}");
        let expected = FibNextHop { addr: link_local(1), interface: Some(INTERFACE) };
        assert_eq!(route.next_hops.as_slice(), [expected], "{prefix}");
    }
    // A second hop has what is true everywhere, and nothing else.
    network.change(0, |c| c.peers[0].next_hop_v6 = Some(address_v6(0)));
    network.run_for(MINUTE);
    let expected = FibNextHop { addr: global(0), interface: None };
    assert_eq!(hop(&mut network, 2, "fd00:0::/122"), Some(expected));
}

#[test]
fn a_link_local_next_hop_needs_a_link() {
    let mut network = row(&[65001, 65002], global);
    let IpAddr::V6(unknown) = link_local(1) else { unreachable!() };
    network.change(1, |c| c.peers[0].next_hop_v6 = Some(unknown));
    network.run_for(MINUTE);
    for prefix in ["10.1.0.0/26", "fd00:1::/122"] {
        let route = network.route(0, prefix).unwrap();
        assert_eq!(route.paths[0].reason, crate::rib::Reason::NextHop, "{prefix}");
        assert!(route.next_hops.is_empty());
    }
}
