//! The kinds of `projectcalico.org/v3`, as plain custom resources.
//!
//! Field names, defaults and limits are those of Calico, so that its manifests apply unchanged.
//! Addresses, CIDRs and selectors are kept as the text that was written: one bad value then
//! spoils one field ([`crate::validate`]), not the decoding of a whole list. Enumerations are
//! typed; an unknown value is an error.
//!
//! Where a kind is layered over another object of the same kind (BGPConfiguration and
//! FelixConfiguration: `default`, then `node.<name>`), an absent field must stay absent, so the
//! schema carries no defaults for it; the fields' documentation and the accessors do.
#![allow(clippy::unwrap_used, reason = "kube's KubeSchema derive expands to it on valid rules")]
#![allow(unreachable_pub, reason = "kube's KubeSchema derive copies each struct into a function")]

mod bgp_configuration;
mod bgp_filter;
mod bgp_peer;
mod felix_configuration;
mod host_endpoint;
mod ip_pool;
mod ipam;
mod kube_controllers_configuration;
mod network_policy;
mod network_set;
mod rule;
mod schemas;
mod staged;
mod tier;
mod types;

pub use bgp_configuration::*;
pub use bgp_filter::*;
pub use bgp_peer::*;
pub use felix_configuration::*;
pub use host_endpoint::*;
pub use ip_pool::*;
pub use ipam::*;
pub use kube_controllers_configuration::*;
pub use network_policy::*;
pub use network_set::*;
pub use rule::*;
pub use staged::*;
pub use tier::*;
pub use types::*;

/// The API group of every kind here.
pub const GROUP: &str = "projectcalico.org";
/// The API version of every kind here.
pub const VERSION: &str = "v3";
/// `apiVersion` of every object here.
pub const API_VERSION: &str = "projectcalico.org/v3";

#[cfg(test)]
mod tests;
