//! A folder of YAML files in the API server's place: one object to a file, replaced atomically.
//! The kubelet's part of the lab writes pods' statuses into the same files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use notify::{RecursiveMode, Watcher as _};
use serde_json::{Value, json};

use super::{PodEvent, Subject};

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct DirectoryCluster {
    path: PathBuf,
}

impl DirectoryCluster {
    /// Uses a folder, which is made if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path: path.to_path_buf() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, subject: &Subject) -> PathBuf {
        let namespace = subject.namespace.as_deref().unwrap_or("");
        // A name that is a path is for the agent to judge, not for us to follow.
        let name = subject.name.replace('/', "_");
        self.path.join(format!("{}.{namespace}.{name}.yaml", subject.kind.to_lowercase()))
    }

    fn write(&self, subject: &Subject, object: &Value) -> Result<()> {
        let file = self.file(subject);
        let draft = file.with_extension("draft");
        std::fs::write(&draft, serde_saphyr::to_string(object)?)
            .and_then(|()| std::fs::rename(&draft, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    fn read(&self, subject: &Subject) -> Result<Option<Value>> {
        match std::fs::read_to_string(self.file(subject)) {
            Ok(text) => Ok(super::parse_objects(&text)?.into_iter().next()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(subject.to_string()),
        }
    }

    pub(super) fn apply(&self, subject: &Subject, object: &Value) -> Result<()> {
        let mut object = object.clone();
        if subject.kind == "Pod" {
            if object["metadata"]["namespace"].is_null() {
                object["metadata"]["namespace"] = "default".into();
            }
            let old = self.read(&Subject::of(&object)?)?.unwrap_or(Value::Null);
            // An API server gives the uid, and keeps status apart.
            let uid = old["metadata"]["uid"].as_str().map_or_else(uid, str::to_owned);
            object["metadata"]["uid"] = uid.into();
            if !old["status"].is_null() {
                object["status"] = old["status"].clone();
            }
        }
        self.write(&Subject::of(&object)?, &object)
    }

    pub(super) fn delete(&self, subject: &Subject) -> Result<bool> {
        let mut subject = subject.clone();
        if subject.kind == "Pod" {
            subject.namespace.get_or_insert_with(|| "default".into());
        }
        let Some(mut object) = self.read(&subject)? else { return Ok(false) };
        if subject.kind == "Pod" && object.pointer("/spec/nodeName").is_some() {
            // The kubelet's part ends it first.
            object["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
            self.write(&subject, &object)?;
        } else {
            std::fs::remove_file(self.file(&subject))?;
        }
        Ok(true)
    }

    pub(super) fn pods(&self) -> Result<Vec<Pod>> {
        let mut pods = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with("pod.") || !name.ends_with(".yaml") {
                continue;
            }
            // Gone or replaced since the listing.
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for object in super::parse_objects(&text)? {
                pods.push(
                    serde_json::from_value(object).with_context(|| path.display().to_string())?,
                );
            }
        }
        Ok(pods)
    }

    /// Lists again after every change in the folder.
    pub(super) fn watch_pods(&self) -> Result<BoxStream<'static, PodEvent>> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        // One that is already there, so that the first listing happens at once.
        let _ = sender.send(());
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if event.is_ok_and(|event| !event.kind.is_access()) {
                    let _ = sender.send(());
                }
            })?;
        watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
        let cluster = self.clone();
        let stream = futures::stream::unfold(
            (receiver, watcher, cluster),
            |(mut receiver, watcher, cluster)| async move {
                receiver.recv().await?;
                while receiver.try_recv().is_ok() {}
                let mut events: Vec<_> = match cluster.pods() {
                    Ok(pods) => pods.into_iter().map(|p| PodEvent::Applied(Box::new(p))).collect(),
                    Err(error) => {
                        tracing::warn!("the lab's folder: {error:#}");
                        Vec::new()
                    }
                };
                events.push(PodEvent::Listed);
                Some((futures::stream::iter(events), (receiver, watcher, cluster)))
            },
        );
        Ok(stream.flatten().boxed())
    }

    pub(super) fn set_pod_status(&self, pod: &Pod, status: PodStatus) -> Result<()> {
        let subject = subject(pod);
        let Some(mut object) = self.read(&subject)? else { return Ok(()) };
        if object["metadata"]["uid"] != json!(pod.metadata.uid) {
            return Ok(());
        }
        object["status"] = serde_json::to_value(status)?;
        self.write(&subject, &object)
    }

    pub(super) fn forget_pod(&self, pod: &Pod) -> Result<()> {
        match std::fs::remove_file(self.file(&subject(pod))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn subject(pod: &Pod) -> Subject {
    Subject {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: Some(pod.metadata.namespace.clone().unwrap_or_else(|| "default".into())),
        name: pod.metadata.name.clone().unwrap_or_default(),
    }
}

/// A random UUID (version 4).
fn uid() -> String {
    let bits: u128 = rand::random();
    let bits = bits & !(0xf000 << 64) & !(0xc000 << 48) | 0x4000 << 64 | 0x8000 << 48;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
                "spec": { "nodeName": "node1", "containers": [] } })
    }

    #[tokio::test]
    async fn a_pod_keeps_uid_and_status_over_changes_and_leaves_when_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = DirectoryCluster::open(folder.path()).unwrap();
        let object = pod("a");
        let subject = Subject::of(&object).unwrap();
        cluster.apply(&subject, &object).unwrap();
        let first = cluster.pods().unwrap().remove(0);
        let status = PodStatus { phase: Some("Running".into()), ..PodStatus::default() };
        cluster.set_pod_status(&first, status).unwrap();
        cluster.apply(&subject, &object).unwrap();
        let second = cluster.pods().unwrap().remove(0);
        assert_eq!(first.metadata.uid, second.metadata.uid);
        assert_eq!(second.status.as_ref().unwrap().phase.as_deref(), Some("Running"));

        assert!(cluster.delete(&subject).unwrap());
        let third = cluster.pods().unwrap().remove(0);
        assert!(third.metadata.deletion_timestamp.is_some());
        cluster.forget_pod(&third).unwrap();
        assert!(!cluster.delete(&subject).unwrap());
    }

    #[tokio::test]
    async fn a_watch_lists_again_after_every_change() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = DirectoryCluster::open(folder.path()).unwrap();
        let mut events = cluster.watch_pods().unwrap();
        assert!(matches!(events.next().await, Some(PodEvent::Listed)));
        cluster.apply(&Subject::of(&pod("a")).unwrap(), &pod("a")).unwrap();
        loop {
            match events.next().await.unwrap() {
                PodEvent::Applied(pod) => {
                    assert_eq!(pod.metadata.name.as_deref(), Some("a"));
                    break;
                }
                PodEvent::Listed => {}
                PodEvent::Deleted(..) => panic!("a folder only lists"),
            }
        }
    }

    #[test]
    fn a_uid_is_a_random_uuid() {
        let uid = uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!(matches!(&uid[19..20], "8" | "9" | "a" | "b"));
    }
}
