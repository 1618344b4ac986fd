//! Neighbors that are not named one by one.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::PeerConfig;

/// Addresses from which connections are taken without a neighbor of their own: each that connects
/// becomes one, named `NAME-ADDRESS`, for as long as it has a session or its routes are kept over
/// a restart. We never connect to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ListenRange {
    /// The addresses; host bits must be zero. Of several ranges that hold an address the most
    /// specific counts.
    pub prefix: IpNet,
    /// How many neighbors there may be at once, sessions or not, 1 to 10000. When there are so
    /// many, one that has not come as far as a session in 10 seconds makes room for the next.
    #[serde(default = "default_limit")]
    pub limit: u32,
    /// What they are: a neighbor without `address`. Its name is unique among ranges and
    /// neighbors; its MD5 key holds for all of the prefix.
    pub peer: PeerConfig,
}

const fn default_limit() -> u32 {
    100
}

impl ListenRange {
    /// A range with the default limit, of neighbors like `peer`.
    pub const fn new(prefix: IpNet, peer: PeerConfig) -> Self {
        Self { prefix, limit: default_limit(), peer }
    }

    /// The neighbor at an address.
    pub(crate) fn neighbor(&self, address: std::net::IpAddr, scope_id: u32) -> PeerConfig {
        let name = format!("{}-{address}", self.peer.name);
        PeerConfig { name, address, scope_id, passive: true, ..self.peer.clone() }
    }
}
