//! What the CNI server stands on: the brain for policy, the allocator for addresses, the kernel
//! for links and routes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipam::{AllowedUse, AssignRequest, Families, Ipam, Live};
use ipnet::IpNet;
use prometheus_client::metrics::histogram::Histogram;
use serde_json::Value;
use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::addressing::{self, usable_families};
use super::brain::Command;
use super::fabric::Addressing;
use super::guard::Guard;
use super::links;
use super::report::Reporter;
use crate::cni::annotations::PoolRef;
use crate::cni::backend::{AssignSpec, Backend, Failure, Observation, PodFacts, Query};
use crate::cni::protocol::{Error, PodCidrs};
use crate::cni::spec::{PodArgs, code};
use crate::kernel::{self, Kernel, PreparedLink};
use crate::model::{IfIndex, Labels, LocalEndpoint, ObjectKey, RouteChange, RouteTarget};
use crate::observe::metrics::{CniLabels, CniMetrics, KernelSeconds};

const NO_POOL: &str = "there is no IPPool that this node may take addresses from";

pub(super) struct AgentBackend {
    pub(super) brain: mpsc::Sender<Command>,
    pub(super) kernel: Kernel,
    pub(super) ipam: Ipam,
    pub(super) addressing: watch::Receiver<Addressing>,
    pub(super) in_sync: watch::Receiver<bool>,
    pub(super) reporter: Reporter,
    pub(super) metrics: CniMetrics,
    pub(super) kernel_seconds: KernelSeconds,
    pub(super) assign_seconds: Histogram,
    pub(super) guard: Guard,
    /// Of pods' links where nothing else is said, in bytes: that of the node's narrowest uplink.
    pub(super) mtu: u32,
}

impl AgentBackend {
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let ended = || Failure::Internal("the agent is ending".into());
        self.brain.send(command(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }

    async fn measured<T>(&self, object: &'static str, write: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let written = write.await;
        let took = start.elapsed().as_secs_f64();
        self.kernel_seconds.get_or_create(&object.into()).observe(took);
        written
    }

    async fn set_routes(&self, routes: Vec<RouteChange>) -> Result<(), Failure> {
        let waiting = self.measured("route", self.kernel.set_routes(routes)).await;
        waiting.map(drop).map_err(kernel_failure)
    }

    fn routes(addresses: &[IpAddr], target: Option<&RouteTarget>) -> Vec<RouteChange> {
        let route = |address: &IpAddr| RouteChange {
            destination: (*address).into(),
            target: target.cloned(),
        };
        addresses.iter().map(route).collect()
    }
}

impl Backend for AgentBackend {
    type Link = PreparedLink;
    type Epoch = ipam::Epoch;

    fn ready(&self, own_addresses: bool) -> Result<(), Error> {
        let not_available = |details: String| {
            Err(Error { code: code::NOT_AVAILABLE, msg: "not ready for new pods".into(), details })
        };
        if !*self.in_sync.borrow() {
            return not_available(
                "policy is not known yet: the source has not been read completely".into(),
            );
        }
        if let Some(problem) = self.reporter.kernel_problem() {
            let msg = "not ready for new pods, and policy of running ones is not up to date";
            return Err(Error {
                code: code::LIMITED_CONNECTIVITY,
                msg: msg.into(),
                details: problem,
            });
        }
        if !own_addresses {
            return Ok(());
        }
        let status = self.ipam.status();
        if !status.ready {
            let problem = status.problem.unwrap_or_else(|| "not connected yet".into());
            return not_available(format!("{}: {problem}", status.store));
        }
        let families = usable_families(&self.addressing.borrow(), None);
        if !families.v4 && !families.v6 {
            return not_available(NO_POOL.into());
        }
        Ok(())
    }

    fn default_mtu(&self) -> u32 {
        self.mtu
    }

    fn next_ifindex(&self) -> IfIndex {
        self.kernel.next_index()
    }

    async fn pod(&self, pod: &PodArgs, deadline: Instant) -> Result<PodFacts, Failure> {
        let key = ObjectKey::namespaced(&pod.namespace, &pod.name);
        if !pod.kubernetes {
            let mut facts = self.ask(|reply| Command::PodNow { key, reply }).await?;
            // Nothing more will ever be known of its namespace.
            facts.namespace_labels.get_or_insert_default();
            return Ok(facts);
        }
        let uid = pod.uid.clone();
        let known = self.ask(|reply| Command::Pod { key: key.clone(), uid, reply });
        timeout_at(deadline, known).await.unwrap_or_else(|_| {
            Err(Failure::TryAgainLater(format!(
                "the source does not know pod {key} yet, or not its namespace ({})",
                self.reporter.source_summary()
            )))
        })
    }

    async fn pod_cidrs(&self, deadline: Option<Instant>) -> Result<PodCidrs, Failure> {
        let mut addressing = self.addressing.clone();
        let known = async {
            // An end of the source is the end of the agent.
            let found = addressing.wait_for(|now| now.pod_cidrs.is_some()).await.ok()?;
            found.pod_cidrs.clone()
        };
        let node = self.reporter.node.to_string();
        let known = timeout_at(deadline.unwrap_or_else(Instant::now), known).await;
        match known.ok().flatten() {
            Some(networks) => Ok(PodCidrs { node, networks: networks.to_vec() }),
            None => Err(Failure::TryAgainLater(format!(
                "the source does not know Node {node} yet, whose spec.podCIDRs usePodCidr asks for ({})",
                self.reporter.source_summary()
            ))),
        }
    }

    async fn assign(&self, spec: AssignSpec) -> Result<SmallVec<[IpAddr; 2]>, Failure> {
        let families = families(&spec, &self.addressing.borrow())?;
        let request = request(&spec, families);
        let start = Instant::now();
        let assigned = timeout_at(spec.deadline, self.ipam.assign(request)).await;
        self.assign_seconds.observe(start.elapsed().as_secs_f64());
        match assigned {
            Ok(Ok(assignment)) => Ok(assignment.ips().collect()),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::TryAgainLater(format!(
                "{} gave no answer in time",
                self.ipam.status().store
            ))),
        }
    }

    async fn release(&self, handle: &str) -> Result<(), Failure> {
        self.ipam.release(handle).await.map(drop).map_err(|error| failure(&error))
    }

    fn pool_of(&self, address: IpAddr) -> Option<IpNet> {
        let addressing = self.addressing.borrow();
        let cidrs = addressing.pools.values().filter_map(|pool| pool.spec.cidr.parse().ok());
        // Pools do not overlap; should they, the address is of the smaller one, as in IPAM.
        cidrs.filter(|cidr: &IpNet| cidr.contains(&address)).max_by_key(IpNet::prefix_len)
    }

    async fn open_lease(
        &self,
        addresses: &[IpAddr],
        via: Option<&str>,
    ) -> Result<Option<IfIndex>, Failure> {
        self.guard.secure(addresses).await.map_err(kernel_failure)?;
        let Some(name) = via else { return Ok(None) };
        let index = links::index_of(name).await.map_err(kernel_failure)?;
        let target = Some(RouteTarget::Link(index));
        self.set_routes(Self::routes(addresses, target.as_ref())).await?;
        Ok(Some(index))
    }

    fn epoch(&self) -> ipam::Epoch {
        self.ipam.epoch()
    }

    async fn collect(
        &self,
        network: &str,
        since: ipam::Epoch,
        live: BTreeSet<String>,
    ) -> Result<(), Failure> {
        let Some(live) = Live::handles(since, live) else { return Ok(()) };
        let forget = addressing::forgetting(&self.kernel);
        let collected = addressing::collect(&self.ipam, &live.of_network(network), &forget).await;
        collected.map_err(|error| Failure::TryAgainLater(error.to_string()))
    }

    async fn commit_endpoint(&self, endpoint: &LocalEndpoint) -> Result<(), Failure> {
        let boxed = Box::new(endpoint.clone());
        let policy = async { self.ask(|reply| Command::Set { endpoint: boxed, reply }).await? };
        let routes = async {
            self.guard.secure(&endpoint.addresses).await.map_err(kernel_failure)?;
            // Written as soon as the link is there.
            let target = Some(RouteTarget::Link(endpoint.host_index));
            self.set_routes(Self::routes(&endpoint.addresses, target.as_ref())).await
        };
        // Neither needs the other: nothing passes without the link, which comes after both.
        tokio::try_join!(policy, routes).map(|((), ())| ())
    }

    async fn remove_endpoint(&self, endpoint: &LocalEndpoint) -> Result<(), Failure> {
        self.set_routes(Self::routes(&endpoint.addresses, None)).await?;
        let id = endpoint.id.clone();
        self.ask(|reply| Command::Remove { id, reply }).await??;
        // An address must not be given again while the kernel tracks flows of its last holder.
        self.kernel.forget(endpoint.addresses.to_vec()).await.map_err(kernel_failure)
    }

    async fn prepare_link(&self, endpoint: &LocalEndpoint) -> Result<PreparedLink, Failure> {
        let prepared = self.measured("link", self.kernel.prepare_link(endpoint)).await;
        prepared.map_err(|error| match error {
            kernel::Error::Exists(text) => Failure::InterfaceExists(text),
            error => kernel_failure(error),
        })
    }

    async fn open_link(&self, link: PreparedLink, endpoint: &LocalEndpoint) -> Result<(), Failure> {
        let opened = self.measured("link", self.kernel.open_link(link, endpoint)).await;
        opened.map_err(kernel_failure)
    }

    async fn delete_link(&self, endpoint: &LocalEndpoint) -> Result<(), Failure> {
        let deletion = self.kernel.delete_link(endpoint);
        self.measured("unlink", deletion).await.map_err(kernel_failure)
    }

    async fn check(&self, endpoint: &LocalEndpoint) -> Result<Vec<String>, Failure> {
        self.kernel.check_link(endpoint).await.map_err(kernel_failure)
    }

    async fn query(&self, query: Query) -> Result<Value, Failure> {
        self.reporter.answer(query).await
    }

    fn observe(&self, observation: &Observation) {
        let result = if observation.code == 0 { "ok".into() } else { observation.code.to_string() };
        let labels = CniLabels { command: observation.command.as_str(), result };
        self.metrics.request_seconds.get_or_create(&labels).observe(observation.took.as_secs_f64());
    }
}

/// Which families a pod gets. What it gets now it has for life: nothing is guessed of a namespace
/// that is not known yet, while a pool asks for its labels.
fn families(spec: &AssignSpec, addressing: &Addressing) -> Result<Families, Failure> {
    let (wishes, labels) = (&spec.wishes, spec.namespace_labels.as_ref());
    let selecting = addressing.pools.values().find(|pool| !pool.spec.namespace_selector.is_empty());
    if let (None, Some(pool)) = (labels, selecting) {
        return Err(Failure::TryAgainLater(format!(
            "the source does not know namespace {} yet, whose labels IPPool {} asks for",
            spec.namespace,
            pool.metadata.name.as_deref().unwrap_or_default()
        )));
    }
    let usable = usable_families(addressing, labels);
    let wants = |wish: Option<bool>, named: bool, usable: bool, v4: bool| {
        let requested = wishes.addresses.iter().any(|address| address.is_ipv4() == v4);
        if wishes.addresses.is_empty() { wish.unwrap_or(named || usable) } else { requested }
    };
    let families = Families {
        v4: wants(wishes.ipv4, !wishes.ipv4_pools.is_empty(), usable.v4, true),
        v6: wants(wishes.ipv6, !wishes.ipv6_pools.is_empty(), usable.v6, false),
    };
    if families.v4 || families.v6 {
        Ok(families)
    } else {
        Err(Failure::TryAgainLater(NO_POOL.into()))
    }
}

/// What is asked of the allocator for a pod.
fn request(spec: &AssignSpec, families: Families) -> AssignRequest {
    let wishes = &spec.wishes;
    let mut request = AssignRequest::pod(&spec.handle, &spec.namespace, &spec.pod, families);
    let pools = wishes.ipv4_pools.iter().chain(&wishes.ipv6_pools);
    request.requested_pools = pools
        .map(|pool| match pool {
            PoolRef::Cidr(cidr) => cidr.to_string(),
            PoolRef::Name(name) => name.clone(),
        })
        .collect();
    request.requested_ips.clone_from(&wishes.addresses);
    request.intended_use = AllowedUse::Workload;
    let owned = |labels: &Labels| {
        labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    request.namespace_labels = spec.namespace_labels.as_ref().map(owned);
    request
}

fn kernel_failure(error: impl std::fmt::Display) -> Failure {
    Failure::TryAgainLater(error.to_string())
}

/// An exhausted pool may have room again, a store may be back: those are worth another try.
fn failure(error: &ipam::Error) -> Failure {
    use ipam::Error as E;
    match error {
        E::NotInPool { .. } | E::AddressInUse { .. } | E::NotOurBlock { .. } | E::Invalid(_) => {
            Failure::Invalid(error.to_string())
        }
        E::Closed | E::State { .. } => Failure::Internal(error.to_string()),
        _ => Failure::TryAgainLater(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::v3;

    use super::*;
    use crate::cni::annotations::Wishes;

    fn spec() -> AssignSpec {
        AssignSpec {
            handle: "net.c1".into(),
            namespace: "shop".into(),
            pod: "web".into(),
            wishes: Wishes::default(),
            namespace_labels: Some([("team", "a")].into_iter().collect()),
            deadline: Instant::now(),
        }
    }

    #[test]
    fn a_namespace_that_is_not_known_yet_is_not_one_without_labels() {
        let mut addressing = Addressing::default();
        let mut add = |name: &str, cidr: &str, namespaces: &str| {
            let mut spec = v3::IPPoolSpec::new(cidr);
            spec.namespace_selector = namespaces.into();
            addressing.pools.insert(name.into(), Arc::new(v3::IPPool::new(name, spec)));
            addressing.clone()
        };
        let open = add("four", "10.0.0.0/16", "");
        let selecting = add("six", "fd00::/64", "team == 'a'");
        let of = |labels: Option<Labels>, addressing: &Addressing| {
            families(&AssignSpec { namespace_labels: labels, ..spec() }, addressing)
        };
        let team = |team: &str| Some(Labels::from_iter([("team", team)]));
        assert_eq!(of(team("a"), &selecting), Ok(Families::DUAL));
        assert_eq!(of(team("b"), &selecting), Ok(Families::V4));
        assert_eq!(of(Some(Labels::default()), &selecting), Ok(Families::V4));
        let waits = "the source does not know namespace shop yet, whose labels IPPool six asks for";
        assert_eq!(of(None, &selecting), Err(Failure::TryAgainLater(waits.into())));
        assert_eq!(of(None, &open), Ok(Families::V4), "no pool asks");
    }

    #[test]
    fn the_namespaces_labels_choose_among_pools() {
        let mut spec = spec();
        let labels = request(&spec, Families::V4).namespace_labels.unwrap();
        assert_eq!(labels, [("team".to_owned(), "a".to_owned())].into());
        spec.namespace_labels = None;
        assert_eq!(request(&spec, Families::V4).namespace_labels, None);
    }
}
