//! Speakers in a network in memory.

mod advertised;
mod bfd;
mod clear;
mod confederation;
mod dynamic;
mod installed;
mod leaving;
mod limits;
mod live;
mod long_lived;
mod monitor;
mod next_hops;
mod observed;
mod oracle;
mod pace;
mod paths;
mod policy;
mod queries;
mod reachability;
mod reflection;
mod refresh;
mod replay;
mod restart;
mod seeds;
mod sessions;
mod storm;
mod timers;
mod topology;
mod unnumbered;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{Config, Network as OwnNetwork, PeerConfig};
use crate::session::State;
use crate::speaker::{Clear, NeighborStatus, RouteQuery, RouteStatus};
use crate::transport::memory::Network;

const MINUTE: Duration = Duration::from_secs(60);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The address of a node.
fn address(at: usize) -> IpAddr {
    let [high, low] = u16::try_from(at + 1).unwrap().to_be_bytes();
    Ipv4Addr::new(192, 0, high, low).into()
}

/// The address of a node in IPv6 routes.
fn address_v6(at: usize) -> Ipv6Addr {
    Ipv6Addr::from(0xfd00 << 112 | (at as u128 + 1))
}

/// A node without peers; its BGP Identifier is its address.
fn config(at: usize, asn: u32) -> Config {
    let IpAddr::V4(router_id) = address(at) else { unreachable!() };
    let mut config = Config::new(router_id, asn);
    config.listen = Vec::new();
    config
}

fn peer(own: usize, other: usize, asn: u32) -> PeerConfig {
    let mut peer = PeerConfig::new(format!("n{other}"), address(other), asn);
    peer.next_hop_v6 = Some(address_v6(own));
    peer
}

fn own(prefixes: &[&str]) -> Vec<OwnNetwork> {
    prefixes.iter().map(|p| OwnNetwork::new(net(p))).collect()
}

/// Nodes with the given AS numbers, each a peer of all others.
fn mesh(seed: u64, asns: &[u32]) -> Network {
    let mut network = Network::new(seed);
    for (at, asn) in asns.iter().enumerate() {
        let mut config = config(at, *asn);
        for (other, asn) in asns.iter().enumerate().filter(|(other, _)| *other != at) {
            config.peers.push(peer(at, other, *asn));
        }
        network.add(address(at), config);
    }
    network.start_all();
    network
}

impl Network {
    fn neighbor(&mut self, at: usize, other: usize) -> NeighborStatus {
        let now = self.now;
        let name = format!("n{other}");
        let all = self.core(at).neighbor_statuses(now);
        all.into_iter().find(|n| n.name == name).unwrap()
    }

    fn is_up(&mut self, at: usize, other: usize) -> bool {
        self.neighbor(at, other).state == State::Established
    }

    fn routes(&mut self, at: usize) -> Vec<RouteStatus> {
        self.core(at).routes(&RouteQuery::default())
    }

    fn route(&mut self, at: usize, prefix: &str) -> Option<RouteStatus> {
        let query = RouteQuery { prefix: Some(net(prefix)), ..RouteQuery::default() };
        self.core(at).routes(&query).pop()
    }

    /// The neighbors whose paths to a prefix are used, the best one first.
    fn used(&mut self, at: usize, prefix: &str) -> Vec<String> {
        let paths = self.route(at, prefix).map_or_else(Vec::new, |r| r.paths);
        paths.into_iter().filter(|p| p.used).filter_map(|p| p.neighbor).collect()
    }

    fn change(&mut self, at: usize, f: impl FnOnce(&mut Config)) -> crate::speaker::Report {
        let mut config = self.nodes[at].config.clone();
        f(&mut config);
        self.apply(at, config)
    }
}
