//! From what is known and what is asked to one transaction. Pure: no IO, no clock.
//!
//! Requests are planned one after the other against a draft of the blocks, so that all of them
//! fit into one commit. What cannot be planned from what is known says what it [`Need`]s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::cache::{Cache, Knowledge};
use super::claim::Census;
use super::request::{AssignRequest, Assignment, Live};
use crate::block::{AddressState, Attribute, Block, Release, Vacancy};
use crate::error::Error;
use crate::model::{self, Attachment, Handle, IpamConfig};
use crate::net::Family;
use crate::pool::{self, Asker, Pool};
use crate::store::MAX_TXN_OPS;
use crate::timestamp::Timestamp;

mod finished;
mod release;

pub(crate) use finished::Plan;

/// Comparisons or writes of one request at most: two blocks, the marks of their owners, a handle, the
/// freeze; and room for the node's key.
const OPS_PER_REQUEST: usize = 6;
/// Blocks of one request at most.
const BLOCKS_PER_REQUEST: usize = 2;
/// Comparisons of a claim at most: the affinity, the freeze, and whatever may overlap the block.
const OPS_PER_CLAIM: usize = 24;
const MOST_OPS: usize = MAX_TXN_OPS - 1;

/// What felix's watches say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) pools: Vec<Pool>,
    /// How many there are beside these.
    pub(crate) unreadable_pools: usize,
    pub(crate) reservations: Vec<IpNet>,
    pub(crate) config: IpamConfig,
    /// None: not known yet.
    pub(crate) node_labels: Option<BTreeMap<String, String>>,
}

/// One request, and what has been tried for it.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Assign(AssignRequest),
    /// Everything a handle holds. `looked_up`: the handle's key has been read.
    Release {
        handle: String,
        looked_up: bool,
    },
    /// An assignment that nobody waits for any more.
    Undo {
        handle: String,
        addresses: Vec<IpAddr>,
    },
    /// What no live endpoint has.
    Collect(Live),
}

/// How hard to look for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Free addresses of the node's own blocks.
    Own,
    /// No block can be claimed, for this reason: end the cooldown of addresses, then borrow.
    Scarce(Error),
}

/// What must be known before a request can be planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A block of one of these pools, with room.
    Block { family: Family, pools: Vec<String> },
    /// The block that holds this address.
    BlockOf(IpAddr),
    /// The handle's own record.
    Handle(String),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    Assigned {
        assignment: Assignment,
        new: Vec<IpAddr>,
    },
    /// `more`: the transaction is full and the request not done yet.
    Released {
        addresses: Vec<IpAddr>,
        more: bool,
    },
    Failed(Error),
    Needs(Need),
    /// The transaction is full: next time.
    Later,
}

/// A transaction in the making.
pub(crate) struct Draft<'a> {
    cache: &'a Cache,
    settings: &'a Settings,
    /// When each handle was assigned, if this process did it.
    assigned: &'a HashMap<String, u64>,
    now: Timestamp,
    /// Blocks that were looked at closely; true: changed.
    blocks: BTreeMap<IpNet, (Block, bool)>,
    /// Blocks that an answer rests on without changing them.
    relied_on: BTreeSet<IpNet>,
    handles: BTreeSet<String>,
    /// Handles that assignments of this draft give addresses to.
    assigning: BTreeSet<String>,
    /// Nodes whose blocks give addresses to others.
    lenders: BTreeSet<String>,
    /// What blocks of these have to give, as far as it was asked since they changed.
    vacancies: BTreeMap<IpNet, Vacancy>,
    /// The node's own blocks of each pool, by its network.
    own: BTreeMap<IpNet, Vec<IpNet>>,
    /// Blocks that do not exist yet and are claimed with the addresses that are given of them.
    claims: BTreeSet<IpNet>,
    /// Only blocks that may be answered for without the store are given from.
    local: bool,
}

/// True if a request can be answered from what the node itself answers for. `tentative` is what
/// transactions of unknown outcome may have given it: where that is not read again yet, it may have
/// its addresses already.
pub(crate) fn is_local(cache: &Cache, work: &Work, tentative: &BTreeSet<IpAddr>) -> bool {
    let firm = |cidr: &IpNet| cache.is_firm(cidr);
    let unread = |address: &IpAddr| cache.stale.iter().any(|cidr| cidr.contains(address));
    if tentative.iter().any(unread) {
        return false;
    }
    match work {
        Work::Assign(request) => {
            let mut named = cache
                .blocks
                .keys()
                .filter(|cidr| request.requested_ips.iter().any(|address| cidr.contains(address)));
            cache.blocks.of(&request.handle).all(firm) && named.all(firm)
        }
        Work::Release { handle, .. } => {
            let recorded = cache.handles.get(handle);
            let mut recorded = recorded.into_iter().flat_map(|seen| seen.value.block.keys());
            let mut held = cache.blocks.of(handle).peekable();
            held.peek().is_some() && held.all(firm) && recorded.all(firm)
        }
        Work::Undo { handle, addresses } => {
            let mut held = cache.blocks.of(handle);
            !addresses.iter().any(unread)
                && held.all(|c| firm(c) || !addresses.iter().any(|address| c.contains(address)))
        }
        Work::Collect(_) => false,
    }
}

impl Work {
    /// Whose addresses it is about, if it is about one handle's.
    pub(crate) fn handle(&self) -> Option<&str> {
        match self {
            Self::Assign(request) => Some(&request.handle),
            Self::Release { handle, .. } | Self::Undo { handle, .. } => Some(handle),
            Self::Collect(_) => None,
        }
    }
}

impl<'a> Draft<'a> {
    pub(crate) fn new(
        cache: &'a Cache,
        settings: &'a Settings,
        assigned: &'a HashMap<String, u64>,
        now: Timestamp,
    ) -> Self {
        let (blocks, relied_on, handles, assigning, lenders, claims) = Default::default();
        let (vacancies, own) = Default::default();
        Self {
            cache,
            settings,
            assigned,
            now,
            blocks,
            relied_on,
            handles,
            assigning,
            lenders,
            vacancies,
            own,
            claims,
            local: false,
        }
    }

    /// One for what is answered without the store.
    pub(crate) fn local(self) -> Self {
        Self { local: true, ..self }
    }

    /// True if a further block of the family may be claimed with what is planned: one for each
    /// transaction, and none without the store.
    pub(crate) fn may_claim(&self, family: Family) -> bool {
        let full = self.operations() + OPS_PER_CLAIM + OPS_PER_REQUEST > MOST_OPS;
        let claimed = self.claims.iter().any(|cidr| Family::of_net(cidr) == family);
        !self.local && !full && !claimed
    }

    /// Claims a block that does not exist: addresses may be given of it.
    pub(crate) fn claim(&mut self, block: Block) {
        self.own.clear();
        self.claims.insert(block.cidr());
        self.blocks.insert(block.cidr(), (block, true));
    }

    /// Plans one request.
    pub(crate) fn add(&mut self, work: &Work, effort: &Effort) -> Planned {
        if self.operations() + OPS_PER_REQUEST > MOST_OPS {
            return Planned::Later;
        }
        match work {
            Work::Assign(request) => self.assign(request, effort).unwrap_or_else(|planned| planned),
            Work::Release { handle, looked_up } => self.release(handle, *looked_up),
            Work::Undo { handle, addresses } => self.undo(handle, addresses),
            Work::Collect(live) => self.collect(live),
        }
    }

    fn operations(&self) -> usize {
        let changed = self.blocks.iter().filter(|(_, (_, changed))| *changed).count();
        let relied_on = self.relied_on.iter().filter(|cidr| !self.is_changed(cidr)).count();
        let claims = self.claims.len() * OPS_PER_CLAIM;
        changed + relied_on + self.handles.len() + self.lenders.len() + claims
    }

    fn is_changed(&self, cidr: &IpNet) -> bool {
        self.blocks.get(cidr).is_some_and(|(_, changed)| *changed)
    }

    /// The block as it will be.
    fn block(&self, cidr: &IpNet) -> Option<&Block> {
        let drafted = self.blocks.get(cidr).map(|(block, _)| block);
        drafted.or_else(|| self.cache.blocks.get(cidr).map(|seen| &seen.value))
    }

    /// A copy to work on, in which what has rested long enough is free.
    fn open(&mut self, cidr: IpNet) -> Option<&mut (Block, bool)> {
        if self.claims.contains(&cidr) {
            return self.blocks.get_mut(&cidr);
        }
        let seen = self.cache.blocks.get(&cidr)?;
        let cooldown = self.settings.config.cooldown();
        let now = self.now;
        Some(self.blocks.entry(cidr).or_insert_with(|| {
            let mut block = seen.value.clone();
            block.expire(now, cooldown);
            (block, false)
        }))
    }

    /// Changes a block, which counts as changed if the function returns Some.
    fn change<T>(&mut self, cidr: IpNet, f: impl FnOnce(&mut Block) -> Option<T>) -> Option<T> {
        self.vacancies.remove(&cidr);
        let (block, changed) = self.open(cidr)?;
        let result = f(block)?;
        *changed = true;
        Some(result)
    }

    /// The known blocks of a pool, the node's own or, if `borrowed`, those of others.
    fn blocks_of(&self, pool: &Pool, borrowed: bool) -> Vec<IpNet> {
        let known = self.cache.blocks.keys();
        let known = known
            .filter(|cidr| self.cache.owns(cidr) != borrowed && !self.claims.contains(cidr))
            .filter(|cidr| !self.local || self.cache.is_firm(cidr))
            .filter(|cidr| !borrowed || self.lends(cidr));
        let claimed = self.claims.iter().filter(|_| !borrowed);
        known.chain(claimed).filter(|cidr| pool.cidr.contains(*cidr)).copied().collect()
    }

    /// The node's own blocks of a pool.
    fn own_blocks_of(&mut self, pool: &Pool) -> Vec<IpNet> {
        if let Some(own) = self.own.get(&pool.cidr) {
            return own.clone();
        }
        let own = self.blocks_of(pool, false);
        self.own.insert(pool.cidr, own.clone());
        own
    }

    /// The node that the block belongs to, if that is another one.
    fn lender(&self, cidr: &IpNet) -> Option<&'a str> {
        let node = self.cache.blocks.get(cidr)?.value.node();
        node.filter(|node| *node != self.cache.node)
    }

    /// True unless the block's node answers from a log of its own.
    fn lends(&self, cidr: &IpNet) -> bool {
        self.lender(cidr).is_none_or(|node| !self.cache.exclusive.contains(node))
    }

    /// Err is an early answer.
    fn assign(&mut self, request: &AssignRequest, effort: &Effort) -> Result<Planned, Planned> {
        let held = self.held(&request.handle);
        let mut addresses = Vec::new();
        // Chosen before anything is changed: all families or none.
        let mut choices = Vec::new();
        for family in request.families.iter() {
            let wanted = request.requested_ips.iter().find(|ip| Family::of(**ip) == family);
            let has = held.iter().find(|(ip, _)| Family::of(*ip) == family);
            match (has, wanted) {
                (Some((held, cidr)), Some(wanted)) if held != wanted => {
                    self.relied_on.insert(*cidr);
                    let handle = request.handle.clone();
                    return Err(Planned::Failed(Error::Conflict { handle, held: *held }));
                }
                (Some((held, cidr)), _) => {
                    addresses.push(*held);
                    self.relied_on.insert(*cidr);
                }
                (None, Some(wanted)) => {
                    choices.push((self.choose_named(*wanted, request)?, Some(*wanted)));
                }
                (None, None) => choices.push((self.choose_any(family, request, effort)?, None)),
            }
        }
        let owner = Attribute {
            handle_id: Some(request.handle.clone()),
            owner: Some(request.attributes.clone()),
            ..Attribute::default()
        };
        let reservations = &self.settings.reservations;
        let mut new = Vec::new();
        for (cidr, named) in choices {
            let address = self.change(cidr, |block| match named {
                Some(address) => block.allocate_address(address, &owner).ok().map(|()| address),
                None => block.allocate(&owner, reservations),
            });
            if address.is_some() {
                self.lenders.extend(self.lender(&cidr).map(str::to_owned));
            }
            new.extend(address);
        }
        if !new.is_empty() {
            self.handles.insert(request.handle.clone());
        }
        self.assigning.insert(request.handle.clone());
        let repeated = new.is_empty();
        addresses.extend(&new);
        Ok(Planned::Assigned { assignment: Assignment::new(addresses, repeated), new })
    }

    /// What a handle holds in the known blocks, and where, in address order.
    fn held(&self, handle: &str) -> Vec<(IpAddr, IpNet)> {
        let mut cidrs: Vec<IpNet> = self.cache.blocks.of(handle).copied().collect();
        if self.assigning.contains(handle) {
            cidrs.extend(self.blocks.keys());
        }
        cidrs.sort_unstable();
        cidrs.dedup();
        let blocks = cidrs.iter().filter_map(|cidr| Some((*cidr, self.block(cidr)?)));
        blocks
            .flat_map(|(cidr, block)| {
                block.addresses_of(handle).map(move |address| (address, cidr))
            })
            .collect()
    }

    /// The block to take any address of a family from.
    fn choose_any(
        &mut self,
        family: Family,
        request: &AssignRequest,
        effort: &Effort,
    ) -> Result<IpNet, Planned> {
        let settings = self.settings;
        let unknown = BTreeMap::new();
        let asker = Asker {
            node_labels: settings.node_labels.as_ref().unwrap_or(&unknown),
            namespace_labels: request.namespace_labels.as_ref(),
            requested: &request.requested_pools,
            intended_use: request.intended_use,
        };
        let pools = pool::choose(&settings.pools, family, asker).map_err(Planned::Failed)?;
        let own: Vec<_> = pools.iter().flat_map(|pool| self.own_blocks_of(pool)).collect();
        let oldest = match self.first_free(&own) {
            Ok(cidr) => return Ok(cidr),
            Err(oldest) => oldest,
        };
        let Effort::Scarce(reason) = effort else {
            let pools = pools.iter().map(|pool| pool.name.clone()).collect();
            return Err(Planned::Needs(Need::Block { family, pools }));
        };
        // The oldest resting address of all own blocks, before its time.
        if let Some(cidr) = oldest {
            self.change(cidr, |block| block.expire_oldest(&settings.reservations));
            return Ok(cidr);
        }
        if !settings.config.strict_affinity && self.cache.frozen.is_none() {
            let others: Vec<_> = pools.iter().flat_map(|pool| self.blocks_of(pool, true)).collect();
            if let Ok(cidr) = self.first_free(&others) {
                return Ok(cidr);
            }
        }
        let within = |cidr: &IpNet| pools.iter().any(|pool| pool.cidr.contains(cidr));
        let corrupt = self.cache.corrupt_block(within).cloned().map(Error::Corrupt);
        Err(Planned::Failed(corrupt.unwrap_or_else(|| reason.clone())))
    }

    /// The first of these with an address that is free, or has rested long enough; else the one with the
    /// address that has rested longest.
    fn first_free(&mut self, blocks: &[IpNet]) -> Result<IpNet, Option<IpNet>> {
        let (now, cooldown) = (self.now, self.settings.config.cooldown());
        let mut oldest: Option<(Timestamp, IpNet)> = None;
        for cidr in blocks {
            let Some(vacancy) = self.vacancy(cidr) else { continue };
            if vacancy.has_free_by(now, cooldown) {
                return Ok(*cidr);
            }
            let resting = vacancy.oldest_resting.map(|since| (since, *cidr));
            oldest = [oldest, resting].into_iter().flatten().min();
        }
        Err(oldest.map(|(_, cidr)| cidr))
    }

    /// What a block has to give. The node may have many: those that are not changed are not looked through
    /// for each request.
    fn vacancy(&mut self, cidr: &IpNet) -> Option<Vacancy> {
        let reserved = &self.settings.reservations;
        let Some((block, _)) = self.blocks.get(cidr) else {
            return self.cache.blocks.vacancy(cidr, reserved);
        };
        Some(*self.vacancies.entry(*cidr).or_insert_with(|| block.vacancy(reserved)))
    }

    /// The block to take this very address from, which can then be taken.
    fn choose_named(&mut self, address: IpAddr, request: &AssignRequest) -> Result<IpNet, Planned> {
        let allows = |pool: &&Pool| {
            !pool.disabled
                && pool.cidr.contains(&address)
                && pool.allowed_uses.contains(&request.intended_use)
        };
        if !self.settings.pools.iter().any(|pool| allows(&pool)) {
            return Err(Planned::Failed(Error::NotInPool { address }));
        }
        let Some(cidr) = self.cache.blocks.keys().copied().find(|cidr| cidr.contains(&address))
        else {
            if let Some(corrupt) = self.cache.corrupt_block(|cidr| cidr.contains(&address)) {
                return Err(Planned::Failed(Error::Corrupt(corrupt.clone())));
            }
            return Err(Planned::Needs(Need::BlockOf(address)));
        };
        let strict = self.settings.config.strict_affinity || self.cache.frozen.is_some();
        let closed = !self.cache.owns(&cidr) && (strict || !self.lends(&cidr));
        let Some((block, _)) = self.open(cidr) else {
            return Err(Planned::Needs(Need::BlockOf(address)));
        };
        if closed {
            let owner = block.affinity().unwrap_or("nobody").to_owned();
            return Err(Planned::Failed(Error::NotOurBlock { address, owner }));
        }
        if let Some(AddressState::Allocated(attribute, _)) = block.state(address) {
            let holder = attribute.handle_id.clone().unwrap_or_else(|| "nobody known".to_owned());
            self.relied_on.insert(cidr);
            return Err(Planned::Failed(Error::AddressInUse { address, holder }));
        }
        Ok(cidr)
    }
}
