//! Addresses of Services of type LoadBalancer, as Calico's kube-controllers give them: of blocks that
//! belong to no node but to the name `load-balancer`.
//!
//! Nothing is remembered between two calls. Each reads what it rests on and commits one transaction
//! that compares all of it: the blocks, their affinities, and the record of the Service's handle, which
//! every change of what the Service holds writes. So any number of instances may work at once: none
//! gives an address twice, and a Service has never two of a family. A call whose answer was lost may
//! be repeated; it finds what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use api::selector::Selector;
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::allocator::claim::Census;
use crate::block::{AddressState, Attribute, Block, Release};
use crate::error::Error;
use crate::model::{self, Affinity, AffinityState, Corrupt, IpamConfig};
use crate::net::{Family, Nets, network};
use crate::pool::{self, AllowedUse, Asker, Pool};
use crate::store::{Entry, Outcome, Snapshot, Store, Txn};
use crate::timestamp::Timestamp;

mod view;

use view::{Change, View};

/// The name that the blocks belong to.
pub const NAME: &str = "load-balancer";
/// The same as blocks write it.
pub const OWNER: &str = "virtual:load-balancer";
/// The value of the attribute `type` of such an allocation.
pub const TYPE: &str = "LoadBalancer";

/// How often others may interfere before a call gives up.
const ATTEMPTS: u32 = 100;
/// The most blocks that one transaction releases addresses of.
const BLOCKS_PER_TXN: usize = 40;

/// A Service, as its addresses are written down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.uid`: one of the same name, created anew, is another Service.
    pub uid: String,
}

impl Service {
    /// Calico's handle for the Service's addresses.
    pub fn handle(&self) -> String {
        let Self { namespace, name, uid } = self;
        let text = format!("{name}-{namespace}-{uid}").to_lowercase();
        format!("lb-{}", letters(&Sha256::digest(text)))
    }

    fn attribute(&self, handle: &str, now: Timestamp) -> Attribute {
        let owner = [
            ("namespace", self.namespace.clone()),
            ("service", self.name.clone()),
            ("timestamp", now.go_string()),
            ("type", TYPE.to_owned()),
        ];
        Attribute {
            handle_id: Some(handle.to_owned()),
            owner: Some(owner.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ..Attribute::default()
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// base64url (RFC 4648) without padding, and without the two of its characters that are neither
/// letters nor digits.
fn letters(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let groups = bytes.chunks(3).flat_map(|chunk| {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        (0..=chunk.len()).map(move |at| (bits >> (18 - 6 * at) & 63) as usize)
    });
    groups.filter_map(|group| ALPHABET.get(group).copied().map(char::from)).collect()
}

/// What a Service is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// An address of this family, of one of these pools (names or networks), of any automatic one if
    /// none is named.
    Any(Family, Vec<String>),
    /// This address.
    Address(IpAddr),
}

/// What the cluster says of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The pools.
    pub pools: &'a [Pool],
    /// What is not given by itself. Who asks for an address by name may have it.
    pub reservations: &'a [IpNet],
    /// The IPAMConfiguration, if there is one; else the store's own counts.
    pub config: Option<&'a IpamConfig>,
}

/// What one handle holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The namespace that the allocation names.
    pub namespace: String,
    /// The Service that it names.
    pub service: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// All that Services hold, at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// By handle.
    pub by_handle: BTreeMap<String, Holding>,
    /// Blocks that cannot be read; Services may hold addresses of them too.
    pub unreadable: Vec<Corrupt>,
}

/// The allocator. Clones are the same.
#[derive(Clone)]
pub struct Services {
    store: Arc<dyn Store>,
}

impl Services {
    /// On a store that is open; nothing is asked of it yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// What the store is called.
    pub fn store(&self) -> String {
        self.store.name()
    }

    /// Everything that Services hold.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn all(&self) -> Result<Holdings, Error> {
        let mut all = Holdings::default();
        for entry in self.store.list(model::BLOCKS, None).await?.entries {
            match model::decode_block(&entry.key, &entry.value) {
                Ok(block) => all.add(&block),
                Err(corrupt) => all.unreadable.push(corrupt),
            }
        }
        Ok(all)
    }

    /// What one handle holds.
    ///
    /// # Errors
    /// The store does not answer, or a block that may hold addresses of it cannot be read.
    pub async fn held(&self, handle: &str) -> Result<BTreeSet<IpAddr>, Error> {
        let view = View::read(&*self.store, handle, &[Family::V4, Family::V6]).await?;
        Ok(view.held()?.into_iter().map(|(address, _)| address).collect())
    }

    /// Gives the Service an address, or says which one of the family it has already. `instead_of` is an
    /// address that it may have and is to lose: at the moment that it gets the other one, and only
    /// if it does.
    ///
    /// # Errors
    /// The reason, with the pools or the address; nothing has changed then, except that after
    /// [`Error::StoreUnavailable`] the address may have been given: asking again tells.
    pub async fn assign(
        &self,
        service: &Service,
        wish: &Wish,
        instead_of: Option<IpAddr>,
        rules: &Rules<'_>,
        now: Timestamp,
    ) -> Result<IpAddr, Error> {
        let handle = service.handle();
        let owner = service.attribute(&handle, now);
        let family = match wish {
            Wish::Any(family, _) => *family,
            Wish::Address(address) => Family::of(*address),
        };
        for _ in 0..ATTEMPTS {
            let mut view = View::read(&*self.store, &handle, &[family]).await?;
            let old = view.held()?.into_iter().find(|(ip, _)| Family::of(*ip) == family);
            let may_go = |ip| instead_of == Some(ip) && *wish != Wish::Address(ip);
            if let Some((held, _)) = old.filter(|(ip, _)| !may_go(*ip)) {
                return match wish {
                    Wish::Address(address) if *address != held => {
                        Err(Error::Conflict { handle, held })
                    }
                    _ => Ok(held),
                };
            }
            view.expire(rules.config, now)?;
            let found = match wish {
                Wish::Any(family, pools) => {
                    Some(self.any(&view, *family, pools, &owner, rules, now).await?)
                }
                Wish::Address(address) => {
                    self.this(&mut view, *address, &owner, rules, now).await?
                }
            };
            let Some((address, mut change)) = found else { continue };
            if let Some((address, cidr)) = old {
                let known = change.blocks.get(&cidr).or(view.block(&cidr)?).cloned();
                change.blocks.extend(known.map(|mut block| {
                    // It is the handle's, as this very block says.
                    let _ = block.release_address(address, Some(&handle), None, Release::Rest(now));
                    (cidr, block)
                }));
            }
            match self.store.txn(view.transaction(change)?).await? {
                Outcome::Committed(_) => return Ok(address),
                Outcome::Conflict(found) => {
                    let freeze = found.iter().flatten().find(|entry| entry.key == model::FROZEN);
                    if let Some(freeze) = freeze {
                        return Err(Error::frozen(family, freeze));
                    }
                }
            }
        }
        Err(Error::Contention { attempts: ATTEMPTS, key: model::handle_key(&handle) })
    }

    /// Releases what a handle holds, or these of its addresses; they rest then. Says which they were:
    /// what it does not hold is no error.
    ///
    /// # Errors
    /// The store does not answer, or a block cannot be read.
    pub async fn release(
        &self,
        handle: &str,
        only: Option<&BTreeSet<IpAddr>>,
        now: Timestamp,
    ) -> Result<Vec<IpAddr>, Error> {
        let mut released = Vec::new();
        for _ in 0..ATTEMPTS {
            let view = View::read(&*self.store, handle, &[Family::V4, Family::V6]).await?;
            let held = view.held()?;
            let wanted = held.iter().filter(|(ip, _)| only.is_none_or(|only| only.contains(ip)));
            let mut by_block: BTreeMap<IpNet, Vec<IpAddr>> = BTreeMap::new();
            for (address, cidr) in wanted {
                by_block.entry(*cidr).or_default().push(*address);
            }
            let more = by_block.len() > BLOCKS_PER_TXN;
            let mut change = Change::default();
            let mut addresses = Vec::new();
            for (cidr, ips) in by_block.into_iter().take(BLOCKS_PER_TXN) {
                let Some(mut block) = view.block(&cidr)?.cloned() else { continue };
                for ip in ips {
                    // Held by the handle, as was just seen in this very block.
                    if block.release_address(ip, Some(handle), None, Release::Rest(now)) == Ok(true)
                    {
                        addresses.push(ip);
                    }
                }
                change.blocks.insert(cidr, block);
            }
            let txn = view.transaction(change)?;
            if txn.writes.is_empty() {
                return Ok(released);
            }
            if let Outcome::Committed(_) = self.store.txn(txn).await? {
                released.extend(addresses);
                if !more {
                    return Ok(released);
                }
            }
        }
        Err(Error::Contention { attempts: ATTEMPTS, key: model::handle_key(handle) })
    }

    /// Gives back the blocks of which no Service has an address and none rests; says which they were.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn give_back(
        &self,
        config: Option<&IpamConfig>,
        now: Timestamp,
    ) -> Result<Vec<IpNet>, Error> {
        let mut gone = Vec::new();
        let mut view = View::read(&*self.store, "", &[Family::V4, Family::V6]).await?;
        view.expire(config, now)?;
        for (cidr, block) in view.own_blocks() {
            if !block.is_empty() {
                continue;
            }
            let (block_key, affinity_key) = (model::block_key(&cidr), key_of_affinity(&cidr));
            let txn = Txn::default()
                .when(block_key.clone(), view.revision(&block_key))
                .when(affinity_key.clone(), view.revision(&affinity_key))
                .when(model::FROZEN, 0)
                .delete(block_key)
                .delete(affinity_key);
            // Somebody just took an address of it: it stays.
            if let Outcome::Committed(_) = self.store.txn(txn).await? {
                gone.push(cidr);
            }
        }
        Ok(gone)
    }

    /// Any address of the pools: of the blocks there are, then of a new one.
    async fn any(
        &self,
        view: &View,
        family: Family,
        named: &[String],
        owner: &Attribute,
        rules: &Rules<'_>,
        now: Timestamp,
    ) -> Result<(IpAddr, Change), Error> {
        let asker = Asker {
            node_labels: &BTreeMap::new(),
            // As in Calico: a pool for certain namespaces is given to a Service only by name.
            namespace_labels: None,
            requested: named,
            intended_use: AllowedUse::LoadBalancer,
        };
        let for_services = |pool: &Pool| Pool { node_selector: Selector::all(), ..pool.clone() };
        let pools: Vec<Pool> = rules.pools.iter().map(for_services).collect();
        let pools = pool::choose(&pools, family, asker)?;
        for pool in &pools {
            for (cidr, block) in view.own_blocks().filter(|(cidr, _)| pool.cidr.contains(cidr)) {
                let mut block = block.clone();
                if !block.deleted()
                    && let Some(address) = block.allocate(owner, rules.reservations)
                {
                    return Ok((address, Change::of(cidr, block)));
                }
            }
        }
        let (census, _) = Census::list(&*self.store, family).await?;
        let reserved: Nets = rules.reservations.iter().collect();
        let free =
            pools.iter().find_map(|pool| pool.free_block(NAME, now, &census.occupied, &reserved));
        if let Some(cidr) = free {
            let mut block = new_block(cidr, now)?;
            // None only where single addresses are reserved one by one; the walk passes over those.
            if let Some(address) = block.allocate(owner, rules.reservations) {
                return Ok((address, Change::claim(cidr, block, census)));
            }
        }
        let pools = pools.iter().map(|pool| pool.name.clone()).collect();
        Err(Error::PoolExhausted { family, pools })
    }

    /// This very address; None if its block was deleted meanwhile.
    async fn this(
        &self,
        view: &mut View,
        address: IpAddr,
        owner: &Attribute,
        rules: &Rules<'_>,
        now: Timestamp,
    ) -> Result<Option<(IpAddr, Change)>, Error> {
        let usable = |pool: &&Pool| {
            let right = pool.allowed_uses.contains(&AllowedUse::LoadBalancer);
            !pool.disabled && right && pool.cidr.contains(&address)
        };
        let pool = rules.pools.iter().find(usable).ok_or(Error::NotInPool { address })?;
        let wanted = network(address, pool.block_size);
        let (census, nets) = Census::list(&*self.store, Family::of(address)).await?;
        let Some(cidr) = nets.iter().copied().find(|cidr| cidr.contains(&address)) else {
            if let Some(existing) = nets.into_iter().find(|cidr| wanted.contains(cidr)) {
                return Err(Error::Overlap { address, wanted, existing });
            }
            let mut block = new_block(wanted, now)?;
            take(&mut block, address, owner)?;
            return Ok(Some((address, Change::claim(wanted, block, census))));
        };
        view.read_block(&*self.store, &cidr).await?;
        view.expire(rules.config, now)?;
        let Some(mut block) = view.block(&cidr)?.cloned() else { return Ok(None) };
        match block.affinity() {
            Some(OWNER) => {}
            // Nobody's: Services have an address of it from now on.
            None => block.set_affinity(Some(OWNER.to_owned()), now),
            Some(other) => {
                return Err(Error::OtherOwner { address, block: cidr, owner: other.to_owned() });
            }
        }
        take(&mut block, address, owner)?;
        Ok(Some((address, Change::of(cidr, block))))
    }
}

impl Holdings {
    fn add(&mut self, block: &Block) {
        for (address, state) in block.occupied() {
            let AddressState::Allocated(attribute, _) = state else { continue };
            let service = attribute.get("type") == Some(TYPE) || block.affinity() == Some(OWNER);
            let Some(handle) = attribute.handle_id.as_ref().filter(|_| service) else { continue };
            let text = |key| attribute.get(key).unwrap_or_default().to_owned();
            let holding = self.by_handle.entry(handle.clone()).or_insert_with(|| Holding {
                namespace: text("namespace"),
                service: text("service"),
                addresses: BTreeSet::new(),
            });
            holding.addresses.insert(address);
        }
    }
}

fn key_of_affinity(cidr: &IpNet) -> String {
    let segment = model::block_key(cidr);
    format!("{}{NAME}/{}", model::VIRTUALS, segment.trim_start_matches(model::BLOCKS))
}

fn new_block(cidr: IpNet, now: Timestamp) -> Result<Block, Error> {
    Block::new(cidr, Some(OWNER.to_owned()), now).map_err(|error| Error::Invalid(error.to_string()))
}

fn take(block: &mut Block, address: IpAddr, owner: &Attribute) -> Result<(), Error> {
    block.allocate_address(address, owner).map_err(|error| match error {
        crate::block::BlockError::Allocated { address, handle } => {
            let holder = handle.unwrap_or_else(|| "somebody without a handle".to_owned());
            Error::AddressInUse { address, holder }
        }
        other => Error::Invalid(other.to_string()),
    })
}

#[cfg(test)]
mod tests;
