//! What the lab is doing, for the person who waits: a spinner at a terminal, lines elsewhere.

use std::future::Future;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where progress goes. Quiet in tests.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    loud: bool,
}

impl Progress {
    /// To standard error.
    pub(crate) fn shown() -> Self {
        Self { loud: true }
    }

    /// Nowhere.
    pub(crate) fn hidden() -> Self {
        Self { loud: false }
    }

    /// Does one step, showing that it is under way and then how long it took.
    ///
    /// # Errors
    /// Those of the step, named after it.
    pub(crate) async fn step<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        let target =
            if self.loud { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        let outcome = work.await;
        bar.finish_and_clear();
        if outcome.is_ok() {
            self.note(&format!("{what} ({:.1} s)", start.elapsed().as_secs_f64()));
        }
        outcome.with_context(|| what.to_owned())
    }

    /// A line of its own.
    pub(crate) fn note(&self, line: &str) {
        if self.loud {
            error_line(line);
        }
    }
}

/// One line on standard error; a closed pipe is not an error.
pub(crate) fn error_line(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Text on standard output, as it is; a closed pipe is not an error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
