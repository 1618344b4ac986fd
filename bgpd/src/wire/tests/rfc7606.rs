//! RFC 7606, attribute by attribute, for external and internal peers.

use crate::wire::attributes::{AttributeBlock, find, flag, kind, push};
use crate::wire::{Context, Disposition, Family, FamilySet, Prefix, parse_update};

use super::EXTERNAL;

/// The body of an UPDATE that announces `nlri` with these attributes: flags, type, value.
pub(super) fn update(attributes: &[(u8, u8, &[u8])], nlri: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (flags, kind, value) in attributes {
        push(&mut block, *flags, *kind, value);
    }
    raw(&block, nlri)
}

fn raw(attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let len = u16::try_from(attributes.len()).unwrap().to_be_bytes();
    [&[0, 0], &len[..], attributes, nlri].concat()
}

/// What is to become of the UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Accept,
    /// Accepted without the attribute.
    Discard,
    Withdraw,
    Disable(Family),
    /// A NOTIFICATION with code 3 and this subcode.
    Reset(u8),
}
use Want::{Accept, Disable, Discard, Reset, Withdraw};

const WK: u8 = flag::TRANSITIVE;
const ON: u8 = flag::OPTIONAL;
const OT: u8 = flag::OPTIONAL | flag::TRANSITIVE;
const NLRI: &[u8] = &[24, 10, 1, 2];

type Attributes = Vec<(u8, u8, Vec<u8>)>;

fn base(external: bool) -> Attributes {
    let mut all = vec![
        (WK, kind::ORIGIN, vec![0]),
        (WK, kind::AS_PATH, vec![2, 1, 0, 0, 0xfd, 0xea]),
        (WK, kind::NEXT_HOP, vec![192, 0, 2, 1]),
    ];
    if !external {
        all.push((WK, kind::LOCAL_PREF, vec![0, 0, 0, 100]));
    }
    all
}

fn judge(body: &[u8], context: &Context) -> Want {
    let mut block = AttributeBlock::default();
    let update = match parse_update(body, context, &mut block) {
        Ok(update) => update,
        Err(error) => {
            assert_eq!(error.code, 3);
            return Reset(error.subcode);
        }
    };
    match update.errors.iter().map(|e| e.disposition).max() {
        None => Accept,
        Some(Disposition::DiscardAttribute) => {
            for error in &update.errors {
                assert_eq!(find(&block.bytes, error.kind), None, "{} discarded", error.kind);
            }
            Discard
        }
        Some(Disposition::TreatAsWithdraw) => {
            assert!(update.treat_as_withdraw());
            // The routes must still be there to be withdrawn.
            assert!(update.announced.is_some() || update.reach.is_some());
            Withdraw
        }
        Some(Disposition::DisableFamily(family)) => Disable(family),
    }
}

/// The attribute in place of the one of its type in a good UPDATE, or beside the others.
fn with(external: bool, flags: u8, kind: u8, value: &[u8]) -> Want {
    let mut all = base(external);
    all.retain(|(_, k, _)| *k != kind);
    all.push((flags, kind, value.to_vec()));
    let all: Vec<_> = all.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
    judge(&update(&all, NLRI), &Context { external, ..EXTERNAL })
}

/// Flags, type, value, and what becomes of it from an external and from an internal peer.
type Case = (&'static str, u8, u8, &'static [u8], Want, Want);

#[rustfmt::skip]
const TABLE: &[Case] = &[
    // 7.1
    ("ORIGIN",                     WK, 1, &[2],                Accept, Accept),
    ("ORIGIN undefined",           WK, 1, &[3],                Withdraw, Withdraw),
    ("ORIGIN empty",               WK, 1, &[],                 Withdraw, Withdraw),
    ("ORIGIN long",                WK, 1, &[0, 0],             Withdraw, Withdraw),
    ("ORIGIN optional",            OT, 1, &[0],                Withdraw, Withdraw),
    ("ORIGIN not transitive",       0, 1, &[0],                Withdraw, Withdraw),
    ("ORIGIN partial",           0x60, 1, &[0],                Accept, Accept),
    // 7.2
    ("AS_PATH empty",              WK, 2, &[],                 Accept, Accept),
    ("AS_PATH set",                WK, 2, &[1, 1, 0, 0, 0, 7], Accept, Accept),
    ("AS_PATH segment type 0",     WK, 2, &[0, 1, 0, 0, 0, 7], Withdraw, Withdraw),
    ("AS_PATH confederation",      WK, 2, &[3, 1, 0, 0, 0, 7], Withdraw, Withdraw),
    ("AS_PATH overrun",            WK, 2, &[2, 2, 0, 0, 0, 7], Withdraw, Withdraw),
    ("AS_PATH stray octet",        WK, 2, &[2, 1, 0, 0, 0, 7, 2], Withdraw, Withdraw),
    ("AS_PATH empty segment",      WK, 2, &[2, 0],             Withdraw, Withdraw),
    ("AS_PATH with AS 0",          WK, 2, &[2, 1, 0, 0, 0, 0], Withdraw, Withdraw),
    ("AS_PATH optional",           OT, 2, &[],                 Withdraw, Withdraw),
    // 7.3
    ("NEXT_HOP short",             WK, 3, &[192, 0, 2],        Withdraw, Withdraw),
    ("NEXT_HOP long",              WK, 3, &[192, 0, 2, 1, 1],  Withdraw, Withdraw),
    ("NEXT_HOP zero",              WK, 3, &[0, 0, 0, 0],       Withdraw, Withdraw),
    ("NEXT_HOP multicast",         WK, 3, &[224, 0, 0, 1],     Withdraw, Withdraw),
    ("NEXT_HOP optional",          OT, 3, &[192, 0, 2, 1],     Withdraw, Withdraw),
    // 7.4
    ("MED",                        ON, 4, &[0, 0, 0, 1],       Accept, Accept),
    ("MED short",                  ON, 4, &[0, 0, 1],          Withdraw, Withdraw),
    ("MED empty",                  ON, 4, &[],                 Withdraw, Withdraw),
    ("MED transitive",             OT, 4, &[0, 0, 0, 1],       Withdraw, Withdraw),
    // 7.5
    ("LOCAL_PREF",                 WK, 5, &[0, 0, 0, 1],       Discard, Accept),
    ("LOCAL_PREF short",           WK, 5, &[0, 0, 1],          Discard, Withdraw),
    ("LOCAL_PREF optional",        OT, 5, &[0, 0, 0, 1],       Discard, Withdraw),
    // 7.6
    ("ATOMIC_AGGREGATE",           WK, 6, &[],                 Accept, Accept),
    ("ATOMIC_AGGREGATE long",      WK, 6, &[0],                Discard, Discard),
    ("ATOMIC_AGGREGATE optional",  OT, 6, &[],                 Withdraw, Withdraw),
    // 7.7
    ("AGGREGATOR",                 OT, 7, &[0, 0, 0, 7, 1, 1, 1, 1], Accept, Accept),
    ("AGGREGATOR two octets",      OT, 7, &[0, 7, 1, 1, 1, 1], Discard, Discard),
    ("AGGREGATOR with AS 0",       OT, 7, &[0, 0, 0, 0, 1, 1, 1, 1], Discard, Discard),
    ("AGGREGATOR not transitive",  ON, 7, &[0, 0, 0, 7, 1, 1, 1, 1], Withdraw, Withdraw),
    // 7.8
    ("COMMUNITIES",                OT, 8, &[0, 1, 0, 2],       Accept, Accept),
    ("COMMUNITIES partial",      0xe0, 8, &[0, 1, 0, 2],       Accept, Accept),
    ("COMMUNITIES empty",          OT, 8, &[],                 Withdraw, Withdraw),
    ("COMMUNITIES of 5 octets",    OT, 8, &[0, 1, 0, 2, 3],    Withdraw, Withdraw),
    ("COMMUNITIES not transitive", ON, 8, &[0, 1, 0, 2],       Withdraw, Withdraw),
    // 7.9, 7.10
    ("ORIGINATOR_ID",              ON, 9, &[9, 9, 9, 9],       Discard, Accept),
    ("ORIGINATOR_ID short",        ON, 9, &[9, 9, 9],          Discard, Withdraw),
    ("ORIGINATOR_ID transitive",   OT, 9, &[9, 9, 9, 9],       Discard, Withdraw),
    ("CLUSTER_LIST",               ON, 10, &[9, 9, 9, 9],      Discard, Accept),
    ("CLUSTER_LIST empty",         ON, 10, &[],                Discard, Withdraw),
    ("CLUSTER_LIST of 5 octets",   ON, 10, &[9, 9, 9, 9, 9],   Discard, Withdraw),
    // 7.11, 7.12
    ("MP_REACH without family",    ON, 14, &[0, 2],            Reset(9), Reset(9)),
    ("MP_REACH next hop overrun",  ON, 14, &[0, 2, 1, 16, 0],  Disable(Family::Ipv6Unicast), Disable(Family::Ipv6Unicast)),
    ("MP_REACH next hop length",   ON, 14, &[0, 2, 1, 4, 1, 1, 1, 1, 0], Disable(Family::Ipv6Unicast), Disable(Family::Ipv6Unicast)),
    ("MP_REACH IPv4 by IPv6",      ON, 14, &[0, 1, 1, 16, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 24, 10, 9, 9], Disable(Family::Ipv4Unicast), Disable(Family::Ipv4Unicast)),
    ("MP_REACH prefix overrun",    ON, 14, &[0, 1, 1, 4, 1, 1, 1, 1, 0, 24, 10], Disable(Family::Ipv4Unicast), Disable(Family::Ipv4Unicast)),
    ("MP_REACH prefix length",     ON, 14, &[0, 1, 1, 4, 1, 1, 1, 1, 0, 33, 1, 1, 1, 1, 1], Disable(Family::Ipv4Unicast), Disable(Family::Ipv4Unicast)),
    ("MP_REACH IPv4",              ON, 14, &[0, 1, 1, 4, 1, 1, 1, 1, 0, 24, 10, 9, 9], Accept, Accept),
    ("MP_REACH next hop zero",     ON, 14, &[0, 1, 1, 4, 0, 0, 0, 0, 0, 24, 10, 9, 9], Withdraw, Withdraw),
    ("MP_REACH transitive",        OT, 14, &[0, 1, 1, 4, 1, 1, 1, 1, 0, 24, 10, 9, 9], Withdraw, Withdraw),
    ("MP_REACH other family",      ON, 14, &[0, 25, 70, 4, 1, 1, 1, 1, 0, 2, 3], Accept, Accept),
    ("MP_UNREACH without family",  ON, 15, &[0, 2],            Reset(9), Reset(9)),
    ("MP_UNREACH prefix length",   ON, 15, &[0, 2, 1, 129],    Disable(Family::Ipv6Unicast), Disable(Family::Ipv6Unicast)),
    ("MP_UNREACH other family",    ON, 15, &[0, 25, 70, 2],    Accept, Accept),
    // 7.14, 7.15, RFC 8092, RFC 9234
    ("EXTENDED_COMMUNITIES",       OT, 16, &[0; 8],            Accept, Accept),
    ("EXTENDED_COMMUNITIES of 7",  OT, 16, &[0; 7],            Withdraw, Withdraw),
    ("EXTENDED_COMMUNITIES empty", OT, 16, &[],                Withdraw, Withdraw),
    ("IPv6 EXTENDED of 20",        OT, 25, &[0; 20],           Accept, Accept),
    ("IPv6 EXTENDED of 8",         OT, 25, &[0; 8],            Withdraw, Withdraw),
    ("LARGE_COMMUNITIES",          OT, 32, &[0; 24],           Accept, Accept),
    ("LARGE_COMMUNITIES of 8",     OT, 32, &[0; 8],            Withdraw, Withdraw),
    ("LARGE_COMMUNITIES empty",    OT, 32, &[],                Withdraw, Withdraw),
    ("LARGE_COMMUNITIES flags",    WK, 32, &[0; 12],           Withdraw, Withdraw),
    ("ONLY_TO_CUSTOMER of 3",      OT, 35, &[0; 3],            Withdraw, Withdraw),
    // RFC 6793 section 6
    ("AS4_PATH",                   OT, 17, &[2, 1, 0, 0, 0, 7], Discard, Discard),
    ("AS4_PATH well-known",        WK, 17, &[2, 1, 0, 0, 0, 7], Discard, Discard),
    ("AS4_AGGREGATOR",             OT, 18, &[0, 0, 0, 7, 1, 1, 1, 1], Discard, Discard),
    // RFC 4271 section 9
    ("unknown transitive",         OT, 99, &[1, 2, 3],         Accept, Accept),
    ("unknown not transitive",     ON, 99, &[1, 2, 3],         Accept, Accept),
    ("unknown well-known",         WK, 99, &[1, 2, 3],         Reset(2), Reset(2)),
];

#[test]
fn every_attribute() {
    for (name, flags, kind, value, external, internal) in TABLE {
        assert_eq!(with(true, *flags, *kind, value), *external, "{name}, external");
        assert_eq!(with(false, *flags, *kind, value), *internal, "{name}, internal");
    }
}

/// RFC 8950 section 3: 16 or 32 octets, once the capability is there on both sides.
#[test]
fn ipv4_routes_with_an_ipv6_next_hop() {
    let fd00 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let fe80 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let pair = [fd00, fe80].concat();
    let disabled = Disable(Family::Ipv4Unicast);
    let cases: [(&[u8], Want, Want); 7] = [
        (&[10, 0, 0, 1], Accept, Accept),
        (&fd00, disabled, Accept),
        (&fe80, disabled, Accept),
        (&pair, disabled, Accept),
        (&[0; 16], disabled, Withdraw),
        (&fd00[..15], disabled, disabled),
        (&[7; 24], disabled, disabled),
    ];
    for (next_hop, without, with) in cases {
        let len = u8::try_from(next_hop.len()).unwrap();
        let value = [&[0, 1, 1, len], next_hop, &[0, 24, 10, 9, 9]].concat();
        let mut all = base(true);
        all.push((ON, kind::MP_REACH_NLRI, value));
        let all: Vec<_> = all.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
        for (extended_next_hop, want) in [(false, without), (true, with)] {
            let context = Context { extended_next_hop, ..EXTERNAL };
            assert_eq!(judge(&update(&all, &[]), &context), want, "{next_hop:?}");
        }
    }
}

#[test]
fn mandatory_attributes() {
    for external in [true, false] {
        let context = Context { external, ..EXTERNAL };
        for missing in 0..base(external).len() {
            let mut all = base(external);
            let (_, kind, _) = all.remove(missing);
            let all: Vec<_> = all.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
            assert_eq!(judge(&update(&all, NLRI), &context), Withdraw, "without {kind}");
            // Nothing is missing where nothing is announced.
            assert_eq!(judge(&update(&all, &[]), &context), Accept, "without {kind}");
        }
    }
}

#[test]
fn twice() {
    let all = base(true);
    let mut all: Vec<_> = all.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
    all.push((WK, kind::ORIGIN, &[2]));
    let mut block = AttributeBlock::default();
    let body = update(&all, NLRI);
    let parsed = parse_update(&body, &EXTERNAL, &mut block).unwrap();
    assert_eq!(parsed.errors[0].disposition, Disposition::DiscardAttribute);
    assert_eq!(find(&block.bytes, kind::ORIGIN), Some(&[0][..]), "the first one counts");
    for kind in [kind::MP_REACH_NLRI, kind::MP_UNREACH_NLRI] {
        let value: &[u8] = &[0, 25, 70, 0, 0];
        let twice = [(ON, kind, value), (ON, kind, value)];
        assert_eq!(judge(&update(&twice, &[]), &EXTERNAL), Reset(1));
    }
}

#[test]
fn lengths_that_do_not_add_up() {
    // Section 4: an attribute that overruns is withdrawn, the NLRI being found all the same.
    let mut attributes = Vec::new();
    for (flags, kind, value) in base(true) {
        push(&mut attributes, flags, kind, &value);
    }
    let overrun = [&attributes[..], &[ON, kind::MULTI_EXIT_DISC, 4, 0]].concat();
    assert_eq!(judge(&raw(&overrun, NLRI), &EXTERNAL), Withdraw);
    let stray = [&attributes[..], &[0x40]].concat();
    assert_eq!(judge(&raw(&stray, NLRI), &EXTERNAL), Withdraw);
    // Section 5.3: NLRI that cannot be told apart.
    assert_eq!(judge(&raw(&attributes, &[33, 1, 1, 1, 1, 1]), &EXTERNAL), Reset(10));
    assert_eq!(judge(&raw(&attributes, &[24, 10]), &EXTERNAL), Reset(10));
    assert_eq!(judge(&[0, 2, 24, 10, 0, 0], &EXTERNAL), Reset(10));
    // The message's own lengths.
    assert_eq!(judge(&[0, 5, 0, 0], &EXTERNAL), Reset(1));
    assert_eq!(judge(&[0, 0, 0, 9, 1], &EXTERNAL), Reset(1));
    assert_eq!(judge(&[0], &EXTERNAL), Reset(1));
}

/// Section 5.2: an error that may have hidden what was announced.
#[test]
fn errors_where_nothing_is_announced() {
    let med: (u8, u8, &[u8]) = (ON, kind::MULTI_EXIT_DISC, &[0]);
    let aggregate: (u8, u8, &[u8]) = (WK, kind::ATOMIC_AGGREGATE, &[0]);
    let unreach: (u8, u8, &[u8]) = (ON, kind::MP_UNREACH_NLRI, &[0, 2, 1, 8, 0xfd]);
    let empty: (u8, u8, &[u8]) = (ON, kind::MP_REACH_NLRI, &[0, 1, 1, 4, 1, 1, 1, 1, 0]);
    let other: (u8, u8, &[u8]) = (ON, kind::MP_REACH_NLRI, &[0, 25, 70, 4, 1, 1, 1, 1, 0, 2, 3]);
    let nothing: (u8, u8, &[u8]) = (ON, kind::MP_REACH_NLRI, &[0, 25, 70, 4, 1, 1, 1, 1, 0]);
    let next_hop: (u8, u8, &[u8]) = (ON, kind::MP_REACH_NLRI, &[0, 2, 1, 4, 1, 1, 1, 1, 0]);
    let undelimited: (u8, u8, &[u8]) = (ON, kind::MP_UNREACH_NLRI, &[0, 2, 1, 129]);
    let origin: (u8, u8, &[u8]) = (WK, kind::ORIGIN, &[0]);
    let path: (u8, u8, &[u8]) = (WK, kind::AS_PATH, &[2, 1, 0, 0, 0, 0]);
    for (attributes, want) in [
        (&[med][..], Reset(1)),
        (&[med, unreach], Reset(1)),
        (&[med, empty], Reset(1)),
        // What is announced in a family that we do not speak does not concern us.
        (&[med, other], Withdraw),
        (&[aggregate], Discard),
        (&[aggregate, unreach], Discard),
        (&[unreach], Accept),
        (&[path], Reset(1)),
        (&[path, unreach], Reset(1)),
        (&[path, other], Accept),
        // Nor does one of which nothing is announced hide less than ours.
        (&[med, nothing], Reset(1)),
        (&[next_hop], Reset(1)),
        // A family cannot be given up where another may be meant; alone it is all there is.
        (&[origin, undelimited], Reset(1)),
        (&[undelimited], Disable(Family::Ipv6Unicast)),
    ] {
        let mut block = AttributeBlock::default();
        let body = update(attributes, &[]);
        let got = match parse_update(&body, &EXTERNAL, &mut block) {
            Err(error) => Reset(error.subcode),
            Ok(update) => match update.errors.iter().map(|e| e.disposition).max() {
                None => Accept,
                Some(Disposition::DiscardAttribute) => Discard,
                Some(Disposition::TreatAsWithdraw) => Withdraw,
                Some(Disposition::DisableFamily(family)) => Disable(family),
            },
        };
        assert_eq!(got, want, "{attributes:?}");
    }
    // An MP_REACH_NLRI that overruns.
    assert_eq!(judge(&raw(&[ON, kind::MP_REACH_NLRI, 40, 0, 2, 1], &[]), &EXTERNAL), Reset(1));
    // Flags of MP_UNREACH_NLRI hide nothing: what it names is withdrawn either way.
    let body = update(&[(OT, kind::MP_UNREACH_NLRI, &[0, 2, 1, 8, 0xfd])], &[]);
    assert!(parse_update(&body, &EXTERNAL, &mut AttributeBlock::default()).is_ok());
}

/// RFC 4760 section 3: beside MP_REACH_NLRI alone, NEXT_HOP is ignored whatever it holds.
#[test]
fn a_next_hop_that_nobody_needs() {
    let reach: &[u8] = &[0, 1, 1, 4, 1, 1, 1, 1, 0, 24, 10, 9, 9];
    for (flags, value) in [(WK, &[192, 0, 2][..]), (WK, &[0; 4]), (OT, &[192, 0, 2, 1])] {
        let mut all = base(true);
        all.retain(|(_, k, _)| *k != kind::NEXT_HOP);
        all.push((flags, kind::NEXT_HOP, value.to_vec()));
        all.push((ON, kind::MP_REACH_NLRI, reach.to_vec()));
        let all: Vec<_> = all.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
        assert_eq!(judge(&update(&all, &[]), &EXTERNAL), Accept, "{flags} {value:?}");
        assert_eq!(judge(&update(&all, NLRI), &EXTERNAL), Withdraw, "{flags} {value:?}");
    }
}

/// RFC 6793 section 6, from a peer with two-octet AS numbers.
#[test]
fn attributes_of_old_speakers() {
    let context = Context { four_octet_as: false, ..EXTERNAL };
    let path = |kind: u8, flags: u8, value: &[u8]| {
        let mut all = base(true);
        all.retain(|(_, k, _)| *k != kind::AS_PATH);
        // 65002 AS_TRANS
        all.push((WK, kind::AS_PATH, vec![2, 2, 0xfd, 0xea, 0x5b, 0xa0]));
        all.push((OT, kind::AGGREGATOR, vec![0x5b, 0xa0, 1, 1, 1, 1]));
        all.push((flags, kind, value.to_vec()));
        let all: Vec<_> = all.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
        let mut block = AttributeBlock::default();
        let body = update(&all, NLRI);
        let parsed = parse_update(&body, &context, &mut block).unwrap();
        let text = crate::wire::path::display(crate::wire::attributes::as_path(&block.bytes));
        (parsed.errors.iter().map(|e| e.disposition).max(), text)
    };
    let discard = Some(Disposition::DiscardAttribute);
    let withdraw = Some(Disposition::TreatAsWithdraw);
    for (flags, value, want, text) in [
        (OT, &[2, 1, 0, 7, 0, 1][..], None, "65002 458753"),
        (OT, &[], discard, "65002 23456"),
        (OT, &[2, 1, 0, 7], discard, "65002 23456"),
        (OT, &[2, 0, 2, 1, 0, 7, 0, 1], discard, "65002 23456"),
        (OT, &[9, 1, 0, 7, 0, 1], discard, "65002 23456"),
        (OT, &[2, 1, 0, 0, 0, 0], discard, "65002 23456"),
        // Segments of a confederation are taken out, and the rest is used.
        (OT, &[3, 1, 0, 0, 0, 9, 2, 1, 0, 7, 0, 1], None, "65002 458753"),
        (WK, &[2, 1, 0, 7, 0, 1], withdraw, "65002 23456"),
    ] {
        assert_eq!(path(kind::AS4_PATH, flags, value), (want, text.to_owned()), "{value:?}");
    }
    let aggregator = |flags, value: &[u8]| path(kind::AS4_AGGREGATOR, flags, value).0;
    assert_eq!(aggregator(OT, &[0, 7, 0, 1, 1, 1, 1, 1]), None);
    assert_eq!(aggregator(OT, &[0, 7, 0, 1, 1, 1, 1]), discard);
    assert_eq!(aggregator(OT, &[0, 0, 0, 0, 1, 1, 1, 1]), discard);
    assert_eq!(aggregator(ON, &[0, 7, 0, 1, 1, 1, 1, 1]), withdraw);
}

#[test]
fn the_strongest_treatment_wins() {
    let value: &[u8] = &[0, 2, 1, 4, 1, 1, 1, 1, 0];
    let mixed = [
        (WK, kind::ORIGIN, &[7][..]),
        (WK, kind::ATOMIC_AGGREGATE, &[1]),
        (ON, kind::MP_REACH_NLRI, value),
    ];
    assert_eq!(judge(&update(&mixed, NLRI), &EXTERNAL), Disable(Family::Ipv6Unicast));
}

#[test]
fn the_first_as_is_enforced_only_where_asked() {
    let judge_from = |first_as| {
        let all = base(true);
        let all: Vec<_> = all.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
        judge(&update(&all, NLRI), &Context { first_as, ..EXTERNAL })
    };
    assert_eq!(judge_from(None), Accept);
    assert_eq!(judge_from(Some(65002)), Accept);
    assert_eq!(judge_from(Some(65003)), Withdraw);
}

#[test]
fn families_that_were_not_negotiated_are_ignored() {
    let context = Context { families: FamilySet::from_iter([Family::Ipv6Unicast]), ..EXTERNAL };
    let all = base(true);
    let all: Vec<_> = all.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
    let mut block = AttributeBlock::default();
    let body = update(&all, NLRI);
    let parsed = parse_update(&body, &context, &mut block).unwrap();
    assert!(parsed.announced.is_none() && parsed.errors.is_empty());
}

#[test]
fn unknown_attributes_travel_with_the_partial_bit() {
    let mut all = base(true);
    all.push((OT, 99, vec![1, 2, 3]));
    all.push((ON, 98, vec![4]));
    let all: Vec<_> = all.iter().map(|(f, k, v)| (*f, *k, &v[..])).collect();
    let mut block = AttributeBlock::default();
    let body = update(&all, NLRI);
    let parsed = parse_update(&body, &EXTERNAL, &mut block).unwrap();
    let (hop, prefixes) = parsed.announced.unwrap();
    assert_eq!(hop.addr.to_string(), "192.0.2.1");
    assert_eq!(prefixes.map(|n| n.prefix.to_net()).next().unwrap().to_string(), "10.1.2.0/24");
    let kept: Vec<_> =
        crate::wire::attributes::iter(&block.bytes).map(|a| (a.kind, a.flags)).collect();
    assert!(kept.contains(&(99, OT | flag::PARTIAL)));
    assert!(!kept.iter().any(|(kind, _)| *kind == 98));
}
