//! Tells the allocator which pools there are, and gives back what no endpoint holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::selector::Selector;
use api::v3;
use futures::FutureExt;
use futures::future::BoxFuture;
use ipam::{Families, Ipam, Live, Pool, Pools};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fabric::Addressing;
use crate::kernel;
use crate::model::Labels;
use crate::observe::health::Condition;

/// Families of which this node may take addresses for pods of a namespace with these labels, or of
/// any namespace.
pub(super) fn usable_families(addressing: &Addressing, namespace: Option<&Labels>) -> Families {
    let node = addressing.node_labels.clone().unwrap_or_default();
    let selects = |selector: &str, labels: &Labels| {
        Selector::parse(selector).is_ok_and(|selector| selector.matches(labels))
    };
    let usable = |v4: bool| {
        addressing.pools.values().any(|pool| {
            let spec = &pool.spec;
            let family = spec.cidr.contains(':') != v4;
            let for_namespace = spec.namespace_selector.is_empty()
                || namespace.is_none_or(|labels| selects(&spec.namespace_selector, labels));
            family
                && !spec.disabled
                && spec.assignment_mode == v3::AssignmentMode::Automatic
                && spec.allows(v3::IPPoolAllowedUse::Workload)
                && selects(&spec.node_selector, &node)
                && for_namespace
        })
    };
    Families { v4: usable(true), v6: usable(false) }
}

/// How often the allocator looks for what has become superfluous while nothing is asked of it.
const TEND: Duration = Duration::from_secs(30);

/// Hands every change of the pools, reservations and configuration to the allocator, until `stop`.
pub(super) async fn feed(
    mut addressing: watch::Receiver<Addressing>,
    ipam: Ipam,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (mut reserved, mut problems) = (Reserved::default(), Problems::default());
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = addressing.changed() => changed?,
            () = tokio::time::sleep(TEND) => {
                ipam.tend();
                continue;
            }
        }
        let now = addressing.borrow_and_update().clone();
        if let Some(labels) = &now.node_labels {
            let labels = labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            ipam.set_node_labels(labels);
        }
        let mut wrong = BTreeSet::new();
        ipam.set_reservations(reserved.update(&now.reservations, &mut wrong));
        let configuration = now.configuration.as_deref().map(ipam::IpamConfig::from);
        if let Err(error) = ipam.set_config(configuration) {
            wrong.insert(format!("IPAMConfiguration/default is not in force: {error}"));
        }
        // After the reservations: a new pool never gives a reserved address.
        ipam.set_pools(usable(now.pools.values().map(|pool| &**pool), &mut wrong));
        for problem in problems.appeared(wrong) {
            tracing::warn!("{problem}");
        }
    }
}

/// The reserved networks, by IPReservation.
#[derive(Debug, Default)]
struct Reserved(BTreeMap<Arc<str>, Vec<IpNet>>);

impl Reserved {
    /// Takes what there is now and says what is reserved. What an object meant with an entry that
    /// cannot be read nobody knows, so that what the object reserved before stays reserved with
    /// what can be read, until it is mended or deleted.
    fn update(
        &mut self,
        now: &BTreeMap<Arc<str>, Arc<v3::IPReservation>>,
        wrong: &mut BTreeSet<String>,
    ) -> Vec<IpNet> {
        self.0.retain(|name, _| now.contains_key(name));
        for (name, resource) in now {
            let (nets, unread) = ipam::pool::reservations(resource);
            let kept = self.0.entry(name.clone()).or_default();
            if unread.is_empty() {
                kept.clear();
            }
            for net in nets {
                if !kept.contains(&net) {
                    kept.push(net);
                }
            }
            wrong.extend(
                unread.iter().map(|error| {
                    format!("{error}; what this object reserved before stays reserved")
                }),
            );
        }
        self.0.values().flatten().copied().collect()
    }
}

/// What is wrong at present, so that each problem is told once and not at every change.
#[derive(Debug, Default)]
struct Problems(BTreeSet<String>);

impl Problems {
    /// Takes what is wrong now and returns what was not before.
    fn appeared(&mut self, now: BTreeSet<String>) -> Vec<String> {
        let new = now.difference(&self.0).cloned().collect();
        self.0 = now;
        new
    }
}

/// Between attempts to give back what no endpoint holds.
const GIVE_BACK_RETRY: Duration = Duration::from_secs(5);

/// Keeps readiness up to date with the store, and once it can be reached gives back, a single time,
/// what no endpoint of this node holds: `live` was taken before any request was served.
pub(super) async fn attend(
    ipam: Ipam,
    kernel: kernel::Kernel,
    live: Option<Live>,
    condition: Condition,
    retry: impl Fn() + Send,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let given_back = async {
        match live {
            Some(live) => give_back(&ipam, &live, &forgetting(&kernel), GIVE_BACK_RETRY).await,
            None => Ok(()),
        }
    };
    let work = futures::future::try_join(readiness(&ipam, condition, retry), given_back);
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        done = work => done.map(|_| ()),
    }
}

/// Tells `condition` of every change, and calls `retry` whenever the store can be used again.
async fn readiness(
    ipam: &Ipam,
    condition: Condition,
    retry: impl Fn() + Send,
) -> anyhow::Result<()> {
    let mut status = ipam.watch_status();
    let mut was_there = false;
    loop {
        let (ready, there, text) = {
            let status = status.borrow_and_update();
            let problem = status.problem.clone().unwrap_or_else(|| "not connected yet".into());
            (status.ready, is_there(&status), format!("{}: {problem}", status.store))
        };
        condition.set(if ready { Ok(()) } else { Err(text) });
        if there && !was_there {
            retry();
        }
        was_there = there;
        status.changed().await?;
    }
}

/// True if the store can be used; in local-first mode requests may be served without it.
fn is_there(status: &ipam::Status) -> bool {
    status.ready && status.problem.is_none()
}

/// Forgets the flows of addresses.
pub(super) type Forget =
    dyn Fn(Vec<IpAddr>) -> BoxFuture<'static, Result<(), kernel::Error>> + Send + Sync;

/// The kernel's.
pub(super) fn forgetting(kernel: &kernel::Kernel) -> Box<Forget> {
    let kernel = kernel.clone();
    Box::new(move |addresses| {
        let kernel = kernel.clone();
        async move { kernel.forget(addresses).await }.boxed()
    })
}

/// Collects once, as soon as the store can be used; a failure is tried again after `pause`.
async fn give_back(
    ipam: &Ipam,
    live: &Live,
    forget: &Forget,
    pause: Duration,
) -> anyhow::Result<()> {
    let mut status = ipam.watch_status();
    loop {
        status.wait_for(is_there).await?;
        match collect(ipam, live, forget).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "addresses that no endpoint holds are not released yet");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Gives back what nothing of `live` holds. Flows of these addresses are forgotten first: whoever
/// gets one next does not answer for them.
pub(super) async fn collect(ipam: &Ipam, live: &Live, forget: &Forget) -> anyhow::Result<()> {
    let dead = ipam.collectable(live.clone()).await?;
    if dead.is_empty() {
        return Ok(());
    }
    forget(dead).await?;
    let freed = ipam.collect(live.clone()).await?;
    tracing::info!(addresses = ?freed, "released: no endpoint of this node holds them");
    Ok(())
}

/// The proof for [`attend`]: the endpoints that the journal holds. None if a damaged journal lost
/// some: then nothing proves that an address is free.
pub(super) fn proof(ipam: &Ipam, handles: Option<BTreeSet<String>>) -> Option<Live> {
    let epoch = ipam.epoch();
    let handles = handles?;
    Some(Live::handles(epoch, handles).unwrap_or_else(|| Live::none(epoch)))
}

/// The pools as the allocator takes them. One that makes no sense is told, and counted: what it means
/// to have is nobody's to give up.
fn usable<'a>(
    objects: impl Iterator<Item = &'a v3::IPPool>,
    wrong: &mut BTreeSet<String>,
) -> Pools {
    let mut pools = Pools::default();
    for object in objects {
        match Pool::try_from(object) {
            Ok(pool) => pools.known.push(pool),
            Err(error) => {
                wrong.insert(format!("not used: {error}"));
                pools.unreadable += 1;
            }
        }
    }
    pools
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipam::store::memory::{Fault, MemoryStore};
    use ipam::{AssignRequest, Options, StoreConfig};

    type Reservations = BTreeMap<Arc<str>, Arc<v3::IPReservation>>;

    fn reservations(objects: &[(&str, &[&str])]) -> Reservations {
        let object = |(name, cidrs): &(&str, &[&str])| {
            let reserved_cidrs = cidrs.iter().map(|&cidr| cidr.to_owned()).collect();
            let spec = v3::IPReservationSpec { reserved_cidrs };
            (Arc::from(*name), Arc::new(v3::IPReservation::new(name, spec)))
        };
        objects.iter().map(object).collect()
    }

    fn update(reserved: &mut Reserved, objects: &[(&str, &[&str])]) -> (Vec<String>, usize) {
        let mut wrong = BTreeSet::new();
        let nets = reserved.update(&reservations(objects), &mut wrong);
        (nets.iter().map(ToString::to_string).collect(), wrong.len())
    }

    #[test]
    fn a_pool_of_other_namespaces_makes_no_family_usable() {
        let pool = |cidr: &str, namespaces: &str| {
            let namespace_selector = namespaces.to_owned();
            Arc::new(v3::IPPool::new(
                cidr,
                v3::IPPoolSpec { namespace_selector, ..v3::IPPoolSpec::new(cidr) },
            ))
        };
        let mut addressing = Addressing::default();
        addressing.pools.insert("four".into(), pool("10.0.0.0/16", ""));
        addressing.pools.insert("six".into(), pool("fd00::/64", "team == 'a'"));
        let labels = |team: &str| Labels::from_iter([("team", team)]);
        let usable = |team: &str| usable_families(&addressing, Some(&labels(team)));
        assert_eq!((usable("a").v4, usable("a").v6), (true, true));
        assert_eq!((usable("b").v4, usable("b").v6), (true, false));
        assert!(usable_families(&addressing, None).v6, "somebody may use it");
    }

    #[test]
    fn a_bad_reservation_frees_nothing() {
        let mut reserved = Reserved::default();
        let good: (&str, &[&str]) = ("good", &["10.0.0.0/30"]);
        // At the start: all that can be read.
        let (nets, wrong) = update(&mut reserved, &[("bad", &["x", "10.0.1.1"]), good]);
        assert_eq!((nets, wrong), (vec!["10.0.1.1/32".to_owned(), "10.0.0.0/30".to_owned()], 1));
        // A good one that becomes bad: with what it reserved before.
        let (nets, wrong) = update(&mut reserved, &[("good", &["y", "10.0.2.0/24"])]);
        assert_eq!((nets, wrong), (vec!["10.0.0.0/30".to_owned(), "10.0.2.0/24".to_owned()], 1));
        let (nets, wrong) = update(&mut reserved, &[("good", &["10.0.2.0/24"])]);
        assert_eq!((nets, wrong), (vec!["10.0.2.0/24".to_owned()], 0));
        assert_eq!(update(&mut reserved, &[]), (Vec::new(), 0));
    }

    #[test]
    fn a_pool_that_makes_no_sense_is_told_and_counted() {
        let pool = |name, cidr: &str| v3::IPPool::new(name, v3::IPPoolSpec::new(cidr));
        let all = [pool("good", "10.0.0.0/24"), pool("bad", "10.0.0.0/99")];
        let mut wrong = BTreeSet::new();
        let pools = usable(all.iter(), &mut wrong);
        assert_eq!((pools.known.len(), pools.unreadable), (1, 1));
        assert!(wrong.iter().all(|text| text.contains("bad")) && wrong.len() == 1, "{wrong:?}");
    }

    #[test]
    fn a_problem_is_told_when_it_appears() {
        let mut problems = Problems::default();
        let set = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        assert_eq!(problems.appeared(set(&["a", "b"])), ["a", "b"]);
        assert!(problems.appeared(set(&["a", "b"])).is_empty());
        assert_eq!(problems.appeared(set(&["b", "c"])), ["c"]);
        assert_eq!(problems.appeared(set(&["a"])), ["a"], "it was gone");
    }

    #[tokio::test]
    async fn a_collection_that_failed_is_tried_again() {
        let (store, disk) = (MemoryStore::default(), tempfile::tempdir().unwrap());
        let open = StoreConfig::Open(Arc::new(store.clone()));
        let ipam = Ipam::open(Options::new("n", open, disk.path())).unwrap();
        let pool = v3::IPPool::new("p", v3::IPPoolSpec::new("10.0.0.0/24"));
        ipam.set_pools(vec![Pool::try_from(&pool).unwrap()]);
        ipam.assign(AssignRequest::pod("h", "default", "pod", Families::V4)).await.unwrap();
        // More conflicts than one request survives; the status says nothing of them.
        store.inject(std::iter::repeat_n(Some(Fault::Conflict), 150));
        let live = Live::none(ipam.epoch());
        let forgotten = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (notes, asked, of) = (forgotten.clone(), ipam.clone(), live.clone());
        let forget = move |addresses: Vec<IpAddr>| {
            let (notes, asked, of) = (notes.clone(), asked.clone(), of.clone());
            async move {
                let held = asked.collectable(of).await.unwrap();
                assert_eq!(held, addresses, "not released before it is forgotten");
                let mut notes = notes.lock();
                notes.push(addresses);
                // The kernel, too, may fail once.
                let failure = kernel::Error::Kernel("busy".into());
                if notes.len() == 1 { Err(failure) } else { Ok(()) }
            }
            .boxed()
        };
        let done = give_back(&ipam, &live, &forget, Duration::from_millis(10));
        tokio::time::timeout(Duration::from_secs(10), done).await.unwrap().unwrap();
        assert!(forgotten.lock().iter().all(|addresses| addresses.len() == 1));
        assert_eq!(ipam.release("h").await.unwrap(), Vec::<IpAddr>::new());
    }
}
