//! What two OPENs agree on (RFC 4271 section 6.2, RFC 5492).

use std::net::Ipv4Addr;

use crate::config::PeerAs;
use crate::wire::{
    Capability, Family, FamilyAddPath, FamilySet, LongLivedFamily, NextHopFamily, Notification,
    Open, Role, code,
};

/// What we bring to a session.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) asn: u32,
    /// Which AS the peer may be of.
    pub(crate) peer_as: PeerAs,
    pub(crate) router_id: Ipv4Addr,
    /// Seconds.
    pub(crate) hold_time: u16,
    /// Seconds; None: a third of the hold time agreed on.
    pub(crate) keepalive_time: Option<u16>,
    pub(crate) families: FamilySet,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub(crate) extended_next_hop: bool,
    /// Families of which several paths to a prefix are received (RFC 7911).
    pub(crate) receive_paths: FamilySet,
    /// Families of which several paths to a prefix are sent.
    pub(crate) send_paths: FamilySet,
    /// What we are to the peer (RFC 9234).
    pub(crate) role: Option<Role>,
    /// The peer must say what it is to us.
    pub(crate) role_strict: bool,
    /// None: no graceful restart.
    pub(crate) restart: Option<OwnRestart>,
    /// Long-lived graceful restart: seconds for which routes are kept, ours by the peer and its by
    /// us. None: not at all.
    pub(crate) long_lived: Option<u32>,
}

/// Our side of graceful restart (RFC 4724 section 3).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OwnRestart {
    /// R: we have restarted.
    pub(crate) restarting: bool,
    /// N: we keep routes over a NOTIFICATION (RFC 8538).
    pub(crate) notification: bool,
    /// F: packets still go where we last said.
    pub(crate) forwarding: bool,
    /// Seconds we need to come back.
    pub(crate) time: u16,
}

/// The peer's side of graceful restart (RFC 4724 section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerRestart {
    /// R: it has restarted.
    pub(crate) restarting: bool,
    /// N: it keeps routes over a NOTIFICATION (RFC 8538), and so do we.
    pub(crate) notification: bool,
    /// Seconds it needs to come back.
    pub(crate) time: u16,
    /// Families that it covers.
    pub(crate) families: FamilySet,
    /// Of these, those whose forwarding state was kept.
    pub(crate) forwarding: FamilySet,
}

/// The peer's side of long-lived graceful restart (RFC 9494 section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerLongLived {
    /// Seconds for which its routes are kept once its restart time is over, by family; 0: they are
    /// not.
    pub(crate) times: [u32; 2],
    /// Families whose forwarding state was kept.
    pub(crate) forwarding: FamilySet,
}

impl PeerLongLived {
    fn of(families: &[LongLivedFamily], most: u32) -> Self {
        let mut all = Self::default();
        for listed in families {
            let Some(family) = Family::from_wire(listed.afi, listed.safi) else { continue };
            all.times[family.index()] = listed.time.min(most);
            if listed.forwarding {
                all.forwarding.insert(family);
            }
        }
        all
    }
}

/// What holds for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) router_id: Ipv4Addr,
    /// The peer's AS number.
    pub(crate) asn: u32,
    pub(crate) external: bool,
    /// Seconds; 0: neither KEEPALIVEs nor a hold timer.
    pub(crate) hold_time: u16,
    /// Seconds; 0 where the hold time is.
    pub(crate) keepalive_time: u16,
    pub(crate) families: FamilySet,
    pub(crate) four_octet_as: bool,
    pub(crate) route_refresh: bool,
    /// The peer marks where the routes of a refresh begin and end, and reads such marks (RFC 7313).
    pub(crate) enhanced_refresh: bool,
    pub(crate) extended_messages: bool,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub(crate) extended_next_hop: bool,
    /// Families whose NLRI come with path identifiers (RFC 7911).
    pub(crate) receive_paths: FamilySet,
    /// Families whose NLRI go with path identifiers.
    pub(crate) send_paths: FamilySet,
    /// What the peer says it is to us (RFC 9234).
    pub(crate) peer_role: Option<Role>,
    /// None: the peer does not know graceful restart.
    pub(crate) restart: Option<PeerRestart>,
    /// None: not both sides offered it, with graceful restart.
    pub(crate) long_lived: Option<PeerLongLived>,
    /// We offered it and the peer did not: routes that are kept so are not for it.
    pub(crate) withhold_stale: bool,
}

impl Offer {
    /// The OPEN that says it.
    pub(crate) fn open(&self) -> Open {
        let mut capabilities: Vec<Capability> =
            self.families.iter().map(Capability::multiprotocol).collect();
        capabilities.extend([
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::ExtendedMessage,
        ]);
        if self.extended_next_hop && self.families.contains(Family::Ipv4Unicast) {
            let families = vec![NextHopFamily::IPV4_OVER_IPV6];
            capabilities.push(Capability::ExtendedNextHop(families));
        }
        let add_path = self.families.iter().filter_map(|family| {
            let (afi, safi) = family.wire();
            let receive = u8::from(self.receive_paths.contains(family)) * FamilyAddPath::RECEIVE;
            let send = u8::from(self.send_paths.contains(family)) * FamilyAddPath::SEND;
            let mode = receive | send;
            (mode != 0).then_some(FamilyAddPath { afi, safi, mode })
        });
        let add_path: Vec<FamilyAddPath> = add_path.collect();
        if !add_path.is_empty() {
            capabilities.push(Capability::AddPath(add_path));
        }
        if let Some(role) = self.role {
            capabilities.push(Capability::Role(role.wire()));
        }
        if let Some(OwnRestart { restarting, notification, forwarding, time }) = self.restart {
            let families = self.families.iter().map(|family| {
                let (afi, safi) = family.wire();
                crate::wire::FamilyRestart { afi, safi, forwarding }
            });
            capabilities.push(Capability::GracefulRestart {
                restarting,
                notification,
                time,
                families: families.collect(),
            });
            if let Some(time) = self.long_lived {
                let families = self.families.iter().map(|family| {
                    let (afi, safi) = family.wire();
                    LongLivedFamily { afi, safi, forwarding, time }
                });
                capabilities.push(Capability::LongLivedGracefulRestart(families.collect()));
            }
        }
        Open::new(self.asn, self.hold_time, self.router_id, capabilities)
    }
}

/// Checks the peer's OPEN against our offer.
///
/// # Errors
/// The NOTIFICATION of RFC 4271 section 6.2.
pub(crate) fn negotiate(offer: &Offer, open: &Open) -> Result<Negotiated, Notification> {
    let error =
        |subcode, data: &[u8], reason| Err(Notification::new(code::OPEN, subcode, data, reason));
    let asn = open.asn();
    if asn == 0 || !offer.peer_as.admits(asn, offer.asn) {
        return error(2, &[], "the peer's AS number is not the configured one");
    }
    // RFC 6286: any non-zero identifier; inside an AS it must differ from ours.
    if open.router_id.is_unspecified() || (asn == offer.asn && open.router_id == offer.router_id) {
        return error(3, &[], "the BGP Identifier is 0 or our own");
    }
    if matches!(open.hold_time, 1 | 2) {
        return error(6, &[], "the hold time is neither 0 nor at least 3 seconds");
    }
    let mut families = FamilySet::default();
    let mut restart = None;
    let mut long_lived = None;
    let mut multiprotocol = false;
    let mut four_octet_as = false;
    let mut route_refresh = false;
    let mut enhanced_refresh = false;
    let mut extended_messages = false;
    let mut extended_next_hop = false;
    let mut receive_paths = FamilySet::default();
    let mut send_paths = FamilySet::default();
    for capability in &open.capabilities {
        match capability {
            Capability::Multiprotocol(afi, safi) => {
                multiprotocol = true;
                if let Some(family) = Family::from_wire(*afi, *safi) {
                    families.insert(family);
                }
            }
            Capability::RouteRefresh => route_refresh = true,
            Capability::EnhancedRouteRefresh => enhanced_refresh = true,
            Capability::ExtendedMessage => extended_messages = true,
            Capability::ExtendedNextHop(families) => {
                extended_next_hop |= families.contains(&NextHopFamily::IPV4_OVER_IPV6);
            }
            Capability::FourOctetAs(_) => four_octet_as = true,
            Capability::GracefulRestart { restarting, notification, time, families } => {
                let of = |only_forwarding: bool| -> FamilySet {
                    families
                        .iter()
                        .filter(|f| f.forwarding || !only_forwarding)
                        .filter_map(|f| Family::from_wire(f.afi, f.safi))
                        .collect()
                };
                restart = Some(PeerRestart {
                    restarting: *restarting,
                    notification: *notification && offer.restart.is_some_and(|r| r.notification),
                    time: *time,
                    families: of(false),
                    forwarding: of(true),
                });
            }
            Capability::AddPath(families) => {
                let modes = FamilyAddPath::RECEIVE..=FamilyAddPath::RECEIVE | FamilyAddPath::SEND;
                for offered in families.iter().filter(|f| modes.contains(&f.mode)) {
                    let Some(family) = Family::from_wire(offered.afi, offered.safi) else {
                        continue;
                    };
                    if offered.mode & FamilyAddPath::SEND != 0 {
                        receive_paths.insert(family);
                    }
                    if offered.mode & FamilyAddPath::RECEIVE != 0 {
                        send_paths.insert(family);
                    }
                }
            }
            Capability::LongLivedGracefulRestart(families) => long_lived = Some(families),
            Capability::Role(_) | Capability::Unknown(..) => {}
        }
    }
    let peer_role = peer_role(offer, open)?;
    if !multiprotocol {
        families.insert(Family::Ipv4Unicast);
    }
    let families = families.intersection(offer.families);
    if families.is_empty() {
        // RFC 5492 section 3: the data names the capabilities that are missing.
        let mut data = Vec::new();
        for family in offer.families.iter() {
            let (afi, safi) = family.wire();
            let [high, low] = afi.to_be_bytes();
            data.extend_from_slice(&[1, 4, high, low, 0, safi]);
        }
        return error(7, &data, "the peer offers none of the families wanted");
    }
    let hold_time = offer.hold_time.min(open.hold_time);
    let keepalive_time = if hold_time == 0 {
        0
    } else {
        let third = (hold_time / 3).max(1);
        offer.keepalive_time.map_or(third, |k| k.min(third))
    };
    let offers_long_lived = offer.restart.is_some() && offer.long_lived.is_some();
    Ok(Negotiated {
        router_id: open.router_id,
        asn,
        external: asn != offer.asn,
        hold_time,
        keepalive_time,
        families,
        four_octet_as,
        route_refresh,
        enhanced_refresh,
        extended_messages,
        extended_next_hop: extended_next_hop
            && offer.extended_next_hop
            && families.contains(Family::Ipv4Unicast),
        receive_paths: receive_paths.intersection(offer.receive_paths).intersection(families),
        send_paths: send_paths.intersection(offer.send_paths).intersection(families),
        peer_role,
        // RFC 9494 section 3: without graceful restart it means nothing.
        withhold_stale: offers_long_lived && (long_lived.is_none() || restart.is_none()),
        long_lived: long_lived
            .filter(|_| offers_long_lived && restart.is_some())
            .map(|families| PeerLongLived::of(families, offer.long_lived.unwrap_or(0))),
        restart: if offer.restart.is_some() { restart } else { None },
    })
}

/// What the peer is to us, which must fit what we are to it (RFC 9234 section 4.2).
fn peer_role(offer: &Offer, open: &Open) -> Result<Option<Role>, Notification> {
    let mut said = open.capabilities.iter().filter_map(|capability| match capability {
        Capability::Role(role) => Some(*role),
        _ => None,
    });
    let error = |reason| Err(Notification::new(code::OPEN, 11, &[], reason));
    let first = said.next();
    let Some(ours) = offer.role else { return Ok(first.and_then(Role::from_wire)) };
    match first {
        None if offer.role_strict => error("the peer does not say its role"),
        None => Ok(None),
        Some(first) if said.any(|other| other != first) => error("the peer says several roles"),
        Some(first) if Role::from_wire(first) == Some(ours.opposite()) => Ok(Some(ours.opposite())),
        Some(_) => error("the peer's role does not fit ours"),
    }
}
