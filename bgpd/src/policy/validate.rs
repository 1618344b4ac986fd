//! What a policy must be to be taken.

use super::{Action, NextHopChange, Policy, PrefixMatch, Range, Rule};
use crate::config::Config;

/// The most AS numbers that one change may put in front.
const MOST_PREPENDED: usize = 10;
/// The most rules of a policy: they are told apart by a number of 16 bits.
const MOST_RULES: usize = 65535;

/// Which way a policy looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Import,
    Export,
}

impl Policy {
    /// Why the policy makes no sense, with the field at fault.
    pub(crate) fn validate(&self, way: Way) -> Result<(), String> {
        if self.rules.len() > MOST_RULES {
            return Err(format!("rules: more than {MOST_RULES}"));
        }
        if self.default == Action::Continue {
            return Err("default: must be accept or reject".into());
        }
        for (at, rule) in self.rules.iter().enumerate() {
            rule.validate(way).map_err(|reason| format!("rules[{at}].{reason}"))?;
        }
        Ok(())
    }

    /// The first set named that is not in the configuration, with the field that names it.
    pub(crate) fn check_sets(&self, config: &Config) -> Result<(), String> {
        for (at, rule) in self.rules.iter().enumerate() {
            let known = |sort: &str, name: &String| match sort {
                "prefix" => config.prefix_sets.contains_key(name),
                "community" => config.community_sets.contains_key(name),
                _ => config.as_path_sets.contains_key(name),
            };
            for (field, sort, names) in [
                ("prefix-sets", "prefix", &rule.prefix_sets),
                ("next-hop-sets", "prefix", &rule.next_hop_sets),
                ("community-sets", "community", &rule.community_sets),
                ("as-path-sets", "AS path", &rule.as_path_sets),
                ("set.delete-community-sets", "community", &rule.set.delete_community_sets),
            ] {
                if let Some(name) = names.iter().find(|name| !known(sort, name)) {
                    return Err(format!("rules[{at}].{field}: there is no {sort} set {name:?}"));
                }
            }
        }
        Ok(())
    }
}

impl Rule {
    fn validate(&self, way: Way) -> Result<(), String> {
        prefixes(self.prefixes.iter().flatten()).map_err(|r| format!("prefixes: {r}"))?;
        prefixes(&self.next_hops).map_err(|reason| format!("next-hops: {reason}"))?;
        for (field, range) in [
            ("local-pref", self.local_pref),
            ("med", self.med),
            ("as-path.length", self.as_path.length),
        ] {
            if let Some(Range { min: Some(min), max: Some(max) }) = range
                && min > max
            {
                return Err(format!("{field}: min {min} exceeds max {max}"));
            }
        }
        let set = &self.set;
        if set.prepend_as_path.contains(&0) {
            return Err("set.prepend-as-path: AS 0 is reserved".into());
        }
        for (field, count) in [
            ("prepend-as-path", set.prepend_as_path.len()),
            ("prepend-own", set.prepend_own.into()),
            ("prepend-last", set.prepend_last.into()),
        ] {
            if count > MOST_PREPENDED {
                return Err(format!("set.{field}: more than {MOST_PREPENDED} AS numbers"));
            }
        }
        match set.next_hop {
            Some(NextHopChange::Address(address))
                if address.is_unspecified() || address.is_multicast() =>
            {
                Err(format!("set.next-hop: {address} is not a unicast address"))
            }
            Some(NextHopChange::Ourselves) if way == Way::Import => {
                Err("set.next-hop: self is for export policies".into())
            }
            _ => Ok(()),
        }
    }
}

/// What is wrong with one of these conditions.
pub(crate) fn prefixes<'a>(
    conditions: impl IntoIterator<Item = &'a PrefixMatch>,
) -> Result<(), String> {
    for condition in conditions {
        let PrefixMatch { prefix, min_length, max_length, .. } = condition;
        let bits = prefix.max_prefix_len();
        for (field, length) in [("min-length", min_length), ("max-length", max_length)] {
            if length.is_some_and(|length| length > bits) {
                return Err(format!("{field} of {prefix} exceeds {bits}"));
            }
        }
    }
    Ok(())
}
