//! Lists with a name, and the policies compiled with them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::matching::FindSet;
use super::prefixes::PrefixSet;
use super::{AsPathPattern, CommunityPattern, Compiled, Policy};
use crate::config::Config;

/// The sets of a configuration, and what policies have become with them: each once, however many
/// neighbors have it.
#[derive(Debug, Default)]
pub(crate) struct Library {
    prefixes: BTreeMap<String, Arc<PrefixSet>>,
    communities: BTreeMap<String, Arc<[CommunityPattern]>>,
    as_paths: BTreeMap<String, Arc<[AsPathPattern]>>,
    compiled: HashMap<Policy, Arc<Compiled>>,
}

impl FindSet for Library {
    fn prefixes(&self, name: &str) -> Option<Arc<PrefixSet>> {
        self.prefixes.get(name).cloned()
    }

    fn communities(&self, name: &str) -> Option<Arc<[CommunityPattern]>> {
        self.communities.get(name).cloned()
    }

    fn as_paths(&self, name: &str) -> Option<Arc<[AsPathPattern]>> {
        self.as_paths.get(name).cloned()
    }
}

impl Library {
    /// Takes over the sets of a configuration; those that are as in the `old` one, which is the one
    /// taken over last, stay as they are.
    pub(crate) fn update(&mut self, old: &Config, new: &Config) {
        let mut changed = false;
        changed |= take_over(&mut self.prefixes, &old.prefix_sets, &new.prefix_sets, |set| {
            PrefixSet::new(set).into()
        });
        changed |=
            take_over(&mut self.communities, &old.community_sets, &new.community_sets, |set| {
                set.into()
            });
        changed |=
            take_over(&mut self.as_paths, &old.as_path_sets, &new.as_path_sets, |set| set.into());
        if changed {
            self.compiled.clear();
        }
    }

    /// A policy with its sets.
    pub(crate) fn policy(&mut self, policy: &Policy) -> Arc<Compiled> {
        if let Some(compiled) = self.compiled.get(policy) {
            return compiled.clone();
        }
        let compiled = Arc::new(Compiled::new(policy, self));
        self.compiled.insert(policy.clone(), compiled.clone());
        compiled
    }

    /// Forgets the policies that nobody has any more.
    pub(crate) fn tidy(&mut self) {
        self.compiled.retain(|_, compiled| Arc::strong_count(compiled) > 1);
    }
}

/// Makes `compiled` that of the `new` sets; whether it was another.
fn take_over<T, C: Clone>(
    compiled: &mut BTreeMap<String, C>,
    old: &BTreeMap<String, Vec<T>>,
    new: &BTreeMap<String, Vec<T>>,
    compile: impl Fn(&[T]) -> C,
) -> bool
where
    T: PartialEq,
{
    let before = compiled.len();
    compiled.retain(|name, _| old.get(name) == new.get(name));
    let mut changed = compiled.len() != before;
    for (name, set) in new {
        if !compiled.contains_key(name) {
            compiled.insert(name.clone(), compile(set));
            changed = true;
        }
    }
    changed
}
