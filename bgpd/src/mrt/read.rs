//! MRT in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Body, Entry, HEADER_LEN, MAX_RECORD, Message, Peer, PeerIndexTable, Record, Rib, Session, kind,
};
use crate::session::State;
use crate::wire::{Prefix, Prefix4, Prefix6, Prefixes, Reader};

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MrtError {
    /// The header gives a length that no record has.
    #[error("a record of {0} octets: this is no MRT, or not where a record begins")]
    TooLong(usize),
    /// A field runs past the end of the record.
    #[error("the record ends within its {0}")]
    Short(&'static str),
    /// A field has a value that the RFC does not know.
    #[error("{0} is not one that RFC 6396 has")]
    Unexpected(&'static str),
}

/// Takes the first record off `buf`, with the octets it has; None when more octets are needed. After
/// an error other than [`MrtError::TooLong`] the next record begins where the header says.
///
/// # Errors
/// The first thing that is wrong.
pub fn record(buf: &[u8]) -> Result<Option<(Record<'_>, usize)>, MrtError> {
    let mut reader = Reader(buf);
    let (Some(timestamp), Some(sort), Some(subtype), Some(len)) =
        (reader.u32(), reader.u16(), reader.u16(), reader.u32())
    else {
        return Ok(None);
    };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > MAX_RECORD {
        return Err(MrtError::TooLong(len));
    }
    let Some(body) = reader.take(len) else { return Ok(None) };
    let mut reader = Reader(body);
    let mut microseconds = None;
    if sort == kind::BGP4MP_ET {
        microseconds = Some(reader.u32().ok_or(MrtError::Short("microseconds"))?);
    }
    let unknown = Body::Unknown { kind: sort, subtype, body };
    let body = match (sort, subtype) {
        (kind::TABLE_DUMP_V2, 1) => Body::PeerIndexTable(peers(reader)?),
        (kind::TABLE_DUMP_V2, 2) => Body::Rib(rib::<Prefix4>(reader, false)?),
        (kind::TABLE_DUMP_V2, 4) => Body::Rib(rib::<Prefix6>(reader, false)?),
        (kind::TABLE_DUMP_V2, 8) => Body::Rib(rib::<Prefix4>(reader, true)?),
        (kind::TABLE_DUMP_V2, 10) => Body::Rib(rib::<Prefix6>(reader, true)?),
        (kind::BGP4MP | kind::BGP4MP_ET, 0 | 5) => {
            let session = session(&mut reader, subtype == 5)?;
            let mut state = || {
                let value = reader.u16().ok_or(MrtError::Short("states"))?;
                state(value).ok_or(MrtError::Unexpected("the state"))
            };
            Body::StateChange(session, state()?, state()?)
        }
        (kind::BGP4MP | kind::BGP4MP_ET, 1 | 4 | 6..=11) => {
            let four_octet_as = matches!(subtype, 4 | 7 | 9 | 11);
            let session = session(&mut reader, four_octet_as)?;
            let message = Message {
                four_octet_as,
                add_path: subtype >= 8,
                sent: matches!(subtype, 6 | 7 | 10 | 11),
                octets: reader.0,
            };
            Body::Message(session, message)
        }
        _ => unknown,
    };
    Ok(Some((Record { timestamp, microseconds, body }, HEADER_LEN + len)))
}

const fn state(value: u16) -> Option<State> {
    Some(match value {
        1 => State::Idle,
        2 => State::Connect,
        3 => State::Active,
        4 => State::OpenSent,
        5 => State::OpenConfirm,
        6 => State::Established,
        _ => return None,
    })
}

fn address(reader: &mut Reader<'_>, v6: bool) -> Option<IpAddr> {
    Some(if v6 {
        Ipv6Addr::from(reader.array::<16>()?).into()
    } else {
        Ipv4Addr::from(reader.array::<4>()?).into()
    })
}

fn asn(reader: &mut Reader<'_>, four_octets: bool) -> Option<u32> {
    if four_octets { reader.u32() } else { reader.u16().map(u32::from) }
}

fn session(reader: &mut Reader<'_>, four_octet_as: bool) -> Result<Session, MrtError> {
    let short = MrtError::Short("session");
    let peer_asn = asn(reader, four_octet_as).ok_or(short)?;
    let local_asn = asn(reader, four_octet_as).ok_or(short)?;
    let interface = reader.u16().ok_or(short)?;
    let v6 = match reader.u16().ok_or(short)? {
        1 => false,
        2 => true,
        _ => return Err(MrtError::Unexpected("the address family")),
    };
    let peer = address(reader, v6).ok_or(short)?;
    let local = address(reader, v6).ok_or(short)?;
    Ok(Session { peer_asn, local_asn, interface, peer, local })
}

fn peers(mut reader: Reader<'_>) -> Result<PeerIndexTable<'_>, MrtError> {
    let short = MrtError::Short("peer index table");
    let collector = reader.array::<4>().ok_or(short)?.into();
    let len = reader.u16().ok_or(short)?;
    let view = reader.take(len.into()).ok_or(short)?;
    let count = reader.u16().ok_or(short)?;
    let mut peers = Vec::new();
    for _ in 0..count {
        let flags = reader.u8().ok_or(short)?;
        let router_id = reader.array::<4>().ok_or(short)?.into();
        let address = address(&mut reader, flags & 1 != 0).ok_or(short)?;
        let asn = asn(&mut reader, flags & 2 != 0).ok_or(short)?;
        peers.push(Peer { router_id, address, asn });
    }
    Ok(PeerIndexTable { collector, view, peers })
}

fn rib<P: Prefix>(mut reader: Reader<'_>, add_path: bool) -> Result<Rib<'_>, MrtError> {
    let short = MrtError::Short("routes");
    let sequence = reader.u32().ok_or(short)?;
    let bits = *reader.0.first().ok_or(short)?;
    if bits > P::BITS {
        return Err(MrtError::Unexpected("the prefix length"));
    }
    let nlri = reader.take(1 + usize::from(bits.div_ceil(8))).ok_or(short)?;
    let prefix =
        Prefixes::<P>::parse(nlri, false).and_then(|mut p| p.next()).ok_or(short)?.prefix.to_net();
    let count = reader.u16().ok_or(short)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let peer = reader.u16().ok_or(short)?;
        let originated = reader.u32().ok_or(short)?;
        let path_id = if add_path { reader.u32().ok_or(short)? } else { 0 };
        let len = reader.u16().ok_or(short)?;
        let attributes = reader.take(len.into()).ok_or(short)?;
        entries.push(Entry { peer, originated, path_id, attributes });
    }
    Ok(Rib { sequence, prefix, add_path, entries })
}
