//! 200,000 mutated messages: no panic, no allocation beyond the message, and no session reset
//! that RFC 7606 forbids.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::strategies::{announcement, open_strategy};
use super::{EXTERNAL, encoder_max};
use crate::wire::{
    AttributeBlock, Confederation, Context, FamilySet, Frame, HEADER_LEN, MAX_LEN, MessageType,
    Notification, Open, Reach, RouteRefresh, Unreach, UpdateEncoder, frame, parse_update,
};

const MESSAGES: usize = 200_000;

/// A generator that needs nothing but a seed (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n.max(1)
    }

    fn octet(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

/// Bodies of good messages to start from.
fn seeds() -> Vec<(MessageType, Vec<u8>)> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut all = Vec::new();
    for at in 0..60 {
        let encoder = UpdateEncoder {
            four_octet_as: at % 3 != 0,
            extended_messages: at % 7 == 0,
            extended_next_hop: true,
            add_path: at % 5 == 0,
        };
        let sample = announcement().new_tree(&mut runner).unwrap().current();
        let mut octets = sample.encode(encoder);
        octets.extend(sample.encode_withdraw(encoder));
        let mut open = Vec::new();
        open_strategy().new_tree(&mut runner).unwrap().current().encode(&mut open);
        for (octets, max) in [(octets, encoder_max(encoder)), (open, MAX_LEN)] {
            let mut rest = &octets[..];
            while let Some(message) = frame(rest, max).ok().flatten() {
                // Short ones have more structure for each octet that is changed.
                if message.body.len() < 1500 {
                    all.push((message.kind, message.body.to_vec()));
                }
                rest = &rest[message.len..];
            }
        }
    }
    all.push((MessageType::Notification, vec![6, 2, 3, b'b', b'y', b'e']));
    for subtype in 0..4 {
        all.push((MessageType::RouteRefresh, vec![0, 1, subtype, 1]));
    }
    all
}

fn mutate(body: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(body.len());
        match random.below(6) {
            0 if !body.is_empty() => body[at] = random.octet(),
            1 if !body.is_empty() => body[at] ^= 1 << random.below(8),
            2 if !body.is_empty() => body[at] = [0, 1, 4, 127, 128, 255][random.below(6)],
            3 => body.insert(at, random.octet()),
            4 if !body.is_empty() => {
                body.remove(at);
            }
            _ => body.truncate(at),
        }
    }
}

/// Runs everything that touches a message's octets.
fn consume(kind: MessageType, body: &[u8], context: &Context, block: &mut AttributeBlock) {
    match kind {
        MessageType::Open => {
            if let Ok(open) = Open::parse(body) {
                let _asn = open.asn();
                let mut out = Vec::new();
                open.encode(&mut out);
            }
        }
        MessageType::Notification => {
            let _text = Notification::parse(body).to_string();
        }
        MessageType::RouteRefresh => {
            for enhanced in [false, true] {
                match RouteRefresh::parse(body, enhanced) {
                    Err(error) => assert_eq!((error.code, error.subcode, enhanced), (7, 1, true)),
                    Ok(_family) => {}
                }
            }
        }
        MessageType::Keepalive => {}
        MessageType::Update => match parse_update(body, context, block) {
            Err(error) => {
                assert_eq!(error.code, 3);
                assert!(matches!(error.subcode, 1 | 2 | 9 | 10), "{error}");
            }
            Ok(update) => {
                let mut count = update.withdrawn.count();
                match update.unreach {
                    Some(Unreach::V4(p)) => count += p.count(),
                    Some(Unreach::V6(p)) => count += p.count(),
                    None => {}
                }
                let announced = update.announced.map(|(hop, p)| Reach::V4(hop, p));
                for reach in [announced, update.reach].into_iter().flatten() {
                    match reach {
                        Reach::V4(_, p) => count += p.count(),
                        Reach::V6(_, p) => count += p.count(),
                    }
                }
                assert!(count <= body.len(), "a prefix takes at least an octet");
                // Two-octet AS numbers double, attributes are never repeated.
                assert!(block.bytes.len() <= 4 * body.len() + 64);
                let info = crate::wire::Info::of(&block.bytes);
                if !update.treat_as_withdraw() && update.reach.is_some() {
                    assert!(info.origin <= 2);
                }
            }
        },
    }
}

#[test]
fn mutated_messages_do_no_harm() {
    let seeds = seeds();
    assert!(seeds.len() > 100);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut block = AttributeBlock::default();
    let mut kinds = [0_usize; 5];
    for _ in 0..MESSAGES {
        let (kind, body) = &seeds[random.below(seeds.len())];
        let mut body = body.clone();
        mutate(&mut body, &mut random);
        let context = Context {
            four_octet_as: random.below(2) == 0,
            external: random.below(2) == 0,
            confederation: [
                Confederation::None,
                Confederation::SameMember,
                Confederation::OtherMember,
            ][random.below(3)],
            extended_next_hop: random.below(2) == 0,
            add_path: FamilySet(u8::try_from(random.below(4)).unwrap()),
            ..EXTERNAL
        };
        consume(*kind, &body, &context, &mut block);
        kinds[*kind as usize] += 1;
    }
    assert!(kinds[MessageType::Update as usize] > MESSAGES / 4, "{kinds:?}");
}

#[test]
fn garbage_never_becomes_more_than_it_is() {
    let mut random = Random(42);
    for _ in 0..MESSAGES / 10 {
        let len = random.below(64);
        let mut octets: Vec<u8> = (0..len).map(|_| random.octet()).collect();
        // Past the marker the header counts.
        if random.below(2) == 0 {
            octets.splice(0..0, [0xff; 16]);
        }
        if let Ok(Some(Frame { len, body, .. })) = frame(&octets, MAX_LEN) {
            assert!(len <= octets.len() && body.len() + HEADER_LEN == len);
        }
    }
}
