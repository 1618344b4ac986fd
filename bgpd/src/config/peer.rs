//! One neighbor's configuration.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Bfd, Config, PORT, PeerAs, TcpAo};
use crate::policy::{PeerType, Policy};
use crate::wire::{Family, Role};

/// What next hop a peer is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextHopMode {
    /// Ourselves to external peers; to internal peers what we learned.
    #[default]
    Auto,
    /// Always ourselves.
    #[serde(rename = "self")]
    Ourselves,
    /// What we learned, also to external peers. Our own networks still name ourselves.
    Keep,
}

/// A key of TCP MD5 (RFC 2385) or TCP-AO (RFC 5925), 1 to 80 octets. Never shown, nor serialized.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key itself, for those who have to keep it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(super) fn is_possible(&self) -> bool {
        (1..=80).contains(&self.0.len())
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(***)")
    }
}

impl Serialize for Password {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A bound on what a peer announces (RFC 4486 section 4, subcode 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MaxPrefixes {
    /// Prefixes of each family, 1 or more; those that the import policy refuses count too.
    pub limit: u32,
    /// IPv6 prefixes, 1 or more. None: as many as `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_v6: Option<u32>,
    /// From how many per cent of the limit the log warns, 1 to 100.
    #[serde(default = "default_warning")]
    pub warn_percent: u8,
    /// Beyond the limit the session goes on: the warning is all. Otherwise it is ended.
    #[serde(default)]
    pub only_warn: bool,
    /// Seconds after which an ended session is tried again, 1 or more. None: when this is
    /// configured otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_after: Option<u16>,
}

impl MaxPrefixes {
    /// No more than this many prefixes of each family: beyond that the session ends for good.
    pub const fn new(limit: u32) -> Self {
        let warn_percent = default_warning();
        Self { limit, limit_v6: None, warn_percent, only_warn: false, restart_after: None }
    }

    /// The most prefixes of a family.
    pub(crate) fn of(&self, family: Family) -> u32 {
        match family {
            Family::Ipv4Unicast => self.limit,
            Family::Ipv6Unicast => self.limit_v6.unwrap_or(self.limit),
        }
    }
}

const fn default_warning() -> u8 {
    75
}

/// Several paths to a prefix on one session (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AddPaths {
    /// Offer to take them in.
    pub receive: bool,
    /// Offer to send them, and which. None: only the best one, as ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<SentPaths>,
}

impl AddPaths {
    fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

/// Which paths a peer is sent that takes several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SentPaths {
    /// All that the import policies let in.
    All,
    /// Those in use: the best one, and those of equal cost beside it.
    Used,
}

/// Where our AS number towards a peer shows, if it is not the speaker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LocalAs {
    /// It is not put in front of the paths of routes from the peer.
    pub no_prepend: bool,
    /// The speaker's own AS number does not show, behind it, in routes to the peer.
    pub replace_as: bool,
}

impl Default for LocalAs {
    fn default() -> Self {
        Self { no_prepend: true, replace_as: true }
    }
}

impl LocalAs {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of private AS numbers (RFC 6996) in routes to an external peer. Its own AS number
/// stays in any case: it is how it finds loops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemovePrivateAs {
    /// Nothing.
    #[default]
    Off,
    /// All are taken out.
    All,
    /// Our AS number towards the peer stands in place of each.
    Replace,
}

impl RemovePrivateAs {
    fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

/// One neighbor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PeerConfig {
    /// Unique among the peers; names the neighbor in status, logs and reports, and is how a
    /// changed configuration finds it again.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The peer's address. Absent (unspecified) only for those of a [`super::ListenRange`],
    /// or where `interface` says where the peer is.
    #[serde(default = "no_address", skip_serializing_if = "IpAddr::is_unspecified")]
    pub address: IpAddr,
    /// The interface that the peer is on. Without `address` the peer is whoever is found at its
    /// other end by router advertisements (RFC 4861), which are sent there too; with a link-local
    /// address this is in place of `scope-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The port we connect to.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The interface of a link-local address (`if_nametoindex(3)`); 0 for others.
    #[serde(default)]
    pub scope_id: u32,
    /// The peer's AS number, or which it may be.
    pub asn: PeerAs,
    /// Our AS number towards this peer, in place of the speaker's own. None: the speaker's.
    #[serde(default)]
    pub local_asn: Option<u32>,
    /// Where `local-asn` shows towards an external peer.
    #[serde(default, skip_serializing_if = "LocalAs::is_default")]
    pub local_as: LocalAs,
    /// The local address of the session. None: what the kernel chooses.
    #[serde(default)]
    pub source_address: Option<IpAddr>,
    /// The interface of the session, or its VRF if it is in one: connections are made by way of it
    /// and taken only from it, whatever the routes are, and so are BFD packets. While it is not there the peer is down.
    /// None: what the kernel chooses, and any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_interface: Option<String>,
    /// Never connect, only accept.
    #[serde(default)]
    pub passive: bool,
    /// Keep the session down and routes out, with the text of RFC 9003 for the peer.
    #[serde(default)]
    pub shutdown: Option<String>,
    /// TCP MD5 key (RFC 2385).
    #[serde(default)]
    pub password: Option<Password>,
    /// TCP-AO keys (RFC 5925), in place of `password`. A change of them begins the session anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_ao: Option<TcpAo>,
    /// The peer is at most this many hops away, 1 to 254: packets from further are dropped (RFC 5082).
    #[serde(default)]
    pub ttl_security: Option<u8>,
    /// TTL of our packets to the peer, 1 to 255, for one that is not on the same link, or nearer
    /// than most. In place of it: `ttl-security`. None: 64 for internal peers, 1 for others.
    #[serde(default)]
    pub multihop: Option<u8>,
    /// Watch over the path to the peer (RFC 5882). None: only the hold time does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<Bfd>,
    /// Hold time offered, in seconds: 0 (never expires), or 3 and up.
    #[serde(default = "default_hold_time")]
    pub hold_time: u16,
    /// Seconds between KEEPALIVEs. None: a third of the hold time agreed on, which is also the
    /// most that is used.
    #[serde(default)]
    pub keepalive_time: Option<u16>,
    /// Seconds that the peer may take in nothing of what waits for it before the session ends
    /// (RFC 9687): more than `hold-time`; 0: for ever. None: 480, or twice the hold time agreed on
    /// if that is more; for ever where that is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_hold_time: Option<u16>,
    /// The most seconds between two attempts to connect; they start at 1 and double.
    #[serde(default = "default_connect_retry")]
    pub connect_retry_time: u16,
    /// The least seconds between two announcements of a route to this peer, 0 to 600
    /// (MinRouteAdvertisementIntervalTimer, RFC 4271 section 9.2.1.1). Withdrawals never wait.
    /// 0, the default: nothing waits.
    #[serde(default)]
    pub advertisement_interval: u16,
    /// Seconds this peer should keep our routes while we restart, 1 to 4095.
    /// None: the speaker's setting.
    #[serde(default)]
    pub restart_time: Option<u16>,
    /// Families offered; not empty.
    #[serde(default = "default_families")]
    pub families: Vec<Family>,
    /// What next hop the peer is told.
    #[serde(default)]
    pub next_hop: NextHopMode,
    /// Our address in IPv4 routes. None: the session's local address, if it is an IPv4 one or the
    /// peer takes an IPv6 one (`extended-next-hop`).
    #[serde(default)]
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Our address in IPv6 routes. None: the session's local address, if it is an IPv6 one. Beside
    /// it goes that local address, where it is link-local (RFC 2545).
    #[serde(default)]
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Take and send IPv4 routes with an IPv6 next hop, if the peer does too (RFC 8950).
    /// None: over a session between IPv6 addresses without `next-hop-v4`, which could not carry
    /// IPv4 routes otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_next_hop: Option<bool>,
    /// How many prefixes the peer may announce. None: as many as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefixes: Option<MaxPrefixes>,
    /// An internal peer that has all routes of the others from this speaker, and the others its
    /// routes (RFC 4456).
    #[serde(default)]
    pub route_reflector_client: bool,
    /// Several paths to a prefix (RFC 7911).
    #[serde(default, skip_serializing_if = "AddPaths::is_off")]
    pub add_paths: AddPaths,
    /// How many times our own AS number may appear in a received path.
    #[serde(default)]
    pub allowas_in: u8,
    /// In routes to an external peer, our AS number stands in place of the peer's own, so that sites
    /// of one AS take each other's routes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_override: bool,
    /// Private AS numbers in routes to an external peer.
    #[serde(default, skip_serializing_if = "RemovePrivateAs::is_off")]
    pub remove_private_as: RemovePrivateAs,
    /// What we are to an external peer (RFC 9234). Routes then carry whether they may go on to
    /// customers only, and those that came a wrong way are refused. None: no such thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The peer must have a role too; without this, only a role that does not fit is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub role_strict: bool,
    /// The session is about to end (RFC 8326): an external peer's routes are the last choice here,
    /// and it is told so of ours with the community GRACEFUL_SHUTDOWN; an internal peer with a
    /// LOCAL_PREF of 0. Nothing is reset.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub graceful_shutdown: bool,
    /// Routes of an external peer with GRACEFUL_SHUTDOWN are the last choice: their LOCAL_PREF is
    /// 0, whatever the import policy sets.
    #[serde(default = "default_true")]
    pub honor_graceful_shutdown: bool,
    /// Refuse routes of an external peer whose AS path does not start with its AS number.
    #[serde(default = "default_true")]
    pub enforce_first_as: bool,
    /// Filter for routes from the peer. None: accept all (but see `ebgp-requires-policy`).
    #[serde(default)]
    pub import: Option<Policy>,
    /// Filter for routes to the peer. None: accept all (but see `ebgp-requires-policy`).
    #[serde(default)]
    pub export: Option<Policy>,
}

/// Stands for an address that is not there.
const fn no_address() -> IpAddr {
    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

const fn default_port() -> u16 {
    PORT
}

const fn default_hold_time() -> u16 {
    90
}

const fn default_connect_retry() -> u16 {
    30
}

const fn default_true() -> bool {
    true
}

fn default_families() -> Vec<Family> {
    Family::ALL.to_vec()
}

impl PeerConfig {
    /// A neighbor with default settings.
    pub fn new(name: impl Into<String>, address: IpAddr, asn: u32) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            address,
            interface: None,
            port: PORT,
            scope_id: 0,
            asn: asn.into(),
            local_asn: None,
            local_as: LocalAs::default(),
            source_address: None,
            source_interface: None,
            passive: false,
            shutdown: None,
            password: None,
            tcp_ao: None,
            ttl_security: None,
            multihop: None,
            bfd: None,
            hold_time: default_hold_time(),
            keepalive_time: None,
            send_hold_time: None,
            connect_retry_time: default_connect_retry(),
            advertisement_interval: 0,
            restart_time: None,
            families: default_families(),
            next_hop: NextHopMode::Auto,
            next_hop_v4: None,
            next_hop_v6: None,
            extended_next_hop: None,
            max_prefixes: None,
            route_reflector_client: false,
            add_paths: AddPaths::default(),
            allowas_in: 0,
            as_override: false,
            remove_private_as: RemovePrivateAs::Off,
            role: None,
            role_strict: false,
            graceful_shutdown: false,
            honor_graceful_shutdown: true,
            enforce_first_as: true,
            import: None,
            export: None,
        }
    }

    /// Whoever is at the other end of an interface.
    pub fn unnumbered(name: impl Into<String>, interface: impl Into<String>, asn: PeerAs) -> Self {
        Self { interface: Some(interface.into()), ..Self::template(name, asn) }
    }

    /// What the neighbors of a [`super::ListenRange`] are: a neighbor without address.
    pub fn template(name: impl Into<String>, asn: PeerAs) -> Self {
        Self { asn, ..Self::new(name, no_address(), 0) }
    }

    /// Whether the kernel signs and checks segments.
    pub(crate) const fn is_signed(&self) -> bool {
        self.password.is_some() || self.tcp_ao.is_some()
    }

    /// Whether we offer to take IPv4 routes with an IPv6 next hop.
    pub(crate) fn extended_next_hop(&self) -> bool {
        self.extended_next_hop.unwrap_or(self.address.is_ipv6() && self.next_hop_v4.is_none())
    }

    /// Our AS number towards this peer: that of the confederation, if we are in one and it is not.
    pub(crate) fn local_asn(&self, speaker: &Config) -> u32 {
        let outside = speaker.confederation.as_ref().filter(|confederation| {
            // One that may be of several is checked to be all members, or none.
            let member = self.asn.are_of(&confederation.members) == Some(true);
            self.asn.is_external(speaker.asn) && !member
        });
        self.local_asn.or(outside.map(|c| c.identifier)).unwrap_or(speaker.asn)
    }

    /// How the peer stands to us.
    pub(crate) fn peer_type(&self, speaker: &Config) -> PeerType {
        let confederation = speaker.confederation.as_ref().filter(|_| self.local_asn.is_none());
        if !self.asn.is_external(self.local_asn(speaker)) {
            PeerType::Internal
        } else if confederation.is_some_and(|c| self.asn.are_of(&c.members) == Some(true)) {
            PeerType::Confederation
        } else {
            PeerType::External
        }
    }
}
