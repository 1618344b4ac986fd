//! What callers ask and get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ipnet::IpNet;

use crate::model::is_key_segment;
use crate::net::{Family, host};
use crate::pool::AllowedUse;

/// Which families an endpoint gets addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// One IPv4 address.
    pub v4: bool,
    /// One IPv6 address.
    pub v6: bool,
}

impl Families {
    /// IPv4 only.
    pub const V4: Self = Self { v4: true, v6: false };
    /// IPv6 only.
    pub const V6: Self = Self { v4: false, v6: true };
    /// One of each, or nothing.
    pub const DUAL: Self = Self { v4: true, v6: true };

    pub(crate) fn iter(self) -> impl Iterator<Item = Family> {
        let wanted = [(self.v4, Family::V4), (self.v6, Family::V6)];
        wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, family)| family)
    }
}

/// What a node has an address for on a device of its own, in Calico's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the encapsulation of its name; V6: over IPv6")]
pub enum Tunnel {
    Ipip,
    Vxlan,
    VxlanV6,
    Wireguard,
    WireguardV6,
}

impl Tunnel {
    /// The beginning of its handle, and the `type` of its allocation.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Ipip => ("ipip-tunnel-addr-", "ipipTunnelAddress"),
            Self::Vxlan => ("vxlan-tunnel-addr-", "vxlanTunnelAddress"),
            Self::VxlanV6 => ("vxlan-v6-tunnel-addr-", "vxlanV6TunnelAddress"),
            Self::Wireguard => ("wireguard-tunnel-addr-", "wireguardTunnelAddress"),
            Self::WireguardV6 => ("wireguard-v6-tunnel-addr-", "wireguardV6TunnelAddress"),
        }
    }

    /// The handle of a node's address.
    pub fn handle(self, node: &str) -> String {
        format!("{}{node}", self.names().0)
    }
}

/// A request for addresses: one of each family, all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignRequest {
    /// Who will hold the addresses, e.g. `k8s-pod-network.<container id>`. No `/`.
    pub handle: String,
    /// Which families.
    pub families: Families,
    /// Written beside the allocation: `pod`, `namespace`, ... The allocator adds `node` and
    /// `timestamp` where they are missing.
    pub attributes: BTreeMap<String, String>,
    /// Pools by name or CIDR; empty: the pools that select the node and the namespace.
    pub requested_pools: Vec<String>,
    /// Addresses by name, at most one of each family.
    pub requested_ips: Vec<IpAddr>,
    /// What the addresses are for.
    pub intended_use: AllowedUse,
    /// The labels of the pod's namespace, for pools with a namespaceSelector.
    pub namespace_labels: Option<BTreeMap<String, String>>,
}

impl AssignRequest {
    /// For a pod.
    pub fn pod(handle: &str, namespace: &str, pod: &str, families: Families) -> Self {
        let attributes = [("namespace", namespace), ("pod", pod)];
        Self {
            handle: handle.to_owned(),
            families,
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            requested_pools: Vec::new(),
            requested_ips: Vec::new(),
            intended_use: AllowedUse::Workload,
            namespace_labels: None,
        }
    }

    /// For a node's tunnel device, from the pools with that encapsulation. No collection on the
    /// node takes it back; it goes by [`super::Ipam::release`], or with the node.
    pub fn tunnel(tunnel: Tunnel, node: &str, pools: Vec<String>) -> Self {
        let attributes = [("node", node), ("type", tunnel.names().1)];
        let families = match tunnel {
            Tunnel::Ipip | Tunnel::Vxlan | Tunnel::Wireguard => Families::V4,
            Tunnel::VxlanV6 | Tunnel::WireguardV6 => Families::V6,
        };
        Self {
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            requested_pools: pools,
            intended_use: AllowedUse::Tunnel,
            ..Self::pod(&tunnel.handle(node), "", "", families)
        }
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        validate_handle(&self.handle)?;
        if self.families.iter().next().is_none() {
            return Err("no address family is asked for".to_owned());
        }
        for family in [Family::V4, Family::V6] {
            let named = self.requested_ips.iter().filter(|ip| Family::of(**ip) == family).count();
            if named > 1 {
                return Err(format!("more than one {family} address is asked for"));
            }
            if named == 1 && !self.families.iter().any(|wanted| wanted == family) {
                return Err(format!("an {family} address is asked for, but not the family"));
            }
        }
        Ok(())
    }
}

pub(crate) fn validate_handle(handle: &str) -> Result<(), String> {
    if is_key_segment(handle) {
        return Ok(());
    }
    Err(format!("handle {handle:?} is empty or has a character that keys cannot have"))
}

/// The addresses that a request got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// One of each family, IPv4 first, with host masks (/32, /128).
    pub addresses: Vec<IpNet>,
    /// True if the handle held them all before: the request was a repetition.
    pub repeated: bool,
}

impl Assignment {
    pub(crate) fn new(mut addresses: Vec<IpAddr>, repeated: bool) -> Self {
        addresses.sort();
        Self { addresses: addresses.into_iter().map(host).collect(), repeated }
    }

    /// The addresses without their masks.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }
}

/// A point in the allocator's life, from [`super::Ipam::epoch`]: what is assigned later is never
/// collected on evidence from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub(crate) u64);

/// The handles of all endpoints that live on this node: the caller's proof of what may be
/// collected.
///
/// Take the [`Epoch`] first, then gather the handles, those of requests in progress among them. Clones
/// are the same evidence: for a collection on what [`super::Ipam::collectable`] was asked with, the
/// store is not searched again.
#[derive(Clone, Debug)]
pub struct Live {
    pub(crate) epoch: Epoch,
    pub(crate) handles: BTreeSet<String>,
    /// The network whose handles are judged; None: all are.
    pub(crate) network: Option<String>,
    /// Only to tell what would be released.
    pub(crate) dry: bool,
    /// Set once all that this node has in the store was looked for on this evidence.
    pub(crate) searched: Arc<AtomicBool>,
}

impl Live {
    /// These live. None if the set is empty: a list that came back empty proves nothing, see
    /// [`Live::none`].
    pub fn handles(epoch: Epoch, handles: BTreeSet<String>) -> Option<Self> {
        (!handles.is_empty()).then(|| Self { handles, ..Self::none(epoch) })
    }

    /// Nothing lives here: the caller has asked the runtime and the kernel and knows it.
    pub fn none(epoch: Epoch) -> Self {
        let (handles, searched) = Default::default();
        Self { epoch, handles, network: None, dry: false, searched }
    }

    /// Judges the handles of one network only: whoever lists the attachments of a network knows
    /// nothing of others. Handles that do not tell their network for certain (see
    /// [`crate::model::Attachment`]) are left to a collection of all networks.
    #[must_use]
    pub fn of_network(self, network: &str) -> Self {
        Self { network: Some(network.to_owned()), ..self }
    }
}

/// What an endpoint has, by the agent's own record: see [`super::Ipam::hold`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The handle that it was assigned to.
    pub handle: String,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// What the block says beside them if it has to be written anew.
    pub attributes: BTreeMap<String, String>,
}
