//! `cargo lab up`: raise, show, stay, take down.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::report;
use crate::interrupt::Interrupts;
use crate::lab::{Lab, Options};
use crate::progress::{Progress, error_line, print};

/// Raises a lab and holds it up.
pub(super) async fn run(options: &Options, exit: bool) -> Result<ExitCode> {
    let start = Instant::now();
    let progress = Progress::shown();
    let mut interrupts = Interrupts::new()?;
    let lab = tokio::select! {
        lab = Lab::up(options, &progress) => lab?,
        () = interrupts.next() => {
            error_line("interrupted: cleaning up");
            crate::lab::abandon_own().await?;
            return Ok(ExitCode::FAILURE);
        }
    };
    let shown = tokio::select! {
        shown = show(&lab, options, &progress, start) => shown,
        () = interrupts.next() => Ok(false),
    };
    match &shown {
        Ok(_) if exit => {}
        Ok(_) => {
            let name = if options.name == "lab" {
                String::new()
            } else {
                format!(" --name {}", options.name)
            };
            error_line(&format!(
                "the lab is up; Ctrl-C, or `cargo lab{name} down` from elsewhere, ends it"
            ));
            interrupts.next().await;
        }
        Err(_) => error_line(&lab.diagnostics()),
    }
    progress.step("taking the lab down", lab.down()).await?;
    Ok(if shown? || !exit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts the pods, prints the tables; true if every session and every ping is well.
async fn show(lab: &Lab, options: &Options, progress: &Progress, start: Instant) -> Result<bool> {
    let view = lab.view();
    if options.agents && options.pods > 0 {
        let mut pods = Vec::new();
        for number in 1..=options.pods {
            for node in &view.plan.topology.nodes {
                pods.push(serving_pod(
                    "default",
                    &format!("{}-pod{number}", node.name),
                    &node.name,
                ));
            }
        }
        let run = pods.iter().map(|pod| view.run_pod(pod, Duration::from_secs(60)));
        let what = format!("{} pods", pods.len());
        progress.step(&what, try_join_all(run)).await?;
        progress.step("routes to every pod", view.wait_for_routes()).await?;
    }
    let report = report::Report::collect(view).await.context("looking at the lab")?;
    print(&report.text());
    progress.note(&format!("up in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(report.healthy())
}

/// A pod that serves on TCP and UDP port 8080.
pub(crate) fn serving_pod(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "probe",
                "image": "lab/probe",
                "args": ["serve", "--port=8080"],
                "ports": [
                    { "name": "http", "containerPort": 8080, "protocol": "TCP" },
                    { "name": "echo", "containerPort": 8080, "protocol": "UDP" },
                ],
            }],
        },
    })
}
