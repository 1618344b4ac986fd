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
use crate::wire::{
    Capability, Context, Family, FamilyAddPath, Open, Prefix, Reach, Unreach, parse_update,
};

const ALL: [Monitored; 4] =
    [Monitored::PrePolicy, Monitored::PostPolicy, Monitored::AdjRibOut, Monitored::LocRib];

/// A RIB: which, and whose (the unspecified address: the Loc-RIB).
type RibKey = (Monitored, IpAddr);

/// A station, and what it has learned.
#[derive(Default)]
struct Station {
    context: BmpParsingContext,
    up: BTreeSet<IpAddr>,
    /// The RIBs whose NLRI have path identifiers, as the OPENs say.
    several: BTreeSet<RibKey>,
    /// Prefixes with the path identifier, 0 where there is none.
    ribs: BTreeMap<RibKey, BTreeSet<(IpNet, u32)>>,
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

    /// What the two OPENs say of path identifiers (RFC 7911 section 4). The O flag of a Peer Up means
    /// nothing (RFC 8671 section 5.3); the other codec wants one for each RIB all the same.
    fn learn_paths(&mut self, message: &[u8]) {
        let (_, address) = Self::header(message);
        let mut modes = [0; 2];
        let mut rest = &message[48 + 20..];
        for mode in &mut modes {
            let open = crate::wire::frame(rest, crate::wire::MAX_LEN).unwrap().unwrap();
            rest = &rest[open.len..];
            for capability in Open::parse(open.body).unwrap().capabilities {
                if let Capability::AddPath(families) = capability {
                    *mode = families[0].mode;
                }
            }
        }
        let [sent, received] = modes;
        if sent & FamilyAddPath::RECEIVE != 0 && received & FamilyAddPath::SEND != 0 {
            self.several
                .extend([Monitored::PrePolicy, Monitored::PostPolicy].map(|r| (r, address)));
        }
        if sent & FamilyAddPath::SEND != 0 && received & FamilyAddPath::RECEIVE != 0 {
            self.several.insert((Monitored::AdjRibOut, address));
        }
        for flags in [0, 0x40, 0x50].into_iter().filter(|_| message[6] == 0) {
            let mut message = message.to_vec();
            message[7] |= flags;
            let mut reader = SliceReader::new(&message);
            let theirs = BmpMessage::parse(&mut reader, &mut self.context).unwrap();
            self.context.update(&theirs);
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
                self.learn_paths(message);
            }
            BmpMessageValue::PeerDownNotification(_) => {
                let (_, address) = Self::header(message);
                assert!(self.up.remove(&address), "down before up");
                self.ribs.retain(|(_, of), _| *of != address);
                self.several.retain(|(_, of)| *of != address);
                self.ends.retain(|((_, of), _)| *of != address);
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
        let families = Family::ALL.into_iter().collect();
        let several = self.several.contains(&key);
        let context = Context {
            four_octet_as: true,
            families,
            extended_next_hop: true,
            add_path: if several { families } else { Default::default() },
            ..Context::default()
        };
        let mut block = AttributeBlock::default();
        let update = parse_update(&message[48 + 19..], &context, &mut block).unwrap();
        if let Some(family) = update.end_of_rib {
            assert!(!self.ends.contains(&(key, family)), "an end twice");
            self.ends.push((key, family));
        }
        fn nets<P: Prefix>(prefixes: crate::wire::Prefixes<'_, P>) -> Vec<(IpNet, u32)> {
            prefixes.map(|nlri| (nlri.prefix.to_net(), nlri.path_id)).collect()
        }
        let rib = self.ribs.entry(key).or_default();
        let mut gone = nets(update.withdrawn);
        match update.unreach {
            Some(Unreach::V4(p)) => gone.extend(nets(p)),
            Some(Unreach::V6(p)) => gone.extend(nets(p)),
            None => {}
        }
        for path in gone {
            assert!(rib.remove(&path), "{path:?} withdrawn that was not there");
        }
        let announced = update.announced.map(|(hop, p)| Reach::V4(hop, p));
        for reach in [announced, update.reach].into_iter().flatten() {
            match reach {
                Reach::V4(_, p) => rib.extend(nets(p)),
                Reach::V6(_, p) => rib.extend(nets(p)),
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
        let known: BTreeMap<RibKey, BTreeSet<IpNet>> = self
            .ribs
            .iter()
            .filter(|(_, rib)| !rib.is_empty())
            .map(|(key, rib)| (*key, rib.iter().map(|(net, _)| *net).collect()))
            .collect();
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
        while network.core(0).station_release() {}
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

#[test]
fn several_paths_to_a_peer_are_told_each_by_its_number() {
    let mut network = paths::star(1, crate::config::SentPaths::All);
    network.change(0, |c| c.bmp = vec![config_of()]);
    network.core(0).station_up(station_address(), Duration::ZERO);
    let mut station = Station::default();
    let mut told = |network: &mut Network| {
        station.pull(network, 0);
        station.check(network, 0);
        // What is told of a peer's Adj-RIB-Out is what the peer has, number by number.
        for at in (1..=5).filter(|at| station.up.contains(&address(*at))) {
            let routes = network.core(at).routes(&RouteQuery::default());
            let has: BTreeSet<(IpNet, u32)> = routes
                .iter()
                .flat_map(|r| r.paths.iter().map(|p| (r.prefix, p)))
                .filter(|(_, path)| path.neighbor.is_some())
                .map(|(prefix, path)| (prefix, path.path_id))
                .collect();
            let key = (Monitored::AdjRibOut, address(at));
            assert_eq!(station.several.contains(&key), paths::TAKERS.contains(&at));
            assert_eq!(station.ribs.get(&key).cloned().unwrap_or_default(), has, "node {at}");
        }
        let key = (Monitored::AdjRibOut, address(paths::TAKERS[0]));
        station.ribs[&key].len()
    };
    assert_eq!(told(&mut network), 3);
    network.change(2, |c| c.networks.clear());
    network.run_for(MINUTE);
    assert_eq!(told(&mut network), 2);
    network.change(2, |c| c.networks = own(&[paths::PREFIX, "10.10.0.0/16"]));
    network.run_for(MINUTE);
    assert_eq!(told(&mut network), 4);
    network.kill(1);
    network.run_for(10 * MINUTE);
    assert_eq!(told(&mut network), 3);
}

/// More prefixes than one batch has room for, in both tables.
fn many(count: usize) -> Vec<crate::Network> {
    let nets: Vec<String> = (0..count)
        .flat_map(|n| [format!("10.{}.{}.0/24", n / 256, n % 256), format!("fd00:0:0:{n:x}::/64")])
        .collect();
    own(&nets.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_table_is_told_in_slices_while_it_changes() {
    const MANY: usize = 600;
    for seed in 1..10 {
        let (mut network, mut station) = monitored(seed);
        network.core(0).station_down(station_address());
        network.change(2, |c| c.networks = many(MANY));
        network.run_for(10 * MINUTE);
        let mut random = crate::transport::memory::Random::new(seed);
        network.core(0).station_up(station_address(), Duration::ZERO);
        let mut slices = 0;
        while let Some(octets) = network.core(0).station_batch(station_address()).unwrap() {
            station.read(&octets);
            assert!(octets.len() < 16 * 1024, "{}", octets.len());
            slices += 1;
            if station.ends.is_empty() && slices < 40 {
                assert!(station.up.len() > 1 || slices > 5, "the sessions come first");
                // In front of the walk, behind it, and all at once.
                match random.below(6) {
                    0 => drop(network.change(2, |c| c.networks = many(MANY / 2))),
                    1 => drop(network.change(2, |c| c.networks = many(MANY))),
                    2 => drop(network.change(1, |c| c.networks = many(50))),
                    3 => drop(network.change(1, |c| c.networks.clear())),
                    4 => network.reset(0, 1 + random.below(2)),
                    _ => {}
                }
                network.run_for(Duration::from_millis(500));
            }
        }
        assert!(slices > 5, "{slices}");
        network.run_for(10 * MINUTE);
        station.pull(&mut network, 0);
        station.check(&mut network, 0);
        for family in Family::ALL {
            let end = ((Monitored::LocRib, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), family);
            assert!(station.ends.contains(&end), "the end comes");
        }
        network.core(0).station_down(station_address());
        let mut steps = 0;
        while network.core(0).station_release() {
            steps += 1;
        }
        assert!(steps > 5, "{steps}: what was held goes in slices as well");
        for at in 0..3 {
            network.change(at, |c| c.networks.clear());
        }
        network.run_for(10 * MINUTE);
        assert_eq!(network.core(0).leftovers(), [0; 4], "seed {seed}");
    }
}
