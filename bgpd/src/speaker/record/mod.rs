//! A run on record: everything that came into the core, in order and with its time, and digests of
//! what it answered. [`super::replay`] runs it again.
//!
//! ```text
//!   driver ──▶ Recorded ──▶ Core
//!                 │ inputs before, outcomes after the call
//!                 ▼
//!              Journal ──try_lock──▶ thread ──▶ file
//! ```
//!
//! ```text
//!   recording := "bgpd-rec" format(1 octet, 1) begin (input outcome?)* end?
//!   record    := kind(1 octet) length(number) fields       number: LEB128; text: length, UTF-8
//!   begin     := kind 1; version of bgpd(text), wall clock at time zero in ns since 1970, time in
//!                ns, seed, settings
//!   input     := kinds 2 to 63; ns since the input before, then what its kind has
//!   outcome   := kinds 64 to 127; digests and figures of what the core answered
//!   end       := kind 128; why it ends (1 octet)
//!   settings  := JSON(length, UTF-8), then a number for each secret that the JSON shows as ***
//! ```
//!
//! A format that a program does not know, it does not read; of the same format, kinds may be added
//! but never change. Zeros and half a record at the end are what a power cut leaves, and are cut off.

mod codec;
mod events;
mod input;
mod journal;
mod outcome;
pub(super) mod replay;
mod settings;
#[cfg(test)]
mod tests;

pub use journal::Recording;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::Notify;

use self::input::Input;
pub(crate) use self::journal::Journal;
pub(super) use self::outcome::Decisions;
use self::outcome::{Outcome, Worked};
use super::{Clear, Cleared, ConnId, Core, FibBatch, Output, Report, Time};
use crate::bfd::{Key, Status, Wanted};
use crate::config::{Config, PeerConfig};
use crate::rib::Resolution;
use crate::transport::discovery::Found;
use crate::wire::Notification;

const MAGIC: &[u8; 8] = b"bgpd-rec";
const FORMAT: u8 = 1;
/// The most octets of fields of a record.
const MAX_RECORD: usize = 64 << 20;
/// Kinds of records that are neither inputs nor outcomes.
const BEGIN: u8 = 1;
const END: u8 = 128;

/// Why a recording ends, with its number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// The speaker has ended.
    Finished = 0,
    /// The file would have grown beyond its limit.
    Limit = 1,
    /// The file was too slow.
    Slow = 2,
    /// An event was too large for a record.
    TooLarge = 3,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Finished, Self::Limit, Self::Slow, Self::TooLarge];
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finished => "the speaker has ended",
            Self::Limit => "the file has reached its limit",
            Self::Slow => "the file was too slow",
            Self::TooLarge => "an event was too large",
        })
    }
}

/// A core that may be on record. Only through this can what drives it change it, so nothing goes
/// past the record. The calls are those of the core.
pub(crate) struct Recorded {
    core: Core,
    journal: Option<Box<Journal>>,
}

impl Deref for Recorded {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

/// Tests look inside, and break things.
#[cfg(test)]
impl std::ops::DerefMut for Recorded {
    fn deref_mut(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Recorded {
    /// A speaker that starts now. `wall` is the time since 1970 at time zero.
    pub(crate) fn new(
        config: Config,
        now: Time,
        wall: Duration,
        seed: u64,
        mut journal: Option<Journal>,
    ) -> Self {
        if let Some(journal) = &mut journal {
            journal.begin(now, wall, seed, &config);
            journal.hand_over();
        }
        let mut core = Core::new(config, now, seed);
        core.decisions = journal.as_ref().map(|_| Decisions::default());
        Self { core, journal: journal.map(Box::new) }
    }

    /// What is still recorded to: one that has ended is not paid for any more.
    fn journal(&mut self) -> Option<&mut Journal> {
        self.journal.as_deref_mut().filter(|journal| !journal.is_over())
    }

    fn note(&mut self, now: Time, input: &Input<'_>) {
        if let Some(journal) = self.journal() {
            journal.input(Some(now), input);
        }
    }

    /// Of a call that is not told the time.
    fn note_at_once(&mut self, input: &Input<'_>) {
        if let Some(journal) = self.journal() {
            journal.input(None, input);
        }
    }

    fn outcome(&mut self, outcome: impl FnOnce(&Core) -> Outcome) {
        let Self { core, journal } = self;
        if let Some(journal) = journal.as_mut().filter(|journal| !journal.is_over()) {
            journal.outcome(outcome(core));
        }
    }

    /// Hands the records over to be written, as far as that goes without waiting; returns whether
    /// some are left, and it is to be called again soon.
    pub(crate) fn hand_over(&mut self) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        let left = journal.hand_over();
        if journal.is_over() {
            self.core.decisions = None;
        }
        left
    }

    /// Ends the recording; returns when it is written, or its file hangs.
    pub(crate) fn finish(&mut self) {
        self.journal = None;
        self.core.decisions = None;
    }

    pub(crate) fn apply(&mut self, now: Time, config: Config) -> Report {
        if let Some(journal) = self.journal()
            && let Some(settings) = journal.settings(&config)
        {
            journal.input(Some(now), &Input::Apply(&settings));
        }
        let report = self.core.apply(now, config);
        self.outcome(|_| Outcome::applied(&report));
        report
    }

    pub(crate) fn accepted(
        &mut self,
        now: Time,
        remote: SocketAddr,
        local: SocketAddr,
        interface: Option<&str>,
    ) -> Option<(ConnId, Arc<PeerConfig>)> {
        self.note(now, &Input::Accepted { remote, local, interface });
        let accepted = self.core.accepted(now, remote, local, interface);
        self.outcome(|_| Outcome::Accepted(accepted.as_ref().map(|(conn, _)| *conn)));
        accepted
    }

    pub(crate) fn connected(
        &mut self,
        now: Time,
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> bool {
        self.note(now, &Input::Connected { conn, local, remote });
        let wanted = self.core.connected(now, conn, local, remote);
        self.outcome(|_| Outcome::Connected(wanted));
        wanted
    }

    pub(crate) fn connect_failed(&mut self, now: Time, conn: ConnId, error: &str) {
        self.note(now, &Input::ConnectFailed { conn, error });
        self.core.connect_failed(now, conn, error);
    }

    pub(crate) fn received(&mut self, now: Time, conn: ConnId, octets: &[u8]) {
        self.note(now, &Input::Received { conn, octets });
        self.core.received(now, conn, octets);
    }

    pub(crate) fn closed(&mut self, now: Time, conn: ConnId, error: &str) {
        self.note(now, &Input::Closed { conn, error });
        self.core.closed(now, conn, error);
    }

    pub(crate) fn sent(&mut self, now: Time, conn: ConnId, octets: usize) {
        self.note(now, &Input::Sent { conn, octets });
        self.outcome(|core| Outcome::sent(core.outgoing(conn), octets));
        self.core.sent(now, conn, octets);
    }

    pub(crate) fn tick(&mut self, now: Time, unread: impl Fn(ConnId) -> bool) {
        // Nothing happens but that the clock goes on, as it does with the work that follows.
        if self.journal().is_none() || self.core.next_deadline().is_none_or(|at| at > now) {
            return self.core.tick(now, unread);
        }
        self.note(now, &Input::Tick);
        let waiting = RefCell::new(Vec::new());
        self.core.tick(now, |conn| {
            let unread = unread(conn);
            if unread {
                waiting.borrow_mut().push(conn);
            }
            unread
        });
        let waiting = waiting.into_inner();
        if !waiting.is_empty() {
            self.outcome(|_| Outcome::Unread(waiting));
        }
    }

    pub(crate) fn work(&mut self, now: Time) -> bool {
        self.note(now, &Input::Work);
        let more = self.core.work(now);
        self.outcome(|core| Outcome::Worked(Worked::of(core, more)));
        // The driver asks again at the end of its turn.
        self.hand_over();
        more
    }

    pub(crate) fn take_outputs(&mut self) -> Vec<Output> {
        if self.core.outputs.is_empty() {
            return Vec::new();
        }
        self.note_at_once(&Input::TakeOutputs);
        let outputs = self.core.take_outputs();
        self.outcome(|_| Outcome::outputs(&outputs));
        outputs
    }

    pub(crate) fn take_bfd_sessions(&mut self) -> Option<BTreeMap<Key, Wanted>> {
        if !self.core.bfd_changed {
            return None;
        }
        self.note_at_once(&Input::TakeBfdSessions);
        let sessions = self.core.take_bfd_sessions();
        if let Some(sessions) = &sessions {
            self.outcome(|_| Outcome::bfd_sessions(sessions.keys().map(|key| key.peer)));
        }
        sessions
    }

    pub(crate) fn bfd(&mut self, now: Time, key: &Key, status: &Status) {
        self.note(now, &Input::Bfd(*key, Cow::Borrowed(status)));
        self.core.bfd(now, key, status);
    }

    pub(crate) fn found(&mut self, now: Time, found: &Found) {
        self.note(now, &Input::Found(Cow::Borrowed(found)));
        self.core.found(now, found);
    }

    pub(crate) fn lacks_key(&mut self, now: Time, net: IpNet, why: &str) {
        self.note(now, &Input::LacksKey { net, why });
        self.core.lacks_key(now, net, why);
    }

    /// As [`crate::SpeakerHandle::set_next_hops`].
    pub(crate) fn resolve(&mut self, known: BTreeMap<IpAddr, Resolution>) -> usize {
        self.note_at_once(&Input::Resolve(Cow::Borrowed(&known)));
        let decided = self.core.rib.resolve(known);
        self.outcome(|_| Outcome::Resolved { decided: decided as u64 });
        decided
    }

    pub(crate) fn subscribe(&mut self, wake: Arc<Notify>) -> u64 {
        self.note_at_once(&Input::Subscribe);
        let id = self.core.subscribe(wake);
        self.outcome(|_| Outcome::Subscribed { id });
        id
    }

    pub(crate) fn unsubscribe(&mut self, id: u64) {
        self.note_at_once(&Input::Unsubscribe(id));
        self.core.unsubscribe(id);
    }

    pub(crate) fn take_deltas(&mut self, id: u64, max: usize) -> Option<FibBatch> {
        self.note_at_once(&Input::Take { id, max });
        let batch = self.core.take_deltas(id, max);
        self.outcome(|_| Outcome::batch(batch.as_ref()));
        batch
    }

    pub(crate) fn acknowledge(&mut self, id: u64, sequence: u64) {
        self.note_at_once(&Input::Acknowledge { id, sequence });
        self.core.acknowledge(id, sequence);
    }

    pub(crate) fn station_up(&mut self, address: SocketAddr, wall: Duration) {
        self.note_at_once(&Input::StationUp { address, wall });
        self.core.station_up(address, wall);
    }

    pub(crate) fn station_down(&mut self, address: SocketAddr) {
        self.note_at_once(&Input::StationDown(address));
        self.core.station_down(address);
    }

    pub(crate) fn station_statistics(&mut self, now: Time, address: SocketAddr) {
        self.note(now, &Input::StationStatistics(address));
        self.core.station_statistics(now, address);
    }

    pub(crate) fn station_batch(
        &mut self,
        address: SocketAddr,
    ) -> Result<Option<Vec<u8>>, &'static str> {
        self.note_at_once(&Input::StationBatch(address));
        let batch = self.core.station_batch(address);
        self.outcome(|_| Outcome::messages(batch.as_ref().map(Option::as_deref).map_err(|e| *e)));
        batch
    }

    pub(crate) fn clear(&mut self, now: Time, name: Option<&str>, how: &Clear) -> Vec<Cleared> {
        self.note(now, &Input::Clear { name, how: Cow::Borrowed(how) });
        self.core.clear(now, name, how)
    }

    pub(crate) fn stop_all(&mut self, now: Time, notification: Option<&Notification>) {
        self.note(now, &Input::StopAll(notification.map(Cow::Borrowed)));
        self.core.stop_all(now, notification);
    }

    /// What an MRT file is told is no part of a run: nothing follows from it.
    pub(crate) fn observe(&mut self, wall: Option<Duration>) {
        self.core.observe(wall);
    }

    /// As [`Self::observe`].
    pub(crate) fn take_observed(&mut self) -> Option<(Vec<u8>, u64)> {
        self.core.take_observed()
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Recorded {
    /// The recording, which ends here, of a run that is recorded in memory.
    pub(crate) fn take_recording(&mut self) -> Vec<u8> {
        self.journal.take().map_or_else(Vec::new, |mut journal| {
            journal.end(Ending::Finished);
            journal.take()
        })
    }
}
