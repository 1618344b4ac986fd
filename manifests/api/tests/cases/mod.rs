//! Objects that are right and objects that each break one rule, for the test of the validation here
//! and for that of the definitions in a real API server.

use serde_json::{Value, json};

mod addresses;
mod peerings;

/// An object and what is to become of it.
pub(crate) struct Case {
    /// The object.
    pub(crate) object: Value,
    /// What it is an update of; None for a new object.
    pub(crate) old: Option<Value>,
    /// A part of the message that it is rejected with; None if it is right.
    pub(crate) message: Option<&'static str>,
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec,
    })
}

/// Every case. Names differ between the good objects of a kind.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (index, (kind, spec)) in good().into_iter().enumerate() {
        let name = match kind {
            "IPAMConfiguration" | "BGPConfiguration" | "KubeControllersConfiguration" => {
                "default".to_owned()
            }
            _ => format!("good-{index}"),
        };
        cases.push(Case { object: object(kind, &name, &spec), old: None, message: None });
    }
    for (name, order, action) in [
        ("kube-admin", 1000, "Pass"),
        ("default", 1_000_000, "Deny"),
        ("kube-baseline", 10_000_000, "Pass"),
    ] {
        let spec = json!({"order": order, "defaultAction": action});
        cases.push(Case { object: object("Tier", name, &spec), old: None, message: None });
    }
    for (kind, name, spec, message) in bad_names() {
        cases.push(Case { object: object(kind, name, &spec), old: None, message: Some(message) });
    }
    for (kind, spec, message) in bad() {
        let name = if kind == "BGPConfiguration" { "default" } else { "bad" };
        cases.push(Case { object: object(kind, name, &spec), old: None, message: Some(message) });
    }
    for (kind, old, new, message) in bad_updates() {
        cases.push(Case {
            object: object(kind, "updated", &new),
            old: Some(object(kind, "updated", &old)),
            message: Some(message),
        });
    }
    cases
}

fn good() -> Vec<(&'static str, Value)> {
    vec![
        ("IPPool", json!({"cidr": "10.244.0.0/16"})),
        (
            "IPPool",
            json!({
                "cidr": "10.245.0.0/16", "blockSize": 24, "natOutgoing": true, "vxlanMode": "CrossSubnet",
                "ipipMode": "Never", "nodeSelector": "rack == 'a'", "disabled": true,
                "disableBGPExport": true, "allowedUses": ["Workload"], "assignmentMode": "Manual",
                "namespaceSelector": "team == 'x'",
            }),
        ),
        ("IPPool", json!({"cidr": "fd00:1::/48", "blockSize": 122})),
        ("IPPool", json!({"cidr": "10.246.0.0/26", "ipipMode": "Always"})),
        ("IPPool", json!({"cidr": "198.51.100.0/24", "allowedUses": ["LoadBalancer"]})),
        (
            "IPReservation",
            json!({"reservedCIDRs": ["10.244.0.0/30", "10.244.1.7", "fd00:1::/120"]}),
        ),
        (
            "IPAMConfiguration",
            json!({
                "strictAffinity": true, "autoAllocateBlocks": false, "maxBlocksPerHost": 1_000_000,
                "kubeVirtVMAddressPersistence": "Disabled", "ipCooldownSeconds": 1200,
            }),
        ),
        (
            "BGPConfiguration",
            json!({
                "logSeverityScreen": "Debug", "nodeToNodeMeshEnabled": true, "asNumber": "1.10",
                "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/24"}], "listenPort": 1179,
                "serviceExternalIPs": [{"cidr": "203.0.113.0/24"}],
                "serviceClusterIPs": [{"cidr": "fd00:96::/112"}], "bindMode": "NodeIP",
                "communities": [{"name": "blue", "value": "65000:65535"}],
                "prefixAdvertisements": [
                    {"cidr": "10.0.0.0/8", "communities": ["blue", "4294967295:1:2"]},
                ],
                "nodeMeshPassword": {"secretKeyRef": {"name": "bgp", "key": "password"}},
                "nodeMeshMaxRestartTime": "1m30s", "ignoredInterfaces": ["docker*"],
                "localWorkloadPeeringIPV4": "169.254.1.1", "localWorkloadPeeringIPV6": "fe80::1",
                "programClusterRoutes": "EnabledIPIPOnly", "ipv4NormalRoutePriority": 1024,
                "serviceLoadBalancerAggregation": "Disabled",
            }),
        ),
        ("BGPPeer", json!({"peerIP": "192.0.2.1", "asNumber": 64501})),
        (
            "BGPPeer",
            json!({
                "nodeSelector": "rack == 'a'", "peerIP": "[2001:db8::1]:1179", "asNumber": "65000.1",
                "localASNumber": 64999, "password": {"secretKeyRef": {"name": "s", "key": "k"}},
                "sourceAddress": "None", "maxRestartTime": "120s", "keepaliveTime": "1s",
                "numAllowedLocalASNumbers": 1, "ttlSecurity": 1, "reachableBy": "192.0.2.254",
                "nextHopMode": "Self", "filters": ["a"], "reversePeering": "Manual",
            }),
        ),
        ("BGPPeer", json!({"nodeSelector": "!has(rr)", "peerSelector": "has(rr)"})),
        ("BGPPeer", json!({"localWorkloadSelector": "has(bgp)", "asNumber": 64600})),
        ("BGPPeer", json!({"peerIP": "192.0.2.9:179", "asNumber": 1, "keepOriginalNextHop": true})),
        (
            "BGPFilter",
            json!({
                "exportV4": [
                    {"cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 16, "max": 24},
                     "source": "RemotePeers", "interface": "eth*", "peerType": "eBGP", "action": "Accept",
                     "communities": {"values": ["65000:1"]}, "asPathPrefix": [65001, "1.1"],
                     "priority": 100, "operations": [
                        {"addCommunity": {"value": "1:2:3"}}, {"prependASPath": {"prefix": [65001]}},
                        {"setPriority": {"value": 200}}]},
                    {"action": "Reject"},
                ],
                "importV6": [{"cidr": "fd00::/8", "matchOperator": "NotIn", "action": "Reject"}],
            }),
        ),
        (
            "FelixConfiguration",
            json!({
                "interfacePrefix": "cali", "logSeverityScreen": "WARNING", "healthPort": 9099,
                "defaultEndpointToHostAction": "ACCEPT", "nftablesMode": "Enabled", "chainInsertMode": "insert",
                "failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22, "net": "10.0.0.0/8"}],
                "routeRefreshInterval": "1m30s", "natPortRange": "1024:65535", "kubeNodePortRanges": ["30000:32767"],
                "externalNodesList": ["192.0.2.0/24"], "logActionRateLimit": "10/second",
                "routeTableRanges": [{"min": 1, "max": 250}], "iptablesBackend": "nft",
                "healthTimeoutOverrides": [{"name": "x", "timeout": "5s"}],
            }),
        ),
        (
            "GlobalNetworkPolicy",
            json!({
                "tier": "default", "order": 10.5, "selector": "app == 'a'", "types": ["Ingress", "Egress"],
                "ingress": [
                    {"action": "Allow", "protocol": "TCP", "source": {"nets": ["10.0.0.0/8", "192.0.2.7"]},
                     "destination": {"ports": [80, "8000:8080", "http"]}},
                    {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8, "code": 0}, "ipVersion": 4},
                    {"action": "Deny", "source": {"notNets": ["fd00::/8"], "nets": ["::/0"]}, "ipVersion": 6},
                    {"action": "Allow", "http": {"methods": ["GET"], "paths": [{"exact": "/"}]}},
                    {"action": "Log"},
                ],
                "egress": [
                    {"action": "Allow", "destination": {"services": {"name": "s", "namespace": "n"}}},
                    {"action": "Pass", "destination": {"ports": ["dns"], "namespaceSelector": "global()"}},
                    {"action": "Deny", "protocol": 47},
                ],
            }),
        ),
        (
            "GlobalNetworkPolicy",
            json!({"preDNAT": true, "applyOnForward": true, "types": ["Ingress"]}),
        ),
        ("GlobalNetworkPolicy", json!({"doNotTrack": true, "applyOnForward": true})),
        (
            "NetworkPolicy",
            json!({"selector": "has(a)", "serviceAccountSelector": "has(b)",
            "performanceHints": ["AssumeNeededOnEveryNode"]}),
        ),
        ("NetworkSet", json!({"nets": ["10.0.0.1/24", "192.0.2.1", "2001:db8::/32"]})),
        ("GlobalNetworkSet", json!({})),
        (
            "HostEndpoint",
            json!({"node": "n", "interfaceName": "eth0", "expectedIPs": ["192.0.2.1"],
            "profiles": ["p"], "ports": [{"name": "ssh", "port": 22, "protocol": "TCP"}]}),
        ),
        ("HostEndpoint", json!({"node": "n", "expectedIPs": ["fe80::1"]})),
        (
            "KubeControllersConfiguration",
            json!({
                "logSeverityScreen": "Info", "healthChecks": "Enabled", "etcdV3CompactionPeriod": "10m",
                "prometheusMetricsPort": 9094, "debugProfilePort": 0, "controllers": {
                    "node": {"reconcilerPeriod": "5m", "syncLabels": "Enabled", "leakGracePeriod": "15m",
                        "hostEndpoint": {"autoCreate": "Enabled", "createDefaultHostEndpoint": "Disabled",
                            "templates": [{"generateName": "lan", "interfaceCIDRs": ["10.0.0.0/8"],
                                "labels": {"side": "lan"}, "nodeSelector": "has(rack)"},
                                {"generateName": "wan", "interfacePattern": "^wan"}]}},
                    "policy": {"reconcilerPeriod": "5m"}, "workloadEndpoint": {}, "serviceAccount": {},
                    "namespace": {}, "loadBalancer": {"assignIPs": "RequestedServicesOnly"},
                    "policyMigration": {"enabled": "Disabled"}},
            }),
        ),
        ("Tier", json!({"order": 5.5, "defaultAction": "Pass"})),
        (
            "StagedNetworkPolicy",
            json!({"stagedAction": "Set", "selector": "a == 'b'",
            "ingress": [{"action": "Deny", "protocol": "TCP", "source": {"ports": [1, "2:3"]}}]}),
        ),
        ("StagedNetworkPolicy", json!({"stagedAction": "Delete"})),
        (
            "StagedGlobalNetworkPolicy",
            json!({"stagedAction": "Learn", "order": 1.5, "egress": [{"action": "Allow"}]}),
        ),
        (
            "StagedKubernetesNetworkPolicy",
            json!({"stagedAction": "Ignore", "podSelector": {},
            "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 80}]}]}),
        ),
        ("StagedKubernetesNetworkPolicy", json!({})),
        ("Tier", json!({})),
    ]
}

fn bad_names() -> Vec<(&'static str, &'static str, Value, &'static str)> {
    vec![
        ("IPAMConfiguration", "other", json!({}), "the only IPAMConfiguration is named default"),
        (
            "KubeControllersConfiguration",
            "other",
            json!({}),
            "the only KubeControllersConfiguration is named default",
        ),
        (
            "BGPConfiguration",
            "node.a",
            json!({"nodeMeshPassword": {"secretKeyRef": {"name": "s", "key": "k"}}}),
            "can only be set in the BGPConfiguration named default",
        ),
        (
            "BGPConfiguration",
            "node.a",
            json!({"nodeMeshMaxRestartTime": "1s"}),
            "can only be set in the BGPConfiguration named default",
        ),
        ("Tier", "kube-admin", json!({"order": 1}), "tier kube-admin has order 1000"),
        (
            "Tier",
            "default",
            json!({"order": 1_000_000, "defaultAction": "Pass"}),
            "tier default has order 1000000",
        ),
        ("Tier", "kube-baseline", json!({}), "tier kube-baseline has order 10000000"),
    ]
}

/// Rules of a policy, each wrapped in a policy that is otherwise right.
fn bad_rules() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({"action": "Deny", "http": {"methods": ["GET"]}}),
            "http is only allowed with action Allow",
        ),
        (
            json!({"action": "Allow", "protocol": "UDP", "http": {}}),
            "http is only allowed with protocol TCP",
        ),
        (json!({"action": "Allow", "icmp": {"type": 8}}), "icmp and notICMP require protocol"),
        (
            json!({"action": "Allow", "protocol": "TCP", "notICMP": {"type": 8}}),
            "icmp and notICMP require protocol",
        ),
        (
            json!({"action": "Allow", "protocol": "ICMP", "ipVersion": 6}),
            "protocol ICMP goes with ipVersion 4 only",
        ),
        (
            json!({"action": "Allow", "protocol": "ICMPv6", "ipVersion": 4}),
            "protocol ICMP goes with ipVersion 4 only",
        ),
        (json!({"action": "Allow", "protocol": "ICMP", "icmp": {"code": 0}}), "code requires type"),
        (
            json!({"action": "Allow", "protocol": "TCP", "destination": {"services": {"name": "s"}, "ports": [80]}}),
            "destination.services cannot be combined with destination ports",
        ),
        (
            json!({"action": "Allow", "destination": {"ports": [80]}}),
            "ports given by number require protocol",
        ),
        (
            json!({"action": "Allow", "protocol": "ICMP", "source": {"notPorts": [80]}}),
            "ports given by number require protocol",
        ),
        (
            json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}),
            "nets cannot mix IPv4 and IPv6",
        ),
        (
            json!({"action": "Allow", "source": {"notNets": ["10.0.0.0/8", "fd00::/8"]}}),
            "notNets cannot mix IPv4 and IPv6",
        ),
        (
            json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8"]}, "destination": {"notNets": ["fd00::/8"]}}),
            "a rule cannot mix IPv4 and IPv6",
        ),
        (
            json!({"action": "Allow", "ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}),
            "a rule cannot mix IPv4 and IPv6",
        ),
        (
            json!({"action": "Allow", "source": {"notNets": ["0.0.0.0/0"]}}),
            "notNets cannot contain 0.0.0.0/0 or ::/0",
        ),
        (
            json!({"action": "Allow", "source": {"services": {"name": "s"}, "selector": "has(a)"}}),
            "services cannot be combined with",
        ),
        (
            json!({"action": "Allow", "source": {"services": {"name": "s"}, "nets": ["10.0.0.0/8"]}}),
            "services cannot be combined with",
        ),
        (
            json!({"action": "Allow", "source": {"services": {"name": "s"}, "serviceAccounts": {"names": ["a"]}}}),
            "services cannot be combined with",
        ),
        (
            json!({"action": "Allow", "source": {"services": {"namespace": "n"}}}),
            "name must be given",
        ),
        (
            json!({"action": "Allow", "source": {"namespaceSelector": "global() || has(a)"}}),
            "global() must be the entire namespaceSelector",
        ),
        (
            json!({"action": "Allow", "http": {"paths": [{"exact": "/a", "prefix": "/b"}]}}),
            "exactly one of exact and prefix",
        ),
        (json!({"action": "Allow", "http": {"paths": [{}]}}), "exactly one of exact and prefix"),
        (json!({"action": "Permit"}), "spec.ingress[0].action"),
        (json!({"action": "Allow", "ipVersion": 5}), "spec.ingress[0].ipVersion"),
        (json!({"action": "Allow", "protocol": "TPC"}), "spec.ingress[0].protocol"),
        (json!({"action": "Allow", "protocol": 256}), "spec.ingress[0].protocol"),
        (
            json!({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 255}}),
            "spec.ingress[0].icmp.type",
        ),
        (
            json!({"action": "Allow", "source": {"nets": ["10.0.0.0/33"]}}),
            "spec.ingress[0].source.nets[0]",
        ),
        (
            json!({"action": "Allow", "protocol": "TCP", "source": {"ports": [65536]}}),
            "spec.ingress[0].source.ports[0]",
        ),
        (json!({"source": {}}), "spec.ingress[0].action"),
    ]
}

fn bad() -> Vec<(&'static str, Value, &'static str)> {
    let rules = bad_rules().into_iter();
    let mut bad: Vec<_> = rules
        .map(|(rule, message)| ("GlobalNetworkPolicy", json!({"ingress": [rule]}), message))
        .collect();
    bad.extend(addresses::bad());
    bad.extend(peerings::bad());
    bad.extend([
        ("GlobalNetworkPolicy", json!({"preDNAT": true, "doNotTrack": true, "applyOnForward": true}),
         "preDNAT and doNotTrack cannot both be true"),
        ("GlobalNetworkPolicy", json!({"preDNAT": true, "applyOnForward": true, "egress": [{"action": "Allow"}]}),
         "a preDNAT policy cannot have egress rules"),
        ("GlobalNetworkPolicy", json!({"preDNAT": true, "applyOnForward": true, "types": ["Egress"]}),
         "a preDNAT policy cannot have type Egress"),
        ("GlobalNetworkPolicy", json!({"doNotTrack": true}), "applyOnForward must be true"),
        ("GlobalNetworkPolicy", json!({"types": []}), "spec.types"),
        ("GlobalNetworkPolicy", json!({"selector": "a".repeat(1025)}), "spec.selector"),
        ("NetworkPolicy", json!({"selector": "global()"}), "global() cannot be used in the selector"),
        ("NetworkPolicy", json!({"serviceAccountSelector": "global()"}),
         "global() cannot be used in the serviceAccountSelector"),
        ("NetworkPolicy", json!({"performanceHints": ["Fast"]}), "spec.performanceHints[0]"),
        ("NetworkSet", json!({"nets": ["here"]}), "spec.nets[0]"),
        (
            "KubeControllersConfiguration",
            json!({"controllers": {"node": {"hostEndpoint": {"templates": [{"generateName": "a"}]}}}}),
            "at least one of interfaceCIDRs and interfacePattern",
        ),
        ("HostEndpoint", json!({"node": "n"}), "at least one of interfaceName and expectedIPs"),
        ("HostEndpoint", json!({"interfaceName": "eth0"}), "spec.node"),
        ("HostEndpoint", json!({"node": "n", "interfaceName": "a".repeat(16)}), "spec.interfaceName"),
        ("HostEndpoint", json!({"node": "n", "expectedIPs": ["x"]}), "spec.expectedIPs[0]"),
        ("HostEndpoint", json!({"node": "n", "interfaceName": "*", "ports": [{"name": "a", "port": 0, "protocol": "TCP"}]}),
         "spec.ports[0].port"),
        ("Tier", json!({"defaultAction": "Allow"}), "spec.defaultAction"),
        ("StagedNetworkPolicy", json!({"stagedAction": "Try"}), "spec.stagedAction"),
        ("StagedNetworkPolicy", json!({"selector": "global()"}), "global() cannot be used in the selector"),
        ("StagedGlobalNetworkPolicy", json!({"doNotTrack": true}), "applyOnForward must be true"),
        ("FelixConfiguration", json!({"defaultEndpointToHostAction": "Deny"}), "spec.defaultEndpointToHostAction"),
        ("FelixConfiguration", json!({"routeRefreshInterval": "90"}), "spec.routeRefreshInterval"),
        ("FelixConfiguration", json!({"vxlanPort": 0}), "spec.vxlanPort"),
        ("FelixConfiguration", json!({"logActionRateLimit": "10/week"}), "spec.logActionRateLimit"),
        ("FelixConfiguration", json!({"externalNodesList": ["x"]}), "spec.externalNodesList[0]"),
    ]);
    bad
}

fn bad_updates() -> Vec<(&'static str, Value, Value, &'static str)> {
    vec![
        (
            "IPPool",
            json!({"cidr": "10.10.0.0/16"}),
            json!({"cidr": "10.10.0.0/17"}),
            "cidr is immutable",
        ),
        (
            "IPPool",
            json!({"cidr": "10.10.0.0/16"}),
            json!({"cidr": "10.10.0.0/16", "blockSize": 25}),
            "blockSize is immutable",
        ),
    ]
}
