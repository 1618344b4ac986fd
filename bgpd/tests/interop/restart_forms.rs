//! What came after graceful restart and route refresh: over a NOTIFICATION (RFC 8538), for long (RFC
//! 9494), with a beginning and an end (RFC 7313).

use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::kit::{Bird, Daemon, Frr, Gobgp, LIMIT, Pair, eventually, pair, throughout};

const LONG_LIVED: &str = "
graceful-restart: {restart-time: 1}
long-lived-graceful-restart: {enabled: true, stale-time: 600}
";
const BIRD_LONG_LIVED: &str = "
  graceful restart on; graceful restart time 1;
  long lived graceful restart on; long lived stale time 600;
";

const NOTIFICATION: &str = "graceful-restart: {notification: true}\n";
const FRR_LONG_LIVED: &str = "
router bgp 65002
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart restart-time 1
 bgp long-lived-graceful-restart stale-time 600
";
const GOBGP_LONG_LIVED: &str = "
    graceful-restart:
      config: {enabled: true, restart-time: 1, long-lived-enabled: true, notification-enabled: true}
    afi-safis:
      - config: {afi-safi-name: ipv4-unicast}
        mp-graceful-restart: {config: {enabled: true}}
        long-lived-graceful-restart: {config: {enabled: true, restart-time: 600}}
      - config: {afi-safi-name: ipv6-unicast}
        mp-graceful-restart: {config: {enabled: true}}
        long-lived-graceful-restart: {config: {enabled: true, restart-time: 600}}
";

/// The peer is killed. Waits until its route is kept for long.
fn killed(us: &Daemon<'_>, kill: impl FnOnce()) {
    let path = us.until_path("10.2.0.0/24");
    assert!(!path["communities"].to_string().contains("llgr-stale"), "{path}");
    let neighbor = us.neighbor("peer").unwrap();
    assert_eq!(neighbor["families"][0]["long_lived_time"], 600, "{neighbor}");
    kill();
    eventually("our mark on the peer's route", LIMIT, || {
        let path = us.route("10.2.0.0/24")?["paths"][0].clone();
        ensure!(path["communities"].to_string().contains("llgr-stale"), "{path}");
        ensure!(path["used"] == true, "{path}");
        Ok(())
    });
}

#[test]
fn frr_keeps_ours_for_long() {
    let pair = Pair::new();
    let frr = Frr::start(&pair.peer, &[pair::FRR, FRR_LONG_LIVED].concat());
    let mut us = Daemon::start(&pair.us, &[&pair::ours(""), LONG_LIVED].concat());
    us.established("peer");
    frr.until_path("10.1.0.0/24");
    us.process_mut().kill();
    eventually("FRR's mark on our route", LIMIT, || {
        let route = frr.route("10.1.0.0/24")?;
        let communities = route["paths"][0]["community"]["string"].as_str().unwrap_or_default();
        ensure!(communities.contains("llgr-stale"), "{route}");
        Ok(())
    });
}

#[test]
fn we_keep_frrs_for_long() {
    let pair = Pair::new();
    let mut frr = Frr::start(&pair.peer, &[pair::FRR, FRR_LONG_LIVED].concat());
    let us = Daemon::start(&pair.us, &[&pair::ours(""), LONG_LIVED].concat());
    us.established("peer");
    killed(&us, || frr.kill());
    frr.start_bgpd();
    us.established("peer");
    eventually("FRR's route, announced again", LIMIT, || {
        let path = us.until_path("10.2.0.0/24");
        ensure!(!path["communities"].to_string().contains("llgr-stale"), "{path}");
        Ok(())
    });
}

#[test]
fn gobgp_keeps_ours_for_long() {
    let pair = Pair::new();
    let gobgp = Gobgp::start(&pair.peer, &pair::gobgp("", GOBGP_LONG_LIVED));
    let mut us = Daemon::start(&pair.us, &[&pair::ours(""), LONG_LIVED].concat());
    us.established("peer");
    gobgp.until_path("10.1.0.0/24");
    us.process_mut().kill();
    eventually("GoBGP's mark on our route", LIMIT, || {
        let route = gobgp.route("10.1.0.0/24")?.to_string();
        // LLGR_STALE as one number.
        ensure!(route.contains(&0xffff_0006_u32.to_string()), "{route}");
        Ok(())
    });
}

#[test]
fn we_keep_gobgps_for_long() {
    let pair = Pair::new();
    let mut gobgp = Gobgp::start(&pair.peer, &pair::gobgp("", GOBGP_LONG_LIVED));
    let us = Daemon::start(&pair.us, &[&pair::ours(""), LONG_LIVED].concat());
    us.established("peer");
    gobgp.run("global rib add 10.2.0.0/24 -a ipv4").unwrap();
    killed(&us, || gobgp.kill());
}

/// Both agree to keep routes over a NOTIFICATION.
fn over_a_notification(pair: &Pair) -> (Daemon<'_>, Gobgp<'_>) {
    let long = GOBGP_LONG_LIVED.replace("restart-time: 1,", "restart-time: 600,");
    let gobgp = Gobgp::start(&pair.peer, &pair::gobgp("", &long));
    let us = Daemon::start(&pair.us, &(pair::ours("") + NOTIFICATION));
    us.established("peer");
    gobgp.run("global rib add 10.2.0.0/24 -a ipv4").unwrap();
    us.until_route("10.2.0.0/24");
    gobgp.until_path("10.1.0.0/24");
    let neighbor = us.neighbor("peer").unwrap();
    assert_eq!(neighbor["session"]["restart_notification"], true, "{neighbor}");
    (us, gobgp)
}

#[test]
fn gobgp_resets_the_session_and_no_route_is_lost() {
    let pair = Pair::new();
    let (us, gobgp) = over_a_notification(&pair);
    gobgp.run("neighbor 10.0.1.1 reset").unwrap();
    eventually("GoBGP's reset", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let said = neighbor["last_down"]["reason"].as_str().unwrap_or_default();
        ensure!(said.contains("received Cease/Administrative Reset"), "{neighbor}");
        us.route("10.2.0.0/24").map(drop)
    });
    // GoBGP is in no hurry to come back.
    throughout("GoBGP's route", Duration::from_secs(2), || us.route("10.2.0.0/24").map(drop));
    assert_eq!(us.until_path("10.2.0.0/24")["used"], true);
}

#[test]
fn we_reset_the_session_and_gobgp_loses_no_route() {
    let pair = Pair::new();
    let (us, gobgp) = over_a_notification(&pair);
    us.reload(&(pair::ours("families: [ipv4-unicast]") + NOTIFICATION));
    eventually("GoBGP's mark on our route", LIMIT, || {
        let path = gobgp.route("10.1.0.0/24")?[0].clone();
        ensure!(path["stale"] == true, "{path}");
        Ok(())
    });
    throughout("our route", Duration::from_secs(2), || gobgp.route("10.1.0.0/24").map(drop));
}

#[test]
fn bird_keeps_ours_for_long() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird(BIRD_LONG_LIVED));
    let mut us = Daemon::start(&pair.us, &[&pair::ours(""), LONG_LIVED].concat());
    us.established("peer");
    bird.until_route("10.1.0.0/24");
    us.process_mut().kill();
    eventually("BIRD's mark on our route", LIMIT, || {
        let route = bird.route("10.1.0.0/24")?;
        ensure!(route.contains("(65535,6)"), "{route}");
        Ok(())
    });
}

#[test]
fn we_keep_birds_for_long() {
    let pair = Pair::new();
    let mut bird = Bird::start(&pair.peer, &pair::bird(BIRD_LONG_LIVED));
    let us = Daemon::start(&pair.us, &[&pair::ours(""), LONG_LIVED].concat());
    us.established("peer");
    us.until_route("10.2.0.0/24");
    let neighbor = us.neighbor("peer").unwrap();
    assert_eq!(neighbor["families"][0]["long_lived_time"], 600, "{neighbor}");
    bird.kill();
    eventually("our mark on BIRD's route", LIMIT, || {
        let path = us.until_path("10.2.0.0/24");
        let communities = path["communities"].to_string();
        ensure!(communities.contains("llgr-stale"), "{path}");
        Ok(())
    });
    bird.restart();
    us.established("peer");
    eventually("BIRD's route, announced again", LIMIT, || {
        let path = us.until_path("10.2.0.0/24");
        ensure!(!path["communities"].to_string().contains("llgr-stale"), "{path}");
        Ok(())
    });
}

#[test]
fn bird_and_we_say_where_a_refresh_begins_and_ends() {
    let pair = Pair::new();
    let bird = Bird::start(&pair.peer, &pair::bird(""));
    let us = Daemon::start(&pair.us, &pair::ours(""));
    us.established("peer");
    us.until_route("10.2.0.0/24");
    bird.until_route("10.1.0.0/24");
    let neighbor = us.neighbor("peer").unwrap();
    assert_eq!(neighbor["session"]["enhanced_route_refresh"], true, "{neighbor}");
    // It sends its routes again: beginning and end of each family.
    bird.birdc("reload out ours").unwrap();
    eventually("BIRD's refresh", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let heard = neighbor["counters"]["route_refreshes_received"].as_u64();
        ensure!(heard >= Some(4), "{neighbor}");
        for family in [0, 1] {
            let family = &neighbor["families"][family];
            ensure!(family["refreshing"] == false && family["received"] == 1, "{neighbor}");
        }
        Ok(())
    });
    // It asks for ours: what it has not got again by our end, it forgets.
    let refreshes = us.neighbor("peer").unwrap()["counters"]["route_refreshes_sent"].as_u64();
    bird.birdc("reload in ours").unwrap();
    eventually("our refresh", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let said = neighbor["counters"]["route_refreshes_sent"].as_u64();
        ensure!(said >= refreshes.map(|n| n + 4), "{neighbor}");
        Ok(())
    });
    throughout("our route at BIRD", Duration::from_secs(1), || bird.route("10.1.0.0/24").map(drop));
    us.established("peer");
}

#[test]
fn frr_resets_the_session_and_no_route_is_lost() {
    let pair = Pair::new();
    let notification = "
router bgp 65002
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart notification
 no bgp hard-administrative-reset
";
    let frr = Frr::start(&pair.peer, &[pair::FRR, notification].concat());
    let us = Daemon::start(&pair.us, &(pair::ours("") + NOTIFICATION));
    us.established("peer");
    us.until_route("10.2.0.0/24");
    let neighbor = us.neighbor("peer").unwrap();
    assert_eq!(neighbor["session"]["restart_notification"], true, "{neighbor}");
    frr.vtysh(&["clear bgp 10.0.1.1"]).unwrap();
    eventually("FRR's reset", LIMIT, || {
        let neighbor = us.neighbor("peer")?;
        let said = neighbor["last_down"]["reason"].as_str().unwrap_or_default();
        ensure!(said.contains("received Cease/Administrative Reset"), "{neighbor}");
        us.route("10.2.0.0/24").map(drop)
    });
    us.established("peer");
    // Its routes stay until it has ended its announcements, as it says that it still forwards (F bit).
    // FRR may end them before it has made any, which shortly costs it those; hence not just a look at the
    // route.
    eventually("what FRR did not announce again to go", LIMIT, || {
        let log = us.process().log();
        let (_, since) = log.split_once("NOTIFICATION received").context("no NOTIFICATION")?;
        let (kept, ended) = since.split_once("End-of-RIB received").context("no End-of-RIB")?;
        assert!(!kept.contains("stale paths removed"), "{log}");
        ensure!(ended.matches("stale paths removed").count() == 2, "not for both families");
        Ok(())
    });
    us.until_route("10.2.0.0/24");
}
