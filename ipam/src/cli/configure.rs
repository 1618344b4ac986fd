//! `ipam configure`.

use std::io::Write;

use anyhow::{anyhow, bail, ensure};
use clap::ValueEnum;
use ipam::IpamConfig;
use ipam::model::{self, MAX_COOLDOWN_SECONDS};
use ipam::store::{Outcome as Done, Store, Txn};

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

pub(crate) async fn run(
    store: &dyn Store,
    options: &Options,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Outcome> {
    let Options {
        strictaffinity,
        max_blocks_per_host,
        kubevirt_ip_persistence,
        ip_cooldown_seconds,
    } = options;
    let persistence = kubevirt_ip_persistence.map(|value| match value {
        Persistence::Enabled => "Enabled",
        Persistence::Disabled => "Disabled",
    });
    let said: Vec<String> = [
        strictaffinity.map(|value| format!("StrictAffinity to: {value}")),
        max_blocks_per_host.map(|value| format!("MaxBlocksPerHost to: {value}")),
        persistence.map(|value| format!("KubeVirtVMAddressPersistence to: {value}")),
        ip_cooldown_seconds.map(|value| format!("IPCooldownSeconds to: {value}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    ensure!(!said.is_empty(), "nothing to configure: name at least one property (see --help)");
    let key = model::CONFIG.to_owned();
    let read = store.read(std::slice::from_ref(&key)).await?;
    let entry = read.get(&key);
    let mut config = IpamConfig::stored(entry)?;
    config.strict_affinity = strictaffinity.unwrap_or(config.strict_affinity);
    config.max_blocks_per_host = max_blocks_per_host.unwrap_or(config.max_blocks_per_host);
    if let Some(value) = persistence {
        config.kube_virt_vm_address_persistence = Some(value.to_owned());
    }
    config.ip_cooldown_seconds = ip_cooldown_seconds.or(config.ip_cooldown_seconds);
    config.validate().map_err(|reason| anyhow!("{key}: {reason}"))?;
    let revision = entry.map_or(0, |entry| entry.mod_revision);
    let txn = Txn::default().when(key.clone(), revision).put(key.clone(), model::encode(&config));
    if let Done::Conflict(_) = store.txn(txn).await? {
        bail!("{key} was changed just now by somebody else; nothing was done");
    }
    if as_json {
        json(out, &config)?;
    } else {
        for one in said {
            writeln!(out, "Successfully set {one}")?;
        }
    }
    Ok(Outcome::Well)
}
