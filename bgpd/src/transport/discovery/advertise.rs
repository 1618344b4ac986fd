//! When a router advertises itself on a link (RFC 4861 section 6.2), as a pure function of time.

use std::time::Duration;

use tokio::time::Instant;

/// How many advertisements go out quickly after a link has come, or nothing could be sent.
const INITIAL: u8 = 3;
/// Between those, and between any two.
const LEAST: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    interval: Duration,
    /// Quick ones left.
    quick: u8,
    last: Option<Instant>,
    due: Instant,
}

impl Schedule {
    /// A link that has just come.
    pub(super) const fn new(now: Instant, interval: Duration) -> Self {
        Self { interval, quick: INITIAL, last: None, due: now }
    }

    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// An advertisement was sent, or could not be.
    pub(super) fn sent(&mut self, now: Instant, succeeded: bool) {
        if succeeded {
            self.last = Some(now);
            self.quick = self.quick.saturating_sub(1);
        }
        let pause = if self.quick > 0 { LEAST } else { self.interval };
        self.due = now + pause.min(self.interval.max(LEAST));
    }

    /// Somebody asked: at once, but not more often than all a second.
    pub(super) fn solicited(&mut self, now: Instant) {
        let soonest = self.last.map_or(now, |last| now.max(last + LEAST));
        self.due = self.due.min(soonest);
    }
}
