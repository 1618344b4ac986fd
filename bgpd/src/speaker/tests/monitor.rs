//! What monitoring stations are told, read by an independent codec and by us.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use netgauze_bmp_pkt::BmpMessage;
use netgauze_bmp_pkt::v3::BmpMessageValue;
use netgauze_bmp_pkt::wire::deserializer::BmpParsingContext;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;

use super::*;
use crate::config::{BmpStation, Monitored};
use crate::wire::attributes::AttributeBlock;
use crate::wire::{Context, Family, Prefix, Reach, Unreach, parse_update};

const ALL: [Monitored; 4] =
    [Monitored::PrePolicy, Monitored::PostPolicy, Monitored::AdjRibOut, Monitored::LocRib];

/// A RIB: which, and whose (the unspecified address: the Loc-RIB).
type RibKey = (Monitored, IpAddr);

/// A station, and what it has learned.
#[derive(Default)]
struct Station {
    context: BmpParsingContext,
    up: BTreeSet<IpAddr>,
    ribs: BTreeMap<RibKey, BTreeSet<IpNet>>,
    ends: Vec<(RibKey, Family)>,
    downs: Vec<u8>,
    statistics: usize,
    updates: usize,
}

fn config_of() -> BmpStation {
    BmpStation {
        address: "192.0.2.99".parse().unwrap(),
        port: 5000,
        monitor: ALL.to_vec(),
        stats_interval: 0,
    }
}

fn station_address() -> SocketAddr {
    config_of().address()
}

impl Station {
    /// Takes in everything that waits for it; returns in how many batches.
    fn pull(&mut self, network: &mut Network, at: usize) -> usize {
        let mut batches = 0;
        while let Some(octets) = network.core(at).station_batch(station_address()).unwrap() {
            self.read(&octets);
            batches += 1;
        }
        batches
    }

    fn read(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() {
            let len = usize::try_from(u32::from_be_bytes(rest[1..5].try_into().unwrap())).unwrap();
            let message;
            (message, rest) = rest.split_at(len);
            let mut reader = SliceReader::new(message);
            let theirs = BmpMessage::parse(&mut reader, &mut self.context)
                .unwrap_or_else(|error| panic!("they refuse it: {error}: {message:02x?}"));
            let BmpMessage::V3(theirs) = theirs else { panic!("not version 3") };
            self.take(&theirs, message);
        }
    }

    /// RFC 7854 section 4.2, read by hand.
    fn header(message: &[u8]) -> RibKey {
        let (sort, flags) = (message[6], message[7]);
        let rib = match (sort, flags & 0x50) {
            (3, _) => Monitored::LocRib,
            (0, 0) => Monitored::PrePolicy,
            (0, 0x40) => Monitored::PostPolicy,
            (0, 0x50) => Monitored::AdjRibOut,
            other => panic!("{other:?}"),
        };
        let octets: [u8; 4] = message[28..32].try_into().unwrap();
        (rib, IpAddr::from(octets))
    }

    fn take(&mut self, theirs: &BmpMessageValue, message: &[u8]) {
        match theirs {
            BmpMessageValue::Initiation(initiation) => {
                assert_eq!(initiation.information().len(), 2);
                assert!(self.up.is_empty());
            }
            BmpMessageValue::PeerUpNotification(up) => {
                let (_, address) = Self::header(message);
                assert!(self.up.insert(address), "up twice");
                assert_eq!(up.local_port().is_some_and(|p| p > 0), !address.is_unspecified());
            }
            BmpMessageValue::PeerDownNotification(_) => {
                let (_, address) = Self::header(message);
                assert!(self.up.remove(&address), "down before up");
                self.ribs.retain(|(_, of), _| *of != address);
                self.downs.push(message[48]);
            }
            BmpMessageValue::RouteMonitoring(_) => self.update(message),
            BmpMessageValue::StatisticsReport(report) => {
                assert!(!report.counters().is_empty());
                self.statistics += 1;
            }
            BmpMessageValue::Termination(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn update(&mut self, message: &[u8]) {
        let key = Self::header(message);
        assert!(self.up.contains(&key.1), "routes before the peer is up");
        self.updates += 1;
        let context = Context {
            four_octet_as: true,
            families: Family::ALL.into_iter().collect(),
            extended_next_hop: true,
            ..Context::default()
        };
        let mut block = AttributeBlock::default();
        let update = parse_update(&message[48 + 19..], &context, &mut block).unwrap();
        if let Some(family) = update.end_of_rib {
            self.ends.push((key, family));
        }
        let rib = self.ribs.entry(key).or_default();
        let mut gone: Vec<IpNet> = update.withdrawn.map(|n| n.prefix.to_net()).collect();
        match update.unreach {
            Some(Unreach::V4(p)) => gone.extend(p.map(|n| n.prefix.to_net())),
            Some(Unreach::V6(p)) => gone.extend(p.map(|n| n.prefix.to_net())),
            None => {}
        }
        for net in gone {
            assert!(rib.remove(&net), "{net} withdrawn that was not there");
        }
        let announced = update.announced.map(|(hop, p)| Reach::V4(hop, p));
        for reach in [announced, update.reach].into_iter().flatten() {
            match reach {
                Reach::V4(_, p) => rib.extend(p.map(|n| n.prefix.to_net())),
                Reach::V6(_, p) => rib.extend(p.map(|n| n.prefix.to_net())),
            }
        }
    }

    /// Compares with what the speaker says of itself.
    fn check(&self, network: &mut Network, at: usize) {
        let core = network.core(at);
        let mut wanted: BTreeMap<RibKey, BTreeSet<IpNet>> = BTreeMap::new();
        let here = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let peers: Vec<(String, IpAddr)> =
            core.peers().map(|p| (p.name.clone(), p.address)).collect();
        for route in core.routes(&RouteQuery::default()) {
            if route.paths[0].best {
                wanted.entry((Monitored::LocRib, here)).or_default().insert(route.prefix);
            }
            for path in route.paths.iter().filter(|path| !path.stale) {
                let Some((_, address)) =
                    peers.iter().find(|p| Some(&p.0) == path.neighbor.as_ref())
                else {
                    continue;
                };
                wanted.entry((Monitored::PrePolicy, *address)).or_default().insert(route.prefix);
                use crate::rib::Reason::{AsPathLoop, ImportPolicy};
                if !matches!(path.reason, ImportPolicy | AsPathLoop) {
                    let key = (Monitored::PostPolicy, *address);
                    wanted.entry(key).or_default().insert(route.prefix);
                }
            }
        }
        for (name, address) in peers {
            let query = RouteQuery { advertised_to: Some(name), ..RouteQuery::default() };
            for route in core.routes(&query) {
                let key = (Monitored::AdjRibOut, address);
                wanted.entry(key).or_default().insert(route.prefix);
            }
        }
        let mut known = self.ribs.clone();
        known.retain(|_, rib| !rib.is_empty());
        assert_eq!(known, wanted);
    }
}

fn monitored(seed: u64) -> (Network, Station) {
    let mut network = mesh(seed, &[65001, 65002, 65003]);
    network.change(0, |c| {
        c.bmp = vec![config_of()];
        let mut refuse = crate::policy::Policy::accept();
        refuse.default = crate::policy::Action::Reject;
        c.peers[0].import = Some(refuse);
    });
    network.change(1, |c| c.networks = own(&["10.0.0.0/8", "10.1.0.0/16", "fd00:1::/32"]));
    network.change(2, |c| c.networks = own(&["10.0.0.0/8", "192.168.0.0/16"]));
    network.change(0, |c| c.networks = own(&["172.16.0.0/12", "fd00::/32"]));
    network.run_for(MINUTE);
    network.core(0).station_up(station_address(), Duration::from_secs(1_000_000));
    (network, Station::default())
}

#[test]
fn a_station_learns_all_there_is_and_what_changes() {
    let (mut network, mut station) = monitored(1);
    station.pull(&mut network, 0);
    station.check(&mut network, 0);
    assert_eq!(station.up.len(), 3, "two peers and the Loc-RIB");
    // The end of each RIB, for both families, once.
    assert_eq!(station.ends.len(), 2 * 3 * 2 + 2);
    let updates = station.updates;
    assert_eq!(station.pull(&mut network, 0), 0, "nothing is said twice");

    network.change(1, |c| c.networks = own(&["10.1.0.0/16", "10.2.0.0/16"]));
    network.run_for(MINUTE);
    station.pull(&mut network, 0);
    station.check(&mut network, 0);
    assert!(station.updates > updates);

    // A policy that changes, a peer that goes with a word and one that breaks.
    network.change(0, |c| c.peers[0].import = None);
    network.run_for(MINUTE);
    station.pull(&mut network, 0);
    station.check(&mut network, 0);
    let word = crate::wire::Notification::communication(2, "bye", "");
    network.stop(2, Some(&word));
    network.run_for(Duration::from_secs(1));
    station.pull(&mut network, 0);
    station.check(&mut network, 0);
    assert_eq!(station.downs, [3], "the peer's NOTIFICATION");
    network.core(0).station_statistics(MINUTE, station_address());
    station.pull(&mut network, 0);
    assert_eq!(station.statistics, 2);
    station.read(&crate::speaker::Core::station_farewell());
}

#[test]
fn storms_and_slow_stations_end_in_the_same_view() {
    for seed in 1..20 {
        let (mut network, mut station) = monitored(seed);
        let mut random = crate::transport::memory::Random::new(seed);
        for _ in 0..30 {
            match random.below(5) {
                0 => {
                    let count = random.below(6);
                    let nets: Vec<String> = (0..count).map(|n| format!("10.{n}.0.0/16")).collect();
                    let nets: Vec<&str> = nets.iter().map(String::as_str).collect();
                    network.change(1, |c| c.networks = own(&nets));
                }
                1 => network.reset(0, 1 + random.below(2)),
                2 => {
                    let reject = random.chance(50).then(crate::policy::Policy::reject);
                    network.change(0, |c| c.peers[1].export = reject);
                }
                3 => {
                    let reject = random.chance(50).then(crate::policy::Policy::reject);
                    network.change(0, |c| c.peers[0].import = reject);
                }
                _ => {
                    station.pull(&mut network, 0);
                }
            }
            let pause = u64::try_from(random.below(3000)).unwrap();
            network.run_for(Duration::from_millis(pause));
        }
        network.run_for(10 * MINUTE);
        station.pull(&mut network, 0);
        station.check(&mut network, 0);
        // Once it is gone nothing is held for it.
        network.core(0).station_down(station_address());
        for at in 0..3 {
            network.change(at, |c| c.networks.clear());
        }
        network.run_for(10 * MINUTE);
        assert_eq!(network.core(0).leftovers(), [0; 4], "seed {seed}");
    }
}

#[test]
fn a_station_that_takes_nothing_is_given_up_before_it_costs_much() {
    let (mut network, _) = monitored(2);
    for _ in 0..100_000 {
        network.core(0).station_statistics(MINUTE, station_address());
    }
    assert!(network.core(0).station_batch(station_address()).is_err());
}
