//! The result of ADD, in the version the runtime asked in, and its comparison for CHECK. Pure.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::spec::{Call, Version};
use crate::model::LocalEndpoint;

/// MAC address of every link's host end, as in Calico: a pod sees the same router everywhere.
pub const HOST_MAC: [u8; 6] = [0xee; 6];

/// The pods' IPv4 gateway, which the host answers for on each link.
pub const GATEWAY_V4: &str = "169.254.1.1";

/// The pods' IPv6 gateway: the link-local address that follows from [`HOST_MAC`].
pub const GATEWAY_V6: &str = "fe80::ecee:eeff:feee:eeee";

/// The result of a successful ADD: what earlier plugins of the chain did (`prevResult`), and
/// after it this attachment.
pub fn added(call: &Call, endpoint: &LocalEndpoint) -> Value {
    let mut result = match &call.config.prev_result {
        Value::Object(earlier) => earlier.clone(),
        _ => Map::new(),
    };
    result.insert("cniVersion".into(), call.version.as_str().into());

    let mut interfaces = take(&mut result, "interfaces");
    let pod_side = interfaces.len() + 1;
    let mut host = json!({"name": endpoint.host_interface, "mac": mac(HOST_MAC)});
    let mut pod =
        json!({"name": endpoint.id.ifname, "mac": mac(endpoint.mac), "sandbox": endpoint.netns});
    if call.version >= Version::V1_1_0 {
        host["mtu"] = endpoint.mtu.into();
        pod["mtu"] = endpoint.mtu.into();
    }
    interfaces.extend([host, pod]);
    result.insert("interfaces".into(), interfaces.into());

    let mut ips = take(&mut result, "ips");
    for address in &endpoint.addresses {
        let (family, gateway) = family(address);
        let mut ip = json!({
            "address": host_prefix(address),
            "gateway": gateway,
            "interface": pod_side,
        });
        if call.version < Version::V1_0_0 {
            ip["version"] = family.into();
        }
        ips.push(ip);
    }
    result.insert("ips".into(), ips.into());

    let mut routes = take(&mut result, "routes");
    for address in &endpoint.addresses {
        let (_, gateway) = family(address);
        let everything = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        routes.push(json!({"dst": everything, "gw": gateway}));
    }
    result.insert("routes".into(), routes.into());

    if call.config.dns.as_object().is_some_and(|dns| !dns.is_empty()) {
        result.insert("dns".into(), call.config.dns.clone());
    }
    Value::Object(result)
}

/// What CHECK's `prevResult` says of this attachment that is not so. Empty if all is as it was
/// returned by ADD; what belongs to other plugins of the chain is not looked at.
pub fn differences(call: &Call, endpoint: &LocalEndpoint) -> Vec<String> {
    let mut found = Vec::new();
    let previous = &call.config.prev_result;
    let ifname = &endpoint.id.ifname;
    let interfaces = items(previous, "interfaces");
    let ours = interfaces.iter().position(|interface| {
        interface.get("name").and_then(Value::as_str) == Some(ifname)
            && text(interface, "sandbox").is_some_and(|sandbox| !sandbox.is_empty())
    });
    let Some(ours) = ours else {
        found.push(format!("prevResult has no interface {ifname} in a sandbox"));
        return found;
    };
    let expected = mac(endpoint.mac);
    if let Some(other) = text(&interfaces[ours], "mac")
        && !other.is_empty()
        && !other.eq_ignore_ascii_case(&expected)
    {
        found.push(format!("{ifname} has the MAC address {expected}, prevResult says {other}"));
    }
    if text(&interfaces[ours], "sandbox") != Some(&endpoint.netns) {
        found.push(format!("{ifname} was made in {}, prevResult says otherwise", endpoint.netns));
    }

    let listed: Vec<&str> = items(previous, "ips")
        .iter()
        .filter(|ip| ip.get("interface").and_then(Value::as_u64) == Some(ours as u64))
        .filter_map(|ip| text(ip, "address"))
        .collect();
    for address in &endpoint.addresses {
        let expected = host_prefix(address);
        if !listed.contains(&expected.as_str()) {
            found.push(format!("{ifname} has {expected}, prevResult does not"));
        }
    }
    for listed in listed {
        if !endpoint.addresses.iter().any(|address| host_prefix(address) == listed) {
            found.push(format!("prevResult has {listed}, {ifname} does not"));
        }
    }
    found
}

/// A MAC address as people write it.
pub fn mac(bytes: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = bytes;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

fn host_prefix(address: &IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn family(address: &IpAddr) -> (&'static str, &'static str) {
    if address.is_ipv4() { ("4", GATEWAY_V4) } else { ("6", GATEWAY_V6) }
}

/// Takes the array under `key`; empty if there is none. To be put back in its place.
fn take(result: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match result.get_mut(key).map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn items<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

#[cfg(test)]
pub(super) mod tests;
