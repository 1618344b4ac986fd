//! BMP messages out (RFC 7854 version 3, RFC 8671 Adj-RIB-Out, RFC 9069 Loc-RIB).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::Monitored;

const VERSION: u8 = 3;
const ROUTE_MONITORING: u8 = 0;
const STATISTICS: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// Octets of the common header and the per-peer header (RFC 7854 sections 4.1, 4.2).
pub(crate) const PEER_HEADER_END: usize = 48;

/// Whom a message is about, and which of its RIBs (RFC 7854 section 4.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerHeader {
    /// None: the Loc-RIB.
    pub(crate) address: Option<IpAddr>,
    pub(crate) asn: u32,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) rib: Monitored,
    /// Since 1970.
    pub(crate) at: Duration,
}

impl PeerHeader {
    fn encode(&self, out: &mut Vec<u8>) {
        let v6 = u8::from(matches!(self.address, Some(IpAddr::V6(_)))) << 7;
        let flags = match self.rib {
            Monitored::PrePolicy => v6,
            Monitored::PostPolicy => v6 | 0x40,
            Monitored::AdjRibOut => v6 | 0x40 | 0x10,
            Monitored::LocRib => 0,
        };
        let sort = if self.rib == Monitored::LocRib { 3 } else { 0 };
        out.extend_from_slice(&[sort, flags]);
        out.extend_from_slice(&[0; 8]);
        address(self.address, out);
        out.extend_from_slice(&self.asn.to_be_bytes());
        out.extend_from_slice(&self.router_id.octets());
        let seconds = u32::try_from(self.at.as_secs()).unwrap_or(u32::MAX);
        out.extend_from_slice(&seconds.to_be_bytes());
        out.extend_from_slice(&self.at.subsec_micros().to_be_bytes());
    }
}

/// An address in 16 octets, an IPv4 one in the last four of them.
fn address(address: Option<IpAddr>, out: &mut Vec<u8>) {
    match address {
        None => out.extend_from_slice(&[0; 16]),
        Some(IpAddr::V6(v6)) => out.extend_from_slice(&v6.octets()),
        Some(IpAddr::V4(v4)) => {
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&v4.octets());
        }
    }
}

fn message(sort: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0, sort]);
    body(out);
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX).to_be_bytes();
    out[start + 1..start + 5].copy_from_slice(&len);
}

fn tlv(sort: u16, value: &[u8], out: &mut Vec<u8>) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.extend_from_slice(&sort.to_be_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(value);
}

/// Who we are: sysDescr and sysName (RFC 7854 section 4.3).
pub(crate) fn initiation(description: &str, name: &str, out: &mut Vec<u8>) {
    message(INITIATION, out, |out| {
        tlv(1, description.as_bytes(), out);
        tlv(2, name.as_bytes(), out);
    });
}

/// The session with the station ends because the speaker or the configuration ends it: reason 0
/// (RFC 7854 section 4.5).
pub(crate) fn termination(out: &mut Vec<u8>) {
    message(TERMINATION, out, |out| tlv(1, &[0, 0], out));
}

/// A session is established (RFC 7854 section 4.10), or the Loc-RIB is there (RFC 9069 section 4.5).
pub(crate) fn peer_up(
    header: &PeerHeader,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    [sent, received]: [&[u8]; 2],
    out: &mut Vec<u8>,
) {
    message(PEER_UP, out, |out| {
        header.encode(out);
        address(local.map(|local| local.ip()), out);
        for end in [local, remote] {
            out.extend_from_slice(&end.map_or(0, |end| end.port()).to_be_bytes());
        }
        out.extend_from_slice(sent);
        out.extend_from_slice(received);
        if header.rib == Monitored::LocRib {
            tlv(3, b"global", out);
        }
    });
}

/// A session has ended for one of the reasons of RFC 7854 section 4.9, with what belongs to it.
pub(crate) fn peer_down(header: &PeerHeader, reason: u8, data: &[u8], out: &mut Vec<u8>) {
    message(PEER_DOWN, out, |out| {
        header.encode(out);
        out.push(reason);
        out.extend_from_slice(data);
    });
}

/// An UPDATE that makes the station's view of a RIB what it is (RFC 7854 section 4.6).
pub(crate) fn route_monitoring(header: &PeerHeader, update: &[u8], out: &mut Vec<u8>) {
    message(ROUTE_MONITORING, out, |out| {
        header.encode(out);
        out.extend_from_slice(update);
    });
}

/// Counters and gauges by type (RFC 7854 section 4.8, RFC 8671 section 6.2).
pub(crate) fn statistics(header: &PeerHeader, stats: &[(u16, Vec<u8>)], out: &mut Vec<u8>) {
    message(STATISTICS, out, |out| {
        header.encode(out);
        out.extend_from_slice(&u32::try_from(stats.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (sort, value) in stats {
            tlv(*sort, value, out);
        }
    });
}
