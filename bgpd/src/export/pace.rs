//! Announcements that wait: for the members' advertisement interval, or for the kernel.

use super::group::Sent;
use crate::rib::{AttrId, Bitmap, DestId};
use crate::speaker::Time;

/// What a group has to announce and may not yet (MinRouteAdvertisementIntervalTimer, RFC 4271
/// section 9.2.1.1). Between two bursts of announcements lies the interval; withdrawals never wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// The end of the interval that runs.
    until: Option<Time>,
    /// Something was announced since the last interval.
    announced: bool,
    /// The kernel has not yet what the destination that is looked at is to have.
    kernel: bool,
    held: Bitmap,
}

impl Pace {
    /// Whether the change from `old` to `new` must wait. `told` says whether the source of `new` was
    /// told of `old`: it must be told at once that its own route is used now, or packets would go
    /// round.
    pub(super) fn must_wait(&self, old: Sent, new: Sent, told: impl Fn() -> bool) -> bool {
        let withdraws = old.attr != AttrId::NONE && old.source != new.source;
        let interval = self.until.is_some() && !(withdraws && told());
        new.attr != AttrId::NONE && (self.kernel || interval)
    }

    /// Says whether the destination that is looked at from here on must wait for the kernel.
    pub(super) const fn wait_for_kernel(&mut self, wait: bool) {
        self.kernel = wait;
    }

    pub(super) fn hold(&mut self, dest: DestId) {
        self.held.insert(dest);
    }

    pub(super) fn remove(&mut self, dest: DestId) {
        self.held.remove(dest);
    }

    pub(super) fn holds(&self, dest: DestId) -> bool {
        self.held.contains(dest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.len() == 0
    }

    /// Notes an announcement.
    pub(super) const fn announced(&mut self) {
        self.announced = true;
    }

    /// A burst is over: the interval begins if anything was announced.
    pub(super) fn begin(&mut self, now: Time, interval: Time) {
        if std::mem::take(&mut self.announced) && !interval.is_zero() && self.until.is_none() {
            self.until = Some(now + interval);
        }
    }

    /// What waited, once the interval is over.
    pub(super) fn end(&mut self, now: Time) -> Bitmap {
        if self.until.is_some_and(|until| until <= now) {
            return self.stop();
        }
        Bitmap::default()
    }

    /// What waited; nothing waits from here on.
    pub(super) fn stop(&mut self) -> Bitmap {
        self.until = None;
        std::mem::take(&mut self.held)
    }

    /// When [`Self::end`] has something.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.until.filter(|_| !self.is_empty())
    }

    /// Two groups go on as one: the later interval holds.
    pub(super) fn join(&mut self, other: &Self) {
        self.until = self.until.max(other.until);
        self.announced |= other.announced;
    }
}
