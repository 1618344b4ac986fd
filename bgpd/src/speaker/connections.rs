//! Connections, as the driver tells of them: made, broken, their octets in and out.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::Arc;

use super::core::{ConnId, Core, Time};
use super::neighbor::Outgoing;
use super::status::DownReason;
use super::timers::TimerKey;
use crate::config::PeerConfig;
use crate::rib::PeerId;
use crate::session::{Direction, Event, State, Timer};
use crate::wire::{MAX_EXTENDED_LEN, MAX_LEN, MessageType, frame};

impl Core {
    /// A peer has connected, by way of an interface, if that is known; None if no neighbor wants
    /// the connection.
    pub(crate) fn accepted(
        &mut self,
        now: Time,
        remote: SocketAddr,
        local: SocketAddr,
        interface: Option<&str>,
    ) -> Option<(ConnId, Arc<PeerConfig>)> {
        self.clock = now;
        let (ip, scope) = canonical(remote);
        let candidates = self.neighbors.iter().flatten().filter(|n| n.answers_to(ip, scope));
        // Several neighbors of one address differ by ours.
        let known = candidates
            .filter(|n| n.config.source_address.is_none_or(|s| s == canonical(local).0))
            .max_by_key(|n| (n.config.source_address.is_some(), Reverse(n.state())));
        let id = match known {
            Some(neighbor) => neighbor.id,
            None => self.admit(now, ip, scope, interface)?,
        };
        if !self.is_way(now, id, interface) {
            return None;
        }
        self.settle(now, id, ip);
        let neighbor = self.neighbors.get(id.index())?.as_ref()?;
        let (id, config) = (neighbor.id, neighbor.config.clone());
        if config.shutdown.is_some() || neighbor.is_halted(now) || !neighbor.path_is_good(now) {
            return None;
        }
        let slot = &neighbor.slots[Direction::Incoming.index()];
        match slot.state {
            State::Idle | State::Active => {}
            // The peer has opened a new connection before the old one got anywhere: it has
            // forgotten that one.
            State::Connect | State::OpenSent => {
                self.event(now, id, Direction::Incoming, &Event::CollisionDump);
            }
            // Here the old one may be the better one.
            State::OpenConfirm => return None,
            State::Established => {}
        }
        if self.neighbor(id).is_some_and(|n| n.session.is_some()) {
            // RFC 4271 section 6.8: a connection beside an Established one is closed. But a peer
            // with graceful restart that connects again may have restarted (RFC 4724 section 5).
            // A connection alone shows nothing: the session goes on until the new one is up.
            if !self.restartable(id) {
                return None;
            }
            self.make_room(id);
        }
        self.event(now, id, Direction::Incoming, &Event::Start { passive: true });
        let conn = self.new_conn(id, Direction::Incoming);
        self.open(now, conn, local, remote);
        Some((conn, config))
    }

    /// Whether it matters by which interface connections come in.
    pub(crate) fn binds_to_interfaces(&self) -> bool {
        let ranges = self.config.listen_ranges.iter().map(|range| &range.peer);
        let mut peers = ranges.chain(self.peers().map(|peer| &**peer));
        peers.any(|peer| peer.source_interface.is_some())
    }

    /// Whether a connection of a neighbor may come in by an interface.
    fn is_way(&mut self, now: Time, peer: PeerId, interface: Option<&str>) -> bool {
        let Some(neighbor) = self.neighbor(peer) else { return false };
        let Some(wanted) = neighbor.config.source_interface.as_deref() else { return true };
        if interface == Some(wanted) {
            return true;
        }
        if neighbor.session.is_none() {
            let by = interface.unwrap_or("one that is not known");
            let why = format!("{wanted}: a connection came in by another: {by}");
            neighbor.last_error = Some((now, DownReason::Link(why)));
        }
        false
    }

    /// An [`Output::Connect`] succeeded. False: nobody wants the connection any more.
    pub(crate) fn connected(
        &mut self,
        now: Time,
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> bool {
        self.clock = now;
        self.open(now, conn, local, remote);
        self.connections.contains_key(&conn)
    }

    /// Moves a session on a connection that the peer opened out of the place where its next one
    /// goes. The other place is idle: no connection is opened beside a session.
    fn make_room(&mut self, peer: PeerId) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let Some(session) = &mut neighbor.session else { return };
        if session.direction == Direction::Outgoing {
            return;
        }
        session.direction = Direction::Outgoing;
        let mut slot = std::mem::take(neighbor.slot(Direction::Incoming));
        let running = Timer::ALL.map(|timer| (timer, std::mem::take(slot.timer(timer)).at));
        let conn = slot.conn;
        *neighbor.slot(Direction::Outgoing) = slot;
        if let Some(conn) = conn {
            self.connections.insert(conn, (peer, Direction::Outgoing));
        }
        for (timer, at) in running {
            if let Some(at) = at {
                self.arm(TimerKey::Slot(peer, Direction::Outgoing, timer), at);
            }
        }
    }

    fn open(&mut self, now: Time, conn: ConnId, local: SocketAddr, remote: SocketAddr) {
        let Some(&(peer, direction)) = self.connections.get(&conn) else { return };
        let Some(slot) = self.slot(peer, direction) else { return };
        let unmapped = |a: SocketAddr| SocketAddr::new(canonical(a).0, a.port());
        slot.local = Some(unmapped(local));
        slot.remote = Some(unmapped(remote));
        if let Some(neighbor) = self.neighbor(peer) {
            neighbor.unreachable = None;
        }
        self.event(now, peer, direction, &Event::Connected);
    }

    /// An [`Output::Connect`] failed.
    pub(crate) fn connect_failed(&mut self, now: Time, conn: ConnId, error: &str) {
        if let Some(&(peer, _)) = self.connections.get(&conn)
            && let Some(neighbor) = self.neighbor(peer)
        {
            neighbor.found_nobody(now);
        }
        self.closed(now, conn, error);
    }

    /// A connection was closed by the peer or broke.
    pub(crate) fn closed(&mut self, now: Time, conn: ConnId, error: &str) {
        self.clock = now;
        let Some(&(peer, direction)) = self.connections.get(&conn) else { return };
        self.reason(peer, direction, DownReason::ConnectionLost(error.to_owned()));
        self.event(now, peer, direction, &Event::ConnectionFailed);
    }

    /// Octets have come.
    pub(crate) fn received(&mut self, now: Time, conn: ConnId, octets: &[u8]) {
        self.clock = now;
        let Some(&(peer, direction)) = self.connections.get(&conn) else { return };
        let Some(slot) = self.slot(peer, direction) else { return };
        if slot.held {
            slot.received.extend_from_slice(octets);
            // Before our KEEPALIVE there is nothing to say after an OPEN but a KEEPALIVE or two.
            if slot.received.len() > 2 * MAX_LEN {
                self.event(now, peer, direction, &Event::CollisionDump);
            }
            return;
        }
        let mut kept = std::mem::take(&mut slot.received);
        let input = if kept.is_empty() {
            octets
        } else {
            kept.extend_from_slice(octets);
            &kept
        };
        let mut at = 0;
        let rest = loop {
            // A message may have ended the connection.
            if !self.connections.contains_key(&conn) {
                return;
            }
            let extended = self
                .slot(peer, direction)
                .is_some_and(|slot| slot.negotiated.as_ref().is_some_and(|n| n.extended_messages));
            let max = if extended { MAX_EXTENDED_LEN } else { MAX_LEN };
            match frame(&input[at..], max) {
                Ok(Some(message)) => {
                    if message.kind == MessageType::Open
                        && self.hold_open(peer, direction, message.body)
                    {
                        break &input[at..];
                    }
                    at += message.len;
                    self.message(now, peer, direction, &message);
                }
                Ok(None) => break &input[at..],
                Err(error) => {
                    self.event(now, peer, direction, &Event::Error(error));
                    return;
                }
            }
        };
        if !rest.is_empty() {
            let rest = rest.to_vec();
            if let Some(slot) = self.slot(peer, direction) {
                slot.received = rest;
            }
        }
    }

    /// What waits to be sent on a connection.
    pub(crate) fn outgoing(&self, conn: ConnId) -> Option<&Outgoing> {
        let (peer, direction) = self.connections.get(&conn)?;
        let neighbor = self.neighbors.get(peer.index())?.as_ref()?;
        Some(&neighbor.slots[direction.index()].out)
    }

    /// So many octets of [`Core::outgoing`] are gone.
    pub(crate) fn sent(&mut self, now: Time, conn: ConnId, octets: usize) {
        let Some(&(peer, direction)) = self.connections.get(&conn) else { return };
        let Some(slot) = self.slot(peer, direction) else { return };
        slot.out.advance(octets);
        if slot.out.len() == 0 {
            slot.timer(Timer::SendHold).at = None;
        } else if octets > 0 {
            self.start_timer(now, peer, direction, Timer::SendHold);
        }
    }
}

/// The address without the IPv4-mapped form that a dual-stack socket shows, and its interface.
fn canonical(addr: SocketAddr) -> (std::net::IpAddr, u32) {
    let scope = match addr {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    (addr.ip().to_canonical(), scope)
}
