//! Everything the store has about addresses, at one revision.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use api::v3::{IPAMConfiguration, IPPool, IPReservation};
use ipam::block::Block;
use ipam::model::{self, Affinity, Corrupt, Handle, IpamConfig};
use ipam::pool::{Pool, reservations};
use ipam::store::{Entry, Snapshot, Store, StoreError, Txn};
use ipnet::IpNet;
use serde_json::Value;

const IPAM: &str = "/calico/ipam/v2/";
pub(super) const POOLS: &str = "/calico/resources/v3/projectcalico.org/ippools/";
const CLUSTER: &str = "/calico/resources/v3/projectcalico.org/clusterinformations/default";
const RESERVATIONS: &str = "/calico/resources/v3/projectcalico.org/ipreservations/";

/// Pools and reservations, and what else resources say.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    /// In the order of their networks.
    pub(crate) pools: Vec<Pool>,
    pub(crate) reservations: Vec<IpNet>,
    /// The IPAMConfiguration `default`: agents that find one take it in place of the store's.
    pub(crate) configuration: Option<IpamConfig>,
    /// Resources that are of no use, with the reasons.
    pub(crate) wrong: Vec<String>,
}

impl Pools {
    /// Reads a YAML file of IPPools, IPReservations and the IPAMConfiguration, or of Lists of them.
    pub(crate) fn from_file(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let mut pools = Self::default();
        for document in documents(path)? {
            pools.add_document(document).with_context(|| name.to_string())?;
        }
        if let Some(wrong) = pools.wrong.first() {
            bail!("{name}: {wrong}");
        }
        Ok(pools)
    }

    fn add_document(&mut self, mut document: Value) -> anyhow::Result<()> {
        match document.get("kind").and_then(Value::as_str) {
            Some(kind) if kind.ends_with("List") => {
                let items = document.get_mut("items").map(Value::take);
                for item in items.as_ref().and_then(Value::as_array).into_iter().flatten() {
                    self.add_document(item.clone())?;
                }
            }
            Some("IPPool") => self.add_pool(&document.to_string(), "IPPool"),
            Some("IPReservation") => self.add_reservation(&document.to_string(), "IPReservation"),
            Some("IPAMConfiguration") => self.add_configuration(&document.to_string()),
            // `kubectl get ippools,nodes` may say more than we asked.
            Some(_) => {}
            None if document.is_null() => {}
            None => bail!("a document has no kind"),
        }
        Ok(())
    }

    fn add_pool(&mut self, json: &str, place: &str) {
        let pool =
            serde_json::from_str::<IPPool>(json).map_err(|error| format!("{place}: {error}"));
        match pool.and_then(|pool| Pool::try_from(&pool).map_err(|error| error.to_string())) {
            Ok(pool) => {
                // The first one wins: files are read before the store.
                if !self.pools.iter().any(|known| known.name == pool.name) {
                    self.pools.push(pool);
                }
            }
            Err(error) => self.wrong.push(error),
        }
    }

    fn add_configuration(&mut self, json: &str) {
        let read = serde_json::from_str::<IPAMConfiguration>(json);
        let read = read.map_err(|error| error.to_string()).and_then(|resource| {
            let config = IpamConfig::from(&resource);
            config.validate()?;
            // No other name means anything.
            Ok((resource.metadata.name.as_deref() == Some("default")).then_some(config))
        });
        match read {
            Ok(config) => self.configuration = self.configuration.take().or(config),
            Err(error) => self.wrong.push(format!("IPAMConfiguration: {error}")),
        }
    }

    fn add_reservation(&mut self, json: &str, place: &str) {
        match serde_json::from_str::<IPReservation>(json) {
            Ok(resource) => {
                let (nets, wrong) = reservations(&resource);
                self.reservations.extend(nets);
                self.wrong.extend(wrong.iter().map(ToString::to_string));
            }
            Err(error) => self.wrong.push(format!("{place}: {error}")),
        }
    }
}

/// A configuration's properties, by calicoctl's names, and their values.
pub(super) fn properties(config: &IpamConfig) -> [(&'static str, String); 5] {
    let IpamConfig {
        strict_affinity,
        auto_allocate_blocks,
        max_blocks_per_host,
        kube_virt_vm_address_persistence,
        ip_cooldown_seconds,
    } = config;
    let persistence = kube_virt_vm_address_persistence.as_deref().unwrap_or("Enabled");
    [
        ("StrictAffinity", strict_affinity.to_string()),
        ("AutoAllocateBlocks", auto_allocate_blocks.to_string()),
        ("MaxBlocksPerHost", max_blocks_per_host.to_string()),
        ("KubeVirtVMAddressPersistence", persistence.to_owned()),
        ("IPCooldownSeconds", ip_cooldown_seconds.unwrap_or(0).to_string()),
    ]
}

/// The documents of a YAML file.
pub(crate) fn documents(path: &Path) -> anyhow::Result<Vec<Value>> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    serde_saphyr::from_multiple(&text).with_context(|| format!("{name} is not YAML"))
}

/// What is in the store.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) blocks: BTreeMap<IpNet, Block>,
    pub(crate) handles: BTreeMap<String, Handle>,
    /// Owner (`host:NODE`, `virtual:NAME`) and network of each affinity.
    pub(crate) affinities: BTreeMap<(IpNet, String), Affinity>,
    /// None: the key is missing.
    pub(crate) config: Option<IpamConfig>,
    pub(crate) pools: Pools,
    pub(crate) cluster: Cluster,
    pub(crate) corrupt: Vec<Corrupt>,
    /// Keys whose values have fields that this version does not know.
    pub(crate) unknown: Vec<Corrupt>,
    /// What the store is called.
    pub(crate) store: String,
    /// Why the store would refuse a write, if that was looked for and it would.
    pub(crate) unwritable: Option<String>,
    pub(crate) revision: i64,
}

impl Data {
    /// Reads everything. Values that cannot be read are collected, not fatal.
    pub(crate) async fn load(store: &dyn Store, files: Pools) -> Result<Self, StoreError> {
        let ipam = store.list(IPAM, None).await?;
        let pools = store.list(POOLS, Some(ipam.revision)).await?;
        let reservations = store.list(RESERVATIONS, Some(ipam.revision)).await?;
        let cluster = Cluster::load(store).await?;
        let mut data = Self { pools: files, cluster, revision: ipam.revision, ..Self::default() };
        data.store = store.name();
        for entry in &ipam.entries {
            data.unknown.extend(unknown_fields(entry));
            if let Err(corrupt) = data.add(entry) {
                data.corrupt.push(corrupt);
            }
        }
        each(&pools, |key, json| data.pools.add_pool(json, key));
        each(&reservations, |key, json| data.pools.add_reservation(json, key));
        data.pools.pools.sort_by_key(|pool| pool.cidr);
        Ok(data)
    }

    /// Asks the store for a write that it cannot do, for a comparison fails: one that is full, or
    /// that does not let us, refuses it before it compares.
    pub(crate) async fn probe(mut self, store: &dyn Store) -> Result<Self, StoreError> {
        let key = model::node_key("ipam-check");
        let txn = Txn::default().when(key.clone(), i64::MAX).put(key, Vec::new());
        self.unwritable = match store.txn(txn).await {
            Ok(_) => None,
            Err(StoreError::Rejected { reason, .. }) => Some(reason),
            Err(error) => return Err(error),
        };
        Ok(self)
    }

    fn add(&mut self, entry: &Entry) -> Result<(), Corrupt> {
        let Entry { key, value, .. } = entry;
        if let Some(cidr) = model::parse_block_key(key) {
            self.blocks.insert(cidr, model::decode_block(key, value)?);
        } else if let Some(handle) = key.strip_prefix(model::HANDLES) {
            self.handles.insert(handle.to_owned(), model::decode(key, value)?);
        } else if key == model::CONFIG {
            self.config = Some(model::decode(key, value)?);
        } else if let Some((owner, cidr)) = model::parse_owner_key(key) {
            self.affinities.insert((cidr, owner), model::decode(key, value)?);
        } else if key.starts_with(model::BLOCKS) {
            let reason = "the key names no block".to_owned();
            return Err(Corrupt { key: key.clone(), reason });
        }
        Ok(())
    }
}

/// What Calico's ClusterInformation says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Empty where there is no such resource.
    pub(crate) guid: String,
    /// True while an administrator keeps everybody from changing the pools.
    pub(crate) locked: bool,
}

impl Cluster {
    pub(crate) async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let key = [CLUSTER.to_owned()];
        let read = store.read(&key).await?;
        let value = read.get(CLUSTER).and_then(|entry| serde_json::from_slice(&entry.value).ok());
        let value: Value = value.unwrap_or_default();
        let guid = value.pointer("/spec/clusterGUID").and_then(Value::as_str);
        let ready = value.pointer("/spec/datastoreReady").and_then(Value::as_bool);
        Ok(Self { guid: guid.unwrap_or_default().to_owned(), locked: ready == Some(false) })
    }
}

/// The fields of a block or a handle that this version does not know.
fn unknown_fields(entry: &Entry) -> Option<Corrupt> {
    const BLOCK: &[&str] = &[
        "cidr",
        "affinity",
        "affinity_claim_time",
        "allocations",
        "unallocated",
        "attributes",
        "sequenceNumber",
        "sequenceNumberForAllocation",
        "deleted",
        "hostAffinity",
        "caracalExclusive",
    ];
    let known = match &entry.key {
        key if key.starts_with(model::BLOCKS) => BLOCK,
        key if key.starts_with(model::HANDLES) => &["block", "deleted"],
        _ => return None,
    };
    let value: serde_json::Map<String, Value> = serde_json::from_slice(&entry.value).ok()?;
    let fields: Vec<&str> =
        value.keys().map(String::as_str).filter(|field| !known.contains(field)).collect();
    let reason = format!("unknown fields, kept as they are: {}", fields.join(", "));
    (!fields.is_empty()).then(|| Corrupt { key: entry.key.clone(), reason })
}

fn each(snapshot: &Snapshot, mut f: impl FnMut(&str, &str)) {
    for entry in &snapshot.entries {
        f(&entry.key, &String::from_utf8_lossy(&entry.value));
    }
}
