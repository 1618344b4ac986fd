//! `bgpd clear`: a session ended for a new one (RFC 4486, RFC 9003), and routes sent again within it
//! (RFC 2918), as FRR sees them.

use anyhow::{Context as _, ensure};

use crate::kit::{Daemon, Frr, LIMIT, Pair, eventually, pair};

/// A figure of FRR about us.
fn count(frr: &Frr<'_>, pointer: &str) -> anyhow::Result<u64> {
    let neighbor = frr.neighbor("10.0.1.1")?;
    let count = neighbor.pointer(pointer).and_then(serde_json::Value::as_u64);
    count.with_context(|| format!("no {pointer} in {neighbor}"))
}

fn grows(frr: &Frr<'_>, pointer: &str, what: impl FnOnce()) {
    let before = count(frr, pointer).unwrap();
    what();
    eventually(pointer, LIMIT, || {
        let now = count(frr, pointer)?;
        ensure!(now > before, "{now}, as before");
        Ok(())
    });
}

#[test]
fn frr() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    frr.until_path("10.1.0.0/24");
    us.until_route("10.2.0.0/24");

    grows(&frr, "/messageStats/routeRefreshRecv", || {
        assert_eq!(
            us.command(&["clear", "peer", "--soft-in"]).unwrap().trim(),
            "peer: asked for its routes"
        );
    });
    grows(&frr, "/messageStats/updatesRecv", || {
        us.command(&["clear", "peer", "--soft-out"]).unwrap();
    });
    assert_eq!(us.neighbor("peer").unwrap()["counters"]["established"], 1);

    let unknown = us.command(&["clear", "nobody"]).unwrap_err();
    assert!(format!("{unknown:#}").contains("there is no neighbor \"nobody\""), "{unknown:#}");

    us.command(&["clear", "--all", "--message", "new optics"]).unwrap();
    eventually("our last words", LIMIT, || {
        let log = frr.process().log();
        // Before it there may be one that ends a collision.
        let mut said = log.lines().filter(|l| l.contains("%NOTIFICATION: received from neighbor"));
        let ours = |line: &str| line.contains("6/4") && line.contains("new optics");
        ensure!(said.any(ours), "no such NOTIFICATION");
        Ok(())
    });
    eventually("the next session", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        // Both begin at once: of two connections the second may be the one that stays.
        let again = neighbor["counters"]["established"].as_u64() >= Some(2);
        ensure!(again && neighbor["state"] == "established", "{neighbor}");
        Ok(())
    });
    frr.until_path("10.1.0.0/24");
}
