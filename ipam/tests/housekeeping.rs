//! What the allocator does beside the requests: giving blocks back and looking for what is its own.
//! None of it may keep a request from its answer.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::sync::Arc;
use std::time::Duration;

use api::selector::Selector;
use ipam::store::Store;
use ipam::{Families, Pool};

mod common;
use common::cluster::{Cluster, Node, all, consistent, ip, net, pool};
use common::counting::Counting;

async fn blocks(node: &Node, are: impl Fn(&[ipnet::IpNet]) -> bool) {
    let mut blocks = node.ipam.blocks();
    let found = tokio::time::timeout(Duration::from_secs(10), blocks.wait_for(|b| are(b)));
    found.await.unwrap_or_else(|_| panic!("{:?}", node.ipam.status())).unwrap();
}

fn elsewhere(pool: Pool) -> Pool {
    Pool { node_selector: Selector::parse("rack == 'other'").unwrap(), ..pool }
}

#[tokio::test]
async fn a_requested_pool_that_does_not_select_the_node() {
    let counting = Arc::new(Counting::default());
    let store: Arc<dyn Store> = counting.clone();
    // One of two that overlap selects it, and not the first.
    let pools = vec![
        elsewhere(pool("a", "10.0.0.0/24", 28)),
        elsewhere(pool("b", "10.1.0.0/24", 28)),
        pool("c", "10.1.0.0/16", 28),
    ];
    let cluster = Cluster::on(&store, pools);
    let node = cluster.node("n");
    node.ipam.set_node_labels([("rack".to_owned(), "mine".to_owned())].into());
    let mut by_pool = node.request("pool", Families::V4);
    by_pool.requested_pools = vec!["a".to_owned()];
    let given = node.ipam.assign(by_pool).await.unwrap().addresses[0];
    assert!(net("10.0.0.0/24").contains(&given), "{given}");
    for address in ["10.0.0.100", "10.1.0.5"] {
        let mut by_address = node.request(address, Families::V4);
        by_address.requested_ips = vec![ip(address)];
        node.ipam.assign(by_address).await.unwrap();
    }
    assert!(net("10.1.0.0/16").contains(&node.v4("any").await.unwrap()));
    blocks(&node, |blocks| blocks.len() >= 3).await;
    let before = counting.settled().await;
    node.ipam.tend();
    assert_eq!(counting.settled().await, before, "nothing goes to and fro");
    consistent(&*store).await;
    // What nobody has any more goes back, if nothing rests in it.
    for handle in ["pool", "10.0.0.100", "10.1.0.5", "any"] {
        node.ipam.release(handle).await.unwrap();
    }
    cluster.clock.advance(121);
    node.ipam.tend();
    blocks(&node, |blocks| matches!(blocks, [one] if net("10.1.0.0/16").contains(one))).await;
}

#[tokio::test]
async fn a_block_that_cannot_be_given_up_keeps_no_request() {
    let counting = Arc::new(Counting::default());
    let store: Arc<dyn Store> = counting.clone();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]);
    let node = cluster.node("n");
    node.v4("a").await.unwrap();
    node.ipam.release("a").await.unwrap();
    cluster.clock.advance(121);
    node.ipam.set_pools(vec![pool("q", "10.1.0.0/24", 28)]);
    // A role that may put but not delete.
    counting.refuse_deletes(true);
    node.ipam.tend();
    for n in 0..20 {
        node.v4(&n.to_string()).await.unwrap();
        node.ipam.tend();
    }
    blocks(&node, |blocks| blocks.len() == 3).await;
    counting.settled().await;
    assert!(counting.refused() >= 1, "it was never tried");
    assert!(counting.refused() <= 8, "tried {} times", counting.refused());
    assert!(node.ipam.status().ready, "{:?}", node.ipam.status());
}

#[tokio::test]
async fn a_search_that_is_refused_is_paced_and_answers_collections() {
    let counting = Arc::new(Counting::default());
    let store: Arc<dyn Store> = counting.clone();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).node("n");
    node.v4("a").await.unwrap();
    counting.settled().await;
    counting.refuse_lists(true);
    let before = counting.refused();
    let live = || ipam::Live::none(node.ipam.epoch());
    let error = node.ipam.collect(live()).await.unwrap_err().to_string();
    assert!(error.contains("refused: permission denied"), "{error}");
    // Requests go on meanwhile, and each makes the committer look round.
    for n in 0..50 {
        node.v4(&format!("h{}", n % 10)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let tried = counting.refused() - before;
    assert!(tried <= 16, "{tried} searches of two families");
    counting.refuse_lists(false);
    assert_eq!(node.ipam.collect(live()).await.unwrap().len(), 11);
    assert!(!all(&*store).await.is_empty());
}

/// All blocks are listed once for a collection, also if it is told first what it would release.
#[tokio::test]
async fn a_collection_searches_the_store_once() {
    let counting = Arc::new(Counting::default());
    let store: Arc<dyn Store> = counting.clone();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).node("n");
    for n in 0..5 {
        node.v4(&n.to_string()).await.unwrap();
    }
    let before = counting.settled().await;
    let live = ipam::Live::none(node.ipam.epoch());
    assert_eq!(node.ipam.collectable(live.clone()).await.unwrap().len(), 5);
    let told = counting.settled().await;
    // Blocks and affinities of each family.
    assert_eq!((told.0 - before.0, told.1 - before.1), (4, 0));
    assert_eq!(node.ipam.collect(live).await.unwrap().len(), 5);
    let done = counting.settled().await;
    assert_eq!((done.0 - told.0, done.1 - told.1), (0, 1));
    // Other evidence, another search.
    let live = ipam::Live::none(node.ipam.epoch());
    assert!(node.ipam.collect(live).await.unwrap().is_empty());
    assert_eq!(counting.settled().await, (done.0 + 4, done.1));
}
