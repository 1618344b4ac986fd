//! Beside what else programs a node's netfilter: kube-proxy in both its modes. Its Services work under
//! policy, neither touches the other's, and policy holds while the other goes, comes and flushes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::Api;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use super::kernel::{KernelState, inside};
use super::kit::{ANSWER, PORT, SILENCE, Scope, expect_silence};
use super::policy::{allow_frontend, default_deny_ingress};
use super::{BESIDE, Test};
use crate::cluster::Cluster;
use crate::control_plane::ApiServer;
use crate::lab::{Lab, View, pod_targets};
use crate::netns::Netns;
use crate::process::{self, Daemon};
use crate::{http, wait};

pub(super) const TESTS: &[Test] = &[
    Test { name: "beside::kube_proxy_nftables", bed: &BESIDE, body: nftables },
    Test { name: "beside::kube_proxy_iptables", bed: &BESIDE, body: iptables },
];

const NODE: &str = "node1";
/// Reaches the node's ports from outside.
const OUTSIDE: &str = "node2";
const HEALTH: &str = "127.0.0.1:10256";
/// The service's own port; its pods' is [`PORT`].
const SERVICE_PORT: u16 = 80;
/// kube-proxy looks at everything again within half a minute.
const SYNCED: Duration = Duration::from_secs(90);

fn nftables(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    beside(
        lab,
        Mode { name: "nftables", tables: &["nft", "-s", "list", "table", "ip", "kube-proxy"] },
    )
    .boxed()
}

fn iptables(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
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
        let mut daemon =
            Daemon::start(lab.record(), "kube-proxy", &self.netns, command, &log).await?;
        let health = HEALTH.parse()?;
        wait::until("kube-proxy", SYNCED, || {
            let (state, netns) = (daemon.check(), &self.netns);
            async move {
                state?;
                let (status, body) = http::get(netns, health, "/healthz").await?;
                ensure!(status == 200, "{status} {}", body.trim());
                Ok(())
            }
        })
        .await
        .map_err(|error| error.context(process::log_tail(&log, 20)))?;
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
        let output = process::capture(command, Some(&self.netns), b"", SYNCED).await?;
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

fn targets(addresses: &[IpAddr], port: u16) -> Vec<String> {
    let socket = |address: &IpAddr| std::net::SocketAddr::new(*address, port);
    addresses.iter().map(|address| format!("tcp://{}", socket(address))).collect()
}

/// All answer, at the latest when kube-proxy has looked at everything again.
async fn answer(view: &View, from: &Netns, targets: &[String]) -> Result<()> {
    wait::until(&format!("{targets:?} to answer {}", from.name()), SYNCED, || async {
        let probes = view.connect(from, targets, ANSWER).await?;
        let silent: Vec<_> = probes.iter().filter(|probe| !probe.ok).collect();
        ensure!(silent.is_empty(), "{silent:?}");
        Ok(())
    })
    .await
}

/// Who asks what, with a service in between and without one.
struct Clients<'a> {
    view: &'a View,
    allowed: Netns,
    denied: Netns,
    outside: Netns,
    to_service: Vec<String>,
    to_pod: Vec<String>,
    to_node: Vec<String>,
}

impl Clients<'_> {
    /// Policy is about the pod, whichever way it is asked.
    async fn expect_policy(&self) -> Result<()> {
        answer(self.view, &self.allowed, &self.to_service).await?;
        for targets in [&self.to_service, &self.to_pod] {
            expect_silence(self.view, &self.denied, targets).await?;
        }
        answer(self.view, &self.allowed, &self.to_pod).await?;
        expect_silence(self.view, &self.outside, &self.to_node).await
    }

    /// While something else is done, as often as there is time for it, nothing that is denied comes through
    /// to the pod, and what is allowed does.
    async fn hold_during(&self, what: &str, work: impl Future<Output = Result<()>>) -> Result<()> {
        let mut work = std::pin::pin!(work);
        let mut rounds = 0;
        loop {
            let look = async {
                for probe in self.view.connect(&self.denied, &self.to_pod, SILENCE).await? {
                    ensure!(!probe.ok, "let through {what}: {probe:?}");
                }
                for probe in self.view.connect(&self.allowed, &self.to_pod, ANSWER).await? {
                    ensure!(probe.ok, "not let through {what}: {probe:?}");
                }
                Ok(())
            };
            let mut look = std::pin::pin!(look);
            let mut done = None;
            loop {
                tokio::select! {
                    result = &mut work, if done.is_none() => done = Some(result),
                    looked = &mut look => {
                        looked?;
                        rounds += 1;
                        break;
                    }
                }
            }
            if let Some(result) = done {
                ensure!(rounds > 0, "nobody looked");
                return result;
            }
        }
    }
}

async fn beside(lab: &mut Lab, mode: Mode) -> Result<()> {
    let view = lab.view().clone();
    let mut scope = Scope::new(&view, &format!("beside-{}", mode.name)).await?;
    let wanted = [
        scope.pod("api", NODE, &[("app", "api")]),
        scope.pod("frontend", NODE, &[("role", "frontend")]),
        scope.pod("stranger", NODE, &[("role", "backend")]),
    ];
    let [api, frontend, stranger] = <[Pod; 3]>::try_from(scope.run(&wanted).await?)
        .map_err(|pods| anyhow::anyhow!("{} pods", pods.len()))?;
    view.wait_for_routes().await?;
    scope.apply(service()).await?;
    let (cluster, node_port) = addresses(&view, &scope).await?;
    let node = view.plan.topology.node(NODE).context("no such node")?;
    let clients = Clients {
        view: &view,
        allowed: view.netns_of_pod(&frontend),
        denied: view.netns_of_pod(&stranger),
        outside: view.netns_of(OUTSIDE)?,
        to_service: targets(&cluster, SERVICE_PORT),
        to_pod: pod_targets(&api, "tcp", PORT),
        to_node: targets(&node.addresses(), node_port),
    };
    let ours = KernelState::of(&view.netns_of(NODE)?).await?;
    let mut proxy = Proxy::new(lab, mode)?;
    proxy.start(lab).await?;
    for from in [&clients.allowed, &clients.denied, &view.netns_of(NODE)?] {
        answer(&view, from, &clients.to_service).await?;
    }
    answer(&view, &clients.outside, &clients.to_node).await?;
    ours.expect_same(&KernelState::of(&view.netns_of(NODE)?).await?, "by kube-proxy")?;

    for policy in [default_deny_ingress(), allow_frontend()] {
        scope.apply(policy).await?;
    }
    super::policy::within_a_second(&view, &stranger, &clients.to_pod, false).await?;
    clients.expect_policy().await?;
    // The node itself always reaches its pods, by the service, too.
    answer(&view, &view.netns_of(NODE)?, &clients.to_service).await?;

    // The agent goes and comes.
    let theirs = proxy.tables().await?;
    ensure!(theirs.iter().any(|line| line.contains("beside-")), "{theirs:?}");
    lab.agent(NODE)?.stop(Signal::SIGKILL).await?;
    clients.expect_policy().await?;
    lab.agent(NODE)?.start().await?;
    lab.agent(NODE)?.ready().await?;
    clients.expect_policy().await?;
    let now = proxy.tables().await?;
    ensure!(theirs == now, "the agent changed what is not its own:\n{theirs:#?}\n{now:#?}");

    // kube-proxy goes, with all that it has written, and comes.
    let ours = KernelState::of(&view.netns_of(NODE)?).await?;
    let again = async {
        proxy.stop().await?;
        proxy.clean_up().await?;
        let probes = view.connect(&clients.allowed, &clients.to_service, SILENCE).await?;
        ensure!(probes.iter().all(|probe| !probe.ok), "it is still there: {probes:?}");
        proxy.start(lab).await
    };
    clients.hold_during("while kube-proxy went and came", again).await?;
    ours.expect_same(&KernelState::of(&view.netns_of(NODE)?).await?, "by kube-proxy's end")?;
    clients.expect_policy().await?;

    // Everything is flushed by somebody else, below both.
    let netns = view.netns_of(NODE)?;
    let flush = async { inside(&netns, &["nft", "flush", "ruleset"]).await.map(drop) };
    clients.hold_during("while the ruleset was flushed", flush).await?;
    ours.expect_same(&KernelState::of(&netns).await?, "by a flush")?;
    // It does not see by itself that its rules are gone, in nftables mode.
    proxy.stop().await?;
    proxy.start(lab).await?;
    clients.expect_policy().await?;
    proxy.stop().await?;
    proxy.clean_up().await?;
    scope.end().await
}
