//! The node's addresses, link by link, kept up to date by the kernel's notifications.
//!
//! A notification says only that something is different; what holds is read anew. Nothing is lost
//! with notifications that the socket had no room for, therefore: they lead to another reading.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::engine::HostLink;
use crate::model::host::InterfaceName;
use crate::peering::Link;

/// What may change the addresses of a link.
const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// Notifications of this time lead to one reading: every pod that starts or ends brings some.
const SETTLE: Duration = Duration::from_millis(200);

/// Until the kernel is asked again after it could not be.
const PAUSE: Duration = Duration::from_secs(1);

/// The most that one reading may take.
const READING: Duration = Duration::from_secs(10);

/// Starts to follow the node's links. What is returned holds them already; without the kernel's
/// answer it is empty at first, and sessions name the node's own addresses.
pub(super) async fn subscribe(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> watch::Receiver<Arc<[Link]>> {
    subscribe_both(tasks, stop).await.0
}

/// The same with the links' names.
pub(super) async fn subscribe_named(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> watch::Receiver<Arc<[HostLink]>> {
    subscribe_both(tasks, stop).await.1
}

async fn subscribe_both(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> (watch::Receiver<Arc<[Link]>>, watch::Receiver<Arc<[HostLink]>>) {
    let (links, receiver) = watch::channel(Arc::default());
    let (named, with_names) = watch::channel(Arc::default());
    let links = Senders { links, named };
    let first = Subscription::open(&links).await;
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow(first, &links) => {}
        }
        Ok(())
    });
    (receiver, with_names)
}

/// The MTU of the narrowest uplink, in bytes: every pod can be reached over each. None if there is
/// no uplink that is up, or the kernel does not say.
pub(super) async fn uplink_mtu() -> Option<u32> {
    let (querying, queries, _) = rtnetlink::new_connection().ok()?;
    let mut served = JoinSet::new();
    served.spawn(querying);
    let listing = queries.link().get().execute().try_collect::<Vec<LinkMessage>>();
    match tokio::time::timeout(READING, listing).await.ok()? {
        Ok(messages) => narrowest(&messages),
        Err(error) => {
            tracing::warn!(%error, "the uplinks' MTU cannot be read");
            None
        }
    }
}

/// The index of an interface.
///
/// # Errors
/// There is none of that name, or the kernel does not say.
pub(super) async fn index_of(name: &str) -> anyhow::Result<u32> {
    let (querying, queries, _) = rtnetlink::new_connection()?;
    let mut served = JoinSet::new();
    served.spawn(querying);
    let mut answers = queries.link().get().match_name(name.to_owned()).execute();
    let found = tokio::time::timeout(READING, answers.try_next()).await?;
    let found = found.with_context(|| format!("interface {name}"))?;
    Ok(found.with_context(|| format!("there is no interface {name}"))?.header.index)
}

fn narrowest(messages: &[LinkMessage]) -> Option<u32> {
    let mtu = |message: &LinkMessage| {
        let mut name = None;
        let mut mtu = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.as_str()),
                LinkAttribute::Mtu(bytes) => mtu = Some(*bytes),
                _ => {}
            }
        }
        let up = message.header.flags.contains(LinkFlags::Up);
        mtu.filter(|_| up && name.is_some_and(is_uplink))
    };
    messages.iter().filter_map(mtu).min()
}

/// Calico's default for `mtuIfacePattern`:
/// `^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)`.
fn is_uplink(name: &str) -> bool {
    let predictable = |prefix: &&str| {
        let rest = name.strip_prefix(*prefix).unwrap_or_default();
        rest.starts_with(['P', 'c', 'o', 'p', 's', 'v', 'x'])
    };
    ["eth", "wlan", "wwan"].iter().any(|prefix| name.starts_with(prefix))
        || ["en", "wl", "ww", "sl", "ib"].iter().any(predictable)
}

/// Keeps a subscription, with a pause before each new one. Never ends.
async fn follow(mut subscription: Result<Subscription, Failure>, links: &Senders) {
    loop {
        let failure = match subscription {
            Ok(subscription) => subscription.run(links).await,
            Err(failure) => failure,
        };
        tracing::warn!(%failure, "the node's addresses are read again");
        tokio::time::sleep(PAUSE).await;
        subscription = Subscription::open(links).await;
    }
}

/// Why the links are not known for now.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    #[error("listing addresses: {0}")]
    List(#[from] rtnetlink::Error),
    #[error("listing addresses took more than {} s", READING.as_secs())]
    Slow,
    #[error("the notifications have ended")]
    Ended,
}

struct Subscription {
    notifications: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// On a socket of its own, which notifications cannot fill.
    queries: Handle,
    /// The tasks that serve the two sockets end with the subscription.
    _served: JoinSet<()>,
}

impl Subscription {
    /// Subscribes, then reads: what changes in between is notified.
    async fn open(links: &Senders) -> Result<Self, Failure> {
        let (notifying, _, notifications) = rtnetlink::new_multicast_connection(&GROUPS)?;
        let (querying, queries, _) = rtnetlink::new_connection()?;
        let mut served = JoinSet::new();
        served.spawn(notifying);
        served.spawn(querying);
        let subscription = Self { notifications, queries, _served: served };
        subscription.read(links).await?;
        Ok(subscription)
    }

    /// Follows until something fails. An overrun of the socket arrives as a notification, too.
    async fn run(mut self, links: &Senders) -> Failure {
        while self.notifications.next().await.is_some() {
            tokio::time::sleep(SETTLE).await;
            while self.notifications.try_recv().is_ok() {}
            if let Err(failure) = self.read(links).await {
                return failure;
            }
        }
        Failure::Ended
    }

    async fn read(&self, links: &Senders) -> Result<(), Failure> {
        let listing = self.queries.address().get().execute().try_collect::<Vec<_>>();
        let messages =
            tokio::time::timeout(READING, listing).await.map_err(|_| Failure::Slow)??;
        let of_links = by_link(&messages);
        let named = tokio::time::timeout(READING, self.named(&of_links));
        let named = named.await.map_err(|_| Failure::Slow)?;
        links.named.send_if_modified(replace(named));
        let nets = of_links.into_values();
        let links_now = nets.map(|addresses| Link { addresses }).collect();
        links.links.send_if_modified(replace(links_now));
        Ok(())
    }

    /// The links by name. One that is gone already has none: its end is notified too.
    async fn named(&self, of_links: &BTreeMap<u32, Vec<IpNet>>) -> Vec<HostLink> {
        let mut named = Vec::new();
        for (index, nets) in of_links {
            let mut answers = self.queries.link().get().match_index(*index).execute();
            let Ok(Some(message)) = answers.try_next().await else { continue };
            let name = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(text) => InterfaceName::new(text).ok(),
                _ => None,
            });
            let addresses = nets.iter().map(IpNet::addr).collect();
            named.extend(name.map(|name| HostLink { name, index: *index, addresses }));
        }
        named
    }
}

/// To whom the links are told: peering goes by networks, host endpoints by names and addresses.
struct Senders {
    links: watch::Sender<Arc<[Link]>>,
    named: watch::Sender<Arc<[HostLink]>>,
}

/// Puts a value in the place of another. True if it is a different one.
fn replace<T: PartialEq>(now: Vec<T>) -> impl FnOnce(&mut Arc<[T]>) -> bool {
    move |known| {
        let differs = **known != *now;
        if differs {
            *known = now.into();
        }
        differs
    }
}

/// The addresses that others may use, by the index of their link.
fn by_link(messages: &[AddressMessage]) -> BTreeMap<u32, Vec<IpNet>> {
    let mut links: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    for message in messages {
        if let Some(net) = network_of(message) {
            links.entry(message.header.index).or_default().push(net);
        }
    }
    links
}

/// The link's own address and the network it is in; None for one that is of no use beyond the
/// link, or that somebody else on the link has (RFC 4862 section 5.4).
fn network_of(message: &AddressMessage) -> Option<IpNet> {
    let find =
        |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    // On a point-to-point link IFA_ADDRESS is the other end.
    let own = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = own.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    let duplicate = message.attributes.iter().any(|attribute| match attribute {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Dadfailed),
        _ => false,
    });
    let confined = match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    };
    if duplicate || confined {
        return None;
    }
    IpNet::new(address, message.header.prefix_len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u32, prefix_len: u8, attributes: Vec<AddressAttribute>) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix_len;
        message.attributes = attributes;
        message
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_narrowest_uplink_that_is_up_gives_the_mtu() {
        let link = |name: &str, mtu: u32, up: bool| {
            let mut message = LinkMessage::default();
            if up {
                message.header.flags = LinkFlags::Up;
            }
            message.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::Mtu(mtu)];
            message
        };
        let others =
            [link("lo", 65536, true), link("cali0123", 1400, true), link("eth9", 1, false)];
        assert_eq!(narrowest(&others), None);
        let uplinks = [link("enp3s0", 9000, true), link("eth0", 1450, true)];
        assert_eq!(narrowest(&[&others[..], &uplinks].concat()), Some(1450));
        assert!(["ens5", "enP2p1s0", "ibs1", "wwan0"].into_iter().all(is_uplink));
        assert!(!["en", "docker0", "mgmt0", "cilium"].into_iter().any(is_uplink));
    }

    #[test]
    fn addresses_are_grouped_by_link_without_those_nobody_else_can_use() {
        use AddressAttribute::{Address, Flags, Local};
        let messages = [
            message(1, 8, vec![Address(ip("127.0.0.1")), Local(ip("127.0.0.1"))]),
            message(7, 24, vec![Address(ip("10.7.0.1")), Local(ip("10.7.0.1"))]),
            message(2, 24, vec![Address(ip("10.2.0.1")), Local(ip("10.2.0.1"))]),
            // A point-to-point link.
            message(3, 32, vec![Address(ip("10.3.0.2")), Local(ip("10.3.0.1"))]),
            message(1, 128, vec![Address(ip("::1"))]),
            message(2, 64, vec![Address(ip("fd00:2::1"))]),
            message(2, 64, vec![Address(ip("fe80::1"))]),
            message(2, 16, vec![Local(ip("169.254.0.1"))]),
            message(2, 64, vec![Address(ip("fd00:2::2")), Flags(AddressFlags::Dadfailed)]),
            // Neither an address nor a length that makes sense.
            message(4, 24, Vec::new()),
            message(4, 77, vec![Local(ip("10.4.0.1"))]),
        ];
        let link = |index: u32, nets: &[&str]| -> (u32, Vec<IpNet>) {
            (index, nets.iter().map(|net| net.parse().unwrap()).collect())
        };
        assert_eq!(
            by_link(&messages),
            BTreeMap::from([
                link(2, &["10.2.0.1/24", "fd00:2::1/64"]),
                link(3, &["10.3.0.1/32"]),
                link(7, &["10.7.0.1/24"])
            ])
        );
    }

    /// Against the kernel of the machine: what getifaddrs(3) says is what is read.
    #[tokio::test]
    async fn the_machines_own_addresses_are_read_at_once() {
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let (links, named) = subscribe_both(&mut tasks, &stop).await;
        let names: usize = named.borrow().iter().map(|link| link.addresses.len()).sum();
        assert_eq!(names, links.borrow().iter().map(|link| link.addresses.len()).sum::<usize>());
        let mut read: Vec<IpAddr> =
            links.borrow().iter().flat_map(|link| &link.addresses).map(IpNet::addr).collect();
        let mut wanted: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
            .unwrap()
            .filter_map(|entry| {
                let address = entry.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
            })
            .filter(|address| match address {
                IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
                IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
            })
            .collect();
        read.sort();
        wanted.sort();
        assert_eq!(read, wanted);
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}
