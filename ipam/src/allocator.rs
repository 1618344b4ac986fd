//! The allocator of one node: the face that felix sees.
//!
//! It works on Calico's protocol in Calico's shape, but asks the store for nothing on the way: the
//! node's own blocks are known, a claim is one transaction, and all requests of a moment share one
//! commit. See [`Ipam`].

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::Error;
use crate::model::{IpamConfig, is_key_segment};
use crate::pool::Pools;
use crate::store::Store;
use crate::store::embedded::EmbeddedStore;
use crate::store::etcd::{EtcdConfig, EtcdStore};
use crate::timestamp::Timestamp;

mod blocks;
mod cache;
pub(crate) mod claim;
mod committer;
mod log;
mod mirror;
mod owner;
mod plan;
mod request;
mod retiring;
mod state;
mod status;
mod surplus;

pub use committer::Clock;
pub use request::{AssignRequest, Assignment, Epoch, Families, Held, Live, Tunnel};
pub use status::{BlockStatus, CorruptKey, Frozen, Mode, Status};

use committer::{Committer, Desk, Message, Parts};
use log::Log;
use state::StateDir;

/// Where the blocks are.
#[derive(Clone)]
pub enum StoreConfig {
    /// In etcd, shared by a cluster.
    Etcd(EtcdConfig),
    /// In a file of this machine, by its path.
    Embedded(PathBuf),
    /// In a store that is open already.
    Open(Arc<dyn Store>),
}

/// How to open an allocator.
#[derive(Clone)]
pub struct Options {
    /// The node's name, as in Kubernetes. No `/`.
    pub node: String,
    /// Where the blocks are.
    pub store: StoreConfig,
    /// Where this instance keeps its id and what it announces; survives reboots.
    pub state_dir: PathBuf,
    /// The node's labels, if they are known before [`Ipam::set_node_labels`]. Until then only pools
    /// that select every node are used, and no block is given up.
    pub node_labels: Option<BTreeMap<String, String>>,
    /// Whether the node may answer from a log of its own under strictAffinity ([`Mode::LocalFirst`]).
    pub local_first: bool,
    /// Whether [`Ipam::hold`] will be called: until then nothing is done with a store that was
    /// restored from an older copy.
    pub awaits_held: bool,
    /// Whether the allocator has a thread to itself, where it waits for the disk without handing its
    /// place to another one: less work for each address. A single request that its log suffices
    /// for is then answered by the thread of who asks, which waits for the disk meanwhile
    /// (a worker of tokio lets another one take its place). Else it is a task of the runtime that
    /// opens it.
    pub own_thread: bool,
    /// How long a request waits for its answer.
    pub deadline: Duration,
    /// Tells the time.
    pub clock: Clock,
}

impl Options {
    /// How long a request waits where nothing else is said.
    pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

    /// The usual: no labels, the store before every answer, no thread, five seconds, the system's
    /// clock.
    pub fn new(node: &str, store: StoreConfig, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            node: node.to_owned(),
            store,
            state_dir: state_dir.into(),
            node_labels: None,
            local_first: false,
            awaits_held: false,
            own_thread: false,
            deadline: Self::DEFAULT_DEADLINE,
            clock: Arc::new(SystemTime::now),
        }
    }
}

/// A node's allocator. Clones are the same allocator, which ends with the last of them.
///
/// What callers may rely on:
/// - An address that was answered is in the store, or in local-first mode in this node's log, and
///   nobody else can have it.
/// - A request is all or none: of two families, both or an error.
/// - [`Ipam::assign`] is idempotent per handle: a handle has at most one address of each family,
///   and a repeated request gets those it holds (`repeated` says so). Calico gives a handle
///   further addresses; its answer to a retry would leak those of the lost reply.
/// - A future that is dropped leaks nothing: what it would have been given goes back.
/// - While the store is away requests wait until their deadline and fail with
///   [`Error::StoreUnavailable`]; what is announced stays. Nothing needs a restart. In local-first
///   mode this holds of those only that the node's own blocks do not suffice for.
#[derive(Clone)]
pub struct Ipam {
    shared: Arc<Shared>,
}

struct Shared {
    node: String,
    queue: mpsc::UnboundedSender<Message>,
    desk: Arc<Desk>,
    own_thread: bool,
    blocks: watch::Receiver<Arc<[IpNet]>>,
    borrowed: watch::Receiver<Arc<[IpAddr]>>,
    status: watch::Receiver<Status>,
    epoch: Arc<AtomicU64>,
    deadline: Duration,
    clock: Clock,
    store: Arc<dyn Store>,
    /// This instance's id.
    instance: String,
    /// What [`Ipam::set_config`] said last.
    config: Mutex<Option<IpamConfig>>,
}

impl Ipam {
    /// Opens an allocator. It works at once whether or not etcd can be reached; requests are
    /// served as soon as it can. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The options contradict themselves, the state directory, the log in it or the embedded store
    /// cannot be used, another process uses them, or no thread can be had.
    pub fn open(options: Options) -> Result<Self, Error> {
        let Options {
            node,
            store,
            state_dir,
            node_labels,
            local_first,
            awaits_held,
            own_thread,
            deadline,
            clock,
        } = options;
        if !is_key_segment(&node) {
            return Err(Error::Invalid(format!(
                "node name {node:?} is empty or has a character that keys cannot have"
            )));
        }
        let state = StateDir::open(&state_dir)?;
        let store: Arc<dyn Store> = match store {
            StoreConfig::Etcd(config) => Arc::new(EtcdStore::new(&config)?),
            StoreConfig::Embedded(path) => Arc::new(EmbeddedStore::open(&path)?),
            StoreConfig::Open(store) => store,
        };
        let (remembered, position) = state.load(&node);
        if let Some(position) = position {
            store.expect(position);
        }
        let log = Log::open(&state.log(), &node, &state.instance)?;
        let (queue, messages) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk::default());
        let (blocks, own_blocks) = watch::channel(remembered.blocks.as_slice().into());
        let (borrowed, own_borrowed) =
            watch::channel(remembered.borrowed_addresses.as_slice().into());
        let mode = if log.is_some() { Mode::LocalFirst } else { Mode::Synchronous };
        let (status, own_status) = watch::channel(Status::new(store.name(), mode));
        let epoch = Arc::new(AtomicU64::new(0));
        let (shared_store, instance) = (store.clone(), state.instance.clone());
        let committer = Committer::new(Parts {
            node: node.clone(),
            store,
            state,
            clock: clock.clone(),
            node_labels,
            local_first,
            awaits_held,
            own_thread,
            log,
            queue: messages,
            queued: desk.queued(),
            blocks,
            borrowed,
            status,
            epoch: epoch.clone(),
            remembered,
        });
        if own_thread {
            run_apart(committer, desk.clone())
                .map_err(|error| Error::Thread { reason: error.to_string() })?;
        } else {
            tokio::spawn(committer.run(desk.clone()));
        }
        let (blocks, borrowed, status) = (own_blocks, own_borrowed, own_status);
        let (store, config) = (shared_store, Mutex::default());
        let shared = Shared {
            node,
            queue,
            desk,
            own_thread,
            blocks,
            borrowed,
            status,
            epoch,
            deadline,
            clock,
            store,
            instance,
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The pools there are now. Blocks of others are given up once they are empty, unless there is
    /// none at all, or one that cannot be read and may be theirs.
    pub fn set_pools(&self, pools: impl Into<Pools>) {
        self.send(Message::Pools(pools.into()));
    }

    /// The networks that are never assigned automatically.
    pub fn set_reservations(&self, reservations: Vec<IpNet>) {
        self.send(Message::Reservations(reservations));
    }

    /// The cluster's IPAM configuration. With None, and until this is called, the store's own key
    /// counts.
    ///
    /// # Errors
    /// It contradicts itself; the last good one stays in force.
    pub fn set_config(&self, config: Option<IpamConfig>) -> Result<(), Error> {
        if let Some(config) = &config {
            config.validate().map_err(Error::Invalid)?;
        }
        let mut known = self.shared.config.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone_from(&config);
        drop(known);
        self.send(Message::Config(config));
        Ok(())
    }

    /// The node's labels, which decide which pools select it.
    pub fn set_node_labels(&self, labels: BTreeMap<String, String>) {
        self.send(Message::NodeLabels(labels));
    }

    /// Tells what the endpoints of this node have, to be called once, before anything is assigned. What
    /// the store does not have of it, since it was restored from an older copy, is written there
    /// again; what somebody else has meanwhile is logged.
    pub fn hold(&self, held: Vec<Held>) {
        self.send(Message::Hold(held));
    }

    /// Gives back what the mere passing of time made superfluous: blocks that are empty since
    /// their last address has rested. To be called now and then; requests do the same.
    pub fn tend(&self) {
        self.send(Message::Tend);
    }

    /// Assigns addresses to a handle.
    ///
    /// # Errors
    /// See [`Error`]; nothing is held then that was not held before.
    pub async fn assign(&self, mut request: AssignRequest) -> Result<Assignment, Error> {
        request.validate().map_err(Error::Invalid)?;
        let node = self.shared.node.clone();
        request.attributes.entry("node".to_owned()).or_insert(node);
        let now = Timestamp::from((self.shared.clock)());
        request.attributes.entry("timestamp".to_owned()).or_insert_with(|| now.go_string());
        let (reply, answer) = oneshot::channel();
        self.send(Message::Assign(request, reply));
        self.answer(answer).await
    }

    /// Releases all that a handle holds and says what that was; holding nothing is no error. The
    /// addresses rest before they are given again.
    ///
    /// # Errors
    /// See [`Error`]; the release may be repeated.
    pub async fn release(&self, handle: &str) -> Result<Vec<IpAddr>, Error> {
        request::validate_handle(handle).map_err(Error::Invalid)?;
        let (reply, answer) = oneshot::channel();
        self.send(Message::Release(handle.to_owned(), reply));
        self.answer(answer).await
    }

    /// The point in time to take evidence at: see [`Live`].
    pub fn epoch(&self) -> Epoch {
        Epoch(self.shared.epoch.load(Ordering::SeqCst))
    }

    /// Releases the addresses of this node's pods that no live endpoint holds, and says which.
    /// Tunnel addresses, and what belongs to other nodes or to nobody known, are left alone.
    ///
    /// # Errors
    /// See [`Error`]; the collection may be repeated.
    pub async fn collect(&self, live: Live) -> Result<Vec<IpAddr>, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Collect(live, reply));
        self.answer(answer).await
    }

    /// What [`Ipam::collect`] would release now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn collectable(&self, live: Live) -> Result<Vec<IpAddr>, Error> {
        self.collect(Live { dry: true, ..live }).await
    }

    /// This node's blocks, in order: what BGP announces and what gets a blackhole route. After a
    /// restart these are at once those of before, whether the store can be reached or not.
    pub fn blocks(&self) -> watch::Receiver<Arc<[IpNet]>> {
        self.shared.blocks.clone()
    }

    /// The addresses that this node holds in other nodes' blocks, in order. BGP announces each of
    /// them alone: the block's own announcement leads to its owner, where the pod is not. Told from
    /// the start and remembered over a restart as [`Ipam::blocks`] is. An assignment is answered
    /// before its address appears here.
    pub fn borrowed(&self) -> watch::Receiver<Arc<[IpAddr]>> {
        self.shared.borrowed.clone()
    }

    /// The state of the allocator now.
    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }

    /// The state of the allocator, whenever it changes.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.shared.status.clone()
    }

    /// Ends the allocator and waits until it has let go of its files. Later calls on clones fail.
    pub async fn close(self) {
        let (closed, done) = oneshot::channel();
        self.send(Message::Close(closed));
        let _ = done.await;
    }

    fn send(&self, message: Message) {
        let Shared { queue, desk, own_thread, .. } = &*self.shared;
        desk.send(queue, message, *own_thread);
    }

    async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<Result<T, Error>, oneshot::error::RecvError>>,
    ) -> Result<T, Error> {
        let deadline = self.shared.deadline;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => {
                let status = self.status();
                let reason = status.problem.unwrap_or_else(|| "no answer".to_owned());
                let prefix = format!("{} is unavailable: ", status.store);
                let reason = reason.strip_prefix(&prefix).unwrap_or(&reason);
                Err(Error::StoreUnavailable {
                    store: status.store,
                    reason: format!("{reason} (gave up after {deadline:?})"),
                })
            }
        }
    }
}

/// Runs it on a thread of its own, which ends with it.
fn run_apart(committer: Committer, desk: Arc<Desk>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new().name("ipam".to_owned());
    thread.spawn(move || runtime.block_on(committer.run(desk)))?;
    Ok(())
}
