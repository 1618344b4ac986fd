//! Pod plumbing: the veth pair of an endpoint, each end born in the namespace where it stays, with
//! its addresses, routes and neighbours (`169.254.1.1` and `fe80::ecee:eeff:feee:eeee`, as Calico's).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use netlink::addr::Address;
use netlink::link::{self, AddrGenMode, InetConf, Link, Veth};
use netlink::neigh::{self, Neighbour};
use netlink::netns::Netns;
use netlink::route::{self, Hop, Kind, Route};
use netlink::{Batch, Protocol, Socket, addr};

use super::Error;
use crate::model::{IfIndex, LocalEndpoint};

/// MAC address of the host's end of every pair: `ee:ee:ee:ee:ee:ee`.
pub const HOST_MAC: [u8; 6] = [0xee; 6];
/// The pod's IPv4 default gateway: on no interface, its MAC address is known beforehand.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pod's IPv6 default gateway: what [`HOST_MAC`] gives by RFC 4291 appendix A.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// `IFLA_GROUP` of the host's ends: by it, and their MAC address, links are known as ours.
pub const GROUP: u32 = 0xca_1000;
/// The group into which links are put that are to be deleted, all at once.
const CONDEMNED: u32 = 0xca_1001;
/// `RTPROT_STATIC`, for the two routes inside the pod.
const POD_PROTOCOL: u8 = 4;

/// What a host's end is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkId {
    pub(super) name: String,
    pub(super) index: IfIndex,
}

impl LinkId {
    pub(super) fn of(endpoint: &LocalEndpoint) -> Self {
        Self { name: endpoint.host_interface.clone(), index: endpoint.host_index }
    }
}

/// What creates, checks and deletes links, in the namespace that it was made in. For one thread.
#[derive(Debug)]
pub(super) struct Plumber {
    socket: Socket,
    host: Netns,
}

fn failed(what: &str) -> impl Fn(netlink::Error) -> Error + '_ {
    move |error| Error::Kernel(format!("{what}: {error}"))
}

impl Plumber {
    pub(super) fn new() -> Result<Self, Error> {
        let socket = Socket::open(Protocol::Route).map_err(failed("links"))?;
        let host = Netns::current()
            .map_err(|error| Error::Kernel(format!("the host's network namespace: {error}")))?;
        Ok(Self { socket, host })
    }

    /// Makes an endpoint's link, which carries nothing before [`Plumber::open`]: needs all of the
    /// endpoint but its addresses. After an error nothing of it is left.
    pub(super) fn prepare(&mut self, endpoint: &LocalEndpoint) -> Result<PreparedLink, Error> {
        let pod = self.open_pod(endpoint)?;
        check_names(endpoint)?;
        self.add_pair(endpoint, &pod)?;
        let within = inside(endpoint);
        let prepared = pod
            .run(|| PreparedLink::within(&endpoint.id.ifname))
            .map_err(|error| Error::Kernel(format!("{within}: {error}")))
            .and_then(|prepared| prepared.map_err(failed(&within)));
        self.or_delete(endpoint, prepared)
    }

    /// Gives a link its addresses and sets it up: when this returns, the pod's traffic meets the
    /// policy of `host_index`. After an error nothing of it is left.
    pub(super) fn open(
        &mut self,
        mut link: PreparedLink,
        endpoint: &LocalEndpoint,
    ) -> Result<(), Error> {
        let opened = self
            .set_up_host(endpoint)
            .map_err(failed(&format!("interface {}", endpoint.host_interface)))
            .and_then(|()| link.set_up(endpoint));
        self.or_delete(endpoint, opened)
    }

    fn or_delete<T>(
        &mut self,
        endpoint: &LocalEndpoint,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        if done.is_err() {
            let mut batch = Batch::new();
            link::delete(&mut batch, endpoint.host_index);
            if let Err(error) = self.socket.apply(&mut batch) {
                let name = &endpoint.host_interface;
                tracing::warn!(interface = %name, %error, "a half-made link stays");
            }
        }
        done
    }

    fn open_pod(&self, endpoint: &LocalEndpoint) -> Result<Netns, Error> {
        let path = &endpoint.netns;
        let wrong = |error| Error::Kernel(format!("network namespace {path}: {error}"));
        let pod = Netns::open(path).map_err(wrong)?;
        if pod.id().map_err(wrong)? == self.host.id().map_err(wrong)? {
            return Err(Error::Kernel(format!("network namespace {path}: is the host's own")));
        }
        Ok(pod)
    }

    fn add_pair(&mut self, endpoint: &LocalEndpoint, pod: &Netns) -> Result<(), Error> {
        let name = &endpoint.host_interface;
        let mut batch = Batch::new();
        link::add_veth(
            &mut batch,
            &Veth {
                name,
                index: endpoint.host_index,
                mac: HOST_MAC,
                group: GROUP,
                peer_name: &endpoint.id.ifname,
                peer_mac: endpoint.mac,
                peer_netns: pod.as_fd(),
                mtu: endpoint.mtu,
            },
        );
        match self.socket.apply(&mut batch) {
            Ok(()) => return Ok(()),
            Err(error) if error.is(libc::EEXIST) => {}
            Err(error) => return Err(failed(&format!("interface {name}"))(error)),
        }
        // Something has the name here, the name there, or the index.
        if let Some(stale) = link::by_name(&mut self.socket, name).map_err(failed(name))? {
            if !is_ours(&stale) {
                return Err(exists(name, "and is not an endpoint's"));
            }
            if stale.is_running() {
                return Err(exists(name, "and its pod's end is up: delete that attachment first"));
            }
            tracing::info!(interface = %name, "a dead link is replaced");
            let mut delete = Batch::new();
            link::delete(&mut delete, stale.index);
            self.socket.apply(&mut delete).map_err(failed(name))?;
            match self.socket.apply(&mut batch) {
                Ok(()) => return Ok(()),
                Err(error) if error.is(libc::EEXIST) => {}
                Err(error) => return Err(failed(&format!("interface {name}"))(error)),
            }
        }
        let index = endpoint.host_index;
        if let Some(other) = link::by_index(&mut self.socket, index).map_err(failed(name))? {
            return Err(exists(&format!("index {index}"), &format!("as {}", other.name)));
        }
        Err(exists(&endpoint.id.ifname, &format!("in network namespace {}", endpoint.netns)))
    }

    fn set_up_host(&mut self, endpoint: &LocalEndpoint) -> netlink::Result<()> {
        let index = endpoint.host_index;
        let v6 = endpoint.addresses.iter().any(IpAddr::is_ipv6);
        let mut batch = Batch::new();
        let conf = [(InetConf::Forwarding, 1), (InetConf::ProxyArp, 1)];
        link::set_conf(&mut batch, index, &conf, v6.then_some(AddrGenMode::None));
        link::set_up(&mut batch, index);
        if v6 {
            addr::add(&mut batch, &gateway_v6(index));
        }
        for address in &endpoint.addresses {
            neigh::set(&mut batch, &Neighbour { index, address: *address, mac: endpoint.mac });
        }
        self.socket.apply(&mut batch)?;
        if v6 {
            let file = conf6(&endpoint.host_interface, "accept_ra");
            std::fs::write(file, "0")
                .map_err(|source| netlink::Error::Io { action: "set accept_ra to 0", source })?;
        }
        Ok(())
    }

    /// Deletes links, all at once. Those that do not exist, or are not ours, are left alone and no
    /// error; so is one of that name with another index, which is another endpoint's.
    pub(super) fn delete(&mut self, links: &[LinkId]) -> Result<(), Error> {
        let mut ours = Vec::new();
        for LinkId { name, index } in links {
            if let Some(link) = link::by_name(&mut self.socket, name).map_err(failed(name))?
                && is_ours(&link)
                && link.index == *index
            {
                ours.push(link.index);
            }
        }
        let mut batch = Batch::new();
        match ours[..] {
            [] => return Ok(()),
            [index] => link::delete(&mut batch, index),
            _ => {
                // Each deletion of its own waits for all processors to let go of the link.
                for index in &ours {
                    link::set_group(&mut batch, *index, CONDEMNED);
                }
                link::delete_group(&mut batch, CONDEMNED);
            }
        }
        for failure in self.socket.execute(&mut batch).map_err(failed("deleting links"))? {
            // Gone with its pod's namespace in the meantime.
            if !failure.error.is(libc::ENODEV) {
                return Err(Error::Kernel(format!("deleting links: {}", failure.error)));
            }
        }
        Ok(())
    }

    /// The host's ends of all endpoints' links.
    pub(super) fn list(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = link::list(&mut self.socket).map_err(failed("listing links"))?;
        links.retain(is_ours);
        Ok(links)
    }

    /// The highest interface index there is.
    pub(super) fn highest_index(&mut self) -> Result<IfIndex, Error> {
        let links = link::list(&mut self.socket).map_err(failed("listing links"))?;
        Ok(links.iter().map(|link| link.index).max().unwrap_or(0))
    }

    /// Compares the kernel with what [`Plumber::prepare`] and [`Plumber::open`] made: a line for each
    /// thing that is missing or different.
    pub(super) fn check(&mut self, endpoint: &LocalEndpoint) -> Result<Vec<String>, Error> {
        let name = &endpoint.host_interface;
        let mut wrong = Vec::new();
        match link::by_name(&mut self.socket, name).map_err(failed(name))? {
            None => wrong.push(format!("interface {name} does not exist")),
            Some(link) => {
                expect(&mut wrong, name, "index", &link.index, &endpoint.host_index);
                expect(&mut wrong, name, "MTU", &link.mtu, &endpoint.mtu);
                expect(&mut wrong, name, "MAC address", &link.mac, &Some(HOST_MAC));
                expect(&mut wrong, name, "up", &link.is_up(), &true);
                let own = addr::list(&mut self.socket).map_err(failed(name))?;
                let v6 = endpoint.addresses.iter().any(IpAddr::is_ipv6);
                if v6 && !own.contains(&gateway_v6(link.index)) {
                    wrong.push(format!("interface {name}: address {GATEWAY_V6} is missing"));
                }
                let there = neigh::list(&mut self.socket).map_err(failed(name))?;
                // A missing entry is none of it: a link that was down loses its own, and the kernel
                // then resolves the address as on any other link.
                for entry in there.iter().filter(|entry| entry.index == link.index) {
                    if endpoint.addresses.contains(&entry.address) && entry.mac != endpoint.mac {
                        wrong.push(format!("interface {name}: {} is another's", entry.address));
                    }
                }
            }
        }
        for address in &endpoint.addresses {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let hop = Hop { gateway: None, interface: Some(endpoint.host_index) };
            match route::lookup(&mut self.socket, *address) {
                Ok(route) if route.destination == (*address, bits) && route.hops == [hop] => {}
                Ok(_) => wrong.push(format!("{address} is not routed to interface {name}")),
                Err(error) => wrong.push(format!("{address} has no route: {error}")),
            }
        }
        match Netns::open(&endpoint.netns).and_then(|pod| pod.run(|| check_pod(endpoint))) {
            Ok(Ok(lines)) => wrong.extend(lines),
            Ok(Err(error)) => return Err(Error::Kernel(format!("{}: {error}", endpoint.netns))),
            Err(error) => wrong.push(format!("network namespace {}: {error}", endpoint.netns)),
        }
        Ok(wrong)
    }
}

impl Plumber {
    /// The route that packets to an address take now, as `ip route` has it.
    pub(super) fn route(&mut self, address: IpAddr) -> Result<String, Error> {
        let found = self.look_up(address)?;
        let (destination, bits) = found.destination;
        let mut text = match found.kind {
            Kind::Blackhole => format!("blackhole {destination}/{bits}"),
            Kind::Other(kind) if kind == libc::RTN_LOCAL => {
                format!("local {destination}/{bits}")
            }
            _ => format!("{destination}/{bits}"),
        };
        for hop in &found.hops {
            if let Some(gateway) = hop.gateway {
                text.push_str(&format!(" via {gateway}"));
            }
            if let Some(index) = hop.interface {
                let link = link::by_index(&mut self.socket, index).ok().flatten();
                let name = link.map_or_else(|| format!("#{index}"), |link| link.name);
                text.push_str(&format!(" dev {name}"));
            }
        }
        Ok(text)
    }

    /// The interface of the first hop on the way to an address.
    pub(super) fn interface_to(&mut self, address: IpAddr) -> Result<Option<IfIndex>, Error> {
        let found = self.look_up(address)?;
        Ok(found.hops.iter().find_map(|hop| hop.interface))
    }

    fn look_up(&mut self, address: IpAddr) -> Result<Route, Error> {
        let found = route::lookup(&mut self.socket, address);
        found.map_err(|error| Error::Kernel(format!("{address}: {error}")))
    }
}

/// The pod's IPv6 gateway, as an address of the host's end.
pub(super) fn gateway_v6(index: IfIndex) -> Address {
    Address { index, address: GATEWAY_V6.into(), prefix_length: 64 }
}

fn exists(what: &str, more: &str) -> Error {
    Error::Exists(format!("interface {what} exists already {more}"))
}

fn expect<T: PartialEq + std::fmt::Debug>(
    wrong: &mut Vec<String>,
    interface: &str,
    what: &str,
    there: &T,
    wanted: &T,
) {
    if there != wanted {
        wrong.push(format!("interface {interface}: {what} is {there:?}, not {wanted:?}"));
    }
}

/// Made by this agent, whatever its name: the group alone could be somebody else's choice.
fn is_ours(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
        && matches!(link.group, GROUP | CONDEMNED)
        && link.mac == Some(HOST_MAC)
}

/// Interface names become parts of paths under `/proc/sys`.
fn check_names(endpoint: &LocalEndpoint) -> Result<(), Error> {
    for name in [&endpoint.host_interface, &endpoint.id.ifname] {
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if name.is_empty()
            || name.len() > link::NAME_MAX
            || name == "."
            || name == ".."
            || name.contains(bad)
        {
            return Err(Error::Kernel(format!("{name:?} is not an interface name")));
        }
    }
    Ok(())
}

fn conf6(interface: &str, key: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv6/conf").join(interface).join(key)
}

fn pod_routes(address: &IpAddr, index: IfIndex) -> Vec<Route> {
    let route = |destination, gateway: Option<IpAddr>| Route {
        destination,
        table: route::MAIN,
        protocol: POD_PROTOCOL,
        // IPv6 has 1024 where IPv4 has 0; saying so makes what is read equal to what is written.
        metric: if address.is_ipv4() { 0 } else { 1024 },
        kind: Kind::Unicast,
        hops: vec![Hop { gateway, interface: Some(index) }],
    };
    match address {
        IpAddr::V4(_) => vec![
            route((GATEWAY_V4.into(), 32), None),
            route((Ipv4Addr::UNSPECIFIED.into(), 0), Some(GATEWAY_V4.into())),
        ],
        IpAddr::V6(_) => {
            vec![route((Ipv6Addr::UNSPECIFIED.into(), 0), Some(GATEWAY_V6.into()))]
        }
    }
}

fn pod_neighbour(address: &IpAddr, index: IfIndex) -> Neighbour {
    let gateway = if address.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() };
    Neighbour { index, address: gateway, mac: HOST_MAC }
}

fn pod_address(address: &IpAddr, index: IfIndex) -> Address {
    Address { index, address: *address, prefix_length: if address.is_ipv4() { 32 } else { 128 } }
}

/// A link that is made and down, seen from inside its pod.
#[derive(Debug)]
pub struct PreparedLink {
    /// In the pod's namespace, which lives as long as this.
    socket: Socket,
    index: IfIndex,
    /// Some runtimes switch IPv6 off in new namespaces.
    ipv6_is_off: bool,
}

impl PreparedLink {
    /// On a thread in the pod's namespace.
    fn within(ifname: &str) -> netlink::Result<Self> {
        let mut socket = Socket::open(Protocol::Route)?;
        let index = link::by_name(&mut socket, ifname)?
            .ok_or(netlink::Error::Unexpected("the interface is gone"))?
            .index;
        Ok(Self { socket, index, ipv6_is_off: !ipv6_switches(ifname).is_empty() })
    }

    fn set_up(&mut self, endpoint: &LocalEndpoint) -> Result<(), Error> {
        let index = self.index;
        let within = inside(endpoint);
        if self.ipv6_is_off && endpoint.addresses.iter().any(IpAddr::is_ipv6) {
            Netns::open(&endpoint.netns)
                .and_then(|pod| pod.run(|| enable_ipv6(&endpoint.id.ifname)))
                .and_then(|enabled| enabled)
                .map_err(|error| Error::Kernel(format!("{within}: enable IPv6: {error}")))?;
        }
        let mut batch = Batch::new();
        link::set_up_by_name(&mut batch, "lo");
        link::set_up(&mut batch, index);
        for address in &endpoint.addresses {
            addr::add(&mut batch, &pod_address(address, index));
            neigh::set(&mut batch, &pod_neighbour(address, index));
            for route in pod_routes(address, index) {
                route::add(&mut batch, &route);
            }
        }
        self.socket.apply(&mut batch).map_err(failed(&within))
    }
}

/// How messages call the pod's end of the link.
fn inside(endpoint: &LocalEndpoint) -> String {
    format!("interface {} in network namespace {}", endpoint.id.ifname, endpoint.netns)
}

/// What keeps an interface of the calling thread's namespace from using IPv6.
fn ipv6_switches(ifname: &str) -> Vec<PathBuf> {
    let files = ["all", "default", "lo", ifname].map(|interface| conf6(interface, "disable_ipv6"));
    let is_on = |file: &PathBuf| std::fs::read(file).is_ok_and(|value| value.starts_with(b"1"));
    files.into_iter().filter(is_on).collect()
}

fn enable_ipv6(ifname: &str) -> std::io::Result<()> {
    ipv6_switches(ifname).into_iter().try_for_each(|file| std::fs::write(file, "0"))
}

fn check_pod(endpoint: &LocalEndpoint) -> netlink::Result<Vec<String>> {
    let ifname = &endpoint.id.ifname;
    let mut wrong = Vec::new();
    let mut socket = Socket::open(Protocol::Route)?;
    let Some(link) = link::by_name(&mut socket, ifname)? else {
        return Ok(vec![format!("interface {ifname} does not exist in the pod")]);
    };
    let within = format!("{ifname} in the pod");
    expect(&mut wrong, &within, "MTU", &link.mtu, &endpoint.mtu);
    expect(&mut wrong, &within, "MAC address", &link.mac, &Some(endpoint.mac));
    expect(&mut wrong, &within, "up", &link.is_up(), &true);
    let addresses = addr::list(&mut socket)?;
    let neighbours = neigh::list(&mut socket)?;
    let routes = route::list(&mut socket, route::MAIN, POD_PROTOCOL)?;
    for address in &endpoint.addresses {
        if !addresses.contains(&pod_address(address, link.index)) {
            wrong.push(format!("interface {within}: address {address} is missing"));
        }
        let neighbour = pod_neighbour(address, link.index);
        if !neighbours.contains(&neighbour) {
            wrong.push(format!(
                "interface {within}: gateway {} has no neighbour entry",
                neighbour.address
            ));
        }
        for route in pod_routes(address, link.index) {
            if !routes.contains(&route) {
                let (net, bits) = route.destination;
                wrong.push(format!("interface {within}: route {net}/{bits} is missing"));
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests;
