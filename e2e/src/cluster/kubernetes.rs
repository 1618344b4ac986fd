//! A real API server, reached from inside a namespace.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
};
use kube::client::{Client, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};

use super::{PodEvent, Subject};
use crate::netns::Netns;

/// Who we are in `metadata.managedFields`.
const MANAGER: &str = "cargo-lab";

/// A client of the lab's API server.
#[derive(Clone)]
pub(crate) struct KubernetesCluster {
    client: Client,
}

impl std::fmt::Debug for KubernetesCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubernetesCluster")
    }
}

impl KubernetesCluster {
    /// A client with the credentials of a kubeconfig file, whose connections start in `netns`.
    pub(crate) async fn open(kubeconfig: &Path, netns: &Netns) -> Result<Self> {
        Ok(Self { client: client(kubeconfig, netns).await? })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The interface for objects of a kind, as the server itself describes it.
    async fn api(&self, subject: &Subject) -> Result<Api<DynamicObject>> {
        let (group, version) =
            subject.api_version.split_once('/').unwrap_or(("", &subject.api_version));
        let kind = GroupVersionKind::gvk(group, version, &subject.kind);
        // The server may not serve a kind whose definition it has just been given.
        let (resource, capabilities): (ApiResource, _) =
            discovery::pinned_kind(&self.client, &kind).await.with_context(|| {
                format!("the API server has no {} {}", subject.api_version, subject.kind)
            })?;
        Ok(match capabilities.scope {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(
                self.client.clone(),
                subject.namespace.as_deref().unwrap_or("default"),
                &resource,
            ),
        })
    }

    pub(super) async fn apply(&self, subject: &Subject, object: &Value) -> Result<()> {
        let api = self.api(subject).await?;
        let params = PatchParams::apply(MANAGER).force();
        // A status goes by `set_status`; a node's addresses could not be applied, their list is
        // keyed by a type that two of them share.
        let mut object = object.clone();
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        api.patch(&subject.name, &params, &Patch::Apply(&object)).await?;
        Ok(())
    }

    /// Writes the `status` of an object: a plain apply leaves that alone.
    pub(crate) async fn set_status(&self, object: &Value) -> Result<()> {
        let subject = Subject::of(object)?;
        let patch = json!({ "status": object["status"] });
        let api = self.api(&subject).await?;
        api.patch_status(&subject.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    pub(super) async fn delete(&self, subject: &Subject) -> Result<bool> {
        let api = self.api(subject).await?;
        match api.delete(&subject.name, &DeleteParams::default()).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn pods(&self) -> Result<Vec<Pod>> {
        Ok(Api::<Pod>::all(self.client.clone()).list(&ListParams::default()).await?.items)
    }

    pub(super) fn watch_pods(&self) -> BoxStream<'static, PodEvent> {
        let config = watcher::Config::default().timeout(60);
        watcher(Api::<Pod>::all(self.client.clone()), config)
            .filter_map(|event| async move {
                match event {
                    Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                        Some(PodEvent::Applied(Box::new(pod)))
                    }
                    Ok(Event::Delete(pod)) => Some(PodEvent::Deleted(
                        pod.metadata.namespace.unwrap_or_default(),
                        pod.metadata.name.unwrap_or_default(),
                    )),
                    Ok(Event::Init) => None,
                    Ok(Event::InitDone) => Some(PodEvent::Listed),
                    Err(error) => {
                        tracing::debug!(%error, "the watch of pods");
                        // The watcher starts over at its next poll; do not spin meanwhile.
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        None
                    }
                }
            })
            .boxed()
    }

    pub(super) async fn set_pod_status(&self, pod: &Pod, status: PodStatus) -> Result<()> {
        let api = self.api_of(pod);
        // With the uid, so that a pod of the same name that came after is not touched.
        let patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": status });
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn forget_pod(&self, pod: &Pod) -> Result<()> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self.api_of(pod).delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn api_of(&self, pod: &Pod) -> Api<Pod> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// A kube client whose TCP connections are made inside a namespace.
async fn client(kubeconfig: &Path, netns: &Netns) -> Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    let connector = config.rustls_https_connector_with_connector(Connector(netns.clone()))?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = tower::ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .service(tower::util::MapErr::new(http, Box::<dyn std::error::Error + Send + Sync>::from));
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

/// Makes connections inside a namespace, for hyper.
#[derive(Clone)]
struct Connector(Netns);

type Connecting = Pin<Box<dyn Future<Output = Result<Connection>> + Send>>;
type Connection = TokioIo<tokio::net::TcpStream>;

impl tower::Service<http::Uri> for Connector {
    type Response = Connection;
    type Error = anyhow::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Connecting {
        let netns = self.0.clone();
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let address = SocketAddr::new(host.parse()?, uri.port_u16().unwrap_or(443));
            Ok(TokioIo::new(netns.connect(address, Duration::from_secs(5)).await?))
        }
        .boxed()
    }
}
