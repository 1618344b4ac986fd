//! When routes are announced: not too often (RFC 4271 section 9.2.1.1), and once they are installed.

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Embedded, Frr, LIMIT, Lab, Pair, eventually, pair};

/// Our configuration with networks and a field of the peer.
fn ours(networks: &str, interval: u16) -> String {
    format!(
        "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
networks: [{networks}]
peers:
  - {{name: peer, address: 10.0.1.2, asn: 65002, next-hop-v6: 'fd00:1::1', connect-retry-time: 1,
      advertisement-interval: {interval}}}
"
    )
}

/// One prefix with a metric.
fn network(prefix: &str, med: u32) -> String {
    format!("{{prefix: '{prefix}', med: {med}}},")
}

#[test]
fn what_changes_within_the_advertisement_interval_is_not_lost() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let [kept, gone, late, six] = ["10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24", "fd00:a:1::/64"];
    let first: String = [kept, gone, six].iter().map(|prefix| network(prefix, 1)).collect();
    let daemon = Daemon::start(&pair.us, &ours(&first, 3));
    daemon.established("peer");
    let until = |prefix: &str, med: u32| {
        eventually(&format!("{prefix} with {med}"), LIMIT, || {
            let path = frr.route(prefix)?["paths"][0].clone();
            ensure!(path["metric"] == med, "{path}");
            Ok(())
        });
    };
    for prefix in [kept, gone, six] {
        until(prefix, 1);
    }
    let told = || daemon.neighbor("peer").unwrap()["counters"]["updates_sent"].as_u64().unwrap();
    let before = told();
    for med in 2..=20 {
        let mut networks: String = [kept, six].iter().map(|prefix| network(prefix, med)).collect();
        networks += &network(late, med);
        daemon.reload(&ours(&networks, 3));
    }
    // A withdrawal does not wait; all else is there once, as it is in the end.
    frr.until_no_route(gone);
    for prefix in [kept, late, six] {
        until(prefix, 20);
    }
    // One each at the most for the first change, and for the last one of every interval.
    let sent = told() - before;
    assert!(sent < 19, "{sent} UPDATEs for 19 changes of three routes");
    // What is withdrawn while it waits does not come back.
    daemon.reload(&ours(&network(kept, 21), 3));
    daemon.reload(&ours("", 3));
    frr.until_no_route(kept);
    daemon.reload(&ours(&network(late, 22), 3));
    until(late, 22);
    assert!(frr.route(kept).is_err());
    // Without the interval: at once, in the same session.
    daemon.reload(&ours(&network(late, 23), 0));
    until(late, 23);
    let neighbor = daemon.neighbor("peer").unwrap();
    assert_eq!(neighbor["counters"]["established"], 1, "{neighbor}");
}

/// The daemon has nobody who takes its routes into a kernel, so that there is nothing to wait for.
#[test]
fn nothing_waits_for_a_kernel_that_there_is_not() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["frr", "bird"]);
    let frr = Frr::start(&one, pair::FRR);
    let bird =
        Bird::start(&two, &pair::bird("").replace("10.0.1.", "10.0.2.").replace("10.2.", "10.3."));
    let ours = |installed: bool| {
        let second =
            "  - {name: bird, address: 10.0.2.2, asn: 65002, allowas-in: 1, as-override: true,
      next-hop-v6: 'fd00:2::1', connect-retry-time: 1}\n";
        let top = format!("advertise-after-install: {installed}\n");
        [&pair::ours("as-override: true"), second, &top].concat()
    };
    let daemon = Daemon::start(&us, &ours(true));
    daemon.established("peer");
    daemon.established("bird");
    bird.until_route("10.2.0.0/24");
    frr.until_path("10.3.0.0/24");
    let status = daemon.ask(&["status"]).unwrap();
    assert_eq!(status["fib_awaited"], 0, "{status}");
    // Withdrawn and announced again, and the option changed, in the same sessions.
    frr.configure(&["router bgp 65002", "address-family ipv4 unicast", "no network 10.2.0.0/24"]);
    bird.until_no_route("10.2.0.0/24");
    daemon.reload(&ours(false));
    frr.configure(&["router bgp 65002", "address-family ipv4 unicast", "network 10.2.0.0/24"]);
    bird.until_route("10.2.0.0/24");
    daemon.reload(&ours(true));
    bird.until_route("10.2.0.0/24");
    for name in ["peer", "bird"] {
        assert_eq!(daemon.neighbor(name).unwrap()["counters"]["established"], 1);
    }
}

/// With somebody who writes the kernel, BIRD is told of FRR's route once the kernel has it.
#[test]
fn a_route_is_announced_once_the_kernel_has_it() {
    let lab = Lab::new();
    let (us, [one, two]) = lab.star(["frr", "bird"]);
    let frr = Frr::start(&one, pair::FRR);
    let bird =
        Bird::start(&two, &pair::bird("").replace("10.0.1.", "10.0.2.").replace("10.2.", "10.3."));
    let ours = |networks: &str| {
        format!(
            "
router-id: 10.255.0.1
asn: 65001
ebgp-requires-policy: false
advertise-after-install: true
networks: [{networks}]
peers:
  - {{name: frr, address: 10.0.1.2, asn: 65002, as-override: true, connect-retry-time: 1}}
  - {{name: bird, address: 10.0.2.2, asn: 65002, as-override: true, connect-retry-time: 1}}
"
        )
    };
    let speaker = Embedded::start(&us, &ours(""));
    let fib = speaker.fib();
    let (learned, late) = ("10.2.0.0/24", "10.2.2.0/24");
    let frr_network = |word: &str, prefix: &str| {
        let line = format!("{word}network {prefix}");
        frr.configure(&["router bgp 65002", "address-family ipv4 unicast", &line]);
    };
    speaker.established("frr");
    speaker.established("bird");
    let (sequence, hops) = fib.until_change(learned);
    assert_eq!(hops, ["10.0.1.2".parse::<std::net::IpAddr>().unwrap()]);
    // What is announced later does not wait, and so BIRD has been told all that does not.
    speaker.apply(&ours("{prefix: 10.1.1.0/24}"));
    bird.until_route("10.1.1.0/24");
    assert!(bird.route(learned).is_err());
    let told = || speaker.explain(learned).unwrap().advertised_to;
    assert!(told().is_empty(), "{:?}", told());
    assert!(us.kernel_route(learned).is_err());
    us.ip(&format!("route add {learned} via 10.0.1.2"));
    fib.ack(sequence);
    bird.until_route(learned);
    assert_eq!(told(), ["bird"]);

    // One that is there no longer goes at once.
    frr_network("no ", learned);
    bird.until_no_route(learned);
    let (_, hops) = fib.until_change(learned);
    assert!(hops.is_empty());

    // A consumer that goes away keeps nothing back.
    frr_network("", late);
    let _ = fib.until_change(late);
    speaker.apply(&ours("{prefix: 10.1.2.0/24}"));
    bird.until_route("10.1.2.0/24");
    assert!(bird.route(late).is_err());
    drop(fib);
    bird.until_route(late);
    for name in ["frr", "bird"] {
        assert_eq!(speaker.neighbor(name).unwrap().counters.established, 1);
    }
}
