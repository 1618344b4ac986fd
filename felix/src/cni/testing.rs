//! A backend with a memory, which fails, hangs and crashes where it is told to, and notes what
//! must never happen. Shared by the tests of the server and of the plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::{Value, json};
use smallvec::{SmallVec, smallvec};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::backend::{AssignSpec, Backend, Failure, Observation, PodFacts, Query};
use super::model::{IfIndex, Labels, LocalEndpoint};
use super::protocol::{Error, PodCidrs};
use super::spec::PodArgs;

/// A directory in memory, if there is such a file system: these tests are about order, and make
/// many thousands of journal writes. The journal's own tests are about the disk.
pub(super) fn directory() -> Directory {
    Directory(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap().keep())
}

/// It goes when this is dropped, though the journal of an agent that is gone may have a file to make yet.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while std::fs::remove_dir_all(&self.0).is_err()
            && self.0.exists()
            && std::time::Instant::now() < deadline
        {
            std::thread::yield_now();
        }
    }
}

/// Of every pod's namespace.
fn namespace_labels() -> Labels {
    [("team", "a")].into_iter().collect()
}

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "not every test that shares this uses all")]
pub(super) enum Fault {
    /// It fails, without effect.
    FailBefore,
    /// It has its effect and fails.
    FailAfter,
    /// It never returns, without effect.
    HangBefore,
    /// It has its effect and never returns.
    HangAfter,
    /// It panics, without effect.
    Panic,
}

/// What there is, which must be nothing in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct World {
    /// Addresses by handle.
    pub(super) assigned: BTreeMap<String, Vec<IpAddr>>,
    /// Host interfaces with policy and route, by index.
    pub(super) committed: BTreeMap<IfIndex, String>,
    /// Routes to addresses, by index. Only the agent's memory of what it wants: it goes with it.
    pub(super) routes: BTreeMap<IpAddr, IfIndex>,
    /// Links: index by host interface.
    pub(super) links: BTreeMap<String, IfIndex>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) world: World,
    /// Calls that have or take away something, in order.
    pub(super) calls: Vec<String>,
    /// By number of the call.
    pub(super) faults: BTreeMap<usize, Fault>,
    /// Calls beginning with one of these fail for as long as it is here.
    pub(super) failing: Vec<&'static str>,
    /// What must never happen, and did.
    pub(super) violations: Vec<String>,
    /// Pods that the source does not know yet, by name.
    pub(super) unknown: BTreeSet<String>,
    pub(super) annotations: Vec<(String, String)>,
    pub(super) not_ready: Option<Error>,
    pub(super) differences: Vec<String>,
    pub(super) observed: Vec<Observation>,
    /// Addresses of another IPAM plugin.
    pub(super) delegated: Vec<IpAddr>,
    /// The node's networks; None while the source does not know it.
    pub(super) pod_cidrs: Option<Vec<IpNet>>,
    /// Links that carry traffic.
    open: BTreeSet<IfIndex>,
    indices: IfIndex,
    addresses: u32,
}

#[derive(Clone, Default)]
pub(super) struct Fake(pub(super) Arc<Mutex<State>>);

#[allow(dead_code, reason = "not every test that shares this uses all")]
impl Fake {
    pub(super) fn world(&self) -> World {
        self.0.lock().world.clone()
    }

    /// Calls so far.
    pub(super) fn calls(&self) -> Vec<String> {
        self.0.lock().calls.clone()
    }

    /// From now on, counted anew.
    pub(super) fn faults(&self, faults: &[(usize, Fault)]) {
        let mut state = self.0.lock();
        state.calls.clear();
        state.faults = faults.iter().copied().collect();
    }

    pub(super) fn failing(&self, prefixes: &[&'static str]) {
        self.0.lock().failing = prefixes.to_vec();
    }

    #[track_caller]
    pub(super) fn assert_empty(&self) {
        let state = self.0.lock();
        assert_eq!(state.world, World::default());
        assert_eq!(state.violations, [""; 0]);
    }

    async fn call(
        &self,
        name: String,
        effect: impl FnOnce(&mut State) + Send,
    ) -> Result<(), Failure> {
        let fault = {
            let mut state = self.0.lock();
            let number = state.calls.len();
            state.calls.push(name.clone());
            if state.failing.iter().any(|prefix| name.starts_with(prefix)) {
                return Err(Failure::TryAgainLater(format!("{name} is failing")));
            }
            state.faults.remove(&number)
        };
        yield_now().await;
        let injected = || Err(Failure::TryAgainLater(format!("injected into {name}")));
        match fault {
            Some(Fault::FailBefore) => return injected(),
            Some(Fault::HangBefore) => pending().await,
            Some(Fault::Panic) => panic!("injected into {name}"),
            _ => effect(&mut self.0.lock()),
        }
        yield_now().await;
        match fault {
            Some(Fault::FailAfter) => injected(),
            Some(Fault::HangAfter) => pending().await,
            _ => Ok(()),
        }
    }
}

impl Backend for Fake {
    type Link = IfIndex;
    /// How many addresses have been given: each is the number of its own assignment.
    type Epoch = u32;

    fn epoch(&self) -> u32 {
        self.0.lock().addresses
    }

    async fn collect(
        &self,
        network: &str,
        since: u32,
        live: BTreeSet<String>,
    ) -> Result<(), Failure> {
        let prefix = format!("{network}.");
        let latest = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + since));
        let young = |addresses: &[IpAddr]| addresses.iter().any(|a| a.is_ipv4() && *a > latest);
        self.call(format!("collect {network}"), |state| {
            state.world.assigned.retain(|handle, addresses| {
                let judged = handle.starts_with(&prefix) && !live.is_empty() && !young(addresses);
                !judged || live.contains(handle)
            });
        })
        .await
    }

    fn ready(&self, _own_addresses: bool) -> Result<(), Error> {
        self.0.lock().not_ready.clone().map_or(Ok(()), Err)
    }

    fn default_mtu(&self) -> u32 {
        1500
    }

    fn next_ifindex(&self) -> IfIndex {
        let mut state = self.0.lock();
        state.indices += 1;
        1000 + state.indices
    }

    async fn pod(&self, pod: &PodArgs, deadline: Instant) -> Result<PodFacts, Failure> {
        self.call(format!("pod {}", pod.name), |_| ()).await?;
        if self.0.lock().unknown.contains(&pod.name) {
            sleep_until(deadline).await;
            return Err(Failure::TryAgainLater(format!("pod {} is not known", pod.name)));
        }
        let annotations = self.0.lock().annotations.iter().cloned().collect();
        let labels = [("app", "a")].into_iter().collect();
        let uid = "uid".into();
        let namespace_labels = Some(namespace_labels());
        Ok(PodFacts { uid, labels, annotations, namespace_labels, ..PodFacts::default() })
    }

    async fn pod_cidrs(&self, deadline: Option<Instant>) -> Result<PodCidrs, Failure> {
        let networks = self.0.lock().pod_cidrs.clone();
        match (networks, deadline) {
            (Some(networks), _) => Ok(PodCidrs { node: "node1".into(), networks }),
            (None, deadline) => {
                if let Some(deadline) = deadline {
                    sleep_until(deadline).await;
                }
                Err(Failure::TryAgainLater("Node node1 is not known".into()))
            }
        }
    }

    async fn assign(&self, spec: AssignSpec) -> Result<SmallVec<[IpAddr; 2]>, Failure> {
        let mut assigned = SmallVec::new();
        self.call(format!("assign {}", spec.handle), |state| {
            state.addresses += 1;
            let n = state.addresses;
            assigned = smallvec![
                Ipv4Addr::from_bits(0x0a00_0000 + n).into(),
                Ipv6Addr::from_bits((0xfd << 120) + u128::from(n)).into(),
            ];
            if !spec.wishes.addresses.is_empty() {
                assigned = spec.wishes.addresses.iter().copied().collect();
            }
            if spec.namespace_labels != Some(namespace_labels()) {
                state.violations.push(format!("{} has not its namespace's labels", spec.handle));
            }
            if state.world.assigned.insert(spec.handle.clone(), assigned.to_vec()).is_some() {
                state.violations.push(format!("{} was assigned to twice", spec.handle));
            }
        })
        .await?;
        Ok(assigned)
    }

    async fn release(&self, handle: &str) -> Result<(), Failure> {
        self.call(format!("release {handle}"), |state| {
            state.world.assigned.remove(handle);
        })
        .await
    }

    fn pool_of(&self, address: IpAddr) -> Option<IpNet> {
        let pool = if address.is_ipv4() { "10.0.0.0/16" } else { "fd00::/64" };
        pool.parse().ok()
    }

    async fn open_lease(
        &self,
        addresses: &[IpAddr],
        via: Option<&str>,
    ) -> Result<Option<IfIndex>, Failure> {
        let index = via.map(|_| 7);
        self.call(format!("lease {via:?}"), |state| {
            let routes = index.into_iter().flat_map(|via| addresses.iter().map(move |a| (*a, via)));
            state.world.routes.extend(routes);
        })
        .await?;
        Ok(index)
    }

    async fn commit_endpoint(&self, endpoint: &LocalEndpoint) -> Result<(), Failure> {
        self.call(format!("commit {}", endpoint.host_interface), |state| {
            let delegated = endpoint.addresses.iter().any(|a| state.delegated.contains(a));
            let assigned = state.world.assigned.get(&endpoint.handle);
            if !delegated && assigned != Some(&endpoint.addresses.to_vec()) {
                state.violations.push(format!("{} has not its addresses", endpoint.handle));
            }
            state.world.committed.insert(endpoint.host_index, endpoint.host_interface.clone());
            let routes = endpoint.addresses.iter().map(|one| (*one, endpoint.host_index));
            state.world.routes.extend(routes);
        })
        .await
    }

    async fn remove_endpoint(&self, endpoint: &LocalEndpoint) -> Result<(), Failure> {
        self.call(format!("remove {}", endpoint.host_interface), |state| {
            state.world.committed.remove(&endpoint.host_index);
            for address in &endpoint.addresses {
                state.world.routes.remove(address);
            }
        })
        .await
    }

    async fn prepare_link(&self, endpoint: &LocalEndpoint) -> Result<IfIndex, Failure> {
        let name = &endpoint.host_interface;
        self.call(format!("link {name}"), |state| {
            if state.world.links.insert(name.clone(), endpoint.host_index).is_some() {
                state.violations.push(format!("{name} was there already"));
            }
        })
        .await?;
        Ok(endpoint.host_index)
    }

    async fn open_link(&self, link: IfIndex, endpoint: &LocalEndpoint) -> Result<(), Failure> {
        let name = &endpoint.host_interface;
        self.call(format!("open {name}"), |state| {
            if !state.world.committed.contains_key(&endpoint.host_index) {
                state.violations.push(format!("{name} was opened before its policy"));
            }
            if link != endpoint.host_index || state.world.links.get(name) != Some(&link) {
                state.violations.push(format!("{name} is not what was prepared"));
            }
            state.open.insert(link);
        })
        .await
    }

    async fn delete_link(&self, endpoint: &LocalEndpoint) -> Result<(), Failure> {
        let name = &endpoint.host_interface;
        self.call(format!("unlink {name}"), |state| {
            if state.world.links.get(name) == Some(&endpoint.host_index) {
                state.world.links.remove(name);
                let delegated = endpoint.addresses.iter().any(|a| state.delegated.contains(a));
                if state.open.remove(&endpoint.host_index)
                    && !delegated
                    && !state.world.assigned.contains_key(&endpoint.handle)
                {
                    state.violations.push(format!("{name} lost its addresses before its link"));
                }
            }
        })
        .await
    }

    async fn check(&self, _endpoint: &LocalEndpoint) -> Result<Vec<String>, Failure> {
        Ok(self.0.lock().differences.clone())
    }

    async fn query(&self, query: Query) -> Result<Value, Failure> {
        Ok(json!({"answer to": format!("{query:?}")}))
    }

    fn observe(&self, observation: &Observation) {
        self.0.lock().observed.push(observation.clone());
    }
}
