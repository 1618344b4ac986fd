//! Host endpoints: into the node, out of it and through it.

use proptest::prelude::*;

use super::bed::{At, Bed, Link};
use super::frames::{Header, Part};
use super::{Draw, Flow, begin, compare, send};
use crate::engine::tests::hosts_oracle::{INTERFACES, OUTSIDE, OWN, PODS, PORTS, State};
use crate::engine::tests::hosts_random::{Event, event, world};
use crate::engine::tests::random::cases;
use crate::engine::tests::world::{SCTP, TCP, UDP, World, ip};
use crate::kernel::{DenyAction, Kernel, Options};
use crate::model::{Change, Delta, Parties};

/// New flows that are tried in each round of a case.
const PROBES: usize = 200;
/// Numbers of interfaces begin after this.
const INDEX: u32 = 50;
const PEERS: [&str; 4] = [PODS[0], PODS[1], OUTSIDE[0], OUTSIDE[1]];

/// Which interface has which of the node's addresses, and leads to which peer.
struct Places {
    own: [usize; 2],
    peers: [usize; 4],
}

impl Places {
    fn links(&self) -> Vec<Link> {
        let at = |wanted: usize, addresses: &[&str], places: &[usize]| {
            let here = addresses.iter().zip(places).filter(|(_, at)| **at == wanted);
            here.map(|(address, _)| ip(address)).collect()
        };
        let link = |(number, name): (usize, &&str)| Link {
            name: (*name).into(),
            index: INDEX + u32::try_from(number).unwrap(),
            own: at(number, &OWN, &self.own),
            behind: at(number, &PEERS, &self.peers),
        };
        INTERFACES.iter().enumerate().map(link).collect()
    }

    /// One that comes in anywhere, or begins at the node; from a port that no other flow has.
    fn flow(&self, draw: &mut Draw, source_port: u16) -> Flow {
        let (from, to) = (draw.below(PEERS.len()), draw.below(PEERS.len()));
        let own = draw.of(&OWN);
        let anywhere = At::Link(draw.below(INTERFACES.len()));
        let (out, back) = (At::Link(self.peers[to]), At::Link(self.peers[from]));
        let ((source, from, back), (destination, to)) = match draw.below(3) {
            0 => ((PEERS[from], anywhere, back), (own, At::Host)),
            // Nobody sends to himself.
            1 if from != to => ((PEERS[from], anywhere, back), (PEERS[to], out)),
            _ => ((own, At::Host, At::Host), (PEERS[to], out)),
        };
        let (source, destination) = (ip(source), ip(destination));
        let protocol = draw.of(&[TCP, UDP, SCTP]);
        let ports = (source_port, draw.of(&PORTS));
        Flow { header: Header { protocol, source, destination, ports }, from, to, back }
    }
}

fn judge(state: &State, flow: &Flow) -> bool {
    let interface = |at: At| match at {
        At::Host => None,
        At::Link(number) => Some(INTERFACES[number]),
    };
    let Header { protocol, source, destination, ports } = flow.header;
    let sides = (&*source.to_string(), &*destination.to_string());
    state.passes(interface(flow.from), interface(flow.to), sides, (protocol, ports.1))
}

/// All that there is, for a kernel that has nothing.
fn all_of(world: &World) -> Delta {
    let elements = world.kernel.elements.iter();
    Delta {
        elements: elements.map(|(key, of)| Change { key: *key, value: Some(*of) }).collect(),
        deciders: world.kernel.deciders.iter().map(|(by, of)| (*by, of.clone())).collect(),
        comments: world.kernel.comments.iter().map(|(key, of)| (*key, of.clone())).collect(),
        ..Delta::default()
    }
}

fn pass(events: &[Event], seed: u64) -> Result<(), TestCaseError> {
    let mut draw = Draw(seed);
    let anywhere = |draw: &mut Draw| draw.below(INTERFACES.len());
    let own = [anywhere(&mut draw), anywhere(&mut draw)];
    let peers = [(); PEERS.len()].map(|()| anywhere(&mut draw));
    let places = Places { own, peers };
    Bed::with(&places.links(), |mut bed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kernel = Kernel::start(Options::default()).unwrap();
        let deny = draw.of(&[DenyAction::Drop, DenyAction::Reject]);
        runtime.block_on(kernel.set_deny_action(deny)).unwrap();
        let (mut world, mut state) = (world(), State::default());
        let _ = world.settle();
        runtime.block_on(kernel.sync(all_of(&world))).unwrap();
        // Addresses stay where they are.
        let here = Event::Links(own);
        let events = events.iter().filter(|event| !matches!(event, Event::Links(_)));
        let mut source_port = 1000;
        let mut established: Vec<Flow> = Vec::new();
        for event in std::iter::once(&here).chain(events).chain([&Event::Settle]) {
            state.happen(event, &mut world);
            if !matches!(event, Event::Settle) {
                continue;
            }
            let delta = world.settle();
            let parties = Parties::of(&delta);
            runtime.block_on(kernel.commit(delta)).unwrap();
            if !parties.is_empty() {
                runtime.block_on(kernel.judge_at_hosts(parties, true)).unwrap();
            }
            // Each packet for itself, with policy that does not track.
            let tracked = state.policies.values().all(|policy| policy.early != Some("doNotTrack"));
            if !tracked {
                established.clear();
            }
            let wanted: Vec<bool> = established.iter().map(|flow| judge(&state, flow)).collect();
            // Answers pass, and change nothing.
            for part in [Part::MoreBack, Part::More, Part::MoreBack] {
                let came = send(&mut bed, part, &established)?;
                let wanted =
                    if part == Part::More { wanted.clone() } else { vec![true; came.len()] };
                compare(&format!("{part:?}: {state:#?}"), &established, &came, &wanted)?;
            }
            let new = |port: u16| places.flow(&mut draw, port);
            let flows: Vec<Flow> = (0..PROBES)
                .map(|number| source_port + u16::try_from(number).unwrap())
                .map(new)
                .collect();
            source_port += u16::try_from(PROBES).unwrap();
            let wanted: Vec<bool> = flows.iter().map(|flow| judge(&state, flow)).collect();
            let came = begin(&mut bed, &flows, tracked)?;
            compare(&format!("new: {state:#?}"), &flows, &came, &wanted)?;
            let begun = flows.iter().zip(came).filter(|(_, came)| *came && tracked);
            established.extend(begun.map(|(flow, _)| *flow));
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn what_passes_host_endpoints_is_what_the_api_says(
        events in prop::collection::vec(event(), 1..40),
        seed in any::<u64>(),
    ) {
        pass(&events, seed)?;
    }
}
