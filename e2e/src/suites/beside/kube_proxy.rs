//! kube-proxy, whose Services work under policy.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use super::super::kernel::{KernelState, inside};
use super::super::kit::{PORT, SILENCE, Scope, expect_silence};
use super::{Clients, NODE, SOON, answer, start, targets};
use crate::cluster::Cluster;
use crate::control_plane::ApiServer;
use crate::http;
use crate::lab::{Lab, View};
use crate::netns::Netns;
use crate::process::{self, Daemon};

const HEALTH: &str = "127.0.0.1:10256";
/// The service's own port; its pods' is [`PORT`].
const SERVICE_PORT: u16 = 80;

pub(super) fn nftables(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    let tables = &["nft", "-s", "list", "table", "ip", "kube-proxy"];
    beside(lab, Mode { name: "nftables", tables }).boxed()
}

pub(super) fn iptables(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    beside(lab, Mode { name: "iptables", tables: &["iptables-save"] }).boxed()
}

#[derive(Clone, Copy)]
struct Mode {
    name: &'static str,
    /// Prints what it has written, of IPv4.
    tables: &'static [&'static str],
}

/// kube-proxy on a node.
struct Proxy {
    program: PathBuf,
    kubeconfig: PathBuf,
    mode: Mode,
    netns: Netns,
    daemon: Option<Daemon>,
}

impl Proxy {
    fn new(lab: &Lab, mode: Mode) -> Result<Self> {
        let place = &lab.view().place;
        let program = lab.api_server.as_ref().context("no API server")?.kube_proxy();
        Ok(Self {
            program: program.context("TEST_ASSET_KUBE_PROXY or KUBEBUILDER_ASSETS has none")?,
            kubeconfig: ApiServer::kubeconfig(place),
            mode,
            netns: place.netns(NODE),
            daemon: None,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(format!("--proxy-mode={}", self.mode.name));
        command
    }

    /// Starts it; its rules are there when this returns.
    async fn start(&mut self, lab: &Lab) -> Result<()> {
        let log = lab.view().place.directory_of(NODE).join("kube-proxy.log");
        let mut command = self.command();
        command.args([
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--hostname-override={NODE}"),
            format!("--healthz-bind-address={HEALTH}"),
            "--metrics-bind-address=127.0.0.1:10249".into(),
            // Of the machine, not of a namespace.
            "--conntrack-max-per-core=0".into(),
            "--conntrack-tcp-timeout-established=0s".into(),
            "--conntrack-tcp-timeout-close-wait=0s".into(),
        ]);
        let health = HEALTH.parse()?;
        let ready = async || {
            let (status, body) = http::get(&self.netns, health, "/healthz").await?;
            ensure!(status == 200, "{status} {}", body.trim());
            Ok(())
        };
        let daemon = start(lab, "kube-proxy", &self.netns, command, &log, ready).await?;
        self.daemon = Some(daemon);
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop(Signal::SIGTERM, Duration::from_secs(20)).await?;
        }
        Ok(())
    }

    /// What its `--cleanup` does, which is all of it: the flush before another mode is used.
    async fn clean_up(&self) -> Result<()> {
        let mut command = self.command();
        command.arg("--cleanup");
        let output = process::capture(command, Some(&self.netns), b"", SOON).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// What it has written, without what counts.
    async fn tables(&self) -> Result<Vec<String>> {
        let text = inside(&self.netns, self.mode.tables).await?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let without = lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned());
        Ok(without.collect())
    }
}

/// A service whose clients are seen as what they are, also from outside.
fn service() -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "api" },
        "spec": { "type": "NodePort", "externalTrafficPolicy": "Local",
            "ipFamilyPolicy": "RequireDualStack", "selector": { "app": "api" },
            "ports": [{ "port": SERVICE_PORT, "targetPort": PORT, "protocol": "TCP" }] } })
}

/// The addresses of the service, and its port on nodes.
async fn addresses(view: &View, scope: &Scope) -> Result<(Vec<IpAddr>, u16)> {
    let Cluster::Kubernetes(cluster) = &view.cluster else { bail!("no Kubernetes") };
    let services: Api<Service> = Api::namespaced(cluster.client().clone(), &scope.name);
    let spec = services.get("api").await?.spec.context("a service without spec")?;
    let addresses = spec.cluster_ips.unwrap_or_default();
    let addresses = addresses.iter().map(|address| Ok(address.parse()?)).collect::<Result<_>>()?;
    let port = spec.ports.unwrap_or_default().first().and_then(|port| port.node_port);
    Ok((addresses, u16::try_from(port.context("no port on nodes")?)?))
}

/// The service from the pods' side and from outside.
struct Asked {
    cluster: Vec<String>,
    node: Vec<String>,
}

/// Policy is about the pod, whichever way it is asked.
async fn expect_policy(clients: &Clients, asked: &Asked) -> Result<()> {
    let view = &clients.view;
    answer(view, &clients.allowed, &asked.cluster).await?;
    expect_silence(view, &clients.denied, &asked.cluster).await?;
    expect_silence(view, &clients.outside, &asked.node).await?;
    clients.expect_policy().await
}

async fn beside(lab: &mut Lab, mode: Mode) -> Result<()> {
    let view = lab.view().clone();
    let mut scope = Scope::new(&view, &format!("beside-{}", mode.name)).await?;
    let clients = Clients::new(&mut scope).await?;
    let netns = view.netns_of(NODE)?;
    let state = async || anyhow::Ok(KernelState::of(&netns).await?.without_blocks());
    scope.apply(service()).await?;
    let (cluster, node_port) = addresses(&view, &scope).await?;
    let node = view.plan.topology.node(NODE).context("no such node")?;
    let asked = Asked {
        cluster: targets(&cluster, SERVICE_PORT),
        node: targets(&node.addresses(), node_port),
    };
    let ours = state().await?;
    let mut proxy = Proxy::new(lab, mode)?;
    proxy.start(lab).await?;
    for from in [&clients.allowed, &clients.denied, &netns] {
        answer(&view, from, &asked.cluster).await?;
    }
    answer(&view, &clients.outside, &asked.node).await?;
    ours.expect_same(&state().await?, "by kube-proxy")?;

    clients.deny(&mut scope).await?;
    expect_policy(&clients, &asked).await?;
    // The node itself always reaches its pods, by the service, too.
    answer(&view, &netns, &asked.cluster).await?;

    // The agent goes and comes.
    let theirs = proxy.tables().await?;
    ensure!(theirs.iter().any(|line| line.contains("beside-")), "{theirs:?}");
    lab.agent(NODE)?.stop(Signal::SIGKILL).await?;
    expect_policy(&clients, &asked).await?;
    lab.agent(NODE)?.start().await?;
    lab.agent(NODE)?.ready().await?;
    expect_policy(&clients, &asked).await?;
    let now = proxy.tables().await?;
    ensure!(theirs == now, "the agent changed what is not its own:\n{theirs:#?}\n{now:#?}");

    // kube-proxy goes, with all that it has written, and comes.
    let ours = state().await?;
    let again = async {
        proxy.stop().await?;
        proxy.clean_up().await?;
        let probes = view.connect(&clients.allowed, &asked.cluster, SILENCE).await?;
        ensure!(probes.iter().all(|probe| !probe.ok), "it is still there: {probes:?}");
        proxy.start(lab).await
    };
    clients.hold_during("while kube-proxy went and came", again).await?;
    ours.expect_same(&state().await?, "by kube-proxy's end")?;
    expect_policy(&clients, &asked).await?;

    // Everything is flushed by somebody else, below both.
    let flush = async { inside(&netns, &["nft", "flush", "ruleset"]).await.map(drop) };
    clients.hold_during("while the ruleset was flushed", flush).await?;
    ours.expect_same(&state().await?, "by a flush")?;
    // It does not see by itself that its rules are gone, in nftables mode.
    proxy.stop().await?;
    proxy.start(lab).await?;
    expect_policy(&clients, &asked).await?;
    proxy.stop().await?;
    proxy.clean_up().await?;
    scope.end().await
}
