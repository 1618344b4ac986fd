//! A whole lab: raised, looked at, taken down.

mod bare;
mod view;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use self::bare::Bare;
pub(crate) use self::view::{Probe, View, is_ready, pod_addresses, pod_targets};
use crate::agent::Agent;
use crate::cluster::{Cluster, DirectoryCluster, KubernetesCluster, SourceKind};
use crate::control_plane::binaries::{self, Binaries, Found};
use crate::control_plane::{ApiServer, Etcd, NAMESPACE, intent, manifests};
use crate::fabric::{Fabric, Place};
use crate::kubelet::{Kubelet, NodeRuntime};
use crate::process::{self, ProcessId};
use crate::progress::Progress;
use crate::record::{Inventory, Record};
use crate::topology::{CONTROL, Size, Topology};
use crate::wait;

/// Where address blocks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IpamKind {
    Etcd,
    Embedded,
}

/// What is asked of a lab.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Two labs at the same time need two names.
    pub(crate) name: String,
    pub(crate) size: Size,
    /// On each node.
    pub(crate) pods: u8,
    /// None: kubernetes where a kube-apiserver can be had.
    pub(crate) source: Option<SourceKind>,
    pub(crate) ipam: IpamKind,
    /// Without them the lab is the fabric and the control plane.
    pub(crate) agents: bool,
}

/// What was decided, for every other process that looks at the lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    pub(crate) topology: Topology,
    pub(crate) source: SourceKind,
    pub(crate) ipam: IpamKind,
    pub(crate) agents: bool,
}

/// A lab that this process holds up. Dropping it leaves everything running; see [`Lab::down`].
#[derive(Debug)]
pub(crate) struct Lab {
    view: View,
    record: Record,
    /// Held for its daemons, which are reaped through it.
    _fabric: Fabric,
    pub(crate) etcd: Option<Etcd>,
    pub(crate) api_server: Option<ApiServer>,
    pub(crate) agents: BTreeMap<String, Agent>,
    kubelet: Option<Kubelet>,
}

/// The folder of all labs on this machine: on disk, as etcd's and the agents' state would be.
fn base() -> PathBuf {
    std::env::var_os("CARACAL_LAB_DIR")
        .map_or_else(|| PathBuf::from("/var/tmp/caracal-lab"), PathBuf::from)
}

/// Where a lab of that name is.
pub(crate) fn place(name: &str) -> Result<Place> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !name.is_empty() && name.len() <= 32 && name.chars().all(plain) && !name.starts_with('-'),
        "--name {name:?}: 1 to 32 of a-z, 0-9 and -"
    );
    Ok(Place { lab: name.to_owned(), directory: base().join(name) })
}

impl Lab {
    /// Raises a lab. What an earlier lab of the name left behind is cleaned up first.
    ///
    /// # Errors
    /// The step that failed, with the ends of the logs that matter. Nothing is left behind.
    pub(crate) async fn up(options: &Options, progress: &Progress) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab needs root: it makes network namespaces"
        );
        let topology = Topology::plan(options.size)?;
        ensure!(
            options.ipam == IpamKind::Etcd || topology.nodes.len() == 1,
            "--ipam embedded: is for a machine alone, this lab has {} nodes",
            topology.nodes.len()
        );
        let place = place(&options.name)?;
        let (source, binaries) = choose_source(options.source, progress).await?;
        let plan = Plan { topology, source, ipam: options.ipam, agents: options.agents };
        clear(&place, progress).await?;
        std::fs::create_dir_all(&place.directory)
            .with_context(|| format!("cannot make {}", place.directory.display()))?;
        let record = Record::create(&place.directory)?;
        let raised = Box::pin(Self::raise(&place, &plan, &record, binaries, progress)).await;
        if raised.is_err() {
            undo(&place).await?;
        }
        raised
    }

    async fn raise(
        place: &Place,
        plan: &Plan,
        record: &Record,
        binaries: Option<Binaries>,
        progress: &Progress,
    ) -> Result<Self> {
        let text = serde_json::to_vec_pretty(plan)?;
        std::fs::write(place.directory.join(PLAN), text)?;
        let topology = &plan.topology;
        let what =
            format!("fabric: {} nodes, {} routers", topology.nodes.len(), topology.routers.len());
        let mut fabric = progress.step(&what, Fabric::build(place, topology, record)).await?;
        let etcd = match plan.ipam {
            IpamKind::Embedded => None,
            IpamKind::Etcd => {
                let program = PathBuf::from("/usr/bin/etcd");
                let mut etcd = Etcd::new(place, record, "etcd", program, (CONTROL, 2379), &[]);
                progress.step("etcd for address blocks", etcd.start()).await?;
                Some(etcd)
            }
        };
        let api_server = match binaries {
            None => None,
            Some(binaries) => {
                let start = ApiServer::start(place, record, binaries);
                Some(progress.step("kube-apiserver, kube-controller-manager", start).await?)
            }
        };
        let cluster = open_cluster(place, plan.source).await?;
        let view = View { place: place.clone(), plan: plan.clone(), cluster };
        progress.step("resources: definitions, nodes, pools, peers", define(&view)).await?;
        progress.step("sessions between routers", fabric.settle()).await?;
        let record = record.clone();
        let agents = BTreeMap::new();
        let mut lab =
            Self { view, record, _fabric: fabric, etcd, api_server, agents, kubelet: None };
        if plan.agents {
            lab.start_agents(progress).await?;
        }
        Ok(lab)
    }

    async fn start_agents(&mut self, progress: &Progress) -> Result<()> {
        for node in &self.view.plan.topology.nodes {
            let source = self.source_config(&node.name).await?;
            let ipam = match &self.etcd {
                Some(etcd) => json!({ "store": "etcd", "endpoints": [etcd.endpoint()] }),
                None => json!({ "store": "embedded" }),
            };
            let agent = Agent::prepare(&self.view.place, &self.record, &node.name, &source, &ipam)?;
            self.agents.insert(node.name.clone(), agent);
        }
        let start = async {
            let mut nodes = BTreeMap::new();
            for (name, agent) in &mut self.agents {
                agent.start().await?;
                let (cni, network) = agent.install_cni().await?;
                nodes.insert(name.clone(), NodeRuntime { cni, network });
            }
            try_join_all(self.agents.values_mut().map(Agent::ready)).await?;
            anyhow::Ok(nodes)
        };
        let nodes = progress.step("felix on every node", start).await?;
        let View { place, cluster, .. } = &self.view;
        self.kubelet = Some(Kubelet::start(place, &self.record, cluster, nodes)?);
        let view = self.view.clone();
        progress.step("BGP sessions", view.wait_for_sessions()).await
    }

    /// The `source` of a node's configuration; with its own credentials, which are the
    /// ServiceAccount's of the installation.
    async fn source_config(&self, node: &str) -> Result<Value> {
        match &self.view.cluster {
            Cluster::Directory(directory) => {
                Ok(json!({ "kind": "directory", "path": directory.path() }))
            }
            Cluster::Kubernetes(cluster) => {
                let server = self.api_server.as_ref().context("no API server")?;
                let folder = self.view.place.directory_of(node);
                std::fs::create_dir_all(&folder)?;
                let file = folder.join("kubeconfig");
                let (namespace, account) = (manifests::NAMESPACE, manifests::SERVICE_ACCOUNT);
                server.service_account_kubeconfig(cluster, namespace, account, &file).await?;
                Ok(
                    json!({ "kind": "kubernetes", "kubeconfig": file, "secretNamespace": namespace }),
                )
            }
        }
    }

    /// The lab as anyone may look at it.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// The agent of a node.
    pub(crate) fn agent(&mut self, node: &str) -> Result<&mut Agent> {
        self.agents.get_mut(node).with_context(|| format!("no agent on {node}"))
    }

    /// The kubelets' part.
    pub(crate) fn kubelet(&self) -> Result<&Kubelet> {
        self.kubelet.as_ref().context("this lab has no agents")
    }

    /// The ends of all logs, for whoever has to find out what went wrong.
    pub(crate) fn diagnostics(&self) -> String {
        let place = &self.view.place;
        let Ok(Some(inventory)) = Inventory::read(&place.directory) else { return String::new() };
        inventory.logs.values().map(|log| process::log_tail(log, 12)).collect()
    }

    /// Ends everything and removes every trace.
    pub(crate) async fn down(mut self) -> Result<()> {
        let place = self.view.place.clone();
        if let Some(kubelet) = self.kubelet.take() {
            // What it has half made must be in the record before that is read.
            kubelet.stop().await;
        }
        drop(self);
        undo(&place).await
    }
}

const PLAN: &str = "lab.json";

/// Which source, and the programs of the API server if it is Kubernetes.
async fn choose_source(
    wanted: Option<SourceKind>,
    progress: &Progress,
) -> Result<(SourceKind, Option<Binaries>)> {
    if wanted == Some(SourceKind::Directory) {
        return Ok((SourceKind::Directory, None));
    }
    let found = match binaries::find()? {
        Found::Buildable(folder) => {
            let what = "building kube-apiserver and etcd with Go (once, some six minutes)";
            match progress.step(what, binaries::build(&folder)).await {
                Ok(binaries) => Found::Ready(binaries),
                Err(error) if wanted.is_none() => Found::Nowhere(format!("{error:#}")),
                Err(error) => return Err(error),
            }
        }
        found => found,
    };
    match found {
        Found::Ready(binaries) => Ok((SourceKind::Kubernetes, Some(binaries))),
        Found::Buildable(_) => bail!("kube-apiserver is neither there nor built"),
        Found::Nowhere(why) if wanted.is_some() => bail!("--source kubernetes: {why}"),
        Found::Nowhere(why) => {
            progress.note(&format!("{why}: the source is a directory instead"));
            Ok((SourceKind::Directory, None))
        }
    }
}

async fn open_cluster(place: &Place, source: SourceKind) -> Result<Cluster> {
    Ok(match source {
        SourceKind::Kubernetes => {
            let file = ApiServer::kubeconfig(place);
            let netns = place.netns(NAMESPACE);
            Cluster::Kubernetes(KubernetesCluster::open(&file, &netns).await?)
        }
        SourceKind::Directory => {
            Cluster::Directory(DirectoryCluster::open(&place.directory_of("objects"))?)
        }
    })
}

/// Puts into the cluster what an installation and its network operator would.
async fn define(view: &View) -> Result<()> {
    let cluster = &view.cluster;
    manifests::apply_definitions(cluster).await?;
    if let Cluster::Kubernetes(kubernetes) = cluster {
        manifests::apply_rights(cluster).await?;
        for object in intent::objects(&view.plan.topology) {
            cluster.apply(&object).await?;
            if object["kind"] == "Node" {
                kubernetes.set_status(&object).await?;
            }
        }
        // Pods can be created once the namespace has its ServiceAccount.
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "default", "namespace": "default" } });
        return wait::until("the namespace `default`", Duration::from_secs(30), || {
            cluster.apply(&account)
        })
        .await;
    }
    for kind in ["Namespace", "ServiceAccount"] {
        let mut object =
            json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "default" } });
        if kind == "Namespace" {
            object["metadata"]["labels"] = json!({ "kubernetes.io/metadata.name": "default" });
        } else {
            object["metadata"]["namespace"] = "default".into();
        }
        cluster.apply(&object).await?;
    }
    for object in intent::objects(&view.plan.topology) {
        cluster.apply(&object).await?;
    }
    Ok(())
}

/// Makes room for a new lab of the name.
async fn clear(place: &Place, progress: &Progress) -> Result<()> {
    match Inventory::read(&place.directory)? {
        None => {
            // A directory without a record: the machine stopped in between.
            remove_directory(&place.directory)
        }
        Some(Inventory { owner: Some(owner), .. }) => {
            bail!("a lab called {} is up already (process {})", place.lab, owner.pid)
        }
        Some(_) => {
            let what = format!("cleaning up what an earlier {} left", place.lab);
            progress.step(&what, undo(place)).await
        }
    }
}

/// Ends a lab from outside: asks its owner, if it still runs, and cleans up what then is left.
/// False if there was nothing.
pub(crate) async fn down(name: &str) -> Result<bool> {
    let place = place(name)?;
    let Some(inventory) = Inventory::read(&place.directory)? else {
        let leftovers = place.directory.exists();
        remove_directory(&place.directory)?;
        return Ok(leftovers);
    };
    if let Some(owner) = inventory.owner {
        owner.signal(Signal::SIGTERM);
        let gone = |owner: ProcessId| async move {
            ensure!(!owner.alive(), "process {} is still there", owner.pid);
            Ok(())
        };
        if wait::until("its owner to end", Duration::from_secs(60), || gone(owner)).await.is_err() {
            process::kill_all(&[owner]).await?;
        }
    }
    undo(&place).await?;
    Ok(true)
}

/// Undoes the labs that this process has begun and given up.
pub(crate) async fn abandon_own() -> Result<()> {
    let own = ProcessId::of(i32::try_from(std::process::id())?)?;
    undo_all(|_, inventory| inventory.owner == Some(own)).await
}

/// Undoes the labs of tests and benchmarks whose process is gone.
pub(crate) async fn sweep() -> Result<()> {
    undo_all(|name, inventory| inventory.owner.is_none() && is_temporary(name)).await
}

/// A name that [`temporary_name`] gives.
fn is_temporary(name: &str) -> bool {
    let Some((process, _)) = name.strip_prefix('t').and_then(|rest| rest.split_once('-')) else {
        return false;
    };
    !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit())
}

/// A name for a lab that this process alone knows.
pub(crate) fn temporary_name(purpose: &str) -> String {
    format!("t{}-{purpose}", std::process::id())
}

async fn undo_all(which: impl Fn(&str, &Inventory) -> bool) -> Result<()> {
    let entries = match std::fs::read_dir(base()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| base().display().to_string()),
    };
    for entry in entries {
        let directory = entry?.path();
        let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(inventory) = Inventory::read(&directory)? else { continue };
        if which(name, &inventory) {
            undo(&place(name)?).await?;
        }
    }
    Ok(())
}

/// Ends and removes what the record says was made.
async fn undo(place: &Place) -> Result<()> {
    if let Some(inventory) = Inventory::read(&place.directory)? {
        inventory.undo().await?;
    }
    remove_directory(&place.directory)
}

fn remove_directory(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => {
            // The folder of all labs goes with the last one.
            let _ = std::fs::remove_dir(base());
            Ok(())
        }
    }
}

/// Looks at a lab that another process holds up.
pub(crate) async fn attach(name: &str) -> Result<View> {
    let place = place(name)?;
    let file = place.directory.join(PLAN);
    let text = std::fs::read_to_string(&file)
        .map_err(|_| anyhow::anyhow!("no lab called {name} is up: `cargo lab up` raises one"))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
    let cluster = open_cluster(&place, plan.source).await?;
    Ok(View { place, plan, cluster })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_tests_give_are_swept() {
        assert!(is_temporary(&temporary_name("racks")));
        for kept in ["lab", "t", "t-x", "test-1", "t1", "t1x-racks"] {
            assert!(!is_temporary(kept), "{kept}");
        }
    }

    #[test]
    fn a_name_is_part_of_names_of_namespaces_and_files() {
        assert!(place("lab-2").is_ok());
        for bad in ["", "-x", "a/b", "..", "Lab", "a b", &"x".repeat(33)] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
