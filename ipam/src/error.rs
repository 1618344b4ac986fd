//! What can go wrong, told so that whoever reads it knows what to do.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::model::{self, Corrupt};
use crate::net::Family;
use crate::store::{Entry, StoreError};

/// Why a request for addresses failed. Nothing is held by a request that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store gave no answer in time. CNI: error 11, try again later.
    #[error("{store} is unavailable: {reason}")]
    StoreUnavailable {
        /// The store, by its endpoints or its path.
        store: String,
        /// The last failure.
        reason: String,
    },
    /// The store refused: permission, quota, authentication.
    #[error("{store} refused: {reason}")]
    StoreRejected {
        /// The store, by its endpoints or its path.
        store: String,
        /// What it said.
        reason: String,
    },
    /// Another instance owns this node's name in the store.
    #[error(
        "node name {node} belongs to another instance ({holder}, since {since}; key {key}); if that \
         machine is gone for good, run: ipam disown {node}"
    )]
    NodeTaken {
        /// The node's name.
        node: String,
        /// The key that says so.
        key: String,
        /// The other instance's id.
        holder: String,
        /// Since when.
        since: String,
    },
    /// No pool may give this address.
    #[error("no {family} pool: {reason}")]
    NoPool {
        /// The family that was asked for.
        family: Family,
        /// Why each pool is out of the question.
        reason: String,
    },
    /// Every block of the pools is taken and every address of this node's blocks in use.
    #[error("no free {family} address in {}: every block is taken", pools.join(", "))]
    PoolExhausted {
        /// The family that was asked for.
        family: Family,
        /// The pools that were tried.
        pools: Vec<String>,
    },
    /// The node's blocks are full and it may not have more.
    #[error("no free {family} address: the node has its {limit} blocks (maxBlocksPerHost)")]
    BlockLimit {
        /// The family that was asked for.
        family: Family,
        /// How many blocks of the family it may have.
        limit: usize,
    },
    /// The node's blocks are full, and none is claimed before every node has said what it has.
    #[error(
        "no free {family} address: {by} found at {since} that the store was restored from an older \
         copy; blocks are claimed again when every node has said what it has"
    )]
    Frozen {
        /// The family that was asked for.
        family: Family,
        /// The node that found out.
        by: String,
        /// When.
        since: String,
    },
    /// The node's blocks are full and nodes may not claim blocks by themselves.
    #[error("no free {family} address: autoAllocateBlocks is off")]
    NoAutomaticBlocks {
        /// The family that was asked for.
        family: Family,
    },
    /// The address asked for is in no enabled pool that allows the use.
    #[error("{address} is in no enabled pool that allows its use")]
    NotInPool {
        /// The address.
        address: IpAddr,
    },
    /// The address asked for is taken.
    #[error("{address} is taken by {holder}")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// The handle that has it.
        holder: String,
    },
    /// The address asked for is in another node's block and strictAffinity is on, here or there.
    #[error("{address} is in a block of {owner}, and strictAffinity is on")]
    NotOurBlock {
        /// The address.
        address: IpAddr,
        /// The block's affinity.
        owner: String,
    },
    /// The address asked for is in a block of somebody else.
    #[error("{address} is in the block {block} of {owner}")]
    OtherOwner {
        /// The address.
        address: IpAddr,
        /// The block.
        block: IpNet,
        /// Its affinity.
        owner: String,
    },
    /// The block that would hold the address asked for cannot be made.
    #[error(
        "{address} would need a block {wanted}, but {existing} exists in it, made with another \
         block size"
    )]
    Overlap {
        /// The address.
        address: IpAddr,
        /// The block, by its pool's block size.
        wanted: IpNet,
        /// A block that overlaps it.
        existing: IpNet,
    },
    /// The handle holds other addresses than the ones asked for.
    #[error("handle {handle} already holds {held}")]
    Conflict {
        /// The handle.
        handle: String,
        /// What it holds.
        held: IpAddr,
    },
    /// Others kept changing what this request needs.
    #[error("gave up after {attempts} conflicts with other writers at {key}")]
    Contention {
        /// How often it was tried.
        attempts: u32,
        /// Where the last conflict was.
        key: String,
    },
    /// A value in the store cannot be used.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The request contradicts itself.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// The state directory cannot be used.
    #[error("{}: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// No thread for the allocator.
    #[error("no thread for the allocator: {reason}")]
    Thread {
        /// What happened.
        reason: String,
    },
    /// The allocator was closed.
    #[error("the allocator is closed")]
    Closed,
}

impl Error {
    /// No block is claimed: what is under [`crate::model::FROZEN`] says why.
    pub(crate) fn frozen(family: Family, entry: &Entry) -> Self {
        let freeze = model::decode::<model::Freeze>(&entry.key, &entry.value).ok();
        let (by, since) = freeze.map_or_else(Default::default, |f| (f.node, f.since.to_string()));
        Self::Frozen { family, by, since }
    }

    /// True if the same request may well succeed later without anyone's doing (CNI error 11).
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::StoreUnavailable { .. }
                | Self::StoreRejected { .. }
                | Self::Contention { .. }
                | Self::Frozen { .. }
        )
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { store, reason } => Self::StoreUnavailable { store, reason },
            StoreError::Rejected { store, reason } => Self::StoreRejected { store, reason },
            StoreError::Compacted { store, revision } => Self::StoreUnavailable {
                store,
                reason: format!("revision {revision} was compacted while it was read"),
            },
        }
    }
}
