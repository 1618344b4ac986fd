//! `felix`: the node agent, and the questions one asks it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use felix::cni::protocol::{DEFAULT_SOCKET, DropsQuestion, Question, Request};
use felix::config::Config;
use felix::control::{
    self, CountersReport, DropsReport, EndpointRow, Explanation, PoliciesReport, RouteRow, Rows,
    StatusReport,
};
use felix::install::Install;
use felix::load_balancer::{self, AssignIps};
use felix::observe::logging::Logging;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The exit code for a mistake in the configuration, as for one on the command line.
const USAGE: u8 = 2;

/// Between two questions to an agent that is away.
const RESTART: std::time::Duration = std::time::Duration::from_secs(1);

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
        /// Also with the staged policies, as if they were in force
        #[arg(long)]
        staged: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// The packets that policy denied on this node, and which policy it was: the recent past
    Drops {
        /// Go on with those to come, until interrupted
        #[arg(short, long)]
        follow: bool,
        /// Only those that this pod sent or would have got: NAMESPACE/NAME, or NAME in namespace
        /// default
        #[arg(long, value_name = "POD")]
        pod: Option<String>,
        /// Instead, what the staged policies would have denied, or allowed
        #[arg(long)]
        staged: bool,
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
    /// Give Services of type LoadBalancer addresses of the IPPools that are for them; once or more in a
    /// cluster, not on every node
    LoadBalancer {
        /// Configuration file [default: /etc/caracal/felix.yaml, if it exists]
        #[arg(long, value_name = "FILE", env = "CARACAL_CONFIG")]
        config: Option<PathBuf>,
        /// Which Services get one
        #[arg(long, value_enum, default_value_t)]
        assign_ips: AssignIps,
    },
    /// The version of this program
    Version,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Which policies there are in the order of evaluation, in which revision the kernel has them and
    /// since when, and what is wrong with them
    Status {
        /// Only those that apply to this pod of the node: NAMESPACE/NAME, or NAME in namespace default; or
        /// to the node's host endpoints: node/NAME
        #[arg(value_name = "POD")]
        pod: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// How many packets of this node's pods which rule has decided about, where FelixConfiguration has
    /// policyCounters Enabled
    Counters(Ask),
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
        Command::Run { config } => {
            return run(config.as_deref(), |config, logging| {
                Box::pin(felix::agent::run(config, logging))
            });
        }
        Command::LoadBalancer { config, assign_ips } => {
            return run(config.as_deref(), |config, _| {
                Box::pin(load_balancer::run(config, assign_ips))
            });
        }
        Command::Status(ask) => ask.show::<StatusReport>(&Request::Status, control::status_text),
        Command::Endpoints(ask) => {
            ask.show::<Rows<EndpointRow>>(&Request::Endpoints, control::endpoints_table)
        }
        Command::Routes(ask) => ask.show::<Rows<RouteRow>>(&Request::Routes, control::routes_table),
        Command::Explain { source, destination, traffic, source_port, with, staged, ask } => {
            let (protocol, port) = match control::parse_traffic(&traffic) {
                Ok(traffic) => traffic,
                Err(error) => return fail(&error, USAGE.into()),
            };
            let question =
                Question { source, destination, protocol, port, source_port, with: None, staged };
            explain(question, with.as_deref(), &ask)
        }
        Command::Drops { follow, pod, staged, ask } => {
            drops(&ask, DropsQuestion { pod, after: None, staged }, follow)
        }
        Command::Policy(PolicyCommand::Status { pod, ask }) => {
            ask.show::<PoliciesReport>(&Request::Policies { pod }, control::policies_text)
        }
        Command::Policy(PolicyCommand::Counters(ask)) => {
            ask.show::<CountersReport>(&Request::Counters, control::counters_text)
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

type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// The agent, or another part that runs until it is told to end.
fn run(file: Option<&Path>, part: impl FnOnce(Config, Logging) -> Running) -> ExitCode {
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
        .and_then(|runtime| runtime.block_on(part(config, logging)));
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
        let answer: T = self.ask(request)?;
        match self.output {
            Output::Table => print(&table(&answer)),
            Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&answer)?)),
        }
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, control::AskError> {
        let socket =
            self.socket.clone().unwrap_or_else(|| match std::env::var_os("CARACAL_RUN_DIR") {
                Some(run_dir) if !run_dir.is_empty() => PathBuf::from(run_dir).join("felix.sock"),
                _ => DEFAULT_SOCKET.into(),
            });
        control::ask(&socket, request)
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

/// The recent past; then, if it is followed, every packet as it comes, each as a line of its own. An
/// agent that is restarted meanwhile is waited for.
fn drops(ask: &Ask, mut question: DropsQuestion, follow: bool) -> anyhow::Result<()> {
    if !follow {
        return ask.show::<DropsReport>(&Request::Drops(question), control::drops_text);
    }
    let mut problem: Option<String> = None;
    loop {
        let report = match ask.ask::<DropsReport>(&Request::Drops(question.clone())) {
            Ok(report) => report,
            Err(error) if question.after.is_some() && error.may_pass() => {
                if problem.replace(error.to_string()).is_none() {
                    warn(&error.to_string());
                }
                std::thread::sleep(RESTART);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if report.problem != problem {
            report.problem.iter().for_each(|problem| warn(problem));
            problem.clone_from(&report.problem);
        }
        if report.forgotten > 0 {
            warn(&format!("{} packets were not seen in time", report.forgotten));
        }
        let mut lines = String::new();
        for packet in &report.packets {
            match ask.output {
                Output::Table => lines.push_str(&packet.to_string()),
                Output::Json => lines.push_str(&serde_json::to_string(packet)?),
            }
            lines.push('\n');
        }
        if !write(&lines)? {
            return Ok(());
        }
        question.after = Some(report.next);
    }
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
    write(text).map(|_| ())
}

/// The same. False: nobody reads any more.
fn write(text: &str) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("standard output"),
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
