//! Giving back what a node held that Kubernetes has deleted.
//!
//! Any agent may do it for any node, and several at once: what one did is not there for the next.
//! An address is given back only if it was allocated before its node was proven gone:
//!
//! ```text
//!   1 challenge   the record that somebody owns the node's name is deleted. Its agent, if it
//!                 lives and reaches the store, takes the name again, and all ends here.
//!   2 read        what the node holds, some time later
//!   3 prove       Kubernetes is asked anew: it knows the asker's node, and not this one
//!   4 write       comparing everything that was read, and that nobody has taken the name
//! ```
//! Whatever changes between 2 and 4, a node that comes back or an address that is given anew, ends
//! the transaction, and all begins at 2 again. Times decide nothing but when to try. A node that
//! never was one of Kubernetes (nothing says so in the store) is left alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use ipnet::IpNet;

use crate::error::Error;
use crate::model::{self, NodeOwner, NodeUid};
use crate::net::Family;
use crate::store::{Entry, Outcome, Revision, Store, Txn};
use crate::timestamp::Timestamp;

mod estate;

use estate::Estate;

/// How often others may change what is being given back.
const ATTEMPTS: u32 = 100;

/// A node of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `metadata.uid`.
    pub uid: String,
    /// `status.nodeInfo.bootID`, by which its kubelet names the boot of its machine; None if no
    /// kubelet has said it.
    pub boot_id: Option<String>,
}

impl Identity {
    /// Whose node it is, for a machine whose `/proc/sys/kernel/random/boot_id` is `boot_id`.
    pub fn machine(&self, boot_id: &str) -> Machine {
        match &self.boot_id {
            Some(said) if said == boot_id => Machine::This,
            Some(_) => Machine::Another,
            None => Machine::Unknown,
        }
    }
}

/// Whose a node of Kubernetes is that has the asker's name: that of a machine that was deleted and
/// made anew has the name of the old one, which may still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// The asker's, provably.
    This,
    /// Another machine's, or the asker's before its kubelet has told of its last boot.
    Another,
    /// Nothing says.
    Unknown,
}

/// Knows which nodes there are in Kubernetes.
pub trait Registry: Send + Sync {
    /// The uid of the node of this name, None if there is none; asked anew and answered by a
    /// quorum, not by a cache. Err: it cannot be told, and why.
    fn uid<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<String>, String>>;

    /// The same with what says whose it is.
    fn identity<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<Identity>, String>>;
}

/// What became of a node's challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Nobody owns the name now. If it is still so some time later, the node may be retired.
    Unowned,
    /// It is left alone, for this reason.
    Refused(String),
}

/// What became of a node's holdings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// What was released, in order; it rests like any other address.
    pub addresses: Vec<IpAddr>,
    /// The blocks that are no longer the node's, in order.
    pub blocks: Vec<IpNet>,
    /// Why something is still the node's: to be tried again. Empty: nothing is.
    pub kept: Vec<String>,
    /// Its agent lives: nothing goes before another challenge.
    pub alive: bool,
}

/// The names of the nodes of Kubernetes that the store knows, gone ones among them.
///
/// # Errors
/// The store's.
pub async fn known_nodes(store: &dyn Store) -> Result<Vec<String>, Error> {
    let keys = store.list_keys(model::NODE_UIDS).await?.keys;
    let names = keys.iter().filter_map(|key| key.strip_prefix(model::NODE_UIDS));
    Ok(names.map(str::to_owned).collect())
}

/// Records that a node is the one of Kubernetes with this uid, which is `machine`'s. False, and
/// nothing is recorded, if `instance` does not own the name: only its owner may say so. Nor if it
/// is another machine's; and in place of what it has recorded itself, an instance records nothing
/// but what is provably its own.
///
/// # Errors
/// The store's.
pub(crate) async fn identify(
    store: &dyn Store,
    node: &str,
    instance: &str,
    uid: &str,
    machine: Machine,
) -> Result<bool, Error> {
    let (owner_key, uid_key) = (model::node_key(node), model::node_uid_key(node));
    let record = NodeUid { uid: uid.to_owned(), instance: instance.to_owned() };
    for _ in 0..ATTEMPTS {
        let read = store.read(&[owner_key.clone(), uid_key.clone()]).await?;
        let Some(owner) = read.get(&owner_key) else { return Ok(false) };
        if model::decode::<NodeOwner>(&owner_key, &owner.value)?.instance != instance {
            return Ok(false);
        }
        let known = read.get(&uid_key);
        // One that cannot be read is nobody's.
        let said = known.and_then(|known| model::decode::<NodeUid>(&uid_key, &known.value).ok());
        if said.as_ref() == Some(&record) {
            return Ok(true);
        }
        let own = said.is_some_and(|said| said.instance == instance);
        match machine {
            Machine::This => {}
            Machine::Unknown if !own => {}
            Machine::Unknown | Machine::Another => return Ok(false),
        }
        let txn = Txn::default()
            .when(owner_key.clone(), owner.mod_revision)
            .when(uid_key.clone(), revision(known))
            .put(uid_key.clone(), model::encode(&record));
        if let Outcome::Committed(_) = store.txn(txn).await? {
            return Ok(true);
        }
    }
    Err(Error::Contention { attempts: ATTEMPTS, key: uid_key })
}

/// Deletes the record that somebody owns a node's name, if Kubernetes has no such node. An agent
/// that lives takes the name again.
///
/// # Errors
/// The store's.
pub async fn challenge(
    store: &dyn Store,
    asker: &str,
    node: &str,
    registry: &dyn Registry,
) -> Result<Challenge, Error> {
    let (owner_key, uid_key) = (model::node_key(node), model::node_uid_key(node));
    let read = store.read(&[owner_key.clone(), uid_key.clone()]).await?;
    let (Some(owner), known) = (read.get(&owner_key), read.get(&uid_key)) else {
        return Ok(Challenge::Unowned);
    };
    if let Err(reason) = prove(asker, node, known, registry).await {
        return Ok(Challenge::Refused(reason));
    }
    let txn = Txn::default()
        .when(owner_key.clone(), owner.mod_revision)
        .when(uid_key, revision(known))
        .delete(owner_key);
    Ok(match store.txn(txn).await? {
        Outcome::Committed(_) => {
            tracing::debug!(node, "Kubernetes has deleted this node: nobody owns its name now");
            Challenge::Unowned
        }
        Outcome::Conflict(_) => Challenge::Refused("its agent is at work".to_owned()),
    })
}

/// Takes over the name of `node`, which is the caller's own, from another instance: Kubernetes has
/// deleted the node that it was, and made the one with `uid`, which is `machine`'s. True if nobody
/// owns the name now, so that the caller's allocator takes it, with its blocks. What the other
/// recorded stays until the caller's own takes its place: if the other lives and takes the name
/// again, it is still known whom to succeed.
///
/// # Errors
/// The store's.
pub(crate) async fn succeed(
    store: &dyn Store,
    node: &str,
    instance: &str,
    (uid, machine): (&str, Machine),
    registry: &dyn Registry,
) -> Result<bool, Error> {
    if machine == Machine::Another {
        return Ok(false);
    }
    let (owner_key, uid_key) = (model::node_key(node), model::node_uid_key(node));
    let read = store.read(&[owner_key.clone(), uid_key.clone()]).await?;
    let (Some(owner), Some(known)) = (read.get(&owner_key), read.get(&uid_key)) else {
        return Ok(false);
    };
    let predecessor: NodeUid = model::decode(&uid_key, &known.value)?;
    // Whoever recorded that was here before the owner, and does not come after it.
    if predecessor.uid == uid || predecessor.instance == instance {
        return Ok(false);
    }
    if registry.uid(node).await != Ok(Some(uid.to_owned())) {
        return Ok(false);
    }
    let txn = Txn::default()
        .when(owner_key.clone(), owner.mod_revision)
        .when(uid_key, known.mod_revision)
        .delete(owner_key);
    Ok(matches!(store.txn(txn).await?, Outcome::Committed(_)))
}

/// Releases everything that a node holds whose name nobody owns, once it is proven that Kubernetes
/// has no such node, and takes its name off its blocks. `cooldown` is how long addresses rest; to be
/// repeated while something is kept.
///
/// # Errors
/// The store's. What was released until then is released.
pub async fn retire(
    store: &dyn Store,
    asker: &str,
    node: &str,
    registry: &dyn Registry,
    now: Timestamp,
    cooldown: Duration,
) -> Result<Retired, Error> {
    let mut retired = Retired::default();
    for attempt in 0..ATTEMPTS {
        let keys = [model::node_key(node), model::node_uid_key(node)];
        let guards = store.read(&keys).await?;
        let Some(known) = guards.get(&keys[1]) else { return Ok(retired) };
        if guards.get(&keys[0]).is_some() {
            retired.kept = vec!["its agent lives: it took its name again".to_owned()];
            retired.alive = true;
            return Ok(retired);
        }
        // Not yet the proof, but every block is read for it, by every agent that tries.
        if attempt == 0
            && let Err(reason) = prove(asker, node, Some(known), registry).await
        {
            retired.kept = vec![reason];
            return Ok(retired);
        }
        let estate = read(store, node, known.mod_revision, now, cooldown).await?;
        let handles = estate.handles();
        let some = Estate::some_of(&handles);
        let mut records = BTreeMap::new();
        let keys: Vec<String> = some.keys().map(|handle| model::handle_key(handle)).collect();
        let found = if keys.is_empty() { Vec::new() } else { store.read(&keys).await?.entries };
        for entry in found {
            let handle = entry.key.strip_prefix(model::HANDLES).unwrap_or_default().to_owned();
            // The blocks are the truth: what a record says that cannot be read counts for nothing.
            let record = model::decode(&entry.key, &entry.value).unwrap_or_default();
            records.insert(handle, (record, entry.mod_revision));
        }
        // After all that is compared was read.
        if let Err(reason) = prove(asker, node, Some(known), registry).await {
            retired.kept = vec![reason];
            return Ok(retired);
        }
        let step = estate.step(&some, &records, some.len() == handles.len());
        if step.txn.writes.is_empty() {
            retired.kept = step.kept;
            return Ok(retired);
        }
        if let Outcome::Committed(_) = store.txn(step.txn).await? {
            retired.addresses.extend(step.addresses);
            retired.blocks.extend(step.blocks);
        }
    }
    Err(Error::Contention { attempts: ATTEMPTS, key: model::node_uid_key(node) })
}

fn revision(entry: Option<&Entry>) -> Revision {
    entry.map_or(0, |entry| entry.mod_revision)
}

/// Whether Kubernetes, as it answers now, has no such node. It must know the asker's own: one that
/// knows none is empty or another cluster's.
async fn prove(
    asker: &str,
    node: &str,
    known: Option<&Entry>,
    registry: &dyn Registry,
) -> Result<(), String> {
    if node == asker {
        return Err("it is the node that asks".to_owned());
    }
    if known.is_none() {
        return Err("nothing says that it ever was a node of Kubernetes".to_owned());
    }
    match registry.uid(asker).await? {
        Some(_) => {}
        None => return Err(format!("Kubernetes does not know {asker} either")),
    }
    match registry.uid(node).await? {
        None => Ok(()),
        Some(_) => Err("Kubernetes has a node of this name".to_owned()),
    }
}

async fn read(
    store: &dyn Store,
    node: &str,
    uid: Revision,
    now: Timestamp,
    cooldown: Duration,
) -> Result<Estate, Error> {
    let (mut blocks, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
    for family in [Family::V4, Family::V6] {
        for entry in store.list(model::blocks_of(family), None).await?.entries {
            let Some(cidr) = model::parse_block_key(&entry.key) else { continue };
            match model::decode_block(&entry.key, &entry.value) {
                Ok(block) => drop(blocks.insert(cidr, (block, entry.mod_revision))),
                Err(_) => drop(unreadable.insert(cidr, entry.mod_revision)),
            }
        }
    }
    let found = store.list(&model::affinities_of(node), None).await?.entries;
    let affinities = found.iter().filter_map(|entry| {
        let (_, cidr) = model::parse_affinity_key(&entry.key)?;
        let affinity = model::decode(&entry.key, &entry.value).ok();
        Some((cidr, (affinity, entry.mod_revision)))
    });
    let affinities = affinities.collect();
    let node = node.to_owned();
    Ok(Estate { node, uid, blocks, unreadable, affinities, cooldown, now })
}
