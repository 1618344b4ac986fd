//! Route refresh (RFC 2918), and its enhanced form, in which both sides know where the routes that
//! are sent again begin and end (RFC 7313): what did not come again by then is gone.

use std::time::Duration;

use super::core::{Core, Time};
use super::timers::TimerKey;
use crate::export::Told;
use crate::rib::PeerId;
use crate::wire::{Family, Notification, RouteRefresh, encode_end_of_rib};

impl Core {
    /// Takes in a ROUTE-REFRESH.
    pub(super) fn route_refresh(
        &mut self,
        now: Time,
        peer: PeerId,
        body: &[u8],
    ) -> Result<(), Notification> {
        let Some(neighbor) = self.neighbor(peer) else { return Ok(()) };
        let Some(session) = &neighbor.session else { return Ok(()) };
        let enhanced = session.negotiated.enhanced_refresh;
        match RouteRefresh::parse(body, enhanced)? {
            Some((what, family)) if neighbor.families().contains(family) => match what {
                RouteRefresh::Request => self.tell_again(peer, family, enhanced),
                RouteRefresh::Begin => self.begin_refresh(now, peer, family),
                RouteRefresh::End => self.end_refresh(peer, family),
            },
            _ => tracing::debug!(peer = neighbor.config.name, ?body, "ROUTE-REFRESH ignored"),
        }
        Ok(())
    }

    /// Answers a request. Before the first End-of-RIB there is no demarcation (RFC 7313 section 4).
    pub(super) fn tell_again(&mut self, peer: PeerId, family: Family, enhanced: bool) {
        if self.groups.refresh(peer, family, &mut self.rib) && enhanced {
            self.demarcate(peer, family, RouteRefresh::Begin);
        }
    }

    fn demarcate(&mut self, peer: PeerId, family: Family, what: RouteRefresh) {
        let mut out = Vec::new();
        what.encode(family, &mut out);
        self.say(peer, out);
    }

    /// Queues one message on the session of a neighbor.
    fn say(&mut self, peer: PeerId, message: Vec<u8>) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let Some(direction) = neighbor.session.as_ref().map(|s| s.direction) else { return };
        self.queue(peer, direction, message);
    }

    /// A neighbor has been told everything, and is told so.
    pub(super) fn told(&mut self, peer: PeerId, family: Family, told: Told) {
        let Some(session) = self.neighbor(peer).and_then(|n| n.session.as_mut()) else { return };
        match told {
            Told::First => {
                session.sent_end.insert(family);
                let mut out = Vec::new();
                encode_end_of_rib(family, &mut out);
                self.say(peer, out);
            }
            Told::Again if session.negotiated.enhanced_refresh => {
                self.demarcate(peer, family, RouteRefresh::End);
            }
            Told::Again => {}
        }
    }

    /// All routes of the family come again. The time for that is bounded as after a restart.
    fn begin_refresh(&mut self, now: Time, peer: PeerId, family: Family) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let Some(session) = &mut neighbor.session else { return };
        // RFC 7313 section 4: a refresh that begins before the first End-of-RIB is none.
        if session.negotiated.restart.is_some() && !session.received_end.contains(family) {
            let peer = &neighbor.config.name;
            tracing::warn!(peer, %family, "a refresh before End-of-RIB is ignored");
            return;
        }
        session.refreshing.insert(family);
        self.mark_paths_stale(peer, family);
        let bound = Duration::from_secs(self.config.graceful_restart.stale_path_time.into());
        self.arm(TimerKey::Refresh(peer), now + bound);
    }

    fn end_refresh(&mut self, peer: PeerId, family: Family) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let Some(session) = &mut neighbor.session else { return };
        if !session.refreshing.contains(family) {
            let peer = &neighbor.config.name;
            tracing::warn!(peer, %family, "the end of a refresh that did not begin is ignored");
            return;
        }
        session.refreshing.remove(family);
        if session.refreshing.is_empty() {
            neighbor.refresh_timer.at = None;
        }
        self.remove_stale(peer, family);
    }

    /// The peer did not say in time that its refresh has ended: it has.
    pub(super) fn give_up_refresh(&mut self, peer: PeerId) {
        let session = self.neighbor(peer).and_then(|n| n.session.as_ref());
        let refreshing = session.map(|s| s.refreshing).unwrap_or_default();
        for family in refreshing.iter() {
            self.end_refresh(peer, family);
        }
    }
}
