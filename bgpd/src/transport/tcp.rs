//! TCP with what BGP asks of it: MD5 keys (RFC 2385), TTL security (RFC 5082), source address,
//! and a backlog that holds a whole rack coming up at once.
#![allow(unsafe_code, reason = "TCP_MD5SIG and the TTL limits have no safe interface")]

use std::io::{self, Read as _};
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{arrival, tcp_ao};
use crate::config::PeerConfig;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// What TTL security sends with (RFC 5082 section 3).
const MAX_TTL: libc::c_int = 255;
/// `TCP_MD5SIG_MAXKEYLEN` of `linux/tcp.h`.
const MD5_KEY_MAX: usize = 80;
/// `TCP_MD5SIG_EXT` and `TCP_MD5SIG_FLAG_PREFIX` of `linux/tcp.h`.
const TCP_MD5SIG_EXT: libc::c_int = 32;
const TCP_MD5SIG_FLAG_PREFIX: u8 = 1;
/// `IPV6_MINHOPCOUNT` of `linux/in6.h`.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// Listens on an address; an IPv6 one takes no IPv4 connections.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // A peer with TTL security takes no lower one, from the SYN on. For which peer a connection
    // is turns out only once it is accepted.
    set_sent_ttl(&socket, address.is_ipv4(), MAX_TTL)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects to a peer as its configuration says.
pub(crate) async fn connect(peer: &PeerConfig, external: bool) -> io::Result<TcpStream> {
    let remote = address(peer, peer.port);
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = &peer.source_interface {
        bind_interface(&socket, interface)?;
    }
    if let Some(source) = peer.source_address {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    if let Some(password) = &peer.password {
        set_md5(&socket, peer.address.into(), Some(password.bytes()))?;
    }
    if let Some(ao) = &peer.tcp_ao {
        tcp_ao::supported()?;
        for (at, key) in ao.keys.iter().enumerate() {
            tcp_ao::add(&socket, peer.address.into(), key, at == 0)?;
        }
    }
    set_ttl(&socket, peer, external)?;
    let stream = TcpSocket::from_std_stream(socket.into()).connect(remote).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sets up a connection that a peer has opened. Its MD5 key came with the listener.
pub(crate) fn prepare(stream: &TcpStream, peer: &PeerConfig, external: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(interface) = &peer.source_interface {
        bind_interface(stream, interface)?;
    }
    set_ttl(stream, peer, external)
}

/// The interface that a connection came in by; None, and a word in the log, where the kernel does
/// not say.
pub(crate) fn interface(stream: &TcpStream) -> Option<String> {
    let ipv4 = stream.local_addr().ok()?.is_ipv4();
    arrival::name(stream, ipv4)
        .inspect_err(|error| tracing::warn!(%error, "by which interface did a connection come?"))
        .ok()
}

/// Sends by way of an interface only, and takes nothing that comes by another.
fn bind_interface(socket: &impl AsFd, interface: &str) -> io::Result<()> {
    let bound = SockRef::from(socket).bind_device(Some(interface.as_bytes()));
    bound.map_err(|e| io::Error::new(e.kind(), format!("source-interface {interface}: {e}")))
}

/// Reads what there is, once, where tokio says that the socket can be read.
///
/// # Errors
/// Of the kernel; `WouldBlock` where there was nothing.
pub(crate) fn read(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut octets = None;
    let result = stream.try_io(Interest::READABLE, || {
        let n = read_now(stream, buffer)?;
        octets = Some(n);
        // Less than there was room for: the socket is empty, and to say so spares the call that
        // would only be told so. The end of the stream, once seen, is not forgotten by this.
        if (1..buffer.len()).contains(&n) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    });
    octets.map_or(result, Ok)
}

/// As [`read`], whatever tokio says.
pub(crate) fn read_now(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    (&*SockRef::from(stream)).read(buffer)
}

/// Whether octets, or the end of the stream, wait to be read.
pub(crate) fn has_unread(stream: &TcpStream) -> bool {
    SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]).is_ok()
}

fn address(peer: &PeerConfig, port: u16) -> SocketAddr {
    match peer.address {
        IpAddr::V4(v4) => (v4, port).into(),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, peer.scope_id).into(),
    }
}

/// The TTL we send with and the least we accept: 255 and near it for TTL security, 1 towards
/// external peers on our link, otherwise what routes across the AS.
pub(crate) fn set_ttl(socket: &impl AsFd, peer: &PeerConfig, external: bool) -> io::Result<()> {
    let (ttl, least) = match (peer.ttl_security, peer.multihop) {
        (Some(hops), _) => (MAX_TTL, MAX_TTL + 1 - i32::from(hops)),
        (None, Some(ttl)) => (i32::from(ttl), 0),
        (None, None) if external => (1, 0),
        (None, None) => (64, 0),
    };
    set_sent_ttl(socket, peer.address.is_ipv4(), ttl)?;
    if peer.address.is_ipv4() {
        set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &least)
    } else {
        set(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &least)
    }
}

fn set_sent_ttl(socket: &impl AsFd, ipv4: bool, ttl: libc::c_int) -> io::Result<()> {
    if ipv4 {
        set(socket, libc::IPPROTO_IP, libc::IP_TTL, &ttl)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &ttl)
    }
}

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct TcpMd5Sig {
    addr: libc::sockaddr_storage,
    flags: u8,
    prefixlen: u8,
    keylen: u16,
    ifindex: libc::c_int,
    key: [u8; MD5_KEY_MAX],
}

/// Sets the MD5 key for segments to and from the addresses of a prefix, or removes it. Works on
/// listeners and on live connections. Of several keys that of the most specific prefix counts.
pub(crate) fn set_md5(socket: &impl AsFd, peers: IpNet, key: Option<&[u8]>) -> io::Result<()> {
    let key = key.unwrap_or_default();
    let keylen = u16::try_from(key.len()).unwrap_or(u16::MAX);
    let mut bytes = [0; MD5_KEY_MAX];
    let Some(place) = bytes.get_mut(..key.len()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the MD5 key is too long"));
    };
    place.copy_from_slice(key);
    let addr = storage(peers.addr());
    let (name, flags) = if peers.prefix_len() == peers.max_prefix_len() {
        (libc::TCP_MD5SIG, 0)
    } else {
        (TCP_MD5SIG_EXT, TCP_MD5SIG_FLAG_PREFIX)
    };
    let prefixlen = peers.prefix_len();
    let option = TcpMd5Sig { addr, flags, prefixlen, keylen, ifindex: 0, key: bytes };
    match set(socket, libc::IPPROTO_TCP, name, &option) {
        // Removing what is not there is done already.
        Err(e) if keylen == 0 && e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(e) => Err(io::Error::new(e.kind(), format!("TCP MD5: {e}"))),
        Ok(()) => Ok(()),
    }
}

/// An address without a port, as the kernel takes it.
pub(super) fn storage(address: IpAddr) -> libc::sockaddr_storage {
    let address = SockAddr::from(SocketAddr::new(address, 0));
    // SAFETY: `sockaddr_storage` is plain integers, for which all zeros is a value.
    let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let len = address.len() as usize;
    // SAFETY: `address` holds `len` initialised bytes, at most the size of `sockaddr_storage`, and
    // the two do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut storage).cast::<u8>(),
            len.min(size_of::<libc::sockaddr_storage>()),
        );
    }
    storage
}

/// Sets a socket option that has no safe interface.
pub(crate) fn set<T>(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the descriptor is open for the duration of the borrow, and `value` points to `len`
    // initialised bytes that the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
