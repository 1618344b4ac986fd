//! Neighbours: which MAC address an IP address on a link has (`RTM_*NEIGH`).

use std::net::IpAddr;

use crate::buffer::{self, Batch, Message};
use crate::{Result, Socket};

const NEW: u16 = 28;
const GET: u16 = 30;

const HEADER: usize = 12;
const DESTINATION: u16 = 1;
const LINK_ADDRESS: u16 = 2;
/// Never asked for, never forgotten (`NUD_PERMANENT`).
const PERMANENT: u16 = 0x80;

/// A permanent entry of an interface's neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// The interface.
    pub index: u32,
    /// The neighbour.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// Writes a permanent entry, replacing what is known of the address.
pub fn set(batch: &mut Batch, neighbour: &Neighbour) {
    batch.message(NEW, buffer::CREATE | buffer::REPLACE, |batch| {
        header(batch, buffer::family(neighbour.address), neighbour.index, PERMANENT);
        let (bytes, len) = buffer::octets(neighbour.address);
        batch.attr(DESTINATION, &bytes[..len]);
        batch.attr(LINK_ADDRESS, &neighbour.mac);
    });
}

fn header(batch: &mut Batch, family: u8, index: u32, state: u16) {
    let mut bytes = [0; HEADER];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    batch.put(&bytes);
}

/// The permanent entries of the socket's namespace.
pub fn list(socket: &mut Socket) -> Result<Vec<Neighbour>> {
    let mut request = Batch::new();
    request.message(GET, buffer::DUMP, |batch| header(batch, 0, 0, 0));
    socket.dump(&mut request, parse)
}

pub(crate) fn parse(message: &Message<'_>) -> Option<Neighbour> {
    let state = buffer::ne16(message.payload.get(8..)?)?;
    if message.kind != NEW || state & PERMANENT == 0 {
        return None;
    }
    let attrs = message.attrs(HEADER);
    Some(Neighbour {
        index: buffer::ne32(message.payload.get(4..)?)?,
        address: buffer::ip(attrs.find(DESTINATION)?)?,
        mac: attrs.find(LINK_ADDRESS)?.try_into().ok()?,
    })
}
