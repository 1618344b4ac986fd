//! What a Service is to have, and what follows from what it holds. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::v3;
use ipam::services::{Service, Wish};
use ipam::{AllowedUse, Family, IpamConfig, Pool};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

const ADDRESSES: &str = "projectcalico.org/loadBalancerIPs";
const POOLS: [(&str, Family); 2] =
    [("projectcalico.org/ipv4pools", Family::V4), ("projectcalico.org/ipv6pools", Family::V6)];
const ADDRESS_FIELD: &str = "spec.loadBalancerIP";
/// The `loadBalancerClass` that is ours.
pub(super) const CLASS: &str = "calico";

/// Which Services get an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum AssignIps {
    /// Every one of type LoadBalancer that names no other class.
    #[default]
    AllServices,
    /// Of these, those that ask: by class `calico`, by annotation or by `spec.loadBalancerIP`.
    RequestedServicesOnly,
}

impl From<v3::AssignIPs> for AssignIps {
    fn from(wanted: v3::AssignIPs) -> Self {
        match wanted {
            v3::AssignIPs::AllServices => Self::AllServices,
            v3::AssignIPs::RequestedServicesOnly => Self::RequestedServicesOnly,
        }
    }
}

/// What of a Service counts here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: Service,
    pub(super) version: String,
    load_balancer: bool,
    class: Option<String>,
    annotations: BTreeMap<String, String>,
    address: Option<String>,
    families: Vec<Family>,
    /// `status.loadBalancer.ingress`.
    pub(super) ingress: Vec<Value>,
}

/// What the cluster says.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    pub(super) pools: Vec<Pool>,
    pub(super) reservations: Vec<IpNet>,
    pub(super) config: Option<IpamConfig>,
    pub(super) assign: AssignIps,
}

/// An address to be got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Get {
    /// The first of these that can be had.
    pub(super) wishes: Vec<Wish>,
    /// Goes when another one has come.
    pub(super) instead_of: Option<IpAddr>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) get: Vec<Get>,
    /// Of a family that it is not to have.
    pub(super) release: BTreeSet<IpAddr>,
}

impl Seen {
    /// None: it has no name or no uid, as no API server would say.
    pub(super) fn of(service: core::Service) -> Option<Self> {
        let (metadata, spec) = (service.metadata, service.spec.unwrap_or_default());
        let wanted = |name: &str| name == ADDRESSES || POOLS.iter().any(|(of, _)| *of == name);
        let annotations = metadata.annotations.unwrap_or_default().into_iter();
        let families = spec.ip_families.unwrap_or_default();
        let families = families.iter().filter_map(|family| match family.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        });
        let ingress = service.status.and_then(|status| status.load_balancer?.ingress);
        let ingress = ingress.unwrap_or_default().into_iter();
        Some(Self {
            id: Service {
                namespace: metadata.namespace?,
                name: metadata.name?,
                uid: metadata.uid?,
            },
            version: metadata.resource_version.unwrap_or_default(),
            load_balancer: spec.type_.as_deref() == Some("LoadBalancer"),
            class: spec.load_balancer_class,
            annotations: annotations.filter(|(name, _)| wanted(name)).collect(),
            address: spec.load_balancer_ip.filter(|text| !text.is_empty()),
            families: families.collect(),
            // Kept as JSON: what a younger API server adds to an entry of others stays.
            ingress: ingress.filter_map(|entry| serde_json::to_value(entry).ok()).collect(),
        })
    }

    /// Whether it gets addresses here.
    pub(super) fn is_ours(&self, assign: AssignIps) -> bool {
        let class = self.class.as_deref();
        let asks = class.is_some()
            || self.address.is_some()
            || self.annotations.values().any(|value| !value.is_empty());
        let wanted = assign == AssignIps::AllServices || asks;
        self.load_balancer && class.is_none_or(|class| class == CLASS) && wanted
    }

    /// Whether it is of a type that has such addresses; else its status is the API server's.
    pub(super) fn is_load_balancer(&self) -> bool {
        self.load_balancer
    }

    /// The addresses that its status names.
    pub(super) fn announced(&self) -> BTreeSet<IpAddr> {
        self.ingress.iter().filter_map(address_of).collect()
    }

    /// What its status is to be: None where it is so.
    pub(super) fn ingress_of(&self, held: &BTreeSet<IpAddr>) -> Option<Vec<Value>> {
        let same = self.ingress.len() == held.len() && self.announced() == *held;
        let entry = |ip: &IpAddr| serde_json::json!({"ip": ip.to_string()});
        (!same).then(|| held.iter().map(entry).collect())
    }

    /// The same where it is others' business now: all but these. None where none is there.
    pub(super) fn ingress_without(&self, held: &BTreeSet<IpAddr>) -> Option<Vec<Value>> {
        let ours = |entry: &&Value| address_of(entry).is_some_and(|ip| held.contains(&ip));
        let left: Vec<Value> = self.ingress.iter().filter(|e| !ours(e)).cloned().collect();
        (left.len() != self.ingress.len()).then_some(left)
    }

    /// What follows from what it holds. What nothing speaks against stays.
    ///
    /// # Errors
    /// The annotation or field that cannot be followed, and why.
    pub(super) fn plan(&self, held: &BTreeSet<IpAddr>, cluster: &Cluster) -> Result<Plan, String> {
        let pools = self.pools(cluster)?;
        let named = self.addresses()?;
        let families: BTreeSet<Family> = match &named {
            Some(addresses) => addresses.keys().copied().collect(),
            None => self.families.iter().copied().collect(),
        };
        let field = match &named {
            None => self.address.as_ref().map(|text| one(ADDRESS_FIELD, text)).transpose()?,
            Some(_) => None,
        };
        let mut plan = Plan::default();
        for family in &families {
            let wanted = named.as_ref().and_then(|addresses| addresses.get(family).copied());
            let wanted = wanted.or(field.filter(|ip| Family::of(*ip) == *family));
            let has = held.iter().copied().find(|ip| Family::of(*ip) == *family);
            let from = pools.get(family).map_or(&[][..], Vec::as_slice);
            let fits = |ip: IpAddr| match wanted {
                Some(wanted) => ip == wanted,
                None => cluster.may_keep(ip, from),
            };
            if has.is_some_and(fits) {
                continue;
            }
            let wishes = match wanted {
                Some(wanted) => vec![Wish::Address(wanted)],
                None => {
                    // What clients know it by, should the store have lost that.
                    let known =
                        self.announced().into_iter().filter(|ip| Family::of(*ip) == *family);
                    let known = known.filter(|ip| has.is_none() && cluster.may_give(*ip, from));
                    let names = from.iter().map(|pool| pool.name.clone()).collect();
                    known.map(Wish::Address).chain([Wish::Any(*family, names)]).collect()
                }
            };
            plan.get.push(Get { wishes, instead_of: has });
        }
        plan.release =
            held.iter().copied().filter(|ip| !families.contains(&Family::of(*ip))).collect();
        Ok(plan)
    }

    /// The addresses that the annotation names.
    fn addresses(&self) -> Result<Option<BTreeMap<Family, IpAddr>>, String> {
        let Some(texts) = self.list(ADDRESSES)? else { return Ok(None) };
        let mut named = BTreeMap::new();
        for text in texts {
            let address = one(&format!("annotation {ADDRESSES}"), &text)?;
            let family = Family::of(address);
            if let Some(other) = named.insert(family, address) {
                return Err(format!(
                    "annotation {ADDRESSES}: {other} and {address} are both {family}; a Service has \
                     at most one address of a family"
                ));
            }
        }
        Ok(Some(named))
    }

    /// The pools that annotations name.
    fn pools<'a>(&self, cluster: &'a Cluster) -> Result<BTreeMap<Family, Vec<&'a Pool>>, String> {
        let mut named = BTreeMap::new();
        for (annotation, family) in POOLS {
            let mut pools = Vec::new();
            for text in self.list(annotation)?.unwrap_or_default() {
                let wrong = |reason: &str| format!("annotation {annotation}: {text} {reason}");
                let meant = |pool: &&Pool| pool.name == text || text.parse() == Ok(pool.cidr);
                let pool = cluster.pools.iter().find(meant).ok_or_else(|| wrong("is no IPPool"))?;
                if pool.family() != family {
                    return Err(wrong(&format!("is not {family}")));
                }
                if !pool.allowed_uses.contains(&AllowedUse::LoadBalancer) {
                    return Err(wrong("is not for LoadBalancer (spec.allowedUses)"));
                }
                pools.push(pool);
            }
            if !pools.is_empty() {
                named.insert(family, pools);
            }
        }
        Ok(named)
    }

    /// An annotation's list; None where it is not there, or empty.
    fn list(&self, annotation: &str) -> Result<Option<Vec<String>>, String> {
        let Some(text) = self.annotations.get(annotation).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let list: Vec<String> = serde_json::from_str(text).map_err(|error| {
            format!("annotation {annotation}: {text:?} is not a JSON list of strings: {error}")
        })?;
        Ok(Some(list).filter(|list| !list.is_empty()))
    }
}

impl Cluster {
    fn pool_of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.cidr.contains(&address))
    }

    /// Whether an address that a Service has is one that it may have: of the pools that it names, else
    /// of any but those that are given only by name. What is in no pool any more stays.
    fn may_keep(&self, address: IpAddr, named: &[&Pool]) -> bool {
        match named {
            [] => self.pool_of(address).is_none_or(|pool| !pool.manual),
            named => named.iter().any(|pool| pool.cidr.contains(&address)),
        }
    }

    /// Whether it could have been given.
    fn may_give(&self, address: IpAddr, named: &[&Pool]) -> bool {
        let usable =
            |pool: &Pool| !pool.disabled && pool.allowed_uses.contains(&AllowedUse::LoadBalancer);
        self.pool_of(address).is_some_and(usable) && self.may_keep(address, named)
    }
}

fn one(field: &str, text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{field}: {text:?} is not an IP address"))
}

fn address_of(entry: &Value) -> Option<IpAddr> {
    entry.get("ip")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests;
