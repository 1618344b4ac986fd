//! What is watched: Services, and what says which addresses they may have. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::v3;
use ipam::IpamConfig;
use ipam::pool::{Pool, reservations};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::plan::{AssignIps, Cluster, Seen};
use crate::source::listwatch::{Event, Failure};

/// Namespace (empty: none) and name.
pub(super) type Key = (String, String);

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Service,
    Pool,
    Reservation,
    Configuration,
    Controllers,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Service, Self::Pool, Self::Reservation, Self::Configuration, Self::Controllers];
}

/// What a change concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Concerned {
    pub(super) services: BTreeSet<Key>,
    /// All of them.
    pub(super) all: bool,
}

/// The objects there are.
#[derive(Default)]
pub(super) struct World {
    pub(super) services: BTreeMap<Key, Arc<Seen>>,
    pools: BTreeMap<Key, Pool>,
    reservations: BTreeMap<Key, Vec<IpNet>>,
    config: Option<IpamConfig>,
    /// Where KubeControllersConfiguration does not say it.
    by_default: AssignIps,
    configured: Option<AssignIps>,
    /// Kinds that were listed once.
    listed: BTreeSet<Kind>,
    /// What the lists under way have held so far.
    listing: BTreeMap<Kind, HashSet<Key>>,
    denied: BTreeMap<Kind, u32>,
    errors: BTreeMap<Kind, String>,
}

impl World {
    /// `by_default` is who gets addresses unless KubeControllersConfiguration says it.
    pub(super) fn new(by_default: AssignIps) -> Self {
        Self { by_default, ..Self::default() }
    }

    /// Whether all was listed once; else what is waited for.
    pub(super) fn synced(&self) -> Result<(), String> {
        let waited: Vec<String> = Kind::ALL
            .iter()
            .filter(|kind| !self.listed.contains(kind))
            .map(|kind| match self.errors.get(kind) {
                Some(error) => format!("{kind:?}: {error}"),
                None => format!("{kind:?}: not listed yet"),
            })
            .collect();
        if waited.is_empty() { Ok(()) } else { Err(waited.join("; ")) }
    }

    /// What the cluster says of addresses, for one Service: what others' status names is not given to
    /// it, even should the store have lost whose it is.
    pub(super) fn cluster(&self, for_whom: &Key) -> Cluster {
        let assign = self.assign();
        let others = self
            .services
            .iter()
            .filter(|(key, service)| *key != for_whom && service.is_ours(assign));
        let known = others.flat_map(|(_, service)| service.announced()).map(IpNet::from);
        Cluster {
            pools: self.pools.values().cloned().collect(),
            reservations: self.reservations.values().flatten().copied().chain(known).collect(),
            config: self.config.clone(),
            assign,
        }
    }

    pub(super) fn config(&self) -> Option<IpamConfig> {
        self.config.clone()
    }

    pub(super) fn assign(&self) -> AssignIps {
        self.configured.unwrap_or(self.by_default)
    }

    /// The addresses that the Services' status names, for the metrics.
    pub(super) fn announced(&self) -> BTreeSet<IpAddr> {
        let assign = self.assign();
        let ours = self.services.values().filter(|service| service.is_ours(assign));
        ours.flat_map(|service| service.announced()).collect()
    }

    pub(super) fn fail(&mut self, kind: Kind, failure: &Failure) {
        /// Times in a row that the API server must deny knowing a kind.
        const DENIALS: u32 = 2;
        self.errors.insert(kind, failure.to_string());
        if *failure == Failure::NotServed {
            let denied = self.denied.entry(kind).or_default();
            *denied += 1;
            // These need not be there; without pools there is nothing to give.
            let optional =
                matches!(kind, Kind::Reservation | Kind::Configuration | Kind::Controllers);
            if optional && *denied >= DENIALS {
                self.listed.insert(kind);
            }
        } else {
            self.denied.remove(&kind);
        }
    }

    pub(super) fn take(&mut self, kind: Kind, event: Event) -> Concerned {
        let mut concerned = Concerned::default();
        match event {
            Event::Listing => drop(self.listing.insert(kind, HashSet::new())),
            Event::Watching => drop(self.errors.remove(&kind)),
            Event::Listed(json) | Event::Applied(json) => {
                let key = key_of(&json);
                if let Some(listing) = self.listing.get_mut(&kind) {
                    listing.insert(key.clone());
                }
                self.set(kind, key, json, &mut concerned);
            }
            Event::Deleted(json) => self.remove(kind, &key_of(&json), &mut concerned),
            Event::Complete => {
                self.errors.remove(&kind);
                self.denied.remove(&kind);
                let there = self.listing.remove(&kind).unwrap_or_default();
                for gone in self.keys(kind).into_iter().filter(|key| !there.contains(key)) {
                    self.remove(kind, &gone, &mut concerned);
                }
                concerned.all |= self.listed.insert(kind);
            }
        }
        concerned
    }

    fn keys(&self, kind: Kind) -> Vec<Key> {
        match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::Pool => self.pools.keys().cloned().collect(),
            Kind::Reservation => self.reservations.keys().cloned().collect(),
            Kind::Configuration | Kind::Controllers => {
                vec![(String::new(), "default".to_owned())]
            }
        }
    }

    /// What cannot be read leaves what was known in force.
    fn set(&mut self, kind: Kind, key: Key, json: Value, concerned: &mut Concerned) {
        match kind {
            Kind::Service => {
                let Some(service) = read(&key, json).and_then(Seen::of) else { return };
                let changed = self.services.get(&key).is_none_or(|known| **known != service);
                if changed {
                    self.services.insert(key.clone(), Arc::new(service));
                    concerned.services.insert(key);
                }
            }
            Kind::Pool => {
                let Some(resource) = read::<v3::IPPool>(&key, json) else { return };
                match Pool::try_from(&resource) {
                    Ok(pool) => {
                        let before = self.pools.insert(key, pool.clone());
                        concerned.all |= before != Some(pool);
                    }
                    Err(error) => tracing::warn!(%error, "IPPool cannot be used"),
                }
            }
            Kind::Reservation => {
                let Some(resource) = read::<v3::IPReservation>(&key, json) else { return };
                let (nets, wrong) = reservations(&resource);
                for error in wrong {
                    tracing::warn!(%error, "IPReservation is used in part");
                }
                let before = self.reservations.insert(key, nets.clone());
                concerned.all |= before != Some(nets);
            }
            Kind::Configuration if key.1 == "default" => {
                let Some(resource) = read::<v3::IPAMConfiguration>(&key, json) else { return };
                let config = IpamConfig::from(&resource);
                match config.validate() {
                    Ok(()) => self.config = Some(config),
                    Err(error) => tracing::warn!(error, "IPAMConfiguration default cannot be used"),
                }
            }
            Kind::Controllers if key.1 == "default" => {
                let Some(resource) = read::<v3::KubeControllersConfiguration>(&key, json) else {
                    return;
                };
                let wanted = resource.spec.controllers.load_balancer;
                self.set_assign(wanted.and_then(|it| it.assign_ips).map(Into::into), concerned);
            }
            Kind::Configuration | Kind::Controllers => {}
        }
    }

    fn set_assign(&mut self, configured: Option<AssignIps>, concerned: &mut Concerned) {
        let before = self.assign();
        self.configured = configured;
        if self.assign() != before {
            tracing::info!(assign = ?self.assign(), "other Services get addresses now");
            concerned.all = true;
        }
    }

    fn remove(&mut self, kind: Kind, key: &Key, concerned: &mut Concerned) {
        match kind {
            Kind::Service => {
                self.services.remove(key);
                concerned.services.insert(key.clone());
            }
            Kind::Pool => concerned.all |= self.pools.remove(key).is_some(),
            Kind::Reservation => concerned.all |= self.reservations.remove(key).is_some(),
            Kind::Configuration if key.1 == "default" => self.config = None,
            Kind::Controllers if key.1 == "default" => self.set_assign(None, concerned),
            Kind::Configuration | Kind::Controllers => {}
        }
    }
}

fn read<T: DeserializeOwned>(key: &Key, json: Value) -> Option<T> {
    let kind = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
    let read = serde_json::from_value(json);
    read.inspect_err(|error| {
        tracing::warn!(kind, namespace = key.0, name = key.1, %error, "cannot be read");
    })
    .ok()
}

fn key_of(json: &Value) -> Key {
    let text = |path| json.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/metadata/namespace"), text("/metadata/name"))
}

/// As an answer to a GET.
pub(super) fn seen(service: core::Service) -> Result<Seen, String> {
    Seen::of(service).ok_or_else(|| "the API server's answer has no uid".to_owned())
}
