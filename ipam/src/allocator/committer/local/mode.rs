//! Entering and leaving the mode: see the parent module.

use super::*;

impl Committer {
    /// Enters or leaves the mode, one step at a time. True if there is more to do.
    pub(in crate::allocator::committer) async fn change_mode(
        &mut self,
        node: Revision,
    ) -> Result<bool, Error> {
        if !self.local.on && !self.wants_local() && !self.local.mark_left
            || !self.local.pace.allows()
        {
            return Ok(false);
        }
        let step = match (self.local.on, self.wants_local()) {
            (true, _) => self.leave_if_due().await,
            (false, true) => self.enter(node).await,
            (false, false) => self.unmark(node).await,
        };
        match step {
            Err(error) if !matches!(error, Error::StoreUnavailable { .. }) => {
                if self.local.pace.failed(&error) {
                    tracing::warn!(%error, "the mode cannot be changed");
                }
                if self.local.on {
                    self.reachable(Some(&error));
                    self.retry_at = self.local.pace.not_before;
                }
                Ok(false)
            }
            step => step,
        }
    }

    async fn enter(&mut self, node: Revision) -> Result<bool, Error> {
        let key = model::local_key(&self.cache.node);
        let read = self.store.read(std::slice::from_ref(&key)).await?;
        let txn = Txn::default()
            .when(model::node_key(&self.cache.node), node)
            .when(key.clone(), read.get(&key).map_or(0, |entry| entry.mod_revision))
            .put(key, self.state.instance.clone().into_bytes())
            .put(model::node_key(&self.cache.node), model::encode(&self.owner.record(self.now())));
        let mark = match self.store.txn(txn).await? {
            Outcome::Committed(revision) => self.owner.is_ours(revision),
            Outcome::Conflict(found) => {
                let owner = found.first().and_then(Option::as_ref);
                if owner.map_or(0, |entry| entry.mod_revision) != node {
                    self.owner.lose();
                }
                return Ok(true);
            }
        };
        self.local.mark_left = true;
        // What others did before they saw the mark.
        self.cache.stale.extend(self.cache.affinities.keys());
        self.refresh().await?;
        self.begin_log(mark).await?;
        self.local.pace.succeeded();
        // The disk may have taken its time. Whoever took the name meanwhile may have given back the blocks.
        let name = model::node_key(&self.cache.node);
        let read = self.store.read(std::slice::from_ref(&name)).await;
        if read.is_ok_and(|read| read.get(&name).is_some_and(|it| it.mod_revision == mark)) {
            self.consulted();
        } else {
            self.owner.lose();
            (self.loaded, self.local.doubtful) = (false, true);
        }
        tracing::info!("local-first: addresses are answered from this node's own log");
        self.show();
        Ok(true)
    }

    /// Begins the log anew with what is known, under this revision of the mark.
    pub(in crate::allocator::committer) async fn begin_log(
        &mut self,
        mark: Revision,
    ) -> Result<(), Error> {
        let all = self.cache.blocks.keys();
        let blocks = all.filter_map(|cidr| Some((*cidr, self.logged(cidr)?))).collect();
        let (path, of) = (self.state.log(), (self.cache.node.clone(), self.state.instance.clone()));
        let begin = move || Log::begin(&path, (&of.0, &of.1), mark, blocks);
        let begun = tokio::task::spawn_blocking(begin).await;
        let log = begun.map_err(|error| self.log_error(&error.to_string()))??;
        self.local.log = Some(log);
        (self.local.on, self.local.mark, self.local.unmarked) = (true, mark, false);
        Ok(())
    }

    async fn leave_if_due(&mut self) -> Result<bool, Error> {
        let Local { broken, unmarked, told, .. } = &self.local;
        if broken.is_none() && !unmarked && (self.wants_local() || !told) {
            return Ok(false);
        }
        if self.is_behind() {
            self.catch_up();
            return Ok(false);
        }
        let path = self.state.log();
        let ended = tokio::task::spawn_blocking(move || Log::end(&path)).await;
        if let Err(error) = ended.map_err(|e| self.log_error(&e.to_string())).and_then(|end| end) {
            // It may be in force after a crash, so that nothing may be answered without it.
            self.local.broken = Some(error.clone());
            return Err(error);
        }
        self.local.pace.succeeded();
        (self.local.on, self.local.log, self.local.broken) = (false, None, None);
        (self.local.paused, self.local.unmarked, self.local.mark_left) = (false, false, true);
        tracing::info!("synchronous: addresses are in the store before they are answered");
        self.show();
        Ok(true)
    }

    /// Removes the mark of a mode that is not in force.
    async fn unmark(&mut self, node: Revision) -> Result<bool, Error> {
        let key = model::local_key(&self.cache.node);
        let read = self.store.read(std::slice::from_ref(&key)).await?;
        if let Some(entry) = read.get(&key) {
            let txn = Txn::default()
                .when(model::node_key(&self.cache.node), node)
                .when(key.clone(), entry.mod_revision)
                .delete(key);
            if let Outcome::Conflict(found) = self.store.txn(txn).await? {
                let owner = found.first().and_then(Option::as_ref);
                if owner.map_or(0, |entry| entry.mod_revision) != node {
                    self.owner.lose();
                }
                return Ok(true);
            }
        }
        self.local.mark_left = false;
        Ok(false)
    }
}
