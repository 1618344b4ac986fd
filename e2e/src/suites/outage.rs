//! etcd away, the API server away: running pods do not notice, new ones wait, or start where their
//! node answers from its own log, and nobody has to restart anything afterwards.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::kit::{POD, PORT, Scope, Stream, blocks, expect_answers, expect_silence};
use super::{RACKS, Test};
use crate::cni::{Attachment, CniError};
use crate::control_plane::intent;
use crate::kubelet::UNMANAGED;
use crate::lab::{Lab, View, pod_addresses, pod_targets};
use crate::{process, wait};

mod restored;

pub(super) const TESTS: &[Test] = &[
    Test { name: "outage::etcd", bed: &RACKS, body: etcd },
    Test { name: "outage::etcd_with_own_logs", bed: &RACKS, body: etcd_with_own_logs },
    Test { name: "outage::etcd_restored", bed: &RACKS, body: restored::etcd_restored },
    Test { name: "outage::api_server", bed: &RACKS, body: api_server },
];

fn etcd(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "outage-etcd").await?;
        let wanted = [scope.pod("here", "node1", &[]), scope.pod("there", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let target = &pod_targets(&pods[1], "udp", PORT)[0];
        let stream = Stream::start(&view.netns_of_pod(&pods[0]), target, Some(1000)).await?;
        // The control: it is etcd that is missing afterwards.
        by_hand(lab, &scope, None).await??;

        lab.etcd.as_mut().context("this lab has no etcd")?.kill().await?;
        let refused = by_hand(lab, &scope, None).await?;
        let error = refused.err().context("ADD succeeds without etcd")?;
        ensure!(error.code == 11, "{error}");
        ensure!(error.to_string().contains("etcd"), "{error} does not name etcd");

        let late = scope.pod("late", "node1", &[]);
        view.cluster.apply(&late).await?;
        lab.etcd.as_mut().context("this lab has no etcd")?.start().await?;
        scope.run(&[late]).await?;
        by_hand(lab, &scope, None).await??;
        stream.expect_no_loss(Duration::from_secs(60)).await?;
        scope.end().await
    }
    .boxed()
}

fn etcd_with_own_logs(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let nodes = ["node1", "node2"];
        let mut scope = Scope::new(&view, "outage-logs").await?;
        let strict = json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration",
            "metadata": { "name": "default" }, "spec": { "strictAffinity": true } });
        scope.apply_global(strict).await?;
        let first = nodes.map(|node| scope.pod(&format!("first-{node}"), node, &[]));
        let mut pods = scope.run(&first).await?;
        view.wait_for_routes().await?;
        for node in nodes {
            mirrored(&view, node).await?;
        }

        lab.etcd.as_mut().context("this lab has no etcd")?.kill().await?;
        let during = nodes.map(|node| scope.pod(&format!("during-{node}"), node, &[]));
        pods.extend(scope.run(&during).await?);
        // Another one ends, and both tell what the store lacks.
        view.end_pod(&first[0], POD).await?;
        pods.remove(0);
        for node in nodes {
            let ipam = view.ask_felix(node, "status").await?["ipam"].clone();
            ensure!(ipam["mode"] == "local-first", "{node}: {ipam}");
            ensure!(ipam["behind"].as_u64() > Some(0), "{node}: {ipam}");
        }
        // The log alone has to do.
        let agent = lab.agent("node1")?;
        agent.stop(nix::sys::signal::Signal::SIGKILL).await?;
        agent.start().await?;
        agent.ready().await?;
        let after = [scope.pod("after", "node1", &[])];
        pods.extend(scope.run(&after).await?);
        let addresses: BTreeSet<IpAddr> = pods.iter().flat_map(pod_addresses).collect();
        ensure!(addresses.len() == 2 * pods.len(), "an address was given twice: {addresses:?}");
        for pod in &pods[1..] {
            let reach =
                || async { expect_answers(&view, &pods[0], &pod_targets(pod, "tcp", PORT)).await };
            wait::until("the pods to reach each other", Duration::from_secs(60), reach).await?;
        }

        lab.etcd.as_mut().context("this lab has no etcd")?.start().await?;
        for node in nodes {
            mirrored(&view, node).await?;
        }
        expect_stored(lab, &pods).await?;
        scope.end().await
    }
    .boxed()
}

/// Waits until a node answers from its own log, and the store has everything.
async fn mirrored(view: &View, node: &str) -> Result<()> {
    let what = format!("the mirror of {node}");
    wait::until(&what, Duration::from_secs(60), || async {
        let ipam = view.ask_felix(node, "status").await?["ipam"].clone();
        ensure!(ipam["mode"] == "local-first", "{ipam}");
        ensure!(ipam["behindSeconds"].is_null() && ipam["error"].is_null(), "{ipam}");
        Ok(())
    })
    .await
}

/// The store has what the pods have, and nothing is wrong with it.
async fn expect_stored(lab: &Lab, pods: &[Pod]) -> Result<()> {
    let report = check(lab).await?;
    ensure!(report["problems"] == json!([]), "{}", report["problems"]);
    for pod in pods {
        for address in pod_addresses(pod) {
            let said = &report["allocations"][address.to_string()];
            let held = said
                .as_array()
                .is_some_and(|all| all.len() == 1 && all[0]["coolingDown"] == json!(false));
            ensure!(held, "{address} of {:?}: {said}", pod.metadata.name);
        }
    }
    Ok(())
}

/// What `ipam check` says of the lab's etcd.
pub(super) async fn check(lab: &Lab) -> Result<Value> {
    let view = lab.view();
    let etcd = lab.etcd.as_ref().context("this lab has no etcd")?;
    let pools: Vec<Value> = intent::objects(&view.plan.topology)
        .into_iter()
        .filter(|object| object["kind"] == "IPPool")
        .collect();
    let file = tempfile::NamedTempFile::new()?;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": pools });
    std::fs::write(file.path(), list.to_string())?;
    let program = crate::agent::program("ipam")?;
    let mut command = tokio::process::Command::new(program);
    command.args(["-o", "json", "--endpoints", &etcd.endpoint(), "--pools"]).arg(file.path());
    command.arg("check");
    let netns = view.place.netns("control");
    let patience = Duration::from_secs(20);
    let output = process::capture(command, Some(&netns), b"", patience).await?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

/// ADD and DEL on node1, as its runtime would call them, of a pod or of a container outside
/// Kubernetes, which asks nothing but an address; what ADD answered.
async fn by_hand(lab: &Lab, scope: &Scope, pod: Option<&str>) -> Result<Result<Value, CniError>> {
    let view = lab.view();
    let netns = view.place.netns(&format!("{}.by-hand", scope.name));
    lab.record().create_namespace(&netns).await?;
    let argument = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let attachment = Attachment {
        container_id: format!("{}-{}", scope.name, pod.unwrap_or("container")),
        netns: Some(netns.path()),
        ifname: "eth0".into(),
        args: pod.map_or_else(Vec::new, |pod| {
            vec![argument("K8S_POD_NAMESPACE", &scope.name), argument("K8S_POD_NAME", pod)]
        }),
    };
    let node = lab.kubelet()?.runtime("node1")?;
    let added = node.cni.add(&node.network, &attachment).await;
    node.cni.delete(&node.network, &attachment).await?;
    lab.record().delete_namespace(&netns).await?;
    Ok(added)
}

fn api_server(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "outage-api").await?;
        let wanted = [
            scope.pod("server", "node1", &[]),
            scope.pod("closed", "node1", &[("closed", "yes")]),
            scope.pod("client", "node2", &[]),
        ];
        let pods = scope.run(&wanted).await?;
        // One more that the agent knows and nobody has attached yet.
        let mut known = scope.pod("known", "node1", &[("closed", "yes")]);
        known["metadata"]["annotations"] = json!({ UNMANAGED: "true" });
        // No kubelet ends it: the API server has to remove it at once.
        known["spec"]["terminationGracePeriodSeconds"] = json!(0);
        scope.apply(known).await?;
        view.wait_for_routes().await?;
        let closed = pod_targets(&pods[1], "tcp", PORT);
        let client = view.netns_of_pod(&pods[2]);
        let deny = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "name": "closed" },
            "spec": { "podSelector": { "matchLabels": { "closed": "yes" } }, "policyTypes": ["Ingress"] },
        });
        expect_answers(&view, &pods[2], &closed).await?;
        scope.apply(deny.clone()).await?;
        let silent = || expect_silence(&view, &client, &closed);
        wait::until("the policy", Duration::from_secs(5), silent).await?;
        let target = &pod_targets(&pods[0], "udp", PORT)[0];
        let stream = Stream::start(&client, target, Some(3000)).await?;

        let own = blocks(&view, "node1").await?;
        ensure!(!own.is_empty(), "node1 has no blocks");

        lab.api_server.as_mut().context("this lab has no API server")?.kill_server().await?;
        wait::always("the policy without an API server", Duration::from_secs(3), silent).await?;
        // A new pod is served if it was known before, with its policy; what is unknown has to wait.
        let served = by_hand(lab, &scope, Some("known")).await?;
        served.map_err(|error| anyhow::anyhow!("a pod that is known is refused: {error}"))?;
        let refused = by_hand(lab, &scope, Some("unknown")).await?;
        let error = refused.err().context("a pod that nobody knows is served")?;
        ensure!(error.code == 11, "{error}");
        ensure!(error.to_string().contains("outage-api/unknown"), "{error} does not name the pod");
        // An agent that starts now has only its own records, and keeps what they say.
        let agent = lab.agent("node1")?;
        agent.stop(nix::sys::signal::Signal::SIGKILL).await?;
        agent.start().await?;
        wait::always("the policy after a restart", Duration::from_secs(3), silent).await?;
        // And meets its peers before they lose patience.
        let tor = view.router("tor1")?;
        wait::until("the session to be up again", Duration::from_secs(60), || async {
            let sessions = tor.sessions().await?;
            let session = sessions.iter().find(|session| session.neighbor == "node1");
            ensure!(session.is_some_and(|session| session.established), "{session:?}");
            Ok(())
        })
        .await?;
        wait::until("node1's blocks to be announced again", Duration::from_secs(20), || async {
            let routes = tor.routes().await?;
            for block in &own {
                let route = routes.iter().find(|route| route.used && route.prefix == *block);
                ensure!(route.is_some_and(|route| !route.stale), "{block}: {route:?}");
            }
            Ok(())
        })
        .await?;
        lab.api_server.as_mut().context("this lab has no API server")?.start_server().await?;

        lab.agent("node1")?.ready().await?;
        let mut gone = deny;
        gone["metadata"]["namespace"] = json!(scope.name);
        view.cluster.delete(&gone).await?;
        let open = || expect_answers(&view, &pods[2], &closed);
        wait::until("the agent to catch up", Duration::from_secs(30), open).await?;
        stream.expect_no_loss(Duration::from_secs(60)).await?;
        let late = [scope.pod("late", "node1", &[])];
        scope.run(&late).await?;
        view.end_pod(&late[0], POD).await?;
        scope.end().await
    }
    .boxed()
}
