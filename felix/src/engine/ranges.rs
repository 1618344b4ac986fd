//! Overlapping address ranges made disjoint. The kernel's interval sets refuse overlaps, and a
//! packet must find in one lookup everything its address lies in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// All its addresses.
    pub(super) fn whole(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(Ipv4Net::default()),
            Self::V6 => IpNet::V6(Ipv6Net::default()),
        }
    }

    /// The address whose bits are the lowest of `bits`.
    #[expect(clippy::cast_possible_truncation, reason = "a V4 span is made from V4 addresses only")]
    pub(super) fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4((bits as u32).into()),
            Self::V6 => IpAddr::V6(bits.into()),
        }
    }
}

/// An address as a number.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// An inclusive range of addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Span {
    /// The first.
    pub(super) first: u128,
    /// The last.
    pub(super) last: u128,
}

impl Span {
    /// All addresses of a network.
    pub(super) fn of(net: &IpNet) -> Self {
        Self { first: bits(net.network()), last: bits(net.broadcast()) }
    }
}

/// Cuts overlapping spans into disjoint ones, each with the tags of all spans that cover it, in
/// ascending order. Neighbours with equal tags are one span; what nothing covers is left out.
pub(super) fn flatten<T: Copy + Ord>(spans: &[(Span, T)]) -> Vec<(Span, Vec<T>)> {
    // Where a span begins (+1) and where it has just ended (-1). Nothing follows the last address.
    let mut edges: BTreeMap<u128, Vec<(T, i32)>> = BTreeMap::new();
    for (span, tag) in spans {
        edges.entry(span.first).or_default().push((*tag, 1));
        if let Some(after) = span.last.checked_add(1) {
            edges.entry(after).or_default().push((*tag, -1));
        }
    }
    let mut out: Vec<(Span, Vec<T>)> = Vec::new();
    let mut covering: BTreeMap<T, i32> = BTreeMap::new();
    let mut edges = edges.into_iter().peekable();
    while let Some((first, changes)) = edges.next() {
        for (tag, change) in changes {
            let count = covering.entry(tag).or_default();
            *count += change;
            if *count == 0 {
                covering.remove(&tag);
            }
        }
        if covering.is_empty() {
            continue;
        }
        let last = edges.peek().map_or(u128::MAX, |(next, _)| next - 1);
        let tags: Vec<T> = covering.keys().copied().collect();
        match out.last_mut() {
            Some((span, same)) if span.last.checked_add(1) == Some(first) && *same == tags => {
                span.last = last;
            }
            _ => out.push((Span { first, last }, tags)),
        }
    }
    out
}

/// Joins neighbours of an ascending sequence of disjoint spans.
pub(super) fn join(spans: impl IntoIterator<Item = Span>) -> Vec<Span> {
    let mut out: Vec<Span> = Vec::new();
    for span in spans {
        match out.last_mut() {
            Some(before) if before.last.checked_add(1) == Some(span.first) => {
                before.last = span.last;
            }
            _ => out.push(span),
        }
    }
    out
}

/// The ports of `from` that are not in `less`: inclusive ranges, which may overlap.
pub(super) fn subtract(from: &[(u16, u16)], less: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut left = from.to_vec();
    for (low, high) in less {
        left = left
            .into_iter()
            .flat_map(|(first, last)| {
                let below = (first < *low).then(|| (first, last.min(low.saturating_sub(1))));
                let above = (last > *high).then(|| (first.max(high.saturating_add(1)), last));
                below.into_iter().chain(above)
            })
            .collect();
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_whole_space_and_its_last_address() {
        let all = Span { first: 0, last: u128::MAX };
        let end = Span { first: u128::MAX, last: u128::MAX };
        assert_eq!(
            flatten(&[(all, 'a'), (end, 'b')]),
            [(Span { first: 0, last: u128::MAX - 1 }, vec!['a']), (end, vec!['a', 'b'])]
        );
    }

    proptest! {
        #[test]
        fn what_is_subtracted_is_gone_and_the_rest_stays(
            from in prop::collection::vec((0u16..24, 0u16..8), 0..4),
            less in prop::collection::vec((0u16..24, 0u16..8), 0..4),
            high in any::<bool>(),
        ) {
            // At both ends of the space.
            let base = if high { u16::MAX - 31 } else { 0 };
            let ranges = |list: Vec<(u16, u16)>| -> Vec<(u16, u16)> {
                list.into_iter().map(|(first, more)| (base + first, base + first + more)).collect()
            };
            let (from, less) = (ranges(from), ranges(less));
            let left = subtract(&from, &less);
            for port in base..=base + 31 {
                let is_in = |list: &[(u16, u16)]| {
                    list.iter().any(|(first, last)| (*first..=*last).contains(&port))
                };
                prop_assert_eq!(is_in(&left), is_in(&from) && !is_in(&less), "{}", port);
            }
        }

        #[test]
        fn every_point_keeps_its_tags(
            spans in prop::collection::vec((0u128..24, 0u128..8, 0u8..5), 0..12)
        ) {
            let spans: Vec<(Span, u8)> = spans
                .into_iter()
                .map(|(first, length, tag)| (Span { first, last: first + length }, tag))
                .collect();
            let flat = flatten(&spans);
            for pair in flat.windows(2) {
                prop_assert!(pair[0].0.last < pair[1].0.first);
                prop_assert!(pair[0].0.last + 1 < pair[1].0.first || pair[0].1 != pair[1].1);
            }
            for point in 0..40 {
                let inside = |span: &Span| span.first <= point && point <= span.last;
                let mut wanted: Vec<u8> =
                    spans.iter().filter(|(span, _)| inside(span)).map(|(_, tag)| *tag).collect();
                wanted.sort_unstable();
                wanted.dedup();
                let found = flat.iter().find(|(span, _)| inside(span)).map(|(_, tags)| tags.clone());
                prop_assert_eq!(found.unwrap_or_default(), wanted);
            }
        }
    }
}
