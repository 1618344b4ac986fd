//! Names in ClusterNetworkPolicy: a pod may connect to what its own DNS answers say, from the first packet
//! on, and for as long as that counts; also while the agent is away.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use super::kit::{PORT, Scope, Stream, expect_answers, expect_silence};
use super::{DIRECTORY, Test};
use crate::lab::{Lab, View, pod_addresses, pod_targets};
use crate::{process, wait};

pub(super) const TESTS: &[Test] =
    &[Test { name: "names::a_pod_reaches_what_it_asked_for", bed: &DIRECTORY, body: learned }];

/// For an answer, on a busy machine.
const RESOLVED: Duration = Duration::from_secs(20);
/// Shorter than TCP's pause before it sends a SYN again: the first has to get through.
const AT_ONCE: Duration = Duration::from_millis(900);
/// An address counts for 20 s at least, and a check of silence takes half a second.
const LAPSED: Duration = Duration::from_secs(90);

/// Clients may ask the DNS server and connect to what the names stand for, after these rules.
fn policy(namespace: &str, first: &Value, names: &[&str]) -> Value {
    let namespace = json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } });
    let pods = |labels: Value| json!({ "pods": { "namespaceSelector": namespace, "podSelector": { "matchLabels": labels } } });
    let dns = |protocol: &str| json!({ protocol: { "destinationPort": { "number": 53 } } });
    let mut rules = first.as_array().cloned().unwrap_or_default();
    rules.extend([
        json!({ "action": "Accept", "to": [pods(json!({ "app": "dns" }))],
            "protocols": [dns("udp"), dns("tcp")] }),
        json!({ "action": "Accept", "to": [{ "domainNames": names }] }),
        json!({ "action": "Deny", "to": [{ "networks": ["0.0.0.0/0", "::/0"] }] }),
    ]);
    json!({ "apiVersion": api::policy::API_VERSION, "kind": "ClusterNetworkPolicy",
        "metadata": { "name": "lab-names" },
        "spec": { "tier": "Admin", "priority": 10,
            "subject": pods(json!({ "role": "client" })), "egress": rules } })
}

/// Asks the server for a name and expects these pods' addresses.
async fn resolve(view: &View, from: &Pod, server: &Pod, words: &[&str], of: &Pod) -> Result<()> {
    for server in pod_addresses(server) {
        let mut command = Command::new(crate::agent::program("probe")?);
        command.arg("resolve").arg(server.to_string()).args(words);
        let netns = view.netns_of_pod(from);
        let output = process::capture(command, Some(&netns), b"", RESOLVED).await?;
        let said: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())?;
        let mut found: Vec<IpAddr> = serde_json::from_value(said["addresses"].clone())
            .with_context(|| format!("{words:?} at {server}: {said}"))?;
        let mut wanted = pod_addresses(of);
        found.sort_unstable();
        wanted.sort_unstable();
        ensure!(found == wanted, "{words:?} at {server}: {found:?}, not {wanted:?}");
    }
    Ok(())
}

/// Every target answers to the first packet.
async fn at_once(view: &View, from: &Pod, targets: &[String]) -> Result<()> {
    for probe in view.connect(&view.netns_of_pod(from), targets, AT_ONCE).await? {
        ensure!(probe.ok, "{probe:?}");
    }
    Ok(())
}

fn learned(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "names").await?;
        let client = [("role", "client")];
        let wanted = [
            scope.pod("web", "node1", &[("app", "web")]),
            scope.pod("brief", "node1", &[("app", "brief")]),
            scope.pod("client", "node2", &client),
            scope.pod("other", "node2", &client),
        ];
        let pods = scope.run(&wanted).await?;
        let [web, brief, client, other] = &pods[..] else { anyhow::bail!("{} pods", pods.len()) };
        let entry = |name: &str, ttl: u32, pod: &Pod| {
            let addresses = pod_addresses(pod).iter().map(ToString::to_string).collect::<Vec<_>>();
            format!("--name={name}/{ttl}={}", addresses.join(","))
        };
        let mut server = scope.pod("dns", "node3", &[("app", "dns")]);
        server["spec"]["containers"][0]["args"] = json!([
            "dns",
            entry("web.lab.test", 600, web),
            entry("brief.lab.test", 1, brief),
            entry("lab.test", 600, brief),
        ]);
        let server = &scope.run(&[server]).await?[0];
        view.wait_for_routes().await?;
        let (to_web, to_brief) = (pod_targets(web, "tcp", PORT), pod_targets(brief, "tcp", PORT));
        let silent = async |from: &Pod, targets: &[String]| {
            expect_silence(&view, &view.netns_of_pod(from), targets).await
        };
        expect_answers(&view, client, &[to_web.clone(), to_brief.clone()].concat()).await?;
        let none = json!([]);
        scope.apply_global(policy("names", &none, &["*.lab.test"])).await?;
        for from in [client, other] {
            wait::until("the policy", Duration::from_secs(20), || silent(from, &to_web)).await?;
        }

        resolve(&view, client, server, &["web.lab.test"], web).await?;
        at_once(&view, client, &to_web).await?;
        silent(client, &to_brief).await?;
        silent(other, &to_web).await.context("it did not ask")?;
        // The name itself is not one below it.
        resolve(&view, client, server, &["lab.test"], brief).await?;
        silent(client, &to_brief).await?;
        resolve(&view, other, server, &["--tcp", "web.lab.test"], web).await.context("by TCP")?;
        at_once(&view, other, &to_web).await.context("by TCP")?;

        let address = pod_addresses(web)[0].to_string();
        let flow = ["explain", "names/client", &address, &PORT.to_string()];
        let said = view.felix("node2", &flow, b"").await?.to_string();
        for part in ["web.lab.test, by a DNS answer to the endpoint", "spec.egress[1]"] {
            ensure!(said.contains(part), "{part:?} is not in {said}");
        }

        // Without an agent names are resolved, and what was learned counts; so it does for the next one.
        lab.agent("node2")?.stop(Signal::SIGKILL).await?;
        resolve(&view, client, server, &["brief.lab.test"], brief).await.context("no agent")?;
        at_once(&view, client, &to_web).await.context("no agent")?;
        silent(client, &to_brief).await.context("nobody has read the answer")?;
        lab.agent("node2")?.start().await?;
        let open = || at_once(&view, client, &to_web);
        wait::always("open while the agent starts", Duration::from_secs(3), open).await?;
        lab.agent("node2")?.ready().await?;
        at_once(&view, client, &to_web).await.context("the next agent")?;

        // What has lapsed is closed to new connections, and to no other.
        resolve(&view, client, server, &["brief.lab.test"], brief).await?;
        at_once(&view, client, &to_brief).await?;
        let netns = view.netns_of_pod(client);
        let mut streams = Vec::new();
        for target in &to_brief {
            streams.push(Stream::start(&netns, target, None).await?);
        }
        wait::until("the time to be over", LAPSED, || silent(client, &to_brief)).await?;
        at_once(&view, client, &to_web).await.context("a longer time")?;
        goes_on(&mut streams).await.context("its time is over")?;
        // Nor does a policy that is about something else cut it.
        let no_web = json!([{ "action": "Deny", "to": [{ "networks": pod_networks(web) }] }]);
        scope.apply_global(policy("names", &no_web, &["*.lab.test"])).await?;
        wait::until("the other policy", Duration::from_secs(20), || silent(client, &to_web))
            .await?;
        goes_on(&mut streams).await.context("another policy")?;
        // One that has no such name does.
        scope.apply_global(policy("names", &none, &["*.other.test"])).await?;
        for stream in &mut streams {
            let cut = |report: &Value| report["sinceReplyMs"].as_u64() > Some(1500);
            stream.until("be cut", Duration::from_secs(30), cut).await?;
        }
        silent(client, &to_web).await?;
        drop(streams);
        scope.end().await
    }
    .boxed()
}

fn pod_networks(pod: &Pod) -> Vec<String> {
    let net = |address: IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    pod_addresses(pod).into_iter().map(net).collect()
}

/// From now on a second's messages more are answered.
async fn goes_on(streams: &mut [Stream]) -> Result<()> {
    let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    for stream in streams {
        // What was said before waits to be read.
        let recent =
            |report: &Value| report["time"].as_u64().is_some_and(|t| u128::from(t) > start);
        let report = stream.until("report", Duration::from_secs(10), recent).await?;
        let sent = report["sent"].as_u64().unwrap_or_default();
        let more = |report: &Value| report["received"].as_u64() > Some(sent + 100);
        stream.until("go on", Duration::from_secs(20), more).await?;
    }
    Ok(())
}
