//! What the allocator needs of a store: consistent reads, transactions that compare several keys,
//! and a watch that survives reconnects and compaction. Keys and values are bytes to the store.
//!
//! | implementation | for |
//! |---|---|
//! | [`etcd`] | a cluster |
//! | [`embedded`] | one machine, on a file (redb) |
//! | [`memory`] | tests: the same semantics, and faults on demand |
//!
//! All three pass one conformance suite (`tests/store.rs`).

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub mod embedded;
pub mod etcd;
pub mod memory;
pub(crate) mod mvcc;

/// Counts the store's writes: every transaction that writes makes the next one.
pub type Revision = i64;

/// The most operations, or comparisons, that one transaction may have. etcd's own default limit is
/// 128.
pub const MAX_TXN_OPS: usize = 128;

/// A key, its value, and the revision of its last change.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Arc<[u8]>,
    /// The revision that last wrote it.
    pub mod_revision: Revision,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = String::from_utf8_lossy(&self.value);
        write!(f, "{}@{} = {value}", self.key, self.mod_revision)
    }
}

/// What a transaction asks of a key before it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// The revision it must have been last written by; 0: it must not exist.
    pub mod_revision: Revision,
}

/// What a transaction asks of all the keys under a prefix before it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoneCreated {
    /// The prefix.
    pub prefix: String,
    /// No key that exists under it was created after this revision. Changes of older keys do not
    /// matter.
    pub since: Revision,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the value.
    Put(String, Vec<u8>),
    /// Removes the key, if it is there.
    Delete(String),
}

impl Write {
    /// The key that is changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Writes that happen together, if every comparison holds, or not at all. No key may be written
/// twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All of these must hold.
    pub compares: Vec<Compare>,
    /// And all of these.
    pub none_created: Vec<NoneCreated>,
    /// All of these are done then.
    pub writes: Vec<Write>,
}

impl Txn {
    /// Adds: `key` was last written by `mod_revision` (0: does not exist).
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, mod_revision: Revision) -> Self {
        self.compares.push(Compare { key: key.into(), mod_revision });
        self
    }

    /// Adds: whoever listed `prefix` at revision `since` has seen every key that it has now.
    #[must_use]
    pub fn when_none_created(mut self, prefix: impl Into<String>, since: Revision) -> Self {
        self.none_created.push(NoneCreated { prefix: prefix.into(), since });
        self
    }

    /// Adds a write.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: Vec<u8>) -> Self {
        self.writes.push(Write::Put(key.into(), value));
        self
    }

    /// Adds a deletion.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All comparisons held and all writes are done, under this revision.
    Committed(Revision),
    /// Some comparison did not hold; nothing was written. What each of [`Txn::compares`] holds, in
    /// their order, then or a moment later; if all of these hold, a key was created under one of
    /// the prefixes, or one that was in the way is gone again.
    Conflict(Vec<Option<Entry>>),
}

/// Keys read at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What was found. For [`Store::read`] in the order asked for, only what exists; for
    /// [`Store::list`] in key order.
    pub entries: Vec<Entry>,
    /// The revision that this was true at.
    pub revision: Revision,
}

impl Snapshot {
    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// Keys listed at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The keys, in order.
    pub keys: Vec<String>,
    /// The revision that this was true at.
    pub revision: Revision,
}

/// What a watch tells. The order is that of the store's revisions.
#[derive(Clone, Debug)]
pub enum Event {
    /// This is all there is under the prefix: the first thing a watch without a start revision
    /// tells, and what it tells again when the store has forgotten the changes in between.
    Synced(Snapshot),
    /// A key was written.
    Put(Entry),
    /// A key was deleted, by this revision.
    Delete(String, Revision),
    /// An attempt to watch failed, told each time; the watch goes on trying, in growing intervals,
    /// and continues where it was. The store itself may be there again already.
    Interrupted(StoreError),
}

/// Why a store did not do what it was asked. The text names the store (etcd's endpoints or the
/// file), never a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No answer. A transaction may have been done or not.
    #[error("{store} is unavailable: {reason}")]
    Unavailable {
        /// The store: endpoints or path.
        store: String,
        /// What happened.
        reason: String,
    },
    /// The store refused; nothing was done.
    #[error("{store} refused: {reason}")]
    Rejected {
        /// The store: endpoints or path.
        store: String,
        /// What it said.
        reason: String,
    },
    /// The revision asked for is no longer kept.
    #[error("{store} has compacted revision {revision}")]
    Compacted {
        /// The store: endpoints or path.
        store: String,
        /// The revision asked for.
        revision: Revision,
    },
}

/// How far a store had come at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which store it is: etcd's cluster id.
    pub cluster: u64,
    /// Its revision.
    pub revision: Revision,
}

/// A store. All methods may be called from many tasks at once; a future that is dropped may or may
/// not have had its effect.
pub trait Store: Send + Sync + 'static {
    /// What to call this store in errors and status: endpoints or path.
    fn name(&self) -> String;

    /// How often this store was met in an older state than it had been seen in before, or as another
    /// one, since it was opened: it was restored from a copy. Whatever was answered since that copy
    /// was made may be missing. The call that finds it out fails as unavailable.
    fn setbacks(&self) -> u64 {
        0
    }

    /// How far the store had come when it was last heard of; None if it cannot be another one, or older,
    /// at the next start.
    fn position(&self) -> Option<Position> {
        None
    }

    /// To be called before anything else: how far the store had come when an earlier process last
    /// heard of it.
    fn expect(&self, _position: Position) {}

    /// Reads some keys, all at one revision; at most [`MAX_TXN_OPS`] of them.
    ///
    /// # Errors
    /// Unavailable or rejected.
    fn read<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Snapshot, StoreError>>;

    /// Reads everything under a prefix, however much that is, as it was at `at` (now, if None).
    ///
    /// # Errors
    /// Unavailable, rejected or compacted.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot, StoreError>>;

    /// The keys under a prefix, without their values.
    ///
    /// # Errors
    /// Unavailable or rejected.
    fn list_keys<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Keys, StoreError>>;

    /// Does a transaction; more than [`MAX_TXN_OPS`] comparisons or writes are rejected, and so is
    /// a key that is written twice. A store that no longer knows what was created since the
    /// revision of a [`NoneCreated`] counts that as a conflict.
    ///
    /// # Errors
    /// Unavailable (it may have been done) or rejected (it was not).
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>>;

    /// Tells every change under a prefix after the revision `after`; without it, first what is
    /// there. Never ends by itself; interruptions are told, then mended.
    fn watch(&self, prefix: &str, after: Option<Revision>) -> BoxStream<'static, Event>;
}

/// Rejects what no store would take, with one text for all of them.
pub(crate) fn check_txn(store: &str, txn: &Txn) -> Result<(), StoreError> {
    let rejected = |reason: String| StoreError::Rejected { store: store.to_owned(), reason };
    let most = (txn.compares.len() + txn.none_created.len()).max(txn.writes.len());
    if most > MAX_TXN_OPS {
        return Err(rejected(format!("{most} operations in one transaction")));
    }
    let mut keys: Vec<_> = txn.writes.iter().map(Write::key).collect();
    keys.sort_unstable();
    if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(rejected(format!("duplicate key {} in one transaction", twice[0])));
    }
    Ok(())
}
