//! A one-member etcd that can be stopped and started again.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::NAMESPACE;
use crate::fabric::Place;
use crate::process::Daemon;
use crate::record::Record;
use crate::{http, process, wait};

/// A running, or stopped, etcd.
#[derive(Debug)]
pub(crate) struct Etcd {
    place: Place,
    record: Record,
    name: &'static str,
    program: PathBuf,
    client: SocketAddr,
    arguments: &'static [&'static str],
    daemon: Option<Daemon>,
}

impl Etcd {
    /// An etcd that listens for clients on `address` and `port`, and for nobody on the next port.
    pub(crate) fn new(
        place: &Place,
        record: &Record,
        name: &'static str,
        program: PathBuf,
        (address, port): (Ipv4Addr, u16),
        arguments: &'static [&'static str],
    ) -> Self {
        let client = SocketAddr::new(address.into(), port);
        let (place, record) = (place.clone(), record.clone());
        Self { place, record, name, program, client, arguments, daemon: None }
    }

    /// What a client connects to.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.client)
    }

    /// Starts it and waits until it is healthy. What was in it before is there again.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let directory = self.place.directory_of(self.name);
        std::fs::create_dir_all(&directory)?;
        let endpoint = self.endpoint();
        let peer = format!("http://127.0.0.1:{}", self.client.port() + 1);
        let mut command = Command::new(&self.program);
        command
            .arg("--name=default")
            .arg(format!("--data-dir={}", directory.join("data").display()));
        command.arg(format!("--listen-client-urls={endpoint}"));
        command.arg(format!("--advertise-client-urls={endpoint}"));
        command.arg(format!("--listen-peer-urls={peer}"));
        command.arg(format!("--initial-advertise-peer-urls={peer}"));
        command.arg(format!("--initial-cluster=default={peer}")).args(self.arguments);
        let netns = self.place.netns(NAMESPACE);
        let log = directory.join("log");
        let mut daemon = Daemon::start(&self.record, self.name, &netns, command, &log).await?;
        wait::until("etcd to be healthy", Duration::from_secs(30), || {
            let state = daemon.check();
            let (netns, client) = (&netns, self.client);
            async move {
                state?;
                let (status, body) = http::get(netns, client, "/health").await?;
                ensure!(status == 200 && body.contains("true"), "{status} {body}");
                Ok(())
            }
        })
        .await?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// A copy of what it has now, in a file.
    pub(crate) async fn save(&self) -> Result<PathBuf> {
        let copy = self.place.directory_of(self.name).join("copy.db");
        let endpoint = self.endpoint();
        let mut command = Command::new("etcdctl");
        command.args(["--endpoints", &endpoint, "snapshot", "save"]).arg(&copy);
        self.control(command).await?;
        Ok(copy)
    }

    /// Kills it, loses what it had, and starts it with a copy.
    pub(crate) async fn restore(&mut self, copy: &Path) -> Result<()> {
        self.kill().await?;
        let data = self.place.directory_of(self.name).join("data");
        std::fs::remove_dir_all(&data)?;
        let peer = format!("http://127.0.0.1:{}", self.client.port() + 1);
        let mut command = Command::new("etcdctl");
        command.args(["snapshot", "restore"]).arg(copy).args(["--name", "default"]);
        command.arg("--data-dir").arg(&data);
        command.arg(format!("--initial-advertise-peer-urls={peer}"));
        command.arg(format!("--initial-cluster=default={peer}"));
        self.control(command).await?;
        self.start().await
    }

    async fn control(&self, mut command: Command) -> Result<()> {
        command.env("ETCDCTL_API", "3");
        let netns = self.place.netns(NAMESPACE);
        let patience = Duration::from_secs(20);
        let output = process::capture(command, Some(&netns), b"", patience).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Kills it, as a power cut would.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop(Signal::SIGKILL, Duration::from_secs(5)).await?;
        }
        Ok(())
    }
}
