//! The table as others read it: `nft -j list`, parsed by crate `nftables`, has the elements, sets and chains
//! that were written, each as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use netlink::nft::{DataType, Set};
use nftables::expr::{Expression, NamedExpression, Verdict as Judged};
use nftables::schema::{NfListObject, NfObject, Nftables};
use serde_json::Value as Json;

use super::*;
use crate::kernel::layout::host::ACCEPTED;
use crate::kernel::layout::log_chain;
use crate::model::Direction;

/// An element: its set, key and last key, what it maps to, and what is said of it.
type Line = (String, Vec<u8>, Vec<u8>, String, Option<String>);

/// What `nft` says and the crate does not know is said as it knows it: three types, which only tell how keys
/// are shown; that no bit of a flag is set; and flags that are one.
fn as_the_crate_knows_it(json: &mut Json) {
    let rename = |name: &mut Json| {
        if matches!(name.as_str(), Some("iface_index" | "verdict" | "icmpv6_type")) {
            *name = "mark".into();
        }
    };
    for object in json["nftables"].as_array_mut().unwrap() {
        for kind in ["set", "map"] {
            for field in ["type", "map"] {
                match object.get_mut(kind).and_then(|of| of.get_mut(field)) {
                    Some(Json::Array(parts)) => parts.iter_mut().for_each(rename),
                    Some(one) => rename(one),
                    None => {}
                }
            }
        }
        let rule = object.get_mut("rule").and_then(|rule| rule["expr"].as_array_mut());
        for expression in rule.into_iter().flatten() {
            if let Some(op) = expression.pointer_mut("/match/op").filter(|op| **op == "!") {
                *op = "!=".into();
            }
            if let Some(flags) = expression.pointer_mut("/masquerade/flags") {
                *flags = Json::Array(vec![flags.take()]);
            }
        }
    }
}

fn listed() -> Vec<NfListObject<'static>> {
    let listed = Command::new("nft").args(["-j", "list", "table", "inet", TABLE]).output().unwrap();
    let mut json: Json = serde_json::from_slice(&listed.stdout).unwrap();
    as_the_crate_knows_it(&mut json);
    let all: Nftables<'static> = serde_json::from_value(json).unwrap();
    let objects = all.objects.iter().map(|object| match object {
        NfObject::ListObject(object) => object.clone(),
        NfObject::CmdObject(command) => panic!("a command: {command:?}"),
    });
    objects.collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The first and the last of a part of a key, as the kernel has them.
fn part(of: &Expression<'_>, kind: DataType, ordered: bool) -> (Vec<u8>, Vec<u8>) {
    let padded = |mut bytes: Vec<u8>, to: usize| {
        bytes.resize(to, 0);
        bytes
    };
    let one = |bytes: Vec<u8>| (bytes.clone(), bytes);
    match (kind, of) {
        (_, Expression::Range(range)) => {
            let [first, last] = &range.range;
            (part(first, kind, ordered).0, part(last, kind, ordered).1)
        }
        (_, Expression::Named(NamedExpression::Prefix(prefix))) => {
            let Expression::String(address) = &*prefix.addr else { panic!("{prefix:?}") };
            let net: ipnet::IpNet = format!("{address}/{}", prefix.len).parse().unwrap();
            let [first, last] = [net.network(), net.broadcast()].map(octets);
            (first, last)
        }
        (DataType::Ipv4Addr | DataType::Ipv6Addr, Expression::String(text)) => {
            one(octets(ip(text)))
        }
        (DataType::InetProto, Expression::String(name)) => {
            let number = match &**name {
                "icmp" => 1,
                "tcp" => 6,
                "udp" => 17,
                "ipv6-icmp" => 58,
                "sctp" => 132,
                other => panic!("protocol {other}"),
            };
            one(vec![number, 0, 0, 0])
        }
        (DataType::InetService, Expression::Number(port)) => {
            let port = u16::try_from(*port).unwrap();
            one(padded(port.to_be_bytes().to_vec(), 4))
        }
        (DataType::IfaceIndex, Expression::String(index)) => {
            part(&Expression::Number(index.parse().unwrap()), kind, ordered)
        }
        (DataType::IfaceIndex | DataType::Mark, Expression::Number(number)) => {
            one(if ordered { number.to_be_bytes() } else { number.to_ne_bytes() }.to_vec())
        }
        (DataType::IfName, Expression::String(name)) => one(padded(name.as_bytes().to_vec(), 16)),
        other => panic!("{other:?}"),
    }
}

fn value(of: &Expression<'_>) -> String {
    match of {
        Expression::Number(number) => number.to_string(),
        Expression::Verdict(Judged::Return) => "return".into(),
        Expression::Verdict(Judged::Continue) => "continue".into(),
        Expression::Verdict(Judged::Goto(chain)) => format!("goto {}", chain.target),
        other => panic!("{other:?}"),
    }
}

fn line(set: &Set, element: &Expression<'_>) -> Line {
    let (key, value) = match element {
        Expression::List(both) => {
            let [key, to] = &both[..] else { panic!("{both:?}") };
            (key, value(to))
        }
        key => (key, String::new()),
    };
    let (key, comment) = match key {
        Expression::Named(NamedExpression::Elem(elem)) => {
            (&*elem.val, elem.comment.as_ref().map(ToString::to_string))
        }
        key => (key, None),
    };
    let parts = match key {
        Expression::Named(NamedExpression::Concat(parts)) => &parts[..],
        one => std::slice::from_ref(one),
    };
    assert_eq!(parts.len(), set.key.len(), "{}: {key:?}", set.name);
    let ends = parts.iter().zip(&set.key).map(|(of, kind)| part(of, *kind, set.interval));
    let (first, last): (Vec<_>, Vec<_>) = ends.unzip();
    (set.name.clone(), first.concat(), last.concat(), value, comment)
}

/// What was written.
fn line_of(key: &Key, value: &Value, said: &BTreeMap<Key, String>) -> Line {
    let encoded = elements::encode(key);
    let asked = encoded.asked();
    let last = match elements::span(key) {
        Some((_, _, last)) => octets(last),
        None => asked.key_end.unwrap_or(asked.key).to_vec(),
    };
    let direction = match key {
        Key::Policy { direction, .. } => *direction,
        Key::HostPolicy { table, .. } => table.direction(),
        _ => Direction::Ingress,
    };
    let value = match *value {
        Value::Member => String::new(),
        Value::Class(class) => class.0.to_string(),
        Value::Table(table) => table.number().to_string(),
        Value::View(view) => view.mark().to_string(),
        Value::Verdict(Verdict::Allow) => "return".into(),
        Value::Verdict(Verdict::Deny) => "continue".into(),
        Value::Verdict(Verdict::Accept) => format!("goto {ACCEPTED}"),
        Value::Logged(verdict) => format!("goto {}", log_chain(direction, verdict)),
        Value::Counted { .. } => panic!("nothing is counted"),
    };
    (encoded.set.to_owned(), asked.key.to_vec(), last, value, said.get(key).cloned())
}

#[test]
fn as_crate_nftables_reads_it() {
    let (objects, layout) = inside(|| {
        let mut writer = start(true);
        let mut delta = delta(everything());
        delta.comments = vec![(Key::Workload(7), "shop/api".into())];
        writer.change(&delta);
        writer.flush().unwrap();
        (listed(), writer.chains(writer.hosts.hosts(), true))
    });
    let said: BTreeMap<Key, String> = [(Key::Workload(7), "shop/api".to_owned())].into();
    let written = wanted(&everything());
    let lines: BTreeSet<Line> =
        written.iter().map(|(key, value)| line_of(key, value, &said)).collect();
    assert_eq!(lines.len(), written.len());

    let (mut found, mut sets_found) = (BTreeSet::new(), BTreeSet::new());
    let sets = layout::sets();
    let mut elements_of = |name: &str, all: Option<&[Expression<'_>]>| {
        let Some(set) = sets.iter().find(|set| set.name == name) else {
            assert!(layout::fixed_sets().iter().any(|(set, _)| set.name == name), "{name}");
            return;
        };
        sets_found.insert(set.name.clone());
        for element in all.unwrap_or_default() {
            assert!(found.insert(line(set, element)), "twice: {element:?}");
        }
    };
    let (mut chains, mut rules) = (BTreeMap::new(), BTreeMap::<String, usize>::new());
    for object in &objects {
        match object {
            NfListObject::Set(set) => elements_of(&set.name, set.elem.as_deref()),
            NfListObject::Map(map) => elements_of(&map.name, map.elem.as_deref()),
            NfListObject::Chain(chain) => {
                let base = chain.prio.map(|priority| (format!("{:?}", chain.hook), priority));
                chains.insert(chain.name.to_string(), base);
            }
            NfListObject::Rule(rule) => *rules.entry(rule.chain.to_string()).or_default() += 1,
            _ => {}
        }
    }
    assert_eq!(found, lines);
    let names: BTreeSet<String> = sets.iter().map(|set| set.name.clone()).collect();
    assert_eq!(sets_found, names);
    for chain in &layout {
        let base =
            chain.base.as_ref().map(|base| (format!("Some({:?})", base.hook), base.priority));
        assert_eq!(chains.remove(&chain.name), Some(base), "{}", chain.name);
        let of = rules.remove(&chain.name).unwrap_or_default();
        assert_eq!(of, chain.rules.len(), "rules of {}", chain.name);
    }
    assert_eq!((chains.len(), rules.len()), (0, 0), "{chains:?}");
}
