//! Which AS a neighbor may be of.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::is_asn;

/// Which AS numbers a neighbor may say in its OPEN. In YAML: a number, `external` (any but ours),
/// `internal` (ours), or a list of numbers and ranges such as `[65001, 65010-65019]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerAs {
    /// This one.
    Number(u32),
    /// Any but ours.
    External,
    /// Ours.
    Internal,
    /// One of these; not empty.
    OneOf(Vec<RangeInclusive<u32>>),
}

impl PeerAs {
    /// The only number that is possible, where ours is `local`.
    pub fn number(&self, local: u32) -> Option<u32> {
        match self {
            Self::Number(asn) => Some(*asn),
            Self::Internal => Some(local),
            Self::External => None,
            Self::OneOf(ranges) => match &ranges[..] {
                [only] if only.start() == only.end() => Some(*only.start()),
                _ => None,
            },
        }
    }

    /// Whether a peer may be of this AS, where ours is `local`.
    pub fn admits(&self, asn: u32, local: u32) -> bool {
        match self {
            Self::Number(number) => asn == *number,
            Self::Internal => asn == local,
            Self::External => asn != local,
            Self::OneOf(ranges) => ranges.iter().any(|range| range.contains(&asn)),
        }
    }

    /// Whether the peer is of another AS than ours, which is `local`; checked to be the same for
    /// all that are admitted.
    pub fn is_external(&self, local: u32) -> bool {
        match self {
            Self::External => true,
            Self::Number(_) | Self::Internal | Self::OneOf(_) => !self.admits(local, local),
        }
    }

    /// Whether all that are admitted are among these, or none; None: some may be.
    pub(super) fn are_of(&self, members: &[u32]) -> Option<bool> {
        match self {
            Self::Number(asn) => Some(members.contains(asn)),
            Self::Internal => Some(false),
            Self::External => members.is_empty().then_some(false),
            Self::OneOf(ranges) => {
                let numbers = ranges
                    .iter()
                    .map(|r| u64::from(r.end().saturating_sub(*r.start())) + 1)
                    .sum::<u64>();
                let all = members.iter().filter(|asn| ranges.iter().any(|r| r.contains(asn)));
                match all.count() as u64 {
                    0 => Some(false),
                    count if count == numbers => Some(true),
                    _ => None,
                }
            }
        }
    }

    /// What is wrong with it, where our AS number is `local`.
    pub(super) fn problem(&self, local: u32) -> Option<&'static str> {
        match self {
            Self::Number(asn) if !is_asn(*asn) => Some(super::validate::RESERVED_ASN),
            Self::OneOf(ranges) if ranges.is_empty() => Some("is empty"),
            Self::OneOf(ranges) => {
                let backwards = ranges.iter().any(|r| r.is_empty() || !is_asn(*r.start()));
                let ours = ranges.iter().any(|r| r.contains(&local));
                let others = ranges.iter().any(|r| *r.start() != local || *r.end() != local);
                if backwards {
                    Some("has a range that does not go from a number to a higher one")
                } else if ours && others {
                    Some("has our own AS number among others: a peer is internal or external")
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

impl From<u32> for PeerAs {
    fn from(asn: u32) -> Self {
        Self::Number(asn)
    }
}

impl PartialEq<u32> for PeerAs {
    fn eq(&self, asn: &u32) -> bool {
        *self == Self::Number(*asn)
    }
}

impl fmt::Display for PeerAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(asn) => asn.fmt(f),
            Self::External => f.write_str("external"),
            Self::Internal => f.write_str("internal"),
            Self::OneOf(ranges) => {
                for (at, range) in ranges.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{}", text(range))?;
                }
                Ok(())
            }
        }
    }
}

fn text(range: &RangeInclusive<u32>) -> String {
    let (start, end) = (range.start(), range.end());
    if start == end { start.to_string() } else { format!("{start}-{end}") }
}

/// One entry of a list, or the whole value.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "an AS number, `external`, `internal`, or a list of numbers and ranges"
)]
enum Form {
    Number(u32),
    Text(String),
    List(Vec<Self>),
}

impl Form {
    fn range(&self) -> Option<RangeInclusive<u32>> {
        match self {
            Self::Number(asn) => Some(*asn..=*asn),
            Self::Text(text) => {
                let (start, end) = text.split_once('-')?;
                Some(start.trim().parse().ok()?..=end.trim().parse().ok()?)
            }
            Self::List(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for PeerAs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || {
            D::Error::custom(
                "not an AS number, external, internal, or a list like [65001, 65010-65019]",
            )
        };
        match Form::deserialize(deserializer)? {
            Form::Number(asn) => Ok(Self::Number(asn)),
            Form::Text(text) if text == "external" => Ok(Self::External),
            Form::Text(text) if text == "internal" => Ok(Self::Internal),
            form @ Form::Text(_) => Ok(Self::OneOf(vec![form.range().ok_or_else(wrong)?])),
            Form::List(list) => {
                let ranges: Option<Vec<_>> = list.iter().map(Form::range).collect();
                Ok(Self::OneOf(ranges.ok_or_else(wrong)?))
            }
        }
    }
}

impl Serialize for PeerAs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = match self {
            Self::Number(asn) => Form::Number(*asn),
            Self::External | Self::Internal => Form::Text(self.to_string()),
            Self::OneOf(ranges) => {
                let entry = |range: &RangeInclusive<u32>| match (range.start(), range.end()) {
                    (start, end) if start == end => Form::Number(*start),
                    _ => Form::Text(text(range)),
                };
                Form::List(ranges.iter().map(entry).collect())
            }
        };
        form.serialize(serializer)
    }
}
