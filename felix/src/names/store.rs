//! What was learned, on the disk, for an agent that starts again: a file for each endpoint, in a folder of
//! its own. Not brought to the disk at once: after the machine was started anew there are no pods that
//! remember an answer, and what it says then is left out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::learned::Saved;
use crate::model::EndpointId;

/// Time since the machine was started, with the time that it slept.
#[derive(Clone, Copy, Debug)]
pub struct Uptime {
    read: Duration,
    at: Instant,
}

impl Uptime {
    /// Reads the kernel's clock once.
    ///
    /// # Errors
    /// `/proc/uptime` cannot be read.
    pub fn read() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/uptime")?;
        let seconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
        let read = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let read = read.ok_or_else(|| io::Error::other("/proc/uptime says no time"))?;
        Ok(Self { read, at: Instant::now() })
    }

    /// Now.
    pub fn now(&self) -> Duration {
        self.read + self.at.elapsed()
    }

    /// That time as others tell it.
    pub fn instant(&self, time: Duration) -> Instant {
        self.at + time.saturating_sub(self.read)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    /// `/proc/sys/kernel/random/boot_id`.
    boot_id: String,
    endpoint: EndpointId,
    names: Vec<Saved>,
}

/// Writes files, in the order in which it is told, by a thread of its own that ends with it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// Nothing: the file goes.
    files: Option<Sender<(EndpointId, Vec<Saved>)>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Store {
    /// Opens a folder, which is made if it is not there, and reads what it says of the start of the machine
    /// that this id is of. A file that cannot be read, or is of another start, is deleted.
    ///
    /// # Errors
    /// The folder cannot be made or listed.
    pub fn open(
        folder: &Path,
        boot_id: &str,
    ) -> io::Result<(Self, BTreeMap<EndpointId, Vec<Saved>>)> {
        fs::create_dir_all(folder)?;
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let file = fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok())
                .filter(|file| file.boot_id == boot_id && path == place(folder, &file.endpoint));
            match file {
                Some(file) => drop(found.insert(file.endpoint, file.names)),
                None => {
                    tracing::info!(path = %path.display(), "no names of this start of the machine");
                    drop(fs::remove_file(&path));
                }
            }
        }
        let (sender, files) = mpsc::channel::<(EndpointId, Vec<Saved>)>();
        let (own, boot) = (folder.to_owned(), boot_id.to_owned());
        let writer = thread::Builder::new().name("names".into()).spawn(move || {
            while let Ok(first) = files.recv() {
                // Of each endpoint the last of what has queued.
                let waiting: BTreeMap<_, _> = [first].into_iter().chain(files.try_iter()).collect();
                for (endpoint, names) in waiting {
                    let path = place(&own, &endpoint);
                    if let Err(error) = write(&path, &boot, endpoint, names) {
                        tracing::error!(path = %path.display(), %error, "names are not kept for the next start");
                    }
                }
            }
        })?;
        let folder = folder.to_owned();
        Ok((Self { folder, files: Some(sender), writer: Some(writer) }, found))
    }

    /// What is to be kept of an endpoint now; nothing, if that is empty.
    pub fn keep(&self, endpoint: EndpointId, names: Vec<Saved>) {
        if let Some(files) = &self.files
            && files.send((endpoint, names)).is_err()
        {
            tracing::error!(folder = %self.folder.display(), "the thread that keeps names has ended");
        }
    }
}

impl Drop for Store {
    /// Waits until all is written.
    fn drop(&mut self) {
        self.files = None;
        if let Some(writer) = self.writer.take() {
            // It has said what was wrong.
            drop(writer.join());
        }
    }
}

/// Container ids are hexadecimal and interface names have no slash; what else there may be is escaped.
fn place(folder: &Path, endpoint: &EndpointId) -> PathBuf {
    let name = format!("{}-{}.json", endpoint.container_id, endpoint.ifname);
    let name: String = name.chars().map(|c| if c == '/' || c == '\0' { '_' } else { c }).collect();
    folder.join(name)
}

fn write(path: &Path, boot_id: &str, endpoint: EndpointId, names: Vec<Saved>) -> io::Result<()> {
    if names.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let file = File { boot_id: boot_id.to_owned(), endpoint, names };
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec(&file)?)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> EndpointId {
        EndpointId { container_id: name.into(), ifname: "eth0".into() }
    }

    fn names(last: u8) -> Vec<Saved> {
        let address = [192, 0, 2, last].into();
        vec![Saved { name: "x.org".into(), address, told: 1, until: 2 }]
    }

    #[test]
    fn what_is_kept_is_read_back_in_the_same_start_only() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("names");
        let open = |boot: &str| Store::open(&folder, boot).unwrap();
        let (store, found) = open("boot-1");
        assert!(found.is_empty());
        store.keep(id("a"), names(1));
        store.keep(id("b"), names(2));
        store.keep(id("a"), names(3));
        store.keep(id("../c"), names(4));
        drop(store);
        let wanted = [(id("../c"), names(4)), (id("a"), names(3)), (id("b"), names(2))];
        assert_eq!(open("boot-1").1, wanted.into());
        // Gone, and damaged.
        let (store, _) = open("boot-1");
        store.keep(id("b"), Vec::new());
        store.keep(id("none"), Vec::new());
        drop(store);
        fs::write(folder.join("a-eth0.json"), "{").unwrap();
        fs::write(folder.join("d-eth0.new"), "{}").unwrap();
        assert_eq!(open("boot-1").1.into_keys().collect::<Vec<_>>(), [id("../c")]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "what cannot be read is gone");
        // Another start.
        assert!(open("boot-2").1.is_empty());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn time_goes_on_since_the_machine_was_started() {
        let uptime = Uptime::read().unwrap();
        let (first, later) = (uptime.now(), Uptime::read().unwrap().now());
        assert!(first > Duration::ZERO);
        // The kernel's file is exact to a hundredth of a second.
        assert!(later + Duration::from_millis(20) >= first);
        assert!(uptime.instant(first) <= Instant::now());
        assert!(uptime.instant(Duration::ZERO) <= Instant::now());
    }
}
