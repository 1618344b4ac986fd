//! Addresses of ours on links that other plugins make, and of others on ours.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::kernel::inside;
use super::{DIRECTORY, Test};
use crate::cni::{Attachment, NetworkList};
use crate::control_plane::intent;
use crate::kubelet::NodeRuntime;
use crate::lab::{Lab, View};
use crate::netns::Netns;
use crate::wait;

pub(super) const TESTS: &[Test] = &[
    Test { name: "foreign::bridge_with_our_addresses", bed: &DIRECTORY, body: bridge },
    Test { name: "foreign::our_link_with_host_local", bed: &DIRECTORY, body: host_local },
    Test { name: "foreign::host_local_with_the_nodes_networks", bed: &DIRECTORY, body: pod_cidr },
];

const NODE: &str = "node1";
const OTHER: &str = "node2";

/// A container without a pod: a namespace.
struct Container {
    netns: Netns,
    attachment: Attachment,
}

impl Container {
    async fn new(lab: &Lab, id: &str) -> Result<Self> {
        let netns = lab.view().place.netns(id);
        netns.create().await?;
        let attachment = Attachment {
            container_id: id.to_owned(),
            netns: Some(netns.path()),
            ifname: "eth0".into(),
            args: Vec::new(),
        };
        Ok(Self { netns, attachment })
    }

    async fn answers(&self, view: &View, from: &Netns, addresses: &[IpAddr]) -> Result<()> {
        let targets: Vec<String> = addresses.iter().map(|one| format!("icmp://{one}")).collect();
        let what = format!("{} to answer {}", self.netns.name(), from.name());
        wait::until(&what, Duration::from_secs(30), || async {
            let probes = view.connect(from, &targets, Duration::from_secs(2)).await?;
            let silent: Vec<_> = probes.iter().filter(|probe| !probe.ok).collect();
            ensure!(silent.is_empty() && probes.len() == targets.len(), "{silent:?}");
            Ok(())
        })
        .await
    }
}

fn addresses(result: &Value) -> Result<Vec<IpAddr>> {
    let ips = result["ips"].as_array().with_context(|| format!("no ips: {result}"))?;
    let address = |ip: &Value| {
        anyhow::Ok(ip["address"].as_str().unwrap_or_default().parse::<IpNet>()?.addr())
    };
    ips.iter().map(address).collect()
}

/// The handles in etcd that begin so.
async fn handles(lab: &Lab, beginning: &str) -> Result<Vec<String>> {
    let etcd = lab.etcd.as_ref().context("this lab has no etcd")?;
    let netns = lab.view().place.netns("control");
    let endpoint = format!("--endpoints={}", etcd.endpoint());
    let prefix = format!("/calico/ipam/v2/handle/{beginning}");
    let text =
        inside(&netns, &["etcdctl", &endpoint, "get", "--prefix", "--keys-only", &prefix]).await?;
    let keys = text.lines().filter_map(|line| line.strip_prefix("/calico/ipam/v2/handle/"));
    Ok(keys.map(str::to_owned).collect())
}

async fn until_handles(lab: &Lab, beginning: &str, expected: &[&str]) -> Result<()> {
    let what = format!("the handles {expected:?}");
    wait::until(&what, Duration::from_secs(30), || async {
        let found = handles(lab, beginning).await?;
        ensure!(found == expected, "there are {found:?}");
        Ok(())
    })
    .await
}

/// What every test makes is gone again, however it ended.
async fn with_containers<const N: usize>(
    lab: &mut Lab,
    ids: [&str; N],
    test: impl AsyncFnOnce(&mut Lab, &[Container; N]) -> Result<()>,
) -> Result<()> {
    let mut made = Vec::new();
    for id in ids {
        made.push(Container::new(lab, id).await?);
    }
    let made: [Container; N] = made.try_into().ok().context("as many as were asked for")?;
    let outcome = test(lab, &made).await;
    for container in &made {
        container.netns.delete().await?;
    }
    outcome
}

fn runtime(lab: &Lab) -> Result<NodeRuntime> {
    lab.kubelet()?.runtime(NODE).cloned()
}

fn log_of_endpoints(lab: &Lab) -> PathBuf {
    lab.view().place.directory_of(NODE).join("state/endpoints/endpoints.log")
}

/// `bridge` gets its addresses from our pools; what it holds outlives the agent and its collection,
/// which takes what nobody holds, and goes with DEL.
fn bridge(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    with_containers(lab, ["brg-a", "brg-b", "brg-lost"], async |lab, [a, b, lost]| {
        let view = lab.view().clone();
        let [node_netns, other_netns] = [NODE, OTHER].map(|node| view.place.netns(node));
        let [v4, v6] = view.pools()?;
        let gateways = [v4, v6].map(last_host);
        let socket = view.place.directory_of(NODE).join("run/felix.sock");
        let ipam = json!({"type": "caracal-ipam", "socket": socket, "gateways": gateways});
        let network = |version: &str, plugin: Value| {
            let list = json!({"cniVersion": version, "name": "foreign", "plugins": [plugin]});
            NetworkList::parse(&list.to_string())
        };
        let bridge = json!({
            "type": "bridge", "bridge": "foreign0", "isDefaultGateway": true, "ipam": ipam.clone(),
        });
        let list = network("1.0.0", bridge)?;
        let node = runtime(lab)?;

        let given_a = addresses(&node.cni.add(&list, &a.attachment).await?)?;
        let given_b = addresses(&node.cni.add(&list, &b.attachment).await?)?;
        ensure!(given_a.len() == 2 && given_b.len() == 2, "{given_a:?} {given_b:?}");
        node.cni.check(&list, &a.attachment).await?;
        a.answers(&view, &node_netns, &given_a).await?;
        a.answers(&view, &b.netns, &given_a).await?;
        // From another node: over BGP to this one, and on to the bridge.
        a.answers(&view, &other_netns, &given_a).await?;
        until_handles(lab, "foreign.", &["foreign.brg-a", "foreign.brg-b"]).await?;

        // One that no record knows, for the collection at the start to find.
        let known = std::fs::read(log_of_endpoints(lab))?;
        node.cni.add(&list, &lost.attachment).await?;
        lab.agent(NODE)?.stop(Signal::SIGKILL).await?;
        std::fs::write(log_of_endpoints(lab), known)?;
        let agent = lab.agent(NODE)?;
        agent.start().await?;
        agent.ready().await?;
        until_handles(lab, "foreign.", &["foreign.brg-a", "foreign.brg-b"]).await?;
        a.answers(&view, &node_netns, &given_a).await?;
        a.answers(&view, &other_netns, &given_a).await?;
        node.cni.check(&list, &a.attachment).await?;

        // What the runtime does not list goes, and nothing else.
        let mut plugin = ipam;
        plugin["ipam"] = plugin.clone();
        let direct = network("1.1.0", plugin)?;
        let valid = [a.attachment.clone()];
        let collected = node.cni.gc(&direct, &valid).await;
        collected.map_err(|errors| anyhow::anyhow!("GC: {errors:?}"))?;
        until_handles(lab, "foreign.", &["foreign.brg-a"]).await?;
        a.answers(&view, &node_netns, &given_a).await?;

        for _ in 0..2 {
            node.cni.delete(&list, &a.attachment).await?;
        }
        until_handles(lab, "foreign.", &[]).await?;
        let route = ["ip", "route", "show", &format!("{}/32", given_a[0])];
        let left = inside(&node_netns, &route).await?;
        ensure!(left.is_empty(), "a route is left: {left}");
        // The bridge is its plugin's, which never takes it away.
        inside(&node_netns, &["ip", "link", "delete", "foreign0"]).await.map(drop)
    })
    .boxed()
}

/// Our link with addresses of `host-local`: other nodes reach them, also after the agent's restart,
/// and DEL takes them back from routers and from `host-local`.
fn host_local(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    with_containers(lab, ["hl-a"], async |lab, [a]| {
        let view = lab.view().clone();
        let [node_netns, other_netns] = [NODE, OTHER].map(|node| view.place.netns(node));
        let directory = view.place.directory_of(NODE);
        let data = directory.join("host-local");
        let list = NetworkList::parse(
            &json!({"cniVersion": "1.0.0", "name": "hl", "plugins": [{
                "type": "caracal", "socket": directory.join("run/felix.sock"),
                "ipam": {"type": "host-local", "dataDir": data, "ranges": [
                    [{"subnet": "10.99.1.0/24"}], [{"subnet": "fd99:1::/64"}],
                ]},
            }]})
            .to_string(),
        )?;
        let node = runtime(lab)?;
        let given = addresses(&node.cni.add(&list, &a.attachment).await?)?;
        ensure!(given == ["10.99.1.2".parse::<IpAddr>()?, "fd99:1::2".parse()?], "{given:?}");
        node.cni.check(&list, &a.attachment).await?;
        a.answers(&view, &node_netns, &given).await?;
        a.answers(&view, &other_netns, &given).await?;

        let agent = lab.agent(NODE)?;
        agent.stop(Signal::SIGKILL).await?;
        agent.start().await?;
        agent.ready().await?;
        a.answers(&view, &node_netns, &given).await?;
        a.answers(&view, &other_netns, &given).await?;
        node.cni.check(&list, &a.attachment).await?;

        for _ in 0..2 {
            node.cni.delete(&list, &a.attachment).await?;
        }
        let left = std::fs::read_dir(data.join("hl"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.parse::<IpAddr>().is_ok());
        let left: Vec<String> = left.collect();
        ensure!(left.is_empty(), "host-local still has {left:?}");
        wait::until("the other node to have no route to it", Duration::from_secs(30), || async {
            let route = inside(&other_netns, &["ip", "route", "show", "10.99.1.2"]).await?;
            ensure!(route.is_empty(), "{route}");
            Ok(())
        })
        .await
    })
    .boxed()
}

/// `host-local` with `usePodCidr`: the addresses are of the Node's `spec.podCIDRs`, which other nodes
/// have routes to as a whole, also after the agent's restart without the Node, and not beyond the
/// last pod's DEL.
fn pod_cidr(lab: &mut Lab) -> BoxFuture<'_, Result<()>> {
    with_containers(lab, ["pc-a", "pc-b"], async |lab, [a, b]| {
        let view = lab.view().clone();
        let [node_netns, other_netns] = [NODE, OTHER].map(|node| view.place.netns(node));
        let directory = view.place.directory_of(NODE);
        let data = directory.join("host-local");
        let list = NetworkList::parse(
            &json!({"cniVersion": "1.0.0", "name": "pc", "plugins": [{
                "type": "caracal", "socket": directory.join("run/felix.sock"),
                "ipam": {"type": "host-local", "dataDir": data, "ranges": [
                    [{"subnet": "usePodCidr"}], [{"subnet": "usePodCidrIPv6"}],
                ]},
            }]})
            .to_string(),
        )?;
        let node = runtime(lab)?;
        let plain = intent::node(view.plan.topology.node(NODE).context("the node")?);
        let refused = node.cni.add(&list, &a.attachment).await.err().context("no error")?;
        let refused = format!("{refused:#}");
        ensure!(
            refused.contains("ipam.ranges[0][0].subnet") && refused.contains("Node node1"),
            "{refused}"
        );

        let mut with_networks = plain.clone();
        with_networks["spec"] = json!({"podCIDRs": ["10.98.1.0/24", "fd98:1::/64"]});
        view.cluster.apply(&with_networks).await?;
        wait::until("the agent to know the networks", Duration::from_secs(30), || async {
            // What is refused leaves nothing behind.
            Ok(node.cni.add(&list, &a.attachment).await?)
        })
        .await?;
        let given = ["10.98.1.2".parse::<IpAddr>()?, "fd98:1::2".parse()?];
        a.answers(&view, &node_netns, &given).await?;
        a.answers(&view, &other_netns, &given).await?;
        let routes = async |present: bool| {
            let wanted = [("-4", "10.98.1.0/24"), ("-6", "fd98:1::/64")];
            let what = format!("other nodes to have routes: {present}");
            wait::until(&what, Duration::from_secs(30), || async {
                for (family, net) in wanted {
                    let route = ["ip", family, "route", "show", net];
                    let found = inside(&other_netns, &route).await?;
                    ensure!(found.is_empty() != present, "{net}: {found:?}");
                    let alone = ["ip", family, "route", "show", "root", net];
                    let all = inside(&other_netns, &alone).await?;
                    ensure!(all.lines().count() <= 1, "more than the network: {all}");
                }
                Ok(())
            })
            .await
        };
        routes(true).await?;

        // The Node has them no more, and the agent is another: what is attached stays reachable,
        // and goes as it came.
        view.cluster.apply(&plain).await?;
        let agent = lab.agent(NODE)?;
        agent.stop(Signal::SIGKILL).await?;
        agent.start().await?;
        agent.ready().await?;
        a.answers(&view, &other_netns, &given).await?;
        routes(true).await?;
        node.cni.check(&list, &a.attachment).await?;
        ensure!(node.cni.add(&list, &b.attachment).await.is_err(), "of a network that is gone");
        for _ in 0..2 {
            node.cni.delete(&list, &a.attachment).await?;
        }
        let left = std::fs::read_dir(data.join("pc"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.parse::<IpAddr>().is_ok());
        let left: Vec<String> = left.collect();
        ensure!(left.is_empty(), "host-local still has {left:?}");
        routes(false).await
    })
    .boxed()
}

/// The last address of a pool that a machine can have.
fn last_host(pool: IpNet) -> IpAddr {
    match pool {
        IpNet::V4(net) => std::net::Ipv4Addr::from_bits(net.broadcast().to_bits() - 1).into(),
        IpNet::V6(net) => net.broadcast().into(),
    }
}
