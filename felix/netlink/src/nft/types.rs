//! The data types of set keys and map values, and what else `nft` keeps with objects.

use crate::buffer::{Attrs, Batch};

/// A type of `nft`'s (its numbers are libnftables' own `enum datatypes`: the kernel only stores them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the nft type of its name")]
pub enum DataType {
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    Mark,
    IfaceIndex,
    Icmpv6Type,
    /// An interface's name, padded to 16 bytes.
    IfName,
}

const ALL: [(DataType, u32, u32); 8] = [
    (DataType::Ipv4Addr, 7, 4),
    (DataType::Ipv6Addr, 8, 16),
    (DataType::InetProto, 12, 1),
    (DataType::InetService, 13, 2),
    (DataType::Mark, 19, 4),
    (DataType::IfaceIndex, 20, 4),
    (DataType::Icmpv6Type, 29, 1),
    (DataType::IfName, 41, 16),
];

impl DataType {
    fn row(self) -> (DataType, u32, u32) {
        ALL.into_iter().find(|row| row.0 == self).unwrap_or(ALL[0])
    }

    /// libnftables' number.
    pub(super) fn number(self) -> u32 {
        self.row().1
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        ALL.into_iter().find(|row| row.1 == number).map(|row| row.0)
    }

    /// Bytes of a value.
    #[allow(clippy::len_without_is_empty, reason = "no type is empty")]
    pub fn len(self) -> u32 {
        self.row().2
    }

    /// Whether values are in the machine's byte order; otherwise in network byte order.
    pub fn host_order(self) -> bool {
        matches!(self, Self::Mark | Self::IfaceIndex | Self::IfName)
    }
}

/// libnftables' `enum byteorder`, as it stores it with a set.
pub(super) const BYTEORDER_INVALID: u32 = 0;
pub(super) const BYTEORDER_HOST: u32 = 1;
pub(super) const BYTEORDER_NETWORK: u32 = 2;

/// User data of libnftables (`struct nftnl_udata`): one byte type, one byte length, value.
#[derive(Clone, Debug, Default)]
pub(super) struct UserData(Vec<u8>);

impl UserData {
    pub(super) fn number(&mut self, kind: u8, value: u32) {
        self.0.extend_from_slice(&[kind, 4]);
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    /// A comment, NUL-terminated, cut to what its length byte can say.
    pub(super) fn comment(&mut self, kind: u8, comment: &str) {
        let mut end = comment.len().min(128);
        while !comment.is_char_boundary(end) {
            end -= 1;
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most 129")]
        self.0.extend_from_slice(&[kind, end as u8 + 1]);
        self.0.extend_from_slice(&comment.as_bytes()[..end]);
        self.0.push(0);
    }

    pub(super) fn write(&self, batch: &mut Batch, attribute: u16) {
        if !self.0.is_empty() {
            batch.attr(attribute, &self.0);
        }
    }

    /// The comment in the user data of an object, if any, and if it is text.
    pub(super) fn find_comment<'a>(attrs: &Attrs<'a>, attribute: u16, kind: u8) -> Option<&'a str> {
        let mut rest = attrs.find(attribute)?;
        while let [k, len, tail @ ..] = rest {
            let value = tail.get(..usize::from(*len))?;
            if *k == kind {
                let text = value.split(|byte| *byte == 0).next()?;
                return std::str::from_utf8(text).ok();
            }
            rest = &tail[value.len()..];
        }
        None
    }
}
