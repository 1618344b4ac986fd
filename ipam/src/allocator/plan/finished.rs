//! The end of a draft: what is written, as one transaction.

use super::*;
use crate::model::Affinity;
use crate::store::{Revision, Txn};

/// A finished plan.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Blocks to write; None: to delete.
    pub(crate) blocks: BTreeMap<IpNet, Option<Block>>,
    pub(crate) relied_on: BTreeSet<IpNet>,
    /// Handles to write; None: to delete.
    pub(crate) handles: BTreeMap<String, Option<Handle>>,
    /// Nodes that must not be in local-first mode.
    pub(crate) lenders: BTreeSet<String>,
    /// Those of the blocks that are claimed.
    pub(crate) claims: BTreeSet<IpNet>,
}

impl Draft<'_> {
    /// What is to be written.
    pub(crate) fn finish(self) -> Plan {
        let (relied_on, lenders) = (self.relied_on.clone(), self.lenders.clone());
        let claims = self.claims.clone();
        let mut plan = Plan { relied_on, lenders, claims, ..Plan::default() };
        let mut counts: HashMap<&str, BTreeMap<IpNet, u32>> = HashMap::new();
        for (cidr, (block, changed)) in &self.blocks {
            for handle in
                block.handles().filter(|handle| *changed && self.handles.contains(*handle))
            {
                *counts.entry(handle).or_default().entry(*cidr).or_default() += 1;
            }
        }
        for handle in &self.handles {
            let known = self.cache.handles.get(handle);
            let mut record = known.map(|seen| seen.value.clone()).unwrap_or_default();
            // The blocks are the truth; what is not known here is left as it is.
            record.block.retain(|cidr, _| {
                let known = self.is_changed(cidr) || self.relied_on.contains(cidr);
                let holds = |block: &Block| block.addresses_of(handle).next().is_some();
                !known || self.block(cidr).is_some_and(holds)
            });
            record.block.extend(counts.remove(handle.as_str()).unwrap_or_default());
            if known.is_none_or(|seen| seen.value != record) {
                let value = (!record.block.is_empty()).then_some(record);
                if known.is_some() || value.is_some() || self.freed(handle) {
                    plan.handles.insert(handle.clone(), value);
                }
            }
        }
        for (cidr, (mut block, changed)) in self.blocks {
            if changed {
                plan.relied_on.remove(&cidr);
                block.seal();
                let keep = block.affinity().is_some() || !block.is_empty();
                plan.blocks.insert(cidr, keep.then_some(block));
            }
        }
        plan
    }

    /// True if the handle loses something by this draft: then its record may exist, unseen.
    fn freed(&self, handle: &str) -> bool {
        let held = |block: &Block| block.addresses_of(handle).count();
        self.blocks.iter().any(|(cidr, (block, _))| {
            self.cache.blocks.get(cidr).is_some_and(|seen| held(&seen.value) > held(block))
        })
    }
}

impl Plan {
    /// True if there is nothing to ask the store.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.handles.is_empty() && self.relied_on.is_empty()
    }

    /// The transaction. It compares everything that it writes or rests on.
    pub(crate) fn transaction(
        &self,
        cache: &Cache,
        census: &HashMap<Family, Census>,
        node_revision: Revision,
    ) -> Txn {
        let mut txn = Txn::default().when(model::node_key(&cache.node), node_revision);
        let revision = |cidr| cache.blocks.revision(cidr);
        for (cidr, block) in &self.blocks {
            let key = model::block_key(cidr);
            txn = txn.when(key.clone(), revision(cidr));
            txn = match block {
                Some(block) => txn.put(key, block.encode()),
                None => txn.delete(key),
            };
        }
        for cidr in &self.relied_on {
            txn = txn.when(model::block_key(cidr), revision(cidr));
        }
        for node in &self.lenders {
            txn = txn.when(model::local_key(node), 0);
        }
        for cidr in &self.claims {
            let key = model::affinity_key(&cache.node, cidr);
            let leftover = cache.affinities.get(cidr).map_or(0, |seen| seen.revision);
            txn = txn.when(key.clone(), leftover).put(key, model::encode(&Affinity::default()));
            if let Some(census) = census.get(&Family::of_net(cidr)) {
                txn = census.guard(txn, cidr);
            }
        }
        if !self.lenders.is_empty() || !self.claims.is_empty() {
            txn = txn.when(model::FROZEN, 0);
        }
        for (handle, record) in &self.handles {
            let key = model::handle_key(handle);
            txn = txn.when(key.clone(), cache.handles.get(handle).map_or(0, |seen| seen.revision));
            txn = match record {
                Some(record) => txn.put(key, model::encode(record)),
                None => txn.delete(key),
            };
        }
        txn
    }
}
