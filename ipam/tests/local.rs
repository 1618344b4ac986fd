//! Local-first mode: a node answers from its own log, and the store follows.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipam::allocator::Mode;
use ipam::store::memory::{Fault, MemoryStore};
use ipam::store::{Store, Txn};
use ipam::{Error, Families, IpamConfig, Live, model};

mod common;
use common::cluster::{Cluster, Node, consistent, memory, net, pool};
use common::eventually;
use common::link::{Death, Link};

fn cluster(store: &Arc<dyn Store>) -> Cluster {
    let pools = vec![pool("four", "10.0.0.0/24", 28), pool("six", "fd00::/120", 124)];
    Cluster::on(store, pools).local_first()
}

fn config(strict_affinity: bool) -> Option<IpamConfig> {
    Some(IpamConfig { strict_affinity, ..IpamConfig::default() })
}

async fn mode(node: &Node, mode: Mode) {
    let mut status = node.ipam.watch_status();
    let wanted = status.wait_for(|status| status.mode == mode);
    let found = tokio::time::timeout(Duration::from_secs(20), wanted).await;
    assert!(found.is_ok_and(|found| found.is_ok()), "{mode:?}: {:?}", node.ipam.status());
}

/// A node in local-first mode, with a block of each family.
async fn node(cluster: &Cluster, name: &str) -> Node {
    let node = cluster.node(name);
    mode(&node, Mode::LocalFirst).await;
    node.both(&format!("{name}-first")).await.unwrap();
    mirrored(&node).await;
    node
}

async fn mirrored(node: &Node) {
    let mut status = node.ipam.watch_status();
    let caught_up = status.wait_for(|status| status.behind == 0 && status.problem.is_none());
    let found = tokio::time::timeout(Duration::from_secs(20), caught_up).await;
    assert!(found.is_ok_and(|found| found.is_ok()), "{:?}", node.ipam.status());
}

async fn held(store: &dyn Store, handle: &str) -> Vec<IpAddr> {
    let held = consistent(store).await;
    held.into_iter().filter(|(_, by)| by == handle).map(|(address, _)| address).collect()
}

#[tokio::test]
async fn pods_start_and_end_while_the_store_is_away() {
    let (store, plain) = memory();
    let cluster = cluster(&plain);
    let node = node(&cluster, "n").await;
    let before = node.both("before").await.unwrap();
    store.set_away(true);
    let during = node.both("during").await.unwrap();
    assert_eq!(
        node.ipam
            .assign(node.request("during", Families::DUAL))
            .await
            .unwrap()
            .ips()
            .collect::<Vec<_>>(),
        during
    );
    assert_eq!(node.ipam.release("before").await.unwrap(), before);
    node.both("short").await.unwrap();
    node.ipam.release("short").await.unwrap();
    let away = eventually("the store is missed", async || {
        let status = node.ipam.status();
        status.problem.is_some().then_some(status)
    });
    let status = away.await;
    // What rests was given and released meanwhile.
    assert_eq!((status.ready, status.mode, status.behind), (true, Mode::LocalFirst, 6));
    assert!(status.behind_since.is_some());
    store.set_away(false);
    mirrored(&node).await;
    assert_eq!(node.ipam.status().behind_since, None);
    let mut in_store = held(&*plain, "during").await;
    in_store.sort();
    assert_eq!(in_store, during);
    assert!(held(&*plain, "before").await.is_empty());
    assert!(held(&*plain, "short").await.is_empty());
    assert_eq!(node.ipam.release("during").await.unwrap(), during);
}

#[tokio::test]
async fn the_log_alone_serves_after_a_restart() {
    let (store, plain) = memory();
    let mut cluster = cluster(&plain);
    cluster.pools.truncate(1);
    let node = cluster.node("n");
    mode(&node, Mode::LocalFirst).await;
    let mut held = BTreeSet::new();
    for pod in 0..4 {
        held.insert(node.v4(&format!("early{pod}")).await.unwrap());
    }
    mirrored(&node).await;
    store.set_away(true);
    for pod in 0..4 {
        held.insert(node.v4(&format!("late{pod}")).await.unwrap());
    }
    let rests = node.ipam.release("early0").await.unwrap();
    cluster.clock.advance(60);
    let again = cluster.node_on("n", node.stop().await);
    assert_eq!(again.ipam.status().mode, Mode::LocalFirst);
    assert_eq!(again.ipam.blocks().borrow().len(), 1);
    for pod in 0..7 {
        let address = again.v4(&format!("new{pod}")).await.unwrap();
        assert!(held.insert(address), "{address} is held or rests");
    }
    // What rested before the restart has rested long enough, and what was released at once has not.
    again.ipam.release("new0").await.unwrap();
    cluster.clock.advance(60);
    let mut given = BTreeSet::new();
    for pod in 0..2 {
        given.insert(again.v4(&format!("last{pod}")).await.unwrap());
    }
    assert!(given.contains(&rests[0]), "{given:?}");
    store.set_away(false);
    mirrored(&again).await;
    let in_store = consistent(&*plain).await;
    // early1..3, late, new1..6, last.
    assert_eq!(in_store.len(), 3 + 4 + 6 + 2, "{in_store:?}");
    assert_eq!(again.v4("late2").await.unwrap(), {
        let late = in_store.iter().find(|(_, by)| *by == "late2");
        *late.unwrap().0
    });
}

/// Who asks alone has the answer of its own thread; what was said before counts there too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_before_a_request_counts_for_it() {
    let (_, plain) = memory();
    let pools = vec![pool("four", "10.0.0.0/16", 22)];
    let cluster = Cluster { own_thread: true, ..Cluster::on(&plain, pools).local_first() };
    let node = cluster.node("n");
    mode(&node, Mode::LocalFirst).await;
    let mut last = node.v4("first").await.unwrap();
    let mut reserved = Vec::new();
    for pod in 0..200 {
        let IpAddr::V4(address) = last else { panic!("{last}") };
        let next = |by| IpAddr::from(std::net::Ipv4Addr::from_bits(address.to_bits() + by));
        reserved.push(next(1).into());
        node.ipam.set_reservations(reserved.clone());
        last = node.v4(&format!("pod{pod}")).await.unwrap();
        assert_eq!(last, next(2));
    }
}

/// As in the agent.
#[tokio::test]
async fn an_allocator_on_a_thread_of_its_own() {
    let (store, plain) = memory();
    let cluster = Cluster { own_thread: true, ..cluster(&plain) };
    let node = node(&cluster, "n").await;
    store.set_away(true);
    let pods: Vec<String> = (0..8).map(|pod| format!("pod{pod}")).collect();
    let given = futures::future::join_all(pods.iter().map(|pod| node.v4(pod))).await;
    let given: BTreeSet<IpAddr> = given.into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(given.len(), pods.len());
    // It has ended when its disk is free again.
    let node = cluster.node_on("n", node.stop().await);
    assert_eq!(given, {
        let again = futures::future::join_all(pods.iter().map(|pod| node.v4(pod))).await;
        again.into_iter().collect::<Result<_, _>>().unwrap()
    });
    store.set_away(false);
    mirrored(&node).await;
    for pod in &pods {
        assert_eq!(held(&*plain, pod).await.len(), 1);
    }
    let last = node.ipam.clone();
    node.stop().await;
    assert_eq!(last.release("pod0").await, Err(Error::Closed));
}

#[tokio::test]
async fn the_mode_is_left_when_the_store_has_everything() {
    let (store, plain) = memory();
    let cluster = cluster(&plain);
    let node = node(&cluster, "n").await;
    let mark = [model::local_key("n")];
    assert_eq!(store.read(&mark).await.unwrap().entries.len(), 1);
    store.set_away(true);
    let address = node.v4("a").await.unwrap();
    node.ipam.set_config(config(false)).unwrap();
    // Others do not borrow before the mark is gone.
    node.v4("b").await.unwrap();
    assert_eq!(node.ipam.status().mode, Mode::LocalFirst);
    store.set_away(false);
    mode(&node, Mode::Synchronous).await;
    assert_eq!(held(&*plain, "a").await, [address]);
    eventually("the mark is removed", async || {
        store.read(&mark).await.unwrap().entries.is_empty().then_some(())
    })
    .await;
    store.set_away(true);
    let refused = tokio::time::timeout(Duration::from_millis(500), node.v4("c")).await;
    assert!(refused.is_err(), "{refused:?}");
    store.set_away(false);
    node.ipam.set_config(config(true)).unwrap();
    mode(&node, Mode::LocalFirst).await;
    // A restart in the other mode finds no log.
    node.ipam.set_config(config(false)).unwrap();
    mode(&node, Mode::Synchronous).await;
    let disk = node.stop().await;
    assert!(!disk.path().join("ipam-log").exists());
}

#[tokio::test]
async fn nobody_takes_from_a_node_that_answers_by_itself() {
    let (store, plain) = memory();
    // Room for one block only.
    let pools = vec![pool("four", "10.0.0.0/28", 28)];
    let cluster = Cluster::on(&plain, pools).local_first();
    let owner = cluster.node("owner");
    mode(&owner, Mode::LocalFirst).await;
    let address = owner.v4("a").await.unwrap();
    // Empty in the store, and long ago claimed; the owner gives from it all the same.
    owner.ipam.release("a").await.unwrap();
    mirrored(&owner).await;
    cluster.clock.advance(1000);
    let lenient = Cluster { config: None, local_first: false, ..cluster.clone() };
    let other = lenient.node("other");
    let error = other.v4("x").await.unwrap_err();
    assert!(matches!(error, Error::PoolExhausted { .. }), "{error}");
    let mut named = other.request("y", Families::V4);
    named.requested_ips.push(address);
    let error = other.ipam.assign(named.clone()).await.unwrap_err();
    assert!(matches!(error, Error::NotOurBlock { .. }), "{error}");
    store.set_away(true);
    owner.v4("b").await.unwrap();
    store.set_away(false);
    mirrored(&owner).await;
    owner.ipam.set_config(config(false)).unwrap();
    mode(&owner, Mode::Synchronous).await;
    eventually("the other borrows", async || other.v4("x").await.ok()).await;
    let borrowed = other.ipam.assign(named).await.unwrap();
    assert_eq!(borrowed.ips().collect::<Vec<_>>(), [address]);
    // And back: what was borrowed meanwhile is not given again.
    owner.ipam.set_config(config(true)).unwrap();
    mode(&owner, Mode::LocalFirst).await;
    let mut given = BTreeSet::new();
    for pod in 0..13 {
        given.insert(owner.v4(&format!("p{pod}")).await.unwrap());
    }
    mirrored(&owner).await;
    assert_eq!(consistent(&*plain).await.len(), 13 + 3);
    // What the other gives back is taken from the store.
    other.ipam.release("y").await.unwrap();
    owner.ipam.release("p0").await.unwrap();
    mirrored(&owner).await;
    assert!(held(&*plain, "y").await.is_empty());
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_repeated_until_it_is_known() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Conflict] {
        let (store, plain) = memory();
        let cluster = cluster(&plain);
        let node = node(&cluster, "n").await;
        for round in 0..5 {
            store.inject([Some(fault)]);
            let address = node.v4(&format!("a{round}")).await.unwrap();
            let other = node.v4(&format!("b{round}")).await.unwrap();
            mirrored(&node).await;
            assert_eq!(held(&*plain, &format!("a{round}")).await, [address], "{fault:?}");
            assert_eq!(held(&*plain, &format!("b{round}")).await, [other], "{fault:?}");
            node.ipam.release(&format!("a{round}")).await.unwrap();
        }
        mirrored(&node).await;
        assert_eq!(consistent(&*plain).await.len(), 2 + 5, "{fault:?}");
    }
}

/// A request shares a transaction that reaches the store while its reply does not: what it was given
/// there is known only when the store is back, so it is not given another address meanwhile.
#[tokio::test]
async fn what_the_store_may_have_given_is_not_given_again_from_the_log() {
    let store = MemoryStore::default();
    let link = Link::new(&store, None);
    let plain: Arc<dyn Store> = Arc::new(link.clone());
    let pools = vec![pool("four", "10.0.0.0/24", 28)];
    let cluster = Cluster::on(&plain, pools).local_first();
    let node = cluster.node("n");
    mode(&node, Mode::LocalFirst).await;
    // Two blocks with room in both.
    for pod in 0..20 {
        node.v4(&format!("p{pod}")).await.unwrap();
    }
    for pod in 0..4 {
        node.ipam.release(&format!("p{pod}")).await.unwrap();
    }
    assert!(node.blocks_that(|blocks| blocks.len() >= 2).await.len() >= 2);
    mirrored(&node).await;
    cluster.clock.advance(200);
    // The store lacks something; a collection needs that it has everything, and requests wait for it.
    link.stall(true);
    node.v4("behind").await.unwrap();
    let live = || (4..20).map(|pod| format!("p{pod}")).chain(["behind".to_owned()]);
    let (ipam, epoch) = (node.ipam.clone(), node.ipam.epoch());
    let live = Live::handles(epoch, live().collect::<BTreeSet<_>>()).unwrap();
    let collection = tokio::spawn(async move { ipam.collect(live).await });
    let (mut handle, mut waiting) = (0, None);
    while waiting.is_none() {
        handle += 1;
        let (ipam, request) =
            (node.ipam.clone(), node.request(&format!("q{handle}"), Families::V4));
        let mut asked = tokio::spawn(async move { ipam.assign(request).await });
        let answered = tokio::time::timeout(Duration::from_millis(200), &mut asked).await;
        waiting = answered.is_err().then_some(asked);
    }
    // The mirror's transaction goes well; that of what waits is done, and nobody is told.
    link.die(Death { after: 1, done: true });
    link.stall(false);
    link.died().await;
    let mut asked = waiting.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(500), &mut asked).await;
    link.spare();
    link.mend();
    let answer = match early {
        Ok(answer) => answer,
        Err(_) => asked.await,
    };
    let given: Vec<_> = answer.unwrap().unwrap().ips().collect();
    let _ = collection.await.unwrap();
    mirrored(&node).await;
    assert_eq!(held(&*plain, &format!("q{handle}")).await, given);
}

#[tokio::test]
async fn more_handles_than_one_transaction_holds() {
    let (store, plain) = memory();
    let pools = vec![pool("four", "10.0.0.0/22", 22)];
    let cluster = Cluster::on(&plain, pools).local_first();
    let node = cluster.node("n");
    mode(&node, Mode::LocalFirst).await;
    node.v4("first").await.unwrap();
    mirrored(&node).await;
    store.set_away(true);
    let some = (0..300).map(|pod| node.request(&format!("p{pod}"), Families::V4));
    let all = futures::future::join_all(some.map(|request| node.ipam.assign(request))).await;
    assert!(all.iter().all(Result::is_ok));
    store.set_away(false);
    // After each transaction blocks and handles agree.
    eventually("the store has everything", async || {
        (consistent(&*plain).await.len() == 301).then_some(())
    })
    .await;
    mirrored(&node).await;
}

#[tokio::test]
async fn what_an_operator_releases_in_the_store_is_released() {
    let (store, plain) = memory();
    let cluster = cluster(&plain);
    let node = node(&cluster, "n").await;
    let leaked = node.v4("leaked").await.unwrap();
    mirrored(&node).await;
    // As `ipam release --ip` does.
    let key = model::block_key(&net("10.0.0.0/28"));
    let blocks = store.list(model::BLOCKS, None).await.unwrap();
    let entry = blocks.entries.iter().find(|entry| {
        model::parse_block_key(&entry.key).is_some_and(|cidr| cidr.contains(&leaked))
    });
    let entry = entry.unwrap_or_else(|| panic!("{key}"));
    let mut block = model::decode_block(&entry.key, &entry.value).unwrap();
    block.release_handle("leaked", ipam::block::Release::Now);
    block.seal();
    let txn = Txn::default()
        .when(entry.key.clone(), entry.mod_revision)
        .put(entry.key.clone(), block.encode())
        .delete(model::handle_key("leaked"));
    store.txn(txn).await.unwrap();
    node.v4("next").await.unwrap();
    mirrored(&node).await;
    assert!(held(&*plain, "leaked").await.is_empty());
    assert_eq!(node.ipam.release("leaked").await.unwrap(), Vec::<IpAddr>::new());
}

#[tokio::test]
async fn a_block_that_is_somebody_elses_gives_nothing_more_and_is_told() {
    let (memory, plain) = memory();
    let link = Link::new(&memory, None);
    let behind_link: Arc<dyn Store> = Arc::new(link.clone());
    let node = node(&cluster(&behind_link), "n").await;
    let own = node.ipam.blocks().borrow().to_vec();
    link.cut();
    node.both("unseen").await.unwrap();
    // As others do when Kubernetes has deleted the node.
    let mut gone = Txn::default().delete(model::node_key("n"));
    for cidr in &own {
        gone = gone.delete(model::block_key(cidr)).delete(model::affinity_key("n", cidr));
    }
    gone = gone.delete(model::handle_key("n-first"));
    memory.txn(gone).await.unwrap();
    link.mend();
    let lost = eventually("the loss is told", async || {
        let lost = node.ipam.status().lost;
        (lost.len() == own.len()).then_some(lost)
    });
    assert_eq!(lost.await, own);
    node.both("new").await.unwrap();
    mirrored(&node).await;
    assert_eq!(consistent(&*plain).await.len(), 2);
}

#[tokio::test]
async fn what_was_sent_before_the_mode_does_not_arrive_in_it() {
    let (memory, plain) = memory();
    let link = Link::new(&memory, None);
    let behind_link: Arc<dyn Store> = Arc::new(link.clone());
    let lenient = Cluster { config: config(false), ..cluster(&behind_link) };
    let node = lenient.node("n");
    node.v4("first").await.unwrap();
    link.hold_next();
    // Its caller gives it up before it is tried again.
    tokio::select! {
        given = node.v4("late") => panic!("{given:?}"),
        () = async {
            while node.ipam.status().problem.is_none() {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    node.ipam.set_config(config(true)).unwrap();
    mode(&node, Mode::LocalFirst).await;
    assert_eq!(link.arrive().await, 1);
    assert!(held(&*plain, "late").await.is_empty());
    let address = node.v4("next").await.unwrap();
    mirrored(&node).await;
    assert_eq!(held(&*plain, "next").await, [address]);
}

/// While the node enters the mode, and waits for its disk, others find that it is gone and give back
/// what it had.
#[tokio::test]
async fn what_is_given_back_while_the_log_begins_is_not_given_from_it() {
    let store = MemoryStore::default();
    let link = Link::new(&store, None);
    let behind_link: Arc<dyn Store> = Arc::new(link.clone());
    let mut cluster = cluster(&behind_link);
    cluster.config = config(false);
    cluster.pools.truncate(1);
    let node = cluster.node("n");
    node.v4("early").await.unwrap();
    node.ipam.release("early").await.unwrap();
    let own = node.blocks(1).await;
    let block = store.read(&[model::block_key(&own[0])]).await.unwrap();
    let mut gone = Txn::default().delete(model::node_key("n")).delete(model::local_key("n"));
    for entry in &block.entries {
        gone = gone.delete(entry.key.clone());
    }
    gone = gone.delete(model::affinity_key("n", &own[0]));
    link.behind_a_read(model::BLOCKS, gone);
    node.ipam.set_config(config(true)).unwrap();
    let address = node.v4("pod").await.unwrap();
    mode(&node, Mode::LocalFirst).await;
    mirrored(&node).await;
    assert_eq!(held(&store, "pod").await, [address]);
    assert_eq!(node.ipam.status().lost, []);
}

#[tokio::test]
async fn a_collection_frees_what_no_pod_has() {
    let (_, plain) = memory();
    let cluster = cluster(&plain);
    let node = node(&cluster, "n").await;
    node.both("dead").await.unwrap();
    let live = Live::handles(node.ipam.epoch(), ["n-first".to_owned()].into()).unwrap();
    assert_eq!(node.ipam.collect(live).await.unwrap().len(), 2);
    assert!(held(&*plain, "dead").await.is_empty());
    assert_eq!(node.ipam.status().mode, Mode::LocalFirst);
}

#[tokio::test]
async fn a_damaged_log_is_told_and_nothing_is_given() {
    let (_, plain) = memory();
    let cluster = cluster(&plain);
    let node = node(&cluster, "n").await;
    let disk = node.stop().await;
    let path = disk.path().join("ipam-log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = cluster.open("n", &disk).err().unwrap().to_string();
    let wanted = format!("{}: damaged at byte 0", path.display());
    assert!(error.starts_with(&wanted), "{error}");
}

/// Nothing is answered that is not on the disk: where it cannot be written, the store has to do.
#[tokio::test]
async fn a_log_that_cannot_be_written_ends_the_mode() {
    let (store, plain) = memory();
    let disk = tempfile::TempDir::with_prefix("ipam-node-").unwrap();
    // In place of the file that a new log would be written to.
    std::fs::create_dir(disk.path().join("ipam-log.new")).unwrap();
    let cluster = cluster(&plain);
    let node = cluster.node_on("n", disk);
    let address = node.v4("a").await.unwrap();
    assert_eq!(held(&*plain, "a").await, [address]);
    assert_eq!(node.ipam.status().mode, Mode::Synchronous);
    drop(store);
}

#[tokio::test]
async fn a_restart_without_leave_ends_the_mode_and_loses_nothing() {
    let (store, plain) = memory();
    let cluster = cluster(&plain);
    let node = node(&cluster, "n").await;
    store.set_away(true);
    let address = node.v4("a").await.unwrap();
    let forbidden = Cluster { local_first: false, ..cluster };
    let node = forbidden.node_on("n", node.stop().await);
    store.set_away(false);
    mode(&node, Mode::Synchronous).await;
    assert_eq!(held(&*plain, "a").await, [address]);
    let mark = model::local_key("n");
    let unmarked = async |what| {
        eventually(what, async || {
            store.read(std::slice::from_ref(&mark)).await.unwrap().entries.is_empty().then_some(())
        })
        .await;
    };
    unmarked("the mark is removed").await;
    // A mark that an end between the log's and the mark's own left over.
    let disk = node.stop().await;
    plain.txn(Txn::default().put(&*mark, b"left over".to_vec())).await.unwrap();
    let node = forbidden.node_on("n", disk);
    unmarked("the mark that was left over is removed").await;
    assert_eq!(node.ipam.status().mode, Mode::Synchronous);
}

#[tokio::test]
async fn without_leave_the_store_comes_first() {
    let (store, plain) = memory();
    let strict = Cluster { local_first: false, ..cluster(&plain) };
    let node = strict.node("n");
    let address = node.v4("a").await.unwrap();
    assert_eq!(held(&*plain, "a").await, [address]);
    assert_eq!(node.ipam.status().mode, Mode::Synchronous);
    assert!(store.read(&[model::local_key("n")]).await.unwrap().entries.is_empty());
}
