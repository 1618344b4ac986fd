//! `felix explain`: what it says is what packets meet, before and after a policy, and of one that is
//! not applied yet.

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::kit::{ANSWER, PORT, SILENCE, Scope, name};
use super::policy::{OTHER_PORT, allow_frontend, default_deny_ingress, pods, within_a_second};
use super::{DIRECTORY, RACKS, Test};
use crate::lab::{Lab, View, pod_targets};

pub(super) const TESTS: &[Test] = &[
    Test { name: "explain::agrees_with_packets", bed: &RACKS, body: agrees },
    Test { name: "explain::agrees_with_packets_from_a_directory", bed: &DIRECTORY, body: agrees },
];

fn node(pod: &Pod) -> Result<&str> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).context("a pod without a node")
}

/// What the agents of both sides say of a packet: for each address family in order of the addresses,
/// whether it is allowed now, and whether it would be.
async fn said(
    view: &View,
    (from, to): (&Pod, &Pod),
    traffic: [&str; 2],
    with: &[Value],
) -> Result<Vec<(String, bool, Option<bool>)>> {
    let full = |pod: &Pod| {
        format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), name(pod))
    };
    let (source, destination) = (full(from), full(to));
    let mut words = vec!["explain", &source, &destination, traffic[0], traffic[1]];
    if !with.is_empty() {
        words.extend(["--with", "-"]);
    }
    let documents: Vec<String> = with.iter().map(Value::to_string).collect();
    let input = documents.join("\n---\n");
    let mut both: Vec<(String, bool, Option<bool>)> = Vec::new();
    for (side, agent) in [("egress", node(from)?), ("ingress", node(to)?)] {
        let answer = view.felix(agent, &words, input.as_bytes()).await?;
        ensure!(answer["notInForce"].is_null(), "{answer}");
        let flows = answer["flows"].as_array().context("no flows")?;
        for (number, flow) in flows.iter().enumerate() {
            let address = flow["destination"]["address"].as_str().context("no address")?;
            let judged = flow[side]["judgements"].as_array().context("not judged here")?;
            ensure!(flow[side]["place"] == "here" && judged.len() == 1, "{side}: {flow}");
            for element in judged[0]["elements"].as_array().context("no elements")? {
                ensure!(element["agrees"] == true, "the kernel has something else: {element}");
            }
            let decided = judged[0]["considered"].as_array().context("nothing considered")?;
            let decided = decided
                .iter()
                .filter(|row| [json!("allows"), json!("denies")].contains(&row["outcome"]));
            ensure!(decided.count() == 1, "not decided once: {flow}");
            ensure!(flow["route"].as_str().is_some_and(|route| !route.is_empty()), "{flow}");
            let allowed = judged[0]["verdict"] == "allow";
            let then = &flow["then"][side]["judgements"][0]["verdict"];
            let then = (!then.is_null()).then(|| then == "allow");
            match both.get_mut(number) {
                None => both.push((address.to_owned(), allowed, then)),
                Some((known, before, later)) => {
                    ensure!(known == address, "other flows on another node: {flow}");
                    *before &= allowed;
                    *later = later.zip(then).map(|(a, b)| a && b);
                }
            }
        }
    }
    ensure!(!both.is_empty(), "no flow at all");
    Ok(both)
}

/// Asks of every client and port, and sends.
async fn compare(view: &View, clients: &[&Pod], api: &Pod) -> Result<Vec<bool>> {
    let mut seen = Vec::new();
    for client in clients {
        for (protocol, port) in [("tcp", PORT), ("udp", PORT), ("tcp", OTHER_PORT)] {
            let number = port.to_string();
            let told = said(view, (client, api), [protocol, &number], &[]).await?;
            let targets = pod_targets(api, protocol, port);
            let timeout =
                if told.iter().any(|(_, allowed, _)| *allowed) { ANSWER } else { SILENCE };
            let probes = view.connect(&view.netns_of_pod(client), &targets, timeout).await?;
            ensure!(probes.len() == told.len(), "{told:?} {probes:?}");
            for (address, allowed, _) in &told {
                let probe = probes.iter().find(|probe| {
                    probe.target.contains(&format!("://{address}:"))
                        || probe.target.contains(&format!("://[{address}]:"))
                });
                let probe = probe.with_context(|| format!("no probe of {address}"))?;
                ensure!(probe.ok == *allowed, "{}: said {allowed}, {probe:?}", name(client));
                seen.push(*allowed);
            }
        }
    }
    Ok(seen)
}

fn agrees(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "explain").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let clients = [&near, &far, &other];
        let seen = compare(view, &clients, &api).await?;
        ensure!(seen.iter().all(|allowed| *allowed), "without policies: {seen:?}");

        let policies = [default_deny_ingress(), allow_frontend()].map(|mut policy| {
            policy["metadata"]["namespace"] = json!(scope.name);
            policy
        });
        let number = PORT.to_string();
        for (client, expected) in [(&near, true), (&far, true), (&other, false)] {
            let told = said(view, (client, &api), ["tcp", &number], &policies).await?;
            for (address, now, then) in told {
                let wanted = (true, Some(expected));
                ensure!((now, then) == wanted, "{} to {address}: {now} {then:?}", name(client));
            }
        }
        // It was only asked.
        compare(view, &clients, &api).await?;

        for policy in &policies {
            scope.apply(policy.clone()).await?;
        }
        let tcp = pod_targets(&api, "tcp", PORT);
        within_a_second(view, &other, &tcp, false).await?;
        within_a_second(view, &far, &tcp, true).await?;
        let seen = compare(view, &clients, &api).await?;
        ensure!(seen.contains(&true) && seen.contains(&false), "with policies: {seen:?}");

        // The rule is named as it stands in the object.
        let words = [
            "explain",
            &format!("{}/{}", scope.name, name(&far)),
            &format!("{}/{}", scope.name, name(&api)),
            &number,
        ];
        let answer = view.felix(node(&api)?, &words, b"").await?;
        let rows = answer["flows"][0]["ingress"]["judgements"][0]["considered"].clone();
        let rows = rows.as_array().context("nothing considered")?;
        let decided = rows.iter().find(|row| row["outcome"] == "allows").context("not allowed")?;
        let policy = format!("KubernetesNetworkPolicy {}/api-allow", scope.name);
        ensure!(decided["policy"] == policy.as_str(), "{decided}");
        ensure!(decided["rule"]["field"] == "spec.ingress[0]", "{decided}");
        let labels = &decided["rule"]["text"]["from"][0]["podSelector"]["matchLabels"];
        ensure!(*labels == json!({ "role": "frontend" }), "{decided}");
        // The source's side is judged by the agent of its node, and only by that.
        let egress = &answer["flows"][0]["egress"];
        ensure!(egress["place"] == json!({ "node": node(&far)? }), "{egress}");
        scope.end().await
    }
    .boxed()
}
