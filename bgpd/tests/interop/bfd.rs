//! BFD on one link and over several hops: sessions come up, cuts are noticed, routes move
//! (RFC 5880 to 5883, RFC 9384).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::kit::{
    Bird, Daemon, Frr, LIMIT, Lab, Node, Pair, Process, Result, With, eventually, pair,
};

mod load;

const FAST: &str = "bfd: {min-tx: 50, min-rx: 50}";
const BFDD: With = With { bfd: true };

/// FRR as in most tests, with BFD at 50 ms times 3.
fn frr_config(lines: &str) -> String {
    let peer = " neighbor 10.0.1.1 remote-as 65001\n";
    pair::FRR.replace(peer, &format!("{peer} neighbor 10.0.1.1 bfd 3 50 50\n{lines}"))
}

/// Our BFD session with a neighbor, once it is in a state.
fn until_bfd(us: &Daemon<'_>, name: &str, state: &str) -> Value {
    eventually(&format!("BFD with {name} {state}"), LIMIT, || {
        let bfd = us.neighbor(name)?["bfd"].take();
        ensure!(bfd["state"] == state, "{bfd}");
        Ok(bfd)
    })
}

/// The neighbor once it has been Established, and Up, for a second. FRR 8.4 may begin its BFD session
/// anew, after a word that the path is down, when BGP first shows it which address of its own is used.
fn until_settled(us: &Daemon<'_>, name: &str) -> Value {
    eventually(&format!("peace with {name}"), LIMIT, || {
        let neighbor = us.neighbor(name)?;
        let bfd = &neighbor["bfd"];
        ensure!(neighbor["state"] == "established" && bfd["state"] == "up", "{neighbor}");
        let lasts = |since: &Value| since.as_f64().is_some_and(|seconds| seconds >= 1.0);
        ensure!(lasts(&neighbor["since"]) && lasts(&bfd["since"]), "{neighbor}");
        Ok(neighbor)
    })
}

/// FRR's side of the session with us, once it is in a state.
fn until_frr(frr: &Frr<'_>, address: &str, state: &str) -> Value {
    eventually(&format!("FRR's BFD {state}"), LIMIT, || {
        let text = frr.vtysh(&["show bfd peers json"])?;
        let at = text.find('[').context("no JSON")?;
        let all: Vec<Value> = serde_json::from_str(&text[at..])?;
        let peer = all.into_iter().find(|p| p["peer"] == address).context("no such peer")?;
        ensure!(peer["status"] == state, "{peer}");
        Ok(peer)
    })
}

/// Drops what passes some hooks of a node, without a link going down.
fn drop_at(node: &Node, hooks: &[&str]) {
    let mut table = "table inet cut {\n".to_owned();
    for hook in hooks {
        let chain = format!("type filter hook {hook} priority 0; policy drop;");
        table.push_str(&format!("chain {hook} {{ {chain} }}\n"));
    }
    node.run(&["nft", &format!("{table}}}")]).unwrap();
}

/// Drops all that a node sends and receives.
fn cut(node: &Node) {
    drop_at(node, &["input", "output"]);
}

fn mend(node: &Node) {
    node.run(&["nft", "delete table inet cut"]).unwrap();
}

/// The daemon's threads and their priorities in the kernel; the lower, the sooner they run.
fn threads(us: &Daemon<'_>) -> BTreeMap<String, i64> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", us.process().pid())).unwrap();
    let of = |task: std::fs::DirEntry| {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap();
        // proc_pid_stat(5): field 18, and the second one is in parentheses.
        let stat = read("stat");
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let priority = fields.split_whitespace().nth(15).unwrap();
        (read("comm").trim().to_owned(), priority.parse().unwrap())
    };
    tasks.map(|task| of(task.unwrap())).collect()
}

/// The kernel's best route to one of the peer's addresses leads elsewhere; that to the other, which has
/// a session on the same port, does not.
#[test]
fn by_the_interface_that_is_said() {
    let pair = Pair::new();
    pair.peer.ip("address add 10.9.9.2/32 dev lo");
    pair.us.ip("address add 10.0.1.7/24 dev peer\n\
                link add second type veth peer name third\n\
                link set third up\nlink set second up\n\
                route add 10.9.9.2/32 dev second src 10.0.1.1 metric 1\n\
                route add 10.9.9.2/32 via 10.0.1.2 metric 2");
    let lines = " neighbor 10.0.1.1 ebgp-multihop 2\n neighbor 10.0.1.1 update-source 10.9.9.2\n \
                 neighbor 10.0.1.7 remote-as 65001\n neighbor 10.0.1.7 ebgp-multihop 2\n \
                 neighbor 10.0.1.7 bfd 3 50 50\n neighbor 10.0.1.7 update-source 10.0.1.2\n";
    let frr = Frr::start_with(&pair.peer, BFDD, &frr_config(lines));
    let ours = |interface: &str| {
        let fields = format!("multihop: 2, {interface} source-address: 10.0.1.1, {FAST}");
        let other = format!(
            "  - {{name: other, address: 10.0.1.2, source-address: 10.0.1.7, asn: 65002, \
             multihop: 2, {FAST}}}\n"
        );
        pair::ours(&fields).replace("address: 10.0.1.2,", "address: 10.9.9.2,") + &other
    };
    let us = Daemon::start(&pair.us, &ours(""));
    until_bfd(&us, "other", "up");
    // The peer is heard, but does not hear us.
    let deaf = until_bfd(&us, "peer", "init");
    assert_eq!((&deaf["remote_state"], &deaf["error"]), (&"down".into(), &Value::Null));

    us.reload(&ours("source-interface: peer,"));
    until_bfd(&us, "peer", "up");
    until_frr(&frr, "10.0.1.1", "up");
    assert_eq!(until_bfd(&us, "other", "up")["failures"], 0);

    // One that is not there, and is told of.
    us.reload(&ours("source-interface: fourth,"));
    eventually("the reason", LIMIT, || {
        let bfd = us.neighbor("peer")?["bfd"].take();
        let error = bfd["error"].as_str().context("no error")?;
        ensure!(error.contains("on fourth") && error.contains("No such device"), "{bfd}");
        Ok(())
    });
    assert_eq!(until_bfd(&us, "other", "up")["failures"], 0);
}

/// A link is replaced by another of the same name: sessions that are bound to it, of both families and
/// several to a port, find the new one.
#[test]
fn by_an_interface_that_came_back() {
    let lab = Lab::new();
    let (us, peer) = (lab.node("us"), lab.node("peer"));
    let link = lab.link(&us, &peer);
    // The second session of each port; the kernel removes addresses with their link.
    let second = || {
        us.ip("address add 10.0.1.11/24 dev peer\naddress add fd00:1::11/64 dev peer nodad");
        peer.ip("address add 10.0.1.12/24 dev us\naddress add fd00:1::12/64 dev us nodad");
    };
    second();
    let config = |asn: u32, interface: &str, own: u8, other: u8| {
        let neighbors =
            [("four", "10.0.1."), ("six", "fd00:1::")].into_iter().flat_map(|(n, at)| {
                [("", 0), ("-too", 10)].map(|(more, add)| {
                format!(
                    "  - {{name: {n}{more}, address: '{at}{}', source-address: '{at}{}', asn: {}, \
                     source-interface: {interface}, multihop: 2, {FAST}}}\n",
                    other + add,
                    own + add,
                    131_003 - asn
                )
            })
            });
        let neighbors: String = neighbors.collect();
        format!("router-id: 10.255.0.{own}\nasn: {asn}\npeers:\n{neighbors}")
    };
    let ours = Daemon::start(&us, &config(65001, "peer", 1, 2));
    let theirs = Daemon::start(&peer, &config(66002, "us", 2, 1));
    let names = ["four", "four-too", "six", "six-too"];
    let up = |daemon: &Daemon<'_>| names.map(|name| until_bfd(daemon, name, "up"));
    up(&ours);
    up(&theirs);
    let before = us.index("peer");
    us.ip("link del peer");
    for daemon in [&ours, &theirs] {
        for name in names {
            until_bfd(daemon, name, "down");
        }
    }
    lab.link_again(&us, &peer, &link);
    second();
    assert_ne!(us.index("peer"), before);
    up(&ours);
    up(&theirs);
}

/// At intervals that a machine which stands still for some tenths of a second does not miss.
#[test]
fn frr_on_one_link() {
    let pair = Pair::new();
    let slow = frr_config("").replace("bfd 3 50 50", "bfd 3 300 300");
    let frr = Frr::start_with(&pair.peer, BFDD, &slow);
    let us = Daemon::start(&pair.us, &pair::ours("bfd: {min-tx: 300, min-rx: 300}"));
    let before = until_settled(&us, "peer");
    let ours = eventually("the intervals agreed on", LIMIT, || {
        let bfd = until_bfd(&us, "peer", "up");
        ensure!(bfd["detection_time"] == 0.9 && bfd["tx_interval"] == 0.3, "{bfd}");
        Ok(bfd)
    });
    assert_eq!(ours["multihop"], false);
    let theirs = until_frr(&frr, "10.0.1.1", "up");
    assert_eq!(theirs["multihop"], false);
    assert_eq!(theirs["id"], ours["remote_discriminator"]);
    assert_eq!(theirs["remote-id"], ours["local_discriminator"]);
    let threads = threads(&us);
    assert!(threads["bfd"] < threads["bgp"], "it goes before: {threads:?}");

    // Other intervals and another multiplier, without a session being lost.
    us.reload(&pair::ours("bfd: {min-tx: 400, min-rx: 600, multiplier: 5}"));
    let theirs = eventually("FRR's knowledge of our intervals", LIMIT, || {
        let peer = until_frr(&frr, "10.0.1.1", "up");
        ensure!(peer["remote-transmit-interval"] == 400, "{peer}");
        Ok(peer)
    });
    assert_eq!(theirs["remote-receive-interval"], 600);
    assert_eq!(theirs["remote-detect-multiplier"], 5);
    eventually("our intervals", LIMIT, || {
        let bfd = until_bfd(&us, "peer", "up");
        ensure!(bfd["detection_time"] == 1.8 && bfd["tx_interval"] == 0.4, "{bfd}");
        ensure!(bfd["flaps"] == before["bfd"]["flaps"], "{bfd}");
        Ok(())
    });

    // A cut ends the session at once on both sides; it comes back afterwards.
    us.until_path("10.2.0.0/24");
    cut(&pair.peer);
    until_bfd(&us, "peer", "down");
    us.until_no_route("10.2.0.0/24");
    let neighbor = us.neighbor("peer").unwrap();
    let reason = neighbor["last_down"]["reason"].as_str().unwrap();
    assert!(reason.contains("BFD Down"), "{reason}");
    assert_eq!(neighbor["counters"]["established"], before["counters"]["established"]);
    until_frr(&frr, "10.0.1.1", "down");
    mend(&pair.peer);
    until_bfd(&us, "peer", "up");
    us.established("peer");
    us.until_path("10.2.0.0/24");

    // Turned off by configuration: no failure for FRR's BGP, whose session goes on.
    us.reload(&pair::ours(""));
    eventually("no BFD", LIMIT, || {
        ensure!(us.neighbor("peer")?["bfd"].is_null(), "it is there");
        Ok(())
    });
    until_frr(&frr, "10.0.1.1", "down");
}

#[test]
fn without_bfd_nothing_is_started() {
    let pair = Pair::new();
    let us = Daemon::start(&pair.us, &pair::ours(""));
    assert!(!threads(&us).contains_key("bfd"));
    let sockets = |node: &Node| node.run(&["ss", "-Hlnu"]).unwrap();
    assert_eq!(sockets(&pair.us), "");
    us.reload(&pair::ours(FAST));
    until_bfd(&us, "peer", "down");
    assert!(sockets(&pair.us).contains(":3784"));
    us.reload(&pair::ours(""));
    // It says for a while that it is off, and closes its sockets.
    eventually("no sockets", LIMIT, || {
        let left = sockets(&pair.us);
        ensure!(left.is_empty(), "{left}");
        Ok(())
    });
}

/// In strict mode BGP waits for FRR's BFD.
#[test]
fn frr_strict() {
    let pair = Pair::new();
    let frr = Frr::start_with(&pair.peer, BFDD, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours("bfd: {min-tx: 50, min-rx: 50, strict: true}"));
    until_bfd(&us, "peer", "down");
    let neighbor = us.neighbor("peer").unwrap();
    assert_eq!((&neighbor["waits_for_bfd"], &neighbor["state"]), (&true.into(), &"idle".into()));
    frr.configure(&["router bgp 65002", "neighbor 10.0.1.1 bfd 3 50 50"]);
    let neighbor = until_settled(&us, "peer");
    assert_eq!(neighbor["waits_for_bfd"], false);
}

/// IPv6, between link-local addresses.
#[test]
fn frr_link_local() {
    let pair = Pair::new();
    let (here, there) = (&pair.link.a, &pair.link.b);
    let config = format!(
        "
router bgp 65002
 bgp router-id 10.255.0.2
 neighbor {0} remote-as 65001
 neighbor {0} interface {1}
 neighbor {0} timers connect 1
 neighbor {0} bfd 3 50 50
 address-family ipv6 unicast
  network fd00:a:2::/64
  neighbor {0} activate
 exit-address-family
",
        here.link_local, there.interface
    );
    let frr = Frr::start_with(&pair.peer, BFDD, &config);
    let scope = pair.us.index(&here.interface);
    let ours =
        pair::ours(FAST).replace("10.0.1.2", &format!("'{}', scope-id: {scope}", there.link_local));
    let us = Daemon::start(&pair.us, &ours);
    let bfd = until_settled(&us, "peer")["bfd"].take();
    assert_eq!(bfd["multihop"], false);
    until_frr(&frr, &here.link_local.to_string(), "up");
    us.until_path("fd00:a:2::/64");
    cut(&pair.peer);
    us.until_no_route("fd00:a:2::/64");
    let failures = &us.neighbor("peer").unwrap()["bfd"]["failures"];
    assert!(failures.as_u64() > bfd["failures"].as_u64(), "{failures}");
}

/// RFC 5883, with a router in between.
#[test]
fn frr_over_two_hops() {
    let lab = Lab::new();
    let [us, router, peer] = lab.two_hops();
    let multihop =
        " neighbor 10.0.1.1 ebgp-multihop 3\n neighbor 10.0.1.1 update-source 10.0.2.2\n";
    let frr = Frr::start_with(&peer, BFDD, &frr_config(multihop));
    let fields = format!("multihop: 3, source-address: 10.0.1.1, {FAST}");
    let us = Daemon::start(&us, &pair::ours(&fields).replace("10.0.1.2", "10.0.2.2"));
    us.established("peer");
    let bfd = until_bfd(&us, "peer", "up");
    assert_eq!(bfd["multihop"], true);
    assert_eq!(until_frr(&frr, "10.0.1.1", "up")["multihop"], true);
    us.until_path("10.2.0.0/24");
    // The router goes on, but no packet crosses it.
    drop_at(&router, &["forward"]);
    us.until_no_route("10.2.0.0/24");
    mend(&router);
    until_bfd(&us, "peer", "up");
    us.until_path("10.2.0.0/24");
}

#[test]
fn bird_on_one_link() {
    let pair = Pair::new();
    let config = pair::bird("bfd on;");
    let bfd = "protocol bfd { interface \"*\" { interval 50 ms; multiplier 3; }; }";
    let bird = Bird::start(&pair.peer, &format!("{config}\n{bfd}"));
    let us = Daemon::start(&pair.us, &pair::ours(FAST));
    us.established("peer");
    until_bfd(&us, "peer", "up");
    eventually("BIRD's BFD", LIMIT, || {
        let said = bird.birdc("show bfd sessions")?;
        let line = said.lines().find(|l| l.starts_with("10.0.1.1")).context("no session")?;
        ensure!(line.contains("Up") && line.contains("0.150"), "{line}");
        Ok(())
    });
    us.until_path("10.2.0.0/24");
    cut(&pair.peer);
    us.until_no_route("10.2.0.0/24");
    mend(&pair.peer);
    until_bfd(&us, "peer", "up");
    us.until_path("10.2.0.0/24");
}

/// Two of ours: a restart is none of BFD's business, a cut is.
#[test]
fn a_restart_keeps_the_routes_and_a_cut_does_not() {
    let pair = Pair::new();
    let theirs = pair::ours(FAST)
        .replace("10.255.0.1", "10.255.0.2")
        .replace("asn: 65001", "asn: 65009")
        .replace("asn: 65002", "asn: 65001")
        .replace("asn: 65009", "asn: 65002")
        .replace("10.0.1.2", "10.0.1.1")
        .replace("10.1.0.0", "10.2.0.0");
    let mut them = Daemon::start(&pair.peer, &theirs);
    let us = Daemon::start(&pair.us, &pair::ours(FAST));
    us.until_path("10.2.0.0/24");
    until_bfd(&us, "peer", "up");
    let stale = |wanted: bool| {
        eventually(&format!("a path that is stale: {wanted}"), LIMIT, || {
            let route = us.route("10.2.0.0/24")?;
            ensure!(route["paths"][0]["stale"] == wanted, "{route}");
            Ok(())
        });
    };
    for kill in [false, true] {
        if kill {
            them.until_remembered();
            them.process_mut().kill();
        } else {
            them.process_mut().end(libc::SIGUSR1);
        }
        until_bfd(&us, "peer", "down");
        stale(true);
        them.restart(&theirs);
        stale(false);
        until_bfd(&us, "peer", "up");
    }
    let before = us.neighbor("peer").unwrap();
    assert_eq!(before["counters"]["established"], 3, "once for each start");
    cut(&pair.peer);
    us.until_no_route("10.2.0.0/24");
}

/// How long it takes from a cut until the next best path is used, at 50 ms times 3: less than 200 ms
/// where the machine has nothing else to do. That is printed and not compared, as machines are not
/// alike; what it is made of is compared in virtual time: the session is down exactly 150 ms after
/// the last packet (`bfd/tests/session.rs`), and the next path is used, and others are told, in the
/// turn that BFD says so (`speaker/tests/bfd.rs`).
#[test]
#[allow(clippy::print_stdout, reason = "it measures")]
fn routes_move_soon_after_a_cut() {
    let lab = Lab::new();
    let (us, [left, right]) = lab.star(["left", "right"]);
    let config = |number: u8| {
        let config = frr_config("").replace("65002", &format!("6500{}", number + 1));
        config
            .replace("10.0.1.1", &format!("10.0.{number}.1"))
            .replace("10.255.0.2", &format!("10.255.0.{}", number + 1))
    };
    let _left = Frr::start_with(&left, BFDD, &config(1));
    let _right = Frr::start_with(&right, BFDD, &config(2));
    let second = format!("  - {{name: right, address: 10.0.2.2, asn: 65003, {FAST}}}");
    let us = Daemon::start(&us, &format!("{}{second}\n", pair::ours(FAST)));
    let best = || -> Result<String> {
        let route = us.route("10.2.0.0/24")?;
        let best = route["paths"].as_array().into_iter().flatten().find(|p| p["best"] == true);
        Ok(best.context("no best path")?["neighbor"].as_str().unwrap().to_owned())
    };
    let mut took = Vec::new();
    for _ in 0..5 {
        until_settled(&us, "peer");
        until_settled(&us, "right");
        eventually("both paths", LIMIT, || {
            let route = us.route("10.2.0.0/24")?;
            ensure!(route["paths"].as_array().is_some_and(|p| p.len() == 2), "{route}");
            ensure!(best()? == "peer", "another is best");
            Ok(())
        });
        let start = Instant::now();
        cut(&left);
        // A machine that stands still meanwhile ends the other session too, for a moment.
        while best().ok().as_deref() != Some("right") {
            assert!(start.elapsed() < LIMIT, "it is not noticed");
        }
        took.push(start.elapsed());
        mend(&left);
    }
    took.sort();
    let ms = |d: &Duration| d.as_millis();
    println!("from the cut to the next path: {:?} ms", took.iter().map(ms).collect::<Vec<_>>());
}
