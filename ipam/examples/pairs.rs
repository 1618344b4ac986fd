//! Measures assignments and releases against an etcd, with etcd's own put in the same run.
//!
//! `cargo run --release -p ipam --example pairs -- http://127.0.0.1:2379 [SECONDS]`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measuring program fails by panicking"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::selector::Selector;
use ipam::store::etcd::EtcdStore;
use ipam::store::{Store, Txn};
use ipam::{AllowedUse, AssignRequest, EtcdConfig, Families, Ipam, Options, Pool, StoreConfig};

/// Runs `work` on `tasks` tasks for `span`; prints the rate and the latencies of what it timed.
async fn measure<F, W>(what: &str, tasks: usize, span: Duration, work: W)
where
    W: Fn(usize, u64) -> F,
    F: Future<Output = Duration> + Send + 'static,
{
    let start = Instant::now();
    let mut running = Vec::new();
    for task in 0..tasks {
        let mut times = Vec::new();
        let work = &work;
        running.push(async move {
            let mut n = 0;
            while start.elapsed() < span {
                times.push(tokio::spawn(work(task, n)).await.unwrap());
                n += 1;
            }
            times
        });
    }
    let times = futures::future::join_all(running).await;
    let took = start.elapsed();
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    times.sort();
    let at = |part: f64| {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a percentile"
        )]
        let index = (times.len() as f64 * part) as usize;
        times.get(index.min(times.len() - 1)).copied().unwrap()
    };
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let rate = times.len() as f64 / took.as_secs_f64();
    println!("{what:<28} {tasks:>3} {rate:>9.0}/s  p50 {:?}  p99 {:?}", at(0.5), at(0.99));
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let endpoint = arguments.next().unwrap_or_else(|| "http://127.0.0.1:2379".to_owned());
    let seconds = arguments.next().map_or(3, |text| text.parse().unwrap());
    let span = Duration::from_secs(seconds);
    let config = EtcdConfig::new([endpoint]);
    let store = Arc::new(EtcdStore::new(&config).unwrap());
    let pool = Pool {
        name: "p".to_owned(),
        cidr: "10.0.0.0/10".parse().unwrap(),
        block_size: 26,
        disabled: false,
        node_selector: Selector::parse("all()").unwrap(),
        namespace_selector: None,
        allowed_uses: vec![AllowedUse::Workload],
        manual: false,
    };
    let directory = tempfile::tempdir().unwrap();
    let node = format!("node{}", std::process::id());
    let options = Options::new(&node, StoreConfig::Etcd(config), directory.path());
    let ipam = Ipam::open(options).unwrap();
    ipam.set_pools(vec![pool]);
    // A block that is as full as usual.
    for n in 0..40 {
        let request = AssignRequest::pod(&format!("{node}.stay{n}"), "d", "p", Families::V4);
        ipam.assign(request).await.unwrap();
    }
    for tasks in [1, 16, 64] {
        let put = |task: usize, n: u64| {
            let (store, key) = (store.clone(), format!("/bench/{task}/{}", n % 64));
            async move {
                let start = Instant::now();
                store.txn(Txn::default().put(key, vec![b'x'; 256])).await.unwrap();
                start.elapsed()
            }
        };
        measure("etcd put 256 B", tasks, span, put).await;
        let pair = |task: usize, n: u64| {
            let (ipam, handle) = (ipam.clone(), format!("{node}.{tasks}.{task}.{n}"));
            async move {
                let request = AssignRequest::pod(&handle, "default", "pod", Families::V4);
                let start = Instant::now();
                ipam.assign(request).await.unwrap();
                let took = start.elapsed();
                ipam.release(&handle).await.unwrap();
                took
            }
        };
        measure("assign (of assign+release)", tasks, span, pair).await;
    }
    let blocks = ipam.status().blocks.len();
    println!("{blocks} blocks");
    ipam.close().await;
}
