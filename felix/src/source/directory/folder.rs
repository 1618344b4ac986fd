//! What the files of a folder say together. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use crate::model::{Kind, Object, ObjectKey, Update};
use crate::source::known::Known;

/// Names an object of any kind.
pub(super) type Id = (Kind, ObjectKey);

/// A file as it was read.
#[derive(Debug)]
pub(super) enum Content {
    /// It is not there.
    Gone,
    /// It is there but could not be read.
    Unreadable(String),
    /// Its documents.
    Read {
        /// Those that are good, each with its line.
        objects: Vec<(u64, Object)>,
        /// What is wrong with the others, each with its line, 0 for the file as a whole.
        errors: Vec<(u64, String)>,
        /// What was taken as absent of the good ones, each with its line.
        warnings: Vec<(u64, String)>,
    },
}

#[derive(Default)]
pub(super) struct Folder {
    files: BTreeMap<String, File>,
    /// The files that have an object, the first of which is in force.
    holders: BTreeMap<Id, BTreeSet<String>>,
    known: HashMap<Kind, Known>,
}

#[derive(Default)]
struct File {
    objects: BTreeMap<Id, (u64, Object)>,
    problems: Vec<(u64, String)>,
    unreadable: bool,
}

impl Folder {
    /// All files that have been put and are not gone.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.files.keys()
    }

    pub(super) fn is_unreadable(&self, name: &str) -> bool {
        self.files.get(name).is_some_and(|file| file.unreadable)
    }

    /// Takes a file in; returns the objects that it has, or had before.
    pub(super) fn put(&mut self, name: &str, content: Content) -> BTreeSet<Id> {
        let (objects, errors, warnings) = match content {
            Content::Gone => {
                let before = self.files.remove(name).unwrap_or_default();
                return self.exchange(name, &before.objects, &BTreeMap::new());
            }
            Content::Unreadable(reason) => {
                let file = self.files.entry(name.to_owned()).or_default();
                file.unreadable = true;
                file.problems = vec![(0, reason)];
                return BTreeSet::new();
            }
            Content::Read { objects, errors, warnings } => (objects, errors, warnings),
        };
        let file = self.files.entry(name.to_owned()).or_default();
        file.unreadable = false;
        file.problems = errors;
        if !file.problems.is_empty() && !file.objects.is_empty() {
            file.problems.push((0, "the file's last good content stays in force".into()));
            return BTreeSet::new();
        }
        file.problems.extend(warnings);
        let mut after = BTreeMap::new();
        for (line, object) in objects {
            let id = (object.kind(), object.key());
            match after.get(&id) {
                None => {
                    after.insert(id, (line, object));
                }
                Some((first, _)) => {
                    let text = format!(
                        "{} {} is in the file twice; the one of line {first} counts",
                        id.0, id.1
                    );
                    file.problems.push((line, text));
                }
            }
        }
        let before = std::mem::take(&mut file.objects);
        let changed = self.exchange(name, &before, &after);
        if let Some(file) = self.files.get_mut(name) {
            file.objects = after;
        }
        changed
    }

    fn exchange(
        &mut self,
        name: &str,
        before: &BTreeMap<Id, (u64, Object)>,
        after: &BTreeMap<Id, (u64, Object)>,
    ) -> BTreeSet<Id> {
        for id in before.keys().filter(|id| !after.contains_key(id)) {
            if let Some(holders) = self.holders.get_mut(id) {
                holders.remove(name);
                if holders.is_empty() {
                    self.holders.remove(id);
                }
            }
        }
        for id in after.keys() {
            self.holders.entry(id.clone()).or_default().insert(name.to_owned());
        }
        before.keys().chain(after.keys()).cloned().collect()
    }

    /// What changes for the agent, now that these objects may differ: first what goes, then what
    /// comes, this in the order of [`Kind::ALL`] and that in the reverse.
    pub(super) fn settle(&mut self, changed: BTreeSet<Id>) -> Vec<Update> {
        let (mut removed, mut set) = (Vec::new(), Vec::new());
        for (kind, key) in changed {
            let known = self.known.entry(kind).or_insert_with(|| Known::new(kind));
            let id = (kind, key);
            let holder = self.holders.get(&id).and_then(BTreeSet::first);
            match holder.and_then(|name| self.files.get(name)?.objects.get(&id)) {
                Some((_, object)) => set.extend(known.set(object.clone())),
                None => removed.extend(known.remove(id.1)),
            }
        }
        let position = |update: &Update| {
            let kind = match update {
                Update::Set(object) => object.kind(),
                Update::Remove(kind, _) => *kind,
                Update::InSync => return None,
            };
            Kind::ALL.iter().position(|other| *other == kind)
        };
        removed.sort_by_key(|update| std::cmp::Reverse(position(update)));
        set.sort_by_key(position);
        removed.append(&mut set);
        removed
    }

    /// Objects in force, for each kind that there ever was.
    pub(super) fn count(&self) -> impl Iterator<Item = (Kind, usize)> {
        self.known.iter().map(|(kind, known)| (*kind, known.len()))
    }

    /// What is wrong, by the path of the file.
    pub(super) fn problems(&self, root: &Path) -> BTreeMap<String, String> {
        let mut problems: BTreeMap<&String, Vec<(u64, String)>> = BTreeMap::new();
        for (name, file) in self.files.iter().filter(|(_, file)| !file.problems.is_empty()) {
            problems.insert(name, file.problems.clone());
        }
        for ((kind, key), holders) in self.holders.iter().filter(|(_, holders)| holders.len() > 1) {
            let mut holders = holders.iter();
            let Some(first) = holders.next() else { continue };
            for name in holders {
                let id = (*kind, key.clone());
                let line = |name| {
                    self.files
                        .get(name)
                        .and_then(|file| file.objects.get(&id))
                        .map_or(0, |(line, _)| *line)
                };
                let text =
                    format!("{kind} {key} is already in {first}:{}, which counts", line(first));
                problems.entry(name).or_default().push((line(name), text));
            }
        }
        let text = |mut of_file: Vec<(u64, String)>| {
            // What concerns the file as a whole comes last.
            of_file.sort_by_key(|(line, _)| if *line == 0 { u64::MAX } else { *line });
            let texts: Vec<String> = of_file
                .into_iter()
                .map(|(line, text)| if line == 0 { text } else { format!("line {line}: {text}") })
                .collect();
            texts.join("; ")
        };
        problems
            .into_iter()
            .map(|(name, of_file)| (root.join(name).display().to_string(), text(of_file)))
            .collect()
    }
}
