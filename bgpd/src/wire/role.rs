//! BGP roles (RFC 9234).

use serde::{Deserialize, Serialize};

/// What a speaker is to the peer of a session with another AS (RFC 9234 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It sells transit to the peer.
    Provider,
    /// It is a route server, and the peer a client of it.
    Rs,
    /// It is a client of the peer, which is a route server.
    RsClient,
    /// It buys transit from the peer.
    Customer,
    /// Neither does: each announces its own and its customers' routes.
    Peer,
}

impl Role {
    /// The value in the capability.
    pub const fn wire(self) -> u8 {
        match self {
            Self::Provider => 0,
            Self::Rs => 1,
            Self::RsClient => 2,
            Self::Customer => 3,
            Self::Peer => 4,
        }
    }

    /// The role of a value in the capability.
    pub const fn from_wire(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Provider,
            1 => Self::Rs,
            2 => Self::RsClient,
            3 => Self::Customer,
            4 => Self::Peer,
            _ => return None,
        })
    }

    /// What the other side must be (RFC 9234 section 4.2, table 2).
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Provider => Self::Customer,
            Self::Rs => Self::RsClient,
            Self::RsClient => Self::Rs,
            Self::Customer => Self::Provider,
            Self::Peer => Self::Peer,
        }
    }

    /// Whether routes go from this speaker to the peer only downwards: the peer may pass them on to
    /// its customers alone.
    pub(crate) const fn tells_downwards(self) -> bool {
        matches!(self, Self::Provider | Self::Rs | Self::Peer)
    }

    /// Whether routes come from the peer to this speaker only downwards.
    pub(crate) const fn hears_downwards(self) -> bool {
        self.opposite().tells_downwards()
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Provider => "provider",
            Self::Rs => "rs",
            Self::RsClient => "rs-client",
            Self::Customer => "customer",
            Self::Peer => "peer",
        })
    }
}
