//! Patience with what fails beside the requests.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

/// Between two attempts.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// How often something that no request waits for is tried while it fails. Its failures are its own:
/// requests go on.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub(super) not_before: Option<Instant>,
    pause: Duration,
    last: Option<Error>,
}

impl Pace {
    pub(super) fn allows(&self) -> bool {
        self.not_before.is_none_or(|at| at <= Instant::now())
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// True if this failure is not the last one again.
    pub(super) fn failed(&mut self, error: &Error) -> bool {
        self.pause = (self.pause * 2).clamp(SHORTEST, LONGEST);
        self.not_before = Some(Instant::now() + self.pause);
        self.last.replace(error.clone()).as_ref() != Some(error)
    }
}
