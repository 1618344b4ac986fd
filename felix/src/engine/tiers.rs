//! The tiers known. Three are always there, as in every cluster of Calico.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::v3::{self, TierDefaultAction};

use super::policy::{Action, Order, Tier};

/// All tiers.
#[derive(Clone, Debug)]
pub(super) struct Tiers {
    known: BTreeMap<Arc<str>, Arc<Tier>>,
    /// Objects that say of a tier that is always there what it is not: the name, and what it is.
    contradicted: BTreeMap<Arc<str>, String>,
}

/// Name, order and default action of the tiers that are always there; they cannot be changed.
const BUILT_IN: [(&str, f64, Action); 3] = [
    ("default", 1_000_000.0, Action::Deny),
    ("kube-admin", 1_000.0, Action::Pass),
    ("kube-baseline", 10_000_000.0, Action::Pass),
];

impl Default for Tiers {
    fn default() -> Self {
        let tiers = BUILT_IN.map(|(name, order, default_action)| {
            (name.into(), Arc::new(Tier::new(name, Order::new(order), default_action)))
        });
        Self { known: tiers.into_iter().collect(), contradicted: BTreeMap::new() }
    }
}

impl Tiers {
    /// The tier of this name, which may be missing.
    pub(super) fn get(&self, name: &str) -> Arc<Tier> {
        self.known.get(name).cloned().unwrap_or_else(|| Arc::new(Tier::missing(name)))
    }

    /// The tier is now this. Returns what policies of it belong to.
    pub(super) fn set(&mut self, name: &str, spec: &v3::TierSpec) -> Arc<Tier> {
        let order = spec.order.map_or(Order::LAST, Order::new);
        let default_action = match spec.default_action {
            TierDefaultAction::Deny => Action::Deny,
            TierDefaultAction::Pass => Action::Pass,
        };
        let tier = Arc::new(Tier::new(name, order, default_action));
        if let Some((_, order, action)) = BUILT_IN.iter().find(|(built_in, ..)| *built_in == name) {
            self.contradicted.remove(name);
            let fixed = self.get(name);
            if *fixed != *tier {
                let reason = format!("tier {name} always has order {order} and default {action:?}");
                self.contradicted.insert(name.into(), reason);
            }
            return fixed;
        }
        self.known.insert(name.into(), tier.clone());
        tier
    }

    /// The object is gone. Returns what policies of the tier belong to.
    pub(super) fn remove(&mut self, name: &str) -> Arc<Tier> {
        self.contradicted.remove(name);
        if BUILT_IN.iter().all(|(built_in, ..)| *built_in != name) {
            self.known.remove(name);
        }
        self.get(name)
    }

    /// Objects that have no effect, by name, and why.
    pub(super) fn problems(&self) -> impl Iterator<Item = (&Arc<str>, &String)> {
        self.contradicted.iter()
    }
}
