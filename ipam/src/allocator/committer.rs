//! The one task that writes. It collects what was asked while its last transaction was on its way
//! and puts all of it into the next one. In local-first mode ([`local`]) its log comes in between.
//!
//! ```text
//!   queue ─▶ pending ─plan─▶ transaction ─▶ committed: answer
//!               ▲                 │         conflict: learn what was found, plan again
//!               │                 │         no answer: read the blocks again, plan again
//!               └─ claims ◀───────┘         (a repeated request meets its own handle)
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::cache::{Cache, Seen};
use super::claim::{Census, Claim, Finished, Found, Target};
use super::log::Log;
use super::owner::Ownership;
use super::plan::{Draft, Effort, Need, Plan, Planned, Settings, Work};
use super::request::{AssignRequest, Assignment, Held, Live};
use super::state::{Remembered, StateDir};
use super::status::Status;
use crate::error::Error;
use crate::model::{self, IpamConfig};
use crate::net::Family;
use crate::pool::Pools;
use crate::store::{Entry, Event, Outcome, Revision, Store, StoreError};
use crate::timestamp::Timestamp;

mod commit;
mod desk;
mod learn;
mod local;
mod pace;
mod pending;
mod publish;
mod restored;
mod search;

pub(crate) use desk::Desk;
use desk::Woken;
use local::Local;
use pace::Pace;
pub(crate) use pending::Message;
use pending::{Pending, Reply, Search, Waiting};
use publish::Saving;
use restored::Restored;

/// Between attempts while the store does not answer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Between looks at a node's record that names somebody else.
const TAKEN_RETRY: Duration = Duration::from_secs(5);
/// How long a transaction waits for company. Less than an fsync.
const COMPANY: Duration = Duration::from_micros(60);
/// Fewer that were answered together are not waited for.
const FEW: usize = 4;
/// Who was answered together with others a shorter time ago has company.
const ALONE: Duration = Duration::from_millis(5);
/// Calico's `datastoreRetries`: conflicts that one request survives.
const MOST_CONFLICTS: u32 = 100;
/// After a search that found nothing, how long no spare block is looked for.
const SPARE_PAUSE: Duration = Duration::from_secs(30);

/// Tells the time; tests turn it.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

pub(crate) struct Committer {
    store: Arc<dyn Store>,
    state: Arc<StateDir>,
    clock: Clock,
    /// Whether this thread may wait for the disk.
    own_thread: bool,
    queue: mpsc::UnboundedReceiver<Message>,
    /// How many messages are on their way.
    queued: Arc<AtomicUsize>,
    blocks: watch::Sender<Arc<[IpNet]>>,
    borrowed: watch::Sender<Arc<[IpAddr]>>,
    status: watch::Sender<Status>,
    epoch: Arc<AtomicU64>,

    owner: Ownership,
    cache: Cache,
    settings: Settings,
    /// What the caller said; wins over what the store's key says.
    given_config: Option<IpamConfig>,
    /// What the store's key said last.
    stored_config: IpamConfig,
    /// Until the store has been read once.
    loaded: bool,
    /// What the world was told last.
    remembered: Remembered,
    /// What the disk has of it; None until this process has written it.
    on_disk: Option<Remembered>,
    /// What the disk gets, beside everything else.
    saving: Option<Saving>,
    /// What the next attempt waits for after a failure.
    save_pace: Pace,
    events: Option<BoxStream<'static, Event>>,

    pending: VecDeque<Pending>,
    searches: FuturesUnordered<BoxFuture<'static, (Search, Finished)>>,
    searching: BTreeSet<Search>,
    /// What the store told of this node's affinities while a search was under way, whose own doing
    /// it may be: its end says.
    unexplained: BTreeMap<IpNet, Entry>,
    census: HashMap<Family, Census>,
    /// Families of which blocks with this node's name on them have still to be looked for.
    unadopted: BTreeSet<Family>,
    /// Collections that wait for that: one must find all that this node has.
    collections: Vec<(Live, Reply<Vec<IpAddr>>)>,
    spare_not_before: HashMap<Family, Instant>,
    /// What the looking for blocks with this node's name waits for after a failure.
    named: Pace,
    /// What the giving up of blocks waits for after a failure.
    giving_up: Pace,
    /// When each handle that this process assigned was assigned.
    assigned: HashMap<String, u64>,
    /// How many were answered together last.
    answered: usize,
    /// When several were last answered together.
    together: Option<Instant>,

    backoff: Duration,
    retry_at: Option<Instant>,
    /// The local-first mode.
    local: Local,
    /// Whether the store was restored from an older copy.
    restored: Restored,
    /// Why nothing at all is served at present.
    refusal: Option<Error>,
    /// Set once it is to end.
    closed: Option<oneshot::Sender<()>>,
}

/// What a committer is made of.
pub(crate) struct Parts {
    pub(crate) node: String,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) state: StateDir,
    pub(crate) clock: Clock,
    pub(crate) node_labels: Option<BTreeMap<String, String>>,
    pub(crate) local_first: bool,
    pub(crate) awaits_held: bool,
    pub(crate) own_thread: bool,
    pub(crate) log: Option<Log>,
    pub(crate) queue: mpsc::UnboundedReceiver<Message>,
    pub(crate) queued: Arc<AtomicUsize>,
    pub(crate) blocks: watch::Sender<Arc<[IpNet]>>,
    pub(crate) borrowed: watch::Sender<Arc<[IpAddr]>>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) epoch: Arc<AtomicU64>,
    pub(crate) remembered: Remembered,
}

impl Committer {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            node,
            store,
            state,
            clock,
            node_labels,
            local_first,
            awaits_held,
            own_thread,
            log,
            queue,
            queued,
            blocks,
            borrowed,
            status,
            epoch,
            remembered,
        } = parts;
        let mut cache = Cache::new(&node);
        Self {
            owner: Ownership::new(&node, &state.instance),
            local: Local::new(local_first, log, &mut cache),
            restored: Restored::new(store.setbacks(), awaits_held),
            cache,
            store,
            state: Arc::new(state),
            clock,
            own_thread,
            queue,
            queued,
            blocks,
            borrowed,
            status,
            epoch,
            settings: Settings { node_labels, ..Settings::default() },
            given_config: None,
            stored_config: IpamConfig::default(),
            loaded: false,
            on_disk: None,
            remembered,
            saving: None,
            save_pace: Pace::default(),
            events: None,
            pending: VecDeque::new(),
            searches: FuturesUnordered::new(),
            searching: BTreeSet::new(),
            unexplained: BTreeMap::new(),
            census: HashMap::new(),
            unadopted: BTreeSet::new(),
            collections: Vec::new(),
            spare_not_before: HashMap::new(),
            named: Pace::default(),
            giving_up: Pace::default(),
            assigned: HashMap::new(),
            answered: 0,
            together: None,
            backoff: BACKOFF.0,
            retry_at: None,
            refusal: None,
            closed: None,
        }
    }

    /// Serves until the last handle is dropped or someone closes it. It waits on the desk.
    pub(crate) async fn run(self, desk: Arc<Desk>) {
        let mut committer = Box::new(self);
        let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        // Own the name and read the blocks before the first request needs them.
        let mut again = committer.round().await;
        while committer.closed.is_none() {
            // Requests that never end must not keep waiting what is beside them, nor, on a thread of
            // its own, the connection to the store.
            tokio::task::yield_now().await;
            let Some((back, woken)) = desk.wait(committer, &mut timer, again).await else { return };
            committer = back;
            match woken {
                Woken::Searched(search, finished) => committer.searched(&search, *finished),
                Woken::Landed(result) => committer.landed(result).await,
                Woken::Probed(result) => committer.probed(result),
                Woken::Saved(what, result) => committer.saved(what, result),
                Woken::Observed(event) => committer.observed(event),
                Woken::Told(Some(message)) => committer.take(message),
                Woken::Told(None) => break,
                Woken::Again => {}
            }
            committer.accept_waiting();
            again = committer.round().await;
        }
        committer.save_at_the_end().await;
        let closed = committer.closed.take();
        drop(committer);
        if let Some(closed) = closed {
            // Who does not wait for the end does not care.
            let _ = closed.send(());
        }
    }

    /// Does what can be done now, with the store as far as it can be used. True if there may be more
    /// to do.
    async fn round(&mut self) -> bool {
        self.serve_locally().await;
        let usable = self.retry_at.is_none() && !self.must_probe();
        let again = usable && self.work().await;
        if !self.pending.is_empty() {
            // The store may have said what the log waited for.
            self.serve_locally().await;
        }
        self.depart();
        again
    }

    /// Takes all messages that are there. Those who were answered together
    /// mostly ask again together, and then share the next transaction too: a thread that is the
    /// allocator's own waits a moment for them.
    fn accept_waiting(&mut self) {
        let expected = std::mem::take(&mut self.answered);
        let until = Instant::now() + COMPANY;
        loop {
            while self.closed.is_none()
                && let Ok(message) = self.queue.try_recv()
            {
                self.take(message);
            }
            let alone = expected < FEW || self.pending.len() >= expected;
            if !self.own_thread || alone || self.closed.is_some() || Instant::now() >= until {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Accepts a message of the queue.
    fn take(&mut self, message: Message) {
        self.queued.fetch_sub(1, Ordering::SeqCst);
        self.accept(message);
    }

    fn accept(&mut self, message: Message) {
        let (work, waiting) = match message {
            Message::Assign(request, reply) => (Work::Assign(request), Waiting::Assign(reply)),
            Message::Release(handle, reply) => {
                (Work::Release { handle, looked_up: false }, Waiting::Addresses(reply))
            }
            Message::Collect(live, reply)
                if self.refusal.is_none() && !live.searched.load(Ordering::Relaxed) =>
            {
                // Also what arrived after everybody had given it up, in a block of somebody else.
                self.unadopted.extend([Family::V4, Family::V6]);
                // Somebody waits, and is to be told at least why it cannot be done.
                self.named.not_before = None;
                self.collections.retain(|(_, reply)| !reply.is_closed());
                self.collections.push((live, reply));
                return;
            }
            Message::Collect(live, reply) => (Work::Collect(live), Waiting::Addresses(reply)),
            Message::Pools(Pools { mut known, unreadable }) => {
                known.sort_by(|a, b| a.name.cmp(&b.name));
                self.settings.pools = known;
                self.settings.unreadable_pools = unreadable;
                self.spare_not_before.clear();
                self.census.clear();
                return;
            }
            Message::Reservations(reservations) => {
                self.settings.reservations = reservations;
                return;
            }
            Message::Config(config) => {
                self.given_config = config;
                self.local.is_told();
                self.use_config();
                return;
            }
            Message::NodeLabels(labels) => {
                self.settings.node_labels = Some(labels);
                return;
            }
            Message::Hold(held) => {
                self.restored.living.extend(held.iter().map(|held| held.handle.clone()));
                self.restored.held.extend(held);
                self.restored.awaits_held = false;
                return;
            }
            // Whatever is to be done is found after every message.
            Message::Tend => return,
            Message::Close(closed) => {
                self.closed = Some(closed);
                return;
            }
        };
        match &self.refusal {
            Some(refusal) => waiting.fail(refusal.clone()),
            None => self.pending.push_back(Pending::new(work, waiting)),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from((self.clock)())
    }

    /// One step with the store. True if there may be more to do.
    async fn work(&mut self) -> bool {
        self.forget_the_abandoned();
        let again = match self.advance().await {
            Ok(again) => {
                self.backoff = BACKOFF.0;
                self.refusal = None;
                self.reachable(None);
                again
            }
            Err(error) => {
                self.troubled(&error);
                false
            }
        };
        self.seek_named();
        self.seek_spares();
        self.publish();
        again && self.retry_at.is_none()
    }

    /// Be ready, know, plan, commit. True if there may be more to do.
    async fn advance(&mut self) -> Result<bool, Error> {
        if self.is_set_back() {
            self.begin_reassertion();
        }
        let revision = self.owner.acquire(&*self.store, self.now()).await?;
        if self.is_set_back() {
            return self.reassert(revision).await;
        }
        self.doubt_blocks(revision);
        self.load().await?;
        self.refresh().await?;
        self.consulted();
        if self.is_set_back() {
            return Ok(true);
        }
        self.write_held(revision).await?;
        if self.cache.frozen.is_some() && self.restored.look_at.is_none() {
            self.thaw(revision).await?;
        }
        if self.change_mode(revision).await? {
            return Ok(true);
        }
        if self.local.is_on() {
            return self.advance_mirrored(revision).await;
        }
        if self.pending.iter().any(Pending::is_ready) {
            return self.commit(revision).await;
        }
        // What a search just claimed for a request is the request's.
        if !self.pending.is_empty() || !self.searching.is_empty() {
            return Ok(false);
        }
        self.give_up_unwanted(revision).await
    }

    /// The store failed, or refuses to serve us.
    fn troubled(&mut self, error: &Error) {
        if !matches!(error, Error::StoreUnavailable { .. }) {
            if self.refusal.as_ref() != Some(error) {
                tracing::error!(%error, "no addresses can be assigned");
            }
            self.fail_waiting(error, |_| true);
            for (_, reply) in self.collections.drain(..) {
                Waiting::Addresses(reply).fail(error.clone());
            }
            self.refusal = Some(error.clone());
        } else {
            // Everybody waits: their deadlines are their own. What the store refused before it may
            // grant when it is back.
            self.refusal = None;
        }
        self.away(error);
    }

    /// Tries again later, and begins by asking whether the node's name is still ours: that tells
    /// both whether the store answers and whether we may write.
    fn away(&mut self, error: &Error) {
        let taken = matches!(error, Error::NodeTaken { .. });
        let pause = if taken { TAKEN_RETRY } else { self.backoff };
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        self.retry_at = Some(Instant::now() + pause);
        self.owner.lose();
        // What the log suffices for need not wait.
        self.local.paused = false;
        self.count(|status| status.store_errors += 1);
        self.reachable(Some(error));
    }
}
