//! The errors, and what is to become of each.

use super::{MARK, SUBJECT, Sender};
use crate::kit::script;

/// What is to become of an UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// It is used, and the attribute passed on.
    Accept,
    /// It is used without the attribute.
    Discard,
    /// Its routes are withdrawn.
    Withdraw,
    /// All routes of the family are withdrawn, and those to come ignored.
    Disable,
    /// A NOTIFICATION with code 3 and this subcode.
    Reset(u8),
}
use Want::{Accept, Disable, Discard, Reset, Withdraw};

/// How the UPDATE of a case is made from its attribute.
#[derive(Clone, Copy)]
enum Shape {
    /// In place of the good attribute of its type, before a prefix in the message's own field.
    Own,
    /// The same, with the prefix in MP_REACH_NLRI.
    Multiprotocol,
    /// It is MP_REACH_NLRI or MP_UNREACH_NLRI itself, with good attributes.
    Bare,
    /// After all good ones, as octets that need not be an attribute.
    Appended,
    /// As the only one, with nothing announced.
    Alone,
    /// The whole body.
    Body,
}

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) kind: u8,
    pub(super) value: Vec<u8>,
    /// 0: IPv4, 1: IPv6.
    pub(super) family: usize,
    pub(super) want: Want,
    flags: u8,
    shape: Shape,
}

impl Case {
    /// Whether one can see from outside that the attribute was used or not.
    pub(super) fn visible(&self) -> bool {
        let passed = !matches!(self.kind, 0 | 3 | 14 | 15 | 17 | 18);
        let whole = matches!(self.shape, Shape::Own | Shape::Multiprotocol);
        passed && whole && !self.name.contains("(old)")
    }

    /// The UPDATE.
    pub(super) fn body(&self, sender: Sender, mark: u32) -> Vec<u8> {
        let own = |skip: u8| {
            let mut all = base(sender, mark);
            all.retain(|(_, kind, _)| *kind != skip);
            all
        };
        let attribute = (self.flags, self.kind, self.value.clone());
        let reach = (ON, 14, reach(sender, self.family, SUBJECT[self.family]));
        let (all, nlri) = match self.shape {
            Shape::Own => {
                let mut all = own(self.kind);
                all.push(attribute);
                (all, SUBJECT[0])
            }
            Shape::Multiprotocol => {
                let mut all = own(self.kind);
                all.retain(|(_, kind, _)| *kind != 3);
                all.extend([attribute, reach]);
                (all, &[][..])
            }
            Shape::Bare => {
                let mut all = own(3);
                all.push(attribute);
                (all, &[][..])
            }
            Shape::Appended => {
                let block = [&encode(&own(0))[..], &self.value].concat();
                return script::update(&[], &block, SUBJECT[0]);
            }
            Shape::Alone => return script::update(&[], &encode(&[attribute]), &[]),
            Shape::Body => return self.value.clone(),
        };
        script::update(&[], &encode(&all), nlri)
    }
}

const WK: u8 = 0x40;
const ON: u8 = 0x80;
const OT: u8 = 0xc0;
const PARTIAL: u8 = 0x20;

type Attribute = (u8, u8, Vec<u8>);

/// What every route of ours has, and its mark.
fn base(sender: Sender, mark: u32) -> Vec<Attribute> {
    let path = match (sender.external, sender.four_octets) {
        (true, true) => vec![2, 1, 0, 0, 0xfd, 0xea],
        (true, false) => vec![2, 1, 0xfd, 0xea],
        (false, _) => Vec::new(),
    };
    let mut all = vec![
        (WK, 1, vec![0]),
        (WK, 2, path),
        (WK, 3, sender.address().octets().to_vec()),
        (OT, MARK, mark.to_be_bytes().to_vec()),
    ];
    if !sender.external {
        all.push((WK, 5, vec![0, 0, 0, 100]));
    }
    all
}

fn encode(all: &[Attribute]) -> Vec<u8> {
    let one = |(flags, kind, value): &Attribute| {
        [&[*flags, *kind, u8::try_from(value.len()).unwrap()], &value[..]].concat()
    };
    all.iter().flat_map(one).collect()
}

/// The value of MP_REACH_NLRI.
fn reach(sender: Sender, family: usize, nlri: &[u8]) -> Vec<u8> {
    let hop = sender.address().octets();
    if family == 0 {
        [&[0, 1, 1, 4][..], &hop, &[0], nlri].concat()
    } else {
        [&[0, 2, 1, 16, 0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, hop[3], 0], nlri].concat()
    }
}

/// The body of an UPDATE without errors.
pub(super) fn good(sender: Sender, mark: u32, family: usize, prefix: &[u8]) -> Vec<u8> {
    let mut all = base(sender, mark);
    if family == 0 {
        return script::update(&[], &encode(&all), prefix);
    }
    all.retain(|(_, kind, _)| *kind != 3);
    all.push((ON, 14, reach(sender, family, prefix)));
    script::update(&[], &encode(&all), &[])
}

/// Name, flags, type, value, what becomes of it from an external and from an internal peer.
type Row = (&'static str, u8, u8, &'static [u8], Want, Want);

/// Single attributes of senders of any kind; the sections are those of RFC 7606.
#[rustfmt::skip]
const ATTRIBUTES: &[Row] = &[
    // 7.1
    ("ORIGIN EGP",                     WK, 1, &[1],                Accept, Accept),
    ("ORIGIN incomplete",              WK, 1, &[2],                Accept, Accept),
    ("ORIGIN undefined",               WK, 1, &[3],                Withdraw, Withdraw),
    ("ORIGIN 255",                     WK, 1, &[255],              Withdraw, Withdraw),
    ("ORIGIN empty",                   WK, 1, &[],                 Withdraw, Withdraw),
    ("ORIGIN of 2 octets",             WK, 1, &[0, 0],             Withdraw, Withdraw),
    ("ORIGIN optional",                OT, 1, &[0],                Withdraw, Withdraw),
    ("ORIGIN not transitive",           0, 1, &[0],                Withdraw, Withdraw),
    ("ORIGIN partial",       WK | PARTIAL, 1, &[1],                Accept, Accept),
    // 7.2
    ("AS_PATH optional",               OT, 2, &[],                 Withdraw, Withdraw),
    ("AS_PATH not transitive",          0, 2, &[],                 Withdraw, Withdraw),
    ("AS_PATH empty",                  WK, 2, &[],                 Withdraw, Accept),
    ("AS_PATH of one octet",           WK, 2, &[2],                Withdraw, Withdraw),
    ("AS_PATH empty segment",          WK, 2, &[2, 0],             Withdraw, Withdraw),
    ("AS_PATH segment type 0",         WK, 2, &[0, 1, 0, 0, 0xfd, 0xea], Withdraw, Withdraw),
    ("AS_PATH segment type 5",         WK, 2, &[5, 1, 0, 0, 0xfd, 0xea], Withdraw, Withdraw),
    ("AS_PATH AS_CONFED_SEQUENCE",     WK, 2, &[3, 1, 0, 0, 0xfd, 0xea], Withdraw, Withdraw),
    ("AS_PATH AS_CONFED_SET",          WK, 2, &[4, 1, 0, 0, 0xfd, 0xea], Withdraw, Withdraw),
    ("AS_PATH overrun",                WK, 2, &[2, 9, 0, 0, 0xfd, 0xea], Withdraw, Withdraw),
    ("AS_PATH underrun",               WK, 2, &[2, 1, 0, 0, 0xfd, 0xea, 2], Withdraw, Withdraw),
    ("AS_PATH with AS 0 (7607)",       WK, 2, &[2, 2, 0, 0, 0xfd, 0xea, 0, 0, 0, 0], Withdraw, Withdraw),
    // 7.3
    ("NEXT_HOP empty",                 WK, 3, &[],                 Withdraw, Withdraw),
    ("NEXT_HOP of 3 octets",           WK, 3, &[10, 0, 1],         Withdraw, Withdraw),
    ("NEXT_HOP of 5 octets",           WK, 3, &[10, 0, 1, 2, 0],   Withdraw, Withdraw),
    ("NEXT_HOP of 16 octets",          WK, 3, &[0xfd; 16],         Withdraw, Withdraw),
    ("NEXT_HOP 0.0.0.0",               WK, 3, &[0, 0, 0, 0],       Withdraw, Withdraw),
    ("NEXT_HOP multicast",             WK, 3, &[224, 0, 0, 1],     Withdraw, Withdraw),
    ("NEXT_HOP broadcast",             WK, 3, &[255, 255, 255, 255], Withdraw, Withdraw),
    ("NEXT_HOP ourselves",             WK, 3, &[10, 0, 1, 1],      Withdraw, Withdraw),
    ("NEXT_HOP optional",              OT, 3, &[10, 0, 1, 2],      Withdraw, Withdraw),
    ("NEXT_HOP not transitive",         0, 3, &[10, 0, 1, 2],      Withdraw, Withdraw),
    // 7.4
    ("MULTI_EXIT_DISC",                ON, 4, &[0, 0, 0, 7],       Accept, Accept),
    ("MULTI_EXIT_DISC empty",          ON, 4, &[],                 Withdraw, Withdraw),
    ("MULTI_EXIT_DISC of 3 octets",    ON, 4, &[0, 0, 7],          Withdraw, Withdraw),
    ("MULTI_EXIT_DISC of 5 octets",    ON, 4, &[0, 0, 0, 7, 0],    Withdraw, Withdraw),
    ("MULTI_EXIT_DISC transitive",     OT, 4, &[0, 0, 0, 7],       Withdraw, Withdraw),
    ("MULTI_EXIT_DISC well-known",     WK, 4, &[0, 0, 0, 7],       Withdraw, Withdraw),
    // 7.5
    ("LOCAL_PREF",                     WK, 5, &[0, 0, 0, 7],       Discard, Accept),
    ("LOCAL_PREF empty",               WK, 5, &[],                 Discard, Withdraw),
    ("LOCAL_PREF of 3 octets",         WK, 5, &[0, 0, 7],          Discard, Withdraw),
    ("LOCAL_PREF of 5 octets",         WK, 5, &[0, 0, 0, 7, 0],    Discard, Withdraw),
    ("LOCAL_PREF optional",            OT, 5, &[0, 0, 0, 7],       Discard, Withdraw),
    // 7.6
    ("ATOMIC_AGGREGATE",               WK, 6, &[],                 Accept, Accept),
    ("ATOMIC_AGGREGATE of 1 octet",    WK, 6, &[0],                Discard, Discard),
    ("ATOMIC_AGGREGATE optional",      OT, 6, &[],                 Withdraw, Withdraw),
    ("ATOMIC_AGGREGATE not transitive", 0, 6, &[],                 Withdraw, Withdraw),
    // 7.7
    ("AGGREGATOR empty",               OT, 7, &[],                 Discard, Discard),
    ("AGGREGATOR of 5 octets",         OT, 7, &[0, 7, 1, 1, 1],    Discard, Discard),
    ("AGGREGATOR of 9 octets",         OT, 7, &[0, 0, 0, 7, 1, 1, 1, 1, 1], Discard, Discard),
    // 7.8
    ("COMMUNITIES",                    OT, 8, &[0, 1, 0, 2],       Accept, Accept),
    ("COMMUNITIES partial",  OT | PARTIAL, 8, &[0, 1, 0, 2],       Accept, Accept),
    ("COMMUNITIES empty",              OT, 8, &[],                 Withdraw, Withdraw),
    ("COMMUNITIES of 3 octets",        OT, 8, &[0, 1, 0],          Withdraw, Withdraw),
    ("COMMUNITIES of 5 octets",        OT, 8, &[0, 1, 0, 2, 0],    Withdraw, Withdraw),
    ("COMMUNITIES not transitive",     ON, 8, &[0, 1, 0, 2],       Withdraw, Withdraw),
    ("COMMUNITIES well-known",         WK, 8, &[0, 1, 0, 2],       Withdraw, Withdraw),
    // 7.9
    ("ORIGINATOR_ID",                  ON, 9, &[9, 9, 9, 9],       Discard, Accept),
    ("ORIGINATOR_ID empty",            ON, 9, &[],                 Discard, Withdraw),
    ("ORIGINATOR_ID of 3 octets",      ON, 9, &[9, 9, 9],          Discard, Withdraw),
    ("ORIGINATOR_ID of 5 octets",      ON, 9, &[9, 9, 9, 9, 9],    Discard, Withdraw),
    ("ORIGINATOR_ID transitive",       OT, 9, &[9, 9, 9, 9],       Discard, Withdraw),
    ("ORIGINATOR_ID ours (4456)",      ON, 9, &[10, 255, 0, 1],    Discard, Withdraw),
    // 7.10
    ("CLUSTER_LIST",                   ON, 10, &[9, 9, 9, 9],      Discard, Accept),
    ("CLUSTER_LIST empty",             ON, 10, &[],                Discard, Withdraw),
    ("CLUSTER_LIST of 3 octets",       ON, 10, &[9, 9, 9],         Discard, Withdraw),
    ("CLUSTER_LIST of 5 octets",       ON, 10, &[9, 9, 9, 9, 9],   Discard, Withdraw),
    ("CLUSTER_LIST transitive",        OT, 10, &[9, 9, 9, 9],      Discard, Withdraw),
    ("CLUSTER_LIST with ours (4456)",  ON, 10, &[10, 255, 9, 9],   Discard, Withdraw),
    // 7.14
    ("EXTENDED_COMMUNITIES",           OT, 16, &[0, 2, 0, 1, 0, 0, 0, 2], Accept, Accept),
    ("EXTENDED_COMMUNITIES unknown",   OT, 16, &[0x7f, 9, 0, 1, 0, 0, 0, 2], Accept, Accept),
    ("EXTENDED_COMMUNITIES empty",     OT, 16, &[],                Withdraw, Withdraw),
    ("EXTENDED_COMMUNITIES of 7",      OT, 16, &[0; 7],            Withdraw, Withdraw),
    ("EXTENDED_COMMUNITIES of 9",      OT, 16, &[0; 9],            Withdraw, Withdraw),
    ("EXTENDED_COMMUNITIES not transitive", ON, 16, &[0; 8],       Withdraw, Withdraw),
    // 7.15 and RFC 5701
    ("IPv6 EXTENDED_COMMUNITIES",      OT, 25, &[1; 20],           Accept, Accept),
    ("IPv6 EXTENDED_COMMUNITIES empty", OT, 25, &[],               Withdraw, Withdraw),
    ("IPv6 EXTENDED_COMMUNITIES of 8", OT, 25, &[1; 8],            Withdraw, Withdraw),
    ("IPv6 EXTENDED_COMMUNITIES flags", WK, 25, &[1; 20],          Withdraw, Withdraw),
    // RFC 8092
    ("LARGE_COMMUNITIES",              OT, 32, &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3], Accept, Accept),
    ("LARGE_COMMUNITIES empty",        OT, 32, &[],                Withdraw, Withdraw),
    ("LARGE_COMMUNITIES of 8",         OT, 32, &[0; 8],            Withdraw, Withdraw),
    ("LARGE_COMMUNITIES of 13",        OT, 32, &[0; 13],           Withdraw, Withdraw),
    ("LARGE_COMMUNITIES not transitive", ON, 32, &[0; 12],         Withdraw, Withdraw),
    // RFC 9234
    ("ONLY_TO_CUSTOMER",               OT, 35, &[0, 0, 0xfd, 0xea], Accept, Accept),
    ("ONLY_TO_CUSTOMER empty",         OT, 35, &[],                Withdraw, Withdraw),
    ("ONLY_TO_CUSTOMER of 3",          OT, 35, &[0; 3],            Withdraw, Withdraw),
    ("ONLY_TO_CUSTOMER of 8",          OT, 35, &[0; 8],            Withdraw, Withdraw),
    ("ONLY_TO_CUSTOMER not transitive", ON, 35, &[0, 0, 0xfd, 0xea], Withdraw, Withdraw),
    // RFC 4271 sections 5 and 9
    ("unknown transitive",             OT, 99, &[1, 2, 3],         Accept, Accept),
    ("unknown partial",      OT | PARTIAL, 99, &[1, 2, 3],         Accept, Accept),
    ("unknown not transitive",         ON, 99, &[1, 2, 3],         Discard, Discard),
    ("unknown well-known",             WK, 99, &[1, 2, 3],         Reset(2), Reset(2)),
];

/// Of senders with four-octet AS numbers alone.
#[rustfmt::skip]
const FOUR_OCTETS: &[Row] = &[
    ("AS_PATH AS_SET",                 WK, 2, &[2, 1, 0, 0, 0xfd, 0xea, 1, 1, 0, 0, 0, 7], Accept, Accept),
    ("AS_PATH of another AS",          WK, 2, &[2, 1, 0, 0, 0, 7], Withdraw, Accept),
    ("AS_PATH with our AS",            WK, 2, &[2, 2, 0, 0, 0xfd, 0xea, 0, 0, 0xfd, 0xe9], Withdraw, Withdraw),
    ("AGGREGATOR",                     OT, 7, &[0, 0, 0, 7, 1, 1, 1, 1], Accept, Accept),
    ("AGGREGATOR of 6 octets",         OT, 7, &[0, 7, 1, 1, 1, 1], Discard, Discard),
    ("AGGREGATOR with AS 0 (7607)",    OT, 7, &[0, 0, 0, 0, 1, 1, 1, 1], Discard, Discard),
    ("AGGREGATOR not transitive",      ON, 7, &[0, 0, 0, 7, 1, 1, 1, 1], Withdraw, Withdraw),
    ("AGGREGATOR well-known",          WK, 7, &[0, 0, 0, 7, 1, 1, 1, 1], Withdraw, Withdraw),
    ("AS4_PATH (6793)",                OT, 17, &[2, 1, 0, 0, 0, 7], Discard, Discard),
    ("AS4_PATH malformed (6793)",      OT, 17, &[2, 9, 0],         Discard, Discard),
    ("AS4_AGGREGATOR (6793)",          OT, 18, &[0, 0, 0, 7, 1, 1, 1, 1], Discard, Discard),
];

/// Of senders that know only two (RFC 6793 section 6).
#[rustfmt::skip]
const TWO_OCTETS: &[Row] = &[
    ("AGGREGATOR (old)",               OT, 7, &[0, 7, 1, 1, 1, 1], Accept, Accept),
    ("AGGREGATOR of 8 octets",         OT, 7, &[0, 0, 0, 7, 1, 1, 1, 1], Discard, Discard),
    ("AGGREGATOR with AS 0 (7607)",    OT, 7, &[0, 0, 1, 1, 1, 1], Discard, Discard),
    ("AS4_PATH",                       OT, 17, &[2, 1, 0, 0, 0xfd, 0xea], Accept, Accept),
    ("AS4_PATH empty",                 OT, 17, &[],                Discard, Discard),
    ("AS4_PATH of 5 octets",           OT, 17, &[2, 1, 0, 0, 0],   Discard, Discard),
    ("AS4_PATH empty segment",         OT, 17, &[2, 0, 2, 1, 0, 0, 0, 7], Discard, Discard),
    ("AS4_PATH segment type 9",        OT, 17, &[9, 1, 0, 0, 0, 7], Discard, Discard),
    ("AS4_PATH with AS 0 (7607)",      OT, 17, &[2, 1, 0, 0, 0, 0], Discard, Discard),
    ("AS4_PATH AS_CONFED_SEQUENCE",    OT, 17, &[3, 1, 0, 0, 0, 7], Discard, Discard),
    ("AS4_PATH not transitive",        ON, 17, &[2, 1, 0, 0, 0xfd, 0xea], Withdraw, Withdraw),
    ("AS4_AGGREGATOR",                 OT, 18, &[0, 0, 0, 7, 1, 1, 1, 1], Accept, Accept),
    ("AS4_AGGREGATOR of 6 octets",     OT, 18, &[0, 7, 1, 1, 1, 1], Discard, Discard),
    ("AS4_AGGREGATOR with AS 0 (7607)", OT, 18, &[0, 0, 0, 0, 1, 1, 1, 1], Discard, Discard),
    ("AS4_AGGREGATOR not transitive",  ON, 18, &[0, 0, 0, 7, 1, 1, 1, 1], Withdraw, Withdraw),
];

/// All that can be wrong with an UPDATE of this sender.
pub(super) fn all(sender: Sender) -> Vec<Case> {
    let mut cases = Vec::new();
    let width = if sender.four_octets { FOUR_OCTETS } else { TWO_OCTETS };
    for (name, flags, kind, value, external, internal) in ATTRIBUTES.iter().chain(width) {
        let want = if sender.external { *external } else { *internal };
        let mut add = |shape, family, want| {
            cases.push(Case {
                name,
                flags: *flags,
                kind: *kind,
                value: value.to_vec(),
                family,
                want,
                shape,
            });
        };
        add(Shape::Own, 0, want);
        // Beside MP_REACH_NLRI a NEXT_HOP is ignored (RFC 4760 section 3).
        add(Shape::Multiprotocol, 1, if *kind == 3 { Accept } else { want });
    }
    cases.extend(missing(sender));
    cases.extend(multiprotocol(sender));
    cases.extend(whole_messages(sender));
    cases
}

/// Mandatory attributes that are not there (section 3 (d)).
fn missing(sender: Sender) -> Vec<Case> {
    let case = |name, kind: u8, want| {
        let mut all = base(sender, 0);
        all.retain(|(_, k, _)| *k != kind);
        let value = script::update(&[], &encode(&all), SUBJECT[0]);
        Case { name, flags: 0, kind, value, family: 0, want, shape: Shape::Body }
    };
    let mut all = vec![
        case("no ORIGIN", 1, Withdraw),
        case("no AS_PATH", 2, Withdraw),
        case("no NEXT_HOP", 3, Withdraw),
    ];
    if !sender.external {
        all.push(case("no LOCAL_PREF", 5, Withdraw));
    }
    all
}

/// MP_REACH_NLRI and MP_UNREACH_NLRI (sections 5.3, 7.11 and 7.12).
fn multiprotocol(sender: Sender) -> Vec<Case> {
    let case = |name, flags, kind, family, value: &[u8], want| Case {
        name,
        flags,
        kind,
        value: value.to_vec(),
        family,
        want,
        shape: Shape::Bare,
    };
    let v6 = SUBJECT[1];
    let hop = |octets: &[u8], nlri: &[u8]| {
        let len = u8::try_from(octets.len()).unwrap();
        [&[0, 2, 1, len], octets, &[0], nlri].concat()
    };
    let global = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let multicast = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut reserved = hop(&global, v6);
    reserved[20] = 7;
    let good = reach(sender, 1, v6);
    vec![
        case("MP_REACH_NLRI", ON, 14, 1, &good, Accept),
        case(
            "MP_REACH_NLRI with two next hops",
            ON,
            14,
            1,
            &hop(&[global, local].concat(), v6),
            Accept,
        ),
        case("MP_REACH_NLRI reserved octet", ON, 14, 1, &reserved, Accept),
        case("MP_REACH_NLRI of IPv4", ON, 14, 0, &reach(sender, 0, SUBJECT[0]), Accept),
        case("MP_REACH_NLRI empty", ON, 14, 1, &[], Reset(9)),
        case("MP_REACH_NLRI without SAFI", ON, 14, 1, &[0, 2], Reset(9)),
        case("MP_REACH_NLRI without next hop", ON, 14, 1, &[0, 2, 1], Disable),
        case("MP_REACH_NLRI next hop of 0", ON, 14, 1, &hop(&[], v6), Disable),
        case("MP_REACH_NLRI next hop of 4", ON, 14, 1, &hop(&[10, 0, 1, 2], v6), Disable),
        case("MP_REACH_NLRI next hop of 15", ON, 14, 1, &hop(&global[..15], v6), Disable),
        case("MP_REACH_NLRI next hop of 24", ON, 14, 1, &hop(&[0xfd; 24], v6), Disable),
        case("MP_REACH_NLRI next hop overrun", ON, 14, 1, &[0, 2, 1, 16, 0xfd], Disable),
        case("MP_REACH_NLRI without reserved octet", ON, 14, 1, &good[..20], Disable),
        case("MP_REACH_NLRI next hop ::", ON, 14, 1, &hop(&[0; 16], v6), Withdraw),
        case("MP_REACH_NLRI next hop multicast", ON, 14, 1, &hop(&multicast, v6), Withdraw),
        case(
            "MP_REACH_NLRI prefix of 129",
            ON,
            14,
            1,
            &hop(&global, &[&[129], &[0xfd; 17][..]].concat()),
            Disable,
        ),
        case("MP_REACH_NLRI prefix overrun", ON, 14, 1, &hop(&global, &[64, 0xfd, 0]), Disable),
        case(
            "MP_REACH_NLRI of IPv4, prefix of 33",
            ON,
            14,
            0,
            &reach(sender, 0, &[33, 10, 7, 7, 0, 0]),
            Disable,
        ),
        case(
            "MP_REACH_NLRI of IPv4, IPv6 next hop (8950)",
            ON,
            14,
            0,
            &[&[0, 1, 1, 16][..], &global, &[0], SUBJECT[0]].concat(),
            Disable,
        ),
        case("MP_REACH_NLRI transitive", OT, 14, 1, &good, Withdraw),
        case("MP_REACH_NLRI well-known", WK, 14, 1, &good, Withdraw),
        case("MP_UNREACH_NLRI", ON, 15, 1, &[&[0, 2, 1], v6].concat(), Withdraw),
        case("MP_UNREACH_NLRI empty", ON, 15, 1, &[], Reset(9)),
        case("MP_UNREACH_NLRI without SAFI", ON, 15, 1, &[0, 2], Reset(9)),
        case("MP_UNREACH_NLRI transitive", OT, 15, 1, &[&[0, 2, 1], v6].concat(), Reset(1)),
    ]
}

/// Lengths that do not add up, attributes twice, errors with nothing announced.
fn whole_messages(sender: Sender) -> Vec<Case> {
    let appended = |name, octets: &[u8], want| Case {
        name,
        flags: 0,
        kind: 0,
        value: octets.to_vec(),
        family: 0,
        want,
        shape: Shape::Appended,
    };
    let alone = |name, flags, kind, value: &[u8], want| Case {
        name,
        flags,
        kind,
        value: value.to_vec(),
        family: 1,
        want,
        shape: Shape::Alone,
    };
    let body = |name, value: Vec<u8>, want| Case {
        name,
        flags: 0,
        kind: 0,
        value,
        family: 0,
        want,
        shape: Shape::Body,
    };
    let good = encode(&base(sender, 0));
    let other: &[u8] = &[ON, 14, 11, 0, 25, 70, 4, 1, 1, 1, 1, 0, 2, 3];
    let other_twice = [other, other].concat();
    let unreach: &[u8] = &[ON, 15, 3, 0, 25, 70];
    let prefix_of_129 = [&[0, 2, 1, 129], &[0xfd; 17][..]].concat();
    vec![
        // Section 3 (g).
        appended("ORIGIN twice", &[WK, 1, 1, 2], Accept),
        appended("ORIGIN twice, the second malformed", &[WK, 1, 1, 9], Accept),
        appended("MULTI_EXIT_DISC twice", &[ON, 4, 4, 0, 0, 0, 1, ON, 4, 4, 0, 0, 0, 2], Accept),
        appended("COMMUNITIES twice, the second empty", &[OT, 8, 4, 0, 1, 0, 2, OT, 8, 0], Accept),
        appended("unknown twice", &[OT, 99, 1, 1, OT, 99, 1, 2], Accept),
        appended("MP_REACH_NLRI twice", &other_twice, Reset(1)),
        appended("MP_UNREACH_NLRI twice", &[unreach, unreach].concat(), Reset(1)),
        appended("MP_REACH_NLRI of another family", other, Accept),
        appended("extended length", &[OT | 0x10, 8, 0, 4, 0, 1, 0, 2], Accept),
        appended("unused flags", &[OT | 0x0f, 8, 4, 0, 1, 0, 2], Accept),
        // Section 4.
        appended("attribute overrun", &[ON, 4, 4, 0], Withdraw),
        appended("attribute overrun by far", &[OT | 0x10, 99, 0xff, 0xff, 0], Withdraw),
        appended("one stray octet", &[WK], Withdraw),
        appended("two stray octets", &[WK, 6], Withdraw),
        appended("three stray octets", &[OT | 0x10, 99, 0], Withdraw),
        // The strongest wins (section 3 (h)).
        appended("discard and withdraw", &[WK, 6, 1, 0, ON, 4, 1, 0], Withdraw),
        appended("withdraw and reset", &[ON, 4, 1, 0, WK, 99, 0], Reset(2)),
        // Section 5.2.
        alone("nothing announced, MULTI_EXIT_DISC of 1", ON, 4, &[0], Reset(1)),
        alone("nothing announced, COMMUNITIES empty", OT, 8, &[], Reset(1)),
        // Section 5.3, where nothing else can be meant.
        alone("MP_UNREACH_NLRI prefix of 129", ON, 15, &prefix_of_129, Disable),
        alone("MP_UNREACH_NLRI prefix overrun", ON, 15, &[0, 2, 1, 64, 0xfd], Disable),
        // And RFC 4271 section 6.3.
        body("prefix of 33", script::update(&[], &good, &[33, 10, 7, 7, 0, 0]), Reset(10)),
        body("prefix overrun", script::update(&[], &good, &[24, 10, 7]), Reset(10)),
        body("withdrawn prefix of 33", script::update(&[33, 10, 7, 7, 0, 0], &[], &[]), Reset(10)),
        body("withdrawn prefix overrun", script::update(&[24, 10], &[], &[]), Reset(10)),
        body("withdrawn routes overrun", vec![0, 9, 0, 0], Reset(1)),
        body("attributes overrun", vec![0, 0, 0, 9, WK], Reset(1)),
        body("withdrawn", script::update(SUBJECT[0], &[], &[]), Withdraw),
    ]
}
