//! The annotations by which a pod or its namespace chooses addresses (Calico's, each a JSON
//! value under `cni.projectcalico.org/`). Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::spec::{Ipam, is_identifier};
use crate::model::Labels;

/// A pool, as a pod, namespace or network configuration names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolRef {
    /// By its CIDR.
    Cidr(IpNet),
    /// By the name of its IPPool.
    Name(String),
}

/// What addresses an endpoint is to get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Whether an IPv4 address is wanted; None: if there is a pool for it.
    pub ipv4: Option<bool>,
    /// Whether an IPv6 address is wanted; None: if there is a pool for it.
    pub ipv6: Option<bool>,
    /// Exactly these, at most one of each family; then no others are assigned.
    pub addresses: Vec<IpAddr>,
    /// Only from these pools; empty: from those the node may use.
    pub ipv4_pools: Vec<PoolRef>,
    /// Only from these pools; empty: from those the node may use.
    pub ipv6_pools: Vec<PoolRef>,
    /// MAC address of the pod's end.
    pub mac: Option<[u8; 6]>,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} {key}: {reason}")]
pub struct WishError {
    /// `annotation`, `namespace annotation` or `network configuration`.
    pub place: &'static str,
    /// The annotation or key.
    pub key: String,
    /// Why it cannot be followed.
    pub reason: String,
}

const PREFIX: &str = "cni.projectcalico.org/";

/// Reads what is wished. The pod's annotations win over the namespace's, these over the network
/// configuration.
///
/// # Errors
/// The first annotation that is not what it should be, or asks for what cannot be done.
pub fn wishes(pod: &Labels, namespace: &Labels, ipam: &Ipam) -> Result<Wishes, WishError> {
    for key in ["ipAddrsNoIpam", "floatingIPs"] {
        if pod.get(&format!("{PREFIX}{key}")).is_some_and(|value| !value.is_empty()) {
            return Err(Source::Pod.error(key, "is not supported"));
        }
    }
    let mut wishes = Wishes {
        ipv4: ipam.assign_ipv4,
        ipv6: ipam.assign_ipv6,
        ipv4_pools: pools(pod, namespace, "ipv4pools", "ipam.ipv4_pools", &ipam.ipv4_pools, true)?,
        ipv6_pools: pools(pod, namespace, "ipv6pools", "ipam.ipv6_pools", &ipam.ipv6_pools, false)?,
        ..Wishes::default()
    };
    if let Some(families) = strings(Source::Pod, pod, "ipFamilies")? {
        let wanted = |name| families.iter().any(|family: &String| family == name);
        if let Some(other) = families.iter().find(|f| !matches!(f.as_str(), "IPv4" | "IPv6")) {
            let reason = format!("{other:?} is neither IPv4 nor IPv6");
            return Err(Source::Pod.error("ipFamilies", &reason));
        }
        if !families.is_empty() {
            (wishes.ipv4, wishes.ipv6) = (Some(wanted("IPv4")), Some(wanted("IPv6")));
        }
    }
    if let Some(listed) = strings(Source::Pod, pod, "ipAddrs")? {
        wishes.addresses = addresses(&listed)?;
        wishes.ipv4 = Some(wishes.addresses.iter().any(IpAddr::is_ipv4));
        wishes.ipv6 = Some(wishes.addresses.iter().any(IpAddr::is_ipv6));
    }
    if let Some(text) = pod.get(&format!("{PREFIX}hwAddr")) {
        let mac = mac(text).ok_or_else(|| {
            Source::Pod.error("hwAddr", &format!("{text:?} is not a unicast MAC address"))
        })?;
        wishes.mac = Some(mac);
    }
    if (wishes.ipv4, wishes.ipv6) == (Some(false), Some(false)) {
        let reason = "neither IPv4 nor IPv6 is wanted";
        return Err(WishError {
            place: "network configuration",
            key: "ipam".into(),
            reason: reason.into(),
        });
    }
    Ok(wishes)
}

#[derive(Clone, Copy)]
enum Source {
    Pod,
    Namespace,
}

impl Source {
    fn error(self, key: &str, reason: &str) -> WishError {
        let place = match self {
            Self::Pod => "annotation",
            Self::Namespace => "namespace annotation",
        };
        WishError { place, key: format!("{PREFIX}{key}"), reason: reason.to_owned() }
    }
}

fn strings(source: Source, of: &Labels, key: &str) -> Result<Option<Vec<String>>, WishError> {
    let Some(text) = of.get(&format!("{PREFIX}{key}")) else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|error| {
        source.error(key, &format!("{text:?} is not a JSON array of strings: {error}"))
    })
}

fn addresses(listed: &[String]) -> Result<Vec<IpAddr>, WishError> {
    let error = |reason: String| Source::Pod.error("ipAddrs", &reason);
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in listed {
        let address: IpAddr =
            text.parse().map_err(|_| error(format!("{text:?} is not an IP address")))?;
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(error(format!("{address} cannot be a pod's address")));
        }
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(error(format!("more than one {family} address")));
        }
        addresses.push(address);
    }
    if addresses.is_empty() {
        return Err(error("lists no address".into()));
    }
    Ok(addresses)
}

fn pools(
    pod: &Labels,
    namespace: &Labels,
    annotation: &str,
    key: &str,
    configured: &[String],
    ipv4: bool,
) -> Result<Vec<PoolRef>, WishError> {
    for (source, of) in [(Source::Pod, pod), (Source::Namespace, namespace)] {
        let listed = strings(source, of, annotation)?.unwrap_or_default();
        if !listed.is_empty() {
            return listed
                .iter()
                .map(|text| pool(text, ipv4))
                .collect::<Result<_, _>>()
                .map_err(|reason| source.error(annotation, &reason));
        }
    }
    configured
        .iter()
        .map(|text| pool(text, ipv4))
        .collect::<Result<_, _>>()
        .map_err(|reason| WishError { place: "network configuration", key: key.into(), reason })
}

fn pool(text: &str, ipv4: bool) -> Result<PoolRef, String> {
    if !text.contains('/') {
        return if is_identifier(text) {
            Ok(PoolRef::Name(text.to_owned()))
        } else {
            Err(format!("{text:?} is neither a CIDR nor the name of an IPPool"))
        };
    }
    let cidr: IpNet = text.parse().map_err(|_| format!("{text:?} is not a CIDR"))?;
    let family = if ipv4 { "IPv4" } else { "IPv6" };
    if cidr.addr().is_ipv4() != ipv4 {
        return Err(format!("{text} is not of {family}"));
    }
    if cidr.trunc() != cidr {
        return Err(format!("{text} has bits set beyond its prefix length"));
    }
    Ok(PoolRef::Cidr(cidr))
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next()?;
        // `from_str_radix` would take a sign.
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    // Bit 0 of the first byte is the group bit (IEEE 802); all zeroes is no address.
    (parts.next().is_none() && bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(bytes)
}

#[cfg(test)]
mod tests;
