//! A watch that reconnects, continues where it was, and begins again where it cannot.

use std::collections::VecDeque;

use etcd_client::{EventType, WatchOptions, WatchStream};
use futures::StreamExt;
use tokio::time::sleep;

use super::*;

/// Between attempts to bring a watch back.
const WATCH_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

pub(super) struct Watch {
    store: EtcdStore,
    prefix: String,
    after: Option<Revision>,
    /// The open stream and the endpoint it is at.
    stream: Option<(usize, WatchStream)>,
    /// The next pause; set from the first failure to the next success.
    backoff: Option<Duration>,
}

impl Watch {
    pub(super) fn new(store: EtcdStore, prefix: &str, after: Option<Revision>) -> Self {
        Self { store, prefix: prefix.to_owned(), after, stream: None, backoff: None }
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, Event> {
        futures::stream::unfold((self, VecDeque::new()), |(mut watch, mut ready)| async move {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((event, (watch, ready)));
                }
                ready.extend(watch.next().await);
            }
        })
        .boxed()
    }

    /// The next events; none if there is only housekeeping to tell. Every attempt that fails is
    /// told: the store may have been back and away again while this watch paused, and whoever used
    /// it in between has no other word of the second outage.
    async fn next(&mut self) -> Vec<Event> {
        if let Some(pause) = self.backoff {
            sleep(pause).await;
        }
        match self.advance().await {
            Ok(events) => {
                self.backoff = None;
                events
            }
            Err(error) => {
                if let Some((index, _)) = self.stream.take() {
                    self.store.shared.next_after(index);
                }
                let longer = |pause: Duration| (pause * 2).min(WATCH_RETRY.1);
                self.backoff = Some(self.backoff.map_or(WATCH_RETRY.0, longer));
                vec![Event::Interrupted(error)]
            }
        }
    }

    async fn advance(&mut self) -> Result<Vec<Event>, StoreError> {
        let Some(after) = self.after else {
            let snapshot = self.store.list(&self.prefix, None).await?;
            self.after = Some(snapshot.revision);
            return Ok(vec![Event::Synced(snapshot)]);
        };
        let shared = self.store.shared.clone();
        let Some((index, stream)) = &mut self.stream else {
            let index = shared.current.load(Ordering::Relaxed) % shared.endpoints.len();
            let options =
                WatchOptions::new().with_range(end_of(&self.prefix)).with_start_revision(after + 1);
            let prefix = self.prefix.clone();
            let open = move |client: Client| {
                let mut watch = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
                async move { watch.watch(prefix, Some(options)).await }
            };
            let opened = shared.attempt(index, open).await;
            self.stream = match opened {
                Ok(stream) => Some((index, stream)),
                Err(failure) => {
                    shared.next_after(index);
                    return Err(failure.into_error());
                }
            };
            return Ok(Vec::new());
        };
        let ended = |reason: &str| StoreError::Unavailable {
            store: shared.name.clone(),
            reason: format!("{}: the watch ended: {reason}", shared.endpoints[*index].url),
        };
        let message = match stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(ended("the server closed it")),
            Err(error) => return Err(shared.classify(*index, &error).into_error()),
        };
        if message.compact_revision() > 0 {
            // Changes were forgotten that we have not seen: begin again with what there is.
            self.after = None;
            self.stream = None;
            return Ok(Vec::new());
        }
        if message.canceled() {
            return Err(ended(message.cancel_reason()));
        }
        let mut events = Vec::with_capacity(message.events().len());
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            self.after = self.after.max(Some(kv.mod_revision()));
            events.push(match event.event_type() {
                EventType::Put => Event::Put(entry(kv)),
                EventType::Delete => Event::Delete(entry(kv).key, kv.mod_revision()),
            });
        }
        Ok(events)
    }
}
