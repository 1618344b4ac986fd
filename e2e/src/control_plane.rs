//! etcd for IPAM, and a real kube-apiserver and kube-controller-manager with an etcd of their own,
//! all in the `control` namespace.

mod apiserver;
pub(crate) mod binaries;
mod etcd;
pub(crate) mod intent;
pub(crate) mod manifests;

pub(crate) use self::apiserver::ApiServer;
pub(crate) use self::etcd::Etcd;

/// The namespace of them all.
pub(crate) const NAMESPACE: &str = "control";
