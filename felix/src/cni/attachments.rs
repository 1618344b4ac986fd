//! The attachments of this node: the table of them, what each verb of CNI does to it, and the
//! undoing of what was begun and not finished.
//!
//! Two locks make it simple. A request holds its container's, so that one container's requests
//! come one after the other. Whoever changes an attachment holds its host interface's, which it
//! can share with no other attachment.

mod add;
mod delegated;
mod leasing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Failure};
use super::journal::{Journal, Loaded, Phase, Record, Role};
use super::keyed_lock::{KeyedGuard, KeyedLock};
use super::protocol::Error;
use super::spec::{Call, Command, code};
use super::{lease, result};
use crate::model::{EndpointId, IfIndex, LocalEndpoint};
pub use delegated::Delegated;

/// How the CNI server goes about its work.
#[derive(Clone, Debug)]
pub struct Options {
    /// What host interfaces' names begin with: 1 to 4 letters, digits, `_`, `.` or `-`.
    pub interface_prefix: String,
    /// Longest that a request takes; an ADD that takes longer is undone.
    pub deadline: Duration,
    /// Longest that one step of an undoing takes before it is tried again in the background.
    pub undo_timeout: Duration,
    /// Longest that DEL waits for addresses to be released; then that goes on in the background.
    pub release_timeout: Duration,
    /// First and longest pause between attempts to finish what could not be undone.
    pub retry: (Duration, Duration),
    /// Longest that a client may take to send its request, or to take its answer.
    pub client_timeout: Duration,
    /// Most connections at once. More are refused with code 11.
    pub connections: usize,
    /// Most ADDs worked on at once; others wait.
    pub concurrency: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interface_prefix: "cali".into(),
            deadline: Duration::from_secs(30),
            undo_timeout: Duration::from_secs(10),
            release_timeout: Duration::from_secs(2),
            retry: (Duration::from_millis(500), Duration::from_secs(10)),
            client_timeout: Duration::from_secs(5),
            connections: 1024,
            concurrency: 256,
        }
    }
}

/// How many attachments are removed at once by GC and at start.
const PARALLEL_REMOVALS: usize = 16;

/// What a call that succeeded has to show.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// What goes to the runtime.
    pub(super) output: Option<Value>,
    /// The index of the interface that ADD made.
    pub(super) added: Option<IfIndex>,
}

/// What became of an undoing.
#[derive(Debug)]
enum Undone {
    /// Nothing is left.
    Clean,
    /// Nothing is left in the kernel; the addresses are released in the background.
    Releasing(String),
    /// Something is left; it goes on in the background.
    Incomplete(String),
}

pub(super) struct Attachments<B> {
    backend: Arc<B>,
    journal: Journal,
    options: Options,
    table: Mutex<BTreeMap<EndpointId, Record>>,
    /// Whether the table may lack attachments that live, which a damaged journal lost.
    damaged: bool,
    containers: KeyedLock,
    interfaces: KeyedLock,
    delegated: watch::Sender<Delegated>,
    unfinished: Notify,
    hurry: Notify,
}

impl<B: Backend> Attachments<B> {
    pub(super) fn new(backend: Arc<B>, journal: Journal, loaded: Loaded, options: Options) -> Self {
        for damage in &loaded.damages {
            tracing::error!(
                offset = damage.offset,
                length = damage.length,
                reason = damage.reason,
                "endpoint journal is damaged; an endpoint may be unknown, and its traffic denied"
            );
        }
        let table: BTreeMap<_, _> =
            loaded.records.into_iter().map(|one| (one.endpoint.id.clone(), one)).collect();
        for record in table.values().filter(|record| record.phase == Phase::Uncertain) {
            let Record { endpoint, .. } = record;
            tracing::error!(
                container = endpoint.id.container_id,
                pod = %format_args!("{}/{}", endpoint.namespace, endpoint.pod),
                "it is not known whether this endpoint was completed; left alone until DEL"
            );
        }
        let delegated = watch::Sender::new(Delegated::of(&table));
        Self {
            backend,
            journal,
            options,
            table: Mutex::new(table),
            damaged: !loaded.damages.is_empty() && !loaded.rebooted,
            containers: KeyedLock::default(),
            interfaces: KeyedLock::default(),
            delegated,
            unfinished: Notify::new(),
            hurry: Notify::new(),
        }
    }

    pub(super) fn backend(&self) -> &B {
        &self.backend
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn ready(&self) -> Vec<LocalEndpoint> {
        let table = self.table.lock();
        let ready = table.values().filter(|record| record.phase == Phase::Ready);
        let linked = ready.filter(|record| record.role.has_link());
        linked.map(|record| record.endpoint.clone()).collect()
    }

    pub(super) fn delegated(&self) -> watch::Receiver<Delegated> {
        self.delegated.subscribe()
    }

    /// The addresses of leases that this node reaches by an interface of its own, and which.
    pub(super) fn reached(&self) -> Vec<(IpAddr, IfIndex)> {
        let table = self.table.lock();
        let ready = table.values().filter(|record| record.phase == Phase::Ready);
        let reached = ready.filter_map(|record| match record.role {
            Role::Lease { via: Some(via) } => Some((via, &record.endpoint.addresses)),
            _ => None,
        });
        reached.flat_map(|(via, all)| all.iter().map(move |address| (*address, via))).collect()
    }

    pub(super) fn handles(&self) -> Option<BTreeSet<String>> {
        let table = self.table.lock();
        let handles = table.values().map(|record| record.endpoint.handle.clone()).collect();
        (!self.damaged).then_some(handles)
    }

    pub(super) fn unfinished(&self) -> usize {
        self.table.lock().values().filter(|record| record.phase != Phase::Ready).count()
    }

    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// To be told of a request that ended without finishing its work.
    pub(super) fn interrupted(&self) {
        self.unfinished.notify_one();
    }

    /// Serves one call. ADD is undone when `cancel` is; the others finish what they began.
    pub(super) async fn serve(
        &self,
        call: &Call,
        cancel: &CancellationToken,
    ) -> Result<Served, Error> {
        match call.command {
            Command::Add if call.lease.is_some() => return self.add_lease(call, cancel).await,
            Command::Add => {
                let endpoint = self.add(call, cancel).await?;
                let output = Some(result::added(call, &endpoint));
                return Ok(Served { output, added: Some(endpoint.host_index) });
            }
            Command::Del => self.del(call).await?,
            Command::Check => self.check(call).await?,
            Command::Gc => self.gc(call).await?,
            Command::Status => self.status(call.delegated.is_none())?,
        }
        Ok(Served::default())
    }

    /// Removes what was added for a runtime that did not wait for the answer, if it is still
    /// that: the runtime may have removed it, and added it again.
    pub(super) async fn withdraw(&self, id: &EndpointId, index: IfIndex) {
        let _container = self.containers.lock(&id.container_id).await;
        let Some((guard, record)) = self.lock_attachment(id).await else { return };
        if record.endpoint.host_index == index {
            self.undo(id, &guard).await;
        }
    }

    async fn del(&self, call: &Call) -> Result<(), Error> {
        let _container = self.lock_container(call).await?;
        let Some((guard, _)) = self.lock_attachment(&call.id).await else {
            // Never added, or removed before. Should the journal have lost it, this is what still
            // is known of it: its handle.
            let handle = handle(&call.config.name, &call.id);
            let released = timeout(self.options.release_timeout, self.backend.release(&handle));
            if let Ok(Err(error)) = released.await {
                tracing::warn!(handle, %error, "cannot release the addresses of an unknown attachment");
            }
            return Ok(());
        };
        match self.undo(&call.id, &guard).await {
            Undone::Clean => Ok(()),
            Undone::Releasing(reason) => {
                tracing::warn!(
                    container = call.id.container_id,
                    reason,
                    "addresses are not released yet; it is tried again"
                );
                Ok(())
            }
            Undone::Incomplete(reason) => Err(incomplete(reason)),
        }
    }

    async fn check(&self, call: &Call) -> Result<(), Error> {
        let _container = self.lock_container(call).await?;
        let failed = |details: String| {
            let msg = "the attachment is not as it was made".into();
            Error { code: code::CHECK_FAILED, msg, details }
        };
        let found = self.get(&call.id).filter(|record| {
            record.phase == Phase::Ready && record.role.has_link() == call.lease.is_none()
        });
        let Some(Record { endpoint, role, .. }) = found else {
            return Err(failed("there is no such attachment".into()));
        };
        let mut differences = if role.has_link() {
            result::differences(call, &endpoint)
        } else {
            lease::differences(call, &endpoint)
        };
        if role.has_link() {
            let check = timeout(self.options.deadline, self.backend.check(&endpoint)).await;
            differences.extend(check.map_err(|_| self.too_late("comparing it with the kernel"))??);
        }
        if differences.is_empty() { Ok(()) } else { Err(failed(differences.join("; "))) }
    }

    /// Removes this network's attachments that the runtime does not have any more, and gives back
    /// addresses of it that neither the runtime nor the journal knows of. Those that a request is
    /// at work on are not among them. An empty list proves nothing but that the runtime knows
    /// none: what still has its network namespace stays.
    async fn gc(&self, call: &Call) -> Result<(), Error> {
        let network = &call.config.name;
        // Before the handles: what is assigned from now on is not judged.
        let epoch = self.backend.epoch();
        let (stale, live) = {
            let table = self.table.lock();
            let ours = table.iter().filter(|(id, record)| {
                record.endpoint.handle == handle(network, id)
                    && record.role.has_link() == call.lease.is_none()
                    && !call.valid_attachments.contains(id)
            });
            let stale: Vec<(EndpointId, String)> =
                ours.map(|(id, record)| (id.clone(), record.endpoint.netns.clone())).collect();
            let known = table.values().map(|record| record.endpoint.handle.clone());
            let valid = call.valid_attachments.iter().map(|id| handle(network, id));
            (stale, known.chain(valid).collect::<BTreeSet<_>>())
        };
        let gone = |netns: &str| {
            let found = std::fs::metadata(netns);
            found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        let empty = call.valid_attachments.is_empty();
        let (stale, kept): (Vec<_>, Vec<_>) =
            stale.into_iter().partition(|(_, netns)| !empty || gone(netns));
        if !kept.is_empty() {
            tracing::warn!(
                network,
                attachments = kept.len(),
                "the runtime lists no attachment at all; those with a network namespace stay"
            );
        }
        let stale = stale.into_iter().map(|(id, _)| id).collect();
        let left = self.remove_idle(stale).await.into_iter().filter_map(|(id, undone)| {
            let Undone::Incomplete(reason) = undone else { return None };
            Some(format!("{} {}: {reason}", id.container_id, id.ifname))
        });
        let mut left: Vec<String> = left.collect();
        if !empty {
            let collected = self.backend.collect(network, epoch, live);
            match timeout(self.options.release_timeout, collected).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => left.push(format!("addresses: {error}")),
                Err(_) => {
                    let within = self.options.release_timeout;
                    left.push(format!("addresses: no answer within {within:?}"));
                }
            }
        }
        if left.is_empty() { Ok(()) } else { Err(incomplete(left.join("; "))) }
    }

    fn status(&self, own_addresses: bool) -> Result<(), Error> {
        self.backend.ready(own_addresses)?;
        self.journal.health().map_err(|error| Error {
            code: code::NOT_AVAILABLE,
            msg: "endpoints cannot be recorded".into(),
            details: error.to_string(),
        })
    }

    /// Finishes what was begun and not finished, now and whenever there is something, until
    /// `stop`.
    pub(super) async fn finish_unfinished(&self, stop: &CancellationToken) {
        let mut pause = self.options.retry.0;
        loop {
            let left: Vec<EndpointId> = {
                let table = self.table.lock();
                let left = table
                    .iter()
                    .filter(|(_, record)| !matches!(record.phase, Phase::Ready | Phase::Uncertain));
                left.map(|(id, _)| id.clone()).collect()
            };
            let left = self.remove_idle(left).await;
            if left.is_empty() {
                pause = self.options.retry.0;
                tokio::select! {
                    () = self.unfinished.notified() => {}
                    () = stop.cancelled() => return,
                }
            } else {
                tracing::warn!(?left, "cannot finish the removal of endpoints; trying again");
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.hurry.notified() => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(self.options.retry.1);
        }
    }

    /// Removes attachments that no request is at work on; yields those of which something is left.
    async fn remove_idle(&self, ids: Vec<EndpointId>) -> Vec<(EndpointId, Undone)> {
        let removals = ids.into_iter().map(|id| async move {
            let _container = self.containers.try_lock(&id.container_id)?;
            let record = self.get(&id)?;
            let guard = self.interfaces.try_lock(&changing(&record.endpoint))?;
            match self.undo(&id, &guard).await {
                Undone::Clean => None,
                left => Some((id, left)),
            }
        });
        let removals: Vec<_> = removals.collect();
        let done = futures::stream::iter(removals).buffer_unordered(PARALLEL_REMOVALS);
        done.filter_map(std::future::ready).collect().await
    }

    /// Takes away whatever there is of an attachment. May be repeated. Never dropped half-way by
    /// those who call it.
    async fn undo(&self, id: &EndpointId, _held: &KeyedGuard) -> Undone {
        let undone = self.try_undo(id).await;
        if !matches!(undone, Undone::Clean) {
            self.unfinished.notify_one();
        }
        undone
    }

    async fn try_undo(&self, id: &EndpointId) -> Undone {
        let Some(record) = self.get(id) else { return Undone::Clean };
        let Record { phase, role, ref endpoint, .. } = record;
        if phase != Phase::Releasing {
            let marked = async {
                // What is being added is recorded as to be undone already.
                match phase {
                    Phase::Adding => Ok(()),
                    _ => self.record(Record { phase: Phase::Removing, ..record.clone() }).await,
                }
            };
            // In any order: without its policy the link carries nothing, and the addresses are
            // given back after both. The kernel takes tens of milliseconds to let go of a link.
            let withdrawn = self.step("policy and route", self.backend.remove_endpoint(endpoint));
            let unlinked = async {
                if !role.has_link() {
                    return Ok(());
                }
                self.step("link", self.backend.delete_link(endpoint)).await
            };
            let (marked, withdrawn, unlinked) = tokio::join!(marked, withdrawn, unlinked);
            let problems: Vec<String> =
                [marked, withdrawn, unlinked].into_iter().filter_map(Result::err).collect();
            if !problems.is_empty() {
                return Undone::Incomplete(problems.join("; "));
            }
        }
        let release = async {
            if role.holds_addresses() {
                self.backend.release(&endpoint.handle).await
            } else {
                Ok(())
            }
        };
        let released = timeout(self.options.release_timeout, release);
        let reason = match released.await {
            Ok(Ok(())) => {
                return match self.journal.remove(id.clone()).await {
                    Ok(()) => {
                        self.table.lock().remove(id);
                        Undone::Clean
                    }
                    Err(error) => Undone::Incomplete(error.to_string()),
                };
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.options.release_timeout),
        };
        let releasing = Record { phase: Phase::Releasing, ..record.clone() };
        if phase != Phase::Releasing
            && let Err(error) = self.record(releasing).await
        {
            return Undone::Incomplete(error);
        }
        Undone::Releasing(format!("addresses of {}: {reason}", endpoint.handle))
    }

    async fn step(
        &self,
        of: &str,
        future: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), String> {
        match timeout(self.options.undo_timeout, future).await {
            Ok(outcome) => outcome.map_err(|error| format!("{of}: {error}")),
            Err(_) => Err(format!("{of}: no answer within {:?}", self.options.undo_timeout)),
        }
    }

    /// Sets what is known of an attachment, in memory and then in the journal.
    async fn record(&self, record: Record) -> Result<(), String> {
        self.table.lock().insert(record.endpoint.id.clone(), record.clone());
        if record.role == Role::Delegated {
            self.delegated.send_if_modified(|told| {
                let now = Delegated::of(&self.table.lock());
                let changed = *told != now;
                *told = now;
                changed
            });
        }
        self.journal.put(record).await.map_err(|error| error.to_string())
    }

    fn get(&self, id: &EndpointId) -> Option<Record> {
        self.table.lock().get(id).cloned()
    }

    /// Waits until nobody else changes the attachment. None if there is none.
    async fn lock_attachment(&self, id: &EndpointId) -> Option<(KeyedGuard, Record)> {
        let record = self.get(id)?;
        let guard = self.interfaces.lock(&changing(&record.endpoint)).await;
        Some((guard, self.get(id)?))
    }

    async fn lock_container(&self, call: &Call) -> Result<KeyedGuard, Error> {
        let lock = self.containers.lock(&call.id.container_id);
        timeout(self.options.deadline, lock)
            .await
            .map_err(|_| self.too_late("waiting for an earlier request of this container"))
    }

    fn too_late(&self, doing: &str) -> Error {
        let text = format!("still {doing} after {:?}", self.options.deadline);
        Failure::TryAgainLater(text).into()
    }
}

/// The IPAM handle of an attachment, as Calico names it: `<network>.<container id>`. Only for
/// further interfaces of the same container is the interface added, so that each is released
/// alone.
fn handle(network: &str, id: &EndpointId) -> String {
    match id.ifname.as_str() {
        "eth0" => format!("{network}.{}", id.container_id),
        other => format!("{network}.{}.{other}", id.container_id),
    }
}

/// What is held by whoever changes an attachment: the name of its host interface, or of one that
/// no interface has.
fn changing(endpoint: &LocalEndpoint) -> String {
    match endpoint.host_interface.as_str() {
        "" => format!("{} {}", endpoint.id.container_id, endpoint.id.ifname),
        interface => interface.to_owned(),
    }
}

fn incomplete(details: String) -> Error {
    let msg = "not all could be removed; it is tried again in the background".into();
    Error { code: code::INCOMPLETE_REMOVAL, msg, details }
}

/// When a request that begins now is to end.
fn deadline(options: &Options) -> Instant {
    Instant::now() + options.deadline
}
