//! Graceful restart (RFC 4724): paths kept while a peer restarts, and the time after our own start.

use std::time::Duration;

use super::core::{Core, Time};
use super::neighbor::{Neighbor, Session};
use super::status::DownReason;
use super::timers::TimerKey;
use crate::config::ListenRange;
use crate::rib::{Path, PeerId, RibPrefix, with_family};
use crate::session::Direction;
use crate::wire::Family;

impl Neighbor {
    /// No path of the family is kept over a restart any more.
    pub(super) fn forget_stale(&mut self, family: Family) {
        self.stale.remove(family);
        self.long_lived.remove(family);
        self.stale_timers[family.index()].at = None;
    }
}

impl Core {
    /// What becomes of a neighbor's paths when its session has ended: those that it asked for are
    /// kept for its restart time, and longer (RFC 4724, RFC 9494), if it may have restarted.
    pub(super) fn keep_routes(
        &mut self,
        now: Time,
        peer: PeerId,
        session: &Session,
        reason: &DownReason,
    ) {
        let enabled = self.config.graceful_restart.enabled;
        let agreed = &session.negotiated;
        let restart = agreed.restart.filter(|_| enabled).unwrap_or_default();
        let long_lived = agreed.long_lived.filter(|_| enabled).unwrap_or_default();
        let keeps = enabled && reason.keeps_routes(restart.notification);
        if let Some(neighbor) = self.neighbor(peer) {
            neighbor.long_lived_times = long_lived.times;
        }
        for family in Family::ALL {
            // Paths that are stale from an earlier restart are not kept a second time.
            if !reason.is_collision() {
                self.sweep(peer, family);
            }
            let covered = restart.families.contains(family);
            let time = if covered { restart.time } else { 0 };
            let wanted = time > 0 || long_lived.times[family.index()] > 0;
            let carried = agreed.families.contains(family) && !session.disabled.contains(family);
            if keeps && wanted && carried {
                self.mark_stale(peer, family);
                if self.neighbor(peer).is_some_and(|n| n.stale.contains(family)) {
                    let end = now + Duration::from_secs(time.into());
                    self.arm(TimerKey::Stale(peer, family), end);
                }
            } else {
                self.purge(peer, family);
            }
        }
    }

    /// A neighbor is back. What its forwarding did not keep is gone (RFC 4724 section 4.2, RFC 9494
    /// section 4.2); for the rest there is a time to announce it again.
    pub(super) fn peer_is_back(&mut self, now: Time, peer: PeerId) {
        let bound = now + Duration::from_secs(self.config.graceful_restart.stale_path_time.into());
        let Some(neighbor) = self.neighbor(peer) else { return };
        let Some(session) = &neighbor.session else { return };
        let restart = session.negotiated.restart.unwrap_or_default();
        let long_lived = session.negotiated.long_lived.unwrap_or_default();
        for family in Family::ALL {
            let Some(neighbor) = self.neighbor(peer) else { return };
            if !neighbor.stale.contains(family) {
                continue;
            }
            let was_long = neighbor.long_lived.contains(family);
            let kept = if was_long { long_lived.forwarding } else { restart.forwarding };
            if !kept.contains(family) {
                self.sweep(peer, family);
                continue;
            }
            // The long time runs on, but not beyond this.
            let end = neighbor.stale_timers[family.index()].at.filter(|_| was_long);
            let end = end.map_or(bound, |end| end.min(bound));
            self.arm(TimerKey::Stale(peer, family), end);
        }
    }

    /// Keeps the paths of a neighbor that is gone, until it has announced them again.
    pub(super) fn mark_stale(&mut self, peer: PeerId, family: Family) {
        if self.mark_paths_stale(peer, family) > 0
            && let Some(neighbor) = self.neighbor(peer)
        {
            neighbor.stale.insert(family);
        }
    }

    /// Marks all paths of a neighbor; returns how many destinations they are for.
    pub(super) fn mark_paths_stale(&mut self, peer: PeerId, family: Family) -> usize {
        let routes = self.routes_of(peer, family);
        let mut marked = 0;
        with_family!(family, P => for dest in &routes {
            for path in P::table_mut(&mut self.rib).paths_mut(*dest, peer) {
                marked += usize::from(!path.is_stale());
                path.set_stale(true);
            }
        });
        if let Some(neighbor) = self.neighbor(peer) {
            neighbor.stale_paths[family.index()] += marked;
        }
        routes.len()
    }

    /// Removes the paths that a restarted peer did not announce again.
    pub(super) fn sweep(&mut self, peer: PeerId, family: Family) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        if neighbor.stale.contains(family) {
            neighbor.forget_stale(family);
            self.remove_stale(peer, family);
        }
    }

    /// Removes the paths that are marked.
    pub(super) fn remove_stale(&mut self, peer: PeerId, family: Family) {
        let mut swept = 0_usize;
        for dest in self.routes_of(peer, family) {
            with_family!(family, P => {
                swept += self.remove_where::<P>(peer, dest, Path::is_stale);
            });
        }
        if let Some(neighbor) = self.neighbor(peer) {
            tracing::info!(peer = neighbor.config.name, %family, swept, "stale paths removed");
        }
    }

    pub(super) fn end_of_rib(&mut self, peer: PeerId, family: Family) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let Some(session) = &mut neighbor.session else { return };
        if !session.received_end.contains(family) {
            session.received_end.insert(family);
            tracing::debug!(peer = neighbor.config.name, %family, "End-of-RIB received");
        }
        self.sweep(peer, family);
    }

    /// Peers without graceful restart need not send End-of-RIB; a KEEPALIVE after the one that
    /// accepted our OPEN comes when they have nothing else to say.
    pub(super) fn implicit_end_of_rib(&mut self, peer: PeerId, direction: Direction) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let Some(session) = &mut neighbor.session else { return };
        if session.direction == direction && session.negotiated.restart.is_none() {
            session.received_end = session.negotiated.families;
        }
    }

    /// See [`SpeakerStatus::restart_window`](super::SpeakerStatus::restart_window).
    pub(super) fn restart_window(&self) -> u32 {
        let general = self.config.graceful_restart;
        if !general.enabled {
            return 0;
        }
        let long_lived = self.config.long_lived_graceful_restart.time().unwrap_or_default();
        let window = |neighbor: &Neighbor| {
            let agreed = &neighbor.session.as_ref()?.negotiated;
            // The capability says that it keeps ours, whether or not it wants its own kept.
            agreed.restart?;
            let time = neighbor.config.restart_time.unwrap_or(general.restart_time);
            let long_lived = if agreed.long_lived.is_some() { long_lived } else { 0 };
            Some(u32::from(time).saturating_add(long_lived))
        };
        self.neighbors.iter().flatten().filter_map(window).max().unwrap_or_default()
    }

    // ------------------------------------------------------------------------------------------
    // The time after start

    /// Looks whether all neighbors have said what they know (RFC 4724 section 4.1).
    ///
    /// One that restarts as well waits for us, so its routes are not waited for before ours are
    /// selected and told. But until it has told its own, those that the kernel still has from
    /// before are not known to be gone.
    ///
    /// Of listen ranges nobody knows who is to come back, nor when the last of them has: after a
    /// restart, they are left the whole deferral time. An End-of-RIB that is told earlier would take
    /// from those that are back what the others are about to announce.
    pub(super) fn check_convergence(&mut self) {
        let open = |range: &ListenRange| range.peer.shutdown.is_none();
        let unknown = self.progress.restarting && self.config.listen_ranges.iter().any(open);
        if self.progress.converged || unknown {
            return;
        }
        let (mut heard_any, mut select, mut converged) = (false, true, true);
        for neighbor in self.neighbors.iter().flatten() {
            let Some(session) = &neighbor.session else {
                if neighbor.range.is_some() {
                    continue; // Nobody is expected from there.
                }
                let absent = neighbor.config.shutdown.is_some() || neighbor.is_away();
                select &= absent;
                converged &= absent;
                continue;
            };
            heard_any = true;
            let heard = session.received_end.intersection(neighbor.families());
            let complete = heard == neighbor.families();
            converged &= complete;
            select &= complete || session.negotiated.restart.is_some_and(|r| r.restarting);
        }
        // Where nobody can be reached, it may be us who are away.
        if !heard_any && self.neighbors.iter().flatten().any(Neighbor::is_away) {
            return;
        }
        if select {
            self.select();
        }
        if converged {
            self.end_deferral();
        }
    }

    /// What was to be waited for is there, or the time for that is over.
    pub(super) fn end_deferral(&mut self) {
        if self.progress.converged {
            return;
        }
        self.progress.converged = true;
        self.deferral.at = None;
        tracing::info!(restarting = self.progress.restarting, "initial convergence is over");
        self.select();
    }

    /// Selects routes from here on, and tells them.
    fn select(&mut self) {
        if self.progress.selecting {
            return;
        }
        self.progress.selecting = true;
        for at in 1..self.neighbors.len() {
            let Some(neighbor) = &self.neighbors[at] else { continue };
            let (peer, families) = (neighbor.id, neighbor.families());
            for family in families.iter() {
                self.join_group(peer, family);
            }
        }
    }
}
