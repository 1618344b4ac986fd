//! What a node that is gone has left behind, and what of it one transaction gives back. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::block::{AddressState, Attribute, Block, Release};
use crate::model::{self, Affinity, Handle};
use crate::store::{MAX_TXN_OPS, Revision, Txn};
use crate::timestamp::Timestamp;

/// Something that was read, and the revision that wrote it.
pub(super) type Read<T> = (T, Revision);

/// What was read of the store before the node was proven gone.
pub(super) struct Estate {
    pub(super) node: String,
    /// The record that the node is one of Kubernetes, while there is one.
    pub(super) uid: Revision,
    /// Every block that can be read: any may hold an address of the node.
    pub(super) blocks: BTreeMap<IpNet, Read<Block>>,
    /// Blocks that cannot be read.
    pub(super) unreadable: BTreeMap<IpNet, Revision>,
    /// The node's affinities; None: one that cannot be read.
    pub(super) affinities: BTreeMap<IpNet, Read<Option<Affinity>>>,
    pub(super) cooldown: Duration,
    pub(super) now: Timestamp,
}

/// One transaction, and what it does.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) txn: Txn,
    /// What it releases.
    pub(super) addresses: Vec<IpAddr>,
    /// The blocks that it takes the node's name off.
    pub(super) blocks: Vec<IpNet>,
    /// Why something of the node stays for now.
    pub(super) kept: Vec<String>,
}

/// A handle and the blocks in which it holds addresses.
pub(super) type Held = BTreeMap<String, BTreeSet<IpNet>>;

impl Estate {
    /// True if the allocation is the node's alone. One that a virtual machine takes to another node
    /// is not.
    fn is_dead(&self, attribute: &Attribute) -> bool {
        attribute.get("node") == Some(self.node.as_str())
            && attribute.alternate_owner.as_ref().is_none_or(BTreeMap::is_empty)
    }

    /// The handles that hold addresses of the node and of nobody else: each goes as a whole.
    pub(super) fn handles(&self) -> Held {
        self.sorted().0
    }

    /// Handles of which everything is the node's, and those that it shares with others.
    fn sorted(&self) -> (Held, BTreeSet<String>) {
        let (mut dead, mut alive) = (Held::new(), BTreeSet::new());
        let mut shared = BTreeSet::new();
        for (cidr, (block, _)) in &self.blocks {
            for (_, state) in block.occupied() {
                let AddressState::Allocated(attribute, _) = state else { continue };
                let Some(handle) = &attribute.handle_id else { continue };
                if self.is_dead(attribute) {
                    dead.entry(handle.clone()).or_default().insert(*cidr);
                } else {
                    alive.insert(handle.clone());
                    if attribute.get("node") == Some(self.node.as_str()) {
                        shared.insert(handle.clone());
                    }
                }
            }
        }
        shared.extend(dead.keys().filter(|handle| alive.contains(*handle)).cloned());
        dead.retain(|handle, _| !alive.contains(handle));
        (dead, shared)
    }

    /// As many of the handles as one transaction takes: each costs a comparison, and so does each
    /// block. One that no transaction takes is left out, see [`Estate::step`].
    pub(super) fn some_of(handles: &Held) -> Held {
        let (mut some, mut blocks) = (Held::new(), BTreeSet::new());
        for (handle, nets) in handles {
            let further = nets.difference(&blocks).count();
            if GUARDS + some.len() + 1 + blocks.len() + further > MAX_TXN_OPS {
                continue;
            }
            blocks.extend(nets.iter().copied());
            some.insert(handle.clone(), nets.clone());
        }
        some
    }

    /// Releases the addresses of `handles`, whose records are `records`. If `last`, takes the
    /// node's name off its blocks too, and in the end forgets the node. Says of which handles it never
    /// can.
    pub(super) fn step(
        &self,
        handles: &Held,
        records: &BTreeMap<String, Read<Handle>>,
        last: bool,
    ) -> Step {
        let mut draft = Draft {
            estate: self,
            step: Step::default(),
            blocks: BTreeMap::new(),
            operations: GUARDS,
        };
        draft.step.txn = Txn::default()
            .when(model::node_key(&self.node), 0)
            .when(model::node_uid_key(&self.node), self.uid);
        for (handle, nets) in handles {
            draft.release(handle, nets, records.get(handle));
        }
        for (handle, nets) in self.handles() {
            if GUARDS + 1 + nets.len() > MAX_TXN_OPS {
                let reason = format!("handle {handle}: is in {} blocks, too many", nets.len());
                draft.step.kept.push(reason);
            }
        }
        if last {
            let released = draft.release_without_handle();
            draft.settle(released);
        }
        draft.finish()
    }
}

/// The comparisons of every transaction: nobody claims the node's name, and it is the same node.
const GUARDS: usize = 2;

struct Draft<'a> {
    estate: &'a Estate,
    step: Step,
    /// As they will be; None: deleted.
    blocks: BTreeMap<IpNet, Option<Block>>,
    operations: usize,
}

impl Draft<'_> {
    fn block(&mut self, cidr: &IpNet) -> Option<&mut Block> {
        if !self.blocks.contains_key(cidr) {
            let (block, _) = self.estate.blocks.get(cidr)?;
            self.blocks.insert(*cidr, Some(block.clone()));
            self.operations += 1;
        }
        self.blocks.get_mut(cidr)?.as_mut()
    }

    fn release(&mut self, handle: &str, nets: &BTreeSet<IpNet>, record: Option<&Read<Handle>>) {
        let rest = Release::Rest(self.estate.now);
        for cidr in nets {
            let released = self.block(cidr).map(|block| block.release_handle(handle, rest));
            self.step.addresses.extend(released.into_iter().flatten());
        }
        let (mut left, revision) = record.cloned().unwrap_or_default();
        // What it says of blocks that cannot be read nobody knows.
        left.block.retain(|cidr, _| self.estate.unreadable.contains_key(cidr));
        let key = model::handle_key(handle);
        let txn = std::mem::take(&mut self.step.txn).when(key.clone(), revision);
        self.step.txn = match (left.block.is_empty(), revision) {
            (true, 0) => txn,
            (true, _) => txn.delete(key),
            (false, _) => txn.put(key, model::encode(&left)),
        };
        self.operations += 1;
    }

    /// Allocations that name the node and no handle. False if there are more than fit.
    fn release_without_handle(&mut self) -> bool {
        let estate = self.estate;
        for (cidr, (block, _)) in &estate.blocks {
            let dead = block.occupied().filter_map(|(address, state)| match state {
                AddressState::Allocated(attribute, sequence)
                    if attribute.handle_id.is_none() && estate.is_dead(attribute) =>
                {
                    Some((address, sequence))
                }
                _ => None,
            });
            for (address, sequence) in dead {
                if self.operations >= MAX_TXN_OPS {
                    return false;
                }
                let rest = Release::Rest(estate.now);
                let block = self.block(cidr);
                if block.is_some_and(|b| b.release_address(address, None, sequence, rest).is_ok()) {
                    self.step.addresses.push(address);
                }
            }
        }
        true
    }

    /// Takes the node's name off what nothing of it holds any more. Forgets the node if that is
    /// everything.
    fn settle(&mut self, mut complete: bool) {
        let estate = self.estate;
        for handle in estate.sorted().1 {
            self.step.kept.push(format!("handle {handle}: holds addresses of others too"));
            complete = false;
        }
        let owned = |block: &Block| block.node() == Some(estate.node.as_str());
        let own = estate.blocks.iter().filter(|(_, (block, _))| owned(block));
        for cidr in own.map(|(cidr, _)| *cidr) {
            // The block and its affinity.
            if self.operations + 2 > MAX_TXN_OPS {
                complete = false;
                break;
            }
            complete &= self.disown(cidr);
        }
        for (cidr, (affinity, revision)) in &estate.affinities {
            let block = estate.blocks.get(cidr);
            if block.is_some_and(|(block, _)| owned(block)) {
                continue;
            }
            let key = model::affinity_key(&estate.node, cidr);
            if estate.unreadable.contains_key(cidr) || affinity.is_none() {
                self.step.kept.push(format!("{cidr}: its block or affinity cannot be read"));
                complete = false;
            } else if self.operations + 2 > MAX_TXN_OPS {
                complete = false;
            } else {
                let txn = std::mem::take(&mut self.step.txn).when(key.clone(), *revision);
                let block_revision = block.map_or(0, |(_, revision)| *revision);
                let txn = if self.blocks.contains_key(cidr) {
                    txn
                } else {
                    txn.when(model::block_key(cidr), block_revision)
                };
                self.step.txn = txn.delete(key);
                self.operations += 2;
            }
        }
        if complete {
            let key = model::node_uid_key(&estate.node);
            let mark = model::local_key(&estate.node);
            self.step.txn = std::mem::take(&mut self.step.txn).delete(key).delete(mark);
        }
    }

    /// Takes the node's name off one block, which goes if it is empty. False if it stays for now.
    fn disown(&mut self, cidr: IpNet) -> bool {
        let (now, cooldown) = (self.estate.now, self.estate.cooldown);
        let drafted = self.blocks.get(&cidr).and_then(Option::as_ref);
        let known = self.estate.blocks.get(&cidr).map(|(block, _)| block);
        let Some(mut block) = drafted.or(known).cloned() else { return true };
        block.expire(now, cooldown);
        let mut living = block.occupied().filter_map(|(address, state)| match state {
            AddressState::Allocated(attribute, _) => Some((address, attribute.get("node"))),
            _ => None,
        });
        let first = living.next();
        let unknown = first.into_iter().chain(living).find(|(_, node)| node.is_none());
        if let Some((address, _)) = unknown {
            self.step.kept.push(format!("{cidr}: nothing says whose {address} is"));
            return false;
        }
        if first.is_none() && !block.is_empty() {
            self.step.kept.push(format!("{cidr}: addresses rest"));
            return false;
        }
        let empty = block.is_empty();
        block.set_affinity(None, now);
        self.operations += usize::from(!self.blocks.contains_key(&cidr));
        self.blocks.insert(cidr, (!empty).then_some(block));
        self.step.blocks.push(cidr);
        if let Some((_, revision)) = self.estate.affinities.get(&cidr) {
            let key = model::affinity_key(&self.estate.node, &cidr);
            let txn = std::mem::take(&mut self.step.txn).when(key.clone(), *revision);
            self.step.txn = txn.delete(key);
            self.operations += 1;
        }
        true
    }

    fn finish(mut self) -> Step {
        for (cidr, block) in self.blocks {
            let key = model::block_key(&cidr);
            let revision = self.estate.blocks.get(&cidr).map_or(0, |(_, revision)| *revision);
            let txn = self.step.txn.when(key.clone(), revision);
            self.step.txn = match block {
                Some(mut block) if block.affinity().is_some() || !block.is_empty() => {
                    block.seal();
                    txn.put(key, block.encode())
                }
                _ => txn.delete(key),
            };
        }
        self.step.addresses.sort();
        self.step
    }
}

#[cfg(test)]
mod tests;
