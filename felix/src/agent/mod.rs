//! Wires the agent's parts together and ends them in order.
//!
//! ```text
//!                      ┌──────────── fabric ──▶ bgp (speaker) ──routes──▶ kernel
//!   source ──Update──▶ brain (engine) ──Delta──────────────────────────▶ kernel
//!                       ▲      └───── fabric ──▶ addressing ─▶ ipam
//!   CNI server ─ backend┼────────────────────────────────────▶ ipam, kernel
//!   drops ◀─────────────┴──────────────── what policy denies ─── kernel
//!                       brain ◀── names ◀── DNS answers of pods ── kernel
//!   HTTP: health, metrics                     1 thread each: nftables, routes, links, BGP
//! ```
//! Nothing here is taken out of the kernel when the agent ends: running pods keep their policy,
//! their routes and, by graceful restart, their reachability.

mod addressing;
mod arrears;
mod backend;
mod bgp;
mod brain;
mod drops;
mod established;
mod explain;
mod fabric;
mod guard;
mod links;
mod measure;
mod names;
mod remembered;
mod report;
mod retire;
mod revisions;
mod settings;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::backend::AgentBackend;
use self::bgp::{Bgp, Running};
use self::brain::Brain;
use self::fabric::Fabric;
use self::guard::Guard;
use self::remembered::Memory;
use self::report::Reporter;
use self::retire::Retiring;
use self::settings::Settings;
use crate::cni::{self, journal};
use crate::config::{Config, IpamConfig};
use crate::engine::Engine;
use crate::kernel::answers::Answers;
use crate::kernel::denied::Denied;
use crate::kernel::{self, Kernel};
use crate::model::{IfIndex, LocalEndpoint, RouteChange, RouteTarget};
use crate::observe::logging::Logging;
use crate::observe::{Health, Metrics, http};
use crate::source::Source;

/// A loop of the agent that takes longer than this to answer hangs.
const LOOP_DEADLINE: Duration = Duration::from_secs(10);

/// Longest that the end waits for the parts to end in order.
const END: Duration = Duration::from_secs(15);

/// MTU of pods' links on a node without uplinks, in bytes: Ethernet's.
const DEFAULT_MTU: u32 = 1500;

/// Requests that may wait for the brain.
const QUEUE: usize = 1024;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// A part could not be started, or ended on its own.
pub async fn run(config: Config, logging: Logging) -> Result<()> {
    tracing::info!(node = config.node_name, version = env!("CARGO_PKG_VERSION"), "felix starts");
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let mut tasks = start(&config, logging, &stop).await?;
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = tasks.join_next() => ended.context("a part of the agent panicked")?.and_then(
            |()| anyhow::bail!("a part of the agent ended on its own")
        ),
    };
    tracing::info!("felix ends; what is in the kernel stays");
    stop.cancel();
    let ending = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(END, ending).await.is_err() {
        tracing::warn!("a part of the agent does not end, it is left behind");
    }
    result
}

/// Starts every part, in the order in which they stand on each other.
async fn start(
    config: &Config,
    logging: Logging,
    stop: &CancellationToken,
) -> Result<JoinSet<Result<()>>> {
    let (metrics, health, mut tasks) =
        (Arc::new(Metrics::new()), Health::default(), JoinSet::new());
    let address = config.http.address;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("http.address: {address}"))?;
    let ended = stop.clone();
    // Health is told before there is anything to measure.
    let measured: Arc<OnceLock<Reporter>> = Arc::default();
    // Not ready before each of these says so.
    let [of_kernel, of_bgp, of_ipam, of_source] =
        ["kernel", "bgp", "ipam", "source"].map(|name| health.register_condition(name));
    let refresh = refresh(&measured, &metrics);
    let served = http::serve(listener, health.clone(), Arc::clone(&metrics), refresh, async move {
        ended.cancelled().await;
    });
    tasks.spawn(async move { served.await.context("the HTTP server") });

    std::fs::create_dir_all(&config.run_dir)
        .with_context(|| format!("runDir: {}", config.run_dir.display()))?;
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("stateDir: {}", config.state_dir.display()))?;
    let boot_id = journal::boot_id().context("the boot id")?;
    let (journal, loaded) = journal::Journal::open(&config.state_dir.join("endpoints"), &boot_id)?;
    let kernel = Kernel::start(kernel::Options::default()).context("the kernel")?;
    let denied = Denied::listen(drops::QUEUE).context("the kernel")?;
    let drops = Arc::new(drops::Drops::new(denied.monitor()));
    let answers = Answers::listen(names::QUEUE).context("the kernel")?;
    let restarting = kernel.status().await.context("the kernel")?.routes.found > 0;
    let ipam = open_ipam(config)?;
    let source = Source::open(&config.source, metrics.source.clone()).await?;
    let (source_status, registry) = (source.status(), source.registry());

    let fabric = Fabric::new(&config.node_name, source.secret_namespace());
    let (peering, addressing, nodes) = (fabric.peering(), fabric.addressing(), fabric.nodes());
    let (brain_sender, commands) = mpsc::channel(QUEUE);
    let (in_sync, synced) = watch::channel(false);
    let running = watch::Sender::new(Running::default());
    let reporter = Reporter {
        node: config.node_name.as_str().into(),
        started: Instant::now(),
        health: health.clone(),
        source: source_status.clone(),
        brain: brain_sender.downgrade(),
        kernel: kernel.clone(),
        ipam: ipam.clone(),
        bgp: running.subscribe(),
        drops: Arc::clone(&drops),
    };
    // Nobody else sets it.
    let _ = measured.set(reporter.clone());
    let backend = Arc::new(AgentBackend {
        brain: brain_sender.clone(),
        kernel: kernel.clone(),
        ipam: ipam.clone(),
        addressing: addressing.clone(),
        in_sync: synced,
        reporter,
        metrics: metrics.cni.clone(),
        kernel_seconds: metrics.dataplane.apply_seconds.clone(),
        assign_seconds: metrics.ipam.assign_seconds.clone(),
        guard: Guard::new(kernel.clone(), ipam.blocks()),
        mtu: links::uplink_mtu().await.unwrap_or(DEFAULT_MTU),
    });
    let options = cni::Options { deadline: config.cni.deadline, ..cni::Options::default() };
    let server = cni::Server::new(backend, journal, loaded, options)?;

    // What the journal holds is alive, whatever the source and the stores say.
    let mut engine = Engine::new();
    let endpoints = server.endpoints();
    for missing in kernel
        .set_routes(link_routes(&endpoints, server.reached()))
        .await
        .context("the routes of running pods")?
    {
        tracing::warn!(
            route = missing.object,
            reason = missing.reason,
            "a running pod has no route"
        );
    }
    for endpoint in &endpoints {
        engine.endpoint_set(endpoint.clone());
    }
    let names = names::Names::open(
        &config.state_dir.join("names"),
        &boot_id,
        &endpoints,
        &mut engine,
        answers,
        metrics.names.clone(),
    )?;
    // An empty journal beside links that exist is a lost journal: it proves nothing.
    let bare = kernel.links().await.context("links")?.is_empty();
    let handles = server.handles().filter(|handles| !handles.is_empty() || bare);
    let live = addressing::proof(&ipam, handles);
    ipam.hold(server.held());

    let brain = Brain {
        engine,
        kernel: kernel.clone(),
        source,
        fabric,
        names,
        commands,
        own: brain_sender.downgrade(),
        metrics: metrics.dataplane.clone(),
        in_sync,
        programmed: of_kernel,
        heartbeat: health.register_loop("brain", LOOP_DEADLINE),
        namespaces: std::collections::BTreeMap::new(),
        waiting: Vec::new(),
        asked: Vec::new(),
        denied: Vec::new(),
        staged: crate::engine::Staged::default(),
        sampling: false,
        revisions: revisions::Revisions::default(),
        arrears: arrears::Arrears::default(),
        settings: Settings::new(&config.node_name),
        keep_established: false,
        logging,
        complete: false,
    };
    tasks.spawn(brain.run(stop.clone()));
    let (told, asked) = (metrics.denied.clone(), brain_sender.downgrade());
    let records = config.flow_records.as_ref();
    let records = records.map(|records| drops::RecordFile::new(&config.node_name, records));
    tasks.spawn(drops::run(denied, drops, asked, told, records, stop.clone()));
    let forgetting = kernel.clone();
    let bgp = Bgp {
        peering,
        blocks: ipam.blocks(),
        borrowed: ipam.borrowed(),
        delegated: server.delegated(),
        links: links::subscribe(&mut tasks, stop).await,
        settings: config.bgp,
        kernel,
        condition: of_bgp,
        running,
        restarting,
        memory: Memory::at(config.state_dir.join("bgp.json")),
    };
    tasks.spawn(bgp.run(stop.clone()));
    tasks.spawn(addressing::feed(addressing, ipam.clone(), stop.clone()));
    if let Some(registry) = registry {
        let retiring = Retiring {
            own: config.node_name.clone(),
            boot_id,
            ipam: ipam.clone(),
            registry,
            pace: retire::Pace::default(),
            gauge: metrics.ipam.missing_nodes.clone(),
        };
        tasks.spawn(retiring.run(nodes, stop.clone()));
    }
    let retry = {
        let server = server.clone();
        move || server.retry()
    };
    tasks.spawn(addressing::attend(ipam, forgetting, live, of_ipam, retry, stop.clone()));
    tasks.spawn(watch_source(source_status, of_source, stop.clone()));
    let socket = cni::Listener::bind(&config.socket()).context("the agent's socket")?;
    let stopped = stop.clone();
    tasks.spawn(async move {
        server.serve(socket, stopped).await;
        // Held until here: the brain ends when nobody can ask it any more.
        drop(brain_sender);
        Ok(())
    });
    Ok(tasks)
}

/// What a scrape of the metrics does first.
fn refresh(reporter: &Arc<OnceLock<Reporter>>, metrics: &Arc<Metrics>) -> http::Refresh {
    let (reporter, metrics) = (Arc::clone(reporter), Arc::clone(metrics));
    Arc::new(move || {
        let (reporter, metrics) = (reporter.get().cloned(), Arc::clone(&metrics));
        Box::pin(async move {
            if let Some(reporter) = reporter {
                reporter.measure(&metrics).await;
            }
        })
    })
}

async fn watch_source(
    mut status: watch::Receiver<crate::source::SourceStatus>,
    condition: crate::observe::health::Condition,
    stop: CancellationToken,
) -> Result<()> {
    loop {
        condition.set(status.borrow_and_update().ready());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = status.changed() => changed.context("the source")?,
        }
    }
}

/// The routes to running pods: each over its own link, and those of other plugins' over this node's
/// interface in their network.
fn link_routes(endpoints: &[LocalEndpoint], reached: Vec<(IpAddr, IfIndex)>) -> Vec<RouteChange> {
    let own = endpoints.iter().flat_map(|endpoint| {
        endpoint.addresses.iter().map(|address| (*address, endpoint.host_index))
    });
    let route = |(address, index): (IpAddr, IfIndex)| RouteChange {
        destination: address.into(),
        target: Some(RouteTarget::Link(index)),
    };
    own.chain(reached).map(route).collect()
}

fn open_ipam(config: &Config) -> Result<ipam::Ipam> {
    let store = match &config.ipam {
        IpamConfig::Etcd(etcd) => ipam::StoreConfig::Etcd(etcd.access()),
        IpamConfig::Embedded => ipam::StoreConfig::Embedded(config.state_dir.join("ipam.redb")),
    };
    // An embedded store is on this node's disk already.
    let local_first = matches!(&config.ipam, IpamConfig::Etcd(etcd) if etcd.local_first);
    let usual = ipam::Options::new(&config.node_name, store, config.state_dir.join("ipam"));
    let own = ipam::Options { local_first, awaits_held: true, own_thread: true, ..usual };
    ipam::Ipam::open(own).context("ipam")
}
