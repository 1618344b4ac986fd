//! Our own networks: routes without a neighbor.

use ipnet::IpNet;

use super::apply::{Change, Effect, Report};
use super::core::Core;
use crate::config::Network;
use crate::rib::{Path, PeerId, RibPrefix, with_family};
use crate::wire::attributes::{flag, kind, push};
use crate::wire::{Family, NextHop, Prefix};

impl Core {
    /// Announces these in place of those before.
    pub(super) fn apply_networks(&mut self, networks: Vec<Network>, report: &mut Report) {
        let note = |report: &mut Report, prefix: IpNet, effect| {
            let object = format!("network {prefix}");
            report.changes.push(Change { object, fields: Vec::new(), effect });
        };
        let old = std::mem::take(&mut self.networks);
        for network in &networks {
            let known = old.get(&network.prefix);
            if known != Some(network) {
                with_family!(Family::of(&network.prefix), P => self.originate::<P>(network));
                let effect = if known.is_some() { Effect::ReEvaluated } else { Effect::Added };
                note(report, network.prefix, effect);
            }
        }
        self.networks = networks.into_iter().map(|n| (n.prefix, n)).collect();
        for prefix in old.keys().filter(|p| !self.networks.contains_key(*p)) {
            with_family!(Family::of(prefix), P => {
                let dest = P::from_net(prefix).and_then(|p| P::table(&self.rib).find(&p));
                if let Some(dest) = dest {
                    self.rib.remove::<P>(dest, (PeerId::LOCAL, 0));
                }
            });
            note(report, *prefix, Effect::Removed);
        }
    }

    fn originate<P: RibPrefix>(&mut self, network: &Network) {
        let Some(prefix) = P::from_net(&network.prefix) else { return };
        let next_hop = network.next_hop.map_or(NextHop::OURSELVES, NextHop::new);
        let attr = self.rib.attrs.intern(&block(network), next_hop);
        self.rib.attrs.retain(attr);
        self.rib.announce(prefix, Path::new(PeerId::LOCAL, 0, attr));
    }
}

/// The attributes of a route of our own.
fn block(network: &Network) -> Vec<u8> {
    const OPTIONAL_TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;
    let mut out = Vec::new();
    push(&mut out, flag::TRANSITIVE, kind::ORIGIN, &[0]);
    push(&mut out, flag::TRANSITIVE, kind::AS_PATH, &[]);
    if let Some(med) = network.med {
        push(&mut out, flag::OPTIONAL, kind::MULTI_EXIT_DISC, &med.to_be_bytes());
    }
    if let Some(local_pref) = network.local_pref {
        push(&mut out, flag::TRANSITIVE, kind::LOCAL_PREF, &local_pref.to_be_bytes());
    }
    if !network.communities.is_empty() {
        let value: Vec<u8> = network.communities.iter().flat_map(|c| c.0.to_be_bytes()).collect();
        push(&mut out, OPTIONAL_TRANSITIVE, kind::COMMUNITIES, &value);
    }
    if !network.large_communities.is_empty() {
        let parts = network.large_communities.iter().flat_map(|c| c.0);
        let value: Vec<u8> = parts.flat_map(u32::to_be_bytes).collect();
        push(&mut out, OPTIONAL_TRANSITIVE, kind::LARGE_COMMUNITIES, &value);
    }
    out
}
