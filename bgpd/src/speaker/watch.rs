//! The driver's end of BFD: its thread, while a neighbor is to be watched over, and its news.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use crate::bfd::{Event, Handle, Key, Snapshot, Wanted};

/// News that may wait for the driver; what does not fit waits with BFD.
const NEWS: usize = 256;

/// BFD as the driver sees it.
pub(super) struct BfdLink {
    /// None: no neighbor was ever to be watched over.
    handle: Option<Handle>,
    news: mpsc::Receiver<Event>,
    /// For the thread to come, and so that the channel stays open until there is one.
    sender: mpsc::Sender<Event>,
    seed: u64,
}

impl BfdLink {
    pub(super) fn new(seed: u64) -> Self {
        let (sender, news) = mpsc::channel(NEWS);
        Self { handle: None, news, sender, seed }
    }

    /// Makes these the sessions. Without any, nothing is started.
    pub(super) fn set(&mut self, sessions: BTreeMap<Key, Wanted>) {
        if self.handle.is_none() && !sessions.is_empty() {
            match Handle::start(self.seed, self.sender.clone()) {
                Ok(handle) => self.handle = Some(handle),
                Err(error) => tracing::error!(%error, "no thread for BFD: nothing is watched over"),
            }
        }
        if let Some(handle) = &self.handle {
            handle.set(sessions);
        }
    }

    /// Waits for news. Safe to cancel.
    pub(super) async fn event(&mut self) -> Event {
        match self.news.recv().await {
            Some(event) => event,
            // Not while we have a sender.
            None => std::future::pending().await,
        }
    }

    /// News that is there already.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.news.try_recv().ok()
    }

    /// Answers a question with what BFD knows now in place of what it last told. The driver does not
    /// wait for it.
    pub(super) fn complete<T: Send + 'static>(
        &self,
        mut answer: T,
        reply: oneshot::Sender<T>,
        fill: impl FnOnce(&mut T, &Snapshot) + Send + 'static,
    ) {
        let Some(snapshot) = self.handle.as_ref().map(Handle::snapshot) else {
            drop(reply.send(answer));
            return;
        };
        tokio::spawn(async move {
            if let Ok(snapshot) = snapshot.await {
                fill(&mut answer, &snapshot);
            }
            drop(reply.send(answer));
        });
    }

    /// Ends all sessions, with a word to the peers that it is no failure, or without.
    pub(super) fn stop(&mut self, announce: bool) {
        if let Some(handle) = self.handle.take()
            && announce
        {
            handle.stop_announced();
        }
    }
}
