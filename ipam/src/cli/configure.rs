//! `ipam configure`.

use std::io::Write;

use anyhow::{anyhow, bail, ensure};
use clap::ValueEnum;
use ipam::IpamConfig;
use ipam::model::{self, MAX_COOLDOWN_SECONDS};
use ipam::store::{Outcome as Done, Store, Txn};
use serde::Serialize;

use super::data::{Pools, properties};
use super::{Outcome, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Whether a node allocates from its own blocks only.
    #[arg(long, value_name = "true|false")]
    strictaffinity: Option<bool>,
    /// The most blocks of a family a node may have; 0: 20. Needs strict affinity.
    #[arg(long, value_name = "NUMBER")]
    max_blocks_per_host: Option<u32>,
    /// Whether virtual machines keep their addresses.
    #[arg(long, value_enum, ignore_case = true)]
    kubevirt_ip_persistence: Option<Persistence>,
    /// How long a released address rests, in seconds; 0: 120.
    #[arg(long, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_COOLDOWN_SECONDS)))]
    ip_cooldown_seconds: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Persistence {
    Enabled,
    Disabled,
}

impl Options {
    /// Sets what was asked for and returns the names of these properties.
    fn apply(&self, config: &mut IpamConfig) -> Vec<&'static str> {
        let Self {
            strictaffinity,
            max_blocks_per_host,
            kubevirt_ip_persistence,
            ip_cooldown_seconds,
        } = self;
        let mut set = Vec::new();
        if let Some(strict) = strictaffinity {
            config.strict_affinity = *strict;
            set.push("StrictAffinity");
        }
        if let Some(most) = max_blocks_per_host {
            config.max_blocks_per_host = *most;
            set.push("MaxBlocksPerHost");
        }
        if let Some(persistence) = kubevirt_ip_persistence {
            let value = match persistence {
                Persistence::Enabled => "Enabled",
                Persistence::Disabled => "Disabled",
            };
            config.kube_virt_vm_address_persistence = Some(value.to_owned());
            set.push("KubeVirtVMAddressPersistence");
        }
        if let Some(seconds) = ip_cooldown_seconds {
            config.ip_cooldown_seconds = Some(*seconds);
            set.push("IPCooldownSeconds");
        }
        set
    }
}

/// What was written, and what is in force in its place.
#[derive(Serialize)]
struct Configured<'a> {
    #[serde(flatten)]
    config: IpamConfig,
    #[serde(skip_serializing_if = "Option::is_none", rename = "overriddenBy")]
    overridden_by: Option<&'a IpamConfig>,
}

pub(crate) async fn run(
    store: &dyn Store,
    files: &Pools,
    options: &Options,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let key = model::CONFIG.to_owned();
    let read = store.read(std::slice::from_ref(&key)).await?;
    let entry = read.get(&key);
    let mut config = IpamConfig::stored(entry)?;
    let set = options.apply(&mut config);
    ensure!(!set.is_empty(), "nothing to configure: name at least one property (see --help)");
    config.validate().map_err(|reason| anyhow!("{key}: {reason}"))?;
    let revision = entry.map_or(0, |entry| entry.mod_revision);
    let txn = Txn::default().when(key.clone(), revision).put(key.clone(), model::encode(&config));
    if let Done::Conflict(_) = store.txn(txn).await? {
        bail!("{key} was changed just now by somebody else; nothing was done");
    }
    let of = |config: &IpamConfig| {
        let properties = properties(config).into_iter();
        properties.filter(|(name, _)| set.contains(name)).collect::<Vec<_>>()
    };
    let (ours, theirs) = (of(&config), files.configuration.as_ref().map(of));
    let differs = theirs.as_ref().is_some_and(|theirs| *theirs != ours);
    if as_json {
        json(out, &Configured { config, overridden_by: files.configuration.as_ref() })?;
    } else {
        for (name, value) in &ours {
            writeln!(out, "Successfully set {name} to: {value}")?;
        }
        match theirs {
            None => writeln!(
                out,
                "Agents take it unless they find an IPAMConfiguration named default (see --pools)"
            )?,
            Some(theirs) => {
                for ((name, value), _) in theirs.iter().zip(&ours).filter(|(a, b)| a != b) {
                    writeln!(
                        out,
                        "Not in force: agents take the IPAMConfiguration default instead, which \
                         sets {name} to: {value}"
                    )?;
                }
            }
        }
    }
    Ok(if differs { Outcome::Found } else { Outcome::Well })
}
