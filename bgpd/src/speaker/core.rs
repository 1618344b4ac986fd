//! The speaker without clock and sockets: events in, octets and requests out.
//!
//! Whoever drives it ([`super::driver`], or the simulation in the tests) calls one of
//! [`Core::accepted`], [`Core::connected`], [`Core::connect_failed`], [`Core::received`],
//! [`Core::closed`], [`Core::sent`] for what happened, [`Core::tick`] when
//! [`Core::next_deadline`] has come, then [`Core::work`] until it says that nothing is left, and
//! carries out [`Core::take_outputs`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use rustc_hash::FxHashMap;

use super::fib::Fib;
use super::import::Scratch;
use super::monitor::Monitor;
use super::neighbor::{Deadline, Neighbor, Slot};
use super::queues::Queues;
use super::record::Decisions;
use super::status::{DownReason, Progress, Work};
use super::timers::TimerKey;
use super::updates::Tap;
use crate::config::{Config, Network, PeerConfig};
use crate::export::UpdateGroups;
use crate::policy::Library;
use crate::rib::{PeerId, Rib, with_family};
use crate::session::{Action, Direction, Event, State, Timer, step};
use crate::wire::attributes::AttributeBlock;
use crate::wire::{Family, MAX_EXTENDED_LEN, Notification, encode_keepalive, frame};

/// Time since some fixed instant, the same for all calls.
pub(crate) type Time = Duration;

/// Names a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnId(pub(crate) u64);

/// Something for the driver to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Connect, and answer with [`Core::connected`] or [`Core::connect_failed`].
    Connect { conn: ConnId, peer: Arc<PeerConfig>, external: bool },
    /// There are octets to send, see [`Core::outgoing`].
    Write(ConnId),
    /// Close, after an attempt to send these.
    Close { conn: ConnId, last: Vec<Bytes> },
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(super) config: Config,
    /// Our own networks, by prefix.
    pub(super) networks: BTreeMap<IpNet, Network>,
    /// Policies with the sets that they name.
    pub(super) policies: Library,
    pub(super) rib: Rib,
    pub(super) groups: UpdateGroups,
    /// By [`PeerId`]; the first place is ours and stays empty.
    pub(super) neighbors: Vec<Option<Neighbor>>,
    pub(super) connections: FxHashMap<ConnId, (PeerId, Direction)>,
    last_conn: u64,
    pub(super) timers: BinaryHeap<Reverse<(Time, TimerKey)>>,
    pub(super) outputs: Vec<Output>,
    /// Connections whose OPEN has waited long enough.
    pub(super) released: Vec<ConnId>,
    pub(super) random: u64,
    /// When the driver last told of anything.
    pub(super) clock: Time,
    pub(super) fib: Fib,
    pub(super) progress: Progress,
    pub(super) deferral: Deadline,
    pub(super) advertise: Deadline,
    pub(super) block: AttributeBlock,
    pub(super) scratch: Scratch,
    /// The BFD sessions wanted may be others than when they were last asked for.
    pub(super) bfd_changed: bool,
    /// By listen range: connections refused because it is full.
    pub(super) refused: BTreeMap<String, u64>,
    pub(super) work_done: Work,
    /// None: nobody wants to know what happens.
    pub(super) tap: Option<Tap>,
    pub(super) monitor: Monitor,
    /// None: the run is not recorded.
    pub(super) decisions: Option<Decisions>,
}

impl Core {
    /// A speaker that starts now. The seed decides how timers are jittered, nothing else.
    pub(crate) fn new(config: Config, now: Time, seed: u64) -> Self {
        let restarting = config.graceful_restart.enabled && config.graceful_restart.restarting;
        let mut core = Self {
            networks: BTreeMap::new(),
            policies: Library::default(),
            rib: Rib::new(config.multipath),
            config: Config { peers: Vec::new(), networks: Vec::new(), ..config.clone() },
            groups: UpdateGroups::default(),
            neighbors: vec![None],
            connections: FxHashMap::default(),
            last_conn: 0,
            timers: BinaryHeap::new(),
            outputs: Vec::new(),
            released: Vec::new(),
            random: seed | 1,
            clock: now,
            fib: Fib::default(),
            progress: Progress { restarting, selecting: !restarting, converged: false },
            deferral: Deadline::default(),
            advertise: Deadline::default(),
            block: AttributeBlock::default(),
            scratch: Scratch::default(),
            bfd_changed: false,
            refused: BTreeMap::new(),
            work_done: Work::default(),
            tap: None,
            monitor: Monitor::default(),
            decisions: None,
        };
        let deferral = Duration::from_secs(config.graceful_restart.selection_deferral_time.into());
        core.arm(TimerKey::Deferral, now + deferral);
        core.wait_for_kernel(config.advertise_after_install);
        let _report = core.apply(now, config);
        core
    }

    // ------------------------------------------------------------------------------------------
    // What the driver tells

    /// When [`Core::tick`] is to be called next.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Lets timers expire. `unread` says whether a connection has octets that have not been read
    /// yet: a peer that has sent something is not dead, however busy we were.
    pub(crate) fn tick(&mut self, now: Time, unread: impl Fn(ConnId) -> bool) {
        self.clock = now;
        while let Some(&Reverse((queued, key))) = self.timers.peek()
            && queued <= now
        {
            self.timers.pop();
            let Some(deadline) = self.deadline(key) else { continue };
            if deadline.queued != Some(queued) {
                continue;
            }
            deadline.queued = None;
            let Some(at) = deadline.at else { continue };
            if at > now {
                self.arm(key, at);
                continue;
            }
            deadline.at = None;
            match key {
                TimerKey::Slot(peer, direction, Timer::IdleHold) => {
                    self.start(now, peer, direction);
                }
                TimerKey::Slot(peer, direction, timer) => {
                    let Some(neighbor) = self.neighbor(peer) else { continue };
                    let slot = neighbor.slot(direction);
                    let conn = slot.conn;
                    if timer == Timer::ConnectRetry && slot.state == State::Connect {
                        neighbor.found_nobody(now);
                    }
                    if timer == Timer::Hold && conn.is_some_and(&unread) {
                        self.arm(key, now + Duration::from_secs(1));
                    } else {
                        self.event(now, peer, direction, &Event::Expired(timer));
                    }
                }
                TimerKey::Stale(peer, family) => self.stale_expired(now, peer, family),
                TimerKey::Refresh(peer) => self.give_up_refresh(peer),
                TimerKey::Bfd(peer) => self.begin_if_path_is_good(now, peer),
                TimerKey::Deferral => self.end_deferral(),
                // What waited for it is said by the work that follows.
                TimerKey::Advertise => {}
            }
        }
    }

    /// Decides, and queues what follows for the neighbors. Returns whether there is more to do
    /// at once.
    pub(crate) fn work(&mut self, now: Time) -> bool {
        self.clock = now;
        for conn in std::mem::take(&mut self.released) {
            self.received(now, conn, &[]);
        }
        self.dismiss(now);
        self.work_done.rounds += 1;
        self.check_convergence();
        if self.progress.selecting {
            for family in Family::ALL {
                let Self { rib, groups, fib, work_done, monitor, decisions, .. } = self;
                with_family!(family, P => rib.decide::<P>(|table, decided| {
                    work_done.best_changes += u64::from(decided.best);
                    work_done.fib_changes += u64::from(decided.fib);
                    if let Some(decisions) = decisions {
                        decisions.note(table.dest(decided.dest));
                    }
                    monitor.mark(table, decided.dest);
                    groups.mark(table, decided);
                    if decided.fib {
                        fib.mark(table, decided.dest);
                    }
                }));
            }
        }
        let (mut caught_up, mut told) = (Vec::new(), Vec::new());
        let more = {
            let Self { rib, groups, neighbors, outputs, fib, monitor, .. } = self;
            let told = (!monitor.is_empty()).then_some(&mut told);
            let caught_up = &mut caught_up;
            let mut sink = Queues { clock: now, neighbors, outputs, caught_up, told };
            groups.flush(now, rib, &fib.awaited, &mut sink)
        };
        self.monitor_told(&told);
        for (peer, family, told) in caught_up {
            self.told(peer, family, told);
        }
        if let Some(at) = self.groups.deadline() {
            self.arm(TimerKey::Advertise, at);
        }
        self.watch_sending(now);
        self.fib.notify(self.progress.converged);
        self.station_release() || more
    }

    /// How many changes of best paths there were so far.
    pub(crate) fn changes(&self) -> u64 {
        self.work_done.best_changes
    }

    /// What the driver is to do.
    pub(crate) fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// The connections of a neighbor.
    pub(crate) fn connections_of(&self, name: &str) -> Vec<ConnId> {
        let neighbor = self.neighbors.iter().flatten().find(|n| n.config.name == name);
        neighbor.into_iter().flat_map(|n| n.slots.iter().filter_map(|s| s.conn)).collect()
    }

    /// The configurations of all neighbors.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<PeerConfig>> {
        self.neighbors.iter().flatten().map(|n| &n.config)
    }

    /// Whether a neighbor, by name, is in our AS.
    pub(crate) fn peer_type(&self, name: &str) -> Option<crate::policy::PeerType> {
        self.neighbors.iter().flatten().find(|n| n.config.name == name).map(|n| n.peer_type)
    }

    /// Ends all connections.
    pub(crate) fn stop_all(&mut self, now: Time, notification: Option<&Notification>) {
        self.clock = now;
        for at in 1..self.neighbors.len() {
            if let Some(peer) = self.neighbors[at].as_ref().map(|n| n.id) {
                self.stop(now, peer, notification);
            }
        }
    }

    // ------------------------------------------------------------------------------------------
    // Inside

    pub(super) fn neighbor(&mut self, peer: PeerId) -> Option<&mut Neighbor> {
        self.neighbors.get_mut(peer.index())?.as_mut()
    }

    pub(super) fn slot(&mut self, peer: PeerId, direction: Direction) -> Option<&mut Slot> {
        Some(self.neighbor(peer)?.slot(direction))
    }

    pub(super) fn reason(&mut self, peer: PeerId, direction: Direction, reason: DownReason) {
        if let Some(slot) = self.slot(peer, direction) {
            slot.reason = Some(reason);
        }
    }

    pub(super) fn new_conn(&mut self, peer: PeerId, direction: Direction) -> ConnId {
        self.last_conn += 1;
        let conn = ConnId(self.last_conn);
        self.connections.insert(conn, (peer, direction));
        if let Some(slot) = self.slot(peer, direction) {
            slot.conn = Some(conn);
        }
        conn
    }

    /// Begins to connect, unless the other connection has come far enough to be waited for.
    pub(super) fn start(&mut self, now: Time, peer: PeerId, direction: Direction) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let other = neighbor.slot(direction.other()).state;
        let unwanted = neighbor.is_halted(now)
            || !neighbor.is_placed()
            || neighbor.config.passive
            || neighbor.config.shutdown.is_some()
            || direction == Direction::Incoming
            || other >= State::OpenConfirm;
        if !unwanted && !self.waits_for_bfd(now, peer) {
            self.event(now, peer, direction, &Event::Start { passive: false });
        }
    }

    /// Runs one transition and what it asks for.
    pub(super) fn event(&mut self, now: Time, peer: PeerId, direction: Direction, event: &Event) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let before = neighbor.state();
        let slot = neighbor.slot(direction);
        let (state, actions) = step(slot.state, event);
        let transition = slot.state != state;
        slot.state = state;
        let after = neighbor.state();
        if after != before {
            neighbor.since = now;
        }
        if transition {
            tracing::debug!(peer = neighbor.config.name, ?direction, %state, "session state");
        }
        if after != before
            && let Some(tap) = &mut self.tap
            && let Some(Some(neighbor)) = self.neighbors.get(peer.index())
        {
            tap.state(now, neighbor, before, after);
        }
        for action in actions {
            self.act(now, peer, direction, action);
        }
    }

    fn act(&mut self, now: Time, peer: PeerId, direction: Direction, action: Action) {
        match action {
            Action::StartTimer(timer) => self.start_timer(now, peer, direction, timer),
            Action::StopTimer(timer) => {
                if let Some(slot) = self.slot(peer, direction) {
                    slot.timer(timer).at = None;
                }
            }
            Action::Connect => {
                let conn = self.new_conn(peer, direction);
                if let Some(neighbor) = self.neighbor(peer) {
                    let external = neighbor.peer_type != crate::policy::PeerType::Internal;
                    let peer = neighbor.config.clone();
                    self.outputs.push(Output::Connect { conn, peer, external });
                }
            }
            Action::SendOpen => {
                let Self { config, neighbors, progress, .. } = self;
                let Some(Some(neighbor)) = neighbors.get_mut(peer.index()) else { return };
                let mut out = Vec::new();
                neighbor.offer(config, *progress).open().encode(&mut out);
                let slot = neighbor.slot(direction);
                slot.open_received = Vec::new();
                slot.open_sent.clone_from(&out);
                self.queue(peer, direction, out);
            }
            Action::SendKeepalive => {
                let mut out = Vec::new();
                encode_keepalive(&mut out);
                self.queue(peer, direction, out);
            }
            Action::SendNotification(notification) => {
                self.send_notification(peer, direction, notification);
            }
            Action::Close => self.close(peer, direction),
            Action::Reset => self.reset(now, peer, direction),
            Action::Up => self.session_up(now, peer, direction),
            Action::Down => self.session_down(now, peer, direction),
            // Carried out by the caller, who has the message.
            Action::Update | Action::Refresh => {}
        }
    }

    fn send_notification(&mut self, peer: PeerId, direction: Direction, n: Notification) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let restart = neighbor.slot(direction).negotiated.as_ref().and_then(|it| it.restart);
        let keeps = restart.is_some_and(|r| r.notification);
        let n = if keeps && n.is_lasting() { n.hard_reset() } else { n };
        tracing::info!(peer = neighbor.config.name, notification = %n, "NOTIFICATION sent");
        let mut out = Vec::new();
        n.encode(&mut out);
        let slot = neighbor.slot(direction);
        slot.out.cut();
        slot.reason = Some(DownReason::NotificationSent(n));
        self.queue(peer, direction, out);
    }

    fn close(&mut self, peer: PeerId, direction: Direction) {
        let Some(slot) = self.slot(peer, direction) else { return };
        slot.received = Vec::new();
        slot.local = None;
        slot.remote = None;
        let last = slot.out.take();
        if let Some(conn) = slot.conn.take() {
            self.connections.remove(&conn);
            self.outputs.push(Output::Close { conn, last });
        }
    }

    /// Stops the connection's timers and plans the next attempt.
    fn reset(&mut self, now: Time, peer: PeerId, direction: Direction) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let slot = neighbor.slot(direction);
        for timer in &mut slot.timers {
            timer.at = None;
        }
        slot.negotiated = None;
        slot.held = false;
        if let Some(reason) = slot.reason.take().filter(|r| !r.is_collision()) {
            neighbor.last_error = Some((now, reason));
            // What fails beside a session says nothing about the next attempt.
            let beside = neighbor.session.is_some();
            neighbor.failures = neighbor.failures.saturating_add(u32::from(!beside));
        }
        self.release_open(peer, direction.other());
        if self.slot(peer, Direction::Outgoing).is_some_and(|s| s.state == State::Idle) {
            self.start_timer(now, peer, Direction::Outgoing, Timer::IdleHold);
        }
    }

    /// Queues messages of one type.
    pub(super) fn queue(&mut self, peer: PeerId, direction: Direction, octets: Vec<u8>) {
        let clock = self.clock;
        let Some(neighbor) = self.neighbor(peer) else { return };
        let mut messages = 0;
        let mut kind = None;
        let mut rest = &octets[..];
        while let Ok(Some(message)) = frame(rest, MAX_EXTENDED_LEN) {
            messages += 1;
            kind.get_or_insert(message.kind);
            rest = &rest[message.len..];
        }
        if let Some(kind) = kind {
            neighbor.note_sent(clock, kind, messages, &octets);
        }
        let slot = neighbor.slot(direction);
        let was_empty = slot.out.len() == 0;
        slot.out.push(octets.into());
        if let Some(conn) = slot.conn
            && was_empty
        {
            self.outputs.push(Output::Write(conn));
        }
    }
}

#[cfg(test)]
impl Core {
    /// IPv4 and IPv6 prefixes, attribute sets and next hop sets stored.
    pub(crate) fn leftovers(&self) -> [usize; 4] {
        let rib = &self.rib;
        [rib.v4.len(), rib.v6.len(), rib.attrs.len(), rib.next_hops.len()]
    }
}
