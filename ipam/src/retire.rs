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

/// Knows which nodes there are in Kubernetes.
pub trait Registry: Send + Sync {
    /// The uid of the node of this name, None if there is none; asked anew and answered by a
    /// quorum, not by a cache. Err: it cannot be told, and why.
    fn uid<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Option<String>, String>>;
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

/// Records that a node is the one of Kubernetes with this uid. False, and nothing is recorded, if
/// `instance` does not own the name: only its owner may say so.
///
/// # Errors
/// The store's.
pub(crate) async fn identify(
    store: &dyn Store,
    node: &str,
    instance: &str,
    uid: &str,
) -> Result<bool, Error> {
    let (owner_key, uid_key) = (model::node_key(node), model::node_uid_key(node));
    let record = model::encode(&NodeUid { uid: uid.to_owned() });
    for _ in 0..ATTEMPTS {
        let read = store.read(&[owner_key.clone(), uid_key.clone()]).await?;
        let Some(owner) = read.get(&owner_key) else { return Ok(false) };
        if model::decode::<NodeOwner>(&owner_key, &owner.value)?.instance != instance {
            return Ok(false);
        }
        let known = read.get(&uid_key);
        if known.is_some_and(|entry| *entry.value == *record) {
            return Ok(true);
        }
        let txn = Txn::default()
            .when(owner_key.clone(), owner.mod_revision)
            .when(uid_key.clone(), revision(known))
            .put(uid_key.clone(), record.clone());
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
            tracing::info!(node, "Kubernetes has deleted this node: nobody owns its name now");
            Challenge::Unowned
        }
        Outcome::Conflict(_) => Challenge::Refused("its agent is at work".to_owned()),
    })
}

/// Takes over the name of `node`, which is the caller's own, from another instance: Kubernetes has
/// deleted the node that it was, and made the one with `uid`. True if nobody owns the name now, so
/// that the caller's allocator takes it, with its blocks.
///
/// # Errors
/// The store's.
pub async fn succeed(
    store: &dyn Store,
    node: &str,
    uid: &str,
    registry: &dyn Registry,
) -> Result<bool, Error> {
    let (owner_key, uid_key) = (model::node_key(node), model::node_uid_key(node));
    let read = store.read(&[owner_key.clone(), uid_key.clone()]).await?;
    let (Some(owner), Some(known)) = (read.get(&owner_key), read.get(&uid_key)) else {
        return Ok(false);
    };
    let predecessor: NodeUid = model::decode(&uid_key, &known.value)?;
    if predecessor.uid == uid || registry.uid(node).await != Ok(Some(uid.to_owned())) {
        return Ok(false);
    }
    let txn = Txn::default()
        .when(owner_key.clone(), owner.mod_revision)
        .when(uid_key.clone(), known.mod_revision)
        .delete(owner_key)
        .delete(uid_key);
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
    for _ in 0..ATTEMPTS {
        let keys = [model::node_key(node), model::node_uid_key(node)];
        let guards = store.read(&keys).await?;
        let Some(known) = guards.get(&keys[1]) else { return Ok(retired) };
        if guards.get(&keys[0]).is_some() {
            retired.kept = vec!["its agent lives: it took its name again".to_owned()];
            retired.alive = true;
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
