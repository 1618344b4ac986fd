//! Which files of a folder have changed, as inotify(7) tells it.

use std::collections::BTreeSet;
use std::mem;
use std::path::Path;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Config, Event, EventKind, INotifyWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::is_ours;

/// What may differ from what was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Changes {
    /// These files, by name.
    Files(BTreeSet<String>),
    /// Any of them.
    All,
    /// The folder itself is gone.
    Lost,
}

/// Watches a folder. What changes while nobody asks is kept, each file once.
pub(super) struct Inotify {
    pending: Arc<Pending>,
    _watcher: INotifyWatcher,
}

#[derive(Default)]
struct Pending {
    changes: Mutex<Collected>,
    some: Notify,
}

#[derive(Default)]
struct Collected {
    whole: BTreeSet<String>,
    /// With a new mode or owner.
    touched: BTreeSet<String>,
    all: bool,
    lost: bool,
}

impl Inotify {
    /// Begins to watch; what changes from here on is told.
    pub(super) fn new(path: &Path) -> Result<Self, String> {
        let failed = |error: notify::Error| format!("{}: {error}", path.display());
        if !path.is_dir() {
            return Err(format!("{} is not a directory", path.display()));
        }
        let pending = Arc::new(Pending::default());
        let (collector, root) = (Arc::clone(&pending), path.to_owned());
        let handler = move |event| {
            collect(&mut collector.changes.lock(), &root, event);
            collector.some.notify_one();
        };
        let mut watcher = INotifyWatcher::new(handler, Config::default()).map_err(failed)?;
        watcher.watch(path, RecursiveMode::NonRecursive).map_err(failed)?;
        Ok(Self { pending, _watcher: watcher })
    }

    /// Waits for a change. `unreadable`: files that could not be opened, for which a new mode
    /// matters. Cancel safe.
    pub(super) async fn next(&mut self, unreadable: impl Fn(&str) -> bool) -> Changes {
        loop {
            let Collected { mut whole, touched, all, lost } =
                mem::take(&mut *self.pending.changes.lock());
            whole.extend(touched.into_iter().filter(|name| unreadable(name)));
            if lost {
                return Changes::Lost;
            }
            if all {
                return Changes::All;
            }
            if !whole.is_empty() {
                return Changes::Files(whole);
            }
            self.pending.some.notified().await;
        }
    }
}

fn collect(changes: &mut Collected, root: &Path, event: notify::Result<Event>) {
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(folder = %root.display(), %error, "inotify failed; reading the folder anew");
            changes.all = true;
            return;
        }
    };
    if event.need_rescan() {
        changes.all = true;
    }
    for path in &event.paths {
        if path == root {
            // The folder's own mode and the like say nothing of its files.
            changes.lost |=
                matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
            continue;
        }
        let Some(name) = name_in(root, path) else { continue };
        if name.starts_with("..") {
            // `..data`: what a mounted ConfigMap's files are links into, exchanged by rename.
            changes.all = true;
        } else if is_ours(name) {
            match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Remove(_) => {
                    changes.whole.insert(name.to_owned());
                }
                EventKind::Create(_) if is_link(path) => {
                    changes.whole.insert(name.to_owned());
                }
                EventKind::Modify(ModifyKind::Metadata(_)) => {
                    changes.touched.insert(name.to_owned());
                }
                _ => {}
            }
        }
    }
}

fn name_in<'a>(root: &Path, path: &'a Path) -> Option<&'a str> {
    (path.parent() == Some(root)).then(|| path.file_name()?.to_str()).flatten()
}

/// A symbolic or a further hard link is whole as it appears; a new file is not, until it is closed.
fn is_link(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}
