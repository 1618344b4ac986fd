//! The commands that look at or change a lab that is up.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tokio::process::Command;

use super::{Output, report, up};
use crate::cluster::{Subject, read_objects};
use crate::control_plane::{ApiServer, NAMESPACE};
use crate::lab::{self, View};
use crate::progress::{error_line, print};
use crate::record::Inventory;

const POD: Duration = Duration::from_secs(60);

pub(super) async fn status(name: &str, output: Output) -> Result<ExitCode> {
    let view = lab::attach(name).await?;
    let report = report::Report::collect(&view).await?;
    match output {
        Output::Table => print(&report.text()),
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&report)?)),
    }
    Ok(if report.healthy() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a command in a namespace, with the lab's own tools first in PATH.
pub(super) async fn exec(name: &str, target: &str, command: &[OsString]) -> Result<ExitCode> {
    let view = lab::attach(name).await?;
    let netns = view.netns_of(target)?;
    let mut path = view.place.bin_of(target).into_os_string();
    for folder in
        [crate::agent::program("labctl")?.parent().map(PathBuf::from)].into_iter().flatten()
    {
        path.push(":");
        path.push(folder);
    }
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    // `ip netns exec` rather than only the namespace: it gives /sys of the namespace too.
    let mut child = Command::new("ip");
    child.args(["netns", "exec", netns.name()]).args(command).env("PATH", path);
    let kubeconfig = ApiServer::kubeconfig(&view.place);
    if target == NAMESPACE && kubeconfig.exists() {
        child.env("KUBECONFIG", kubeconfig);
    }
    child.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let status = child.status().await.context("cannot run ip")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

pub(super) async fn apply(name: &str, files: &[PathBuf]) -> Result<ExitCode> {
    change(name, files, true).await
}

pub(super) async fn delete(name: &str, files: &[PathBuf]) -> Result<ExitCode> {
    change(name, files, false).await
}

/// Goes on after an object that is refused, as kubectl does.
async fn change(name: &str, files: &[PathBuf], create: bool) -> Result<ExitCode> {
    let view = lab::attach(name).await?;
    let mut code = ExitCode::SUCCESS;
    for file in files {
        for object in read_objects(file)? {
            let done = if create {
                view.cluster.apply(&object).await.map(|()| "applied")
            } else {
                let was = view.cluster.delete(&object).await;
                was.map(|was| if was { "deleted" } else { "was not there" })
            };
            match done {
                Ok(done) => print(&format!("{} {done}\n", Subject::of(&object)?)),
                Err(error) => {
                    error_line(&format!("error: {}: {error:#}", file.display()));
                    code = ExitCode::FAILURE;
                }
            }
        }
    }
    Ok(code)
}

pub(super) async fn pod_add(
    name: &str,
    namespace: &str,
    pod: &str,
    node: Option<&str>,
    labels: &[(&str, &str)],
    args: &[String],
) -> Result<ExitCode> {
    let view = lab::attach(name).await?;
    let node = match node {
        Some(node) => view.plan.topology.node(node).map(|node| node.name.clone()),
        None => emptiest(&view).await?,
    };
    let Some(node) = node else { bail!("no such node") };
    let mut object = up::serving_pod(namespace, pod, &node);
    for (key, value) in labels {
        object["metadata"]["labels"][*key] = json!(value);
    }
    if !args.is_empty() {
        object["spec"]["containers"][0]["args"] = json!(args);
    }
    let running = view.run_pod(&object, POD).await?;
    let addresses: Vec<String> =
        lab::pod_addresses(&running).iter().map(ToString::to_string).collect();
    print(&format!("pod {namespace}/{pod} runs on {node}: {}\n", addresses.join(", ")));
    Ok(ExitCode::SUCCESS)
}

/// The node with the fewest pods, the first of several.
async fn emptiest(view: &View) -> Result<Option<String>> {
    let pods = view.cluster.pods().await?;
    let load = |name: &str| {
        let on = |pod: &&k8s_openapi::api::core::v1::Pod| {
            pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(name)
        };
        pods.iter().filter(on).count()
    };
    let names = view.plan.topology.nodes.iter().map(|node| node.name.clone());
    Ok(names.min_by_key(|name| load(name)))
}

pub(super) async fn pod_del(name: &str, namespace: &str, pod: &str) -> Result<ExitCode> {
    let view = lab::attach(name).await?;
    let object = json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": pod, "namespace": namespace } });
    if !view.end_pod(&object, POD).await? {
        bail!("there is no pod {namespace}/{pod}");
    }
    print(&format!("pod {namespace}/{pod} is gone\n"));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn logs(name: &str, target: &str, follow: bool) -> Result<ExitCode> {
    let place = lab::place(name)?;
    let inventory = Inventory::read(&place.directory)?
        .with_context(|| format!("no lab called {name} is up"))?;
    let pod = target.replace('/', ".");
    let log = inventory
        .logs
        .get(&pod)
        .or_else(|| inventory.logs.get(&format!("default.{target}")))
        .with_context(|| {
            let names: Vec<&str> = inventory.logs.keys().map(String::as_str).collect();
            format!("{target} has no log; these have: {}", names.join(" "))
        })?;
    if follow {
        let status = Command::new("tail").args(["-n", "+1", "-F"]).arg(log).status().await?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let bytes = std::fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let _ = std::io::stdout().lock().write_all(&bytes);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn down(name: &str) -> Result<ExitCode> {
    let text = if lab::down(name).await? { "is down" } else { "was not up" };
    error_line(&format!("lab {name} {text}"));
    Ok(ExitCode::SUCCESS)
}
