//! Where RFC 7606 leaves an UPDATE to a session reset, found in its octets without the parser: the
//! judge of what the parser refuses, and of what it takes in.

use std::net::Ipv4Addr;

use crate::wire::{Confederation, Context, Family};

/// Error subcodes of code 3: an UPDATE must end the session with one of them. None where it must not.
pub(super) fn due(body: &[u8], context: &Context) -> Vec<u8> {
    let Some((withdrawn, rest)) = field(body) else { return vec![1] };
    let Some((attributes, nlri)) = field(rest) else { return vec![1] };
    let mut due = Vec::new();
    let numbered = context.add_path.contains(Family::Ipv4Unicast);
    // RFC 7606 section 5.3.
    if !delimited(withdrawn, 32, numbered) || !delimited(nlri, 32, numbered) {
        due.push(10);
    }
    let (mut announces, mut others, mut errors) = (!nlri.is_empty(), false, false);
    let mut seen = [false; 256];
    let mut rest = attributes;
    while !rest.is_empty() {
        let Some((flags, kind, value)) = attribute(&mut rest) else {
            // Section 4: what it is can not be said, nor what is behind it.
            (others, errors) = (true, true);
            break;
        };
        let again = std::mem::replace(&mut seen[usize::from(kind)], true);
        others |= kind != 15;
        match kind {
            // Section 3 (g), and 5.3: which family it is about is not known.
            14 | 15 if again => due.push(1),
            14 | 15 if value.len() < 3 => due.push(9),
            // Only the first of others counts.
            _ if again => continue,
            14 => announces |= behind_next_hop(value).is_none_or(|nlri| !nlri.is_empty()),
            // RFC 4271 section 6.3: well-known, and not known here.
            _ if class(kind).is_none() && flags & 0x80 == 0 => due.push(2),
            _ => {}
        }
        errors |= is_malformed(flags, kind, value, context);
    }
    // Section 5.2: what was announced may be hidden, if an error is worse than an attribute to discard.
    if others && errors && !announces {
        due.push(1);
    }
    due
}

/// Whether an attribute is wrong in a way that concerns more than itself (sections 3 (c) and 7). That
/// something cannot be announced so is left out: this is asked where nothing is.
fn is_malformed(flags: u8, kind: u8, value: &[u8], context: &Context) -> bool {
    let Some(class) = class(kind) else { return false };
    let of_another_member = context.confederation == Confederation::OtherMember;
    let ignored = match kind {
        5 => context.external,
        9 | 10 => context.external || of_another_member,
        17 | 18 => context.four_octet_as,
        _ => false,
    };
    if ignored || flags & 0xc0 != class {
        return !ignored;
    }
    let list_of = |item: usize| !value.is_empty() && value.len().is_multiple_of(item);
    match kind {
        1 => !matches!(value, [0..=2]),
        2 => !is_path(value, context),
        3 => <[u8; 4]>::try_from(value)
            .map(Ipv4Addr::from)
            .map_or(true, |hop| hop.is_unspecified() || hop.is_multicast() || hop.is_broadcast()),
        4 | 5 | 9 | 35 => value.len() != 4,
        8 | 10 => !list_of(4),
        16 => !list_of(8),
        25 => !list_of(20),
        32 => !list_of(12),
        14 => family(value, context).is_some_and(|family| {
            let v6 = family == Family::Ipv6Unicast;
            let hop = value.get(3).copied().unwrap_or(0);
            !(hop == 4 && !v6 || matches!(hop, 16 | 32) && (v6 || context.extended_next_hop))
        }),
        15 => family(value, context).is_some_and(|family| {
            let longest = if family == Family::Ipv6Unicast { 128 } else { 32 };
            !delimited(&value[3..], longest, context.add_path.contains(family))
        }),
        _ => false,
    }
}

/// The Optional and Transitive flags of the attributes that are known here.
fn class(kind: u8) -> Option<u8> {
    match kind {
        1 | 2 | 3 | 5 | 6 => Some(0x40),
        4 | 9 | 10 | 14 | 15 => Some(0x80),
        7 | 8 | 16 | 17 | 18 | 25 | 32 | 35 => Some(0xc0),
        _ => None,
    }
}

/// The family of an MP attribute, if it was negotiated.
fn family(value: &[u8], context: &Context) -> Option<Family> {
    let family = match value {
        [0, 1, 1, ..] => Family::Ipv4Unicast,
        [0, 2, 1, ..] => Family::Ipv6Unicast,
        _ => return None,
    };
    context.families.contains(family).then_some(family)
}

/// What MP_REACH_NLRI has behind the next hop and the reserved octet.
fn behind_next_hop(value: &[u8]) -> Option<&[u8]> {
    value.get(5 + usize::from(*value.get(3)?)..)
}

/// Whether this is a list of segments (sections 7.2, RFC 7607 section 2).
fn is_path(mut octets: &[u8], context: &Context) -> bool {
    let width = if context.four_octet_as { 4 } else { 2 };
    let last_type = if context.confederation == Confederation::None { 2 } else { 4 };
    while let [kind, count, rest @ ..] = octets {
        let Some((numbers, rest)) = rest.split_at_checked(usize::from(*count) * width) else {
            return false;
        };
        let zero = numbers.chunks(width).any(|number| number.iter().all(|octet| *octet == 0));
        if !(1..=last_type).contains(kind) || *count == 0 || zero {
            return false;
        }
        octets = rest;
    }
    octets.is_empty()
}

/// A field with two octets of length in front, and what follows it.
fn field(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = octets.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// Flags, type and value of the first attribute; None if it runs past the end.
fn attribute<'a>(octets: &mut &'a [u8]) -> Option<(u8, u8, &'a [u8])> {
    let (&[flags, kind], rest) = octets.split_first_chunk::<2>()?;
    let (value, rest) = if flags & 0x10 != 0 {
        field(rest)?
    } else {
        let (len, rest) = rest.split_first()?;
        rest.split_at_checked(usize::from(*len))?
    };
    *octets = rest;
    Some((flags, kind, value))
}

/// Whether these are prefixes, one behind the other.
fn delimited(mut octets: &[u8], longest: u8, numbered: bool) -> bool {
    while !octets.is_empty() {
        let at = if numbered { 4 } else { 0 };
        let Some(len) = octets.get(at).filter(|len| **len <= longest) else { return false };
        let Some(rest) = octets.get(at + 1 + usize::from(*len).div_ceil(8)..) else { return false };
        octets = rest;
    }
    true
}
