use serde_json::json;

use super::*;

#[path = "../../tests/cases/mod.rs"]
mod cases;

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec,
    })
}

fn errors(kind: &str, spec: Value) -> Vec<String> {
    match validate_value(&object(kind, "default", spec)) {
        Ok(()) => vec![],
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn every_kind_has_its_definition() {
    assert_eq!(crd::KINDS.len(), 17);
    let mut count = 0;
    for (kind, _) in crd::KINDS {
        let rules = definition(kind).expect(kind).rules();
        assert!(!rules.has_errors(), "{kind}: {:?}", rules.compilation_errors());
        let mut patterns = Vec::new();
        collect_patterns(&schema(kind).unwrap().0, &mut patterns);
        for pattern in &patterns {
            regex::Regex::new(pattern).expect(kind);
        }
        count += patterns.len();
    }
    assert!(count > 50, "only {count} patterns");
    assert_eq!(is_namespaced("NetworkPolicy"), Some(true));
    assert_eq!(is_namespaced("GlobalNetworkPolicy"), Some(false));
    assert_eq!(is_namespaced("Pod"), None);
}

fn collect_patterns(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(pattern)) = fields.get("pattern") {
                found.push(pattern.clone());
            }
            fields.values().for_each(|value| collect_patterns(value, found));
        }
        Value::Array(entries) => entries.iter().for_each(|value| collect_patterns(value, found)),
        _ => {}
    }
}

/// The table that the API server's test uses too: what it accepts is accepted here and what it
/// rejects is rejected here.
#[test]
fn good_objects_pass_and_bad_ones_do_not() {
    for case in cases::all() {
        let result = validate_value(&case.object);
        match (case.message, case.old) {
            (None, _) => assert_eq!(result, Ok(()), "{}", case.object),
            (Some(message), None) => {
                let errors = result.expect_err(&format!("{message}: {}", case.object));
                let found = errors.iter().any(|error| error.to_string().contains(message));
                assert!(found, "expected {message:?}, found {errors:?}");
            }
            (Some(message), Some(old)) => {
                assert_eq!(result, Ok(()), "each alone is right");
                let errors = validate_update(&case.object, &old).expect_err(message);
                assert!(errors.iter().any(|error| error.message.contains(message)), "{errors:?}");
            }
        }
    }
}

#[test]
fn the_shape_is_checked_field_by_field() {
    let spec = json!({
        "cidr": 10, "blockSize": "26", "natOutgoing": "yes", "vxlanMode": "Sometimes",
        "allowedUses": "Workload", "natoutgoing": true, "nodeSelector": null,
    });
    assert_eq!(
        errors("IPPool", spec),
        [
            "spec.cidr: must be a string, not 10",
            "spec.blockSize: must be an integer, not \"26\"",
            "spec.natOutgoing: must be true or false, not \"yes\"",
            "spec.vxlanMode: \"Sometimes\" is not one of Never, Always, CrossSubnet",
            "spec.allowedUses: must be a list, not \"Workload\"",
            "spec.natoutgoing: unknown field; did you mean natOutgoing?",
        ]
    );
    assert_eq!(
        errors("BGPPeer", json!({"asNumber": 0})),
        ["spec.asNumber: 0 is not from 1 to 4294967295"]
    );
    assert_eq!(
        errors("BGPPeer", json!({"asNumber": true})),
        ["spec.asNumber: must be an integer or a string, not true"]
    );
    assert_eq!(
        errors(
            "GlobalNetworkPolicy",
            json!({"ingress": [{"action": "Allow", "source": {"ports": [1.5]}}]})
        ),
        ["spec.ingress[0].source.ports[0]: must be an integer or a string, not 1.5"]
    );
    let rules: Vec<Value> = (0..1025).map(|_| json!({"action": "Allow"})).collect();
    assert_eq!(
        errors("GlobalNetworkPolicy", json!({ "egress": rules })),
        ["spec.egress: must have at most 1024 entries, not 1025"]
    );
    assert_eq!(
        errors("GlobalNetworkSet", json!({"nets": ["10.0.0.0/8", "10.0.0.1", "fd00::", "ten"]})),
        ["spec.nets[3]: \"ten\" is not a network in CIDR notation or an IPv4 address or an IPv6 \
             address"]
    );
}

#[test]
fn objects_need_their_envelope() {
    let error = |object: Value| validate_value(&object).unwrap_err()[0].to_string();
    assert!(error(json!({})).starts_with("apiVersion: "));
    assert!(
        error(json!({"apiVersion": "projectcalico.org/v3", "kind": "Pod"})).starts_with("kind: ")
    );
    let mut pool = object("IPPool", "Pool", json!({"cidr": "10.0.0.0/8"}));
    assert!(error(pool.clone()).starts_with("metadata.name: \"Pool\" is not a name"));
    pool["metadata"] = json!({"name": "pool", "namespace": "a"});
    assert!(error(pool.clone()).starts_with("metadata.namespace: must not be given"));
    pool["metadata"] = json!({"name": "pool", "labels": {"a": 1}});
    assert_eq!(error(pool), "metadata.labels.a: must be a string, not 1; quote it");
    assert_eq!(
        error(
            json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "a"}})
        ),
        "spec: must be given"
    );
}

/// What the definitions cannot say.
#[test]
fn selectors_and_far_apart_fields_are_checked() {
    for (kind, spec, path) in [
        ("IPPool", json!({"cidr": "10.0.0.0/8", "nodeSelector": "a ="}), "spec.nodeSelector"),
        (
            "IPPool",
            json!({"cidr": "10.0.0.0/8", "namespaceSelector": "(", "allowedUses": ["Workload"]}),
            "spec.namespaceSelector",
        ),
        ("BGPPeer", json!({"peerSelector": "has("}), "spec.peerSelector"),
        ("BGPPeer", json!({"peerIP": "192.0.2.300", "asNumber": 1}), "spec.peerIP"),
        ("BGPPeer", json!({"peerIP": "192.0.2.1:0", "asNumber": 1}), "spec.peerIP"),
        ("BGPPeer", json!({"peerIP": "2001:db8::1:x", "asNumber": 1}), "spec.peerIP"),
        ("FelixConfiguration", json!({"mtuIfacePattern": "("}), "spec.mtuIfacePattern"),
        ("FelixConfiguration", json!({"nodeSelector": "!"}), "spec.nodeSelector"),
        ("GlobalNetworkSet", json!({"nets": ["::ffff:10.0.0.1"]}), "spec.nets[0]"),
        (
            "GlobalNetworkPolicy",
            json!({"ingress": [{"action": "Allow", "source": {"namespaceSelector": "x"}}]}),
            "spec.ingress[0].source.namespaceSelector",
        ),
        (
            "GlobalNetworkPolicy",
            json!({"egress": [{"action": "Allow", "destination": {"ports": ["80:90"]}}]}),
            "spec.egress[0].destination.ports",
        ),
        (
            "BGPFilter",
            json!({"importV4": [{"cidr": "10.0.0.0/16", "matchOperator": "In", "action": "Accept",
                "prefixLength": {"max": 8}}]}),
            "spec.importV4[0].prefixLength.max",
        ),
        (
            "BGPConfiguration",
            json!({"communities": [{"name": "blue", "value": "1:2"}]}),
            "spec.communities[0].name",
        ),
        (
            "BGPConfiguration",
            json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["green"]}]}),
            "spec.prefixAdvertisements[0].communities[0]",
        ),
    ] {
        let errors = errors(kind, spec.clone());
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("{path}: ")),
            "{kind} {spec}: {errors:?}"
        );
    }
}

#[test]
fn a_typed_object_is_validated_as_it_would_be_written() {
    let mut pool = v3::IPPool::new("pool", v3::IPPoolSpec::new("10.0.0.0/16"));
    assert_eq!(validate(&pool), Ok(()));
    pool.spec.cidr = "10.0.0.1/16".to_owned();
    assert_eq!(validate(&pool).unwrap_err()[0].path, "spec.cidr");
    assert_eq!(
        pool.check(),
        [FieldError::new("spec.cidr", "has host bits; the network is 10.0.0.0/16")],
        "also where no API server has looked at it"
    );
}
