//! By which interface a connection came in. The kernel says so of a TCP socket in the ancillary data
//! that is meant for datagrams: `IP_PKTOPTIONS` (`do_ip_getsockopt`) and, for IPv6, that of RFC 2292.
#![allow(unsafe_code, reason = "IP_PKTOPTIONS has no safe interface")]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void};

use super::tcp::set;

/// `IP_PKTOPTIONS` of `linux/in.h`.
const IP_PKTOPTIONS: c_int = 9;
/// `IPV6_2292PKTOPTIONS` of `linux/in6.h`.
const IPV6_2292PKTOPTIONS: c_int = 6;

/// The name of the interface that the last handshake packet of an accepted connection came by: that
/// of the VRF, if it is in one. Of a connection from this machine itself it is `lo`.
///
/// # Errors
/// Of the kernel, also where the interface has gone meanwhile.
pub(super) fn name(stream: &impl AsFd, ipv4: bool) -> io::Result<String> {
    let (level, ask, read) = if ipv4 {
        (libc::IPPROTO_IP, libc::IP_PKTINFO, IP_PKTOPTIONS)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, IPV6_2292PKTOPTIONS)
    };
    set(stream, level, ask, &1)?;
    let index = index(stream, level, read);
    set(stream, level, ask, &0)?;
    let index = index?.ok_or_else(|| io::Error::other("the kernel does not say by which"))?;
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the length that the function asks for, IF_NAMESIZE.
    if unsafe { libc::if_indextoname(index, name.as_mut_ptr()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: on success the buffer holds a name that ends with a zero.
    Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

/// What the kernel has noted of a connection, as ancillary data.
fn index(stream: &impl AsFd, level: c_int, option: c_int) -> io::Result<Option<u32>> {
    // Room for more than the kernel gives.
    let mut buffer = [0_u8; 512];
    let mut len = libc::socklen_t::try_from(buffer.len()).unwrap_or(0);
    // SAFETY: the descriptor is open for the duration of the borrow, and the kernel writes at most
    // `len` bytes to the buffer, which has as many.
    let result = unsafe {
        let to = buffer.as_mut_ptr().cast::<c_void>();
        libc::getsockopt(stream.as_fd().as_raw_fd(), level, option, to, &raw mut len)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(parse(buffer.get(..len as usize).unwrap_or_default()))
}

/// The interface of the packet information (`in_pktinfo`, `in6_pktinfo`) among ancillary data
/// (`cmsg(3)`).
fn parse(mut octets: &[u8]) -> Option<u32> {
    const WORD: usize = size_of::<usize>();
    while let Some((header, _)) = octets.split_first_chunk::<{ WORD + 8 }>() {
        let int = |at: usize| c_int::from_ne_bytes([0, 1, 2, 3].map(|n| header[at + n]));
        let len = usize::from_ne_bytes(std::array::from_fn(|n| header[n]));
        let data = octets.get(WORD + 8..len)?;
        let at = match (int(WORD), int(WORD + 4)) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => Some(0),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => Some(16),
            _ => None,
        };
        if let Some(at) = at {
            let index = data.get(at..)?.first_chunk::<4>()?;
            return Some(u32::from_ne_bytes(*index)).filter(|index| *index != 0);
        }
        octets = octets.get(len.next_multiple_of(WORD)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_interface_of_a_connection_is_known() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let local = listener.local_addr().unwrap();
            let _client = TcpStream::connect(local).unwrap();
            let (stream, _) = listener.accept().unwrap();
            assert_eq!(name(&stream, local.is_ipv4()).unwrap(), "lo");
        }
    }

    #[test]
    fn ancillary_data_is_read_as_far_as_it_is_there() {
        let message = |level: c_int, kind: c_int, data: &[u8]| {
            let len = size_of::<usize>() + 8 + data.len();
            let ints = [level.to_ne_bytes(), kind.to_ne_bytes()].concat();
            let mut all = [&len.to_ne_bytes()[..], &ints, data].concat();
            all.resize(all.len().next_multiple_of(size_of::<usize>()), 0);
            all
        };
        let other = message(libc::SOL_SOCKET, 1, &[9; 5]);
        let mut info = [0; 20];
        info[16..].copy_from_slice(&7_u32.to_ne_bytes());
        let v6 = message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        info[..4].copy_from_slice(&3_u32.to_ne_bytes());
        let v4 = message(libc::IPPROTO_IP, libc::IP_PKTINFO, &info[..12]);
        let both = [other.clone(), v4, v6.clone()].concat();
        assert_eq!(
            (parse(&both), parse(&v6), parse(&other), parse(&[])),
            (Some(3), Some(7), None, None)
        );
        for len in 0..v6.len() - 4 {
            assert_eq!(parse(&v6[..len]), None);
        }
        // A length that is none.
        assert_eq!(parse(&[0; 64]), None);
        assert_eq!(parse(&[0xff; 64]), None);
    }
}
