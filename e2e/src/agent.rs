//! felix in a node of the lab: its configuration, its process, its CNI plugin.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cni::{Cache, NetworkList, Runtime};
use crate::fabric::{Place, write_wrapper};
use crate::netns::Netns;
use crate::process::{self, Daemon, ProcessId};
use crate::record::Record;
use crate::{http, wait};

const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9099);
/// A start includes the source's first listing, on a machine that is busy with others.
const READY: Duration = Duration::from_secs(60);
/// Longer than the agent's own limit for a CNI request (30 s), as runtimes are.
const CNI_TIMEOUT: Duration = Duration::from_secs(60);

/// The agent of one node.
#[derive(Debug)]
pub(crate) struct Agent {
    place: Place,
    record: Record,
    node: String,
    daemon: Option<Daemon>,
}

/// Where one of the workspace's programs is: cargo puts them beside this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let beside = exe.parent().context("this program has no directory")?;
    // A test of this crate runs one level deeper.
    let found = [Some(beside), beside.parent()].into_iter().flatten().map(|d| d.join(name));
    let found = found.into_iter().find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: run this as `cargo lab`"))
}

impl Agent {
    /// Writes the node's configuration; starts nothing.
    pub(crate) fn prepare(
        place: &Place,
        record: &Record,
        node: &str,
        source: &Value,
        ipam: &Value,
    ) -> Result<Self> {
        let this = Self {
            place: place.clone(),
            record: record.clone(),
            node: node.to_owned(),
            daemon: None,
        };
        let config = json!({
            "nodeName": node,
            "runDir": this.run_dir(),
            "stateDir": this.directory().join("state"),
            "source": source,
            "ipam": ipam,
            "http": { "address": HTTP.to_string() },
            "log": { "level": "info" },
        });
        for directory in ["run", "state", "cni/bin", "cni/net.d"] {
            std::fs::create_dir_all(this.directory().join(directory))?;
        }
        std::fs::write(this.config(), serde_saphyr::to_string(&config)?)?;
        let felix = program("felix")?;
        let line =
            format!("env CARACAL_RUN_DIR='{}' '{}'", this.run_dir().display(), felix.display());
        write_wrapper(place, node, "felix", &line)?;
        Ok(this)
    }

    fn directory(&self) -> PathBuf {
        self.place.directory_of(&self.node)
    }

    fn run_dir(&self) -> PathBuf {
        self.directory().join("run")
    }

    /// The agent's configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory().join("felix.yaml")
    }

    /// The agent's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory().join("felix.log")
    }

    pub(crate) fn netns(&self) -> Netns {
        self.place.netns(&self.node)
    }

    /// The running agent's process.
    pub(crate) fn process(&self) -> Option<ProcessId> {
        self.daemon.as_ref().map(Daemon::id)
    }

    /// Starts the agent; [`Self::ready`] waits for it.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let mut command = Command::new(program("felix")?);
        command.arg("run").arg("--config").arg(self.config());
        let daemon =
            Daemon::start(&self.record, &self.node, &self.netns(), command, &self.log()).await?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Waits until the agent says that it is ready.
    ///
    /// # Errors
    /// What it says it still waits for, or the end of its log if it has ended.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let netns = self.netns();
        let node = self.node.clone();
        let daemon =
            self.daemon.as_mut().with_context(|| format!("{node}: felix is not running"))?;
        wait::until(&format!("felix of {node} to be ready"), READY, || {
            let state = daemon.check();
            let netns = &netns;
            async move {
                state?;
                let (status, body) = http::get(netns, HTTP, "/readyz").await?;
                ensure!(status == 200, "{status} {}", body.trim());
                Ok(())
            }
        })
        .await
        .map_err(|error| error.context(process::log_tail(&self.log(), 20)))
    }

    /// Ends the agent with a signal and waits until it has ended.
    pub(crate) async fn stop(&mut self, signal: Signal) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop(signal, Duration::from_secs(20)).await?;
        }
        Ok(())
    }

    /// Installs the plugin and its configuration as the DaemonSet's init step does, and returns
    /// what the node's container runtime then has.
    pub(crate) async fn install_cni(&self) -> Result<(Runtime, NetworkList)> {
        let cni = self.directory().join("cni");
        let mut command = Command::new(program("felix")?);
        command.arg("install-cni").arg("--bin-dir").arg(cni.join("bin"));
        command.arg("--conf-dir").arg(cni.join("net.d"));
        command.arg("--socket").arg(self.run_dir().join("felix.sock"));
        let done = process::capture(command, None, b"", Duration::from_secs(20)).await?;
        ensure!(
            done.status.success(),
            "felix install-cni: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        let list = network_list(&cni.join("net.d"))?;
        let runtime = Runtime {
            plugin_dirs: vec![cni.join("bin"), "/usr/lib/cni".into()],
            cache: Cache::at(&cni.join("cache")),
            netns: self.netns(),
            timeout: CNI_TIMEOUT,
        };
        Ok((runtime, list))
    }
}

/// The first configuration list of a folder, as runtimes choose it.
fn network_list(folder: &std::path::Path) -> Result<NetworkList> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conflist"));
    files.sort();
    let file = files.first().with_context(|| format!("no conflist in {}", folder.display()))?;
    NetworkList::parse(&std::fs::read_to_string(file)?).with_context(|| file.display().to_string())
}
