//! Where intent comes from: the Kubernetes API, or a folder of the same YAML. Either yields one
//! stream of [`Update`]s.
//!
//! ```text
//!   kubernetes: 25 tasks, one for each kind ─ list, watch ─┐
//!   directory:  1 task, inotify ─ read, parse ─────────────┤
//!                                                     Known: only real changes pass
//!                                                          │
//!                                        Hub ── bounded channel ──▶ agent
//!                                         └──── SourceStatus ─────▶ readiness, status, metrics
//! ```
//! A full channel holds the watches back: the agent's memory stays bounded, and what changes twice
//! meanwhile comes in its last state after a relist.

pub mod convert;
mod directory;
mod hub;
mod known;
pub(crate) mod kubernetes;
pub(crate) mod listwatch;
mod object;
pub mod status;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::SourceConfig;
use crate::model::{Object, Update};
use crate::observe::metrics::SourceMetrics;

/// All objects of a text in YAML or JSON, validated as those of a folder are.
///
/// # Errors
/// What is wrong with any of them, by line.
pub fn objects(text: &str) -> Result<Vec<Object>, Vec<String>> {
    directory::objects(text)
}

pub use status::{KindState, KindStatus, SourceStatus};

/// Namespace of the Secrets with passwords in a folder, where there are no credentials to name one:
/// that of the installation.
const SECRET_NAMESPACE: &str = "caracal-system";

/// Updates that may wait for the agent.
const QUEUE: usize = 1024;

/// A running source. Dropping it ends its tasks.
pub struct Source {
    updates: mpsc::Receiver<Update>,
    status: watch::Receiver<SourceStatus>,
    secret_namespace: Arc<str>,
    registry: Option<Arc<dyn ipam::retire::Registry>>,
    _tasks: JoinSet<()>,
}

/// The source cannot be opened: its configuration is wrong. That the API server is away is no
/// such error, the source keeps trying.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct OpenError {
    /// The field of felix.yaml.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl Source {
    /// Starts to read. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kubeconfig cannot be used, there are no credentials, or the folder cannot be watched.
    pub async fn open(config: &SourceConfig, metrics: SourceMetrics) -> Result<Self, OpenError> {
        let (sender, updates) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let (status, secret_namespace, registry) = match config {
            SourceConfig::Kubernetes(config) => {
                let opened = kubernetes::open(config, sender, metrics, &mut tasks).await?;
                (opened.status, opened.secret_namespace, Some(opened.registry))
            }
            SourceConfig::Directory { path } => {
                let status = directory::open(path, sender, metrics, &mut tasks)?;
                (status, SECRET_NAMESPACE.into(), None)
            }
        };
        Ok(Self { updates, status, secret_namespace, registry, _tasks: tasks })
    }

    /// The namespace whose Secrets are read, and in which those that objects refer to are found:
    /// as configured, else that of the credentials.
    pub fn secret_namespace(&self) -> &Arc<str> {
        &self.secret_namespace
    }

    /// Says whether Kubernetes has a node. None for a folder: that a file is missing from one
    /// machine's folder proves nothing.
    pub fn registry(&self) -> Option<Arc<dyn ipam::retire::Registry>> {
        self.registry.clone()
    }

    /// The next update; waits for it. None: the source's tasks have ended, which they do only if
    /// they failed. Cancel safe.
    pub async fn recv(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// Waits for an update and takes all that are there, at most `limit`, into `updates`. 0: as
    /// None of [`Source::recv`]. Cancel safe.
    pub async fn recv_many(&mut self, updates: &mut Vec<Update>, limit: usize) -> usize {
        self.updates.recv_many(updates, limit).await
    }

    /// How the source is, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<SourceStatus> {
        self.status.clone()
    }
}
