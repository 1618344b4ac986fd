use super::*;
use crate::wire::{Capability, Family, FamilySet, Open};

mod fsm;

fn offer() -> Offer {
    Offer {
        asn: 65001,
        peer_as: 65002.into(),
        router_id: Ipv4Addr::new(1, 1, 1, 1),
        hold_time: 90,
        keepalive_time: None,
        families: Family::ALL.into_iter().collect(),
        extended_next_hop: false,
        role: None,
        role_strict: false,
        receive_paths: FamilySet::default(),
        send_paths: FamilySet::default(),
        restart: Some(OwnRestart { time: 120, ..OwnRestart::default() }),
        long_lived: None,
    }
}

fn peer_open() -> Open {
    let mut peer = offer();
    (peer.asn, peer.peer_as) = (65002, 65001.into());
    peer.router_id = Ipv4Addr::new(2, 2, 2, 2);
    peer.open()
}

#[test]
fn two_default_offers_agree_on_everything() {
    let agreed = negotiate(&offer(), &peer_open()).unwrap();
    assert_eq!(agreed.hold_time, 90);
    assert_eq!(agreed.keepalive_time, 30);
    assert!(agreed.external && agreed.four_octet_as && agreed.route_refresh);
    assert!(agreed.enhanced_refresh);
    assert!(agreed.extended_messages);
    assert_eq!(agreed.families, Family::ALL.into_iter().collect());
    let restart = agreed.restart.unwrap();
    assert_eq!((restart.time, restart.restarting), (120, false));
    assert_eq!(restart.families, Family::ALL.into_iter().collect());
    assert!(restart.forwarding.is_empty());
}

/// RFC 8950 section 4: only if both sides offer it, for a family that is there.
/// RFC 9234 section 4.2.
#[test]
fn roles_must_fit_each_other() {
    use crate::wire::Role;
    let judge = |ours: Option<Role>, strict: bool, said: &[u8]| {
        let ours = Offer { role: ours, role_strict: strict, ..offer() };
        let mut open = peer_open();
        open.capabilities.extend(said.iter().map(|role| Capability::Role(*role)));
        negotiate(&ours, &open).map(|agreed| agreed.peer_role).map_err(|n| (n.code, n.subcode))
    };
    let roles = [Role::Provider, Role::Rs, Role::RsClient, Role::Customer, Role::Peer];
    for ours in roles {
        for theirs in roles {
            let fits = ours.opposite() == theirs;
            let wanted = if fits { Ok(Some(theirs)) } else { Err((2, 11)) };
            assert_eq!(judge(Some(ours), false, &[theirs.wire()]), wanted, "{ours} {theirs}");
            assert_eq!(judge(None, false, &[theirs.wire()]), Ok(Some(theirs)));
        }
        let fitting = ours.opposite().wire();
        assert_eq!(judge(Some(ours), true, &[fitting, fitting]), Ok(Some(ours.opposite())));
        assert_eq!(judge(Some(ours), true, &[fitting, (fitting + 1) % 5]), Err((2, 11)));
        assert_eq!(judge(Some(ours), true, &[5]), Err((2, 11)), "nobody's role");
        assert_eq!(judge(Some(ours), true, &[]), Err((2, 11)));
        assert_eq!(judge(Some(ours), false, &[]), Ok(None));
    }
    let said = Offer { role: Some(Role::Customer), ..offer() }.open();
    assert!(said.capabilities.contains(&Capability::Role(3)));
}

#[test]
fn an_extended_next_hop_is_agreed_on_by_both() {
    let v6 = FamilySet::from_iter([Family::Ipv6Unicast]);
    let v4 = FamilySet::from_iter([Family::Ipv4Unicast]);
    let both = Family::ALL.into_iter().collect();
    for (ours, theirs, families, agreed) in [
        (true, true, both, true),
        (true, true, v4, true),
        (true, false, both, false),
        (false, true, both, false),
        (true, true, v6, false),
    ] {
        let ours = Offer { extended_next_hop: ours, families, ..offer() };
        let theirs = Offer {
            asn: 65002,
            router_id: Ipv4Addr::new(2, 2, 2, 2),
            extended_next_hop: theirs,
            ..offer()
        };
        let negotiated = negotiate(&ours, &theirs.open()).unwrap();
        assert_eq!(negotiated.extended_next_hop, agreed, "{ours:?}");
    }
    let open = Offer { extended_next_hop: true, ..offer() }.open();
    let mut octets = Vec::new();
    open.encode(&mut octets);
    let capability = [5, 6, 0, 1, 0, 1, 0, 2];
    assert!(octets.windows(8).any(|w| w == capability), "{octets:?}");
    // Another family's, or one without a whole entry, is not it.
    for value in [vec![0, 2, 0, 1, 0, 1], vec![0, 1, 0, 1, 0]] {
        let mut octets = Vec::new();
        let mut theirs = peer_open();
        theirs.capabilities.push(Capability::Unknown(5, value));
        theirs.encode(&mut octets);
        let theirs = Open::parse(&octets[crate::wire::HEADER_LEN..]).unwrap();
        let ours = Offer { extended_next_hop: true, ..offer() };
        assert!(!negotiate(&ours, &theirs).unwrap().extended_next_hop);
    }
}

#[test]
fn wrong_opens_are_answered_as_the_rfc_says() {
    type Spoil = fn(&mut Open);
    let cases: [(Spoil, u8); 6] = [
        (|o| o.capabilities.push(Capability::FourOctetAs(1)), 0),
        (|o| o.capabilities.retain(|c| !matches!(c, Capability::FourOctetAs(_))), 0),
        (|o| o.router_id = Ipv4Addr::UNSPECIFIED, 3),
        (|o| o.hold_time = 1, 6),
        (|o| o.hold_time = 2, 6),
        (
            |o| {
                o.capabilities.retain(|c| !matches!(c, Capability::Multiprotocol(..)));
                o.capabilities.push(Capability::Multiprotocol(25, 70));
            },
            7,
        ),
    ];
    for (at, (spoil, subcode)) in cases.into_iter().enumerate() {
        let mut open = peer_open();
        spoil(&mut open);
        match negotiate(&offer(), &open) {
            Ok(_) => assert_eq!(subcode, 0, "case {at}"),
            Err(n) => assert_eq!((n.code, n.subcode), (2, subcode), "case {at}"),
        }
    }
    let mut open = peer_open();
    open.capabilities.retain(|c| !matches!(c, Capability::FourOctetAs(_)));
    open.my_as = 65003;
    assert_eq!(negotiate(&offer(), &open).unwrap_err().subcode, 2);
}

#[test]
fn without_capabilities_only_ipv4_remains() {
    let mut open = peer_open();
    open.capabilities.clear();
    let agreed = negotiate(&offer(), &open).unwrap();
    assert_eq!(agreed.families, FamilySet::from_iter([Family::Ipv4Unicast]));
    assert!(!agreed.four_octet_as && !agreed.extended_messages && agreed.restart.is_none());
}

#[test]
fn hold_and_keepalive_times() {
    let case = |ours, theirs, keepalive| {
        let mut offer = offer();
        offer.hold_time = ours;
        offer.keepalive_time = keepalive;
        let mut open = peer_open();
        open.hold_time = theirs;
        let agreed = negotiate(&offer, &open).unwrap();
        (agreed.hold_time, agreed.keepalive_time)
    };
    assert_eq!(case(90, 180, None), (90, 30));
    assert_eq!(case(90, 3, None), (3, 1));
    assert_eq!(case(0, 180, None), (0, 0));
    assert_eq!(case(90, 0, Some(5)), (0, 0));
    assert_eq!(case(90, 90, Some(5)), (90, 5));
    assert_eq!(case(90, 9, Some(60)), (9, 3));
}

#[test]
fn an_equal_identifier_is_wrong_only_inside_an_as() {
    let mut offer = offer();
    let mut open = peer_open();
    open.router_id = offer.router_id;
    negotiate(&offer, &open).unwrap();
    offer.asn = 65002;
    assert_eq!(negotiate(&offer, &open).unwrap_err().subcode, 3);
}

#[test]
fn both_sides_keep_the_same_connection() {
    let ids = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(2, 2, 2, 2)];
    for a in ids {
        for b in ids {
            for (asn_a, asn_b) in [(65001, 65002), (65002, 65001)] {
                let at_a = surviving((a, asn_a), (b, asn_b));
                let at_b = surviving((b, asn_b), (a, asn_a));
                assert_eq!(at_a, at_b.other());
            }
        }
    }
}

/// RFC 7911 section 4: each direction is agreed on by itself, and modes that mean nothing are left out.
#[test]
fn several_paths_go_where_one_offers_to_send_and_the_other_to_receive() {
    let all: FamilySet = Family::ALL.into_iter().collect();
    let v4 = FamilySet::from_iter([Family::Ipv4Unicast]);
    let ours = Offer { receive_paths: all, send_paths: v4, ..offer() };
    let mut theirs = Offer { receive_paths: all, send_paths: v4, ..offer() };
    (theirs.asn, theirs.peer_as) = (65002, 65001.into());
    theirs.router_id = Ipv4Addr::new(2, 2, 2, 2);
    let agreed = negotiate(&ours, &theirs.open()).unwrap();
    assert_eq!((agreed.receive_paths, agreed.send_paths), (v4, v4));

    let agreed = negotiate(&offer(), &theirs.open()).unwrap();
    assert!(agreed.receive_paths.is_empty() && agreed.send_paths.is_empty(), "not offered");
    let only_v6 = Offer { families: FamilySet::from_iter([Family::Ipv6Unicast]), ..ours.clone() };
    let agreed = negotiate(&only_v6, &theirs.open()).unwrap();
    assert!(agreed.receive_paths.is_empty() && agreed.send_paths.is_empty(), "another family");
    let mut open = theirs.open();
    for capability in &mut open.capabilities {
        if let Capability::AddPath(families) = capability {
            families.iter_mut().for_each(|family| family.mode |= 4);
        }
    }
    let agreed = negotiate(&ours, &open).unwrap();
    assert!(agreed.receive_paths.is_empty() && agreed.send_paths.is_empty(), "unknown modes");
}

#[test]
fn long_lived_restart_needs_both_sides_and_graceful_restart() {
    let case = |ours: (bool, Option<u32>), theirs: (bool, Option<u32>)| {
        let restart = |on: bool| on.then(OwnRestart::default);
        let mut own = offer();
        (own.restart, own.long_lived) = (restart(ours.0), ours.1);
        let mut peer = offer();
        (peer.asn, peer.peer_as) = (65002, 65001.into());
        peer.router_id = Ipv4Addr::new(2, 2, 2, 2);
        (peer.restart, peer.long_lived) = (restart(theirs.0), theirs.1);
        let agreed = negotiate(&own, &peer.open()).unwrap();
        (agreed.long_lived.map(|it| it.times), agreed.withhold_stale)
    };
    let (on, off) = ((true, Some(100)), (true, None));
    assert_eq!(case(on, on), (Some([100, 100]), false));
    assert_eq!(case(on, (true, Some(7))), (Some([7, 7]), false));
    assert_eq!(case(on, (true, Some(1 << 23))), (Some([100, 100]), false));
    assert_eq!(case(on, off), (None, true));
    assert_eq!(case(off, on), (None, false));
    assert_eq!(case(off, off), (None, false));
    assert_eq!(case((false, Some(100)), on), (None, false));
    assert_eq!(case(on, (false, Some(100))), (None, true));
}
