//! A connection, as the network sees it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::speaker::{ConnId, Time};

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) node: usize,
    /// None: not open (yet, or any more).
    pub(super) conn: Option<ConnId>,
    /// On its way to this end, in order.
    pub(super) arriving: VecDeque<(Time, Arrival)>,
    /// Octets among them.
    pub(super) under_way: usize,
}

#[derive(Debug)]
pub(super) enum Arrival {
    Connected,
    Refused,
    Octets(Vec<u8>),
    Closed,
}

#[derive(Debug)]
pub(super) struct Wire {
    pub(super) ends: [End; 2],
    pub(super) addresses: [SocketAddr; 2],
    /// How many times as late as others' octets those to an end are.
    pub(super) slowness: [u32; 2],
}

impl Wire {
    pub(super) fn is_between(&self, a: usize, b: usize) -> bool {
        let nodes = [self.ends[0].node, self.ends[1].node];
        nodes == [a, b] || nodes == [b, a]
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    Syn(u64),
    Arrival(u64, usize),
}
