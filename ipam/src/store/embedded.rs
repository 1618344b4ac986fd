//! The store of one machine: a file (redb), written and synced before a transaction is answered.
//! Everything is in memory too, so reads never touch the disk.

use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::memory::MemoryStore;
use super::mvcc::{Change, Mvcc};
use super::{Entry, Event, Keys, Outcome, Revision, Snapshot, Store, StoreError, Txn};

/// Key to (revision of the last write, value).
const ENTRIES: TableDefinition<'_, &str, (i64, &[u8])> = TableDefinition::new("entries");
/// `revision` to the store's revision.
const META: TableDefinition<'_, &str, i64> = TableDefinition::new("meta");
const REVISION: &str = "revision";

/// How many changes are remembered for watches. The history does not outlive the process.
const HISTORY: usize = 10_000;

/// A store in a file, of which one process at a time may have it open.
#[derive(Clone)]
pub struct EmbeddedStore {
    memory: MemoryStore,
    database: Arc<Database>,
    name: String,
}

impl EmbeddedStore {
    /// Opens the file, which is made if it does not exist. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be opened, is not such a file, or another process has it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let failed = |error: redb::Error| StoreError::Unavailable {
            store: name.clone(),
            reason: match error {
                redb::Error::DatabaseAlreadyOpen => "another process has it open".to_owned(),
                error => error.to_string(),
            },
        };
        let database = Database::create(path).map_err(|error| failed(error.into()))?;
        let mvcc = load(&database).map_err(failed)?;
        Ok(Self { memory: MemoryStore::with(&name, mvcc), database: Arc::new(database), name })
    }

    fn write(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        self.memory.commit(txn, |changes| {
            // redb refuses all further writes after one that failed, so that what is in memory
            // never runs ahead of the file or beside it.
            persist(&self.database, changes).map_err(|error| StoreError::Unavailable {
                store: self.name.clone(),
                reason: error.to_string(),
            })
        })
    }
}

fn load(database: &Database) -> Result<Mvcc, redb::Error> {
    let setup = database.begin_write()?;
    setup.open_table(ENTRIES)?;
    setup.open_table(META)?;
    setup.commit()?;
    let read = database.begin_read()?;
    let revision = read.open_table(META)?.get(REVISION)?.map_or(0, |revision| revision.value());
    let mut entries = Vec::new();
    for row in read.open_table(ENTRIES)?.iter()? {
        let (key, value) = row?;
        let (mod_revision, value) = value.value();
        entries.push(Entry { key: key.value().to_owned(), value: value.into(), mod_revision });
    }
    Ok(Mvcc::new(entries, revision, HISTORY))
}

fn persist(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let Some(last) = changes.last() else { return Ok(()) };
    let write = database.begin_write()?;
    {
        let mut table = write.open_table(ENTRIES)?;
        for change in changes {
            match &change.after {
                Some(entry) => {
                    table.insert(entry.key.as_str(), (entry.mod_revision, &*entry.value))?;
                }
                None => {
                    table.remove(change.key.as_str())?;
                }
            }
        }
        write.open_table(META)?.insert(REVISION, last.revision)?;
    }
    write.commit()?;
    Ok(())
}

impl Store for EmbeddedStore {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn read<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        self.memory.read(keys)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Snapshot, StoreError>> {
        self.memory.list(prefix, at)
    }

    fn list_keys<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Keys, StoreError>> {
        self.memory.list_keys(prefix)
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        let store = self.clone();
        async move {
            // Syncing blocks its thread; dropping this future does not stop it half-way.
            let done = tokio::task::spawn_blocking(move || store.write(&txn)).await;
            done.unwrap_or_else(|error| {
                Err(StoreError::Unavailable { store: self.name.clone(), reason: error.to_string() })
            })
        }
        .boxed()
    }

    fn watch(&self, prefix: &str, after: Option<Revision>) -> BoxStream<'static, Event> {
        self.memory.watch(prefix, after)
    }
}
