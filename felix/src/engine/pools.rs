//! Address pools whose pods leave the cluster under their node's address (natOutgoing).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::pending::Pending;
use crate::model::{Key, ObjectKey, Value};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool {
    /// As written.
    text: String,
    net: Option<IpNet>,
    nat_outgoing: bool,
}

/// All pools. They are few: every change looks at all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pools {
    pools: BTreeMap<Arc<str>, Pool>,
    shown: BTreeSet<Key>,
    changed: bool,
}

impl Pools {
    /// The pool is now this.
    pub(super) fn set(&mut self, name: &str, cidr: &str, nat_outgoing: bool) {
        let net = cidr.parse::<IpNet>().ok().map(|net| net.trunc());
        let pool = Pool { text: cidr.into(), net, nat_outgoing };
        if self.pools.get(name) != Some(&pool) {
            self.pools.insert(name.into(), pool);
            self.changed = true;
        }
    }

    /// The pool is gone.
    pub(super) fn remove(&mut self, name: &str) {
        self.changed |= self.pools.remove(name).is_some();
    }

    /// Brings the elements up to date. Pools must not overlap, and neither may intervals in the
    /// kernel: of pools that do, the wider one counts.
    pub(super) fn settle(&mut self, pending: &mut Pending) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let all = self.pools.values().filter_map(|pool| Some((pool.net?, pool.nat_outgoing)));
        let masqueraded = widest(all.clone().filter(|(_, nat)| *nat).map(|(net, _)| net));
        let wanted: BTreeSet<Key> = (widest(all.map(|(net, _)| net)).into_iter().map(Key::Pool))
            .chain(masqueraded.into_iter().map(Key::Masquerade))
            .collect();
        for key in self.shown.difference(&wanted) {
            pending.set(*key, Some(Value::Member), None);
        }
        for key in wanted.difference(&self.shown) {
            pending.set(*key, None, Some(Value::Member));
        }
        self.shown = wanted;
    }

    /// What is wrong with which pool.
    pub(super) fn problems(&self) -> impl Iterator<Item = (ObjectKey, String)> {
        self.pools.iter().filter_map(|(name, pool)| {
            let Some(net) = pool.net else {
                let reason = format!("{:?} is not an address with a prefix length", pool.text);
                return Some((ObjectKey::cluster(name), reason));
            };
            let (other, wider) = self.pools.iter().find(|(other_name, other)| {
                let Some(other_net) = other.net else { return false };
                other_net.contains(&net)
                    && (other_net != net || other_name < &name)
                    && other_name != &name
            })?;
            let reason = format!("{net} lies in {} of pool {other}", wider.text);
            Some((ObjectKey::cluster(name), reason))
        })
    }
}

/// Networks without those that lie in another.
fn widest(nets: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let nets: BTreeSet<IpNet> = nets.collect();
    let inside = |net: &IpNet| nets.iter().any(|other| other != net && other.contains(net));
    nets.iter().filter(|net| !inside(net)).copied().collect()
}
