//! What a speaker says that it told its neighbors is what they have from it; and what it did not tell
//! them it says why.

use std::collections::BTreeMap;

use super::paths;
use super::*;
use crate::config::{AddPaths, SentPaths};
use crate::policy::{Action, Policy, Rule};
use crate::speaker::{Advertisement, PathAttributes, Reason, Waits};
use crate::wire::{Community, Family, Role};

/// Compares what every node says that it told every other with what that one has from it, attribute by
/// attribute. For networks in which nothing is under way.
pub(super) fn agree(network: &mut Network) -> Result<(), String> {
    for from in 0..network.nodes.len() {
        if network.nodes[from].core.is_none() {
            continue;
        }
        let all = network.routes(from).into_iter().map(|route| route.prefix);
        let mut told = BTreeMap::<String, BTreeMap<IpNet, Advertisement>>::new();
        for prefix in all.collect::<Vec<_>>() {
            let explained = network.core(from).explain(prefix, true).unwrap();
            for it in explained.neighbors {
                if it.waits.is_some() || it.advertised == it.paths.is_empty() {
                    return Err(format!("node {from}, {prefix}: {it:#?}"));
                }
                if !it.advertised && it.withheld.is_empty() {
                    return Err(format!(
                        "node {from}, {prefix}, neither told nor why not: {it:#?}"
                    ));
                }
                told.entry(it.neighbor.clone()).or_default().insert(prefix, it);
            }
        }
        let peers: Vec<_> = network.core(from).peers().cloned().collect();
        for peer in peers {
            let there =
                |n: &crate::transport::memory::Node| n.address == peer.address && n.core.is_some();
            let Some(to) = network.nodes.iter().position(there) else { continue };
            let told = told.remove(&peer.name).unwrap_or_default();
            same(network, from, to, &told)?;
        }
    }
    Ok(())
}

fn same(
    network: &mut Network,
    from: usize,
    to: usize,
    told: &BTreeMap<IpNet, Advertisement>,
) -> Result<(), String> {
    let here = address(from);
    let theirs = network.core(to).peers().find(|peer| peer.address == here).cloned();
    let mut has =
        theirs.as_ref().map(|us| network.core(to).adj_rib_in(&us.name)).unwrap_or_default();
    for (prefix, it) in told {
        let mut held = has.remove(prefix).unwrap_or_default();
        held.sort_by_key(|(id, ..)| *id);
        let mut sent: Vec<_> =
            it.paths.iter().map(|p| (p.path_id, p.attributes.clone().unwrap())).collect();
        sent.sort_by_key(|(id, _)| *id);
        let received: Vec<(u32, PathAttributes)> =
            held.iter().map(|(id, attributes, _)| (*id, attributes.clone())).collect();
        if sent != received {
            return Err(format!("{from} told {to} of {prefix} {sent:#?}, it has {received:#?}"));
        }
        // What is said of a loop is what happens, where loops are not allowed.
        let strict = theirs.as_ref().is_some_and(|us| us.allowas_in == 0);
        for path in it.paths.iter().filter(|path| path.refused.is_some() && strict) {
            let (.., reason) = held.iter().find(|(id, ..)| *id == path.path_id).unwrap();
            if !matches!(reason, Reason::AsPathLoop | Reason::OriginatorLoop) {
                return Err(format!("{to} does not refuse {prefix} of {from}: {path:#?} {reason}"));
            }
        }
    }
    if has.is_empty() { Ok(()) } else { Err(format!("{to} has of {from}, untold: {has:#?}")) }
}

/// What a node says of a route and another, in short: `told`, or the names of the reasons.
pub(super) fn said(network: &mut Network, at: usize, prefix: &str, other: usize) -> String {
    let it = advertisement(network, at, prefix, other);
    let told = it.advertised.then(|| "told".to_owned());
    let why = it.withheld.iter().map(|path| path.reason.name().to_owned());
    let waits = it.waits.map(|waits| format!("waits: {waits:?}"));
    told.into_iter().chain(why).chain(waits).collect::<Vec<_>>().join(", ")
}

pub(super) fn advertisement(
    network: &mut Network,
    at: usize,
    prefix: &str,
    other: usize,
) -> Advertisement {
    let explained = network.core(at).explain(net(prefix), true).unwrap();
    let name = format!("n{other}");
    explained.neighbors.into_iter().find(|it| it.neighbor == name).unwrap()
}

const PREFIX: &str = "10.1.0.0/16";

/// Node 1 has the prefix; node 0 tells it to node 2, if nothing stands in the way.
fn line(asns: [u32; 3]) -> Network {
    let mut network = mesh(5, &asns);
    network.change(1, |c| {
        c.networks = own(&[PREFIX]);
        c.peers.retain(|peer| peer.name == "n0");
    });
    network.change(2, |c| c.peers.retain(|peer| peer.name == "n0"));
    network.run_for(MINUTE);
    network
}

#[test]
fn what_stands_between_a_route_and_a_neighbor_is_named() {
    const ASNS: [u32; 3] = [65001, 65002, 65003];
    let mut network = line(ASNS);
    assert_eq!(said(&mut network, 0, PREFIX, 2), "told");
    assert_eq!(said(&mut network, 0, PREFIX, 1), "own-route");
    agree(&mut network).unwrap();
    let case = |wanted: &str, change: &dyn Fn(&mut Network)| {
        let mut network = line(ASNS);
        change(&mut network);
        network.run_for(MINUTE);
        assert_eq!(said(&mut network, 0, PREFIX, 2), wanted);
        agree(&mut network).unwrap();
    };
    let to_2 = |network: &mut Network, f: &dyn Fn(&mut PeerConfig)| {
        network.change(0, |c| f(c.peers.iter_mut().find(|p| p.name == "n2").unwrap()));
    };
    for (community, wanted) in [
        (Community::NO_ADVERTISE, "no-advertise"),
        (Community::NO_EXPORT, "no-export"),
        (Community::NO_EXPORT_SUBCONFED, "no-export-subconfed"),
    ] {
        // Node 1 would not tell of it, either: it is put on by node 0.
        case(wanted, &|network| {
            network.change(0, |c| {
                let set = crate::policy::Changes {
                    add_communities: vec![community],
                    ..Default::default()
                };
                let rule = Rule { set, ..Rule::default() };
                let from_1 = c.peers.iter_mut().find(|p| p.name == "n1").unwrap();
                from_1.import = Some(Policy { rules: vec![rule], ..Policy::default() });
            });
        });
    }
    case("export-policy", &|network| to_2(network, &|peer| peer.export = Some(Policy::reject())));
    case("no-policy", &|network| {
        network.change(0, |c| {
            c.ebgp_requires_policy = Some(true);
            c.peers.iter_mut().for_each(|peer| peer.import = Some(Policy::accept()));
        });
    });
    case("not-established", &|network| network.kill(2));
    case("shutdown", &|network| to_2(network, &|peer| peer.shutdown = Some("bye".to_owned())));
    case("family-not-negotiated", &|network| {
        to_2(network, &|peer| peer.families = vec![Family::Ipv6Unicast]);
    });
    case("route-leak", &|network| {
        for (at, to, role) in [(1, "n0", Role::Provider), (2, "n0", Role::Peer)] {
            network.change(at, |c| {
                c.peers.iter_mut().filter(|p| p.name == to).for_each(|p| p.role = Some(role));
            });
        }
        network.change(0, |c| {
            c.peers[0].role = Some(Role::Customer);
            c.peers[1].role = Some(Role::Peer);
        });
    });

    case("too-long", &|network| {
        let huge = || (0..17_000).map(Community).collect();
        network.change(0, |c| {
            c.networks = own(&["10.7.0.0/16"]);
            c.networks[0].communities = huge();
        });
        network.run_for(MINUTE);
        assert_eq!(said(network, 0, "10.7.0.0/16", 2), "too-long");
        // A path of others that our own policy makes too long.
        to_2(network, &|peer| {
            let set = crate::policy::Changes { add_communities: huge(), ..Default::default() };
            let rule = Rule { set, ..Rule::default() };
            peer.export = Some(Policy { rules: vec![rule], ..Policy::default() });
        });
    });

    // The rule that rejects is named, as people count.
    let mut network = line(ASNS);
    to_2(&mut network, &|peer| {
        let other = Rule { communities: vec![Community(7)], ..Rule::default() };
        let reject = Rule { action: Action::Reject, ..Rule::default() };
        peer.export = Some(Policy { rules: vec![other, reject], default: Action::Accept });
    });
    network.run_for(MINUTE);
    let why = &advertisement(&mut network, 0, PREFIX, 2).withheld[0].why;
    assert_eq!(why, "rule 2 of the export policy rejects it");

    // Between internal peers, until one is a client.
    let mut network = line([65001; 3]);
    assert_eq!(said(&mut network, 0, PREFIX, 2), "internal-to-internal");
    to_2(&mut network, &|peer| peer.route_reflector_client = true);
    network.run_for(MINUTE);
    assert_eq!(said(&mut network, 0, PREFIX, 2), "told");
    agree(&mut network).unwrap();

    // It has no route to speak of.
    network.change(0, |c| c.peers[0].import = Some(Policy::reject()));
    network.run_for(MINUTE);
    assert_eq!(said(&mut network, 0, PREFIX, 2), "no-usable-path");
}

#[test]
fn a_next_hop_that_cannot_be_told_is_the_reason() {
    const OF_IPV6: &str = "fd00:9::/64";
    let mut network = line([65001, 65002, 65003]);
    network.change(1, |c| c.networks = own(&[PREFIX, OF_IPV6]));
    network.run_for(MINUTE);
    assert_eq!(said(&mut network, 0, OF_IPV6, 2), "told");
    network.change(0, |c| c.peers[1].next_hop_v6 = None);
    network.run_for(MINUTE);
    assert_eq!(said(&mut network, 0, OF_IPV6, 2), "no-next-hop");
    assert_eq!(said(&mut network, 0, PREFIX, 2), "told");
    agree(&mut network).unwrap();
}

#[test]
fn a_neighbor_that_will_take_it_for_a_loop_is_told_all_the_same_and_that_is_said() {
    let mut network = line([65001, 64512, 64512]);
    let told = advertisement(&mut network, 0, PREFIX, 2);
    let refused = told.paths[0].refused.as_deref().unwrap();
    assert!(refused.starts_with("AS 64512 is in its AS_PATH"), "{refused}");
    assert_eq!(network.route(2, PREFIX).unwrap().paths[0].reason, Reason::AsPathLoop);
    // What is done about it is seen in what was told.
    network.change(0, |c| c.peers[1].as_override = true);
    network.run_for(MINUTE);
    let told = advertisement(&mut network, 0, PREFIX, 2);
    assert_eq!(told.paths[0].refused, None);
    assert_eq!(told.paths[0].attributes.as_ref().unwrap().as_path, "65001 65001");
    agree(&mut network).unwrap();
}

#[test]
fn what_waits_says_for_what() {
    // The kernel.
    let mut network = line([65001, 65002, 65003]);
    let id = network.core(0).subscribe(std::sync::Arc::default());
    network.change(0, |c| c.advertise_after_install = true);
    network.change(1, |c| c.networks = own(&[PREFIX, "10.9.0.0/16"]));
    network.run_for(MINUTE);
    assert_eq!(said(&mut network, 0, "10.9.0.0/16", 2), "waits: Kernel");
    let batch = network.core(0).take_deltas(id, 100).unwrap();
    network.core(0).acknowledge(id, batch.sequence);
    network.run_for(MINUTE);
    assert_eq!(said(&mut network, 0, "10.9.0.0/16", 2), "told");

    // The interval, which begins with an announcement. What is still told is what was told before.
    network.change(0, |c| c.advertise_after_install = false);
    network.change(0, |c| c.peers[1].advertisement_interval = 30);
    network.change(1, |c| c.networks[0].communities = vec![Community(1)]);
    network.run_for(Duration::from_secs(1));
    network.change(1, |c| c.networks[0].communities = vec![Community(2)]);
    network.run_for(Duration::from_secs(1));
    assert_eq!(said(&mut network, 0, PREFIX, 2), "told, waits: Interval");
    let told = advertisement(&mut network, 0, PREFIX, 2).paths.remove(0).attributes.unwrap();
    assert_eq!(told.communities, [Community(1)]);
    network.run_for(MINUTE);
    agree(&mut network).unwrap();

    // A neighbor that reads nothing.
    network.change(0, |c| c.peers[1].advertisement_interval = 0);
    network.set_stuck(2, true);
    let many = |med: u32| {
        let prefix =
            move |n: u32| IpNet::new(Ipv4Addr::from(0x0b00_0000 + (n << 8)).into(), 24).unwrap();
        (0..40_000).map(move |n| {
            let mut own = OwnNetwork::new(prefix(n));
            // No two in one message.
            own.communities = vec![Community(n), Community(med)];
            own
        })
    };
    network.change(1, |c| c.networks = many(1).chain(own(&[PREFIX])).collect());
    network.run_for(Duration::from_secs(20));
    network.change(1, |c| c.networks.last_mut().unwrap().communities = vec![Community(3)]);
    network.run_for(Duration::from_secs(10));
    assert_eq!(said(&mut network, 0, PREFIX, 2), "told, waits: Queue");
    assert_eq!(advertisement(&mut network, 0, PREFIX, 2).waits, Some(Waits::Queue));
}

#[test]
fn several_paths_are_told_of_one_by_one() {
    for send in [SentPaths::All, SentPaths::Used] {
        let mut network = paths::star(1, send);
        agree(&mut network).unwrap();
        let told = advertisement(&mut network, 0, paths::PREFIX, paths::TAKERS[0]);
        let from: Vec<_> = told.paths.iter().map(|p| p.from.clone().unwrap()).collect();
        assert!(told.paths.iter().all(|p| p.path_id != 0), "{told:?}");
        match send {
            SentPaths::All => assert_eq!((from.len(), told.withheld.len()), (3, 0)),
            SentPaths::Used => {
                assert_eq!(from.len() + told.withheld.len(), 3);
                assert!(told.withheld.iter().all(|p| p.reason.name() == "not-used"), "{told:?}");
            }
        }
        // Who takes one path is told of the best, with no number.
        network.change(0, |c| c.peers[4].add_paths = AddPaths::default());
        network.run_for(MINUTE);
        let told = advertisement(&mut network, 0, paths::PREFIX, paths::TAKERS[1]);
        assert_eq!((told.paths.len(), told.paths[0].path_id), (1, 0));
        agree(&mut network).unwrap();
    }
}

/// The query for Adj-RIB-Out shows what left, not what came.
#[test]
fn adj_rib_out_is_what_left() {
    let mut network = line([65001, 65002, 65003]);
    network.change(0, |c| {
        let set = crate::policy::Changes {
            prepend_own: 2,
            med: Some(crate::policy::MedChange::Set(70)),
            add_communities: vec![Community(65001 << 16 | 9)],
            ..Default::default()
        };
        let rule = Rule { set, ..Rule::default() };
        c.peers[1].export = Some(Policy { rules: vec![rule], ..Policy::default() });
        c.peers[1].graceful_shutdown = true;
    });
    network.run_for(MINUTE);
    let to = |name: &str| RouteQuery { advertised_to: Some(name.into()), ..RouteQuery::default() };
    let routes = network.core(0).routes(&to("n2"));
    let [route] = &routes[..] else { panic!("{routes:?}") };
    assert_eq!(route.paths[0].attributes.as_path, "65002", "as it came");
    let told = route.advertised[0].attributes.as_ref().unwrap();
    assert_eq!(
        (&*told.as_path, told.med, told.next_hop),
        ("65001 65001 65001 65002", Some(70), address(0))
    );
    assert_eq!(told.local_pref, None);
    assert!(told.communities.contains(&Community::GRACEFUL_SHUTDOWN));
    assert_eq!(route.advertised[0].from.as_deref(), Some("n1"));
    agree(&mut network).unwrap();
    // What is asked of attributes is asked of those that left.
    let tagged = |community| RouteQuery { community: Some(community), ..to("n2") };
    assert_eq!(network.core(0).routes(&tagged(Community(65001 << 16 | 9))).len(), 1);
    assert!(network.core(0).routes(&tagged(Community(65001 << 16 | 8))).is_empty());
    let from = |name: &str| RouteQuery { neighbor: Some(name.into()), ..to("n2") };
    assert_eq!(network.core(0).routes(&from("n1")).len(), 1);
    assert!(network.core(0).routes(&from("n2")).is_empty());
    assert!(network.core(0).routes(&to("n1")).is_empty(), "it came from there");
    // Nobody was asked for: nothing of it in the answer.
    let plain = serde_json::to_value(network.routes(0)).unwrap();
    assert!(plain[0].get("advertised").is_none(), "{plain}");
}
