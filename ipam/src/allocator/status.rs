//! What an operator wants to see of a node's allocator.

use ipnet::IpNet;
use serde::Serialize;

use super::cache::Cache;
use crate::model::{AffinityState, Corrupt};
use crate::timestamp::Timestamp;

/// How an address is made durable before a pod gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Mode {
    /// The store has it before the answer; while the store is away nothing is assigned.
    Synchronous,
    /// The node's own log has it before the answer, and the store some milliseconds later; while the
    /// store is away addresses are assigned of the blocks that the node has.
    LocalFirst,
}

/// The state of a node's allocator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The store: etcd's endpoints or the file.
    pub store: String,
    /// True if requests are served now. In local-first mode that needs no store: `problem` says
    /// whether it is away.
    pub ready: bool,
    /// The last failure, until something succeeds again.
    pub problem: Option<String>,
    /// How addresses are made durable.
    pub mode: Mode,
    /// How many addresses the store has otherwise than this node, in local-first mode.
    pub behind: usize,
    /// Since when it lacks something.
    pub behind_since: Option<Timestamp>,
    /// Blocks that this node answered for in local-first mode until somebody else had them: pods
    /// with addresses of these must be started anew. Until the agent's next start.
    pub lost: Vec<IpNet>,
    /// Set while no block is claimed, since the store was restored from an older copy.
    pub frozen: Option<Frozen>,
    /// This node's blocks, and those of others it has addresses of.
    pub blocks: Vec<BlockStatus>,
    /// Keys whose values cannot be read, with the reasons.
    pub corrupt: Vec<CorruptKey>,
    /// Transactions that lost to another writer, since the start.
    pub conflicts: u64,
    /// Times that the store could not be used, since the start.
    pub store_errors: u64,
}

/// Why no block is claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Frozen {
    /// Since when.
    pub since: Timestamp,
    /// The node that found out.
    pub by: String,
    /// Nodes that have still to say what they have.
    pub waiting_for: Vec<String>,
}

impl std::fmt::Display for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { since, by, waiting_for } = self;
        write!(f, "{by} found at {since} that the store was restored from an older copy")?;
        if waiting_for.is_empty() {
            return Ok(());
        }
        write!(f, "; waiting for {} to say what they have", waiting_for.join(", "))
    }
}

/// One block of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockStatus {
    /// The network.
    pub cidr: IpNet,
    /// Number of addresses.
    pub capacity: usize,
    /// Addresses that are allocated or resting.
    pub in_use: usize,
    /// Of these, those that were released and rest.
    pub resting: usize,
    /// False: the block belongs to somebody else.
    pub owned: bool,
}

/// A key whose value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CorruptKey {
    /// The key.
    pub key: String,
    /// What is wrong with its value.
    pub reason: String,
}

impl From<&Corrupt> for CorruptKey {
    fn from(corrupt: &Corrupt) -> Self {
        Self { key: corrupt.key.clone(), reason: corrupt.reason.clone() }
    }
}

impl Status {
    pub(crate) fn new(store: String, mode: Mode) -> Self {
        Self {
            store,
            ready: false,
            problem: None,
            mode,
            behind: 0,
            behind_since: None,
            lost: Vec::new(),
            frozen: None,
            blocks: Vec::new(),
            corrupt: Vec::new(),
            conflicts: 0,
            store_errors: 0,
        }
    }

    /// Takes the blocks from the cache. True if anything changed.
    pub(crate) fn describe(&mut self, cache: &Cache) -> bool {
        let pending = |cidr: &IpNet| {
            cache.affinities.get(cidr).is_some_and(|seen| seen.value != AffinityState::Confirmed)
        };
        let borrowed = cache.borrowed();
        let shown = cache
            .blocks
            .iter()
            .filter(|(cidr, _)| cache.owns(cidr) || borrowed.contains(cidr) || pending(cidr));
        let blocks: Vec<_> = shown
            .map(|(cidr, seen)| BlockStatus {
                cidr: *cidr,
                capacity: seen.value.capacity(),
                in_use: seen.value.in_use(),
                resting: seen.value.resting_count(),
                owned: cache.owns(cidr),
            })
            .collect();
        let corrupt: Vec<_> = cache.corrupt.values().map(CorruptKey::from).collect();
        let lost: Vec<_> = cache.lost.iter().filter(|cidr| !cache.owns(cidr)).copied().collect();
        let changed = self.blocks != blocks || self.corrupt != corrupt || self.lost != lost;
        self.lost = lost;
        self.blocks = blocks;
        self.corrupt = corrupt;
        changed
    }
}
