//! UPDATE messages out: prefixes of one attribute set packed into as few messages as fit.

use std::net::IpAddr;

use super::attributes::{Info, NextHop, find, flag, iter, kind, push};
use super::prefix::encoded_len;
use super::{
    AS_TRANS, Family, HEADER_LEN, MAX_EXTENDED_LEN, MAX_LEN, MessageType, Nlri, Prefix, begin,
    finish, path,
};

/// Appends a KEEPALIVE.
pub fn encode_keepalive(out: &mut Vec<u8>) {
    let start = begin(out, MessageType::Keepalive);
    finish(out, start);
}

/// Appends the End-of-RIB marker of `family` (RFC 4724 section 2).
pub fn encode_end_of_rib(family: Family, out: &mut Vec<u8>) {
    let start = begin(out, MessageType::Update);
    out.extend_from_slice(&[0, 0]);
    if family == Family::Ipv4Unicast {
        out.extend_from_slice(&[0, 0]);
    } else {
        let (afi, safi) = family.wire();
        out.extend_from_slice(&[0, 6]);
        let [high, low] = afi.to_be_bytes();
        push(out, flag::OPTIONAL, kind::MP_UNREACH_NLRI, &[high, low, safi]);
    }
    finish(out, start);
}

/// Writes UPDATEs as one kind of receiver wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpdateEncoder {
    /// The receiver reads four-octet AS numbers (RFC 6793).
    pub four_octet_as: bool,
    /// The receiver takes messages of 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// The receiver takes IPv4 routes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The receiver reads path identifiers before prefixes (RFC 7911).
    pub add_path: bool,
}

impl UpdateEncoder {
    const fn max(self) -> usize {
        if self.extended_messages { MAX_EXTENDED_LEN } else { MAX_LEN }
    }

    /// Appends UPDATEs that withdraw all of `prefixes`; returns how many messages.
    pub fn withdraw<P: Prefix>(
        self,
        prefixes: impl IntoIterator<Item = Nlri<P>>,
        out: &mut Vec<u8>,
    ) -> usize {
        let mut prefixes = prefixes.into_iter().peekable();
        let mut messages = 0;
        while prefixes.peek().is_some() {
            let start = begin(out, MessageType::Update);
            if P::FAMILY == Family::Ipv4Unicast {
                out.extend_from_slice(&[0, 0]);
                let field = out.len();
                self.fill(&mut prefixes, out, start + self.max() - 2);
                let len = out.len() - field;
                patch_u16(out, field - 2, len);
                out.extend_from_slice(&[0, 0]);
            } else {
                let (afi, safi) = P::FAMILY.wire();
                // Always the long form: the length is known only afterwards.
                let flags = flag::OPTIONAL | flag::EXTENDED_LENGTH;
                out.extend_from_slice(&[0, 0, 0, 0, flags, kind::MP_UNREACH_NLRI, 0, 0]);
                let value = out.len();
                out.extend_from_slice(&afi.to_be_bytes());
                out.push(safi);
                self.fill(&mut prefixes, out, start + self.max());
                let len = out.len() - value;
                patch_u16(out, value - 2, len);
                patch_u16(out, value - 6, len + 4);
            }
            finish(out, start);
            messages += 1;
        }
        messages
    }

    /// Appends UPDATEs that announce all of `prefixes` with the attributes of `block` and the
    /// given next hop; returns how many messages. 0, and nothing written, when the attributes
    /// leave no room for a prefix or the next hop cannot be carried for the family: such routes
    /// must be withdrawn.
    pub fn announce<P: Prefix>(
        self,
        block: &[u8],
        info: &Info,
        next_hop: NextHop,
        prefixes: impl IntoIterator<Item = Nlri<P>>,
        out: &mut Vec<u8>,
    ) -> usize {
        let Some((attributes, mp)) = self.prepare::<P>(block, info, next_hop) else { return 0 };
        let mut prefixes = prefixes.into_iter().peekable();
        let mut messages = 0;
        while prefixes.peek().is_some() {
            let start = begin(out, MessageType::Update);
            out.extend_from_slice(&[0, 0, 0, 0]);
            let field = out.len();
            if let Some(next_hop) = &mp {
                let (afi, safi) = P::FAMILY.wire();
                let flags = flag::OPTIONAL | flag::EXTENDED_LENGTH;
                out.extend_from_slice(&[flags, kind::MP_REACH_NLRI, 0, 0]);
                let value = out.len();
                out.extend_from_slice(&afi.to_be_bytes());
                out.extend_from_slice(&[safi, u8::try_from(next_hop.len()).unwrap_or(0)]);
                out.extend_from_slice(next_hop);
                out.push(0);
                self.fill(&mut prefixes, out, start + self.max() - attributes.len());
                let len = out.len() - value;
                patch_u16(out, value - 2, len);
            }
            out.extend_from_slice(&attributes);
            let len = out.len() - field;
            patch_u16(out, field - 2, len);
            if mp.is_none() {
                self.fill(&mut prefixes, out, start + self.max());
            }
            finish(out, start);
            messages += 1;
        }
        messages
    }

    /// Whether [`Self::announce`] could.
    pub fn can_announce<P: Prefix>(self, block: &[u8], info: &Info, next_hop: NextHop) -> bool {
        self.prepare::<P>(block, info, next_hop).is_some()
    }

    /// The attributes of every message but MP_REACH_NLRI, and the next hop that goes into that
    /// one, if it is to be there.
    fn prepare<P: Prefix>(
        self,
        block: &[u8],
        info: &Info,
        next_hop: NextHop,
    ) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let mut attributes = Vec::with_capacity(block.len() + 16);
        let mp = match (P::FAMILY, next_hop.addr) {
            (Family::Ipv4Unicast, IpAddr::V4(addr)) => {
                self.attributes(block, info, Some(addr.octets()), &mut attributes);
                None
            }
            (Family::Ipv4Unicast, IpAddr::V6(_)) if !self.extended_next_hop => return None,
            (_, IpAddr::V6(addr)) => {
                self.attributes(block, info, None, &mut attributes);
                let mut octets = addr.octets().to_vec();
                octets.extend(next_hop.link_local.into_iter().flat_map(|a| a.octets()));
                Some(octets)
            }
            (Family::Ipv6Unicast, IpAddr::V4(_)) => return None,
        };
        let fixed = HEADER_LEN + 4 + attributes.len() + mp.as_ref().map_or(0, |m| 9 + m.len());
        (fixed + self.longest::<P>() <= self.max()).then_some((attributes, mp))
    }

    /// The most octets that one of the NLRI takes.
    const fn longest<P: Prefix>(self) -> usize {
        encoded_len(P::BITS) + if self.add_path { 4 } else { 0 }
    }

    /// Appends prefixes while they fit below `end`.
    fn fill<P: Prefix>(
        self,
        prefixes: &mut std::iter::Peekable<impl Iterator<Item = Nlri<P>>>,
        out: &mut Vec<u8>,
        end: usize,
    ) {
        while out.len() + self.longest::<P>() <= end {
            let Some(Nlri { prefix, path_id }) = prefixes.next() else { return };
            if self.add_path {
                out.extend_from_slice(&path_id.to_be_bytes());
            }
            prefix.encode(out);
        }
        // The last octets are worth a closer look only for short prefixes; a message more or less
        // does not matter, an oversized one does.
    }

    /// The attributes in ascending order, with NEXT_HOP in its place if it is wanted.
    fn attributes(self, block: &[u8], info: &Info, next_hop: Option<[u8; 4]>, out: &mut Vec<u8>) {
        if !self.four_octet_as {
            two_octet_attributes(block, next_hop, out);
            return;
        }
        let (before, after) = block.split_at_checked(info.split.into()).unwrap_or((block, &[]));
        out.extend_from_slice(before);
        if let Some(next_hop) = next_hop {
            push(out, flag::TRANSITIVE, kind::NEXT_HOP, &next_hop);
        }
        out.extend_from_slice(after);
    }
}

/// RFC 6793 section 4.2.2: short AS numbers, with AS4_PATH and AS4_AGGREGATOR beside them where
/// something was lost.
fn two_octet_attributes(block: &[u8], next_hop: Option<[u8; 4]>, out: &mut Vec<u8>) {
    let mut next_hop = next_hop;
    let mut as4_due = true;
    let mut value = Vec::new();
    for attribute in iter(block) {
        if attribute.kind > kind::AS_PATH
            && let Some(next_hop) = next_hop.take()
        {
            push(out, flag::TRANSITIVE, kind::NEXT_HOP, &next_hop);
        }
        if attribute.kind > kind::EXTENDED_COMMUNITIES && std::mem::take(&mut as4_due) {
            as4_attributes(block, out);
        }
        value.clear();
        match attribute.kind {
            kind::AS_PATH => path::narrow(attribute.value, &mut value),
            kind::AGGREGATOR => {
                let (asn, address) = attribute.value.split_at_checked(4).unwrap_or_default();
                let asn = asn.iter().fold(0, |asn, octet| asn << 8 | u32::from(*octet));
                let short = u16::try_from(asn).unwrap_or(AS_TRANS);
                value.extend_from_slice(&short.to_be_bytes());
                value.extend_from_slice(address);
            }
            _ => value.extend_from_slice(attribute.value),
        }
        push(out, attribute.flags, attribute.kind, &value);
    }
    if let Some(next_hop) = next_hop {
        push(out, flag::TRANSITIVE, kind::NEXT_HOP, &next_hop);
    }
    if as4_due {
        as4_attributes(block, out);
    }
}

fn as4_attributes(block: &[u8], out: &mut Vec<u8>) {
    const FLAGS: u8 = flag::OPTIONAL | flag::TRANSITIVE;
    // RFC 6793 section 3: without the inside of a confederation.
    let as_path = &path::outside(super::attributes::as_path(block));
    if path::numbers(as_path).any(|asn| asn > u32::from(u16::MAX)) {
        push(out, FLAGS, kind::AS4_PATH, as_path);
    }
    if let Some(aggregator) = find(block, kind::AGGREGATOR)
        && aggregator.first_chunk::<4>().is_some_and(|a| a[..2] != [0, 0])
    {
        push(out, FLAGS, kind::AS4_AGGREGATOR, aggregator);
    }
}

fn patch_u16(out: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes();
    out[at..at + 2].copy_from_slice(&value);
}
