//! Several paths to a prefix (RFC 7911): three speakers have a prefix of each family, a hub in AS
//! 65000 has a path from each, and a taker in AS 65009 is sent them all.

use anyhow::{Context as _, ensure};

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Lab, Node, Pair, Result, eventually, pair};

const PREFIXES: [&str; 2] = ["10.9.0.0/24", "fd00:9::/64"];
const SOURCES: [u32; 3] = [65011, 65012, 65013];

/// The nodes: the hub is 10.0.n.1 and fd00:n::1 on each link, the first of which is to the taker.
struct Star {
    hub: Node,
    taker: Node,
    sources: [Node; 3],
    _lab: Lab,
}

impl Star {
    fn new() -> Self {
        let lab = Lab::new();
        let (hub, taker) = (lab.node("hub"), lab.node("taker"));
        lab.link(&hub, &taker);
        let sources = ["one", "two", "three"].map(|name| {
            let node = lab.node(name);
            lab.link(&hub, &node);
            node
        });
        Self { hub, taker, sources, _lab: lab }
    }

    /// Our daemon in the place of each source.
    fn start_sources(&self) -> [Daemon<'_>; 3] {
        [0, 1, 2].map(|at| Daemon::start(&self.sources[at], &source(at, true, "")))
    }
}

fn source(at: usize, announces: bool, fields: &str) -> String {
    let link = at + 2;
    let networks = PREFIXES.map(|p| format!("{{prefix: '{p}'}}")).join(", ");
    format!(
        "
router-id: 10.255.0.{link}
asn: {}
ebgp-requires-policy: false
networks: [{}]
peers:
  - {{name: hub, address: 10.0.{link}.1, asn: 65000, next-hop-v6: 'fd00:{link}::2',
      connect-retry-time: 1, {fields}}}
",
        SOURCES[at],
        if announces { &networks } else { "" }
    )
}

/// Our daemon as the hub.
fn our_hub(fields: &str) -> String {
    let peers: String = (0..3)
        .map(|at| {
            let (link, asn) = (at + 2, SOURCES[at]);
            format!(
                "  - {{name: '{asn}', address: 10.0.{link}.2, asn: {asn}, \
                 next-hop-v6: 'fd00:{link}::1', connect-retry-time: 1}}\n"
            )
        })
        .collect();
    format!(
        "
router-id: 10.255.0.1
asn: 65000
ebgp-requires-policy: false
peers:
  - {{name: taker, address: 10.0.1.2, asn: 65009, next-hop-v6: 'fd00:1::1', connect-retry-time: 1,
      add-paths: {{{fields}}}}}
{peers}"
    )
}

const OUR_TAKER: &str = "
router-id: 10.255.0.9
asn: 65009
ebgp-requires-policy: false
peers:
  - {name: hub, address: 10.0.1.1, asn: 65000, connect-retry-time: 1, add-paths: {receive: true}}
";

const FRR_TAKER: &str = "
router bgp 65009
 bgp router-id 10.255.0.9
 neighbor 10.0.1.1 remote-as 65000
 neighbor 10.0.1.1 timers connect 1
 address-family ipv4 unicast
  neighbor 10.0.1.1 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor 10.0.1.1 activate
 exit-address-family
";

const BIRD_TAKER: &str = "
router id 10.255.0.9;
protocol bgp hub {
  local 10.0.1.2 as 65009;
  neighbor 10.0.1.1 as 65000;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 { import all; export all; add paths rx; };
  ipv6 { import all; export all; add paths rx; next hop address fd00:1::2; };
}
";

const GOBGP_TAKER: &str = "
global: {config: {as: 65009, router-id: 10.255.0.9}}
neighbors:
  - config: {neighbor-address: 10.0.1.1, peer-as: 65000}
    timers: {config: {connect-retry: 1}}
    afi-safis:
      - config: {afi-safi-name: ipv4-unicast}
        add-paths: {config: {receive: true}}
      - config: {afi-safi-name: ipv6-unicast}
        add-paths: {config: {receive: true}}
";

/// Waits until the taker has a path from each of these and no others, for both prefixes. `paths`
/// gives the AS_PATH of each path that it has to a prefix.
fn until(sources: &[u32], paths: impl Fn(&str) -> Result<Vec<String>>) {
    let mut wanted: Vec<String> = sources.iter().map(|asn| format!("65000 {asn}")).collect();
    wanted.sort_unstable();
    for prefix in PREFIXES {
        eventually(&format!("paths {wanted:?} to {prefix}"), LIMIT, || {
            let mut found = paths(prefix)?;
            found.sort_unstable();
            ensure!(found == wanted, "{found:?}");
            Ok(())
        });
    }
}

/// All three paths; two and one, as the others are withdrawn; all again.
fn withdraw_and_return(sources: &[Daemon<'_>; 3], paths: impl Fn(&str) -> Result<Vec<String>>) {
    until(&SOURCES, &paths);
    // The best one first: the others do not hang on it.
    for at in [0, 1] {
        sources[at].reload(&source(at, false, ""));
        until(&SOURCES[at + 1..], &paths);
    }
    for at in [1, 0] {
        sources[at].reload(&source(at, true, ""));
        until(&SOURCES[at..], &paths);
    }
}

fn at_frr(frr: &Frr<'_>, prefix: &str) -> Result<Vec<String>> {
    let route = frr.route(prefix)?;
    let paths = route["paths"].as_array().context("paths")?;
    let text = |path: &serde_json::Value| Some(path["aspath"]["string"].as_str()?.to_owned());
    Ok(paths.iter().filter_map(text).collect())
}

fn at_bird(bird: &Bird<'_>, prefix: &str) -> Result<Vec<String>> {
    let said = bird.route(prefix)?;
    Ok(said.lines().filter_map(|l| Some(l.trim().strip_prefix("BGP.as_path: ")?.into())).collect())
}

fn at_gobgp(gobgp: &Gobgp<'_>, prefix: &str) -> Result<Vec<String>> {
    let route = gobgp.route(prefix)?;
    let text = |path: &serde_json::Value| {
        let attributes = path["attrs"].as_array()?;
        let segments = &attributes.iter().find(|a| a["type"] == 2)?["as_paths"];
        let asns = segments[0]["asns"].as_array()?.iter().map(ToString::to_string);
        Some(asns.collect::<Vec<_>>().join(" "))
    };
    Ok(route.as_array().context("paths")?.iter().filter_map(text).collect())
}

/// The paths that we hold, if they all have numbers of their own.
fn at_ours(daemon: &Daemon<'_>, prefix: &str) -> Result<Vec<String>> {
    let route = daemon.route(prefix)?;
    let paths = route["paths"].as_array().context("paths")?;
    let mut ids: Vec<u64> = paths.iter().filter_map(|path| path["path_id"].as_u64()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), paths.len(), "{route}");
    Ok(paths.iter().filter_map(|path| Some(path["as_path"].as_str()?.to_owned())).collect())
}

fn sends_paths(neighbor: &serde_json::Value) -> usize {
    neighbor["session"]["send_paths"].as_array().unwrap().len()
}

#[test]
fn to_frr_all_paths_or_those_in_use() {
    let star = Star::new();
    let frr = Frr::start(&star.taker, FRR_TAKER);
    let hub = Daemon::start(&star.hub, &our_hub("send: all"));
    let sources = star.start_sources();
    assert_eq!(sends_paths(&hub.established("taker")), 2);
    let paths = |prefix: &str| at_frr(&frr, prefix);
    withdraw_and_return(&sources, paths);

    // One of them becomes longer than the others.
    hub.reload(&our_hub("send: used"));
    let longer = "export: {rules: [{action: accept, set: {prepend-own: 1}}]}";
    sources[2].reload(&source(2, true, longer));
    until(&SOURCES[..2], paths);
    sources[2].reload(&source(2, true, ""));
    until(&SOURCES, paths);
    // One session through all of it.
    let taker = hub.neighbor("taker").unwrap();
    assert_eq!(taker["counters"]["established"], 1, "{taker}");
}

#[test]
fn to_bird() {
    let star = Star::new();
    let bird = Bird::start(&star.taker, BIRD_TAKER);
    let hub = Daemon::start(&star.hub, &our_hub("send: all"));
    let sources = star.start_sources();
    assert_eq!(sends_paths(&hub.established("taker")), 2);
    withdraw_and_return(&sources, |prefix| at_bird(&bird, prefix));
    let taker = hub.neighbor("taker").unwrap();
    assert_eq!(taker["counters"]["established"], 1, "{taker}");
}

#[test]
fn to_gobgp() {
    let star = Star::new();
    let gobgp = Gobgp::start(&star.taker, GOBGP_TAKER);
    let hub = Daemon::start(&star.hub, &our_hub("send: all"));
    let sources = star.start_sources();
    assert_eq!(sends_paths(&hub.established("taker")), 2);
    withdraw_and_return(&sources, |prefix| at_gobgp(&gobgp, prefix));
    let taker = hub.neighbor("taker").unwrap();
    assert_eq!(taker["counters"]["established"], 1, "{taker}");
}

/// What a taker of ours agrees on with a hub that sends several paths.
fn takes_paths(taker: &Daemon<'_>) {
    let neighbor = taker.established("hub");
    let received = neighbor["session"]["receive_paths"].as_array().map(Vec::len);
    assert_eq!(received, Some(2), "{neighbor}");
    assert_eq!(sends_paths(&neighbor), 0, "{neighbor}");
}

#[test]
fn from_frr() {
    let star = Star::new();
    let mut neighbors = String::new();
    let mut active = String::new();
    let all = [65009].into_iter().chain(SOURCES);
    for (link, asn) in (1..).zip(all) {
        let at = format!("neighbor 10.0.{link}.2");
        neighbors += &format!(" {at} remote-as {asn}\n {at} timers connect 1\n");
        neighbors += &format!(" {at} advertisement-interval 0\n");
        active += &format!("  {at} activate\n");
    }
    active += "  neighbor 10.0.1.2 addpath-tx-all-paths\n exit-address-family\n";
    let config = format!(
        "\nrouter bgp 65000\n bgp router-id 10.255.0.1\n{neighbors} address-family ipv4 unicast\n\
         {active} address-family ipv6 unicast\n{active}"
    );
    let _frr = Frr::start(&star.hub, &config);
    let taker = Daemon::start(&star.taker, OUR_TAKER);
    let sources = star.start_sources();
    takes_paths(&taker);
    withdraw_and_return(&sources, |prefix| at_ours(&taker, prefix));
}

#[test]
fn from_bird() {
    let star = Star::new();
    let protocols: String = (1..)
        .zip([65009].into_iter().chain(SOURCES))
        .map(|(link, asn)| {
            let several = if asn == 65009 { "add paths tx;" } else { "" };
            format!(
                "
protocol bgp p{asn} {{
  local 10.0.{link}.1 as 65000;
  neighbor 10.0.{link}.2 as {asn};
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{ import all; export all; {several} }};
  ipv6 {{ import all; export all; next hop address fd00:{link}::1; {several} }};
}}
"
            )
        })
        .collect();
    let _bird = Bird::start(&star.hub, &format!("router id 10.255.0.1;\n{protocols}"));
    let taker = Daemon::start(&star.taker, OUR_TAKER);
    let sources = star.start_sources();
    takes_paths(&taker);
    withdraw_and_return(&sources, |prefix| at_ours(&taker, prefix));
}

/// GoBGP has the paths by itself.
#[test]
fn from_gobgp() {
    let pair = Pair::new();
    let several = "afi-safis:
      - config: {afi-safi-name: ipv4-unicast}
        add-paths: {config: {send-max: 8}}
      - config: {afi-safi-name: ipv6-unicast}
        add-paths: {config: {send-max: 8}}";
    let gobgp = Gobgp::start(&pair.peer, &pair::gobgp("", several));
    let us = Daemon::start(&pair.us, &pair::ours("add-paths: {receive: true}"));
    let neighbor = us.established("peer");
    let received = neighbor["session"]["receive_paths"].as_array().map(Vec::len);
    assert_eq!(received, Some(2), "{neighbor}");
    let hops = [("ipv4", PREFIXES[0], "10.0.1.2"), ("ipv6", PREFIXES[1], "fd00:1::2")];
    let change = |what: &str, asn: u32| {
        for (family, prefix, hop) in hops {
            let path = format!("identifier {asn} aspath {asn} nexthop {hop}");
            gobgp.run(&format!("global rib {what} {prefix} {path} -a {family}")).unwrap();
        }
    };
    let wait = |sources: &[u32]| {
        for prefix in PREFIXES {
            eventually(&format!("paths {sources:?} to {prefix}"), LIMIT, || {
                let mut found = at_ours(&us, prefix)?;
                found.sort_unstable();
                let wanted: Vec<String> = sources.iter().map(|s| format!("65002 {s}")).collect();
                ensure!(found == wanted, "{found:?}");
                Ok(())
            });
        }
    };
    for asn in SOURCES {
        change("add", asn);
    }
    wait(&SOURCES);
    change("del", SOURCES[0]);
    wait(&SOURCES[1..]);
    change("del", SOURCES[2]);
    wait(&SOURCES[1..2]);
}
