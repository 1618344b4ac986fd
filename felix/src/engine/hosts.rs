//! Host endpoints: interfaces of nodes as something that policies select. Those of this node have
//! policy; the addresses of all can be peers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::v3;
use smallvec::SmallVec;

use super::comments;
use super::convert::FieldError;
use super::host_tables::HostSite;
use super::pending::Pending;
use super::policies::Revision;
use super::programs::ProgramId;
use super::shapes::{Bearer, ShapeId, ShapeKey};
use super::views::Views;
use super::workloads::Workloads;
use crate::model::host::{HostHook, InterfaceName, LINK_TYPES, View};
use crate::model::{Class, Direction, Flow, IfIndex, Key, NamedPort, Value};
use ipnet::IpNet;

/// The profile of endpoints that what nothing denies may reach and leave.
const ALLOW_PROFILE: &str = "projectcalico-default-allow";
/// How the names of namespaces' profiles begin, which allow everything too.
const NAMESPACE_PROFILE: &str = "kns.";
/// Every network namespace's own, through which the host speaks with itself.
const LOOPBACK: &str = "lo";

const ICMPV6: u8 = 58;

/// Why policy is not asked about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unasked {
    /// It is to a failsafe port, or an answer from one; the element that says so.
    Failsafe(Key),
    /// The link needs it.
    Link,
}

/// A port of the host that policy does not close, or one of others that the host still reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Failsafe {
    /// Ingress: the port is the host's.
    pub direction: Direction,
    /// IP protocol number: 6, 17 or 132.
    pub protocol: u8,
    /// The destination port.
    pub port: u16,
    /// The other side; None: anybody.
    pub net: Option<IpNet>,
}

/// What is open where nothing else is said: what Calico leaves open, and BFD (RFC 5881 section 4, RFC
/// 5883 section 5), without which the sessions of TCP port 179 would not last.
pub fn default_failsafe(direction: Direction) -> Vec<Failsafe> {
    const CONTROL: [(u8, u16); 9] = [
        (6, 179),
        (6, 2379),
        (6, 2380),
        (6, 5473),
        (6, 6443),
        (6, 6666),
        (6, 6667),
        (17, 3784),
        (17, 4784),
    ];
    let own: [(u8, u16); 2] = match direction {
        Direction::Ingress => [(6, 22), (17, 68)],
        Direction::Egress => [(17, 53), (17, 67)],
    };
    let ports = own.into_iter().chain(CONTROL);
    ports.map(|(protocol, port)| Failsafe { direction, protocol, port, net: None }).collect()
}

/// An interface of this node, and its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Its name.
    pub name: InterfaceName,
    /// Its index.
    pub index: IfIndex,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Which interfaces are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Interfaces {
    /// `*`: all that no other host endpoint is for.
    All,
    Named(InterfaceName),
    /// Those that have one of the expected addresses.
    ByAddress,
}

/// A host endpoint, anywhere in the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostEndpoint {
    node: Arc<str>,
    interfaces: Interfaces,
    addresses: SmallVec<[IpAddr; 2]>,
    profiles: Vec<String>,
    shape: ShapeKey,
}

/// A host endpoint of this node that is in force.
#[derive(Clone, Debug)]
pub(super) struct LocalHost {
    pub(super) shape: ShapeId,
    /// What becomes of what no policy decides.
    pub(super) allows: bool,
    /// The interfaces; None is `*`.
    pub(super) interfaces: BTreeSet<Option<InterfaceName>>,
    /// The policies that apply, in evaluation order.
    pub(super) policies: Vec<Revision>,
    pub(super) programs: BTreeMap<HostSite, ProgramId>,
    /// What policy asks about the own side of packets.
    pub(super) views: BTreeMap<HostHook, Views>,
    /// The elements that say of which.
    pub(super) own_sides: BTreeMap<Key, View>,
}

impl LocalHost {
    /// The view of packets whose own side is of a class.
    pub(super) fn view(&self, hook: HostHook, own: Class) -> View {
        self.views.get(&hook).map(|views| views.of(own)).unwrap_or_default()
    }
}

/// All host endpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    node: Arc<str>,
    /// How workload interfaces' names begin: they are no host endpoints.
    prefix: Arc<str>,
    links: Vec<HostLink>,
    failsafe: Vec<Failsafe>,
    endpoints: BTreeMap<Arc<str>, (HostEndpoint, ShapeId)>,
    locals: BTreeMap<Arc<str>, LocalHost>,
    /// Host endpoints of this node that are not in force, and why.
    idle: BTreeMap<Arc<str>, FieldError>,
    changed: bool,
    /// Those of which anything was changed since the last delta.
    touched: BTreeSet<Arc<str>>,
    /// The elements of interfaces, with the endpoints that they are of, and of failsafe ports.
    elements: BTreeMap<Key, Option<Arc<str>>>,
}

impl Hosts {
    /// Whose host endpoints are acted on.
    pub(super) fn set_node(&mut self, name: &str, prefix: &str) {
        (self.node, self.prefix) = (name.into(), prefix.into());
        self.changed = true;
    }

    /// What is in force for them may be something else.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// The node's interfaces are these.
    pub(super) fn set_links(&mut self, links: Vec<HostLink>) {
        if self.links != links {
            self.links = links;
            self.changed = true;
        }
    }

    /// The ports that stay open are these.
    pub(super) fn set_failsafe(&mut self, ports: Vec<Failsafe>) {
        if self.failsafe != ports {
            self.failsafe = ports;
            self.changed = true;
        }
    }

    /// The object is now this. What is wrong with it: then nothing of it is acted on.
    pub(super) fn set(
        &mut self,
        object: &v3::HostEndpoint,
        workloads: &mut Workloads,
    ) -> Vec<FieldError> {
        let name: Arc<str> = object.metadata.name.as_deref().unwrap_or_default().into();
        let (endpoint, errors) = self.convert(object);
        if errors.is_empty() && self.endpoints.get(&name).is_some_and(|(old, _)| *old == endpoint) {
            return errors;
        }
        self.remove(&name, workloads);
        if errors.is_empty() {
            let shape = workloads.shapes.acquire(endpoint.shape.clone());
            workloads.announce(shape, &endpoint.addresses);
            self.touched.insert(name.clone());
            self.changed = true;
            self.endpoints.insert(name, (endpoint, shape));
        }
        errors
    }

    /// The object is gone.
    pub(super) fn remove(&mut self, name: &str, workloads: &mut Workloads) {
        let Some((name, (endpoint, shape))) = self.endpoints.remove_entry(name) else { return };
        self.touched.insert(name);
        workloads.withdraw(shape, &endpoint.addresses);
        workloads.shapes.release(shape);
        self.changed = true;
    }

    /// Host endpoints of this node that are not in force, and why.
    pub(super) fn idle(&self) -> impl Iterator<Item = (&Arc<str>, &FieldError)> {
        self.idle.iter()
    }

    /// The host endpoints of this node that are in force, by name.
    pub(super) fn locals(&self) -> impl Iterator<Item = (&Arc<str>, &LocalHost)> {
        self.locals.iter()
    }

    /// One of them.
    pub(super) fn local_mut(&mut self, name: &str) -> Option<&mut LocalHost> {
        self.locals.get_mut(name)
    }

    /// One of them.
    pub(super) fn local(&self, name: &str) -> Option<&LocalHost> {
        self.locals.get(name)
    }

    /// The host endpoint that judges packets with an own side of this class at an interface, and by which
    /// program. None: nothing is judged there, or it is not known which interface that is.
    pub(super) fn judge_at(
        &self,
        hook: HostHook,
        index: IfIndex,
        own: Class,
    ) -> Option<(&str, ProgramId)> {
        let (name, local, site) = self.endpoint_at(hook, self.name_of(index)?, own)?;
        Some((name, *local.programs.get(&site)?))
    }

    /// The name of an interface of the node.
    pub(super) fn name_of(&self, index: IfIndex) -> Option<InterfaceName> {
        self.links.iter().find(|link| link.index == index).map(|link| link.name)
    }

    /// The node's interfaces, but for those of workloads.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = InterfaceName> {
        let names = self.links.iter().map(|link| link.name);
        names.filter(|name| !self.is_workloads(name.as_str()))
    }

    /// The host endpoint that an interface is, for packets with an own side of this class that are judged
    /// there.
    pub(super) fn endpoint_at(
        &self,
        hook: HostHook,
        interface: InterfaceName,
        own: Class,
    ) -> Option<(&str, &LocalHost, HostSite)> {
        let workload = self.is_workloads(interface.as_str());
        if interface.as_str() == LOOPBACK || (workload && hook != HostHook::PreDnat) {
            return None;
        }
        let of = |interface| {
            let mut locals = self.locals.iter();
            let (name, local) = locals.find(|(_, local)| local.interfaces.contains(&interface))?;
            let view = local.view(hook, own);
            Some((&**name, local, HostSite { hook, interface, view }))
        };
        of(Some(interface)).or_else(|| of(None))
    }

    /// Whether an address is one of the node's own.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        let ours = self.links.iter().filter(|link| !self.is_workloads(link.name.as_str()));
        ours.flat_map(|link| &link.addresses).any(|own| *own == address)
    }

    /// Whether a node has host endpoints.
    pub(super) fn on_node(&self, node: &str) -> bool {
        self.endpoints.values().any(|(endpoint, _)| *endpoint.node == *node)
    }

    /// Why the first packet of a flow passes a host endpoint without its policy: its own ports, and
    /// before connection tracking those of the side that it may be an answer from.
    pub(super) fn passes_unasked(&self, hook: HostHook, flow: &Flow) -> Option<Unasked> {
        if hook.forwards() {
            return None;
        }
        let direction = hook.direction();
        let (peer, answers) = match direction {
            Direction::Ingress => (flow.source, Direction::Egress),
            Direction::Egress => (flow.destination, Direction::Ingress),
        };
        let failsafe = |direction, port| {
            self.elements.keys().find(|key| match **key {
                Key::Failsafe(of, protocol, number, net) => {
                    (of, protocol, number) == (direction, flow.protocol, port)
                        && net.contains(&peer)
                }
                _ => false,
            })
        };
        let answer = || failsafe(answers, flow.source_port).filter(|_| hook.is_untracked());
        if let Some(key) = failsafe(direction, flow.destination_port).or_else(answer) {
            return Some(Unasked::Failsafe(*key));
        }
        let [kind, _] = flow.destination_port.to_be_bytes();
        let link = flow.protocol == ICMPV6 && LINK_TYPES.contains(&kind);
        link.then_some(Unasked::Link)
    }

    /// Finds out which host endpoints of this node are in force now. Returns those that are not any
    /// more, or are others than before, and whether anything may be different.
    pub(super) fn settle(&mut self, pending: &mut Pending) -> (Vec<LocalHost>, bool) {
        if !std::mem::take(&mut self.changed) {
            return (Vec::new(), false);
        }
        self.idle.clear();
        let mut wanted: BTreeMap<Arc<str>, BTreeSet<Option<InterfaceName>>> = BTreeMap::new();
        let mut taken: BTreeMap<Option<InterfaceName>, Arc<str>> = BTreeMap::new();
        for (name, (endpoint, _)) in &self.endpoints {
            if *endpoint.node != *self.node {
                continue;
            }
            let meant = match endpoint.interfaces {
                Interfaces::All => vec![None],
                Interfaces::Named(interface) => vec![Some(interface)],
                Interfaces::ByAddress => self.with_address(&endpoint.addresses),
            };
            if meant.is_empty() {
                let reason = "no interface of the node has one of these addresses";
                let error = FieldError { field: "spec.expectedIPs".into(), reason: reason.into() };
                self.idle.insert(name.clone(), error);
            }
            for interface in meant {
                if let Some(other) = taken.get(&interface) {
                    let which = interface.map_or("*".into(), |interface| interface.to_string());
                    let reason = format!("interface {which} is that of HostEndpoint {other}");
                    let error = FieldError { field: "spec.interfaceName".into(), reason };
                    self.idle.insert(name.clone(), error);
                } else {
                    taken.insert(interface, name.clone());
                    wanted.entry(name.clone()).or_default().insert(interface);
                }
            }
        }
        let mut gone = Vec::new();
        let before = std::mem::take(&mut self.locals);
        for (name, local) in before {
            if wanted.contains_key(&name) && !self.touched.contains(&name) {
                self.locals.insert(name, local);
            } else {
                gone.push(local);
            }
        }
        self.touched.clear();
        for (name, interfaces) in wanted {
            let Some((endpoint, shape)) = self.endpoints.get(&name) else { continue };
            let allows = endpoint
                .profiles
                .iter()
                .any(|profile| profile == ALLOW_PROFILE || profile.starts_with(NAMESPACE_PROFILE));
            let local = self.locals.entry(name).or_insert_with(|| LocalHost {
                shape: *shape,
                allows,
                interfaces: BTreeSet::new(),
                policies: Vec::new(),
                programs: BTreeMap::new(),
                views: BTreeMap::new(),
                own_sides: BTreeMap::new(),
            });
            (local.allows, local.interfaces) = (allows, interfaces);
        }
        self.settle_elements(taken, pending);
        (gone, true)
    }

    fn settle_elements(
        &mut self,
        taken: BTreeMap<Option<InterfaceName>, Arc<str>>,
        pending: &mut Pending,
    ) {
        let interfaces = taken.into_iter();
        let mut wanted: BTreeMap<Key, Option<Arc<str>>> = interfaces
            .filter_map(|(interface, name)| Some((Key::HostInterface(interface?), Some(name))))
            .collect();
        if !self.locals.is_empty() {
            wanted.extend(failsafe_keys(&self.failsafe).into_iter().map(|key| (key, None)));
        }
        for key in self.elements.keys().filter(|key| !wanted.contains_key(*key)) {
            pending.set(*key, Some(Value::Member), None);
        }
        for (key, name) in &wanted {
            let before = self.elements.get(key);
            if before.is_none() {
                pending.set(*key, None, Some(Value::Member));
            }
            if let Some(name) = name
                && before.and_then(Option::as_ref) != Some(name)
            {
                pending.comment(*key, comments::of_host(name));
            }
        }
        self.elements = wanted;
    }

    fn with_address(&self, addresses: &[IpAddr]) -> Vec<Option<InterfaceName>> {
        let ours = self.links.iter().filter(|link| !self.is_workloads(link.name.as_str()));
        let has = |link: &&HostLink| link.addresses.iter().any(|own| addresses.contains(own));
        ours.filter(has).map(|link| Some(link.name)).collect()
    }

    fn is_workloads(&self, interface: &str) -> bool {
        !self.prefix.is_empty() && interface.starts_with(&*self.prefix)
    }

    fn convert(&self, object: &v3::HostEndpoint) -> (HostEndpoint, Vec<FieldError>) {
        let spec = &object.spec;
        let mut errors = Vec::new();
        let mut wrong = |field: String, reason: String| errors.push(FieldError { field, reason });
        let field = || "spec.interfaceName".to_owned();
        let interfaces = match spec.interface_name.as_str() {
            "" => Interfaces::ByAddress,
            "*" => Interfaces::All,
            text => match InterfaceName::new(text) {
                Ok(name) => {
                    if text == LOOPBACK {
                        wrong(field(), "what the host says to itself is not judged".into());
                    } else if self.is_workloads(text) {
                        wrong(field(), "this is how the interfaces of workloads are named".into());
                    }
                    Interfaces::Named(name)
                }
                Err(error) => {
                    wrong(field(), format!("{text:?}: {error}"));
                    Interfaces::All
                }
            },
        };
        let mut addresses: SmallVec<[IpAddr; 2]> = SmallVec::new();
        for (number, text) in spec.expected_ips.iter().enumerate() {
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    wrong(
                        format!("spec.expectedIPs[{number}]"),
                        format!("{text:?} is not an IP address"),
                    );
                }
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        if interfaces == Interfaces::ByAddress && spec.expected_ips.is_empty() {
            wrong("spec".into(), "neither interfaceName nor expectedIPs is given".into());
        }
        let ports = spec.ports.iter().map(|port| NamedPort {
            name: port.name.as_str().into(),
            protocol: port.protocol.0,
            port: port.port,
        });
        let labels = object.metadata.labels.iter().flatten();
        let shape = ShapeKey {
            bearer: Bearer::HostEndpoint,
            namespace: Arc::default(),
            service_account: Arc::default(),
            labels: labels.collect(),
            ports: ports.collect(),
        };
        let node = spec.node.as_str().into();
        let profiles = spec.profiles.clone();
        (HostEndpoint { node, interfaces, addresses, profiles, shape }, errors)
    }
}

/// The elements of failsafe ports. Networks that lie in others of the same port are left out.
fn failsafe_keys(ports: &[Failsafe]) -> BTreeSet<Key> {
    let whole = ["0.0.0.0/0", "::/0"].map(str::parse::<IpNet>);
    let mut nets: BTreeMap<(Direction, u8, u16), Vec<IpNet>> = BTreeMap::new();
    for failsafe in ports {
        let of = nets.entry((failsafe.direction, failsafe.protocol, failsafe.port)).or_default();
        match failsafe.net {
            Some(net) => of.push(net.trunc()),
            None => of.extend(whole.iter().flatten()),
        }
    }
    let mut keys = BTreeSet::new();
    for ((direction, protocol, port), nets) in nets {
        let inside = |net: &&IpNet| !nets.iter().any(|wide| wide != *net && wide.contains(*net));
        let widest = nets.iter().filter(inside);
        keys.extend(widest.map(|net| Key::Failsafe(direction, protocol, port, *net)));
    }
    keys
}
