//! Namespaces and the links between them. Each end of a link is created in its final namespace.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use ipnet::IpNet;

use super::Place;
use crate::netns::Netns;
use crate::record::Record;
use crate::topology::{CONTROL, Host, Node, Router, Shape, Topology};

/// The namespace where the API server and etcd listen.
const CONTROL_NAME: &str = "control";
/// The mesh's layer 2.
const SWITCH: &str = "fabric";
const OUTSIDE: &str = "outside";

/// Creates every namespace and link of the plan, with addresses and the hosts' default routes.
pub(super) async fn build(place: &Place, topology: &Topology, record: &Record) -> Result<()> {
    let mut names: Vec<&str> = vec![CONTROL_NAME, OUTSIDE];
    names.extend(topology.routers.iter().map(|router| router.name.as_str()));
    names.extend(topology.nodes.iter().map(|node| node.name.as_str()));
    if topology.shape == Shape::Mesh {
        names.push(SWITCH);
    }
    // One at a time: the kernel makes namespaces under one lock anyway.
    for name in names {
        let netns = place.netns(name);
        record
            .create_namespace(&netns)
            .await
            .with_context(|| format!("cannot create namespace {}", netns.name()))?;
    }

    control(place, topology).await?;
    match topology.shape {
        Shape::Racks => {
            for router in &topology.routers {
                router_links(place, topology, router).await?;
            }
        }
        Shape::Mesh => switch_links(place, topology).await?,
    }
    try_join_all(topology.routers.iter().map(|router| router_addresses(place, router))).await?;
    try_join_all(topology.nodes.iter().map(|node| node_addresses(place, node))).await?;
    outside_addresses(place, &topology.outside).await
}

/// The management network: a bridge in `control`, a leg in each node. Control does not forward,
/// and the nodes have no route over it but to its own subnet.
async fn control(place: &Place, topology: &Topology) -> Result<()> {
    let mut batch = String::new();
    writeln!(batch, "link add mgmt type bridge mcast_snooping 0")?;
    writeln!(batch, "addr add {CONTROL}/24 dev mgmt\nlink set mgmt up")?;
    for node in &topology.nodes {
        veth(&mut batch, &node.name, "mgmt0", &place.netns(&node.name))?;
        writeln!(batch, "link set {} master mgmt up", node.name)?;
    }
    place.netns(CONTROL_NAME).ip_batch(&batch).await
}

/// The links that a router makes: a ToR those to its nodes, the spine those to the ToRs.
async fn router_links(place: &Place, topology: &Topology, router: &Router) -> Result<()> {
    let mut batch = String::new();
    let mut bridge = None;
    for port in &router.interfaces {
        if port.bridge {
            writeln!(batch, "link add {} type bridge mcast_snooping 0", port.interface)?;
            bridge = Some(&port.interface);
        } else if let Some(tor) = topology.routers.iter().find(|r| r.name == port.interface)
            && tor.interfaces.iter().any(|p| p.bridge)
        {
            veth(&mut batch, &port.interface, &router.name, &place.netns(&tor.name))?;
        } else if port.interface == OUTSIDE {
            veth(&mut batch, OUTSIDE, "eth0", &place.netns(OUTSIDE))?;
        }
    }
    if let Some(bridge) = bridge {
        for node in &topology.nodes {
            for uplink in node.uplinks.iter().filter(|uplink| uplink.switch == router.name) {
                veth(&mut batch, &node.name, &uplink.interface, &place.netns(&node.name))?;
                writeln!(batch, "link set {} master {bridge} up", node.name)?;
            }
        }
    }
    place.netns(&router.name).ip_batch(&batch).await
}

async fn switch_links(place: &Place, topology: &Topology) -> Result<()> {
    let mut batch = "link add switch type bridge mcast_snooping 0\nlink set switch up\n".to_owned();
    let mut port = |name: &str, peer: &str| -> Result<()> {
        veth(&mut batch, name, peer, &place.netns(name))?;
        writeln!(batch, "link set {name} master switch up")?;
        Ok(())
    };
    port(OUTSIDE, "eth0")?;
    for node in &topology.nodes {
        for uplink in &node.uplinks {
            port(&node.name, &uplink.interface)?;
        }
    }
    place.netns(SWITCH).ip_batch(&batch).await
}

async fn router_addresses(place: &Place, router: &Router) -> Result<()> {
    let netns = place.netns(&router.name);
    netns
        .enter(|| {
            for (key, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                // Choose among equal paths by flow, ports included.
                ("ipv4/fib_multipath_hash_policy", "1"),
                ("ipv6/fib_multipath_hash_policy", "1"),
                // Within a rack the ToR is a switch: hosts need no telling.
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
            ] {
                std::fs::write(format!("/proc/sys/net/{key}"), value)
                    .with_context(|| format!("cannot set net/{key}"))?;
            }
            Ok(())
        })
        .await?;
    let mut batch = String::new();
    for port in &router.interfaces {
        for &prefix in &port.addresses {
            address(&mut batch, prefix, &port.interface)?;
        }
        writeln!(batch, "link set {} up", port.interface)?;
    }
    netns.ip_batch(&batch).await
}

async fn node_addresses(place: &Place, node: &Node) -> Result<()> {
    let mut batch = String::new();
    address(&mut batch, ipnet::Ipv4Net::new(node.management, 24)?.into(), "mgmt0")?;
    writeln!(batch, "link set mgmt0 up")?;
    for uplink in &node.uplinks {
        address(&mut batch, uplink.v4.into(), &uplink.interface)?;
        address(&mut batch, uplink.v6.into(), &uplink.interface)?;
        writeln!(batch, "link set {} up", uplink.interface)?;
    }
    if let Some(uplink) = node.uplinks.first()
        && let Some((v4, v6)) = uplink.gateway
    {
        default_route(&mut batch, v4.into(), &uplink.interface)?;
        default_route(&mut batch, v6.into(), &uplink.interface)?;
    }
    place.netns(&node.name).ip_batch(&batch).await
}

async fn outside_addresses(place: &Place, host: &Host) -> Result<()> {
    let mut batch = String::new();
    address(&mut batch, host.v4.into(), "eth0")?;
    address(&mut batch, host.v6.into(), "eth0")?;
    writeln!(batch, "link set eth0 up")?;
    if let Some((v4, v6)) = host.gateway {
        default_route(&mut batch, v4.into(), "eth0")?;
        default_route(&mut batch, v6.into(), "eth0")?;
    }
    place.netns(OUTSIDE).ip_batch(&batch).await
}

fn veth(batch: &mut String, name: &str, peer: &str, peer_netns: &Netns) -> Result<()> {
    writeln!(batch, "link add {name} type veth peer name {peer} netns {}", peer_netns.name())?;
    Ok(())
}

fn address(batch: &mut String, prefix: IpNet, interface: &str) -> Result<()> {
    let nodad = if matches!(prefix, IpNet::V6(_)) { " nodad" } else { "" };
    writeln!(batch, "addr add {prefix} dev {interface}{nodad}")?;
    Ok(())
}

fn default_route(batch: &mut String, via: std::net::IpAddr, interface: &str) -> Result<()> {
    let all = if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    writeln!(batch, "route add {all} via {via} dev {interface} proto static")?;
    Ok(())
}
