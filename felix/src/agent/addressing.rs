//! Tells the allocator which pools there are, and gives back what no endpoint holds.

use std::collections::{BTreeMap, BTreeSet};

use api::selector::Selector;
use api::v3;
use ipam::{Families, Ipam, Live, Pool};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fabric::Addressing;
use crate::observe::health::Condition;

/// Families of which this node may take addresses for pods.
pub(super) fn usable_families(addressing: &Addressing) -> Families {
    let usable = |v4: bool| {
        addressing.pools.values().any(|pool| {
            let spec = &pool.spec;
            let family = spec.cidr.contains(':') != v4;
            let selected = Selector::parse(&spec.node_selector)
                .is_ok_and(|selector| selector.matches(&addressing.node_labels));
            family
                && !spec.disabled
                && spec.assignment_mode == v3::AssignmentMode::Automatic
                && spec.allows(v3::IPPoolAllowedUse::Workload)
                && selected
        })
    };
    Families { v4: usable(true), v6: usable(false) }
}

/// Hands every change of the pools to the allocator, until `stop`.
pub(super) async fn feed(
    mut addressing: watch::Receiver<Addressing>,
    ipam: Ipam,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = addressing.changed() => changed?,
        }
        let now = addressing.borrow_and_update().clone();
        let mut pools = Vec::with_capacity(now.pools.len());
        for pool in now.pools.values() {
            match Pool::try_from(&**pool) {
                Ok(pool) => pools.push(pool),
                Err(error) => tracing::warn!(%error, "an IPPool cannot be used"),
            }
        }
        let labels: BTreeMap<String, String> =
            now.node_labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        ipam.set_node_labels(labels);
        match ipam::pool::reservations(now.reservations.values().map(|r| &**r)) {
            Ok(reservations) => ipam.set_reservations(reservations),
            Err(error) => tracing::warn!(%error, "an IPReservation cannot be used"),
        }
        if let Some(configuration) = &now.configuration
            && let Err(error) = ipam.set_config(settings(&configuration.spec))
        {
            tracing::warn!(%error, "IPAMConfiguration/default is not in force");
        }
        ipam.set_pools(pools);
    }
}

fn settings(spec: &v3::IPAMConfigurationSpec) -> ipam::IpamConfig {
    ipam::IpamConfig {
        strict_affinity: spec.strict_affinity,
        auto_allocate_blocks: spec.auto_allocate_blocks,
        max_blocks_per_host: spec.max_blocks_per_host,
        ip_cooldown_seconds: Some(spec.ip_cooldown_seconds),
        kube_virt_vm_address_persistence: Some(format!(
            "{:?}",
            spec.kube_virt_vm_address_persistence
        )),
    }
}

/// Keeps readiness up to date with the store, and once it can be reached gives back, a single time,
/// what no endpoint of this node holds: `live` was taken before any request was served.
pub(super) async fn attend(
    ipam: Ipam,
    live: Option<Live>,
    condition: Condition,
    retry: impl Fn() + Send,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut live = live;
    let mut status = ipam.watch_status();
    let mut was_ready = false;
    loop {
        let (ready, text) = {
            let status = status.borrow_and_update();
            let problem = status.problem.clone().unwrap_or_else(|| "not connected yet".into());
            (status.ready, format!("{}: {problem}", status.store))
        };
        condition.set(if ready { Ok(()) } else { Err(text) });
        if ready && !was_ready {
            retry();
        }
        was_ready = ready;
        if ready && let Some(proof) = live.clone() {
            match ipam.collect(proof).await {
                Ok(freed) => {
                    live = None;
                    if !freed.is_empty() {
                        tracing::info!(addresses = ?freed, "released: no endpoint of this node holds them");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "addresses that no endpoint holds are not released yet");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = status.changed() => changed?,
        }
    }
}

/// The proof for [`attend`]: the endpoints that the journal holds. None if a damaged journal lost
/// some: then nothing proves that an address is free.
pub(super) fn proof(ipam: &Ipam, handles: Option<BTreeSet<String>>) -> Option<Live> {
    let epoch = ipam.epoch();
    let handles = handles?;
    Some(Live::handles(epoch, handles).unwrap_or_else(|| Live::none(epoch)))
}
