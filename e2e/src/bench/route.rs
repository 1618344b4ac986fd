//! A route from a BGP UPDATE to the kernel, beside BIRD 2 given the same UPDATE.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::Ipv4Net;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::process::Command;

use super::kit::{millis, rack};
use super::notices::{DELETED_ROUTE, NEW_ROUTE, Notices, Topic};
use super::sender::Sender;
use super::{Bench, Row, median, percentile};
use crate::lab::Lab;
use crate::netns::Netns;
use crate::process::Daemon;
use crate::progress::Progress;
use crate::wait;

pub(super) const BENCH: Bench = Bench { name: "cni-route", body: run };

const NODE: &str = "node1";
const PATIENCE: Duration = Duration::from_secs(30);
/// Single routes, in turns.
const SINGLE: usize = 200;
/// A table, so many times.
const TABLE: u32 = 10_000;
const TABLES: usize = 5;
const ASN: u32 = 64999;
const PEER: &str = "BIRD 2";

/// A receiver of routes, its sender beside it, and an ear at its kernel.
struct Contender {
    sender: Sender,
    notices: Notices,
    single: Vec<f64>,
    table: Vec<f64>,
}

fn run(progress: &Progress) -> BoxFuture<'_, Result<Vec<Row>>> {
    async move {
        let mut lab = progress.step("a lab of one node", rack("route", 1)).await?;
        let measured = measure(&mut lab, progress).await;
        lab.down().await?;
        measured
    }
    .boxed()
}

async fn measure(lab: &mut Lab, progress: &Progress) -> Result<Vec<Row>> {
    let (mut bird, other) = bird(lab).await?;
    let mut contenders = [felix(lab).await?, other];
    let one = [Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 26)];
    let singles = async {
        for _ in 0..SINGLE {
            for contender in &mut contenders {
                let took = contender.round_trip(&one).await?;
                contender.single.push(took);
            }
        }
        anyhow::Ok(())
    };
    progress.step(&format!("{SINGLE} routes, one after another"), singles).await?;
    let base = u32::from(Ipv4Addr::new(100, 64, 0, 0));
    let table: Vec<Ipv4Net> =
        (0..TABLE).map(|n| Ipv4Net::new_assert((base + n * 64).into(), 26)).collect();
    let tables = async {
        for _ in 0..TABLES {
            for contender in &mut contenders {
                let took = contender.round_trip(&table).await?;
                contender.table.push(f64::from(TABLE) / took * 1e3);
            }
        }
        anyhow::Ok(())
    };
    progress.step(&format!("{TABLE} routes, {TABLES} times"), tables).await?;
    bird.stop(Signal::SIGTERM, Duration::from_secs(5)).await?;

    let [ours, bird] = &contenders;
    let single = "one route, from the peer's UPDATE to the kernel";
    let p50 = Row::new(single, "caracal", "p50", "ms", median(&ours.single)?);
    let p99 = Row::new(single, "caracal", "p99", "ms", percentile(&ours.single, 99)?);
    let many = format!("{TABLE} routes, from the first UPDATE to the last in the kernel");
    let rate = Row::new(&many, "caracal", "rate", "routes/s", median(&ours.table)?);
    Ok(vec![
        p50.against(PEER, median(&bird.single)?),
        p99.against(PEER, percentile(&bird.single, 99)?),
        rate.against(PEER, median(&bird.table)?),
    ])
}

impl Contender {
    async fn open(netns: &Netns, sender: Sender) -> Result<Self> {
        let notices = Notices::open(netns, Topic::Routes).await?;
        Ok(Self { sender, notices, single: Vec::new(), table: Vec::new() })
    }

    /// Announces prefixes and withdraws them. Milliseconds until all were in the kernel.
    async fn round_trip(&mut self, prefixes: &[Ipv4Net]) -> Result<f64> {
        let (announcement, withdrawal) =
            (self.sender.announcement(prefixes), Sender::withdrawal(prefixes));
        self.notices.clear()?;
        let start = Instant::now();
        self.sender.send(&announcement).await?;
        let there = self.notices.wait(NEW_ROUTE, prefixes.len(), PATIENCE).await?;
        self.sender.send(&withdrawal).await?;
        self.notices.wait(DELETED_ROUTE, prefixes.len(), PATIENCE).await?;
        Ok(millis(there - start))
    }
}

/// The agent of the node, which gets one more peer on the ToR's side.
async fn felix(lab: &Lab) -> Result<Contender> {
    let view = lab.view();
    let uplink = &view.plan.topology.nodes[0].uplinks[0];
    // The last address of the rack.
    let local = Ipv4Addr::from(u32::from(uplink.v4.broadcast()) - 1);
    let tor = view.place.netns(&uplink.switch);
    let bridge = view.router(&uplink.switch)?;
    let port = bridge.router().interfaces.iter().find(|port| port.bridge);
    let port = &port.context("the ToR has no bridge")?.interface;
    tor.ip_batch(&format!("addr add {local}/32 dev {port}\n")).await?;
    let peer = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": { "name": "bench" },
        "spec": { "peerIP": local.to_string(), "asNumber": ASN, "node": NODE },
    });
    view.cluster.apply(&peer).await?;
    let to = SocketAddrV4::new(uplink.v4.addr(), 179);
    let sender = wait::until("felix to take the peer", PATIENCE, || async {
        Sender::open(&tor, local, to, ASN).await
    });
    Contender::open(&view.place.netns(NODE), sender.await?).await
}

/// BIRD in a namespace of its own, which writes what it learns to its kernel.
async fn bird(lab: &Lab) -> Result<(Daemon, Contender)> {
    let place = &lab.view().place;
    let (router, peer) = (place.netns("bench-bird"), place.netns("bench-peer"));
    for netns in [&router, &peer] {
        lab.record().create_namespace(netns).await?;
    }
    let (own, other) = (Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2));
    router
        .ip_batch(&format!(
            "link add peer type veth peer name bird netns {}\naddr add {own}/24 dev peer\nlink set peer up\n",
            peer.name()
        ))
        .await?;
    peer.ip_batch(&format!("addr add {other}/24 dev bird\nlink set bird up\n")).await?;
    let directory = place.directory_of("bench-bird");
    std::fs::create_dir_all(&directory)?;
    let mut config = String::new();
    writeln!(config, "log stderr all;\nrouter id {own};\nprotocol device {{ }}")?;
    writeln!(config, "protocol kernel {{ ipv4 {{ import none; export all; }}; }}")?;
    writeln!(config, "protocol bgp peer {{\n  local {own} as 64900;\n  passive on;")?;
    writeln!(config, "  neighbor {other} as {ASN};\n  ipv4 {{ import all; export none; }};\n}}")?;
    let file = directory.join("bird.conf");
    std::fs::write(&file, config)?;
    let mut command = Command::new("/usr/sbin/bird");
    command.arg("-f").arg("-c").arg(&file).arg("-s").arg(directory.join("bird.ctl"));
    command.arg("-P").arg(directory.join("bird.pid"));
    let log = directory.join("bird.log");
    let mut daemon = Daemon::start(lab.record(), "bench-bird", &router, command, &log).await?;
    let sender = wait::until("BIRD to take the peer", PATIENCE, || {
        let state = daemon.check();
        let peer = &peer;
        async move {
            state?;
            Sender::open(peer, other, SocketAddrV4::new(own, 179), ASN).await
        }
    });
    let contender = Contender::open(&router, sender.await?).await?;
    Ok((daemon, contender))
}
