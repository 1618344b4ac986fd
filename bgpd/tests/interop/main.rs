//! The daemon against other people's: FRR 8.4, BIRD 2.0 and GoBGP 3.10, as Debian has them, in
//! network namespaces of each test's own. Needs root.
//!
//! One file per feature; see [`kit`] for what they are made of.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests may")]

mod add_paths;
mod advertised;
mod announcements;
mod as_path;
mod bfd;
mod clear;
mod collision;
mod communities;
mod dual_stack;
mod extended_messages;
mod families;
mod four_octet_as;
mod graceful_restart;
mod hold_time;
mod hostile;
#[allow(dead_code, unused_imports, reason = "a kit is for tests to come, too")]
mod kit;
mod listen_range;
mod max_prefixes;
mod md5;
mod metrics;
mod mrt;
mod next_hops;
mod policies;
mod reconfiguration;
mod reflection;
mod replay;
mod restart_forms;
mod rfc7606;
mod route_refresh;
mod selection;
mod shutdown;
mod source;
mod ttl_security;
mod unnumbered;
