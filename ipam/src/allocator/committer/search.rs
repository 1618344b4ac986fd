//! Searches for blocks, which run beside the committing.

use super::super::surplus::{spare_pools, wants_spare};
use super::*;

impl Committer {
    /// Begins a search unless the same one is under way.
    pub(super) fn search_for(&mut self, need: Need) -> Search {
        let (search, family, target, names) = match need {
            Need::Block { family, pools } => {
                (Search::Room(family, pools.clone()), family, Target::Any, pools)
            }
            Need::BlockOf(address) => {
                let pools = self.settings.pools.iter().filter(|pool| pool.cidr.contains(&address));
                let names = pools.map(|pool| pool.name.clone()).collect();
                (Search::Of(address), Family::of(address), Target::Of(address), names)
            }
            // Handles are looked up by the committer itself.
            Need::Handle(_) => unreachable!("not a search for a block"),
        };
        self.begin(search.clone(), family, target, &names);
        search
    }

    /// Looks after each start, and for each collection, for blocks that have this node's name on
    /// them but were never confirmed, and for those that it borrowed from.
    pub(super) fn seek_named(&mut self) {
        if self.owner.revision.is_none() || self.retry_at.is_some() || !self.named.allows() {
            return;
        }
        for family in std::mem::take(&mut self.unadopted) {
            let search = Search::Named(family);
            if self.searching.contains(&search) {
                // That one may have read already what has changed since.
                self.unadopted.insert(family);
            } else {
                self.begin(search, family, Target::Named, &[]);
            }
        }
    }

    fn begin(&mut self, search: Search, family: Family, target: Target, names: &[String]) {
        if !self.searching.insert(search.clone()) {
            return;
        }
        let config = &self.settings.config;
        let named =
            names.iter().filter_map(|name| self.settings.pools.iter().find(|p| p.name == *name));
        let claim = Claim {
            store: self.store.clone(),
            node: self.cache.node.clone(),
            node_revision: self.owner.revision.unwrap_or(0),
            target,
            family,
            pools: named.cloned().collect(),
            reservations: self.settings.reservations.clone(),
            // A block for an address by name may always be claimed (Calico's rule).
            forbidden: match target {
                Target::Of(_) => None,
                _ => self.forbidden(family),
            },
            borrow: !config.strict_affinity && self.cache.frozen.is_none(),
            cooldown: config.cooldown(),
            census: self.census.get(&family).cloned(),
            now: self.now(),
        };
        self.searches.push(Box::pin(async move { (search, claim.run().await) }));
    }

    /// Why the node may not claim a further block, if it may not.
    pub(super) fn forbidden(&self, family: Family) -> Option<Error> {
        if let Some(freeze) = &self.cache.frozen {
            let (by, since) = (freeze.node.clone(), freeze.since.to_string());
            return Some(Error::Frozen { family, by, since });
        }
        let config = &self.settings.config;
        let limit = config.max_blocks();
        let has = self.cache.owned().filter(|b| Family::of_net(&b.cidr()) == family).count();
        if has >= limit {
            return Some(Error::BlockLimit { family, limit });
        }
        (!config.auto_allocate_blocks).then_some(Error::NoAutomaticBlocks { family })
    }

    /// A search ended: those who waited for it are planned again.
    pub(super) fn searched(&mut self, search: &Search, finished: Finished) {
        self.searching.remove(search);
        let Finished { claim, found } = finished;
        match claim.census {
            // It did not look at others' blocks.
            _ if claim.target == Target::Named => None,
            Some(census) => self.census.insert(claim.family, census),
            None => self.census.remove(&claim.family),
        };
        let mut scarce = None;
        match found {
            Ok(Found::Own { cidr, block, affinity }) => {
                tracing::info!(%cidr, "claimed a block");
                self.is_own(cidr, &block, &affinity);
            }
            Ok(Found::Adopted { own, used }) => {
                self.named.succeeded();
                for (cidr, block, affinity) in own {
                    self.is_own(cidr, &block, &affinity);
                }
                for (cidr, block) in used {
                    self.saw(cidr, &block);
                }
            }
            Ok(Found::Foreign { cidr, block }) => {
                self.saw(cidr, &block);
                let family = claim.family;
                scarce = Some(self.forbidden(family).unwrap_or_else(|| Error::PoolExhausted {
                    family,
                    pools: claim.pools.iter().map(|pool| pool.name.clone()).collect(),
                }));
            }
            Ok(Found::Nothing(reason)) => {
                self.spare_not_before.insert(claim.family, Instant::now() + SPARE_PAUSE);
                // Those who wait for a spare block by chance look harder themselves.
                scarce = (claim.target != Target::Spare).then_some(reason);
            }
            Ok(Found::Fenced) => {
                if let Search::Named(family) = search {
                    self.unadopted.insert(*family);
                }
                self.owner.lose();
            }
            Err(error) => {
                if claim.target == Target::Spare {
                    self.spare_not_before.insert(claim.family, Instant::now() + SPARE_PAUSE);
                }
                self.search_failed(search, error.into());
            }
        }
        for entry in std::mem::take(&mut self.unexplained).into_values() {
            self.observed(Event::Put(entry));
        }
        self.cache.doubt_corrupt();
        for pending in &mut self.pending {
            if pending.search.as_ref() == Some(search) {
                pending.search = None;
                if let Some(reason) = &scarce {
                    pending.effort = Effort::Scarce(reason.clone());
                }
            }
        }
        if let (Some(reason), Search::Of(address)) = (scarce, search) {
            self.no_block_of(*address, &reason);
        }
        if !self.is_adopting() {
            for (live, reply) in std::mem::take(&mut self.collections) {
                live.searched.store(true, Ordering::Relaxed);
                let pending = Pending::new(Work::Collect(live), Waiting::Addresses(reply));
                self.pending.push_back(pending);
            }
        }
    }

    /// A search read a block, which a transaction may have overtaken with a younger state.
    fn saw(&mut self, cidr: IpNet, block: &Entry) {
        let known = self.cache.blocks.revision(&cidr);
        if known < block.mod_revision {
            self.cache.install_block(cidr, Some(block));
        }
    }

    /// True while what this node has in the store is looked for, or has still to be.
    pub(super) fn is_adopting(&self) -> bool {
        let named = |search: &Search| matches!(search, Search::Named(_));
        !self.loaded || !self.unadopted.is_empty() || self.searching.iter().any(named)
    }

    /// A search made a block ours.
    fn is_own(&mut self, cidr: IpNet, block: &Entry, affinity: &Entry) {
        let known = self.cache.affinities.get(&cidr).map_or(0, |seen| seen.revision);
        if known < affinity.mod_revision {
            self.cache.install_affinity(cidr, Some(affinity));
        }
        self.saw(cidr, block);
    }

    /// The block of a requested address cannot be had: tell those who asked for it.
    fn no_block_of(&mut self, address: IpAddr, reason: &Error) {
        if self.cache.blocks.keys().any(|cidr| cidr.contains(&address)) {
            return;
        }
        self.fail_waiting(reason, |pending| {
            let Work::Assign(request) = &pending.work else { return false };
            request.requested_ips.contains(&address)
        });
    }

    /// A search failed: only those who waited for it fail with it, and it is not begun again at once.
    fn search_failed(&mut self, search: &Search, error: Error) {
        let away = matches!(error, Error::StoreUnavailable { .. });
        if let Search::Named(family) = search {
            self.unadopted.insert(*family);
            if !away {
                if self.named.failed(&error) {
                    tracing::warn!(%error, "this node's blocks cannot be looked for");
                }
                for (_, reply) in self.collections.drain(..) {
                    Waiting::Addresses(reply).fail(error.clone());
                }
                return;
            }
        }
        tracing::warn!(%error, "no block found yet");
        if away {
            self.away(&error);
            return;
        }
        self.reachable(Some(&error));
        self.fail_waiting(&error, |pending| pending.search.as_ref() == Some(search));
    }

    /// Looks for a further block of each family whose blocks are nearly full, in good time.
    pub(super) fn seek_spares(&mut self) {
        if self.owner.revision.is_none() || !self.loaded || self.retry_at.is_some() {
            return;
        }
        for family in [Family::V4, Family::V6] {
            let early = self.spare_not_before.get(&family).is_some_and(|at| *at > Instant::now());
            if early || self.forbidden(family).is_some() {
                continue;
            }
            let Ok(pools) = spare_pools(&self.settings, family) else { continue };
            if wants_spare(&self.cache, &self.settings, &pools, None, self.now()) {
                let names: Vec<_> = pools.iter().map(|pool| pool.name.clone()).collect();
                let search = Search::Room(family, names.clone());
                self.begin(search, family, Target::Spare, &names);
            }
        }
    }
}
