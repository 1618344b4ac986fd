//! Atoms: the questions about an address that active policies ask. A policy is active while it
//! applies to an endpoint of this node.

use std::sync::Arc;

use api::selector::Selector;
use rustc_hash::FxHashMap;

use super::policy::Networks;
use super::stable_hash::StableHasher;
use crate::model::ObjectKey;
use crate::names::DomainNames;

/// Names one question. Made from the question itself: a restarted agent, or one that heard of the
/// same policies in another order, calls it the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct AtomId(u32);

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// Is it the address of an endpoint that this selects?
    Selector(Selector),
    /// Does it lie in these networks?
    Networks(Networks),
    /// Is it an address of a node that this selects?
    Nodes(Selector),
    /// Which number does the pod give the port of this name?
    NamedPort {
        /// `containerPort.name`.
        name: Arc<str>,
        /// IP protocol number.
        protocol: u8,
    },
    /// Is it the address of an endpoint of this Service?
    Service(ObjectKey),
    /// By which numbers has the Service ports of the protocol there?
    ServicePort {
        /// Namespace and name.
        service: ObjectKey,
        /// IP protocol number.
        protocol: u8,
    },
    /// Is it the address of an endpoint whose namespace is not known yet?
    NamespaceUnknown,
    /// Does one of these names stand for it? Each endpoint has its own answer.
    Names(DomainNames),
}

/// A question that an address answers with yes; for a port, with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Atom(u64);

impl Atom {
    /// Yes.
    pub(super) fn yes(id: AtomId) -> Self {
        Self::port(id, 0)
    }

    /// The number of a port.
    pub(super) fn port(id: AtomId, port: u16) -> Self {
        Self(u64::from(id.0) << 16 | u64::from(port))
    }

    /// The question.
    #[expect(clippy::cast_possible_truncation, reason = "the upper 48 bits were made from a u32")]
    pub(super) fn id(self) -> AtomId {
        AtomId((self.0 >> 16) as u32)
    }

    /// For hashing; the same on every machine.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// The number of a port, 0 for the other questions.
    pub(super) fn port_number(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

/// The answers to one question, of an ascending list.
pub(super) fn answers(atoms: &[Atom], id: AtomId) -> &[Atom] {
    let from = atoms.partition_point(|atom| atom.id() < id);
    let count = atoms[from..].partition_point(|atom| atom.id() == id);
    &atoms[from..from + count]
}

#[derive(Clone, Debug)]
struct Entry {
    question: Question,
    /// How many rules of active policies ask it.
    users: u32,
    active: bool,
}

/// The questions in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Atoms {
    by_question: FxHashMap<Question, AtomId>,
    entries: FxHashMap<AtomId, Entry>,
    touched: Vec<AtomId>,
}

/// Which questions began and ceased to be asked.
#[derive(Debug, Default)]
pub(super) struct AtomChanges {
    pub(super) activated: Vec<(AtomId, Question)>,
    pub(super) deactivated: Vec<(AtomId, Question)>,
}

impl Atoms {
    /// One more user of a question.
    pub(super) fn acquire(&mut self, question: &Question) -> AtomId {
        let id = match self.by_question.get(question) {
            Some(id) => *id,
            None => {
                let id = self.name(question);
                self.by_question.insert(question.clone(), id);
                let entry = Entry { question: question.clone(), users: 0, active: false };
                self.entries.insert(id, entry);
                id
            }
        };
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.users += 1;
            if !entry.active {
                self.touched.push(id);
            }
        }
        id
    }

    /// The question's hash; if another question has the same, the next number that is free.
    fn name(&self, question: &Question) -> AtomId {
        let mut hasher = StableHasher::default();
        match question {
            Question::Selector(selector) => hasher.write(selector.to_string().as_bytes()),
            Question::Networks(networks) => hasher.write(format!("{networks:?}").as_bytes()),
            Question::Nodes(selector) => {
                hasher.write(selector.to_string().as_bytes());
                hasher.write(b" nodes");
            }
            Question::NamedPort { name, protocol } => {
                hasher.write(name.as_bytes());
                hasher.write(&[0, *protocol]);
            }
            Question::Service(service) => {
                hasher.write(service.to_string().as_bytes());
                hasher.write(b" service");
            }
            Question::ServicePort { service, protocol } => {
                hasher.write(service.to_string().as_bytes());
                hasher.write(&[1, *protocol]);
            }
            Question::NamespaceUnknown => hasher.write(b"namespace unknown"),
            Question::Names(names) => {
                hasher.write(names.to_string().as_bytes());
                hasher.write(b" names");
            }
        }
        let mut number = hasher.finish();
        while self.entries.contains_key(&AtomId(number)) {
            number = number.wrapping_add(1);
        }
        AtomId(number)
    }

    /// One user less.
    pub(super) fn release(&mut self, id: AtomId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.users -= 1;
            if entry.users == 0 {
                self.touched.push(id);
            }
        }
    }

    /// What changed since the last call, in ascending order.
    pub(super) fn take_changes(&mut self) -> AtomChanges {
        let mut changes = AtomChanges::default();
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for id in touched {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let asked = entry.users > 0;
            if asked && !entry.active {
                entry.active = true;
                changes.activated.push((id, entry.question.clone()));
            } else if !asked && let Some(entry) = self.entries.remove(&id) {
                self.by_question.remove(&entry.question);
                if entry.active {
                    changes.deactivated.push((id, entry.question));
                }
            }
        }
        changes
    }

    /// What a number stands for.
    pub(super) fn question(&self, id: AtomId) -> Option<&Question> {
        self.entries.get(&id).map(|entry| &entry.question)
    }

    /// How many questions are asked.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
