//! Patterns for communities of every kind.

use serde::{Deserialize, Serialize};

use crate::wire::attributes::{communities, extended_communities, large_communities};
use crate::wire::{Administrator, Community, ExtendedCommunity, LargeCommunity, text_form};

/// Communities that look alike. As text, a community of any kind in which `*` may stand for a whole
/// part: `64512:*`, `*:*:100`, `rt:64512:*`, `soo:*:7`, `no-export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CommunityPattern {
    /// Standard ones: the high and the low half. None: any.
    Standard(Option<u16>, Option<u16>),
    /// Large ones: global administrator and both local parts. None: any.
    Large([Option<u32>; 3]),
    /// Exactly this extended one.
    Extended(ExtendedCommunity),
    /// Extended ones of a subtype, whose administrator and value are these. None: any.
    ExtendedOf(u8, Option<Administrator>, Option<u32>),
}

impl CommunityPattern {
    pub(crate) fn matches(&self, community: Community) -> bool {
        let Self::Standard(high, low) = self else { return false };
        let [a, b, c, d] = community.0.to_be_bytes();
        high.is_none_or(|high| high == u16::from_be_bytes([a, b]))
            && low.is_none_or(|low| low == u16::from_be_bytes([c, d]))
    }

    pub(crate) fn matches_large(&self, community: LargeCommunity) -> bool {
        let Self::Large(parts) = self else { return false };
        parts.iter().zip(community.0).all(|(wanted, part)| wanted.is_none_or(|w| w == part))
    }

    pub(crate) fn matches_extended(&self, community: ExtendedCommunity) -> bool {
        match self {
            Self::Extended(wanted) => *wanted == community,
            Self::ExtendedOf(wanted, by, of) => {
                community.parts().is_some_and(|(subtype, administrator, value)| {
                    subtype == *wanted
                        && by.is_none_or(|by| by == administrator)
                        && of.is_none_or(|of| of == value)
                })
            }
            Self::Standard(..) | Self::Large(_) => false,
        }
    }

    /// Whether a community of the block matches.
    pub(crate) fn is_carried(&self, block: &[u8]) -> bool {
        match self {
            Self::Standard(..) => communities(block).any(|c| self.matches(c)),
            Self::Large(_) => large_communities(block).any(|c| self.matches_large(c)),
            Self::Extended(_) | Self::ExtendedOf(..) => {
                extended_communities(block).any(|c| self.matches_extended(c))
            }
        }
    }
}

/// A part of a pattern: a number or `*`.
fn part<T: std::str::FromStr>(text: &str) -> Option<Option<T>> {
    if text == "*" { Some(None) } else { text.parse().ok().map(Some) }
}

fn extended(text: &str) -> Option<CommunityPattern> {
    if let Ok(exact) = text.parse() {
        return Some(CommunityPattern::Extended(exact));
    }
    let (name, rest) = text.split_once(':')?;
    let (administrator, value) = rest.rsplit_once(':')?;
    let subtype = ExtendedCommunity::subtype(name)?;
    let (by, of) = (part(administrator)?, part(value)?);
    // Without a `*` it would have been exact, had its value fit.
    (by.is_none() || of.is_none()).then_some(CommunityPattern::ExtendedOf(subtype, by, of))
}

impl std::str::FromStr for CommunityPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exact = text.parse::<Community>().ok().map(|community| {
            let [a, b, c, d] = community.0.to_be_bytes();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            Self::Standard(Some(high), Some(low))
        });
        let standard = || {
            let (high, low) = text.split_once(':')?;
            Some(Self::Standard(part(high)?, part(low)?))
        };
        let large = || {
            let (a, rest) = text.split_once(':')?;
            let (b, c) = rest.split_once(':')?;
            Some(Self::Large([part(a)?, part(b)?, part(c)?]))
        };
        exact.or_else(standard).or_else(large).or_else(|| extended(text)).ok_or_else(|| {
            format!("{text:?} is not a pattern for communities like 64512:*, 64512:1:* or rt:*:7")
        })
    }
}

impl std::fmt::Display for CommunityPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        fn text<T: std::fmt::Display>(part: Option<T>) -> String {
            part.map_or_else(|| "*".to_owned(), |part| part.to_string())
        }
        match self {
            Self::Standard(Some(high), Some(low)) => {
                Community(u32::from(*high) << 16 | u32::from(*low)).fmt(f)
            }
            Self::Standard(high, low) => write!(f, "{}:{}", text(*high), text(*low)),
            Self::Large([a, b, c]) => write!(f, "{}:{}:{}", text(*a), text(*b), text(*c)),
            Self::Extended(exact) => exact.fmt(f),
            Self::ExtendedOf(subtype, by, of) => {
                let name = ExtendedCommunity::name(*subtype).unwrap_or_default();
                write!(f, "{name}:{}:{}", text(*by), text(*of))
            }
        }
    }
}

text_form!(CommunityPattern);
