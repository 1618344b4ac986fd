//! What other policies would change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::super::programs::ProgramId;
use super::super::table::{Header, Table, has_ports};
use super::super::workloads::Local;
use super::super::{Engine, slot};
use crate::model::host::{HostHook, InterfaceName};
use crate::model::{Class, Direction, Flow, ObjectKey, Traffic, Update, Verdict};

/// Most examples for an endpoint and direction.
const EXAMPLES: usize = 5;

/// An endpoint of this node for which some verdicts would be others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictChange {
    /// The pod, `namespace/name`, or `HostEndpoint name`.
    pub endpoint: String,
    /// Which traffic of a host endpoint, and at which interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<(HostHook, String)>,
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
        for interface in self.hosts.interfaces() {
            for hook in HostHook::ALL {
                changes.extend(self.change_at_host(then, (hook, interface), &kinds, &pods));
            }
        }
        changes
    }

    fn change_at_host(
        &self,
        then: &Self,
        (hook, interface): (HostHook, InterfaceName),
        kinds: &Kinds,
        pods: &Pods<'_>,
    ) -> Option<VerdictChange> {
        let judge = |engine: &'_ Self| {
            let (name, local, site) = engine.hosts.endpoint_at(hook, interface)?;
            Some((name.to_owned(), local.programs.get(&site).copied()))
        };
        let (now, later) = (judge(self), judge(then));
        let program = |judge: &Option<(String, Option<ProgramId>)>| judge.as_ref()?.1;
        let of = |engine: &'_ Self, id: Option<ProgramId>| {
            let program = id.and_then(|id| engine.programs.get(id)).cloned();
            // Where nothing is judged all passes.
            let passes = Table::of_all(Verdict::Allow);
            move |class: Class| {
                program
                    .as_ref()
                    .map_or_else(|| passes.clone(), |program| (**program.table(class)).clone())
            }
        };
        let (before, after) = (of(self, program(&now)), of(then, program(&later)));
        let (mut peers, mut examples, mut differ) = (0, Vec::new(), false);
        for ((class, other), kind) in kinds {
            let (a, b) = (before(*class), after(*other));
            let address = kind.example.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let asked = |header: Header| {
                let flow = flow_with(address, header);
                let unasked = |engine: &Self| engine.hosts.passes_unasked(hook, &flow).is_some();
                // What has no endpoint has no failsafe ports.
                !(unasked(self) || now.is_none()) || !(unasked(then) || later.is_none())
            };
            if a == b {
                continue;
            }
            let Some(header) = witness(&a, &b, asked) else { continue };
            differ = true;
            peers += kind.pods;
            if examples.len() < EXAMPLES {
                examples.push(example((&a, &b), header, kind, pods));
            }
        }
        let (name, _) = later.or(now)?;
        let at = Some((hook, interface.to_string()));
        let endpoint = format!("HostEndpoint {name}");
        let direction = hook.direction();
        differ.then_some(VerdictChange { endpoint, at, direction, peers, examples })
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
            let Some(header) = witness(a, b, |_| true) else { continue };
            differ = true;
            peers += kind.pods;
            if examples.len() < EXAMPLES {
                examples.push(example((a, b), header, kind, pods));
            }
        }
        let endpoint = format!("{}/{}", local.endpoint.namespace, local.endpoint.pod);
        differ.then_some(VerdictChange { endpoint, at: None, direction, peers, examples })
    }
}

fn example((a, b): (&Table, &Table), header: Header, kind: &Peers, pods: &Pods<'_>) -> Example {
    let Header { protocol, source, port } = header;
    let by_source = [a, b].iter().any(|table| !source_ports(table, protocol).is_empty());
    let pod = kind.example.and_then(|address| pods.get(&address));
    Example {
        peer: kind.example,
        pod: pod.map(ToString::to_string),
        protocol,
        port,
        source_port: by_source.then_some(source),
        now: a.verdict(header),
        then: b.verdict(header),
    }
}

/// A flow with this other side, whichever direction it has.
fn flow_with(peer: IpAddr, header: Header) -> Flow {
    let Header { protocol, source, port } = header;
    Flow { protocol, source: peer, destination: peer, source_port: source, destination_port: port }
}

/// A source port that no rule is likely to ask for: the first of those that are given to clients.
const EPHEMERAL: u16 = 49152;

/// A packet on which two tables have different verdicts, if there is one; they may differ in what is
/// logged. What an element names is tried first; of those that are not `asked` none is it.
fn witness(a: &Table, b: &Table, asked: impl Fn(Header) -> bool) -> Option<Header> {
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
    headers.find(|header| a.verdict(*header) != b.verdict(*header) && asked(*header))
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
