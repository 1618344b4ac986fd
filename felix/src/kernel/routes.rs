//! The writer of the agent's routes: main table, protocol [`PROTOCOL`], metric [`METRIC`]; no other
//! route is ever changed.
//!
//! What is there at start stays until the agent is in sync. Afterwards notifications tell what
//! other programs, or links that go, did to our routes: those are written again. A route whose
//! interface or gateway is not there yet waits for the notification that it came.

mod form;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ipnet::IpNet;
use netlink::route::{self, Route};
use netlink::{Batch, Protocol, Socket, addr, link};

use self::form::{destination, encode, same};
use super::{Error, Rejected, links};
use crate::model::{IfIndex, NextHop, RouteChange, RouteTarget};

/// `RTPROT_*` of our routes; unassigned in `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 90;
/// Metric of our routes, in both families. Nobody else uses it, so that replacing ours never
/// replaces another's. It loses against what the kernel and administrators write for links and
/// static routes (IPv4: 0, IPv6: 256), and wins against router advertisements (1024).
pub const METRIC: u32 = 512;

/// Messages in one send: enough for the least cost of each, few enough for the receive buffer to
/// hold an error for each.
const CHUNK: usize = 1000;

/// Counters and facts for metrics and status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteStatus {
    /// Routes that are wanted and in the kernel.
    pub installed: usize,
    /// Routes of ours in the kernel that nobody has asked for since the start: an earlier run's.
    pub found: usize,
    /// Routes that wait for their interface or gateway, and why; sorted.
    pub waiting: Vec<Rejected>,
    /// Routes written or deleted because somebody else had changed them.
    pub repairs: u64,
    /// Why the last operation failed as a whole; none once one succeeded.
    pub last_error: Option<String>,
}

/// A route that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedRoute {
    /// Where to.
    pub destination: IpNet,
    /// Which way.
    pub target: RouteTarget,
    /// It is in the kernel, and does not wait for an interface or a gateway.
    pub installed: bool,
}

#[derive(Debug)]
pub(super) struct Writer {
    socket: Socket,
    monitor: Socket,
    /// How our interfaces' names begin: of those, only the routes to them matter.
    prefix: String,
    /// Links that are switched on.
    up: HashSet<IfIndex>,
    wanted: BTreeMap<IpNet, RouteTarget>,
    /// Learned routes to what is this node's own: written once it is no longer.
    shadowed: BTreeMap<IpNet, RouteTarget>,
    /// What the kernel had at start and nobody asked for yet.
    found: BTreeMap<IpNet, Route>,
    /// Of our protocol, but with a metric that we do not write.
    strays: Vec<Route>,
    /// Where the kernel may differ from what is wanted.
    dirty: BTreeSet<IpNet>,
    /// Pods' links that went down, and those of them that came up again.
    fallen: HashSet<IfIndex>,
    revived: Vec<IfIndex>,
    /// Wanted, and not (or not wholly) in the kernel.
    waiting: BTreeMap<IpNet, String>,
    /// Try those again.
    retry: bool,
    /// Compare everything.
    recheck: bool,
    in_sync: bool,
    repairs: u64,
    last_error: Option<String>,
}

/// A route to what is on this node, or to what nothing is at yet. The others are learned.
fn is_own(target: &RouteTarget) -> bool {
    match target {
        RouteTarget::Link(_) | RouteTarget::Blackhole => true,
        RouteTarget::Via(_) => false,
    }
}

/// What was wanted of a route: with its destination.
type Wanted = (IpNet, Option<RouteTarget>);

impl Writer {
    /// Reads the kernel's routes. Notifications come from here on.
    pub(super) fn start(prefix: &str) -> Result<Self, Error> {
        let open = || -> netlink::Result<(Socket, Socket, HashSet<IfIndex>, Vec<Route>)> {
            let mut socket = Socket::open(Protocol::Route)?;
            let monitor = Socket::open(Protocol::Route)?;
            monitor.ignore_port(socket.port())?;
            for group in [
                link::NOTIFICATIONS,
                addr::NOTIFICATIONS_V4,
                addr::NOTIFICATIONS_V6,
                route::NOTIFICATIONS_V4,
                route::NOTIFICATIONS_V6,
            ] {
                monitor.subscribe(group)?;
            }
            let up = link::list(&mut socket)?;
            let up = up.iter().filter(|link| link.is_up()).map(|link| link.index).collect();
            let routes = route::list(&mut socket, route::MAIN, PROTOCOL)?;
            Ok((socket, monitor, up, routes))
        };
        let (socket, monitor, up, routes) =
            open().map_err(|error| Error::Kernel(format!("reading routes: {error}")))?;
        let mut writer = Self {
            socket,
            monitor,
            prefix: prefix.into(),
            up,
            wanted: BTreeMap::new(),
            shadowed: BTreeMap::new(),
            found: BTreeMap::new(),
            strays: Vec::new(),
            dirty: BTreeSet::new(),
            waiting: BTreeMap::new(),
            fallen: HashSet::new(),
            revived: Vec::new(),
            retry: false,
            recheck: false,
            in_sync: false,
            repairs: 0,
            last_error: None,
        };
        for route in routes {
            match destination(&route) {
                Some(net) if route.metric == METRIC => drop(writer.found.insert(net, route)),
                _ => writer.strays.push(route),
            }
        }
        Ok(writer)
    }

    /// Becomes readable when there are notifications for [`Writer::listen`].
    pub(super) fn monitor(&self) -> &Socket {
        &self.monitor
    }

    /// Takes a change of this node's own routes; [`Writer::flush`] writes it.
    pub(super) fn change_own(&mut self, change: RouteChange) {
        let destination = change.destination.trunc();
        let there = self.wanted.get(&destination);
        let target = match (change.target, there) {
            (Some(own), Some(learned)) if !is_own(learned) => {
                self.shadowed.insert(destination, learned.clone());
                Some(own)
            }
            (Some(own), _) => Some(own),
            // Somebody else's: an own one was never wanted.
            (None, Some(learned)) if !is_own(learned) => return,
            (None, _) => self.shadowed.remove(&destination),
        };
        self.change(destination, target);
    }

    /// Takes a change of the routes that peers told; [`Writer::flush`] writes it unless this node
    /// has a route of its own to the same destination.
    pub(super) fn change_learned(&mut self, change: RouteChange) {
        let destination = change.destination.trunc();
        if !self.wanted.get(&destination).is_some_and(is_own) {
            return self.change(destination, change.target);
        }
        match change.target {
            Some(learned) => drop(self.shadowed.insert(destination, learned)),
            None => drop(self.shadowed.remove(&destination)),
        }
    }

    fn change(&mut self, destination: IpNet, wanted: Option<RouteTarget>) {
        let change = RouteChange { destination, target: wanted };
        let before = match &change.target {
            Some(target) => self.wanted.insert(destination, target.clone()),
            None => self.wanted.remove(&destination),
        };
        if before == change.target && !self.waiting.contains_key(&destination) {
            return;
        }
        self.waiting.remove(&destination);
        let there = self.found.remove(&destination);
        if let (Some(target), Some(there)) = (&change.target, &there)
            && same(there, &destination, target)
        {
            self.dirty.remove(&destination);
            return;
        }
        if change.target.is_none() && before.is_none() && !self.in_sync {
            // Not ours to say yet.
            self.found.extend(there.map(|there| (destination, there)));
            return;
        }
        self.dirty.insert(destination);
    }

    /// What is wanted is complete: what else is there goes with the next flush.
    pub(super) fn set_in_sync(&mut self) {
        self.in_sync = true;
        self.dirty.extend(std::mem::take(&mut self.found).into_keys());
        self.recheck |= !self.strays.is_empty();
    }

    /// The link came up: routes to it need not wait for its notification.
    pub(super) fn link_came(&mut self, index: IfIndex) {
        let to_it = |target: Option<&RouteTarget>| target == Some(&RouteTarget::Link(index));
        let due = self.waiting.keys().filter(|net| to_it(self.wanted.get(*net))).copied();
        self.dirty.extend(due.collect::<Vec<_>>());
    }

    /// Whether the last flush failed as a whole.
    pub(super) fn unwritten(&self) -> bool {
        self.last_error.is_some()
    }

    /// Why a route is not in the kernel, if it is wanted and is not.
    pub(super) fn waiting(&self, destination: &IpNet) -> Option<&str> {
        self.waiting.get(&destination.trunc()).map(String::as_str)
    }

    /// Those of our routes that go to this interface and wait.
    pub(super) fn waiting_for(&self, index: IfIndex) -> Option<(IpNet, &str)> {
        self.waiting
            .iter()
            .find(|(net, _)| self.wanted.get(net) == Some(&RouteTarget::Link(index)))
            .map(|(net, why)| (*net, why.as_str()))
    }

    /// The routes that are wanted, and whether each is in the kernel.
    pub(super) fn list(&self) -> Vec<WantedRoute> {
        let row = |(destination, target): (&IpNet, &RouteTarget)| WantedRoute {
            destination: *destination,
            target: target.clone(),
            installed: !self.waiting.contains_key(destination),
        };
        self.wanted.iter().map(row).collect()
    }

    pub(super) fn status(&self) -> RouteStatus {
        RouteStatus {
            installed: self.wanted.len() - self.waiting.len(),
            found: self.found.len(),
            waiting: self
                .waiting
                .iter()
                .map(|(net, reason)| Rejected {
                    object: format!("route {net}"),
                    reason: reason.clone(),
                })
                .collect(),
            repairs: self.repairs,
            last_error: self.last_error.clone(),
        }
    }

    /// Reads all notifications that came; [`Writer::flush`] acts on them.
    pub(super) fn listen(&mut self) {
        let before = self.dirty.len();
        self.drain();
        self.repairs += (self.dirty.len() - before) as u64;
    }

    fn drain(&mut self) {
        loop {
            let messages = match self.monitor.receive() {
                Ok(None) => return,
                Ok(Some(messages)) => messages,
                Err(netlink::Error::Overrun) => {
                    self.recheck = true;
                    self.retry = true;
                    continue;
                }
                Err(error) => {
                    self.last_error = Some(format!("reading notifications: {error}"));
                    self.recheck = true;
                    return;
                }
            };
            for message in messages {
                if let Some(event) = route::event(&message) {
                    hear_route(&self.wanted, &mut self.dirty, &mut self.strays, event);
                } else if let Some(event) = link::event(&message) {
                    let (link, removed) = match event {
                        link::Event::Changed(link) => (link, false),
                        link::Event::Removed(link) => (link, true),
                    };
                    let up = !removed && link.is_up();
                    let gone = !up && self.up.remove(&link.index);
                    if up {
                        self.up.insert(link.index);
                    }
                    let ours = link.name.starts_with(&self.prefix);
                    if removed {
                        self.fallen.remove(&link.index);
                    } else if gone && ours {
                        self.fallen.insert(link.index);
                    } else if up && self.fallen.remove(&link.index) {
                        self.revived.push(link.index);
                    }
                    // The kernel drops the IPv4 routes of a link that goes without a word.
                    if gone && ours {
                        let target = RouteTarget::Link(link.index);
                        let to_it = self.wanted.iter().filter(|(_, to)| **to == target);
                        self.dirty.extend(to_it.map(|(net, _)| *net));
                    }
                    self.recheck |= gone && !ours;
                    self.retry |= up;
                } else if addr::is_event(&message) {
                    // The last address of a link takes the IPv4 routes along, silently as well.
                    self.recheck |= addr::is_removal(&message);
                    self.retry = true;
                }
            }
            // Any other route that came can be the one that leads to a gateway.
            self.retry |= !self.waiting.is_empty();
        }
    }

    /// Makes the kernel have what is wanted. Routes that cannot be written now wait; an error is
    /// one that concerns all of them.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        let result = self.try_flush().map_err(|error| Error::Kernel(format!("routes: {error}")));
        self.last_error = result.as_ref().err().map(Error::to_string);
        result
    }

    /// A link that goes down loses its IPv6 addresses, and with them the pod's gateway: without an
    /// address of its own the node cannot ask for the pod's.
    fn restore_gateways(&mut self) -> netlink::Result<()> {
        let mut batch = Batch::new();
        for index in self.revived.drain(..) {
            let target = RouteTarget::Link(index);
            if self.wanted.iter().any(|(net, to)| net.addr().is_ipv6() && *to == target) {
                addr::add(&mut batch, &links::gateway_v6(index));
                self.repairs += 1;
            }
        }
        // What is refused is there already, or the link is not any more.
        self.socket.execute(&mut batch).map(drop)
    }

    fn try_flush(&mut self) -> netlink::Result<()> {
        self.restore_gateways()?;
        if std::mem::take(&mut self.recheck)
            && let Err(error) = self.compare()
        {
            self.recheck = true;
            return Err(error);
        }
        if std::mem::take(&mut self.retry) {
            self.dirty.extend(self.waiting.keys().copied());
        }
        if self.in_sync {
            self.delete_strays()?;
        }
        let due: Vec<Wanted> = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|net| (net, self.wanted.get(&net).cloned()))
            .collect();
        for (done, chunk) in due.chunks(CHUNK).enumerate() {
            if let Err(error) = self.write(chunk) {
                self.dirty.extend(due[done * CHUNK..].iter().map(|(net, _)| *net));
                return Err(error);
            }
        }
        Ok(())
    }

    fn write(&mut self, chunk: &[Wanted]) -> netlink::Result<()> {
        let mut batch = Batch::new();
        for (net, target) in chunk {
            match target {
                Some(target) => route::replace(&mut batch, &encode(net, target)),
                None => route::delete(&mut batch, &encode(net, &RouteTarget::Blackhole)),
            }
        }
        let failures = self.socket.execute(&mut batch)?;
        let mut failed: BTreeMap<usize, netlink::KernelError> =
            failures.into_iter().map(|failure| (failure.index, failure.error)).collect();
        for (index, (net, target)) in chunk.iter().enumerate() {
            match (failed.remove(&index), target) {
                (None, _) => drop(self.waiting.remove(net)),
                // It was gone already.
                (Some(_), None) => {}
                (Some(error), Some(target)) => {
                    let reason = self.write_part(net, target, error)?;
                    self.waiting.insert(*net, reason);
                }
            }
        }
        Ok(())
    }

    /// Of a route with several ways out, writes those that work: they carry its traffic until the
    /// others do. Returns what was wrong with the whole.
    fn write_part(
        &mut self,
        net: &IpNet,
        target: &RouteTarget,
        error: netlink::KernelError,
    ) -> netlink::Result<String> {
        let RouteTarget::Via(hops) = target else { return Ok(error.to_string()) };
        let mut working: Vec<NextHop> = Vec::new();
        if hops.len() > 1 {
            for hop in hops {
                let mut tried = working.clone();
                tried.push(*hop);
                let mut batch = Batch::new();
                let tried = RouteTarget::Via(tried.into());
                route::replace(&mut batch, &encode(net, &tried));
                if self.socket.execute(&mut batch)?.is_empty() {
                    working.push(*hop);
                }
            }
        }
        if working.is_empty() {
            // What was there before is not what is wanted: rather no way than a wrong one.
            let mut batch = Batch::new();
            route::delete(&mut batch, &encode(net, &RouteTarget::Blackhole));
            self.socket.execute(&mut batch)?;
            return Ok(error.to_string());
        }
        Ok(format!("{error}; {} of {} next hops in use", working.len(), hops.len()))
    }

    fn delete_strays(&mut self) -> netlink::Result<()> {
        let strays = std::mem::take(&mut self.strays);
        for chunk in strays.chunks(CHUNK) {
            let mut batch = Batch::new();
            for stray in chunk {
                route::delete(&mut batch, stray);
            }
            self.socket.execute(&mut batch)?;
            self.repairs += chunk.len() as u64;
        }
        Ok(())
    }

    /// Reads our routes and finds the differences.
    fn compare(&mut self) -> netlink::Result<()> {
        let mut there = BTreeMap::new();
        self.strays.clear();
        for route in route::list(&mut self.socket, route::MAIN, PROTOCOL)? {
            match destination(&route) {
                Some(net) if route.metric == METRIC => drop(there.insert(net, route)),
                _ => self.strays.push(route),
            }
        }
        for (net, target) in &self.wanted {
            let as_wanted = there.remove(net).is_some_and(|route| same(&route, net, target));
            if !as_wanted && !self.waiting.contains_key(net) && self.dirty.insert(*net) {
                self.repairs += 1;
            }
        }
        if self.in_sync {
            for net in there.into_keys() {
                self.repairs += u64::from(self.dirty.insert(net));
            }
        } else {
            self.found.retain(|net, _| there.contains_key(net));
        }
        Ok(())
    }
}

/// What another program did to a route.
fn hear_route(
    wanted: &BTreeMap<IpNet, RouteTarget>,
    dirty: &mut BTreeSet<IpNet>,
    strays: &mut Vec<Route>,
    event: route::Event,
) {
    let (route, exists) = match event {
        route::Event::Changed(route) => (route, true),
        route::Event::Removed(route) => (route, false),
    };
    let Some(net) = destination(&route) else { return };
    if route.table != route::MAIN {
        return;
    }
    let ours = route.protocol == PROTOCOL;
    match wanted.get(&net) {
        // Ours was deleted, changed, or replaced by theirs.
        Some(target) if route.metric == METRIC => {
            let as_wanted = exists && ours && same(&route, &net, target);
            // What others delete of their own is nothing to us.
            let concerns = (exists || ours) && !as_wanted;
            dirty.extend(concerns.then_some(net));
        }
        // Somebody wrote a route in our name.
        _ if ours && exists => strays.push(route),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
