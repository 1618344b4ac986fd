use std::collections::BTreeSet;

use super::*;

fn size(shape: Shape, nodes: u8, racks: u8, dual_homed: u8) -> Size {
    Size { shape, nodes, racks, dual_homed }
}

/// Every address in the plan, with who has it.
fn addresses(topology: &Topology) -> Vec<(String, IpNet)> {
    let mut all = vec![
        ("outside".to_owned(), topology.outside.v4.into()),
        ("outside".to_owned(), topology.outside.v6.into()),
    ];
    for node in &topology.nodes {
        for uplink in &node.uplinks {
            all.push((node.name.clone(), uplink.v4.into()));
            all.push((node.name.clone(), uplink.v6.into()));
        }
    }
    for router in &topology.routers {
        for port in &router.interfaces {
            all.extend(port.addresses.iter().map(|a| (router.name.clone(), *a)));
        }
    }
    all
}

#[test]
fn no_address_is_given_twice_and_none_is_in_a_pool() {
    for (shape, nodes, racks, dual) in
        [(Shape::Racks, 60, 16, 60), (Shape::Racks, 3, 2, 1), (Shape::Mesh, 60, 1, 0)]
    {
        let topology = Topology::plan(size(shape, nodes, racks, dual)).unwrap();
        let all = addresses(&topology);
        let distinct: BTreeSet<IpAddr> = all.iter().map(|(_, a)| a.addr()).collect();
        assert_eq!(distinct.len(), all.len());
        for pool in [POOL_V4, POOL_V6] {
            let pool: IpNet = pool.parse().unwrap();
            assert!(all.iter().all(|(_, a)| !pool.contains(&a.addr())));
        }
    }
}

#[test]
fn both_ends_of_a_session_agree_on_addresses_and_as_numbers() {
    let topology = Topology::plan(size(Shape::Racks, 7, 3, 2)).unwrap();
    let owner = |address: Ipv4Addr| {
        let all = addresses(&topology);
        all.into_iter().find(|(_, a)| a.addr() == IpAddr::from(address)).unwrap()
    };
    let mut sessions = 0;
    for router in &topology.routers {
        for neighbor in &router.neighbors {
            sessions += 1;
            let (name, at) = owner(neighbor.address);
            assert_eq!(name, neighbor.name);
            let (mine, local) = owner(neighbor.local);
            assert_eq!(mine, router.name);
            assert_eq!(at.trunc(), local.trunc(), "{} and {}", router.name, name);
            let asn = topology.node(&name).map_or_else(
                || topology.routers.iter().find(|r| r.name == name).unwrap().asn,
                |node| node.asn,
            );
            assert_eq!(neighbor.asn, asn);
            assert_ne!(asn, router.asn, "eBGP everywhere");
        }
    }
    assert_eq!(sessions, 3 * 2 + 7 + 2, "each ToR with the spine, both ways; each uplink");
}

#[test]
fn nodes_are_dealt_out_to_racks_in_turn() {
    let topology = Topology::plan(size(Shape::Racks, 3, 2, 1)).unwrap();
    let racks: Vec<u8> = topology.nodes.iter().map(|n| n.rack).collect();
    assert_eq!(racks, [1, 2, 1]);
    let homes: Vec<&str> =
        topology.nodes[2].uplinks.iter().map(|uplink| uplink.switch.as_str()).collect();
    assert_eq!(homes, ["tor1", "tor2"]);
    assert_eq!(topology.nodes[2].uplinks[1].v6.to_string(), "fd00:ca:2::13/64");
    let software: Vec<Software> = topology.routers.iter().map(|r| r.software).collect();
    assert_eq!(software, [Software::Frr, Software::Bird, Software::Frr]);
}

#[test]
fn what_is_out_of_limits_is_named() {
    for (bad, option) in [
        (size(Shape::Racks, 0, 2, 0), "--nodes 0"),
        (size(Shape::Racks, 61, 2, 0), "--nodes 61"),
        (size(Shape::Racks, 3, 17, 0), "--racks 17"),
        (size(Shape::Racks, 3, 1, 1), "--dual-homed 1"),
        (size(Shape::Mesh, 3, 1, 1), "--dual-homed 1"),
    ] {
        let error = Topology::plan(bad).unwrap_err().to_string();
        assert!(error.contains(option), "{error}");
    }
}
