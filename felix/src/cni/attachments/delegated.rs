//! What is not the agent's own IPAM's: what other plugins gave, and what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::backend::Backend;
use super::super::journal::{Phase, Record, Role};
use super::super::protocol::{Error, PodCidrs};
use super::super::spec::{Call, Command, code};
use super::{Attachments, deadline};
use crate::model::EndpointId;

/// What other IPAM plugins gave to endpoints of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delegated {
    /// The addresses that are in none of `networks`, in order.
    pub addresses: Vec<IpAddr>,
    /// The node's own networks that addresses were taken from, in order.
    pub networks: Vec<IpNet>,
}

impl Delegated {
    /// What of others is in use.
    pub(super) fn of(table: &BTreeMap<EndpointId, Record>) -> Self {
        let used = || {
            let ready = table.values().filter(|record| record.phase == Phase::Ready);
            ready.filter(|record| record.role == Role::Delegated)
        };
        let networks: BTreeSet<IpNet> =
            used().flat_map(|record| &record.networks).copied().collect();
        let addresses = used().flat_map(|record| &record.endpoint.addresses).copied();
        let alone = addresses.filter(|address| !networks.iter().any(|net| net.contains(address)));
        let addresses: BTreeSet<IpAddr> = alone.collect();
        Self {
            addresses: addresses.into_iter().collect(),
            networks: networks.into_iter().collect(),
        }
    }
}

impl<B: Backend> Attachments<B> {
    /// The networks of the node that the IPAM plugin of an attachment is told of: for one that is
    /// on record those that it was told of, whatever the node has now and whether or not the source
    /// is there.
    pub(in super::super) async fn pod_cidrs(&self, call: &Call) -> Result<PodCidrs, Error> {
        let deadline = match call.command {
            Command::Add => Some(deadline(&self.options)),
            _ => {
                let known = self.get(&call.id).filter(|record| !record.networks.is_empty());
                if let Some(Record { networks, .. }) = known {
                    return Ok(PodCidrs { networks, ..PodCidrs::default() });
                }
                None
            }
        };
        match self.backend.pod_cidrs(deadline).await {
            // What goes by container alone must not wait for the source.
            Err(_) if matches!(call.command, Command::Del | Command::Check | Command::Gc) => {
                Ok(PodCidrs::default())
            }
            Err(failure) if call.command == Command::Status => Err(Error {
                code: code::NOT_AVAILABLE,
                msg: "not ready for new pods".into(),
                details: failure.to_string(),
            }),
            answer => Ok(answer?),
        }
    }
}
