//! What a flush has to say, in the messages that it takes.

use rustc_hash::FxHashMap;

use super::group::{Sent, Target};
use crate::rib::{AttrId, DestId, PeerId};

/// A destination, and the number of the path to it that is meant: 0 where there is but one.
pub(super) type Item = (DestId, u32);

/// What one flush has to say.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) withdrawn: Vec<(Target, Vec<Item>)>,
    pub(super) announced: Vec<(Sent, Vec<Item>)>,
    by_target: FxHashMap<Target, usize>,
    by_sent: FxHashMap<(AttrId, PeerId), usize>,
    pub(super) looked_at: Vec<DestId>,
}

impl Plan {
    pub(super) fn withdraw(&mut self, target: Target, item: Item) {
        if let Some((last, all)) = self.withdrawn.last_mut()
            && *last == target
        {
            all.push(item);
            return;
        }
        let at = *self.by_target.entry(target).or_insert_with(|| {
            self.withdrawn.push((target, Vec::new()));
            self.withdrawn.len() - 1
        });
        self.withdrawn[at].1.push(item);
    }

    pub(super) fn announce(&mut self, sent: Sent, item: Item) {
        if let Some((last, all)) = self.announced.last_mut()
            && *last == sent
        {
            all.push(item);
            return;
        }
        let at = *self.by_sent.entry((sent.attr, sent.source)).or_insert_with(|| {
            self.announced.push((sent, Vec::new()));
            self.announced.len() - 1
        });
        self.announced[at].1.push(item);
    }
}
