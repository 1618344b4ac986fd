//! The kernel's side of the table.

use netlink::nft::{
    self, Chain, CommitError, Element, Rule, Ruleset, Table, Transaction, table_flags,
};
use netlink::{Protocol, Socket};

use super::super::elements::Raw;
use super::super::layout::{ANSWERS, FAMILY, Queue, TABLE};

/// The kernel's side, so that tests can fail any call of it.
pub(in super::super) trait Channel {
    /// Sends a transaction.
    fn commit(&mut self, tx: Transaction) -> Result<(), CommitError>;
    /// The table, if there is one.
    fn table(&mut self) -> netlink::Result<Option<Table>>;
    /// The table's chains and sets.
    fn ruleset(&mut self) -> netlink::Result<Ruleset>;
    /// The elements of a set.
    fn elements(&mut self, set: &str) -> netlink::Result<Vec<Raw>>;
    /// The element of a key, or of the range that begins with it.
    fn element(&mut self, set: &str, element: &Element<'_>) -> netlink::Result<Option<Raw>>;
    /// The ruleset's generation.
    fn generation(&mut self) -> netlink::Result<u32>;
    /// What the kernel calls this side when it tells who owns a table.
    fn port(&self) -> u32;
}

impl Channel for Socket {
    fn commit(&mut self, tx: Transaction) -> Result<(), CommitError> {
        tx.commit(self)
    }

    fn table(&mut self) -> netlink::Result<Option<Table>> {
        nft::table(self, FAMILY, TABLE)
    }

    fn ruleset(&mut self) -> netlink::Result<Ruleset> {
        nft::ruleset(self, FAMILY, TABLE)
    }

    fn elements(&mut self, set: &str) -> netlink::Result<Vec<Raw>> {
        nft::elements(self, FAMILY, TABLE, set, |element| Some(Raw::new(element)))
    }

    fn element(&mut self, set: &str, element: &Element<'_>) -> netlink::Result<Option<Raw>> {
        nft::element(self, FAMILY, TABLE, set, element, |element| Some(Raw::new(element)))
    }

    fn generation(&mut self) -> netlink::Result<u32> {
        nft::generation(self)
    }

    fn port(&self) -> u32 {
        Self::port(self)
    }
}

/// Whether the kernel can give a table an owner that it outlives, found out in a namespace made
/// for it.
pub(in super::super) fn ownership() -> bool {
    let probe = || {
        let mut socket = Socket::open(Protocol::Netfilter).ok()?;
        let mut tx = Transaction::new(FAMILY, TABLE);
        tx.add_table(OWNED, None);
        tx.commit(&mut socket).ok()
    };
    netlink::netns::Netns::create()
        .and_then(|netns| netns.run(probe))
        .is_ok_and(|result| result.is_some())
}

/// How a rule can hand packets to user space here.
pub(in super::super) fn queue() -> Queue {
    if takes(&Rule::new().queue(ANSWERS)) {
        Queue::Expression
    } else if takes(&Rule::new().queue_by_target(ANSWERS)) {
        Queue::Target
    } else {
        Queue::Missing
    }
}

/// Whether rules can reject packets here.
pub(in super::super) fn rejects() -> bool {
    takes(&Rule::new().reject())
}

/// Whether the kernel takes a rule, found out in a namespace made for it.
fn takes(rule: &Rule) -> bool {
    let probe = || {
        let mut socket = Socket::open(Protocol::Netfilter).ok()?;
        let mut tx = Transaction::new(FAMILY, TABLE);
        tx.add_table(0, None);
        tx.add_chain(&Chain { name: "probe".into(), base: None, rules: Vec::new() });
        tx.add_rule("probe", rule);
        tx.commit(&mut socket).ok()
    };
    netlink::netns::Netns::create()
        .and_then(|netns| netns.run(probe))
        .is_ok_and(|result| result.is_some())
}

/// Reads all notifications; whether one says that another program changed the table, or may have.
pub(in super::super) fn others_changed(monitor: &mut Socket) -> bool {
    let mut changed = false;
    loop {
        match monitor.receive() {
            Ok(None) => return changed,
            Ok(Some(mut messages)) => {
                changed |= messages
                    .any(|message| nft::event(&message, FAMILY, TABLE) == nft::Event::Changed);
            }
            Err(netlink::Error::Overrun) => changed = true,
            Err(_) => return true,
        }
    }
}

/// The flags of a table that outlives the agent that owns it.
pub(super) const OWNED: u32 = table_flags::OWNER | table_flags::PERSIST;
