//! The routing information base: what peers announced, what of it is used, and why.
//!
//! Attribute blocks are interned ([`attrs`]), prefixes live in a hash index over a slab
//! ([`table`]), and everything else names them by small numbers. Adj-RIB-In is the list of paths
//! of each destination; Loc-RIB is its head after [`decision`]; Adj-RIB-Out belongs to the
//! [update groups](crate::export).

mod attrs;
mod decision;
mod index;
mod next_hops;
mod numbers;
mod resolution;
mod table;

pub(crate) use attrs::{AttrId, AttrSet, AttrTable};
pub use decision::Reason;
pub(crate) use decision::{DEFAULT_LOCAL_PREF, PeerRank};
pub(crate) use next_hops::{NextHopSets, SetId};
pub(crate) use numbers::PathNumbers;
pub use resolution::Resolution;
use table::Touched;
pub(crate) use table::{Bitmap, Dest, DestId, DirtyList, Path, PeerId, Table};

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde::Serialize;
use smallvec::SmallVec;

use crate::config::Multipath;
use crate::wire::{NextHop, Prefix, Prefix4, Prefix6};

/// One way out of this machine, for the forwarding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct FibNextHop {
    /// The next router.
    pub addr: IpAddr,
    /// The interface (`if_nametoindex(3)`), where the address is link-local.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
}

impl FibNextHop {
    /// The way to a next hop that was learned over an interface; 0: nobody knows which. On that
    /// link the link-local one of two addresses is sure to be found (RFC 2545 section 2).
    fn of(next_hop: NextHop, interface: u32) -> Self {
        let interface = (interface != 0).then_some(interface);
        if let (Some(addr), Some(_)) = (next_hop.link_local, interface) {
            return Self { addr: addr.into(), interface };
        }
        let link_local = match next_hop.addr {
            IpAddr::V6(_) => next_hop.is_link_local(),
            IpAddr::V4(addr) => addr.is_link_local(),
        };
        Self { addr: next_hop.addr, interface: interface.filter(|_| link_local) }
    }
}

/// The next hops of one prefix, sorted, without duplicates; more than one is ECMP.
pub type FibNextHops = SmallVec<[FibNextHop; 2]>;

/// Everything known about routes.
#[derive(Debug)]
pub(crate) struct Rib {
    pub(crate) attrs: AttrTable,
    pub(crate) next_hops: NextHopSets,
    pub(crate) numbers: PathNumbers,
    pub(crate) v4: Table<Prefix4>,
    pub(crate) v6: Table<Prefix6>,
    /// By [`PeerId`]; [`PeerId::LOCAL`] is ourselves.
    pub(crate) ranks: Vec<PeerRank>,
    pub(crate) multipath: Multipath,
}

/// A prefix whose table the RIB has.
pub(crate) trait RibPrefix: Prefix {
    fn table(rib: &Rib) -> &Table<Self>;
    fn table_mut(rib: &mut Rib) -> &mut Table<Self>;
    /// The table and the attributes, both to be changed.
    fn parts(rib: &mut Rib) -> (&mut Table<Self>, &mut AttrTable);
}

macro_rules! rib_prefix {
    ($prefix:ty, $field:ident) => {
        impl RibPrefix for $prefix {
            fn table(rib: &Rib) -> &Table<Self> {
                &rib.$field
            }
            fn table_mut(rib: &mut Rib) -> &mut Table<Self> {
                &mut rib.$field
            }
            fn parts(rib: &mut Rib) -> (&mut Table<Self>, &mut AttrTable) {
                (&mut rib.$field, &mut rib.attrs)
            }
        }
    };
}
rib_prefix!(Prefix4, v4);
rib_prefix!(Prefix6, v6);

/// Runs `$body` with `$table` bound to the table of `$family`.
macro_rules! with_family {
    ($family:expr, $prefix:ident => $body:expr) => {
        match $family {
            $crate::wire::Family::Ipv4Unicast => {
                type $prefix = $crate::wire::Prefix4;
                $body
            }
            $crate::wire::Family::Ipv6Unicast => {
                type $prefix = $crate::wire::Prefix6;
                $body
            }
        }
    };
}
pub(crate) use with_family;

/// What a decision changed for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) dest: DestId,
    /// Another path, or other attributes, are the best now.
    pub(crate) best: bool,
    /// Other next hops are to be used now.
    pub(crate) fib: bool,
}

impl Rib {
    pub(crate) fn new(multipath: Multipath) -> Self {
        Self {
            attrs: AttrTable::default(),
            next_hops: NextHopSets::default(),
            numbers: PathNumbers::default(),
            v4: Table::default(),
            v6: Table::default(),
            ranks: vec![PeerRank::LOCAL],
            multipath,
        }
    }

    /// Puts or replaces the path of `peer` to `prefix`; takes over one reference to each
    /// attribute set. Returns the destination, and the path that was there before.
    pub(crate) fn announce<P: RibPrefix>(
        &mut self,
        prefix: P,
        path: Path,
    ) -> (DestId, Option<Path>) {
        let hash = P::table(self).hash(&prefix);
        self.announce_hashed(prefix, hash, path)
    }

    /// As [`Self::announce`], with the prefix's hash of [`Table::hash_all`].
    pub(crate) fn announce_hashed<P: RibPrefix>(
        &mut self,
        prefix: P,
        hash: u32,
        path: Path,
    ) -> (DestId, Option<Path>) {
        let (table, attrs) = P::parts(self);
        let dest = table.entry(prefix, hash);
        let replaced = table.put(dest, path, attrs);
        if let Some(old) = replaced {
            attrs.release(old.attr_in);
            attrs.release(old.attr);
        }
        (dest, replaced)
    }

    /// Takes a path out and returns it, if there was one.
    pub(crate) fn remove<P: RibPrefix>(
        &mut self,
        dest: DestId,
        key: (PeerId, u32),
    ) -> Option<Path> {
        let (table, attrs) = P::parts(self);
        let old = table.take(dest, key, attrs)?;
        attrs.release(old.attr_in);
        attrs.release(old.attr);
        Some(old)
    }

    /// Has a destination decided anew. To be called before its paths change.
    pub(crate) fn touch<P: RibPrefix>(&mut self, dest: DestId) {
        let (table, attrs) = P::parts(self);
        table.touch(dest, attrs);
    }

    /// Has all destinations decided anew.
    pub(crate) fn touch_all(&mut self) {
        self.v4.touch_all(&mut self.attrs);
        self.v6.touch_all(&mut self.attrs);
    }

    /// Decides all destinations whose paths changed, and reports what came of it.
    pub(crate) fn decide<P: RibPrefix>(&mut self, mut report: impl FnMut(&mut Table<P>, Decided)) {
        let mut dirty = P::table_mut(self).take_dirty();
        for some in dirty.chunks(64) {
            P::table(self).prefetch_unused(some.iter().map(|touched| touched.id), 0);
            for touched in some {
                let decided = self.decide_one::<P>(*touched);
                let table = P::table_mut(self);
                report(table, decided);
                table.free_if_unused(touched.id);
            }
        }
        dirty.clear();
        P::table_mut(self).give_back_dirty(dirty);
    }

    fn decide_one<P: RibPrefix>(&mut self, touched: Touched) -> Decided {
        let Touched { id, best: old_best } = touched;
        // Taken out and put back, so that the rest of the RIB can be read meanwhile.
        let mut paths = P::table_mut(self).take_paths(id);
        let selected = decision::select(&mut paths, &self.attrs, &self.ranks, &self.multipath);
        for (at, path) in paths.iter_mut().enumerate() {
            path.set_used(at < selected);
        }
        let set = self.next_hop_set(&paths[..selected]);
        let dest = P::table_mut(self).dest_mut(id);
        dest.paths = paths;
        let best = dest.best();
        let old_set = std::mem::replace(&mut dest.next_hops, set);
        self.next_hops.release(old_set);
        if let Some((_, attr)) = old_best {
            self.attrs.release(attr);
        }
        Decided { dest: id, best: old_best != best, fib: old_set != set }
    }

    /// Where packets go that take these paths, with a reference; nowhere where the first is ours.
    fn next_hop_set(&mut self, used: &[Path]) -> SetId {
        match used {
            [] => SetId::NONE,
            [best, ..] if best.peer == PeerId::LOCAL => SetId::NONE,
            [only] => self.next_hops.intern_one(self.next_hop(only)),
            several => {
                let mut hops: FibNextHops = several.iter().map(|p| self.next_hop(p)).collect();
                hops.sort_unstable();
                hops.dedup();
                self.next_hops.intern(hops)
            }
        }
    }

    fn next_hop(&self, path: &Path) -> FibNextHop {
        let next_hop = self.attrs.get(path.attr).next_hop;
        FibNextHop::of(next_hop, self.ranks[path.peer.index()].interface)
    }
}
