//! CNI ADD and DEL, the plugin's process included, beside Debian's `ptp` with `host-local`.
//!
//! The two take turns in the same run on the same node. Ours commits policy: the pods are selected
//! by one in each direction. `ptp` has none to commit, and keeps addresses in files.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use super::kit::{metric, millis, policy, rack, unmanaged_pod};
use super::{Bench, Row, median, percentile};
use crate::cni::{Attachment, Cache, NetworkList, Runtime};
use crate::kubelet::attachment;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::progress::Progress;

pub(super) const BENCH: Bench = Bench { name: "cni-add", body: run };

const NODE: &str = "node1";
const ROUNDS: usize = 7;
/// Pods, and namespaces for them.
const PODS: usize = 160;
/// ADDs one after another, in a round.
const ALONE: usize = 40;
/// All at once.
const BURST: usize = 100;
/// A kubelet's parallelism, roughly.
const PARALLEL: usize = 16;

const STOCK: &str = "ptp + host-local";

/// One of the two.
struct Contender {
    name: &'static str,
    runtime: Runtime,
    network: NetworkList,
    samples: Samples,
}

/// Milliseconds, and pods a second.
#[derive(Default)]
struct Samples {
    alone: Vec<f64>,
    del_alone: Vec<f64>,
    burst: Vec<f64>,
    rate: Vec<f64>,
    del_rate: Vec<f64>,
}

fn run(progress: &Progress) -> BoxFuture<'_, Result<Vec<Row>>> {
    async move {
        let lab = progress.step("a lab of one node", rack("add", 1)).await?;
        let measured = measure(&lab, progress).await;
        let measured = measured.map_err(|error| error.context(lab.diagnostics()));
        lab.down().await?;
        measured
    }
    .boxed()
}

async fn measure(lab: &Lab, progress: &Progress) -> Result<Vec<Row>> {
    let places = progress.step(&format!("{PODS} pods to be"), places(lab)).await?;
    let node = lab.kubelet()?.runtime(NODE)?;
    let ours = Contender {
        name: "caracal",
        runtime: node.cni.clone(),
        network: node.network.clone(),
        samples: Samples::default(),
    };
    let mut contenders = [ours, stock(lab)?];
    for contender in &mut contenders {
        // Blocks, files and caches are there afterwards.
        contender.add_and_delete(&places[..ALONE], 1).await?;
    }
    let mut stages = vec![Vec::new(); STAGES.len()];
    for round in 1..=ROUNDS {
        let turn = async {
            // Whoever is first in this round is second in the next.
            contenders.reverse();
            for contender in &mut contenders {
                let attachments = with_new_containers(&places[..ALONE]);
                let before = spent(lab).await?;
                let adds = contender.each(&attachments, 1, true).await;
                let after = spent(lab).await?;
                let dels = contender.each(&attachments, 1, false).await?;
                if contender.name != STOCK {
                    for (stage, (before, after)) in stages.iter_mut().zip(before.iter().zip(after))
                    {
                        stage.push((after - before) * 1e3 / ALONE as f64);
                    }
                }
                contender.samples.alone.extend(adds?.each);
                contender.samples.del_alone.extend(dels.each);
                let (adds, dels) = contender.add_and_delete(&places, PARALLEL).await?;
                contender.samples.rate.push(PODS as f64 / adds.all.as_secs_f64());
                contender.samples.del_rate.push(PODS as f64 / dels.all.as_secs_f64());
                let (adds, _) = contender.add_and_delete(&places[..BURST], BURST).await?;
                contender.samples.burst.extend(adds.each);
            }
            anyhow::Ok(())
        };
        progress.step(&format!("round {round} of {ROUNDS}"), turn).await?;
    }
    contenders.sort_by_key(|contender| contender.name == STOCK);
    let [ours, stock] = &contenders;
    rows(&ours.samples, &stock.samples, &stages)
}

fn rows(ours: &Samples, stock: &Samples, stages: &[Vec<f64>]) -> Result<Vec<Row>> {
    let row = |workload: &str, figure: &str, unit: &str, ours: f64, stock: f64| {
        Row::new(workload, "caracal", figure, unit, ours).against(STOCK, stock)
    };
    let both = |workload: &str, ours: &[f64], stock: &[f64]| -> Result<[Row; 2]> {
        Ok([
            row(workload, "p50", "ms", median(ours)?, median(stock)?),
            row(workload, "p99", "ms", percentile(ours, 99)?, percentile(stock, 99)?),
        ])
    };
    let [p50, p99] = both("CNI ADD, one after another", &ours.alone, &stock.alone)?;
    let mut rows = vec![p50.below(3.0), p99];
    rows.extend(both("CNI DEL, one after another", &ours.del_alone, &stock.del_alone)?);
    let at_once = format!("CNI ADD, {BURST} at once");
    rows.extend(both(&at_once, &ours.burst, &stock.burst)?);
    let parallel = format!("CNI ADD, {PARALLEL} at a time");
    let rate = row(&parallel, "rate", "pods/s", median(&ours.rate)?, median(&stock.rate)?);
    rows.push(rate.at_least(300.0));
    let parallel = format!("CNI DEL, {PARALLEL} at a time");
    let (own, other) = (median(&ours.del_rate)?, median(&stock.del_rate)?);
    rows.push(row(&parallel, "rate", "pods/s", own, other));
    for ((stage, _), spent) in STAGES.iter().zip(stages) {
        let workload = format!("ADD, one after another: {stage}");
        rows.push(Row::new(&workload, "caracal", "mean", "ms", median(spent)?));
    }
    // The last stages are the kernel's.
    let rounds = 0..stages[0].len();
    let kernel: Vec<f64> =
        rounds.map(|round| stages[KERNEL..].iter().map(|stage| stage[round]).sum()).collect();
    let workload = "ADD, one after another: the kernel in all";
    rows.push(Row::new(workload, "caracal", "mean", "ms", median(&kernel)?).below(0.7));
    Ok(rows)
}

/// Creates the pods' namespaces and objects, and the policy that selects them.
async fn places(lab: &Lab) -> Result<Vec<Attachment>> {
    let view = lab.view();
    view.cluster.apply(&policy("bench", 8080)).await?;
    // The default of 20 blocks is less than what rests here after its release.
    let configuration = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration",
        "metadata": { "name": "default" },
        "spec": { "maxBlocksPerHost": 1000, "autoAllocateBlocks": true, "strictAffinity": false },
    });
    view.cluster.apply(&configuration).await?;
    let one = |number: usize| async move {
        let name = format!("bench-{number}");
        view.cluster.apply(&unmanaged_pod(&name, NODE)).await?;
        let netns = view.place.netns(&name);
        lab.record().create_namespace(&netns).await?;
        anyhow::Ok((name, netns))
    };
    let made: Vec<(String, Netns)> =
        stream::iter(0..PODS).map(one).buffered(8).try_collect().await?;
    let pods = view.cluster.pods().await?;
    let attach = |(name, netns): (String, Netns)| {
        let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(&name));
        let pod = pod.with_context(|| format!("pod {name} is not there"))?;
        // The container's ID is new for every ADD.
        anyhow::Ok(attachment(pod, "", &netns))
    };
    made.into_iter().map(attach).collect()
}

/// Debian's plugins, with as many families.
fn stock(lab: &Lab) -> Result<Contender> {
    let directory = lab.view().place.directory_of(NODE).join("stock");
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "stock",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "dataDir": directory.join("ipam"),
                "ranges": [[{ "subnet": "10.99.0.0/16" }], [{ "subnet": "fd00:99::/64" }]],
            },
        }],
    });
    let node = lab.kubelet()?.runtime(NODE)?;
    Ok(Contender {
        name: STOCK,
        runtime: Runtime { cache: Cache::at(&directory.join("cache")), ..node.cni.clone() },
        network: NetworkList::parse(&list.to_string())?,
        samples: Samples::default(),
    })
}

/// What an ADD waits for, and the metric that counts its seconds. The agent's own part contains the
/// others.
const STAGES: [(&str, &str); 5] = [
    ("the agent, from the request to the answer", "felix_cni_request_seconds_sum{command=\"ADD\""),
    ("etcd", "ipam_assign_seconds_sum"),
    ("policy in the kernel", "felix_kernel_apply_seconds_sum{object=\"nftables\"}"),
    ("route", "felix_kernel_apply_seconds_sum{object=\"route\"}"),
    ("link", "felix_kernel_apply_seconds_sum{object=\"link\"}"),
];
/// Where the kernel's begin.
const KERNEL: usize = 2;

/// Seconds spent so far in each stage.
async fn spent(lab: &Lab) -> Result<[f64; STAGES.len()]> {
    let mut seconds = [0.0; STAGES.len()];
    for (spent, (_, prefix)) in seconds.iter_mut().zip(STAGES) {
        *spent = metric(lab.view(), NODE, prefix).await?;
    }
    Ok(seconds)
}

/// How long a number of calls took: each in milliseconds, and all.
struct Times {
    each: Vec<f64>,
    all: Duration,
}

/// The places, each with a new container.
fn with_new_containers(places: &[Attachment]) -> Vec<Attachment> {
    let fresh = |place: &Attachment| {
        let container_id =
            format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        Attachment { container_id, ..place.clone() }
    };
    places.iter().map(fresh).collect()
}

impl Contender {
    /// ADDs every place, then DELs every one, so many at a time.
    async fn add_and_delete(
        &self,
        places: &[Attachment],
        at_once: usize,
    ) -> Result<(Times, Times)> {
        let attachments = with_new_containers(places);
        let adds = self.each(&attachments, at_once, true).await;
        // What was added goes, also when something was not.
        let dels = self.each(&attachments, at_once, false).await;
        Ok((adds?, dels?))
    }

    async fn each(&self, all: &[Attachment], at_once: usize, add: bool) -> Result<Times> {
        let call = async |attachment: &Attachment| {
            let start = Instant::now();
            if add {
                self.runtime.add(&self.network, attachment).await.map(drop)?;
            } else {
                self.runtime.delete(&self.network, attachment).await?;
            }
            anyhow::Ok(millis(start.elapsed()))
        };
        let start = Instant::now();
        let done: Vec<Result<f64>> = if at_once >= all.len() {
            join_all(all.iter().map(call)).await
        } else {
            stream::iter(all).map(call).buffer_unordered(at_once).collect().await
        };
        let all = start.elapsed();
        let each: Vec<f64> =
            done.into_iter().collect::<Result<_>>().with_context(|| self.name.to_owned())?;
        ensure!(!each.is_empty(), anyhow!("{}: no calls", self.name));
        Ok(Times { each, all })
    }
}
