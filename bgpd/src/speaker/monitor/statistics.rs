//! What is counted, for stations.

use std::net::SocketAddr;

use crate::bmp;
use crate::config::Monitored;
use crate::rib::PeerId;
use crate::speaker::core::{Core, Time};
use crate::speaker::neighbor::Neighbor;
use crate::wire::Family;

impl Core {
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

fn gauge(value: usize) -> Vec<u8> {
    (value as u64).to_be_bytes().to_vec()
}

fn family_gauge(family: Family, value: usize) -> Vec<u8> {
    let (afi, safi) = family.wire();
    let [high, low] = afi.to_be_bytes();
    [&[high, low, safi][..], &gauge(value)].concat()
}
