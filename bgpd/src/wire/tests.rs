//! Tests of the codec: what is written reads back, RFC 7606 attribute by attribute, two independent
//! codecs as the judges, and a flood of mutated messages.

mod allocations;
mod judges;
mod mutation;
mod netgauze;
mod rfc7606;
mod round_trip;
mod rustbgpd;
mod strategies;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::attributes::{flag, kind, push};
use super::*;
use strategies::Announcement;

pub(crate) const EXTERNAL: Context = Context {
    four_octet_as: true,
    external: true,
    confederation: Confederation::None,
    families: FamilySet(0b11),
    first_as: None,
    extended_next_hop: false,
    add_path: FamilySet(0),
};

/// All messages in `octets`.
fn frames(mut octets: &[u8], max: usize) -> Vec<Frame<'_>> {
    let mut all = Vec::new();
    while !octets.is_empty() {
        let message = frame(octets, max).unwrap().expect("whole messages only");
        octets = &octets[message.len..];
        all.push(message);
    }
    all
}

const fn encoder_max(encoder: UpdateEncoder) -> usize {
    if encoder.extended_messages { MAX_EXTENDED_LEN } else { MAX_LEN }
}

/// What the parser makes of everything in `octets`.
fn read_back(octets: &[u8], encoder: UpdateEncoder, external: bool) -> Vec<Announcement> {
    let context = Context {
        four_octet_as: encoder.four_octet_as,
        extended_next_hop: encoder.extended_next_hop,
        add_path: FamilySet(if encoder.add_path { 0b11 } else { 0 }),
        external,
        ..EXTERNAL
    };
    let mut ids = (1..).map(|id| if encoder.add_path { id } else { 0 });
    let max = if encoder.extended_messages { MAX_EXTENDED_LEN } else { MAX_LEN };
    let mut all = Vec::new();
    for message in frames(octets, max) {
        let mut block = AttributeBlock::default();
        let update = parse_update(message.body, &context, &mut block).unwrap();
        assert!(update.errors.is_empty(), "{:?}", update.errors);
        let announced = update.announced.map(|(hop, p)| Reach::V4(hop, p));
        for reach in [announced, update.reach].into_iter().flatten() {
            let (next_hop, numbered) = match reach {
                Reach::V4(hop, nlri) => {
                    (hop, nlri.map(|n| (n.path_id, n.prefix.to_net())).collect())
                }
                Reach::V6(hop, nlri) => {
                    (hop, nlri.map(|n| (n.path_id, n.prefix.to_net())).collect())
                }
            };
            let numbered: Vec<(u32, IpNet)> = numbered;
            assert!(numbered.iter().all(|(id, _)| ids.next() == Some(*id)), "{numbered:?}");
            let prefixes = numbered.into_iter().map(|(_, prefix)| prefix).collect();
            all.push(Announcement { block: block.bytes.clone(), next_hop, prefixes });
        }
    }
    all
}

/// Everything that the messages in `octets` withdraw, with path identifiers.
fn withdrawn(octets: &[u8], encoder: UpdateEncoder) -> Vec<(u32, IpNet)> {
    fn numbered<P: Prefix>(prefixes: Prefixes<'_, P>) -> impl Iterator<Item = (u32, IpNet)> {
        prefixes.map(|nlri| (nlri.path_id, nlri.prefix.to_net()))
    }
    let add_path = FamilySet(if encoder.add_path { 0b11 } else { 0 });
    let context = Context { add_path, ..EXTERNAL };
    let mut all = Vec::new();
    for message in frames(octets, encoder_max(encoder)) {
        let mut block = AttributeBlock::default();
        let update = parse_update(message.body, &context, &mut block).unwrap();
        assert!(update.errors.is_empty(), "{:?}", update.errors);
        all.extend(numbered(update.withdrawn));
        match update.unreach {
            Some(Unreach::V4(prefixes)) => all.extend(numbered(prefixes)),
            Some(Unreach::V6(prefixes)) => all.extend(numbered(prefixes)),
            None => {}
        }
    }
    all
}

#[test]
fn a_header_is_judged_as_early_as_possible() {
    let refused = |octets: &[u8]| frame(octets, MAX_LEN).unwrap_err();
    assert_eq!(refused(&[0xfe]).subcode, 1);
    assert_eq!(refused(b"GET / HTTP/1.1\r\n").subcode, 1);
    let header = |len: u16, kind: u8| {
        let mut octets = vec![0xff; 16];
        octets.extend_from_slice(&len.to_be_bytes());
        octets.push(kind);
        octets
    };
    for (len, kind, subcode) in [
        (18, 4, 2),
        (20, 4, 2),
        (4097, 2, 2),
        (28, 1, 2),
        (22, 2, 2),
        (20, 3, 2),
        (22, 5, 2),
        (19, 0, 3),
        (19, 6, 3),
    ] {
        let error = refused(&header(len, kind));
        assert_eq!((error.code, error.subcode), (1, subcode), "length {len} type {kind}");
    }
    assert_eq!(refused(&header(4097, 2)).data.as_slice(), 4097_u16.to_be_bytes());
    assert!(frame(&header(4097, 2), MAX_EXTENDED_LEN).unwrap().is_none());
    // RFC 8654: OPEN stays short.
    assert_eq!(frame(&header(4097, 1), MAX_EXTENDED_LEN).unwrap_err().subcode, 2);
    assert!(frame(&[0xff; 10], MAX_LEN).unwrap().is_none());
    let keepalive = header(19, 4);
    let message = frame(&keepalive, MAX_LEN).unwrap().unwrap();
    assert_eq!((message.kind, message.len, message.body), (MessageType::Keepalive, 19, &[][..]));
}

#[test]
fn keepalive_and_end_of_rib_are_what_the_rfcs_say() {
    let mut out = Vec::new();
    encode_keepalive(&mut out);
    assert_eq!(out, [&[0xff; 16][..], &[0, 19, 4]].concat());
    for family in Family::ALL {
        let mut out = Vec::new();
        encode_end_of_rib(family, &mut out);
        let message = frames(&out, MAX_LEN)[0];
        let mut block = AttributeBlock::default();
        let update = parse_update(message.body, &EXTERNAL, &mut block).unwrap();
        assert_eq!(update.end_of_rib, Some(family));
        assert!(update.errors.is_empty() && update.withdrawn.is_empty());
    }
}

#[test]
fn route_refresh_is_what_the_rfcs_say() {
    for family in Family::ALL {
        for what in [RouteRefresh::Request, RouteRefresh::Begin, RouteRefresh::End] {
            let mut out = Vec::new();
            what.encode(family, &mut out);
            let message = frames(&out, MAX_LEN)[0];
            assert_eq!(message.kind, MessageType::RouteRefresh);
            assert_eq!(RouteRefresh::parse(message.body, true), Ok(Some((what, family))));
            let plain = Some((what, family)).filter(|_| what == RouteRefresh::Request);
            assert_eq!(RouteRefresh::parse(message.body, false), Ok(plain));
        }
    }
    // A family that is not ours, a subtype that nobody knows, a request with filters (RFC 5291).
    for ignored in [&[0, 25, 1, 70][..], &[0, 1, 3, 1], &[0, 1, 255, 1, 9], &[0, 1, 0, 1, 1]] {
        assert_eq!(RouteRefresh::parse(ignored, true), Ok(None));
    }
    // RFC 7313 section 5: a demarcation of another length is answered by itself.
    for wrong in [&[0, 1, 1][..], &[0, 1, 1, 1, 0], &[0, 1, 2, 1, 0, 0]] {
        let error = RouteRefresh::parse(wrong, true).unwrap_err();
        assert_eq!((error.code, error.subcode), (7, 1));
        assert_eq!(
            frame(&error.data, MAX_LEN).map(|f| f.map(|f| f.body)).ok(),
            (wrong.len() > 3).then_some(Some(wrong))
        );
        assert_eq!(RouteRefresh::parse(wrong, false), Ok(None));
    }
}

#[test]
fn shutdown_communication() {
    let round_trip = |n: &Notification| {
        let mut out = Vec::new();
        n.encode(&mut out);
        Notification::parse(frames(&out, MAX_LEN)[0].body)
    };
    let n = Notification::communication(cease::ADMIN_SHUTDOWN, "upgrade, back at 3", "");
    assert_eq!(round_trip(&n).text().as_deref(), Some("upgrade, back at 3"));
    // Cut at a character, never inside one.
    let long = "ü".repeat(200);
    let text = round_trip(&Notification::communication(cease::ADMIN_RESET, &long, "")).text();
    assert_eq!(text.unwrap(), "ü".repeat(127));
    // Of other errors the data is not text, and a wrong length is no text.
    let data = [3, b'a', b'b', b'c'];
    assert_eq!(Notification::new(code::CEASE, cease::COLLISION, &data, "").text(), None);
    assert_eq!(Notification::new(code::CEASE, 2, &[9, b'a'], "").text(), None);
    let control = Notification::new(code::CEASE, 2, &[3, b'a', 0x1b, b'b'], "");
    assert_eq!(control.text().as_deref(), Some("ab"));
}

#[test]
fn opens_with_more_than_255_octets_of_capabilities() {
    let capabilities: Vec<Capability> =
        (0..40).map(|n| Capability::Unknown(130 + n, vec![n; 10])).collect();
    let open = Open::new(4_200_000_001, 90, Ipv4Addr::new(1, 2, 3, 4), capabilities);
    assert_eq!(open.my_as, AS_TRANS);
    let mut out = Vec::new();
    open.encode(&mut out);
    let body = frames(&out, MAX_LEN)[0].body;
    assert_eq!(body[9..11], [255, 255], "RFC 9072");
    let parsed = Open::parse(body).unwrap();
    assert_eq!(parsed, open);
    assert_eq!(parsed.asn(), 4_200_000_001);
}

#[test]
fn wrong_opens() {
    let mut out = Vec::new();
    Open::new(65001, 90, Ipv4Addr::new(1, 1, 1, 1), vec![]).encode(&mut out);
    let good = frames(&out, MAX_LEN)[0].body.to_vec();
    let spoiled = |f: fn(&mut Vec<u8>)| {
        let mut body = good.clone();
        f(&mut body);
        Open::parse(&body).map_err(|n| (n.subcode, n.data.to_vec()))
    };
    assert!(spoiled(|_| {}).is_ok());
    assert_eq!(spoiled(|b| b[0] = 3), Err((1, vec![0, 4])));
    assert_eq!(spoiled(|b| b[9] += 1), Err((0, vec![])));
    assert_eq!(spoiled(|b| b.push(0)), Err((0, vec![])));
    // The authentication parameter of old is not supported.
    assert_eq!(spoiled(|b| b[10] = 1), Err((4, vec![])));
    assert_eq!(spoiled(|b| b[13] = 200), Err((0, vec![])));
}

#[test]
fn two_octet_senders_hide_long_as_numbers_beside_the_path() {
    // RFC 6793 section 4.2.3, with what an old speaker in between has put in front.
    let attributes: [(u8, u8, &[u8]); 6] = [
        (flag::TRANSITIVE, kind::ORIGIN, &[0]),
        (flag::TRANSITIVE, kind::AS_PATH, &[2, 3, 0xfd, 0xe8, 0x5b, 0xa0, 0x5b, 0xa0]),
        (flag::TRANSITIVE, kind::NEXT_HOP, &[192, 0, 2, 1]),
        (0xc0, kind::AGGREGATOR, &[0x5b, 0xa0, 192, 0, 2, 9]),
        (0xc0, kind::AS4_PATH, &[2, 2, 0, 1, 0, 1, 0, 1, 0, 2]),
        (0xc0, kind::AS4_AGGREGATOR, &[0, 1, 0, 2, 192, 0, 2, 9]),
    ];
    let parse = |attributes: &[(u8, u8, &[u8])]| {
        let body = rfc7606::update(attributes, &[8, 10]);
        let mut block = AttributeBlock::default();
        let context = Context { four_octet_as: false, ..EXTERNAL };
        let update = parse_update(&body, &context, &mut block).unwrap();
        (update.errors.len(), block.bytes.clone())
    };
    let (errors, block) = parse(&attributes);
    assert_eq!(errors, 0);
    assert_eq!(path::display(attributes::as_path(&block)), "65000 65537 65538");
    let aggregator = attributes::find(&block, kind::AGGREGATOR).unwrap();
    assert_eq!(aggregator, [0, 1, 0, 2, 192, 0, 2, 9]);
    assert_eq!(attributes::find(&block, kind::AS4_PATH), None);

    // An AGGREGATOR with a real AS: whoever set it did not know AS4_PATH, which is stale.
    let mut stale = attributes;
    stale[3].2 = &[0xfd, 0xe9, 192, 0, 2, 9];
    let (_, block) = parse(&stale);
    assert_eq!(path::display(attributes::as_path(&block)), "65000 23456 23456");
    // A longer AS4_PATH than AS_PATH is ignored; a malformed one is discarded.
    let mut longer = attributes;
    longer[1].2 = &[2, 1, 0xfd, 0xe8];
    assert_eq!(path::display(attributes::as_path(&parse(&longer).1)), "65000");
    let mut malformed = attributes;
    malformed[4].2 = &[2, 2, 0, 1];
    let (errors, block) = parse(&malformed);
    assert_eq!(errors, 1);
    assert_eq!(path::display(attributes::as_path(&block)), "65000 23456 23456");
}

#[test]
fn a_path_grows_in_front_and_starts_a_new_segment_when_full() {
    let prepended = |asns: &[u32], path: &[u8]| {
        let mut out = Vec::new();
        path::prepend(asns, path, &mut out);
        out
    };
    let one = prepended(&[65001], &[]);
    assert_eq!(one, [2, 1, 0, 0, 0xfd, 0xe9]);
    assert_eq!(path::display(&prepended(&[65002, 65003], &one)), "65002 65003 65001");
    let set = [1, 1, 0, 0, 0, 7];
    let on_set = prepended(&[65001], &set);
    assert_eq!(path::display(&on_set), "65001 {7}");
    assert_eq!(path::length(&on_set), 2);
    let mut full = vec![2, 255];
    full.extend([0, 0, 0, 9].repeat(255));
    let beyond = prepended(&[65001], &full);
    assert_eq!(path::segments(&beyond).count(), 2);
    assert_eq!(path::length(&beyond), 256);
    assert_eq!(path::neighbor(&beyond), Some(65001));
    assert_eq!(prepended(&[], &full), full);
}

#[test]
fn editing_a_block_keeps_order_and_what_is_not_edited() {
    let mut block = Vec::new();
    push(&mut block, flag::TRANSITIVE, kind::ORIGIN, &[0]);
    push(&mut block, flag::TRANSITIVE, kind::AS_PATH, &[]);
    push(&mut block, flag::OPTIONAL, kind::ORIGINATOR_ID, &[1, 1, 1, 1]);
    push(&mut block, flag::OPTIONAL, kind::CLUSTER_LIST, &[1, 1, 1, 1]);
    push(&mut block, 0xe0, 99, &[1, 2, 3]);
    assert_eq!(Draft::of(&block).finish(), block, "no edits, no change");
    let mut draft = Draft::of(&block);
    draft.put_number(kind::LOCAL_PREF, 100);
    draft.put_number(kind::MULTI_EXIT_DISC, 5);
    draft.put_list(kind::COMMUNITIES, vec![0, 0, 0, 7]);
    draft.put_list(kind::EXTENDED_COMMUNITIES, Vec::new());
    draft.put_list(kind::ORIGINATOR_ID, Vec::new());
    draft.remove(kind::CLUSTER_LIST);
    draft.remove(kind::LARGE_COMMUNITIES);
    draft.put(kind::AS_PATH, vec![2, 1, 0, 0, 0xfd, 0xe9]);
    draft.put(99, vec![3, 2, 1]);
    let out = draft.finish();
    let found: Vec<(u8, u8)> = attributes::iter(&out).map(|a| (a.kind, a.flags)).collect();
    let wanted = [(1, 0x40), (2, 0x40), (4, 0x80), (5, 0x40), (8, 0xc0), (99, 0xe0)];
    assert_eq!(found, wanted, "flags by definition, Partial kept");
    let info = Info::of(&out);
    assert_eq!((info.med, info.local_pref, info.path_len), (Some(5), Some(100), 1));
    assert_eq!(usize::from(info.split), 4 + 3 + 6);
    assert_eq!(Draft::of(&out).number(kind::MULTI_EXIT_DISC), Some(5));
}

/// RFC 5065: segments of a confederation in front of the others.
#[test]
fn paths_inside_a_confederation() {
    let member = |asn, path: &[u8]| {
        let mut out = Vec::new();
        path::prepend_member(asn, path, &mut out);
        out
    };
    let from_outside = [2, 2, 0, 0, 0, 7, 0, 0, 0, 8];
    let path = member(65002, &member(65001, &from_outside));
    assert_eq!(path::display(&path), "(65002 65001) 7 8");
    assert_eq!((path::length(&path), path::neighbor(&path)), (2, Some(7)));
    assert_eq!((path::member(&path), path::member(&from_outside)), (Some(65002), None));
    assert_eq!(path::outside(&path), from_outside);
    assert_eq!(path::numbers_of(&path, true).collect::<Vec<_>>(), [65002, 65001]);
    let mut longer = Vec::new();
    path::prepend(&[9], &path, &mut longer);
    assert_eq!(path::display(&longer), "(65002 65001) 9 7 8");
    assert_eq!(path::display(&path::map(&path, |_| None)), "(65002 65001)");
    let set = [&[4, 1, 0, 0, 0xfd, 0xe9][..], &from_outside].concat();
    assert_eq!(path::display(&set), "[65001] 7 8");
    assert_eq!(path::length(&set), 2);

    // Who may send what.
    use Confederation::{OtherMember, SameMember};
    let judge = |octets: &[u8], confederation, first_as| {
        let mut attributes = vec![(0x40, 1, &[0][..]), (0x40, 2, octets)];
        attributes.extend([(0x40, 3, &[192, 0, 2, 1][..]), (0x40, 5, &[0, 0, 0, 100])]);
        let body = rfc7606::update(&attributes, &[8, 10]);
        let context = Context { external: false, confederation, first_as, ..EXTERNAL };
        let mut block = AttributeBlock::default();
        !parse_update(&body, &context, &mut block).unwrap().treat_as_withdraw()
    };
    for (octets, confederation, accepted) in [
        (&path[..], Confederation::None, false),
        (&path, SameMember, true),
        (&path, OtherMember, true),
        (&from_outside, SameMember, true),
        (&from_outside, OtherMember, false),
        (&set, SameMember, true),
        (&set, OtherMember, false),
    ] {
        assert_eq!(judge(octets, confederation, None), accepted, "{confederation:?}");
    }
    assert!(judge(&path, OtherMember, Some(65002)) && !judge(&path, OtherMember, Some(65001)));

    // Towards two octets, the long AS numbers stand beside the path without the inside.
    let long = member(65001, &[2, 1, 0, 1, 0, 0]);
    let mut block = Vec::new();
    push(&mut block, flag::TRANSITIVE, kind::ORIGIN, &[0]);
    push(&mut block, flag::TRANSITIVE, kind::AS_PATH, &long);
    push(&mut block, flag::TRANSITIVE, kind::LOCAL_PREF, &[0; 4]);
    let encoder = UpdateEncoder {
        four_octet_as: false,
        extended_messages: false,
        extended_next_hop: false,
        add_path: false,
    };
    let announcement = Announcement {
        block: block.clone(),
        next_hop: NextHop::new(IpAddr::from([192, 0, 2, 1])),
        prefixes: vec!["10.0.0.0/8".parse().unwrap()],
    };
    let octets = announcement.encode(encoder);
    let context =
        Context { external: false, four_octet_as: false, confederation: SameMember, ..EXTERNAL };
    let mut read = AttributeBlock::default();
    let body = frames(&octets, MAX_LEN)[0].body;
    assert!(parse_update(body, &context, &mut read).unwrap().errors.is_empty());
    assert_eq!(path::display(attributes::as_path(&read.bytes)), "(65001) 65536");
}

#[test]
fn communities_have_a_text_form() {
    fn same<T: std::str::FromStr + ToString>(text: &str) -> Option<T> {
        let value: T = text.parse().ok()?;
        assert_eq!(value.to_string(), text);
        Some(value)
    }
    for (text, value) in [
        ("rt:64512:100", 0x0002_fc00_0000_0064),
        ("rt:65536:100", 0x0202_0001_0000_0064),
        ("soo:192.0.2.1:7", 0x0103_c000_0201_0007),
        ("soo:64512:4294967295", 0x0003_fc00_ffff_ffff),
        ("0x4300fc0000000064", 0x4300_fc00_0000_0064),
        // A small AS number in four octets is not what rt:7:100 is.
        ("0x0202000000070064", 0x0202_0000_0007_0064),
    ] {
        assert_eq!(same(text), Some(ExtendedCommunity(value)), "{text}");
    }
    for wrong in ["rt:65536:65536", "rt:192.0.2.1:65536", "rt:1", "xx:1:2", "0x12", "rt:*:1", ""] {
        let error = wrong.parse::<ExtendedCommunity>().unwrap_err();
        assert!(error.contains("is not an extended community"), "{error}");
    }
    assert_eq!(same("no-export"), Some(Community::NO_EXPORT));
    assert_eq!(same("65001:7"), Some(Community(65001 << 16 | 7)));
    assert_eq!(same("1:2:3"), Some(LargeCommunity([1, 2, 3])));
    assert!(!ExtendedCommunity(0x4300_fc00_0000_0064).is_transitive());
}

#[test]
fn attributes_that_leave_no_room_are_not_sent() {
    let encoder = UpdateEncoder {
        four_octet_as: true,
        extended_messages: false,
        extended_next_hop: false,
        add_path: false,
    };
    let mut block = Vec::new();
    push(&mut block, flag::TRANSITIVE, kind::ORIGIN, &[0]);
    push(&mut block, flag::TRANSITIVE, kind::AS_PATH, &[]);
    push(&mut block, 0xc0, kind::LARGE_COMMUNITIES, &vec![7; 12 * 340]);
    let info = Info::of(&block);
    let hop = NextHop::new(IpAddr::from([192, 0, 2, 1]));
    let mut out = Vec::new();
    let prefix = Prefix4::from_octets(&[10], 8);
    assert_eq!(encoder.announce(&block, &info, hop, [prefix.into()], &mut out), 0);
    assert!(out.is_empty());
    let extended = UpdateEncoder { extended_messages: true, ..encoder };
    assert_eq!(extended.announce(&block, &info, hop, [prefix.into()], &mut out), 1);
    // IPv4 routes go with an IPv6 next hop only to those that know RFC 8950.
    let v6 = NextHop::new("fd00::1".parse().unwrap());
    assert!(!extended.can_announce::<Prefix4>(&block, &info, v6));
    let extended = UpdateEncoder { extended_next_hop: true, ..extended };
    assert!(extended.can_announce::<Prefix4>(&block, &info, v6));
    assert!(!extended.can_announce::<Prefix6>(&block, &info, hop));
}

#[test]
fn link_local_next_hops() {
    let hop = |global: &str, local: Option<&str>| {
        let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let hop = NextHop::from_v6(octets(global), local.map(octets));
        (hop.addr.to_string(), hop.link_local.map(|a| a.to_string()))
    };
    assert_eq!(hop("fd00::1", None), ("fd00::1".into(), None));
    assert_eq!(hop("fd00::1", Some("fe80::1")), ("fd00::1".into(), Some("fe80::1".into())));
    assert_eq!(hop("::", Some("fe80::1")), ("fe80::1".into(), None));
    assert_eq!(hop("fe80::1", Some("fe80::1")), ("fe80::1".into(), None));
    assert_eq!(hop("fd00::1", Some("fd00::2")), ("fd00::1".into(), None));
}

#[test]
fn a_hard_reset_carries_another_notification() {
    let plain = Notification::communication(cease::ADMIN_SHUTDOWN, "bye", "");
    assert!(plain.is_lasting() && plain.inner().is_none());
    let hard = plain.hard_reset();
    assert_eq!(hard.data[..], [6, 2, 3, b'b', b'y', b'e']);
    assert!(hard.is_hard_reset() && !plain.is_hard_reset());
    assert_eq!(hard.inner(), Some(plain));
    assert_eq!(hard.text().as_deref(), Some("bye"));
    assert_eq!(hard.hard_reset().text(), None);
    let wanted = "Cease/Hard Reset (6/9) for Cease/Administrative Shutdown (6/2) \"bye\"";
    assert_eq!(hard.to_string(), wanted);
    assert_eq!(Notification::parse(&[6, 9, 6]).inner(), None);
}
