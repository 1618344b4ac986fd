//! A pod's namespace, attachment and program.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::net::UnixDatagram;
use tokio::process::Command;

use super::{EARLY, NodeRuntime, Shared, attachment, pod_name};
use crate::cni::Attachment;
use crate::netns::Netns;
use crate::process::Daemon;

/// From its start until it says that it is ready.
const PROGRAM_START: Duration = Duration::from_secs(20);

/// What exists of a pod on its node.
#[derive(Debug)]
pub(super) struct Sandbox {
    name: String,
    netns: Netns,
    /// None for a pod in the node's own namespace.
    attached: Option<(NodeRuntime, Attachment)>,
    addresses: Vec<IpAddr>,
    program: Option<Daemon>,
}

impl Sandbox {
    /// Sets a pod up; after an error nothing of it is left.
    pub(super) async fn start(shared: &Shared, pod: &Pod) -> Result<Self> {
        let _permit = shared.starting.acquire().await?;
        let spec = pod.spec.as_ref().context("a pod without spec")?;
        let node = spec.node_name.as_deref().unwrap_or_default();
        let runtime = shared.nodes.get(node).with_context(|| format!("no node {node}"))?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let name = pod_name(namespace, pod.metadata.name.as_deref().unwrap_or_default());
        let host_network = spec.host_network == Some(true);
        let netns = shared.place.netns(if host_network { node } else { &name });
        let mut this = Self { name, netns, attached: None, addresses: Vec::new(), program: None };
        let started = if host_network {
            this.run(shared, pod).await
        } else {
            this.attach_and_run(shared, pod, runtime).await
        };
        if let Err(error) = started {
            this.stop(shared).await;
            return Err(error);
        }
        Ok(this)
    }

    async fn attach_and_run(
        &mut self,
        shared: &Shared,
        pod: &Pod,
        runtime: &NodeRuntime,
    ) -> Result<()> {
        // Left by a lab that ended while it made this pod.
        shared.record.delete_namespace(&self.netns).await?;
        shared.record.create_namespace(&self.netns).await?;
        let early = pod.metadata.annotations.as_ref();
        let early = early.and_then(|all| all.get(EARLY)).is_some_and(|value| value == "true");
        if early {
            self.run(shared, pod).await?;
        }
        let id = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let attachment = attachment(pod, &id, &self.netns);
        // From here on a DEL is owed, whether ADD succeeds or not.
        self.attached = Some((runtime.clone(), attachment.clone()));
        let result = runtime.cni.add(&runtime.network, &attachment).await?;
        self.addresses = addresses(&result)?;
        if !early {
            self.run(shared, pod).await?;
        }
        Ok(())
    }

    /// Starts the test program and waits until it is ready.
    async fn run(&mut self, shared: &Shared, pod: &Pod) -> Result<()> {
        let directory = shared.place.directory_of("pods");
        std::fs::create_dir_all(&directory)?;
        let socket = directory.join(format!("{}.notify", self.name));
        let _ = std::fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket)?;
        let mut command = Command::new(&shared.program);
        command.args(arguments(pod)).env("NOTIFY_SOCKET", &socket);
        let log = directory.join(format!("{}.log", self.name));
        let mut program =
            Daemon::start(&shared.record, &self.name, &self.netns, command, &log).await?;
        let mut word = [0; 64];
        let ready = tokio::select! {
            word = notify.recv(&mut word) => word.map(drop).map_err(anyhow::Error::from),
            status = program.wait() => match status {
                Ok(status) if status.success() => Ok(()),
                Ok(_) => program.check(),
                Err(error) => Err(error),
            },
            () = tokio::time::sleep(PROGRAM_START) => Err(anyhow::anyhow!("its program is not ready")),
        };
        let _ = std::fs::remove_file(&socket);
        self.program = Some(program);
        ready
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Waits until the program ends by itself, and returns its exit code.
    pub(super) async fn ended(&mut self) -> i32 {
        match &mut self.program {
            Some(program) => program.wait().await.ok().and_then(|s| s.code()).unwrap_or(255),
            None => std::future::pending().await,
        }
    }

    /// Undoes everything. DEL is repeated until it succeeds: so do runtimes, and an address is at
    /// stake.
    pub(super) async fn stop(&mut self, shared: &Shared) {
        if let Some(mut program) = self.program.take()
            && let Err(error) = program.stop(Signal::SIGTERM, Duration::from_secs(2)).await
        {
            tracing::warn!("pod {}: {error:#}", self.name);
        }
        let Some((runtime, attachment)) = self.attached.take() else {
            return self.delete_namespace(shared).await;
        };
        let mut pause = Duration::from_millis(100);
        while let Err(error) = runtime.cni.delete(&runtime.network, &attachment).await {
            tracing::warn!("pod {}: {error}", self.name);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        self.delete_namespace(shared).await;
    }

    async fn delete_namespace(&self, shared: &Shared) {
        // A pod on the host's network has the node's namespace, which is not its own.
        if self.netns == shared.place.netns(&self.name)
            && let Err(error) = shared.record.delete_namespace(&self.netns).await
        {
            tracing::warn!("pod {}: {error:#}", self.name);
        }
    }
}

/// `args` of the first container; `serve` if there are none.
fn arguments(pod: &Pod) -> Vec<String> {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let args = container.and_then(|container| container.args.clone()).unwrap_or_default();
    if args.is_empty() { vec!["serve".into()] } else { args }
}

/// The addresses in a result of ADD.
fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for ip in result["ips"].as_array().into_iter().flatten() {
        let text = ip["address"].as_str().unwrap_or_default();
        let net: ipnet::IpNet =
            text.parse().with_context(|| format!("ADD's result: address {text:?}"))?;
        addresses.push(net.addr());
    }
    if addresses.is_empty() {
        bail!("ADD's result has no address: {result}");
    }
    // Kubernetes wants the family of the cluster's services first; here IPv4.
    addresses.sort();
    Ok(addresses)
}
