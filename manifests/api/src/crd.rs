//! The CustomResourceDefinitions of every kind, as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value};

use crate::v3;

/// Makes a definition from its type.
type Derive = fn() -> CustomResourceDefinition;

/// Every kind, in the order of their names.
pub(crate) const KINDS: [(&str, Derive); 17] = [
    ("BGPConfiguration", v3::BGPConfiguration::crd),
    ("BGPFilter", v3::BGPFilter::crd),
    ("BGPPeer", v3::BGPPeer::crd),
    ("FelixConfiguration", v3::FelixConfiguration::crd),
    ("GlobalNetworkPolicy", v3::GlobalNetworkPolicy::crd),
    ("GlobalNetworkSet", v3::GlobalNetworkSet::crd),
    ("HostEndpoint", v3::HostEndpoint::crd),
    ("IPAMConfiguration", v3::IPAMConfiguration::crd),
    ("IPPool", v3::IPPool::crd),
    ("IPReservation", v3::IPReservation::crd),
    ("KubeControllersConfiguration", v3::KubeControllersConfiguration::crd),
    ("NetworkPolicy", v3::NetworkPolicy::crd),
    ("NetworkSet", v3::NetworkSet::crd),
    ("StagedGlobalNetworkPolicy", v3::StagedGlobalNetworkPolicy::crd),
    ("StagedKubernetesNetworkPolicy", v3::StagedKubernetesNetworkPolicy::crd),
    ("StagedNetworkPolicy", v3::StagedNetworkPolicy::crd),
    ("Tier", v3::Tier::crd),
];

/// The definitions, in the order of their kinds' names.
///
/// # Errors
/// Only if a type's schema is not one that Kubernetes has, which the tests of this crate rule out.
pub fn all() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    KINDS.into_iter().map(|(_, derived)| tidied(derived())).collect()
}

/// One definition as the YAML document that is installed, with its file's name.
///
/// # Errors
/// If YAML cannot hold it, which the tests of this crate rule out.
pub fn to_yaml(
    definition: &CustomResourceDefinition,
) -> Result<(String, String), serde_saphyr::SerializeError> {
    let names = &definition.spec.names;
    let header = "# Generated from the types in manifests/api by `cargo run -p api --bin crds`.\n";
    let body = serde_saphyr::to_string(definition)?;
    Ok((format!("{}.yaml", names.plural), format!("{header}{body}")))
}

/// What the derived definition says in Rust's terms said in those of Kubernetes.
pub(crate) fn tidied(
    definition: CustomResourceDefinition,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut definition = serde_json::to_value(definition)?;
    let versions = definition.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
    for version in versions.into_iter().flatten() {
        if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
            tidy_schema(schema);
        }
    }
    serde_json::from_value(definition)
}

fn tidy_schema(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    // An optional field may be absent; an explicit null is as wrong as any other type.
    fields.remove("nullable");
    fields.remove("title");
    if let Some(Value::String(description)) = fields.get_mut("description") {
        *description = plain(description);
    }
    // Kubernetes knows the widths of signed integers only; minimum and maximum say the rest.
    if let Some(Value::String(format)) = fields.get_mut("format")
        && let "uint8" | "uint16" | "uint32" = format.as_str()
    {
        *format = if format == "uint32" { "int64" } else { "int32" }.to_owned();
    }
    if is_condition_list(fields) {
        fields.insert("x-kubernetes-list-type".to_owned(), "map".into());
        fields.insert("x-kubernetes-list-map-keys".to_owned(), vec!["type"].into());
    }
    for keyword in ["properties"] {
        let properties = fields.get_mut(keyword).and_then(Value::as_object_mut);
        for property in properties.into_iter().flat_map(Map::values_mut) {
            tidy_schema(property);
        }
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(keyword) {
            tidy_schema(inner);
        }
    }
}

fn is_condition_list(schema: &Map<String, Value>) -> bool {
    let properties = schema.get("items").and_then(|items| items.get("properties"));
    properties.is_some_and(|p| p.get("lastTransitionTime").is_some() && p.get("type").is_some())
}

/// Rustdoc without its links and code marks.
fn plain(description: &str) -> String {
    description.replace("[`", "").replace("`]", "").replace('`', "").replace('\n', " ")
}

#[cfg(test)]
mod tests;
