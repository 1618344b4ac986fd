use super::*;
use futures::FutureExt;
use futures::future::BoxFuture;
use ipam::store::Store;
use ipam::store::memory::MemoryStore;
use ipam::{AssignRequest, Families, Options, Pool, StoreConfig};
use parking_lot::Mutex;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_missing_node_is_challenged_then_retired_and_its_time_starts_anew_when_it_returns() {
    let (mut missing, start) = (Missing::default(), Instant::now());
    let grace = Duration::from_secs(60);
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut due =
        |seconds, nodes: &[&str], rank: u32| missing.due(at(seconds), &set(nodes), |_| rank, grace);
    assert_eq!(due(0, &["a"], 0), []);
    assert_eq!(due(59, &["a"], 0), []);
    assert_eq!(due(60, &["a", "b"], 0), [Act::Challenge("a".into())]);
    assert_eq!(due(61, &["b"], 0), [], "a is back");
    assert_eq!(due(119, &["a", "b"], 0), []);
    assert_eq!(due(120, &["a", "b"], 0), [Act::Challenge("b".into())]);
    assert_eq!(due(200, &["a", "b"], 2), [], "others come first");
    assert_eq!(due(240, &["a", "b"], 2), [Act::Challenge("b".into())]);
    missing.set("b", Stage::Challenged, at(240));
    let mut due = |seconds| missing.due(at(seconds), &set(&["b"]), |_| u32::MAX, grace);
    assert_eq!(due(299), []);
    assert_eq!(due(300), [Act::Retire("b".into())]);
}

#[test]
fn each_missing_node_has_its_own_first_agent() {
    let nodes: BTreeSet<Arc<str>> = (0..20).map(|n| format!("n{n}").into()).collect();
    let first = |missing: &str| {
        let first: Vec<_> = nodes.iter().filter(|node| rank(node, &nodes, missing) == 0).collect();
        assert_eq!(first.len(), 1, "{first:?}");
        first[0].clone()
    };
    let firsts: BTreeSet<Arc<str>> = (0..50).map(|n| first(&format!("gone{n}"))).collect();
    assert!(firsts.len() > 5, "{firsts:?}");
}

#[derive(Clone, Default)]
struct Kubernetes(Arc<Mutex<BTreeMap<String, String>>>);

impl Registry for Kubernetes {
    fn uid<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<String>, String>> {
        async move { Ok(self.0.lock().get(node).cloned()) }.boxed()
    }
}

struct Agent {
    ipam: Ipam,
    nodes: watch::Sender<NodeNames>,
    stop: CancellationToken,
    _disk: tempfile::TempDir,
}

fn agent(name: &str, store: &MemoryStore, kubernetes: &Kubernetes) -> Agent {
    let disk = tempfile::tempdir().unwrap();
    let open = StoreConfig::Open(Arc::new(store.clone()));
    let ipam = Ipam::open(Options::new(name, open, disk.path())).unwrap();
    let pool = api::v3::IPPool::new("p", api::v3::IPPoolSpec::new("10.0.0.0/24"));
    ipam.set_pools(vec![Pool::try_from(&pool).unwrap()]);
    let config = ipam::IpamConfig { ip_cooldown_seconds: Some(1), ..ipam::IpamConfig::default() };
    ipam.set_config(Some(config)).unwrap();
    let (nodes, seen) = watch::channel(None);
    let (pace, stop) = (
        Pace { grace: Duration::from_millis(50), look: Duration::from_millis(200) },
        CancellationToken::new(),
    );
    let registry = Arc::new(kubernetes.clone());
    tokio::spawn(run(name.to_owned(), ipam.clone(), registry, seen, pace, stop.clone()));
    Agent { ipam, nodes, stop, _disk: disk }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn keys(store: &MemoryStore) -> Vec<String> {
    store.list_keys("/").await.unwrap().keys
}

#[tokio::test]
async fn agents_give_back_what_a_deleted_node_held_unless_its_agent_lives() {
    let (store, kubernetes) = (MemoryStore::default(), Kubernetes::default());
    let names = |names: &[&str]| Some(names.iter().map(|&name| Arc::from(name)).collect());
    for name in ["one", "two", "gone"] {
        kubernetes.0.lock().insert(name.into(), format!("uid-{name}"));
    }
    let agents = ["one", "two", "gone"].map(|name| agent(name, &store, &kubernetes));
    for (n, agent) in agents.iter().enumerate() {
        let request = AssignRequest::pod(&format!("h{n}"), "default", "pod", Families::V4);
        agent.ipam.assign(request).await.unwrap();
        agent.nodes.send_replace(names(&["one", "two", "gone"]));
    }
    let known = || agents[0].ipam.known_nodes();
    eventually("all are known", async || known().await.unwrap().len() == 3).await;
    // Deleted by mistake, and its agent lives: it keeps its name and its blocks for good.
    kubernetes.0.lock().remove("gone");
    let owner = ipam::model::node_key("gone");
    let revision = async || {
        let read = store.read(std::slice::from_ref(&owner)).await.unwrap();
        read.entries.first().map_or(0, |entry| entry.mod_revision)
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
    let [_one, _two, gone] = agents;
    gone.stop.cancel();
    gone.ipam.close().await;
    eventually("nothing of it is left", async || {
        keys(&store).await.iter().all(|key| !key.contains("gone"))
    })
    .await;
    assert!(keys(&store).await.iter().any(|key| key.starts_with("/calico/ipam/v2/host/one/")));
}
