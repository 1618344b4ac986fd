//! Sessions: the RFC 4271 state machine, what the OPENs agree on, and which of two connections
//! stays. All pure: no clock, no socket.

mod fsm;
mod negotiate;

pub use fsm::State;
pub(crate) use fsm::{Action, Event, Timer, step};
pub(crate) use negotiate::{Negotiated, Offer, OwnRestart, negotiate};

use std::net::Ipv4Addr;

#[cfg(test)]
mod tests;

/// Who opened a connection. A neighbor has a place for one connection of either kind; a session
/// on one that the peer opened may move to the other place, which it leaves idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Direction {
    /// We did.
    Outgoing,
    /// The peer did.
    Incoming,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Outgoing, Self::Incoming];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Outgoing => 0,
            Self::Incoming => 1,
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Outgoing => Self::Incoming,
            Self::Incoming => Self::Outgoing,
        }
    }
}

/// Which connection stays when both sides opened one: that of the side with the higher BGP
/// Identifier (RFC 4271 section 6.8), or of the higher AS number if they are equal (RFC 6286).
pub(crate) fn surviving(local: (Ipv4Addr, u32), remote: (Ipv4Addr, u32)) -> Direction {
    if local > remote { Direction::Outgoing } else { Direction::Incoming }
}
