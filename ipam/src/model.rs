//! Calico's IPAM keys in etcd and their small values, and Caracal's own beside them.
//!
//! | object | key |
//! |---|---|
//! | block | `/calico/ipam/v2/assignment/ipv4/block/10.244.1.0-26` |
//! | affinity | `/calico/ipam/v2/host/NODE/ipv4/block/10.244.1.0-26` |
//! | affinity of what is no node | `/calico/ipam/v2/virtual/NAME/ipv4/block/10.244.1.0-26` |
//! | handle | `/calico/ipam/v2/handle/HANDLE` |
//! | configuration | `/calico/ipam/v2/config` |
//! | node's owner | `/caracal/ipam/v1/node/NODE` |
//! | node's uid in Kubernetes | `/caracal/ipam/v1/kubernetes/NODE` |
//! | mark of a node in local-first mode | `/caracal/ipam/v1/local/NODE` |
//! | freeze after the store was restored | `/caracal/ipam/v1/frozen` |
//! | a node's word that what it has is back | `/caracal/ipam/v1/reasserted/NODE` |

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::block::{Block, DecodeError, Unknown};
use crate::net::{Family, network};
use crate::store::Entry;
use crate::timestamp::Timestamp;

/// The prefix of every block's key.
pub const BLOCKS: &str = "/calico/ipam/v2/assignment/";
/// The prefix of every host's affinities.
pub const HOSTS: &str = "/calico/ipam/v2/host/";
/// The prefix of the affinities of owners that are no nodes: `load-balancer` for Services.
pub const VIRTUALS: &str = "/calico/ipam/v2/virtual/";
/// The prefix of every handle's key.
pub const HANDLES: &str = "/calico/ipam/v2/handle/";
/// The key of the cluster's IPAM configuration.
pub const CONFIG: &str = "/calico/ipam/v2/config";
/// The prefix of the records that say which instance of a node is the real one.
pub const NODES: &str = "/caracal/ipam/v1/node/";
/// The prefix of the records that say which Kubernetes node a name stands for.
pub const NODE_UIDS: &str = "/caracal/ipam/v1/kubernetes/";
/// The prefix of the marks of nodes that answer from logs of their own: while a node has one, its
/// blocks in the store may be behind, and nobody else takes addresses of them.
pub const LOCAL: &str = "/caracal/ipam/v1/local/";

/// While this is there, the store was restored from an older copy and may lack what was answered
/// since: nobody claims a block, takes one over, or borrows.
pub const FROZEN: &str = "/caracal/ipam/v1/frozen";
/// The prefix of the nodes' words that what they have is in the store again: each holds the id of the
/// [`Freeze`] that it is about.
pub const REASSERTED: &str = "/caracal/ipam/v1/reasserted/";

/// The most addresses a node's cooldown keeps from use, in seconds (Calico's limit).
pub const MAX_COOLDOWN_SECONDS: u32 = 1200;

fn version(cidr: &IpNet) -> &'static str {
    match Family::of_net(cidr) {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn segment(cidr: &IpNet) -> String {
    format!("{}-{}", cidr.network(), cidr.prefix_len())
}

fn parse_segment(segment: &str) -> Option<IpNet> {
    let (address, length) = segment.rsplit_once('-')?;
    let net = IpNet::new(address.parse().ok()?, length.parse().ok()?).ok()?;
    (net == net.trunc()).then_some(net)
}

/// `/calico/ipam/v2/assignment/ipv4/block/10.244.1.0-26`
pub fn block_key(cidr: &IpNet) -> String {
    format!("{BLOCKS}{}/block/{}", version(cidr), segment(cidr))
}

/// The prefix of the keys of all blocks of one family.
pub fn blocks_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "/calico/ipam/v2/assignment/ipv4/block/",
        Family::V6 => "/calico/ipam/v2/assignment/ipv6/block/",
    }
}

/// Where every block that overlaps `cidr` has its key: under one of the prefixes, or it is one of
/// the keys. `cidr` itself is under a prefix too, and so are some of its neighbours.
pub(crate) fn overlapping_blocks(cidr: &IpNet) -> (Vec<String>, Vec<String>) {
    let blocks = blocks_of(Family::of_net(cidr));
    let prefixes = match cidr {
        // As many octets as the whole network shares, as text.
        IpNet::V4(net) => {
            let shared = usize::from(net.prefix_len() / 8).min(3);
            let octets = net.network().octets();
            let text: String =
                octets.iter().take(shared).map(|octet| format!("{octet}.")).collect();
            vec![format!("{blocks}{text}")]
        }
        // A block has at most 16 host bits, so only the last group varies. All addresses in which
        // it is not zero begin alike; where it is, the text may end in a longer `::`.
        IpNet::V6(net) => {
            let first = network(net.network().into(), 112);
            let last = first.broadcast().to_string();
            let shared = last.rfind(':').map_or("", |end| &last[..=end]);
            vec![format!("{blocks}{shared}"), format!("{blocks}{}-", first.network())]
        }
    };
    let largest = cidr.max_prefix_len() - crate::block::MAX_HOST_BITS;
    let keys = (largest..cidr.prefix_len())
        .map(|length| block_key(&network(cidr.network(), length)))
        .filter(|key| !prefixes.iter().any(|prefix| key.starts_with(prefix)))
        .collect();
    (prefixes, keys)
}

/// The network that a block's key names; None for any other key.
pub fn parse_block_key(key: &str) -> Option<IpNet> {
    let (family, rest) = key.strip_prefix(BLOCKS)?.split_once("/block/")?;
    let net = parse_segment(rest)?;
    (family == version(&net)).then_some(net)
}

/// `/calico/ipam/v2/host/NODE/ipv4/block/10.244.1.0-26`
pub fn affinity_key(node: &str, cidr: &IpNet) -> String {
    format!("{HOSTS}{node}/{}/block/{}", version(cidr), segment(cidr))
}

/// The prefix of the keys of a node's affinities.
pub fn affinities_of(node: &str) -> String {
    format!("{HOSTS}{node}/")
}

/// The key of the affinity that a block names as its owner, host or virtual; None if the owner is
/// written in no known form.
pub fn affinity_key_of(affinity: &str, cidr: &IpNet) -> Option<String> {
    let (kind, name) = affinity.split_once(':')?;
    let known = matches!(kind, "host" | "virtual") && !name.is_empty() && !name.contains('/');
    let (version, segment) = (version(cidr), segment(cidr));
    known.then(|| format!("/calico/ipam/v2/{kind}/{name}/{version}/block/{segment}"))
}

/// The node and the network that an affinity's key names; None for any other key.
pub fn parse_affinity_key(key: &str) -> Option<(&str, IpNet)> {
    let (node, rest) = key.strip_prefix(HOSTS)?.split_once('/')?;
    let (family, rest) = rest.split_once("/block/")?;
    let net = parse_segment(rest)?;
    (family == version(&net)).then_some((node, net))
}

/// The owner, as blocks name it (`host:NODE`, `virtual:NAME`), and the network that the key of an
/// affinity names; None for any other key.
pub fn parse_owner_key(key: &str) -> Option<(String, IpNet)> {
    if let Some((node, cidr)) = parse_affinity_key(key) {
        return Some((format!("host:{node}"), cidr));
    }
    let (name, rest) = key.strip_prefix(VIRTUALS)?.split_once('/')?;
    let (_, cidr) = parse_affinity_key(&format!("{HOSTS}{name}/{rest}"))?;
    Some((format!("virtual:{name}"), cidr))
}

/// `/calico/ipam/v2/handle/HANDLE`
pub fn handle_key(handle: &str) -> String {
    format!("{HANDLES}{handle}")
}

/// What a pod's handle is made of: `<network>.<container id>`, and `.<interface>` for all but the
/// first one of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment<'a> {
    /// The CNI network.
    pub network: &'a str,
    /// The container's id.
    pub container: &'a str,
    /// None: the first one.
    pub interface: Option<&'a str>,
}

impl<'a> Attachment<'a> {
    /// Each of the three may have dots (CNI's rules for names), so this is told only where it is
    /// certain: there is one dot, or one of the parts is a container id as runtimes make them, 64
    /// hexadecimal digits. No interface can have such a name, and no network should.
    pub fn of_handle(handle: &'a str) -> Option<Self> {
        let is_id = |part: &str| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let id = handle.rsplit('.').find(|part| is_id(part));
        let (network, container, interface) = match id {
            Some(id) => {
                let (network, rest) = handle.rsplit_once(id)?;
                (network.strip_suffix('.')?, id, rest.strip_prefix('.'))
            }
            None => {
                let (network, container) = handle.split_once('.')?;
                (!container.contains('.')).then_some((network, container, None))?
            }
        };
        let empty = network.is_empty() || container.is_empty() || interface == Some("");
        (!empty).then_some(Self { network, container, interface })
    }
}

/// `/caracal/ipam/v1/node/NODE`
pub fn node_key(node: &str) -> String {
    format!("{NODES}{node}")
}

/// `/caracal/ipam/v1/kubernetes/NODE`
pub fn node_uid_key(node: &str) -> String {
    format!("{NODE_UIDS}{node}")
}

/// `/caracal/ipam/v1/local/NODE`
pub fn local_key(node: &str) -> String {
    format!("{LOCAL}{node}")
}

/// `/caracal/ipam/v1/reasserted/NODE`
pub fn reasserted_key(node: &str) -> String {
    format!("{REASSERTED}{node}")
}

/// The value under [`FROZEN`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// 128 random bits in hexadecimal: revisions repeat in a store that was restored.
    pub id: String,
    /// Who found out.
    pub node: String,
    /// When.
    pub since: Timestamp,
}

/// Calico writes node names and handles into keys as they are: neither may be empty or hold a `/`.
pub fn is_key_segment(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0', '\r', '\n'])
}

/// How far the claim of a block has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AffinityState {
    /// The claimant has still to write the block.
    #[serde(rename = "pending")]
    Pending,
    /// The block belongs to the node. A missing or empty state means this too.
    #[default]
    #[serde(rename = "confirmed", alias = "")]
    Confirmed,
    /// The owner is giving the block up.
    #[serde(rename = "pendingDeletion")]
    PendingDeletion,
}

/// The value under an affinity's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// How far the claim has come.
    #[serde(default)]
    pub state: AffinityState,
    /// Marked as deleted (only the Kubernetes datastore does).
    #[serde(default)]
    pub deleted: bool,
}

/// The value under a handle's key: how many addresses it holds in which block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// Addresses by block.
    #[serde(default, deserialize_with = "null_is_default")]
    pub block: BTreeMap<IpNet, u32>,
    /// Marked as deleted (only the Kubernetes datastore does).
    #[serde(default)]
    pub deleted: bool,
    /// What a younger Calico writes beside these, kept as it is.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The value under [`CONFIG`]: the cluster's IPAM configuration.
///
/// Calico's rule: a missing key means the defaults below, a missing field of a present key means
/// `false` or 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    /// A node allocates from its own blocks only; others may not borrow from them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict_affinity: bool,
    /// Nodes claim blocks by themselves.
    #[serde(default, skip_serializing_if = "is_false")]
    pub auto_allocate_blocks: bool,
    /// The most blocks of a family a node may have; 0 means [`IpamConfig::DEFAULT_MAX_BLOCKS`].
    #[serde(default, skip_serializing_if = "is_zero", rename = "maxBlocksPerHost")]
    pub max_blocks_per_host: u32,
    /// Whether virtual machines keep their addresses (`Enabled`, `Disabled`); kept, not acted on.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "kubeVirtVMAddressPersistence"
    )]
    pub kube_virt_vm_address_persistence: Option<String>,
    /// How long a released address rests, in seconds. 0 or unset leaves it to
    /// [`IpamConfig::DEFAULT_COOLDOWN`].
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ipCooldownSeconds")]
    pub ip_cooldown_seconds: Option<u32>,
}

impl Default for IpamConfig {
    fn default() -> Self {
        Self {
            strict_affinity: false,
            auto_allocate_blocks: true,
            max_blocks_per_host: 0,
            kube_virt_vm_address_persistence: None,
            ip_cooldown_seconds: None,
        }
    }
}

impl IpamConfig {
    /// The most blocks of a family a node may have where nothing else is said (Calico's number).
    pub const DEFAULT_MAX_BLOCKS: u32 = 20;

    /// How long a released address rests where nothing else is said: Linux's conntrack forgets a
    /// flow in SYN_SENT after this time.
    pub const DEFAULT_COOLDOWN: Duration = Duration::from_secs(120);

    /// What the store's key says: the defaults, if it is missing.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn stored(entry: Option<&Entry>) -> Result<Self, Corrupt> {
        entry.map_or_else(|| Ok(Self::default()), |entry| decode(&entry.key, &entry.value))
    }

    /// The most blocks of a family a node may have.
    pub fn max_blocks(&self) -> usize {
        match self.max_blocks_per_host {
            0 => Self::DEFAULT_MAX_BLOCKS as usize,
            most => most as usize,
        }
    }

    /// How long a released address rests.
    pub fn cooldown(&self) -> Duration {
        match self.ip_cooldown_seconds {
            None | Some(0) => Self::DEFAULT_COOLDOWN,
            Some(seconds) => Duration::from_secs(u64::from(seconds)),
        }
    }

    /// Calico's rules across fields.
    ///
    /// # Errors
    /// What is wrong, with the field.
    pub fn validate(&self) -> Result<(), String> {
        if !self.strict_affinity && !self.auto_allocate_blocks {
            return Err("autoAllocateBlocks: may be false only with strictAffinity".to_owned());
        }
        if self.max_blocks_per_host > 0 && !self.strict_affinity {
            return Err("maxBlocksPerHost: may be set only with strictAffinity".to_owned());
        }
        if self.ip_cooldown_seconds.is_some_and(|seconds| seconds > MAX_COOLDOWN_SECONDS) {
            return Err(format!("ipCooldownSeconds: may be at most {MAX_COOLDOWN_SECONDS}"));
        }
        Ok(())
    }
}

impl From<&api::v3::IPAMConfiguration> for IpamConfig {
    fn from(resource: &api::v3::IPAMConfiguration) -> Self {
        let spec = &resource.spec;
        Self {
            strict_affinity: spec.strict_affinity,
            auto_allocate_blocks: spec.auto_allocate_blocks,
            max_blocks_per_host: spec.max_blocks_per_host,
            kube_virt_vm_address_persistence: Some(
                match spec.kube_virt_vm_address_persistence {
                    api::v3::Switch::Enabled => "Enabled",
                    api::v3::Switch::Disabled => "Disabled",
                }
                .to_owned(),
            ),
            ip_cooldown_seconds: Some(spec.ip_cooldown_seconds),
        }
    }
}

/// The value under a node's key of ours: which instance of the node owns its blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOwner {
    /// The random id that the instance keeps on its disk.
    pub instance: String,
    /// Random at each start of the agent.
    pub process: String,
    /// When this start of the agent took over.
    pub since: Timestamp,
}

/// The value under a node's uid key: it is a node of Kubernetes, or was. Only what such nodes hold
/// is given back once Kubernetes has deleted them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUid {
    /// `metadata.uid` of the Node object.
    pub uid: String,
    /// The instance that recorded it; empty if nothing says so.
    #[serde(default)]
    pub instance: String,
}

/// Why a value under a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Corrupt {
    /// The key in the store.
    pub key: String,
    /// What is wrong with its value.
    pub reason: String,
}

/// Reads a block, which must be the one that its key names.
///
/// # Errors
/// The key and what is wrong.
pub fn decode_block(key: &str, value: &[u8]) -> Result<Block, Corrupt> {
    let corrupt = |reason: String| Corrupt { key: key.to_owned(), reason };
    let block = Block::decode(value).map_err(|error| match error {
        DecodeError::Json(reason) => corrupt(format!("not a block: {reason}")),
        DecodeError::Invalid(_) => corrupt(format!("an invalid block: {error}")),
    })?;
    if parse_block_key(key) != Some(block.cidr()) {
        return Err(corrupt(format!("holds the block {}", block.cidr())));
    }
    Ok(block)
}

/// Reads a small value. An empty one counts as `{}`, as in Calico.
///
/// # Errors
/// The key and what is wrong.
pub fn decode<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T, Corrupt> {
    let value = if value.is_empty() { b"{}" } else { value };
    serde_json::from_slice(value)
        .map_err(|error| Corrupt { key: key.to_owned(), reason: error.to_string() })
}

/// Writes a value as Go's `encoding/json` would.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    crate::block::encode_json(value)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
