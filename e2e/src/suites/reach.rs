//! Every pod reaches every pod over IPv4 and IPv6, through the ToRs, under its own address and
//! without encapsulation.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use tokio::process::Command;

use super::kit::{self, PORT, Scope, expect_answers, name};
use super::{ALONE, DIRECTORY, MESH, RACKS, Test};
use crate::lab::{Lab, pod_addresses, pod_targets};
use crate::{process, wait};

pub(super) const TESTS: &[Test] = &[
    Test { name: "reach::every_pod_from_every_pod", bed: &RACKS, body: every_pod },
    Test { name: "reach::plain_ip_through_the_tors", bed: &RACKS, body: plain_ip },
    Test { name: "reach::beyond_the_fabric_under_the_nodes_address", bed: &RACKS, body: outside },
    Test { name: "reach::the_node_reaches_its_pods", bed: &RACKS, body: node_to_pod },
    Test { name: "reach::with_a_directory_as_source", bed: &DIRECTORY, body: every_pod },
    Test { name: "reach::a_link_that_was_down_works_again", bed: &DIRECTORY, body: unplugged },
    Test { name: "reach::in_a_mesh", bed: &MESH, body: every_pod },
    Test { name: "reach::on_a_machine_alone", bed: &ALONE, body: every_pod },
];

fn every_pod(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "reach-all").await?;
        let mut pods = Vec::new();
        for node in &view.plan.topology.nodes {
            for number in 1..=2 {
                pods.push(scope.pod(&format!("{}-{number}", node.name), &node.name, &[]));
            }
        }
        let pods = scope.run(&pods).await?;
        for pod in &pods {
            let addresses = pod_addresses(pod);
            ensure!(
                addresses.len() == 2,
                "{} has {addresses:?}, not one of each family",
                name(pod)
            );
        }
        view.wait_for_routes().await?;
        let protocols = ["tcp", "udp"];
        let targets: Vec<String> = pods
            .iter()
            .flat_map(|pod| protocols.iter().flat_map(|p| pod_targets(pod, p, PORT)))
            .chain(pods.iter().flat_map(pod_addresses).map(|ip| format!("icmp://{ip}")))
            .collect();
        try_join_all(pods.iter().map(|pod| expect_answers(view, pod, &targets))).await?;
        scope.end().await
    }
    .boxed()
}

/// A pod's link is taken down and up again by hand: the kernel forgets the pod's routes, its
/// neighbours and its gateway, and the agent brings back what it takes to reach the pod.
fn unplugged(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "reach-unplugged").await?;
        let wanted = [scope.pod("here", "node1", &[]), scope.pod("far", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let targets = pod_targets(&pods[0], "tcp", PORT);
        expect_answers(view, &pods[1], &targets).await?;
        let endpoints = view.ask_felix("node1", "endpoints").await?;
        let rows = endpoints.as_array().or_else(|| endpoints["rows"].as_array());
        let mut rows = rows.into_iter().flatten();
        let row = rows.find(|row| row["namespace"] == "reach-unplugged" && row["pod"] == "here");
        let interface = row.and_then(|row| row["interface"].as_str());
        let interface = interface.with_context(|| format!("no such endpoint: {endpoints}"))?;
        let netns = view.place.netns("node1");
        netns.ip_batch(&format!("link set {interface} down\n")).await?;
        let client = view.netns_of_pod(&pods[1]);
        kit::expect_silence(view, &client, &targets).await?;
        netns.ip_batch(&format!("link set {interface} up\n")).await?;
        wait::until("the pod to be reached again", Duration::from_secs(10), || {
            expect_answers(view, &pods[1], &targets)
        })
        .await?;
        expect_answers(view, &pods[0], &pod_targets(&pods[1], "tcp", PORT)).await?;
        scope.end().await
    }
    .boxed()
}

/// Between racks, the link from ToR to spine carries the pods' own packets and nothing around
/// them: what is captured has their addresses in its outermost header.
fn plain_ip(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "reach-plain").await?;
        let wanted = [scope.pod("here", "node1", &[]), scope.pod("there", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        view.wait_for_routes().await?;
        let here = pod_addresses(&pods[0]);
        for there in pod_addresses(&pods[1]) {
            let source = kit::same_family(&here, there).unwrap_or(there);
            let filter = format!("src host {source} and dst host {there} and udp port {PORT}");
            let mut capture = Command::new("tcpdump");
            capture.args(["-n", "-i", "spine", "-c", "1", "--immediate-mode", &filter]);
            capture.stderr(std::process::Stdio::piped()).kill_on_drop(true);
            capture.stdout(std::process::Stdio::piped());
            let mut capture = process::spawn(capture, Some(&view.place.netns("tor1"))).await?;
            let target = format!("udp://{}", std::net::SocketAddr::new(there, PORT));
            // Until tcpdump has seen one; its own start is not announced on a pipe it buffers.
            let seen = async {
                loop {
                    expect_answers(view, &pods[0], std::slice::from_ref(&target)).await?;
                    if let Some(status) = capture.try_wait()? {
                        ensure!(status.success(), "tcpdump: {status}");
                        return Ok(());
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(20), seen).await.map_err(|_| {
                anyhow::anyhow!("no plain packet from {source} to {there} on tor1")
            })??;
        }
        scope.end().await
    }
    .boxed()
}

/// natOutgoing: a host that has no route to pods answers them, because it sees their node.
fn outside(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "reach-outside").await?;
        let wanted = [scope.pod("client", "node2", &[])];
        let pods = scope.run(&wanted).await?;
        let mut server = Command::new(crate::agent::program("probe")?);
        server.args(["serve", "--port=8080"]).kill_on_drop(true);
        let _server = process::spawn(server, Some(&view.place.netns("outside"))).await?;
        let outside = &view.plan.topology.outside;
        let target = format!("tcp://{}:{PORT}", outside.v4.addr());
        let node = view.plan.topology.nodes[1].addresses()[0];
        let netns = view.netns_of_pod(&pods[0]);
        wait::until("an answer from outside", Duration::from_secs(20), || async {
            let probes = view.connect(&netns, std::slice::from_ref(&target), kit::ANSWER).await?;
            ensure!(probes[0].ok, "{:?}", probes[0]);
            ensure!(probes[0].client == Some(node), "seen as {:?}, not {node}", probes[0].client);
            Ok(())
        })
        .await?;
        scope.end().await
    }
    .boxed()
}

fn node_to_pod(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    async move {
        let view = lab.view();
        let mut scope = Scope::new(view, "reach-node").await?;
        let wanted = [scope.pod("server", "node1", &[])];
        let pods = scope.run(&wanted).await?;
        let targets = [pod_targets(&pods[0], "tcp", PORT), pod_targets(&pods[0], "udp", PORT)];
        let targets = targets.concat();
        for probe in view.connect(&view.place.netns("node1"), &targets, kit::ANSWER).await? {
            ensure!(probe.ok, "node1 to its own pod: {probe:?}");
        }
        scope.end().await
    }
    .boxed()
}
