//! BGPPeer, BGPFilter and BGPConfiguration that each break one rule.

use serde_json::{Value, json};

pub(super) fn bad() -> Vec<(&'static str, Value, &'static str)> {
    let filter = |rule: Value| json!({"exportV4": [rule]});
    let password = json!({"secretKeyRef": {"name": "s", "key": "k"}});
    vec![
        (
            "BGPConfiguration",
            json!({"nodeToNodeMeshEnabled": false, "nodeMeshPassword": password}),
            "nodeMeshPassword needs nodeToNodeMeshEnabled",
        ),
        (
            "BGPConfiguration",
            json!({"nodeToNodeMeshEnabled": false, "nodeMeshMaxRestartTime": "1s"}),
            "nodeMeshMaxRestartTime needs nodeToNodeMeshEnabled",
        ),
        ("BGPConfiguration", json!({"asNumber": 0}), "spec.asNumber"),
        ("BGPConfiguration", json!({"asNumber": "1.2.3"}), "spec.asNumber"),
        ("BGPConfiguration", json!({"listenPort": 65536}), "spec.listenPort"),
        ("BGPConfiguration", json!({"logSeverityScreen": "Loud"}), "spec.logSeverityScreen"),
        (
            "BGPConfiguration",
            json!({"serviceClusterIPs": [{"cidr": "10.96.0.0"}]}),
            "spec.serviceClusterIPs[0].cidr",
        ),
        (
            "BGPConfiguration",
            json!({"communities": [{"name": "a", "value": "65536:1"}]}),
            "spec.communities[0].value",
        ),
        (
            "BGPConfiguration",
            json!({"localWorkloadPeeringIPV4": "fe80::1"}),
            "spec.localWorkloadPeeringIPV4",
        ),
        (
            "BGPPeer",
            json!({"node": "n", "nodeSelector": "all()"}),
            "node and nodeSelector cannot both be set",
        ),
        (
            "BGPPeer",
            json!({"peerSelector": "all()", "asNumber": 1}),
            "peerSelector cannot be combined",
        ),
        (
            "BGPPeer",
            json!({"peerSelector": "all()", "peerIP": "192.0.2.1"}),
            "peerSelector cannot be combined",
        ),
        (
            "BGPPeer",
            json!({"localWorkloadSelector": "all()", "asNumber": 1, "peerIP": "192.0.2.1"}),
            "localWorkloadSelector cannot be combined",
        ),
        (
            "BGPPeer",
            json!({"localWorkloadSelector": "all()"}),
            "localWorkloadSelector requires asNumber",
        ),
        ("BGPPeer", json!({"reachableBy": "192.0.2.1"}), "reachableBy requires peerIP"),
        (
            "BGPPeer",
            json!({"keepOriginalNextHop": true, "nextHopMode": "Self"}),
            "keepOriginalNextHop contradicts nextHopMode",
        ),
        ("BGPPeer", json!({"peerIP": "fe80::1%eth0", "asNumber": 1}), "spec.peerIP"),
        ("BGPPeer", json!({"ttlSecurity": 256}), "spec.ttlSecurity"),
        ("BGPPeer", json!({"keepaliveTime": "soon"}), "spec.keepaliveTime"),
        (
            "BGPPeer",
            json!({"password": {"secretKeyRef": {"name": "s"}}}),
            "spec.password.secretKeyRef.key",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "cidr": "10.0.0.0/8"})),
            "cidr and matchOperator must both be set or both be empty",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "matchOperator": "In"})),
            "cidr and matchOperator must both be set or both be empty",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "prefixLength": {"min": 8}})),
            "cidr is required when prefixLength is set",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In",
            "prefixLength": {"min": 24, "max": 16}})),
            "min must not exceed max",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Reject", "operations": [{"setPriority": {"value": 1}}]})),
            "operations may only be used with action Accept",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "operations": [{}]})),
            "exactly one of addCommunity",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "operations": [
            {"setPriority": {"value": 1}, "addCommunity": {"value": "1:1"}}]})),
            "exactly one of addCommunity",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "operations": [{"addCommunity": {"value": "x"}}]})),
            "operations[0].addCommunity.value",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "operations": [{"prependASPath": {"prefix": []}}]})),
            "operations[0].prependASPath.prefix",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "communities": {"values": ["1:1", "1:2"]}})),
            "communities.values",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "cidr": "fd00::/8", "matchOperator": "In"})),
            "spec.exportV4[0].cidr",
        ),
        (
            "BGPFilter",
            filter(json!({"action": "Accept", "priority": 0})),
            "spec.exportV4[0].priority",
        ),
    ]
}
