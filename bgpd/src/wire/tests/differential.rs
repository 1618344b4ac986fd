//! An independent codec as the judge: what we write it reads, and what it writes of that we read
//! as what we meant.

use std::net::{IpAddr, Ipv4Addr};

use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::path_attribute::{AsPath, PathAttributeValue};
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;

use super::strategies::{announcement, open_strategy};
use super::{frames, read_back};
use crate::wire::{Open, UpdateEncoder, attributes, path};

fn theirs(octets: &[u8], four_octet_as: bool) -> BgpMessage {
    let mut context = BgpParsingContext::asn2_default();
    context.set_asn4(four_octet_as);
    let mut reader = SliceReader::new(octets);
    match BgpMessage::parse(&mut reader, &mut context) {
        Ok(message) => message,
        Err(error) => panic!("they refuse it: {error}"),
    }
}

fn written(message: &BgpMessage) -> Vec<u8> {
    let mut out = Vec::new();
    message.write(&mut out).unwrap();
    out
}

/// The AS numbers of their AS_PATH.
fn their_path(message: &BgpMessage) -> Vec<u32> {
    let BgpMessage::Update(update) = message else { panic!("not an UPDATE") };
    update
        .path_attributes()
        .iter()
        .flat_map(|attribute| match attribute.value() {
            PathAttributeValue::AsPath(AsPath::As4PathSegments(segments)) => {
                segments.iter().flat_map(|s| s.as_numbers().to_vec()).collect()
            }
            _ => Vec::new(),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn they_read_our_updates_and_we_read_theirs(
        announcement in announcement(),
        four_octet_as: bool,
        extended_messages: bool,
    ) {
        // They refuse multicast prefixes here; we refuse them one by one, further on.
        let mut announcement = announcement;
        announcement.prefixes.retain(|p| match p.addr() {
            IpAddr::V4(addr) => addr.octets()[0] < 224,
            IpAddr::V6(addr) => addr.octets()[0] < 0xfe,
        });
        prop_assume!(!announcement.prefixes.is_empty());
        let encoder = UpdateEncoder {
            four_octet_as,
            extended_messages,
            extended_next_hop: true,
            add_path: false,
        };
        let ours = announcement.encode(encoder);
        let mut rest = &ours[..];
        let mut prefixes = Vec::new();
        for message in frames(&ours, super::encoder_max(encoder)) {
            let octets;
            (octets, rest) = rest.split_at(message.len);
            let parsed = theirs(octets, four_octet_as);
            if four_octet_as {
                let path = attributes::as_path(&announcement.block);
                prop_assert_eq!(their_path(&parsed), path::numbers(path).collect::<Vec<_>>());
            }
            // They may write longer than they read: an extended length where none is needed.
            let again = UpdateEncoder { extended_messages: true, ..encoder };
            for part in read_back(&written(&parsed), again, false) {
                prop_assert_eq!(&part.block, &announcement.block);
                prop_assert_eq!(part.next_hop, announcement.next_hop);
                prefixes.extend(part.prefixes);
            }
        }
        prop_assert_eq!(prefixes, announcement.prefixes);
    }

    #[test]
    fn they_read_our_opens(open in open_strategy()) {
        // Capabilities that they check more closely than a receiver that ignores them may.
        let mut open = open;
        // Nor do they know that an identifier need not be an address (RFC 6286).
        open.hold_time = if open.hold_time < 3 { 0 } else { open.hold_time };
        open.router_id = Ipv4Addr::from(u32::from(open.router_id) >> 2 | 0x0100_0000);
        open.capabilities.retain(|c| matches!(
            c,
            crate::wire::Capability::RouteRefresh
                | crate::wire::Capability::ExtendedMessage
                | crate::wire::Capability::FourOctetAs(_)
        ));
        let mut ours = Vec::new();
        open.encode(&mut ours);
        let BgpMessage::Open(parsed) = theirs(&ours, true) else { panic!("not an OPEN") };
        prop_assert_eq!(parsed.my_asn4(), open.asn());
        prop_assert_eq!(parsed.hold_time(), open.hold_time);
        let bytes = written(&BgpMessage::Open(parsed));
        let again = Open::parse(frames(&bytes, super::MAX_LEN)[0].body).unwrap();
        prop_assert_eq!(again.asn(), open.asn());
        prop_assert_eq!(again.router_id, open.router_id);
        prop_assert_eq!(again.capabilities.len(), open.capabilities.len());
    }
}
