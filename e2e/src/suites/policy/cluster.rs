//! ClusterNetworkPolicy: before and after the policies of namespaces.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::CustomResourceExt as _;
use serde_json::{Value, json};

use super::super::kit::{ANSWER, PORT, Scope, expect_answers, expect_silence};
use super::{allow_frontend, pods, within_a_second};
use crate::cluster::Cluster;
use crate::lab::{Lab, View, pod_targets};
use crate::wait;

/// Has the API server serve the kind, if there is one, and waits until the agents watch it. It stays:
/// an agent does not take a kind that is gone for objects that are.
async fn install(view: &View) -> Result<()> {
    if !matches!(view.cluster, Cluster::Kubernetes(_)) {
        return Ok(());
    }
    let mut definition = serde_json::to_value(api::policy::ClusterNetworkPolicy::crd())?;
    // Groups of the community need its approval, or a word that there is none.
    definition["metadata"]["annotations"] =
        json!({ "api-approved.kubernetes.io": "unapproved, for a test" });
    view.cluster.apply(&definition).await?;
    for node in ["node1", "node2"] {
        let what = format!("{node} to watch ClusterNetworkPolicies");
        wait::until(&what, Duration::from_secs(60), || async {
            let status = view.ask_felix(node, "status").await?;
            let kind = &status["source"]["kinds"]["ClusterNetworkPolicy"];
            ensure!(kind["state"] == "watching", "it is {kind}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn policy(name: &str, tier: &str, subject: Value, way: &str, rules: Value) -> Value {
    json!({ "apiVersion": api::policy::API_VERSION, "kind": "ClusterNetworkPolicy",
        "metadata": { "name": name },
        "spec": { "tier": tier, "priority": 10, "subject": { "pods": subject }, way: rules } })
}

/// An administrator's denial is stronger than a namespace's permission and his acceptance than its
/// refusal, what he passes is the namespace's to judge, his baseline holds for pods that the namespace
/// does not speak of, and pods reach the nodes that he names.
pub(super) fn tiers(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        install(view).await?;
        let mut scope = Scope::new(view, "policy-cluster").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let (tcp, udp) = (pod_targets(&api, "tcp", PORT), pod_targets(&api, "udp", PORT));
        let here = json!({ "matchLabels": { "kubernetes.io/metadata.name": scope.name } });
        let some = |key: &str, value: &str| {
            json!({ "namespaceSelector": here, "podSelector": { "matchLabels": { key: value } } })
        };
        let from = |action: &str, of: Value| json!({ "action": action, "from": [of] });
        let all = json!({ "namespaces": {} });
        let frontends = json!({ "pods": some("role", "frontend") });
        let backends = json!({ "pods": some("role", "backend") });

        scope.apply(allow_frontend()).await?;
        within_a_second(view, &other, &tcp, false).await?;
        expect_answers(view, &far, &tcp).await?;
        let admin = |rules: Value| policy("lab-admin", "Admin", some("app", "api"), "ingress", rules);
        scope.apply_global(admin(json!([from("Deny", all.clone())]))).await?;
        within_a_second(view, &far, &tcp, false).await?;
        expect_silence(view, &view.netns_of_pod(&near), &tcp).await?;
        // Whatever it says, a node reaches its own pods.
        for probe in view.connect(&view.place.netns("node1"), &tcp, ANSWER).await? {
            ensure!(probe.ok, "node1 to its own pod: {probe:?}");
        }

        let mut accept = from("Accept", backends.clone());
        accept["protocols"] = json!([{ "tcp": { "destinationPort": { "number": PORT } } }]);
        let rules = json!([accept, from("Pass", frontends), from("Deny", all.clone())]);
        scope.apply_global(admin(rules)).await?;
        within_a_second(view, &other, &tcp, true).await?;
        within_a_second(view, &far, &tcp, true).await?;
        expect_silence(view, &view.netns_of_pod(&other), &udp).await?;
        expect_silence(view, &view.netns_of_pod(&far), &udp).await?;

        // Nobody speaks of the frontends themselves.
        let to_near = pod_targets(&near, "tcp", PORT);
        expect_answers(view, &other, &to_near).await?;
        let baseline = json!([from("Deny", backends)]);
        scope
            .apply_global(policy(
                "lab-baseline",
                "Baseline",
                some("role", "frontend"),
                "ingress",
                baseline,
            ))
            .await?;
        within_a_second(view, &other, &to_near, false).await?;
        expect_answers(view, &far, &to_near).await?;
        let of_namespace = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "name": "backends" },
            "spec": {
                "podSelector": { "matchLabels": { "role": "frontend" } },
                "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "role": "backend" } } }] }],
            },
        });
        scope.apply(of_namespace).await?;
        within_a_second(view, &other, &to_near, true).await?;
        within_a_second(view, &far, &to_near, false).await?;

        let flow = ["explain", "policy-cluster/other", "policy-cluster/api", &PORT.to_string()];
        let said = view.felix("node1", &flow, b"").await?;
        let rows = said["flows"][0]["ingress"]["judgements"][0]["considered"].as_array();
        let decided = rows.into_iter().flatten().find(|row| row["outcome"] == "allows");
        let decided = decided.with_context(|| format!("nothing decides: {said}"))?;
        ensure!(decided["policy"] == "ClusterNetworkPolicy lab-admin", "{decided}");
        ensure!(decided["rule"]["field"] == "spec.ingress[0]", "{decided}");

        nodes(view, &mut scope, &other, some("role", "backend")).await?;
        scope.end().await
    }
    .boxed()
}

/// A pod of node2 that may reach node1 and no other node, not even its own.
async fn nodes(
    view: &View,
    scope: &mut Scope,
    pod: &k8s_openapi::api::core::v1::Pod,
    subject: Value,
) -> Result<()> {
    let echo = |name: &str| -> Vec<String> {
        let nodes = view.plan.topology.nodes.iter().filter(|node| node.name == name);
        let addresses = nodes.flat_map(crate::topology::Node::addresses);
        addresses.map(|address| format!("icmp://{address}")).collect()
    };
    let (one, others) = (echo("node1"), [echo("node2"), echo("node3")].concat());
    expect_answers(view, pod, &[one.clone(), others.clone()].concat()).await?;
    let named = json!({ "matchLabels": { "kubernetes.io/hostname": "node1" } });
    let rules = |first: &str| {
        json!([
            { "action": first, "to": [{ "nodes": named }] },
            { "action": "Deny", "to": [{ "nodes": {} }] },
        ])
    };
    let of = |first: &str| policy("lab-nodes", "Admin", subject.clone(), "egress", rules(first));
    scope.apply_global(of("Accept")).await?;
    within_a_second(view, pod, &others, false).await?;
    expect_answers(view, pod, &one).await?;
    scope.apply_global(of("Deny")).await?;
    within_a_second(view, pod, &one, false).await?;
    // Names are not for rules that pass: such a one denies, and others go on.
    let names = json!([
        { "action": "Accept", "to": [{ "nodes": named }] },
        { "action": "Pass", "to": [{ "nodes": {} }, { "domainNames": ["example.org"] }] },
    ]);
    scope.apply_global(policy("lab-nodes", "Admin", subject.clone(), "egress", names)).await?;
    within_a_second(view, pod, &one, true).await?;
    expect_silence(view, &view.netns_of_pod(pod), &others).await?;
    let status = view.felix("node2", &["policy", "status"], b"").await?;
    let rows = status["rows"].as_array().into_iter().flatten();
    let mut rows = rows.filter(|row| row["policy"] == "ClusterNetworkPolicy lab-nodes");
    let row = rows.next().with_context(|| format!("the policy is not in {status}"))?;
    let problem = "spec.egress[1].to[1].domainNames: only for rules with action Accept";
    ensure!(row["tier"] == "kube-admin" && row.to_string().contains(problem), "{row}");
    Ok(())
}
