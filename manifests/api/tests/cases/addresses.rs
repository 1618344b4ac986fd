//! Pools, reservations and IPAMConfiguration that each break one rule.

use serde_json::{Value, json};

pub(super) fn bad() -> Vec<(&'static str, Value, &'static str)> {
    let balancer = |more: Value| {
        let mut spec = json!({"cidr": "10.9.0.0/16", "allowedUses": ["LoadBalancer"]});
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        spec
    };
    vec![
        ("IPPool", json!({}), "spec.cidr"),
        (
            "IPPool",
            json!({"cidr": "10.9.0.0/33"}),
            "cidr must be a network in CIDR notation without host bits",
        ),
        (
            "IPPool",
            json!({"cidr": "10.9.0.1/16"}),
            "cidr must be a network in CIDR notation without host bits",
        ),
        (
            "IPPool",
            json!({"cidr": "169.254.7.0/24"}),
            "cidr must not overlap the link-local ranges",
        ),
        ("IPPool", json!({"cidr": "fe80::/64"}), "cidr must not overlap the link-local ranges"),
        ("IPPool", json!({"cidr": "168.0.0.0/6"}), "cidr must not overlap the link-local ranges"),
        (
            "IPPool",
            json!({"cidr": "10.9.0.0/16", "blockSize": 19}),
            "blockSize must be from 20 to 32",
        ),
        (
            "IPPool",
            json!({"cidr": "10.9.0.0/16", "blockSize": 122}),
            "blockSize must be from 20 to 32",
        ),
        (
            "IPPool",
            json!({"cidr": "fd00:9::/48", "blockSize": 26}),
            "blockSize must be from 20 to 32",
        ),
        ("IPPool", json!({"cidr": "10.9.0.0/27"}), "cidr must be at least as large as one block"),
        (
            "IPPool",
            json!({"cidr": "10.9.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"}),
            "ipipMode and vxlanMode cannot both be enabled",
        ),
        (
            "IPPool",
            json!({"cidr": "fd00:9::/48", "ipipMode": "Always"}),
            "ipipMode is not available for IPv6",
        ),
        (
            "IPPool",
            balancer(json!({"allowedUses": ["LoadBalancer", "Workload"]})),
            "allowed use LoadBalancer cannot be combined",
        ),
        (
            "IPPool",
            balancer(json!({"nodeSelector": "has(a)"})),
            "a LoadBalancer pool must have nodeSelector all()",
        ),
        (
            "IPPool",
            balancer(json!({"vxlanMode": "Always"})),
            "a LoadBalancer pool cannot have ipipMode or vxlanMode",
        ),
        (
            "IPPool",
            balancer(json!({"disableBGPExport": true})),
            "a LoadBalancer pool cannot have disableBGPExport",
        ),
        (
            "IPPool",
            json!({"cidr": "10.9.0.0/16", "namespaceSelector": "has(a)"}),
            "namespaceSelector cannot be combined with allowed use Tunnel",
        ),
        ("IPPool", json!({"cidr": "10.9.0.0/16", "vxlanMode": "never"}), "spec.vxlanMode"),
        ("IPReservation", json!({"reservedCIDRs": ["x"]}), "spec.reservedCIDRs[0]"),
        ("IPAMConfiguration", json!({"maxBlocksPerHost": 1_000_001}), "spec.maxBlocksPerHost"),
        ("IPAMConfiguration", json!({"ipCooldownSeconds": 1201}), "spec.ipCooldownSeconds"),
    ]
}
