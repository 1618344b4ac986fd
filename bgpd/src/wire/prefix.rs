//! Prefixes as NLRI (RFC 4271 section 4.3, RFC 4760 section 5).

use std::hash::Hash;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Family;

/// A prefix of one family, small enough to be a table key. Host bits are always zero.
pub trait Prefix: Copy + Eq + Hash + Ord + std::fmt::Debug + 'static {
    /// The family these prefixes belong to.
    const FAMILY: Family;
    /// Bits of an address.
    const BITS: u8;

    /// From the significant octets of an NLRI, at most `BITS / 8` of them; bits after `len` are
    /// ignored, as RFC 4271 asks. `len` is at most `BITS`.
    fn from_octets(octets: &[u8], len: u8) -> Self;
    /// Appends the NLRI.
    fn encode(&self, out: &mut Vec<u8>);
    /// The last `bits` of its significant bits, and the prefix with zeros in their place.
    fn split_last(self, bits: u32) -> (Self, u32);
    /// Whether it lies in the multicast range.
    fn is_multicast(self) -> bool;
    /// The same as a public type.
    fn to_net(self) -> IpNet;
    /// The prefix of `net`, host bits cleared; None for the other family.
    fn from_net(net: &IpNet) -> Option<Self>;
}

/// Octets of an NLRI: the length octet and the significant ones.
pub(crate) const fn encoded_len(bits: u8) -> usize {
    1 + bits.div_ceil(8) as usize
}

/// An IPv4 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix4 {
    addr: u32,
    len: u8,
}

/// An IPv6 prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix6 {
    addr: [u64; 2],
    len: u8,
}

impl Prefix for Prefix4 {
    const FAMILY: Family = Family::Ipv4Unicast;
    const BITS: u8 = 32;

    fn from_octets(octets: &[u8], len: u8) -> Self {
        // Spelled out, as this is done for every route: a copy of a few octets is a call.
        let addr = match *octets {
            [a, b, c] => [a, b, c, 0],
            [a, b, c, d, ..] => [a, b, c, d],
            [a, b] => [a, b, 0, 0],
            [a] => [a, 0, 0, 0],
            [] => [0; 4],
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        Self { addr: u32::from_be_bytes(addr) & mask, len }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let [a, b, c, d] = self.addr.to_be_bytes();
        let octets = [self.len, a, b, c, d];
        match self.len {
            17..=24 => out.extend_from_slice(&octets[..4]),
            25.. => out.extend_from_slice(&octets),
            len => out.extend_from_slice(&octets[..encoded_len(len)]),
        }
    }

    fn split_last(self, bits: u32) -> (Self, u32) {
        // Wider than an address, as all of it may be insignificant.
        let behind = 32 - u32::from(self.len);
        let mask = ((1 << bits) - 1) << behind;
        let last = u64::from(self.addr) & mask;
        #[allow(clippy::cast_possible_truncation, reason = "of 32 bits, and of `bits` bits")]
        (Self { addr: self.addr & !(mask as u32), len: self.len }, (last >> behind) as u32)
    }

    fn is_multicast(self) -> bool {
        self.len >= 4 && self.addr >> 28 == 0xe
    }

    fn to_net(self) -> IpNet {
        Ipv4Net::new(Ipv4Addr::from(self.addr), self.len)
            .map_or(IpNet::V4(Ipv4Net::default()), IpNet::V4)
    }

    fn from_net(net: &IpNet) -> Option<Self> {
        match net.trunc() {
            IpNet::V4(net) => Some(Self { addr: net.addr().into(), len: net.prefix_len() }),
            IpNet::V6(_) => None,
        }
    }
}

impl Prefix6 {
    fn new(addr: u128, len: u8) -> Self {
        let addr = addr & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        #[allow(clippy::cast_possible_truncation, reason = "the two halves of the address")]
        let halves = [(addr >> 64) as u64, addr as u64];
        Self { addr: halves, len }
    }

    fn addr(self) -> u128 {
        u128::from(self.addr[0]) << 64 | u128::from(self.addr[1])
    }
}

impl Prefix for Prefix6 {
    const FAMILY: Family = Family::Ipv6Unicast;
    const BITS: u8 = 128;

    fn from_octets(octets: &[u8], len: u8) -> Self {
        let mut addr = [0; 16];
        addr[..octets.len()].copy_from_slice(octets);
        Self::new(u128::from_be_bytes(addr), len)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.len);
        out.extend_from_slice(&self.addr().to_be_bytes()[..usize::from(self.len.div_ceil(8))]);
    }

    fn split_last(self, bits: u32) -> (Self, u32) {
        // The address of ::/0 has no bit that could be said by such a shift.
        let Some(significant) = self.addr().checked_shr(128 - u32::from(self.len)) else {
            return (self, 0);
        };
        let last = significant & ((1 << bits) - 1);
        let rest = self.addr() & !(last << (128 - u32::from(self.len)));
        #[allow(clippy::cast_possible_truncation, reason = "of `bits` bits")]
        (Self::new(rest, self.len), last as u32)
    }

    fn is_multicast(self) -> bool {
        self.len >= 8 && self.addr[0] >> 56 == 0xff
    }

    fn to_net(self) -> IpNet {
        Ipv6Net::new(Ipv6Addr::from(self.addr()), self.len)
            .map_or(IpNet::V6(Ipv6Net::default()), IpNet::V6)
    }

    fn from_net(net: &IpNet) -> Option<Self> {
        match net.trunc() {
            IpNet::V6(net) => Some(Self::new(net.addr().into(), net.prefix_len())),
            IpNet::V4(_) => None,
        }
    }
}

/// A prefix as an UPDATE names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nlri<P> {
    /// The prefix.
    pub prefix: P,
    /// Which of several paths to it (RFC 7911); 0 where that was not agreed on.
    pub path_id: u32,
}

impl<P> From<P> for Nlri<P> {
    fn from(prefix: P) -> Self {
        Self { prefix, path_id: 0 }
    }
}

/// NLRI that were checked to be well formed: an iterator that cannot fail.
#[derive(Clone, Copy, Debug)]
pub struct Prefixes<'a, P> {
    octets: &'a [u8],
    add_path: bool,
    family: PhantomData<P>,
}

impl<'a, P: Prefix> Prefixes<'a, P> {
    /// Checks every length; None when one exceeds the family's or runs past the end
    /// (RFC 7606 section 5.3). With `add_path` a path identifier comes before each (RFC 7911).
    pub fn parse(octets: &'a [u8], add_path: bool) -> Option<Self> {
        let mut rest = octets;
        while !rest.is_empty() {
            if add_path {
                rest = rest.get(4..)?;
            }
            let (&len, tail) = rest.split_first()?;
            if len > P::BITS {
                return None;
            }
            rest = tail.get(usize::from(len.div_ceil(8))..)?;
        }
        Some(Self { octets, add_path, family: PhantomData })
    }

    /// Nothing.
    pub const fn empty() -> Self {
        Self { octets: &[], add_path: false, family: PhantomData }
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }
}

impl<P: Prefix> Iterator for Prefixes<'_, P> {
    type Item = Nlri<P>;

    #[inline]
    fn next(&mut self) -> Option<Nlri<P>> {
        let mut path_id = 0;
        if self.add_path {
            let (id, tail) = self.octets.split_first_chunk::<4>()?;
            path_id = u32::from_be_bytes(*id);
            self.octets = tail;
        }
        let (&len, tail) = self.octets.split_first()?;
        let (octets, rest) = tail.split_at_checked(usize::from(len.div_ceil(8)))?;
        self.octets = rest;
        Some(Nlri { prefix: P::from_octets(octets, len), path_id })
    }
}

/// Whether an address can be a next hop: not unspecified, loopback is allowed, no multicast, no
/// broadcast.
pub(crate) const fn is_usable_next_hop(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<P: Prefix>(net: &str) -> (String, u32) {
        let net: IpNet = net.parse().unwrap();
        let (rest, last) = P::from_net(&net).unwrap().split_last(2);
        (rest.to_net().to_string(), last)
    }

    #[test]
    fn the_last_bits_of_a_prefix() {
        for (net, rest, last) in [
            ("10.1.7.0/24", "10.1.4.0/24", 3),
            ("10.1.2.1/32", "10.1.2.0/32", 1),
            ("128.0.0.0/1", "0.0.0.0/1", 1),
            ("0.0.0.0/0", "0.0.0.0/0", 0),
        ] {
            assert_eq!(split::<Prefix4>(net), (rest.to_owned(), last));
        }
        for (net, rest, last) in [
            ("fd00:0:0:2::/64", "fd00::/64", 2),
            ("fd00::7/128", "fd00::4/128", 3),
            ("8000::/1", "::/1", 1),
            ("::/0", "::/0", 0),
        ] {
            assert_eq!(split::<Prefix6>(net), (rest.to_owned(), last));
        }
    }
}
