//! The types that flow between the agent's parts. No IO, no clock, no async.
//!
//! ```text
//!   source ──Update──▶ engine ──Delta──▶ kernel
//!   cni ──LocalEndpoint──▶ engine          │
//!   bgpd ──RouteChange (peering)───────────┘
//! ```

mod decider;
mod delta;
pub mod host;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

pub use self::decider::{Decider, Decision};
pub use self::delta::{Change, Delta, Parties};
use self::host::{HostHook, InterfaceName, TableId, View};

/// A Linux interface index, as in `if_nametoindex(3)`.
pub type IfIndex = u32;

/// Names one object of a kind: its namespace (none for cluster-scoped kinds) and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// None for cluster-scoped kinds.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A cluster-scoped name.
    pub fn cluster(name: &str) -> Self {
        Self { namespace: None, name: name.into() }
    }

    /// A name in a namespace.
    pub fn namespaced(namespace: &str, name: &str) -> Self {
        Self { namespace: Some(namespace.into()), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A label set; cheap to clone, equal by content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of `key`, if the label is there.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }

    /// All labels, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }
}

impl api::selector::Labels for Labels {
    fn get(&self, key: &str) -> Option<&str> {
        Self::get(self, key)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    /// A later value for the same key replaces the earlier one.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let sorted: BTreeMap<Arc<str>, Arc<str>> =
            iter.into_iter().map(|(k, v)| (k.as_ref().into(), v.as_ref().into())).collect();
        Self(sorted.into_iter().collect())
    }
}

// ---------------------------------------------------------------------------------------------
// From the sources

/// One change of intent. A stream of these is all that a source yields.
#[derive(Clone, Debug)]
pub enum Update {
    /// The object exists and is now this. Repeating an equal value is harmless.
    Set(Object),
    /// The object is gone. Removing what is not known is harmless.
    Remove(Kind, ObjectKey),
    /// Everything that existed when the source was (re)opened has been yielded. Only after this
    /// may anything be deleted from the kernel. Sent again after each complete relist.
    InSync,
}

/// The kinds of object that the agent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the Kubernetes kind of its name")]
pub enum Kind {
    Pod,
    Namespace,
    ServiceAccount,
    Node,
    Secret,
    EndpointSlice,
    KubernetesNetworkPolicy,
    ClusterNetworkPolicy,
    IPPool,
    IPReservation,
    IPAMConfiguration,
    BGPConfiguration,
    BGPPeer,
    BGPFilter,
    FelixConfiguration,
    NetworkPolicy,
    GlobalNetworkPolicy,
    NetworkSet,
    GlobalNetworkSet,
    HostEndpoint,
    KubeControllersConfiguration,
    Tier,
    StagedNetworkPolicy,
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
}

/// One object, reduced to what the agent uses where there may be very many of its kind.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each is the Kubernetes kind of its name")]
pub enum Object {
    Pod(Pod),
    Namespace(Namespace),
    ServiceAccount(ServiceAccount),
    Node(Node),
    Secret(Secret),
    EndpointSlice(EndpointSlice),
    KubernetesNetworkPolicy(Arc<k8s_openapi::api::networking::v1::NetworkPolicy>),
    ClusterNetworkPolicy(Arc<api::policy::ClusterNetworkPolicy>),
    IPPool(Arc<api::v3::IPPool>),
    IPReservation(Arc<api::v3::IPReservation>),
    IPAMConfiguration(Arc<api::v3::IPAMConfiguration>),
    BGPConfiguration(Arc<api::v3::BGPConfiguration>),
    BGPPeer(Arc<api::v3::BGPPeer>),
    BGPFilter(Arc<api::v3::BGPFilter>),
    FelixConfiguration(Arc<api::v3::FelixConfiguration>),
    NetworkPolicy(Arc<api::v3::NetworkPolicy>),
    GlobalNetworkPolicy(Arc<api::v3::GlobalNetworkPolicy>),
    NetworkSet(Arc<api::v3::NetworkSet>),
    GlobalNetworkSet(Arc<api::v3::GlobalNetworkSet>),
    HostEndpoint(Arc<api::v3::HostEndpoint>),
    KubeControllersConfiguration(Arc<api::v3::KubeControllersConfiguration>),
    Tier(Arc<api::v3::Tier>),
    StagedNetworkPolicy(Arc<api::v3::StagedNetworkPolicy>),
    StagedGlobalNetworkPolicy(Arc<api::v3::StagedGlobalNetworkPolicy>),
    StagedKubernetesNetworkPolicy(Arc<api::v3::StagedKubernetesNetworkPolicy>),
}

/// A pod, anywhere in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`; empty in a directory source that gives none.
    pub uid: Arc<str>,
    /// Annotation `kubernetes.io/config.mirror`, which the kubelet gives the mirror pod of a static
    /// pod: the uid that it knows the static pod by, and tells the runtime.
    pub mirror_uid: Option<Arc<str>>,
    /// The node it is bound to, if any.
    pub node: Option<Arc<str>>,
    /// `metadata.labels`, without the implied ones (see [`api::selector`]).
    pub labels: Labels,
    /// `spec.serviceAccountName`, `default` when unset.
    pub service_account: Arc<str>,
    /// `status.podIPs`; empty once the pod has finished.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// Named container ports, for policies that name a port.
    pub ports: Arc<[NamedPort]>,
    /// Host-network pods are not endpoints.
    pub host_network: bool,
    /// The annotations under `cni.projectcalico.org/` and `projectcalico.org/`, whole keys.
    pub annotations: Labels,
}

impl Pod {
    /// Whether this can be the pod that the runtime calls `uid`; one that is empty on either side
    /// tells nothing apart.
    pub fn has_uid(&self, uid: &str) -> bool {
        uid.is_empty()
            || self.uid.is_empty()
            || *self.uid == *uid
            || self.mirror_uid.as_deref() == Some(uid)
    }
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamedPort {
    /// `containerPort.name`.
    pub name: Arc<str>,
    /// IP protocol number: 6, 17 or 132.
    pub protocol: u8,
    /// `containerPort.containerPort`.
    pub port: u16,
}

/// A namespace: its labels feed selectors, its annotations choose address pools.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The annotations under `cni.projectcalico.org/`, whole keys.
    pub annotations: Labels,
}

/// A service account: its labels feed selectors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.labels`.
    pub labels: Labels,
}

/// Some endpoints of a Service, and what it calls by which number there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSlice {
    /// Namespace, which is the Service's too, and name.
    pub key: ObjectKey,
    /// Label `kubernetes.io/service-name`; None: it belongs to no Service.
    pub service: Option<Arc<str>>,
    /// `endpoints[].addresses`, ready or not, as Calico takes them; ascending, without duplicates.
    pub addresses: Arc<[IpAddr]>,
    /// `ports[]`, IP protocol number (6, 17 or 132) and port on the endpoint, of those that have a
    /// number; ascending, without duplicates.
    pub ports: Arc<[(u8, u16)]>,
}

/// A node of the cluster, with Calico's annotations already read (`calico.md` 1.18).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`; BGP peers and pools select nodes by these.
    pub labels: Labels,
    /// `projectcalico.org/IPv4Address`, else the first IPv4 `InternalIP`.
    pub ipv4: Option<Ipv4Addr>,
    /// `projectcalico.org/IPv6Address`, else the first IPv6 `InternalIP`.
    pub ipv6: Option<Ipv6Addr>,
    /// Every address in `status.addresses`, and those of its tunnels and of its BGP by Calico's
    /// annotations; ascending, without duplicates. Policies find nodes by these.
    pub addresses: Arc<[IpAddr]>,
    /// Those of them that `status.addresses` has as `InternalIP`, and those of the annotations: what
    /// Calico gives a host endpoint of its own making.
    pub internal: Arc<[IpAddr]>,
    /// `projectcalico.org/ASNumber`.
    pub as_number: Option<u32>,
    /// `projectcalico.org/RouteReflectorClusterID`.
    pub route_reflector_cluster_id: Option<Ipv4Addr>,
    /// `spec.unschedulable`: cordoned, to be emptied before maintenance.
    pub unschedulable: bool,
    /// `spec.podCIDRs`, else `spec.podCIDR`: the networks that Kubernetes gave the node for its
    /// pods, for those who take their addresses from there.
    pub pod_cidrs: Arc<[IpNet]>,
}

/// A Secret that a BGPPeer or BGPConfiguration refers to. `Debug` never shows the values.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `data`, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("key", &self.key).finish_non_exhaustive()
    }
}

// ---------------------------------------------------------------------------------------------
// Endpoints of this node

/// Names one attachment as CNI does: a container and an interface in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointId {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// An endpoint on this node, as recorded on disk: enough to keep it alive with neither the API
/// server nor etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// The attachment.
    pub id: EndpointId,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid; empty if the runtime did not say.
    pub pod_uid: String,
    /// Path of the pod's network namespace, as the runtime gave it.
    pub netns: String,
    /// The host's end of the veth pair.
    pub host_interface: String,
    /// Chosen by the agent before the link exists, so that policy is in the kernel first.
    pub host_index: IfIndex,
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// The pod's addresses, at most one of each family.
    pub addresses: SmallVec<[IpAddr; 2]>,
    /// The IPAM handle that holds the addresses.
    pub handle: String,
    /// Largest packet on the link, in bytes.
    pub mtu: u32,
    /// The pod's labels when it was added: used until the source says otherwise.
    pub labels: BTreeMap<String, String>,
    /// The pod's service account when it was added.
    pub service_account: String,
}

// ---------------------------------------------------------------------------------------------
// To the kernel

/// The side of an endpoint that a policy looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    /// Traffic to the endpoint.
    Ingress,
    /// Traffic from the endpoint.
    Egress,
}

/// What a set of selectors and networks that an address belongs to is called on this node.
/// 0 is every address in none of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class(pub u32);

impl Class {
    /// The bits that numbers have: the others of a mark are [`host::View`]'s.
    pub const MASK: u32 = 0x0fff_ffff;
}

/// What becomes of a flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Go on: the other direction's policy, or the stack.
    Allow,
    /// Drop it and count it.
    Deny,
    /// It passes the host endpoint, whose further policy is not asked: of policy that comes before
    /// connection tracking or destination NAT, where [`Verdict::Allow`] is that nothing decides.
    Accept,
}

/// The key of one element in table `inet caracal`. The map it lives in follows from its kind:
/// see `kernel/layout.rs`, which is the ruleset these keys are looked up by.
///
/// Policy is looked up most specific first. `class: Some` keys are looked up before `None` ones.
/// A class that an endpoint's policy tells apart from class 0 always has its `Any` key, so the
/// search never falls through to the `None` keys, which say what holds for every other class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `wl`: interfaces whose traffic meets policy. An interface of ours that is not in it is dropped.
    Workload(IfIndex),
    /// `src4`, `src6`: the addresses an interface may send from.
    Source(IpAddr, IfIndex),
    /// `cls4`, `cls6`: the class of one address. Wins over [`Key::ClassRange`].
    Class(IpAddr),
    /// `cls4n`, `cls6n`: the class of an inclusive range. Ranges never overlap.
    ClassRange(IpAddr, IpAddr),
    /// Flattened policy of one endpoint.
    Policy {
        /// `egr*` or `ing*`.
        direction: Direction,
        /// The endpoint's host interface.
        index: IfIndex,
        /// The class of the other side; None for those not told apart.
        class: Option<Class>,
        /// Which packets.
        traffic: Traffic,
    },
    /// `masq4`, `masq6`: sources that leave the pools under the node's address (natOutgoing).
    Masquerade(IpNet),
    /// `pools4`, `pools6`: destinations that never are masqueraded towards.
    Pool(IpNet),
    /// `hep`: interfaces that are host endpoints by name.
    HostInterface(InterfaceName),
    /// `hin*`, `hout*`, `hfin*`, `hfout*`, `hdnat*`, `hrawin*`, `hrawout*`: which verdicts hold for peers of a class; class 0 stands
    /// for those not told apart.
    HostTable {
        /// Where it is looked up.
        hook: HostHook,
        /// None: the interfaces that have no host endpoint of their own (`*`).
        interface: Option<InterfaceName>,
        /// What is true of the own side.
        view: View,
        /// The class of the other side.
        class: Class,
    },
    /// In the same maps: what is true of the own side, where policy asks.
    HostView {
        /// Where it is looked up.
        hook: HostHook,
        /// As above.
        interface: Option<InterfaceName>,
        /// The class of the own side.
        class: Class,
    },
    /// `hv*`: flattened policy, shared by all that have the same.
    HostPolicy {
        /// Which of [`Key::HostTable`].
        table: TableId,
        /// Which packets.
        traffic: Traffic,
    },
    /// `failsafe_*`: a port of the host (ingress) or of others (egress) that policy of host endpoints
    /// does not close, and for whom. Networks of one port never overlap.
    Failsafe(Direction, u8, u16, IpNet),
    /// `dns`: interfaces whose DNS answers the agent reads before they are delivered.
    Asks(IfIndex),
    /// `names4`, `names6`: the class that an address is in for what is sent from one interface, by the DNS
    /// answers that came there. Wins over [`Key::Class`].
    Learned(IfIndex, IpAddr),
}

/// Which packets a policy key stands for, most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Traffic {
    /// One destination port of TCP, UDP or SCTP, or one type and code of ICMP, as in
    /// [`Flow::destination_port`].
    Port(u8, u16),
    /// An inclusive range of these, longer than the engine expands into single ones.
    /// Ranges of one endpoint, class and protocol never overlap.
    Ports(u8, u16, u16),
    /// Two inclusive ranges, of destination ports and of the source ports that they are reached from,
    /// where the verdict depends on both. They overlap neither each other nor the other keys with
    /// ports of one endpoint, class and protocol.
    Pairs(u8, (u16, u16), (u16, u16)),
    /// A whole IP protocol.
    Protocol(u8),
    /// Everything else.
    Any,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use api::v3::Protocol;
        let types = |protocol| matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
        match *self {
            Self::Port(protocol, number) if types(Protocol(protocol)) => {
                let [kind, code] = number.to_be_bytes();
                write!(f, "{} type {kind} code {code}", Protocol(protocol))
            }
            Self::Port(protocol, port) => write!(f, "{} port {port}", Protocol(protocol)),
            Self::Ports(protocol, first, last) if types(Protocol(protocol)) => {
                let ([kind, code], [last, end]) = (first.to_be_bytes(), last.to_be_bytes());
                let name = Protocol(protocol);
                write!(f, "{name} types and codes {kind}/{code} to {last}/{end}")
            }
            Self::Ports(protocol, first, last) => {
                write!(f, "{} ports {first} to {last}", Protocol(protocol))
            }
            Self::Pairs(protocol, ports, sources) => {
                let range = |(first, last): (u16, u16)| match first == last {
                    true => first.to_string(),
                    false => format!("{first} to {last}"),
                };
                let (to, from) = (range(ports), range(sources));
                write!(f, "{} ports {to} from ports {from}", Protocol(protocol))
            }
            Self::Protocol(protocol) => write!(f, "protocol {}", Protocol(protocol)),
            Self::Any => f.write_str("all other traffic"),
        }
    }
}

/// What an element maps its key to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// The element is in a plain set.
    Member,
    /// Of [`Key::Class`] and [`Key::ClassRange`].
    Class(Class),
    /// Of [`Key::Policy`] and [`Key::HostPolicy`].
    Verdict(Verdict),
    /// Of [`Key::Policy`] and [`Key::HostPolicy`]: the packet is logged, then that.
    Logged(Verdict),
    /// Of [`Key::HostTable`].
    Table(TableId),
    /// Of [`Key::HostView`].
    View(View),
    /// Of [`Key::Policy`] and [`Key::HostPolicy`] where packets are counted: [`Value::Logged`] or
    /// [`Value::Verdict`], and who decides.
    Counted {
        /// What becomes of the packet.
        verdict: Verdict,
        /// It is logged before.
        log: bool,
        /// Whose packets they are counted as.
        by: Decider,
    },
}

/// A route wanted in the main table (`Some`) or no longer wanted (`None`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// The destination.
    pub destination: IpNet,
    /// Where it goes.
    pub target: Option<RouteTarget>,
}

/// Where a route goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteTarget {
    /// To a pod of this node: `dev INDEX scope link`.
    Link(IfIndex),
    /// To a block of this node: what no pod has is unreachable here, not looped to the router.
    Blackhole,
    /// Through other routers; more than one is ECMP. Sorted, without duplicates.
    Via(SmallVec<[NextHop; 2]>),
}

/// One way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The next router.
    pub gateway: IpAddr,
    /// Needed where the gateway is link-local; otherwise the kernel resolves it.
    pub interface: Option<IfIndex>,
}

/// A tracked flow, as its initiator sent it and after any destination NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// The initiator.
    pub source: IpAddr,
    /// The responder, after destination NAT.
    pub destination: IpAddr,
    /// The initiator's port; 0 for protocols without.
    pub source_port: u16,
    /// Destination port after NAT; for ICMP the type in the high byte and the code in the low.
    pub destination_port: u16,
}
