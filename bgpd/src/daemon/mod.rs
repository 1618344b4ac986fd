//! Command line, life cycle and control socket of the daemon.

mod control;
mod show;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bgpd::{Config, Family, RouteQuery, Shutdown, Speaker, SpeakerHandle};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use control::Question;

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
    /// Show the neighbors.
    Neighbors {
        /// How to show them.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show routes: all, those of a prefix, or the most specific one that holds an address.
    Routes {
        /// A prefix (10.0.0.0/8) or an address (10.1.2.3).
        target: Option<String>,
        /// Only prefixes with a path from this neighbor.
        #[arg(long)]
        neighbor: Option<String>,
        /// Only prefixes announced to this neighbor.
        #[arg(long)]
        advertised_to: Option<String>,
        /// Only this family.
        #[arg(long)]
        family: Option<FamilyArg>,
        /// At most so many; 0: all.
        #[arg(long, default_value_t = 0)]
        limit: usize,
        /// How to show them.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show the speaker as a whole.
    Status {
        /// How to show it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FamilyArg {
    /// IPv4 unicast.
    Ipv4,
    /// IPv6 unicast.
    Ipv6,
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
            Command::Neighbors { output } => ask(&socket, &Question::Neighbors, output),
            Command::Status { output } => ask(&socket, &Question::Status, output),
            Command::Routes { target, neighbor, advertised_to, family, limit, output } => {
                let mut query = RouteQuery {
                    neighbor,
                    advertised_to,
                    limit,
                    family: family.map(|family| match family {
                        FamilyArg::Ipv4 => Family::Ipv4Unicast,
                        FamilyArg::Ipv6 => Family::Ipv6Unicast,
                    }),
                    ..RouteQuery::default()
                };
                if let Some(target) = target {
                    match target.parse() {
                        Ok(address) => query.address = Some(address),
                        Err(_) => {
                            let prefix = target.parse().with_context(|| {
                                format!("{target:?} is neither a prefix nor an address")
                            })?;
                            query.prefix = Some(prefix);
                        }
                    }
                }
                ask(&socket, &Question::Routes(query), output)
            }
        }
    }
}

fn ask(socket: &Path, question: &Question, format: Format) -> anyhow::Result<()> {
    let answer = control::ask(socket, question)
        .with_context(|| format!("cannot ask the daemon at {}", socket.display()))?;
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&answer)?,
        Format::Table => show::table(question, &answer),
    };
    writeln!(std::io::stdout().lock(), "{}", text.trim_end()).context("standard output")
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
