//! Policies over blocks.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::*;
use crate::config::Config;
use crate::wire::attributes::{self, flag, kind, push};
use crate::wire::{Draft, Family, Info, NextHop, path};

mod conditions;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn compiled(policy: &Policy) -> Arc<Compiled> {
    Library::default().policy(policy)
}

/// What a policy makes of a route learned from 192.0.2.1 in another AS.
fn evaluate(policy: &Compiled, prefix: &str, block: &[u8]) -> Outcome {
    let info = Info::of(block);
    let route = Route {
        block,
        info: &info,
        next_hop: NextHop::new("192.0.2.1".parse().unwrap()),
        source: Source::RemotePeers,
        peer_type: PeerType::External,
        neighbor: Some(IpAddr::from([192, 0, 2, 1])),
    };
    policy.decide(&policy.narrow(&route), || net(prefix))
}

/// The block that an accepting policy makes of this one, with 65000 as our AS number.
fn changed(policy: &Policy, prefix: &str, block: &[u8]) -> Option<Vec<u8>> {
    let policy = compiled(policy);
    let Outcome::Accept(applied) = evaluate(&policy, prefix, block) else { return None };
    let mut draft = Draft::of(block);
    policy.apply(&applied, &mut draft, Own { asn: 65000, member: false });
    Some(draft.finish())
}

fn rule(yaml: &str) -> Rule {
    serde_saphyr::from_str(yaml).unwrap()
}

fn rules(rules: &[&str]) -> Policy {
    Policy { rules: rules.iter().map(|yaml| rule(yaml)).collect(), default: Action::Reject }
}

/// ORIGIN EGP; a path of one sequence; MED 50; standard, extended and large communities.
fn block(path: &[u32]) -> Vec<u8> {
    let mut octets = Vec::new();
    path::prepend(path, &[], &mut octets);
    let mut out = Vec::new();
    push(&mut out, flag::TRANSITIVE, kind::ORIGIN, &[1]);
    push(&mut out, flag::TRANSITIVE, kind::AS_PATH, &octets);
    push(&mut out, flag::OPTIONAL, kind::MULTI_EXIT_DISC, &[0, 0, 0, 50]);
    push(&mut out, 0xc0, kind::COMMUNITIES, &[0, 1, 0, 2, 0, 1, 0, 3]);
    push(&mut out, 0xc0, kind::EXTENDED_COMMUNITIES, &[0, 2, 0xfc, 0, 0, 0, 0, 100]);
    push(&mut out, 0xc0, kind::LARGE_COMMUNITIES, &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]);
    out
}

#[test]
fn a_rule_may_be_of_one_family() {
    let policy = rules(&[
        "{families: [ipv6-unicast], action: reject}",
        "{families: [ipv4-unicast], prefixes: [{prefix: 10.0.0.0/8, operator: in}], action: accept}",
        "{families: [ipv4-unicast, ipv6-unicast], action: continue, set: {med: 7}}",
        "{prefixes: [{prefix: 192.0.2.0/24}], action: accept}",
    ]);
    let policy = Library::default().policy(&policy);
    let block = block(&[65001]);
    let accepted = |prefix: &str| evaluate(&policy, prefix, &block) != Outcome::Reject;
    assert!(accepted("10.1.0.0/16"));
    assert!(!accepted("fd00::/64"));
    assert!(!accepted("172.16.0.0/12"));
    let Outcome::Accept(applied) = evaluate(&policy, "192.0.2.0/24", &block) else { panic!() };
    assert!(!applied.is_empty(), "what goes on has made its change");
}

#[test]
fn the_first_matching_rule_decides() {
    let policy = compiled(&rules(&[
        "{prefixes: [{prefix: 10.1.0.0/16}], action: reject}",
        "{prefixes: [{prefix: 10.0.0.0/8, operator: in}], action: accept, set: {local-pref: 50}}",
    ]));
    assert_eq!(evaluate(&policy, "10.1.0.0/16", &[]), Outcome::Reject);
    assert_eq!(evaluate(&policy, "192.0.2.0/24", &[]), Outcome::Reject);
    let Outcome::Accept(applied) = evaluate(&policy, "10.2.0.0/16", &[]) else { panic!() };
    assert!(!applied.is_empty());
    let all = compiled(&Policy::accept());
    assert_eq!(evaluate(&all, "::/0", &[]), Outcome::Accept(Applied::default()));
}

#[test]
fn attribute_conditions_must_all_hold() {
    let block = block(&[65001, 7, 65002]);
    for (condition, holds) in [
        ("", true),
        ("communities: ['1:2'], as-path-prefix: [65001]", true),
        ("as-path-prefix: [65001, 7], source: remote-peers", true),
        ("communities: ['1:4']", false),
        ("communities: ['1:2', '1:4']", false),
        ("large-communities: ['1:2:3']", true),
        ("large-communities: ['1:2:4']", false),
        ("as-path-prefix: [7]", false),
        ("as-path-prefix: [65001, 7, 65002, 1]", false),
        ("source: local", false),
        ("peer-type: external", true),
        ("peer-type: internal", false),
        ("neighbors: [192.0.2.7, 192.0.2.1]", true),
        ("neighbors: [192.0.2.7]", false),
        ("next-hops: [{prefix: 192.0.2.0/24, operator: in}]", true),
        ("next-hops: [{prefix: 192.0.3.0/24, operator: in}]", false),
        ("community-match: {any: ['9:9', 'rt:64512:*']}", true),
        ("community-match: {any: ['9:9']}", false),
        ("community-match: {all: ['1:*', '1:2:*', 'rt:*:100']}", true),
        ("community-match: {all: ['1:*', '9:*']}", false),
        ("community-match: {none: ['9:*']}", true),
        ("community-match: {none: ['9:*', '*:3']}", false),
        ("as-path: {contains: [8, 7]}", true),
        ("as-path: {contains: [8]}", false),
        ("as-path: {originated-by: [65002]}", true),
        ("as-path: {originated-by: [65001]}", false),
        ("as-path: {length: {min: 3, max: 3}}", true),
        ("as-path: {length: {max: 2}}", false),
        ("as-path: {matches: ['^7_', '^65001_.*_65002$']}", true),
        ("as-path: {matches: ['^7_']}", false),
        ("med: {min: 50}", true),
        ("med: {max: 49}", false),
        ("local-pref: {min: 100, max: 100}", true),
        ("local-pref: {min: 101}", false),
        ("origins: [igp, egp]", true),
        ("origins: [igp, incomplete]", false),
    ] {
        let comma = if condition.is_empty() { "" } else { "," };
        let policy = rules(&[&format!("{{{condition}{comma} action: accept}}")]);
        policy.validate(Way::Import).unwrap();
        let accepted = evaluate(&compiled(&policy), "10.0.0.0/8", &block) != Outcome::Reject;
        assert_eq!(accepted, holds, "{condition}");
        // As it is written out again.
        let again = serde_json::to_value(&policy).unwrap();
        assert_eq!(serde_json::from_value::<Policy>(again).unwrap(), policy);
    }
}

#[test]
fn a_rule_that_goes_on_adds_its_changes_to_those_of_later_ones() {
    let policy = rules(&[
        "{action: continue, set: {add-communities: ['65000:1'], prepend-as-path: [65000]}}",
        "{prefixes: [{prefix: 10.1.0.0/16}], action: continue, set: {local-pref: 50}}",
        // Looks at the route as it came.
        "{communities: ['65000:1'], action: reject}",
        "{prefixes: [{prefix: 10.2.0.0/16}], action: reject, set: {med: 9}}",
        "{prefixes: [{prefix: 10.0.0.0/8, operator: in}], action: accept, set: {med: 7}}",
    ]);
    let block = block(&[65001]);
    let at = |prefix: &str| changed(&policy, prefix, &block);
    let both = Info::of(&at("10.1.0.0/16").unwrap());
    assert_eq!((both.local_pref, both.med, both.path_len), (Some(50), Some(7), 2));
    let one = at("10.3.0.0/16").unwrap();
    let info = Info::of(&one);
    assert_eq!((info.local_pref, info.med, info.path_len), (None, Some(7), 2));
    assert_eq!(attributes::communities(&one).count(), 3);
    assert_eq!(at("10.2.0.0/16"), None, "rejected in the end");
    assert_eq!(at("192.0.2.0/24"), None, "going on is no decision: the default is");
    // The same rules applied are the same outcome, others are another.
    let policy = compiled(&policy);
    let outcome = |prefix: &str| evaluate(&policy, prefix, &block);
    assert_eq!(outcome("10.3.0.0/16"), outcome("10.4.0.0/16"));
    assert_ne!(outcome("10.3.0.0/16"), outcome("10.1.0.0/16"));
}

#[test]
fn changes_are_made_to_what_they_say() {
    let before = block(&[64512, 7, 4_200_000_000]);
    for (set, wanted) in [
        ("local-pref: 7", "64512 7 4200000000|1:2 1:3|rt:64512:100|1:2:3|50|7|1"),
        ("med: 7", "64512 7 4200000000|1:2 1:3|rt:64512:100|1:2:3|7||1"),
        ("med: {add: 7}", "64512 7 4200000000|1:2 1:3|rt:64512:100|1:2:3|57||1"),
        ("med: {add: 4294967295}", "64512 7 4200000000|1:2 1:3|rt:64512:100|1:2:3|4294967295||1"),
        ("med: {subtract: 60}", "64512 7 4200000000|1:2 1:3|rt:64512:100|1:2:3|0||1"),
        ("med: remove", "64512 7 4200000000|1:2 1:3|rt:64512:100|1:2:3|||1"),
        ("origin: incomplete", "64512 7 4200000000|1:2 1:3|rt:64512:100|1:2:3|50||2"),
        ("communities: ['9:9']", "64512 7 4200000000|9:9|rt:64512:100|1:2:3|50||1"),
        ("communities: []", "64512 7 4200000000||rt:64512:100|1:2:3|50||1"),
        ("delete-communities: ['*:3', 'rt:*:*', '1:2:*']", "64512 7 4200000000|1:2|||50||1"),
        (
            "delete-communities: ['1:*'], add-communities: ['1:3', '1:4']",
            "64512 7 4200000000|1:3 1:4|rt:64512:100|1:2:3|50||1",
        ),
        (
            "extended-communities: ['soo:1:1'], add-extended-communities: ['rt:1:1', 'soo:1:1']",
            "64512 7 4200000000|1:2 1:3|soo:1:1 rt:1:1|1:2:3|50||1",
        ),
        (
            "large-communities: ['7:7:7'], add-large-communities: ['1:2:3']",
            "64512 7 4200000000|1:2 1:3|rt:64512:100|7:7:7 1:2:3|50||1",
        ),
        (
            "prepend-as-path: [1, 2], prepend-own: 2, prepend-last: 1",
            "1 2 65000 65000 64512 64512 7 4200000000|1:2 1:3|rt:64512:100|1:2:3|50||1",
        ),
        ("private-as: remove", "7|1:2 1:3|rt:64512:100|1:2:3|50||1"),
        ("private-as: replace", "65000 7 65000|1:2 1:3|rt:64512:100|1:2:3|50||1"),
        ("private-as: remove, prepend-last: 1", "7 7|1:2 1:3|rt:64512:100|1:2:3|50||1"),
    ] {
        let policy = rules(&[&format!("{{action: accept, set: {{{set}}}}}")]);
        policy.validate(Way::Export).unwrap();
        let after = changed(&policy, "10.0.0.0/8", &before).unwrap();
        fn text<T: ToString>(all: impl Iterator<Item = T>) -> String {
            all.map(|one| one.to_string()).collect::<Vec<_>>().join(" ")
        }
        let info = Info::of(&after);
        let found = [
            path::display(attributes::as_path(&after)),
            text(attributes::communities(&after)),
            text(attributes::extended_communities(&after)),
            text(attributes::large_communities(&after)),
            text(info.med.into_iter()),
            text(info.local_pref.into_iter()),
            info.origin.to_string(),
        ];
        assert_eq!(found.join("|"), wanted, "{set}");
        assert!(attributes::iter(&after).map(|a| a.kind).is_sorted(), "{set}");
        let again = serde_json::to_value(&policy).unwrap();
        assert_eq!(serde_json::from_value::<Policy>(again).unwrap(), policy);
    }
}

#[test]
fn the_last_rule_that_says_something_of_the_next_hop_counts() {
    let policy = compiled(&rules(&[
        "{action: continue, set: {next-hop: 192.0.2.9}}",
        "{prefixes: [{prefix: 10.1.0.0/16}], action: continue, set: {next-hop: unchanged}}",
        "{action: accept, set: {med: 1}}",
    ]));
    let hop = |prefix: &str| match evaluate(&policy, prefix, &[]) {
        Outcome::Accept(applied) => policy.next_hop(&applied),
        Outcome::Reject => panic!("rejected"),
    };
    let address = NextHopChange::Address("192.0.2.9".parse().unwrap());
    assert_eq!(hop("10.0.0.0/16"), Some(address));
    assert_eq!(hop("10.1.0.0/16"), Some(NextHopChange::Unchanged));
    assert!(address.address(Family::Ipv4Unicast).is_some());
    assert!(address.address(Family::Ipv6Unicast).is_none());
}

#[test]
fn named_sets_are_compiled_once_and_followed() {
    let mut config = Config::new([1, 1, 1, 1].into(), 65000);
    config.prefix_sets.insert("site".into(), vec![PrefixMatch::inside(net("10.1.0.0/16"))]);
    config.prefix_sets.insert("hops".into(), vec![PrefixMatch::inside(net("192.0.2.0/24"))]);
    config.community_sets.insert("drop".into(), vec!["1:*".parse().unwrap()]);
    config.as_path_sets.insert("ours".into(), vec!["^65001_".parse().unwrap()]);
    let policy = rules(&[
        "{prefix-sets: [site], prefixes: [{prefix: 10.9.0.0/16}], next-hop-sets: [hops], \
          community-sets: [drop], as-path-sets: [ours], action: accept, \
          set: {delete-community-sets: [drop]}}",
    ]);
    policy.check_sets(&config).unwrap();
    let old = Config::new([1, 1, 1, 1].into(), 65000);
    let mut library = Library::default();
    library.update(&old, &config);
    let first = library.policy(&policy);
    assert!(Arc::ptr_eq(&first, &library.policy(&policy.clone())));
    let route = block(&[65001]);
    for (prefix, path, accepted) in [
        ("10.1.2.0/24", &route, true),
        ("10.9.0.0/16", &route, true),
        ("10.2.0.0/16", &route, false),
        ("10.1.2.0/24", &block(&[65002]), false),
    ] {
        let outcome = evaluate(&first, prefix, path);
        assert_eq!(outcome != Outcome::Reject, accepted, "{prefix}");
    }
    let Outcome::Accept(applied) = evaluate(&first, "10.9.0.0/16", &route) else { panic!() };
    let mut draft = Draft::of(&route);
    first.apply(&applied, &mut draft, Own { asn: 65000, member: false });
    assert_eq!(attributes::communities(&draft.finish()).count(), 0);

    // The same sets again are no change, another one is.
    library.update(&config, &config.clone());
    assert!(Arc::ptr_eq(&first, &library.policy(&policy)));
    let mut next = config.clone();
    next.prefix_sets.get_mut("site").unwrap()[0] = PrefixMatch::inside(net("10.2.0.0/16"));
    library.update(&config, &next);
    let second = library.policy(&policy);
    assert_ne!(first, second);
    assert_ne!(evaluate(&second, "10.2.2.0/24", &route), Outcome::Reject);
    assert_eq!(evaluate(&second, "10.1.2.0/24", &route), Outcome::Reject);
    drop((first, second));
    library.tidy();
    next.prefix_sets.remove("site");
    assert_eq!(
        policy.check_sets(&next).unwrap_err(),
        "rules[0].prefix-sets: there is no prefix set \"site\""
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_its_field() {
    for (yaml, way, wanted) in [
        (
            "{prefixes: [{prefix: 10.0.0.0/8, max-length: 33}], action: accept}",
            Way::Import,
            "rules[0].prefixes: max-length of 10.0.0.0/8 exceeds 32",
        ),
        (
            "{next-hops: [{prefix: 10.0.0.0/8, min-length: 33}], action: accept}",
            Way::Import,
            "rules[0].next-hops: min-length of 10.0.0.0/8 exceeds 32",
        ),
        (
            "{med: {min: 2, max: 1}, action: accept}",
            Way::Import,
            "rules[0].med: min 2 exceeds max 1",
        ),
        (
            "{action: accept, set: {prepend-as-path: [0]}}",
            Way::Import,
            "rules[0].set.prepend-as-path: AS 0 is reserved",
        ),
        (
            "{action: accept, set: {prepend-own: 11}}",
            Way::Import,
            "rules[0].set.prepend-own: more than 10 AS numbers",
        ),
        (
            "{action: accept, set: {next-hop: self}}",
            Way::Import,
            "rules[0].set.next-hop: self is for export policies",
        ),
        (
            "{action: accept, set: {next-hop: 224.0.0.1}}",
            Way::Export,
            "rules[0].set.next-hop: 224.0.0.1 is not a unicast address",
        ),
    ] {
        assert_eq!(rules(&[yaml]).validate(way).unwrap_err(), wanted);
    }
    rules(&["{action: accept, set: {next-hop: self}}"]).validate(Way::Export).unwrap();
    let policy = Policy { rules: Vec::new(), default: Action::Continue };
    assert_eq!(policy.validate(Way::Import).unwrap_err(), "default: must be accept or reject");
    for (yaml, wanted) in [
        ("{action: accept, set: {med: x}}", "med is a number, {add: n}"),
        ("{action: accept, set: {next-hop: x}}", "neither self, unchanged nor an address"),
        ("{action: accept, as-path: {matches: ['(']}}", "( is not closed"),
        ("{action: accept, community-match: {any: ['x']}}", "not a pattern for communities"),
    ] {
        let error = serde_saphyr::from_str::<Rule>(yaml).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_member_of_a_confederation_is_not_seen_outside() {
    let policy =
        compiled(&rules(&["{action: accept, set: {prepend-own: 2, prepend-as-path: [1]}}"]));
    let block = block(&[7]);
    let Outcome::Accept(applied) = evaluate(&policy, "10.0.0.0/8", &block) else { panic!() };
    let mut draft = Draft::of(&block);
    policy.apply(&applied, &mut draft, Own { asn: 65000, member: true });
    let changed = draft.finish();
    let path = attributes::as_path(&changed);
    assert_eq!(path::display(path), "(65000 65000) 1 7");
    assert_eq!(path::display(&path::outside(path)), "1 7");
}
