//! Giving back: all that a handle holds, what nobody waits for any more, what no endpoint has.

use super::*;

impl Draft<'_> {
    pub(super) fn release(&mut self, handle: &str, looked_up: bool) -> Planned {
        let mut blocks: BTreeSet<IpNet> =
            self.held(handle).into_iter().map(|(_, cidr)| cidr).collect();
        if blocks.is_empty() && !looked_up {
            return Planned::Needs(Need::Handle(handle.to_owned()));
        }
        if let Some(seen) = self.cache.handles.get(handle) {
            for cidr in seen.value.block.keys() {
                match self.cache.knows(cidr) {
                    Knowledge::Unknown if !looked_up => {
                        return Planned::Needs(Need::Handle(handle.to_owned()));
                    }
                    Knowledge::Corrupt(corrupt) if blocks.is_empty() => {
                        return Planned::Failed(Error::Corrupt(corrupt.clone()));
                    }
                    // A record that names more than the blocks hold is put right.
                    Knowledge::Known => {
                        self.handles.insert(handle.to_owned());
                        self.relied_on.insert(*cidr);
                    }
                    _ => {}
                }
            }
        }
        let more = blocks.len() > BLOCKS_PER_REQUEST;
        if more {
            let first: Vec<_> = blocks.into_iter().take(BLOCKS_PER_REQUEST).collect();
            blocks = first.into_iter().collect();
        }
        let rest = Release::Rest(self.now);
        let mut addresses = Vec::new();
        for cidr in blocks {
            let released = self.change(cidr, |block| Some(block.release_handle(handle, rest)));
            addresses.extend(released.into_iter().flatten());
            self.handles.insert(handle.to_owned());
        }
        Planned::Released { addresses, more }
    }

    pub(super) fn undo(&mut self, handle: &str, addresses: &[IpAddr]) -> Planned {
        let held = self.held(handle);
        let mut undone = Vec::new();
        for (address, cidr) in held.into_iter().filter(|(ip, _)| addresses.contains(ip)) {
            let freed = self.change(cidr, |block| {
                block.release_address(address, Some(handle), None, Release::Now).ok()
            });
            if freed.is_some() {
                undone.push(address);
                self.handles.insert(handle.to_owned());
            }
        }
        Planned::Released { addresses: undone, more: false }
    }

    pub(super) fn collect(&mut self, live: &Live) -> Planned {
        let node = &self.cache.node;
        // Tunnel addresses (they have a type) are the node's, not an endpoint's; what names
        // another node, or nobody, is not ours to judge.
        let dead = |attribute: &Attribute| {
            let handle = attribute.handle_id.as_ref()?;
            let ours = attribute.get("node") == Some(node.as_str())
                && attribute.get("type").is_none()
                && attribute.get("pod").is_some();
            let young = self.assigned.get(handle).is_some_and(|at| *at > live.epoch.0)
                || self.assigning.contains(handle);
            let judged = |network: &String| {
                Attachment::of_handle(handle).is_some_and(|of| of.network == network)
            };
            (ours
                && live.network.as_ref().is_none_or(judged)
                && !young
                && !live.handles.contains(handle))
            .then(|| handle.clone())
        };
        let mut dead_handles = BTreeSet::new();
        for seen in self.cache.blocks.values() {
            dead_handles.extend(seen.value.occupied().filter_map(|(_, state)| match state {
                AddressState::Allocated(attribute, _) => dead(attribute),
                _ => None,
            }));
        }
        let mut addresses = Vec::new();
        if live.dry {
            let held = dead_handles.iter().flat_map(|handle| self.held(handle));
            addresses.extend(held.map(|(address, _)| address));
            return Planned::Released { addresses, more: false };
        }
        for handle in dead_handles {
            if self.operations() + OPS_PER_REQUEST > MOST_OPS {
                return Planned::Released { addresses, more: true };
            }
            match self.release(&handle, true) {
                Planned::Released { addresses: some, more: false } => addresses.extend(some),
                Planned::Released { addresses: some, .. } => {
                    addresses.extend(some);
                    return Planned::Released { addresses, more: true };
                }
                Planned::Failed(error) => tracing::warn!(handle, %error, "not collected"),
                _ => {}
            }
        }
        Planned::Released { addresses, more: false }
    }
}
