//! Addresses for Services of type LoadBalancer: two replicas of `felix load-balancer`, of which one acts,
//! with the rights of the installation.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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

use super::kit::Scope;
use super::outage::check;
use super::{RACKS, Test};
use crate::agent::program;
use crate::cluster::{Cluster, read_objects};
use crate::control_plane::manifests;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::{self, Daemon};
use crate::{http, wait};

pub(super) const TESTS: &[Test] =
    &[Test { name: "services::addresses_of_pools", bed: &RACKS, body: addresses_of_pools }];

/// As in the Deployment.
const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9098);
const ACCOUNT: &str = "caracal-load-balancer";
/// A Lease lasts 15 s, and the machine is busy.
const ADDRESS: Duration = Duration::from_secs(90);
/// How long a released address rests here, in seconds.
const COOLDOWN: u32 = 30;
/// That, and the longest pause between two attempts to give it.
const RESTED: Duration = Duration::from_secs(180);

/// One replica.
struct Replica {
    netns: Netns,
    daemon: Daemon,
}

impl Replica {
    async fn start(lab: &Lab, node: &str, config: &PathBuf) -> Result<Self> {
        let place = &lab.view().place;
        let netns = place.netns(node);
        let log = place.directory_of(node).join("load-balancer.log");
        let mut command = Command::new(program("felix")?);
        command.arg("load-balancer").arg("--config").arg(config);
        let name = format!("load-balancer of {node}");
        let mut daemon = Daemon::start(lab.record(), &name, &netns, command, &log).await?;
        wait::until(&name, ADDRESS, || {
            let (state, netns) = (daemon.check(), &netns);
            async move {
                state?;
                let (status, body) = http::get(netns, HTTP, "/readyz").await?;
                ensure!(status == 200, "{status} {}", body.trim());
                Ok(())
            }
        })
        .await
        .map_err(|error| error.context(process::log_tail(&log, 20)))?;
        Ok(Self { netns, daemon })
    }

    async fn acts(&self) -> Result<bool> {
        let (_, metrics) = http::get(&self.netns, HTTP, "/metrics").await?;
        Ok(metrics.lines().any(|line| line == "caracal_load_balancer_leader 1"))
    }
}

fn service(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "selector": { "app": name }, "ports": [{ "port": 80, "protocol": "TCP" }] } })
}

/// What a Service's status says.
async fn addresses(lab: &Lab, scope: &Scope, name: &str) -> Result<Vec<IpAddr>> {
    let Cluster::Kubernetes(cluster) = &lab.view().cluster else { bail!("no Kubernetes") };
    let services: Api<Service> = Api::namespaced(cluster.client().clone(), &scope.name);
    let status = services.get(name).await?.status.and_then(|status| status.load_balancer);
    let ingress = status.and_then(|balancer| balancer.ingress).unwrap_or_default();
    ingress.iter().map(|one| Ok(one.ip.as_deref().context("no address")?.parse()?)).collect()
}

/// Waits until the Service has an address, which it says.
async fn address(lab: &Lab, scope: &Scope, name: &str, within: Duration) -> Result<IpAddr> {
    wait::until(&format!("an address for {name}"), within, || async {
        match addresses(lab, scope, name).await?[..] {
            [address] => Ok(address),
            ref other => bail!("{other:?}"),
        }
    })
    .await
}

/// The rights of the installation, and a configuration with them.
async fn install(lab: &Lab, scope: &mut Scope) -> Result<PathBuf> {
    let view = lab.view();
    let Cluster::Kubernetes(cluster) = &view.cluster else { bail!("no Kubernetes") };
    for object in read_objects(&manifests::folder().join("install/load-balancer"))? {
        let kind = object["kind"].as_str().unwrap_or_default();
        // The processes are the test's own.
        if !["Deployment", "Component", ""].contains(&kind) {
            scope.apply_global(object).await?;
        }
    }
    let folder = view.place.directory_of("load-balancer");
    std::fs::create_dir_all(&folder)?;
    let (kubeconfig, config) = (folder.join("kubeconfig"), folder.join("felix.yaml"));
    let server = lab.api_server.as_ref().context("no API server")?;
    server.service_account_kubeconfig(cluster, manifests::NAMESPACE, ACCOUNT, &kubeconfig).await?;
    let etcd = lab.etcd.as_ref().context("no etcd")?;
    let settings = json!({
        "nodeName": "load-balancer",
        "source": { "kind": "kubernetes", "kubeconfig": kubeconfig },
        "ipam": { "store": "etcd", "endpoints": [etcd.endpoint()] },
        "http": { "address": HTTP.to_string() },
    });
    std::fs::write(&config, serde_saphyr::to_string(&settings)?)?;
    Ok(config)
}

fn addresses_of_pools(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "services").await?;
        let pool = json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
            "metadata": { "name": "lab-services" },
            "spec": { "cidr": "198.51.100.0/30", "blockSize": 30, "nodeSelector": "all()",
                "allowedUses": ["LoadBalancer"] } });
        scope.apply_global(pool).await?;
        let rests = json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPAMConfiguration",
            "metadata": { "name": "default" }, "spec": { "ipCooldownSeconds": COOLDOWN } });
        scope.apply_global(rests).await?;
        let config = install(lab, &mut scope).await?;
        let mut replicas = Vec::new();
        for node in ["node1", "node2"] {
            replicas.push(Replica::start(lab, node, &config).await?);
        }

        scope.apply(service("first")).await?;
        let first = address(lab, &scope, "first", ADDRESS).await?;
        let net: ipnet::IpNet = "198.51.100.0/30".parse()?;
        ensure!(net.contains(&first), "{first}");

        // Whoever acts dies; the other one takes over.
        let acting = wait::until("one that acts", ADDRESS, || async {
            let acts = [replicas[0].acts().await?, replicas[1].acts().await?];
            ensure!(acts[0] != acts[1], "{acts:?}");
            Ok(usize::from(acts[1]))
        })
        .await?;
        let mut dead = replicas.swap_remove(acting);
        dead.daemon.stop(Signal::SIGKILL, Duration::from_secs(5)).await?;
        scope.apply(service("second")).await?;
        let second = address(lab, &scope, "second", ADDRESS).await?;

        // Without etcd nobody loses anything, and who came meanwhile is served afterwards.
        lab.etcd.as_mut().context("no etcd")?.kill().await?;
        scope.apply(service("third")).await?;
        let patient = wait::until("a look at it", ADDRESS, || async {
            let (_, metrics) = http::get(&replicas[0].netns, HTTP, "/metrics").await?;
            let failing = metrics.lines().find(|line| line.contains("_failing "));
            ensure!(failing.is_some_and(|line| !line.ends_with(" 0")), "{failing:?}");
            Ok(())
        });
        patient.await?;
        ensure!(addresses(lab, &scope, "third").await?.is_empty());
        ensure!(addresses(lab, &scope, "first").await? == [first]);
        lab.etcd.as_mut().context("no etcd")?.start().await?;
        let third = address(lab, &scope, "third", ADDRESS).await?;
        scope.apply(service("fourth")).await?;
        let fourth = address(lab, &scope, "fourth", ADDRESS).await?;
        let all = BTreeSet::from([first, second, third, fourth]);
        ensure!(all.len() == 4, "an address was given twice: {all:?}");

        // The pool is used up: what a Service gives back rests, then the next has it.
        scope.apply(service("fifth")).await?;
        let mut gone = service("second");
        gone["metadata"]["namespace"] = json!(scope.name);
        view.cluster.delete(&gone).await?;
        let second_rests = || async {
            let said = check(lab).await?["allocations"][second.to_string()].clone();
            ensure!(said[0]["coolingDown"] == json!(true), "{said}");
            Ok(())
        };
        wait::until("the released address to rest", ADDRESS, second_rests).await?;
        ensure!(addresses(lab, &scope, "fifth").await?.is_empty(), "it does not rest");
        let fifth = address(lab, &scope, "fifth", RESTED).await?;
        ensure!(fifth == second, "{fifth}, not {second}");

        for name in ["first", "third", "fourth", "fifth"] {
            let mut gone = service(name);
            gone["metadata"]["namespace"] = json!(scope.name);
            view.cluster.delete(&gone).await?;
        }
        wait::until("all to be released", ADDRESS, || async {
            let report = check(lab).await?;
            for address in &all {
                let said = &report["allocations"][address.to_string()];
                let free = said.is_null() || said[0]["coolingDown"] == json!(true);
                ensure!(free, "{address}: {said}");
            }
            Ok(())
        })
        .await?;
        for mut replica in replicas {
            replica.daemon.stop(Signal::SIGTERM, Duration::from_secs(20)).await?;
        }
        scope.end().await
    }
    .boxed()
}
