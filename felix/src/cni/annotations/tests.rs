use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect()
}

fn read(pod: &[(&str, &str)]) -> Result<Wishes, String> {
    wishes(&labels(pod), &Labels::default(), &Ipam::default()).map_err(|error| error.to_string())
}

#[test]
fn nothing_wished_is_whatever_there_are_pools_for() {
    assert_eq!(read(&[]).unwrap(), Wishes::default());
}

#[test]
fn pools_are_chosen_by_pod_then_namespace_then_configuration() {
    let ipam = Ipam { ipv4_pools: vec!["conf".into()], ..Ipam::default() };
    let named = |name: &str| vec![PoolRef::Name(name.into())];
    let (pod, namespace) =
        (labels(&[("ipv4pools", r#"["pod"]"#)]), labels(&[("ipv4pools", r#"["ns"]"#)]));
    let none = Labels::default();
    let empty = labels(&[("ipv4pools", "[]")]);
    let of = |pod: &Labels, namespace: &Labels| wishes(pod, namespace, &ipam).unwrap().ipv4_pools;
    assert_eq!(of(&pod, &namespace), named("pod"));
    assert_eq!(of(&none, &namespace), named("ns"));
    assert_eq!(of(&empty, &namespace), named("ns"));
    assert_eq!(of(&none, &none), named("conf"));

    let both =
        read(&[("ipv4pools", r#"["10.1.0.0/16","x"]"#), ("ipv6pools", r#"["fd00:1::/64"]"#)]);
    let both = both.unwrap();
    assert_eq!(both.ipv4_pools[0], PoolRef::Cidr("10.1.0.0/16".parse().unwrap()));
    assert_eq!(both.ipv4_pools[1], PoolRef::Name("x".into()));
    assert_eq!(both.ipv6_pools, [PoolRef::Cidr("fd00:1::/64".parse().unwrap())]);
}

#[test]
fn chosen_addresses_are_the_only_ones() {
    let wishes = read(&[("ipAddrs", r#"["10.0.0.1"]"#), ("ipFamilies", r#"["IPv6"]"#)]).unwrap();
    assert_eq!(wishes.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!((wishes.ipv4, wishes.ipv6), (Some(true), Some(false)));
    let wishes = read(&[("ipAddrs", r#"["fd00::1", "10.0.0.1"]"#)]).unwrap();
    assert_eq!((wishes.ipv4, wishes.ipv6), (Some(true), Some(true)));
    let wishes = read(&[("ipFamilies", r#"["IPv6"]"#)]).unwrap();
    assert_eq!((wishes.ipv4, wishes.ipv6), (Some(false), Some(true)));
    let wishes = read(&[("hwAddr", "02:00:5E:00:00:01")]).unwrap();
    assert_eq!(wishes.mac, Some([2, 0, 0x5e, 0, 0, 1]));
}

#[test]
fn each_mistake_names_its_annotation_and_the_reason() {
    let cases = [
        ("ipAddrs", "10.0.0.1", "is not a JSON array of strings"),
        ("ipAddrs", "[1]", "is not a JSON array of strings"),
        ("ipAddrs", "[]", "lists no address"),
        ("ipAddrs", r#"["10.0.0.1/32"]"#, r#""10.0.0.1/32" is not an IP address"#),
        ("ipAddrs", r#"["10.0.0.1","10.0.0.2"]"#, "more than one IPv4 address"),
        ("ipAddrs", r#"["fd00::1","fd00::2"]"#, "more than one IPv6 address"),
        ("ipAddrs", r#"["0.0.0.0"]"#, "0.0.0.0 cannot be a pod's address"),
        ("ipAddrs", r#"["ff02::1"]"#, "ff02::1 cannot be a pod's address"),
        ("ipv4pools", r#"["fd00::/64"]"#, "fd00::/64 is not of IPv4"),
        ("ipv6pools", r#"["10.0.0.0/8"]"#, "10.0.0.0/8 is not of IPv6"),
        ("ipv4pools", r#"["10.0.0.1/8"]"#, "10.0.0.1/8 has bits set beyond its prefix length"),
        ("ipv4pools", r#"["10.0.0.0/33"]"#, r#""10.0.0.0/33" is not a CIDR"#),
        ("ipv4pools", r#"["a b"]"#, r#""a b" is neither a CIDR nor the name of an IPPool"#),
        ("ipv4pools", r#"{"a":1}"#, "is not a JSON array of strings"),
        ("ipFamilies", r#"["v4"]"#, r#""v4" is neither IPv4 nor IPv6"#),
        ("hwAddr", "01:00:5e:00:00:01", "is not a unicast MAC address"),
        ("hwAddr", "02:00:5e:00:00", "is not a unicast MAC address"),
        ("hwAddr", "02:00:5e:00:00:01:02", "is not a unicast MAC address"),
        ("hwAddr", "+2:00:5e:00:00:01", "is not a unicast MAC address"),
        ("hwAddr", "00:00:00:00:00:00", "is not a unicast MAC address"),
        ("ipAddrsNoIpam", r#"["10.0.0.1"]"#, "is not supported"),
        ("floatingIPs", r#"["10.0.0.1"]"#, "is not supported"),
    ];
    for (key, value, reason) in cases {
        let error = read(&[(key, value)]).unwrap_err();
        assert!(error.starts_with(&format!("annotation {PREFIX}{key}: ")), "{error}");
        assert!(error.contains(reason), "{key}={value}: {error}");
    }
    let namespace = labels(&[("ipv6pools", "x")]);
    let error = wishes(&Labels::default(), &namespace, &Ipam::default()).unwrap_err();
    assert!(
        error.to_string().starts_with("namespace annotation cni.projectcalico.org/ipv6pools: ")
    );
    let ipam = Ipam { ipv4_pools: vec!["/".into()], ..Ipam::default() };
    let error = wishes(&Labels::default(), &Labels::default(), &ipam).unwrap_err();
    assert!(error.to_string().starts_with("network configuration ipam.ipv4_pools: "));
    let ipam = Ipam { assign_ipv4: Some(false), assign_ipv6: Some(false), ..Ipam::default() };
    let error = wishes(&Labels::default(), &Labels::default(), &ipam).unwrap_err();
    assert!(error.to_string().ends_with("neither IPv4 nor IPv6 is wanted"));
}
