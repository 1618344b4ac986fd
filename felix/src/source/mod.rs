//! Where intent comes from: the Kubernetes API, or a folder of the same YAML. Either yields one
//! stream of [`Update`]s.
//!
//! ```text
//!   kubernetes: 19 tasks, one for each kind ─ list, watch ─┐
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
mod kubernetes;
mod listwatch;
mod object;
pub mod status;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::SourceConfig;
use crate::model::Update;
use crate::observe::metrics::SourceMetrics;

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
        let (status, secret_namespace) = match config {
            SourceConfig::Kubernetes(config) => {
                kubernetes::open(config, sender, metrics, &mut tasks).await?
            }
            SourceConfig::Directory { path } => {
                (directory::open(path, sender, metrics, &mut tasks)?, SECRET_NAMESPACE.into())
            }
        };
        Ok(Self { updates, status, secret_namespace, _tasks: tasks })
    }

    /// The namespace whose Secrets are read, and in which those that objects refer to are found:
    /// as configured, else that of the credentials.
    pub fn secret_namespace(&self) -> &Arc<str> {
        &self.secret_namespace
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
