//! The speaker under test, as the kernel sees its process.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::sys::CpuClock;

/// A process that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pid: i32,
    clock: CpuClock,
}

impl Subject {
    /// # Errors
    /// There is no such process.
    pub(crate) fn new(pid: i32) -> Result<Self> {
        let none = || format!("there is no process {pid}");
        // Of 0 and of numbers that no process can have the library makes clocks of something else.
        std::fs::metadata(format!("/proc/{pid}/stat")).with_context(none)?;
        let clock = CpuClock::of(pid).with_context(none)?;
        Ok(Self { pid, clock })
    }

    /// The CPU time it took so far.
    pub(crate) fn cpu(self) -> Result<Duration> {
        self.clock.read().context("the speaker has ended")
    }

    /// The memory it has resident, in bytes: counted page by page, where `statm` is approximate.
    pub(crate) fn memory(self) -> Result<u64> {
        let text = self.proc("smaps_rollup")?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        let kilobytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
        kilobytes.map(|count: u64| count * 1024).context("no resident size")
    }

    /// Octets in its connections that it has not read.
    pub(crate) fn unread(self) -> Result<u64> {
        Ok(unread(&self.proc("net/tcp")?))
    }

    fn proc(self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

/// The receive queues of established connections, from `/proc/PID/net/tcp`.
fn unread(table: &str) -> u64 {
    let queue = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(3);
        let (state, queues) = (fields.next()?, fields.next()?);
        let (_, received) = queues.split_once(':')?;
        (state == "01").then(|| u64::from_str_radix(received, 16).unwrap_or(0))
    };
    table.lines().skip(1).filter_map(queue).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_in_established_connections_is_unread() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt
   0: 0100630A:00B3 00000000:0000 0A 00000000:00000005 00:00000000 00000000     0        0 1 1
   1: 0100630A:00B3 0101630A:8000 01 00000007:0000001F 00:00000000 00000000     0        0 2 1
   2: 0100630A:00B3 0201630A:8001 01 00000000:00000001 00:00000000 00000000     0        0 3 1
";
        assert_eq!(unread(table), 32);
    }

    #[test]
    fn a_process_has_a_clock_and_memory() {
        let own = Subject::new(i32::try_from(std::process::id()).unwrap()).unwrap();
        let before = own.cpu().unwrap();
        let mut sum = 0_u64;
        while own.cpu().unwrap() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(own.memory().unwrap() > 4096);
        for none in [i32::MAX, 0, -1] {
            assert!(Subject::new(none).is_err(), "{none}");
        }
    }
}
