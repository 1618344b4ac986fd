//! What a lab has made, written down as it is made, so that `down` can undo it after a crash.
//!
//! One file of JSON lines per lab. A namespace is written before it is created; a process right
//! after it was started, and what slips through that gap is found by being in a namespace of ours.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::netns::Netns;
use crate::process::{self, ProcessId};

/// One line of the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Entry {
    /// The first line: on which boot of the machine all the rest is true.
    Boot { id: String },
    /// The process that holds the lab up.
    Owner { id: ProcessId },
    /// A network namespace.
    Namespace { name: String },
    /// It is gone again.
    NamespaceDeleted { name: String },
    /// A process, and where its output goes.
    Process { name: String, id: ProcessId, log: PathBuf },
    /// It has ended.
    Ended { id: ProcessId },
}

/// The open record of a lab. Clones share the file.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    file: Arc<Mutex<File>>,
}

impl Record {
    /// Starts the record of a new lab in its directory.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        let path = directory.join(FILE);
        let file = File::options().create_new(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        let record = Self { file: Arc::new(Mutex::new(file)) };
        record.add(&Entry::Boot { id: boot_id()? })?;
        record.add(&Entry::Owner { id: ProcessId::of(i32::try_from(std::process::id())?)? })?;
        Ok(record)
    }

    /// Adds a line; it is in the file when this returns.
    pub(crate) fn add(&self, entry: &Entry) -> Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).context("cannot write the lab's record")
    }

    /// Records and creates a namespace.
    pub(crate) async fn create_namespace(&self, netns: &Netns) -> Result<()> {
        self.add(&Entry::Namespace { name: netns.name().to_owned() })?;
        netns.create().await
    }

    /// Deletes a namespace and records that.
    pub(crate) async fn delete_namespace(&self, netns: &Netns) -> Result<()> {
        netns.delete().await?;
        self.add(&Entry::NamespaceDeleted { name: netns.name().to_owned() })
    }
}

const FILE: &str = "record.jsonl";

/// What a record says is there, in the order it was made.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    /// The process that holds the lab up, if it still runs.
    pub(crate) owner: Option<ProcessId>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) processes: Vec<ProcessId>,
    /// The log of every named process, the latest of each name.
    pub(crate) logs: BTreeMap<String, PathBuf>,
}

impl Inventory {
    /// Reads the record in a lab's directory; None if there is none.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let mut inventory = Self::default();
        let mut this_boot = false;
        for (number, line) in text.lines().enumerate() {
            let entry = match serde_json::from_str(line) {
                Ok(entry) => entry,
                // The machine may have stopped in the middle of the last line.
                Err(_) if number + 1 == text.lines().count() => break,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("{} line {}", path.display(), number + 1));
                }
            };
            match entry {
                Entry::Boot { id } => this_boot = id == boot_id()?,
                Entry::Owner { id } => inventory.owner = Some(id).filter(|id| id.alive()),
                Entry::Namespace { name } => inventory.namespaces.push(name),
                Entry::NamespaceDeleted { name } => inventory.namespaces.retain(|n| *n != name),
                Entry::Process { name, id, log } => {
                    inventory.processes.push(id);
                    inventory.logs.insert(name, log);
                }
                Entry::Ended { id } => inventory.processes.retain(|p| *p != id),
            }
        }
        if !this_boot {
            // Namespaces and processes did not survive; only the directory did.
            inventory.namespaces.clear();
            inventory.processes.clear();
            inventory.owner = None;
        }
        Ok(Some(inventory))
    }

    /// Ends the processes, newest first, and deletes the namespaces with whatever else runs in
    /// them. Goes on after an error, and returns the first.
    pub(crate) async fn undo(&self) -> Result<()> {
        let mut outcome = Ok(());
        let mut keep = |result: Result<()>| {
            if outcome.is_ok() {
                outcome = result;
            }
        };
        let newest_first: Vec<_> = self.processes.iter().rev().copied().collect();
        keep(process::kill_all(&newest_first).await);
        for name in self.namespaces.iter().rev() {
            let netns = Netns::named(name);
            if !netns.exists() {
                continue;
            }
            let inside = netns.processes().unwrap_or_default();
            let inside: Vec<_> =
                inside.into_iter().filter_map(|pid| ProcessId::of(pid).ok()).collect();
            keep(process::kill_all(&inside).await);
            keep(netns.delete().await);
        }
        outcome
    }
}

fn boot_id() -> Result<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_what_was_added_minus_what_ended() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Inventory::read(directory.path()).unwrap().is_none());
        let record = Record::create(directory.path()).unwrap();
        let (a, b) = (ProcessId { pid: 1, start: 7 }, ProcessId { pid: 2, start: 8 });
        for entry in [
            Entry::Namespace { name: "x-node1".into() },
            Entry::Namespace { name: "x-node2".into() },
            Entry::Process { name: "felix".into(), id: a, log: "/a".into() },
            Entry::Process { name: "felix".into(), id: b, log: "/b".into() },
            Entry::Ended { id: a },
            Entry::NamespaceDeleted { name: "x-node1".into() },
        ] {
            record.add(&entry).unwrap();
        }
        let inventory = Inventory::read(directory.path()).unwrap().unwrap();
        assert_eq!(inventory.namespaces, ["x-node2"]);
        assert_eq!(inventory.processes, [b]);
        assert_eq!(inventory.logs["felix"], Path::new("/b"));
        assert!(inventory.owner.is_some());
    }

    #[test]
    fn a_torn_last_line_is_ignored_and_any_other_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        Record::create(directory.path()).unwrap();
        let path = directory.path().join(FILE);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"name")).unwrap();
        assert!(Inventory::read(directory.path()).unwrap().is_some());
        std::fs::write(&path, format!("{{\"name\n{whole}")).unwrap();
        assert!(format!("{:#}", Inventory::read(directory.path()).unwrap_err()).contains("line 1"));
    }

    #[test]
    fn a_record_of_another_boot_leaves_nothing_to_kill() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record::create(directory.path()).unwrap();
        record
            .add(&Entry::Process {
                name: "p".into(),
                id: ProcessId { pid: 1, start: 1 },
                log: "/".into(),
            })
            .unwrap();
        record.add(&Entry::Boot { id: "another".into() }).unwrap();
        let inventory = Inventory::read(directory.path()).unwrap().unwrap();
        assert!(inventory.processes.is_empty() && inventory.owner.is_none());
    }
}
