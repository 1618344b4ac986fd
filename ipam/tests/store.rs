//! What every store must do, run against all three.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use ipam::store::embedded::EmbeddedStore;
use ipam::store::etcd::{EtcdConfig, EtcdStore};
use ipam::store::memory::MemoryStore;
use ipam::store::{Event, MAX_TXN_OPS, Outcome, Revision, Store, StoreError, Txn};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

mod common;
use common::{Etcd, certificates};

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    match store.txn(Txn::default().put(key, value.into())).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(found) => panic!("{found:?}"),
    }
}

async fn next(watch: &mut BoxStream<'static, Event>) -> Event {
    tokio::time::timeout(Duration::from_secs(15), watch.next()).await.unwrap().unwrap()
}

/// The next change, past failed attempts to watch.
async fn next_put(watch: &mut BoxStream<'static, Event>) -> ipam::store::Entry {
    loop {
        match next(watch).await {
            Event::Interrupted(_) => {}
            Event::Put(entry) => return entry,
            other => panic!("{other:?}"),
        }
    }
}

fn rows(entries: &[ipam::store::Entry]) -> Vec<(String, String)> {
    let value = |e: &ipam::store::Entry| String::from_utf8(e.value.to_vec()).unwrap();
    entries.iter().map(|e| (e.key.clone(), value(e))).collect()
}

/// The suite. Keys are under a prefix of each part's own, so that one store serves all parts.
async fn conforms(store: Arc<dyn Store>) {
    transactions(&*store).await;
    creations(&*store).await;
    reads(&*store).await;
    limits(&*store).await;
    past(&*store).await;
    watches(&*store).await;
    contention(store.clone()).await;
    large(&*store).await;
}

async fn transactions(store: &dyn Store) {
    let create = Txn::default().when("/t/a", 0).put("/t/a", b"1".to_vec());
    let Outcome::Committed(first) = store.txn(create.clone()).await.unwrap() else { panic!() };
    // Again: it exists, and the answer says as what.
    let Outcome::Conflict(found) = store.txn(create).await.unwrap() else { panic!() };
    let entry = found[0].clone().unwrap();
    assert_eq!((&entry.value[..], entry.mod_revision), (&b"1"[..], first));
    // Several comparisons: one fails, nothing is written, all are answered, in order.
    let mixed = Txn::default().when("/t/none", 0).when("/t/a", first + 100).when("/t/a", first);
    let Outcome::Conflict(found) = store.txn(mixed.put("/t/b", b"2".to_vec())).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(found, [None, Some(entry.clone()), Some(entry)]);
    assert!(store.read(&["/t/b".to_owned()]).await.unwrap().entries.is_empty());
    // All hold: all is written, under one revision.
    let all = Txn::default().when("/t/a", first).when("/t/b", 0).put("/t/a", b"3".to_vec());
    let Outcome::Committed(second) = store.txn(all.put("/t/b", b"4".to_vec())).await.unwrap()
    else {
        panic!()
    };
    assert!(second > first);
    let keys = ["/t/b", "/t/a"].map(str::to_owned);
    let read = store.read(&keys).await.unwrap();
    assert!(read.entries.iter().all(|entry| entry.mod_revision == second));
    assert_eq!(rows(&read.entries), [("/t/b".into(), "4".into()), ("/t/a".into(), "3".into())]);
    // Deleting, also what is not there.
    let gone = Txn::default().when("/t/a", second).delete("/t/a").delete("/t/never");
    assert!(matches!(store.txn(gone).await.unwrap(), Outcome::Committed(_)));
    let again = Txn::default().when("/t/a", 0).put("/t/a", b"5".to_vec());
    assert!(matches!(store.txn(again).await.unwrap(), Outcome::Committed(_)));
}

/// Transactions that rest on no key having been created under a prefix.
async fn creations(store: &dyn Store) {
    let first = put(store, "/g/a", "1").await;
    let keys = store.list_keys("/g/").await.unwrap();
    assert_eq!((keys.keys, keys.revision), (vec!["/g/a".to_owned()], first));
    let when = |prefix: &str, since| Txn::default().when_none_created(prefix, since);
    let holds = async |txn: Txn| matches!(store.txn(txn).await.unwrap(), Outcome::Committed(_));
    // Nothing there; changed since; created beside it since.
    assert!(holds(when("/g/none/", first).put("/g2", vec![])).await);
    put(store, "/g/a", "2").await;
    put(store, "/gb", "").await;
    assert!(holds(when("/g/", first).put("/g2", vec![])).await);
    // Created since: refused, and no compared key is to blame.
    let second = put(store, "/g/b", "1").await;
    let guarded = when("/g/", first).when("/g2", 0).when("/g/b", second);
    let Outcome::Conflict(found) = store.txn(guarded).await.unwrap() else { panic!() };
    assert_eq!(found.len(), 2);
    let guarded = when("/g/", second - 1).when("/g/b", second).put("/g2", b"no".to_vec());
    let Outcome::Conflict(found) = store.txn(guarded).await.unwrap() else { panic!() };
    assert_eq!(found[0].as_ref().unwrap().mod_revision, second);
    assert!(holds(when("/g/", second).put("/g2", vec![])).await);
    // Created and gone again; created again.
    put(store, "/g/c", "").await;
    store.txn(Txn::default().delete("/g/c")).await.unwrap();
    assert!(holds(when("/g/", second)).await);
    put(store, "/g/c", "").await;
    assert!(!holds(when("/g/", second)).await);
    let keys = store.list_keys("/g/").await.unwrap();
    assert!(holds(when("/g/", keys.revision)).await);
    assert_eq!(&store.read(&["/g2".to_owned()]).await.unwrap().entries[0].value[..], b"");
}

async fn reads(store: &dyn Store) {
    let last = {
        put(store, "/r/b", "2").await;
        put(store, "/r/a", "1").await;
        put(store, "/r/a/x", "3").await;
        put(store, "/s/", "other").await
    };
    let list = store.list("/r/", None).await.unwrap();
    assert_eq!(list.revision, last);
    let expected = [("/r/a", "1"), ("/r/a/x", "3"), ("/r/b", "2")];
    assert_eq!(rows(&list.entries), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!(store.list_keys("/r/a").await.unwrap().keys, ["/r/a", "/r/a/x"]);
    let read = store.read(&["/r/none".to_owned(), "/r/b".to_owned()]).await.unwrap();
    assert_eq!(read.revision, last);
    assert_eq!(read.get("/r/b").unwrap().mod_revision, list.entries[2].mod_revision);
    assert_eq!(read.entries.len(), 1);
}

async fn limits(store: &dyn Store) {
    let many = |n: usize| (0..n).fold(Txn::default(), |t, i| t.put(format!("/l/{i:03}"), vec![]));
    assert!(matches!(store.txn(many(MAX_TXN_OPS)).await.unwrap(), Outcome::Committed(_)));
    let refused = store.txn(many(MAX_TXN_OPS + 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Rejected { .. }), "{refused}");
    let twice = Txn::default().put("/l/a", vec![]).delete("/l/a");
    let refused = store.txn(twice).await.unwrap_err();
    assert!(refused.to_string().contains("duplicate key /l/a"), "{refused}");
    assert!(refused.to_string().contains(&store.name()), "{refused}");
}

async fn past(store: &dyn Store) {
    put(store, "/p/a", "1").await;
    let then = put(store, "/p/b", "1").await;
    put(store, "/p/a", "2").await;
    store.txn(Txn::default().delete("/p/b").put("/p/c", b"3".to_vec())).await.unwrap();
    let before = store.list("/p/", Some(then)).await.unwrap();
    assert_eq!(before.revision, then);
    let expected = [("/p/a", "1"), ("/p/b", "1")];
    assert_eq!(rows(&before.entries), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

async fn watches(store: &dyn Store) {
    let first = put(store, "/w/a", "1").await;
    let mut all = store.watch("/w/", None);
    let Event::Synced(snapshot) = next(&mut all).await else { panic!() };
    assert_eq!(rows(&snapshot.entries), [("/w/a".to_owned(), "1".to_owned())]);
    let second = put(store, "/w/a", "2").await;
    put(store, "/v", "not watched").await;
    store.txn(Txn::default().delete("/w/a").put("/w/b", b"3".to_vec())).await.unwrap();
    let mut later = store.watch("/w/", Some(first));
    for watch in [&mut all, &mut later] {
        let Event::Put(entry) = next(watch).await else { panic!() };
        assert_eq!((&entry.value[..], entry.mod_revision), (&b"2"[..], second));
        // Events of one transaction come in any order.
        let mut both = [next(watch).await, next(watch).await];
        both.sort_by_key(|event| matches!(event, Event::Put(_)));
        assert!(
            matches!(&both[0], Event::Delete(key, revision) if key == "/w/a" && *revision > second)
        );
        assert!(matches!(&both[1], Event::Put(entry) if entry.key == "/w/b"));
    }
    let third = put(store, "/w/c", "4").await;
    for watch in [&mut all, &mut later] {
        assert!(matches!(next(watch).await, Event::Put(entry) if entry.mod_revision == third));
    }
}

/// Many increment one number; each success counts exactly once.
async fn contention(store: Arc<dyn Store>) {
    let one = |store: Arc<dyn Store>| async move {
        let key = ["/c".to_owned()];
        let mut entry = store.read(&key).await.unwrap().entries.pop();
        for _ in 0..25 {
            loop {
                let (count, revision) = entry.as_ref().map_or((0, 0), |entry| {
                    let text = String::from_utf8(entry.value.to_vec()).unwrap();
                    (text.parse::<u32>().unwrap(), entry.mod_revision)
                });
                let next = (count + 1).to_string().into_bytes();
                match store.txn(Txn::default().when("/c", revision).put("/c", next)).await.unwrap()
                {
                    Outcome::Committed(_) => break,
                    Outcome::Conflict(found) => entry = found.into_iter().next().unwrap(),
                }
            }
            entry = store.read(&key).await.unwrap().entries.pop();
        }
    };
    let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(one(store.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let read = store.read(&["/c".to_owned()]).await.unwrap();
    assert_eq!(&read.entries[0].value[..], b"100");
}

/// More than one page, and more bytes than gRPC takes by default.
async fn large(store: &dyn Store) {
    let value = "x".repeat(10_000);
    for part in 0..11 {
        let txn = (0..64).fold(Txn::default(), |txn, n| {
            txn.put(format!("/big/{:04}", part * 64 + n), value.clone().into_bytes())
        });
        store.txn(txn).await.unwrap();
    }
    let list = store.list("/big/", None).await.unwrap();
    assert_eq!(list.entries.len(), 704);
    assert!(list.entries.windows(2).all(|pair| pair[0].key < pair[1].key));
    assert_eq!(store.list_keys("/big/").await.unwrap().keys.len(), 704);
}

/// What a watch does when the changes it needs are forgotten.
async fn relists(store: &dyn Store, compact: impl AsyncFn(Revision)) {
    let old = put(store, "/k/a", "1").await;
    put(store, "/k/a", "2").await;
    let now = put(store, "/k/b", "3").await;
    compact(now).await;
    let gone = store.list("/k/", Some(old)).await.unwrap_err();
    assert!(matches!(gone, StoreError::Compacted { revision, .. } if revision == old), "{gone}");
    let mut watch = store.watch("/k/", Some(old));
    let Event::Synced(snapshot) = next(&mut watch).await else { panic!() };
    assert_eq!(snapshot.entries.len(), 2);
    put(store, "/k/c", "4").await;
    assert!(matches!(next(&mut watch).await, Event::Put(entry) if entry.key == "/k/c"));
}

#[tokio::test]
async fn memory() {
    let store = MemoryStore::default();
    conforms(Arc::new(store.clone())).await;
    relists(&store, async |revision| store.compact(revision)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ipam.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    conforms(Arc::new(store.clone())).await;
    let before = store.list("/", None).await.unwrap();
    let Err(error) = EmbeddedStore::open(&path) else { panic!("opened twice") };
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    drop(store);
    // Everything is there again, under the same revisions; only the history is gone.
    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.list("/", None).await.unwrap(), before);
    let mut watch = store.watch("/r/", Some(1));
    assert!(
        matches!(next(&mut watch).await, Event::Synced(snapshot) if snapshot.entries.len() == 3)
    );
}

#[test]
fn embedded_says_which_file() {
    let Err(error) = EmbeddedStore::open("/nonexistent/ipam.redb".as_ref()) else { panic!() };
    assert!(error.to_string().starts_with("/nonexistent/ipam.redb is unavailable"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd() {
    let etcd = Etcd::start().await;
    let store = EtcdStore::new(&etcd.config()).unwrap();
    conforms(Arc::new(store.clone())).await;
    let client = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    relists(&store, async move |revision| {
        client.clone().compact(revision, None).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_survives_etcd_killed_and_started_again() {
    let mut etcd = Etcd::start().await;
    let store = EtcdStore::new(&etcd.config()).unwrap();
    put(&store, "/w/a", "1").await;
    let mut watch = store.watch("/w/", None);
    assert!(matches!(next(&mut watch).await, Event::Synced(_)));
    put(&store, "/w/a", "2").await;
    assert!(matches!(next(&mut watch).await, Event::Put(_)));
    etcd.kill();
    let Event::Interrupted(error) = next(&mut watch).await else { panic!() };
    assert!(error.to_string().contains(&etcd.endpoint()), "{error}");
    let error = store.read(&["/w/a".to_owned()]).await.unwrap_err();
    assert!(error.to_string().contains(&etcd.endpoint()), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    etcd.run().await;
    put(&store, "/w/b", "3").await;
    let entry = next_put(&mut watch).await;
    assert_eq!(entry.key, "/w/b", "nothing lost, nothing repeated");
    // Away, and told as long as that lasts: who used the store meanwhile knows of no other outage.
    etcd.kill();
    for _ in 0..3 {
        assert!(matches!(next(&mut watch).await, Event::Interrupted(_)));
    }
    etcd.run().await;
    // A transaction may meet the connection that the kill broke, and is not repeated by itself.
    common::eventually("an answer", async || store.read(&["/w/a".to_owned()]).await.ok()).await;
    put(&store, "/w/c", "4").await;
    assert_eq!(next_put(&mut watch).await.key, "/w/c");
}

/// A way to etcd whose connections can be broken; new ones are made as before.
struct Relay {
    address: std::net::SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn to(etcd: &Etcd) -> Self {
        let target = etcd.endpoint().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let made = connections.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(&target).await.unwrap();
                made.lock().unwrap().spawn(async move {
                    let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, connections, accepting }
    }

    async fn break_all(&self) {
        let mut broken = std::mem::take(&mut *self.connections.lock().unwrap());
        broken.shutdown().await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_made_anew_by_the_request_that_meets_it() {
    let etcd = Etcd::start().await;
    let relay = Relay::to(&etcd).await;
    let config = EtcdConfig::new([format!("http://{}", relay.address)]);
    let store = EtcdStore::new(&config).unwrap();
    put(&store, "/b", "1").await;
    for time in 0..100 {
        relay.break_all().await;
        let read = store.read(&["/b".to_owned()]).await;
        assert_eq!(read.unwrap_or_else(|e| panic!("time {time}: {e}")).entries.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_endpoint_serves_when_one_is_away() {
    let (away, etcd) = (Etcd::stopped(), Etcd::start().await);
    let store = EtcdStore::new(&EtcdConfig::new([away.endpoint(), etcd.endpoint()])).unwrap();
    // A transaction, too: the refused connection proves that it was not done.
    put(&store, "/e/a", "1").await;
    assert_eq!(store.list("/e/", None).await.unwrap().entries.len(), 1);
    let mut watch = store.watch("/e/", None);
    assert!(matches!(next(&mut watch).await, Event::Synced(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_etcd_is_noticed_in_time() {
    let etcd = Etcd::start().await;
    let config = EtcdConfig { request_timeout: Duration::from_millis(300), ..etcd.config() };
    let store = EtcdStore::new(&config).unwrap();
    put(&store, "/f", "1").await;
    let signal = |name: &str| {
        let pid = etcd.pid().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-STOP");
    // The signal stops each thread at its next chance.
    common::eventually("all threads stopped", async || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", etcd.pid())).unwrap();
        let stopped = |thread: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            status.contains("State:\tT")
        };
        threads.into_iter().all(stopped).then_some(())
    })
    .await;
    let start = std::time::Instant::now();
    let error = store.read(&["/f".to_owned()]).await.unwrap_err();
    signal("-CONT");
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(error.to_string().contains("no answer within 300ms"), "{error}");
    common::eventually("an answer after the freeze", async || {
        store.read(&["/f".to_owned()]).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_passwords() {
    let etcd = Etcd::start().await;
    let mut admin = etcd_client::Client::connect([etcd.endpoint()], None).await.unwrap();
    admin.user_add("root", "secret-word", None).await.unwrap();
    admin.role_add("root").await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();
    let with = |password: &str| EtcdConfig {
        username: Some("root".to_owned()),
        password: Some(password.to_owned()),
        ..etcd.config()
    };
    let config = with("secret-word");
    assert!(!format!("{config:?}").contains("secret-word"));
    put(&EtcdStore::new(&config).unwrap(), "/u", "1").await;
    let error = EtcdStore::new(&with("wrong")).unwrap().list("/u", None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("authentication failed"), "{error}");
    let error = EtcdStore::new(&etcd.config()).unwrap().list("/u", None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Rejected { .. }), "{error}");
    // From a file, which is rotated: etcd forgets the old password's tokens at once.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let config = EtcdConfig { password: None, password_file: Some(file.clone()), ..config };
    let Err(error) = EtcdStore::new(&config) else { panic!("there is no file") };
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    std::fs::write(&file, "secret-word\n").unwrap();
    let store = EtcdStore::new(&config).unwrap();
    put(&store, "/u", "2").await;
    let mut admin = etcd_client::Client::connect(
        [etcd.endpoint()],
        Some(etcd_client::ConnectOptions::new().with_user("root", "secret-word")),
    )
    .await
    .unwrap();
    admin.user_change_password("root", "another-word").await.unwrap();
    std::fs::write(&file, "another-word\n").unwrap();
    put(&store, "/u", "3").await;
    assert_eq!(store.list("/u", None).await.unwrap().entries.len(), 1);
}

#[test]
fn contradictory_configuration_is_refused_with_the_reason() {
    let plain = || EtcdConfig::new(["https://127.0.0.1:1"]);
    for (config, reason) in [
        (EtcdConfig::new(Vec::<String>::new()), "no endpoint"),
        (plain(), "need the file of the authority"),
        (EtcdConfig { ca_file: Some("/nonexistent/ca".into()), ..plain() }, "/nonexistent/ca"),
        (EtcdConfig { username: Some("u".into()), ..EtcdConfig::new(["h:1"]) }, "needs a password"),
        (EtcdConfig { cert_file: Some("c".into()), ..EtcdConfig::new(["h:1"]) }, "https://"),
    ] {
        let Err(error) = EtcdStore::new(&config) else { panic!("{config:?}") };
        assert!(matches!(error, StoreError::Rejected { .. }));
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (tls, stranger) = (certificates(directory.path()), certificates(other.path()));
    let etcd = Etcd::start_tls(tls).await;
    let store = EtcdStore::new(&etcd.config()).unwrap();
    put(&store, "/tls", "1").await;
    let mut watch = store.watch("/tls", None);
    assert!(
        matches!(next(&mut watch).await, Event::Synced(snapshot) if snapshot.entries.len() == 1)
    );
    let fails = async |config: EtcdConfig| {
        let error = EtcdStore::new(&config).unwrap().list("/tls", None).await.unwrap_err();
        error.to_string()
    };
    // An authority that did not sign the server's certificate; then a client nobody vouches for.
    let error = fails(EtcdConfig { ca_file: Some(stranger.ca), ..etcd.config() }).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert!(error.contains(&etcd.endpoint()), "{error}");
    let unknown = EtcdConfig {
        cert_file: Some(stranger.cert),
        key_file: Some(stranger.key),
        ..etcd.config()
    };
    let error = fails(unknown).await;
    assert!(error.contains("is unavailable"), "{error}");
}
