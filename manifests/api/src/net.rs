//! Networks and peer addresses as they are written in the API.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// A network in CIDR notation or an address, as the network it means: an address is a network of
/// one, host bits are cleared. None if it is neither, or an IPv4 address inside an IPv6 one, which
/// the kernel would never see.
pub fn parse(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    match net.addr() {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => None,
        _ => Some(net.trunc()),
    }
}

/// `peerIP` of a BGPPeer: an address, and a port if it gives one: `192.0.2.1`, `192.0.2.1:1179`,
/// `2001:db8::1`, `[2001:db8::1]:1179`.
pub fn parse_peer(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, None));
    }
    let socket = text.parse::<SocketAddr>().ok().filter(|socket| socket.port() != 0)?;
    Some((socket.ip(), Some(socket.port())))
}
