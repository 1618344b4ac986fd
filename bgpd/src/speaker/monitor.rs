//! What monitoring stations (BMP, RFC 7854) are told. A station pulls, as the consumers of the
//! forwarding table do: for each it is known which destinations changed since it was told, and what it
//! was told of them. So a slow station is told only the latest state, and what is kept for it is
//! bounded by the size of the tables; messages about sessions, which cannot be left out, are bounded
//! by the station being given up and told everything anew.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::core::{Core, Time};
use super::neighbor::Neighbor;
use super::status::DownReason;
use crate::bmp::{self, PeerHeader};
use crate::config::{BmpStation, Monitored};
use crate::export::UpdateGroups;
use crate::rib::{AttrId, DestId, DirtyList, PeerId, Rib, RibPrefix, Table, with_family};
use crate::wire::{
    Capability, Family, Frame, MAX_EXTENDED_LEN, NextHop, Nlri, Open, UpdateEncoder,
    encode_end_of_rib, frame,
};

/// Destinations looked at for one batch.
const LOOK: usize = 2048;
/// Octets of messages about sessions that wait at most: a station that is so far behind is given up.
const CONTROL_MAX: usize = 1 << 20;

/// One route that a station knows: in which RIB, whose, which of its paths, with what.
type Known = (Monitored, PeerId, u32, AttrId);

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
    pending: [DirtyList; 2],
    told: [FxHashMap<DestId, SmallVec<[Known; 2]>>; 2],
    /// RIBs whose end is to be told once nothing waits.
    ends: Vec<(Monitored, PeerId, Family)>,
    /// Too far behind.
    given_up: bool,
}

/// All stations.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    stations: Vec<Station>,
}

impl Station {
    fn holds(&self, family: Family, dest: DestId) -> bool {
        let at = family.index();
        self.pending[at].contains(dest) || self.told[at].contains_key(&dest)
    }

    fn mark<P: RibPrefix>(&mut self, table: &mut Table<P>, dest: DestId) {
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

    /// What a RIB holds of a destination now, beside what the station was told of it.
    fn current<P: RibPrefix>(
        &self,
        dest: DestId,
        rib: &Rib,
        groups: &UpdateGroups,
    ) -> SmallVec<[Known; 2]> {
        let entry = P::table(rib).dest(dest);
        let mut current = SmallVec::new();
        let known = |peer: PeerId| self.up.contains(&peer);
        for path in entry.paths.iter().filter(|path| known(path.peer) && !path.is_stale()) {
            if self.wants(Monitored::PrePolicy) {
                current.push((Monitored::PrePolicy, path.peer, path.id, path.attr_in));
            }
            if self.wants(Monitored::PostPolicy) && path.attr != AttrId::NONE {
                current.push((Monitored::PostPolicy, path.peer, path.id, path.attr));
            }
        }
        if self.wants(Monitored::AdjRibOut) {
            let told = groups.sent(P::FAMILY, dest).filter(|(peer, ..)| known(*peer));
            current.extend(told.map(|(peer, id, attr)| (Monitored::AdjRibOut, peer, id, attr)));
        }
        if self.wants(Monitored::LocRib)
            && let Some((_, attr)) = entry.best()
        {
            current.push((Monitored::LocRib, PeerId::LOCAL, 0, attr));
        }
        current
    }
}

/// What a batch says: by RIB, peer and attributes (None: withdrawn), which destinations.
type Plan = BTreeMap<(Monitored, PeerId, Option<AttrId>), Vec<(DestId, u32)>>;

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
    /// A station is connected: everything there is waits for it.
    pub(crate) fn station_up(&mut self, address: SocketAddr, wall: Duration) {
        self.station_down(address);
        let Some(config) = self.config.bmp.iter().find(|s| s.address() == address) else { return };
        let mut station = Station {
            address,
            config: config.clone(),
            wall,
            control: Vec::new(),
            up: FxHashSet::default(),
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
        for family in Family::ALL {
            with_family!(family, P => {
                let table = P::table_mut(&mut self.rib);
                let all: Vec<DestId> = table.iter().map(|(id, _)| id).collect();
                for dest in all {
                    station.mark(table, dest);
                }
            });
        }
        self.monitor.stations.push(station);
    }

    /// A station is gone.
    pub(crate) fn station_down(&mut self, address: SocketAddr) {
        let found = self.monitor.stations.iter().position(|s| s.address == address);
        let Some(at) = found else { return };
        let mut station = self.monitor.stations.swap_remove(at);
        for family in Family::ALL {
            with_family!(family, P => {
                let (table, attrs) = P::parts(&mut self.rib);
                let all: Vec<DestId> = table
                    .iter()
                    .map(|(id, _)| id)
                    .filter(|id| station.holds(family, *id))
                    .collect();
                for (_, known) in std::mem::take(&mut station.told[family.index()]) {
                    for (.., attr) in known {
                        attrs.release(attr);
                    }
                }
                for dest in all {
                    table.unhold(dest);
                }
            });
        }
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

    /// The next messages for a station, some ten kilobytes; None if there is nothing to say, or no
    /// such station. An error: it is to be connected to anew.
    pub(crate) fn station_batch(
        &mut self,
        address: SocketAddr,
    ) -> Result<Option<Vec<u8>>, &'static str> {
        let mut stations = std::mem::take(&mut self.monitor.stations);
        let station = stations.iter_mut().find(|station| station.address == address);
        let batch = station.map(|station| {
            let mut out = std::mem::take(&mut station.control);
            if station.given_up {
                return Err("it is too far behind");
            }
            let mut plan = Plan::new();
            for family in Family::ALL {
                with_family!(family, P => {
                    self.plan_batch::<P>(station, &mut plan);
                    self.encode_batch::<P>(station, std::mem::take(&mut plan), &mut out);
                });
            }
            if station.pending.iter().all(DirtyList::is_empty) {
                for (rib, peer, family) in std::mem::take(&mut station.ends) {
                    let header = self.header(station, peer, rib, self.clock);
                    let mut update = Vec::new();
                    encode_end_of_rib(family, &mut update);
                    bmp::route_monitoring(&header, &update, &mut out);
                }
            }
            Ok(Some(out).filter(|out| !out.is_empty()))
        });
        self.monitor.stations = stations;
        batch.unwrap_or(Ok(None))
    }

    /// Takes what changed, and works out what the station is to be told. What it was told before is
    /// released only once the batch is encoded.
    fn plan_batch<P: RibPrefix>(&mut self, station: &mut Station, plan: &mut Plan) {
        let at = P::FAMILY.index();
        for _ in 0..LOOK {
            let Some(dest) = station.pending[at].pop() else { return };
            let current = station.current::<P>(dest, &self.rib, &self.groups);
            let old = station.told[at].remove(&dest).unwrap_or_default();
            let same = |a: &Known, b: &Known| (a.0, a.1, a.2) == (b.0, b.1, b.2);
            for known in &old {
                if !current.iter().any(|c| same(c, known)) {
                    plan.entry((known.0, known.1, None)).or_default().push((dest, known.2));
                }
            }
            for known in &current {
                self.rib.attrs.retain(known.3);
                if !old.contains(known) {
                    plan.entry((known.0, known.1, Some(known.3)))
                        .or_default()
                        .push((dest, known.2));
                }
            }
            for (.., attr) in old {
                self.rib.attrs.release(attr);
            }
            if current.is_empty() {
                // Its number is needed until the batch is encoded: let go of there.
                plan.entry((Monitored::LocRib, RELEASED, None)).or_default().push((dest, 0));
            } else {
                station.told[at].insert(dest, current);
            }
        }
    }

    fn encode_batch<P: RibPrefix>(&mut self, station: &Station, plan: Plan, out: &mut Vec<u8>) {
        let mut released = Vec::new();
        for ((rib, peer, attr), dests) in plan {
            if peer == RELEASED {
                released = dests;
                continue;
            }
            let header = self.header(station, peer, rib, self.clock);
            let table = P::table(&self.rib);
            let nlri = dests.iter().map(|(dest, path_id)| Nlri {
                prefix: table.dest(*dest).prefix,
                path_id: *path_id,
            });
            let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
            let encoder = encoder::<P>(neighbor, rib);
            let mut updates = Vec::new();
            if let Some(attr) = attr {
                let set = self.rib.attrs.get(attr);
                let next_hop = own_next_hop::<P>(set.next_hop);
                let encoder = if encoder.can_announce::<P>(set.block, set.info, next_hop) {
                    encoder
                } else {
                    UpdateEncoder { extended_messages: true, ..encoder }
                };
                encoder.announce(set.block, set.info, next_hop, nlri, &mut updates);
            } else {
                encoder.withdraw(nlri, &mut updates);
            }
            let mut rest = &updates[..];
            while let Ok(Some(Frame { len, .. })) = frame(rest, MAX_EXTENDED_LEN) {
                bmp::route_monitoring(&header, &rest[..len], out);
                rest = &rest[len..];
            }
        }
        let table = P::table_mut(&mut self.rib);
        for (dest, _) in released {
            if !station.holds(P::FAMILY, dest) {
                table.unhold(dest);
            }
        }
    }

    /// What is counted, for a station that asks for it from time to time.
    pub(crate) fn station_statistics(&mut self, now: Time, address: SocketAddr) {
        let mut stations = std::mem::take(&mut self.monitor.stations);
        for station in stations.iter_mut().filter(|station| station.address == address) {
            for neighbor in self.neighbors.iter().flatten() {
                if !station.up.contains(&neighbor.id) {
                    continue;
                }
                let header = self.header(station, neighbor.id, Monitored::PrePolicy, now);
                let stats = self.statistics(neighbor);
                station.say(|out| bmp::statistics(&header, &stats, out));
            }
            if station.wants(Monitored::LocRib) {
                let header = self.header(station, PeerId::LOCAL, Monitored::LocRib, now);
                let sizes = [self.rib.v4.len(), self.rib.v6.len()];
                let mut stats = vec![(8, gauge(sizes[0] + sizes[1]))];
                for family in Family::ALL {
                    stats.push((10, family_gauge(family, sizes[family.index()])));
                }
                station.say(|out| bmp::statistics(&header, &stats, out));
            }
        }
        self.monitor.stations = stations;
    }

    fn statistics(&self, neighbor: &Neighbor) -> Vec<(u16, Vec<u8>)> {
        let withdrawn = u32::try_from(neighbor.counters.treated_as_withdraw).unwrap_or(u32::MAX);
        let told = Family::ALL.map(|family| self.groups.advertised(neighbor.id, family));
        let mut stats = vec![
            (7, gauge(neighbor.received.iter().sum())),
            (11, withdrawn.to_be_bytes().to_vec()),
            (15, gauge(told.iter().sum())),
        ];
        for family in neighbor.families().iter() {
            stats.push((9, family_gauge(family, neighbor.received[family.index()])));
            stats.push((17, family_gauge(family, told[family.index()])));
        }
        stats
    }
}

/// Stands for no neighbor: what a batch lets go of.
const RELEASED: PeerId = PeerId(u16::MAX);

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

fn encoder<P: RibPrefix>(neighbor: Option<&Neighbor>, rib: Monitored) -> UpdateEncoder {
    let session = neighbor.and_then(|n| n.session.as_ref());
    let add_path = session.is_some_and(|session| match rib {
        Monitored::PrePolicy | Monitored::PostPolicy => {
            session.negotiated.receive_paths.contains(P::FAMILY)
        }
        Monitored::AdjRibOut => session.negotiated.send_paths.contains(P::FAMILY),
        Monitored::LocRib => false,
    });
    UpdateEncoder {
        four_octet_as: true,
        extended_messages: false,
        extended_next_hop: true,
        add_path,
    }
}

/// A route of our own has the unspecified next hop of its family in the Loc-RIB.
fn own_next_hop<P: RibPrefix>(next_hop: NextHop) -> NextHop {
    match (next_hop.is_ourselves(), P::FAMILY) {
        (true, Family::Ipv6Unicast) => NextHop::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)),
        _ => next_hop,
    }
}

fn gauge(value: usize) -> Vec<u8> {
    (value as u64).to_be_bytes().to_vec()
}

fn family_gauge(family: Family, value: usize) -> Vec<u8> {
    let (afi, safi) = family.wire();
    let [high, low] = afi.to_be_bytes();
    [&[high, low, safi][..], &gauge(value)].concat()
}
