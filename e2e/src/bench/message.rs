//! BGP messages of a speaker that announces IPv4 routes, encoded. Shared with `bgpload`, so it needs
//! the standard library alone.

use std::net::Ipv4Addr;

/// The message types of RFC 4271 section 4.1.
pub(crate) const OPEN: u8 = 1;
pub(crate) const UPDATE: u8 = 2;
pub(crate) const NOTIFICATION: u8 = 3;
pub(crate) const KEEPALIVE: u8 = 4;
/// Marker, length and type (RFC 4271 section 4.1).
pub(crate) const HEADER: usize = 19;
/// RFC 4271 section 4.1.
pub(crate) const MAX_MESSAGE: usize = 4096;

/// An IPv4 prefix; host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) address: Ipv4Addr,
    pub(crate) length: u8,
}

/// What a route carries.
#[derive(Clone, Debug)]
pub(crate) struct Attributes<'a> {
    /// One AS_SEQUENCE of at most 255 ASes of four octets; none for routes of the AS itself.
    pub(crate) path: &'a [u32],
    pub(crate) next_hop: Ipv4Addr,
    /// LOCAL_PREF, which internal peers have to say.
    pub(crate) local_pref: Option<u32>,
    /// At most 63 (RFC 1997).
    pub(crate) communities: &'a [u32],
}

impl Attributes<'_> {
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = vec![0x40, 1, 1, 0]; // ORIGIN IGP
        let path = self.path.len();
        // An empty path has no segment.
        let value = if path == 0 { 0 } else { 2 + 4 * path };
        bytes.extend([0x50, 2]); // AS_PATH, its length in two octets
        bytes.extend(octets(value));
        if path > 0 {
            bytes.extend([2, octet(path)]);
        }
        bytes.extend(self.path.iter().flat_map(|asn| asn.to_be_bytes()));
        bytes.extend([0x40, 3, 4]); // NEXT_HOP
        bytes.extend(self.next_hop.octets());
        if let Some(preference) = self.local_pref {
            bytes.extend([0x40, 5, 4]);
            bytes.extend(preference.to_be_bytes());
        }
        if !self.communities.is_empty() {
            bytes.extend([0xc0, 8, octet(4 * self.communities.len())]);
            bytes.extend(self.communities.iter().flat_map(|value| value.to_be_bytes()));
        }
        bytes
    }
}

/// Appends the UPDATEs that announce prefixes: as many in each as fit, and at most `most`.
pub(crate) fn announce(
    out: &mut Vec<u8>,
    attributes: &Attributes<'_>,
    prefixes: &[Prefix],
    most: usize,
) {
    let attributes = attributes.encoded();
    let mut head = vec![0, 0];
    head.extend(octets(attributes.len()));
    head.extend(attributes);
    for nlri in packed(prefixes, MAX_MESSAGE - HEADER - head.len(), most) {
        out.extend(message(UPDATE, &[&head[..], &nlri].concat()));
    }
}

/// Appends the UPDATEs that withdraw prefixes, as many in each as fit.
pub(crate) fn withdraw(out: &mut Vec<u8>, prefixes: &[Prefix]) {
    for routes in packed(prefixes, MAX_MESSAGE - HEADER - 4, usize::MAX) {
        let mut body = octets(routes.len()).to_vec();
        body.extend(routes);
        body.extend([0, 0]);
        out.extend(message(UPDATE, &body));
    }
}

/// An OPEN (RFC 4271 section 4.2) with the capabilities IPv4 unicast (RFC 4760) and four-octet AS
/// numbers (RFC 6793). The hold time is in seconds; 0 means that nobody needs to be heard of.
pub(crate) fn open(id: Ipv4Addr, asn: u32, hold_time: u16) -> Vec<u8> {
    let mut body = vec![4];
    body.extend(u16::try_from(asn).unwrap_or(23456).to_be_bytes());
    body.extend(hold_time.to_be_bytes());
    body.extend(id.octets());
    // One parameter: capabilities (RFC 5492).
    body.extend([14, 2, 12, 1, 4, 0, 1, 0, 1, 65, 4]);
    body.extend(asn.to_be_bytes());
    message(OPEN, &body)
}

/// A message of any type.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(octets(HEADER + body.len()));
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// Prefixes as NLRI, in pieces of at most `room` bytes and `most` prefixes.
fn packed(prefixes: &[Prefix], room: usize, most: usize) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let (mut piece, mut count) = (Vec::new(), 0);
    for prefix in prefixes {
        let octets = usize::from(prefix.length).div_ceil(8);
        if count == most || piece.len() + 1 + octets > room {
            pieces.push(std::mem::take(&mut piece));
            count = 0;
        }
        piece.push(prefix.length);
        piece.extend(&prefix.address.octets()[..octets]);
        count += 1;
    }
    if count > 0 {
        pieces.push(piece);
    }
    pieces
}

/// A length on the wire. No message of ours comes near what it cannot say.
fn octets(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// The same in one octet.
fn octet(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes() -> Vec<Prefix> {
        (0..=255)
            .flat_map(|a| (0..8).map(move |b| (a, b)))
            .map(|(a, b)| Prefix { address: Ipv4Addr::new(100, b, a, 0), length: 24 })
            .collect()
    }

    #[test]
    fn what_does_not_fit_goes_into_another_message() {
        let pieces = packed(&prefixes(), 4000, usize::MAX);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [4000, 4000, 192]);
        let mut bytes = Vec::new();
        withdraw(&mut bytes, &prefixes());
        assert!(bytes.len() < 3 * MAX_MESSAGE && bytes.len() > 2048 * 4);
    }

    #[test]
    fn a_message_holds_no_more_than_asked_for() {
        let pieces = packed(&prefixes()[..650], 4000, 300);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1200, 1200, 200]);
        assert!(packed(&[], 4000, 300).is_empty());
    }

    #[test]
    fn an_update_is_what_the_rfc_says() {
        let attributes = Attributes {
            path: &[65001],
            next_hop: Ipv4Addr::new(10, 0, 0, 1),
            local_pref: None,
            communities: &[0x0001_0002],
        };
        let mut bytes = Vec::new();
        let prefix = Prefix { address: Ipv4Addr::new(10, 128, 0, 0), length: 9 };
        announce(&mut bytes, &attributes, &[prefix], 300);
        let body = [
            &[0, 0, 0, 28][..],
            &[0x40, 1, 1, 0],
            &[0x50, 2, 0, 6, 2, 1, 0, 0, 0xfd, 0xe9],
            &[0x40, 3, 4, 10, 0, 0, 1],
            &[0xc0, 8, 4, 0, 1, 0, 2],
            &[9, 10, 128],
        ];
        assert_eq!(bytes, message(UPDATE, &body.concat()));
    }
}
