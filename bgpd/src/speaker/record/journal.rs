//! Records on their way to a file: gathered by the core's thread, written by one of their own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::codec::{nanoseconds, put_number, put_octets};
use super::input::Input;
use super::outcome::Outcome;
use super::settings::Secrets;
use super::{BEGIN, END, Ending, FORMAT, MAGIC, MAX_RECORD};
use crate::config::Config;
use crate::speaker::Time;

/// Octets that may wait for the file, on either side, when there comes another record; with more of
/// them the recording ends. One record that is longer is no sign of a slow file.
const BUFFER: usize = 32 << 20;
/// Octets that are worth writing at once.
const CHUNK: usize = 1 << 20;
/// How long fewer of them are gathered: what a kill or a crash of the whole process may cost.
const GATHER: Duration = Duration::from_millis(50);
/// How long the end of the recording waits for the file.
const PATIENCE: Duration = Duration::from_secs(2);
/// Octets kept free under the limit for the mark that ends the recording.
const MARK: u64 = 16;

/// Where to record a run, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The file, readable for its owner only. One that is there is kept beside it, with `.old`
    /// after its name, in place of any other there. A FIFO or a character device is written to as
    /// it is, and anything else refused.
    pub path: PathBuf,
    /// The most octets that the file may have; the recording ends there.
    pub limit: u64,
}

impl Recording {
    /// The limit where none is given: 1 GiB.
    pub const DEFAULT_LIMIT: u64 = 1 << 30;

    /// A recording of up to the default limit.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), limit: Self::DEFAULT_LIMIT }
    }
}

/// Takes the records of one run.
pub(crate) struct Journal {
    /// Whole records that have not been handed over.
    octets: Vec<u8>,
    /// The fields of the record that is being made.
    fields: Vec<u8>,
    /// The time of the last input.
    last: Time,
    /// Octets recorded in all.
    size: u64,
    limit: u64,
    secrets: Secrets,
    /// The last outcome, until it is taken.
    outcome: Option<Outcome>,
    ended: bool,
    /// None: the records stay here.
    writer: Option<Writer>,
}

impl Journal {
    /// Opens the file, and starts the thread that writes to it.
    pub(crate) fn create(recording: &Recording) -> io::Result<Self> {
        let Recording { path, limit } = recording.clone();
        Self::to(open(&path)?, path, limit)
    }

    /// Writes to a file that is open.
    pub(super) fn to(file: File, path: PathBuf, limit: u64) -> io::Result<Self> {
        let mut journal = Self::in_memory();
        journal.limit = limit;
        journal.writer = Some(Writer::start(file, path)?);
        Ok(journal)
    }

    /// Keeps the records until [`Self::take`].
    pub(crate) fn in_memory() -> Self {
        Self {
            octets: Vec::new(),
            fields: Vec::new(),
            last: Time::ZERO,
            size: 0,
            limit: u64::MAX,
            secrets: Secrets::default(),
            outcome: None,
            ended: false,
            writer: None,
        }
    }

    /// Records taken in since the last time.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.octets)
    }

    pub(super) fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// The first record. `wall` is the time since 1970 at time zero of the run.
    pub(super) fn begin(&mut self, now: Time, wall: Duration, seed: u64, config: &Config) {
        self.octets.extend_from_slice(MAGIC);
        self.octets.push(FORMAT);
        self.size = self.octets.len() as u64;
        self.last = now;
        let Some(settings) = self.settings(config) else { return };
        put_octets(&mut self.fields, env!("CARGO_PKG_VERSION").as_bytes());
        put_number(&mut self.fields, nanoseconds(wall));
        put_number(&mut self.fields, nanoseconds(now));
        put_number(&mut self.fields, seed);
        self.push(BEGIN, &settings);
    }

    /// A configuration as it is recorded.
    pub(super) fn settings(&mut self, config: &Config) -> Option<Vec<u8>> {
        let settings = self.secrets.encode(config);
        if let Err(error) = &settings {
            tracing::error!(%error, "a configuration cannot be recorded");
            self.end(Ending::TooLarge);
        }
        settings.ok()
    }

    pub(super) fn input(&mut self, now: Option<Time>, input: &Input<'_>) {
        self.outcome = None;
        let now = now.map_or(self.last, |now| now.max(self.last));
        put_number(&mut self.fields, nanoseconds(now.saturating_sub(self.last)));
        self.last = now;
        let tail = input.encode(&mut self.fields);
        self.push(input.kind(), tail);
    }

    pub(super) fn outcome(&mut self, outcome: Outcome) {
        outcome.encode(&mut self.fields);
        self.push(outcome.kind(), &[]);
        self.outcome = Some(outcome);
    }

    /// Takes the fields, and what belongs behind them, as a record.
    fn push(&mut self, kind: u8, tail: &[u8]) {
        if self.octets.len() > BUFFER {
            // Before it is said to be slow, the thread is waited for where it only takes over.
            self.hand_over_with(|shared| Some(shared.lock()));
        }
        if !self.ended {
            let before = self.octets.len();
            let len = self.fields.len() + tail.len();
            self.octets.push(kind);
            put_number(&mut self.octets, len as u64);
            self.octets.extend_from_slice(&self.fields);
            self.octets.extend_from_slice(tail);
            let added = (self.octets.len() - before) as u64;
            let ending = if len > MAX_RECORD {
                Some(Ending::TooLarge)
            } else if self.size.saturating_add(added).saturating_add(MARK) > self.limit {
                Some(Ending::Limit)
            } else {
                (self.writer.is_some() && before > BUFFER).then_some(Ending::Slow)
            };
            if let Some(ending) = ending {
                self.octets.truncate(before);
                self.end(ending);
            } else {
                self.size += added;
            }
        }
        self.fields.clear();
    }

    /// Marks the end: nothing is recorded from here on.
    pub(super) fn end(&mut self, ending: Ending) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.octets.extend([END, 1, ending as u8]);
        if let Some(writer) = &self.writer
            && ending != Ending::Finished
        {
            let (path, octets) = (writer.path.display(), self.size);
            tracing::warn!(%path, octets, reason = %ending, "the recording ends here");
        }
    }

    /// Whether nothing is recorded any more.
    pub(super) const fn is_over(&self) -> bool {
        self.ended
    }

    /// Hands over what there is, if the thread does not look at it just now and has room; never
    /// waits for it. Returns whether there is something left to hand over.
    pub(super) fn hand_over(&mut self) -> bool {
        self.hand_over_with(|shared| match shared.waiting.try_lock() {
            Ok(waiting) => Some(waiting),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }

    fn hand_over_with(
        &mut self,
        lock: impl FnOnce(&Shared) -> Option<MutexGuard<'_, Waiting>>,
    ) -> bool {
        let Some(writer) = &self.writer else { return false };
        if self.octets.is_empty() {
            return false;
        }
        let Some(mut waiting) = lock(&writer.shared) else { return true };
        if waiting.failed {
            self.ended = true;
            self.octets = Vec::new();
            return false;
        }
        let before = waiting.octets.len();
        if before == 0 {
            std::mem::swap(&mut waiting.octets, &mut self.octets);
        } else if before < CHUNK || before + self.octets.len() <= BUFFER {
            // With less than a chunk it still gathers, however much there comes at once.
            waiting.octets.append(&mut self.octets);
        } else {
            return true;
        }
        if before == 0 || before < CHUNK && waiting.octets.len() >= CHUNK {
            writer.shared.changed.notify_one();
        }
        false
    }
}

#[cfg(test)]
impl Journal {
    /// Octets that wait, on either side.
    pub(super) fn waiting(&self) -> usize {
        self.octets.len() + self.writer.as_ref().map_or(0, |writer| writer.lock().octets.len())
    }

    /// Octets that have not been handed over.
    pub(super) const fn kept(&self) -> usize {
        self.octets.len()
    }
}

impl Drop for Journal {
    /// Returns when all is written, or could not be for [`PATIENCE`].
    fn drop(&mut self) {
        // A thread that panics leaves the input that did it as the last one.
        if !std::thread::panicking() {
            self.end(Ending::Finished);
        }
        if let Some(writer) = &self.writer {
            writer.lock().octets.append(&mut self.octets);
        }
    }
}

/// Opens what is to be recorded to. Only a regular file is put out of the way: what else is there
/// is not ours to move.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY);
    let kind = match path.symlink_metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return options.create_new(true).mode(0o600).open(path);
        }
        Err(error) => return Err(error),
    };
    if kind.is_file() {
        let mut old = path.as_os_str().to_owned();
        old.push(".old");
        std::fs::rename(path, old)?;
        options.create_new(true).mode(0o600).open(path)
    } else if kind.is_fifo() {
        // Open for both ways it waits for no reader (fifo(7)), and survives one that goes.
        options.read(true).open(path)
    } else if kind.is_char_device() {
        options.open(path)
    } else {
        let what = if kind.is_dir() {
            "a directory"
        } else if kind.is_symlink() {
            "a symbolic link"
        } else if kind.is_block_device() {
            "a block device"
        } else {
            "a socket"
        };
        let reason =
            format!("there is {what}; a recording goes to a file, FIFO or character device");
        Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
    }
}

/// What waits to be written.
#[derive(Default)]
struct Waiting {
    octets: Vec<u8>,
    /// Nothing more comes.
    last: bool,
    /// The file takes no more.
    failed: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // What is there is whole, whoever panicked.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that writes. Dropping this waits until it is done, but no longer than [`PATIENCE`]:
/// from a disk that hangs nothing comes back, and the thread is left behind.
struct Writer {
    path: PathBuf,
    shared: Arc<Shared>,
    /// Closed when the thread ends.
    ended: mpsc::Receiver<()>,
}

impl Writer {
    fn start(file: File, path: PathBuf) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, named) = (shared.clone(), path.clone());
        let (ends, ended) = mpsc::channel();
        std::thread::Builder::new().name("record".into()).spawn(move || {
            let _ends: mpsc::Sender<()> = ends;
            if let Err(error) = write(file, &theirs) {
                tracing::warn!(path = %named.display(), %error, "the recording ends here");
                *theirs.lock() = Waiting { failed: true, ..Waiting::default() };
            }
        })?;
        Ok(Self { path, shared, ended })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.shared.lock()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.lock().last = true;
        self.shared.changed.notify_one();
        if self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            let path = self.path.display();
            tracing::error!(%path, "the recording's file hangs: what came last may be missing");
        }
    }
}

/// Writes what comes until there is no more.
fn write(mut file: File, shared: &Shared) -> io::Result<()> {
    let mut octets = Vec::new();
    loop {
        let nothing = |w: &mut Waiting| w.octets.is_empty() && !w.last;
        let few = |w: &mut Waiting| w.octets.len() < CHUNK && !w.last;
        let waiting = shared.lock();
        let waiting =
            shared.changed.wait_while(waiting, nothing).unwrap_or_else(PoisonError::into_inner);
        let gathered = shared.changed.wait_timeout_while(waiting, GATHER, few);
        let (mut waiting, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.octets, &mut octets);
        let last = waiting.last;
        drop(waiting);
        file.write_all(&octets)?;
        octets.clear();
        octets.shrink_to(CHUNK);
        if last {
            return Ok(());
        }
    }
}
