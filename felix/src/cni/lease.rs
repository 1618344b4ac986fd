//! Addresses for links that other main plugins make (`bridge`, `macvlan`, SR-IOV, alone or through
//! Multus): what their network configuration asks of the IPAM plugin, and its answer. Pure.
//!
//! Such a link has its addresses on a network that it shares with others, so an address goes with
//! its pool's prefix length, and neither the network's own address, nor its broadcast address, nor
//! a gateway's is given.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::annotations::{self, WishError, Wishes};
use super::protocol::{CniRequest, Error};
use super::spec::{Call, Version, config_error, environment};
use crate::model::{Labels, LocalEndpoint};

/// What the configuration and the environment say beyond what a main plugin reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// `ipam.gateways`: of each pool at most one, which the answer names as its addresses' gateway.
    pub gateways: Vec<IpAddr>,
    /// `ipam.routes`, copied into the answer.
    pub routes: Vec<Route>,
    /// The addresses asked for, at most one of each family: `runtimeConfig.ips`, else
    /// `args.cni.ips`, else `IP` of `CNI_ARGS`.
    pub addresses: Vec<IpAddr>,
    /// The interface of this node that the main plugin makes the network's gateway: the bridge of
    /// `bridge` with `isGateway`. The node reaches the addresses over it.
    pub bridge: Option<String>,
}

/// A route of the container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// The next router; the main plugin takes the address's gateway if there is none.
    pub gw: Option<IpAddr>,
}

/// An address as it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    /// The address, with its pool's prefix length.
    pub address: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
}

/// The request with that part of the configuration which is meant for the IPAM plugin: `ipam`,
/// which may also have the agent's `socket` and `connectTimeoutSeconds`, and what is everybody's.
pub(super) fn own_part(request: &CniRequest) -> CniRequest {
    let config = &request.config;
    let Some(whole) = config.as_object() else { return request.clone() };
    let everybodys =
        ["cniVersion", "name", "ipam", "dns", "prevResult"].map(|key| (key, whole.get(key)));
    let listed = ["cni.dev/valid-attachments", "cni.dev/attachments"];
    let listed = listed.map(|key| (key, whole.get(key)));
    let ipam = ["socket", "connectTimeoutSeconds"].map(|key| (key, config["ipam"].get(key)));
    let kept = everybodys.into_iter().chain(listed).chain(ipam);
    let kept: Map<String, Value> = kept
        .filter_map(|(key, value)| Some((key.to_owned(), value?.clone())))
        .filter(|(_, value)| !value.is_null())
        .collect();
    CniRequest { config: kept.into(), ..request.clone() }
}

impl Lease {
    /// Reads a whole network configuration and `CNI_ARGS`.
    ///
    /// # Errors
    /// Code 7, or 4 for `CNI_ARGS`; names the key and what is wrong with it.
    pub fn read(config: &Value, args: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Keys {
            #[serde(default)]
            gateways: Vec<IpAddr>,
            #[serde(default)]
            routes: Vec<Route>,
        }
        if !config["ipam"].is_object() {
            return Err(config_error("ipam", "is missing, or not an object"));
        }
        let Keys { gateways, routes } = serde_path_to_error::deserialize(&config["ipam"])
            .map_err(|error| config_error(&format!("ipam.{}:", error.path()), &reason(&error)))?;
        for route in &routes {
            if let Some(gw) = route.gw.filter(|gw| gw.is_ipv4() != route.dst.addr().is_ipv4()) {
                let text = format!("{gw} is not of the family of {}", route.dst);
                return Err(config_error("ipam.routes:", &text));
            }
        }
        Ok(Self { gateways, routes, addresses: requested(config, args)?, bridge: bridge(config) })
    }

    /// What is asked of the allocator. The pod's annotations speak of its main interface, and are
    /// not asked.
    ///
    /// # Errors
    /// A pool's name or CIDR is wrong, or no family is wanted.
    pub fn wishes(&self, call: &Call) -> Result<Wishes, WishError> {
        let none = Labels::default();
        let mut wishes = annotations::wishes(&none, &none, &call.config.ipam)?;
        if !self.addresses.is_empty() {
            wishes.addresses.clone_from(&self.addresses);
            wishes.ipv4 = Some(self.addresses.iter().any(IpAddr::is_ipv4));
            wishes.ipv6 = Some(self.addresses.iter().any(IpAddr::is_ipv6));
        }
        Ok(wishes)
    }

    /// Why an address of a pool cannot be a container's; None if it can.
    pub fn unfit(&self, address: IpAddr, pool: IpNet) -> Option<&'static str> {
        // RFC 3021: a network of two addresses has neither; one of a single address is no network.
        let shared = pool.max_prefix_len() - pool.prefix_len() > 1;
        if self.gateways.contains(&address) {
            Some("is a gateway's")
        } else if shared && address == pool.network() {
            Some("is the network's own (for IPv6, that of its routers: RFC 4291)")
        } else if shared && address.is_ipv4() && address == pool.broadcast() {
            Some("is the network's broadcast address")
        } else {
            None
        }
    }

    /// An address as it is answered.
    ///
    /// # Errors
    /// Code 7: it has no gateway and needs one.
    pub fn answer(&self, address: IpAddr, pool: IpNet) -> Result<Leased, Error> {
        let gateway = self.gateways.iter().copied().find(|gateway| pool.contains(gateway));
        let listed = self.gateways.iter().any(|gateway| gateway.is_ipv4() == address.is_ipv4());
        if gateway.is_none() && (listed || self.bridge.is_some()) {
            let reason = match &self.bridge {
                Some(bridge) => format!(
                    "has none in the pool {pool} of {address}: {bridge} is to be the gateway \
                     (isGateway) and would take the pool's first address, which may be a pod's"
                ),
                None => format!("has none in the pool {pool} of {address}"),
            };
            return Err(config_error("ipam.gateways", &reason));
        }
        // The prefix length is that of a network of the address's family.
        let address = IpNet::new(address, pool.prefix_len())
            .map_err(|error| config_error("ipam", &error.to_string()))?;
        Ok(Leased { address, gateway })
    }
}

/// The result of the IPAM plugin's ADD: without interfaces, as the specification has it for
/// delegated plugins.
pub fn result(call: &Call, leased: &[Leased]) -> Value {
    let ip = |one: &Leased| {
        let mut ip = json!({"address": one.address});
        if call.version < Version::V1_0_0 {
            ip["version"] = if one.address.addr().is_ipv4() { "4" } else { "6" }.into();
        }
        if let Some(gateway) = one.gateway {
            ip["gateway"] = gateway.to_string().into();
        }
        ip
    };
    let ips: Vec<Value> = leased.iter().map(ip).collect();
    let mut result = json!({"cniVersion": call.version.as_str(), "ips": ips});
    let routes = call.lease.iter().flat_map(|lease| &lease.routes);
    let routes: Vec<Value> = routes
        // A route of a family that the container has no address of cannot be made.
        .filter(|route| leased.iter().any(|one| same_family(&one.address, &route.dst)))
        .map(|route| match route.gw {
            Some(gw) => json!({"dst": route.dst, "gw": gw}),
            None => json!({"dst": route.dst}),
        })
        .collect();
    if !routes.is_empty() {
        result["routes"] = routes.into();
    }
    if call.config.dns.as_object().is_some_and(|dns| !dns.is_empty()) {
        result["dns"] = call.config.dns.clone();
    }
    result
}

/// What CHECK's `prevResult` says of a lease that is not so.
pub fn differences(call: &Call, lease: &LocalEndpoint) -> Vec<String> {
    let ips = call.config.prev_result.get("ips").and_then(Value::as_array);
    let listed: Vec<IpAddr> = ips
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.get("address")?.as_str()?.parse::<IpNet>().ok())
        .map(|net| net.addr())
        .collect();
    let missing = lease.addresses.iter().filter(|address| !listed.contains(address));
    missing.map(|address| format!("prevResult does not have {address}")).collect()
}

fn same_family(a: &IpNet, b: &IpNet) -> bool {
    a.addr().is_ipv4() == b.addr().is_ipv4()
}

fn reason(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    error.inner().to_string()
}

/// The addresses asked for, of the first place that asks for any.
fn requested(config: &Value, args: &str) -> Result<Vec<IpAddr>, Error> {
    let conventional = [
        ("runtimeConfig.ips", &config["runtimeConfig"]["ips"]),
        ("args.cni.ips", &config["args"]["cni"]["ips"]),
    ];
    for (key, value) in conventional.into_iter().filter(|(_, value)| !value.is_null()) {
        let listed: Vec<String> = Deserialize::deserialize(value)
            .map_err(|error| config_error(&format!("{key}:"), &error.to_string()))?;
        if !listed.is_empty() {
            return addresses(listed.iter().map(String::as_str))
                .map_err(|reason| config_error(&format!("{key}:"), &reason));
        }
    }
    let of_args = args.split(';').filter_map(|pair| pair.strip_prefix("IP=")).next_back();
    let listed = of_args.into_iter().flat_map(|list| list.split(','));
    addresses(listed.filter(|text| !text.is_empty()))
        .map_err(|reason| environment(format!("CNI_ARGS: IP: {reason}")))
}

fn addresses<'a>(listed: impl Iterator<Item = &'a str>) -> Result<Vec<IpAddr>, String> {
    let mut found: Vec<IpAddr> = Vec::new();
    for text in listed.map(str::trim) {
        // The pool's prefix length counts, whatever was asked for.
        let address = text.parse().or_else(|_| text.parse().map(|net: IpNet| net.addr()));
        let address: IpAddr = address.map_err(|_| format!("{text:?} is not an IP address"))?;
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(format!("{address} cannot be a container's address"));
        }
        if found.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(format!("more than one {family} address"));
        }
        found.push(address);
    }
    Ok(found)
}

/// The bridge that `bridge` gives the gateway's address to; its default name is `cni0`.
fn bridge(config: &Value) -> Option<String> {
    let set = |key: &str| config[key].as_bool().unwrap_or_default();
    if config["type"] != "bridge" || !(set("isGateway") || set("isDefaultGateway")) {
        return None;
    }
    let name = config["bridge"].as_str().filter(|name| !name.is_empty()).unwrap_or("cni0");
    match config["vlan"].as_u64().unwrap_or_default() {
        0 => Some(name.to_owned()),
        vlan => Some(format!("{name}.{vlan}")),
    }
}

#[cfg(test)]
mod tests;
