//! What tests have in common: a namespace of their own, pods in it, questions to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::lab::{Probe, View, pod_addresses};
use crate::netns::Netns;
use crate::{cli, process, wait};

/// A pod from its creation until it is ready, on a busy machine.
pub(super) const POD: Duration = Duration::from_secs(180);
/// What is denied does not answer; how long to wait before believing it.
pub(super) const SILENCE: Duration = Duration::from_millis(500);
/// What is allowed answers at once, but the machine may be busy.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
/// The port of the pods' servers.
pub(super) const PORT: u16 = 8080;

/// A Kubernetes namespace of a test, and what it created.
pub(super) struct Scope {
    pub(super) view: View,
    pub(super) name: String,
    created: Vec<Value>,
}

impl Scope {
    /// Creates the namespace, which is ready for pods afterwards.
    pub(super) async fn new(view: &View, name: &str) -> Result<Self> {
        Self::with_labels(view, name, &[]).await
    }

    /// The same, with labels on the namespace.
    pub(super) async fn with_labels(
        view: &View,
        name: &str,
        labels: &[(&str, &str)],
    ) -> Result<Self> {
        let mut all: BTreeMap<&str, &str> = labels.iter().copied().collect();
        all.insert("kubernetes.io/metadata.name", name);
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": all } });
        view.cluster.apply(&namespace).await?;
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default", "namespace": name } });
        view.cluster.apply(&account).await?;
        Ok(Self { view: view.clone(), name: name.to_owned(), created: vec![namespace, account] })
    }

    /// A pod that serves TCP and UDP on [`PORT`], not yet created.
    pub(super) fn pod(&self, name: &str, node: &str, labels: &[(&str, &str)]) -> Value {
        let mut pod = cli::serving_pod(&self.name, name, node);
        for (key, value) in labels {
            pod["metadata"]["labels"][*key] = json!(value);
        }
        pod
    }

    /// Creates pods and waits until all are ready.
    pub(super) async fn run(&mut self, pods: &[Value]) -> Result<Vec<Pod>> {
        self.created.extend(pods.iter().cloned());
        try_join_all(pods.iter().map(|pod| self.view.run_pod(pod, POD))).await
    }

    /// Creates or changes an object, which [`Self::end`] then deletes.
    pub(super) async fn apply(&mut self, mut object: Value) -> Result<()> {
        if object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!(self.name);
        }
        self.view.cluster.apply(&object).await?;
        self.created.push(object);
        Ok(())
    }

    /// The same of an object that is in no namespace.
    pub(super) async fn apply_global(&mut self, object: Value) -> Result<()> {
        self.view.cluster.apply(&object).await?;
        self.created.push(object);
        Ok(())
    }

    /// Deletes everything, newest first, and waits until the pods are gone.
    pub(super) async fn end(self) -> Result<()> {
        for object in self.created.iter().rev().filter(|object| object["kind"] != "Pod") {
            if object["kind"] != "Namespace" && object["kind"] != "ServiceAccount" {
                self.view.cluster.delete(object).await?;
            }
        }
        let pods = self.created.iter().filter(|object| object["kind"] == "Pod");
        try_join_all(pods.map(|pod| self.view.end_pod(pod, POD))).await?;
        for object in self.created.iter().rev() {
            if object["kind"] == "Namespace" || object["kind"] == "ServiceAccount" {
                self.view.cluster.delete(object).await?;
            }
        }
        Ok(())
    }
}

/// The pod's name.
pub(super) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Of two addresses, which one has the family of `like`.
pub(super) fn same_family(addresses: &[IpAddr], like: IpAddr) -> Option<IpAddr> {
    addresses.iter().copied().find(|address| address.is_ipv4() == like.is_ipv4())
}

/// Every target answers, to a client that it sees under one of `client`'s own addresses.
pub(super) async fn expect_answers(view: &View, client: &Pod, targets: &[String]) -> Result<()> {
    let netns = view.netns_of_pod(client);
    let own = pod_addresses(client);
    for probe in view.connect(&netns, targets, ANSWER).await? {
        let Probe { target, ok, client: seen, error, .. } = &probe;
        ensure!(*ok, "{} to {target}: {}", name(client), error.as_deref().unwrap_or("no answer"));
        if let Some(seen) = seen {
            ensure!(own.contains(seen), "{} to {target}: it was seen as {seen}", name(client));
        }
    }
    Ok(())
}

/// No target answers: the packets are dropped, not refused.
pub(super) async fn expect_silence(view: &View, client: &Netns, targets: &[String]) -> Result<()> {
    for probe in view.connect(client, targets, SILENCE).await? {
        let Probe { target, ok, error, .. } = &probe;
        ensure!(!ok, "{} reaches {target}", client.name());
        let error = error.as_deref().unwrap_or_default();
        ensure!(error == "timeout", "{} to {target}: {error}, not silence", client.name());
    }
    Ok(())
}

/// A stream of messages from a namespace, as it was at its last report.
pub(super) struct Stream {
    child: tokio::process::Child,
    /// Read all the time: a program whose reports nobody takes stops when the pipe is full.
    reports: tokio::sync::mpsc::UnboundedReceiver<String>,
    target: String,
}

impl Stream {
    /// Starts sending 100 messages a second; for ever without a count.
    pub(super) async fn start(from: &Netns, target: &str, count: Option<u64>) -> Result<Self> {
        use tokio::io::AsyncBufReadExt as _;
        let mut command = Command::new(crate::agent::program("probe")?);
        command.args(["stream", "--rate=100", target]);
        if let Some(count) = count {
            command.arg(format!("--count={count}"));
        }
        command.stdout(std::process::Stdio::piped()).kill_on_drop(true);
        let mut child = process::spawn(command, Some(from)).await?;
        let stdout = child.stdout.take().context("no output")?;
        let mut lines = tokio::io::BufReader::new(stdout).lines();
        let (sender, reports) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, reports, target: target.to_owned() })
    }

    /// Reads reports until one satisfies; the error is the last one that did not.
    pub(super) async fn until(
        &mut self,
        what: &str,
        within: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Value::Null;
        let read = async {
            while let Some(line) = self.reports.recv().await {
                last = serde_json::from_str(&line)?;
                if holds(&last) {
                    return anyhow::Ok(Some(last.clone()));
                }
            }
            anyhow::Ok(None)
        };
        match tokio::time::timeout(within, read).await {
            Ok(Ok(Some(report))) => Ok(report),
            Ok(Ok(None)) => bail!("stream to {} ended before it {what}: {last}", self.target),
            Ok(Err(error)) => Err(error),
            Err(_) => bail!("stream to {} did not {what} within {within:?}: {last}", self.target),
        }
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.target.starts_with("tcp")
    }

    /// Waits for the last report of a stream with a count: every message was answered.
    pub(super) async fn expect_no_loss(mut self, within: Duration) -> Result<()> {
        let last = self.until("end", within, |report| report["final"] == true).await?;
        let _ = self.child.wait().await;
        ensure!(
            last["sent"] == last["received"] && last["sendErrors"] == 0,
            "stream to {} lost messages: {last}",
            self.target
        );
        Ok(())
    }
}

/// The blocks that a node says are its own.
pub(super) async fn blocks(view: &View, node: &str) -> Result<Vec<IpNet>> {
    let status = view.ask_felix(node, "status").await?;
    let blocks = status["ipam"]["blocks"].as_array().map_or(&[][..], Vec::as_slice);
    blocks
        .iter()
        .map(|block| {
            let cidr = block["cidr"].as_str().unwrap_or_default();
            cidr.parse().with_context(|| format!("{node}: block {cidr:?}"))
        })
        .collect()
}

/// Which blocks the nodes have. They give back those that earlier pods have left, once the addresses
/// have rested, and that may be during any test.
pub(super) struct Held(BTreeMap<String, BTreeSet<IpNet>>);

impl Held {
    pub(super) async fn of(view: &View) -> Result<Self> {
        let mut held = BTreeMap::new();
        for node in &view.plan.topology.nodes {
            let own = blocks(view, &node.name).await?;
            held.insert(node.name.clone(), own.into_iter().collect());
        }
        Ok(Self(held))
    }

    /// The blocks that were given back or claimed since. A node without an agent does neither.
    pub(super) async fn moved(&self, view: &View, dead: Option<&str>) -> Result<BTreeSet<IpNet>> {
        let mut moved = BTreeSet::new();
        for (node, before) in self.0.iter().filter(|(node, _)| Some(node.as_str()) != dead) {
            let now = blocks(view, node).await?.into_iter().collect();
            moved.extend(before.symmetric_difference(&now));
        }
        Ok(moved)
    }
}

/// Waits until a node has no endpoint and no address in use.
pub(super) async fn expect_empty(view: &View, node: &str) -> Result<()> {
    wait::until(&format!("{node} to be empty"), Duration::from_secs(20), || async {
        let status = view.ask_felix(node, "status").await?;
        ensure!(status["endpoints"] == 0, "it has {} endpoints", status["endpoints"]);
        for block in status["ipam"]["blocks"].as_array().into_iter().flatten() {
            ensure!(block["used"] == 0, "{} has {} addresses in use", block["cidr"], block["used"]);
        }
        Ok(())
    })
    .await
}
