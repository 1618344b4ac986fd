//! The loop that owns the engine: updates and endpoints in, transactions to the kernel out.
//!
//! One task, so that the order in which things are judged is the order in which they came. It
//! takes all that has queued, lets the engine work out what follows, waits for the kernel to have
//! it, and only then answers those who wait. What arrives meanwhile is the next transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::arrears::{Arrears, Turn};
use super::fabric::Fabric;
use super::names::Names;
use super::revisions::{Held, Revisions};
use super::settings::Settings;
use super::{drops, explain, links};
use crate::cni::backend::{Failure, PodFacts};
use crate::cni::protocol::Question;
use crate::engine::{
    AppliedPolicy, Counts, Engine, HostLink, PolicyId, PolicyStanding, Problem, Staged,
    StagedStanding,
};
use crate::kernel::denied::DeniedPacket;
use crate::kernel::{self, Kernel, TrackedFlow};
use crate::model::{
    EndpointId, Kind, LocalEndpoint, Namespace, Object, ObjectKey, Parties, Pod, Update,
};
use crate::observe::health::{Condition, Heartbeat};
use crate::observe::logging::Logging;
use crate::observe::metrics::DataplaneMetrics;
use crate::source::Source;

/// Most updates taken in before the kernel is told: bounds how long a policy waits behind a relist.
const BATCH: usize = 4096;

/// What other tasks ask of the brain.
pub(super) enum Command {
    /// What is known of a pod, as soon as it is known.
    Pod { key: ObjectKey, uid: String, reply: oneshot::Sender<PodFacts> },
    /// What is known of a pod now, which may be nothing.
    PodNow { key: ObjectKey, reply: oneshot::Sender<PodFacts> },
    /// An endpoint is coming: answered when its policy is in the kernel.
    Set { endpoint: Box<LocalEndpoint>, reply: oneshot::Sender<Result<(), Failure>> },
    /// An endpoint is going: answered when its policy is out of the kernel.
    Remove { id: EndpointId, reply: oneshot::Sender<Result<(), Failure>> },
    /// Flows of endpoints whose policy changed, as the kernel tracks them now.
    Judge { parties: Parties, flows: Vec<TrackedFlow> },
    /// Their flows could not be judged: to be tried again.
    Unjudged { parties: Parties },
    /// For `felix status` and `felix endpoints`.
    Report { reply: oneshot::Sender<Report> },
    /// For `felix policy status`.
    Policies { reply: oneshot::Sender<Policies> },
    /// For `felix explain`: answered when what was taken in before is in the kernel.
    Explain { question: Box<Question>, ways: explain::Ways, reply: Explained },
    /// Who denied these packets: answered when nobody else waits.
    Denied { packets: Vec<DeniedPacket>, reply: drops::Attributed },
}

/// To whom a packet is explained.
pub(super) type Explained = oneshot::Sender<Result<explain::Answer, Failure>>;

/// What the brain knows, for people.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) counts: Counts,
    pub(super) problems: Vec<Problem>,
    pub(super) in_sync: bool,
    pub(super) endpoints: Vec<(LocalEndpoint, Vec<AppliedPolicy>)>,
    pub(super) last_error: Option<String>,
}

/// What the brain knows of the cluster's policies, in the order of their evaluation.
#[derive(Debug)]
pub(super) struct Policies {
    pub(super) policies: Vec<(PolicyStanding, Option<(Held, bool)>)>,
    pub(super) staged: Vec<StagedStanding>,
    pub(super) problems: Vec<Problem>,
    /// Which apply to each endpoint of this node.
    pub(super) endpoints: Vec<(LocalEndpoint, Vec<AppliedPolicy>)>,
    /// And to its host endpoints.
    pub(super) of_hosts: BTreeSet<PolicyId>,
    /// Whether it has any.
    pub(super) has_hosts: bool,
    pub(super) last_error: Option<String>,
}

pub(super) struct Brain {
    pub(super) engine: Engine,
    pub(super) kernel: Kernel,
    pub(super) source: Source,
    pub(super) fabric: Fabric,
    pub(super) names: Names,
    pub(super) commands: mpsc::Receiver<Command>,
    /// For the tasks that the brain starts itself.
    pub(super) own: mpsc::WeakSender<Command>,
    pub(super) metrics: DataplaneMetrics,
    pub(super) in_sync: watch::Sender<bool>,
    pub(super) programmed: Condition,
    pub(super) heartbeat: Heartbeat,
    pub(super) namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Those who wait for a pod to become known.
    pub(super) waiting: Vec<(ObjectKey, String, oneshot::Sender<PodFacts>)>,
    /// Questions that wait for the end of this turn.
    pub(super) asked: Vec<(Box<Question>, explain::Ways, Explained)>,
    /// Packets that wait for the end of this turn.
    pub(super) denied: Vec<(Vec<DeniedPacket>, drops::Attributed)>,
    pub(super) staged: Staged,
    /// The kernel was asked for a sample of what it lets through.
    pub(super) sampling: bool,
    pub(super) revisions: Revisions,
    pub(super) arrears: Arrears,
    pub(super) settings: Settings,
    /// Established flows go on, whatever policy says of them by now.
    pub(super) keep_established: bool,
    pub(super) logging: Logging,
    /// The kernel has been told of everything that is wanted, once.
    pub(super) complete: bool,
}

/// An answer that waits for the kernel.
type Answer = oneshot::Sender<Result<(), Failure>>;

impl Brain {
    /// Runs until `stop`, or until the source has ended, which is an error.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut updates = Vec::with_capacity(BATCH);
        let mut commands = Vec::with_capacity(64);
        let mut told = Vec::new();
        // What host endpoints need, known before the first of them is judged.
        let mut watching = JoinSet::new();
        let mut links: watch::Receiver<Arc<[HostLink]>> =
            links::subscribe_named(&mut watching, &stop).await;
        self.engine.set_node(self.settings.node(), &kernel::Options::default().prefix);
        self.engine.set_host_links(links.borrow_and_update().to_vec());
        self.engine.set_failsafe(self.settings.effective().failsafe);
        loop {
            let lapses_at = self.names.due(self.complete);
            let retry_at = self.arrears.retry_at().into_iter().chain(lapses_at).min();
            let retry_at = retry_at.map(tokio::time::Instant::from_std);
            tokio::select! {
                // Endpoints first: a pod that starts waits for the answer.
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.heartbeat.answer() => continue,
                n = self.commands.recv_many(&mut commands, 64) => {
                    anyhow::ensure!(n > 0, "all that ask of the agent have ended");
                }
                n = self.names.recv_many(&mut told) => {
                    anyhow::ensure!(n > 0, "the thread that reads DNS answers has ended");
                }
                n = self.source.recv_many(&mut updates, BATCH) => {
                    anyhow::ensure!(n > 0, "the source has ended");
                }
                Ok(()) = links.changed() => {
                    let links = links.borrow_and_update().to_vec();
                    self.staged.set_host_links(&links);
                    self.engine.set_host_links(links);
                }
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(tokio::time::Instant::now)),
                    if retry_at.is_some() => {}
            }
            let arrived = Instant::now();
            let mut answers: Vec<Answer> = Vec::new();
            let was_in_sync = self.engine.in_sync();
            let mut configured = false;
            for update in updates.drain(..) {
                configured |= self.settings.apply(&update);
                self.take_in(update);
            }
            if configured {
                self.configure().await;
            }
            for command in commands.drain(..) {
                self.obey(command, &mut answers).await;
            }
            let engines = (&mut self.engine, &mut self.staged);
            self.names.take_in(&mut told, self.complete, engines);
            self.settle_waiting();
            let result = self.commit(arrived).await;
            self.names.written();
            if !was_in_sync && self.engine.in_sync() {
                self.in_sync.send_replace(true);
            }
            for (question, ways, reply) in std::mem::take(&mut self.asked) {
                let peering = self.fabric.peering();
                let setting = explain::Setting {
                    peering: &peering.borrow(),
                    host_action: self.settings.effective().host_action,
                    ways: &ways,
                };
                let answer = explain::answer(&question, &self.engine, &self.staged, &setting);
                drop(reply.send(answer));
            }
            for answer in answers {
                // One that no longer waits has been undone by then.
                drop(answer.send(result.clone()));
            }
            self.settle_staged().await;
            for (packets, reply) in std::mem::take(&mut self.denied) {
                let (peering, both) = (self.fabric.peering(), (&self.engine, &self.staged));
                drops::answer(&packets, both, &peering.borrow(), reply);
            }
        }
    }

    /// Follows FelixConfiguration.
    async fn configure(&mut self) {
        let settings = self.settings.effective();
        self.logging.set_severity(settings.severity.as_deref());
        self.staged.set_failsafe(&settings.failsafe);
        self.engine.set_failsafe(settings.failsafe);
        self.engine.set_counting(settings.counting);
        self.keep_established(settings.keep_established);
        if let Err(error) = self.kernel.set_host_action(settings.host_action).await {
            tracing::error!(%error, "FelixConfiguration: spec.defaultEndpointToHostAction is not in force");
        }
        if let Err(error) = self.kernel.set_deny_action(settings.deny).await {
            tracing::error!(%error, "FelixConfiguration: spec.nftablesFilterDenyAction is not in force");
        }
        if let Err(error) = self.kernel.set_log_rules(settings.log).await {
            tracing::error!(%error, "FelixConfiguration: how Log rules log is not as spec has it");
        }
    }

    /// Works out what staged policies come to, when nobody waits any more, and has the kernel tell of
    /// the flows that they could change.
    async fn settle_staged(&mut self) {
        self.staged.settle(&self.engine);
        let wanted = self.staged.engine().is_some();
        if wanted != self.sampling && self.complete {
            // After an error the writer tries again by itself.
            self.sampling = wanted;
            if let Err(error) = self.kernel.set_sampling(wanted).await {
                tracing::error!(%error, "staged policies: which flows the kernel tells of does not change yet");
            }
        }
    }

    fn take_in(&mut self, update: Update) {
        self.fabric.apply(&update);
        self.revisions.take_in(&update);
        match &update {
            Update::Set(Object::Namespace(namespace)) => {
                self.namespaces.insert(namespace.name.clone(), namespace.clone());
            }
            Update::Remove(Kind::Namespace, key) => {
                self.namespaces.remove(&key.name);
            }
            _ => {}
        }
        self.staged.apply(&update, &self.engine);
        self.engine.apply(update);
    }

    async fn obey(&mut self, command: Command, answers: &mut Vec<Answer>) {
        match command {
            Command::Pod { key, uid, reply } => self.waiting.push((key, uid, reply)),
            Command::PodNow { key, reply } => {
                drop(reply.send(self.facts(&key, "").unwrap_or_default()));
            }
            Command::Set { endpoint, reply } => {
                if self.engine.in_sync() {
                    self.staged.endpoint_set(&endpoint);
                    self.engine.endpoint_set(*endpoint);
                    answers.push(reply);
                } else {
                    drop(reply.send(Err(Failure::TryAgainLater(
                        "policy is not known yet: the source has not been read completely since the agent started"
                            .into(),
                    ))));
                }
            }
            Command::Remove { id, reply } => {
                self.staged.endpoint_remove(&id);
                self.engine.endpoint_remove(&id);
                self.names.forget(&id);
                answers.push(reply);
            }
            Command::Judge { parties, flows } => self.judge(&parties, flows).await,
            Command::Unjudged { parties } => {
                self.arrears.judge_again(parties, Instant::now());
            }
            Command::Report { reply } => drop(reply.send(self.report())),
            Command::Policies { reply } => drop(reply.send(self.policies())),
            Command::Explain { question, ways, reply } => self.asked.push((question, ways, reply)),
            Command::Denied { packets, reply } => self.denied.push((packets, reply)),
        }
    }

    /// What the source knows of a pod with this uid (any, if empty).
    fn facts(&self, key: &ObjectKey, uid: &str) -> Option<PodFacts> {
        let pod = self.engine.pod(key)?;
        if !pod.has_uid(uid) {
            return None;
        }
        let namespace = key.namespace.as_ref().and_then(|name| self.namespaces.get(name));
        Some(facts(pod, namespace))
    }

    /// A pod whose namespace is not known waits too: policies and pools select by its labels, and one
    /// that selects the pod must not be late.
    fn settle_waiting(&mut self) {
        for (key, uid, reply) in std::mem::take(&mut self.waiting) {
            match self.facts(&key, &uid).filter(PodFacts::is_whole) {
                Some(facts) => drop(reply.send(facts)),
                None if reply.is_closed() => {}
                None => self.waiting.push((key, uid, reply)),
            }
        }
    }

    /// Brings what follows from everything taken in to the kernel.
    async fn commit(&mut self, arrived: Instant) -> Result<(), Failure> {
        let computing = Instant::now();
        let delta = self.engine.take_delta();
        for Problem { kind, key, field, reason } in self.engine.take_news() {
            tracing::warn!(%kind, object = %key, field, reason, "not as written: what cannot be understood or done allows nothing");
        }
        self.metrics.engine_seconds.observe(computing.elapsed().as_secs_f64());
        let counts = self.engine.counts();
        self.metrics.endpoints.set(gauge(counts.endpoints));
        self.metrics.policies.set(gauge(counts.policies));
        // The first delta is complete: with it goes what the kernel has beyond what is wanted.
        let first = self.engine.in_sync() && !self.complete;
        let again = self.arrears.due(arrived);
        if delta.is_none() && !first && !again {
            if self.complete && self.arrears.error().is_none() {
                self.revisions.written(arrived);
            }
            return Ok(());
        }
        let delta = delta.unwrap_or_default();
        // The first judges what was decided before this start, and what was cut then.
        if first || !self.keep_established {
            self.arrears.judge(Parties::of(&delta));
        }
        let writing = Instant::now();
        let written =
            if first { self.kernel.sync(delta).await } else { self.kernel.commit(delta).await };
        let took = writing.elapsed().as_secs_f64();
        self.metrics.apply_seconds.get_or_create(&"nftables".into()).observe(took);
        match written {
            Ok(()) => {
                self.complete |= first;
                self.metrics.update_to_kernel_seconds.observe(arrived.elapsed().as_secs_f64());
                self.rejudge();
                // What an earlier change asked for concerns nobody who waits for this one.
                let left_out = self.left_out().await;
                if left_out.is_ok() {
                    self.revisions.written(Instant::now());
                }
                drop(self.settle(left_out));
                Ok(())
            }
            Err(error) => self.settle(Err(error.to_string())),
        }
    }

    /// What earlier changes asked for and the kernel does not take.
    async fn left_out(&self) -> Result<(), String> {
        // Nothing was amiss, and nothing of this change was refused.
        if self.arrears.error().is_none() {
            return Ok(());
        }
        let status = self.kernel.status().await.map_err(|error| error.to_string())?;
        match status.nft.rejected.first() {
            Some(rejected) => Err(rejected.to_string()),
            None => Ok(()),
        }
    }

    /// Says how policy is now. The writer repeats by itself what failed as a whole; here it is
    /// only asked whether that has helped.
    fn settle(&mut self, outcome: Result<(), String>) -> Result<(), Failure> {
        let outcome = outcome.map_err(|error| format!("the kernel refused the policy: {error}"));
        match self.arrears.settle(outcome.clone(), Instant::now()) {
            Turn::Recovered => tracing::info!("policy is in the kernel again"),
            Turn::Failed => {
                let error = self.arrears.error();
                tracing::error!(error, "policy is not in the kernel");
            }
            Turn::Well | Turn::Failing => {}
        }
        self.programmed.set(outcome.clone());
        outcome.map_err(Failure::TryAgainLater)
    }

    fn report(&self) -> Report {
        Report {
            counts: self.engine.counts(),
            problems: self.problems(),
            in_sync: self.engine.in_sync(),
            endpoints: self.endpoints(),
            last_error: self.arrears.error().map(str::to_owned),
        }
    }

    fn policies(&self) -> Policies {
        let with_revision = |standing: PolicyStanding| {
            let held = self.revisions.held(&standing.id);
            (standing, held)
        };
        Policies {
            policies: self.engine.policies().map(with_revision).collect(),
            staged: self.staged.policies(),
            problems: [self.problems(), self.staged.problems()].concat(),
            endpoints: self.endpoints(),
            of_hosts: self.engine.policies_for_hosts(),
            has_hosts: self.engine.has_host_endpoints(),
            last_error: self.arrears.error().map(str::to_owned),
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let missing = self.kernel.queue() == kernel::Queue::Missing;
        [self.engine.problems(), self.names.problems(&self.engine, missing)].concat()
    }

    fn endpoints(&self) -> Vec<(LocalEndpoint, Vec<AppliedPolicy>)> {
        let with_policies =
            |endpoint: &LocalEndpoint| (endpoint.clone(), self.engine.policies_for(&endpoint.id));
        self.engine.endpoints().map(with_policies).collect()
    }
}

fn facts(pod: &Pod, namespace: Option<&Namespace>) -> PodFacts {
    PodFacts {
        uid: pod.uid.to_string(),
        labels: pod.labels.clone(),
        service_account: pod.service_account.to_string(),
        annotations: pod.annotations.clone(),
        namespace_annotations: namespace
            .map(|namespace| namespace.annotations.clone())
            .unwrap_or_default(),
        namespace_labels: namespace.map(|namespace| namespace.labels.clone()),
    }
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Labels;

    #[test]
    fn what_is_known_of_a_pod_has_its_namespace() {
        let pod = Pod {
            key: ObjectKey::namespaced("shop", "web"),
            uid: "u-1".into(),
            mirror_uid: None,
            node: None,
            labels: Labels::default(),
            service_account: "default".into(),
            addresses: smallvec::SmallVec::new(),
            ports: Arc::default(),
            host_network: false,
            annotations: Labels::default(),
        };
        let labels: Labels = [("team", "a")].into_iter().collect();
        let annotations: Labels = [("cni.projectcalico.org/ipv4pools", "[]")].into_iter().collect();
        let namespace = Namespace {
            name: "shop".into(),
            labels: labels.clone(),
            annotations: annotations.clone(),
        };
        let known = facts(&pod, Some(&namespace));
        assert_eq!(known.namespace_labels, Some(labels));
        assert_eq!(known.namespace_annotations, annotations);
        assert!(known.is_whole());
        let known = facts(&pod, None);
        assert_eq!(known.namespace_labels, None, "not the same as none");
        assert!(!known.is_whole());
    }
}
