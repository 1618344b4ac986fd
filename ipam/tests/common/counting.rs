//! A store that counts what is asked of it, and refuses some of it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use ipam::model::BLOCKS;
use ipam::store::memory::MemoryStore;
use ipam::store::{Event, Keys, Outcome, Revision, Snapshot, Store, StoreError, Txn, Write};

/// Counts what is asked of a store.
#[derive(Default)]
pub struct Counting {
    pub store: MemoryStore,
    reads: AtomicU64,
    txns: AtomicU64,
    refuse_deletes: AtomicBool,
    refuse_lists: AtomicBool,
    answer_late: AtomicBool,
    refused: AtomicU64,
}

impl Counting {
    /// One, by both its names.
    pub fn shared() -> (Arc<Self>, Arc<dyn Store>) {
        let store = Arc::new(Self::default());
        (store.clone(), store)
    }

    pub fn counts(&self) -> (u64, u64) {
        (self.reads.load(Ordering::SeqCst), self.txns.load(Ordering::SeqCst))
    }

    /// The counts once what runs beside the requests after a start has come to rest.
    pub async fn settled(&self) -> (u64, u64) {
        loop {
            let before = self.counts();
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.counts() == before {
                return before;
            }
        }
    }

    /// While true, transactions that delete a block are refused.
    pub fn refuse_deletes(&self, refuse: bool) {
        self.refuse_deletes.store(refuse, Ordering::SeqCst);
    }

    /// While true, lists of blocks are refused.
    pub fn refuse_lists(&self, refuse: bool) {
        self.refuse_lists.store(refuse, Ordering::SeqCst);
    }

    /// Transactions are answered after those who watch were told of them.
    pub fn answer_late(&self) {
        self.answer_late.store(true, Ordering::SeqCst);
    }

    /// How often that happened.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    fn refuse<T: Send>(&self) -> BoxFuture<'_, Result<T, StoreError>> {
        self.refused.fetch_add(1, Ordering::SeqCst);
        let reason = "permission denied".to_owned();
        Box::pin(async move { Err(StoreError::Rejected { store: self.name(), reason }) })
    }

    fn read(&self) {
        self.reads.fetch_add(1, Ordering::SeqCst);
    }
}

impl Store for Counting {
    fn name(&self) -> String {
        self.store.name()
    }

    fn read<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        self.read();
        self.store.read(keys)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        self.read();
        if prefix.starts_with(BLOCKS) && self.refuse_lists.load(Ordering::SeqCst) {
            return self.refuse();
        }
        self.store.list(prefix, at)
    }

    fn list_keys<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Keys, StoreError>> {
        self.read();
        self.store.list_keys(prefix)
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        self.txns.fetch_add(1, Ordering::SeqCst);
        let deletes =
            |write: &Write| matches!(write, Write::Delete(key) if key.starts_with(BLOCKS));
        if self.refuse_deletes.load(Ordering::SeqCst) && txn.writes.iter().any(deletes) {
            return self.refuse();
        }
        let answer = self.store.txn(txn);
        if !self.answer_late.load(Ordering::SeqCst) {
            return answer;
        }
        Box::pin(async move {
            let answer = answer.await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer
        })
    }

    fn watch(&self, prefix: &str, after: Option<Revision>) -> BoxStream<'static, Event> {
        self.store.watch(prefix, after)
    }
}
