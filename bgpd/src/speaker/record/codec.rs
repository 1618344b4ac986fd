//! What the fields of a recording are made of. Numbers are LEB128: seven bits per octet, the least
//! significant first, the upper bit says that more follow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use crate::wire::Reader;

/// What is wrong with a field.
pub(super) type Malformed = &'static str;

pub(super) fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(0x80 | value.to_le_bytes()[0] & 0x7f);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

pub(super) fn put_octets(out: &mut Vec<u8>, octets: &[u8]) {
    put_number(out, octets.len() as u64);
    out.extend_from_slice(octets);
}

pub(super) fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend(v6.octets());
        }
    }
}

pub(super) fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    put_ip(out, address.ip());
    put_number(out, address.port().into());
    if let SocketAddr::V6(v6) = address {
        put_number(out, v6.flowinfo().into());
        put_number(out, v6.scope_id().into());
    }
}

pub(super) fn put_option<T>(
    out: &mut Vec<u8>,
    value: Option<T>,
    put: impl FnOnce(&mut Vec<u8>, T),
) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// In nanoseconds, of which a number holds those of centuries.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The counterpart of the functions above.
pub(super) struct Fields<'a>(pub(super) Reader<'a>);

impl<'a> Fields<'a> {
    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let octet = self.0.u8().ok_or("ends within a number")?;
            let bits = u64::from(octet & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("holds a number of more than 64 bits")
    }

    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Malformed> {
        T::try_from(self.number()?).map_err(|_| "holds a number that is too large")
    }

    pub(super) fn octets(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.small()?;
        self.0.take(len).ok_or("ends within a field")
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.octets()?).map_err(|_| "holds a text that is not UTF-8")
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.0.u8() {
            Some(0) => Ok(false),
            Some(1) => Ok(true),
            Some(_) => Err("holds something else than yes or no"),
            None => Err("ends before its last field"),
        }
    }

    pub(super) fn ip(&mut self) -> Result<IpAddr, Malformed> {
        let short = "ends within an address";
        match self.0.u8() {
            Some(4) => Ok(Ipv4Addr::from(self.0.array::<4>().ok_or(short)?).into()),
            Some(6) => Ok(Ipv6Addr::from(self.0.array::<16>().ok_or(short)?).into()),
            Some(_) => Err("holds an address of an unknown family"),
            None => Err(short),
        }
    }

    pub(super) fn address(&mut self) -> Result<SocketAddr, Malformed> {
        let ip = self.ip()?;
        let port = self.small()?;
        match ip {
            IpAddr::V4(_) => Ok(SocketAddr::new(ip, port)),
            IpAddr::V6(v6) => Ok(SocketAddrV6::new(v6, port, self.small()?, self.small()?).into()),
        }
    }

    pub(super) fn option<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        if self.flag()? { value(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn duration(&mut self) -> Result<Duration, Malformed> {
        self.number().map(Duration::from_nanos)
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err("is longer than its fields") }
    }
}

/// A digest of 32 bits over octets, however they are cut: equal ones have equal digests, others
/// hardly ever. It is the same on every machine. It is no secret and keeps none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Digest {
    state: u64,
    len: u64,
    /// The start of a word that is not whole yet.
    rest: [u8; 8],
}

impl Digest {
    /// The place of the next octet in the word that is not whole yet.
    const fn place(&self) -> usize {
        (self.len & 7).to_le_bytes()[0] as usize
    }

    const fn mix(&mut self, word: u64) {
        // The constants of SplitMix64.
        let mixed = (self.state.rotate_left(5) ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.state = mixed ^ mixed >> 29;
    }

    pub(super) fn octets(&mut self, mut octets: &[u8]) {
        let place = self.place();
        if place > 0 {
            let (head, tail) = octets.split_at(octets.len().min(8 - place));
            self.rest[place..place + head.len()].copy_from_slice(head);
            self.len += head.len() as u64;
            octets = tail;
            if self.place() > 0 {
                return;
            }
            self.mix(u64::from_le_bytes(self.rest));
        }
        let (words, rest) = octets.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        self.rest[..rest.len()].copy_from_slice(rest);
        self.len += octets.len() as u64;
    }

    pub(super) fn finish(mut self) -> u32 {
        let place = self.place();
        self.rest[place..].fill(0);
        self.mix(u64::from_le_bytes(self.rest));
        self.mix(self.len);
        let [a, b, c, d, ..] = self.state.wrapping_mul(0x94d0_49bb_1331_11eb).to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

/// The digest of one piece.
pub(super) fn digest(octets: &[u8]) -> u32 {
    let mut digest = Digest::default();
    digest.octets(octets);
    digest.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_read_as_they_were_written(
            number: u64, octets: Vec<u8>, v4: [u8; 4], v6: [u8; 16],
            port: u16, flow: u32, scope: u32,
        ) {
            let four = SocketAddr::new(IpAddr::from(v4), port);
            let six = SocketAddr::from(SocketAddrV6::new(v6.into(), port, flow, scope));
            let mut out = Vec::new();
            put_number(&mut out, number);
            put_octets(&mut out, &octets);
            put_address(&mut out, four);
            put_address(&mut out, six);
            put_option(&mut out, Some(number), put_number);
            put_option(&mut out, None, put_number);
            let mut fields = Fields(Reader(&out));
            prop_assert_eq!(fields.number(), Ok(number));
            prop_assert_eq!(fields.octets(), Ok(&octets[..]));
            prop_assert_eq!(fields.address(), Ok(four));
            prop_assert_eq!(fields.address(), Ok(six));
            prop_assert_eq!(fields.option(Fields::number), Ok(Some(number)));
            prop_assert_eq!(fields.option(Fields::number), Ok(None));
            prop_assert!(fields.end().is_ok() && fields.number().is_err());
        }

        #[test]
        fn a_digest_depends_on_the_octets_and_not_on_how_they_are_cut(
            mut octets in proptest::collection::vec(any::<u8>(), 1..64),
            cuts in proptest::collection::vec(0_usize..64, 0..6),
            at: prop::sample::Index,
        ) {
            let whole = digest(&octets);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % octets.len()).collect();
            cuts.sort_unstable();
            let mut pieces = Digest::default();
            let mut from = 0;
            for cut in cuts {
                pieces.octets(&octets[from..cut]);
                from = cut;
            }
            pieces.octets(&octets[from..]);
            prop_assert_eq!(pieces.finish(), whole);
            prop_assert_ne!(digest(&[&octets[..], &[0]].concat()), whole);
            octets[at.index(64) % from.max(1)] ^= 1;
            prop_assert_ne!(digest(&octets), whole);
        }
    }

    #[test]
    fn the_digest_is_the_same_everywhere() {
        assert_eq!(digest(b"The digest of a recording."), 0xcbdd85e0);
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        let number = |octets: &[u8]| Fields(Reader(octets)).number();
        assert_eq!(number(&[&[0xff; 9][..], &[1]].concat()), Ok(u64::MAX));
        assert!(number(&[&[0xff; 9][..], &[2]].concat()).is_err());
        assert!(number(&[0x80; 11]).is_err());
    }
}
