//! What a configuration must be for the speaker to take it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::{Bfd, Config, LocalAs, PeerAs, PeerConfig, RemovePrivateAs};
use crate::bfd::{Key, Wanted};
use crate::policy::{PeerType, Way, validate_prefixes};
use crate::wire::Family;

/// A field of a neighbor with a value that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidField {
    /// The field, as the configuration spells it.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl InvalidField {
    fn of(self, object: String) -> ConfigError {
        ConfigError::Invalid { object, field: self.field, reason: self.reason }
    }
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
    /// The run cannot be recorded.
    #[error("recording: {}: {source}", path.display())]
    Recording {
        /// The file.
        path: PathBuf,
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
        if let Some(confederation) = &self.confederation {
            if !is_asn(confederation.identifier) {
                return fail("confederation", "identifier", RESERVED_ASN);
            }
            if !confederation.members.iter().copied().all(is_asn) {
                return fail("confederation", "members", RESERVED_ASN);
            }
            if confederation.members.contains(&confederation.identifier) {
                let reason = "the confederation is no member of itself";
                return fail("confederation", "members", reason);
            }
        }
        let gr = &self.graceful_restart;
        if !(1..=4095).contains(&gr.restart_time) {
            return fail("graceful-restart", "restart-time", "must be 1 to 4095 seconds");
        }
        let long_lived = self.long_lived_graceful_restart;
        if !(1..1 << 24).contains(&long_lived.stale_time) {
            let reason = "must be 1 to 16777215 seconds";
            return fail("long-lived-graceful-restart", "stale-time", reason);
        }
        if long_lived.enabled && !gr.enabled {
            let reason = "needs graceful-restart";
            return fail("long-lived-graceful-restart", "enabled", reason);
        }
        if !(1..=1800).contains(&self.router_advertisement_interval) {
            let reason = "must be 1 to 1800 seconds";
            return fail("speaker", "router-advertisement-interval", reason);
        }
        for (field, paths) in [("ebgp", self.multipath.ebgp), ("ibgp", self.multipath.ibgp)] {
            if !(1..=256).contains(&paths) {
                return fail("multipath", field, "must be 1 to 256 paths");
            }
        }
        for (name, set) in &self.prefix_sets {
            if let Err(reason) = validate_prefixes(set) {
                return fail(&format!("prefix set {name:?}"), "prefixes", &reason);
            }
        }
        if let Err((object, field, reason)) = self.validate_observers() {
            return fail(object, field, &reason);
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
        let (mut watched, mut keys) = (BTreeMap::new(), HashMap::new());
        for peer in &self.peers {
            let object = format!("peer {:?}", peer.name);
            if !names.insert(peer.name.as_str()) {
                return fail(&object, "name", "appears twice");
            }
            let place = (peer.address, peer.scope_id, &peer.interface);
            if !sessions.insert((place, peer.port, peer.source_address)) {
                return fail(&object, "address", "another peer has the same address and port");
            }
            peer.validate().map_err(|e| e.of(object.clone()))?;
            // Peers that differ only in their port have one BFD session (RFC 5882 section 2).
            if let Some((key, wanted)) = self.bfd_session(peer)
                && *watched.entry(key).or_insert(wanted) != wanted
            {
                let reason = "another peer has the same address, and with it the same BFD session, \
                              but other settings for it";
                return fail(&object, "bfd", reason);
            }
            if !peer.address.is_unspecified() {
                let first = *keys.entry(peer.address).or_insert(peer);
                let reason = "another peer has the same address, but other keys or none: the kernel \
                              knows those of an address";
                for (field, same) in [
                    ("password", first.password == peer.password),
                    ("tcp-ao", first.tcp_ao == peer.tcp_ao),
                ] {
                    if !same {
                        return fail(&object, field, reason);
                    }
                }
            }
            peer.validate_in(self).map_err(|e| e.of(object))?;
        }
        self.validate_ranges(&names)
    }

    fn validate_ranges(&self, names: &HashSet<&str>) -> Result<(), ConfigError> {
        let mut names = names.clone();
        let mut prefixes = HashSet::new();
        let mut neighbors = self.peers.len();
        for range in &self.listen_ranges {
            let object = || format!("listen-range {:?}", range.peer.name);
            let check = |ok: bool, field, reason: &str| {
                let wrong = || InvalidField { field, reason: reason.to_owned() }.of(object());
                if ok { Ok(()) } else { Err(wrong()) }
            };
            let prefix = range.prefix;
            check(names.insert(&range.peer.name), "peer.name", "is that of another")?;
            check(prefix.trunc() == prefix, "prefix", "has bits set beyond its length")?;
            check(prefixes.insert(prefix), "prefix", "is that of another range")?;
            check((1..=10_000).contains(&range.limit), "limit", "must be 1 to 10000 neighbors")?;
            neighbors = neighbors.saturating_add(range.limit as usize);
            let reason = "there may be 60000 neighbors in all";
            check(neighbors <= 60_000, "limit", reason)?;
            let peer = &range.peer;
            check(peer.address.is_unspecified(), "peer.address", "is where the neighbor is")?;
            check(peer.interface.is_none(), "peer.interface", "is where the neighbor is")?;
            let source = peer.source_address.is_none_or(|s| s.is_ipv4() == prefix.addr().is_ipv4());
            check(source, "peer.source-address", "is not of the prefix's family")?;
            let reason = "is for single peers only";
            check(peer.tcp_ao.is_none(), "peer.tcp-ao", reason)?;
            let reason = "strict: nobody is watched over before it connects";
            check(!peer.bfd.is_some_and(|bfd| bfd.strict), "peer.bfd", reason)?;
            peer.validate_settings().map_err(|e| e.of(object()))?;
            peer.validate_in(self).map_err(|e| e.of(object()))?;
            // The kernel asks everybody with a key for it.
            let keyless = self.peers.iter().find(|p| {
                p.password.is_none() && peer.password.is_some() && prefix.contains(&p.address)
            });
            if let Some(keyless) = keyless {
                let reason = format!("peer {:?}, which has none, is in the prefix", keyless.name);
                return Err(InvalidField { field: "peer.password", reason }.of(object()));
            }
        }
        Ok(())
    }
}

impl Config {
    fn bfd_session(&self, peer: &PeerConfig) -> Option<(Key, Wanted)> {
        let external = peer.peer_type(self) != PeerType::Internal;
        peer.bfd_session(external).filter(|_| peer.shutdown.is_none())
    }
}

fn check(ok: bool, field: &'static str, reason: &str) -> Result<(), InvalidField> {
    if ok { Ok(()) } else { Err(InvalidField { field, reason: reason.to_owned() }) }
}

fn is_unicast(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

const NO_INTERFACE: &str = "is not the name of an interface";

/// Whether an interface may have this name (`dev_valid_name` of the kernel).
fn is_interface(name: &str) -> bool {
    let odd = |c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace();
    (1..=15).contains(&name.len()) && !name.contains(odd) && !matches!(name, "." | "..")
}

pub(super) const RESERVED_ASN: &str = "0, 23456 and 4294967295 are reserved";

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
        let known = is_unicast(self.address);
        match &self.interface {
            None => check(known, "address", "is not a unicast address")?,
            Some(name) => {
                let link_local =
                    matches!(self.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
                let unnumbered = self.address.is_unspecified();
                let reason = "has a meaning only without address, or with a link-local one";
                check(unnumbered || link_local, "interface", reason)?;
                check(is_interface(name), "interface", NO_INTERFACE)?;
                let one = self.source_interface.is_none();
                check(one, "source-interface", "interface says already where the session is")?;
                check(self.scope_id == 0, "scope-id", "is that of interface")?;
            }
        }
        let source = self.source_address.is_none_or(|s| s.is_ipv4() == self.address.is_ipv4());
        check(source, "source-address", "is not of the family of the peer's address")?;
        self.validate_settings()
    }

    /// What depends on the speaker that it is a neighbor of.
    fn validate_in(&self, speaker: &Config) -> Result<(), InvalidField> {
        let local = self.local_asn(speaker);
        if let Some(reason) = self.asn.problem(local) {
            return Err(InvalidField { field: "asn", reason: reason.to_owned() });
        }
        for (field, policy) in [("import", &self.import), ("export", &self.export)] {
            if let Some(Err(reason)) = policy.as_ref().map(|p| p.check_sets(speaker)) {
                return Err(InvalidField { field, reason });
            }
        }
        if let Some(confederation) = &speaker.confederation {
            let identifier = confederation.identifier;
            let reason = "is that of our confederation, not of a member";
            check(self.asn.number(local) != Some(identifier), "asn", reason)?;
            let reason = "may be of a member of our confederation, or of none: which is to be said";
            check(self.asn.are_of(&confederation.members).is_some(), "asn", reason)?;
        }
        let external = self.peer_type(speaker) == PeerType::External;
        for (field, given) in [
            ("as-override", self.as_override),
            ("remove-private-as", self.remove_private_as != RemovePrivateAs::Off),
            ("role", self.role.is_some()),
        ] {
            check(!given || external, field, "is for external peers only")?;
        }
        let internal = self.peer_type(speaker) == PeerType::Internal;
        let possible = !self.route_reflector_client || internal;
        check(possible, "route-reflector-client", "only an internal peer can be a client")
    }

    /// All but who and where it is.
    fn validate_settings(&self) -> Result<(), InvalidField> {
        let restart = self.restart_time.is_none_or(|t| (1..=4095).contains(&t));
        let password = self.password.as_ref().is_none_or(super::Password::is_possible);
        check(!self.name.is_empty(), "name", "is empty")?;
        check(self.port != 0, "port", "0 is not a port to connect to")?;
        let asn = if let PeerAs::Number(asn) = self.asn { is_asn(asn) } else { true };
        check(asn, "asn", RESERVED_ASN)?;
        check(self.local_asn.is_none_or(is_asn), "local-asn", RESERVED_ASN)?;
        check(password, "password", "must have 1 to 80 octets")?;
        if let Some(keys) = &self.tcp_ao {
            check(self.password.is_none(), "tcp-ao", "there is a password already")?;
            keys.validate()
                .map_err(|reason| InvalidField { field: "tcp-ao", reason: reason.to_owned() })?;
        }
        let interface = self.source_interface.as_deref().is_none_or(is_interface);
        check(interface, "source-interface", NO_INTERFACE)?;
        let local = self.local_asn.is_some() || self.local_as == LocalAs::default();
        check(local, "local-as", "there is no local-asn")?;
        let hops = self.ttl_security.is_none_or(|h| (1..=254).contains(&h));
        check(hops, "ttl-security", "must be 1 to 254 hops")?;
        check(self.multihop != Some(0), "multihop", "must be 1 to 255")?;
        // With both, BFD still goes by how far it is.
        let sole = self.multihop.is_none() || self.ttl_security.is_none() || self.bfd.is_some();
        check(sole, "multihop", "has no effect beside ttl-security, which sends with 255")?;
        let hold = self.hold_time == 0 || self.hold_time >= 3;
        check(hold, "hold-time", "must be 0, or 3 seconds and more")?;
        let keepalive = self.keepalive_time.is_none_or(|k| k > 0);
        check(keepalive, "keepalive-time", "must be 1 second or more")?;
        let send_hold = self.send_hold_time.is_none_or(|s| s == 0 || s > self.hold_time);
        check(send_hold, "send-hold-time", "must be 0, or more than hold-time")?;
        check(self.connect_retry_time > 0, "connect-retry-time", "must be 1 second or more")?;
        let interval = self.advertisement_interval <= 600;
        check(interval, "advertisement-interval", "must be at most 600 seconds")?;
        check(restart, "restart-time", "must be 1 to 4095 seconds")?;
        check(!self.families.is_empty(), "families", "is empty")?;
        let of_ipv4 = self.families.contains(&Family::Ipv4Unicast);
        let reason = "is of IPv4 routes, but ipv4-unicast is not in families";
        check(of_ipv4 || self.extended_next_hop != Some(true), "extended-next-hop", reason)?;
        let strict = self.role.is_some() || !self.role_strict;
        check(strict, "role-strict", "there is no role")?;
        if let Some(max) = self.max_prefixes {
            let possible = max.limit > 0 && max.limit_v6 != Some(0) && max.restart_after != Some(0);
            check(possible, "max-prefixes", "limits and restart-after must be 1 or more")?;
            let of_ipv6 = self.families.contains(&Family::Ipv6Unicast);
            let reason = "limit-v6: ipv6-unicast is not in families";
            check(max.limit_v6.is_none() || of_ipv6, "max-prefixes", reason)?;
            let warning = (1..=100).contains(&max.warn_percent);
            check(warning, "max-prefixes", "warn-percent must be 1 to 100")?;
            let ends = !max.only_warn || max.restart_after.is_none();
            check(ends, "max-prefixes", "restart-after: with only-warn no session is ended")?;
        }
        if let Some(Err(reason)) = self.bfd.as_ref().map(Bfd::validate) {
            return Err(InvalidField { field: "bfd", reason: reason.to_owned() });
        }
        for (field, way, policy) in
            [("import", Way::Import, &self.import), ("export", Way::Export, &self.export)]
        {
            if let Some(policy) = policy {
                policy.validate(way).map_err(|reason| InvalidField { field, reason })?;
            }
        }
        Ok(())
    }
}
