//! `felix`: the node agent, and the questions one asks it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use felix::cni::protocol::{DEFAULT_SOCKET, Question, Request};
use felix::config::Config;
use felix::control::{
    self, EndpointRow, Explanation, PoliciesReport, RouteRow, Rows, StatusReport,
};
use felix::install::Install;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The exit code for a mistake in the configuration, as for one on the command line.
const USAGE: u8 = 2;

/// Caracal's node agent.
#[derive(Debug, Parser)]
#[command(name = "felix", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent of this node
    Run {
        /// Configuration file [default: /etc/caracal/felix.yaml, if it exists]
        #[arg(long, value_name = "FILE", env = "CARACAL_CONFIG")]
        config: Option<PathBuf>,
    },
    /// How the agent, its source, the kernel and the BGP sessions are
    Status(Ask),
    /// The endpoints of this node and the policies in force for them
    Endpoints(Ask),
    /// The routes of this node
    Routes(Ask),
    /// What becomes of a packet, and why: by which rule of which policy, over which route
    Explain {
        /// Where it comes from: a pod (NAMESPACE/NAME, or NAME in namespace default), a node (NAME or
        /// node/NAME) or an address
        #[arg(value_name = "SRC")]
        source: String,
        /// Where it goes
        #[arg(value_name = "DST")]
        destination: String,
        /// The protocol [default: tcp] and the destination port; for icmp and icmpv6 TYPE or
        /// TYPE/CODE [default: an echo request]
        #[arg(value_name = "[PROTO] PORT", required = true, num_args = 1..=2)]
        traffic: Vec<String>,
        /// The source port; needed where a rule asks about it
        #[arg(long, value_name = "PORT")]
        source_port: Option<u16>,
        /// Also with the policies, tiers, network sets, pods and namespaces in this file, and which
        /// verdicts of this node it would change; - for standard input
        #[arg(long, value_name = "FILE")]
        with: Option<PathBuf>,
        #[command(flatten)]
        ask: Ask,
    },
    /// The policies of the cluster and what of them this node's kernel has
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Install the CNI plugins and their configuration for the container runtime
    InstallCni {
        /// Where the runtime looks for plugins
        #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
        bin_dir: PathBuf,
        /// Where the runtime looks for network configurations
        #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
        conf_dir: PathBuf,
        /// The agent's socket
        #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
        socket: PathBuf,
        /// The main plugin, with caracal-ipam beside it [default: caracal, beside this program]
        #[arg(long, value_name = "FILE")]
        plugin: Option<PathBuf>,
    },
    /// The version of this program
    Version,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Which policies there are in the order of evaluation, in which revision the kernel has them and
    /// since when, and what is wrong with them
    Status {
        /// Only those that apply to this pod of the node: NAMESPACE/NAME, or NAME in namespace default
        #[arg(value_name = "POD")]
        pod: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Debug, clap::Args)]
struct Ask {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// The agent's socket [default: felix.sock in CARACAL_RUN_DIR or /run/caracal]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let result = match command {
        Command::Run { config } => return run(config.as_deref()),
        Command::Status(ask) => ask.show::<StatusReport>(&Request::Status, control::status_text),
        Command::Endpoints(ask) => {
            ask.show::<Rows<EndpointRow>>(&Request::Endpoints, control::endpoints_table)
        }
        Command::Routes(ask) => ask.show::<Rows<RouteRow>>(&Request::Routes, control::routes_table),
        Command::Explain { source, destination, traffic, source_port, with, ask } => {
            let (protocol, port) = match control::parse_traffic(&traffic) {
                Ok(traffic) => traffic,
                Err(error) => return fail(&error, USAGE.into()),
            };
            let question =
                Question { source, destination, protocol, port, source_port, with: None };
            explain(question, with.as_deref(), &ask)
        }
        Command::Policy(PolicyCommand::Status { pod, ask }) => {
            ask.show::<PoliciesReport>(&Request::Policies { pod }, control::policies_text)
        }
        Command::InstallCni { bin_dir, conf_dir, socket, plugin } => {
            install(&Install { bin_dir, conf_dir, socket, plugin })
        }
        Command::Version => print(concat!("felix ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}"), ExitCode::FAILURE),
    }
}

/// The agent, until it is told to end.
fn run(file: Option<&Path>) -> ExitCode {
    let config = match Config::load(file, environment()) {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string(), USAGE.into()),
    };
    let logging = match felix::observe::logging::start(&config.log) {
        Ok(logging) => logging,
        Err(error) => return fail(&format!("{error:#}"), ExitCode::FAILURE),
    };
    for name in felix::config::unknown_variables(environment()) {
        tracing::warn!(name, "no such setting; the variable has no effect");
    }
    // The kernel's writer has a thread of its own; what is left is waiting for sockets.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(felix::agent::run(config, logging)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = if error.is::<felix::source::OpenError>() {
                USAGE.into()
            } else {
                ExitCode::FAILURE
            };
            fail(&format!("{error:#}"), code)
        }
    }
}

/// Those variables that are text; no setting of ours is anything else.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl Ask {
    fn show<T: Serialize + DeserializeOwned>(
        &self,
        request: &Request,
        table: impl Fn(&T) -> String,
    ) -> anyhow::Result<()> {
        let socket =
            self.socket.clone().unwrap_or_else(|| match std::env::var_os("CARACAL_RUN_DIR") {
                Some(run_dir) if !run_dir.is_empty() => PathBuf::from(run_dir).join("felix.sock"),
                _ => DEFAULT_SOCKET.into(),
            });
        let answer: T = control::ask(&socket, request)?;
        match self.output {
            Output::Table => print(&table(&answer)),
            Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&answer)?)),
        }
    }
}

fn explain(mut question: Question, with: Option<&Path>, ask: &Ask) -> anyhow::Result<()> {
    question.with = match with {
        None => None,
        Some(path) if path == Path::new("-") => {
            Some(io::read_to_string(io::stdin().lock()).context("standard input")?)
        }
        Some(path) => {
            Some(std::fs::read_to_string(path).with_context(|| path.display().to_string())?)
        }
    };
    ask.show::<Explanation>(&Request::Explain(Box::new(question)), control::explanation_text)
}

fn install(install: &Install) -> anyhow::Result<()> {
    let installed = install.run()?;
    for warning in &installed.warnings {
        warn(warning);
    }
    let mut text = String::new();
    for (path, written) in &installed.files {
        let state = if *written { "installed" } else { "up to date" };
        text.push_str(&format!("{} {state}\n", path.display()));
    }
    print(&text)
}

/// To standard output. A reader that has seen enough (`felix routes | head`) is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output")
        }
        _ => Ok(()),
    }
}

fn warn(text: &str) {
    // There is nobody left to tell if this fails.
    let _ = writeln!(io::stderr().lock(), "felix: warning: {text}");
}

fn fail(text: &str, code: ExitCode) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "felix: {text}");
    code
}
