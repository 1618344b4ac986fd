//! After the store was restored from an older copy: what was answered since may be missing in it,
//! and whoever took that for free would give it twice.
//!
//! ```text
//!   found out ─▶ freeze (one key, for all nodes) ─▶ what this node has is written back ─▶ its word
//!   every node has given its word, and those without one had the time ─▶ the freeze ends
//! ```
//! What a node remembers of its own blocks is younger than any copy. Until it is back, nothing else
//! of this node is done with the store; until the freeze ends, no node claims a block, takes one
//! over, or borrows. Every such transaction compares the key. Own blocks are given from meanwhile.

use super::*;
use crate::block::Block;
use crate::model::{AffinityState, Freeze, Handle};
use crate::store::{MAX_TXN_OPS, Snapshot, Txn};

mod held;

/// For nodes that joined since the copy was made, which nobody in the store knows of: they notice as
/// soon as they reach it.
const GRACE: Duration = Duration::from_secs(30);
/// Between looks at who has not given its word yet.
const LOOK: Duration = Duration::from_secs(2);
/// Conflicts with other writers in writing back one block.
const ATTEMPTS: u32 = 20;

/// What is known of the store's being older than what was seen of it.
#[derive(Debug)]
pub(super) struct Restored {
    /// [`Store::setbacks`] when what this node has was last there.
    setbacks: u64,
    /// What this node has must be written back before anything else.
    due: bool,
    /// It has begun, after so many setbacks.
    begun: Option<u64>,
    /// The freeze that this node gave its word for.
    answered: Option<String>,
    /// When to look whether it can end.
    pub(super) look_at: Option<Instant>,
    /// Nodes that have not given their word.
    pub(super) waiting: Vec<String>,
    /// Whether [`Restored::held`] is still to be told.
    pub(super) awaits_held: bool,
    /// What endpoints were found to have when the agent started, until the store has it.
    pub(super) held: Vec<Held>,
    /// The handles of all these endpoints.
    pub(super) living: BTreeSet<String>,
}

impl Restored {
    pub(super) fn new(setbacks: u64, awaits_held: bool) -> Self {
        Self {
            setbacks,
            due: false,
            begun: None,
            answered: None,
            look_at: None,
            waiting: Vec::new(),
            awaits_held,
            held: Vec::new(),
            living: BTreeSet::new(),
        }
    }
}

impl Committer {
    /// A value was read that is older than one that was known: that proves it, too.
    pub(super) fn went_back(&mut self, key: &str, known: Revision, found: Option<&Entry>) -> bool {
        let back = found.is_some_and(|entry| entry.mod_revision < known);
        if back {
            let revision = found.map_or(0, |entry| entry.mod_revision);
            tracing::error!(key, revision, known, "the store is older than it was");
            self.restored.due = true;
        }
        back
    }

    /// True until what this node has is in the store again.
    pub(super) fn is_set_back(&self) -> bool {
        self.restored.due || self.store.setbacks() != self.restored.setbacks
    }

    /// Somebody froze the claims, or ended that.
    pub(super) fn is_frozen(&mut self, entry: Option<&Entry>) {
        let freeze = entry.map(|entry| {
            // One that cannot be read is one all the same.
            let id = String::from_utf8_lossy(&entry.value).into_owned();
            let (node, since) = ("somebody".to_owned(), Timestamp::from_seconds(0));
            model::decode(&entry.key, &entry.value).unwrap_or(Freeze { id, node, since })
        });
        let answered =
            freeze.as_ref().is_some_and(|f| self.restored.answered.as_ref() == Some(&f.id));
        if freeze.is_some() && !answered {
            self.restored.due = true;
        }
        if freeze.is_none() && self.cache.frozen.is_some() {
            tracing::info!("blocks are claimed again: every node has said what it has");
            self.spare_not_before.clear();
            self.restored.waiting.clear();
        }
        self.restored.look_at = freeze.is_some().then(|| Instant::now() + LOOK);
        self.cache.frozen = freeze;
    }

    /// The name is this node's whatever an old copy says.
    pub(super) fn begin_reassertion(&mut self) {
        let setbacks = Some(self.store.setbacks());
        if std::mem::replace(&mut self.restored.begun, setbacks) != setbacks {
            self.owner.set_back();
        }
    }

    /// Writes back what this node has, and says so. False if it cannot know all of it yet.
    pub(super) async fn reassert(&mut self, node: Revision) -> Result<bool, Error> {
        if self.restored.awaits_held {
            return Ok(false);
        }
        let setbacks = self.store.setbacks();
        // What these find may be of the time before.
        self.searches.clear();
        self.searching.clear();
        self.census.clear();
        self.unexplained.clear();
        self.cache.handles.clear();
        for pending in &mut self.pending {
            pending.search = None;
        }
        self.forget_flight();
        let freeze = self.freeze().await?;
        let known: Vec<IpNet> = self.cache.blocks.keys().copied().collect();
        let mut missing = 0;
        for cidr in known {
            let Some(seen) = self.cache.blocks.get(&cidr) else { continue };
            let block = seen.value.clone();
            let own = self.cache.owns(&cidr) || self.cache.ahead.contains_key(&cidr);
            if own || self.cache.has_addresses_in(&block) {
                missing += self.write_back(node, cidr, block, own).await?;
            } else {
                self.cache.blocks.remove(&cidr);
            }
        }
        // The watches are of the time before. What this node does not remember, its endpoints do.
        self.loaded = false;
        self.load().await?;
        missing += self.write_held(node).await?;
        if !self.restored.held.is_empty() {
            return Ok(false);
        }
        let mut word = Txn::default()
            .when(model::node_key(&self.cache.node), node)
            .put(model::reasserted_key(&self.cache.node), freeze.id.clone().into_bytes());
        if self.local.is_on() {
            let mark = model::local_key(&self.cache.node);
            word = word.put(mark, self.state.instance.clone().into_bytes());
        }
        match self.store.txn(word).await? {
            Outcome::Committed(revision) if self.local.is_on() => self.begin_log(revision).await?,
            Outcome::Committed(_) => {}
            Outcome::Conflict(_) => {
                self.owner.lose();
                return Ok(true);
            }
        }
        if self.store.setbacks() == setbacks {
            (self.restored.setbacks, self.restored.due) = (setbacks, false);
            (self.restored.answered, self.restored.begun) = (Some(freeze.id), None);
        }
        tracing::warn!(missing, "the store was restored: what this node has is there again");
        Ok(true)
    }

    /// The freeze that is in force: an earlier one, or ours.
    async fn freeze(&mut self) -> Result<Freeze, Error> {
        let key = model::FROZEN.to_owned();
        loop {
            let read = self.store.read(std::slice::from_ref(&key)).await?;
            let found = read.get(&key).cloned();
            let ours = Freeze {
                id: super::super::state::random_id(),
                node: self.cache.node.clone(),
                since: self.now().whole_seconds(),
            };
            if found.is_none() {
                let txn =
                    Txn::default().when(key.clone(), 0).put(key.clone(), model::encode(&ours));
                if let Outcome::Conflict(_) = self.store.txn(txn).await? {
                    continue;
                }
                tracing::error!(
                    "the store was restored: no block is claimed until all have said what they have"
                );
            }
            self.is_frozen(found.as_ref());
            if found.is_none() {
                self.restored.look_at = Some(Instant::now() + LOOK);
                self.cache.frozen = Some(ours);
            }
            if let Some(freeze) = self.cache.frozen.clone() {
                return Ok(freeze);
            }
        }
    }

    /// Brings one block up to what is known of it, and the records of the handles that this is about.
    /// The number of addresses that were otherwise.
    async fn write_back(
        &mut self,
        node: Revision,
        cidr: IpNet,
        known: Block,
        own: bool,
    ) -> Result<usize, Error> {
        let block_key = model::block_key(&cidr);
        let affinity_key = known.affinity().and_then(|of| model::affinity_key_of(of, &cidr));
        // One that answers from its own log would not hear of it.
        let lender = known.node().filter(|node| *node != self.cache.node).map(model::local_key);
        let keys: Vec<String> = [Some(block_key.clone()), affinity_key.clone(), lender.clone()]
            .into_iter()
            .flatten()
            .chain([model::FROZEN.to_owned()])
            .collect();
        for _ in 0..ATTEMPTS {
            let read = self.store.read(&keys).await?;
            let revision = |key: &str| read.get(key).map_or(0, |entry| entry.mod_revision);
            if lender.as_ref().is_some_and(|mark| read.get(mark).is_some()) {
                tracing::error!(
                    %cidr,
                    "a block whose node answers from its own log has addresses of this node: they \
                     may be given twice"
                );
                self.cache.install_block(cidr, read.get(&block_key));
                return Ok(0);
            }
            // One that cannot be read is written anew.
            let stored = read
                .get(&block_key)
                .and_then(|entry| model::decode_block(&block_key, &entry.value).ok());
            let foreign =
                stored.as_ref().filter(|block| own && block.affinity() != known.affinity());
            let foreign = foreign.map(|block| block.affinity().unwrap_or_default().to_owned());
            if foreign.is_some() && revision(&block_key) > revision(model::FROZEN) {
                // Somebody has it, and said so after the store was restored.
                return Ok(self.taken(cidr, &read));
            }
            let (goal, contested) = match &stored {
                Some(stored) if foreign.is_none() => known.reassert(stored, &self.cache.node, own),
                _ => {
                    let mut anew = known.clone();
                    anew.seal();
                    (anew, Vec::new())
                }
            };
            for address in contested {
                tracing::error!(%address, "given by this node and by somebody else: two pods have it");
            }
            let Some(before) = stored.clone().or_else(|| Block::new(cidr, None, self.now()).ok())
            else {
                return Ok(0);
            };
            let differences: Vec<_> = before.differences(&goal).collect();
            let affinity_missing = affinity_key.as_ref().is_some_and(|key| read.get(key).is_none());
            let mut revision_now = revision(&block_key);
            if stored.as_ref() != Some(&goal) || affinity_missing {
                let mut txn = Txn::default()
                    .when(model::node_key(&self.cache.node), node)
                    .when(block_key.clone(), revision(&block_key))
                    .put(block_key.clone(), goal.encode());
                if let Some(key) = affinity_key.clone().filter(|_| affinity_missing) {
                    let affinity = model::encode(&model::Affinity::default());
                    txn = txn.when(key.clone(), 0).put(key, affinity);
                }
                if let Some(mark) = lender.clone() {
                    txn = txn.when(mark, 0);
                }
                let theirs = foreign.and_then(|owner| model::affinity_key_of(&owner, &cidr));
                if let Some(theirs) = theirs {
                    txn = txn.delete(theirs);
                }
                match self.store.txn(txn).await? {
                    Outcome::Committed(revision) => revision_now = revision,
                    Outcome::Conflict(found) => {
                        let owner = found.first().and_then(Option::as_ref);
                        if owner.map_or(0, |entry| entry.mod_revision) != node {
                            self.owner.lose();
                            return Err(self.overtaken("the node's record"));
                        }
                        continue;
                    }
                }
            }
            let handles: BTreeSet<String> = differences
                .iter()
                .flat_map(|difference| difference.handles.into_iter().flatten())
                .chain(goal.handles())
                .map(str::to_owned)
                .collect();
            let count = differences.len();
            self.write_handles(node, cidr, &goal, handles).await?;
            self.cache.moved = true;
            self.cache.ahead.remove(&cidr);
            self.cache.unlogged.insert(cidr);
            self.cache.stale.remove(&cidr);
            self.cache.blocks.insert(cidr, Seen { value: goal, revision: revision_now });
            if affinity_missing && known.node() == Some(self.cache.node.as_str()) {
                let confirmed = Seen { value: AffinityState::Confirmed, revision: revision_now };
                self.cache.affinities.insert(cidr, confirmed);
            }
            return Ok(count);
        }
        Err(self.overtaken(&block_key))
    }

    /// The block is somebody else's by now.
    fn taken(&mut self, cidr: IpNet, read: &Snapshot) -> usize {
        tracing::error!(
            %cidr,
            "a block of this node is somebody else's in the restored store: pods that have an \
             address of it must be started anew"
        );
        self.cache.lost.insert(cidr);
        self.cache.ahead.remove(&cidr);
        self.cache.install_block(cidr, read.get(&model::block_key(&cidr)));
        0
    }

    /// Makes the records of these handles say what a block says of them.
    async fn write_handles(
        &mut self,
        node: Revision,
        cidr: IpNet,
        block: &Block,
        handles: BTreeSet<String>,
    ) -> Result<(), Error> {
        let handles: Vec<String> = handles.into_iter().collect();
        for some in handles.chunks(MAX_TXN_OPS - 1) {
            let keys: Vec<String> = some.iter().map(|handle| model::handle_key(handle)).collect();
            let mut attempts = 0;
            loop {
                let read = self.store.read(&keys).await?;
                let mut txn = Txn::default().when(model::node_key(&self.cache.node), node);
                let mut written: Vec<(&String, Option<Handle>)> = Vec::new();
                for (handle, key) in some.iter().zip(&keys) {
                    let entry = read.get(key);
                    let stored = entry.map(|e| model::decode(key, &e.value).unwrap_or_default());
                    let mut record: Handle = stored.clone().unwrap_or_default();
                    match u32::try_from(block.addresses_of(handle).count()).unwrap_or(u32::MAX) {
                        0 => drop(record.block.remove(&cidr)),
                        count => drop(record.block.insert(cidr, count)),
                    }
                    let value = (!record.block.is_empty()).then_some(record);
                    if value != stored {
                        txn = txn.when(key.clone(), entry.map_or(0, |e| e.mod_revision));
                        txn = match &value {
                            Some(record) => txn.put(key.clone(), model::encode(record)),
                            None => txn.delete(key.clone()),
                        };
                        written.push((handle, value));
                    } else {
                        self.cache.install_handle(handle, entry);
                    }
                }
                if written.is_empty() {
                    break;
                }
                if let Outcome::Committed(revision) = self.store.txn(txn).await? {
                    for (handle, value) in written {
                        match value {
                            Some(value) => {
                                let seen = Seen { value, revision };
                                self.cache.handles.insert(handle.clone(), seen);
                            }
                            None => drop(self.cache.handles.remove(handle)),
                        }
                    }
                    break;
                }
                attempts += 1;
                if attempts == ATTEMPTS {
                    return Err(self.overtaken(&keys[0]));
                }
            }
        }
        Ok(())
    }

    pub(super) fn overtaken(&self, key: &str) -> Error {
        Error::StoreUnavailable {
            store: self.store.name(),
            reason: format!("others change {key} while what this node has is written back"),
        }
    }

    /// Ends the freeze if every node that the store knows has given its word.
    pub(super) async fn thaw(&mut self, node: Revision) -> Result<(), Error> {
        self.restored.look_at = Some(Instant::now() + LOOK);
        let read = self.store.read(&[model::FROZEN.to_owned()]).await?;
        let Some(entry) = read.entries.first().cloned() else {
            self.is_frozen(None);
            return Ok(());
        };
        let known = self.cache.frozen.as_ref().map(|freeze| freeze.id.clone());
        self.is_frozen(Some(&entry));
        let Some(freeze) =
            self.cache.frozen.clone().filter(|freeze| Some(&freeze.id) == known.as_ref())
        else {
            return Ok(());
        };
        let nodes = self.store.list_keys(model::NODES).await?.keys;
        let words = self.store.list(model::REASSERTED, None).await?.entries;
        let has_said = |name: &str| {
            let key = model::reasserted_key(name);
            words.iter().any(|word| word.key == key && *word.value == *freeze.id.as_bytes())
        };
        let names = nodes.iter().filter_map(|key| key.strip_prefix(model::NODES));
        let waiting: Vec<String> =
            names.filter(|name| !has_said(name)).map(str::to_owned).collect();
        if waiting != self.restored.waiting {
            tracing::warn!(nodes = ?waiting, "blocks are not claimed: these have still to say what they have");
            self.restored.waiting = waiting;
        }
        if !self.restored.waiting.is_empty() || self.now() < freeze.since.plus(GRACE) {
            return Ok(());
        }
        let txn = Txn::default()
            .when(model::node_key(&self.cache.node), node)
            .when(entry.key.clone(), entry.mod_revision)
            .delete(entry.key);
        if let Outcome::Committed(_) = self.store.txn(txn).await? {
            self.is_frozen(None);
        }
        Ok(())
    }
}
