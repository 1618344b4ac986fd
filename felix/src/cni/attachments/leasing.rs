//! ADD of the IPAM plugin: addresses for a link that another main plugin makes. Written down and
//! undone as an endpoint is; only the link, and what goes with it, is not there.

use std::net::IpAddr;

use ipnet::IpNet;
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

use super::super::annotations::Wishes;
use super::super::backend::{AssignSpec, Backend, Failure};
use super::super::journal::{Phase, Record, Role};
use super::super::lease::{self, Lease, Leased};
use super::super::protocol::Error;
use super::super::spec::Call;
use super::add::{Limit, at_most_one_of_each_family, found, later};
use super::{Attachments, Served, changing, handle};
use crate::model::{Labels, LocalEndpoint};

/// How often addresses are given back because a container cannot have them. A pool has few such;
/// what is given back rests, and is not given again at once.
const ATTEMPTS: usize = 8;

impl<B: Backend> Attachments<B> {
    /// What the endpoints have of this node's IPAM.
    pub(in crate::cni) fn held(&self) -> Vec<ipam::Held> {
        let table = self.table.lock();
        let ready = table
            .values()
            .filter(|record| record.phase == Phase::Ready && record.role.holds_addresses());
        let held = |LocalEndpoint { namespace, pod, handle, addresses, .. }: &LocalEndpoint| {
            let attributes = [("namespace", namespace), ("pod", pod)];
            ipam::Held {
                handle: handle.clone(),
                addresses: addresses.to_vec(),
                attributes: attributes.map(|(key, value)| (key.to_owned(), value.clone())).into(),
            }
        };
        ready.map(|record| held(&record.endpoint)).collect()
    }

    pub(super) async fn add_lease(
        &self,
        call: &Call,
        cancel: &CancellationToken,
    ) -> Result<Served, Error> {
        let options = self.options();
        let limit = Limit { options, deadline: super::deadline(options), cancel };
        let Some(of) = &call.lease else {
            return Err(Failure::Internal("not a call of the IPAM plugin".into()).into());
        };
        let wishes = of.wishes(call).map_err(|error| Failure::Invalid(error.to_string()))?;
        if let Err(error) = std::fs::metadata(&call.netns) {
            return Err(Failure::NoNetns(format!("{}: {error}", call.netns)).into());
        }
        let container = self.containers.lock(&call.id.container_id);
        let earlier = "waiting for an earlier request of this container";
        let _container = limit.run(earlier, found(container)).await?;
        self.finish_earlier(&call.id).await?;

        let pod = &call.pod;
        let waiting = format!("waiting for pod {}/{}", pod.namespace, pod.name);
        let facts = limit.run(&waiting, self.backend.pod(pod, limit.inner_deadline())).await?;
        let lease = LocalEndpoint {
            id: call.id.clone(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            pod_uid: if pod.uid.is_empty() { facts.uid } else { pod.uid.clone() },
            netns: call.netns.clone(),
            host_interface: String::new(),
            host_index: self.backend.next_ifindex(),
            mac: [0; 6],
            addresses: SmallVec::new(),
            handle: handle(&call.config.name, &call.id),
            mtu: 0,
            labels: [].into(),
            service_account: String::new(),
        };
        // Nobody else has it: the container's lock is held.
        let guard = self.interfaces.lock(&changing(&lease)).await;
        match self.hold(&limit, of, lease, wishes, facts.namespace_labels).await {
            Ok((lease, leased)) => Ok(Served {
                output: Some(lease::result(call, &leased)),
                added: Some(lease.host_index),
            }),
            Err(error) => {
                self.undo_failed(&call.id, &guard).await;
                Err(error)
            }
        }
    }

    /// Whatever this returns early from is undone by the caller.
    async fn hold(
        &self,
        limit: &Limit<'_>,
        of: &Lease,
        mut lease: LocalEndpoint,
        wishes: Wishes,
        namespace_labels: Option<Labels>,
    ) -> Result<(LocalEndpoint, Vec<Leased>), Error> {
        let role = Role::Lease { via: None };
        let record = |phase, role, lease: &LocalEndpoint| {
            let (networks, endpoint) = (Vec::new(), lease.clone());
            Record { phase, role, networks, endpoint }
        };
        let intent = self.record(record(Phase::Adding, role, &lease));
        let intent = async { intent.await.map_err(later) };
        limit.run("recording the lease", intent).await?;
        let spec = AssignSpec {
            handle: lease.handle.clone(),
            namespace: lease.namespace.clone(),
            pod: lease.pod.clone(),
            wishes,
            namespace_labels,
            deadline: limit.inner_deadline(),
        };
        let given = limit.run("waiting for addresses", self.fit(of, spec)).await?;
        lease.addresses = given.iter().map(|(address, _)| *address).collect();
        let addressed = record(Phase::Adding, role, &lease);
        self.table.lock().insert(lease.id.clone(), addressed);
        let leased = given.iter().map(|(address, pool)| of.answer(*address, *pool));
        let leased: Vec<Leased> = leased.collect::<Result<_, _>>()?;

        let opened = self.backend.open_lease(&lease.addresses, of.bridge.as_deref());
        let via = limit.run("making the addresses reachable", opened).await?;
        let role = Role::Lease { via };
        let ready = self.record(record(Phase::Ready, role, &lease));
        let record = async { ready.await.map_err(later) };
        limit.run("recording the lease", record).await?;
        Ok((lease, leased))
    }

    /// Addresses that a container can have, with their pools.
    async fn fit(&self, of: &Lease, spec: AssignSpec) -> Result<Vec<(IpAddr, IpNet)>, Failure> {
        let mut passed_over = Vec::new();
        while passed_over.len() < ATTEMPTS {
            let given = at_most_one_of_each_family(self.backend.assign(spec.clone()).await?)?;
            let with_pool = given.into_iter().map(|address| {
                let pool = self.backend.pool_of(address);
                let pool = pool.ok_or_else(|| later(format!("the pool of {address} is gone")))?;
                Ok((address, pool))
            });
            let with_pool: Vec<(IpAddr, IpNet)> = with_pool.collect::<Result<_, Failure>>()?;
            let unfit = with_pool.iter().find_map(|(address, pool)| {
                Some(format!("{address} of {pool} {}", of.unfit(*address, *pool)?))
            });
            let Some(reason) = unfit else { return Ok(with_pool) };
            if !of.addresses.is_empty() {
                return Err(Failure::Invalid(reason));
            }
            tracing::info!(handle = spec.handle, reason, "not a container's address; another");
            self.backend.release(&spec.handle).await?;
            passed_over.push(reason);
        }
        Err(later(format!("no address that a container can have: {}", passed_over.join("; "))))
    }
}
