//! Whether etcd is what it was: one that was restored from an older copy, or is another one, may lack
//! what was written.

use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_client::ResponseHeader;

use super::super::{Position, Revision, StoreError};

/// Looks at every answer.
#[derive(Default)]
pub(super) struct Witness(Mutex<Seen>);

/// What the answers so far proved.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// 0: nothing yet.
    cluster: u64,
    revision: Revision,
    /// How often it was older than it had been, or another one.
    pub(super) setbacks: u64,
}

impl Witness {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self) -> Seen {
        *self.lock()
    }

    pub(super) fn position(&self) -> Option<Position> {
        let Seen { cluster, revision, .. } = self.seen();
        (cluster != 0).then_some(Position { cluster, revision })
    }

    /// What an earlier process saw.
    pub(super) fn expect(&self, Position { cluster, revision }: Position) {
        let mut seen = self.lock();
        if seen.cluster == 0 {
            *seen = Seen { cluster, revision, ..*seen };
        }
    }

    /// Every answer is linearizable, so its revision is not lower than one that was seen `before` it
    /// was asked for; unless etcd was restored from an older copy, or is another one.
    ///
    /// # Errors
    /// It is: told to all who asked before that was found out.
    pub(super) fn compare(
        &self,
        store: &str,
        before: Seen,
        header: Option<&ResponseHeader>,
    ) -> Result<(), StoreError> {
        let Some(header) = header else { return Ok(()) };
        let (cluster, revision) = (header.cluster_id(), header.revision());
        let other = before.cluster != 0 && before.cluster != cluster;
        let mut seen = self.lock();
        let first = seen.setbacks == before.setbacks;
        if !other && revision >= before.revision {
            if first {
                *seen = Seen { cluster, revision: revision.max(seen.revision), ..*seen };
            }
            return Ok(());
        }
        if first {
            *seen = Seen { cluster, revision, setbacks: seen.setbacks + 1 };
        }
        drop(seen);
        let reason = if other {
            format!("it is another cluster ({cluster:x}, not {:x})", before.cluster)
        } else {
            format!("it was restored: its revision is {revision} and was {}", before.revision)
        };
        if first {
            tracing::error!(store, reason, "etcd is not in the state it was in");
        }
        Err(StoreError::Unavailable { store: store.to_owned(), reason })
    }
}
