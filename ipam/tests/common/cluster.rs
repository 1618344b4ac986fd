//! Allocators of several nodes on one store, and a clock that tests turn.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::selector::Selector;
use ipam::store::memory::MemoryStore;
use ipam::store::{Entry, Store};
use ipam::{
    AllowedUse, AssignRequest, Error, Families, Ipam, IpamConfig, Options, Pool, StoreConfig,
};
use ipnet::IpNet;
use tempfile::TempDir;

/// 2026-08-22T13:33:20Z, as in the reference's examples.
pub const START: u64 = 1_787_405_600;

/// A clock that stands still until it is turned.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicU64>);

impl Default for TestClock {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(START)))
    }
}

impl TestClock {
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn clock(&self) -> ipam::allocator::Clock {
        let seconds = self.0.clone();
        Arc::new(move || -> SystemTime {
            UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::SeqCst))
        })
    }
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn pool(name: &str, cidr: &str, block_size: u8) -> Pool {
    Pool {
        name: name.to_owned(),
        cidr: net(cidr),
        block_size,
        disabled: false,
        node_selector: Selector::parse("all()").unwrap(),
        namespace_selector: None,
        allowed_uses: vec![AllowedUse::Workload, AllowedUse::Tunnel],
        manual: false,
    }
}

/// A node: its allocator and the disk it would have.
pub struct Node {
    pub ipam: Ipam,
    pub name: String,
    pub disk: TempDir,
}

/// How the nodes of a test are made.
#[derive(Clone)]
pub struct Cluster {
    pub store: StoreConfig,
    pub clock: TestClock,
    pub pools: Vec<Pool>,
    pub config: Option<IpamConfig>,
    pub local_first: bool,
    pub own_thread: bool,
    pub deadline: Duration,
}

impl Cluster {
    pub fn new(store: StoreConfig, pools: Vec<Pool>) -> Self {
        let (clock, deadline) = (TestClock::default(), Duration::from_secs(10));
        let (config, local_first, own_thread) = (None, false, false);
        Self { store, clock, pools, config, local_first, own_thread, deadline }
    }

    pub fn on(store: &Arc<dyn Store>, pools: Vec<Pool>) -> Self {
        Self::new(StoreConfig::Open(store.clone()), pools)
    }

    /// No borrowing.
    pub fn strict(self) -> Self {
        let config = IpamConfig { strict_affinity: true, ..IpamConfig::default() };
        Self { config: Some(config), ..self }
    }

    /// No borrowing, and nodes answer from logs of their own.
    pub fn local_first(self) -> Self {
        Self { local_first: true, ..self.strict() }
    }

    pub fn node(&self, name: &str) -> Node {
        self.node_on(name, TempDir::with_prefix("ipam-node-").unwrap())
    }

    /// A node that starts (again) with this disk.
    pub fn node_on(&self, name: &str, disk: TempDir) -> Node {
        let ipam = self.open(name, &disk).unwrap();
        Node { ipam, name: name.to_owned(), disk }
    }

    pub fn open(&self, name: &str, disk: &TempDir) -> Result<Ipam, Error> {
        self.open_at(name, disk.path())
    }

    pub fn open_at(&self, name: &str, disk: &Path) -> Result<Ipam, Error> {
        let options = Options {
            clock: self.clock.clock(),
            deadline: self.deadline,
            node_labels: Some(BTreeMap::new()),
            local_first: self.local_first,
            own_thread: self.own_thread,
            ..Options::new(name, self.store.clone(), disk)
        };
        let ipam = Ipam::open(options)?;
        if let Some(config) = &self.config {
            ipam.set_config(Some(config.clone()))?;
        }
        ipam.set_pools(self.pools.clone());
        Ok(ipam)
    }
}

pub fn request(handle: &str, families: Families) -> AssignRequest {
    AssignRequest::pod(handle, "default", &format!("pod-{handle}"), families)
}

impl Node {
    pub fn request(&self, handle: &str, families: Families) -> AssignRequest {
        request(handle, families)
    }

    pub async fn v4(&self, handle: &str) -> Result<IpAddr, Error> {
        let assignment = self.ipam.assign(self.request(handle, Families::V4)).await?;
        Ok(assignment.ips().next().unwrap())
    }

    pub async fn both(&self, handle: &str) -> Result<Vec<IpAddr>, Error> {
        let assignment = self.ipam.assign(self.request(handle, Families::DUAL)).await?;
        Ok(assignment.ips().collect())
    }

    /// Its blocks, once they are so many.
    pub async fn blocks(&self, n: usize) -> Vec<IpNet> {
        self.blocks_that(|blocks| blocks.len() == n).await
    }

    /// Its blocks, once they are like that.
    pub async fn blocks_that(&self, are: impl Fn(&[IpNet]) -> bool) -> Vec<IpNet> {
        let mut blocks = self.ipam.blocks();
        let found = tokio::time::timeout(Duration::from_secs(10), blocks.wait_for(|b| are(b)));
        found.await.unwrap_or_else(|_| panic!("{:?}", self.ipam.status())).unwrap().to_vec()
    }

    /// Ends the allocator, keeps the disk.
    pub async fn stop(self) -> TempDir {
        self.ipam.close().await;
        self.disk
    }
}

/// A store in memory, by both its names.
pub fn memory() -> (MemoryStore, Arc<dyn Store>) {
    let store = MemoryStore::default();
    (store.clone(), Arc::new(store))
}

pub async fn all(store: &dyn Store) -> BTreeMap<String, String> {
    let text = |entry: Entry| (entry.key, String::from_utf8(entry.value.to_vec()).unwrap());
    store.list("/", None).await.unwrap().entries.into_iter().map(text).collect()
}

/// Everything that must be true of what is in the store, whatever happened: blocks are valid,
/// handles and blocks agree, affinities and blocks agree. Returns who has which address.
pub async fn consistent(store: &dyn Store) -> BTreeMap<IpAddr, String> {
    use ipam::block::AddressState;
    use ipam::model;
    let entries = store.list("/", None).await.unwrap().entries;
    let mut held = BTreeMap::new();
    let mut counts: BTreeMap<(String, IpNet), u32> = BTreeMap::new();
    let mut recorded = BTreeMap::new();
    let mut owners = BTreeMap::new();
    let mut affinities = BTreeMap::new();
    let mut blocks = Vec::<IpNet>::new();
    for entry in &entries {
        if model::parse_block_key(&entry.key).is_some() {
            let block = model::decode_block(&entry.key, &entry.value).unwrap();
            let other =
                blocks.iter().find(|o| o.contains(&block.cidr()) || block.cidr().contains(*o));
            assert_eq!(other, None, "overlaps {}", block.cidr());
            blocks.push(block.cidr());
            if let Some(owner) = block.affinity() {
                owners.insert(block.cidr(), owner.to_owned());
            }
            for (address, state) in block.occupied() {
                if let AddressState::Allocated(attribute, sequence) = state {
                    assert!(sequence.is_some_and(|n| n < block.sequence_number()), "{address}");
                    let handle = attribute.handle_id.clone().unwrap();
                    *counts.entry((handle.clone(), block.cidr())).or_default() += 1;
                    assert!(held.insert(address, handle).is_none(), "{address} in two blocks");
                }
            }
        } else if let Some(handle) = entry.key.strip_prefix(model::HANDLES) {
            let record: model::Handle = model::decode(&entry.key, &entry.value).unwrap();
            assert!(!record.block.is_empty(), "{}", entry.key);
            for (cidr, count) in record.block {
                recorded.insert((handle.to_owned(), cidr), count);
            }
        } else if let Some((owner, cidr)) = model::parse_owner_key(&entry.key) {
            affinities.insert(cidr, owner);
        }
    }
    assert_eq!(counts, recorded, "handles and blocks");
    assert_eq!(owners, affinities, "affinities and blocks");
    held
}
