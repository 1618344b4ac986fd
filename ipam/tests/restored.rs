//! A store that was restored from an older copy: nothing is given twice, and nothing is lost.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipam::allocator::Mode;
use ipam::store::Store;
use ipam::store::memory::MemoryStore;
use ipam::{Error, EtcdConfig, Held, Live, Options, Status, StoreConfig, model};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

mod common;
use common::cluster::{Cluster, Node, consistent, memory, pool};
use common::counting::Counting;
use common::link::Link;
use common::{Etcd, eventually};

fn cluster(store: &Arc<dyn Store>) -> Cluster {
    Cluster::on(store, vec![pool("four", "10.0.0.0/24", 28)])
}

/// Waits until every node has said what it has, and claims blocks again.
async fn thawed(cluster: &Cluster, nodes: &[&Node]) {
    for node in nodes {
        eventually("the node has said what it has", async || {
            node.ipam.tend();
            let status = node.ipam.status();
            status.frozen.filter(|frozen| frozen.waiting_for.is_empty()).map(drop)
        })
        .await;
    }
    cluster.clock.advance(31);
    for node in nodes {
        eventually("blocks are claimed again", async || {
            node.ipam.tend();
            let status = node.ipam.status();
            (status.frozen.is_none() && status.ready).then_some(())
        })
        .await;
    }
}

fn fill(pods: &mut BTreeMap<IpAddr, String>, address: IpAddr, handle: &str) {
    let other = pods.insert(address, handle.to_owned());
    assert_eq!(other, None, "{address} to {handle} too");
}

async fn add(pods: &mut BTreeMap<IpAddr, String>, node: &Node, handle: &str) {
    fill(pods, node.v4(handle).await.unwrap(), handle);
}

#[tokio::test]
async fn what_was_given_since_the_copy_is_not_given_again() {
    let (store, plain) = memory();
    let cluster = cluster(&plain);
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    let mut pods = BTreeMap::new();
    add(&mut pods, &a, "a-before").await;
    let gone = a.v4("a-gone").await.unwrap();
    let copy = store.snapshot();
    // In a block that the copy has, in blocks that it does not have, and one less.
    for n in 0..20 {
        add(&mut pods, &a, &format!("a-{n}")).await;
    }
    add(&mut pods, &b, "b").await;
    assert_eq!(a.ipam.release("a-gone").await.unwrap(), [gone]);
    store.restore(&copy);
    for n in 20..24 {
        add(&mut pods, &a, &format!("a-{n}")).await;
        add(&mut pods, &b, &format!("b-{n}")).await;
    }
    thawed(&cluster, &[&a, &b]).await;
    // A further block is one that nobody had.
    for n in 24..60 {
        add(&mut pods, &b, &format!("b-{n}")).await;
    }
    assert_eq!(consistent(&*plain).await, pods);
    assert_eq!(a.ipam.release("a-3").await.unwrap().len(), 1);
    assert_eq!(a.ipam.release("a-before").await.unwrap().len(), 1);
}

#[tokio::test]
async fn no_block_is_claimed_before_every_node_has_said_what_it_has() {
    let (store, plain) = memory();
    let mut cluster = cluster(&plain);
    cluster.pools = vec![pool("four", "10.0.0.0/26", 29)];
    let a = cluster.node("a");
    a.v4("a").await.unwrap();
    let copy = store.snapshot();
    let b = cluster.node("b");
    let mut theirs = BTreeMap::new();
    add(&mut theirs, &b, "b").await;
    let disk = b.stop().await;
    store.restore(&copy);
    // Its own block is full before long; more would perhaps be the other node's.
    let mut refused = None;
    for n in 0..20 {
        match a.v4(&format!("a-{n}")).await {
            Ok(address) => assert!(!theirs.contains_key(&address), "{address}"),
            Err(error) => refused = Some(error),
        }
    }
    let refused = refused.expect("a node has one block of eight and a spare");
    assert!(matches!(&refused, Error::Frozen { by, .. } if by == "a"), "{refused}");
    assert!(refused.is_temporary());
    // The copy was made before that node came, so nobody waits for it beyond the time it has.
    thawed(&cluster, &[&a]).await;
    for n in 20..30 {
        a.v4(&format!("a-{n}")).await.unwrap();
    }
    drop(disk);
}

#[tokio::test]
async fn a_node_that_the_copy_knows_is_waited_for() {
    let (store, plain) = memory();
    let cluster = cluster(&plain);
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    let mut pods = BTreeMap::new();
    add(&mut pods, &a, "a").await;
    add(&mut pods, &b, "b").await;
    let copy = store.snapshot();
    let since = b.v4("b-since").await.unwrap();
    let disk = b.stop().await;
    store.restore(&copy);
    cluster.clock.advance(1000);
    eventually("it is waited for", async || {
        a.ipam.tend();
        a.ipam.status().frozen.filter(|frozen| frozen.waiting_for == ["b"]).map(drop)
    })
    .await;
    // It comes back, without a memory but that of its endpoints.
    let options = Options {
        clock: cluster.clock.clock(),
        node_labels: Some(BTreeMap::new()),
        awaits_held: true,
        ..Options::new("b", cluster.store.clone(), disk.path())
    };
    let again = ipam::Ipam::open(options).unwrap();
    again.set_pools(cluster.pools.clone());
    let held = |handle: &str, address| Held {
        handle: handle.to_owned(),
        addresses: vec![address],
        attributes: BTreeMap::from([("pod".to_owned(), handle.to_owned())]),
    };
    let before = pods.iter().find(|(_, handle)| *handle == "b").unwrap();
    again.hold(vec![held("b", *before.0), held("b-since", since)]);
    fill(&mut pods, since, "b-since");
    let again = Node { ipam: again, name: "b".to_owned(), disk };
    for n in 0..4 {
        add(&mut pods, &again, &format!("b-{n}")).await;
    }
    thawed(&cluster, &[&a, &again]).await;
    assert_eq!(consistent(&*plain).await, pods);
}

#[tokio::test]
async fn what_endpoints_have_is_written_where_the_store_lacks_it() {
    let (_, plain) = memory();
    let cluster = cluster(&plain);
    let node = cluster.node("n");
    let taken = node.v4("other").await.unwrap();
    let address = |last: u8| IpAddr::from([10, 0, 0, last]);
    let held = |handle: &str, address| Held {
        handle: handle.to_owned(),
        addresses: vec![address],
        attributes: BTreeMap::new(),
    };
    let free = (0..16).map(address).find(|address| *address != taken).unwrap();
    node.ipam.hold(vec![
        held("here", free),
        held("in-no-block", address(200)),
        held("in-no-pool", "192.0.2.1".parse().unwrap()),
        held("contested", taken),
    ]);
    let next = node.v4("next").await.unwrap();
    let wanted = [
        (taken, "other".to_owned()),
        (free, "here".to_owned()),
        (address(200), "in-no-block".to_owned()),
        (next, "next".to_owned()),
    ];
    assert_eq!(consistent(&*plain).await, BTreeMap::from(wanted));
    assert_eq!(node.ipam.release("in-no-block").await.unwrap(), [address(200)]);
}

#[tokio::test]
async fn nothing_is_written_into_a_block_whose_node_answers_from_its_own_log() {
    let (_, plain) = memory();
    let cluster = cluster(&plain).local_first();
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    let address = a.v4("a").await.unwrap();
    eventually("it answers from its log", async || {
        let status = a.ipam.status();
        (status.mode == Mode::LocalFirst && status.behind == 0).then_some(())
    })
    .await;
    let IpAddr::V4(v4) = address else { panic!("{address}") };
    let beside = IpAddr::V4((u32::from(v4) ^ 1).into());
    let attributes = BTreeMap::new();
    b.ipam.hold(vec![Held { handle: "x".into(), addresses: vec![beside], attributes }]);
    let own = b.v4("b").await.unwrap();
    let caught_up = async || (consistent(&*plain).await.len() == 2).then_some(());
    eventually("the store has both", caught_up).await;
    let wanted = [(address, "a".to_owned()), (own, "b".to_owned())];
    assert_eq!(consistent(&*plain).await, BTreeMap::from(wanted));
}

#[tokio::test]
async fn borrowed_addresses_are_written_back_too() {
    let (store, plain) = memory();
    let mut cluster = cluster(&plain);
    cluster.pools = vec![pool("four", "10.0.0.0/28", 29)];
    let (a, b, c) = (cluster.node("a"), cluster.node("b"), cluster.node("c"));
    let mut pods = BTreeMap::new();
    add(&mut pods, &a, "a").await;
    add(&mut pods, &b, "b").await;
    let copy = store.snapshot();
    add(&mut pods, &c, "c-1").await;
    add(&mut pods, &c, "c-2").await;
    add(&mut pods, &a, "a-2").await;
    store.restore(&copy);
    for node in [&a, &b] {
        eventually("its own are given", async || {
            node.v4(&format!("{}-more", node.name)).await.ok()
        })
        .await;
    }
    thawed(&cluster, &[&a, &b, &c]).await;
    let held = consistent(&*plain).await;
    for (address, handle) in &pods {
        assert_eq!(held.get(address), Some(handle), "{address}: {held:?}");
    }
    assert_eq!(held.len(), pods.len() + 2, "{held:?}");
}

#[tokio::test]
async fn a_node_with_its_own_log_writes_back_what_it_answered() {
    let (store, plain) = memory();
    let cluster = cluster(&plain).local_first();
    let node = cluster.node("n");
    let mut pods = BTreeMap::new();
    add(&mut pods, &node, "before").await;
    let caught_up = async || {
        eventually("the store has everything", async || {
            let status = node.ipam.status();
            (status.behind == 0 && status.mode == Mode::LocalFirst).then_some(())
        })
        .await;
    };
    caught_up().await;
    let copy = store.snapshot();
    for n in 0..5 {
        add(&mut pods, &node, &format!("pod-{n}")).await;
    }
    caught_up().await;
    store.set_away(true);
    add(&mut pods, &node, "away").await;
    store.restore(&copy);
    store.set_away(false);
    add(&mut pods, &node, "after").await;
    thawed(&cluster, &[&node]).await;
    caught_up().await;
    assert_eq!(consistent(&*plain).await, pods);
    // The log goes on from there.
    let disk = node.stop().await;
    store.set_away(true);
    let node = cluster.node_on("n", disk);
    assert_eq!(node.ipam.release("before").await.unwrap().len(), 1);
}

/// What was there is only found older by what a transaction meets: a store whose revision was
/// raised when it was restored, as some operators do.
#[tokio::test]
async fn an_older_value_of_a_key_is_proof_enough() {
    let unaware = Counting::default();
    let memory = unaware.store.clone();
    let plain: Arc<dyn Store> = Arc::new(unaware);
    let cluster = cluster(&plain);
    let node = cluster.node("n");
    let mut pods = BTreeMap::new();
    add(&mut pods, &node, "before").await;
    let copy = memory.snapshot();
    for n in 0..5 {
        add(&mut pods, &node, &format!("pod-{n}")).await;
    }
    memory.restore(&copy);
    add(&mut pods, &node, "after").await;
    assert_eq!(consistent(&*plain).await, pods);
}

#[tokio::test]
async fn a_real_etcd_that_was_restored_is_noticed() {
    let mut etcd = Etcd::start().await;
    let store = StoreConfig::Etcd(EtcdConfig::new([etcd.endpoint()]));
    let mut cluster = Cluster::new(store, vec![pool("four", "10.0.0.0/24", 28)]);
    cluster.deadline = Duration::from_secs(60);
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    let mut pods = BTreeMap::new();
    add(&mut pods, &a, "a-before").await;
    let copy = etcd.save();
    for n in 0..20 {
        add(&mut pods, &a, &format!("a-{n}")).await;
        add(&mut pods, &b, &format!("b-{n}")).await;
    }
    etcd.restore(&copy).await;
    add(&mut pods, &a, "a-after").await;
    add(&mut pods, &b, "b-after").await;
    thawed(&cluster, &[&a, &b]).await;
    for n in 20..40 {
        add(&mut pods, &b, &format!("b-{n}")).await;
    }
    assert_eq!(consistent(&etcd.store()).await, pods);
    assert_eq!(etcd.store().list(model::REASSERTED, None).await.unwrap().entries.len(), 2);
}

#[tokio::test]
async fn an_agent_that_was_down_meanwhile_notices_too() {
    let mut etcd = Etcd::start().await;
    let store = StoreConfig::Etcd(EtcdConfig::new([etcd.endpoint()]));
    let mut cluster = Cluster::new(store, vec![pool("four", "10.0.0.0/24", 28)]);
    cluster.deadline = Duration::from_secs(60);
    let node = cluster.node("n");
    let mut pods = BTreeMap::new();
    add(&mut pods, &node, "before").await;
    let copy = etcd.save();
    for n in 0..20 {
        add(&mut pods, &node, &format!("pod-{n}")).await;
    }
    let disk = node.stop().await;
    etcd.restore(&copy).await;
    let node = cluster.node_on("n", disk);
    let held = pods.iter().map(|(address, handle)| Held {
        handle: handle.clone(),
        addresses: vec![*address],
        attributes: BTreeMap::from([("pod".to_owned(), handle.clone())]),
    });
    node.ipam.hold(held.collect());
    thawed(&cluster, &[&node]).await;
    add(&mut pods, &node, "after").await;
    assert_eq!(consistent(&etcd.store()).await, pods);
}

/// A node whose agent may be down while its pods live on.
struct Machine {
    name: String,
    agent: Option<Node>,
    disk: Option<tempfile::TempDir>,
    link: Link,
    pods: BTreeMap<String, IpAddr>,
}

impl Machine {
    fn start(&mut self, cluster: &Cluster, memory: &MemoryStore) {
        self.link = Link::new(memory, None);
        let store = StoreConfig::Open(Arc::new(self.link.clone()));
        let disk = self.disk.take().unwrap_or_else(|| tempfile::tempdir_in("/dev/shm").unwrap());
        let options = Options {
            clock: cluster.clock.clock(),
            node_labels: Some(BTreeMap::new()),
            local_first: cluster.local_first,
            awaits_held: true,
            deadline: Duration::from_millis(200),
            ..Options::new(&self.name, store, disk.path())
        };
        let ipam = ipam::Ipam::open(options).unwrap();
        ipam.set_config(cluster.config.clone()).unwrap();
        ipam.set_pools(cluster.pools.clone());
        let held = self.pods.iter().map(|(handle, address)| Held {
            handle: handle.clone(),
            addresses: vec![*address],
            attributes: BTreeMap::from([("pod".to_owned(), handle.clone())]),
        });
        ipam.hold(held.collect());
        self.agent = Some(Node { ipam, name: self.name.clone(), disk });
    }
}

/// Random histories of three nodes: pods come and go, agents restart and are away, links are cut, and
/// now and then the store is set back to a copy of any age.
async fn history(seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let (memory, plain) = memory();
    let mut cluster = Cluster::on(&plain, vec![pool("four", "10.0.0.0/25", 29)]);
    if random.random_bool(0.5) {
        cluster = cluster.local_first();
    }
    let mut machines: Vec<Machine> = Vec::new();
    for n in 0..3 {
        let (link, name) = (Link::new(&memory, None), format!("n{n}"));
        let pods = BTreeMap::new();
        let mut machine = Machine { name, agent: None, disk: None, link, pods };
        machine.start(&cluster, &memory);
        // A node that the copy does not know, and that is down, is not waited for.
        let node = machine.agent.as_ref().unwrap();
        let handle = format!("first-{n}");
        eventually("it has a block", async || node.v4(&handle).await.ok()).await;
        eventually("it is empty", async || node.ipam.release(&handle).await.ok()).await;
        machines.push(machine);
    }
    let mut copies = vec![memory.snapshot()];
    for step in 0..80 {
        let n = random.random_range(0..machines.len());
        match random.random_range(0..20) {
            0..9 => {
                let handle = format!("{seed}-{step}");
                let Some(agent) = &machines[n].agent else { continue };
                let Ok(address) = agent.v4(&handle).await else { continue };
                for other in &machines {
                    let twice = other.pods.iter().find(|(_, has)| **has == address);
                    assert_eq!(twice, None, "seed {seed}, step {step}: {address} to {handle} too");
                }
                machines[n].pods.insert(handle, address);
            }
            9..13 => {
                let Some(handle) = machines[n].pods.keys().next().cloned() else { continue };
                let Some(agent) = &machines[n].agent else { continue };
                // A failed release is the collector's.
                let _ = agent.ipam.release(&handle).await;
                machines[n].pods.remove(&handle);
            }
            13 => match machines[n].agent.take() {
                Some(agent) => machines[n].disk = Some(agent.stop().await),
                None => machines[n].start(&cluster, &memory),
            },
            14 if machines[n].link.is_cut() => machines[n].link.mend(),
            14 => machines[n].link.cut(),
            15 | 16 => copies.push(memory.snapshot()),
            17 => {
                let copy = random.random_range(0..copies.len());
                memory.restore(&copies[copy]);
                copies.truncate(copy + 1);
            }
            _ => cluster.clock.advance(random.random_range(1..200)),
        }
    }
    for machine in &mut machines {
        machine.link.mend();
        if machine.agent.is_none() {
            machine.start(&cluster, &memory);
        }
    }
    // Whatever was frozen thaws, and the mirrors catch up.
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let agents = machines.iter().filter_map(|machine| machine.agent.as_ref());
        let statuses: Vec<Status> = agents.map(|agent| agent.ipam.status()).collect();
        let freeze = plain.read(&[model::FROZEN.to_owned()]).await.unwrap().entries;
        let well = |status: &Status| {
            let whole = status.behind == 0 && status.lost.is_empty();
            status.ready && status.frozen.is_none() && whole
        };
        if freeze.is_empty() && statuses.iter().all(well) {
            break;
        }
        assert!(Instant::now() < end, "seed {seed} does not settle: {freeze:?} {statuses:#?}");
        cluster.clock.advance(1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for Machine { agent, pods, .. } in &machines {
        let ipam = &agent.as_ref().unwrap().ipam;
        let epoch = ipam.epoch();
        let handles = pods.keys().cloned().collect();
        let live = Live::handles(epoch, handles).unwrap_or_else(|| Live::none(epoch));
        eventually("it collects", async || ipam.collect(live.clone()).await.ok()).await;
    }
    let pods = machines.iter().flat_map(|machine| &machine.pods);
    let wanted: BTreeMap<IpAddr, String> = pods.map(|(h, a)| (*a, h.clone())).collect();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let stored = consistent(&*plain).await;
        if stored == wanted {
            break;
        }
        assert!(Instant::now() < end, "seed {seed}: {stored:#?}, pods have {wanted:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `IPAM_RESTORES` is how many (24 unless told), `IPAM_RESTORES_FROM` the first seed.
#[test]
fn no_restored_copy_of_any_age_gives_an_address_twice() {
    let setting =
        |name: &str, usual: u64| std::env::var(name).map_or(usual, |n| n.parse().unwrap());
    let (from, count) = (setting("IPAM_RESTORES_FROM", 0), setting("IPAM_RESTORES", 24));
    let run = |seed| {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.unwrap().block_on(history(seed));
        })
    };
    // They wait most of their time.
    for some in (from..from + count).collect::<Vec<_>>().chunks(24) {
        let threads: Vec<_> = some.iter().map(|seed| run(*seed)).collect();
        for (seed, thread) in some.iter().zip(threads) {
            assert!(thread.join().is_ok(), "again: IPAM_RESTORES_FROM={seed} IPAM_RESTORES=1");
        }
    }
}
