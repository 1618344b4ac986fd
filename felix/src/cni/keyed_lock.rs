//! A lock for each of many names, which takes memory only while it is used.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// The locks, first come first served. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyedLock(Arc<Mutex<HashMap<String, Arc<AsyncMutex<()>>>>>);

impl KeyedLock {
    /// Waits until nobody holds `key`. Can be given up by dropping.
    pub(super) async fn lock(&self, key: &str) -> KeyedGuard {
        let mut guard = KeyedGuard { locks: self.clone(), key: key.to_owned(), held: None };
        let lock = Arc::clone(self.0.lock().entry(key.to_owned()).or_default());
        guard.held = Some(lock.lock_owned().await);
        guard
    }

    /// None if somebody holds `key`.
    pub(super) fn try_lock(&self, key: &str) -> Option<KeyedGuard> {
        let mut guard = KeyedGuard { locks: self.clone(), key: key.to_owned(), held: None };
        let lock = Arc::clone(self.0.lock().entry(key.to_owned()).or_default());
        guard.held = Some(lock.try_lock_owned().ok()?);
        Some(guard)
    }
}

/// Holds one name until dropped.
#[derive(Debug)]
pub(super) struct KeyedGuard {
    locks: KeyedLock,
    key: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl Drop for KeyedGuard {
    fn drop(&mut self) {
        self.held = None;
        let mut locks = self.locks.0.lock();
        // Whoever holds or waits has a clone, made under this lock.
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn each_name_is_held_once_and_forgotten_after() {
        let locks = KeyedLock::default();
        let a = locks.lock("a").await;
        let _b = locks.lock("b").await;
        assert!(locks.try_lock("a").is_none());
        let mut second = Box::pin(locks.lock("a"));
        assert!((&mut second).now_or_never().is_none());
        let mut third = Box::pin(locks.lock("a"));
        assert!((&mut third).now_or_never().is_none());
        drop(a);
        // One that gives up is passed over.
        drop(second);
        let third = third.now_or_never().unwrap();
        assert_eq!(locks.0.lock().len(), 2);
        drop(third);
        assert_eq!(locks.0.lock().keys().collect::<Vec<_>>(), ["b"]);
    }

    #[tokio::test]
    async fn giving_up_leaves_nothing_behind() {
        let locks = KeyedLock::default();
        let held = locks.lock("a").await;
        let mut waiting = Box::pin(locks.lock("a"));
        assert!((&mut waiting).now_or_never().is_none());
        drop(held);
        drop(waiting);
        assert!(locks.0.lock().is_empty());
    }
}
