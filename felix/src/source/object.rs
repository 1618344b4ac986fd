//! What can be said of every [`Object`] alike.

use std::fmt;
use std::hash::BuildHasher;

use api::v3;
use kube::Resource;

use crate::model::{Kind, Object, ObjectKey};

impl Kind {
    /// All kinds. A kind comes after those that help to understand it, so that a source which
    /// yields them in this order saves the engine work.
    pub const ALL: [Self; 25] = [
        Self::FelixConfiguration,
        Self::BGPConfiguration,
        Self::IPAMConfiguration,
        Self::KubeControllersConfiguration,
        Self::IPPool,
        Self::IPReservation,
        Self::Tier,
        Self::Namespace,
        Self::ServiceAccount,
        Self::Node,
        Self::ClusterNetworkPolicy,
        Self::GlobalNetworkPolicy,
        Self::NetworkPolicy,
        Self::KubernetesNetworkPolicy,
        Self::StagedNetworkPolicy,
        Self::StagedGlobalNetworkPolicy,
        Self::StagedKubernetesNetworkPolicy,
        Self::GlobalNetworkSet,
        Self::NetworkSet,
        Self::HostEndpoint,
        Self::BGPFilter,
        Self::BGPPeer,
        Self::Secret,
        Self::EndpointSlice,
        Self::Pod,
    ];

    /// The name of the kind, as a person tells it from the others.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
            Self::Node => "Node",
            Self::Secret => "Secret",
            Self::EndpointSlice => "EndpointSlice",
            Self::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::IPPool => "IPPool",
            Self::IPReservation => "IPReservation",
            Self::IPAMConfiguration => "IPAMConfiguration",
            Self::BGPConfiguration => "BGPConfiguration",
            Self::BGPPeer => "BGPPeer",
            Self::BGPFilter => "BGPFilter",
            Self::FelixConfiguration => "FelixConfiguration",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::NetworkSet => "NetworkSet",
            Self::GlobalNetworkSet => "GlobalNetworkSet",
            Self::HostEndpoint => "HostEndpoint",
            Self::KubeControllersConfiguration => "KubeControllersConfiguration",
            Self::Tier => "Tier",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Self::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs the same expression for whichever resource of ours or of Kubernetes is in the object.
macro_rules! for_resource {
    ($object:expr, $o:ident => $then:expr, $($lean:tt)*) => {
        match $object {
            Object::KubernetesNetworkPolicy($o) => $then,
            Object::ClusterNetworkPolicy($o) => $then,
            Object::IPPool($o) => $then,
            Object::IPReservation($o) => $then,
            Object::IPAMConfiguration($o) => $then,
            Object::BGPConfiguration($o) => $then,
            Object::BGPPeer($o) => $then,
            Object::BGPFilter($o) => $then,
            Object::FelixConfiguration($o) => $then,
            Object::NetworkPolicy($o) => $then,
            Object::GlobalNetworkPolicy($o) => $then,
            Object::NetworkSet($o) => $then,
            Object::GlobalNetworkSet($o) => $then,
            Object::HostEndpoint($o) => $then,
            Object::KubeControllersConfiguration($o) => $then,
            Object::Tier($o) => $then,
            Object::StagedNetworkPolicy($o) => $then,
            Object::StagedGlobalNetworkPolicy($o) => $then,
            Object::StagedKubernetesNetworkPolicy($o) => $then,
            $($lean)*
        }
    };
}

impl Object {
    /// The kind of the object.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod,
            Self::Namespace(_) => Kind::Namespace,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::Node(_) => Kind::Node,
            Self::Secret(_) => Kind::Secret,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::KubernetesNetworkPolicy(_) => Kind::KubernetesNetworkPolicy,
            Self::ClusterNetworkPolicy(_) => Kind::ClusterNetworkPolicy,
            Self::IPPool(_) => Kind::IPPool,
            Self::IPReservation(_) => Kind::IPReservation,
            Self::IPAMConfiguration(_) => Kind::IPAMConfiguration,
            Self::BGPConfiguration(_) => Kind::BGPConfiguration,
            Self::BGPPeer(_) => Kind::BGPPeer,
            Self::BGPFilter(_) => Kind::BGPFilter,
            Self::FelixConfiguration(_) => Kind::FelixConfiguration,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::GlobalNetworkPolicy(_) => Kind::GlobalNetworkPolicy,
            Self::NetworkSet(_) => Kind::NetworkSet,
            Self::GlobalNetworkSet(_) => Kind::GlobalNetworkSet,
            Self::HostEndpoint(_) => Kind::HostEndpoint,
            Self::KubeControllersConfiguration(_) => Kind::KubeControllersConfiguration,
            Self::Tier(_) => Kind::Tier,
            Self::StagedNetworkPolicy(_) => Kind::StagedNetworkPolicy,
            Self::StagedGlobalNetworkPolicy(_) => Kind::StagedGlobalNetworkPolicy,
            Self::StagedKubernetesNetworkPolicy(_) => Kind::StagedKubernetesNetworkPolicy,
        }
    }

    /// Names the object among those of its kind.
    pub fn key(&self) -> ObjectKey {
        fn of(resource: &impl Resource) -> ObjectKey {
            let meta = resource.meta();
            ObjectKey {
                namespace: meta.namespace.as_deref().map(Into::into),
                name: meta.name.as_deref().unwrap_or_default().into(),
            }
        }
        for_resource!(self, o => of(&**o),
            Self::Pod(o) => o.key.clone(),
            Self::ServiceAccount(o) => o.key.clone(),
            Self::Secret(o) => o.key.clone(),
            Self::EndpointSlice(o) => o.key.clone(),
            Self::Namespace(o) => ObjectKey { namespace: None, name: o.name.clone() },
            Self::Node(o) => ObjectKey { namespace: None, name: o.name.clone() },
        )
    }

    /// `metadata.generation` of an object that is not reduced: how often its `spec` was written. None
    /// in a folder.
    pub fn generation(&self) -> Option<i64> {
        for_resource!(self, o => o.meta().generation,
            Self::Pod(_)
            | Self::ServiceAccount(_)
            | Self::Secret(_)
            | Self::EndpointSlice(_)
            | Self::Namespace(_)
            | Self::Node(_) => None,
        )
    }

    /// Fields that the object sets and the agent does not act on, as in `spec.vxlanMode`; `spec`
    /// if it acts on none of them.
    pub fn unsupported(&self) -> Vec<String> {
        let fields = for_resource!(self, o => api::unsupported(&**o),
            // Reduced to what is acted on.
            Self::Pod(_)
            | Self::ServiceAccount(_)
            | Self::Secret(_)
            | Self::EndpointSlice(_)
            | Self::Namespace(_)
            | Self::Node(_) => Vec::new(),
        );
        fields.iter().map(ToString::to_string).collect()
    }

    /// A digest of a lean object, of which there may be very many; None for the other kinds, which
    /// are shared and can be kept and compared. Equal objects have the same digest under the same
    /// hasher, and a difference goes unnoticed once in 2^64 changes.
    pub fn digest(&self, state: &impl BuildHasher) -> Option<u64> {
        match self {
            Self::Pod(o) => Some(state.hash_one(o)),
            Self::Namespace(o) => Some(state.hash_one(o)),
            Self::ServiceAccount(o) => Some(state.hash_one(o)),
            Self::Node(o) => Some(state.hash_one(o)),
            Self::Secret(o) => Some(state.hash_one(o)),
            Self::EndpointSlice(o) => Some(state.hash_one(o)),
            _ => None,
        }
    }
}

/// The resources of ours, each with the variant that carries it.
macro_rules! carried {
    ($($kind:ident),*) => {
        $(impl From<v3::$kind> for Object {
            fn from(resource: v3::$kind) -> Self {
                Self::$kind(resource.into())
            }
        })*
    };
}

carried!(
    IPPool,
    IPReservation,
    IPAMConfiguration,
    BGPConfiguration,
    BGPPeer,
    BGPFilter,
    FelixConfiguration,
    NetworkPolicy,
    GlobalNetworkPolicy,
    NetworkSet,
    GlobalNetworkSet,
    HostEndpoint,
    KubeControllersConfiguration,
    Tier,
    StagedNetworkPolicy,
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy
);
