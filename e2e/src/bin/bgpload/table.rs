//! Routes to announce, encoded before the clock starts.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::rc::Rc;

use crate::message::{self, Attributes, Prefix};
use crate::session::Speaker;

/// Routes in one UPDATE, at most.
pub(crate) const PER_UPDATE: usize = 300;
/// Where the plain /24s begin.
const BASE: u32 = u32::from_be_bytes([20, 0, 0, 0]);
/// Where further ones do, beyond every table.
const FURTHER: u32 = u32::from_be_bytes([60, 0, 0, 0]);
/// The ASes of made-up origins.
const ORIGINS: u32 = 200_000;

/// A sender's table, ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) routes: u64,
    pub(crate) announcement: Rc<[u8]>,
    pub(crate) withdrawal: Rc<[u8]>,
}

/// The plain /24 of a number.
pub(crate) fn plain(number: u32) -> Prefix {
    Prefix { address: Ipv4Addr::from(BASE + (number << 8)), length: 24 }
}

/// One more route, of a sender that has announced its table.
pub(crate) fn further(sender: Speaker, number: u32) -> Rc<[u8]> {
    let prefix = Prefix { address: Ipv4Addr::from(FURTHER + (number << 8)), length: 24 };
    let mut bytes = Vec::new();
    message::announce(&mut bytes, &external(sender, &[sender.asn], &[]), &[prefix], 1);
    bytes.into()
}

impl Table {
    /// `count` neighboring /24s from an external peer; every UPDATE has attributes of its own.
    pub(crate) fn packed(sender: Speaker, count: u32) -> Self {
        let prefixes: Vec<Prefix> = (0..count).map(plain).collect();
        let mut bytes = Vec::new();
        for (origin, prefixes) in (ORIGINS..).zip(prefixes.chunks(PER_UPDATE)) {
            let path = [sender.asn, origin];
            message::announce(&mut bytes, &external(sender, &path, &[]), prefixes, PER_UPDATE);
        }
        Self::new(&prefixes, bytes)
    }

    /// `count` neighboring /24s of an internal peer's own, the `block`th of as many, in one go.
    pub(crate) fn internal(sender: Speaker, block: u32, count: u32) -> Self {
        let prefixes: Vec<Prefix> = (0..count).map(|n| plain(block * count + n)).collect();
        let attributes = Attributes {
            path: &[],
            next_hop: sender.address,
            local_pref: Some(100),
            communities: &[],
        };
        let mut bytes = Vec::new();
        message::announce(&mut bytes, &attributes, &prefixes, PER_UPDATE);
        Self::new(&prefixes, bytes)
    }

    /// A table like the Internet's, the same each time: about one set of attributes for 14 prefixes,
    /// very unevenly; most are /24s; paths of 2 to 9 ASes, 4.5 on average; 1 to 5 communities.
    pub(crate) fn internet(sender: Speaker, count: u32) -> Self {
        let mut random = Random(0x5eed);
        let mut sizes = set_sizes(count);
        random.shuffle(&mut sizes);
        let mut taken = HashSet::with_capacity(usize::try_from(count).unwrap_or(0));
        let (mut all, mut bytes) = (Vec::new(), Vec::new());
        for (origin, size) in (ORIGINS..).zip(sizes) {
            let path = path(sender.asn, origin, &mut random);
            let communities: Vec<u32> = (0..=random.weighted(&[30, 35, 20, 10, 5]))
                .map(|_| ((1000 + random.below(60)) << 16) | random.below(3000))
                .collect();
            let prefixes: Vec<Prefix> =
                (0..size).map(|_| unused(&mut taken, &mut random)).collect();
            let attributes = external(sender, &path, &communities);
            message::announce(&mut bytes, &attributes, &prefixes, PER_UPDATE);
            all.extend(prefixes);
        }
        Self::new(&all, bytes)
    }

    fn new(prefixes: &[Prefix], announcement: Vec<u8>) -> Self {
        let mut withdrawal = Vec::new();
        message::withdraw(&mut withdrawal, prefixes);
        Self {
            routes: prefixes.len() as u64,
            announcement: announcement.into(),
            withdrawal: withdrawal.into(),
        }
    }
}

fn external<'a>(sender: Speaker, path: &'a [u32], communities: &'a [u32]) -> Attributes<'a> {
    Attributes { path, next_hop: sender.address, local_pref: None, communities }
}

/// How many prefixes each origin has, some 14 on average: one in three has a single one, few have
/// thousands.
fn set_sizes(count: u32) -> Vec<u32> {
    let sets = (count / 14).max(1);
    let weight = |rank: u32| f64::from(rank + 30).powf(-1.15);
    let total: f64 = (0..sets).map(weight).sum();
    let (mut sizes, mut sum) = (Vec::new(), 0.0);
    let mut given = 0;
    for rank in 0..sets {
        // What is still to be given keeps one prefix for each that follows.
        let following = sets - rank - 1;
        sum += weight(rank);
        let due = f64::from(count) * sum / total;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and count, which is a u32"
        )]
        let due = due.round() as u32;
        let size = due.saturating_sub(given).clamp(1, count - given - following);
        given += size;
        sizes.push(size);
    }
    if let Some(last) = sizes.last_mut() {
        *last += count - given;
    }
    sizes
}

/// From the sender over a few large networks, then smaller ones, to the origin.
fn path(sender: u32, origin: u32, random: &mut Random) -> Vec<u32> {
    let between = random.weighted(&[6, 22, 32, 22, 10, 4, 3, 1]);
    let mut path = vec![sender];
    for hop in 0..between {
        path.push(if hop < 2 { 1000 + random.below(60) } else { 2000 + random.below(12_000) });
    }
    path.push(origin);
    path
}

/// A prefix that no route has yet, of a length as frequent as on the Internet.
fn unused(taken: &mut HashSet<(u32, u8)>, random: &mut Random) -> Prefix {
    /// Of 1000 prefixes, how many are a /24, a /23, ...
    const LENGTHS: [u32; 13] = [600, 100, 110, 52, 48, 27, 14, 8, 14, 3, 2, 1, 1];
    loop {
        let shorter = random.weighted(&LENGTHS);
        let length = 24 - u8::try_from(shorter).unwrap_or(0);
        let address = random.next() & (u32::MAX << (32 - u32::from(length)));
        let first = address >> 24;
        // Neither private nor local nor beyond unicast.
        let public = (1..224).contains(&first) && ![10, 127].contains(&first);
        if public && taken.insert((address, length)) {
            return Prefix { address: Ipv4Addr::from(address), length };
        }
    }
}

/// SplitMix64: the same numbers each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let [.., a, b, c, d] = (mixed ^ (mixed >> 31)).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }

    /// Less than `limit`, which is not 0.
    fn below(&mut self, limit: u32) -> u32 {
        self.next() % limit
    }

    /// An index, as often as its weight.
    fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        0
    }

    fn shuffle(&mut self, items: &mut [u32]) {
        for last in (1..items.len()).rev() {
            let limit = u32::try_from(last + 1).unwrap_or(u32::MAX);
            items.swap(last, usize::try_from(self.below(limit)).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heard::Heard;
    use crate::message::{HEADER, UPDATE};

    const SENDER: Speaker = Speaker { address: Ipv4Addr::new(10, 99, 1, 1), asn: 64601 };

    /// What a receiver has of it, and in how many messages.
    fn received(bytes: &[u8], heard: &mut Heard) {
        let mut bytes = bytes;
        while let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() {
            assert_eq!(head[18], UPDATE);
            let length = usize::from(u16::from_be_bytes([head[16], head[17]])) - HEADER;
            heard.update(&rest[..length]).unwrap();
            bytes = &rest[length..];
        }
        assert!(bytes.is_empty());
    }

    #[test]
    fn every_table_announces_and_withdraws_what_it_counts() {
        let tables = [
            (Table::packed(SENDER, 10_000), 34),
            (Table::internal(SENDER, 3, 64), 1),
            (Table::internet(SENDER, 28_000), 2000),
        ];
        for (table, messages) in tables {
            let mut heard = Heard::default();
            received(&table.announcement, &mut heard);
            assert_eq!(heard.prefixes, table.routes);
            assert!((messages..messages + 20).contains(&heard.updates), "{}", heard.updates);
            received(&table.withdrawal, &mut heard);
            assert_eq!(heard.prefixes, 0);
        }
    }

    #[test]
    fn the_internets_table_is_the_same_each_time_and_uneven() {
        let table = || Table::internet(SENDER, 5_000).announcement;
        assert_eq!(table(), table());
        let sizes = set_sizes(870_000);
        assert_eq!((sizes.len(), sizes.iter().sum::<u32>()), (62_142, 870_000));
        let (single, most) = (sizes.iter().filter(|size| **size == 1).count(), sizes[0]);
        assert!(single > 5_000 && most > 2_000 && most < 20_000, "{single} single, most {most}");
    }

    #[test]
    fn blocks_of_internal_peers_are_apart() {
        let mut heard = Heard::default();
        for block in 0..10 {
            received(&Table::internal(SENDER, block, 64).announcement, &mut heard);
        }
        received(&further(SENDER, 7), &mut heard);
        assert_eq!(heard.prefixes, 641);
    }
}
