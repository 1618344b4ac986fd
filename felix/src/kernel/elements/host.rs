//! The elements of host endpoints. Marks are in the machine's byte order, except in the map of
//! ranges, as those of other endpoints are.

use ipnet::IpNet;

use super::{
    ALL_PORTS, Bytes, Encoded, End, Raw, by_family, ip, octets, pair, prefix_length, with_ports,
};
use crate::kernel::layout::host::{FAILSAFE, VERDICTS, maps};
use crate::model::host::{HostHook, InterfaceName, TableId, View};
use crate::model::{Class, Direction, Key, Traffic};

/// The names of the sets of host endpoints.
pub(super) fn set_names() -> impl Iterator<Item = &'static str> {
    let hooks = HostHook::ALL.into_iter().flat_map(|hook| <[_; 2]>::from(maps(hook)));
    let failsafe = FAILSAFE.into_iter().flatten();
    std::iter::once("hep").chain(hooks).chain(VERDICTS).chain(failsafe)
}

/// The set of a key of host endpoints; None for other keys.
pub(super) fn set_of(key: &Key) -> Option<&'static str> {
    Some(match key {
        Key::HostInterface(_) => "hep",
        Key::HostTable { hook, interface, .. } | Key::HostView { hook, interface, .. } => {
            let (named, all) = maps(*hook);
            if interface.is_some() { named } else { all }
        }
        Key::HostPolicy { traffic, .. } => match traffic {
            Traffic::Port(..) => VERDICTS[0],
            Traffic::Ports(..) | Traffic::Pairs(..) => VERDICTS[1],
            Traffic::Protocol(_) => VERDICTS[2],
            Traffic::Any => VERDICTS[3],
        },
        Key::Failsafe(direction, _, _, net) => {
            let [v4, v6] = FAILSAFE[usize::from(*direction == Direction::Egress)];
            by_family(&net.network(), v4, v6)
        }
        _ => return None,
    })
}

/// The element of a key of host endpoints; None for other keys.
pub(super) fn encode(key: &Key) -> Option<Encoded> {
    let set = set_of(key)?;
    let single = |key: Bytes| Encoded { set, key, end: End::None };
    Some(match *key {
        Key::HostInterface(name) => single(Bytes::from_slice(name.bytes())),
        Key::HostTable { interface, view, class: Class(class), .. } => {
            single(at_interface(interface, view.mark() | class))
        }
        Key::HostView { interface, class: Class(class), .. } => {
            single(at_interface(interface, View::MASK | class))
        }
        Key::HostPolicy { table, traffic } => {
            let number = table.number();
            let mark = Bytes::from_slice(&number.to_ne_bytes());
            let ordered = Bytes::from_slice(&number.to_be_bytes());
            match traffic {
                Traffic::Port(protocol, port) => single(with_ports(&mark, protocol, &[port])),
                Traffic::Ports(protocol, first, last) => {
                    pair(set, &ordered, protocol, (first, last), ALL_PORTS)
                }
                Traffic::Pairs(protocol, ports, sources) => {
                    pair(set, &ordered, protocol, ports, sources)
                }
                Traffic::Protocol(protocol) => single(with_ports(&mark, protocol, &[])),
                Traffic::Any => single(mark),
            }
        }
        Key::Failsafe(_, protocol, port, net) => {
            let edge = |address| {
                let mut bytes = with_ports(&Bytes::new(), protocol, &[port]);
                bytes.extend_from_slice(&octets(address));
                bytes
            };
            let end = End::Inclusive(edge(net.broadcast()));
            Encoded { set, key: edge(net.network()), end }
        }
        _ => return None,
    })
}

fn at_interface(interface: Option<InterfaceName>, mark: u32) -> Bytes {
    let mut bytes = Bytes::new();
    if let Some(name) = interface {
        bytes.extend_from_slice(name.bytes());
    }
    bytes.extend_from_slice(&mark.to_ne_bytes());
    bytes
}

/// Whether the packets that an element of [`Key::HostPolicy`] judges leave the host.
pub(super) fn is_egress(set: &str, key: &[u8]) -> bool {
    let Some(bytes) = key.first_chunk::<4>().filter(|_| VERDICTS.contains(&set)) else {
        return false;
    };
    let number =
        if set == VERDICTS[1] { u32::from_be_bytes(*bytes) } else { u32::from_ne_bytes(*bytes) };
    TableId::from_number(number).direction() == Direction::Egress
}

/// The key that an element of such a set stands for.
pub(super) fn decode(set: &str, element: &Raw) -> Option<Key> {
    let key = decode_key(set, element)?;
    // Whatever does not come out as it went in has parts that this agent does not write.
    let encoded = encode(&key)?;
    let same_end = match &encoded.end {
        End::Inclusive(end) => element.key_end.as_deref() == Some(end),
        _ => true,
    };
    (encoded.key.as_slice() == element.key.as_slice() && same_end).then_some(key)
}

fn decode_key(set: &str, element: &Raw) -> Option<Key> {
    let bytes = element.key.as_slice();
    let name = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0)?;
        InterfaceName::new(std::str::from_utf8(&bytes[..end]).ok()?).ok()
    };
    let word = |at: usize| bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk().copied());
    let port = |word: [u8; 4]| u16::from_be_bytes([word[0], word[1]]);
    if set == "hep" {
        return Some(Key::HostInterface(name(bytes)?));
    }
    for hook in HostHook::ALL {
        let (named, all) = maps(hook);
        let (interface, mark) = if set == named {
            (Some(name(bytes.get(..16)?)?), word(16)?)
        } else if set == all {
            (None, word(0)?)
        } else {
            continue;
        };
        let mark = u32::from_ne_bytes(mark);
        let class = Class(mark & Class::MASK);
        if mark & View::MASK == View::MASK {
            return Some(Key::HostView { hook, interface, class });
        }
        let view = View::of_mark(mark)?;
        return Some(Key::HostTable { hook, interface, view, class });
    }
    if let Some(kind) = VERDICTS.iter().position(|name| *name == set) {
        let number = word(0)?;
        let number =
            if kind == 1 { u32::from_be_bytes(number) } else { u32::from_ne_bytes(number) };
        let table = TableId::from_number(number);
        let protocol = || Some(word(4)?[0]);
        let traffic = match kind {
            0 => Traffic::Port(protocol()?, port(word(8)?)),
            1 => {
                let [.., last, source_end] = element.key_end.as_deref()?.as_chunks::<4>().0 else {
                    return None;
                };
                let ports = (port(word(8)?), port(*last));
                match (port(word(12)?), port(*source_end)) {
                    ALL_PORTS => Traffic::Ports(protocol()?, ports.0, ports.1),
                    sources => Traffic::Pairs(protocol()?, ports, sources),
                }
            }
            2 => Traffic::Protocol(protocol()?),
            _ => Traffic::Any,
        };
        return Some(Key::HostPolicy { table, traffic });
    }
    let (direction, _) = [Direction::Ingress, Direction::Egress]
        .into_iter()
        .zip(FAILSAFE)
        .find(|(_, sets)| sets.contains(&set))?;
    let (first, last) = (ip(bytes.get(8..)?)?, ip(element.key_end.as_deref()?.get(8..)?)?);
    let net = IpNet::new(first, prefix_length(first, last)?).ok()?;
    Some(Key::Failsafe(direction, word(0)?[0], port(word(4)?), net))
}
