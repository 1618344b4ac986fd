//! What other policies would change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// The host endpoint's side, where that may make a difference: the destination of ingress, the source of
    /// egress. None: an address of which no policy asks anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<IpAddr>,
    /// The pod that has the peer's address, if one does.
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
    of_family: ByFamily,
    pods: usize,
}

type Kinds = BTreeMap<(Class, Class), Peers>;
/// An address of each: IPv4 and IPv6.
type ByFamily = [Option<IpAddr>; 2];
/// What judges packets before and after, and whose: addresses of the host endpoint's own side.
type Sides = BTreeMap<[Option<ProgramId>; 2], ByFamily>;
/// Where nothing is asked of the first address of a family, it stands for all of which nothing is.
const FIRST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
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
        for first in FIRST {
            let peers = kinds.entry((a.class(first), b.class(first))).or_default();
            peers.of_family[usize::from(first.is_ipv6())] = Some(first);
        }
        for address in a.samples().chain(b.samples()) {
            let peers = kinds.entry((a.class(address), b.class(address))).or_default();
            peers.example.get_or_insert(address);
            peers.of_family[usize::from(address.is_ipv6())].get_or_insert(address);
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
            for hook in HostHook::ALL.into_iter().filter(|hook| !hook.is_again()) {
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
        let name = |engine: &'_ Self| {
            let (name, ..) = engine.hosts.endpoint_at(hook, interface, Class(0))?;
            Some(name.to_owned())
        };
        let (now, later) = (name(self), name(then));
        // Where nothing is judged all passes.
        let passes = Table::of_all(Verdict::Allow);
        let table = |engine: &'_ Self, id: Option<ProgramId>, class| {
            let program = id.and_then(|id| engine.programs.get(id));
            program.map_or_else(|| passes.clone(), |program| (**program.table(class)).clone())
        };
        let sides = self.sides(then, (hook, interface), kinds);
        let (mut peers, mut examples, mut differ) = (0, Vec::new(), false);
        for (classes, kind) in kinds {
            let found = sides.iter().find_map(|(programs, side)| {
                let (own, peer) = meeting(side, kind)?;
                let a = table(self, programs[0], classes.0);
                let b = table(then, programs[1], classes.1);
                if a == b {
                    return None;
                }
                let address = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                let asked = |header: Header| {
                    let flow = flow_with(address, header);
                    let unasked =
                        |engine: &Self| engine.hosts.passes_unasked(hook, &flow).is_some();
                    // What has no endpoint has no failsafe ports.
                    !(unasked(self) || now.is_none()) || !(unasked(then) || later.is_none())
                };
                let header = witness(&a, &b, asked)?;
                let own = own.filter(|_| sides.len() > 1);
                Some(Example { own, ..example((&a, &b), header, peer, pods) })
            });
            let Some(found) = found else { continue };
            differ = true;
            peers += kind.pods;
            if examples.len() < EXAMPLES {
                examples.push(found);
            }
        }
        let endpoint = format!("HostEndpoint {}", later.or(now)?);
        let at = Some((hook, interface.to_string()));
        let direction = hook.direction();
        differ.then_some(VerdictChange { endpoint, at, direction, peers, examples })
    }

    /// What judges the packets of a host endpoint.
    fn sides(
        &self,
        then: &Self,
        (hook, interface): (HostHook, InterfaceName),
        kinds: &Kinds,
    ) -> Sides {
        let judge = |engine: &'_ Self, own| {
            let (_, local, site) = engine.hosts.endpoint_at(hook, interface, own)?;
            local.programs.get(&site).copied()
        };
        let mut sides = Sides::new();
        for (classes, kind) in kinds {
            let programs = [judge(self, classes.0), judge(then, classes.1)];
            let known = sides.entry(programs).or_default();
            for (known, one) in known.iter_mut().zip(kind.of_family) {
                *known = known.or(one);
            }
        }
        sides
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
                examples.push(example((a, b), header, kind.example, pods));
            }
        }
        let endpoint = format!("{}/{}", local.endpoint.namespace, local.endpoint.pod);
        differ.then_some(VerdictChange { endpoint, at: None, direction, peers, examples })
    }
}

fn example(
    (a, b): (&Table, &Table),
    header: Header,
    peer: Option<IpAddr>,
    pods: &Pods<'_>,
) -> Example {
    let Header { protocol, source, port } = header;
    let by_source = [a, b].iter().any(|table| !source_ports(table, protocol).is_empty());
    let pod = peer.and_then(|address| pods.get(&address));
    Example {
        peer,
        own: None,
        pod: pod.map(ToString::to_string),
        protocol,
        port,
        source_port: by_source.then_some(source),
        now: a.verdict(header),
        then: b.verdict(header),
    }
}

/// Addresses of both sides, of one family. None: no packet has such sides. An address that stands for all
/// that nothing is asked of is not named.
fn meeting(own: &ByFamily, peers: &Peers) -> Option<(Option<IpAddr>, Option<IpAddr>)> {
    let (own, peer) = own.iter().zip(peers.of_family).find_map(|(own, peer)| (*own).zip(peer))?;
    let peer = peers.example.map(|example| match example.is_ipv6() == own.is_ipv6() {
        true => example,
        false => peer,
    });
    Some((Some(own).filter(|own| !FIRST.contains(own)), peer))
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
