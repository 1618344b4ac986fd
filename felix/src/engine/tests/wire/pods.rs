//! Workloads: forwarded, local, to and from the node; new and established.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::bed::{At, Bed, Link};
use super::frames::{Header, Part};
use super::{Draw, Flow, begin, compare, send};
use crate::engine::Engine;
use crate::engine::tests::calico_oracle::{CalicoCluster, Packet};
use crate::engine::tests::calico_random::{
    Event, PORTS, Place, Present, TRAFFIC, event, index, pod_at,
};
use crate::engine::tests::oracle::Way;
use crate::engine::tests::random::cases;
use crate::engine::tests::strategies::{NAMESPACES, OUTSIDE, POD_NAMES, addresses};
use crate::engine::tests::world::{ICMP, ICMPV6, ip};
use crate::kernel::flows::Rejudged;
use crate::kernel::{DenyAction, Kernel, Options};
use crate::model::Parties;
use crate::names::learned::Known;

/// Addresses outside of all pods that are the node's own here.
const NODE: [&str; 2] = ["10.0.0.200", "fd00::ffff"];
/// What nobody can send to.
const NOWHERE: &str = "0.0.0.0";
const UPLINK: u32 = 50;
/// New flows that are tried in each round of a case.
const PROBES: usize = 400;
/// Types and codes: of requests with and without a code of their own, and one that is no request, which
/// connection tracking takes for invalid.
const ICMP_TYPES: [u16; 5] = [0x0800, 0x0800, 0x0803, 0x0804, 0x0304];
const ICMPV6_TYPES: [u16; 5] = [0x8000, 0x8000, 0x8003, 0x8004, 0x0304];

/// All there can be: the places of this node, and of others.
struct Places {
    here: Vec<Place>,
    elsewhere: Vec<Place>,
}

impl Places {
    fn draw(draw: &mut Draw) -> Self {
        let all = (0..NAMESPACES.len()).flat_map(|n| (0..POD_NAMES.len()).map(move |s| (n, s)));
        let (here, elsewhere) = all.partition(|_| draw.below(2) == 0);
        Self { here, elsewhere }
    }

    fn links(&self) -> Vec<Link> {
        let uplink = Link {
            name: "eth0".into(),
            index: UPLINK,
            own: NODE.map(ip).into(),
            behind: self.outside(),
        };
        let pod = |place: &Place| Link {
            name: format!("cali{}", index(*place)),
            index: index(*place),
            own: Vec::new(),
            behind: addresses(place.0, place.1).into(),
        };
        std::iter::once(uplink).chain(self.here.iter().map(pod)).collect()
    }

    /// Whom the uplink leads to.
    fn outside(&self) -> Vec<IpAddr> {
        let others = OUTSIDE.iter().filter(|text| !NODE.contains(text) && **text != NOWHERE);
        let pods = self.elsewhere.iter().flat_map(|place| addresses(place.0, place.1));
        others.map(|text| ip(text)).chain(pods).collect()
    }

    /// Where an address is.
    fn at(&self, address: IpAddr) -> At {
        let has = |place: &Place| addresses(place.0, place.1).contains(&address);
        match self.here.iter().position(has) {
            Some(place) => At::Link(place + 1),
            None if NODE.map(ip).contains(&address) => At::Host,
            None => At::Link(0),
        }
    }

    /// Both ends of a flow that an endpoint has a part in.
    fn ends(&self, draw: &mut Draw, endpoints: &[Place]) -> (IpAddr, IpAddr) {
        let family = draw.below(2);
        let own = draw.of(endpoints);
        let others: Vec<Place> = endpoints.iter().copied().filter(|other| *other != own).collect();
        let of_family = |address: &IpAddr| usize::from(address.is_ipv6()) == family;
        let outside: Vec<IpAddr> = self.outside().into_iter().filter(of_family).collect();
        let peer = match draw.below(8) {
            0 => ip(NODE[family]),
            1..4 if !others.is_empty() => {
                let other = draw.of(&others);
                addresses(other.0, other.1)[family]
            }
            _ => draw.of(&outside),
        };
        let own = addresses(own.0, own.1)[family];
        if draw.below(2) == 0 { (own, peer) } else { (peer, own) }
    }

    fn flow(&self, draw: &mut Draw, endpoints: &[Place]) -> Flow {
        let (source, destination) = self.ends(draw, endpoints);
        let protocol = match draw.of(&TRAFFIC).0 {
            ICMP | ICMPV6 if source.is_ipv4() => ICMP,
            ICMP | ICMPV6 => ICMPV6,
            other => other,
        };
        let (from, to) = (self.at(source), self.at(destination));
        // Errors that the node itself tells of are no matter of policy.
        let types = if protocol == ICMP { &ICMP_TYPES } else { &ICMPV6_TYPES };
        let types = &types[..types.len() - usize::from(from == At::Host)];
        let ports = match protocol {
            ICMP | ICMPV6 => (u16::try_from(draw.below(1 << 16)).unwrap(), draw.of(types)),
            _ => (draw.of(&PORTS), draw.of(&PORTS)),
        };
        Flow { header: Header { protocol, source, destination, ports }, from, to, back: from }
    }
}

/// What the evaluator says of a flow that begins, or of one that did before.
fn judge(present: &Present, clusters: &[&CalicoCluster], flow: &Flow) -> bool {
    let Header { protocol, source, destination, ports } = flow.header;
    let is_icmp = [ICMP, ICMPV6].contains(&protocol);
    if is_icmp && ![8, 128].contains(&(ports.1 >> 8)) {
        return false;
    }
    let side = |way: Way, own: IpAddr, peer: IpAddr| {
        let is_endpoint =
            present.endpoints.iter().any(|place| addresses(place.0, place.1).contains(&own));
        !is_endpoint
            || clusters.iter().any(|cluster| {
                let mut pods = cluster.kubernetes.pods.iter();
                let pod = pods.position(|pod| pod.addresses.contains(&own)).unwrap();
                let protocol = *TRAFFIC.iter().find(|it| it.0 == protocol).unwrap();
                let (source_port, port) = ports;
                cluster.judges(pod, Packet { way, own, peer, protocol, source_port, port }).0
            })
    };
    side(Way::From, source, destination)
        && (flow.from == At::Host || side(Way::To, destination, source))
}

/// As with time: what an endpoint knew of an address and does not any more has lapsed.
fn as_time_goes(event: Event, present: &Present) -> Event {
    let Event::Learned(place, address, mut known) = event else { return event };
    if let Some(Known { names, lapsed }) = present.learned.get(&(place, address)) {
        let before = names.iter().chain(lapsed).filter(|name| !known.names.contains(name));
        let before: BTreeSet<_> = before.chain(&known.lapsed).cloned().collect();
        known.lapsed = before.into_iter().collect();
    }
    Event::Learned(place, address, known)
}

/// A cluster with its engine and the kernel of its node.
struct Node {
    present: Present,
    engine: Engine,
    kernel: Kernel,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    fn new(deny: DenyAction) -> Self {
        let present = Present::start();
        let (mut engine, _) = present.replay(0);
        engine.set_host_addresses(NODE.map(ip));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kernel = Kernel::start(Options::default()).unwrap();
        runtime.block_on(kernel.set_deny_action(deny)).unwrap();
        let mut node = Self { present, engine, kernel, runtime };
        node.take();
        node.runtime.block_on(node.kernel.in_sync()).unwrap();
        node
    }

    /// What happens to places of other nodes as if they were of this one does not happen.
    fn happen(&mut self, event: Event, places: &Places) {
        if let Event::Endpoint(namespace, slot) = event
            && !places.here.contains(&(namespace, slot))
        {
            return;
        }
        let event = as_time_goes(event, &self.present);
        if let Some(told) = self.present.happen(&event) {
            told.to(&mut self.engine);
        }
        if matches!(event, Event::Take) {
            self.take();
        }
    }

    /// As the agent does it: first the kernel's tables, then the flows that are concerned.
    fn take(&mut self) {
        let Some(delta) = self.engine.take_delta() else { return };
        let (kernel, engine) = (&self.kernel, &self.engine);
        let (judged, cut) = self.runtime.block_on(async {
            let parties = Parties::of(&delta);
            kernel.commit(delta).await.unwrap();
            if parties.is_empty() {
                return (parties, HashSet::new());
            }
            let flows = kernel.flows(parties.clone()).await.unwrap();
            let judged = Rejudged::of(flows, |flow| engine.verdict_on_established(flow));
            kernel.mark_denied(judged.deny).await.unwrap();
            kernel.clear_denied(judged.allow).await.unwrap();
            (parties, judged.denied_destinations)
        });
        self.engine.flows_judged(&judged, cut);
    }
}

/// A pod of each place.
fn pods() -> Vec<BoxedStrategy<Event>> {
    let all = (0..NAMESPACES.len()).flat_map(|n| (0..POD_NAMES.len()).map(move |s| (n, s)));
    all.map(pod_at).collect()
}

/// A case: `before` the first packet, and `after` that in rounds.
fn pass(before: &[Event], after: &[Vec<Event>], seed: u64) -> Result<(), TestCaseError> {
    let mut draw = Draw(seed);
    let places = Places::draw(&mut draw);
    if places.here.is_empty() {
        return Ok(());
    }
    Bed::with(&places.links(), |mut bed| {
        let deny = draw.of(&[DenyAction::Drop, DenyAction::Reject]);
        let mut node = Node::new(deny);
        before.iter().for_each(|event| node.happen(event.clone(), &places));
        for place in &places.here {
            node.happen(Event::Endpoint(place.0, place.1), &places);
        }
        let (mut established, mut denied) = (Vec::new(), Vec::new());
        let mut known = BTreeSet::new();
        for round in 0..=after.len() {
            if let Some(events) = round.checked_sub(1).and_then(|at| after.get(at)) {
                events.iter().for_each(|event| node.happen(event.clone(), &places));
            }
            node.take();
            let endpoints: Vec<Place> = node.present.endpoints.iter().copied().collect();
            if endpoints.is_empty() {
                continue;
            }
            let now = node.present.oracle();
            let once = node.present.oracle_of_once();
            let wanted: Vec<bool> =
                established.iter().map(|flow| judge(&node.present, &[&now, &once], flow)).collect();
            for part in [Part::More, Part::MoreBack] {
                let came = send(&mut bed, part, &established)?;
                compare(&format!("{part:?} in round {round}"), &established, &came, &wanted)?;
            }
            // Those that were denied before, and new ones: not many more that are denied than others.
            let mut flows: Vec<Flow> = std::mem::take(&mut denied);
            let may = |flow: &Flow| judge(&node.present, &[&now], flow);
            let mut wanted: Vec<bool> = flows.iter().map(may).collect();
            let most = flows.len() + PROBES;
            for _ in 0..4 * PROBES {
                let flow = places.flow(&mut draw, &endpoints);
                let may = may(&flow);
                let many = wanted.iter().filter(|may| !**may).count() >= most - PROBES / 2;
                let is_new = !known.contains(&flow.header.reply());
                if (may || !many) && flows.len() < most && is_new && known.insert(flow.header) {
                    flows.push(flow);
                    wanted.push(may);
                }
            }
            let came = begin(&mut bed, &flows, true)?;
            compare(&format!("new in round {round}"), &flows, &came, &wanted)?;
            for (flow, came) in flows.into_iter().zip(came) {
                if came { &mut established } else { &mut denied }.push(flow);
            }
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn what_comes_through_is_what_the_api_says(
        pods in pods(),
        before in prop::collection::vec(event(), 10..50),
        after in prop::collection::vec(prop::collection::vec(event(), 1..8), 1..4),
        seed in any::<u64>(),
    ) {
        pass(&[pods, before].concat(), &after, seed)?;
    }
}
