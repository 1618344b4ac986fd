//! A folder of YAML files as a source: the same objects as from the Kubernetes API, without it.
//!
//! Files are those directly in the folder whose name ends in `.yaml`, `.yml` or `.json` and does not
//! begin with a dot. A file counts when it is whole: when its writer closes it, or when it is renamed
//! or linked into place, and so does the exchange of a mounted ConfigMap.
//!
//! Objects are validated as an API server would, and policies strictly (see [`api::yaml`]). A file
//! that was read before and is malformed now keeps its last good content, all of it; of a file that
//! is malformed from the start, its good documents count. A malformed policy of which there is no
//! good version allows nothing, so that a restart does not open what a typing error had not. An
//! object that is in two files counts as the first of them, in the order of their names, has it.

mod folder;
mod inotify;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::folder::Folder;
use self::inotify::{Changes, Inotify};
pub(super) use self::read::objects;
use super::OpenError;
use super::hub::{Closed, Hub};
use super::status::{KindState, SourceStatus};
use crate::model::{Kind, Update};
use crate::observe::metrics::SourceMetrics;

/// Between attempts to find a folder that has gone.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Starts to read the folder.
pub(super) fn open(
    path: &Path,
    updates: mpsc::Sender<Update>,
    metrics: SourceMetrics,
    tasks: &mut JoinSet<()>,
) -> Result<watch::Receiver<SourceStatus>, OpenError> {
    let inotify =
        Inotify::new(path).map_err(|reason| OpenError { field: "source.path", reason })?;
    let (hub, status) = Hub::new(path.display().to_string(), &Kind::ALL, updates, metrics);
    let source = Directory { path: path.to_owned(), folder: Folder::default(), hub: Arc::new(hub) };
    tasks.spawn(source.run(inotify));
    Ok(status)
}

struct Directory {
    path: PathBuf,
    folder: Folder,
    hub: Arc<Hub>,
}

impl Directory {
    async fn run(mut self, mut inotify: Inotify) {
        loop {
            let Err(lost) = self.follow(&mut inotify).await else { return };
            inotify = self.find_again(lost).await;
        }
    }

    /// Reads the folder and then its changes. Ok: the agent no longer listens. An error: the
    /// folder is no longer there to be followed; what is known of it stays in force.
    async fn follow(&mut self, inotify: &mut Inotify) -> Result<(), String> {
        let mut changes = Changes::All;
        loop {
            let whole = matches!(changes, Changes::All);
            let names = match changes {
                Changes::Lost => return Err("the folder was moved or removed".into()),
                Changes::Files(names) => names,
                Changes::All => {
                    let mut names = names(&self.path).map_err(|error| error.to_string())?;
                    names.extend(self.folder.names().cloned());
                    names
                }
            };
            let taken = self.take(names).await;
            if taken.is_err() || (whole && self.all_read().await.is_err()) {
                return Ok(());
            }
            changes = inotify.next(|name| self.folder.is_unreadable(name)).await;
        }
    }

    async fn take(&mut self, names: BTreeSet<String>) -> Result<(), Closed> {
        let path = self.path.clone();
        let contents = tokio::task::spawn_blocking(move || {
            names.into_iter().map(|name| (read::read(&path.join(&name)), name)).collect::<Vec<_>>()
        });
        // It is cancelled only when the runtime ends.
        let Ok(contents) = contents.await else { return Err(Closed) };
        let mut changed = BTreeSet::new();
        for (content, name) in contents {
            changed.extend(self.folder.put(&name, content));
        }
        for update in self.folder.settle(changed) {
            self.hub.send(update).await?;
        }
        for (kind, objects) in self.folder.count() {
            self.hub.objects(kind, objects);
        }
        self.hub.problems(self.folder.problems(&self.path));
        Ok(())
    }

    async fn all_read(&self) -> Result<(), Closed> {
        for kind in Kind::ALL {
            self.hub.state(kind, KindState::Watching, None);
        }
        self.hub.listed(&Kind::ALL).await
    }

    async fn find_again(&self, lost: String) -> Inotify {
        let (mut delay, longest) = RETRY;
        let mut reason = lost;
        loop {
            for kind in Kind::ALL {
                self.hub.state(kind, KindState::Disconnected, Some(reason.clone()));
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(longest);
            match Inotify::new(&self.path) {
                Ok(inotify) => return inotify,
                Err(error) => reason = error,
            }
        }
    }
}

/// Whether a file of this name is read.
fn is_ours(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|suffix| name.ends_with(suffix))
}

fn names(path: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(path)? {
        // A name that is no UTF-8 is none of ours.
        if let Ok(name) = entry?.file_name().into_string()
            && is_ours(&name)
        {
            names.insert(name);
        }
    }
    Ok(names)
}
