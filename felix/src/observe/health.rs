//! Liveness and readiness.
//!
//! Liveness asks each of the agent's loops and wants an answer within its deadline: a loop that
//! hangs is found even when it has nothing to do. Readiness is a set of named conditions, each
//! with the reason why it does not hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// The agent's health; clones share it.
#[derive(Clone, Default)]
pub struct Health {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    loops: BTreeMap<&'static str, Loop>,
    conditions: BTreeMap<&'static str, Result<(), String>>,
}

#[derive(Clone)]
struct Loop {
    deadline: Duration,
    pings: mpsc::Sender<oneshot::Sender<()>>,
}

/// One line of a health report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The loop or condition.
    pub name: &'static str,
    /// Why it is not well.
    pub result: Result<(), String>,
}

impl Health {
    /// Registers a loop, which must then answer every ping within `deadline`. A loop whose
    /// [`Heartbeat`] is dropped counts as dead.
    pub fn register_loop(&self, name: &'static str, deadline: Duration) -> Heartbeat {
        // Several probes may ask at once; more than this many unanswered is dead all the same.
        let (pings, asked) = mpsc::channel(8);
        self.shared.lock().loops.insert(name, Loop { deadline, pings });
        Heartbeat { asked }
    }

    /// Registers a condition of readiness. It does not hold until set.
    pub fn register_condition(&self, name: &'static str) -> Condition {
        self.shared.lock().conditions.insert(name, Err("starting".into()));
        Condition { name, health: self.clone() }
    }

    /// Asks all loops at once. Takes as long as the slowest, at most the longest deadline.
    pub async fn live(&self) -> Vec<Check> {
        let loops: Vec<_> =
            self.shared.lock().loops.iter().map(|(name, l)| (*name, l.clone())).collect();
        futures::future::join_all(
            loops.into_iter().map(|(name, l)| async move { Check { name, result: ask(&l).await } }),
        )
        .await
    }

    /// All conditions, by name.
    pub fn ready(&self) -> Vec<Check> {
        let shared = self.shared.lock();
        shared
            .conditions
            .iter()
            .map(|(name, result)| Check { name, result: result.clone() })
            .collect()
    }
}

async fn ask(l: &Loop) -> Result<(), String> {
    let late = || format!("no answer within {:?}", l.deadline);
    let (answer, answered) = oneshot::channel();
    match l.pings.try_send(answer) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => return Err(late()),
        Err(mpsc::error::TrySendError::Closed(_)) => return Err("has ended".into()),
    }
    match tokio::time::timeout(l.deadline, answered).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err("has ended".into()),
        Err(_) => Err(late()),
    }
}

/// A loop's side of the liveness probe.
pub struct Heartbeat {
    asked: mpsc::Receiver<oneshot::Sender<()>>,
}

impl Heartbeat {
    /// Waits for a ping and answers it; a branch of the loop's `select!`. Cancel safe.
    pub async fn answer(&mut self) {
        match self.asked.recv().await {
            // A probe that gave up does not wait for the answer.
            Some(ping) => drop(ping.send(())),
            None => std::future::pending().await,
        }
    }

    /// Answers what has been asked so far; for a thread that blocks elsewhere.
    pub fn answer_pending(&mut self) {
        while let Ok(ping) = self.asked.try_recv() {
            let _ = ping.send(());
        }
    }
}

/// A condition of readiness, to be set by the part that knows.
#[derive(Clone)]
pub struct Condition {
    name: &'static str,
    health: Health,
}

impl Condition {
    /// The condition holds, or why it does not. A change is logged.
    pub fn set(&self, result: Result<(), String>) {
        let mut shared = self.health.shared.lock();
        let Some(current) = shared.conditions.get_mut(self.name) else { return };
        if *current == result {
            return;
        }
        let was_ready = current.is_ok();
        current.clone_from(&result);
        drop(shared);
        match result {
            Ok(()) => tracing::info!(condition = self.name, "ready"),
            Err(reason) if was_ready => tracing::warn!(condition = self.name, reason, "not ready"),
            Err(reason) => tracing::debug!(condition = self.name, reason, "not ready yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn loops_that_answer_are_alive_and_others_are_named() {
        let health = Health::default();
        let mut answering = health.register_loop("answering", DEADLINE);
        let _hung = health.register_loop("hung", DEADLINE);
        drop(health.register_loop("ended", DEADLINE));
        let task = tokio::spawn(async move {
            loop {
                answering.answer().await;
            }
        });
        let checks = health.live().await;
        task.abort();
        let results: Vec<_> = checks
            .iter()
            .map(|c| (c.name, c.result.as_ref().map_err(String::as_str).copied()))
            .collect();
        assert_eq!(
            results,
            [
                ("answering", Ok(())),
                ("ended", Err("has ended")),
                ("hung", Err("no answer within 200ms"))
            ]
        );
    }

    #[tokio::test]
    async fn a_loop_that_recovers_is_alive_again() {
        let health = Health::default();
        let mut heartbeat = health.register_loop("loop", DEADLINE);
        for _ in 0..3 {
            assert!(health.live().await[0].result.is_err(), "nobody answers");
        }
        heartbeat.answer_pending();
        let asking = tokio::spawn({
            let health = health.clone();
            async move { health.live().await }
        });
        heartbeat.answer().await;
        assert_eq!(asking.await.unwrap()[0].result, Ok(()));
    }

    #[test]
    fn readiness_holds_when_every_condition_does() {
        let health = Health::default();
        let (source, kernel) =
            (health.register_condition("source"), health.register_condition("kernel"));
        assert_eq!(health.ready()[0], Check { name: "kernel", result: Err("starting".into()) });
        kernel.set(Ok(()));
        source.set(Err("not in sync: Pod".into()));
        assert_eq!(
            health.ready(),
            [
                Check { name: "kernel", result: Ok(()) },
                Check { name: "source", result: Err("not in sync: Pod".into()) }
            ]
        );
    }
}
