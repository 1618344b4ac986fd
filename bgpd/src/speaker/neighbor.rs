//! A neighbor: its connections, its session and what it announced.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};

use super::arrival::Arrival;
use super::bfd::Watch;
use super::core::{ConnId, Time};
use super::history::History;
use super::status::{Counters, DownReason, NotificationCounts, Progress};
use crate::config::{Config, PeerConfig};
use crate::export::Departure;
use crate::policy::{Compiled, Library, PeerType, Policy};
use crate::rib::{Bitmap, PeerId};
use crate::session::{Direction, Negotiated, Offer, OwnRestart, State, Timer};
use crate::wire::{Family, FamilySet, Frame, HEADER_LEN, MessageType, NextHop};

/// How long attempts to connect fail until nobody is there: longer than a speaker is gone while its
/// process is replaced, as that of another node may be at the same time as ours.
const AWAY: Duration = Duration::from_secs(10);

/// A timer with its place in the queue of timers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deadline {
    /// When it expires; None: it does not run.
    pub(super) at: Option<Time>,
    /// The entry in the queue that will look at it, never later than `at`.
    pub(super) queued: Option<Time>,
}

/// Octets on their way to a connection.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    queue: VecDeque<Bytes>,
    /// Octets of the first one are gone already.
    started: bool,
    len: usize,
}

impl Outgoing {
    pub(super) fn push(&mut self, octets: Bytes) {
        self.len += octets.len();
        self.queue.push_back(octets);
    }

    /// Octets not sent yet.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// What to send next, in order.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.queue.iter().map(|chunk| &**chunk)
    }

    /// Notes that the first `n` octets are gone.
    pub(super) fn advance(&mut self, mut n: usize) {
        self.len = self.len.saturating_sub(n);
        while let Some(first) = self.queue.front_mut() {
            if n < first.len() {
                self.started |= n > 0;
                first.advance(n);
                return;
            }
            n -= first.len();
            self.queue.pop_front();
            self.started = false;
        }
    }

    /// Drops what is queued behind a chunk that is partly gone, for a NOTIFICATION to follow.
    /// A chunk may hold many messages; the receiver still sees whole ones.
    pub(super) fn cut(&mut self) {
        self.queue.truncate(usize::from(self.started));
        self.len = self.queue.iter().map(Bytes::len).sum();
    }

    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.len = 0;
        self.started = false;
        self.queue.drain(..).collect()
    }
}

/// One of the two connections a neighbor may have while it is decided which one stays.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) conn: Option<ConnId>,
    pub(super) local: Option<SocketAddr>,
    pub(super) remote: Option<SocketAddr>,
    /// Our OPEN, header included; empty before it is sent.
    pub(super) open_sent: Vec<u8>,
    /// The peer's OPEN, header included; empty before it has come.
    pub(super) open_received: Vec<u8>,
    /// From OpenConfirm on.
    pub(super) negotiated: Option<Negotiated>,
    /// The start of a message whose end is still to come; all that has come, if it is held.
    pub(super) received: Vec<u8>,
    /// An OPEN waits for the fate of the other connection.
    pub(super) held: bool,
    pub(super) out: Outgoing,
    pub(super) timers: [Deadline; 5],
    /// Why the connection goes down, once it is known.
    pub(super) reason: Option<DownReason>,
}

impl Slot {
    pub(super) fn timer(&mut self, timer: Timer) -> &mut Deadline {
        &mut self.timers[Self::place(timer)]
    }

    const fn place(timer: Timer) -> usize {
        match timer {
            Timer::ConnectRetry => 0,
            Timer::Hold => 1,
            Timer::Keepalive => 2,
            Timer::SendHold => 3,
            Timer::IdleHold => 4,
        }
    }
}

/// What holds while the neighbor is Established.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) direction: Direction,
    pub(super) negotiated: Negotiated,
    /// Families disabled by an error in their NLRI (RFC 7606).
    pub(super) disabled: FamilySet,
    /// End-of-RIB received.
    pub(super) received_end: FamilySet,
    /// End-of-RIB sent.
    pub(super) sent_end: FamilySet,
    /// The peer sends its routes again, and has not said yet that these were all (RFC 7313).
    pub(super) refreshing: FamilySet,
    /// It was said that the peer sends malformed UPDATEs: more of them are counted, not said again.
    pub(super) complained: bool,
}

/// A neighbor.
#[derive(Debug)]
pub(super) struct Neighbor {
    pub(super) id: PeerId,
    /// With the address and interface where it is now.
    pub(super) config: Arc<PeerConfig>,
    /// As it was configured.
    pub(super) given: Arc<PeerConfig>,
    pub(super) import: Arc<Compiled>,
    pub(super) export: Arc<Compiled>,
    /// What is done to routes beside these.
    pub(super) arrival: Arrival,
    pub(super) departure: Departure,
    pub(super) peer_type: PeerType,
    pub(super) local_asn: u32,
    /// The AS number of the last session.
    pub(super) learned_asn: Option<u32>,
    /// The listen range that it came by, by name; None: it is configured.
    pub(super) range: Option<String>,
    pub(super) slots: [Slot; 2],
    pub(super) session: Option<Session>,
    /// The destinations it has paths to, by family.
    pub(super) routes: [Bitmap; 2],
    /// How many paths it announced, by family.
    pub(super) received: [usize; 2],
    /// How many of them may be used, by family.
    pub(super) accepted: [usize; 2],
    /// How many of them are marked as stale, by family.
    pub(super) stale_paths: [usize; 2],
    /// Families with paths kept over a restart of the peer.
    pub(super) stale: FamilySet,
    /// Of these, those that are kept for long (RFC 9494).
    pub(super) long_lived: FamilySet,
    /// For how many seconds they are kept so, by family; as of the last session.
    pub(super) long_lived_times: [u32; 2],
    /// Until stale paths are removed, or kept for long; by family.
    pub(super) stale_timers: [Deadline; 2],
    /// Until paths that a refresh did not bring are removed though it has not ended.
    pub(super) refresh_timer: Deadline,
    /// Since when it is known.
    pub(super) added: Time,
    /// Since when the state is what it is.
    pub(super) since: Time,
    /// Why the last session ended.
    pub(super) last_down: Option<(Time, DownReason)>,
    /// Why the last attempt failed.
    pub(super) last_error: Option<(Time, DownReason)>,
    /// Failures in a row, for the growing pause between attempts.
    pub(super) failures: u32,
    /// Too many prefixes: no session until then; None in it: until the limit is another.
    pub(super) halted: Option<Option<Time>>,
    /// Families of which the limit was warned of.
    pub(super) warned: FamilySet,
    /// What BFD says of the path; None: nothing (yet).
    pub(super) bfd: Option<Watch>,
    /// Until the path has been good for long enough to begin.
    pub(super) bfd_timer: Deadline,
    /// A session was to begin, but the path is not known to be good.
    pub(super) waits_for_bfd: bool,
    /// The first and the latest of the attempts in a row that found nobody to connect to.
    pub(super) unreachable: Option<(Time, Time)>,
    pub(super) counters: Counters,
    pub(super) notifications: NotificationCounts,
    pub(super) history: History,
}

impl Neighbor {
    pub(super) fn new(
        id: PeerId,
        config: Arc<PeerConfig>,
        speaker: &Config,
        policies: &mut Library,
        now: Time,
    ) -> Self {
        let mut neighbor = Self {
            id,
            peer_type: PeerType::External,
            local_asn: 0,
            learned_asn: None,
            range: None,
            import: Arc::default(),
            export: Arc::default(),
            arrival: Arrival::default(),
            departure: Departure::default(),
            config: config.clone(),
            given: config.clone(),
            slots: Default::default(),
            session: None,
            routes: Default::default(),
            received: [0; 2],
            accepted: [0; 2],
            stale_paths: [0; 2],
            stale: FamilySet::default(),
            long_lived: FamilySet::default(),
            long_lived_times: [0; 2],
            stale_timers: Default::default(),
            refresh_timer: Deadline::default(),
            added: now,
            since: now,
            last_down: None,
            last_error: None,
            failures: 0,
            halted: None,
            warned: FamilySet::default(),
            bfd: None,
            bfd_timer: Deadline::default(),
            waits_for_bfd: false,
            unreachable: None,
            counters: Counters::default(),
            notifications: NotificationCounts::default(),
            history: History::default(),
        };
        neighbor.configure(config, speaker, policies);
        neighbor
    }

    /// Takes over a configuration; what follows from it is the caller's business.
    pub(super) fn configure(
        &mut self,
        config: Arc<PeerConfig>,
        speaker: &Config,
        policies: &mut Library,
    ) {
        self.local_asn = config.local_asn(speaker);
        self.peer_type = config.peer_type(speaker);
        let external = self.peer_type == PeerType::External;
        let needs_policy = external && speaker.ebgp_requires_policy.unwrap_or(false);
        let mut policy = |given: &Option<Policy>| match given {
            Some(policy) => policies.policy(policy),
            None if needs_policy => policies.policy(&Policy::reject()),
            None => policies.policy(&Policy::accept()),
        };
        self.import = policy(&config.import);
        self.export = policy(&config.export);
        let local = self.local_asn;
        self.learned_asn = self.learned_asn.filter(|asn| config.asn.admits(*asn, local));
        self.given = config.clone();
        self.config = match &config.interface {
            // Where it is has not changed by that.
            Some(interface) if self.config.interface.as_ref() == Some(interface) => {
                let address = if config.address.is_unspecified() {
                    self.config.address
                } else {
                    config.address
                };
                let scope_id = self.config.scope_id;
                Arc::new(PeerConfig { address, scope_id, ..(*config).clone() })
            }
            _ => config,
        };
        self.know_as(speaker);
    }

    /// What depends on its AS number, as far as that is known.
    fn know_as(&mut self, speaker: &Config) {
        let (config, sort, asn) = (&*self.config, self.peer_type, self.asn().unwrap_or(0));
        self.arrival = Arrival::of(config, speaker, sort, self.local_asn, asn);
        self.departure = Departure::of(config, speaker, sort, asn);
    }

    /// Its OPEN has told its AS number.
    pub(super) fn learn_as(&mut self, asn: u32, speaker: &Config) {
        self.learned_asn = Some(asn);
        self.know_as(speaker);
    }

    /// Its AS number, if it can be only one or has been Established.
    pub(super) fn asn(&self) -> Option<u32> {
        self.config.asn.number(self.local_asn).or(self.learned_asn)
    }

    pub(super) const fn slot(&mut self, direction: Direction) -> &mut Slot {
        &mut self.slots[direction.index()]
    }

    /// Counts a message that has come, and keeps its beginning; of an OPEN all.
    pub(super) fn note_received(&mut self, now: Time, direction: Direction, message: &Frame<'_>) {
        self.counters.count(message.kind, true, 1);
        self.history.received(now, message.kind, message.body);
        if message.kind == MessageType::Notification {
            self.notifications.count(true, message.body.first());
        }
        if message.kind == MessageType::Open {
            self.slot(direction).open_received = message.octets();
        }
    }

    /// Counts messages of one type that are queued together, and keeps the beginning.
    pub(super) fn note_sent(
        &mut self,
        now: Time,
        kind: MessageType,
        messages: usize,
        octets: &[u8],
    ) {
        self.counters.count(kind, false, messages as u64);
        self.history.sent(now, kind, messages, octets);
        if kind == MessageType::Notification {
            self.notifications.count(false, octets.get(HEADER_LEN));
        }
    }

    /// The state of the neighbor as a whole: that of the connection that is furthest.
    pub(super) fn state(&self) -> State {
        self.slots[0].state.max(self.slots[1].state)
    }

    /// What we offer on a new connection.
    pub(super) fn offer(&self, speaker: &Config, progress: Progress) -> Offer {
        let gr = &speaker.graceful_restart;
        let time = self.config.restart_time.unwrap_or(gr.restart_time);
        let families: FamilySet = self.config.families.iter().copied().collect();
        let none = FamilySet::default();
        Offer {
            asn: self.local_asn,
            peer_as: self.config.asn.clone(),
            router_id: speaker.router_id,
            hold_time: self.config.hold_time,
            keepalive_time: self.config.keepalive_time,
            families,
            extended_next_hop: self.config.extended_next_hop(),
            receive_paths: if self.config.add_paths.receive { families } else { none },
            send_paths: if self.config.add_paths.send.is_some() { families } else { none },
            role: self.config.role,
            role_strict: self.config.role_strict,
            restart: gr.enabled.then_some(OwnRestart {
                restarting: progress.restarting && !progress.converged,
                notification: gr.notification,
                // What we told it in an earlier session, of this process or of the one that it
                // follows, was not undone since: also to one that comes when nobody is waited for
                // any more.
                forwarding: progress.restarting || self.counters.established > 0,
                time,
            }),
            long_lived: speaker.long_lived_graceful_restart.time(),
        }
    }

    /// The pause before the next attempt: half a second, doubling up to the configured time. None:
    /// there is none.
    pub(super) fn pause(&self, now: Time) -> Option<Duration> {
        if self.is_halted(now) {
            return self.halted.flatten().map(|until| until.saturating_sub(now));
        }
        let most = Duration::from_secs(self.config.connect_retry_time.into());
        let pause = Duration::from_millis(500).saturating_mul(1 << self.failures.min(16));
        Some(pause.min(most))
    }

    /// When the next attempt to connect begins, if one is planned.
    pub(super) fn next_attempt(&self) -> Option<Time> {
        let slot = &self.slots[Direction::Outgoing.index()];
        slot.timers[Slot::place(Timer::IdleHold)].at.filter(|_| slot.state == State::Idle)
    }

    /// Notes that an attempt to connect was refused, or not answered.
    pub(super) fn found_nobody(&mut self, now: Time) {
        let first = self.unreachable.map_or(now, |(first, _)| first);
        self.unreachable = Some((first, now));
    }

    /// Whether attempts to connect have found nobody for longer than a restart takes.
    pub(super) fn is_away(&self) -> bool {
        self.unreachable.is_some_and(|(first, latest)| latest - first >= AWAY)
    }

    /// Families whose routes are exchanged now.
    pub(super) fn families(&self) -> FamilySet {
        let mut families = FamilySet::default();
        if let Some(session) = &self.session {
            families = session.negotiated.families;
            for family in session.disabled.iter() {
                families.remove(family);
            }
        }
        families
    }

    /// The connection of the session.
    pub(super) fn session_slot(&mut self) -> Option<&mut Slot> {
        let direction = self.session.as_ref()?.direction;
        Some(self.slot(direction))
    }

    /// The interface of a link-local session; 0 for others.
    pub(super) fn interface(&self) -> u32 {
        self.config.scope_id
    }

    /// Our address in routes of a family.
    pub(super) fn own_next_hop(&self, family: Family) -> Option<NextHop> {
        let session = self.session.as_ref()?;
        let local = self.slots[session.direction.index()].local.map(|a| a.ip());
        let v4 = self.config.next_hop_v4.map(IpAddr::V4).or(local.filter(IpAddr::is_ipv4));
        let v6 = || {
            let given = self.config.next_hop_v6.map(IpAddr::V6);
            let addr = given.or(local.filter(IpAddr::is_ipv6))?;
            let link_local = match local {
                // RFC 2545 section 3: the peer shares the link.
                Some(IpAddr::V6(v6)) if v6.is_unicast_link_local() && addr != v6 => Some(v6),
                _ => None,
            };
            Some(NextHop { addr, link_local })
        };
        match (family, v4) {
            (Family::Ipv4Unicast, Some(addr)) => Some(NextHop::new(addr)),
            (Family::Ipv4Unicast, None) if !session.negotiated.extended_next_hop => None,
            (Family::Ipv4Unicast, None) | (Family::Ipv6Unicast, _) => v6(),
        }
    }
}
