//! Two connections to one neighbor at the same time (RFC 4271 section 6.8): the one that the side with
//! the higher BGP Identifier opened stays.
//!
//! The RFC lets a side close a connection in OpenConfirm that the other has in Established already:
//! its KEEPALIVE is under way. That would cost a session, and by RFC 4724 the routes kept over a
//! restart. So an OPEN that would have this effect waits until the fate of the other connection is
//! known: the KEEPALIVE comes, and the new connection is closed; or the peer closes the old one, and
//! the OPEN is read. Somebody always moves: the peer either keeps what we wait for, or decides by the
//! same rule, which says that it closes it.

use super::core::{Core, Time};
use crate::rib::PeerId;
use crate::session::{Direction, Event, Negotiated, State, negotiate, surviving};
use crate::wire::{Notification, Open};

impl Core {
    /// Whether an OPEN that has come is left unread for now.
    pub(super) fn hold_open(&mut self, peer: PeerId, direction: Direction, body: &[u8]) -> bool {
        let Some(neighbor) = self.neighbor(peer) else { return false };
        let waits = neighbor.slot(direction).state == State::OpenSent
            && neighbor.slot(direction.other()).state == State::OpenConfirm;
        if !waits {
            return false;
        }
        let wins = |negotiated| self.survivor(peer, &negotiated) == Some(direction);
        let wins = self.negotiated(peer, body).is_some_and(|it| it.is_ok_and(wins));
        if wins && let Some(slot) = self.slot(peer, direction) {
            slot.held = true;
        }
        wins
    }

    /// What of a peer waited for the fate of its other connection is read when next there is work.
    pub(super) fn release_open(&mut self, peer: PeerId, direction: Direction) {
        let Some(slot) = self.slot(peer, direction) else { return };
        if std::mem::take(&mut slot.held) {
            let conn = slot.conn;
            self.released.extend(conn);
        }
    }

    /// What an OPEN and ours agree on; None without such a neighbor.
    fn negotiated(&self, peer: PeerId, body: &[u8]) -> Option<Result<Negotiated, Notification>> {
        let neighbor = self.neighbors.get(peer.index())?.as_ref()?;
        let offer = neighbor.offer(&self.config, self.progress);
        Some(Open::parse(body).and_then(|open| negotiate(&offer, &open)))
    }

    /// Which connection stays.
    fn survivor(&self, peer: PeerId, negotiated: &Negotiated) -> Option<Direction> {
        let neighbor = self.neighbors.get(peer.index())?.as_ref()?;
        let remote = (negotiated.router_id, negotiated.asn);
        let local = (self.config.router_id, neighbor.local_asn);
        Some(surviving(local, remote))
    }

    pub(super) fn open_message(
        &mut self,
        now: Time,
        peer: PeerId,
        direction: Direction,
        body: &[u8],
    ) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        if neighbor.slot(direction).state != State::OpenSent {
            self.event(now, peer, direction, &Event::Open);
            return;
        }
        let state = neighbor.slot(direction.other()).state;
        let negotiated = match self.negotiated(peer, body) {
            Some(Ok(negotiated)) => negotiated,
            Some(Err(error)) => {
                self.event(now, peer, direction, &Event::Error(error));
                return;
            }
            None => return,
        };
        match state {
            State::Established if !self.restartable(peer) => {
                self.event(now, peer, direction, &Event::CollisionDump);
                return;
            }
            State::OpenSent | State::OpenConfirm => {
                let Some(survivor) = self.survivor(peer, &negotiated) else { return };
                self.event(now, peer, survivor.other(), &Event::CollisionDump);
                if survivor != direction {
                    return;
                }
            }
            _ => {}
        }
        if let Some(slot) = self.slot(peer, direction) {
            slot.negotiated = Some(negotiated);
        }
        self.event(now, peer, direction, &Event::Open);
    }

    /// Whether a lost session of this neighbor may be a restart (RFC 4724).
    pub(super) fn restartable(&self, peer: PeerId) -> bool {
        let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
        let session = neighbor.and_then(|n| n.session.as_ref());
        session.is_some_and(|s| s.negotiated.restart.is_some_and(|r| !r.families.is_empty()))
    }
}
