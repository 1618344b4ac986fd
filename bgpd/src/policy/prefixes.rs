//! Many prefix conditions at once: a look-up per prefix length that any of them has.

use ipnet::IpNet;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::{PrefixMatch, PrefixOperator};

/// What matches at least one of a list of conditions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PrefixSet {
    /// Conditions that a prefix be equal to another or in it; IPv4 and IPv6.
    inside: [Inside; 2],
    /// The other ones: no more than one of each operator and each pair of lengths.
    outside: Vec<PrefixMatch>,
}

/// Shortest and longest length, ascending, with room between them.
type Ranges = SmallVec<[(u8, u8); 1]>;

/// For each prefix, which lengths those in it may have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Inside {
    /// Lengths of the prefixes, ascending.
    lengths: Vec<u8>,
    ranges: FxHashMap<(u128, u8), Ranges>,
}

impl Inside {
    fn insert(&mut self, base: &IpNet, min: u8, max: u8) {
        let length = base.prefix_len();
        let (min, max) = (min.max(length), max.min(base.max_prefix_len()));
        if min > max {
            return;
        }
        if let Err(at) = self.lengths.binary_search(&length) {
            self.lengths.insert(at, length);
        }
        let ranges = self.ranges.entry((bits(base), length)).or_default();
        ranges.push((min, max));
        ranges.sort_unstable();
        // Of ranges that touch, one remains.
        ranges.dedup_by(|next, kept| {
            let touch = next.0 <= kept.1.saturating_add(1);
            if touch {
                kept.1 = kept.1.max(next.1);
            }
            touch
        });
    }

    fn contains(&self, prefix: &IpNet) -> bool {
        let (all, length) = (bits(prefix), prefix.prefix_len());
        self.lengths.iter().take_while(|base| **base <= length).any(|base| {
            let mask = u128::MAX.checked_shl(128 - u32::from(*base)).unwrap_or(0);
            self.ranges.get(&(all & mask, *base)).is_some_and(|ranges| {
                ranges.iter().any(|(min, max)| (*min..=*max).contains(&length))
            })
        })
    }
}

/// The address from the left end of 128 bits.
fn bits(net: &IpNet) -> u128 {
    match net {
        IpNet::V4(net) => u128::from(u32::from(net.addr())) << 96,
        IpNet::V6(net) => net.addr().into(),
    }
}

const fn family(net: &IpNet) -> usize {
    match net {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1,
    }
}

impl PrefixSet {
    pub(crate) fn new(conditions: &[PrefixMatch]) -> Self {
        let mut set = Self::default();
        for condition in conditions {
            let condition = PrefixMatch { prefix: condition.prefix.trunc(), ..*condition };
            let base = condition.prefix;
            let min = condition.min_length.unwrap_or(0);
            let max = condition.max_length.unwrap_or(u8::MAX);
            match condition.operator {
                PrefixOperator::In => set.inside[family(&base)].insert(&base, min, max),
                PrefixOperator::Equal if (min..=max).contains(&base.prefix_len()) => {
                    set.inside[family(&base)].insert(&base, min, base.prefix_len());
                }
                PrefixOperator::Equal => {}
                PrefixOperator::NotEqual | PrefixOperator::NotIn => set.exclude(condition),
            }
        }
        set
    }

    /// What differs from one of two prefixes is everything, and so is what is outside of one of
    /// two that have nothing in common. Of two nested ones, what is outside the smaller one counts.
    fn exclude(&mut self, condition: PrefixMatch) {
        let same = |other: &&mut PrefixMatch| {
            family(&other.prefix) == family(&condition.prefix)
                && other.operator == condition.operator
                && other.min_length == condition.min_length
                && other.max_length == condition.max_length
        };
        let Some(other) = self.outside.iter_mut().find(same) else {
            self.outside.push(condition);
            return;
        };
        let (a, b) = (other.prefix, condition.prefix);
        if a == b || (condition.operator == PrefixOperator::NotIn && b.contains(&a)) {
            return;
        }
        if condition.operator == PrefixOperator::NotIn && a.contains(&b) {
            other.prefix = b;
            return;
        }
        let everything = match a {
            IpNet::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpNet::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        };
        let min = condition.min_length.unwrap_or(0);
        self.inside[family(&a)].insert(&everything, min, condition.max_length.unwrap_or(u8::MAX));
    }

    pub(crate) fn contains(&self, prefix: &IpNet) -> bool {
        self.inside[family(prefix)].contains(prefix)
            || self.outside.iter().any(|condition| condition.matches(prefix))
    }
}
