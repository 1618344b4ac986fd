//! `felix load-balancer`: addresses of IPPools for Services of type LoadBalancer, as Calico's
//! kube-controllers give them.
//!
//! ```text
//!  watches ──▶ world ──which Services──▶ job: GET, plan, one transaction each, status
//!                                         │
//!                            lease: does this replica act?
//! ```
//! What a Service holds is asked of the store, what it is to have follows from the watches ([`plan`]);
//! nothing else is remembered. Nothing is taken away because of what a watch says, or does not say:
//! the Service is asked for by name before that.

mod job;
pub mod lease;
pub mod plan;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use api::v3;
use ipam::services::Services;
use ipam::store::etcd::EtcdStore;
use k8s_openapi::api::core::v1 as core;
use kube::{Client, Resource};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::job::{Done, Job, Problem, Tools};
pub use self::plan::AssignIps;
use self::world::{Concerned, Key, Kind, World};
use crate::config::{Config, IpamConfig, SourceConfig};
use crate::observe::{Condition, Health, Heartbeat, Metrics, http};
use crate::source::kubernetes::backoff::Backoff;
use crate::source::kubernetes::{client, random, watch_seconds};
use crate::source::listwatch::{Event, Failure, ListWatch, Options};

/// Jobs at a time.
const AT_ONCE: usize = 8;
/// Between two looks at everything that Services hold.
const ROUND: Duration = Duration::from_secs(300);
/// After a failure, doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
const LOOP_DEADLINE: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration is of no use here, or the health pages cannot be served.
pub async fn run(config: Config, assign: AssignIps) -> Result<()> {
    let SourceConfig::Kubernetes(kubernetes) = &config.source else {
        bail!("source.kind: Services are watched in Kubernetes; this is a directory");
    };
    let IpamConfig::Etcd(etcd) = &config.ipam else {
        bail!("ipam.store: an embedded store is its agent's alone; needs etcd");
    };
    let store = EtcdStore::new(&etcd.access()).context("ipam")?;
    let (client, _) = client(kubernetes).await?;
    let address = config.http.address;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("http.address: {address}"))?;
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let mut running = start(
        client,
        Services::new(Arc::new(store)),
        assign,
        Some(listener),
        Counts::default(),
        &stop,
    );
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = running.join_next() => match ended {
            Some(Err(error)) => Err(error).context("a part panicked"),
            _ => bail!("a part ended on its own"),
        },
    };
    stop.cancel();
    while running.join_next().await.is_some() {}
    result
}

/// Starts it all; it ends when `stop` is cancelled.
fn start(
    client: Client,
    services: Services,
    assign: AssignIps,
    listener: Option<TcpListener>,
    counts: Counts,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let (health, mut tasks) = (Health::default(), JoinSet::new());
    let (ready, heartbeat) =
        (health.register_condition("source"), health.register_loop("services", LOOP_DEADLINE));
    if let Some(listener) = listener {
        let (metrics, stopped) = (Arc::new(Metrics::of(counts.registry())), stop.clone());
        let refresh: http::Refresh = Arc::new(|| Box::pin(std::future::ready(())));
        let served = http::serve(listener, health, metrics, refresh, async move {
            stopped.cancelled().await;
        });
        tasks.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the health pages are not served any more");
            }
        });
    }
    let (sender, events) = mpsc::channel(256);
    for kind in Kind::ALL {
        let path = match kind {
            Kind::Service => core::Service::url_path(&(), None),
            Kind::Pool => v3::IPPool::url_path(&(), None),
            Kind::Reservation => v3::IPReservation::url_path(&(), None),
            Kind::Configuration => v3::IPAMConfiguration::url_path(&(), None),
            Kind::Controllers => v3::KubeControllersConfiguration::url_path(&(), None),
        };
        let options = Options { watch_seconds: watch_seconds(), ..Options::default() };
        let objects = ListWatch::new(client.clone(), &path, options);
        tasks.spawn(read(kind, objects, sender.clone(), stop.clone()));
    }
    let (held, holds) = watch::channel(false);
    let namespace = client.default_namespace().to_owned();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let me = format!("{}_{:016x}", host.trim(), random());
    tasks.spawn(lease::hold(client.clone(), namespace, me, held, stop.clone()));
    let controller = Controller {
        world: World::new(assign),
        tools: Tools { services, client },
        handles: BTreeMap::new(),
        due: BTreeMap::new(),
        failures: BTreeMap::new(),
        told: BTreeMap::new(),
        working: BTreeSet::new(),
        jobs: JoinSet::new(),
        round: Round::Due(Instant::now()),
        round_failures: 0,
        ready,
        counts,
    };
    tasks.spawn(controller.run(events, holds, heartbeat, stop.clone()));
    tasks
}

type Told = (Kind, Result<Event, Failure>);

/// Reads one kind until nobody listens.
async fn read(
    kind: Kind,
    mut objects: ListWatch,
    events: mpsc::Sender<Told>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    let reading = async {
        loop {
            let event = objects.next().await;
            let failure = event.as_ref().err().cloned();
            if events.send((kind, event)).await.is_err() {
                return;
            }
            if let Some(failure) = failure {
                tokio::time::sleep(backoff.next(&failure, Instant::now(), random())).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = reading => {}
    }
}

#[derive(Clone, Default)]
struct Counts {
    leader: Gauge,
    services: Gauge,
    addresses: Gauge,
    failing: Gauge,
    jobs: Counter,
}

impl Counts {
    fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("caracal_load_balancer");
        own.register("leader", "Whether this replica acts", self.leader.clone());
        own.register("services", "Services known", self.services.clone());
        own.register("addresses", "Addresses that status names", self.addresses.clone());
        own.register("failing", "Services that are not as they should be", self.failing.clone());
        own.register("reconciled", "Times that a Service was looked at", self.jobs.clone());
        registry
    }
}

/// A look at all that Services hold, and at what can be given back.
enum Round {
    Due(Instant),
    Running,
}

enum Finished {
    Service(Done),
    Round(Result<ipam::services::Holdings, ipam::Error>),
}

struct Controller {
    world: World,
    tools: Tools,
    /// Handles that hold, or held, something in a Service's name.
    handles: BTreeMap<Key, BTreeSet<String>>,
    /// What is to be looked at, and not before when.
    due: BTreeMap<Key, Instant>,
    failures: BTreeMap<Key, u32>,
    /// What owners were told last.
    told: BTreeMap<Key, String>,
    working: BTreeSet<Key>,
    jobs: JoinSet<Finished>,
    round: Round,
    round_failures: u32,
    ready: Condition,
    counts: Counts,
}

impl Controller {
    async fn run(
        mut self,
        mut events: mpsc::Receiver<Told>,
        mut holds: watch::Receiver<bool>,
        mut heartbeat: Heartbeat,
        stop: CancellationToken,
    ) {
        loop {
            self.ready.set(self.world.synced());
            let acts = *holds.borrow_and_update();
            self.counts.leader.set(i64::from(acts));
            if acts && self.world.synced().is_ok() {
                self.begin();
            }
            let next = self.next_due().filter(|_| acts);
            tokio::select! {
                () = stop.cancelled() => break,
                event = events.recv() => match event {
                    Some((kind, event)) => self.take(kind, event),
                    None => break,
                },
                changed = holds.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    // Who acted before may have left things half done.
                    self.round = Round::Due(Instant::now());
                }
                Some(finished) = self.jobs.join_next(), if !self.jobs.is_empty() => match finished {
                    Ok(finished) => self.finished(finished),
                    Err(error) => tracing::error!(%error, "a job panicked"),
                },
                () = heartbeat.answer() => {}
                () = sleep_until(next) => {}
            }
        }
        // Each ends by itself, soon; what it has begun it also finishes.
        while self.jobs.join_next().await.is_some() {}
    }

    fn take(&mut self, kind: Kind, event: Result<Event, Failure>) {
        let Concerned { services, all } = match event {
            Ok(event) => self.world.take(kind, event),
            Err(failure) => {
                if failure != Failure::Expired {
                    tracing::warn!(?kind, error = %failure, "not watched");
                }
                self.world.fail(kind, &failure);
                return;
            }
        };
        let now = Instant::now();
        for key in services {
            let ours = self.world.services.get(&key);
            if let Some(service) = ours.filter(|service| service.is_ours(self.world.assign())) {
                // Known by this from now on, also when it is deleted before anything is given.
                self.handles.entry(key.clone()).or_default().insert(service.id.handle());
            }
            self.failures.remove(&key);
            self.due.insert(key, now);
        }
        if all {
            let everything = self.world.services.keys().chain(self.handles.keys()).cloned();
            self.due.extend(everything.map(|key| (key, now)).collect::<Vec<_>>());
            self.failures.clear();
        }
        self.counts.services.set(self.world.services.len().try_into().unwrap_or(i64::MAX));
        self.counts.addresses.set(self.world.announced().len().try_into().unwrap_or(i64::MAX));
    }

    /// Begins what is due and can be begun.
    fn begin(&mut self) {
        let now = Instant::now();
        if matches!(self.round, Round::Due(at) if at <= now) {
            self.round = Round::Running;
            let (services, config) = (self.tools.services.clone(), self.world.config());
            self.jobs.spawn(async move {
                let given_back =
                    services.give_back(config.as_ref(), SystemTime::now().into()).await;
                Finished::Round(match given_back {
                    Ok(blocks) => {
                        for block in blocks {
                            tracing::info!(%block, "given back: no Service has an address of it");
                        }
                        services.all().await
                    }
                    Err(error) => Err(error),
                })
            });
        }
        let due: Vec<Key> = self
            .due
            .iter()
            .filter(|(key, at)| **at <= now && !self.working.contains(*key))
            .map(|(key, _)| key.clone())
            .take(AT_ONCE.saturating_sub(self.working.len()))
            .collect();
        for key in due {
            self.due.remove(&key);
            let service = self.world.services.get(&key).cloned();
            let handles = self.handles.get(&key).cloned().unwrap_or_default();
            let ours = service.as_ref().is_some_and(|of| of.is_ours(self.world.assign()));
            if !ours && handles.is_empty() {
                continue;
            }
            self.working.insert(key.clone());
            let cluster = self.world.cluster(&key);
            let (tools, job) = (self.tools.clone(), Job { key, service, handles, cluster });
            self.jobs.spawn(async move { Finished::Service(job.run(&tools).await) });
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let round = match self.round {
            Round::Due(at) => Some(at),
            Round::Running => None,
        };
        let room = self.working.len() < AT_ONCE;
        let waiting = self.due.iter().filter(|(key, _)| room && !self.working.contains(*key));
        // Before all is known nothing is begun; an event wakes us then.
        let synced = self.world.synced().is_ok();
        waiting.map(|(_, at)| *at).chain(round).min().filter(|_| synced)
    }

    fn finished(&mut self, finished: Finished) {
        let now = Instant::now();
        match finished {
            Finished::Round(Ok(holdings)) => {
                (self.round, self.round_failures) = (Round::Due(now + ROUND), 0);
                for corrupt in &holdings.unreadable {
                    tracing::warn!(error = %corrupt, "Services may have addresses of it");
                }
                for (handle, holding) in holdings.by_handle {
                    let key = (holding.namespace, holding.service);
                    if key.0.is_empty() || key.1.is_empty() {
                        tracing::warn!(handle, "holds addresses and names no Service; they stay");
                        continue;
                    }
                    self.handles.entry(key.clone()).or_default().insert(handle);
                    self.due.entry(key).or_insert(now);
                }
                for key in self.world.services.keys() {
                    self.due.entry(key.clone()).or_insert(now);
                }
            }
            Finished::Round(Err(error)) => {
                tracing::warn!(%error, "what Services hold is not known");
                self.round = Round::Due(now + delay(self.round_failures));
                self.round_failures += 1;
            }
            Finished::Service(Done { key, handles, problem }) => {
                self.counts.jobs.inc();
                self.working.remove(&key);
                if handles.is_empty() && !self.due.contains_key(&key) {
                    self.handles.remove(&key);
                } else {
                    // What was learned meanwhile stays.
                    self.handles.entry(key.clone()).or_default().extend(handles);
                }
                match problem {
                    None => {
                        self.failures.remove(&key);
                        self.told.remove(&key);
                    }
                    Some(problem) => self.failed(key, problem, now),
                }
                self.counts.failing.set(self.failures.len().try_into().unwrap_or(i64::MAX));
            }
        }
    }

    fn failed(&mut self, key: Key, problem: Problem, now: Instant) {
        let failures = self.failures.entry(key.clone()).or_default();
        let again = now + delay(*failures);
        *failures += 1;
        self.due.entry(key.clone()).or_insert(again);
        let (namespace, name) = &key;
        match problem {
            Problem::Passing(error) => tracing::warn!(namespace, name, error, "tried again"),
            Problem::Owner(error) => {
                if self.told.get(&key) == Some(&error) {
                    return;
                }
                tracing::warn!(namespace, name, error, "the Service does not get its addresses");
                if let Some(service) = self.world.services.get(&key).cloned() {
                    let (tools, error) = (self.tools.clone(), error.clone());
                    tokio::spawn(async move { tools.tell(&service.id, &error).await });
                }
                self.told.insert(key, error);
            }
        }
    }
}

fn delay(failures: u32) -> Duration {
    (FIRST_RETRY * 2_u32.saturating_pow(failures.min(10))).min(LONGEST_RETRY)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
