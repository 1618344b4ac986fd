//! What a node keeps on its disk: its instance id, and the networks it announces, so that an
//! agent that starts while the store is away goes on announcing them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::store::Position;

const INSTANCE: &str = "ipam-instance";
const BLOCKS: &str = "ipam-blocks.json";
const LOG: &str = "ipam-log";

/// The state directory of one running allocator; locked until dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// 128 random bits in hexadecimal, made once and kept.
    pub(crate) instance: String,
    /// Holds the lock.
    _lock: File,
}

/// What [`StateDir::save`] keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// The node that these are of.
    pub(crate) node: String,
    /// The networks that the node announces.
    pub(crate) blocks: Vec<IpNet>,
    /// Blocks of others in which it has addresses.
    #[serde(default)]
    pub(crate) borrowed: Vec<IpNet>,
    /// Its addresses in those blocks, which it announces one by one.
    #[serde(default)]
    pub(crate) borrowed_addresses: Vec<IpAddr>,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    remembered: Remembered,
    /// The store, as it was seen last.
    #[serde(default)]
    position: Option<Position>,
}

impl StateDir {
    /// Opens the directory, which is made if it does not exist.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |path: &Path, error: io::Error| Error::State {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        fs::create_dir_all(path).map_err(|error| failed(path, error))?;
        let file = path.join(INSTANCE);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .map_err(|error| failed(&file, error))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::State {
                path: file.clone(),
                reason: "another process on this machine uses this state directory".to_owned(),
            },
            TryLockError::Error(error) => failed(&file, error),
        })?;
        let mut instance = String::new();
        lock.read_to_string(&mut instance).map_err(|error| failed(&file, error))?;
        let mut instance = instance.trim().to_owned();
        if instance.is_empty() {
            instance = random_id();
            let written = lock
                .write_all(format!("{instance}\n").as_bytes())
                .and_then(|()| lock.sync_all())
                .and_then(|()| File::open(path)?.sync_all());
            written.map_err(|error| failed(&file, error))?;
        } else if instance.len() != 32 || !instance.bytes().all(|b| b.is_ascii_hexdigit()) {
            let reason = "does not hold 32 hexadecimal digits; remove it only if no pod runs here";
            return Err(Error::State { path: file, reason: reason.to_owned() });
        }
        Ok(Self { path: path.to_owned(), instance, _lock: lock })
    }

    /// Where the log of the local-first mode is.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// What was saved last; nothing if that cannot be read or was another node's.
    pub(crate) fn load(&self, node: &str) -> (Remembered, Option<Position>) {
        let path = self.blocks();
        let read: io::Result<Saved> =
            fs::read(&path).and_then(|json| serde_json::from_slice(&json).map_err(io::Error::from));
        match read {
            Ok(Saved { remembered, position }) if remembered.node == node => (remembered, position),
            Ok(_) => Default::default(),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "blocks of the last run unknown");
                }
                Default::default()
            }
        }
    }

    /// Where [`StateDir::save`] keeps it.
    pub(crate) fn blocks(&self) -> PathBuf {
        self.path.join(BLOCKS)
    }

    /// Replaces what is remembered; after a crash it is the old or the new.
    /// `position` is how far the store had come, if that can be told.
    pub(crate) fn save(
        &self,
        remembered: &Remembered,
        position: Option<Position>,
    ) -> io::Result<()> {
        let (path, new) = (self.blocks(), self.path.join(format!("{BLOCKS}.new")));
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&Saved { remembered: remembered.clone(), position })?)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    }
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_stays_and_the_directory_is_locked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep");
        let first = StateDir::open(&path).unwrap();
        let error = StateDir::open(&path).unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        let id = first.instance.clone();
        drop(first);
        assert_eq!(StateDir::open(&path).unwrap().instance, id);
        assert_ne!(random_id(), random_id());
    }

    #[test]
    fn remembers_blocks_of_the_same_node() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path()).unwrap();
        assert_eq!(state.load("n"), Default::default());
        let remembered = Remembered {
            node: "n".to_owned(),
            blocks: vec!["10.0.0.0/26".parse().unwrap()],
            borrowed: vec!["10.0.1.0/26".parse().unwrap()],
            borrowed_addresses: vec!["10.0.1.5".parse().unwrap()],
        };
        let position = Some(Position { cluster: u64::MAX, revision: 7 });
        state.save(&remembered, position).unwrap();
        assert_eq!(state.load("n"), (remembered.clone(), position));
        assert_eq!(state.load("m"), Default::default());
        // As older versions wrote it.
        let older = serde_json::to_vec(&remembered).unwrap();
        fs::write(directory.path().join(BLOCKS), older).unwrap();
        assert_eq!(state.load("n"), (remembered, None));
        fs::write(directory.path().join(BLOCKS), "{").unwrap();
        assert_eq!(state.load("n"), Default::default());
    }

    #[test]
    fn says_which_file_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(INSTANCE), "not an id").unwrap();
        let error = StateDir::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("ipam-instance: does not hold 32"), "{error}");
    }
}
