//! How many prefixes a neighbor may announce (RFC 4486 section 4).

use std::time::Duration;

use super::core::{Core, Time};
use super::neighbor::Neighbor;
use crate::rib::PeerId;
use crate::session::{Direction, Event};
use crate::wire::{Family, FamilySet, Notification, cease, code};

impl Neighbor {
    /// Whether there shall be no session now.
    pub(super) fn is_halted(&self, now: Time) -> bool {
        self.halted.is_some_and(|until| until.is_none_or(|until| now < until))
    }

    /// Warns of a limit that comes near, once; the end of the session if it is passed.
    pub(super) fn over_limit(&mut self, family: Family) -> Option<Notification> {
        let max = self.config.max_prefixes?;
        let (prefixes, limit) = (self.received[family.index()] as u64, u64::from(max.of(family)));
        if prefixes > limit && !max.only_warn {
            let (afi, safi) = family.wire();
            let data = [&afi.to_be_bytes()[..], &[safi], &max.of(family).to_be_bytes()].concat();
            let reason = "it announces more prefixes than it may";
            return Some(Notification::new(code::CEASE, cease::MAX_PREFIXES, &data, reason));
        }
        if prefixes * 100 < limit * u64::from(max.warn_percent) {
            self.warned.remove(family);
        } else if !self.warned.contains(family) {
            self.warned.insert(family);
            let peer = &self.config.name;
            tracing::warn!(peer, %family, prefixes, limit, "close to its limit of prefixes");
        }
        None
    }
}

impl Core {
    /// After that error no session is wanted for a while, or for good.
    pub(super) fn halt_if_over(&mut self, now: Time, peer: PeerId, error: &Notification) {
        if (error.code, error.subcode) != (code::CEASE, cease::MAX_PREFIXES) {
            return;
        }
        let Some(neighbor) = self.neighbor(peer) else { return };
        let seconds = neighbor.config.max_prefixes.and_then(|max| max.restart_after);
        let until = seconds.map(|seconds| now + Duration::from_secs(seconds.into()));
        neighbor.halted = Some(until);
        neighbor.warned = FamilySet::default();
        let peer = &neighbor.config.name;
        tracing::error!(peer, restart_after = ?seconds, "too many prefixes: the session ends");
    }

    /// The limit is another: what was ended for the old one may begin, and the other way round.
    pub(super) fn limit_again(&mut self, now: Time, peer: PeerId) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let was_halted = neighbor.halted.take().is_some();
        neighbor.warned = FamilySet::default();
        let over = Family::ALL.into_iter().find_map(|family| neighbor.over_limit(family));
        let direction = neighbor.session.as_ref().map(|session| session.direction);
        if let (Some(error), Some(direction)) = (over, direction) {
            self.halt_if_over(now, peer, &error);
            self.event(now, peer, direction, &Event::Error(error));
        } else if was_halted {
            self.start(now, peer, Direction::Outgoing);
        }
    }
}
