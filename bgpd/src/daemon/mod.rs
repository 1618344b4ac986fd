//! Command line, life cycle and control socket of the daemon.

mod ask;
mod clear;
mod control;
mod metrics;
mod remains;
mod replay;
mod show;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bgpd::{Config, Recording, Shutdown, Speaker, SpeakerHandle};
use clap::{Parser, Subcommand};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

/// A BGP speaker.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// The control socket of the daemon.
    #[arg(long, global = true, env = "BGPD_SOCKET", default_value = "/run/caracal/bgpd.sock")]
    socket: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the speaker. SIGHUP reads the configuration again; SIGTERM and SIGINT end it with a
    /// Cease; SIGUSR1 ends it without a word, so that peers with graceful restart keep its routes.
    /// They keep them, too, when it is killed. The next one on the same socket finds a file beside
    /// it, with `.restart` after its name, and knows that it restarts; the folder has to last.
    Run {
        /// The configuration, in YAML.
        #[arg(short, long)]
        config: PathBuf,
        /// Only check the configuration.
        #[arg(long)]
        check: bool,
        /// Record the run in this file, for `bgpd replay`. One that is there is kept with `.old`
        /// after its name. Keys of TCP-MD5 and TCP-AO do not get into it.
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
        /// The most octets of a recording, which ends there; with a suffix K, M or G 2^10, 2^20 or
        /// 2^30 times as many.
        #[arg(long, value_name = "OCTETS", default_value = "1G", value_parser = octets)]
        record_limit: u64,
        /// What to tell the neighbors' operators when SIGTERM or SIGINT ends it (RFC 9003): up to
        /// 255 octets.
        #[arg(long, value_name = "TEXT", value_parser = clear::message, default_value = "")]
        shutdown_message: String,
    },
    /// Run a recording again, without a socket, as fast as it goes, and compare what the speaker
    /// does with what it did. Ends with 0 if that is the same, 1 if it differs, 2 if the recording
    /// cannot be read, 3 if what is to be shown is not there, 4 if something else fails, 64 if the
    /// command line is wrong.
    Replay(replay::Replay),
    #[command(flatten)]
    Ask(ask::Ask),
    /// Have the session of a neighbor, or of all, begin anew: it ends with a Cease/Administrative
    /// Reset. Or have routes sent again within it.
    Clear(clear::Clear),
    /// Tables in the format of RFC 6396.
    #[command(subcommand)]
    Mrt(MrtCommand),
    /// Show one of the following.
    #[command(subcommand)]
    Show(ask::Ask),
}

#[derive(Debug, Subcommand)]
enum MrtCommand {
    /// Write the routes of all neighbors, as received, to a file (TABLE_DUMP_V2).
    Dump {
        /// The file, which is replaced.
        file: PathBuf,
    },
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Self { command, socket } = self;
        let asked = control::Asked::Daemon(socket.clone());
        match command {
            Command::Run { config, check: true, .. } => load(&config, |_| false).map(drop),
            Command::Run { config, check: false, record, record_limit, shutdown_message } => {
                tracing_subscriber::fmt()
                    .with_env_filter(
                        tracing_subscriber::EnvFilter::try_from_default_env()
                            .unwrap_or_else(|_| "info".into()),
                    )
                    .with_writer(std::io::stderr)
                    .init();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let recording = record.map(|path| Recording { path, limit: record_limit });
                runtime.block_on(run(&config, recording, &socket, shutdown_message))
            }
            Command::Mrt(MrtCommand::Dump { file }) => control::dump(&asked, &file),
            Command::Clear(clear) => clear.run(&asked),
            Command::Ask(ask) | Command::Show(ask) => ask.run(&asked),
            Command::Replay(replay) => return Ok(replay.run()),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A number of octets, such as 4096, 64K, 10M or 1G.
fn octets(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(number) if text.ends_with('K') => (number, 10),
        Some(number) if text.ends_with('M') => (number, 20),
        Some(number) => (number, 30),
        None => (text, 0),
    };
    let wrong = || format!("{text:?} is no number of octets such as 4096, 64K, 10M or 1G");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Whether a configuration says itself that the speaker restarts.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Said {
    graceful_restart: SaidRestart,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SaidRestart {
    restarting: Option<bool>,
}

/// Reads a configuration; as a daemon, external peers need policies (RFC 8212) unless it says
/// otherwise. Whether it restarts, the daemon has to find out (`is_restart`) unless it is said.
fn load(path: &Path, is_restart: impl FnOnce(&Config) -> bool) -> anyhow::Result<Config> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut config: Config =
        serde_saphyr::from_str(&text).with_context(|| format!("{}", path.display()))?;
    config.ebgp_requires_policy.get_or_insert(true);
    config.validate().with_context(|| format!("{}", path.display()))?;
    let said: Said =
        serde_saphyr::from_str(&text).with_context(|| format!("{}", path.display()))?;
    config.graceful_restart.restarting =
        said.graceful_restart.restarting.unwrap_or_else(|| is_restart(&config));
    Ok(config)
}

async fn run(
    path: &Path,
    recording: Option<Recording>,
    socket: &Path,
    shutdown_message: String,
) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut restart = signal(SignalKind::user_defined1())?;
    let memory = remains::Memory::beside(socket);
    let config = load(path, |config| memory.is_restart(config))?;
    let restarting = config.graceful_restart.restarting;
    // The socket first: a second daemon ends here, before it disturbs a session.
    let control = control::Server::bind(socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    let metrics_listen = config.metrics_listen;
    let speaker = match recording {
        Some(recording) => Speaker::start_recorded(config, recording).await?,
        None => Speaker::start(config).await?,
    };
    let serving = tokio::spawn(control.serve(speaker.clone()));
    let keeping = tokio::spawn(memory.clone().keep(speaker.clone()));
    let mut metrics = None;
    set_metrics(&mut metrics, metrics_listen, &speaker).await;
    let how = loop {
        tokio::select! {
            _ = hangup.recv() => {
                if let Some(metrics_listen) = reload(path, restarting, &speaker).await {
                    set_metrics(&mut metrics, metrics_listen, &speaker).await;
                }
            }
            _ = terminate.recv() => break Shutdown::Administrative(shutdown_message),
            _ = interrupt.recv() => break Shutdown::Administrative(shutdown_message),
            _ = restart.recv() => break Shutdown::ForRestart,
        }
    };
    serving.abort();
    keeping.abort();
    // Waited for, as it must not write any more. That it was aborted is no error.
    let _aborted = keeping.await;
    let for_restart = how == Shutdown::ForRestart;
    if for_restart
        && let Ok(status) = speaker.status().await
        && let Err(error) = memory.note(&status)
    {
        tracing::error!(
            error = format!("{error:#}"),
            "the next daemon will not know that it restarts"
        );
    }
    speaker.shutdown(how).await;
    if !for_restart {
        memory.forget();
    }
    Ok(())
}

/// Answers for metrics where the configuration says, or no more. A daemon that cannot goes on: its
/// sessions are worth more.
async fn set_metrics(
    server: &mut Option<metrics::Server>,
    wanted: Option<SocketAddr>,
    speaker: &SpeakerHandle,
) {
    if server.as_ref().map(|server| server.address) == wanted {
        return;
    }
    *server = None;
    let Some(address) = wanted else { return };
    match metrics::Server::start(address, speaker.clone()).await {
        Ok(started) => *server = Some(started),
        Err(error) => tracing::error!(%address, %error, "metrics-listen: no metrics are served"),
    }
}

/// Applies the file as it is now; a wrong one changes nothing. Returns where metrics are to be
/// served, if it was applied.
async fn reload(
    path: &Path,
    restarting: bool,
    speaker: &SpeakerHandle,
) -> Option<Option<SocketAddr>> {
    // What was found out at start is none of what has changed.
    let config = match load(path, |_| restarting) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "configuration not changed");
            return None;
        }
    };
    let metrics_listen = config.metrics_listen;
    match speaker.apply(config).await {
        Ok(report) => {
            for change in report.changes {
                let (object, fields, effect) = (change.object, change.fields, change.effect);
                tracing::info!(object, ?fields, ?effect, "configuration changed");
            }
            tracing::info!("configuration applied");
            Some(metrics_listen)
        }
        Err(error) => {
            tracing::error!(%error, "configuration not changed");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_have_suffixes() {
        assert_eq!(octets("4096"), Ok(4096));
        assert_eq!(octets("64K"), Ok(64 << 10));
        assert_eq!(octets("10M"), Ok(10 << 20));
        assert_eq!(octets("1G"), Ok(Recording::DEFAULT_LIMIT));
        for wrong in ["", "G", "1T", "-1", "1.5G", "99999999999G"] {
            assert!(octets(wrong).is_err(), "{wrong}");
        }
    }
}
