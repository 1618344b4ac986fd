//! Classes: what distinct sets of memberships are called on this node.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::atoms::{Atom, AtomId};
use super::stable_hash::StableHasher;
use crate::model::Class;
use crate::model::host::TableId;

/// A set of memberships, ascending and without duplicates.
pub(super) type AtomSet = Arc<[Atom]>;

#[derive(Clone, Debug)]
struct Entry {
    atoms: AtomSet,
    /// How many addresses and ranges are in the class.
    members: u32,
    /// Policies know of it.
    installed: bool,
}

/// Interns sets of memberships. The empty set is class 0 and needs no entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    by_atoms: FxHashMap<AtomSet, Class>,
    entries: FxHashMap<Class, Entry>,
    by_atom: FxHashMap<AtomId, FxHashSet<Class>>,
    /// Numbers whose last elements go with the delta being made: not given again before.
    retired: FxHashSet<u32>,
    created: Vec<Class>,
    emptied: Vec<Class>,
}

/// What happened to the set of classes.
#[derive(Debug, Default)]
pub(super) struct ClassChanges {
    /// Classes that now have members, ascending.
    pub(super) created: Vec<Class>,
    /// Classes that have none any more, ascending. They can still be read until
    /// [`Classes::retire`].
    pub(super) emptied: Vec<Class>,
}

impl Classes {
    /// The class of a set, which gains a member.
    pub(super) fn acquire(&mut self, atoms: &[Atom]) -> Class {
        if atoms.is_empty() {
            return Class(0);
        }
        if let Some(class) = self.by_atoms.get(atoms) {
            if let Some(entry) = self.entries.get_mut(class) {
                entry.members += 1;
            }
            return *class;
        }
        let class = self.name(atoms);
        let atoms: AtomSet = atoms.into();
        for atom in atoms.iter() {
            self.by_atom.entry(atom.id()).or_default().insert(class);
        }
        self.by_atoms.insert(atoms.clone(), class);
        self.entries.insert(class, Entry { atoms, members: 1, installed: false });
        self.created.push(class);
        class
    }

    /// A number made from the set itself, so that a restarted agent finds its elements in the
    /// kernel as it would write them. Where it is taken, the next that is free.
    fn name(&self, atoms: &[Atom]) -> Class {
        let mut hasher = StableHasher::default();
        for atom in atoms {
            hasher.write(&atom.to_bytes());
        }
        let mut number = hasher.finish() & Class::MASK;
        while number <= TableId::DENIED
            || self.entries.contains_key(&Class(number))
            || self.retired.contains(&number)
        {
            number = number.wrapping_add(1) & Class::MASK;
        }
        Class(number)
    }

    /// A further member of a class that has one.
    pub(super) fn acquire_again(&mut self, class: Class) {
        if let Some(entry) = self.entries.get_mut(&class) {
            entry.members += 1;
        }
    }

    /// The class loses a member.
    pub(super) fn release(&mut self, class: Class) {
        if let Some(entry) = self.entries.get_mut(&class) {
            entry.members -= 1;
            if entry.members == 0 {
                self.emptied.push(class);
            }
        }
    }

    /// The memberships that make up a class.
    pub(super) fn atoms(&self, class: Class) -> &[Atom] {
        self.entries.get(&class).map_or(&[], |entry| &entry.atoms)
    }

    /// The classes that have at least one of these memberships, ascending.
    pub(super) fn with_any_of(&self, atoms: impl Iterator<Item = AtomId>) -> BTreeSet<Class> {
        atoms.filter_map(|atom| self.by_atom.get(&atom)).flatten().copied().collect()
    }

    /// What changed since the last call.
    pub(super) fn take_changes(&mut self) -> ClassChanges {
        let mut changes = ClassChanges::default();
        for class in std::mem::take(&mut self.created) {
            if let Some(entry) = self.entries.get_mut(&class)
                && entry.members > 0
                && !entry.installed
            {
                entry.installed = true;
                changes.created.push(class);
            }
        }
        let mut emptied = std::mem::take(&mut self.emptied);
        emptied.sort_unstable();
        emptied.dedup();
        for class in emptied {
            match self.entries.get(&class) {
                Some(entry) if entry.members > 0 => {}
                Some(entry) if entry.installed => changes.emptied.push(class),
                _ => self.remove(class),
            }
        }
        changes.created.sort_unstable();
        changes
    }

    /// Forgets classes that [`Self::take_changes`] said were emptied.
    pub(super) fn retire(&mut self, emptied: &[Class]) {
        for class in emptied {
            self.remove(*class);
        }
    }

    /// The numbers of retired classes may be given again: their elements are gone with the delta.
    pub(super) fn delta_taken(&mut self) {
        self.retired.clear();
    }

    /// How many classes there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, class: Class) {
        let Some(entry) = self.entries.remove(&class) else { return };
        self.by_atoms.remove(&entry.atoms);
        for atom in entry.atoms.iter() {
            if let Some(classes) = self.by_atom.get_mut(&atom.id()) {
                classes.remove(&class);
                if classes.is_empty() {
                    self.by_atom.remove(&atom.id());
                }
            }
        }
        self.retired.insert(class.0);
    }
}
