//! firewalld, told of pods as the README says.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::Signal;
use tokio::process::Command;

use super::super::kernel::KernelState;
use super::super::kit::{SILENCE, Scope};
use super::{Clients, NODE, SOON, start};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::{self, Daemon};

/// What an administrator says, once.
const TOLD: [&str; 7] = [
    "--permanent --zone=trusted --add-interface=cali+",
    "--permanent --new-policy=pods",
    "--permanent --policy=pods --set-target=ACCEPT",
    "--permanent --policy=pods --add-ingress-zone=ANY",
    "--permanent --policy=pods --add-egress-zone=trusted",
    "--permanent --add-port=179/tcp --add-port=3784/udp --add-port=4784/udp",
    "--reload",
];

/// A message bus on which everybody may do everything.
const BUS: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>ADDRESS</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/>
<allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/>
<allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="signal"/>
<allow receive_type="method_return"/><allow receive_type="error"/></policy></busconfig>
"#;

/// firewalld on a node, and the bus that it is spoken to on.
struct Firewall {
    folder: PathBuf,
    netns: Netns,
    _bus: Daemon,
    daemon: Option<Daemon>,
}

impl Firewall {
    async fn new(lab: &Lab) -> Result<Self> {
        let place = &lab.view().place;
        let (folder, netns) = (place.directory_of(NODE).join("firewalld"), place.netns(NODE));
        std::fs::create_dir_all(folder.join("etc"))?;
        let configuration = folder.join("bus.conf");
        std::fs::write(&configuration, BUS.replace("ADDRESS", &address(&folder)))?;
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--nopidfile"]);
        command.arg(format!("--config-file={}", configuration.display()));
        let log = folder.join("bus.log");
        let ready = async || {
            tokio::net::UnixStream::connect(folder.join("bus")).await?;
            Ok(())
        };
        let bus = start(lab, "dbus-daemon", &netns, command, &log, ready).await?;
        Ok(Self { folder, netns, _bus: bus, daemon: None })
    }

    /// Starts it; its rules are there when this returns.
    async fn start(&mut self, lab: &Lab) -> Result<()> {
        let log = self.folder.join("log");
        let mut command = Command::new("firewalld");
        command.args(["--nofork", "--nopid", "--system-config"]).arg(self.folder.join("etc"));
        command.arg("--log-file").arg(self.folder.join("firewalld.log"));
        command.env("DBUS_SYSTEM_BUS_ADDRESS", address(&self.folder));
        let ready = || self.tell("--state");
        let daemon = start(lab, "firewalld", &self.netns, command, &log, ready).await?;
        self.daemon = Some(daemon);
        Ok(())
    }

    async fn tell(&self, words: &str) -> Result<()> {
        let mut command = Command::new("firewall-cmd");
        command.args(words.split(' '));
        command.env("DBUS_SYSTEM_BUS_ADDRESS", address(&self.folder));
        let output = process::capture(command, Some(&self.netns), b"", SOON).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "firewall-cmd {words}: {said}");
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("it does not run")?;
        daemon.stop(Signal::SIGTERM, Duration::from_secs(30)).await?;
        Ok(())
    }
}

fn address(folder: &std::path::Path) -> String {
    format!("unix:path={}", folder.join("bus").display())
}

pub(super) fn beside(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "beside-firewalld").await?;
        let clients = Clients::new(&mut scope).await?;
        clients.answer().await?;
        let netns = view.netns_of(NODE)?;
        let state = async || anyhow::Ok(KernelState::of(&netns).await?.without_blocks());
        let ours = state().await?;
        let mut firewall = Firewall::new(lab).await?;
        firewall.start(lab).await?;
        // Otherwise nothing here would show anything.
        let probes = view.connect(&clients.allowed, &clients.to_pod, SILENCE).await?;
        ensure!(probes.iter().all(|probe| !probe.ok), "it lets everything through: {probes:?}");
        for words in TOLD {
            firewall.tell(words).await?;
        }
        clients.answer().await?;
        ours.expect_same(&state().await?, "by firewalld")?;
        clients.deny(&mut scope).await?;

        lab.agent(NODE)?.stop(Signal::SIGKILL).await?;
        clients.expect_policy().await?;
        lab.agent(NODE)?.start().await?;
        lab.agent(NODE)?.ready().await?;
        clients.expect_policy().await?;

        // It writes its table anew, and flushes all that it knows of.
        let ours = state().await?;
        for words in ["--reload", "--complete-reload"] {
            clients.hold_during("while firewalld reloaded", firewall.tell(words)).await?;
            clients.expect_policy().await?;
        }
        let end = async { firewall.stop().await };
        clients.hold_during("while firewalld ended", end).await?;
        ours.expect_same(&state().await?, "by firewalld's end")?;
        clients.expect_policy().await?;
        scope.end().await
    }
    .boxed()
}
