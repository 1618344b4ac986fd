use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use super::*;
use crate::cni::protocol::Reply;
use crate::model::Kind;
use crate::source::{KindState, KindStatus};

fn report() -> StatusReport {
    let watching =
        KindStatus { state: KindState::Watching, listed: true, objects: 40, error: None };
    let lost = KindStatus {
        state: KindState::Disconnected,
        error: Some("connection refused".into()),
        objects: 2,
        ..watching.clone()
    };
    StatusReport {
        node: "n1".into(),
        version: "0.1.0".into(),
        uptime_seconds: 90_061,
        conditions: vec![
            ConditionRow { name: "source".into(), reason: None },
            ConditionRow { name: "bgp".into(), reason: Some("no BGPConfiguration".into()) },
        ],
        source: SourceStatus {
            origin: "https://10.96.0.1".into(),
            in_sync: true,
            kinds: [(Kind::Pod, watching), (Kind::Node, lost)].into(),
            ..SourceStatus::default()
        },
        ipam: IpamReport {
            store: "etcd http://10.0.0.1:2379".into(),
            error: Some("connection refused".into()),
            mode: AnswerMode::LocalFirst,
            behind: 2,
            behind_seconds: Some(75),
            lost: vec!["10.244.9.0/26".parse().unwrap()],
            frozen: Some("restored, found by n2; waiting for n3".into()),
            blocks: vec![BlockRow { cidr: "10.244.1.0/26".parse().unwrap(), used: 3, size: 64 }],
        },
        kernel: KernelReport {
            in_sync: true,
            error: None,
            elements: 120,
            routes: 7,
            left_out: vec!["route 10.9.0.0/26: its gateway cannot be reached".into()],
            repairs: 0,
        },
        bgp: BgpReport {
            local_as: Some(64512),
            router_id: Some(Ipv4Addr::new(10, 0, 0, 7)),
            draining: true,
            peers: vec![
                PeerRow {
                    address: "10.0.0.1".parse().unwrap(),
                    remote_as: 65001,
                    origin: "BGPPeer tor-1".into(),
                    state: "Established".into(),
                    since_seconds: 307,
                    received: 5,
                    advertised: 1,
                    reason: None,
                },
                PeerRow {
                    address: "fd00::1".parse().unwrap(),
                    remote_as: 65001,
                    origin: "BGPPeer tor-1".into(),
                    state: "Active".into(),
                    since_seconds: 8,
                    received: 0,
                    advertised: 0,
                    reason: Some("connection refused".into()),
                },
            ],
        },
        endpoints: 3,
    }
}

#[test]
fn status_says_what_is_wrong_and_why() {
    let wanted = "\
Node:       n1, not ready
            bgp: no BGPConfiguration
Agent:      felix 0.1.0, up 1d1h
Source:     https://10.96.0.1, in sync, disconnected, 42 objects
            Node: connection refused
IPAM:       etcd http://10.0.0.1:2379, local-first, 1 blocks, 3 addresses in use
            the store is behind: 2 addresses, for 1m15s
            LOST: 10.244.9.0/26 is somebody else's; start its pods on this node anew
            FROZEN: no block is claimed: restored, found by n2; waiting for n3
            unavailable: connection refused
            10.244.1.0/26 3/64
Kernel:     in sync, 120 elements, 7 routes, 0 repairs
            left out: route 10.9.0.0/26: its gateway cannot be reached
Endpoints:  3
BGP:        AS 64512, router ID 10.0.0.7, 1 of 2 peers up
            draining: the node's routes are the last choice

PEER      AS     ORIGIN         STATE        SINCE  RECEIVED  ADVERTISED  REASON
10.0.0.1  65001  BGPPeer tor-1  Established  5m7s   5         1
fd00::1   65001  BGPPeer tor-1  Active       8s     0         0           connection refused
";
    assert_eq!(status_text(&report()), wanted);
    let json = serde_json::to_string(&report()).unwrap();
    assert_eq!(serde_json::from_str::<StatusReport>(&json).unwrap(), report());
}

fn endpoint(pod: &str) -> EndpointRow {
    EndpointRow {
        namespace: "default".into(),
        pod: pod.into(),
        addresses: vec!["10.244.1.2".parse().unwrap(), "fd00:1::2".parse().unwrap()],
        interface: "cali0123456789a".into(),
        container_id: "c1".into(),
        programmed: true,
        ingress: vec!["default/allow".into()],
        egress: vec![],
    }
}

#[test]
fn tables_are_aligned_and_say_what_is_left_out() {
    let rows = Rows { total: 2, rows: vec![endpoint("web")] };
    assert_eq!(
        endpoints_table(&rows),
        "\
NAMESPACE  POD  ADDRESSES             INTERFACE        PROGRAMMED  INGRESS        EGRESS
default    web  10.244.1.2,fd00:1::2  cali0123456789a  yes         default/allow  <none>
(1 of 2 endpoints)
"
    );
    let route = RouteRow {
        prefix: "10.244.2.0/26".parse().unwrap(),
        next_hops: vec!["via 10.0.0.1".into(), "via 10.0.1.1".into()],
        origin: "bgp 10.0.0.1".into(),
        installed: false,
    };
    assert_eq!(
        routes_table(&Rows { total: 1, rows: vec![route] }),
        "\
PREFIX         NEXT HOPS                  ORIGIN        INSTALLED
10.244.2.0/26  via 10.0.0.1,via 10.0.1.1  bgp 10.0.0.1  no
"
    );
    assert_eq!(routes_table(&Rows { total: 0, rows: vec![] }), "no routes on this node\n");
}

#[test]
fn rows_stop_where_the_message_is_full() {
    let all = (0..20_000).map(|i| endpoint(&format!("pod-{i}")));
    let rows = Rows::bounded(all);
    assert_eq!(rows.total, 20_000);
    assert!(rows.rows.len() > 2_000 && rows.rows.len() < 20_000, "{}", rows.rows.len());
    let sent = protocol::encode(&Reply::Result(&rows)).unwrap();
    assert!(sent.len() > MAX_MESSAGE - 2 * ENVELOPE, "the message is used: {}", sent.len());
    assert_eq!(Rows::bounded([endpoint("a")]).rows.len(), 1);
}

#[test]
fn the_agent_is_asked_over_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("felix.sock");
    let error = ask::<StatusReport>(&socket, &Request::Status).unwrap_err();
    assert!(
        error.to_string().starts_with("the agent is not running: nothing listens on "),
        "{error}"
    );

    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!(protocol::receive::<Request>(&mut stream).unwrap(), Request::Status);
        protocol::send(&mut stream, &Reply::Result(report())).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let refusal = protocol::Error { code: 11, msg: "starting".into(), details: String::new() };
        let _: Request = protocol::receive(&mut stream).unwrap();
        protocol::send(&mut stream, &Reply::<StatusReport>::Error(refusal)).unwrap();
        // One that leaves without an answer, and one that answers nonsense.
        let (mut stream, _) = listener.accept().unwrap();
        let _: Request = protocol::receive(&mut stream).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"\0\0\0\x02{}").unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    assert_eq!(ask::<StatusReport>(&socket, &Request::Status).unwrap(), report());
    let answers = ["the agent refused: starting (code 11)", "the agent closed ", ""];
    for wanted in answers {
        let error = ask::<StatusReport>(&socket, &Request::Status).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
    server.join().unwrap();
    // A socket that a dead agent left behind.
    let error = ask::<StatusReport>(&socket, &Request::Status).unwrap_err();
    assert!(matches!(error, AskError::NotRunning(_)), "{error}");
}
