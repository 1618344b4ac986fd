//! What the elements of policy maps count, by who decides: what they have counted so far, and what
//! those had that are gone. Begins anew with the agent, and when it is turned on.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Channel, Step, Writer, elements};
use crate::kernel::{Count, Counted, Error};
use crate::model::{Decider, Decision, Key, Value};

/// So many who decide nothing any more are remembered, with what they did.
const REMEMBERED: usize = 4096;
/// Reading one element takes as long as so many in a list.
const ALONE: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Counts {
    names: FxHashMap<Decider, Arc<Decision>>,
    past: FxHashMap<Decider, Count>,
}

impl Counts {
    pub(super) fn learn(&mut self, deciders: &[(Decider, Arc<Decision>)]) {
        for (decider, name) in deciders {
            let before = self.names.insert(*decider, name.clone());
            if before.is_some_and(|before| before != *name) {
                // Somebody else's number, whom the engine has forgotten.
                self.past.remove(decider);
            }
        }
    }

    pub(super) fn add(&mut self, counted: Vec<(Decider, Count)>) {
        for (decider, count) in counted {
            self.past.entry(decider).or_default().add(count);
        }
    }

    /// Who a number stands for.
    pub(super) fn name(&self, decider: Decider) -> Option<String> {
        self.names.get(&decider).map(ToString::to_string)
    }
}

/// A value that was read, with who decides if it is one that was written.
pub(super) fn known_as(found: Value, written: Option<&Value>) -> Value {
    match (found, written) {
        (
            Value::Counted { verdict, log, .. },
            Some(same @ Value::Counted { verdict: v, log: l, .. }),
        ) if (verdict, log) == (*v, *l) => *same,
        (found, _) => found,
    }
}

impl<C: Channel> Writer<C> {
    /// What everyone who decides has decided since counting began, in order; nothing where nothing
    /// is counted.
    pub(in super::super) fn counts(&mut self) -> Result<Counted, Error> {
        if self.counts.names.is_empty() {
            return Ok(Vec::new());
        }
        let counting: FxHashSet<Decider> = self.programmed.values().filter_map(decider).collect();
        if counting.is_empty() {
            self.counts = Counts::default();
            return Ok(Vec::new());
        }
        let now = self.count_all()?;
        if self.counts.names.len() > counting.len() + REMEMBERED {
            self.counts.names.retain(|decider, _| counting.contains(decider));
            self.counts.past.retain(|decider, _| counting.contains(decider));
        }
        let mut totals = self.counts.past.clone();
        for (key, count) in now {
            if let Some(decider) = self.programmed.get(&key).and_then(decider) {
                totals.entry(decider).or_default().add(count);
            }
        }
        let mut named: BTreeMap<Arc<Decision>, Count> = BTreeMap::new();
        for (decider, name) in &self.counts.names {
            let count = totals.get(decider);
            if count.is_some() || counting.contains(decider) {
                named.entry(name.clone()).or_default().add(count.copied().unwrap_or_default());
            }
        }
        Ok(named.into_iter().collect())
    }

    /// Whether elements that count are among what is to be written: those are read before.
    pub(super) fn counting_ends(&self) -> bool {
        !self.counts.names.is_empty()
            && self
                .dirty
                .iter()
                .any(|(_, key)| self.programmed.get(key).and_then(decider).is_some())
    }

    /// What elements have counted that a transaction is about to delete. What comes between this and the
    /// transaction is not counted; if it cannot be read, policy does not wait for it.
    pub(super) fn counted_by_leaving(&mut self, steps: &[Step]) -> Vec<(Decider, Count)> {
        if self.counts.names.is_empty() {
            return Vec::new();
        }
        let counted = |step: &Step| Some((step.key, step.before.as_ref().and_then(decider)?));
        let leaving: FxHashMap<Key, Decider> = steps.iter().filter_map(counted).collect();
        if leaving.is_empty() {
            return Vec::new();
        }
        let read = if leaving.len() * ALONE > self.programmed.len() {
            self.count_all().unwrap_or_default()
        } else {
            let one = |key: &Key| {
                let encoded = elements::encode(key);
                let raw = self.channel.element(encoded.set, &encoded.asked()).ok()??;
                Some((*key, raw.count?))
            };
            leaving.keys().filter_map(one).collect()
        };
        let of = |(key, count): (Key, Count)| Some((*leaving.get(&key)?, count));
        read.into_iter().filter_map(of).collect()
    }

    fn count_all(&mut self) -> Result<Vec<(Key, Count)>, Error> {
        let mut all = Vec::new();
        for set in elements::counted_sets() {
            let raw = self
                .channel
                .elements(set)
                .map_err(|error| Error::Kernel(format!("counters of {set}: {error}")))?;
            all.append(&mut elements::counts(set, &raw));
        }
        Ok(all)
    }
}

fn decider(value: &Value) -> Option<Decider> {
    match value {
        Value::Counted { by, .. } => Some(*by),
        _ => None,
    }
}
