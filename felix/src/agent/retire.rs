//! Gives back what nodes held that Kubernetes has deleted: see [`ipam::retire`], which proves it.
//! This decides only when to ask, and which agent is the first to.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::OptionFuture;
use ipam::Ipam;
use ipam::retire::{Challenge, Machine, Registry};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::fabric::NodeNames;

mod schedule;

pub(super) use schedule::Pace;
use schedule::{Act, Missing, Schedule, Stage, rank};

/// Tells the store which node of Kubernetes this one is, and looks after those that are gone.
pub(super) struct Retiring {
    /// This node's name.
    pub(super) own: String,
    /// [`crate::cni::journal::boot_id`]: what tells whose Node object it is.
    pub(super) boot_id: String,
    pub(super) ipam: Ipam,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) pace: Pace,
    /// How many nodes are missing.
    pub(super) gauge: Gauge,
}

/// What became of telling the store which node this one is.
enum Identified {
    Recorded,
    /// The name is free for this node's allocator to take.
    Succeeded,
    /// Not yet, and why.
    Waits(String),
}

impl Retiring {
    /// Does so until `stop`.
    ///
    /// # Errors
    /// Nobody tells of nodes any more.
    pub(super) async fn run(
        self,
        mut nodes: watch::Receiver<NodeNames>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let (own, pace) = (&self.own, &self.pace);
        let work = async {
            let (mut schedule, mut missing) = (Schedule::default(), Missing::default());
            let (mut vain, mut failures, mut told) = (0, 0, BTreeSet::new());
            nodes.mark_changed();
            loop {
                let next: OptionFuture<_> = schedule.next().map(sleep_until).into();
                tokio::select! {
                    changed = nodes.changed() => {
                        changed?;
                        let names = nodes.borrow_and_update().clone();
                        schedule.take(names, own, Instant::now(), pace);
                    }
                    Some(()) = next => {}
                }
                let now = Instant::now();
                if schedule.identify.is_some_and(|at| at <= now) {
                    schedule.identify = match self.identify().await {
                        Identified::Recorded => {
                            vain = 0;
                            None
                        }
                        Identified::Succeeded => {
                            vain = 0;
                            Some(now + pace.grace)
                        }
                        Identified::Waits(reason) => {
                            vain += 1;
                            self.tell_of_waiting(vain, reason, &mut told);
                            Some(now + pace.again(vain))
                        }
                    };
                }
                if let Some(names) = schedule.names()
                    && schedule.look.is_some_and(|at| at <= now)
                {
                    let looked = self.look(names, &mut missing).await;
                    let now = Instant::now();
                    if let Some((known, next)) = looked {
                        failures = 0;
                        let usual = now + pace.look + pace.jitter(own);
                        // No more often than once in the grace.
                        let next = next.map_or(usual, |next| next.max(now + pace.grace));
                        schedule.look = Some(next.min(usual));
                        if !known && schedule.identify.is_none() {
                            schedule.identify = Some(now);
                        }
                    } else {
                        failures += 1;
                        schedule.look = Some(now + pace.again(failures));
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = work => ended,
        }
    }

    /// Records this node's uid.
    async fn identify(&self) -> Identified {
        let (own, ipam) = (&self.own, &self.ipam);
        let found = match self.registry.identity(own).await {
            Ok(Some(found)) => found,
            Ok(None) => return Identified::Waits("Kubernetes does not have it".to_owned()),
            Err(error) => return Identified::Waits(error),
        };
        let machine = found.machine(&self.boot_id);
        match ipam.identify(&found.uid, machine).await {
            Ok(true) => return Identified::Recorded,
            Ok(false) => {}
            Err(error) => return Identified::Waits(error.to_string()),
        }
        if machine == Machine::Another {
            return Identified::Waits(
                "Kubernetes has another boot of a machine by this name: its status.nodeInfo.bootID is not this machine's"
                    .to_owned(),
            );
        }
        match ipam.succeed(&found.uid, machine, &*self.registry).await {
            Ok(true) => {
                tracing::info!(
                    node = own,
                    "this node's name was another machine's, which Kubernetes has deleted; it is taken over"
                );
                Identified::Succeeded
            }
            Ok(false) => {
                Identified::Waits("its name is another's, or it is not provably its own".to_owned())
            }
            Err(error) => Identified::Waits(error.to_string()),
        }
    }

    /// Says why this node is not identified: once, and not of what is over soon.
    fn tell_of_waiting(&self, vain: u32, reason: String, told: &mut BTreeSet<String>) {
        /// A kubelet says late that its machine was started again.
        const PATIENCE: u32 = 3;
        const REASONS: usize = 8;
        let node = &self.own;
        tracing::debug!(node, reason, "the store does not know yet which node this is");
        if vain >= PATIENCE && told.len() < REASONS && told.insert(reason.clone()) {
            tracing::warn!(
                node,
                reason,
                "the store does not know yet which node of Kubernetes this is; once that is deleted, nobody gives back what it holds"
            );
        }
    }

    /// Looks for missing nodes, and does what is due. Says whether the store knows this node, and
    /// when something is due that is not yet. None if no look was possible.
    async fn look(
        &self,
        names: &BTreeSet<Arc<str>>,
        missing: &mut Missing,
    ) -> Option<(bool, Option<Instant>)> {
        let known = match self.ipam.known_nodes().await {
            Ok(known) => known,
            Err(error) => {
                tracing::debug!(%error, "no look for nodes that are gone");
                return None;
            }
        };
        let is_known = known.contains(&self.own);
        let absent: BTreeSet<String> =
            known.into_iter().filter(|node| !names.contains(node.as_str())).collect();
        let rank = |node: &str| rank(&self.own, names, node);
        missing.take(Instant::now(), &absent);
        self.gauge.set(i64::try_from(missing.len()).unwrap_or(i64::MAX));
        let (due, _) = missing.due(Instant::now(), rank, &self.pace);
        for act in due {
            match act {
                Act::Challenge(node) => self.challenge(&node, missing).await,
                Act::Retire(node) => self.retire(&node, missing).await,
            }
        }
        // What is due by now is so at the next look.
        let now = Instant::now();
        let (due, next) = missing.due(now, rank, &self.pace);
        Some((is_known, if due.is_empty() { next } else { Some(now) }))
    }

    async fn challenge(&self, node: &str, missing: &mut Missing) {
        let reason = match self.ipam.challenge(node, &*self.registry).await {
            Ok(Challenge::Unowned) => {
                if missing.asked(node, Instant::now()) {
                    tracing::info!(
                        node,
                        "Kubernetes has deleted this node: its agent is asked whether it lives"
                    );
                }
                return;
            }
            Ok(Challenge::Refused(reason)) => reason,
            Err(error) => error.to_string(),
        };
        tracing::debug!(node, reason, "a missing node is left alone");
        let new = missing.in_vain(node, Some(Stage::Missing), Instant::now(), [reason]);
        if !new.is_empty() {
            tracing::warn!(node, reasons = ?new, "a missing node is left alone");
        }
    }

    async fn retire(&self, node: &str, missing: &mut Missing) {
        let retired = match self.ipam.retire(node, &*self.registry).await {
            Ok(retired) => retired,
            Err(error) => {
                let new = missing.in_vain(node, None, Instant::now(), [error.to_string()]);
                tracing::debug!(node, %error, "what a deleted node held is not given back yet");
                if !new.is_empty() {
                    tracing::warn!(node, reasons = ?new, "what a deleted node held is not given back yet");
                }
                return;
            }
        };
        let gave = !retired.addresses.is_empty() || !retired.blocks.is_empty();
        if gave {
            tracing::info!(
                node,
                addresses = retired.addresses.len(),
                blocks = ?retired.blocks,
                "given back: Kubernetes has deleted the node that held them"
            );
        }
        if !retired.kept.is_empty() {
            tracing::debug!(node, kept = ?retired.kept, "something of a deleted node stays for now");
        }
        if !retired.alive && (gave || retired.kept.is_empty()) {
            missing.progressed(node, Instant::now());
            return;
        }
        let stage = if retired.alive { Stage::Missing } else { Stage::Silent };
        let new = missing.in_vain(node, Some(stage), Instant::now(), retired.kept);
        if !new.is_empty() {
            tracing::warn!(node, kept = ?new, "something of a deleted node stays");
        }
    }
}

#[cfg(test)]
mod tests;
