//! Host endpoints: policy of a node's own traffic and of what it forwards, with the ports that stay
//! open whatever it says.

mod established;
mod untracked;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::kernel::inside;
use super::kit::{ANSWER, PORT, Scope, expect_silence};
use super::{DIRECTORY, RACKS, Test};
use crate::lab::{Lab, View, pod_addresses, pod_targets};
use crate::netns::Netns;
use crate::{process, wait};

pub(super) const TESTS: &[Test] = &[
    Test { name: "hosts::policy_of_a_nodes_own_traffic", bed: &RACKS, body: own },
    Test { name: "hosts::of_every_node", bed: &RACKS, body: of_every_node },
    Test { name: "hosts::policy_on_forward", bed: &RACKS, body: forwarded },
    Test { name: "hosts::policy_before_destination_nat", bed: &RACKS, body: pre_dnat },
    Test {
        name: "hosts::policy_before_connection_tracking",
        bed: &RACKS,
        body: untracked::not_tracked,
    },
    Test {
        name: "hosts::established_flows_are_judged_again",
        bed: &RACKS,
        body: established::judged_again,
    },
    Test { name: "hosts::from_a_directory", bed: &DIRECTORY, body: own },
];

/// What the node's servers listen on besides [`PORT`].
const OTHER_PORT: u16 = 9090;
/// One that is open whatever policy says.
const FAILSAFE_PORT: u16 = 22;
/// The node whose traffic is judged, and one that speaks to it.
const NODE: &str = "node1";
const PEER: &str = "node2";
/// Until a change is in force: the API server, or the folder, and two agents on a busy machine.
const IN_FORCE: Duration = Duration::from_secs(20);

fn endpoint(name: &str, interface: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "HostEndpoint",
        "metadata": { "name": name, "labels": { "hep": name } },
        "spec": { "node": NODE, "interfaceName": interface },
    })
}

fn policy(name: &str, endpoint: &str, rest: Value) -> Value {
    let mut policy = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": { "name": name },
        "spec": rest,
    });
    policy["spec"]["selector"] = json!(format!("hep == '{endpoint}'"));
    policy
}

/// Returns once they listen.
async fn serve(on: &Netns, ports: &[u16]) -> Result<Child> {
    let mut server = Command::new(crate::agent::program("probe")?);
    server.arg("serve").args(ports.iter().map(|port| format!("--port={port}")));
    server.stderr(Stdio::piped()).kill_on_drop(true);
    let mut server = process::spawn(server, Some(on)).await?;
    let listen = || async {
        for port in ports.iter().copied() {
            let connect = move || Ok(TcpStream::connect((Ipv6Addr::LOCALHOST, port))?);
            on.enter(connect).await?;
        }
        Ok(())
    };
    match wait::until(&format!("servers at {ports:?} of {}", on.name()), IN_FORCE, listen).await {
        Ok(()) => Ok(server),
        Err(error) => {
            server.start_kill()?;
            let output = server.wait_with_output().await?;
            Err(error.context(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }
}

fn targets(addresses: &[IpAddr], protocol: &str, port: u16) -> Vec<String> {
    let target = |address: &IpAddr| format!("{protocol}://{}", SocketAddr::new(*address, port));
    addresses.iter().map(target).collect()
}

/// All of the targets answer, or none does, from now on.
async fn soon(view: &View, from: &Netns, targets: &[String], open: bool) -> Result<()> {
    let timeout = if open { ANSWER } else { Duration::from_millis(400) };
    let what = format!("{} to {targets:?}: {}", from.name(), if open { "open" } else { "closed" });
    wait::until(&what, IN_FORCE, || async {
        for probe in view.connect(from, targets, timeout).await? {
            ensure!(probe.ok == open, "{probe:?}");
        }
        Ok(())
    })
    .await
}

async fn now(view: &View, from: &Netns, targets: &[String]) -> Result<()> {
    for probe in view.connect(from, targets, ANSWER).await? {
        ensure!(probe.ok, "{} to {probe:?}", from.name());
    }
    Ok(())
}

/// For how many seconds each of the node's BGP sessions has been established.
async fn sessions(view: &View) -> Result<BTreeMap<String, u64>> {
    let status = view.ask_felix(NODE, "status").await?;
    let peers = status["bgp"]["peers"].as_array().context("no peers")?;
    ensure!(!peers.is_empty(), "no sessions: {status}");
    let mut sessions = BTreeMap::new();
    for peer in peers {
        ensure!(peer["state"] == "Established", "{peer}");
        let since = peer["sinceSeconds"].as_u64().context("sinceSeconds")?;
        sessions.insert(peer["address"].to_string(), since);
    }
    Ok(sessions)
}

/// What the agent says of a packet, for IPv4 and IPv6: whether it is allowed, and which policy decides at
/// the host endpoint, null for a tier's default action. The kernel agrees.
async fn explained(
    view: &View,
    [source, destination, protocol, port]: [&str; 4],
    hook: &str,
    expected: [(bool, Value); 2],
) -> Result<()> {
    let words = ["explain", source, destination, protocol, port];
    let answer = view.felix(NODE, &words, b"").await?;
    let flows = answer["flows"].as_array().context("no flows")?;
    ensure!(flows.len() == expected.len(), "{answer}");
    for flow in flows {
        let v6 = flow["source"]["address"].as_str().is_some_and(|address| address.contains(':'));
        let (allowed, by) = &expected[usize::from(v6)];
        let judged = flow["host"].as_array().context("no host endpoint is said to judge")?;
        let [judgement] = &judged[..] else { bail!("judged {} times: {flow}", judged.len()) };
        ensure!(judgement["hook"] == hook, "{flow}");
        ensure!((flow["verdict"] == "allow") == *allowed, "{flow}");
        let rows = judgement["considered"].as_array().context("nothing considered")?;
        let decides = |row: &&Value| ["allows", "denies"].iter().any(|one| row["outcome"] == *one);
        let decided: Vec<&Value> = rows.iter().filter(decides).collect();
        ensure!(decided.len() == 1 && decided[0]["policy"] == *by, "{flow}");
        for element in judgement["elements"].as_array().context("no elements")? {
            ensure!(element["agrees"] == true, "the kernel has something else: {element}");
        }
    }
    Ok(())
}

fn own(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "hosts-own").await?;
        let (node, peer) = (view.place.netns(NODE), view.place.netns(PEER));
        let _servers = [
            serve(&node, &[PORT, OTHER_PORT, FAILSAFE_PORT]).await?,
            serve(&peer, &[PORT, OTHER_PORT]).await?,
        ];
        let addresses = view.plan.topology.nodes[0].addresses();
        let away = view.plan.topology.nodes[1].addresses();
        let wanted = [scope.pod("near", NODE, &[]), scope.pod("far", PEER, &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let (web, other) =
            (targets(&addresses, "tcp", PORT), targets(&addresses, "tcp", OTHER_PORT));
        let udp = targets(&addresses, "udp", PORT);
        let failsafe = targets(&addresses, "tcp", FAILSAFE_PORT);
        let out = targets(&away, "tcp", PORT);
        soon(view, &peer, &[web.clone(), other.clone(), udp.clone(), failsafe.clone()].concat(), true)
            .await?;
        soon(view, &node, &out, true).await?;
        let before = sessions(view).await?;

        // All interfaces, without a policy: nothing but failsafe ports, in either direction.
        scope.apply_global(endpoint("all", "*")).await?;
        let all = [web.clone(), other.clone(), udp.clone()].concat();
        soon(view, &peer, &all, false).await?;
        soon(view, &node, &out, false).await?;
        now(view, &peer, &failsafe).await?;
        let by_profiles =
            json!({ "direction": "Ingress", "endpoint": "HostEndpoint all", "policy": "profiles" });
        told(view, &peer, &other, &by_profiles).await?;
        // Workloads have policy of their own: to them, from them to their node, and through it.
        let near = pod_targets(&pods[0], "tcp", PORT);
        now(view, &node, &near).await?;
        now(view, &peer, &near).await?;
        now(view, &view.netns_of_pod(&pods[1]), &near).await?;
        now(view, &view.netns_of_pod(&pods[0]), &web).await?;
        // The node does what nodes do: an address from etcd, a pod from the API server, routes.
        let late = scope.run(&[scope.pod("late", NODE, &[])]).await?;
        view.wait_for_routes().await?;
        now(view, &view.netns_of_pod(&pods[1]), &pod_targets(&late[0], "tcp", PORT)).await?;

        // One port, for one peer.
        let nets: Vec<String> = away.iter().filter(|a| a.is_ipv4()).map(|a| format!("{a}/32")).collect();
        let allow = json!({ "ingress": [{
            "action": "Allow", "protocol": "TCP",
            "source": { "nets": nets }, "destination": { "ports": [PORT] },
        }] });
        scope.apply_global(policy("hosts-web", "all", allow)).await?;
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|a| a.is_ipv4());
        soon(view, &peer, &targets(&v4, "tcp", PORT), true).await?;
        let rest = [targets(&v6, "tcp", PORT), other.clone(), udp.clone()].concat();
        expect_silence(view, &peer, &rest).await?;
        let third = view.place.netns("node3");
        expect_silence(view, &third, &targets(&v4, "tcp", PORT)).await?;
        let by_policy = json!("GlobalNetworkPolicy hosts-web");
        let (in_v4, in_v6) = (by_policy.clone(), json!(null));
        let into = ["node/node2", "node/node1", "tcp", &PORT.to_string()];
        explained(view, into, "input", [(true, in_v4), (false, in_v6.clone())]).await?;
        let failsafe_port = FAILSAFE_PORT.to_string();
        let open = json!("failsafe port");
        let into = ["node/node2", "node/node1", "tcp", &failsafe_port];
        explained(view, into, "input", [(true, open.clone()), (true, open)]).await?;
        let profiles = json!("profiles");
        let out_of = ["node/node1", "node/node2", "tcp", &PORT.to_string()];
        explained(view, out_of, "output", [(false, profiles.clone()), (false, profiles)]).await?;
        // What would be if the policy let nothing in.
        let closed = policy("hosts-web", "all", json!({ "ingress": [{ "action": "Deny" }] }));
        let ask = ["explain", "node/node2", "node/node1", &PORT.to_string(), "--with", "-"];
        let answer = view.felix(NODE, &ask, closed.to_string().as_bytes()).await?;
        let flow = &answer["flows"][0];
        ensure!(flow["verdict"] == "allow" && flow["then"]["verdict"] == "deny", "{answer}");
        let change = answer["changes"].as_array().and_then(|changes| changes.first());
        ensure!(change.is_some_and(|one| one["endpoint"] == "HostEndpoint all"), "{answer}");
        let status = view.felix(NODE, &["policy", "status", "node/node1"], b"").await?;
        let rows = status["rows"].as_array().context("no policies")?;
        ensure!(rows.len() == 1 && rows[0]["policy"] == by_policy, "{status}");

        // An endpoint of the interface's own wins, with what holds for it.
        scope.apply_global(endpoint("uplink", "eth0")).await?;
        let udp_only = json!({ "types": ["Ingress", "Egress"],
            "ingress": [{ "action": "Allow", "protocol": "UDP" }], "egress": [{ "action": "Allow" }] });
        scope.apply_global(policy("hosts-udp", "uplink", udp_only)).await?;
        soon(view, &peer, &udp, true).await?;
        soon(view, &node, &out, true).await?;
        expect_silence(view, &peer, &web).await?;
        now(view, &peer, &failsafe).await?;
        let after = sessions(view).await?;
        let lasted = before.iter().all(|(peer, since)| after.get(peer) >= Some(since));
        ensure!(lasted, "a session was lost: {before:?}, then {after:?}");
        view.wait_for_sessions().await?;

        scope.end().await?;
        soon(view, &peer, &all, true).await?;
        soon(view, &node, &out, true).await
    }
    .boxed()
}

/// Every node has a host endpoint because the cluster's configuration says so.
fn of_every_node(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "hosts-every").await?;
        let nodes = [NODE, PEER].map(|name| view.place.netns(name));
        let ports = [PORT, OTHER_PORT, FAILSAFE_PORT];
        let _servers = [serve(&nodes[0], &ports).await?, serve(&nodes[1], &ports).await?];
        let [of_node, of_peer] = [0, 1].map(|at| view.plan.topology.nodes[at].addresses());
        let all = |port| [(&nodes[1], targets(&of_node, "tcp", port)), (&nodes[0], targets(&of_peer, "tcp", port))];
        for (from, targets) in [all(PORT), all(OTHER_PORT), all(FAILSAFE_PORT)].concat() {
            soon(view, from, &targets, true).await?;
        }
        let before = sessions(view).await?;
        scope
            .apply_global(json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": "GlobalNetworkPolicy",
                "metadata": { "name": "hosts-every" },
                "spec": {
                    "selector": "projectcalico.org/created-by == 'calico-kube-controllers'",
                    "ingress": [{
                        "action": "Allow", "protocol": "TCP", "destination": { "ports": [PORT] },
                    }],
                },
            }))
            .await?;
        scope
            .apply_global(json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": "KubeControllersConfiguration",
                "metadata": { "name": "default" },
                "spec": { "controllers": { "node": { "hostEndpoint": { "autoCreate": "Enabled" } } } },
            }))
            .await?;
        for (from, targets) in all(OTHER_PORT) {
            soon(view, from, &targets, false).await?;
        }
        for (from, targets) in [all(PORT), all(FAILSAFE_PORT)].concat() {
            now(view, from, &targets).await?;
        }
        let [(from, other), _] = all(OTHER_PORT);
        let by_default = json!({
            "direction": "Ingress", "endpoint": format!("HostEndpoint {NODE}-auto-hep"),
        });
        told(view, from, &other, &by_default).await?;
        let after = sessions(view).await?;
        let lasted = before.iter().all(|(peer, since)| after.get(peer) >= Some(since));
        ensure!(lasted, "a session was lost: {before:?}, then {after:?}");
        scope.end().await?;
        for (from, targets) in all(OTHER_PORT) {
            soon(view, from, &targets, true).await?;
        }
        Ok(())
    }
    .boxed()
}

fn forwarded(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "hosts-forward").await?;
        let node = view.place.netns(NODE);
        let _server = serve(&node, &[PORT]).await?;
        let wanted = [scope.pod("near", NODE, &[]), scope.pod("far", PEER, &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let far = view.netns_of_pod(&pods[1]);
        let (tcp, udp) = (pod_targets(&pods[0], "tcp", PORT), pod_targets(&pods[0], "udp", PORT));
        let own = targets(&view.plan.topology.nodes[0].addresses(), "udp", PORT);
        now(view, &far, &[tcp.clone(), udp.clone()].concat()).await?;

        let mut uplink = endpoint("uplink", "eth0");
        uplink["spec"]["profiles"] = json!(["projectcalico-default-allow"]);
        scope.apply_global(uplink).await?;
        let through = json!({ "applyOnForward": true, "ingress": [
            { "action": "Deny", "protocol": "UDP", "destination": { "ports": [PORT] } },
            { "action": "Allow" },
        ] });
        scope.apply_global(policy("hosts-through", "uplink", through.clone())).await?;
        soon(view, &far, &udp, false).await?;
        soon(view, &far, &own, false).await?;
        now(view, &far, &tcp).await?;
        // Not what comes from the node itself, nor what goes out through it.
        now(view, &node, &udp).await?;
        now(view, &view.netns_of_pod(&pods[0]), &pod_targets(&pods[1], "udp", PORT)).await?;
        scope.apply_global(counting("Enabled")).await?;
        counted(view, &far, [&udp, &tcp]).await?;
        scope.apply_global(counting("Disabled")).await?;

        let mut only_own = through;
        only_own["applyOnForward"] = json!(false);
        scope.apply_global(policy("hosts-through", "uplink", only_own)).await?;
        soon(view, &far, &udp, true).await?;
        expect_silence(view, &far, &own).await?;
        scope.end().await
    }
    .boxed()
}

fn counting(counters: &str) -> Value {
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "FelixConfiguration",
        "metadata": { "name": format!("node.{NODE}") },
        "spec": { "policyCounters": counters },
    })
}

/// What is sent to these targets counts as the first rule's, which denies it, and the second one's,
/// which does not.
async fn counted(view: &View, from: &Netns, [denied, allowed]: [&[String]; 2]) -> Result<()> {
    let counts = async || {
        let report = view.felix(NODE, &["policy", "counters"], b"").await?;
        let rows = report["rows"].as_array().context("no rows")?;
        let of = |rule: &str| {
            let is = |row: &&Value| {
                row["policy"] == "GlobalNetworkPolicy hosts-through" && row["rule"] == rule
            };
            rows.iter().find(is).and_then(|row| row["packets"].as_u64())
        };
        anyhow::Ok(of("spec.ingress[0]").zip(of("spec.ingress[1]")))
    };
    let before = wait::until("host endpoints to be counted", IN_FORCE, || async {
        counts().await?.context("no row for the rules")
    })
    .await?;
    expect_silence(view, from, denied).await?;
    now(view, from, allowed).await?;
    let least = |targets: &[String]| u64::try_from(targets.len()).unwrap_or_default();
    wait::until("packets to be counted", IN_FORCE, || async {
        let (no, yes) = counts().await?.context("no row for the rules")?;
        ensure!(no >= before.0 + least(denied) && yes >= before.1 + least(allowed), "{no} {yes}");
        Ok(())
    })
    .await
}

/// The node's agent says who denies what is sent to these targets.
async fn told(view: &View, from: &Netns, targets: &[String], denied: &Value) -> Result<()> {
    wait::until(&format!("drops of {targets:?}"), IN_FORCE, || async {
        view.connect(from, targets, Duration::from_millis(300)).await?;
        let report = view.felix(NODE, &["drops"], b"").await?;
        let packets = report["packets"].as_array().context("no packets")?;
        let same = |packet: &Value| {
            denied.as_object().is_some_and(|wanted| {
                wanted.iter().all(|(field, value)| packet["denied"][field] == *value)
            })
        };
        ensure!(packets.iter().any(same), "the last is {:?}", packets.last());
        Ok(())
    })
    .await
}

/// Ports of the node that lead to a pod, as those of a Service of type NodePort do.
fn pre_dnat(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    const NODE_PORTS: [u16; 2] = [30080, 30081];
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "hosts-dnat").await?;
        let (node, peer) = (view.place.netns(NODE), view.place.netns(PEER));
        let third = view.place.netns("node3");
        let _server = serve(&node, &[PORT, FAILSAFE_PORT]).await?;
        let pods = scope.run(&[scope.pod("near", NODE, &[])]).await?;
        view.wait_for_routes().await?;
        let v4 = |addresses: &[IpAddr]| addresses.iter().copied().find(IpAddr::is_ipv4);
        let own = v4(&view.plan.topology.nodes[0].addresses()).context("no IPv4 address")?;
        let pod = v4(&pod_addresses(&pods[0])).context("no IPv4 address")?;
        let [first, second] = NODE_PORTS;
        let service = format!(
            "table ip node_ports {{ chain pre {{ type nat hook prerouting priority -100; \
             tcp dport {{ {first}, {second} }} dnat to {pod}:{PORT}; }}; }}"
        );
        inside(&node, &["nft", &service]).await?;
        let [open, closed] = NODE_PORTS.map(|port| targets(&[own], "tcp", port));
        let (web, failsafe) = (targets(&[own], "tcp", PORT), targets(&[own], "tcp", FAILSAFE_PORT));
        soon(view, &peer, &[open.clone(), closed.clone(), web.clone()].concat(), true).await?;

        let mut all = endpoint("all", "*");
        all["spec"]["expectedIPs"] = json!([own]);
        scope.apply_global(all).await?;
        let away = v4(&view.plan.topology.nodes[1].addresses()).context("no IPv4 address")?;
        let rules = json!({ "preDNAT": true, "applyOnForward": true, "ingress": [
            { "action": "Allow", "protocol": "TCP", "source": { "nets": [format!("{away}/32")] },
              "destination": { "selector": "hep == 'all'", "ports": [NODE_PORTS[0], PORT] } },
            { "action": "Deny", "protocol": "TCP",
              "destination": { "ports": [NODE_PORTS[0], NODE_PORTS[1], FAILSAFE_PORT] } },
            { "action": "Deny", "protocol": "TCP",
              "destination": { "nets": [format!("{pod}/32")], "ports": [PORT] } },
        ] });
        scope.apply_global(policy("hosts-node-ports", "all", rules)).await?;
        soon(view, &peer, &closed, false).await?;
        soon(view, &third, &open, false).await?;
        let denied = json!({ "direction": "Ingress", "endpoint": "HostEndpoint all", "tier": "default",
            "policy": "GlobalNetworkPolicy hosts-node-ports", "rule": "spec.ingress[1]" });
        told(view, &third, &open, &denied).await?;
        // What is let through there is not asked of ordinary policy, of which there is none.
        soon(view, &peer, &[open.clone(), web.clone()].concat(), true).await?;
        expect_silence(view, &third, &web).await?;
        now(view, &third, &failsafe).await?;
        // The pod's own port is the pod's, whoever sends: only through the node is it reached.
        let direct = targets(&[pod], "tcp", PORT);
        let denied = json!({ "direction": "Ingress", "endpoint": "HostEndpoint all", "tier": "default",
            "policy": "GlobalNetworkPolicy hosts-node-ports", "rule": "spec.ingress[2]" });
        told(view, &third, &direct, &denied).await?;
        expect_silence(view, &peer, &direct).await?;
        now(view, &peer, &open).await?;
        scope.apply_global(endpoint("all", "eth9")).await?;
        soon(view, &third, &[closed, direct].concat(), true).await?;
        inside(&node, &["nft", "delete", "table", "ip", "node_ports"]).await?;
        scope.end().await
    }
    .boxed()
}
