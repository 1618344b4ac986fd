//! One call of one plugin: environment, standard input, standard output, exit status.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::Attachment;
use crate::netns::Netns;
use crate::process;

/// A failed call. What the plugin said of itself (CNI 1.1 section 5), or code 999, libcni's own
/// for what went wrong on the runtime's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    pub(crate) code: u64,
    pub(crate) message: String,
    pub(crate) details: String,
    /// Which plugin and verb, once known.
    call: String,
}

impl CniError {
    /// The runtime's own error.
    pub(crate) fn runtime(message: impl Into<String>) -> Self {
        Self { code: 999, message: message.into(), details: String::new(), call: String::new() }
    }

    pub(super) fn of(mut self, plugin: &str, command: &str) -> Self {
        self.call = format!("{plugin} {command}: ");
        self
    }
}

impl From<anyhow::Error> for CniError {
    fn from(error: anyhow::Error) -> Self {
        Self::runtime(format!("{error:#}"))
    }
}

impl std::error::Error for CniError {}

impl std::fmt::Display for CniError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, message, details, call } = self;
        write!(f, "{call}code {code}: {message}")?;
        if !details.is_empty() {
            write!(f, " ({details})")?;
        }
        Ok(())
    }
}

/// What a call needs.
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    pub(super) command: &'static str,
    pub(super) attachment: Option<&'a Attachment>,
    pub(super) plugin_dirs: &'a [PathBuf],
    pub(super) config: &'a Value,
    pub(super) netns: &'a Netns,
    pub(super) timeout: Duration,
}

/// Runs the plugin; None if it succeeded without printing anything.
pub(super) async fn invoke(call: Call<'_>) -> Result<Option<Value>, CniError> {
    let mut command = Command::new(call.program);
    // Plugins get CNI's variables and PATH, nothing of ours.
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.env("CNI_COMMAND", call.command);
    let dirs: Vec<_> = call.plugin_dirs.iter().map(|dir| dir.as_os_str()).collect();
    command.env("CNI_PATH", dirs.join(std::ffi::OsStr::new(":")));
    if let Some(attachment) = call.attachment {
        command.env("CNI_CONTAINERID", &attachment.container_id);
        command.env("CNI_IFNAME", &attachment.ifname);
        if let Some(netns) = &attachment.netns {
            command.env("CNI_NETNS", netns);
        }
        let args = attachment.args.iter().map(|(key, value)| format!("{key}={value}"));
        command.env("CNI_ARGS", args.collect::<Vec<_>>().join(";"));
    }
    let input = call.config.to_string();
    let output =
        process::capture(command, Some(call.netns), input.as_bytes(), call.timeout).await?;
    if output.status.success() {
        return parse_result(&output.stdout);
    }
    Err(parse_error(&output.stdout).unwrap_or_else(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        CniError::runtime(format!("{} without an error object: {}", output.status, said.trim()))
    }))
}

fn parse_result(stdout: &[u8]) -> Result<Option<Value>, CniError> {
    if stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let result = serde_json::from_slice(stdout)
        .map_err(|error| CniError::runtime(format!("its result is not JSON: {error}")))?;
    Ok(Some(result))
}

fn parse_error(stdout: &[u8]) -> Option<CniError> {
    let object: Value = serde_json::from_slice(stdout).ok()?;
    let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    Some(CniError {
        code: object["code"].as_u64()?,
        message: text("msg"),
        details: text("details"),
        call: String::new(),
    })
}
