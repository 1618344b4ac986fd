//! What we say that we told FRR is what FRR says that it was told.

use anyhow::ensure;
use serde_json::Value;

use crate::kit::{Daemon, Frr, LIMIT, Lab, eventually};

/// We are AS 65001 and reflect routes to `in`; `out` is of another AS.
const OURS: &str = "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: true
networks:
  - {prefix: 10.1.0.0/24, med: 5, communities: ['65001:1'], large-communities: ['65001:2:3']}
  - {prefix: 10.1.1.0/24, communities: [no-export]}
  - {prefix: 'fd01::/32', local-pref: 150}
peers:
  - name: out
    address: 10.0.1.2
    asn: 3000
    connect-retry-time: 1
    next-hop-v6: 'fd00:1::1'
    import: {}
    export:
      rules:
        - {prefixes: [{prefix: 10.9.0.0/16, operator: in}], action: reject}
        - {action: accept, set: {prepend-own: 2, med: 70, add-communities: ['65001:9']}}
  - name: in
    address: 10.0.2.2
    asn: 65001
    connect-retry-time: 1
    next-hop-v6: 'fd00:2::1'
    route-reflector-client: true
";

fn frr(asn: u32, link: u8, network: u8) -> String {
    let us = format!("10.0.{link}.1");
    format!(
        "
router bgp {asn}
 bgp router-id 10.255.0.{network}
 neighbor {us} remote-as 65001
 neighbor {us} timers connect 1
 neighbor {us} advertisement-interval 0
 address-family ipv4 unicast
  network 10.{network}.0.0/24
  network 10.9.{network}.0/24
  neighbor {us} activate
 exit-address-family
 address-family ipv6 unicast
  neighbor {us} activate
 exit-address-family
"
    )
}

/// A path of ours in FRR's words.
fn in_their_words(path: &Value) -> [Value; 8] {
    let list = |field: &str| -> Value {
        let all = path[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        let all: Vec<&str> = all.collect();
        if all.is_empty() { Value::Null } else { all.join(" ").into() }
    };
    [
        path["as_path"].clone(),
        path["next_hop"].clone(),
        path["med"].clone(),
        path["local_pref"].clone(),
        list("communities"),
        list("large_communities"),
        path["originator"].clone(),
        list("clusters"),
    ]
}

/// A path of FRR's, who says `Local` for no AS_PATH; LOCAL_PREF and MED are there also where it was not told of any.
fn theirs(path: &Value, sent: &Value) -> [Value; 8] {
    let told = |ours: &str, theirs: &str| {
        if sent[ours].is_null() { Value::Null } else { path[theirs].clone() }
    };
    let as_path = &path["aspath"]["string"];
    let hops = path["nexthops"].as_array().into_iter().flatten();
    let mut global = hops.filter(|hop| hop["scope"] != "link-local");
    [
        if as_path == "Local" { "".into() } else { as_path.clone() },
        global.next().map_or(Value::Null, |hop| hop["ip"].clone()),
        told("med", "metric"),
        told("local_pref", "locPrf"),
        path["community"]["string"].clone(),
        path["largeCommunity"]["string"].clone(),
        path["originatorId"].clone(),
        path["clusterList"]["list"].get(0).cloned().unwrap_or(Value::Null),
    ]
}

#[test]
fn what_we_say_that_we_told_is_what_frr_was_told() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["out", "in"]);
    let out = Frr::start(&one, &frr(3000, 1, 2));
    let inside = Frr::start(&two, &frr(65001, 2, 3));
    let daemon = Daemon::start(&us, OURS);
    daemon.established("out");
    daemon.established("in");
    out.until_path("10.3.0.0/24");
    inside.until_path("10.9.2.0/24");
    for (name, frr, prefixes) in [
        ("out", &out, &["10.1.0.0/24", "10.3.0.0/24", "fd01::/32"][..]),
        ("in", &inside, &["10.1.0.0/24", "10.1.1.0/24", "10.2.0.0/24", "10.9.2.0/24", "fd01::/32"]),
    ] {
        let told = daemon.ask(&["routes", "--advertised-to", name]).unwrap();
        let told = told.as_array().unwrap();
        let shown: Vec<&Value> = told.iter().map(|route| &route["prefix"]).collect();
        assert_eq!(shown, prefixes, "{name}");
        for route in told {
            let prefix = route["prefix"].as_str().unwrap();
            let sent = &route["advertised"][0];
            eventually(&format!("{prefix} at {name}"), LIMIT, || {
                let path = frr.route(prefix)?["paths"][0].clone();
                let (said, has) = (in_their_words(sent), theirs(&path, sent));
                ensure!(said == has, "we say {said:?}, it has {has:?}: {path}");
                Ok(())
            });
        }
    }
    let table = daemon.command(&["routes", "--advertised-to", "out"]).unwrap();
    assert!(table.contains("65001 65001 65001 i"), "{table}");

    // Why the others were not.
    for (prefix, name, why) in [
        ("10.1.1.0/24", "out", "no-export"),
        ("10.9.3.0/24", "out", "export-policy"),
        ("10.2.0.0/24", "out", "own-route"),
        ("10.3.0.0/24", "in", "own-route"),
    ] {
        let explained = daemon.ask(&["explain", prefix]).unwrap();
        let all = explained["neighbors"].as_array().unwrap();
        let it = all.iter().find(|it| it["neighbor"] == name).unwrap();
        assert_eq!((&it["advertised"], &it["waits"]), (&false.into(), &Value::Null), "{it}");
        assert_eq!(it["withheld"][0]["reason"], why, "{it}");
        let table = daemon.command(&["explain", prefix]).unwrap();
        assert!(table.contains(it["withheld"][0]["why"].as_str().unwrap()), "{table}");
    }
    // What has no policy is told nothing (RFC 8212).
    let bare = OURS.split("    export:").next().unwrap();
    daemon.reload(bare);
    out.until_no_route("10.1.0.0/24");
    let explained = daemon.ask(&["explain", "10.1.0.0/24"]).unwrap();
    assert_eq!(explained["neighbors"][0]["withheld"][0]["reason"], "no-policy", "{explained}");
}
