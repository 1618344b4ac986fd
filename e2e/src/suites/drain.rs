//! A cordoned node: its routers look for other ways (RFC 8326), and lose none.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::process::Command;

use super::kit::{PORT, Scope, Stream, blocks};
use super::{CALM, DUAL_HOMED, Test};
use crate::control_plane::intent;
use crate::lab::{Lab, View, pod_targets};
use crate::{process, wait};

pub(super) const TESTS: &[Test] = &[
    Test { name: "drain::a_router_moves_to_another_way", bed: &DUAL_HOMED, body: moved },
    Test { name: "drain::a_cordon_at_the_api_server", bed: &CALM, body: cordoned },
];

/// By how much the age of a session may be off, in seconds: it is told in whole ones, and asked for
/// a moment after or before the clock was.
const SLACK: u64 = 2;

/// How long a change may take to arrive.
const SOON: Duration = Duration::from_secs(20);

/// Cordons a node of the lab's intent, or takes that back, as `kubectl` does.
async fn cordon(view: &View, name: &str, cordoned: bool) -> Result<()> {
    let node = view.plan.topology.node(name).with_context(|| format!("no {name}"))?;
    let mut node = intent::node(node);
    if cordoned {
        node["spec"] = json!({ "unschedulable": true });
    }
    view.cluster.apply(&node).await
}

/// What a router's own tool says.
async fn said(view: &View, router: &str, tool: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(view.place.bin_of(router).join(tool));
    command.args(args);
    let output = process::capture(command, None, b"", Duration::from_secs(10)).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{router}: {tool} {args:?}: {text}");
    Ok(text)
}

/// Whether a path that a router has to a prefix carries GRACEFUL_SHUTDOWN.
async fn marked(view: &View, router: &str, prefix: IpNet, wanted: bool) -> Result<()> {
    let family = if prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" };
    let marks: Vec<bool> = if router == "tor2" {
        let text =
            said(view, router, "birdc", &["show", "route", "all", &prefix.to_string()]).await?;
        let paths = text.split("unicast [").skip(1);
        paths.map(|path| path.contains("(65535,0)")).collect()
    } else {
        let question = format!("show bgp {family} unicast {prefix} json");
        let text = said(view, router, "vtysh", &["-c", &question]).await?;
        let route: Value = serde_json::from_str(&text)?;
        let paths = route["paths"].as_array().map_or(&[][..], Vec::as_slice);
        let community = |path: &Value| path["community"]["string"].as_str().map(str::to_owned);
        let marked = |path| community(path).is_some_and(|c| c.contains("graceful-shutdown"));
        paths.iter().map(marked).collect()
    };
    let right = !marks.is_empty() && marks.contains(&true) == wanted;
    ensure!(right, "{router}: of the paths to {prefix} are marked: {marks:?}");
    Ok(())
}

/// For how long each session of a node has been up, in seconds.
async fn ages(view: &View, node: &str) -> Result<Vec<u64>> {
    let status = view.ask_felix(node, "status").await?;
    let peers = status["bgp"]["peers"].as_array().context("no peers")?;
    let age = |peer: &Value| {
        ensure!(peer["state"] == "Established", "{peer}");
        peer["sinceSeconds"].as_u64().context("no sinceSeconds")
    };
    peers.iter().map(age).collect()
}

/// Whether sessions of these ages, in seconds, are still those that were asked for `elapsed` ago.
fn unbroken(before: &[u64], now: &[u64], elapsed: Duration) -> bool {
    let aged = |(now, then): (&u64, &u64)| now + SLACK >= then + elapsed.as_secs();
    now.len() == before.len() && now.iter().zip(before).all(aged)
}

/// Cordons a node until `moved` holds, then takes it back, also after a failure, until `back` does.
async fn through<A, B>(
    view: &View,
    node: &str,
    routers: &[&str],
    moved: impl Fn() -> A,
    back: impl Fn() -> B,
) -> Result<()>
where
    A: Future<Output = Result<()>>,
    B: Future<Output = Result<()>>,
{
    let own = blocks(view, node).await?;
    ensure!(own.len() >= 2, "{node} has blocks {own:?}");
    let all_marked = |wanted: bool| {
        let own = &own;
        move || async move {
            for router in routers {
                for block in own {
                    marked(view, router, *block, wanted).await?;
                }
            }
            let status = view.ask_felix(node, "status").await?;
            let draining = status["bgp"]["draining"] == true;
            ensure!(draining == wanted, "{}", status["bgp"]);
            Ok(())
        }
    };
    let (before, asked) = (ages(view, node).await?, Instant::now());
    all_marked(false)().await?;
    back().await?;
    let drained = async {
        cordon(view, node, true).await?;
        wait::until("its routes to be the last choice", SOON, all_marked(true)).await?;
        wait::until("the routers to move", SOON, &moved).await
    };
    let drained = drained.await;
    // What failed first is told first.
    let restored = cordon(view, node, false).await;
    drained?;
    restored?;
    wait::until("its routes to be as before", SOON, all_marked(false)).await?;
    wait::until("the routers to come back", SOON, &back).await?;
    let elapsed = asked.elapsed();
    let now = ages(view, node).await?;
    ensure!(
        unbroken(&before, &now, elapsed),
        "the sessions are {now:?} s old, and were {before:?} {elapsed:?} ago"
    );
    Ok(())
}

/// node3 is on both ToRs. To tor1 the spine has another way to its block, by way of tor2, that is
/// worse by its AS path. Packets go that way while the node is cordoned, and none is lost.
fn moved(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "drain-moved").await?;
        let wanted = [scope.pod("near", "node1", &[]), scope.pod("there", "node3", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let own = blocks(view, "node3").await?;
        let block = *own.iter().find(|block| block.addr().is_ipv4()).context("no IPv4 block")?;
        let (spine, tor1) = (view.router("spine")?, view.router("tor1")?);
        let up = |name: &str| {
            let neighbor = spine.router().neighbors.iter().find(|n| n.name == name);
            neighbor.map(|n| n.address).with_context(|| format!("the spine has no {name}"))
        };
        let (up1, up2) = (up("tor1")?, up("tor2")?);
        let hop = |wanted: &'static str| {
            let (spine_side, node) = (
                tor1.router().neighbors.iter().find(|n| n.name == "spine").map(|n| n.address),
                tor1.router().neighbors.iter().find(|n| n.name == "node3").map(|n| n.address),
            );
            let expected = if wanted == "spine" { spine_side } else { node };
            let tor1 = &tor1;
            async move {
                let expected = IpAddr::from(expected.with_context(|| format!("no {wanted}"))?);
                let routes = tor1.routes().await?;
                let used = |hop: IpAddr| {
                    let of_block = routes.iter().filter(|route| route.prefix == block);
                    of_block.map(|r| (r.next_hop == Some(hop), r.used)).collect::<Vec<_>>()
                };
                let paths = used(expected);
                let right = paths.len() > 1 && paths.iter().all(|(this, used)| this == used);
                ensure!(right, "tor1 does not go by {wanted}: {routes:?}");
                anyhow::Ok(())
            }
        };
        let trial = async {
            view.place.netns("spine").ip_batch(&format!("route add {block} via {up2}\n")).await?;
            let lines = [
                "configure terminal",
                &format!("ip prefix-list other seq 5 permit {block}"),
                "route-map longer permit 10",
                "match ip address prefix-list other",
                "set as-path prepend 65000 65000",
                "route-map longer permit 20",
                "route-map hidden deny 10",
                "match ip address prefix-list other",
                "route-map hidden permit 20",
                "router bgp 65000",
                "address-family ipv4 unicast",
                &format!("network {block}"),
                &format!("neighbor {up1} route-map longer out"),
                &format!("neighbor {up2} route-map hidden out"),
            ];
            configure(view, &lines).await?;

            wait::until("another way, not taken", SOON, || hop("node3")).await?;
            let (near, there) = (&pods[0], &pods[1]);
            let mut streams = Vec::new();
            for (from, to) in [(near, there), (there, near)] {
                for target in [pod_targets(to, "udp", PORT), pod_targets(to, "tcp", PORT)].concat()
                {
                    streams
                        .push(Stream::start(&view.netns_of_pod(from), &target, Some(1500)).await?);
                }
            }
            for stream in &mut streams {
                let begun = |report: &Value| report["received"].as_u64() > Some(50);
                stream.until("answer", Duration::from_secs(5), begun).await?;
            }
            through(view, "node3", &["tor1", "tor2"], || hop("spine"), || hop("node3")).await?;
            let ends = streams.into_iter().map(|s| s.expect_no_loss(Duration::from_secs(30)));
            try_join_all(ends).await?;
            anyhow::Ok(())
        };
        let tried = trial.await;

        let lines = [
            "configure terminal",
            "router bgp 65000",
            "address-family ipv4 unicast",
            &format!("no network {block}"),
            &format!("no neighbor {up1} route-map longer out"),
            &format!("no neighbor {up2} route-map hidden out"),
            "exit",
            "exit",
            "no route-map longer",
            "no route-map hidden",
            "no ip prefix-list other",
        ];
        // Also of what failed half-way: the lab goes on to the next test.
        let restored = configure(view, &lines).await;
        let route = format!("route del {block} via {up2}\n");
        let deleted = view.place.netns("spine").ip_batch(&route).await;
        tried?;
        restored?;
        deleted?;
        scope.end().await
    }
    .boxed()
}

/// Gives the spine lines of configuration.
async fn configure(view: &View, lines: &[&str]) -> Result<()> {
    let args: Vec<&str> = lines.iter().flat_map(|line| ["-c", *line]).collect();
    said(view, "spine", "vtysh", &args).await.map(drop)
}

/// The same of a Node in Kubernetes: each router knows, and all of them go on using the routes, for
/// there are no others.
fn cordoned(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "drain-cordon").await?;
        let wanted = [scope.pod("here", "node2", &[]), scope.pod("far", "node1", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let targets = pod_targets(&pods[0], "tcp", PORT);
        let reachable = || async {
            view.wait_for_routes().await?;
            super::kit::expect_answers(view, &pods[1], &targets).await
        };
        // Through BIRD to FRR, and to FRR again.
        through(view, "node2", &["tor2", "spine", "tor1"], reachable, reachable).await?;
        scope.end().await
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_was_reset_is_younger_than_it_should_be() {
        let elapsed = Duration::from_secs(30);
        assert!(unbroken(&[10, 20], &[40, 50], elapsed));
        assert!(unbroken(&[10, 20], &[39, 49], elapsed), "whole seconds");
        assert!(!unbroken(&[10, 20], &[40, 29], elapsed), "older than before, and yet reset");
        assert!(!unbroken(&[10, 20], &[40], elapsed));
    }
}
