//! `bgpload`: BGP peers by the hundred, in one thread, that measure the speaker they talk to.
//!
//! It sends what it has encoded beforehand and counts what it hears prefix by prefix; it reads the
//! subject's CPU time and memory from the kernel, so the subject is asked nothing. The peers'
//! addresses and the subject's configuration come from the same plan as the sessions do.

mod config;
mod engine;
mod heard;
mod measure;
#[path = "../../bench/message.rs"]
mod message;
mod plan;
mod session;
mod subject;
mod sys;
mod table;

use std::io::Write as _;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::measure::Measurement;
use crate::plan::{PREFIX_LENGTH, Plan, SUBJECT};
use crate::subject::Subject;

const USAGE: &str = "\
Usage: bgpload addresses WORKLOAD          the addresses of both sides, as JSON
       bgpload config WORKLOAD SUBJECT     the configuration of bgpd, bird, frr, frr-eager or gobgp
       bgpload run WORKLOAD --pid PID      measures the speaker with that process id, as JSON

Workloads: one fwd dfz probe rr fan herd withdraw
Options:   --routes N   of the table, or of each of a reflector's clients
           --peers N
           --within S   seconds until a measurement is given up [default: 120]
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (text, code) = match answer(&args) {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "bgpload: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(args: &[String]) -> Result<String> {
    let args = Arguments::parse(args)?;
    let mut words = args.words.iter().map(String::as_str);
    let (command, workload) = (words.next(), words.next());
    let Some(workload) = workload else { return Ok(USAGE.into()) };
    let plan = Plan::of(workload, args.routes, args.peers)?;
    match (command, words.next(), words.next()) {
        (Some("addresses"), None, None) => Ok(format!("{}\n", addresses(&plan))),
        (Some("config"), Some(subject), None) => config::of(subject, &plan),
        (Some("run"), None, None) => {
            let subject = Subject::new(args.pid.context("--pid: whose CPU time?")?)?;
            let result = Measurement::new(plan, subject, args.within)?.run()?;
            Ok(format!("{result}\n"))
        }
        _ => bail!("not understood\n{USAGE}"),
    }
}

fn addresses(plan: &Plan) -> Value {
    let with_length = |address| format!("{address}/{PREFIX_LENGTH}");
    let peers = plan.speakers();
    json!({
        "subject": with_length(*SUBJECT.ip()),
        "peers": peers.iter().map(|peer| with_length(peer.address)).collect::<Vec<_>>(),
    })
}

#[derive(Debug)]
struct Arguments {
    words: Vec<String>,
    routes: Option<u32>,
    peers: Option<u16>,
    pid: Option<i32>,
    within: Duration,
}

impl Arguments {
    fn parse(args: &[String]) -> Result<Self> {
        let mut parsed = Self {
            words: Vec::new(),
            routes: None,
            peers: None,
            pid: None,
            within: Duration::from_secs(120),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") {
                parsed.words.push(arg.clone());
                continue;
            }
            let value = args.next().with_context(|| format!("{arg} needs a value"))?;
            match arg.as_str() {
                "--routes" => parsed.routes = Some(number(arg, value)?),
                "--peers" => parsed.peers = Some(number(arg, value)?),
                "--pid" => parsed.pid = Some(number(arg, value)?),
                "--within" => parsed.within = Duration::from_secs(number(arg, value)?),
                _ => bail!("no option {arg}\n{USAGE}"),
            }
        }
        Ok(parsed)
    }
}

fn number<T: FromStr>(option: &str, value: &str) -> Result<T> {
    value.parse().ok().with_context(|| format!("{option} {value}: not a number it can be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Result<String> {
        answer(&line.split(' ').map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn addresses_are_of_one_subnet() {
        let answer: Value = serde_json::from_str(&ask("addresses rr --peers 2").unwrap()).unwrap();
        assert_eq!(answer["subject"], "10.99.0.1/16");
        assert_eq!(answer["peers"], json!(["10.99.1.1/16", "10.99.1.2/16"]));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, named) in [
            ("run one", "--pid"),
            ("run one --pid x", "--pid x"),
            ("run one --fast 1", "--fast"),
            ("run one --peers", "--peers needs"),
            ("config one quagga", "quagga"),
            ("walk one", "not understood"),
        ] {
            let error = format!("{:#}", ask(line).unwrap_err());
            assert!(error.contains(named), "{line}: {error}");
        }
        assert_eq!(ask("help").unwrap(), USAGE);
    }
}
