//! The small cluster, what can happen to it, and what must be true of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipam::allocator::Mode;
use ipam::store::memory::{Fault, MemoryStore};
use ipam::store::{Outcome, Store, Txn};
use ipam::{AssignRequest, Error, Families, IpamConfig, Live, Pool, StoreConfig, model};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use crate::common::cluster::{Cluster, Node, consistent, pool};
use crate::common::kubernetes::Kubernetes;
use crate::common::link::{Death, Forgotten, Link};

#[path = "departures.rs"]
mod departures;
#[path = "own_logs.rs"]
mod own_logs;

const NODES: usize = 4;

/// How long an agent may take for what it has to do, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pools, each time with other block sizes; one that is disabled, one more, one in another.
fn pools(version: u8) -> Vec<Pool> {
    let (four, six) = [(30, 125), (31, 126), (29, 125), (30, 127), (30, 125)][usize::from(version)];
    let mut pools = vec![pool("four", "10.0.0.0/27", four), pool("six", "fd00::/122", six)];
    match version {
        2 => pools.push(pool("more", "10.0.1.0/29", 31)),
        3 => pools.push(pool("a-part-of-four", "10.0.0.8/29", 32)),
        4 => {
            pools[0].disabled = true;
            pools.push(pool("more", "10.0.1.0/28", 30));
        }
        _ => {}
    }
    pools
}

/// A machine of the cluster.
struct Machine {
    node: Node,
    link: Link,
}

/// What becomes of a machine whose agent died.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// The agent starts again; the pods have lived on.
    Restarts,
    /// The power was off: no pod lives, the disk is there.
    LosesPower,
    /// It is installed anew under its old name: no pod lives, the disk is empty.
    IsReimaged,
}

pub struct World {
    random: SmallRng,
    memory: MemoryStore,
    forgotten: Option<Forgotten>,
    cluster: Cluster,
    machines: Vec<Option<Machine>>,
    /// The links of agents that are no more: what they sent may still arrive.
    graves: Vec<Link>,
    /// Who lives: address to (node, handle).
    pods: BTreeMap<IpAddr, (usize, String)>,
    next: usize,
    kubernetes: Kubernetes,
    /// How often each machine was booted.
    boots: [u32; NODES],
    /// Machines whose predecessor of the same name may still own that.
    anew: BTreeSet<usize>,
    /// Machines that lost what they held while they were cut off or down, and may not know it yet.
    deposed: BTreeSet<usize>,
    history: Vec<String>,
}

impl World {
    pub fn new(seed: u64, forgotten: Option<Forgotten>) -> Self {
        let memory = MemoryStore::default();
        let mut random = SmallRng::seed_from_u64(seed);
        // Deliberately too small: blocks change hands, addresses are borrowed and end their rest.
        let mut cluster = Cluster::new(StoreConfig::Open(Arc::new(memory.clone())), pools(0));
        if random.random_bool(0.5) {
            cluster = cluster.strict();
        }
        cluster.local_first = random.random_bool(0.6);
        // As in the agent: what is done then by whom depends on how fast the machine is.
        cluster.own_thread = seed % 4 == 3;
        cluster.deadline = Duration::from_millis(100);
        let mut world = Self {
            random,
            memory,
            forgotten,
            cluster,
            machines: Vec::new(),
            graves: Vec::new(),
            pods: BTreeMap::new(),
            next: 0,
            kubernetes: Kubernetes::default(),
            boots: [0; NODES],
            anew: BTreeSet::new(),
            deposed: BTreeSet::new(),
            history: Vec::new(),
        };
        for n in 0..NODES {
            let machine = world.start(n, disk(), false);
            world.machines.push(Some(machine));
            world.register(n);
        }
        world
    }

    pub fn history(&self) -> &[String] {
        &self.history
    }

    fn told(&mut self, what: impl Into<String>) {
        self.history.push(what.into());
    }

    /// An agent starts with this disk, and perhaps without the store.
    fn start(&self, n: usize, disk: TempDir, cut: bool) -> Machine {
        let link = Link::new(&self.memory, self.forgotten);
        if cut {
            link.cut();
        }
        let store = StoreConfig::Open(Arc::new(link.clone()));
        let cluster = Cluster { store, ..self.cluster.clone() };
        Machine { node: cluster.node_on(&name(n), disk), link }
    }

    fn machine(&self, n: usize) -> &Machine {
        self.machines[n].as_ref().unwrap()
    }

    fn any(&mut self) -> usize {
        self.random.random_range(0..self.machines.len())
    }

    pub async fn step(&mut self) {
        self.fault();
        match self.random.random_range(0..42) {
            0..12 => {
                self.add().await;
                self.bury().await;
            }
            12..18 => self.remove().await,
            18 => {
                let n = self.any();
                self.told(format!("n{n} ends in order, and starts again"));
                self.replace(n, Fate::Restarts).await;
            }
            19 | 20 => {
                let n = self.any();
                let death = Death {
                    after: self.random.random_range(0..5),
                    done: self.random.random_bool(0.5),
                };
                self.told(format!("n{n} will die: {death:?}"));
                self.machine(n).link.die(death);
            }
            21 => {
                let n = self.any();
                self.told(format!("n{n} dies"));
                self.machine(n).link.kill();
                self.bury().await;
            }
            22 => {
                let n = self.any();
                // In vain while the store cannot be reached.
                let _ = self.collect(n).await;
            }
            23 => {
                self.told("the store is away");
                self.memory.set_away(true);
                self.add().await;
                self.memory.set_away(false);
                self.bury().await;
            }
            24 => {
                let n = self.any();
                let link = &self.machine(n).link;
                let cut = !link.is_cut();
                if cut {
                    link.cut();
                } else {
                    link.mend();
                }
                self.told(format!("n{n} is {}", if cut { "cut off" } else { "back" }));
            }
            25 => {
                let n = self.any();
                self.told(format!("what n{n} sends next comes late"));
                self.machine(n).link.hold_next();
            }
            26 => self.arrive().await,
            27 => {
                // The pools were made anew, and each node learns it at a time of its own.
                let (n, version) = (self.any(), self.random.random_range(0..5));
                self.told(format!("n{n} sees the pools {version}"));
                self.machine(n).node.ipam.set_pools(pools(version));
            }
            28 => self.double().await,
            29 | 30 => self.reconsider().await,
            31..35 => {
                let n = self.any();
                // In vain while the store cannot be reached.
                let _ = self.attend(n).await;
            }
            35..39 => self.give_back().await,
            39 | 40 => {
                self.learn_strictness();
            }
            _ => {
                let seconds = self.random.random_range(1..200);
                self.told(format!("{seconds} s pass"));
                self.cluster.clock.advance(seconds);
            }
        }
    }

    fn fault(&mut self) {
        let fault = match self.random.random_range(0..8) {
            0 => Some(Fault::LoseReply),
            1 => Some(Fault::LoseRequest),
            2 => Some(Fault::Conflict),
            _ => return,
        };
        let later = self.random.random_range(0..3);
        self.told(format!("{fault:?} after {later}"));
        self.memory.inject(std::iter::repeat_n(None, later).chain([fault]));
    }

    /// Some request of a pod: any address mostly, sometimes one by name or from a pool by name.
    fn request(&mut self, n: usize, handle: &str) -> AssignRequest {
        let families = [Families::V4, Families::V6, Families::DUAL][self.random.random_range(0..3)];
        let mut request = self.machine(n).node.request(handle, families);
        match self.random.random_range(0..8) {
            0 if families.v4 => {
                let last = self.random.random_range(0..32);
                request.requested_ips.push(IpAddr::from([10, 0, 0, last]));
            }
            1 if families == Families::V4 => request.requested_pools.push("four".to_owned()),
            _ => {}
        }
        request
    }

    /// Several pods of several nodes start at once; some callers give up on the way.
    async fn add(&mut self) {
        let mut starting = Vec::new();
        for _ in 0..self.random.random_range(1..5) {
            let n = self.any();
            if !self.may_start(n).await {
                continue;
            }
            let handle = format!("h{}", self.next);
            self.next += 1;
            let request = self.request(n, &handle);
            let patience = self.random.random_bool(0.1).then(|| self.random.random_range(0..4));
            self.history.push(format!(
                "add {handle} on n{n}: {:?} {:?} {:?} patience {patience:?}",
                request.families, request.requested_ips, request.requested_pools
            ));
            starting.push((n, handle, request, patience));
        }
        let machines = &self.machines;
        let started = starting.into_iter().map(|(n, handle, request, patience)| async move {
            let Machine { node, link } = machines[n].as_ref().unwrap();
            let patience = async {
                match patience {
                    Some(turns) => {
                        for _ in 0..turns {
                            tokio::task::yield_now().await;
                        }
                    }
                    None => std::future::pending().await,
                }
            };
            // What a dead agent would say is heard by nobody.
            let result = tokio::select! {
                biased;
                () = link.died() => None,
                () = patience => None,
                result = node.ipam.assign(request) => Some(result),
            };
            (n, handle, result)
        });
        for (n, handle, result) in futures::future::join_all(started).await {
            self.history.push(match &result {
                Some(Ok(assignment)) => {
                    format!("{handle} has {:?}", assignment.ips().collect::<Vec<_>>())
                }
                Some(Err(error)) => format!("{handle}: {error}"),
                None => format!("{handle} is not waited for"),
            });
            match result {
                Some(Ok(assignment)) => {
                    for address in assignment.ips() {
                        let other = self.pods.insert(address, (n, handle.clone()));
                        assert_eq!(other, None, "{address} to {handle} of n{n} too");
                    }
                }
                Some(Err(error)) if is_expected(&error) => {}
                Some(Err(Error::NodeTaken { .. })) if self.anew.contains(&n) => {}
                None => {}
                Some(Err(error)) => panic!("{handle} on n{n}: {error}"),
            }
        }
    }

    async fn remove(&mut self) {
        let Some(n) = self.pods.len().checked_sub(1) else { return };
        let victim = self.random.random_range(0..=n);
        let (n, handle) = self.pods.values().nth(victim).unwrap().clone();
        self.told(format!("remove {handle} of n{n}"));
        self.pods.retain(|_, (_, other)| *other != handle);
        let Machine { node, link } = self.machine(n);
        // A failed release is the collector's.
        tokio::select! {
            biased;
            () = link.died() => {}
            _ = node.ipam.release(&handle) => {}
        }
        self.bury().await;
    }

    /// What becomes of the machines whose agents died.
    async fn bury(&mut self) {
        for n in 0..self.machines.len() {
            if self.machine(n).link.is_dead() {
                let fate = match self.random.random_range(0..4) {
                    0 => Fate::LosesPower,
                    1 => Fate::IsReimaged,
                    _ => Fate::Restarts,
                };
                self.told(format!("n{n} is dead and {fate:?}"));
                self.replace(n, fate).await;
            }
        }
    }

    /// The agent's process ends, and another one takes its place.
    async fn replace(&mut self, n: usize, fate: Fate) {
        let Machine { node, link } = self.machines[n].take().unwrap();
        let disk = node.stop().await;
        let cut = link.is_cut() && matches!(fate, Fate::Restarts) && self.random.random_bool(0.5);
        self.graves.push(link);
        let disk = match fate {
            Fate::Restarts => disk,
            Fate::LosesPower | Fate::IsReimaged => {
                self.pods.retain(|_, (at, _)| *at != n);
                self.boots[n] += 1;
                if matches!(fate, Fate::LosesPower) {
                    self.tear(&disk);
                    disk
                } else {
                    self.reimage(n).await
                }
            }
        };
        self.machines[n] = Some(self.start(n, disk, cut));
    }

    /// The new instance gets nothing until its predecessor is proven gone.
    async fn reimage(&mut self, n: usize) -> TempDir {
        let (new, key) = (disk(), model::node_key(&name(n)));
        let owned = self.memory.read(std::slice::from_ref(&key)).await.unwrap().get(&key).is_some();
        if owned && self.forgotten.is_none() && self.random.random_bool(0.3) {
            let machine = self.start(n, new, false);
            self.refused(&machine.node).await;
            self.disown(&key).await;
            return machine.node.stop().await;
        }
        self.disown(&key).await;
        new
    }

    /// As `ipam disown` does.
    async fn disown(&self, key: &str) {
        let gone = Txn::default().delete(key);
        while !matches!(self.memory.txn(gone.clone()).await, Ok(Outcome::Committed(_))) {}
    }

    /// Another machine of the same name starts beside the one that is there, and ends again.
    async fn double(&mut self) {
        let n = self.any();
        let key = model::node_key(&name(n));
        let owned = self.memory.read(std::slice::from_ref(&key)).await.unwrap().get(&key).is_some();
        // Where the first one has not come to write its name, the second one is not the double.
        if !owned {
            return;
        }
        self.told(format!("n{n} has a double for a while"));
        let double = self.start(n, disk(), false);
        self.refused(&double.node).await;
        double.node.stop().await;
    }

    async fn refused(&self, double: &Node) {
        match double.v4("double").await {
            Err(Error::NodeTaken { .. } | Error::StoreUnavailable { .. }) => {}
            other => panic!("the double of {} got {other:?}", double.name),
        }
    }

    /// None: it died meanwhile.
    async fn collect(&mut self, n: usize) -> Option<Result<(), Error>> {
        self.told(format!("collect n{n}"));
        let Machine { node, link } = self.machine(n);
        let epoch = node.ipam.epoch();
        let mine = self.pods.values().filter(|(at, _)| *at == n);
        let live: BTreeSet<String> = mine.map(|(_, handle)| handle.clone()).collect();
        let live = Live::handles(epoch, live).unwrap_or_else(|| Live::none(epoch));
        let done = tokio::select! {
            biased;
            () = link.died() => None,
            done = node.ipam.collect(live) => Some(done),
        };
        self.history.push(format!("collected of n{n}: {done:?}"));
        let done = done.map(|done| done.map(drop));
        self.bury().await;
        done
    }

    /// All that was held back arrives, also what dead agents sent.
    async fn arrive(&mut self) {
        let mut late = 0;
        for link in self.machines.iter().flatten().map(|machine| &machine.link) {
            late += link.arrive().await;
        }
        for link in std::mem::take(&mut self.graves) {
            late += link.arrive().await;
        }
        if late > 0 {
            self.told(format!("{late} late transactions arrive"));
        }
    }

    /// The store holds what pods have, or more (what a collection will find), never less.
    pub async fn check(&self) {
        // Asked before the store is read: a node on a thread of its own may leave the mode meanwhile.
        let local = |machine: &Option<Machine>| {
            let mode = machine.as_ref().map(|machine| machine.node.ipam.status().mode);
            mode == Some(Mode::LocalFirst)
        };
        let local: Vec<bool> = self.machines.iter().map(local).collect();
        let held = consistent(&self.memory).await;
        for (address, (n, handle)) in &self.pods {
            // Its own log has them, and what the store has of its blocks is behind.
            if local[*n] {
                continue;
            }
            assert_eq!(held.get(address), Some(handle), "{address} is free, {handle} has it");
        }
    }

    /// Everything is well again; one collection later nothing is lost.
    pub async fn settle(&mut self) {
        self.told("all is well again");
        for machine in self.machines.iter().flatten() {
            // Who dies after its collection has had none.
            machine.link.spare();
            machine.link.mend();
        }
        self.arrive().await;
        // Faults that were not met yet.
        let probe = Txn::default().delete("/none");
        let mut well = 0;
        while well < 8 {
            let done = self.memory.txn(probe.clone()).await;
            well = if done.is_ok() { well + 1 } else { 0 };
        }
        self.reconcile().await;
        for n in 0..self.machines.len() {
            let mut attempts = 0;
            loop {
                match self.collect(n).await {
                    Some(Ok(())) => break,
                    None | Some(Err(Error::StoreUnavailable { .. })) if attempts < 200 => {}
                    failed => panic!("n{n} cannot collect: {failed:?}"),
                }
                attempts += 1;
            }
        }
        self.catch_up().await;
        let held = consistent(&self.memory).await;
        for (address, handle) in &held {
            let pod = self.pods.get(address).map(|(_, handle)| handle);
            assert_eq!(pod, Some(handle), "{address} of {handle} is lost, one collection later");
        }
        for (address, (n, handle)) in &self.pods {
            let status = self.machine(*n).node.ipam.status();
            assert!(held.contains_key(address), "{address} of {handle} is free: {status:#?}");
        }
    }
}

fn name(n: usize) -> String {
    format!("n{n}")
}

/// Where no disk is waited for.
fn disk() -> TempDir {
    TempDir::with_prefix_in("ipam-model-", "/dev/shm").unwrap()
}

/// What a request may fail with in a cluster that is too small and often broken.
fn is_expected(error: &Error) -> bool {
    matches!(
        error,
        Error::PoolExhausted { .. }
            | Error::StoreUnavailable { .. }
            | Error::NoPool { .. }
            | Error::NotInPool { .. }
            | Error::AddressInUse { .. }
            | Error::NotOurBlock { .. }
            | Error::Overlap { .. }
            | Error::Contention { .. }
    )
}
