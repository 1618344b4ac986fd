//! Planning and committing what is pending, and answering it.

use super::*;
use crate::block::Block;
use crate::model::{handle_key, parse_block_key};
use crate::pool::Pool;

impl Committer {
    /// Plans and commits as much as fits one transaction. True if there may be more to do.
    pub(super) async fn commit(&mut self, node_revision: Revision) -> Result<bool, Error> {
        let mut draft = Draft::new(&self.cache, &self.settings, &self.assigned, self.now());
        let mut planned: Vec<(usize, Planned)> = Vec::new();
        for (index, pending) in self.pending.iter().enumerate().filter(|(_, p)| p.is_ready()) {
            match self.plan(&mut draft, pending) {
                Planned::Later => break,
                outcome => planned.push((index, outcome)),
            }
        }
        let plan = draft.finish();
        if !plan.is_empty() {
            let txn = plan.transaction(&self.cache, &self.census, node_revision);
            let keys: Vec<String> = txn.compares.iter().map(|c| c.key.clone()).collect();
            match self.store.txn(txn).await {
                Ok(Outcome::Committed(revision)) => {
                    // The log, too, knows of it before the answer.
                    if self.local.is_on() {
                        self.cache.unlogged.extend(plan.blocks.keys());
                    }
                    self.install(plan, revision);
                    if self.settle_log().await.is_err() {
                        self.unanswered(planned);
                        return Ok(true);
                    }
                }
                Ok(Outcome::Conflict(found)) => {
                    // Perhaps of what a claim rests on: a search reads anew what there is.
                    for cidr in &plan.claims {
                        self.census.remove(&Family::of_net(cidr));
                    }
                    self.conflicted(&keys, &found, &planned);
                    return Ok(true);
                }
                Err(error @ StoreError::Rejected { .. }) => {
                    // Only those whose request this was: the next may be smaller, or a read.
                    let error = Error::from(error);
                    self.fail_all(planned, &error);
                    return Err(error);
                }
                Err(error) => {
                    self.uncertain(&plan, planned);
                    return Err(error.into());
                }
            }
        }
        self.answer(planned).await
    }

    /// Plans one request, together with the claim of a block that it needs. Where the node may not
    /// claim a further block, nothing is looked for in the store before its own addresses are used
    /// up, those that rest among them.
    pub(super) fn plan(&self, draft: &mut Draft<'_>, pending: &Pending) -> Planned {
        let mut planned = draft.add(&pending.work, &pending.effort);
        while let Planned::Needs(Need::Block { family, pools }) = &planned
            && let Some(block) = self.claimable(draft, *family, pools)
        {
            draft.claim(block);
            planned = draft.add(&pending.work, &pending.effort);
        }
        let Planned::Needs(Need::Block { family, .. }) = &planned else { return planned };
        let Some(reason) = self.forbidden(*family) else { return planned };
        // Nothing of the node's own: a search tells why, or where there is room.
        match draft.add(&pending.work, &Effort::Scarce(reason)) {
            Planned::Failed(_) => planned,
            scarce => scarce,
        }
    }

    /// A block that can be claimed together with the first addresses of it, by what is known of the
    /// others. A search that is under way would choose the same one, but where each block is one
    /// address.
    fn claimable(&self, draft: &Draft<'_>, family: Family, names: &[String]) -> Option<Block> {
        if !draft.may_claim(family) || self.forbidden(family).is_some() {
            return None;
        }
        let pools = self.settings.pools.iter().filter(|pool| names.contains(&pool.name));
        let pools: Vec<Pool> = pools.cloned().collect();
        let room = |search: &Search| matches!(search, Search::Room(of, _) if *of == family);
        if self.searching.iter().any(room) && !pools.iter().all(Pool::has_single_blocks) {
            return None;
        }
        let (census, node, now) = (self.census.get(&family)?, &self.cache.node, self.now());
        let cidr = census.free_block(&pools, node, now, &self.settings.reservations)?;
        Block::new(cidr, Some(format!("host:{node}")), now).ok()
    }

    /// The transaction was done: what it wrote is what there is.
    fn install(&mut self, plan: Plan, revision: Revision) {
        for cidr in plan.claims {
            tracing::info!(%cidr, "claimed a block");
            if let Some(census) = self.census.get_mut(&Family::of_net(&cidr)) {
                census.created(&cidr, revision);
            }
            let affinity = Entry {
                key: model::affinity_key(&self.cache.node, &cidr),
                value: model::encode(&model::Affinity::default()).into(),
                mod_revision: revision,
            };
            self.cache.install_affinity(cidr, Some(&affinity));
        }
        for (cidr, block) in plan.blocks {
            match block {
                Some(value) => {
                    // Of others' blocks the addresses are announced.
                    self.cache.moved |= !self.cache.owns(&cidr);
                    self.cache.blocks.insert(cidr, Seen { value, revision });
                }
                None => self.cache.install_block(cidr, None),
            }
        }
        for (handle, record) in plan.handles {
            match record {
                Some(value) => {
                    self.cache.handles.insert(handle, Seen { value, revision });
                }
                None => {
                    self.cache.handles.remove(&handle);
                }
            }
        }
    }

    /// Somebody else wrote what we compared: learn it. Requests are planned again.
    fn conflicted(
        &mut self,
        keys: &[String],
        found: &[Option<Entry>],
        planned: &[(usize, Planned)],
    ) {
        let mut culprit = "";
        for (key, entry) in keys.iter().zip(found) {
            let revision = entry.as_ref().map_or(0, |entry| entry.mod_revision);
            if *key == model::node_key(&self.cache.node) {
                if self.owner.revision != Some(revision) {
                    culprit = key;
                    self.owner.lose();
                }
            } else if let Some(cidr) = parse_block_key(key) {
                let known = self.cache.blocks.revision(&cidr);
                if self.went_back(key, known, entry.as_ref()) {
                    culprit = key;
                    break;
                }
                if known != revision {
                    culprit = key;
                    self.cache.install_block(cidr, entry.as_ref());
                }
            } else if key == model::FROZEN {
                if revision != 0 {
                    culprit = key;
                    self.is_frozen(entry.as_ref());
                }
            } else if let Some(node) = key.strip_prefix(model::LOCAL)
                && revision != 0
            {
                culprit = key;
                self.cache.exclusive.insert(node.to_owned());
            } else if let Some(handle) = key.strip_prefix(model::HANDLES)
                && self.cache.handles.get(handle).map_or(0, |seen| seen.revision) != revision
            {
                culprit = key;
                self.cache.install_handle(handle, entry.as_ref());
            }
        }
        tracing::debug!(key = culprit, "conflict");
        self.count(|status| status.conflicts += 1);
        // Highest first: removing one does not move those still to come.
        for (index, _) in planned.iter().rev() {
            let Some(pending) = self.pending.get_mut(*index) else { continue };
            pending.conflicts += 1;
            if pending.conflicts > MOST_CONFLICTS
                && let Some(pending) = self.pending.remove(*index)
            {
                let key = culprit.to_owned();
                pending.waiting.fail(Error::Contention { attempts: MOST_CONFLICTS, key });
            }
        }
    }

    /// No answer: the transaction may have been done. Its blocks and handles are read again before
    /// anything else is planned.
    fn uncertain(&mut self, plan: &Plan, planned: Vec<(usize, Planned)>) {
        self.fence();
        self.cache.stale.extend(plan.blocks.keys());
        for family in plan.claims.iter().map(Family::of_net) {
            // Whether it is ours by now is looked for.
            self.census.remove(&family);
            self.unadopted.insert(family);
        }
        for handle in plan.handles.keys() {
            // Unknown now; the next comparison finds out.
            self.cache.handles.remove(handle);
        }
        self.unanswered(planned);
    }

    /// What was perhaps given is remembered, so that it goes back if nobody waits for it any more.
    fn unanswered(&mut self, planned: Vec<(usize, Planned)>) {
        for (index, outcome) in planned {
            if let (Some(pending), Planned::Assigned { new, .. }) =
                (self.pending.get_mut(index), outcome)
            {
                pending.tentative.extend(new);
            }
        }
    }

    fn fail_all(&mut self, planned: Vec<(usize, Planned)>, error: &Error) {
        for (index, outcome) in planned.into_iter().rev() {
            let nobody = |p: &Pending| matches!(p.waiting, Waiting::Nobody);
            if !matches!(outcome, Planned::Needs(_))
                && !self.pending.get(index).is_some_and(nobody)
                && let Some(pending) = self.pending.remove(index)
            {
                let refused = match outcome {
                    Planned::Failed(own) => own,
                    _ => error.clone(),
                };
                pending.waiting.fail(refused);
            }
        }
    }

    /// Answers what was done, and starts looking for what is missing.
    pub(super) async fn answer(&mut self, planned: Vec<(usize, Planned)>) -> Result<bool, Error> {
        let mut progress = false;
        let mut undo: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let mut kept: BTreeSet<String> = BTreeSet::new();
        let mut lookups = Vec::new();
        let mut done = Vec::new();
        for (index, outcome) in planned {
            let Some(pending) = self.pending.get_mut(index) else { continue };
            match outcome {
                Planned::Needs(Need::Handle(handle)) => {
                    lookups.push((index, handle));
                    continue;
                }
                Planned::Needs(need) => {
                    let need = self.search_for(need);
                    if let Some(pending) = self.pending.get_mut(index) {
                        pending.search = Some(need);
                    }
                    continue;
                }
                Planned::Released { addresses, more: true } => {
                    pending.released.extend(addresses);
                    progress = true;
                    continue;
                }
                outcome => done.push((index, outcome)),
            }
        }
        // Those who asked meanwhile are company too: else two halves would take turns for good.
        let company = done.len() + self.queued.load(Ordering::SeqCst);
        self.answered = if done.is_empty() { 0 } else { company };
        if done.len() > 1 {
            self.together = Some(Instant::now());
        }
        // Highest first: removing one does not move those still to come.
        for (index, outcome) in done.into_iter().rev() {
            let Some(pending) = self.pending.remove(index) else { continue };
            progress = true;
            match (outcome, pending.waiting, pending.work) {
                (
                    Planned::Assigned { assignment, new },
                    Waiting::Assign(reply),
                    Work::Assign(request),
                ) => {
                    let at = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
                    self.assigned.insert(request.handle.clone(), at);
                    let mut new: BTreeSet<_> = new.into_iter().collect();
                    new.extend(
                        pending
                            .tentative
                            .iter()
                            .filter(|address| assignment.ips().any(|given| given == **address)),
                    );
                    if reply.send(Ok(assignment)).is_ok() {
                        kept.insert(request.handle);
                    } else if !new.is_empty() {
                        undo.entry(request.handle).or_default().extend(new);
                    }
                }
                (Planned::Released { addresses, .. }, waiting, work) => {
                    match &work {
                        Work::Release { handle, .. } | Work::Undo { handle, .. } => {
                            self.assigned.remove(handle);
                        }
                        Work::Collect(live) => self.assigned.retain(|handle, at| {
                            *at > live.epoch.0 || live.handles.contains(handle)
                        }),
                        Work::Assign(_) => {}
                    }
                    let mut all = pending.released;
                    all.extend(addresses);
                    if let Waiting::Addresses(reply) = waiting {
                        let _ = reply.send(Ok(all));
                    }
                }
                (Planned::Failed(error), waiting, _) => waiting.fail(error),
                _ => {}
            }
        }
        // A second request with the same handle that was answered keeps the addresses.
        for (handle, addresses) in undo.into_iter().filter(|(handle, _)| !kept.contains(handle)) {
            let work = Work::Undo { handle, addresses };
            self.pending.push_front(Pending::new(work, Waiting::Nobody));
        }
        if !lookups.is_empty() {
            self.look_up(lookups.into_iter().map(|(_, handle)| handle).collect()).await?;
            progress = true;
        }
        Ok(progress)
    }

    /// Reads what the store has under these handles, and the blocks they name.
    async fn look_up(&mut self, handles: BTreeSet<String>) -> Result<(), Error> {
        let keys: Vec<String> = handles.iter().map(|handle| handle_key(handle)).collect();
        for chunk in keys.chunks(crate::store::MAX_TXN_OPS) {
            let snapshot = self.store.read(chunk).await?;
            for key in chunk {
                let handle = key.strip_prefix(model::HANDLES).unwrap_or_default();
                self.cache.install_handle(handle, snapshot.get(key));
            }
        }
        for handle in &handles {
            let Some(seen) = self.cache.handles.get(handle) else { continue };
            let unread = seen.value.block.keys().filter(|cidr| !self.cache.owns(cidr));
            self.cache.stale.extend(unread.copied().collect::<Vec<_>>());
        }
        self.refresh().await?;
        for pending in &mut self.pending {
            if let Work::Release { handle, looked_up } = &mut pending.work
                && handles.contains(handle)
            {
                *looked_up = true;
            }
        }
        Ok(())
    }
}
