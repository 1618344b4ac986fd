//! Tracked flows of endpoints: judged again when policy changes, forgotten when an address goes.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink::conntrack::{self, Entry, Layer4, Role};
use netlink::{Batch, Protocol, Socket, addr};

use super::Error;
use super::layout::{AGAIN, DENIED};
use crate::model::{Flow, Parties, Verdict};

/// Addresses up to which the kernel filters for each; beyond, all flows are read once.
const FILTERED: usize = 2;
/// Changes in one send.
const CHUNK: usize = 1000;

/// A flow and how to find it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TrackedFlow {
    /// As policy sees it.
    pub flow: Flow,
    /// It is cut now ([`DENIED`]).
    pub denied: bool,
    entry: Entry,
}

#[derive(Debug)]
pub(super) struct Flows {
    conntrack: Socket,
    route: Socket,
}

fn failed(error: netlink::Error) -> Error {
    Error::Kernel(format!("tracked flows: {error}"))
}

/// What becomes of flows that are judged again.
#[derive(Clone, Debug, Default)]
pub struct Rejudged {
    /// To be cut.
    pub deny: Vec<TrackedFlow>,
    /// That were cut and go on.
    pub allow: Vec<TrackedFlow>,
    /// To whom flows go that are denied, cut before or now.
    pub denied_destinations: HashSet<IpAddr>,
}

impl Rejudged {
    /// By the verdict on each.
    pub fn of(flows: Vec<TrackedFlow>, verdict: impl Fn(&Flow) -> Verdict) -> Self {
        let mut judged = Self::default();
        for flow in flows {
            let allowed = verdict(&flow.flow) != Verdict::Deny;
            if !allowed {
                judged.denied_destinations.insert(flow.flow.destination);
            }
            match (allowed, flow.denied) {
                (false, false) => judged.deny.push(flow),
                (true, true) => judged.allow.push(flow),
                _ => {}
            }
        }
        judged
    }
}

impl Flows {
    pub(super) fn new() -> Result<Self, Error> {
        let conntrack = Socket::open(Protocol::Netfilter).map_err(failed)?;
        let route = Socket::open(Protocol::Route).map_err(failed)?;
        Ok(Self { conntrack, route })
    }

    /// The flows that somebody of these began, or answers after destination NAT. Without those that the
    /// node itself began: its own pods are always open to it.
    pub(super) fn of(&mut self, parties: &Parties) -> Result<Vec<TrackedFlow>, Error> {
        let own: HashSet<IpAddr> = addr::list(&mut self.route)
            .map_err(failed)?
            .into_iter()
            .map(|address| address.address)
            .collect();
        let mut flows: Vec<TrackedFlow> = self
            .entries(parties)?
            .into_iter()
            .filter(|entry| !own.contains(&entry.original.source))
            .map(tracked)
            .collect();
        flows.sort_by_key(|flow| flow.flow);
        Ok(flows)
    }

    fn entries(
        &mut self,
        Parties { addresses, ranges, .. }: &Parties,
    ) -> Result<Vec<Entry>, Error> {
        let few = addresses.len() <= FILTERED && addresses.iter().all(IpAddr::is_ipv4);
        if !few || !ranges.is_empty() {
            let set: HashSet<IpAddr> = addresses.iter().copied().collect();
            let ranges = disjoint(ranges);
            let concerned = |address: IpAddr| set.contains(&address) || is_in(&ranges, address);
            return conntrack::all(&mut self.conntrack, |entry| {
                let (initiator, responder) = (entry.original.source, entry.reply.source);
                (concerned(initiator) || concerned(responder)).then_some(entry)
            })
            .map_err(failed);
        }
        let mut entries = HashSet::new();
        for address in addresses {
            for role in [Role::Initiator, Role::Responder] {
                let found = conntrack::of_address(&mut self.conntrack, *address, role);
                entries.extend(found.map_err(failed)?);
            }
        }
        Ok(entries.into_iter().collect())
    }

    /// Cuts flows, or lets them go on; those that ended meanwhile are no error.
    pub(super) fn mark(&mut self, flows: &[TrackedFlow], denied: bool) -> Result<(), Error> {
        let mark = if denied { DENIED } else { 0 };
        for chunk in flows.chunks(CHUNK) {
            let mut batch = Batch::new();
            for flow in chunk {
                conntrack::set_mark(&mut batch, &flow.entry, mark, DENIED);
            }
            self.run(&mut batch)?;
        }
        Ok(())
    }

    /// Has host endpoints judge these flows again, with the next packet of each; or not any more, all of
    /// them.
    pub(super) fn judge_at_hosts(&mut self, parties: &Parties, again: bool) -> Result<(), Error> {
        let all = parties.at_hosts || !again;
        let entries = if all {
            conntrack::all(&mut self.conntrack, Some).map_err(failed)?
        } else {
            self.entries(parties)?
        };
        let mark = if again { AGAIN } else { 0 };
        let others: Vec<Entry> =
            entries.into_iter().filter(|entry| entry.mark & AGAIN != mark).collect();
        for chunk in others.chunks(CHUNK) {
            let mut batch = Batch::new();
            for entry in chunk {
                conntrack::set_mark(&mut batch, entry, mark, AGAIN);
            }
            self.run(&mut batch)?;
        }
        Ok(())
    }

    /// Forgets all flows of addresses that leave the node: their next owner does not inherit them.
    pub(super) fn forget(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let mut exact = Parties::default();
        let mut batch = Batch::new();
        for address in addresses {
            match address {
                IpAddr::V4(v4) => {
                    for role in [Role::Initiator, Role::Responder] {
                        conntrack::delete_of_address(&mut batch, *v4, role);
                    }
                }
                IpAddr::V6(_) => {
                    exact.addresses.insert(*address);
                }
            }
        }
        if !exact.is_empty() {
            for entry in self.entries(&exact)? {
                conntrack::delete(&mut batch, &entry);
            }
        }
        self.run(&mut batch)
    }

    /// Forgets all flows that somebody in these networks began or answers.
    pub(super) fn forget_within(&mut self, nets: &[IpNet]) -> Result<(), Error> {
        let within = |address: IpAddr| nets.iter().any(|net| net.contains(&address));
        let entries = conntrack::all(&mut self.conntrack, |entry| {
            (within(entry.original.source) || within(entry.reply.source)).then_some(entry)
        });
        for chunk in entries.map_err(failed)?.chunks(CHUNK) {
            let mut batch = Batch::new();
            for entry in chunk {
                conntrack::delete(&mut batch, entry);
            }
            self.run(&mut batch)?;
        }
        Ok(())
    }

    fn run(&mut self, batch: &mut Batch) -> Result<(), Error> {
        let failures = self.conntrack.execute(batch).map_err(failed)?;
        match failures.into_iter().find(|failure| !failure.error.is(libc::ENOENT)) {
            Some(failure) => Err(failed(failure.error.into())),
            None => Ok(()),
        }
    }
}

/// Ranges that do not overlap, in ascending order, of the same addresses.
fn disjoint(ranges: &BTreeSet<(IpAddr, IpAddr)>) -> Vec<(IpAddr, IpAddr)> {
    let mut out: Vec<(IpAddr, IpAddr)> = Vec::with_capacity(ranges.len());
    for &(first, last) in ranges {
        match out.last_mut() {
            Some(before) if first <= before.1 => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

fn is_in(disjoint: &[(IpAddr, IpAddr)], address: IpAddr) -> bool {
    let at = disjoint.partition_point(|(_, last)| *last < address);
    disjoint.get(at).is_some_and(|(first, _)| *first <= address)
}

fn tracked(entry: Entry) -> TrackedFlow {
    let destination_port = match (entry.original.layer4, entry.reply.layer4) {
        // The reply's source port is the destination port after NAT.
        (Layer4::Ports { .. }, Layer4::Ports { source, .. }) => source,
        (Layer4::Ports { destination, .. }, _) => destination,
        (Layer4::Icmp { kind, code, .. }, _) => u16::from_be_bytes([kind, code]),
        (Layer4::None, _) => 0,
    };
    let source_port = match entry.original.layer4 {
        Layer4::Ports { source, .. } => source,
        Layer4::Icmp { .. } | Layer4::None => 0,
    };
    TrackedFlow {
        flow: Flow {
            protocol: entry.original.protocol,
            source: entry.original.source,
            destination: entry.reply.source,
            source_port,
            destination_port,
        },
        denied: entry.mark & DENIED != 0,
        entry,
    }
}
