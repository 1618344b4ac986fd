//! Policy in the engine's own words. Every kind of policy becomes this form: tiers in order, in
//! each tier policies in order, in each policy rules in order; the first rule that matches decides.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use api::selector::Selector;
use ipnet::IpNet;

use super::ranges::{self, Family, Span};
use crate::model::host::HostHook;
use crate::model::{Direction, Kind, ObjectKey};
use crate::names::DomainNames;

/// What a rule does with the traffic it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Action {
    /// Let it through, whatever later tiers say.
    Allow,
    /// Drop it.
    Deny,
    /// Leave it to the next tier.
    Pass,
    /// Log it, once whatever further rules say, and go on with the next rule.
    Log,
}

/// `spec.order`: lower is evaluated first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order(f64);

impl Order {
    /// After every explicit order.
    pub(super) const LAST: Self = Self(f64::INFINITY);

    /// An explicit order.
    pub(super) const fn new(order: f64) -> Self {
        // Positive and negative zero are one place.
        Self(order + 0.0)
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Order {}

/// An ordered group of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tier {
    /// Its name; breaks ties between tiers of equal order.
    pub(super) name: Arc<str>,
    /// Its place among the tiers.
    pub(super) order: Order,
    /// What becomes of traffic that reached the tier, was selected by one of its policies for this
    /// direction, and matched no rule: [`Action::Deny`] or [`Action::Pass`].
    pub(super) default_action: Action,
    /// It is there, or one that is always there. One that policies merely name comes after all
    /// others and denies what its policies do not decide.
    pub(super) exists: bool,
}

impl Tier {
    /// A tier that is there.
    pub(super) fn new(name: &str, order: Order, default_action: Action) -> Self {
        Self { name: name.into(), order, default_action, exists: true }
    }

    /// A tier that is not there, though policies name it.
    pub(super) fn missing(name: &str) -> Self {
        Self { exists: false, ..Self::new(name, Order::LAST, Action::Deny) }
    }
}

/// Names one policy object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// Which kind of policy.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: ObjectKey,
}

impl PolicyId {
    /// What ties between policies of equal order are broken by, byte by byte: name, then
    /// namespace, then kind.
    fn tie_break(&self) -> (&str, &str, &str) {
        (&self.key.name, self.key.namespace.as_deref().unwrap_or(""), self.kind.name())
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.key)
    }
}

/// What a policy has to say about the traffic of host endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfHosts {
    /// Nothing: only a GlobalNetworkPolicy selects them.
    Nothing,
    /// It is about what they themselves send and receive.
    Own,
    /// And what they forward (`applyOnForward`).
    Forwarded,
    /// It is about what comes in, before destination NAT (`preDNAT`), and not about workloads.
    PreDnat,
    /// It is about what comes in and what they send, before connection tracking (`doNotTrack`), and
    /// not about workloads.
    Untracked,
    /// It is about them, but does not say when: it closes them.
    Unclear,
}

impl OfHosts {
    /// Whether the policy is asked here.
    pub(super) fn judges_at(self, hook: HostHook) -> bool {
        match hook {
            HostHook::Input | HostHook::Output => {
                matches!(self, Self::Own | Self::Forwarded | Self::Unclear)
            }
            HostHook::ForwardIn | HostHook::ForwardOut => {
                matches!(self, Self::Forwarded | Self::Unclear)
            }
            HostHook::PreDnat => self == Self::PreDnat,
            HostHook::UntrackedIn
            | HostHook::UntrackedOut
            | HostHook::UntrackedInAgain
            | HostHook::UntrackedOutAgain => self == Self::Untracked,
        }
    }
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// The object it comes from.
    pub(super) id: PolicyId,
    /// Its tier.
    pub(super) tier: Arc<Tier>,
    /// Its place in the tier.
    pub(super) order: Order,
    /// The endpoints it applies to.
    pub(super) subject: Selector,
    /// What it has to say about hosts.
    pub(super) hosts: OfHosts,
    /// Rules for traffic to the endpoint; None if the policy does not look at that direction.
    pub(super) ingress: Option<Vec<Rule>>,
    /// Rules for traffic from the endpoint; None if the policy does not look at that direction.
    pub(super) egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules for one direction, if the policy looks at it.
    pub(super) fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// The order in which policies of one endpoint and direction are evaluated.
    pub(super) fn evaluation_order(&self, other: &Self) -> Ordering {
        (!self.tier.exists, self.tier.order, &self.tier.name)
            .cmp(&(!other.tier.exists, other.tier.order, &other.tier.name))
            .then(self.order.cmp(&other.order))
            .then_with(|| self.id.tie_break().cmp(&other.id.tie_break()))
    }
}

/// One rule: what it matches is the product of peers, own address and traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Which rule of the object's list for the direction it comes from; None: it stands in for what is
    /// wrong.
    pub(super) number: Option<u32>,
    /// What happens to a match.
    pub(super) action: Action,
    /// The other side of the flow: its source for ingress, its destination for egress.
    pub(super) peers: Peers,
    /// What the endpoint itself must be, if that matters.
    pub(super) own: Option<Own>,
    /// Protocol and ports.
    pub(super) traffic: Traffics,
}

impl Rule {
    /// What stands in for a rule that is wrong where it must not open anything.
    pub(super) fn deny_all() -> Self {
        Self {
            number: None,
            action: Action::Deny,
            peers: Peers::Any,
            own: None,
            traffic: Traffics::Any,
        }
    }
}

/// Which peers a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// Every address.
    Any,
    /// Those that at least one of these describes; none, if the list is empty.
    OneOf(Vec<Peer>),
}

/// A peer: an address for which all that is given here holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// It is an endpoint that this selects.
    pub(super) selector: Option<Selector>,
    /// It is not an endpoint that this selects.
    pub(super) not_selector: Option<Selector>,
    /// It lies in these.
    pub(super) networks: Option<Networks>,
    /// It is an address of a node that this selects by its labels.
    pub(super) nodes: Option<Selector>,
    /// It is the address of an endpoint of this Service.
    pub(super) service: Option<ObjectKey>,
    /// One of these names stands for it, by the DNS answers of the endpoint that the policy is about.
    pub(super) names: Option<DomainNames>,
}

/// What the endpoint's own address must be: the destination for ingress, the source for egress. A
/// rule that has this is about flows of one family only, which its peers must say too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    /// Whose address is meant.
    pub(super) family: Family,
    /// What must hold of it.
    pub(super) address: Peer,
}

/// Which traffic a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Traffics {
    /// Every protocol.
    Any,
    /// What at least one of these describes; nothing, if the list is empty. At most one for a
    /// protocol, in order of their numbers.
    OneOf(Vec<ProtocolPorts>),
    /// Every protocol that is not listed, and what these describe. As in the list above.
    AllBut(Vec<ProtocolPorts>),
}

/// Ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProtocolPorts {
    /// IP protocol number.
    pub(super) protocol: u8,
    /// To which ports; for ICMP a port is the type in the high byte and the code in the low one, as
    /// in [`crate::model::Flow`].
    pub(super) destination: PortMatch,
    /// From which ports.
    pub(super) source: PortMatch,
}

/// Ports at one end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortMatch {
    /// Which.
    pub(super) ports: Ports,
    /// And none of these.
    pub(super) except: PortSet,
}

/// Some ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortSet {
    /// Inclusive, sorted, disjoint, not touching.
    pub(super) ranges: Vec<(u16, u16)>,
    /// Ports by the name that the pod at that end gives them; sorted, without duplicates.
    pub(super) names: Vec<Arc<str>>,
}

impl PortSet {
    /// Of ranges and names in any order.
    pub(super) fn new(mut list: Vec<(u16, u16)>, mut names: Vec<Arc<str>>) -> Self {
        list.sort_unstable();
        names.sort_unstable();
        names.dedup();
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for (first, last) in list {
            match ranges.last_mut() {
                Some(before) if u32::from(first) <= u32::from(before.1) + 1 => {
                    before.1 = before.1.max(last);
                }
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges, names }
    }
}

/// A set of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Ports {
    /// All.
    #[default]
    All,
    /// These.
    Some(PortSet),
    /// Those that this Service has at the peer, which is the destination.
    OfService(ObjectKey),
}

/// A set of addresses given by networks, of which others are left out. Equal by the networks
/// named, in whatever order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Networks {
    nets: Arc<[IpNet]>,
    except: Arc<[IpNet]>,
}

impl Networks {
    /// What lies in one of `nets` and in none of `except`. Host bits are ignored.
    pub(super) fn new(nets: &[IpNet], except: &[IpNet]) -> Self {
        let canonical = |nets: &[IpNet]| {
            let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
            nets.sort_unstable();
            nets.dedup();
            nets.into()
        };
        Self { nets: canonical(nets), except: canonical(except) }
    }

    /// The addresses of one family, as disjoint ranges in ascending order.
    pub(super) fn spans(&self, family: Family) -> Vec<Span> {
        let tagged = |nets: &[IpNet], included: bool| -> Vec<(Span, bool)> {
            nets.iter()
                .filter(|net| Family::of(net.addr()) == family)
                .map(|net| (Span::of(net), included))
                .collect()
        };
        let mut all = tagged(&self.nets, true);
        all.extend(tagged(&self.except, false));
        let kept = ranges::flatten(&all).into_iter().filter(|(_, tags)| *tags == [true]);
        ranges::join(kept.map(|(span, _)| span))
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        f.write_str(&list(&self.nets).join(","))?;
        if !self.except.is_empty() {
            write!(f, " except {}", list(&self.except).join(","))?;
        }
        Ok(())
    }
}
