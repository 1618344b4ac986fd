//! Where the committer is while it waits, so that who asks may have the answer at once.
//!
//! In local-first mode an answer takes a plan and an fsync, and to wake another thread, and to be
//! woken by it, takes as long as both. So a single request that finds the committer idle is done by
//! who asks, with the very steps that the committer's own loop would take. Whatever there is more to
//! do, or several to be answered by one fsync, is the loop's.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::task::AtomicWaker;
use tokio::time::Sleep;

use super::*;

/// A committer that waits, and the requests on their way to it.
#[derive(Default)]
pub(crate) struct Desk {
    /// None while the loop works with it, and after its end.
    committer: Mutex<Option<Box<Committer>>>,
    /// Messages that were sent and not yet taken.
    queued: Arc<AtomicUsize>,
    /// Something was done here that the loop has to look at.
    poked: AtomicBool,
    waker: AtomicWaker,
}

/// What the loop was waiting for.
pub(super) enum Woken {
    Searched(Search, Box<Finished>),
    Landed(Result<Outcome, StoreError>),
    Probed(Result<(), StoreError>),
    Saved(Remembered, Result<(), String>),
    Observed(Event),
    /// None: nobody can send any more.
    Told(Option<Message>),
    /// A time has come, the desk was used, or there is more to do.
    Again,
}

impl Desk {
    /// Sends a message, or does what it asks for at once. `own_thread`: the allocator has one.
    pub(crate) fn send(
        &self,
        queue: &mpsc::UnboundedSender<Message>,
        message: Message,
        own_thread: bool,
    ) {
        let single = matches!(message, Message::Assign(..) | Message::Release(..));
        let message = if single && own_thread { self.serve(message) } else { Some(message) };
        if let Some(message) = message {
            self.queued.fetch_add(1, Ordering::SeqCst);
            // After the end, the dropped reply tells the caller.
            let _ = queue.send(message);
        }
    }

    /// Does what a request asks for, or gives it back.
    fn serve(&self, message: Message) -> Option<Message> {
        // Nobody waits for this: the loop is woken, and has company to answer.
        let Ok(mut desk) = self.committer.try_lock() else { return Some(message) };
        let Some(committer) = desk.as_mut().filter(|committer| committer.is_idle()) else {
            return Some(message);
        };
        // What was said before is heard before.
        if self.queued.load(Ordering::SeqCst) > 0 {
            return Some(message);
        }
        let serve = || committer.serve_at_once(message);
        let flavor = tokio::runtime::Handle::current().runtime_flavor();
        let more = match flavor {
            tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(serve),
            _ => serve(),
        };
        drop(desk);
        if more {
            self.poked.store(true, Ordering::SeqCst);
            self.waker.wake();
        }
        None
    }

    /// The count of messages that are on their way.
    pub(crate) fn queued(&self) -> Arc<AtomicUsize> {
        self.queued.clone()
    }

    /// Leaves the committer here until there is something to do for the loop. None if a request
    /// panicked with it.
    pub(super) async fn wait(
        &self,
        committer: Box<Committer>,
        timer: &mut Pin<Box<Sleep>>,
        again: bool,
    ) -> Option<(Box<Committer>, Woken)> {
        *self.committer.lock().ok()? = Some(committer);
        // It ends with the loop, also if that is dropped while it waits.
        let _cleared = Cleared(self);
        std::future::poll_fn(|context| {
            self.waker.register(context.waker());
            let Ok(mut desk) = self.committer.lock() else { return Poll::Ready(None) };
            let Some(mut committer) = desk.take() else { return Poll::Ready(None) };
            let poked = self.poked.swap(false, Ordering::SeqCst);
            match committer.poll_woken(context, timer) {
                Poll::Ready(woken) => Poll::Ready(Some((committer, woken))),
                Poll::Pending if again || poked => Poll::Ready(Some((committer, Woken::Again))),
                Poll::Pending => {
                    *desk = Some(committer);
                    Poll::Pending
                }
            }
        })
        .await
    }
}

struct Cleared<'a>(&'a Desk);

impl Drop for Cleared<'_> {
    fn drop(&mut self) {
        let mut desk = self.0.committer.lock().unwrap_or_else(PoisonError::into_inner);
        let left = desk.take();
        drop(desk);
        drop(left);
    }
}

impl Committer {
    /// True if a single request may be answered by who asks.
    fn is_idle(&self) -> bool {
        // Those who were answered together mostly ask again together, and share an fsync then.
        let alone = self.together.is_none_or(|at| at.elapsed() > ALONE);
        alone
            && self.pending.is_empty()
            && self.closed.is_none()
            && self.serves_locally()
            && !self.local.paused
    }

    /// Does what a request asks for, as far as the log suffices. True if the loop has more to do.
    fn serve_at_once(&mut self, message: Message) -> bool {
        let searching = self.searching.len();
        self.accept(message);
        // On a thread of its own the log is waited for as it is; the rest asks nobody.
        let ended = self.serve_locally().now_or_never().is_some();
        let departs = self.local.due.is_some() || self.local.in_air.is_some();
        let settled = self.pending.is_empty() && searching == self.searching.len();
        !(ended && departs && settled && !self.cache.moved)
    }

    /// What is rare comes first: requests that never end must not keep it waiting.
    fn poll_woken(
        &mut self,
        context: &mut Context<'_>,
        timer: &mut Pin<Box<Sleep>>,
    ) -> Poll<Woken> {
        if let Poll::Ready(Some((search, finished))) = self.searches.poll_next_unpin(context) {
            return Poll::Ready(Woken::Searched(search, Box::new(finished)));
        }
        if let Some(flight) = &mut self.local.in_air
            && let Poll::Ready(result) = flight.as_mut().poll(context)
        {
            return Poll::Ready(Woken::Landed(result));
        }
        if let Some(probe) = &mut self.local.probe
            && let Poll::Ready(result) = probe.as_mut().poll(context)
        {
            return Poll::Ready(Woken::Probed(result));
        }
        if let Some(saving) = &mut self.saving
            && let Poll::Ready((what, result)) = saving.as_mut().poll(context)
        {
            return Poll::Ready(Woken::Saved(what, result));
        }
        let times = [self.retry_at, self.named.not_before, self.local.due, self.restored.look_at];
        if let Some(first) = times.into_iter().flatten().min() {
            if timer.deadline() != first {
                timer.as_mut().reset(first);
            }
            if timer.as_mut().poll(context).is_ready() {
                let now = Instant::now();
                let over = |time: &mut Option<Instant>| {
                    *time = time.filter(|time| *time > now);
                };
                over(&mut self.retry_at);
                over(&mut self.named.not_before);
                over(&mut self.restored.look_at);
                // What is due departs at the end of the round.
                return Poll::Ready(Woken::Again);
            }
        }
        if let Some(events) = &mut self.events
            && let Poll::Ready(Some(event)) = events.poll_next_unpin(context)
        {
            return Poll::Ready(Woken::Observed(event));
        }
        self.queue.poll_recv(context).map(Woken::Told)
    }
}
