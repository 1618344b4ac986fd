//! Allocators of several nodes on a real etcd, which is killed under them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ipam::store::Store;
use ipam::store::etcd::EtcdStore;
use ipam::{Error, Families, Live, StoreConfig};

mod common;
use common::cluster::{Cluster, consistent, pool};
use common::{Etcd, eventually};

/// The addresses that pods have now, of all nodes.
type Pods = Arc<Mutex<BTreeMap<IpAddr, String>>>;

fn arrive(pods: &Pods, address: IpAddr, handle: &str) {
    let before = pods.lock().unwrap().insert(address, handle.to_owned());
    assert_eq!(before, None, "{address} was given to {handle} too");
}

/// Adds and removes pods of one node until told to stop; returns those it leaves.
async fn churn(
    node: Arc<common::cluster::Node>,
    worker: usize,
    pods: Pods,
    stop: tokio_util::sync::CancellationToken,
) -> (BTreeSet<String>, usize, usize) {
    let (mut mine, mut done, mut failed) = (Vec::<(String, Vec<IpAddr>)>::new(), 0, 0);
    for n in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let handle = format!("{}.{worker}.{n}", node.name);
        match node.ipam.assign(node.request(&handle, Families::DUAL)).await {
            Ok(assignment) => {
                let ips: Vec<_> = assignment.ips().collect();
                ips.iter().for_each(|ip| arrive(&pods, *ip, &handle));
                mine.push((handle, ips));
                done += 1;
            }
            Err(Error::StoreUnavailable { .. }) => failed += 1,
            Err(error) => panic!("{handle}: {error}"),
        }
        // Some stay for a while, so that the blocks fill.
        if mine.len() > 6 {
            let (handle, ips) = mine.remove(0);
            for ip in ips {
                pods.lock().unwrap().remove(&ip);
            }
            // A failed release is the collector's.
            if node.ipam.release(&handle).await.is_err() {
                failed += 1;
            }
        }
    }
    (mine.into_iter().map(|(handle, _)| handle).collect(), done, failed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_twice_and_nothing_lost_while_etcd_is_killed() {
    let mut etcd = Etcd::start().await;
    let pools = vec![pool("four", "10.0.0.0/20", 27), pool("six", "fd00::/64", 123)];
    let mut cluster = Cluster::new(StoreConfig::Etcd(etcd.config()), pools);
    cluster.deadline = Duration::from_millis(1500);
    let nodes: Vec<_> = (0..4).map(|n| Arc::new(cluster.node(&format!("node{n}")))).collect();
    let (pods, stop) = (Pods::default(), tokio_util::sync::CancellationToken::new());
    let mut workers = Vec::new();
    for node in &nodes {
        for worker in 0..4 {
            let (pods, stop) = (pods.clone(), stop.clone());
            workers
                .push((node.name.clone(), tokio::spawn(churn(node.clone(), worker, pods, stop))));
        }
    }
    let busy = async |more: usize| {
        let seen: Vec<_> = nodes.iter().map(|node| node.ipam.epoch()).collect();
        eventually("every node goes on assigning", async || {
            let on = nodes.iter().zip(&seen).all(|(node, before)| {
                let passed = format!("{:?}", node.ipam.epoch());
                let before = format!("{before:?}");
                digits(&passed) >= digits(&before) + more
            });
            on.then_some(())
        })
        .await;
    };
    for _ in 0..3 {
        busy(50).await;
        etcd.kill();
        eventually("every node notices", async || {
            nodes.iter().all(|node| !node.ipam.status().ready).then_some(())
        })
        .await;
        etcd.run().await;
        eventually("every node is ready again", async || {
            nodes.iter().all(|node| node.ipam.status().ready).then_some(())
        })
        .await;
    }
    busy(50).await;
    stop.cancel();
    let (mut live, mut done, mut failed) = (BTreeMap::<String, BTreeSet<String>>::new(), 0, 0);
    for (name, worker) in workers {
        let (handles, some, not) = worker.await.unwrap();
        live.entry(name).or_default().extend(handles);
        done += some;
        failed += not;
    }
    assert!(done > 800, "{done} pods, {failed} failures");
    for node in &nodes {
        let proof = Live::handles(node.ipam.epoch(), live[&node.name].clone()).unwrap();
        node.ipam.collect(proof).await.unwrap();
    }
    // What is left in the store is exactly what pods have.
    let store = EtcdStore::new(&etcd.config()).unwrap();
    let held = consistent(&store).await;
    assert_eq!(held, *pods.lock().unwrap(), "{done} pods, {failed} failures");
    eprintln!("{done} pods, {failed} failures, {} left", held.len());
}

fn digits(text: &str) -> usize {
    text.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_away_fails_in_time_by_name_and_then_works_again() {
    let mut etcd = Etcd::stopped();
    let mut cluster =
        Cluster::new(StoreConfig::Etcd(etcd.config()), vec![pool("p", "10.0.0.0/24", 28)]);
    cluster.deadline = Duration::from_millis(700);
    // Opened while etcd is away.
    let node = cluster.node("n");
    for _ in 0..2 {
        let start = Instant::now();
        let error = node.v4("a").await.unwrap_err();
        assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
        assert!(matches!(error, Error::StoreUnavailable { .. }));
        assert!(error.to_string().contains(&etcd.endpoint()), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        // Second round: it was there in between.
        etcd.run().await;
        eventually("served", async || node.v4("b").await.ok()).await;
        etcd.kill();
        eventually("noticed", async || (!node.ipam.status().ready).then_some(())).await;
    }
    assert_eq!(node.ipam.blocks().borrow().len(), 1, "announced all the time");
    assert!(matches!(node.ipam.release("b").await, Err(Error::StoreUnavailable { .. })));
    etcd.run().await;
    // The release that gave up is done all the same.
    let store = EtcdStore::new(&etcd.config()).unwrap();
    eventually("released", async || consistent(&store).await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_is_refused_by_etcd_too() {
    let etcd = Etcd::start().await;
    let cluster =
        Cluster::new(StoreConfig::Etcd(etcd.config()), vec![pool("p", "10.0.0.0/24", 28)]);
    let (first, second) = (cluster.node("n"), cluster.node("n"));
    let (a, b) = tokio::join!(first.v4("a"), second.v4("b"));
    let refused = match (a, b) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused, Error::NodeTaken { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_many_nodes_never_meet_in_one_block() {
    let etcd = Etcd::start().await;
    let pools = vec![pool("p", "10.0.0.0/26", 30)];
    let cluster = Cluster::new(StoreConfig::Etcd(etcd.config()), pools).strict();
    // More nodes than blocks, all at once.
    let nodes: Vec<_> = (0..20).map(|n| cluster.node(&format!("node{n}"))).collect();
    let given = futures::future::join_all(nodes.iter().map(|node| node.v4(&node.name))).await;
    assert_eq!(given.iter().filter(|result| result.is_ok()).count(), 16);
    assert!(given.iter().flatten().collect::<BTreeSet<_>>().len() == 16);
    for result in given {
        if let Err(error) = result {
            assert!(matches!(error, Error::PoolExhausted { .. }), "{error}");
        }
    }
    let store: Arc<dyn Store> = Arc::new(EtcdStore::new(&etcd.config()).unwrap());
    assert_eq!(consistent(&*store).await.len(), 16);
}
