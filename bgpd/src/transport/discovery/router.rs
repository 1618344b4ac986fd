//! Router advertisements and solicitations on the wire (RFC 4861 sections 4.1, 4.2, 6.1).
#![allow(unsafe_code, reason = "the message's interface and hop limit come as control data")]

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6};

use socket2::{Domain, MaybeUninitSlice, MsgHdrMut, Protocol, SockAddr, Socket, Type};

use crate::transport::tcp::set;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// What has passed a router is not from the link (section 6.1).
const HOP_LIMIT: u8 = 255;
/// `ICMP6_FILTER` of `linux/icmpv6.h`: a bit that is set keeps a type out.
const ICMP6_FILTER: libc::c_int = 1;

/// What was said on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A router advertised itself from this address.
    Router(Ipv6Addr),
    /// A host asked for routers.
    Solicitation,
}

/// A socket for all links.
pub(super) fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    let mut filter = [u32::MAX; 8];
    for kind in [SOLICITATION, ADVERTISEMENT] {
        filter[usize::from(kind / 32)] &= !(1 << (kind % 32));
    }
    set(&socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, &filter)?;
    let on: libc::c_int = 1;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &on)?;
    socket.set_multicast_hops_v6(HOP_LIMIT.into())?;
    socket.set_multicast_loop_v6(false)?;
    Ok(socket)
}

/// Hears solicitations on a link.
pub(super) fn join(socket: &Socket, index: u32) -> io::Result<()> {
    match socket.join_multicast_v6(&ALL_ROUTERS, index) {
        // From before the link was down.
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
        result => result,
    }
}

/// Says to all on a link that we are there: with a lifetime of 0, so that no host sends us what it
/// has no route for (section 4.2).
pub(super) fn advertise(socket: &Socket, index: u32) -> io::Result<()> {
    // Type, code, checksum (the kernel's), hop limit and flags, lifetime, and the two timers.
    let mut message = [0; 16];
    message[0] = ADVERTISEMENT;
    let target = SocketAddrV6::new(ALL_NODES, 0, 0, index);
    socket.send_to(&message, &target.into()).map(drop)
}

/// What has come next, and on which interface; None if it is nothing to be believed.
pub(super) fn receive(socket: &Socket) -> io::Result<Option<(u32, Heard)>> {
    let mut octets = [MaybeUninit::uninit(); 1500];
    let mut control = [MaybeUninit::uninit(); 256];
    let mut buffers = [MaybeUninitSlice::new(&mut octets)];
    let mut from = SockAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
    let mut message =
        MsgHdrMut::new().with_addr(&mut from).with_buffers(&mut buffers).with_control(&mut control);
    let len = socket.recvmsg(&mut message, 0)?;
    let control_len = message.control_len();
    // SAFETY: recvmsg has initialised as many octets as it says.
    let (octets, control) = unsafe {
        (
            octets.get(..len).map(|o| o.assume_init_ref()),
            control.get(..control_len).map(|c| c.assume_init_ref()),
        )
    };
    let (Some(octets), Some(control)) = (octets, control) else { return Ok(None) };
    let Some(from) = from.as_socket_ipv6() else { return Ok(None) };
    let (index, hop_limit) = ancillary(control);
    let heard = parse(octets, *from.ip(), hop_limit);
    Ok(index.zip(heard))
}

/// Interface and hop limit of a message.
fn ancillary(mut control: &[u8]) -> (Option<u32>, Option<u32>) {
    const HEADER: usize = 16;
    let (mut index, mut hop_limit) = (None, None);
    let word = |octets: &[u8], at: usize| {
        octets.get(at..at + 4)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
    };
    // struct cmsghdr: length, level, type; what follows is aligned to 8 octets.
    while let Some(len) = control.first_chunk().map(|len| usize::from_ne_bytes(*len)) {
        let Some(data) = control.get(HEADER..len) else { break };
        let ipv6 = word(control, 8) == u32::try_from(libc::IPPROTO_IPV6).ok();
        let kind = word(control, 12).and_then(|kind| libc::c_int::try_from(kind).ok());
        match kind.filter(|_| ipv6) {
            Some(libc::IPV6_PKTINFO) => index = word(data, 16),
            Some(libc::IPV6_HOPLIMIT) => hop_limit = word(data, 0),
            _ => {}
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    (index, hop_limit)
}

/// Sections 6.1.1 and 6.1.2; the kernel has checked the checksum.
pub(super) fn parse(octets: &[u8], from: Ipv6Addr, hop_limit: Option<u32>) -> Option<Heard> {
    if hop_limit != Some(HOP_LIMIT.into()) {
        return None;
    }
    let (options, heard) = match octets {
        [ADVERTISEMENT, 0, ..] if from.is_unicast_link_local() => {
            (octets.get(16..)?, Heard::Router(from))
        }
        [SOLICITATION, 0, ..] => (octets.get(8..)?, Heard::Solicitation),
        _ => return None,
    };
    let mut rest = options;
    while let [_, units, ..] = rest {
        if *units == 0 {
            return None;
        }
        rest = rest.get(usize::from(*units) * 8..)?;
    }
    rest.is_empty().then_some(heard)
}
