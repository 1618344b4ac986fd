//! What benchmarks have in common.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::lab::{Bare, IpamKind, Lab, Options, View, temporary_name};
use crate::netns::Netns;
use crate::process;
use crate::progress::Progress;
use crate::topology::{Shape, Size};
use crate::{cli, http};

/// Where the agent of a node serves its metrics.
const METRICS: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9099);

/// A lab of one rack, with a real API server where one can be had.
pub(super) async fn rack(name: &str, nodes: u8) -> Result<Lab> {
    let options = Options {
        name: temporary_name(name),
        size: Size { shape: Shape::Racks, nodes, racks: 1, dual_homed: 0 },
        pods: 0,
        source: None,
        ipam: IpamKind::Etcd,
        agents: true,
    };
    Box::pin(Lab::up(&options, &Progress::hidden())).await
}

/// A pod that the lab's own kubelet leaves alone.
pub(super) fn unmanaged_pod(name: &str, node: &str) -> Value {
    let mut pod = cli::serving_pod("default", name, node);
    pod["metadata"]["annotations"][crate::kubelet::UNMANAGED] = json!("true");
    pod["metadata"]["labels"]["app"] = json!("bench");
    pod
}

/// A NetworkPolicy that lets clients reach the pods labelled `app: bench` on one port, and them
/// reach nothing but name servers.
pub(super) fn policy(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "bench" } },
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "role": "client" } } }],
                "ports": [{ "protocol": "TCP", "port": port }],
            }],
            "egress": [{ "ports": [{ "protocol": "UDP", "port": 53 }] }],
        },
    })
}

/// The sum of a metric's samples whose line begins with `prefix`.
pub(super) async fn metric(view: &View, node: &str, prefix: &str) -> Result<f64> {
    let (_, text) = http::get(&view.place.netns(node), METRICS, "/metrics").await?;
    let samples = text.lines().filter(|line| line.starts_with(prefix));
    let values = samples.map(|line| {
        let value = line.rsplit(' ').next().unwrap_or_default();
        value.parse::<f64>().with_context(|| format!("not a sample: {line}"))
    });
    values.sum()
}

pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Does something in a place for namespaces, which is removed whatever comes of it.
pub(super) async fn bare<T>(
    purpose: &str,
    work: impl AsyncFnOnce(&Bare) -> Result<T>,
) -> Result<T> {
    let bare = Bare::make(purpose).await?;
    let done = work(&bare).await;
    let removed = bare.remove().await;
    let done = done?;
    removed?;
    Ok(done)
}

/// What a program says, in JSON.
pub(super) async fn answer(command: Command, netns: &Netns, within: Duration) -> Result<Value> {
    let output = process::capture(command, Some(netns), b"", within).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, said.trim());
    Ok(serde_json::from_slice(&output.stdout)?)
}
