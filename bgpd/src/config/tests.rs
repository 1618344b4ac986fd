use super::*;

const YAML: &str = r#"
router-id: 192.0.2.1
asn: 65001
listen: ["127.0.0.1:1179"]
peers:
  - name: tor1
    address: 192.0.2.2
    asn: 65002
    password: hunter2
    families: [ipv4-unicast, ipv6-unicast]
    next-hop: self
    import:
      default: reject
      rules:
        - prefixes: [{prefix: 10.0.0.0/8, operator: in, max-length: 26}]
          action: accept
          set: {local-pref: 200, add-communities: ["65001:7"]}
        - prefix-sets: [site]
          community-sets: [blackhole]
          as-path-sets: [customers]
          action: reject
networks:
  - prefix: 10.1.0.0/26
    communities: [no-export]
    large-communities: ["65001:1:2"]
graceful-restart: {restart-time: 60}
prefix-sets:
  site: [{prefix: 10.1.0.0/16, operator: in, max-length: 24}]
community-sets:
  blackhole: ["65001:666", "65001:666:*", "rt:65001:*"]
as-path-sets:
  customers: ["^65100_"]
"#;

fn parse(text: &str) -> Result<Config, String> {
    let config: Config = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    config.validate().map_err(|e| e.to_string())?;
    Ok(config)
}

#[test]
fn yaml_with_defaults() {
    let config = parse(YAML).unwrap();
    assert_eq!(config.peers[0].hold_time, 90);
    assert_eq!(config.peers[0].next_hop, NextHopMode::Ourselves);
    assert_eq!(config.graceful_restart.restart_time, 60);
    assert_eq!(config.graceful_restart.stale_path_time, 360);
    assert_eq!(config.networks[0].communities, [Community::NO_EXPORT]);
    let import = config.peers[0].import.as_ref().unwrap();
    assert_eq!(import.rules[0].set.local_pref, Some(200));
}

#[test]
fn a_password_is_never_shown() {
    let config = parse(YAML).unwrap();
    let debug = format!("{config:?}");
    let json = serde_json::to_string(&config).unwrap();
    assert!(!debug.contains("hunter2") && !json.contains("hunter2"));

    let ao = "tcp-ao: {keys: [{send-id: 1, recv-id: 2, algorithm: aes-128-cmac-96, key: hunter2}, \
              {send-id: 3, recv-id: 4, key: hunter3}]}";
    let config = parse(&YAML.replace("password: hunter2", ao)).unwrap();
    let keys = &config.peers[0].tcp_ao.as_ref().unwrap().keys;
    assert_eq!((keys[0].send_id, keys[0].recv_id, keys[0].key.reveal()), (1, 2, "hunter2"));
    assert_eq!(keys[0].algorithm, TcpAoAlgorithm::Aes128Cmac);
    assert_eq!(keys[1].algorithm, TcpAoAlgorithm::HmacSha1);
    let debug = format!("{config:?}");
    let json = serde_json::to_string(&config).unwrap();
    assert!(json.contains("hmac-sha-1-96"));
    assert!(!debug.contains("hunter") && !json.contains("hunter"));
}

#[test]
fn errors_name_object_and_field() {
    let cases = [
        ("asn: 65001", "asn: 0", "speaker: asn: "),
        ("router-id: 192.0.2.1", "router-id: 0.0.0.0", "speaker: router-id: "),
        ("10.1.0.0/26", "10.1.0.1/26", "network 10.1.0.1/26: prefix: "),
        ("next-hop: self", "hold-time: 2", "peer \"tor1\": hold-time: "),
        (
            "next-hop: self",
            "advertisement-interval: 601",
            "peer \"tor1\": advertisement-interval: ",
        ),
        (
            "next-hop: self",
            "hold-time: 9\n    send-hold-time: 9",
            "peer \"tor1\": send-hold-time: must be 0, or more than hold-time",
        ),
        (
            "families: [ipv4-unicast, ipv6-unicast]",
            "families: [ipv4-unicast]\n    max-prefixes: {limit: 1, limit-v6: 2}",
            "peer \"tor1\": max-prefixes: limit-v6: ipv6-unicast is not in families",
        ),
        ("next-hop: self", "ttl-security: 255", "peer \"tor1\": ttl-security: "),
        ("next-hop: self", "source-address: fd00::1", "peer \"tor1\": source-address: "),
        ("next-hop: self", "source-interface: a/b", "peer \"tor1\": source-interface: is not the"),
        (
            "address: 192.0.2.2",
            "interface: eth0\n    source-interface: eth1",
            "peer \"tor1\": source-interface: interface says already",
        ),
        ("max-length: 26", "max-length: 33", "peer \"tor1\": import: rules[0].prefixes: "),
        (
            "prefix-sets: [site]",
            "prefix-sets: [cite]",
            "peer \"tor1\": import: rules[1].prefix-sets: there is no prefix set \"cite\"",
        ),
        ("community-sets: [b", "community-sets: [x", "there is no community set \"xlackhole\""),
        ("as-path-sets: [c", "as-path-sets: [x", "there is no AS path set \"xustomers\""),
        ("max-length: 24", "max-length: 40", "prefix set \"site\": prefixes: max-length of "),
        ("^65100_", "^65100_)", "is not a pattern for AS paths: ) closes nothing"),
        ("65001:666:*", "65001:x", "\"65001:x\" is not a pattern for communities"),
        (
            "asn: 65001\n",
            "asn: 65001\nconfederation: {identifier: 0}\n",
            "confederation: identifier: ",
        ),
        (
            "asn: 65001\n",
            "asn: 65001\nconfederation: {identifier: 7, members: [7]}\n",
            "confederation: members: the confederation is no member of itself",
        ),
        (
            "asn: 65001\n",
            "asn: 65001\nconfederation: {identifier: 65002}\n",
            "peer \"tor1\": asn: is that of our confederation",
        ),
        ("next-hop: self", "local-as: {no-prepend: false}", "peer \"tor1\": local-as: there is no"),
        (
            "next-hop: self",
            "multihop: 4\n    ttl-security: 3",
            "peer \"tor1\": multihop: has no effect beside ttl-security",
        ),
        (
            "families: [ipv4-unicast, ipv6-unicast]",
            "families: [ipv6-unicast]\n    extended-next-hop: true",
            "peer \"tor1\": extended-next-hop: is of IPv4 routes",
        ),
        (
            "next-hop: self",
            "max-prefixes: {limit: 1, only-warn: true, restart-after: 5}",
            "peer \"tor1\": max-prefixes: restart-after: with only-warn",
        ),
        ("next-hop: self", "role-strict: true", "peer \"tor1\": role-strict: there is no role"),
        ("asn: 65002", "asn: 65001\n    role: peer", "role: is for external peers only"),
        ("asn: 65002", "asn: 65001\n    as-override: true", "as-override: is for external peers"),
        ("password: hunter2", "password: ''", "peer \"tor1\": password: "),
        (
            "next-hop: self",
            "tcp-ao: {keys: [{send-id: 1, recv-id: 2, key: k}]}",
            "peer \"tor1\": tcp-ao: there is a password already",
        ),
        ("password: hunter2", "tcp-ao: {keys: []}", "peer \"tor1\": tcp-ao: must have 1 to 16"),
        (
            "password: hunter2",
            "tcp-ao: {keys: [{send-id: 1, recv-id: 2, key: ''}]}",
            "peer \"tor1\": tcp-ao: a key must have 1 to 80 octets",
        ),
        (
            "password: hunter2",
            "tcp-ao: {keys: [{send-id: 1, recv-id: 2, key: a}, {send-id: 2, recv-id: 2, key: b}]}",
            "peer \"tor1\": tcp-ao: no two keys may have the same",
        ),
        ("password: hunter2", "tcp-ao: {keys: [{send-id: 256, recv-id: 2, key: a}]}", "256"),
        (
            "    password: hunter2",
            "    tcp-ao: {keys: [{send-id: 1, recv-id: 2, key: a}]}\n  \
             - {name: b, address: 192.0.2.2, port: 1179, asn: 65002}\n  \
             - name: c\n    address: 192.0.2.3\n    asn: 65002",
            "peer \"b\": tcp-ao: another peer has the same address",
        ),
        (
            "    password: hunter2",
            "    password: hunter2\n  \
             - {name: b, address: 192.0.2.2, port: 1179, asn: 65002}\n  \
             - name: c\n    address: 192.0.2.3\n    asn: 65002",
            "peer \"b\": password: another peer has the same address",
        ),
        ("restart-time: 60", "restart-time: 5000", "graceful-restart: restart-time: "),
        (
            "graceful-restart:",
            "long-lived-graceful-restart: {stale-time: 0}\ngraceful-restart:",
            "long-lived-graceful-restart: stale-time: ",
        ),
        (
            "graceful-restart: {",
            "long-lived-graceful-restart: {enabled: true}\ngraceful-restart: {enabled: false, ",
            "long-lived-graceful-restart: enabled: needs graceful-restart",
        ),
        ("no-export", "nonsense", "\"nonsense\" is not a community"),
        ("65001:1:2", "65001:1", "\"65001:1\" is not a large community"),
        ("next-hop: self", "next-hopp: self", "next-hopp"),
        ("next-hop: self", "bfd: {min-tx: 5}", "peer \"tor1\": bfd: min-tx"),
        ("next-hop: self", "bfd: {min-rx: 60001}", "peer \"tor1\": bfd: min-tx and min-rx"),
        ("next-hop: self", "bfd: {multiplier: 0}", "peer \"tor1\": bfd: multiplier"),
        ("next-hop: self", "bfd: {hold-down: 9}", "peer \"tor1\": bfd: hold-down"),
        ("next-hop: self", "bfd: {interval: 50}", "interval"),
    ];
    for (from, to, wanted) in cases {
        let text = YAML.replacen(from, to, 1);
        assert_ne!(text, YAML, "{from} is in the YAML");
        let error = parse(&text).unwrap_err();
        assert!(error.contains(wanted), "{to}: {error}");
    }
}

#[test]
fn names_and_addresses_are_unique() {
    let mut config = Config::new(Ipv4Addr::new(1, 1, 1, 1), 65001);
    config.peers.push(PeerConfig::new("a", "192.0.2.1".parse().unwrap(), 65002));
    config.peers.push(PeerConfig::new("b", "192.0.2.1".parse().unwrap(), 65002));
    assert!(config.validate().unwrap_err().to_string().contains("peer \"b\": address"));
    config.peers[1].port = 1179;
    config.validate().unwrap();
    config.peers[1].name = "a".into();
    assert!(config.validate().unwrap_err().to_string().contains("peer \"a\": name"));
}

#[test]
fn bfd_is_off_unless_asked_for_and_knows_how_far_the_peer_is() {
    let config = parse(YAML).unwrap();
    assert!(config.peers[0].bfd.is_none());
    let text = YAML.replace("next-hop: self", "bfd: {}");
    assert_eq!(parse(&text).unwrap().peers[0].bfd, Some(Bfd::default()));

    let far = |external, change: fn(&mut PeerConfig)| {
        let mut peer = PeerConfig::new("a", "192.0.2.1".parse().unwrap(), 65002);
        peer.bfd = Some(Bfd::default());
        change(&mut peer);
        let (key, wanted) = peer.bfd_session(external).unwrap();
        (key.multihop, wanted.min_ttl)
    };
    assert_eq!(far(true, |_| {}), (false, 0));
    assert_eq!(far(true, |p| p.multihop = Some(1)), (false, 0));
    assert_eq!(far(true, |p| p.multihop = Some(4)), (true, 0));
    assert_eq!(far(true, |p| (p.multihop, p.ttl_security) = (Some(4), Some(3))), (true, 253));
    assert_eq!(far(false, |_| {}), (true, 0), "across the AS");
    assert_eq!(far(false, |p| p.ttl_security = Some(1)), (false, 255));
    assert_eq!(far(false, |p| p.address = "fe80::1".parse().unwrap()), (false, 0));
    let on_link = Bfd { multihop: Some(false), ..Bfd::default() };
    assert!(
        !PeerConfig { bfd: Some(on_link), ..config.peers[0].clone() }
            .bfd_session(false)
            .unwrap()
            .0
            .multihop
    );
}

#[test]
fn peers_of_one_address_have_one_bfd_session() {
    let mut config = Config::new(Ipv4Addr::new(1, 1, 1, 1), 65001);
    for (name, port) in [("a", 179), ("b", 1179)] {
        let mut peer = PeerConfig::new(name, "192.0.2.1".parse().unwrap(), 65002);
        (peer.port, peer.bfd) = (port, Some(Bfd::default()));
        config.peers.push(peer);
    }
    config.validate().unwrap();
    config.peers[1].bfd = Some(Bfd { min_tx: 50, ..Bfd::default() });
    assert!(config.validate().unwrap_err().to_string().contains(": bfd: another peer"));
    config.peers[1].source_address = Some("192.0.2.7".parse().unwrap());
    config.validate().unwrap();
}

const RANGE: &str = r#"
router-id: 192.0.2.1
asn: 65001
peers:
  - {name: tor1, address: 192.0.2.2, asn: external, password: one}
listen-ranges:
  - prefix: 192.0.2.0/24
    peer: {name: rack, asn: [65002, 65010-65019], password: all}
"#;

#[test]
fn listen_ranges() {
    let config = parse(RANGE).unwrap();
    assert_eq!(config.peers[0].asn, PeerAs::External);
    let range = &config.listen_ranges[0];
    assert_eq!((range.limit, &*range.peer.name), (100, "rack"));
    assert_eq!(range.peer.asn, PeerAs::OneOf(vec![65002..=65002, 65010..=65019]));
    let peer = range.neighbor("192.0.2.7".parse().unwrap(), 0);
    assert_eq!((&*peer.name, peer.passive), ("rack-192.0.2.7", true));
    // What is written is what was read, but for the keys.
    let again: Config = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
    assert_eq!(again.listen_ranges[0].peer.asn, range.peer.asn);
    assert!(again.listen_ranges[0].peer.address.is_unspecified());
    for (from, to, wanted) in [
        ("192.0.2.0/24", "192.0.2.1/24", "listen-range \"rack\": prefix: "),
        ("name: rack", "name: tor1", "listen-range \"tor1\": peer.name: "),
        ("name: rack", "address: 192.0.2.9, name: rack", "listen-range \"rack\": peer.address: "),
        ("name: rack", "source-address: fd00::1, name: rack", "rack\": peer.source-address: "),
        (
            "password: all",
            "tcp-ao: {keys: [{send-id: 1, recv-id: 2, key: a}]}",
            "listen-range \"rack\": peer.tcp-ao: is for single peers",
        ),
        ("    peer:", "    limit: 0\n    peer:", "listen-range \"rack\": limit: "),
        (", password: one", "", "listen-range \"rack\": peer.password: peer \"tor1\""),
        ("65010-65019", "65000-65019", "listen-range \"rack\": asn: has our own"),
        ("65010-65019", "65019-65010", "listen-range \"rack\": asn: has a range"),
        ("65010-65019", "many", "a list like [65001, 65010-65019]"),
        ("[65002, 65010-65019]", "[]", "listen-range \"rack\": asn: is empty"),
        ("external", "0", "peer \"tor1\": asn: "),
        ("external", "anybody", "a list like [65001, 65010-65019]"),
        ("asn: external", "asn: external, route-reflector-client: true", "tor1\": route-reflector"),
        ("name: tor1, address: 192.0.2.2", "name: tor1", "peer \"tor1\": address: "),
    ] {
        let text = RANGE.replacen(from, to, 1);
        assert_ne!(text, RANGE, "{from} is in the YAML");
        let error = parse(&text).unwrap_err();
        assert!(error.contains(wanted), "{to}: {error}");
    }
}

/// Members are external in another way than others.
#[test]
fn in_a_confederation_it_is_said_whether_a_peer_is_a_member() {
    let with = |asn: &str| {
        let asn = format!(
            "asn: 65001\nconfederation: {{identifier: 100, members: [65002, 65003]}}\n\
                           peers: [{{name: a, address: 192.0.2.2, asn: {asn}}}]\n"
        );
        let config = parse(&format!("router-id: 192.0.2.1\n{asn}"))?;
        let peer = &config.peers[0];
        Ok::<_, String>((peer.peer_type(&config), peer.local_asn(&config)))
    };
    use crate::policy::PeerType::{Confederation, External, Internal};
    assert_eq!(with("internal"), Ok((Internal, 65001)));
    assert_eq!(with("[65002, 65003]"), Ok((Confederation, 65001)));
    assert_eq!(with("[65010-65019]"), Ok((External, 100)));
    for asn in ["external", "[65003-65009]", "[65002, 65010]"] {
        let error = with(asn).unwrap_err();
        assert!(error.contains("asn: may be of a member"), "{asn}: {error}");
    }
}

#[test]
fn who_a_peer_may_be() {
    let of = |text: &str| serde_json::from_str::<PeerAs>(text).unwrap();
    for (text, number, external, admitted, refused) in [
        ("65002", Some(65002), true, &[65002][..], &[65001, 65003][..]),
        ("65001", Some(65001), false, &[65001], &[65002]),
        ("\"internal\"", Some(65001), false, &[65001], &[65002]),
        ("\"external\"", None, true, &[1, 4_200_000_000], &[65001]),
        ("\"65010-65012\"", None, true, &[65010, 65012], &[65009, 65013]),
        ("[65007, \"65010-65012\"]", None, true, &[65007, 65011], &[65001]),
        ("[65007]", Some(65007), true, &[65007], &[65001]),
        ("[65001]", Some(65001), false, &[65001], &[65002]),
    ] {
        let wanted = of(text);
        assert_eq!((wanted.number(65001), wanted.is_external(65001)), (number, external), "{text}");
        assert!(admitted.iter().all(|asn| wanted.admits(*asn, 65001)), "{text}");
        assert!(!refused.iter().any(|asn| wanted.admits(*asn, 65001)), "{text}");
        assert_eq!(of(&serde_json::to_string(&wanted).unwrap()), wanted, "{text}");
    }
}
