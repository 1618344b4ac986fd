//! What lies between one agent and the store of tests, and what goes wrong there: the link is cut,
//! a transaction arrives long after its sender gave up, the agent dies before or after one of its
//! transactions.

use std::sync::{Arc, Mutex, MutexGuard};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use ipam::store::memory::MemoryStore;
use ipam::store::{Event, Keys, Outcome, Revision, Snapshot, Store, StoreError, Txn};
use tokio::sync::watch;

/// What a store does not look at: for positive controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The comparisons of blocks.
    Blocks,
    /// Whether blocks were created beside the one that is claimed.
    Creations,
    /// That a node answers from its own log.
    Marks,
}

/// Where an agent dies.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    /// This many of its transactions go well before.
    pub after: u32,
    /// Whether the one that it dies at is done.
    pub done: bool,
}

/// One agent's way to the store. Clones are the same link.
#[derive(Clone)]
pub struct Link {
    store: MemoryStore,
    forgotten: Option<Forgotten>,
    shared: Arc<Mutex<State>>,
    condition: Arc<watch::Sender<Condition>>,
    /// True while transactions wait at the near end.
    stalled: Arc<watch::Sender<bool>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Whole,
    Cut,
    /// The agent at its end is no more.
    Dead,
}

#[derive(Default)]
struct State {
    death: Option<Death>,
    /// The next transaction is held back.
    hold: bool,
    late: Vec<Txn>,
    /// What somebody else does as soon as a key with this prefix was read.
    behind_a_read: Option<(String, Txn)>,
}

impl Link {
    pub fn new(store: &MemoryStore, forgotten: Option<Forgotten>) -> Self {
        let condition = Arc::new(watch::channel(Condition::Whole).0);
        let stalled = Arc::new(watch::channel(false).0);
        Self { store: store.clone(), forgotten, shared: Arc::default(), condition, stalled }
    }

    pub fn cut(&self) {
        self.condition.send_replace(Condition::Cut);
    }

    pub fn mend(&self) {
        self.condition.send_replace(Condition::Whole);
    }

    pub fn is_cut(&self) -> bool {
        *self.condition.borrow() == Condition::Cut
    }

    /// Transactions wait from now on, or go on.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// Somebody else does this as soon as the agent has read a key with this prefix.
    pub fn behind_a_read(&self, prefix: &str, txn: Txn) {
        self.lock().behind_a_read = Some((prefix.to_owned(), txn));
    }

    /// The agent dies at one of its next transactions.
    pub fn die(&self, death: Death) {
        self.lock().death = Some(death);
    }

    /// It does not die any more, unless it has.
    pub fn spare(&self) {
        self.lock().death = None;
    }

    /// The agent dies now.
    pub fn kill(&self) {
        self.condition.send_replace(Condition::Dead);
    }

    pub fn is_dead(&self) -> bool {
        *self.condition.borrow() == Condition::Dead
    }

    /// Resolves when the agent is dead.
    pub async fn died(&self) {
        let mut condition = self.condition.subscribe();
        // The sender is here.
        condition.wait_for(|now| *now == Condition::Dead).await.unwrap();
    }

    /// The next transaction is answered by nobody, and arrives when [`Link::arrive`] is called.
    pub fn hold_next(&self) {
        self.lock().hold = true;
    }

    /// What was held back reaches the store, whoever sent it.
    pub async fn arrive(&self) -> usize {
        let late = std::mem::take(&mut self.lock().late);
        for txn in &late {
            // Refused or not: nobody hears it.
            let _ = self.store.txn(txn.clone()).await;
        }
        late.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap()
    }

    fn whole(&self) -> Result<(), StoreError> {
        match *self.condition.borrow() {
            Condition::Whole => Ok(()),
            Condition::Cut | Condition::Dead => Err(StoreError::Unavailable {
                store: self.store.name(),
                reason: "no route to host".to_owned(),
            }),
        }
    }

    async fn send(&self, mut txn: Txn) -> Result<Outcome, StoreError> {
        // The sender is here.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
        self.whole()?;
        match self.forgotten {
            Some(Forgotten::Blocks) => self.condone(&mut txn, ipam::model::BLOCKS).await,
            Some(Forgotten::Creations) => txn.none_created.clear(),
            Some(Forgotten::Marks) => self.condone(&mut txn, ipam::model::LOCAL).await,
            None => {}
        }
        let dies = {
            let mut state = self.lock();
            // Whoever takes a name waits for the answer before it does anything else; and what
            // took it so late, after its sender was disowned, would only have to be disowned too.
            let takes_name = txn.writes.iter().any(|w| w.key().starts_with(ipam::model::NODES));
            if !takes_name && std::mem::take(&mut state.hold) {
                state.late.push(txn.clone());
                return Err(StoreError::Unavailable {
                    store: self.store.name(),
                    reason: "no answer in time".to_owned(),
                });
            }
            match state.death {
                Some(Death { after: 0, done }) => Some(done),
                Some(Death { after, done }) => {
                    state.death = Some(Death { after: after - 1, done });
                    None
                }
                None => None,
            }
        };
        let Some(done) = dies else { return self.store.txn(txn).await };
        if done {
            let _ = self.store.txn(txn).await;
        }
        self.kill();
        self.whole().map(|()| unreachable!("the agent is dead"))
    }
}

impl Link {
    /// Makes the comparisons of some keys hold.
    async fn condone(&self, txn: &mut Txn, prefix: &str) {
        for compare in txn.compares.iter_mut().filter(|one| one.key.starts_with(prefix)) {
            if let Ok(read) = self.store.read(std::slice::from_ref(&compare.key)).await {
                compare.mod_revision = read.get(&compare.key).map_or(0, |e| e.mod_revision);
            }
        }
    }
}

impl Store for Link {
    fn name(&self) -> String {
        self.store.name()
    }

    fn setbacks(&self) -> u64 {
        self.store.setbacks()
    }

    fn read<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            self.whole()?;
            let read = self.store.read(keys).await;
            let mine =
                |(prefix, _): &mut (String, Txn)| keys.iter().any(|key| key.starts_with(&**prefix));
            let behind = self.lock().behind_a_read.take_if(mine);
            if let Some((_, txn)) = behind {
                let _ = self.store.txn(txn).await;
            }
            read
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            self.whole()?;
            self.store.list(prefix, at).await
        })
    }

    fn list_keys<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Keys, StoreError>> {
        Box::pin(async move {
            self.whole()?;
            self.store.list_keys(prefix).await
        })
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        Box::pin(self.send(txn))
    }

    /// While the link is cut nothing is told but that, once; then everything, in its order.
    fn watch(&self, prefix: &str, after: Option<Revision>) -> BoxStream<'static, Event> {
        let store = self.store.name();
        let state = (self.store.watch(prefix, after), self.condition.subscribe(), false);
        futures::stream::unfold(state, move |(mut events, mut condition, mut told)| {
            let store = store.clone();
            async move {
                loop {
                    if *condition.borrow_and_update() != Condition::Whole {
                        if !told {
                            let reason = "no route to host".to_owned();
                            let error = StoreError::Unavailable { store, reason };
                            return Some((Event::Interrupted(error), (events, condition, true)));
                        }
                        condition.changed().await.ok()?;
                        continue;
                    }
                    told = false;
                    tokio::select! {
                        biased;
                        changed = condition.changed() => changed.ok()?,
                        event = events.next() => {
                            return event.map(|event| (event, (events, condition, told)));
                        }
                    }
                }
            }
        })
        .boxed()
    }
}
