//! Runs a table of sessions over sockets, on a thread that goes before others: however busy the
//! speaker or the machine is, packets go out and are taken in when they are due.
#![allow(unsafe_code, reason = "ppoll(2) and scheduling have no safe interface")]

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::sync::{mpsc, oneshot};

use super::socket::{Kind, Receiver, Sender};
use super::table::{Output, Table};
use super::{Discarded, Key, Status, Time, Wanted};

/// Commands that may wait.
const COMMANDS: usize = 64;
/// Packets taken in from a socket before timers are looked at.
const PACKETS: usize = 4096;
/// When a socket that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// When news that found the speaker's queue full is offered again.
const OFFER: Duration = Duration::from_millis(5);

/// A session's state has changed, or what its peer says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) key: Key,
    pub(crate) status: Status,
}

/// What there is at one time.
#[derive(Debug)]
pub(crate) struct Snapshot {
    sessions: BTreeMap<Key, Status>,
    pub(crate) discarded: Discarded,
}

impl Snapshot {
    pub(crate) fn session(&self, key: Option<&Key>) -> Option<Status> {
        self.sessions.get(key?).cloned()
    }
}

enum Command {
    Set(BTreeMap<Key, Wanted>),
    Status(oneshot::Sender<Snapshot>),
    /// With or without a word to the peers.
    Stop {
        announce: bool,
    },
}

/// Talks to the thread, which ends with it.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: std_mpsc::SyncSender<Command>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Starts the thread. It has no sockets before it has sessions.
    ///
    /// # Errors
    /// The system's, if it has no thread or descriptor for us.
    pub(crate) fn start(seed: u64, events: mpsc::Sender<Event>) -> io::Result<Self> {
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (commands, receiver) = std_mpsc::sync_channel(COMMANDS);
        let thread = std::thread::Builder::new().name("bfd".into()).spawn(move || {
            prefer_this_thread();
            let runner = Runner {
                epoch: Instant::now(),
                table: Table::new(seed),
                commands: receiver,
                woken,
                events,
                untold: BTreeMap::new(),
                receivers: BTreeMap::new(),
                senders: HashMap::new(),
                retry: None,
                random: seed.rotate_left(32) | 1,
            };
            runner.run();
        })?;
        Ok(Self { commands, wake, thread: Some(thread) })
    }

    /// Makes these the sessions.
    pub(crate) fn set(&self, wanted: BTreeMap<Key, Wanted>) {
        self.command(Command::Set(wanted));
    }

    /// The sessions as they are now.
    pub(crate) fn snapshot(&self) -> oneshot::Receiver<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Status(reply));
        answer
    }

    /// Ends all sessions, and tells the peers that it is no failure.
    pub(crate) fn stop_announced(&self) {
        self.command(Command::Stop { announce: true });
    }

    /// The thread waits for nothing but commands and packets, so there is always room soon.
    fn command(&self, command: Command) {
        // One that has ended has nothing to be told.
        let _ended = self.commands.send(command);
        // A pipe that is full has woken it already.
        let _full = (&self.wake).write(&[0]);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.command(Command::Stop { announce: false });
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

struct Runner {
    epoch: Instant,
    table: Table,
    commands: std_mpsc::Receiver<Command>,
    woken: UnixStream,
    events: mpsc::Sender<Event>,
    /// Sessions with news that found no room.
    untold: BTreeMap<Key, NonZeroU32>,
    /// The error of those that could not be opened.
    receivers: BTreeMap<Kind, Result<Receiver, String>>,
    senders: HashMap<NonZeroU32, Result<Sender, String>>,
    /// When to try again to open receivers.
    retry: Option<Time>,
    random: u64,
}

impl Runner {
    fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    fn run(mut self) {
        loop {
            while let Ok(command) = self.commands.try_recv() {
                match command {
                    Command::Set(wanted) => {
                        self.table.set(self.now(), &wanted);
                        self.open_receivers();
                    }
                    Command::Status(reply) => drop(reply.send(self.snapshot())),
                    Command::Stop { announce } => {
                        if announce {
                            self.table.disable_all(self.now());
                            self.carry_out();
                        }
                        return;
                    }
                }
            }
            // What has come is taken in before silence is judged: it may be us who were late.
            self.receive();
            self.table.expire(self.now());
            self.carry_out();
            if self.retry.is_some_and(|at| at <= self.now()) {
                self.open_receivers();
            }
            self.wait();
        }
    }

    fn receive(&mut self) {
        let now = self.now();
        for receiver in self.receivers.values_mut().flatten() {
            for _ in 0..PACKETS {
                match receiver.receive() {
                    Ok((arrival, octets)) => self.table.receive(now, &arrival, octets),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        tracing::debug!(%error, "BFD: cannot receive");
                        break;
                    }
                }
            }
        }
    }

    fn carry_out(&mut self) {
        let mut outputs = std::mem::take(self.table.outputs());
        for output in outputs.drain(..) {
            match output {
                Output::Send(id, key, octets) => self.send(id, &key, &octets),
                Output::Changed(key, id) => {
                    self.untold.insert(key, id);
                }
                Output::Gone(id) => {
                    self.senders.remove(&id);
                    self.untold.retain(|_, untold| *untold != id);
                    // Receivers that nobody needs are closed.
                    self.retry = Some(Time::ZERO);
                }
            }
        }
        // The room it has is used again.
        *self.table.outputs() = outputs;
        self.tell();
    }

    fn send(&mut self, id: NonZeroU32, key: &Key, octets: &[u8]) {
        let Self { senders, random, .. } = self;
        let known = senders.entry(id).or_insert_with(|| Err(String::new()));
        if known.is_err() {
            let opened = Sender::open(key, || next(random));
            *known = opened.map_err(|error| format!("cannot send: {error}"));
            match known {
                // What is there to send by may be there to receive by as well.
                Ok(_) if matches!(self.receivers.get(&Kind::of(key)), Some(Err(_))) => {
                    self.retry = Some(Time::ZERO);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(peer = %key.peer, error, "BFD"),
            }
        }
        // A path that is gone shows in what does not come back.
        if let Ok(sender) = known
            && let Err(error) = sender.send(octets)
        {
            tracing::trace!(peer = %key.peer, %error, "BFD: cannot send");
            // There may be another interface of that name, which the sockets know nothing of.
            if sender.is_stale() {
                *known = Err(format!("cannot send: {error}"));
            }
            // Another session may have seen to it that the receiver is a new one.
            let kind = Kind::of(key);
            if let Some(Ok(receiver)) = self.receivers.get(&kind)
                && receiver.is_stale()
            {
                self.receivers.remove(&kind);
                self.retry = Some(Time::ZERO);
            }
        }
    }

    /// Tells the speaker the news, as they are now.
    fn tell(&mut self) {
        let now = self.now();
        while let Some((key, id)) = self.untold.first_key_value() {
            if let Some(status) = self.table.status(now, *id) {
                let event = Event { key: *key, status };
                match self.events.try_send(event) {
                    Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => return,
                }
            }
            self.untold.pop_first();
        }
    }

    /// Has a receiver for each kind of session that there is, and no other.
    fn open_receivers(&mut self) {
        let mut had = std::mem::take(&mut self.receivers);
        let mut failed = false;
        for key in self.table.keys() {
            let kind = Kind::of(key);
            if self.receivers.contains_key(&kind) {
                continue;
            }
            let receiver = match had.remove(&kind) {
                Some(Ok(receiver)) => Ok(receiver),
                before => {
                    let others = self.receivers.values().chain(had.values()).flatten();
                    Receiver::open(kind, others).map_err(|error| {
                        let error = format!("cannot receive on {kind}: {error}");
                        if before.and_then(Result::err).as_ref() != Some(&error) {
                            tracing::warn!(error, "BFD");
                        }
                        error
                    })
                }
            };
            failed |= receiver.is_err();
            self.receivers.insert(kind, receiver);
        }
        self.retry = failed.then(|| self.now() + RETRY);
    }

    fn snapshot(&self) -> Snapshot {
        let mut sessions = self.table.statuses(self.now());
        for (key, status) in &mut sessions {
            let receiver = self.receivers.get(&Kind::of(key)).and_then(|r| r.as_ref().err());
            let sender = self.senders.get(&status.local_discriminator);
            let error = receiver.or_else(|| sender.and_then(|s| s.as_ref().err()));
            status.error = error.cloned();
        }
        Snapshot { sessions, discarded: self.table.discarded() }
    }

    /// Sleeps until a packet or command comes, or something is due.
    fn wait(&mut self) {
        let now = self.now();
        let offer = (!self.untold.is_empty()).then(|| now + OFFER);
        let deadline = [self.table.next_deadline(), self.retry, offer].into_iter().flatten().min();
        let timeout = deadline.map(|at| at.saturating_sub(now));
        let receivers = self.receivers.values().flatten().map(Receiver::fd);
        let mut fds: SmallVec<[libc::pollfd; 8]> = std::iter::once(self.woken.as_raw_fd())
            .chain(receivers)
            .map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 })
            .collect();
        if let Err(error) = poll(&mut fds, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            // Out of memory, say: it must not spin.
            tracing::warn!(%error, "BFD: cannot wait");
            std::thread::sleep(Duration::from_millis(1));
        }
        if fds[0].revents != 0 {
            let mut scratch = [0; 64];
            while self.woken.read(&mut scratch).is_ok_and(|n| n == scratch.len()) {}
        }
    }
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random >> 16
}

/// ppoll(2): its timeout has nanoseconds, where poll(2) rounds a packet's time to the next
/// millisecond.
fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let count = libc::nfds_t::try_from(fds.len()).unwrap_or(0);
    // SAFETY: `fds` holds `count` entries that the kernel may write to, `timeout` is null or points
    // to a value that outlives the call, and no signal mask is given.
    let result = unsafe { libc::ppoll(fds.as_mut_ptr(), count, timeout, std::ptr::null()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets this thread run before all that have no real-time priority; else, before most others.
fn prefer_this_thread() {
    let param = libc::sched_param { sched_priority: 1 };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: 0 is the calling thread, and `param` is read only during the call.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const param) } == 0 {
        return;
    }
    let error = io::Error::last_os_error();
    // SAFETY: no memory is involved; 0 is the calling thread.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } == 0 {
        tracing::debug!(%error, "no real-time priority for BFD, but a high one");
    } else {
        // Detection times below some hundred milliseconds will then be missed when others are busy.
        tracing::warn!(%error, "BFD runs with the priority of any other thread: CAP_SYS_NICE is missing");
    }
}
