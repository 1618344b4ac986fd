//! The blocks that are known, and in which of them each handle holds addresses: a request must not
//! cost more because the node has many.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

use super::cache::Seen;
use crate::block::{Block, Vacancy};
use crate::store::Revision;

/// Where each handle holds addresses, and how many.
#[derive(Debug, Default)]
struct Holders(HashMap<String, Vec<(IpNet, u32)>>);

/// What blocks have to give, as far as it was asked: of those that do not change it is found once.
#[derive(Debug, Default)]
struct Vacancies {
    reserved: Vec<IpNet>,
    known: HashMap<IpNet, Vacancy>,
}

/// Blocks by their networks.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    known: BTreeMap<IpNet, Seen<Block>>,
    holders: Holders,
    vacancies: Mutex<Vacancies>,
}

impl Blocks {
    pub(crate) fn get(&self, cidr: &IpNet) -> Option<&Seen<Block>> {
        self.known.get(cidr)
    }

    /// The revision that a block was seen at; 0 if it is not known, or does not exist.
    pub(crate) fn revision(&self, cidr: &IpNet) -> Revision {
        self.known.get(cidr).map_or(0, |seen| seen.revision)
    }

    pub(crate) fn contains_key(&self, cidr: &IpNet) -> bool {
        self.known.contains_key(cidr)
    }

    /// In address order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&IpNet, &Seen<Block>)> {
        self.known.iter()
    }

    /// In address order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &IpNet> {
        self.known.keys()
    }

    /// In address order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Seen<Block>> {
        self.known.values()
    }

    /// The blocks in which a handle holds addresses.
    pub(crate) fn of(&self, handle: &str) -> impl Iterator<Item = &IpNet> {
        self.holders.0.get(handle).into_iter().flatten().map(|(cidr, _)| cidr)
    }

    /// What a block has to give beside these reserved networks.
    pub(crate) fn vacancy(&self, cidr: &IpNet, reserved: &[IpNet]) -> Option<Vacancy> {
        // What is in it holds, whoever panicked with it.
        let mut vacancies = self.vacancies.lock().unwrap_or_else(PoisonError::into_inner);
        if vacancies.reserved != reserved {
            *vacancies = Vacancies { reserved: reserved.to_vec(), known: HashMap::new() };
        }
        if let Some(known) = vacancies.known.get(cidr) {
            return Some(*known);
        }
        let found = self.known.get(cidr)?.value.vacancy(reserved);
        vacancies.known.insert(*cidr, found);
        Some(found)
    }

    fn forget_vacancy(&mut self, cidr: &IpNet) {
        let vacancies = self.vacancies.get_mut().unwrap_or_else(PoisonError::into_inner);
        vacancies.known.remove(cidr);
    }

    /// Puts a block in the place of what was known of it, which is returned.
    pub(crate) fn insert(&mut self, cidr: IpNet, seen: Seen<Block>) -> Option<Seen<Block>> {
        self.forget_vacancy(&cidr);
        let before = self.known.insert(cidr, seen);
        let Self { known, holders, .. } = self;
        let after = known.get(&cidr).map(|seen| &seen.value);
        match (&before, after) {
            (Some(before), Some(after)) => {
                for difference in before.value.differences(after) {
                    let [had, has] = difference.handles;
                    if had != has {
                        had.into_iter().for_each(|handle| holders.lose(handle, &cidr));
                        has.into_iter().for_each(|handle| holders.gain(handle, cidr));
                    }
                }
            }
            (None, Some(after)) => {
                for handle in after.handles() {
                    holders.gain(handle, cidr);
                }
            }
            _ => {}
        }
        before
    }

    /// Changes the revision that a block was seen at, and nothing else. False if it is not known.
    pub(crate) fn seen_at(&mut self, cidr: &IpNet, revision: Revision) -> bool {
        let seen = self.known.get_mut(cidr);
        seen.map(|seen| seen.revision = revision).is_some()
    }

    /// Gives a block its next sequence number.
    pub(crate) fn seal(&mut self, cidr: &IpNet) {
        if let Some(seen) = self.known.get_mut(cidr) {
            seen.value.seal();
        }
    }

    pub(crate) fn remove(&mut self, cidr: &IpNet) {
        self.forget_vacancy(cidr);
        if let Some(seen) = self.known.remove(cidr) {
            for handle in seen.value.handles() {
                self.holders.lose(handle, cidr);
            }
        }
    }
}

impl Holders {
    fn gain(&mut self, handle: &str, cidr: IpNet) {
        let Some(held) = self.0.get_mut(handle) else {
            self.0.insert(handle.to_owned(), vec![(cidr, 1)]);
            return;
        };
        match held.iter_mut().find(|(of, _)| *of == cidr) {
            Some((_, count)) => *count += 1,
            None => held.push((cidr, 1)),
        }
    }

    fn lose(&mut self, handle: &str, cidr: &IpNet) {
        let Some(held) = self.0.get_mut(handle) else { return };
        if let Some(at) = held.iter().position(|(of, _)| of == cidr) {
            held[at].1 -= 1;
            if held[at].1 == 0 {
                held.swap_remove(at);
            }
        }
        if held.is_empty() {
            self.0.remove(handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::block::{Attribute, Release};
    use crate::timestamp::Timestamp;

    #[derive(Clone, Debug)]
    enum Step {
        Give(usize, usize),
        Take(usize, usize),
        Forget(usize),
        Anew(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3_usize, 0..5_usize).prop_map(|(block, handle)| Step::Give(block, handle)),
            3 => (0..3_usize, 0..5_usize).prop_map(|(block, handle)| Step::Take(block, handle)),
            1 => (0..3_usize).prop_map(Step::Forget),
            1 => (0..3_usize).prop_map(Step::Anew),
        ]
    }

    proptest! {
        #[test]
        fn handles_are_found_where_they_hold_addresses(
            steps in prop::collection::vec(step(), 1..60)
        ) {
            let now = Timestamp::from_seconds(0);
            let cidr = |at: usize| format!("10.0.0.{}/29", at * 8).parse::<IpNet>().unwrap();
            let name = |handle: usize| format!("pod-{handle}");
            let new = |at| Block::new(cidr(at), None, now).unwrap();
            let mut blocks = Blocks::default();
            for (number, step) in steps.into_iter().enumerate() {
                // Reservations change once in a while, and are asked about after every step.
                let reserved: &[IpNet] = if number % 10 < 7 { &[] } else { &[cidr(1)] };
                for at in 0..3 {
                    let known = blocks.get(&cidr(at)).map(|seen| seen.value.vacancy(reserved));
                    prop_assert_eq!(blocks.vacancy(&cidr(at), reserved), known);
                }
                let (Step::Give(at, _) | Step::Take(at, _) | Step::Forget(at) | Step::Anew(at)) = step;
                let known = blocks.get(&cidr(at)).map(|seen| seen.value.clone());
                let mut block = known.unwrap_or_else(|| new(at));
                match step {
                    Step::Give(_, handle) => {
                        let owner = Attribute { handle_id: Some(name(handle)), ..Attribute::default() };
                        block.allocate(&owner, &[]);
                    }
                    Step::Take(_, handle) => {
                        let how = if handle == 0 { Release::Now } else { Release::Rest(now) };
                        block.release_handle(&name(handle), how);
                    }
                    Step::Anew(_) => block = new(at),
                    Step::Forget(_) => {
                        blocks.remove(&cidr(at));
                        continue;
                    }
                }
                block.seal();
                blocks.insert(cidr(at), Seen { value: block, revision: 1 });
            }
            let mut wanted: BTreeMap<String, BTreeSet<IpNet>> = BTreeMap::new();
            for handle in 0..5 {
                for (cidr, seen) in blocks.iter() {
                    if seen.value.addresses_of(&name(handle)).next().is_some() {
                        wanted.entry(name(handle)).or_default().insert(*cidr);
                    }
                }
            }
            for handle in (0..5).map(name) {
                let found: BTreeSet<IpNet> = blocks.of(&handle).copied().collect();
                prop_assert_eq!(found, wanted.remove(&handle).unwrap_or_default());
            }
            prop_assert!(blocks.holders.0.values().all(|held| !held.is_empty()));
        }
    }
}
