//! All sessions of a system: which one a packet is for, whose time has come. Pure, as the sessions are.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::num::NonZeroU32;

use serde::Serialize;

use super::packet::{LEN, Packet, State};
use super::session::{Params, Session};
use super::{Status, Time};

/// The name of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Interface([u8; libc::IF_NAMESIZE]);

impl Interface {
    /// None: no interface can have this name.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let mut octets = [0; libc::IF_NAMESIZE];
        // The last one ends it.
        octets[..libc::IF_NAMESIZE - 1].get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self(octets))
    }

    /// The name with at least one 0 behind it.
    pub(super) const fn octets(&self) -> &[u8; libc::IF_NAMESIZE] {
        &self.0
    }

    pub(crate) fn name(&self) -> &[u8] {
        self.0.split(|octet| *octet == 0).next().unwrap_or_default()
    }
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.name()))
    }
}

impl std::fmt::Debug for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// What tells one session from another before the discriminators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) peer: IpAddr,
    /// The interface; 0: any.
    pub(crate) scope_id: u32,
    /// Our address; None: any.
    pub(crate) local: Option<IpAddr>,
    /// The only interface that packets come and go by; None: whatever the routes say.
    pub(crate) interface: Option<Interface>,
    /// RFC 5883, not RFC 5881.
    pub(crate) multihop: bool,
}

impl Key {
    /// Whether the session's packets may come by the interface that one came by.
    fn is_way(&self, arrival: &Arrival) -> bool {
        self.interface.is_none() || self.interface == arrival.bound
    }
}

/// What a session is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) params: Params,
    /// The least TTL of packets over several hops; on one link it is always 255.
    pub(crate) min_ttl: u8,
}

/// How a packet came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// Its index.
    pub(crate) interface: u32,
    /// It, or the VRF that it is in, where the packet came to a socket that is bound to that.
    pub(crate) bound: Option<Interface>,
    /// Or hop limit.
    pub(crate) ttl: u8,
    /// To the port of RFC 5883.
    pub(crate) multihop: bool,
}

/// Something for the owner of the table to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send a session's packet.
    Send(NonZeroU32, Key, [u8; LEN]),
    /// What a session's clients go by has changed: its state, or what the peer says of itself.
    Changed(Key, NonZeroU32),
    /// The session is no more.
    Gone(NonZeroU32),
}

/// Packets that belong to no session, or must not be believed (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Discarded {
    /// Packets that make no sense.
    pub malformed: u64,
    /// They came from further away than allowed (RFC 5881 section 5).
    pub hops: u64,
    /// For no session that is known.
    pub unknown: u64,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    min_ttl: u8,
    session: Session,
    /// No longer wanted: it goes on until then to say so.
    closing: Option<Time>,
    /// The entry in the queue that will look at it, never later than its deadline.
    queued: Option<Time>,
    /// What its clients know.
    told: Option<(State, State, bool, u64)>,
}

impl Entry {
    fn news(&mut self) -> bool {
        let session = &self.session;
        let now = (
            session.state(),
            session.remote_state(),
            session.remote_independent(),
            session.tally().failures,
        );
        self.told.replace(now) != Some(now)
    }

    fn next_deadline(&self) -> Option<Time> {
        [self.session.next_deadline(), self.closing].into_iter().flatten().min()
    }
}

/// The sessions, by our discriminators.
#[derive(Debug)]
pub(crate) struct Table {
    entries: BTreeMap<NonZeroU32, Entry>,
    by_key: BTreeMap<Key, NonZeroU32>,
    timers: BinaryHeap<Reverse<(Time, NonZeroU32)>>,
    outputs: Vec<Output>,
    random: u64,
    discarded: Discarded,
}

impl Table {
    /// The seed decides about discriminators and jitter.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_key: BTreeMap::new(),
            timers: BinaryHeap::new(),
            outputs: Vec::new(),
            random: seed | 1,
            discarded: Discarded::default(),
        }
    }

    /// Makes these the sessions. Those that were there before go on, with other parameters if need
    /// be; those that are not wanted any more say so and go.
    pub(crate) fn set(&mut self, now: Time, wanted: &BTreeMap<Key, Wanted>) {
        let unwanted: Vec<NonZeroU32> = self
            .by_key
            .iter()
            .filter(|(key, _)| !wanted.contains_key(*key))
            .map(|(_, id)| *id)
            .collect();
        for id in unwanted {
            if let Some(entry) = self.entries.get_mut(&id).filter(|e| e.closing.is_none()) {
                entry.session.disable(now);
                entry.closing = Some(now + entry.session.farewell());
                self.settle(now, id);
            }
        }
        for (key, wanted) in wanted {
            let mut known = self.by_key.get(key).copied();
            // One that has been ended has an end: its clients have forgotten it.
            let closing = |id| self.entries.get(&id).is_some_and(|e| e.closing.is_some());
            if let Some(id) = known.filter(|id| closing(*id)) {
                self.remove(id);
                known = None;
            }
            let id = known.unwrap_or_else(|| self.add(now, *key, wanted));
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.min_ttl = wanted.min_ttl;
                entry.session.configure(now, wanted.params);
                self.settle(now, id);
            }
        }
    }

    /// Says of all sessions, once, that they are disabled, and forgets them.
    pub(crate) fn disable_all(&mut self, now: Time) {
        let all: Vec<NonZeroU32> = self.entries.keys().copied().collect();
        for id in all {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.session.disable(now);
                self.settle(now, id);
            }
            self.remove(id);
        }
    }

    fn add(&mut self, now: Time, key: Key, wanted: &Wanted) -> NonZeroU32 {
        let id = loop {
            let [a, b, c, d, ..] = self.random().to_be_bytes();
            let candidate = NonZeroU32::new(u32::from_be_bytes([a, b, c, d]));
            if let Some(id) = candidate.filter(|id| !self.entries.contains_key(id)) {
                break id;
            }
        };
        let session = Session::new(wanted.params, id, self.random(), now);
        let min_ttl = wanted.min_ttl;
        let entry = Entry { key, min_ttl, session, closing: None, queued: None, told: None };
        self.entries.insert(id, entry);
        self.by_key.insert(key, id);
        id
    }

    fn remove(&mut self, id: NonZeroU32) {
        if let Some(entry) = self.entries.remove(&id) {
            self.by_key.remove(&entry.key);
            self.outputs.push(Output::Gone(id));
        }
    }

    /// Takes in the payload of a UDP packet.
    pub(crate) fn receive(&mut self, now: Time, arrival: &Arrival, octets: &[u8]) {
        if !arrival.multihop && arrival.ttl != u8::MAX {
            self.discarded.hops += 1;
            return;
        }
        let Ok(packet) = Packet::parse(octets) else {
            self.discarded.malformed += 1;
            return;
        };
        let found = match packet.your_discriminator {
            Some(id) => self.entries.get(&id).and_then(|e| e.is_for(arrival).then_some(id)),
            None => self.find(arrival),
        };
        let Some((id, entry)) = found.and_then(|id| Some((id, self.entries.get_mut(&id)?))) else {
            self.discarded.unknown += 1;
            return;
        };
        if arrival.multihop && arrival.ttl < entry.min_ttl {
            self.discarded.hops += 1;
            return;
        }
        entry.session.receive(now, &packet);
        self.settle(now, id);
    }

    /// The session of a packet that does not name one: the one that is most particular about
    /// where its packets come from.
    fn find(&self, arrival: &Arrival) -> Option<NonZeroU32> {
        let peer = arrival.from;
        let first = Key { peer, scope_id: 0, local: None, interface: None, multihop: false };
        let of_peer = self.by_key.range(first..).take_while(|(key, _)| key.peer == arrival.from);
        let fits = |key: &Key| {
            key.multihop == arrival.multihop
                && (key.scope_id == 0 || key.scope_id == arrival.interface)
                && key.local.is_none_or(|local| local == arrival.to)
                && key.is_way(arrival)
        };
        let fitting = of_peer.filter(|(key, _)| fits(key));
        let particular = |key: &Key| (key.local.is_some(), key.interface.is_some(), key.scope_id);
        fitting.max_by_key(|(key, _)| particular(key)).map(|(_, id)| *id)
    }

    /// Lets time pass.
    pub(crate) fn expire(&mut self, now: Time) {
        while let Some(&Reverse((queued, id))) = self.timers.peek()
            && queued <= now
        {
            self.timers.pop();
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if entry.queued != Some(queued) {
                continue;
            }
            entry.queued = None;
            if entry.closing.is_some_and(|at| at <= now) {
                self.remove(id);
                continue;
            }
            entry.session.expire(now);
            self.settle(now, id);
        }
    }

    /// Asks a session what it has to say, and when it wants to be asked again.
    fn settle(&mut self, now: Time, id: NonZeroU32) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        while let Some(packet) = entry.session.transmit(now) {
            self.outputs.push(Output::Send(id, entry.key, packet.encode()));
        }
        if entry.news() {
            self.outputs.push(Output::Changed(entry.key, id));
        }
        let Some(at) = entry.next_deadline() else { return };
        if entry.queued.is_none_or(|queued| queued > at) {
            entry.queued = Some(at);
            self.timers.push(Reverse((at, id)));
        }
    }

    /// When [`Self::expire`] is to be called next.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// What is to be done, in order. The vector is the caller's to empty.
    pub(crate) const fn outputs(&mut self) -> &mut Vec<Output> {
        &mut self.outputs
    }

    /// The sessions that are there, also those that are about to go.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.by_key.keys()
    }

    pub(crate) const fn discarded(&self) -> Discarded {
        self.discarded
    }

    /// All sessions that are wanted.
    pub(crate) fn statuses(&self, now: Time) -> BTreeMap<Key, Status> {
        let wanted = self.entries.values().filter(|e| e.closing.is_none());
        wanted.map(|e| (e.key, e.status(now))).collect()
    }

    pub(crate) fn status(&self, now: Time, id: NonZeroU32) -> Option<Status> {
        Some(self.entries.get(&id)?.status(now))
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl Entry {
    /// On one link a number says it all (RFC 5880 section 6.3). Numbers can be guessed from afar,
    /// so over several hops the address counts too (RFC 5883 section 5).
    fn is_for(&self, arrival: &Arrival) -> bool {
        self.key.multihop == arrival.multihop
            && (!arrival.multihop || self.key.peer == arrival.from)
            && self.key.is_way(arrival)
    }

    fn status(&self, now: Time) -> Status {
        let session = &self.session;
        let (local_discriminator, remote_discriminator) = session.discriminators();
        let tally = session.tally();
        Status {
            state: session.state(),
            remote_state: session.remote_state(),
            diagnostic: session.diagnostic(),
            remote_diagnostic: session.remote_diagnostic(),
            local_discriminator,
            remote_discriminator,
            multihop: self.key.multihop,
            control_plane_independent: session.remote_independent(),
            tx_interval: session.tx_interval(),
            rx_interval: session.rx_interval(),
            detection_time: session.detection_time(),
            packets_received: tally.received,
            packets_sent: tally.sent,
            packets_authenticated: tally.authenticated,
            flaps: tally.flaps,
            failures: tally.failures,
            since: now.saturating_sub(session.since()),
            error: None,
        }
    }
}
