//! A daemon's process and its log.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::bail;

use super::{LIMIT, Result, eventually};

/// Octets of a log's begin and of its end that are shown when a test fails.
const SHOWN: usize = 8000;

/// A process that ends with this value.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with both outputs in `log`, after what is there.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// An error if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} has ended: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Waits until a file is there (a socket, say), and the process still is.
    pub(crate) fn until_there(&mut self, file: &Path) {
        let what = format!("{}: {}", self.name, file.display());
        eventually(&what, LIMIT, || {
            if let Err(ended) = self.check() {
                panic!("{ended:#}");
            }
            if file.exists() { Ok(()) } else { bail!("not there") }
        });
    }

    /// Sends a signal.
    #[allow(unsafe_code, reason = "kill(2) has no wrapper in std")]
    pub(crate) fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.pid()).unwrap();
        // SAFETY: kill takes no pointers. The child has not been waited for, so the pid is its.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0, "{}: {}", self.name, std::io::Error::last_os_error());
    }

    /// Ends it without a chance to say goodbye, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Asks it to end with a signal, and waits until it has.
    pub(crate) fn end(&mut self, signal: libc::c_int) {
        self.signal(signal);
        let what = format!("the end of {}", self.name);
        eventually(&what, LIMIT, || match self.child.try_wait()? {
            Some(_) => Ok(()),
            None => bail!("it goes on"),
        });
    }

    /// How many files, sockets and so on it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// A line of `/proc/PID/status` in KiB, such as `VmRSS`.
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
        value.and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap()
    }
}

impl Drop for Process {
    #[allow(clippy::print_stdout, reason = "the test's output is where one looks after a failure")]
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _gone = self.child.wait();
        if std::thread::panicking()
            && let Ok(log) = fs::read(&self.log)
        {
            let text = String::from_utf8_lossy;
            println!("--- {}", self.log.display());
            if log.len() <= 2 * SHOWN {
                println!("{}", text(&log));
            } else {
                println!("{}\n...", text(&log[..SHOWN]));
                println!("{}", text(&log[log.len() - SHOWN..]));
            }
        }
    }
}
