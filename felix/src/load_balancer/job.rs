//! One Service brought to what it is to be: its addresses in the store, then its status.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipam::services::{Rules, Service, Services};
use k8s_openapi::api::core::v1 as core;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::plan::{Cluster, Get, Seen};
use super::world::{self, Key};

/// For one question to the API server.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a job has at hand.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) services: Services,
    pub(super) client: Client,
}

/// One Service, as it was when the job began.
pub(super) struct Job {
    pub(super) key: Key,
    /// None: the watch knows of none by this name.
    pub(super) service: Option<Arc<Seen>>,
    /// Handles that hold addresses in its name, as far as known.
    pub(super) handles: BTreeSet<String>,
    pub(super) cluster: Cluster,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) key: Key,
    /// Handles that may still hold something.
    pub(super) handles: BTreeSet<String>,
    /// Why it is not as it should be. It is tried again.
    pub(super) problem: Option<Problem>,
}

/// Why a Service is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// Its owner should know.
    Owner(String),
    /// It passes.
    Passing(String),
}

impl From<ipam::Error> for Problem {
    fn from(error: ipam::Error) -> Self {
        let text = error.to_string();
        if error.is_temporary() { Self::Passing(text) } else { Self::Owner(text) }
    }
}

impl Job {
    pub(super) async fn run(mut self, tools: &Tools) -> Done {
        let problem = self.reconcile(tools).await.err();
        Done { key: self.key, handles: self.handles, problem }
    }

    async fn reconcile(&mut self, tools: &Tools) -> Result<(), Problem> {
        let current = self.service.as_ref().map(|service| service.id.handle());
        for old in self.handles.clone().into_iter().filter(|old| Some(old) != current.as_ref()) {
            // The watch may be late, or know too little: only what the API server says now counts.
            let there = tools.get(&self.key).await?;
            if there.is_none_or(|service| service.id.handle() != old) {
                self.release(tools, &old, None).await?;
            }
            self.handles.remove(&old);
        }
        let (Some(service), Some(handle)) = (self.service.clone(), current) else { return Ok(()) };
        if service.is_ours(self.cluster.assign) {
            self.handles.insert(handle.clone());
            return self.provide(tools, &service, &handle).await;
        }
        let held = match self.handles.contains(&handle) {
            true => tools.services.held(&handle).await?,
            false => BTreeSet::new(),
        };
        if held.is_empty() {
            self.handles.remove(&handle);
            return Ok(());
        }
        let now = tools.same(&self.key, &service).await?;
        // First nobody is told of them any more.
        if let Some(ingress) = now.ingress_without(&held).filter(|_| now.is_load_balancer()) {
            tools.patch(&now, ingress).await?;
        }
        self.release(tools, &handle, None).await?;
        self.handles.remove(&handle);
        Ok(())
    }

    /// It is ours: it gets what it is to have, and its status says so.
    async fn provide(
        &mut self,
        tools: &Tools,
        service: &Arc<Seen>,
        handle: &str,
    ) -> Result<(), Problem> {
        let mut held = tools.services.held(handle).await?;
        let plan = service.plan(&held, &self.cluster).map_err(Problem::Owner)?;
        let takes_away =
            !plan.release.is_empty() || plan.get.iter().any(|g| g.instead_of.is_some());
        if takes_away {
            tools.same(&self.key, service).await?;
        }
        let mut problem = None;
        for get in &plan.get {
            match self.get(tools, &service.id, get).await {
                Ok(address) => {
                    held.retain(|ip| Some(*ip) != get.instead_of);
                    held.insert(address);
                }
                Err(error) => problem = Some(error),
            }
        }
        if !plan.release.is_empty() {
            self.release(tools, handle, Some(&plan.release)).await?;
            held.retain(|ip| !plan.release.contains(ip));
        }
        // Where the store did not say whether it is done, the status waits.
        if let Some(passing @ Problem::Passing(_)) = problem {
            return Err(passing);
        }
        if let Some(ingress) = service.ingress_of(&held) {
            tools.patch(service, ingress).await?;
        }
        problem.map_or(Ok(()), Err)
    }

    async fn get(&self, tools: &Tools, id: &Service, get: &Get) -> Result<IpAddr, Problem> {
        let Cluster { pools, reservations, config, .. } = &self.cluster;
        let rules = Rules { pools, reservations, config: config.as_ref() };
        let mut last = Problem::Passing("nothing is wished for".to_owned());
        for wish in &get.wishes {
            let now = SystemTime::now().into();
            match tools.services.assign(id, wish, get.instead_of, &rules, now).await {
                Ok(address) => {
                    tracing::info!(service = %id, %address, "assigned");
                    return Ok(address);
                }
                // The next one would not be what was wished for, but what it cost not to know.
                Err(error) if error.is_temporary() => return Err(error.into()),
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    async fn release(
        &self,
        tools: &Tools,
        handle: &str,
        only: Option<&BTreeSet<IpAddr>>,
    ) -> Result<(), Problem> {
        let released = tools.services.release(handle, only, SystemTime::now().into()).await?;
        if !released.is_empty() {
            let (namespace, name) = &self.key;
            tracing::info!(namespace, name, handle, addresses = ?released, "released");
        }
        Ok(())
    }
}

impl Tools {
    fn api(&self, key: &Key) -> Api<core::Service> {
        Api::namespaced(self.client.clone(), &key.0)
    }

    /// The Service of this name, as the API server says now; None: that there is none.
    async fn get(&self, key: &Key) -> Result<Option<Seen>, Problem> {
        let answered = timeout(DEADLINE, self.api(key).get(&key.1)).await;
        let passing =
            |reason: String| Problem::Passing(format!("asking for the Service: {reason}"));
        match answered.map_err(|_| passing(format!("no answer within {DEADLINE:?}")))? {
            Ok(service) => world::seen(service).map(Some).map_err(passing),
            // Said of this very object by an API server, not of a path by whatever is between.
            Err(kube::Error::Api(status))
                if status.reason == "NotFound"
                    && status
                        .details
                        .as_ref()
                        .is_some_and(|of| of.kind == "services" && of.name == key.1) =>
            {
                Ok(None)
            }
            Err(error) => Err(passing(error.to_string())),
        }
    }

    /// The Service, if it is still what it was when the job began: nothing is taken away because of what
    /// is no longer so.
    async fn same(&self, key: &Key, service: &Seen) -> Result<Seen, Problem> {
        let now = self.get(key).await?.filter(|now| now == service);
        now.ok_or_else(|| Problem::Passing("it has changed meanwhile".to_owned()))
    }

    /// Writes the status of the very version that was read.
    async fn patch(&self, service: &Seen, ingress: Vec<Value>) -> Result<(), Problem> {
        let key = (service.id.namespace.clone(), service.id.name.clone());
        let patch = json!({
            "metadata": {"resourceVersion": service.version, "uid": service.id.uid},
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        let (api, parameters) = (self.api(&key), PatchParams::default());
        let patch = Patch::Merge(&patch);
        let answered = timeout(DEADLINE, api.patch_status(&key.1, &parameters, &patch)).await;
        let failed = |reason: String| Problem::Passing(format!("writing the status: {reason}"));
        answered
            .map_err(|_| failed(format!("no answer within {DEADLINE:?}")))?
            .map(|_| ())
            .map_err(|error| failed(error.to_string()))
    }

    /// Tells the Service's owner.
    pub(super) async fn tell(&self, id: &Service, reason: &str) {
        let time = k8s_openapi::jiff::Timestamp::now().to_string();
        let event = json!({
            "metadata": {"generateName": format!("{}.", id.name), "namespace": id.namespace},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Service",
                "namespace": id.namespace, "name": id.name, "uid": id.uid,
            },
            "type": "Warning",
            "reason": "AddressNotAssigned",
            "message": reason,
            "source": {"component": super::lease::NAME},
            "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        });
        let Ok(event) = serde_json::from_value::<core::Event>(event) else { return };
        let events: Api<core::Event> = Api::namespaced(self.client.clone(), &id.namespace);
        let parameters = PostParams::default();
        let told = timeout(DEADLINE, events.create(&parameters, &event)).await;
        if let Ok(Err(error)) = told {
            tracing::debug!(service = %id, %error, "no Event");
        }
    }
}
