//! Runs the speaker: the configuration that peering computes goes in, its routes go to the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bgpd::{FibSubscription, Shutdown, Speaker, SpeakerHandle};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::remembered::{Memory, Remembered};
use crate::cni::Delegated;
use crate::config::BgpConfig;
use crate::kernel::{self, Kernel};
use crate::model::{NextHop, RouteChange, RouteTarget};
use crate::observe::health::Condition;
use crate::peering::{Link, Local, Peering, Plan, Problem};

/// Routes handed to the kernel at once: about 3 ms of its time.
const BATCH: usize = 1024;

/// Pauses between attempts to start a speaker whose port is taken.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

const OF_BEFORE: &str =
    "goes on with the configuration of before, and waits for the source to be in sync";

/// How the speaker is, for `felix status`.
#[derive(Clone, Default)]
pub(super) struct Running {
    pub(super) speaker: Option<SpeakerHandle>,
    pub(super) problems: Vec<Problem>,
    /// The node's routes are announced as the last choice.
    pub(super) draining: bool,
}

pub(super) struct Bgp {
    pub(super) peering: watch::Receiver<Peering>,
    /// This node's blocks; at start those of before.
    pub(super) blocks: watch::Receiver<Arc<[IpNet]>>,
    /// The addresses of this node in blocks of others; at start those of before.
    pub(super) borrowed: watch::Receiver<Arc<[IpAddr]>>,
    /// What other IPAM plugins gave to this node's pods; at start that of before.
    pub(super) delegated: watch::Receiver<Delegated>,
    /// The node's links and their addresses.
    pub(super) links: watch::Receiver<Arc<[Link]>>,
    pub(super) settings: BgpConfig,
    pub(super) kernel: Kernel,
    pub(super) condition: Condition,
    pub(super) running: watch::Sender<Running>,
    /// The kernel has routes of an earlier run: peers are asked to keep ours meanwhile.
    pub(super) restarting: bool,
    pub(super) memory: Memory,
}

impl Bgp {
    /// Runs until `stop`; then peers keep our routes, as the kernel keeps forwarding.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut blackholes = BTreeSet::new();
        let mut speaker: Option<SpeakerHandle> = None;
        let mut forwarding = JoinSet::new();
        let mut applied = None;
        let mut retry = RETRY.0;
        // Only what wakes a subscriber is complete: see `Fabric::apply`.
        let mut complete = self.peering.has_changed()?;
        // Without routes to keep there is no hurry.
        let before = if self.restarting { self.memory.load() } else { None };
        let impatient =
            tokio::time::sleep(before.as_ref().map_or(Duration::MAX, Remembered::patience));
        tokio::pin!(impatient);
        loop {
            // The node's own networks lead to it as its blocks do. Other addresses no block of ours
            // leads to, so each is announced by itself, like a borrowed one.
            let Delegated { addresses, networks } = self.delegated.borrow_and_update().clone();
            let blocks = self.blocks.borrow_and_update().clone();
            let blocks: Arc<[IpNet]> = match &*networks {
                [] => blocks,
                _ => blocks.iter().copied().chain(networks).collect(),
            };
            self.keep_blackholes(&mut blackholes, &blocks).await;
            let borrowed = self.borrowed.borrow_and_update().clone();
            let local = Local {
                blocks,
                borrowed: borrowed.iter().copied().chain(addresses).collect(),
                restarting: self.restarting,
                links: self.links.borrow_and_update().clone(),
                port: self.settings.port,
                router_id: self.settings.router_id,
                drain: self.settings.drain,
            };
            let plan = match &before {
                _ if complete => self.peering.borrow_and_update().plan(&local),
                Some(before) if impatient.is_elapsed() => {
                    Some(Plan { config: before.config(&local), problems: Vec::new() })
                }
                _ => None,
            };
            let mut failed = false;
            if let Some(Plan { config, problems }) = plan {
                self.say(&problems);
                if applied.as_ref() != Some(&config) {
                    match self.bring(&mut speaker, config.clone(), &mut forwarding).await {
                        Ok(()) => {
                            if complete {
                                self.keep(&config);
                            }
                            applied = Some(config);
                            retry = RETRY.0;
                        }
                        Err(error) => {
                            failed = true;
                            tracing::error!(%error, "the BGP configuration is not in force");
                            self.condition.set(Err(error.to_string()));
                        }
                    }
                }
                if !failed {
                    self.condition.set(if complete { Ok(()) } else { Err(OF_BEFORE.into()) });
                }
                self.running.send_modify(|running| {
                    running.speaker.clone_from(&speaker);
                    running.problems = problems;
                    running.draining = applied.as_ref().is_some_and(|it| it.graceful_shutdown);
                });
            } else {
                self.condition.set(Err(Self::missing(complete)));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = self.peering.changed() => {
                    changed?;
                    complete = true;
                }
                changed = self.blocks.changed() => changed?,
                changed = self.borrowed.changed() => changed?,
                changed = self.delegated.changed() => changed?,
                changed = self.links.changed() => changed?,
                // Without the speaker there is no BGP, and no routes: a new agent has both.
                Some(_ended) = forwarding.join_next() => {
                    let error = "the BGP speaker has ended on its own";
                    self.condition.set(Err(error.into()));
                    anyhow::bail!(error);
                }
                () = &mut impatient, if !complete && !impatient.is_elapsed() => {
                    tracing::warn!("the source is away: BGP goes on with the configuration of before");
                }
                () = tokio::time::sleep(retry), if failed => retry = (retry * 2).min(RETRY.1),
            }
        }
        forwarding.shutdown().await;
        if let Some(speaker) = speaker {
            speaker.shutdown(Shutdown::ForRestart).await;
        }
        Ok(())
    }

    /// For a start while the source is away.
    fn keep(&self, config: &bgpd::Config) {
        if let Err(error) = self.memory.store(config) {
            tracing::warn!(%error, "the BGP configuration is not kept for the next start");
        }
    }

    /// What the configuration waits for.
    fn missing(complete: bool) -> String {
        let missing = if complete { "this node's Node object" } else { "the source to be in sync" };
        format!("waits for {missing}")
    }

    fn say(&self, problems: &[Problem]) {
        let known = self.running.borrow();
        for problem in problems.iter().filter(|problem| !known.problems.contains(problem)) {
            tracing::warn!(
                object = problem.object,
                field = problem.field,
                reason = problem.reason,
                "not honoured"
            );
        }
    }

    async fn bring(
        &self,
        speaker: &mut Option<SpeakerHandle>,
        config: bgpd::Config,
        forwarding: &mut JoinSet<()>,
    ) -> Result<(), bgpd::ConfigError> {
        if let Some(speaker) = speaker {
            let report = speaker.apply(config).await?;
            for change in &report.changes {
                let (object, effect) = (&change.object, change.effect);
                tracing::info!(object, fields = ?change.fields, ?effect, "BGP configuration changed");
            }
            return Ok(());
        }
        let started = Speaker::start(config).await?;
        let fib = started.fib().await.map_err(|_| bgpd::ConfigError::Stopped)?;
        forwarding.spawn(forward(fib, self.kernel.clone()));
        *speaker = Some(started);
        Ok(())
    }

    /// What no pod has in a block of ours is unreachable here, not sent back to the router.
    async fn keep_blackholes(&self, held: &mut BTreeSet<IpNet>, blocks: &[IpNet]) {
        let wanted: BTreeSet<IpNet> =
            blocks.iter().copied().filter(|block| !is_host(block)).collect();
        let added = wanted.difference(held).map(|block| (*block, Some(RouteTarget::Blackhole)));
        let removed = held.difference(&wanted).map(|block| (*block, None));
        let changes: Vec<_> = added
            .chain(removed)
            .map(|(destination, target)| RouteChange { destination, target })
            .collect();
        if !changes.is_empty() {
            heed(self.kernel.set_routes(changes).await);
        }
        *held = wanted;
    }
}

fn is_host(block: &IpNet) -> bool {
    block.prefix_len() == block.max_prefix_len()
}

/// What cannot be written is kept by the kernel's writer and tried again.
fn heed(written: Result<Vec<kernel::Rejected>, kernel::Error>) {
    match written {
        Ok(waiting) => {
            for route in waiting {
                tracing::debug!(route = route.object, reason = route.reason, "waits");
            }
        }
        Err(error) => tracing::error!(%error, "routes are not in the kernel"),
    }
}

/// Takes the speaker's routes to the kernel until the speaker ends.
async fn forward(fib: FibSubscription, kernel: Kernel) {
    loop {
        fib.changed().await;
        loop {
            let Ok(batch) = fib.take(BATCH).await else { return };
            let changes = batch.deltas.into_iter().map(|delta| {
                let mut hops: smallvec::SmallVec<[NextHop; 2]> = delta
                    .next_hops
                    .iter()
                    .map(|hop| NextHop { gateway: hop.addr, interface: hop.interface })
                    .collect();
                hops.sort_unstable();
                hops.dedup();
                let target = (!hops.is_empty()).then_some(RouteTarget::Via(hops));
                RouteChange { destination: delta.prefix, target }
            });
            heed(kernel.set_learned_routes(changes.collect()).await);
            if batch.converged
                && let Err(error) = kernel.routes_in_sync().await
            {
                tracing::error!(%error, "routes of an earlier run are not removed yet");
            }
            if fib.ack(batch.sequence).await.is_err() {
                return;
            }
            if !batch.more {
                break;
            }
        }
    }
}
