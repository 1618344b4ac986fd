//! The CNI plugins, `caracal` and `caracal-ipam`. Each checks what it was given, hands it to the
//! agent over a unix socket, and prints the agent's answer. It is executed for each pod, so it
//! starts no runtime, holds no credentials, and starts in well under a millisecond.
//!
//! When the agent is not there, ADD waits a few seconds for it, because it may be restarting;
//! after that the answer to all but STATUS is code 11, so that the runtime tries again and no
//! release is lost.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::delegate::Delegate;
use super::protocol::{self, CniReply, CniRequest, Error, MAX_MESSAGE, Request};
use super::spec::{self, Call, Command, code};

/// How long ADD waits for an agent, unless the configuration says otherwise.
const CONNECT_TIMEOUT_SECONDS: u8 = 5;

/// Pause between attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Longest wait for the agent's answer: its deadline, and the undoing after it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The same for STATUS, which the kubelet asks for every few seconds.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Which of the two plugins this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// `caracal`: addresses, link and policy.
    Main,
    /// `caracal-ipam`: addresses alone, for the link of another main plugin.
    Ipam,
}

/// Serves one call: environment and standard input to standard output, as the specification has it.
pub fn run(plugin: Plugin) -> ExitCode {
    let mut config = Value::Null;
    let (output, failed) = match serve(plugin, &mut config) {
        Ok(output) => (output, false),
        Err(error) => (Some(spec::error_object(&config, &error)), true),
    };
    // The specification has errors on standard output too.
    let written = output.map_or(Ok(()), |output| writeln!(io::stdout().lock(), "{output}"));
    if failed || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn serve(plugin: Plugin, config: &mut Value) -> Result<Option<Value>, Error> {
    let mut request = CniRequest {
        command: variable("CNI_COMMAND")?,
        container_id: variable("CNI_CONTAINERID")?,
        netns: variable("CNI_NETNS")?,
        ifname: variable("CNI_IFNAME")?,
        args: variable("CNI_ARGS")?,
        path: variable("CNI_PATH")?,
        config: Value::Null,
    };
    let input = input();
    *config = input.as_ref().ok().cloned().unwrap_or_default();
    if request.command == "VERSION" {
        return Ok(Some(spec::version_result(config)));
    }
    request.config = config.clone();
    let parsed = match plugin {
        Plugin::Main => Call::parse(&request),
        Plugin::Ipam => Call::parse_ipam(&request),
    };
    let call = match (parsed, input) {
        // What is wrong with the environment is said first.
        (Err(error), Err(_)) if error.code == code::INVALID_ENVIRONMENT => return Err(error),
        (_, Err(error)) => return Err(error),
        (call, Ok(_)) => call?,
    };
    let ask = |request: Request| {
        ask(&call, &request).map_err(|error| unavailable(&call, error))?.into_result()
    };
    if plugin == Plugin::Ipam {
        return ask(Request::Ipam(Box::new(request)));
    }
    match Delegate::of(&request)? {
        Some(delegate) => delegate.serve(&call, ask),
        None => ask(Request::Cni(Box::new(request))),
    }
}

fn variable(name: &str) -> Result<String, Error> {
    match env::var(name) {
        Ok(value) => Ok(value),
        Err(env::VarError::NotPresent) => Ok(String::new()),
        Err(env::VarError::NotUnicode(_)) => Err(Error {
            code: code::INVALID_ENVIRONMENT,
            msg: format!("{name} is not UTF-8"),
            details: String::new(),
        }),
    }
}

fn input() -> Result<Value, Error> {
    let fail = |code, details| Error {
        code,
        msg: "cannot read the network configuration from standard input".into(),
        details,
    };
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_MESSAGE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fail(code::IO, error.to_string()))?;
    if bytes.len() > MAX_MESSAGE {
        return Err(fail(code::DECODE, format!("it has more than {MAX_MESSAGE} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|error| fail(code::DECODE, error.to_string()))
}

fn ask(call: &Call, request: &Request) -> Result<CniReply, protocol::MessageError> {
    let mut stream = connect(call)?;
    let limit = if call.command == Command::Status { STATUS_TIMEOUT } else { ANSWER_TIMEOUT };
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    protocol::ask(&mut stream, request)
}

fn connect(call: &Call) -> io::Result<UnixStream> {
    let seconds = match call.command {
        Command::Add => call.config.connect_timeout_seconds.unwrap_or(CONNECT_TIMEOUT_SECONDS),
        _ => 0,
    };
    let until = Instant::now() + Duration::from_secs(seconds.into());
    loop {
        match UnixStream::connect(call.config.socket()) {
            Err(error) if is_away(&error) && Instant::now() < until => sleep(CONNECT_PAUSE),
            other => return other,
        }
    }
}

fn is_away(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The agent was not reached, or not heard to the end. It undoes what it had begun for a runtime
/// that is not there any more, and what it had begun before it crashed.
fn unavailable(call: &Call, error: protocol::MessageError) -> Error {
    let socket = call.config.socket();
    let reason = match error {
        protocol::MessageError::Io(error) if is_away(&error) => "it is not running".to_owned(),
        protocol::MessageError::Io(error) => match error.kind() {
            io::ErrorKind::WouldBlock => "it did not answer in time".into(),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => "it went away before it answered".into(),
            _ => error.to_string(),
        },
        error @ protocol::MessageError::TooLong(_) => {
            let (code, msg) = (code::INVALID_CONFIG, "the request is too long".into());
            return Error { code, msg, details: error.to_string() };
        }
        error @ protocol::MessageError::Json(_) => error.to_string(),
    };
    let code = match call.command {
        Command::Status => code::NOT_AVAILABLE,
        _ => code::TRY_AGAIN_LATER,
    };
    let msg = "the Caracal agent is not available".into();
    Error { code, msg, details: format!("{socket}: {reason}") }
}
