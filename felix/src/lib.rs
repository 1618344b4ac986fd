//! Caracal's node agent: gives each pod of its node an address, a link and a route, enforces
//! policy with nftables, and peers over BGP.
//!
//! ```text
//!  source ──Update──▶ agent ─▶ engine ──Delta──▶ kernel (own thread, netlink)
//!  cni ───requests──▶   │ ◀─── ipam               ▲
//!                       └─▶ peering ─▶ bgpd ──routes┘        observe: metrics, health, status
//! ```
//! `engine` computes what should be; `kernel` reads what is, writes the difference, and checks.

pub mod agent;
pub mod cni;
pub mod config;
pub mod control;
pub mod engine;
pub mod install;
pub mod kernel;
pub mod load_balancer;
pub mod model;
pub mod names;
pub mod observe;
pub mod peering;
pub mod source;
