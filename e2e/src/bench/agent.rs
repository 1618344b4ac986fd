//! What the agent costs: memory and CPU at rest, alone and with ten thousand pods of other nodes
//! in its source.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::kit::{metric, policy, rack};
use super::{Bench, Row};
use crate::cli::serving_pod;
use crate::cluster::Cluster;
use crate::lab::{Lab, View};
use crate::progress::Progress;
use crate::wait;

pub(super) const BENCH: Bench = Bench { name: "cni-agent", body: run };

const NODE: &str = "node1";
const REMOTE_NODE: &str = "remote";
const REMOTE_PODS: usize = 10_000;
/// How long rest is looked at.
const REST: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(300);
/// Requests to the API server at a time.
const PARALLEL: usize = 32;

fn run(progress: &Progress) -> BoxFuture<'_, Result<Vec<Row>>> {
    async move {
        let lab = progress.step("a lab of one node", rack("agent", 1)).await?;
        let measured = measure(&lab, progress).await;
        lab.down().await?;
        measured
    }
    .boxed()
}

async fn measure(lab: &Lab, progress: &Progress) -> Result<Vec<Row>> {
    let view = lab.view();
    for number in 0..2 {
        let pod = serving_pod("default", &format!("local-{number}"), NODE);
        view.run_pod(&pod, Duration::from_secs(60)).await?;
    }
    // So that the other nodes' pods are of interest to policy here.
    view.cluster.apply(&policy("bench", 8080)).await?;
    let mut rows = Vec::new();
    let rest = progress.step("at rest", rest(view)).await?;
    rows.extend(rest.rows("agent at rest, 2 pods", Some(30.0)));
    let before = metric(view, NODE, "process_cpu_seconds").await?;
    progress.step(&format!("{REMOTE_PODS} pods of another node"), remote_pods(view)).await?;
    let learning = metric(view, NODE, "process_cpu_seconds").await? - before;
    let many = self::rest(view);
    let rest = progress.step(&format!("at rest with {REMOTE_PODS} remote pods"), many).await?;
    let workload = format!("agent with {REMOTE_PODS} remote pods in its source");
    rows.extend(rest.rows(&workload, None));
    let workload = format!("agent learns {REMOTE_PODS} remote pods");
    rows.push(Row::new(&workload, "caracal", "CPU", "s", learning));
    Ok(rows)
}

/// What a process that does nothing costs.
struct Rest {
    /// Resident memory, in MB.
    memory: f64,
    /// Of one core, in percent.
    cpu: f64,
}

async fn rest(view: &View) -> Result<Rest> {
    let start = Instant::now();
    let before = metric(view, NODE, "process_cpu_seconds").await?;
    tokio::time::sleep(REST).await;
    let spent = metric(view, NODE, "process_cpu_seconds").await? - before;
    let memory = metric(view, NODE, "process_resident_memory_bytes").await?;
    ensure!(memory > 0.0, "felix does not tell how much memory it has");
    Ok(Rest { memory: memory / 1e6, cpu: spent / start.elapsed().as_secs_f64() * 100.0 })
}

impl Rest {
    fn rows(&self, workload: &str, limit: Option<f64>) -> [Row; 2] {
        let memory = Row::new(workload, "caracal", "RSS", "MB", self.memory);
        let memory = match limit {
            Some(limit) => memory.below(limit),
            None => memory,
        };
        [memory, Row::new(workload, "caracal", "CPU", "% of a core", self.cpu)]
    }
}

/// Creates the pods and waits until the agent knows them.
async fn remote_pods(view: &View) -> Result<()> {
    let known = "felix_source_objects{kind=\"Pod\"}";
    let before = metric(view, NODE, known).await?;
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": REMOTE_NODE } });
    view.cluster.apply(&node).await?;
    match &view.cluster {
        Cluster::Kubernetes(cluster) => {
            let api: Api<Pod> = Api::namespaced(cluster.client().clone(), "default");
            let create = |number: usize| {
                let api = api.clone();
                async move {
                    let pod = remote_pod(number);
                    let params = PostParams::default();
                    api.create(&params, &serde_json::from_value(pod.clone())?).await?;
                    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                    let status = Patch::Merge(json!({ "status": pod["status"] }));
                    api.patch_status(name, &PatchParams::default(), &status).await?;
                    anyhow::Ok(())
                }
            };
            stream::iter(0..REMOTE_PODS)
                .map(create)
                .buffer_unordered(PARALLEL)
                .try_collect::<Vec<()>>()
                .await?;
        }
        // One file: a folder of so many would measure the lab's own kubelet.
        Cluster::Directory(directory) => {
            let pods: Vec<Value> = (0..REMOTE_PODS).map(remote_pod).collect();
            let text = serde_json::to_string(&json!({
                "apiVersion": "v1", "kind": "List", "items": pods,
            }))?;
            std::fs::write(directory.path().join("remote.draft"), text)?;
            std::fs::rename(
                directory.path().join("remote.draft"),
                directory.path().join("remote.yaml"),
            )?;
        }
    }
    wait::until("felix to know the pods", PATIENCE, || async {
        let now = metric(view, NODE, known).await.context("felix's metrics")?;
        ensure!(now - before >= REMOTE_PODS as f64, "{now} pods are known");
        Ok(())
    })
    .await
}

/// A running pod of a node that is not there.
fn remote_pod(number: usize) -> Value {
    let (high, low) = (number / 250, number % 250 + 1);
    let (v4, v6) = (format!("10.245.{high}.{low}"), format!("fd00:10:245::{high:x}:{low:x}"));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("remote-{number}"), "namespace": "default",
            "labels": {
                "app": format!("app-{}", number % 100),
                "role": if number.is_multiple_of(10) { "client" } else { "server" },
            },
        },
        "spec": {
            "nodeName": REMOTE_NODE,
            "containers": [{ "name": "main", "image": "none" }],
        },
        "status": {
            "phase": "Running", "podIP": v4, "podIPs": [{ "ip": v4 }, { "ip": v6 }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    })
}
