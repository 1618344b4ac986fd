//! Compiled policies: which rules hold for a route, and what they make of it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use smallvec::SmallVec;

use super::prefixes::PrefixSet;
use super::{
    Action, AsPathPattern, CommunityPattern, NextHopChange, Own, PeerType, Policy, PrefixMatch,
    Rule, Source,
};
use crate::rib::DEFAULT_LOCAL_PREF;
use crate::wire::attributes::{self, communities, large_communities};
use crate::wire::{Draft, Family, FamilySet, Info, NextHop, path};

/// What the routes of one attribute set have in common, as a policy sees it.
pub(crate) struct Route<'a> {
    pub(crate) block: &'a [u8],
    pub(crate) info: &'a Info,
    pub(crate) next_hop: NextHop,
    pub(crate) source: Source,
    pub(crate) peer_type: PeerType,
    /// The address of the neighbor it was learned from; None: it is our own.
    pub(crate) neighbor: Option<IpAddr>,
}

/// The rules that hold for an attribute set, in order, as far as their conditions on the prefix
/// allow. Ends with the first one that decides about every prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Narrowed(SmallVec<[u16; 8]>);

/// The rules whose changes are made, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Applied(SmallVec<[u16; 4]>);

impl Applied {
    /// Whether nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a policy says of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reject,
    /// Accepted, with the changes of these rules.
    Accept(Applied),
}

/// A policy with the sets it names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Compiled {
    rules: Vec<CompiledRule>,
    default: Action,
    names_neighbors: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct CompiledRule {
    /// Without its lists of prefixes and families, which are in the fields that follow.
    rule: Rule,
    /// None: any family.
    families: Option<FamilySet>,
    /// One of these holds the prefix. None: any prefix.
    prefixes: Option<Vec<Arc<PrefixSet>>>,
    next_hops: Option<Vec<Arc<PrefixSet>>>,
    communities: Option<Vec<Arc<[CommunityPattern]>>>,
    as_paths: Option<Vec<Arc<[AsPathPattern]>>>,
    deleted: Vec<Arc<[CommunityPattern]>>,
}

/// Finds sets by name.
pub(super) trait FindSet {
    fn prefixes(&self, name: &str) -> Option<Arc<PrefixSet>>;
    fn communities(&self, name: &str) -> Option<Arc<[CommunityPattern]>>;
    fn as_paths(&self, name: &str) -> Option<Arc<[AsPathPattern]>>;
}

impl Compiled {
    /// Sets that there are not (a configuration that names one is refused) hold nothing.
    pub(super) fn new(policy: &Policy, sets: &impl FindSet) -> Self {
        let rules = policy.rules.iter().map(|rule| CompiledRule::new(rule, sets)).collect();
        let names_neighbors = policy.rules.iter().any(|rule| !rule.neighbors.is_empty());
        Self { rules, default: policy.default, names_neighbors }
    }

    /// Which rules hold for the routes of an attribute set.
    pub(crate) fn narrow(&self, route: &Route<'_>) -> Narrowed {
        let mut narrowed = Narrowed::default();
        let mut text = None;
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.matches(route, &mut text) {
                narrowed.0.push(u16::try_from(at).unwrap_or(u16::MAX));
                if !rule.looks_at_prefixes() && rule.rule.action != Action::Continue {
                    break;
                }
            }
        }
        narrowed
    }

    /// What becomes of one of these routes.
    pub(crate) fn decide(&self, narrowed: &Narrowed, prefix: impl Fn() -> IpNet) -> Outcome {
        self.verdict(narrowed, prefix).map_or(Outcome::Reject, Outcome::Accept)
    }

    /// As [`Self::decide`]: the rules to apply, or the place of the rule that rejects the route; None
    /// in it: no rule says anything of it, and the default is to reject.
    pub(crate) fn verdict(
        &self,
        narrowed: &Narrowed,
        prefix: impl Fn() -> IpNet,
    ) -> Result<Applied, Option<u16>> {
        let mut applied = Applied::default();
        let (mut action, mut by) = (self.default, None);
        for at in &narrowed.0 {
            let Some(rule) = self.rules.get(usize::from(*at)) else { continue };
            if rule.looks_at_prefixes() && !rule.matches_prefix(&prefix()) {
                continue;
            }
            if rule.rule.action != Action::Reject && !rule.rule.set.is_empty() {
                applied.0.push(*at);
            }
            if rule.rule.action != Action::Continue {
                (action, by) = (rule.rule.action, Some(*at));
                break;
            }
        }
        if action == Action::Accept { Ok(applied) } else { Err(by) }
    }

    /// Makes the changes of these rules, but that of the next hop.
    pub(crate) fn apply(&self, applied: &Applied, draft: &mut Draft<'_>, own: Own) {
        for rule in self.applied(applied) {
            rule.rule.set.apply(draft, own, &rule.deleted);
        }
    }

    /// What these rules make of the next hop: the last one that says something counts.
    pub(crate) fn next_hop(&self, applied: &Applied) -> Option<NextHopChange> {
        self.applied(applied).filter_map(|rule| rule.rule.set.next_hop).last()
    }

    /// Whether the same is said of routes from all neighbors with the same attributes.
    pub(crate) const fn ignores_neighbors(&self) -> bool {
        !self.names_neighbors
    }

    /// Whether every route is accepted as it is.
    pub(crate) const fn accepts_everything(&self) -> bool {
        self.rules.is_empty() && matches!(self.default, Action::Accept)
    }

    fn applied(&self, applied: &Applied) -> impl Iterator<Item = &CompiledRule> {
        applied.0.iter().filter_map(|at| self.rules.get(usize::from(*at)))
    }
}

fn holds(sets: &[Arc<PrefixSet>], prefix: &IpNet) -> bool {
    sets.iter().any(|set| set.contains(prefix))
}

/// Inline conditions and named sets together; None if there are neither.
fn prefix_sets(
    inline: Option<&[PrefixMatch]>,
    names: &[String],
    sets: &impl FindSet,
) -> Option<Vec<Arc<PrefixSet>>> {
    if inline.is_none() && names.is_empty() {
        return None;
    }
    let inline = inline.filter(|list| !list.is_empty()).map(PrefixSet::new).map(Arc::new);
    let named = names.iter().filter_map(|name| sets.prefixes(name));
    Some(inline.into_iter().chain(named).collect())
}

/// The sets of these names; None if there are no names.
fn named<T>(names: &[String], find: impl FnMut(&String) -> Option<T>) -> Option<Vec<T>> {
    (!names.is_empty()).then(|| names.iter().filter_map(find).collect())
}

impl CompiledRule {
    fn new(rule: &Rule, sets: &impl FindSet) -> Self {
        let hops = Some(&*rule.next_hops).filter(|hops| !hops.is_empty());
        let deleted = rule.set.delete_community_sets.iter();
        let families: FamilySet = rule.families.iter().copied().collect();
        Self {
            families: (!families.is_empty()).then_some(families),
            prefixes: prefix_sets(rule.prefixes.as_deref(), &rule.prefix_sets, sets),
            next_hops: prefix_sets(hops, &rule.next_hop_sets, sets),
            communities: named(&rule.community_sets, |name| sets.communities(name)),
            as_paths: named(&rule.as_path_sets, |name| sets.as_paths(name)),
            deleted: deleted.filter_map(|name| sets.communities(name)).collect(),
            rule: Rule {
                prefixes: None,
                families: Vec::new(),
                next_hops: Vec::new(),
                ..rule.clone()
            },
        }
    }

    const fn looks_at_prefixes(&self) -> bool {
        self.prefixes.is_some() || self.families.is_some()
    }

    fn matches_prefix(&self, prefix: &IpNet) -> bool {
        self.families.is_none_or(|families| families.contains(Family::of(prefix)))
            && self.prefixes.as_ref().is_none_or(|sets| holds(sets, prefix))
    }

    /// All conditions but those on the prefix. `text` is the AS path's, once somebody wanted it.
    fn matches(&self, route: &Route<'_>, text: &mut Option<String>) -> bool {
        let rule = &self.rule;
        rule.source.is_none_or(|s| s == route.source)
            && rule.peer_type.is_none_or(|t| t == route.peer_type)
            && (rule.neighbors.is_empty()
                || route.neighbor.is_some_and(|from| rule.neighbors.contains(&from)))
            && self.next_hops.as_ref().is_none_or(|sets| {
                !route.next_hop.is_ourselves() && holds(sets, &IpNet::from(route.next_hop.addr))
            })
            && rule
                .local_pref
                .is_none_or(|r| r.contains(route.info.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)))
            && rule.med.is_none_or(|range| range.contains(route.info.med.unwrap_or(0)))
            && (rule.origins.is_empty()
                || rule.origins.iter().any(|origin| origin.wire() == route.info.origin))
            && self.matches_communities(route.block)
            && self.matches_path(route, text)
    }

    fn matches_communities(&self, block: &[u8]) -> bool {
        let rule = &self.rule;
        let carried = |pattern: &CommunityPattern| pattern.is_carried(block);
        rule.communities.iter().all(|c| communities(block).any(|have| have == *c))
            && rule
                .large_communities
                .iter()
                .all(|c| large_communities(block).any(|have| have == *c))
            && (rule.community_match.any.is_empty() || rule.community_match.any.iter().any(carried))
            && rule.community_match.all.iter().all(carried)
            && !rule.community_match.none.iter().any(carried)
            && self
                .communities
                .as_ref()
                .is_none_or(|sets| sets.iter().flat_map(|set| &**set).any(carried))
    }

    fn matches_path(&self, route: &Route<'_>, text: &mut Option<String>) -> bool {
        let as_path = attributes::as_path(route.block);
        let mut numbers = path::numbers(as_path);
        let wanted = &self.rule.as_path;
        let mut matches = |pattern: &AsPathPattern| {
            pattern.matches(text.get_or_insert_with(|| path::display(as_path)))
        };
        self.rule.as_path_prefix.iter().all(|asn| numbers.next() == Some(*asn))
            && (wanted.contains.is_empty()
                || path::numbers(as_path).any(|asn| wanted.contains.contains(&asn)))
            && (wanted.originated_by.is_empty()
                || path::numbers(as_path)
                    .last()
                    .is_some_and(|last| wanted.originated_by.contains(&last)))
            && wanted.length.is_none_or(|range| range.contains(route.info.path_len))
            && (wanted.matches.is_empty() || wanted.matches.iter().any(&mut matches))
            && self
                .as_paths
                .as_ref()
                .is_none_or(|sets| sets.iter().flat_map(|set| &**set).any(&mut matches))
    }
}
