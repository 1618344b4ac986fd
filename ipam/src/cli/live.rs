//! What lives in the cluster, as `kubectl get pods,nodes,namespaces -A -o yaml` told it to a file. What
//! the file does not prove to be unused is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use ipam::block::{AddressState, Attribute, Block};
use ipam::model::Attachment;
use ipam::timestamp::Timestamp;
use serde_json::Value;

use super::data;

/// Pods, nodes and namespaces.
#[derive(Debug)]
pub(crate) struct Live {
    /// When the list was made: nothing is known of what came later.
    at: Timestamp,
    /// Namespace and name of each pod that is not over, and its addresses; none yet if it starts.
    pods: BTreeMap<(String, String), BTreeSet<IpAddr>>,
    /// None: the list has no nodes in it, and says nothing of them.
    nodes: Option<BTreeSet<String>>,
    /// None: the list has no namespaces in it.
    namespaces: Option<BTreeSet<String>>,
    /// Namespaces that the list has pods of, also of those that are over.
    listed: BTreeSet<String>,
    /// Namespace and name of pods, and the networks whose addresses their `status.podIPs` shows. It
    /// shows those of one network, whatever others a pod is attached to.
    shown: BTreeSet<(String, String, String)>,
}

impl Live {
    /// How old an allocation must be to count as unused where nothing else is said: Calico's
    /// `leakGracePeriod`. A younger one may be of a pod that is not in the list yet.
    pub(crate) const GRACE: Duration = Duration::from_secs(15 * 60);

    /// Reads a file, which may be as old as the `grace`, or as [`Live::GRACE`] if that is longer.
    ///
    /// # Errors
    /// It cannot be read, is older, or proves nothing.
    pub(crate) fn from_file(path: &Path, now: Timestamp, grace: Duration) -> anyhow::Result<Self> {
        let name = path.display();
        // Before it is read: it may be written again meanwhile.
        let written = std::fs::metadata(path).and_then(|metadata| metadata.modified());
        let written = Timestamp::from(written.with_context(|| name.to_string())?);
        let (age, most) = (now.since(written), grace.max(Self::GRACE));
        if age > most {
            bail!(
                "{name}: was written {} minutes ago, more than {}; make it anew",
                age.as_secs() / 60,
                most.as_secs() / 60
            );
        }
        let mut live = Self {
            at: written.min(now),
            pods: BTreeMap::new(),
            nodes: None,
            namespaces: None,
            listed: BTreeSet::new(),
            shown: BTreeSet::new(),
        };
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
                self.listed.insert(namespace.to_owned());
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
            Some("Namespace") => {
                let name = text("/metadata/name").context("a namespace has no metadata.name")?;
                self.namespaces.get_or_insert_default().insert(name.to_owned());
            }
            _ => {}
        }
        Ok(())
    }

    /// Learns of which networks the pods' addresses are.
    pub(crate) fn compare<'a>(&mut self, blocks: impl Iterator<Item = &'a Block>) {
        for (ip, state) in blocks.flat_map(Block::occupied) {
            if let AddressState::Allocated(attribute, _) = state
                && let (Some(pod), Some(network)) = (pod_of(attribute), network_of(attribute))
                && self.pods.get(&pod).is_some_and(|ips| ips.contains(&ip))
            {
                self.shown.insert((pod.0, pod.1, network.to_owned()));
            }
        }
    }

    /// The pods' addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (IpAddr, String)> + '_ {
        self.pods.iter().flat_map(|((namespace, pod), addresses)| {
            addresses.iter().map(move |ip| (*ip, format!("{namespace}/{pod}")))
        })
    }

    /// Whether an address of `block` that is allocated may be in use: unless it is proven that it is
    /// not. It is in use if it is no pod's and no node's, or if it was allocated within the `grace`
    /// before the list was made.
    pub(crate) fn uses(
        &self,
        ip: IpAddr,
        attribute: &Attribute,
        block: &Block,
        grace: Duration,
    ) -> bool {
        let tunnel = attribute.get("type").is_some_and(|kind| kind.ends_with("TunnelAddress"));
        let since = match attribute.get("timestamp") {
            Some(timestamp) => from_go(timestamp),
            // Calico's tunnel addresses do not say it. A node that came later has a later block.
            None if tunnel => block.claimed_at(),
            None => None,
        };
        // Where nobody knows how old it is, it may be young.
        if since.is_none_or(|at| at.plus(grace) > self.at) {
            return true;
        }
        if tunnel {
            let node = attribute.get("node");
            return self
                .nodes
                .as_ref()
                .is_none_or(|nodes| node.is_none_or(|node| nodes.contains(node)));
        }
        match (attribute.get("type"), pod_of(attribute)) {
            (None, Some(pod)) => self.pod_uses(&pod, ip, attribute),
            _ => true,
        }
    }

    fn pod_uses(&self, pod: &(String, String), ip: IpAddr, attribute: &Attribute) -> bool {
        match self.pods.get(pod) {
            Some(ips) if ips.is_empty() || ips.contains(&ip) => true,
            // What the pod has of another network the list does not show.
            Some(_) => network_of(attribute).is_none_or(|network| {
                !self.shown.contains(&(pod.0.clone(), pod.1.clone(), network.to_owned()))
            }),
            // Of a namespace without a pod in it the list may know nothing: it may be a list of one
            // namespace only.
            None => !self.listed.contains(&pod.0) && !self.is_gone(&pod.0),
        }
    }

    fn is_gone(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_some_and(|namespaces| !namespaces.contains(namespace))
    }
}

/// Namespace and name of the pod that an address was allocated to.
fn pod_of(attribute: &Attribute) -> Option<(String, String)> {
    Some((attribute.get("namespace")?.to_owned(), attribute.get("pod")?.to_owned()))
}

/// The CNI network whose address on the first interface of a container this is, if its handle tells
/// that for certain. Of other interfaces the list shows nothing.
fn network_of(attribute: &Attribute) -> Option<&str> {
    let attachment = Attachment::of_handle(attribute.handle_id.as_deref()?)?;
    attachment.interface.is_none().then_some(attachment.network)
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
    use std::time::UNIX_EPOCH;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_787_405_600 + seconds)
    }

    /// The list, made so many seconds after [`at`] 0 and read a minute later.
    fn live(yaml: &str, written: i64) -> anyhow::Result<Live> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pods.yaml");
        std::fs::write(&path, yaml).unwrap();
        let modified = UNIX_EPOCH + Duration::from_nanos(at(written).unix_nanos());
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        Live::from_file(&path, at(written + 60), Live::GRACE)
    }

    const LIST: &str = "\
kind: List
items:
- {kind: Pod, metadata: {name: a, namespace: ns}, status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
- {kind: Pod, metadata: {name: starting, namespace: ns}}
- {kind: Pod, metadata: {name: over, namespace: ns}, status: {phase: Succeeded, podIP: 10.0.0.3}}
- {kind: Node, metadata: {name: node1}}
";

    fn attribute(handle: &str, owner: &[(&str, &str)]) -> Attribute {
        let owner = owner.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Attribute {
            handle_id: Some(handle.to_owned()),
            owner: Some(owner.collect()),
            ..Attribute::default()
        }
    }

    /// A block that was claimed at 0.
    fn block() -> Block {
        Block::new("10.0.0.0/26".parse().unwrap(), Some("host:node2".to_owned()), at(0)).unwrap()
    }

    /// Whether an address that was allocated at 0 is in use.
    fn uses(live: &Live, ip: &str, handle: &str, owner: &[(&str, &str)]) -> bool {
        let born = at(0).go_string();
        let owner = [owner, &[("timestamp", &born)]].concat();
        live.uses(ip.parse().unwrap(), &attribute(handle, &owner), &block(), Live::GRACE)
    }

    fn pod(name: &str) -> [(&str, &str); 2] {
        [("namespace", "ns"), ("pod", name)]
    }

    #[test]
    fn what_is_not_proven_unused_is_in_use() {
        // The clock does not count: what was allocated after the list was made is not in it.
        let (young, old) = (live(LIST, 899).unwrap(), live(LIST, 900).unwrap());
        assert!(uses(&old, "10.0.0.1", "net.1", &pod("a")));
        assert!(uses(&old, "10.0.0.2", "net.2", &pod("starting")));
        assert!(!uses(&old, "10.0.0.3", "net.3", &pod("over")));
        assert!(!uses(&old, "10.0.0.4", "net.4", &pod("gone")));
        assert!(uses(&young, "10.0.0.4", "net.4", &pod("gone")));
        assert!(uses(&old, "10.0.0.6", "lb", &[("type", "LoadBalancer")]));
        assert!(uses(&old, "10.0.0.7", "x", &[]), "nobody's");
        let ageless = attribute("net.8", &pod("gone"));
        assert!(old.uses("10.0.0.8".parse().unwrap(), &ageless, &block(), Live::GRACE));
    }

    #[test]
    fn a_tunnel_address_is_as_old_as_it_says_or_as_its_block() {
        let (young, old) = (live(LIST, 899).unwrap(), live(LIST, 900).unwrap());
        let tunnel = |node| [("type", "vxlanTunnelAddress"), ("node", node)];
        assert!(uses(&old, "10.0.0.5", "t1", &tunnel("node1")));
        assert!(!uses(&old, "10.0.0.5", "t2", &tunnel("node2")));
        let ageless = |live: &Live, block: &Block| {
            let ip = "10.0.0.5".parse().unwrap();
            live.uses(ip, &attribute("t2", &tunnel("node2")), block, Live::GRACE)
        };
        assert!(!ageless(&old, &block()));
        assert!(ageless(&young, &block()));
        let unclaimed = Block::new("10.0.0.0/26".parse().unwrap(), None, at(0)).unwrap();
        assert!(ageless(&old, &unclaimed), "nothing says how old it is");
    }

    #[test]
    fn of_a_namespace_that_is_not_in_the_list_nothing_is_known() {
        let other = [("namespace", "other"), ("pod", "x")];
        assert!(uses(&live(LIST, 900).unwrap(), "10.0.0.9", "net.9", &other));
        let namespaces = |name: &str| {
            live(&format!("{LIST}- {{kind: Namespace, metadata: {{name: {name}}}}}\n"), 900)
                .unwrap()
        };
        // It has no pod, or was not asked for; and it is gone.
        assert!(uses(&namespaces("other"), "10.0.0.9", "net.9", &other));
        assert!(!uses(&namespaces("ns"), "10.0.0.9", "net.9", &other));
    }

    #[test]
    fn what_a_pod_has_of_another_network_is_in_use() {
        let mut live = live(LIST, 900).unwrap();
        let old = |live: &Live, handle: &str| uses(live, "10.0.0.2", handle, &pod("a"));
        assert!(old(&live, "net.1"), "nothing says whose network is shown");
        let mut block = block();
        let owner = attribute("net.2", &pod("a"));
        block.allocate_address("10.0.0.1".parse().unwrap(), &owner).unwrap();
        live.compare([&block].into_iter());
        assert!(!old(&live, "net.1"), "an earlier sandbox of the pod");
        let second = format!("net.{}.net1", "1".repeat(64));
        assert!(old(&live, &second), "a second interface in the same network");
        assert!(old(&live, "net2.2") && old(&live, "net2.1") && old(&live, "no-network"));
        assert!(!uses(&live, "10.0.0.2", "net2.1", &pod("gone")));
    }

    #[test]
    fn a_list_that_is_old_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pods.yaml");
        std::fs::write(&path, LIST).unwrap();
        let written = Timestamp::from(std::fs::metadata(&path).unwrap().modified().unwrap());
        let read = |age: u64, grace: u64| {
            let now = written.plus(Duration::from_secs(age));
            Live::from_file(&path, now, Duration::from_secs(grace))
        };
        assert!(read(900, 0).is_ok() && read(3600, 3600).is_ok());
        let error = format!("{:#}", read(961, 0).unwrap_err());
        assert!(error.contains("pods.yaml: was written 16 minutes ago, more than 15"), "{error}");
        assert!(read(3601, 3600).is_err());
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
            let error = format!("{:#}", live(yaml, 0).unwrap_err());
            assert!(error.contains(reason) && error.contains("pods.yaml"), "{error}");
        }
    }
}
