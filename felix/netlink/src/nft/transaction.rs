//! One nf_tables transaction on one table: all of it takes effect, or none.

use super::set::{Element, Set};
use super::types::UserData;
use super::{BaseChain, Chain, FAMILY_HEADER, Family, Rule, SUBSYSTEM, Table, attr, msg, udata};
use crate::buffer::{self, Batch};
use crate::{Error, KernelError, Socket};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Attribute of the batch header: fail with `ERESTART` if the ruleset's generation is another.
const BATCH_GENERATION: u16 = 1;

/// What a message of a transaction is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The transaction itself: its start, its commit.
    Transaction,
    /// The table.
    Table,
    /// A chain, by name.
    Chain(String),
    /// A rule, by the name of its chain.
    Rule(String),
    /// A set or map, by name.
    Set(String),
    /// Elements of the set of this name; which one is told if the kernel told.
    Elements {
        /// The set's name.
        set: String,
        /// The tag that the refused element was added with.
        tag: Option<u32>,
    },
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Transaction => f.write_str("transaction"),
            Self::Table => f.write_str("table"),
            Self::Chain(name) => write!(f, "chain {name}"),
            Self::Rule(chain) => write!(f, "rule of chain {chain}"),
            Self::Set(name) => write!(f, "set {name}"),
            Self::Elements { set, .. } => write!(f, "elements of {set}"),
        }
    }
}

/// Why a transaction did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The kernel refused messages of it; all that it refused, never empty.
    #[error("{}", refusals(.0))]
    Refused(Vec<(Subject, KernelError)>),
    /// It was not executed, or whether it was is not known.
    #[error(transparent)]
    Failed(#[from] Error),
}

fn refusals(all: &[(Subject, KernelError)]) -> String {
    all.iter().map(|(what, why)| format!("{what}: {why}")).collect::<Vec<_>>().join("; ")
}

impl CommitError {
    /// Whether this is, or includes, error number `errno`.
    pub fn is(&self, errno: i32) -> bool {
        match self {
            Self::Refused(all) => all.iter().any(|(_, error)| error.is(errno)),
            Self::Failed(error) => error.is(errno),
        }
    }
}

/// A list of elements that is still open for more.
#[derive(Clone, Copy, Debug)]
struct OpenList {
    kind: u16,
    message: usize,
    nest: usize,
}

/// A transaction being written.
#[derive(Debug)]
pub struct Transaction {
    batch: Batch,
    family: Family,
    table: String,
    subjects: Vec<Subject>,
    /// Where in the batch each element starts, and its tag.
    elements: Vec<(u32, u32)>,
    list: Option<OpenList>,
}

impl Transaction {
    /// An empty transaction on a table.
    pub fn new(family: Family, table: &str) -> Self {
        let mut batch = Batch::new();
        batch.message(BATCH_BEGIN, 0, batch_header);
        Self {
            batch,
            family,
            table: table.into(),
            subjects: vec![Subject::Transaction],
            elements: Vec::new(),
            list: None,
        }
    }

    /// Only takes effect if the ruleset's generation still is this one (else `ERESTART`).
    #[must_use]
    pub fn at_generation(mut self, generation: u32) -> Self {
        self.batch.clear();
        self.batch.message(BATCH_BEGIN, 0, |batch| {
            batch_header(batch);
            batch.be32(BATCH_GENERATION, generation);
        });
        self
    }

    /// Whether it would do nothing.
    pub fn is_empty(&self) -> bool {
        self.batch.len() <= 1
    }

    /// Size in bytes, so far.
    pub fn size(&self) -> usize {
        self.batch.size()
    }

    fn message(&mut self, kind: u16, flags: u16, subject: Subject, fill: impl FnOnce(&mut Batch)) {
        self.close_list();
        let message = self.open(kind, flags, subject);
        fill(&mut self.batch);
        self.batch.close(message);
    }

    fn open(&mut self, kind: u16, flags: u16, subject: Subject) -> usize {
        let message = self.batch.open(SUBSYSTEM | kind, flags);
        self.subjects.push(subject);
        self.batch.put(&family_header(self.family));
        self.batch.str(attr::TABLE, &self.table);
        message
    }

    fn close_list(&mut self) {
        if let Some(list) = self.list.take() {
            self.batch.close_nest(list.nest);
            self.batch.close(list.message);
        }
    }

    /// Creates the table, or adopts it where it exists, is owned by nobody and has the same flags.
    pub fn add_table(&mut self, flags: u32, comment: Option<&str>) {
        self.message(msg::NEW_TABLE, buffer::CREATE, Subject::Table, |batch| {
            batch.be32(attr::TABLE_FLAGS, flags);
            let mut user_data = UserData::default();
            if let Some(comment) = comment {
                user_data.comment(udata::COMMENT, comment);
            }
            user_data.write(batch, attr::TABLE_USERDATA);
        });
    }

    /// Deletes the table with all that is in it.
    pub fn delete_table(&mut self) {
        self.message(msg::DEL_TABLE, 0, Subject::Table, |_| {});
    }

    /// Creates a chain, without its rules.
    pub fn add_chain(&mut self, chain: &Chain) {
        let subject = Subject::Chain(chain.name.clone());
        self.message(msg::NEW_CHAIN, buffer::CREATE, subject, |batch| {
            batch.str(attr::CHAIN_NAME, &chain.name);
            let Some(BaseChain { kind, hook, priority, accept }) = &chain.base else { return };
            batch.nest(attr::CHAIN_HOOK, |batch| {
                batch.be32(attr::HOOK_NUMBER, hook.number());
                batch.attr(attr::HOOK_PRIORITY, &priority.to_be_bytes());
            });
            batch.be32(attr::CHAIN_POLICY, u32::from(*accept));
            batch.str(attr::CHAIN_TYPE, kind);
        });
    }

    /// Deletes a chain, which no rule or element may refer to any more.
    pub fn delete_chain(&mut self, name: &str) {
        self.message(msg::DEL_CHAIN, 0, Subject::Chain(name.into()), |batch| {
            batch.str(attr::CHAIN_NAME, name);
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        self.message(msg::DEL_RULE, 0, Subject::Chain(name.into()), |batch| {
            batch.str(attr::RULE_CHAIN, name);
        });
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, chain: &str, rule: &Rule) {
        let flags = buffer::CREATE | buffer::APPEND;
        self.message(msg::NEW_RULE, flags, Subject::Rule(chain.into()), |batch| {
            batch.str(attr::RULE_CHAIN, chain);
            batch.nest(attr::RULE_EXPRESSIONS, |batch| {
                for expr in &rule.exprs {
                    expr.encode(batch);
                }
            });
            let mut user_data = UserData::default();
            if let Some(comment) = &rule.comment {
                user_data.comment(udata::COMMENT, comment);
            }
            user_data.write(batch, attr::RULE_USERDATA);
        });
    }

    /// Creates a set or map.
    pub fn add_set(&mut self, set: &Set) {
        #[allow(clippy::cast_possible_truncation, reason = "fewer sets than messages")]
        let id = self.subjects.len() as u32;
        let subject = Subject::Set(set.name.clone());
        self.message(msg::NEW_SET, buffer::CREATE, subject, |batch| set.encode(batch, id));
    }

    /// Deletes a set or map, which no rule may refer to any more.
    pub fn delete_set(&mut self, name: &str) {
        self.message(msg::DEL_SET, 0, Subject::Set(name.into()), |batch| {
            batch.str(attr::SET_NAME, name);
        });
    }

    /// Adds an element. Should the kernel refuse it, [`Subject::Elements`] carries the tag.
    pub fn add_element(&mut self, set: &str, element: &Element<'_>, tag: u32) {
        self.element(msg::NEW_ELEMENTS, buffer::CREATE, set, element, tag);
    }

    /// Deletes an element, which has to exist.
    pub fn delete_element(&mut self, set: &str, element: &Element<'_>, tag: u32) {
        self.element(msg::DEL_ELEMENTS, 0, set, element, tag);
    }

    /// A list of elements is one attribute, so at most 64 KiB: longer ones go into several messages.
    fn element(&mut self, kind: u16, flags: u16, set: &str, element: &Element<'_>, tag: u32) {
        let fits = self.list.is_some_and(|list| {
            list.kind == kind
                && self.batch.size() - list.nest < buffer::NEST_FULL
                && matches!(self.subjects.last(), Some(Subject::Elements { set: open, .. }) if open == set)
        });
        if !fits {
            self.close_list();
            let subject = Subject::Elements { set: set.into(), tag: None };
            let message = self.open(kind, flags, subject);
            self.batch.str(attr::ELEMENTS_SET, set);
            let nest = self.batch.open_nest(attr::ELEMENTS_LIST);
            self.list = Some(OpenList { kind, message, nest });
        }
        #[allow(clippy::cast_possible_truncation, reason = "a batch beyond 4 GiB is not sent")]
        self.elements.push((self.batch.size() as u32, tag));
        element.encode(&mut self.batch);
    }

    /// Sends it. Once this returns `Ok`, the kernel does as it says; after `Err` nothing changed,
    /// unless the error is [`Error::Overrun`] or [`Error::Timeout`]: then it is not known.
    pub fn commit(mut self, socket: &mut Socket) -> Result<(), CommitError> {
        if self.is_empty() {
            return Ok(());
        }
        let (batch, last) = self.finish();
        let failures = socket.execute_transaction(batch, last)?;
        if failures.is_empty() {
            return Ok(());
        }
        Err(CommitError::Refused(
            failures
                .into_iter()
                .map(|failure| (self.subject(failure.index, failure.error.offset), failure.error))
                .collect(),
        ))
    }

    /// The complete batch, and the message whose answer ends it.
    pub fn finish(&mut self) -> (&mut Batch, usize) {
        self.close_list();
        let last = self.batch.len() - 1;
        self.batch.message(BATCH_END, 0, batch_header);
        (&mut self.batch, last)
    }

    fn subject(&self, message: usize, offset: Option<u32>) -> Subject {
        let mut subject = self.subjects.get(message).cloned().unwrap_or(Subject::Transaction);
        if let (Subject::Elements { tag, .. }, Some(start), Some(offset)) =
            (&mut subject, self.batch.start(message), offset)
        {
            let at = start as u64 + u64::from(offset);
            // The kernel tells the element, or an attribute inside it.
            let after = self.elements.partition_point(|(start, _)| u64::from(*start) <= at);
            let in_message =
                after.checked_sub(1).map(|i| self.elements[i]).filter(|e| e.0 as usize >= start);
            *tag = in_message.map(|(_, tag)| tag);
        }
        subject
    }
}

/// `struct nfgenmsg` of a table's message.
pub(super) fn family_header(family: Family) -> [u8; FAMILY_HEADER] {
    [family.number(), 0, 0, 0]
}

/// `struct nfgenmsg` of a batch's first and last message: the subsystem, in network byte order.
fn batch_header(batch: &mut Batch) {
    batch.put(&[0, 0, 0, (SUBSYSTEM >> 8) as u8]);
}

impl Table {
    /// Whether the kernel lets nobody but its owner change the table, and keeps it when the owner
    /// is gone.
    pub fn is_owned_and_persistent(&self) -> bool {
        use super::table_flags::{OWNER, PERSIST};
        self.flags & (OWNER | PERSIST) == OWNER | PERSIST
    }
}
