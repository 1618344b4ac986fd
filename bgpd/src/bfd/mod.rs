//! Bidirectional Forwarding Detection (RFC 5880) for BGP's neighbors: on one link (RFC 5881) and over
//! several hops (RFC 5883). What a failure means for a BGP session is the speaker's business.
//!
//! ```text
//!   packet     control packets <-> octets, total
//!   session    the machine of one session, pure
//!   table      all sessions: which one a packet is for, whose time has come; pure
//!   socket     UDP with hop limits and interfaces
//!   thread     runs a table over sockets, on a thread of its own that goes before others
//! ```
//!
//! Asynchronous mode, active role, without authentication and echo. A peer's demand mode is
//! respected.

mod packet;
mod session;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod thread;

pub use packet::{Diagnostic, LEN, Malformed, Packet, State};
pub(crate) use session::Params;
pub use table::Discarded;
pub(crate) use table::{Interface, Key, Wanted};
pub(crate) use thread::{Event, Handle, Snapshot};

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Serialize;

/// Time since some fixed instant, the same for all calls.
pub(crate) type Time = Duration;

/// A BFD session as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Our state.
    pub state: State,
    /// The state the peer was last heard in.
    pub remote_state: State,
    /// Why our state last changed.
    pub diagnostic: Diagnostic,
    /// Why the peer's state last changed, as it says.
    pub remote_diagnostic: Diagnostic,
    /// Our number for the session.
    pub local_discriminator: NonZeroU32,
    /// The peer's; None while it is not heard.
    pub remote_discriminator: Option<NonZeroU32>,
    /// Over several hops (RFC 5883), not on one link.
    pub multihop: bool,
    /// The peer's BFD outlives its control plane (the C bit).
    pub control_plane_independent: bool,
    /// Seconds between our packets, before jitter, as both sides' wishes have it.
    #[serde(serialize_with = "crate::speaker::seconds")]
    pub tx_interval: Duration,
    /// Seconds between the peer's packets, at most.
    #[serde(serialize_with = "crate::speaker::seconds")]
    pub rx_interval: Duration,
    /// Seconds of silence that end the session; 0 before the peer was heard.
    #[serde(serialize_with = "crate::speaker::seconds")]
    pub detection_time: Duration,
    /// Packets taken in.
    pub packets_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets discarded because they were authenticated, which is not supported.
    pub packets_authenticated: u64,
    /// Times the session was lost after it was Up, for whatever reason.
    pub flaps: u64,
    /// Of these, how often the path had failed: not by the peer's operator, nor because the peer's
    /// BFD began anew.
    pub failures: u64,
    /// Seconds since our state last changed.
    #[serde(serialize_with = "crate::speaker::seconds")]
    pub since: Duration,
    /// Why packets can neither be sent nor received, if so.
    pub error: Option<String>,
}
