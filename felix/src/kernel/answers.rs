//! DNS answers on their way to endpoints whose policy asks of names: a thread with a socket of its own is
//! handed them before they are delivered, so that what a name stands for is in the kernel when the pod
//! hears of it.
//!
//! What says nothing of addresses passes at once, the rest as soon as its [`Held`] is dropped, and in any
//! case after half a second: names are learned late rather than lost. What finds no room in the kernel's
//! queue or in the agent's passes unread.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use netlink::nfqueue::{self, Holding, Packet};
use netlink::poll::{self, Waker};
use netlink::{Protocol, Socket, headers};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::layout::ANSWERS;
use super::{Error, worker};
use crate::model::IfIndex;
use crate::names::answer::{self, Answer};

/// Longer than any answer that fits in a datagram as resolvers ask for them.
const HOLDING: Holding = Holding { bytes: 16_384, packets: 1024 };
/// Longest that a packet waits for the agent.
const LONGEST: Duration = Duration::from_millis(500);
/// When the queue cannot be listened to (another program does), it is tried again after this.
const RETRY: Duration = Duration::from_secs(2);
const TCP: u8 = 6;

/// What a packet to an endpoint says, which waits meanwhile.
#[derive(Debug)]
pub struct Told {
    /// The endpoint's interface.
    pub output: IfIndex,
    /// One, unless it is of a stream.
    pub answers: Vec<Answer>,
    /// Delivers the packet when it is dropped.
    pub held: Held,
}

/// A packet that waits.
#[derive(Debug)]
pub struct Held {
    id: u32,
    /// Where the packet is known by its number.
    socket: u64,
    done: Sender<(u64, u32)>,
    waker: Waker,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Without the thread nothing waits.
        let _ = self.done.send((self.socket, self.id));
        self.waker.wake();
    }
}

/// What the thread has to say of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswersStatus {
    /// Packets that were handed over.
    pub read: u64,
    /// Of these, those for which there was no room, or no time: they were delivered before what they say was
    /// in the kernel.
    pub late: u64,
    /// Why nothing is handed over now; None if all is well.
    pub problem: Option<String>,
}

/// Tells how the thread is.
#[derive(Clone, Debug, Default)]
pub struct AnswersMonitor(Arc<Shared>);

impl AnswersMonitor {
    /// How it is now.
    pub fn status(&self) -> AnswersStatus {
        let problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        AnswersStatus {
            read: self.0.read.load(Ordering::Relaxed),
            late: self.0.late.load(Ordering::Relaxed),
            problem,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    read: AtomicU64,
    late: AtomicU64,
    problem: Mutex<Option<String>>,
}

/// Answers as they come. The thread behind it ends when this is dropped.
#[derive(Debug)]
pub struct Answers {
    told: mpsc::Receiver<Told>,
    shared: Arc<Shared>,
    waker: Waker,
}

impl Answers {
    /// Starts to listen in the calling thread's network namespace. Up to `queue` packets wait to be taken.
    ///
    /// # Errors
    /// [`Error::Kernel`]: there are no more threads or file descriptors. That the queue cannot be listened
    /// to is no error, see [`AnswersStatus::problem`].
    pub fn listen(queue: usize) -> Result<Self, Error> {
        let waker = Waker::new()
            .map_err(|error| Error::Kernel(format!("making an event descriptor: {error}")))?;
        let (sender, told) = mpsc::channel(queue);
        let shared = Arc::new(Shared::default());
        let (done, finished) = channel();
        let listener = Listener {
            told: sender,
            shared: Arc::clone(&shared),
            waker: waker.clone(),
            done,
            finished,
            waiting: VecDeque::new(),
            socket: 0,
        };
        worker::spawn("answers", move || listener.run())?;
        Ok(Self { told, shared, waker })
    }

    /// Waits for answers and takes all that are there, at most `limit`, into `told`. 0: the thread has ended.
    /// Cancel safe.
    pub async fn recv_many(&mut self, told: &mut Vec<Told>, limit: usize) -> usize {
        self.told.recv_many(told, limit).await
    }

    /// How the thread is.
    pub fn monitor(&self) -> AnswersMonitor {
        AnswersMonitor(Arc::clone(&self.shared))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.told.close();
        self.waker.wake();
    }
}

struct Listener {
    told: mpsc::Sender<Told>,
    shared: Arc<Shared>,
    waker: Waker,
    done: Sender<(u64, u32)>,
    finished: Receiver<(u64, u32)>,
    /// Packets that wait, in the order in which they came.
    waiting: VecDeque<(u32, Instant)>,
    /// Numbers are given anew by each socket.
    socket: u64,
}

impl Listener {
    fn run(mut self) {
        while !self.told.is_closed() {
            self.socket += 1;
            self.waiting.clear();
            let error = match self.open() {
                Ok(mut socket) => {
                    self.tell(None);
                    match self.serve(&mut socket) {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.tell(Some(format!("queue {ANSWERS} of nfnetlink_queue: {error}")));
            let _ = poll::wait([self.waker.as_fd()], Some(RETRY));
            self.waker.drain();
        }
    }

    fn tell(&self, problem: Option<String>) {
        let mut told = self.shared.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != problem {
            if let Some(problem) = &problem {
                tracing::warn!(problem, "DNS answers are not read");
            }
            *told = problem;
        }
    }

    fn open(&self) -> netlink::Result<Socket> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let mut early = Vec::new();
        nfqueue::listen(&mut socket, ANSWERS, HOLDING, |packet| early.push(packet.id))?;
        self.shared.late.fetch_add(early.len() as u64, Ordering::Relaxed);
        nfqueue::accept(&mut socket, ANSWERS, early)?;
        Ok(socket)
    }

    /// Until nobody takes what is told.
    fn serve(&mut self, socket: &mut Socket) -> netlink::Result<()> {
        loop {
            let now = Instant::now();
            let next = self.waiting.front().map(|(_, until)| until.saturating_duration_since(now));
            poll::wait([self.waker.as_fd(), socket.as_fd()], next)
                .map_err(|source| netlink::Error::Io { action: "wait for answers", source })?;
            self.waker.drain();
            let mut pass = self.take(socket)?;
            while let Ok((of, id)) = self.finished.try_recv() {
                let at = self.waiting.iter().position(|(waiting, _)| *waiting == id);
                if of == self.socket
                    && let Some(at) = at
                {
                    self.waiting.remove(at);
                    pass.push(id);
                }
            }
            let now = Instant::now();
            while let Some((id, until)) = self.waiting.front().copied()
                && until <= now
            {
                self.waiting.pop_front();
                self.shared.late.fetch_add(1, Ordering::Relaxed);
                pass.push(id);
            }
            nfqueue::accept(socket, ANSWERS, pass)?;
            if self.told.is_closed() {
                let mut rest = self.take(socket)?;
                rest.extend(self.waiting.drain(..).map(|(id, _)| id));
                return nfqueue::accept(socket, ANSWERS, rest);
            }
        }
    }

    /// Takes all that waits in the socket. Returns what passes at once.
    fn take(&mut self, socket: &mut Socket) -> netlink::Result<Vec<u32>> {
        let mut pass = Vec::new();
        loop {
            let messages = match socket.receive() {
                Ok(Some(messages)) => messages,
                Ok(None) => return Ok(pass),
                // The kernel lets pass what it cannot hand over.
                Err(netlink::Error::Overrun) => continue,
                Err(error) => return Err(error),
            };
            for message in messages {
                let Some(packet) = nfqueue::packet(&message, ANSWERS) else { continue };
                self.shared.read.fetch_add(1, Ordering::Relaxed);
                if !self.hand_over(&packet) {
                    pass.push(packet.id);
                }
            }
        }
    }

    /// False: the packet need not wait.
    fn hand_over(&mut self, packet: &Packet<'_>) -> bool {
        let Some(output) = packet.output else { return false };
        let answers = answers(packet.payload);
        if answers.is_empty() {
            return false;
        }
        let held = Held {
            id: packet.id,
            socket: self.socket,
            done: self.done.clone(),
            waker: self.waker.clone(),
        };
        self.waiting.push_back((packet.id, Instant::now() + LONGEST));
        match self.told.try_send(Told { output, answers, held }) {
            Ok(()) => {}
            // What is not sent is dropped, and so passes.
            Err(TrySendError::Full(_)) => {
                self.shared.late.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Closed(_)) => {}
        }
        true
    }
}

/// What a packet says, from its IP header on.
fn answers(packet: &[u8]) -> Vec<Answer> {
    match headers::carried(packet) {
        Some((tuple, data)) if tuple.protocol == TCP => answer::read_segment(data),
        Some((_, data)) => answer::read(data).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
