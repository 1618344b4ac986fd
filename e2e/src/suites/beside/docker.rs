//! Docker, started before the agent: then it is what makes the machine a router, and drops what is forwarded
//! and not its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::super::kernel::{KernelState, inside};
use super::super::kit::Scope;
use super::{Clients, NODE, SOON, start};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::{self, Daemon};

/// dockerd on a node.
struct Docker {
    folder: PathBuf,
    netns: Netns,
    daemon: Option<Daemon>,
}

impl Docker {
    fn new(lab: &Lab) -> Self {
        let place = &lab.view().place;
        let folder = place.directory_of(NODE).join("docker");
        Self { folder, netns: place.netns(NODE), daemon: None }
    }

    /// Starts it; its rules are there when this returns.
    async fn start(&mut self, lab: &Lab) -> Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let at = |file: &str| self.folder.join(file).display().to_string();
        let (log, socket) = (self.folder.join("log"), at("socket"));
        // It wants control groups, but nobody else's.
        let script = format!(
            "mount -t cgroup2 none /sys/fs/cgroup && exec dockerd --data-root {} --exec-root {} \
             --pidfile {} --host unix://{socket} --storage-driver vfs --ipv6 --fixed-cidr-v6 \
             fd00:d0c::/64 --ip6tables --experimental",
            at("data"),
            at("exec"),
            at("pid"),
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        // It listens before it is done.
        let ready = async || {
            let mut command = Command::new("docker");
            command.args(["--host", &format!("unix://{socket}"), "info"]);
            let output = process::capture(command, Some(&self.netns), b"", SOON).await?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(())
        };
        let daemon = start(lab, "dockerd", &self.netns, command, &log, ready).await?;
        self.daemon = Some(daemon);
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.stop(Signal::SIGTERM, Duration::from_secs(30)).await?;
        }
        Ok(())
    }

    /// What is in the tables of iptables, without what counts.
    async fn tables(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for save in ["iptables-save", "ip6tables-save"] {
            let text = inside(&self.netns, &[save]).await?;
            let of_rules = text.lines().filter(|line| !line.starts_with('#'));
            lines.extend(of_rules.map(|line| line.split(" [").next().unwrap_or(line).to_owned()));
        }
        Ok(lines)
    }
}

pub(super) fn beside(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "beside-docker").await?;
        let clients = Clients::new(&mut scope).await?;
        let netns = view.netns_of(NODE)?;
        let mut docker = Docker::new(lab);
        let state = async || {
            let state = KernelState::of(&netns).await?.without_blocks();
            anyhow::Ok(state.without_link("docker0"))
        };

        // As at boot.
        lab.agent(NODE)?.stop(Signal::SIGKILL).await?;
        for setting in ["net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"] {
            inside(&netns, &["sysctl", "-q", "-w", setting]).await?;
        }
        docker.start(lab).await?;
        for iptables in ["iptables", "ip6tables"] {
            let forward = inside(&netns, &[iptables, "-S", "FORWARD"]).await?;
            ensure!(forward.starts_with("-P FORWARD DROP"), "it drops nothing: {forward}");
        }
        lab.agent(NODE)?.start().await?;
        lab.agent(NODE)?.ready().await?;
        view.wait_for_sessions().await?;
        view.wait_for_routes().await?;
        clients.answer().await?;
        clients.deny(&mut scope).await?;

        // The agent goes and comes.
        let theirs = docker.tables().await?;
        lab.agent(NODE)?.stop(Signal::SIGKILL).await?;
        clients.expect_policy().await?;
        lab.agent(NODE)?.start().await?;
        lab.agent(NODE)?.ready().await?;
        clients.expect_policy().await?;
        let now = docker.tables().await?;
        ensure!(theirs == now, "the agent changed what is not its own:\n{theirs:#?}\n{now:#?}");

        // Docker goes and comes, which flushes its chains.
        let ours = state().await?;
        let again = async {
            docker.stop().await?;
            docker.start(lab).await
        };
        clients.hold_during("while Docker went and came", again).await?;
        ours.expect_same(&state().await?, "by Docker's end")?;
        clients.expect_policy().await?;

        // Somebody flushes what iptables has: what drops is still there.
        inside(&netns, &["iptables", "-F"]).await?;
        inside(&netns, &["ip6tables", "-F"]).await?;
        clients.answer().await?;
        clients.expect_policy().await?;
        docker.stop().await?;
        for iptables in ["iptables", "ip6tables"] {
            for words in [&["-P", "FORWARD", "ACCEPT"][..], &["-F"], &["-t", "nat", "-F"]] {
                inside(&netns, &[&[iptables], words].concat()).await?;
            }
        }
        inside(&netns, &["ip", "link", "delete", "docker0"]).await?;
        scope.end().await
    }
    .boxed()
}
