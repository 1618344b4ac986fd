//! Policies, seen by FRR and BIRD: what they are told and what we take from them; and that a change
//! looks at all routes again without a new session.

use anyhow::ensure;
use serde_json::Value;

use crate::kit::{Bird, Daemon, Frr, LIMIT, Lab, Node, Result, eventually};

/// Us in AS 65001 with FRR, AS 65002, and BIRD, AS 65003.
struct Three {
    us: Node,
    frr: Node,
    bird: Node,
    _lab: Lab,
}

impl Three {
    fn new() -> Self {
        let lab = Lab::new();
        let (us, [frr, bird]) = lab.star(["frr", "bird"]);
        Self { us, frr, bird, _lab: lab }
    }
}

const FRR: &str = "
router bgp 65002
 bgp router-id 10.255.0.2
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 timers connect 1
 neighbor 10.0.1.1 advertisement-interval 0
 address-family ipv4 unicast
  network 10.2.0.0/24
  neighbor 10.0.1.1 activate
 exit-address-family
 address-family ipv6 unicast
  neighbor 10.0.1.1 activate
 exit-address-family
";

/// Three routes of three ASes behind it, with communities.
const BIRD: &str = "
router id 10.255.0.3;
protocol static {
  ipv4;
  route 10.3.1.0/24 blackhole; route 10.3.2.0/24 blackhole; route 10.3.3.0/24 blackhole;
}
protocol bgp ours {
  local 10.0.2.2 as 65003;
  neighbor 10.0.2.1 as 65001;
  connect delay time 1; connect retry time 1;
  ipv4 { import all; export filter {
    if net = 10.3.1.0/24 then bgp_path.prepend(64999);
    if net = 10.3.2.0/24 then { bgp_path.prepend(4200000001); bgp_path.prepend(64998); }
    bgp_community.add((65003,1));
    bgp_community.add((64000,7));
    bgp_large_community.add((65003,4,5));
    accept;
  }; };
}
";

/// Our configuration with the policies of both peers and more of the top level.
fn ours(frr: &str, bird: &str, more: &str) -> String {
    format!(
        "
router-id: 10.255.0.1
asn: 65001
networks:
  - {{prefix: 10.1.0.0/16, communities: ['65001:1', '65001:2', '65009:3']}}
  - {{prefix: 10.1.16.0/20, communities: ['65001:1', '65001:2', '65009:3']}}
  - {{prefix: 10.1.1.0/24, communities: ['65001:1', '65001:2', '65009:3']}}
  - {{prefix: 10.1.2.0/25, communities: ['65001:1', '65001:2', '65009:3']}}
  - {{prefix: fd00:a:1::/48}}
  - {{prefix: fd00:a:1:1::/64}}
peers:
  - name: frr
    address: 10.0.1.2
    asn: 65002
    next-hop-v6: fd00:1::1
    connect-retry-time: 1
    {frr}
  - name: bird
    address: 10.0.2.2
    asn: 65003
    connect-retry-time: 1
    {bird}
{more}"
    )
}

/// All of these prefixes and none of those.
fn has(route: impl Fn(&str) -> Result<Value>, these: &[&str], those: &[&str]) {
    for prefix in these {
        eventually(&format!("a route to {prefix}"), LIMIT, || route(prefix).map(drop));
    }
    for prefix in those {
        eventually(&format!("no route to {prefix}"), LIMIT, || {
            ensure!(route(prefix).is_err(), "it is there");
            Ok(())
        });
    }
}

/// Neither session has ended, as both sides see it.
fn one_session(daemon: &Daemon<'_>, frr: &Frr<'_>) {
    for name in ["frr", "bird"] {
        let counters = &daemon.neighbor(name).unwrap()["counters"];
        assert_eq!((&counters["established"], &counters["dropped"]), (&1.into(), &0.into()));
    }
    let seen = frr.neighbor("10.0.1.1").unwrap();
    assert_eq!(seen["connectionsEstablished"], 1, "{seen}");
    assert_eq!(seen["connectionsDropped"], 0, "{seen}");
}

const ALL: &str = "import: {}\n    export: {}";
const INSIDE: &str = "
prefix-sets:
  inside:
    - {prefix: 10.1.0.0/16, operator: in, min-length: 20, max-length: 24}
    - {prefix: 'fd00:a:1::/48', operator: in, min-length: 64}
";

#[test]
fn ranges_of_prefixes() {
    let lab = Three::new();
    let frr = Frr::start(&lab.frr, FRR);
    let _bird = Bird::start(&lab.bird, BIRD);
    // An external peer without policies gets nothing (RFC 8212), and is not listened to.
    let daemon = Daemon::start(&lab.us, &ours("", ALL, INSIDE));
    daemon.established("bird");
    frr.established("10.0.1.1");
    daemon.until_route("10.3.1.0/24");
    let at_frr = |prefix: &str| frr.route(prefix);
    let [whole, larger, middle, small] =
        ["10.1.0.0/16", "10.1.16.0/20", "10.1.1.0/24", "10.1.2.0/25"];
    let [six, six_inside] = ["fd00:a:1::/48", "fd00:a:1:1::/64"];
    let own = [whole, larger, middle, small, six, six_inside];
    has(at_frr, &[], &own);
    let refused = daemon.until_path("10.2.0.0/24");
    assert_eq!((&refused["used"], &refused["reason"]), (&false.into(), &"import-policy".into()));

    // Lengths from 20 to 24 inside of one, by the set's name.
    let rule = "rules: [{prefix-sets: [inside], action: accept}]";
    let policy = format!("import: {{}}\n    export: {{{rule}, default: reject}}");
    daemon.reload(&ours(&policy, ALL, INSIDE));
    has(at_frr, &[larger, middle, six_inside], &[whole, small, six, "10.3.1.0/24"]);
    eventually("FRR's route, taken", LIMIT, || {
        let path = daemon.route("10.2.0.0/24")?["paths"][0].clone();
        ensure!(path["used"] == true, "{path}");
        Ok(())
    });

    // The set changes, the policy does not.
    let other = INSIDE.replace("min-length: 20, max-length: 24", "min-length: 25");
    daemon.reload(&ours(&policy, ALL, &other.replace("min-length: 64", "max-length: 63")));
    has(at_frr, &[small, six], &[whole, larger, middle, six_inside]);

    // The other way round, and one as it is.
    let rules = "rules: [{prefix-sets: [inside], action: reject},
      {prefixes: [{prefix: 10.1.0.0/16}], action: reject}]";
    let policy = format!("import: {{}}\n    export: {{{rules}}}");
    daemon.reload(&ours(&policy, ALL, INSIDE));
    has(at_frr, &[small, six, "10.3.1.0/24"], &[whole, larger, middle, six_inside]);
    // One family.
    let rule = "rules: [{families: [ipv6-unicast], action: accept}]";
    let policy = format!("import: {{}}\n    export: {{{rule}, default: reject}}");
    daemon.reload(&ours(&policy, ALL, ""));
    has(at_frr, &[six, six_inside], &[whole, larger, middle, small, "10.3.1.0/24"]);
    daemon.reload(&ours(ALL, ALL, ""));
    has(at_frr, &own, &[]);
    one_session(&daemon, &frr);
}

#[test]
fn communities_paths_and_metrics_as_frr_is_told_them() {
    let lab = Three::new();
    let frr = Frr::start(&lab.frr, FRR);
    let _bird = Bird::start(&lab.bird, BIRD);
    let daemon = Daemon::start(&lab.us, &ours(ALL, ALL, ""));
    daemon.established("frr");
    daemon.established("bird");
    let until = |prefix: &str, check: &dyn Fn(&Value) -> bool| {
        eventually(&format!("{prefix} as it should be"), LIMIT, || {
            let path = frr.route(prefix)?["paths"][0].clone();
            ensure!(check(&path), "{path}");
            Ok(())
        });
    };
    let own = "10.1.1.0/24";
    let communities = |text: &'static str| move |p: &Value| p["community"]["string"] == text;
    until(own, &communities("65001:1 65001:2 65009:3"));
    until("10.3.1.0/24", &communities("64000:7 65003:1"));

    let export = |set: &str| {
        let policy = format!("import: {{}}\n    export: {{rules: [{{action: accept, {set}}}]}}");
        daemon.reload(&ours(&policy, ALL, ""));
    };
    export("set: {communities: ['65001:100']}");
    until(own, &communities("65001:100"));
    until("10.3.1.0/24", &communities("65001:100"));
    export("set: {communities: [], large-communities: []}");
    until(own, &|path| path.get("community").is_none());
    until("10.3.1.0/24", &|path| path.get("largeCommunity").is_none());
    export(
        "set: {delete-communities: ['65001:*', '65003:1', '65003:*:*'],
      add-communities: [no-export, '65001:8'], add-large-communities: ['65001:1:2']}",
    );
    until(own, &communities("65001:8 65009:3 no-export"));
    until("10.3.1.0/24", &communities("64000:7 65001:8 no-export"));
    until("10.3.1.0/24", &|path| path["largeCommunity"]["string"] == "65001:1:2");
    // Only with both of two communities.
    export("communities: ['65001:1', '65009:3'], set: {add-communities: ['1:1']}");
    until(own, &communities("1:1 65001:1 65001:2 65009:3"));
    until("10.3.1.0/24", &communities("64000:7 65003:1"));

    // Our own AS in front, twice more than to anybody; others in front of that.
    let paths = |text: &'static str| move |p: &Value| p["aspath"]["string"] == text;
    until("10.3.2.0/24", &paths("65001 65003 64998 4200000001"));
    export("set: {prepend-own: 2}");
    until(own, &paths("65001 65001 65001"));
    until("10.3.2.0/24", &paths("65001 65001 65001 65003 64998 4200000001"));
    export("set: {prepend-last: 1, prepend-as-path: [64501, 64502]}");
    until("10.3.2.0/24", &paths("65001 64501 64502 65003 65003 64998 4200000001"));

    let metric = |value: u32| move |p: &Value| p["metric"] == value;
    export("set: {med: 77, origin: incomplete}");
    until(own, &metric(77));
    until("10.3.3.0/24", &|path| path["origin"] == "incomplete");
    export("set: {med: {add: 5}}");
    until(own, &metric(5));
    daemon.reload(&ours(ALL, ALL, ""));
    until(own, &paths("65001"));
    until(own, &communities("65001:1 65001:2 65009:3"));
    one_session(&daemon, &frr);
}

#[test]
fn what_is_taken_from_bird_by_its_path_and_communities() {
    let lab = Three::new();
    let frr = Frr::start(&lab.frr, FRR);
    let bird = Bird::start(&lab.bird, BIRD);
    let daemon = Daemon::start(&lab.us, &ours(ALL, ALL, ""));
    daemon.established("frr");
    let [one, two, three] = ["10.3.1.0/24", "10.3.2.0/24", "10.3.3.0/24"];
    let at_frr = |prefix: &str| frr.route(prefix);
    has(at_frr, &[one, two, three], &[]);

    let import = |rules: &str, more: &str| {
        let policy = format!("import: {{rules: [{rules}]}}\n    export: {{}}");
        daemon.reload(&ours(ALL, &policy, more));
    };
    import("{as-path: {matches: ['_64999$']}, action: reject}", "");
    has(at_frr, &[two, three], &[one]);
    let sets = "as-path-sets: {far: ['^65003_.*_42[0-9]+$', '^65003$']}\n";
    import("{as-path-sets: [far], action: reject}", sets);
    has(at_frr, &[one], &[two, three]);
    import("{as-path: {length: {min: 2}}, action: reject}", "");
    has(at_frr, &[three], &[one, two]);
    let rules = "{as-path: {originated-by: [4200000001]}, action: continue, set: {local-pref: 50}},
      {community-match: {any: ['64000:*']}, action: accept, set: {delete-communities: ['64000:*'],
      med: 9}}";
    import(rules, "");
    has(at_frr, &[one, two, three], &[]);
    eventually("the changes of the import policy", LIMIT, || {
        let path = daemon.route(two)?["paths"][0].clone();
        ensure!(path["local_pref"] == 50 && path["med"] == 9, "{path}");
        let told = frr.route(two)?["paths"][0].clone();
        ensure!(told["community"]["string"] == "65003:1", "{told}");
        Ok(())
    });
    import("{community-match: {all: ['65003:4:5'], none: ['64000:8']}, action: reject}", "");
    has(at_frr, &["10.1.1.0/24"], &[one, two, three]);
    let neighbor = daemon.neighbor("bird").unwrap();
    let family = &neighbor["families"][0];
    // They are there, and not asked for again when they are wanted.
    assert_eq!((&family["received"], &family["accepted"]), (&3.into(), &0.into()), "{neighbor}");
    daemon.reload(&ours(ALL, ALL, ""));
    has(at_frr, &[one, two, three], &[]);
    let neighbor = daemon.neighbor("bird").unwrap();
    assert_eq!(neighbor["counters"]["route_refreshes_sent"], 0, "{neighbor}");

    // And what BIRD is told.
    bird.until_route("10.2.0.0/24");
    let rules = "{as-path-prefix: [65002], action: reject}, {source: local, action: accept,
      set: {med: 3}}";
    let policy = format!("import: {{}}\n    export: {{rules: [{rules}], default: reject}}");
    daemon.reload(&ours(ALL, &policy, ""));
    bird.until_no_route("10.2.0.0/24");
    eventually("our own with its metric", LIMIT, || {
        let route = bird.route("10.1.1.0/24")?;
        ensure!(route.contains("BGP.med: 3\n"), "{route}");
        Ok(())
    });
    one_session(&daemon, &frr);
}
