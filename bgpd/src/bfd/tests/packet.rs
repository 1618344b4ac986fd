//! The codec: round trips, every check of RFC 5880 section 6.8.6 that needs no session, and
//! mutated packets.

use std::num::NonZeroU32;

use proptest::prelude::*;

use crate::bfd::{Diagnostic, LEN, Malformed, Packet, State};
use crate::transport::memory::Random;

fn packet() -> impl Strategy<Value = Packet> {
    let flags = any::<[bool; 4]>();
    let words = any::<[u32; 3]>();
    let numbers = (1..=u32::MAX, any::<u32>());
    (0..4_usize, 0..32_u8, flags, 1..=u8::MAX, numbers, words).prop_map(
        |(state, diagnostic, [poll, is_final, independent, demand], multiplier, ids, words)| {
            let state = State::ALL[state];
            let needed = matches!(state, State::Init | State::Up);
            Packet {
                state,
                diagnostic: Diagnostic::new(diagnostic),
                poll,
                is_final,
                control_plane_independent: independent,
                authenticated: false,
                demand,
                multiplier,
                my_discriminator: NonZeroU32::new(ids.0).unwrap(),
                your_discriminator: NonZeroU32::new(if needed { ids.1.max(1) } else { ids.1 }),
                desired_min_tx: words[0],
                required_min_rx: words[1],
                required_min_echo_rx: words[2],
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_encoded_is_parsed(packet in packet(), behind in prop::collection::vec(any::<u8>(), 0..9)) {
        let mut octets = packet.encode().to_vec();
        prop_assert_eq!(octets.len(), LEN);
        octets.extend(behind);
        prop_assert_eq!(Packet::parse(&octets), Ok(packet));
    }
}

/// The example of a session that comes up, octet by octet.
fn good() -> [u8; LEN] {
    [0x20, 0x80, 3, 24, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0x0f, 0x42, 0x40, 0, 4, 0x93, 0xe0, 0, 0, 0, 0]
}

#[test]
fn the_fields_are_where_the_rfc_has_them() {
    let packet = Packet::parse(&good()).unwrap();
    assert_eq!(packet.state, State::Init);
    assert_eq!((packet.multiplier, packet.my_discriminator.get()), (3, 7));
    assert_eq!(packet.your_discriminator.unwrap().get(), 9);
    assert_eq!((packet.desired_min_tx, packet.required_min_rx), (1_000_000, 300_000));
    assert_eq!(packet.encode(), good());
}

#[test]
fn each_check_discards() {
    // What, which octet, and what it becomes.
    let cases = [
        ("version 0", 0, 0x00, Malformed::Version),
        ("version 2", 0, 0x40, Malformed::Version),
        ("length below 24", 3, 23, Malformed::Length),
        ("length beyond the payload", 3, 25, Malformed::Length),
        ("authenticated, length below 26", 1, 0x84, Malformed::Length),
        ("multiplier", 2, 0, Malformed::Multiplier),
        ("multipoint", 1, 0x81, Malformed::Multipoint),
        ("my discriminator", 7, 0, Malformed::MyDiscriminator),
        ("your discriminator", 11, 0, Malformed::YourDiscriminator),
    ];
    for (what, at, octet, wanted) in cases {
        let mut octets = good();
        octets[at] = octet;
        assert_eq!(Packet::parse(&octets), Err(wanted), "{what}");
    }
    for len in 0..LEN {
        assert_eq!(Packet::parse(&good()[..len]), Err(Malformed::Length), "{len} octets");
    }
    // Without our number, but in a state that needs none.
    let mut down = good();
    (down[1], down[11]) = (0x40, 0);
    assert_eq!(Packet::parse(&down).unwrap().your_discriminator, None);
    // Authentication is recognised; what to do about it is the session's business.
    let mut signed = good().to_vec();
    signed.extend([1, 4, 1, b'x']);
    (signed[1], signed[3]) = (0x84, 28);
    assert!(Packet::parse(&signed).unwrap().authenticated);
}

#[test]
fn mutated_packets_are_parsed_or_discarded_and_mean_the_same_again() {
    let (mut random, mut parsed, mut discarded) = (Random::new(1), 0, 0);
    for _ in 0..200_000 {
        let mut octets = good().to_vec();
        for _ in 0..random.below(4) {
            let at = random.below(octets.len());
            octets[at] = random.next().to_be_bytes()[0];
        }
        if random.chance(10) {
            octets.truncate(random.below(octets.len() + 1));
        } else if random.chance(10) {
            octets.extend(random.next().to_be_bytes());
        }
        match Packet::parse(&octets) {
            Ok(packet) => {
                parsed += 1;
                let plain = Packet { authenticated: false, ..packet };
                assert_eq!(Packet::parse(&packet.encode()), Ok(plain));
            }
            Err(_) => discarded += 1,
        }
    }
    assert!(parsed > 10_000 && discarded > 10_000, "{parsed} parsed, {discarded} discarded");
}
