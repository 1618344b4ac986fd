//! What the engine takes from the sources, object by object.

use std::sync::Arc;

use api::v3;

use super::convert::FieldError;
use super::network_sets::NetworkSet;
use super::policy::{Policy, PolicyId};
use super::report::Problem;
use super::shapes::Bearer;
use super::{DEFAULT_TIER, Engine, automatic, calico, cluster_policy, convert, network_sets};
use crate::model::{Kind, Object, ObjectKey};

impl Engine {
    pub(super) fn set(&mut self, object: Object) {
        match object {
            Object::Pod(pod) => self.workloads.set_pod(pod),
            Object::Namespace(namespace) => {
                self.workloads.set_namespace(&namespace.name, Some(&namespace.labels));
            }
            Object::ServiceAccount(account) => {
                self.workloads.set_account(&account.key, Some(&account.labels));
            }
            Object::Node(node) => {
                let made = self.automatic.set_node(&node);
                self.nodes.set(node, &mut self.workloads.addresses);
                self.set_made(made);
            }
            Object::EndpointSlice(slice) => {
                self.services.set(slice, &mut self.workloads.addresses);
            }
            Object::KubernetesNetworkPolicy(ref policy) => {
                let tier = self.tiers.get(DEFAULT_TIER);
                self.set_policy(convert::network_policy(policy, tier), object);
            }
            Object::ClusterNetworkPolicy(ref policy) => {
                let tier = self.tiers.get(cluster_policy::tier(&policy.spec));
                self.set_policy(cluster_policy::convert(policy, tier), object);
            }
            Object::NetworkPolicy(ref policy) => {
                let tier = self.tiers.get(&policy.spec.tier);
                self.set_policy(calico::network_policy(policy, tier), object);
            }
            Object::GlobalNetworkPolicy(ref policy) => {
                let tier = self.tiers.get(&policy.spec.tier);
                self.set_policy(calico::global_network_policy(policy, tier), object);
            }
            Object::NetworkSet(object) => {
                let (meta, nets) = (&object.metadata, &object.spec.nets);
                let set = network_sets::convert(meta, nets, Bearer::NetworkSet);
                self.set_network_set(Kind::NetworkSet, Object::NetworkSet(object).key(), set);
            }
            Object::GlobalNetworkSet(object) => {
                let (meta, nets) = (&object.metadata, &object.spec.nets);
                let set = network_sets::convert(meta, nets, Bearer::GlobalNetworkSet);
                let key = Object::GlobalNetworkSet(object).key();
                self.set_network_set(Kind::GlobalNetworkSet, key, set);
            }
            Object::HostEndpoint(object) => {
                self.automatic.write(object.metadata.name.as_deref().unwrap_or_default());
                self.set_host_endpoint(object);
            }
            Object::KubeControllersConfiguration(object) => {
                let (made, errors) = self.automatic.configure(Some(&object), self.nodes.all());
                let key = Object::KubeControllersConfiguration(object).key();
                self.note((Kind::KubeControllersConfiguration, key), errors);
                self.set_made(made);
            }
            Object::Tier(object) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                self.policies.set_tier(&self.tiers.set(name, &object.spec));
            }
            Object::IPPool(pool) => {
                let name = pool.metadata.name.as_deref().unwrap_or_default();
                self.pools.set(name, &pool.spec.cidr, pool.spec.nat_outgoing);
            }
            _ => {}
        }
    }

    fn set_network_set(
        &mut self,
        kind: Kind,
        key: ObjectKey,
        (set, errors): (NetworkSet, Vec<FieldError>),
    ) {
        self.note((kind, key.clone()), errors);
        self.workloads.set_network_set((kind, key), Some(set));
    }

    fn set_host_endpoint(&mut self, object: Arc<v3::HostEndpoint>) {
        let errors = self.hosts.set(&object, &mut self.workloads);
        self.note((Kind::HostEndpoint, Object::HostEndpoint(object).key()), errors);
    }

    fn remove_host_endpoint(&mut self, name: &str) {
        self.errors.remove(&(Kind::HostEndpoint, ObjectKey::cluster(name)));
        self.hosts.remove(name, &mut self.workloads);
    }

    /// Host endpoints that nobody wrote changed.
    fn set_made(&mut self, made: Vec<automatic::Change>) {
        for change in made {
            match change {
                automatic::Change::Set(object) => self.set_host_endpoint(object),
                automatic::Change::Remove(name) => self.remove_host_endpoint(&name),
            }
        }
    }

    /// What is wrong with an object is this, or nothing.
    fn note(&mut self, id: (Kind, ObjectKey), errors: Vec<FieldError>) {
        if self.errors.get(&id).map_or(&[][..], Vec::as_slice) == errors {
            return;
        }
        self.news.extend(problems_of(&id, &errors));
        if errors.is_empty() {
            self.errors.remove(&id);
        } else {
            self.errors.insert(id, errors);
        }
    }

    fn set_policy(&mut self, (policy, errors): (Policy, Vec<FieldError>), written: Object) {
        self.note((policy.id.kind, policy.id.key.clone()), errors);
        self.written.insert(policy.id.clone(), written);
        self.policies.set(policy);
    }

    pub(super) fn remove(&mut self, kind: Kind, key: &ObjectKey) {
        match kind {
            Kind::Pod => self.workloads.remove_pod(key),
            Kind::Namespace => self.workloads.set_namespace(&key.name, None),
            Kind::ServiceAccount => self.workloads.set_account(key, None),
            Kind::Node => {
                self.nodes.remove(&key.name, &mut self.workloads.addresses);
                let made = self.automatic.remove_node(&key.name);
                self.set_made(made);
            }
            Kind::EndpointSlice => self.services.remove(key, &mut self.workloads.addresses),
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                self.errors.remove(&(kind, key.clone()));
                self.workloads.set_network_set((kind, key.clone()), None);
            }
            Kind::HostEndpoint => match self.automatic.erase(&key.name) {
                Some(made) => self.set_host_endpoint(made),
                None => self.remove_host_endpoint(&key.name),
            },
            Kind::KubeControllersConfiguration => {
                self.errors.remove(&(kind, key.clone()));
                let (made, _) = self.automatic.configure(None, self.nodes.all());
                self.set_made(made);
            }
            Kind::Tier => self.policies.set_tier(&self.tiers.remove(&key.name)),
            Kind::KubernetesNetworkPolicy
            | Kind::ClusterNetworkPolicy
            | Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy => {
                self.errors.remove(&(kind, key.clone()));
                let id = PolicyId { kind, key: key.clone() };
                self.written.remove(&id);
                self.policies.remove(&id);
            }
            Kind::IPPool => self.pools.remove(&key.name),
            _ => {}
        }
    }
}

pub(super) fn problems_of(
    (kind, key): &(Kind, ObjectKey),
    errors: &[FieldError],
) -> impl Iterator<Item = Problem> {
    errors.iter().map(|error| Problem {
        kind: *kind,
        key: key.clone(),
        field: error.field.clone(),
        reason: error.reason.clone(),
    })
}
