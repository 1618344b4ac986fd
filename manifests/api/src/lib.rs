//! Caracal's API: every kind of `projectcalico.org/v3` as a Rust type, ClusterNetworkPolicy, the
//! selector language, and validation that works with and without an API server. No IO.

#![allow(
    clippy::duplicated_attributes,
    reason = "a printed column of a CRD has a type, and so has the next"
)]

pub mod crd;
pub mod net;
pub mod policy;
pub mod selector;
mod unsupported;
pub mod v3;
pub mod validate;
pub mod yaml;

pub use unsupported::{FieldPath, unsupported, unsupported_in_rules};
