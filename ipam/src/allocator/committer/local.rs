//! Local-first mode: the node answers for its own blocks from its own durable log, and the store
//! follows.
//!
//! ```text
//!   requests ─plan─▶ log (one fsync for all that wait) ─▶ answer
//!                     └──────── mirror, some milliseconds later ────▶ store
//! ```
//! It is in force between two marks. A node enters it by writing its mark into the store; nobody
//! borrows from its blocks or takes an empty one over while that is there, since every such
//! transaction compares it. The node's record is written anew with it, so that nothing of its own
//! that is still on its way arrives later. Then the blocks are read once more, and the log begins. It leaves when
//! the store has everything: first the log ends, durably, then the mark goes. So whatever order
//! nodes learn of a change of strictAffinity in, no block is written ahead and borrowed from at
//! once, and a log that is found at the start is the truth.
//!
//! What needs the store (an unknown handle, somebody else's block, a collection) waits until the
//! mirror has caught up and is done as in the other mode, while the rest pauses.

use super::super::log::{Change, Log, Logged};
use super::super::mirror::{self, Flight};
use super::super::plan::is_local;
use super::super::status::{Frozen, Mode};
use super::*;
use crate::store::Txn;

mod mode;

/// How long changes are gathered before the store gets them.
const GATHER: Duration = Duration::from_millis(20);

/// How old the status may be while the store gets what it lacks.
const SHOWN: Duration = Duration::from_millis(100);

type Awaited<T> = BoxFuture<'static, Result<T, StoreError>>;

/// The mode, and what is on its way to the store.
pub(super) struct Local {
    /// Whether the node may enter the mode.
    enabled: bool,
    /// In force.
    on: bool,
    log: Option<Log>,
    /// The revision of the mark in the store.
    mark: Revision,
    /// The mark is not as it was left: others may use the blocks.
    unmarked: bool,
    /// There may be a mark though the mode is not in force.
    mark_left: bool,
    /// Why the log cannot be written.
    broken: Option<Error>,
    /// The configuration is known, not only assumed.
    told: bool,
    /// The store was asked since the start, or cannot be.
    consulted: bool,
    /// Until the store has everything.
    pub(super) paused: bool,
    flight: Option<Flight>,
    pub(super) in_air: Option<Awaited<Outcome>>,
    pub(super) probe: Option<Awaited<()>>,
    /// The store answered a moment ago.
    reached: bool,
    /// When the next transaction is to go.
    pub(super) due: Option<Instant>,
    /// Since when the store lacks something.
    behind_since: Option<Timestamp>,
    /// The revision of the node's record when the blocks were last read.
    read_under: Option<Revision>,
    /// Somebody took the name, if only for a moment: the blocks may be others' by now.
    doubtful: bool,
    pace: Pace,
    /// When the status was last brought up to date.
    shown: Option<Instant>,
}

impl Local {
    /// With the log of before, if there is one: then it is in force.
    pub(super) fn new(enabled: bool, log: Option<Log>, cache: &mut Cache) -> Self {
        for (cidr, logged) in log.iter().flat_map(Log::blocks) {
            let (value, revision) = (logged.local.clone(), logged.revision);
            cache.blocks.insert(*cidr, Seen { value, revision });
            if logged.owned {
                let confirmed = Seen { value: model::AffinityState::Confirmed, revision: 0 };
                cache.affinities.insert(*cidr, confirmed);
            }
            if logged.local != logged.stored {
                cache.ahead.insert(*cidr, logged.stored.clone());
            }
        }
        Self {
            enabled,
            on: log.is_some(),
            mark: log.as_ref().map_or(0, Log::mark),
            log,
            unmarked: false,
            mark_left: true,
            broken: None,
            told: !enabled,
            consulted: false,
            paused: false,
            flight: None,
            in_air: None,
            probe: None,
            reached: false,
            due: None,
            behind_since: None,
            read_under: None,
            doubtful: false,
            pace: Pace::default(),
            shown: None,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    pub(super) fn is_told(&mut self) {
        self.told = true;
    }
}

/// Does what waits for the disk. On a thread of its own it simply waits. Else others do the work of
/// this thread meanwhile: to hand it to another one and be woken by it would take as long as the
/// disk does.
async fn off_worker<T: Send + 'static>(
    own_thread: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    match tokio::runtime::Handle::current().runtime_flavor() {
        _ if own_thread => Ok(work()),
        tokio::runtime::RuntimeFlavor::MultiThread => Ok(tokio::task::block_in_place(work)),
        _ => tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string()),
    }
}

impl Committer {
    /// True if requests are answered from the log now.
    pub(super) fn serves_locally(&self) -> bool {
        let Local { on, unmarked, broken, consulted, doubtful, .. } = &self.local;
        let sure = *consulted && !doubtful && !unmarked;
        *on && sure && broken.is_none() && self.refusal.is_none()
    }

    fn wants_local(&self) -> bool {
        self.local.enabled && self.settings.config.strict_affinity
    }

    /// True if the store has to be asked, beside all else, before it is relied on: requests that do
    /// not need it do not wait for it.
    pub(super) fn must_probe(&mut self) -> bool {
        let Local { on, reached, probe, .. } = &mut self.local;
        if !*on || self.owner.revision.is_some() || std::mem::take(reached) {
            return false;
        }
        if probe.is_none() {
            let (store, key) = (self.store.clone(), model::node_key(&self.cache.node));
            *probe = Some(Box::pin(async move { store.read(&[key]).await.map(drop) }));
        }
        true
    }

    /// The store answered, or did not.
    pub(super) fn probed(&mut self, result: Result<(), StoreError>) {
        self.local.probe = None;
        match result {
            Ok(()) => self.local.reached = true,
            Err(error) => {
                // What the log says has to do.
                self.local.consulted = true;
                self.away(&error.into());
            }
        }
    }

    /// The blocks were read under this revision of the node's record.
    pub(super) fn consulted(&mut self) {
        (self.local.consulted, self.local.doubtful) = (true, false);
        self.local.read_under = self.owner.revision;
    }

    /// The node's record has this revision now. If it is not the one that the blocks were last read
    /// under, somebody took the name, if only for a moment: what they did to the blocks is read
    /// before anything is answered.
    pub(super) fn doubt_blocks(&mut self, revision: Revision) {
        if self.local.on && self.local.read_under.is_some_and(|known| known != revision) {
            (self.loaded, self.local.doubtful) = (false, true);
        }
    }

    /// A transaction of another kind than the mirror's has no answer: its blocks are read before
    /// they are answered for again, and it must not arrive after that.
    pub(super) fn fence(&mut self) {
        if self.local.on {
            self.owner.renew();
        }
    }

    /// True if the store lacks something.
    fn is_behind(&self) -> bool {
        self.local.flight.is_some() || !self.cache.ahead.is_empty()
    }

    /// Answers what the log suffices for.
    pub(super) async fn serve_locally(&mut self) {
        while self.serves_locally() && !self.local.paused {
            self.forget_the_abandoned();
            if self.settle_log().await.is_err() {
                break;
            }
            let (planned, plan) = self.plan_locally();
            if planned.is_empty() {
                break;
            }
            let blocks: Vec<_> = plan.blocks.into_values().flatten().collect();
            if !blocks.is_empty() {
                let changes = blocks.iter().cloned().map(Box::new).map(Change::Local).collect();
                if self.write_log(changes).await.is_err() {
                    break;
                }
                for block in blocks {
                    self.cache.answer_for(block);
                }
            }
            match self.answer(planned).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.troubled(&error);
                    break;
                }
            }
            self.seek_spares();
        }
        self.show_soon();
    }

    /// Requests of one handle keep their order: behind one that waits for the store, all do.
    fn plan_locally(&self) -> (Vec<(usize, Planned)>, Plan) {
        let reaches_store = self.owner.revision.is_some() && self.retry_at.is_none();
        let mut settings = std::borrow::Cow::Borrowed(&self.settings);
        if !settings.config.strict_affinity {
            // Until the mode is left.
            settings.to_mut().config.strict_affinity = true;
        }
        let draft = Draft::new(&self.cache, &settings, &self.assigned, self.now());
        let (mut draft, mut planned) = (draft.local(), Vec::new());
        let mut waiting = BTreeSet::new();
        for (index, pending) in self.pending.iter().enumerate() {
            let handle = pending.work.handle();
            let free = pending.is_ready()
                && handle.is_some_and(|handle| !waiting.contains(handle))
                && self.is_local(pending);
            let outcome = if free { self.plan(&mut draft, pending) } else { Planned::Later };
            match outcome {
                Planned::Later if free => break,
                Planned::Needs(Need::Handle(_)) | Planned::Later => waiting.extend(handle),
                Planned::Needs(_) if !reaches_store => waiting.extend(handle),
                outcome => planned.push((index, outcome)),
            }
        }
        (planned, draft.finish())
    }

    fn is_local(&self, pending: &Pending) -> bool {
        is_local(&self.cache, &pending.work, &pending.tentative)
    }

    /// True if something waits that the log does not suffice for, or suffices no longer for.
    fn needs_store(&self) -> bool {
        let bound = |pending: &Pending| pending.is_ready() && !self.is_local(pending);
        !self.serves_locally() && self.pending.iter().any(Pending::is_ready)
            || self.pending.iter().any(bound)
    }

    /// What there is to do with the store while the mode is in force.
    pub(super) async fn advance_mirrored(&mut self, node: Revision) -> Result<bool, Error> {
        let needed = self.needs_store();
        if self.local.broken.is_some() {
            // Nothing can be answered in this mode any more.
            return Ok(false);
        }
        if self.is_behind() {
            if needed {
                self.catch_up();
            }
            return Ok(false);
        }
        if needed {
            let more = self.commit(node).await;
            self.local.paused = false;
            return more;
        }
        self.local.paused = false;
        if !self.pending.is_empty() || !self.searching.is_empty() {
            return Ok(false);
        }
        self.give_up_unwanted(node).await
    }

    /// Answers nothing more before the store has everything.
    fn catch_up(&mut self) {
        self.local.paused = true;
        self.local.due = Some(Instant::now());
    }

    /// What is on its way is not waited for: it cannot be done any more.
    pub(super) fn forget_flight(&mut self) {
        (self.local.flight, self.local.in_air, self.local.due) = (None, None, None);
        self.cache.sent.clear();
    }

    /// Sends the next transaction if it is time.
    pub(super) fn depart(&mut self) {
        let usable = self.local.on && self.loaded && self.is_behind() && self.retry_at.is_none();
        let Some(node) = self.owner.revision.filter(|_| usable && self.local.in_air.is_none())
        else {
            // It is set again when it can be.
            self.local.due = None;
            return;
        };
        let now = Instant::now();
        let at = if self.local.paused { now } else { now + GATHER };
        if *self.local.due.get_or_insert(at) > now {
            return;
        }
        self.local.due = None;
        if self.local.flight.is_none() {
            self.local.flight = mirror::next(&self.cache, node, self.local.mark);
        }
        let Some(flight) = &self.local.flight else { return };
        for (cidr, block) in &flight.blocks {
            self.cache.sent.insert(*cidr, block.clone());
        }
        let (store, txn) = (self.store.clone(), flight.txn.clone());
        self.local.in_air = Some(Box::pin(async move { store.txn(txn).await }));
    }

    /// A transaction of the mirror came to its end.
    pub(super) async fn landed(&mut self, result: Result<Outcome, StoreError>) {
        self.local.in_air = None;
        match result {
            Ok(Outcome::Committed(revision)) => {
                if let Some(flight) = self.local.flight.take() {
                    flight.landed(&mut self.cache, revision);
                }
                self.cache.sent.clear();
            }
            Ok(Outcome::Conflict(found)) => {
                // What was done of it is among what is found.
                if let Some(flight) = self.local.flight.take() {
                    self.learn(&flight.txn, &found);
                }
                self.local.due = Some(Instant::now() + GATHER);
            }
            // It may have been done: it is sent again as it is.
            Err(error) => {
                self.away(&error.into());
            }
        }
        if self.settle_log().await.is_ok() {
            self.show();
        }
    }

    /// Somebody else wrote what the mirror compared.
    fn learn(&mut self, txn: &Txn, found: &[Option<Entry>]) {
        self.count(|status| status.conflicts += 1);
        for (compare, entry) in txn.compares.iter().zip(found) {
            let revision = entry.as_ref().map_or(0, |entry| entry.mod_revision);
            let key = compare.key.as_str();
            if key == model::node_key(&self.cache.node) {
                if self.owner.revision != Some(revision) {
                    self.owner.lose();
                    self.doubt_blocks(revision);
                }
            } else if key == model::local_key(&self.cache.node) {
                if revision != self.local.mark {
                    tracing::error!(key, "changed by somebody else: local-first mode ends");
                    (self.local.mark, self.local.unmarked) = (revision, true);
                }
            } else if let Some(cidr) = model::parse_block_key(key) {
                let known = self.cache.blocks.revision(&cidr);
                if self.went_back(key, known, entry.as_ref()) {
                    return;
                }
                if known != revision {
                    self.cache.install_block(cidr, entry.as_ref());
                }
            } else if let Some(handle) = key.strip_prefix(model::HANDLES)
                && self.cache.handles.get(handle).map_or(0, |seen| seen.revision) != revision
            {
                self.cache.install_handle(handle, entry.as_ref());
            }
        }
    }

    /// Brings the log up to what is known of the store. Nothing is answered before.
    ///
    /// # Errors
    /// The log cannot be written, which is known then.
    pub(super) async fn settle_log(&mut self) -> Result<(), Error> {
        if let Some(broken) = &self.local.broken {
            return Err(broken.clone());
        }
        let Some(log) = &self.local.log else {
            self.cache.unlogged.clear();
            return Ok(());
        };
        let mut changes = Vec::new();
        for cidr in std::mem::take(&mut self.cache.unlogged) {
            if self.cache.stale.contains(&cidr) {
                self.cache.unlogged.insert(cidr);
                continue;
            }
            let known = log.blocks().get(&cidr);
            match self.logged(&cidr) {
                Some(logged) if known != Some(&logged) => {
                    changes.push(Change::Block(Box::new(logged)));
                }
                None if known.is_some() => changes.push(Change::Gone(cidr)),
                _ => {}
            }
        }
        if changes.is_empty() { Ok(()) } else { self.write_log(changes).await }
    }

    /// What the log is to say of a block.
    fn logged(&self, cidr: &IpNet) -> Option<Logged> {
        let (seen, ahead) = (self.cache.blocks.get(cidr)?, self.cache.ahead.get(cidr));
        let owned = self.cache.owns(cidr);
        (owned || ahead.is_some()).then(|| Logged {
            revision: seen.revision,
            stored: ahead.unwrap_or(&seen.value).clone(),
            local: seen.value.clone(),
            owned,
        })
    }

    async fn write_log(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        let Some(mut log) = self.local.log.take() else { return Ok(()) };
        let written = off_worker(self.own_thread, move || {
            let written = log.append(changes);
            (log, written)
        });
        let written = match written.await {
            Ok((log, written)) => {
                self.local.log = Some(log);
                written
            }
            Err(error) => Err(self.log_error(&error)),
        };
        if let Err(error) = &written {
            tracing::error!(%error, "the log cannot be written: local-first mode ends");
            self.local.broken = Some(error.clone());
            self.reachable(Some(error));
        }
        written
    }

    fn log_error(&self, reason: &str) -> Error {
        Error::State { path: self.state.log(), reason: reason.to_owned() }
    }

    /// Before a block is given up: the log alone must not give from it any more.
    pub(super) async fn log_gone(&mut self, cidr: IpNet) -> Result<(), Error> {
        self.cache.unlogged.remove(&cidr);
        let known = self.local.log.as_ref().is_some_and(|log| log.blocks().contains_key(&cidr));
        if known { self.write_log(vec![Change::Gone(cidr)]).await } else { Ok(()) }
    }

    /// Shows how things are, unless they were shown a moment ago and a transaction of the mirror is
    /// about to end, which shows them again: requests do not wait for that.
    pub(super) fn show_soon(&mut self) {
        let follows = self.local.due.is_some() || self.local.in_air.is_some();
        if !(follows && self.local.shown.is_some_and(|at| at.elapsed() < SHOWN)) {
            self.show();
        }
    }

    /// Says in the status which mode is in force, and how far the store is behind.
    pub(super) fn show(&mut self) {
        self.local.shown = Some(Instant::now());
        let behind = self.cache.behind();
        if behind == 0 && !self.is_behind() {
            self.local.behind_since = None;
        } else {
            let now = self.now();
            self.local.behind_since.get_or_insert(now);
        }
        let frozen = self.cache.frozen.as_ref().map(|freeze| Frozen {
            since: freeze.since,
            by: freeze.node.clone(),
            waiting_for: self.restored.waiting.clone(),
        });
        let mode = if self.local.on { Mode::LocalFirst } else { Mode::Synchronous };
        let (cache, since) = (&self.cache, self.local.behind_since);
        let ready = self.serves_locally();
        self.status.send_if_modified(|status| {
            let before = (status.mode, status.behind, status.behind_since, status.ready);
            status.ready |= ready;
            (status.mode, status.behind, status.behind_since) = (mode, behind, since);
            let now = (status.mode, status.behind, status.behind_since, status.ready);
            let same = status.frozen == frozen;
            status.frozen = frozen;
            status.describe(cache) || before != now || !same
        });
    }
}
