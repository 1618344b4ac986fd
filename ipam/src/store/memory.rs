//! The store of tests: in memory, with the semantics of etcd, and with faults on demand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;

use super::mvcc::{Compacted, Mvcc};
use super::{Event, Keys, Outcome, Revision, Snapshot, Store, StoreError, Txn, check_txn};

/// How many changes are remembered for watches and reads of the past.
const HISTORY: usize = 100_000;

/// What goes wrong with a transaction, for tests of what a caller does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request is lost: nothing is done and no answer comes.
    LoseRequest,
    /// The transaction is done and its answer is lost.
    LoseReply,
    /// Somebody else was faster, and what they wrote looks the same: nothing is done.
    Conflict,
}

/// A store in memory. Clones are the same store.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    state: Mutex<State>,
    /// The revision, for those who wait for the next one.
    changed: watch::Sender<Revision>,
}

/// A copy of a store.
#[derive(Debug)]
pub struct Backup(Mvcc);

#[derive(Debug)]
struct State {
    mvcc: Mvcc,
    faults: VecDeque<Option<Fault>>,
    away: bool,
    txns: u64,
    setbacks: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new("memory")
    }
}

impl MemoryStore {
    /// An empty store that errors call `name`.
    pub fn new(name: &str) -> Self {
        Self::with(name, Mvcc::new(Vec::new(), 0, HISTORY))
    }

    pub(super) fn with(name: &str, mvcc: Mvcc) -> Self {
        let (changed, _) = watch::channel(mvcc.revision());
        let state = State { mvcc, faults: VecDeque::new(), away: false, txns: 0, setbacks: 0 };
        Self {
            shared: Arc::new(Shared { name: name.to_owned(), state: Mutex::new(state), changed }),
        }
    }

    /// Forgets the history up to `revision`.
    pub fn compact(&self, revision: Revision) {
        self.lock().mvcc.compact(revision);
    }

    /// The next transactions meet these faults, in this order; None: it goes well.
    pub fn inject(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.lock().faults.extend(faults);
    }

    /// While true, nothing is answered: every call fails as unavailable.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
        // Wakes the watches, which notice.
        self.shared.changed.send_modify(|_| ());
    }

    /// A copy of what is there now, for [`MemoryStore::restore`].
    pub fn snapshot(&self) -> Backup {
        Backup(self.lock().mvcc.copy())
    }

    /// Puts a copy in the place of everything, as an operator restores a lost etcd. Its watches
    /// break.
    pub fn restore(&self, Backup(copy): &Backup) {
        let mut state = self.lock();
        state.mvcc = copy.copy();
        state.setbacks += 1;
        drop(state);
        self.shared.changed.send_modify(|_| ());
    }

    /// How many transactions were done or refused.
    pub fn transactions(&self) -> u64 {
        self.lock().txns
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unavailable(&self) -> StoreError {
        StoreError::Unavailable {
            store: self.shared.name.clone(),
            reason: "connection refused".to_owned(),
        }
    }

    fn compacted(&self, Compacted(revision): Compacted) -> StoreError {
        StoreError::Compacted { store: self.shared.name.clone(), revision }
    }

    fn present(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        if state.away { Err(self.unavailable()) } else { Ok(state) }
    }

    /// Does a transaction; `persist` sees its changes before they count and may refuse them.
    pub(super) fn commit(
        &self,
        txn: &Txn,
        persist: impl FnOnce(&[super::mvcc::Change]) -> Result<(), StoreError>,
    ) -> Result<Outcome, StoreError> {
        check_txn(&self.shared.name, txn)?;
        let mut state = self.present()?;
        let fault = state.faults.pop_front().flatten();
        if fault == Some(Fault::LoseRequest) {
            return Err(self.unavailable());
        }
        state.txns += 1;
        let outcome = match state.mvcc.evaluate(txn) {
            _ if fault == Some(Fault::Conflict) => Outcome::Conflict(state.mvcc.compared(txn)),
            Err(found) => Outcome::Conflict(found),
            Ok(changes) => {
                persist(&changes)?;
                state.mvcc.apply(changes)
            }
        };
        let revision = state.mvcc.revision();
        drop(state);
        self.shared.changed.send_modify(|last| *last = revision.max(*last));
        if fault == Some(Fault::LoseReply) { Err(self.unavailable()) } else { Ok(outcome) }
    }

    /// Everything after `after`, or the whole prefix where that is forgotten.
    fn next(
        &self,
        prefix: &str,
        after: Option<Revision>,
    ) -> Result<(Vec<Event>, Revision), StoreError> {
        let state = self.present()?;
        let events = match after.map(|after| state.mvcc.since(prefix, after)) {
            Some(Ok(events)) => events,
            None | Some(Err(Compacted(_))) => {
                let snapshot = state.mvcc.list(prefix, None).map_err(|e| self.compacted(e))?;
                vec![Event::Synced(snapshot)]
            }
        };
        Ok((events, state.mvcc.revision()))
    }
}

impl Store for MemoryStore {
    fn name(&self) -> String {
        self.shared.name.clone()
    }

    fn setbacks(&self) -> u64 {
        self.lock().setbacks
    }

    fn read<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        async move { Ok(self.present()?.mvcc.read(keys)) }.boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        async move { self.present()?.mvcc.list(prefix, at).map_err(|e| self.compacted(e)) }.boxed()
    }

    fn list_keys<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Keys, StoreError>> {
        async move {
            let Snapshot { entries, revision } = self.list(prefix, None).await?;
            let keys = entries.into_iter().map(|entry| entry.key).collect();
            Ok(Keys { keys, revision })
        }
        .boxed()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        async move { self.commit(&txn, |_| Ok(())) }.boxed()
    }

    fn watch(&self, prefix: &str, after: Option<Revision>) -> BoxStream<'static, Event> {
        struct Watch {
            store: MemoryStore,
            prefix: String,
            after: Option<Revision>,
            changed: watch::Receiver<Revision>,
            ready: VecDeque<Event>,
            interrupted: bool,
            setbacks: u64,
        }
        let watch = Watch {
            store: self.clone(),
            prefix: prefix.to_owned(),
            after,
            changed: self.shared.changed.subscribe(),
            ready: VecDeque::new(),
            interrupted: false,
            setbacks: self.setbacks(),
        };
        futures::stream::unfold(watch, |mut watch| async move {
            loop {
                if let Some(event) = watch.ready.pop_front() {
                    return Some((event, watch));
                }
                // Marked as seen before the state is read: a later change wakes us again.
                watch.changed.borrow_and_update();
                let setbacks = watch.store.setbacks();
                if std::mem::replace(&mut watch.setbacks, setbacks) != setbacks {
                    watch.ready.push_back(Event::Interrupted(watch.store.unavailable()));
                }
                match watch.store.next(&watch.prefix, watch.after) {
                    Ok((events, revision)) => {
                        watch.after = Some(revision);
                        watch.ready.extend(events);
                        watch.interrupted = false;
                    }
                    Err(error) if !watch.interrupted => {
                        watch.interrupted = true;
                        watch.ready.push_back(Event::Interrupted(error));
                    }
                    Err(_) => {}
                }
                if watch.ready.is_empty() && watch.changed.changed().await.is_err() {
                    return None;
                }
            }
        })
        .boxed()
    }
}
