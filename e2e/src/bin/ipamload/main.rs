//! `ipamload`: nodes that ask for addresses as fast as they get them, and etcd asked for the same
//! number of plain writes.
//!
//! Every workload is measured as its twin of etcd alone is, over one connection for each node. A
//! node's clock runs five thousand times as fast, so that an address given back has rested within the
//! run (120 s of the node's are 24 ms) and a node's blocks suffice for all of it, as they do in a cluster:
//! 20 blocks of 64 addresses, Calico's limit, turn over 53,000 times a second then. Who asks is a task of
//! its own, as each request is in the agent.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use api::selector::Selector;
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use futures::future::try_join_all;
use ipam::allocator::Mode;
use ipam::{
    AllowedUse, AssignRequest, EtcdConfig, Families, Ipam, IpamConfig, Options, Pool, StoreConfig,
};
use serde_json::{Value, json};

const USAGE: &str = "\
Usage: ipamload ENDPOINT DIRECTORY WORKLOAD     measures, as JSON
Workloads: put-alone txn-alone put-16 put-64 pairs-alone pairs-16 pairs-64-nodes claims
           local-alone local-16 local-64-nodes
";

/// Of a node's clock, for each second.
const HASTE: u32 = 5000;
/// What is written where etcd is alone: as much as a block of 64 addresses with some in use.
const VALUE: [u8; 2000] = [b'x'; 2000];
/// No request waits longer.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match answer(&words).await {
        Ok(value) => match writeln!(std::io::stdout().lock(), "{value}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "ipamload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn answer(words: &[String]) -> Result<Value> {
    let [endpoint, directory, workload] = words else { bail!("three words are needed\n{USAGE}") };
    let load = Load { endpoint, directory: directory.as_ref(), workload };
    let done = match workload.as_str() {
        "put-alone" => load.puts(1, 1000).await?,
        "put-16" => load.puts(16, 500).await?,
        "put-64" => load.puts(64, 100).await?,
        "txn-alone" => load.transactions(500).await?,
        "pairs-alone" => load.pairs(Answer::Store, 1, 1, 500).await?,
        "pairs-16" => load.pairs(Answer::Store, 1, 16, 500).await?,
        "pairs-64-nodes" => load.pairs(Answer::Store, 64, 1, 50).await?,
        "local-alone" => load.pairs(Answer::OwnLog, 1, 1, 1000).await?,
        "local-16" => load.pairs(Answer::OwnLog, 1, 16, 1000).await?,
        "local-64-nodes" => load.pairs(Answer::OwnLog, 64, 1, 100).await?,
        "claims" => load.claims(300).await?,
        other => bail!("there is no workload {other:?}\n{USAGE}"),
    };
    Ok(done.to_json())
}

/// What was done: how long each operation took, and all of them together.
#[derive(Default)]
struct Done {
    /// Seconds of each ADD, write or claim.
    first: Vec<f64>,
    /// Seconds of each DEL.
    second: Vec<f64>,
    wall: f64,
}

impl Done {
    fn to_json(&self) -> Value {
        json!({ "first_s": self.first, "second_s": self.second, "wall_s": self.wall })
    }

    fn of(parts: Vec<Self>, start: Instant) -> Self {
        let wall = start.elapsed().as_secs_f64();
        let mut all = Self { wall, ..Self::default() };
        for part in parts {
            all.first.extend(part.first);
            all.second.extend(part.second);
        }
        all
    }
}

/// What has an address before a pod gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Store,
    OwnLog,
}

async fn timed<T>(times: &mut Vec<f64>, work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let answer = work.await;
    times.push(start.elapsed().as_secs_f64());
    answer
}

struct Load<'a> {
    endpoint: &'a str,
    /// Where nodes keep their state.
    directory: &'a Path,
    /// Nodes are named by it: those of another one have another state.
    workload: &'a str,
}

impl Load<'_> {
    /// Plain writes of etcd: so many at once, each to keys of its own.
    async fn puts(&self, at_once: usize, each: usize) -> Result<Done> {
        let client = Client::connect([self.endpoint], None).await?;
        client.kv_client().put("warm", "up", None).await?;
        let start = Instant::now();
        let one = |task: usize| {
            let mut kv = client.kv_client();
            async move {
                let mut done = Done::default();
                for _ in 0..each {
                    timed(&mut done.first, kv.put(format!("put/{task}"), VALUE, None)).await?;
                }
                anyhow::Ok(done)
            }
        };
        Ok(Done::of(try_join_all((0..at_once).map(one)).await?, start))
    }

    /// Transactions as a claim is one: two keys that are not there yet.
    async fn transactions(&self, count: usize) -> Result<Done> {
        let mut kv = Client::connect([self.endpoint], None).await?.kv_client();
        kv.put("warm", "up", None).await?;
        let mut done = Done::default();
        let start = Instant::now();
        for n in 0..count {
            let keys = [format!("txn/a/{n}"), format!("txn/b/{n}")];
            let absent = |key: &String| Compare::create_revision(&**key, CompareOp::Equal, 0);
            let put = |key: &String| TxnOp::put(&**key, VALUE, None);
            let txn = Txn::new()
                .when(keys.iter().map(absent).collect::<Vec<_>>())
                .and_then(keys.iter().map(put).collect::<Vec<_>>());
            let answer = timed(&mut done.first, kv.txn(txn)).await?;
            ensure!(answer.succeeded(), "{keys:?} were there");
        }
        done.wall = start.elapsed().as_secs_f64();
        Ok(done)
    }

    fn node(&self, at: usize, cidr: &str, block_size: u8, answer: Answer) -> Result<Ipam> {
        let name = &format!("{}-{at}", self.workload);
        let began = SystemTime::now();
        let clock = Arc::new(move || {
            let passed = began.elapsed().unwrap_or_default();
            began + passed * HASTE
        });
        let options = Options {
            node_labels: Some(BTreeMap::new()),
            deadline: DEADLINE,
            clock,
            local_first: answer == Answer::OwnLog,
            own_thread: true,
            ..Options::new(
                name,
                StoreConfig::Etcd(EtcdConfig::new([self.endpoint])),
                self.directory.join(name),
            )
        };
        let ipam = Ipam::open(options)?;
        let pool = Pool {
            name: "bench".into(),
            cidr: cidr.parse()?,
            block_size,
            disabled: false,
            node_selector: Selector::parse("all()")?,
            namespace_selector: None,
            allowed_uses: vec![AllowedUse::Workload],
            manual: false,
        };
        ipam.set_pools(vec![pool]);
        Ok(ipam)
    }

    /// ADD and DEL, one after the other, by so many at once on each of so many nodes. Of a cluster it
    /// ends when etcd has all of it.
    async fn pairs(
        &self,
        answer: Answer,
        nodes: usize,
        at_once: usize,
        each: usize,
    ) -> Result<Done> {
        let node = |at| self.node(at, "10.0.0.0/12", 26, answer);
        let nodes: Vec<Ipam> = (0..nodes).map(node).collect::<Result<_>>()?;
        if answer == Answer::OwnLog {
            for node in &nodes {
                node.set_config(Some(IpamConfig {
                    strict_affinity: true,
                    ..IpamConfig::default()
                }))?;
            }
        }
        // Its first block is not what is measured.
        try_join_all(
            nodes.iter().enumerate().map(async |(at, node)| {
                pair(node, &format!("warm-{at}"), &mut Done::default()).await
            }),
        )
        .await?;
        let mode = match answer {
            Answer::Store => Mode::Synchronous,
            Answer::OwnLog => Mode::LocalFirst,
        };
        for node in &nodes {
            let in_force = async {
                node.watch_status().wait_for(|status| status.mode == mode).await.map(drop)
            };
            tokio::time::timeout(DEADLINE, in_force)
                .await
                .context("the mode is not in force")??;
        }
        let start = Instant::now();
        let mut tasks = Vec::new();
        for (at, task) in (0..nodes.len()).flat_map(|at| (0..at_once).map(move |task| (at, task))) {
            let node = nodes[at].clone();
            tasks.push(tokio::spawn(async move {
                let mut done = Done::default();
                for n in 0..each {
                    pair(&node, &format!("pod-{at}-{task}-{n}"), &mut done).await?;
                }
                anyhow::Ok(done)
            }));
        }
        let parts: Result<Vec<Done>> = try_join_all(tasks).await?.into_iter().collect();
        if nodes.len() > 1 {
            for node in &nodes {
                let mut status = node.watch_status();
                let followed = status.wait_for(|status| status.behind == 0);
                tokio::time::timeout(DEADLINE, followed).await.context("etcd lacks some")??;
            }
        }
        let done = Done::of(parts?, start);
        try_join_all(nodes.into_iter().map(async |node| {
            node.close().await;
            anyhow::Ok(())
        }))
        .await?;
        Ok(done)
    }

    /// Blocks of one address each: every ADD needs one more.
    async fn claims(&self, count: usize) -> Result<Done> {
        let node = self.node(0, "10.16.0.0/12", 32, Answer::Store)?;
        // As many blocks as it likes, which is a setting of strict affinity.
        let max_blocks_per_host = u32::MAX;
        let config =
            IpamConfig { strict_affinity: true, max_blocks_per_host, ..IpamConfig::default() };
        node.set_config(Some(config))?;
        let mut done = Done::default();
        let start = Instant::now();
        for n in 0..count {
            let handle = format!("claim-{n}");
            let request = AssignRequest::pod(&handle, "bench", &handle, Families::V4);
            timed(&mut done.first, node.assign(request)).await.context(handle)?;
        }
        done.wall = start.elapsed().as_secs_f64();
        node.close().await;
        Ok(done)
    }
}

/// One pod comes and goes.
async fn pair(node: &Ipam, handle: &str, done: &mut Done) -> Result<()> {
    let request = AssignRequest::pod(handle, "bench", handle, Families::V4);
    timed(&mut done.first, node.assign(request)).await.context("ADD")?;
    timed(&mut done.second, node.release(handle)).await.context("DEL")?;
    Ok(())
}
