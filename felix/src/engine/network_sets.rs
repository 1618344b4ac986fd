//! NetworkSet and GlobalNetworkSet: networks that selectors find by labels.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use kube::api::ObjectMeta;

use super::convert::FieldError;
use super::policy::Networks;
use super::shapes::{Bearer, ShapeKey};

/// A set, as the engine holds it.
#[derive(Debug)]
pub(super) struct NetworkSet {
    /// What selectors see of it.
    pub(super) shape: ShapeKey,
    /// What it stands for.
    pub(super) networks: Networks,
}

/// Converts a set; of no namespace, a global one. A network that cannot be read is left out, and
/// reported.
pub(super) fn convert(
    metadata: &ObjectMeta,
    nets: &[String],
    bearer: Bearer,
) -> (NetworkSet, Vec<FieldError>) {
    let mut errors = Vec::new();
    let mut parsed: Vec<IpNet> = Vec::new();
    for (number, text) in nets.iter().enumerate() {
        match api::net::parse(text) {
            Some(net) => parsed.push(net),
            None => errors.push(FieldError {
                field: format!("spec.nets[{number}]"),
                reason: format!("{text:?} is neither a network in CIDR notation nor an address"),
            }),
        }
    }
    let namespace = match bearer {
        Bearer::GlobalNetworkSet => "",
        _ => metadata.namespace.as_deref().unwrap_or("default"),
    };
    let labels = metadata.labels.as_ref().unwrap_or(const { &BTreeMap::new() });
    let shape = ShapeKey {
        bearer,
        namespace: namespace.into(),
        service_account: Arc::default(),
        labels: labels.iter().collect(),
        ports: Arc::default(),
    };
    (NetworkSet { shape, networks: Networks::new(&parsed, &[]) }, errors)
}
