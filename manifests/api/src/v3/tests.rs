use serde_json::json;

use super::*;

#[test]
fn as_numbers_are_read_in_both_notations() {
    let read = |value| serde_json::from_value::<AsNumber>(value).map(|number| number.0);
    assert_eq!(read(json!(64512)).unwrap(), 64512);
    assert_eq!(read(json!(4_294_967_295_u32)).unwrap(), u32::MAX);
    assert_eq!(read(json!("65001")).unwrap(), 65001);
    assert_eq!(read(json!("1.10")).unwrap(), 65546);
    assert_eq!(read(json!("65535.65535")).unwrap(), u32::MAX);
    for bad in [
        json!(0),
        json!(-1),
        json!(4_294_967_296_u64),
        json!(1.5),
        json!("0.0"),
        json!("1.65536"),
        json!("1.2.3"),
        json!(""),
        json!("."),
        json!("+1"),
        json!("x"),
        json!(true),
        json!(null),
    ] {
        let error = read(bad.clone()).unwrap_err().to_string();
        assert!(error.contains("AS number"), "{bad}: {error}");
    }
    assert_eq!(serde_json::to_value(AsNumber(65546)).unwrap(), json!(65546));
}

#[test]
fn protocols_are_equal_however_they_are_written() {
    let read = |value| serde_json::from_value::<Protocol>(value);
    assert_eq!(read(json!("TCP")).unwrap(), read(json!(6)).unwrap());
    assert_eq!(read(json!("ICMPv6")).unwrap(), read(json!("58")).unwrap());
    assert_eq!(serde_json::to_value(Protocol(17)).unwrap(), json!("UDP"));
    assert_eq!(serde_json::to_value(Protocol(47)).unwrap(), json!(47));
    for bad in [json!(0), json!(256), json!("TCPX"), json!(""), json!(-6)] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    let read = |value| serde_json::from_value::<Port>(value);
    assert_eq!(read(json!(80)).unwrap(), Port::Range(80, 80));
    assert_eq!(read(json!("80")).unwrap(), Port::Range(80, 80));
    assert_eq!(read(json!("1:65535")).unwrap(), Port::Range(1, 65535));
    assert_eq!(read(json!("http")).unwrap(), Port::Named("http".to_owned()));
    assert_eq!(read(json!("8080tcp")).unwrap(), Port::Named("8080tcp".to_owned()));
    for port in [json!(80), json!("1:65535"), json!("http")] {
        assert_eq!(serde_json::to_value(read(port.clone()).unwrap()).unwrap(), port);
    }
    for bad in [
        json!(0),
        json!(65536),
        json!("0:1"),
        json!("2:1"),
        json!("1:"),
        json!(":"),
        json!("1:2:3"),
        json!("a b"),
        json!(""),
        json!("99999"),
        json!("a".repeat(129)),
    ] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn durations_are_those_of_go() {
    let read = |text: &str| text.parse::<Duration>().map(|d| d.0.as_nanos());
    assert_eq!(read("0").unwrap(), 0);
    assert_eq!(read("90s").unwrap(), 90_000_000_000);
    assert_eq!(read("1m30s").unwrap(), 90_000_000_000);
    assert_eq!(read("1.5h").unwrap(), 5_400_000_000_000);
    assert_eq!(read("0.1s").unwrap(), 100_000_000);
    assert_eq!(read("500ms").unwrap(), 500_000_000);
    assert_eq!(read(".5s").unwrap(), 500_000_000);
    assert_eq!(read("3µs2ns").unwrap(), 3_002);
    for bad in
        ["", "1", "-1s", "+1s", "s", "1x", "1.s.", ".s", "1 s", "9999999h", "99999999999999999999s"]
    {
        assert!(read(bad).is_err(), "{bad}");
    }
    for text in ["0s", "90s", "1500ms", "7us", "3ns"] {
        assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
    }
}

/// A manifest with every field of a kind comes back as it was written.
#[test]
fn manifests_survive_a_round_trip() {
    let peer = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": "tor"},
        "spec": {
            "node": "n", "nodeSelector": "rack == 'a'", "peerIP": "192.0.2.1:179", "asNumber": 64501,
            "localASNumber": 64502, "peerSelector": "all()", "localWorkloadSelector": "all()",
            "keepOriginalNextHop": true, "nextHopMode": "Self",
            "password": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}},
            "sourceAddress": "None", "maxRestartTime": "120s", "keepaliveTime": "20s",
            "numAllowedLocalASNumbers": 1, "ttlSecurity": 1, "reachableBy": "192.0.2.254",
            "filters": ["f"], "reversePeering": "Manual",
        },
    });
    let read: BGPPeer = serde_json::from_value(peer.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), peer);

    let rule = json!({
        "action": "Allow", "ipVersion": 4, "protocol": "TCP", "notProtocol": "UDP",
        "icmp": {"type": 8, "code": 0}, "notICMP": {"type": 3},
        "source": {
            "nets": ["10.0.0.0/8"], "selector": "a == 'b'", "namespaceSelector": "global()",
            "services": {"name": "s", "namespace": "n"}, "ports": [80, "http", "1:2"],
            "notNets": ["10.1.0.0/16"], "notSelector": "has(x)", "notPorts": [443],
            "serviceAccounts": {"names": ["sa"], "selector": "y"},
        },
        "destination": {"ports": [53]},
        "http": {"methods": ["GET"], "paths": [{"exact": "/a"}, {"prefix": "/b"}]},
        "metadata": {"annotations": {"k": "v"}},
    });
    let policy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {
            "tier": "t", "order": 10.5, "ingress": [rule], "egress": [{"action": "Pass"}],
            "selector": "s", "namespaceSelector": "n", "types": ["Ingress", "Egress"],
            "doNotTrack": true, "preDNAT": true, "applyOnForward": true,
            "serviceAccountSelector": "x", "performanceHints": ["AssumeNeededOnEveryNode"],
        },
    });
    let read: GlobalNetworkPolicy = serde_json::from_value(policy.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), policy);

    let filter = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "BGPFilter", "metadata": {"name": "f"},
        "spec": {"exportV4": [{
            "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 16, "max": 24},
            "source": "RemotePeers", "interface": "eth0", "peerType": "eBGP",
            "communities": {"values": ["65000:1"]}, "asPathPrefix": [65001], "priority": 100,
            "action": "Accept",
            "operations": [
                {"addCommunity": {"value": "65000:2"}}, {"prependASPath": {"prefix": [65001]}},
                {"setPriority": {"value": 200}},
            ],
        }]},
    });
    let read: BGPFilter = serde_json::from_value(filter.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), filter);
}

/// The names that snake case alone would not give.
#[test]
fn acronyms_in_field_names_are_those_of_the_field() {
    let names = [
        ("deviceRouteSourceAddressIPv6", json!("::1")),
        ("vxlanMTUV6", json!(1)),
        ("vxlanVNI", json!(1)),
        ("ipipMTU", json!(1)),
        ("wireguardMTUV6", json!(1)),
        ("wireguardEnabledV6", json!(true)),
        ("floatingIPs", json!("Enabled")),
        ("allowVXLANPacketsFromWorkloads", json!(true)),
        ("requireMTUFile", json!(true)),
        ("allowIPIPPacketsFromWorkloads", json!(true)),
        ("prometheusMetricsCAFile", json!("f")),
        ("prometheusWireGuardMetricsEnabled", json!(true)),
        ("goGCThreshold", json!(1)),
        ("iptablesNATOutgoingInterfaceFilter", json!("e")),
        ("goMemoryLimitMB", json!(1)),
        ("localSubnetL2Reachability", json!("Disabled")),
        ("natOutgoingAddress", json!("1.1.1.1")),
        ("nftablesMode", json!("Auto")),
        ("ipsetsRefreshInterval", json!("1s")),
        ("natPortRange", json!("1:2")),
        ("ipv4NormalRoutePriority", json!(1)),
        ("genericXDPEnabled", json!(true)),
        ("reportingTTL", json!("1s")),
        ("mtuIfacePattern", json!("e")),
        ("ipv6Support", json!(true)),
        ("natOutgoingExclusions", json!("IPPoolsAndHostIPs")),
        ("awsSrcDstCheck", json!("Enable")),
        ("externalNodesList", json!(["10.0.0.0/8"])),
        ("routeSource", json!("CalicoIPAM")),
        ("failsafeInboundHostPorts", json!([{"protocol": "tcp", "port": 22}])),
    ];
    let mut spec = serde_json::Map::new();
    spec.extend(names.map(|(name, value)| (name.to_owned(), value)));
    let read = serde_json::from_value::<FelixConfigurationSpec>(json!(spec)).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    for (name, value) in spec {
        assert_eq!(written.get(&name), Some(&value), "{name}");
    }
}

#[test]
fn felix_values_are_taken_in_any_case_and_layers_overlay() {
    let read = |spec| serde_json::from_value::<FelixConfigurationSpec>(spec);
    let all = read(json!({"defaultEndpointToHostAction": "ACCEPT", "healthPort": 1})).unwrap();
    assert_eq!(all.default_endpoint_to_host_action, Some(EndpointToHostAction::Accept));
    let node = read(json!({"healthPort": 2})).unwrap();
    let both = all.overlaid(&node);
    assert_eq!(both.health_port, Some(2));
    assert_eq!(both.default_endpoint_to_host_action, Some(EndpointToHostAction::Accept));
    assert!(read(json!({"defaultEndpointToHostAction": "Deny"})).is_err());
    assert!(read(json!({"nftablesMode": "Sometimes"})).is_err());
}

#[test]
fn policies_say_their_directions() {
    use PolicyType::{Egress, Ingress};
    let rule = || vec![Rule::new(Action::Allow)];
    let types = |written: &[PolicyType], ingress, egress| {
        let types = written.to_vec();
        NetworkPolicySpec { types, ingress, egress, ..Default::default() }.types()
    };
    assert_eq!(types(&[], vec![], vec![]), [Ingress]);
    assert_eq!(types(&[], rule(), vec![]), [Ingress]);
    assert_eq!(types(&[], vec![], rule()), [Egress]);
    assert_eq!(types(&[], rule(), rule()), [Ingress, Egress]);
    assert_eq!(types(&[Egress], rule(), rule()), [Egress]);
}

#[test]
fn pools_have_calico_s_defaults() {
    let pool: IPPoolSpec = serde_json::from_value(json!({"cidr": "fd00::/48"})).unwrap();
    assert_eq!(pool, IPPoolSpec::new("fd00::/48"));
    assert_eq!(pool.block_size(), 122);
    assert_eq!(IPPoolSpec::new("10.0.0.0/8").block_size(), 26);
    assert!(
        pool.allows(IPPoolAllowedUse::Workload) && !pool.allows(IPPoolAllowedUse::LoadBalancer)
    );
}
