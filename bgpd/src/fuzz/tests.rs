//! What fuzzers start from is good, and what they found stays mended.

use std::collections::BTreeSet;

use super::*;
use crate::wire::Disposition;

#[test]
fn every_seed_is_read() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(seeds.len() > 2, "{}", target.name);
        let distinct: BTreeSet<&Vec<u8>> = seeds.iter().collect();
        assert_eq!(distinct.len(), seeds.len(), "{}: one is there twice", target.name);
        for seed in &seeds {
            (target.read)(seed);
        }
    }
}

#[test]
fn every_seed_is_good() {
    for seed in seeds::open() {
        Open::parse(&seed).unwrap();
    }
    let (mut kept, mut errors) = (BTreeSet::new(), 0);
    for seed in seeds::update() {
        let (how, body) = seed.split_first_chunk::<2>().unwrap();
        let mut block = AttributeBlock::default();
        let update = parse_update(body, &context(*how), &mut block).unwrap();
        // Some say more than the sender may; none loses its routes by it.
        assert!(update.errors.iter().all(|e| e.disposition == Disposition::DiscardAttribute));
        errors += usize::from(!update.errors.is_empty());
        kept.extend(crate::wire::attributes::iter(&block.bytes).map(|a| a.kind));
    }
    assert!(errors < seeds::update().len() / 4);
    assert!(kept.len() >= 14, "{kept:?}");
    for seed in seeds::bfd() {
        crate::bfd::Packet::parse(&seed).unwrap();
    }
    for seed in seeds::mrt() {
        let mut rest = &seed[..];
        while !rest.is_empty() {
            let (_, len) = crate::mrt::record(rest).unwrap().unwrap();
            rest = &rest[len..];
        }
    }
    for seed in seeds::yaml() {
        let config: crate::Config =
            serde_saphyr::from_str(std::str::from_utf8(&seed).unwrap()).unwrap();
        config.validate().unwrap();
    }
    for seed in seeds::recording() {
        let mut replay = crate::Replay::of(std::io::Cursor::new(seed)).unwrap();
        let stop = replay.run(crate::Until::End).unwrap();
        assert_eq!(stop, crate::speaker::Stop::Marked(crate::Ending::Finished));
    }
    for seed in seeds::stream() {
        let mut rest = &seed[..];
        while let Some(message) = frame(rest, MAX_EXTENDED_LEN).unwrap() {
            rest = &rest[message.len..];
        }
        assert!(rest.is_empty());
    }
}

#[test]
fn an_authenticated_bfd_packet_is_read() {
    let mut octets = seeds::bfd().remove(0);
    octets[1] |= 4;
    octets[3] = 26;
    octets.extend([1, 2]);
    assert!(crate::bfd::Packet::parse(&octets).unwrap().authenticated);
    bfd(&octets);
}

/// An UPDATE of AS 65001 with more attributes.
fn an_update(more: &[u8], nlri: &[u8]) -> Vec<u8> {
    let good = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 192, 0, 2, 1];
    let len = u16::try_from(good.len() + more.len()).unwrap().to_be_bytes();
    [&[0, 0], &len[..], &good, more, nlri].concat()
}

#[test]
fn a_reset_is_due_where_the_rfc_says_so() {
    const NONE: [u8; 0] = [];
    let context = context([0, 0]);
    let due = |more: &[u8], nlri: &[u8]| resets::due(&an_update(more, nlri), &context);
    let nlri = [24, 10, 1, 2];
    // Where routes can be taken as withdrawn that is enough, and a reset must be where they cannot.
    for (malformed, hidden) in [
        (&[0x80, 4, 3, 0, 0, 1][..], true),
        (&[0x40, 4, 4, 0, 0, 0, 1], true),
        (&[0x80, 4, 9], true),
        (&[0xc0, 8, 0], true),
        (&[0xc0, 32, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], true),
        (&[0x80, 15, 4, 0, 2, 1, 129], true),
        (&[0x80, 14, 9, 0, 2, 1, 4, 1, 1, 1, 1, 0], true),
        // These are discarded, and the last is not even wrong.
        (&[0xc0, 7, 0], false),
        (&[0x40, 6, 1, 0], false),
        (&[0x40, 5, 1, 0], false),
        (&[0xc0, 17, 1, 0], false),
        (&[0x80, 15, 4, 0, 25, 70, 129], false),
    ] {
        assert_eq!(due(malformed, &nlri), NONE, "{malformed:?}");
        let wanted: &[u8] = if hidden { &[1] } else { &[] };
        assert_eq!(due(malformed, &[]), wanted, "{malformed:?}");
    }
    // A malformed AS_PATH, of which nothing is said where nothing is announced.
    for path in [&[2, 1, 0, 0, 0, 0][..], &[3, 1, 0, 0, 0, 7], &[2, 0], &[2, 1, 0, 7], &[2]] {
        let len = u8::try_from(path.len()).unwrap();
        let attribute = [&[0x40, 2, len], path].concat();
        let body = [&[0, 0, 0, len + 3], &attribute[..]].concat();
        assert_eq!(resets::due(&body, &context), [1], "{path:?}");
    }
    // A family that nobody agreed on is announced all the same; with no prefix it is not.
    let other = [0x80, 14, 10, 0, 25, 70, 4, 1, 1, 1, 1, 0, 2];
    let med = [0x80, 4, 3, 0, 0, 1];
    assert_eq!(due(&[&other[..], &med].concat(), &[]), NONE);
    let mut none = other[..12].to_vec();
    none[2] = 9;
    assert_eq!(due(&[&none[..], &med].concat(), &[]), [1]);

    assert_eq!(due(&[], &[33, 10, 1, 2, 3, 0]), [10]);
    assert_eq!(due(&[], &[24, 10]), [10]);
    assert_eq!(due(&[0x40, 99, 0], &nlri), [2]);
    assert_eq!(due(&[0xc0, 99, 0], &nlri), NONE);
    assert_eq!(due(&[0x80, 15, 2, 0, 2], &nlri), [9]);
    let unreach = [0x80, 15, 3, 0, 2, 1];
    assert_eq!(due(&unreach, &nlri), NONE);
    assert_eq!(due(&[unreach, unreach].concat(), &nlri), [1]);
    for body in [&[][..], &[0, 1], &[0, 0, 0], &[0, 0, 0, 9, 0x40]] {
        assert_eq!(resets::due(body, &context), [1], "{body:?}");
    }
    // A mere withdrawal hides nothing, be its flags wrong or its prefixes.
    for flags in [0x80, 0xc0] {
        assert_eq!(resets::due(&[0, 0, 0, 6, flags, 15, 3, 0, 2, 1], &context), NONE);
        assert_eq!(resets::due(&[0, 0, 0, 7, flags, 15, 4, 0, 2, 1, 129], &context), NONE);
    }
}
