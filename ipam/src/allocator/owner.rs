//! Whose node name it is. The store keeps, for each name, the random id of the instance that owns
//! it; every transaction compares that record's revision, so whoever lost it can change nothing.

use crate::error::Error;
use crate::model::{self, NodeOwner};
use crate::store::{Entry, Outcome, Revision, Store, Txn};
use crate::timestamp::Timestamp;

use super::state::random_id;

/// This process's claim to its node's name.
#[derive(Debug)]
pub(crate) struct Ownership {
    node: String,
    instance: String,
    /// Tells two processes with the same instance id apart: the last one to start wins.
    process: String,
    /// The record's revision while it is ours.
    pub(crate) revision: Option<Revision>,
    /// True once it was ours: losing it then is final.
    held: bool,
    /// True once it was seen to be another's.
    taken: bool,
    /// It is to be written anew.
    renew: bool,
    /// It was ours when last seen, and the store was restored since: what it says is old.
    set_back: bool,
}

impl Ownership {
    pub(crate) fn new(node: &str, instance: &str) -> Self {
        Self {
            node: node.to_owned(),
            instance: instance.to_owned(),
            process: random_id(),
            revision: None,
            held: false,
            taken: false,
            renew: false,
            set_back: false,
        }
    }

    /// Makes the name ours, if nobody else has it.
    ///
    /// # Errors
    /// The store, a record that cannot be read, or [`Error::NodeTaken`].
    pub(crate) async fn acquire(
        &mut self,
        store: &dyn Store,
        now: Timestamp,
    ) -> Result<Revision, Error> {
        if let Some(revision) = self.revision {
            return Ok(revision);
        }
        let key = model::node_key(&self.node);
        let snapshot = store.read(std::slice::from_ref(&key)).await?;
        let mut found = snapshot.entries.into_iter().next();
        loop {
            let judged = self.judge(&key, found.as_ref());
            self.taken |= matches!(judged, Err(Error::NodeTaken { .. }));
            if let Some(revision) = judged? {
                return Ok(self.is_ours(revision));
            }
            let record = self.record(now);
            let txn = Txn::default()
                .when(key.clone(), found.as_ref().map_or(0, |entry| entry.mod_revision))
                .put(key.clone(), model::encode(&record));
            match store.txn(txn).await? {
                Outcome::Committed(revision) => return Ok(self.is_ours(revision)),
                Outcome::Conflict(now_there) => found = now_there.into_iter().next().flatten(),
            }
        }
    }

    /// The record is written anew before anything else is done under it: no transaction that was
    /// sent before, and may still be on its way, is done after that.
    pub(crate) fn renew(&mut self) {
        self.revision = None;
        self.renew = true;
    }

    /// The store was restored from an older copy: whose the record was then does not matter if it
    /// was this process's when last seen.
    pub(crate) fn set_back(&mut self) {
        self.revision = None;
        self.set_back = self.held && !self.taken;
    }

    /// What the record holds.
    pub(crate) fn record(&self, now: Timestamp) -> NodeOwner {
        NodeOwner {
            instance: self.instance.clone(),
            process: self.process.clone(),
            since: now.whole_seconds(),
        }
    }

    /// Forgets the revision: somebody changed the record.
    pub(crate) fn lose(&mut self) {
        self.revision = None;
    }

    /// The record was written, or found, under this revision.
    pub(crate) fn is_ours(&mut self, revision: Revision) -> Revision {
        self.revision = Some(revision);
        (self.held, self.renew, self.set_back) = (true, false, false);
        self.taken = false;
        revision
    }

    /// The revision if the record is ours already, None if we may write it.
    fn judge(&self, key: &str, found: Option<&Entry>) -> Result<Option<Revision>, Error> {
        let Some(entry) = found.filter(|_| !self.set_back) else { return Ok(None) };
        let record: NodeOwner = model::decode(key, &entry.value)?;
        let same = record.instance == self.instance;
        if same && record.process == self.process {
            return Ok((!self.renew).then_some(entry.mod_revision));
        }
        if same && !self.held {
            return Ok(None);
        }
        Err(Error::NodeTaken {
            node: self.node.clone(),
            key: key.to_owned(),
            holder: if same {
                format!("{} again, in a younger process", record.instance)
            } else {
                record.instance
            },
            since: record.since.to_string(),
        })
    }
}
