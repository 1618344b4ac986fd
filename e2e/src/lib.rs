//! The lab: a fabric of network namespaces on one machine, with real routers and a real control
//! plane, and the end-to-end tests that run in it.
//!
//! ```text
//!   topology ──▶ fabric (namespaces, links, FRR, BIRD)
//!                control_plane (etcd, kube-apiserver, kube-controller-manager)
//!                agent (felix in each node)
//!                kubelet ──▶ cni (the runtime's side of CNI) ──▶ the plugin
//!   lab = all of these, recorded as they are made, so that `down` can undo them after a crash
//!   harness ──▶ cargo's tests, and suites in labs; bench ──▶ figures
//! ```
#![cfg(feature = "fabric")]

mod agent;
mod bench;
pub mod cli;
mod cluster;
mod cni;
mod control_plane;
mod fabric;
mod harness;
mod http;
mod interrupt;
mod kubelet;
mod lab;
mod netns;
mod process;
mod progress;
mod record;
mod suites;
mod topology;
mod wait;
