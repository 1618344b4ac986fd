//! The message of an administrative shutdown (RFC 9003), both ways.

use anyhow::{Context as _, ensure};

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Pair, eventually, pair};

const TEXT: &str = "back at noon, ☕";

/// Waits until our last session was ended for this reason, and text.
fn ended(us: &Daemon<'_>, reason: &str, text: &str) {
    eventually("the peer's last words", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let said = neighbor["last_down"]["reason"].as_str().unwrap_or_default();
        ensure!(said.contains(reason) && said.contains(text), "{neighbor}");
        Ok(())
    });
}

fn shut_down(us: &Daemon<'_>) {
    us.established("peer");
    us.reload(&pair::ours(&format!("shutdown: '{TEXT}'")));
}

#[test]
fn frr_reads_ours() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours(""));
    shut_down(&us);
    eventually("our last words", LIMIT, || {
        // Its next attempt at a session, soon after, overwrites what `show` has.
        let log = frr.process().log();
        let said = log.lines().find(|l| l.contains("%NOTIFICATION: received from neighbor"));
        let said = said.context("no NOTIFICATION")?;
        ensure!(said.contains("6/2") && said.contains("back at noon"), "{said}");
        Ok(())
    });
    us.reload(&pair::ours(""));
    us.established("peer");
}

#[test]
fn bird_reads_ours() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird(""));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    shut_down(&us);
    eventually("our last words", LIMIT, || {
        let all = bird.birdc("show protocols all ours")?;
        ensure!(all.contains("Administrative shutdown") && all.contains(TEXT), "{all}");
        Ok(())
    });
}

#[test]
fn we_read_that_of_frr() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    frr.configure(&["router bgp 65002", "neighbor 10.0.1.1 shutdown message back at noon"]);
    ended(&us, "Administrative Shutdown", "back at noon");
}

#[test]
fn we_read_that_of_bird() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird(""));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    bird.birdc("disable ours \"noon\"").unwrap();
    ended(&us, "Administrative Shutdown", "noon");
}

#[test]
fn we_read_that_of_gobgp() {
    let pair = Pair::new();
    let gobgp = Gobgp::start(&pair.peer, &pair::gobgp("", ""));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    gobgp.run("neighbor 10.0.1.1 shutdown --reason noon").unwrap();
    ended(&us, "Administrative Shutdown", "noon");
}

/// FRR's `clear` is an Administrative Reset: the session comes back by itself.
#[test]
fn a_reset_is_not_for_long() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    frr.vtysh(&["clear bgp *"]).unwrap();
    eventually("the next session", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let again = neighbor["counters"]["established"] == 2;
        ensure!(again && neighbor["state"] == "established", "{neighbor}");
        Ok(())
    });
    ended(&us, "Administrative Reset", "");
}
