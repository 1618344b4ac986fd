//! ICMP echo over a raw socket.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Echo request and reply, ICMP (RFC 792) and ICMPv6 (RFC 4443).
const V4: (u8, u8) = (8, 0);
const V6: (u8, u8) = (128, 129);

/// Sends one echo request and waits for its reply.
pub(crate) fn echo(address: IpAddr, timeout: Duration) -> io::Result<()> {
    let (domain, protocol, (request, reply)) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, V4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, V6),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    // Sixteen bytes that nobody else's reply carries: which process, which thread, when.
    let token =
        format!("{:?}{:?}{:?}", std::process::id(), std::thread::current().id(), Instant::now());
    let mut packet = vec![request, 0, 0, 0, 0, 0, 0, 1];
    packet.extend_from_slice(&digest(&token));
    if address.is_ipv4() {
        // ICMPv6's checksum covers a pseudo-header, so there the kernel computes it.
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    socket.send(&packet)?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.read(&mut buffer)?;
        let mut answer = buffer.get(..length).unwrap_or_default();
        if address.is_ipv4() {
            // A raw IPv4 socket delivers the IP header too.
            let header = answer.first().map_or(0, |first| usize::from(first & 15) * 4);
            answer = answer.get(header..).unwrap_or_default();
        }
        if answer.first() == Some(&reply) && answer.get(8..) == packet.get(8..) {
            return Ok(());
        }
    }
}

fn digest(text: &str) -> [u8; 16] {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = std::hash::DefaultHasher::new();
    text.hash(&mut hasher);
    let first = hasher.finish();
    first.hash(&mut hasher);
    let mut out = [0; 16];
    out[..8].copy_from_slice(&first.to_be_bytes());
    out[8..].copy_from_slice(&hasher.finish().to_be_bytes());
    out
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).fold(0, |sum, pair| {
        sum + (u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        let mut packet = vec![8, 0, 0, 0, 0, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef];
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&packet), 0);
    }
}
