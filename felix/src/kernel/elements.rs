//! Keys and values as elements of the sets in `layout.rs`, and back.
//!
//! Interface indexes and marks are in the machine's byte order, except in the maps of port ranges,
//! whose keys the kernel orders: there they are in network byte order, as `nft` has it.

mod host;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink::nft::{Counter, Data, Element, Transaction, Verdict as NftVerdict};
use smallvec::SmallVec;

use super::Count;
use super::layout::deny::DENY;
use super::layout::host::{ACCEPTED, VERDICTS};
use super::layout::log_chain;
use crate::model::host::{TableId, View};
use crate::model::{Class, Decider, Direction, Key, Traffic, Value, Verdict};

/// The longest key: an IPv6 address and an interface index, or five words.
type Bytes = SmallVec<[u8; 24]>;

/// Source ports of a range of destination ports that is the same from wherever it is reached.
const ALL_PORTS: (u16, u16) = (0, u16::MAX);

/// A key as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) set: &'static str,
    key: Bytes,
    end: End,
}

/// How the end of a range is written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// A single key.
    None,
    /// In the same element, inclusive.
    Inclusive(Bytes),
    /// In an element of its own: the first key that is not in the range; none if the range goes to
    /// the last address there is.
    After(Option<Bytes>),
}

/// An element as it was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Raw {
    pub(super) key: Vec<u8>,
    pub(super) key_end: Option<Vec<u8>>,
    /// Ends sort before the starts at the same key.
    pub(super) starts: bool,
    pub(super) data: RawData,
    /// Where packets that find it are counted: how many there were, and their bytes.
    pub(super) count: Option<Count>,
    /// What is said of it.
    pub(super) comment: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RawData {
    None,
    Value(Vec<u8>),
    Verdict(Verdict),
    Logged(Direction, Verdict),
    Other,
}

impl Raw {
    pub(super) fn new(element: Element<'_>) -> Self {
        Self {
            key: element.key.to_vec(),
            key_end: element.key_end.map(<[u8]>::to_vec),
            starts: !element.interval_end,
            data: match element.data {
                None => RawData::None,
                Some(Data::Value(value)) => RawData::Value(value.to_vec()),
                Some(Data::Verdict(NftVerdict::Return)) => RawData::Verdict(Verdict::Allow),
                // The second is as agents wrote it once, and says the same.
                Some(Data::Verdict(NftVerdict::Continue | NftVerdict::Goto(DENY))) => {
                    RawData::Verdict(Verdict::Deny)
                }
                Some(Data::Verdict(NftVerdict::Goto(ACCEPTED))) => {
                    RawData::Verdict(Verdict::Accept)
                }
                Some(Data::Verdict(NftVerdict::Goto(chain))) => logged(chain),
                Some(Data::Verdict(_)) => RawData::Other,
            },
            count: element
                .counter
                .map(|counter| Count { packets: counter.packets, bytes: counter.bytes }),
            comment: element.comment.map(Box::from),
        }
    }

    /// Deletes it from the set.
    pub(super) fn delete(&self, tx: &mut Transaction, set: &str, tag: u32) {
        let element = Element {
            key_end: self.key_end.as_deref(),
            interval_end: !self.starts,
            ..Element::key(&self.key)
        };
        tx.delete_element(set, &element, tag);
    }
}

fn logged(chain: &str) -> RawData {
    for direction in [Direction::Egress, Direction::Ingress] {
        for verdict in [Verdict::Allow, Verdict::Deny, Verdict::Accept] {
            if chain == log_chain(direction, verdict) {
                return RawData::Logged(direction, verdict);
            }
        }
    }
    RawData::Other
}

/// The names of one direction's maps, in the order of lookup.
const EGRESS: [&str; 8] = [
    "egr",
    "egr_range",
    "egr_proto",
    "egr_any",
    "egr_dport",
    "egr_drange",
    "egr_dproto",
    "egr_dfl",
];
const INGRESS: [&str; 8] = [
    "ing",
    "ing_range",
    "ing_proto",
    "ing_any",
    "ing_dport",
    "ing_drange",
    "ing_dproto",
    "ing_dfl",
];
/// All other sets.
const OTHERS: [&str; 14] = [
    "wl", "src4", "src6", "cls4", "cls6", "cls4n", "cls6n", "masq4", "masq6", "pools4", "pools6",
    "dns", "names4", "names6",
];

/// The names of all sets that elements are written to.
pub(super) fn set_names() -> impl Iterator<Item = &'static str> {
    OTHERS.into_iter().chain(EGRESS).chain(INGRESS).chain(host::set_names())
}

fn by_family(address: &IpAddr, v4: &'static str, v6: &'static str) -> &'static str {
    if address.is_ipv4() { v4 } else { v6 }
}

/// The set that a key's element is in.
pub(super) fn set_of(key: &Key) -> &'static str {
    match key {
        Key::Workload(_) => "wl",
        Key::Source(address, _) => by_family(address, "src4", "src6"),
        Key::Class(address) => by_family(address, "cls4", "cls6"),
        Key::Asks(_) => "dns",
        Key::Learned(_, address) => by_family(address, "names4", "names6"),
        Key::ClassRange(first, _) => by_family(first, "cls4n", "cls6n"),
        Key::Masquerade(net) => by_family(&net.network(), "masq4", "masq6"),
        Key::Pool(net) => by_family(&net.network(), "pools4", "pools6"),
        Key::Policy { direction, class, traffic, .. } => {
            let names = match direction {
                Direction::Egress => &EGRESS,
                Direction::Ingress => &INGRESS,
            };
            let kind = match traffic {
                Traffic::Port(..) => 0,
                Traffic::Ports(..) | Traffic::Pairs(..) => 1,
                Traffic::Protocol(_) => 2,
                Traffic::Any => 3,
            };
            names[if class.is_some() { kind } else { kind + 4 }]
        }
        Key::HostInterface(_)
        | Key::HostTable { .. }
        | Key::HostView { .. }
        | Key::HostPolicy { .. }
        | Key::Failsafe(..) => host::set_of(key).unwrap_or_default(),
    }
}

/// A number for the set that a key's element is in: comparing names takes most of the time that sorting
/// elements by set takes.
pub(super) fn set_number(key: &Key) -> u64 {
    number(set_of(key))
}

fn number(set: &str) -> u64 {
    // No two names have the same, as a test knows.
    set.bytes().fold(0, |number: u64, byte| number.wrapping_mul(31).wrapping_add(byte.into()))
}

fn octets(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(v4) => Bytes::from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::from_slice(&v6.octets()),
    }
}

/// The address after this one; none after the last.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

/// The address before this one.
fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(v6) => v6.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn last_address(v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::BROADCAST.into() } else { Ipv6Addr::from_bits(u128::MAX).into() }
}

fn range(set: &'static str, first: IpAddr, last: IpAddr) -> Encoded {
    Encoded { set, key: octets(first), end: End::After(next(last).map(octets)) }
}

/// The kind, first and last address of a key that is a range of addresses. Ranges of a kind may
/// not overlap.
pub(super) fn span(key: &Key) -> Option<(u8, IpAddr, IpAddr)> {
    let (kind, first, last) = match key {
        Key::ClassRange(first, last) => (0, *first, *last),
        Key::Masquerade(net) => (1, net.network(), net.broadcast()),
        Key::Pool(net) => (2, net.network(), net.broadcast()),
        _ => return None,
    };
    Some((kind, first, last))
}

/// Why a key and its value cannot be an element.
pub(super) fn check(key: &Key, value: &Value) -> Result<(), &'static str> {
    match key {
        Key::ClassRange(first, last) if first.is_ipv4() != last.is_ipv4() || first > last => {
            return Err("not a range");
        }
        Key::Policy { traffic: Traffic::Ports(_, first, last), .. }
        | Key::HostPolicy { traffic: Traffic::Ports(_, first, last), .. }
            if first > last =>
        {
            return Err("not a range");
        }
        Key::Policy { traffic: Traffic::Pairs(_, ports, sources), .. }
        | Key::HostPolicy { traffic: Traffic::Pairs(_, ports, sources), .. } => {
            if ports.0 > ports.1 || sources.0 > sources.1 {
                return Err("not a range");
            }
            if *sources == ALL_PORTS {
                return Err("a range of destination ports only");
            }
        }
        _ => {}
    }
    let accepts = matches!(
        value,
        Value::Verdict(Verdict::Accept)
            | Value::Logged(Verdict::Accept)
            | Value::Counted { verdict: Verdict::Accept, .. }
    );
    if accepts && !matches!(key, Key::HostPolicy { .. }) {
        return Err("a verdict of host endpoints");
    }
    let fits = match key {
        Key::Class(_) | Key::ClassRange(..) | Key::Learned(..) => matches!(value, Value::Class(_)),
        Key::Policy { .. } | Key::HostPolicy { .. } => {
            matches!(value, Value::Verdict(_) | Value::Logged(_) | Value::Counted { .. })
        }
        Key::HostTable { .. } => matches!(value, Value::Table(_)),
        Key::HostView { .. } => matches!(value, Value::View(view) if *view != View::PLAIN),
        _ => matches!(value, Value::Member),
    };
    if fits { Ok(()) } else { Err("a value of another kind") }
}

/// A key goes on with a protocol and ports.
fn with_ports(bytes: &Bytes, protocol: u8, ports: &[u16]) -> Bytes {
    let mut bytes = bytes.clone();
    bytes.extend_from_slice(&[protocol, 0, 0, 0]);
    for port in ports {
        bytes.extend_from_slice(&port.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
    }
    bytes
}

/// Destination ports and source ports, in the maps of ranges.
fn pair(
    set: &'static str,
    bytes: &Bytes,
    protocol: u8,
    ports: (u16, u16),
    sources: (u16, u16),
) -> Encoded {
    let end = End::Inclusive(with_ports(bytes, protocol, &[ports.1, sources.1]));
    Encoded { set, key: with_ports(bytes, protocol, &[ports.0, sources.0]), end }
}

/// Whether the kernel goes to another chain where it finds an element with this value.
pub(super) fn leads_to_chain(value: &Value) -> bool {
    match value {
        Value::Member | Value::Class(_) | Value::Table(_) | Value::View(_) => false,
        Value::Logged(_) => true,
        Value::Verdict(verdict) => *verdict == Verdict::Accept,
        Value::Counted { verdict, log, .. } => *log || *verdict == Verdict::Accept,
    }
}

/// The element that a key is.
pub(super) fn encode(key: &Key) -> Encoded {
    let set = set_of(key);
    if let Some(encoded) = host::encode(key) {
        return encoded;
    }
    match *key {
        Key::Workload(index) | Key::Asks(index) => {
            Encoded { set, key: Bytes::from_slice(&index.to_ne_bytes()), end: End::None }
        }
        Key::Source(address, index) => {
            let mut bytes = octets(address);
            bytes.extend_from_slice(&index.to_ne_bytes());
            Encoded { set, key: bytes, end: End::None }
        }
        Key::Learned(index, address) => {
            let mut bytes = Bytes::from_slice(&index.to_ne_bytes());
            bytes.extend_from_slice(&octets(address));
            Encoded { set, key: bytes, end: End::None }
        }
        Key::Class(address) => Encoded { set, key: octets(address), end: End::None },
        Key::ClassRange(first, last) => range(set, first, last),
        Key::Masquerade(net) | Key::Pool(net) => range(set, net.network(), net.broadcast()),
        Key::Policy { index, class, traffic, .. } => {
            let network_order = matches!(traffic, Traffic::Ports(..) | Traffic::Pairs(..));
            let number = |n: u32| if network_order { n.to_be_bytes() } else { n.to_ne_bytes() };
            let mut bytes = Bytes::from_slice(&number(index));
            if let Some(Class(class)) = class {
                bytes.extend_from_slice(&number(class));
            }
            match traffic {
                Traffic::Port(protocol, port) => {
                    Encoded { set, key: with_ports(&bytes, protocol, &[port]), end: End::None }
                }
                Traffic::Ports(protocol, first, last) => {
                    pair(set, &bytes, protocol, (first, last), ALL_PORTS)
                }
                Traffic::Pairs(protocol, ports, sources) => {
                    pair(set, &bytes, protocol, ports, sources)
                }
                Traffic::Protocol(protocol) => {
                    bytes.extend_from_slice(&[protocol, 0, 0, 0]);
                    Encoded { set, key: bytes, end: End::None }
                }
                Traffic::Any => Encoded { set, key: bytes, end: End::None },
            }
        }
        // Encoded above.
        Key::HostInterface(_)
        | Key::HostTable { .. }
        | Key::HostView { .. }
        | Key::HostPolicy { .. }
        | Key::Failsafe(..) => Encoded { set, key: Bytes::new(), end: End::None },
    }
}

impl Encoded {
    /// Adds the element with this value and comment.
    pub(super) fn add(&self, tx: &mut Transaction, value: &Value, comment: Option<&str>, tag: u32) {
        let class;
        let (value, counter) = match *value {
            Value::Counted { verdict, log: true, .. } => {
                (Value::Logged(verdict), Some(Counter::default()))
            }
            Value::Counted { verdict, log: false, .. } => {
                (Value::Verdict(verdict), Some(Counter::default()))
            }
            other => (other, None),
        };
        let data = match &value {
            Value::Member => None,
            Value::Class(Class(number)) => {
                class = number.to_ne_bytes();
                Some(Data::Value(&class))
            }
            Value::Table(table) => {
                class = table.number().to_ne_bytes();
                Some(Data::Value(&class))
            }
            Value::View(view) => {
                class = view.mark().to_ne_bytes();
                Some(Data::Value(&class))
            }
            Value::Verdict(Verdict::Allow) => Some(Data::Verdict(NftVerdict::Return)),
            Value::Verdict(Verdict::Deny) => Some(Data::Verdict(NftVerdict::Continue)),
            Value::Verdict(Verdict::Accept) => Some(Data::Verdict(NftVerdict::Goto(ACCEPTED))),
            Value::Logged(verdict) => {
                let egress = EGRESS.contains(&self.set) || host::is_egress(self.set, &self.key);
                let direction = if egress { Direction::Egress } else { Direction::Ingress };
                let chain = log_chain(direction, *verdict);
                Some(Data::Verdict(NftVerdict::Goto(chain)))
            }
            // One of the others by now.
            Value::Counted { .. } => None,
        };
        self.write(data, |element| {
            let element = if element.interval_end {
                element
            } else {
                Element { counter, comment, ..element }
            };
            tx.add_element(self.set, &element, tag);
        });
    }

    /// Deletes the element.
    pub(super) fn delete(&self, tx: &mut Transaction, tag: u32) {
        self.write(None, |element| tx.delete_element(self.set, &element, tag));
    }

    /// The element to ask the kernel for.
    pub(super) fn asked(&self) -> Element<'_> {
        let key_end = match &self.end {
            End::Inclusive(end) => Some(end.as_slice()),
            End::None | End::After(_) => None,
        };
        Element { key_end, ..Element::key(&self.key) }
    }

    fn write(&self, data: Option<Data<'_>>, mut each: impl FnMut(Element<'_>)) {
        let first = Element { data, ..Element::key(&self.key) };
        match &self.end {
            End::None => each(first),
            End::Inclusive(end) => each(Element { key_end: Some(end), ..first }),
            End::After(after) => {
                each(first);
                if let Some(after) = after {
                    each(Element { interval_end: true, ..Element::key(after) });
                }
            }
        }
    }
}

/// The value of the element that a key is, as the kernel gave it; None if it is not that element.
pub(super) fn value_of(key: &Key, raw: &Raw) -> Option<Value> {
    let same = raw.starts && raw.key.as_slice() == encode(key).key.as_slice();
    decode_value(key, raw).filter(|_| same)
}

/// What the elements of a set stand for, and those that stand for nothing: what nobody but another
/// program can have written.
pub(super) fn decode(set: &str, mut elements: Vec<Raw>) -> (Vec<(Key, Value)>, Vec<Raw>) {
    let mut known = Vec::new();
    let mut foreign = Vec::new();
    let ranges = matches!(set, "cls4n" | "cls6n" | "masq4" | "masq6" | "pools4" | "pools6");
    if ranges {
        elements.sort();
    }
    let mut rest = elements.into_iter().peekable();
    while let Some(element) = rest.next() {
        let key = if ranges {
            let end = match rest.peek() {
                _ if !element.starts => {
                    foreign.push(element);
                    continue;
                }
                Some(next) if !next.starts => ip(&next.key).and_then(previous),
                // Without an end of its own a range goes to the last address, if it is the last.
                Some(_) => None,
                None => Some(last_address(element.key.len() == 4)),
            };
            decode_range(set, &element, end)
        } else {
            decode_key(set, &element)
        };
        let value = key.and_then(|key| Some((key, decode_value(&key, &element)?)));
        match value {
            Some(both) => {
                if ranges {
                    rest.next();
                }
                known.push(both);
            }
            None => foreign.push(element),
        }
    }
    (known, foreign)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// What packets that find the elements of a policy map were counted as.
pub(super) fn counts(set: &str, elements: &[Raw]) -> Vec<(Key, Count)> {
    let of = |raw: &Raw| Some((decode_key(set, raw)?, raw.count?));
    elements.iter().filter_map(of).collect()
}

/// What is said of elements.
pub(super) fn comments<'a>(
    set: &'a str,
    elements: &'a [Raw],
) -> impl Iterator<Item = (Key, &'a str)> {
    let of = |raw: &'a Raw| raw.comment.as_deref().map(|text| (raw, text));
    let said = elements.iter().filter_map(of);
    said.filter_map(move |(raw, text)| Some((decode_key(set, raw)?, text)))
}

/// The names of the maps whose elements may count.
pub(super) fn counted_sets() -> impl Iterator<Item = &'static str> {
    EGRESS.into_iter().chain(INGRESS).chain(VERDICTS)
}

fn decode_value(key: &Key, raw: &Raw) -> Option<Value> {
    let value = match &raw.data {
        RawData::None => Value::Member,
        RawData::Value(bytes) => {
            let number = u32::from_ne_bytes(bytes.as_slice().try_into().ok()?);
            match key {
                Key::HostTable { .. } => Value::Table(TableId::from_number(number)),
                Key::HostView { .. } => {
                    Value::View(View::of_mark(number).filter(|view| view.mark() == number)?)
                }
                _ => Value::Class(Class(number)),
            }
        }
        RawData::Verdict(verdict) => Value::Verdict(*verdict),
        RawData::Logged(logged, verdict) => match key {
            Key::Policy { direction, .. } if direction == logged => Value::Logged(*verdict),
            Key::HostPolicy { table, .. } if table.direction() == *logged => {
                Value::Logged(*verdict)
            }
            _ => return None,
        },
        RawData::Other => return None,
    };
    let by = Decider::NOBODY;
    let value = match value {
        Value::Verdict(verdict) if raw.count.is_some() => {
            Value::Counted { verdict, log: false, by }
        }
        Value::Logged(verdict) if raw.count.is_some() => Value::Counted { verdict, log: true, by },
        other => other,
    };
    check(key, &value).is_ok().then_some(value)
}

fn decode_range(set: &str, element: &Raw, last: Option<IpAddr>) -> Option<Key> {
    let (first, last) = (ip(&element.key)?, last?);
    if set.starts_with("cls") {
        return Some(Key::ClassRange(first, last));
    }
    let net = IpNet::new(first, prefix_length(first, last)?).ok()?;
    Some(if set.starts_with("masq") { Key::Masquerade(net) } else { Key::Pool(net) })
}

/// The length of the prefix that is exactly this range.
fn prefix_length(first: IpAddr, last: IpAddr) -> Option<u8> {
    let (first, last, bits) = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            (u128::from(first.to_bits()), u128::from(last.to_bits()), 32)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits(), last.to_bits(), 128),
        _ => return None,
    };
    let hosts = first ^ last;
    let is_prefix = hosts & hosts.wrapping_add(1) == 0 && first & hosts == 0;
    is_prefix.then(|| bits - u8::try_from(hosts.count_ones()).unwrap_or(bits))
}

fn decode_key(set: &str, element: &Raw) -> Option<Key> {
    let bytes = element.key.as_slice();
    let word = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
    if let Some(split) = match set {
        "src4" => Some(4),
        "src6" => Some(16),
        _ => None,
    } {
        let (address, index) = bytes.split_at_checked(split)?;
        return Some(Key::Source(ip(address)?, word(index)?));
    }
    match set {
        "wl" => return word(bytes).map(Key::Workload),
        "dns" => return word(bytes).map(Key::Asks),
        "names4" | "names6" => {
            let (index, address) = bytes.split_at_checked(4)?;
            return Some(Key::Learned(word(index)?, ip(address)?));
        }
        "cls4" | "cls6" => return ip(bytes).map(Key::Class),
        _ => {}
    }
    if host::set_names().any(|name| name == set) {
        return host::decode(set, element);
    }
    let (direction, kind) = [(Direction::Egress, EGRESS), (Direction::Ingress, INGRESS)]
        .into_iter()
        .find_map(|(direction, names)| {
            names.iter().position(|name| *name == set).map(|kind| (direction, kind))
        })?;
    let (classed, traffic) = (kind < 4, kind % 4);
    let number = |bytes: [u8; 4]| {
        if traffic == 1 { u32::from_be_bytes(bytes) } else { u32::from_ne_bytes(bytes) }
    };
    let mut words = bytes.chunks_exact(4).map(|chunk| [chunk[0], chunk[1], chunk[2], chunk[3]]);
    let index = number(words.next()?);
    let class = if classed { Some(Class(number(words.next()?))) } else { None };
    let traffic = match traffic {
        0 | 1 => {
            let protocol = words.next()?[0];
            let port = |word: [u8; 4]| u16::from_be_bytes([word[0], word[1]]);
            let first = port(words.next()?);
            if traffic == 0 {
                Traffic::Port(protocol, first)
            } else {
                let source = port(words.next()?);
                let end = element.key_end.as_deref()?;
                let [.., last, end] = end.as_chunks::<4>().0 else { return None };
                match (source, port(*end)) {
                    ALL_PORTS => Traffic::Ports(protocol, first, port(*last)),
                    sources => Traffic::Pairs(protocol, (first, port(*last)), sources),
                }
            }
        }
        2 => Traffic::Protocol(words.next()?[0]),
        _ => Traffic::Any,
    };
    let key = Key::Policy { direction, index, class, traffic };
    // Whatever does not come out as it went in has parts that this agent does not write.
    let encoded = encode(&key);
    let same_end = match &encoded.end {
        End::Inclusive(end) => element.key_end.as_deref() == Some(end),
        _ => true,
    };
    (encoded.key.as_slice() == bytes && same_end).then_some(key)
}

/// Whether an element is one of host endpoints.
#[cfg(test)]
pub(super) fn is_of_hosts(key: &Key) -> bool {
    host::set_of(key).is_some()
}

/// How an element is named in errors and logs.
pub(super) fn describe(key: &Key) -> String {
    format!("element {key:?} of {}", set_of(key))
}

#[cfg(test)]
mod tests;
