//! A set of small ids: mostly of one or two, sometimes of very many.

use std::hash::Hash;

use rustc_hash::FxHashSet;
use smallvec::SmallVec;

/// How many ids are kept in a plain list.
const FEW: usize = 8;

/// A set that costs no allocation while it holds up to two ids.
#[derive(Clone, Debug)]
pub(super) enum IdSet<T> {
    Few(SmallVec<[T; 2]>),
    Many(FxHashSet<T>),
}

impl<T> Default for IdSet<T> {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl<T: Copy + Eq + Hash> IdSet<T> {
    pub(super) fn insert(&mut self, id: T) {
        match self {
            Self::Few(ids) if ids.contains(&id) => {}
            Self::Few(ids) if ids.len() < FEW => ids.push(id),
            Self::Few(ids) => {
                let mut many: FxHashSet<T> = ids.drain(..).collect();
                many.insert(id);
                *self = Self::Many(many);
            }
            Self::Many(ids) => {
                ids.insert(id);
            }
        }
    }

    pub(super) fn remove(&mut self, id: T) {
        match self {
            Self::Few(ids) => ids.retain(|other| *other != id),
            Self::Many(ids) => {
                ids.remove(&id);
                if ids.is_empty() {
                    *self = Self::default();
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(ids) => ids.len(),
            Self::Many(ids) => ids.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = T> {
        let (few, many) = match self {
            Self::Few(ids) => (Some(ids), None),
            Self::Many(ids) => (None, Some(ids)),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten()).copied()
    }
}
