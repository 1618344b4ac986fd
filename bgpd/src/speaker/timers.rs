//! When something is due: how long each timer runs, and the queue of all of them.

use std::cmp::Reverse;
use std::time::Duration;

use super::core::{Core, Time};
use super::neighbor::Deadline;
use crate::rib::PeerId;
use crate::session::{Direction, Timer};
use crate::wire::Family;

/// The hold time before the peer's OPEN (RFC 4271 section 8.2.2).
const OPEN_HOLD: Duration = Duration::from_secs(240);
/// The least time until a peer that takes nothing in is given up (RFC 9687 section 3).
const SEND_HOLD: Duration = Duration::from_secs(480);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimerKey {
    Slot(PeerId, Direction, Timer),
    Stale(PeerId, Family),
    Refresh(PeerId),
    Bfd(PeerId),
    Deferral,
    Advertise,
}

impl Core {
    /// Starts the send hold timer where something waits to be sent.
    pub(super) fn watch_sending(&mut self, now: Time) {
        for at in 1..self.neighbors.len() {
            let Some(neighbor) = &mut self.neighbors[at] else { continue };
            let id = neighbor.id;
            let Some(session) = &neighbor.session else { continue };
            let direction = session.direction;
            let slot = neighbor.slot(direction);
            if slot.out.len() > 0 && slot.timer(Timer::SendHold).at.is_none() {
                self.start_timer(now, id, direction, Timer::SendHold);
            }
        }
    }

    pub(super) fn start_timer(
        &mut self,
        now: Time,
        peer: PeerId,
        direction: Direction,
        timer: Timer,
    ) {
        if direction == Direction::Incoming && timer == Timer::ConnectRetry {
            return; // This machine accepts, it never connects.
        }
        let Some(neighbor) = self.neighbor(peer) else { return };
        let halted = neighbor.is_halted(now);
        let negotiated = neighbor.slots[direction.index()].negotiated.as_ref();
        let seconds = |s: u16| Duration::from_secs(s.into());
        let duration = match timer {
            Timer::ConnectRetry => Some(seconds(neighbor.config.connect_retry_time)),
            Timer::IdleHold => neighbor.pause(now),
            Timer::Hold => match negotiated {
                None => Some(OPEN_HOLD),
                Some(n) => (n.hold_time > 0).then(|| seconds(n.hold_time)),
            },
            Timer::Keepalive => {
                negotiated.filter(|n| n.keepalive_time > 0).map(|n| seconds(n.keepalive_time))
            }
            Timer::SendHold => match neighbor.config.send_hold_time {
                Some(time) => (time > 0).then(|| seconds(time)),
                None => negotiated
                    .filter(|n| n.hold_time > 0)
                    .map(|n| SEND_HOLD.max(seconds(n.hold_time) * 2)),
            },
        };
        let Some(mut duration) = duration else {
            if let Some(slot) = self.slot(peer, direction) {
                slot.timer(timer).at = None;
            }
            return;
        };
        // RFC 4271 section 10: these are jittered, so that neighbors do not act in step.
        let jittered = matches!(timer, Timer::ConnectRetry | Timer::IdleHold | Timer::Keepalive);
        if jittered && !halted {
            duration = self.jitter(duration);
        }
        self.arm(TimerKey::Slot(peer, direction, timer), now + duration);
    }

    /// 75 to 100 per cent of a duration.
    fn jitter(&mut self, duration: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let per_mille = 750 + u32::try_from(self.random % 251).unwrap_or(0);
        duration * per_mille / 1000
    }

    pub(super) fn deadline(&mut self, key: TimerKey) -> Option<&mut Deadline> {
        match key {
            TimerKey::Slot(peer, direction, timer) => {
                Some(self.slot(peer, direction)?.timer(timer))
            }
            TimerKey::Stale(peer, family) => {
                Some(&mut self.neighbor(peer)?.stale_timers[family.index()])
            }
            TimerKey::Refresh(peer) => Some(&mut self.neighbor(peer)?.refresh_timer),
            TimerKey::Bfd(peer) => Some(&mut self.neighbor(peer)?.bfd_timer),
            TimerKey::Deferral => Some(&mut self.deferral),
            TimerKey::Advertise => Some(&mut self.advertise),
        }
    }

    /// Sets a timer. One that is put off, as the hold timer is by every message, costs nothing in
    /// the queue.
    pub(super) fn arm(&mut self, key: TimerKey, at: Time) {
        let Some(deadline) = self.deadline(key) else { return };
        deadline.at = Some(at);
        if deadline.queued.is_none_or(|queued| queued > at) {
            deadline.queued = Some(at);
            self.timers.push(Reverse((at, key)));
        }
    }
}
