//! How long to wait after a failure. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::listwatch::Failure;

const FIRST: Duration = Duration::from_millis(200);
/// Short enough that a node catches up soon after an outage, long enough for the server to live.
const LONGEST: Duration = Duration::from_secs(10);
/// For what somebody has to change first: a missing CRD, a missing right.
const LONGEST_REFUSED: Duration = Duration::from_secs(30);
/// Trouble-free time after which the next failure counts as the first.
const CALM: Duration = Duration::from_secs(10);

/// Doubles with each failure; of each delay, a random half is waited or not.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// The delay before the next attempt.
    pub(crate) fn next(&mut self, failure: &Failure, now: Instant, random: u64) -> Duration {
        if self.until.is_some_and(|until| now > until + CALM) {
            self.failures = 0;
        }
        let longest = match failure {
            Failure::NotServed | Failure::Forbidden(_) => LONGEST_REFUSED,
            Failure::Expired | Failure::Other(_) => LONGEST,
        };
        let whole = (FIRST * 2_u32.saturating_pow(self.failures.min(10))).min(longest);
        self.failures += 1;
        let half = whole / 2;
        let part = u32::try_from(random % 1001).unwrap_or(0);
        let delay = half + half * part / 1000;
        self.until = Some(now + delay);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_over_after_calm() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let other = Failure::Other(String::new());
        let mut delays = |random, n: usize| {
            (0..n).map(|_| backoff.next(&other, start, random).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1000, 8), [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(delays(0, 1), [5_000], "the random half");
        assert_eq!(backoff.next(&Failure::NotServed, start, 1000).as_secs(), 30);
        let later = start + Duration::from_secs(39);
        assert_eq!(backoff.next(&other, later, 1000).as_secs(), 10);
        let calm = later + Duration::from_secs(21);
        assert_eq!(backoff.next(&other, calm, 1000).as_millis(), 200);
    }
}
