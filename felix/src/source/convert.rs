//! Kubernetes objects to the lean types of [`crate::model`]. Pure.
//!
//! A part that cannot be read is reported and treated as absent; the object stays usable. Only an
//! object without a name is refused.

mod slices;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use api::policy::ClusterNetworkPolicy;
use api::v3;
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::Value;
use smallvec::SmallVec;

use crate::model::{
    Kind, Labels, NamedPort, Namespace, Node, Object, ObjectKey, Pod, Secret, ServiceAccount,
};

const CALICO: &str = "projectcalico.org/";
const CALICO_CNI: &str = "cni.projectcalico.org/";

/// On the mirror pod of a static pod: what the kubelet calls the static pod's uid.
const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

/// On a Node: addresses that it has and `status.addresses` need not say.
const OF_NODE: [&str; 7] = [
    "projectcalico.org/IPv4Address",
    "projectcalico.org/IPv6Address",
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "projectcalico.org/IPv6WireguardInterfaceAddr",
];

/// Written by kubectl: the whole object once more, of no use here.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object, and what of it could not be read.
#[derive(Debug)]
pub struct Converted {
    /// The object.
    pub object: Object,
    /// What was taken as absent.
    pub problems: Vec<Problem>,
}

/// A part of an object that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Problem {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Problem {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// A Kubernetes resource that the agent reads.
pub trait Convert: Resource {
    /// Its kind.
    const KIND: Kind;

    /// Reduces it to what the agent uses.
    ///
    /// # Errors
    /// It has no name.
    fn convert(self) -> Result<Converted, Problem>;
}

/// From the API's JSON.
///
/// # Errors
/// It is of another shape, or has no name. What a Secret holds is never in the error.
pub fn decode<K: Convert + DeserializeOwned>(json: Value) -> Result<Converted, Problem> {
    let resource: K = serde_path_to_error::deserialize(json).map_err(|error| {
        let reason = match K::KIND {
            // Where it is wrong, not what stands there: that may be the secret.
            Kind::Secret => format!("cannot be read: {}", error.path()),
            _ => format!("cannot be read: {error}"),
        };
        Problem::new(K::KIND.name(), reason)
    })?;
    resource.convert()
}

fn name(meta: &ObjectMeta) -> Result<&str, Problem> {
    meta.name
        .as_deref()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Problem::new("metadata.name", "required"))
}

/// The key of an object in a namespace; `default` where a file leaves it out.
fn key(meta: &ObjectMeta) -> Result<ObjectKey, Problem> {
    Ok(ObjectKey::namespaced(namespace(meta), name(meta)?))
}

fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

fn labels(map: Option<&BTreeMap<String, String>>) -> Labels {
    map.into_iter().flatten().collect()
}

fn annotations(meta: &ObjectMeta, prefixes: &[&str]) -> Labels {
    let all = meta.annotations.iter().flatten();
    all.filter(|(key, _)| prefixes.iter().any(|prefix| key.starts_with(prefix))).collect()
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Drops what changes without meaning anything to the agent, or is merely large.
fn strip(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    meta.resource_version = None;
    meta.self_link = None;
    meta.owner_references = None;
    meta.finalizers = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty() {
            meta.annotations = None;
        }
    }
}

impl Convert for core::Pod {
    const KIND: Kind = Kind::Pod;

    fn convert(self) -> Result<Converted, Problem> {
        let mut problems = Vec::new();
        let addresses = pod_addresses(&self, &mut problems);
        let spec = self.spec.unwrap_or_default();
        let ports = named_ports(&spec, &mut problems);
        let meta = &self.metadata;
        let pod = Pod {
            key: key(meta)?,
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            mirror_uid: annotation(meta, CONFIG_MIRROR)
                .filter(|uid| !uid.is_empty())
                .map(Into::into),
            node: spec.node_name.as_deref().filter(|node| !node.is_empty()).map(Into::into),
            labels: labels(meta.labels.as_ref()),
            service_account: spec
                .service_account_name
                .as_deref()
                .filter(|name| !name.is_empty())
                .unwrap_or("default")
                .into(),
            addresses,
            ports,
            host_network: spec.host_network.unwrap_or(false),
            annotations: annotations(meta, &[CALICO_CNI, CALICO]),
        };
        Ok(Converted { object: Object::Pod(pod), problems })
    }
}

/// A pod that has finished has given its addresses back, whatever its status still says; so has one
/// whose annotation Calico's CNI plugin emptied. That annotation also fills in before the kubelet
/// has written the status.
fn pod_addresses(pod: &core::Pod, problems: &mut Vec<Problem>) -> SmallVec<[IpAddr; 2]> {
    let status = pod.status.as_ref();
    let finished = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    let by_cni = ["cni.projectcalico.org/podIPs", "cni.projectcalico.org/podIP"]
        .into_iter()
        .find_map(|name| annotation(&pod.metadata, name).map(|value| (name, value)));
    if finished || by_cni.is_some_and(|(_, value)| value.is_empty()) {
        return SmallVec::new();
    }
    let many = status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default();
    let mut texts: Vec<(&str, &str)> =
        many.iter().map(|ip| ("status.podIPs", ip.ip.as_str())).collect();
    if texts.is_empty() {
        texts.extend(status.and_then(|s| s.pod_ip.as_deref()).map(|ip| ("status.podIP", ip)));
    }
    if texts.is_empty()
        && let Some((name, value)) = by_cni
    {
        texts.extend(value.split(',').map(|ip| (name, ip.trim())));
    }
    let mut addresses = SmallVec::new();
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        match address(text) {
            Some(address) if !addresses.contains(&address) => addresses.push(address),
            Some(_) => {}
            None => problems.push(Problem::new(field, format!("{text:?} is not an IP address"))),
        }
    }
    addresses
}

/// An address, with or without a prefix length.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()))
}

/// Those of the containers that run beside each other: ordinary ones, and init containers that are
/// restarted always (sidecars).
fn named_ports(spec: &core::PodSpec, problems: &mut Vec<Problem>) -> Arc<[NamedPort]> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut ports = Vec::new();
    for container in spec.containers.iter().chain(sidecars) {
        for port in container.ports.iter().flatten() {
            let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
            let field = || format!("spec.containers[{}].ports[{name}]", container.name);
            let protocol = match protocol(port.protocol.as_deref()) {
                Ok(protocol) => protocol,
                Err(reason) => {
                    problems.push(Problem::new(field(), reason));
                    continue;
                }
            };
            match u16::try_from(port.container_port) {
                Ok(number) if number > 0 => {
                    ports.push(NamedPort { name: name.into(), protocol, port: number });
                }
                _ => problems.push(Problem::new(
                    field(),
                    format!("{} is not a port from 1 to 65535", port.container_port),
                )),
            }
        }
    }
    ports.into()
}

/// The number of a port's protocol, TCP if none is given.
fn protocol(text: Option<&str>) -> Result<u8, String> {
    match text.unwrap_or("TCP") {
        "TCP" => Ok(6),
        "UDP" => Ok(17),
        "SCTP" => Ok(132),
        other => Err(format!("unknown protocol {other:?}")),
    }
}

impl Convert for core::Namespace {
    const KIND: Kind = Kind::Namespace;

    /// The API server labels each namespace with its name; one from a file gets the label here.
    fn convert(self) -> Result<Converted, Problem> {
        let meta = &self.metadata;
        let name = name(meta)?;
        let named = [("kubernetes.io/metadata.name", name)];
        let rest = meta.labels.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str()));
        let namespace = Namespace {
            name: name.into(),
            labels: rest.chain(named).collect(),
            annotations: annotations(meta, &[CALICO_CNI]),
        };
        Ok(Converted { object: Object::Namespace(namespace), problems: Vec::new() })
    }
}

impl Convert for core::ServiceAccount {
    const KIND: Kind = Kind::ServiceAccount;

    fn convert(self) -> Result<Converted, Problem> {
        let meta = &self.metadata;
        let account = ServiceAccount { key: key(meta)?, labels: labels(meta.labels.as_ref()) };
        Ok(Converted { object: Object::ServiceAccount(account), problems: Vec::new() })
    }
}

impl Convert for core::Node {
    const KIND: Kind = Kind::Node;

    fn convert(self) -> Result<Converted, Problem> {
        let mut problems = Vec::new();
        let meta = &self.metadata;
        let addresses =
            self.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
        let listed = addresses.iter().map(|address| address.address.as_str());
        let annotated = OF_NODE.iter().filter_map(|name| annotation(meta, name));
        let annotated: BTreeSet<IpAddr> = annotated.map(str::trim).filter_map(address).collect();
        // Names of hosts are among them.
        let all: BTreeSet<IpAddr> =
            listed.filter_map(address).chain(annotated.iter().copied()).collect();
        let internal: Vec<IpAddr> = addresses
            .iter()
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect();
        let ipv4 =
            read_annotation(meta, "IPv4Address", &mut problems, |text| match address(text)? {
                IpAddr::V4(address) if is_host(address.into()) => Some(address),
                _ => None,
            });
        let ipv6 =
            read_annotation(meta, "IPv6Address", &mut problems, |text| match address(text)? {
                IpAddr::V6(address) if is_host(address.into()) => Some(address),
                _ => None,
            });
        let node = Node {
            name: name(meta)?.into(),
            labels: labels(meta.labels.as_ref()),
            ipv4: ipv4.or_else(|| internal.iter().find_map(|ip| v4(*ip))),
            ipv6: ipv6.or_else(|| internal.iter().find_map(|ip| v6(*ip))),
            addresses: hosts(all),
            internal: hosts(annotated.into_iter().chain(internal.iter().copied()).collect()),
            as_number: read_annotation(meta, "ASNumber", &mut problems, as_number),
            route_reflector_cluster_id: read_annotation(
                meta,
                "RouteReflectorClusterID",
                &mut problems,
                |text| text.parse().ok(),
            ),
            unschedulable: self.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true),
            pod_cidrs: pod_cidrs(self.spec.as_ref(), &mut problems),
        };
        Ok(Converted { object: Object::Node(node), problems })
    }
}

/// Those that a host can have.
fn hosts(addresses: BTreeSet<IpAddr>) -> Arc<[IpAddr]> {
    addresses.into_iter().filter(|address| is_host(*address)).collect()
}

/// The list wins over the single network, which is its first.
fn pod_cidrs(spec: Option<&core::NodeSpec>, problems: &mut Vec<Problem>) -> Arc<[IpNet]> {
    let Some(spec) = spec else { return Arc::default() };
    let list = spec.pod_cidrs.iter().flatten().enumerate();
    let list = list.map(|(number, text)| (format!("spec.podCIDRs[{number}]"), text));
    let mut all: Vec<(String, &String)> = list.collect();
    if all.is_empty() {
        all.extend(spec.pod_cidr.as_ref().map(|text| ("spec.podCIDR".to_owned(), text)));
    }
    let mut networks = Vec::new();
    for (field, text) in all {
        match text.parse::<IpNet>() {
            Ok(net) => networks.push(net.trunc()),
            Err(_) => {
                let reason = format!("{text:?} is not an address with a prefix length");
                problems.push(Problem::new(field, reason));
            }
        }
    }
    networks.into()
}

fn is_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) if is_host(address) => Some(v4),
        _ => None,
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(v6) if is_host(address) => Some(v6),
        _ => None,
    }
}

/// One of Calico's annotations of a node; an empty one counts as absent.
fn read_annotation<T>(
    meta: &ObjectMeta,
    name: &str,
    problems: &mut Vec<Problem>,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let key = format!("{CALICO}{name}");
    let text = annotation(meta, &key)?.trim();
    if text.is_empty() {
        return None;
    }
    let value = parse(text);
    if value.is_none() {
        problems.push(Problem::new(
            format!("metadata.annotations[{key}]"),
            format!("{text:?} cannot be read"),
        ));
    }
    value
}

/// An AS number, as a number or in the asdot+ form of RFC 5396. 0 is reserved (RFC 7607).
fn as_number(text: &str) -> Option<u32> {
    let number = match text.split_once('.') {
        Some((high, low)) => {
            u32::from(high.parse::<u16>().ok()?) << 16 | u32::from(low.parse::<u16>().ok()?)
        }
        None => text.parse().ok()?,
    };
    (number != 0).then_some(number)
}

impl Convert for core::Secret {
    const KIND: Kind = Kind::Secret;

    /// `stringData` is there in files only: the API server folds it into `data`.
    fn convert(self) -> Result<Converted, Problem> {
        let key = key(&self.metadata)?;
        let data = self.data.into_iter().flatten().map(|(name, value)| (name, value.0));
        let text =
            self.string_data.into_iter().flatten().map(|(name, value)| (name, value.into_bytes()));
        let secret = Secret { key, data: data.chain(text).collect() };
        Ok(Converted { object: Object::Secret(secret), problems: Vec::new() })
    }
}

impl Convert for networking::NetworkPolicy {
    const KIND: Kind = Kind::KubernetesNetworkPolicy;

    fn convert(mut self) -> Result<Converted, Problem> {
        name(&self.metadata)?;
        self.metadata.namespace = Some(namespace(&self.metadata).to_owned());
        strip(&mut self.metadata);
        Ok(Converted { object: Object::KubernetesNetworkPolicy(self.into()), problems: Vec::new() })
    }
}

impl Convert for ClusterNetworkPolicy {
    const KIND: Kind = Kind::ClusterNetworkPolicy;

    fn convert(mut self) -> Result<Converted, Problem> {
        name(&self.metadata)?;
        self.metadata.namespace = None;
        // Others write it, again and again, and nothing here depends on it.
        self.status = None;
        strip(&mut self.metadata);
        Ok(Converted { object: Object::ClusterNetworkPolicy(self.into()), problems: Vec::new() })
    }
}

macro_rules! convert_cluster_scoped {
    ($($kind:ident),*) => {
        $(impl Convert for v3::$kind {
            const KIND: Kind = Kind::$kind;

            fn convert(mut self) -> Result<Converted, Problem> {
                name(&self.metadata)?;
                self.metadata.namespace = None;
                strip(&mut self.metadata);
                Ok(Converted { object: self.into(), problems: Vec::new() })
            }
        })*
    };
}

macro_rules! convert_namespaced {
    ($($kind:ident),*) => {
        $(impl Convert for v3::$kind {
            const KIND: Kind = Kind::$kind;

            fn convert(mut self) -> Result<Converted, Problem> {
                name(&self.metadata)?;
                self.metadata.namespace = Some(namespace(&self.metadata).to_owned());
                strip(&mut self.metadata);
                Ok(Converted { object: self.into(), problems: Vec::new() })
            }
        })*
    };
}

convert_cluster_scoped!(
    IPPool,
    IPReservation,
    IPAMConfiguration,
    BGPConfiguration,
    BGPPeer,
    BGPFilter,
    FelixConfiguration,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    KubeControllersConfiguration,
    Tier,
    StagedGlobalNetworkPolicy
);
convert_namespaced!(NetworkPolicy, NetworkSet, StagedNetworkPolicy, StagedKubernetesNetworkPolicy);
