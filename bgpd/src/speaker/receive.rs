//! What neighbors say: their messages, and the coming and going of their sessions.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::core::{Core, Time};
use super::neighbor::Session;
use super::status::DownReason;
use crate::export::GroupKey;
use crate::policy::PeerType;
use crate::rib::{AttrId, DestId, Path, PeerId, PeerRank, RibPrefix, with_family};
use crate::session::{Direction, Event, State};
use crate::wire::{Family, FamilySet, Frame, MessageType, Notification, UpdateEncoder, code};

impl Core {
    pub(super) fn message(
        &mut self,
        now: Time,
        peer: PeerId,
        direction: Direction,
        message: &Frame<'_>,
    ) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        neighbor.note_received(now, direction, message);
        if let Some(tap) = &mut self.tap
            && let Some(Some(neighbor)) = self.neighbors.get(peer.index())
        {
            tap.message(now, neighbor, direction, message);
        }
        let Some(neighbor) = self.neighbor(peer) else { return };
        match message.kind {
            MessageType::Open => self.open_message(now, peer, direction, message.body),
            MessageType::Keepalive => {
                self.event(now, peer, direction, &Event::Keepalive);
                self.implicit_end_of_rib(peer, direction);
            }
            MessageType::Notification => {
                let notification = Notification::parse(message.body);
                let name = &neighbor.config.name;
                tracing::info!(peer = name, %notification, "NOTIFICATION received");
                self.reason(peer, direction, DownReason::NotificationReceived(notification));
                self.event(now, peer, direction, &Event::Notification);
            }
            MessageType::Update => {
                let established = neighbor.slot(direction).state == State::Established;
                self.event(now, peer, direction, &Event::Update);
                if established && let Err(error) = self.update(peer, message.body) {
                    self.halt_if_over(now, peer, &error);
                    if error.code == code::UPDATE
                        && let Some(neighbor) = self.neighbor(peer)
                    {
                        neighbor.counters.malformed_resets += 1;
                    }
                    self.event(now, peer, direction, &Event::Error(error));
                }
            }
            MessageType::RouteRefresh => {
                let established = neighbor.slot(direction).state == State::Established;
                self.event(now, peer, direction, &Event::RouteRefresh);
                if established && let Err(error) = self.route_refresh(now, peer, message.body) {
                    self.event(now, peer, direction, &Event::Error(error));
                }
            }
        }
    }

    pub(super) fn session_up(&mut self, now: Time, peer: PeerId, direction: Direction) {
        let other = direction.other();
        match self.slot(peer, other).map(|slot| slot.state) {
            Some(State::Established) => {
                // Accepted only because the peer can restart. It has: it agreed to a session on
                // the new connection. Before that, one whose OPEN was overtaken by the end of a
                // collision would cost the session that stays.
                self.reason(peer, other, DownReason::Reconnected);
                self.event(now, peer, other, &Event::ConnectionFailed);
            }
            Some(_) => self.event(now, peer, other, &Event::CollisionDump),
            None => return,
        }
        let Self { config, neighbors, .. } = self;
        let Some(Some(neighbor)) = neighbors.get_mut(peer.index()) else { return };
        let Some(negotiated) = neighbor.slot(direction).negotiated.clone() else { return };
        neighbor.learn_as(negotiated.asn, config);
        neighbor.failures = 0;
        neighbor.last_error = None;
        neighbor.counters.established += 1;
        tracing::info!(
            peer = neighbor.config.name,
            router_id = %negotiated.router_id,
            hold_time = negotiated.hold_time,
            "session established"
        );
        let rank = PeerRank {
            local: false,
            external: neighbor.peer_type == PeerType::External,
            internal: neighbor.peer_type == PeerType::Internal,
            router_id: negotiated.router_id,
            address: neighbor.config.address,
            interface: neighbor.interface(),
            client: neighbor.config.route_reflector_client,
        };
        let families = negotiated.families;
        neighbor.session = Some(Session {
            direction,
            negotiated,
            disabled: FamilySet::default(),
            received_end: FamilySet::default(),
            sent_end: FamilySet::default(),
            refreshing: FamilySet::default(),
            complained: false,
        });
        self.set_rank(peer, rank);
        self.monitor_up(peer);
        self.peer_is_back(now, peer);
        if self.progress.selecting {
            for family in families.iter() {
                self.join_group(peer, family);
            }
        }
    }

    /// Notes what decision needs to know of a neighbor; its paths are compared anew if that has
    /// changed.
    fn set_rank(&mut self, peer: PeerId, rank: PeerRank) {
        let ranks = &mut self.rib.ranks;
        if ranks.len() <= peer.index() {
            ranks.resize(peer.index() + 1, PeerRank::LOCAL);
        }
        let old = std::mem::replace(&mut ranks[peer.index()], rank);
        if old.router_id != rank.router_id {
            for family in Family::ALL {
                with_family!(family, P => {
                    for dest in self.routes_of(peer, family) {
                        self.rib.touch::<P>(dest);
                    }
                });
            }
        }
    }

    pub(super) fn join_group(&mut self, peer: PeerId, family: Family) {
        if let Some(key) = self.group_key(peer, family) {
            self.groups.join(peer, key, &mut self.rib);
        }
    }

    pub(super) fn group_key(&self, peer: PeerId, family: Family) -> Option<Arc<GroupKey>> {
        let neighbor = self.neighbors.get(peer.index())?.as_ref()?;
        let session = neighbor.session.as_ref()?;
        Some(Arc::new(GroupKey {
            family,
            peer_type: neighbor.peer_type,
            local_asn: neighbor.local_asn,
            next_hop_mode: neighbor.config.next_hop,
            next_hop: neighbor.own_next_hop(family),
            encoder: UpdateEncoder {
                four_octet_as: session.negotiated.four_octet_as,
                extended_messages: session.negotiated.extended_messages,
                extended_next_hop: session.negotiated.extended_next_hop,
                add_path: session.negotiated.send_paths.contains(family),
            },
            policy: neighbor.export.clone(),
            departure: neighbor.departure,
            client: neighbor.config.route_reflector_client,
            cluster: self.config.cluster(),
            withhold_stale: session.negotiated.withhold_stale,
            interval: Duration::from_secs(neighbor.config.advertisement_interval.into()),
            paths: neighbor
                .config
                .add_paths
                .send
                .filter(|_| session.negotiated.send_paths.contains(family)),
        }))
    }

    pub(super) fn session_down(&mut self, now: Time, peer: PeerId, direction: Direction) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let Some(session) = neighbor.session.take() else { return };
        let reason = neighbor.slot(direction).reason.clone();
        let reason = reason.unwrap_or(DownReason::Stopped);
        neighbor.counters.dropped += 1;
        tracing::info!(peer = neighbor.config.name, %reason, "session down");
        neighbor.last_down = Some((now, reason.clone()));
        neighbor.refresh_timer.at = None;
        self.monitor_down(now, peer, &reason);
        for family in Family::ALL {
            self.groups.leave(peer, family, &mut self.rib);
        }
        self.keep_routes(now, peer, &session, &reason);
    }

    pub(super) fn routes_of(&self, peer: PeerId, family: Family) -> Vec<DestId> {
        let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
        neighbor.map_or_else(Vec::new, |n| n.routes[family.index()].iter().collect())
    }

    /// Removes all paths of a neighbor.
    pub(super) fn purge(&mut self, peer: PeerId, family: Family) {
        for dest in self.routes_of(peer, family) {
            with_family!(family, P => self.remove_where::<P>(peer, dest, |_| true));
        }
        if let Some(neighbor) = self.neighbor(peer) {
            neighbor.forget_stale(family);
        }
    }

    /// Removes those paths of a neighbor to a destination; returns how many.
    pub(super) fn remove_where<P: RibPrefix>(
        &mut self,
        peer: PeerId,
        dest: DestId,
        which: impl Fn(&Path) -> bool,
    ) -> usize {
        let paths = P::table_mut(&mut self.rib).paths_mut(dest, peer);
        let ids: SmallVec<[u32; 4]> = paths.filter(|p| which(p)).map(|p| p.id).collect();
        for id in &ids {
            self.remove::<P>(dest, (peer, *id));
        }
        ids.len()
    }

    /// Removes a path of a neighbor, if it is there.
    pub(super) fn remove<P: RibPrefix>(&mut self, dest: DestId, key: (PeerId, u32)) {
        let Some(old) = self.rib.remove::<P>(dest, key) else { return };
        let more = P::table(&self.rib).dest(dest).paths.iter().any(|p| p.peer == key.0);
        let Some(neighbor) = self.neighbor(key.0) else { return };
        let family = P::FAMILY.index();
        neighbor.received[family] -= 1;
        neighbor.accepted[family] -= usize::from(old.attr != AttrId::NONE);
        neighbor.stale_paths[family] -= usize::from(old.is_stale());
        if !more {
            neighbor.routes[family].remove(dest);
        }
    }
}
