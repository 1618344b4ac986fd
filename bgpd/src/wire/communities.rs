//! Communities of every kind: standard (RFC 1997), extended (RFC 4360) and large (RFC 8092).

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::attributes::{find, kind};

/// A standard community (RFC 1997).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Community(pub u32);

impl Community {
    /// Not to be sent to external peers; to other members of a confederation it may.
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// Not to be sent to any peer.
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// Not to leave the (sub-)confederation; as [`Self::NO_EXPORT`] outside of one.
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
    /// Kept for long while its source is gone: to be used last (RFC 9494).
    pub const LLGR_STALE: Self = Self(0xffff_0006);
    /// Not to be kept so (RFC 9494).
    pub const NO_LLGR: Self = Self(0xffff_0007);
    /// RFC 8326.
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
}

impl std::fmt::Display for Community {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::NO_EXPORT => f.write_str("no-export"),
            Self::NO_ADVERTISE => f.write_str("no-advertise"),
            Self::NO_EXPORT_SUBCONFED => f.write_str("no-export-subconfed"),
            Self::LLGR_STALE => f.write_str("llgr-stale"),
            Self::NO_LLGR => f.write_str("no-llgr"),
            Self::GRACEFUL_SHUTDOWN => f.write_str("graceful-shutdown"),
            Self(value) => write!(f, "{}:{}", value >> 16, value & 0xffff),
        }
    }
}

impl std::str::FromStr for Community {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "no-export" => return Ok(Self::NO_EXPORT),
            "no-advertise" => return Ok(Self::NO_ADVERTISE),
            "no-export-subconfed" => return Ok(Self::NO_EXPORT_SUBCONFED),
            "llgr-stale" => return Ok(Self::LLGR_STALE),
            "no-llgr" => return Ok(Self::NO_LLGR),
            "graceful-shutdown" => return Ok(Self::GRACEFUL_SHUTDOWN),
            _ => {}
        }
        let parsed = text
            .split_once(':')
            .and_then(|(asn, value)| Some((asn.parse::<u16>().ok()?, value.parse::<u16>().ok()?)));
        let (asn, value) = parsed
            .ok_or_else(|| format!("{text:?} is not a community like 64512:100 or no-export"))?;
        Ok(Self(u32::from(asn) << 16 | u32::from(value)))
    }
}

/// A large community (RFC 8092): global administrator and two local parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LargeCommunity(pub [u32; 3]);

impl std::fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.0[0], self.0[1], self.0[2])
    }
}

impl std::str::FromStr for LargeCommunity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Option<SmallVec<[u32; 3]>> = text.split(':').map(|p| p.parse().ok()).collect();
        parts
            .and_then(|p| p.into_inner().ok())
            .filter(|_| text.split(':').count() == 3)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a large community like 64512:1:100"))
    }
}

/// An extended community (RFC 4360): type, subtype and six octets. As text `rt:64512:100` and
/// `soo:64512:100` (with an AS number or an IPv4 address in front), others as 16 hexadecimal digits
/// after `0x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExtendedCommunity(pub u64);

/// Who defined what an extended community says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Administrator {
    /// An AS: of two octets (RFC 4360 section 3.1), or of four (RFC 5668) where it needs them.
    As(u32),
    /// An address (RFC 4360 section 3.2).
    Address(Ipv4Addr),
}

impl std::str::FromStr for Administrator {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let asn = text.parse().map(Self::As);
        asn.or_else(|_| text.parse().map(Self::Address)).map_err(|_| ())
    }
}

impl std::fmt::Display for Administrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::As(asn) => write!(f, "{asn}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

impl ExtendedCommunity {
    /// Subtype of a route target (RFC 4360 section 4).
    pub const ROUTE_TARGET: u8 = 2;
    /// Subtype of a route origin, the site of origin (RFC 4360 section 5).
    pub const ROUTE_ORIGIN: u8 = 3;
    const NON_TRANSITIVE: u64 = 0x40 << 56;

    /// The community of a subtype; None if the value does not fit beside its administrator, which
    /// leaves 32 bits to an AS of two octets and 16 to the others.
    pub fn new(subtype: u8, administrator: Administrator, value: u32) -> Option<Self> {
        let short = || u16::try_from(value).ok().map(u64::from);
        let (kind, rest) = match administrator {
            Administrator::As(asn) if asn <= u32::from(u16::MAX) => {
                (0, u64::from(asn) << 32 | u64::from(value))
            }
            Administrator::Address(address) => (1, u64::from(u32::from(address)) << 16 | short()?),
            Administrator::As(asn) => (2, u64::from(asn) << 16 | short()?),
        };
        Some(Self(kind << 56 | u64::from(subtype) << 48 | rest))
    }

    /// Subtype, administrator and value of a transitive one that [`Self::new`] could have made.
    pub fn parts(self) -> Option<(u8, Administrator, u32)> {
        let [kind, subtype, a, b, c, d, e, f] = self.0.to_be_bytes();
        let long = u32::from_be_bytes([a, b, c, d]);
        let short = u32::from(u16::from_be_bytes([e, f]));
        let (administrator, value) = match kind {
            0 => {
                let asn = u16::from_be_bytes([a, b]).into();
                (Administrator::As(asn), u32::from_be_bytes([c, d, e, f]))
            }
            1 => (Administrator::Address(long.into()), short),
            2 if long > u32::from(u16::MAX) => (Administrator::As(long), short),
            _ => return None,
        };
        Some((subtype, administrator, value))
    }

    /// Whether it may leave the AS (RFC 4360 section 2).
    pub const fn is_transitive(self) -> bool {
        self.0 & Self::NON_TRANSITIVE == 0
    }

    /// The name that stands for a subtype in text.
    pub(crate) const fn name(subtype: u8) -> Option<&'static str> {
        match subtype {
            Self::ROUTE_TARGET => Some("rt"),
            Self::ROUTE_ORIGIN => Some("soo"),
            _ => None,
        }
    }

    /// The subtype that a name stands for.
    pub(crate) fn subtype(name: &str) -> Option<u8> {
        [Self::ROUTE_TARGET, Self::ROUTE_ORIGIN].into_iter().find(|s| Self::name(*s) == Some(name))
    }
}

impl std::fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((subtype, administrator, value)) = self.parts()
            && let Some(name) = Self::name(subtype)
        {
            return write!(f, "{name}:{administrator}:{value}");
        }
        write!(f, "{:#018x}", self.0)
    }
}

impl std::str::FromStr for ExtendedCommunity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hexadecimal = || {
            let digits = text.strip_prefix("0x").filter(|digits| digits.len() == 16)?;
            u64::from_str_radix(digits, 16).ok().map(Self)
        };
        let named = || {
            let (name, rest) = text.split_once(':')?;
            let (administrator, value) = rest.rsplit_once(':')?;
            let subtype = Self::subtype(name)?;
            Self::new(subtype, administrator.parse().ok()?, value.parse().ok()?)
        };
        hexadecimal().or_else(named).ok_or_else(|| {
            format!("{text:?} is not an extended community like rt:64512:100 or soo:192.0.2.1:7")
        })
    }
}

macro_rules! text_form {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}
pub(crate) use text_form;
text_form!(Community, LargeCommunity, ExtendedCommunity);

/// The standard communities of a block.
pub fn communities(block: &[u8]) -> impl Iterator<Item = Community> {
    let value = find(block, kind::COMMUNITIES).unwrap_or_default();
    value.chunks_exact(4).map(|c| Community(u32::from_be_bytes([c[0], c[1], c[2], c[3]])))
}

/// The large communities of a block.
pub fn large_communities(block: &[u8]) -> impl Iterator<Item = LargeCommunity> {
    let value = find(block, kind::LARGE_COMMUNITIES).unwrap_or_default();
    value.chunks_exact(12).map(|c| {
        let part = |at: usize| u32::from_be_bytes([c[at], c[at + 1], c[at + 2], c[at + 3]]);
        LargeCommunity([part(0), part(4), part(8)])
    })
}

/// The extended communities of a block.
pub fn extended_communities(block: &[u8]) -> impl Iterator<Item = ExtendedCommunity> {
    let value = find(block, kind::EXTENDED_COMMUNITIES).unwrap_or_default();
    value.as_chunks::<8>().0.iter().map(|c| ExtendedCommunity(u64::from_be_bytes(*c)))
}
