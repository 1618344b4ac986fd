//! Reading the store: once at the start, and whatever may have changed since.

use super::super::surplus::unwanted;
use super::*;

impl Committer {
    /// Reads this node's affinities and blocks, and begins to watch.
    pub(super) async fn load(&mut self) -> Result<(), Error> {
        if self.loaded {
            return Ok(());
        }
        let prefix = model::affinities_of(&self.cache.node);
        let snapshot = self.store.list(&prefix, None).await?;
        self.take_affinities(&snapshot.entries);
        // Also those that were ours: if somebody took one away while pods have addresses in it,
        // these are borrowed now.
        let remembered = self.remembered.borrowed.iter().chain(&self.remembered.blocks);
        self.cache.stale.extend(remembered.copied());
        let keys = [model::CONFIG, model::FROZEN].map(str::to_owned);
        let config = self.store.read(&keys).await?;
        self.take_config(config.get(model::CONFIG));
        self.is_frozen(config.get(model::FROZEN));
        self.refresh().await?;
        let affinities = self.store.watch(&prefix, Some(snapshot.revision));
        let configuration = self.store.watch(model::CONFIG, Some(config.revision));
        // After the revision that made the name ours.
        let name = model::node_key(&self.cache.node);
        let owner = self.store.watch(&name, self.owner.revision);
        let frozen = self.store.watch(model::FROZEN, Some(config.revision));
        let watches = [affinities, configuration, owner, frozen];
        self.events = Some(futures::stream::select_all(watches).boxed());
        self.loaded = true;
        self.unadopted.extend([Family::V4, Family::V6]);
        let blocks = self.cache.owned().count();
        tracing::info!(
            node = self.cache.node,
            store = self.store.name(),
            blocks,
            "address blocks read"
        );
        Ok(())
    }

    fn take_affinities(&mut self, entries: &[Entry]) {
        self.unexplained.clear();
        let before: Vec<IpNet> = self.cache.affinities.keys().copied().collect();
        let mut now = BTreeMap::new();
        for entry in entries {
            if let Some((_, cidr)) = model::parse_affinity_key(&entry.key) {
                now.insert(cidr, entry);
            }
        }
        for cidr in before.into_iter().chain(now.keys().copied().collect::<Vec<_>>()) {
            self.cache.install_affinity(cidr, now.get(&cidr).copied());
            self.cache.stale.insert(cidr);
        }
    }

    fn take_config(&mut self, entry: Option<&Entry>) {
        let config = match IpamConfig::stored(entry) {
            Ok(config) => match config.validate() {
                Ok(()) => config,
                Err(reason) => {
                    tracing::error!(key = model::CONFIG, reason, "configuration not taken");
                    return;
                }
            },
            Err(corrupt) => {
                tracing::error!(
                    key = corrupt.key,
                    reason = corrupt.reason,
                    "configuration not taken"
                );
                return;
            }
        };
        self.stored_config = config;
        if entry.is_some() {
            self.local.is_told();
        }
        self.use_config();
    }

    /// Puts in force what the caller said, else what the store says.
    pub(super) fn use_config(&mut self) {
        let config = self.given_config.as_ref().unwrap_or(&self.stored_config);
        self.settings.config = config.clone();
    }

    /// Reads the blocks that may have changed, and those that could not be read last time.
    pub(super) async fn refresh(&mut self) -> Result<(), Error> {
        while !self.cache.stale.is_empty() {
            let some: Vec<IpNet> = self.cache.stale.iter().take(64).copied().collect();
            let keys: Vec<String> = some.iter().map(model::block_key).collect();
            let snapshot = self.store.read(&keys).await?;
            for (cidr, key) in some.iter().zip(&keys) {
                let known = self.cache.blocks.revision(cidr);
                if self.went_back(key, known, snapshot.get(key)) {
                    return Err(self.overtaken(key));
                }
                self.cache.install_block(*cidr, snapshot.get(key));
            }
        }
        Ok(())
    }

    /// Something of ours changed in the store, perhaps by our own doing.
    pub(super) fn observed(&mut self, event: Event) {
        let name = model::node_key(&self.cache.node);
        match event {
            // The node's name: if another took it, or somebody asks whether we live, the next look
            // at it says what follows.
            Event::Put(Entry { key, mod_revision: revision, .. })
            | Event::Delete(key, revision)
                if key.starts_with(model::NODES) =>
            {
                if key == name && self.owner.revision.is_some_and(|known| known < revision) {
                    self.owner.lose();
                    self.doubt_blocks(revision);
                }
            }
            Event::Synced(snapshot)
                if snapshot.entries.iter().any(|entry| entry.key.starts_with(model::NODES)) =>
            {
                self.owner.lose();
            }
            Event::Synced(snapshot) => {
                let config = snapshot.get(model::CONFIG).cloned();
                let affinities = model::affinities_of(&self.cache.node);
                if snapshot.entries.iter().any(|entry| entry.key.starts_with(&affinities)) {
                    self.take_affinities(&snapshot.entries);
                } else if config.is_some() {
                    self.take_config(config.as_ref());
                } else {
                    // One of the prefixes is empty: which one is not told. Read all again.
                    self.owner.lose();
                    self.loaded = false;
                }
            }
            Event::Put(entry) if entry.key == model::FROZEN => self.is_frozen(Some(&entry)),
            Event::Delete(key, _) if key == model::FROZEN => self.is_frozen(None),
            Event::Put(entry) if entry.key == model::CONFIG => self.take_config(Some(&entry)),
            Event::Delete(key, _) if key == model::CONFIG => self.take_config(None),
            Event::Put(entry) => {
                if let Some((_, cidr)) = model::parse_affinity_key(&entry.key) {
                    let known = self.cache.affinities.get(&cidr).map_or(0, |seen| seen.revision);
                    if known < entry.mod_revision && !self.searching.is_empty() {
                        self.unexplained.insert(cidr, entry);
                    } else if known < entry.mod_revision {
                        self.cache.install_affinity(cidr, Some(&entry));
                        self.cache.stale.insert(cidr);
                    }
                }
            }
            Event::Delete(key, revision) => {
                if let Some((_, cidr)) = model::parse_affinity_key(&key) {
                    self.unexplained.remove(&cidr);
                    let known = self.cache.affinities.get(&cidr).map_or(0, |seen| seen.revision);
                    if 0 < known && known < revision {
                        tracing::warn!(%cidr, "this node's affinity was deleted by somebody else");
                        self.cache.install_affinity(cidr, None);
                        self.cache.stale.insert(cidr);
                    }
                }
            }
            Event::Interrupted(error) => {
                tracing::debug!(%error, "watch interrupted");
                // The watch's own attempts are far apart, so it tells neither that the store is
                // away nor that it is back: asking for the node's record does.
                self.owner.lose();
            }
        }
    }

    /// Gives back an empty block that this node has no use for. True if it did. A store that refuses
    /// it is asked again later; requests do not suffer.
    pub(super) async fn give_up_unwanted(
        &mut self,
        node_revision: Revision,
    ) -> Result<bool, Error> {
        if !self.giving_up.allows() {
            return Ok(false);
        }
        let Some(cidr) = unwanted(&self.cache, &self.settings, self.now()) else {
            return Ok(false);
        };
        let (block_key, affinity_key) =
            (model::block_key(&cidr), model::affinity_key(&self.cache.node, &cidr));
        let block = self.cache.blocks.revision(&cidr);
        let affinity = self.cache.affinities.get(&cidr).map_or(0, |seen| seen.revision);
        if self.log_gone(cidr).await.is_err() {
            return Ok(false);
        }
        let txn = crate::store::Txn::default()
            .when(model::node_key(&self.cache.node), node_revision)
            .when(block_key.clone(), block)
            .when(affinity_key.clone(), affinity)
            .delete(block_key)
            .delete(affinity_key);
        self.cache.stale.insert(cidr);
        let outcome = match self.store.txn(txn).await.map_err(Error::from) {
            Ok(outcome) => outcome,
            Err(error @ Error::StoreUnavailable { .. }) => {
                self.fence();
                return Err(error);
            }
            Err(error) => {
                if self.giving_up.failed(&error) {
                    tracing::warn!(%cidr, %error, "an empty block cannot be given up");
                }
                return Ok(false);
            }
        };
        self.giving_up.succeeded();
        match outcome {
            Outcome::Committed(_) => {
                tracing::info!(%cidr, "gave up an empty block");
                self.census.remove(&Family::of_net(&cidr));
                self.cache.install_affinity(cidr, None);
                self.cache.install_block(cidr, None);
            }
            Outcome::Conflict(found) => {
                let node = found.first().and_then(Option::as_ref);
                if node.map_or(0, |entry| entry.mod_revision) != node_revision {
                    self.owner.lose();
                }
                self.cache.install_affinity(cidr, found.get(2).and_then(Option::as_ref));
            }
        }
        Ok(true)
    }
}
