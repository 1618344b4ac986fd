//! Conditions against the slow, obvious way to check them.

use proptest::prelude::*;

use super::*;
use crate::policy::prefixes::PrefixSet;

#[test]
fn prefix_operators_compare_by_containment_and_length() {
    let matches = |operator, base: &str, min, max, prefix: &str| {
        let condition =
            PrefixMatch { prefix: net(base), operator, min_length: min, max_length: max };
        let found = condition.matches(&net(prefix));
        assert_eq!(PrefixSet::new(&[condition]).contains(&net(prefix)), found);
        found
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

/// Prefixes close enough to each other that they are often the same, or inside each other.
fn near() -> impl Strategy<Value = IpNet> {
    let v4 = (0..4_u32, 0..=32_u8).prop_map(|(addr, len)| {
        ipnet::Ipv4Net::new((10 << 24 | addr << 22 | addr).into(), len).unwrap().trunc().into()
    });
    let v6 = (0..4_u128, 0..=128_u8).prop_map(|(addr, len)| {
        ipnet::Ipv6Net::new((0xfd << 120 | addr << 60 | addr).into(), len).unwrap().trunc().into()
    });
    prop_oneof![v4, v6]
}

fn condition() -> impl Strategy<Value = PrefixMatch> {
    use PrefixOperator::{Equal, In, NotEqual, NotIn};
    let operator =
        prop_oneof![4 => Just(In), 4 => Just(Equal), 1 => Just(NotIn), 1 => Just(NotEqual)];
    let length = || prop_oneof![Just(None), (0..=32_u8).prop_map(Some)];
    (near(), operator, length(), length()).prop_map(|(prefix, operator, min_length, max_length)| {
        PrefixMatch { prefix, operator, min_length, max_length }
    })
}

/// A pattern of what patterns are made of, which need not be one.
fn pattern() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("_".to_owned()),
        Just("^".to_owned()),
        Just("$".to_owned()),
        Just(".".to_owned()),
        Just("[0-9]".to_owned()),
        Just("[^1]".to_owned()),
        Just("\\{".to_owned()),
        Just(" ".to_owned()),
        "[1-3]{1,2}".prop_map(|digits: String| digits),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|all| all.concat()),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}|{b})")),
            (inner, "[*+?]").prop_map(|(what, often)| format!("({what}){often}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_prefix_set_holds_what_one_of_its_conditions_holds(
        conditions in proptest::collection::vec(condition(), 0..12),
        prefixes in proptest::collection::vec(near(), 40),
    ) {
        let set = PrefixSet::new(&conditions);
        for prefix in prefixes {
            let wanted = conditions.iter().any(|condition| condition.matches(&prefix));
            prop_assert_eq!(set.contains(&prefix), wanted, "{} in {:?}", prefix, conditions);
        }
    }

    #[test]
    fn patterns_match_what_a_regular_expression_would(
        pattern in pattern(),
        paths in proptest::collection::vec("([1-3]{1,2}|\\{[1-3],[1-3]\\})?( [1-3]{1,2}){0,3}", 20),
    ) {
        let ours: AsPathPattern = pattern.parse().unwrap();
        let theirs = pattern.replace('_', "(?:^|[ ,{}()\\[\\]]|$)").replace("[^1]", "[^1a-z]");
        let theirs = regex::Regex::new(&theirs).unwrap();
        for path in paths {
            let path = path.trim_start();
            prop_assert_eq!(ours.matches(path), theirs.is_match(path), "{:?} on {:?}", pattern, path);
        }
    }
}

#[test]
fn patterns_of_the_usual_form() {
    for (pattern, yes, no) in [
        ("^65001_.*_65010$", "65001 7 65010", "65001 7 65010 8"),
        ("^65001_.*_65010$", "65001 650 8 65010", "65001"),
        ("_65001_", "65001", "650011"),
        ("_65001_", "7 {8,65001} 9", "7 165001 9"),
        ("^$", "", "1"),
        ("^[0-9]+$", "65001", "65001 7"),
        ("^65001( 65001)*$", "65001 65001 65001", "65001 65002"),
        ("_6451[2-9]_", "1 64512 2", "1 64511 2"),
        ("^(1|2|33)_", "33 4", "3 4"),
        (".*", "", "\u{0}"),
        ("^1?$", "", "2"),
        ("[^0-8 ]", "7 9", "8 8"),
        ("\\{7", "{7,8}", "7"),
        ("\\(65001", "(65001) 7", "65001 7"),
    ] {
        let parsed: AsPathPattern = pattern.parse().unwrap();
        assert_eq!(parsed.to_string(), pattern);
        assert!(parsed.matches(yes), "{pattern} on {yes:?}");
        if no != "\u{0}" {
            assert!(!parsed.matches(no), "{pattern} on {no:?}");
        }
    }
    for (pattern, reason) in [
        ("(1", "( is not closed"),
        ("1)", ") closes nothing"),
        ("[1", "[ is not closed"),
        ("[3-1]", "3- begins no range of digits"),
        ("*1", "* has nothing before it to repeat"),
        ("^*", "* has nothing before it to repeat"),
        ("65x", "'x' is in no path"),
        ("1{2}", "repetition by numbers is not known"),
        ("1\\", "is followed by nothing"),
    ] {
        let error = pattern.parse::<AsPathPattern>().unwrap_err();
        assert!(error.contains(reason), "{pattern}: {error}");
    }
    assert!("1".repeat(257).parse::<AsPathPattern>().unwrap_err().contains("256 characters"));
    assert!("(".repeat(33).parse::<AsPathPattern>().unwrap_err().contains("32 parentheses"));
    // Backtracking would take longer than anybody waits.
    let slow: AsPathPattern = format!("{}{}$", "(1?)".repeat(60), "1".repeat(15)).parse().unwrap();
    assert!(slow.matches(&"1".repeat(60)) && !slow.matches(&format!("{}2", "1".repeat(60))));
}

#[test]
fn community_patterns() {
    let block = block(&[]);
    for (pattern, carried) in [
        ("1:2", true),
        ("1:4", false),
        ("1:*", true),
        ("*:3", true),
        ("2:*", false),
        ("no-export", false),
        ("1:2:3", true),
        ("1:*:3", true),
        ("1:*:4", false),
        ("*:*:*", true),
        ("rt:64512:100", true),
        ("rt:64512:*", true),
        ("rt:*:100", true),
        ("rt:192.0.2.1:*", false),
        ("soo:*:*", false),
        ("0x0002fc0000000064", true),
    ] {
        let parsed: CommunityPattern = pattern.parse().unwrap();
        assert_eq!(parsed.is_carried(&block), carried, "{pattern}");
        assert_eq!(parsed.to_string().parse(), Ok(parsed), "{pattern}");
    }
    for wrong in ["1", "1:2:3:4", "a:*", "65536:*", "rt:*", "rt:65536:65536", "*", ""] {
        let error = wrong.parse::<CommunityPattern>().unwrap_err();
        assert!(error.contains("is not a pattern for communities"), "{error}");
    }
}
