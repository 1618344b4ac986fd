//! Addresses of interfaces (`RTM_*ADDR`, `include/uapi/linux/if_addr.h`).

use std::net::IpAddr;

use crate::buffer::{self, Batch, Message};
use crate::{Result, Socket};

const NEW: u16 = 20;
const DEL: u16 = 21;
const GET: u16 = 22;

const HEADER: usize = 8;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const FLAGS: u16 = 8;
/// No duplicate address detection: usable at once.
const NODAD: u32 = 2;

/// The multicast group of notifications about IPv4 addresses (`RTNLGRP_IPV4_IFADDR`).
pub const NOTIFICATIONS_V4: u32 = 5;
/// The multicast group of notifications about IPv6 addresses (`RTNLGRP_IPV6_IFADDR`).
pub const NOTIFICATIONS_V6: u32 = 9;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of the network that is on the link, in bits.
    pub prefix_length: u8,
}

/// Gives an interface an address; IPv6 without duplicate address detection. `EEXIST` if it has it.
pub fn add(batch: &mut Batch, address: &Address) {
    batch.message(NEW, buffer::CREATE | buffer::EXCLUSIVE, |batch| {
        header(batch, address);
        let (bytes, len) = buffer::octets(address.address);
        batch.attr(LOCAL, &bytes[..len]);
        batch.attr(ADDRESS, &bytes[..len]);
        if address.address.is_ipv6() {
            batch.u32(FLAGS, NODAD);
        }
    });
}

/// Takes an address away.
pub fn delete(batch: &mut Batch, address: &Address) {
    batch.message(DEL, 0, |batch| {
        header(batch, address);
        let (bytes, len) = buffer::octets(address.address);
        batch.attr(LOCAL, &bytes[..len]);
    });
}

fn header(batch: &mut Batch, address: &Address) {
    let flags = if address.address.is_ipv6() { 2 } else { 0 };
    // struct ifaddrmsg: family, prefix length, flags, scope (universe, or link for link-local)
    let scope = match address.address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => libc::RT_SCOPE_LINK,
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    let mut bytes =
        [buffer::family(address.address), address.prefix_length, flags, scope, 0, 0, 0, 0];
    bytes[4..].copy_from_slice(&address.index.to_ne_bytes());
    batch.put(&bytes);
}

/// All addresses of the socket's namespace.
pub fn list(socket: &mut Socket) -> Result<Vec<Address>> {
    let mut request = Batch::new();
    request.message(GET, buffer::DUMP, |batch| batch.put(&[0; HEADER]));
    socket.dump(&mut request, parse)
}

/// Whether a notification is about addresses.
pub fn is_event(message: &Message<'_>) -> bool {
    matches!(message.kind, NEW | DEL)
}

/// Whether a notification says that an address is gone.
pub fn is_removal(message: &Message<'_>) -> bool {
    message.kind == DEL
}

pub(crate) fn parse(message: &Message<'_>) -> Option<Address> {
    if message.kind != NEW {
        return None;
    }
    let attrs = message.attrs(HEADER);
    // Of a point-to-point interface, IFA_ADDRESS is the other end.
    let address = attrs.find(LOCAL).or_else(|| attrs.find(ADDRESS))?;
    Some(Address {
        index: buffer::ne32(message.payload.get(4..)?)?,
        address: buffer::ip(address)?,
        prefix_length: *message.payload.get(1)?,
    })
}
