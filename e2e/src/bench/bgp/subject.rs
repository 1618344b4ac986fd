//! The speakers that are measured.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result};
use tokio::process::Command;

use crate::agent::program;
use crate::fabric::{frr_daemon, frr_own};
use crate::netns::Netns;
use crate::process::Daemon;
use crate::record::Record;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Bgpd,
    Bird,
    Frr,
    /// FRR with `coalesce-time 0`.
    FrrEager,
    Gobgp,
}

impl Subject {
    const ALL: [Self; 5] = [Self::Bgpd, Self::Bird, Self::Frr, Self::FrrEager, Self::Gobgp];
    /// Those that are measured unless some are named: each as it comes.
    pub(super) const USUAL: [Self; 4] = [Self::Bgpd, Self::Bird, Self::Frr, Self::Gobgp];

    /// As `bgpload` knows it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bgpd => "bgpd",
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::FrrEager => "frr-eager",
            Self::Gobgp => "gobgp",
        }
    }

    /// For people.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Bgpd => "caracal",
            Self::Bird => "BIRD 2",
            Self::Frr => "FRR",
            Self::FrrEager => "FRR, coalesce-time 0",
            Self::Gobgp => "GoBGP",
        }
    }

    /// Starts it: one process, its log and files in `directory`. It may not be ready yet: peers
    /// try again until it is.
    pub(super) async fn start(
        self,
        record: &Record,
        netns: &Netns,
        directory: &Path,
        config: &str,
    ) -> Result<Daemon> {
        let file = directory.join("config");
        std::fs::write(&file, config)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let command = match self {
            Self::Bgpd => {
                let mut command = Command::new(program("bgpd")?);
                command.arg("run").arg("-c").arg(file);
                command.arg("--socket").arg(directory.join("socket"));
                command
            }
            Self::Bird => {
                let mut command = Command::new("/usr/sbin/bird");
                command.arg("-f").arg("-c").arg(file).arg("-s").arg(directory.join("socket"));
                command.arg("-P").arg(directory.join("pid"));
                command
            }
            Self::Frr | Self::FrrEager => {
                frr_own(directory)?;
                let mut command = frr_daemon(directory, "bgpd", config)?;
                // The others have no kernel to serve either.
                command.arg("--no_zebra").arg("--vty_socket").arg(directory);
                command
            }
            Self::Gobgp => {
                let mut command = Command::new("/usr/bin/gobgpd");
                command.args(["--pprof-disable", "-t", "yaml", "-f"]).arg(file);
                command
            }
        };
        Daemon::start(record, self.title(), netns, command, &directory.join("log")).await
    }
}

impl FromStr for Subject {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|subject| subject.name() == name);
        let names = Self::ALL.map(Self::name).join(" ");
        found.with_context(|| format!("BENCH_SUBJECTS: no {name:?}; there are: {names}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_known_by_its_name() {
        for subject in Subject::ALL {
            assert_eq!(subject.name().parse::<Subject>().unwrap(), subject);
        }
        let error = "quagga".parse::<Subject>().unwrap_err().to_string();
        assert!(
            error.contains("quagga") && error.contains("bgpd bird frr frr-eager gobgp"),
            "{error}"
        );
    }
}
