//! etcd, version 3.3 or later.
//!
//! Requests go to one endpoint until it fails, then to the next. A request that certainly never
//! left (connection refused) is sent again at once; any other failure is the caller's to resolve,
//! because the transaction may have been done.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, CompareOp, ConnectOptions, Error, GetOptions, GetResponse, KeyValue, KvClient,
    ResponseHeader, TxnOp, TxnOpResponse, TxnResponse,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{
    Entry, Event, Keys, MAX_TXN_OPS, Outcome, Position, Revision, Snapshot, Store, StoreError, Txn,
    Write, check_txn,
};

mod config;
mod watch;
mod witness;

use config::Credentials;
pub use config::EtcdConfig;
use witness::Witness;

/// The largest answer taken, in bytes. Calico's largest block is under 2 MiB.
const MAX_MESSAGE: usize = 64 << 20;
/// Entries asked for at once.
const PAGE: i64 = 500;
/// etcd ends connections that ping more often than every 5 s (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));

/// etcd as a store. Clones share their connections.
#[derive(Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    endpoints: Vec<Endpoint>,
    current: AtomicUsize,
    options: ConnectOptions,
    credentials: Option<Credentials>,
    request_timeout: Duration,
    witness: Witness,
}

struct Endpoint {
    url: String,
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    /// Made by the first request, and anew when it broke or etcd no longer knows who we are.
    client: Option<Client>,
    /// How many there were, so that of all whose requests one connection fails, one replaces it.
    count: u64,
}

impl EtcdStore {
    /// Prepares access; connects with the first request. Reads the certificate files.
    ///
    /// # Errors
    /// No endpoint, https without an authority, or a certificate file that cannot be read.
    pub fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        let name = config.name();
        let rejected = |reason: String| StoreError::Rejected { store: name.clone(), reason };
        if config.endpoints.is_empty() {
            return Err(rejected("no endpoint is configured".to_owned()));
        }
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.request_timeout)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if config.endpoints.iter().any(|url| url.starts_with("https://")) {
            options = options.with_tls(config::tls(config).map_err(rejected)?);
        } else if config.cert_file.is_some() {
            let reason = "a client certificate needs endpoints that begin with https://";
            return Err(rejected(reason.to_owned()));
        }
        let credentials = Credentials::of(config).map_err(rejected)?;
        if let Some(credentials) = &credentials {
            // Only to say early what is wrong: each connection reads it again.
            credentials.read().map_err(|error| rejected(error.to_string()))?;
        }
        let endpoints = config
            .endpoints
            .iter()
            .map(|url| Endpoint { url: url.clone(), connection: Mutex::default() })
            .collect();
        let request_timeout = config.request_timeout;
        let current = AtomicUsize::new(0);
        let witness = Witness::default();
        let shared =
            Shared { name, endpoints, current, options, credentials, request_timeout, witness };
        Ok(Self { shared: Arc::new(shared) })
    }
}

/// What a failure says about the request.
enum Failure {
    /// It never left: no connection could be made.
    Unsent(StoreError),
    /// The connection ended, perhaps long before. `sent`: the request may have been done.
    Broken { sent: bool, error: StoreError },
    /// It may have been done.
    Unknown(StoreError),
    /// It was refused.
    Refused(StoreError),
    /// It was refused because etcd does not know who we are.
    Unauthenticated(StoreError),
}

impl Failure {
    fn into_error(self) -> StoreError {
        match self {
            Self::Unsent(error)
            | Self::Broken { error, .. }
            | Self::Unknown(error)
            | Self::Refused(error)
            | Self::Unauthenticated(error) => error,
        }
    }
}

impl Shared {
    /// The connection's client, and which connection it is.
    async fn client(&self, index: usize) -> Result<(u64, Client), Error> {
        let endpoint = &self.endpoints[index];
        let mut connection = endpoint.connection.lock().await;
        if let Some(client) = &connection.client {
            return Ok((connection.count, client.clone()));
        }
        let mut options = self.options.clone();
        if let Some(credentials) = &self.credentials {
            let (user, password) = credentials.read().map_err(Error::IoError)?;
            options = options.with_user(user, password);
        }
        let client = Client::connect([&endpoint.url], Some(options)).await?;
        connection.count += 1;
        connection.client = Some(client.clone());
        Ok((connection.count, client))
    }

    /// The next request connects anew, with the password as it is then.
    async fn disconnect(&self, index: usize, count: u64) {
        let mut connection = self.endpoints[index].connection.lock().await;
        if connection.count == count {
            connection.client = None;
        }
    }

    /// One attempt at one endpoint.
    async fn attempt<T, F: Future<Output = Result<T, Error>>>(
        &self,
        index: usize,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, Failure> {
        let mut used = None;
        let work = async {
            let (count, client) = self.client(index).await?;
            used = Some(count);
            request(client).await
        };
        match timeout(self.request_timeout, work).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let failure = self.classify(index, &error);
                let useless =
                    matches!(failure, Failure::Broken { .. } | Failure::Unauthenticated(_));
                if let Some(count) = used.filter(|_| useless) {
                    self.disconnect(index, count).await;
                }
                Err(failure)
            }
            Err(_) => {
                let reason = format!(
                    "{}: no answer within {:?}",
                    self.endpoints[index].url, self.request_timeout
                );
                Err(Failure::Unknown(StoreError::Unavailable { store: self.name.clone(), reason }))
            }
        }
    }

    /// Sends a request until an endpoint takes it. `again`: it may be repeated even if it was
    /// perhaps done. The first that meets a connection broken since the last request makes a new one.
    async fn call<T, F: Future<Output = Result<T, Error>>>(
        &self,
        again: bool,
        request: impl Fn(Client) -> F,
    ) -> Result<T, StoreError> {
        let mut left = self.endpoints.len();
        let mut may_reread = self.credentials.as_ref().is_some_and(Credentials::may_change);
        let mut may_reconnect = true;
        loop {
            left -= 1;
            let index = self.current.load(Ordering::Relaxed) % self.endpoints.len();
            let failure = match self.attempt(index, &request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match failure {
                Failure::Refused(_) => {}
                Failure::Unauthenticated(_) => {
                    if std::mem::take(&mut may_reread) {
                        left += 1;
                        continue;
                    }
                }
                Failure::Broken { .. } if std::mem::take(&mut may_reconnect) => left += 1,
                Failure::Unsent(_) | Failure::Broken { .. } | Failure::Unknown(_) => {
                    self.next_after(index);
                }
            }
            let repeat = match failure {
                Failure::Unsent(_) => true,
                Failure::Broken { sent, .. } => again || !sent,
                Failure::Unknown(_) => again,
                Failure::Refused(_) | Failure::Unauthenticated(_) => false,
            };
            if !repeat || left == 0 {
                return Err(failure.into_error());
            }
        }
    }

    async fn txn(&self, again: bool, txn: etcd_client::Txn) -> Result<TxnResponse, StoreError> {
        let before = self.witness.seen();
        let request = move |client: Client| {
            let (mut kv, txn) = (kv(&client), txn.clone());
            async move { kv.txn(txn).await }
        };
        let answer = self.call(again, request).await?;
        self.witness.compare(&self.name, before, answer.header())?;
        Ok(answer)
    }

    /// What these keys hold, all at one revision, and that revision.
    async fn gets(&self, keys: &[String]) -> Result<(Vec<Option<Entry>>, Revision), StoreError> {
        let gets: Vec<_> = keys.iter().map(|key| TxnOp::get(key.as_str(), None)).collect();
        let answer = self.txn(true, etcd_client::Txn::new().and_then(gets)).await?;
        let revision = answer.header().map_or(0, ResponseHeader::revision);
        Ok((found(&answer.op_responses()), revision))
    }

    async fn get(&self, key: &[u8], options: GetOptions) -> Result<GetResponse, StoreError> {
        let before = self.witness.seen();
        let key = key.to_vec();
        let request = move |client: Client| {
            let (mut kv, key, options) = (kv(&client), key.clone(), options.clone());
            async move { kv.get(key, Some(options)).await }
        };
        let answer = self.call(true, request).await?;
        self.witness.compare(&self.name, before, answer.header())?;
        Ok(answer)
    }

    fn next_after(&self, index: usize) {
        let next = (index + 1) % self.endpoints.len();
        // Someone else may have moved on already.
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn classify(&self, index: usize, error: &Error) -> Failure {
        let store = self.name.clone();
        let (code, text) = match error {
            Error::GRpcStatus(status) => {
                (Some(i32::from(status.code())), status.message().to_owned())
            }
            other => (None, other.to_string()),
        };
        let cause = Cause::of(error);
        let text = match cause.root {
            Some(root) if !text.contains(&root) => format!("{text}: {root}"),
            _ => text,
        };
        let reason = format!("{}: {text}", self.endpoints[index].url);
        match code {
            // etcd calls a wrong password an invalid argument.
            Some(3) if reason.contains("authentication failed") => {
                Failure::Unauthenticated(StoreError::Rejected { store, reason })
            }
            Some(16) => Failure::Unauthenticated(StoreError::Rejected { store, reason }),
            // gRPC: invalid argument, not found, already exists, permission denied, resource
            // exhausted, failed precondition, out of range, unimplemented.
            Some(3 | 5..=9 | 11 | 12) => Failure::Refused(StoreError::Rejected { store, reason }),
            _ if cause.unconnected => Failure::Unsent(StoreError::Unavailable { store, reason }),
            _ if cause.broken => {
                let error = StoreError::Unavailable { store, reason };
                Failure::Broken { sent: !cause.unsent, error }
            }
            _ => Failure::Unknown(StoreError::Unavailable { store, reason }),
        }
    }

    fn list_options(end: &[u8], at: Revision) -> GetOptions {
        GetOptions::new().with_range(end).with_limit(PAGE).with_revision(at)
    }
}

/// What lies under a failed request.
#[derive(Default)]
struct Cause {
    /// No connection could be made.
    unconnected: bool,
    /// There was one, and it ended.
    broken: bool,
    /// It ended before the request was given to it.
    unsent: bool,
    /// The innermost error's text.
    root: Option<String>,
}

impl Cause {
    fn of(error: &Error) -> Self {
        let mut source = match error {
            Error::GRpcStatus(status) => status.source(),
            Error::TransportError(transport) => transport.source(),
            _ => None,
        };
        let mut found = Self::default();
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                match io.kind() {
                    io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable => found.unconnected = true,
                    io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof => found.broken = true,
                    _ => {}
                }
            }
            if let Some(http) = cause.downcast_ref::<hyper::Error>() {
                // Cancelled is what still waited for the connection when that ended.
                found.unsent |= http.is_canceled();
                found.broken |= http.is_canceled() || http.is_closed();
            }
            found.root = Some(cause.to_string());
            source = cause.source();
        }
        found
    }
}

fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MAX_MESSAGE)
}

fn entry(kv: &KeyValue) -> Entry {
    Entry {
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: Arc::from(kv.value()),
        mod_revision: kv.mod_revision(),
    }
}

/// The first key after all that begin with `prefix`; `\0` is etcd's "to the end".
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

impl Store for EtcdStore {
    fn name(&self) -> String {
        self.shared.name.clone()
    }

    fn setbacks(&self) -> u64 {
        self.shared.witness.seen().setbacks
    }

    fn position(&self) -> Option<Position> {
        self.shared.witness.position()
    }

    fn expect(&self, position: Position) {
        self.shared.witness.expect(position);
    }

    fn read<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        async move {
            if keys.len() > MAX_TXN_OPS {
                let reason = format!("{} keys in one read", keys.len());
                return Err(StoreError::Rejected { store: self.name(), reason });
            }
            let (found, revision) = self.shared.gets(keys).await?;
            Ok(Snapshot { entries: found.into_iter().flatten().collect(), revision })
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        async move {
            let end = end_of(prefix);
            let mut from = prefix.as_bytes().to_vec();
            let mut entries = Vec::new();
            let mut revision = at.unwrap_or(0);
            loop {
                let options = Shared::list_options(&end, revision);
                let page = self.shared.get(&from, options).await.map_err(|error| match error {
                    StoreError::Rejected { store, reason } if reason.contains("compacted") => {
                        StoreError::Compacted { store, revision }
                    }
                    error => error,
                })?;
                if revision == 0 {
                    revision = page.header().map_or(0, ResponseHeader::revision);
                }
                entries.extend(page.kvs().iter().map(entry));
                match page.kvs().last() {
                    Some(last) if page.more() => {
                        from = last.key().to_vec();
                        from.push(0);
                    }
                    _ => return Ok(Snapshot { entries, revision }),
                }
            }
        }
        .boxed()
    }

    fn list_keys<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Keys, StoreError>> {
        async move {
            let options = GetOptions::new().with_range(end_of(prefix)).with_keys_only();
            let answer = self.shared.get(prefix.as_bytes(), options).await?;
            let key = |kv: &KeyValue| String::from_utf8_lossy(kv.key()).into_owned();
            let revision = answer.header().map_or(0, ResponseHeader::revision);
            Ok(Keys { keys: answer.kvs().iter().map(key).collect(), revision })
        }
        .boxed()
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        async move {
            check_txn(&self.shared.name, &txn)?;
            let answer = self.shared.txn(false, translate(&txn)).await?;
            if answer.succeeded() {
                let revision = answer.header().map_or(0, ResponseHeader::revision);
                return Ok(Outcome::Committed(revision));
            }
            // What is there is asked when it is needed: as the other branch of each transaction it
            // would be written to every member's log with it.
            let keys: Vec<String> = txn.compares.into_iter().map(|compare| compare.key).collect();
            Ok(Outcome::Conflict(self.shared.gets(&keys).await?.0))
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, after: Option<Revision>) -> BoxStream<'static, Event> {
        watch::Watch::new(self.clone(), prefix, after).into_stream()
    }
}

fn translate(txn: &Txn) -> etcd_client::Txn {
    let compares = txn.compares.iter().map(|compare| {
        let key = compare.key.as_str();
        etcd_client::Compare::mod_revision(key, CompareOp::Equal, compare.mod_revision)
    });
    // Holds for every key of the range, and for a range without keys.
    let none_created = txn.none_created.iter().map(|guard| {
        let prefix = guard.prefix.as_str();
        etcd_client::Compare::create_revision(prefix, CompareOp::Less, guard.since + 1)
            .with_range(end_of(prefix))
    });
    let compares: Vec<_> = compares.chain(none_created).collect();
    let writes: Vec<_> = txn
        .writes
        .iter()
        .map(|write| match write {
            Write::Put(key, value) => TxnOp::put(key.as_str(), value.as_slice(), None),
            Write::Delete(key) => TxnOp::delete(key.as_str(), None),
        })
        .collect();
    etcd_client::Txn::new().when(compares).and_then(writes)
}

fn found(answers: &[TxnOpResponse]) -> Vec<Option<Entry>> {
    let gets = answers.iter().filter_map(|answer| match answer {
        TxnOpResponse::Get(get) => Some(get.kvs().first().map(entry)),
        _ => None,
    });
    gets.collect()
}
