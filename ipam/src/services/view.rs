//! What a call has read, and the transaction that rests on it.

use super::*;
use crate::model::Handle;
use crate::store::{MAX_TXN_OPS, Revision};

/// The record of a handle, the blocks that it names, and those of Services.
#[derive(Debug)]
pub(super) struct View {
    handle: String,
    entries: BTreeMap<String, Entry>,
    /// Those that can be read, and those that cannot.
    blocks: BTreeMap<IpNet, Result<Block, Corrupt>>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) blocks: BTreeMap<IpNet, Block>,
    /// The block is new, by what was known then of the others.
    census: Option<(IpNet, Census)>,
}

impl Change {
    pub(super) fn of(cidr: IpNet, block: Block) -> Self {
        Self { blocks: BTreeMap::from([(cidr, block)]), census: None }
    }

    pub(super) fn claim(cidr: IpNet, block: Block, census: Census) -> Self {
        Self { census: Some((cidr, census)), ..Self::of(cidr, block) }
    }
}

impl View {
    /// Reads the record first: whatever is given to the handle after that changes it.
    pub(super) async fn read(
        store: &dyn Store,
        handle: &str,
        families: &[Family],
    ) -> Result<Self, Error> {
        let keys = [model::CONFIG.to_owned(), model::handle_key(handle)];
        let mut view =
            Self { handle: handle.to_owned(), entries: BTreeMap::new(), blocks: BTreeMap::new() };
        view.learn(store.read(&keys).await?);
        let mut nets: BTreeSet<IpNet> = view.record()?.block.into_keys().collect();
        let affinities = store.list(&format!("{}{NAME}/", model::VIRTUALS), None).await?;
        let of_family = |(_, cidr): &(String, IpNet)| families.contains(&Family::of_net(cidr));
        let named = affinities.entries.iter().filter_map(|e| model::parse_owner_key(&e.key));
        nets.extend(named.filter(of_family).map(|(_, cidr)| cidr));
        view.learn(affinities);
        let nets: Vec<IpNet> = nets.into_iter().collect();
        for chunk in nets.chunks(MAX_TXN_OPS) {
            let keys: Vec<String> = chunk.iter().map(model::block_key).collect();
            view.learn(store.read(&keys).await?);
        }
        Ok(view)
    }

    /// Reads one more block and its affinity.
    pub(super) async fn read_block(
        &mut self,
        store: &dyn Store,
        cidr: &IpNet,
    ) -> Result<(), Error> {
        let keys = [model::block_key(cidr), key_of_affinity(cidr)];
        for key in &keys {
            self.entries.remove(key);
        }
        self.blocks.remove(cidr);
        self.learn(store.read(&keys).await?);
        Ok(())
    }

    fn learn(&mut self, snapshot: Snapshot) {
        for entry in snapshot.entries {
            if let Some(cidr) = model::parse_block_key(&entry.key) {
                self.blocks.insert(cidr, model::decode_block(&entry.key, &entry.value));
            }
            self.entries.insert(entry.key.clone(), entry);
        }
    }

    /// 0: the key does not exist.
    pub(super) fn revision(&self, key: &str) -> Revision {
        self.entries.get(key).map_or(0, |entry| entry.mod_revision)
    }

    fn record(&self) -> Result<Handle, Corrupt> {
        let entry = self.entries.get(&model::handle_key(&self.handle));
        entry.map_or_else(|| Ok(Handle::default()), |e| model::decode(&e.key, &e.value))
    }

    /// Frees what has rested long enough.
    pub(super) fn expire(
        &mut self,
        config: Option<&IpamConfig>,
        now: Timestamp,
    ) -> Result<(), Corrupt> {
        let cooldown = match config {
            Some(config) => config.cooldown(),
            None => IpamConfig::stored(self.entries.get(model::CONFIG))?.cooldown(),
        };
        for block in self.blocks.values_mut().flatten() {
            block.expire(now, cooldown);
        }
        Ok(())
    }

    /// None: there is no such block.
    pub(super) fn block(&self, cidr: &IpNet) -> Result<Option<&Block>, Corrupt> {
        self.blocks.get(cidr).map(|block| block.as_ref().map_err(Clone::clone)).transpose()
    }

    /// The readable blocks that belong to Services, in address order.
    pub(super) fn own_blocks(&self) -> impl Iterator<Item = (IpNet, &Block)> {
        let readable = self.blocks.iter().filter_map(|(cidr, b)| Some((*cidr, b.as_ref().ok()?)));
        readable.filter(|(_, block)| block.affinity() == Some(OWNER))
    }

    /// What the handle holds and in which block.
    pub(super) fn held(&self) -> Result<Vec<(IpAddr, IpNet)>, Corrupt> {
        let named = self.record()?.block;
        let mut held = Vec::new();
        for (cidr, block) in &self.blocks {
            match block {
                Ok(block) => {
                    held.extend(block.addresses_of(&self.handle).map(|ip| (ip, *cidr)));
                }
                // Who knows what the handle has in it. Of others' blocks nobody needs to know.
                Err(corrupt) if named.contains_key(cidr) => return Err(corrupt.clone()),
                Err(_) => {}
            }
        }
        Ok(held)
    }

    /// Writes the blocks and what the handle holds after that, resting on all that was read of them.
    pub(super) fn transaction(&self, change: Change) -> Result<Txn, Corrupt> {
        let before = self.record()?;
        let mut after = before.clone();
        // What the blocks hold is the truth: a record that names more is put right.
        let known =
            before.block.keys().chain(change.blocks.keys()).copied().collect::<BTreeSet<_>>();
        let mut txn = Txn::default();
        for cidr in known {
            let block = match change.blocks.get(&cidr) {
                Some(block) => Some(block),
                None => self.block(&cidr)?,
            };
            let count = block.map_or(0, |block| block.addresses_of(&self.handle).count());
            match u32::try_from(count).unwrap_or(u32::MAX) {
                0 => drop(after.block.remove(&cidr)),
                count => drop(after.block.insert(cidr, count)),
            }
            let key = model::block_key(&cidr);
            txn = txn.when(key.clone(), self.revision(&key));
        }
        for (cidr, mut block) in change.blocks {
            block.seal();
            txn = txn.put(model::block_key(&cidr), block.encode());
            let key = key_of_affinity(&cidr);
            let entry = self.entries.get(&key);
            let affinity =
                entry.and_then(|entry| model::decode::<Affinity>(&entry.key, &entry.value).ok());
            let confirmed = affinity.is_some_and(|of| of.state == AffinityState::Confirmed);
            if block.affinity() == Some(OWNER) {
                txn = txn.when(key.clone(), self.revision(&key));
                if !confirmed {
                    txn = txn.put(key, model::encode(&Affinity::default()));
                }
            }
        }
        if after != before {
            let key = model::handle_key(&self.handle);
            txn = match after.block.is_empty() {
                true => txn.delete(key),
                false => txn.put(key, model::encode(&after)),
            };
        }
        let key = model::handle_key(&self.handle);
        txn = txn.when(key.clone(), self.revision(&key));
        if let Some((cidr, census)) = &change.census {
            txn = census.guard(txn, cidr).when(model::FROZEN, 0);
        }
        Ok(txn)
    }
}
