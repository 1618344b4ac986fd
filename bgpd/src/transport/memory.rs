//! A network in memory, with virtual time: any number of speakers in one thread, every run
//! repeatable from its seed.
//!
//! Connections behave like TCP: octets arrive in order, in segments of any size, late, and no
//! more of them are under way than a window allows. Nodes can be killed, links cut, connections
//! reset.

mod random;
mod wire;

pub(crate) use random::Random;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use crate::config::Config;
use crate::speaker::{Clear, Cleared, ConnId, Journal, Output, Recorded, Report, Time};
use crate::transport::discovery::Found;
use wire::{Arrival, Due, End, Wire};

/// One speaker; its place in [`Network::nodes`] is its name.
pub(crate) struct Node {
    pub(crate) address: IpAddr,
    /// What it runs with, also while it is dead.
    pub(crate) config: Config,
    /// None: killed.
    pub(crate) core: Option<Recorded>,
    wires: BTreeMap<ConnId, (u64, usize)>,
    /// Reads nothing: what is sent to it piles up.
    pub(crate) stuck: bool,
    /// When its core wants to be called, as [`Network::deadlines`] knows it.
    deadline: Option<Time>,
}

/// Speakers and what connects them.
pub(crate) struct Network {
    pub(crate) now: Time,
    pub(crate) random: Random,
    pub(crate) nodes: Vec<Node>,
    wires: BTreeMap<u64, Wire>,
    /// From whom to whom nothing gets.
    cut: BTreeSet<(usize, usize)>,
    due: BinaryHeap<Reverse<(Time, u64, Due)>>,
    /// When which node's core wants to be called.
    deadlines: BTreeSet<(Time, usize)>,
    sequence: u64,
    /// Octets that may be under way on a connection.
    pub(crate) window: usize,
    /// The longest time octets are under way.
    pub(crate) latency: Duration,
    /// How many times that it is, at most, in one direction of one connection or another.
    pub(crate) unevenness: u32,
    /// What the speakers that are gone have left; None: nothing is recorded.
    pub(crate) recordings: Option<Vec<Vec<u8>>>,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Time::ZERO,
            random: Random::new(seed),
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            cut: BTreeSet::new(),
            due: BinaryHeap::new(),
            deadlines: BTreeSet::new(),
            sequence: 0,
            window: 16 * 1024,
            latency: Duration::from_millis(20),
            unevenness: 1,
            recordings: None,
        }
    }

    /// Adds a speaker, which [`Self::start`] starts: one that starts before another is there finds
    /// nobody.
    pub(crate) fn add(&mut self, address: IpAddr, config: Config) -> usize {
        let wires = BTreeMap::new();
        let node = Node { address, config, core: None, wires, stuck: false, deadline: None };
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Starts all speakers at the same time.
    pub(crate) fn start_all(&mut self) {
        for at in 0..self.nodes.len() {
            self.start(at, false);
        }
    }

    /// Starts a speaker that is not running.
    pub(crate) fn start(&mut self, at: usize, restarting: bool) {
        let seed = self.random.next();
        let node = &mut self.nodes[at];
        assert!(node.core.is_none());
        node.config.validate().unwrap();
        let mut config = node.config.clone();
        config.graceful_restart.restarting = restarting;
        let journal = self.recordings.is_some().then(Journal::in_memory);
        node.core = Some(Recorded::new(config, self.now, Duration::ZERO, seed, journal));
        self.carry_out(at);
    }

    /// As `kill -9`: the kernel closes the connections, nothing is said.
    pub(crate) fn kill(&mut self, at: usize) {
        let core = self.nodes[at].core.take();
        if let (Some(recordings), Some(mut core)) = (&mut self.recordings, core) {
            recordings.push(core.take_recording());
        }
        self.note_deadline(at);
        let wires = std::mem::take(&mut self.nodes[at].wires);
        for (wire, end) in wires.into_values() {
            self.close_end(wire, end, &[]);
        }
    }

    /// Ends a speaker in an orderly way.
    pub(crate) fn stop(&mut self, at: usize, notification: Option<&crate::wire::Notification>) {
        let now = self.now;
        self.core(at).stop_all(now, notification);
        self.carry_out(at);
        self.kill(at);
    }

    pub(crate) fn core(&mut self, at: usize) -> &mut Recorded {
        self.nodes[at].core.as_mut().expect("the node runs")
    }

    pub(crate) fn apply(&mut self, at: usize, config: Config) -> Report {
        config.validate().unwrap();
        self.nodes[at].config = config.clone();
        let now = self.now;
        let report = self.core(at).apply(now, config);
        self.carry_out(at);
        report
    }

    /// Clears a neighbor, or all.
    pub(crate) fn clear(&mut self, at: usize, name: Option<&str>, how: &Clear) -> Vec<Cleared> {
        let now = self.now;
        let cleared = self.core(at).clear(now, name, how);
        self.carry_out(at);
        cleared
    }

    /// Tells a speaker of a BFD session.
    pub(crate) fn bfd(&mut self, at: usize, key: &crate::bfd::Key, status: &crate::bfd::Status) {
        let now = self.now;
        self.core(at).bfd(now, key, status);
        self.carry_out(at);
    }

    /// Tells a node what was found out about an interface.
    pub(crate) fn discover(&mut self, at: usize, found: &Found) {
        let now = self.now;
        self.core(at).found(now, found);
        self.carry_out(at);
    }

    /// Cuts or mends the link between two nodes; octets under way wait.
    pub(crate) fn set_link(&mut self, a: usize, b: usize, up: bool) {
        let ways = [(a, b), (b, a)];
        if !up {
            self.cut.extend(ways);
        } else if ways.map(|way| self.cut.remove(&way)).contains(&true) {
            self.schedule_waiting(|wire| wire.is_between(a, b));
        }
    }

    /// Lets nothing more get from one node to another, until [the link](Self::set_link) is mended;
    /// what the other one sends arrives as long as there is room for it under way.
    pub(crate) fn cut_one_way(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Breaks the connections between two nodes.
    pub(crate) fn reset(&mut self, a: usize, b: usize) {
        let between: Vec<u64> =
            self.wires.iter().filter(|(_, w)| w.is_between(a, b)).map(|(id, _)| *id).collect();
        for wire in between {
            for end in 0..2 {
                self.arrive(wire, end, Arrival::Closed);
            }
        }
    }

    /// How many connections there are between two nodes.
    pub(crate) fn connections(&self, a: usize, b: usize) -> usize {
        let open = |w: &&Wire| w.ends.iter().all(|e| e.conn.is_some());
        self.wires.values().filter(open).filter(|w| w.is_between(a, b)).count()
    }

    /// Lets a stuck node read again.
    pub(crate) fn set_stuck(&mut self, at: usize, stuck: bool) {
        let was = std::mem::replace(&mut self.nodes[at].stuck, stuck);
        if was && !stuck {
            self.schedule_waiting(|wire| wire.ends.iter().any(|end| end.node == at));
        }
    }

    /// The most octets that wait on any connection, to be sent or to arrive.
    pub(crate) fn backlog(&mut self) -> usize {
        let under_way = self.wires.values().flat_map(|w| w.ends.iter().map(|e| e.under_way));
        let mut most = under_way.max().unwrap_or(0);
        for node in &mut self.nodes {
            let Some(core) = &mut node.core else { continue };
            for conn in node.wires.keys() {
                if let Some(queue) = core.outgoing(*conn) {
                    most = most.max(queue.len());
                }
            }
        }
        most
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.note_deadlines();
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done` says so.
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            self.note_deadlines();
            assert!(self.step(end), "not done after {limit:?} of virtual time");
        }
    }

    /// Carries out what is due first; false if nothing is until `end`.
    fn step(&mut self, end: Time) -> bool {
        let timer = self.deadlines.first().copied();
        let event = self.due.peek().map(|Reverse((at, ..))| *at);
        match (event, timer) {
            (Some(at), timer) if at <= end && timer.is_none_or(|(t, _)| at <= t) => {
                self.now = self.now.max(at);
                if let Some(Reverse((_, _, due))) = self.due.pop() {
                    self.happen(&due);
                }
                true
            }
            (_, Some((at, node))) if at <= end => {
                self.now = self.now.max(at);
                let now = self.now;
                self.core(node).tick(now, |_| false);
                self.carry_out(node);
                true
            }
            _ => false,
        }
    }

    /// Takes note of what all cores want: others than the network itself may have called them.
    fn note_deadlines(&mut self) {
        for at in 0..self.nodes.len() {
            self.note_deadline(at);
        }
    }

    fn note_deadline(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let deadline = node.core.as_ref().and_then(|core| core.next_deadline());
        if deadline != node.deadline {
            if let Some(before) = std::mem::replace(&mut node.deadline, deadline) {
                self.deadlines.remove(&(before, at));
            }
            self.deadlines.extend(deadline.map(|deadline| (deadline, at)));
        }
    }

    fn schedule(&mut self, at: Time, due: Due) {
        self.sequence += 1;
        self.due.push(Reverse((at, self.sequence, due)));
    }

    fn delay(&mut self) -> Duration {
        let most = usize::try_from(self.latency.as_micros()).unwrap();
        Duration::from_micros(self.random.below(most.max(1)) as u64 + 1)
    }

    /// Works a core off and carries out what it asks for.
    fn carry_out(&mut self, at: usize) {
        self.work_off(at);
        self.note_deadline(at);
    }

    fn work_off(&mut self, at: usize) {
        let now = self.now;
        loop {
            let Some(core) = self.nodes[at].core.as_mut() else { return };
            let more = core.work(now);
            let outputs = core.take_outputs();
            if outputs.is_empty() && !more {
                return;
            }
            for output in outputs {
                match output {
                    Output::Connect { conn, peer, .. } => {
                        // Both ends know their link by the same number.
                        let end = |address, port| match address {
                            IpAddr::V4(v4) => SocketAddr::from((v4, port)),
                            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, peer.scope_id).into(),
                        };
                        let local = end(self.nodes[at].address, 40000);
                        let remote = end(peer.address, peer.port);
                        self.connect(at, conn, local, remote);
                    }
                    Output::Write(conn) => self.pump(at, conn),
                    Output::Close { conn, last } => {
                        if let Some((wire, end)) = self.nodes[at].wires.remove(&conn) {
                            let octets: Vec<u8> = last.iter().flat_map(|b| b.to_vec()).collect();
                            self.close_end(wire, end, &octets);
                        }
                    }
                }
            }
        }
    }

    fn connect(&mut self, at: usize, conn: ConnId, local: SocketAddr, remote: SocketAddr) {
        let target = self.nodes.iter().position(|n| n.address == remote.ip());
        let end = |node, conn| End { node, conn, arriving: VecDeque::new(), under_way: 0 };
        self.sequence += 1;
        let id = self.sequence;
        let ends = [end(at, Some(conn)), end(target.unwrap_or(usize::MAX), None)];
        let slowness = [0, 1].map(|_| match self.unevenness {
            0 | 1 => 1,
            most => 1 + u32::try_from(self.random.below(most as usize)).unwrap(),
        });
        self.wires.insert(id, Wire { ends, addresses: [local, remote], slowness });
        self.nodes[at].wires.insert(conn, (id, 0));
        let due = self.now + self.delay();
        self.schedule(due, Due::Syn(id));
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }

    fn happen(&mut self, due: &Due) {
        match *due {
            Due::Syn(wire) => self.syn(wire),
            Due::Arrival(wire, end) => self.deliver(wire, end),
        }
    }

    fn syn(&mut self, id: u64) {
        let Some(wire) = self.wires.get(&id) else { return };
        let (from, to) = (wire.ends[0].node, wire.ends[1].node);
        let [local, remote] = wire.addresses;
        if self.is_cut(from, to) || self.is_cut(to, from) {
            return; // The attempt goes on until its core gives it up.
        }
        let now = self.now;
        let core = self.nodes.get_mut(to).and_then(|n| n.core.as_mut());
        let accepted = core.and_then(|core| core.accepted(now, local, remote, None));
        let Some((conn, _)) = accepted else {
            self.arrive(id, 0, Arrival::Refused);
            if to < self.nodes.len() {
                self.carry_out(to);
            }
            return;
        };
        self.nodes[to].wires.insert(conn, (id, 1));
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.ends[1].conn = Some(conn);
        }
        self.arrive(id, 0, Arrival::Connected);
        self.carry_out(to);
    }

    /// Sends something to an end, behind what is on its way already.
    fn arrive(&mut self, id: u64, end: usize, arrival: Arrival) {
        let delay = self.delay();
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let at = self.now + delay * wire.slowness[end];
        let end_state = &mut wire.ends[end];
        let at = end_state.arriving.back().map_or(at, |(last, _)| at.max(*last));
        if let Arrival::Octets(octets) = &arrival {
            end_state.under_way += octets.len();
        }
        end_state.arriving.push_back((at, arrival));
        self.schedule(at, Due::Arrival(id, end));
    }

    /// Schedules again what waits on some connections.
    fn schedule_waiting(&mut self, wanted: impl Fn(&Wire) -> bool) {
        let wires: Vec<(u64, [usize; 2])> = self
            .wires
            .iter()
            .filter(|(_, wire)| wanted(wire))
            .map(|(id, wire)| (*id, [0, 1].map(|end| wire.ends[end].arriving.len())))
            .collect();
        for (id, waiting) in wires {
            for (end, waiting) in waiting.into_iter().enumerate() {
                for _ in 0..waiting {
                    self.schedule(self.now, Due::Arrival(id, end));
                }
            }
        }
    }

    fn deliver(&mut self, id: u64, end: usize) {
        let Some(wire) = self.wires.get(&id) else { return };
        let (node, peer) = (wire.ends[end].node, wire.ends[1 - end].node);
        let stuck = self.nodes.get(node).is_some_and(|n| n.stuck);
        if self.is_cut(peer, node) || stuck {
            return; // Scheduled again when that is over.
        }
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let state = &mut wire.ends[end];
        if state.arriving.front().is_none_or(|(at, _)| *at > self.now) {
            return;
        }
        let Some((_, arrival)) = state.arriving.pop_front() else { return };
        if let Arrival::Octets(octets) = &arrival {
            state.under_way -= octets.len();
        }
        let Some(conn) = state.conn else {
            // Nobody there: a reset goes back.
            if matches!(arrival, Arrival::Octets(_)) {
                self.arrive(id, 1 - end, Arrival::Closed);
            }
            return;
        };
        let [local, remote] =
            if end == 0 { wire.addresses } else { [wire.addresses[1], wire.addresses[0]] };
        let now = self.now;
        let Some(core) = self.nodes[node].core.as_mut() else { return };
        match arrival {
            Arrival::Connected => {
                core.connected(now, conn, local, remote);
            }
            Arrival::Refused => {
                self.forget(id, end);
                self.core(node).connect_failed(now, conn, "refused");
            }
            Arrival::Octets(octets) => core.received(now, conn, &octets),
            Arrival::Closed => {
                self.forget(id, end);
                self.core(node).closed(now, conn, "reset");
            }
        }
        self.carry_out(node);
        // The sender has room again.
        let sender = self.wires.get(&id).and_then(|w| {
            let other = &w.ends[1 - end];
            Some((other.node, other.conn?))
        });
        if let Some((node, conn)) = sender {
            self.pump(node, conn);
            self.note_deadline(node);
        }
    }

    /// Takes an end that its core knows to be closed off the books.
    fn forget(&mut self, id: u64, end: usize) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let node = wire.ends[end].node;
        if let Some(conn) = wire.ends[end].conn.take() {
            self.nodes[node].wires.remove(&conn);
        }
        if wire.ends.iter().all(|e| e.conn.is_none()) {
            self.wires.remove(&id);
        }
    }

    fn close_end(&mut self, id: u64, end: usize, last: &[u8]) {
        if !last.is_empty() {
            self.arrive(id, 1 - end, Arrival::Octets(last.to_vec()));
        }
        self.arrive(id, 1 - end, Arrival::Closed);
        self.forget(id, end);
    }

    /// Sends what the window allows, in segments of any size.
    fn pump(&mut self, at: usize, conn: ConnId) {
        let Some(&(id, end)) = self.nodes[at].wires.get(&conn) else { return };
        loop {
            let Some(wire) = self.wires.get(&id) else { return };
            let room = self.window.saturating_sub(wire.ends[1 - end].under_way);
            if wire.ends[1 - end].conn.is_none() && end == 0 {
                return; // Not connected yet, or closed by the other side.
            }
            let Some(core) = self.nodes[at].core.as_mut() else { return };
            let Some(outgoing) = core.outgoing(conn) else { return };
            let most = outgoing.len().min(room);
            // As TCP, no trickle of tiny segments into a window that opens a little at a time.
            if most == 0 || most < outgoing.len().min(self.window / 4) {
                return;
            }
            let size = if self.random.chance(50) { most } else { self.random.below(most) + 1 };
            let mut octets = Vec::with_capacity(size);
            for chunk in outgoing.chunks() {
                octets.extend_from_slice(&chunk[..chunk.len().min(size - octets.len())]);
            }
            let now = self.now;
            self.core(at).sent(now, conn, size);
            self.arrive(id, 1 - end, Arrival::Octets(octets));
        }
    }
}
