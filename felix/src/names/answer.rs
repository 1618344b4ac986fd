//! DNS answers (RFC 1035), as far as they say which addresses a name stands for. Total: whatever the
//! bytes are, it ends, and takes time that grows with their number.

use std::net::IpAddr;

use super::pattern::is_usual;

/// Length of a message's header.
const HEADER: usize = 12;
/// The longest name on the wire.
const LONGEST_NAME: usize = 255;
/// Aliases that are followed from the name that was asked for.
const ALIASES: usize = 16;
/// Pointers in one name: those who write messages need one.
const POINTERS: usize = 32;
/// Records of one answer that are looked at.
const RECORDS: usize = 1024;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const IN: u16 = 1;

/// The addresses of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name that was asked for, in lower case, without the root's dot.
    pub name: String,
    /// Its addresses, each with the seconds for which it may be used: the least that the address and
    /// all aliases on the way to it are given.
    pub addresses: Vec<(IpAddr, u32)>,
}

/// A name as it is on the wire: labels with their lengths, in lower case, without pointers.
type WireName = Vec<u8>;

/// What a message says; None if it is malformed, no answer, an error, or without addresses of the name
/// that it asks for.
///
/// What follows a record that cannot be read is not looked at: what was cut off to fit (RFC 2181 section 9)
/// is asked for again by TCP.
pub fn read(message: &[u8]) -> Option<Answer> {
    let number = |at: usize| short(message, at);
    let (flags, questions, answers) = (number(2)?, number(4)?, number(6)?);
    let (is_answer, opcode, code) = (flags >> 15 == 1, flags >> 11 & 15, flags & 15);
    if !is_answer || (opcode, code, questions) != (0, 0, 1) {
        return None;
    }
    let (asked, mut at) = name(message, HEADER)?;
    if number(at + 2)? != IN {
        return None;
    }
    at += 4;
    let text = text(&asked)?;

    let mut aliases: Vec<(WireName, WireName, u32)> = Vec::new();
    let mut hosts: Vec<(WireName, IpAddr, u32)> = Vec::new();
    for _ in 0..usize::from(answers).min(RECORDS) {
        let Some((record, next)) = record(message, at) else { break };
        at = next;
        match record.data {
            Data::Alias(target) => aliases.push((record.owner, target, record.ttl)),
            Data::Address(address) => hosts.push((record.owner, address, record.ttl)),
            Data::Other => {}
        }
    }
    // From the name asked for to the one that has addresses; a circle ends with the count.
    let (mut owner, mut least) = (&asked, u32::MAX);
    let mut addresses: Vec<(IpAddr, u32)> = Vec::new();
    for _ in 0..=ALIASES {
        let own = hosts.iter().filter(|(of, ..)| of == owner);
        for (_, address, ttl) in own {
            let ttl = least.min(*ttl);
            match addresses.iter_mut().find(|(known, _)| known == address) {
                Some((_, known)) => *known = ttl.max(*known),
                None => addresses.push((*address, ttl)),
            }
        }
        let Some((_, target, ttl)) = aliases.iter().find(|(of, ..)| of == owner) else { break };
        (owner, least) = (target, least.min(*ttl));
    }
    (!addresses.is_empty()).then_some(Answer { name: text, addresses })
}

/// What the messages say that a segment of a TCP stream begins with (RFC 7766 section 8), as far as they are
/// in it whole.
pub fn read_segment(mut segment: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some((length, rest)) = segment.split_first_chunk::<2>()
        && let Some((message, rest)) =
            rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
    {
        answers.extend(read(message));
        segment = rest;
    }
    answers
}

struct Record {
    owner: WireName,
    ttl: u32,
    data: Data,
}

enum Data {
    Address(IpAddr),
    Alias(WireName),
    Other,
}

/// The record at a place, and where the next is.
fn record(message: &[u8], at: usize) -> Option<(Record, usize)> {
    let (owner, at) = name(message, at)?;
    let (kind, class) = (short(message, at)?, short(message, at + 2)?);
    let ttl = message.get(at + 4..).and_then(<[u8]>::first_chunk).copied();
    // What has the highest bit set is none (RFC 2181 section 8).
    let ttl = ttl.map(u32::from_be_bytes).map(|ttl| if ttl >> 31 == 0 { ttl } else { 0 })?;
    let start = at + 10;
    let end = start + usize::from(short(message, at + 8)?);
    let bytes = message.get(start..end)?;
    let data = match (class, kind) {
        (IN, A) => Data::Address(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        (IN, AAAA) => Data::Address(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        (IN, CNAME) => Data::Alias(name(message, start)?.0),
        _ => Data::Other,
    };
    Some((Record { owner, ttl, data }, end))
}

/// The name at a place, and what comes behind it.
fn name(message: &[u8], at: usize) -> Option<(WireName, usize)> {
    let (mut name, mut place, mut behind) = (WireName::new(), at, None);
    let mut pointers = 0;
    loop {
        let length = *message.get(place)?;
        match length >> 6 {
            0 if length == 0 => return Some((name, behind.unwrap_or(place + 1))),
            0 => {
                let label = message.get(place..=place + usize::from(length))?;
                // With the root's label.
                if name.len() + label.len() >= LONGEST_NAME {
                    return None;
                }
                name.extend(label.iter().map(u8::to_ascii_lowercase));
                place += label.len();
            }
            3 => {
                behind.get_or_insert(place + 2);
                let to = usize::from(short(message, place)? & 0x3fff);
                pointers += 1;
                // Only ever to what was said before (RFC 1035 section 4.1.4).
                if to >= place || pointers > POINTERS {
                    return None;
                }
                place = to;
            }
            _ => return None,
        }
    }
}

/// None if there is anything in it that no pattern can mean: a dot within a label would make another name
/// of it.
fn text(name: &WireName) -> Option<String> {
    let mut text = String::new();
    let mut rest = name.as_slice();
    while let Some((length, labels)) = rest.split_first() {
        let (label, next) = labels.split_at_checked(usize::from(*length))?;
        if !label.iter().copied().all(is_usual) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(*byte)));
        rest = next;
    }
    Some(text)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_be_bytes(*chunk))
}

#[cfg(test)]
mod tests;
