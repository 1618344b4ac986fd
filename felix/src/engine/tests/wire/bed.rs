//! A node in a network namespace whose links all end in one other namespace, where nobody answers:
//! packets are sent and heard there as they are, and on the node itself past its sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use netlink::netns::Netns;
use nix::ifaddrs::getifaddrs;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use super::frames::{self, Header};
use crate::engine::tests::world::{ICMP, ICMPV6, SCTP, TCP, UDP};

/// Seconds. Generous: a busy machine.
const SOON: i64 = 20;
/// Of all interfaces of the node, and of what is behind them.
const NODE_MAC: [u8; 6] = [0xee; 6];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// `<linux/if_packet.h>`
const PACKET_OUTGOING: u8 = 4;
const ARP: [u8; 2] = [8, 6];
const LONGEST: usize = 2048;
/// In these states connection tracking forgets a flow sooner than a busy machine comes to its next packet;
/// an association of SCTP that waits for the last word of its handshake after 3 s.
const UNSETTLED: [&str; 8] = [
    "sctp_timeout_cookie_wait",
    "sctp_timeout_cookie_echoed",
    "tcp_timeout_syn_sent",
    "tcp_timeout_syn_recv",
    "udp_timeout",
    "udp_timeout_stream",
    "icmp_timeout",
    "icmpv6_timeout",
];
/// Seconds.
const LONG: &str = "600";
/// IP_HDRINCL: the sender writes the IP header.
const RAW: i32 = 255;

/// One of the node's interfaces.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) index: u32,
    /// The node's own addresses there.
    pub(super) own: Vec<IpAddr>,
    /// Whom it leads to.
    pub(super) behind: Vec<IpAddr>,
}

/// Where an end of a flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum At {
    /// The node itself.
    Host,
    /// Behind the interface of this number in the list.
    Link(usize),
}

#[derive(Debug)]
pub(super) struct Bed {
    wire: OwnedFd,
    ends: Vec<LinkAddr>,
    by_index: BTreeMap<usize, usize>,
    /// One for each protocol, and of which family.
    host: Vec<(UdpSocket, u8, bool)>,
    out: [UdpSocket; 2],
    own: Vec<IpAddr>,
    fences: u32,
}

impl Bed {
    /// Runs in the node's namespace, on one processor: so that packets come in the order in which they
    /// were sent.
    pub(super) fn with<T: Send>(links: &[Link], work: impl FnOnce(Self) -> T + Send) -> T {
        let (node, world) = (Netns::create().unwrap(), Netns::create().unwrap());
        let run = || {
            stay_here();
            work(Self::new(links, &world))
        };
        node.run(run).unwrap()
    }

    fn new(links: &[Link], world: &Netns) -> Self {
        for (setting, value) in [
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/icmp_echo_ignore_all", "1"),
            ("ipv6/icmp/echo_ignore_all", "1"),
            // What is sent has no checksum of SCTP.
            ("netfilter/nf_conntrack_checksum", "0"),
        ] {
            std::fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
        }
        for state in UNSETTLED {
            let path = format!("/proc/sys/net/netfilter/nf_conntrack_{state}");
            std::fs::write(path, LONG).unwrap();
        }
        // The node's own protocols know of no flow and would refuse each.
        run_with(
            "nft",
            &["-f", "-"],
            "table inet quiet {
                chain out { type filter hook output priority -400;
                    tcp flags & rst == rst drop
                    icmp type destination-unreachable drop
                    icmpv6 type { destination-unreachable, parameter-problem } drop
                }
            }",
        );
        let path = format!("/proc/{}/fd/{}", std::process::id(), world.as_fd().as_raw_fd());
        run_with("ip", &["-batch", "-"], &commands(links, &path));
        let (wire, ends) = world
            .run(|| {
                let off = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
                std::fs::write(off, "1").unwrap();
                let up: String =
                    links.iter().map(|link| format!("link set w{} up\n", link.index)).collect();
                run_with("ip", &["-batch", "-"], &up);
                let wire = socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::EthAll,
                );
                (wire.unwrap(), ends(links))
            })
            .unwrap();
        setsockopt(&wire, sockopt::RcvBufForce, &(8 << 20)).unwrap();
        setsockopt(&wire, sockopt::ReceiveTimeout, &TimeVal::new(SOON, 0)).unwrap();
        let by_index = ends.iter().enumerate().map(|(at, end)| (end.ifindex(), at)).collect();
        let raw = |domain, protocol: i32| {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).unwrap();
            socket.set_nonblocking(true).unwrap();
            // Another kind of datagrams, for the same calls.
            UdpSocket::from(socket)
        };
        let (v4, v6) = (Domain::IPV4, Domain::IPV6);
        let host = [(v4, [TCP, UDP, SCTP, ICMP]), (v6, [TCP, UDP, SCTP, ICMPV6])].into_iter();
        let host = host.flat_map(|(family, of)| of.map(|protocol| (protocol, family)));
        Self {
            wire,
            ends,
            by_index,
            host: host.map(|(of, domain)| (raw(domain, of.into()), of, domain == v4)).collect(),
            out: [raw(v4, RAW), raw(v6, RAW)],
            own: links.iter().flat_map(|link| link.own.clone()).collect(),
            fences: 0,
        }
    }

    /// Sends a packet from there. What the node itself may not send is not sent.
    pub(super) fn send(&self, from: At, packet: &[u8]) {
        let is_v4 = packet[0] >> 4 == 4;
        match from {
            At::Link(at) => {
                let kind: [u8; 2] = if is_v4 { [8, 0] } else { [0x86, 0xdd] };
                let frame = [&NODE_MAC[..], &OTHER_MAC, &kind, packet].concat();
                self.put(at, &frame);
            }
            At::Host => {
                let destination: IpAddr = if is_v4 {
                    <[u8; 4]>::try_from(&packet[16..20]).unwrap().into()
                } else {
                    <[u8; 16]>::try_from(&packet[24..40]).unwrap().into()
                };
                // Refused by policy: EPERM.
                drop(self.out[usize::from(!is_v4)].send_to(packet, (destination, 0)));
            }
        }
    }

    fn put(&self, at: usize, frame: &[u8]) {
        let sent = sendto(self.wire.as_raw_fd(), frame, &self.ends[at], MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()));
    }

    /// All that was heard where since the last time, of what had been sent before.
    pub(super) fn settle(&mut self) -> BTreeSet<(At, Header)> {
        // Who asks for an address that is the node's is answered when all is done that came before.
        self.fences += 1;
        let [a, b, c, d] = self.fences.to_be_bytes();
        let asks = [2, 1, a, b, c, d];
        let IpAddr::V4(own) = self.own.iter().find(|own| own.is_ipv4()).unwrap() else {
            unreachable!("found by its family")
        };
        let ethernet: [&[u8]; 5] = [&[0xff; 6], &asks, &ARP, &[0, 1, 8, 0, 6, 4], &[0, 1]];
        let request: [&[u8]; 4] = [&asks, &[0; 4], &[0; 6], &own.octets()];
        self.put(0, &[ethernet.concat(), request.concat()].concat());
        let mut all = BTreeSet::new();
        let mut buffer = [0; LONGEST];
        loop {
            let read = recvfrom::<LinkAddr>(self.wire.as_raw_fd(), &mut buffer);
            let (length, from) = read.expect("the node answers");
            let from = from.unwrap();
            let frame = &buffer[..length];
            if from.pkttype() == PACKET_OUTGOING {
                continue;
            }
            if frame[12..14] == ARP && frame[..6] == asks {
                break;
            }
            if let Some(header) = frames::heard(&frame[14..]) {
                all.insert((At::Link(self.by_index[&from.ifindex()]), header));
            }
        }
        for (socket, protocol, is_v4) in &self.host {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let packet = &buffer[..length];
                let header = if *is_v4 {
                    frames::heard(packet)
                } else {
                    let mut own = self.own.iter().filter(|own| own.is_ipv6());
                    let (Some(own), None) = (own.next(), own.next()) else {
                        panic!("which of the node's addresses is not told")
                    };
                    frames::heard_of(*protocol, (from.ip(), *own), packet)
                };
                all.extend(header.map(|header| (At::Host, header)));
            }
        }
        all
    }
}

/// One of the processors that may be used is the only one from now on.
fn stay_here() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false)).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    sched_setaffinity(this, &one).unwrap();
}

/// For `ip -batch`: the links, who is where, and how to get there.
fn commands(links: &[Link], world: &str) -> String {
    let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let mut text = "link set lo up\n".to_owned();
    for Link { name, index, own, behind } in links {
        let of_node = mac(NODE_MAC);
        text += &format!(
            "link add {name} index {index} address {of_node} type veth peer name w{index} netns \
             {world}\nlink set {name} addrgenmode none\nlink set {name} up\n"
        );
        for address in own {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            text += &format!("addr add {address} dev {name}{nodad}\n");
        }
        for address in behind {
            let other = mac(OTHER_MAC);
            text += &format!(
                "route add {address} dev {name}\nneigh add {address} lladdr {other} dev {name} nud \
                 permanent\n"
            );
        }
    }
    text
}

/// The other ends of the links, in their order; of the thread's namespace.
fn ends(links: &[Link]) -> Vec<LinkAddr> {
    let of: BTreeMap<String, LinkAddr> = getifaddrs()
        .unwrap()
        .filter_map(|it| Some((it.interface_name, *it.address?.as_link_addr()?)))
        .collect();
    links.iter().map(|link| of[&format!("w{}", link.index)]).collect()
}

fn run_with(program: &str, args: &[&str], input: &str) {
    let mut child = Command::new(program).args(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{program}: {input}");
}
