//! Neighbors named by their interface.

use super::*;
use crate::config::PeerAs;
use crate::rib::FibNextHop;
use crate::transport::discovery::Found;

const INDEX: u32 = 7;

fn link_local(at: usize) -> Ipv6Addr {
    Ipv6Addr::from(0xfe80 << 112 | (at as u128 + 1))
}

/// Two nodes that know nothing of each other but the interface between them.
fn pair(asns: [u32; 2], asn: &PeerAs) -> Network {
    let mut network = Network::new(3);
    for (at, own_asn) in asns.into_iter().enumerate() {
        let mut config = config(at, own_asn);
        let name = format!("n{}", 1 - at);
        config.peers = vec![PeerConfig::unnumbered(name, "eth1", asn.clone())];
        config.networks = own(&[&format!("10.{at}.0.0/26"), &format!("fd00:{at}::/122")]);
        network.add(link_local(at).into(), config);
    }
    network.start_all();
    network
}

fn link(index: Option<u32>) -> Found {
    Found::Link("eth1".into(), index)
}

fn router(at: usize) -> Found {
    Found::Router("eth1".into(), link_local(at))
}

#[test]
fn whoever_advertises_itself_on_the_interface_is_the_peer() {
    let mut network = pair([65001, 65002], &PeerAs::External);
    network.run_for(MINUTE);
    let status = network.neighbor(0, 1);
    assert_eq!((status.state, status.address.is_unspecified()), (State::Idle, true));
    network.discover(0, &link(None));
    let why = network.neighbor(0, 1).last_error.unwrap().reason.to_string();
    assert_eq!(why, "interface eth1: is down, or not there");
    for at in 0..2 {
        network.discover(at, &link(Some(INDEX)));
    }
    let why = network.neighbor(0, 1).last_error.unwrap().reason.to_string();
    assert_eq!(why, "interface eth1: no router was heard on it yet");
    // Who advertises itself on another interface is nobody.
    network.discover(0, &Found::Router("eth2".into(), link_local(1)));
    network.run_for(MINUTE);
    assert!(!network.is_up(0, 1));

    // One side is enough: the other sees who connects.
    network.discover(0, &router(1));
    network.run_for(Duration::from_secs(5));
    for (at, other) in [(0, 1), (1, 0)] {
        let status = network.neighbor(at, other);
        assert_eq!(status.state, State::Established);
        assert_eq!(status.address, IpAddr::from(link_local(other)));
        assert_eq!(status.asn, 65001 + u32::try_from(other).unwrap());
        assert!(status.session.unwrap().extended_next_hop);
        for prefix in [format!("10.{other}.0.0/26"), format!("fd00:{other}::/122")] {
            let expected = FibNextHop { addr: link_local(other).into(), interface: Some(INDEX) };
            let route = network.route(at, &prefix).unwrap();
            assert_eq!(route.next_hops.as_slice(), [expected], "{prefix}");
        }
    }
    // Advertisements go on, of the same router and of others.
    network.discover(0, &router(1));
    network.discover(0, &router(5));
    network.discover(0, &link(Some(INDEX)));
    network.run_for(MINUTE);
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
}

#[test]
fn a_link_that_is_down_takes_its_routes_and_comes_back_at_once() {
    let mut network = pair([65001, 65002], &PeerAs::External);
    for at in 0..2 {
        network.discover(at, &link(Some(INDEX)));
        network.discover(at, &router(1 - at));
    }
    network.run_for(MINUTE);
    assert!(network.is_up(0, 1));
    for at in 0..2 {
        network.discover(at, &link(None));
    }
    // Not as over a restart: there is no way to send anything there.
    assert!(network.route(0, "10.1.0.0/26").is_none());
    let down = network.neighbor(0, 1).last_down.unwrap().reason.to_string();
    assert_eq!(down, "interface eth1: is down, or not there");
    network.run_for(10 * MINUTE);
    // Another number, another address.
    network.nodes[1].address = link_local(9).into();
    for at in 0..2 {
        network.discover(at, &link(Some(INDEX + 1)));
    }
    network.discover(0, &Found::Router("eth1".into(), link_local(9)));
    network.run_for(Duration::from_secs(2));
    assert!(network.is_up(0, 1));
    let hop = network.route(0, "10.1.0.0/26").unwrap().next_hops[0];
    assert_eq!((hop.addr, hop.interface), (link_local(9).into(), Some(INDEX + 1)));
}

#[test]
fn internal_peers_may_be_unnumbered_too_and_others_are_refused() {
    for (asns, asn, up) in [
        ([65001, 65001], PeerAs::Internal, true),
        ([65001, 65002], PeerAs::Internal, false),
        ([65001, 65001], PeerAs::External, false),
        ([65001, 65002], PeerAs::OneOf(vec![65001..=65009]), false),
    ] {
        // A range with our own number among others is refused before.
        if let PeerAs::OneOf(_) = asn {
            let mut config = config(0, asns[0]);
            config.peers = vec![PeerConfig::unnumbered("a", "eth1", asn)];
            assert!(config.validate().unwrap_err().to_string().contains("internal or external"));
            continue;
        }
        let mut network = pair(asns, &asn);
        for at in 0..2 {
            network.discover(at, &link(Some(INDEX)));
            network.discover(at, &router(1 - at));
        }
        network.run_for(MINUTE);
        assert_eq!(network.is_up(0, 1), up, "{asns:?} {asn}");
    }
}

#[test]
fn a_reconfiguration_knows_where_the_peer_is() {
    let mut network = pair([65001, 65002], &PeerAs::External);
    for at in 0..2 {
        network.discover(at, &link(Some(INDEX)));
        network.discover(at, &router(1 - at));
    }
    network.run_for(MINUTE);
    let report = network.change(0, |c| c.peers[0].description = "the spine".into());
    assert_eq!(report.changes.len(), 1, "{report:?}");
    assert_eq!(report.changes[0].fields, ["description"]);
    network.change(0, |c| c.peers[0].name = "n7".into());
    network.change(0, |c| c.peers[0].name = "n1".into());
    network.run_for(MINUTE);
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
    assert_eq!(network.neighbor(0, 1).address, IpAddr::from(link_local(1)));
    // On another interface it is another peer.
    network.change(0, |c| c.peers[0].interface = Some("eth2".into()));
    network.run_for(MINUTE);
    assert!(!network.is_up(0, 1));
    assert!(network.neighbor(0, 1).address.is_unspecified());
    assert!(network.route(0, "10.1.0.0/26").is_none());
}

#[test]
fn one_address_on_two_links_has_one_key() {
    let mut network = pair([65001, 65002], &PeerAs::External);
    let key = |text: &str| Some(crate::config::Password::new(text));
    network.change(0, |c| {
        let mut second = PeerConfig::unnumbered("second", "eth2", PeerAs::External);
        second.password = key("b");
        c.peers[0].password = key("a");
        c.peers.push(second);
    });
    let second = |network: &mut Network| {
        let now = network.now;
        let all = network.core(0).neighbor_statuses(now);
        all.into_iter().find(|n| n.name == "second").unwrap()
    };
    for (interface, index) in [("eth1", INDEX), ("eth2", INDEX + 1)] {
        network.discover(0, &Found::Link(interface.into(), Some(index)));
        network.discover(0, &Found::Router(interface.into(), link_local(1)));
    }
    let why = second(&mut network).last_error.unwrap().reason.to_string();
    assert_eq!(
        why,
        "interface eth2: a neighbor on another link has fe80::2 too, and another key or none"
    );
    assert!(network.neighbor(0, 1).last_error.is_none());
    let keys = network.core(0).keys();
    let first = crate::transport::keys::Key::Md5(crate::config::Password::new("a"));
    assert_eq!(keys.into_values().collect::<Vec<_>>(), [first], "the first one's");
    network.change(0, |c| c.peers[1].password = key("a"));
    assert_eq!(network.core(0).keys().len(), 1);
}
