//! The metrics that are states, read off the parts when somebody asks for them.

use std::collections::BTreeMap;

use ipnet::IpNet;
use prometheus_client::metrics::counter::Counter;

use super::report::Reporter;
use crate::kernel::{Count, Counted};
use crate::model::Direction;
use crate::observe::Metrics;
use crate::observe::metrics::{
    BgpMetrics, DataplaneMetrics, DecidedMetrics, DeniedLabels, FamilyLabel, IpamMetrics, PeerLabel,
};

impl Reporter {
    /// Brings them up to date. A part that has ended keeps its last figures.
    pub(super) async fn measure(&self, metrics: &Metrics) {
        self.measure_kernel(&metrics.dataplane).await;
        if let Ok(counts) = self.kernel.counts().await {
            count(&metrics.decided, counts);
        }
        raise(&metrics.denied.lost, self.drops.lost());
        self.measure_ipam(&metrics.ipam);
        self.measure_bgp(&metrics.bgp).await;
    }

    async fn measure_kernel(&self, metrics: &DataplaneMetrics) {
        if let Ok(status) = self.kernel.status().await {
            metrics.elements.set(gauge(status.nft.elements));
            raise(&metrics.repairs.get_or_create(&"nftables".into()), status.nft.repairs);
            raise(&metrics.repairs.get_or_create(&"route".into()), status.routes.repairs);
            raise(&metrics.apply_errors.get_or_create(&"nftables".into()), status.nft.refused);
        }
        if let Ok(routes) = self.kernel.wanted_routes().await {
            let installed = || routes.iter().filter(|route| route.installed);
            let [v4, v6] = by_family(installed().map(|route| (route.destination, 1)));
            metrics.routes.get_or_create(&IPV4).set(v4);
            metrics.routes.get_or_create(&IPV6).set(v6);
        }
    }

    fn measure_ipam(&self, metrics: &IpamMetrics) {
        let status = self.ipam.status();
        metrics.store_up.set(i64::from(status.ready && status.problem.is_none()));
        metrics.behind.set(gauge(status.behind));
        let own = || status.blocks.iter().filter(|block| block.owned);
        let [v4, v6] = by_family(own().map(|block| (block.cidr, 1)));
        metrics.blocks.get_or_create(&IPV4).set(v4);
        metrics.blocks.get_or_create(&IPV6).set(v6);
        let used = |block: &ipam::BlockStatus| (block.cidr, block.in_use - block.resting);
        let [v4, v6] = by_family(own().map(used));
        metrics.addresses.get_or_create(&IPV4).set(v4);
        metrics.addresses.get_or_create(&IPV6).set(v6);
        raise(&metrics.conflicts, status.conflicts);
        raise(&metrics.store_errors, status.store_errors);
    }

    async fn measure_bgp(&self, metrics: &BgpMetrics) {
        let neighbors = self.neighbors().await;
        // A peer that is no longer configured has no figures.
        metrics.peer_up.clear();
        metrics.prefixes_received.clear();
        metrics.prefixes_advertised.clear();
        for neighbor in &neighbors {
            let peer = PeerLabel { peer: neighbor.address.to_string() };
            let up = neighbor.session.is_some();
            metrics.peer_up.get_or_create(&peer).set(i64::from(up));
            let accepted = neighbor.families.iter().map(|family| family.accepted).sum();
            metrics.prefixes_received.get_or_create(&peer).set(gauge(accepted));
            let advertised = neighbor.families.iter().map(|family| family.advertised).sum();
            metrics.prefixes_advertised.get_or_create(&peer).set(gauge(advertised));
            let ended = neighbor.counters.established.saturating_sub(u64::from(up));
            raise(&metrics.session_drops.get_or_create(&peer), ended);
        }
        let speaker = self.bgp.borrow().speaker.clone();
        if let Some(speaker) = speaker
            && let Ok(routes) = speaker.routes(bgpd::RouteQuery::default()).await
        {
            let learnt = routes.iter().filter(|route| {
                route.paths.iter().any(|path| path.used && path.neighbor.is_some())
            });
            let [v4, v6] = by_family(learnt.map(|route| (route.prefix, 1)));
            metrics.routes.get_or_create(&IPV4).set(v4);
            metrics.routes.get_or_create(&IPV6).set(v6);
        }
    }
}

/// Most policies and directions that are counted by name.
const POLICIES: usize = 500;

/// The sums by policy. They fall when counting begins anew.
fn count(metrics: &DecidedMetrics, counts: Counted) {
    let mut sums: BTreeMap<DeniedLabels, Count> = BTreeMap::new();
    for (by, count) in counts {
        let direction = match by.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let labels = |tier: &str, policy: &str| DeniedLabels {
            direction,
            tier: tier.to_owned(),
            policy: policy.to_owned(),
        };
        let named = match (&by.tier, &by.policy) {
            (None, _) => labels("", "no policy"),
            (Some(tier), None) => labels(tier, "default action"),
            (Some(tier), Some(policy)) => labels(tier, policy),
        };
        let known = sums.len() < POLICIES || sums.contains_key(&named);
        sums.entry(if known { named } else { labels("", "others") }).or_default().add(count);
    }
    metrics.packets.clear();
    metrics.bytes.clear();
    for (labels, Count { packets, bytes }) in sums {
        metrics.packets.get_or_create(&labels).inc_by(packets);
        metrics.bytes.get_or_create(&labels).inc_by(bytes);
    }
}

const IPV4: FamilyLabel = FamilyLabel { family: "ipv4" };
const IPV6: FamilyLabel = FamilyLabel { family: "ipv6" };

/// The sums for IPv4 and IPv6.
fn by_family(counts: impl Iterator<Item = (IpNet, usize)>) -> [i64; 2] {
    let mut sums = [0, 0];
    for (net, count) in counts {
        sums[usize::from(matches!(net, IpNet::V6(_)))] += gauge(count);
    }
    sums
}

/// Brings a counter up to a total that is kept elsewhere.
fn raise(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Decision;

    #[test]
    fn a_counter_never_falls() {
        let counter = Counter::default();
        for (total, expected) in [(3, 3), (3, 3), (2, 3), (10, 10)] {
            raise(&counter, total);
            assert_eq!(counter.get(), expected);
        }
    }

    #[test]
    fn policies_are_counted_by_name_up_to_a_bound() {
        let by = |policy: usize, rule: u32| {
            Arc::new(Decision {
                tier: Some("default".into()),
                policy: Some(format!("NetworkPolicy a/p{policy:04}")),
                direction: Direction::Egress,
                rule: Some(format!("spec.egress[{rule}]")),
            })
        };
        let one = Count { packets: 1, bytes: 60 };
        let all =
            (0..POLICIES + 50).flat_map(|policy| [(by(policy, 0), one), (by(policy, 1), one)]);
        let metrics = DecidedMetrics::default();
        count(&metrics, all.collect());
        let found = |tier: &str, policy: &str| {
            let labels =
                DeniedLabels { direction: "egress", tier: tier.into(), policy: policy.into() };
            (
                metrics.packets.get_or_create(&labels).get(),
                metrics.bytes.get_or_create(&labels).get(),
            )
        };
        assert_eq!(found("default", "NetworkPolicy a/p0499"), (2, 120));
        assert_eq!(found("", "others"), (100, 6000));
        count(&metrics, Vec::new());
        assert_eq!(found("", "others"), (0, 0), "counting has ended");
    }

    #[test]
    fn families_are_counted_apart() {
        let nets = ["10.0.0.0/26", "fd00::/122", "10.0.0.64/26"];
        let counts = nets.iter().map(|net| (net.parse().unwrap(), 2));
        assert_eq!(by_family(counts), [4, 2]);
    }
}
