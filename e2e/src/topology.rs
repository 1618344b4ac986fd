//! The plan of a lab's network. Pure: options in, every name, link, address and AS number out.
//!
//! Racks, after RFC 7938: a private AS for each rack, eBGP from node to ToR and from ToR to spine.
//!
//! ```text
//!    outside ── spine (65000)
//!               │           │
//!             tor1 (65101)  tor2 (65102)         tor R: 65100 + R
//!             │        │    │
//!           node1   node3  node2                 in rack R: 4200000000 + R
//! ```
//!
//! A rack is one subnet, 10.0.R.0/24 and fd00:ca:R::/64, bridged in its ToR. The nodes of a rack
//! share an AS, so they take routes with their own AS once in the path, as the racks of RFC 7938
//! section 5.2.1 do. Mesh: one subnet, one AS, every node peers with every other.
//!
//! Besides, every node has a management link to `control`, where the API server and etcd listen.
//! Nothing is routed over it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Which shape the fabric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Shape {
    /// A ToR for each rack, and a spine.
    Racks,
    /// One layer 2 and no router.
    Mesh,
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) shape: Shape,
    pub(crate) nodes: u8,
    pub(crate) racks: u8,
    /// This many of the last nodes also hang on the next rack's ToR.
    pub(crate) dual_homed: u8,
}

/// Pods' addresses, IPv4.
pub(crate) const POOL_V4: &str = "10.244.0.0/16";
/// Pods' addresses, IPv6.
pub(crate) const POOL_V6: &str = "fd00:10:244::/64";
/// Where `control` is reached by the nodes.
pub(crate) const CONTROL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The AS of every node of a mesh: Calico's default.
pub(crate) const MESH_AS: u32 = 64512;
const SPINE_AS: u32 = 65000;

/// A plan.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Topology {
    pub(crate) shape: Shape,
    pub(crate) nodes: Vec<Node>,
    /// ToRs in order, then the spine; none in a mesh.
    pub(crate) routers: Vec<Router>,
    /// A host beyond the fabric that knows nothing of pods.
    pub(crate) outside: Host,
}

/// A node of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// From 1; 0 in a mesh.
    pub(crate) rack: u8,
    pub(crate) asn: u32,
    /// `eth0`, and `eth1` where dual-homed: the node's own address is that of `eth0`.
    pub(crate) uplinks: Vec<Uplink>,
    /// On `mgmt0`.
    pub(crate) management: Ipv4Addr,
}

/// A node's interface into the fabric.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Uplink {
    pub(crate) interface: String,
    /// The namespace at the other end: a ToR, or the mesh's switch.
    pub(crate) switch: String,
    pub(crate) v4: Ipv4Net,
    pub(crate) v6: Ipv6Net,
    /// The ToR's addresses in the rack; none in a mesh.
    pub(crate) gateway: Option<(Ipv4Addr, Ipv6Addr)>,
    /// The ToR's AS.
    pub(crate) tor_asn: Option<u32>,
}

/// A host that is not a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) v4: Ipv4Net,
    pub(crate) v6: Ipv6Net,
    pub(crate) gateway: Option<(Ipv4Addr, Ipv6Addr)>,
}

/// Which implementation a router runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Software {
    Frr,
    Bird,
}

/// A router of the fabric.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Router {
    pub(crate) name: String,
    pub(crate) software: Software,
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) interfaces: Vec<Port>,
    pub(crate) neighbors: Vec<Neighbor>,
}

/// An interface with addresses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Port {
    pub(crate) interface: String,
    /// A rack's bridge rather than one end of a link.
    pub(crate) bridge: bool,
    pub(crate) addresses: Vec<IpNet>,
}

/// Whom a router speaks BGP with; one session carries both families.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Neighbor {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) local: Ipv4Addr,
    pub(crate) asn: u32,
}

impl Topology {
    /// Draws the plan.
    ///
    /// # Errors
    /// Names the option that is out of its limits.
    pub(crate) fn plan(size: Size) -> Result<Self> {
        let Size { shape, nodes, racks, dual_homed } = size;
        ensure!((1..=60).contains(&nodes), "--nodes {nodes}: 1 to 60 are possible");
        ensure!((1..=16).contains(&racks), "--racks {racks}: 1 to 16 are possible");
        ensure!(dual_homed <= nodes, "--dual-homed {dual_homed}: there are {nodes} nodes");
        Ok(match shape {
            Shape::Mesh => {
                ensure!(dual_homed == 0, "--dual-homed {dual_homed}: a mesh has no second ToR");
                mesh(nodes)
            }
            Shape::Racks => {
                ensure!(
                    dual_homed == 0 || racks > 1,
                    "--dual-homed {dual_homed}: there is one rack only"
                );
                fabric(nodes, racks, dual_homed)
            }
        })
    }

    /// The node of that name.
    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

impl Node {
    /// The node's own addresses: Kubernetes' `InternalIP`s.
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        self.uplinks.first().map_or([CONTROL.into(); 2], |uplink| {
            [uplink.v4.addr().into(), uplink.v6.addr().into()]
        })
    }
}

const SWITCH: &str = "fabric";

fn mesh(nodes: u8) -> Topology {
    let nodes = (1..=nodes)
        .map(|number| Node {
            name: format!("node{number}"),
            rack: 0,
            asn: MESH_AS,
            uplinks: vec![Uplink {
                interface: "eth0".into(),
                switch: SWITCH.into(),
                v4: subnet_v4([10, 0, 0, host(number)], 24),
                v6: subnet_v6([0xfd00, 0xca, 0, 0], decimal(host(number))),
                gateway: None,
                tor_asn: None,
            }],
            management: Ipv4Addr::new(198, 18, 0, host(number)),
        })
        .collect();
    let outside = Host {
        v4: subnet_v4([10, 0, 0, 5], 24),
        v6: subnet_v6([0xfd00, 0xca, 0, 0], 5),
        gateway: None,
    };
    Topology { shape: Shape::Mesh, nodes, routers: Vec::new(), outside }
}

fn fabric(count: u8, racks: u8, dual_homed: u8) -> Topology {
    let nodes: Vec<Node> = (1..=count)
        .map(|number| {
            let rack = (number - 1) % racks + 1;
            let mut uplinks = vec![rack_uplink("eth0", rack, number)];
            if number > count - dual_homed {
                uplinks.push(rack_uplink("eth1", rack % racks + 1, number));
            }
            Node {
                name: format!("node{number}"),
                rack,
                asn: 4_200_000_000 + u32::from(rack),
                uplinks,
                management: Ipv4Addr::new(198, 18, 0, host(number)),
            }
        })
        .collect();
    let mut routers: Vec<Router> = (1..=racks).map(|rack| tor(rack, &nodes)).collect();
    routers.push(spine(racks));
    let gateway =
        (Ipv4Addr::new(203, 0, 113, 1), Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1));
    let outside = Host {
        v4: subnet_v4([203, 0, 113, 10], 24),
        v6: subnet_v6([0x2001, 0xdb8, 0x113, 0], 0x10),
        gateway: Some(gateway),
    };
    Topology { shape: Shape::Racks, nodes, routers, outside }
}

fn rack_uplink(interface: &str, rack: u8, number: u8) -> Uplink {
    let (v4, v6) = rack_addresses(rack, host(number));
    let (gateway_v4, gateway_v6) = rack_addresses(rack, 1);
    Uplink {
        interface: interface.into(),
        switch: format!("tor{rack}"),
        v4,
        v6,
        gateway: Some((gateway_v4.addr(), gateway_v6.addr())),
        tor_asn: Some(65100 + u32::from(rack)),
    }
}

fn tor(rack: u8, nodes: &[Node]) -> Router {
    let name = format!("tor{rack}");
    let (v4, v6) = rack_addresses(rack, 1);
    let (up_v4, up_v6) = spine_link(rack, 1);
    let (spine_v4, _) = spine_link(rack, 0);
    let mut neighbors = vec![Neighbor {
        name: "spine".into(),
        address: spine_v4.addr(),
        local: up_v4.addr(),
        asn: SPINE_AS,
    }];
    for node in nodes {
        for uplink in node.uplinks.iter().filter(|uplink| uplink.switch == name) {
            neighbors.push(Neighbor {
                name: node.name.clone(),
                address: uplink.v4.addr(),
                local: v4.addr(),
                asn: node.asn,
            });
        }
    }
    Router {
        name,
        software: if rack % 2 == 1 { Software::Frr } else { Software::Bird },
        asn: 65100 + u32::from(rack),
        router_id: v4.addr(),
        interfaces: vec![
            Port { interface: "rack".into(), bridge: true, addresses: vec![v4.into(), v6.into()] },
            Port {
                interface: "spine".into(),
                bridge: false,
                addresses: vec![up_v4.into(), up_v6.into()],
            },
        ],
        neighbors,
    }
}

fn spine(racks: u8) -> Router {
    let mut interfaces = vec![Port {
        interface: "outside".into(),
        bridge: false,
        addresses: vec![
            subnet_v4([203, 0, 113, 1], 24).into(),
            subnet_v6([0x2001, 0xdb8, 0x113, 0], 1).into(),
        ],
    }];
    let mut neighbors = Vec::new();
    for rack in 1..=racks {
        let (v4, v6) = spine_link(rack, 0);
        let name = format!("tor{rack}");
        interfaces.push(Port {
            interface: name.clone(),
            bridge: false,
            addresses: vec![v4.into(), v6.into()],
        });
        neighbors.push(Neighbor {
            name,
            address: spine_link(rack, 1).0.addr(),
            local: v4.addr(),
            asn: 65100 + u32::from(rack),
        });
    }
    Router {
        name: "spine".into(),
        software: Software::Frr,
        asn: SPINE_AS,
        router_id: Ipv4Addr::new(10, 255, 0, 1),
        interfaces,
        neighbors,
    }
}

/// The last octet of node N's addresses; N is at most 60.
fn host(number: u8) -> u8 {
    10 + number
}

fn rack_addresses(rack: u8, host: u8) -> (Ipv4Net, Ipv6Net) {
    let v6 = subnet_v6([0xfd00, 0xca, decimal(rack), 0], decimal(host));
    (subnet_v4([10, 0, rack, host], 24), v6)
}

/// `end` 0 is the spine's, 1 the ToR's.
fn spine_link(rack: u8, end: u8) -> (Ipv4Net, Ipv6Net) {
    let v6 = subnet_v6([0xfd00, 0xca, 0x255, decimal(rack)], u16::from(end) + 1);
    (subnet_v4([10, 255, rack, end], 31), v6)
}

fn subnet_v4(octets: [u8; 4], length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(octets.into(), length)
}

fn subnet_v6(prefix: [u16; 4], host: u16) -> Ipv6Net {
    let [a, b, c, d] = prefix;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, host), 64)
}

/// The number whose hexadecimal digits are the decimal digits of `number`, so that 10.0.2.14 and
/// fd00:ca:2::14 are seen to be the same node.
fn decimal(number: u8) -> u16 {
    let n = u16::from(number);
    n / 100 * 256 + n / 10 % 10 * 16 + n % 10
}

#[cfg(test)]
mod tests;
