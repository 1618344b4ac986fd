//! What reads octets of others, each as one plain function for fuzzers: whatever it is given, it must
//! return. `bgpd/fuzz` wraps them for cargo-fuzz, the mutation tests run them on stable.

use crate::wire::{
    AttributeBlock, Confederation, Context, Family, Info, MAX_EXTENDED_LEN, Notification, Open,
    Prefix, Prefixes, Reach, Unreach, frame, parse_update,
};

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

/// The body of an UPDATE, after two octets that say what was negotiated with its sender.
pub fn update(octets: &[u8]) {
    let Some(([how, place], body)) = octets.split_first_chunk::<2>() else { return };
    let context = Context {
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
    };
    let mut block = AttributeBlock::default();
    match parse_update(body, &context, &mut block) {
        // RFC 7606 leaves a session reset for these only.
        Err(error) => {
            assert!(error.code == 3 && matches!(error.subcode, 1 | 2 | 9 | 10), "{error}");
        }
        Ok(update) => {
            let mut count = read(update.withdrawn);
            match update.unreach {
                Some(Unreach::V4(p)) => count += read(p),
                Some(Unreach::V6(p)) => count += read(p),
                None => {}
            }
            let announced = update.announced.map(|(hop, p)| Reach::V4(hop, p));
            for reach in [announced, update.reach].into_iter().flatten() {
                match reach {
                    Reach::V4(_, p) => count += read(p),
                    Reach::V6(_, p) => count += read(p),
                }
            }
            assert!(count <= body.len(), "a prefix takes at least an octet");
            // Two-octet AS numbers double, attributes are never repeated.
            assert!(block.bytes.len() <= 4 * body.len() + 64);
            let _info = Info::of(&block.bytes);
        }
    }
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
    assert_eq!(crate::bfd::Packet::parse(&packet.encode()), Ok(packet));
}

/// An MRT file.
pub fn mrt(octets: &[u8]) {
    let mut rest = octets;
    while let Ok(Some((record, len))) = crate::mrt::record(rest) {
        assert!(len <= rest.len());
        let mut out = Vec::new();
        record.encode(&mut out);
        // What was not cut to fit reads back as it was.
        if let Ok(Some((again, _))) = crate::mrt::record(&out) {
            assert_eq!(again.timestamp, record.timestamp);
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
