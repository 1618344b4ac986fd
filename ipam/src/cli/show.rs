//! `ipam show`.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;

use ipam::block::{AddressState, Attribute, Block};
use ipnet::IpNet;
use serde::Serialize;

use super::data::{Data, properties};
use super::{Outcome, json, table};

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Show whether this address is assigned, and to whom. Exits with 1 if it is not.
    #[arg(long, value_name = "IP", group = "what")]
    ip: Option<IpAddr>,
    /// Show each block below its pool.
    #[arg(long, group = "what")]
    show_blocks: bool,
    /// Show the addresses that are in use outside the node of their block.
    #[arg(long, group = "what")]
    show_borrowed: bool,
    /// Show the cluster's IPAM configuration.
    #[arg(long, group = "what")]
    show_configuration: bool,
}

pub(crate) fn run(
    data: &Data,
    options: &Options,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let Options { ip, show_blocks, show_borrowed, show_configuration } = options;
    if let Some(ip) = ip {
        return address(data, *ip, as_json, out);
    }
    if *show_configuration {
        return configuration(data, as_json, out);
    }
    if *show_borrowed {
        return borrowed(data, as_json, out);
    }
    usage(data, *show_blocks, as_json, out)
}

/// One row of the usual table.
#[derive(Debug, Serialize)]
struct Usage {
    grouping: &'static str,
    cidr: IpNet,
    total: f64,
    #[serde(rename = "inUse")]
    in_use: f64,
    reserved: f64,
    free: f64,
}

fn usage(data: &Data, blocks: bool, as_json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let reserved = IpNet::aggregate(&data.pools.reservations);
    let mut rows = Vec::new();
    let mut without_pool: BTreeMap<_, _> = data.blocks.iter().collect();
    for pool in &data.pools.pools {
        let inside: Vec<&Block> =
            data.blocks.values().filter(|block| pool.cidr.contains(&block.cidr())).collect();
        rows.push(row("IP Pool", pool.cidr, &inside, &reserved));
        for block in inside {
            without_pool.remove(&block.cidr());
            if blocks {
                rows.push(row("Block", block.cidr(), &[block], &reserved));
            }
        }
    }
    if blocks {
        rows.extend(without_pool.values().map(|b| row("Block", b.cidr(), &[b], &reserved)));
    }
    if as_json {
        json(out, &rows)?;
    } else {
        let header = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"];
        table(out, &header, 2, rows.iter().map(Usage::cells))?;
    }
    Ok(Outcome::Well)
}

fn row(grouping: &'static str, cidr: IpNet, blocks: &[&Block], reserved: &[IpNet]) -> Usage {
    let total = size(&cidr);
    let in_use: usize = blocks.iter().map(|block| block.in_use()).sum();
    let both = blocks
        .iter()
        .flat_map(|block| block.occupied())
        .filter(|(address, _)| reserved.iter().any(|net| net.contains(address)))
        .count();
    let inside =
        reserved.iter().filter_map(|net| match (cidr.contains(net), net.contains(&cidr)) {
            (true, _) => Some(size(net)),
            (_, true) => Some(total),
            _ => None,
        });
    // Not `sum`, whose empty sum is -0.
    let reserved = inside.fold(0.0, |sum, some| sum + some);
    let (in_use, both) = (float(in_use), float(both));
    Usage { grouping, cidr, total, in_use, reserved, free: total - in_use - reserved + both }
}

impl Usage {
    fn cells(&self) -> Vec<String> {
        let part = |n: f64| format!("{} ({:.0}%)", five_digits(n), n / self.total * 100.0);
        vec![
            self.grouping.to_owned(),
            self.cidr.to_string(),
            five_digits(self.total),
            part(self.in_use),
            part(self.reserved),
            part(self.free),
        ]
    }
}

/// The number of addresses of a network.
fn size(net: &IpNet) -> f64 {
    2_f64.powi(i32::from(net.max_prefix_len() - net.prefix_len()))
}

#[allow(clippy::cast_precision_loss, reason = "shown with five digits")]
fn float(n: usize) -> f64 {
    n as f64
}

/// As C's `%.5g`: five significant digits, an exponent where the number needs more places.
fn five_digits(n: f64) -> String {
    let scientific = format!("{n:.4e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..5).contains(&exponent) {
        let places = usize::try_from(4 - exponent).unwrap_or(0);
        return trim(&format!("{n:.places$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(digits), exponent.abs())
}

/// What is said of one address.
#[derive(Serialize)]
struct Address<'a> {
    ip: IpAddr,
    #[serde(rename = "inUse")]
    in_use: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    handle: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a Attribute>,
    #[serde(rename = "releasedAt", skip_serializing_if = "Option::is_none")]
    released_at: Option<String>,
}

fn address(data: &Data, ip: IpAddr, as_json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let block = data.blocks.values().find(|block| block.cidr().contains(&ip));
    if block.is_none()
        && let Some(corrupt) = data.corrupt.iter().find(|corrupt| {
            ipam::model::parse_block_key(&corrupt.key).is_some_and(|cidr| cidr.contains(&ip))
        })
    {
        anyhow::bail!("the block of {ip} cannot be read: {corrupt}");
    }
    let state = block.and_then(|block| block.state(ip)).unwrap_or(AddressState::Free);
    let attributes = match state {
        AddressState::Allocated(attributes, _) => Some(attributes),
        _ => None,
    };
    let released_at = match state {
        AddressState::CoolingDown(since) => Some(since.to_string()),
        _ => None,
    };
    let in_use = attributes.is_some();
    let handle = attributes.and_then(|attributes| attributes.handle_id.as_deref());
    let found = if in_use { Outcome::Well } else { Outcome::Found };
    if as_json {
        let block = block.map(Block::cidr);
        json(out, &Address { ip, in_use, handle, block, attributes, released_at })?;
        return Ok(found);
    }
    let Some(attributes) = attributes else {
        writeln!(out, "{ip} is not assigned")?;
        if let Some(since) = released_at {
            writeln!(out, "Released at: {since} (cooling down)")?;
        }
        return Ok(found);
    };
    writeln!(out, "IP {ip} is in use")?;
    writeln!(out, "Handle ID: {}", handle.unwrap_or("<none>"))?;
    let mut list = |title: &str, map: &Option<BTreeMap<String, String>>| -> std::io::Result<bool> {
        let Some(map) = map.as_ref().filter(|map| !map.is_empty()) else { return Ok(false) };
        writeln!(out, "{title} Owner Attributes:")?;
        for (key, value) in map {
            writeln!(out, "  {key}: {value}")?;
        }
        Ok(true)
    };
    let active = list("Active", &attributes.owner)?;
    list("Alternate", &attributes.alternate_owner)?;
    if !active {
        writeln!(out, "No Active Owner attributes defined")?;
    }
    Ok(found)
}

/// An address that is in use outside the node of its block.
#[derive(Serialize)]
struct Borrowed<'a> {
    ip: IpAddr,
    #[serde(rename = "borrowingNode")]
    node: &'a str,
    block: IpNet,
    #[serde(rename = "blockOwner")]
    owner: &'a str,
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "allocatedTo")]
    allocated_to: String,
}

fn borrowed(data: &Data, as_json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    let mut rows = Vec::new();
    for block in data.blocks.values() {
        for (ip, state) in block.occupied() {
            let AddressState::Allocated(attributes, _) = state else { continue };
            let Some(node) = attributes.get("node") else { continue };
            if block.node() == Some(node) {
                continue;
            }
            let (kind, allocated_to) = user(attributes);
            let owner = block.affinity().unwrap_or("");
            let owner = owner.strip_prefix("host:").unwrap_or(owner);
            rows.push(Borrowed { ip, node, block: block.cidr(), owner, kind, allocated_to });
        }
    }
    if as_json {
        json(out, &rows)?;
    } else {
        let header = ["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"];
        let cells = rows.iter().map(|row| {
            vec![
                row.ip.to_string(),
                row.node.to_owned(),
                row.block.to_string(),
                row.owner.to_owned(),
                row.kind.clone(),
                row.allocated_to.clone(),
            ]
        });
        table(out, &header, header.len(), cells)?;
    }
    Ok(Outcome::Well)
}

/// What kind of thing has an address, and which one.
pub(super) fn user(attributes: &Attribute) -> (String, String) {
    match (attributes.get("type"), attributes.get("namespace"), attributes.get("pod")) {
        (Some(kind), ..) => {
            let namespace = attributes.get("namespace").unwrap_or_default();
            let service = attributes.get("service").map(|service| format!("{namespace}/{service}"));
            let what = service.or_else(|| attributes.get("node").map(str::to_owned));
            (kind.to_owned(), what.unwrap_or_default())
        }
        (None, namespace, Some(pod)) => {
            ("pod".to_owned(), format!("{}/{pod}", namespace.unwrap_or_default()))
        }
        _ => (String::new(), attributes.handle_id.clone().unwrap_or_default()),
    }
}

fn configuration(data: &Data, as_json: bool, out: &mut dyn Write) -> anyhow::Result<Outcome> {
    // The one that agents take.
    let config = data.pools.configuration.clone().or(data.config.clone()).unwrap_or_default();
    if as_json {
        json(out, &config)?;
        return Ok(Outcome::Well);
    }
    let rows = properties(&config).into_iter();
    let cells = rows.map(|(property, value)| vec![property.to_owned(), value]);
    table(out, &["PROPERTY", "VALUE"], 2, cells)?;
    Ok(Outcome::Well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_five_digits() {
        for (number, text) in [
            (0.0, "0"),
            (9.0, "9"),
            (65536.0, "65536"),
            (131_072.0, "1.3107e+05"),
            (99_999.5, "1e+05"),
            (18_446_744_073_709_551_616.0, "1.8447e+19"),
            (1_048_576.0, "1.0486e+06"),
        ] {
            assert_eq!(five_digits(number), text);
        }
    }
}
