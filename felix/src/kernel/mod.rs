//! The only code of the agent that writes the kernel: policy as elements of one nftables table,
//! routes, links, neighbours, conntrack.
//!
//! ```text
//!  Kernel (a handle) ──▶ nft     elements.rs ⇄ layout.rs   a few elements: written by the caller;
//!                                                          more: one transaction for all that queued
//!                    ──▶ routes                            repaired upon notification
//!                    ──▶ links × 4                         a pod's link, created or deleted
//!                    ──▶ flows                             cut, resumed, forgotten
//!                        beside                            accepts pods' packets where iptables' FORWARD drops
//!  denied ◀── a sample of what policy denies
//!  answers ◀─▶ DNS answers to endpoints whose policy asks of names, held until they are read
//! ```
//! Each is a thread with its own netlink socket, in the network namespace of the thread that called
//! [`Kernel::start`]; a socket stays in its namespace, whoever uses it.
//!
//! Nothing that was in the kernel at start is deleted before [`Kernel::in_sync`], unless the agent
//! asked for it first. What the kernel refuses is named in the answer and left out; the rest is
//! written. Another program's changes to what is ours are undone: where the kernel can lock the
//! table they are refused in the first place, elsewhere a notification leads to the repair.
//!
//! The writer sets `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding` at start and does not
//! reset them: others may rely on them by then. With IPv6 forwarding an interface takes router
//! advertisements only if its `accept_ra` is 2.

pub mod answers;
mod beside;
pub mod denied;
mod elements;
pub mod flows;
pub mod layout;
pub mod links;
mod nft;
pub mod routes;
mod worker;
mod writers;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use netlink::Socket;
use tracing::warn;

pub use self::flows::TrackedFlow;
pub use self::layout::{DenyAction, HostAction, LogRules, Queue};
pub use self::links::PreparedLink;
pub use self::nft::NftStatus;
pub use self::routes::{RouteStatus, WantedRoute};

use self::flows::Flows;
use self::layout::Params;
use self::links::{LinkId, Plumber};
use self::nft::{Shared, Write};
use self::worker::{Mailbox, Pool};
use self::writers::{DeleteCommand, FlowCommand, FlowTask, LinkCommand, RouteCommand, Source};
use crate::model::{Decision, Delta, IfIndex, Key, LocalEndpoint, Parties, RouteChange, Value};

/// Where indexes of our interfaces begin: above those that the kernel gives, which start at 1.
const FIRST_INDEX: IfIndex = 1_000_000;
/// Links made at once. More would only wait for the kernel's one lock.
const PLUMBERS: usize = 4;

/// How the kernel is written.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the names of workload interfaces begin: 1 to 11 bytes. Whatever else is named so and
    /// is not a known endpoint is cut off.
    pub prefix: String,
    /// What becomes of packets from workloads to the node that their policy allows.
    pub host_action: HostAction,
    /// Lock the table against other programs where the kernel can (Linux 6.9).
    pub lock_table: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { prefix: "cali".into(), host_action: HostAction::Accept, lock_table: true }
    }
}

/// An element, route or setting that the kernel does not take, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Which.
    pub object: String,
    /// The kernel's words.
    pub reason: String,
}

impl std::fmt::Display for Rejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

/// Why the kernel does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another process owns the table: a second agent on the node.
    #[error(
        "table inet caracal is held by another process{}: is another agent running on this node?",
        port.map(|port| format!(" (netlink port {port}, as a rule its process id)"))
            .unwrap_or_default()
    )]
    Held {
        /// Its socket.
        port: Option<u32>,
    },
    /// The kernel refused this, and took the rest.
    #[error("{0}")]
    Rejected(Rejected),
    /// An interface that is to be created exists.
    #[error("{0}")]
    Exists(String),
    /// The kernel refused it, or could not be asked.
    #[error("{0}")]
    Kernel(String),
    /// The agent is shutting down.
    #[error("the kernel's writer has stopped")]
    Stopped,
}

/// Packets that begin flows, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
}

/// What was counted for each who decides, each once and in order.
pub type Counted = Vec<(Arc<Decision>, Count)>;

impl Count {
    /// Adds another; stops at the most there can be.
    pub fn add(&mut self, other: Self) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What [`Kernel::status`] tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Policy.
    pub nft: NftStatus,
    /// Routes.
    pub routes: RouteStatus,
}

/// The kernel, as the rest of the agent sees it. Clones are the same kernel; when the last one is
/// dropped, the threads end and what was written stays.
#[derive(Clone, Debug)]
pub struct Kernel {
    nft: Shared<Socket>,
    routes: Mailbox<RouteCommand>,
    links: Pool<LinkCommand>,
    deletions: Mailbox<DeleteCommand>,
    flows: Mailbox<FlowCommand>,
    /// Its thread lives as long as the kernel is used.
    _beside: Mailbox<beside::Command>,
    next_index: Arc<AtomicU32>,
    queue: Queue,
}

impl Kernel {
    /// Reads what is in the kernel, takes the table, and starts the writers, in the calling
    /// thread's network namespace. Blocks for as long as that takes (0.5 s with 200,000 elements).
    ///
    /// # Errors
    /// [`Error::Held`] if another agent runs on the node; [`Error::Kernel`] if something that is
    /// needed is missing, such as CAP_NET_ADMIN or nf_tables.
    pub fn start(options: Options) -> Result<Self, Error> {
        if options.prefix.is_empty() || options.prefix.len() > 11 {
            let prefix = &options.prefix;
            return Err(Error::Kernel(format!("interface prefix {prefix:?}: not 1 to 11 bytes")));
        }
        set_forwarding()?;
        let mut plumbers = Vec::new();
        for _ in 0..PLUMBERS {
            plumbers.push(Plumber::new()?);
        }
        let mut deleter = Plumber::new()?;
        let Options { prefix, host_action, .. } = &options;
        let queue = nft::queue();
        let params = Params {
            prefix: prefix.clone(),
            host_action: *host_action,
            deny: DenyAction::default(),
            sampling: false,
            log: LogRules::default(),
            queue,
            names: false,
        };
        let (nft_writer, nft_monitor) = nft::open(params, options.lock_table)?;
        let route_writer = routes::Writer::start(&options.prefix)?;
        let highest = deleter.highest_index()?.max(nft_writer.highest_index());

        let nft = Shared::start(nft_writer, nft_monitor)?;
        let (routes, inbox) = worker::mailbox()?;
        worker::spawn("routes", move || writers::run_routes(route_writer, &inbox))?;
        let (deletions, inbox) = worker::mailbox()?;
        worker::spawn("unlink", move || writers::run_deletions(&mut deleter, &inbox))?;
        let links = Pool::start("links", plumbers, writers::serve_link)?;
        let mut tracker = Flows::new()?;
        let (flows, inbox) = worker::mailbox()?;
        worker::spawn("flows", move || writers::run_flows(&mut tracker, &inbox))?;
        let beside = beside::Beside::new(&options.prefix)?;
        let (_beside, inbox) = worker::mailbox()?;
        worker::spawn("beside", move || beside::run(beside, &inbox))?;
        let next_index = Arc::new(AtomicU32::new(highest.saturating_add(1).max(FIRST_INDEX)));
        Ok(Self { nft, routes, links, deletions, flows, _beside, next_index, queue })
    }

    /// How DNS answers are handed over here; see [`answers`].
    pub fn queue(&self) -> Queue {
        self.queue
    }

    /// Writes a change of policy; returns once it is in the kernel. Changes take effect in the order in
    /// which their futures are first polled; one that is dropped after that is written all the same. Up to
    /// 128 elements are written within that first poll (10 µs, and 1.5 µs for each, unless another
    /// program keeps nf_tables busy), where nothing queues and the kernel has not to look for loops among
    /// more than 1,000; others by a thread, and those that queue meanwhile become one transaction. What is to be judged again is not looked at: see [`Kernel::flows`].
    ///
    /// # Errors
    /// [`Error::Rejected`] names the first element of this delta that the kernel does not take; the
    /// others are in force. After any other error none of it is, and it is tried again with the
    /// next change.
    pub async fn commit(&self, delta: Delta) -> Result<(), Error> {
        self.nft.commit(delta).await
    }

    /// As [`Kernel::commit`], with the change that makes policy complete: in the same transaction
    /// all elements go that were in the kernel and are not wanted. Routes are not concerned.
    ///
    /// # Errors
    /// As [`Kernel::commit`].
    pub async fn sync(&self, delta: Delta) -> Result<(), Error> {
        self.nft.write(Write::Sync(delta)).await
    }

    /// What is wanted, policy and routes, is complete: what else of ours is in the kernel goes.
    ///
    /// # Errors
    /// As [`Kernel::commit`].
    pub async fn in_sync(&self) -> Result<(), Error> {
        self.sync(Delta::default()).await?;
        self.routes_in_sync().await
    }

    /// The wanted routes are complete: what else of ours is in the kernel goes.
    ///
    /// # Errors
    /// [`Error::Kernel`]; it is tried again with the next change.
    pub async fn routes_in_sync(&self) -> Result<(), Error> {
        self.routes.ask(RouteCommand::InSync).await?
    }

    /// Changes what becomes of packets from workloads to the node that their policy allows.
    ///
    /// # Errors
    /// As [`Kernel::commit`].
    pub async fn set_host_action(&self, action: HostAction) -> Result<(), Error> {
        self.nft.write(Write::HostAction(action)).await
    }

    /// Changes what becomes of packets that policy denies.
    ///
    /// # Errors
    /// As [`Kernel::commit`]; and the kernel has no rules that reject, then they go on being dropped.
    pub async fn set_deny_action(&self, action: DenyAction) -> Result<(), Error> {
        if action == DenyAction::Reject {
            let rejects = tokio::task::spawn_blocking(nft::rejects).await;
            if !rejects.is_ok_and(|rejects| rejects) {
                let reason = "this kernel lacks nft_reject_inet: what policy denies is dropped";
                return Err(Error::Kernel(reason.into()));
            }
        }
        self.nft.write(Write::DenyAction(action)).await
    }

    /// Has the agent told of a sample of the packets that begin flows and are let through, or not any
    /// more; see [`denied`].
    ///
    /// # Errors
    /// As [`Kernel::commit`].
    pub async fn set_sampling(&self, sampling: bool) -> Result<(), Error> {
        self.nft.write(Write::Sampling(sampling)).await
    }

    /// Changes how rules log that log.
    ///
    /// # Errors
    /// As [`Kernel::commit`].
    pub async fn set_log_rules(&self, log: LogRules) -> Result<(), Error> {
        self.nft.write(Write::LogRules(log)).await
    }

    /// Writes this node's own routes. Returns those that cannot be in the kernel yet, because their interface or
    /// gateway is missing: they are written as soon as it comes.
    ///
    /// # Errors
    /// [`Error::Kernel`] if routes could not be written at all; it is tried again with the next
    /// change.
    pub async fn set_routes(&self, changes: Vec<RouteChange>) -> Result<Vec<Rejected>, Error> {
        self.routes.ask(|reply| RouteCommand::Set(Source::Own, changes, reply)).await?
    }

    /// Writes routes that peers told. One to a destination that is this node's own is kept in mind
    /// until it no longer is: a peer may still have what was lent to it.
    ///
    /// # Errors
    /// As [`Kernel::set_routes`].
    pub async fn set_learned_routes(
        &self,
        changes: Vec<RouteChange>,
    ) -> Result<Vec<Rejected>, Error> {
        self.routes.ask(|reply| RouteCommand::Set(Source::Learned, changes, reply)).await?
    }

    /// An interface index that no link has, none had since the agent started, and no element in
    /// the kernel mentions.
    pub fn next_index(&self) -> IfIndex {
        self.next_index.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes an endpoint's link, which carries nothing yet; [`Kernel::open_link`] sets it up. Needs
    /// all of the endpoint but its addresses.
    ///
    /// # Errors
    /// [`Error::Exists`] if one of its names or its index is taken: by a living endpoint or by
    /// something that is not ours, or inside the pod. A dead link of ours is replaced. After an
    /// error there is no link.
    pub async fn prepare_link(&self, endpoint: &LocalEndpoint) -> Result<PreparedLink, Error> {
        let endpoint = Box::new(endpoint.clone());
        self.links.ask(|reply| LinkCommand::Prepare(endpoint, reply)).await?
    }

    /// Gives a link its addresses, sets it up, and writes the routes to it that wait for it. Policy
    /// has to be in the kernel before.
    ///
    /// # Errors
    /// [`Error::Kernel`]; after it there is no link.
    pub async fn open_link(
        &self,
        link: PreparedLink,
        endpoint: &LocalEndpoint,
    ) -> Result<(), Error> {
        let boxed = Box::new(endpoint.clone());
        let index = endpoint.host_index;
        self.links.ask(|reply| LinkCommand::Open(link, boxed, reply)).await??;
        let routed = self.routes.ask(|reply| RouteCommand::LinkCame(index, reply)).await;
        let result = routed.and_then(|routed| routed);
        if result.is_err()
            && let Err(error) = self.delete_link(endpoint).await
        {
            warn!(interface = %endpoint.host_interface, %error, "a link without a route stays");
        }
        result
    }

    /// Deletes an endpoint's link; others that queue meanwhile go with it. No error if there is
    /// none, or if the interface of that name is another endpoint's.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn delete_link(&self, endpoint: &LocalEndpoint) -> Result<(), Error> {
        let link = LinkId::of(endpoint);
        self.deletions.ask(|reply| DeleteCommand::Delete(link, reply)).await?
    }

    /// Compares the kernel with what [`Kernel::open_link`] made of an endpoint: a line for each
    /// thing that is missing or different; none if all is well.
    ///
    /// # Errors
    /// [`Error::Kernel`] if it cannot be told.
    pub async fn check_link(&self, endpoint: &LocalEndpoint) -> Result<Vec<String>, Error> {
        let endpoint = Box::new(endpoint.clone());
        self.links.ask(|reply| LinkCommand::Check(endpoint, reply)).await?
    }

    /// The names and indexes of all links of endpoints that exist, known or not.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn links(&self) -> Result<Vec<(String, IfIndex)>, Error> {
        let links = self.links.ask(LinkCommand::List).await??;
        Ok(links.into_iter().map(|link| (link.name, link.index)).collect())
    }

    /// The tracked flows that somebody of these began or answers, without those that the node itself
    /// began: they are always allowed.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn flows(&self, parties: Parties) -> Result<Vec<TrackedFlow>, Error> {
        self.flows.ask(|reply| FlowCommand::Each(FlowTask::Of(parties, reply))).await?
    }

    /// Has host endpoints judge these flows again: each by the next packet of whoever began it, which is the
    /// first that tells where the flow passes. Or, if not `again`, what is left of that is not done.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn judge_at_hosts(&self, parties: Parties, again: bool) -> Result<(), Error> {
        let task = |reply| FlowCommand::Each(FlowTask::JudgeAtHosts(parties, again, reply));
        self.flows.ask(task).await?
    }

    /// Cuts flows: their packets are dropped, in both directions, until [`Kernel::clear_denied`].
    ///
    /// # Errors
    /// [`Error::Kernel`]; a flow that ended meanwhile is none.
    pub async fn mark_denied(&self, flows: Vec<TrackedFlow>) -> Result<(), Error> {
        self.flows.ask(|reply| FlowCommand::Each(FlowTask::Mark(flows, true, reply))).await?
    }

    /// Lets flows go on that were cut.
    ///
    /// # Errors
    /// [`Error::Kernel`]; a flow that ended meanwhile is none.
    pub async fn clear_denied(&self, flows: Vec<TrackedFlow>) -> Result<(), Error> {
        self.flows.ask(|reply| FlowCommand::Each(FlowTask::Mark(flows, false, reply))).await?
    }

    /// Forgets all flows of addresses that leave the node.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn forget(&self, addresses: Vec<IpAddr>) -> Result<(), Error> {
        self.flows.ask(|reply| FlowCommand::Forget(addresses, reply)).await?
    }

    /// Forgets all flows that somebody in these networks began or answers, once.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn forget_within(&self, nets: Vec<IpNet>) -> Result<(), Error> {
        self.flows.ask(|reply| FlowCommand::Each(FlowTask::ForgetWithin(nets, reply))).await?
    }

    /// The routes that are wanted, by destination.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn wanted_routes(&self) -> Result<Vec<WantedRoute>, Error> {
        self.routes.ask(RouteCommand::List).await
    }

    /// The route that packets to an address take now, as `ip route` has it.
    ///
    /// # Errors
    /// [`Error::Kernel`], also if there is none.
    pub async fn route(&self, address: IpAddr) -> Result<String, Error> {
        self.links.ask(|reply| LinkCommand::Route(address, reply)).await?
    }

    /// By which interface the kernel sends what goes to an address; None: by none.
    ///
    /// # Errors
    /// [`Error::Kernel`], also if there is no route.
    pub async fn interface_to(&self, address: IpAddr) -> Result<Option<IfIndex>, Error> {
        self.links.ask(|reply| LinkCommand::InterfaceTo(address, reply)).await?
    }

    /// What the kernel has under these keys, each read from it; of a range, its beginning is.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn elements(&self, keys: Vec<Key>) -> Result<Vec<Option<Value>>, Error> {
        self.nft.read(keys).await
    }

    /// What everyone who decides has decided about packets of workloads since counting began
    /// ([`Value::Counted`]), each once, in order; nothing where nothing is counted. Takes about a
    /// microsecond for each element.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub async fn counts(&self) -> Result<Counted, Error> {
        self.nft.counts().await
    }

    /// What is in the kernel and what went wrong, for metrics and status.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn status(&self) -> Result<Status, Error> {
        Ok(Status {
            nft: self.nft.status().await?,
            routes: self.routes.ask(RouteCommand::Status).await?,
        })
    }
}

/// What a router needs. Read first: where it is set, `/proc/sys` may be read-only.
fn set_forwarding() -> Result<(), Error> {
    for (file, needed) in [
        ("/proc/sys/net/ipv4/ip_forward", true),
        // Missing where IPv6 is switched off.
        ("/proc/sys/net/ipv6/conf/all/forwarding", false),
    ] {
        let wrong = |error| Error::Kernel(format!("{file}: {error}"));
        match std::fs::read(file) {
            Ok(value) if value.first() == Some(&b'1') => {}
            Ok(_) => std::fs::write(file, "1").map_err(wrong)?,
            Err(error) if !needed && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
