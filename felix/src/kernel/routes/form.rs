//! Routes as the kernel has them, and as they are wanted.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink::route::{self, Hop, Kind, Route};

use super::{METRIC, PROTOCOL};
use crate::model::{NextHop, RouteTarget};

/// Where it leads.
pub(super) fn destination(route: &Route) -> Option<IpNet> {
    IpNet::new(route.destination.0, route.destination.1).ok()
}

/// Whether a route in the kernel is what is wanted; an interface that is left to the kernel may be
/// any.
pub(super) fn same(route: &Route, net: &IpNet, target: &RouteTarget) -> bool {
    let wanted = encode(net, target);
    let hop = |(there, wanted): (&Hop, &Hop)| {
        there.gateway == wanted.gateway
            && (wanted.interface.is_none() || there.interface == wanted.interface)
    };
    let mut there = route.hops.clone();
    let mut hops = wanted.hops.clone();
    there.sort();
    hops.sort();
    route.kind == wanted.kind
        && there.len() == hops.len()
        && there.iter().zip(&hops).all(hop)
        && route.metric == METRIC
        && route.protocol == PROTOCOL
}

/// A wanted route as the kernel has it.
pub(super) fn encode(net: &IpNet, target: &RouteTarget) -> Route {
    let address: IpAddr = net.network();
    let (kind, hops) = match target {
        RouteTarget::Link(index) => {
            (Kind::Unicast, vec![Hop { gateway: None, interface: Some(*index) }])
        }
        RouteTarget::Blackhole => (Kind::Blackhole, Vec::new()),
        RouteTarget::Via(hops) => {
            let hop = |hop: &NextHop| Hop { gateway: Some(hop.gateway), interface: hop.interface };
            (Kind::Unicast, hops.iter().map(hop).collect())
        }
    };
    Route {
        destination: (address, net.prefix_len()),
        table: route::MAIN,
        protocol: PROTOCOL,
        metric: METRIC,
        kind,
        hops,
    }
}
