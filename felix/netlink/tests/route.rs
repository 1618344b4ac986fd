//! Links, addresses, routes, neighbours and conntrack against the real kernel. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;

use netlink::link::{AddrGenMode, InetConf, Veth};
use netlink::netns::Netns;
use netlink::route::{Hop, Kind, Route};
use netlink::{Batch, Protocol, Socket, addr, conntrack, link, neigh, route};

const HOST_MAC: [u8; 6] = [0xee; 6];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn inside<T: Send>(work: impl FnOnce(&mut Socket) -> T + Send) -> T {
    let netns = Netns::create().unwrap();
    netns.run(|| work(&mut Socket::open(Protocol::Route).unwrap())).unwrap()
}

fn veth(socket: &mut Socket, pod: &Netns, index: u32) -> netlink::Result<()> {
    let mut batch = Batch::new();
    link::add_veth(
        &mut batch,
        &Veth {
            name: "cali1",
            index,
            mac: HOST_MAC,
            group: 90,
            peer_name: "eth0",
            peer_mac: POD_MAC,
            peer_netns: pod.as_fd(),
            mtu: 1450,
        },
    );
    socket.apply(&mut batch)
}

#[test]
fn a_table_that_nothing_was_written_to_is_empty() {
    inside(|host| assert_eq!(route::list(host, route::MAIN, 90).unwrap(), []));
}

#[test]
fn a_veth_pair_is_born_in_both_namespaces() {
    let pod = Netns::create().unwrap();
    inside(|host| {
        veth(host, &pod, 1_000_001).unwrap();
        let again = veth(host, &pod, 1_000_002).unwrap_err();
        assert!(again.is(libc::EEXIST), "{again}");

        let mut batch = Batch::new();
        let conf = [(InetConf::Forwarding, 1), (InetConf::ProxyArp, 1)];
        link::set_conf(&mut batch, 1_000_001, &conf, Some(AddrGenMode::None));
        link::set_up(&mut batch, 1_000_001);
        host.apply(&mut batch).unwrap();

        let ours = link::by_index(host, 1_000_001).unwrap().unwrap();
        assert_eq!((&*ours.name, ours.mtu, ours.group), ("cali1", 1450, 90));
        assert_eq!(ours.mac, Some(HOST_MAC));
        assert_eq!(ours.kind.as_deref(), Some("veth"));
        assert_eq!(ours.addr_gen_mode, Some(1));
        assert!(ours.is_up() && !ours.is_running());
        let read = |file| std::fs::read_to_string(file).unwrap();
        assert_eq!(read("/proc/sys/net/ipv4/conf/cali1/proxy_arp"), "1\n");
        assert_eq!(link::by_name(host, "cali1").unwrap().unwrap(), ours);
        assert_eq!(link::by_name(host, "cali2").unwrap(), None);
        assert_eq!(link::by_index(host, 77).unwrap(), None);

        let theirs = pod.run(|| {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            let mut batch = Batch::new();
            link::set_up_by_name(&mut batch, "lo");
            link::set_up_by_name(&mut batch, "eth0");
            socket.apply(&mut batch).unwrap();
            link::by_name(&mut socket, "eth0").unwrap().unwrap()
        });
        let theirs = theirs.unwrap();
        assert_eq!((theirs.mac, theirs.mtu), (Some(POD_MAC), 1450));
        assert!(link::by_index(host, 1_000_001).unwrap().unwrap().is_running());
        assert!(link::list(host).unwrap().iter().any(|link| link.name == "cali1"));

        let mut monitor = Socket::open(Protocol::Route).unwrap();
        monitor.subscribe(link::NOTIFICATIONS).unwrap();
        let mut batch = Batch::new();
        link::delete_group(&mut batch, 90);
        host.apply(&mut batch).unwrap();
        let mut removed = false;
        while let Some(messages) = monitor.receive().unwrap() {
            for message in messages {
                removed |= matches!(
                    link::event(&message),
                    Some(link::Event::Removed(gone)) if gone.index == 1_000_001
                );
            }
        }
        assert!(removed);
        let mut batch = Batch::new();
        link::delete(&mut batch, 1_000_001);
        assert!(host.apply(&mut batch).unwrap_err().is(libc::ENODEV));
    });
}

#[test]
fn a_name_is_refused_with_the_kernels_words() {
    let pod = Netns::create().unwrap();
    inside(|host| {
        let mut batch = Batch::new();
        link::add_veth(
            &mut batch,
            &Veth {
                name: "a-name-that-is-too-long",
                index: 0,
                mac: HOST_MAC,
                group: 0,
                peer_name: "eth0",
                peer_mac: POD_MAC,
                peer_netns: pod.as_fd(),
                mtu: 1500,
            },
        );
        match host.apply(&mut batch).unwrap_err() {
            netlink::Error::Kernel(error) => assert!(error.message.is_some(), "{error}"),
            other => panic!("{other}"),
        }
    });
}

#[test]
fn routes_are_read_as_written() {
    let pod = Netns::create().unwrap();
    inside(|host| {
        veth(host, &pod, 500).unwrap();
        let mut batch = Batch::new();
        link::set_up(&mut batch, 500);
        for (address, prefix_length) in [("10.0.0.1", 24), ("fd00::1", 64), ("fe80::1", 64)] {
            let address = addr::Address { index: 500, address: ip(address), prefix_length };
            addr::add(&mut batch, &address);
        }
        host.apply(&mut batch).unwrap();
        assert_eq!(
            addr::list(host).unwrap().iter().filter(|address| address.index == 500).count(),
            3,
        );
        pod.run(|| {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            let mut batch = Batch::new();
            link::set_up_by_name(&mut batch, "eth0");
            socket.apply(&mut batch).unwrap();
        })
        .unwrap();

        let of = |text: &str, length: u8, kind, hops: &[(Option<&str>, Option<u32>)]| Route {
            destination: (ip(text), length),
            table: route::MAIN,
            protocol: 90,
            metric: 512,
            kind,
            hops: hops
                .iter()
                .map(|(gateway, interface)| Hop { gateway: gateway.map(ip), interface: *interface })
                .collect(),
        };
        let wanted = [
            of("10.1.0.5", 32, Kind::Unicast, &[(None, Some(500))]),
            of("fd01::5", 128, Kind::Unicast, &[(None, Some(500))]),
            of("10.2.0.0", 26, Kind::Blackhole, &[]),
            of("fd02::", 122, Kind::Blackhole, &[]),
            of("10.3.0.0", 26, Kind::Unicast, &[(Some("10.0.0.7"), Some(500))]),
            of("fd03::", 122, Kind::Unicast, &[(Some("fd00::7"), Some(500))]),
            of(
                "10.4.0.0",
                26,
                Kind::Unicast,
                &[(Some("10.0.0.7"), Some(500)), (Some("10.0.0.8"), Some(500))],
            ),
            of(
                "fd04::",
                122,
                Kind::Unicast,
                &[(Some("fd00::7"), Some(500)), (Some("fd00::8"), Some(500))],
            ),
            of("10.5.0.0", 26, Kind::Unicast, &[(Some("fe80::7"), Some(500))]),
            of(
                "10.7.0.0",
                26,
                Kind::Unicast,
                &[(Some("fe80::7"), Some(500)), (Some("fe80::8"), Some(500))],
            ),
            of("0.0.0.0", 0, Kind::Unicast, &[(Some("10.0.0.9"), Some(500))]),
            of("::", 0, Kind::Unicast, &[(Some("fe80::9"), Some(500))]),
        ];
        let mut batch = Batch::new();
        for wanted in &wanted {
            route::replace(&mut batch, wanted);
        }
        // One of them fails, the others do not mind.
        let unreachable = of("10.6.0.0", 26, Kind::Unicast, &[(Some("192.0.2.1"), None)]);
        route::replace(&mut batch, &unreachable);
        let failures = host.execute(&mut batch).unwrap();
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0].index, wanted.len());

        let mut read = route::list(host, route::MAIN, 90).unwrap();
        let mut expected = wanted.to_vec();
        let order = |route: &Route| (route.destination.0, route.destination.1);
        read.sort_by_key(order);
        expected.sort_by_key(order);
        assert_eq!(read, expected);
        assert_eq!(route::list(host, route::MAIN, 91).unwrap(), []);
        assert_eq!(route::lookup(host, ip("10.1.0.5")).unwrap(), wanted[0]);
        assert_eq!(route::lookup(host, ip("fd01::5")).unwrap(), wanted[1]);

        // Kind and way out change in place; a delete tells protocol and metric apart.
        let mut batch = Batch::new();
        let changed = [
            of("10.1.0.5", 32, Kind::Blackhole, &[]),
            of("fd01::5", 128, Kind::Blackhole, &[]),
            of("10.4.0.0", 26, Kind::Unicast, &[(Some("10.0.0.9"), Some(500))]),
            of("fd04::", 122, Kind::Unicast, &[(Some("fd00::9"), Some(500))]),
        ];
        for changed in &changed {
            route::replace(&mut batch, changed);
        }
        host.apply(&mut batch).unwrap();
        let read = route::list(host, route::MAIN, 90).unwrap();
        assert_eq!(read.len(), wanted.len());
        for changed in &changed {
            assert!(read.contains(changed), "{changed:?} in {read:?}");
        }
        let mut batch = Batch::new();
        route::delete(&mut batch, &Route { metric: 7, ..wanted[4].clone() });
        route::delete(&mut batch, &Route { protocol: 91, ..wanted[4].clone() });
        assert_eq!(host.execute(&mut batch).unwrap().len(), 2);
        let mut batch = Batch::new();
        for wanted in &wanted {
            route::delete(&mut batch, wanted);
        }
        host.apply(&mut batch).unwrap();
        assert_eq!(route::list(host, route::MAIN, 90).unwrap(), []);
    });
}

#[test]
fn neighbours_are_read_as_written() {
    let pod = Netns::create().unwrap();
    inside(|host| {
        veth(host, &pod, 500).unwrap();
        let wanted = [
            neigh::Neighbour { index: 500, address: ip("10.0.0.7"), mac: POD_MAC },
            neigh::Neighbour { index: 500, address: ip("fd00::7"), mac: POD_MAC },
        ];
        let mut batch = Batch::new();
        link::set_up(&mut batch, 500);
        for neighbour in &wanted {
            neigh::set(&mut batch, neighbour);
        }
        host.apply(&mut batch).unwrap();
        let mut read = neigh::list(host).unwrap();
        read.sort_by_key(|neighbour| neighbour.address);
        assert_eq!(read, wanted);
    });
}

#[test]
fn flows_are_found_marked_and_forgotten() {
    inside(|host| {
        let mut batch = Batch::new();
        link::set_up_by_name(&mut batch, "lo");
        host.apply(&mut batch).unwrap();
        // Tracking starts with the first rule that needs it.
        let track = "add table inet t; add chain inet t c { type filter hook input priority 0; }; \
                     add rule inet t c ct state new counter";
        let nft = std::process::Command::new("nft").arg(track).status().unwrap();
        assert!(nft.success());

        let server4 = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server6 = UdpSocket::bind("[::1]:0").unwrap();
        let client4 = UdpSocket::bind("127.0.0.9:0").unwrap();
        let client6 = UdpSocket::bind("[::1]:0").unwrap();
        client4.send_to(b"x", server4.local_addr().unwrap()).unwrap();
        client6.send_to(b"x", server6.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 8];
        let (_, from) = server4.recv_from(&mut buffer).unwrap();
        server4.send_to(b"y", from).unwrap();

        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let find = |socket: &mut Socket, address, role| {
            conntrack::of_address(socket, ip(address), role).unwrap()
        };
        let of_client = find(&mut socket, "127.0.0.9", conntrack::Role::Initiator);
        assert_eq!(of_client.len(), 1, "{of_client:?}");
        let flow = of_client[0];
        assert_eq!(flow.original.destination, ip("127.0.0.1"));
        assert_eq!(
            flow.original.layer4,
            conntrack::Layer4::Ports {
                source: client4.local_addr().unwrap().port(),
                destination: server4.local_addr().unwrap().port(),
            }
        );
        assert!(flow.replied);
        assert_eq!(find(&mut socket, "127.0.0.9", conntrack::Role::Responder), []);
        assert_eq!(find(&mut socket, "127.0.0.1", conntrack::Role::Responder), of_client);
        assert_eq!(find(&mut socket, "::1", conntrack::Role::Responder).len(), 1);
        assert_eq!(conntrack::all(&mut socket, Some).unwrap().len(), 2);

        for (mark, mask, expected) in
            [(0x5, 0xf, 0x5), (0x10_0000, 0x10_0000, 0x10_0005), (0, 1, 0x10_0004)]
        {
            let mut batch = Batch::new();
            conntrack::set_mark(&mut batch, &flow, mark, mask);
            socket.apply(&mut batch).unwrap();
            let now = find(&mut socket, "127.0.0.9", conntrack::Role::Initiator);
            assert_eq!(now[0].mark, expected);
        }
        let six = find(&mut socket, "::1", conntrack::Role::Initiator)[0];
        let mut batch = Batch::new();
        conntrack::set_mark(&mut batch, &six, 1, 1);
        conntrack::delete_of_address(
            &mut batch,
            "127.0.0.9".parse().unwrap(),
            conntrack::Role::Initiator,
        );
        socket.apply(&mut batch).unwrap();
        assert_eq!(conntrack::all(&mut socket, |e| Some(e.mark)).unwrap(), [1], "the other stays");
        let mut batch = Batch::new();
        conntrack::set_mark(&mut batch, &flow, 1, 1);
        assert!(socket.apply(&mut batch).unwrap_err().is(libc::ENOENT));
        let mut batch = Batch::new();
        conntrack::delete(&mut batch, &six);
        socket.apply(&mut batch).unwrap();
        assert_eq!(conntrack::all(&mut socket, Some).unwrap(), []);
    });
}
