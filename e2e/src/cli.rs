//! The commands of `cargo lab`.

mod commands;
mod report;
mod up;

pub(crate) use self::up::serving_pod;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::cluster::SourceKind;
use crate::interrupt::with_labs;
use crate::lab::{IpamKind, Options};
use crate::progress::error_line;
use crate::topology::{Shape, Size};

#[derive(Debug, Parser)]
#[command(name = "cargo lab", override_help = include_str!("usage.txt"), disable_help_subcommand = true)]
struct Arguments {
    /// Which lab
    #[arg(long, global = true, default_value = "lab")]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(UpArguments),
    Status {
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    Exec {
        target: String,
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    Apply {
        #[arg(short, long, required = true)]
        file: Vec<PathBuf>,
    },
    Delete {
        #[arg(short, long, required = true)]
        file: Vec<PathBuf>,
    },
    #[command(subcommand)]
    Pod(PodCommand),
    Logs {
        target: String,
        #[arg(short, long)]
        follow: bool,
    },
    Down,
    Test {
        #[arg(default_value = "")]
        filter: String,
        #[arg(long)]
        list: bool,
    },
    Bench {
        #[arg(default_value = "")]
        benchmark: String,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Debug, clap::Args)]
struct UpArguments {
    #[arg(long, default_value_t = 3)]
    nodes: u8,
    #[arg(long, default_value_t = 2)]
    racks: u8,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=100))]
    pods: u8,
    #[arg(long, value_enum, default_value = "racks")]
    topology: Shape,
    #[arg(long, default_value_t = 0)]
    dual_homed: u8,
    #[arg(long, value_enum)]
    source: Option<SourceKind>,
    #[arg(long, value_enum, default_value = "etcd")]
    ipam: IpamKind,
    #[arg(long)]
    no_agents: bool,
    #[arg(long)]
    exit: bool,
}

#[derive(Debug, Subcommand)]
enum PodCommand {
    Add {
        pod: String,
        #[arg(long, default_value = "default")]
        namespace: String,
        /// Default: the nodes in turn, by the number of pods they have
        #[arg(long)]
        node: Option<String>,
        #[arg(long = "label", value_name = "K=V")]
        labels: Vec<String>,
        #[arg(last = true)]
        args: Vec<String>,
    },
    Del {
        pod: String,
        #[arg(long, default_value = "default")]
        namespace: String,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

/// Runs the command line; errors go to standard error.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(
        // Tests make pods fail on purpose; their reports say what matters.
        tracing_subscriber::EnvFilter::try_from_env("LAB_LOG").unwrap_or_else(|_| {
            let tests = matches!(arguments.command, Command::Test { .. });
            if tests { "error" } else { "warn" }.into()
        }),
    );
    log.init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error_line(&format!("error: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(code) => code,
        Err(error) => {
            error_line(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { name, command } = arguments;
    match command {
        Command::Up(up) => Box::pin(up::run(&options(name, &up), up.exit)).await,
        Command::Status { output } => commands::status(&name, output).await,
        Command::Exec { target, command } => commands::exec(&name, &target, &command).await,
        Command::Apply { file } => commands::apply(&name, &file).await,
        Command::Delete { file } => commands::delete(&name, &file).await,
        Command::Pod(PodCommand::Add { pod, namespace, node, labels, args }) => {
            let labels = labels
                .iter()
                .map(|label| label.split_once('=').with_context(|| format!("--label {label}: K=V")))
                .collect::<Result<Vec<_>>>()?;
            commands::pod_add(&name, &namespace, &pod, node.as_deref(), &labels, &args).await
        }
        Command::Pod(PodCommand::Del { pod, namespace }) => {
            commands::pod_del(&name, &namespace, &pod).await
        }
        Command::Logs { target, follow } => commands::logs(&name, &target, follow).await,
        Command::Down => commands::down(&name).await,
        Command::Test { filter, list } => with_labs(crate::harness::run(&filter, list)).await,
        Command::Bench { benchmark, output } => {
            with_labs(crate::bench::run(&benchmark, output)).await
        }
    }
}

fn options(name: String, up: &UpArguments) -> Options {
    let UpArguments { nodes, racks, pods, topology, dual_homed, source, ipam, no_agents, exit: _ } =
        *up;
    let size = Size { shape: topology, nodes, racks, dual_homed };
    Options { name, size, pods, source, ipam, agents: !no_agents }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }

    /// The help text is written by hand, for two programs: every option has to be in it.
    #[test]
    fn the_help_names_every_command_and_option() {
        use clap::CommandFactory as _;
        let help = include_str!("usage.txt");
        let mut stack = vec![Arguments::command()];
        while let Some(command) = stack.pop() {
            for option in command.get_arguments().filter_map(clap::Arg::get_long) {
                let mentioned = help.contains(&format!("--{option}"));
                let short = ["file", "follow", "output"].contains(&option);
                assert!(mentioned || short || option == "help", "--{option}");
            }
            for sub in command.get_subcommands() {
                assert!(help.contains(sub.get_name()), "{}", sub.get_name());
                stack.push(sub.clone());
            }
        }
    }
}
