//! TCP-AO (RFC 5925) as Linux has it since 6.7, if it was built with CONFIG_TCP_AO
//! (`Documentation/networking/tcp_ao.rst`).
#![allow(unsafe_code, reason = "TCP_AO_INFO has no safe interface")]

use std::io;
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

use ipnet::IpNet;
use libc::c_int;
use socket2::{Domain, Protocol, Socket, Type};

use super::keys::about;
use super::tcp::{set, storage};
use crate::config::{Password, TcpAoAlgorithm, TcpAoKey};

/// `TCP_AO_ADD_KEY`, `TCP_AO_DEL_KEY`, `TCP_AO_INFO` and `TCP_AO_MAXKEYLEN` of `linux/tcp.h`.
const TCP_AO_ADD_KEY: c_int = 38;
const TCP_AO_DEL_KEY: c_int = 39;
const TCP_AO_INFO: c_int = 40;
const KEY_MAX: usize = 80;
/// `set_current` and `set_rnext`, the first bits of a bit field.
const CURRENT_AND_NEXT: u32 =
    if cfg!(target_endian = "little") { 0b11 } else { 0b11 << (u32::BITS - 2) };
/// Octets of authentication code (RFC 5926 section 2.2).
const MAC_LEN: u8 = 12;

/// `struct tcp_ao_add` of `linux/tcp.h`.
#[repr(C, align(8))]
struct Add {
    addr: libc::sockaddr_storage,
    alg_name: [u8; 64],
    ifindex: i32,
    flags: u32,
    reserved: u16,
    prefix: u8,
    sndid: u8,
    rcvid: u8,
    maclen: u8,
    keyflags: u8,
    keylen: u8,
    key: [u8; KEY_MAX],
}

/// `struct tcp_ao_del` of `linux/tcp.h`.
#[repr(C, align(8))]
struct Delete {
    addr: libc::sockaddr_storage,
    ifindex: i32,
    flags: u32,
    reserved: u16,
    prefix: u8,
    sndid: u8,
    rcvid: u8,
    current_key: u8,
    rnext: u8,
    keyflags: u8,
}

/// `struct tcp_ao_info_opt` of `linux/tcp.h`: flags and ids, then counters.
#[repr(C, align(8))]
#[derive(Default)]
struct Info {
    flags: u32,
    reserved: u16,
    current_key: u8,
    rnext: u8,
    counters: [u64; 5],
}

const _: () = {
    assert!(size_of::<Add>() == 288 && size_of::<Delete>() == 144 && size_of::<Info>() == 48);
    assert!(offset_of!(Add, alg_name) == 128 && offset_of!(Add, ifindex) == 192);
    assert!(offset_of!(Add, flags) == 196 && offset_of!(Add, reserved) == 200);
    assert!(offset_of!(Add, prefix) == 202 && offset_of!(Add, sndid) == 203);
    assert!(offset_of!(Add, keylen) == 207 && offset_of!(Add, key) == 208);
    assert!(offset_of!(Delete, ifindex) == 128 && offset_of!(Delete, flags) == 132);
    assert!(offset_of!(Delete, prefix) == 138 && offset_of!(Delete, keyflags) == 143);
    assert!(offset_of!(Info, current_key) == 6 && offset_of!(Info, counters) == 8);
};

/// Whether this kernel has it: found out once, by a key for a socket that is good for nothing else.
///
/// # Errors
/// Why not, in words for an operator.
pub(super) fn supported() -> io::Result<()> {
    static PROBED: OnceLock<Result<(), String>> = OnceLock::new();
    let result = PROBED.get_or_init(|| {
        let probe = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            let (algorithm, key) = (TcpAoAlgorithm::default(), Password::new("probe"));
            let key = TcpAoKey { send_id: 0, recv_id: 0, algorithm, key };
            add(&socket, IpAddr::from(Ipv4Addr::LOCALHOST).into(), &key, true)
        };
        probe().map_err(|error: io::Error| error.to_string())
    });
    result.clone().map_err(|why| io::Error::new(io::ErrorKind::Unsupported, why))
}

/// An error in words. One option that is not there is all of it not there.
fn explained(error: &io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
        let why = "this kernel has none (it takes Linux 6.7 or later, built with CONFIG_TCP_AO)";
        return about("TCP-AO", why, io::ErrorKind::Unsupported);
    }
    about("TCP-AO", error, error.kind())
}

/// Adds a key for segments to and from the addresses of a prefix, to a listener or to a socket that
/// will connect. `first`: one that connects begins with it, and asks the peer to.
pub(super) fn add(socket: &impl AsFd, peers: IpNet, key: &TcpAoKey, first: bool) -> io::Result<()> {
    let name: &[u8] = match key.algorithm {
        TcpAoAlgorithm::HmacSha1 => b"hmac(sha1)",
        TcpAoAlgorithm::Aes128Cmac => b"cmac(aes128)",
    };
    let mut alg_name = [0; 64];
    alg_name[..name.len()].copy_from_slice(name);
    let secret = key.key.bytes();
    let mut octets = [0; KEY_MAX];
    let (Some(place), Ok(keylen)) = (octets.get_mut(..secret.len()), u8::try_from(secret.len()))
    else {
        return Err(about("TCP-AO", "the key is too long", io::ErrorKind::InvalidInput));
    };
    place.copy_from_slice(secret);
    let option = Add {
        addr: storage(peers.addr()),
        alg_name,
        ifindex: 0,
        flags: if first { CURRENT_AND_NEXT } else { 0 },
        reserved: 0,
        prefix: peers.prefix_len(),
        sndid: key.send_id,
        rcvid: key.recv_id,
        maclen: MAC_LEN,
        keyflags: 0,
        keylen,
        key: octets,
    };
    set(socket, libc::IPPROTO_TCP, TCP_AO_ADD_KEY, &option).map_err(|error| explained(&error))
}

/// Removes a key from a listener, if it is there.
pub(super) fn remove(listener: &impl AsFd, peers: IpNet, key: &TcpAoKey) -> io::Result<()> {
    let option = Delete {
        addr: storage(peers.addr()),
        ifindex: 0,
        flags: 0,
        reserved: 0,
        prefix: peers.prefix_len(),
        sndid: key.send_id,
        rcvid: key.recv_id,
        current_key: 0,
        rnext: 0,
        keyflags: 0,
    };
    match set(listener, libc::IPPROTO_TCP, TCP_AO_DEL_KEY, &option) {
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(explained(&error)),
        _ => Ok(()),
    }
}

/// Whether the segments of a connection are signed and checked.
pub(super) fn is_on(stream: &impl AsFd) -> bool {
    let mut info = Info::default();
    let mut len = libc::socklen_t::try_from(size_of::<Info>()).unwrap_or(0);
    // SAFETY: the descriptor is open for the duration of the borrow, and the kernel reads and writes
    // at most `len` bytes of `info`, which has as many and is plain integers.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_AO_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    // Without a key there is an error: ENOENT, or ENOPROTOOPT where there is no TCP-AO.
    result == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_it_or_it_is_said_that_it_has_not() {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
        assert!(!is_on(&socket));
        let peer: IpNet = "2001:db8::1/128".parse().unwrap();
        let key = |id, algorithm| {
            let key = Password::new("a key of other than 16 octets");
            TcpAoKey { send_id: id, recv_id: 100 + id, algorithm, key }
        };
        let keys = [key(1, TcpAoAlgorithm::HmacSha1), key(2, TcpAoAlgorithm::Aes128Cmac)];
        match supported() {
            Ok(()) => {
                for (at, key) in keys.iter().enumerate() {
                    add(&socket, peer, key, at == 0).unwrap();
                }
                assert!(is_on(&socket));
                remove(&socket, peer, &keys[1]).unwrap();
                remove(&socket, peer, &keys[1]).unwrap();
            }
            Err(why) => {
                assert!(why.to_string().starts_with("TCP-AO: this kernel has none"), "{why}");
                let same = add(&socket, peer, &keys[0], true).unwrap_err();
                assert_eq!(same.to_string(), why.to_string());
            }
        }
    }
}
