//! The CNI server: gives a container its addresses, its link and its policy, and takes them back.
//!
//! ```text
//!  runtime ─exec─▶ caracal ─socket─▶ server ─▶ attachments ─▶ backend (source, IPAM, kernel)
//!                  (plugin)   protocol            │
//!                                                 └─▶ journal (disk)
//! ```
//! ADD: the pod is known → the intent is written, and the link made, while addresses are assigned →
//! policy and route are in the kernel → the link is set up → the endpoint is written → the answer.
//! Whatever ends earlier is undone: a failure, a runtime that goes away, a deadline, and, at the next
//! start, a crash. DEL goes by container and interface alone and may be repeated; addresses that
//! cannot be released because etcd is away are released when it is back.
//!
//! A second ADD of an attachment that exists is refused (code 100). The specification has the
//! runtime DEL first, also after an ADD it did not hear the end of; giving the same answer again
//! would hide that two callers believe to own one container. An ADD for a pod that has an
//! attachment in *another* container takes that one's place: a pod has one sandbox, so the other
//! is dead and its DEL is late or lost.
//!
//! The IPAM plugin does the part of it that is about addresses, for links that other main plugins
//! make: an attachment then is a lease, which has no link and no policy here. It is found again,
//! collected and released as any other.
//!
//! Where the configuration names an IPAM plugin of others, the plugin executes it, and the endpoint
//! gets what that gave: it is made, recorded and removed as any other, but for its addresses.
//!
//! Containers outside Kubernetes (no `K8S_POD_NAME` in `CNI_ARGS`) are pods named after the
//! container id in the namespace `default`.

pub mod annotations;
mod attachments;
pub mod backend;
mod delegate;
pub mod journal;
mod keyed_lock;
pub mod lease;
pub mod plugin;
mod pod_cidr;
pub mod protocol;
pub mod result;
mod server;
pub mod spec;
#[cfg(test)]
mod testing;

pub use attachments::{Delegated, Options};
pub use server::{Listener, OptionsError, Server};

#[cfg(test)]
use crate::model;
