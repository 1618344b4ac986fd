use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// A message made by hand.
struct Message(Vec<u8>);

impl Message {
    fn answer(asked: &str, kind: u16, records: u16) -> Self {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1];
        bytes.extend(records.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(wire(asked));
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        Self(bytes)
    }

    fn record(mut self, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.0.extend(owner);
        self.0.extend(kind.to_be_bytes());
        self.0.extend([0, 1]);
        self.0.extend(ttl.to_be_bytes());
        self.0.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        self.0.extend(data);
        self
    }
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels
        .flat_map(|label| {
            [u8::try_from(label.len()).unwrap()]
                .into_iter()
                .chain(label.bytes())
                .collect::<Vec<_>>()
        })
        .collect();
    bytes.push(0);
    bytes
}

/// Where the question's name is.
const ASKED: [u8; 2] = [0xc0, 12];

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

#[test]
fn addresses_of_both_families_are_read_with_their_time() {
    let six = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
    let message = Message::answer("WWW.Example.org", A, 4)
        .record(&ASKED, A, 60, &[192, 0, 2, 1])
        .record(&wire("www.EXAMPLE.org"), A, 30, &[192, 0, 2, 2])
        .record(&ASKED, 46, 9, &[1, 2, 3])
        .record(&ASKED, AAAA, 1 << 31, &six.octets());
    let addresses = vec![(v4(1), 60), (v4(2), 30), (six.into(), 0)];
    let wanted = Answer { name: "www.example.org".into(), addresses };
    assert_eq!(read(&message.0), Some(wanted));
}

#[test]
fn aliases_are_followed_in_any_order_and_the_shortest_time_counts() {
    let (cdn, edge) = (wire("a.cdn.test"), wire("Edge-7.test"));
    let message = Message::answer("www.example.org", A, 5)
        .record(&wire("edge-7.test"), A, 300, &[192, 0, 2, 1])
        .record(&cdn, CNAME, 20, &edge)
        .record(&ASKED, CNAME, 100, &cdn)
        .record(&edge, A, 10, &[192, 0, 2, 2])
        .record(&wire("other.test"), A, 10, &[192, 0, 2, 3]);
    let answer = read(&message.0).unwrap();
    assert_eq!(answer.name, "www.example.org", "policy is about what the pod asked for");
    assert_eq!(answer.addresses, [(v4(1), 20), (v4(2), 10)], "nobody asked for the other's");
    let circle = Message::answer("www.example.org", A, 3)
        .record(&ASKED, CNAME, 100, &cdn)
        .record(&cdn, CNAME, 100, &ASKED)
        .record(&cdn, A, 5, &[192, 0, 2, 1]);
    assert_eq!(read(&circle.0).unwrap().addresses, [(v4(1), 5)]);
}

#[test]
fn what_is_no_answer_with_addresses_is_none() {
    let good = || Message::answer("a.example", A, 1).record(&ASKED, A, 60, &[192, 0, 2, 1]);
    assert!(read(&good().0).is_some());
    for (byte, value) in [(2, 0x01), (2, 0x89), (3, 0x83), (5, 0), (5, 2), (7, 0)] {
        let mut message = good().0;
        message[byte] = value;
        assert_eq!(read(&message), None, "byte {byte} is {value}");
    }
    // Not the Internet's class, in the question or in the record.
    let record = good().0.len() - 16;
    for at in [12 + 11 + 3, record + 5] {
        let mut message = good().0;
        assert_eq!(message[at..at + 1], [1], "the class's second byte");
        message[at] = 3;
        assert_eq!(read(&message), None);
    }
    // Another name than that which was asked for.
    let other = Message::answer("a.example", A, 1).record(&wire("b.example"), A, 60, &[1; 4]);
    assert_eq!(read(&other.0), None);
    // A dot within a label does not make it another name.
    let mut dotted = Message::answer("xyz.example", A, 1).record(&ASKED, A, 60, &[1; 4]).0;
    dotted[14] = b'.';
    assert_eq!(read(&dotted), None);
}

#[test]
fn names_that_point_forward_or_at_themselves_are_refused() {
    for pointer in [[0xc0, 27], [0xc0, 28], [0xc0, 40], [0xff, 0xff]] {
        // The record's name is at 12 + 11 + 4.
        let message = Message::answer("a.example", A, 1).record(&pointer, A, 60, &[1; 4]);
        assert_eq!(read(&message.0), None, "{pointer:?}");
    }
    let long = [&[63][..], &[b'a'; 63]].concat().repeat(4);
    let mut message = Message::answer("a.example", A, 1);
    message.0.truncate(12);
    message.0.extend(&long);
    message.0.extend([0, 0, 1, 0, 1]);
    assert_eq!(read(&message.record(&ASKED, A, 60, &[1; 4]).0), None);
}

#[test]
fn what_was_cut_off_is_left_out() {
    let message = Message::answer("a.example", A, 2).record(&ASKED, A, 60, &[192, 0, 2, 1]).record(
        &ASKED,
        A,
        60,
        &[192, 0, 2, 2],
    );
    for cut in 1..16 {
        let answer = read(&message.0[..message.0.len() - cut]).unwrap();
        assert_eq!(answer.addresses, [(v4(1), 60)]);
    }
}

#[test]
fn a_stream_is_read_as_far_as_messages_are_whole() {
    let message = Message::answer("a.example", A, 1).record(&ASKED, A, 60, &[192, 0, 2, 1]).0;
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    let one = [&length[..], &message].concat();
    let two = one.repeat(2);
    assert_eq!(read_segment(&two).len(), 2);
    assert_eq!(read_segment(&two[..two.len() - 1]).len(), 1);
    assert_eq!(read_segment(&one[..1]), []);
    assert_eq!(read_segment(&one[2..]), [], "the rest of a longer one");
}

proptest! {
    /// Whatever it is given, it comes to an end without a panic, and what it says is within bounds.
    #[test]
    fn garbage_does_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        names in prop::collection::vec(prop::sample::select(&[0u8, 1, 3, 0xc0, 12, 13, 30, b'a', 255][..]), 0..120),
        count in 0u16..50,
    ) {
        read(&bytes);
        read_segment(&bytes);
        let mut message = Message::answer("a.example", A, count).0;
        message.extend(names);
        message.extend(bytes);
        if let Some(answer) = read(&message) {
            prop_assert_eq!(answer.name, "a.example");
            prop_assert!(answer.addresses.len() <= usize::from(count));
        }
    }

    /// Every byte of a good answer may be another.
    #[test]
    fn a_wrong_byte_does_no_harm(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
        let target = wire("b.test");
        let mut message = Message::answer("a.example", A, 3)
            .record(&ASKED, CNAME, 60, &target)
            .record(&target, A, 60, &[1; 4])
            .record(&target, AAAA, 60, &[1; 16])
            .0;
        let length = message.len();
        message[at % length] = byte;
        read(&message);
        read(&message[..cut.min(length)]);
    }
}
