//! Good inputs that fuzzers start from, as our own encoders write them: what is behind the checks of
//! lengths and types is then found within seconds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use crate::bfd;
use crate::mrt::{Body, Entry, Message, Peer, PeerIndexTable, Record, Rib, Session};
use crate::session::State;
use crate::speaker::{Journal, Recorded, Time};
use crate::wire::attributes::kind;
use crate::wire::{
    Capability, Draft, Family, FamilyAddPath, FamilyRestart, HEADER_LEN, Info, LongLivedFamily,
    NextHop, NextHopFamily, Nlri, Notification, Open, Prefix, Prefix4, Prefix6, Role, RouteRefresh,
    UpdateEncoder, cease, encode_end_of_rib, encode_keepalive,
};

/// Whole messages one after the other.
pub(super) fn stream() -> Vec<Vec<u8>> {
    let mut session = Vec::new();
    opens()[0].encode(&mut session);
    encode_keepalive(&mut session);
    for (_, message) in updates() {
        session.extend(message);
    }
    RouteRefresh::Request.encode(Family::Ipv6Unicast, &mut session);
    let mut all: Vec<Vec<u8>> = notifications().iter().map(message).collect();
    all.push(session);
    all
}

/// Bodies of OPEN messages.
pub(super) fn open() -> Vec<Vec<u8>> {
    let encode = |open: &Open| {
        let mut out = Vec::new();
        open.encode(&mut out);
        out.split_off(HEADER_LEN)
    };
    opens().iter().map(encode).collect()
}

/// What [`super::update`] takes: how it was negotiated, and the body.
pub(super) fn update() -> Vec<Vec<u8>> {
    let body = |(how, message): ([u8; 2], Vec<u8>)| [&how, &message[HEADER_LEN..]].concat();
    updates().into_iter().map(body).collect()
}

/// Bodies of NOTIFICATION messages.
pub(super) fn notification() -> Vec<Vec<u8>> {
    notifications().iter().map(|n| message(n).split_off(HEADER_LEN)).collect()
}

/// Bodies of ROUTE-REFRESH messages.
pub(super) fn route_refresh() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for what in [RouteRefresh::Request, RouteRefresh::Begin, RouteRefresh::End] {
        for family in Family::ALL {
            let mut out = Vec::new();
            what.encode(family, &mut out);
            all.push(out.split_off(HEADER_LEN));
        }
    }
    all
}

/// BFD control packets.
pub(super) fn bfd() -> Vec<Vec<u8>> {
    bfd::State::ALL
        .into_iter()
        .map(|state| {
            let packet = bfd::Packet {
                state,
                diagnostic: bfd::Diagnostic::DETECTION_TIME_EXPIRED,
                poll: state == bfd::State::Up,
                is_final: false,
                control_plane_independent: false,
                authenticated: false,
                demand: false,
                multiplier: 3,
                my_discriminator: NonZeroU32::MIN,
                your_discriminator: NonZeroU32::new(2),
                desired_min_tx: 50_000,
                required_min_rx: 50_000,
                required_min_echo_rx: 0,
            };
            packet.encode().to_vec()
        })
        .collect()
}

/// MRT files of one record of each kind, and one of all.
pub(super) fn mrt() -> Vec<Vec<u8>> {
    let address = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let attributes = block();
    let entry = Entry { peer: 1, originated: 1_000_000, path_id: 0, attributes: &attributes };
    let mut bodies = vec![Body::PeerIndexTable(PeerIndexTable {
        collector: Ipv4Addr::new(192, 0, 2, 9),
        view: b"main",
        peers: address
            .map(|address| Peer { router_id: Ipv4Addr::new(192, 0, 2, 1), address, asn: 70_000 })
            .to_vec(),
    })];
    for (net, add_path) in [("10.1.0.0/16", false), ("fd00::/32", true)] {
        let Ok(prefix) = net.parse() else { continue };
        let entries = vec![entry, Entry { path_id: u32::from(add_path), ..entry }];
        bodies.push(Body::Rib(Rib { sequence: 1, prefix, add_path, entries }));
    }
    let messages = updates();
    for peer in address {
        let session =
            Session { peer_asn: 65001, local_asn: 70_000, interface: 2, peer, local: peer };
        bodies.push(Body::StateChange(session, State::OpenConfirm, State::Established));
        for (four_octet_as, sent) in [(true, false), (false, true)] {
            let octets = &messages[0].1;
            bodies.push(Body::Message(
                session,
                Message { four_octet_as, add_path: sent, sent, octets },
            ));
        }
    }
    bodies.push(Body::Unknown { kind: 48, subtype: 1, body: &[1, 2, 3] });
    let mut all: Vec<Vec<u8>> = bodies
        .into_iter()
        .zip(0_u32..)
        .map(|(body, at)| {
            let mut out = Vec::new();
            let microseconds = at.is_multiple_of(2).then_some(at);
            Record { timestamp: at, microseconds, body }.encode(&mut out);
            out
        })
        .collect();
    all.push(all.concat());
    all
}

/// Recordings of runs: of one that only begins, one with a session, and one whose session has ended.
pub(super) fn recording() -> Vec<Vec<u8>> {
    (0..3).map(run).collect()
}

fn run(steps: usize) -> Vec<u8> {
    let text = "router-id: 192.0.2.9\nasn: 65100\nnetworks: [{prefix: 10.1.0.0/16}]\npeers:\n\
                - {name: a, address: 192.0.2.2, asn: 65001, passive: true}\n";
    let Ok(config) = serde_saphyr::from_str(text) else { return Vec::new() };
    let journal = Some(Journal::in_memory());
    let mut core = Recorded::new(config, Time::ZERO, Time::from_secs(1_000_000), 1, journal);
    core.work(Time::ZERO);
    let [remote, local] = [([192, 0, 2, 2], 40_000), ([192, 0, 2, 9], 179)].map(SocketAddr::from);
    let at = Time::from_millis(10);
    let conn = (steps > 0).then(|| core.accepted(at, remote, local, None)).flatten();
    if let Some((conn, _)) = conn {
        let families = Family::ALL.map(Capability::multiprotocol).to_vec();
        let mut octets = Vec::new();
        Open::new(65001, 90, Ipv4Addr::new(192, 0, 2, 2), families).encode(&mut octets);
        encode_keepalive(&mut octets);
        // Two octets for AS numbers: that they may have four was not said.
        let update = updates().into_iter().find(|(how, _)| *how == [33, 0]);
        octets.extend(update.map(|(_, message)| message).unwrap_or_default());
        core.received(at, conn, &octets);
        core.work(at);
        core.take_outputs();
        if steps > 1 {
            core.closed(at * 2, conn, "closed by the peer");
            core.work(at * 2);
            core.tick(Time::from_secs(1), |_| false);
            core.work(Time::from_secs(1));
        }
    }
    core.take_recording()
}

/// Configurations, among them those that come with the daemon.
pub(super) fn yaml() -> Vec<Vec<u8>> {
    [
        &include_bytes!("../../../manifests/bgpd/leaf.yaml")[..],
        include_bytes!("../../../manifests/bgpd/route-reflector.yaml"),
        b"router-id: 192.0.2.1\nasn: 65001\nlisten: [\"127.0.0.1:179\"]\npeers:\n- name: a\n  \
          address: 192.0.2.2\n  asn: 65002\n  password: x\n  families: [ipv4-unicast]\n  \
          import:\n    default: accept\n    rules: []\nnetworks:\n- prefix: 10.0.0.0/8\n  \
          communities: [\"65001:1\"]\nmrt: {updates: /tmp/x}\n",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

fn opens() -> [Open; 3] {
    let router_id = Ipv4Addr::new(192, 0, 2, 1);
    let [v4, v6] = Family::ALL.map(Family::wire);
    let all = vec![
        Capability::multiprotocol(Family::Ipv4Unicast),
        Capability::multiprotocol(Family::Ipv6Unicast),
        Capability::RouteRefresh,
        Capability::EnhancedRouteRefresh,
        Capability::ExtendedMessage,
        Capability::ExtendedNextHop(vec![NextHopFamily::IPV4_OVER_IPV6]),
        Capability::FourOctetAs(70_000),
        Capability::Role(Role::Peer.wire()),
        Capability::GracefulRestart {
            restarting: true,
            notification: true,
            time: 120,
            families: vec![FamilyRestart { afi: v4.0, safi: v4.1, forwarding: true }],
        },
        Capability::LongLivedGracefulRestart(vec![LongLivedFamily {
            afi: v6.0,
            safi: v6.1,
            forwarding: false,
            time: 3600,
        }]),
        Capability::AddPath(vec![FamilyAddPath { afi: v4.0, safi: v4.1, mode: 3 }]),
        Capability::Unknown(73, b"\x04name\x00".to_vec()),
    ];
    // So much that it needs the long form (RFC 9072).
    let long = (0..8).map(|_| Capability::Unknown(200, vec![1; 60])).collect();
    [
        Open::new(70_000, 90, router_id, all),
        Open::new(65001, 0, router_id, Vec::new()),
        Open::new(65001, 3, router_id, long),
    ]
}

fn message(notification: &Notification) -> Vec<u8> {
    let mut out = Vec::new();
    notification.encode(&mut out);
    out
}

fn notifications() -> [Notification; 4] {
    let word = Notification::communication(cease::ADMIN_SHUTDOWN, "until noon", "");
    [
        word.hard_reset(),
        word,
        Notification::cease(cease::COLLISION, ""),
        Notification::new(3, 5, &[0x40, 1, 2, 0, 0], ""),
    ]
}

/// Every attribute that is known, and one that is not.
fn block() -> Vec<u8> {
    let mut draft = Draft::of(&[]);
    draft.put(kind::ORIGIN, vec![0]);
    // A sequence, and a set behind it.
    let sets = [&[2, 2][..], &[0, 0, 253, 233], &[0, 1, 17, 112], &[1, 1, 0, 0, 253, 234]];
    draft.put(kind::AS_PATH, sets.concat());
    draft.put_number(kind::MULTI_EXIT_DISC, 10);
    draft.put_number(kind::LOCAL_PREF, 100);
    draft.put(kind::ATOMIC_AGGREGATE, Vec::new());
    draft.put(kind::AGGREGATOR, vec![0, 1, 17, 112, 192, 0, 2, 1]);
    draft.put(kind::COMMUNITIES, vec![0xfd, 0xe9, 0, 1, 0xff, 0xff, 0xff, 1]);
    draft.put_number(kind::ORIGINATOR_ID, 0xc000_0201);
    draft.put(kind::CLUSTER_LIST, vec![192, 0, 2, 7, 192, 0, 2, 8]);
    draft.put(kind::EXTENDED_COMMUNITIES, vec![0, 2, 0xfd, 0xe9, 0, 0, 0, 1]);
    draft.put(kind::IPV6_EXTENDED_COMMUNITIES, vec![7; 20]);
    draft.put(kind::LARGE_COMMUNITIES, vec![1; 12]);
    draft.put_number(kind::ONLY_TO_CUSTOMER, 65001);
    draft.put(200, vec![1, 2, 3]);
    draft.finish()
}

/// UPDATEs, each with what was negotiated as [`super::update`] reads it.
fn updates() -> Vec<([u8; 2], Vec<u8>)> {
    let mut all = Vec::new();
    let rich = block();
    let mut plain = Draft::of(&[]);
    plain.put(kind::ORIGIN, vec![0]);
    plain.put(kind::AS_PATH, vec![2, 1, 0, 0, 253, 233]);
    let plain = plain.finish();
    // Of another member of our confederation, which names itself first.
    let mut member = Draft::of(&rich);
    member.put(kind::AS_PATH, [&[3, 1, 0, 0, 253, 250][..], member.as_path()].concat());
    let member = member.finish();
    let v4 = NextHop::new(Ipv4Addr::new(192, 0, 2, 1).into());
    let v6 = NextHop {
        addr: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
        link_local: Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
    };
    for (block, place) in [(&plain, 0), (&rich, 0), (&rich, 1), (&member, 2)] {
        for two_octet_as in [false, true] {
            for add_path in [false, true] {
                let encoder = UpdateEncoder {
                    four_octet_as: !two_octet_as,
                    extended_messages: false,
                    extended_next_hop: true,
                    add_path,
                };
                // Internal senders may say more; extended next hops are agreed upon.
                let internal = u8::from(block != &plain) << 1;
                let paths = if add_path { 0b1100_0000 } else { 0 };
                let how = [u8::from(two_octet_as) | internal | 32 | paths, place];
                all.push((how, announce(encoder, block, v4, nlri::<Prefix4>(add_path))));
                all.push((how, announce(encoder, block, v6, nlri::<Prefix4>(add_path))));
                all.push((how, announce(encoder, block, v6, nlri::<Prefix6>(add_path))));
                let mut out = Vec::new();
                encoder.withdraw(nlri::<Prefix4>(add_path), &mut out);
                all.push((how, out));
                let mut out = Vec::new();
                encoder.withdraw(nlri::<Prefix6>(add_path), &mut out);
                all.push((how, out));
            }
        }
    }
    for family in Family::ALL {
        let mut out = Vec::new();
        encode_end_of_rib(family, &mut out);
        all.push(([0, 0], out));
    }
    all
}

fn announce<P: Prefix>(
    encoder: UpdateEncoder,
    block: &[u8],
    next_hop: NextHop,
    nlri: Vec<Nlri<P>>,
) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.announce(block, &Info::of(block), next_hop, nlri, &mut out);
    out
}

/// Prefixes of the lengths at which the octets on the wire become more.
fn nlri<P: Prefix>(add_path: bool) -> Vec<Nlri<P>> {
    let nets = ["0.0.0.0/0", "10.0.0.0/8", "10.128.0.0/9", "192.0.2.1/32"];
    let nets = nets.iter().chain(&["::/0", "fd00::/16", "fd00::/33", "fd00::1/128"]);
    nets.filter_map(|net| P::from_net(&net.parse().ok()?))
        .zip(1..)
        .map(|(prefix, id)| Nlri { prefix, path_id: if add_path { id } else { 0 } })
        .collect()
}
