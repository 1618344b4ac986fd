use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> String {
    Selector::parse(text).unwrap_or_else(|error| panic!("{error}")).to_string()
}

fn reason(text: &str) -> (String, usize) {
    match Selector::parse(text) {
        Ok(selector) => panic!("{text:?} was read as {selector}"),
        Err(error) => (error.reason().to_owned(), error.position()),
    }
}

#[test]
fn every_form_of_the_grammar_is_read() {
    for (text, expected) in [
        ("", "all()"),
        (" \t ", "all()"),
        ("all()", "all()"),
        ("all( )", "all()"),
        ("global()", "global()"),
        ("has(a)", "has(a)"),
        ("has( a )", "has(a)"),
        ("a == 'b'", "a == \"b\""),
        ("a==\"b\"", "a == \"b\""),
        ("a == 'say \"hi\"'", "a == 'say \"hi\"'"),
        ("a == \"it's\"", "a == \"it's\""),
        ("a == ''", "a == \"\""),
        ("a != 'b'", "a != \"b\""),
        ("a contains 'b'", "a contains \"b\""),
        ("a contains'b'", "a contains \"b\""),
        ("a starts with 'b'", "a starts with \"b\""),
        ("a starts  with'b'", "a starts with \"b\""),
        ("a startswith 'b'", "a starts with \"b\""),
        ("a ends with 'b'", "a ends with \"b\""),
        ("a endswith'b'", "a ends with \"b\""),
        ("a in {'b'}", "a in {\"b\"}"),
        ("a in{'c','b', 'c'}", "a in {\"b\", \"c\"}"),
        ("a in {'b',}", "a in {\"b\"}"),
        ("a in {}", "a in {}"),
        ("a not in {'b'}", "a not in {\"b\"}"),
        ("a notin{'b'}", "a not in {\"b\"}"),
        ("a not  in {}", "a not in {}"),
        ("!has(a)", "!has(a)"),
        ("!!has(a)", "has(a)"),
        ("! ! !has(a)", "!has(a)"),
        ("!(!has(a))", "has(a)"),
        ("((a == 'b'))", "a == \"b\""),
        ("has(a) && has(b) && has(c)", "(has(a) && has(b) && has(c))"),
        ("(has(a) && has(b)) && has(c)", "(has(a) && has(b) && has(c))"),
        ("has(a)||has(b)&&has(c)", "(has(a) || (has(b) && has(c)))"),
        ("(has(a)||has(b))&&has(c)", "((has(a) || has(b)) && has(c))"),
        ("!(has(a) || has(b))", "!(has(a) || has(b))"),
        ("all() && has(a)", "(all() && has(a))"),
        // Words of the grammar are labels where a label stands.
        ("in in {'in'}", "in in {\"in\"}"),
        ("contains contains 'x'", "contains contains \"x\""),
        ("all == 'x'", "all == \"x\""),
        ("has == 'x'", "has == \"x\""),
        ("not not in {'x'}", "not not in {\"x\"}"),
        ("starts starts with 'x'", "starts starts with \"x\""),
        ("kubernetes.io/os_x-1 == 'x'", "kubernetes.io/os_x-1 == \"x\""),
        ("a == 'ünïcödé ✓'", "a == \"ünïcödé ✓\""),
    ] {
        assert_eq!(canonical(text), expected, "{text:?}");
        assert_eq!(canonical(expected), expected, "canonical text reads as itself");
    }
}

#[test]
fn what_is_not_in_the_grammar_is_an_error_with_its_place() {
    for (text, part, at) in [
        ("a", "expected \"==\"", 2),
        ("a =", "expected \"==\"", 3),
        ("a = 'b'", "expected \"==\"", 3),
        ("a == b", "a string in quotes", 6),
        ("a == 'b", "closing quote", 6),
        ("a == 'b' c", "expected \"&&\"", 10),
        ("a == 'b' & b", "expected \"&&\"", 10),
        ("a == 'b' &&", "expected a label", 12),
        ("&& a == 'b'", "expected a label", 1),
        ("has(a", "expected \")\"", 6),
        ("has()", "expected a label", 5),
        ("has (a)", "expected \"==\"", 5),
        ("all", "expected \"==\"", 4),
        ("(a == 'b'", "expected \")\"", 10),
        ("a == 'b')", "expected \"&&\"", 9),
        ("a in 'b'", "expected \"{\"", 6),
        ("a in {'b' 'c'}", "expected \"}\"", 11),
        ("a in {,}", "a string in quotes", 7),
        ("a in {'b'", "expected \"}\"", 10),
        ("a not {'b'}", "expected \"==\"", 3),
        ("a starts 'b'", "expected \"==\"", 3),
        ("!", "expected a label", 2),
        ("a == 'b'\n&& has(c)", "expected \"&&\"", 9),
        ("\na == 'b'", "line breaks", 1),
        ("ä == 'b'", "found 'ä'", 1),
        ("x == 'ä' ü", "expected \"&&\"", 10),
    ] {
        let (reason, position) = reason(text);
        assert!(reason.contains(part), "{text:?}: {reason}");
        assert_eq!(position, at, "{text:?}: {reason}");
    }
}

#[test]
fn limits_hold() {
    let label = "a".repeat(MAX_LABEL);
    assert!(Selector::parse(&format!("has({label})")).is_ok());
    assert!(reason(&format!("has({label}a)")).0.contains("512"));
    let nested = |depth| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert!(Selector::parse(&nested(MAX_DEPTH)).is_ok());
    assert!(reason(&nested(MAX_DEPTH + 1)).0.contains("64 brackets"));
    assert!(Selector::parse(&nested(1_000_000)).is_err());
    assert_eq!(canonical(&format!("{}has(a)", "!".repeat(1_000_001))), "!has(a)");
}

#[test]
fn comparisons_mean_what_they_say() {
    let labels = [("app", "frontend"), ("empty", "")];
    for (text, expected) in [
        ("", true),
        ("all()", true),
        ("has(app)", true),
        ("has(none)", false),
        ("has(empty)", true),
        ("app == 'frontend'", true),
        ("app == 'front'", false),
        ("none == ''", false),
        ("empty == ''", true),
        ("app != 'x'", true),
        ("app != 'frontend'", false),
        ("none != 'x'", true),
        ("app contains 'onte'", true),
        ("app contains ''", true),
        ("none contains ''", false),
        ("app starts with 'front'", true),
        ("app starts with 'end'", false),
        ("none starts with ''", false),
        ("app ends with 'end'", true),
        ("app ends with 'front'", false),
        ("none ends with ''", false),
        ("app in {'a', 'frontend'}", true),
        ("app in {}", false),
        ("none in {''}", false),
        ("app not in {'a'}", true),
        ("app not in {'frontend'}", false),
        ("none not in {'a'}", true),
        ("app not in {}", true),
        ("!has(none)", true),
        ("!(app == 'frontend')", false),
        ("has(app) && has(none)", false),
        ("has(app) || has(none)", true),
        ("!has(app) || has(app) && has(empty)", true),
    ] {
        assert_eq!(Selector::parse(text).unwrap().matches(&labels), expected, "{text}");
    }
}

#[test]
fn equality_order_and_hash_are_those_of_the_canonical_text() {
    use std::collections::HashSet;
    let parse = |text| Selector::parse(text).unwrap();
    let same =
        ["a in {'x','y'}", "a in {\"y\", 'x', 'x',}", "((a in{'y','x'}))", "!!a in {'y','x'}"];
    let set: HashSet<Selector> = same.into_iter().map(parse).collect();
    assert_eq!(set.len(), 1);
    assert!(parse("a == 'x'") < parse("b == 'x'"));
    assert_eq!(parse("").and(&parse("has(a)")), parse("has(a)"), "all() adds nothing");
    assert_eq!(Selector::every([]), Selector::all());
    assert_eq!(parse("has(a)").negated().negated(), parse("has(a)"));
    let json = serde_json::to_string(&parse("a=='x'")).unwrap();
    assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), parse("a == 'x'"));
    assert!(serde_json::from_str::<Selector>("\"a ==\"").is_err());
}

#[test]
fn endpoints_inherit_labels_under_prefixes() {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let own =
        map(&[("app", "web"), ("pcns.tier", "own"), ("projectcalico.org/namespace", "faked")]);
    let namespace = map(&[("team", "a"), ("tier", "ns"), ("kubernetes.io/metadata.name", "shop")]);
    let account = map(&[("role", "reader")]);
    let labels = EndpointLabels {
        own: &own,
        namespace: Some("shop"),
        namespace_labels: &namespace,
        pod: true,
        service_account: Some("robot"),
        service_account_labels: &account,
    };
    for (key, expected) in [
        ("app", Some("web")),
        ("projectcalico.org/namespace", Some("shop")),
        ("projectcalico.org/orchestrator", Some("k8s")),
        ("projectcalico.org/serviceaccount", Some("robot")),
        ("pcns.team", Some("a")),
        ("pcns.tier", Some("own")),
        ("pcns.projectcalico.org/name", Some("shop")),
        ("pcns.kubernetes.io/metadata.name", Some("shop")),
        ("pcsa.role", Some("reader")),
        ("pcsa.projectcalico.org/name", Some("robot")),
        ("team", None),
        ("role", None),
    ] {
        assert_eq!(labels.get(key), expected, "{key}");
    }
    let long = "x".repeat(63);
    let labels = EndpointLabels { service_account: Some(&long), pod: false, ..labels };
    assert_eq!(labels.get("projectcalico.org/serviceaccount"), None);
    assert_eq!(labels.get("projectcalico.org/orchestrator"), None);
}

mod rewriting {
    use super::super::rewrite::*;
    use crate::v3::{EntityRule, GlobalNetworkPolicySpec, NetworkPolicySpec, ServiceAccountMatch};

    fn text(rule: EntityRule, namespace: Option<&str>) -> (Option<String>, Option<String>) {
        let selectors = entity(&rule, namespace).unwrap();
        let text = |s: Option<super::Selector>| s.map(|s| s.to_string());
        (text(selectors.selector), text(selectors.not_selector))
    }

    fn rule(selector: &str, not_selector: &str, namespace_selector: &str) -> EntityRule {
        EntityRule {
            selector: selector.into(),
            not_selector: not_selector.into(),
            namespace_selector: namespace_selector.into(),
            ..EntityRule::default()
        }
    }

    #[test]
    fn namespace_selectors_get_their_prefix() {
        for (written, expected) in [
            ("all()", "has(projectcalico.org/namespace)"),
            ("global()", "!has(projectcalico.org/namespace)"),
            ("team == 'a'", "pcns.team == \"a\""),
            ("!has(x) || y in {'z'}", "(!has(pcns.x) || pcns.y in {\"z\"})"),
            ("!all()", "!has(projectcalico.org/namespace)"),
        ] {
            assert_eq!(namespace_selector(written).unwrap().to_string(), expected);
        }
        assert_eq!(service_account_selector("all()").unwrap().to_string(), "all()");
        assert_eq!(
            service_account_selector("a contains 'b'").unwrap().to_string(),
            "pcsa.a contains \"b\""
        );
    }

    #[test]
    fn a_rule_of_a_namespaced_policy_means_its_namespace() {
        let here = "projectcalico.org/namespace == \"shop\"";
        let shop = Some("shop");
        assert_eq!(text(EntityRule::default(), shop), (None, None));
        let nets = EntityRule { nets: vec!["10.0.0.0/8".into()], ..EntityRule::default() };
        assert_eq!(text(nets, shop), (None, None), "networks are everywhere");
        assert_eq!(text(rule("has(a)", "", ""), shop), (Some(format!("({here} && has(a))")), None));
        assert_eq!(
            text(rule("", "has(a)", ""), shop),
            (Some(here.to_owned()), Some("has(a)".to_owned())),
            "notSelector limits the rule to the namespace and is itself in all of them"
        );
        assert_eq!(
            text(rule("has(a)", "", "team == 'x'"), shop),
            (Some("(pcns.team == \"x\" && has(a))".to_owned()), None)
        );
        assert_eq!(
            text(rule("has(a)", "", "global()"), shop),
            (Some("(!has(projectcalico.org/namespace) && has(a))".to_owned()), None)
        );
        let accounts = ServiceAccountMatch {
            names: vec!["b".into(), "a".into()],
            selector: "r == 'w'".into(),
        };
        let by_account = EntityRule { service_accounts: Some(accounts), ..EntityRule::default() };
        let expected = "projectcalico.org/serviceaccount in {\"a\", \"b\"} && pcsa.r == \"w\"";
        assert_eq!(text(by_account.clone(), shop), (Some(format!("({here} && {expected})")), None));
        assert_eq!(text(by_account, None), (Some(format!("({expected})")), None));
        assert_eq!(text(rule("has(a)", "", ""), None), (Some("has(a)".to_owned()), None));
        assert_eq!(text(rule("all()", "", ""), None), (Some("all()".to_owned()), None));
    }

    #[test]
    fn errors_name_the_field() {
        let error = entity(&rule("", "", "a =="), None).unwrap_err();
        assert!(error.to_string().starts_with("namespaceSelector: invalid selector"), "{error}");
        let error = entity(&rule("", "!", ""), None).unwrap_err();
        assert_eq!(error.field, "notSelector");
    }

    #[test]
    fn policies_select_endpoints() {
        let spec = NetworkPolicySpec {
            selector: "app == 'api'".into(),
            service_account_selector: "has(x)".into(),
            ..NetworkPolicySpec::default()
        };
        assert_eq!(
            network_policy(&spec, "shop").unwrap().to_string(),
            "(app == \"api\" && projectcalico.org/namespace == \"shop\" && has(pcsa.x))"
        );
        assert_eq!(
            network_policy(&NetworkPolicySpec::default(), "shop").unwrap().to_string(),
            "projectcalico.org/namespace == \"shop\""
        );
        let spec = GlobalNetworkPolicySpec {
            namespace_selector: "team == 'a'".into(),
            ..GlobalNetworkPolicySpec::default()
        };
        assert_eq!(global_network_policy(&spec).unwrap().to_string(), "pcns.team == \"a\"");
        let everything = global_network_policy(&GlobalNetworkPolicySpec::default()).unwrap();
        assert!(everything.is_all());
    }
}

/// Selectors over few keys and values, so that they match now and then.
fn expressions() -> impl Strategy<Value = Expression> {
    let key = || "[ab]|x[./_-]y".prop_map(|key| Key::from(key.as_str()));
    let value = || "[uvw]{0,2}|it's|\"q\"".prop_map(|value| Value::from(value.as_str()));
    let values = || prop::collection::vec(value(), 0..4);
    let leaf = prop_oneof![
        Just(Expression::All),
        key().prop_map(Expression::Has),
        (key(), value()).prop_map(|(k, v)| Expression::Equal(k, v)),
        (key(), value()).prop_map(|(k, v)| Expression::NotEqual(k, v)),
        (key(), value()).prop_map(|(k, v)| Expression::Contains(k, v)),
        (key(), value()).prop_map(|(k, v)| Expression::StartsWith(k, v)),
        (key(), value()).prop_map(|(k, v)| Expression::EndsWith(k, v)),
        (key(), values()).prop_map(|(k, v)| Expression::In(k, v)),
        (key(), values()).prop_map(|(k, v)| Expression::NotIn(k, v)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expression::Not(Box::new(e))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Expression::And),
            prop::collection::vec(inner, 1..4).prop_map(Expression::Or),
        ]
    })
}

/// The meaning written down a second time, on the tree as generated, without the canonical form.
fn naive(expression: &Expression, labels: &BTreeMap<String, String>) -> bool {
    let value = |key: &Key| BTreeMap::get(labels, &**key).map(String::as_str);
    match expression {
        Expression::All | Expression::Global => true,
        Expression::Has(k) => value(k).is_some(),
        Expression::Equal(k, v) => matches!(value(k), Some(x) if x == &**v),
        Expression::NotEqual(k, v) => !matches!(value(k), Some(x) if x == &**v),
        Expression::Contains(k, v) => matches!(value(k), Some(x) if x.contains(&**v)),
        Expression::StartsWith(k, v) => {
            matches!(value(k), Some(x) if x.strip_prefix(&**v).is_some())
        }
        Expression::EndsWith(k, v) => matches!(value(k), Some(x) if x.strip_suffix(&**v).is_some()),
        Expression::In(k, vs) => vs.iter().any(|v| value(k) == Some(&**v)),
        Expression::NotIn(k, vs) => vs.iter().all(|v| value(k) != Some(&**v)),
        Expression::Not(e) => !naive(e, labels),
        Expression::And(es) => !es.iter().any(|e| !naive(e, labels)),
        Expression::Or(es) => es.iter().filter(|e| naive(e, labels)).count() > 0,
    }
}

fn label_sets() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[ab]|x[./_-]y", "[uvw]{0,2}|it's|\"q\"", 0..4)
}

proptest! {
    #[test]
    fn text_reads_back_as_itself(expression in expressions()) {
        let selector = Selector::from(expression);
        let read = Selector::parse(selector.as_str()).unwrap();
        prop_assert_eq!(read.expression(), selector.expression());
        prop_assert_eq!(read, selector);
    }

    #[test]
    fn canonical_form_keeps_the_meaning(expression in expressions(), labels in label_sets()) {
        let expected = naive(&expression, &labels);
        prop_assert_eq!(Selector::from(expression).matches(&labels), expected);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(has\\(|all\\(\\)|[ab!&|(){}='\", \t\n]|in|not|==|ä){0,40}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(&Selector::parse(selector.as_str()).unwrap(), &selector);
        }
    }
}
