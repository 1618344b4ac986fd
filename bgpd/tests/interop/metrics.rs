//! What Prometheus is told of a session with FRR is what FRR says of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};

use crate::kit::{Daemon, Frr, LIMIT, Node, Pair, Result, With, eventually, pair};

/// The samples by name and labels, without those that name the peer.
fn scrape(us: &Node) -> Result<BTreeMap<String, f64>> {
    let text = us.run(&["curl", "-sS", "http://127.0.0.1:9179/metrics"])?;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').context("no value")?;
            let name = name.replace("peer=\"10.0.1.2\",name=\"peer\"", "");
            Ok((name.replace("{,", "{"), value.parse()?))
        })
        .collect()
}

/// Waits until samples have these values.
fn until(us: &Node, wanted: &[(&str, f64)]) {
    eventually("metrics", LIMIT, || {
        let all = scrape(us)?;
        for (name, value) in wanted {
            let found = all.get(*name).with_context(|| format!("no {name} in {all:#?}"))?;
            ensure!((found - value).abs() < 0.001, "{name} is {found}, not {value}");
        }
        Ok(())
    });
}

#[test]
fn metrics_are_what_frr_says() {
    let Pair { us, peer, .. } = &Pair::new();
    let remote = " neighbor 10.0.1.1 remote-as 65001\n";
    let bfd = format!("{remote} neighbor 10.0.1.1 bfd 3 300 300\n");
    let frr = Frr::start_with(peer, With { bfd: true }, &pair::FRR.replace(remote, &bfd));
    let fields = "bfd: {min-tx: 300, min-rx: 300}, max-prefixes: {limit: 10, limit-v6: 5}";
    let metrics = "metrics-listen: \"127.0.0.1:9179\"\n";
    us.ip("link set lo up");
    let daemon = Daemon::start(us, &(pair::ours(fields) + metrics));
    daemon.established("peer");
    until(
        us,
        &[
            ("bgp_peer_bfd_state{state=\"up\"}", 1.0),
            ("bgp_peer_bfd_state{state=\"down\"}", 0.0),
            ("bgp_peer_bfd_detection_time_seconds{}", 0.9),
            ("bgp_peer_waits_for_bfd{}", 0.0),
            ("bgp_peer_prefixes_limit{family=\"ipv4-unicast\"}", 10.0),
            ("bgp_peer_prefixes_limit{family=\"ipv6-unicast\"}", 5.0),
            // FRR tells us our own route, too, or does not.
            ("bgp_peer_prefixes_accepted{family=\"ipv4-unicast\"}", 1.0),
            ("bgp_peer_prefixes_stale{family=\"ipv4-unicast\"}", 0.0),
            ("bgp_fib_awaited", 0.0),
        ],
    );
    eventually("as many prefixes there as we say", LIMIT, || {
        let all = scrape(us)?;
        let summary = frr.json("show bgp summary json")?;
        for (theirs, ours) in [("ipv4Unicast", "ipv4-unicast"), ("ipv6Unicast", "ipv6-unicast")] {
            let received = &summary[theirs]["peers"]["10.0.1.1"]["pfxRcd"];
            let told = all[&format!("bgp_peer_prefixes_advertised{{family=\"{ours}\"}}")];
            ensure!(received.as_f64() == Some(told), "{theirs}: {received}, not {told}");
        }
        Ok(())
    });

    // FRR shuts it down.
    let before = scrape(us).unwrap();
    frr.configure(&["router bgp 65002", "neighbor 10.0.1.1 shutdown"]);
    let down = "reason=\"notification-received\",code=\"cease\",subcode=\"2\"";
    let heard = "bgp_notifications_total{direction=\"received\",code=\"cease\"}";
    let count = before.get(heard).copied().unwrap_or_default();
    until(us, &[("bgp_peer_up{}", 0.0), (&format!("bgp_peer_last_down{{{down}}}"), 1.0)]);
    // It says it again to who tries.
    let after = scrape(us).unwrap();
    assert!(after[heard] > count, "{after:#?}");
    let drops = "bgp_session_drops_total{}";
    assert!(after[drops] > before[drops], "{after:#?}");
}
