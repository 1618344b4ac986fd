//! ADD, in the order that lets no packet pass before its policy, and leaves nothing behind
//! wherever it ends: the intent is in the journal before anything has effect, and every way out
//! but the last goes through the undoing.

use std::net::IpAddr;

use sha1::{Digest, Sha1};
use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::super::annotations::{self, Wishes};
use super::super::backend::{AssignSpec, Backend, Failure};
use super::super::journal::{Phase, Record, Role};
use super::super::keyed_lock::KeyedGuard;
use super::super::protocol::Error;
use super::super::spec::{Call, Given, code};
use super::{Attachments, Options, Undone, handle};
use crate::model::{EndpointId, Labels, LocalEndpoint};

/// Ends a step of a request when its time is up or its runtime gone.
pub(super) struct Limit<'a> {
    pub(super) options: &'a Options,
    pub(super) deadline: Instant,
    pub(super) cancel: &'a CancellationToken,
}

impl Limit<'_> {
    pub(super) async fn run<T, E: Into<Error>>(
        &self,
        doing: &str,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Error> {
        let reason = tokio::select! {
            outcome = step => return outcome.map_err(Into::into),
            () = self.cancel.cancelled() => format!("given up while {doing}"),
            () = sleep_until(self.deadline) => {
                format!("still {doing} after {:?}", self.options.deadline)
            }
        };
        Err(Failure::TryAgainLater(reason).into())
    }

    /// For what can say by itself why it took too long.
    pub(super) fn inner_deadline(&self) -> Instant {
        self.deadline - self.options.deadline / 10
    }
}

/// Where an endpoint's addresses come from.
enum Source {
    /// The agent's own IPAM.
    Own { wishes: Wishes, namespace_labels: Option<Labels> },
    /// Another IPAM plugin, which gave these.
    Delegated(Given),
}

impl Source {
    fn role(&self) -> Role {
        match self {
            Self::Own { .. } => Role::Endpoint,
            Self::Delegated(_) => Role::Delegated,
        }
    }
}

impl<B: Backend> Attachments<B> {
    pub(super) async fn add(
        &self,
        call: &Call,
        cancel: &CancellationToken,
    ) -> Result<LocalEndpoint, Error> {
        let options = self.options();
        let limit = Limit { options, deadline: super::deadline(options), cancel };
        if let Err(error) = std::fs::metadata(&call.netns) {
            return Err(Failure::NoNetns(format!("{}: {error}", call.netns)).into());
        }
        let container = self.containers.lock(&call.id.container_id);
        let earlier = "waiting for an earlier request of this container";
        let _container = limit.run(earlier, found(container)).await?;
        self.finish_earlier(&call.id).await?;

        let pod = &call.pod;
        let waiting = format!("waiting for pod {}/{}", pod.namespace, pod.name);
        let facts = self.backend.pod(pod, limit.inner_deadline());
        let facts = limit.run(&waiting, facts).await?;
        let wishes = annotations::wishes(
            &facts.annotations,
            &facts.namespace_annotations,
            &call.config.ipam,
        );
        let wishes = wishes.map_err(|error| Failure::Invalid(error.to_string()))?;

        let host_interface =
            host_interface(&options.interface_prefix, &pod.namespace, &pod.name, &call.id.ifname);
        let interface = self.interfaces.lock(&host_interface);
        let other = "waiting for another container of this pod";
        let guard = limit.run(other, found(interface)).await?;
        let endpoint = LocalEndpoint {
            id: call.id.clone(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            pod_uid: if pod.uid.is_empty() { facts.uid } else { pod.uid.clone() },
            netns: call.netns.clone(),
            host_interface,
            host_index: self.backend.next_ifindex(),
            mac: wishes.mac.unwrap_or_else(|| mac(&call.id)),
            addresses: SmallVec::new(),
            handle: handle(&call.config.name, &call.id),
            mtu: match call.config.mtu {
                0 => self.backend.default_mtu(),
                mtu => mtu,
            },
            labels: facts.labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            service_account: facts.service_account,
        };
        for earlier in self.same_interface(&endpoint)? {
            tracing::info!(
                container = earlier.container_id,
                by = call.id.container_id,
                pod = %format_args!("{}/{}", pod.namespace, pod.name),
                "removing an attachment that the same pod's new container takes the place of"
            );
            if let Undone::Incomplete(reason) = self.undo(&earlier, &guard).await {
                return Err(Failure::TryAgainLater(reason).into());
            }
        }

        let source = match &call.delegated {
            None => Source::Own { wishes, namespace_labels: facts.namespace_labels },
            Some(given) => {
                self.check_delegated(&call.id, &given.addresses, &wishes)?;
                Source::Delegated(given.clone())
            }
        };
        match self.build(&limit, endpoint, source).await {
            Ok(endpoint) => Ok(endpoint),
            Err(error) => {
                self.undo_failed(&call.id, &guard).await;
                Err(error)
            }
        }
    }

    pub(super) async fn undo_failed(&self, id: &EndpointId, guard: &KeyedGuard) {
        match self.undo(id, guard).await {
            Undone::Clean => {}
            Undone::Releasing(reason) | Undone::Incomplete(reason) => tracing::warn!(
                container = id.container_id,
                reason,
                "a failed ADD is not undone yet; it is tried again"
            ),
        }
    }

    /// Whatever this returns early from is undone by the caller.
    async fn build(
        &self,
        limit: &Limit<'_>,
        mut endpoint: LocalEndpoint,
        source: Source,
    ) -> Result<LocalEndpoint, Error> {
        let role = source.role();
        let networks = match &source {
            Source::Own { .. } => Vec::new(),
            Source::Delegated(given) => given.networks.clone(),
        };
        let record = |phase, endpoint: &LocalEndpoint| {
            let (networks, endpoint) = (networks.clone(), endpoint.clone());
            Record { phase, role, networks, endpoint }
        };
        let intent = record(Phase::Adding, &endpoint);
        self.table.lock().insert(endpoint.id.clone(), intent.clone());
        // Handed to the journal before the addresses are asked for, and waited for with them.
        let intent = self.journal.put(intent);
        let (handle, namespace, pod) =
            (endpoint.handle.clone(), endpoint.namespace.clone(), endpoint.pod.clone());
        let addresses = async {
            let (wishes, namespace_labels) = match source {
                Source::Own { wishes, namespace_labels } => (wishes, namespace_labels),
                Source::Delegated(given) => return Ok(given.addresses.into_iter().collect()),
            };
            let deadline = limit.inner_deadline();
            let spec = AssignSpec { handle, namespace, pod, wishes, namespace_labels, deadline };
            at_most_one_of_each_family(self.backend.assign(spec).await?)
        };
        // Most of the kernel's work is done while the store does its own.
        let link = async {
            intent.await.map_err(|error| later(error.to_string()))?;
            self.backend.prepare_link(&endpoint).await
        };
        let both = async { tokio::try_join!(addresses, link) };
        let (addresses, link) = limit.run("waiting for addresses", both).await?;
        endpoint.addresses = addresses;
        // For the undoing in this process: it has to name the routes that it takes back. One that
        // is done after a crash needs only the handle, for routes go with the link.
        let addressed = record(Phase::Adding, &endpoint);
        self.table.lock().insert(endpoint.id.clone(), addressed);

        let commit = self.backend.commit_endpoint(&endpoint);
        limit.run("waiting for policy to be in the kernel", commit).await?;
        let link = self.backend.open_link(link, &endpoint);
        limit.run("setting up the link", link).await?;
        let ready = self.record(record(Phase::Ready, &endpoint));
        let ready = async { ready.await.map_err(later) };
        limit.run("recording the endpoint", ready).await?;
        Ok(endpoint)
    }

    /// Whether an endpoint can have what another IPAM plugin gave: the pod has not asked for other
    /// addresses, and nobody else here has one of them.
    fn check_delegated(
        &self,
        id: &EndpointId,
        addresses: &[IpAddr],
        wishes: &Wishes,
    ) -> Result<(), Failure> {
        if !wishes.addresses.is_empty() && wishes.addresses != addresses {
            return Err(Failure::Invalid(format!(
                "annotation cni.projectcalico.org/ipAddrs: addresses are another IPAM plugin's to \
                 give (ipam.type), which gave {addresses:?}"
            )));
        }
        let table = self.table.lock();
        let gone = |phase| matches!(phase, Phase::Removing | Phase::Releasing);
        let holder = table.values().filter(|record| !gone(record.phase)).find(|record| {
            record.endpoint.id != *id
                && record.endpoint.addresses.iter().any(|address| addresses.contains(address))
        });
        match holder {
            None => Ok(()),
            Some(Record { endpoint, .. }) => Err(Failure::Invalid(format!(
                "ipam.type: the plugin gave {addresses:?}, which {}/{} in container {} has",
                endpoint.namespace, endpoint.pod, endpoint.id.container_id
            ))),
        }
    }

    /// An earlier ADD of the same attachment stands in the way if it was answered; the remains of
    /// one that was not are removed.
    pub(super) async fn finish_earlier(&self, id: &EndpointId) -> Result<(), Error> {
        let Some((guard, record)) = self.lock_attachment(id).await else { return Ok(()) };
        if matches!(record.phase, Phase::Ready | Phase::Uncertain) {
            return Err(Error {
                code: code::ALREADY_ATTACHED,
                msg: "already attached; DEL comes before another ADD".into(),
                details: format!("container {} has interface {}", id.container_id, id.ifname),
            });
        }
        match self.undo(id, &guard).await {
            Undone::Clean => Ok(()),
            // Its handle is the one that this ADD would take: what is released later must not be
            // what is assigned now.
            Undone::Releasing(reason) | Undone::Incomplete(reason) => {
                Err(later(format!("an earlier attachment is still being removed: {reason}")).into())
            }
        }
    }

    /// The attachments that have the interface of `endpoint`: those of earlier containers of its
    /// pod.
    fn same_interface(&self, endpoint: &LocalEndpoint) -> Result<Vec<EndpointId>, Failure> {
        let table = self.table.lock();
        let mut found = Vec::new();
        for Record { phase, endpoint: other, .. } in table.values() {
            if *phase == Phase::Releasing || other.host_interface != endpoint.host_interface {
                continue;
            }
            if (&other.namespace, &other.pod) != (&endpoint.namespace, &endpoint.pod) {
                return Err(Failure::Internal(format!(
                    "pods {}/{} and {}/{} would have the same interface {}",
                    endpoint.namespace,
                    endpoint.pod,
                    other.namespace,
                    other.pod,
                    other.host_interface
                )));
            }
            found.push(other.id.clone());
        }
        Ok(found)
    }
}

/// The name of a pod's host interface, Calico's: the prefix and 11 hexadecimal digits of
/// SHA-1(`<namespace>.<pod>`). For interfaces other than `eth0`, `.<interface>` is added to what
/// is hashed.
pub(super) fn host_interface(prefix: &str, namespace: &str, pod: &str, ifname: &str) -> String {
    let hashed = match ifname {
        "eth0" => format!("{namespace}.{pod}"),
        other => format!("{namespace}.{pod}.{other}"),
    };
    let digest = Sha1::digest(hashed.as_bytes());
    let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{}", &hex[..11])
}

/// A locally administered unicast address (IEEE 802) that follows from the attachment.
fn mac(id: &EndpointId) -> [u8; 6] {
    let digest = Sha1::digest(format!("{}/{}", id.container_id, id.ifname).as_bytes());
    let mut mac = [0; 6];
    mac.copy_from_slice(&digest[..6]);
    mac[0] = mac[0] & !1 | 2;
    mac
}

pub(super) fn at_most_one_of_each_family(
    addresses: SmallVec<[IpAddr; 2]>,
) -> Result<SmallVec<[IpAddr; 2]>, Failure> {
    let ipv4 = addresses.iter().filter(|address| address.is_ipv4()).count();
    let ipv6 = addresses.len() - ipv4;
    if addresses.is_empty() || ipv4 > 1 || ipv6 > 1 {
        return Err(Failure::Internal(format!("IPAM assigned {addresses:?}")));
    }
    Ok(addresses)
}

pub(super) fn later(reason: String) -> Failure {
    Failure::TryAgainLater(reason)
}

pub(super) async fn found<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    Ok(future.await)
}
