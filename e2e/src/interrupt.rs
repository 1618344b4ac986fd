//! Being asked to end.

use std::future::Future;
use std::process::ExitCode;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::lab;
use crate::progress::error_line;

/// Ctrl-C, or SIGTERM, which is how `down` asks from elsewhere.
pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    /// From here on neither ends the process by itself.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// Does work that raises labs of its own; when it is interrupted, those are taken down.
pub(crate) async fn with_labs(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let mut interrupts = Interrupts::new()?;
    lab::sweep().await?;
    // The work ends with the block, so that nothing restarts what is taken down.
    {
        let mut work = Box::pin(work);
        tokio::select! {
            done = &mut work => return done,
            () = interrupts.next() => {}
        }
    }
    error_line("interrupted: cleaning up");
    lab::abandon_own().await?;
    Ok(ExitCode::FAILURE)
}
