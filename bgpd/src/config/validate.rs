//! What a configuration must be for the speaker to take it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::{Bfd, Config, PeerConfig, RemovePrivateAs};
use crate::policy::{PeerType, Way, validate_prefixes};

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
            if let Some(field) = self.bfd_conflict(peer) {
                let reason = "another peer has the same address, and with it the same BFD session, \
                              but other settings for it";
                return fail(&object, field, reason);
            }
            for (field, policy) in [("import", &peer.import), ("export", &peer.export)] {
                if let Some(Err(reason)) = policy.as_ref().map(|p| p.check_sets(self)) {
                    return fail(&object, field, &reason);
                }
            }
            if self.confederation.as_ref().is_some_and(|c| c.identifier == peer.asn) {
                return fail(&object, "asn", "is that of our confederation, not of a member");
            }
            let external = peer.peer_type(self) == PeerType::External;
            for (field, given) in [
                ("as-override", peer.as_override),
                ("remove-private-as", peer.remove_private_as != RemovePrivateAs::Off),
                ("role", peer.role.is_some()),
            ] {
                if given && !external {
                    return fail(&object, field, "is for external peers only");
                }
            }
            if peer.route_reflector_client && peer.asn != peer.local_asn.unwrap_or(self.asn) {
                let reason = "only an internal peer can be a client";
                return fail(&object, "route-reflector-client", reason);
            }
        }
        Ok(())
    }
}

impl Config {
    /// Peers that differ only in their port have one BFD session (RFC 5882 section 2).
    fn bfd_conflict(&self, peer: &PeerConfig) -> Option<&'static str> {
        let session = |p: &PeerConfig| {
            p.bfd_session(p.asn != p.local_asn(self)).filter(|_| p.shutdown.is_none())
        };
        let (key, wanted) = session(peer)?;
        let mut others = self.peers.iter().filter_map(session);
        others.any(|(other, its)| other == key && its != wanted).then_some("bfd")
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
        let password = self.password.as_ref().is_none_or(|p| (1..=80).contains(&p.bytes().len()));
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
        let interval = self.advertisement_interval <= 600;
        check(interval, "advertisement-interval", "must be at most 600 seconds")?;
        check(restart, "restart-time", "must be 1 to 4095 seconds")?;
        check(!self.families.is_empty(), "families", "is empty")?;
        let strict = self.role.is_some() || !self.role_strict;
        check(strict, "role-strict", "there is no role")?;
        if let Some(max) = self.max_prefixes {
            let possible = max.limit > 0 && max.restart_after != Some(0);
            check(possible, "max-prefixes", "limit and restart-after must be 1 or more")?;
            let warning = (1..=100).contains(&max.warn_percent);
            check(warning, "max-prefixes", "warn-percent must be 1 to 100")?;
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
