//! Import and export filters.
//!
//! A policy is a list of rules, first match wins, with a final action for what none matches. What
//! a rule looks at is either the prefix or the attribute block, and what it changes depends on
//! the rule alone, so an outcome is a pair of block and rule: computed once, shared by all
//! prefixes with that block.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::wire::attributes::{self, Edit, Edits, Reflection};
use crate::wire::{Community, LargeCommunity, path};

#[cfg(test)]
mod tests;

/// What becomes of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is used or sent on.
    #[default]
    Accept,
    /// It is neither.
    Reject,
}

/// An ordered list of rules. The default one has none and accepts everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Policy {
    /// Looked at in order; the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// For routes that no rule matches.
    #[serde(default)]
    pub default: Action,
}

/// One rule: every condition given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// The route's prefix matches one of these. None: any prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefixes: Option<Vec<PrefixMatch>>,
    /// Where the route comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The kind of session the policy is applied on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<PeerType>,
    /// The route has all of these standard communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<Community>,
    /// The route has all of these large communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<LargeCommunity>,
    /// The AS path starts with these AS numbers, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub as_path_prefix: Vec<u32>,
    /// What becomes of the route.
    pub action: Action,
    /// Changes to an accepted route.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub set: Changes,
}

/// A condition on a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PrefixMatch {
    /// The prefix compared with; only routes of its family match.
    pub prefix: IpNet,
    /// How it is compared.
    #[serde(default)]
    pub operator: PrefixOperator,
    /// Smallest prefix length that matches. None: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u8>,
    /// Largest prefix length that matches. None: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u8>,
}

/// How a route's prefix is compared with another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrefixOperator {
    /// The same prefix.
    #[default]
    Equal,
    /// Any other prefix of the family.
    NotEqual,
    /// The same prefix or one inside it.
    In,
    /// Not [`Self::In`].
    NotIn,
}

/// Where a route comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// One of our own networks.
    Local,
    /// Learned from a peer.
    RemotePeers,
}

/// The kind of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PeerType {
    /// The peer is in another AS.
    #[serde(rename = "external")]
    External,
    /// The peer is in our AS.
    #[serde(rename = "internal")]
    Internal,
}

/// Changes to the attributes of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Changes {
    /// LOCAL_PREF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// Standard communities added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_communities: Vec<Community>,
    /// Large communities added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_large_communities: Vec<LargeCommunity>,
    /// AS numbers put in front of the path, the first of them outermost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepend_as_path: Vec<u32>,
}

impl Changes {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn edits(&self) -> Edits<'_> {
        Edits {
            prepend: &self.prepend_as_path,
            local_pref: self.local_pref.map_or(Edit::Keep, Edit::Set),
            med: self.med.map_or(Edit::Keep, Edit::Set),
            reflection: Reflection::Keep,
            communities: &self.add_communities,
            large_communities: &self.add_large_communities,
        }
    }
}

/// What a policy says of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reject,
    /// Accepted; with the changes of this rule, if any.
    Accept(Option<usize>),
}

/// A route as a policy sees it.
pub(crate) struct Subject<'a> {
    pub(crate) prefix: IpNet,
    pub(crate) block: &'a [u8],
    pub(crate) source: Source,
    pub(crate) peer_type: PeerType,
}

impl Policy {
    /// A policy that accepts everything.
    pub fn accept() -> Self {
        Self::default()
    }

    /// A policy that rejects everything.
    pub fn reject() -> Self {
        Self { rules: Vec::new(), default: Action::Reject }
    }

    /// Accepts prefixes that match one of `prefixes`, rejects the rest.
    pub fn accept_only(prefixes: Vec<PrefixMatch>) -> Self {
        let rule = Rule { prefixes: Some(prefixes), ..Rule::default() };
        Self { rules: vec![rule], default: Action::Reject }
    }

    /// Why the policy makes no sense, with the field at fault.
    pub(crate) fn validate(&self) -> Result<(), String> {
        for (at, rule) in self.rules.iter().enumerate() {
            for m in rule.prefixes.iter().flatten() {
                let bits = m.prefix.max_prefix_len();
                for (field, length) in [("min-length", m.min_length), ("max-length", m.max_length)]
                {
                    if length.is_some_and(|l| l > bits) {
                        let prefix = m.prefix;
                        return Err(format!(
                            "rules[{at}].prefixes: {field} of {prefix} exceeds {bits}"
                        ));
                    }
                }
            }
            if rule.set.prepend_as_path.contains(&0) {
                return Err(format!("rules[{at}].set.prepend-as-path: AS 0 is reserved"));
            }
            if rule.set.prepend_as_path.len() > 10 {
                return Err(format!("rules[{at}].set.prepend-as-path: more than 10 AS numbers"));
            }
        }
        Ok(())
    }

    pub(crate) fn evaluate(&self, subject: &Subject<'_>) -> Outcome {
        let found = self.rules.iter().enumerate().find(|(_, rule)| rule.matches(subject));
        match found {
            Some((_, Rule { action: Action::Reject, .. })) => Outcome::Reject,
            Some((at, rule)) => Outcome::Accept((!rule.set.is_empty()).then_some(at)),
            None if self.default == Action::Accept => Outcome::Accept(None),
            None => Outcome::Reject,
        }
    }
}

impl Rule {
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.source.is_none_or(|s| s == subject.source)
            && self.peer_type.is_none_or(|t| t == subject.peer_type)
            && self
                .prefixes
                .as_ref()
                .is_none_or(|list| list.iter().any(|m| m.matches(&subject.prefix)))
            && self
                .communities
                .iter()
                .all(|c| attributes::communities(subject.block).any(|have| have == *c))
            && self
                .large_communities
                .iter()
                .all(|c| attributes::large_communities(subject.block).any(|have| have == *c))
            && {
                let mut numbers = path::numbers(attributes::as_path(subject.block));
                self.as_path_prefix.iter().all(|asn| numbers.next() == Some(*asn))
            }
    }
}

impl PrefixMatch {
    /// Exactly this prefix.
    pub const fn equal(prefix: IpNet) -> Self {
        Self { prefix, operator: PrefixOperator::Equal, min_length: None, max_length: None }
    }

    /// This prefix and all inside it.
    pub const fn inside(prefix: IpNet) -> Self {
        Self { prefix, operator: PrefixOperator::In, min_length: None, max_length: None }
    }

    /// Whether `prefix` meets the condition.
    pub fn matches(&self, prefix: &IpNet) -> bool {
        let base = self.prefix.trunc();
        let same_family = base.max_prefix_len() == prefix.max_prefix_len();
        let length = prefix.prefix_len();
        same_family
            && self.min_length.is_none_or(|min| length >= min)
            && self.max_length.is_none_or(|max| length <= max)
            && match self.operator {
                PrefixOperator::Equal => base == *prefix,
                PrefixOperator::NotEqual => base != *prefix,
                PrefixOperator::In => base.contains(prefix),
                PrefixOperator::NotIn => !base.contains(prefix),
            }
    }
}
