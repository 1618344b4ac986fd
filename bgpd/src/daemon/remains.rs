//! What a daemon leaves behind for the one that follows it: that its neighbors still keep its routes
//! (RFC 4724).
//!
//! A file beside the control socket says so. It is there from the first session with graceful
//! restart on, and goes with an orderly end, a Cease. Whatever else ends the daemon leaves it, so
//! that the next one knows that it restarts: with it peers are told that packets still go where they
//! went (F), which they do, as the daemon forwards none itself. The file does not count after the
//! machine has been started anew, which does empty the kernel's tables, nor when the neighbors'
//! patience is over.

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bgpd::{Config, SpeakerHandle, SpeakerStatus};
use serde::{Deserialize, Serialize};

/// Between two looks at the sessions; what the file says of the time is so far behind at most.
const BEAT: Duration = Duration::from_secs(1);
/// The longest file that can be ours, in octets.
const LONGEST: u64 = 4096;

/// A moment that is comparable until the machine is started anew, also when its clock is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Moment {
    /// Which start of the machine.
    boot_id: String,
    /// Whole seconds since then.
    uptime: u64,
}

impl Moment {
    fn now() -> anyhow::Result<Self> {
        let read =
            |path| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let uptime = read("/proc/uptime")?;
        let whole = uptime.split('.').next().and_then(|seconds| seconds.parse().ok());
        Ok(Self {
            boot_id: read("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            uptime: whole.context("/proc/uptime has no number of seconds")?,
        })
    }
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Remains {
    /// Whose routes they are.
    router_id: Ipv4Addr,
    asn: u32,
    /// Until when they are kept, if the daemon was gone right after this was written.
    until: Moment,
}

impl Remains {
    /// What is left if the speaker goes now. None: nothing that anybody keeps.
    fn of(status: &SpeakerStatus, now: Moment) -> Option<Self> {
        let window = u64::from(status.restart_window);
        let until = Moment { uptime: now.uptime.saturating_add(window), ..now };
        let (router_id, asn) = (status.router_id, status.asn);
        (window > 0).then_some(Self { router_id, asn, until })
    }

    /// Whether they are a speaker's own, and are still kept.
    fn count(&self, config: &Config, now: &Moment) -> bool {
        let own = self.router_id == config.router_id && self.asn == config.asn;
        own && self.until.boot_id == now.boot_id && now.uptime <= self.until.uptime
    }
}

/// The file, of which there is one for each control socket.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    path: PathBuf,
}

impl Memory {
    pub(crate) fn beside(socket: &Path) -> Self {
        let mut path = socket.as_os_str().to_owned();
        path.push(".restart");
        Self { path: path.into() }
    }

    /// Whether a daemon with this configuration follows one whose routes are still kept. A file that
    /// makes no sense does not count.
    pub(crate) fn is_restart(&self, config: &Config) -> bool {
        let looked = self.read().and_then(|found| Ok((found, Moment::now()?)));
        let path = self.path.display();
        match looked {
            Ok((Some(remains), now)) => {
                let restarting = remains.count(config, &now);
                tracing::info!(%path, restarting, "found what an earlier daemon has left");
                restarting
            }
            Ok((None, _)) => false,
            Err(error) => {
                tracing::warn!(%path, error = format!("{error:#}"), "no restart is known of");
                false
            }
        }
    }

    fn read(&self) -> anyhow::Result<Option<Remains>> {
        let length = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?.len(),
        };
        anyhow::ensure!(length <= LONGEST, "{length} octets are too many");
        let octets = std::fs::read(&self.path)?;
        Ok(Some(serde_json::from_slice(&octets)?))
    }

    /// Writes down what is left if the daemon goes now. While no session is up, what was written
    /// last holds: it says by itself when it is over.
    pub(crate) fn note(&self, status: &SpeakerStatus) -> anyhow::Result<()> {
        match Remains::of(status, Moment::now()?) {
            Some(remains) => self.write(&remains),
            None => Ok(()),
        }
    }

    /// Replaced as a whole: a daemon that dies meanwhile leaves the old one or the new one.
    fn write(&self, remains: &Remains) -> anyhow::Result<()> {
        let mut new = self.path.as_os_str().to_owned();
        new.push(".new");
        let (new, octets) = (PathBuf::from(new), serde_json::to_vec(remains)?);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        io::Write::write_all(&mut file, &octets)?;
        std::fs::rename(&new, &self.path)?;
        Ok(())
    }

    /// Nobody keeps anything: the neighbors were told that we go.
    pub(crate) fn forget(&self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "cannot be removed: the next start counts as a restart");
            }
            _ => {}
        }
    }

    /// Notes what is left, again and again, until the speaker ends.
    pub(crate) async fn keep(self, speaker: SpeakerHandle) {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = false;
        loop {
            beat.tick().await;
            let Ok(status) = speaker.status().await else { return };
            let noted = self.note(&status);
            if let Err(error) = &noted
                && !said
            {
                let (path, error) = (self.path.display(), format!("{error:#}"));
                tracing::error!(%path, error, "the next daemon will not know that it restarts");
            }
            said = noted.is_err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_id: &str, uptime: u64) -> Moment {
        Moment { boot_id: boot_id.into(), uptime }
    }

    fn left() -> Remains {
        Remains { router_id: Ipv4Addr::new(10, 0, 0, 1), asn: 65001, until: at("this", 1000) }
    }

    #[test]
    fn only_what_is_still_kept_counts() {
        let own = Config::new(Ipv4Addr::new(10, 0, 0, 1), 65001);
        assert!(left().count(&own, &at("this", 900)));
        assert!(left().count(&own, &at("this", 1000)));
        assert!(!left().count(&own, &at("this", 1001)), "their patience is over");
        assert!(!left().count(&own, &at("next", 10)), "the machine was started anew");
        let other = Config::new(Ipv4Addr::new(10, 0, 0, 2), 65001);
        assert!(!left().count(&other, &at("this", 900)), "another router's");
        let other = Config::new(Ipv4Addr::new(10, 0, 0, 1), 65002);
        assert!(!left().count(&other, &at("this", 900)), "another AS's");
    }

    #[test]
    fn time_goes_on_and_the_machine_is_the_same() {
        let (first, second) = (Moment::now().unwrap(), Moment::now().unwrap());
        assert_eq!(first.boot_id, second.boot_id);
        assert!(!first.boot_id.is_empty() && first.uptime <= second.uptime);
    }

    #[test]
    fn a_file_is_found_again_until_it_is_forgotten_and_a_wrong_one_does_not_count() {
        let name = format!("bgpd-remains-{}", std::process::id());
        let memory = Memory::beside(&std::env::temp_dir().join(name));
        assert_eq!(memory.read().unwrap(), None);
        memory.write(&left()).unwrap();
        assert_eq!(memory.read().unwrap(), Some(left()));
        let own = Config::new(Ipv4Addr::new(10, 0, 0, 1), 65001);
        assert!(!memory.is_restart(&own), "of another start of the machine");
        let later = Moment { uptime: u64::MAX, ..Moment::now().unwrap() };
        memory.write(&Remains { until: later, ..left() }).unwrap();
        assert!(memory.is_restart(&own));
        for wrong in [&b"{"[..], b"", &[b' '; 5000]] {
            std::fs::write(&memory.path, wrong).unwrap();
            assert!(!memory.is_restart(&own));
        }
        memory.forget();
        assert_eq!(memory.read().unwrap(), None);
        memory.forget();
    }
}
