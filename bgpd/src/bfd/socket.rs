//! UDP with what BFD asks of it: hop limits and interfaces of what comes, ports and priority of what
//! goes (RFC 5881 sections 4 and 5, RFC 5883 section 5).
#![allow(unsafe_code, reason = "what the kernel has written into a buffer has no safe interface")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, MaybeUninitSlice, MsgHdrMut, Protocol, SockAddr, Socket, Type};

use super::table::{Arrival, Interface, Key};
use crate::transport::tcp::set;

/// Where control packets go on one link (RFC 5881 section 4), and over several hops (RFC 5883
/// section 5).
const PORTS: [u16; 2] = [3784, 4784];
/// The first of the ports they come from (RFC 5881 section 4); the last is 65535.
const FIRST_SOURCE_PORT: u16 = 49152;
/// Source ports tried before it is given up.
const ATTEMPTS: usize = 64;
/// What is sent, and over one link received, with (RFC 5881 section 5).
const TTL: libc::c_int = 255;
/// DSCP CS6, network control: the packets are not to wait behind those they are to watch over.
const TRAFFIC_CLASS: libc::c_int = 0xc0;
/// Octets of received packets that may wait while this thread does.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;
/// Octets read of a packet: more than its length field can say.
const PAYLOAD: usize = 256;
/// Room for the TTL, the interface and the destination address.
const CONTROL: usize = 128;

/// Which packets a socket receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Kind {
    ipv4: bool,
    multihop: bool,
    /// Only those that come by this one.
    interface: Option<Interface>,
}

impl Kind {
    pub(super) const fn of(key: &Key) -> Self {
        Self { ipv4: key.peer.is_ipv4(), multihop: key.multihop, interface: key.interface }
    }

    const fn port(self) -> u16 {
        PORTS[self.multihop as usize]
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UDP port {} of {}", self.port(), if self.ipv4 { "IPv4" } else { "IPv6" })?;
        self.interface.map_or(Ok(()), |interface| write!(f, " on {interface}"))
    }
}

/// The number of the interface that has a name now; 0 if there is none, or none is named.
fn index(interface: Option<&Interface>) -> u32 {
    // SAFETY: the octets outlive the call, and the last of them is always 0.
    interface.map_or(0, |it| unsafe { libc::if_nametoindex(it.octets().as_ptr().cast()) })
}

fn socket(ipv4: bool, address: SocketAddr, interface: Option<&Interface>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if !ipv4 {
        socket.set_only_v6(true)?;
    }
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.name()))?;
    }
    Ok(socket)
}

fn unspecified(ipv4: bool) -> IpAddr {
    if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Receives the packets of all sessions of a kind.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: Socket,
    kind: Kind,
    /// The number of the interface when this was opened.
    index: u32,
    payload: [MaybeUninit<u8>; PAYLOAD],
    control: [MaybeUninit<u8>; CONTROL],
}

impl Receiver {
    /// A receiver beside others. A packet goes to the one that is bound to the interface that it
    /// came by, if there is one.
    pub(super) fn open<'a>(kind: Kind, others: impl Iterator<Item = &'a Self>) -> io::Result<Self> {
        let address = SocketAddr::new(unspecified(kind.ipv4), kind.port());
        // Before the socket: if the interface is replaced in between, this one is stale, not fresh.
        let index = index(kind.interface.as_ref());
        let socket = socket(kind.ipv4, address, kind.interface.as_ref())?;
        let on: libc::c_int = 1;
        if kind.ipv4 {
            set(&socket, libc::IPPROTO_IP, libc::IP_RECVTTL, &on)?;
            set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, &on)?;
        } else {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, &on)?;
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on)?;
        }
        // Beyond the system's limit if we may, else up to it.
        if set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER).is_err() {
            set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &RECEIVE_BUFFER)?;
        }
        let alike =
            |other: &&Self| (other.kind.ipv4, other.kind.multihop) == (kind.ipv4, kind.multihop);
        let sharing: Vec<&Socket> = others.filter(alike).map(|other| &other.socket).collect();
        // Those of one port must all agree to share it, while one of them is bound. Not for longer:
        // another program that wants it is to be told that it is taken, as we are if it was first.
        let share = |on: bool| {
            let own = (!sharing.is_empty()).then_some(&socket);
            sharing.iter().copied().chain(own).try_for_each(|s| s.set_reuse_address(on))
        };
        let bound = share(true).and_then(|()| socket.bind(&address.into()));
        share(false).and(bound)?;
        // Filled with zeros, so that all of it is initialised whatever the kernel writes.
        let (payload, control) = ([MaybeUninit::new(0); PAYLOAD], [MaybeUninit::new(0); CONTROL]);
        Ok(Self { socket, kind, index, payload, control })
    }

    /// Whether the interface that this is bound to is gone, even if there is another of its name.
    pub(super) fn is_stale(&self) -> bool {
        self.index != index(self.kind.interface.as_ref())
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The next packet, and how it came. The payload is cut after what BFD could use.
    ///
    /// # Errors
    /// `WouldBlock` if none waits.
    pub(super) fn receive(&mut self) -> io::Result<(Arrival, &[u8])> {
        let mut from = SockAddr::from(SocketAddr::new(unspecified(self.kind.ipv4), 0));
        let mut buffers = [MaybeUninitSlice::new(&mut self.payload)];
        let mut message = MsgHdrMut::new()
            .with_addr(&mut from)
            .with_buffers(&mut buffers)
            .with_control(&mut self.control);
        let len = self.socket.recvmsg(&mut message, 0)?;
        let control = message.control_len();
        let from = from.as_socket().map_or(unspecified(self.kind.ipv4), |a| a.ip());
        let mut arrival = Arrival {
            from,
            to: unspecified(self.kind.ipv4),
            interface: 0,
            bound: self.kind.interface,
            ttl: 0,
            multihop: self.kind.multihop,
        };
        for message in ControlMessages(initialised(&self.control, control)) {
            message.note(&mut arrival);
        }
        Ok((arrival, initialised(&self.payload, len)))
    }
}

fn initialised(buffer: &[MaybeUninit<u8>], len: usize) -> &[u8] {
    let part = &buffer[..len.min(buffer.len())];
    // SAFETY: the receiver's buffers start as zeros and the kernel writes nothing but octets into
    // them, so each of the `part.len()` elements is initialised; the lifetime is the buffer's.
    unsafe { std::slice::from_raw_parts(part.as_ptr().cast::<u8>(), part.len()) }
}

/// A control message of recvmsg(2).
struct ControlMessage<'a> {
    level: libc::c_int,
    kind: libc::c_int,
    data: &'a [u8],
}

impl ControlMessage<'_> {
    fn note(&self, arrival: &mut Arrival) {
        let int = |at: usize| {
            let octets = self.data.get(at..at + 4)?;
            Some(u32::from_ne_bytes(octets.try_into().ok()?))
        };
        match (self.level, self.kind) {
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                arrival.ttl = int(0).and_then(|ttl| u8::try_from(ttl).ok()).unwrap_or(0);
            }
            // `struct in_pktinfo`: interface, local address, address in the header.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                arrival.interface = int(0).unwrap_or(0);
                if let Some(octets) = self.data.get(8..12).and_then(|o| <[u8; 4]>::try_from(o).ok())
                {
                    arrival.to = octets.into();
                }
            }
            // `struct in6_pktinfo`: address in the header, interface.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some(octets) = self.data.first_chunk::<16>() {
                    arrival.to = (*octets).into();
                }
                arrival.interface = int(16).unwrap_or(0);
            }
            _ => {}
        }
    }
}

/// Control messages one after the other, as the macros of cmsg(3) walk them.
struct ControlMessages<'a>(&'a [u8]);

impl<'a> Iterator for ControlMessages<'a> {
    type Item = ControlMessage<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        const WORD: usize = size_of::<usize>();
        const HEADER: usize = WORD + 2 * size_of::<libc::c_int>();
        let (len, rest) = self.0.split_first_chunk::<WORD>()?;
        let (level, rest) = rest.split_first_chunk::<4>()?;
        let (kind, _) = rest.split_first_chunk::<4>()?;
        let len = usize::from_ne_bytes(*len);
        let data = self.0.get(HEADER..len)?;
        self.0 = self.0.get(len.next_multiple_of(WORD)..).unwrap_or_default();
        let (level, kind) = (i32::from_ne_bytes(*level), i32::from_ne_bytes(*kind));
        Some(ControlMessage { level, kind, data })
    }
}

/// Sends the packets of one session, always from the same port (RFC 5881 section 4).
#[derive(Debug)]
pub(super) struct Sender {
    socket: Socket,
    to: SockAddr,
    interface: Option<Interface>,
    /// The number of the interface when this was opened.
    index: u32,
}

impl Sender {
    /// A sender on a free port, looked for in the order that `random` gives.
    pub(super) fn open(key: &Key, mut random: impl FnMut() -> u64) -> io::Result<Self> {
        let kind = Kind::of(key);
        let at = |ip: IpAddr, port: u16| match ip {
            IpAddr::V4(v4) => SocketAddr::from((v4, port)),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, key.scope_id).into(),
        };
        let to = at(key.peer, kind.port());
        let index = index(key.interface.as_ref());
        let socket = socket(kind.ipv4, to, key.interface.as_ref())?;
        if kind.ipv4 {
            set(&socket, libc::IPPROTO_IP, libc::IP_TTL, &TTL)?;
            set(&socket, libc::IPPROTO_IP, libc::IP_TOS, &TRAFFIC_CLASS)?;
        } else {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &TTL)?;
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &TRAFFIC_CLASS)?;
        }
        // Nothing is read from it: what comes to its port is not to be kept.
        socket.set_recv_buffer_size(0)?;
        let local = key.local.unwrap_or(unspecified(kind.ipv4));
        let mut result = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..ATTEMPTS {
            let span = u64::from(u16::MAX - FIRST_SOURCE_PORT) + 1;
            let offset = u16::try_from(random() % span).unwrap_or(0);
            result = socket.bind(&at(local, FIRST_SOURCE_PORT + offset).into());
            if !matches!(&result, Err(e) if e.kind() == io::ErrorKind::AddrInUse) {
                break;
            }
        }
        result?;
        Ok(Self { socket, to: to.into(), interface: key.interface, index })
    }

    /// As [`Receiver::is_stale`].
    pub(super) fn is_stale(&self) -> bool {
        self.index != index(self.interface.as_ref())
    }

    pub(super) fn send(&self, octets: &[u8]) -> io::Result<()> {
        self.socket.send_to(octets, &self.to).map(|_| ())
    }
}
