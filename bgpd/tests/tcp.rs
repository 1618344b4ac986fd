//! Speakers over the kernel's TCP: loopback addresses, ports that need no privilege.
//!
//! Each test has addresses of its own, and waits for conditions, never for time to pass.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests may")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use bgpd::config::{
    BmpStation, ListenRange, Monitored, Password, PeerAs, TcpAo, TcpAoAlgorithm, TcpAoKey,
};
use bgpd::wire::Open;
use bgpd::{
    Clear, Config, Ending, FibDelta, FibSubscription, NeighborStatus, Network, PeerConfig,
    Recording, Replay, Resolution, RouteQuery, RouteStatus, Shutdown, Speaker, SpeakerHandle,
    State, Stop, Until,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The longest that anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A speaker before it starts: where it is and what it is.
#[derive(Clone)]
struct Site {
    address: Ipv4Addr,
    config: Config,
}

/// A speaker of AS 65000 + `host` on 127.0.`test`.`host`, with a network of each family.
fn site(test: u8, host: u8) -> Site {
    let address = Ipv4Addr::new(127, 0, test, host);
    // Free a moment ago: nobody else uses these addresses.
    let free = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap();
    let mut config = Config::new(address, 65000 + u32::from(host));
    config.listen = vec![free];
    for prefix in [format!("10.{test}.{host}.0/24"), format!("fd00:{test}:{host}::/64")] {
        config.networks.push(Network::new(prefix.parse().unwrap()));
    }
    Site { address, config }
}

impl Site {
    /// Makes `other` a peer, named by the last octet of its address.
    fn peers_with(&mut self, other: &Self) {
        let [_, _, test, host] = other.address.octets();
        let name = format!("n{host}");
        let mut peer = PeerConfig::new(name, other.address.into(), other.config.asn);
        peer.port = other.config.listen[0].port();
        peer.source_address = Some(self.address.into());
        peer.connect_retry_time = 1;
        let own = self.address.octets()[3];
        peer.next_hop_v6 = Some(format!("fd00:{test}::{own}").parse().unwrap());
        self.config.peers.push(peer);
    }

    async fn start(&self) -> SpeakerHandle {
        Speaker::start(self.config.clone()).await.unwrap()
    }
}

/// Two sites that are each other's only peers.
fn pair(test: u8) -> (Site, Site) {
    let (mut a, mut b) = (site(test, 1), site(test, 2));
    a.peers_with(&b);
    b.peers_with(&a);
    (a, b)
}

async fn neighbor(speaker: &SpeakerHandle, name: &str) -> NeighborStatus {
    let all = speaker.neighbors().await.unwrap();
    all.into_iter().find(|n| n.name == name).unwrap()
}

/// Asks until the neighbor is as wanted.
async fn until(
    speaker: &SpeakerHandle,
    name: &str,
    mut wanted: impl FnMut(&NeighborStatus) -> bool,
) -> NeighborStatus {
    let end = Instant::now() + LIMIT;
    loop {
        let status = neighbor(speaker, name).await;
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < end, "not within {LIMIT:?}: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn until_up(speaker: &SpeakerHandle, name: &str) -> NeighborStatus {
    until(speaker, name, |n| n.state == State::Established).await
}

async fn route(speaker: &SpeakerHandle, prefix: &str) -> Option<RouteStatus> {
    let query = RouteQuery { prefix: Some(prefix.parse().unwrap()), ..RouteQuery::default() };
    speaker.routes(query).await.unwrap().pop()
}

async fn until_route(speaker: &SpeakerHandle, prefix: &str) -> RouteStatus {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(route) = route(speaker, prefix).await {
            return route;
        }
        assert!(Instant::now() < end, "no {prefix} within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn with_key(site: &Site, peer: &str, key: Option<&str>) -> Config {
    let mut config = site.config.clone();
    let peer = config.peers.iter_mut().find(|p| p.name == peer).unwrap();
    peer.password = key.map(Password::new);
    config
}

#[tokio::test]
async fn a_session_carries_both_families_until_it_is_shut_down() {
    let (a, b) = pair(11);
    let (first, second) = (a.start().await, b.start().await);
    until_up(&first, "n2").await;
    until_up(&second, "n1").await;
    let v4 = until_route(&first, "10.11.2.0/24").await;
    assert_eq!(v4.next_hops[0].addr, IpAddr::from(b.address));
    assert_eq!(v4.paths[0].attributes.as_path, "65002");
    let v6 = until_route(&first, "fd00:11:2::/64").await;
    assert_eq!(v6.next_hops[0].addr, "fd00:11::2".parse::<IpAddr>().unwrap());
    until_route(&second, "10.11.1.0/24").await;
    until_route(&second, "fd00:11:1::/64").await;

    let fib = second.fib().await.unwrap();
    second.shutdown(Shutdown::Administrative("back on Monday".into())).await;
    let down = until(&first, "n2", |n| n.last_down.is_some()).await.last_down.unwrap();
    let reason = down.reason.to_string();
    assert!(reason.contains("Administrative Shutdown"), "{reason}");
    assert!(reason.contains("back on Monday"), "{reason}");
    assert!(route(&first, "10.11.2.0/24").await.is_none(), "no restart");
    // Whoever depends on a speaker that is no more is told so.
    fib.changed().await;
    assert!(fib.take(1).await.is_err());
    assert!(second.apply(b.config).await.is_err());
}

#[tokio::test]
async fn routes_outlive_the_restart_of_a_peer() {
    let (a, mut b) = pair(12);
    let (first, second) = (a.start().await, b.start().await);
    until_route(&first, "10.12.2.0/24").await;
    until_route(&second, "10.12.1.0/24").await;
    second.shutdown(Shutdown::ForRestart).await;
    drop(second);
    until(&first, "n2", |n| n.state != State::Established).await;
    let kept = route(&first, "10.12.2.0/24").await.unwrap();
    assert!(kept.paths[0].stale);
    b.config.graceful_restart.restarting = true;
    let second = b.start().await;
    let end = Instant::now() + LIMIT;
    loop {
        let route = route(&first, "10.12.2.0/24").await.unwrap();
        if !route.paths[0].stale {
            break;
        }
        assert!(Instant::now() < end, "not announced again within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(neighbor(&first, "n2").await.counters.established, 2);
    until_route(&second, "10.12.1.0/24").await;
}

/// What comes over a connection from a peer's address beside its session.
#[tokio::test]
async fn a_connection_alone_does_not_end_a_session() {
    let (a, b) = pair(13);
    let (first, second) = (a.start().await, b.start().await);
    until_up(&first, "n2").await;
    until_up(&second, "n1").await;
    for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 19], &[0xff; 64]] {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((b.address, 0).into()).unwrap();
        let mut stream = socket.connect(a.config.listen[0]).await.unwrap();
        stream.write_all(said).await.unwrap();
        // A NOTIFICATION, or nothing, and the end.
        let mut heard = Vec::new();
        let end = tokio::time::timeout(LIMIT, stream.read_to_end(&mut heard)).await.unwrap();
        assert!(end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    }
    // One that says nothing waits beside the session.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((b.address, 0).into()).unwrap();
    let mut silent = socket.connect(a.config.listen[0]).await.unwrap();
    let mut open = [0; 19];
    silent.read_exact(&mut open).await.unwrap();
    assert_eq!(open[18], 1, "our OPEN");
    for (speaker, name) in [(&first, "n2"), (&second, "n1")] {
        let status = neighbor(speaker, name).await;
        assert_eq!(status.state, State::Established);
        assert_eq!(status.counters.established, 1, "{:?}", status.last_down);
    }
}

/// The next message that is not a KEEPALIVE: its type.
async fn next_message(stream: &mut tokio::net::TcpStream) -> u8 {
    loop {
        let mut header = [0; 19];
        stream.read_exact(&mut header).await.unwrap();
        let length = u16::from_be_bytes([header[16], header[17]]);
        let mut body = vec![0; usize::from(length) - header.len()];
        stream.read_exact(&mut body).await.unwrap();
        if header[18] != 4 {
            return header[18];
        }
    }
}

#[tokio::test]
async fn the_next_connection_does_not_overtake_the_last_word() {
    let (a, b) = pair(23);
    let listener = tokio::net::TcpListener::bind(b.config.listen[0]).await.unwrap();
    let first = a.start().await;
    let (mut peer, _) = tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let mut hello = Vec::new();
    Open::new(b.config.asn, 0, b.address, Vec::new()).encode(&mut hello);
    hello.extend([0xff; 16].into_iter().chain([0, 19, 4]));
    peer.write_all(&hello).await.unwrap();
    until_up(&first, "n2").await;
    first.clear(Some("n2"), Clear::Hard { message: String::new() }).await.unwrap();
    // OPEN and UPDATEs, then the NOTIFICATION.
    while next_message(&mut peer).await != 3 {}
    // A peer that still has work to do before it acts on that.
    let early = tokio::time::timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(early.is_err(), "connected already: {early:?}");
    drop(peer);
    tokio::time::timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
}

/// False, with a message, if the kernel has no MD5 signatures for us (RFC 2385).
async fn md5_works(speaker: &SpeakerHandle, name: &str) -> bool {
    let refused = |n: &NeighborStatus| {
        let reason = n.last_error.as_ref().map(|e| e.reason.to_string());
        reason.filter(|reason| reason.contains("TCP MD5"))
    };
    let status =
        until(speaker, name, |n| n.state == State::Established || refused(n).is_some()).await;
    if let Some(reason) = refused(&status) {
        println!("skipped: this kernel has no TCP MD5 signatures for this user: {reason}");
        return false;
    }
    true
}

#[tokio::test]
async fn md5_keys_must_agree_and_change_without_a_reset() {
    let (mut a, mut b, mut c) = (site(14, 1), site(14, 2), site(14, 3));
    a.peers_with(&b);
    a.peers_with(&c);
    b.peers_with(&a);
    c.peers_with(&a);
    a.config = with_key(&a, "n2", Some("wrong"));
    a.config = with_key(&a, "n3", Some("gamma"));
    b.config = with_key(&b, "n1", Some("beta"));
    c.config = with_key(&c, "n1", Some("gamma"));
    let (first, second, third) = (a.start().await, b.start().await, c.start().await);
    if !md5_works(&first, "n3").await {
        return;
    }
    // The session with the right key has come up and said all it knows: one that ignores the
    // key would have, too.
    until_route(&first, "10.14.3.0/24").await;
    until_route(&third, "10.14.1.0/24").await;
    assert_eq!(neighbor(&first, "n2").await.counters.established, 0);
    assert_eq!(neighbor(&second, "n1").await.counters.established, 0);

    first.apply(with_key(&a, "n2", Some("beta"))).await.unwrap();
    until_up(&first, "n2").await;
    until_up(&second, "n1").await;
    until_route(&second, "10.14.1.0/24").await;

    let mut changed = with_key(&a, "n2", Some("delta"));
    changed.networks.push(Network::new("10.14.99.0/24".parse().unwrap()));
    first.apply(changed).await.unwrap();
    second.apply(with_key(&b, "n1", Some("delta"))).await.unwrap();
    // Sent with the new key, over the old connection.
    until_route(&second, "10.14.99.0/24").await;
    until_route(&third, "10.14.99.0/24").await;
    for (speaker, name) in [(&first, "n2"), (&first, "n3"), (&second, "n1"), (&third, "n1")] {
        let status = neighbor(speaker, name).await;
        assert_eq!(status.state, State::Established);
        assert_eq!(status.counters.established, 1, "{:?}", status.last_down);
    }
    // A connection without a key from the address of a peer that has one does not come about.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((b.address, 0).into()).unwrap();
    let target: SocketAddr = a.config.listen[0];
    let tried = tokio::time::timeout(Duration::from_millis(500), socket.connect(target)).await;
    assert!(!matches!(tried, Ok(Ok(_))), "the listener checks keys");
}

/// Where the kernel has no TCP-AO, nobody comes in without it, and it is said why; all others do.
#[tokio::test]
async fn who_has_tcp_ao_keys_has_no_session_without() {
    let with_ao = |site: &mut Site, peer: &str, secret: &str| {
        let key = |send_id, recv_id, algorithm| {
            let key = Password::new(format!("{secret}{}", send_id + recv_id));
            TcpAoKey { send_id, recv_id, algorithm, key }
        };
        let (here, there) = if peer == "n1" { (2, 1) } else { (1, 2) };
        let algorithms = [TcpAoAlgorithm::HmacSha1, TcpAoAlgorithm::Aes128Cmac];
        let keys = algorithms.into_iter().zip([0, 10]);
        let keys = keys.map(|(how, more)| key(here + more, there + more, how)).collect();
        let peer = site.config.peers.iter_mut().find(|p| p.name == peer).unwrap();
        peer.tcp_ao = Some(TcpAo { keys });
    };
    let [mut a, mut b, mut c, mut d, mut e] = [1, 2, 3, 4, 5].map(|host| site(17, host));
    for other in [&mut b, &mut c, &mut d, &mut e] {
        a.peers_with(other);
        other.peers_with(&a);
    }
    // The second has the key, the third has none, the fourth has a wrong one and waits.
    with_ao(&mut a, "n2", "right");
    with_ao(&mut b, "n1", "right");
    with_ao(&mut a, "n3", "right");
    with_ao(&mut a, "n4", "right");
    with_ao(&mut d, "n1", "wrong");
    a.config.peers.iter_mut().find(|p| p.name == "n4").unwrap().passive = true;
    let first = a.start().await;
    let (second, third, fourth) = (b.start().await, c.start().await, d.start().await);
    let fifth = e.start().await;
    until_route(&first, "10.17.5.0/24").await;
    until_up(&fifth, "n1").await;

    let error = |n: &NeighborStatus| n.last_error.as_ref().map(|e| e.reason.to_string());
    let lacks = |n: &NeighborStatus| error(n).is_some_and(|e| e.contains("TCP-AO: this kernel"));
    let status = until(&first, "n2", |n| n.state == State::Established || lacks(n)).await;
    assert_eq!(status.authentication, Some("tcp-ao"));
    if status.state == State::Established {
        until_route(&first, "10.17.2.0/24").await;
        until_route(&second, "10.17.1.0/24").await;
    } else {
        // Also where nobody connects.
        until(&first, "n4", lacks).await;
        until(&second, "n1", lacks).await;
        assert_eq!(neighbor(&second, "n1").await.counters.established, 0);
        // Its connections are let go without a word, here where the kernel lets them in.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((c.address, 0).into()).unwrap();
        let mut stream = socket.connect(a.config.listen[0]).await.unwrap();
        let mut heard = Vec::new();
        let end = tokio::time::timeout(LIMIT, stream.read_to_end(&mut heard)).await.unwrap();
        assert!(end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
        assert!(heard.is_empty());
    }
    for (speaker, name) in [(&first, "n3"), (&third, "n1"), (&first, "n4"), (&fourth, "n1")] {
        let status = neighbor(speaker, name).await;
        let counters = status.counters;
        assert_eq!((counters.opens_received, counters.established), (0, 0), "{name}: {status:?}");
    }
    // Without the demand they are peers like others.
    let mut open = a.config.clone();
    open.peers.iter_mut().filter(|p| p.name == "n3").for_each(|p| p.tcp_ao = None);
    first.apply(open).await.unwrap();
    until_up(&third, "n1").await;
    until_route(&first, "10.17.3.0/24").await;
    assert_eq!(neighbor(&fifth, "n1").await.counters.established, 1);
    // And with it they are none any more.
    first.apply(a.config.clone()).await.unwrap();
    until(&third, "n1", |n| n.state != State::Established).await;
    until(&first, "n3", |n| n.state != State::Established && n.last_down.is_some()).await;
    assert!(route(&first, "10.17.3.0/24").await.is_none());
}

/// One key for all of a range; who has a key of its own keeps it.
#[tokio::test]
async fn a_listen_range_has_one_key() {
    let (mut a, mut b, mut c, mut d) = (site(16, 1), site(16, 2), site(16, 3), site(16, 4));
    a.peers_with(&d);
    a.config.peers[0].passive = true;
    a.config = with_key(&a, "n4", Some("delta"));
    let mut peer = PeerConfig::template("rack", PeerAs::External);
    peer.password = Some(Password::new("all"));
    a.config.listen_ranges = vec![ListenRange::new("127.0.16.0/24".parse().unwrap(), peer)];
    for (site, key) in [(&mut b, "all"), (&mut c, "wrong"), (&mut d, "delta")] {
        site.peers_with(&a);
        site.config = with_key(site, "n1", Some(key));
    }
    let first = a.start().await;
    let (second, third, fourth) = (b.start().await, c.start().await, d.start().await);
    if !md5_works(&fourth, "n1").await {
        return;
    }
    until_up(&second, "n1").await;
    until_route(&first, "10.16.2.0/24").await;
    until_route(&first, "10.16.4.0/24").await;
    assert_eq!(neighbor(&third, "n1").await.counters.established, 0);
    let names = |all: Vec<NeighborStatus>| all.into_iter().map(|n| n.name).collect::<Vec<_>>();
    assert_eq!(names(first.neighbors().await.unwrap()), ["n4", "rack-127.0.16.2"]);

    // The key changes under the sessions, here first.
    let mut changed = a.config.clone();
    changed.listen_ranges[0].peer.password = Some(Password::new("beta"));
    changed.networks.push(Network::new("10.16.99.0/24".parse().unwrap()));
    first.apply(changed).await.unwrap();
    second.apply(with_key(&b, "n1", Some("beta"))).await.unwrap();
    until_route(&second, "10.16.99.0/24").await;
    third.apply(with_key(&c, "n1", Some("beta"))).await.unwrap();
    until_up(&third, "n1").await;
    for speaker in [&second, &fourth] {
        assert_eq!(neighbor(speaker, "n1").await.counters.established, 1);
    }
}

#[tokio::test]
async fn ttl_security_drops_what_comes_from_afar() {
    let (mut a, mut b) = pair(15);
    for site in [&mut a, &mut b] {
        site.config.peers[0].ttl_security = Some(1);
        site.config.peers[0].hold_time = 9;
    }
    let (first, second) = (a.start().await, b.start().await);
    until_up(&first, "n2").await;
    until_up(&second, "n1").await;
    until_route(&first, "10.15.2.0/24").await;
    // The second one now sends with a TTL of 1, as from 254 hops away.
    let mut far = b.config.clone();
    far.peers[0].ttl_security = None;
    second.apply(far).await.unwrap();
    let down = until(&first, "n2", |n| n.last_down.is_some()).await.last_down.unwrap();
    let reason = down.reason.to_string();
    assert!(reason.contains("Hold Timer Expired"), "{reason}");
    second.apply(b.config).await.unwrap();
    until_up(&first, "n2").await;
    until_route(&first, "10.15.2.0/24").await;
}

/// Takes all forwarding changes and says that they are carried out.
async fn install(fib: &FibSubscription) -> Vec<FibDelta> {
    let mut all = Vec::new();
    loop {
        let batch = fib.take(1).await.unwrap();
        fib.ack(batch.sequence).await.unwrap();
        all.extend(batch.deltas);
        if !batch.more {
            return all;
        }
    }
}

/// All that a driver does with its core, over real sockets and in real time.
#[tokio::test]
async fn a_run_on_record_is_the_same_run_again() {
    let (mut a, b) = pair(21);
    let station = tokio::net::TcpListener::bind((a.address, 0)).await.unwrap();
    a.config.bmp.push(BmpStation {
        address: a.address.into(),
        port: station.local_addr().unwrap().port(),
        monitor: vec![Monitored::PrePolicy, Monitored::AdjRibOut, Monitored::LocRib],
        stats_interval: 1,
    });
    a.config.advertise_after_install = true;
    let file = std::env::temp_dir().join(format!("bgpd-tcp-{}.record", std::process::id()));
    let config = with_key(&a, "n2", Some("first-key"));
    let first = Speaker::start_recorded(config, Recording::new(&file)).await.unwrap();
    let second = Speaker::start(with_key(&b, "n1", Some("first-key"))).await.unwrap();
    let fib = first.fib().await.unwrap();
    let (mut told, _) = station.accept().await.unwrap();
    // Read until the end, so that it is told all.
    let told = tokio::spawn(async move {
        let mut octets = Vec::new();
        told.read_to_end(&mut octets).await.unwrap();
        octets.len()
    });
    until_up(&first, "n2").await;
    for prefix in ["10.21.2.0/24", "fd00:21:2::/64"] {
        until_route(&first, prefix).await;
    }
    assert_eq!(install(&fib).await.len(), 2);
    let unreachable = [(b.address.into(), Resolution::Unreachable)];
    assert_eq!(first.set_next_hops(unreachable.into()).await.unwrap(), 1);
    first.set_next_hops([].into()).await.unwrap();
    let mut changed = with_key(&a, "n2", Some("second-key"));
    changed.networks.push(Network::new("10.21.9.0/24".parse().unwrap()));
    first.apply(changed).await.unwrap();
    second.apply(with_key(&b, "n1", Some("second-key"))).await.unwrap();
    until_route(&second, "10.21.9.0/24").await;
    second.shutdown(Shutdown::ForRestart).await;
    until(&first, "n2", |n| n.state != State::Established).await;
    let second = Speaker::start(with_key(&b, "n1", Some("second-key"))).await.unwrap();
    until(&first, "n2", |n| n.counters.established == 2).await;
    until_route(&second, "10.21.9.0/24").await;
    drop(fib);
    first.shutdown(Shutdown::Administrative("that was it".into())).await;
    assert!(told.await.unwrap() > 100);

    let octets = std::fs::read(&file).unwrap();
    for key in ["first-key", "second-key"] {
        assert!(!octets.windows(key.len()).any(|part| part == key.as_bytes()), "{key}");
    }
    let mut replay = Replay::open(&file).unwrap();
    let stop = replay.run(Until::End).unwrap();
    assert_eq!(stop, Stop::Marked(Ending::Finished), "{stop:?}");
    let replayed = replay.into_handle().unwrap();
    let last = neighbor(&replayed, "n2").await;
    assert_eq!((last.counters.established, last.state == State::Established), (2, false));
    let reason = last.last_down.unwrap().reason.to_string();
    assert!(reason.contains("that was it"), "{reason}");
    assert_eq!(route(&replayed, "10.21.9.0/24").await.unwrap().paths[0].neighbor, None);
    // It can be asked, and nothing else.
    assert!(replayed.apply(a.config).await.is_err());
    assert!(replayed.fib().await.is_err());
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn a_run_that_cannot_be_recorded_does_not_begin() {
    let file = std::env::temp_dir().join("bgpd-no-such-folder").join("run");
    let recording = Recording::new(&file);
    let error = Speaker::start_recorded(site(22, 1).config, recording).await.unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with(&format!("recording: {}: ", file.display())), "{error}");
}
