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
    let marks: Vec<bool> = if router == "tor2" {
        let text =
            said(view, router, "birdc", &["show", "route", "all", &prefix.to_string()]).await?;
        let paths = text.split("unicast [").skip(1);
        paths.map(|path| path.contains("(65535,0)")).collect()
    } else {
        let question = format!("show bgp {} unicast {prefix} json", Words::of(&prefix).bgp);
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

/// The other way to a node's blocks that a test gives tor1: by the spine and tor2, worse by its AS
/// path. Nothing but the spine's own word says so, hence no router it leads through comes back to
/// tor1: while routers move one by one, two of equal rank would send packets to each other.
struct Detour {
    blocks: Vec<IpNet>,
    /// The spine and the node, as tor1's next hops; in each family.
    spine: [IpAddr; 2],
    node: [IpAddr; 2],
    /// tor2, as the spine's.
    tor2: [IpAddr; 2],
    /// The ToRs, as the spine's neighbors.
    neighbors: [IpAddr; 2],
}

/// What FRR calls a family, and where its addresses are in a [`Detour`].
struct Words {
    filter: &'static str,
    bgp: &'static str,
    index: usize,
}

impl Words {
    const V4: Self = Self { filter: "ip", bgp: "ipv4", index: 0 };
    const V6: Self = Self { filter: "ipv6", bgp: "ipv6", index: 1 };

    fn of(prefix: &IpNet) -> Self {
        if prefix.addr().is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl Detour {
    async fn new(view: &View, node: &str) -> Result<Self> {
        let blocks = blocks(view, node).await?;
        let both = [0, 1].iter().all(|i| blocks.iter().any(|b| Words::of(b).index == *i));
        ensure!(both, "{node} has blocks {blocks:?}");
        let port = |router: &str, interface: &str| {
            let handle = view.router(router)?;
            let mut ports = handle.router().interfaces.iter();
            let port = ports.find(|port| port.interface == interface);
            let port = port.with_context(|| format!("{router} has no {interface}"))?;
            let of = |v4| port.addresses.iter().map(IpNet::addr).find(|a| a.is_ipv4() == v4);
            anyhow::Ok([of(true).context("no IPv4")?, of(false).context("no IPv6")?])
        };
        let node = view.plan.topology.node(node).with_context(|| format!("no {node}"))?;
        let uplink = node.uplinks.iter().find(|uplink| uplink.switch == "tor1");
        let uplink = uplink.with_context(|| format!("{} is not on tor1", node.name))?;
        let tor2 = port("tor2", "spine")?;
        Ok(Self {
            blocks,
            spine: port("spine", "tor1")?,
            node: [uplink.v4.addr().into(), uplink.v6.addr().into()],
            tor2,
            neighbors: [port("tor1", "spine")?[0], tor2[0]],
        })
    }

    /// As lines of `ip -batch`, `verb` is `add` or `del`.
    fn routes(&self, verb: &str) -> String {
        let line = |block: &IpNet| {
            let via = self.tor2[Words::of(block).index];
            // Before those of BGP.
            format!("route {verb} {block} via {via} metric 1\n")
        };
        self.blocks.iter().map(line).collect()
    }

    async fn open(&self, view: &View) -> Result<()> {
        view.place.netns("spine").ip_batch(&self.routes("add")).await?;
        let [up1, up2] = self.neighbors;
        let mut lines = vec!["configure terminal".to_owned()];
        for (number, block) in self.blocks.iter().enumerate() {
            let Words { filter, bgp, .. } = Words::of(block);
            lines.extend([
                format!("{filter} prefix-list other seq {} permit {block}", number + 1),
                format!("route-map longer-{filter} permit 10"),
                format!("match {filter} address prefix-list other"),
                "set as-path prepend 65000 65000".to_owned(),
                format!("route-map longer-{filter} permit 20"),
                format!("route-map hidden-{filter} deny 10"),
                format!("match {filter} address prefix-list other"),
                format!("route-map hidden-{filter} permit 20"),
                "router bgp 65000".to_owned(),
                format!("address-family {bgp} unicast"),
                format!("network {block}"),
                format!("neighbor {up1} route-map longer-{filter} out"),
                format!("neighbor {up2} route-map hidden-{filter} out"),
                "exit".to_owned(),
                "exit".to_owned(),
            ]);
        }
        configure(view, &lines).await
    }

    async fn close(&self, view: &View) -> Result<()> {
        let [up1, up2] = self.neighbors;
        let mut lines = vec!["configure terminal".to_owned()];
        for Words { filter, bgp, index } in [Words::V4, Words::V6] {
            lines.extend(["router bgp 65000".into(), format!("address-family {bgp} unicast")]);
            let own = self.blocks.iter().filter(|block| Words::of(block).index == index);
            lines.extend(own.map(|block| format!("no network {block}")));
            lines.extend([
                format!("no neighbor {up1} route-map longer-{filter} out"),
                format!("no neighbor {up2} route-map hidden-{filter} out"),
                "exit".to_owned(),
                "exit".to_owned(),
                format!("no route-map longer-{filter}"),
                format!("no route-map hidden-{filter}"),
                format!("no {filter} prefix-list other"),
            ]);
        }
        let restored = configure(view, &lines).await;
        view.place.netns("spine").ip_batch(&self.routes("del")).await?;
        restored
    }

    /// Whether tor1 goes to every block by these next hops, and has another way.
    async fn taken(&self, view: &View, by: [IpAddr; 2]) -> Result<()> {
        let routes = view.router("tor1")?.routes().await?;
        for block in &self.blocks {
            let hop = Some(by[Words::of(block).index]);
            let of_block = routes.iter().filter(|route| route.prefix == *block);
            let paths: Vec<_> = of_block.map(|r| (r.next_hop == hop, r.used)).collect();
            let right = paths.len() > 1 && paths.iter().all(|(this, used)| this == used);
            ensure!(right, "tor1 does not go to {block} by {hop:?}: {routes:?}");
        }
        Ok(())
    }
}

/// node3 is on both ToRs. Packets go another way than from tor1 to it while it is cordoned, and none
/// is lost.
fn moved(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "drain-moved").await?;
        let wanted = [scope.pod("near", "node1", &[]), scope.pod("there", "node3", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let detour = Detour::new(view, "node3").await?;
        let by = |hops: [IpAddr; 2]| {
            let detour = &detour;
            move || detour.taken(view, hops)
        };
        let trial = async {
            detour.open(view).await?;
            wait::until("another way, not taken", SOON, by(detour.node)).await?;
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
            through(view, "node3", &["tor1", "tor2"], by(detour.spine), by(detour.node)).await?;
            let ends = streams.into_iter().map(|s| s.expect_no_loss(Duration::from_secs(30)));
            try_join_all(ends).await?;
            anyhow::Ok(())
        };
        let tried = trial.await;
        // Also of what failed half-way: the lab goes on to the next test.
        let closed = detour.close(view).await;
        tried?;
        closed?;
        scope.end().await
    }
    .boxed()
}

/// Gives the spine lines of configuration.
async fn configure(view: &View, lines: &[String]) -> Result<()> {
    let args: Vec<&str> = lines.iter().flat_map(|line| ["-c", line]).collect();
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
