//! What BFD says of the paths to neighbors, and what BGP makes of it (RFC 5882).
//!
//! ```text
//!   Up -> Down, the path failed       the BGP session ends with Cease/BFD Down (RFC 9384), its
//!                                     routes go at once
//!   ... while the peer restarts       its routes stay, unless the peer's BFD is independent of the
//!                                     control plane that restarts (RFC 5882 section 4.3)
//!   Up -> Down, by the peer's         nothing: it says nothing about the path (section 3.2)
//!     operator, or begun anew
//!   never was Up                      nothing; in strict mode BGP does not begin
//! ```
//!
//! Graceful restart does not keep the routes of a session that BFD ends: nothing has announced a
//! restart, so the path is taken for what it looks like (RFC 5882 section 4.3.2.2). Where the
//! control plane of a peer is restarted or dies while its system goes on, the system closes the BGP
//! connection long before BFD misses its packets, and what follows finds the restart in progress.

use std::collections::BTreeMap;
use std::time::Duration;

use super::core::{Core, Time};
use super::neighbor::Neighbor;
use super::timers::TimerKey;
use crate::bfd::{Key, State as BfdState, Status, Wanted};
use crate::policy::PeerType;
use crate::rib::PeerId;
use crate::session::{Direction, Event, State};
use crate::wire::{Family, Notification, cease};

/// A BFD session as it was last told of.
#[derive(Debug)]
pub(super) struct Watch {
    key: Key,
    status: Status,
    at: Time,
}

impl Watch {
    /// As it is now, as far as is known.
    pub(super) fn status(&self, now: Time) -> Status {
        let since = self.status.since + now.saturating_sub(self.at);
        Status { since, ..self.status.clone() }
    }

    /// When the path will have been good for so long; None: it is not.
    fn good_from(&self, hold_down: Duration) -> Option<Time> {
        match self.status.state {
            BfdState::Up => Some((self.at + hold_down).saturating_sub(self.status.since)),
            // Turned off over there: BGP is to go on as without it.
            _ if self.status.remote_state == BfdState::AdminDown => Some(Time::ZERO),
            _ => None,
        }
    }
}

impl Neighbor {
    fn bfd_session(&self) -> Option<(Key, Wanted)> {
        let wanted = self.config.bfd_session(self.peer_type != PeerType::Internal);
        wanted.filter(|_| self.config.shutdown.is_none() && self.is_placed())
    }

    /// From when on a session may begin; None: not as things are.
    fn may_begin(&self) -> Option<Time> {
        let Some(bfd) = self.config.bfd.filter(|bfd| bfd.strict) else { return Some(Time::ZERO) };
        self.bfd.as_ref()?.good_from(Duration::from_secs(bfd.hold_down.into()))
    }

    /// Whether BFD has nothing against a session.
    pub(super) fn path_is_good(&self, now: Time) -> bool {
        self.may_begin().is_some_and(|at| at <= now)
    }
}

impl Core {
    /// The BFD sessions that are wanted, if they may be others than last time.
    pub(crate) fn take_bfd_sessions(&mut self) -> Option<BTreeMap<Key, Wanted>> {
        let sessions = self.neighbors.iter().flatten().filter_map(Neighbor::bfd_session);
        std::mem::take(&mut self.bfd_changed).then(|| sessions.collect())
    }

    /// Of each neighbor that is watched over, by name, its BFD session.
    pub(crate) fn bfd_keys(&self) -> BTreeMap<String, Key> {
        let watched = self.neighbors.iter().flatten();
        watched.filter_map(|n| Some((n.config.name.clone(), n.bfd_session()?.0))).collect()
    }

    /// A BFD session has changed, or has begun. Changes may be left out where the last one tells
    /// them all: what was missed shows in the counters.
    pub(crate) fn bfd(&mut self, now: Time, key: &Key, status: &Status) {
        let peers: Vec<PeerId> = self
            .neighbors
            .iter()
            .flatten()
            .filter(|n| n.bfd_session().is_some_and(|(its, _)| its == *key))
            .map(|n| n.id)
            .collect();
        for peer in peers {
            self.bfd_of(now, peer, Watch { key: *key, status: status.clone(), at: now });
        }
    }

    fn bfd_of(&mut self, now: Time, peer: PeerId, watch: Watch) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let Status { state, diagnostic, failures, local_discriminator, .. } = watch.status;
        let before = neighbor.bfd.replace(watch).map(|watch| watch.status);
        // Another number: another session, which counts anew.
        let before = before.filter(|old| old.local_discriminator == local_discriminator);
        if before.as_ref().is_none_or(|old| old.state != state) {
            let name = &neighbor.config.name;
            tracing::info!(peer = name, %state, %diagnostic, "BFD");
        }
        if failures > before.map_or(0, |old| old.failures) {
            self.path_failed(now, peer);
        }
        self.begin_if_path_is_good(now, peer);
    }

    fn path_failed(&mut self, now: Time, peer: PeerId) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let strict = neighbor.config.bfd.is_some_and(|bfd| bfd.strict);
        // RFC 5882 section 4.3: a BFD that shares the fate of a restarting control plane shows
        // nothing but that it restarts.
        let independent =
            neighbor.bfd.as_ref().is_some_and(|watch| watch.status.control_plane_independent);
        if neighbor.session.is_none() && independent && !neighbor.stale.is_empty() {
            let name = &neighbor.config.name;
            tracing::info!(peer = name, "it restarts, and does not forward: no routes are kept");
            for family in Family::ALL {
                self.sweep(peer, family);
            }
        }
        let error = Notification::cease(cease::BFD_DOWN, "BFD found the path broken");
        for direction in Direction::BOTH {
            let state = self.slot(peer, direction).map_or(State::Idle, |slot| slot.state);
            // An attempt to connect finds out by itself, but is not made in strict mode.
            if state >= State::OpenSent || strict {
                self.event(now, peer, direction, &Event::Stop(Some(error.clone())));
            }
        }
    }

    /// Whether BFD keeps a neighbor from having a session now; it begins as soon as it may.
    pub(super) fn waits_for_bfd(&mut self, now: Time, peer: PeerId) -> bool {
        let Some(neighbor) = self.neighbor(peer) else { return false };
        neighbor.waits_for_bfd = !neighbor.path_is_good(now);
        neighbor.waits_for_bfd
    }

    /// Begins what waited for BFD, or plans to.
    pub(super) fn begin_if_path_is_good(&mut self, now: Time, peer: PeerId) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        if !neighbor.waits_for_bfd {
            return;
        }
        match neighbor.may_begin() {
            Some(at) if at <= now => {
                neighbor.waits_for_bfd = false;
                self.start(now, peer, Direction::Outgoing);
            }
            Some(at) => self.arm(TimerKey::Bfd(peer), at),
            None => neighbor.bfd_timer.at = None,
        }
    }

    /// Looks at all neighbors after a change of the configuration.
    pub(super) fn bfd_configured(&mut self, now: Time) {
        self.bfd_changed = true;
        for at in 1..self.neighbors.len() {
            let Some(neighbor) = &mut self.neighbors[at] else { continue };
            let key = neighbor.bfd_session().map(|(key, _)| key);
            neighbor.bfd.take_if(|watch| Some(watch.key) != key);
            let peer = neighbor.id;
            self.begin_if_path_is_good(now, peer);
        }
    }
}
