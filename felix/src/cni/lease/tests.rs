use super::super::spec::code;
use super::*;

const ALL: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A configuration of `macvlan` with more keys in `ipam`.
fn config(version: &str, ipam: &Value) -> Value {
    let mut config = json!({
        "cniVersion": version, "name": "lan", "type": "macvlan", "master": "eth1",
        // These are the main plugin's own: not ours to judge.
        "mtu": "what it likes", "socket": 7,
        "ipam": {"type": "caracal-ipam"},
    });
    for (key, value) in ipam.as_object().unwrap() {
        config["ipam"][key] = value.clone();
    }
    config
}

fn request(command: &str, config: Value) -> CniRequest {
    CniRequest {
        command: command.into(),
        container_id: "c1".into(),
        netns: "/run/netns/a".into(),
        ifname: "net1".into(),
        config,
        ..CniRequest::default()
    }
}

fn call(version: &str, ipam: &Value) -> Call {
    Call::parse_ipam(&request("ADD", config(version, ipam))).unwrap()
}

fn refusal(request: &CniRequest) -> (u32, String) {
    let error = Call::parse_ipam(request).unwrap_err();
    (error.code, format!("{}: {}", error.msg, error.details))
}

fn answered(call: &Call, given: &[(&str, &str)]) -> Vec<Leased> {
    let lease = call.lease.as_ref().unwrap();
    let answer = |(address, pool): &(&str, &str)| {
        lease.answer(address.parse().unwrap(), pool.parse().unwrap()).unwrap()
    };
    given.iter().map(answer).collect()
}

const BOTH: [(&str, &str); 2] = [("10.7.0.5", "10.7.0.0/16"), ("fd07::5", "fd07::/64")];

#[test]
fn the_result_is_in_the_version_of_the_configuration() {
    let ipam = json!({
        "gateways": ["10.7.0.1", "10.8.0.1", "fd07::1"],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd00::/8", "gw": "fd07::2"}],
    });
    for version in ALL {
        let call = call(version, &ipam);
        let mut v4 = json!({"address": "10.7.0.5/16", "gateway": "10.7.0.1"});
        let mut v6 = json!({"address": "fd07::5/64", "gateway": "fd07::1"});
        if version.starts_with('0') {
            v4["version"] = "4".into();
            v6["version"] = "6".into();
        }
        let expected = json!({
            "cniVersion": version,
            "ips": [v4, v6],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd00::/8", "gw": "fd07::2"}],
        });
        assert_eq!(result(&call, &answered(&call, &BOTH)), expected);
    }
}

#[test]
fn what_is_not_asked_for_is_not_in_the_result() {
    let bare = call("1.1.0", &json!({}));
    let expected = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.7.0.5/16"}]});
    assert_eq!(result(&bare, &answered(&bare, &BOTH[..1])), expected);
    // A route of the family that the container has no address of; the network's DNS.
    let mut with = config("1.0.0", &json!({"routes": [{"dst": "::/0"}, {"dst": "10.0.0.0/8"}]}));
    with["dns"] = json!({"nameservers": ["10.0.0.10"]});
    let call = Call::parse_ipam(&request("ADD", with)).unwrap();
    let result = result(&call, &answered(&call, &BOTH[..1]));
    assert_eq!(result["routes"], json!([{"dst": "10.0.0.0/8"}]));
    assert_eq!(result["dns"]["nameservers"][0], "10.0.0.10");
}

#[test]
fn requested_addresses_come_from_the_first_place_that_has_some() {
    let mut all = config("1.1.0", &json!({}));
    let mut read = |key: &str, value: Value, args: &str| {
        match key {
            "" => {}
            "runtimeConfig" => all["runtimeConfig"] = json!({"ips": value}),
            _ => all["args"] = json!({"cni": {"ips": value}}),
        }
        let asked = request("ADD", all.clone());
        let call = Call::parse_ipam(&CniRequest { args: args.into(), ..asked }).unwrap();
        let wishes = call.lease.as_ref().unwrap().wishes(&call).unwrap();
        let texts: Vec<String> = wishes.addresses.iter().map(ToString::to_string).collect();
        (texts.join(" "), wishes.ipv4, wishes.ipv6)
    };
    let args = "IgnoreUnknown=1;IP=10.7.0.9;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web";
    assert_eq!(read("", Value::Null, ""), (String::new(), None, None));
    assert_eq!(read("", Value::Null, args), ("10.7.0.9".into(), Some(true), Some(false)));
    let both = (String::from("10.7.0.9 fd07::9"), Some(true), Some(true));
    assert_eq!(read("", Value::Null, "IP=10.7.0.9/24,fd07::9"), both);
    let of_args = (String::from("fd07::8"), Some(false), Some(true));
    assert_eq!(read("args", json!(["fd07::8/64"]), args), of_args);
    let of_runtime = (String::from("10.7.0.7"), Some(true), Some(false));
    assert_eq!(read("runtimeConfig", json!(["10.7.0.7/16"]), args), of_runtime);
    // None of a place that is there and empty.
    assert_eq!(read("runtimeConfig", json!([]), args), of_args);
}

#[test]
fn a_wrong_configuration_names_key_and_reason() {
    let mut runtime = config("1.1.0", &json!({}));
    runtime["runtimeConfig"] = json!({"ips": ["10.7.0.300"]});
    let mut conventional = config("1.1.0", &json!({}));
    conventional["args"] = json!({"cni": {"ips": "10.7.0.3"}});
    let mut absent = config("1.1.0", &json!({}));
    absent["ipam"] = Value::Null;
    let ipam = |ipam: Value| config("1.1.0", &ipam);
    for (config, key, reason) in [
        (ipam(json!({"gateways": ["10.7.0"]})), "ipam.gateways[0]: ", "invalid IP address"),
        (ipam(json!({"gateways": "10.7.0.1"})), "ipam.gateways: ", "expected a sequence"),
        (ipam(json!({"routes": [{"gw": "10.7.0.1"}]})), "ipam.routes[0]: ", "`dst`"),
        (ipam(json!({"routes": [{"dst": "::/0", "gw": "10.7.0.1"}]})), "ipam.routes: ", "family"),
        (ipam(json!({"routes": [{"dst": "::/0", "via": "a"}]})), "ipam.routes[0]", "`via`"),
        (ipam(json!({"assign_ipv4": "yes"})), "ipam.assign_ipv4: ", "neither true nor false"),
        (ipam(json!({"ipv4_pools": [7]})), "ipam.ipv4_pools[0]: ", "expected a string"),
        (ipam(json!({"socket": "felix.sock"})), "socket ", "not an absolute path"),
        (runtime, "runtimeConfig.ips: ", "\"10.7.0.300\" is not an IP address"),
        (conventional, "args.cni.ips: ", "expected a sequence"),
        (absent, "ipam ", "is missing"),
    ] {
        let (code, text) = refusal(&request("ADD", config));
        assert_eq!(code, code::INVALID_CONFIG, "{text}");
        let details = text.strip_prefix("invalid network configuration: ").unwrap();
        assert!(details.starts_with(key) && details.contains(reason), "{details}");
    }
    for (args, reason) in [
        ("IP=x", "\"x\" is not an IP address"),
        ("IP=10.7.0.1,10.7.0.2", "more than one IPv4 address"),
        ("IP=224.0.0.1", "cannot be a container's address"),
    ] {
        let asked = request("ADD", ipam(json!({})));
        let (code, text) = refusal(&CniRequest { args: args.into(), ..asked });
        assert_eq!(code, code::INVALID_ENVIRONMENT);
        assert!(text.starts_with("CNI_ARGS: IP: ") && text.contains(reason), "{text}");
    }
}

/// Whatever became of the configuration, what was given can be taken back.
#[test]
fn del_and_gc_need_a_name_and_no_more() {
    let mut broken = config("1.1.0", &json!({"gateways": 7, "assign_ipv4": 9}));
    broken["runtimeConfig"] = json!(7);
    let mut call = request("DEL", broken.clone());
    call.netns = String::new();
    assert_eq!(Call::parse_ipam(&call).unwrap().lease, Some(Lease::default()));
    broken["ipam"] = json!({"socket": "/run/other.sock"});
    broken["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "net1"}]);
    let call = Call::parse_ipam(&request("GC", broken)).unwrap();
    assert_eq!((call.valid_attachments.len(), call.config.socket()), (1, "/run/other.sock"));
}

#[test]
fn a_bridge_that_is_the_gateway_needs_an_address_of_its_own() {
    let with = |more: Value| {
        let mut config = config("1.0.0", &json!({"gateways": ["10.7.0.1"]}));
        config["type"] = "bridge".into();
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        Lease::read(&config, "").unwrap()
    };
    assert_eq!(with(json!({"bridge": "br0"})).bridge, None);
    assert_eq!(with(json!({"isGateway": true})).bridge.unwrap(), "cni0");
    let tagged = json!({"isDefaultGateway": true, "bridge": "br0", "vlan": 7});
    assert_eq!(with(tagged).bridge.unwrap(), "br0.7");

    let lease = with(json!({"isGateway": true}));
    let (v4, v6) = (("10.7.0.5", "10.7.0.0/16"), ("fd07::5", "fd07::/64"));
    let answer = |lease: &Lease, (address, pool): (&str, &str)| {
        lease.answer(address.parse().unwrap(), pool.parse().unwrap())
    };
    assert_eq!(answer(&lease, v4).unwrap().gateway.unwrap().to_string(), "10.7.0.1");
    let error = answer(&lease, v6).unwrap_err();
    assert_eq!(error.code, code::INVALID_CONFIG);
    let named = error.details.starts_with("ipam.gateways has none in the pool fd07::/64 of fd07");
    assert!(named && error.details.contains("isGateway"), "{error}");
    // Without a bridge a family without any gateway is a network without a router.
    let lease = with(json!({}));
    assert_eq!(answer(&lease, v6).unwrap().gateway, None);
    assert!(answer(&lease, ("10.8.0.5", "10.8.0.0/16")).is_err(), "all listed are elsewhere");
}

#[test]
fn addresses_that_mean_something_else_on_a_shared_network_are_unfit() {
    let lease = Lease { gateways: vec!["10.7.0.1".parse().unwrap()], ..Lease::default() };
    let unfit = |address: &str, pool: &str| {
        lease.unfit(address.parse().unwrap(), pool.parse().unwrap()).is_some()
    };
    let net = "10.7.0.0/16";
    for (address, expected) in [
        ("10.7.0.0", true),
        ("10.7.255.255", true),
        ("10.7.0.1", true),
        ("10.7.0.2", false),
        ("10.7.0.255", false),
    ] {
        assert_eq!(unfit(address, net), expected, "{address}");
    }
    assert!(unfit("fd07::", "fd07::/64") && !unfit("fd07::ffff:ffff:ffff:ffff", "fd07::/64"));
    assert!(!unfit("10.9.0.0", "10.9.0.0/31") && !unfit("10.9.0.1", "10.9.0.0/31"));
    assert!(!unfit("10.9.0.1", "10.9.0.1/32"));
}
