//! DEL gives everything back.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::kernel::KernelState;
use super::kit::{POD, Scope, expect_empty};
use super::{CALM, Test};
use crate::lab::Lab;
use crate::{process, wait};

pub(super) const TESTS: &[Test] = &[
    Test { name: "teardown::a_hundred_pods_leave_nothing", bed: &CALM, body: hundred },
    Test { name: "teardown::check_and_gc_tell_what_is_there", bed: &CALM, body: check_and_gc },
];

/// What there is on a node: links, routes, nftables elements, the agent's files.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    links: BTreeSet<String>,
    kernel: KernelState,
    files: BTreeSet<String>,
}

async fn traces(lab: &Lab, node: &str) -> Result<Traces> {
    let place = &lab.view().place;
    let netns = place.netns(node);
    let text = process::output("ip", ["-n", netns.name(), "-j", "link", "show"]).await?;
    let links: Vec<Value> = serde_json::from_str(&text)?;
    let links = links.iter().filter_map(|link| link["ifname"].as_str().map(str::to_owned));
    let mut files = BTreeSet::new();
    let mut folders =
        vec![place.directory_of(node).join("state"), place.directory_of(node).join("run")];
    folders.push(place.directory_of(node).join("cni/cache"));
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            files.insert(path.display().to_string());
        }
    }
    // The cache's folder itself is made with the first pod.
    files.retain(|file| !file.ends_with("/cache"));
    Ok(Traces {
        links: links.collect(),
        kernel: KernelState::of(&netns).await?.without_blocks(),
        files,
    })
}

/// What is recorded as held, in etcd itself.
async fn handles(lab: &Lab) -> Result<Vec<String>> {
    let etcd = lab.etcd.as_ref().context("this lab has no etcd")?;
    let netns = lab.view().place.netns("control");
    let endpoint = format!("--endpoints={}", etcd.endpoint());
    let prefix = "/calico/ipam/v2/handle/";
    let args = ["etcdctl", &endpoint, "get", "--prefix", "--keys-only", prefix];
    let text = super::kernel::inside(&netns, &args).await?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn hundred(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let nodes = ["node1", "node2"];
        let mut scope = Scope::new(lab.view(), "teardown").await?;
        // The first pods of a node bring blocks, which stay.
        for node in nodes {
            let first = [scope.pod(&format!("first-{node}"), node, &[])];
            scope.run(&first).await?;
            lab.view().end_pod(&first[0], POD).await?;
            expect_empty(lab.view(), node).await?;
        }
        let mut before = Vec::new();
        for node in nodes {
            before.push(traces(lab, node).await?);
        }
        let deny = serde_json::json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "name": "deny" },
            "spec": { "podSelector": {}, "policyTypes": ["Ingress", "Egress"] },
        });
        scope.apply(deny.clone()).await?;
        let pods: Vec<Value> =
            (0..100).map(|n| scope.pod(&format!("pod-{n}"), nodes[n % 2], &[])).collect();
        scope.run(&pods).await?;
        ensure!(traces(lab, "node1").await? != before[0], "a hundred pods left no trace at all");
        ensure!(handles(lab).await?.len() >= 100, "the store has not a handle for each pod");
        scope.end().await?;
        let left = handles(lab).await?;
        ensure!(left.is_empty(), "the store still has {left:?}");
        for (node, before) in nodes.iter().zip(&before) {
            expect_empty(lab.view(), node).await?;
            wait::until(&format!("nothing left on {node}"), Duration::from_secs(20), || async {
                let after = traces(lab, node).await?;
                ensure!(after.links == before.links, "links {:?}", after.links);
                ensure!(after.files == before.files, "files {:?}", after.files);
                before.kernel.expect_same(&after.kernel, "over a hundred pods")
            })
            .await?;
        }
        Ok(())
    }
    .boxed()
}

/// CHECK succeeds for a pod that is whole and fails when its route is gone; GC removes what the
/// runtime no longer has; STATUS says that the node can take pods.
fn check_and_gc(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "teardown-gc").await?;
        let wanted = [scope.pod("whole", "node3", &[])];
        let pods = scope.run(&wanted).await?;
        let node = lab.kubelet()?.runtime("node3")?;
        node.cni.status(&node.network).await?;
        let versions = node.cni.versions("caracal").await?;
        ensure!(versions.iter().any(|version| version == "1.1.0"), "VERSION: {versions:?}");
        let attachments = node.cni.cache.attachments(&node.network)?;
        ensure!(attachments.len() == 1, "{attachments:?}");
        let whole = &attachments[0];
        node.cni.check(&node.network, whole).await?;

        let address = crate::lab::pod_addresses(&pods[0])[0];
        let netns = view.place.netns("node3");
        let route = process::output(
            "ip",
            ["-n", netns.name(), "-j", "route", "show", &address.to_string()],
        )
        .await?;
        let route: Value = serde_json::from_str(&route)?;
        let device = route[0]["dev"].as_str().unwrap_or_default().to_owned();
        netns.ip_batch(&format!("link set {device} down\n")).await?;
        let broken = node.cni.check(&node.network, whole).await;
        netns.ip_batch(&format!("link set {device} up\n")).await?;
        ensure!(broken.is_err(), "CHECK of a pod whose link is down succeeds");
        wait::until("the pod to be whole again", Duration::from_secs(10), || async {
            Ok(node.cni.check(&node.network, whole).await?)
        })
        .await?;

        node.cni.gc(&node.network, &attachments).await.map_err(|e| anyhow::anyhow!("{e:?}"))?;
        node.cni.check(&node.network, whole).await?;
        node.cni.gc(&node.network, &[]).await.map_err(|e| anyhow::anyhow!("{e:?}"))?;
        ensure!(node.cni.check(&node.network, whole).await.is_err(), "GC left the pod");
        expect_empty(&view, "node3").await?;
        scope.end().await
    }
    .boxed()
}
