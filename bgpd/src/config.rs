//! The speaker's whole desired state, as a library value and as the daemon's YAML.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::wire::{Community, Family, LargeCommunity};

#[cfg(test)]
mod tests;

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
    /// Routes of our own.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Graceful restart (RFC 4724).
    #[serde(default)]
    pub graceful_restart: GracefulRestart,
    /// Equal-cost paths.
    #[serde(default)]
    pub multipath: Multipath,
    /// External peers without a policy in a direction neither import nor export in it (RFC 8212).
    /// Unset: false in the library, true in the daemon.
    #[serde(default)]
    pub ebgp_requires_policy: Option<bool>,
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
            cluster_id: None,
            listen: default_listen(),
            peers: Vec::new(),
            networks: Vec::new(),
            graceful_restart: GracefulRestart::default(),
            multipath: Multipath::default(),
            ebgp_requires_policy: None,
        }
    }
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
    /// This start follows one whose forwarding state is still in place. Looked at only at start.
    pub restarting: bool,
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            enabled: true,
            restart_time: 120,
            stale_path_time: 360,
            selection_deferral_time: 60,
            restarting: false,
        }
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

/// A TCP MD5 key (RFC 2385), 1 to 80 octets. Never shown, nor serialized.
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

fn default_warning() -> u8 {
    75
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
    /// The peer's address.
    pub address: IpAddr,
    /// The port we connect to.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The interface of a link-local address (`if_nametoindex(3)`); 0 for others.
    #[serde(default)]
    pub scope_id: u32,
    /// The peer's AS number.
    pub asn: u32,
    /// Our AS number towards this peer, in place of the speaker's own. None: the speaker's.
    #[serde(default)]
    pub local_asn: Option<u32>,
    /// The local address of the session. None: what the kernel chooses.
    #[serde(default)]
    pub source_address: Option<IpAddr>,
    /// Never connect, only accept.
    #[serde(default)]
    pub passive: bool,
    /// Keep the session down and routes out, with the text of RFC 9003 for the peer.
    #[serde(default)]
    pub shutdown: Option<String>,
    /// TCP MD5 key (RFC 2385).
    #[serde(default)]
    pub password: Option<Password>,
    /// The peer is at most this many hops away, 1 to 254: packets from further are dropped (RFC 5082).
    #[serde(default)]
    pub ttl_security: Option<u8>,
    /// TTL of our packets to an external peer that is not on the same link, 1 to 255.
    /// None: 1 for external peers, 64 for internal ones.
    #[serde(default)]
    pub multihop: Option<u8>,
    /// Hold time offered, in seconds: 0 (never expires), or 3 and up.
    #[serde(default = "default_hold_time")]
    pub hold_time: u16,
    /// Seconds between KEEPALIVEs. None: a third of the hold time agreed on, which is also the
    /// most that is used.
    #[serde(default)]
    pub keepalive_time: Option<u16>,
    /// The most seconds between two attempts to connect; they start at 1 and double.
    #[serde(default = "default_connect_retry")]
    pub connect_retry_time: u16,
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
    /// Our address in IPv4 routes. None: the session's local address, if it is an IPv4 one.
    #[serde(default)]
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Our address in IPv6 routes. None: the session's local address, if it is an IPv6 one.
    #[serde(default)]
    pub next_hop_v6: Option<Ipv6Addr>,
    /// How many prefixes the peer may announce. None: as many as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prefixes: Option<MaxPrefixes>,
    /// An internal peer that has all routes of the others from this speaker, and the others its
    /// routes (RFC 4456).
    #[serde(default)]
    pub route_reflector_client: bool,
    /// How many times our own AS number may appear in a received path.
    #[serde(default)]
    pub allowas_in: u8,
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
            port: PORT,
            scope_id: 0,
            asn,
            local_asn: None,
            source_address: None,
            passive: false,
            shutdown: None,
            password: None,
            ttl_security: None,
            multihop: None,
            hold_time: default_hold_time(),
            keepalive_time: None,
            connect_retry_time: default_connect_retry(),
            restart_time: None,
            families: default_families(),
            next_hop: NextHopMode::Auto,
            next_hop_v4: None,
            next_hop_v6: None,
            max_prefixes: None,
            route_reflector_client: false,
            allowas_in: 0,
            enforce_first_as: true,
            import: None,
            export: None,
        }
    }

    /// Our AS number towards this peer.
    pub(crate) fn local_asn(&self, speaker: &Config) -> u32 {
        self.local_asn.unwrap_or(speaker.asn)
    }
}

/// A field of a neighbor with a value that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidField {
    /// The field, as the configuration spells it.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a configuration is refused. Nothing of it has been applied.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value makes no sense.
    #[error("{object}: {field}: {reason}")]
    Invalid {
        /// What the field belongs to, such as `peer "tor1"`.
        object: String,
        /// The field, as the configuration spells it.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An address to listen on cannot be had.
    #[error("listen: {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The speaker has been shut down.
    #[error("the speaker has been shut down")]
    Stopped,
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |object: &str, field, reason: &str| {
            Err(ConfigError::Invalid { object: object.into(), field, reason: reason.into() })
        };
        if self.router_id.is_unspecified() {
            return fail("speaker", "router-id", "0.0.0.0 is not a BGP Identifier");
        }
        if !is_asn(self.asn) {
            return fail("speaker", "asn", RESERVED_ASN);
        }
        let gr = &self.graceful_restart;
        if !(1..=4095).contains(&gr.restart_time) {
            return fail("graceful-restart", "restart-time", "must be 1 to 4095 seconds");
        }
        for (field, paths) in [("ebgp", self.multipath.ebgp), ("ibgp", self.multipath.ibgp)] {
            if !(1..=256).contains(&paths) {
                return fail("multipath", field, "must be 1 to 256 paths");
            }
        }
        let mut prefixes = HashSet::new();
        for network in &self.networks {
            let object = format!("network {}", network.prefix);
            if network.prefix.trunc() != network.prefix {
                return fail(&object, "prefix", "has bits set beyond its length");
            }
            if !prefixes.insert(network.prefix) {
                return fail(&object, "prefix", "appears twice");
            }
            let family = |addr: &IpAddr| addr.is_ipv4() == network.prefix.addr().is_ipv4();
            if network.next_hop.is_some_and(|n| !family(&n) || n.is_unspecified()) {
                return fail(&object, "next-hop", "is not an address of the prefix's family");
            }
        }
        let mut names = HashSet::new();
        let mut sessions = HashSet::new();
        for peer in &self.peers {
            let object = format!("peer {:?}", peer.name);
            if !names.insert(peer.name.as_str()) {
                return fail(&object, "name", "appears twice");
            }
            if !sessions.insert((peer.address, peer.scope_id, peer.port, peer.source_address)) {
                return fail(&object, "address", "another peer has the same address and port");
            }
            if let Err(InvalidField { field, reason }) = peer.validate() {
                return fail(&object, field, &reason);
            }
            if peer.route_reflector_client && peer.asn != peer.local_asn.unwrap_or(self.asn) {
                let reason = "only an internal peer can be a client";
                return fail(&object, "route-reflector-client", reason);
            }
        }
        Ok(())
    }
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

const RESERVED_ASN: &str = "0, 23456 and 4294967295 are reserved";

/// Whether a speaker may have this AS number: not 0 (RFC 7607), AS_TRANS (RFC 6793), or the last
/// one (RFC 7300).
pub const fn is_asn(asn: u32) -> bool {
    asn != 0 && asn != crate::wire::AS_TRANS as u32 && asn != u32::MAX
}

impl PeerConfig {
    /// Checks one neighbor by itself; [`Config::validate`] also looks for two that are the same.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn validate(&self) -> Result<(), InvalidField> {
        let check = |ok: bool, field, reason: &str| {
            if ok { Ok(()) } else { Err(InvalidField { field, reason: reason.to_owned() }) }
        };
        let restart = self.restart_time.is_none_or(|t| (1..=4095).contains(&t));
        let password = self.password.as_ref().is_none_or(|p| (1..=80).contains(&p.0.len()));
        let source = self.source_address.is_none_or(|s| s.is_ipv4() == self.address.is_ipv4());
        check(!self.name.is_empty(), "name", "is empty")?;
        check(is_unicast(self.address), "address", "is not a unicast address")?;
        check(self.port != 0, "port", "0 is not a port to connect to")?;
        check(is_asn(self.asn), "asn", RESERVED_ASN)?;
        check(self.local_asn.is_none_or(is_asn), "local-asn", RESERVED_ASN)?;
        check(source, "source-address", "is not of the family of the peer's address")?;
        check(password, "password", "must have 1 to 80 octets")?;
        let hops = self.ttl_security.is_none_or(|h| (1..=254).contains(&h));
        check(hops, "ttl-security", "must be 1 to 254 hops")?;
        check(self.multihop != Some(0), "multihop", "must be 1 to 255")?;
        let hold = self.hold_time == 0 || self.hold_time >= 3;
        check(hold, "hold-time", "must be 0, or 3 seconds and more")?;
        let keepalive = self.keepalive_time.is_none_or(|k| k > 0);
        check(keepalive, "keepalive-time", "must be 1 second or more")?;
        check(self.connect_retry_time > 0, "connect-retry-time", "must be 1 second or more")?;
        check(restart, "restart-time", "must be 1 to 4095 seconds")?;
        check(!self.families.is_empty(), "families", "is empty")?;
        if let Some(max) = self.max_prefixes {
            let possible = max.limit > 0 && max.restart_after != Some(0);
            check(possible, "max-prefixes", "limit and restart-after must be 1 or more")?;
            let warning = (1..=100).contains(&max.warn_percent);
            check(warning, "max-prefixes", "warn-percent must be 1 to 100")?;
        }
        for (field, policy) in [("import", &self.import), ("export", &self.export)] {
            if let Some(policy) = policy {
                policy.validate().map_err(|reason| InvalidField { field, reason })?;
            }
        }
        Ok(())
    }
}
