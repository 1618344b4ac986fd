//! What the log has beyond the store, as transactions. Pure.
//!
//! A transaction takes over the changes of as many addresses as fit, each with the records of the
//! handles that it is about, so that blocks and handles agree after every one of them. One whose
//! outcome is not known is kept whole, and repeated as it is until that is known: then the store has
//! it, or something else that is learnt, and only then the next difference is computed.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::cache::{Cache, Seen};
use crate::block::Block;
use crate::model::{self, Handle};
use crate::store::{MAX_TXN_OPS, Revision, Txn};

/// Comparisons of every transaction: the name is this instance's, and the mode is in force.
const GUARDS: usize = 2;

/// A transaction on its way to the store, and what it makes of blocks and handles.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub(crate) txn: Txn,
    pub(crate) blocks: BTreeMap<IpNet, Block>,
    pub(crate) handles: BTreeMap<String, Option<Handle>>,
}

/// The next transaction, under the revisions of the node's record and of its mark; None if the
/// store has everything.
pub(crate) fn next(cache: &Cache, node: Revision, mark: Revision) -> Option<Flight> {
    let most = MAX_TXN_OPS - GUARDS;
    let mut touched: BTreeSet<&str> = BTreeSet::new();
    let mut blocks: BTreeMap<IpNet, Block> = BTreeMap::new();
    for (cidr, base) in &cache.ahead {
        let Some(seen) = cache.blocks.get(cidr) else { continue };
        if blocks.len() + touched.len() + 1 + 2 > most {
            break;
        }
        let (mut some, mut all) = (BTreeSet::new(), true);
        for difference in base.differences(&seen.value) {
            let mut handles: Vec<&str> = difference.handles.into_iter().flatten().collect();
            handles.retain(|handle| !touched.contains(handle));
            handles.dedup();
            if blocks.len() + 1 + touched.len() + handles.len() > most {
                all = false;
                break;
            }
            touched.extend(handles);
            some.insert(difference.ordinal);
        }
        let goal = if all { seen.value.clone() } else { base.toward(&seen.value, &some) };
        blocks.insert(*cidr, goal);
    }
    if blocks.is_empty() {
        return None;
    }
    let mut txn = Txn::default()
        .when(model::node_key(&cache.node), node)
        .when(model::local_key(&cache.node), mark);
    for (cidr, block) in &blocks {
        let key = model::block_key(cidr);
        let revision = cache.blocks.revision(cidr);
        txn = txn.when(key.clone(), revision).put(key, block.encode());
    }
    let mut handles = BTreeMap::new();
    for handle in touched {
        let known = cache.handles.get(handle);
        let mut record = known.map(|seen| seen.value.clone()).unwrap_or_default();
        for (cidr, block) in &blocks {
            match block.addresses_of(handle).count() {
                0 => drop(record.block.remove(cidr)),
                count => {
                    record.block.insert(*cidr, u32::try_from(count).unwrap_or(u32::MAX));
                }
            }
        }
        let key = model::handle_key(handle);
        txn = txn.when(key.clone(), known.map_or(0, |seen| seen.revision));
        let value = (!record.block.is_empty()).then_some(record);
        txn = match &value {
            Some(record) => txn.put(key, model::encode(record)),
            None => txn.delete(key),
        };
        handles.insert(handle.to_owned(), value);
    }
    Some(Flight { txn, blocks, handles })
}

impl Flight {
    /// The store has it, under this revision.
    pub(crate) fn landed(self, cache: &mut Cache, revision: Revision) {
        for (cidr, block) in self.blocks {
            cache.written(cidr, block, revision);
        }
        for (handle, record) in self.handles {
            match record {
                Some(value) => drop(cache.handles.insert(handle, Seen { value, revision })),
                None => drop(cache.handles.remove(&handle)),
            }
        }
    }
}
