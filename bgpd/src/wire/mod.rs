//! BGP messages to and from bytes (RFC 4271 section 4).
//!
//! Parsing borrows from the receive buffer and is total: any input yields a value or the
//! NOTIFICATION that answers it, never a panic, and never takes more memory at a time than 8 octets for
//! each of the message's and 32 KiB; an OPEN, which has 4096 at most, 32 for each. Path attributes come
//! out with the treatment RFC 7606 asks for.

pub mod attributes;
mod communities;
mod draft;
mod encode;
mod notification;
mod open;
pub mod path;
mod prefix;
mod refresh;
mod role;
mod update;

pub use attributes::{AttributeBlock, Info, NextHop};
pub(crate) use communities::text_form;
pub use communities::{Administrator, Community, ExtendedCommunity, LargeCommunity};
pub use draft::Draft;
pub use encode::{UpdateEncoder, encode_end_of_rib, encode_keepalive};
pub use notification::{Notification, cease, code};
pub use open::{Capability, FamilyAddPath, FamilyRestart, LongLivedFamily, NextHopFamily, Open};
pub use prefix::{Nlri, Prefix, Prefix4, Prefix6, Prefixes};
pub use refresh::RouteRefresh;
pub use role::Role;
pub use update::{
    AttributeError, Confederation, Context, Disposition, ParsedUpdate, Reach, Unreach, parse_update,
};

#[cfg(test)]
pub(crate) mod tests;

use serde::{Deserialize, Serialize};

/// Octets of the header that starts every message (RFC 4271 section 4.1).
pub const HEADER_LEN: usize = 19;
/// The longest message without RFC 8654.
pub const MAX_LEN: usize = 4096;
/// The longest message once both sides offered extended messages (RFC 8654). OPEN and KEEPALIVE
/// stay within [`MAX_LEN`].
pub const MAX_EXTENDED_LEN: usize = 65535;
/// The two-octet AS number that stands for one that needs four (RFC 6793).
pub const AS_TRANS: u16 = 23456;

/// An address family with its sub-address family, as negotiated by RFC 4760.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// AFI 1, SAFI 1.
    #[serde(rename = "ipv4-unicast")]
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    #[serde(rename = "ipv6-unicast")]
    Ipv6Unicast,
}

impl Family {
    /// Every family this speaker knows.
    pub const ALL: [Self; 2] = [Self::Ipv4Unicast, Self::Ipv6Unicast];

    /// The address family identifier and subsequent address family identifier on the wire.
    pub const fn wire(self) -> (u16, u8) {
        match self {
            Self::Ipv4Unicast => (1, 1),
            Self::Ipv6Unicast => (2, 1),
        }
    }

    /// The family of an AFI and SAFI, if it is one of ours.
    pub const fn from_wire(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Self::Ipv4Unicast),
            (2, 1) => Some(Self::Ipv6Unicast),
            _ => None,
        }
    }

    /// A small dense number, for arrays that hold one entry per family.
    pub const fn index(self) -> usize {
        match self {
            Self::Ipv4Unicast => 0,
            Self::Ipv6Unicast => 1,
        }
    }

    /// The family that a prefix of `net`'s kind belongs to.
    pub const fn of(net: &ipnet::IpNet) -> Self {
        match net {
            ipnet::IpNet::V4(_) => Self::Ipv4Unicast,
            ipnet::IpNet::V6(_) => Self::Ipv6Unicast,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ipv4Unicast => "ipv4-unicast",
            Self::Ipv6Unicast => "ipv6-unicast",
        })
    }
}

/// A small set of families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FamilySet(u8);

impl FamilySet {
    /// Adds a family.
    pub const fn insert(&mut self, family: Family) {
        self.0 |= 1 << family.index();
    }

    /// Takes a family out.
    pub const fn remove(&mut self, family: Family) {
        self.0 &= !(1 << family.index());
    }

    /// Whether the family is in the set.
    pub const fn contains(self, family: Family) -> bool {
        self.0 & (1 << family.index()) != 0
    }

    /// Whether no family is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The families of both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |f| self.contains(*f))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(iter: I) -> Self {
        let mut set = Self::default();
        for family in iter {
            set.insert(family);
        }
        set
    }
}

/// The type of a message (RFC 4271 section 4.1, RFC 2918).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// Type 1.
    Open,
    /// Type 2.
    Update,
    /// Type 3.
    Notification,
    /// Type 4.
    Keepalive,
    /// Type 5.
    RouteRefresh,
}

impl MessageType {
    const fn from_wire(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Open,
            2 => Self::Update,
            3 => Self::Notification,
            4 => Self::Keepalive,
            5 => Self::RouteRefresh,
            _ => return None,
        })
    }

    const fn wire(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// The shortest and longest length that is right for this type, header included.
    const fn bounds(self, max: usize) -> (usize, usize) {
        match self {
            Self::Open => (29, MAX_LEN),
            Self::Update => (23, max),
            Self::Notification => (21, max),
            Self::Keepalive => (HEADER_LEN, HEADER_LEN),
            Self::RouteRefresh => (23, max),
        }
    }
}

/// One whole message, still unparsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the body holds.
    pub kind: MessageType,
    /// The octets after the header.
    pub body: &'a [u8],
    /// Octets of header and body together.
    pub len: usize,
}

impl Frame<'_> {
    /// The whole message, header included.
    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len);
        let start = begin(&mut out, self.kind);
        out.extend_from_slice(self.body);
        finish(&mut out, start);
        out
    }
}

/// Takes the first message off `buf`; None when more octets are needed. A header that can never
/// become a message is refused as soon as its octets are here. `max` is [`MAX_LEN`] or
/// [`MAX_EXTENDED_LEN`].
///
/// # Errors
/// The NOTIFICATION of RFC 4271 section 6.1 (Message Header Error).
pub fn frame(buf: &[u8], max: usize) -> Result<Option<Frame<'_>>, Notification> {
    let marker = &buf[..buf.len().min(16)];
    if marker.iter().any(|octet| *octet != 0xff) {
        return Err(Notification::new(code::HEADER, 1, &[], "the marker is not all ones"));
    }
    let Some(header) = buf.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let field = [header[16], header[17]];
    let len = usize::from(u16::from_be_bytes(field));
    let bad_len = || Notification::new(code::HEADER, 2, &field, "bad message length");
    if !(HEADER_LEN..=max).contains(&len) {
        return Err(bad_len());
    }
    let Some(kind) = MessageType::from_wire(header[18]) else {
        return Err(Notification::new(code::HEADER, 3, &header[18..19], "unknown message type"));
    };
    let (shortest, longest) = kind.bounds(max);
    if len < shortest || len > longest {
        return Err(bad_len());
    }
    Ok(buf.get(HEADER_LEN..len).map(|body| Frame { kind, body, len }))
}

/// Writes a header whose length is filled in by [`finish`]; returns where it starts.
fn begin(out: &mut Vec<u8>, kind: MessageType) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, kind.wire()]);
    start
}

/// Fills in the length of the message that starts at `start` and ends with `out`.
fn finish(out: &mut [u8], start: usize) {
    let len = u16::try_from(out.len() - start).unwrap_or(u16::MAX).to_be_bytes();
    out[start + 16..start + 18].copy_from_slice(&len);
}

/// A cursor over received octets. Every read either succeeds whole or leaves the cursor alone.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
