//! The structure of the table, read and written: from whatever is there to the layout, in one
//! transaction, with as little of what is in use touched as can be.

use netlink::nft::{Chain, Element, Ruleset, Set, Table, Transaction, table_flags};

use super::counts::known_as;
use super::{Channel, HostParts, OWNED, Step, Writer};
use crate::kernel::Error;
use crate::kernel::elements::{self, Raw};
use crate::kernel::layout::host::maps;
use crate::kernel::layout::{self, TABLE};
use crate::model::Key;
use crate::model::host::HostHook;

/// What was read from the kernel, as far as it is not `programmed`.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) table: Option<Table>,
    pub(super) ruleset: Option<Ruleset>,
    /// Elements that stand for nothing, by set.
    pub(super) foreign: Vec<(&'static str, Raw)>,
    /// Elements that the fixed sets lack or have too many: the set is written again.
    pub(super) fixed: Vec<(Set, Vec<Raw>)>,
}

impl<C: Channel> Writer<C> {
    /// Reads the kernel into `programmed` and the rest into the result.
    pub(super) fn read(&mut self) -> Result<Found, Error> {
        let reading =
            |error: netlink::Error| Error::Kernel(format!("reading table inet {TABLE}: {error}"));
        let before = std::mem::take(&mut self.programmed);
        self.comments.forget_written();
        self.masquerading = 0;
        self.hosts = HostParts::default();
        self.asking = 0;
        let mut found = Found { table: self.channel.table().map_err(reading)?, ..Found::default() };
        let Some(table) = &found.table else { return Ok(found) };
        if let Some(port) = table.owner
            && port != self.channel.port()
        {
            return Err(Error::Held { port: Some(port) });
        }
        let ruleset = self.channel.ruleset().map_err(reading)?;
        let wanted = layout::sets();
        for set in ruleset.sets.iter().filter(|set| wanted.contains(set)) {
            let Some(name) = elements::set_names().find(|name| *name == set.name) else { continue };
            let raw = self.channel.elements(name).map_err(reading)?;
            for (key, text) in elements::comments(name, &raw) {
                self.comments.found(&key, text);
            }
            let (known, foreign) = elements::decode(name, raw);
            self.masquerading +=
                known.iter().filter(|(key, _)| matches!(key, Key::Masquerade(_))).count();
            self.asking += known.iter().filter(|(key, _)| matches!(key, Key::Asks(_))).count();
            known.iter().for_each(|(key, _)| self.hosts.note(key, false, true));
            let known = known.into_iter().map(|(key, value)| {
                // Who decides is not in the kernel.
                (key, known_as(value, before.get(&key)))
            });
            self.programmed.extend(known);
            found.foreign.extend(foreign.into_iter().map(|raw| (name, raw)));
        }
        for (set, values) in layout::fixed_sets() {
            if ruleset.sets.contains(&set) {
                let mut raw = self.channel.elements(&set.name).map_err(reading)?;
                raw.sort();
                let mut keys: Vec<&[u8]> = raw.iter().map(|raw| raw.key.as_slice()).collect();
                keys.sort_unstable();
                if !keys.iter().copied().eq(values.iter().map(std::slice::from_ref)) {
                    found.fixed.push((set, raw));
                }
            }
        }
        found.ruleset = Some(ruleset);
        Ok(found)
    }

    /// Has what was found at start stay until the agent is in sync.
    pub(super) fn retain(&mut self, found: &Found) {
        self.retained = self.programmed.clone();
        let ruleset = found.ruleset.as_ref();
        let lacks = |name| ruleset.is_some_and(|old| old.sets.iter().all(|set| set.name != name));
        if HostHook::ALL.into_iter().any(|hook| hook.is_again() && lacks(maps(hook).0)) {
            // The release before asked the first maps again.
            let again = self.retained.iter().filter_map(|(key, value)| Some((again(key)?, *value)));
            let again: Vec<_> = again.collect();
            self.retained.extend(again);
        }
        let ranges = self.retained.keys().filter_map(|key| {
            let (kind, first, last) = elements::span(key)?;
            Some(((kind, first), (last, *key)))
        });
        self.retained_ranges = ranges.collect();
    }

    /// The transaction from what was found to what is wanted, structure and all.
    pub(super) fn structure(&mut self, found: &Found, tx: &mut Transaction) -> Vec<Step> {
        let all = self.programmed.keys().chain(self.wanted.keys()).chain(self.retained.keys());
        let mut keys: Vec<(u64, Key)> = all.map(|key| (elements::set_number(key), *key)).collect();
        keys.sort_unstable();
        keys.dedup();
        self.refuse_invalid(&keys);
        let wanted = |key: &&Key| self.target(key).is_some();
        let each = || keys.iter().map(|(_, key)| key);
        let masquerade =
            each().filter(|key| matches!(key, Key::Masquerade(_))).any(|key| wanted(&key));
        let mut hosts = HostParts::default();
        each().filter(wanted).for_each(|key| hosts.note(key, false, true));
        let names = each().filter(|key| matches!(key, Key::Asks(_))).any(|key| wanted(&key));
        self.params.names = names;
        let chains = self.chains(hosts.hosts(), masquerade);
        let empty = Ruleset { chains: Vec::new(), sets: Vec::new(), other_sets: Vec::new() };
        let ruleset = found.ruleset.as_ref().unwrap_or(&empty);

        let flags = found.table.as_ref().map(|table| table.flags);
        // An owner that is gone has taken its flag along.
        let ours = |flags: &u32| *flags == self.flags || *flags | table_flags::OWNER == self.flags;
        let other_flags =
            flags.filter(|flags| !ours(flags)).map(|flags| format!("its flags are {flags}"));
        if let Some(why) = other_flags.or_else(|| incompatible(ruleset, &chains)) {
            // Another layout, or a table that cannot be taken: all of it anew, at once.
            if flags.is_some() {
                tracing::info!(why, "table inet {TABLE} is replaced, in one transaction");
                tx.delete_table();
            }
            self.programmed.clear();
            self.comments.forget_written();
            self.masquerading = 0;
            self.hosts = HostParts::default();
            self.asking = 0;
            return self.build(&chains, &keys, tx);
        }
        let unowned = found.table.as_ref().is_none_or(|table| table.owner.is_none());
        if flags.is_none() || (self.flags == OWNED && unowned) {
            tx.add_table(self.flags, None);
        }
        for (name, raw) in &found.foreign {
            raw.delete(tx, name, u32::MAX);
        }
        for (set, surplus) in &found.fixed {
            for raw in surplus {
                raw.delete(tx, &set.name, u32::MAX);
            }
        }
        let fixed = layout::fixed_sets();
        let here = |name: &str| ruleset.sets.iter().any(|set| set.name == name);
        for set in layout::sets().iter().chain(fixed.iter().map(|(set, _)| set)) {
            if !here(&set.name) {
                tx.add_set(set);
            }
        }
        for (set, values) in &fixed {
            if !here(&set.name) || found.fixed.iter().any(|(other, _)| other == set) {
                add_fixed(tx, set, values);
            }
        }
        let before = |name: &str| ruleset.chains.iter().find(|chain| chain.name == name);
        for chain in &chains {
            if before(&chain.name).is_none() {
                tx.add_chain(chain);
            }
        }
        let steps = self.steps(&keys);
        self.elements(&steps, tx);
        for chain in &chains {
            let rules = before(&chain.name).map_or(&[][..], |chain| &chain.rules);
            if rules != chain.rules {
                if !rules.is_empty() {
                    tx.flush_chain(&chain.name);
                }
                add_rules(tx, chain);
            }
        }
        // What is not of the layout goes last, when nothing refers to it any more.
        let surplus =
            || ruleset.chains.iter().filter(|old| chains.iter().all(|new| new.name != old.name));
        for chain in surplus().filter(|chain| !chain.rules.is_empty()) {
            tx.flush_chain(&chain.name);
        }
        for chain in surplus() {
            tx.delete_chain(&chain.name);
        }
        let ours = |name: &str| {
            elements::set_names().any(|n| n == name)
                || fixed.iter().any(|(set, _)| set.name == name)
        };
        let surplus = ruleset.sets.iter().map(|set| &set.name).chain(&ruleset.other_sets);
        for name in surplus.filter(|name| !ours(name)) {
            tx.delete_set(name);
        }
        steps
    }

    fn build(&mut self, chains: &[Chain], keys: &[(u64, Key)], tx: &mut Transaction) -> Vec<Step> {
        tx.add_table(self.flags, None);
        for set in layout::sets() {
            tx.add_set(&set);
        }
        for (set, values) in layout::fixed_sets() {
            tx.add_set(&set);
            add_fixed(tx, &set, values);
        }
        for chain in chains {
            tx.add_chain(chain);
        }
        let steps = self.steps(keys);
        self.elements(&steps, tx);
        for chain in chains {
            add_rules(tx, chain);
        }
        steps
    }
}

/// The same of what is judged once more, if it is.
fn again(key: &Key) -> Option<Key> {
    let mut key = *key;
    match &mut key {
        Key::HostTable { hook, .. } | Key::HostView { hook, .. } => *hook = hook.again()?,
        _ => return None,
    }
    Some(key)
}

pub(super) fn add_rules(tx: &mut Transaction, chain: &Chain) {
    for rule in &chain.rules {
        tx.add_rule(&chain.name, rule);
    }
}

fn add_fixed(tx: &mut Transaction, set: &Set, values: &[u8]) {
    for value in values {
        tx.add_element(&set.name, &Element::key(std::slice::from_ref(value)), u32::MAX);
    }
}

/// Why what is there cannot be changed into what is wanted without deleting what is in use: a set
/// has another type, a chain another hook than it should have.
fn incompatible(ruleset: &Ruleset, chains: &[Chain]) -> Option<String> {
    let fixed = layout::fixed_sets().map(|(set, _)| set);
    let set = layout::sets().into_iter().chain(fixed).find(|set| {
        ruleset.other_sets.contains(&set.name)
            || ruleset.sets.iter().any(|other| other.name == set.name && other != set)
    });
    let chain = chains.iter().find(|chain| {
        ruleset.chains.iter().any(|other| other.name == chain.name && other.base != chain.base)
    });
    set.map(|set| format!("set {} is of another type", set.name))
        .or_else(|| chain.map(|chain| format!("chain {} has another hook", chain.name)))
}
