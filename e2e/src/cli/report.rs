//! What a lab looks like: tables for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use serde_json::Value;

use crate::fabric::{Route, RouterHandle, Session};
use crate::lab::{Probe, View, is_ready, pod_addresses};

/// Everything about a lab at one moment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    nodes: Vec<NodeRow>,
    /// By router.
    sessions: BTreeMap<String, Vec<Session>>,
    /// By router; the pods' prefixes only.
    routes: BTreeMap<String, Vec<Route>>,
    pods: Vec<PodRow>,
    /// A row for each ready pod, an entry for each target.
    pings: Vec<PingRow>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeRow {
    name: String,
    rack: u8,
    asn: u32,
    addresses: Vec<String>,
    /// `felix status`; null without an agent.
    felix: Value,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct PodRow {
    name: String,
    node: String,
    phase: String,
    ready: bool,
    addresses: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PingRow {
    from: String,
    to: BTreeMap<String, Vec<Probe>>,
}

impl Report {
    /// Asks every router, agent and pod.
    pub(crate) async fn collect(view: &View) -> Result<Self> {
        let routers = view.routers();
        let (sessions, routes, mut pods) = tokio::try_join!(
            try_join_all(routers.iter().map(RouterHandle::sessions)),
            try_join_all(routers.iter().map(RouterHandle::routes)),
            view.cluster.pods(),
        )?;
        pods.sort_by_key(name);
        let names: Vec<String> = routers.iter().map(|r| r.router().name.clone()).collect();
        let pools = view.pools()?;
        let in_pool = |route: &Route| pools.iter().any(|pool| pool.contains(&route.prefix));
        let routes: Vec<Vec<Route>> = routes
            .into_iter()
            .map(|all| all.into_iter().filter(|r| r.used && in_pool(r)).collect())
            .collect();
        let nodes = join_all(view.plan.topology.nodes.iter().map(|node| async {
            let asked = if view.plan.agents {
                view.ask_felix(&node.name, "status").await
            } else {
                Ok(Value::Null)
            };
            let (felix, error) = match asked {
                Ok(felix) => (felix, None),
                Err(error) => (Value::Null, Some(format!("{error:#}"))),
            };
            NodeRow {
                name: node.name.clone(),
                rack: node.rack,
                asn: node.asn,
                addresses: node.addresses().iter().map(ToString::to_string).collect(),
                felix,
                error,
            }
        }))
        .await;
        let ready: Vec<Pod> = pods.iter().filter(|pod| is_ready(pod)).cloned().collect();
        let pings = view.ping_matrix(&ready).await;
        let pings = ready
            .iter()
            .zip(pings)
            .map(|(from, row)| PingRow {
                from: name(from),
                to: ready.iter().map(name).zip(row).collect(),
            })
            .collect();
        Ok(Self {
            nodes,
            sessions: names.iter().cloned().zip(sessions).collect(),
            routes: names.into_iter().zip(routes).collect(),
            pods: pods.iter().map(PodRow::of).collect(),
            pings,
        })
    }

    /// Every agent answers, every session is up, every ready pod reaches every other.
    pub(crate) fn healthy(&self) -> bool {
        let sessions = self.sessions.values().flatten().all(|session| session.established);
        let agents = self.nodes.iter().all(|node| node.error.is_none());
        let pods = self.pods.iter().all(|pod| pod.ready);
        let pings = self.pings.iter().flat_map(|row| row.to.values());
        sessions
            && agents
            && pods
            && pings.into_iter().all(|p| !p.is_empty() && p.iter().all(|p| p.ok))
    }

    /// The tables.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |title: &str, table: &Table| {
            let _ = writeln!(text, "{title}\n{table}\n");
        };
        add("Nodes", &self.nodes_table());
        if self.nodes.iter().any(|node| node.felix["bgp"]["peers"].is_array()) {
            add("BGP sessions, as the nodes see them", &self.peers_table());
        }
        if !self.sessions.is_empty() {
            add("BGP sessions, as the routers see them", &self.sessions_table());
            add("Routes to pods, in the routers", &self.routes_table());
        }
        if !self.pods.is_empty() {
            add("Pods", &self.pods_table());
            add("Ping, IPv4/IPv6, in ms", &self.pings_table());
        }
        text
    }

    fn nodes_table(&self) -> Table {
        let mut rows = table(&["node", "rack", "AS", "addresses", "felix", "endpoints", "blocks"]);
        for node in &self.nodes {
            let felix = &node.felix;
            let state = match (&node.error, felix["conditions"].as_array()) {
                (Some(error), _) => error.clone(),
                (None, None) => "-".into(),
                (None, Some(conditions)) => conditions
                    .iter()
                    .find_map(|c| {
                        Some(format!("{}: {}", c["name"].as_str()?, c["reason"].as_str()?))
                    })
                    .unwrap_or_else(|| "ready".into()),
            };
            let blocks = felix["ipam"]["blocks"].as_array().into_iter().flatten();
            let blocks: Vec<String> =
                blocks.map(|b| format!("{} ({})", text(&b["cidr"]), b["used"])).collect();
            rows.add_row(vec![
                node.name.clone(),
                node.rack.to_string(),
                node.asn.to_string(),
                node.addresses.join("\n"),
                state,
                felix["endpoints"].as_u64().map_or("-".into(), |n| n.to_string()),
                blocks.join("\n"),
            ]);
        }
        rows
    }

    fn peers_table(&self) -> Table {
        let mut rows = table(&["node", "peer", "AS", "state", "received", "advertised"]);
        for node in &self.nodes {
            for peer in node.felix["bgp"]["peers"].as_array().into_iter().flatten() {
                let reason = peer["reason"].as_str().map(|r| format!(": {r}")).unwrap_or_default();
                rows.add_row(vec![
                    node.name.clone(),
                    format!("{} ({})", text(&peer["address"]), text(&peer["origin"])),
                    peer["remoteAs"].to_string(),
                    format!("{}{reason}", text(&peer["state"])),
                    peer["received"].to_string(),
                    peer["advertised"].to_string(),
                ]);
            }
        }
        rows
    }

    fn sessions_table(&self) -> Table {
        let mut rows = table(&["router", "neighbour", "AS", "state", "prefixes"]);
        for (router, sessions) in &self.sessions {
            for session in sessions {
                rows.add_row(vec![
                    router.clone(),
                    session.neighbor.clone(),
                    session.asn.to_string(),
                    session.state.clone(),
                    session.received.to_string(),
                ]);
            }
        }
        rows
    }

    fn routes_table(&self) -> Table {
        let mut rows = table(&["router", "prefix", "next hop", "AS path"]);
        for (router, routes) in &self.routes {
            for route in routes {
                let path: Vec<String> = route.as_path.iter().map(ToString::to_string).collect();
                let stale = if route.stale { " (stale)" } else { "" };
                rows.add_row(vec![
                    router.clone(),
                    route.prefix.to_string(),
                    route.next_hop.map_or("-".into(), |hop| format!("{hop}{stale}")),
                    path.join(" "),
                ]);
            }
        }
        rows
    }

    fn pods_table(&self) -> Table {
        let mut rows = table(&["pod", "node", "phase", "addresses"]);
        for pod in &self.pods {
            rows.add_row(vec![
                pod.name.clone(),
                pod.node.clone(),
                pod.phase.clone(),
                pod.addresses.join("\n"),
            ]);
        }
        rows
    }

    fn pings_table(&self) -> Table {
        let mut header = vec!["from \\ to"];
        header.extend(self.pings.iter().map(|row| row.from.as_str()));
        let mut rows = table(&header);
        for row in &self.pings {
            let mut cells = vec![row.from.clone()];
            for to in &self.pings {
                let probes = row.to.get(&to.from).map_or(&[][..], Vec::as_slice);
                let cell: Vec<String> = probes.iter().map(show_probe).collect();
                cells.push(if cell.is_empty() { "-".into() } else { cell.join("/") });
            }
            rows.add_row(cells);
        }
        rows
    }
}

impl PodRow {
    fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        Self {
            name: name(pod),
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default(),
            phase: status.and_then(|s| s.phase.clone()).unwrap_or_else(|| "-".into()),
            ready: is_ready(pod),
            addresses: pod_addresses(pod).iter().map(ToString::to_string).collect(),
        }
    }
}

/// `NAME`, or `NAMESPACE/NAME` outside the namespace `default`.
fn name(pod: &Pod) -> String {
    let name = pod.metadata.name.clone().unwrap_or_default();
    match pod.metadata.namespace.as_deref() {
        None | Some("default") => name,
        Some(namespace) => format!("{namespace}/{name}"),
    }
}

fn show_probe(probe: &Probe) -> String {
    match (&probe.error, probe.micros) {
        (None, Some(micros)) => format!("{}.{:02}", micros / 1000, micros % 1000 / 10),
        (Some(error), _) => error.clone(),
        (None, None) => "ok".into(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|title| (*title).to_owned()));
    table
}
