//! BGPFilters as the speaker's policies (`calico.md` 1.14, 5.4).
//!
//! The rules of a BGPPeer's filters come before the usual ones, and the first that matches decides.
//! Without them routes would pass that somebody meant to stop; so a filter that is deleted while a
//! BGPPeer names it, or changed into what cannot be done, stays in force as it last was good, and a
//! session whose filter never was good is not made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::v3::{self, FilterAction, FilterPeerType, FilterSource, MatchOperator};
use bgpd::policy::{Action, Changes, PeerType, PrefixMatch, PrefixOperator, Rule, Source};
use ipnet::IpNet;

use super::Problem;
use super::communities::{Either, community};

/// The rules of some filters, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rules {
    pub(super) import: Vec<Rule>,
    pub(super) export: Vec<Rule>,
}

/// A rule of either family: the two differ in their limits only.
struct Criteria<'a> {
    /// What every route of the family is in.
    family: &'static str,
    cidr: &'a str,
    operator: Option<MatchOperator>,
    lengths: Option<(Option<u8>, Option<u8>)>,
    source: Option<FilterSource>,
    interface: &'a str,
    peer_type: Option<FilterPeerType>,
    communities: Option<&'a v3::CommunityMatch>,
    as_path_prefix: &'a [v3::AsNumber],
    priority: Option<u32>,
    action: FilterAction,
    operations: &'a [v3::FilterOperation],
}

macro_rules! criteria {
    ($rule:expr, $family:literal) => {
        Criteria {
            family: $family,
            cidr: &$rule.cidr,
            operator: $rule.match_operator,
            lengths: $rule.prefix_length.map(|length| (length.min, length.max)),
            source: $rule.source,
            interface: &$rule.interface,
            peer_type: $rule.peer_type,
            communities: $rule.communities.as_ref(),
            as_path_prefix: &$rule.as_path_prefix,
            priority: $rule.priority,
            action: $rule.action,
            operations: &$rule.operations,
        }
    };
}

/// All filters.
#[derive(Debug, Default)]
pub(super) struct Filters(BTreeMap<Arc<str>, Filter>);

#[derive(Debug, Default)]
struct Filter {
    /// As it last was good.
    rules: Option<Rules>,
    /// Why that is not what it is now.
    problem: Option<String>,
    /// There is no such object any more.
    deleted: bool,
}

impl Filters {
    pub(super) fn set(&mut self, name: Arc<str>, spec: &v3::BGPFilterSpec) {
        let filter = self.0.entry(name).or_default();
        match Rules::of(spec) {
            Ok(rules) => *filter = Filter { rules: Some(rules), ..Filter::default() },
            Err(reason) => (filter.problem, filter.deleted) = (Some(reason), false),
        }
    }

    /// Notes that a filter was deleted; [`Self::forget`] follows.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some(filter) = self.0.get_mut(name) {
            filter.problem = Some("it was deleted, and a BGPPeer still names it".into());
            filter.deleted = true;
        }
    }

    /// Forgets those that were deleted, but for the good ones among these.
    pub(super) fn forget(&mut self, named: &BTreeSet<&str>) {
        self.0.retain(|name, filter| {
            !filter.deleted || filter.rules.is_some() && named.contains(&**name)
        });
    }

    /// What the filters of these names come to, and what is wrong with those that have changed into
    /// what cannot be.
    ///
    /// # Errors
    /// Which filter cannot be used at all, and why.
    pub(super) fn rules(&self, names: &[String]) -> Result<(Rules, Vec<Problem>), String> {
        let (mut rules, mut problems) = (Rules::default(), Vec::new());
        for name in names {
            let Some(Filter { rules: good, problem, .. }) = self.0.get(&**name) else {
                return Err(format!("there is no BGPFilter {name}"));
            };
            let object = format!("BGPFilter/{name}");
            match (good, problem) {
                (Some(good), _) => {
                    rules.import.extend_from_slice(&good.import);
                    rules.export.extend_from_slice(&good.export);
                }
                (None, reason) => {
                    return Err(format!("{object}: {}", reason.as_deref().unwrap_or_default()));
                }
            }
            problems.extend(problem.iter().map(|reason| Problem {
                object: object.clone(),
                field: "spec",
                reason: format!("{reason}; what it last was stays in force"),
            }));
        }
        Ok((rules, problems))
    }
}

impl Rules {
    /// # Errors
    /// The first rule and field that cannot be, and why.
    fn of(spec: &v3::BGPFilterSpec) -> Result<Self, String> {
        let mut rules = Self::default();
        let wrong = |list: &str, at: usize, reason| format!("spec.{list}[{at}].{reason}");
        for (list, of, into) in [
            ("importV4", &spec.import_v4, &mut rules.import),
            ("exportV4", &spec.export_v4, &mut rules.export),
        ] {
            for (at, rule) in of.iter().enumerate() {
                let rule = criteria!(rule, "0.0.0.0/0").rule();
                into.push(rule.map_err(|reason| wrong(list, at, reason))?);
            }
        }
        for (list, of, into) in [
            ("importV6", &spec.import_v6, &mut rules.import),
            ("exportV6", &spec.export_v6, &mut rules.export),
        ] {
            for (at, rule) in of.iter().enumerate() {
                let rule = criteria!(rule, "::/0").rule();
                into.push(rule.map_err(|reason| wrong(list, at, reason))?);
            }
        }
        Ok(rules)
    }
}

impl Criteria<'_> {
    /// # Errors
    /// A field and what is wrong with it.
    fn rule(&self) -> Result<Rule, String> {
        if !self.interface.is_empty() {
            return Err("interface: not supported yet".into());
        }
        if self.priority.is_some() {
            return Err("priority: not supported yet".into());
        }
        let mut rule = Rule {
            prefixes: Some(vec![self.prefix()?]),
            source: self.source.map(|FilterSource::RemotePeers| Source::RemotePeers),
            peer_type: self.peer_type.map(|peer_type| match peer_type {
                FilterPeerType::External => PeerType::External,
                FilterPeerType::Internal => PeerType::Internal,
            }),
            as_path_prefix: self.as_path_prefix.iter().map(|asn| asn.0).collect(),
            action: match self.action {
                FilterAction::Accept => Action::Accept,
                FilterAction::Reject => Action::Reject,
            },
            ..Rule::default()
        };
        for text in self.communities.iter().flat_map(|communities| &communities.values) {
            match community(text).map_err(|reason| format!("communities: {reason}"))? {
                Either::Standard(community) => rule.communities.push(community),
                Either::Large(community) => rule.large_communities.push(community),
            }
        }
        for (at, operation) in self.operations.iter().enumerate() {
            operate(&mut rule.set, operation)
                .map_err(|reason| format!("operations[{at}].{reason}"))?;
        }
        Ok(rule)
    }

    fn prefix(&self) -> Result<PrefixMatch, String> {
        let (cidr, operator) = match self.operator {
            Some(operator) if !self.cidr.is_empty() => (self.cidr, operator),
            _ => (self.family, MatchOperator::In),
        };
        let prefix: IpNet = cidr.parse().map_err(|_| format!("cidr: {cidr:?} is no network"))?;
        let (min, max) = self.lengths.unwrap_or_default();
        Ok(PrefixMatch {
            prefix,
            operator: match operator {
                MatchOperator::Equal => PrefixOperator::Equal,
                MatchOperator::NotEqual => PrefixOperator::NotEqual,
                MatchOperator::In => PrefixOperator::In,
                MatchOperator::NotIn => PrefixOperator::NotIn,
            },
            min_length: min.or_else(|| self.lengths.map(|_| prefix.prefix_len())),
            max_length: max,
        })
    }
}

/// Adds one change to those of a rule, in the order in which they are made.
fn operate(set: &mut Changes, operation: &v3::FilterOperation) -> Result<(), String> {
    if let Some(add) = &operation.add_community {
        match community(&add.value).map_err(|reason| format!("addCommunity: {reason}"))? {
            Either::Standard(community) => set.add_communities.push(community),
            Either::Large(community) => set.add_large_communities.push(community),
        }
    }
    if let Some(prepend) = &operation.prepend_as_path {
        // What is put before what was put there earlier ends up first.
        let path = prepend.prefix.iter().map(|asn| asn.0);
        set.prepend_as_path = path.chain(set.prepend_as_path.drain(..)).collect();
    }
    match operation.set_priority {
        Some(_) => Err("setPriority: not supported yet".into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(json: Value) -> v3::BGPFilterSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_criterion_and_operation_has_its_place() {
        let filter = json!({ "exportV4": [{
            "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": { "max": 24 },
            "source": "RemotePeers", "peerType": "eBGP",
            "communities": { "values": ["64512:100"] }, "asPathPrefix": [65001, 65002],
            "action": "Accept",
            "operations": [
                { "addCommunity": { "value": "64512:1:2" } },
                { "prependASPath": { "prefix": [65010] } },
                { "prependASPath": { "prefix": [65011, 65012] } },
                { "addCommunity": { "value": "64512:7" } },
            ],
        }]});
        let found = Rules::of(&spec(filter)).unwrap();
        assert!(found.import.is_empty());
        let wanted = Rule {
            prefixes: Some(vec![PrefixMatch {
                prefix: "10.0.0.0/8".parse().unwrap(),
                operator: PrefixOperator::In,
                min_length: Some(8),
                max_length: Some(24),
            }]),
            source: Some(Source::RemotePeers),
            peer_type: Some(PeerType::External),
            communities: vec!["64512:100".parse().unwrap()],
            large_communities: Vec::new(),
            as_path_prefix: vec![65001, 65002],
            action: Action::Accept,
            set: Changes {
                add_communities: vec!["64512:7".parse().unwrap()],
                add_large_communities: vec!["64512:1:2".parse().unwrap()],
                prepend_as_path: vec![65011, 65012, 65010],
                ..Changes::default()
            },
            ..Rule::default()
        };
        assert_eq!(found.export, [wanted]);
    }

    #[test]
    fn a_rule_is_for_its_own_family_and_filters_follow_each_other() {
        let all = |list: &str, action: &str| spec(json!({ list: [{ "action": action }] }));
        let mut filters = Filters::default();
        filters.set("v4".into(), &all("importV4", "Reject"));
        filters.set("v6".into(), &all("importV6", "Accept"));
        let (found, problems) = filters.rules(&["v6".into(), "v4".into()]).unwrap();
        assert_eq!(problems, []);
        let [v6, v4] = &found.import[..] else { panic!("{found:?}") };
        let matches = |rule: &Rule, net: &str| {
            rule.prefixes.as_ref().unwrap()[0].matches(&net.parse().unwrap())
        };
        assert_eq!((v6.action, v4.action), (Action::Accept, Action::Reject));
        assert!(matches(v4, "10.1.0.0/26") && !matches(v4, "fd00::/122"));
        assert!(!matches(v6, "10.1.0.0/26") && matches(v6, "fd00::/122"));
        assert_eq!(filters.rules(&[]), Ok((Rules::default(), Vec::new())));
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        for (rule, wrong) in [
            (json!({"action": "Accept", "interface": "eth*"}), "interface: not supported yet"),
            (json!({"action": "Accept", "priority": 512}), "priority: not supported yet"),
            (
                json!({"action": "Accept", "operations": [{"setPriority": {"value": 512}}]}),
                "operations[0].setPriority: not supported yet",
            ),
            (
                json!({"action": "Reject", "communities": {"values": ["x"]}}),
                "communities: \"x\" is not a community like 64512:100 or no-export",
            ),
        ] {
            let filter = spec(json!({ "importV6": [{ "action": "Reject" }, rule] }));
            assert_eq!(Rules::of(&filter), Err(format!("spec.importV6[1].{wrong}")));
        }
    }

    #[test]
    fn what_was_good_stays_in_force_as_long_as_somebody_wants_it() {
        let names = ["f".to_owned()];
        let reject = spec(json!({ "importV4": [{ "action": "Reject" }] }));
        let bad = spec(json!({ "importV4": [{ "action": "Accept", "interface": "eth0" }] }));
        let mut filters = Filters::default();
        assert_eq!(filters.rules(&names), Err("there is no BGPFilter f".into()));
        filters.set("f".into(), &bad);
        let never_good = "BGPFilter/f: spec.importV4[0].interface: not supported yet";
        assert_eq!(filters.rules(&names), Err(never_good.into()));
        filters.set("f".into(), &reject);
        let (good, problems) = filters.rules(&names).unwrap();
        assert_eq!((good.import.len(), problems.len()), (1, 0));
        filters.set("f".into(), &bad);
        let (now, problems) = filters.rules(&names).unwrap();
        assert_eq!((&now, problems.len()), (&good, 1));
        assert!(problems[0].reason.contains("interface"), "{}", problems[0].reason);
        filters.remove("f");
        filters.forget(&BTreeSet::from(["f"]));
        let (now, problems) = filters.rules(&names).unwrap();
        assert_eq!((&now, problems.len()), (&good, 1));
        assert!(problems[0].reason.contains("deleted"), "{}", problems[0].reason);
        filters.forget(&BTreeSet::new());
        assert_eq!(filters.rules(&names), Err("there is no BGPFilter f".into()));
    }
}
