//! Why a neighbor is not told of a path.

use serde::{Serialize, Serializer};

/// Why a neighbor is not told of a path, or of any. In JSON and as text, its name with hyphens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The neighbor is shut down by configuration.
    Shutdown,
    /// There is no session with it.
    NotEstablished,
    /// The family is not configured for it, or it did not offer it.
    FamilyNotNegotiated,
    /// Errors in its routes have disabled the family until the session is reset.
    FamilyDisabled,
    /// We have restarted and still wait for our peers before we select routes.
    Deferred,
    /// No path may be used.
    NoUsablePath,
    /// Packets do not take the path, and the neighbor is sent only those that they take.
    NotUsed,
    /// The path came from this neighbor.
    OwnRoute,
    /// The path came from an internal peer, and neither that nor this one is our client.
    InternalToInternal,
    /// It carries NO_ADVERTISE.
    NoAdvertise,
    /// It carries NO_EXPORT.
    NoExport,
    /// It carries NO_EXPORT_SUBCONFED.
    NoExportSubconfed,
    /// It carries LLGR_STALE, and the neighbor does not know what that is.
    LongLivedStale,
    /// The neighbor is external and has no export policy.
    NoPolicy,
    /// The export policy rejects it: the rule at this place, from 0; None: its default.
    ExportPolicy(Option<u16>),
    /// We have no address in the family to tell as next hop.
    NoNextHop,
    /// The next hop is of another family, which was not agreed on.
    NextHopFamily,
    /// It carries OTC, and the neighbor is a provider, a route server or a peer of ours.
    RouteLeak,
    /// The attributes do not fit into a message.
    TooLong,
}

impl Withheld {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::NotEstablished => "not-established",
            Self::FamilyNotNegotiated => "family-not-negotiated",
            Self::FamilyDisabled => "family-disabled",
            Self::Deferred => "deferred",
            Self::NoUsablePath => "no-usable-path",
            Self::NotUsed => "not-used",
            Self::OwnRoute => "own-route",
            Self::InternalToInternal => "internal-to-internal",
            Self::NoAdvertise => "no-advertise",
            Self::NoExport => "no-export",
            Self::NoExportSubconfed => "no-export-subconfed",
            Self::LongLivedStale => "long-lived-stale",
            Self::NoPolicy => "no-policy",
            Self::ExportPolicy(_) => "export-policy",
            Self::NoNextHop => "no-next-hop",
            Self::NextHopFamily => "next-hop-family",
            Self::RouteLeak => "route-leak",
            Self::TooLong => "too-long",
        }
    }

    /// Where it is defined.
    pub const fn source(self) -> &'static str {
        match self {
            Self::Shutdown => "configuration",
            Self::NotEstablished => "RFC 4271 8.2.2",
            Self::FamilyNotNegotiated => "RFC 4760 8",
            Self::FamilyDisabled => "RFC 7606 2, AFI/SAFI disable",
            Self::Deferred => "RFC 4724 4.1, Selection_Deferral_Timer",
            Self::NoUsablePath => "RFC 4271 9.1.2",
            Self::NotUsed => "RFC 7911 2, send: used",
            Self::OwnRoute => "split horizon",
            Self::InternalToInternal => "RFC 4271 9.2, RFC 4456 6",
            Self::NoAdvertise | Self::NoExport | Self::NoExportSubconfed => "RFC 1997",
            Self::LongLivedStale => "RFC 9494 4.3",
            Self::NoPolicy => "RFC 8212 2",
            Self::ExportPolicy(_) => "RFC 4271 9.1.3, export policy",
            Self::NoNextHop => "RFC 4271 5.1.3",
            Self::NextHopFamily => "RFC 8950 4",
            Self::RouteLeak => "RFC 9234 5",
            Self::TooLong => "RFC 4271 9.2",
        }
    }
}

impl std::fmt::Display for Withheld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shutdown => "the neighbor is shut down by configuration",
            Self::NotEstablished => "the session is not Established",
            Self::FamilyNotNegotiated => "the family was not negotiated",
            Self::FamilyDisabled => "errors in its routes have disabled the family",
            Self::Deferred => "we have restarted and wait for our peers before we select routes",
            Self::NoUsablePath => "no path may be used",
            Self::NotUsed => "packets do not take this path, and it is sent only those they take",
            Self::OwnRoute => "the path came from this neighbor",
            Self::InternalToInternal => "from an internal peer to one, neither of them our client",
            Self::NoAdvertise => "it carries NO_ADVERTISE",
            Self::NoExport => "it carries NO_EXPORT, and the neighbor is external",
            Self::NoExportSubconfed => "it carries NO_EXPORT_SUBCONFED, and the AS is another",
            Self::LongLivedStale => "it carries LLGR_STALE, which the neighbor does not know",
            Self::NoPolicy => "the neighbor is external and has no export policy",
            Self::ExportPolicy(Some(rule)) => {
                return write!(f, "rule {} of the export policy rejects it", rule + 1);
            }
            Self::ExportPolicy(None) => "no rule of the export policy accepts it",
            Self::NoNextHop => "we have no address in the family to tell as next hop",
            Self::NextHopFamily => "the next hop is of another family, which was not agreed on",
            Self::RouteLeak => "it came from above or beside (OTC) and may only go down",
            Self::TooLong => "its attributes do not fit into a message",
        })
    }
}

impl Serialize for Withheld {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
