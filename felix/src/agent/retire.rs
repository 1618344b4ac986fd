//! Gives back what nodes held that Kubernetes has deleted: see [`ipam::retire`], which proves it.
//! This decides only when to ask, and which agent is the first to.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ipam::Ipam;
use ipam::retire::{Challenge, Registry};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fabric::NodeNames;

/// When to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long a node must be missing before its agent is asked whether it lives, how long that
    /// has to answer, and how long it takes to try again what could not be done.
    pub(super) grace: Duration,
    /// Between looks while no node is missing.
    pub(super) look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { grace: Duration::from_secs(60), look: Duration::from_secs(600) }
    }
}

/// How many agents wait for each other; all further ones wait as long as the last of these.
const RANKS: u32 = 10;

/// What is to be done about a missing node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Challenge(String),
    Retire(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Missing,
    Challenged,
}

/// Nodes that the store knows and Kubernetes does not have, with their stages, and since when.
#[derive(Debug, Default)]
struct Missing(BTreeMap<String, (Stage, Instant)>);

impl Missing {
    /// Takes who is missing now; one that was not at any look in between starts anew. Says what is
    /// due.
    fn due(
        &mut self,
        now: Instant,
        missing: &BTreeSet<String>,
        rank: impl Fn(&str) -> u32,
        grace: Duration,
    ) -> Vec<Act> {
        self.0.retain(|node, _| missing.contains(node));
        for node in missing {
            self.0.entry(node.clone()).or_insert((Stage::Missing, now));
        }
        let due = self.0.iter().filter_map(|(node, (stage, since))| {
            let missed = now.duration_since(*since);
            match stage {
                Stage::Missing if missed >= grace * (1 + rank(node).min(RANKS)) => {
                    Some(Act::Challenge(node.clone()))
                }
                Stage::Challenged if missed >= grace => Some(Act::Retire(node.clone())),
                _ => None,
            }
        });
        due.collect()
    }

    fn set(&mut self, node: &str, stage: Stage, since: Instant) {
        self.0.insert(node.to_owned(), (stage, since));
    }
}

/// How many of `nodes` come before `own` in an order that is another for each missing node.
fn rank(own: &str, nodes: &BTreeSet<Arc<str>>, missing: &str) -> u32 {
    let score = |node: &str| {
        let mut hasher = DefaultHasher::new();
        (node, missing).hash(&mut hasher);
        hasher.finish()
    };
    let mine = score(own);
    let before = nodes.iter().filter(|node| score(node) < mine).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

/// Tells the store which node of Kubernetes this one is, and looks after those that are gone, until
/// `stop`.
pub(super) async fn run(
    own: String,
    ipam: Ipam,
    registry: Arc<dyn Registry>,
    mut nodes: watch::Receiver<NodeNames>,
    pace: Pace,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let work = async {
        let mut missing = Missing::default();
        loop {
            let names = nodes.wait_for(|names| is_known(names.as_ref(), &own)).await?.clone();
            let names = names.unwrap_or_default();
            let identified = identify(&own, &ipam, &*registry).await;
            let looked = look(&own, &ipam, &*registry, &names, pace, &mut missing).await;
            let well = looked && identified;
            let pause = if well && missing.0.is_empty() { pace.look } else { pace.grace };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = nodes.changed() => changed?,
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = work => ended,
    }
}

/// A list without this node is not the one to judge others by.
fn is_known(names: Option<&BTreeSet<Arc<str>>>, own: &str) -> bool {
    names.is_some_and(|names| names.contains(own))
}

/// Records this node's uid. False if that must be tried again.
async fn identify(own: &str, ipam: &Ipam, registry: &dyn Registry) -> bool {
    let uid = match registry.uid(own).await {
        Ok(Some(uid)) => uid,
        Ok(None) => return false,
        Err(error) => {
            tracing::debug!(error, "this node's uid is not known yet");
            return false;
        }
    };
    match ipam.identify(&uid).await {
        Ok(true) => return true,
        Ok(false) => {}
        Err(error) => {
            tracing::debug!(%error, "this node's uid is not recorded yet");
            return false;
        }
    }
    match ipam.succeed(&uid, registry).await {
        Ok(true) => tracing::info!(
            node = own,
            "this node's name was another machine's, which Kubernetes has deleted; it is taken over"
        ),
        Ok(false) => {}
        Err(error) => tracing::debug!(%error, "this node's name is not taken over yet"),
    }
    false
}

/// Looks for missing nodes, and does what is due. False if that must be tried again.
async fn look(
    own: &str,
    ipam: &Ipam,
    registry: &dyn Registry,
    names: &BTreeSet<Arc<str>>,
    pace: Pace,
    missing: &mut Missing,
) -> bool {
    let known = match ipam.known_nodes().await {
        Ok(known) => known,
        Err(error) => {
            tracing::debug!(%error, "no look for nodes that are gone");
            return false;
        }
    };
    let absent: BTreeSet<String> =
        known.into_iter().filter(|node| !names.contains(node.as_str())).collect();
    let due = missing.due(Instant::now(), &absent, |node| rank(own, names, node), pace.grace);
    for act in due {
        match act {
            Act::Challenge(node) => match ipam.challenge(&node, registry).await {
                Ok(Challenge::Unowned) => missing.set(&node, Stage::Challenged, Instant::now()),
                Ok(Challenge::Refused(reason)) => {
                    tracing::debug!(node, reason, "a missing node is left alone");
                    missing.set(&node, Stage::Missing, Instant::now());
                }
                Err(error) => tracing::debug!(node, %error, "a missing node is not challenged yet"),
            },
            Act::Retire(node) => retire(&node, ipam, registry, missing).await,
        }
    }
    true
}

async fn retire(node: &str, ipam: &Ipam, registry: &dyn Registry, missing: &mut Missing) {
    let retired = match ipam.retire(node, registry).await {
        Ok(retired) => retired,
        Err(error) => {
            tracing::warn!(node, %error, "what a deleted node held is not given back yet");
            return;
        }
    };
    if !retired.addresses.is_empty() || !retired.blocks.is_empty() {
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
    let stage = if retired.alive { Stage::Missing } else { Stage::Challenged };
    missing.set(node, stage, Instant::now());
}

#[cfg(test)]
mod tests;
