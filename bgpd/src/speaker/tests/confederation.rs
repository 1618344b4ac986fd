//! Confederations (RFC 5065).

use super::*;
use crate::config::Confederation;
use crate::policy::PeerType;
use crate::speaker::{Effect, PathStatus, Reason};
use crate::wire::Community;

/// Nodes 1 and 2 in member 65001, 3 and 4 in member 65002 of confederation 1000; node 0 is AS 7 and
/// beside 1, node 5 is AS 8 and beside 4. Links: 0 - 1 - 2 - 3 - 4 - 5.
fn confederation(seed: u64) -> Network {
    let members = [7, 65001, 65001, 65002, 65002, 8];
    let mut network = mesh(seed, &members);
    for at in 0..members.len() {
        network.change(at, |c| {
            let beside = |other: usize| other + 1 == at || other == at + 1;
            c.peers.retain(|p| beside(p.name[1..].parse().unwrap()));
            c.networks = own(&[&format!("10.{at}.0.0/26")]);
            if (1..=4).contains(&at) {
                c.confederation =
                    Some(Confederation { identifier: 1000, members: vec![65001, 65002] });
            } else {
                c.peers[0].asn = 1000.into();
            }
        });
    }
    network.run_for(2 * MINUTE);
    network
}

fn best(network: &mut Network, at: usize, prefix: &str) -> Option<PathStatus> {
    network.route(at, prefix)?.paths.into_iter().find(|p| p.best)
}

#[test]
fn it_is_one_as_to_others_and_several_inside() {
    let mut network = confederation(60);
    for at in 0..5 {
        assert!(network.is_up(at, at + 1), "{at}: {:?}", network.neighbor(at, at + 1).last_error);
    }
    let path = |n: &mut Network, at, prefix: &str| best(n, at, prefix).unwrap();
    assert_eq!(path(&mut network, 5, "10.0.0.0/26").attributes.as_path, "1000 7");
    assert_eq!(path(&mut network, 0, "10.5.0.0/26").attributes.as_path, "1000 8");
    assert_eq!(path(&mut network, 5, "10.3.0.0/26").attributes.as_path, "1000");
    assert_eq!(path(&mut network, 2, "10.0.0.0/26").attributes.as_path, "7");
    let other = path(&mut network, 3, "10.0.0.0/26");
    assert_eq!(other.attributes.as_path, "(65001) 7");
    assert_eq!(other.attributes.next_hop, address(0), "kept between members");
    assert_eq!(other.attributes.local_pref, Some(100), "told between members");
    assert_eq!(path(&mut network, 3, "10.2.0.0/26").attributes.as_path, "(65001)");
    let types = [1, 3].map(|other| network.neighbor(2, other).peer_type);
    assert_eq!(types, [PeerType::Internal, PeerType::Confederation]);
    assert_eq!(network.neighbor(1, 0).peer_type, PeerType::External);
    assert_eq!(network.neighbor(0, 1).asn, 1000);
    assert_eq!(network.core(2).status().confederation, Some(1000));
}

#[test]
fn med_and_local_pref_go_from_member_to_member() {
    let mut network = confederation(61);
    network.change(2, |c| {
        c.networks[0].med = Some(5);
        c.networks[0].local_pref = Some(150);
    });
    network.run_for(Duration::from_secs(1));
    let inside = best(&mut network, 4, "10.2.0.0/26").unwrap();
    assert_eq!((inside.attributes.med, inside.attributes.local_pref), (Some(5), Some(150)));
    let outside = best(&mut network, 5, "10.2.0.0/26").unwrap();
    assert_eq!((outside.attributes.med, outside.attributes.local_pref), (None, None));
}

#[test]
fn communities_keep_a_route_in_the_confederation_or_in_the_member() {
    let mut network = confederation(62);
    let far = |n: &mut Network| {
        let prefix = "10.1.0.0/26";
        [2, 3, 5].map(|at| best(n, at, prefix).is_some())
    };
    assert_eq!(far(&mut network), [true, true, true]);
    for (community, wanted) in [
        (Community::NO_EXPORT, [true, true, false]),
        (Community::NO_EXPORT_SUBCONFED, [true, false, false]),
    ] {
        network.change(1, |c| c.networks[0].communities = vec![community]);
        network.run_for(Duration::from_secs(1));
        assert_eq!(far(&mut network), wanted, "{community}");
    }
}

#[test]
fn loops_are_seen_by_member_and_by_the_whole() {
    let mut network = confederation(63);
    let connect = |n: &mut Network, a: (usize, u32), b: (usize, u32)| {
        n.change(a.0, |c| c.peers.push(peer(a.0, b.0, b.1)));
        n.change(b.0, |c| c.peers.push(peer(b.0, a.0, a.1)));
    };
    let reason = |n: &mut Network, at, prefix: &str, from: &str| {
        let paths = n.route(at, prefix).unwrap().paths;
        paths.into_iter().find(|p| p.neighbor.as_deref() == Some(from)).map(|p| p.reason)
    };
    // What leaves at 1 comes back to 4 by way of 0 and 5.
    connect(&mut network, (0, 7), (5, 8));
    network.set_link(3, 4, false);
    network.run_for(3 * MINUTE);
    assert_eq!(reason(&mut network, 4, "10.1.0.0/26", "n5"), Some(Reason::AsPathLoop));
    network.set_link(3, 4, true);
    // What leaves member 65001 at 2 comes back to 1 by way of the other member.
    connect(&mut network, (1, 65001), (4, 65002));
    network.run_for(3 * MINUTE);
    // And 4 has it from another member and from within: the one is no more external than the other.
    assert_eq!(network.used(4, "10.0.0.0/26"), ["n1", "n3"]);
    network.set_link(1, 2, false);
    network.run_for(3 * MINUTE);
    assert_eq!(reason(&mut network, 1, "10.2.0.0/26", "n4"), Some(Reason::AsPathLoop));
}

#[test]
fn who_becomes_a_member_starts_anew() {
    let mut network = mesh(64, &[65001, 65002]);
    network.run_for(MINUTE);
    let of = |members: &[u32]| Some(Confederation { identifier: 1000, members: members.to_vec() });
    let report = network.change(0, |c| c.confederation = of(&[65002]));
    assert_eq!(report.changes[0].fields, ["confederation"]);
    assert_eq!(report.changes[0].effect, Effect::SessionReset);
    network.change(1, |c| c.confederation = of(&[65001]));
    network.change(0, |c| c.networks = own(&["10.0.0.0/26"]));
    network.run_for(MINUTE);
    assert_eq!(best(&mut network, 1, "10.0.0.0/26").unwrap().attributes.as_path, "(65001)");
}
