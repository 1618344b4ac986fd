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
        ("next-hop: self", "ttl-security: 255", "peer \"tor1\": ttl-security: "),
        ("next-hop: self", "source-address: fd00::1", "peer \"tor1\": source-address: "),
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
        ("next-hop: self", "role-strict: true", "peer \"tor1\": role-strict: there is no role"),
        ("asn: 65002", "asn: 65001\n    role: peer", "role: is for external peers only"),
        ("asn: 65002", "asn: 65001\n    as-override: true", "as-override: is for external peers"),
        ("password: hunter2", "password: ''", "peer \"tor1\": password: "),
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
