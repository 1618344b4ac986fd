//! Addresses from an IPAM plugin that is not ours (`host-local`, `dhcp`, `static`), as the
//! specification's section 4 has it: the main plugin executes the one that `ipam.type` names, found
//! in `CNI_PATH`, with its own environment and configuration.
//!
//! It is the plugin that does so and not the agent, which may live in a container: what such a
//! plugin keeps is in the host's file system. How long it may take the runtime decides, which ends
//! both.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use ipnet::IpNet;
use serde_json::Value;

use super::backend::Failure;
use super::pod_cidr;
use super::protocol::{CniRequest, Error, MAX_MESSAGE, PodCidrs, Request};
use super::spec::{Call, Command, code, config_error};

/// Those whose addresses are the agent's own.
const OURS: [&str; 3] = ["", "caracal-ipam", "calico-ipam"];

/// An IPAM plugin of others, and what it is told.
#[derive(Debug)]
pub(super) struct Delegate {
    kind: String,
    program: PathBuf,
    request: CniRequest,
}

impl Delegate {
    /// The plugin that the configuration names; None if the addresses are the agent's own.
    ///
    /// # Errors
    /// Code 7: the name is none, or `CNI_PATH` has no such program.
    pub(super) fn of(request: &CniRequest) -> Result<Option<Self>, Error> {
        let kind = match &request.config["ipam"]["type"] {
            Value::Null => "",
            Value::String(kind) => kind,
            _ => return Err(config_error("ipam.type", "is not a string")),
        };
        if OURS.contains(&kind) {
            return Ok(None);
        }
        if kind.contains('/') || kind == "." || kind == ".." {
            return Err(config_error("ipam.type", &format!("{kind:?} is not a plugin's name")));
        }
        let folders = std::env::split_paths(&request.path).filter(|path| path.is_absolute());
        let found = folders.map(|folder| folder.join(kind)).find(|path| path.is_file());
        let program = found.ok_or_else(|| {
            config_error("ipam.type", &format!("{kind:?} is not in CNI_PATH {:?}", request.path))
        })?;
        Ok(Some(Self { kind: kind.to_owned(), program, request: request.clone() }))
    }

    /// Serves a call with the plugin's addresses; `ask` asks the agent.
    ///
    /// # Errors
    /// The plugin's, as it gave it, or the agent's. What was given for an ADD that fails is taken
    /// back.
    pub(super) fn serve(
        mut self,
        call: &Call,
        ask: impl Fn(Request) -> Result<Option<Value>, Error>,
    ) -> Result<Option<Value>, Error> {
        let asked = pod_cidr::asked(&self.request.config);
        let mut networks = Vec::new();
        if !asked.is_empty() {
            let answer = ask(Request::PodCidrs(Box::new(self.request.clone())))?;
            let found: PodCidrs = serde_json::from_value(answer.unwrap_or_default())
                .map_err(|error| Failure::Internal(error.to_string()))?;
            networks = pod_cidr::fill(&mut self.request.config, &asked, call.command, &found)?;
        }
        let request = || Box::new(self.request.clone());
        match call.command {
            Command::Add => {
                let given = self.execute(Command::Add)?;
                let attached = addresses(&given, &self.kind).and_then(|addresses| {
                    ask(Request::Delegated { call: request(), addresses, networks })
                });
                if attached.is_err() {
                    // The runtime's own DEL will come as well; what is wrong with this one it
                    // will hear then.
                    drop(self.execute(Command::Del));
                }
                attached
            }
            // The other way round: an address is free once no link has it.
            Command::Del => {
                ask(Request::Cni(request()))?;
                self.execute(Command::Del).map(drop)?;
                Ok(None)
            }
            Command::Check => {
                self.execute(Command::Check)?;
                ask(Request::Cni(request()))
            }
            Command::Gc => {
                // Each does what it can.
                let (own, other) = (ask(Request::Cni(request())), self.collect(Command::Gc));
                own.and(other)
            }
            Command::Status => {
                self.collect(Command::Status)?;
                let (addresses, networks) = (Vec::new(), Vec::new());
                ask(Request::Delegated { call: request(), addresses, networks })
            }
        }
    }

    /// GC or STATUS, which plugins need not know.
    fn collect(&self, command: Command) -> Result<Option<Value>, Error> {
        match self.execute(command) {
            Err(error) if error.code == code::INVALID_ENVIRONMENT => Ok(None),
            other => other.map(|_| None),
        }
    }

    /// What the plugin prints; null if that is nothing.
    fn execute(&self, command: Command) -> Result<Value, Error> {
        let failed = |code, details: String| {
            let msg = format!("the IPAM plugin {} failed in {command}", self.kind);
            Error { code, msg, details }
        };
        let io = |error: std::io::Error| failed(code::IO, error.to_string());
        let config = self.request.config.to_string();
        // The other variables are those that this process was given.
        let mut child = Process::new(&self.program)
            .env("CNI_COMMAND", command.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(io)?;
        if let Some(mut input) = child.stdin.take() {
            // It may have refused its environment before it reads; it says so then.
            drop(input.write_all(config.as_bytes()));
        }
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_MESSAGE as u64).read_to_end(&mut output).map_err(io)?;
        }
        let status = child.wait().map_err(io)?;
        let said: Result<Value, _> = serde_json::from_slice(&output);
        if status.success() {
            if output.iter().all(u8::is_ascii_whitespace) {
                return Ok(Value::Null);
            }
            return said.map_err(|error| failed(code::DECODE, error.to_string()));
        }
        let said = said.unwrap_or_default();
        match serde_json::from_value::<Error>(said) {
            Ok(error) => {
                let details = [error.msg, error.details].join(" ");
                Err(failed(error.code, details.trim_end().to_owned()))
            }
            Err(_) => Err(failed(code::INTERNAL, format!("it ended with {status}"))),
        }
    }
}

/// The addresses of a plugin's result.
fn addresses(result: &Value, kind: &str) -> Result<Vec<IpAddr>, Error> {
    let ips = result.get("ips").and_then(Value::as_array);
    let address = |ip: &Value| {
        let text = ip.get("address").and_then(Value::as_str);
        text.and_then(|text| text.parse::<IpNet>().ok()).map(|net| net.addr())
    };
    let all = ips.and_then(|ips| ips.iter().map(address).collect::<Option<Vec<_>>>());
    all.ok_or_else(|| Error {
        code: code::DECODE,
        msg: format!("the IPAM plugin {kind} gave what is not a result"),
        details: result.to_string(),
    })
}
