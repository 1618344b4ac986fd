//! Signed segments: TCP MD5 (RFC 2385) and TCP-AO (RFC 5925).

use bgpd::config::{ListenRange, Password, PeerAs, TcpAo, TcpAoAlgorithm, TcpAoKey};

use super::*;

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
