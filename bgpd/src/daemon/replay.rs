//! `bgpd replay`: a recording run again.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bgpd::{Stop, Until};
use clap::Args;

use super::ask::Ask;
use super::control::Asked;

/// Exit codes beside 0.
const DIFFERS: u8 = 1;
const UNREADABLE: u8 = 2;
const UNANSWERED: u8 = 3;
const FAILED: u8 = 4;

/// What to replay, how far, and what to show then.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The file that `bgpd run --record` wrote; also one that is still being written.
    file: PathBuf,
    /// How far: so many events (1234), up to a time since the speaker started (1.5s, 300ms, 10m,
    /// 2h), or up to one in seconds since 1970 (@1700000000.5). Default: to the end.
    #[arg(long, value_name = "TIME|EVENT", value_parser = until)]
    until: Option<Until>,
    /// What to show of the speaker at that moment; as of the first difference, if it comes before.
    #[command(subcommand)]
    show: Option<Ask>,
}

fn until(text: &str) -> Result<Until, String> {
    let wrong =
        || format!("{text:?} is neither a number of events nor a time such as 1.5s or @17e8");
    let seconds = |number: &str, times: f64| -> Result<Duration, String> {
        let number: f64 = number.parse().map_err(|_| wrong())?;
        Duration::try_from_secs_f64(number * times).map_err(|_| wrong())
    };
    if let Ok(events) = text.parse() {
        return Ok(Until::Event(events));
    }
    if let Some(wall) = text.strip_prefix('@') {
        return seconds(wall, 1.0).map(Until::Wall);
    }
    for (suffix, times) in [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)] {
        if let Some(number) = text.strip_suffix(suffix) {
            return seconds(number, times).map(Until::Time);
        }
    }
    Err(wrong())
}

impl Replay {
    /// Replays, says what came of it, and shows what is asked for. What goes wrong otherwise is not
    /// to be taken for a difference.
    pub(crate) fn run(self) -> ExitCode {
        self.replay().unwrap_or_else(|error| {
            // It may be standard error that fails; the exit code remains.
            let _closed = writeln!(io::stderr().lock(), "bgpd: {error:#}");
            ExitCode::from(FAILED)
        })
    }

    fn replay(self) -> anyhow::Result<ExitCode> {
        let Self { file, until, show } = self;
        // Only what is asked for goes to standard output.
        let say = |text: &str| writeln!(io::stderr().lock(), "{text}").context("standard error");
        let unreadable = |error: bgpd::Unreadable| {
            say(&format!("bgpd: {}: {error}", file.display())).map(|()| ExitCode::from(UNREADABLE))
        };
        let mut replay = match bgpd::Replay::open(&file) {
            Ok(replay) => replay,
            Err(error) => return unreadable(error),
        };
        let (version, ours) = (replay.version(), env!("CARGO_PKG_VERSION"));
        let started = replay.started();
        say(&format!("recorded by bgpd {version}, started at @{:.3}", started.as_secs_f64()))?;
        if version != ours {
            say(&format!("replayed by bgpd {ours}, which may decide otherwise"))?;
        }
        let stop = match replay.run(until.unwrap_or(Until::End)) {
            Ok(stop) => stop,
            Err(error) => return unreadable(error),
        };
        let (count, time) = (replay.count(), replay.time());
        let code = match &stop {
            Stop::Differs(difference) => {
                say(&format!("DIFFERS at {difference}"))?;
                ExitCode::from(DIFFERS)
            }
            Stop::Reached => {
                say(&format!("the same: {count} events up to {time:?}"))?;
                ExitCode::SUCCESS
            }
            Stop::Marked(ending) => {
                say(&format!("the same: all {count} events up to {time:?}; it ends: {ending}"))?;
                ExitCode::SUCCESS
            }
            Stop::Cut { left } => {
                say(&format!(
                    "the same: all {count} events up to {time:?}; the file ends without a mark, \
                     with {left} octets that are no whole record"
                ))?;
                ExitCode::SUCCESS
            }
        };
        if let Some(show) = show {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?;
            let speaker = replay.into_handle().context("cannot ask the replayed speaker")?;
            if let Err(error) = show.run(&Asked::Speaker(speaker, runtime.handle().clone())) {
                say(&format!("bgpd: {error:#}"))?;
                return Ok(ExitCode::from(UNANSWERED));
            }
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_an_event_or_a_time() {
        let time = |millis| Ok(Until::Time(Duration::from_millis(millis)));
        assert_eq!(until("12"), Ok(Until::Event(12)));
        assert_eq!(until("1.5s"), time(1500));
        assert_eq!(until("300ms"), time(300));
        assert_eq!(until("2m"), time(120_000));
        assert_eq!(until("0.5h"), time(1_800_000));
        assert_eq!(until("@1000.5"), Ok(Until::Wall(Duration::from_millis(1_000_500))));
        for wrong in ["", "s", "-1s", "1d", "@", "1e400s", "NaNs"] {
            assert!(until(wrong).is_err(), "{wrong}");
        }
    }
}
