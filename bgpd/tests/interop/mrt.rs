//! Our table as MRT (RFC 6396, RFC 8050), read by GoBGP.

use anyhow::{Context as _, ensure};

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Lab, Result, eventually, pair};

/// FRR with attributes of many kinds.
const COLOURS: &str = "
router bgp 65002
 address-family ipv4 unicast
  neighbor 10.0.1.1 route-map colour out
 exit-address-family
ip prefix-list own permit 10.2.0.0/24
route-map colour permit 10
 match ip address prefix-list own
 set community 65002:1 no-export
 set large-community 65002:4:5
 set metric 42
 set as-path prepend 4200000001
";

const SEVERAL: &str = "afi-safis:
      - config: {afi-safi-name: ipv4-unicast}
        add-paths: {config: {send-max: 8}}
      - config: {afi-safi-name: ipv6-unicast}";

/// Nobody's neighbor.
const READER: &str = "global: {config: {as: 65009, router-id: 10.255.0.9}}";

/// Types and values of a path's attributes, as GoBGP has them.
fn attribute(path: &serde_json::Value, kind: u8) -> Option<&serde_json::Value> {
    path["attrs"].as_array()?.iter().find(|attribute| attribute["type"] == kind)
}

/// The AS_PATH of each path to a prefix.
fn as_paths(gobgp: &Gobgp<'_>, prefix: &str) -> Result<Vec<String>> {
    let route = gobgp.route(prefix)?;
    let paths = route.as_array().context("paths")?.iter();
    let text = |path| Some(attribute(path, 2)?["as_paths"][0]["asns"].to_string());
    let mut all: Vec<String> = paths.filter_map(text).collect();
    all.sort_unstable();
    Ok(all)
}

#[test]
fn gobgp_reads_our_table() {
    let lab = Lab::new();
    let us = lab.node("us");
    let [one, two, three, reader] = ["frr", "bird", "gobgp", "reader"].map(|name| lab.node(name));
    for node in [&one, &two, &three] {
        lab.link(&us, node);
    }
    let _frr = Frr::start(&one, &[pair::FRR, COLOURS].concat());
    let elsewhere = |text: String, link: u8, asn: u32, network: u8| {
        let text = text.replace("10.0.1.", &format!("10.0.{link}."));
        let text =
            text.replace("fd00:1:", &format!("fd00:{link}:")).replace("65002", &asn.to_string());
        text.replace("10.2.0.", &format!("10.{network}.0.")).replace("fd00:a:2:", "fd00:a:3:")
    };
    let _bird = Bird::start(&two, &elsewhere(pair::bird(""), 2, 65003, 3));
    let source = Gobgp::start(&three, &elsewhere(pair::gobgp("", SEVERAL), 3, 65004, 4));
    let more = "
  - {name: bird, address: 10.0.2.2, asn: 65003, next-hop-v6: 'fd00:2::1', connect-retry-time: 1}
  - {name: gobgp, address: 10.0.3.2, asn: 65004, connect-retry-time: 1, add-paths: {receive: true}}
";
    let daemon = Daemon::start(&us, &[&pair::ours(""), more].concat());
    for name in ["peer", "bird", "gobgp"] {
        daemon.established(name);
    }
    for asn in [65011, 65012] {
        let path = format!("identifier {asn} aspath {asn} nexthop 10.0.3.2");
        source.run(&format!("global rib add 10.4.0.0/24 {path} -a ipv4")).unwrap();
    }
    for prefix in ["10.2.0.0/24", "10.3.0.0/24"] {
        daemon.until_route(prefix);
    }
    eventually("both of GoBGP's paths", LIMIT, || {
        let route = daemon.route("10.4.0.0/24")?;
        ensure!(route["paths"].as_array().is_some_and(|paths| paths.len() == 2), "{route}");
        Ok(())
    });

    let file = reader.folder().join("table.mrt");
    daemon.dump(&file);
    let gobgp = Gobgp::start(&reader, READER);
    // It may end before all it has read is where it belongs; and IPv6 next hops as RFC 6396 has them
    // are more than this version can read.
    let inject = format!("mrt inject global --no-ipv6 {}", file.display());
    for (prefix, paths) in [
        ("10.1.0.0/24", &["null"][..]),
        ("10.2.0.0/24", &["[65002,4200000001]"]),
        ("10.3.0.0/24", &["[65003]"]),
        // Of several paths with identifiers it takes the last.
        ("10.4.0.0/24", &["[65004,65011]", "[65004,65012]"]),
    ] {
        eventually(&format!("{prefix} as it is in the dump"), LIMIT, || {
            gobgp.run(&inject)?;
            let found = as_paths(&gobgp, prefix)?;
            ensure!(found.len() == 1 && paths.contains(&found[0].as_str()), "{found:?}");
            Ok(())
        });
    }
    let path = gobgp.until_path("10.2.0.0/24");
    let value = |kind| attribute(&path, kind).unwrap_or_else(|| panic!("{kind}: {path}"));
    assert_eq!(value(3)["nexthop"], "10.0.1.2", "{path}");
    assert_eq!(value(4)["metric"], 42, "{path}");
    let communities = [65002_u32 << 16 | 1, 0xffff_ff01];
    assert_eq!(value(8)["communities"], serde_json::json!(communities), "{path}");
    assert_eq!(value(32)["value"][0]["ASN"], 65002, "{path}");
}
