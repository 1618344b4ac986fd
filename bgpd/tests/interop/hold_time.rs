//! Hold times: none, and the shortest one.

use std::time::Duration;

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, LIMIT, Pair, eventually, pair, throughout};

/// More than the shortest hold time.
const LONG: Duration = Duration::from_secs(4);

fn stays_up(us: &Daemon<'_>) {
    throughout("one session", LONG, || {
        let neighbor = us.neighbor("peer")?;
        let same = neighbor["counters"]["established"] == 1;
        ensure!(same && neighbor["state"] == "established", "{neighbor}");
        Ok(())
    });
}

#[test]
fn none() {
    let pair = Pair::new();
    let section = "router bgp 65002\n neighbor 10.0.1.1 timers 0 0\n";
    let _frr = Frr::start(&pair.peer, &[pair::FRR, section].concat());
    let us = Daemon::start(&pair.us, &pair::ours("hold-time: 3"));
    let session = &us.established("peer")["session"];
    assert_eq!(session["hold_time"], 0);
    assert_eq!(session["keepalive_time"], 0);
    us.until_route("10.2.0.0/24");
    stays_up(&us);
}

#[test]
fn three_seconds_with_frr() {
    let pair = Pair::new();
    let _frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours("hold-time: 3"));
    assert_eq!(us.established("peer")["session"]["hold_time"], 3);
    stays_up(&us);
}

/// BIRD stands still: its session ends by the timer, and comes back when it goes on.
#[test]
fn three_seconds_with_bird() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird("hold time 3; keepalive time 1;"));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    assert_eq!(us.established("peer")["session"]["hold_time"], 3);
    stays_up(&us);
    bird.process().signal(libc::SIGSTOP);
    eventually("the end of the session", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let said = neighbor["last_down"]["reason"].as_str().unwrap_or_default();
        ensure!(said.contains("sent Hold Timer Expired"), "{neighbor}");
        Ok(())
    });
    bird.process().signal(libc::SIGCONT);
    us.established("peer");
}
