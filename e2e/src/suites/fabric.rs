//! What the ToRs hold: each node's blocks, equal paths where there are two, and nothing of a node
//! that is gone.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::process::Command;

use super::kit::{PORT, Scope, blocks, expect_answers};
use super::{BREAKABLE, DIRECTORY, DUAL_HOMED, MESH, RACKS, Test};
use crate::control_plane::intent;
use crate::lab::{Lab, View, pod_targets};
use crate::{process, wait};

pub(super) const TESTS: &[Test] = &[
    Test { name: "fabric::routers_hold_each_nodes_blocks", bed: &RACKS, body: blocks_held },
    Test { name: "fabric::two_tors_are_two_paths", bed: &DUAL_HOMED, body: two_paths },
    Test { name: "fabric::a_node_reflects_for_the_others", bed: &MESH, body: reflected },
    Test { name: "fabric::a_filter_keeps_blocks_from_a_router", bed: &DIRECTORY, body: filtered },
    Test { name: "fabric::own_routes_carry_communities", bed: &DIRECTORY, body: marked },
    Test { name: "fabric::a_node_that_dies_is_withdrawn", bed: &BREAKABLE, body: withdrawn },
];

/// One pod on each node, so that each has a block of each family.
async fn a_pod_everywhere(view: &View, scope: &mut Scope) -> Result<()> {
    let nodes = &view.plan.topology.nodes;
    let pods: Vec<Value> = nodes.iter().map(|n| scope.pod(&n.name, &n.name, &[])).collect();
    scope.run(&pods).await?;
    view.wait_for_routes().await
}

fn blocks_held(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "fabric-blocks").await?;
        a_pod_everywhere(view, &mut scope).await?;
        for node in &view.plan.topology.nodes {
            let own = blocks(view, &node.name).await?;
            ensure!(own.len() >= 2, "{} has blocks {own:?}", node.name);
            for router in view.routers() {
                wait::until("every block in every router", Duration::from_secs(20), || async {
                    let routes = router.routes().await?;
                    for block in &own {
                        let route = routes.iter().find(|r| r.used && r.prefix == *block);
                        let route = route.with_context(|| {
                            format!("{} has no {block} of {}", router.router().name, node.name)
                        })?;
                        ensure!(
                            route.as_path.last() == Some(&node.asn),
                            "{}: {block} by {:?}",
                            router.router().name,
                            route.as_path
                        );
                    }
                    Ok(())
                })
                .await?;
            }
        }
        scope.end().await
    }
    .boxed()
}

/// The spine has two paths to the node on both ToRs, and that node has two to what is beyond the
/// spine.
fn two_paths(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "fabric-paths").await?;
        a_pod_everywhere(view, &mut scope).await?;
        let node = view.plan.topology.nodes.last().context("no nodes")?;
        let spine = view.router("spine")?;
        let own = blocks(view, &node.name).await?;
        ensure!(own.len() >= 2, "{} has blocks {own:?}", node.name);
        wait::until("two paths in the spine", Duration::from_secs(20), || async {
            let routes = spine.routes().await?;
            for block in &own {
                let paths = routes.iter().filter(|r| r.used && r.prefix == *block).count();
                ensure!(paths == 2, "{block}: {paths} paths in use");
            }
            Ok(())
        })
        .await?;
        let netns = view.place.netns(&node.name);
        for prefix in [
            view.plan.topology.outside.v4.trunc().into(),
            IpNet::from(view.plan.topology.outside.v6.trunc()),
        ] {
            wait::until("two paths in the node's kernel", Duration::from_secs(20), || async {
                let family = if prefix.addr().is_ipv4() { "-4" } else { "-6" };
                let text = prefix.to_string();
                let args = ["-n", netns.name(), "-j", family, "route", "show", &text];
                let routes: Value = serde_json::from_str(&process::output("ip", args).await?)?;
                let hops = routes[0]["nexthops"].as_array().map_or(0, Vec::len);
                ensure!(hops == 2, "{prefix}: {routes}");
                Ok(())
            })
            .await?;
        }
        scope.end().await
    }
    .boxed()
}

/// An object of the lab's intent, as the lab made it.
fn as_it_was(view: &View, kind: &str, name: &str) -> Result<Value> {
    let objects = intent::objects(&view.plan.topology);
    let mut objects = objects.into_iter();
    let found = objects.find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.with_context(|| format!("no {kind} {name}"))
}

/// A BGPFilter keeps one node's blocks from its ToR, and nothing else; no session is reset for it.
fn filtered(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "fabric-filter").await?;
        a_pod_everywhere(view, &mut scope).await?;
        let (own, neighbours) = (blocks(view, "node1").await?, blocks(view, "node3").await?);
        let everything = || tor1_has(view, &own, true);
        wait::until("all blocks in tor1", Duration::from_secs(20), everything).await?;
        let before = session_age(view).await?;

        let reject = |ipv4: bool| -> Vec<Value> {
            let of_family = own.iter().filter(|block| block.addr().is_ipv4() == ipv4);
            let rule = |block: &IpNet| {
                json!({ "cidr": block, "matchOperator": "Equal", "action": "Reject" })
            };
            of_family.map(rule).collect()
        };
        let filter = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "BGPFilter",
            "metadata": { "name": "quiet" },
            "spec": { "exportV4": reject(true), "exportV6": reject(false) },
        });
        let unfiltered = as_it_was(view, "BGPPeer", "tor1")?;
        let mut peer = unfiltered.clone();
        peer["spec"]["filters"] = json!(["quiet"]);
        view.cluster.apply(&filter).await?;
        view.cluster.apply(&peer).await?;
        let withdrawn = || tor1_has(view, &own, false);
        wait::until("its blocks to be withdrawn", Duration::from_secs(20), withdrawn).await?;
        tor1_has(view, &neighbours, true).await?;
        view.cluster.apply(&unfiltered).await?;
        view.cluster.delete(&filter).await?;
        wait::until("its blocks to be back", Duration::from_secs(20), everything).await?;
        let now = session_age(view).await?;
        ensure!(now >= before, "the session is {now} s old, and was {before}");
        scope.end().await
    }
    .boxed()
}

/// What BGPConfiguration says of a prefix arrives at the ToR with the routes in it.
fn marked(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "fabric-communities").await?;
        a_pod_everywhere(view, &mut scope).await?;
        let own = blocks(view, "node1").await?;
        let block = own.iter().find(|block| block.addr().is_ipv4()).context("no IPv4 block")?;
        let unmarked = as_it_was(view, "BGPConfiguration", "default")?;
        let mut marked = unmarked.clone();
        marked["spec"]["communities"] = json!([{ "name": "pods", "value": "64512:100" }]);
        marked["spec"]["prefixAdvertisements"] =
            json!([{ "cidr": block.to_string(), "communities": ["pods", "64512:7:9"] }]);
        let before = session_age(view).await?;
        let carried = |wanted: bool| async move {
            let mut command = Command::new(view.place.bin_of("tor1").join("vtysh"));
            command.args(["-c", &format!("show bgp ipv4 unicast {block} json")]);
            let shown = process::capture(command, None, b"", Duration::from_secs(10)).await?;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            let both = shown.contains("64512:100") && shown.contains("64512:7:9");
            ensure!(both == wanted, "tor1: {shown}");
            anyhow::Ok(())
        };
        carried(false).await?;
        view.cluster.apply(&marked).await?;
        wait::until("the communities", Duration::from_secs(20), || carried(true)).await?;
        view.cluster.apply(&unmarked).await?;
        wait::until("no communities", Duration::from_secs(20), || carried(false)).await?;
        ensure!(session_age(view).await? >= before, "the session was reset");
        scope.end().await
    }
    .boxed()
}

/// Whether tor1 uses routes to all of these blocks, or to none.
async fn tor1_has(view: &View, blocks: &[IpNet], wanted: bool) -> Result<()> {
    let routes = view.router("tor1")?.routes().await?;
    for block in blocks {
        let found = routes.iter().any(|route| route.used && route.prefix == *block);
        ensure!(found == wanted, "tor1 has {block}: {found}");
    }
    Ok(())
}

/// For how long node1's session has been up, in seconds.
async fn session_age(view: &View) -> Result<u64> {
    let status = view.ask_felix("node1", "status").await?;
    let peer = &status["bgp"]["peers"][0];
    ensure!(peer["state"] == "Established", "{peer}");
    peer["sinceSeconds"].as_u64().context("no sinceSeconds")
}

/// Calico's way from the mesh to route reflectors: a node becomes one, the others peer with it, and
/// the mesh ends. Packets still go straight from node to node.
fn reflected(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "fabric-reflector").await?;
        a_pod_everywhere(view, &mut scope).await?;
        let topology = &view.plan.topology;
        let named = |kind: &str, name: &str| as_it_was(view, kind, name);
        let mut reflector = named("Node", "node1")?;
        reflector["metadata"]["labels"]["route-reflector"] = "true".into();
        reflector["metadata"]["annotations"]["projectcalico.org/RouteReflectorClusterID"] =
            "244.0.0.1".into();
        let peer = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "BGPPeer",
            "metadata": { "name": "reflector" },
            "spec": { "nodeSelector": "all()", "peerSelector": "has(route-reflector)" },
        });
        let mut no_mesh = named("BGPConfiguration", "default")?;
        no_mesh["spec"] = json!({
            "asNumber": no_mesh["spec"]["asNumber"],
            "nodeToNodeMeshEnabled": false,
        });
        for object in [&peer, &reflector, &no_mesh] {
            view.cluster.apply(object).await?;
        }

        let blocks = blocks(view, "node3").await?;
        let straight = topology.nodes.iter().find(|node| node.name == "node3");
        let straight = straight.context("no node3")?.addresses();
        let netns = view.place.netns("node2");
        let straight_of_node1 = || async {
            let status = view.ask_felix("node2", "status").await?;
            let peers = status["bgp"]["peers"].as_array().context("no peers")?;
            let [one] = &peers[..] else { bail!("{} peers", peers.len()) };
            ensure!(one["state"] == "Established", "{one}");
            for block in &blocks {
                let family = if block.addr().is_ipv4() { "-4" } else { "-6" };
                let text = block.to_string();
                let args = ["-n", netns.name(), "-j", family, "route", "show", &text];
                let routes: Value = serde_json::from_str(&process::output("ip", args).await?)?;
                let gateway = routes[0]["gateway"].as_str().unwrap_or_default();
                let straight = straight.iter().any(|address| address.to_string() == gateway);
                ensure!(straight, "{block}: {routes}");
            }
            Ok(())
        };
        let what = "node2 to have all of node1, and straight";
        wait::until(what, Duration::from_secs(30), straight_of_node1).await?;
        // Not what a session of the mesh has left behind.
        wait::always(what, Duration::from_secs(2), straight_of_node1).await?;
        let pods = view.cluster.pods().await?;
        let on = |name: &str| pods.iter().find(|p| p.metadata.name.as_deref() == Some(name));
        let (two, three) = on("node2").zip(on("node3")).context("the pods")?;
        expect_answers(view, two, &pod_targets(three, "tcp", PORT)).await?;

        for object in [&named("BGPConfiguration", "default")?, &named("Node", "node1")?] {
            view.cluster.apply(object).await?;
        }
        view.cluster.delete(&peer).await?;
        view.wait_for_sessions().await?;
        view.wait_for_routes().await?;
        scope.end().await
    }
    .boxed()
}

/// The node falls silent, all of it at once. Its hold timer runs out and its blocks are withdrawn
/// from every router, well before the time of a graceful restart.
fn withdrawn(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view().clone();
        let mut scope = Scope::new(&view, "fabric-dies").await?;
        a_pod_everywhere(&view, &mut scope).await?;
        let dead = "node3";
        let own = blocks(&view, dead).await?;
        ensure!(own.len() >= 2, "{dead} has blocks {own:?}");
        for router in view.routers() {
            let routes = router.routes().await?;
            let all = own.iter().all(|block| routes.iter().any(|r| r.used && r.prefix == *block));
            ensure!(all, "{} has not all of {own:?} before", router.router().name);
        }
        let netns = view.place.netns(dead);
        netns.ip_batch("link set eth0 down\n").await?;
        wait::until("its blocks to be withdrawn", Duration::from_secs(30), || async {
            for router in view.routers() {
                let routes = router.routes().await?;
                if let Some(route) = routes.iter().find(|r| r.used && own.contains(&r.prefix)) {
                    bail!("{} still has {}", router.router().name, route.prefix);
                }
            }
            Ok(())
        })
        .await?;
        let left: Vec<_> = view.cluster.pods().await?;
        let alive = |name: &str| left.iter().find(|p| p.metadata.name.as_deref() == Some(name));
        let (one, two) = alive("node1").zip(alive("node2")).context("the other nodes' pods")?;
        expect_answers(&view, one, &pod_targets(two, "tcp", PORT)).await
    }
    .boxed()
}
