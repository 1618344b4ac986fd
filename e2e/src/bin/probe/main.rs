//! What runs in the lab's pods: serves and probes TCP, UDP and ICMP, and reports in JSON lines.
//!
//! Without arguments it parks, as the container that holds a pod's namespace does.

mod dns;
mod first;
mod ping;
mod serve;
mod stream;
mod target;
mod tell;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use self::target::{Asked, Target};

#[derive(Parser)]
#[command(name = "probe", version, about)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Echo over TCP and UDP; the first line on a TCP connection, and every UDP answer, says who
    /// the client was
    Serve {
        /// Ports, each for TCP and UDP, on every address
        #[arg(long = "port", default_values_t = [8080])]
        ports: Vec<u16>,
    },
    /// Ask each target once, all at the same time; fails if one did not answer
    Connect {
        /// tcp://ADDRESS:PORT, udp://ADDRESS:PORT or icmp://ADDRESS; TARGET#PORT is asked from that port
        #[arg(required = true)]
        targets: Vec<Asked>,
        /// How long to wait for an answer, in milliseconds
        #[arg(long, default_value_t = 1000)]
        timeout: u64,
    },
    /// Send to one server at a steady rate and count what comes back
    Stream {
        /// tcp://ADDRESS:PORT or udp://ADDRESS:PORT
        target: Target,
        /// Messages a second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// End after this many; without it, never
        #[arg(long)]
        count: Option<u64>,
    },
    /// Answer questions for the addresses of some names, over UDP and TCP, on port 53
    Dns {
        /// What a name stands for, and for how many seconds: NAME/SECONDS=ADDRESS,ADDRESS
        #[arg(long = "name")]
        names: Vec<dns::Entry>,
    },
    /// Ask a server for the addresses of a name; fails if there are none
    Resolve {
        /// The server's address
        server: IpAddr,
        /// The name
        name: String,
        /// Over TCP
        #[arg(long)]
        tcp: bool,
        /// How long to wait for the answer, in milliseconds
        #[arg(long, default_value_t = 5000)]
        timeout: u64,
    },
    /// Send to every target and listen, from the first instant and without pause
    First {
        /// UDP port to listen on and send from
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Between two rounds of sending to every target, in milliseconds
        #[arg(long, default_value_t = 1)]
        pause: u64,
        /// udp://ADDRESS:PORT
        targets: Vec<Target>,
    },
}

fn main() -> ExitCode {
    let Args { command } = Args::parse();
    let outcome = match command {
        None => park(),
        Some(Command::Serve { ports }) => serve::run(&ports),
        Some(Command::Connect { targets, timeout }) => {
            target::connect(&targets, Duration::from_millis(timeout))
        }
        Some(Command::Stream { target, rate, count }) => stream::run(target, rate, count),
        Some(Command::Dns { names }) => dns::serve(names),
        Some(Command::Resolve { server, name, tcp, timeout }) => {
            dns::resolve(server, &name, tcp, Duration::from_millis(timeout))
        }
        Some(Command::First { port, pause, targets }) => {
            first::run(port, Duration::from_millis(pause), &targets)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tell::line(&serde_json::json!({ "error": format!("{error:#}") }));
            ExitCode::from(2)
        }
    }
}

fn park() -> anyhow::Result<bool> {
    tell::ready()?;
    loop {
        std::thread::park();
    }
}
