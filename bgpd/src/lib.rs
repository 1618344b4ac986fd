//! A BGP speaker: a library for the agent and a standalone daemon.
//!
//! ```text
//!   wire/       messages <-> bytes; total functions, RFC 7606 error classes
//!   bfd/        forwarding watched over, on a thread of its own (RFC 5880)
//!   session/    the RFC 4271 state machine, pure; what two OPENs agree on
//!   policy/     import and export filters
//!   rib/        interned attributes, prefix tables, the decision process
//!   export/     update groups: one encoding for all peers that would get the same octets
//!   bmp         messages to monitoring stations (RFC 7854)
//!   mrt/        tables and message streams in files (RFC 6396)
//!   transport/  TCP with MD5 and TTL security; in tests a network in memory with virtual time
//!   speaker/    one core that owns all of the above, and the handle that talks to it
//! ```
//!
//! The core takes no clock, no socket and no random source of its own: everything that is not
//! deterministic comes in as an event, which can be put on record, so that the run can be run again
//! ([`Replay`]). One thread runs it; no route crosses a thread before it is packed. See [`Speaker`]
//! for the way in.

mod accept;
pub mod bfd;
mod bmp;
pub mod config;
mod export;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod mrt;
pub mod policy;
mod rib;
mod session;
mod speaker;
mod transport;
pub mod wire;

pub use accept::accept;
pub use config::{Config, ConfigError, Network, PeerConfig};
pub use session::State;
pub use speaker::*;
