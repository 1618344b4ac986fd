//! Established flows: where FelixConfiguration keeps them, and of addresses in network sets.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{default_deny_ingress, pods, within_a_second};
use crate::lab::{Lab, pod_targets};
use crate::netns::Netns;
use crate::suites::kit::{PORT, Scope, Stream};

/// From a change until it shows, TCP's growing pauses included, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// One over TCP, one over UDP, which answers come to.
async fn streams(from: &Netns, to: &Pod) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for protocol in ["tcp", "udp"] {
        let target = pod_targets(to, protocol, PORT);
        let target = target.first().context("an address")?;
        streams.push(Stream::start(from, target, None).await?);
    }
    flow(&mut streams).await?;
    Ok(streams)
}

/// Answers come to all.
pub(in super::super) async fn flow(streams: &mut [Stream]) -> Result<()> {
    for stream in streams {
        let lately = |report: &Value| report["sinceReplyMs"].as_u64().is_some_and(|ms| ms < 200);
        let report = stream.until("flow", SOON, lately).await?;
        ensure!(report["broken"].is_null(), "{report}");
    }
    Ok(())
}

/// None come any more to any.
pub(in super::super) async fn fall_silent(streams: &mut [Stream]) -> Result<()> {
    for stream in streams {
        let silent = |report: &Value| report["sinceReplyMs"].as_u64().is_some_and(|ms| ms > 500);
        stream.until("fall silent", SOON, silent).await?;
    }
    Ok(())
}

/// A hundred more messages are answered: a second of them.
async fn go_on(streams: &mut [Stream]) -> Result<()> {
    for stream in streams {
        let received = |report: &Value| report["received"].as_u64().unwrap_or_default();
        let before = received(&stream.until("report", SOON, |_| true).await?);
        stream.until("go on", SOON, |report| received(report) > before + 100).await?;
    }
    Ok(())
}

fn settings(flows: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "FelixConfiguration",
        "metadata": { "name": "node.node1" },
        "spec": { "policyEstablishedFlows": flows },
    })
}

pub(super) fn kept(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-kept").await?;
        let [api, near, _, other] = pods(&mut scope).await?;
        let tcp = pod_targets(&api, "tcp", PORT);
        within_a_second(view, &other, &tcp, true).await?;
        let mut streams = streams(&view.netns_of_pod(&near), &api).await?;

        scope.apply_global(settings("Keep")).await?;
        scope.apply(default_deny_ingress()).await?;
        within_a_second(view, &other, &tcp, false).await?;
        // If the two came in the other order, they were cut for a moment.
        flow(&mut streams).await?;
        go_on(&mut streams).await?;

        scope.apply_global(settings("Cut")).await?;
        fall_silent(&mut streams).await?;
        scope.apply_global(settings("Keep")).await?;
        flow(&mut streams).await?;
        within_a_second(view, &other, &tcp, false).await?;
        drop(streams);
        scope.end().await
    }
    .boxed()
}

/// From another node, whom nothing but a network set says anything of.
pub(super) fn of_sets(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-sets").await?;
        let [api, _, far, _] = pods(&mut scope).await?;
        let node = far.spec.and_then(|spec| spec.node_name).context("it is on no node")?;
        let node = view.netns_of(&node)?;
        let trusted = |nets: Value| {
            json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": "GlobalNetworkSet",
                "metadata": { "name": "policy-sets", "labels": { "policy-sets": "trusted" } },
                "spec": { "nets": nets },
            })
        };
        let policy = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "NetworkPolicy",
            "metadata": { "name": "trusted" },
            "spec": {
                "selector": "app == 'api'",
                "types": ["Ingress"],
                "ingress": [{ "action": "Allow", "source": {
                    "selector": "policy-sets == 'trusted'", "namespaceSelector": "global()" } }],
            },
        });
        scope.apply_global(trusted(json!(["0.0.0.0/0", "::/0"]))).await?;
        scope.apply(policy).await?;
        let mut streams = streams(&node, &api).await?;

        scope.apply_global(trusted(json!(["192.0.2.0/24", "2001:db8::/32"]))).await?;
        fall_silent(&mut streams).await?;
        scope.apply_global(trusted(json!(["0.0.0.0/1", "128.0.0.0/1", "::/0"]))).await?;
        flow(&mut streams).await?;
        drop(streams);
        scope.end().await
    }
    .boxed()
}
