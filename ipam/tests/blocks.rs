//! Which blocks an allocator has on the store of tests: claims, spares, what it borrows, what it
//! takes over and what it gives back.
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
use ipam::store::Txn;
use ipam::store::memory::Fault;
use ipam::{Error, Families, IpamConfig, Pool, Pools, model};

mod common;
use common::cluster::{Cluster, Node, all, consistent, ip, memory, net, pool};
use common::counting::Counting;
use common::eventually;

/// Waits until these are the addresses that a node has in others' blocks.
async fn borrows(node: &Node, addresses: &[std::net::IpAddr]) {
    let mut borrowed = node.ipam.borrowed();
    let found = borrowed.wait_for(|borrowed| **borrowed == *addresses);
    let found = tokio::time::timeout(Duration::from_secs(10), found).await;
    assert!(found.is_ok(), "{:?} {:?}", node.ipam.borrowed().borrow(), node.ipam.status());
}

#[tokio::test]
async fn a_spare_block_is_claimed_before_it_is_needed() {
    let (_, store) = memory();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).node("n");
    for n in 0..12 {
        node.v4(&n.to_string()).await.unwrap();
    }
    assert_eq!(node.ipam.blocks().borrow().len(), 1, "a quarter is still free");
    node.v4("12").await.unwrap();
    node.blocks(2).await;
    consistent(&*store).await;
}

/// As many at once that the node's block does not suffice, and no spare one is there yet.
async fn burst(node: &Node, pods: std::ops::Range<u32>) {
    let names: Vec<String> = pods.map(|pod| format!("burst{pod}")).collect();
    let given = futures::future::join_all(names.iter().map(|name| node.v4(name))).await;
    let given: BTreeSet<_> = given.into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(given.len(), names.len());
}

#[tokio::test]
async fn a_block_is_claimed_with_the_first_addresses_of_it() {
    let (counting, store) = Counting::shared();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]).node("n");
    node.v4("first").await.unwrap();
    let (reads, txns) = counting.settled().await;
    burst(&node, 0..20).await;
    assert_eq!(counting.counts(), (reads, txns + 1));
    let blocks = node.blocks(2).await;
    assert_eq!(consistent(&*store).await.len(), 21);
    // What it says of the block in the store is what a restart finds.
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]);
    let node = cluster.node("n");
    node.v4("first").await.unwrap();
    burst(&node, 0..20).await;
    assert_eq!(node.blocks(2).await, blocks, "the same name, the same blocks");
    let again = cluster.node_on("n", node.stop().await);
    assert_eq!(again.blocks(2).await, blocks);
}

/// Somebody has the block meanwhile, whose claim this node has not seen: all are served of another one.
#[tokio::test]
async fn a_claim_that_comes_too_late_is_made_elsewhere() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]);
    let node = cluster.node("n");
    node.v4("first").await.unwrap();
    let own = node.blocks(1).await[0];
    // The next one in its order.
    let nets: Vec<_> = net("10.0.0.0/24").subnets(28).unwrap().collect();
    let at = nets.iter().position(|net| *net == own).unwrap();
    let next = nets[(at + 1) % nets.len()];
    let other = cluster.node("other");
    let mut request = other.request("named", Families::V4);
    request.requested_ips = next.hosts().take(1).collect();
    other.ipam.assign(request).await.unwrap();
    assert_eq!(other.blocks(1).await, [next]);
    burst(&node, 0..20).await;
    let has = node.blocks(2).await;
    assert!(!has.contains(&next), "{has:?}");
    assert_eq!(consistent(&*store).await.len(), 22);
}

#[tokio::test]
async fn a_claim_of_unknown_outcome_loses_no_block() {
    for fault in [Fault::LoseReply, Fault::LoseRequest, Fault::Conflict] {
        let (memory, store) = memory();
        let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 28)]);
        let node = cluster.node("n");
        node.v4("first").await.unwrap();
        memory.inject([Some(fault)]);
        burst(&node, 0..20).await;
        node.blocks(2).await;
        assert_eq!(consistent(&*store).await.len(), 21, "{fault:?}");
        let blocks = all(&*store).await.into_keys().filter(|key| key.starts_with(model::BLOCKS));
        assert_eq!(blocks.count(), 2, "{fault:?}");
    }
}

#[tokio::test]
async fn no_more_blocks_than_allowed() {
    let (_, store) = memory();
    let mut cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 31)]).strict();
    cluster.config.as_mut().unwrap().max_blocks_per_host = 2;
    let node = cluster.node("n");
    for n in 0..4 {
        node.v4(&n.to_string()).await.unwrap();
    }
    let error = node.v4("4").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no free IPv4 address: the node has its 2 blocks (maxBlocksPerHost)"
    );
    assert_eq!(node.ipam.blocks().borrow().len(), 2);
    // Calico's rule: the limit is on what nodes claim by themselves.
    let own = node.blocks(2).await;
    let far = net("10.0.0.0/24").hosts().find(|ip| own.iter().all(|net| !net.contains(ip)));
    let mut request = node.request("named", Families::V4);
    request.requested_ips = far.into_iter().collect();
    assert_eq!(node.ipam.assign(request).await.unwrap().ips().next(), far);
    node.blocks(3).await;
}

#[tokio::test]
async fn at_the_limit_an_address_that_rests_is_given_without_a_look_at_the_store() {
    let (counting, store) = Counting::shared();
    // Others may borrow, and there is room elsewhere: its own come first all the same.
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 31)]);
    let node = cluster.node("n");
    let most = usize::try_from(IpamConfig::DEFAULT_MAX_BLOCKS).unwrap();
    for n in 0..2 * most {
        node.v4(&n.to_string()).await.unwrap();
    }
    let other = cluster.node("other");
    other.v4("elsewhere").await.unwrap();
    let oldest = node.ipam.release("7").await.unwrap();
    node.ipam.release("8").await.unwrap();
    let (reads, txns) = counting.settled().await;
    let given = node.v4("next").await.unwrap();
    assert_eq!(vec![given], oldest);
    assert_eq!(counting.counts(), (reads, txns + 1));
}

#[tokio::test]
async fn borrows_only_where_it_may() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/30", 31)]);
    let (one, two, three) = (cluster.node("one"), cluster.node("two"), cluster.node("three"));
    one.v4("a").await.unwrap();
    two.v4("b").await.unwrap();
    let strict = cluster.clone().strict();
    let four = strict.node("four");
    assert!(matches!(four.v4("x").await, Err(Error::PoolExhausted { .. })));
    let borrowed = three.v4("c").await.unwrap();
    assert!(three.ipam.blocks().borrow().is_empty(), "borrowing is not owning");
    let held = consistent(&*store).await;
    assert_eq!(held[&borrowed], "c");
    // The owner notices: its next allocations meet the borrower's.
    one.v4("d").await.unwrap();
    assert!(one.v4("e").await.is_err() && three.v4("f").await.is_err());
    assert_eq!(consistent(&*store).await.len(), 4);
    // A restarted borrower still finds what it borrowed.
    let disk = three.stop().await;
    let three = cluster.node_on("three", disk);
    assert_eq!(three.v4("c").await.unwrap(), borrowed);
    assert_eq!(three.ipam.release("c").await.unwrap(), [borrowed]);
    borrows(&three, &[]).await;
    assert_eq!(consistent(&*store).await.len(), 3);
}

#[tokio::test]
async fn tells_what_it_borrows_also_at_once_after_a_restart() {
    let (memory, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/30", 30)]);
    let (one, two) = (cluster.node("one"), cluster.node("two"));
    one.v4("a").await.unwrap();
    let mut borrowed = vec![two.v4("b").await.unwrap(), two.v4("c").await.unwrap()];
    borrowed.sort_unstable();
    borrows(&two, &borrowed).await;
    borrows(&one, &[]).await;
    // Started while the store is away: what it had, before anybody can be asked.
    let disk = two.stop().await;
    memory.set_away(true);
    let two = cluster.node_on("two", disk);
    assert_eq!(**two.ipam.borrowed().borrow(), *borrowed);
    memory.set_away(false);
    eventually("ready", async || two.ipam.status().ready.then_some(())).await;
    borrows(&two, &borrowed).await;
    // The block cannot be read, over a restart too: pods have these addresses all the same.
    let key = model::block_key(&net("10.0.0.0/30"));
    let good = store.read(std::slice::from_ref(&key)).await.unwrap().entries.remove(0);
    store.txn(Txn::default().put(key.clone(), b"{".to_vec())).await.unwrap();
    let mut disk = two.stop().await;
    for _ in 0..2 {
        let two = cluster.node_on("two", disk);
        eventually("corrupt", async || two.ipam.status().corrupt.first().map(drop)).await;
        borrows(&two, &borrowed).await;
        disk = two.stop().await;
    }
    store.txn(Txn::default().put(key, good.value.to_vec())).await.unwrap();
    let two = cluster.node_on("two", disk);
    two.ipam.release("b").await.unwrap();
    two.ipam.release("c").await.unwrap();
    borrows(&two, &[]).await;
}

#[tokio::test]
async fn addresses_in_a_block_that_was_taken_away_are_borrowed() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/30", 30)]).strict();
    let node = cluster.node("n");
    let address = node.v4("a").await.unwrap();
    let disk = node.stop().await;
    // As Calico's release of an affinity leaves a block that is not empty.
    let block = net("10.0.0.0/30");
    let key = model::block_key(&block);
    let entry = store.read(std::slice::from_ref(&key)).await.unwrap().entries.remove(0);
    let mut free = model::decode_block(&key, &entry.value).unwrap();
    free.set_affinity(None, ipam::timestamp::Timestamp::from_seconds(0));
    let txn = Txn::default().put(key, free.encode()).delete(model::affinity_key("n", &block));
    store.txn(txn).await.unwrap();
    let node = cluster.node_on("n", disk);
    node.blocks(0).await;
    borrows(&node, &[address]).await;
}

#[tokio::test]
async fn a_block_with_the_nodes_name_on_it_is_adopted() {
    let value =
        |state: &str| Some(format!(r#"{{"state":"{state}","deleted":false}}"#).into_bytes());
    for affinity in [value("pending"), value("pendingDeletion"), None] {
        let (_, store) = memory();
        let pools = vec![pool("p", "10.0.0.0/28", 30), pool("six", "fd00::/124", 126)];
        let cluster = Cluster::on(&store, pools).strict();
        let node = cluster.node("n");
        node.both("a").await.unwrap();
        let own = node.blocks(2).await;
        let disk = node.stop().await;
        let before = all(&*store).await;
        let wounded = own.iter().fold(Txn::default(), |txn, cidr| {
            let key = model::affinity_key("n", cidr);
            match &affinity {
                Some(value) => txn.put(key, value.clone()),
                None => txn.delete(key),
            }
        });
        store.txn(wounded).await.unwrap();
        // Nothing is remembered: it is the store that says so.
        std::fs::remove_file(disk.path().join("ipam-blocks.json")).unwrap();
        let node = cluster.node_on("n", disk);
        assert_eq!(node.blocks(2).await, own, "{affinity:?}");
        consistent(&*store).await;
        for cidr in &own {
            let sequence = |all: &std::collections::BTreeMap<String, String>| {
                let key = model::block_key(cidr);
                model::decode_block(&key, all[&key].as_bytes()).unwrap().sequence_number()
            };
            let after = all(&*store).await;
            assert_eq!(sequence(&after), sequence(&before) + 1, "a releaser must look again");
        }
        let more = node.both("b").await.unwrap();
        assert!(more.iter().all(|address| own.iter().any(|cidr| cidr.contains(address))));
    }
}

#[tokio::test]
async fn what_is_left_of_a_claim_without_its_block_goes() {
    let (memory, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/28", 30)]).strict();
    let other = cluster.node("other");
    other.v4("a").await.unwrap();
    let theirs = other.blocks(1).await[0];
    let nobodys = net("10.9.0.0/30");
    let pending = br#"{"state":"pending","deleted":false}"#.to_vec();
    let mut txn = Txn::default();
    for cidr in [theirs, nobodys] {
        txn = txn.put(model::affinity_key("n", &cidr), pending.clone());
    }
    store.txn(txn).await.unwrap();
    // Also if the first attempt gets no answer.
    memory.inject([None, Some(Fault::LoseRequest)]);
    let node = cluster.node("n");
    eventually("gone", async || {
        let keys = store.list_keys(&model::affinities_of("n")).await.unwrap().keys;
        keys.is_empty().then_some(())
    })
    .await;
    node.v4("b").await.unwrap();
    assert_eq!(consistent(&*store).await.len(), 2);
}

#[tokio::test]
async fn takes_over_an_empty_block_after_a_minute() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/31", 31)]).strict();
    let (one, two) = (cluster.node("one"), cluster.node("two"));
    one.v4("a").await.unwrap();
    one.ipam.release("a").await.unwrap();
    assert!(two.v4("b").await.is_err(), "the address rests");
    cluster.clock.advance(130);
    assert_eq!(two.v4("b").await.unwrap(), ip("10.0.0.1"));
    two.blocks(1).await;
    // The former owner learns it from its affinity, and does not use the block.
    one.blocks(0).await;
    assert!(matches!(one.v4("c").await, Err(Error::PoolExhausted { .. })));
    consistent(&*store).await;
}

/// Takes addresses until there are no more.
async fn exhaust(node: &Node, prefix: &str) -> usize {
    for n in 0.. {
        match node.v4(&format!("{prefix}{n}")).await {
            Ok(_) => {}
            Err(Error::PoolExhausted { .. }) => return n,
            Err(error) => panic!("{error}"),
        }
    }
    0
}

#[tokio::test]
async fn blocks_of_different_sizes_never_overlap() {
    for (first, second, named) in [(30, 28, "10.0.0.40"), (28, 30, "10.0.0.41")] {
        let (_, store) = memory();
        let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/26", first)]).strict();
        let (one, two) = (cluster.node("one"), cluster.node("two"));
        one.v4("a").await.unwrap();
        two.v4("b").await.unwrap();
        // The pool is made anew with another block size while pods live, and only one node knows.
        two.ipam.set_pools(vec![pool("p", "10.0.0.0/26", second)]);
        for n in 0..4 {
            one.v4(&format!("one{n}")).await.unwrap();
            two.v4(&format!("two{n}")).await.unwrap();
            consistent(&*store).await;
        }
        let mut request = two.request("named", Families::V4);
        request.requested_ips = vec![ip(named)];
        match two.ipam.assign(request).await {
            Ok(_)
            | Err(Error::Overlap { .. } | Error::AddressInUse { .. } | Error::NotOurBlock { .. }) =>
                {}
            Err(error) => panic!("{error}"),
        }
        consistent(&*store).await;
        exhaust(&two, "more").await;
        exhaust(&one, "more").await;
        consistent(&*store).await;
    }
}

#[tokio::test]
async fn an_address_by_name_whose_block_would_overlap() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/30", 31)]).strict();
    let node = cluster.node("n");
    let first = node.v4("a").await.unwrap();
    node.ipam.set_pools(vec![pool("p", "10.0.0.0/30", 30)]);
    let wanted = if first == ip("10.0.0.0") { "10.0.0.2" } else { "10.0.0.1" };
    let mut request = node.request("b", Families::V4);
    request.requested_ips = vec![ip(wanted)];
    let error = node.ipam.assign(request).await.unwrap_err();
    assert!(
        matches!(&error, Error::Overlap { wanted, .. } if *wanted == net("10.0.0.0/30")),
        "{error}"
    );
    assert_eq!(exhaust(&node, "c").await, 1, "what the old block has left");
    consistent(&*store).await;
}

#[tokio::test]
async fn claims_in_a_row_need_one_transaction_each() {
    let (counting, store) = Counting::shared();
    let node = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 32)]).node("n");
    node.v4("first").await.unwrap();
    let (reads, txns) = counting.settled().await;
    for n in 0..8 {
        node.v4(&n.to_string()).await.unwrap();
    }
    let (reads_after, txns_after) = counting.counts();
    assert_eq!(reads_after, reads, "what was listed once and made since is known");
    assert!(txns_after - txns <= 18, "{} for 8 claims and 8 addresses", txns_after - txns);
    // Nor is a block read again of which the watch tells before the claim's answer does.
    counting.answer_late();
    for n in 8..12 {
        node.v4(&n.to_string()).await.unwrap();
    }
    assert_eq!(counting.counts().0, reads);
}

#[tokio::test]
async fn an_empty_block_of_an_unselected_pool_is_given_up() {
    let (_, store) = memory();
    let labelled = Pool {
        node_selector: Selector::parse("!has(off)").unwrap(),
        ..pool("p", "10.0.0.0/24", 28)
    };
    let cluster = Cluster::on(&store, vec![labelled]);
    let node = cluster.node("n");
    node.v4("a").await.unwrap();
    node.ipam.release("a").await.unwrap();
    node.ipam.set_node_labels([("off".to_owned(), String::new())].into());
    assert!(node.v4("b").await.is_err());
    assert_eq!(node.ipam.blocks().borrow().len(), 1, "an address rests");
    cluster.clock.advance(130);
    assert!(node.v4("b").await.is_err());
    node.blocks(0).await;
    assert_eq!(all(&*store).await.len(), 1, "only the node's record is left");
}

#[tokio::test]
async fn blocks_that_are_empty_and_more_than_a_spare_are_given_back() {
    let (_, store) = memory();
    let cluster = Cluster::on(&store, vec![pool("p", "10.0.0.0/24", 29)]);
    let node = cluster.node("n");
    for n in 0..31 {
        node.v4(&n.to_string()).await.unwrap();
    }
    node.blocks(5).await;
    for n in 0..31 {
        node.ipam.release(&n.to_string()).await.unwrap();
    }
    node.ipam.tend();
    assert_eq!(node.v4("stays").await.map(|_| node.ipam.blocks().borrow().len()), Ok(5));
    // Nothing is asked of it any more; its addresses have rested.
    cluster.clock.advance(121);
    node.ipam.tend();
    // The one in use, and one that is free.
    node.blocks(2).await;
    assert_eq!(consistent(&*store).await.len(), 1);
    for _ in 0..3 {
        node.ipam.tend();
        cluster.clock.advance(121);
    }
    node.v4("more").await.unwrap();
    assert_eq!(node.ipam.blocks().borrow().len(), 2, "none goes to and fro");
    // The pool cannot be read any more: nobody knows whose its blocks are.
    let other = vec![pool("other", "10.1.0.0/24", 29)];
    node.ipam.set_pools(Pools { known: other.clone(), unreadable: 1 });
    node.ipam.release("more").await.unwrap();
    cluster.clock.advance(121);
    node.v4("elsewhere").await.unwrap();
    node.ipam.tend();
    node.v4("elsewhere too").await.unwrap();
    assert_eq!(node.ipam.blocks().borrow().len(), 3);
    for handle in ["elsewhere", "elsewhere too"] {
        node.ipam.release(handle).await.unwrap();
    }
    // It is deleted: what is empty of it goes, what has pods stays.
    node.ipam.set_pools(other);
    let left = node.blocks(2).await;
    node.ipam.set_pools(Vec::new());
    node.ipam.release("stays").await.unwrap();
    cluster.clock.advance(121);
    assert!(node.v4("x").await.is_err());
    assert_eq!(**node.ipam.blocks().borrow(), left, "no pool at all: the list may not have come");
}
