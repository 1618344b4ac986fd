//! With whom the node has sessions, and what they are like: the node-to-node mesh and the BGPPeers.

use std::net::IpAddr;

use api::selector::Selector;
use api::v3;
use bgpd::PeerConfig;
use bgpd::config::{InvalidField, NextHopMode, Password};
use bgpd::policy::{Policy, Rule, Source};
use bgpd::wire::Family;

use super::filters::Rules;
use super::{Peering, Problem};
use crate::model::{Node, ObjectKey};

/// TTL towards external peers that have no TTL security: as Calico, which always speaks multihop.
const EXTERNAL_TTL: u8 = 64;

/// The most seconds that a peer can be asked to wait for a restart (RFC 4724 section 3).
const RESTART_TIME_MAX: u16 = 4095;

pub(super) const AS_ANNOTATION: &str = "metadata.annotations[projectcalico.org/ASNumber]";

/// A field and why it keeps its object from being honoured.
type Refusal = (&'static str, String);

impl Peering {
    /// A session to each other node that shares an address family with us.
    pub(super) fn mesh(
        &self,
        node: &Node,
        problems: &mut Vec<Problem>,
    ) -> Result<Vec<PeerConfig>, Refusal> {
        let spec = self.defaults();
        let password = match spec.and_then(|spec| spec.node_mesh_password.as_ref()) {
            Some(password) => Some(self.password(password, "spec.nodeMeshPassword.secretKeyRef")?),
            None => None,
        };
        let restart_time = spec.and_then(|spec| spec.node_mesh_max_restart_time);
        let restart_time = restart_time.map(|time| seconds(time.0)).filter(|time| {
            let usable = *time <= RESTART_TIME_MAX;
            if !usable {
                // A mesh with the speaker's own time is better than none.
                let reason = format!("must be 1 to {RESTART_TIME_MAX} seconds");
                problems.push(mesh_problem("spec.nodeMeshMaxRestartTime", reason));
            }
            usable
        });
        let others = self.nodes.values().filter(|other| other.name != node.name);
        // Route reflectors are reached through BGPPeers (`calico.md` 5.3).
        let in_mesh = |other: &&Node| {
            node.route_reflector_cluster_id.is_none() && other.route_reflector_cluster_id.is_none()
        };
        let sessions = others.filter(in_mesh).filter_map(|other| {
            let mut session =
                self.to_node(node, other, format!("Mesh_{}", other.name), problems)?;
            session.password = password.clone();
            session.restart_time = restart_time;
            Some(session)
        });
        Ok(sessions.collect())
    }

    /// A session between two nodes, over IPv4 if both have it. None if they share no family, or
    /// if nobody can have a session with the other one as it is.
    fn to_node(
        &self,
        node: &Node,
        other: &Node,
        name: String,
        problems: &mut Vec<Problem>,
    ) -> Option<PeerConfig> {
        let address: IpAddr = match (node.ipv4, other.ipv4, node.ipv6, other.ipv6) {
            (Some(_), Some(address), _, _) => address.into(),
            (_, _, Some(_), Some(address)) => address.into(),
            _ => return None,
        };
        let mut session = PeerConfig::new(name, address, self.as_number(other));
        session.port = self.listen_port(&other.name);
        session.source_address = node_address(node, address);
        session.description = format!("node {}", other.name);
        finish(&mut session, node, self.own_as(node));
        if let Err(InvalidField { field, reason }) = session.validate() {
            let field = match field {
                "asn" => AS_ANNOTATION,
                "address" if address.is_ipv4() => {
                    "metadata.annotations[projectcalico.org/IPv4Address]"
                }
                "address" => "metadata.annotations[projectcalico.org/IPv6Address]",
                _ => "metadata",
            };
            problems.push(Problem { object: format!("Node/{}", other.name), field, reason });
            return None;
        }
        Some(session)
    }

    /// What one BGPPeer means for this node: no session, one, or one for each node on the other
    /// side, on whichever side this node is.
    pub(super) fn sessions(
        &self,
        node: &Node,
        name: &str,
        spec: &v3::BGPPeerSpec,
        problems: &mut Vec<Problem>,
    ) -> Result<Vec<PeerConfig>, Refusal> {
        let chosen: Box<dyn Fn(&Node) -> bool + '_> =
            match (spec.node.as_str(), spec.node_selector.as_str()) {
                ("", "") => Box::new(|_| true),
                ("", text) => {
                    let selector = selector("spec.nodeSelector", text)?;
                    Box::new(move |node| selector.matches(&node.labels))
                }
                (wanted, _) => Box::new(move |node| *wanted == *node.name),
            };
        let selected = chosen(node);
        let mut found = Vec::new();
        if !spec.peer_selector.is_empty() {
            let selector = selector("spec.peerSelector", &spec.peer_selector)?;
            let reverse = spec.reverse_peering() == v3::ReversePeering::Auto
                && selector.matches(&node.labels);
            for other in self.nodes.values().filter(|other| other.name != node.name) {
                let named = selected && selector.matches(&other.labels);
                if !(named || reverse && chosen(other)) {
                    continue;
                }
                let name = format!("Node_{}", other.name);
                let Some(mut session) = self.to_node(node, other, name, problems) else { continue };
                self.refine(&mut session, spec)?;
                if !named && let Some(asn) = session.local_asn.take() {
                    // The number of the node that the object is for: here, of the other one.
                    session.asn = asn.into();
                }
                finish(&mut session, node, self.own_as(node));
                self.filter(&mut session, spec, problems)?;
                found.push(session);
            }
        } else if !selected {
            return Ok(found);
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
            self.refine(&mut session, spec)?;
            finish(&mut session, node, self.own_as(node));
            self.filter(&mut session, spec, problems)?;
            found.push(session);
        } else {
            return Err(("spec", "one of peerIP and peerSelector is required".into()));
        }
        Ok(found)
    }

    /// The settings that a BGPPeer makes beyond who the peer is.
    fn refine(&self, session: &mut PeerConfig, spec: &v3::BGPPeerSpec) -> Result<(), Refusal> {
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
        Ok(())
    }

    /// Puts the rules of a BGPPeer's filters before the usual ones.
    fn filter(
        &self,
        session: &mut PeerConfig,
        spec: &v3::BGPPeerSpec,
        problems: &mut Vec<Problem>,
    ) -> Result<(), Refusal> {
        let rules = self.filters.rules(&spec.filters);
        let (Rules { import, export }, wrong) = rules.map_err(|reason| ("spec.filters", reason))?;
        problems.extend(wrong);
        for (policy, rules) in [(&mut session.import, import), (&mut session.export, export)] {
            policy.get_or_insert_with(Policy::accept).rules.splice(..0, rules);
        }
        Ok(())
    }

    /// The value of a key of a Secret.
    fn password(
        &self,
        password: &v3::BGPPassword,
        field: &'static str,
    ) -> Result<Password, Refusal> {
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

/// What holds for every session: families, next hops, TTL, policies. A node is no transit: it tells
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
    let external = session.asn.is_external(session.local_asn.unwrap_or(asn));
    session.multihop = (external && session.ttl_security.is_none()).then_some(EXTERNAL_TTL);
    let learned = Rule {
        source: Some(Source::RemotePeers),
        action: bgpd::policy::Action::Reject,
        ..Rule::default()
    };
    session.export = Some(Policy { rules: vec![learned], ..Policy::accept() });
    session.import = Some(Policy::accept());
}

/// What the speaker would refuse, in the words of the BGPPeer that asked for it.
pub(super) fn invalid_peer(
    object: String,
    InvalidField { field, reason }: InvalidField,
) -> Problem {
    let field = match field {
        "address" | "port" => "spec.peerIP",
        "asn" => "spec.asNumber",
        "local-asn" => "spec.localASNumber",
        "source-address" => "spec.sourceAddress",
        "password" => "spec.password.secretKeyRef",
        "ttl-security" => "spec.ttlSecurity",
        "keepalive-time" => "spec.keepaliveTime",
        "restart-time" => "spec.maxRestartTime",
        "import" | "export" => "spec.filters",
        _ => "spec",
    };
    Problem { object, field, reason }
}

pub(super) fn mesh_problem(field: &'static str, reason: String) -> Problem {
    Problem { object: "BGPConfiguration/default".into(), field, reason }
}

/// The node's address of the family of `peer`.
pub(super) fn node_address(node: &Node, peer: IpAddr) -> Option<IpAddr> {
    if peer.is_ipv4() { node.ipv4.map(IpAddr::from) } else { node.ipv6.map(IpAddr::from) }
}

fn selector(field: &'static str, text: &str) -> Result<Selector, Refusal> {
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
