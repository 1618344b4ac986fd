//! `rustbgpd-wire` as the judge.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use rustbgpd_wire::{
    AddPathMode, Afi, AsPathSegment, Capability as Theirs, Ipv4NlriEntry, Ipv4UnicastMode, Message,
    PathAttribute, Prefix, Safi, UpdateMessage, decode_message, encode_message,
};

use super::judges::{Told, announcements_mean_the_same, withdrawals_mean_the_same};
use super::strategies::{announcement, known_open};
use super::{MAX_EXTENDED_LEN, MAX_LEN, encoder_max, frames};
use crate::wire::attributes::{self, kind};
use crate::wire::{
    Capability, Family, FamilyAddPath, FamilyRestart, LongLivedFamily, NextHop, NextHopFamily,
    Notification, Open, RouteRefresh, UpdateEncoder, encode_end_of_rib, encode_keepalive, path,
};

fn decoded(octets: &[u8], max: usize) -> Message {
    let max = u16::try_from(max).unwrap();
    match decode_message(&mut Bytes::copy_from_slice(octets), max) {
        Ok(message) => message,
        Err(error) => panic!("they refuse it: {error}"),
    }
}

fn net(prefix: Prefix) -> IpNet {
    match prefix {
        Prefix::V4(p) => IpNet::new(IpAddr::V4(p.addr), p.len).unwrap(),
        Prefix::V6(p) => IpNet::new(IpAddr::V6(p.addr), p.len).unwrap(),
    }
}

fn numbered(entries: &[Ipv4NlriEntry]) -> impl Iterator<Item = (u32, IpNet)> + '_ {
    entries.iter().map(|entry| (entry.path_id, net(Prefix::V4(entry.prefix))))
}

/// What they understand of an UPDATE, and what they write of it.
fn judge(octets: &[u8], encoder: UpdateEncoder) -> (Told, Option<Vec<u8>>) {
    let Message::Update(update) = decoded(octets, encoder_max(encoder)) else {
        panic!("not an UPDATE")
    };
    let both = [(Afi::Ipv4, Safi::Unicast), (Afi::Ipv6, Safi::Unicast)];
    let families = if encoder.add_path { &both[..] } else { &[] };
    let parsed = update.parse(encoder.four_octet_as, encoder.add_path, families).unwrap();
    let mut told = Told {
        announced: numbered(&parsed.announced).collect(),
        withdrawn: numbered(&parsed.withdrawn).collect(),
        ..Told::default()
    };
    let mut can_be_written = true;
    for attribute in &parsed.attributes {
        let value = match attribute {
            PathAttribute::NextHop(hop) => {
                told.next_hop = Some(NextHop::new(IpAddr::V4(*hop)));
                continue;
            }
            PathAttribute::MpReachNlri(reach) => {
                told.next_hop =
                    Some(NextHop { addr: reach.next_hop, link_local: reach.link_local_next_hop });
                told.announced.extend(reach.announced.iter().map(|n| (n.path_id, net(n.prefix))));
                continue;
            }
            PathAttribute::MpUnreachNlri(unreach) => {
                told.withdrawn.extend(unreach.withdrawn.iter().map(|n| (n.path_id, net(n.prefix))));
                continue;
            }
            PathAttribute::Origin(origin) => vec![*origin as u8],
            PathAttribute::AsPath(path) => {
                let mut value = Vec::new();
                for segment in &path.segments {
                    // They read sets, but write none (RFC 9774).
                    let (kind, numbers) = match segment {
                        AsPathSegment::AsSet(numbers) => (1, numbers),
                        AsPathSegment::AsSequence(numbers) => (2, numbers),
                    };
                    can_be_written &= kind == 2;
                    value.extend([kind, u8::try_from(numbers.len()).unwrap()]);
                    value.extend(numbers.iter().flat_map(|asn| asn.to_be_bytes()));
                }
                value
            }
            PathAttribute::Med(n) | PathAttribute::LocalPref(n) => n.to_be_bytes().to_vec(),
            PathAttribute::OnlyToCustomer(n) => n.to_be_bytes().to_vec(),
            PathAttribute::AtomicAggregate => Vec::new(),
            PathAttribute::Aggregator(aggregator) => {
                assert!(!aggregator.partial);
                [aggregator.asn.to_be_bytes(), aggregator.router_id.octets()].concat()
            }
            PathAttribute::Communities(all) => all.iter().flat_map(|c| c.to_be_bytes()).collect(),
            PathAttribute::OriginatorId(id) => id.octets().to_vec(),
            PathAttribute::ClusterList(ids) => ids.iter().flat_map(Ipv4Addr::octets).collect(),
            PathAttribute::ExtendedCommunities(all) => {
                all.iter().flat_map(|c| c.as_u64().to_be_bytes()).collect()
            }
            PathAttribute::Ipv6ExtendedCommunities(all) => {
                all.iter().flat_map(|c| *c.as_bytes()).collect()
            }
            PathAttribute::LargeCommunities(all) => all
                .iter()
                .flat_map(|c| [c.global_admin, c.local_data1, c.local_data2])
                .flat_map(u32::to_be_bytes)
                .collect(),
            PathAttribute::Unknown(raw) => raw.data.to_vec(),
            other => panic!("we wrote no {other:?}"),
        };
        told.attributes.push((attribute.type_code(), value));
    }
    let written = can_be_written.then(|| {
        let theirs = UpdateMessage::build(
            &parsed.announced,
            &parsed.withdrawn,
            &parsed.attributes,
            encoder.four_octet_as,
            encoder.add_path,
            Ipv4UnicastMode::Body,
        );
        let mut out = Vec::new();
        theirs.encode_with_limit(&mut out, u16::try_from(MAX_EXTENDED_LEN).unwrap()).unwrap();
        out
    });
    (told, written)
}

/// Their capability as ours would say it.
fn ours(capability: &Theirs) -> Capability {
    let wire = |afi: Afi, safi: Safi| (afi as u16, safi as u8);
    match capability {
        Theirs::MultiProtocol { afi, safi } => {
            Capability::Multiprotocol(wire(*afi, *safi).0, wire(*afi, *safi).1)
        }
        Theirs::RouteRefresh => Capability::RouteRefresh,
        Theirs::EnhancedRouteRefresh => Capability::EnhancedRouteRefresh,
        Theirs::ExtendedMessage => Capability::ExtendedMessage,
        Theirs::ExtendedNextHop(families) => {
            let family = families.iter().map(|family| {
                let (afi, safi) = wire(family.nlri_afi, family.nlri_safi);
                NextHopFamily { afi, safi: safi.into(), next_hop: family.next_hop_afi as u16 }
            });
            Capability::ExtendedNextHop(family.collect())
        }
        Theirs::GracefulRestart { restart_state, notification, restart_time, families } => {
            let family = families.iter().map(|family| {
                let (afi, safi) = wire(family.afi, family.safi);
                FamilyRestart { afi, safi, forwarding: family.forwarding_preserved }
            });
            Capability::GracefulRestart {
                restarting: *restart_state,
                notification: *notification,
                time: *restart_time,
                families: family.collect(),
            }
        }
        Theirs::LongLivedGracefulRestart(families) => {
            let family = families.iter().map(|family| {
                let (afi, safi) = wire(family.afi, family.safi);
                let (forwarding, time) = (family.forwarding_preserved, family.stale_time);
                LongLivedFamily { afi, safi, forwarding, time }
            });
            Capability::LongLivedGracefulRestart(family.collect())
        }
        Theirs::AddPath(families) => {
            let family = families.iter().map(|family| {
                let (afi, safi) = wire(family.afi, family.safi);
                let mode = match family.send_receive {
                    AddPathMode::Receive => FamilyAddPath::RECEIVE,
                    AddPathMode::Send => FamilyAddPath::SEND,
                    AddPathMode::Both => FamilyAddPath::RECEIVE | FamilyAddPath::SEND,
                };
                FamilyAddPath { afi, safi, mode }
            });
            Capability::AddPath(family.collect())
        }
        Theirs::FourOctetAs { asn } => Capability::FourOctetAs(*asn),
        Theirs::Role { role } => Capability::Role(role.to_u8()),
        Theirs::Unknown { code, data } => Capability::Unknown(*code, data.to_vec()),
        other => panic!("we wrote no {other:?}"),
    }
}

proptest! {
    #[test]
    fn updates_mean_the_same(
        announcement in announcement(),
        four_octet_as: bool,
        extended_messages: bool,
        add_path: bool,
    ) {
        // From AS4_PATH they take no sets, and make one sequence of several.
        let segments = path::segments(attributes::as_path(&announcement.block));
        let kinds: Vec<u8> = segments.map(|(kind, _)| kind).collect();
        let four_octet_as = four_octet_as || !matches!(kinds[..], [] | [path::AS_SEQUENCE]);
        let encoder =
            UpdateEncoder { four_octet_as, extended_messages, extended_next_hop: true, add_path };
        announcements_mean_the_same(&announcement, encoder, |octets| judge(octets, encoder));
        withdrawals_mean_the_same(&announcement, encoder, |octets| judge(octets, encoder));
    }

    #[test]
    fn opens_mean_the_same(open in known_open()) {
        let mut octets = Vec::new();
        open.encode(&mut octets);
        let Message::Open(theirs) = decoded(&octets, MAX_LEN) else { panic!("not an OPEN") };
        prop_assert_eq!(theirs.four_byte_as(), open.asn());
        let read = Open {
            my_as: theirs.my_as,
            hold_time: theirs.hold_time,
            router_id: theirs.bgp_identifier,
            capabilities: theirs.capabilities.iter().map(ours).collect(),
        };
        prop_assert_eq!(&read, &open);
        let written = encode_message(&Message::Open(theirs)).unwrap();
        prop_assert_eq!(Open::parse(frames(&written, MAX_LEN)[0].body).unwrap(), open);
    }

    #[test]
    fn notifications_mean_the_same(code: u8, subcode: u8, data in vec(any::<u8>(), 0..300)) {
        let notification = Notification::new(code, subcode, &data, "");
        let mut octets = Vec::new();
        notification.encode(&mut octets);
        let Message::Notification(theirs) = decoded(&octets, MAX_LEN) else {
            panic!("not a NOTIFICATION")
        };
        prop_assert_eq!((theirs.code.as_u8(), theirs.subcode), (code, subcode));
        prop_assert_eq!(&theirs.data[..], &data[..]);
        let written = encode_message(&Message::Notification(theirs)).unwrap();
        prop_assert_eq!(Notification::parse(frames(&written, MAX_LEN)[0].body), notification);
    }
}

#[test]
fn route_refreshes_mean_the_same() {
    for family in Family::ALL {
        for (what, subtype) in
            [(RouteRefresh::Request, 0), (RouteRefresh::Begin, 1), (RouteRefresh::End, 2)]
        {
            let mut octets = Vec::new();
            what.encode(family, &mut octets);
            let Message::RouteRefresh(theirs) = decoded(&octets, MAX_LEN) else {
                panic!("not a ROUTE-REFRESH")
            };
            assert_eq!((theirs.afi_raw, theirs.safi_raw), family.wire());
            assert_eq!((theirs.subtype_raw, &theirs.orf), (subtype, &None));
            let written = encode_message(&Message::RouteRefresh(theirs)).unwrap();
            let read = RouteRefresh::parse(frames(&written, MAX_LEN)[0].body, true);
            assert_eq!(read, Ok(Some((what, family))));
        }
    }
}

#[test]
fn keepalives_and_ends_of_rib_are_the_same_octets() {
    let mut octets = Vec::new();
    encode_keepalive(&mut octets);
    assert_eq!(decoded(&octets, MAX_LEN), Message::Keepalive);
    assert_eq!(encode_message(&Message::Keepalive).unwrap(), octets);
    for family in Family::ALL {
        let mut octets = Vec::new();
        encode_end_of_rib(family, &mut octets);
        let message = decoded(&octets, MAX_LEN);
        assert_eq!(encode_message(&message).unwrap(), octets);
        let Message::Update(update) = message else { panic!("not an UPDATE") };
        let parsed = update.parse(true, false, &[]).unwrap();
        assert!(parsed.announced.is_empty() && parsed.withdrawn.is_empty());
        let unreach = parsed.attributes.iter().map(|attribute| match attribute {
            PathAttribute::MpUnreachNlri(unreach) if unreach.withdrawn.is_empty() => {
                (attribute.type_code(), unreach.afi as u16, unreach.safi as u8)
            }
            other => panic!("we wrote no {other:?}"),
        });
        let (afi, safi) = family.wire();
        let wanted = (family != Family::Ipv4Unicast).then_some((kind::MP_UNREACH_NLRI, afi, safi));
        assert_eq!(unreach.collect::<Vec<_>>(), Vec::from_iter(wanted));
    }
}
