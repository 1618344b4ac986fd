//! What lives in the cluster, as `kubectl get pods,nodes -A -o yaml` tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use ipam::block::Attribute;
use ipam::timestamp::Timestamp;
use serde_json::Value;

use super::data;

/// Pods and nodes.
#[derive(Debug)]
pub(crate) struct Live {
    /// Namespace and name of each pod that is not over, and its addresses; none yet if it starts.
    pods: BTreeMap<(String, String), BTreeSet<IpAddr>>,
    /// None: the list has no nodes in it, and says nothing of them.
    nodes: Option<BTreeSet<String>>,
}

impl Live {
    /// How old an allocation must be to count as unused where nothing else is said: Calico's
    /// `leakGracePeriod`. A younger one may be of a pod that is not in the list yet.
    pub(crate) const GRACE: Duration = Duration::from_secs(15 * 60);

    /// Reads a file.
    pub(crate) fn from_file(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let mut live = Self { pods: BTreeMap::new(), nodes: None };
        for document in data::documents(path)? {
            live.add(&document).with_context(|| name.to_string())?;
        }
        if live.pods.is_empty() {
            bail!("{name}: no pod in it; a list that came back empty proves nothing");
        }
        Ok(live)
    }

    fn add(&mut self, object: &Value) -> anyhow::Result<()> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        match text("/kind") {
            Some(kind) if kind.ends_with("List") => {
                let items = object.get("items").and_then(Value::as_array);
                for item in items.into_iter().flatten() {
                    self.add(item)?;
                }
            }
            Some("Pod") => {
                let name = text("/metadata/name").context("a pod has no metadata.name")?;
                let namespace = text("/metadata/namespace").unwrap_or("default");
                let pod = (namespace.to_owned(), name.to_owned());
                // Its sandbox is gone and so is its address.
                if matches!(text("/status/phase"), Some("Succeeded" | "Failed")) {
                    return Ok(());
                }
                let mut addresses = BTreeSet::new();
                let listed = object.pointer("/status/podIPs").and_then(Value::as_array);
                let listed = listed.into_iter().flatten().filter_map(|ip| ip.get("ip")?.as_str());
                for address in listed.chain(text("/status/podIP")) {
                    let read = address.parse();
                    addresses.insert(read.with_context(|| {
                        format!("pod {namespace}/{name}: {address:?} is not an address")
                    })?);
                }
                self.pods.insert(pod, addresses);
            }
            Some("Node") => {
                let name = text("/metadata/name").context("a node has no metadata.name")?;
                self.nodes.get_or_insert_default().insert(name.to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// The pods' addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (IpAddr, String)> + '_ {
        self.pods.iter().flat_map(|((namespace, pod), addresses)| {
            addresses.iter().map(move |ip| (*ip, format!("{namespace}/{pod}")))
        })
    }

    /// Whether an address that is allocated may be in use. What is not known to be unused is in
    /// use: what is no pod's and no node's, and what was allocated within the `grace` before `now`.
    pub(crate) fn uses(
        &self,
        ip: IpAddr,
        attribute: &Attribute,
        now: Timestamp,
        grace: Duration,
    ) -> bool {
        let young = match attribute.get("timestamp").map(from_go) {
            Some(Some(at)) => at.plus(grace) > now,
            // Nobody knows how old it is.
            Some(None) | None => attribute.get("type").is_none(),
        };
        if young {
            return true;
        }
        let (kind, node) = (attribute.get("type"), attribute.get("node"));
        match (kind, attribute.get("namespace"), attribute.get("pod")) {
            (Some(kind), ..) if kind.ends_with("TunnelAddress") => {
                self.nodes.as_ref().is_none_or(|nodes| node.is_none_or(|node| nodes.contains(node)))
            }
            (None, Some(namespace), Some(pod)) => {
                let found = self.pods.get(&(namespace.to_owned(), pod.to_owned()));
                found.is_some_and(|ips| ips.is_empty() || ips.contains(&ip))
            }
            _ => true,
        }
    }
}

/// Reads what Go's `time.Time.String` wrote of a time in UTC.
fn from_go(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once(' ')?;
    let time = rest.split_once(" +0000 UTC")?.0;
    format!("{date}T{time}Z").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipam::timestamp::Timestamp;

    fn live(yaml: &str) -> anyhow::Result<Live> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pods.yaml");
        std::fs::write(&file, yaml).unwrap();
        Live::from_file(&file)
    }

    const LIST: &str = "\
kind: List
items:
- {kind: Pod, metadata: {name: a, namespace: ns}, status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
- {kind: Pod, metadata: {name: starting, namespace: ns}}
- {kind: Pod, metadata: {name: over, namespace: ns}, status: {phase: Succeeded, podIP: 10.0.0.3}}
- {kind: Node, metadata: {name: node1}}
";

    #[test]
    fn what_is_not_proven_unused_is_in_use() {
        let live = live(LIST).unwrap();
        let at = Timestamp::from_seconds(1_787_405_600);
        let (young, old) = (at.plus(Duration::from_secs(60)), at.plus(Duration::from_secs(900)));
        let uses = |ip: &str, attributes: &[(&str, &str)], now| {
            let owner = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let owner = owner.chain([("timestamp".to_owned(), at.go_string())]).collect();
            let attribute = Attribute { owner: Some(owner), ..Attribute::default() };
            live.uses(ip.parse().unwrap(), &attribute, now, Live::GRACE)
        };
        let pod = |name| [("namespace", "ns"), ("pod", name)];
        assert!(uses("10.0.0.1", &pod("a"), old));
        assert!(!uses("10.0.0.2", &pod("a"), old), "another address");
        assert!(uses("10.0.0.2", &pod("a"), young));
        assert!(uses("10.0.0.2", &pod("starting"), old));
        assert!(!uses("10.0.0.3", &pod("over"), old));
        assert!(!uses("10.0.0.4", &pod("gone"), old));
        assert!(uses("10.0.0.4", &pod("gone"), young));
        let tunnel = |node| [("type", "vxlanTunnelAddress"), ("node", node)];
        assert!(uses("10.0.0.5", &tunnel("node1"), old));
        assert!(!uses("10.0.0.5", &tunnel("node2"), old));
        assert!(uses("10.0.0.6", &[("type", "LoadBalancer")], old));
        assert!(uses("10.0.0.7", &[], old), "nobody's");
        let ageless = Attribute {
            owner: Some(pod("gone").map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            ..Attribute::default()
        };
        assert!(live.uses("10.0.0.8".parse().unwrap(), &ageless, old, Live::GRACE));
    }

    #[test]
    fn a_list_that_proves_nothing_is_refused() {
        for (yaml, reason) in [
            ("kind: List\nitems: []\n", "no pod in it"),
            ("kind: List\nitems:\n- {kind: Node, metadata: {name: n1}}\n", "no pod in it"),
            (
                "{kind: Pod, metadata: {name: x}, status: {podIP: nowhere}}",
                "\"nowhere\" is not an address",
            ),
            ("{kind: Pod}", "no metadata.name"),
        ] {
            let error = format!("{:#}", live(yaml).unwrap_err());
            assert!(error.contains(reason) && error.contains("pods.yaml"), "{error}");
        }
    }
}
