//! From what is wanted to what is there: the transactions, and what becomes of those that fail.

use netlink::nft::{Chain, CommitError, Subject, Transaction};

use super::structure::add_rules;
use super::{BRIEF, Channel, HostParts, Step, WALKED, Writer};
use crate::kernel::layout::host::Hosts;
use crate::kernel::layout::{self, FAMILY, TABLE};
use crate::kernel::{Error, elements};
use crate::model::Key;

/// How often a transaction is tried: once as it is, then after reading what the kernel has, then
/// each time without the elements that it refused by name, of which it names one in each message.
const ATTEMPTS: usize = 64;
/// So many changes are kept room for.
const KEPT: usize = 1024;

/// How an attempt at a transaction failed.
#[derive(Debug)]
enum Failure {
    /// Sent from memory: the kernel may have something else.
    Unread(Error),
    /// Sent after reading what the kernel has.
    Read(Error),
    /// Trying again does not help.
    Final(Error),
}

impl<C: Channel> Writer<C> {
    /// Makes the kernel have what is wanted, in one transaction. Elements that the kernel refuses
    /// by name are left out ([`Writer::accepted`]), the others are written all the same.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.arrange();
        let mut result = self.attempt();
        for _ in 1..ATTEMPTS {
            let rejected = self.rejected.len();
            // What is not known is read, and tried again: once, and then as long as there are
            // elements to leave out.
            let again = match &result {
                Ok(()) | Err(Failure::Final(_)) => false,
                Err(Failure::Unread(_)) => true,
                Err(Failure::Read(_)) => rejected > self.left_out,
            };
            if !again {
                break;
            }
            self.left_out = rejected;
            result = self.attempt();
        }
        self.left_out = self.rejected.len();
        let result = result.map_err(|failure| match failure {
            Failure::Unread(error) | Failure::Read(error) | Failure::Final(error) => error,
        });
        self.last_error = result.as_ref().err().map(Error::to_string);
        result
    }

    /// As [`Writer::flush`], if that is short: a few elements, written from memory. False if it is not,
    /// or if the kernel refused it; then it is still to be flushed.
    pub(super) fn flush_briefly(&mut self) -> bool {
        if self.last_error.is_some() || self.dirty.len() > BRIEF {
            return false;
        }
        self.arrange();
        let brief = !self.rebuilds()
            && !self.is_walked()
            && !self.counting_ends()
            && self.attempt().is_ok();
        if brief {
            self.left_out = self.rejected.len();
        }
        brief
    }

    /// Has each key only once among those that may differ, and those of a set side by side, so that their
    /// elements are one list.
    fn arrange(&mut self) {
        // As a rule they have come in order, which is found out in one pass.
        self.dirty.sort_unstable();
        self.dirty.dedup();
    }

    /// Whether the kernel will look through all verdicts that there are, and these are many.
    fn is_walked(&self) -> bool {
        self.programmed.len() > WALKED
            && self.dirty.iter().any(|(_, key)| {
                let after = self.target(key).filter(elements::leads_to_chain);
                after.is_some() && self.differs(key, self.programmed.get(key), after.as_ref())
            })
    }

    /// Whether the next transaction begins with reading what the kernel has. Chains that come or go are
    /// written as at start: that is rare.
    fn rebuilds(&self) -> bool {
        !(self.known && self.built) || self.hosts_change() || self.asking_changes()
    }

    fn attempt(&mut self) -> Result<(), Failure> {
        let mut tx = Transaction::new(FAMILY, TABLE);
        let fresh = self.rebuilds();
        let steps = if !fresh {
            self.update(&mut tx)
        } else {
            let found = self.read().map_err(Failure::Final)?;
            self.structure(&found, &mut tx)
        };
        if tx.is_empty() {
            self.known = true;
            self.built = true;
            self.doubted = false;
            self.settled();
            return Ok(());
        }
        let counted = self.counted_by_leaving(&steps);
        match self.channel.commit(tx) {
            Ok(()) => {
                self.counts.add(counted);
                self.transactions += 1;
                self.repairs += u64::from(fresh && self.doubted);
                self.doubted = false;
                self.built = true;
                self.known = true;
                self.committed(&steps);
                Ok(())
            }
            Err(error) => {
                self.known = false;
                self.doubted |= self.built;
                self.refused += 1;
                if error.is(libc::EPERM) {
                    return Err(Failure::Final(Error::Held { port: None }));
                }
                // The first refusal may be due to what another program did. If it comes again
                // after reading, it is about the elements themselves.
                if fresh && let CommitError::Refused(all) = &error {
                    for (subject, why) in all {
                        if let Subject::Elements { tag: Some(tag), .. } = subject
                            && let Some(step) = steps.get(*tag as usize)
                        {
                            self.rejected.insert(step.key, why.to_string());
                        }
                    }
                }
                let error = Error::Kernel(format!("table inet {TABLE}: {error}"));
                Err(if fresh { Failure::Read(error) } else { Failure::Unread(error) })
            }
        }
    }

    pub(super) fn committed(&mut self, steps: &[Step]) {
        for Step { key, before, after } in steps {
            match after {
                Some(value) => self.programmed.insert(*key, *value),
                None => self.programmed.remove(key),
            };
            self.comments.committed(key, after.as_ref());
            if matches!(key, Key::Masquerade(_)) {
                self.masquerading -= usize::from(before.is_some());
                self.masquerading += usize::from(after.is_some());
            }
            if matches!(key, Key::Asks(_)) {
                self.asking -= usize::from(before.is_some());
                self.asking += usize::from(after.is_some());
            }
            self.hosts.note(key, before.is_some(), after.is_some());
        }
        self.settled();
    }

    /// Nothing differs any more. What was much at once does not come again.
    fn settled(&mut self) {
        self.dirty.clear();
        self.dirty.shrink_to(KEPT);
    }

    /// The transaction in which only elements changed.
    fn update(&mut self, tx: &mut Transaction) -> Vec<Step> {
        let dirty = std::mem::take(&mut self.dirty);
        let steps = self.steps(&dirty);
        self.dirty = dirty;
        let masquerading = self.masquerading_after(&steps);
        if masquerading && self.masquerading == 0 {
            let nat = self.chains(Hosts::default(), true).pop();
            if let Some(chain) = nat {
                tx.add_chain(&chain);
                add_rules(tx, &chain);
            }
        } else if !masquerading && self.masquerading > 0 {
            tx.flush_chain(layout::MASQUERADE);
            tx.delete_chain(layout::MASQUERADE);
        }
        self.elements(&steps, tx);
        steps
    }

    fn masquerading_after(&self, steps: &[Step]) -> bool {
        let nat = || steps.iter().filter(|step| matches!(step.key, Key::Masquerade(_)));
        let removed = nat().filter(|step| step.before.is_some()).count();
        let added = nat().filter(|step| step.after.is_some()).count();
        self.masquerading + added > removed
    }

    pub(super) fn refuse_invalid(&mut self, keys: &[(u64, Key)]) {
        for (_, key) in keys {
            if let Some(value) = self.target(key)
                && let Err(why) = elements::check(key, &value)
            {
                self.rejected.insert(*key, why.into());
            }
        }
    }

    /// What is to be done for these keys to be as they should. What cannot be an element is refused, and
    /// what is there stays.
    pub(super) fn steps(&mut self, keys: &[(u64, Key)]) -> Vec<Step> {
        let mut steps = Vec::with_capacity(keys.len());
        for &(_, key) in keys {
            let before = self.programmed.get(&key).copied();
            let after = self.target(&key);
            if !self.differs(&key, before.as_ref(), after.as_ref()) {
                continue;
            }
            match after.map(|value| elements::check(&key, &value)) {
                Some(Err(why)) => drop(self.rejected.insert(key, why.into())),
                _ => steps.push(Step { key, before, after }),
            }
        }
        steps
    }

    /// Deletes and adds elements, deletes first: a changed value is both. Each is tagged with its
    /// place in `steps`.
    pub(super) fn elements(&self, steps: &[Step], tx: &mut Transaction) {
        for (step, tag) in steps.iter().zip(0..) {
            if step.before.is_some() {
                elements::encode(&step.key).delete(tx, tag);
            }
        }
        for (step, tag) in steps.iter().zip(0..) {
            if let Some(value) = &step.after {
                let comment = self.comments.beside(&step.key, value, &self.counts);
                elements::encode(&step.key).add(tx, value, comment.as_deref(), tag);
            }
        }
    }

    pub(super) fn chains(&self, hosts: Hosts, masquerade: bool) -> Vec<Chain> {
        layout::chains(&self.params, hosts, masquerade)
    }

    /// Whether the chain that hands over DNS answers comes or goes.
    fn asking_changes(&self) -> bool {
        let mut after = self.asking;
        let dirty = self.dirty.iter().map(|(_, key)| key);
        for key in dirty.filter(|key| matches!(key, Key::Asks(_))) {
            after += usize::from(self.target(key).is_some());
            // What is programmed was counted.
            after -= usize::from(self.programmed.contains_key(key));
        }
        (after > 0) != (self.asking > 0)
    }

    /// Whether what is to be written needs chains of host endpoints that are not there, or leaves
    /// some without use.
    fn hosts_change(&self) -> bool {
        let mut after = None;
        for (_, key) in self.dirty.iter().filter(|(_, key)| HostParts::concerns(key)) {
            let after = after.get_or_insert(self.hosts);
            // What is programmed was counted.
            after.note(key, self.programmed.contains_key(key), self.target(key).is_some());
        }
        after.is_some_and(|after| after.hosts() != self.hosts.hosts())
    }
}
