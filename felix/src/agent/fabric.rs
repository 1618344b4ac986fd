//! What beyond policy follows from the source's updates: the BGP configuration, the address pools
//! and the names of the nodes. Collected by the brain's loop, handed on once it is worth anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::v3;
use ipnet::IpNet;
use tokio::sync::watch;

use crate::model::{Kind, Labels, Object, Update};
use crate::peering::Peering;

/// What address management is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Addressing {
    pub(super) pools: BTreeMap<Arc<str>, Arc<v3::IPPool>>,
    pub(super) reservations: BTreeMap<Arc<str>, Arc<v3::IPReservation>>,
    pub(super) configuration: Option<Arc<v3::IPAMConfiguration>>,
    /// None until the source has the node.
    pub(super) node_labels: Option<Labels>,
    /// The node's networks for pods. None until the source has the node.
    pub(super) pod_cidrs: Option<Arc<[IpNet]>>,
    /// Everything that exists has been seen once: an empty set means that there are none.
    pub(super) complete: bool,
}

/// The nodes that the source has; None until it has been read completely.
pub(super) type NodeNames = Option<BTreeSet<Arc<str>>>;

pub(super) struct Fabric {
    node_name: Arc<str>,
    peering: watch::Sender<Peering>,
    addressing: watch::Sender<Addressing>,
    nodes: watch::Sender<NodeNames>,
    /// Until the source is in sync.
    names: BTreeSet<Arc<str>>,
    in_sync: bool,
}

impl Fabric {
    pub(super) fn new(node_name: &str, secret_namespace: &str) -> Self {
        Self {
            node_name: node_name.into(),
            peering: watch::Sender::new(Peering::new(node_name, secret_namespace)),
            addressing: watch::Sender::new(Addressing::default()),
            nodes: watch::Sender::new(None),
            names: BTreeSet::new(),
            in_sync: false,
        }
    }

    pub(super) fn peering(&self) -> watch::Receiver<Peering> {
        self.peering.subscribe()
    }

    pub(super) fn addressing(&self) -> watch::Receiver<Addressing> {
        self.addressing.subscribe()
    }

    pub(super) fn nodes(&self) -> watch::Receiver<NodeNames> {
        self.nodes.subscribe()
    }

    /// Nobody is woken before the source is in sync: half a configuration would end sessions.
    pub(super) fn apply(&mut self, update: &Update) {
        if matches!(update, Update::InSync) && !self.in_sync {
            self.in_sync = true;
            self.peering.send_modify(|_| {});
            self.addressing.send_modify(|addressing| addressing.complete = true);
            self.nodes.send_replace(Some(std::mem::take(&mut self.names)));
            return;
        }
        let wake = self.in_sync;
        self.peering.send_if_modified(|peering| peering.apply(update) && wake);
        self.addressing
            .send_if_modified(|addressing| addressing.apply(update, &self.node_name) && wake);
        let early = &mut self.names;
        self.nodes.send_if_modified(|names| match update {
            Update::Set(Object::Node(node)) => {
                names.as_mut().unwrap_or(early).insert(node.name.clone())
            }
            Update::Remove(Kind::Node, key) => names.as_mut().unwrap_or(early).remove(&key.name),
            _ => false,
        });
    }
}

impl Addressing {
    fn apply(&mut self, update: &Update, node_name: &str) -> bool {
        let name = |metadata: &kube::core::ObjectMeta| -> Arc<str> {
            metadata.name.as_deref().unwrap_or_default().into()
        };
        match update {
            Update::Set(Object::IPPool(pool)) => {
                self.pools.insert(name(&pool.metadata), pool.clone());
            }
            Update::Set(Object::IPReservation(reservation)) => {
                self.reservations.insert(name(&reservation.metadata), reservation.clone());
            }
            Update::Set(Object::IPAMConfiguration(object))
                if *name(&object.metadata) == *"default" =>
            {
                self.configuration = Some(object.clone());
            }
            Update::Set(Object::Node(node)) if *node.name == *node_name => {
                let known = (self.node_labels.as_ref(), self.pod_cidrs.as_ref());
                if known == (Some(&node.labels), Some(&node.pod_cidrs)) {
                    return false;
                }
                self.node_labels = Some(node.labels.clone());
                self.pod_cidrs = Some(node.pod_cidrs.clone());
            }
            Update::Remove(Kind::IPPool, key) => {
                self.pools.remove(&key.name);
            }
            Update::Remove(Kind::IPReservation, key) => {
                self.reservations.remove(&key.name);
            }
            Update::Remove(Kind::IPAMConfiguration, key) if *key.name == *"default" => {
                self.configuration = None;
            }
            _ => return false,
        }
        true
    }
}
