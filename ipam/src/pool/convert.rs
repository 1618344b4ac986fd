//! From the API's resources.

use api::selector::Selector;
use api::v3::{AssignmentMode, IPPool, IPPoolAllowedUse, IPReservation};
use ipnet::IpNet;

use super::{AllowedUse, Pool};
use crate::net::{self, Family};

/// Why a resource is of no use to the allocator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {field}: {reason}")]
pub struct PoolError {
    /// `IPPool` or `IPReservation`.
    pub kind: &'static str,
    /// The object's name.
    pub name: String,
    /// The field, as in the manifest.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl TryFrom<&IPPool> for Pool {
    type Error = PoolError;

    fn try_from(resource: &IPPool) -> Result<Self, PoolError> {
        let spec = &resource.spec;
        let name = resource.metadata.name.clone().unwrap_or_default();
        let wrong =
            |field, reason: String| PoolError { kind: "IPPool", name: name.clone(), field, reason };
        let selector = |field, text: &str| {
            Selector::parse(text).map_err(|error| wrong(field, error.to_string()))
        };
        let cidr: IpNet = spec
            .cidr
            .parse()
            .map_err(|_| wrong("spec.cidr", format!("{:?} is not a network", spec.cidr)))?;
        if cidr != cidr.trunc() {
            return Err(wrong("spec.cidr", format!("{cidr} has host bits set")));
        }
        let sizes = match Family::of_net(&cidr) {
            Family::V4 => 20..=32,
            Family::V6 => 116..=128,
        };
        let block_size = spec.block_size();
        if !sizes.contains(&block_size) {
            let reason = format!("{block_size} is not from {} to {}", sizes.start(), sizes.end());
            return Err(wrong("spec.blockSize", reason));
        }
        if block_size < cidr.prefix_len() {
            let reason = format!("a block of /{block_size} does not fit in {cidr}");
            return Err(wrong("spec.blockSize", reason));
        }
        let namespaces = spec.namespace_selector.as_str();
        let namespace_selector = match namespaces {
            "" => None,
            text => Some(selector("spec.namespaceSelector", text)?),
        };
        let uses = [
            (IPPoolAllowedUse::Workload, AllowedUse::Workload),
            (IPPoolAllowedUse::Tunnel, AllowedUse::Tunnel),
            (IPPoolAllowedUse::LoadBalancer, AllowedUse::LoadBalancer),
        ];
        Ok(Self {
            node_selector: selector("spec.nodeSelector", &spec.node_selector)?,
            namespace_selector,
            cidr,
            block_size,
            disabled: spec.disabled || resource.metadata.deletion_timestamp.is_some(),
            allowed_uses: uses
                .into_iter()
                .filter(|(theirs, _)| spec.allows(*theirs))
                .map(|(_, ours)| ours)
                .collect(),
            manual: spec.assignment_mode == AssignmentMode::Manual,
            name,
        })
    }
}

/// The networks of an IPReservation, and what is wrong with each entry that is neither a network
/// nor an address. An address without a length is reserved alone.
pub fn reservations(resource: &IPReservation) -> (Vec<IpNet>, Vec<PoolError>) {
    let (mut nets, mut wrong) = (Vec::new(), Vec::new());
    for text in &resource.spec.reserved_cidrs {
        let net = text.parse::<IpNet>().map(|net| net.trunc()).ok();
        match net.or_else(|| text.parse().ok().map(net::host)) {
            Some(net) => nets.push(net),
            None => wrong.push(PoolError {
                kind: "IPReservation",
                name: resource.metadata.name.clone().unwrap_or_default(),
                field: "spec.reservedCIDRs",
                reason: format!("{text:?} is neither a network nor an address"),
            }),
        }
    }
    (nets, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::v3::{IPPoolSpec, IPReservationSpec};

    fn convert(spec: IPPoolSpec) -> Result<Pool, String> {
        Pool::try_from(&IPPool::new("p", spec)).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_pools() {
        let pool = convert(IPPoolSpec::new("10.0.0.0/16")).unwrap();
        assert_eq!(pool, crate::pool::tests::pool("p", "10.0.0.0/16"));
        let balancer = IPPoolSpec {
            allowed_uses: vec![IPPoolAllowedUse::LoadBalancer],
            assignment_mode: AssignmentMode::Manual,
            block_size: Some(124),
            disabled: true,
            namespace_selector: "team == 'x'".to_owned(),
            ..IPPoolSpec::new("fd00::/64")
        };
        let pool = convert(balancer).unwrap();
        assert_eq!(pool.allowed_uses, [AllowedUse::LoadBalancer]);
        assert!(pool.manual && pool.disabled && pool.namespace_selector.is_some());
        assert_eq!(pool.block_size, 124);
    }

    #[test]
    fn says_which_field_is_wrong() {
        let base = || IPPoolSpec::new("10.0.0.0/24");
        for (spec, error) in [
            (IPPoolSpec::new("10.0.0.0"), "spec.cidr: \"10.0.0.0\" is not a network"),
            (IPPoolSpec::new("10.0.0.1/24"), "spec.cidr: 10.0.0.1/24 has host bits set"),
            (
                IPPoolSpec { block_size: Some(19), ..base() },
                "spec.blockSize: 19 is not from 20 to 32",
            ),
            (
                IPPoolSpec { block_size: Some(23), ..base() },
                "spec.blockSize: a block of /23 does not fit in 10.0.0.0/24",
            ),
            (IPPoolSpec { node_selector: "a ==".to_owned(), ..base() }, "spec.nodeSelector: "),
            (
                IPPoolSpec { namespace_selector: "a ==".to_owned(), ..base() },
                "spec.namespaceSelector: ",
            ),
        ] {
            let message = convert(spec).unwrap_err();
            assert!(message.starts_with(&format!("IPPool p: {error}")), "{message}");
        }
    }

    #[test]
    fn reads_reservations() {
        let reservation = |cidrs: &[&str]| {
            let reserved_cidrs = cidrs.iter().map(|&cidr| cidr.to_owned()).collect();
            IPReservation::new("r", IPReservationSpec { reserved_cidrs })
        };
        let (nets, wrong) = reservations(&reservation(&["10.0.0.0/30", "x", "fd00::1"]));
        assert_eq!(nets, ["10.0.0.0/30", "fd00::1/128"].map(|net| net.parse().unwrap()));
        assert_eq!(wrong.len(), 1);
        assert_eq!(
            wrong[0].to_string(),
            "IPReservation r: spec.reservedCIDRs: \"x\" is neither a network nor an address"
        );
    }
}
