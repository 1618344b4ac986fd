use serde_json::{Value, json};
use smallvec::smallvec;

use super::super::protocol::CniRequest;
use super::*;
use crate::model::EndpointId;

pub(in crate::cni) fn endpoint() -> LocalEndpoint {
    LocalEndpoint {
        id: EndpointId { container_id: "c1".into(), ifname: "eth0".into() },
        namespace: "default".into(),
        pod: "a".into(),
        pod_uid: String::new(),
        netns: "/run/netns/a".into(),
        host_interface: "cali0123456789a".into(),
        host_index: 77,
        mac: [2, 0, 0, 0, 0, 0xab],
        addresses: smallvec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
        handle: "net.c1".into(),
        mtu: 1450,
        labels: [].into(),
        service_account: "default".into(),
    }
}

fn call(command: &str, version: &str, more: &Value) -> Call {
    let mut config = json!({"cniVersion": version, "name": "net", "type": "caracal"});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Call::parse(&CniRequest {
        command: command.into(),
        container_id: "c1".into(),
        netns: "/run/netns/a".into(),
        ifname: "eth0".into(),
        config,
        ..CniRequest::default()
    })
    .unwrap()
}

#[test]
fn a_result_is_in_the_version_of_the_configuration() {
    let latest = added(&call("ADD", "1.1.0", &json!({})), &endpoint());
    let expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "cali0123456789a", "mac": "ee:ee:ee:ee:ee:ee", "mtu": 1450},
            {"name": "eth0", "mac": "02:00:00:00:00:ab", "sandbox": "/run/netns/a", "mtu": 1450},
        ],
        "ips": [
            {"address": "10.0.0.7/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00::7/128", "gateway": "fe80::ecee:eeff:feee:eeee", "interface": 1},
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
            {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"},
        ],
    });
    assert_eq!(latest, expected);

    let mut expected_1_0 = expected;
    expected_1_0["cniVersion"] = "1.0.0".into();
    for interface in expected_1_0["interfaces"].as_array_mut().unwrap() {
        interface.as_object_mut().unwrap().remove("mtu");
    }
    assert_eq!(added(&call("ADD", "1.0.0", &json!({})), &endpoint()), expected_1_0);

    for version in ["0.3.1", "0.4.0"] {
        let mut expected = expected_1_0.clone();
        expected["cniVersion"] = version.into();
        expected["ips"][0]["version"] = "4".into();
        expected["ips"][1]["version"] = "6".into();
        assert_eq!(added(&call("ADD", version, &json!({})), &endpoint()), expected);
    }
}

#[test]
fn what_earlier_plugins_did_stays_and_indices_follow() {
    let earlier = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "br0", "socketPath": "/s"}],
        "ips": [{"address": "192.0.2.1/24", "interface": 0, "unknown": true}],
        "dns": {"nameservers": ["192.0.2.53"]},
        "extra": 1,
    });
    let result = added(&call("ADD", "1.1.0", &json!({"prevResult": earlier})), &endpoint());
    assert_eq!(result["interfaces"][0], earlier["interfaces"][0]);
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(result["ips"][0], earlier["ips"][0]);
    assert_eq!(
        (&result["ips"][1]["interface"], &result["ips"][2]["interface"]),
        (&json!(2), &json!(2))
    );
    assert_eq!((&result["dns"], &result["extra"]), (&earlier["dns"], &json!(1)));

    let dns = json!({"nameservers": ["192.0.2.54"], "search": ["example.org"]});
    let result =
        added(&call("ADD", "1.1.0", &json!({"prevResult": earlier, "dns": dns})), &endpoint());
    assert_eq!(result["dns"], dns);
}

#[test]
fn check_compares_with_what_add_returned() {
    let added = added(&call("ADD", "1.1.0", &json!({})), &endpoint());
    let check = |previous: Value| {
        differences(&call("CHECK", "1.1.0", &json!({"prevResult": previous})), &endpoint())
    };
    assert_eq!(check(added.clone()), [""; 0]);

    // Other plugins add to the result; that is none of our business.
    let mut chained = added.clone();
    chained["interfaces"].as_array_mut().unwrap().insert(0, json!({"name": "br0"}));
    for ip in chained["ips"].as_array_mut().unwrap() {
        ip["interface"] = 2.into();
    }
    chained["ips"].as_array_mut().unwrap().push(json!({"address": "192.0.2.1/24", "interface": 0}));
    assert_eq!(check(chained), [""; 0]);

    let edit = |path: &str, value: Value| {
        let mut previous = added.clone();
        *previous.pointer_mut(path).unwrap() = value;
        check(previous)
    };
    assert_eq!(edit("/interfaces", json!([])), ["prevResult has no interface eth0 in a sandbox"]);
    assert_eq!(
        edit("/interfaces/1/mac", json!("02:00:00:00:00:ac")),
        ["eth0 has the MAC address 02:00:00:00:00:ab, prevResult says 02:00:00:00:00:ac"]
    );
    assert_eq!(edit("/interfaces/1/mac", json!("02:00:00:00:00:AB")), [""; 0]);
    assert_eq!(
        edit("/interfaces/1/sandbox", json!("/run/netns/b")),
        ["eth0 was made in /run/netns/a, prevResult says otherwise"]
    );
    assert_eq!(
        edit("/ips/0/address", json!("10.0.0.8/32")),
        ["eth0 has 10.0.0.7/32, prevResult does not", "prevResult has 10.0.0.8/32, eth0 does not"]
    );
}
