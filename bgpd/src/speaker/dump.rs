//! The table as an MRT TABLE_DUMP_V2 (RFC 6396 section 4.3), in slices.

use std::net::{IpAddr, Ipv4Addr};

use super::core::{Core, Time};
use crate::mrt::{Body, Entry, Peer, PeerIndexTable, Record, Rib, rib_attributes};
use crate::rib::{Dest, PeerId, RibPrefix, with_family};
use crate::session::State;
use crate::wire::Family;

/// Destinations looked at for one slice.
const LOOK: usize = 16 * 1024;
/// Octets after which a slice is enough.
const SLICE: usize = 128 * 1024;

/// How far a dump has come.
#[derive(Clone, Debug)]
pub(crate) struct Dump {
    /// When it was begun, in seconds since 1970.
    wall: u32,
    /// Who the routes are from, by their place in the file. A number that was given to another
    /// neighbor meanwhile stands for none.
    peers: Vec<(PeerId, IpAddr, u32)>,
    family: usize,
    place: usize,
    sequence: u32,
}

impl Dump {
    /// A dump that begins now, in seconds since 1970.
    pub(crate) const fn new(wall: u32) -> Self {
        Self { wall, peers: Vec::new(), family: 0, place: 0, sequence: 0 }
    }
}

impl Core {
    /// The next records, and how far that goes; None at the end. Routes are as received, before the
    /// import policy. Their time is that of the session: none is kept for each.
    pub(crate) fn dump_slice(
        &self,
        now: Time,
        mut dump: Box<Dump>,
    ) -> (Vec<u8>, Option<Box<Dump>>) {
        let mut out = Vec::new();
        if dump.peers.is_empty() {
            self.dump_peers(now, &mut dump, &mut out);
        }
        let mut looks = LOOK;
        while let Some(family) = Family::ALL.get(dump.family) {
            let end = with_family!(*family, P => {
                let table = P::table(&self.rib);
                loop {
                    if looks == 0 || out.len() >= SLICE {
                        break false;
                    }
                    let Some(slot) = table.at(dump.place) else { break true };
                    dump.place += 1;
                    looks -= 1;
                    if let Some((_, dest)) = slot {
                        self.dump_dest(dest, &mut dump, &mut out);
                    }
                }
            });
            if !end {
                return (out, Some(dump));
            }
            dump.family += 1;
            dump.place = 0;
        }
        (out, None)
    }

    fn dump_peers(&self, now: Time, dump: &mut Dump, out: &mut Vec<u8>) {
        let local = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let (router_id, asn) = (self.config.router_id, self.config.asn);
        let mut peers = vec![Peer { router_id, address: local, asn }];
        dump.peers.push((PeerId::LOCAL, local, dump.wall));
        for neighbor in self.neighbors.iter().flatten() {
            let rank = self.rib.ranks.get(neighbor.id.index());
            let router_id = rank.map_or(Ipv4Addr::UNSPECIFIED, |rank| rank.router_id);
            let address = neighbor.config.address;
            peers.push(Peer { router_id, address, asn: neighbor.asn().unwrap_or(0) });
            let up = neighbor.state() == State::Established;
            let age = if up { now.saturating_sub(neighbor.since).as_secs() } else { 0 };
            let since = dump.wall.saturating_sub(u32::try_from(age).unwrap_or(u32::MAX));
            dump.peers.push((neighbor.id, address, since));
        }
        let table = PeerIndexTable { collector: router_id, view: &[], peers };
        let body = Body::PeerIndexTable(table);
        Record { timestamp: dump.wall, microseconds: None, body }.encode(out);
    }

    fn dump_dest<P: RibPrefix>(&self, dest: &Dest<P>, dump: &mut Dump, out: &mut Vec<u8>) {
        let mut attributes = Vec::new();
        let mut found = Vec::new();
        for path in &dest.paths {
            let known = dump.peers.iter().position(|(peer, address, _)| {
                let neighbor = self.neighbors.get(peer.index()).and_then(Option::as_ref);
                let same = neighbor.is_none_or(|n| n.config.address == *address);
                *peer == path.peer && same
            });
            let Some(at) = known else { continue };
            let Ok(peer) = u16::try_from(at) else { continue };
            let set = self.rib.attrs.get(path.attr_in);
            let start = attributes.len();
            rib_attributes(set.block, set.next_hop, &mut attributes);
            found.push((peer, dump.peers[at].2, path.id, start..attributes.len()));
        }
        if found.is_empty() {
            return;
        }
        let add_path = found.iter().any(|(_, _, id, _)| *id != 0);
        let entries = found.into_iter().map(|(peer, originated, path_id, range)| Entry {
            peer,
            originated,
            path_id,
            attributes: &attributes[range],
        });
        let rib = Rib {
            sequence: dump.sequence,
            prefix: dest.prefix.to_net(),
            add_path,
            entries: entries.collect(),
        };
        Record { timestamp: dump.wall, microseconds: None, body: Body::Rib(rib) }.encode(out);
        dump.sequence = dump.sequence.wrapping_add(1);
    }
}
