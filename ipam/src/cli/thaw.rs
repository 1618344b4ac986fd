//! `ipam thaw`.

use std::io::Write;

use anyhow::bail;
use ipam::model::{self, Freeze};
use ipam::store::{Outcome as Done, Store, Txn};
use serde::Serialize;

use super::{Outcome, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Do not wait for the nodes that have not said what they have. If one of them lives, its
    /// addresses may be given to others.
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Thaw {
    /// The freeze, if there is one.
    freeze: Option<Freeze>,
    /// Nodes that have not said what they have.
    waiting_for: Vec<String>,
    /// Whether blocks are claimed (again).
    thawed: bool,
}

pub(crate) async fn run(
    store: &dyn Store,
    options: &Options,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let read = store.read(&[model::FROZEN.to_owned()]).await?;
    let Some(entry) = read.entries.first() else {
        if as_json {
            json(out, &Thaw { freeze: None, waiting_for: Vec::new(), thawed: true })?;
        } else {
            writeln!(out, "Blocks are claimed: nothing is frozen")?;
        }
        return Ok(Outcome::Well);
    };
    // One that cannot be read ends like any other.
    let freeze = model::decode::<Freeze>(&entry.key, &entry.value).ok();
    let id = freeze.as_ref().map(|freeze| freeze.id.as_bytes());
    let nodes = store.list_keys(model::NODES).await?.keys;
    let words = store.list(model::REASSERTED, None).await?;
    let has_said = |node: &str| {
        let word = words.get(&model::reasserted_key(node));
        word.is_some_and(|word| Some(&*word.value) == id)
    };
    let names = nodes.iter().filter_map(|key| key.strip_prefix(model::NODES));
    let waiting_for: Vec<String> =
        names.filter(|node| !has_said(node)).map(str::to_owned).collect();
    let thawed = waiting_for.is_empty() || options.force;
    if thawed {
        let txn = Txn::default().when(entry.key.clone(), entry.mod_revision).delete(&entry.key);
        if let Done::Conflict(_) = store.txn(txn).await? {
            bail!("{} changed just now: see again", entry.key);
        }
    }
    let waits = waiting_for.join(", ");
    if as_json {
        json(out, &Thaw { freeze, waiting_for, thawed })?;
    } else if thawed {
        writeln!(out, "Blocks are claimed again")?;
    } else {
        writeln!(out, "Nodes that have not said what they have: {waits}")?;
        writeln!(out, "Start their agents, delete their Nodes, or repeat this with --force")?;
    }
    Ok(if thawed { Outcome::Well } else { Outcome::Found })
}
