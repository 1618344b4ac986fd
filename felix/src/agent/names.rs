//! What names stand for: from DNS answers to endpoints whose policy asks of them, to the engine, and to the
//! disk for the next start.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::engine::{Engine, Problem, Staged};
use crate::kernel::answers::{Answers, Held, Told};
use crate::model::{EndpointId, IfIndex, Kind, LocalEndpoint};
use crate::names::answer::Answer;
use crate::names::learned::{Learned, Limits, Saved};
use crate::names::store::{Store, Uptime};
use crate::observe::metrics::NamesMetrics;

/// Packets that may wait to be learned from.
pub(super) const QUEUE: usize = 1024;
/// Most of them at once.
pub(super) const BATCH: usize = 256;
/// Answers from before it was known what policy asks of.
const EARLY: usize = 4096;

/// See the module's documentation.
pub(super) struct Names {
    learned: Learned,
    uptime: Uptime,
    store: Store,
    answers: Answers,
    /// What came before the source was in sync, and was delivered at once.
    early: Vec<(IfIndex, Answer)>,
    /// Packets that wait until what they say is in the kernel.
    held: Vec<Held>,
    metrics: NamesMetrics,
}

impl Names {
    /// Takes back for these endpoints what the folder says, and listens.
    pub(super) fn open(
        folder: &Path,
        boot_id: &str,
        endpoints: &[LocalEndpoint],
        engine: &mut Engine,
        answers: Answers,
        metrics: NamesMetrics,
    ) -> Result<Self> {
        let (store, saved) =
            Store::open(folder, boot_id).with_context(|| format!("names: {}", folder.display()))?;
        let uptime = Uptime::read().context("the time since the machine was started")?;
        let mut names = Self {
            learned: Learned::new(Limits::default()),
            uptime,
            store,
            answers,
            early: Vec::new(),
            held: Vec::new(),
            metrics,
        };
        names.restore(saved, endpoints, engine);
        Ok(names)
    }

    fn restore(
        &mut self,
        saved: BTreeMap<EndpointId, Vec<Saved>>,
        endpoints: &[LocalEndpoint],
        engine: &mut Engine,
    ) {
        let now = self.uptime.now();
        for (id, saved) in saved {
            if endpoints.iter().any(|endpoint| endpoint.id == id) {
                let changes = self.learned.restore(&id, saved, now);
                changes.into_iter().for_each(|change| engine.learn(change));
            } else {
                // It went while the agent was away.
                self.store.keep(id, Vec::new());
            }
        }
    }

    /// Waits for answers; 0: nobody will tell of any more. Cancel safe.
    pub(super) async fn recv_many(&mut self, told: &mut Vec<Told>) -> usize {
        self.answers.recv_many(told, BATCH).await
    }

    /// When there is something to do without an answer.
    pub(super) fn due(&self, in_sync: bool) -> Option<Instant> {
        if in_sync && !self.early.is_empty() {
            return Some(Instant::now());
        }
        self.learned.next().map(|time| self.uptime.instant(time))
    }

    /// Takes in answers, and what has lapsed. `ready`: the engine knows what policy asks of.
    pub(super) fn take_in(
        &mut self,
        told: &mut Vec<Told>,
        ready: bool,
        (engine, staged): (&mut Engine, &mut Staged),
    ) {
        let now = self.uptime.now();
        let mut changes = Vec::new();
        if self.learned.next().is_some_and(|next| next <= now) {
            changes.extend(self.learned.lapse(now));
        }
        let mut answers = if ready { std::mem::take(&mut self.early) } else { Vec::new() };
        for Told { output, answers: of, held } in told.drain(..) {
            let of = of.into_iter().map(|answer| (output, answer));
            if ready {
                answers.extend(of);
                self.held.push(held);
            } else {
                let room = EARLY.saturating_sub(self.early.len());
                self.early.extend(of.take(room));
            }
        }
        for (index, answer) in answers {
            let id = engine.endpoint_at(index).cloned();
            if let Some(id) = id.filter(|id| engine.asks_of(id, &answer.name)) {
                tracing::debug!(?id, name = answer.name, addresses = ?answer.addresses, "learned");
                changes.extend(self.learned.learn(&id, &answer, now));
            }
        }
        for change in changes {
            staged.learn(&change);
            engine.learn(change);
        }
    }

    /// The endpoint is gone.
    pub(super) fn forget(&mut self, id: &EndpointId) {
        self.learned.forget(id);
    }

    /// What was learned is in the kernel: answers are delivered, and the disk gets to know.
    pub(super) fn written(&mut self) {
        self.held.clear();
        for id in self.learned.take_touched() {
            let saved = self.learned.saved(&id);
            self.store.keep(id, saved);
        }
        let (status, counts) = (self.answers.monitor().status(), self.learned.counts());
        let raise = |counter: &prometheus_client::metrics::counter::Counter, total: u64| {
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        raise(&self.metrics.answers, status.read);
        raise(&self.metrics.answers_late, status.late);
        raise(&self.metrics.learned, counts.learned);
        raise(&self.metrics.evicted, counts.evicted);
        self.metrics.addresses.set(i64::try_from(self.learned.len()).unwrap_or(i64::MAX));
    }

    /// Why names cannot be learned, of each policy that asks of any.
    pub(super) fn problems(&self, engine: &Engine, missing: bool) -> Vec<Problem> {
        let reason = if missing {
            Some(
                "the kernel cannot hand DNS answers over: it has neither nft_queue nor xt_NFQUEUE"
                    .into(),
            )
        } else {
            self.answers.monitor().status().problem
        };
        let Some(reason) = reason else { return Vec::new() };
        let problem = |key| Problem {
            kind: Kind::ClusterNetworkPolicy,
            key,
            field: "spec.egress[].to[].domainNames".into(),
            reason: format!("nothing is learned of names: {reason}"),
        };
        engine.asking_of_names().map(problem).collect()
    }
}
