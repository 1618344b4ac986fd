//! Views: what policy of a host endpoint asks about the host's own side of packets, as the destination of
//! ingress and the source of egress, and which classes it is true of. Each has a program of its own, so that the
//! other side is judged as if nothing had been asked.
//!
//! A workload's own addresses are known before any packet is. A host has several, before destination NAT it
//! is asked for any, and it forwards for all.

use std::collections::{BTreeMap, BTreeSet};

use super::atoms::{Atom, AtomId, answers};
use super::classes::{ClassChanges, Classes};
use super::ranges::Family;
use super::stable_hash::StableHasher;
use crate::model::Class;
use crate::model::host::View;

/// What is true, as [`super::program::ProgramKey`] has it.
pub(super) type Truths = Box<[(Family, AtomId)]>;

/// The views of a host endpoint at a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Views {
    asked: BTreeSet<(Family, AtomId)>,
    /// The views of which something is true.
    truths: BTreeMap<View, Truths>,
    /// Classes of which something is true.
    by_class: BTreeMap<Class, View>,
}

impl Views {
    /// Those that come of what is asked. What classes have in common has one view; its number depends on
    /// them all, but for chance on nothing but itself.
    pub(super) fn new(asked: BTreeSet<(Family, AtomId)>, classes: &Classes) -> Self {
        let asking = classes.with_any_of(asked.iter().map(|(_, id)| *id));
        let truths_of = |class: Class| -> Truths {
            let atoms = classes.atoms(class);
            asked.iter().filter(|(_, id)| !answers(atoms, *id).is_empty()).copied().collect()
        };
        let by_truths: Vec<(Class, Truths)> =
            asking.into_iter().map(|class| (class, truths_of(class))).collect();
        let distinct: BTreeSet<&Truths> = by_truths.iter().map(|(_, truths)| truths).collect();
        let mut truths: BTreeMap<View, Truths> = BTreeMap::new();
        let mut numbers: BTreeMap<&Truths, View> = BTreeMap::new();
        for of in distinct {
            let view = free(of, &truths).unwrap_or(View::CLOSED);
            if view != View::CLOSED {
                truths.insert(view, of.clone());
            }
            numbers.insert(of, view);
        }
        let by_class = by_truths.iter().map(|(class, of)| (*class, numbers[of])).collect();
        Self { asked, truths, by_class }
    }

    /// The view of packets whose own side is of a class.
    pub(super) fn of(&self, class: Class) -> View {
        self.by_class.get(&class).copied().unwrap_or(View::PLAIN)
    }

    /// The classes of which something is true.
    pub(super) fn classes(&self) -> impl Iterator<Item = (Class, View)> {
        self.by_class.iter().map(|(class, view)| (*class, *view))
    }

    /// All views, and what is true of them. None: too much to tell apart.
    pub(super) fn all(&self) -> Vec<(View, Option<Truths>)> {
        let plain = (View::PLAIN, Some(Truths::default()));
        let told = self.truths.iter().map(|(view, truths)| (*view, Some(truths.clone())));
        let closed = self.overflows().then_some((View::CLOSED, None));
        std::iter::once(plain).chain(told).chain(closed).collect()
    }

    /// Whether more is to be told apart than there are numbers for.
    pub(super) fn overflows(&self) -> bool {
        self.by_class.values().any(|view| *view == View::CLOSED)
    }

    /// Whether there may be other views after classes have come and gone, which can still be read.
    pub(super) fn depend_on(&self, changes: &ClassChanges, classes: &Classes) -> bool {
        let mut changed = changes.created.iter().chain(&changes.emptied);
        !self.asked.is_empty()
            && changed.any(|class| {
                let atoms = classes.atoms(*class);
                self.asked.iter().any(|(_, id)| !answers(atoms, *id).is_empty())
            })
    }
}

/// A number that is free, the same for the same truths as long as it is.
fn free(truths: &Truths, taken: &BTreeMap<View, Truths>) -> Option<View> {
    let mut hasher = StableHasher::default();
    for (family, id) in truths {
        hasher.write(&[u8::from(*family == Family::V6)]);
        hasher.write(&Atom::yes(*id).to_bytes());
    }
    let count = u32::from(View::NUMBERED);
    let from = hasher.finish() % count;
    let views = (0..count).filter_map(|step| {
        let number = (from + step) % count + u32::from(View::PLAIN.number()) + 1;
        View::new(u8::try_from(number).ok()?)
    });
    views.into_iter().find(|view| !taken.contains_key(view))
}

#[cfg(test)]
mod tests {
    use super::super::atoms::{Atoms, Question};
    use super::*;

    /// Questions, and a class for each of these sets of those that it answers with yes.
    fn world(sets: &[&[usize]]) -> (BTreeSet<(Family, AtomId)>, Vec<Class>, Classes) {
        let (mut atoms, mut classes) = (Atoms::default(), Classes::default());
        let ids: Vec<AtomId> = (0..6)
            .map(|number| {
                let selector = format!("of == '{number}'").parse().unwrap();
                atoms.acquire(&Question::Selector(selector))
            })
            .collect();
        let acquire = |set: &&[usize]| {
            let mut atoms: Vec<Atom> = set.iter().map(|at| Atom::yes(ids[*at])).collect();
            atoms.sort_unstable();
            classes.acquire(&atoms)
        };
        let made = sets.iter().map(acquire).collect();
        // The last is not asked.
        let asked = ids[..5].iter().map(|id| (Family::V4, *id)).collect();
        (asked, made, classes)
    }

    #[test]
    fn classes_of_which_the_same_is_true_have_one_view() {
        let (asked, made, classes) = world(&[&[0], &[0, 5], &[1], &[0, 1], &[5], &[]]);
        let views = Views::new(asked, &classes);
        let of: Vec<View> = made.iter().map(|class| views.of(*class)).collect();
        assert_eq!(of[0], of[1]);
        assert_eq!(of[..4].iter().collect::<BTreeSet<_>>().len(), 3);
        assert!(!of[..4].contains(&View::PLAIN));
        assert_eq!(of[4..], [View::PLAIN; 2]);
        assert_eq!(views.all().len(), 4);
        assert!(!views.overflows());
    }

    #[test]
    fn a_view_keeps_its_number_when_others_come() {
        let (asked, made, few) = world(&[&[0], &[1]]);
        let (_, _, many) = world(&[&[0], &[1], &[2]]);
        let (before, after) = (Views::new(asked.clone(), &few), Views::new(asked, &many));
        for class in made {
            assert_eq!(before.of(class), after.of(class));
        }
    }

    #[test]
    fn what_there_is_no_number_for_is_closed() {
        let sets: Vec<Vec<usize>> = (1..32usize)
            .map(|bits| (0..5).filter(|bit| bits & (1 << bit) != 0).collect())
            .collect();
        let sets: Vec<&[usize]> = sets.iter().map(Vec::as_slice).collect();
        let (asked, made, classes) = world(&sets);
        let views = Views::new(asked, &classes);
        assert!(views.overflows());
        let closed = made.iter().filter(|class| views.of(**class) == View::CLOSED).count();
        assert_eq!(closed, 31 - usize::from(View::NUMBERED));
        let all = views.all();
        assert_eq!(all.len(), usize::from(View::NUMBERED) + 2);
        assert_eq!(all.iter().filter(|(_, truths)| truths.is_none()).count(), 1);
    }
}
