//! What the ToRs hold: each node's blocks, equal paths where there are two, and nothing of a node
//! that is gone.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::kit::{PORT, Scope, blocks, expect_answers};
use super::{BREAKABLE, DUAL_HOMED, RACKS, Test};
use crate::lab::{Lab, View, pod_targets};
use crate::{process, wait};

pub(super) const TESTS: &[Test] = &[
    Test { name: "fabric::routers_hold_each_nodes_blocks", bed: &RACKS, body: blocks_held },
    Test { name: "fabric::two_tors_are_two_paths", bed: &DUAL_HOMED, body: two_paths },
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
            ipnet::IpNet::from(view.plan.topology.outside.v6.trunc()),
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
