//! Where the cluster's objects are: a real API server, or a folder of YAML files.

mod directory;
pub(crate) mod kubernetes;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::directory::DirectoryCluster;
pub(crate) use self::kubernetes::KubernetesCluster;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SourceKind {
    Kubernetes,
    Directory,
}

/// The cluster's objects. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Cluster {
    Kubernetes(KubernetesCluster),
    Directory(DirectoryCluster),
}

/// What the kubelet's part hears of pods.
#[derive(Debug)]
pub(crate) enum PodEvent {
    /// It exists and is now this.
    Applied(Box<Pod>),
    /// Namespace and name of one that is gone.
    Deleted(String, String),
    /// Every pod there is was in the `Applied` events since the last `Listed` (or the start).
    Listed,
}

impl Cluster {
    /// Creates or updates an object, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// What the API server says of it.
    pub(crate) async fn apply(&self, object: &Value) -> Result<()> {
        let subject = Subject::of(object)?;
        let done = match self {
            Self::Kubernetes(cluster) => cluster.apply(&subject, object).await,
            Self::Directory(cluster) => cluster.apply(&subject, object),
        };
        done.with_context(|| subject.to_string())
    }

    /// Deletes an object; false if there was none. Pods end in their own time.
    pub(crate) async fn delete(&self, object: &Value) -> Result<bool> {
        let subject = Subject::of(object)?;
        let done = match self {
            Self::Kubernetes(cluster) => cluster.delete(&subject).await,
            Self::Directory(cluster) => cluster.delete(&subject),
        };
        done.with_context(|| subject.to_string())
    }

    /// All pods.
    pub(crate) async fn pods(&self) -> Result<Vec<Pod>> {
        match self {
            Self::Kubernetes(cluster) => cluster.pods().await,
            Self::Directory(cluster) => cluster.pods(),
        }
    }

    /// One pod.
    pub(crate) async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>> {
        let pods = self.pods().await?;
        Ok(pods.into_iter().find(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace)
                && pod.metadata.name.as_deref() == Some(name)
        }))
    }

    /// Every pod, then every change. Survives the API server's absence.
    pub(crate) fn watch_pods(&self) -> Result<BoxStream<'static, PodEvent>> {
        match self {
            Self::Kubernetes(cluster) => Ok(cluster.watch_pods()),
            Self::Directory(cluster) => cluster.watch_pods(),
        }
    }

    /// Writes a pod's status, as its kubelet.
    pub(crate) async fn set_pod_status(&self, pod: &Pod, status: PodStatus) -> Result<()> {
        match self {
            Self::Kubernetes(cluster) => cluster.set_pod_status(pod, status).await,
            Self::Directory(cluster) => cluster.set_pod_status(pod, status),
        }
    }

    /// The kubelet's last word on a pod that was being deleted: nothing of it is left.
    pub(crate) async fn forget_pod(&self, pod: &Pod) -> Result<()> {
        match self {
            Self::Kubernetes(cluster) => cluster.forget_pod(pod).await,
            Self::Directory(cluster) => cluster.forget_pod(pod),
        }
    }
}

/// What an object is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

impl Subject {
    /// Reads it off the object itself.
    pub(crate) fn of(object: &Value) -> Result<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let need = |pointer: &str| {
            text(pointer).map(str::to_owned).with_context(|| {
                format!("an object without {}", pointer.trim_start_matches('/').replace('/', "."))
            })
        };
        Ok(Self {
            api_version: need("/apiVersion")?,
            kind: need("/kind")?,
            namespace: text("/metadata/namespace").map(str::to_owned),
            name: need("/metadata/name")?,
        })
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// The objects in a file (`-` is standard input) or in the `.yaml`, `.yml` and `.json` files of a
/// directory.
///
/// # Errors
/// Names the file, and the place in it.
pub(crate) fn read_objects(path: &Path) -> Result<Vec<Value>> {
    if path.is_dir() {
        let mut files: Vec<_> =
            std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.sort();
        files.retain(|file| {
            let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
            ["yaml", "yml", "json"].contains(&extension)
        });
        let lists: Vec<_> = files.iter().map(|file| read_objects(file)).collect::<Result<_>>()?;
        return Ok(lists.into_iter().flatten().collect());
    }
    let text = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin().lock())
    } else {
        std::fs::read_to_string(path)
    };
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    parse_objects(&text).with_context(|| path.display().to_string())
}

/// The objects of a YAML text of any number of documents; lists are taken apart.
pub(crate) fn parse_objects(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut list) if list.get("kind").is_some_and(|kind| kind == "List") => {
                match list.remove("items") {
                    Some(Value::Array(items)) => objects.extend(items),
                    _ => bail!("a List without items"),
                }
            }
            object => objects.push(object),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_become_objects() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\n---\n---\n\
                    kind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: b}}]\n";
        let objects = parse_objects(text).unwrap();
        let names: Vec<_> = objects.iter().map(|o| Subject::of(o).unwrap().to_string()).collect();
        assert_eq!(names, ["Pod x/a", "Pod b"]);
    }

    #[test]
    fn an_object_without_a_name_says_so() {
        let object = serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "metadata": {} });
        assert!(Subject::of(&object).unwrap_err().to_string().contains("metadata.name"));
    }
}
