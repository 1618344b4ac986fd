//! A lab as it can be looked at and used from any process.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::{join_all, try_join_all};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use super::Plan;
use crate::cluster::Cluster;
use crate::fabric::{self, Place, Route, RouterHandle};
use crate::kubelet::pod_name;
use crate::netns::Netns;
use crate::topology::{POOL_V4, POOL_V6};
use crate::{process, wait};

/// On top of what probes themselves wait for.
const PROBE_SLACK: Duration = Duration::from_secs(15);

/// Where a lab is, what it was planned to be, and its objects.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) place: Place,
    pub(crate) plan: Plan,
    pub(crate) cluster: Cluster,
}

/// What became of one question to one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) target: String,
    pub(crate) ok: bool,
    /// Whom the server saw.
    #[serde(default)]
    pub(crate) client: Option<IpAddr>,
    #[serde(default)]
    pub(crate) micros: Option<u64>,
    /// `timeout`, `refused`, `reset`, `unreachable` or `failed`.
    #[serde(default)]
    pub(crate) error: Option<String>,
}

impl View {
    /// The routers, ToRs first.
    pub(crate) fn routers(&self) -> Vec<RouterHandle> {
        fabric::handles(&self.place, &self.plan.topology)
    }

    /// The router of that name.
    pub(crate) fn router(&self, name: &str) -> Result<RouterHandle> {
        let router = self.routers().into_iter().find(|r| r.router().name == name);
        router.with_context(|| format!("no router {name}"))
    }

    /// The namespace of a node, router, pod, `outside` or `control`; a pod is `NAME` in the
    /// namespace `default`, or `NAMESPACE/NAME`, or `NAMESPACE.NAME` as in the logs.
    pub(crate) fn netns_of(&self, name: &str) -> Result<Netns> {
        let pod = name.split_once('/').map_or_else(
            || pod_name("default", name),
            |(namespace, name)| pod_name(namespace, name),
        );
        let candidates = [name.to_owned(), pod].map(|name| self.place.netns(&name));
        candidates
            .into_iter()
            .find(Netns::exists)
            .with_context(|| format!("{} has no node, router or pod {name}", self.place.lab))
    }

    /// The namespace of a pod.
    pub(crate) fn netns_of_pod(&self, pod: &Pod) -> Netns {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.place.netns(&pod_name(namespace, name))
    }

    /// Asks targets from inside a namespace, all at once.
    pub(crate) async fn connect(
        &self,
        from: &Netns,
        targets: &[String],
        timeout: Duration,
    ) -> Result<Vec<Probe>> {
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = Command::new(crate::agent::program("probe")?);
        command.arg("connect").arg(format!("--timeout={}", timeout.as_millis())).args(targets);
        let output = process::capture(command, Some(from), b"", timeout + PROBE_SLACK).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let probes: Vec<Probe> =
            text.lines()
                .map(serde_json::from_str)
                .collect::<Result<_, _>>()
                .with_context(|| format!("the probe in {} said: {text}", from.name()))?;
        ensure!(
            probes.len() == targets.len(),
            "the probe in {}: {}",
            from.name(),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(probes)
    }

    /// Creates a pod and waits until it is ready.
    pub(crate) async fn run_pod(&self, pod: &Value, within: Duration) -> Result<Pod> {
        self.cluster.apply(pod).await?;
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
        let namespace = text("/metadata/namespace").unwrap_or("default");
        self.wait_for_pod(namespace, text("/metadata/name").unwrap_or_default(), within).await
    }

    /// Waits until a pod is ready.
    ///
    /// # Errors
    /// What its status gives as the reason.
    pub(crate) async fn wait_for_pod(
        &self,
        namespace: &str,
        name: &str,
        within: Duration,
    ) -> Result<Pod> {
        wait::until(&format!("pod {namespace}/{name} to be ready"), within, || async {
            let pod = self.cluster.pod(namespace, name).await?.context("it is not there")?;
            ensure!(is_ready(&pod), "{}", why_not_ready(&pod));
            Ok(pod)
        })
        .await
    }

    /// Deletes a pod and waits until it is gone.
    pub(crate) async fn end_pod(&self, pod: &Value, within: Duration) -> Result<bool> {
        if !self.cluster.delete(pod).await? {
            return Ok(false);
        }
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
        let namespace = text("/metadata/namespace").unwrap_or("default");
        let name = text("/metadata/name").unwrap_or_default();
        wait::until(&format!("pod {namespace}/{name} to be gone"), within, || async {
            ensure!(self.cluster.pod(namespace, name).await?.is_none(), "it is there");
            Ok(true)
        })
        .await
    }

    /// What `felix` of a node answers to a question such as `status`.
    pub(crate) async fn ask_felix(&self, node: &str, question: &str) -> Result<Value> {
        self.felix(node, &[question], b"").await
    }

    /// The same for a question of more words, with something to read.
    pub(crate) async fn felix(&self, node: &str, words: &[&str], input: &[u8]) -> Result<Value> {
        let mut command = Command::new(self.place.bin_of(node).join("felix"));
        command.args(words).args(["-o", "json"]);
        let netns = self.place.netns(node);
        let output =
            process::capture(command, Some(&netns), input, Duration::from_secs(15)).await?;
        if !output.status.success() {
            bail!("{node}: felix {words:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("{node}: felix {words:?}"))
    }

    /// Waits until every session of the plan is up: the routers say so of those with them, the
    /// nodes of those among themselves.
    pub(crate) async fn wait_for_sessions(&self) -> Result<()> {
        let routers = self.routers();
        let nodes = &self.plan.topology.nodes;
        wait::until("every BGP session", Duration::from_secs(60), || async {
            for sessions in try_join_all(routers.iter().map(RouterHandle::sessions)).await? {
                if let Some(down) = sessions.iter().find(|session| !session.established) {
                    bail!("with {} (AS {}): {}", down.neighbor, down.asn, down.state);
                }
            }
            for node in nodes {
                let status = self.ask_felix(&node.name, "status").await?;
                let peers = status["bgp"]["peers"].as_array().map_or(&[][..], Vec::as_slice);
                let wanted = if routers.is_empty() { nodes.len() - 1 } else { node.uplinks.len() };
                ensure!(
                    peers.len() >= wanted,
                    "{} has {} of {wanted} peers",
                    node.name,
                    peers.len()
                );
                let down = peers.iter().find(|peer| peer["state"] != "Established");
                if let Some(peer) = down {
                    bail!(
                        "{} with {}: {} {}",
                        node.name,
                        peer["address"],
                        peer["state"],
                        peer["reason"]
                    );
                }
            }
            Ok(())
        })
        .await
    }

    /// Where pods' addresses come from.
    pub(crate) fn pools(&self) -> Result<[IpNet; 2]> {
        Ok([POOL_V4.parse()?, POOL_V6.parse()?])
    }

    /// Waits until every router, and every other node's kernel, has a route to every pod.
    pub(crate) async fn wait_for_routes(&self) -> Result<()> {
        let pods = self.cluster.pods().await?;
        let addresses: Vec<IpAddr> = pods.iter().flat_map(pod_addresses).collect();
        let routers = self.routers();
        wait::until("routes to every pod", Duration::from_secs(30), || async {
            for router in &routers {
                let routes = router.routes().await?;
                let missing = addresses
                    .iter()
                    .find(|ip| !routes.iter().any(|r| r.used && pod_route(r, **ip)));
                if let Some(ip) = missing {
                    bail!("{} has none to {ip}", router.router().name);
                }
            }
            for node in self.plan.topology.nodes.iter().filter(|_| self.plan.agents) {
                let routes = self.kernel_routes(&node.name).await?;
                let missing =
                    addresses.iter().find(|ip| !routes.iter().any(|net| net.contains(*ip)));
                if let Some(ip) = missing {
                    bail!("the kernel of {} has none to {ip}", node.name);
                }
            }
            Ok(())
        })
        .await
    }

    /// The destinations of a node's routes, without default routes and those to nowhere.
    async fn kernel_routes(&self, node: &str) -> Result<Vec<IpNet>> {
        let netns = self.place.netns(node);
        let mut nets = Vec::new();
        for family in ["-4", "-6"] {
            let args = ["-n", netns.name(), "-j", family, "route", "show"];
            let routes: Vec<Value> = serde_json::from_str(&process::output("ip", args).await?)?;
            for route in routes {
                let destination = route["dst"].as_str().unwrap_or_default();
                if route["type"] == "blackhole" || destination == "default" {
                    continue;
                }
                let address = destination.parse::<IpAddr>().map(IpNet::from);
                nets.extend(destination.parse::<IpNet>().ok().or(address.ok()));
            }
        }
        Ok(nets)
    }

    /// Pings every pod from every pod, both families: for each source, the probes of each target.
    pub(crate) async fn ping_matrix(&self, pods: &[Pod]) -> Vec<Vec<Vec<Probe>>> {
        let rows = pods.iter().map(|source| async {
            let targets: Vec<Vec<String>> = pods
                .iter()
                .map(|pod| pod_addresses(pod).iter().map(|ip| format!("icmp://{ip}")).collect())
                .collect();
            let flat: Vec<String> = targets.iter().flatten().cloned().collect();
            let netns = self.netns_of_pod(source);
            let answers = self.connect(&netns, &flat, Duration::from_secs(2)).await;
            let mut answers = answers.unwrap_or_default().into_iter();
            targets.iter().map(|targets| answers.by_ref().take(targets.len()).collect()).collect()
        });
        join_all(rows).await
    }
}

/// A route to that address that is not a default route.
fn pod_route(route: &Route, address: IpAddr) -> bool {
    route.prefix.prefix_len() > 0 && route.prefix.contains(&address)
}

/// The pod's addresses, as its status has them.
pub(crate) fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let ips = pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
    ips.into_iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect()
}

/// `PROTOCOL://ADDRESS:PORT` for each of the pod's addresses.
pub(crate) fn pod_targets(pod: &Pod, protocol: &str, port: u16) -> Vec<String> {
    let target = |ip| format!("{protocol}://{}", SocketAddr::new(ip, port));
    pod_addresses(pod).into_iter().map(target).collect()
}

/// Is it running and ready, with its address known?
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn why_not_ready(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "it has no status".into() };
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| container.state.as_ref()?.waiting.as_ref()?.message.clone());
    waiting.unwrap_or_else(|| format!("it is {}", status.phase.as_deref().unwrap_or("unknown")))
}
