//! MRT, the format of routing tables and message streams in files (RFC 6396, RFC 8050).
//!
//! Reading borrows from the octets and is total: whatever they are, there is a record, an error that
//! says what is wrong, or the wish for more; never a panic, and never an allocation beyond some
//! times the record's own size. What is written reads back as what was meant.

mod read;
mod write;

#[cfg(test)]
mod tests;

pub use read::{MrtError, record};
pub(crate) use write::rib_attributes;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::session::State;

/// The longest record that is read, in octets after the header: a guard against what is no MRT.
pub const MAX_RECORD: usize = 16 << 20;

/// Octets of the header of a record (RFC 6396 section 2).
pub const HEADER_LEN: usize = 12;

pub(super) mod kind {
    pub(crate) const TABLE_DUMP_V2: u16 = 13;
    pub(crate) const BGP4MP: u16 = 16;
    pub(crate) const BGP4MP_ET: u16 = 17;
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Seconds since 1970.
    pub timestamp: u32,
    /// What is to be added to the timestamp, where the record says it (BGP4MP_ET).
    pub microseconds: Option<u32>,
    /// What the record holds.
    pub body: Body<'a>,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// The peers that the RIB records after it name by number (RFC 6396 section 4.3.1).
    PeerIndexTable(PeerIndexTable<'a>),
    /// The routes to one unicast prefix (RFC 6396 section 4.3.2).
    Rib(Rib<'a>),
    /// The state of a session has changed (RFC 6396 section 4.4.1).
    StateChange(Session, State, State),
    /// A message (RFC 6396 section 4.4.2).
    Message(Session, Message<'a>),
    /// Anything else.
    Unknown {
        /// The type.
        kind: u16,
        /// The subtype.
        subtype: u16,
        /// What comes after the header.
        body: &'a [u8],
    },
}

/// The peers of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIndexTable<'a> {
    /// The BGP Identifier of who wrote the table.
    pub collector: Ipv4Addr,
    /// The name of the view; empty where there is only one.
    pub view: &'a [u8],
    /// The peers; a route names one by its place.
    pub peers: Vec<Peer>,
}

/// A peer of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The BGP Identifier.
    pub router_id: Ipv4Addr,
    /// The address.
    pub address: IpAddr,
    /// The AS number.
    pub asn: u32,
}

/// All routes to a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rib<'a> {
    /// Counts the records of a table from 0.
    pub sequence: u32,
    /// The prefix.
    pub prefix: IpNet,
    /// The routes have path identifiers (RFC 8050 section 4).
    pub add_path: bool,
    /// The routes.
    pub entries: Vec<Entry<'a>>,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Who it is from, by its place in the peers.
    pub peer: u16,
    /// When it came, in seconds since 1970.
    pub originated: u32,
    /// Which of the peer's paths it is; 0 where paths have no identifier.
    pub path_id: u32,
    /// Attributes with four-octet AS numbers; MP_REACH_NLRI holds the next hop only (RFC 6396
    /// section 4.3.4).
    pub attributes: &'a [u8],
}

/// Between whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The peer's AS number.
    pub peer_asn: u32,
    /// The AS number of who wrote the record.
    pub local_asn: u32,
    /// The interface (`ifindex`), or 0.
    pub interface: u16,
    /// The peer's address, of the same family as the other one.
    pub peer: IpAddr,
    /// The address of who wrote the record; unspecified where there is no connection.
    pub local: IpAddr,
}

/// A message, header included, as it was on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// AS numbers in it have four octets.
    pub four_octet_as: bool,
    /// Its NLRI have path identifiers (RFC 8050 section 3).
    pub add_path: bool,
    /// Who wrote the record sent it.
    pub sent: bool,
    /// The octets.
    pub octets: &'a [u8],
}
