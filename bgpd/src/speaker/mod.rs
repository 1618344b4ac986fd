//! The public face: start a speaker, tell it what to be, ask it what it knows.

mod apply;
mod arrival;
mod bfd;
mod clear;
mod collision;
mod connections;
mod core;
mod differences;
mod driver;
mod dump;
mod dynamic;
mod fib;
mod history;
mod import;
mod installed;
mod limits;
mod long_lived;
mod monitor;
mod neighbor;
mod networks;
mod queues;
mod receive;
mod record;
mod refresh;
mod restart;
mod station;
mod status;
mod timers;
mod unnumbered;
mod updates;
mod watch;

#[cfg(test)]
mod tests;

pub use apply::{Change, Effect, Report};
pub use clear::{Clear, Cleared};
pub(crate) use core::{ConnId, Core, Output, Time};
use dump::Dump;
pub use dynamic::ListenRangeStatus;
pub use fib::{FibBatch, FibDelta};
pub use record::replay::{Difference, Replay, Stop, Unreadable, Until};
pub use record::{Ending, Recording};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use record::{Journal, Recorded};
use status::Cursor;
pub(crate) use status::seconds;
pub use status::{
    AdvertisedPath, Advertisement, Counters, DownReason, Explanation, Failure, FamilyStatus,
    GroupStatus, MemoryStatus, MessageStatus, NeighborDetail, NeighborStatus, NotificationCount,
    OpenStatus, PathAttributes, PathExplanation, PathName, PathStatus, PrefixMatch, Progress,
    RouteQuery, RouteStatus, SessionStatus, SpeakerStatus, Step, WithheldPath, Work,
};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::config::{Config, ConfigError};
pub use crate::export::{Waits, Withheld};
pub use crate::rib::{FibNextHop, FibNextHops, Reason, Resolution};
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

/// Part of the answer to a query, and where it goes on.
type RouteSlice = (Vec<RouteStatus>, Option<Cursor>);

/// Records of a dump, and where it goes on.
type DumpSlice = (Vec<u8>, Option<Box<Dump>>);

/// What the handle asks of the core.
pub(crate) enum Request {
    Ask(Question),
    Apply(Box<Config>, oneshot::Sender<Result<Report, ConfigError>>),
    Clear(Option<String>, Clear, oneshot::Sender<Vec<Cleared>>),
    NextHops(BTreeMap<IpAddr, Resolution>, oneshot::Sender<usize>),
    Subscribe(Arc<Notify>, oneshot::Sender<u64>),
    Unsubscribe(u64),
    Take(u64, usize, oneshot::Sender<FibBatch>),
    Acknowledge(u64, u64),
    Shutdown(Shutdown, oneshot::Sender<()>),
}

/// What changes nothing.
pub(crate) enum Question {
    Status(oneshot::Sender<SpeakerStatus>),
    Neighbors(oneshot::Sender<Vec<NeighborStatus>>),
    Neighbor(String, oneshot::Sender<Option<Box<NeighborDetail>>>),
    Routes(Arc<RouteQuery>, Cursor, oneshot::Sender<RouteSlice>),
    Explain(IpNet, bool, oneshot::Sender<Option<Explanation>>),
    Dump(Box<Dump>, oneshot::Sender<DumpSlice>),
    Config(oneshot::Sender<Box<Config>>),
    Groups(oneshot::Sender<Vec<GroupStatus>>),
    Memory(oneshot::Sender<MemoryStatus>),
}

impl From<Question> for Request {
    fn from(question: Question) -> Self {
        Self::Ask(question)
    }
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
        Self::start_with(config, None).await
    }

    /// As [`Self::start`], and records the run from its beginning on, so that it can be replayed:
    /// see [`Replay`]. Keys of TCP-MD5 and TCP-AO do not get into the file; all else that peers say
    /// does. Recording never delays the speaker: where the file cannot keep up, or has reached its
    /// limit, it ends, with a warning in the log and a mark in the file.
    ///
    /// # Errors
    /// As [`Self::start`]; and a file that cannot be made.
    pub async fn start_recorded(
        config: Config,
        recording: Recording,
    ) -> Result<SpeakerHandle, ConfigError> {
        Self::start_with(config, Some(recording)).await
    }

    async fn start_with(
        config: Config,
        recording: Option<Recording>,
    ) -> Result<SpeakerHandle, ConfigError> {
        config.validate()?;
        let (requests, receiver) = mpsc::channel(64);
        let (started, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("bgp".into())
            .spawn(move || driver::run(config, recording, receiver, started))
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
        self.ask(Question::Status).await
    }

    /// All neighbors, sorted by name.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn neighbors(&self) -> Result<Vec<NeighborStatus>, Stopped> {
        self.ask(Question::Neighbors).await
    }

    /// One neighbor with what was said last; None if there is none of this name.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn neighbor(&self, name: &str) -> Result<Option<Box<NeighborDetail>>, Stopped> {
        self.ask(|reply| Question::Neighbor(name.to_owned(), reply)).await
    }

    /// The routes that match, sorted by prefix, as they were during the time this takes. An
    /// unknown neighbor has none. All of them are in memory at once: see [`Self::route_stream`].
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteStatus>, Stopped> {
        let mut stream = self.route_stream(query);
        let mut all = Vec::new();
        while let Some(slice) = stream.next().await? {
            all.extend(slice);
        }
        all.sort_by_key(|route| route.prefix);
        Ok(all)
    }

    /// The routes that match, some hundred at a time and in no useful order. The speaker does other
    /// work in between: a route that is there all the time is in exactly one slice, one that comes
    /// or goes meanwhile may be in one or not.
    pub fn route_stream(&self, query: RouteQuery) -> RouteStream {
        let next = Some(Cursor::default());
        RouteStream { handle: self.clone(), query: Arc::new(query), next }
    }

    /// Why the paths to a prefix are used or are not; None if there is no such route.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn explain(&self, prefix: IpNet) -> Result<Option<Explanation>, Stopped> {
        self.ask(|reply| Question::Explain(prefix, true, reply)).await
    }

    /// As [`Self::explain`], of the most specific prefix that holds an address.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn explain_address(&self, address: IpAddr) -> Result<Option<Explanation>, Stopped> {
        self.ask(|reply| Question::Explain(address.into(), false, reply)).await
    }

    /// The table as received from the neighbors, in MRT TABLE_DUMP_V2 records (RFC 6396), some ten
    /// kilobytes at a time. As with [`Self::route_stream`], other work goes on in between.
    pub fn mrt_dump(&self) -> DumpStream {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = u32::try_from(wall.as_secs()).unwrap_or(u32::MAX);
        DumpStream { handle: self.clone(), next: Some(Box::new(Dump::new(wall))) }
    }

    /// The configuration as it is applied. Passwords show only that there is one.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn config(&self) -> Result<Box<Config>, Stopped> {
        self.ask(Question::Config).await
    }

    /// The update groups.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn groups(&self) -> Result<Vec<GroupStatus>, Stopped> {
        self.ask(Question::Groups).await
    }

    /// What the speaker's memory is used for. Looks at every attribute set.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn memory(&self) -> Result<MemoryStatus, Stopped> {
        self.ask(Question::Memory).await
    }

    /// Has the session of a neighbor begin anew, or routes sent again; None: of all neighbors. Says
    /// of each, sorted by name, what became of it: nothing of a name that is not known.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn clear(&self, name: Option<&str>, how: Clear) -> Result<Vec<Cleared>, Stopped> {
        self.ask(|reply| Request::Clear(name.map(str::to_owned), how, reply)).await
    }

    /// Says what is known of the ways to next hops (RFC 4271 section 9.1.2.1), in place of what was
    /// said before: routes by way of an unreachable one are not used, and among otherwise equal ones
    /// those of the lowest cost go first. Of a next hop that is not named, a way of cost 0 is
    /// assumed; our own networks have none. Returns how many prefixes are decided anew for it.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn set_next_hops(
        &self,
        known: BTreeMap<IpAddr, Resolution>,
    ) -> Result<usize, Stopped> {
        self.ask(|reply| Request::NextHops(known, reply)).await
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

    async fn ask<T, R: Into<Request>>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> R,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply).into()).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// The answer to a [`RouteQuery`], slice by slice.
#[derive(Debug)]
pub struct RouteStream {
    handle: SpeakerHandle,
    query: Arc<RouteQuery>,
    next: Option<Cursor>,
}

impl RouteStream {
    /// The next slice, which may be empty; None at the end.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn next(&mut self) -> Result<Option<Vec<RouteStatus>>, Stopped> {
        let Some(cursor) = self.next else { return Ok(None) };
        let query = self.query.clone();
        let request = |reply| Question::Routes(query, cursor, reply);
        let (routes, next) = self.handle.ask(request).await?;
        self.next = next;
        Ok(Some(routes))
    }
}

/// A table as MRT records, part by part.
#[derive(Debug)]
pub struct DumpStream {
    handle: SpeakerHandle,
    next: Option<Box<Dump>>,
}

impl DumpStream {
    /// The next whole records, maybe none; None at the end.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Stopped> {
        let Some(dump) = self.next.take() else { return Ok(None) };
        let (records, next) = self.handle.ask(|reply| Question::Dump(dump, reply)).await?;
        self.next = next;
        Ok(Some(records))
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
