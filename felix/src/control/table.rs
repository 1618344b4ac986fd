//! The agent's answers as text for a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::Table;

use super::{AnswerMode, EndpointRow, RouteRow, Rows, StatusReport};
use crate::source::{KindState, SourceStatus};

pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    table
}

/// Without the blanks around each line.
pub(super) fn text(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        text.push('\n');
    }
    text
}

/// `felix endpoints`.
pub fn endpoints_table(rows: &Rows<EndpointRow>) -> String {
    let mut table =
        table(["NAMESPACE", "POD", "ADDRESSES", "INTERFACE", "PROGRAMMED", "INGRESS", "EGRESS"]);
    for row in &rows.rows {
        let addresses: Vec<String> = row.addresses.iter().map(ToString::to_string).collect();
        table.add_row([
            row.namespace.clone(),
            row.pod.clone(),
            addresses.join(","),
            row.interface.clone(),
            yes_or_no(row.programmed),
            or_none(&row.ingress),
            or_none(&row.egress),
        ]);
    }
    with_rest(text(&table), rows, "endpoints")
}

/// `felix routes`.
pub fn routes_table(rows: &Rows<RouteRow>) -> String {
    let mut table = table(["PREFIX", "NEXT HOPS", "ORIGIN", "INSTALLED"]);
    for row in &rows.rows {
        table.add_row([
            row.prefix.to_string(),
            or_none(&row.next_hops),
            row.origin.clone(),
            yes_or_no(row.installed),
        ]);
    }
    with_rest(text(&table), rows, "routes")
}

pub(super) fn with_rest<T>(mut text: String, rows: &Rows<T>, what: &str) -> String {
    if rows.rows.len() < rows.total {
        // Writing to a String does not fail, here and below.
        let _ = writeln!(text, "({} of {} {what})", rows.rows.len(), rows.total);
    } else if rows.total == 0 {
        text = format!("no {what} on this node\n");
    }
    text
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn or_none(items: &[String]) -> String {
    if items.is_empty() { "<none>".to_owned() } else { items.join(",") }
}

/// `felix status`.
pub fn status_text(report: &StatusReport) -> String {
    let StatusReport {
        node,
        version,
        uptime_seconds,
        conditions,
        source,
        ipam,
        kernel,
        bgp,
        endpoints,
    } = report;
    let mut text = String::new();
    let ready = if conditions.iter().all(|c| c.reason.is_none()) { "ready" } else { "not ready" };
    let _ = writeln!(text, "Node:       {node}, {ready}");
    for condition in conditions {
        if let Some(reason) = &condition.reason {
            let _ = writeln!(text, "            {}: {reason}", condition.name);
        }
    }
    let _ = writeln!(text, "Agent:      felix {version}, up {}", duration(*uptime_seconds));
    write_source(&mut text, source);
    let used: u64 = ipam.blocks.iter().map(|block| block.used).sum();
    let _ = writeln!(
        text,
        "IPAM:       {}, {}, {} blocks, {used} addresses in use",
        ipam.store,
        match ipam.mode {
            AnswerMode::Synchronous => "synchronous",
            AnswerMode::LocalFirst => "local-first",
        },
        ipam.blocks.len()
    );
    if let Some(seconds) = ipam.behind_seconds {
        let (behind, since) = (ipam.behind, duration(seconds));
        let _ = writeln!(text, "            the store is behind: {behind} addresses, for {since}");
    }
    for lost in &ipam.lost {
        let _ = writeln!(
            text,
            "            LOST: {lost} is somebody else's; start its pods on this node anew"
        );
    }
    if let Some(frozen) = &ipam.frozen {
        let _ = writeln!(text, "            FROZEN: no block is claimed: {frozen}");
    }
    if let Some(error) = &ipam.error {
        let _ = writeln!(text, "            unavailable: {error}");
    }
    for block in &ipam.blocks {
        let _ = writeln!(text, "            {} {}/{}", block.cidr, block.used, block.size);
    }
    let in_sync = if kernel.in_sync { "in sync" } else { "not in sync" };
    let _ = writeln!(
        text,
        "Kernel:     {in_sync}, {} elements, {} routes, {} repairs",
        kernel.elements, kernel.routes, kernel.repairs
    );
    if let Some(error) = &kernel.error {
        let _ = writeln!(text, "            {error}");
    }
    for left_out in &kernel.left_out {
        let _ = writeln!(text, "            left out: {left_out}");
    }
    let _ = writeln!(text, "Endpoints:  {endpoints}");
    let up = bgp.peers.iter().filter(|peer| peer.state == "Established").count();
    match (bgp.local_as, bgp.router_id) {
        (Some(local_as), Some(id)) => {
            let _ = writeln!(
                text,
                "BGP:        AS {local_as}, router ID {id}, {up} of {} peers up",
                bgp.peers.len()
            );
            if bgp.draining {
                text.push_str("            draining: the node's routes are the last choice\n");
            }
        }
        _ => text.push_str("BGP:        not configured\n"),
    }
    if !bgp.peers.is_empty() {
        let mut peers =
            table(["PEER", "AS", "ORIGIN", "STATE", "SINCE", "RECEIVED", "ADVERTISED", "REASON"]);
        for peer in &bgp.peers {
            peers.add_row([
                peer.address.to_string(),
                peer.remote_as.to_string(),
                peer.origin.clone(),
                peer.state.clone(),
                duration(peer.since_seconds),
                peer.received.to_string(),
                peer.advertised.to_string(),
                peer.reason.clone().unwrap_or_default(),
            ]);
        }
        text.push('\n');
        text.push_str(&self::text(&peers));
    }
    text
}

fn write_source(text: &mut String, source: &SourceStatus) {
    let objects: usize = source.kinds.values().map(|kind| kind.objects).sum();
    let in_sync = if source.in_sync { "in sync" } else { "not in sync" };
    let connected = if source.connected().is_ok() { "connected" } else { "disconnected" };
    let _ =
        writeln!(text, "Source:     {}, {in_sync}, {connected}, {objects} objects", source.origin);
    for (kind, status) in &source.kinds {
        if status.state != KindState::Watching {
            let error = status.error.as_deref().unwrap_or("being listed");
            let _ = writeln!(text, "            {kind}: {error}");
        }
    }
    for (name, problem) in &source.problems {
        let _ = writeln!(text, "            {name}: {problem}");
    }
    for unsupported in &source.unsupported {
        let _ = writeln!(
            text,
            "            {} {}: not supported yet, set by {} objects",
            unsupported.kind, unsupported.field, unsupported.objects
        );
    }
}

/// The two largest units, as `3d4h`, `5m7s`.
pub(super) fn duration(seconds: u64) -> String {
    let left = Duration::from_secs(seconds).as_secs();
    let units =
        [(left / 86400, "d"), (left / 3600 % 24, "h"), (left / 60 % 60, "m"), (left % 60, "s")];
    let first = units.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    units[first..].iter().take(2).map(|(n, unit)| format!("{n}{unit}")).collect()
}
