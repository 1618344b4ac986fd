//! What reads octets of others, each as one plain function for fuzzers: whatever it is given, it must
//! return. `bgpd/fuzz` wraps them for libFuzzer, the mutation tests run them without.

#![allow(clippy::panic, reason = "that is how a fuzzer is told")]

mod resets;
mod seeds;
#[cfg(test)]
mod tests;

use crate::wire::{
    AttributeBlock, Confederation, Context, Family, FamilySet, Info, MAX_EXTENDED_LEN, NextHop,
    Notification, Open, Prefix, Prefixes, Reach, Unreach, UpdateEncoder, frame, parse_update,
};

/// A fuzzer.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What reads the octets. Panics where something is wrong with us.
    pub read: fn(&[u8]),
    /// Good inputs to start from, the same each time.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All fuzzers.
pub const TARGETS: [Target; 9] = [
    Target { name: "stream", read: stream, seeds: seeds::stream },
    Target { name: "open", read: open, seeds: seeds::open },
    Target { name: "update", read: update, seeds: seeds::update },
    Target { name: "notification", read: notification, seeds: seeds::notification },
    Target { name: "route_refresh", read: route_refresh, seeds: seeds::route_refresh },
    Target { name: "bfd", read: bfd, seeds: seeds::bfd },
    Target { name: "mrt", read: mrt, seeds: seeds::mrt },
    Target { name: "recording", read: recording, seeds: seeds::recording },
    Target { name: "yaml", read: yaml, seeds: seeds::yaml },
];

/// A stream of messages, as a connection brings it.
pub fn stream(octets: &[u8]) {
    let mut rest = octets;
    while let Ok(Some(message)) = frame(rest, MAX_EXTENDED_LEN) {
        assert!(message.len <= rest.len());
        rest = &rest[message.len..];
    }
}

/// The body of an OPEN. What can be read is written so that it reads the same.
pub fn open(body: &[u8]) {
    let Ok(open) = Open::parse(body) else { return };
    let mut out = Vec::new();
    open.encode(&mut out);
    if let Ok(Some(message)) = frame(&out, MAX_EXTENDED_LEN) {
        assert_eq!(Open::parse(message.body).as_ref(), Ok(&open));
    }
}

/// What two octets say was negotiated with the sender of an UPDATE.
pub(crate) fn context([how, place]: [u8; 2]) -> Context {
    Context {
        four_octet_as: how & 1 == 0,
        external: how & 2 == 0,
        families: Family::ALL.into_iter().filter(|f| how & (4 << f.index()) == 0).collect(),
        first_as: (how & 16 != 0).then_some(65001),
        confederation: match place % 3 {
            0 => Confederation::None,
            1 => Confederation::SameMember,
            _ => Confederation::OtherMember,
        },
        extended_next_hop: how & 32 != 0,
        add_path: Family::ALL.into_iter().filter(|f| how & (64 << f.index()) != 0).collect(),
    }
}

/// The body of an UPDATE, after two octets that say what was negotiated with its sender. It ends the
/// session where RFC 7606 says so, and nowhere else. What is taken in can be told to others so that
/// they take it in.
pub fn update(octets: &[u8]) {
    let Some((how, body)) = octets.split_first_chunk::<2>() else { return };
    let context = context(*how);
    let mut block = AttributeBlock::default();
    let due = resets::due(body, &context);
    match parse_update(body, &context, &mut block) {
        Err(error) => {
            assert!(error.code == 3 && due.contains(&error.subcode), "{error}: {due:?}");
        }
        Ok(update) => {
            assert!(due.is_empty(), "taken in where a reset is due: {due:?}");
            let mut count = read(update.withdrawn);
            match update.unreach {
                Some(Unreach::V4(p)) => count += read(p),
                Some(Unreach::V6(p)) => count += read(p),
                None => {}
            }
            let announced = update.announced.map(|(hop, p)| Reach::V4(hop, p));
            let good = !update.treat_as_withdraw();
            for reach in [announced, update.reach].into_iter().flatten() {
                count += match reach {
                    Reach::V4(_, p) => read(p),
                    Reach::V6(_, p) => read(p),
                };
                match reach {
                    Reach::V4(hop, p) if good => pass_on(&context, &block.bytes, hop, p),
                    Reach::V6(hop, p) if good => pass_on(&context, &block.bytes, hop, p),
                    _ => {}
                }
            }
            assert!(count <= body.len(), "a prefix takes at least an octet");
            // Two-octet AS numbers double, attributes are never repeated.
            assert!(block.bytes.len() <= 4 * body.len() + 64);
        }
    }
}

/// Announces routes as they were taken in, in the widest form there is: that reads the same.
fn pass_on<P: Prefix>(
    context: &Context,
    block: &[u8],
    next_hop: NextHop,
    prefixes: Prefixes<'_, P>,
) {
    let mut all = prefixes;
    let add_path = all.any(|nlri| nlri.path_id != 0);
    let encoder = UpdateEncoder {
        four_octet_as: true,
        extended_messages: true,
        extended_next_hop: true,
        add_path,
    };
    let families: FamilySet = Family::ALL.into_iter().collect();
    let context = Context {
        four_octet_as: true,
        families,
        add_path: if add_path { families } else { FamilySet::default() },
        extended_next_hop: true,
        ..*context
    };
    let mut messages = Vec::new();
    encoder.announce(block, &Info::of(block), next_hop, prefixes, &mut messages);
    let mut again = AttributeBlock::default();
    let (mut rest, mut count) = (&messages[..], 0);
    while let Ok(Some(message)) = frame(rest, MAX_EXTENDED_LEN) {
        match parse_update(message.body, &context, &mut again) {
            Ok(update) => {
                assert!(update.errors.is_empty(), "{:?}", update.errors);
                assert_eq!(again.bytes, block);
                let announced = update.announced.map(|(hop, p)| Reach::V4(hop, p));
                for reach in [announced, update.reach].into_iter().flatten() {
                    let (hop, n) = match reach {
                        Reach::V4(hop, p) => (hop, read(p)),
                        Reach::V6(hop, p) => (hop, read(p)),
                    };
                    assert_eq!(hop, next_hop);
                    count += n;
                }
            }
            Err(error) => panic!("what was taken in is refused: {error}"),
        }
        rest = &rest[message.len..];
    }
    assert!(rest.is_empty() && (messages.is_empty() || count == read(prefixes)));
}

/// Looks at every prefix; returns how many there are.
fn read<P: Prefix>(prefixes: Prefixes<'_, P>) -> usize {
    let nets: Vec<ipnet::IpNet> = prefixes.map(|nlri| nlri.prefix.to_net()).collect();
    nets.len()
}

/// The body of a NOTIFICATION.
pub fn notification(body: &[u8]) {
    let _text = Notification::parse(body).to_string();
}

/// The body of a ROUTE-REFRESH.
pub fn route_refresh(body: &[u8]) {
    let _parsed = crate::wire::RouteRefresh::parse(body, body.len().is_multiple_of(2));
}

/// A BFD control packet. What can be read is written so that it reads the same.
pub fn bfd(octets: &[u8]) {
    let Ok(packet) = crate::bfd::Packet::parse(octets) else { return };
    // There is no authentication to write.
    let packet = crate::bfd::Packet { authenticated: false, ..packet };
    assert_eq!(crate::bfd::Packet::parse(&packet.encode()), Ok(packet));
}

/// An MRT file. What can be read is written so that it reads the same.
pub fn mrt(octets: &[u8]) {
    let mut rest = octets;
    while let Ok(Some((record, len))) = crate::mrt::record(rest) {
        assert!(len <= rest.len());
        let mut out = Vec::new();
        record.encode(&mut out);
        match crate::mrt::record(&out) {
            Ok(Some((again, len))) => assert!(again == record && len == out.len()),
            // AS numbers take more room than they came in.
            Err(crate::mrt::MrtError::TooLong(_)) => {}
            other => panic!("{other:?}"),
        }
        rest = &rest[len..];
    }
}

/// A recording of a run, of which not more is replayed than a fuzzer has time for.
pub fn recording(octets: &[u8]) {
    let source = std::io::Cursor::new(octets.to_vec());
    if let Ok(mut replay) = crate::Replay::of(source) {
        // A difference, or the place where it is no recording any more.
        let _stop = replay.run(crate::Until::Event(20_000));
    }
}

/// A configuration.
pub fn yaml(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    if let Ok(config) = serde_saphyr::from_str::<crate::Config>(text) {
        let _valid = config.validate();
    }
}
