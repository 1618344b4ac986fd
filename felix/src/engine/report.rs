//! What the engine says of itself.

use std::fmt;
use std::sync::Arc;

use super::policy::PolicyId;
use crate::model::{Kind, ObjectKey};

/// Something wrong with an object. It disturbs nothing but that object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object's kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// Path of the field, as `spec.ingress[0].ports[1].endPort`; empty for the object as a whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, key, field, reason } = self;
        write!(f, "{kind:?} {key}: ")?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(reason)
    }
}

/// A policy that applies to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedPolicy {
    /// The policy.
    pub id: PolicyId,
    /// It has a say in traffic to the endpoint.
    pub ingress: bool,
    /// It has a say in traffic from the endpoint.
    pub egress: bool,
}

/// How a policy of the cluster stands on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStanding {
    /// The policy.
    pub id: PolicyId,
    /// The name of its tier.
    pub tier: Arc<str>,
    /// It has a say in traffic to the endpoints that it selects.
    pub ingress: bool,
    /// It has a say in traffic from them.
    pub egress: bool,
    /// How many of this node's endpoints it selects.
    pub endpoints: usize,
    /// `metadata.generation` of the object as it was taken in last.
    pub generation: Option<i64>,
}

/// How much the engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods in the cluster.
    pub pods: usize,
    /// Distinct combinations of namespace, account, labels and ports among workloads with addresses.
    pub shapes: usize,
    /// Addresses that workloads hold.
    pub addresses: usize,
    /// Endpoints of this node.
    pub endpoints: usize,
    /// Policies in the cluster.
    pub policies: usize,
    /// Policies that apply to an endpoint of this node.
    pub active_policies: usize,
    /// Selectors, networks and named ports that these ask for.
    pub atoms: usize,
    /// Classes of addresses.
    pub classes: usize,
    /// Compiled programs.
    pub programs: usize,
}
