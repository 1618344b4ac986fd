//! Command line, life cycle and control socket of the daemon.

mod ask;
mod control;
mod show;

use std::path::{Path, PathBuf};

use anyhow::Context;
use bgpd::{Config, Shutdown, Speaker, SpeakerHandle};
use clap::{Parser, Subcommand};
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
    Run {
        /// The configuration, in YAML.
        #[arg(short, long)]
        config: PathBuf,
        /// Only check the configuration.
        #[arg(long)]
        check: bool,
    },
    #[command(flatten)]
    Ask(ask::Ask),
    /// Show one of the following.
    #[command(subcommand)]
    Show(ask::Ask),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self { command, socket } = self;
        match command {
            Command::Run { config, check: true } => load(&config).map(drop),
            Command::Run { config, check: false } => {
                tracing_subscriber::fmt()
                    .with_env_filter(
                        tracing_subscriber::EnvFilter::try_from_default_env()
                            .unwrap_or_else(|_| "info".into()),
                    )
                    .with_writer(std::io::stderr)
                    .init();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(run(&config, &socket))
            }
            Command::Ask(ask) | Command::Show(ask) => ask.run(&socket),
        }
    }
}

/// Reads a configuration; as a daemon, external peers need policies (RFC 8212) unless it says
/// otherwise.
fn load(path: &Path) -> anyhow::Result<Config> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut config: Config =
        serde_saphyr::from_str(&text).with_context(|| format!("{}", path.display()))?;
    config.ebgp_requires_policy.get_or_insert(true);
    config.validate().with_context(|| format!("{}", path.display()))?;
    Ok(config)
}

async fn run(path: &Path, socket: &Path) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut restart = signal(SignalKind::user_defined1())?;
    let config = load(path)?;
    // The socket first: a second daemon ends here, before it disturbs a session.
    let control = control::Server::bind(socket)
        .with_context(|| format!("cannot listen on {}", socket.display()))?;
    let speaker = Speaker::start(config).await?;
    let serving = tokio::spawn(control.serve(speaker.clone()));
    let how = loop {
        tokio::select! {
            _ = hangup.recv() => reload(path, &speaker).await,
            _ = terminate.recv() => break Shutdown::Administrative(String::new()),
            _ = interrupt.recv() => break Shutdown::Administrative(String::new()),
            _ = restart.recv() => break Shutdown::ForRestart,
        }
    };
    serving.abort();
    speaker.shutdown(how).await;
    Ok(())
}

/// Applies the file as it is now; a wrong one changes nothing.
async fn reload(path: &Path, speaker: &SpeakerHandle) {
    let config = match load(path) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "configuration not changed");
            return;
        }
    };
    match speaker.apply(config).await {
        Ok(report) => {
            for change in report.changes {
                let (object, fields, effect) = (change.object, change.fields, change.effect);
                tracing::info!(object, ?fields, ?effect, "configuration changed");
            }
            tracing::info!("configuration applied");
        }
        Err(error) => tracing::error!(%error, "configuration not changed"),
    }
}
