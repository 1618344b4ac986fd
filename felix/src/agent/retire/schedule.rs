//! When this node is identified, when others are looked for, and what is due about those that are
//! missing. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::fabric::NodeNames;

/// When to ask.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct Pace {
    /// How long a node must be missing before its agent is asked whether it lives, how long that
    /// has to answer, over how long the agents of a cluster spread what they all have to do, and
    /// how long it takes to try again, the first time, what could not be done.
    pub(in crate::agent) grace: Duration,
    /// Between looks while no node is missing. Whoever is the first to try something tries it
    /// again no later than this.
    pub(in crate::agent) look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { grace: Duration::from_secs(60), look: Duration::from_secs(600) }
    }
}

impl Pace {
    /// Until another try after so many in vain.
    pub(super) fn again(&self, vain: u32) -> Duration {
        self.grace.saturating_mul(1_u32.checked_shl(vain).unwrap_or(u32::MAX)).min(self.look)
    }

    /// This agent's share of the grace, so that not all of them act at the same moment.
    pub(super) fn jitter(&self, own: &str) -> Duration {
        const PARTS: u32 = 1024;
        let part = u32::try_from(hash(&own) % u64::from(PARTS)).unwrap_or(0);
        self.grace.saturating_mul(part) / PARTS
    }
}

/// When to identify this node, and to look for others.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// None: it is identified.
    pub(super) identify: Option<Instant>,
    pub(super) look: Option<Instant>,
    /// The last list that had this node; None while it is missing.
    names: Option<BTreeSet<Arc<str>>>,
}

impl Schedule {
    /// Takes the nodes that there are. A list without this node is not the one to judge others by;
    /// when it comes back it may be another node of its name. Nodes that are added change nothing.
    pub(super) fn take(&mut self, names: NodeNames, own: &str, now: Instant, pace: &Pace) {
        let Some(names) = names.filter(|names| names.contains(own)) else {
            *self = Self::default();
            return;
        };
        let soon = now + pace.jitter(own);
        match &self.names {
            None => {
                self.identify = Some(now);
                self.look = Some(soon);
            }
            Some(before) if before.difference(&names).next().is_some() => {
                self.look = Some(self.look.map_or(soon, |look| look.min(soon)));
            }
            Some(_) => {}
        }
        self.names = Some(names);
    }

    pub(super) fn names(&self) -> Option<&BTreeSet<Arc<str>>> {
        self.names.as_ref()
    }

    /// When there is something to do next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.identify.into_iter().chain(self.look).min()
    }
}

/// What is to be done about a missing node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Challenge(String),
    Retire(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Missing,
    /// Its agent was asked whether it lives.
    Asked,
    /// It did not answer.
    Silent,
}

#[derive(Debug)]
struct Case {
    stage: Stage,
    /// When it came to this stage, or was tried last.
    since: Instant,
    /// How often in a row nothing came of a try.
    vain: u32,
    /// It was said that its agent is asked.
    announced: bool,
    /// The reasons that were told.
    told: BTreeSet<String>,
}

/// So many tries in vain are nothing to tell of: addresses rest, an agent is at work.
const PATIENCE: u32 = 3;

/// Most reasons told of one node.
const REASONS: usize = 32;

/// Nodes that the store knows and Kubernetes does not have.
#[derive(Debug, Default)]
pub(super) struct Missing(BTreeMap<String, Case>);

impl Missing {
    /// Takes who is missing now; one that was not at any look in between starts anew.
    pub(super) fn take(&mut self, now: Instant, missing: &BTreeSet<String>) {
        self.0.retain(|node, _| missing.contains(node));
        for node in missing {
            self.0.entry(node.clone()).or_insert_with(|| Case {
                stage: Stage::Missing,
                since: now,
                vain: 0,
                announced: false,
                told: BTreeSet::new(),
            });
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What is due now, and when something will be that is not. Each agent waits for as many turns
    /// as there are agents before it, so that all of them together try little more often than one
    /// does.
    pub(super) fn due(
        &self,
        now: Instant,
        rank: impl Fn(&str) -> u32,
        pace: &Pace,
    ) -> (Vec<Act>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None);
        for (node, case) in &self.0 {
            let wait = match case.stage {
                // Only who asked waits for the answer.
                Stage::Asked => pace.grace,
                Stage::Missing | Stage::Silent => {
                    pace.again(case.vain).saturating_mul(rank(node).saturating_add(1))
                }
            };
            let at = case.since + wait;
            if at > now {
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            } else if case.stage == Stage::Missing {
                due.push(Act::Challenge(node.clone()));
            } else {
                due.push(Act::Retire(node.clone()));
            }
        }
        (due, next)
    }

    /// Its agent was asked. True the first time.
    pub(super) fn asked(&mut self, node: &str, now: Instant) -> bool {
        let Some(case) = self.0.get_mut(node) else { return false };
        (case.stage, case.since) = (Stage::Asked, now);
        !std::mem::replace(&mut case.announced, true)
    }

    /// Something of what it held was given back.
    pub(super) fn progressed(&mut self, node: &str, now: Instant) {
        if let Some(case) = self.0.get_mut(node) {
            (case.stage, case.since, case.vain) = (Stage::Silent, now, 0);
        }
    }

    /// Nothing came of it, for these reasons. Returns those to tell of: each once.
    pub(super) fn in_vain(
        &mut self,
        node: &str,
        stage: Option<Stage>,
        now: Instant,
        reasons: impl IntoIterator<Item = String>,
    ) -> Vec<String> {
        let Some(case) = self.0.get_mut(node) else { return Vec::new() };
        case.stage = stage.unwrap_or(case.stage);
        (case.since, case.vain) = (now, case.vain.saturating_add(1));
        if case.vain < PATIENCE {
            return Vec::new();
        }
        let mut new = Vec::new();
        for reason in reasons {
            if case.told.len() < REASONS && case.told.insert(reason.clone()) {
                new.push(reason);
            }
        }
        new
    }
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// How many of `nodes` come before `own` in an order that is another for each missing node.
pub(super) fn rank(own: &str, nodes: &BTreeSet<Arc<str>>, missing: &str) -> u32 {
    let score = |node: &str| hash(&(node, missing));
    let mine = score(own);
    let before = nodes.iter().filter(|node| score(node) < mine).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { grace: Duration::from_secs(60), look: Duration::from_secs(600) };

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn names(names: &[&str]) -> NodeNames {
        Some(names.iter().map(|&name| Arc::from(name)).collect())
    }

    #[test]
    fn a_missing_node_is_challenged_then_retired_and_its_time_starts_anew_when_it_returns() {
        let (mut missing, start) = (Missing::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let due = |missing: &mut Missing, seconds, nodes: &[&str], rank: u32| {
            missing.take(at(seconds), &set(nodes));
            missing.due(at(seconds), |_| rank, &PACE).0
        };
        assert_eq!(due(&mut missing, 0, &["a"], 0), []);
        assert_eq!(due(&mut missing, 59, &["a"], 0), []);
        assert_eq!(due(&mut missing, 60, &["a", "b"], 0), [Act::Challenge("a".into())]);
        assert_eq!(due(&mut missing, 61, &["b"], 0), [], "a is back");
        assert_eq!(due(&mut missing, 119, &["a", "b"], 0), []);
        assert_eq!(due(&mut missing, 120, &["a", "b"], 0), [Act::Challenge("b".into())]);
        assert_eq!(due(&mut missing, 200, &["a", "b"], 2), [], "others come first");
        assert_eq!(due(&mut missing, 240, &["a", "b"], 2), [Act::Challenge("b".into())]);
        assert!(missing.asked("b", at(240)));
        assert_eq!(due(&mut missing, 299, &["b"], u32::MAX), []);
        assert_eq!(due(&mut missing, 300, &["b"], u32::MAX), [Act::Retire("b".into())]);
        missing.in_vain("b", Some(Stage::Missing), at(300), []);
        assert!(!missing.asked("b", at(300)), "that is told once");
    }

    #[test]
    fn what_stays_is_tried_ever_more_rarely_and_told_once() {
        let (mut missing, start) = (Missing::default(), Instant::now());
        let mut now = start;
        missing.take(now, &set(&["a"]));
        missing.asked("a", now);
        let mut waits = Vec::new();
        let mut told = Vec::new();
        for _ in 0..40 {
            let why = ["it is so".to_owned(), "it is thus".to_owned()];
            told.extend(missing.in_vain("a", Some(Stage::Silent), now, why));
            let (due, next) = missing.due(now, |_| 0, &PACE);
            assert_eq!(due, []);
            waits.push((next.unwrap() - now).as_secs());
            now = next.unwrap();
            assert_eq!(missing.due(now, |_| 0, &PACE).0, [Act::Retire("a".into())]);
        }
        assert_eq!(waits[..4], [120, 240, 480, 600]);
        assert!(waits[4..].iter().all(|wait| *wait == 600), "{waits:?}");
        assert_eq!(told, ["it is so", "it is thus"]);
        // The tenth agent leaves it to nine others.
        let (_, next) = missing.due(start, |_| 9, &PACE);
        assert!(next.unwrap() >= start + Duration::from_secs(6000));
        missing.progressed("a", now);
        assert_eq!(missing.due(now, |_| 0, &PACE).1, Some(now + PACE.grace));
        let many = (0..1000).map(|n| n.to_string());
        missing.in_vain("a", None, now, []);
        missing.in_vain("a", None, now, []);
        assert_eq!(missing.in_vain("a", None, now, many).len(), REASONS - 2);
    }

    #[test]
    fn each_missing_node_has_its_own_first_agent() {
        let nodes: BTreeSet<Arc<str>> = (0..20).map(|n| format!("n{n}").into()).collect();
        let first = |missing: &str| {
            let first: Vec<_> =
                nodes.iter().filter(|node| rank(node, &nodes, missing) == 0).collect();
            assert_eq!(first.len(), 1, "{first:?}");
            first[0].clone()
        };
        let firsts: BTreeSet<Arc<str>> = (0..50).map(|n| first(&format!("gone{n}"))).collect();
        assert!(firsts.len() > 5, "{firsts:?}");
    }

    #[test]
    fn agents_look_when_a_node_goes_and_not_all_at_once() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.take(names(&["a"]), "own", start, &PACE);
        assert_eq!(schedule.next(), None, "a list without this node");
        schedule.take(names(&["a", "own"]), "own", start, &PACE);
        assert_eq!(schedule.identify, Some(start));
        assert!(schedule.look.unwrap() < start + PACE.grace);
        // Both are done.
        let later = start + PACE.look;
        (schedule.identify, schedule.look) = (None, Some(later));
        schedule.take(names(&["a", "b", "own"]), "own", start, &PACE);
        assert_eq!(schedule.next(), Some(later), "one is added");
        schedule.take(names(&["b", "own"]), "own", start, &PACE);
        assert!(schedule.identify.is_none() && schedule.look.unwrap() < start + PACE.grace);
        // This one goes, and comes back as another.
        schedule.take(names(&["b"]), "own", start, &PACE);
        assert_eq!((schedule.next(), schedule.names()), (None, None));
        schedule.take(names(&["b", "own"]), "own", later, &PACE);
        assert_eq!(schedule.identify, Some(later));
        // Of a thousand agents no more than a few at the same moment.
        let mut moments = BTreeMap::<u64, u32>::new();
        for n in 0..1000 {
            let jitter = PACE.jitter(&format!("node-{n}"));
            assert!(jitter < PACE.grace);
            *moments.entry(jitter.as_secs()).or_default() += 1;
        }
        assert!(moments.len() == 60 && moments.values().all(|n| *n < 50), "{moments:?}");
    }
}
