//! `ipam disown`.

use std::io::Write;

use anyhow::bail;
use ipam::model::{self, NodeOwner};
use ipam::store::{Outcome as Done, Store, Txn};
use serde::Serialize;

use super::{Outcome, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The node's name.
    node: String,
}

#[derive(Serialize)]
struct Disowned<'a> {
    node: &'a str,
    /// The instance that owned it, if any did.
    instance: Option<String>,
}

pub(crate) async fn run(
    store: &dyn Store,
    options: &Options,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let Options { node } = options;
    if !model::is_key_segment(node) {
        bail!("{node:?} is not a node name");
    }
    let key = model::node_key(node);
    let read = store.read(std::slice::from_ref(&key)).await?;
    let owner = match read.get(&key) {
        None => None,
        Some(entry) => {
            // A record that cannot be read is one more reason to remove it.
            let owner = model::decode::<NodeOwner>(&key, &entry.value);
            let txn = Txn::default().when(key.clone(), entry.mod_revision).delete(key.clone());
            if let Done::Conflict(_) = store.txn(txn).await? {
                bail!("{key} changed just now: node {node} has a running agent");
            }
            Some(owner.map_or_else(|_| "unreadable".to_owned(), |owner| owner.instance))
        }
    };
    let found = if owner.is_some() { Outcome::Well } else { Outcome::Found };
    if as_json {
        json(out, &Disowned { node, instance: owner })?;
    } else if let Some(instance) = owner {
        writeln!(out, "Node {node} no longer belongs to instance {instance}")?;
    } else {
        writeln!(out, "Node {node} belongs to no instance")?;
    }
    Ok(found)
}
