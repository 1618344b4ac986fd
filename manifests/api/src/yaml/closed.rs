//! What stands in for a policy that is wrong: an error in a policy must not open what the policy
//! was there to close.

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Object;
use crate::policy::{self, ClusterNetworkPolicy, ClusterNetworkPolicySpec};
use crate::v3;
use crate::validate::FieldError;

/// A policy that does not say its name.
const NAMELESS: &str = "unnamed";

/// The policy under its own name, allowing nothing; one of ours denies by a rule, since the end of
/// its tier may pass. It applies to those that the wrong one was meant for if all that is wrong lies
/// in its rules; where that cannot be told, to every endpoint that a policy of its kind could be for,
/// in both directions. None for what is no policy.
pub(super) fn closed(object: &Value, errors: &[FieldError]) -> Option<Object> {
    let text =
        |path: &str| object.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = text("/metadata/name").unwrap_or(NAMELESS);
    let namespace = text("/metadata/namespace").unwrap_or("default").to_owned();
    let spec = object.get("spec").filter(|_| errors.iter().all(leaves_subject));
    Some(match (text("/apiVersion")?, text("/kind")?) {
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            };
            let spec: NetworkPolicySpec = without_rules(spec, "policyTypes", None)?;
            Object::KubernetesNetworkPolicy(Box::new(NetworkPolicy { metadata, spec: Some(spec) }))
        }
        (v3::API_VERSION, "NetworkPolicy") => {
            let spec = without_rules(spec, "types", text("/spec/tier"))?;
            let mut policy = v3::NetworkPolicy::new(name, spec);
            policy.metadata.namespace = Some(namespace);
            Object::NetworkPolicy(Box::new(policy))
        }
        (v3::API_VERSION, "GlobalNetworkPolicy") => {
            let spec = without_rules(spec, "types", text("/spec/tier"))?;
            Object::GlobalNetworkPolicy(Box::new(v3::GlobalNetworkPolicy::new(name, spec)))
        }
        (policy::API_VERSION, "ClusterNetworkPolicy") => {
            let spec = of_cluster(spec, text("/spec/tier"))?;
            Object::ClusterNetworkPolicy(Box::new(ClusterNetworkPolicy::new(name, spec)))
        }
        _ => return None,
    })
}

/// Whether whom the policy is for is not in doubt. An unknown field of `spec` itself may be a
/// misspelt selector.
fn leaves_subject(error: &FieldError) -> bool {
    let below = |field: &str| {
        error.path.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
    };
    below("spec.ingress") || below("spec.egress") || error.path.starts_with("metadata.")
}

/// The spec with its subject and its directions only, and for ours the rule that denies; if there is
/// none, or it cannot be read, one for everyone. `types` is the name of the field with the directions.
fn without_rules<S: DeserializeOwned>(
    spec: Option<&Value>,
    types: &str,
    tier: Option<&str>,
) -> Option<S> {
    let mut everyone = json!({ types: ["Ingress", "Egress"] });
    if let Some(tier) = tier {
        everyone["tier"] = tier.into();
    }
    let narrowed = spec.and_then(Value::as_object).map(|spec| {
        let mut narrowed = spec.clone();
        let mut has_rules = |field: &str| {
            let rules = narrowed.remove(field);
            rules.is_some_and(|rules| rules.as_array().is_none_or(|rules| !rules.is_empty()))
        };
        let (ingress, egress) = (has_rules("ingress"), has_rules("egress"));
        let given = narrowed.get(types).and_then(Value::as_array);
        if given.is_none_or(Vec::is_empty) {
            // A policy of Kubernetes without types is always about ingress too; to say so of one
            // of ours that has egress rules only would close more than was asked.
            let ingress = ingress || !egress || types == "policyTypes";
            let named = [("Ingress", ingress), ("Egress", egress)];
            let named = named.into_iter().filter(|(_, holds)| *holds).map(|(name, _)| name.into());
            narrowed.insert(types.to_owned(), Value::Array(named.collect()));
        }
        Value::Object(narrowed)
    });
    let read = |mut value: Value| {
        if types == "types" {
            for (direction, field) in [("Ingress", "ingress"), ("Egress", "egress")] {
                let named = value[types].as_array();
                if named.is_some_and(|named| named.iter().any(|name| name == direction)) {
                    value[field] = json!([{ "action": "Deny" }]);
                }
            }
        }
        S::deserialize(value).ok()
    };
    narrowed.and_then(read).or_else(|| read(everyone))
}

/// The spec with its subject and its place only, and a rule that denies for each direction that it has
/// rules for. A peer of which nothing is said is one that nobody knows, which makes the rule deny
/// everything: the API has no other way to say so of traffic to pods.
fn of_cluster(spec: Option<&Value>, tier: Option<&str>) -> Option<ClusterNetworkPolicySpec> {
    let ingress = json!([{ "action": "Deny", "from": [{}] }]);
    let egress = json!([{ "action": "Deny", "to": [{}] }]);
    let narrowed = spec.and_then(Value::as_object).map(|spec| {
        let mut narrowed = spec.clone();
        for (field, rules) in [("ingress", &ingress), ("egress", &egress)] {
            let Some(given) = narrowed.get_mut(field) else { continue };
            if given.as_array().is_none_or(|given| !given.is_empty()) {
                *given = rules.clone();
            }
        }
        Value::Object(narrowed)
    });
    let everyone = json!({
        "tier": if tier == Some("Baseline") { "Baseline" } else { "Admin" },
        "priority": 0,
        "subject": { "namespaces": {} },
        "ingress": ingress,
        "egress": egress,
    });
    let read = |value: Value| ClusterNetworkPolicySpec::deserialize(value).ok();
    narrowed.and_then(read).or_else(|| read(everyone))
}
