//! What is known of the ways to next hops (RFC 4271 section 9.1.2.1).

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{Rib, RibPrefix};
use crate::wire::{NextHop, Prefix4, Prefix6};

/// What is known of the way to a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// There is none: routes by way of it cannot be used.
    Unreachable,
    /// There is one of this cost; lower is better (RFC 4271 section 9.1.2.2 e).
    Metric(u32),
}

/// All that is known; of a next hop that is not in it, that there is a way of cost 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolutions(FxHashMap<IpAddr, u32>);

/// Stands for [`Resolution::Unreachable`].
pub(super) const UNREACHABLE: u32 = u32::MAX;

impl Resolutions {
    fn new(known: BTreeMap<IpAddr, Resolution>) -> Self {
        let cost = |resolution| match resolution {
            Resolution::Unreachable => UNREACHABLE,
            Resolution::Metric(metric) => metric.min(UNREACHABLE - 1),
        };
        Self(known.into_iter().map(|(addr, resolution)| (addr, cost(resolution))).collect())
    }

    pub(super) fn cost(&self, next_hop: &NextHop) -> u32 {
        if self.0.is_empty() {
            return 0;
        }
        self.0.get(&next_hop.addr).copied().unwrap_or(0)
    }
}

impl Rib {
    /// Replaces what is known; has those destinations decided anew for which that makes a
    /// difference, and returns how many.
    pub(crate) fn resolve(&mut self, known: BTreeMap<IpAddr, Resolution>) -> usize {
        let changed = self.attrs.resolve(Resolutions::new(known));
        if changed.is_empty() {
            return 0;
        }
        self.touch_where::<Prefix4>(&changed) + self.touch_where::<Prefix6>(&changed)
    }

    fn touch_where<P: RibPrefix>(&mut self, changed: &super::attrs::Changed) -> usize {
        let (table, attrs) = P::parts(self);
        let affected = |dest: &super::Dest<P>| dest.paths.iter().any(|p| changed.contains(p.attr));
        let all: Vec<_> =
            table.iter().filter(|(_, dest)| affected(dest)).map(|(id, _)| id).collect();
        for id in &all {
            table.touch(*id, attrs);
        }
        all.len()
    }
}
