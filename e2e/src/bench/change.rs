//! A change of a NetworkPolicy, from the request to the end of the kernel's transaction.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, Patch, PatchParams};

use super::kit::{metric, millis, policy, rack};
use super::notices::{NEW_GENERATION, Notices, Topic};
use super::{Bench, Row, median, percentile};
use crate::cli::serving_pod;
use crate::cluster::Cluster;
use crate::lab::Lab;
use crate::progress::Progress;

pub(super) const BENCH: Bench = Bench { name: "cni-policy", body: run };

const NODE: &str = "node1";
const CHANGES: u16 = 200;
const PATIENCE: Duration = Duration::from_secs(10);

fn run(progress: &Progress) -> BoxFuture<'_, Result<Vec<Row>>> {
    async move {
        let lab = progress.step("a lab of two nodes", rack("policy", 2)).await?;
        let measured = progress.step("changes of a policy", measure(&lab)).await;
        lab.down().await?;
        measured
    }
    .boxed()
}

async fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let view = lab.view();
    let mut pods = Vec::new();
    for number in 0..20 {
        let node = &view.plan.topology.nodes[number % 2].name;
        let mut pod = serving_pod("default", &format!("bench-{number}"), node);
        let (key, value) = if number < 10 { ("app", "bench") } else { ("role", "client") };
        pod["metadata"]["labels"][key] = value.into();
        pods.push(pod);
    }
    try_join_all(pods.iter().map(|pod| view.run_pod(pod, PATIENCE))).await?;
    let mut notices = Notices::open(&view.place.netns(NODE), Topic::Rulesets).await?;
    change(&view.cluster, 0).await?;
    notices.wait(NEW_GENERATION, 1, PATIENCE).await?;

    let sums = ["felix_update_to_kernel_seconds_sum", "felix_update_to_kernel_seconds_count"];
    let before = [metric(view, NODE, sums[0]).await?, metric(view, NODE, sums[1]).await?];
    let (mut kernel, mut answer) = (Vec::new(), Vec::new());
    for number in 1..=CHANGES {
        notices.clear()?;
        let start = Instant::now();
        let answered = async {
            change(&view.cluster, number).await?;
            Ok(start.elapsed())
        };
        let written = notices.wait(NEW_GENERATION, 1, PATIENCE);
        let (answered, written) = futures::future::try_join(answered, written).await?;
        answer.push(millis(answered));
        kernel.push(millis(written - start));
    }
    let spent = metric(view, NODE, sums[0]).await? - before[0];
    let count = metric(view, NODE, sums[1]).await? - before[1];

    let source = match &view.cluster {
        Cluster::Kubernetes(_) => "API server's answer alone",
        Cluster::Directory(_) => "writing the file alone",
    };
    let whole = "policy change, from the request to the kernel";
    let p50 = Row::new(whole, "caracal", "p50", "ms", median(&kernel)?);
    let p99 = Row::new(whole, "caracal", "p99", "ms", percentile(&kernel, 99)?);
    let own = "of that, the agent: from the update to the kernel's answer";
    Ok(vec![
        p50.against(source, median(&answer)?).below(20.0),
        p99.against(source, percentile(&answer, 99)?),
        Row::new(own, "caracal", "mean", "ms", spent * 1e3 / count),
    ])
}

/// Another port is allowed.
async fn change(cluster: &Cluster, number: u16) -> Result<()> {
    let policy = policy("bench", 8000 + number);
    match cluster {
        // Not by way of discovery, which would be part of what is measured.
        Cluster::Kubernetes(kubernetes) => {
            let api: Api<NetworkPolicy> = Api::namespaced(kubernetes.client().clone(), "default");
            let params = PatchParams::apply("cargo-lab").force();
            api.patch("bench", &params, &Patch::Apply(&policy)).await?;
            Ok(())
        }
        Cluster::Directory(_) => cluster.apply(&policy).await,
    }
}
