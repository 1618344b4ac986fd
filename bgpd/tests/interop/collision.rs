//! Both sides connect at once (RFC 4271 section 6.8).

use anyhow::ensure;

use crate::kit::{Bird, Daemon, Frr, LIMIT, Node, Pair, Process, Result, eventually, pair};

/// Connections in this state, of those that go to port 179 at the other side and those that come
/// from there.
fn connections(node: &Node, state: &str) -> Result<(usize, usize)> {
    let lines = node.run(&["ss", "-tnH", "state", state])?;
    let (out, other): (Vec<_>, Vec<_>) =
        lines.lines().partition(|line| line.trim_end().ends_with(":179"));
    Ok((out.len(), other.len()))
}

/// An address where nobody is, or no more.
fn misdirect(pair: &Pair, wrong: bool) {
    for (node, end, other) in
        [(&pair.us, &pair.link.a, &pair.link.b), (&pair.peer, &pair.link.b, &pair.link.a)]
    {
        let (address, interface) = (&other.v4, &end.interface);
        let entry = format!("{address} dev {interface}");
        let change = if wrong {
            format!("neigh replace {entry} lladdr 02:00:00:00:00:99 nud permanent")
        } else {
            format!("neigh del {entry}")
        };
        node.ip(&change);
    }
}

/// Has two connections made behind the back of both daemons, then lets both find them at once.
/// One session comes of it, and it carries routes.
fn collide(pair: &Pair, us: &Daemon<'_>, peer: &Process) {
    eventually("both sides connecting", LIMIT, || {
        let all = [us.process(), peer];
        all.iter().for_each(|process| process.signal(libc::SIGSTOP));
        let (ours, _) = connections(&pair.us, "syn-sent")?;
        let (theirs, _) = connections(&pair.peer, "syn-sent")?;
        if ours == 0 || theirs == 0 {
            all.iter().for_each(|process| process.signal(libc::SIGCONT));
        }
        ensure!(ours > 0 && theirs > 0, "{ours} from us, {theirs} from the peer");
        Ok(())
    });
    misdirect(pair, false);
    eventually("two connections", LIMIT, || {
        for node in [&pair.us, &pair.peer] {
            let (out, other) = connections(node, "established")?;
            ensure!(out == 1 && other == 1, "{}: {out} out, {other} in", node.name());
        }
        Ok(())
    });
    for process in [us.process(), peer] {
        process.signal(libc::SIGCONT);
    }
    us.established("peer");
    us.until_route("10.2.0.0/24");
    let neighbor = us.neighbor("peer").unwrap();
    assert_eq!(neighbor["counters"]["established"], 1, "{neighbor}");
    eventually("the end of the other connection", LIMIT, || {
        let (out, other) = connections(&pair.us, "established")?;
        ensure!(out + other == 1, "{out} out, {other} in");
        Ok(())
    });
    let collisions = us.process().log().matches("Connection Collision Resolution").count();
    assert!(collisions > 0, "nobody has seen a collision");
}

#[test]
fn with_frr() {
    let pair = Pair::new();
    misdirect(&pair, true);
    let frr = Frr::start(&pair.peer, pair::FRR);
    let us = Daemon::start(&pair.us, &pair::ours(""));
    collide(&pair, &us, frr.process());
    frr.until_path("10.1.0.0/24");
}

#[test]
fn with_bird() {
    let pair = Pair::new();
    misdirect(&pair, true);
    let bird = Bird::start(&pair.peer, &pair::bird(""));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    collide(&pair, &us, bird.process());
    bird.until_route("10.1.0.0/24");
}

/// The other side's identifier is the lower one: the other connection stays.
#[test]
fn with_a_bird_below() {
    let pair = Pair::new();
    misdirect(&pair, true);
    let bird = Bird::start(&pair.peer, &pair::bird("").replace("10.255.0.2", "10.254.0.2"));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    collide(&pair, &us, bird.process());
    bird.until_route("10.1.0.0/24");
}
