//! Flattening: an ordered list of rules with allow, deny and pass becomes one final verdict for
//! each protocol and port, and that becomes the fewest map elements the kernel's lookup order
//! allows.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::model::{Traffic, Verdict};

/// Ranges of up to this many ports become one element a port: a hash lookup, and cheap to change.
/// The kernel's range maps (pipapo) are neither.
const EXPANDED_PORTS: u32 = 64;
/// What one range costs beside single ports when choosing what to spell out.
const RANGE_COST: u32 = EXPANDED_PORTS + 1;

/// The final verdict on every packet to or from peers of one class, in the shape of the kernel's
/// maps. Equal tables mean equal verdicts and the other way round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Table {
    /// What differs from `any`, in key order, most specific kind first.
    entries: Box<[(Traffic, Verdict)]>,
    /// Of everything else.
    any: Verdict,
}

impl Table {
    /// The verdict that the kernel finds.
    pub(super) fn verdict(&self, protocol: u8, port: u16) -> Verdict {
        self.find(protocol, port).1
    }

    /// What differs from the rest, in key order.
    pub(super) fn entries(&self) -> &[(Traffic, Verdict)] {
        &self.entries
    }

    /// The element that the kernel finds: by port, then range, then protocol, then the rest.
    pub(super) fn find(&self, protocol: u8, port: u16) -> (Traffic, Verdict) {
        let exact = |traffic| {
            let at = self.entries.binary_search_by_key(&traffic, |entry| entry.0).ok()?;
            Some(self.entries[at])
        };
        let range = || {
            let after = self
                .entries
                .partition_point(|entry| entry.0 <= Traffic::Ports(protocol, port, u16::MAX));
            match self.entries[..after].last()? {
                found @ (Traffic::Ports(p, _, last), _) if *p == protocol && port <= *last => {
                    Some(*found)
                }
                _ => None,
            }
        };
        let by_port = || {
            if has_ports(protocol) {
                exact(Traffic::Port(protocol, port)).or_else(range)
            } else {
                None
            }
        };
        let found = by_port().or_else(|| exact(Traffic::Protocol(protocol)));
        found.unwrap_or((Traffic::Any, self.any))
    }

    /// The elements for a class that is told apart: complete, ending with its `Any`.
    pub(super) fn class_elements(&self) -> impl Iterator<Item = (Traffic, Verdict)> {
        self.entries.iter().copied().chain([(Traffic::Any, self.any)])
    }

    /// The elements for all other classes. What matches none of them is denied by the kernel, so
    /// that is not spelled out.
    pub(super) fn default_elements(&self) -> impl Iterator<Item = (Traffic, Verdict)> {
        let any = (self.any != Verdict::Deny).then_some((Traffic::Any, self.any));
        self.entries.iter().copied().chain(any)
    }
}

/// Whether packets of this protocol carry a destination port, or a type and a code in its place,
/// that the kernel looks at.
pub(super) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 1 | 6 | 17 | 58 | 132)
}

/// What is known so far of some traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing; rules before this one do not apply any more (a rule passed it on).
    Open { from: u32 },
    /// Its verdict.
    Decided(Verdict),
}

/// What a matching rule does to traffic that is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Decides.
    Decide(Verdict),
    /// Goes on with this rule, the first of the next tier.
    SkipTo(u32),
}

impl State {
    fn step(&mut self, rule: u32, step: Step) {
        if let Self::Open { from } = *self
            && from <= rule
        {
            *self = match step {
                Step::Decide(verdict) => Self::Decided(verdict),
                Step::SkipTo(from) => Self::Open { from },
            };
        }
    }

    /// What no rule decided is denied.
    fn verdict(self) -> Verdict {
        match self {
            Self::Decided(verdict) => verdict,
            Self::Open { .. } => Verdict::Deny,
        }
    }
}

/// Inclusive port ranges that cover 0 to 65535 in order.
type Segments = SmallVec<[(u16, u16, State); 4]>;

/// Builds a [`Table`] from rules given in their order.
#[derive(Debug)]
pub(super) struct Flattener {
    protocols: BTreeMap<u8, Segments>,
    /// Of the protocols that no rule has named.
    other: State,
}

impl Flattener {
    /// Nothing decided.
    pub(super) fn new() -> Self {
        Self { protocols: BTreeMap::new(), other: State::Open { from: 0 } }
    }

    /// Applies rule number `rule` to all traffic. True if everything is decided now.
    pub(super) fn all_traffic(&mut self, rule: u32, step: Step) -> bool {
        self.all_but(rule, step, &[])
    }

    /// Applies rule number `rule` to all protocols but these. True if everything is decided now.
    pub(super) fn all_but(&mut self, rule: u32, step: Step, except: &[u8]) -> bool {
        for protocol in except {
            // What is left out goes on with what is known of it so far.
            self.segments(*protocol);
        }
        self.other.step(rule, step);
        let mut open = matches!(self.other, State::Open { .. });
        for (protocol, segments) in &mut self.protocols {
            for (_, _, state) in segments {
                if !except.contains(protocol) {
                    state.step(rule, step);
                }
                open |= matches!(state, State::Open { .. });
            }
        }
        !open
    }

    /// Applies rule number `rule` to a whole protocol.
    pub(super) fn protocol(&mut self, rule: u32, step: Step, protocol: u8) {
        for (_, _, state) in self.segments(protocol) {
            state.step(rule, step);
        }
    }

    /// Applies rule number `rule` to an inclusive range of ports of a protocol.
    pub(super) fn ports(&mut self, rule: u32, step: Step, protocol: u8, ports: (u16, u16)) {
        let segments = self.segments(protocol);
        let mut cut = Segments::new();
        for &(first, last, state) in segments.iter() {
            let (low, high) = (first.max(ports.0), last.min(ports.1));
            let mut inside = state;
            inside.step(rule, step);
            if low > high || inside == state {
                cut.push((first, last, state));
                continue;
            }
            if first < low {
                cut.push((first, low - 1, state));
            }
            cut.push((low, high, inside));
            if high < last {
                cut.push((high + 1, last, state));
            }
        }
        *segments = cut;
    }

    fn segments(&mut self, protocol: u8) -> &mut Segments {
        let other = self.other;
        self.protocols
            .entry(protocol)
            .or_insert_with(|| [(0, u16::MAX, other)].into_iter().collect())
    }

    /// The result.
    pub(super) fn finish(self) -> Table {
        let any = self.other.verdict();
        let mut entries = Vec::new();
        for (protocol, segments) in self.protocols {
            spell_out(protocol, &merge(&segments), any, &mut entries);
        }
        entries.sort_unstable_by_key(|entry| entry.0);
        Table { entries: entries.into(), any }
    }
}

/// Joins neighbours with the same verdict.
fn merge(segments: &[(u16, u16, State)]) -> SmallVec<[(u16, u16, Verdict); 4]> {
    let mut merged: SmallVec<[(u16, u16, Verdict); 4]> = SmallVec::new();
    for (first, last, state) in segments {
        let verdict = state.verdict();
        match merged.last_mut() {
            Some(before) if before.2 == verdict => before.1 = *last,
            _ => merged.push((*first, *last, verdict)),
        }
    }
    merged
}

/// Appends the elements of one protocol: one verdict for the protocol, left out if it is that of
/// everything else, and the ports that differ from it. The verdict is the one that leaves less to
/// spell out, deny if it is the same.
fn spell_out(
    protocol: u8,
    segments: &[(u16, u16, Verdict)],
    any: Verdict,
    entries: &mut Vec<(Traffic, Verdict)>,
) {
    let size = |first: u16, last: u16| u32::from(last) - u32::from(first) + 1;
    let cost = |base: Verdict| {
        let ports: u32 = segments
            .iter()
            .filter(|segment| segment.2 != base)
            .map(|(first, last, _)| size(*first, *last).min(RANGE_COST))
            .sum();
        ports + u32::from(base != any)
    };
    let base =
        if cost(Verdict::Allow) < cost(Verdict::Deny) { Verdict::Allow } else { Verdict::Deny };
    if base != any {
        entries.push((Traffic::Protocol(protocol), base));
    }
    for &(first, last, verdict) in segments.iter().filter(|segment| segment.2 != base) {
        if size(first, last) <= EXPANDED_PORTS {
            entries.extend((first..=last).map(|port| (Traffic::Port(protocol, port), verdict)));
        } else {
            entries.push((Traffic::Ports(protocol, first, last), verdict));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: Step = Step::Decide(Verdict::Allow);
    const DENY: Step = Step::Decide(Verdict::Deny);

    #[test]
    fn one_port_is_one_element() {
        let mut rules = Flattener::new();
        rules.ports(0, ALLOW, 6, (80, 80));
        let table = rules.finish();
        let elements: Vec<_> = table.default_elements().collect();
        assert_eq!(elements, [(Traffic::Port(6, 80), Verdict::Allow)]);
    }

    #[test]
    fn ranges_are_expanded_up_to_64_ports() {
        let mut rules = Flattener::new();
        rules.ports(0, ALLOW, 6, (100, 163));
        assert_eq!(rules.finish().default_elements().count(), 64);
        let mut rules = Flattener::new();
        rules.ports(0, ALLOW, 6, (100, 164));
        let elements: Vec<_> = rules.finish().default_elements().collect();
        assert_eq!(elements, [(Traffic::Ports(6, 100, 164), Verdict::Allow)]);
    }

    #[test]
    fn all_but_one_port_is_two_elements() {
        let mut rules = Flattener::new();
        rules.ports(0, DENY, 17, (53, 53));
        rules.protocol(1, ALLOW, 17);
        let elements: Vec<_> = rules.finish().class_elements().collect();
        assert_eq!(
            elements,
            [
                (Traffic::Port(17, 53), Verdict::Deny),
                (Traffic::Protocol(17), Verdict::Allow),
                (Traffic::Any, Verdict::Deny)
            ]
        );
    }

    #[test]
    fn a_type_of_icmp_is_a_range_of_codes() {
        let mut rules = Flattener::new();
        rules.ports(0, DENY, 1, (0x0803, 0x0803));
        rules.ports(1, ALLOW, 1, (0x0800, 0x08ff));
        rules.ports(2, ALLOW, 58, (0x8000, 0x8000));
        let table = rules.finish();
        let elements: Vec<_> = table.default_elements().collect();
        let mut wanted: Vec<_> =
            [0x0800, 0x0801, 0x0802].map(|n| (Traffic::Port(1, n), Verdict::Allow)).into();
        wanted.push((Traffic::Port(58, 0x8000), Verdict::Allow));
        wanted.push((Traffic::Ports(1, 0x0804, 0x08ff), Verdict::Allow));
        assert_eq!(elements, wanted);
        for (protocol, number, verdict) in [
            (1, 0x0800, Verdict::Allow),
            (1, 0x0803, Verdict::Deny),
            (1, 0x08ff, Verdict::Allow),
            (1, 0x0900, Verdict::Deny),
            (58, 0x8000, Verdict::Allow),
            (58, 0x8001, Verdict::Deny),
        ] {
            assert_eq!(table.verdict(protocol, number), verdict, "{protocol} {number:#06x}");
        }
    }

    #[test]
    fn a_protocol_that_ends_like_the_rest_needs_no_element() {
        let mut rules = Flattener::new();
        rules.ports(0, ALLOW, 6, (80, 80));
        assert!(rules.all_traffic(1, ALLOW));
        let elements: Vec<_> = rules.finish().default_elements().collect();
        assert_eq!(elements, [(Traffic::Any, Verdict::Allow)]);
    }

    #[test]
    fn pass_skips_the_rest_of_its_tier() {
        let mut rules = Flattener::new();
        rules.ports(0, Step::SkipTo(2), 6, (80, 80));
        assert!(!rules.all_traffic(1, Step::SkipTo(2)));
        rules.ports(2, ALLOW, 6, (80, 81));
        rules.all_traffic(3, DENY);
        let table = rules.finish();
        assert_eq!(table.verdict(6, 80), Verdict::Allow);
        assert_eq!(table.verdict(6, 81), Verdict::Allow);
        assert_eq!(table.verdict(6, 82), Verdict::Deny);
        assert_eq!(table.verdict(1, 80), Verdict::Deny);

        let mut rules = Flattener::new();
        rules.ports(0, Step::SkipTo(2), 6, (80, 80));
        rules.all_traffic(1, DENY);
        rules.all_traffic(2, ALLOW);
        let table = rules.finish();
        assert_eq!(table.verdict(6, 80), Verdict::Allow);
        assert_eq!(table.verdict(6, 81), Verdict::Deny);
    }

    #[test]
    fn lookup_finds_the_edges_of_ranges() {
        let mut rules = Flattener::new();
        rules.ports(0, ALLOW, 6, (0, 1000));
        rules.ports(1, ALLOW, 6, (2000, 65535));
        rules.ports(2, ALLOW, 132, (5, 500));
        rules.all_traffic(3, DENY);
        let table = rules.finish();
        for (protocol, port, verdict) in [
            (6, 0, Verdict::Allow),
            (6, 1000, Verdict::Allow),
            (6, 1001, Verdict::Deny),
            (6, 1999, Verdict::Deny),
            (6, 2000, Verdict::Allow),
            (6, 65535, Verdict::Allow),
            (132, 4, Verdict::Deny),
            (132, 500, Verdict::Allow),
            (17, 80, Verdict::Deny),
        ] {
            assert_eq!(table.verdict(protocol, port), verdict, "{protocol} {port}");
        }
    }
}
