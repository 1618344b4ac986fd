//! What monitoring stations (BMP, RFC 7854) are told. A station pulls, as the consumers of the
//! forwarding table do: for each it is known which destinations changed since it was told, and what it
//! was told of them. So a slow station is told only the latest state, and what is kept for it is
//! bounded by the size of the tables; messages about sessions, which cannot be left out, are bounded
//! by the station being given up and told everything anew. The tables are walked in slices, one for
//! each batch: what changes where the walk has not come yet is found there when it comes.

mod batch;
mod statistics;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::core::{Core, Time};
use super::status::DownReason;
use crate::bmp::{self, PeerHeader};
use crate::config::{BmpStation, Monitored};
use crate::rib::{AttrId, DestId, DirtyList, PeerId, Rib, RibPrefix, Table, with_family};
use crate::wire::{Capability, Family, Open};

/// Destinations of a family looked at for one batch; few in tests, so that little is in many slices.
const LOOK: usize = if cfg!(test) { 64 } else { 2048 };
/// Octets of messages about sessions that wait at most: a station that is so far behind is given up.
const CONTROL_MAX: usize = 1 << 20;

/// One route that a station knows: in which RIB, whose, which of its paths, with what.
type Known = (Monitored, PeerId, u32, AttrId);

type Told = FxHashMap<DestId, SmallVec<[Known; 2]>>;

/// Stands for a place that no table has: all were looked at.
const DONE: usize = usize::MAX;

/// A station that is connected.
#[derive(Debug)]
struct Station {
    address: SocketAddr,
    config: BmpStation,
    /// What is to be added to the core's time for that since 1970.
    wall: Duration,
    /// Whole messages about sessions.
    control: Vec<u8>,
    /// The peers whose sessions it knows.
    up: FxHashSet<PeerId>,
    /// The first place of each table that was not looked at; [`DONE`] once all were.
    walked: [usize; 2],
    /// What changed before that place.
    pending: [DirtyList; 2],
    told: [Told; 2],
    /// RIBs whose end is to be told once nothing waits.
    ends: Vec<(Monitored, PeerId, Family)>,
    /// Too far behind.
    given_up: bool,
}

/// What is held for a station that is gone.
#[derive(Debug)]
struct Gone {
    told: [std::collections::hash_map::IntoIter<DestId, SmallVec<[Known; 2]>>; 2],
    pending: [DirtyList; 2],
}

/// All stations.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    stations: Vec<Station>,
    gone: Vec<Gone>,
}

impl Station {
    fn holds(&self, family: Family, dest: DestId) -> bool {
        let at = family.index();
        self.pending[at].contains(dest) || self.told[at].contains_key(&dest)
    }

    fn mark<P: RibPrefix>(&mut self, table: &mut Table<P>, dest: DestId) {
        if dest.index() >= self.walked[P::FAMILY.index()] {
            return;
        }
        let held = self.holds(P::FAMILY, dest);
        if !held && table.dest(dest).paths.is_empty() {
            return;
        }
        self.pending[P::FAMILY.index()].insert(dest);
        if !held {
            table.hold(dest);
        }
    }

    fn wants(&self, rib: Monitored) -> bool {
        self.config.monitor.contains(&rib)
    }

    fn say(&mut self, message: impl FnOnce(&mut Vec<u8>)) {
        if self.control.len() > CONTROL_MAX {
            self.given_up = true;
        } else {
            message(&mut self.control);
        }
    }
}

impl Monitor {
    /// Notes that paths of a destination, or what is selected, may have changed.
    pub(super) fn mark<P: RibPrefix>(&mut self, table: &mut Table<P>, dest: DestId) {
        for station in &mut self.stations {
            station.mark(table, dest);
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.stations.is_empty()
    }
}

impl Core {
    /// A station is connected: it is told of sessions first, and then everything there is.
    pub(crate) fn station_up(&mut self, address: SocketAddr, wall: Duration) {
        self.station_down(address);
        let Some(config) = self.config.bmp.iter().find(|s| s.address() == address) else { return };
        let mut station = Station {
            address,
            config: config.clone(),
            wall,
            control: Vec::new(),
            up: FxHashSet::default(),
            walked: [0; 2],
            pending: Default::default(),
            told: Default::default(),
            ends: Vec::new(),
            given_up: false,
        };
        let description = concat!("Caracal bgpd ", env!("CARGO_PKG_VERSION"));
        let name = self.config.router_id.to_string();
        bmp::initiation(description, &name, &mut station.control);
        if station.wants(Monitored::LocRib) {
            let header = self.header(&station, PeerId::LOCAL, Monitored::LocRib, self.clock);
            let families = Family::ALL.map(Capability::multiprotocol);
            let open = Open::new(self.config.asn, 0, self.config.router_id, families.to_vec());
            let mut octets = Vec::new();
            open.encode(&mut octets);
            let opens = [&octets[..], &octets];
            bmp::peer_up(&header, None, None, opens, &mut station.control);
            station.ends.extend(Family::ALL.map(|f| (Monitored::LocRib, PeerId::LOCAL, f)));
        }
        let established: Vec<PeerId> =
            self.neighbors.iter().flatten().filter(|n| n.session.is_some()).map(|n| n.id).collect();
        for peer in established {
            self.peer_up(&mut station, peer);
        }
        self.monitor.stations.push(station);
    }

    /// A station is gone. What is held for it, [`Self::station_release`] lets go of.
    pub(crate) fn station_down(&mut self, address: SocketAddr) {
        let found = self.monitor.stations.iter().position(|s| s.address == address);
        let Some(at) = found else { return };
        let Station { told, pending, .. } = self.monitor.stations.swap_remove(at);
        self.monitor.gone.push(Gone { told: told.map(Told::into_iter), pending });
    }

    /// Lets go of some of what was held for stations that are gone; returns whether there is more.
    pub(crate) fn station_release(&mut self) -> bool {
        let Some(gone) = self.monitor.gone.last_mut() else { return false };
        let mut looks = LOOK;
        for family in Family::ALL {
            let at = family.index();
            with_family!(family, P => {
                let (table, attrs) = P::parts(&mut self.rib);
                for (dest, known) in gone.told[at].by_ref().take(looks) {
                    looks -= 1;
                    for (.., attr) in known {
                        attrs.release(attr);
                    }
                    // It is held once, be it told, pending or both.
                    if !gone.pending[at].contains(dest) {
                        table.unhold(dest);
                    }
                }
                while looks > 0 && let Some(dest) = gone.pending[at].pop() {
                    looks -= 1;
                    table.unhold(dest);
                }
            });
        }
        if looks > 0 {
            self.monitor.gone.pop();
        }
        !self.monitor.gone.is_empty()
    }

    /// The last word to a station.
    pub(crate) fn station_farewell() -> Vec<u8> {
        let mut out = Vec::new();
        bmp::termination(&mut out);
        out
    }

    fn header(&self, station: &Station, peer: PeerId, rib: Monitored, at: Time) -> PeerHeader {
        let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
        let rank = self.rib.ranks.get(peer.index());
        let at = station.wall + at;
        match neighbor {
            Some(neighbor) => PeerHeader {
                address: Some(neighbor.config.address),
                asn: neighbor.asn().unwrap_or(0),
                router_id: rank.map_or(Ipv4Addr::UNSPECIFIED, |rank| rank.router_id),
                rib,
                at,
            },
            None => PeerHeader {
                address: None,
                asn: self.config.asn,
                router_id: self.config.router_id,
                rib,
                at,
            },
        }
    }

    fn peer_up(&self, station: &mut Station, peer: PeerId) {
        let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
        let Some(neighbor) = neighbor else { return };
        let Some(session) = &neighbor.session else { return };
        let slot = &neighbor.slots[session.direction.index()];
        let header = self.header(station, peer, Monitored::PrePolicy, neighbor.since);
        let opens = [&slot.open_sent[..], &slot.open_received];
        station.say(|out| bmp::peer_up(&header, slot.local, slot.remote, opens, out));
        station.up.insert(peer);
        for family in session.negotiated.families.iter() {
            for rib in [Monitored::PrePolicy, Monitored::PostPolicy, Monitored::AdjRibOut] {
                if station.wants(rib) {
                    station.ends.push((rib, peer, family));
                }
            }
        }
    }

    /// Notes destinations of which peers were told something else.
    pub(super) fn monitor_told(&mut self, told: &[(Family, DestId)]) {
        let Self { monitor, rib, .. } = self;
        for (family, dest) in told {
            with_family!(*family, P => {
                let table = P::table_mut(rib);
                // One that nothing holds any more was withdrawn, and no station knows of it.
                if table.at(dest.index()).flatten().is_some() {
                    monitor.mark(table, *dest);
                }
            });
        }
    }

    /// A session is established.
    pub(super) fn monitor_up(&mut self, peer: PeerId) {
        let mut stations = std::mem::take(&mut self.monitor.stations);
        for station in &mut stations {
            self.peer_up(station, peer);
        }
        self.monitor.stations = stations;
    }

    /// A session has ended. What the station knew of the peer's RIBs it forgets by itself.
    pub(super) fn monitor_down(&mut self, now: Time, peer: PeerId, reason: &DownReason) {
        let mut stations = std::mem::take(&mut self.monitor.stations);
        for station in stations.iter_mut().filter(|s| s.up.contains(&peer)) {
            station.up.remove(&peer);
            station.ends.retain(|(_, of, _)| *of != peer);
            let header = self.header(station, peer, Monitored::PrePolicy, now);
            let mut data = Vec::new();
            let code = match reason {
                DownReason::NotificationSent(n) => {
                    n.encode(&mut data);
                    1
                }
                DownReason::NotificationReceived(n) => {
                    n.encode(&mut data);
                    3
                }
                // The event of RFC 4271 section 8.1: ManualStop.
                DownReason::Stopped => {
                    data.extend_from_slice(&2_u16.to_be_bytes());
                    2
                }
                _ => 4,
            };
            station.say(|out| bmp::peer_down(&header, code, &data, out));
            for family in Family::ALL {
                with_family!(family, P => forget::<P>(station, peer, &mut self.rib));
            }
        }
        self.monitor.stations = stations;
    }
}

/// The station forgets the RIBs of a peer whose session it was told to be down.
fn forget<P: RibPrefix>(station: &mut Station, peer: PeerId, rib: &mut Rib) {
    let (table, attrs) = P::parts(rib);
    let at = P::FAMILY.index();
    let mut empty = Vec::new();
    for (dest, known) in &mut station.told[at] {
        known.retain(|(_, of, _, attr)| {
            let gone = *of == peer;
            if gone {
                attrs.release(*attr);
            }
            !gone
        });
        if known.is_empty() {
            empty.push(*dest);
        }
    }
    for dest in empty {
        station.told[at].remove(&dest);
        if !station.holds(P::FAMILY, dest) {
            table.unhold(dest);
        }
    }
}
