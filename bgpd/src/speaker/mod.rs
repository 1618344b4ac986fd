//! The public face: start a speaker, tell it what to be, ask it what it knows.

mod apply;
mod collision;
mod connections;
mod core;
mod driver;
mod fib;
mod import;
mod limits;
mod neighbor;
mod receive;
mod refresh;
mod restart;
mod status;

#[cfg(test)]
mod tests;

pub use apply::{Change, Effect, Report};
pub(crate) use core::{ConnId, Core, Output, Time};
pub use fib::{FibBatch, FibDelta};
pub use status::{
    Counters, DownReason, Failure, FamilyStatus, NeighborStatus, PathStatus, Progress, RouteQuery,
    RouteStatus, SessionStatus, SpeakerStatus,
};

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};

use crate::config::{Config, ConfigError};
pub use crate::rib::{FibNextHop, FibNextHops, Reason};
pub use crate::wire::Family;

/// Starts speakers.
pub struct Speaker;

/// How a speaker ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// With a Cease to every peer (RFC 9003), which carries this text. Peers remove our routes.
    Administrative(String),
    /// Without a word: peers with graceful restart keep our routes for the restart time.
    ForRestart,
}

/// The speaker has been shut down, or its thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the speaker has been shut down")]
pub struct Stopped;

/// What the handle asks of the core.
pub(crate) enum Request {
    Apply(Box<Config>, oneshot::Sender<Result<Report, ConfigError>>),
    Status(oneshot::Sender<SpeakerStatus>),
    Neighbors(oneshot::Sender<Vec<NeighborStatus>>),
    Routes(Box<RouteQuery>, oneshot::Sender<Vec<RouteStatus>>),
    Subscribe(Arc<Notify>, oneshot::Sender<u64>),
    Unsubscribe(u64),
    Take(u64, usize, oneshot::Sender<FibBatch>),
    Acknowledge(u64, u64),
    Shutdown(Shutdown, oneshot::Sender<()>),
}

impl Speaker {
    /// Starts a speaker on a thread of its own and returns once it listens.
    ///
    /// A configuration that has [`GracefulRestart::restarting`] set should be complete: the
    /// speaker waits for all its peers to send their routes before it selects any.
    ///
    /// [`GracefulRestart::restarting`]: crate::config::GracefulRestart::restarting
    ///
    /// # Errors
    /// A configuration that makes no sense, or an address that cannot be listened on.
    pub async fn start(config: Config) -> Result<SpeakerHandle, ConfigError> {
        config.validate()?;
        let (requests, receiver) = mpsc::channel(64);
        let (started, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("bgp".into())
            .spawn(move || driver::run(config, receiver, started))
            .map_err(|_| ConfigError::Stopped)?;
        result.await.map_err(|_| ConfigError::Stopped)??;
        Ok(SpeakerHandle { requests })
    }
}

/// Talks to a speaker. Clones talk to the same one; it ends when [`Self::shutdown`] is called, or,
/// as if for a restart, when the last handle and subscription is dropped.
#[derive(Clone, Debug)]
pub struct SpeakerHandle {
    requests: mpsc::Sender<Request>,
}

impl SpeakerHandle {
    /// Makes `config` the desired state and says what that changed. Sessions go on unless what
    /// their OPEN said, or who they are with, is different; networks come and go without
    /// touching any. `graceful_restart.restarting` has a meaning only at start.
    ///
    /// # Errors
    /// If the configuration makes no sense or an address cannot be listened on; then nothing
    /// has changed.
    pub async fn apply(&self, config: Config) -> Result<Report, ConfigError> {
        config.validate()?;
        self.ask(|reply| Request::Apply(Box::new(config), reply))
            .await
            .map_err(|Stopped| ConfigError::Stopped)?
    }

    /// The speaker as a whole.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn status(&self) -> Result<SpeakerStatus, Stopped> {
        self.ask(Request::Status).await
    }

    /// All neighbors, sorted by name.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn neighbors(&self) -> Result<Vec<NeighborStatus>, Stopped> {
        self.ask(Request::Neighbors).await
    }

    /// The routes that match, sorted by prefix. An unknown neighbor has none.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteStatus>, Stopped> {
        self.ask(|reply| Request::Routes(Box::new(query), reply)).await
    }

    /// Subscribes to what the forwarding table is to hold. The subscription starts with all of
    /// it. Our own networks are not part of it.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn fib(&self) -> Result<FibSubscription, Stopped> {
        let wake = Arc::new(Notify::new());
        let id = self.ask(|reply| Request::Subscribe(wake.clone(), reply)).await?;
        Ok(FibSubscription { id, wake, handle: self.clone() })
    }

    /// Ends the speaker, and returns once the last word to the peers is sent.
    pub async fn shutdown(&self, how: Shutdown) {
        // Nobody there any more is what is wanted.
        let _stopped = self.ask(|reply| Request::Shutdown(how, reply)).await;
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// One consumer of forwarding changes. Dropping it ends the subscription.
///
/// ```text
///   loop { changed().await;  loop { take(n).await  ->  write to the kernel  ->  ack }  until !more }
/// ```
#[derive(Debug)]
pub struct FibSubscription {
    id: u64,
    wake: Arc<Notify>,
    handle: SpeakerHandle,
}

impl FibSubscription {
    /// Waits until there is something to take: changes, or the end of the initial convergence.
    /// Safe to cancel. May return without anything to take.
    pub async fn changed(&self) {
        tokio::select! {
            () = self.wake.notified() => {}
            () = self.handle.requests.closed() => {}
        }
    }

    /// Takes up to `max` changes, oldest first. A prefix that changes again after this waits
    /// anew, with what holds then.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn take(&self, max: usize) -> Result<FibBatch, Stopped> {
        self.handle.ask(|reply| Request::Take(self.id, max, reply)).await
    }

    /// Says that all batches up to `sequence` have been carried out.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn ack(&self, sequence: u64) -> Result<(), Stopped> {
        let request = Request::Acknowledge(self.id, sequence);
        self.handle.requests.send(request).await.map_err(|_| Stopped)
    }
}

impl Drop for FibSubscription {
    fn drop(&mut self) {
        let request = Request::Unsubscribe(self.id);
        if let Err(mpsc::error::TrySendError::Full(request)) =
            self.handle.requests.try_send(request)
        {
            let requests = self.handle.requests.clone();
            // With no runtime left there is no speaker left to tell, either.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { requests.send(request).await });
            }
        }
    }
}
