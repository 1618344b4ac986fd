//! Who is where: pods everywhere in the cluster, the endpoints of this node, and what is known of
//! each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::addresses::Addresses;
use super::comments;
use super::network_sets::NetworkSet;
use super::pending::Pending;
use super::pods::{PodEntry, Pods};
use super::policies::Revision;
use super::programs::ProgramId;
use super::shapes::{Bearer, ShapeId, ShapeKey, Shapes};
use crate::model::{
    EndpointId, IfIndex, Key, Kind, Labels, LocalEndpoint, NamedPort, ObjectKey, Pod, Value,
};

/// An endpoint of this node.
#[derive(Clone, Debug)]
pub(super) struct Local {
    /// As it was given last.
    given: LocalEndpoint,
    /// With the labels and the account that its pod had when the source last knew it.
    pub(super) endpoint: LocalEndpoint,
    pub(super) shape: ShapeId,
    /// The policies that apply, in evaluation order.
    pub(super) policies: Vec<Revision>,
    /// For ingress and egress; None until the next delta is made.
    pub(super) programs: [Option<ProgramId>; 2],
}

/// All workloads.
#[derive(Clone, Debug, Default)]
pub(super) struct Workloads {
    pub(super) shapes: Shapes,
    pub(super) addresses: Addresses,
    pods: Pods,
    locals: BTreeMap<EndpointId, Local>,
    by_pod: FxHashMap<ObjectKey, BTreeSet<EndpointId>>,
    by_index: FxHashMap<IfIndex, EndpointId>,
    by_address: FxHashMap<IpAddr, SmallVec<[IfIndex; 1]>>,
    /// Endpoints whose policies or ports may be others than before.
    dirty: BTreeSet<EndpointId>,
    /// Endpoints whose interface index was given to another.
    displaced: BTreeMap<EndpointId, (ObjectKey, IfIndex)>,
    sets: BTreeMap<(Kind, ObjectKey), ShapeId>,
}

impl Workloads {
    /// The pod is now this.
    pub(super) fn set_pod(&mut self, mut pod: Pod) {
        if self.pods.get(&pod.key).is_some_and(|known| known.pod == pod) {
            return;
        }
        let shape = has_addresses(&pod).then(|| {
            let shape = self.shapes.acquire(shape_of(&pod));
            if let Some(shared) = self.shapes.key(shape) {
                // Pods of one template share the memory too.
                let namespace = &mut pod.key.namespace;
                *namespace = namespace.take().map(|_| shared.namespace.clone());
                pod.labels = shared.labels.clone();
                pod.service_account = shared.service_account.clone();
                pod.ports = shared.ports.clone();
            }
            shape
        });
        let addresses = shape.map_or_else(SmallVec::new, |_| pod.addresses.clone());
        let key = pod.key.clone();
        let before = self.pods.insert(PodEntry { pod, shape });
        let old = before.as_ref().and_then(|before| Some((before.shape?, &before.pod.addresses)));
        if old != shape.map(|shape| (shape, &addresses)) {
            if let Some((shape, addresses)) = old {
                self.withdraw(shape, addresses);
            }
            if let Some(shape) = shape {
                self.announce(shape, &addresses);
            }
        }
        if let Some((shape, _)) = old {
            self.shapes.release(shape);
        }
        self.pod_changed(&key);
    }

    /// The pod is gone. Endpoints of it that are still here keep what was last known of it.
    pub(super) fn remove_pod(&mut self, key: &ObjectKey) {
        let Some(entry) = self.pods.remove(key) else { return };
        if let Some(shape) = entry.shape {
            self.withdraw(shape, &entry.pod.addresses);
            self.shapes.release(shape);
        }
    }

    /// A pod, if the source knows it.
    pub(super) fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.pods.get(key).map(|entry| &entry.pod)
    }

    /// The addresses of all pods that the source knows, but for those of nodes.
    pub(super) fn pods(&self) -> impl Iterator<Item = (IpAddr, &ObjectKey)> {
        let pods = self.pods.iter().filter(|entry| entry.shape.is_some()).map(|entry| &entry.pod);
        pods.flat_map(|pod| pod.addresses.iter().map(move |address| (*address, &pod.key)))
    }

    /// How many pods the source knows.
    pub(super) fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// A namespace has these labels, or is not known any more.
    pub(super) fn set_namespace(&mut self, name: &Arc<str>, labels: Option<&Labels>) {
        let changed = self.shapes.set_namespace(name, labels);
        self.shapes_changed(&changed);
        let here = self.locals.iter().filter(|(_, local)| *local.endpoint.namespace == **name);
        self.dirty.extend(here.map(|(id, _)| id.clone()));
    }

    /// A service account has these labels, or is not known any more.
    pub(super) fn set_account(&mut self, key: &ObjectKey, labels: Option<&Labels>) {
        let changed = self.shapes.set_account(key, labels);
        self.shapes_changed(&changed);
        let here = self.locals.iter().filter(|(_, local)| {
            Some(&*local.endpoint.namespace) == key.namespace.as_deref()
                && *local.endpoint.service_account == *key.name
        });
        self.dirty.extend(here.map(|(id, _)| id.clone()));
    }

    /// The network set is now this, or gone.
    pub(super) fn set_network_set(&mut self, id: (Kind, ObjectKey), set: Option<NetworkSet>) {
        let (shape, networks) = match set {
            Some(set) => {
                let shape = self.shapes.acquire(set.shape);
                (Some(shape), Some((shape, set.networks)))
            }
            None => (None, None),
        };
        self.addresses.set_network_set(&id, networks);
        let before = match shape {
            Some(shape) => self.sets.insert(id, shape),
            None => self.sets.remove(&id),
        };
        if let Some(before) = before {
            self.shapes.release(before);
        }
    }

    /// The shapes answer other questions now.
    pub(super) fn shapes_changed(&mut self, shapes: &[ShapeId]) {
        for shape in shapes {
            self.addresses.shape_changed(*shape, &self.shapes);
        }
    }

    /// The endpoint is on this node. Returns endpoints that had to give way: an earlier state of
    /// it, and one that had its interface index.
    pub(super) fn set_local(&mut self, given: LocalEndpoint, pending: &mut Pending) -> Vec<Local> {
        let mut gone = Vec::new();
        let id = given.id.clone();
        if let Some(known) = self.locals.get_mut(&id) {
            if known.given == given {
                return gone;
            }
            let same_pod = (&known.given.namespace, &known.given.pod, &known.given.pod_uid)
                == (&given.namespace, &given.pod, &given.pod_uid);
            let same_link = (known.given.host_index, &known.given.addresses)
                == (given.host_index, &given.addresses);
            if same_pod && same_link {
                known.endpoint = given.clone();
                known.given = given;
                self.refresh(&id, true);
                return gone;
            }
            gone.extend(self.remove_local(&id, pending));
        }
        self.displaced.remove(&id);
        if let Some(other) = self.by_index.get(&given.host_index).cloned()
            && let Some(other) = self.remove_local(&other, pending)
        {
            let pod = pod_key(&other.endpoint);
            self.displaced.insert(other.endpoint.id.clone(), (pod, given.host_index));
            gone.push(other);
        }
        let index = given.host_index;
        pending.set(Key::Workload(index), None, Some(Value::Member));
        pending.comment(Key::Workload(index), comments::of_endpoint(&given));
        for address in distinct(&given.addresses) {
            pending.set(Key::Source(address, index), None, Some(Value::Member));
            self.by_address.entry(address).or_default().push(index);
        }
        self.by_index.insert(index, id.clone());
        self.by_pod.entry(pod_key(&given)).or_default().insert(id.clone());
        let shape = self.shapes.acquire(shape_of_record(&given, Arc::default()));
        self.announce(shape, &distinct(&given.addresses));
        let endpoint = given.clone();
        let local = Local { given, endpoint, shape, policies: Vec::new(), programs: [None; 2] };
        self.locals.insert(id.clone(), local);
        self.dirty.insert(id.clone());
        self.refresh(&id, false);
        gone
    }

    /// The endpoint is not on this node any more.
    pub(super) fn remove_local(&mut self, id: &EndpointId, pending: &mut Pending) -> Option<Local> {
        self.displaced.remove(id);
        let local = self.locals.remove(id)?;
        self.dirty.remove(id);
        let (index, addresses) = (local.given.host_index, distinct(&local.given.addresses));
        pending.set(Key::Workload(index), Some(Value::Member), None);
        for address in &addresses {
            pending.set(Key::Source(*address, index), Some(Value::Member), None);
            if let Some(indexes) = self.by_address.get_mut(address) {
                indexes.retain(|other| *other != index);
                if indexes.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
        self.by_index.remove(&index);
        let pod = pod_key(&local.given);
        if let Some(ids) = self.by_pod.get_mut(&pod) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_pod.remove(&pod);
            }
        }
        self.withdraw(local.shape, &addresses);
        self.shapes.release(local.shape);
        Some(local)
    }

    /// An endpoint of this node.
    pub(super) fn local(&self, id: &EndpointId) -> Option<&Local> {
        self.locals.get(id)
    }

    /// The same, to be changed.
    pub(super) fn local_mut(&mut self, id: &EndpointId) -> Option<&mut Local> {
        self.locals.get_mut(id)
    }

    /// All endpoints of this node.
    pub(super) fn locals(&self) -> impl Iterator<Item = (&EndpointId, &Local)> {
        self.locals.iter()
    }

    /// The endpoints of this node that hold an address.
    pub(super) fn holders(&self, address: IpAddr) -> impl Iterator<Item = &Local> {
        let indexes = self.by_address.get(&address).into_iter().flatten();
        indexes.filter_map(|index| self.locals.get(self.by_index.get(index)?))
    }

    /// The endpoint of this node behind an interface.
    pub(super) fn at(&self, index: IfIndex) -> Option<&Local> {
        self.locals.get(self.by_index.get(&index)?)
    }

    /// Endpoints whose interface index was given to another, with their pods.
    pub(super) fn displaced(&self) -> impl Iterator<Item = &(ObjectKey, IfIndex)> {
        self.displaced.values()
    }

    /// All endpoints are to be looked at again.
    pub(super) fn touch_locals(&mut self) {
        self.dirty.extend(self.locals.keys().cloned());
    }

    /// The endpoints whose policies or ports may be others than at the last call.
    pub(super) fn take_dirty(&mut self) -> BTreeSet<EndpointId> {
        std::mem::take(&mut self.dirty)
    }

    fn pod_changed(&mut self, key: &ObjectKey) {
        let ids: Vec<EndpointId> = self.by_pod.get(key).into_iter().flatten().cloned().collect();
        for id in ids {
            self.refresh(&id, false);
        }
    }

    /// Gives an endpoint the shape that follows from what is known of its pod; if the pod is not
    /// known, what was known last, or what is on record.
    fn refresh(&mut self, id: &EndpointId, record_changed: bool) {
        let Some(local) = self.locals.get_mut(id) else { return };
        let pod = self.pods.get(&pod_key(&local.given)).map(|entry| &entry.pod);
        let wanted = match pod.filter(|pod| is_pod_of(pod, &local.given)) {
            Some(pod) => {
                let labels = pod.labels.iter();
                local.endpoint.labels = labels.map(|(k, v)| (k.into(), v.into())).collect();
                local.endpoint.service_account = (*pod.service_account).into();
                shape_of(pod)
            }
            None if record_changed => {
                let ports = self.shapes.key(local.shape).map(|key| key.ports.clone());
                shape_of_record(&local.endpoint, ports.unwrap_or_default())
            }
            None => return,
        };
        if self.shapes.key(local.shape).is_some_and(|key| **key == wanted) {
            return;
        }
        let shape = self.shapes.acquire(wanted);
        let before = std::mem::replace(&mut local.shape, shape);
        let addresses = distinct(&local.given.addresses);
        self.withdraw(before, &addresses);
        self.announce(shape, &addresses);
        self.shapes.release(before);
        self.dirty.insert(id.clone());
    }

    /// Holders of the shape have these addresses.
    pub(super) fn announce(&mut self, shape: ShapeId, addresses: &[IpAddr]) {
        for address in addresses {
            self.addresses.add_owner(*address, shape, &mut self.shapes);
        }
    }

    /// They have them no longer.
    pub(super) fn withdraw(&mut self, shape: ShapeId, addresses: &[IpAddr]) {
        for address in addresses {
            self.addresses.remove_owner(*address, shape, &mut self.shapes);
        }
    }
}

/// Host-network pods share the addresses of their node, finished ones may have lost theirs.
fn has_addresses(pod: &Pod) -> bool {
    !pod.host_network && !pod.addresses.is_empty()
}

/// Whether the pod that the source knows by an endpoint's pod name is the endpoint's. Another
/// may have taken its name already.
fn is_pod_of(pod: &Pod, endpoint: &LocalEndpoint) -> bool {
    pod.has_uid(&endpoint.pod_uid)
}

fn pod_key(endpoint: &LocalEndpoint) -> ObjectKey {
    ObjectKey::namespaced(&endpoint.namespace, &endpoint.pod)
}

fn shape_of(pod: &Pod) -> ShapeKey {
    ShapeKey {
        bearer: Bearer::Pod,
        namespace: pod.key.namespace.clone().unwrap_or_default(),
        service_account: pod.service_account.clone(),
        labels: pod.labels.clone(),
        ports: pod.ports.clone(),
    }
}

fn shape_of_record(endpoint: &LocalEndpoint, ports: Arc<[NamedPort]>) -> ShapeKey {
    ShapeKey {
        bearer: Bearer::Pod,
        namespace: (*endpoint.namespace).into(),
        service_account: (*endpoint.service_account).into(),
        labels: endpoint.labels.iter().collect(),
        ports,
    }
}

fn distinct(addresses: &[IpAddr]) -> SmallVec<[IpAddr; 2]> {
    let mut distinct: SmallVec<[IpAddr; 2]> = SmallVec::from_slice(addresses);
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}
