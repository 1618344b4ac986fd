//! Several paths to a destination (RFC 7911): which ones the members of a group were told of, and under
//! what numbers.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::group::{Group, Sent, Target};
use super::outcome::Memo;
use super::plan::Plan;
use crate::rib::{AttrId, DestId, Path, Rib, RibPrefix};

/// A path that was sent.
#[derive(Clone, Copy, Debug)]
struct SentPath {
    /// Our number of it.
    number: u32,
    /// The number that its source gave it.
    learned: u32,
    sent: Sent,
}

/// What the members were told, path by path.
#[derive(Clone, Debug, Default)]
pub(super) struct Several(FxHashMap<DestId, SmallVec<[SentPath; 2]>>);

impl Several {
    pub(super) fn contains(&self, dest: DestId) -> bool {
        self.0.contains_key(&dest)
    }

    /// What was sent of a destination, with our numbers of the paths and those that their sources gave
    /// them.
    pub(super) fn numbered(&self, dest: DestId) -> impl Iterator<Item = (u32, u32, Sent)> {
        let paths = self.0.get(&dest).into_iter().flatten();
        paths.map(|path| (path.number, path.learned, path.sent))
    }

    /// Counts one more reference to everything.
    pub(super) fn retain(&self, rib: &mut Rib) {
        for path in self.0.values().flatten() {
            rib.attrs.retain(path.sent.attr);
            rib.numbers.take((path.sent.source, path.learned));
        }
    }

    /// Forgets everything, and gives the references back.
    pub(super) fn clear(&mut self, rib: &mut Rib) {
        for path in std::mem::take(&mut self.0).into_values().flatten() {
            rib.attrs.release(path.sent.attr);
            rib.numbers.release((path.sent.source, path.learned));
        }
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.0.values_mut().flatten().map(|path| &mut path.sent)
    }
}

impl Group {
    /// Looks at the paths of a destination.
    pub(super) fn plan_several<P: RibPrefix>(
        &mut self,
        dest: DestId,
        rib: &mut Rib,
        memo: &mut Memo,
        plan: &mut Plan,
    ) {
        let wanted = |path: &&Path| path.attr != AttrId::NONE && self.key.is_for(path);
        let paths = P::table(rib).dest(dest).paths.iter().filter(wanted);
        let paths: SmallVec<[Path; 4]> = paths.copied().collect();
        let mut old = self.several.0.remove(&dest).unwrap_or_default();
        let mut kept: SmallVec<[SentPath; 2]> = SmallVec::new();
        let mut waits = false;
        for path in paths {
            let new = self.export::<P>(dest, (path.peer, path.attr), rib, memo);
            if new.attr == AttrId::NONE {
                continue;
            }
            let known = old.iter().position(|p| (p.sent.source, p.learned) == path.key());
            let before = known.map(|at| old.remove(at));
            let before_sent = before.map_or(Sent::NOTHING, |p| p.sent);
            let must_wait = new != before_sent && self.pace.must_wait(before_sent, new, || false);
            waits |= must_wait;
            match before {
                Some(before) if must_wait || new == before_sent => kept.push(before),
                Some(before) => {
                    self.count(before_sent, new, rib);
                    plan.announce(new, (dest, before.number));
                    kept.push(SentPath { sent: new, ..before });
                }
                None if must_wait => {}
                None => {
                    let number = rib.numbers.take(path.key());
                    self.count(Sent::NOTHING, new, rib);
                    plan.announce(new, (dest, number));
                    kept.push(SentPath { number, learned: path.id, sent: new });
                }
            }
        }
        // Those that are left are gone. Their numbers are free only now, so that none of them is
        // another path's in the same breath.
        for path in old {
            plan.withdraw(Target::Except(path.sent.source), (dest, path.number));
            rib.numbers.release((path.sent.source, path.learned));
            self.count(path.sent, Sent::NOTHING, rib);
        }
        if waits {
            self.pace.hold(dest);
        } else {
            self.pace.remove(dest);
        }
        if !kept.is_empty() {
            self.several.0.insert(dest, kept);
        }
    }
}
