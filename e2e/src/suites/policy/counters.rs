//! Counters by policy and rule: turned on and off under traffic that notices neither.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{allow_frontend, default_deny_ingress, pods, within_a_second};
use crate::lab::{Lab, View, pod_targets};
use crate::suites::kit::{PORT, SILENCE, Scope, Stream, expect_answers};
use crate::{process, wait};

/// From a change of settings, or of a counter, on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// How often the peer that is allowed connects, and the one that is denied.
const TIMES: u64 = 5;
/// Messages of the stream, a hundred a second: longer than all else takes.
const MESSAGES: u64 = 2000;

fn settings(counters: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "FelixConfiguration",
        "metadata": { "name": "node.node1" },
        "spec": { "policyCounters": counters },
    })
}

async fn counters(view: &View) -> Result<Vec<Value>> {
    let answer = view.felix("node1", &["policy", "counters"], b"").await?;
    Ok(answer["rows"].as_array().context("no rows")?.clone())
}

/// Waits until the counters are so.
async fn until(view: &View, what: &str, hold: impl Fn(&[Value]) -> bool) -> Result<()> {
    wait::until(what, SOON, || async {
        let rows = counters(view).await?;
        ensure!(hold(&rows), "{rows:?}");
        Ok(())
    })
    .await
}

/// Whether the node's table, as `nft` lists it, has an element with this comment.
async fn said(view: &View, comment: &str) -> Result<()> {
    let mut list = Command::new("nft");
    list.args(["list", "table", "inet", "caracal"]);
    let output = process::capture(list, Some(&view.place.netns("node1")), b"", SOON).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.contains(&format!("comment \"{comment}\"")) {
        return Ok(());
    }
    let comments: Vec<&str> = text.lines().filter(|line| line.contains("comment")).collect();
    bail!("nothing says {comment:?}: {comments:#?}")
}

pub(super) fn by_rule(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-counters").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        for policy in [default_deny_ingress(), allow_frontend()] {
            scope.apply(policy).await?;
        }
        let tcp = pod_targets(&api, "tcp", PORT);
        within_a_second(view, &other, &tcp, false).await?;
        within_a_second(view, &far, &tcp, true).await?;
        ensure!(counters(view).await?.is_empty(), "off until it is turned on");
        said(view, &format!("{}/api", scope.name)).await?;
        let both = ["api-allow", "default-deny-ingress"]
            .map(|policy| format!("KubernetesNetworkPolicy {}/{policy}", scope.name));
        said(view, &both.join(", ")).await?;

        let target = tcp.first().context("an address")?;
        let mut streams = Vec::new();
        for from in [&near, &far] {
            let netns = view.netns_of_pod(from);
            let mut stream = Stream::start(&netns, target, Some(MESSAGES)).await?;
            let flows = |report: &Value| report["received"].as_u64() > Some(10);
            stream.until("flow", SOON, flows).await?;
            streams.push(stream);
        }
        scope.apply_global(settings("Enabled")).await?;
        until(view, "counting to begin", |rows| !rows.is_empty()).await?;

        for _ in 0..TIMES {
            expect_answers(view, &far, &tcp).await?;
            let probes = view.connect(&view.netns_of_pod(&other), &tcp, SILENCE).await?;
            ensure!(probes.iter().all(|probe| !probe.ok), "{probes:?}");
        }
        let policy = format!("KubernetesNetworkPolicy {}/api-allow", scope.name);
        let packets = |rows: &[Value], policy: Option<&str>, rule: Option<&str>| {
            let row = rows.iter().find(|row| {
                row["tier"] == "default"
                    && row["direction"] == "Ingress"
                    && row["policy"].as_str() == policy
                    && row["rule"].as_str() == rule
            });
            row.and_then(|row| row["packets"].as_u64()).unwrap_or_default()
        };
        let attempts = TIMES * tcp.len() as u64;
        until(view, "packets to be counted by rule", |rows| {
            packets(rows, Some(&policy), Some("spec.ingress[0]")) >= attempts
                && packets(rows, None, None) >= attempts
        })
        .await?;

        said(view, &format!("spec.ingress[0] of {policy}")).await?;

        // Who decides otherwise is counted from then on, and what was counted stays.
        let mut changed = allow_frontend();
        let spec = &mut changed["spec"];
        let rule = spec["ingress"][0].clone();
        let nothing =
            json!({ "from": [{ "podSelector": { "matchLabels": { "role": "nobody" } } }] });
        spec["ingress"] = json!([nothing, rule]);
        scope.apply(changed).await?;
        until(view, "the rule in its new place to count", |rows| {
            rows.iter()
                .any(|row| row["policy"] == policy.as_str() && row["rule"] == "spec.ingress[1]")
        })
        .await?;
        expect_answers(view, &far, &tcp).await?;
        until(view, "both rules to have counted", |rows| {
            packets(rows, Some(&policy), Some("spec.ingress[0]")) >= attempts
                && packets(rows, Some(&policy), Some("spec.ingress[1]")) >= tcp.len() as u64
        })
        .await?;

        scope.apply_global(settings("Disabled")).await?;
        until(view, "counting to end", <[Value]>::is_empty).await?;
        within_a_second(view, &other, &tcp, false).await?;
        for stream in streams {
            stream.expect_no_loss(Duration::from_secs(120)).await?;
        }
        scope.end().await
    }
    .boxed()
}
