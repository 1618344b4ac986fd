//! Random histories of a small cluster on the store of tests: pods come and go, agents restart,
//! requests and replies are lost, callers give up, the store is away, time passes. Whatever
//! happens, no two pods have one address, and one collection later nothing is lost.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use ipam::store::memory::{Fault, MemoryStore};
use ipam::store::{Event, Keys, Outcome, Revision, Snapshot, Store, StoreError, Txn};
use ipam::{Error, Families, Live};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

mod common;
use common::cluster::{Cluster, Node, consistent, pool};

/// The pools, each time with other block sizes, the last time with one in another.
fn pools(version: u8) -> Vec<ipam::Pool> {
    let (four, six) = [(30, 125), (31, 126), (29, 125), (30, 127)][usize::from(version)];
    let mut pools = vec![pool("four", "10.0.0.0/27", four), pool("six", "fd00::/122", six)];
    if version == 3 {
        pools.push(pool("a-part-of-four", "10.0.0.8/29", 32));
    }
    pools
}

struct World {
    random: SmallRng,
    memory: MemoryStore,
    store: Arc<dyn Store>,
    cluster: Cluster,
    nodes: Vec<Option<Node>>,
    /// Who lives: address to (node, handle).
    pods: BTreeMap<IpAddr, (usize, String)>,
    next: usize,
    history: Vec<String>,
}

impl World {
    fn new(seed: u64, forgotten: Option<Forgotten>) -> Self {
        let memory = MemoryStore::default();
        let store: Arc<dyn Store> = match forgotten {
            None => Arc::new(memory.clone()),
            Some(forgotten) => Arc::new(Careless { store: memory.clone(), forgotten }),
        };
        let mut random = SmallRng::seed_from_u64(seed);
        // Deliberately too small: blocks change hands, addresses are borrowed and end their rest.
        let pools = pools(0);
        let mut cluster = Cluster::on(&store, pools);
        if random.random_bool(0.5) {
            cluster = cluster.strict();
        }
        cluster.deadline = Duration::from_millis(100);
        let nodes = (0..4).map(|n| Some(cluster.node(&format!("n{n}")))).collect();
        let (pods, history) = Default::default();
        Self { random, memory, store, cluster, nodes, pods, next: 0, history }
    }

    fn any_node(&mut self) -> usize {
        self.random.random_range(0..self.nodes.len())
    }

    fn fault(&mut self) {
        let fault = match self.random.random_range(0..6) {
            0 => Some(Fault::LoseReply),
            1 => Some(Fault::LoseRequest),
            _ => return,
        };
        let later = self.random.random_range(0..3);
        self.history.push(format!("{fault:?} after {later}"));
        self.memory.inject(std::iter::repeat_n(None, later).chain([fault]));
    }

    fn live(&self, node: usize) -> BTreeSet<String> {
        let mine = self.pods.values().filter(|(at, _)| *at == node);
        mine.map(|(_, handle)| handle.clone()).collect()
    }

    /// Several pods of several nodes start at once; some callers give up on the way.
    async fn add(&mut self) {
        let count = self.random.random_range(1..5);
        let mut starting = Vec::new();
        for _ in 0..count {
            let node = self.any_node();
            let handle = format!("h{}", self.next);
            self.next += 1;
            let families =
                [Families::V4, Families::V6, Families::DUAL][self.random.random_range(0..3)];
            let patience = self.random.random_bool(0.1).then(|| self.random.random_range(0..4));
            starting.push((node, handle, families, patience));
        }
        self.history.push(format!("add {starting:?}"));
        let nodes = &self.nodes;
        let started = starting.into_iter().map(|(at, handle, families, patience)| async move {
            let node = nodes[at].as_ref().unwrap();
            let assign = node.ipam.assign(node.request(&handle, families));
            let result = match patience {
                None => Some(assign.await),
                Some(turns) => {
                    let turns = async {
                        for _ in 0..turns {
                            tokio::task::yield_now().await;
                        }
                    };
                    tokio::select! {
                        biased;
                        () = turns => None,
                        result = assign => Some(result),
                    }
                }
            };
            (at, handle, result)
        });
        for (at, handle, result) in futures::future::join_all(started).await {
            match result {
                Some(Ok(assignment)) => {
                    for address in assignment.ips() {
                        let other = self.pods.insert(address, (at, handle.clone()));
                        assert_eq!(other, None, "{address} to {handle} of n{at} too");
                    }
                }
                Some(Err(Error::PoolExhausted { .. } | Error::StoreUnavailable { .. })) | None => {}
                Some(Err(error)) => panic!("{error}"),
            }
        }
    }

    async fn remove(&mut self) {
        let Some(n) = self.pods.len().checked_sub(1) else { return };
        let victim = self.random.random_range(0..=n);
        let (node, handle) = self.pods.values().nth(victim).unwrap().clone();
        self.history.push(format!("remove {handle} of n{node}"));
        self.pods.retain(|_, (_, other)| *other != handle);
        // A failed release is the collector's.
        let _ = self.nodes[node].as_ref().unwrap().ipam.release(&handle).await;
    }

    async fn restart(&mut self) {
        let node = self.any_node();
        self.history.push(format!("restart n{node}"));
        let disk = self.nodes[node].take().unwrap().stop().await;
        self.nodes[node] = Some(self.cluster.node_on(&format!("n{node}"), disk));
    }

    async fn collect(&mut self, node: usize) -> bool {
        self.history.push(format!("collect n{node}"));
        let ipam = &self.nodes[node].as_ref().unwrap().ipam;
        let epoch = ipam.epoch();
        let live = Live::handles(epoch, self.live(node)).unwrap_or_else(|| Live::none(epoch));
        ipam.collect(live).await.is_ok()
    }

    async fn step(&mut self) {
        self.fault();
        match self.random.random_range(0..20) {
            0..9 => self.add().await,
            9..14 => self.remove().await,
            14 => self.restart().await,
            15 => {
                let node = self.any_node();
                self.collect(node).await;
            }
            16 => {
                self.history.push("away".to_owned());
                self.memory.set_away(true);
                self.add().await;
                self.memory.set_away(false);
            }
            17 => {
                // The pools were made anew, and each node learns it at a time of its own.
                let (node, version) = (self.any_node(), self.random.random_range(0..4));
                self.history.push(format!("n{node} sees the pools {version}"));
                self.nodes[node].as_ref().unwrap().ipam.set_pools(pools(version));
            }
            _ => {
                let seconds = self.random.random_range(1..200);
                self.history.push(format!("{seconds} s pass"));
                self.cluster.clock.advance(seconds);
            }
        }
    }

    /// The store holds what pods have, or more (what a collection will find), never less.
    async fn check(&self) {
        let held = consistent(&*self.store).await;
        for (address, (_, handle)) in &self.pods {
            assert_eq!(held.get(address), Some(handle), "{address} is free, {handle} has it");
        }
    }
}

async fn run(seed: u64, steps: usize, forgotten: Option<Forgotten>) {
    let mut world = World::new(seed, forgotten);
    let told = std::panic::AssertUnwindSafe(async {
        for _ in 0..steps {
            world.step().await;
            world.check().await;
        }
        // Faults that were not met yet.
        world.memory.inject([]);
        while !drained(&world).await {}
        for node in 0..world.nodes.len() {
            while !world.collect(node).await {}
        }
        let held = consistent(&*world.store).await;
        let pods: BTreeMap<_, _> =
            world.pods.iter().map(|(ip, (_, handle))| (*ip, handle.clone())).collect();
        assert_eq!(held, pods, "one collection later");
    });
    if let Err(panic) = futures::FutureExt::catch_unwind(told).await {
        if forgotten.is_none() {
            eprintln!("seed {seed}: {:#?}", world.history);
        }
        std::panic::resume_unwind(panic);
    }
}

/// What a store of the positive controls does not look at.
#[derive(Clone, Copy, Debug)]
enum Forgotten {
    /// The comparisons of blocks.
    Blocks,
    /// Whether blocks were created beside the one that is claimed.
    Creations,
}

/// A store that commits what it should refuse.
struct Careless {
    store: MemoryStore,
    forgotten: Forgotten,
}

impl Store for Careless {
    fn name(&self) -> String {
        self.store.name()
    }

    fn read<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        self.store.read(keys)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        self.store.list(prefix, at)
    }

    fn list_keys<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Keys, StoreError>> {
        self.store.list_keys(prefix)
    }

    fn txn(&self, mut txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        match self.forgotten {
            Forgotten::Blocks => {
                txn.compares.retain(|compare| !compare.key.starts_with(ipam::model::BLOCKS));
            }
            Forgotten::Creations => txn.none_created.clear(),
        }
        self.store.txn(txn)
    }

    fn watch(&self, prefix: &str, after: Option<Revision>) -> BoxStream<'static, Event> {
        self.store.watch(prefix, after)
    }
}

/// The positive control: these histories find a store that forgets to compare.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgets_to_compare_is_found_out() {
    for forgotten in [Forgotten::Blocks, Forgotten::Creations] {
        let worlds = (0..40).map(|seed| tokio::spawn(run(seed, 120, Some(forgotten))));
        let ends = futures::stream::iter(worlds).buffer_unordered(20);
        let found = ends.any(async |end| end.is_err_and(|error| error.is_panic())).await;
        assert!(found, "no history notices forgotten {forgotten:?}");
    }
}

/// Uses up faults that are still waiting.
async fn drained(world: &World) -> bool {
    let probe = Txn::default().delete("/none");
    for _ in 0..8 {
        if world.store.txn(probe.clone()).await.is_err() {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn no_history_gives_an_address_twice_or_loses_one() {
    let seeds: u64 = std::env::var("IPAM_MODEL_SEEDS").map_or(60, |n| n.parse().unwrap());
    // Many worlds at once: each waits most of its time.
    let worlds = futures::stream::iter((0..seeds).map(|seed| tokio::spawn(run(seed, 120, None))));
    worlds.buffer_unordered(30).for_each(|done| async { done.unwrap() }).await;
}
