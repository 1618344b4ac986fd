use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use futures::FutureExt;
use futures::future::BoxFuture;
use ipam::model::{self, NodeOwner, NodeUid};
use ipam::retire::Identity;
use ipam::store::Store;
use ipam::store::memory::MemoryStore;
use ipam::{AssignRequest, Families, Options, Pool, StoreConfig};
use parking_lot::Mutex;

/// Nodes by name: their uid, and what their kubelet says of the boot.
#[derive(Clone, Default)]
struct Kubernetes {
    nodes: Arc<Mutex<BTreeMap<String, Identity>>>,
    /// How often somebody asked whose a node is.
    asked: Arc<AtomicU32>,
}

impl Kubernetes {
    fn put(&self, node: &str, uid: &str, boot_id: &str) {
        let identity = Identity { uid: uid.into(), boot_id: Some(boot_id.into()) };
        self.nodes.lock().insert(node.into(), identity);
    }
}

impl Registry for Kubernetes {
    fn uid<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        async move { Ok(self.nodes.lock().get(node).map(|found| found.uid.clone())) }.boxed()
    }

    fn identity<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<Identity>, String>> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            Ok(self.nodes.lock().get(node).cloned())
        }
        .boxed()
    }
}

struct Agent {
    ipam: Ipam,
    nodes: watch::Sender<NodeNames>,
    stop: CancellationToken,
    gauge: Gauge,
    _disk: tempfile::TempDir,
}

/// An agent on a machine whose boot id is `boot_id`.
fn agent(
    name: &str,
    boot_id: &str,
    grace: Duration,
    store: &MemoryStore,
    kubernetes: &Kubernetes,
) -> Agent {
    let disk = tempfile::tempdir().unwrap();
    let open = StoreConfig::Open(Arc::new(store.clone()));
    let ipam = Ipam::open(Options::new(name, open, disk.path())).unwrap();
    let pool = api::v3::IPPool::new("p", api::v3::IPPoolSpec::new("10.0.0.0/24"));
    ipam.set_pools(vec![Pool::try_from(&pool).unwrap()]);
    let config = ipam::IpamConfig { ip_cooldown_seconds: Some(1), ..ipam::IpamConfig::default() };
    ipam.set_config(Some(config)).unwrap();
    let (nodes, seen) = watch::channel(None);
    let (stop, gauge) = (CancellationToken::new(), Gauge::default());
    let retiring = Retiring {
        own: name.to_owned(),
        boot_id: boot_id.to_owned(),
        ipam: ipam.clone(),
        registry: Arc::new(kubernetes.clone()),
        pace: Pace { grace, look: 2 * grace },
        gauge: gauge.clone(),
    };
    tokio::spawn(retiring.run(seen, stop.clone()));
    Agent { ipam, nodes, stop, gauge, _disk: disk }
}

impl Agent {
    /// Ends like a process that is killed.
    async fn end(self) {
        self.stop.cancel();
        self.ipam.close().await;
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !holds().await {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn keys(store: &MemoryStore) -> Vec<String> {
    store.list_keys("/").await.unwrap().keys
}

fn names(names: &[&str]) -> NodeNames {
    Some(names.iter().map(|&name| Arc::from(name)).collect())
}

async fn read(store: &MemoryStore, key: &str) -> Option<ipam::store::Entry> {
    store.read(&[key.to_owned()]).await.unwrap().entries.pop()
}

/// Which node of Kubernetes one is by the store's record, and whether its owner made that.
async fn recorded(store: &MemoryStore, node: &str) -> Option<(String, bool)> {
    let (uid_key, owner_key) = (model::node_uid_key(node), model::node_key(node));
    let uid = read(store, &uid_key).await?;
    let uid: NodeUid = model::decode(&uid_key, &uid.value).unwrap();
    let owner = read(store, &owner_key).await?;
    let owner: NodeOwner = model::decode(&owner_key, &owner.value).unwrap();
    Some((uid.uid, uid.instance == owner.instance))
}

#[tokio::test]
async fn agents_give_back_what_a_deleted_node_held_unless_its_agent_lives() {
    let (store, kubernetes) = (MemoryStore::default(), Kubernetes::default());
    let all = ["one", "two", "gone"];
    for name in all {
        kubernetes.put(name, &format!("uid-{name}"), name);
    }
    // Long enough for an agent that lives to answer a challenge on a busy machine.
    let grace = Duration::from_secs(1);
    let agents = all.map(|name| agent(name, name, grace, &store, &kubernetes));
    for (n, agent) in agents.iter().enumerate() {
        let request = AssignRequest::pod(&format!("h{n}"), "default", "pod", Families::V4);
        agent.ipam.assign(request).await.unwrap();
        agent.nodes.send_replace(names(&all));
    }
    let known = || agents[0].ipam.known_nodes();
    eventually("all are known", async || known().await.unwrap().len() == 3).await;
    // Deleted by mistake, and its agent lives: it keeps its name and its blocks for good.
    kubernetes.nodes.lock().remove("gone");
    let owner = model::node_key("gone");
    let revision = async || {
        read(&store, &owner).await.map_or(0, |entry: ipam::store::Entry| entry.mod_revision)
    };
    let before = revision().await;
    for agent in &agents {
        agent.nodes.send_replace(names(&["one", "two"]));
    }
    // Twice, so that one whole turn of challenge and look was made.
    for _ in 0..2 {
        let last = revision().await.max(before);
        eventually("it is challenged and takes its name again", async || revision().await > last)
            .await;
    }
    assert!(keys(&store).await.iter().any(|key| key.starts_with("/calico/ipam/v2/host/gone/")));
    // It is switched off.
    let [one, _two, gone] = agents;
    eventually("it is counted", async || one.gauge.get() == 1).await;
    gone.end().await;
    eventually("nothing of it is left", async || {
        keys(&store).await.iter().all(|key| !key.contains("gone"))
    })
    .await;
    assert!(keys(&store).await.iter().any(|key| key.starts_with("/calico/ipam/v2/host/one/")));
    eventually("no node is missing", async || one.gauge.get() == 0).await;
}

#[tokio::test]
async fn a_machine_that_is_made_anew_is_itself_though_its_predecessor_still_runs() {
    let (store, kubernetes) = (MemoryStore::default(), Kubernetes::default());
    let grace = Duration::from_millis(100);
    kubernetes.put("name", "u1", "boot-1");
    let old = agent("name", "boot-1", grace, &store, &kubernetes);
    let request = |handle| AssignRequest::pod(handle, "default", "pod", Families::V4);
    old.ipam.assign(request("a")).await.unwrap();
    old.nodes.send_replace(names(&["name"]));
    let is = async |uid: &str| recorded(&store, "name").await == Some((uid.to_owned(), true));
    eventually("the first is known", async || is("u1").await).await;
    // Kubernetes deletes the node and makes another; the old machine sees that and runs on.
    let asked = kubernetes.asked.load(Ordering::SeqCst);
    kubernetes.put("name", "u2", "boot-2");
    for seen in [&[][..], &["name"]] {
        old.nodes.send_replace(names(seen));
        tokio::task::yield_now().await;
    }
    // More than once, so that one attempt has ended.
    eventually("it asks who it is", async || {
        if kubernetes.asked.load(Ordering::SeqCst) == asked {
            // It may have seen but the last of the two lists.
            old.nodes.send_replace(names(&[]));
            tokio::time::sleep(Duration::from_millis(20)).await;
            old.nodes.send_replace(names(&["name"]));
        }
        kubernetes.asked.load(Ordering::SeqCst) > asked + 1
    })
    .await;
    assert!(is("u1").await, "it is not the new one");
    let new = agent("name", "boot-2", grace, &store, &kubernetes);
    new.nodes.send_replace(names(&["name"]));
    old.end().await;
    eventually("the second is known", async || is("u2").await).await;
    new.ipam.assign(request("b")).await.unwrap();
}
