//! Beside what else programs a node's netfilter: neither touches what the other has written, and policy
//! holds while the other goes, comes and flushes.

mod docker;
mod firewalld;
mod kube_proxy;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tokio::process::Command;

use super::kit::{ANSWER, PORT, SILENCE, Scope, expect_silence};
use super::policy::{allow_frontend, default_deny_ingress};
use super::{BESIDE, Test};
use crate::lab::{Lab, View, pod_targets};
use crate::netns::Netns;
use crate::process::{self, Daemon};
use crate::wait;

pub(super) const TESTS: &[Test] = &[
    Test { name: "beside::kube_proxy_nftables", bed: &BESIDE, body: kube_proxy::nftables },
    Test { name: "beside::kube_proxy_iptables", bed: &BESIDE, body: kube_proxy::iptables },
    Test { name: "beside::docker", bed: &BESIDE, body: docker::beside },
    Test { name: "beside::firewalld", bed: &BESIDE, body: firewalld::beside },
];

const NODE: &str = "node1";
/// Has a pod that is allowed, and itself is outside.
const OUTSIDE: &str = "node2";
/// kube-proxy looks at everything again within half a minute, and the machine is busy.
const SOON: Duration = Duration::from_secs(90);

fn targets(addresses: &[IpAddr], port: u16) -> Vec<String> {
    let socket = |address: &IpAddr| std::net::SocketAddr::new(*address, port);
    addresses.iter().map(|address| format!("tcp://{}", socket(address))).collect()
}

/// All answer, soon.
async fn answer(view: &View, from: &Netns, targets: &[String]) -> Result<()> {
    wait::until(&format!("{targets:?} to answer {}", from.name()), SOON, || async {
        let probes = view.connect(from, targets, ANSWER).await?;
        let silent: Vec<_> = probes.iter().filter(|probe| !probe.ok).collect();
        ensure!(silent.is_empty(), "{silent:?}");
        Ok(())
    })
    .await
}

/// Starts a program on a node; it is ready when this returns.
async fn start<F: Future<Output = Result<()>>>(
    lab: &Lab,
    name: &str,
    netns: &Netns,
    command: Command,
    log: &Path,
    ready: impl Fn() -> F,
) -> Result<Daemon> {
    let mut daemon = Daemon::start(lab.record(), name, netns, command, log).await?;
    wait::until(name, SOON, || {
        let (state, ready) = (daemon.check(), ready());
        async move {
            state?;
            ready.await
        }
    })
    .await
    .map_err(|error| error.context(process::log_tail(log, 20)))?;
    Ok(daemon)
}

/// Who asks a pod of the node, from where.
struct Clients {
    view: View,
    /// On the same node.
    allowed: Netns,
    denied: Netns,
    /// On another.
    far: Netns,
    /// That node itself.
    outside: Netns,
    to_pod: Vec<String>,
}

impl Clients {
    async fn new(scope: &mut Scope) -> Result<Self> {
        let view = scope.view.clone();
        let wanted = [
            scope.pod("api", NODE, &[("app", "api")]),
            scope.pod("frontend", NODE, &[("role", "frontend")]),
            scope.pod("stranger", NODE, &[("role", "backend")]),
            scope.pod("far", OUTSIDE, &[("role", "frontend")]),
        ];
        let [api, frontend, stranger, far] = <[Pod; 4]>::try_from(scope.run(&wanted).await?)
            .map_err(|pods| anyhow::anyhow!("{} pods", pods.len()))?;
        view.wait_for_routes().await?;
        Ok(Self {
            allowed: view.netns_of_pod(&frontend),
            denied: view.netns_of_pod(&stranger),
            far: view.netns_of_pod(&far),
            outside: view.netns_of(OUTSIDE)?,
            to_pod: pod_targets(&api, "tcp", PORT),
            view,
        })
    }

    /// Whoever policy allows gets answers.
    async fn answer(&self) -> Result<()> {
        answer(&self.view, &self.allowed, &self.to_pod).await?;
        answer(&self.view, &self.far, &self.to_pod).await
    }

    /// From now on policy denies some.
    async fn deny(&self, scope: &mut Scope) -> Result<()> {
        for policy in [default_deny_ingress(), allow_frontend()] {
            scope.apply(policy).await?;
        }
        wait::until("policy to be in force", SOON, || async {
            expect_silence(&self.view, &self.denied, &self.to_pod).await
        })
        .await?;
        self.expect_policy().await
    }

    async fn expect_policy(&self) -> Result<()> {
        for from in [&self.denied, &self.outside] {
            expect_silence(&self.view, from, &self.to_pod).await?;
        }
        self.answer().await
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
