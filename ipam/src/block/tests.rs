use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn owner(handle: &str, attributes: &[(&str, &str)]) -> Attribute {
    let owner = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Attribute { handle_id: Some(handle.to_owned()), owner: Some(owner), ..Attribute::default() }
}

fn text(block: &Block) -> String {
    String::from_utf8(block.encode()).unwrap()
}

const NEW: &str = r#"{"cidr":"10.244.1.0/30","affinity":"host:node1","affinity_claim_time":"2026-08-22T13:33:20Z","allocations":[null,null,null,null],"unallocated":[0,1,2,3],"attributes":null,"sequenceNumber":1787405600000000000,"sequenceNumberForAllocation":{},"deleted":false}"#;

const USED: &str = r#"{"cidr":"10.244.1.0/30","affinity":"host:node1","affinity_claim_time":"2026-08-22T13:33:20Z","allocations":[0,1,null,null],"unallocated":[2,3],"attributes":[{"handle_id":"vxlan-tunnel-addr-node1","secondary":{"node":"node1","type":"vxlanTunnelAddress"}},{"handle_id":"k8s-pod-network.5c1e","secondary":{"namespace":"default","node":"node1","pod":"web-0","timestamp":"2026-08-22 13:33:21.1 +0000 UTC"}}],"sequenceNumber":1787405600000000002,"sequenceNumberForAllocation":{"0":1787405600000000000,"1":1787405600000000001},"deleted":false}"#;

fn new_block() -> Block {
    let affinity = Some("host:node1".to_owned());
    Block::new("10.244.1.0/30".parse().unwrap(), affinity, at("2026-08-22T13:33:20Z")).unwrap()
}

fn used_block() -> Block {
    let mut block = new_block();
    let tunnel = [("node", "node1"), ("type", "vxlanTunnelAddress")];
    block.allocate(&owner("vxlan-tunnel-addr-node1", &tunnel), &[]).unwrap();
    block.seal();
    let pod = [
        ("namespace", "default"),
        ("node", "node1"),
        ("pod", "web-0"),
        ("timestamp", "2026-08-22 13:33:21.1 +0000 UTC"),
    ];
    block.allocate(&owner("k8s-pod-network.5c1e", &pod), &[]).unwrap();
    block.seal();
    block
}

#[test]
fn writes_the_bytes_that_calico_writes() {
    assert_eq!(text(&new_block()), NEW);
    assert_eq!(text(&used_block()), USED);
}

#[test]
fn unknown_fields_survive_a_change() {
    // As a younger Calico might write it: in the block and in an attribute.
    let json = USED
        .replace(r#""deleted":false}"#, r#""deleted":false,"newThing":{"z":1,"a":["<",null]}}"#)
        .replace(r#""vxlanTunnelAddress"}}"#, r#""vxlanTunnelAddress"},"expires":12.5}"#);
    let mut block = Block::decode(json.as_bytes()).unwrap();
    assert_eq!(text(&block), json.replace('<', "\\u003c"));
    let young = block.allocate(&owner("h", &[]), &[]).unwrap();
    block.release_address(young, None, None, Release::Now).unwrap();
    block.seal();
    let written = text(&block);
    assert!(written.contains(r#""newThing":{"z":1,"#), "{written}");
    assert!(written.contains(r#""expires":12.5"#), "{written}");
}

#[test]
fn reads_what_it_wrote() {
    assert_eq!(Block::decode(NEW.as_bytes()).unwrap(), new_block());
    assert_eq!(Block::decode(USED.as_bytes()).unwrap(), used_block());
}

#[test]
fn a_released_address_rests_then_is_free() {
    let mut block = used_block();
    let released =
        block.release_handle("k8s-pod-network.5c1e", Release::Rest(at("2026-08-22T13:40:00.75Z")));
    block.seal();
    assert_eq!(released, [ip("10.244.1.1")]);
    assert_eq!(
        text(&block),
        r#"{"cidr":"10.244.1.0/30","affinity":"host:node1","affinity_claim_time":"2026-08-22T13:33:20Z","allocations":[0,1,null,null],"unallocated":[2,3],"attributes":[{"handle_id":"vxlan-tunnel-addr-node1","secondary":{"node":"node1","type":"vxlanTunnelAddress"}},{"releasedAt":"2026-08-22T13:40:00Z"}],"sequenceNumber":1787405600000000003,"sequenceNumberForAllocation":{"0":1787405600000000000,"1":1787405600000000002},"deleted":false}"#
    );
    assert_eq!(block.in_use(), 2, "a resting address counts as in use");
    let cooldown = Duration::from_secs(120);
    assert_eq!(block.expire(at("2026-08-22T13:41:59Z"), cooldown), 0);
    assert_eq!(block.expire(at("2026-08-22T13:42:00Z"), cooldown), 1);
    block.seal();
    assert_eq!(
        text(&block),
        r#"{"cidr":"10.244.1.0/30","affinity":"host:node1","affinity_claim_time":"2026-08-22T13:33:20Z","allocations":[0,null,null,null],"unallocated":[2,3,1],"attributes":[{"handle_id":"vxlan-tunnel-addr-node1","secondary":{"node":"node1","type":"vxlanTunnelAddress"}}],"sequenceNumber":1787405600000000004,"sequenceNumberForAllocation":{"0":1787405600000000000},"deleted":false}"#
    );
}

#[test]
fn tolerates_what_older_writers_left() {
    let block = Block::decode(
        br#"{"cidr":"10.0.0.0/31","hostAffinity":"old-node","strictAffinity":false,"allocations":[0,null],"unallocated":[1],"attributes":[{"handle_id":"h1\r\n","secondary":null}]}"#,
    )
    .unwrap();
    assert_eq!(block.affinity(), Some("host:old-node"));
    assert_eq!(block.node(), Some("old-node"));
    assert_eq!(block.addresses_of("h1").collect::<Vec<_>>(), [ip("10.0.0.0")]);
    assert!(matches!(block.state(ip("10.0.0.0")), Some(AddressState::Allocated(_, None))));
    let unaffine =
        br#"{"cidr":"fd00::/127","affinity":null,"allocations":[null,null],"unallocated":[1,0],"attributes":null,"deleted":false}"#;
    assert_eq!(Block::decode(unaffine).unwrap().affinity(), None);
}

#[test]
fn says_what_is_wrong_with_a_block() {
    for (json, reason) in [
        ("", "EOF while parsing"),
        (r#"{"cidr":"10.0.0.0/33"}"#, "invalid IP address syntax"),
        (
            r#"{"cidr":"10.0.0.1/31","allocations":[null,null],"unallocated":[0,1]}"#,
            "has host bits set",
        ),
        (r#"{"cidr":"10.0.0.0/8"}"#, "more than 16 host bits"),
        (r#"{"cidr":"10.0.0.0/31"}"#, "allocations has 0 entries, a block of 10.0.0.0/31 needs 2"),
        (
            r#"{"cidr":"10.0.0.0/31","allocations":[0,null],"unallocated":[1]}"#,
            "allocations[0] names an attribute that is not there",
        ),
        (
            r#"{"cidr":"10.0.0.0/31","allocations":[null,null],"unallocated":[1]}"#,
            "ordinal 0 is neither allocated nor unallocated",
        ),
        (
            r#"{"cidr":"10.0.0.0/31","allocations":[0,null],"unallocated":[0,1],"attributes":[{}]}"#,
            "ordinal 0 is both allocated and unallocated",
        ),
        (
            r#"{"cidr":"10.0.0.0/31","allocations":[null,null],"unallocated":[0,1,1]}"#,
            "ordinal 1 is unallocated 2 times",
        ),
        (
            r#"{"cidr":"10.0.0.0/31","allocations":[null,null],"unallocated":[0,1,2]}"#,
            "unallocated holds 2, outside the block",
        ),
        (
            r#"{"cidr":"10.0.0.0/31","allocations":[null,null],"unallocated":[0,1],"sequenceNumberForAllocation":{"x":1}}"#,
            "key \"x\", which is not an ordinal",
        ),
    ] {
        let error = Block::decode(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{json}: {error}");
    }
}

#[test]
fn go_escapes_html_in_strings() {
    let mut block = new_block();
    block.allocate(&owner("h", &[("note", "<a>&\u{2028}\"")]), &[]);
    assert!(text(&block).contains(r#""note":"\u003ca\u003e\u0026\u2028\"""#), "{}", text(&block));
    assert_eq!(Block::decode(&block.encode()).unwrap(), block);
}

#[test]
fn sequence_numbers_are_sorted_as_text() {
    let mut block =
        Block::new("10.0.0.0/28".parse().unwrap(), None, at("1970-01-01T00:00:00Z")).unwrap();
    for n in 0..11 {
        block.allocate(&owner(&format!("h{n}"), &[]), &[]);
    }
    assert!(text(&block).contains(r#"{"0":0,"1":0,"10":0,"2":0"#), "{}", text(&block));
}

#[test]
fn an_address_asked_for_by_name() {
    let mut block = used_block();
    let me = owner("me", &[]);
    assert_eq!(
        block.allocate_address(ip("10.244.1.1"), &me),
        Err(BlockError::Allocated {
            address: ip("10.244.1.1"),
            handle: Some("k8s-pod-network.5c1e".to_owned())
        })
    );
    assert!(matches!(
        block.allocate_address(ip("10.244.1.4"), &me),
        Err(BlockError::Outside { .. })
    ));
    block.allocate_address(ip("10.244.1.3"), &me).unwrap();
    block.release_handle("k8s-pod-network.5c1e", Release::Rest(at("2026-08-22T13:40:00Z")));
    block.allocate_address(ip("10.244.1.1"), &me).unwrap();
    assert_eq!(block.addresses_of("me").collect::<Vec<_>>(), [ip("10.244.1.1"), ip("10.244.1.3")]);
    block.validate().unwrap();
}

#[test]
fn a_guarded_release_refuses_the_wrong_one() {
    let mut block = used_block();
    let pod = ip("10.244.1.1");
    let bad = block.release_address(pod, Some("other"), None, Release::Now).unwrap_err();
    assert_eq!(bad.to_string(), "10.244.1.1 is held by k8s-pod-network.5c1e, not by other");
    let bad = block.release_address(pod, None, Some(7), Release::Now).unwrap_err();
    assert!(bad.to_string().contains("was allocated again"), "{bad}");
    let seen = Some(1_787_405_600_000_000_001);
    assert_eq!(
        block.release_address(pod, Some("k8s-pod-network.5c1e"), seen, Release::Now),
        Ok(true)
    );
    assert_eq!(
        block.release_address(pod, Some("k8s-pod-network.5c1e"), seen, Release::Now),
        Ok(false)
    );
    assert!(block.release_address(ip("10.0.0.1"), None, None, Release::Now).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u8),
    AllocateAddress(u8, u32),
    ReleaseHandle(u8, bool),
    ReleaseAddress(u32),
    Expire(u8),
    ExpireOldest,
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Allocate),
        1 => (0..6_u8, 0..10_u32).prop_map(|(h, o)| Step::AllocateAddress(h, o)),
        3 => (0..6_u8, any::<bool>()).prop_map(|(h, rest)| Step::ReleaseHandle(h, rest)),
        1 => (0..10_u32).prop_map(Step::ReleaseAddress),
        2 => (0..20_u8).prop_map(Step::Expire),
        1 => Just(Step::ExpireOldest),
        1 => (0..10_u8).prop_map(Step::Wait),
    ]
}

/// What the block should say, kept in the most obvious way.
#[derive(Default)]
struct Model {
    held: BTreeMap<u32, u8>,
    resting: BTreeMap<u32, Timestamp>,
}

proptest! {
    #[test]
    fn every_invariant_holds_after_every_step(steps in prop::collection::vec(step(), 0..80), v6 in any::<bool>()) {
        let cidr: IpNet = if v6 { "fd00:10:244::40/125" } else { "10.244.1.8/29" }.parse().unwrap();
        let reserved: IpNet = if v6 { "fd00:10:244::44/127" } else { "10.244.1.12/31" }.parse().unwrap();
        let reserved = [reserved];
        let mut now = at("2026-08-22T13:33:20Z");
        let mut block = Block::new(cidr, Some("host:n".to_owned()), now).unwrap();
        let mut model = Model::default();
        for step in steps {
            let before = block.clone();
            match step {
                Step::Allocate(h) => {
                    let head = block.free(&reserved).next();
                    let got = block.allocate(&owner(&h.to_string(), &[("node", "n")]), &reserved);
                    prop_assert_eq!(got, head, "the head of the free ones that are not reserved");
                    if let Some(address) = got {
                        let ordinal = block.ordinal(address).unwrap();
                        prop_assert!(model.held.insert(ordinal, h).is_none(), "given twice");
                        prop_assert!(!model.resting.contains_key(&ordinal), "given while it rested");
                        prop_assert_eq!(block.changed_under(ordinal), Some(before.sequence_number));
                    }
                }
                Step::AllocateAddress(h, ordinal) => {
                    let address = before.address(ordinal);
                    let got = block.allocate_address(address, &owner(&h.to_string(), &[("node", "n")]));
                    prop_assert_eq!(got.is_ok(), ordinal < 8 && !model.held.contains_key(&ordinal));
                    if got.is_ok() {
                        model.resting.remove(&ordinal);
                        model.held.insert(ordinal, h);
                    }
                }
                Step::ReleaseHandle(h, rest) => {
                    let how = if rest { Release::Rest(now) } else { Release::Now };
                    let released = block.release_handle(&h.to_string(), how);
                    let expected: Vec<u32> = model.held.iter().filter(|(_, held)| **held == h).map(|(o, _)| *o).collect();
                    prop_assert_eq!(released.len(), expected.len());
                    for ordinal in expected {
                        model.held.remove(&ordinal);
                        if rest { model.resting.insert(ordinal, now); }
                    }
                }
                Step::ReleaseAddress(ordinal) => {
                    let got = block.release_address(before.address(ordinal), None, None, Release::Rest(now));
                    prop_assert_eq!(got.ok(), (ordinal < 8).then(|| model.held.contains_key(&ordinal)));
                    if model.held.remove(&ordinal).is_some() { model.resting.insert(ordinal, now); }
                }
                Step::Expire(cooldown) => {
                    let cooldown = Duration::from_secs(u64::from(cooldown));
                    let due = model.resting.len();
                    model.resting.retain(|_, since| since.plus(cooldown) > now);
                    prop_assert_eq!(block.expire(now, cooldown), due - model.resting.len());
                }
                Step::ExpireOldest => {
                    let oldest = block.vacancy(&reserved).oldest_resting;
                    if let Some(address) = block.expire_oldest(&reserved) {
                        let since = model.resting.remove(&block.ordinal(address).unwrap());
                        prop_assert_eq!(since, oldest);
                    }
                }
                Step::Wait(seconds) => now = now.plus(Duration::from_secs(u64::from(seconds))),
            }
            block.seal();
            prop_assert_eq!(block.sequence_number, before.sequence_number + 1);
            prop_assert_eq!(block.validate(), Ok(()));
            prop_assert_eq!(&Block::decode(&block.encode()).unwrap(), &block);
            prop_assert_eq!(block.in_use(), model.held.len() + model.resting.len());
            prop_assert_eq!(block.is_empty(), block.in_use() == 0);
            for cooldown in [0, 1, 60].map(Duration::from_secs) {
                let has_free = block.vacancy(&reserved).has_free_by(now, cooldown);
                prop_assert_eq!(has_free, block.free_by(now, cooldown, &reserved) > 0);
            }
            // Attributes: each is used, none is there twice.
            for (index, attribute) in block.attributes.iter().enumerate() {
                prop_assert!(block.allocations.contains(&Some(u32::try_from(index).unwrap())));
                prop_assert!(!block.attributes[index + 1..].contains(attribute));
            }
            for ordinal in 0..8 {
                let held = model.held.get(&ordinal).map(ToString::to_string);
                prop_assert_eq!(block.attribute(ordinal).and_then(|a| a.handle_id.clone()), held);
                let used = model.held.contains_key(&ordinal) || model.resting.contains_key(&ordinal);
                prop_assert_eq!(block.changed_under(ordinal).is_some(), used);
            }
        }
    }

    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Block::decode(&bytes);
    }

    #[test]
    fn free_addresses_are_given_in_the_order_they_came_back(order in Just((0..8_u32).collect::<Vec<_>>()).prop_shuffle()) {
        let mut block = Block::new("10.0.0.0/29".parse().unwrap(), None, at("2026-08-22T13:33:20Z")).unwrap();
        for n in 0..8 { block.allocate(&owner(&n.to_string(), &[]), &[]); }
        for n in &order { block.release_handle(&n.to_string(), Release::Now); }
        let given: Vec<_> = (0..8).map(|_| block.allocate(&owner("again", &[]), &[]).unwrap()).collect();
        let expected: Vec<_> = order.iter().map(|n| block.address(*n)).collect();
        prop_assert_eq!(given, expected);
    }
}
