//! Network interfaces (`RTM_*LINK`, `include/uapi/linux/if_link.h`).

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::buffer::{self, Attrs, Batch, Message};
use crate::{Result, Socket};

const NEW: u16 = 16;
const DEL: u16 = 17;
const GET: u16 = 18;
const SET: u16 = 19;

const HEADER: usize = 16;
const ADDRESS: u16 = 1;
const NAME: u16 = 3;
const MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const AF_SPEC: u16 = 26;
const GROUP: u16 = 27;
const NETNS_FD: u16 = 28;
const EXT_MASK: u16 = 29;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const INET_CONF: u16 = 1;
const INET6_ADDR_GEN_MODE: u16 = 8;
/// Leaves statistics out of a listing (`RTEXT_FILTER_SKIP_STATS`).
const SKIP_STATS: u32 = 8;

/// The multicast group of link notifications (`RTNLGRP_LINK`).
pub const NOTIFICATIONS: u32 = 1;
/// Longest interface name in bytes (`IFNAMSIZ` less the NUL).
pub const NAME_MAX: usize = 15;

/// Settings under `net.ipv4.conf.IFACE` (`include/uapi/linux/ip.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InetConf {
    /// Forward packets that come in here.
    Forwarding,
    /// Answer ARP for addresses that are routed elsewhere.
    ProxyArp,
    /// Reverse path filter: 0 off, 1 strict, 2 loose.
    RpFilter,
}

impl InetConf {
    fn number(self) -> u16 {
        match self {
            Self::Forwarding => 1,
            Self::ProxyArp => 3,
            Self::RpFilter => 8,
        }
    }
}

/// How an interface makes its IPv6 link-local address (`enum in6_addr_gen_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddrGenMode {
    /// From the MAC address.
    Eui64,
    /// Not at all.
    None,
}

/// A veth pair to be created, each end in its final namespace.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of the end in the socket's namespace.
    pub name: &'a str,
    /// Its interface index; 0: the kernel chooses.
    pub index: u32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its group (`ip link ... group`), by which many links can be deleted at once.
    pub group: u32,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Its MAC address.
    pub peer_mac: [u8; 6],
    /// Its namespace.
    pub peer_netns: BorrowedFd<'a>,
    /// Largest packet on the link, in bytes.
    pub mtu: u32,
}

/// A link as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `IFF_*` of `netdevice(7)`.
    pub flags: u32,
    /// MAC address, of links that have one of 6 bytes.
    pub mac: Option<[u8; 6]>,
    /// In bytes.
    pub mtu: u32,
    /// Its group; 0 unless set.
    pub group: u32,
    /// `veth`, `bridge`, ...; none for hardware.
    pub kind: Option<String>,
    /// Whether IPv6 link-local addresses are made of the MAC, where the kernel says.
    pub addr_gen_mode: Option<u8>,
}

impl Link {
    /// Whether it was switched on (`IFF_UP`).
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP.cast_unsigned() != 0
    }

    /// Whether there is something at the other end (`IFF_RUNNING`); of a veth: its peer is up too.
    pub fn is_running(&self) -> bool {
        self.flags & libc::IFF_RUNNING.cast_unsigned() != 0
    }
}

/// What a notification says of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It exists, and is now so.
    Changed(Link),
    /// It is gone.
    Removed(Link),
}

fn header(batch: &mut Batch, index: u32, flags: u32, mask: u32) {
    let mut bytes = [0; HEADER];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&mask.to_ne_bytes());
    batch.put(&bytes);
}

/// Creates a veth pair, both ends down. `EEXIST` if a name or the index is taken, at either end.
pub fn add_veth(batch: &mut Batch, veth: &Veth<'_>) {
    batch.message(NEW, buffer::CREATE | buffer::EXCLUSIVE, |batch| {
        header(batch, veth.index, 0, 0);
        batch.str(NAME, veth.name);
        batch.attr(ADDRESS, &veth.mac);
        batch.u32(MTU, veth.mtu);
        batch.u32(GROUP, veth.group);
        batch.nest(LINK_INFO, |batch| {
            batch.str(INFO_KIND, "veth");
            batch.nest(INFO_DATA, |batch| {
                batch.nest(VETH_PEER, |batch| {
                    header(batch, 0, 0, 0);
                    batch.str(NAME, veth.peer_name);
                    batch.attr(ADDRESS, &veth.peer_mac);
                    batch.u32(MTU, veth.mtu);
                    batch.u32(NETNS_FD, veth.peer_netns.as_raw_fd().cast_unsigned());
                });
            });
        });
    });
}

/// Switches a link on.
pub fn set_up(batch: &mut Batch, index: u32) {
    let up = libc::IFF_UP.cast_unsigned();
    batch.message(SET, 0, |batch| header(batch, index, up, up));
}

/// Switches a link on, by name.
pub fn set_up_by_name(batch: &mut Batch, name: &str) {
    let up = libc::IFF_UP.cast_unsigned();
    batch.message(SET, 0, |batch| {
        header(batch, 0, up, up);
        batch.str(NAME, name);
    });
}

/// Puts a link into a group.
pub fn set_group(batch: &mut Batch, index: u32, group: u32) {
    batch.message(SET, 0, |batch| {
        header(batch, index, 0, 0);
        batch.u32(GROUP, group);
    });
}

/// Sets what `net.ipv4.conf.IFACE.*` and, if given, `net.ipv6.conf.IFACE.addr_gen_mode` are for a
/// link.
pub fn set_conf(
    batch: &mut Batch,
    index: u32,
    inet: &[(InetConf, u32)],
    mode: Option<AddrGenMode>,
) {
    #[allow(clippy::cast_possible_truncation, reason = "2 and 10")]
    const FAMILIES: (u16, u16) = (libc::AF_INET as u16, libc::AF_INET6 as u16);
    batch.message(SET, 0, |batch| {
        header(batch, index, 0, 0);
        batch.nest(AF_SPEC, |batch| {
            batch.nest(FAMILIES.0, |batch| {
                batch.nest(INET_CONF, |batch| {
                    for (key, value) in inet {
                        batch.u32(key.number(), *value);
                    }
                });
            });
            if let Some(mode) = mode {
                batch.nest(FAMILIES.1, |batch| {
                    batch.u8(INET6_ADDR_GEN_MODE, u8::from(mode == AddrGenMode::None));
                });
            }
        });
    });
}

/// Deletes a link; of a veth, both ends.
pub fn delete(batch: &mut Batch, index: u32) {
    batch.message(DEL, 0, |batch| header(batch, index, 0, 0));
}

/// Deletes all links of a group; `ENODEV` if there is none.
pub fn delete_group(batch: &mut Batch, group: u32) {
    batch.message(DEL, 0, |batch| {
        header(batch, 0, 0, 0);
        batch.u32(GROUP, group);
    });
}

fn get(fill: impl FnOnce(&mut Batch), flags: u16, index: u32) -> Batch {
    let mut request = Batch::new();
    request.message(GET, flags, |batch| {
        header(batch, index, 0, 0);
        batch.u32(EXT_MASK, SKIP_STATS);
        fill(batch);
    });
    request
}

/// The link of this name, if there is one.
pub fn by_name(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let mut request = get(|batch| batch.str(NAME, name), 0, 0);
    absent(socket.query(&mut request, parse))
}

/// The link of this index, if there is one.
pub fn by_index(socket: &mut Socket, index: u32) -> Result<Option<Link>> {
    absent(socket.query(&mut get(|_| {}, 0, index), parse))
}

fn absent(result: Result<Link>) -> Result<Option<Link>> {
    match result {
        Err(error) if error.is(libc::ENODEV) => Ok(None),
        other => other.map(Some),
    }
}

/// All links of the socket's namespace.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    socket.dump(&mut get(|_| {}, buffer::DUMP, 0), parse)
}

/// From a notification, if it is one about links.
pub fn event(message: &Message<'_>) -> Option<Event> {
    match message.kind {
        NEW => parse(message).map(Event::Changed),
        DEL => parse_payload(message).map(Event::Removed),
        _ => None,
    }
}

pub(crate) fn parse(message: &Message<'_>) -> Option<Link> {
    if message.kind == NEW { parse_payload(message) } else { None }
}

fn parse_payload(message: &Message<'_>) -> Option<Link> {
    // Bridges repeat their ports under family AF_BRIDGE.
    if *message.payload.first()? != 0 {
        return None;
    }
    let attrs = message.attrs(HEADER);
    let number = |kind| attrs.find(kind).and_then(buffer::ne32);
    let inet6 = attrs.find(AF_SPEC).and_then(|spec| {
        #[allow(clippy::cast_possible_truncation, reason = "10")]
        Attrs(spec).find(libc::AF_INET6 as u16)
    });
    Some(Link {
        index: buffer::ne32(message.payload.get(4..)?)?,
        flags: buffer::ne32(message.payload.get(8..)?)?,
        name: buffer::text(attrs.find(NAME)?),
        mac: attrs.find(ADDRESS).and_then(|mac| mac.try_into().ok()),
        mtu: number(MTU).unwrap_or(0),
        group: number(GROUP).unwrap_or(0),
        kind: attrs.find(LINK_INFO).and_then(|i| Attrs(i).find(INFO_KIND)).map(buffer::text),
        addr_gen_mode: inet6
            .and_then(|inet6| Attrs(inet6).find(INET6_ADDR_GEN_MODE))
            .and_then(|mode| mode.first().copied()),
    })
}
