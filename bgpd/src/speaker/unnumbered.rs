//! Neighbors named by their interface: where they are is found out, and may change.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::core::{Core, Time};
use super::neighbor::Neighbor;
use super::status::DownReason;
use crate::config::PeerConfig;
use crate::rib::PeerId;
use crate::session::{Direction, Event, State};
use crate::transport::discovery::Found;
use crate::wire::Family;

impl Neighbor {
    /// Whether it is known where it is.
    pub(super) fn is_placed(&self) -> bool {
        let known = self.config.scope_id != 0 && !self.config.address.is_unspecified();
        self.config.interface.is_none() || known
    }

    /// Whether it is whoever is at the other end of its interface.
    fn is_unnumbered(&self) -> bool {
        self.given.interface.is_some() && self.given.address.is_unspecified()
    }

    /// Whether a connection from this address is its.
    pub(super) fn answers_to(&self, address: IpAddr, scope_id: u32) -> bool {
        if self.given.interface.is_none() {
            let scope = self.config.scope_id;
            return self.config.address == address && (scope == 0 || scope == scope_id);
        }
        let on_link = scope_id != 0 && self.config.scope_id == scope_id;
        // Which address it has is known from its advertisements, or by this; but not where the
        // kernel has to know it for checking a key, nor from a second one beside a session.
        let any = self.is_unnumbered() && !self.config.is_signed() && self.session.is_none();
        on_link && (self.config.address == address || any)
    }

    fn place(&mut self, address: IpAddr, scope_id: u32) {
        self.config = Arc::new(PeerConfig { address, scope_id, ..(*self.given).clone() });
        self.failures = 0;
    }
}

impl Core {
    /// The interfaces that neighbors are named by.
    pub(crate) fn interfaces(&self) -> BTreeSet<String> {
        self.neighbors.iter().flatten().filter_map(|n| n.given.interface.clone()).collect()
    }

    /// Between two router advertisements.
    pub(crate) fn advertisement_interval(&self) -> Duration {
        Duration::from_secs(self.config.router_advertisement_interval.into())
    }

    /// Something was found out about an interface.
    pub(crate) fn found(&mut self, now: Time, found: &Found) {
        self.clock = now;
        match found {
            Found::Link(name, index) => {
                for peer in self.on_interface(name) {
                    self.link(now, peer, name, index.unwrap_or(0));
                }
            }
            Found::Router(name, address) => {
                for peer in self.on_interface(name) {
                    self.router(now, peer, *address);
                }
            }
            Found::Trouble(text) => {
                for neighbor in self.neighbors.iter_mut().flatten().filter(|n| !n.is_placed()) {
                    neighbor.last_error = Some((now, DownReason::Link(text.clone())));
                }
            }
        }
        self.check_keys(now);
        self.bfd_changed = true;
    }

    fn on_interface(&self, name: &str) -> Vec<PeerId> {
        let named = |n: &&Neighbor| n.given.interface.as_deref() == Some(name);
        self.neighbors.iter().flatten().filter(named).map(|n| n.id).collect()
    }

    fn link(&mut self, now: Time, peer: PeerId, name: &str, index: u32) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let gone = index == 0;
        let why = if gone { "is down, or not there" } else { "no router was heard on it yet" };
        let why = DownReason::Link(format!("{name}: {why}"));
        if neighbor.config.scope_id != index {
            // What was learned over a link that is gone leads nowhere; the peer is not told, and
            // cannot be.
            for direction in Direction::BOTH {
                if self.slot(peer, direction).is_some_and(|slot| slot.conn.is_some()) {
                    self.reason(peer, direction, why.clone());
                }
                self.event(now, peer, direction, &Event::Stop(None));
            }
            for family in Family::ALL {
                self.purge(peer, family);
            }
            let Some(neighbor) = self.neighbor(peer) else { return };
            neighbor.place(neighbor.given.address, index);
        }
        let Some(neighbor) = self.neighbor(peer) else { return };
        if neighbor.is_placed() {
            self.start(now, peer, Direction::Outgoing);
        } else {
            neighbor.last_error = Some((now, why));
        }
    }

    fn router(&mut self, now: Time, peer: PeerId, address: Ipv6Addr) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let busy = neighbor.slots.iter().any(|slot| slot.state >= State::OpenSent);
        let known = neighbor.config.address == IpAddr::V6(address);
        if !neighbor.is_unnumbered() || neighbor.config.scope_id == 0 || busy || known {
            return;
        }
        self.settle(now, peer, address.into());
        self.start(now, peer, Direction::Outgoing);
    }

    /// Notes the address of a neighbor that has none yet, or none with a connection.
    pub(super) fn settle(&mut self, now: Time, peer: PeerId, address: IpAddr) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        if !neighbor.is_unnumbered() || neighbor.config.address == address {
            return;
        }
        tracing::info!(peer = neighbor.config.name, %address, "found on its interface");
        neighbor.place(address, neighbor.config.scope_id);
        neighbor.last_error = None;
        self.bfd_changed = true;
        self.event(now, peer, Direction::Outgoing, &Event::Stop(None));
    }
}
