//! The agent killed under traffic: nothing is lost, nothing in the kernel changes, and the routers
//! keep its routes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::Signal;

use super::kernel::{Changes, KernelState};
use super::kit::{Held, PORT, Scope, Stream, blocks, expect_silence};
use super::{CALM, DIRECTORY, FORGETFUL, MESH, Test};
use crate::lab::{Lab, View, pod_targets};
use crate::wait;

pub(super) const TESTS: &[Test] = &[
    Test { name: "restart::killed_under_traffic", bed: &CALM, body: killed },
    Test { name: "restart::terminated_under_traffic", bed: &CALM, body: terminated },
    Test { name: "restart::killed_behind_bird", bed: &CALM, body: killed_behind_bird },
    Test { name: "restart::killed_in_a_mesh", bed: &MESH, body: killed_in_a_mesh },
    Test { name: "restart::policy_holds_while_the_agent_is_dead", bed: &DIRECTORY, body: enforced },
    Test {
        name: "restart::control_without_its_table_nothing_is_denied",
        bed: &DIRECTORY,
        body: open,
    },
    Test {
        name: "restart::control_without_its_records_a_pod_is_cut_off",
        bed: &DIRECTORY,
        body: forgotten,
    },
    Test {
        name: "restart::control_without_graceful_restart_routes_go",
        bed: &FORGETFUL,
        body: ungraceful,
    },
];

/// Whose agent is ended, with whom its pods talk, and the router that has to notice; in a mesh there
/// is none.
struct Place {
    node: &'static str,
    other: &'static str,
    tor: Option<&'static str>,
}

const BEHIND_FRR: Place = Place { node: "node1", other: "node2", tor: Some("tor1") };
const BEHIND_BIRD: Place = Place { node: "node2", other: "node1", tor: Some("tor2") };
const IN_A_MESH: Place = Place { node: "node1", other: "node2", tor: None };

fn killed(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    under_traffic(lab, Signal::SIGKILL, "restart-kill", BEHIND_FRR).boxed()
}

fn terminated(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    under_traffic(lab, Signal::SIGTERM, "restart-term", BEHIND_FRR).boxed()
}

fn killed_behind_bird(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    under_traffic(lab, Signal::SIGKILL, "restart-bird", BEHIND_BIRD).boxed()
}

fn killed_in_a_mesh(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    under_traffic(lab, Signal::SIGKILL, "restart-mesh", IN_A_MESH).boxed()
}

/// Ten seconds of 100 packets a second in every direction; the agent of one end is ended in the
/// second second, and started again once its peers have noticed.
async fn under_traffic(
    lab: &mut Lab,
    signal: Signal,
    name: &str,
    Place { node, other, tor }: Place,
) -> Result<()> {
    let view = lab.view().clone();
    let mut scope = Scope::new(&view, name).await?;
    let wanted =
        [scope.pod("here", node, &[]), scope.pod("near", node, &[]), scope.pod("far", other, &[])];
    let pods = scope.run(&wanted).await?;
    view.wait_for_routes().await?;
    let (here, near, far) = (&pods[0], &pods[1], &pods[2]);
    let mut streams = Vec::new();
    for (from, to) in [(here, far), (far, here), (here, near)] {
        for protocol in ["udp", "tcp"] {
            for target in pod_targets(to, protocol, PORT) {
                let netns = view.netns_of_pod(from);
                streams.push(Stream::start(&netns, &target, Some(1000)).await?);
            }
        }
    }
    for stream in &mut streams {
        stream
            .until("answer", Duration::from_secs(5), |r| r["received"].as_u64() > Some(50))
            .await?;
    }
    let own = blocks(&view, node).await?;
    ensure!(!own.is_empty(), "{node} has no blocks");
    let netns = [node, other].map(|node| view.place.netns(node));
    let held = Held::of(&view).await?;
    let before = [KernelState::of(&netns[0]).await?, KernelState::of(&netns[1]).await?];
    let changes = [Changes::watch(&netns[0]).await?, Changes::watch(&netns[1]).await?];
    let expect_same = async |when: &str, dead: Option<&str>| {
        for (before, netns) in before.iter().zip(&netns) {
            let now = KernelState::of(netns).await?;
            // Only then: a route comes and goes after its block has.
            let moved = held.moved(&view, dead).await?;
            before.clone().without(&moved).expect_same(&now.without(&moved), when)?;
        }
        anyhow::Ok(())
    };

    lab.agent(node)?.stop(signal).await?;
    wait::until("its peers to notice", Duration::from_secs(15), || async {
        let up = is_up(&view, node, other, tor).await?;
        ensure!(!up, "the session is still up");
        Ok(())
    })
    .await?;
    expect_same("when the agent ended", Some(node)).await?;
    if let Some(tor) = tor {
        let routes = view.router(tor)?.routes().await?;
        for block in &own {
            let kept = routes.iter().find(|route| route.used && route.prefix == *block);
            ensure!(kept.is_some(), "{tor} dropped {block} of the node that restarts");
        }
    }
    let agent = lab.agent(node)?;
    agent.start().await?;
    agent.ready().await?;
    view.wait_for_sessions().await?;
    for stream in streams {
        stream.expect_no_loss(Duration::from_secs(30)).await?;
    }
    expect_same("when the agent came back", None).await?;
    let moved = held.moved(&view, None).await?;
    for changes in changes {
        changes.expect_none(&moved, "by an agent while the other came back")?;
    }
    if let Some(tor) = tor {
        wait::until("the router's routes to be fresh again", Duration::from_secs(20), || async {
            let routes = view.router(tor)?.routes().await?;
            for block in &own {
                let route = routes.iter().find(|r| r.used && r.prefix == *block).context("gone")?;
                ensure!(!route.stale, "{block} is stale");
            }
            Ok(())
        })
        .await?;
    }
    scope.end().await
}

/// Whether a node's session is up, in the eyes of its router, or of another node's agent.
async fn is_up(view: &View, node: &str, other: &str, tor: Option<&str>) -> Result<bool> {
    if let Some(tor) = tor {
        let sessions = view.router(tor)?.sessions().await?;
        let session = sessions.iter().find(|session| session.neighbor == node);
        return Ok(session.context("no such session")?.established);
    }
    let status = view.ask_felix(other, "status").await?;
    let peers = status["bgp"]["peers"].as_array().context("no peers in the status")?;
    let mut nodes = view.plan.topology.nodes.iter();
    let address = nodes.find(|n| n.name == node).context("no such node")?.addresses()[0];
    let peer = peers.iter().find(|peer| peer["address"] == address.to_string());
    let peer = peer.with_context(|| format!("no session with {address}: {status}"))?;
    Ok(peer["state"] == "Established")
}

/// What is denied stays denied while nobody is there to deny it.
fn enforced(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "restart-enforced").await?;
        let wanted = [scope.pod("server", "node1", &[]), scope.pod("client", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let targets =
            [pod_targets(&pods[0], "tcp", PORT), pod_targets(&pods[0], "udp", PORT)].concat();
        let client = view.netns_of_pod(&pods[1]);
        super::kit::expect_answers(&view, &pods[1], &targets).await?;
        scope.apply(deny()).await?;
        wait::until("the policy", Duration::from_secs(5), || {
            expect_silence(&view, &client, &targets)
        })
        .await?;
        lab.agent("node1")?.stop(Signal::SIGKILL).await?;
        wait::always("denied without an agent", Duration::from_secs(2), || {
            expect_silence(&view, &client, &targets)
        })
        .await?;
        let agent = lab.agent("node1")?;
        agent.start().await?;
        wait::always("denied while the agent starts", Duration::from_secs(3), || {
            expect_silence(&view, &client, &targets)
        })
        .await?;
        lab.agent("node1")?.ready().await?;
        scope.end().await
    }
    .boxed()
}

/// The control of the test above: with the defence gone as well as the agent, packets pass. And a
/// new agent denies them again.
fn open(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "restart-open").await?;
        let wanted = [scope.pod("server", "node1", &[]), scope.pod("client", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let targets = pod_targets(&pods[0], "udp", PORT);
        let client = view.netns_of_pod(&pods[1]);
        scope.apply(deny()).await?;
        let silent = || expect_silence(&view, &client, &targets);
        wait::until("the policy", Duration::from_secs(5), silent).await?;
        lab.agent("node1")?.stop(Signal::SIGKILL).await?;
        let table = ["nft", "delete", "table", "inet", "caracal"];
        super::kernel::inside(&view.place.netns("node1"), &table).await?;
        super::kit::expect_answers(&view, &pods[1], &targets).await?;
        let agent = lab.agent("node1")?;
        agent.start().await?;
        agent.ready().await?;
        silent().await?;
        scope.end().await
    }
    .boxed()
}

/// The control of every restart: it is by its own records that the agent knows the pods.
fn forgotten(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "restart-forgotten").await?;
        let wanted = [scope.pod("server", "node1", &[]), scope.pod("client", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let targets = pod_targets(&pods[0], "udp", PORT);
        let client = view.netns_of_pod(&pods[1]);
        super::kit::expect_answers(&view, &pods[1], &targets).await?;
        lab.agent("node1")?.stop(Signal::SIGKILL).await?;
        std::fs::remove_dir_all(view.place.directory_of("node1").join("state/endpoints"))?;
        let agent = lab.agent("node1")?;
        agent.start().await?;
        agent.ready().await?;
        wait::until("the pod to be cut off", Duration::from_secs(10), || {
            expect_silence(&view, &client, &targets)
        })
        .await?;
        scope.end().await
    }
    .boxed()
}

/// The control of `under_traffic`: where the router does not keep a restarting node's routes, they
/// are gone, and packets with them.
fn ungraceful(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "restart-ungraceful").await?;
        let wanted = [scope.pod("here", "node1", &[]), scope.pod("far", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let tor = view.router("tor1")?;
        tor.refuse_graceful_restart().await?;
        view.wait_for_sessions().await?;
        view.wait_for_routes().await?;
        let own = blocks(&view, "node1").await?;
        ensure!(!own.is_empty(), "node1 has no blocks");
        let target = &pod_targets(&pods[0], "udp", PORT)[0];
        let mut stream = Stream::start(&view.netns_of_pod(&pods[1]), target, None).await?;
        let answered = |report: &serde_json::Value| report["received"].as_u64() > Some(50);
        stream.until("answer", Duration::from_secs(5), answered).await?;
        lab.agent("node1")?.stop(Signal::SIGKILL).await?;
        wait::until("tor1 to drop the routes", Duration::from_secs(15), || async {
            let routes = tor.routes().await?;
            let kept = routes.iter().find(|route| route.used && own.contains(&route.prefix));
            ensure!(kept.is_none(), "it still has {kept:?}");
            Ok(())
        })
        .await?;
        let silent = |report: &serde_json::Value| report["sinceReplyMs"].as_u64() > Some(500);
        stream.until("fall silent", Duration::from_secs(10), silent).await?;
        let agent = lab.agent("node1")?;
        agent.start().await?;
        agent.ready().await?;
        scope.end().await
    }
    .boxed()
}

fn deny() -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "deny" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    })
}
