//! Blocks that have this node's name on them without being fully its own: somebody's claim or
//! release was cut off in the middle, or the affinity was lost. Nobody else touches them, so
//! their free addresses would be of no use to anyone and their pods announced by nobody. And blocks
//! that this node has addresses in without knowing it: it may have died before it wrote down that it
//! borrowed them, or a transaction was done after everybody had given it up.

use super::*;
use crate::block::AddressState;
use crate::model::AffinityState;

/// How often others may change the same blocks under our hands.
const ATTEMPTS: usize = 5;

impl Claim {
    /// Confirms the affinity of every block that names this node, whatever state it is in: the
    /// block is the truth (Calico's rule). An unconfirmed affinity whose block is not this node's
    /// goes. Lists all blocks of the family.
    pub(super) async fn adopt(&self) -> Result<Found, StoreError> {
        let (mut own, mut used) = (Vec::new(), Vec::new());
        for _ in 0..ATTEMPTS {
            let blocks = self.store.list(model::blocks_of(self.family), None).await?;
            // After the blocks: what is claimed in between has a confirmed affinity by now.
            let prefix = model::affinities_of(&self.node);
            let affinities = self.store.list(&prefix, None).await?;
            used = self.used(&blocks);
            let mut contended = false;
            for (cidr, entry, block) in self.unconfirmed(&blocks, &affinities) {
                let affinity = affinities.get(&model::affinity_key(&self.node, &cidr)).cloned();
                match self.confirm(cidr, entry, block, affinity).await? {
                    Attempt::Won(Found::Own { cidr, block, affinity }) => {
                        tracing::info!(%cidr, "confirmed the affinity of a block of this node");
                        own.push((cidr, block, affinity));
                    }
                    Attempt::Won(found) => return Ok(found),
                    Attempt::Taken(_) | Attempt::Crowded => contended = true,
                }
            }
            for entry in &affinities.entries {
                if let Some(found) = self.drop_if_pointless(entry, &blocks).await? {
                    return Ok(found);
                }
            }
            if !contended {
                return Ok(Found::Adopted { own, used });
            }
        }
        tracing::warn!(family = %self.family, "others keep changing blocks of this node");
        Ok(Found::Adopted { own, used })
    }

    /// Blocks that have addresses of this node, whosever they are.
    fn used(&self, blocks: &Snapshot) -> Vec<(IpNet, Entry)> {
        let found = blocks.entries.iter().filter_map(|entry| {
            let cidr = model::parse_block_key(&entry.key)?;
            let block = model::decode_block(&entry.key, &entry.value).ok()?;
            let ours = block.occupied().any(|(_, state)| match state {
                AddressState::Allocated(attribute, _) => {
                    attribute.get("node") == Some(self.node.as_str())
                }
                _ => false,
            });
            ours.then(|| (cidr, entry.clone()))
        });
        found.collect()
    }

    /// Blocks that name this node and have no confirmed affinity.
    fn unconfirmed(&self, blocks: &Snapshot, affinities: &Snapshot) -> Vec<(IpNet, Entry, Block)> {
        let found = blocks.entries.iter().filter_map(|entry| {
            let cidr = model::parse_block_key(&entry.key)?;
            let block = self.own(entry)?;
            let affinity = affinities.get(&model::affinity_key(&self.node, &cidr));
            let confirmed = affinity.is_some_and(|entry| !is_unconfirmed(entry));
            (!confirmed).then(|| (cidr, entry.clone(), block))
        });
        found.collect()
    }

    /// The block, if it can be read and names this node.
    fn own(&self, entry: &Entry) -> Option<Block> {
        let block = model::decode_block(&entry.key, &entry.value).ok()?;
        (block.node() == Some(self.node.as_str()) && !block.deleted()).then_some(block)
    }

    /// Deletes an unconfirmed affinity whose block does not exist or is somebody else's.
    async fn drop_if_pointless(
        &self,
        affinity: &Entry,
        blocks: &Snapshot,
    ) -> Result<Option<Found>, StoreError> {
        let Some((_, cidr)) = model::parse_affinity_key(&affinity.key) else { return Ok(None) };
        let key = model::block_key(&cidr);
        let block = blocks.get(&key);
        let unreadable = |entry: &Entry| model::decode_block(&key, &entry.value).is_err();
        if Family::of_net(&cidr) != self.family
            || !is_unconfirmed(affinity)
            || block.is_some_and(|entry| self.own(entry).is_some() || unreadable(entry))
        {
            return Ok(None);
        }
        let txn = self
            .fenced()
            .when(affinity.key.clone(), affinity.mod_revision)
            .when(key, block.map_or(0, |entry| entry.mod_revision))
            .delete(affinity.key.clone());
        Ok(match self.store.txn(txn).await? {
            Outcome::Conflict(found) if self.is_fenced(&found) => Some(Found::Fenced),
            // Changed meanwhile: it is somebody's, or the next start's.
            _ => None,
        })
    }
}

/// True if a claim or a release was not brought to its end. One that cannot be read counts as
/// confirmed.
fn is_unconfirmed(affinity: &Entry) -> bool {
    model::decode::<Affinity>(&affinity.key, &affinity.value)
        .is_ok_and(|affinity| affinity.state != AffinityState::Confirmed)
}
