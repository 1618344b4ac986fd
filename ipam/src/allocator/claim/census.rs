//! The blocks that exist, and the proof that a new one overlaps none of them.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::model;
use crate::net::{Family, Nets};
use crate::pool::Pool;
use crate::store::{Keys, Revision, Store, StoreError, Txn};
use crate::timestamp::Timestamp;

/// The blocks of a family that exist, as they were listed. It may be old: every claim proves that
/// no block was created near the one it makes since then, by whomever and of whatever size.
#[derive(Clone, Debug)]
pub(crate) struct Census {
    pub(crate) occupied: Nets,
    revision: Revision,
    /// The prefixes of keys under which a claim of ours proved a younger state.
    proven: BTreeMap<String, Revision>,
}

impl Census {
    /// Lists the blocks that there are, whoever has them.
    pub(crate) async fn list(
        store: &dyn Store,
        family: Family,
    ) -> Result<(Self, Vec<IpNet>), StoreError> {
        let Keys { keys, revision } = store.list_keys(model::blocks_of(family)).await?;
        let nets: Vec<IpNet> = keys.iter().filter_map(|key| model::parse_block_key(key)).collect();
        let occupied = nets.iter().collect();
        Ok((Self { occupied, revision, proven: BTreeMap::new() }, nets))
    }

    /// Of no block.
    #[cfg(test)]
    pub(super) fn empty() -> Self {
        Self { occupied: Nets::default(), revision: 0, proven: BTreeMap::new() }
    }

    /// The first block of one of the pools that is free, as far as is known.
    pub(crate) fn free_block(
        &self,
        pools: &[Pool],
        node: &str,
        now: Timestamp,
        reservations: &[IpNet],
    ) -> Option<IpNet> {
        let reserved: Nets = reservations.iter().collect();
        pools.iter().find_map(|pool| pool.free_block(node, now, &self.occupied, &reserved))
    }

    /// Makes sure that no block overlaps `cidr` when the transaction is done.
    pub(crate) fn guard(&self, mut txn: Txn, cidr: &IpNet) -> Txn {
        let (prefixes, keys) = model::overlapping_blocks(cidr);
        for key in keys {
            txn = txn.when(key, 0);
        }
        for prefix in prefixes {
            let since = self.proven.get(&prefix).map_or(self.revision, |since| *since);
            txn = txn.when_none_created(prefix, since);
        }
        txn
    }

    /// A guarded transaction that creates this block was done.
    pub(crate) fn created(&mut self, cidr: &IpNet, revision: Revision) {
        self.occupied.insert(cidr);
        let (prefixes, _) = model::overlapping_blocks(cidr);
        self.proven.extend(prefixes.into_iter().map(|prefix| (prefix, revision)));
    }
}
