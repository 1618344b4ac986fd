//! What policy costs packets: two pods on a node, the same flows with no table at all, with connection
//! tracking alone, with a table and no policy, and with ever more policies.
//!
//! The kernel keeps the flows of all namespaces in one hash table, and frees those of a namespace that is
//! deleted on a processor of its choice. So the flows of each variant are forgotten before the next: else the
//! last would search through those of all before it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::super::kit::answer;
use super::{CARACAL, Measured, PATIENCE, Row};
use crate::lab::Bare;
use crate::netns::Netns;
use crate::process;

/// What the node does between the two pods.
#[derive(Clone, Copy, Debug)]
enum Between {
    /// It forwards.
    Nothing,
    /// And knows what flows there are.
    Tracking,
    /// And has so many policies.
    Policies(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    between: Between,
}

pub(super) const VARIANTS: [Variant; 6] = [
    Variant { name: "packets-plain", between: Between::Nothing },
    Variant { name: "packets-tracked", between: Between::Tracking },
    Variant { name: "packets-0", between: Between::Policies(0) },
    Variant { name: "packets-10", between: Between::Policies(10) },
    Variant { name: "packets-1000", between: Between::Policies(1000) },
    Variant { name: "packets-10000", between: Between::Policies(10_000) },
];

/// Has flows tracked.
const TRACKING: &str = "table inet tracking { chain forward { \
    type filter hook forward priority 0; ct state established,related accept; }; }";

/// As `policyload` numbers a node's first two endpoints.
const PODS: [&str; 2] = ["10.128.0.1", "10.128.0.2"];
const INDEXES: [u32; 2] = [1_000_000, 1_000_001];

/// Measures in namespaces of its own.
pub(super) async fn measure(
    bare: &Bare,
    load: &Path,
    variant: Variant,
    round: usize,
) -> Result<Value> {
    let named = |what: &str| bare.place.netns(&format!("{}-{round}-{what}", variant.name));
    let (node, pods) = (named("node"), [named("a"), named("b")]);
    for netns in [&node, &pods[0], &pods[1]] {
        bare.record.create_namespace(netns).await?;
    }
    connect(&node, &pods).await?;
    let mut helpers = Vec::new();
    match variant.between {
        Between::Nothing => {}
        Between::Tracking => inside(&node, &["nft", TRACKING]).await?,
        Between::Policies(policies) => {
            helpers.push(start(load, &["hold", &policies.to_string()], &node).await?);
        }
    }
    helpers.push(start(load, &["serve"], &pods[1]).await?);

    let connections = run(load, &["connect", PODS[1]], &pods[0]).await?;
    forget_flows(&node).await?;
    let before = forwarded(&node).await?;
    let packets = run(load, &["send", PODS[1]], &pods[0]).await?;
    let after = forwarded(&node).await?;
    let sent = packets["sent"][0].as_f64().context("nothing sent")?;
    ensure!(after - before >= sent, "{sent} packets were sent, {} forwarded", after - before);
    forget_flows(&node).await?;
    for mut helper in helpers {
        // It ends with its standard input.
        drop(helper.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(30), helper.wait()).await;
        ensure!(ended.is_ok_and(|status| status.is_ok_and(|s| s.success())), "policyload failed");
    }
    Ok(json!({
        "connect": connections["connect"],
        "first": packets["first"],
        "established": packets["established"],
    }))
}

/// A link to each pod, as the agent makes them: /32 addresses, the node as the gateway.
async fn connect(node: &Netns, pods: &[Netns; 2]) -> Result<()> {
    let mut batch = String::new();
    for (at, pod) in pods.iter().enumerate() {
        let (host, guest) = (format!("02:00:00:00:00:1{at}"), format!("02:00:00:00:00:2{at}"));
        batch += &format!(
            "link add cali{at} index {} address {host} type veth peer name eth0 address {guest} netns {}\n\
             link set cali{at} up\n\
             route add {} dev cali{at}\n\
             neigh add {} lladdr {guest} dev cali{at} nud permanent\n",
            INDEXES[at],
            pod.name(),
            PODS[at],
            PODS[at],
        );
    }
    node.ip_batch(&batch).await?;
    for (at, pod) in pods.iter().enumerate() {
        pod.ip_batch(&format!(
            "addr add {}/32 dev eth0\n\
             link set eth0 up\n\
             route add 169.254.1.1 dev eth0\n\
             neigh add 169.254.1.1 lladdr 02:00:00:00:00:1{at} dev eth0 nud permanent\n\
             route add default via 169.254.1.1 dev eth0\n",
            PODS[at],
        ))
        .await?;
    }
    node.enter(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)).await
}

/// Packets that the node sent to the second pod.
async fn forwarded(node: &Netns) -> Result<f64> {
    let mut command = Command::new("ip");
    command.args(["-j", "-s", "link", "show", "dev", "cali1"]);
    let links = answer(command, node, PATIENCE).await.context("ip link show")?;
    links[0]["stats64"]["tx"]["packets"].as_f64().context("ip: no count of packets")
}

async fn forget_flows(node: &Netns) -> Result<()> {
    inside(node, &["conntrack", "-F"]).await
}

async fn inside(netns: &Netns, words: &[&str]) -> Result<()> {
    let (program, words) = words.split_first().context("no program")?;
    let mut command = Command::new(program);
    command.args(words);
    let output = process::capture(command, Some(netns), b"", PATIENCE).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {words:?}: {}", said.trim());
    Ok(())
}

async fn start(load: &Path, words: &[&str], netns: &Netns) -> Result<Child> {
    // On the other processor than who sends: where both may be on one, connections cost a fifth less or
    // not as it happens.
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0"]).arg(load).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = process::spawn(command, Some(netns)).await?;
    let mut line = String::new();
    let output = child.stdout.as_mut().context("no output")?;
    let ready = tokio::time::timeout(PATIENCE, BufReader::new(output).read_line(&mut line)).await;
    if !matches!(ready, Ok(Ok(_))) || line.trim() != "ready" {
        bail!("policyload {words:?} is not ready: {line:?}");
    }
    Ok(child)
}

async fn run(load: &Path, words: &[&str], netns: &Netns) -> Result<Value> {
    // On one processor, so that the kernel forwards a packet within the system call that sends it.
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "1"]).arg(load).args(words);
    answer(command, netns, PATIENCE).await.with_context(|| format!("policyload {words:?}"))
}

pub(super) fn rows(all: &Measured<'_>) -> Result<Vec<Row>> {
    let nanos = |name: &str, figure: &str| all.get(name, figure, 50, 1e9);
    let plain = "no table, no connection tracking";
    let mut rows = Vec::new();
    let first = "first packet of a flow between two pods of a node";
    let few = nanos("packets-10", "first")?;
    let many = nanos("packets-10000", "first")?;
    let row = Row::new(first, CARACAL, "10,000 policies", "ns", many);
    rows.push(row.against("10 policies", few).at_most_times(1.05));
    let forwarding = nanos("packets-plain", "first")?;
    let row = Row::new(first, CARACAL, "10,000 policies", "ns", many);
    rows.push(row.against(plain, forwarding).at_most_times(2.1));
    let tracked = "connection tracking alone";
    let row = Row::new(first, CARACAL, "10,000 policies", "ns", many);
    rows.push(row.against(tracked, nanos("packets-tracked", "first")?));
    let established = nanos("packets-10000", "established")?;
    let row = Row::new("one more of its packets", CARACAL, "10,000 policies", "ns", established);
    rows.push(row.against(plain, nanos("packets-plain", "established")?).at_most_times(1.25));
    let row = Row::new("one more of its packets", CARACAL, "10,000 policies", "ns", established);
    rows.push(row.against(tracked, nanos("packets-tracked", "established")?));
    let connect = "connect, ask, be answered, hang up";
    let micros = |name: &str| all.get(name, "connect", 50, 1e6);
    let row = Row::new(connect, CARACAL, "1,000 policies", "µs", micros("packets-1000")?);
    rows.push(row.against("no policy", micros("packets-0")?).at_most_times(1.1));
    let row = Row::new(connect, CARACAL, "1,000 policies", "µs", micros("packets-1000")?);
    rows.push(row.against(plain, micros("packets-plain")?));
    Ok(rows)
}
