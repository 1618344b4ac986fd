//! The Kubernetes API as a source: each kind is listed and watched by a task of its own.
//!
//! A kind that the API server does not know (its CRD is not installed) has no objects, and does
//! not hold the others up; the server must say so twice, lest one that is starting be believed. A
//! kind that was read before keeps what is known of it: deleting needs proof, and that is a list.
//! Secrets may be forbidden, and count as absent then; for any other kind the right to read is
//! waited for.

pub(crate) mod backoff;
mod nodes;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use api::policy::ClusterNetworkPolicy;
use api::v3;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::backoff::Backoff;
use super::OpenError;
use super::convert::{Convert, Converted, Problem, decode};
use super::hub::{Closed, Hub};
use super::known::Known;
use super::listwatch::{Event, Failure, ListWatch, Options};
use super::status::{KindState, SourceStatus};
use crate::config::KubernetesConfig;
use crate::model::{Kind, ObjectKey, Update};
use crate::observe::metrics::SourceMetrics;

/// To the TCP and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a request's bytes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Each watch lives for a random time in this range of seconds, so that those of a node and of a
/// cluster spread out. It bounds how long a connection can be dead unnoticed.
const WATCH_SECONDS: (u32, u32) = (30, 60);
/// Times in a row that the API server must deny knowing a kind.
const DENIALS: u32 = 2;
/// Large Secrets that are never the agent's own.
const SECRET_FIELDS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token";

/// What an open source is known by.
pub(super) struct Opened {
    pub(super) status: watch::Receiver<SourceStatus>,
    /// The namespace whose Secrets are read.
    pub(super) secret_namespace: Arc<str>,
    pub(super) registry: Arc<dyn ipam::retire::Registry>,
}

/// Starts the tasks.
pub(super) async fn open(
    config: &KubernetesConfig,
    updates: mpsc::Sender<Update>,
    metrics: SourceMetrics,
    tasks: &mut JoinSet<()>,
) -> Result<Opened, OpenError> {
    let (client, origin) = client(config).await?;
    let secrets: Arc<str> =
        config.secret_namespace.as_deref().unwrap_or_else(|| client.default_namespace()).into();
    let streaming = config.streaming_lists;
    let status = start(&client, origin, &secrets, streaming, updates, metrics, tasks);
    let registry = Arc::new(nodes::Nodes(client));
    Ok(Opened { status, secret_namespace: secrets, registry })
}

pub(crate) async fn client(config: &KubernetesConfig) -> Result<(Client, String), OpenError> {
    let wrong = |error: &dyn std::fmt::Display| OpenError {
        field: "source.kubeconfig",
        reason: error.to_string().replace('\n', " "),
    };
    let mut client = match &config.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(|error| wrong(&error))?
        }
        None => kube::Config::incluster().map_err(|error| {
            wrong(&format_args!("not set, and there is no service account of a pod: {error}"))
        })?,
    };
    client.connect_timeout = Some(CONNECT_TIMEOUT);
    client.write_timeout = Some(WRITE_TIMEOUT);
    // It waits up to 1000 s out of sight. Each request has a deadline and a repetition of its own.
    client.default_retry = false;
    let origin = client.cluster_url.to_string();
    let client = Client::try_from(client).map_err(|error| wrong(&error))?;
    Ok((client, origin))
}

fn start(
    client: &Client,
    origin: String,
    secret_namespace: &str,
    streaming: bool,
    updates: mpsc::Sender<Update>,
    metrics: SourceMetrics,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<SourceStatus> {
    let (hub, status) = Hub::new(origin, &Kind::ALL, updates, metrics);
    let hub = Arc::new(hub);
    let options = || Options { streaming, watch_seconds: watch_seconds(), ..Options::default() };

    for resource in resources(secret_namespace) {
        let fields = (resource.kind == Kind::Secret).then(|| SECRET_FIELDS.to_owned());
        let objects =
            ListWatch::new(client.clone(), &resource.path, Options { fields, ..options() });
        tasks.spawn(run(resource, objects, Arc::clone(&hub)));
    }
    status
}

/// One kind, as the API serves it.
struct Kubernetes {
    kind: Kind,
    path: String,
    decode: fn(Value) -> Result<Converted, Problem>,
}

impl Kubernetes {
    /// In all namespaces, or in one.
    fn of<K: Convert<DynamicType = ()> + DeserializeOwned>(namespace: Option<&str>) -> Self {
        Self { kind: K::KIND, path: K::url_path(&(), namespace), decode: decode::<K> }
    }
}

fn resources(secret_namespace: &str) -> [Kubernetes; Kind::ALL.len()] {
    [
        Kubernetes::of::<v3::FelixConfiguration>(None),
        Kubernetes::of::<v3::BGPConfiguration>(None),
        Kubernetes::of::<v3::IPAMConfiguration>(None),
        Kubernetes::of::<v3::KubeControllersConfiguration>(None),
        Kubernetes::of::<v3::IPPool>(None),
        Kubernetes::of::<v3::IPReservation>(None),
        Kubernetes::of::<v3::Tier>(None),
        Kubernetes::of::<core::Namespace>(None),
        Kubernetes::of::<core::ServiceAccount>(None),
        Kubernetes::of::<core::Node>(None),
        Kubernetes::of::<ClusterNetworkPolicy>(None),
        Kubernetes::of::<v3::GlobalNetworkPolicy>(None),
        Kubernetes::of::<v3::NetworkPolicy>(None),
        Kubernetes::of::<networking::NetworkPolicy>(None),
        Kubernetes::of::<v3::StagedNetworkPolicy>(None),
        Kubernetes::of::<v3::StagedGlobalNetworkPolicy>(None),
        Kubernetes::of::<v3::StagedKubernetesNetworkPolicy>(None),
        Kubernetes::of::<v3::GlobalNetworkSet>(None),
        Kubernetes::of::<v3::NetworkSet>(None),
        Kubernetes::of::<v3::HostEndpoint>(None),
        Kubernetes::of::<v3::BGPFilter>(None),
        Kubernetes::of::<v3::BGPPeer>(None),
        Kubernetes::of::<core::Secret>(Some(secret_namespace)),
        Kubernetes::of::<discovery::EndpointSlice>(None),
        Kubernetes::of::<core::Pod>(None),
    ]
}

pub(crate) fn watch_seconds() -> u32 {
    let (least, most) = WATCH_SECONDS;
    least + u32::try_from(random() % u64::from(most - least + 1)).unwrap_or(0)
}

/// Random enough to spread retries: the standard library seeds its hashers anew each time.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Reads one kind until the agent no longer listens.
async fn run(resource: Kubernetes, mut objects: ListWatch, hub: Arc<Hub>) {
    let mut reader = Reader::new(resource.kind, resource.decode, hub);
    let mut backoff = Backoff::default();
    loop {
        let taken = match objects.next().await {
            Ok(event) => reader.take(event).await,
            Err(failure) => {
                let delay = backoff.next(&failure, Instant::now(), random());
                let taken = reader.fail(failure).await;
                tokio::time::sleep(delay).await;
                taken
            }
        };
        if let Err(Closed) = taken {
            return;
        }
    }
}

/// What one kind's events mean.
struct Reader {
    kind: Kind,
    decode: fn(Value) -> Result<Converted, Problem>,
    known: Known,
    /// The kind no longer holds up that the source is in sync.
    listed: bool,
    /// How often in a row the API server denied to know the kind.
    denials: u32,
    /// Objects that have a problem.
    malformed: BTreeSet<ObjectKey>,
    /// Those that the list under way has not held so far.
    stale: BTreeSet<ObjectKey>,
    hub: Arc<Hub>,
}

impl Reader {
    fn new(kind: Kind, decode: fn(Value) -> Result<Converted, Problem>, hub: Arc<Hub>) -> Self {
        let (malformed, stale) = (BTreeSet::new(), BTreeSet::new());
        Self {
            kind,
            decode,
            known: Known::new(kind),
            listed: false,
            denials: 0,
            malformed,
            stale,
            hub,
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), Closed> {
        // That a list begins does not mean that the server knows the kind.
        if !matches!(event, Event::Listing) {
            self.denials = 0;
        }
        match event {
            Event::Listing => {
                self.known.begin_list();
                self.stale.clone_from(&self.malformed);
            }
            Event::Complete => {
                for gone in self.known.end_list() {
                    self.send(gone).await?;
                }
                for key in std::mem::take(&mut self.stale) {
                    self.problem(&key, None);
                }
                self.hub.objects(self.kind, self.known.len());
                self.listed = true;
                self.hub.state(self.kind, KindState::Watching, None);
                self.hub.listed(&[self.kind]).await?;
            }
            Event::Watching => self.hub.state(self.kind, KindState::Watching, None),
            Event::Listed(json) | Event::Applied(json) => self.set(json).await?,
            Event::Deleted(json) => {
                let key = key_of(&json);
                self.problem(&key, None);
                if let Some(update) = self.known.remove(key) {
                    self.send(update).await?;
                }
                self.hub.objects(self.kind, self.known.len());
            }
        }
        Ok(())
    }

    async fn set(&mut self, json: Value) -> Result<(), Closed> {
        let key = key_of(&json);
        self.stale.remove(&key);
        match (self.decode)(json) {
            Ok(Converted { object, problems }) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                self.problem(&key, (!problems.is_empty()).then(|| problems.join("; ")));
                if let Some(update) = self.known.set(object) {
                    self.send(update).await?;
                }
                self.hub.objects(self.kind, self.known.len());
            }
            Err(problem) => {
                let problem = format!("{problem}; the last that could be read stays in force");
                self.problem(&key, Some(problem));
                self.known.keep(key);
            }
        }
        Ok(())
    }

    async fn fail(&mut self, failure: Failure) -> Result<(), Closed> {
        let error = Some(failure.to_string());
        let absent = match &failure {
            Failure::NotServed => {
                self.denials += 1;
                self.hub.state(self.kind, KindState::NotServed, error);
                self.denials >= DENIALS
            }
            Failure::Forbidden(_) => {
                self.hub.state(self.kind, KindState::Forbidden, error);
                self.kind == Kind::Secret
            }
            // Not a failure to anyone: the list that follows sets it right.
            Failure::Expired => {
                self.hub.state(self.kind, KindState::Listing, None);
                false
            }
            Failure::Other(_) => {
                self.hub.state(self.kind, KindState::Disconnected, error);
                false
            }
        };
        if !matches!(failure, Failure::NotServed) {
            self.denials = 0;
        }
        if absent && !self.listed {
            self.listed = true;
            self.hub.listed(&[self.kind]).await?;
        }
        Ok(())
    }

    async fn send(&self, update: Update) -> Result<(), Closed> {
        self.hub.send(update).await
    }

    fn problem(&mut self, key: &ObjectKey, problem: Option<String>) {
        let changed = match &problem {
            Some(_) => {
                self.malformed.insert(key.clone());
                true
            }
            None => self.malformed.remove(key),
        };
        if changed {
            self.hub.problem(self.kind, key, problem);
        }
    }
}

fn key_of(json: &Value) -> ObjectKey {
    let text = |path| json.pointer(path).and_then(Value::as_str);
    ObjectKey {
        namespace: text("/metadata/namespace").map(Into::into),
        name: text("/metadata/name").unwrap_or_default().into(),
    }
}
