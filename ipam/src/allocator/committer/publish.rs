//! What the world is told: the blocks to announce, the state of the allocator, and the disk.

use super::*;

/// What is being written to disk, and how that ended.
pub(super) type Saving = BoxFuture<'static, (Remembered, Result<(), String>)>;

impl Committer {
    /// Counts something in the status; nobody is woken for that.
    pub(super) fn count(&self, one: impl FnOnce(&mut Status)) {
        self.status.send_if_modified(|status| {
            one(status);
            false
        });
    }

    pub(super) fn reachable(&self, problem: Option<&Error>) {
        let problem = problem.map(ToString::to_string);
        self.status.send_if_modified(|status| {
            let ready = self.loaded && problem.is_none() || self.serves_locally();
            let same = status.problem == problem && status.ready == ready;
            match &problem {
                Some(problem) if status.ready => tracing::warn!(problem, "no longer ready"),
                _ if ready && !status.ready => tracing::info!(store = status.store, "ready"),
                _ => {}
            }
            status.problem = problem;
            status.ready = ready;
            !same
        });
    }

    /// Tells the world, and the disk, which blocks are ours and what we have in others'. Nobody waits
    /// for the disk: an agent that dies before it has this learns it from the store.
    pub(super) fn publish(&mut self) {
        if !self.loaded {
            return;
        }
        if self.pending.is_empty() {
            self.cache.forget_foreign();
        }
        if std::mem::take(&mut self.cache.moved) {
            self.announce();
        }
        if self.on_disk.as_ref() != Some(&self.remembered) && self.save_pace.allows() {
            self.save();
        }
        self.show_soon();
    }

    /// Writes to disk what the world was told last, and how far the store had come.
    fn save(&mut self) {
        if self.saving.is_some() {
            return;
        }
        let (state, remembered) = (self.state.clone(), self.remembered.clone());
        let position = self.store.position();
        let save = tokio::task::spawn_blocking(move || {
            let result = state.save(&remembered, position).map_err(|error| error.to_string());
            (remembered, result)
        });
        let lost = |error: tokio::task::JoinError| (Remembered::default(), Err(error.to_string()));
        self.saving = Some(Box::pin(async move { save.await.unwrap_or_else(lost) }));
    }

    /// Writes it once more at the end, and waits for that.
    pub(super) async fn save_at_the_end(&mut self) {
        while let Some(saving) = self.saving.take() {
            let (what, result) = saving.await;
            self.saved(what, result);
        }
        if self.loaded {
            self.save();
        }
        if let Some(saving) = self.saving.take() {
            let (what, result) = saving.await;
            self.saved(what, result);
        }
    }

    fn announce(&mut self) {
        let borrowed_addresses = self.cache.borrowed_addresses(&self.borrowed.borrow());
        let mut borrowed = self.cache.borrowed();
        for address in &borrowed_addresses {
            // A block that cannot be read now is read after a restart all the same.
            borrowed.extend(self.cache.corrupt_net(address));
        }
        borrowed.sort_unstable();
        borrowed.dedup();
        self.remembered = Remembered {
            node: self.cache.node.clone(),
            blocks: self.cache.announced(),
            borrowed,
            borrowed_addresses,
        };
        let announced: Arc<[IpNet]> = self.remembered.blocks.as_slice().into();
        let borrowed: Arc<[IpAddr]> = self.remembered.borrowed_addresses.as_slice().into();
        self.blocks.send_if_modified(|blocks| {
            let changed = **blocks != *announced;
            *blocks = announced;
            changed
        });
        self.borrowed.send_if_modified(|addresses| {
            let changed = **addresses != *borrowed;
            *addresses = borrowed;
            changed
        });
    }

    pub(super) fn saved(&mut self, what: Remembered, result: Result<(), String>) {
        self.saving = None;
        match result {
            Ok(()) => {
                self.on_disk = Some(what);
                self.save_pace.succeeded();
            }
            Err(reason) => {
                let path = self.state.blocks();
                let error = Error::State { path, reason };
                if self.save_pace.failed(&error) {
                    tracing::warn!(%error, "own blocks not written to disk");
                }
            }
        }
    }
}
