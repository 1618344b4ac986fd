//! What happens, as a stream of MRT records (RFC 6396 section 4.4): received messages and changes of
//! state. The core writes them into a buffer of bounded size, and a thread of its own takes them to
//! the file: a disk that is slow costs records, which are counted, but never delays the speaker.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use super::core::{Core, Time};
use super::neighbor::Neighbor;
use super::record::Recorded;
use crate::config::Mrt;
use crate::mrt::{Body, Message, Record, Session};
use crate::session::{Direction, State};
use crate::wire::Frame;

/// Octets that wait in the core at most.
const BUFFER: usize = 4 << 20;
/// Buffers that wait for the thread at most.
const QUEUE: usize = 4;
/// How long the end of the speaker waits for the file.
const PATIENCE: Duration = Duration::from_secs(2);

/// Records that wait to be taken.
#[derive(Debug)]
pub(crate) struct Tap {
    /// What is to be added to the core's time for that since 1970.
    wall: Duration,
    octets: Vec<u8>,
    /// Records that did not fit.
    dropped: u64,
}

impl Tap {
    fn record(&mut self, now: Time, body: Body<'_>) {
        if self.octets.len() >= BUFFER {
            self.dropped += 1;
            return;
        }
        let at = self.wall + now;
        let timestamp = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
        Record { timestamp, microseconds: Some(at.subsec_micros()), body }.encode(&mut self.octets);
    }

    /// Records lost since the last were taken.
    #[cfg(test)]
    pub(super) const fn lost(&self) -> u64 {
        self.dropped
    }

    pub(super) fn state(&mut self, now: Time, neighbor: &Neighbor, old: State, new: State) {
        let direction = Direction::BOTH
            .into_iter()
            .max_by_key(|d| neighbor.slots[d.index()].state)
            .unwrap_or(Direction::Outgoing);
        self.record(now, Body::StateChange(session(neighbor, direction), old, new));
    }

    pub(super) fn message(
        &mut self,
        now: Time,
        neighbor: &Neighbor,
        direction: Direction,
        message: &Frame<'_>,
    ) {
        let negotiated = neighbor.slots[direction.index()].negotiated.as_ref();
        let octets = message.octets();
        let message = Message {
            four_octet_as: negotiated.is_none_or(|n| n.four_octet_as),
            add_path: negotiated.is_some_and(|n| !n.receive_paths.is_empty()),
            sent: false,
            octets: &octets,
        };
        self.record(now, Body::Message(session(neighbor, direction), message));
    }
}

fn session(neighbor: &Neighbor, direction: Direction) -> Session {
    let local = neighbor.slots[direction.index()].local;
    let unspecified = std::net::Ipv4Addr::UNSPECIFIED.into();
    Session {
        peer_asn: neighbor.asn().unwrap_or(0),
        local_asn: neighbor.local_asn,
        interface: u16::try_from(neighbor.config.scope_id).unwrap_or(0),
        peer: neighbor.config.address,
        local: local.map_or(unspecified, |local| local.ip()),
    }
}

impl Core {
    /// Begins to note what happens, or ends it. `wall` is what is to be added to the core's time for
    /// that since 1970.
    pub(crate) fn observe(&mut self, wall: Option<Duration>) {
        self.tap = wall.map(|wall| Tap { wall, octets: Vec::new(), dropped: 0 });
    }

    /// Records that wait, and how many were lost before them; None: there are none.
    pub(crate) fn take_observed(&mut self) -> Option<(Vec<u8>, u64)> {
        let tap = self.tap.as_mut()?;
        if tap.octets.is_empty() {
            return None;
        }
        Some((std::mem::take(&mut tap.octets), std::mem::take(&mut tap.dropped)))
    }
}

/// Writes the files. Ends when it is dropped, once what it was given is written.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) config: Mrt,
    queue: mpsc::Sender<(Vec<u8>, u64)>,
    /// Closed once the thread has ended.
    ended: oneshot::Receiver<()>,
}

impl Writer {
    pub(super) fn start(config: Mrt) -> io::Result<Self> {
        let (queue, mut receiver) = mpsc::channel::<(Vec<u8>, u64)>(QUEUE);
        let mut files = Files { config: config.clone(), open: None };
        let (ending, ended) = oneshot::channel::<()>();
        std::thread::Builder::new().name("mrt".into()).spawn(move || {
            let _ending = ending;
            let mut lost = 0;
            while let Some((octets, dropped)) = receiver.blocking_recv() {
                let failed: bool = match files.write(&octets, SystemTime::now()) {
                    Ok(()) => false,
                    Err(error) => {
                        let path = files.config.updates.display();
                        tracing::error!(%path, %error, octets = octets.len(), "MRT not written");
                        true
                    }
                };
                lost += dropped;
                if dropped > 0 && !failed {
                    tracing::warn!(dropped, lost, "the MRT file is slow: records were dropped");
                }
            }
        })?;
        Ok(Self { config, queue, ended })
    }

    /// Takes over what waits in the core, if there is room.
    pub(super) fn take(&self, core: &mut Recorded) {
        if let Ok(place) = self.queue.try_reserve()
            && let Some(observed) = core.take_observed()
        {
            place.send(observed);
        }
    }

    /// Returns when all that was taken over is written, or could not be for [`PATIENCE`]: from a disk
    /// that hangs nothing comes back, not even to a thread that ends. That one is left behind.
    pub(super) async fn finish(self) {
        let Self { config, queue, ended } = self;
        drop(queue);
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            let path = config.updates.display();
            tracing::error!(%path, "the MRT file hangs: what came last may be missing");
        }
    }
}

/// The file that is written, and those before it.
#[derive(Debug)]
struct Files {
    config: Mrt,
    /// With the seconds since 1970 when it was begun.
    open: Option<(File, u64)>,
}

impl Files {
    /// Appends whole records, to a new file if the old one is old enough. After an error the file is
    /// opened anew the next time.
    fn write(&mut self, octets: &[u8], now: SystemTime) -> io::Result<()> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let due = self.config.rotate_seconds.map(u64::from);
        if let (Some((_, begun)), Some(due)) = (&self.open, due)
            && now.saturating_sub(*begun) >= due
        {
            let begun = *begun;
            self.open = None;
            std::fs::rename(&self.config.updates, rotated(&self.config.updates, begun))?;
        }
        let (mut file, begun) = match self.open.take() {
            Some(open) => open,
            None => {
                let path = &self.config.updates;
                (OpenOptions::new().create(true).append(true).open(path)?, now)
            }
        };
        file.write_all(octets)?;
        self.open = Some((file, begun));
        Ok(())
    }
}

/// Where a file goes that was begun then.
fn rotated(path: &Path, begun: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{begun}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe that nobody reads is as a disk that hangs: not even opening it ends.
    #[tokio::test]
    async fn a_file_that_hangs_delays_the_end_no_longer_than_that() {
        let path = std::env::temp_dir().join(format!("bgpd-mrt-hangs-{}", std::process::id()));
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let config = Mrt { updates: path.clone(), rotate_seconds: None };
        let writer = Writer::start(config.clone()).unwrap();
        writer.queue.try_send((b"late".to_vec(), 0)).unwrap();
        writer.finish().await;
        // What it was given is not forgotten, should the disk come back.
        let late = tokio::task::spawn_blocking({
            let path = path.clone();
            move || std::fs::read(path).unwrap()
        });
        assert_eq!(late.await.unwrap(), b"late");
        std::fs::remove_file(&path).unwrap();

        let writer = Writer::start(config).unwrap();
        writer.queue.try_send((b"in time".to_vec(), 0)).unwrap();
        writer.finish().await;
        assert_eq!(std::fs::read(&path).unwrap(), b"in time", "it waits for what goes on");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn files_are_appended_to_and_rotated() {
        let folder = std::env::temp_dir().join(format!("bgpd-mrt-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("updates");
        let config = Mrt { updates: path.clone(), rotate_seconds: Some(60) };
        let mut files = Files { config, open: None };
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        files.write(b"a", at(1000)).unwrap();
        files.write(b"b", at(1059)).unwrap();
        files.write(b"c", at(1060)).unwrap();
        let read = |path: &Path| std::fs::read(path).unwrap();
        assert_eq!(read(&rotated(&path, 1000)), b"ab");
        assert_eq!(read(&path), b"c");
        // A folder that goes is an error, one that comes back is used.
        let away = folder.with_extension("away");
        std::fs::rename(&folder, &away).unwrap();
        assert!(files.write(b"d", at(2000)).is_err());
        std::fs::rename(&away, &folder).unwrap();
        files.write(b"e", at(2001)).unwrap();
        assert_eq!(read(&path), b"ce", "what is there is kept");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
