//! Which sockets can be read or written, told to the driver itself: between the kernel and the core
//! there is no other task to be scheduled, and nothing is copied.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Wake, Waker};

use crate::speaker::ConnId;

/// The connections for which there is something to do, oldest first, each once.
#[derive(Default)]
pub(super) struct Ready {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    signals: VecDeque<Arc<Signal>>,
    /// The driver's, while it waits.
    driver: Option<Waker>,
}

/// What a socket wakes.
struct Signal {
    conn: ConnId,
    queued: AtomicBool,
    queue: Arc<Queue>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code that holds it can leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<ConnId> {
        let signal = self.signals.pop_front()?;
        signal.queued.store(false, Ordering::Release);
        Some(signal.conn)
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let queue = self.queue.clone();
        let mut waiting = queue.lock();
        waiting.signals.push_back(self);
        if let Some(driver) = waiting.driver.take() {
            driver.wake();
        }
    }
}

impl Drop for Ready {
    /// Those in the queue hold on to it.
    fn drop(&mut self) {
        self.queue.lock().signals.clear();
    }
}

impl Ready {
    /// What the socket of a connection wakes when there is something to do.
    pub(super) fn waker(&self, conn: ConnId) -> Waker {
        let queued = AtomicBool::new(false);
        Waker::from(Arc::new(Signal { conn, queued, queue: self.queue.clone() }))
    }

    /// The next connection, if there is one now. It may have ended meanwhile.
    pub(super) fn pop(&self) -> Option<ConnId> {
        self.queue.lock().pop()
    }

    /// The next connection.
    pub(super) async fn next(&self) -> ConnId {
        // There may always be one: other tasks are to run, too.
        tokio::task::coop::consume_budget().await;
        poll_fn(|cx| {
            let mut waiting = self.queue.lock();
            match waiting.pop() {
                Some(conn) => Poll::Ready(conn),
                None => {
                    waiting.driver = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn each_connection_is_told_once_until_it_is_looked_at() {
        let ready = Ready::default();
        let [a, b] = [ConnId(1), ConnId(2)].map(|conn| ready.waker(conn));
        a.wake_by_ref();
        b.wake_by_ref();
        a.wake_by_ref();
        assert_eq!(
            (ready.next().await, ready.pop(), ready.pop()),
            (ConnId(1), Some(ConnId(2)), None)
        );
        a.wake_by_ref();
        assert_eq!((ready.pop(), ready.pop()), (Some(ConnId(1)), None));
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let ready = Ready::default();
        let waker = ready.waker(ConnId(7));
        let waiting = tokio::spawn(async move { ready.next().await });
        // It waits by now: there is no other task to run.
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        waker.wake();
        let told = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        assert_eq!(told.unwrap().unwrap(), ConnId(7));
    }

    #[test]
    fn nothing_is_left_of_it() {
        let ready = Ready::default();
        let queue = Arc::downgrade(&ready.queue);
        ready.waker(ConnId(7)).wake();
        drop(ready);
        assert!(queue.upgrade().is_none());
    }
}
