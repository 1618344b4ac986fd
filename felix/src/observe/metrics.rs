//! The agent's metrics, in an explicit registry: two agents in one process do not meet.
//!
//! Names begin with `felix_`, `ipam_` or `bgp_`; durations are in seconds, sizes in bytes. Counters
//! end in `_total`, which the encoder adds.

mod process;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Everything that the agent counts. Each part is handed the group that is its own.
pub struct Metrics {
    registry: Registry,
    /// The source.
    pub source: SourceMetrics,
    /// The engine and the kernel writer.
    pub dataplane: DataplaneMetrics,
    /// Packets that policy denies.
    pub denied: DeniedMetrics,
    /// Packets by the policy that decides.
    pub decided: DecidedMetrics,
    /// Names in the DNS.
    pub names: NamesMetrics,
    /// The CNI server.
    pub cni: CniMetrics,
    /// Address management.
    pub ipam: IpamMetrics,
    /// The BGP speaker.
    pub bgp: BgpMetrics,
}

/// A Kubernetes kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// Such as `Pod`.
    pub kind: &'static str,
}

impl From<&'static str> for KindLabel {
    fn from(kind: &'static str) -> Self {
        Self { kind }
    }
}

/// A change of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct UpdateLabels {
    /// Such as `Pod`.
    pub kind: &'static str,
    /// `set` or `remove`.
    pub operation: &'static str,
}

impl From<(&'static str, &'static str)> for UpdateLabels {
    fn from((kind, operation): (&'static str, &'static str)) -> Self {
        Self { kind, operation }
    }
}

/// What is written to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ObjectLabel {
    /// `nftables`, `route`, `link`, ...
    pub object: &'static str,
}

impl From<&'static str> for ObjectLabel {
    fn from(object: &'static str) -> Self {
        Self { object }
    }
}

/// A CNI request and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CniLabels {
    /// `ADD`, `DEL`, `CHECK`, `GC`, `STATUS`.
    pub command: &'static str,
    /// `ok`, or the CNI error code.
    pub result: String,
}

/// A BGP neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    /// Its address.
    pub peer: String,
}

/// Who denies a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub struct DeniedLabels {
    /// `ingress` or `egress`; empty where it cannot be said any more.
    pub direction: &'static str,
    /// The tier; empty where it cannot be said any more.
    pub tier: String,
    /// Kind, namespace and name; `default action` of the tier, `unknown`, or `others` for those of
    /// which there would be too many.
    pub policy: String,
}

/// An address family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FamilyLabel {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
}

/// `felix_source_*`.
#[derive(Clone, Default)]
pub struct SourceMetrics {
    /// 1 while the kind is connected and complete.
    pub synced: Family<KindLabel, Gauge>,
    /// Objects known.
    pub objects: Family<KindLabel, Gauge>,
    /// Objects that exist but cannot be used; of a folder, files that have such (kind `File`).
    pub invalid: Family<KindLabel, Gauge>,
    /// Changes handed on. What the agent makes no use of is not counted.
    pub updates: Family<UpdateLabels, Counter>,
    /// Complete lists read.
    pub relists: Family<KindLabel, Counter>,
    /// Failures of a list or a watch, or of a file.
    pub errors: Family<KindLabel, Counter>,
}

/// Durations of transactions by what they write: `nftables`, `route`, `link`, `unlink`.
pub type KernelSeconds = Family<ObjectLabel, Histogram, fn() -> Histogram>;

/// `felix_*` of the engine and the kernel writer.
#[derive(Clone)]
pub struct DataplaneMetrics {
    /// Local endpoints.
    pub endpoints: Gauge,
    /// Policies known.
    pub policies: Gauge,
    /// Elements of the nftables table.
    pub elements: Gauge,
    /// Routes written.
    pub routes: Family<FamilyLabel, Gauge>,
    /// An update, through the engine.
    pub engine_seconds: Histogram,
    /// A transaction, from the delta to the kernel's answer.
    pub apply_seconds: KernelSeconds,
    /// An update, from its arrival to the kernel's answer.
    pub update_to_kernel_seconds: Histogram,
    /// Transactions that the kernel refused.
    pub apply_errors: Family<ObjectLabel, Counter>,
    /// Objects found other than they were written, and put right.
    pub repairs: Family<ObjectLabel, Counter>,
    /// Established flows ended because policy now denies them.
    pub flows_ended: Counter,
}

/// `felix_policy_*`, where counting is on.
#[derive(Clone, Default)]
pub struct DecidedMetrics {
    /// Packets that a policy's rules decided about.
    pub packets: Family<DeniedLabels, Counter>,
    /// Their bytes.
    pub bytes: Family<DeniedLabels, Counter>,
}

/// `felix_denied_*`.
#[derive(Clone, Default)]
pub struct DeniedMetrics {
    /// Packets that the kernel told of, by policy.
    pub packets: Family<DeniedLabels, Counter>,
    /// Packets that would fare otherwise with the staged policies in force: denied by which policy;
    /// `allow` in its place where they would be let through.
    pub staged: Family<DeniedLabels, Counter>,
    /// Packets that it told of and nobody had room for.
    pub lost: Counter,
}

/// `felix_dns_*`.
#[derive(Clone, Default)]
pub struct NamesMetrics {
    /// Packets to endpoints whose policy asks of names that were looked at for answers.
    pub answers: Counter,
    /// Of these, those that were delivered before what they say was in the kernel.
    pub answers_late: Counter,
    /// Addresses of names that were new to an endpoint.
    pub learned: Counter,
    /// Of these, those that had to go for others.
    pub evicted: Counter,
    /// Addresses of names that count now, for each endpoint.
    pub addresses: Gauge,
}

/// `felix_cni_*`.
#[derive(Clone)]
pub struct CniMetrics {
    /// Requests, by how they ended.
    pub request_seconds: Family<CniLabels, Histogram, fn() -> Histogram>,
    /// Requests under way.
    pub in_flight: Gauge,
}

/// `ipam_*`.
#[derive(Clone)]
pub struct IpamMetrics {
    /// 1 while the store answers.
    pub store_up: Gauge,
    /// Addresses that the store has otherwise than this node's log.
    pub behind: Gauge,
    /// Blocks of this node.
    pub blocks: Family<FamilyLabel, Gauge>,
    /// Addresses in use on this node.
    pub addresses: Family<FamilyLabel, Gauge>,
    /// Assignments, the store's commit included.
    pub assign_seconds: Histogram,
    /// Compare-and-swaps that lost to another writer and were tried again.
    pub conflicts: Counter,
    /// Requests that the store failed.
    pub store_errors: Counter,
    /// Nodes that hold something, or may, and that Kubernetes does not have.
    pub missing_nodes: Gauge,
}

/// `bgp_*`.
#[derive(Clone, Default)]
pub struct BgpMetrics {
    /// 1 while the session is Established.
    pub peer_up: Family<PeerLabel, Gauge>,
    /// Prefixes accepted from the peer.
    pub prefixes_received: Family<PeerLabel, Gauge>,
    /// Prefixes advertised to the peer.
    pub prefixes_advertised: Family<PeerLabel, Gauge>,
    /// Sessions that went down.
    pub session_drops: Family<PeerLabel, Counter>,
    /// Best routes learnt from peers.
    pub routes: Family<FamilyLabel, Gauge>,
}

/// 50 microseconds to 13 seconds: an element in the kernel is the one end, a store away the other.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 19))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// What [`Metrics::encode`] yields.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register(
            "felix_build",
            "The agent's version",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(process::Process));
        Self {
            source: SourceMetrics::register(registry.sub_registry_with_prefix("felix_source")),
            dataplane: DataplaneMetrics::register(registry.sub_registry_with_prefix("felix")),
            decided: DecidedMetrics::register(registry.sub_registry_with_prefix("felix_policy")),
            denied: DeniedMetrics::register(registry.sub_registry_with_prefix("felix_denied")),
            names: NamesMetrics::register(registry.sub_registry_with_prefix("felix_dns")),
            cni: CniMetrics::register(registry.sub_registry_with_prefix("felix_cni")),
            ipam: IpamMetrics::register(registry.sub_registry_with_prefix("ipam")),
            bgp: BgpMetrics::register(registry.sub_registry_with_prefix("bgp")),
            registry,
        }
    }

    /// What a program counts that is not the agent: only `registry` is told.
    pub fn of(registry: Registry) -> Self {
        Self { registry, ..Self::new() }
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// A collector failed.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl SourceMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { synced, objects, invalid, updates, relists, errors } = metrics.clone();
        registry.register("synced", "Whether the kind is connected and complete", synced);
        registry.register("objects", "Objects known", objects);
        registry.register("invalid_objects", "Objects that exist but cannot be used", invalid);
        registry.register("updates", "Changes handed on to the engine", updates);
        registry.register("relists", "Complete lists read", relists);
        registry.register("errors", "Failures of a list, a watch or a file", errors);
        metrics
    }
}

impl DataplaneMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            endpoints: Gauge::default(),
            policies: Gauge::default(),
            elements: Gauge::default(),
            routes: Family::default(),
            engine_seconds: seconds(),
            apply_seconds: Family::new_with_constructor(seconds),
            update_to_kernel_seconds: seconds(),
            apply_errors: Family::default(),
            repairs: Family::default(),
            flows_ended: Counter::default(),
        };
        let Self {
            endpoints,
            policies,
            elements,
            routes,
            engine_seconds,
            apply_seconds,
            update_to_kernel_seconds,
            apply_errors,
            repairs,
            flows_ended,
        } = metrics.clone();
        registry.register("endpoints", "Endpoints of this node", endpoints);
        registry.register("policies", "Policies known", policies);
        registry.register("nftables_elements", "Elements of the nftables table", elements);
        registry.register("routes", "Routes in the kernel", routes);
        registry.register_with_unit(
            "engine",
            "An update through the engine",
            Unit::Seconds,
            engine_seconds,
        );
        registry.register_with_unit(
            "kernel_apply",
            "A kernel transaction, from the delta to the kernel's answer",
            Unit::Seconds,
            apply_seconds,
        );
        registry.register_with_unit(
            "update_to_kernel",
            "An update, from its arrival to the kernel's answer",
            Unit::Seconds,
            update_to_kernel_seconds,
        );
        registry.register("kernel_errors", "Transactions that the kernel refused", apply_errors);
        registry.register(
            "kernel_repairs",
            "Objects found changed by others and put right",
            repairs,
        );
        registry.register(
            "flows_ended",
            "Established flows ended because policy denies them",
            flows_ended,
        );
        metrics
    }
}

impl DecidedMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { packets, bytes } = metrics.clone();
        let help = "Packets that begin flows of this node's workloads, by the policy that decides";
        registry.register("packets", help, packets);
        registry.register("bytes", "The bytes of these packets", bytes);
        metrics
    }
}

impl DeniedMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { packets, staged, lost } = metrics.clone();
        let help = "Denied packets that the kernel told of, which is a hundred a second at most, by policy";
        registry.register("packets", help, packets);
        let help =
            "Of the packets told of, those that staged policies would deny, by policy, or allow";
        registry.register("packets_staged", help, staged);
        registry.register(
            "packets_lost",
            "Denied packets told of for which there was no room",
            lost,
        );
        metrics
    }
}

impl NamesMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { answers, answers_late, learned, evicted, addresses } = metrics.clone();
        let help = "Packets of DNS answers to endpoints whose policy asks of names";
        registry.register("answers", help, answers);
        let help = "Of these, those delivered before what they say was in the kernel";
        registry.register("answers_late", help, answers_late);
        registry.register("learned", "Addresses of names that were new to an endpoint", learned);
        let help = "Addresses of names that went because an endpoint had too many";
        registry.register("evicted", help, evicted);
        registry.register("addresses", "Addresses of names that count now", addresses);
        metrics
    }
}

impl CniMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            request_seconds: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
        };
        let Self { request_seconds, in_flight } = metrics.clone();
        registry.register_with_unit(
            "request",
            "A CNI request, by how it ended",
            Unit::Seconds,
            request_seconds,
        );
        registry.register("requests_in_flight", "CNI requests under way", in_flight);
        metrics
    }
}

impl IpamMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            store_up: Gauge::default(),
            behind: Gauge::default(),
            blocks: Family::default(),
            addresses: Family::default(),
            assign_seconds: seconds(),
            conflicts: Counter::default(),
            store_errors: Counter::default(),
            missing_nodes: Gauge::default(),
        };
        let Self {
            store_up,
            behind,
            blocks,
            addresses,
            assign_seconds,
            conflicts,
            store_errors,
            missing_nodes,
        } = metrics.clone();
        registry.register("store_up", "Whether the store answers", store_up);
        let help = "Addresses that the store has otherwise than this node's log";
        registry.register("behind", help, behind);
        registry.register("blocks", "Address blocks of this node", blocks);
        registry.register("addresses", "Addresses in use on this node", addresses);
        registry.register_with_unit(
            "assign",
            "An assignment, the store's commit included",
            Unit::Seconds,
            assign_seconds,
        );
        registry.register("conflicts", "Compare-and-swaps lost to another writer", conflicts);
        registry.register("store_errors", "Requests that the store failed", store_errors);
        registry.register(
            "missing_nodes",
            "Nodes that Kubernetes does not have and whose holdings are not given back yet",
            missing_nodes,
        );
        metrics
    }
}

impl BgpMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { peer_up, prefixes_received, prefixes_advertised, session_drops, routes } =
            metrics.clone();
        registry.register("peer_up", "Whether the session is Established", peer_up);
        registry.register(
            "prefixes_received",
            "Prefixes accepted from the peer",
            prefixes_received,
        );
        registry.register(
            "prefixes_advertised",
            "Prefixes advertised to the peer",
            prefixes_advertised,
        );
        registry.register("session_drops", "Sessions that went down", session_drops);
        registry.register("routes", "Best routes learnt from peers", routes);
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_its_prefix_and_registries_are_apart() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.dataplane.endpoints.set(3);
        one.dataplane.apply_seconds.get_or_create(&"nftables".into()).observe(0.0004);
        one.cni
            .request_seconds
            .get_or_create(&CniLabels { command: "ADD", result: "ok".into() })
            .observe(0.002);
        one.ipam.conflicts.inc();
        one.bgp.peer_up.get_or_create(&PeerLabel { peer: "10.0.0.1".into() }).set(1);
        let text = one.encode().unwrap();
        for line in [
            "felix_endpoints 3",
            "felix_kernel_apply_seconds_count{object=\"nftables\"} 1",
            "felix_cni_request_seconds_count{command=\"ADD\",result=\"ok\"} 1",
            "ipam_conflicts_total 1",
            "bgp_peer_up{peer=\"10.0.0.1\"} 1",
            "felix_build_info{version=\"0.1.0\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                ["felix_", "ipam_", "bgp_", "process_"]
                    .iter()
                    .any(|prefix| line.starts_with(prefix)),
                "{line}"
            );
        }
        assert!(other.encode().unwrap().contains("felix_endpoints 0\n"));
    }
}
