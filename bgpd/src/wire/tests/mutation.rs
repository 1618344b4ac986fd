//! 200,000 mutated messages, or as many as `BGPD_MUTATIONS` says: no panic, no more memory for each
//! than [`assert_bounded`] knows, and a session reset where RFC 7606 wants it, nowhere else.

use std::collections::BTreeSet;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::allocations::assert_bounded;
use super::encoder_max;
use super::strategies::{announcement, open_strategy};
use crate::fuzz;
use crate::wire::{
    AttributeBlock, AttributeError, Disposition, Frame, HEADER_LEN, MAX_LEN, MessageType,
    UpdateEncoder, frame, parse_update,
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

/// Runs everything that touches a message's octets; `how` says what was negotiated.
fn consume(kind: MessageType, body: &[u8], how: [u8; 2]) {
    match kind {
        MessageType::Open => fuzz::open(body),
        MessageType::Notification => fuzz::notification(body),
        MessageType::RouteRefresh => fuzz::route_refresh(body),
        MessageType::Keepalive => {}
        MessageType::Update => fuzz::update(&[&how, body].concat()),
    }
}

/// How many messages: as many as the environment says, for the long run.
fn messages() -> usize {
    let given = std::env::var("BGPD_MUTATIONS").ok();
    given.map_or(MESSAGES, |n| n.parse().expect("BGPD_MUTATIONS is a number"))
}

#[test]
fn mutated_messages_do_no_harm() {
    let seeds = seeds();
    assert!(seeds.len() > 100);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut kinds = [0_usize; 5];
    let mut ends = BTreeSet::new();
    let messages = messages();
    for at in 0..messages {
        let (kind, body) = &seeds[random.below(seeds.len())];
        let mut body = body.clone();
        mutate(&mut body, &mut random);
        // Both families, but for one message in eight: what is not negotiated is not looked at.
        let how = random.octet() & if random.below(8) == 0 { 0xff } else { 0b1111_0011 };
        let how = [how, random.octet()];
        assert_bounded(*kind, &body, how);
        consume(*kind, &body, how);
        if at < 20_000 && *kind == MessageType::Update {
            ends.extend(ended(&body, how));
        }
        kinds[*kind as usize] += 1;
    }
    assert!(kinds[MessageType::Update as usize] > messages / 4, "{kinds:?}");
    assert_eq!(ends.into_iter().collect::<String>(), "1 10 2 9 disable discard good withdraw ");
}

/// What became of an UPDATE: the treatments in it, or the subcode that ended the session.
fn ended(body: &[u8], how: [u8; 2]) -> BTreeSet<String> {
    let mut block = AttributeBlock::default();
    let words = match parse_update(body, &fuzz::context(how), &mut block) {
        Err(error) => vec![error.subcode.to_string()],
        Ok(update) if update.errors.is_empty() => vec!["good".to_owned()],
        Ok(update) => {
            let word = |error: &AttributeError| match error.disposition {
                Disposition::DiscardAttribute => "discard".to_owned(),
                Disposition::TreatAsWithdraw => "withdraw".to_owned(),
                Disposition::DisableFamily(_) => "disable".to_owned(),
            };
            update.errors.iter().map(word).collect()
        }
    };
    words.into_iter().map(|word| word + " ").collect()
}

#[test]
fn mutated_bfd_packets_do_no_harm() {
    let mut good = vec![0x20, 0xc0, 3, 24, 0, 0, 0, 1, 0, 0, 0, 2];
    good.extend([50_000_u32, 50_000, 0].iter().flat_map(|n| n.to_be_bytes()));
    assert!(crate::bfd::Packet::parse(&good).is_ok());
    let mut random = Random(3);
    for _ in 0..messages() / 4 {
        let mut octets = good.clone();
        mutate(&mut octets, &mut random);
        fuzz::bfd(&octets);
    }
}

#[test]
fn mutated_configurations_are_refused_or_taken() {
    let good = "router-id: 192.0.2.1\nasn: 65001\nlisten: [\"127.0.0.1:179\"]\npeers:\n- name: a\n  \
                address: 192.0.2.2\n  asn: 65002\n  families: [ipv4-unicast]\n  import:\n    \
                default: accept\n    rules: []\nnetworks:\n- prefix: 10.0.0.0/8\n  \
                communities: [\"65001:1\"]\nmrt: {updates: /tmp/x}\n";
    let config: crate::Config = serde_saphyr::from_str(good).unwrap();
    config.validate().unwrap();
    let mut random = Random(7);
    for _ in 0..messages() / 200 {
        let mut text = good.as_bytes().to_vec();
        mutate(&mut text, &mut random);
        fuzz::yaml(&text);
    }
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
