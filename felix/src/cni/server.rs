//! The agent's socket: takes requests of the CNI plugin and of the command line, and answers
//! them. A client can be slow, broken or gone; that harms nobody else, and changes nothing.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attachments::{Attachments, Delegated, Options, Served};
use super::backend::{Backend, Failure, Observation, Query};
use super::journal::{Journal, Loaded};
use super::protocol::{self, CniReply, CniRequest, Error, Reply, Request};
use super::spec::{Call, Command, code};
use crate::model::{IfIndex, LocalEndpoint};

/// How long requests under way may go on when the agent stops, before they are given up.
const GRACE: Duration = Duration::from_secs(1);

/// Pause after the listener failed, which happens when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listening socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Listens at `path`, which only root can connect to (mode 0600). The directory is made if it
    /// does not exist. What an agent that is gone left there is replaced in one step, so that a
    /// client finds the old socket or the new one. Needs a Tokio runtime.
    ///
    /// # Errors
    /// `AddrInUse` if another agent answers there; those of making the socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let text = format!("{}: another agent listens here", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        // Not reachable by its name before it has its mode.
        let new = path.with_extension(format!("{}.new", std::process::id()));
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::metadata(&new)?.ino();
        std::fs::rename(&new, path)?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Another agent may have taken the place meanwhile.
        if std::fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The options are not usable.
#[derive(Debug, thiserror::Error)]
#[error("interface prefix {0:?} is not 1 to 4 letters, digits, '_', '.' or '-'")]
pub struct OptionsError(String);

/// The CNI server. Clones are the same server.
pub struct Server<B>(Arc<Inner<B>>);

impl<B> Clone for Server<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<B> {
    attachments: Attachments<B>,
    connections: Arc<Semaphore>,
    adding: Semaphore,
    tasks: TaskTracker,
    /// Gives up the ADDs under way.
    cancel: CancellationToken,
}

impl<B: Backend> Server<B> {
    /// A server that knows what `journal` was found to hold. Nothing is undone before
    /// [`Server::serve`].
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn new(
        backend: Arc<B>,
        journal: Journal,
        loaded: Loaded,
        options: Options,
    ) -> Result<Self, OptionsError> {
        let prefix = &options.interface_prefix;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !(1..=4).contains(&prefix.len()) || !prefix.chars().all(allowed) {
            return Err(OptionsError(prefix.clone()));
        }
        Ok(Self(Arc::new(Inner {
            connections: Arc::new(Semaphore::new(options.connections)),
            adding: Semaphore::new(options.concurrency),
            attachments: Attachments::new(backend, journal, loaded, options),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        })))
    }

    /// The endpoints of this node: those whose ADD was answered and whose DEL has not begun.
    pub fn endpoints(&self) -> Vec<LocalEndpoint> {
        self.0.attachments.ready()
    }

    /// The addresses given to other main plugins that this node reaches by an interface of its own,
    /// and which that is.
    pub fn reached(&self) -> Vec<(IpAddr, IfIndex)> {
        self.0.attachments.reached()
    }

    /// What other IPAM plugins gave to endpoints: at once that of before, and then every change.
    pub fn delegated(&self) -> watch::Receiver<Delegated> {
        self.0.attachments.delegated()
    }

    /// The IPAM handles that are in use, also by requests under way and removals not finished.
    /// What is assigned while this is looked at is not among them, so it is to be asked for, and
    /// acted on, before [`Server::serve`]. None if a damaged journal lost some.
    pub fn handles(&self) -> Option<BTreeSet<String>> {
        self.0.attachments.handles()
    }

    /// What the endpoints have of this node's IPAM, for [`ipam::Ipam::hold`].
    pub fn held(&self) -> Vec<ipam::Held> {
        self.0.attachments.held()
    }

    /// How many attachments are being added or removed, or wait for their removal to be finished.
    pub fn unfinished(&self) -> usize {
        self.0.attachments.unfinished()
    }

    /// Tries at once to finish what could not be removed: to be called when etcd is back.
    pub fn retry(&self) {
        self.0.attachments.hurry();
    }

    /// Serves until `stop`, then ends in order: no new requests, those under way answered or
    /// given up and undone.
    pub async fn serve(&self, listener: Listener, stop: CancellationToken) {
        let inner = &self.0;
        let janitor = {
            let (server, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move { server.keep_finishing(stop).await })
        };
        loop {
            let accepted = tokio::select! {
                accepted = listener.listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => match Arc::clone(&inner.connections).try_acquire_owned() {
                    Ok(permit) => {
                        let server = self.clone();
                        inner.tasks.spawn(async move {
                            server.connection(stream).await;
                            drop(permit);
                        });
                    }
                    Err(_) => refuse(&stream),
                },
                Err(error) => {
                    tracing::error!(%error, "cannot accept on the agent's socket");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        inner.tasks.close();
        if timeout(GRACE, inner.tasks.wait()).await.is_err() {
            inner.cancel.cancel();
            // What is not undone by then is in the journal, and undone at the next start.
            let _ = timeout(inner.attachments.options().undo_timeout, inner.tasks.wait()).await;
        }
        // It does not end otherwise than by `stop`.
        let _ = janitor.await;
    }

    /// Finishes removals until `stop`, also after a defect in one of them.
    async fn keep_finishing(&self, stop: CancellationToken) {
        loop {
            let round = {
                let (server, stop) = (self.clone(), stop.clone());
                tokio::spawn(async move { server.0.attachments.finish_unfinished(&stop).await })
            };
            match round.await {
                Ok(()) => return,
                Err(error) => tracing::error!(%error, "the finishing of removals failed"),
            }
            tokio::select! {
                () = sleep(self.0.attachments.options().retry.1) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn connection(&self, mut stream: UnixStream) {
        let limit = self.0.attachments.options().client_timeout;
        let request = match timeout(limit, protocol::receive_async::<Request>(&mut stream)).await {
            Ok(Ok(request)) => request,
            Ok(Err(protocol::MessageError::Io(error))) => {
                tracing::debug!(%error, "a client went away before its request was whole");
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a client sent what is not a request");
                let msg = "not a request".into();
                let error = Error { code: code::DECODE, msg, details: error.to_string() };
                self.answer(&mut stream, &Reply::<()>::Error(error)).await;
                return;
            }
            Err(_) => {
                tracing::warn!("a client did not finish its request within {limit:?}");
                return;
            }
        };
        let query = match request {
            Request::Cni(request) => {
                return self.cni(&request.command, Call::parse(&request), stream).await;
            }
            Request::Ipam(request) => {
                return self.cni(&request.command, Call::parse_ipam(&request), stream).await;
            }
            Request::Delegated { call, addresses, networks } => {
                let parsed = Call::parse_delegated(&call, &addresses, &networks);
                return self.cni(&call.command, parsed, stream).await;
            }
            Request::PodCidrs(call) => return self.pod_cidrs(&call, stream).await,
            Request::Status => Query::Status,
            Request::Endpoints => Query::Endpoints,
            Request::Routes => Query::Routes,
            Request::Policies { pod } => Query::Policies(pod),
            Request::Counters => Query::Counters,
            Request::Explain(question) => Query::Explain(question),
            Request::Drops(question) => Query::Drops(question),
        };
        let answer = self.0.attachments.backend().query(query);
        let answer = match timeout(self.0.attachments.options().deadline, answer).await {
            Ok(answer) => answer.map_err(Error::from),
            Err(_) => Err(Failure::TryAgainLater("no answer in time".into()).into()),
        };
        self.answer(&mut stream, &Reply::from(answer)).await;
    }

    /// Nothing comes of it, so that a client that goes away costs nothing.
    async fn pod_cidrs(&self, request: &CniRequest, mut stream: UnixStream) {
        let asked = async {
            let call = Call::parse(request)?;
            let found = self.0.attachments.pod_cidrs(&call).await?;
            serde_json::to_value(found)
                .map(Some)
                .map_err(|error| Failure::Internal(error.to_string()).into())
        };
        let answer = tokio::select! {
            answer = asked => answer,
            () = closed(&mut stream) => return,
        };
        self.answer(&mut stream, &CniReply::from(answer)).await;
    }

    async fn cni(&self, command: &str, call: Result<Call, Error>, mut stream: UnixStream) {
        let began = Instant::now();
        let call = match call {
            Ok(call) => call,
            Err(error) => {
                tracing::warn!(command, %error, "CNI request refused");
                self.answer(&mut stream, &CniReply::Error(error)).await;
                return;
            }
        };
        let (command, id) = (call.command, call.id.clone());
        let cancel = self.0.cancel.child_token();
        let job = {
            let (server, cancel) = (self.clone(), cancel.clone());
            // On its own, so that it ends as it should whatever becomes of this connection.
            self.0.tasks.spawn(async move { server.work(&call, &cancel).await })
        };
        tokio::pin!(job);
        let mut gone = false;
        let outcome = tokio::select! {
            outcome = &mut job => outcome,
            () = closed(&mut stream) => {
                gone = true;
                if command == Command::Add {
                    cancel.cancel();
                }
                (&mut job).await
            }
        };
        let outcome = outcome.unwrap_or_else(|error| {
            self.0.attachments.interrupted();
            Err(Failure::Internal(error.to_string()).into())
        });
        let failed = outcome.as_ref().err().cloned();
        let code = failed.as_ref().map_or(0, |error| error.code);
        let added = outcome.as_ref().ok().and_then(|served| served.added);
        let reply = CniReply::from(outcome.map(|served| served.output));
        let delivered = !gone && self.answer(&mut stream, &reply).await;
        let observation = Observation { command, id, code, took: began.elapsed() };
        log(&observation, failed.as_ref());
        self.0.attachments.backend().observe(&observation);
        if let Some(index) = added
            && !delivered
        {
            tracing::warn!(
                container = observation.id.container_id,
                "the runtime did not wait for the answer; the attachment is removed"
            );
            let server = self.clone();
            self.0.tasks.spawn(async move {
                server.0.attachments.withdraw(&observation.id, index).await;
            });
        }
    }

    async fn work(&self, call: &Call, cancel: &CancellationToken) -> Result<Served, Error> {
        // Only ADD can wait long (for its pod, for etcd), and nothing may wait behind that.
        let _permit = match call.command {
            Command::Add => Some(tokio::select! {
                permit = self.0.adding.acquire() => permit,
                () = cancel.cancelled() => {
                    return Err(Failure::TryAgainLater("given up".into()).into());
                }
            }),
            _ => None,
        };
        self.0.attachments.serve(call, cancel).await
    }

    /// Whether the client took the answer, as far as can be known.
    async fn answer<T: serde::Serialize + Sync>(
        &self,
        stream: &mut UnixStream,
        reply: &Reply<T>,
    ) -> bool {
        let limit = self.0.attachments.options().client_timeout;
        match timeout(limit, protocol::send_async(stream, reply)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a client did not take its answer");
                false
            }
            Err(_) => {
                tracing::warn!("a client did not take its answer within {limit:?}");
                false
            }
        }
    }
}

/// Resolves when the client has closed, or says more than it should.
async fn closed(stream: &mut UnixStream) {
    let _ = stream.read_u8().await;
}

/// Tells a client that there are too many, without waiting for it.
fn refuse(stream: &UnixStream) {
    let error = Failure::TryAgainLater("the agent has too many clients".into());
    if let Ok(bytes) = protocol::encode(&CniReply::Error(error.into())) {
        let _ = stream.try_write(&bytes);
    }
    tracing::warn!("too many clients of the agent's socket; one was refused");
}

fn log(observation: &Observation, error: Option<&Error>) {
    let Observation { command, id, took, .. } = observation;
    let container = id.container_id.as_str();
    let took = format_args!("{:.1}ms", took.as_secs_f64() * 1e3);
    match error {
        Some(error) => {
            tracing::warn!(%command, container, ifname = id.ifname, %took, %error, "CNI");
        }
        None if *command == Command::Status => {}
        None => tracing::info!(%command, container, ifname = id.ifname, %took, "CNI"),
    }
}
