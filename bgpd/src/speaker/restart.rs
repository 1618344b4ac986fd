//! Graceful restart (RFC 4724): paths kept while a peer restarts, and the time after our own start.

use super::core::Core;
use super::neighbor::Neighbor;
use crate::rib::{Path, PeerId, RibPrefix, with_family};
use crate::session::Direction;
use crate::wire::Family;

impl Core {
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
        with_family!(family, P => for dest in &routes {
            for path in P::table_mut(&mut self.rib).paths_mut(*dest, peer) {
                path.set_stale(true);
            }
        });
        routes.len()
    }

    /// Removes the paths that a restarted peer did not announce again.
    pub(super) fn sweep(&mut self, peer: PeerId, family: Family) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        if neighbor.stale.contains(family) {
            neighbor.stale.remove(family);
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

    pub(super) fn sweep_all(&mut self, peer: PeerId) {
        for family in Family::ALL {
            self.sweep(peer, family);
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

    // ------------------------------------------------------------------------------------------
    // The time after start

    /// Looks whether all neighbors have said what they know (RFC 4724 section 4.1).
    ///
    /// One that restarts as well waits for us, so its routes are not waited for before ours are
    /// selected and told. But until it has told its own, those that the kernel still has from
    /// before are not known to be gone.
    pub(super) fn check_convergence(&mut self) {
        if self.progress.converged {
            return;
        }
        let (mut heard_any, mut select, mut converged) = (false, true, true);
        for neighbor in self.neighbors.iter().flatten() {
            let Some(session) = &neighbor.session else {
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
