//! The endpoints of this node on disk, so that a restarted agent needs neither the API server
//! nor etcd to keep them alive, and finds what an interrupted request has to have undone.
//!
//! One append-only file, `endpoints.log` (see [`Record`] and the `format` module), rather than a
//! file for each endpoint: the records of all requests in flight go to it together, in one write
//! into space that was written in advance. When the space is used up, the endpoints that are left
//! are written to a new file, which then takes the old one's place. That is also the answer to any
//! failure to write: what is on disk is then uncertain, and is replaced as a whole by what is in
//! memory, as soon as it can be.
//!
//! A request waits for its record to be written, not for the disk to have it: what is written
//! outlives the agent, and no endpoint outlives the machine's power. After a boot there is nothing
//! left to keep alive, and the addresses that nobody holds any more are found by what the store
//! has of this node. So the disk is waited for afterwards, once for all of a second: to learn of
//! one that fails.
//!
//! Bytes that are no record never keep the agent from starting: they are moved to
//! `endpoints.corrupt`, and reported.

mod format;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use format::{Damage, Phase, Record, Role};

use crate::model::EndpointId;

const LOG: &str = "endpoints.log";
const NEW: &str = "endpoints.log.new";
const CORRUPT: &str = "endpoints.corrupt";
const LOCK: &str = "endpoints.lock";

/// Smallest file, in bytes: room for some 700 pods coming and going before it is rewritten.
const MIN_CAPACITY: usize = 1 << 20;

/// What free space is filled with, at a time.
static ZEROES: [u8; 16 << 10] = [0; 16 << 10];

/// Most changes that share one write.
const BATCH: usize = 1024;

/// Longest that the disk does not have what was written, and between attempts to write anew.
const SYNC_PAUSE: Duration = Duration::from_secs(1);

/// Why the journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another agent on this machine has it open.
    #[error("{0}: another agent uses this directory")]
    InUse(PathBuf),
    /// The directory or the file could not be read, or the directory not be made.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A change is not written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct JournalError {
    path: PathBuf,
    reason: String,
}

/// What was found on disk.
#[derive(Debug, Default)]
pub struct Loaded {
    /// All attachments, by id.
    pub records: Vec<Record>,
    /// Parts of the file that could not be read. If there are any, endpoints may be missing:
    /// nothing is to be deleted merely because it is not in `records`.
    pub damages: Vec<Damage>,
    /// Whether the machine has booted since: then no container of that time lives, and all
    /// records are [`Phase::Releasing`].
    pub rebooted: bool,
}

/// Names this boot of the machine, from `/proc/sys/kernel/random/boot_id`.
///
/// # Errors
/// Those of reading it.
pub fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// The open journal; closed when dropped.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    queue: mpsc::Sender<Queued>,
    failure: Arc<Mutex<Option<String>>>,
}

#[derive(Debug)]
struct Queued {
    change: Change,
    done: oneshot::Sender<Result<(), String>>,
}

#[derive(Debug)]
enum Change {
    Put(Box<Record>),
    Remove(EndpointId),
}

impl Journal {
    /// Opens the journal in `directory`, which is made if it does not exist, and reads it.
    /// `boot_id` is [`boot_id`]'s. A disk that is full or read-only is no error here: what was
    /// recorded is read, and [`Journal::health`] tells.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(directory: &Path, boot_id: &str) -> Result<(Self, Loaded), OpenError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        std::fs::create_dir_all(directory).map_err(failed(directory))?;
        let lock = lock(&directory.join(LOCK))?;
        let path = directory.join(LOG);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(failed(&path))?,
        };
        let mut decoded = format::decode(&bytes);
        let rebooted = decoded.boot_id.as_deref().is_some_and(|recorded| recorded != boot_id);
        if rebooted {
            for record in decoded.records.values_mut() {
                record.phase = Phase::Releasing;
            }
        }
        let storage = Directory { path: directory.to_owned(), log: None, _lock: lock };
        if !decoded.damages.is_empty()
            && let Err(error) = storage.set_aside(&bytes, &decoded.damages)
        {
            let kept = storage.path.join(CORRUPT);
            tracing::error!(path = %kept.display(), %error, "cannot keep damaged journal records");
        }
        let loaded = Loaded {
            records: decoded.records.values().cloned().collect(),
            damages: decoded.damages,
            rebooted,
        };
        Ok((Self::start(path, storage, boot_id, &loaded.records), loaded))
    }

    fn start(
        path: PathBuf,
        storage: impl Storage + 'static,
        boot_id: &str,
        records: &[Record],
    ) -> Self {
        let failure = Arc::new(Mutex::new(None));
        let (queue, queued) = mpsc::channel();
        let mut writer = Writer::new(storage, boot_id, records);
        let shared = Arc::clone(&failure);
        let started = std::thread::Builder::new().name("cni-journal".into()).spawn(move || {
            let outcome = writer.commit([]);
            *shared.lock() = outcome.err().map(|error| error.to_string());
            writer.run(&queued, &shared);
        });
        if let Err(error) = started {
            // The queue has no reader now, so each change fails, and says so.
            *failure.lock() = Some(error.to_string());
        }
        Self { path, queue, failure }
    }

    /// Records an attachment, replacing what was recorded of it. Changes are written in the
    /// order of these calls, whether or not anyone waits for them.
    pub fn put(&self, record: Record) -> Written {
        self.enqueue(Change::Put(Box::new(record)))
    }

    /// Forgets an attachment.
    pub fn remove(&self, id: EndpointId) -> Written {
        self.enqueue(Change::Remove(id))
    }

    /// Whether the last write went well.
    ///
    /// # Errors
    /// Why it did not; as long as that lasts no endpoint can be added.
    pub fn health(&self) -> Result<(), JournalError> {
        self.failure.lock().clone().map_or(Ok(()), |reason| Err(self.error(reason)))
    }

    fn enqueue(&self, change: Change) -> Written {
        let (done, outcome) = oneshot::channel();
        // A queue that nobody reads drops `done`, which `Written` reports.
        let _ = self.queue.send(Queued { change, done });
        Written { outcome, path: self.path.clone() }
    }

    fn error(&self, reason: String) -> JournalError {
        JournalError { path: self.path.clone(), reason }
    }
}

/// Resolves when a change would survive the agent, or could not be written. Dropping it takes
/// nothing back.
#[derive(Debug)]
#[must_use = "a change is written only when this says so"]
pub struct Written {
    outcome: oneshot::Receiver<Result<(), String>>,
    path: PathBuf,
}

impl Future for Written {
    type Output = Result<(), JournalError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.outcome).poll(cx));
        let path = || self.path.clone();
        Poll::Ready(match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(JournalError { path: path(), reason }),
            Err(_) => {
                Err(JournalError { path: path(), reason: "the journal's writer has ended".into() })
            }
        })
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Where a journal's bytes are.
trait Storage: Send {
    /// Writes `bytes` at `offset`, within the capacity. Without error they outlive the process.
    fn append(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()>;
    /// Without error, all that was appended outlives the machine's power.
    fn sync(&mut self) -> io::Result<()>;
    /// Makes `bytes`, and zeroes up to `capacity`, the whole content: all of it or nothing.
    /// Without error it outlives the machine's power.
    fn replace(&mut self, bytes: &[u8], capacity: usize) -> io::Result<()>;
}

/// The real one. The lock lives as long as it.
struct Directory {
    path: PathBuf,
    log: Option<File>,
    _lock: File,
}

impl Storage for Directory {
    fn append(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.log()?.write_all_at(bytes, offset as u64)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.log()?.sync_data()
    }

    fn replace(&mut self, bytes: &[u8], capacity: usize) -> io::Result<()> {
        let new = self.path.join(NEW);
        // The zeroes are written, not merely reserved, so that later writes change no metadata.
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&new)?;
        file.write_all_at(bytes, 0)?;
        for start in (bytes.len()..capacity).step_by(ZEROES.len()) {
            let length = ZEROES.len().min(capacity - start);
            file.write_all_at(&ZEROES[..length], start as u64)?;
        }
        file.sync_all()?;
        std::fs::rename(&new, self.path.join(LOG))?;
        self.log = Some(file);
        File::open(&self.path)?.sync_all()
    }
}

impl Directory {
    fn log(&self) -> io::Result<&File> {
        self.log.as_ref().ok_or_else(|| io::Error::other("not written yet"))
    }

    fn set_aside(&self, bytes: &[u8], damages: &[Damage]) -> io::Result<()> {
        let path = self.path.join(CORRUPT);
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        for damage in damages {
            file.write_all(&bytes[damage.offset..damage.offset + damage.length])?;
        }
        file.sync_all()
    }
}

/// Brings changes to the storage, many at a time.
struct Writer<S> {
    storage: S,
    header: Vec<u8>,
    /// The line of each attachment: what the file would be if it were written anew.
    lines: BTreeMap<EndpointId, Vec<u8>>,
    capacity: usize,
    /// Where the next line goes; None if the file is not known to be what it should be.
    tail: Option<usize>,
    /// When the disk is seen to; None if it has everything.
    due: Option<Instant>,
}

impl<S: Storage> Writer<S> {
    fn new(storage: S, boot_id: &str, records: &[Record]) -> Self {
        let lines = records
            .iter()
            .map(|record| (record.endpoint.id.clone(), format::put(record)))
            .collect();
        Self { storage, header: format::header(boot_id), lines, capacity: 0, tail: None, due: None }
    }

    fn run(&mut self, queue: &mpsc::Receiver<Queued>, failure: &Mutex<Option<String>>) {
        while let Some(first) = self.next(queue, failure) {
            // All that queued up while the last write was under way shares the next one.
            let (changes, waiting): (Vec<Change>, Vec<_>) = std::iter::once(first)
                .chain(queue.try_iter().take(BATCH - 1))
                .map(|queued| (queued.change, queued.done))
                .unzip();
            let outcome = self.commit(changes).map_err(|error| error.to_string());
            *failure.lock() = outcome.clone().err();
            for done in waiting {
                // Whoever asked may have given up.
                let _ = done.send(outcome.clone());
            }
        }
    }

    /// Waits for a change, and sees to the disk when that is due. None if there will be no more.
    fn next(
        &mut self,
        queue: &mpsc::Receiver<Queued>,
        failure: &Mutex<Option<String>>,
    ) -> Option<Queued> {
        while let Some(due) = self.due {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                *failure.lock() = self.settle().err().map(|error| error.to_string());
                continue;
            }
            match queue.recv_timeout(left) {
                Ok(queued) => return Some(queued),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
        queue.recv().ok()
    }

    /// Brings to the disk whatever it does not have.
    fn settle(&mut self) -> io::Result<()> {
        self.due = None;
        if self.tail.is_some() {
            match self.storage.sync() {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(%error, "writing the endpoint journal anew"),
            }
        }
        self.rewrite()
    }

    /// Writes `changes`. They hold in memory even if that fails, and are written with the next
    /// commit that succeeds: who was told of the failure says what is to be instead.
    fn commit(&mut self, changes: impl IntoIterator<Item = Change>) -> io::Result<()> {
        let mut appended = Vec::new();
        for change in changes {
            match change {
                Change::Put(record) => {
                    let line = format::put(&record);
                    appended.extend_from_slice(&line);
                    self.lines.insert(record.endpoint.id, line);
                }
                Change::Remove(id) => {
                    appended.extend_from_slice(&format::remove(&id));
                    self.lines.remove(&id);
                }
            }
        }
        if let Some(tail) = self.tail.filter(|tail| tail + appended.len() <= self.capacity) {
            match self.storage.append(tail, &appended) {
                Ok(()) => {
                    self.tail = Some(tail + appended.len());
                    self.due.get_or_insert_with(|| Instant::now() + SYNC_PAUSE);
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, "writing the endpoint journal anew"),
            }
        }
        self.rewrite()
    }

    /// Writes everything anew. A file that a write has failed on is not written to again: the kernel
    /// may have dropped pages that a later fsync then calls clean.
    fn rewrite(&mut self) -> io::Result<()> {
        (self.tail, self.due) = (None, Some(Instant::now() + SYNC_PAUSE));
        let mut content = self.header.clone();
        content.extend(self.lines.values().flatten());
        self.capacity = content.len().saturating_mul(4).max(MIN_CAPACITY);
        self.storage.replace(&content, self.capacity)?;
        (self.tail, self.due) = (Some(content.len()), None);
        Ok(())
    }
}
