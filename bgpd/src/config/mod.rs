//! The speaker's whole desired state, as a library value and as the daemon's YAML.

mod bfd;
mod listen_range;
mod observe;
mod peer;
mod peer_as;
mod tcp_ao;
#[cfg(test)]
mod tests;
mod validate;

pub use bfd::Bfd;
pub use listen_range::ListenRange;
pub use observe::{BmpStation, Monitored, Mrt};
pub use peer::{
    AddPaths, LocalAs, MaxPrefixes, NextHopMode, Password, PeerConfig, RemovePrivateAs, SentPaths,
};
pub use peer_as::PeerAs;
pub use tcp_ao::{TcpAo, TcpAoAlgorithm, TcpAoKey};
pub use validate::{ConfigError, InvalidField, is_asn};

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::policy::{AsPathPattern, CommunityPattern, PrefixMatch};
use crate::wire::{Community, LargeCommunity};

/// The BGP port (RFC 4271 section 8.2.1).
pub const PORT: u16 = 179;

/// Everything a speaker is told. Keys in YAML are in kebab-case; unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The BGP Identifier; not 0.0.0.0.
    pub router_id: Ipv4Addr,
    /// Our AS number; not 0 and not 23456 (AS_TRANS).
    pub asn: u32,
    /// The confederation that `asn` is a member AS of. None: it is a whole AS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confederation: Option<Confederation>,
    /// The cluster that this speaker reflects routes in (RFC 4456). None: its router id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Ipv4Addr>,
    /// Addresses to accept connections on. Empty: none are accepted.
    /// Default: all addresses of both families, port 179.
    #[serde(default = "default_listen")]
    pub listen: Vec<SocketAddr>,
    /// The neighbors, each with a name of its own.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
    /// Where neighbors come from that are not named one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listen_ranges: Vec<ListenRange>,
    /// Routes of our own.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Graceful restart (RFC 4724).
    #[serde(default)]
    pub graceful_restart: GracefulRestart,
    /// Long-lived graceful restart (RFC 9494).
    #[serde(default)]
    pub long_lived_graceful_restart: LongLivedGracefulRestart,
    /// Announce a learned route only once all consumers of the forwarding table have acknowledged
    /// what they were told of its prefix; until then peers have what they were told before. Where
    /// there are no consumers, and for our own networks, this means nothing.
    #[serde(default)]
    pub advertise_after_install: bool,
    /// Seconds between the router advertisements on interfaces that neighbors are named by, 1 to
    /// 1800.
    #[serde(default = "default_advertisement_interval")]
    pub router_advertisement_interval: u16,
    /// Equal-cost paths.
    #[serde(default)]
    pub multipath: Multipath,
    /// External peers without a policy in a direction neither import nor export in it (RFC 8212).
    /// Unset: false in the library, true in the daemon.
    #[serde(default)]
    pub ebgp_requires_policy: Option<bool>,
    /// The speaker is about to go away: its routes, and those through it, are to be the last choice
    /// of everybody (RFC 8326). As `graceful-shutdown` of every peer. What it reflects with the
    /// next hop unchanged does not go through it, and is left as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub graceful_shutdown: bool,
    /// Prefix conditions by the name that rules of policies call them. A set holds what meets one
    /// of its conditions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prefix_sets: BTreeMap<String, Vec<PrefixMatch>>,
    /// Community patterns by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub community_sets: BTreeMap<String, Vec<CommunityPattern>>,
    /// AS path patterns by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub as_path_sets: BTreeMap<String, Vec<AsPathPattern>>,
    /// Where the daemon answers `GET /metrics` over HTTP. None: nowhere. The library does not look
    /// at it: who embeds a speaker has metrics of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<SocketAddr>,
    /// Files of what happens, in the format of RFC 6396. None: none are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrt: Option<Mrt>,
    /// Monitoring stations to tell what happens (RFC 7854), each address and port once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bmp: Vec<BmpStation>,
}

const fn default_advertisement_interval() -> u16 {
    10
}

fn default_listen() -> Vec<SocketAddr> {
    vec![(Ipv4Addr::UNSPECIFIED, PORT).into(), (Ipv6Addr::UNSPECIFIED, PORT).into()]
}

impl Config {
    /// The cluster that this speaker reflects routes in.
    pub(crate) fn cluster(&self) -> Ipv4Addr {
        self.cluster_id.unwrap_or(self.router_id)
    }

    /// A speaker without peers and networks, listening on the default addresses.
    pub fn new(router_id: Ipv4Addr, asn: u32) -> Self {
        Self {
            router_id,
            asn,
            confederation: None,
            cluster_id: None,
            listen: default_listen(),
            peers: Vec::new(),
            listen_ranges: Vec::new(),
            networks: Vec::new(),
            graceful_restart: GracefulRestart::default(),
            long_lived_graceful_restart: LongLivedGracefulRestart::default(),
            advertise_after_install: false,
            router_advertisement_interval: default_advertisement_interval(),
            multipath: Multipath::default(),
            ebgp_requires_policy: None,
            graceful_shutdown: false,
            prefix_sets: BTreeMap::new(),
            community_sets: BTreeMap::new(),
            as_path_sets: BTreeMap::new(),
            metrics_listen: None,
            mrt: None,
            bmp: Vec::new(),
        }
    }
}

/// A confederation of ASes that is one AS to others (RFC 5065).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Confederation {
    /// The AS number that others know.
    pub identifier: u32,
    /// The AS numbers of the members that this speaker has peers in, besides its own.
    #[serde(default)]
    pub members: Vec<u32>,
}

/// Graceful restart (RFC 4724).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct GracefulRestart {
    /// Offer it, and keep the routes of peers that offered it while they restart.
    pub enabled: bool,
    /// Seconds that peers should keep our routes while we restart, 1 to 4095. A peer's own
    /// setting goes first.
    pub restart_time: u16,
    /// Seconds after a peer has come back until what it did not announce again is removed, if it
    /// sends no End-of-RIB.
    pub stale_path_time: u16,
    /// Seconds after start until routes are selected even if peers have not sent all of theirs.
    pub selection_deferral_time: u16,
    /// Keep routes also over a NOTIFICATION, ours or the peer's, other than a Hard Reset, if the peer
    /// wants the same (RFC 8538). Then the routes of a peer that has died without a word are kept
    /// beyond the hold time, for the restart time.
    pub notification: bool,
    /// This start follows one whose forwarding state is still in place. Looked at only at start. The
    /// daemon finds it out by itself where a file does not say it: it restarts if the one before it
    /// did not end with a Cease, and there are neighbors that still keep its routes.
    pub restarting: bool,
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            enabled: true,
            restart_time: 120,
            stale_path_time: 360,
            selection_deferral_time: 60,
            notification: false,
            restarting: false,
        }
    }
}

/// Long-lived graceful restart (RFC 9494): once the restart time of a peer is over, its routes are
/// kept for much longer, and used where there are no others. They are told only to peers that know
/// the mechanism too. Needs graceful restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LongLivedGracefulRestart {
    /// Offer it, and keep the routes of peers that offer it.
    pub enabled: bool,
    /// Seconds for which peers should keep our routes after the restart time, and the most for which
    /// we keep theirs; 1 to 16777215.
    pub stale_time: u32,
}

impl LongLivedGracefulRestart {
    /// None: it is off.
    pub(crate) fn time(self) -> Option<u32> {
        self.enabled.then_some(self.stale_time)
    }
}

impl Default for LongLivedGracefulRestart {
    fn default() -> Self {
        Self { enabled: false, stale_time: 86400 }
    }
}

/// When several paths to a prefix are used at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Multipath {
    /// Most paths from external peers, 1 to 256; 1 turns it off.
    pub ebgp: u16,
    /// Most paths from internal peers, 1 to 256; 1 turns it off.
    pub ibgp: u16,
    /// AS paths need only be of equal length, not equal.
    pub as_path_relax: bool,
}

impl Default for Multipath {
    fn default() -> Self {
        Self { ebgp: 64, ibgp: 64, as_path_relax: true }
    }
}

/// A route of our own. It never appears in the speaker's FIB changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Network {
    /// The prefix; host bits must be zero.
    pub prefix: IpNet,
    /// Where its packets go. None: to this speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<IpAddr>,
    /// Standard communities it carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<Community>,
    /// Large communities it carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_communities: Vec<LargeCommunity>,
    /// LOCAL_PREF towards internal peers. None: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
}

impl Network {
    /// A prefix without any attribute set.
    pub const fn new(prefix: IpNet) -> Self {
        Self {
            prefix,
            next_hop: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            local_pref: None,
            med: None,
        }
    }
}
