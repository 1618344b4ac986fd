//! Where the tasks of a source meet: their updates, their states, and the moment when all is said.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::status::{KindState, KindStatus, SourceStatus};
use crate::model::{Kind, Object, ObjectKey, Update};
use crate::observe::metrics::SourceMetrics;
use crate::observe::unsupported::Unsupported;

/// What metrics call a file, beside the kinds of object.
const FILE: &str = "File";

pub(super) struct Hub {
    updates: mpsc::Sender<Update>,
    status: watch::Sender<SourceStatus>,
    metrics: SourceMetrics,
    unsupported: Mutex<Unsupported>,
    /// Kinds of which not everything has been yielded yet.
    waiting: Mutex<BTreeSet<Kind>>,
}

/// The agent no longer takes updates: the task may end.
pub(super) struct Closed;

impl Hub {
    pub(super) fn new(
        origin: String,
        kinds: &[Kind],
        updates: mpsc::Sender<Update>,
        metrics: SourceMetrics,
    ) -> (Self, watch::Receiver<SourceStatus>) {
        let status = SourceStatus {
            origin,
            kinds: kinds.iter().map(|kind| (*kind, KindStatus::default())).collect(),
            ..SourceStatus::default()
        };
        for kind in kinds {
            metrics.synced.get_or_create(&kind.name().into()).set(0);
        }
        let (status, receiver) = watch::channel(status);
        let waiting = Mutex::new(kinds.iter().copied().collect());
        (Self { updates, status, metrics, unsupported: Mutex::default(), waiting }, receiver)
    }

    /// Waits for room. What the agent does not act on is noted on the way.
    pub(super) async fn send(&self, update: Update) -> Result<(), Closed> {
        match &update {
            Update::Set(object) => {
                self.note_unsupported(object);
                self.metrics.updates.get_or_create(&(object.kind().name(), "set").into()).inc();
            }
            Update::Remove(kind, key) => {
                if self.unsupported.lock().remove(*kind, key) {
                    self.publish_unsupported();
                }
                self.metrics.updates.get_or_create(&(kind.name(), "remove").into()).inc();
            }
            Update::InSync => {}
        }
        self.updates.send(update).await.map_err(|_| Closed)
    }

    /// Everything of these kinds has been sent, for the first time or again. The agent is told
    /// once that holds of every kind.
    pub(super) async fn listed(&self, kinds: &[Kind]) -> Result<(), Closed> {
        let all = {
            let mut waiting = self.waiting.lock();
            for kind in kinds {
                waiting.remove(kind);
            }
            waiting.is_empty()
        };
        self.status.send_modify(|status| {
            for kind in kinds {
                status.kinds.entry(*kind).or_default().listed = true;
            }
        });
        for kind in kinds {
            self.metrics.relists.get_or_create(&kind.name().into()).inc();
        }
        if !all {
            return Ok(());
        }
        self.send(Update::InSync).await?;
        self.status.send_if_modified(|status| {
            let first = !status.in_sync;
            if first {
                tracing::info!(origin = status.origin, "source in sync");
            }
            status.in_sync = true;
            first
        });
        Ok(())
    }

    /// Where the kind's task stands, and why if it failed. Losing the first and regaining the last
    /// of the kinds is logged.
    pub(super) fn state(&self, kind: Kind, state: KindState, error: Option<String>) {
        if error.is_some() {
            self.metrics.errors.get_or_create(&kind.name().into()).inc();
            tracing::debug!(%kind, ?state, error, "source");
        }
        let synced = i64::from(state == KindState::Watching);
        self.metrics.synced.get_or_create(&kind.name().into()).set(synced);
        self.status.send_if_modified(|status| {
            let entry = status.kinds.entry(kind).or_default();
            if entry.state == state && entry.error == error {
                return false;
            }
            let before = status.connected();
            let entry = status.kinds.entry(kind).or_default();
            if matches!(state, KindState::NotServed | KindState::Forbidden) && entry.state != state {
                tracing::warn!(%kind, error, "the kind cannot be read; what is known of it stays in force");
            }
            entry.state = state;
            entry.error = error;
            match (before, status.connected()) {
                (Err(_), Ok(())) => tracing::info!(origin = status.origin, "source connected"),
                (Ok(()), Err(error)) => tracing::warn!(origin = status.origin, error, "source disconnected; what is known stays in force"),
                _ => {}
            }
            true
        });
    }

    /// Objects of the kind in force. Nobody is woken for it.
    pub(super) fn objects(&self, kind: Kind, objects: usize) {
        self.metrics
            .objects
            .get_or_create(&kind.name().into())
            .set(i64::try_from(objects).unwrap_or(i64::MAX));
        self.status.send_if_modified(|status| {
            status.kinds.entry(kind).or_default().objects = objects;
            false
        });
    }

    /// What is wrong with an object, None if nothing is. Said in the log when it changes.
    pub(super) fn problem(&self, kind: Kind, key: &ObjectKey, problem: Option<String>) {
        let name = format!("{kind} {key}");
        self.status.send_if_modified(|status| {
            let changed = match problem {
                None => status.problems.remove(&name).is_some(),
                Some(problem) if status.problems.get(&name) == Some(&problem) => false,
                Some(problem) => {
                    tracing::warn!(%kind, object = %key, problem, "malformed object");
                    status.problems.insert(name, problem);
                    true
                }
            };
            if changed {
                let of_kind = format!("{kind} ");
                let count =
                    status.problems.keys().filter(|name| name.starts_with(&of_kind)).count();
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                self.metrics.invalid.get_or_create(&kind.name().into()).set(count);
            }
            changed
        });
    }

    /// All problems at once, by the name of the file.
    pub(super) fn problems(&self, problems: BTreeMap<String, String>) {
        // What a file that cannot be read would hold is not known: files are counted, not objects.
        let count = i64::try_from(problems.len()).unwrap_or(i64::MAX);
        self.metrics.invalid.get_or_create(&FILE.into()).set(count);
        self.status.send_if_modified(|status| {
            for (name, problem) in &problems {
                if status.problems.get(name) != Some(problem) {
                    tracing::warn!(file = name, problem, "malformed file");
                }
            }
            for name in status.problems.keys().filter(|name| !problems.contains_key(*name)) {
                tracing::info!(file = name, "file is good again");
            }
            let changed = status.problems != problems;
            status.problems = problems;
            changed
        });
    }

    fn note_unsupported(&self, object: &Object) {
        let fields = object.unsupported();
        if self.unsupported.lock().set(object.kind(), &object.key(), fields) {
            self.publish_unsupported();
        }
    }

    fn publish_unsupported(&self) {
        let report = self.unsupported.lock().report();
        self.status.send_if_modified(|status| {
            let changed = status.unsupported != report;
            status.unsupported = report;
            changed
        });
    }
}
