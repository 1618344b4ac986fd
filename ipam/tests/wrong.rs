//! What is wrong in a store, or with it: whoever needs it is told the key and the reason, and
//! `ipam check` finds it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::process::Command;
use std::sync::Arc;

use ipam::store::etcd::EtcdStore;
use ipam::store::{Store, Txn};
use ipam::{Error, StoreConfig, model};
use serde_json::Value;

mod common;
use common::cluster::{Cluster, Node, pool};
use common::{Etcd, certificates, eventually};

const POOL: &str = "/calico/resources/v3/projectcalico.org/ippools/";

/// A cluster of one node, with its pool in etcd.
struct Place {
    etcd: Etcd,
    store: Arc<dyn Store>,
    node: Node,
}

impl Place {
    async fn new(etcd: Etcd) -> Self {
        let store: Arc<dyn Store> = Arc::new(EtcdStore::new(&etcd.config()).unwrap());
        let place = StoreConfig::Etcd(etcd.config());
        let node = Cluster::new(place, vec![pool("p", "10.0.0.0/29", 30)]).node("n");
        let this = Self { etcd, store, node };
        this.pool("p", "10.0.0.0/29").await;
        this.node.v4("a").await.unwrap();
        assert_eq!(this.problems(), Vec::<String>::new());
        this
    }

    async fn pool(&self, name: &str, cidr: &str) {
        let pool = format!(
            r#"{{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{{"name":"{name}"}},"spec":{{"cidr":"{cidr}","blockSize":30}}}}"#
        );
        self.put(&format!("{POOL}{name}"), &pool).await;
    }

    async fn put(&self, key: &str, value: &str) {
        self.store.txn(Txn::default().put(key, value.into())).await.unwrap();
    }

    /// What `ipam check` finds.
    fn problems(&self) -> Vec<String> {
        let (code, out, err) = check(&["--endpoints", &self.etcd.endpoint()]);
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        let text = |problem: &Value, key: &str| problem[key].as_str().unwrap().to_owned();
        let problems = report["problems"].as_array().unwrap();
        assert_eq!(code, i32::from(!problems.is_empty()), "{out}{err}");
        let line =
            |p: &Value| format!("{} {}: {}", text(p, "kind"), text(p, "object"), text(p, "reason"));
        problems.iter().map(line).collect()
    }

    /// The key of the node's block.
    async fn block(&self) -> String {
        self.store.list_keys(model::BLOCKS).await.unwrap().keys.remove(0)
    }
}

fn check(access: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ipam"))
        .args(access)
        .args(["check", "-o", "json"])
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_block_and_an_unknown_field() {
    let place = Place::new(Etcd::start().await).await;
    let key = place.block().await;
    let entry = place.store.read(std::slice::from_ref(&key)).await.unwrap().entries.remove(0);
    let mut value: Value = serde_json::from_slice(&entry.value).unwrap();
    value["fromTheFuture"] = 1.into();
    place.put(&key, &value.to_string()).await;
    let kept = format!("UnknownField {key}: unknown fields, kept as they are: fromTheFuture");
    assert_eq!(place.problems(), std::slice::from_ref(&kept));
    // It does not disturb, and it stays.
    place.node.v4("b").await.unwrap();
    assert_eq!(place.problems(), [kept]);

    let mut value: Value = serde_json::from_slice(&entry.value).unwrap();
    value["allocations"] = Value::from(vec![Value::from(7), Value::Null, Value::Null]);
    place.put(&key, &value.to_string()).await;
    let error = place.node.ipam.release("a").await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt(corrupt) if corrupt.key == key), "{error}");
    let found = place.problems();
    let found = found.iter().find(|line| line.starts_with("InvalidValue")).unwrap();
    assert!(found.contains(&key) && found.contains("an invalid block"), "{found}");
    assert!(error.to_string().contains("an invalid block"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_writer_and_a_handle_without_a_block() {
    let place = Place::new(Etcd::start().await).await;
    // Somebody allocates without a handle's record, and leaves one without an address.
    let key = place.block().await;
    let entry = place.store.read(std::slice::from_ref(&key)).await.unwrap().entries.remove(0);
    let mut block = model::decode_block(&key, &entry.value).unwrap();
    let owner = ipam::block::Attribute { handle_id: Some("other".into()), ..Default::default() };
    let address = block.allocate(&owner, &[]).unwrap();
    block.seal();
    place.put(&key, std::str::from_utf8(&block.encode()).unwrap()).await;
    let leaked = model::handle_key("leaked");
    place.put(&leaked, r#"{"block":{"10.0.0.8/30":1},"deleted":false}"#).await;
    let cidr = block.cidr();
    assert_eq!(
        place.problems(),
        [
            "LeakedHandle leaked: holds no address".to_owned(),
            format!("MissingHandle other: holds 1 of {cidr}, but has no record"),
        ]
    );
    let mut request = place.node.request("b", ipam::Families::V4);
    request.requested_ips = vec![address];
    let error = place.node.ipam.assign(request).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{address} is taken by other"));
    assert!(place.node.ipam.release("leaked").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_and_overlapping_pools() {
    let place = Place::new(Etcd::start().await).await;
    for n in 0..7 {
        place.node.v4(&format!("full{n}")).await.unwrap();
    }
    let error = place.node.v4("one-more").await.unwrap_err();
    assert_eq!(error.to_string(), "no free IPv4 address in p: every block is taken");
    let full = "PoolFull IPPool p: 10.0.0.0/29 has no free address";
    assert_eq!(place.problems(), [full]);
    place.pool("q", "10.0.0.4/30").await;
    let found = place.problems();
    let overlap = "Configuration IPPool q: 10.0.0.4/30 overlaps p (10.0.0.0/29)";
    assert!(found.iter().any(|line| line == overlap), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_full_etcd() {
    let place = Place::new(Etcd::start_small(4 << 20).await).await;
    let (value, key) = ("x".repeat(500_000), |n: usize| format!("/somebody/else/{n}"));
    let mut n = 0;
    let full = loop {
        let txn = Txn::default().put(key(n), value.clone().into_bytes());
        match place.store.txn(txn).await {
            Ok(_) => n += 1,
            Err(error) => break error.to_string(),
        }
        assert!(n < 100, "etcd has no quota");
    };
    assert!(full.contains("database space exceeded") && full.contains(&place.etcd.endpoint()));
    let error = place.node.v4("b").await.unwrap_err();
    assert!(matches!(&error, Error::StoreRejected { .. }), "{error}");
    assert!(error.to_string().contains("database space exceeded"), "{error}");
    let found = place.problems();
    let line = found.iter().find(|line| line.starts_with("Store ")).unwrap();
    assert!(line.contains("database space exceeded"), "{line}");
    assert!(line.contains(&place.etcd.endpoint()), "{line}");
    // Whoever makes room and disarms the alarm needs to restart nothing.
    let mut client = etcd_client::Client::connect([place.etcd.endpoint()], None).await.unwrap();
    let prefix = etcd_client::DeleteOptions::new().with_prefix();
    client.delete("/somebody/else/", Some(prefix)).await.unwrap();
    let revision = place.store.list("/none/", None).await.unwrap().revision;
    let physical = etcd_client::CompactionOptions::new().with_physical();
    client.compact(revision, Some(physical)).await.unwrap();
    client.defragment().await.unwrap();
    let (get, off) = (etcd_client::AlarmAction::Get, etcd_client::AlarmAction::Deactivate);
    let nospace = etcd_client::AlarmType::Nospace;
    let member = client.alarm(get, nospace, None).await.unwrap().alarms()[0].member_id();
    let mut of = etcd_client::AlarmOptions::new();
    of.with_member(member);
    client.alarm(off, nospace, Some(of)).await.unwrap();
    eventually("addresses are assigned again", async || place.node.v4("c").await.ok()).await;
    assert_eq!(place.problems(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_only_read() {
    use etcd_client::{Permission, PermissionType};
    let place = Place::new(Etcd::start().await).await;
    let mut admin = etcd_client::Client::connect([place.etcd.endpoint()], None).await.unwrap();
    let all = |kind| Permission::new(kind, "/").with_prefix();
    for (role, permission) in [
        ("root", None),
        ("reader", Some(all(PermissionType::Read))),
        ("writer", Some(all(PermissionType::Readwrite))),
    ] {
        admin.user_add(role, "secret", None).await.unwrap();
        admin.role_add(role).await.unwrap();
        if let Some(permission) = permission {
            admin.role_grant_permission(role, permission).await.unwrap();
        }
        admin.user_grant_role(role, role).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    admin.auth_enable().await.unwrap();
    let (endpoint, file) = (place.etcd.endpoint(), file.to_str().unwrap());
    let checked = |user: &str| {
        let access = ["--endpoints", &endpoint, "--username", user, "--password-file", file];
        let (code, out, err) = check(&access);
        let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        (code, report["problems"].clone(), report["revision"].clone())
    };
    let (code, problems, revision) = checked("reader");
    assert_eq!((code, problems.as_array().unwrap().len()), (1, 1), "{problems}");
    let problem = &problems[0];
    let text = |field: &str| problem[field].as_str().unwrap();
    assert!(text("kind") == "Store" && text("object").contains(&endpoint), "{problem}");
    assert!(text("reason").contains("permission denied"), "{problem}");
    // It is told without a write.
    for _ in 0..2 {
        assert_eq!(checked("writer"), (0, Value::Array(Vec::new()), revision.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate() {
    let (ours, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tls, stranger) = (certificates(ours.path()), certificates(other.path()));
    let etcd = Etcd::start_tls(tls.clone()).await;
    let endpoint = etcd.endpoint();
    let files = |ca: &std::path::Path, of: &common::Tls| {
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let (ca, cert, key) = (path(ca), path(&of.cert), path(&of.key));
        let access =
            ["--endpoints", &endpoint, "--ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
        check(&access)
    };
    let (code, _, err) = files(&tls.ca, &tls);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = files(&stranger.ca, &tls);
    assert!(code == 3 && err.contains("invalid peer certificate"), "{err}");
    assert!(err.contains(&endpoint), "{err}");
    let (code, _, err) = files(&tls.ca, &stranger);
    assert!(code == 3 && err.contains(&endpoint) && err.contains("is unavailable"), "{err}");
    // The agent says the same, and where.
    let config = ipam::EtcdConfig { ca_file: Some(stranger.ca), ..etcd.config() };
    let mut cluster = Cluster::new(StoreConfig::Etcd(config), vec![pool("p", "10.0.0.0/29", 30)]);
    cluster.deadline = std::time::Duration::from_secs(2);
    let error = cluster.node("n").v4("a").await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate") && error.contains(&endpoint), "{error}");
}
