//! A second independent codec as the judge, beside [`super::differential`].

use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;
use proptest::prelude::*;
use rustbgpd_wire::{AsPathSegment, Message, PathAttribute, Prefix as Theirs, decode_message};

use super::strategies::{announcement, open_strategy};
use super::{encoder_max, frames};
use crate::wire::{UpdateEncoder, attributes, path};

fn decoded(octets: &[u8], max: usize) -> Message {
    let max = u16::try_from(max).unwrap();
    match decode_message(&mut Bytes::copy_from_slice(octets), max) {
        Ok(message) => message,
        Err(error) => panic!("they refuse it: {error}"),
    }
}

fn net(prefix: Theirs) -> IpNet {
    match prefix {
        Theirs::V4(p) => IpNet::new(IpAddr::V4(p.addr), p.len).unwrap(),
        Theirs::V6(p) => IpNet::new(IpAddr::V6(p.addr), p.len).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn they_read_our_updates(announcement in announcement(), extended_messages: bool) {
        let encoder = UpdateEncoder {
            four_octet_as: true,
            extended_messages,
            extended_next_hop: true,
            add_path: false,
        };
        let ours = announcement.encode(encoder);
        let mut rest = &ours[..];
        let mut prefixes = Vec::new();
        for message in frames(&ours, encoder_max(encoder)) {
            let octets;
            (octets, rest) = rest.split_at(message.len);
            let Message::Update(update) = decoded(octets, encoder_max(encoder)) else {
                panic!("not an UPDATE")
            };
            let parsed = update.parse(true, false, &[]).unwrap();
            prop_assert!(parsed.withdrawn.is_empty());
            prefixes.extend(parsed.announced.iter().map(|n| net(Theirs::V4(n.prefix))));
            for attribute in &parsed.attributes {
                match attribute {
                    PathAttribute::AsPath(theirs) => {
                        let numbers = theirs.segments.iter().flat_map(|segment| match segment {
                            AsPathSegment::AsSet(n) | AsPathSegment::AsSequence(n) => n.clone(),
                        });
                        let block = &announcement.block;
                        let wanted: Vec<u32> =
                            path::numbers(attributes::as_path(block)).collect();
                        prop_assert_eq!(numbers.collect::<Vec<_>>(), wanted);
                    }
                    PathAttribute::NextHop(hop) => {
                        prop_assert_eq!(IpAddr::V4(*hop), announcement.next_hop.addr);
                    }
                    PathAttribute::MpReachNlri(reach) => {
                        prop_assert_eq!(reach.next_hop, announcement.next_hop.addr);
                        prefixes.extend(reach.announced.iter().map(|n| net(n.prefix)));
                    }
                    _ => {}
                }
            }
        }
        prop_assert_eq!(prefixes, announcement.prefixes);
    }

    #[test]
    fn they_read_our_opens(open in open_strategy()) {
        // What they check in the decoder, we check against what we offer.
        let mut open = open;
        open.hold_time = if open.hold_time < 3 { 0 } else { open.hold_time };
        prop_assume!(!open.router_id.is_unspecified() && open.my_as != 0);
        let mut ours = Vec::new();
        open.encode(&mut ours);
        let Message::Open(theirs) = decoded(&ours, super::MAX_LEN) else { panic!("not an OPEN") };
        prop_assert_eq!(theirs.hold_time, open.hold_time);
        prop_assert_eq!(theirs.bgp_identifier, open.router_id);
        prop_assert_eq!(theirs.my_as, open.my_as);
    }
}
