//! What Calico's rules can match and do beyond those of Kubernetes.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::process::Command;

use super::super::kit::{ANSWER, PORT, Scope, expect_answers, expect_silence, name};
use super::{OTHER_PORT, pods, within_a_second};
use crate::lab::{Lab, View, pod_addresses, pod_targets};
use crate::{process, wait};

/// Where packets go that policies log (`nfnetlink_log`).
const LOG_GROUP: u16 = 3234;

/// Nobody listens on this.
const CLOSED_PORT: u16 = 9191;

/// A NetworkPolicy of Calico in tier default, of one direction.
fn policy(name: &str, selector: &str, way: &str, rules: Value) -> Value {
    let types = if way == "ingress" { "Ingress" } else { "Egress" };
    json!({ "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": { "name": name },
        "spec": { "tier": "default", "selector": selector, "types": [types], way: rules } })
}

/// Echo requests are told from other ICMP, of both families and in both directions; an error that
/// belongs to a flow passes, whatever is said of ICMP.
pub(super) fn icmp(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-icmp").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let echo: Vec<String> =
            pod_addresses(&api).iter().map(|address| format!("icmp://{address}")).collect();
        let closed = pod_targets(&api, "udp", CLOSED_PORT);
        let tcp = pod_targets(&api, "tcp", PORT);
        for client in [&near, &far, &other] {
            expect_answers(view, client, &[echo.clone(), tcp.clone()].concat()).await?;
        }

        let frontends = json!({ "selector": "role == 'frontend'" });
        let echo_only = json!([
            { "action": "Allow", "protocol": "ICMP", "icmp": { "type": 8, "code": 0 },
              "source": frontends },
            { "action": "Allow", "protocol": "ICMPv6", "icmp": { "type": 128 },
              "source": frontends },
            { "action": "Allow", "protocol": "UDP" },
        ]);
        scope.apply(policy("echo", "app == 'api'", "ingress", echo_only)).await?;
        within_a_second(view, &far, &tcp, false).await?;
        for client in [&near, &far] {
            expect_answers(view, client, &echo).await?;
        }
        expect_silence(view, &view.netns_of_pod(&other), &echo).await?;

        let all_but_echo = json!([
            { "action": "Allow", "protocol": "ICMP", "notICMP": { "type": 8 } },
            { "action": "Allow", "protocol": "ICMPv6", "notICMP": { "type": 128, "code": 0 } },
            { "action": "Allow", "protocol": "UDP" },
        ]);
        scope.apply(policy("echo", "app == 'api'", "ingress", all_but_echo)).await?;
        within_a_second(view, &far, &echo, false).await?;
        let all_but_another = json!([
            { "action": "Allow", "protocol": "ICMP", "notICMP": { "type": 8, "code": 1 } },
            { "action": "Allow", "protocol": "ICMPv6", "notICMP": { "type": 129 } },
            { "action": "Allow", "protocol": "UDP" },
        ]);
        scope.apply(policy("echo", "app == 'api'", "ingress", all_but_another)).await?;
        within_a_second(view, &far, &echo, true).await?;

        // Nothing may come to near, nor any ICMP leave api; but a closed port says so.
        let nothing = json!([{ "action": "Deny" }]);
        scope.apply(policy("nothing", "role == 'frontend'", "ingress", nothing)).await?;
        let no_icmp = json!([
            { "action": "Deny", "protocol": "ICMP", "icmp": { "type": 3 } },
            { "action": "Deny", "protocol": "ICMPv6", "icmp": { "type": 1 } },
        ]);
        scope.apply(policy("no-errors", "app == 'api'", "egress", no_icmp)).await?;
        let to_near = pod_targets(&near, "tcp", PORT);
        within_a_second(view, &other, &to_near, false).await?;
        for probe in view.connect(&view.netns_of_pod(&near), &closed, ANSWER).await? {
            ensure!(probe.error.as_deref() == Some("refused"), "near to a closed port: {probe:?}");
        }

        // Egress: a policy for nobody, then one for the frontends.
        let no_echo = json!([
            { "action": "Deny", "protocol": "ICMP", "icmp": { "type": 8 },
              "destination": { "selector": "app == 'api'" } },
            { "action": "Deny", "protocol": "ICMPv6", "icmp": { "type": 128, "code": 0 },
              "destination": { "selector": "app == 'api'" } },
            { "action": "Allow" },
        ]);
        scope.apply(policy("no-echo", "app == 'far'", "egress", no_echo.clone())).await?;
        expect_answers(view, &far, &echo).await?;
        scope.apply(policy("no-echo", "role == 'frontend'", "egress", no_echo)).await?;
        within_a_second(view, &far, &echo, false).await?;
        expect_silence(view, &view.netns_of_pod(&near), &echo).await?;
        expect_answers(view, &other, &echo).await?;
        scope.end().await
    }
    .boxed()
}

/// `felix policy status` has a policy as the kernel has it, after each change, and says what is wrong.
pub(super) fn status(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-status").await?;
        pods(&mut scope).await?;
        let row = async |pod: &str| -> Result<Value> {
            let pod = format!("policy-status/{pod}");
            let answer = view.felix("node1", &["policy", "status", &pod], b"").await?;
            ensure!(answer["error"].is_null(), "the kernel: {}", answer["error"]);
            let rows = answer["rows"].as_array().cloned().unwrap_or_default();
            let ours = |row: &Value| row["policy"] == "NetworkPolicy policy-status/changing";
            Ok(rows.into_iter().find(ours).unwrap_or_default())
        };
        let expect = async |what: &str, holds: &(dyn Fn(&Value) -> bool + Sync)| -> Result<()> {
            wait::until(what, Duration::from_secs(10), || async {
                let row = row("api").await?;
                ensure!(holds(&row), "it is {row}");
                Ok(())
            })
            .await
        };
        ensure!(row("api").await?.is_null(), "a policy before there is one");
        let http = json!({ "methods": ["GET"] });
        let steps = [
            (1, json!([{ "action": "Allow", "protocol": "TCP" }]), 0),
            (2, json!([{ "action": "Allow", "protocol": "UDP" }]), 0),
            (3, json!([{ "action": "Allow", "protocol": "TCP", "http": http }]), 1),
        ];
        for (generation, rules, problems) in steps {
            scope.apply(policy("changing", "app == 'api'", "ingress", rules)).await?;
            expect(&format!("generation {generation} in the kernel"), &|row| {
                let held = &row["inKernel"];
                held["generation"] == generation
                    && held["current"] == true
                    && row["generation"] == generation
                    && row["endpoints"] == 1
                    && (row["ingress"] == true && row["egress"] == false)
                    && row["problems"].as_array().map_or(0, Vec::len) == problems
            })
            .await?;
        }
        ensure!(row("frontend-near").await?.is_null(), "it does not select that pod");
        let elsewhere =
            view.felix("node1", &["policy", "status", "policy-status/other"], b"").await;
        let error = elsewhere.err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(error.contains("policy-status/other has no endpoint on node node1"), "{error}");
        scope.end().await
    }
    .boxed()
}

/// The slices of a service that these pods are behind, one for each family.
fn slices(service: &str, pods: &[&Pod], ports: &Value) -> [Value; 2] {
    ["IPv4", "IPv6"].map(|family| {
        let addresses = pods.iter().flat_map(|pod| pod_addresses(pod));
        let addresses = addresses.filter(|address| address.is_ipv4() == (family == "IPv4"));
        let endpoints: Vec<Value> =
            addresses.map(|address| json!({ "addresses": [address] })).collect();
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": format!("{service}-{}", family.to_lowercase()),
                "labels": { "kubernetes.io/service-name": service } },
            "addressType": family, "endpoints": endpoints, "ports": ports })
    })
}

/// A service is its endpoints' addresses and ports as a destination, and their addresses as a source.
pub(super) fn services(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-services").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let tcp = pod_targets(&api, "tcp", PORT);
        let udp = pod_targets(&api, "udp", PORT);
        let rest = [udp.clone(), pod_targets(&api, "tcp", OTHER_PORT)].concat();
        let to_other = pod_targets(&other, "tcp", PORT);
        for client in [&near, &far, &other] {
            expect_answers(view, client, &[tcp.clone(), rest.clone()].concat()).await?;
        }

        // As a destination. The policy is there first, then the endpoints.
        let to_service = json!([
            { "action": "Allow", "destination": { "services": { "name": "api" } } },
        ]);
        scope.apply(policy("out", "role == 'frontend'", "egress", to_service)).await?;
        within_a_second(view, &far, &tcp, false).await?;
        let ports = json!([{ "name": "web", "port": PORT, "protocol": "TCP" }]);
        for slice in slices("api", &[&api], &ports) {
            scope.apply(slice).await?;
        }
        for client in [&near, &far] {
            within_a_second(view, client, &tcp, true).await?;
            expect_silence(view, &view.netns_of_pod(client), &rest).await?;
            expect_silence(view, &view.netns_of_pod(client), &to_other).await?;
        }
        let of = |pod: &Pod| format!("{}/{}", scope.name, name(pod));
        let (from, to, port) = (of(&near), of(&api), PORT.to_string());
        let answer = view.felix("node1", &["explain", &from, &to, &port], b"").await?;
        let judgement = &answer["flows"][0]["egress"]["judgements"][0];
        ensure!(judgement["verdict"] == "allow", "{answer}");
        let said = judgement["memberships"].as_array().context("nothing is true of api")?;
        let wanted = format!("TCP port {PORT} of service {}/api", scope.name);
        ensure!(said.contains(&json!(wanted)), "{said:?}");

        // Other ports, then other endpoints; flows that were let through end with them.
        let ports = json!([{ "name": "dns", "port": PORT, "protocol": "UDP" }]);
        for slice in slices("api", &[&api], &ports) {
            scope.apply(slice).await?;
        }
        within_a_second(view, &far, &udp, true).await?;
        within_a_second(view, &far, &tcp, false).await?;
        for slice in slices("api", &[], &ports) {
            scope.apply(slice).await?;
        }
        within_a_second(view, &far, &udp, false).await?;
        scope
            .apply(policy("out", "role == 'frontend'", "egress", json!([{ "action": "Allow" }])))
            .await?;
        within_a_second(view, &far, &udp, true).await?;

        // As a source: whatever the ports are.
        let from_service = json!([
            { "action": "Allow", "protocol": "TCP",
              "source": { "services": { "name": "clients", "namespace": scope.name } },
              "destination": { "ports": [PORT] } },
        ]);
        scope.apply(policy("in", "app == 'api'", "ingress", from_service)).await?;
        within_a_second(view, &far, &tcp, false).await?;
        let none = json!([]);
        for slice in slices("clients", &[&far], &none) {
            scope.apply(slice).await?;
        }
        within_a_second(view, &far, &tcp, true).await?;
        expect_silence(view, &view.netns_of_pod(&far), &rest).await?;
        for client in [&near, &other] {
            expect_silence(view, &view.netns_of_pod(client), &tcp).await?;
        }
        for slice in slices("clients", &[&near, &other], &none) {
            scope.apply(slice).await?;
        }
        within_a_second(view, &far, &tcp, false).await?;
        for client in [&near, &other] {
            within_a_second(view, client, &tcp, true).await?;
        }
        scope.end().await
    }
    .boxed()
}

/// Packets are told apart by the port that they come from, new ones and those of flows.
pub(super) fn source_ports(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-source").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let from = |protocol: &str, port: u16| -> Vec<String> {
            let targets = pod_targets(&api, protocol, PORT).into_iter();
            targets.map(|target| format!("{target}#{port}")).collect()
        };
        let (right, wrong) = (from("udp", 5353), from("udp", 5354));
        let (right_tcp, wrong_tcp) = (from("tcp", 1023), from("tcp", 1024));
        let all = [&right[..], &wrong, &right_tcp, &wrong_tcp].concat();
        for client in [&near, &far] {
            expect_answers(view, client, &all).await?;
        }

        let rules = json!([
            { "action": "Allow", "protocol": "UDP", "source": { "ports": [5353] } },
            { "action": "Allow", "protocol": "TCP", "source": { "notPorts": ["1024:65535"] },
              "destination": { "ports": [PORT] } },
        ]);
        scope.apply(policy("in", "app == 'api'", "ingress", rules)).await?;
        within_a_second(view, &far, &[&wrong[..], &wrong_tcp].concat(), false).await?;
        for client in [&near, &far, &other] {
            expect_silence(view, &view.netns_of_pod(client), &wrong).await?;
            expect_silence(view, &view.netns_of_pod(client), &wrong_tcp).await?;
            expect_answers(view, client, &[&right[..], &right_tcp].concat()).await?;
        }

        // An explanation has to be told the port.
        let of = |pod: &Pod| format!("{}/{}", scope.name, name(pod));
        let (source, to, port) = (of(&near), of(&api), PORT.to_string());
        let ask = ["explain", &source, &to, "udp", &port];
        let refused = view.felix("node1", &ask, b"").await;
        let refused = refused.err().context("it was answered without a source port")?;
        ensure!(format!("{refused:#}").contains("--source-port"), "{refused:#}");
        for (number, verdict) in [("5353", "allow"), ("5354", "deny")] {
            let words = [&ask[..], &["--source-port", number]].concat();
            let answer = view.felix("node1", &words, b"").await?;
            let judgement = &answer["flows"][0]["ingress"]["judgements"][0];
            ensure!(judgement["verdict"] == verdict, "{number}: {answer}");
            for element in judgement["elements"].as_array().context("no elements")? {
                ensure!(element["agrees"] == true, "the kernel has something else: {element}");
            }
        }

        // What was let through is cut, what was cut goes on.
        let turned = json!([
            { "action": "Deny", "protocol": "UDP", "source": { "ports": [5353] } },
            { "action": "Allow" },
        ]);
        scope.apply(policy("in", "app == 'api'", "ingress", turned)).await?;
        within_a_second(view, &far, &right, false).await?;
        within_a_second(view, &far, &[&wrong[..], &wrong_tcp].concat(), true).await?;

        // Of what leaves, too.
        let out = json!([
            { "action": "Deny", "protocol": "UDP", "source": { "ports": ["5000:5354"] } },
            { "action": "Allow" },
        ]);
        scope.apply(policy("out", "role == 'frontend'", "egress", out)).await?;
        within_a_second(view, &far, &wrong, false).await?;
        expect_answers(view, &other, &wrong).await?;
        expect_answers(view, &far, &from("udp", 5355)).await?;
        scope.end().await
    }
    .boxed()
}

/// A packet of a client that is logged on api's node.
async fn logged(view: &View, client: &Pod, target: &str, allowed: bool) -> Result<()> {
    let mut capture = Command::new("tcpdump");
    capture.args(["-n", "-i", &format!("nflog:{LOG_GROUP}"), "-c", "1", "--immediate-mode"]);
    capture.stderr(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut capture = process::spawn(capture, Some(&view.place.netns("node1"))).await?;
    // Until tcpdump has seen one.
    let targets = [target.to_owned()];
    let seen = async {
        while capture.try_wait()?.is_none() {
            if allowed {
                expect_answers(view, client, &targets).await?;
            } else {
                expect_silence(view, &view.netns_of_pod(client), &targets).await?;
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), seen)
        .await
        .map_err(|_| anyhow::anyhow!("nothing of {} to {target} is logged", name(client)))??;
    let output = capture.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    let own = pod_addresses(client);
    let is_ours = own.iter().any(|address| text.contains(&format!("{address}.")));
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && is_ours, "{}: {text} {told}", name(client));
    Ok(())
}

/// How many packets each chain that logs has logged on api's node.
async fn counted(view: &View) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for chain in ["log_ingress_allow", "log_ingress_deny", "log_egress_allow", "log_egress_deny"] {
        let mut list = Command::new("nft");
        list.args(["list", "chain", "inet", "caracal", chain]);
        let output = process::capture(list, Some(&view.place.netns("node1")), b"", ANSWER).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let count = text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        let count = count.with_context(|| format!("{chain}: {text}"))?.parse()?;
        counts.insert(chain.to_owned(), count);
    }
    Ok(counts)
}

/// What is logged is in the kernel's group, and later rules decide on it.
pub(super) fn log(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "policy-log").await?;
        let [api, near, far, other] = pods(&mut scope).await?;
        let tcp = pod_targets(&api, "tcp", PORT);
        let udp = pod_targets(&api, "udp", PORT);
        let before = counted(view).await?;
        let frontends = json!({ "selector": "role == 'frontend'" });
        let rules = json!([
            { "action": "Log", "protocol": "TCP", "destination": { "ports": [PORT] } },
            { "action": "Log" },
            { "action": "Allow", "protocol": "TCP", "source": frontends },
        ]);
        scope.apply(policy("log", "app == 'api'", "ingress", rules)).await?;
        within_a_second(view, &other, &tcp, false).await?;
        for client in [&near, &far] {
            expect_answers(view, client, &tcp).await?;
            expect_silence(view, &view.netns_of_pod(client), &udp).await?;
        }
        for target in &tcp {
            logged(view, &far, target, true).await?;
            logged(view, &other, target, false).await?;
        }
        let after = counted(view).await?;
        for (chain, grows) in [("log_ingress_allow", true), ("log_egress_allow", false)] {
            ensure!((after[chain] > before[chain]) == grows, "{before:?}, then {after:?}");
        }

        // An explanation names what logs and what decides.
        let of = |pod: &Pod| format!("{}/{}", scope.name, name(pod));
        let (from, to, port) = (of(&near), of(&api), PORT.to_string());
        let answer = view.felix("node1", &["explain", &from, &to, &port], b"").await?;
        let judgement = &answer["flows"][0]["ingress"]["judgements"][0];
        for element in judgement["elements"].as_array().context("no elements")? {
            ensure!(element["agrees"] == true, "the kernel has something else: {element}");
        }
        let rows = judgement["considered"].as_array().context("nothing considered")?;
        let done: Vec<&Value> = rows.iter().map(|row| &row["outcome"]).collect();
        let ours = [json!("logs"), json!("logs"), json!("allows")];
        ensure!(done.windows(3).any(|three| three.iter().copied().eq(&ours)), "{judgement}");

        // Nothing is logged any more; what had been denied is let in.
        scope
            .apply(policy("log", "app == 'api'", "ingress", json!([{ "action": "Allow" }])))
            .await?;
        within_a_second(view, &other, &tcp, true).await?;
        let before = counted(view).await?;
        for client in [&near, &far, &other] {
            expect_answers(view, client, &[tcp.clone(), udp.clone()].concat()).await?;
        }
        let after = counted(view).await?;
        ensure!(before == after, "{before:?}, then {after:?}");
        scope.end().await
    }
    .boxed()
}
