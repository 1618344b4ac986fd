//! What endpoints have by the agent's own record, where the store does not have it.

use super::*;
use crate::block::{AddressState, Attribute, Release};

impl Committer {
    /// Gives what endpoints have to their handles, wherever the store does not. The number of
    /// addresses that were otherwise; what cannot be told yet is kept.
    pub(in crate::allocator::committer) async fn write_held(
        &mut self,
        node: Revision,
    ) -> Result<usize, Error> {
        let (mut missing, mut later) = (0, Vec::new());
        while let Some(held) = self.restored.held.pop() {
            match self.write_one(node, &held).await {
                Ok(Some(count)) => missing += count,
                Ok(None) => later.push(held),
                Err(error) => {
                    self.restored.held.push(held);
                    self.restored.held.append(&mut later);
                    return Err(error);
                }
            }
        }
        self.restored.held = later;
        Ok(missing)
    }

    /// None: the pool of one of its addresses is still to be heard of.
    async fn write_one(&mut self, node: Revision, held: &Held) -> Result<Option<usize>, Error> {
        let mut missing = 0;
        for address in &held.addresses {
            let has = |cidr: &IpNet| {
                let block = self.cache.blocks.get(cidr);
                block.is_some_and(|seen| {
                    seen.value.addresses_of(&held.handle).any(|has| has == *address)
                })
            };
            if self.cache.blocks.of(&held.handle).any(has) {
                continue;
            }
            match self.block_of(*address).await? {
                Some(cidr) => missing += self.hold(node, cidr, *address, held).await?,
                None if self.settings.pools.is_empty() => return Ok(None),
                None => {
                    let handle = &held.handle;
                    tracing::warn!(%address, handle, "in use by an endpoint, and in no block or pool");
                }
            }
        }
        Ok(Some(missing))
    }

    /// The block that an address is in, or would be.
    async fn block_of(&mut self, address: IpAddr) -> Result<Option<IpNet>, Error> {
        if let Some(cidr) = self.cache.blocks.keys().find(|cidr| cidr.contains(&address)) {
            return Ok(Some(*cidr));
        }
        let keys = self.store.list_keys(model::blocks_of(Family::of(address))).await?.keys;
        let mut nets = keys.iter().filter_map(|key| model::parse_block_key(key));
        if let Some(cidr) = nets.find(|net| net.contains(&address)) {
            return Ok(Some(cidr));
        }
        let pool = self.settings.pools.iter().find(|pool| pool.cidr.contains(&address));
        Ok(pool.map(|pool| crate::net::network(address, pool.block_size)))
    }

    async fn hold(
        &mut self,
        node: Revision,
        cidr: IpNet,
        address: IpAddr,
        Held { handle, attributes, .. }: &Held,
    ) -> Result<usize, Error> {
        if !self.cache.blocks.contains_key(&cidr) {
            let key = model::block_key(&cidr);
            let read = self.store.read(std::slice::from_ref(&key)).await?;
            self.cache.install_block(cidr, read.get(&key));
        }
        let stored = self.cache.blocks.get(&cidr).map(|seen| seen.value.clone());
        let affinity = Some(format!("host:{}", self.cache.node));
        let block = stored.or_else(|| Block::new(cidr, affinity, self.now()).ok());
        let Some(mut block) = block else { return Ok(0) };
        let mut attributes = attributes.clone();
        attributes.entry("node".to_owned()).or_insert_with(|| self.cache.node.clone());
        let owner = Attribute {
            handle_id: Some(handle.to_owned()),
            owner: Some(attributes),
            ..Attribute::default()
        };
        // Who had it when the copy was made may be gone by now.
        if let Some(AddressState::Allocated(holder, _)) = block.state(address) {
            let gone = holder.handle_id.clone().filter(|of| {
                let lives = self.restored.living.contains(of) || self.assigned.contains_key(of);
                holder.get("node") == Some(self.cache.node.as_str()) && !lives
            });
            if gone.is_some() {
                let freed = block.release_address(address, gone.as_deref(), None, Release::Now);
                tracing::debug!(%address, ?freed, "held by an endpoint that is no more");
            }
        }
        if let Err(error) = block.allocate_address(address, &owner) {
            tracing::error!(%error, handle, "in use by an endpoint of this node, and the store has it otherwise");
            return Ok(0);
        }
        tracing::warn!(%address, handle, "in use by an endpoint, and free in the store: written back");
        let own = self.cache.owns(&cidr);
        self.write_back(node, cidr, block, own).await
    }
}
