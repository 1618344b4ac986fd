//! Speakers over the kernel's TCP: loopback addresses, ports that need no privilege.
//!
//! Each test has addresses of its own, and waits for conditions, never for time to pass.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests may")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use bgpd::config::{BmpStation, Monitored, Password};
use bgpd::wire::Open;
use bgpd::{
    Clear, Config, Ending, FibDelta, FibSubscription, NeighborStatus, Network, PeerConfig,
    Recording, Replay, Resolution, RouteQuery, RouteStatus, Shutdown, Speaker, SpeakerHandle,
    State, Stop, Until,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod keys;

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
