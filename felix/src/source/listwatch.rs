//! List, then watch (the Kubernetes API concepts, "Efficient detection of changes"): one kind's
//! objects as a sequence of events that never leaves a gap unsaid.
//!
//! Over `kube::runtime::watcher` this knows when a watch is established, puts a deadline to every
//! request, starts over when a watch is refused as too old, and falls back from streaming lists
//! where the API server's etcd cannot do them. Objects are taken as JSON: what one of them holds
//! cannot spoil a whole list, and there is one such machine for all kinds.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, Status, WatchEvent};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};

/// Objects asked for at a time.
const PAGE: u32 = 500;
/// Beyond the time after which the server itself ends a watch: then the connection is dead.
const IDLE_MARGIN: Duration = Duration::from_secs(5);
/// A watch that ends sooner than this without an event is a failure, not its timeout.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);
/// Marks the end of a streaming list, on a bookmark.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What to read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// A field selector.
    pub(crate) fields: Option<String>,
    /// Initial lists as a watch.
    pub(crate) streaming: bool,
    /// Seconds after which the server ends each watch, and a new one is made.
    pub(crate) watch_seconds: u32,
    /// When a request that is not answered has failed.
    pub(crate) deadlines: Deadlines,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// A page of a list, from the request to its last byte.
    pub(crate) list: Duration,
    /// A watch, from the request to the head of its answer.
    pub(crate) open: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { list: Duration::from_secs(30), open: Duration::from_secs(15) }
    }
}

#[derive(Debug)]
pub(crate) enum Event {
    /// A list begins: what follows until `Complete` is all there is.
    Listing,
    /// An object of the list.
    Listed(Value),
    /// The list is complete.
    Complete,
    /// A watch is established: what changes from here on arrives at once.
    Watching,
    /// The object was created or changed.
    Applied(Value),
    /// The object was deleted.
    Deleted(Value),
}

/// Why a request failed. [`ListWatch::next`] may be called again, after a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The API server does not know the kind.
    NotServed,
    /// The agent may not read the kind.
    Forbidden(String),
    /// What the watch would go on from is too far back; the next call lists anew.
    Expired,
    /// Anything else.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotServed => {
                f.write_str("the API server does not serve this kind (is its CRD installed?)")
            }
            Self::Forbidden(message) => write!(f, "forbidden: {message}"),
            Self::Expired => f.write_str("the watch is too far behind; listing anew"),
            Self::Other(message) => f.write_str(message),
        }
    }
}

pub(crate) struct ListWatch {
    client: Client,
    request: Request,
    options: Options,
    state: State,
}

type WatchStream = BoxStream<'static, kube::Result<WatchEvent<Value>>>;

/// A page of a list.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    token: Option<String>,
}

enum State {
    /// Nothing is known.
    Start,
    /// Within a list.
    List { token: Option<String>, page: std::vec::IntoIter<Value>, version: Option<String> },
    /// Within a streaming list.
    Stream { stream: WatchStream },
    /// All is known up to this version.
    Listed { version: String },
    /// And what comes after it arrives here.
    Watch { version: String, stream: WatchStream, since: Instant, quiet: bool },
}

impl ListWatch {
    /// `path`: the resource's, such as `/api/v1/pods`.
    pub(crate) fn new(client: Client, path: &str, options: Options) -> Self {
        Self { client, request: Request::new(path), options, state: State::Start }
    }

    /// The next event. Not cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            // A failure below leaves `Start` unless it says otherwise: listing anew is always right.
            let event = match std::mem::replace(&mut self.state, State::Start) {
                State::Start if self.options.streaming => self.start_stream().await?,
                State::Start => {
                    self.state =
                        State::List { token: None, page: Vec::new().into_iter(), version: None };
                    Some(Event::Listing)
                }
                State::List { token, page, version } => self.list(token, page, version).await?,
                State::Stream { stream } => self.stream(stream).await?,
                State::Listed { version } => self.open(version).await?,
                State::Watch { version, stream, since, quiet } => {
                    self.watch(version, stream, since, quiet).await?
                }
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    async fn list(
        &mut self,
        token: Option<String>,
        mut page: std::vec::IntoIter<Value>,
        version: Option<String>,
    ) -> Result<Option<Event>, Failure> {
        if let Some(object) = page.next() {
            self.state = State::List { token, page, version };
            return Ok(Some(Event::Listed(object)));
        }
        if token.is_none()
            && let Some(version) = version
        {
            self.state = State::Listed { version };
            return Ok(Some(Event::Complete));
        }
        let parameters = ListParams {
            field_selector: self.options.fields.clone(),
            limit: Some(PAGE),
            continue_token: token,
            ..ListParams::default()
        };
        let request = self.request.list(&parameters).map_err(kube::Error::BuildRequest);
        let list = async { self.client.request::<Page>(request?).await };
        let Page { metadata, items } = within(self.options.deadlines.list, "list", list).await?;
        let filled = |text: &String| !text.is_empty();
        let token = metadata.token.filter(filled);
        let version = metadata.resource_version.filter(filled);
        if version.is_none() && token.is_none() {
            return Err(Failure::Other("list without a resourceVersion".into()));
        }
        self.state = State::List { token, page: items.unwrap_or_default().into_iter(), version };
        Ok(None)
    }

    async fn start_stream(&mut self) -> Result<Option<Event>, Failure> {
        let parameters = WatchParams { send_initial_events: true, ..self.watch_parameters() };
        match within(
            self.options.deadlines.open,
            "streaming list",
            self.request_watch(&parameters, "0"),
        )
        .await
        {
            Ok(stream) => {
                self.state = State::Stream { stream };
                Ok(Some(Event::Listing))
            }
            Err(Refused::Api(status)) if cannot_stream(&status) => Ok(self.stop_streaming(&status)),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn stream(&mut self, mut stream: WatchStream) -> Result<Option<Event>, Failure> {
        match timeout(self.idle_deadline(), stream.next()).await {
            Err(_) | Ok(None) => {
                Err(Failure::Other("streaming list ended before it was complete".into()))
            }
            Ok(Some(Err(error))) => Err(Refused::from(error).into()),
            Ok(Some(Ok(event))) => match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.state = State::Stream { stream };
                    Ok(Some(Event::Listed(object)))
                }
                WatchEvent::Deleted(_) => {
                    Err(Failure::Other("deletion within a streaming list".into()))
                }
                WatchEvent::Bookmark(mark)
                    if mark.metadata.annotations.contains_key(INITIAL_EVENTS_END) =>
                {
                    let version = mark.metadata.resource_version;
                    // The same stream goes on as the watch, which is to be said next.
                    self.state =
                        State::Watch { version, stream, since: Instant::now(), quiet: true };
                    Ok(Some(Event::Complete))
                }
                WatchEvent::Bookmark(_) => {
                    self.state = State::Stream { stream };
                    Ok(None)
                }
                WatchEvent::Error(status) if cannot_stream(&status) => {
                    Ok(self.stop_streaming(&status))
                }
                WatchEvent::Error(status) => Err(Refused::Api(status).into()),
            },
        }
    }

    fn stop_streaming(&mut self, status: &Status) -> Option<Event> {
        tracing::info!(
            reason = status.message,
            "the API server cannot stream lists; using ordinary ones"
        );
        self.options.streaming = false;
        self.state = State::Start;
        None
    }

    async fn open(&mut self, version: String) -> Result<Option<Event>, Failure> {
        let parameters = self.watch_parameters();
        match within(
            self.options.deadlines.open,
            "watch",
            self.request_watch(&parameters, &version),
        )
        .await
        {
            Ok(stream) => {
                self.state = State::Watch { version, stream, since: Instant::now(), quiet: true };
                Ok(Some(Event::Watching))
            }
            Err(refused) => {
                let failure = Failure::from(refused);
                // Without the kind there is nothing to go on from, nor is there when it is too old.
                if !matches!(failure, Failure::Expired | Failure::NotServed) {
                    self.state = State::Listed { version };
                }
                Err(failure)
            }
        }
    }

    async fn watch(
        &mut self,
        version: String,
        mut stream: WatchStream,
        since: Instant,
        quiet: bool,
    ) -> Result<Option<Event>, Failure> {
        let event = match timeout(self.idle_deadline(), stream.next()).await {
            // A connection that died without a word, or the end that the server sets each watch.
            Err(_) | Ok(None) => {
                self.state = State::Listed { version };
                if quiet && since.elapsed() < SHORTEST_WATCH {
                    return Err(Failure::Other("watch ended at once".into()));
                }
                return Ok(None);
            }
            Ok(Some(Err(error))) => {
                self.state = State::Listed { version };
                return Err(Refused::from(error).into());
            }
            Ok(Some(Ok(event))) => event,
        };
        let event = match event {
            WatchEvent::Bookmark(mark) => {
                let version = mark.metadata.resource_version;
                self.state = State::Watch { version, stream, since, quiet: false };
                return Ok(None);
            }
            WatchEvent::Error(status) => {
                let failure = Failure::from(Refused::Api(status));
                if failure != Failure::Expired {
                    self.state = State::Listed { version };
                }
                return Err(failure);
            }
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Event::Applied(object),
            WatchEvent::Deleted(object) => Event::Deleted(object),
        };
        let (Event::Applied(object) | Event::Deleted(object)) = &event else {
            return Ok(Some(event));
        };
        let version =
            object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        if version.is_empty() {
            return Err(Failure::Other("event without a resourceVersion".into()));
        }
        self.state = State::Watch { version: version.to_owned(), stream, since, quiet: false };
        Ok(Some(event))
    }

    async fn request_watch(
        &mut self,
        parameters: &WatchParams,
        version: &str,
    ) -> kube::Result<WatchStream> {
        let request = self.request.watch(parameters, version).map_err(kube::Error::BuildRequest)?;
        Ok(self.client.request_events::<Value>(request).await?.boxed())
    }

    fn watch_parameters(&self) -> WatchParams {
        WatchParams {
            field_selector: self.options.fields.clone(),
            timeout: Some(self.options.watch_seconds),
            bookmarks: true,
            ..WatchParams::default()
        }
    }

    fn idle_deadline(&self) -> Duration {
        Duration::from_secs(self.options.watch_seconds.into()) + IDLE_MARGIN
    }
}

/// How a request ended that was not served.
enum Refused {
    Api(Box<Status>),
    Failed(String),
}

impl From<kube::Error> for Refused {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Api(status),
            // The causes say more than their wrappers; each is said once.
            error => {
                let mut text = error.to_string();
                let mut cause = error.source();
                while let Some(inner) = cause {
                    let inner_text = inner.to_string();
                    if !text.contains(&inner_text) {
                        text.push_str(": ");
                        text.push_str(&inner_text);
                    }
                    cause = inner.source();
                }
                Self::Failed(text)
            }
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Api(status) => match status.code {
                404 => Self::NotServed,
                410 => Self::Expired,
                403 => Self::Forbidden(status.message),
                code => Self::Other(format!("HTTP {code} {}: {}", status.reason, status.message)),
            },
            Refused::Failed(text) => Self::Other(text),
        }
    }
}

async fn within<T>(
    deadline: Duration,
    what: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Refused> {
    match timeout(deadline, request).await {
        Ok(result) => result.map_err(Refused::from),
        Err(_) => Err(Refused::Failed(format!("{what}: no answer within {deadline:?}"))),
    }
}

/// The API server refuses streaming lists as such: they are switched off, or its etcd lacks
/// progress notifications on request (before 3.4.31 and 3.5.13).
fn cannot_stream(status: &Status) -> bool {
    matches!(status.code, 400 | 422) || status.message.contains("RequestWatchProgress")
}
