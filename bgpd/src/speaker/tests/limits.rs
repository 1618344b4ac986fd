//! How many prefixes a peer may announce.

use super::*;
use crate::config::MaxPrefixes;

const LIMIT: MaxPrefixes = MaxPrefixes { restart_after: Some(300), ..MaxPrefixes::new(10) };

/// Node 1 announces so many prefixes.
fn announce(network: &mut Network, count: usize) {
    let prefixes: Vec<String> = (0..count).map(|n| format!("10.{n}.0.0/16")).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    network.change(1, |c| c.networks = own(&prefixes));
    network.run_for(Duration::from_secs(2));
}

/// Two speakers, of which the first lets the second announce so much.
fn limited(seed: u64, max: MaxPrefixes) -> Network {
    let mut network = mesh(seed, &[65001, 65002]);
    network.change(0, |c| c.peers[0].max_prefixes = Some(max));
    network.run_for(MINUTE);
    announce(&mut network, 10);
    assert!(network.is_up(0, 1));
    assert_eq!(network.routes(0).len(), 10, "as many as it may");
    network
}

#[test]
fn a_peer_that_announces_too_much_is_left_alone_for_a_while() {
    let mut network = limited(1, LIMIT);
    announce(&mut network, 11);
    let status = network.neighbor(0, 1);
    assert_ne!(status.state, State::Established);
    assert_eq!((status.halted, status.families[0].limit), (true, Some(10)));
    let left = status.next_attempt.unwrap();
    assert!(left > 4 * MINUTE && left <= 5 * MINUTE, "{left:?}");
    let [sent] = status.notifications[..] else { panic!("{:?}", status.notifications) };
    assert_eq!((sent.received, sent.code), (false, 6));
    assert_eq!(sent.count, status.counters.notifications_sent);
    let reason = status.last_down.unwrap().reason.to_string();
    assert!(reason.contains("Maximum Number of Prefixes"), "{reason}");
    assert!(network.routes(0).is_empty());
    let heard = network.neighbor(1, 0).last_down.unwrap().reason;
    let crate::speaker::DownReason::NotificationReceived(heard) = heard else { panic!("{heard}") };
    assert_eq!(&heard.data[..], [0, 1, 1, 0, 0, 0, 10], "AFI, SAFI and the limit");

    // Neither side's attempts bring it up before its time, whatever it would announce.
    announce(&mut network, 5);
    network.run_for(4 * MINUTE);
    assert!(!network.is_up(0, 1));
    network.run_for(2 * MINUTE);
    assert!(network.is_up(0, 1));
    assert_eq!(network.routes(0).len(), 5);
    // What is over does not hurry the attempts to come.
    let now = network.now;
    let neighbor = network.core(0).neighbors.iter().flatten().next().unwrap();
    assert!(neighbor.pause(now).unwrap() >= Duration::from_millis(500));
}

#[test]
fn a_family_may_have_a_limit_of_its_own() {
    let mut network = limited(4, MaxPrefixes { limit_v6: Some(2), ..LIMIT });
    let v6 = |network: &mut Network, count: usize| {
        let more = (0..count).map(|n| OwnNetwork::new(net(&format!("fd00:{n}::/32"))));
        let more: Vec<OwnNetwork> = more.collect();
        network.change(1, |c| {
            c.networks.retain(|n| n.prefix.addr().is_ipv4());
            c.networks.extend(more);
        });
        network.run_for(Duration::from_secs(2));
    };
    v6(&mut network, 2);
    assert!(network.is_up(0, 1));
    assert_eq!(network.routes(0).len(), 12);
    v6(&mut network, 3);
    assert!(!network.is_up(0, 1));
    let heard = network.neighbor(1, 0).last_down.unwrap().reason;
    let crate::speaker::DownReason::NotificationReceived(heard) = heard else { panic!("{heard}") };
    assert_eq!(&heard.data[..], [0, 2, 1, 0, 0, 0, 2], "AFI, SAFI and its limit");
}

#[test]
fn without_a_time_it_waits_for_another_limit() {
    let mut network = limited(2, MaxPrefixes { restart_after: None, ..LIMIT });
    announce(&mut network, 200);
    network.run_for(100 * MINUTE);
    assert!(!network.is_up(0, 1) && network.routes(0).is_empty());
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
    let more = MaxPrefixes { limit: 200, ..LIMIT };
    network.change(0, |c| c.peers[0].max_prefixes = Some(more));
    network.run_for(MINUTE);
    assert_eq!(network.routes(0).len(), 200);
    // And a lower one ends what is too much for it.
    network.change(0, |c| c.peers[0].max_prefixes = Some(LIMIT));
    network.run_for(Duration::from_secs(1));
    assert!(!network.is_up(0, 1) && network.routes(0).is_empty());
}

#[test]
fn who_only_warns_goes_on() {
    let mut network = limited(3, MaxPrefixes { only_warn: true, restart_after: None, ..LIMIT });
    announce(&mut network, 30);
    assert!(network.is_up(0, 1));
    assert_eq!(network.routes(0).len(), 30);
    assert_eq!(network.neighbor(0, 1).counters.established, 1);
}
