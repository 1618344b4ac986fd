//! A ruleset with everything that the crate can write: what the kernel and `nft` make of it is what
//! they make of the same ruleset as text.

use netlink::Socket;
use netlink::nft::{
    self, BaseChain, Chain, CommitError, Counter, Data, DataType, Element, FULLY_RANDOM, Family,
    Field, Hook, Rule, Set, Transaction, Value, Verdict, ct_state,
};

use super::{TABLE, inside, nft as run_nft};

fn sets() -> Vec<Set> {
    use DataType::{
        Icmpv6Type, IfName, IfaceIndex, InetProto, InetService, Ipv4Addr, Ipv6Addr, Mark,
    };
    let mut commented = Set::new("wl", &[IfaceIndex]);
    commented.comment = Some("workloads".into());
    let mut sized = Set::new("src6", &[Ipv6Addr, IfaceIndex]);
    sized.size = Some(4096);
    let key = [IfaceIndex, Mark, InetProto, InetService];
    vec![
        commented,
        sized,
        Set::new("protos", &[InetProto]),
        Set::new("nd", &[Icmpv6Type]),
        Set::new("cls4", &[Ipv4Addr]).maps_to(Value::Data(Mark)),
        Set::new("cls4n", &[Ipv4Addr]).maps_to(Value::Data(Mark)).ranges(),
        Set::new("cls6n", &[Ipv6Addr]).maps_to(Value::Data(Mark)).ranges(),
        Set::new("masq4", &[Ipv4Addr]).ranges(),
        Set::new("egr", &key).maps_to(Value::Verdict),
        Set::new("egr_range", &key).maps_to(Value::Verdict).ranges(),
        Set::new("dfl", &[IfaceIndex]).maps_to(Value::Verdict),
        Set::new("names", &[IfName]),
        Set::new("by_name", &[IfName, Mark]).maps_to(Value::Data(Mark)),
        Set::new("open", &[InetProto, InetService, Ipv4Addr]).ranges(),
    ]
}

fn chains() -> Vec<Chain> {
    let plain = |name: &str, rules| Chain { name: name.into(), base: None, rules };
    let base = |name: &str, kind: &str, hook, priority, rules| Chain {
        name: name.into(),
        base: Some(BaseChain { kind: kind.into(), hook, priority, accept: true }),
        rules,
    };
    let key = [Field::Iif, Field::Mark, Field::L4Proto, Field::DestinationPort];
    let by_source = [Field::Iif, Field::Mark, Field::L4Proto, Field::SourcePort];
    vec![
        plain(
            "deny",
            vec![
                Rule::new().set_ct_mark(0),
                Rule::new().limit_per_second(10, 100).log("denied", 3234).counter(),
                Rule::new().counter().verdict(Verdict::Drop).comment("denied by policy"),
            ],
        ),
        base(
            "raw_pre",
            "filter",
            Hook::Prerouting,
            -300,
            vec![
                Rule::new().iifname_starts("cali").verdict(Verdict::Goto("from")),
                Rule::new().oifname_starts("cali").verdict(Verdict::Accept),
                Rule::new().mark_is(1).set_mark(0).notrack(),
            ],
        ),
        plain(
            "from",
            vec![
                Rule::new().is_not_in(&[Field::Iif], "wl").counter().verdict(Verdict::Drop),
                Rule::new().equals(Field::Icmp6Type, &[134]).counter().verdict(Verdict::Drop),
                Rule::new().is_in(&[Field::Ip6Source, Field::Iif], "src6").verdict(Verdict::Accept),
                Rule::new()
                    .equals_masked(
                        Field::Ip6Source,
                        &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                        &[0xff, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                    )
                    .is_in(&[Field::Icmp6Type], "nd")
                    .verdict(Verdict::Accept),
                Rule::new().nfproto(false).verdict(Verdict::Return),
                Rule::new().is_in(&[Field::IifName], "names").verdict(Verdict::Return),
                Rule::new()
                    .set_mark_from_all(&[Field::OifName, Field::Mark], "by_name")
                    .verdict(Verdict::Accept),
                Rule::new()
                    .is_in_ranges(
                        &[Field::L4Proto, Field::DestinationPort, Field::Ip4Source],
                        "open",
                    )
                    .verdict(Verdict::Accept),
                Rule::new().tcp_without_syn().verdict(Verdict::Return),
                Rule::new().ct_mark_is_set().verdict(Verdict::Return),
                Rule::new().equals(Field::Iif, &1u32.to_ne_bytes()).verdict(Verdict::Return),
                Rule::new()
                    .is_in(&[Field::Oif], "wl")
                    .ct_reply()
                    .l4proto(17)
                    .ct_original_destination_port(53)
                    .verdict(Verdict::Return),
            ],
        ),
        base(
            "forward",
            "filter",
            Hook::Forward,
            0,
            vec![
                Rule::new().ct_mark_has(0x0010_0000).verdict(Verdict::Jump("deny")),
                Rule::new()
                    .ct_state(ct_state::ESTABLISHED | ct_state::RELATED)
                    .verdict(Verdict::Accept),
                Rule::new().mark_is_set().save_mark(),
                Rule::new().is_in(&[Field::Oif], "wl").verdict(Verdict::Jump("egress")),
                Rule::new().restore_mark(),
                Rule::new().ct_state(ct_state::UNTRACKED).set_ct_mark_bits(0x0020_0000),
                Rule::new().clear_ct_mark_bits(0x0020_0000),
            ],
        ),
        plain(
            "egress",
            vec![
                Rule::new().set_mark(0),
                Rule::new().set_mark_from(Field::Ip4Destination, "cls4n"),
                Rule::new().set_mark_from(Field::Ip4Source, "cls4"),
                Rule::new().set_mark_from(Field::Ip6Destination, "cls6n"),
                Rule::new().is_in(&[Field::L4Proto], "protos").vmap(&key, "egr"),
                Rule::new().is_in(&[Field::L4Proto], "protos").vmap_ranges(&key, "egr_range"),
                Rule::new().vmap(&by_source, "egr"),
                Rule::new().vmap_ranges(&by_source, "egr_range"),
                Rule::new().vmap(&[Field::Iif], "dfl"),
                Rule::new().vmap(&key, "egr").verdict(Verdict::Goto("deny")),
                Rule::new().verdict(Verdict::Goto("deny")),
            ],
        ),
        base(
            "nat_post",
            "nat",
            Hook::Postrouting,
            100,
            vec![Rule::new().is_in(&[Field::Ip4Source], "masq4").masquerade(FULLY_RANDOM)],
        ),
    ]
}

/// The same, as an operator would write it.
const TEXT: &str = r#"
table inet caracal {
    set wl { type iface_index; comment "workloads"; }
    set src6 { type ipv6_addr . iface_index; size 4096; }
    set protos { type inet_proto; }
    set nd { type icmpv6_type; }
    map cls4 { type ipv4_addr : mark; }
    map cls4n { type ipv4_addr : mark; flags interval; }
    map cls6n { type ipv6_addr : mark; flags interval; }
    set masq4 { type ipv4_addr; flags interval; }
    map egr { type iface_index . mark . inet_proto . inet_service : verdict; }
    map egr_range { type iface_index . mark . inet_proto . inet_service : verdict; flags interval; }
    map dfl { type iface_index : verdict; }
    set names { type ifname; }
    map by_name { type ifname . mark : mark; }
    set open { type inet_proto . inet_service . ipv4_addr; flags interval; }
    chain deny {
        ct mark set 0
        limit rate 10/second burst 100 packets log prefix "denied" group 3234 counter
        counter drop comment "denied by policy"
    }
    chain raw_pre { type filter hook prerouting priority raw; policy accept;
        iifname "cali*" goto from
        oifname "cali*" accept
        meta mark 1 meta mark set 0 notrack
    }
    chain from {
        iif != @wl counter drop
        icmpv6 type nd-router-advert counter drop
        ip6 saddr . iif @src6 accept
        ip6 saddr fe80::/10 icmpv6 type @nd accept
        meta nfproto ipv4 return
        iifname @names return
        meta mark set oifname . meta mark map @by_name accept
        meta l4proto . th dport . ip saddr @open accept
        tcp flags ! syn return
        ct mark != 0 return
        iif 1 return
        oif @wl ct direction reply meta l4proto udp ct original proto-dst 53 return
    }
    chain forward { type filter hook forward priority filter; policy accept;
        ct mark & 0x00100000 == 0x00100000 jump deny
        ct state established,related accept
        meta mark != 0 ct mark set meta mark
        oif @wl jump egress
        meta mark set ct mark
        ct state untracked ct mark set ct mark | 0x00200000
        ct mark set ct mark & 0xffdfffff
    }
    chain egress {
        meta mark set 0
        meta mark set ip daddr map @cls4n
        meta mark set ip saddr map @cls4
        meta mark set ip6 daddr map @cls6n
        meta l4proto @protos iif . meta mark . meta l4proto . th dport vmap @egr
        meta l4proto @protos iif . meta mark . meta l4proto . th dport vmap @egr_range
        iif . meta mark . meta l4proto . th sport vmap @egr
        iif . meta mark . meta l4proto . th sport vmap @egr_range
        iif vmap @dfl
        iif . meta mark . meta l4proto . th dport vmap @egr goto deny
        goto deny
    }
    chain nat_post { type nat hook postrouting priority srcnat; policy accept;
        ip saddr @masq4 masquerade fully-random
    }
}
add element inet caracal wl { 7, 70000 }
add element inet caracal src6 { fd00::1 . 7 }
add element inet caracal protos { tcp, udp, sctp }
add element inet caracal cls4 { 10.0.0.1 : 0x11 }
add element inet caracal cls4n { 10.0.0.0-10.0.0.9 : 0x1, 10.0.0.10-10.0.0.20 : 0x2, 255.255.255.0-255.255.255.255 : 0x3 }
add element inet caracal masq4 { 10.0.0.0/8 }
add element inet caracal egr { 7 . 0x11 . tcp . 80 : return }
add element inet caracal egr_range { 7 . 0x11 . tcp . 1000-2000 : goto deny }
add element inet caracal dfl { 7 : accept }
add element inet caracal names { eth0 }
add element inet caracal by_name { eth0 . 0x11 : 0x2 }
add element inet caracal open { tcp . 22 . 10.0.0.0/8 }
"#;

pub(super) fn write(socket: &mut Socket, flags: u32) -> Result<(), CommitError> {
    let mut tx = Transaction::new(Family::Inet, TABLE);
    tx.add_table(flags, None);
    for set in sets() {
        tx.add_set(&set);
    }
    for chain in chains() {
        tx.add_chain(&chain);
    }
    for chain in chains() {
        for rule in &chain.rules {
            tx.add_rule(&chain.name, rule);
        }
    }
    let one = 1u32.to_ne_bytes();
    let two = 2u32.to_ne_bytes();
    let three = 3u32.to_ne_bytes();
    let class = 0x11u32.to_ne_bytes();
    tx.add_element("wl", &Element::key(&7u32.to_ne_bytes()), 0);
    tx.add_element("wl", &Element::key(&70_000u32.to_ne_bytes()), 0);
    let mut source = "fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    source.extend(7u32.to_ne_bytes());
    tx.add_element("src6", &Element::key(&source), 0);
    for proto in [6u8, 17, 132] {
        tx.add_element("protos", &Element::key(&[proto]), 0);
    }
    let class_data = Some(Data::Value(&class));
    tx.add_element("cls4", &Element { data: class_data, ..Element::key(&[10, 0, 0, 1]) }, 0);
    type Range<'a> = ([u8; 4], Option<[u8; 4]>, &'a [u8; 4]);
    let ranges: [Range<'_>; 3] = [
        ([10, 0, 0, 0], Some([10, 0, 0, 10]), &one),
        ([10, 0, 0, 10], Some([10, 0, 0, 21]), &two),
        ([255, 255, 255, 0], None, &three),
    ];
    for (start, end, value) in &ranges {
        let data = Some(Data::Value(&value[..]));
        tx.add_element("cls4n", &Element { data, ..Element::key(start) }, 0);
        if let Some(end) = end {
            tx.add_element("cls4n", &Element { interval_end: true, ..Element::key(end) }, 0);
        }
    }
    tx.add_element("masq4", &Element::key(&[10, 0, 0, 0]), 0);
    tx.add_element("masq4", &Element { interval_end: true, ..Element::key(&[11, 0, 0, 0]) }, 0);
    let egr = |port: u16, big: bool| {
        let number = |n: u32| if big { n.to_be_bytes() } else { n.to_ne_bytes() };
        let mut key = number(7).to_vec();
        key.extend(number(0x11));
        key.extend([6, 0, 0, 0]);
        key.extend(port.to_be_bytes());
        key.extend([0, 0]);
        key
    };
    let verdict = |verdict| Some(Data::Verdict(verdict));
    let key = egr(80, false);
    tx.add_element("egr", &Element { data: verdict(Verdict::Return), ..Element::key(&key) }, 0);
    let (from, to) = (egr(1000, true), egr(2000, true));
    let data = verdict(Verdict::Goto("deny"));
    let range = Element { key_end: Some(&to), data, ..Element::key(&from) };
    tx.add_element("egr_range", &range, 0);
    let seven = 7u32.to_ne_bytes();
    tx.add_element("dfl", &Element { data: verdict(Verdict::Accept), ..Element::key(&seven) }, 0);
    let mut name = b"eth0".to_vec();
    name.resize(16, 0);
    tx.add_element("names", &Element::key(&name), 0);
    name.extend(class);
    let data = Some(Data::Value(&two));
    tx.add_element("by_name", &Element { data, ..Element::key(&name) }, 0);
    let open = |address: [u8; 4]| [vec![6, 0, 0, 0, 0, 22, 0, 0], address.to_vec()].concat();
    let (from, to) = (open([10, 0, 0, 0]), open([10, 255, 255, 255]));
    tx.add_element("open", &Element { key_end: Some(&to), ..Element::key(&from) }, 0);
    tx.commit(socket)
}

fn json(text: &str) -> Vec<serde_json::Value> {
    // The schema of crate nftables leaves out types that we use (iface_index); where it can read
    // the listing it is the check, and the raw JSON is compared in any case.
    let value: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut objects = value["nftables"].as_array().unwrap().clone();
    for object in &mut objects {
        strip_handles(object);
    }
    objects.retain(|object| object.get("metainfo").is_none());
    objects
}

fn strip_handles(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.remove("handle");
            map.values_mut().for_each(strip_handles);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(strip_handles),
        _ => {}
    }
}

#[test]
fn what_we_write_is_what_nft_writes() {
    let (their_text, their_json, theirs) = inside(|socket| {
        run_nft(&["-f", "-"], TEXT).unwrap();
        (
            run_nft(&["list", "ruleset"], "").unwrap(),
            run_nft(&["-j", "list", "ruleset"], "").unwrap(),
            nft::ruleset(socket, Family::Inet, TABLE).unwrap(),
        )
    });
    let (our_text, our_json, ours) = inside(|socket| {
        write(socket, 0).unwrap();
        (
            run_nft(&["list", "ruleset"], "").unwrap(),
            run_nft(&["-j", "list", "ruleset"], "").unwrap(),
            nft::ruleset(socket, Family::Inet, TABLE).unwrap(),
        )
    });
    assert_eq!(our_text, their_text);
    assert_eq!(json(&our_json), json(&their_json));
    assert_eq!(ours, theirs);
    assert_eq!(ours.sets, sets(), "what is read is what was written");
    assert_eq!(ours.chains, chains());
    assert!(ours.other_sets.is_empty());

    // The listing loads again, and then lists as before.
    let again = inside(|_| {
        run_nft(&["-f", "-"], &our_text).unwrap();
        run_nft(&["list", "ruleset"], "").unwrap()
    });
    assert_eq!(again, our_text);
}

/// Not every kernel has the expression, so that `nft` is asked what it would send, not what came of it.
#[test]
fn a_queue_is_what_nft_sends() {
    let theirs = inside(|_| {
        run_nft(&["-f", "-"], "table inet caracal {\n chain c {\n }\n}\n").unwrap();
        let rule =
            ["--debug=mnl", "add", "rule", "inet", TABLE, "c", "queue", "num", "3236", "bypass"];
        let output = std::process::Command::new("nft").args(rule).output().unwrap();
        [output.stdout, output.stderr].concat()
    });
    let theirs = String::from_utf8_lossy(&theirs).into_owned();
    // Words of the message: `| 71 75 65 75  |`, each attribute's header `|00010|--|00001|` in colours.
    let mut words: Vec<[u8; 4]> = Vec::new();
    for line in theirs.lines().filter_map(|line| line.trim().strip_prefix('|')) {
        let mut plain = String::new();
        for (number, part) in line.split('\u{1b}').enumerate() {
            plain += if number == 0 { part } else { part.split_once('m').unwrap_or_default().1 };
        }
        let fields: Vec<&str> = plain.split('|').map(str::trim).collect();
        if let [length, flags, kind, ..] = fields[..]
            && let (Ok(length), Ok(kind)) = (length.parse::<u16>(), kind.parse::<u16>())
        {
            let nested = if flags.starts_with('N') { 0x8000 } else { 0 };
            let [a, b] = length.to_ne_bytes();
            let [c, d] = (kind | nested).to_ne_bytes();
            words.push([a, b, c, d]);
        } else {
            let bytes = fields[0].split_whitespace().map(|byte| u8::from_str_radix(byte, 16));
            if let Ok(Ok(bytes)) = bytes.collect::<Result<Vec<u8>, _>>().map(<[u8; 4]>::try_from) {
                words.push(bytes);
            }
        }
    }
    let mut tx = Transaction::new(Family::Inet, TABLE);
    tx.add_rule("c", &Rule::new().queue(3236));
    let bytes = tx.finish().0.bytes().unwrap().to_vec();
    let expr = bytes.windows(5).position(|window| window == b"queue").unwrap();
    // The list's element begins before the name's header and its own.
    let expr: Vec<[u8; 4]> = bytes[expr - 8..][..44].as_chunks().0.to_vec();
    assert!(words.windows(expr.len()).any(|window| window == expr), "{expr:?} not in {theirs}");
}

/// `nft` itself adds such elements only to maps of which all count.
#[test]
fn nft_lists_elements_that_count() {
    inside(|socket| {
        write(socket, 0).unwrap();
        let mut key = 9u32.to_ne_bytes().to_vec();
        key.extend(0x11u32.to_ne_bytes());
        key.extend([6, 0, 0, 0, 1, 0xbb, 0, 0]);
        let element = Element {
            data: Some(Data::Verdict(Verdict::Goto("deny"))),
            counter: Some(Counter { packets: 5, bytes: 300 }),
            comment: Some("spec.egress[0]"),
            ..Element::key(&key)
        };
        let mut tx = Transaction::new(Family::Inet, TABLE);
        tx.add_element("egr", &element, 0);
        tx.commit(socket).unwrap();
        let listing = run_nft(&["list", "map", "inet", TABLE, "egr"], "").unwrap();
        let wanted = "9 . 0x00000011 . tcp . 443 counter packets 5 bytes 300 comment \"spec.egress[0]\" : goto deny";
        assert!(listing.contains(wanted), "{listing}");
        let read = |element: Element<'_>| {
            let counter = element.counter.map(|counter| (counter.packets, counter.bytes));
            Some((element.key.to_vec(), counter, element.comment.map(str::to_owned)))
        };
        let found = nft::elements(socket, Family::Inet, TABLE, "egr", read).unwrap();
        assert_eq!(found.len(), 2);
        assert!(
            found.contains(&(key.clone(), Some((5, 300)), element.comment.map(Into::into))),
            "{found:?}"
        );
        let mut tx = Transaction::new(Family::Inet, TABLE);
        tx.delete_element("egr", &Element::key(&key), 0);
        tx.commit(socket).unwrap();
    });
}
