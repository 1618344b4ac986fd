//! Kubernetes NetworkPolicy, as its documentation has it, ClusterNetworkPolicy and Calico's policies: within a second,
//! for new and for established flows, and back again.

mod cluster;
mod counters;
pub(super) mod established;
mod rejected;
mod rules;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::kit::{ANSWER, PORT, Scope, Stream, expect_answers, expect_silence};
use super::{DIRECTORY, RACKS, Test};
use crate::lab::{Lab, View, pod_targets};

pub(super) const TESTS: &[Test] = &[
    Test { name: "policy::default_deny_and_allow_frontend", bed: &RACKS, body: documented },
    Test { name: "policy::established_flows_are_cut_and_resume", bed: &RACKS, body: established },
    Test {
        name: "policy::established_flows_are_kept_where_set",
        bed: &RACKS,
        body: established::kept,
    },
    Test {
        name: "policy::network_sets_cut_established_flows",
        bed: &RACKS,
        body: established::of_sets,
    },
    Test { name: "policy::egress_to_networks_and_namespaces", bed: &RACKS, body: egress },
    Test { name: "policy::from_a_directory", bed: &DIRECTORY, body: documented },
    Test { name: "policy::tiers_and_network_sets", bed: &RACKS, body: tiers },
    Test { name: "policy::tiers_from_a_directory", bed: &DIRECTORY, body: tiers },
    Test { name: "policy::status_says_what_the_kernel_has", bed: &RACKS, body: rules::status },
    Test { name: "policy::icmp_types_and_codes", bed: &RACKS, body: rules::icmp },
    Test { name: "policy::services", bed: &RACKS, body: rules::services },
    Test { name: "policy::log", bed: &RACKS, body: rules::log },
    Test { name: "policy::source_ports", bed: &RACKS, body: rules::source_ports },
    Test { name: "policy::counters_by_rule", bed: &RACKS, body: counters::by_rule },
    Test { name: "policy::denied_packets_are_rejected", bed: &RACKS, body: rejected::as_set },
    Test { name: "policy::services_from_a_directory", bed: &DIRECTORY, body: rules::services },
    Test { name: "policy::cluster_tiers", bed: &RACKS, body: cluster::tiers },
    Test { name: "policy::cluster_tiers_from_a_directory", bed: &DIRECTORY, body: cluster::tiers },
];

/// From the object's creation until packets are judged by it.
const IN_FORCE: Duration = Duration::from_secs(1);

/// Listens on this besides [`PORT`], so that a policy can tell ports apart.
pub(super) const OTHER_PORT: u16 = 9090;

pub(super) fn default_deny_ingress() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "default-deny-ingress" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    })
}

pub(super) fn allow_frontend() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "api-allow" },
        "spec": {
            "podSelector": { "matchLabels": { "app": "api" } },
            "ingress": [{
                "from": [{ "podSelector": { "matchLabels": { "role": "frontend" } } }],
                "ports": [{ "protocol": "TCP", "port": PORT }],
            }],
        },
    })
}

/// Every one of the targets answers, or none does, at the latest one second from now.
pub(super) async fn within_a_second(
    view: &View,
    from: &Pod,
    targets: &[String],
    open: bool,
) -> Result<()> {
    let start = Instant::now();
    let netns = view.netns_of_pod(from);
    let word = if open { "allowed" } else { "denied" };
    // What is denied takes its whole timeout to be seen as such; only the start of an attempt
    // counts. It is shorter than TCP's pause before it sends a SYN again.
    let timeout = Duration::from_millis(400);
    let mut last = String::new();
    while start.elapsed() < IN_FORCE {
        let asked = start.elapsed();
        let probes = view.connect(&netns, targets, timeout).await?;
        match probes.iter().find(|probe| probe.ok != open) {
            None => return Ok(()),
            Some(wrong) => last = format!("{wrong:?}, asked after {} ms", asked.as_millis()),
        }
    }
    bail!("{targets:?} are not all {word} within {IN_FORCE:?}: {last}")
}

/// api on one node, its clients on the same and on another.
pub(super) async fn pods(scope: &mut Scope) -> Result<[Pod; 4]> {
    let mut api = scope.pod("api", "node1", &[("app", "api")]);
    api["spec"]["containers"][0]["args"] =
        json!(["serve", format!("--port={PORT}"), format!("--port={OTHER_PORT}")]);
    let wanted = [
        api,
        scope.pod("frontend-near", "node1", &[("role", "frontend")]),
        scope.pod("frontend-far", "node2", &[("role", "frontend")]),
        scope.pod("other", "node2", &[("role", "backend")]),
    ];
    let running = scope.run(&wanted).await?;
    scope.view.wait_for_routes().await?;
    <[Pod; 4]>::try_from(running).map_err(|pods| anyhow::anyhow!("{} pods", pods.len()))
}

fn documented(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-docs").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let tcp = pod_targets(&api, "tcp", PORT);
        let rest = [
            pod_targets(&api, "udp", PORT),
            pod_targets(&api, "tcp", OTHER_PORT),
            pod_targets(&api, "udp", OTHER_PORT),
        ]
        .concat();
        let all = [tcp.clone(), rest.clone()].concat();
        for client in [&near, &far, &other] {
            expect_answers(view, client, &all).await?;
        }

        scope.apply(default_deny_ingress()).await?;
        within_a_second(view, &far, &all, false).await?;
        for client in [&near, &far, &other] {
            expect_silence(view, &view.netns_of_pod(client), &all).await?;
        }
        // The node itself always reaches its pods: liveness probes come from there.
        for probe in view.connect(&view.place.netns("node1"), &tcp, ANSWER).await? {
            ensure!(probe.ok, "node1 to its own pod: {probe:?}");
        }

        scope.apply(allow_frontend()).await?;
        within_a_second(view, &far, &tcp, true).await?;
        within_a_second(view, &near, &tcp, true).await?;
        for client in [&near, &far] {
            expect_silence(view, &view.netns_of_pod(client), &rest).await?;
        }
        expect_silence(view, &view.netns_of_pod(&other), &all).await?;

        for policy in [allow_frontend(), default_deny_ingress()] {
            let mut policy = policy;
            policy["metadata"]["namespace"] = json!(scope.name);
            ensure!(view.cluster.delete(&policy).await?, "the policy was not there");
        }
        within_a_second(view, &other, &all, true).await?;
        for client in [&near, &far, &other] {
            expect_answers(view, client, &all).await?;
        }
        scope.end().await
    }
    .boxed()
}

/// Streams over TCP and UDP, of both families, stop within a second of the policy and go on
/// within a second of its removal. The connections are the same: nothing was reset.
fn established(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-flows").await?;
        let [api, near, far, _] = pods(&mut scope).await?;
        let mut streams = Vec::new();
        for client in [&near, &far] {
            for protocol in ["udp", "tcp"] {
                for target in pod_targets(&api, protocol, PORT) {
                    let netns = view.netns_of_pod(client);
                    streams.push(Stream::start(&netns, &target, None).await?);
                }
            }
        }
        let flows = |report: &Value| report["sinceReplyMs"].as_u64().is_some_and(|ms| ms < 200);
        for stream in &mut streams {
            stream.until("answer", ANSWER, flows).await?;
        }
        scope.apply(default_deny_ingress()).await?;
        let applied = Instant::now();
        let silent = |report: &Value| report["sinceReplyMs"].as_u64().is_some_and(|ms| ms > 500);
        for stream in &mut streams {
            // Silent for half a second by then, so since half a second before.
            let within = (IN_FORCE + Duration::from_millis(600)).saturating_sub(applied.elapsed());
            stream.until("fall silent", within.max(Duration::from_millis(100)), silent).await?;
        }
        let mut policy = default_deny_ingress();
        policy["metadata"]["namespace"] = json!(scope.name);
        view.cluster.delete(&policy).await?;
        for stream in &mut streams {
            // TCP sends again after a pause that has doubled while nobody answered.
            let pause = if stream.is_tcp() { Duration::from_secs(5) } else { IN_FORCE };
            let report = stream.until("resume", pause, flows).await?;
            ensure!(report["broken"].is_null(), "{report}");
        }
        drop(streams);
        scope.end().await
    }
    .boxed()
}

/// Egress by namespaceSelector and by ipBlock with an exception.
fn egress(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut trusted = Scope::with_labels(view, "policy-trusted", &[("trust", "high")]).await?;
        let mut scope = Scope::new(view, "policy-egress").await?;
        let wanted = [trusted.pod("friend", "node2", &[])];
        let friend = trusted.run(&wanted).await?;
        let wanted = [
            scope.pod("client", "node1", &[("role", "client")]),
            scope.pod("neighbour", "node2", &[]),
        ];
        let pods = scope.run(&wanted).await?;
        let (client, neighbour) = (&pods[0], &pods[1]);
        view.wait_for_routes().await?;
        let to_friend = pod_targets(&friend[0], "tcp", PORT);
        let to_neighbour = pod_targets(neighbour, "tcp", PORT);
        expect_answers(view, client, &[to_friend.clone(), to_neighbour.clone()].concat()).await?;

        let policy = |to: Value| {
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": { "name": "client-egress" },
                "spec": {
                    "podSelector": { "matchLabels": { "role": "client" } },
                    "policyTypes": ["Egress"],
                    "egress": [{ "to": to }],
                },
            })
        };
        let high = json!([{ "namespaceSelector": { "matchLabels": { "trust": "high" } } }]);
        scope.apply(policy(high)).await?;
        within_a_second(view, client, &to_neighbour, false).await?;
        expect_answers(view, client, &to_friend).await?;

        // The whole IPv4 pool but the friend.
        let excepted =
            crate::lab::pod_addresses(&friend[0]).into_iter().find(std::net::IpAddr::is_ipv4);
        let excepted = excepted.map_or_else(Vec::new, |ip| vec![format!("{ip}/32")]);
        let block = json!({ "cidr": crate::topology::POOL_V4, "except": excepted });
        scope.apply(policy(json!([{ "ipBlock": block }]))).await?;
        let v4 = |targets: &[String]| -> Vec<String> {
            targets.iter().filter(|target| !target.contains('[')).cloned().collect()
        };
        within_a_second(view, client, &to_friend, false).await?;
        within_a_second(view, client, &v4(&to_neighbour), true).await?;
        // Ingress of the client is not spoken of, so it stays open.
        expect_answers(view, neighbour, &pod_targets(client, "tcp", PORT)).await?;
        scope.end().await?;
        trusted.end().await
    }
    .boxed()
}

/// A tier before the default one drops what is no frontend and passes the rest on; there a policy
/// lets in whom a global network set names. What the agent cannot do closes that policy.
fn tiers(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-tiers").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let tcp = pod_targets(&api, "tcp", PORT);
        let rest = [pod_targets(&api, "udp", PORT), pod_targets(&api, "tcp", OTHER_PORT)].concat();
        let all = [tcp.clone(), rest.clone()].concat();
        let here = format!("kubernetes.io/metadata.name == '{}'", scope.name);
        let v3 = |kind: &str, name: &str, spec: Value| {
            json!({ "apiVersion": "projectcalico.org/v3", "kind": kind,
                "metadata": { "name": name }, "spec": spec })
        };
        let friends = |pods: &[&Pod]| {
            let addresses = pods.iter().flat_map(|pod| crate::lab::pod_addresses(pod));
            let nets: Vec<String> = addresses.map(|address| address.to_string()).collect();
            let mut set = v3("GlobalNetworkSet", "policy-friends", json!({ "nets": nets }));
            set["metadata"]["labels"] = json!({ "circle": "friends" });
            set
        };
        let gate = v3(
            "GlobalNetworkPolicy",
            "policy-gate.frontends",
            json!({
                "tier": "policy-gate",
                "selector": "app == 'api'",
                "namespaceSelector": here,
                "ingress": [
                    { "action": "Pass", "protocol": "TCP",
                      "source": { "selector": "role == 'frontend'", "namespaceSelector": here },
                      "destination": { "ports": [PORT] } },
                    { "action": "Deny" },
                ],
                "types": ["Ingress"],
            }),
        );
        let allow = json!({ "action": "Allow",
            "source": { "selector": "circle == 'friends'", "namespaceSelector": "global()" } });
        let inner = |rules: Value| {
            let spec = json!({ "tier": "default", "selector": "app == 'api'",
                "types": ["Ingress"], "ingress": rules });
            v3("NetworkPolicy", "friends", spec)
        };
        let tier = json!({ "order": 10, "defaultAction": "Pass" });
        scope.apply_global(v3("Tier", "policy-gate", tier)).await?;
        scope.apply_global(gate).await?;
        within_a_second(view, &other, &all, false).await?;
        expect_silence(view, &view.netns_of_pod(&far), &rest).await?;
        expect_answers(view, &far, &tcp).await?;

        scope.apply_global(friends(&[&far])).await?;
        scope.apply(inner(json!([allow]))).await?;
        within_a_second(view, &near, &tcp, false).await?;
        expect_answers(view, &far, &tcp).await?;
        expect_silence(view, &view.netns_of_pod(&far), &rest).await?;
        expect_silence(view, &view.netns_of_pod(&other), &all).await?;

        scope.apply_global(friends(&[&far, &near])).await?;
        within_a_second(view, &near, &tcp, true).await?;

        let http = json!({ "action": "Allow", "http": { "methods": ["GET"] } });
        scope.apply(inner(json!([allow, http]))).await?;
        within_a_second(view, &far, &tcp, false).await?;
        // Others of the namespace are not concerned.
        expect_answers(view, &far, &pod_targets(&near, "tcp", PORT)).await?;
        scope.apply(inner(json!([allow]))).await?;
        within_a_second(view, &far, &tcp, true).await?;
        scope.end().await
    }
    .boxed()
}
