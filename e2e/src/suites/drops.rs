//! `felix drops`: every way in which policy denies, with the names of both sides and of the policy; and
//! a flood of denied packets, which harms nobody.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt as _;
use tokio::process::Command;

use super::kit::{ANSWER, PORT, Scope, expect_answers, name};
use super::policy::{OTHER_PORT, default_deny_ingress, pods, within_a_second};
use super::{DIRECTORY, RACKS, Test};
use crate::http;
use crate::lab::{Lab, View, pod_targets};
use crate::{process, wait};

pub(super) const TESTS: &[Test] = &[
    Test { name: "drops::names_who_denied", bed: &RACKS, body: named },
    Test { name: "drops::names_who_denied_from_a_directory", bed: &DIRECTORY, body: named },
    Test { name: "drops::staged_policies_tell_and_deny_nothing", bed: &RACKS, body: staged },
    Test { name: "drops::staged_from_a_directory", bed: &DIRECTORY, body: staged },
    Test { name: "drops::log_rules_follow_felix_configuration", bed: &DIRECTORY, body: log_rules },
    Test { name: "drops::a_flood_is_limited_and_slows_nobody", bed: &RACKS, body: flood },
];

/// Where the agent of a node serves its metrics.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9099);
/// From a packet until it can be asked for, on a busy machine.
const TOLD: Duration = Duration::from_secs(20);

/// What `felix drops` of api's node says of a pod.
async fn told(view: &View, pod: &str) -> Result<Vec<Value>> {
    let report = view.felix("node1", &["drops", "--pod", pod], b"").await?;
    ensure!(report["problem"].is_null(), "{report}");
    Ok(report["packets"].as_array().context("no packets")?.clone())
}

/// Of what a client sends to a target, which is denied, the agent of api's node says this; it is sent
/// until the agent does.
async fn expect_told(
    scope: &Scope,
    (client, api): (&Pod, &Pod),
    (protocol, port): (&str, u16),
    denied: &Value,
) -> Result<()> {
    let view = scope.view.clone();
    let full = |pod: &Pod| format!("{}/{}", scope.name, name(pod));
    let (from, to) = (full(client), full(api));
    let targets = pod_targets(api, protocol, port);
    wait::until(&format!("{denied} of {from}"), TOLD, || async {
        view.connect(&view.netns_of_pod(client), &targets, Duration::from_millis(300)).await?;
        let seen = told(&view, &from).await?;
        let same = |packet: &&Value| {
            packet["destination"]["name"] == to.as_str()
                && packet["destination"]["port"] == port
                && packet["protocol"] == protocol.to_uppercase()
                && denied.as_object().is_some_and(|wanted| {
                    wanted.iter().all(|(field, value)| packet["denied"][field] == *value)
                })
        };
        let found = seen.iter().find(same);
        ensure!(found.is_some(), "the last is {}", seen.last().unwrap_or(&Value::Null));
        Ok(())
    })
    .await
}

fn calico(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn named(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "drops").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let tcp = pod_targets(&api, "tcp", PORT);
        let own = format!("{}/{}", scope.name, name(&api));

        // Kubernetes': what no rule of a policy that selects the pod allows.
        scope.apply(default_deny_ingress()).await?;
        within_a_second(view, &far, &tcp, false).await?;
        let policy = format!("KubernetesNetworkPolicy {}/default-deny-ingress", scope.name);
        let by_tier = json!({ "direction": "Ingress", "endpoint": own, "tier": "default",
            "policy": null, "selectedBy": [policy] });
        expect_told(&scope, (&far, &api), ("tcp", PORT), &by_tier).await?;
        expect_told(&scope, (&near, &api), ("udp", OTHER_PORT), &by_tier).await?;

        // A rule of Calico's, before Kubernetes' policy, and its place in the object.
        let rules = json!([
            { "action": "Allow", "protocol": "TCP", "destination": { "ports": [PORT] } },
            { "action": "Deny", "protocol": "UDP" },
        ]);
        let spec = json!({ "tier": "default", "order": 1, "selector": "app == 'api'",
            "types": ["Ingress"], "ingress": rules });
        scope.apply(calico("NetworkPolicy", "no-udp", spec)).await?;
        within_a_second(view, &far, &tcp, true).await?;
        let policy = format!("NetworkPolicy {}/no-udp", scope.name);
        let by_rule = json!({ "direction": "Ingress", "endpoint": own, "tier": "default",
            "policy": policy, "rule": "spec.ingress[1]" });
        expect_told(&scope, (&other, &api), ("udp", PORT), &by_rule).await?;

        // The end of a tier that comes before.
        scope.apply_global(calico("Tier", "drops-gate", json!({ "order": 5 }))).await?;
        let here = format!("kubernetes.io/metadata.name == '{}'", scope.name);
        let spec = json!({ "tier": "drops-gate", "selector": "app == 'api'",
            "namespaceSelector": here, "types": ["Ingress"],
            "ingress": [{ "action": "Pass", "protocol": "TCP" }] });
        scope.apply_global(calico("GlobalNetworkPolicy", "drops-gate.tcp", spec)).await?;
        let by_gate = json!({ "direction": "Ingress", "endpoint": own, "tier": "drops-gate",
            "policy": null, "selectedBy": ["GlobalNetworkPolicy drops-gate.tcp"] });
        expect_told(&scope, (&far, &api), ("udp", PORT), &by_gate).await?;

        // Of what leaves a pod its own node tells; the other side has its name, too.
        let rules = json!([{ "action": "Deny", "destination": { "selector": "app == 'api'" } },
            { "action": "Allow" }]);
        let spec = json!({ "tier": "default", "selector": "role == 'frontend'",
            "types": ["Egress"], "egress": rules });
        scope.apply(calico("NetworkPolicy", "not-to-api", spec)).await?;
        within_a_second(view, &near, &tcp, false).await?;
        let by_sender = json!({ "direction": "Egress", "rule": "spec.egress[0]",
            "endpoint": format!("{}/{}", scope.name, name(&near)) });
        expect_told(&scope, (&near, &api), ("tcp", PORT), &by_sender).await?;

        follow(&scope, &near, &tcp[0]).await?;
        let (_, metrics) = http::get(&view.place.netns("node1"), METRICS, "/metrics").await?;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("felix_denied_packets_total{") && line.contains(&policy));
        ensure!(line.is_some_and(|line| line.contains("direction=\"ingress\"")), "{line:?}");
        scope.end().await
    }
    .boxed()
}

/// Who follows is told of what comes.
async fn follow(scope: &Scope, client: &Pod, target: &str) -> Result<()> {
    let view = &scope.view;
    let own = format!("{}/{}", scope.name, name(client));
    let mut command = Command::new(view.place.bin_of("node1").join("felix"));
    command.args(["drops", "-f", "--pod", &own, "-o", "json"]);
    command.stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = process::spawn(command, Some(&view.place.netns("node1"))).await?;
    let mut lines = tokio::io::BufReader::new(child.stdout.take().context("no output")?).lines();
    // What it begins with is the past.
    let began = Timestamp::now();
    let seen = async {
        loop {
            let line = lines.next_line().await?.context("it ended")?;
            let packet: Value = serde_json::from_str(&line)?;
            let time: Timestamp = packet["time"].as_str().context("no time")?.parse()?;
            if time > began {
                return anyhow::Ok(packet);
            }
        }
    };
    let sent = async {
        loop {
            let (netns, targets) = (view.netns_of_pod(client), [target.to_owned()]);
            let probes = view.connect(&netns, &targets, Duration::from_millis(300));
            if let Err(error) = probes.await {
                return error;
            }
        }
    };
    let packet = tokio::select! {
        packet = seen => packet?,
        error = sent => return Err(error),
        () = tokio::time::sleep(TOLD) => anyhow::bail!("nothing of {own} is told to who follows"),
    };
    ensure!(packet["source"]["name"] == own.as_str(), "{packet}");
    child.kill().await.context("felix drops -f")
}

/// How many packets policy has denied on api's node, by the kernel's own count.
async fn denied(view: &View) -> Result<u64> {
    let mut list = Command::new("nft");
    list.args(["list", "chain", "inet", "caracal", "deny"]);
    let output = process::capture(list, Some(&view.place.netns("node1")), b"", ANSWER).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let count = text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    Ok(count.with_context(|| text.to_string())?.parse()?)
}

/// While packets are denied by the ten thousand, a pod starts, policy changes, and the agent is told of
/// no more than the kernel's limit allows.
fn flood(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "drops-flood").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let tcp = pod_targets(&api, "tcp", PORT);
        let only_frontends = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "api" },
            "spec": { "podSelector": { "matchLabels": { "app": "api" } }, "ingress": [
                { "from": [{ "podSelector": { "matchLabels": { "role": "frontend" } } }] }] },
        });
        scope.apply(only_frontends).await?;
        within_a_second(view, &other, &tcp, false).await?;

        let first = view.felix("node1", &["drops"], b"").await?["next"].clone();
        let (began, before) = (Instant::now(), denied(view).await?);
        let mut floods = Vec::new();
        for target in pod_targets(&api, "udp", OTHER_PORT) {
            let mut command = Command::new(crate::agent::program("probe")?);
            command.args(["stream", "--rate=5000", &target]);
            command.stdout(Stdio::null()).kill_on_drop(true);
            floods.push(process::spawn(command, Some(&view.netns_of_pod(&other))).await?);
        }
        wait::until("ten thousand denied packets", Duration::from_secs(60), || async {
            let count = denied(view).await? - before;
            ensure!(count > 10_000, "{count}");
            Ok(())
        })
        .await?;
        let late = scope.pod("late", "node1", &[("role", "frontend"), ("app", "late")]);
        scope.run(std::slice::from_ref(&late)).await?;
        // The brain is not held up: policy is in force as soon as ever.
        scope.apply(default_deny_ingress()).await?;
        let late_target = {
            let pods = view.cluster.pods().await?;
            let late = pods.iter().find(|pod| name(pod) == "late").context("no pod late")?;
            pod_targets(late, "tcp", PORT)
        };
        within_a_second(view, &near, &late_target, false).await?;
        within_a_second(view, &far, &tcp, true).await?;

        for mut flood in floods {
            flood.kill().await?;
        }
        let report = view.felix("node1", &["drops"], b"").await?;
        let elapsed = began.elapsed().as_secs_f64();
        let number = |place: &Value| place["number"].as_f64().context("no place");
        let told = number(&report["next"])? - number(&first)?;
        // A hundred a second and two hundred at once; what waited in the kernel comes later.
        ensure!(told <= 200.0 + 100.0 * (elapsed + 2.0), "{told} in {elapsed} s");
        let policy = format!("KubernetesNetworkPolicy {}/api", scope.name);
        let packets = report["packets"].as_array().context("no packets")?;
        let ours = packets.iter().filter(|packet| {
            let selected = packet["denied"]["selectedBy"].as_array();
            selected.is_some_and(|by| by.contains(&json!(policy)))
        });
        ensure!(ours.count() > 100, "{report}");
        let all = (denied(view).await? - before) as f64;
        ensure!(all > 10.0 * told, "{told} of {all} were told of");
        scope.end().await
    }
    .boxed()
}

/// A staged policy denies nothing, and says of real flows what it would.
fn staged(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "drops-staged").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let full = |pod: &Pod| format!("{}/{}", scope.name, name(pod));
        let (own, from_far, from_other) = (full(&api), full(&far), full(&other));
        let spec = json!({ "tier": "default", "selector": "app == 'api'", "types": ["Ingress"],
            "ingress": [
                { "action": "Allow", "source": { "selector": "role == 'frontend'" } },
                { "action": "Deny" },
            ] });
        let policy = format!("StagedNetworkPolicy {own}");
        scope.apply(calico("StagedNetworkPolicy", "api", spec)).await?;

        let tcp = pod_targets(&api, "tcp", PORT);
        wait::until(&format!("{policy} to tell of {from_other}"), TOLD, || async {
            // Nothing is denied meanwhile.
            for client in [&near, &far, &other] {
                expect_answers(view, client, &tcp).await?;
            }
            let words = ["drops", "--staged", "--pod", &own];
            let report = view.felix("node1", &words, b"").await?;
            let packets = report["packets"].as_array().context("no packets")?;
            let of = |pod: &str| {
                packets
                    .iter()
                    .filter(|packet| packet["source"]["name"] == pod)
                    .cloned()
                    .collect::<Vec<_>>()
            };
            ensure!(of(&from_far).is_empty(), "{report}");
            let would = of(&from_other);
            let would = would.first().with_context(|| report.to_string())?;
            ensure!(would["denied"].is_null(), "{would}");
            let denial = &would["staged"]["deny"];
            ensure!(
                denial["policy"] == policy.as_str() && denial["rule"] == "spec.ingress[1]",
                "{would}"
            );
            Ok(())
        })
        .await?;

        let status = view.felix("node1", &["policy", "status"], b"").await?;
        let rows = status["rows"].as_array().context("no rows")?;
        let row = rows.iter().find(|row| row["policy"] == policy.as_str());
        let row = row.with_context(|| format!("no row: {status}"))?;
        ensure!(
            row["staged"] == "Set" && row["endpoints"] == 1 && row["inKernel"].is_null(),
            "{row}"
        );

        let port = PORT.to_string();
        for (client, verdict) in [(&from_other, "deny"), (&from_far, "allow")] {
            let words = ["explain", client, &own, &port, "--staged"];
            let answer = view.felix("node1", &words, b"").await?;
            let flow = &answer["flows"][0];
            ensure!(flow["verdict"] == "allow" && flow["then"]["verdict"] == verdict, "{flow}");
        }

        let (_, metrics) = http::get(&view.place.netns("node1"), METRICS, "/metrics").await?;
        let line = metrics.lines().find(|line| {
            line.starts_with("felix_denied_packets_staged_total{") && line.contains(&policy)
        });
        ensure!(line.is_some(), "no metric of {policy}");
        scope.end().await
    }
    .boxed()
}

/// What rules that log have the kernel do is what FelixConfiguration says, as long as it says it.
fn log_rules(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let listed = |wanted: &'static str| async move {
            wait::until(wanted, TOLD, || async {
                let mut list = Command::new("nft");
                list.args(["list", "chain", "inet", "caracal", "log_ingress_deny"]);
                let netns = view.place.netns("node1");
                let output = process::capture(list, Some(&netns), b"", ANSWER).await?;
                let text = String::from_utf8_lossy(&output.stdout);
                ensure!(text.contains(wanted), "{text}");
                Ok(())
            })
            .await
        };
        let usual = "limit rate 10/second burst 100 packets log prefix \"caracal ingress deny \" group 3234";
        listed(usual).await?;
        let spec = json!({ "logPrefix": "shop %p", "logActionRateLimit": "7/minute",
            "logActionRateLimitBurst": 9 });
        let object = calico("FelixConfiguration", "node.node1", spec);
        view.cluster.apply(&object).await?;
        listed("limit rate 7/minute burst 9 packets log prefix \"shop * ingress deny \" group 3234")
            .await?;
        ensure!(view.cluster.delete(&object).await?, "the configuration was not there");
        listed(usual).await
    }
    .boxed()
}
