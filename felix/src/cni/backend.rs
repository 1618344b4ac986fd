//! What the CNI server has done for it: it decides the order, others know how.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::annotations::Wishes;
use super::protocol::{DropsQuestion, Error, PodCidrs, Question};
use super::spec::{Command, PodArgs, code};
use crate::model::{EndpointId, IfIndex, Labels, LocalEndpoint};

/// What the source knows of a pod, and of its namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    /// `metadata.uid`; empty if there is none.
    pub uid: String,
    /// The pod's labels.
    pub labels: Labels,
    /// The pod's service account.
    pub service_account: String,
    /// The pod's annotations, whole keys.
    pub annotations: Labels,
    /// The namespace's annotations, whole keys.
    pub namespace_annotations: Labels,
    /// The namespace's labels, for pools with a namespaceSelector; None if it is not known.
    pub namespace_labels: Option<Labels>,
}

impl PodFacts {
    /// Whether all is known that policies and pools select by.
    pub fn is_whole(&self) -> bool {
        self.namespace_labels.is_some()
    }
}

/// Asks for addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct AssignSpec {
    /// What holds them, and releases them.
    pub handle: String,
    /// For the record in IPAM.
    pub namespace: String,
    /// For the record in IPAM.
    pub pod: String,
    /// Which.
    pub wishes: Wishes,
    /// As in [`PodFacts::namespace_labels`].
    pub namespace_labels: Option<Labels>,
    /// When to give up; the error then says what it waited for.
    pub deadline: Instant,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It can be later: etcd, the API server or the kernel is away or busy, or all addresses are
    /// taken. Says which.
    #[error("{0}")]
    TryAgainLater(String),
    /// It never can be: the pod or its configuration asks for what there is not.
    #[error("{0}")]
    Invalid(String),
    /// The container already has an interface of that name.
    #[error("{0}")]
    InterfaceExists(String),
    /// The network namespace is gone.
    #[error("{0}")]
    NoNetns(String),
    /// A defect, of the agent or below it.
    #[error("{0}")]
    Internal(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let (code, msg, details) = match failure {
            Failure::TryAgainLater(text) => (code::TRY_AGAIN_LATER, "try again later", text),
            Failure::Invalid(text) => (code::INVALID_REQUEST, "invalid request", text),
            Failure::InterfaceExists(text) => (code::INTERFACE_EXISTS, "interface exists", text),
            Failure::NoNetns(text) => (code::INVALID_NETNS, "no such network namespace", text),
            Failure::Internal(text) => (code::INTERNAL, "internal error", text),
        };
        Self { code, msg: msg.into(), details }
    }
}

/// A question of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// `felix status`
    Status,
    /// `felix endpoints`
    Endpoints,
    /// `felix routes`
    Routes,
    /// `felix policy status`, of one pod if it is given
    Policies(Option<String>),
    /// `felix policy counters`
    Counters,
    /// `felix explain`
    Explain(Box<Question>),
    /// `felix drops`
    Drops(DropsQuestion),
}

/// A request of a container runtime that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Which.
    pub command: Command,
    /// The attachment; empty for GC and STATUS.
    pub id: EndpointId,
    /// 0, or the code of the error it was answered with.
    pub code: u32,
    /// From the request's last byte to the answer.
    pub took: Duration,
}

/// The parts of the agent that the CNI server stands on.
///
/// All effects are idempotent: doing again what is done, and undoing what is not there, succeeds.
/// A future that is dropped leaves it open whether its effect comes about, but an undoing that is
/// begun later comes after it.
pub trait Backend: Send + Sync + 'static {
    /// A link that carries nothing yet.
    type Link: Send;

    /// A moment between assignments.
    type Epoch: Send;

    /// Whether ADD can be served, with addresses of the agent's own IPAM or without.
    ///
    /// # Errors
    /// Why not, with code 50, or 51 if running containers may have limited connectivity.
    fn ready(&self, own_addresses: bool) -> Result<(), Error>;

    /// The MTU of new links, in bytes, where the network configuration has none.
    fn default_mtu(&self) -> u32;

    /// An interface index that no interface on the host has, and none was or will be given by
    /// this function.
    fn next_ifindex(&self) -> IfIndex;

    /// Waits until the source knows the pod under this uid (any, if empty), at most until
    /// `deadline`. Outside Kubernetes ([`PodArgs::kubernetes`]) there may be no such object:
    /// answers at once with what is known, or with nothing.
    fn pod(
        &self,
        pod: &PodArgs,
        deadline: Instant,
    ) -> impl Future<Output = Result<PodFacts, Failure>> + Send;

    /// The networks that the node has for its pods. Waits until the source knows the node, at most
    /// until `deadline`; without one, answers at once.
    fn pod_cidrs(
        &self,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<PodCidrs, Failure>> + Send;

    /// Assigns addresses to a handle: at least one, at most one of each family. Either all that
    /// are wanted or none.
    fn assign(
        &self,
        spec: AssignSpec,
    ) -> impl Future<Output = Result<SmallVec<[IpAddr; 2]>, Failure>> + Send;

    /// Gives back all addresses of a handle. Also those of an `assign` that was dropped.
    fn release(&self, handle: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The pool that an address is of; None if the source has none.
    fn pool_of(&self, address: IpAddr) -> Option<IpNet>;

    /// Makes addresses ready for a link that another plugin makes: what the kernel tracks of
    /// earlier holders is forgotten. With the name of this node's interface in their network, a
    /// route for each leads there, and its index is returned; `remove_endpoint` takes them back.
    fn open_lease(
        &self,
        addresses: &[IpAddr],
        via: Option<&str>,
    ) -> impl Future<Output = Result<Option<IfIndex>, Failure>> + Send;

    /// Now. To be asked for before the handles that live are gathered.
    fn epoch(&self) -> Self::Epoch;

    /// Gives back what was assigned on this node before `since` to handles of a network,
    /// `<network>.<container id>`, that are not among `live`. Nothing if that is empty.
    fn collect(
        &self,
        network: &str,
        since: Self::Epoch,
        live: BTreeSet<String>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Brings the endpoint's policy and route into the kernel. The link need not exist.
    fn commit_endpoint(
        &self,
        endpoint: &LocalEndpoint,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes the endpoint's policy and route out of the kernel, and what it tracks of its
    /// connections. What the link then still carries is dropped.
    fn remove_endpoint(
        &self,
        endpoint: &LocalEndpoint,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Creates the link, down, with the index, names and MAC that the endpoint has. Its addresses
    /// need not be known.
    fn prepare_link(
        &self,
        endpoint: &LocalEndpoint,
    ) -> impl Future<Output = Result<Self::Link, Failure>> + Send;

    /// Gives a link the endpoint's addresses, and sets it up.
    fn open_link(
        &self,
        link: Self::Link,
        endpoint: &LocalEndpoint,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Deletes the link, if the interface of that name has the endpoint's index.
    fn delete_link(
        &self,
        endpoint: &LocalEndpoint,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Compares the kernel and IPAM with the endpoint: a line for each thing that is missing or
    /// different.
    fn check(
        &self,
        endpoint: &LocalEndpoint,
    ) -> impl Future<Output = Result<Vec<String>, Failure>> + Send;

    /// Answers the command line.
    fn query(&self, query: Query) -> impl Future<Output = Result<Value, Failure>> + Send;

    /// Told of each request of a runtime, for metrics.
    fn observe(&self, _observation: &Observation) {}
}
