//! Path attributes in the one form they have inside the speaker.
//!
//! A *block* is the attributes of a route without next hop and NLRI: sorted by type, each once,
//! AS numbers in four octets, flags as the attribute's definition says. Equal routes have equal
//! octets, so that a block is interned by one hash and one comparison, and most of it is sent on
//! by copying.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use super::communities::{communities, extended_communities, large_communities};
use super::{Community, path};

/// Attribute type codes.
#[allow(missing_docs, reason = "each is the IANA name of the attribute")]
pub mod kind {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MULTI_EXIT_DISC: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH_NLRI: u8 = 14;
    pub const MP_UNREACH_NLRI: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub const LARGE_COMMUNITIES: u8 = 32;
    pub const ONLY_TO_CUSTOMER: u8 = 35;
}

/// Attribute flags (RFC 4271 section 4.3).
#[allow(missing_docs, reason = "each is the RFC's name of the bit")]
pub mod flag {
    pub const OPTIONAL: u8 = 0x80;
    pub const TRANSITIVE: u8 = 0x40;
    pub const PARTIAL: u8 = 0x20;
    pub const EXTENDED_LENGTH: u8 = 0x10;
}

/// Where a route's packets go, as its sender said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The next router; unspecified on a route of our own, where it stands for ourselves.
    pub addr: IpAddr,
    /// The link-local address that came with a global one (RFC 2545).
    pub link_local: Option<Ipv6Addr>,
}

impl NextHop {
    /// This speaker, whatever address a peer knows it by.
    pub const OURSELVES: Self = Self { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), link_local: None };

    /// A next hop without a link-local companion.
    pub const fn new(addr: IpAddr) -> Self {
        Self { addr, link_local: None }
    }

    /// Whether this is [`Self::OURSELVES`] in either family.
    pub const fn is_ourselves(&self) -> bool {
        self.addr.is_unspecified()
    }

    /// Whether this and another are the same router by one of their addresses.
    pub(crate) fn names(&self, other: Self) -> bool {
        let all = |hop: &Self| [Some(hop.addr), hop.link_local.map(IpAddr::V6)];
        all(self).into_iter().flatten().any(|addr| all(&other).contains(&Some(addr)))
    }

    /// Whether it says something only to those on its link (RFC 2545 section 2).
    pub(crate) const fn is_link_local(&self) -> bool {
        matches!(self.addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
    }

    /// From MP_REACH_NLRI, 16 or 32 octets (RFC 2545 section 3). A link-local address alone, or
    /// in both places as some senders do, is one address.
    pub(super) fn from_v6(global: [u8; 16], link_local: Option<[u8; 16]>) -> Self {
        let global = Ipv6Addr::from(global);
        let link_local = link_local.map(Ipv6Addr::from).filter(Ipv6Addr::is_unicast_link_local);
        match link_local {
            Some(link_local) if global.is_unspecified() || global == link_local => {
                Self::new(link_local.into())
            }
            _ => Self { addr: global.into(), link_local },
        }
    }
}

/// One attribute of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Type code, see [`kind`].
    pub kind: u8,
    /// Flags without the extended length bit.
    pub flags: u8,
    /// The value.
    pub value: &'a [u8],
}

/// The attributes of a block, in order.
pub fn iter(block: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = block;
    std::iter::from_fn(move || {
        let ([flags, kind], tail) = rest.split_first_chunk::<2>()?;
        let (len, tail) = if flags & flag::EXTENDED_LENGTH == 0 {
            let (len, tail) = tail.split_first()?;
            (usize::from(*len), tail)
        } else {
            let (len, tail) = tail.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), tail)
        };
        let (value, tail) = tail.split_at_checked(len)?;
        rest = tail;
        Some(Attribute { kind: *kind, flags: flags & !flag::EXTENDED_LENGTH, value })
    })
}

/// The value of one attribute of a block.
pub fn find(block: &[u8], kind: u8) -> Option<&[u8]> {
    iter(block).take_while(|a| a.kind <= kind).find(|a| a.kind == kind).map(|a| a.value)
}

/// The AS path of a block; empty when it has none.
pub fn as_path(block: &[u8]) -> &[u8] {
    find(block, kind::AS_PATH).unwrap_or_default()
}

/// Appends one attribute in wire form, with the short length where it fits.
pub fn push(out: &mut Vec<u8>, flags: u8, kind: u8, value: &[u8]) {
    let flags = flags & !flag::EXTENDED_LENGTH;
    // Nothing longer than a message is ever pushed, nor would it be sent: see `UpdateEncoder`.
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    if let Ok(short) = u8::try_from(value.len()) {
        out.extend_from_slice(&[flags, kind, short]);
    } else {
        let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
        out.extend_from_slice(&[flags | flag::EXTENDED_LENGTH, kind, high, low]);
    }
    out.extend_from_slice(value);
}

/// What best-path selection and export need to know of a block, found out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// 0 IGP, 1 EGP, 2 INCOMPLETE; lower is better.
    pub origin: u8,
    /// LOCAL_PREF, if the route carries one.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC, if the route carries one.
    pub med: Option<u32>,
    /// As [`path::length`].
    pub path_len: u32,
    /// As [`path::neighbor`]; 0 where there is none.
    pub neighbor_as: u32,
    /// ORIGINATOR_ID, if a reflector set it.
    pub originator: Option<Ipv4Addr>,
    /// Entries of CLUSTER_LIST.
    pub clusters: u16,
    /// Octets of the block that come before a NEXT_HOP attribute.
    pub split: u16,
    /// Has NO_EXPORT.
    pub no_export: bool,
    /// Has NO_EXPORT_SUBCONFED.
    pub no_export_subconfed: bool,
    /// Has NO_ADVERTISE.
    pub no_advertise: bool,
    /// Has LLGR_STALE (RFC 9494).
    pub llgr_stale: bool,
}

impl Info {
    /// Of a well-formed block.
    pub fn of(block: &[u8]) -> Self {
        let mut info = Self {
            origin: 2,
            local_pref: None,
            med: None,
            path_len: 0,
            neighbor_as: 0,
            originator: None,
            clusters: 0,
            split: 0,
            no_export: false,
            no_export_subconfed: false,
            no_advertise: false,
            llgr_stale: false,
        };
        let start = block.as_ptr() as usize;
        for Attribute { kind, value, .. } in iter(block) {
            let word = value.first_chunk::<4>().map(|w| u32::from_be_bytes(*w));
            match kind {
                kind::ORIGIN => info.origin = value.first().copied().unwrap_or(2),
                kind::AS_PATH => {
                    info.path_len = path::length(value);
                    info.neighbor_as = path::neighbor(value).unwrap_or(0);
                }
                kind::MULTI_EXIT_DISC => info.med = word,
                kind::LOCAL_PREF => info.local_pref = word,
                kind::ORIGINATOR_ID => info.originator = word.map(Ipv4Addr::from),
                kind::CLUSTER_LIST => {
                    info.clusters = u16::try_from(value.len() / 4).unwrap_or(u16::MAX);
                }
                _ => {}
            }
            if kind < kind::NEXT_HOP {
                let end = value.as_ptr() as usize + value.len() - start;
                info.split = u16::try_from(end).unwrap_or(u16::MAX);
            }
        }
        for community in communities(block) {
            match community {
                Community::NO_EXPORT => info.no_export = true,
                Community::NO_EXPORT_SUBCONFED => info.no_export_subconfed = true,
                Community::NO_ADVERTISE => info.no_advertise = true,
                Community::LLGR_STALE => info.llgr_stale = true,
                _ => {}
            }
        }
        info
    }
}

/// The clusters that a route was reflected in, the latest first (CLUSTER_LIST, RFC 4456).
pub fn clusters(block: &[u8]) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let list = iter(block).find(|attribute| attribute.kind == kind::CLUSTER_LIST);
    let octets = list.map_or(&[][..], |attribute| attribute.value);
    octets.as_chunks::<4>().0.iter().map(|octets| Ipv4Addr::from(*octets))
}

/// A block under construction, with the buffers it needs; meant to be reused.
#[derive(Clone, Debug, Default)]
pub struct AttributeBlock {
    /// The octets.
    pub bytes: Vec<u8>,
    pub(super) scratch: Vec<u8>,
}
