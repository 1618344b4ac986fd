use std::os::fd::AsFd;

use netlink::addr::Address;
use netlink::link::Veth;
use netlink::netns::Netns;
use netlink::route::{Hop, Kind};

use super::*;
use crate::model::NextHop;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn via(gateway: &str) -> RouteTarget {
    let hop = NextHop { gateway: gateway.parse().unwrap(), interface: None };
    RouteTarget::Via([hop].into_iter().collect())
}

fn change(destination: &str, target: Option<RouteTarget>) -> RouteChange {
    RouteChange { destination: net(destination), target }
}

/// A new link, not up yet.
fn add_link(socket: &mut Socket, name: &str, index: u32, far: &Netns) {
    let mut batch = Batch::new();
    let veth = Veth {
        name,
        index,
        mac: [2, 0, 0, 0, 1, 1],
        group: 0,
        peer_name: name,
        peer_mac: [2, 0, 0, 0, 1, 2],
        peer_netns: far.as_fd(),
        mtu: 1500,
    };
    link::add_veth(&mut batch, &veth);
    socket.apply(&mut batch).unwrap();
}

fn set_up(socket: &mut Socket, index: u32) {
    let mut batch = Batch::new();
    link::set_up(&mut batch, index);
    socket.apply(&mut batch).unwrap();
}

fn uplink_address() -> Address {
    Address { index: 100, address: "192.0.2.1".parse().unwrap(), prefix_length: 24 }
}

/// Runs in a namespace with the link `eth0` (100), which is up and has 192.0.2.1/24.
fn with_uplink(work: impl FnOnce(&mut Socket, &Netns) + Send) {
    let run = || {
        let far = Netns::create().unwrap();
        let mut socket = Socket::open(Protocol::Route).unwrap();
        add_link(&mut socket, "eth0", 100, &far);
        let mut batch = Batch::new();
        addr::add(&mut batch, &uplink_address());
        socket.apply(&mut batch).unwrap();
        set_up(&mut socket, 100);
        work(&mut socket, &far);
    };
    Netns::create().unwrap().run(run).unwrap();
}

/// Our routes, as the kernel has them.
fn installed(socket: &mut Socket) -> Vec<String> {
    let mut lines: Vec<String> = route::list(socket, route::MAIN, PROTOCOL)
        .unwrap()
        .iter()
        .map(|route| {
            let (address, length) = route.destination;
            match (&route.kind, route.hops.as_slice()) {
                (Kind::Blackhole, _) => format!("{address}/{length} blackhole"),
                (_, [Hop { gateway: Some(gateway), .. }]) => {
                    format!("{address}/{length} via {gateway}")
                }
                (_, [Hop { interface: Some(index), .. }]) => {
                    format!("{address}/{length} dev {index}")
                }
                (_, hops) => format!("{address}/{length} {} ways", hops.len()),
            }
        })
        .collect();
    lines.sort();
    lines
}

fn eventually(writer: &mut Writer, socket: &mut Socket, wanted: &[&str]) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        writer.listen();
        writer.flush().unwrap();
        let found = installed(socket);
        if found == wanted {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "found {found:?}, not {wanted:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_learned_route_waits_behind_the_nodes_own_and_takes_over_when_that_goes() {
    with_uplink(|socket, _| {
        let mut writer = Writer::start("cali").unwrap();
        let host = "10.244.0.7/32";
        writer.change_learned(change(host, Some(via("192.0.2.9"))));
        writer.change_own(change(host, Some(RouteTarget::Blackhole)));
        writer.flush().unwrap();
        assert_eq!(installed(socket), ["10.244.0.7/32 blackhole"]);
        // What comes and goes behind it is not seen.
        writer.change_learned(change(host, Some(via("192.0.2.8"))));
        writer.flush().unwrap();
        assert_eq!(installed(socket), ["10.244.0.7/32 blackhole"]);
        writer.change_own(change(host, None));
        writer.flush().unwrap();
        assert_eq!(installed(socket), ["10.244.0.7/32 via 192.0.2.8"]);
        // A withdrawal that comes late does not take the node's own along.
        writer.change_own(change(host, Some(RouteTarget::Blackhole)));
        writer.change_learned(change(host, None));
        writer.flush().unwrap();
        assert_eq!(installed(socket), ["10.244.0.7/32 blackhole"]);
        writer.change_own(change(host, None));
        // And the node does not withdraw what it never had.
        writer.change_learned(change(host, Some(via("192.0.2.9"))));
        writer.change_own(change(host, None));
        writer.flush().unwrap();
        assert_eq!(installed(socket), ["10.244.0.7/32 via 192.0.2.9"]);
    });
}

#[test]
fn what_was_there_stays_until_everything_wanted_is_known() {
    with_uplink(|socket, _| {
        let mut earlier = Writer::start("cali").unwrap();
        for (destination, gateway) in [("10.1.0.0/26", "192.0.2.8"), ("10.2.0.0/26", "192.0.2.9")] {
            earlier.change_learned(change(destination, Some(via(gateway))));
        }
        earlier.flush().unwrap();
        drop(earlier);

        let mut writer = Writer::start("cali").unwrap();
        assert_eq!(writer.status().found, 2);
        // A withdrawal of what nobody has announced since the start proves nothing.
        writer.change_learned(change("10.1.0.0/26", None));
        writer.change_learned(change("10.2.0.0/26", Some(via("192.0.2.9"))));
        writer.flush().unwrap();
        assert_eq!(installed(socket).len(), 2);
        writer.set_in_sync();
        writer.flush().unwrap();
        assert_eq!(installed(socket), ["10.2.0.0/26 via 192.0.2.9"]);
        assert_eq!(writer.status().repairs, 0);
    });
}

#[test]
fn what_others_change_is_put_right() {
    with_uplink(|socket, _| {
        let mut writer = Writer::start("cali").unwrap();
        writer.change_learned(change("10.1.0.0/26", Some(via("192.0.2.9"))));
        writer.change_own(change("10.2.0.0/26", Some(RouteTarget::Blackhole)));
        writer.set_in_sync();
        writer.flush().unwrap();
        let wanted = ["10.1.0.0/26 via 192.0.2.9", "10.2.0.0/26 blackhole"];
        assert_eq!(installed(socket), wanted);

        let mut batch = Batch::new();
        for route in route::list(socket, route::MAIN, PROTOCOL).unwrap() {
            route::delete(&mut batch, &route);
        }
        socket.apply(&mut batch).unwrap();
        assert!(installed(socket).is_empty());
        eventually(&mut writer, socket, &wanted);
        assert_eq!(writer.status().repairs, 2);

        // Its last address takes a link's routes along, without a word about them.
        let mut batch = Batch::new();
        addr::delete(&mut batch, &uplink_address());
        socket.apply(&mut batch).unwrap();
        eventually(&mut writer, socket, &["10.2.0.0/26 blackhole"]);
        assert!(writer.waiting(&net("10.1.0.0/26")).is_some());
        let mut batch = Batch::new();
        addr::add(&mut batch, &uplink_address());
        socket.apply(&mut batch).unwrap();
        eventually(&mut writer, socket, &wanted);
    });
}

#[test]
fn a_route_to_a_link_waits_for_it() {
    with_uplink(|socket, far| {
        let mut writer = Writer::start("cali").unwrap();
        writer.change_own(change("10.3.0.7/32", Some(RouteTarget::Link(1_000_000))));
        writer.change_own(change("10.4.0.0/26", Some(RouteTarget::Blackhole)));
        writer.flush().unwrap();
        assert_eq!(installed(socket), ["10.4.0.0/26 blackhole"], "the others do not wait");
        assert!(writer.waiting_for(1_000_000).is_some());

        add_link(socket, "cali0", 1_000_000, far);
        set_up(socket, 1_000_000);
        writer.link_came(1_000_000);
        writer.flush().unwrap();
        let wanted = ["10.3.0.7/32 dev 1000000", "10.4.0.0/26 blackhole"];
        assert_eq!(installed(socket), wanted);
        assert!(writer.waiting_for(1_000_000).is_none());

        // Down and up again: the kernel has dropped its route in between.
        netdown(socket, 1_000_000);
        eventually(&mut writer, socket, &["10.4.0.0/26 blackhole"]);
        set_up(socket, 1_000_000);
        eventually(&mut writer, socket, &wanted);
    });
}

/// There is no netlink call of ours to take a link down: nothing of ours does.
fn netdown(_: &mut Socket, index: u32) {
    let name = if index == 100 { "eth0" } else { "cali0" };
    let done = std::process::Command::new("ip").args(["link", "set", name, "down"]).status();
    assert!(done.unwrap().success());
}

/// What the administrator does to a link comes back with it, but for the address that the kernel
/// takes away.
#[test]
fn a_pods_link_that_comes_up_again_is_its_gateway_again() {
    with_uplink(|socket, far| {
        add_link(socket, "cali1", 1000, far);
        let gateway = links::gateway_v6(1000);
        let mut batch = Batch::new();
        addr::add(&mut batch, &gateway);
        socket.apply(&mut batch).unwrap();
        set_up(socket, 1000);
        let mut writer = Writer::start("cali").unwrap();
        let to_pod = Some(RouteTarget::Link(1000));
        writer.change_own(change("fd00::9/128", to_pod.clone()));
        writer.change_own(change("10.244.0.9/32", to_pod));
        writer.set_in_sync();
        writer.flush().unwrap();
        let before = installed(socket);
        assert_eq!(before.len(), 2);
        let has_gateway = |socket: &mut Socket| addr::list(socket).unwrap().contains(&gateway);

        let ip = |state: &str| {
            let args = ["link", "set", "cali1", state];
            assert!(std::process::Command::new("ip").args(args).status().unwrap().success());
        };
        ip("down");
        assert!(!has_gateway(socket), "the kernel has taken it");
        writer.listen();
        writer.flush().unwrap();
        ip("up");
        assert!(!has_gateway(socket), "control: nobody else brings it back");
        writer.listen();
        writer.flush().unwrap();
        assert!(has_gateway(socket));
        assert_eq!(installed(socket), before);

        // A pod that goes leaves nothing to remember.
        ip("down");
        writer.listen();
        assert_eq!(writer.fallen.len(), 1);
        let mut batch = Batch::new();
        link::delete(&mut batch, 1000);
        socket.apply(&mut batch).unwrap();
        writer.listen();
        assert!(writer.fallen.is_empty());
    });
}
