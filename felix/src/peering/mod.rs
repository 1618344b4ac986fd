//! Turns nodes, BGP resources and local blocks into the speaker's configuration.
//!
//! Pure: [`Peering::apply`] takes the sources' updates, [`Peering::plan`] computes the whole
//! desired [`bgpd::Config`]; the speaker works out what changed. What cannot be honoured (a
//! BGPPeer without an address, a password whose Secret is missing) is left out and listed in
//! [`Plan::problems`], one object at a time: nothing else is disturbed.
//!
//! Semantics: `calico.md` 1.12, 1.13 and 5.3. One session to a peer carries both families.

mod communities;
mod filters;
mod peers;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use filters::Filters;
pub use plan::{Link, Local};

use crate::model::{Kind, Node, Object, ObjectKey, Secret, Update};

/// What keeps an object from being honoured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Kind and name, `BGPPeer/tor1`.
    pub object: String,
    /// Path of the field.
    pub field: &'static str,
    /// Why, for a person.
    pub reason: String,
}

/// What the speaker shall do, and what could not be honoured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For [`bgpd::SpeakerHandle::apply`].
    pub config: bgpd::Config,
    /// What was left out, sorted: an object, or of the cluster's own settings a single one.
    pub problems: Vec<Problem>,
}

/// Everything that peering depends on, as the sources last said.
#[derive(Debug)]
pub struct Peering {
    node_name: Arc<str>,
    nodes: BTreeMap<Arc<str>, Node>,
    configurations: BTreeMap<Arc<str>, Arc<api::v3::BGPConfiguration>>,
    peers: BTreeMap<Arc<str>, Arc<api::v3::BGPPeer>>,
    pools: BTreeMap<Arc<str>, Arc<api::v3::IPPool>>,
    filters: Filters,
    secrets: BTreeMap<ObjectKey, Secret>,
    secret_namespace: Arc<str>,
}

impl Peering {
    /// For the node of this name; passwords are looked up in `secret_namespace`.
    pub fn new(node_name: &str, secret_namespace: &str) -> Self {
        Self {
            node_name: node_name.into(),
            nodes: BTreeMap::new(),
            configurations: BTreeMap::new(),
            peers: BTreeMap::new(),
            pools: BTreeMap::new(),
            filters: Filters::default(),
            secrets: BTreeMap::new(),
            secret_namespace: secret_namespace.into(),
        }
    }

    /// Takes one update; true if it may change the speaker's configuration.
    pub fn apply(&mut self, update: &Update) -> bool {
        match update {
            Update::Set(Object::Node(node)) => {
                self.nodes.insert(node.name.clone(), node.clone()).as_ref() != Some(node)
            }
            Update::Set(Object::BGPConfiguration(object)) => {
                self.configurations.insert(name_of(&object.metadata), object.clone());
                true
            }
            Update::Set(Object::BGPPeer(object)) => {
                self.peers.insert(name_of(&object.metadata), object.clone());
                self.forget_filters();
                true
            }
            Update::Set(Object::IPPool(object)) => {
                self.pools.insert(name_of(&object.metadata), object.clone());
                true
            }
            Update::Set(Object::BGPFilter(object)) => {
                self.filters.set(name_of(&object.metadata), &object.spec);
                true
            }
            Update::Set(Object::Secret(secret)) => {
                self.secrets.insert(secret.key.clone(), secret.clone()).as_ref() != Some(secret)
            }
            Update::Remove(Kind::Node, key) => self.nodes.remove(&key.name).is_some(),
            Update::Remove(Kind::BGPConfiguration, key) => {
                self.configurations.remove(&key.name).is_some()
            }
            Update::Remove(Kind::BGPPeer, key) => {
                let known = self.peers.remove(&key.name).is_some();
                self.forget_filters();
                known
            }
            Update::Remove(Kind::IPPool, key) => self.pools.remove(&key.name).is_some(),
            Update::Remove(Kind::BGPFilter, key) => {
                self.filters.remove(&key.name);
                self.forget_filters();
                true
            }
            Update::Remove(Kind::Secret, key) => self.secrets.remove(key).is_some(),
            _ => false,
        }
    }

    /// Of deleted filters, only those are kept that a BGPPeer names.
    fn forget_filters(&mut self) {
        let named = self.peers.values().flat_map(|peer| &peer.spec.filters);
        self.filters.forget(&named.map(String::as_str).collect());
    }

    /// This node, once the source has named it.
    pub fn node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }

    /// A node that the source knows.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// The node that has this address as its own.
    pub fn node_at(&self, address: std::net::IpAddr) -> Option<&Node> {
        let has = |node: &&Node| {
            node.ipv4.map(Into::into) == Some(address) || node.ipv6.map(Into::into) == Some(address)
        };
        self.nodes.values().find(has)
    }

    /// The AS number of `node`: its own, else the cluster's. Its own may be a reserved one.
    fn as_number(&self, node: &Node) -> u32 {
        node.as_number.unwrap_or_else(|| self.cluster_as())
    }
}

fn name_of(metadata: &kube::core::ObjectMeta) -> Arc<str> {
    metadata.name.as_deref().unwrap_or_default().into()
}

/// Calico's `hash` router id: the first four bytes of SHA-256 of the node's name, kept out of
/// class D and E (`calico.md` 5.2). For nodes without an IPv4 address.
fn hashed_router_id(node_name: &str) -> Ipv4Addr {
    let hash = Sha256::digest(node_name.as_bytes());
    let first = if hash[0] > 223 { hash[0] - 32 } else { hash[0] };
    Ipv4Addr::new(first, hash[1], hash[2], hash[3])
}
