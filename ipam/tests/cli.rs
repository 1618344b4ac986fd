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
#[path = "cli/configure.rs"]
mod configure;
#[path = "cli/services.rs"]
mod services;
#[path = "cli/thaw.rs"]
mod thaw;
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
    // One that rests is nobody's any more.
    let gone = ipam::block::Attribute { handle_id: Some("gone".to_owned()), ..Default::default() };
    outside.allocate(&gone, &[]).unwrap();
    let now = std::time::SystemTime::now().into();
    outside.release_handle("gone", ipam::block::Release::Rest(now));
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

const PODS: &str = "\
kind: List
items:
- {kind: Pod, metadata: {name: pod-net.one0, namespace: default}, status: {podIPs: [{ip: 10.244.1.0}]}}
- {kind: Pod, metadata: {name: pod-net.one1, namespace: default}, status: {podIPs: [{ip: 10.244.1.1}]}}
- {kind: Pod, metadata: {name: stranger, namespace: default}, status: {podIPs: [{ip: 10.244.9.9}]}}
- {kind: Node, metadata: {name: node1}}
";

#[tokio::test(flavor = "multi_thread")]
async fn releases_what_a_report_says_is_not_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (file, pools, pods) = (path("ipam.redb"), path("pools.yaml"), path("pods.yaml"));
    populate(Path::new(&file)).await;
    std::fs::write(&pools, POOLS).unwrap();
    std::fs::write(&pods, PODS).unwrap();
    let run =
        |arguments: &[&str]| ipam(&[&["--embedded", &file, "--pools", &pools], arguments].concat());
    let report = |name: &str| {
        let (code, out, err) = run(&["check", "--pods", &pods, "--grace", "0", "-o", "json"]);
        assert_eq!(code, 1, "{out}{err}");
        std::fs::write(path(name), &out).unwrap();
        serde_json::from_str::<Value>(&out).unwrap()
    };
    // Nobody looked what is in use: the report is of no use here.
    let (code, out, _) = run(&["check", "-o", "json"]);
    assert_eq!(code, 0);
    std::fs::write(path("blind.json"), out).unwrap();
    let (code, _, err) = run(&["release", "--from-report", &path("blind.json")]);
    assert!(code == 2 && err.contains("blind.json: does not say what is in use"), "{err}");

    let first = report("first.json");
    let entry = |ip: &str| first["allocations"][ip][0].clone();
    assert_eq!(entry("10.244.1.0")["inUse"], true);
    assert_eq!(entry("10.244.1.9")["inUse"], false);
    assert_eq!(entry("10.244.1.9")["handle"], "net.two3");
    assert!(entry("10.244.1.9")["sequenceNumber"].is_u64());
    let problems = first["problems"].to_string();
    assert!(problems.contains("10.244.9.9") && problems.contains("in use by default/stranger"));
    let (_, text, _) = run(&["check", "--pods", &pods, "--grace", "0"]);
    let line = "Found 7 IPs that are allocated in IPAM but not actually in use.";
    assert!(text.lines().any(|found| found == line), "{text}");

    // One of them is given back and taken again by somebody else; another gets a second address.
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(Path::new(&file)).unwrap());
    let node = Cluster::on(&store, vec![pool("p", "10.244.0.0/16", 26)]).node("node3");
    for (handle, address) in [("net.two3", "10.244.1.40"), ("net.new", "10.244.1.41")] {
        let mut request = node.request(handle, Families::V4);
        request.requested_ips = vec![ip(address)];
        // A handle has one address of a family by the allocator's rule, but not by the store's.
        if handle == "net.two3" {
            request.handle = "net.other".to_owned();
        }
        node.ipam.assign(request).await.unwrap();
    }
    node.stop().await;
    let key = model::block_key(&"10.244.1.0/26".parse().unwrap());
    let entry = store.read(std::slice::from_ref(&key)).await.unwrap().entries.remove(0);
    let mut block = model::decode_block(&key, &entry.value).unwrap();
    let release = ipam::block::Release::Now;
    block.release_address(ip("10.244.1.2"), Some("net.one2"), None, release).unwrap();
    block.seal();
    let owner = |handle: &str| ipam::block::Attribute {
        handle_id: Some(handle.to_owned()),
        ..Default::default()
    };
    block.allocate_address(ip("10.244.1.2"), &owner("net.one2")).unwrap();
    block.allocate_address(ip("10.244.1.50"), &owner("net.one3")).unwrap();
    block.seal();
    store.txn(Txn::default().put(key, block.encode())).await.unwrap();
    drop(store);

    // Only what two reports agree on; and each handle only if it holds what it held, no more.
    let second = report("second.json");
    assert_eq!(second["allocations"]["10.244.1.50"][0]["handle"], "net.one3");
    let (first, second) = (path("first.json"), path("second.json"));
    let both = ["release", "--from-report", &first, "--from-report", &second, "-o", "json"];
    let (code, out, err) = run(&both);
    assert_eq!(code, 0, "{out}{err}");
    let done: Value = serde_json::from_str(&out).unwrap();
    // one2 (another allocation) and one3 (another address) differ between the two.
    let released: Vec<_> =
        done["released"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap()).collect();
    assert_eq!(released, ["10.244.1.4", "10.244.2.0", "10.244.2.1", "10.244.2.2", "10.244.1.9"]);
    // The first report alone is out of date: nothing more is done, and each reason is said.
    let (code, out, _) = run(&["release", "--from-report", &first]);
    assert_eq!(code, 1, "{out}");
    for line in [
        "Releasing 7 old IPs...",
        "Released 0 IPs successfully",
        "Not released: net.one2 10.244.1.2: 10.244.1.2 was allocated again",
        "Not released: net.one3 10.244.1.3: it holds 10.244.1.50 by now",
        "Not released: net.one4 10.244.1.4: 10.244.1.4 is not assigned to it",
    ] {
        assert!(out.lines().any(|found| found == line), "{line}\n{out}");
    }
    let (code, out, _) = run(&["show", "--ip", "10.244.1.4"]);
    assert!(code == 1 && out.contains("cooling down"), "{out}");
    let (code, out, _) = run(&["show", "--ip", "10.244.1.1"]);
    assert!(code == 0 && out.contains("net.one1"), "{out}");

    // The same without a report in between: first what it would do, then that.
    let gc = ["gc", "--pods", &pods, "--grace", "0"];
    let (code, out, _) = run(&[&gc[..], &["--dry-run"]].concat());
    assert!(code == 1 && out.contains("Would release"), "{out}");
    let (code, would, _) = run(&[&gc[..], &["--dry-run"]].concat());
    assert_eq!((code, would), (1, out), "nothing was done");
    let (code, out, err) = run(&gc);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, _) = run(&[&gc[..], &["--dry-run"]].concat());
    assert_eq!(code, 0, "{out}");
    let (code, out, _) = run(&["show", "--ip", "10.244.1.1"]);
    assert!(code == 0 && out.contains("net.one1"), "{out}");
    let (code, _, err) = run(&["gc"]);
    assert!(code == 2 && err.contains("--pods: needed"), "{err}");

    // A handle without an address may be of a request on its way, unless a report says otherwise.
    let record = r#"{"block":{"10.244.1.0/26":1},"deleted":false}"#;
    let store = EmbeddedStore::open(Path::new(&file)).unwrap();
    store.txn(Txn::default().put(model::handle_key("leaked"), record.into())).await.unwrap();
    drop(store);
    let third = report("third.json");
    assert_eq!(third["leakedHandles"], Value::from(vec!["leaked"]));
    let third = path("third.json");
    let released = ["release", "--from-report", &third];
    for arguments in [&["gc", "--pods", &pods][..], &released] {
        let (code, out, _) = run(arguments);
        let kept = "Not released: leaked: it may be of a request on its way: seen without an address \
                    for less than 15 minutes; a report that old (`ipam check -o json`) proves it";
        assert!(code == 1 && out.lines().any(|line| line == kept), "{out}");
    }
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(901);
    std::fs::File::options().write(true).open(&third).unwrap().set_modified(old).unwrap();
    let (code, out, _) = run(&released);
    assert!(code == 0 && out.ends_with("Deleted 1 handles\n"), "{out}");
}
