//! The `ipam` program, run as an administrator runs it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ipam::store::embedded::EmbeddedStore;
use ipam::store::etcd::EtcdStore;
use ipam::store::{Store, Txn};
use ipam::{Families, IpamConfig, StoreConfig, model};
use serde_json::Value;

mod common;
use common::Etcd;
use common::cluster::{Cluster, ip, pool};

/// Runs the program; returns its exit code, output and errors.
fn ipam(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipam"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    let output = command.args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const POOLS: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: default-ipv4-ippool}
spec: {cidr: 10.244.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: IPReservation
metadata: {name: routers}
spec: {reservedCIDRs: [10.244.1.0/29]}
";

/// Two nodes with 5 and 4 pods in a file.
async fn populate(file: &Path) {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(file).unwrap());
    let cluster = Cluster::on(&store, vec![pool("p", "10.244.0.0/16", 26)]);
    let (one, two) = (cluster.node("node1"), cluster.node("node2"));
    for n in 0..5 {
        let mut request = one.request(&format!("net.one{n}"), Families::V4);
        request.requested_ips = vec![ip(&format!("10.244.1.{n}"))];
        one.ipam.assign(request).await.unwrap();
    }
    for n in 0..4 {
        let mut request = two.request(&format!("net.two{n}"), Families::V4);
        // The last one is borrowed from node1.
        let address = if n < 3 { format!("10.244.2.{n}") } else { "10.244.1.9".to_owned() };
        request.requested_ips = vec![ip(&address)];
        two.ipam.assign(request).await.unwrap();
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shows_checks_and_releases() {
    let directory = tempfile::tempdir().unwrap();
    let (file, pools) = (directory.path().join("ipam.redb"), directory.path().join("pools.yaml"));
    populate(&file).await;
    std::fs::write(&pools, POOLS).unwrap();
    let run = |arguments: &[&str]| {
        let access = ["--embedded", file.to_str().unwrap(), "--pools", pools.to_str().unwrap()];
        ipam(&[&access, arguments].concat())
    };
    let good = |arguments: &[&str]| {
        let (code, out, err) = run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {out}{err}");
        out
    };
    assert_eq!(
        good(&["show", "--show-blocks"]),
        "\
+----------+---------------+-----------+------------+--------------+--------------+
| GROUPING | CIDR          | IPS TOTAL | IPS IN USE | IPS RESERVED |     IPS FREE |
+----------+---------------+-----------+------------+--------------+--------------+
| IP Pool  | 10.244.0.0/16 |     65536 |     9 (0%) |       8 (0%) | 65524 (100%) |
| Block    | 10.244.1.0/26 |        64 |     6 (9%) |      8 (12%) |     55 (86%) |
| Block    | 10.244.2.0/26 |        64 |     3 (5%) |       0 (0%) |     61 (95%) |
+----------+---------------+-----------+------------+--------------+--------------+
"
    );
    assert_eq!(good(&["show"]).lines().count(), 5);
    let rows: Value = serde_json::from_str(&good(&["-o", "json", "show"])).unwrap();
    assert_eq!(
        (rows[0]["cidr"].as_str(), rows[0]["inUse"].as_f64()),
        (Some("10.244.0.0/16"), Some(9.0))
    );
    assert_eq!(
        good(&["show", "--ip=10.244.1.3"]),
        "\
IP 10.244.1.3 is in use
Handle ID: net.one3
Active Owner Attributes:
  namespace: default
  node: node1
  pod: pod-net.one3
  timestamp: 2026-08-22 13:33:20 +0000 UTC
"
    );
    assert_eq!(
        good(&["show", "--show-borrowed"]),
        "\
+------------+----------------+---------------+-------------+------+----------------------+
| IP         | BORROWING-NODE | BLOCK         | BLOCK OWNER | TYPE | ALLOCATED-TO         |
+------------+----------------+---------------+-------------+------+----------------------+
| 10.244.1.9 | node2          | 10.244.1.0/26 | node1       | pod  | default/pod-net.two3 |
+------------+----------------+---------------+-------------+------+----------------------+
"
    );
    let configuration = good(&["show", "--show-configuration"]);
    assert!(
        configuration.contains("| StrictAffinity               | false   |"),
        "{configuration}"
    );
    let (code, out, _) = run(&["show", "--ip", "10.244.1.63"]);
    assert_eq!((code, out.as_str()), (1, "10.244.1.63 is not assigned\n"));

    let checked = good(&["check", "--show-all-ips"]);
    for line in [
        "Found 2 IPAM blocks.",
        " IPAM block 10.244.1.0/26 affinity=host:node1:",
        "  10.244.1.9 allocated to default/pod-net.two3; handle=net.two3",
        "IPAM blocks record 9 allocations.",
        "Found 1 active IP pools.",
        "Node with most allocations has 5; median is 4",
        "Found 0 handles with no matching IPs (and 9 handles with matches).",
        "Check complete; found 0 problems.",
    ] {
        assert!(checked.lines().any(|found| found == line), "{line}\n{checked}");
    }

    let (code, out, _) = run(&["release", "--ip", "10.244.1.3", "--handle", "other"]);
    assert_eq!(
        (code, out.as_str()),
        (1, "Not released: 10.244.1.3 is held by net.one3, not by other\n")
    );
    assert_eq!(
        good(&["release", "--ip", "10.244.1.3"]),
        "Successfully released IP address 10.244.1.3\n"
    );
    let (code, out, _) = run(&["release", "--ip", "10.244.1.3"]);
    assert_eq!((code, out.as_str()), (1, "10.244.1.3 is not assigned\n"));
    let (code, out, _) = run(&["show", "--ip", "10.244.1.3"]);
    assert!(code == 1 && out.contains("Released at: "), "{out}");
    good(&["check"]);
    assert!(good(&["disown", "node1"]).starts_with("Node node1 no longer belongs to instance "));
    let (code, out, _) = run(&["disown", "node1"]);
    assert_eq!((code, out.as_str()), (1, "Node node1 belongs to no instance\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn finds_what_is_wrong() {
    let etcd = Etcd::start().await;
    let endpoint = etcd.endpoint();
    let run = |arguments: &[&str]| ipam(&[&["--endpoints", &endpoint], arguments].concat());
    let cluster =
        Cluster::new(StoreConfig::Etcd(etcd.config()), vec![pool("p", "10.0.0.0/24", 28)]);
    let node = cluster.node("n");
    for handle in ["a", "b", "c"] {
        node.v4(handle).await.unwrap();
    }
    // Told soon after the answer, not with it.
    let block = node.ipam.blocks().wait_for(|blocks| !blocks.is_empty()).await.unwrap()[0];
    let store = EtcdStore::new(&etcd.config()).unwrap();
    // Pools as calicoctl writes them.
    let put = async |key: &str, json: &str| {
        store.txn(Txn::default().put(key, json.into())).await.unwrap();
    };
    put(
        "/calico/resources/v3/projectcalico.org/ippools/p",
        r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"p","uid":"u","creationTimestamp":"2026-08-22T13:33:20Z"},"spec":{"cidr":"10.0.0.0/24","vxlanMode":"Never","ipipMode":"Never","natOutgoing":true,"blockSize":28,"nodeSelector":"all()","allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic"}}"#,
    )
    .await;
    let (code, out, err) = run(&["check"]);
    assert_eq!(code, 0, "{out}{err}");
    // Now break it in every way that is checked.
    put("/calico/ipam/v2/handle/leaked", r#"{"block":{"10.0.0.0/28":1},"deleted":false}"#).await;
    store.txn(Txn::default().delete("/calico/ipam/v2/handle/a")).await.unwrap();
    store.txn(Txn::default().delete(model::affinity_key("n", &block))).await.unwrap();
    put("/calico/ipam/v2/host/m/ipv4/block/10.0.0.192-28", r#"{"state":"confirmed"}"#).await;
    put("/calico/ipam/v2/assignment/ipv4/block/10.9.0.0-30", "not json").await;
    let odd = IpamConfig { max_blocks_per_host: 2, ..IpamConfig::default() };
    put(model::CONFIG, std::str::from_utf8(&model::encode(&odd)).unwrap()).await;
    put("/calico/resources/v3/projectcalico.org/ippools/q", r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"q"},"spec":{"cidr":"nonsense"}}"#).await;
    let outside = ipam::block::Block::new(
        "192.168.0.0/30".parse().unwrap(),
        None,
        ipam::timestamp::Timestamp::from_seconds(1),
    )
    .unwrap();
    let mut outside = outside;
    outside.allocate(
        &ipam::block::Attribute { handle_id: Some("b".to_owned()), ..Default::default() },
        &[],
    );
    put(
        "/calico/ipam/v2/assignment/ipv4/block/192.168.0.0-30",
        std::str::from_utf8(&outside.encode()).unwrap(),
    )
    .await;
    let (code, out, _) = run(&["check", "-o", "json"]);
    assert_eq!(code, 1);
    let report: Value = serde_json::from_str(&out).unwrap();
    let found: Vec<String> = report["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            format!(
                "{} {}: {}",
                p["kind"].as_str().unwrap(),
                p["object"].as_str().unwrap(),
                p["reason"].as_str().unwrap()
            )
        })
        .collect();
    for expected in [
        "LeakedHandle leaked: holds no address".to_owned(),
        format!("MissingHandle a: holds 1 of {block}, but has no record"),
        "MissingHandle b: holds 1 of 192.168.0.0/30, but its record says 0".to_owned(),
        format!("Affinity {block}: names host:n, which has no affinity for it"),
        "Affinity 10.0.0.192/28: host:m has an affinity, but there is no block".to_owned(),
        "InvalidValue /calico/ipam/v2/assignment/ipv4/block/10.9.0.0-30: not a block: expected ident at line 1 column 2".to_owned(),
        "OutsidePools 192.168.0.0: is allocated outside every pool".to_owned(),
        "Configuration /calico/ipam/v2/config: maxBlocksPerHost: may be set only with strictAffinity".to_owned(),
        "Configuration pools: IPPool q: spec.cidr: \"nonsense\" is not a network".to_owned(),
    ] {
        assert!(found.contains(&expected), "{expected}\n{found:#?}");
    }
    assert_eq!(found.len(), 9, "{found:#?}");
    let (code, text, _) = run(&["check"]);
    assert!(code == 1 && text.ends_with("Check complete; found 9 problems.\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_notices_an_administrators_release() {
    let etcd = Etcd::start().await;
    let cluster =
        Cluster::new(StoreConfig::Etcd(etcd.config()), vec![pool("p", "10.0.0.0/30", 30)]);
    let node = cluster.node("n");
    let address = node.v4("a").await.unwrap().to_string();
    let (code, _, err) = ipam(&["--endpoints", &etcd.endpoint(), "release", "--ip", &address]);
    assert_eq!(code, 0, "{err}");
    assert!(node.ipam.release("a").await.unwrap().is_empty());
    assert_ne!(node.v4("a").await.unwrap().to_string(), address);
}

#[test]
fn errors_name_what_is_wrong() {
    let (code, _, err) = ipam(&["--endpoints", "http://127.0.0.1:1", "show"]);
    assert_eq!(code, 3);
    assert!(
        err.contains("etcd (http://127.0.0.1:1) is unavailable") && err.contains("refused"),
        "{err}"
    );
    let (code, _, err) = ipam(&["--embedded", "/nonexistent.redb", "show"]);
    assert!(code == 2 && err.contains("/nonexistent.redb: no such file"), "{err}");
    let (code, _, err) = ipam(&["--endpoints", "https://127.0.0.1:1", "show"]);
    assert!(code == 3 && err.contains("need the file of the authority"), "{err}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pools.yaml");
    for (yaml, reason) in [
        (
            "kind: IPPool\napiVersion: projectcalico.org/v3\nmetadata: {name: x}\nspec: {cidr: 1.2.3.4}\n",
            "IPPool x: spec.cidr: \"1.2.3.4\" is not a network",
        ),
        ("a: [", "is not YAML"),
        ("a: b", "a document has no kind"),
    ] {
        std::fs::write(&file, yaml).unwrap();
        let (code, _, err) = ipam(&["--pools", file.to_str().unwrap(), "show"]);
        assert!(code == 2 && err.contains(reason) && err.contains("pools.yaml"), "{err}");
    }
    assert_eq!(ipam(&["show", "--ip", "1.2.3.4", "--show-blocks"]).0, 2);
    assert_eq!(ipam(&["frobnicate"]).0, 2);
}
