//! What other policies would change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::super::table::{Header, Table, has_ports};
use super::super::workloads::Local;
use super::super::{Engine, slot};
use crate::model::{Class, Direction, ObjectKey, Traffic, Update, Verdict};

/// Most examples for an endpoint and direction.
const EXAMPLES: usize = 5;

/// An endpoint of this node for which some verdicts would be others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictChange {
    /// The pod, `namespace/name`.
    pub endpoint: String,
    /// Of traffic to it or from it.
    pub direction: Direction,
    /// How many addresses of pods are concerned.
    pub peers: usize,
    /// Some of what changes: at most 5, each with another kind of peer.
    pub examples: Vec<Example>,
}

/// A packet whose verdict would be another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// The other side; None for all addresses of which no policy asks anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// The pod that has the address, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; 0 for protocols without.
    pub port: u16,
    /// Source port, where it makes a difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Now.
    pub now: Verdict,
    /// Then.
    pub then: Verdict,
}

/// Addresses that are in the same class before, and in the same class after.
#[derive(Debug, Default)]
struct Peers {
    example: Option<IpAddr>,
    pods: usize,
}

type Kinds = BTreeMap<(Class, Class), Peers>;
type Pods<'a> = FxHashMap<IpAddr, &'a ObjectKey>;

impl Engine {
    /// This engine after more updates. A copy of all of it, so that it costs what the cluster's pods
    /// do in memory, and in time some microseconds for each.
    #[must_use]
    pub fn with(&self, updates: impl IntoIterator<Item = Update>) -> Self {
        let mut then = self.clone();
        updates.into_iter().for_each(|update| then.apply(update));
        // The kernel gets nothing of it.
        drop(then.take_delta());
        then
    }

    /// For which endpoints of this node `then`, which is of the same node, has other verdicts.
    pub fn changes(&self, then: &Self) -> Vec<VerdictChange> {
        let pods: Pods<'_> = self.workloads.pods().collect();
        let (a, b) = (&self.workloads.addresses, &then.workloads.addresses);
        let mut kinds = Kinds::new();
        // What is in no class of either.
        kinds.insert((Class(0), Class(0)), Peers::default());
        for address in a.samples().chain(b.samples()) {
            let peers = kinds.entry((a.class(address), b.class(address))).or_default();
            peers.example.get_or_insert(address);
        }
        for address in pods.keys() {
            if let Some(peers) = kinds.get_mut(&(a.class(*address), b.class(*address))) {
                // A pod tells more than an address, the first of them the same whenever one asks.
                let better = peers.pods == 0 || peers.example.is_some_and(|known| known > *address);
                if better {
                    peers.example = Some(*address);
                }
                peers.pods += 1;
            }
        }
        let mut changes = Vec::new();
        for (id, local) in self.workloads.locals() {
            let Some(other) = then.workloads.local(id) else { continue };
            for direction in [Direction::Ingress, Direction::Egress] {
                changes.extend(self.change((local, then, other), direction, &kinds, &pods));
            }
        }
        changes
    }

    fn change(
        &self,
        (local, then, other): (&Local, &Self, &Local),
        direction: Direction,
        kinds: &Kinds,
        pods: &Pods<'_>,
    ) -> Option<VerdictChange> {
        let now = self.programs.get(local.programs[slot(direction)]?)?;
        let later = then.programs.get(other.programs[slot(direction)]?)?;
        let (mut peers, mut examples, mut differ) = (0, Vec::new(), false);
        // What names stand for is told apart for this endpoint alone.
        let (id, is_egress) = (&local.endpoint.id, direction == Direction::Egress);
        let mut own = Kinds::new();
        for address in self.names.of(id).chain(then.names.of(id)).filter(|_| is_egress) {
            let class = self.class_for(local, direction, address);
            let peers = own.entry((class, then.class_for(other, direction, address))).or_default();
            peers.example.get_or_insert(address);
        }
        for ((before, after), kind) in kinds.iter().chain(&own) {
            let (a, b) = (now.table(*before), later.table(*after));
            if a == b {
                continue;
            }
            let Some(header) = witness(a, b) else { continue };
            differ = true;
            peers += kind.pods;
            if examples.len() < EXAMPLES {
                let Header { protocol, source, port } = header;
                let by_source =
                    [a, b].iter().any(|table| !source_ports(table, protocol).is_empty());
                let pod = kind.example.and_then(|address| pods.get(&address));
                examples.push(Example {
                    peer: kind.example,
                    pod: pod.map(ToString::to_string),
                    protocol,
                    port,
                    source_port: by_source.then_some(source),
                    now: a.verdict(header),
                    then: b.verdict(header),
                });
            }
        }
        let endpoint = format!("{}/{}", local.endpoint.namespace, local.endpoint.pod);
        differ.then_some(VerdictChange { endpoint, direction, peers, examples })
    }
}

/// A source port that no rule is likely to ask for: the first of those that are given to clients.
const EPHEMERAL: u16 = 49152;

/// A packet on which two tables have different verdicts, if there is one; they may differ in what is
/// logged. What an element names is tried first.
fn witness(a: &Table, b: &Table) -> Option<Header> {
    let both = [a, b];
    let named =
        both.into_iter().flat_map(Table::entries).filter_map(|(traffic, _)| match *traffic {
            Traffic::Port(protocol, _)
            | Traffic::Ports(protocol, ..)
            | Traffic::Pairs(protocol, ..)
            | Traffic::Protocol(protocol) => Some(protocol),
            Traffic::Any => None,
        });
    let named: BTreeSet<u8> = named.collect();
    let mut others = [6, 17, 1].into_iter().chain(0..=u8::MAX);
    let other = others.find(|protocol| !named.contains(protocol));
    // Between these a verdict is the same.
    let edges = |ranges: Vec<(u16, u16)>, first: u16| {
        let starts = ranges.clone().into_iter().map(|range| range.0);
        let after = ranges.into_iter().filter_map(|range| range.1.checked_add(1));
        starts.chain([first]).chain(after).chain([0])
    };
    let headers = named.into_iter().chain(other).flat_map(|protocol| {
        let of = |ranges: fn(&Table, u8) -> Vec<(u16, u16)>| {
            both.into_iter().flat_map(move |table| ranges(table, protocol)).collect()
        };
        let last = if has_ports(protocol) { u16::MAX } else { 0 };
        let sources: Vec<u16> = edges(of(source_ports), EPHEMERAL).collect();
        edges(of(ports), last).flat_map(move |port| {
            let with = move |source| Header { protocol, source, port };
            sources.clone().into_iter().map(with)
        })
    });
    let mut headers = headers;
    headers.find(|header| a.verdict(*header) != b.verdict(*header))
}

/// The ranges of destination ports that a table tells apart in a protocol.
fn ports(table: &Table, protocol: u8) -> Vec<(u16, u16)> {
    let ranges = table.entries().iter().filter_map(|(traffic, _)| match *traffic {
        Traffic::Port(of, port) if of == protocol => Some((port, port)),
        Traffic::Ports(of, first, last) if of == protocol => Some((first, last)),
        Traffic::Pairs(of, ports, _) if of == protocol => Some(ports),
        _ => None,
    });
    ranges.collect()
}

/// The ranges of source ports that a table tells apart in a protocol.
fn source_ports(table: &Table, protocol: u8) -> Vec<(u16, u16)> {
    let ranges = table.entries().iter().filter_map(|(traffic, _)| match *traffic {
        Traffic::Pairs(of, _, sources) if of == protocol => Some(sources),
        _ => None,
    });
    ranges.collect()
}
