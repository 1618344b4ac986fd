use serde_json::json;

use super::*;

fn paths(kind: &str, spec: Value) -> Vec<String> {
    let object = json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "x"}, "spec": spec,
    });
    unsupported(&object).iter().map(ToString::to_string).collect()
}

#[test]
fn only_what_is_set_and_not_acted_on_is_named() {
    assert!(paths("IPPool", json!({"cidr": "10.0.0.0/16", "natOutgoing": true})).is_empty());
    let spec = json!({"cidr": "10.0.0.0/16", "namespaceSelector": "team == 'a'"});
    assert!(paths("IPPool", spec).is_empty());
    assert_eq!(
        paths("IPPool", json!({"cidr": "10.0.0.0/16", "vxlanMode": "Always", "ipipMode": "Never"})),
        ["spec.vxlanMode"],
        "a default asks for nothing"
    );
    assert_eq!(
        paths("BGPPeer", json!({"peerIP": "192.0.2.1", "reachableBy": "192.0.2.9"})),
        ["spec.reachableBy"]
    );
    assert!(paths("BGPPeer", json!({"peerIP": "192.0.2.1", "reachableBy": ""})).is_empty());
    let config = json!({"interfacePrefix": "veth", "logSeverityScreen": "Debug"});
    assert_eq!(paths("FelixConfiguration", config), ["spec.interfacePrefix"]);
    let config = json!({"nodeSelector": "rack == 'a'", "defaultEndpointToHostAction": "Drop"});
    assert_eq!(paths("FelixConfiguration", config), ["spec.nodeSelector"]);
    for kind in ["NetworkSet", "GlobalNetworkSet"] {
        assert_eq!(paths(kind, json!({"x": 1})), ["spec"], "{kind}");
    }
    assert!(paths("Pod", json!({"containers": []})).is_empty());
}

#[test]
fn what_rules_say_is_named_once_for_a_direction_and_in_each_rule() {
    let rules = json!([
        {"action": "Log"},
        {"action": "Deny", "protocol": "ICMP", "icmp": {"type": 8}},
        {"action": "Allow", "destination": {"ports": [80], "nets": ["10.0.0.0/8"]}, "protocol": 6},
        {"action": "Allow", "http": {"methods": ["GET"]}, "source": {"ports": [80]}},
        {"action": "Allow", "http": {}, "source": {"notPorts": [53]}},
        {"action": "Allow", "destination": {"services": {"name": "db"}}},
        {"action": "Allow", "source": {"services": {"name": "db", "namespace": "shop"}}},
        {"action": "Pass", "source": {"ports": [], "selector": "a == 'b'"}},
    ]);
    for kind in ["NetworkPolicy", "GlobalNetworkPolicy"] {
        assert!(paths(kind, json!({"order": 5, "tier": "x", "types": ["Egress"]})).is_empty());
        let egress = json!([{"action": "Log"}, {"action": "Allow", "http": {}}]);
        let spec = json!({"tier": "default", "ingress": rules, "egress": egress});
        assert_eq!(paths(kind, spec.clone()), ["spec.egress[].http", "spec.ingress[].http"]);
        let object = json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "spec": spec});
        assert_eq!(
            unsupported_in_rules(&object),
            ["spec.ingress[3].http", "spec.ingress[4].http", "spec.egress[1].http",]
        );
    }
    let spec = json!({"doNotTrack": true, "applyOnForward": true});
    assert_eq!(paths("GlobalNetworkPolicy", spec), Vec::<String>::new());
    assert!(paths("Tier", json!({"order": 5, "defaultAction": "Pass"})).is_empty());
}

#[test]
fn typed_objects_name_nothing_for_their_defaults() {
    let pool = v3::IPPool::new("pool", v3::IPPoolSpec::new("10.0.0.0/16"));
    assert_eq!(unsupported(&pool), []);
    let config = v3::IPAMConfiguration::new("default", Default::default());
    assert_eq!(unsupported(&config), []);
}

#[test]
fn a_kind_of_the_same_name_in_another_api_is_none_of_ours() {
    use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
    let spec = Some(NetworkPolicySpec::default());
    assert_eq!(unsupported(&NetworkPolicy { spec, ..NetworkPolicy::default() }), []);
}

#[test]
fn every_kind_and_field_listed_exists() {
    let definitions = crate::crd::all().unwrap();
    assert_eq!(definitions.len(), ACTED_ON.len());
    for definition in definitions {
        let kind = &definition.spec.names.kind;
        let (_, acted_on) = ACTED_ON.iter().find(|(k, _)| k == kind).unwrap();
        let schema = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        let fields = &schema["openAPIV3Schema"]["properties"]["spec"]["properties"];
        for field in *acted_on {
            assert!(fields.get(field).is_some(), "{kind} has no field {field}");
        }
    }
}

#[test]
fn a_cluster_network_policy_is_acted_on_whole() {
    let to = json!([{"nodes": {}}, {"networks": ["10.0.0.0/8"]}, {"domainNames": ["example.org"]}]);
    let object = json!({
        "apiVersion": crate::policy::API_VERSION, "kind": "ClusterNetworkPolicy",
        "spec": {"tier": "Admin", "egress": [{"action": "Accept", "to": to}]},
    });
    assert!(unsupported(&object).is_empty());
}
