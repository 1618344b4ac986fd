//! What is installed in a cluster, from `manifests/`: resource definitions and the agent's rights.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Api;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Subject, read_objects};

/// Where the agent and its ServiceAccount live.
pub(crate) const NAMESPACE: &str = "caracal-system";
/// The agent's ServiceAccount.
pub(crate) const SERVICE_ACCOUNT: &str = "caracal-node";

/// The workspace's `manifests` folder.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests")
}

/// Applies the resource definitions and waits until they are served.
pub(crate) async fn apply_definitions(cluster: &Cluster) -> Result<()> {
    let Cluster::Kubernetes(kubernetes) = cluster else { return Ok(()) };
    let definitions = read_objects(&folder().join("crds"))?;
    anyhow::ensure!(!definitions.is_empty(), "{} is empty", folder().join("crds").display());
    let mut names = Vec::new();
    for definition in &definitions {
        if definition["kind"] == "CustomResourceDefinition" {
            cluster.apply(definition).await?;
            names.push(Subject::of(definition)?.name);
        }
    }
    let api: Api<CustomResourceDefinition> = Api::all(kubernetes.client().clone());
    for name in names {
        let established = await_condition(api.clone(), &name, is_crd_established());
        tokio::time::timeout(Duration::from_secs(30), established)
            .await
            .with_context(|| format!("{name} is not established after 30 s"))??;
    }
    Ok(())
}

/// Applies the namespace, the ServiceAccount and its rights, as the installation has them.
pub(crate) async fn apply_rights(cluster: &Cluster) -> Result<()> {
    for object in read_objects(&folder().join("install"))? {
        let kind = object["kind"].as_str().unwrap_or_default();
        let wanted = [
            "Namespace",
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
        ];
        if wanted.contains(&kind) {
            cluster.apply(&in_namespace(object.clone())).await?;
        }
    }
    Ok(())
}

/// Does what `namespace:` in a kustomization does.
fn in_namespace(mut object: Value) -> Value {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let namespaced = ["ServiceAccount", "Role", "RoleBinding", "ConfigMap", "DaemonSet"];
    if namespaced.contains(&kind.as_str()) && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = json!(NAMESPACE);
    }
    let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        if subject["kind"] == "ServiceAccount" && subject["namespace"].is_null() {
            subject["namespace"] = json!(NAMESPACE);
        }
    }
    object
}
