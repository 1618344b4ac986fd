//! What an operator asks for: sessions that begin anew, routes that are sent again.

use serde::{Deserialize, Serialize};

use super::core::{Core, Time};
use crate::rib::PeerId;
use crate::session::Direction;
use crate::wire::{Notification, cease};

/// What is to be done to a neighbor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clear {
    /// Its session ends with a Cease/Administrative Reset (RFC 4486) and begins anew at once. So does
    /// one that waits for its next attempt, or because of too many prefixes.
    Hard {
        /// Text for the peer's operator (RFC 9003), cut at 255 octets; empty: none.
        message: String,
    },
    /// It is asked for its routes again (RFC 2918).
    SoftIn,
    /// It is sent all routes again.
    SoftOut,
}

/// What became of a [`Clear`] for one neighbor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cleared {
    /// The neighbor's name.
    pub neighbor: String,
    /// Why nothing was done; None: it was.
    pub refused: Option<String>,
}

impl Core {
    /// Clears a neighbor, or all; by name. One that is not known is not in the answer.
    pub(crate) fn clear(&mut self, now: Time, name: Option<&str>, how: &Clear) -> Vec<Cleared> {
        self.clock = now;
        let neighbors = self.neighbors.iter().flatten();
        let mut wanted: Vec<(String, PeerId)> = neighbors
            .filter(|neighbor| name.is_none_or(|name| neighbor.config.name == name))
            .map(|neighbor| (neighbor.config.name.clone(), neighbor.id))
            .collect();
        wanted.sort();
        let clear = |(neighbor, peer): (String, PeerId)| {
            let refused = self.clear_one(now, peer, how).err().map(str::to_owned);
            Cleared { neighbor, refused }
        };
        wanted.into_iter().map(clear).collect()
    }

    fn clear_one(&mut self, now: Time, peer: PeerId, how: &Clear) -> Result<(), &'static str> {
        let Some(neighbor) = self.neighbor(peer) else { return Ok(()) };
        if neighbor.config.shutdown.is_some() {
            return Err("it is shut down by configuration");
        }
        if let Clear::Hard { message } = how {
            neighbor.halted = None;
            let reason = "cleared by the operator";
            let n = Notification::communication(cease::ADMIN_RESET, message, reason);
            self.stop(now, peer, Some(&n));
            if let Some(neighbor) = self.neighbor(peer) {
                neighbor.failures = 0;
            }
            self.start(now, peer, Direction::Outgoing);
            return Ok(());
        }
        let families = neighbor.families();
        let Some(session) = &neighbor.session else { return Err("it has no session") };
        let negotiated = &session.negotiated;
        let enhanced = negotiated.enhanced_refresh;
        if *how == Clear::SoftIn {
            if !negotiated.route_refresh {
                return Err("it cannot send its routes again: \
                            it has not announced the capability of route refresh (RFC 2918)");
            }
            self.request_routes(peer);
        } else {
            for family in families.iter() {
                self.tell_again(peer, family, enhanced);
            }
        }
        Ok(())
    }
}
