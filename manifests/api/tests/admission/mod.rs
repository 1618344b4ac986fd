//! `manifests/admission` in a real API server: what is refused and by which words, who may write
//! policies of which tier, and that nothing else is in the way of anybody.

mod rights;

use std::time::{Duration, Instant};

use api::selector::Selector;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, PostParams};
use kube::core::DynamicObject as Dynamic;
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::{DEADLINE, api_of};

pub(crate) async fn check(control_plane: &ControlPlane) {
    let client = control_plane.client();
    selectors(&client).await;
    ports(&client).await;
    pools(&client).await;
    tiers(&client).await;
    rights::check(control_plane).await;
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec,
    })
}

fn dynamic(object: &Value) -> Dynamic {
    serde_json::from_value(object.clone()).unwrap()
}

async fn create(client: &Client, object: &Value) -> kube::Result<DynamicObject> {
    api_of(client, object).create(&PostParams::default(), &dynamic(object)).await
}

/// As [`create`], but nothing is kept.
async fn try_create(client: &Client, object: &Value) -> kube::Result<DynamicObject> {
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    api_of(client, object).create(&parameters, &dynamic(object)).await
}

async fn try_delete(client: &Client, object: &Value) -> kube::Result<()> {
    let parameters = DeleteParams { dry_run: true, ..DeleteParams::default() };
    let name = object["metadata"]["name"].as_str().unwrap();
    api_of(client, object).delete(name, &parameters).await.map(drop)
}

async fn delete(client: &Client, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    api_of(client, object).delete(name, &DeleteParams::default()).await.unwrap();
}

/// The words of a refusal; None if there was none.
fn refusal<T>(result: kube::Result<T>) -> Option<String> {
    match result {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(status.message),
        Err(error) => panic!("{error}"),
    }
}

/// Asks until the answer is this: `Some` part of a refusal's words, or None for none. What the server
/// knows of admission, rights and parameters is a moment old.
async fn expect<T>(what: &str, expected: Option<&str>, ask: impl AsyncFn() -> kube::Result<T>) {
    let started = Instant::now();
    loop {
        let found = refusal(ask().await);
        let right = match (&found, expected) {
            (None, None) => true,
            (Some(found), Some(expected)) => found.contains(expected),
            _ => false,
        };
        if right {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: expected {expected:?}, found {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Admission judges as the parser does, of all that is no matter of brackets inside each other.
async fn selectors(client: &Client) {
    let first = object("GlobalNetworkPolicy", "s", &json!({"selector": "a = 'b'"}));
    expect("admission", Some("invalid selector \"a = 'b'\""), async || {
        try_create(client, &first).await
    })
    .await;
    let mut judged = (0, 0);
    for text in SELECTORS {
        let right = Selector::parse(text).is_ok();
        let spec = json!({"ingress": [{"action": "Allow", "destination": {"notSelector": text}}]});
        let found = refusal(try_create(client, &object("GlobalNetworkPolicy", "s", &spec)).await);
        assert_eq!(found.is_none(), right, "{text:?}: {found:?}");
        if let Some(found) = found {
            assert!(found.contains("invalid selector"), "{text:?}: {found}");
            judged.0 += 1;
        } else {
            judged.1 += 1;
        }
    }
    assert!(judged.0 > 20 && judged.1 > 20, "{judged:?}");

    let wrong = "app = 'a'";
    let rule = |field: &str| {
        let account =
            json!({"action": "Allow", "source": {"serviceAccounts": {"selector": wrong}}});
        if field == "serviceAccounts" {
            account
        } else {
            json!({"action": "Deny", "source": {field: wrong}})
        }
    };
    for (kind, spec) in [
        ("GlobalNetworkPolicy", json!({"selector": wrong})),
        ("GlobalNetworkPolicy", json!({"namespaceSelector": wrong})),
        ("StagedGlobalNetworkPolicy", json!({"serviceAccountSelector": wrong})),
        ("NetworkPolicy", json!({"egress": [rule("selector")]})),
        ("NetworkPolicy", json!({"egress": [rule("namespaceSelector")]})),
        ("StagedNetworkPolicy", json!({"ingress": [rule("notSelector")]})),
        ("StagedNetworkPolicy", json!({"ingress": [rule("serviceAccounts")]})),
        ("IPPool", json!({"cidr": "10.77.0.0/16", "nodeSelector": wrong})),
        (
            "IPPool",
            json!({"cidr": "10.77.0.0/16", "allowedUses": ["Workload"], "namespaceSelector": wrong}),
        ),
        ("BGPPeer", json!({"nodeSelector": wrong, "peerIP": "192.0.2.1"})),
        ("BGPPeer", json!({"peerSelector": wrong})),
        ("BGPPeer", json!({"localWorkloadSelector": wrong, "asNumber": 1})),
        ("FelixConfiguration", json!({"nodeSelector": wrong})),
    ] {
        let found = refusal(try_create(client, &object(kind, "s", &spec)).await);
        let words = format!("invalid selector \"{wrong}\"");
        assert!(
            found.as_ref().is_some_and(|found| found.contains(&words)),
            "{kind} {spec}: {found:?}"
        );
    }

    // As large as a policy can be: it is the agents' to judge.
    let rule = json!({"action": "Allow", "source": {"selector": format!("a in {{{}}}", "'b', ".repeat(150))}});
    let large = object("GlobalNetworkPolicy", "large", &json!({"ingress": vec![rule; 800]}));
    assert_eq!(refusal(try_create(client, &large).await), None);
}

const SELECTORS: [&str; 54] = [
    "",
    " ",
    "all()",
    "all( )",
    "global()",
    "has(a)",
    "has( a.b/c_d-e )",
    "a == 'b'",
    "a=='b'",
    "a == \"it's\"",
    "a != ''",
    "a contains 'b'",
    "a starts with 'b'",
    "a startswith 'b'",
    "a ends with 'b'",
    "a in {'b'}",
    "a in {}",
    "a in { 'b' , \"c\", }",
    "a not in {'b','c'}",
    "a notin{'b'}",
    "!has(a)",
    "!!has(a)",
    "! (a == 'b')",
    "(a == 'b')",
    "((a == 'b') && !(has(c) || all()))",
    "a == 'b' && c == 'd' || e != 'f'",
    "\ta == 'b'\t",
    "a == '(' && (b == ')')",
    "in in {'in'}",
    "a == 'b' c == 'd'",
    "a = 'b'",
    "a == b",
    "a == 'b",
    "a == b'",
    "a == 'b' &&",
    "&& a == 'b'",
    "a == 'b' & c == 'd'",
    "a == 'b' and c == 'd'",
    "(a == 'b'",
    "a == 'b')",
    "((a == 'b')",
    "has(a b)",
    "has a",
    "has()",
    "any()",
    "a",
    "!",
    "()",
    "a in ('b')",
    "a in {,}",
    "a in {'b' 'c'}",
    "a in {'b', c}",
    "a == 'b'\n&& c == 'd'",
    "a: b",
];

async fn ports(client: &Client) {
    let rule = |more: Value| {
        let mut rule = json!({"action": "Allow", "destination": {"ports": ["80:90"]}});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object("GlobalNetworkPolicy", "p", &json!({"ingress": [rule]}))
    };
    let words = "ports given by number require protocol TCP, UDP or SCTP";
    expect("ranges", Some(words), async || try_create(client, &rule(json!({}))).await).await;
    for more in [json!({"protocol": "ICMP"}), json!({"destination": {"notPorts": ["80"]}})] {
        let found = refusal(try_create(client, &rule(more.clone())).await);
        assert!(found.as_ref().is_some_and(|found| found.contains(words)), "{more}: {found:?}");
    }
    for more in [
        json!({"protocol": "TCP"}),
        json!({"protocol": 17}),
        json!({"protocol": "132"}),
        json!({"destination": {"ports": ["http"]}}),
    ] {
        assert_eq!(refusal(try_create(client, &rule(more.clone())).await), None, "{more}");
    }
}

async fn pools(client: &Client) {
    let pool = |name: &str, cidr: &str| object("IPPool", name, &json!({"cidr": cidr}));
    for (name, cidr) in [("four", "10.60.0.0/16"), ("six", "fd00:60::/64")] {
        // With no parameter there the first is let through.
        expect(name, None, async || create(client, &pool(name, cidr)).await).await;
    }
    for (cidr, other) in [
        ("10.60.0.0/16", "10.60.0.0/16 of IPPool four"),
        ("10.60.128.0/24", "10.60.0.0/16 of IPPool four"),
        ("10.56.0.0/13", "10.60.0.0/16 of IPPool four"),
        ("fd00:60::/120", "fd00:60::/64 of IPPool six"),
    ] {
        let words = format!("spec.cidr: {cidr} overlaps {other}");
        expect(cidr, Some(&words), async || try_create(client, &pool("new", cidr)).await).await;
    }
    for cidr in ["10.61.0.0/16", "fd00:61::/64"] {
        assert_eq!(refusal(try_create(client, &pool("new", cidr)).await), None, "{cidr}");
    }
    delete(client, &pool("four", "")).await;
    expect("room", None, async || try_create(client, &pool("new", "10.60.0.0/24")).await).await;
    delete(client, &pool("six", "")).await;
}

async fn tiers(client: &Client) {
    let tier = |name: &str| object("Tier", name, &json!({}));
    for (name, order, action) in [
        ("kube-admin", 1000, "Pass"),
        ("default", 1_000_000, "Deny"),
        ("kube-baseline", 10_000_000, "Pass"),
    ] {
        let spec = json!({"order": order, "defaultAction": action});
        let api = api_of(client, &tier(name));
        if api.get_opt(name).await.unwrap().is_none() {
            create(client, &object("Tier", name, &spec)).await.unwrap();
        }
        let words = format!("tier {name} is always there and cannot be deleted");
        expect(name, Some(&words), async || try_delete(client, &tier(name)).await).await;
    }
    create(client, &tier("temporary")).await.unwrap();
    for kind in ["GlobalNetworkPolicy", "StagedGlobalNetworkPolicy"] {
        let policy = object(kind, "inside", &json!({"tier": "temporary"}));
        create(client, &policy).await.unwrap();
        let words = format!("tier temporary cannot be deleted: {kind} inside is in it");
        let attempt = async || try_delete(client, &tier("temporary")).await;
        expect(kind, Some(&words), attempt).await;
        delete(client, &policy).await;
        expect(kind, None, attempt).await;
    }
    delete(client, &tier("temporary")).await;
    let tiers: Api<DynamicObject> = api_of(client, &tier("x"));
    let all = tiers.list(&Default::default()).await.unwrap();
    assert!(all.items.iter().all(|tier| tier.metadata.name.as_deref() != Some("temporary")));
}
