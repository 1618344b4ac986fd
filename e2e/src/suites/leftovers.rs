//! Two labs side by side, and what a lab leaves that is killed: nothing, once `down` has run.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::process::Command;

use super::kit::{PORT, Scope, expect_answers};
use super::{DIRECTORY, Test};
use crate::lab::{self, Lab, is_ready, pod_targets};
use crate::netns::Netns;
use crate::record::Inventory;
use crate::{process, wait};

pub(super) const TESTS: &[Test] = &[Test {
    name: "leftovers::down_cleans_up_after_a_lab_that_was_killed",
    bed: &DIRECTORY,
    body: killed,
}];

fn killed(this: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = this.view().clone();
        let mut scope = Scope::new(&view, "leftovers").await?;
        let wanted = [scope.pod("here", "node1", &[]), scope.pod("there", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let targets = pod_targets(&pods[1], "tcp", PORT);

        // A whole lab, by a process of its own, as a person raises it.
        let name = lab::temporary_name("killed");
        let program = std::env::current_exe()?;
        let mut command = Command::new(&program);
        command.args(["--name", &name, "up", "--source=directory", "--nodes=1", "--racks=1"]);
        command.arg("--pods=1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.kill_on_drop(true);
        let mut other = process::spawn(command, None).await?;
        wait::until("the other lab to be up", Duration::from_secs(60), || async {
            let pods = lab::attach(&name).await?.cluster.pods().await?;
            ensure!(pods.len() == 1 && pods.iter().all(is_ready), "its pod is not ready");
            Ok(())
        })
        .await?;
        expect_answers(&view, &pods[0], &targets).await?;

        other.start_kill()?;
        other.wait().await?;
        let directory = lab::place(&name)?.directory;
        let left = Inventory::read(&directory)?.context("it has no record")?;
        let there = |name: &String| Netns::named(name).exists();
        ensure!(left.owner.is_none(), "its owner lives");
        ensure!(left.namespaces.iter().any(there), "it left no namespace, so this proves nothing");
        ensure!(left.processes.iter().any(|id| id.alive()), "it left no process");

        let mut command = Command::new(&program);
        command.args(["--name", &name, "down"]);
        let down = process::capture(command, None, b"", Duration::from_secs(60)).await?;
        ensure!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
        let namespace = left.namespaces.iter().find(|name| there(name));
        ensure!(namespace.is_none(), "down left namespace {namespace:?}");
        let process = left.processes.iter().find(|id| id.alive());
        ensure!(process.is_none(), "down left process {process:?}");
        ensure!(!directory.exists(), "down left {}", directory.display());
        expect_answers(&view, &pods[0], &targets).await?;
        scope.end().await
    }
    .boxed()
}
