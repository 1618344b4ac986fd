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
    Read(Documents),
}

/// The documents of a file, each with its line.
#[derive(Debug, Default)]
pub(super) struct Documents {
    /// Those that are good.
    pub(super) objects: Vec<(u64, Object)>,
    /// What is wrong with the others.
    pub(super) errors: Vec<(u64, String)>,
    /// For each policy among the others one that allows nothing in its place.
    pub(super) closed: Vec<(u64, Object)>,
    /// What was taken as absent of the good ones.
    pub(super) warnings: Vec<(u64, String)>,
}

#[derive(Default)]
pub(super) struct Folder {
    files: BTreeMap<String, File>,
    /// The files that have an object; see [`holder`] for which of them counts.
    holders: BTreeMap<Id, BTreeSet<String>>,
    known: HashMap<Kind, Known>,
}

#[derive(Default)]
struct File {
    objects: BTreeMap<Id, (u64, Object)>,
    /// Those of the objects that stand in for policies which never were good.
    closed: BTreeSet<Id>,
    /// Each with its line, 0 for the file as a whole.
    problems: Vec<(u64, String)>,
    unreadable: bool,
}

impl File {
    /// Takes in what was read. If some of it is wrong, all that was good before stays as it was;
    /// what never was good may change.
    fn take(&mut self, documents: Documents) {
        let Documents { objects, errors, closed, warnings } = documents;
        let is_good = errors.is_empty();
        self.unreadable = false;
        self.problems = errors;
        let was_good = self.objects.len() > self.closed.len();
        if !is_good && was_good {
            self.problems.push((0, "the file's last good content stays in force".into()));
        } else {
            self.problems.extend(warnings);
        }
        let objects = self.distinct(objects);
        if is_good {
            self.objects = objects;
            self.closed.clear();
            return;
        }
        for (id, object) in objects {
            if !was_good || self.closed.contains(&id) {
                self.closed.remove(&id);
                self.objects.insert(id, object);
            }
        }
        for (line, object) in closed {
            let id = (object.kind(), object.key());
            if self.closed.contains(&id) || !self.objects.contains_key(&id) {
                self.objects.insert(id.clone(), (line, object));
                self.closed.insert(id);
            }
        }
        for id in &self.closed {
            let text = format!("{} {} allows nothing until it is right", id.0, id.1);
            self.problems.push((0, text));
        }
    }

    /// The objects by their names; that there are two of a name is a problem.
    fn distinct(&mut self, objects: Vec<(u64, Object)>) -> BTreeMap<Id, (u64, Object)> {
        let mut distinct = BTreeMap::new();
        for (line, object) in objects {
            let id = (object.kind(), object.key());
            match distinct.get(&id) {
                None => {
                    distinct.insert(id, (line, object));
                }
                Some((first, _)) => {
                    let text = format!(
                        "{} {} is in the file twice; the one of line {first} counts",
                        id.0, id.1
                    );
                    self.problems.push((line, text));
                }
            }
        }
        distinct
    }
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
        let documents = match content {
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
            Content::Read(documents) => documents,
        };
        let file = self.files.entry(name.to_owned()).or_default();
        let before = file.objects.clone();
        file.take(documents);
        let after = file.objects.clone();
        self.exchange(name, &before, &after)
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
            let holder = holder(&self.holders, &self.files, &id);
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
            let id = (*kind, key.clone());
            let Some(first) = holder(&self.holders, &self.files, &id) else { continue };
            for name in holders.iter().filter(|name| *name != first) {
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

/// The file whose object is in force: the first that has it, and only where none has a good one the
/// first that has a stand-in.
fn holder<'a>(
    holders: &'a BTreeMap<Id, BTreeSet<String>>,
    files: &BTreeMap<String, File>,
    id: &Id,
) -> Option<&'a String> {
    let holders = holders.get(id)?;
    let is_good = |name: &&String| files.get(*name).is_some_and(|file| !file.closed.contains(id));
    holders.iter().find(is_good).or_else(|| holders.first())
}
