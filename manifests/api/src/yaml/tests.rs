use super::*;

fn errors(text: &str) -> Vec<String> {
    read("f.yaml", text).errors.iter().map(ToString::to_string).collect()
}

fn names(text: &str) -> Vec<(&'static str, String, u64)> {
    let contents = read("f.yaml", text);
    assert_eq!(contents.errors, [], "{text}");
    let documents = contents.documents.iter();
    documents
        .map(|d| (d.object.kind().0, d.object.metadata().name.clone().unwrap(), d.line))
        .collect()
}

const POOL: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: pods
spec:
  cidr: 10.0.0.0/16
";

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny-ingress}
spec:
  podSelector: {}
  policyTypes: [Ingress]
";

#[test]
fn documents_are_found_between_every_kind_of_marker() {
    let text =
        format!("# a comment\n---\n{POOL}--- # another\n{POLICY}...\n---\n\n---\n# nothing\n");
    assert_eq!(
        names(&text),
        [
            ("IPPool", "pods".to_owned(), 3),
            ("NetworkPolicy", "default-deny-ingress".to_owned(), 10)
        ]
    );
}

#[test]
fn json_and_lists_and_windows_line_ends_are_read() {
    let json = r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}"#;
    assert_eq!(names(json), [("Namespace", "a".to_owned(), 1)]);
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: a}\n\
                - {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n";
    assert_eq!(names(list), [("Namespace", "a".to_owned(), 4), ("Namespace", "b".to_owned(), 7)]);
    assert_eq!(names(&POOL.replace('\n', "\r\n")), [("IPPool", "pods".to_owned(), 1)]);
    assert_eq!(names(&format!("\u{feff}{POOL}")), [("IPPool", "pods".to_owned(), 1)]);
}

#[test]
fn an_error_names_file_line_object_and_field_and_spoils_only_its_document() {
    let bad = POOL.replace("cidr: 10.0.0.0/16", "cidr: 10.0.0.0/33").replace("pods", "bad");
    let text = format!("{bad}---\n{POLICY}---\n{}", POOL.replace("  cidr", "  cdir"));
    let contents = read("pools.yaml", &text);
    assert_eq!(contents.documents.len(), 1);
    let errors: Vec<String> = contents.errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "pools.yaml:6:3: IPPool bad: spec.cidr: cidr must be a network in CIDR notation without \
             host bits",
            "pools.yaml:19:1: IPPool pods: spec.cidr: must be given",
            "pools.yaml:20:3: IPPool pods: spec.cdir: unknown field; did you mean cidr?",
        ]
    );
}

#[test]
fn syntax_errors_name_their_place_and_hide_nothing_after_them() {
    let text = format!("kind: [\n---\n{POOL}---\na: b: c\n---\n{POLICY}");
    let contents = read("f.yaml", &text);
    assert_eq!(contents.documents.len(), 2);
    assert_eq!(contents.errors.len(), 2);
    assert!(contents.errors[0].line <= 2, "{:?}", contents.errors[0]);
    assert_eq!(contents.errors[1].line, 10, "{:?}", contents.errors[1]);
    assert!(!contents.errors[1].reason.is_empty());
}

#[test]
fn a_mistake_deep_inside_is_located() {
    let text = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
  labels:
    app.kubernetes.io/part-of: 7
spec:
  ingress:
  - action: Allow
    protocol: TCP
    source:
      selector: app == 'a
  - action: Alow
";
    assert_eq!(
        errors(text),
        [
            "f.yaml:14:5: NetworkPolicy shop/web: spec.ingress[1].action: \"Alow\" is not one of Allow, \
             Deny, Log, Pass",
            "f.yaml:7:5: NetworkPolicy shop/web: metadata.labels.app.kubernetes.io/part-of: must be a \
             string, not 7; quote it",
        ]
    );
    let text = text.replace("Alow", "Allow").replace("part-of: 7", "part-of: '7'");
    assert_eq!(
        errors(&text),
        ["f.yaml:13:7: NetworkPolicy shop/web: spec.ingress[0].source.selector: invalid selector \
             \"app == 'a\": a string without its closing quote at character 8"]
    );
}

#[test]
fn kinds_of_kubernetes_are_checked_too() {
    assert_eq!(
        errors(&POLICY.replace("podSelector: {}", "podSelector: {matchLabel: {a: b}}")),
        [
            "f.yaml:5:17: NetworkPolicy default/default-deny-ingress: spec.podSelector.matchLabel: unknown \
             field; did you mean matchLabels?"
        ]
    );
    assert_eq!(
        errors("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n"),
        ["f.yaml:2:1: Deployment a: kind: Deployment of apps/v1 is not a kind that is read here"]
    );
    assert_eq!(errors("just text\n"), ["f.yaml:1:1: is not an object with apiVersion and kind"]);
    assert_eq!(errors("a: b\n"), ["f.yaml:1:1: apiVersion: must be given, as a string"]);
}

#[test]
fn a_whole_pod_is_read() {
    let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: api
  creationTimestamp: null
  labels: {app: api}
spec:
  nodeName: node1
  containers:
  - name: c
    image: i
    ports: [{name: http, containerPort: 80}]
    resources: {limits: {cpu: 100m, memory: 1Gi}, requests: {cpu: 1}}
    livenessProbe: {httpGet: {path: /, port: http}}
status:
  phase: Running
  podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]
";
    let contents = read("f.yaml", text);
    assert_eq!(contents.errors, []);
    let Object::Pod(pod) = &contents.documents[0].object else { panic!("not a pod") };
    assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
    assert_eq!(pod.status.as_ref().unwrap().pod_ips.as_ref().unwrap()[1].ip, "fd00::1");
}

#[test]
fn a_secret_never_reaches_an_error() {
    let secret =
        |data: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{data}\n");
    let contents = read("f.yaml", &secret("stringData: {password: hunter2}"));
    let Object::Secret(read_secret) = &contents.documents[0].object else { panic!("not a secret") };
    assert_eq!(read_secret.data.as_ref().unwrap()["password"].0, b"hunter2");
    for bad in [
        "stringData: {password: 7777777}",
        "data: {password: 7777777}",
        "data: {password: '7777777!'}",
        "data: {password: [7777777]}",
        "data: {password: \"7777777}",
        "data: 7777777",
        "data: {password: a: 7777777}",
        "data: {password: *7777777}",
        "data: {password: !!bool 7777777}",
        "data: {password: !!int 7777777x}",
        "metadata: {name: 7777777}",
    ] {
        let errors = errors(&secret(bad));
        assert_eq!(errors.len(), 1, "{bad}: {errors:?}");
        assert!(!errors[0].contains("7777777"), "{errors:?}");
    }
}

#[test]
fn limits_hold() {
    assert_eq!(read("f.yaml", &" ".repeat(MAX_FILE + 1)).errors.len(), 1);
    let deep = format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(read("f.yaml", &deep).errors.len(), 1);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g]\n";
    assert_eq!(read("f.yaml", bomb).errors.len(), 1);
}

#[test]
fn fields_of_newer_clusters_spoil_no_pod() {
    let text = "\
apiVersion: v1
kind: Pod
metadata: {name: api, somethingNew: 1}
spec:
  fastStart: {enabled: true}
  containers:
  - name: c
    ports: [{name: http, containerPort: 80, hint: x}]
---
apiVersion: v1
kind: Node
metadata: {name: n1, namespace: default}
spec: {podCIDR: 10.0.0.0/24, colour: red}
";
    let contents = read("f.yaml", text);
    assert_eq!(contents.errors, []);
    assert_eq!(contents.documents[1].object.metadata().namespace, None);
    let Object::Pod(pod) = &contents.documents[0].object else { panic!("not a pod") };
    let ports = pod.spec.as_ref().unwrap().containers[0].ports.as_ref().unwrap();
    assert_eq!(ports[0].name.as_deref(), Some("http"));
    assert_eq!(
        errors(&text.replace("containerPort: 80", "containerPort: eighty")),
        ["f.yaml:8:26: Pod default/api: spec.containers[0].ports[0].containerPort: must be an \
             integer, not \"eighty\""],
        "what an API server refuses is refused"
    );
}

/// The one policy that stands in for a wrong one, as JSON.
fn closed(text: &str) -> Value {
    let contents = read("f.yaml", text);
    assert!(!contents.errors.is_empty() && contents.documents.is_empty(), "{contents:?}");
    assert_eq!(contents.closed.len(), 1, "{contents:?}");
    match &contents.closed[0].object {
        Object::KubernetesNetworkPolicy(policy) => serde_json::to_value(policy).unwrap(),
        Object::NetworkPolicy(policy) => serde_json::to_value(policy).unwrap(),
        Object::GlobalNetworkPolicy(policy) => serde_json::to_value(policy).unwrap(),
        Object::ClusterNetworkPolicy(policy) => serde_json::to_value(policy).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_policy_of_kubernetes_is_replaced_by_one_that_allows_nothing() {
    let policy = |spec: &str| {
        closed(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
        ))
    };
    let web = "podSelector: {matchLabels: {app: web}}";
    let form = policy(&format!("{{{web}, ingress: [{{form: [{{podSelector: {{}}}}]}}]}}"));
    assert_eq!(form["metadata"], serde_json::json!({"name": "p", "namespace": "shop"}));
    let json = serde_json::json!({
        "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
    });
    assert_eq!(form["spec"], json, "it is for whom it was meant");
    let egress = policy(&format!("{{{web}, egress: [{{too: []}}]}}"));
    assert_eq!(egress["spec"]["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    let typed = policy(&format!("{{{web}, policyTypes: [Egress], egress: [{{too: []}}]}}"));
    assert_eq!(typed["spec"]["policyTypes"], serde_json::json!(["Egress"]));
    for unclear in [
        "{podSelektor: {matchLabels: {app: web}}}",
        "{podSelector: {matchLabel: {app: web}}}",
        "{podSelector: {}, polycyTypes: [Egress]}",
        "7",
    ] {
        let all = policy(unclear);
        let types = serde_json::json!({"policyTypes": ["Ingress", "Egress"]});
        assert_eq!(all["spec"], types, "{unclear}: whoever it was meant for");
    }
}

#[test]
fn a_wrong_policy_of_ours_is_replaced_by_one_that_allows_nothing() {
    let policy = |kind: &str, spec: &str| {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: p}}\nspec: {spec}\n"
        );
        closed(&text)["spec"].clone()
    };
    assert_eq!(
        policy("NetworkPolicy", "{tier: t, selector: a == 'b', egress: [{action: Alow}]}"),
        serde_json::json!({
            "tier": "t", "selector": "a == 'b'", "types": ["Egress"], "egress": [{"action": "Deny"}],
        })
    );
    assert_eq!(
        policy("GlobalNetworkPolicy", "{tier: t, selector: a ==, ingress: [{action: Allow}]}"),
        serde_json::json!({
            "tier": "t", "types": ["Ingress", "Egress"],
            "ingress": [{"action": "Deny"}], "egress": [{"action": "Deny"}],
        })
    );
    let pool = read("f.yaml", &POOL.replace("cidr", "cdir"));
    assert_eq!((pool.errors.len(), pool.closed.len()), (2, 0), "only policies close");
}

const CLUSTER_POLICY: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p, namespace: dropped}
spec:
  tier: Baseline
  priority: 1000
  subject: {pods: {podSelector: {matchLabels: {app: web}}}}
  ingress:
  - {name: near, action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {destinationNamedPort: web}]}
  egress:
  - action: Pass
    to: [{nodes: {}}, {networks: [10.0.0.0/8, 'fd00::/8']}, {domainNames: ['*.example.org']}]
    protocols: [{udp: {destinationPort: {range: {start: 1, end: 9}}}}]
";

#[test]
fn a_cluster_network_policy_is_read_strictly() {
    let contents = read("f.yaml", CLUSTER_POLICY);
    assert_eq!(contents.errors, []);
    let Object::ClusterNetworkPolicy(policy) = &contents.documents[0].object else { panic!() };
    assert_eq!(policy.metadata.namespace, None);
    assert_eq!(policy.spec.egress[0].to.len(), 3);
    for (from, to, wrong) in [
        ("Baseline", "Base", "spec.tier: \"Base\" is not one of Admin, Baseline"),
        ("priority: 1000", "priority: 1001", "spec.priority: 1001 is not from 0 to 1000"),
        ("from:", "form:", "spec.ingress[0].form: unknown field; did you mean from?"),
        ("Accept", "Log", "spec.ingress[0].action: \"Log\" is not one of Accept, Deny, Pass"),
        ("number: 80", "number: 0", "destinationPort.number: 0 is not from 1 to 65535"),
        ("'*.example.org'", "'*'", "spec.egress[0].to[2].domainNames[0]"),
        (
            "{udp: {destinationPort: {range: {start: 1, end: 9}}}}",
            "{destinationNamedPort: dns}",
            "spec.egress[0].to[1].networks: has no named ports, which a destinationNamedPort of the rule asks for",
        ),
        (
            "{nodes: {}}",
            "{}",
            "spec.egress[0].to[0]: none of namespaces, pods, nodes, networks and domainNames is given",
        ),
        (
            "10.0.0.0/8",
            "10.0.0.0",
            "spec.egress[0].to[1].networks[0]: \"10.0.0.0\" is not an address with a prefix length",
        ),
        (
            "end: 9",
            "end: 1",
            "spec.egress[0].protocols[0].udp.destinationPort.range: 1 is not less than 1",
        ),
        (
            "{number: 80}",
            "{number: 80, range: {start: 1, end: 2}}",
            "spec.ingress[0].protocols[0].tcp.destinationPort: more than one of number and range is given",
        ),
        (
            "{pods: {podSelector: {matchLabels: {app: web}}}}",
            "{}",
            "spec.subject: none of namespaces and pods is given",
        ),
    ] {
        let errors = errors(&CLUSTER_POLICY.replace(from, to));
        let found = errors.iter().any(|e| e.contains(wrong));
        assert!(found && errors[0].contains(" ClusterNetworkPolicy p: "), "{wrong}: {errors:?}");
    }
}

#[test]
fn a_wrong_cluster_network_policy_is_replaced_by_one_that_denies() {
    let deny = |peers: &str| serde_json::json!([{ "action": "Deny", peers: [{}] }]);
    let form = closed(&CLUSTER_POLICY.replace("from:", "form:"));
    assert_eq!(form["metadata"], serde_json::json!({"name": "p"}));
    assert_eq!(
        (&form["spec"]["tier"], &form["spec"]["priority"]),
        (&"Baseline".into(), &1000.into())
    );
    let web = serde_json::json!({"pods": {
        "namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}},
    }});
    assert_eq!(form["spec"]["subject"], web, "it is for whom it was meant");
    assert_eq!(form["spec"]["ingress"], deny("from"));
    assert_eq!(form["spec"]["egress"], deny("to"));
    let one_way =
        CLUSTER_POLICY.replace("from:", "form:").split("  egress").next().unwrap().to_owned();
    assert_eq!(closed(&one_way)["spec"].get("egress"), None);
    for (from, to, tier) in [
        ("subject:", "subjekt:", "Baseline"),
        ("podSelector", "podSelektor", "Baseline"),
        ("tier: Baseline", "tier: Base", "Admin"),
        ("priority: 1000", "priority: ten", "Baseline"),
    ] {
        let all = closed(&CLUSTER_POLICY.replace(from, to));
        let wanted = serde_json::json!({
            "tier": tier, "priority": 0, "subject": {"namespaces": {}},
            "ingress": deny("from"), "egress": deny("to"),
        });
        assert_eq!(all["spec"], wanted, "{to}: whoever it was meant for");
    }
}

#[test]
fn every_example_can_be_put_in_a_folder() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../install/examples");
    let mut read_any = false;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let contents = read("example.yaml", &std::fs::read_to_string(&path).unwrap());
        assert_eq!(contents.errors, [], "{}", path.display());
        read_any |= !contents.documents.is_empty();
    }
    assert!(read_any);
}
