//! Policy of host endpoints before connection tracking.

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::super::kernel::inside;
use super::super::kit::{PORT, Scope};
use super::{
    IN_FORCE, NODE, OTHER_PORT, PEER, counting, endpoint, now, policy, serve, soon, targets,
};
use crate::lab::{Lab, View};
use crate::netns::Netns;
use crate::wait;

/// Whether the node tracks a flow of UDP to this port of its own.
async fn tracked(node: &Netns, port: u16) -> Result<bool> {
    let port = port.to_string();
    let mut found = String::new();
    for family in ["ipv4", "ipv6"] {
        let list = ["conntrack", "-L", "-f", family, "-p", "udp", "--orig-port-dst", &port];
        found += &inside(node, &list).await?;
    }
    Ok(!found.trim().is_empty())
}

/// The name of a table that counts what the node gets for a port of UDP and sends from it.
const SEEN: &str = "seen";

/// The table, which sees packets before policy does.
fn witness() -> String {
    let chain = |hook: &str, side: &str| {
        format!(
            "counter {side} {{}}; chain {hook} {{ type filter hook {hook} priority -400; \
             udp {side} {PORT} counter name {side}; }};"
        )
    };
    format!("table inet {SEEN} {{ {} {} }}", chain("prerouting", "dport"), chain("output", "sport"))
}

/// As many packets count as rules have let pass: not one for each time that policy is asked.
async fn counted_once(view: &View, node: &Netns, peer: &Netns, udp: &[String]) -> Result<()> {
    let rules = ["spec.ingress[0]", "spec.egress[0]"];
    let counts = async || {
        let report = view.felix(NODE, &["policy", "counters"], b"").await?;
        let rows = report["rows"].as_array().context("no rows")?;
        let of = |rule: &str| {
            let is = |row: &&Value| {
                row["policy"] == "GlobalNetworkPolicy hosts-untracked" && row["rule"] == rule
            };
            rows.iter().find(is).and_then(|row| row["packets"].as_u64()).context("no row")
        };
        anyhow::Ok([of(rules[0])?, of(rules[1])?])
    };
    let seen = async || {
        let list = ["nft", "-j", "list", "counters", "table", "inet", SEEN];
        let listed: Value = serde_json::from_str(&inside(node, &list).await?)?;
        let counters = listed["nftables"].as_array().context("no counters")?;
        let of = |name: &str| {
            let mut counters = counters.iter().map(|object| &object["counter"]);
            counters.find(|counter| counter["name"] == name)?["packets"].as_u64()
        };
        of("dport").zip(of("sport")).map(<[u64; 2]>::from).context("not counted")
    };
    let before =
        wait::until("untracked packets to be counted", IN_FORCE, || async { counts().await })
            .await?;
    inside(node, &["nft", &witness()]).await?;
    now(view, peer, udp).await?;
    wait::until("untracked packets to be counted once", IN_FORCE, || async {
        let (now, seen) = (counts().await?, seen().await?);
        let more = [now[0] - before[0], now[1] - before[1]];
        ensure!(more == seen && seen.iter().all(|count| *count > 0), "{more:?} of {seen:?}");
        Ok(())
    })
    .await?;
    inside(node, &["nft", "delete", "table", "inet", SEEN]).await?;
    Ok(())
}

/// The policy's packets are not tracked, and each counts once.
pub(super) fn not_tracked(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "hosts-untracked").await?;
        let (node, peer) = (view.place.netns(NODE), view.place.netns(PEER));
        let _server = serve(&node, &[PORT, OTHER_PORT]).await?;
        let addresses = view.plan.topology.nodes[0].addresses();
        let udp = targets(&addresses, "udp", PORT);
        let (web, other) =
            (targets(&addresses, "tcp", PORT), targets(&addresses, "udp", OTHER_PORT));
        soon(view, &peer, &[udp.clone(), web.clone(), other.clone()].concat(), true).await?;
        ensure!(tracked(&node, PORT).await?, "flows are tracked to begin with");

        let mut uplink = endpoint("uplink", "eth0");
        uplink["spec"]["profiles"] = json!(["projectcalico-default-allow"]);
        scope.apply_global(uplink).await?;
        // Answers have to be allowed too.
        let both = json!({ "doNotTrack": true, "applyOnForward": true,
            "types": ["Ingress", "Egress"],
            "ingress": [
                { "action": "Allow", "protocol": "UDP", "destination": { "ports": [PORT] } },
                { "action": "Deny", "protocol": "UDP", "destination": { "ports": [OTHER_PORT] } },
            ],
            "egress": [{ "action": "Allow", "protocol": "UDP", "source": { "ports": [PORT] } }],
        });
        scope.apply_global(policy("hosts-untracked", "uplink", both)).await?;
        scope.apply_global(counting("Enabled")).await?;
        soon(view, &peer, &other, false).await?;
        // What neither denies nor allows goes on, to the profile.
        now(view, &peer, &web).await?;
        for family in ["ipv4", "ipv6"] {
            inside(&node, &["conntrack", "-F", "-f", family]).await?;
        }
        now(view, &peer, &udp).await?;
        ensure!(!tracked(&node, PORT).await?, "a flow is tracked");
        counted_once(view, &node, &peer, &udp).await?;
        view.wait_for_sessions().await?;
        scope.apply_global(counting("Disabled")).await?;
        scope.end().await?;
        soon(view, &peer, &[udp, other].concat(), true).await
    }
    .boxed()
}
