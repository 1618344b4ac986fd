//! The kubelet's part, and the container runtime's: for a Pod bound to a node of the lab it makes
//! a namespace, calls the CNI plugin as the specification says, starts the test program, writes the
//! Pod's status, and undoes all of it on deletion.
//!
//! ```text
//!   watch ──▶ one task per pod:  namespace ─▶ ADD ─▶ program ─▶ Running ─▶ (deleted) ─▶ DEL ─▶ gone
//! ```
//!
//! The image of a container is not looked at; its `args` are the test program's. A pod that needs
//! its program to run before it has a network carries the annotation [`EARLY`].

mod sandbox;
mod status;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use self::sandbox::Sandbox;
use crate::cluster::{Cluster, PodEvent};
use crate::cni::{Attachment, NetworkList, Runtime};
use crate::fabric::Place;
use crate::netns::Netns;
use crate::record::Record;

/// With the value `true`: start the program in the namespace before ADD.
pub(crate) const EARLY: &str = "lab.caracal/start-before-network";

/// With the value `true`: whoever created the pod attaches it, not the lab.
pub(crate) const UNMANAGED: &str = "lab.caracal/unmanaged";

/// Pods that are set up at the same time, on all nodes together.
const AT_ONCE: usize = 16;

/// The name of a pod in the lab, and of its namespace after the lab's own name.
pub(crate) fn pod_name(namespace: &str, name: &str) -> String {
    format!("{namespace}.{name}")
}

/// What the kubelets of the nodes have in common.
struct Shared {
    place: Place,
    record: Record,
    cluster: Cluster,
    program: PathBuf,
    nodes: BTreeMap<String, NodeRuntime>,
    starting: Semaphore,
}

/// A node's container runtime.
#[derive(Clone, Debug)]
pub(crate) struct NodeRuntime {
    pub(crate) cni: Runtime,
    pub(crate) network: NetworkList,
}

/// The running kubelets.
#[derive(Debug)]
pub(crate) struct Kubelet {
    task: JoinHandle<()>,
    /// Dropped to end the task, and the pods' tasks with it.
    stop: Option<oneshot::Sender<()>>,
    nodes: BTreeMap<String, NodeRuntime>,
}

impl Kubelet {
    /// Watches the cluster's pods from now on.
    pub(crate) fn start(
        place: &Place,
        record: &Record,
        cluster: &Cluster,
        nodes: BTreeMap<String, NodeRuntime>,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            place: place.clone(),
            record: record.clone(),
            cluster: cluster.clone(),
            program: crate::agent::program("probe")?,
            nodes: nodes.clone(),
            starting: Semaphore::new(AT_ONCE),
        });
        let events = cluster.watch_pods()?;
        let (stop, stopped) = oneshot::channel();
        Ok(Self { task: tokio::spawn(run(shared, events, stopped)), stop: Some(stop), nodes })
    }

    /// Ends it where it is, and waits until nothing of it runs any more. Pods stay as they are.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        if let Err(error) = (&mut self.task).await {
            tracing::warn!("the kubelet's part: {error}");
        }
    }

    /// A node's container runtime, for tests that call the plugin themselves.
    pub(crate) fn runtime(&self, node: &str) -> Result<&NodeRuntime> {
        self.nodes.get(node).with_context(|| format!("no node {node}"))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    shared: Arc<Shared>,
    mut events: futures::stream::BoxStream<'static, PodEvent>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut pods: HashMap<String, watch::Sender<Option<Pod>>> = HashMap::new();
    let mut listed: Vec<String> = Vec::new();
    // Dropped with this task, and the pods' tasks with it.
    let mut tasks = JoinSet::new();
    loop {
        let event = tokio::select! {
            _ = &mut stopped => break,
            event = events.next() => event,
        };
        let Some(event) = event else { break };
        match event {
            PodEvent::Applied(pod) => {
                let Some(uid) = ours(&shared, &pod) else { continue };
                listed.push(uid.clone());
                // A task whose pod is gone has dropped its end.
                let known = pods.get(&uid).is_some_and(|sender| !sender.is_closed());
                if known {
                    if let Some(sender) = pods.get(&uid) {
                        sender.send_replace(Some(*pod));
                    }
                } else {
                    let (sender, receiver) = watch::channel(Some(*pod));
                    tasks.spawn(live(Arc::clone(&shared), receiver));
                    pods.insert(uid, sender);
                }
            }
            PodEvent::Deleted(namespace, name) => {
                for sender in pods.values() {
                    let is = sender.borrow().as_ref().is_some_and(|pod| {
                        pod.metadata.namespace.as_deref() == Some(&namespace)
                            && pod.metadata.name.as_deref() == Some(&name)
                    });
                    if is {
                        sender.send_replace(None);
                    }
                }
            }
            PodEvent::Listed => {
                for (uid, sender) in &pods {
                    if !listed.contains(uid) {
                        sender.send_replace(None);
                    }
                }
                listed.clear();
            }
        }
        pods.retain(|_, sender| !sender.is_closed());
        while tasks.try_join_next().is_some() {}
    }
    tasks.shutdown().await;
}

/// The uid of a pod that is ours to run.
fn ours(shared: &Shared, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.and_then(|all| all.get(UNMANAGED)).is_some_and(|value| value == "true") {
        return None;
    }
    shared.nodes.get(spec.node_name.as_deref()?)?;
    pod.metadata.uid.clone()
}

fn deleted(pod: Option<&Pod>) -> bool {
    pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
}

/// One pod, from its binding to its end.
async fn live(shared: Arc<Shared>, mut pod: watch::Receiver<Option<Pod>>) {
    let Some(first) = pod.borrow().clone() else { return };
    let mut sandbox = None;
    let mut pause = Duration::from_millis(100);
    while sandbox.is_none() && !deleted(pod.borrow().as_ref()) {
        match Sandbox::start(&shared, &first).await {
            Ok(started) => sandbox = Some(started),
            Err(error) => {
                let text = format!("{error:#}");
                tracing::warn!(pod = first.metadata.name, "{text}");
                report(&shared, &first, status::waiting(&first, &text)).await;
                // Deletion must not wait for the next attempt.
                let _ = tokio::time::timeout(pause, pod.wait_for(|p| deleted(p.as_ref()))).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
        }
    }
    if let Some(sandbox) = &mut sandbox {
        report(&shared, &first, status::running(&first, sandbox.addresses())).await;
        let ended = tokio::select! {
            code = sandbox.ended() => Some(code),
            _ = pod.wait_for(|pod| deleted(pod.as_ref())) => None,
        };
        if let Some(code) = ended {
            report(&shared, &first, status::finished(&first, sandbox.addresses(), code)).await;
            let _ = pod.wait_for(|pod| deleted(pod.as_ref())).await;
        }
        sandbox.stop(&shared).await;
    }
    let mut pause = Duration::from_millis(50);
    while let Err(error) = shared.cluster.forget_pod(&first).await {
        tracing::debug!("the end of pod {:?}: {error:#}", first.metadata.name);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

async fn report(shared: &Shared, pod: &Pod, status: k8s_openapi::api::core::v1::PodStatus) {
    let mut pause = Duration::from_millis(50);
    // Until the API server takes it: the agents of other nodes learn addresses from here.
    while let Err(error) = shared.cluster.set_pod_status(pod, status.clone()).await {
        tracing::debug!("status of pod {:?}: {error:#}", pod.metadata.name);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// What a runtime tells plugins of a pod.
pub(crate) fn attachment(pod: &Pod, container_id: &str, netns: &Netns) -> Attachment {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Attachment {
        container_id: container_id.to_owned(),
        netns: Some(netns.path()),
        ifname: "eth0".into(),
        args: vec![
            ("IgnoreUnknown".into(), "1".into()),
            ("K8S_POD_NAMESPACE".into(), text(&meta.namespace)),
            ("K8S_POD_NAME".into(), text(&meta.name)),
            ("K8S_POD_INFRA_CONTAINER_ID".into(), container_id.to_owned()),
            ("K8S_POD_UID".into(), text(&meta.uid)),
        ],
    }
}
