//! The journal's bytes. Pure.
//!
//! One record to a line: checksum, length, JSON.
//! ```text
//! c243bed0a114dbbf 48 {"remove":{"container_id":"c1","ifname":"eth0"}}\n
//! ```
//! The checksum is the first 16 hexadecimal digits of the SHA-1 of what follows it, without the
//! line feed. Lines can be read with a pager, a damaged one costs only itself, and zeroes (space
//! written in advance) mean nothing. A record is whole: it needs none of those before it.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::model::{EndpointId, IfIndex, LocalEndpoint};

/// How far an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// ADD has begun and not answered. All it may have done is to be undone. The endpoint has no
    /// addresses yet, but the handle that holds them.
    Adding,
    /// ADD has answered.
    Ready,
    /// DEL has begun, and is to be finished.
    Removing,
    /// Nothing is left in the kernel; the addresses are still to be given back.
    Releasing,
    /// ADD had begun when the journal was damaged; it may have answered. Left alone until the
    /// runtime says what it wants.
    Uncertain,
}

/// What of an attachment is the agent's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// All of it: addresses, link, route and policy.
    #[default]
    Endpoint,
    /// All but the addresses, which are of another IPAM plugin.
    Delegated,
    /// The addresses alone, for the link of another main plugin. The endpoint has no host
    /// interface, and its index is merely one that nothing else has.
    Lease {
        /// The interface of this node by which the addresses are reached, if it has a part in
        /// their network.
        via: Option<IfIndex>,
    },
}

impl Role {
    /// Whether the agent has made a link for it.
    pub fn has_link(&self) -> bool {
        !matches!(self, Self::Lease { .. })
    }

    /// Whether the addresses are of the agent's own IPAM.
    pub fn holds_addresses(&self) -> bool {
        !matches!(self, Self::Delegated)
    }

    fn is_usual(&self) -> bool {
        matches!(self, Self::Endpoint)
    }
}

/// What is known of one attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How far it is.
    pub phase: Phase,
    /// What of it is the agent's.
    #[serde(default, skip_serializing_if = "Role::is_usual")]
    pub role: Role,
    /// The node's networks that another IPAM plugin was told to take its addresses from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<IpNet>,
    /// What it is.
    pub endpoint: LocalEndpoint,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum EntryRef<'a> {
    Header { boot_id: &'a str },
    Put(&'a Record),
    Remove(&'a EndpointId),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Header { boot_id: String },
    Put(Box<Record>),
    Remove(EndpointId),
}

/// The first line of a journal: which boot of the machine it is of.
pub(super) fn header(boot_id: &str) -> Vec<u8> {
    line(&EntryRef::Header { boot_id })
}

/// The line that makes `record` the last word about its attachment.
pub(super) fn put(record: &Record) -> Vec<u8> {
    line(&EntryRef::Put(record))
}

/// The line that says there is no such attachment any more.
pub(super) fn remove(id: &EndpointId) -> Vec<u8> {
    line(&EntryRef::Remove(id))
}

fn line(entry: &EntryRef<'_>) -> Vec<u8> {
    // Serialising these types cannot fail: no map in them has keys that are not strings.
    let json = serde_json::to_string(entry).unwrap_or_default();
    let body = format!("{} {json}", json.len());
    format!("{} {body}\n", checksum(body.as_bytes())).into_bytes()
}

fn checksum(body: &[u8]) -> String {
    use std::fmt::Write;

    let digest = Sha1::digest(body);
    digest[..CHECKSUM / 2].iter().fold(String::with_capacity(CHECKSUM), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const CHECKSUM: usize = 16;

/// Bytes of a journal that are no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where they begin, in bytes.
    pub offset: usize,
    /// How many they are.
    pub length: usize,
    /// What is wrong with them.
    pub reason: String,
}

/// What a journal says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decoded {
    /// Of which boot, if the header could be read.
    pub(super) boot_id: Option<String>,
    /// The last word about each attachment.
    pub(super) records: BTreeMap<EndpointId, Record>,
    /// Damaged lines that were once whole. The tail that a crash tore off is not among them: it
    /// was never answered for.
    pub(super) damages: Vec<Damage>,
}

/// Reads a whole journal. Takes any bytes.
pub(super) fn decode(bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    let mut order: BTreeMap<EndpointId, usize> = BTreeMap::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == 0 {
            at += 1;
            continue;
        }
        let reason = match read(&bytes[at..]) {
            Ok((entry, length)) => {
                match entry {
                    Entry::Header { boot_id } => decoded.boot_id = Some(boot_id),
                    Entry::Put(record) => {
                        order.insert(record.endpoint.id.clone(), at);
                        decoded.records.insert(record.endpoint.id.clone(), *record);
                    }
                    Entry::Remove(id) => {
                        order.remove(&id);
                        decoded.records.remove(&id);
                    }
                }
                // The line feed goes unread, so that damage to it costs nothing.
                at += length + 1;
                continue;
            }
            Err(reason) => reason,
        };
        let Some(length) = bytes[at..].iter().position(|&byte| byte == b'\n') else { break };
        decoded.damages.push(Damage { offset: at, length: length + 1, reason });
        at += length + 1;
    }

    if let Some(last) = decoded.damages.last() {
        for (id, record) in &mut decoded.records {
            // What was damaged may have been this attachment's completion.
            if record.phase == Phase::Adding && order.get(id).is_some_and(|at| *at < last.offset) {
                record.phase = Phase::Uncertain;
            }
        }
    }
    give_up_what_others_have(&mut decoded.records, &order);
    decoded
}

/// Two ready endpoints cannot have one address or one interface. If the journal lost the older
/// one's removal, all that can be left of that one is its hold on addresses.
fn give_up_what_others_have(
    records: &mut BTreeMap<EndpointId, Record>,
    order: &BTreeMap<EndpointId, usize>,
) {
    let mut newest_first: Vec<&EndpointId> = order.keys().collect();
    newest_first.sort_by_key(|id| std::cmp::Reverse(order[*id]));
    let (mut addresses, mut interfaces) = (Vec::new(), Vec::new());
    for id in newest_first {
        let Some(record) = records.get_mut(id).filter(|record| record.phase == Phase::Ready) else {
            continue;
        };
        let endpoint = &record.endpoint;
        let has_link = record.role.has_link();
        if has_link && interfaces.contains(&endpoint.host_interface)
            || endpoint.addresses.iter().any(|address| addresses.contains(address))
        {
            record.phase = Phase::Releasing;
        } else {
            if has_link {
                interfaces.push(endpoint.host_interface.clone());
            }
            addresses.extend(endpoint.addresses.iter().copied());
        }
    }
}

/// Reads the record at the beginning of `bytes`: it, and its length without the line feed.
fn read(bytes: &[u8]) -> Result<(Entry, usize), String> {
    let (expected, rest) = bytes
        .split_at_checked(CHECKSUM + 1)
        .filter(|(expected, _)| expected[CHECKSUM] == b' ')
        .ok_or("no checksum")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length = std::str::from_utf8(&rest[..digits])
        .ok()
        .and_then(|text| text.parse::<usize>().ok())
        .ok_or("no length")?;
    let end = digits
        .checked_add(1)
        .and_then(|start| start.checked_add(length))
        .filter(|end| *end <= rest.len() && rest[digits] == b' ')
        .ok_or("cut short")?;
    if checksum(&rest[..end]).as_bytes() != &expected[..CHECKSUM] {
        return Err("wrong checksum".into());
    }
    let entry =
        serde_json::from_slice(&rest[digits + 1..end]).map_err(|e| format!("no record: {e}"))?;
    Ok((entry, expected.len() + end))
}
