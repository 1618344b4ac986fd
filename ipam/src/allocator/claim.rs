//! Getting a block: a free one, an abandoned one, or room in somebody else's.
//!
//! A claim is one transaction over the affinity and the block, so readers never see a state that
//! is not one of Calico's. It runs beside the committer, which goes on serving from the blocks it
//! has.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::block::Block;
use crate::error::Error;
use crate::model::{self, Affinity};
use crate::net::{Family, network};
use crate::pool::Pool;
use crate::store::{Entry, Outcome, Revision, Snapshot, Store, StoreError, Txn};
use crate::timestamp::Timestamp;

mod adopt;
mod census;

pub(crate) use census::Census;

/// An empty block of another node may be taken this long after it was claimed (Calico's rule): its
/// owner surely means to use a younger one.
const RECLAIM_AGE: Duration = Duration::from_secs(60);

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A block of one of the pools, best a free one.
    Any,
    /// A free block only: a reserve is not worth anybody's block.
    Spare,
    /// The block that holds this address.
    Of(IpAddr),
    /// What has this node's name on it already.
    Named,
}

/// One search.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) node: String,
    pub(crate) node_revision: Revision,
    pub(crate) target: Target,
    pub(crate) family: Family,
    /// In the order to try them.
    pub(crate) pools: Vec<Pool>,
    pub(crate) reservations: Vec<IpNet>,
    /// Why the node may not claim a block, if it may not.
    pub(crate) forbidden: Option<Error>,
    /// Whether addresses of others' blocks may be used.
    pub(crate) borrow: bool,
    pub(crate) cooldown: Duration,
    /// The blocks that exist, as far as known from an earlier search.
    pub(crate) census: Option<Census>,
    pub(crate) now: Timestamp,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A block that now is this node's.
    Own { cidr: IpNet, block: Entry, affinity: Entry },
    /// Blocks that had this node's name on them and now are its own: network, block, affinity; and
    /// all that have addresses of this node, whosever they are.
    Adopted { own: Vec<(IpNet, Entry, Entry)>, used: Vec<(IpNet, Entry)> },
    /// A block of somebody else with room.
    Foreign { cidr: IpNet, block: Entry },
    /// Nothing, for this reason.
    Nothing(Error),
    /// Another instance owns this node's name.
    Fenced,
}

/// The end of a search.
pub(crate) struct Finished {
    pub(crate) claim: Claim,
    pub(crate) found: Result<Found, StoreError>,
}

/// The outcome of one attempt at one block.
enum Attempt {
    Won(Found),
    Taken(Entry),
    /// A block that is not in the census overlaps it.
    Crowded,
}

impl Claim {
    pub(crate) async fn run(mut self) -> Finished {
        let found = match self.target {
            Target::Any | Target::Spare => self.any().await,
            Target::Of(address) => self.of(address).await,
            Target::Named => self.adopt().await,
        };
        Finished { claim: self, found }
    }

    async fn any(&mut self) -> Result<Found, StoreError> {
        let mut reason = Error::PoolExhausted {
            family: self.family,
            pools: self.pools.iter().map(|pool| pool.name.clone()).collect(),
        };
        if let Some(forbidden) = self.forbidden.clone() {
            reason = forbidden;
        } else if let Some(found) = self.free_block().await? {
            return Ok(found);
        }
        if self.target == Target::Spare || (self.forbidden.is_some() && !self.borrow) {
            return Ok(Found::Nothing(reason));
        }
        // Before the blocks: what a mark of then hides is not looked at, what one of now hides is
        // found out by the transaction.
        let marks = self.store.list_keys(model::LOCAL).await?.keys;
        let mut all = self.store.list(model::blocks_of(self.family), None).await?;
        all.entries.retain(|entry| {
            let block = model::decode_block(&entry.key, &entry.value).ok();
            let marked = |block: &Block| {
                block.node().is_some_and(|node| marks.contains(&model::local_key(node)))
            };
            !block.as_ref().is_some_and(marked)
        });
        if self.forbidden.is_none()
            && let Some(found) = self.abandoned_block(&all).await?
        {
            return Ok(found);
        }
        if self.borrow
            && let Some(found) = self.room(&all)
        {
            return Ok(found);
        }
        Ok(Found::Nothing(reason))
    }

    /// Walks the pools for a block that does not exist. What is known of the others may be old: a
    /// conflict, or finding none free, makes it be read again.
    async fn free_block(&mut self) -> Result<Option<Found>, StoreError> {
        let (mut census, mut fresh) = match self.census.take() {
            Some(census) => (census, false),
            None => (self.list().await?.0, true),
        };
        loop {
            let candidate =
                census.free_block(&self.pools, &self.node, self.now, &self.reservations);
            let found = match candidate {
                None if fresh => Some(None),
                None => None,
                Some(cidr) => match self.take(cidr, &mut census).await? {
                    Attempt::Won(found) => Some(Some(found)),
                    Attempt::Taken(_) | Attempt::Crowded => None,
                },
            };
            if let Some(found) = found {
                self.census = Some(census);
                return Ok(found);
            }
            census = self.list().await?.0;
            fresh = true;
        }
    }

    async fn list(&self) -> Result<(Census, Vec<IpNet>), StoreError> {
        Census::list(&*self.store, self.family).await
    }

    /// Creates a block that overlaps none, or takes possession of one that has this node's name on
    /// it already.
    async fn take(&self, cidr: IpNet, census: &mut Census) -> Result<Attempt, StoreError> {
        let affinity = Some(format!("host:{}", self.node));
        let (affinity_key, block_key) =
            (model::affinity_key(&self.node, &cidr), model::block_key(&cidr));
        let Ok(block) = Block::new(cidr, affinity, self.now) else {
            return Ok(Attempt::Won(Found::Nothing(Error::Invalid(format!(
                "a block {cidr} would be too large"
            )))));
        };
        // What is left of a claim that its claimant did not finish.
        let mut leftover = 0;
        loop {
            let txn = self
                .fenced()
                .when(affinity_key.clone(), leftover)
                .when(block_key.clone(), 0)
                .put(affinity_key.clone(), model::encode(&Affinity::default()))
                .put(block_key.clone(), block.encode());
            let txn = census.guard(txn, &cidr).when(model::FROZEN, 0);
            let found = match self.store.txn(txn.clone()).await? {
                Outcome::Committed(revision) => {
                    census.created(&cidr, revision);
                    return Ok(Attempt::Won(self.won(cidr, &txn, revision)));
                }
                Outcome::Conflict(found) => found,
            };
            if self.is_fenced(&found) {
                return Ok(Attempt::Won(Found::Fenced));
            }
            if let Some(Some(freeze)) = found.last() {
                return Ok(Attempt::Won(Found::Nothing(Error::frozen(self.family, freeze))));
            }
            let mut rest = found.into_iter().skip(1);
            match (rest.next().flatten(), rest.next().flatten()) {
                (affinity, Some(existing)) => {
                    let read = model::decode_block(&block_key, &existing.value);
                    if let Ok(block) = read
                        && block.node() == Some(self.node.as_str())
                    {
                        // It is not free, whatever becomes of it: the next search looks further.
                        census.occupied.insert(&cidr);
                        return self.confirm(cidr, existing, block, affinity).await;
                    }
                    return Ok(Attempt::Taken(existing));
                }
                (affinity, None) => {
                    let revision = affinity.map_or(0, |entry| entry.mod_revision);
                    if revision == leftover {
                        return Ok(Attempt::Crowded);
                    }
                    leftover = revision;
                }
            }
        }
    }

    /// Confirms the affinity of a block that has this node's name on it. The block is written too:
    /// whoever was about to release it in steps of its own, as Calico does, has to look again.
    async fn confirm(
        &self,
        cidr: IpNet,
        entry: Entry,
        mut block: Block,
        affinity: Option<Entry>,
    ) -> Result<Attempt, StoreError> {
        let key = model::affinity_key(&self.node, &cidr);
        block.seal();
        let txn = self
            .fenced()
            .when(key.clone(), affinity.map_or(0, |entry| entry.mod_revision))
            .when(entry.key.clone(), entry.mod_revision)
            .put(key, model::encode(&Affinity::default()))
            .put(entry.key.clone(), block.encode());
        match self.store.txn(txn.clone()).await? {
            Outcome::Committed(revision) => Ok(Attempt::Won(self.won(cidr, &txn, revision))),
            Outcome::Conflict(found) if self.is_fenced(&found) => Ok(Attempt::Won(Found::Fenced)),
            // Somebody changes it right now; leave it for the next search.
            Outcome::Conflict(_) => Ok(Attempt::Taken(entry)),
        }
    }

    /// Takes over a block that has no allocation and that its owner has had for long enough.
    async fn abandoned_block(&self, all: &Snapshot) -> Result<Option<Found>, StoreError> {
        for (cidr, entry, mut block) in self.blocks_in_pools(all) {
            block.expire(self.now, self.cooldown);
            let old = block.claimed_at().is_none_or(|at| at.plus(RECLAIM_AGE) <= self.now);
            let virtual_owner = block.affinity().is_some() && block.node().is_none();
            let usable = block.is_empty() && block.free(&self.reservations).next().is_some();
            if !usable || !old || virtual_owner || block.node() == Some(&self.node) {
                continue;
            }
            let mine = model::affinity_key(&self.node, &cidr);
            let theirs = block.affinity().and_then(|owner| model::affinity_key_of(owner, &cidr));
            let keys: Vec<_> = [Some(mine.clone()), theirs.clone()].into_iter().flatten().collect();
            let affinities = self.store.read(&keys).await?;
            let revision = |key: &str| affinities.get(key).map_or(0, |entry| entry.mod_revision);
            // One that may have given addresses that the store does not know yet.
            let mark = block.node().map(model::local_key);
            block.set_affinity(Some(format!("host:{}", self.node)), self.now);
            block.seal();
            let mut txn = self
                .fenced()
                .when(entry.key.clone(), entry.mod_revision)
                .when(mine.clone(), revision(&mine))
                .put(mine, model::encode(&Affinity::default()))
                .put(entry.key.clone(), block.encode());
            if let Some(theirs) = theirs {
                txn = txn.when(theirs.clone(), revision(&theirs)).delete(theirs);
            }
            if let Some(mark) = mark {
                txn = txn.when(mark, 0);
            }
            txn = txn.when(model::FROZEN, 0);
            match self.store.txn(txn.clone()).await? {
                Outcome::Committed(revision) => {
                    tracing::info!(%cidr, "took over an empty block");
                    return Ok(Some(self.won(cidr, &txn, revision)));
                }
                Outcome::Conflict(found) if self.is_fenced(&found) => {
                    return Ok(Some(Found::Fenced));
                }
                Outcome::Conflict(_) => {}
            }
        }
        Ok(None)
    }

    /// A block of somebody else with a free address. Which one depends on the node's name, so that
    /// many borrowers do not all write the same block.
    fn room(&self, all: &Snapshot) -> Option<Found> {
        let mut with_room: Vec<_> = self
            .blocks_in_pools(all)
            .filter(|(_, _, block)| {
                let mut block = block.clone();
                block.expire(self.now, self.cooldown);
                // What belongs to no node but to something else, as Services, is not lent.
                let lent = block.affinity().is_none() || block.node().is_some();
                let theirs = lent && block.node() != Some(self.node.as_str()) && !block.deleted();
                theirs && block.free(&self.reservations).next().is_some()
            })
            .map(|(cidr, entry, _)| (cidr, entry))
            .collect();
        if with_room.is_empty() {
            return None;
        }
        let at = crate::pool::hash(&self.node) as usize % with_room.len();
        let (cidr, block) = with_room.swap_remove(at);
        Some(Found::Foreign { cidr, block: block.clone() })
    }

    /// Readable blocks of the pools, pool by pool.
    fn blocks_in_pools<'a>(
        &'a self,
        all: &'a Snapshot,
    ) -> impl Iterator<Item = (IpNet, &'a Entry, Block)> {
        self.pools.iter().flat_map(move |pool| {
            all.entries.iter().filter_map(move |entry| {
                let cidr = model::parse_block_key(&entry.key)?;
                if !pool.cidr.contains(&cidr) {
                    return None;
                }
                let block = model::decode_block(&entry.key, &entry.value).ok()?;
                Some((cidr, entry, block))
            })
        })
    }

    /// The block that holds an address, whoever's it is; claimed if there is none.
    async fn of(&mut self, address: IpAddr) -> Result<Found, StoreError> {
        let none = Found::Nothing(Error::NotInPool { address });
        let Some(pool) = self.pools.iter().find(|pool| pool.cidr.contains(&address)) else {
            return Ok(none);
        };
        let wanted = network(address, pool.block_size);
        let (mut census, mut nets) = self.list().await?;
        let mut existing = nets.iter().copied().find(|cidr| cidr.contains(&address));
        if existing.is_none() && self.forbidden.is_none() {
            // Until nobody makes a block near it meanwhile.
            while !census.occupied.overlaps(&wanted) {
                match self.take(wanted, &mut census).await? {
                    Attempt::Won(found) => {
                        self.census = Some(census);
                        return Ok(found);
                    }
                    Attempt::Taken(block) => return Ok(Found::Foreign { cidr: wanted, block }),
                    Attempt::Crowded => (census, nets) = self.list().await?,
                }
            }
            existing = nets.iter().copied().find(|cidr| cidr.contains(&address));
        }
        if let Some(cidr) = existing {
            let keys = [model::block_key(&cidr), model::affinity_key(&self.node, &cidr)];
            let read = self.store.read(&keys).await?;
            let Some(block) = read.get(&keys[0]).cloned() else {
                return Ok(Found::Nothing(Error::Contention { attempts: 1, key: keys[0].clone() }));
            };
            let decoded = match model::decode_block(&keys[0], &block.value) {
                Ok(decoded) => decoded,
                Err(corrupt) => return Ok(Found::Nothing(corrupt.into())),
            };
            if decoded.node() != Some(self.node.as_str()) {
                return Ok(Found::Foreign { cidr, block });
            }
            return Ok(
                match self.confirm(cidr, block, decoded, read.get(&keys[1]).cloned()).await? {
                    Attempt::Won(found) => found,
                    Attempt::Taken(block) => Found::Foreign { cidr, block },
                    Attempt::Crowded => none,
                },
            );
        }
        let overlap = nets.into_iter().find(|cidr| wanted.contains(cidr));
        Ok(Found::Nothing(match (self.forbidden.clone(), overlap) {
            (Some(forbidden), _) => forbidden,
            (None, Some(existing)) => Error::Overlap { address, wanted, existing },
            (None, None) => Error::NotInPool { address },
        }))
    }

    fn fenced(&self) -> Txn {
        Txn::default().when(model::node_key(&self.node), self.node_revision)
    }

    fn is_fenced(&self, found: &[Option<Entry>]) -> bool {
        let node = found.first().and_then(Option::as_ref);
        node.map_or(0, |entry| entry.mod_revision) != self.node_revision
    }

    /// What a committed claim wrote.
    fn won(&self, cidr: IpNet, txn: &Txn, mod_revision: Revision) -> Found {
        let written = |key: &str| {
            let value = txn.writes.iter().find_map(|write| match write {
                crate::store::Write::Put(k, value) if k == key => Some(value.as_slice()),
                _ => None,
            });
            Entry { key: key.to_owned(), value: value.unwrap_or_default().into(), mod_revision }
        };
        let block = written(&model::block_key(&cidr));
        let affinity = written(&model::affinity_key(&self.node, &cidr));
        Found::Own { cidr, block, affinity }
    }
}

#[cfg(test)]
mod tests;
