//! Arithmetic on addresses: the n-th of a network, the n-th block of a pool.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Of a network.
    pub fn of_net(net: &IpNet) -> Self {
        Self::of(net.addr())
    }

    /// 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of `family` with this number; the number is cut to the family's width.
pub(crate) fn address(family: Family, number: u128) -> IpAddr {
    #[allow(clippy::cast_possible_truncation, reason = "numbers of IPv4 addresses have 32 bits")]
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// The network of `length` bits that holds `address`; a length past the family's is cut to it.
pub(crate) fn network(address: IpAddr, length: u8) -> IpNet {
    let length = length.min(Family::of(address).bits());
    match address {
        IpAddr::V4(v4) => Ipv4Net::new_assert(v4, length).trunc().into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, length).trunc().into(),
    }
}

/// First and last address as numbers.
pub(crate) fn range(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// The address alone, with its host mask.
pub(crate) fn host(address: IpAddr) -> IpNet {
    network(address, 128)
}

/// Networks, reduced to ones that are apart, for the questions "does any overlap this one?" and "do
/// they cover it?".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nets(std::collections::BTreeMap<(Family, u128), u128>);

impl Nets {
    pub(crate) fn insert(&mut self, net: &IpNet) {
        if self.covers(net) {
            return;
        }
        let (family, (first, last)) = (Family::of_net(net), range(net));
        let inside: Vec<_> =
            self.0.range((family, first)..=(family, last)).map(|(key, _)| *key).collect();
        for key in inside {
            self.0.remove(&key);
        }
        self.0.insert((family, first), last);
    }

    fn covers(&self, net: &IpNet) -> bool {
        let (family, (first, last)) = (Family::of_net(net), range(net));
        let before = self.0.range((family, 0)..=(family, first)).next_back();
        before.is_some_and(|(_, end)| *end >= last)
    }

    /// The last address, as a number, up to which these cover `net` and what follows it without a gap;
    /// None if an address of `net` is in none of them.
    pub(crate) fn covers_until(&self, net: &IpNet) -> Option<u128> {
        let (family, (first, last)) = (Family::of_net(net), range(net));
        let (_, end) = self.0.range((family, 0)..=(family, first)).next_back()?;
        let mut end = Some(*end).filter(|end| *end >= first)?;
        while let Some(next) = end.checked_add(1).and_then(|next| self.0.get(&(family, next))) {
            end = *next;
        }
        (end >= last).then_some(end)
    }

    /// True if a network that was inserted shares an address with `net`. CIDRs nest or are apart
    /// and none kept here nests, so the last one that begins within or before `net` decides.
    pub(crate) fn overlaps(&self, net: &IpNet) -> bool {
        let (family, (first, last)) = (Family::of_net(net), range(net));
        self.0.range((family, 0)..=(family, last)).next_back().is_some_and(|(_, end)| *end >= first)
    }
}

impl<'a> FromIterator<&'a IpNet> for Nets {
    fn from_iter<I: IntoIterator<Item = &'a IpNet>>(nets: I) -> Self {
        let mut occupied = Self::default();
        nets.into_iter().for_each(|net| occupied.insert(net));
        occupied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn finds_overlaps_of_any_size() {
        let nets = [
            net("10.0.1.0/26"),
            net("10.0.2.64/26"),
            net("10.0.2.0/24"),
            net("10.0.2.0/26"),
            net("fd00::/122"),
        ];
        let nets: Nets = nets.iter().collect();
        for (candidate, overlaps) in [
            ("10.0.1.0/26", true),
            ("10.0.1.64/26", false),
            ("10.0.1.0/24", true),
            ("10.0.2.128/26", true),
            ("10.0.3.0/26", false),
            ("10.0.0.192/26", false),
            ("fd00::20/123", true),
            ("fd00::40/122", false),
            ("::a00:100/122", false),
        ] {
            assert_eq!(nets.overlaps(&net(candidate)), overlaps, "{candidate}");
        }
    }

    #[test]
    fn numbers_and_addresses_round_trip() {
        for text in ["0.0.0.0", "255.255.255.255", "10.1.2.3", "::", "fd00::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(Family::of(ip), number(ip)), ip);
        }
        assert_eq!(host("10.1.2.3".parse().unwrap()), net("10.1.2.3/32"));
        assert_eq!(network("10.1.2.3".parse().unwrap(), 26), net("10.1.2.0/26"));
    }
}
