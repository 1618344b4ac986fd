//! What the allocator knows of the store: its own blocks, those it borrowed from, its handles,
//! each with the revision it was seen at. Every transaction compares these, so knowing wrong costs
//! a retry and never an address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::blocks::Blocks;
use crate::block::{AddressState, Block};
use crate::model::{self, Affinity, AffinityState, Corrupt, Freeze, Handle};
use crate::store::{Entry, Revision};

/// A value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen<T> {
    pub(crate) value: T,
    pub(crate) revision: Revision,
}

#[derive(Debug, Default)]
pub(crate) struct Cache {
    pub(crate) node: String,
    pub(crate) blocks: Blocks,
    pub(crate) affinities: BTreeMap<IpNet, Seen<AffinityState>>,
    /// Handles of this node that were written or met; one that is missing counts as absent until a
    /// transaction says otherwise.
    pub(crate) handles: HashMap<String, Seen<Handle>>,
    /// By key.
    pub(crate) corrupt: BTreeMap<String, Corrupt>,
    /// Blocks that may have changed: to be read before anything is planned.
    pub(crate) stale: BTreeSet<IpNet>,
    /// Blocks that were looked for and do not exist.
    pub(crate) absent: BTreeSet<IpNet>,
    /// Blocks that are ahead of the store, in local-first mode: what it had when last seen.
    pub(crate) ahead: BTreeMap<IpNet, Block>,
    /// What a write of unknown outcome may have made of them.
    pub(crate) sent: BTreeMap<IpNet, Block>,
    /// Blocks that this node answered for until somebody else took them.
    pub(crate) lost: BTreeSet<IpNet>,
    /// Blocks whose record in the log may be out of date.
    pub(crate) unlogged: BTreeSet<IpNet>,
    /// No block is claimed, taken over or borrowed from, for the store was restored.
    pub(crate) frozen: Option<Freeze>,
    /// What is to be announced may have changed: blocks came, went, or changed hands.
    pub(crate) moved: bool,
    /// Nodes that were met in local-first mode: nobody else takes addresses of their blocks.
    pub(crate) exclusive: BTreeSet<String>,
}

/// What is known of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Knowledge<'a> {
    /// What it holds, or that it does not exist.
    Known,
    /// That it cannot be read.
    Corrupt(&'a Corrupt),
    /// Nothing.
    Unknown,
}

impl Cache {
    pub(crate) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), moved: true, ..Self::default() }
    }

    fn confirmed(&self, cidr: &IpNet) -> bool {
        self.affinities.get(cidr).is_some_and(|seen| seen.value == AffinityState::Confirmed)
    }

    /// True if the block is this node's to allocate from.
    pub(crate) fn owns(&self, cidr: &IpNet) -> bool {
        let ours = |seen: &Seen<Block>| {
            seen.value.node() == Some(self.node.as_str()) && !seen.value.deleted()
        };
        self.confirmed(cidr) && self.blocks.get(cidr).is_some_and(ours)
    }

    /// True if the block may be answered for without the store: it is this node's, and nothing says
    /// that it may have changed.
    pub(crate) fn is_firm(&self, cidr: &IpNet) -> bool {
        self.owns(cidr) && !self.stale.contains(cidr)
    }

    /// This node's blocks, in address order.
    pub(crate) fn owned(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|(cidr, _)| self.owns(cidr)).map(|(_, seen)| &seen.value)
    }

    /// The networks to announce: this node's blocks, also those it cannot read: pods live there.
    pub(crate) fn announced(&self) -> Vec<IpNet> {
        let unreadable = |cidr: &IpNet| {
            self.confirmed(cidr) && self.corrupt.contains_key(&model::block_key(cidr))
        };
        let own = self.affinities.keys().filter(|cidr| self.owns(cidr) || unreadable(cidr));
        own.copied().collect()
    }

    /// Forgets blocks of others in which this node has no address: they were looked at once.
    pub(crate) fn forget_foreign(&mut self) {
        let kept = |cidr: &IpNet, seen: &Seen<Block>| {
            self.owns(cidr)
                || self.affinities.contains_key(cidr)
                || self.ahead.contains_key(cidr)
                || self.addresses_in(&seen.value).next().is_some()
        };
        let foreign: Vec<IpNet> =
            self.blocks.iter().filter(|(c, seen)| !kept(c, seen)).map(|(c, _)| *c).collect();
        for cidr in foreign {
            self.blocks.remove(&cidr);
        }
        self.absent.clear();
        self.exclusive.clear();
    }

    /// Networks of others in which this node has addresses.
    pub(crate) fn borrowed(&self) -> Vec<IpNet> {
        let foreign = self.blocks.iter().filter(|(cidr, seen)| {
            !self.owns(cidr) && self.addresses_in(&seen.value).next().is_some()
        });
        foreign.map(|(cidr, _)| *cidr).collect()
    }

    /// This node's addresses in others' blocks, in order. In a block that cannot be read they are
    /// those of `before`: pods have them.
    pub(crate) fn borrowed_addresses(&self, before: &[IpAddr]) -> Vec<IpAddr> {
        let foreign = self.blocks.iter().filter(|(cidr, _)| !self.owns(cidr));
        let read = foreign.flat_map(|(_, seen)| self.addresses_in(&seen.value));
        let unread = before.iter().copied().filter(|address| {
            self.corrupt_block(|cidr| cidr.contains(address) && !self.confirmed(cidr)).is_some()
        });
        let all: BTreeSet<IpAddr> = read.chain(unread).collect();
        all.into_iter().collect()
    }

    /// How many addresses the store has otherwise than this node answers.
    pub(crate) fn behind(&self) -> usize {
        let ahead = self.ahead.iter().filter_map(|(cidr, base)| {
            Some(base.differences(&self.blocks.get(cidr)?.value).count())
        });
        ahead.sum()
    }

    /// True if addresses of the block are allocated to this node.
    pub(crate) fn has_addresses_in(&self, block: &Block) -> bool {
        self.addresses_in(block).next().is_some()
    }

    /// The addresses of a block that are allocated to this node.
    fn addresses_in<'a>(&'a self, block: &'a Block) -> impl Iterator<Item = IpAddr> + 'a {
        block.occupied().filter_map(|(address, state)| match state {
            AddressState::Allocated(attribute, _)
                if attribute.get("node") == Some(self.node.as_str()) =>
            {
                Some(address)
            }
            _ => None,
        })
    }

    pub(crate) fn knows(&self, cidr: &IpNet) -> Knowledge<'_> {
        match self.corrupt.get(&model::block_key(cidr)) {
            Some(corrupt) => Knowledge::Corrupt(corrupt),
            None if self.blocks.contains_key(cidr) || self.absent.contains(cidr) => {
                Knowledge::Known
            }
            None => Knowledge::Unknown,
        }
    }

    /// Takes what a block's key holds. A value that cannot be read is remembered as that. What a
    /// block is ahead of the store stays, while it is this node's.
    pub(crate) fn install_block(&mut self, cidr: IpNet, entry: Option<&Entry>) {
        let key = model::block_key(&cidr);
        self.moved = true;
        self.stale.remove(&cidr);
        self.absent.remove(&cidr);
        self.corrupt.remove(&key);
        self.unlogged.insert(cidr);
        let read = entry.map(|entry| (model::decode_block(&key, &entry.value), entry.mod_revision));
        if let Some(base) = self.ahead.remove(&cidr) {
            let kept = match &read {
                Some((Ok(stored), revision)) => self.merge(cidr, &base, stored, *revision),
                Some((Err(corrupt), revision)) => {
                    tracing::error!(key, reason = corrupt.reason, "unreadable block: written anew");
                    self.mend(cidr, base, *revision)
                }
                None => false,
            };
            if kept {
                return;
            }
            tracing::error!(
                %cidr,
                "a block that this node answered for is somebody else's now: no address is given \
                 of it any more, and pods that have one must be started anew"
            );
            self.lost.insert(cidr);
        }
        match read {
            Some((Ok(value), revision)) => {
                self.blocks.insert(cidr, Seen { value, revision });
            }
            Some((Err(corrupt), _)) => {
                tracing::error!(key = corrupt.key, reason = corrupt.reason, "unreadable block");
                self.blocks.remove(&cidr);
                self.corrupt.insert(key, corrupt);
            }
            None => {
                self.blocks.remove(&cidr);
                self.absent.insert(cidr);
            }
        }
    }

    /// The block as this node answers for it, with what others did to it in the store. False if it
    /// is not this node's any more.
    fn merge(&mut self, cidr: IpNet, base: &Block, stored: &Block, revision: Revision) -> bool {
        let ours = stored.node() == Some(self.node.as_str()) && !stored.deleted();
        let Some(seen) = self.blocks.get(&cidr).filter(|_| ours) else { return false };
        let merged = seen.value.merge(base, self.sent.get(&cidr), stored);
        for address in &merged.contested {
            tracing::error!(%address, "given by this node and by somebody else: two pods have it");
        }
        self.blocks.insert(cidr, Seen { value: merged.block, revision });
        if !merged.same {
            self.ahead.insert(cidr, stored.clone());
        }
        true
    }

    /// What this node answers for takes the place of what cannot be read.
    fn mend(&mut self, cidr: IpNet, base: Block, revision: Revision) -> bool {
        if !self.blocks.seen_at(&cidr, revision) {
            return false;
        }
        self.ahead.insert(cidr, base);
        true
    }

    /// Takes a block as the log answers for it from now on.
    pub(crate) fn answer_for(&mut self, block: Block) {
        let cidr = block.cidr();
        let Some(revision) = self.blocks.get(&cidr).map(|seen| seen.revision) else { return };
        if let Some(before) = self.blocks.insert(cidr, Seen { value: block, revision }) {
            self.ahead.entry(cidr).or_insert(before.value);
        }
    }

    /// A write of this node's was done, under this revision.
    pub(crate) fn written(&mut self, cidr: IpNet, stored: Block, revision: Revision) {
        let Some(seen) = self.blocks.get(&cidr).filter(|seen| seen.revision < revision) else {
            return;
        };
        let same = seen.value == stored;
        let overtaken = seen.value.sequence_number() <= stored.sequence_number();
        self.blocks.seen_at(&cidr, revision);
        self.unlogged.insert(cidr);
        if same {
            self.ahead.remove(&cidr);
        } else if let Some(base) = self.ahead.get_mut(&cidr) {
            *base = stored;
            if overtaken {
                self.blocks.seal(&cidr);
            }
        }
    }

    /// Takes what an affinity's key holds. One that cannot be read counts as confirmed: the block
    /// itself says who owns it.
    pub(crate) fn install_affinity(&mut self, cidr: IpNet, entry: Option<&Entry>) {
        self.moved = true;
        self.unlogged.insert(cidr);
        let Some(entry) = entry else {
            self.affinities.remove(&cidr);
            self.corrupt.remove(&model::affinity_key(&self.node, &cidr));
            return;
        };
        self.corrupt.remove(&entry.key);
        let value = match model::decode::<Affinity>(&entry.key, &entry.value) {
            Ok(affinity) => affinity.state,
            Err(corrupt) => {
                tracing::error!(key = corrupt.key, reason = corrupt.reason, "unreadable affinity");
                self.corrupt.insert(entry.key.clone(), corrupt);
                AffinityState::Confirmed
            }
        };
        self.affinities.insert(cidr, Seen { value, revision: entry.mod_revision });
    }

    /// Takes what a handle's key holds. One that cannot be read counts as empty: the blocks say
    /// what it holds, and the next write mends it.
    pub(crate) fn install_handle(&mut self, handle: &str, entry: Option<&Entry>) {
        let Some(entry) = entry else {
            self.handles.remove(handle);
            return;
        };
        let value = model::decode::<Handle>(&entry.key, &entry.value).unwrap_or_else(|corrupt| {
            tracing::warn!(key = corrupt.key, reason = corrupt.reason, "unreadable handle");
            Handle::default()
        });
        self.handles.insert(handle.to_owned(), Seen { value, revision: entry.mod_revision });
    }

    /// Reads the unreadable blocks again before anything else: somebody may have mended them.
    pub(crate) fn doubt_corrupt(&mut self) {
        self.stale.extend(self.corrupt.keys().filter_map(|key| model::parse_block_key(key)));
    }

    /// The network of the unreadable block that holds this address.
    pub(crate) fn corrupt_net(&self, address: &IpAddr) -> Option<IpNet> {
        let nets = self.corrupt.keys().filter_map(|key| model::parse_block_key(key));
        nets.into_iter().find(|net| net.contains(address))
    }

    /// The corrupt block that holds this address, if it is known.
    pub(crate) fn corrupt_block(&self, within: impl Fn(&IpNet) -> bool) -> Option<&Corrupt> {
        let corrupt = self.corrupt.values();
        corrupt.into_iter().find(|c| model::parse_block_key(&c.key).is_some_and(|net| within(&net)))
    }
}
