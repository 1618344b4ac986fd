//! What a station is told at a time.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use smallvec::SmallVec;

use super::{DONE, Known, LOOK, Station};
use crate::bmp;
use crate::config::Monitored;
use crate::export::UpdateGroups;
use crate::rib::{AttrId, DestId, DirtyList, PeerId, Rib, RibPrefix, Table, with_family};
use crate::speaker::core::Core;
use crate::speaker::neighbor::Neighbor;
use crate::wire::{
    Family, Frame, HEADER_LEN, MAX_EXTENDED_LEN, NextHop, Nlri, UpdateEncoder, encode_end_of_rib,
    frame,
};

/// Octets after which a batch is enough for a family.
const BATCH: usize = if cfg!(test) { 2048 } else { 64 * 1024 };
/// Octets of a message beside attributes and NLRI, both headers included.
const MESSAGE: usize = bmp::PEER_HEADER_END + HEADER_LEN + 4;
/// Octets that a prefix with its path identifier takes, about.
const NLRI: usize = 12;

/// What is in the next place of a table.
enum Walked {
    Empty,
    /// A destination, which is held now.
    Found(DestId),
    /// There are no more places.
    All,
}

impl Station {
    /// The next place that was not looked at.
    fn walk<P: RibPrefix>(&mut self, table: &mut Table<P>) -> Walked {
        let walked = &mut self.walked[P::FAMILY.index()];
        let Some(slot) = table.at(*walked) else {
            // What comes later is marked when it does.
            *walked = DONE;
            return Walked::All;
        };
        *walked += 1;
        let found = slot.filter(|(_, entry)| !entry.paths.is_empty()).map(|(dest, _)| dest);
        let Some(dest) = found else { return Walked::Empty };
        table.hold(dest);
        Walked::Found(dest)
    }

    /// Whether it has been told everything, so that the ends of the RIBs may follow.
    fn knows_all(&self) -> bool {
        self.walked == [DONE; 2] && self.pending.iter().all(DirtyList::is_empty)
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

/// What a message has in common: RIB, peer and attributes (None: it withdraws).
type Sort = (Monitored, PeerId, Option<AttrId>);

/// What a batch says.
#[derive(Default)]
struct Plan {
    /// Destinations and path identifiers.
    messages: BTreeMap<Sort, Vec<(DestId, u32)>>,
    /// Of which nothing is known any more. Their numbers are needed until the batch is encoded.
    released: Vec<DestId>,
    /// About how many octets that is.
    octets: usize,
}

impl Plan {
    fn say(
        &mut self,
        rib: Monitored,
        peer: PeerId,
        attr: Option<(AttrId, usize)>,
        path: (DestId, u32),
    ) {
        let key = (rib, peer, attr.map(|(attr, _)| attr));
        let paths = self.messages.entry(key).or_default();
        if paths.is_empty() {
            self.octets += MESSAGE + attr.map_or(0, |(_, len)| len);
        }
        self.octets += NLRI;
        paths.push(path);
    }
}

impl Core {
    /// The next messages for a station: [`BATCH`] octets for each family, and what one more destination
    /// and the sessions take. Empty if what was looked at so far has changed nothing; None if there is
    /// nothing to say, or no such station. An error: it is to be connected to anew.
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
            for family in Family::ALL {
                with_family!(family, P => {
                    let plan = self.plan_batch::<P>(station);
                    self.encode_batch::<P>(station, plan, &mut out);
                });
            }
            if station.knows_all() {
                for (rib, peer, family) in std::mem::take(&mut station.ends) {
                    let header = self.header(station, peer, rib, self.clock);
                    let mut update = Vec::new();
                    encode_end_of_rib(family, &mut update);
                    bmp::route_monitoring(&header, &update, &mut out);
                }
            }
            Ok((!out.is_empty() || !station.knows_all()).then_some(out))
        });
        self.monitor.stations = stations;
        batch.unwrap_or(Ok(None))
    }

    /// Goes on with the walk, then takes what changed, and works out what the station is to be told.
    /// What it was told before is released only once the batch is encoded.
    fn plan_batch<P: RibPrefix>(&mut self, station: &mut Station) -> Plan {
        let at = P::FAMILY.index();
        let mut plan = Plan::default();
        for _ in 0..LOOK {
            if plan.octets >= BATCH {
                break;
            }
            let dest = match station.walk(P::table_mut(&mut self.rib)) {
                Walked::Empty => continue,
                Walked::Found(dest) => dest,
                Walked::All => match station.pending[at].pop() {
                    Some(dest) => dest,
                    None => break,
                },
            };
            let current = station.current::<P>(dest, &self.rib, &self.groups);
            let old = station.told[at].remove(&dest).unwrap_or_default();
            let same = |a: &Known, b: &Known| (a.0, a.1, a.2) == (b.0, b.1, b.2);
            for known in &old {
                if !current.iter().any(|c| same(c, known)) {
                    plan.say(known.0, known.1, None, (dest, known.2));
                }
            }
            for known in &current {
                self.rib.attrs.retain(known.3);
                if !old.contains(known) {
                    let len = self.rib.attrs.get(known.3).block.len();
                    plan.say(known.0, known.1, Some((known.3, len)), (dest, known.2));
                }
            }
            for (.., attr) in old {
                self.rib.attrs.release(attr);
            }
            if current.is_empty() {
                plan.released.push(dest);
            } else {
                station.told[at].insert(dest, current);
            }
        }
        plan
    }

    fn encode_batch<P: RibPrefix>(&mut self, station: &Station, plan: Plan, out: &mut Vec<u8>) {
        for ((rib, peer, attr), dests) in plan.messages {
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
        for dest in plan.released {
            if !station.holds(P::FAMILY, dest) {
                table.unhold(dest);
            }
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
        (true, Family::Ipv6Unicast) => NextHop::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => next_hop,
    }
}
