//! A thread of its own for each writer, and the way to it.
//!
//! Writers block in system calls, some for 40 ms and more; that must not happen on the runtime's
//! threads. They are started by the thread that starts the agent, so they are in its namespace.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use netlink::poll::{self, Waker};
use tokio::sync::oneshot;

use super::Error;

/// Where commands of a worker go. The worker ends when the last clone is dropped.
#[derive(Debug)]
pub(super) struct Mailbox<C>(Arc<Inner<C>>);

#[derive(Debug)]
struct Inner<C> {
    /// None only while being dropped.
    sender: Option<Sender<C>>,
    waker: Waker,
    pending: Arc<AtomicUsize>,
}

impl<C> Clone for Mailbox<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Drop for Inner<C> {
    fn drop(&mut self) {
        self.sender = None;
        self.waker.wake();
    }
}

/// Where a worker finds its commands.
#[derive(Debug)]
pub(super) struct Inbox<C> {
    receiver: Receiver<C>,
    waker: Waker,
    /// Commands that were not taken yet, and one if the worker is about to take some.
    pending: Arc<AtomicUsize>,
}

pub(super) fn mailbox<C>() -> Result<(Mailbox<C>, Inbox<C>), Error> {
    let waker = Waker::new()
        .map_err(|error| Error::Kernel(format!("making an event descriptor: {error}")))?;
    let (sender, receiver) = mpsc::channel();
    let pending = Arc::default();
    let inner = Inner { sender: Some(sender), waker: waker.clone(), pending: Arc::clone(&pending) };
    Ok((Mailbox(Arc::new(inner)), Inbox { receiver, waker, pending }))
}

impl<C> Mailbox<C> {
    /// Sends a command that carries the way back for its answer, and waits for that.
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> C,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let sender = self.0.sender.as_ref().ok_or(Error::Stopped)?;
        self.0.pending.fetch_add(1, Ordering::AcqRel);
        sender.send(command(reply)).map_err(|_| Error::Stopped)?;
        self.0.waker.wake();
        answer.await.map_err(|_| Error::Stopped)
    }

    /// Whether all that was asked before has been taken, and the worker waits for more. Holds until
    /// somebody else asks, or something else wakes the worker.
    pub(super) fn is_idle(&self) -> bool {
        self.0.pending.load(Ordering::Acquire) == 0
    }
}

/// What woke a worker.
pub(super) enum Wake<C> {
    /// Commands, in order, and notifications on the other descriptor; either may be missing.
    Work { commands: Vec<C>, notified: bool },
    /// There will be no more commands.
    Closed,
}

impl<C> Inbox<C> {
    /// Waits for commands, or until `other` can be read. Takes all commands that came.
    pub(super) fn wait(
        &self,
        other: Option<&netlink::Socket>,
        timeout: Option<Duration>,
    ) -> Wake<C> {
        let notified = self.ready(other, timeout);
        match self.take() {
            Some(commands) => Wake::Work { commands, notified },
            None => Wake::Closed,
        }
    }

    /// Waits for commands, or until `other` can be read, which it tells; they are for [`Inbox::take`],
    /// which has to follow.
    pub(super) fn ready(&self, other: Option<&netlink::Socket>, timeout: Option<Duration>) -> bool {
        use std::os::fd::AsFd;
        let ready = match other {
            Some(other) => poll::wait([self.waker.as_fd(), other.as_fd()], timeout),
            None => poll::wait([self.waker.as_fd()], timeout).map(|[woken]| [woken, false]),
        };
        self.pending.fetch_add(1, Ordering::AcqRel);
        self.waker.drain();
        match ready {
            Ok([_, notified]) => notified,
            Err(error) => {
                // Cannot happen with valid descriptors; without commands it would spin.
                tracing::error!(%error, "waiting for work");
                true
            }
        }
    }

    /// All commands that came, in order; none if there will be no more.
    pub(super) fn take(&self) -> Option<Vec<C>> {
        let mut commands = Vec::new();
        let open = loop {
            match self.receiver.try_recv() {
                Ok(command) => commands.push(command),
                Err(TryRecvError::Empty) => break true,
                Err(TryRecvError::Disconnected) => break false,
            }
        };
        self.pending.fetch_sub(commands.len() + 1, Ordering::AcqRel);
        if open {
            return Some(commands);
        }
        // The next wait returns at once, with nothing left.
        self.waker.wake();
        (!commands.is_empty()).then_some(commands)
    }
}

/// A queue that several like workers take from.
#[derive(Debug)]
pub(super) struct Pool<C>(Sender<C>);

impl<C> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: Send + 'static> Pool<C> {
    /// Starts a worker for each of these.
    pub(super) fn start<W: Send + 'static>(
        name: &str,
        workers: Vec<W>,
        work: impl Fn(&mut W, C) + Clone + Send + 'static,
    ) -> Result<Self, Error> {
        let (sender, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for mut worker in workers {
            let (receiver, work) = (Arc::clone(&receiver), work.clone());
            spawn(name, move || {
                loop {
                    // The lock is held while waiting, by one; the others wait for the lock.
                    let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(command) = next else { return };
                    work(&mut worker, command);
                }
            })?;
        }
        Ok(Self(sender))
    }

    /// As [`Mailbox::ask`].
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> C,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }
}

/// Starts a thread, named as debuggers and `top -H` show it.
pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    thread::Builder::new()
        .name(format!("kernel-{name}"))
        .spawn(body)
        .map(|_| ())
        .map_err(|error| Error::Kernel(format!("starting thread {name}: {error}")))
}
