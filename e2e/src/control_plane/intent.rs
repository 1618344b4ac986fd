//! The objects that say what the lab's network is: nodes, pools, peers.

use serde_json::{Value, json};

use crate::topology::{MESH_AS, Node, POOL_V4, POOL_V6, Shape, Topology};

/// How long a router keeps a restarting node's routes, in seconds.
const RESTART: u32 = 60;

/// Everything, in an order in which it can be applied.
pub(crate) fn objects(topology: &Topology) -> Vec<Value> {
    let mut objects = vec![
        pool("default-ipv4-ippool", POOL_V4, 26, true),
        pool("default-ipv6-ippool", POOL_V6, 122, false),
    ];
    let mesh = topology.shape == Shape::Mesh;
    let mut spec = json!({ "asNumber": MESH_AS, "nodeToNodeMeshEnabled": mesh });
    if mesh {
        spec["nodeMeshMaxRestartTime"] = format!("{RESTART}s").into();
    }
    objects.push(calico("BGPConfiguration", "default", &spec));
    objects.extend(peers(topology));
    objects.extend(topology.nodes.iter().map(node));
    objects
}

/// One peer for each rack, selected by the nodes' label; one more for each second uplink.
fn peers(topology: &Topology) -> Vec<Value> {
    let mut peers = Vec::new();
    let mut racks: Vec<u8> = Vec::new();
    for node in &topology.nodes {
        for (number, uplink) in node.uplinks.iter().enumerate() {
            let (Some((gateway, _)), Some(asn)) = (uplink.gateway, uplink.tor_asn) else {
                continue;
            };
            let mut spec = json!({
                "peerIP": gateway.to_string(),
                "asNumber": asn,
                // The nodes of a rack share an AS.
                "numAllowedLocalASNumbers": 1,
                "maxRestartTime": format!("{RESTART}s"),
            });
            let name = if number == 0 {
                if racks.contains(&node.rack) {
                    continue;
                }
                racks.push(node.rack);
                spec["nodeSelector"] = format!("rack == '{}'", node.rack).into();
                uplink.switch.clone()
            } else {
                spec["node"] = node.name.clone().into();
                // The node's own address is on its first uplink; this one has another.
                spec["sourceAddress"] = "None".into();
                format!("{}-{}", node.name, uplink.switch)
            };
            peers.push(calico("BGPPeer", &name, &spec));
        }
    }
    peers
}

/// A Node, as a kubelet would register it.
pub(crate) fn node(node: &Node) -> Value {
    let addresses: Vec<Value> = node
        .addresses()
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address.to_string() }))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
                "rack": node.rack.to_string(),
            },
            "annotations": { "projectcalico.org/ASNumber": node.asn.to_string() },
        },
        "status": {
            "addresses": addresses,
            "capacity": { "pods": "110" },
            "allocatable": { "pods": "110" },
        },
    })
}

fn pool(name: &str, cidr: &str, block_size: u8, nat_outgoing: bool) -> Value {
    let spec = json!({ "cidr": cidr, "blockSize": block_size, "natOutgoing": nat_outgoing });
    calico("IPPool", name, &spec)
}

fn calico(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": { "name": name },
        "spec": spec,
    })
}
