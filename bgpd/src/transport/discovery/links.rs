//! Interfaces that come and go (rtnetlink, `linux/rtnetlink.h`).
#![allow(unsafe_code, reason = "sockets of netlink have no safe interface")]
#![allow(clippy::cast_possible_truncation, reason = "constants of the kernel's, all of them small")]

use std::io::{self, Read, Write};
use std::mem::size_of;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::unix::AsyncFd;

const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
const NEW: u16 = libc::RTM_NEWLINK;
const DELETED: u16 = libc::RTM_DELLINK;
const NAME: u16 = libc::IFLA_IFNAME;
/// Has carrier, and is up.
const WORKS: u32 = (libc::IFF_UP | libc::IFF_RUNNING) as u32;

/// An interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) index: u32,
    pub(super) name: String,
    /// It is there, up, and has a carrier.
    pub(super) works: bool,
}

/// A socket that is told of every change.
pub(super) fn open() -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(libc::NETLINK_ROUTE)),
    )?;
    socket.set_nonblocking(true)?;
    // SAFETY: the closure writes a whole `sockaddr_nl` into storage that is larger, and says how
    // long it is.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let address = storage.cast::<libc::sockaddr_nl>();
            (*address).nl_family = libc::AF_NETLINK as libc::sa_family_t;
            (*address).nl_groups = libc::RTMGRP_LINK as u32;
            *len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            Ok(())
        })?
    };
    socket.bind(&address)?;
    Ok(socket)
}

/// Makes a socket one that can be waited for.
pub(super) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, which stays the same and open until it is dropped,
    // and nothing takes the socket out before that.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}

/// Asks for all interfaces; they come as changes.
pub(super) fn ask(mut socket: &Socket) -> io::Result<()> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut request = Vec::with_capacity(HEADER + LINK_HEADER);
    request.extend_from_slice(&((HEADER + LINK_HEADER) as u32).to_ne_bytes());
    request.extend_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request.extend_from_slice(&flags.to_ne_bytes());
    request.resize(HEADER + LINK_HEADER, 0);
    socket.write_all(&request)
}

pub(super) fn receive(mut socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    socket.read(buffer)
}

/// The changes in a datagram, and whether they are the last of those asked for; what is not one,
/// or cut off, is left out.
pub(super) fn parse(mut octets: &[u8]) -> (Vec<Change>, bool) {
    let (mut changes, mut all) = (Vec::new(), false);
    while let Some(header) = octets.first_chunk::<HEADER>() {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = octets.get(HEADER..len) else { break };
        if matches!(kind, NEW | DELETED) {
            changes.extend(change(body, kind == NEW));
        }
        all |= i32::from(kind) == libc::NLMSG_DONE;
        octets = octets.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    (changes, all)
}

fn change(body: &[u8], there: bool) -> Option<Change> {
    let (header, mut attributes) = body.split_first_chunk::<LINK_HEADER>()?;
    let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|n| header[at + n]));
    // A bridge tells of its ports in a family of its own.
    if header[0] != libc::AF_UNSPEC as u8 {
        return None;
    }
    let (index, flags) = (word(4), word(8));
    while let Some((&[a, b, c, d], _)) = attributes.split_first_chunk::<4>() {
        let (len, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let value = attributes.get(4..len)?;
        if kind == NAME {
            let name = value.strip_suffix(&[0]).unwrap_or(value);
            let name = String::from_utf8_lossy(name).into_owned();
            return Some(Change { index, name, works: there && flags & WORKS == WORKS });
        }
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}
