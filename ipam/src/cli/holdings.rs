//! What the store has of some addresses and of the handles that hold them, and how it is changed. It
//! is read once; every transaction compares what it rests on, and one that fails brings what there is
//! now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipam::Family;
use ipam::block::{Block, MAX_HOST_BITS};
use ipam::model::{self, Corrupt, Handle, IpamConfig};
use ipam::store::{Entry, MAX_TXN_OPS, Outcome, Revision, Store, StoreError, Txn, Write};
use ipam::timestamp::Timestamp;
use ipnet::IpNet;

/// How often others may interfere before whoever changes something gives up.
pub(super) const ATTEMPTS: usize = 100;

/// Keys that were read, and what they held last.
pub(super) struct Holdings<'a> {
    store: &'a dyn Store,
    now: Timestamp,
    /// The blocks that there are.
    nets: BTreeSet<IpNet>,
    entries: BTreeMap<String, Option<Entry>>,
}

impl<'a> Holdings<'a> {
    /// Nothing is read yet. `nets` are the blocks that there are, as they were listed.
    pub(super) fn new(
        store: &'a dyn Store,
        now: Timestamp,
        nets: impl IntoIterator<Item = IpNet>,
    ) -> Self {
        Self { store, now, nets: nets.into_iter().collect(), entries: BTreeMap::new() }
    }

    /// Lists the blocks of these families.
    pub(super) async fn list(
        store: &'a dyn Store,
        now: Timestamp,
        families: impl IntoIterator<Item = Family>,
    ) -> Result<Self, StoreError> {
        let mut nets = BTreeSet::new();
        for family in families {
            let keys = store.list_keys(model::blocks_of(family)).await?.keys;
            nets.extend(keys.iter().filter_map(|key| model::parse_block_key(key)));
        }
        Ok(Self::new(store, now, nets))
    }

    /// The blocks that hold an address, by their networks: one, or more where they overlap.
    pub(super) fn blocks_of(&self, ip: IpAddr) -> impl Iterator<Item = IpNet> + '_ {
        let most = IpNet::from(ip).max_prefix_len();
        let lengths = most.saturating_sub(MAX_HOST_BITS)..=most;
        let nets = lengths.filter_map(move |length| IpNet::new(ip, length).ok());
        nets.map(|net| net.trunc()).filter(|net| self.nets.contains(net))
    }

    /// Reads those of the keys that are not known yet.
    pub(super) async fn read(
        &mut self,
        keys: impl IntoIterator<Item = String>,
    ) -> Result<(), StoreError> {
        let new: BTreeSet<String> =
            keys.into_iter().filter(|key| !self.entries.contains_key(key)).collect();
        let new: Vec<String> = new.into_iter().collect();
        for chunk in new.chunks(MAX_TXN_OPS) {
            let read = self.store.read(chunk).await?;
            self.entries.extend(chunk.iter().map(|key| (key.clone(), None)));
            let found = read.entries.into_iter().map(|entry| (entry.key.clone(), Some(entry)));
            self.entries.extend(found);
        }
        Ok(())
    }

    /// Reads the blocks that the handle's record names, as far as they are not known yet.
    pub(super) async fn read_blocks_of(&mut self, handle: &str) -> Result<(), StoreError> {
        // One that cannot be read names none; whoever needs it is told.
        let nets = match self.record(handle) {
            Ok(Some(record)) => record.block.into_keys().collect(),
            _ => Vec::new(),
        };
        self.read(nets.iter().map(model::block_key)).await
    }

    fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)?.as_ref()
    }

    /// 0: the key does not exist.
    fn revision(&self, key: &str) -> Revision {
        self.get(key).map_or(0, |entry| entry.mod_revision)
    }

    /// A handle's record, if there is one.
    pub(super) fn record(&self, handle: &str) -> Result<Option<Handle>, Corrupt> {
        let entry = self.get(&model::handle_key(handle));
        entry.map(|entry| model::decode(&entry.key, &entry.value)).transpose()
    }

    /// The revision that wrote the handle's record; 0: there is none.
    pub(super) fn record_revision(&self, handle: &str) -> Revision {
        self.revision(&model::handle_key(handle))
    }

    /// A block in which what has rested long enough is free; None: there is none.
    pub(super) fn block(&self, cidr: &IpNet) -> Result<Option<Block>, Corrupt> {
        let key = model::block_key(cidr);
        let Some(entry) = self.get(&key) else { return Ok(None) };
        let mut block = model::decode_block(&key, &entry.value)?;
        block.expire(self.now, self.cooldown()?);
        Ok(Some(block))
    }

    fn cooldown(&self) -> Result<Duration, Corrupt> {
        Ok(IpamConfig::stored(self.get(model::CONFIG))?.cooldown())
    }

    /// Writes these blocks, and puts right what the handle's record says of all that are known. Err:
    /// why not.
    pub(super) fn release(
        &self,
        handle: Option<&str>,
        blocks: BTreeMap<IpNet, Block>,
    ) -> Result<Txn, String> {
        let mut txn = Txn::default();
        let mut left = BTreeMap::new();
        for (cidr, mut block) in blocks {
            left.insert(cidr, handle.map_or(0, |handle| block.addresses_of(handle).count()));
            block.seal();
            let key = model::block_key(&cidr);
            txn = self.compare(txn, &key);
            let keep = block.affinity().is_some() || !block.is_empty();
            txn = if keep { txn.put(key, block.encode()) } else { txn.delete(key) };
        }
        if let Some(handle) = handle {
            let key = model::handle_key(handle);
            txn = self.compare(txn, &key);
            if let Some(record) = self.record(handle).map_err(|corrupt| corrupt.to_string())? {
                txn = self.settle(txn, handle, record, &left)?;
            }
        }
        if txn.compares.len() > MAX_TXN_OPS {
            return Err(format!("it is in more than {} blocks", MAX_TXN_OPS - 1));
        }
        Ok(txn)
    }

    /// Writes what is left of a handle's record: `left` addresses in these blocks, in others that are
    /// known what they hold. What is not known stays.
    fn settle(
        &self,
        mut txn: Txn,
        handle: &str,
        record: Handle,
        left: &BTreeMap<IpNet, usize>,
    ) -> Result<Txn, String> {
        let mut after = record.clone();
        for cidr in record.block.keys() {
            let key = model::block_key(cidr);
            let count = match left.get(cidr) {
                Some(count) => *count,
                None if !self.entries.contains_key(&key) => continue,
                None => {
                    txn = self.compare(txn, &key);
                    let block = self.block(cidr).map_err(|corrupt| corrupt.to_string())?;
                    block.map_or(0, |block| block.addresses_of(handle).count())
                }
            };
            match u32::try_from(count).unwrap_or(u32::MAX) {
                0 => drop(after.block.remove(cidr)),
                count => drop(after.block.insert(*cidr, count)),
            }
        }
        let key = model::handle_key(handle);
        Ok(match after.block.is_empty() {
            true => txn.delete(key),
            false if after == record => txn,
            false => txn.put(key, model::encode(&after)),
        })
    }

    fn compare(&self, txn: Txn, key: &str) -> Txn {
        txn.when(key, self.revision(key))
    }

    /// Does a transaction. False: somebody else has changed what it compares, which is known now.
    pub(super) async fn commit(&mut self, txn: Txn) -> Result<bool, StoreError> {
        match self.store.txn(txn.clone()).await? {
            Outcome::Committed(mod_revision) => {
                for write in txn.writes {
                    let (key, entry) = match write {
                        Write::Put(key, value) => {
                            let value = value.into();
                            (key.clone(), Some(Entry { key, value, mod_revision }))
                        }
                        Write::Delete(key) => (key, None),
                    };
                    self.entries.insert(key, entry);
                }
                Ok(true)
            }
            Outcome::Conflict(found) => {
                let keys = txn.compares.into_iter().map(|compare| compare.key);
                self.entries.extend(keys.zip(found));
                Ok(false)
            }
        }
    }
}
