//! Programs: run to their end, or kept as daemons inside a namespace with a log.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::netns::Netns;
use crate::record::{Entry, Record};
use crate::wait;

/// How long a program that answers a question may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// Its standard error and exit status when it fails; also after 20 s.
pub(crate) async fn output<I, S>(program: &str, args: I) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    checked(command, "").await
}

/// The same, with something on its standard input.
pub(crate) async fn with_input<I, S>(program: &str, args: I, input: &str) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    checked(command, input).await
}

async fn checked(command: Command, input: &str) -> Result<String> {
    let line = describe(&command);
    let output = capture(command, None, input.as_bytes(), PATIENCE).await?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{line}: {}: {}", output.status, text.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{line}: its output is not UTF-8"))
}

/// Runs a program to its end, inside `netns` if one is given, whatever its exit status.
///
/// # Errors
/// Fails when it cannot be started, or has not ended `within` the time: then it is killed.
pub(crate) async fn capture(
    mut command: Command,
    netns: Option<&Netns>,
    input: &[u8],
    within: Duration,
) -> Result<Output> {
    let line = describe(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = spawn(command, netns).await?;
    let mut stdin = child.stdin.take();
    let input = input.to_vec();
    let feed = async move {
        if let Some(stdin) = &mut stdin {
            // A program that does not read its input is free to.
            let _ = stdin.write_all(&input).await;
        }
        drop(stdin);
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    match tokio::time::timeout(within, both).await {
        Ok(output) => output.with_context(|| format!("{line}: cannot be read")),
        Err(_) => bail!("{line}: not done within {} ms, killed", within.as_millis()),
    }
}

/// Starts a program, inside `netns` if one is given.
pub(crate) async fn spawn(mut command: Command, netns: Option<&Netns>) -> Result<Child> {
    let line = describe(&command);
    let child = match netns {
        None => command.spawn(),
        Some(netns) => netns.enter(move || Ok(command.spawn())).await?,
    };
    child.with_context(|| format!("cannot run {line}"))
}

fn describe(command: &Command) -> String {
    let command = command.as_std();
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    if line.len() > 200 {
        let cut = line.floor_char_boundary(200);
        line.truncate(cut);
        line.push_str("...");
    }
    line
}

/// A process told apart from every later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub(crate) start: u64,
}

impl ProcessId {
    /// Identifies a process that is running now.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let (start, _) = stat(pid).with_context(|| format!("there is no process {pid}"))?;
        Ok(Self { pid, start })
    }

    /// Is it still running? A zombie is not.
    pub(crate) fn alive(self) -> bool {
        stat(self.pid).is_some_and(|(start, state)| start == self.start && state != 'Z')
    }

    /// Sends a signal, unless the process has ended.
    pub(crate) fn signal(self, signal: Signal) {
        if self.alive() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Start time and state of a process.
fn stat(pid: i32) -> Option<(u64, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may itself contain anything.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    Some((fields.get(19)?.parse().ok()?, fields.first()?.chars().next()?))
}

/// A long-running program of the lab.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    id: ProcessId,
    log: PathBuf,
    record: Record,
}

impl Daemon {
    /// Starts it inside `netns`, standard output and error to `log` (appended), in a process
    /// group of its own so that Ctrl-C at the terminal is the lab's alone to answer.
    pub(crate) async fn start(
        record: &Record,
        name: &str,
        netns: &Netns,
        mut command: Command,
        log: &Path,
    ) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = spawn(command, Some(netns)).await?;
        let pid = child.id().with_context(|| format!("{name} ended at once"))?;
        let id = ProcessId::of(i32::try_from(pid)?)?;
        record.add(&Entry::Process { name: name.to_owned(), id, log: log.to_path_buf() })?;
        Ok(Self {
            name: name.to_owned(),
            child,
            id,
            log: log.to_path_buf(),
            record: record.clone(),
        })
    }

    pub(crate) fn id(&self) -> ProcessId {
        self.id
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Fails, with the end of its log, once it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let tail = log_tail(&self.log, 15);
            return Err(wait::Hopeless(format!("{} ended ({status}):\n{tail}", self.name)).into());
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.record.add(&Entry::Ended { id: self.id })?;
        Ok(status)
    }

    /// Sends `signal` and waits for the end; after `within`, SIGKILL.
    pub(crate) async fn stop(&mut self, signal: Signal, within: Duration) -> Result<ExitStatus> {
        self.id.signal(signal);
        if let Ok(status) = tokio::time::timeout(within, self.wait()).await {
            return status;
        }
        self.id.signal(Signal::SIGKILL);
        self.wait().await
    }
}

/// Ends processes now and waits until they are gone.
pub(crate) async fn kill_all(processes: &[ProcessId]) -> Result<()> {
    for process in processes {
        process.signal(Signal::SIGKILL);
    }
    wait::until("killed processes to be gone", Duration::from_secs(10), || async {
        match processes.iter().find(|process| process.alive()) {
            Some(process) => bail!("process {} is still there", process.pid),
            None => Ok(()),
        }
    })
    .await
}

/// The last lines of a log, for an error message.
pub(crate) fn log_tail(log: &Path, lines: usize) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let tail = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
    let mut shown = format!("--- {}\n", log.display());
    for line in tail {
        shown.push_str("    ");
        shown.push_str(line);
        shown.push('\n');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_and_named() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let error = capture(command, None, b"", Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("sleep 60: not done within 50 ms"), "{error}");
    }

    #[tokio::test]
    async fn a_failure_carries_what_the_program_said() {
        let error = output("sh", ["-c", "echo went wrong >&2; exit 3"]).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("went wrong") && text.contains('3'), "{text}");
    }

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let me = ProcessId::of(pid).unwrap();
        assert!(me.alive());
        assert!(!ProcessId { start: me.start + 1, ..me }.alive());
    }
}
