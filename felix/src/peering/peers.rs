//! The desired configuration: the speaker's own values, the node-to-node mesh and the BGPPeers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::selector::Selector;
use api::v3;
use bgpd::config::{NextHopMode, Password};
use bgpd::policy::{Policy, Rule, Source};
use bgpd::wire::Family;
use bgpd::{Network, PeerConfig};
use ipnet::IpNet;

use super::{Peering, Plan, Problem, hashed_router_id};
use crate::model::{Node, ObjectKey};

/// TTL towards external peers that have no TTL security: as Calico, which always speaks multihop.
const EXTERNAL_TTL: u8 = 64;

/// What this process adds to the resources.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// The blocks of this node.
    pub blocks: Arc<[IpNet]>,
    /// The kernel still forwards what an earlier run of the agent installed.
    pub restarting: bool,
    /// The node's links, with their addresses.
    pub links: Vec<Link>,
}

/// A link of the node, by its addresses. Link-local ones are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Addresses and the networks they are in.
    pub addresses: Vec<IpNet>,
}

impl Link {
    /// The first address of a family.
    fn address(&self, ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv4() == ipv4)
    }
}

impl Peering {
    /// The whole desired configuration. None while the source has not named this node.
    pub fn plan(&self, local: &Local) -> Option<Plan> {
        let node = self.node()?;
        let mut problems = Vec::new();
        let router_id = node.ipv4.unwrap_or_else(|| hashed_router_id(&node.name));
        let mut config = bgpd::Config::new(router_id, self.as_number(node));
        let port = self.listen_port(&node.name);
        config.listen = listen(port);
        config.graceful_restart.restarting = local.restarting;
        config.networks = self.networks(local);

        // A peer named by several objects is one session; the mesh comes last, as a BGPPeer is
        // the more deliberate wish. The key is what the speaker tells sessions apart by.
        let mut sessions: BTreeMap<(IpAddr, u16), PeerConfig> = BTreeMap::new();
        for (name, peer) in &self.peers {
            match self.sessions(node, name, &peer.spec) {
                Ok(found) => {
                    for session in found {
                        sessions.entry((session.address, session.port)).or_insert(session);
                    }
                }
                Err((field, reason)) => {
                    problems.push(Problem { object: format!("BGPPeer/{name}"), field, reason });
                }
            }
        }
        if self.mesh_enabled() {
            match self.mesh(node) {
                Ok(found) => {
                    for session in found {
                        sessions.entry((session.address, session.port)).or_insert(session);
                    }
                }
                Err((field, reason)) => problems.push(Problem {
                    object: "BGPConfiguration/default".into(),
                    field,
                    reason,
                }),
            }
        }
        config.peers = sessions.into_values().collect();
        for session in &mut config.peers {
            name_ourselves(session, node, &local.links);
        }
        problems.sort();
        Some(Plan { config, problems })
    }

    /// The cluster-wide settings.
    fn defaults(&self) -> Option<&v3::BGPConfigurationSpec> {
        self.configurations.get("default").map(|object| &object.spec)
    }

    pub(super) fn cluster_as(&self) -> u32 {
        self.defaults().map_or(v3::DEFAULT_AS_NUMBER, v3::BGPConfigurationSpec::as_number).0
    }

    fn mesh_enabled(&self) -> bool {
        self.defaults().is_none_or(v3::BGPConfigurationSpec::node_to_node_mesh_enabled)
    }

    /// The node's own setting, else the cluster's.
    fn listen_port(&self, node: &str) -> u16 {
        let of =
            |name: &str| self.configurations.get(name).and_then(|object| object.spec.listen_port);
        of(&format!("node.{node}")).or_else(|| of("default")).unwrap_or(v3::DEFAULT_LISTEN_PORT)
    }

    /// Own blocks, but for those in pools that are not to be exported.
    fn networks(&self, local: &Local) -> Vec<Network> {
        let kept_back: Vec<IpNet> = self
            .pools
            .values()
            .filter(|pool| pool.spec.disable_bgp_export)
            .filter_map(|pool| pool.spec.cidr.parse().ok())
            .collect();
        let exported = |block: &&IpNet| !kept_back.iter().any(|pool| pool.contains(*block));
        local.blocks.iter().filter(exported).copied().map(Network::new).collect()
    }

    /// A session to each other node that shares an address family with us.
    fn mesh(&self, node: &Node) -> Result<Vec<PeerConfig>, (&'static str, String)> {
        let spec = self.defaults();
        let password = match spec.and_then(|spec| spec.node_mesh_password.as_ref()) {
            Some(password) => Some(self.password(password, "spec.nodeMeshPassword.secretKeyRef")?),
            None => None,
        };
        let others = self.nodes.values().filter(|other| other.name != node.name);
        // Route reflectors are reached through BGPPeers (`calico.md` 5.3).
        let in_mesh = |other: &&Node| {
            node.route_reflector_cluster_id.is_none() && other.route_reflector_cluster_id.is_none()
        };
        let sessions = others.filter(in_mesh).filter_map(|other| {
            let mut session = self.to_node(node, other, format!("Mesh_{}", other.name))?;
            session.password = password.clone();
            session.restart_time =
                spec.and_then(|spec| spec.node_mesh_max_restart_time).map(|time| seconds(time.0));
            Some(session)
        });
        Ok(sessions.collect())
    }

    /// A session between two nodes, over IPv4 if both have it. None if they share no family.
    fn to_node(&self, node: &Node, other: &Node, name: String) -> Option<PeerConfig> {
        let address: IpAddr = match (node.ipv4, other.ipv4, node.ipv6, other.ipv6) {
            (Some(_), Some(address), _, _) => address.into(),
            (_, _, Some(_), Some(address)) => address.into(),
            _ => return None,
        };
        let mut session = PeerConfig::new(name, address, self.as_number(other));
        session.port = self.listen_port(&other.name);
        session.source_address = node_address(node, address);
        session.description = format!("node {}", other.name);
        finish(&mut session, node, self.as_number(node));
        Some(session)
    }

    /// What one BGPPeer means for this node: none, one, or one for each node it selects.
    fn sessions(
        &self,
        node: &Node,
        name: &str,
        spec: &v3::BGPPeerSpec,
    ) -> Result<Vec<PeerConfig>, (&'static str, String)> {
        let selected = match (spec.node.as_str(), spec.node_selector.as_str()) {
            ("", "") => true,
            ("", text) => selector("spec.nodeSelector", text)?.matches(&node.labels),
            (wanted, _) => *wanted == *node.name,
        };
        if !selected {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        if !spec.peer_selector.is_empty() {
            let selector = selector("spec.peerSelector", &spec.peer_selector)?;
            for other in self.nodes.values() {
                if other.name != node.name && selector.matches(&other.labels) {
                    found.extend(self.to_node(node, other, format!("Node_{}", other.name)));
                }
            }
        } else if !spec.peer_ip.is_empty() {
            let (address, port) = parse_peer_ip(&spec.peer_ip).ok_or_else(|| {
                (
                    "spec.peerIP",
                    format!("{:?} is not an address with an optional port", spec.peer_ip),
                )
            })?;
            let Some(asn) = spec.as_number else {
                return Err(("spec.asNumber", "is required with spec.peerIP".into()));
            };
            if node_address(node, address).is_none() {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                return Err(("spec.peerIP", format!("node {} has no {family} address", node.name)));
            }
            let mut session = PeerConfig::new(name, address, asn.into());
            // A node's own port, where the peer is a node and no port is given.
            let peer_node =
                self.nodes.values().find(|other| node_address(other, address) == Some(address));
            let node_port = || Some(self.listen_port(&peer_node?.name));
            session.port = port.or_else(node_port).unwrap_or(v3::DEFAULT_LISTEN_PORT);
            session.source_address = node_address(node, address);
            finish(&mut session, node, self.as_number(node));
            found.push(session);
        } else {
            return Err(("spec", "one of peerIP and peerSelector is required".into()));
        }
        for session in &mut found {
            self.refine(session, spec, node)?;
        }
        Ok(found)
    }

    /// The settings that a BGPPeer makes beyond who the peer is.
    fn refine(
        &self,
        session: &mut PeerConfig,
        spec: &v3::BGPPeerSpec,
        node: &Node,
    ) -> Result<(), (&'static str, String)> {
        if let Some(password) = &spec.password {
            session.password = Some(self.password(password, "spec.password.secretKeyRef")?);
        }
        if spec.source_address() == v3::SourceAddress::None {
            session.source_address = None;
        }
        session.local_asn = spec.local_as_number.map(u32::from);
        session.restart_time = spec.max_restart_time.map(|time| seconds(time.0));
        session.keepalive_time = spec.keepalive_time.map(|time| seconds(time.0));
        session.ttl_security = spec.ttl_security.filter(|hops| *hops > 0);
        if let Some(times) = spec.num_allowed_local_as_numbers {
            session.allowas_in = u8::try_from(times).unwrap_or(u8::MAX);
        }
        session.next_hop = match spec.next_hop_mode() {
            v3::NextHopMode::Own => NextHopMode::Ourselves,
            v3::NextHopMode::Keep => NextHopMode::Keep,
            v3::NextHopMode::Auto => NextHopMode::Auto,
        };
        finish(session, node, self.as_number(node));
        Ok(())
    }

    /// The value of a key of a Secret.
    fn password(
        &self,
        password: &v3::BGPPassword,
        field: &'static str,
    ) -> Result<Password, (&'static str, String)> {
        let Some(reference) = &password.secret_key_ref else {
            return Err((field, "is required".into()));
        };
        let key = ObjectKey::namespaced(&self.secret_namespace, &reference.name);
        let Some(secret) = self.secrets.get(&key) else {
            return Err((field, format!("there is no Secret {key}, or it may not be read")));
        };
        let Some(value) = secret.data.get(&reference.key) else {
            return Err((field, format!("Secret {key} has no key {:?}", reference.key)));
        };
        match std::str::from_utf8(value) {
            Ok(text) if (1..=80).contains(&text.len()) => Ok(Password::new(text)),
            _ => Err((
                field,
                format!("key {:?} of Secret {key} is not a text of 1 to 80 bytes", reference.key),
            )),
        }
    }
}

/// What holds for every session: families, next hops, TTL, filters. A node is no transit: it tells
/// of its own blocks and of nothing it has learned.
fn finish(session: &mut PeerConfig, node: &Node, asn: u32) {
    let own = session.address.is_ipv4();
    session.families = Family::ALL
        .into_iter()
        .filter(|family| match family {
            Family::Ipv4Unicast => own || node.ipv4.is_some(),
            Family::Ipv6Unicast => !own || node.ipv6.is_some(),
        })
        .collect();
    let external = session.local_asn.unwrap_or(asn) != session.asn;
    session.multihop = (external && session.ttl_security.is_none()).then_some(EXTERNAL_TTL);
    let learned = Rule {
        source: Some(Source::RemotePeers),
        action: bgpd::policy::Action::Reject,
        ..Rule::default()
    };
    session.export = Some(Policy { rules: vec![learned], ..Policy::accept() });
    session.import = Some(Policy::accept());
}

/// The next hop in our routes. In the session's own family that is its local address. In the other
/// one it must be an address that the peer reaches on the link between us: on a node with several
/// uplinks, not always the node's own.
fn name_ourselves(session: &mut PeerConfig, node: &Node, links: &[Link]) {
    let peer = session.address;
    let link = links.iter().find(|link| link.addresses.iter().any(|net| net.contains(&peer)));
    match link.and_then(|link| link.address(!peer.is_ipv4())) {
        Some(IpAddr::V4(address)) => session.next_hop_v4 = Some(address),
        Some(IpAddr::V6(address)) => session.next_hop_v6 = Some(address),
        None if peer.is_ipv4() => session.next_hop_v6 = node.ipv6,
        None => session.next_hop_v4 = node.ipv4,
    }
}

fn listen(port: u16) -> Vec<std::net::SocketAddr> {
    vec![(Ipv4Addr::UNSPECIFIED, port).into(), (std::net::Ipv6Addr::UNSPECIFIED, port).into()]
}

/// The node's address of the family of `peer`.
fn node_address(node: &Node, peer: IpAddr) -> Option<IpAddr> {
    if peer.is_ipv4() { node.ipv4.map(IpAddr::from) } else { node.ipv6.map(IpAddr::from) }
}

fn selector(field: &'static str, text: &str) -> Result<Selector, (&'static str, String)> {
    Selector::parse(text).map_err(|error| (field, error.to_string()))
}

/// `ip`, `ip:port` (IPv4) or `[ip]:port` (IPv6), as in `BGPPeer.spec.peerIP`.
pub(super) fn parse_peer_ip(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse() {
        return Some((address, None));
    }
    let address: std::net::SocketAddr = text.parse().ok()?;
    (address.port() != 0).then_some((address.ip(), Some(address.port())))
}

/// Whole seconds, at least one, at most what the wire can say.
fn seconds(time: std::time::Duration) -> u16 {
    u16::try_from(time.as_secs().max(1)).unwrap_or(u16::MAX)
}
