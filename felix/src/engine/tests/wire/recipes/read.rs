//! A recipe's file: one document for the cluster and the truth table, then the objects.
//!
//! ```text
//! namespaces: {shop: {team: a}}             # labels; those that pods are in and that are not here have none
//! pods: {shop/api: {labels: {app: api}, account: api, ports: {http: tcp 80}}}
//! accounts: {shop/api: {role: server}}      # labels of service accounts
//! addresses: [10.96.0.1]                    # that the node has beside its own
//! tracked: false                            # policy leaves flows untracked: answers are not tried
//! idle: [name]                              # objects without which the table is the same
//! truth: |
//!   FROM       TO                 TRAFFIC            VERDICT
//!   shop/web   shop/api           tcp 80             allowed
//!   node       198.51.100.7       udp 53 from 5353   denied
//!   shop/web   eth1:203.0.113.9   icmp 8             denied
//! ```
//! Columns are two spaces apart. What is not said of a pod, an address or the node is IPv4 and IPv6.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::engine::tests::world::{ICMP, ICMPV6, SCTP, TCP, UDP, pod};
use crate::model::{ObjectKey, Pod};

/// Where addresses are that are not said to be elsewhere.
pub(super) const UPLINK: &str = "eth0";

type Labels = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(default)]
    namespaces: BTreeMap<String, Labels>,
    #[serde(default)]
    pods: BTreeMap<String, PodHead>,
    #[serde(default)]
    accounts: BTreeMap<String, Labels>,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    #[serde(default = "yes")]
    tracked: bool,
    #[serde(default)]
    idle: Vec<String>,
    truth: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodHead {
    #[serde(default)]
    labels: Labels,
    account: Option<String>,
    #[serde(default)]
    ports: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// A recipe.
pub(super) struct Recipe {
    pub(super) namespaces: BTreeMap<String, Labels>,
    pub(super) accounts: Vec<(ObjectKey, Labels)>,
    pub(super) pods: Vec<Pod>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) tracked: bool,
    pub(super) idle: Vec<String>,
    pub(super) rows: Vec<Row>,
    pub(super) manifests: String,
}

/// One end of a row.
pub(super) enum End {
    /// The node, by one of its addresses if that is said.
    Node(Option<IpAddr>),
    /// An address behind an interface.
    Outside(String, IpAddr),
    /// The pod of this place in the list.
    Pod(usize),
}

/// What is tried.
pub(super) struct Traffic {
    protocol: u8,
    /// Or type and code.
    pub(super) port: u16,
    pub(super) source: Option<u16>,
    /// Only of this family.
    pub(super) v6: Option<bool>,
}

impl Traffic {
    pub(super) fn protocol(&self, v6: bool) -> u8 {
        if self.protocol == ICMP && v6 { ICMPV6 } else { self.protocol }
    }

    fn read(text: &str) -> Option<Self> {
        let (what, source) = match text.split_once(" from ") {
            Some((what, port)) => (what, Some(port.parse().ok()?)),
            None => (text, None),
        };
        let (protocol, number) = what.split_once(' ')?;
        let types = || {
            let (kind, code) = number.split_once('/').unwrap_or((number, "0"));
            Some(u16::from_be_bytes([kind.parse().ok()?, code.parse().ok()?]))
        };
        let (protocol, port, v6) = match protocol {
            "tcp" => (TCP, number.parse().ok()?, None),
            "udp" => (UDP, number.parse().ok()?, None),
            "sctp" => (SCTP, number.parse().ok()?, None),
            "icmp" => (ICMP, types()?, Some(false)),
            "icmpv6" => (ICMPV6, types()?, Some(true)),
            _ => return None,
        };
        Some(Self { protocol, port, source, v6 })
    }
}

/// A line of the table.
pub(super) struct Row {
    /// As it was read.
    pub(super) line: String,
    pub(super) from: End,
    pub(super) to: End,
    pub(super) traffic: Traffic,
    pub(super) allowed: bool,
}

impl Recipe {
    /// Reads a file.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let (head, manifests) = text.split_once("\n---\n").ok_or("no objects")?;
        let head: Head = serde_saphyr::from_str(head).map_err(|error| error.to_string())?;
        let mut namespaces = head.namespaces;
        let mut pods = Vec::new();
        for (number, (name, of)) in (1u8..).zip(head.pods) {
            let key = super::key(&name)?;
            let namespace = key.namespace.as_deref().unwrap_or_default();
            namespaces.entry(namespace.into()).or_default();
            let labels: Vec<_> = of.labels.iter().map(|(k, v)| (&**k, &**v)).collect();
            let addresses = [format!("10.0.0.{number}"), format!("fd00::{number}")];
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let ports: Option<Vec<(&str, u8, u16)>> = of
                .ports
                .iter()
                .map(|(name, of)| Traffic::read(of).map(|of| (&**name, of.protocol, of.port)))
                .collect();
            let ports = ports.ok_or_else(|| format!("{name}: its ports"))?;
            let mut pod = pod(namespace, &key.name, &labels, &addresses, &ports);
            if let Some(account) = of.account {
                pod.service_account = account.into();
            }
            pods.push(pod);
        }
        let accounts: Result<Vec<_>, String> =
            head.accounts.into_iter().map(|(name, of)| Ok((super::key(&name)?, of))).collect();
        let mut rows = Vec::new();
        for line in head.truth.lines().skip(1) {
            rows.push(row(line, &pods).ok_or_else(|| format!("{line:?}: is no row"))?);
        }
        if !rows.iter().any(|row| row.allowed) || rows.iter().all(|row| row.allowed) {
            return Err("all rows say the same".into());
        }
        Ok(Self {
            namespaces,
            accounts: accounts?,
            pods,
            addresses: head.addresses,
            tracked: head.tracked,
            idle: head.idle,
            rows,
            manifests: manifests.into(),
        })
    }
}

fn row(line: &str, pods: &[Pod]) -> Option<Row> {
    let end = |text: &str| {
        if let Some(address) = text.strip_prefix("node:") {
            return Some(End::Node(Some(address.parse().ok()?)));
        }
        if text == "node" {
            return Some(End::Node(None));
        }
        if let Ok(address) = text.parse() {
            return Some(End::Outside(UPLINK.into(), address));
        }
        if let Some((interface, address)) = text.split_once(':') {
            return Some(End::Outside(interface.into(), address.parse().ok()?));
        }
        pods.iter().position(|pod| pod.key.to_string() == text).map(End::Pod)
    };
    let mut columns = line.split("  ").map(str::trim).filter(|text| !text.is_empty());
    let mut next = || columns.next();
    let (from, to, traffic, verdict) = (end(next()?)?, end(next()?)?, next()?, next()?);
    let allowed = match verdict {
        "allowed" => true,
        "denied" => false,
        _ => return None,
    };
    let (line, traffic) = (line.to_owned(), Traffic::read(traffic)?);
    next().is_none().then_some(Row { line, from, to, traffic, allowed })
}
