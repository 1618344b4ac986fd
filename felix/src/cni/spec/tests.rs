use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn request(command: &str, config: Value) -> CniRequest {
    CniRequest {
        command: command.into(),
        container_id: "c1".into(),
        netns: "/run/netns/a".into(),
        ifname: "eth0".into(),
        config,
        ..CniRequest::default()
    }
}

fn config(version: &str) -> Value {
    json!({"cniVersion": version, "name": "net", "type": "caracal"})
}

fn with(version: &str, key: &str, value: Value) -> Value {
    let mut config = config(version);
    config[key] = value;
    config
}

fn refusal(request: &CniRequest) -> (u32, String) {
    let error = Call::parse(request).unwrap_err();
    (error.code, format!("{}: {}", error.msg, error.details))
}

#[test]
fn each_command_is_there_from_its_version_on() {
    for (command, since) in [("ADD", 0), ("DEL", 0), ("CHECK", 1), ("GC", 3), ("STATUS", 3)] {
        for (index, version) in Version::ALL.into_iter().enumerate() {
            let mut config = with(version.as_str(), "prevResult", json!({}));
            config["cni.dev/valid-attachments"] = json!([]);
            let parsed = Call::parse(&request(command, config));
            if index >= since {
                let call = parsed.unwrap();
                assert_eq!((call.command.as_str(), call.version), (command, version));
            } else {
                let error = parsed.unwrap_err();
                assert_eq!(error.code, code::INCOMPATIBLE_VERSION);
                assert_eq!(error.msg, format!("config version does not allow {command}"));
            }
        }
    }
}

#[test]
fn versions_that_are_not_spoken_are_code_1() {
    let absent = json!({"name": "net"});
    for config in [config("9.9.9"), config("0.2.0"), config("1.1"), config(""), absent] {
        let (code, text) = refusal(&request("ADD", config));
        assert_eq!(code, code::INCOMPATIBLE_VERSION);
        assert!(text.starts_with("incompatible CNI versions: config is "), "{text}");
        assert!(text.ends_with(r#"supports ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]"#), "{text}");
    }
    assert_eq!(refusal(&request("ADD", with("", "cniVersion", json!(1)))).0, code::DECODE);
}

#[test]
fn missing_variables_are_all_named() {
    let cases = [
        ("", "CNI_COMMAND"),
        ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID,CNI_IFNAME"),
    ];
    for (command, names) in cases {
        let bare = CniRequest { command: command.into(), ..CniRequest::default() };
        let (code, text) = refusal(&bare);
        assert_eq!(code, code::INVALID_ENVIRONMENT);
        assert_eq!(text, format!("required env variables [{names}] missing: "));
    }
    let status =
        CniRequest { command: "STATUS".into(), config: config("1.1.0"), ..CniRequest::default() };
    assert!(Call::parse(&status).is_ok());
    let (code, text) = refusal(&request("MEOW", config("1.1.0")));
    assert_eq!((code, text.as_str()), (code::INVALID_ENVIRONMENT, "unknown CNI_COMMAND: MEOW: "));
}

#[test]
fn ids_and_interface_names_follow_the_specification() {
    let parse = |id: &str, ifname: &str| {
        let mut request = request("ADD", config("1.1.0"));
        request.container_id = id.into();
        request.ifname = ifname.into();
        Call::parse(&request)
    };
    for id in ["a", "0", "a.b_c-d", "A9", &"f".repeat(64)] {
        assert!(parse(id, "eth0").is_ok(), "{id}");
    }
    for id in ["-a", ".a", "_a", "a b", "a/b", "é", "a\n", "a\0"] {
        let error = parse(id, "eth0").unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT);
        assert!(error.msg.starts_with("CNI_CONTAINERID "), "{}", error.msg);
    }
    for ifname in ["eth0", "a", "exactly15bytes_", "eth0.100"] {
        assert!(parse("a", ifname).is_ok(), "{ifname}");
    }
    for ifname in [".", "..", "a/b", "a:b", "a b", "a\tb", "a\u{7f}", "sixteen_bytes_16"] {
        let error = parse("a", ifname).unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT);
        assert!(error.msg.starts_with("CNI_IFNAME "), "{}", error.msg);
    }
}

#[test]
fn the_pod_comes_from_the_arguments() {
    let parse = |args: &str| {
        let mut request = request("ADD", config("1.1.0"));
        request.args = args.into();
        Call::parse(&request).map(|call| call.pod)
    };
    let pod = parse("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u;X=y=z");
    assert_eq!(
        pod.unwrap(),
        PodArgs { namespace: "ns".into(), name: "web-0".into(), uid: "u".into(), kubernetes: true }
    );
    let plain = parse("IgnoreUnknown=1;").unwrap();
    assert_eq!((plain.namespace.as_str(), plain.name.as_str()), ("default", "c1"));
    assert!(!plain.kubernetes);
    for args in [
        "K8S_POD_NAME",
        "K8S_POD_NAME=a",
        "K8S_POD_NAMESPACE=a",
        "K8S_POD_NAMESPACE=a;K8S_POD_NAME=../b",
    ] {
        let error = parse(args).unwrap_err();
        assert_eq!(error.code, code::INVALID_ENVIRONMENT);
        assert!(error.msg.starts_with("CNI_ARGS"), "{}", error.msg);
    }
}

#[test]
fn configuration_mistakes_name_their_key() {
    let cases = [
        ("name", json!(""), "name"),
        ("name", json!("-x"), "name"),
        ("mtu", json!(67), "mtu"),
        ("mtu", json!(65_536), "mtu"),
        ("connectTimeoutSeconds", json!(61), "connectTimeoutSeconds"),
        ("socket", json!("felix.sock"), "socket"),
        ("prevResult", json!([]), "prevResult"),
        ("ipam", json!({"assign_ipv4": "yes"}), "neither true nor false"),
        ("ipam", json!({"ipv4_pools": "a"}), "expected a sequence"),
    ];
    for (key, value, named) in cases {
        let (code, text) = refusal(&request("ADD", with("1.1.0", key, value.clone())));
        assert_eq!(code, code::INVALID_CONFIG, "{key} {value}: {text}");
        assert!(text.contains(named), "{key} {value}: {text}");
    }
    for config in [json!(null), json!([]), json!("x")] {
        assert_eq!(refusal(&request("ADD", config)).0, code::DECODE);
    }
    assert_eq!(refusal(&request("CHECK", config("1.1.0"))).0, code::INVALID_CONFIG);
}

#[test]
fn a_bad_configuration_does_not_keep_a_container_from_being_removed() {
    let mut bad = with("1.1.0", "mtu", json!("x"));
    bad["prevResult"] = json!(3);
    bad["ipam"] = json!([]);
    let mut del = request("DEL", bad);
    del.netns = String::new();
    del.args = "nonsense".into();
    assert_eq!(Call::parse(&del).unwrap().config.name, "net");
}

#[test]
fn calico_spellings_of_ipam_are_read() {
    let ipam = json!({"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": false,
                      "ipv4_pools": ["10.0.0.0/16", "blue"]});
    let call = Call::parse(&request("ADD", with("1.0.0", "ipam", ipam))).unwrap();
    assert_eq!(call.config.ipam.assign_ipv4, Some(true));
    assert_eq!(call.config.ipam.assign_ipv6, Some(false));
    assert_eq!(call.config.ipam.ipv4_pools, ["10.0.0.0/16", "blue"]);
    assert_eq!(call.config.ipam.ipv6_pools, [""; 0]);
    assert_eq!(call.config.socket(), DEFAULT_SOCKET);
}

#[test]
fn gc_reads_the_list_under_both_its_names_and_wants_one() {
    let one = EndpointId { container_id: "c9".into(), ifname: "net1".into() };
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let list = json!([{"containerID": "c9", "ifname": "net1"}]);
        let call = Call::parse(&request("GC", with("1.1.0", key, list))).unwrap();
        assert_eq!(call.valid_attachments, std::slice::from_ref(&one));
        for empty in [json!([]), json!(null)] {
            let call = Call::parse(&request("GC", with("1.1.0", key, empty))).unwrap();
            assert_eq!(call.valid_attachments, []);
        }
        for bad in [json!({}), json!([{"containerID": "c9"}]), json!([3])] {
            let (code, text) = refusal(&request("GC", with("1.1.0", key, bad)));
            assert_eq!(code, code::INVALID_CONFIG);
            assert!(text.contains(key) && text.ends_with("nothing was removed"), "{text}");
        }
    }
    let (code, text) = refusal(&request("GC", config("1.1.0")));
    assert_eq!(code, code::INVALID_CONFIG);
    assert!(text.ends_with("is missing; nothing was removed"), "{text}");
}

#[test]
fn version_and_errors_carry_the_input_version() {
    let supported = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, output) in [
        (json!({"cniVersion": "1.0.0"}), "1.0.0"),
        (json!({"cniVersion": "9.9.9"}), "9.9.9"),
        (json!({}), "1.1.0"),
        (json!(null), "1.1.0"),
    ] {
        let expected = json!({"cniVersion": output, "supportedVersions": supported});
        assert_eq!(version_result(&input), expected);
    }
    let error = Error { code: 4, msg: "m".into(), details: String::new() };
    assert_eq!(
        error_object(&config("0.4.0"), &error),
        json!({"cniVersion": "0.4.0", "code": 4, "msg": "m"})
    );
    let error = Error { details: "d".into(), ..error };
    assert_eq!(error_object(&json!(7), &error)["details"], "d");
    assert_eq!(error_object(&json!(7), &error)["cniVersion"], "1.1.0");
}

/// JSON that uses the keys that mean something, with values of any type.
fn any_config() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof!["1.1.0|0.4.0|net|true|/a", ".{0,8}"].prop_map(Value::from),
    ];
    let key = prop_oneof![
        "cniVersion|name|socket|mtu|ipam|dns|prevResult|connectTimeoutSeconds",
        "cni.dev/valid-attachments|cni.dev/attachments|containerID|ifname",
        "assign_ipv4|ipv4_pools|interfaces|ips|routes|address|sandbox|mac",
    ];
    leaf.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..8)
                .prop_map(|pairs| { pairs.into_iter().collect::<serde_json::Map<_, _>>().into() }),
        ]
    })
}

proptest! {
    #[test]
    fn any_input_is_read_or_refused_with_a_code_of_the_specification(
        command in "ADD|DEL|CHECK|GC|STATUS|.{0,6}",
        container_id in "[a-z0-9.-]{0,8}|.{0,4}",
        ifname in "[a-z0-9]{0,16}|.{0,4}",
        args in "(K8S_POD_(NAME|NAMESPACE|UID)=.{0,4};){0,3}|.{0,8}",
        mut config in any_config(),
        sound in any::<bool>(),
    ) {
        if sound && config.is_object() {
            config["cniVersion"] = "1.1.0".into();
            config["name"] = "net".into();
        }
        let netns = "/n".into();
        let request = CniRequest { command, container_id, netns, ifname, args, config, ..CniRequest::default() };
        match Call::parse(&request) {
            Ok(call) => {
                // What is taken can also be answered.
                let endpoint = crate::cni::result::tests::endpoint();
                let result = crate::cni::result::added(&call, &endpoint);
                prop_assert_eq!(&result["cniVersion"], call.version.as_str());
                let _ = crate::cni::result::differences(&call, &endpoint);
            }
            Err(error) => {
                prop_assert!(matches!(error.code, 1 | 4 | 6 | 7), "{}", error);
                prop_assert!(!error.msg.is_empty());
                let object = error_object(&request.config, &error);
                prop_assert!(object["cniVersion"].is_string());
            }
        }
    }
}
