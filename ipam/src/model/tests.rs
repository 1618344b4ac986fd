use super::*;
use proptest::prelude::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn keys_are_those_of_calico() {
    let (v4, v6) = (net("10.244.1.0/26"), net("fd00:10:244:0:1::/122"));
    assert_eq!(block_key(&v4), "/calico/ipam/v2/assignment/ipv4/block/10.244.1.0-26");
    assert_eq!(block_key(&v6), "/calico/ipam/v2/assignment/ipv6/block/fd00:10:244:0:1::-122");
    assert_eq!(affinity_key("n1", &v4), "/calico/ipam/v2/host/n1/ipv4/block/10.244.1.0-26");
    assert_eq!(affinity_key_of("host:n1", &v4), Some(affinity_key("n1", &v4)));
    assert_eq!(
        affinity_key_of("virtual:load-balancer", &v4).unwrap(),
        "/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.244.1.0-26"
    );
    assert_eq!(affinity_key_of("n1", &v4), None);
    assert_eq!(handle_key("k8s-pod-network.5c1e"), "/calico/ipam/v2/handle/k8s-pod-network.5c1e");
    for cidr in [v4, v6] {
        assert_eq!(parse_block_key(&block_key(&cidr)), Some(cidr));
        assert_eq!(parse_affinity_key(&affinity_key("a-b.c", &cidr)), Some(("a-b.c", cidr)));
    }
}

#[test]
fn other_keys_are_passed_over() {
    for key in [
        "/calico/ipam/v2/assignment/ipv6/block/10.244.1.0-26",
        "/calico/ipam/v2/assignment/ipv4/block/10.244.1.1-26",
        "/calico/ipam/v2/assignment/ipv4/block/10.244.1.0",
        "/calico/ipam/v2/assignment/ipv4/block/10.244.1.0-26/x",
        "/calico/ipam/v2/handle/x",
    ] {
        assert_eq!(parse_block_key(key), None, "{key}");
    }
    assert_eq!(parse_affinity_key("/calico/ipam/v2/host/n1"), None);
}

#[test]
fn small_values_are_those_of_calico() {
    let text = |json: Vec<u8>| String::from_utf8(json).unwrap();
    assert_eq!(text(encode(&Affinity::default())), r#"{"state":"confirmed","deleted":false}"#);
    let mut handle = Handle::default();
    handle.block.insert(net("10.244.1.0/26"), 1);
    assert_eq!(text(encode(&handle)), r#"{"block":{"10.244.1.0/26":1},"deleted":false}"#);
    let config = IpamConfig {
        strict_affinity: true,
        auto_allocate_blocks: true,
        max_blocks_per_host: 4,
        kube_virt_vm_address_persistence: Some("Enabled".to_owned()),
        ip_cooldown_seconds: Some(30),
    };
    let json = r#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4,"kubeVirtVMAddressPersistence":"Enabled","ipCooldownSeconds":30}"#;
    assert_eq!(text(encode(&config)), json);
    assert_eq!(decode::<IpamConfig>("k", json.as_bytes()).unwrap(), config);
    assert_eq!(text(encode(&IpamConfig::default())), r#"{"auto_allocate_blocks":true}"#);
}

#[test]
fn a_handles_unknown_fields_are_kept() {
    let json = r#"{"block":{"10.244.1.0/26":1},"deleted":false,"zone":{"b":1,"a":[null]}}"#;
    let handle: Handle = decode("k", json.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(encode(&handle)).unwrap(), json);
}

#[test]
fn small_values_are_read_tolerantly() {
    let confirmed = Affinity::default();
    for json in ["", "{}", r#"{"state":""}"#, r#"{"state":"confirmed","more":1}"#] {
        assert_eq!(decode::<Affinity>("k", json.as_bytes()).unwrap(), confirmed, "{json}");
    }
    assert_eq!(decode::<Handle>("k", br#"{"block":null}"#).unwrap(), Handle::default());
    let error = decode::<Handle>("/calico/ipam/v2/handle/h", b"{").unwrap_err().to_string();
    assert!(error.starts_with("/calico/ipam/v2/handle/h: EOF"), "{error}");
    assert!(!decode::<IpamConfig>("k", b"{}").unwrap().auto_allocate_blocks);
}

#[test]
fn a_block_under_another_blocks_key_is_corrupt() {
    let at = Timestamp::from_seconds(0);
    let json = Block::new(net("10.0.0.0/30"), None, at).unwrap().encode();
    let key = block_key(&net("10.0.0.4/30"));
    let error = decode_block(&key, &json).unwrap_err();
    assert_eq!(error.to_string(), format!("{key}: holds the block 10.0.0.0/30"));
}

#[test]
fn reads_the_resource() {
    let json = serde_json::json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration",
        "metadata": {"name": "default"},
        "spec": {"strictAffinity": true, "maxBlocksPerHost": 4, "ipCooldownSeconds": 30,
            "kubeVirtVMAddressPersistence": "Disabled"},
    });
    let resource: api::v3::IPAMConfiguration = serde_json::from_value(json).unwrap();
    let config = IpamConfig {
        strict_affinity: true,
        auto_allocate_blocks: true,
        max_blocks_per_host: 4,
        kube_virt_vm_address_persistence: Some("Disabled".to_owned()),
        ip_cooldown_seconds: Some(30),
    };
    assert_eq!(IpamConfig::from(&resource), config);
}

#[test]
fn a_configuration_that_contradicts_itself() {
    let default = IpamConfig::default();
    default.validate().unwrap();
    let off = IpamConfig { auto_allocate_blocks: false, ..default.clone() };
    assert!(off.validate().unwrap_err().starts_with("autoAllocateBlocks:"));
    let most = IpamConfig { max_blocks_per_host: 2, ..default.clone() };
    assert!(most.validate().unwrap_err().starts_with("maxBlocksPerHost:"));
    let long = IpamConfig { ip_cooldown_seconds: Some(1201), ..default };
    assert!(long.validate().unwrap_err().starts_with("ipCooldownSeconds:"));
}

fn block(address: std::net::IpAddr, host_bits: u8) -> IpNet {
    network(address, Family::of(address).bits() - host_bits)
}

/// True if the key is where [`overlapping_blocks`] says.
fn is_found(key: &str, cidr: &IpNet) -> bool {
    let (prefixes, keys) = overlapping_blocks(cidr);
    keys.iter().any(|k| k == key) || prefixes.iter().any(|prefix| key.starts_with(prefix))
}

#[test]
fn overlapping_blocks_are_looked_for_nearby() {
    let (prefixes, keys) = overlapping_blocks(&net("10.244.1.0/26"));
    assert_eq!(prefixes, ["/calico/ipam/v2/assignment/ipv4/block/10.244.1."]);
    assert_eq!(keys.len(), 8, "/16 to /23, which begin at 10.244.0.0: {keys:?}");
    let (prefixes, keys) = overlapping_blocks(&net("fd00:10:244::/122"));
    let blocks = "/calico/ipam/v2/assignment/ipv6/block/";
    let texts = ["fd00:10:244::", "fd00:10:244::-"];
    assert_eq!(prefixes, texts.map(|text| format!("{blocks}{text}")));
    assert!(keys.is_empty());
    assert!(!is_found(&block_key(&net("10.244.2.0/26")), &net("10.244.1.0/26")));
}

proptest! {
    #[test]
    fn every_overlapping_block_is_looked_for(
        v4: std::net::Ipv4Addr,
        v6 in prop::collection::vec(prop_oneof![Just(0_u16), Just(0xffff), any::<u16>()], 8),
        bits in 0..=16_u8,
        other in 0..=16_u8,
        n: u16,
    ) {
        let groups: [u16; 8] = v6.try_into().unwrap();
        for address in [v4.into(), std::net::Ipv6Addr::from(groups).into()] {
            let cidr = block(address, bits);
            let within = crate::net::number(cidr.network()) + u128::from(n) % (1 << bits);
            let rival = block(crate::net::address(Family::of(address), within), other);
            prop_assert!(is_found(&block_key(&rival), &cidr), "{} {}", cidr, rival);
        }
    }

    #[test]
    fn parsing_keys_never_panics(key in "\\PC*") {
        let _ = (parse_block_key(&key), parse_affinity_key(&key));
        let _ = parse_block_key(&format!("{BLOCKS}{key}"));
        let _ = parse_affinity_key(&format!("{HOSTS}{key}"));
    }
}

#[test]
fn a_handle_is_taken_apart_only_where_it_is_certain() {
    let id = "5c1e".repeat(16);
    for (handle, parts) in [
        ("net.c1", Some(("net", "c1", None))),
        ("net.ID", Some(("net", "ID", None))),
        ("net.ID.net1", Some(("net", "ID", Some("net1")))),
        ("net.ID.vlan.100", Some(("net", "ID", Some("vlan.100")))),
        ("corp.blue.ID", Some(("corp.blue", "ID", None))),
        ("corp.blue.ID.net1", Some(("corp.blue", "ID", Some("net1")))),
        // Of `corp.blue`, or the interface `c1` of the container `blue`, or the container `blue.c1`.
        ("corp.blue.c1", None),
        ("corp.blue.xID", None),
        ("ID.ID", Some(("ID", "ID", None))),
        ("lb-service", None),
        ("ID", None),
        (".ID", None),
        ("net.ID.", None),
        (".c1", None),
        ("net.", None),
    ] {
        let (handle, id) = (handle.replace("ID", &id), &*id);
        let parts = parts.map(|(network, container, interface)| {
            let or_id = |text| if text == "ID" { id } else { text };
            Attachment { network: or_id(network), container: or_id(container), interface }
        });
        assert_eq!(Attachment::of_handle(&handle), parts, "{handle}");
    }
}
