//! How the path to a neighbor is watched over.

use serde::{Deserialize, Serialize};

use super::PeerConfig;
use crate::bfd::{Interface, Key, Params, Wanted};

/// BFD for one neighbor (RFC 5880, RFC 5882). `bfd: {}` has all defaults: a failure is noticed
/// within 900 ms, which a busy machine, or a virtual one that is moved, does not reach by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Bfd {
    /// Milliseconds between our packets, 10 to 60000; more if the peer asks for it. Default: 300.
    pub min_tx: u32,
    /// Milliseconds between the peer's packets that we ask for, 10 to 60000. Default: 300.
    pub min_rx: u32,
    /// How many of our packets in a row the peer may miss before it takes the path for broken, 1 to
    /// 255. Default: 3.
    pub multiplier: u8,
    /// Whether the peer may be several hops away (RFC 5883). Both sides must agree: the ports are
    /// different ones. None: as BGP goes. An internal peer, or one with `multihop`, may be; one with
    /// a link-local address or a `ttl-security` of 1 is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multihop: Option<bool>,
    /// No BGP without BFD (draft-ietf-idr-bgp-bfd-strict-mode, without its capability): connections
    /// are neither made nor accepted before BFD is Up, or the peer says that its operator has turned
    /// it off. The peer must start BFD before BGP.
    pub strict: bool,
    /// With `strict`: seconds for which BFD must have been Up before BGP begins, so that a path that
    /// comes and goes is left alone. Default: 0.
    pub hold_down: u16,
}

impl Default for Bfd {
    fn default() -> Self {
        Self {
            min_tx: 300,
            min_rx: 300,
            multiplier: 3,
            multihop: None,
            strict: false,
            hold_down: 0,
        }
    }
}

impl Bfd {
    pub(super) fn validate(&self) -> Result<(), &'static str> {
        if [self.min_tx, self.min_rx].iter().any(|ms| !(10..=60_000).contains(ms)) {
            return Err("min-tx and min-rx must be 10 to 60000 milliseconds");
        }
        if self.multiplier == 0 {
            return Err("multiplier must be 1 to 255");
        }
        if self.hold_down > 0 && !self.strict {
            return Err("hold-down has a meaning only with strict");
        }
        Ok(())
    }
}

impl PeerConfig {
    /// The BFD session with the peer, if there is to be one.
    pub(crate) fn bfd_session(&self, external: bool) -> Option<(Key, Wanted)> {
        let bfd = self.bfd.as_ref()?;
        let link_local =
            matches!(self.address, std::net::IpAddr::V6(a) if a.is_unicast_link_local());
        let near = link_local || self.ttl_security == Some(1);
        let far = self.multihop.map_or(!external, |hops| hops > 1);
        let key = Key {
            peer: self.address,
            scope_id: self.scope_id,
            local: self.source_address,
            interface: self.source_interface.as_deref().and_then(Interface::new),
            multihop: bfd.multihop.unwrap_or(far && !near),
        };
        let params = Params {
            min_tx: bfd.min_tx.saturating_mul(1000),
            min_rx: bfd.min_rx.saturating_mul(1000),
            multiplier: bfd.multiplier,
        };
        let min_ttl = self.ttl_security.map_or(0, |hops| u8::MAX - (hops.max(1) - 1));
        Some((key, Wanted { params, min_ttl }))
    }
}
