//! The desired configuration as a whole: the speaker's own values, its networks, and the sessions
//! that [`super::peers`] works out, each with what follows from the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::v3;
use bgpd::config::{InvalidField, Password, is_asn};
use bgpd::policy::{PrefixMatch, Rule, Source};
use bgpd::wire::Community;
use bgpd::{Network, PeerConfig};
use ipnet::IpNet;

use super::communities::Advertisements;
use super::peers::{AS_ANNOTATION, invalid_peer, mesh_problem, node_address};
use super::{Peering, Plan, Problem, hashed_router_id};
use crate::config::Drain;
use crate::model::Node;

/// What this process adds to the resources.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// The blocks of this node.
    pub blocks: Arc<[IpNet]>,
    /// Addresses of this node's pods in blocks of other nodes. Each is announced by itself: the
    /// longer prefix takes its packets past the block's owner.
    pub borrowed: Arc<[IpAddr]>,
    /// The kernel still forwards what an earlier run of the agent installed.
    pub restarting: bool,
    /// The node's links, with their addresses.
    pub links: Arc<[Link]>,
    /// The local TCP port, before BGPConfiguration's `listenPort`. Other nodes connect to what
    /// theirs says.
    pub port: Option<u16>,
    /// The BGP Identifier (RFC 4271 section 4.2), before the node's IPv4 address.
    pub router_id: Option<Ipv4Addr>,
    /// When the node's routes are the last choice.
    pub drain: Drain,
}

const ANOTHER_PASSWORD: &str = "there is a session with another port of the same address, which has \
                                another password or none: the kernel knows one of an address";

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
        let mut problems = self.reserved_numbers(node);
        let router_id = local.router_id.or(node.ipv4).filter(|id| !id.is_unspecified());
        let router_id = router_id.unwrap_or_else(|| hashed_router_id(&node.name));
        let mut config = bgpd::Config::new(router_id, self.own_as(node));
        config.listen = listen(local.port.unwrap_or_else(|| self.listen_port(&node.name)));
        config.graceful_restart.restarting = local.restarting;
        config.networks = self.networks(local, &mut problems);
        if local.drain == Drain::Cordoned && node.unschedulable {
            drain(&mut config);
        }

        // A peer named by several objects is one session, that of the first. The mesh comes last,
        // as a BGPPeer is the more deliberate wish. The key is what the speaker tells sessions apart by.
        let mut sessions: BTreeMap<(IpAddr, u16), PeerConfig> = BTreeMap::new();
        let mut names = BTreeSet::new();
        let mut passwords: BTreeMap<IpAddr, Option<Password>> = BTreeMap::new();
        let mut add = |session: PeerConfig| {
            let key = (session.address, session.port);
            if sessions.contains_key(&key) || names.contains(&session.name) {
                return Ok(());
            }
            let first =
                passwords.entry(session.address).or_insert_with(|| session.password.clone());
            if *first != session.password {
                return Err(ANOTHER_PASSWORD.to_owned());
            }
            names.insert(session.name.clone());
            sessions.insert(key, session);
            Ok(())
        };
        for (name, peer) in self.ordered_peers() {
            let object = format!("BGPPeer/{name}");
            match self.sessions(node, name, &peer.spec, &mut problems) {
                // One at a time: what the speaker would refuse, it would refuse with all others.
                Ok(found) => {
                    for session in found {
                        let added = session.validate().and_then(|()| {
                            let field = "password";
                            add(session).map_err(|reason| InvalidField { field, reason })
                        });
                        if let Err(invalid) = added {
                            problems.push(invalid_peer(object.clone(), invalid));
                        }
                    }
                }
                Err((field, reason)) => problems.push(Problem { object, field, reason }),
            }
        }
        if self.mesh_enabled() {
            match self.mesh(node, &mut problems) {
                Ok(found) => {
                    let refused = found.into_iter().filter_map(|session| add(session).err());
                    let problem =
                        |reason| mesh_problem("spec.nodeMeshPassword.secretKeyRef", reason);
                    problems.extend(refused.map(problem));
                }
                Err((field, reason)) => problems.push(mesh_problem(field, reason)),
            }
        }
        config.peers = sessions.into_values().collect();
        for session in &mut config.peers {
            name_ourselves(session, node, &local.links);
        }
        if let Some(cluster) = node.route_reflector_cluster_id {
            config.cluster_id = Some(cluster);
            self.reflect(&mut config, cluster);
        }
        problems.sort();
        problems.dedup();
        Some(Plan { config, problems })
    }

    /// What makes this node a route reflector of a cluster: nodes that do not reflect in it as well
    /// are its clients (`calico.md` 5.3), and internal peers are told of what is in the pools,
    /// whoever has it. What else is learned, such as a router's default route, is nobody else's.
    fn reflect(&self, config: &mut bgpd::Config, cluster: Ipv4Addr) {
        let pools = self.pools.values().filter(|pool| !pool.spec.disable_bgp_export);
        let pools = pools.filter_map(|pool| pool.spec.cidr.parse().ok());
        let pools: Vec<PrefixMatch> = pools.map(PrefixMatch::inside).collect();
        for session in &mut config.peers {
            if session.asn.is_external(session.local_asn.unwrap_or(config.asn)) {
                continue;
            }
            let other = self
                .nodes
                .values()
                .find(|node| node_address(node, session.address) == Some(session.address));
            session.route_reflector_client =
                other.is_some_and(|node| node.route_reflector_cluster_id != Some(cluster));
            let learned = Rule {
                source: Some(Source::RemotePeers),
                prefixes: Some(pools.clone()),
                ..Rule::default()
            };
            if let Some(export) = &mut session.export {
                // Before the one that rejects what is learned, after those of filters.
                export.rules.insert(export.rules.len().saturating_sub(1), learned);
            }
        }
    }

    /// The BGPPeers of all nodes, by name, then those of some: where both name a peer, the first
    /// goes (`calico.md` 5.3).
    fn ordered_peers(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<v3::BGPPeer>)> {
        let of = |global: bool| {
            self.peers.iter().filter(move |(_, peer)| {
                (peer.spec.node.is_empty() && peer.spec.node_selector.is_empty()) == global
            })
        };
        of(true).chain(of(false))
    }

    /// The cluster-wide settings.
    pub(super) fn defaults(&self) -> Option<&v3::BGPConfigurationSpec> {
        self.configurations.get("default").map(|object| &object.spec)
    }

    /// The cluster's AS number; Calico's default if that is a reserved one.
    pub(super) fn cluster_as(&self) -> u32 {
        let wanted = self.wanted_cluster_as();
        if is_asn(wanted) { wanted } else { v3::DEFAULT_AS_NUMBER.0 }
    }

    fn wanted_cluster_as(&self) -> u32 {
        self.defaults().map_or(v3::DEFAULT_AS_NUMBER, v3::BGPConfigurationSpec::as_number).0
    }

    /// This node's AS number; the cluster's if its own is a reserved one.
    pub(super) fn own_as(&self, node: &Node) -> u32 {
        node.as_number.filter(|asn| is_asn(*asn)).unwrap_or_else(|| self.cluster_as())
    }

    /// The AS numbers that this node would have but cannot.
    fn reserved_numbers(&self, node: &Node) -> Vec<Problem> {
        let problem = |asn: u32, object: String, field| Problem {
            object,
            field,
            reason: format!("AS number {asn} is reserved, {} is used", self.cluster_as()),
        };
        let own = node.as_number.filter(|asn| !is_asn(*asn));
        let own = own.map(|asn| problem(asn, format!("Node/{}", node.name), AS_ANNOTATION));
        let cluster = Some(self.wanted_cluster_as()).filter(|asn| !is_asn(*asn));
        let cluster =
            cluster.map(|asn| problem(asn, "BGPConfiguration/default".into(), "spec.asNumber"));
        own.into_iter().chain(cluster).collect()
    }

    fn mesh_enabled(&self) -> bool {
        self.defaults().is_none_or(v3::BGPConfigurationSpec::node_to_node_mesh_enabled)
    }

    /// The node's own setting, else the cluster's.
    pub(super) fn listen_port(&self, node: &str) -> u16 {
        let of =
            |name: &str| self.configurations.get(name).and_then(|object| object.spec.listen_port);
        of(&format!("node.{node}")).or_else(|| of("default")).unwrap_or(v3::DEFAULT_LISTEN_PORT)
    }

    /// Own blocks and borrowed addresses, but for those in pools that are not to be exported.
    fn networks(&self, local: &Local, problems: &mut Vec<Problem>) -> Vec<Network> {
        let kept_back: Vec<IpNet> = self
            .pools
            .values()
            .filter(|pool| pool.spec.disable_bgp_export)
            .filter_map(|pool| pool.spec.cidr.parse().ok())
            .collect();
        let exported = |net: &IpNet| !kept_back.iter().any(|pool| pool.contains(net));
        let borrowed = local.borrowed.iter().copied().map(IpNet::from);
        // A block may be as small as an address.
        let held: BTreeSet<IpNet> = local.blocks.iter().copied().chain(borrowed).collect();
        let advertisements = self.advertisements(problems);
        let network = |net| {
            let mut network = Network::new(net);
            advertisements.mark(&mut network);
            network
        };
        held.into_iter().filter(exported).map(network).collect()
    }

    /// What own routes carry: the node's own setting, else the cluster's.
    fn advertisements(&self, problems: &mut Vec<Problem>) -> Advertisements {
        let own = format!("node.{}", self.node_name);
        let spec = |name: &str| self.configurations.get(name).map(|object| &object.spec);
        let given = |name| spec(name).filter(|spec| !spec.prefix_advertisements.is_empty());
        let name = if given(&own).is_some() { own.as_str() } else { "default" };
        let Some(spec) = given(name) else { return Advertisements::default() };
        let (advertisements, wrong) = Advertisements::of(spec);
        problems.extend(wrong.into_iter().map(|reason| Problem {
            object: format!("BGPConfiguration/{name}"),
            field: "spec.prefixAdvertisements",
            reason,
        }));
        advertisements
    }
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

/// Makes the node's routes the last choice of everybody (RFC 8326); they stay reachable by them.
/// The speaker tells external peers by the community and internal ones by a LOCAL_PREF of 0. Other
/// ASes that an internal peer tells of the node's routes see nothing of that, so the routes carry the
/// community to internal peers as well.
fn drain(config: &mut bgpd::Config) {
    config.graceful_shutdown = true;
    for network in &mut config.networks {
        if !network.communities.contains(&Community::GRACEFUL_SHUTDOWN) {
            network.communities.push(Community::GRACEFUL_SHUTDOWN);
        }
    }
}

fn listen(port: u16) -> Vec<std::net::SocketAddr> {
    vec![(Ipv4Addr::UNSPECIFIED, port).into(), (std::net::Ipv6Addr::UNSPECIFIED, port).into()]
}
