//! The allocator on the store of tests: what it writes, what it answers, what it survives.
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
use futures::future::join_all;
use ipam::allocator::Mode;
use ipam::store::memory::Fault;
use ipam::store::{Outcome, Txn};
use ipam::{AllowedUse, Error, Families, Family, IpamConfig, Live, Pool, model};

mod common;
use common::cluster::{Cluster, Node, START, all, consistent, ip, memory, net, pool};
use common::counting::Counting;
use common::eventually;

#[tokio::test]
async fn writes_what_calico_would() {
    let (_, store) = memory();
    let node = Cluster::on(&store, vec![pool("p", "10.244.1.0/30", 30)]).node("node1");
    assert_eq!(node.v4("k8s-pod-network.5c1e").await.unwrap(), ip("10.244.1.0"));
    let all = all(&*store).await;
    let at = |key: &str| all.get(key).unwrap_or_else(|| panic!("{key}: {all:#?}")).as_str();
    assert_eq!(
        at("/calico/ipam/v2/host/node1/ipv4/block/10.244.1.0-30"),
        r#"{"state":"confirmed","deleted":false}"#
    );
    assert_eq!(
        at("/calico/ipam/v2/handle/k8s-pod-network.5c1e"),
        r#"{"block":{"10.244.1.0/30":1},"deleted":false}"#
    );
    assert_eq!(
        at("/calico/ipam/v2/assignment/ipv4/block/10.244.1.0-30"),
        r#"{"cidr":"10.244.1.0/30","affinity":"host:node1","affinity_claim_time":"2026-08-22T13:33:20Z","allocations":[0,null,null,null],"unallocated":[1,2,3],"attributes":[{"handle_id":"k8s-pod-network.5c1e","secondary":{"namespace":"default","node":"node1","pod":"pod-k8s-pod-network.5c1e","timestamp":"2026-08-22 13:33:20 +0000 UTC"}}],"sequenceNumber":1787405600000000001,"sequenceNumberForAllocation":{"0":1787405600000000000},"deleted":false}"#
    );
    assert!(at("/caracal/ipam/v1/node/node1").starts_with(r#"{"instance":""#));
    assert_eq!(all.len(), 4, "{all:#?}");
    assert_eq!(node.blocks(1).await, [net("10.244.1.0/30")]);
    let status = node.ipam.status();
    assert!(status.ready && status.problem.is_none(), "{status:?}");
    assert_eq!((status.mode, status.blocks[0].in_use), (Mode::Synchronous, 1));
}

#[tokio::test]
async fn a_handle_is_assigned_once_and_released_once() {
    let (_, store) = memory();
    let node =
        Cluster::on(&store, vec![pool("four", "10.0.0.0/24", 26), pool("six", "fd00::/112", 122)])
            .node("n");
    let first = node.ipam.assign(node.request("h", Families::DUAL)).await.unwrap();
    assert_eq!(first.addresses.len(), 2);
    assert!(first.addresses[0].addr().is_ipv4() && first.addresses[1].addr().is_ipv6());
    assert!(first.addresses.iter().all(|a| a.prefix_len() == a.max_prefix_len()));
    assert!(!first.repeated);
    let again = node.ipam.assign(node.request("h", Families::DUAL)).await.unwrap();
    assert_eq!(again.addresses, first.addresses);
    assert!(again.repeated);
    assert_eq!(consistent(&*store).await.len(), 2);
    let ips: Vec<_> = first.ips().collect();
    assert_eq!(node.ipam.release("h").await.unwrap(), ips);
    assert!(node.ipam.release("h").await.unwrap().is_empty());
    assert!(node.ipam.release("never").await.unwrap().is_empty());
    assert!(consistent(&*store).await.is_empty());
    assert!(store.list_keys(model::HANDLES).await.unwrap().keys.is_empty());
}

#[tokio::test]
async fn a_released_address_rests_and_comes_back_last() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/30", 30)]);
    let node = cluster.node("n");
    assert_eq!(node.v4("a").await.unwrap(), ip("10.0.0.0"));
    node.ipam.release("a").await.unwrap();
    assert_eq!(node.v4("b").await.unwrap(), ip("10.0.0.1"));
    cluster.clock.advance(121);
    // Free again, but behind those that were never used.
    assert_eq!(node.v4("c").await.unwrap(), ip("10.0.0.2"));
    assert_eq!(node.v4("d").await.unwrap(), ip("10.0.0.3"));
    assert_eq!(node.v4("e").await.unwrap(), ip("10.0.0.0"));
    assert!(matches!(node.v4("f").await, Err(Error::PoolExhausted { .. })));
    // Everything in use or resting: the longest resting one ends its rest early.
    node.ipam.release("c").await.unwrap();
    cluster.clock.advance(2);
    node.ipam.release("b").await.unwrap();
    assert_eq!(node.v4("f").await.unwrap(), ip("10.0.0.2"));
    assert_eq!(node.v4("g").await.unwrap(), ip("10.0.0.1"));
    consistent(&*store).await;
}

#[tokio::test]
async fn the_configured_cooldown_counts() {
    let (_, store) = memory();
    let config = IpamConfig { ip_cooldown_seconds: Some(10), ..IpamConfig::default() };
    let key = Txn::default().put(model::CONFIG, model::encode(&config));
    store.txn(key).await.unwrap();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/31", 31)]);
    let node = cluster.node("n");
    node.v4("a").await.unwrap();
    node.ipam.release("a").await.unwrap();
    cluster.clock.advance(10);
    node.v4("b").await.unwrap();
    assert_eq!(node.v4("c").await.unwrap(), ip("10.0.0.0"));
    let status = node.ipam.status();
    assert_eq!(status.blocks[0].in_use, 2);
}

#[tokio::test]
async fn a_configuration_that_is_taken_back_leaves_the_stores() {
    let (_, store) = memory();
    let stored =
        IpamConfig { strict_affinity: true, max_blocks_per_host: 1, ..IpamConfig::default() };
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 30)]);
    let node = cluster.node("n");
    node.ipam.set_config(Some(IpamConfig::default())).unwrap();
    node.v4("a").await.unwrap();
    // Told while another one is in force: remembered.
    store.txn(Txn::default().put(model::CONFIG, model::encode(&stored))).await.unwrap();
    for n in 0..8 {
        node.v4(&n.to_string()).await.unwrap();
    }
    node.ipam.set_config(None).unwrap();
    for n in 8..64 {
        match node.v4(&n.to_string()).await {
            Ok(_) => assert!(n < 16, "room in what it has, no further block"),
            Err(error) => assert!(matches!(error, Error::BlockLimit { limit: 1, .. }), "{error}"),
        }
    }
    store.txn(Txn::default().delete(model::CONFIG)).await.unwrap();
    eventually("the defaults", async || node.v4("d").await.ok()).await;
}

#[tokio::test]
async fn dual_stack_is_both_or_none() {
    let (_, store) = memory();
    let pools = vec![pool("four", "10.0.0.0/31", 31), pool("six", "fd00::/128", 128)];
    let node = Cluster::on(&store, pools).node("n");
    node.both("a").await.unwrap();
    let error = node.both("b").await.unwrap_err();
    assert!(matches!(error, Error::PoolExhausted { family: Family::V6, .. }), "{error}");
    assert_eq!(error.to_string(), "no free IPv6 address in six: every block is taken");
    assert_eq!(consistent(&*store).await.len(), 2, "nothing of b");
    node.v4("b").await.unwrap();
}

#[tokio::test]
async fn requests_of_a_moment_share_a_commit_and_read_nothing() {
    let (counting, store) = Counting::shared();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/16", 24)]).node("n");
    node.v4("first").await.unwrap();
    let (reads, txns) = counting.settled().await;
    let handles: Vec<_> = (0..100).map(|n| format!("h{n}")).collect();
    let given = join_all(handles.iter().map(|handle| node.v4(handle))).await;
    let distinct: BTreeSet<_> = given.into_iter().map(Result::unwrap).collect();
    assert_eq!(distinct.len(), 100);
    let (reads_after, txns_after) = counting.counts();
    assert_eq!(reads_after, reads, "an assignment reads nothing");
    assert!(txns_after - txns <= 4, "{} transactions for 100 requests", txns_after - txns);
    join_all(handles.iter().map(|handle| node.ipam.release(handle))).await;
    assert_eq!(counting.counts().0, reads, "nor does a release of what this process assigned");
    assert_eq!(consistent(&*store).await.len(), 1);
}

#[tokio::test]
async fn an_address_by_name() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).strict();
    let (one, two) = (cluster.node("one"), cluster.node("two"));
    let named = async |node: &Node, handle: &str, address: &str| {
        let mut request = node.request(handle, Families::V4);
        request.requested_ips = vec![ip(address)];
        node.ipam.assign(request).await.map(|assignment| assignment.ips().next().unwrap())
    };
    assert_eq!(named(&one, "a", "10.0.0.37").await.unwrap(), ip("10.0.0.37"));
    assert_eq!(one.blocks(1).await, [net("10.0.0.32/28")]);
    assert_eq!(named(&one, "a", "10.0.0.37").await.unwrap(), ip("10.0.0.37"), "a repetition");
    let error = named(&one, "a", "10.0.0.38").await.unwrap_err();
    assert_eq!(error.to_string(), "handle a already holds 10.0.0.37");
    let error = named(&one, "b", "10.0.0.37").await.unwrap_err();
    assert_eq!(error.to_string(), "10.0.0.37 is taken by a");
    let error = named(&one, "b", "10.9.9.9").await.unwrap_err();
    assert_eq!(error, Error::NotInPool { address: ip("10.9.9.9") });
    let error = named(&two, "b", "10.0.0.38").await.unwrap_err();
    assert_eq!(error.to_string(), "10.0.0.38 is in a block of host:one, and strictAffinity is on");
    // Its own address again at once, though it rests: a pod with a fixed address is recreated.
    one.ipam.release("a").await.unwrap();
    assert_eq!(named(&one, "c", "10.0.0.37").await.unwrap(), ip("10.0.0.37"));
    // Reserved addresses are given by name only.
    one.ipam.set_reservations(vec![net("10.0.0.32/30")]);
    assert_eq!(one.v4("d").await.unwrap(), ip("10.0.0.36"));
    assert_eq!(named(&one, "e", "10.0.0.32").await.unwrap(), ip("10.0.0.32"));
    consistent(&*store).await;
    // Where borrowing is allowed, so is an address of somebody else's block.
    let three = Cluster { config: None, ..cluster }.node("three");
    assert_eq!(named(&three, "f", "10.0.0.40").await.unwrap(), ip("10.0.0.40"));
    consistent(&*store).await;
}

#[tokio::test]
async fn pools_by_selector_use_and_name() {
    let (_, store) = memory();
    let pools = vec![
        Pool {
            node_selector: Selector::parse("rack == 'r1'").unwrap(),
            ..pool("r1", "10.1.0.0/24", 28)
        },
        Pool { allowed_uses: vec![AllowedUse::Tunnel], ..pool("tunnel", "10.2.0.0/24", 28) },
        Pool { manual: true, ..pool("manual", "10.3.0.0/24", 28) },
    ];
    let node = Cluster::on(&store, pools).node("n");
    let error = node.v4("a").await.unwrap_err();
    assert!(error.to_string().contains("r1 does not select this node"), "{error}");
    node.ipam.set_node_labels([("rack".to_owned(), "r1".to_owned())].into());
    assert!(net("10.1.0.0/24").contains(&node.v4("a").await.unwrap()));
    let mut tunnel = node.request("t", Families::V4);
    tunnel.intended_use = AllowedUse::Tunnel;
    assert!(net("10.1.0.0/24").contains(&node.ipam.assign(tunnel).await.unwrap().addresses[0]));
    let mut by_name = node.request("m", Families::V4);
    by_name.requested_pools = vec!["manual".to_owned()];
    assert!(net("10.3.0.0/24").contains(&node.ipam.assign(by_name).await.unwrap().addresses[0]));
    node.blocks(2).await;
    // No longer selected: the block goes once it is empty and nothing in it rests.
    node.ipam.set_node_labels([("rack".to_owned(), "r2".to_owned())].into());
    assert!(node.v4("b").await.is_err());
    assert_eq!(node.ipam.blocks().borrow().len(), 2, "pods live there");
}

#[tokio::test]
async fn lost_requests_and_lost_replies_give_nothing_twice() {
    let (memory, store) = memory();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).node("n");
    node.v4("a").await.unwrap();
    for fault in [Fault::LoseReply, Fault::LoseRequest] {
        memory.inject([Some(fault)]);
        let handle = format!("{fault:?}");
        let address = node.v4(&handle).await.unwrap();
        assert_eq!(node.v4(&handle).await.unwrap(), address);
        memory.inject([Some(fault)]);
        node.ipam.release("a").await.unwrap();
    }
    assert_eq!(consistent(&*store).await.len(), 2);
    // A lost claim is found again.
    memory.inject([Some(Fault::LoseReply)]);
    let other = Cluster::on(&store, vec![pool("q", "10.9.0.0/24", 28)]).node("other");
    memory.inject([None, Some(Fault::LoseReply)]);
    other.v4("z").await.unwrap();
    assert_eq!(other.blocks(1).await.len(), 1);
    assert_eq!(consistent(&*store).await.len(), 3);
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_leaks_nothing() {
    let (memory, store) = memory();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).node("n");
    node.v4("keep").await.unwrap();
    for round in 0..20 {
        let handle = format!("gone{round}");
        let request = node.request(&handle, Families::V4);
        let mut assign = Box::pin(node.ipam.assign(request));
        if round % 3 == 1 {
            memory.inject([Some(Fault::LoseReply)]);
        }
        // Polled once: it is queued. Then dropped at some point of its way.
        assert!(futures::poll!(assign.as_mut()).is_pending());
        for _ in 0..round % 4 {
            tokio::task::yield_now().await;
        }
        drop(assign);
    }
    // One that gives up and comes again keeps what it is told.
    let mut first = Box::pin(node.ipam.assign(node.request("again", Families::V4)));
    assert!(futures::poll!(first.as_mut()).is_pending());
    drop(first);
    let again = node.v4("again").await.unwrap();
    eventually("only the kept addresses are held", async || {
        let held = consistent(&*store).await;
        (held.len() == 2 && held[&again] == "again").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_caller_who_leaves_during_an_outage_leaks_nothing() {
    let (memory, store) = memory();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).node("n");
    node.v4("keep").await.unwrap();
    // Committed, its answer lost, and then the store is away: nobody knows that it was done.
    memory.inject([Some(Fault::LoseReply)]);
    let mut assign = Box::pin(node.ipam.assign(node.request("gone", Families::V4)));
    assert!(futures::poll!(assign.as_mut()).is_pending());
    eventually("the reply is lost", async || (!node.ipam.status().ready).then_some(())).await;
    memory.set_away(true);
    drop(assign);
    memory.set_away(false);
    assert_eq!(consistent(&*store).await.len(), 2, "it was done");
    eventually("taken back", async || {
        let held: Vec<_> = consistent(&*store).await.into_values().collect();
        (held == ["keep"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn waits_out_a_short_outage_and_names_the_store_in_a_long_one() {
    let (memory, store) = memory();
    let mut cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]);
    cluster.deadline = Duration::from_millis(300);
    memory.set_away(true);
    let node = cluster.node("n");
    let error = node.v4("a").await.unwrap_err();
    assert!(error.is_temporary());
    assert_eq!(
        error.to_string(),
        "memory is unavailable: connection refused (gave up after 300ms)"
    );
    assert!(!node.ipam.status().ready);
    memory.set_away(false);
    eventually("ready", async || node.ipam.status().ready.then_some(())).await;
    let address = node.v4("a").await.unwrap();
    assert_eq!(consistent(&*store).await.len(), 1, "the failed request left nothing");
    // Short: the request is served when the store is back.
    memory.set_away(true);
    eventually("noticed", async || (!node.ipam.status().ready).then_some(())).await;
    let (given, ()) = tokio::join!(node.v4("b"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        memory.set_away(false);
    });
    given.unwrap();
    // An agent that starts while the store is away announces what it had.
    let disk = node.stop().await;
    memory.set_away(true);
    let node = cluster.node_on("n", disk);
    assert_eq!(node.ipam.blocks().borrow().len(), 1);
    assert!(node.ipam.blocks().borrow()[0].contains(&address));
}

#[tokio::test]
async fn a_second_instance_of_a_node_is_refused() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]);
    let first = cluster.node("n");
    first.v4("a").await.unwrap();
    let second = cluster.node("n");
    let error = second.v4("b").await.unwrap_err();
    assert!(matches!(&error, Error::NodeTaken { node, .. } if node == "n"), "{error}");
    assert!(error.to_string().contains("/caracal/ipam/v1/node/n"), "{error}");
    assert!(error.to_string().contains("ipam disown n"), "{error}");
    first.v4("c").await.unwrap();
    // The same disk twice on one machine.
    let error = cluster.open("n", &first.disk).err().unwrap();
    assert!(error.to_string().contains("another process on this machine"), "{error}");
    // A copied disk: the younger process wins, the older one is fenced off for good.
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(first.disk.path().join("ipam-instance"), copy.path().join("ipam-instance"))
        .unwrap();
    let younger = cluster.node_on("n", copy);
    younger.v4("d").await.unwrap();
    let error = first.v4("e").await.unwrap_err();
    assert!(error.to_string().contains("in a younger process"), "{error}");
    younger.v4("f").await.unwrap();
    // A restart with the same disk is the same instance.
    let disk = younger.stop().await;
    let restarted = cluster.node_on("n", disk);
    assert!(restarted.ipam.assign(restarted.request("d", Families::V4)).await.unwrap().repeated);
    assert_eq!(consistent(&*store).await.len(), 4);
}

/// What the store said before it went away is not repeated to who asks meanwhile.
#[tokio::test]
async fn a_refusal_ends_with_the_silence_of_the_store() {
    let (memory, store) = memory();
    let mut cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]);
    let first = cluster.node("n");
    first.v4("a").await.unwrap();
    cluster.deadline = Duration::from_millis(500);
    let second = cluster.node("n");
    assert!(matches!(second.v4("b").await, Err(Error::NodeTaken { .. })));
    first.stop().await;
    store.txn(Txn::default().delete(model::node_key("n"))).await.unwrap();
    memory.set_away(true);
    eventually("the next look at the name", async || {
        second.ipam.status().problem.filter(|problem| problem.contains("is unavailable"))
    })
    .await;
    let error = second.v4("b").await.unwrap_err();
    assert!(matches!(error, Error::StoreUnavailable { .. }), "{error}");
    memory.set_away(false);
    eventually("the name is free", async || second.v4("b").await.ok()).await;
}

#[tokio::test]
async fn a_corrupt_block_is_named_and_the_others_go_on() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/28", 30)]).strict();
    let node = cluster.node("n");
    let first = node.v4("a").await.unwrap();
    for n in 0..5 {
        node.v4(&n.to_string()).await.unwrap();
    }
    let bad = node.blocks(2).await.into_iter().find(|block| block.contains(&first)).unwrap();
    let key = model::block_key(&bad);
    let good = store.read(std::slice::from_ref(&key)).await.unwrap().entries.remove(0);
    store.txn(Txn::default().put(key.clone(), b"{\"cidr\":".to_vec())).await.unwrap();
    let disk = node.stop().await;
    let node = cluster.node_on("n", disk);
    // Served from other blocks; the bad one is still announced, since pods live in it.
    let given = node.v4("b").await.unwrap();
    assert!(!bad.contains(&given));
    assert!(node.ipam.blocks().borrow().contains(&bad));
    assert_eq!(node.ipam.status().corrupt[0].key, key);
    let error = node.ipam.release("a").await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt(corrupt) if corrupt.key == key), "{error}");
    assert!(error.to_string().contains("not a block: EOF while parsing"), "{error}");
    // Mended by somebody: used again without a restart.
    store.txn(Txn::default().put(key, good.value.to_vec())).await.unwrap();
    assert_eq!(node.ipam.release("a").await.unwrap(), [first]);
    consistent(&*store).await;
}

#[tokio::test]
async fn other_writers_are_noticed() {
    let (_, store) = memory();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/30", 30)]).node("n");
    let address = node.v4("a").await.unwrap();
    // An administrator releases the address and its handle behind the agent's back.
    let key = model::block_key(&net("10.0.0.0/30"));
    let entry = store.read(std::slice::from_ref(&key)).await.unwrap().entries.remove(0);
    let mut block = model::decode_block(&key, &entry.value).unwrap();
    block.release_handle("a", ipam::block::Release::Now);
    block.seal();
    let txn = Txn::default().when(key.clone(), entry.mod_revision).put(key, block.encode());
    let txn = txn.delete(model::handle_key("a"));
    assert!(matches!(store.txn(txn).await.unwrap(), Outcome::Committed(_)));
    // The agent believes that a holds it, until it asks.
    let again = node.ipam.assign(node.request("a", Families::V4)).await.unwrap();
    assert!(!again.repeated);
    assert_ne!(again.ips().next(), Some(address), "from the head of the free ones");
    node.ipam.release("a").await.unwrap();
    assert!(consistent(&*store).await.is_empty());
}

#[tokio::test]
async fn more_than_one_transaction_can_hold() {
    let (_, store) = memory();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/22", 24)]).node("n");
    let handles: Vec<_> = (0..400).map(|n| format!("h{n}")).collect();
    let given = join_all(handles.iter().map(|handle| node.v4(handle))).await;
    assert_eq!(given.into_iter().map(Result::unwrap).collect::<BTreeSet<_>>().len(), 400);
    assert_eq!(node.ipam.collect(Live::none(node.ipam.epoch())).await.unwrap().len(), 400);
    assert!(consistent(&*store).await.is_empty());
}

#[tokio::test]
async fn requests_that_make_no_sense() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/22", 24)]);
    let node = cluster.node("n");
    for handle in ["", "a/b", "a\nb"] {
        assert!(matches!(node.v4(handle).await, Err(Error::Invalid(_))), "{handle:?}");
        assert!(matches!(node.ipam.release(handle).await, Err(Error::Invalid(_))), "{handle:?}");
    }
    let mut two = node.request("h", Families::V4);
    two.requested_ips = vec![ip("10.0.0.1"), ip("10.0.0.2")];
    assert!(matches!(node.ipam.assign(two).await, Err(Error::Invalid(_))));
    let none = node.request("h", Families { v4: false, v6: false });
    assert!(matches!(node.ipam.assign(none).await, Err(Error::Invalid(_))));
    let bad = IpamConfig { max_blocks_per_host: 3, ..IpamConfig::default() };
    assert!(node.ipam.set_config(Some(bad)).is_err());
    assert!(cluster.open("a/b", &tempfile::tempdir().unwrap()).is_err());
    let clone = node.ipam.clone();
    node.ipam.close().await;
    assert_eq!(clone.release("h").await, Err(Error::Closed));
    assert_eq!(START, 1_787_405_600);
}
