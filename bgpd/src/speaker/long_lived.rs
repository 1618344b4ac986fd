//! Long-lived graceful restart (RFC 9494): when a peer is gone for longer than its restart time, its
//! paths are kept for much longer, but marked, and used only where there is nothing else.

use rustc_hash::FxHashMap;

use super::core::{Core, Time};
use super::timers::TimerKey;
use crate::rib::{AttrId, Path, PeerId, Rib, RibPrefix, with_family};
use crate::wire::attributes::{self, kind};
use crate::wire::{Community, Draft, Family};

/// What attributes become when they are marked, with a reference to each; None: the path is not to
/// be kept.
type Marked = FxHashMap<AttrId, Option<AttrId>>;

impl Core {
    /// The time in which a peer should have come back is over, or that in which it should have
    /// announced its routes again.
    pub(super) fn stale_expired(&mut self, now: Time, peer: PeerId, family: Family) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let time = neighbor.long_lived_times[family.index()];
        let begins = neighbor.session.is_none()
            && neighbor.stale.contains(family)
            && !neighbor.long_lived.contains(family)
            && time > 0;
        if !begins {
            self.sweep(peer, family);
            return;
        }
        neighbor.long_lived.insert(family);
        tracing::info!(peer = neighbor.config.name, %family, time, "stale paths are kept for long");
        self.arm(TimerKey::Stale(peer, family), now + Time::from_secs(time.into()));
        with_family!(family, P => self.mark_long_lived::<P>(peer));
    }

    /// Section 4.2: paths with NO_LLGR go, the others get LLGR_STALE. The import policy sees it.
    fn mark_long_lived<P: RibPrefix>(&mut self, peer: PeerId) {
        let mut marked = Marked::default();
        for dest in self.routes_of(peer, P::FAMILY) {
            let paths: Vec<Path> =
                P::table_mut(&mut self.rib).paths_mut(dest, peer).map(|p| *p).collect();
            for path in paths.into_iter().filter(Path::is_stale) {
                let attr = marked.entry(path.attr_in).or_insert_with_key(|attr_in| {
                    // The number must not be given to others while it is looked up by.
                    self.rib.attrs.retain(*attr_in);
                    mark(*attr_in, &mut self.rib)
                });
                match *attr {
                    Some(attr) => self.replace_attributes::<P>(dest, &path, attr),
                    None => self.remove::<P>(dest, path.key()),
                }
            }
        }
        for (attr_in, attr) in marked {
            self.rib.attrs.release(attr_in);
            self.rib.attrs.release(attr.unwrap_or(AttrId::NONE));
        }
    }
}

fn mark(attr_in: AttrId, rib: &mut Rib) -> Option<AttrId> {
    let set = rib.attrs.get(attr_in);
    if attributes::communities(set.block).any(|c| c == Community::NO_LLGR) {
        return None;
    }
    if set.info.llgr_stale {
        rib.attrs.retain(attr_in);
        return Some(attr_in);
    }
    let mut draft = Draft::of(set.block);
    let mut communities = draft.get(kind::COMMUNITIES).unwrap_or_default().to_vec();
    communities.extend(Community::LLGR_STALE.0.to_be_bytes());
    draft.put_list(kind::COMMUNITIES, communities);
    let block = draft.finish();
    let next_hop = set.next_hop;
    Some(rib.attrs.intern(&block, next_hop))
}
