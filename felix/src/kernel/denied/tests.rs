mod counted;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use netlink::netns::Netns;
use smallvec::SmallVec;

use super::*;
use crate::kernel::{Kernel, Options};
use crate::model::{
    Change, Delta, Direction, EndpointId, Key, LocalEndpoint, RouteChange, RouteTarget, Traffic,
    Value, Verdict,
};

const INDEX: IfIndex = 5_000_001;
/// The node's own addresses.
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const POD: [&str; 2] = ["10.244.0.9", "fd00::9"];
/// Generous: a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn endpoint(pod: &Netns) -> LocalEndpoint {
    LocalEndpoint {
        id: EndpointId { container_id: "c1".into(), ifname: "eth0".into() },
        namespace: "default".into(),
        pod: "web".into(),
        pod_uid: String::new(),
        netns: format!("/proc/self/fd/{}", pod.as_fd().as_raw_fd()),
        host_interface: "cali1".into(),
        host_index: INDEX,
        mac: [2, 0, 0, 0, 0, 9],
        addresses: SmallVec::from_iter(POD.map(|text| text.parse().unwrap())),
        handle: "h".into(),
        mtu: 1500,
        labels: std::collections::BTreeMap::new(),
        service_account: String::new(),
    }
}

fn delta(elements: impl IntoIterator<Item = (Key, Option<Value>)>) -> Delta {
    let elements = elements.into_iter().map(|(key, value)| Change { key, value }).collect();
    Delta { elements, ..Delta::default() }
}

/// What a pod sends, by default: nothing.
fn egress(verdict: Option<Verdict>) -> Delta {
    let direction = Direction::Egress;
    let key = Key::Policy { direction, index: INDEX, class: None, traffic: Traffic::Any };
    delta([(key, verdict.map(Value::Verdict))])
}

/// Runs on a node with a pod that nothing is allowed to.
fn with_pod<F: Future<Output = ()>>(work: impl FnOnce(Kernel, Sender) -> F + Send) {
    let pod = Netns::create().unwrap();
    let run = || {
        for args in [
            vec!["link", "set", "lo", "up"],
            vec!["addr", "add", NODE[0], "dev", "lo"],
            vec!["addr", "add", NODE[1], "dev", "lo"],
        ] {
            assert!(std::process::Command::new("ip").args(args).status().unwrap().success());
        }
        let kernel = Kernel::start(Options::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let endpoint = endpoint(&pod);
            let sources = endpoint.addresses.iter().map(|address| Key::Source(*address, INDEX));
            let own = sources.chain([Key::Workload(INDEX)]).map(|key| (key, Some(Value::Member)));
            kernel.sync(delta(own)).await.unwrap();
            let target = Some(RouteTarget::Link(INDEX));
            let route = |address: &IpAddr| RouteChange {
                destination: (*address).into(),
                target: target.clone(),
            };
            kernel.set_routes(endpoint.addresses.iter().map(route).collect()).await.unwrap();
            let link = kernel.prepare_link(&endpoint).await.unwrap();
            kernel.open_link(link, &endpoint).await.unwrap();
            let sender =
                pod.run(|| Sender(POD.map(|own| UdpSocket::bind((own, 40000)).unwrap()))).unwrap();
            work(kernel, sender).await;
        });
    };
    Netns::create().unwrap().run(run).unwrap();
}

/// A socket of each family, in the pod.
struct Sender([UdpSocket; 2]);

impl Sender {
    /// To a port of the node.
    fn send(&self, family: usize, port: u16) {
        self.0[family].send_to(b"?", (NODE[family], port)).unwrap();
    }
}

/// Sends to a port of the node until the kernel tells of it: it does so once somebody listens. Others,
/// such as neighbour discovery's, may come too.
async fn heard(denied: &mut Denied, sender: &Sender, family: usize, port: u16) -> DeniedPacket {
    let sent = async {
        loop {
            sender.send(family, port);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let seen = async {
        loop {
            let mut packets = Vec::new();
            assert!(denied.recv_many(&mut packets, 1).await > 0, "the listener has ended");
            if packets[0].flow.destination_port == port {
                return packets.remove(0);
            }
        }
    };
    tokio::select! {
        packet = seen => packet,
        () = sent => unreachable!("it is sent for ever"),
        () = tokio::time::sleep(SOON) => panic!("nothing of port {port}"),
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn what_policy_denies_is_told_with_its_flow_and_its_interfaces() {
    with_pod(|kernel, sender| async move {
        let mut denied = Denied::listen(64).unwrap();
        for family in [0, 1] {
            // Each family another, for some of the first may still come.
            let destination_port = [94, 95][family];
            let packet = heard(&mut denied, &sender, family, destination_port).await;
            let flow = Flow {
                protocol: 17,
                source: POD[family].parse().unwrap(),
                destination: NODE[family].parse().unwrap(),
                source_port: 40000,
                destination_port,
            };
            assert_eq!((packet.flow, packet.fate), (flow, Fate::Denied));
            assert_eq!((packet.input, packet.output), (Some(INDEX), None));
        }
        // One that was allowed and is cut.
        kernel.commit(egress(Some(Verdict::Allow))).await.unwrap();
        sender.send(0, 100);
        let pod = [POD[0].parse().unwrap()].into_iter().collect();
        let flows = kernel.flows(pod).await.unwrap();
        let ours = flows.into_iter().filter(|flow| flow.flow.destination_port == 100);
        let ours: Vec<_> = ours.collect();
        assert_eq!(ours.len(), 1);
        kernel.mark_denied(ours).await.unwrap();
        let packet = heard(&mut denied, &sender, 0, 100).await;
        assert_eq!(packet.fate, Fate::Cut);
        assert_eq!((packet.input, packet.output), (Some(INDEX), None));
        assert_eq!(denied.monitor().status(), DeniedStatus::default());
    });
}

#[test]
fn of_a_flood_the_kernel_tells_no_more_than_its_limit() {
    with_pod(|_kernel, sender| async move {
        let mut denied = Denied::listen(100_000).unwrap();
        heard(&mut denied, &sender, 0, 99).await;
        let began = Instant::now();
        for _ in 0..20_000 {
            sender.send(0, 98);
        }
        let mut told = 0u32;
        let last = async {
            loop {
                let mut packets = Vec::new();
                denied.recv_many(&mut packets, 1000).await;
                let flood = packets.iter().filter(|packet| packet.flow.destination_port == 98);
                told += u32::try_from(flood.count()).unwrap();
                // Behind the flood, as soon as the limit lets one through.
                if packets.iter().any(|packet| packet.flow.destination_port == 97) {
                    return;
                }
            }
        };
        let repeated = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                sender.send(0, 97);
            }
        };
        tokio::select! {
            () = last => {}
            () = repeated => unreachable!("it is sent for ever"),
            () = tokio::time::sleep(SOON) => panic!("nothing after the flood"),
        }
        let most = 200.0 + 100.0 * (began.elapsed().as_secs_f64() + 1.0);
        assert!(told >= 100 && f64::from(told) < most, "{told} in {:?}", began.elapsed());
        assert_eq!(denied.monitor().status().lost, 0);
    });
}

#[test]
fn what_nobody_takes_is_counted_and_one_listener_gives_way_to_the_next() {
    with_pod(|_kernel, sender| async move {
        let first = Denied::listen(4).unwrap();
        until("the first does not lose anything", || {
            sender.send(0, 98);
            first.monitor().status().lost > 0
        })
        .await;
        let mut second = Denied::listen(4).unwrap();
        let monitor = second.monitor();
        until("the group is not taken", || monitor.status().problem.is_some()).await;
        drop(first);
        until("the second does not get the group", || monitor.status().problem.is_none()).await;
        heard(&mut second, &sender, 1, 96).await;
    });
}

#[test]
fn what_is_let_through_is_told_while_it_is_asked_for() {
    with_pod(|kernel, sender| async move {
        let mut denied = Denied::listen(64).unwrap();
        kernel.commit(egress(Some(Verdict::Allow))).await.unwrap();
        kernel.set_sampling(true).await.unwrap();
        // Each socket's packets are of one flow: only the first of them begins it.
        let pod = [POD[0].parse().unwrap(), POD[1].parse().unwrap()].to_vec();
        let heard = async {
            loop {
                let mut packets = Vec::new();
                denied.recv_many(&mut packets, 1).await;
                if packets[0].flow.destination_port == 93 {
                    return packets.remove(0);
                }
            }
        };
        let sent = async {
            loop {
                sender.send(1, 93);
                kernel.forget(pod.clone()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let packet = tokio::select! {
            packet = heard => packet,
            () = sent => unreachable!("it is sent for ever"),
            () = tokio::time::sleep(SOON) => panic!("nothing is told"),
        };
        assert_eq!((packet.fate, packet.input), (Fate::Allowed, Some(INDEX)));
        kernel.set_sampling(false).await.unwrap();
        let mut nft = std::process::Command::new("nft");
        let listing = nft.args(["list", "table", "inet", "caracal"]).output().unwrap();
        let text = String::from_utf8(listing.stdout).unwrap();
        assert!(text.contains("caracal denied") && !text.contains("caracal allowed"), "{text}");
    });
}
