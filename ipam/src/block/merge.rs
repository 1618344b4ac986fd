//! One block that was changed in two places: by its owner, who writes ahead in a log of its own,
//! and in the store.

use std::collections::BTreeSet;

use super::*;

/// What [`Block::merge`] made of it.
#[derive(Debug)]
pub(crate) struct Merged {
    /// The owner's block, with what the store has beside it.
    pub(crate) block: Block,
    /// True if the store's block says the same.
    pub(crate) same: bool,
    /// Addresses that somebody else has in the store, while the owner has given them as well.
    pub(crate) contested: Vec<IpAddr>,
}

impl Block {
    /// The owner's block (`self`) with the changes that others made to it in `store`, where it was
    /// `base` when the owner last knew, and may have become `sent` by the owner's own doing. Of an
    /// address that both changed, what somebody has is not taken from them; the owner's word counts
    /// before the store's.
    pub(crate) fn merge(&self, base: &Self, sent: Option<&Self>, store: &Self) -> Merged {
        let (mut ours, mut contested) = (BTreeSet::new(), Vec::new());
        for ordinal in self.ordinals() {
            let (here, there) = (self.detail(ordinal), store.detail(ordinal));
            let before = base.detail(ordinal);
            let is_own = there == before || sent.is_some_and(|sent| sent.detail(ordinal) == there);
            // What was only sent is a change of the owner's: it may never have arrived.
            if here == there || (!is_own && here == before) {
                continue;
            }
            if is_own {
                ours.insert(ordinal);
                continue;
            }
            let held = |detail: Detail<'_>| detail.0.is_some_and(|a| a.released_at.is_none());
            let since = |detail: Detail<'_>| detail.0.and_then(|attribute| attribute.released_at);
            let wins = match (held(here), held(there)) {
                (true, theirs) => {
                    let handle = |detail: Detail<'_>| detail.0.and_then(|a| a.handle_id.clone());
                    if theirs && handle(here) != handle(there) {
                        contested.push(self.address(ordinal));
                    }
                    true
                }
                (false, true) => false,
                (false, false) => since(here) > since(there),
            };
            if wins {
                ours.insert(ordinal);
            }
        }
        if ours.is_empty() {
            return Merged { block: store.clone(), same: true, contested };
        }
        let mut block = store.with(self, &ours);
        block.sequence_number = self.sequence_number.max(store.sequence_number);
        block.seal();
        Merged { block, same: false, contested }
    }

    /// The block in a store that was restored from an older copy (`store`), with what `node` knows
    /// (`self`) that the copy was too old for: its own addresses, those it gave back, and if the block
    /// is its `own` those of others, too. What others have in the store is left to them. Also says
    /// which addresses both have.
    pub(crate) fn reassert(&self, store: &Self, node: &str, own: bool) -> (Self, Vec<IpAddr>) {
        let held = |detail: Detail<'_>| detail.0.is_some_and(|a| a.released_at.is_none());
        let is_nodes = |detail: Detail<'_>| detail.0.and_then(|a| a.get("node")) == Some(node);
        let handle = |detail: Detail<'_>| detail.0.and_then(|a| a.handle_id.clone());
        let (mut ours, mut contested) = (BTreeSet::new(), Vec::new());
        for ordinal in self.ordinals() {
            let (here, there) = (self.detail(ordinal), store.detail(ordinal));
            let wins = match (held(here), held(there)) {
                _ if here == there => false,
                (true, true) if is_nodes(here) && !is_nodes(there) => {
                    if handle(here) != handle(there) {
                        contested.push(self.address(ordinal));
                    }
                    true
                }
                (true, _) if is_nodes(here) => true,
                (_, false) => own,
                (_, true) => is_nodes(there) && !held(here),
            };
            if wins {
                ours.insert(ordinal);
            }
        }
        if ours.is_empty() {
            return (store.clone(), contested);
        }
        let mut block = store.with(self, &ours);
        block.sequence_number = self.sequence_number.max(store.sequence_number);
        block.seal();
        (block, contested)
    }

    /// Who has or had which address of `self` and of `other` differently.
    pub(crate) fn differences<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = Difference<'a>> + 'a {
        let handle = |detail: Detail<'a>| detail.0.and_then(|a| a.handle_id.as_deref());
        self.ordinals().filter_map(move |ordinal| {
            let (before, after) = (self.detail(ordinal), other.detail(ordinal));
            // Most attributes are shared by both.
            let same = before.1 == after.1
                && match (before.0, after.0) {
                    (Some(before), Some(after)) => std::ptr::eq(before, after) || before == after,
                    (before, after) => before.is_none() && after.is_none(),
                };
            (!same).then(|| Difference { ordinal, handles: [handle(before), handle(after)] })
        })
    }

    /// This block with what `other`, which is a later one, says of some ordinals.
    pub(crate) fn toward(&self, other: &Self, ordinals: &BTreeSet<u32>) -> Self {
        let mut block = self.with(other, ordinals);
        block.sequence_number = other.sequence_number;
        block
    }

    fn with(&self, other: &Self, ordinals: &BTreeSet<u32>) -> Self {
        let mut block = self.clone();
        for ordinal in ordinals {
            let (attribute, sequence) = other.detail(*ordinal);
            let index = attribute.map(|attribute| block.intern(attribute));
            if let Some(slot) = block.allocations.get_mut(*ordinal as usize) {
                *slot = index;
            }
            block.set_changed_under(*ordinal, sequence);
        }
        // In the order in which the later block would give them.
        let mut seen = vec![false; block.allocations.len()];
        let order = other.unallocated.iter().chain(&self.unallocated).copied();
        let mut free = VecDeque::new();
        for ordinal in order.chain(self.ordinals()) {
            let at = ordinal as usize;
            if block.allocations.get(at).is_some_and(Option::is_none)
                && !std::mem::replace(&mut seen[at], true)
            {
                free.push_back(ordinal);
            }
        }
        block.unallocated = free;
        block.prune();
        block
    }

    fn detail(&self, ordinal: u32) -> Detail<'_> {
        let attribute = self.attribute(ordinal);
        (attribute, self.changed_under(ordinal).filter(|_| attribute.is_some()))
    }
}

/// The attribute of an ordinal, and the sequence number it was last changed under.
type Detail<'a> = (Option<&'a Attribute>, Option<u64>);

/// An address that two states of a block do not agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Difference<'a> {
    pub(crate) ordinal: u32,
    /// The handles that have it in the one and in the other.
    pub(crate) handles: [Option<&'a str>; 2],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn block() -> Block {
        let cidr = "10.0.0.0/29".parse().unwrap();
        Block::new(cidr, Some("host:n".to_owned()), at(0)).unwrap()
    }

    fn give(block: &Block, handle: &str, address: &str) -> Block {
        let owner = Attribute { handle_id: Some(handle.to_owned()), ..Attribute::default() };
        let mut block = block.clone();
        block.allocate_address(address.parse().unwrap(), &owner).unwrap();
        block.seal();
        block
    }

    fn release(block: &Block, handle: &str, now: i64) -> Block {
        let mut block = block.clone();
        block.release_handle(handle, Release::Rest(at(now)));
        block.seal();
        block
    }

    fn held(block: &Block) -> Vec<String> {
        block.validate().unwrap();
        let all = block.occupied().map(|(address, state)| match state {
            AddressState::Allocated(attribute, sequence) => {
                assert!(sequence.unwrap() < block.sequence_number());
                format!("{address} {}", attribute.handle_id.as_deref().unwrap())
            }
            AddressState::CoolingDown(_) => format!("{address} rests"),
            AddressState::Free => String::new(),
        });
        all.collect()
    }

    #[test]
    fn what_only_one_side_changed_is_taken() {
        let base = give(&give(&block(), "a", "10.0.0.1"), "b", "10.0.0.2");
        let here = give(&base, "c", "10.0.0.3");
        let there = release(&base, "a", 10);
        let merged = here.merge(&base, None, &there);
        let wanted = ["10.0.0.1 rests", "10.0.0.2 b", "10.0.0.3 c"];
        assert_eq!((held(&merged.block), merged.same), (wanted.map(str::to_owned).into(), false));
        assert!(merged.block.sequence_number() > there.sequence_number());
        assert!(merged.block.sequence_number() > here.sequence_number());
        let caught_up = merged.block.merge(&there, None, &merged.block.clone());
        assert!(caught_up.same);
        let behind = base.merge(&base, None, &there);
        assert!(behind.same && behind.block == there);
    }

    #[test]
    fn what_somebody_has_is_not_taken_from_them() {
        let base = give(&block(), "a", "10.0.0.1");
        let given = base.merge(&base, None, &give(&base, "x", "10.0.0.2"));
        assert_eq!(held(&given.block), ["10.0.0.1 a", "10.0.0.2 x"]);
        let (here, there) = (give(&base, "c", "10.0.0.2"), give(&base, "x", "10.0.0.2"));
        let merged = here.merge(&base, None, &there);
        assert_eq!(held(&merged.block), ["10.0.0.1 a", "10.0.0.2 c"]);
        assert_eq!(merged.contested, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        // Released here and given again there.
        let moved = give(&release(&base, "a", 5), "x", "10.0.0.1");
        let merged = release(&base, "a", 9).merge(&base, None, &moved);
        assert_eq!(held(&merged.block), ["10.0.0.1 x"]);
        // Released in both places: the later one counts.
        let (early, late) = (release(&base, "a", 5), release(&base, "a", 9));
        assert!(early.merge(&base, None, &late).same);
        assert!(!late.merge(&base, None, &early).same);
    }

    #[test]
    fn a_write_of_unknown_outcome_is_nobody_elses() {
        let base = block();
        let sent = give(&base, "a", "10.0.0.1");
        let here = release(&sent, "a", 5);
        let merged = here.merge(&base, Some(&sent), &sent);
        assert_eq!(held(&merged.block), ["10.0.0.1 rests"]);
        // It never arrived, and somebody else was there first.
        let merged = sent.merge(&base, Some(&sent), &give(&base, "x", "10.0.0.1"));
        assert_eq!((held(&merged.block), merged.contested.len()), (vec!["10.0.0.1 a".into()], 1));
        // Without knowing of it, what is in the store is not taken from whoever has it.
        assert_eq!(held(&here.merge(&base, None, &sent).block), ["10.0.0.1 a"]);
    }

    #[test]
    fn what_a_node_has_is_written_over_an_older_copy() {
        let on = |block: &Block, node: &str, handle: &str, address: &str| {
            let mut owner =
                Attribute { handle_id: Some(handle.to_owned()), ..Attribute::default() };
            owner.owner = Some([("node".to_owned(), node.to_owned())].into());
            let mut block = block.clone();
            block.allocate_address(address.parse().unwrap(), &owner).unwrap();
            block.seal();
            block
        };
        let copy = on(&on(&block(), "n", "gone", "10.0.0.1"), "m", "theirs", "10.0.0.2");
        let known = release(&copy, "gone", 5);
        let known = on(&known, "n", "since", "10.0.0.3");
        let known = on(&known, "m", "borrowed", "10.0.0.4");
        let (whole, contested) = known.reassert(&copy, "n", true);
        let wanted = ["10.0.0.1 rests", "10.0.0.2 theirs", "10.0.0.3 since", "10.0.0.4 borrowed"];
        assert_eq!((held(&whole), contested.len()), (wanted.map(str::to_owned).into(), 0));
        assert!(whole.sequence_number() > known.sequence_number());
        assert_eq!(whole.reassert(&whole, "n", true).0, whole);
        // Of a block of another node's only what is one's own.
        let (mine, _) = known.reassert(&copy, "m", false);
        assert_eq!(held(&mine), ["10.0.0.1 gone", "10.0.0.2 theirs", "10.0.0.4 borrowed"]);
        // What another node wrote since is theirs, and so is what this one has: both are told.
        let both = on(&copy, "m", "late", "10.0.0.3");
        let (block, contested) = known.reassert(&both, "n", true);
        assert_eq!(contested, ["10.0.0.3".parse::<IpAddr>().unwrap()]);
        assert!(held(&block).contains(&"10.0.0.3 since".to_owned()));
        let other = on(&copy, "m", "other", "10.0.0.5");
        let (block, contested) = known.reassert(&other, "n", true);
        assert!(contested.is_empty() && held(&block).contains(&"10.0.0.5 other".to_owned()));
    }

    #[test]
    fn goes_some_of_the_way() {
        let base = give(&block(), "a", "10.0.0.1");
        let goal = give(&release(&base, "a", 5), "b", "10.0.0.2");
        let all: Vec<_> = base.differences(&goal).collect();
        assert_eq!(all[0], Difference { ordinal: 1, handles: [Some("a"), None] });
        assert_eq!(all[1], Difference { ordinal: 2, handles: [None, Some("b")] });
        let half = base.toward(&goal, &[2].into());
        assert_eq!(held(&half), ["10.0.0.1 a", "10.0.0.2 b"]);
        let whole = half.toward(&goal, &[1].into());
        assert_eq!(held(&whole), ["10.0.0.1 rests", "10.0.0.2 b"]);
        assert_eq!(whole.differences(&goal).count(), 0);
    }
}
