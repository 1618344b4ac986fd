//! What the allocator does beside the requests: giving blocks back, looking for what is its own,
//! collecting what nobody has. None of it may keep a request from its answer, nor requests it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use api::selector::Selector;
use ipam::allocator::Mode;
use ipam::{AssignRequest, Families, Live, Pool, Tunnel};

mod common;
use common::cluster::{Cluster, all, consistent, ip, memory, net, pool};
use common::counting::Counting;
use common::eventually;

fn elsewhere(pool: Pool) -> Pool {
    Pool { node_selector: Selector::parse("rack == 'other'").unwrap(), ..pool }
}

#[tokio::test]
async fn a_requested_pool_that_does_not_select_the_node() {
    let (counting, store) = Counting::shared();
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
    node.blocks_that(|blocks| blocks.len() >= 3).await;
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
    node.blocks_that(|blocks| matches!(blocks, [one] if net("10.1.0.0/16").contains(one))).await;
}

#[tokio::test]
async fn a_block_that_cannot_be_given_up_keeps_no_request() {
    let (counting, store) = Counting::shared();
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
    node.blocks_that(|blocks| blocks.len() == 3).await;
    counting.settled().await;
    assert!(counting.refused() >= 1, "it was never tried");
    assert!(counting.refused() <= 8, "tried {} times", counting.refused());
    assert!(node.ipam.status().ready, "{:?}", node.ipam.status());
}

#[tokio::test]
async fn a_search_that_is_refused_is_paced_and_answers_collections() {
    let (counting, store) = Counting::shared();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).node("n");
    node.v4("a").await.unwrap();
    counting.settled().await;
    counting.refuse_lists(true);
    let before = counting.refused();
    let live = || Live::none(node.ipam.epoch());
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

#[tokio::test]
async fn collects_what_no_live_endpoint_has() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 26)]);
    let node = cluster.node("n");
    for n in 0..40 {
        node.v4(&format!("h{n}")).await.unwrap();
    }
    let tunnel = AssignRequest::tunnel(Tunnel::Vxlan, "n", vec!["p".to_owned()]);
    assert_eq!(tunnel.attributes["type"], "vxlanTunnelAddress");
    node.ipam.assign(tunnel).await.unwrap();
    let disk = node.stop().await;
    let node = cluster.node_on("n", disk);
    let epoch = node.ipam.epoch();
    assert!(Live::handles(epoch, BTreeSet::new()).is_none(), "an empty list proves nothing");
    let live = Live::handles(epoch, ["h1", "h2"].map(str::to_owned).into()).unwrap();
    // Assigned after the evidence was taken: not judged by it.
    node.v4("young").await.unwrap();
    let told = node.ipam.collectable(live.clone()).await.unwrap();
    assert_eq!(consistent(&*store).await.len(), 42, "only told");
    // Those of another network are none of its business.
    let elsewhere = live.clone().of_network("elsewhere");
    assert!(node.ipam.collect(elsewhere).await.unwrap().is_empty());
    let mut collected = node.ipam.collect(live).await.unwrap();
    collected.sort();
    assert_eq!(collected.len(), 38);
    assert_eq!(BTreeSet::from_iter(told), BTreeSet::from_iter(collected));
    let held: BTreeSet<_> = consistent(&*store).await.into_values().collect();
    assert_eq!(held, ["h1", "h2", "vxlan-tunnel-addr-n", "young"].map(str::to_owned).into());
    let collected = node.ipam.collect(Live::none(node.ipam.epoch())).await.unwrap();
    assert_eq!(collected.len(), 3);
    assert_eq!(consistent(&*store).await.len(), 1);
}

/// Names of networks may have dots, and so may one be the beginning of another.
#[tokio::test]
async fn a_collection_of_a_network_takes_nothing_of_others() {
    let (_, store) = memory();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 26)]).node("n");
    let (one, two) = ("1".repeat(64), "2".repeat(64));
    let of = |network: &str| {
        [format!("{network}.{one}"), format!("{network}.{two}"), format!("{network}.{two}.net1")]
    };
    let others = [of("corp.blue"), of("corp2"), of("blue")].concat();
    for handle in of("corp").iter().chain(&others) {
        node.v4(handle).await.unwrap();
    }
    // Of `corp.green`, or of an interface of a container of `corp`.
    node.v4("corp.green.c1").await.unwrap();
    let live = |network: &str| {
        let live = Live::handles(node.ipam.epoch(), [format!("corp.{one}")].into()).unwrap();
        node.ipam.collect(live.of_network(network))
    };
    assert_eq!(live("corp").await.unwrap().len(), 2);
    let held: BTreeSet<_> = consistent(&*store).await.into_values().collect();
    let kept = others.iter().cloned().chain([format!("corp.{one}"), "corp.green.c1".to_owned()]);
    assert_eq!(held, kept.collect());
    for (network, collected) in [("corp.green", 0), (&format!("blue.{two}"), 0), ("corp.blue", 3)] {
        assert_eq!(live(network).await.unwrap().len(), collected, "{network}");
    }
}

/// All blocks are listed once for a collection, also if it is told first what it would release.
#[tokio::test]
async fn a_collection_searches_the_store_once() {
    let (counting, store) = Counting::shared();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).node("n");
    for n in 0..5 {
        node.v4(&n.to_string()).await.unwrap();
    }
    let before = counting.settled().await;
    let live = Live::none(node.ipam.epoch());
    assert_eq!(node.ipam.collectable(live.clone()).await.unwrap().len(), 5);
    let told = counting.settled().await;
    // Blocks and affinities of each family.
    assert_eq!((told.0 - before.0, told.1 - before.1), (4, 0));
    assert_eq!(node.ipam.collect(live).await.unwrap().len(), 5);
    let done = counting.settled().await;
    assert_eq!((done.0 - told.0, done.1 - told.1), (0, 1));
    // Other evidence, another search.
    let live = Live::none(node.ipam.epoch());
    assert!(node.ipam.collect(live).await.unwrap().is_empty());
    assert_eq!(counting.settled().await, (done.0 + 4, done.1));
}

/// Pods that come and go as fast as they can, not all at once: what one asks for is written while
/// another one asks.
#[tokio::test]
async fn requests_without_end_keep_nothing_else_waiting() {
    for local_first in [false, true] {
        let (counting, store) = Counting::shared();
        counting.answer_late();
        let pools = vec![pool("near", "10.0.0.0/24", 28), pool("far", "10.1.0.0/24", 28)];
        let cluster = Cluster::on(&store, pools);
        let cluster = if local_first { cluster.local_first() } else { cluster };
        let node = cluster.node("n");
        let mode = if local_first { Mode::LocalFirst } else { Mode::Synchronous };
        let mut status = node.ipam.watch_status();
        let in_force = status.wait_for(|status| status.mode == mode);
        tokio::time::timeout(Duration::from_secs(20), in_force).await.unwrap().unwrap();
        node.v4("first").await.unwrap();
        let churn = async |task: u32| {
            tokio::time::sleep(Duration::from_millis(5) * task).await;
            for n in 0.. {
                let pod = format!("pod{task}-{n}");
                node.v4(&pod).await.unwrap();
                node.ipam.release(&pod).await.unwrap();
            }
        };
        // It needs a search, and with a log of its own the store gets it later.
        let beside = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut far = node.request("far", Families::V4);
            far.requested_ips = vec![ip("10.1.0.7")];
            let given = node.ipam.assign(far).await.unwrap();
            assert_eq!(given.addresses, [net("10.1.0.7/32")]);
            eventually("the store has it", async || {
                consistent(&*store).await.contains_key(&ip("10.1.0.7")).then_some(())
            })
            .await;
        };
        tokio::select! {
            () = async { tokio::join!(churn(0), churn(1), churn(2), churn(3)); } => {}
            () = beside => {}
        }
    }
}
