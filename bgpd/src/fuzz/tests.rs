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
