use super::*;
use crate::wire::attributes::{flag, kind, push};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn subject<'a>(prefix: &str, block: &'a [u8]) -> Subject<'a> {
    Subject {
        prefix: net(prefix),
        block,
        source: Source::RemotePeers,
        peer_type: PeerType::External,
    }
}

#[test]
fn prefix_operators_compare_by_containment_and_length() {
    let matches = |operator, base: &str, min, max, prefix: &str| {
        PrefixMatch { prefix: net(base), operator, min_length: min, max_length: max }
            .matches(&net(prefix))
    };
    use PrefixOperator::{Equal, In, NotEqual, NotIn};
    assert!(matches(Equal, "10.0.0.0/8", None, None, "10.0.0.0/8"));
    assert!(!matches(Equal, "10.0.0.0/8", None, None, "10.1.0.0/16"));
    assert!(matches(In, "10.0.0.0/8", None, None, "10.1.0.0/16"));
    assert!(matches(In, "10.0.0.0/8", Some(24), Some(32), "10.1.2.3/32"));
    assert!(!matches(In, "10.0.0.0/8", Some(24), None, "10.1.0.0/16"));
    assert!(!matches(In, "10.1.0.0/16", None, None, "10.0.0.0/8"));
    assert!(matches(NotIn, "10.0.0.0/8", None, None, "11.0.0.0/8"));
    assert!(matches(NotEqual, "10.0.0.0/8", None, None, "10.0.0.0/9"));
    // The other family never matches, not even the negations.
    assert!(!matches(NotIn, "10.0.0.0/8", None, None, "fd00::/8"));
    assert!(!matches(NotEqual, "fd00::/8", None, None, "10.0.0.0/8"));
    // A base with host bits means its network.
    assert!(matches(In, "10.9.9.9/8", None, None, "10.1.0.0/16"));
}

#[test]
fn first_matching_rule_decides() {
    let policy = Policy {
        rules: vec![
            Rule {
                prefixes: Some(vec![PrefixMatch::equal(net("10.1.0.0/16"))]),
                action: Action::Reject,
                ..Rule::default()
            },
            Rule {
                prefixes: Some(vec![PrefixMatch::inside(net("10.0.0.0/8"))]),
                set: Changes { local_pref: Some(50), ..Changes::default() },
                ..Rule::default()
            },
        ],
        default: Action::Reject,
    };
    assert_eq!(policy.evaluate(&subject("10.1.0.0/16", &[])), Outcome::Reject);
    assert_eq!(policy.evaluate(&subject("10.2.0.0/16", &[])), Outcome::Accept(Some(1)));
    assert_eq!(policy.evaluate(&subject("192.0.2.0/24", &[])), Outcome::Reject);
    assert_eq!(Policy::accept().evaluate(&subject("::/0", &[])), Outcome::Accept(None));
}

#[test]
fn attribute_conditions_must_all_hold() {
    let mut block = Vec::new();
    push(&mut block, flag::TRANSITIVE, kind::AS_PATH, &[2, 2, 0, 0, 0xfd, 0xe9, 0, 0, 0xfd, 0xea]);
    push(&mut block, flag::OPTIONAL | flag::TRANSITIVE, kind::COMMUNITIES, &[0, 1, 0, 2]);
    let rule = |communities: &[&str], as_path_prefix: &[u32], source| Policy {
        rules: vec![Rule {
            communities: communities.iter().map(|c| c.parse().unwrap()).collect(),
            as_path_prefix: as_path_prefix.to_vec(),
            source,
            ..Rule::default()
        }],
        default: Action::Reject,
    };
    let accepts = |p: Policy| p.evaluate(&subject("10.0.0.0/8", &block)) != Outcome::Reject;
    assert!(accepts(rule(&["1:2"], &[65001], None)));
    assert!(accepts(rule(&[], &[65001, 65002], Some(Source::RemotePeers))));
    assert!(!accepts(rule(&["1:3"], &[], None)));
    assert!(!accepts(rule(&["1:2", "1:3"], &[], None)));
    assert!(!accepts(rule(&[], &[65002], None)));
    assert!(!accepts(rule(&[], &[65001, 65002, 65003], None)));
    assert!(!accepts(rule(&[], &[], Some(Source::Local))));
}

#[test]
fn lengths_beyond_the_family_are_refused() {
    let mut m = PrefixMatch::inside(net("10.0.0.0/8"));
    m.max_length = Some(33);
    let error = Policy::accept_only(vec![m]).validate().unwrap_err();
    assert!(error.contains("max-length of 10.0.0.0/8 exceeds 32"), "{error}");
}
