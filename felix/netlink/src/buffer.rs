//! Messages and attributes as bytes: appending them to a [`Batch`], and walking received ones.
//!
//! A message is a 16-byte header and a payload; an attribute is a 4-byte header (length, type) and
//! a value; both are padded to 4 bytes. An attribute is at most 65,535 bytes long, a message
//! 4 GiB (`include/uapi/linux/netlink.h`). Header fields are in the byte order of the machine.

use crate::{Error, Result};

/// Length of a message header, `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Longest value list that is still begun a new element of, leaving room for one more element.
pub(crate) const NEST_FULL: usize = 65_000;

/// This is a request (`NLM_F_REQUEST`).
pub const REQUEST: u16 = 1;
/// Answer even if all went well (`NLM_F_ACK`).
pub const ACK: u16 = 4;
/// List everything that matches (`NLM_F_DUMP`).
pub const DUMP: u16 = 0x300;
/// The dump is inconsistent (`NLM_F_DUMP_INTR`).
pub const DUMP_INTERRUPTED: u16 = 0x10;
/// Replace what exists (`NLM_F_REPLACE`).
pub const REPLACE: u16 = 0x100;
/// Fail if it exists (`NLM_F_EXCL`).
pub const EXCLUSIVE: u16 = 0x200;
/// Create if it does not exist (`NLM_F_CREATE`).
pub const CREATE: u16 = 0x400;
/// Append to the end of the list (`NLM_F_APPEND`).
pub const APPEND: u16 = 0x800;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Messages to be sent together, in order. Sequence numbers are the socket's business.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<u32>,
    too_long: bool,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many messages it holds.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether it holds no message.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets all messages, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
        self.too_long = false;
    }

    /// The bytes as they would be sent, or [`Error::TooLong`].
    pub fn bytes(&self) -> Result<&[u8]> {
        if self.too_long { Err(Error::TooLong) } else { Ok(&self.bytes) }
    }

    /// Where message `index` starts, in bytes.
    pub fn start(&self, index: usize) -> Option<usize> {
        self.starts.get(index).map(|start| *start as usize)
    }

    /// Appends a message; `fill` writes its payload. Returns its index.
    pub fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Self)) -> usize {
        let open = self.open(kind, flags);
        fill(self);
        self.close(open);
        self.starts.len() - 1
    }

    /// Starts a message that [`Batch::close`] ends.
    pub(crate) fn open(&mut self, kind: u16, flags: u16) -> usize {
        let start = self.bytes.len();
        match u32::try_from(start) {
            Ok(start) => self.starts.push(start),
            Err(_) => {
                self.too_long = true;
                self.starts.push(u32::MAX);
            }
        }
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        start
    }

    pub(crate) fn close(&mut self, start: usize) {
        match u32::try_from(self.bytes.len() - start) {
            Ok(len) => self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
    }

    /// Appends bytes that are not an attribute (a family header), padded.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// An attribute with this value.
    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        match u16::try_from(value.len() + 4) {
            Ok(len) => {
                self.bytes.extend_from_slice(&len.to_ne_bytes());
                self.bytes.extend_from_slice(&kind.to_ne_bytes());
                self.put(value);
            }
            Err(_) => self.too_long = true,
        }
    }

    /// A NUL-terminated string.
    pub fn str(&mut self, kind: u16, value: &str) {
        match u16::try_from(value.len() + 5) {
            Ok(len) => {
                self.bytes.extend_from_slice(&len.to_ne_bytes());
                self.bytes.extend_from_slice(&kind.to_ne_bytes());
                self.bytes.extend_from_slice(value.as_bytes());
                self.bytes.push(0);
                self.pad();
            }
            Err(_) => self.too_long = true,
        }
    }

    /// An 8-bit number.
    pub fn u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    /// A 32-bit number in the machine's byte order (rtnetlink).
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// A 16-bit number in network byte order (ports).
    pub fn be16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A 32-bit number in network byte order (nfnetlink).
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A 64-bit number in network byte order (nfnetlink).
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// An attribute whose value is the attributes that `fill` appends.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.open_nest(kind);
        fill(self);
        self.close_nest(start);
    }

    pub(crate) fn open_nest(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        start
    }

    pub(crate) fn close_nest(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(len) => self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
    }

    /// Replaces bytes that were put before.
    pub(crate) fn overwrite(&mut self, start: usize, bytes: &[u8]) {
        if let Some(old) = self.bytes.get_mut(start..start + bytes.len()) {
            old.copy_from_slice(bytes);
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Numbers the messages `first`, `first + 1`, ... and asks for an answer to message `ack`.
    pub(crate) fn number(&mut self, first: u32, ack: usize) {
        for (index, start) in self.starts.iter().enumerate() {
            let start = *start as usize;
            #[allow(clippy::cast_possible_truncation, reason = "fewer messages than bytes")]
            let sequence = first.wrapping_add(index as u32);
            let Some(header) = self.bytes.get_mut(start..start + HEADER) else { continue };
            header[8..12].copy_from_slice(&sequence.to_ne_bytes());
            if index == ack {
                let flags = u16::from_ne_bytes([header[6], header[7]]) | ACK;
                header[6..8].copy_from_slice(&flags.to_ne_bytes());
            }
        }
    }
}

/// One received message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: of the request that it answers.
    pub sequence: u32,
    /// `nlmsg_pid`: the socket whose request caused it; 0 if the kernel itself did.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after a family header of `header` bytes.
    pub fn attrs(&self, header: usize) -> Attrs<'a> {
        Attrs(self.payload.get(header..).unwrap_or_default())
    }
}

/// Walks the messages of a datagram; stops at the first malformed one.
#[derive(Clone, Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.get(..HEADER)?;
        let len = ne32(header)? as usize;
        let payload = self.0.get(HEADER..len)?;
        let message = Message {
            kind: ne16(&header[4..])?,
            flags: ne16(&header[6..])?,
            sequence: ne32(&header[8..])?,
            port: ne32(&header[12..])?,
            payload,
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// Walks attributes as (type, value); stops at the first malformed one.
#[derive(Clone, Debug)]
pub struct Attrs<'a>(pub &'a [u8]);

impl<'a> Attrs<'a> {
    /// The first attribute of this type.
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find_map(|(k, value)| (k == kind).then_some(value))
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = usize::from(ne16(self.0)?);
        let kind = ne16(self.0.get(2..)?)? & TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A 16-bit number in the machine's byte order, from the first bytes of `bytes`.
pub fn ne16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|chunk| u16::from_ne_bytes(*chunk))
}

/// A 32-bit number in the machine's byte order, from the first bytes of `bytes`.
pub fn ne32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|chunk| u32::from_ne_bytes(*chunk))
}

/// A 16-bit number in network byte order, from the first bytes of `bytes`.
pub fn be16(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|chunk| u16::from_be_bytes(*chunk))
}

/// A 32-bit number in network byte order, from the first bytes of `bytes`.
pub fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|chunk| u32::from_be_bytes(*chunk))
}

/// A 64-bit number in network byte order, from the first bytes of `bytes`.
pub fn be64(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|chunk| u64::from_be_bytes(*chunk))
}

/// A string up to its NUL, what is not UTF-8 replaced.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address of 4 or 16 bytes.
pub fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

/// The bytes of an address, and their number.
pub(crate) fn octets(address: std::net::IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match address {
        std::net::IpAddr::V4(v4) => {
            bytes[..4].copy_from_slice(&v4.octets());
            (bytes, 4)
        }
        std::net::IpAddr::V6(v6) => (v6.octets(), 16),
    }
}

/// `AF_INET` or `AF_INET6`.
#[allow(clippy::cast_possible_truncation, reason = "2 and 10")]
pub(crate) fn family(address: std::net::IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

#[cfg(test)]
mod tests;
