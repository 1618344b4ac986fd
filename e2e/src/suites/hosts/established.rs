//! Established flows when policy at host endpoints changes: of the node and through it.

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::json;

use super::super::kit::{PORT, Scope, Stream};
use super::super::policy::established::{fall_silent, flow};
use super::{NODE, PEER, endpoint, now, policy, serve, sessions, soon, targets};
use crate::lab::{Lab, pod_targets};

pub(super) fn judged_again(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "hosts-established").await?;
        let (node, peer) = (view.place.netns(NODE), view.place.netns(PEER));
        let _servers = [serve(&node, &[PORT]).await?, serve(&peer, &[PORT]).await?];
        let wanted = [scope.pod("near", NODE, &[]), scope.pod("far", PEER, &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let own = view.plan.topology.nodes[0].addresses();
        let away = view.plan.topology.nodes[1].addresses();
        let far = view.netns_of_pod(&pods[1]);
        let mut of_node = Vec::new();
        let mut through = Vec::new();
        for protocol in ["tcp", "udp"] {
            for target in targets(&own, protocol, PORT) {
                of_node.push(Stream::start(&peer, &target, None).await?);
            }
            for target in targets(&away, protocol, PORT) {
                of_node.push(Stream::start(&node, &target, None).await?);
            }
            for target in pod_targets(&pods[0], protocol, PORT) {
                through.push(Stream::start(&far, &target, None).await?);
            }
        }
        for streams in [&mut of_node, &mut through] {
            flow(streams).await?;
        }
        let before = sessions(view).await?;

        // Nothing but failsafe ports: what is judged is only what is the node's own.
        scope.apply_global(endpoint("all", "*")).await?;
        fall_silent(&mut of_node).await?;
        flow(&mut through).await?;
        let all = json!({ "types": ["Ingress", "Egress"],
            "ingress": [{ "action": "Allow" }], "egress": [{ "action": "Allow" }] });
        scope.apply_global(policy("hosts-all", "all", all)).await?;
        flow(&mut of_node).await?;

        // By one port, on forward, too.
        let port =
            json!({ "action": "Deny", "protocol": "TCP", "destination": { "ports": [PORT] } });
        let but = json!({ "order": 1, "applyOnForward": true, "types": ["Ingress", "Egress"],
            "ingress": [port, { "action": "Allow" }], "egress": [port, { "action": "Allow" }] });
        scope.apply_global(policy("hosts-but", "all", but)).await?;
        for streams in [&mut of_node, &mut through] {
            let (mut tcp, mut udp): (Vec<Stream>, Vec<Stream>) =
                std::mem::take(streams).into_iter().partition(Stream::is_tcp);
            fall_silent(&mut tcp).await?;
            flow(&mut udp).await?;
            *streams = [tcp, udp].into_iter().flatten().collect();
        }
        soon(view, &peer, &targets(&own, "tcp", PORT), false).await?;
        scope
            .apply_global(policy(
                "hosts-but",
                "all",
                json!({ "order": 1, "applyOnForward": true,
            "types": ["Ingress", "Egress"],
            "ingress": [{ "action": "Allow" }], "egress": [{ "action": "Allow" }] }),
            ))
            .await?;
        for streams in [&mut of_node, &mut through] {
            flow(streams).await?;
        }
        now(view, &peer, &targets(&own, "tcp", PORT)).await?;

        // Failsafe ports hold what the node lives by.
        let after = sessions(view).await?;
        let held = |(peer, since): (&String, &u64)| after.get(peer).is_some_and(|now| now >= since);
        ensure!(before.iter().all(held), "sessions: {before:?}, {after:?}");
        drop((of_node, through));
        scope.end().await
    }
    .boxed()
}
