//! Calico's JSON of a block: read tolerantly, written as Go's `encoding/json` would.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use ipnet::IpNet;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::{Attribute, Block, Unknown};
use crate::timestamp::Timestamp;

/// Why bytes are not a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON of the right shape.
    #[error("{0}")]
    Json(String),
    /// A block that contradicts itself.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// As on the wire, in Go's field order.
#[derive(Serialize)]
struct Written<'a> {
    cidr: IpNet,
    affinity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity_claim_time: Option<Timestamp>,
    allocations: &'a [Option<u32>],
    unallocated: &'a VecDeque<u32>,
    #[serde(serialize_with = "attributes")]
    attributes: &'a [Arc<Attribute>],
    #[serde(rename = "sequenceNumber")]
    sequence_number: u64,
    #[serde(rename = "sequenceNumberForAllocation", serialize_with = "sorted_as_text")]
    changed_under: &'a [Option<u64>],
    deleted: bool,
    #[serde(flatten)]
    unknown: &'a Unknown,
}

/// What older and foreign writers may leave out or set to null.
#[derive(Deserialize)]
struct Read<'a> {
    cidr: IpNet,
    #[serde(default, borrow)]
    affinity: Option<Cow<'a, str>>,
    #[serde(default)]
    affinity_claim_time: Option<Timestamp>,
    #[serde(default)]
    allocations: Option<Vec<Option<u32>>>,
    #[serde(default)]
    unallocated: Option<VecDeque<u32>>,
    #[serde(default)]
    attributes: Option<Vec<Attribute>>,
    #[serde(default, rename = "sequenceNumber")]
    sequence_number: u64,
    #[serde(default, rename = "sequenceNumberForAllocation")]
    sequence_number_for_allocation: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    deleted: bool,
    /// Written before `affinity` was.
    #[serde(default, rename = "hostAffinity", borrow)]
    host_affinity: Option<Cow<'a, str>>,
    #[serde(flatten)]
    unknown: Unknown,
}

impl Block {
    /// One line of JSON, byte for byte as Go prints it.
    pub fn encode(&self) -> Vec<u8> {
        encode(&Written {
            cidr: self.cidr,
            affinity: self.affinity.as_deref(),
            affinity_claim_time: self.affinity_claim_time,
            allocations: &self.allocations,
            unallocated: &self.unallocated,
            attributes: &self.attributes,
            sequence_number: self.sequence_number,
            changed_under: &self.changed_under,
            deleted: self.deleted,
            unknown: &self.unknown,
        })
    }

    /// Reads what Calico wrote: unknown fields are kept for the next write, `attributes: null` and missing sequence
    /// numbers are taken, `hostAffinity` counts where `affinity` is missing, and a handle ends at
    /// its first carriage return.
    ///
    /// # Errors
    /// Not JSON, a field of the wrong type, or a block that breaks what [`Block::validate`] checks.
    pub fn decode(json: &[u8]) -> Result<Self, DecodeError> {
        let read: Read<'_> =
            serde_json::from_slice(json).map_err(|error| DecodeError::Json(error.to_string()))?;
        let affinity = match (read.affinity, read.host_affinity) {
            (Some(affinity), _) if !affinity.is_empty() => Some(affinity.into_owned()),
            (_, Some(host)) if !host.is_empty() => Some(format!("host:{host}")),
            _ => None,
        };
        let mut attributes = read.attributes.unwrap_or_default();
        for handle in attributes.iter_mut().filter_map(|attribute| attribute.handle_id.as_mut()) {
            if let Some(end) = handle.find('\r') {
                handle.truncate(end);
            }
        }
        let allocations = read.allocations.unwrap_or_default();
        let mut changed_under = vec![None; allocations.len()];
        for (ordinal, number) in read.sequence_number_for_allocation.unwrap_or_default() {
            let Ok(at) = ordinal.parse::<u32>() else {
                return Err(DecodeError::Invalid(vec![format!(
                    "sequenceNumberForAllocation has the key {ordinal:?}, which is not an ordinal"
                )]));
            };
            // A number of no address of the block says nothing.
            if let Some(slot) = changed_under.get_mut(at as usize) {
                *slot = Some(number);
            }
        }
        let block = Self {
            cidr: read.cidr,
            affinity,
            affinity_claim_time: read.affinity_claim_time,
            allocations,
            unallocated: read.unallocated.unwrap_or_default(),
            attributes: attributes.into_iter().map(Arc::new).collect(),
            sequence_number: read.sequence_number,
            changed_under,
            deleted: read.deleted,
            unknown: read.unknown,
        };
        block.validate().map_err(DecodeError::Invalid)?;
        Ok(block)
    }
}

/// Go's zero value of a slice is null.
#[allow(clippy::ref_option, reason = "the shape that serde calls")]
fn attributes<S: Serializer>(list: &[Arc<Attribute>], serializer: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() {
        serializer.serialize_none()
    } else {
        serializer.collect_seq(list.iter().map(|attribute| &**attribute))
    }
}

/// Go sorts the keys of a map as text: "10" comes before "2".
fn sorted_as_text<S: Serializer>(
    numbers: &[Option<u64>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let known = numbers.iter().enumerate().filter_map(|(at, number)| Some((at, (*number)?)));
    let mut entries: Vec<_> = known.map(|(at, number)| (at.to_string(), number)).collect();
    entries.sort_unstable();
    let mut map = serializer.serialize_map(Some(entries.len()))?;
    for (key, value) in entries {
        map.serialize_entry(&key, &value)?;
    }
    map.end()
}

/// Go's `omitempty` of a map.
#[allow(clippy::ref_option, reason = "the shape that serde calls")]
pub(super) fn none_or_empty(map: &Option<BTreeMap<String, String>>) -> bool {
    map.as_ref().is_none_or(BTreeMap::is_empty)
}

/// JSON as Go's `json.Marshal` prints it: what would end a script or a JavaScript string is
/// escaped.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, GoFormatter);
    match value.serialize(&mut serializer) {
        Ok(()) => out,
        // Only a map with keys that are not text or a failing writer can do this.
        Err(error) => unreachable!("a model type does not serialise: {error}"),
    }
}

struct GoFormatter;

impl serde_json::ser::Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let special = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        let mut rest = fragment;
        while let Some(at) = rest.find(special) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut after = rest[at..].chars();
            if let Some(c) = after.next() {
                write!(writer, "\\u{:04x}", u32::from(c))?;
            }
            rest = after.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}
