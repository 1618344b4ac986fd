//! Neighbors that are not configured one by one: made by a connection from a listen range, gone
//! with their session.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::core::{Core, Time};
use super::neighbor::Neighbor;
use super::status::DownReason;
use crate::config::{ListenRange, PeerConfig};
use crate::rib::PeerId;
use crate::transport::keys::Key;
use crate::wire::{Notification, cease};

/// How long a connection has for becoming a session before it may lose its place to another.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A listen range as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct ListenRangeStatus {
    /// Name of its neighbors, before the address.
    pub name: String,
    /// The addresses.
    pub prefix: IpNet,
    /// How many neighbors there may be.
    pub limit: u32,
    /// How many there are.
    pub neighbors: usize,
    /// Connections refused because there were as many as there may be.
    pub refused: u64,
}

impl Neighbor {
    /// Nothing is left of one that nobody has configured.
    fn is_gone(&self, now: Time) -> bool {
        self.range.is_some()
            && self.session.is_none()
            && self.slots.iter().all(|slot| slot.conn.is_none())
            && self.stale.is_empty()
            // Too many prefixes are not forgotten by going away.
            && !self.is_halted(now)
    }
}

impl Core {
    /// Makes a neighbor of whoever connects from an address that is nobody's, if a range holds it.
    pub(super) fn admit(
        &mut self,
        now: Time,
        address: IpAddr,
        scope_id: u32,
        interface: Option<&str>,
    ) -> Option<PeerId> {
        let range = range_of(&self.config.listen_ranges, address)?;
        let way = range.peer.source_interface.as_deref();
        if range.peer.shutdown.is_some() || way.is_some() && way != interface {
            return None;
        }
        let config = range.neighbor(address, scope_id);
        let (name, limit) = (range.peer.name.clone(), range.limit as usize);
        if self.neighbors.iter().flatten().any(|n| n.config.name == config.name) {
            tracing::warn!(peer = config.name, %address, "refused: its name is another neighbor's");
            return None;
        }
        if self.of_range(&name).count() >= limit && !self.evict(now, &name) {
            let refused = self.refused.entry(name).or_default();
            *refused += 1;
            if *refused == 1 {
                let range = range_of(&self.config.listen_ranges, address)?;
                let (name, prefix) = (&range.peer.name, range.prefix);
                tracing::warn!(listen_range = name, %prefix, limit, "full: connections are refused");
            }
            return None;
        }
        tracing::info!(peer = config.name, "neighbor of a listen range");
        let peer = self.add_neighbor(now, config);
        if let Some(neighbor) = self.neighbor(peer) {
            neighbor.range = Some(name);
        }
        self.bfd_changed = true;
        Some(peer)
    }

    fn of_range<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Neighbor> {
        self.neighbors.iter().flatten().filter(move |n| n.range.as_deref() == Some(name))
    }

    /// Ends the attempt at a session that has taken longest, if that was long enough.
    fn evict(&mut self, now: Time, name: &str) -> bool {
        let idle = self.of_range(name).filter(|n| {
            let waits = n.session.is_none() && n.stale.is_empty() && !n.is_halted(now);
            waits && now.saturating_sub(n.added) >= HANDSHAKE
        });
        let Some(peer) = idle.min_by_key(|n| n.added).map(|n| n.id) else { return false };
        let notification = Notification::cease(cease::OUT_OF_RESOURCES, "no session was made");
        self.remove_neighbor(now, peer, &notification);
        true
    }

    /// Forgets neighbors of listen ranges that have gone.
    pub(super) fn dismiss(&mut self, now: Time) {
        for at in 1..self.neighbors.len() {
            let Some(neighbor) = self.neighbors[at].as_ref().filter(|n| n.is_gone(now)) else {
                continue;
            };
            let peer = neighbor.id;
            tracing::info!(peer = neighbor.config.name, "neighbor of a listen range has gone");
            let notification = Notification::cease(cease::PEER_DECONFIGURED, "gone");
            self.remove_neighbor(now, peer, &notification);
            self.bfd_changed = true;
        }
    }

    /// What the neighbors of listen ranges are under the present ones, beside those configured.
    pub(super) fn dynamic_peers(&self, configured: &[PeerConfig]) -> Vec<PeerConfig> {
        let free = |n: &&Neighbor| {
            configured.iter().all(|peer| {
                let same = peer.address == n.config.address && peer.interface.is_none();
                peer.name != n.config.name && !(same && peer.scope_id == n.config.scope_id)
            })
        };
        let dynamic = self.neighbors.iter().flatten().filter(|n| n.range.is_some());
        dynamic
            .filter(free)
            .filter_map(|n| {
                let range = range_of(&self.config.listen_ranges, n.config.address)?;
                Some(range.neighbor(n.config.address, n.config.scope_id))
            })
            .collect()
    }

    /// Notes of all neighbors which range they are of now.
    pub(super) fn assign_ranges(&mut self, dynamic: &[String]) {
        let ranges = &self.config.listen_ranges;
        for neighbor in self.neighbors.iter_mut().flatten() {
            let of_range = dynamic.contains(&neighbor.config.name);
            let range = range_of(ranges, neighbor.config.address).filter(|_| of_range);
            neighbor.range = range.map(|r| r.peer.name.clone());
        }
        self.refused.retain(|name, _| ranges.iter().any(|r| r.peer.name == *name));
    }

    pub(super) fn range_statuses(&self) -> Vec<ListenRangeStatus> {
        let status = |range: &ListenRange| ListenRangeStatus {
            name: range.peer.name.clone(),
            prefix: range.prefix,
            limit: range.limit,
            neighbors: self.of_range(&range.peer.name).count(),
            refused: self.refused.get(&range.peer.name).copied().unwrap_or(0),
        };
        self.config.listen_ranges.iter().map(status).collect()
    }

    /// The keys of those that may connect: of one address, that of the first.
    pub(crate) fn keys(&self) -> HashMap<IpNet, Key> {
        let ranges = self.config.listen_ranges.iter().map(|r| (r.prefix, &r.peer));
        let configured =
            self.neighbors.iter().flatten().filter(|n| n.range.is_none() && n.is_placed());
        let peers = configured.map(|n| (IpNet::from(n.config.address), &*n.config));
        let mut keys = HashMap::new();
        for (net, peer) in ranges.chain(peers) {
            if let Some(key) = Key::of(peer) {
                keys.entry(net).or_insert(key);
            }
        }
        keys
    }

    /// Says of neighbors on several links why they stay out, if they have one address and not one
    /// key: the kernel knows the keys of addresses, whatever the link (`tcp(7)`).
    pub(super) fn check_keys(&mut self, now: Time) {
        let mut keys: HashMap<IpAddr, Option<Key>> = HashMap::new();
        for neighbor in self.neighbors.iter_mut().flatten().filter(|n| n.is_placed()) {
            let key = Key::of(&neighbor.config);
            let first = keys.entry(neighbor.config.address).or_insert_with(|| key.clone());
            if *first != key && neighbor.session.is_none() {
                let PeerConfig { interface, address, scope_id, .. } = &*neighbor.config;
                let link = interface.clone().unwrap_or_else(|| scope_id.to_string());
                let why = format!(
                    "{link}: a neighbor on another link has {address} too, and another key or none"
                );
                neighbor.last_error = Some((now, DownReason::Link(why)));
            }
        }
    }

    /// No key could be set for the addresses of a prefix: whoever is there stays out.
    pub(crate) fn lacks_key(&mut self, now: Time, net: IpNet, why: &str) {
        for neighbor in self.neighbors.iter_mut().flatten() {
            let concerned = neighbor.config.is_signed() && net.contains(&neighbor.config.address);
            if concerned && neighbor.session.is_none() {
                neighbor.last_error = Some((now, DownReason::ConnectionLost(why.to_owned())));
            }
        }
    }
}

/// The most specific range that holds an address.
fn range_of(ranges: &[ListenRange], address: IpAddr) -> Option<&ListenRange> {
    let holding = ranges.iter().filter(|range| range.prefix.contains(&address));
    holding.max_by_key(|range| range.prefix.prefix_len())
}
