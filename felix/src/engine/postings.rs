//! Inverted indexes: from labels to what has them, and from labels to the selectors that need
//! them.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::idset::IdSet;
use super::terms::{Term, View};

/// (label key, value) -> ids.
#[derive(Clone, Debug)]
pub(super) struct Postings<T> {
    keys: FxHashMap<Arc<str>, FxHashMap<Arc<str>, IdSet<T>>>,
}

impl<T> Default for Postings<T> {
    fn default() -> Self {
        Self { keys: FxHashMap::default() }
    }
}

impl<T: Copy + Eq + Hash> Postings<T> {
    pub(super) fn insert(&mut self, key: &str, value: &str, id: T) {
        if !self.keys.contains_key(key) {
            self.keys.insert(key.into(), FxHashMap::default());
        }
        let Some(values) = self.keys.get_mut(key) else { return };
        if !values.contains_key(value) {
            values.insert(value.into(), IdSet::default());
        }
        if let Some(ids) = values.get_mut(value) {
            ids.insert(id);
        }
    }

    pub(super) fn remove(&mut self, key: &str, value: &str, id: T) {
        let Some(values) = self.keys.get_mut(key) else { return };
        let Some(ids) = values.get_mut(value) else { return };
        ids.remove(id);
        if ids.is_empty() {
            values.remove(value);
            if values.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// What has the label with one of these values, or with any value. An id may come twice if
    /// it was inserted under two values.
    pub(super) fn get(&self, key: &str, values: Option<&[Arc<str>]>) -> impl Iterator<Item = T> {
        self.sets(key, values).flat_map(IdSet::iter)
    }

    /// What has the label with this value.
    pub(super) fn get_one(&self, key: &str, value: &str) -> impl Iterator<Item = T> {
        let values = self.keys.get(key);
        values.and_then(|values| values.get(value)).into_iter().flat_map(IdSet::iter)
    }

    /// How many ids [`Self::get`] would give.
    pub(super) fn count(&self, key: &str, values: Option<&[Arc<str>]>) -> usize {
        self.sets(key, values).map(IdSet::len).sum()
    }

    fn sets(&self, key: &str, wanted: Option<&[Arc<str>]>) -> impl Iterator<Item = &IdSet<T>> {
        let values = self.keys.get(key);
        let listed = wanted.into_iter().flatten();
        let listed = listed.filter_map(move |value| values.and_then(|values| values.get(value)));
        let all = values.filter(|_| wanted.is_none()).into_iter().flat_map(FxHashMap::values);
        listed.chain(all)
    }
}

/// Selectors, each filed under one label that whatever it matches must have. Finding those that
/// may match a workload costs about as many steps as there are such selectors.
#[derive(Clone, Debug)]
pub(super) struct SelectorIndex<T> {
    by_label: TermIndex<T>,
    by_namespace_label: TermIndex<T>,
    by_namespace: FxHashMap<Arc<str>, IdSet<T>>,
    /// Those that need no label.
    others: BTreeSet<T>,
}

#[derive(Clone, Debug)]
struct TermIndex<T> {
    values: Postings<T>,
    present: FxHashMap<Arc<str>, IdSet<T>>,
}

impl<T> Default for TermIndex<T> {
    fn default() -> Self {
        Self { values: Postings::default(), present: FxHashMap::default() }
    }
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self {
            by_label: TermIndex::default(),
            by_namespace_label: TermIndex::default(),
            by_namespace: FxHashMap::default(),
            others: BTreeSet::new(),
        }
    }
}

impl<T: Copy + Eq + Hash> TermIndex<T> {
    fn insert(&mut self, key: &Arc<str>, values: Option<&[Arc<str>]>, id: T) {
        match values {
            None => self.present.entry(key.clone()).or_default().insert(id),
            Some(values) => values.iter().for_each(|value| self.values.insert(key, value, id)),
        }
    }

    fn remove(&mut self, key: &Arc<str>, values: Option<&[Arc<str>]>, id: T) {
        match values {
            None => remove_from(&mut self.present, key, id),
            Some(values) => values.iter().for_each(|value| self.values.remove(key, value, id)),
        }
    }

    fn candidates(&self, key: &str, value: &str, out: &mut Vec<T>) {
        out.extend(self.values.get_one(key, value));
        out.extend(self.present.get(key).into_iter().flat_map(IdSet::iter));
    }
}

fn remove_from<T: Copy + Eq + Hash>(sets: &mut FxHashMap<Arc<str>, IdSet<T>>, key: &str, id: T) {
    if let Some(ids) = sets.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            sets.remove(key);
        }
    }
}

impl<T: Copy + Ord + Hash> SelectorIndex<T> {
    /// Files a selector under a term it needs, if it needs one.
    pub(super) fn insert(&mut self, id: T, term: Option<&Term>) {
        match term {
            Some(Term::Label(key, values)) => self.by_label.insert(key, values.as_deref(), id),
            Some(Term::NamespaceLabel(key, values)) => {
                self.by_namespace_label.insert(key, values.as_deref(), id);
            }
            Some(Term::Namespace(names)) => {
                for name in names {
                    self.by_namespace.entry(name.clone()).or_default().insert(id);
                }
            }
            None => {
                self.others.insert(id);
            }
        }
    }

    /// Undoes [`Self::insert`] with the same term.
    pub(super) fn remove(&mut self, id: T, term: Option<&Term>) {
        match term {
            Some(Term::Label(key, values)) => self.by_label.remove(key, values.as_deref(), id),
            Some(Term::NamespaceLabel(key, values)) => {
                self.by_namespace_label.remove(key, values.as_deref(), id);
            }
            Some(Term::Namespace(names)) => {
                names.iter().for_each(|name| remove_from(&mut self.by_namespace, name, id));
            }
            None => {
                self.others.remove(&id);
            }
        }
    }

    /// The selectors that may match a workload, ascending; all others do not match it.
    pub(super) fn candidates(&self, view: &View<'_>) -> Vec<T> {
        let mut out: Vec<T> = self.others.iter().copied().collect();
        for (key, value) in view.own_labels() {
            self.by_label.candidates(key, value, &mut out);
        }
        for (key, value) in view.namespace_labels() {
            self.by_namespace_label.candidates(key, value, &mut out);
        }
        out.extend(self.by_namespace.get(view.namespace()).into_iter().flat_map(IdSet::iter));
        out.sort_unstable();
        out.dedup();
        out
    }
}
