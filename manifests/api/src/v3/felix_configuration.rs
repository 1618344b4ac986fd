//! FelixConfiguration.

mod values;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schemas;
use super::types::{Duration, Port, ProgramClusterRoutes, Switch};
pub use values::*;

/// Every field is optional: an object is a layer over the ones before it.
macro_rules! layer {
    (
        $(#[$doc:meta])*
        pub struct $name:ident {
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        pub struct $name {
            $(
                $(#[$field_doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }

        impl $name {
            /// What results when the fields that `over` sets replace these.
            #[must_use]
            pub fn overlaid(&self, over: &Self) -> Self {
                Self { $($field: over.$field.clone().or_else(|| self.$field.clone()),)* }
            }
        }
    };
}

layer! {
    /// The agent on every node (object `default`), on those that `nodeSelector` selects, or on one
    /// (object `node.<name>`). The defaults named here hold where no object sets a field.
    #[derive(CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[kube(
        group = "projectcalico.org",
        version = "v3",
        kind = "FelixConfiguration",
        derive = "PartialEq",
        derive = "Default",
        shortname = "felixconfig",
        shortname = "felixconfigs",
        doc = "The agent on every node (object default), on those that nodeSelector selects, or \
               on one (object node.NAME).",
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
    )]
    #[serde(rename_all = "camelCase")]
    pub struct FelixConfigurationSpec {
        /// Which nodes an object named neither `default` nor `node.<name>` is for; of several, the
        /// oldest counts. At most 1024 characters.
        #[schemars(length(max = 1024))]
        node_selector: String,

        // Mode.
        /// Whether nftables is used. Default: Auto.
        nftables_mode: NftablesMode,
        /// Which iptables is used. Default: Auto.
        iptables_backend: IptablesBackend,
        /// An external program for the dataplane.
        dataplane_driver: String,
        /// Whether the dataplane is programmed by the agent itself. Default: true.
        use_internal_dataplane_driver: bool,
        /// Whether IPv6 is served. Default: true.
        ipv6_support: bool,

        // How often the kernel is read back.
        /// Default: 3m.
        nftables_refresh_interval: Duration,
        /// Default: 3m.
        iptables_refresh_interval: Duration,
        /// Default: 90s.
        ipsets_refresh_interval: Duration,
        /// Default: 90s.
        route_refresh_interval: Duration,
        /// Default: 90s.
        interface_refresh_interval: Duration,
        /// Default: 90s.
        xdp_refresh_interval: Duration,
        /// How long the kernel may take to answer. Default: 10s.
        netlink_timeout: Duration,
        /// Default: 5s.
        iptables_post_write_check_interval: Duration,
        /// Default: 0s, no lock is taken.
        iptables_lock_timeout: Duration,
        /// Default: 50ms.
        iptables_lock_probe_interval: Duration,
        /// Default: /run/xtables.lock.
        iptables_lock_file_path: String,

        // Verdicts and marks.
        /// How accepted packets leave the filter chains. Default: Accept.
        nftables_filter_allow_action: AllowAction,
        /// How accepted packets leave the mangle chains. Default: Accept.
        nftables_mangle_allow_action: AllowAction,
        /// What becomes of denied packets. Default: Drop.
        nftables_filter_deny_action: DenyAction,
        /// The packet mark bits that may be used. Default: 0xffff0000.
        nftables_mark_mask: u32,
        /// Whether established flows bypass the chains. Default: Disabled.
        nftables_flow_table_offload: FlowTableOffload,
        /// Interfaces, as a regular expression, besides the pods' whose flows bypass the chains.
        nftables_flow_table_data_iface_pattern: String,
        /// As nftablesFilterAllowAction.
        iptables_filter_allow_action: AllowAction,
        /// As nftablesMangleAllowAction.
        iptables_mangle_allow_action: AllowAction,
        /// As nftablesFilterDenyAction.
        iptables_filter_deny_action: DenyAction,
        /// As nftablesMarkMask. Default: 0xffff0000.
        iptables_mark_mask: u32,

        // Endpoints and the host.
        /// What becomes of traffic from pods to their own host after their egress policy.
        /// Default: Drop.
        default_endpoint_to_host_action: EndpointToHostAction,
        /// How the names of pods' host interfaces begin; a list separated by commas. Default: cali.
        interface_prefix: String,
        /// Interfaces that are never host endpoints; a list separated by commas of names and
        /// regular expressions in slashes. Default: kube-ipvs0.
        interface_exclude: String,
        /// Whether own chains are called first or last. Default: Insert.
        chain_insert_mode: ChainInsertMode,
        /// Whether pods may send from addresses of their annotation. Default: Disabled.
        workload_source_spoofing: WorkloadSourceSpoofing,
        /// Whether pods may send VXLAN. Default: false.
        #[serde(rename = "allowVXLANPacketsFromWorkloads")]
        allow_vxlan_packets_from_workloads: bool,
        /// Whether pods may send IPIP. Default: false.
        #[serde(rename = "allowIPIPPacketsFromWorkloads")]
        allow_ipip_packets_from_workloads: bool,
        /// Whether packets that connection tracking calls invalid pass. Default: false.
        disable_conntrack_invalid_check: bool,
        /// What becomes of packets to a Service address that nothing serves. Default: Drop.
        service_loop_prevention: ServiceLoopPrevention,
        /// Ports of Services of type NodePort; at most 7 ranges. Default: 30000:32767.
        #[schemars(length(max = 7))]
        kube_node_port_ranges: Vec<Port>,
        /// Most addresses of one IP set. Default: 1048576.
        #[schemars(range(min = 0, max = 4_294_967_295_u32))]
        max_ipset_size: u32,
        /// Ranges of addresses outside the cluster that may send encapsulated packets.
        #[schemars(schema_with = "schemas::cidrs")]
        external_nodes_list: Vec<String>,
        /// Ports of the host that stay reachable whatever policy says. Default: tcp 22, 179, 2379,
        /// 2380, 5473, 6443, 6666, 6667 and udp 68.
        failsafe_inbound_host_ports: Vec<ProtoPort>,
        /// Ports that the host still reaches whatever policy says. Default: tcp 179, 2379, 2380,
        /// 5473, 6443, 6666, 6667 and udp 53, 67.
        failsafe_outbound_host_ports: Vec<ProtoPort>,

        // Routes.
        /// The protocol number of routes to pods. Default: 3.
        #[schemars(range(min = 0, max = 255))]
        device_route_protocol: u8,
        /// The preferred source address of routes to pods.
        #[schemars(extend("format" = "ipv4"))]
        device_route_source_address: String,
        /// The preferred source address of routes to pods.
        #[serde(rename = "deviceRouteSourceAddressIPv6")]
        #[schemars(extend("format" = "ipv6"))]
        device_route_source_address_ipv6: String,
        /// Whether routes of others to pods' interfaces are removed. Default: true.
        remove_external_routes: bool,
        /// Whether no routes are programmed. Default: false.
        route_sync_disabled: bool,
        /// What routes are made from. Default: CalicoIPAM.
        route_source: RouteSource,
        /// Routing tables that may be used.
        route_table_ranges: Vec<RouteTableRange>,
        /// Deprecated: say routeTableRanges.
        route_table_range: RouteTableRange,
        /// Which routes to other nodes' blocks the agent programs. Default: EnabledIPIPOnly.
        program_cluster_routes: ProgramClusterRoutes,
        /// Metric of IPv4 routes. Default: 1024.
        #[schemars(range(min = 1, max = 2_147_483_646))]
        ipv4_normal_route_priority: u32,
        /// Metric of IPv6 routes. Default: 1024.
        #[schemars(range(min = 1, max = 2_147_483_646))]
        ipv6_normal_route_priority: u32,
        /// Metric of IPv4 routes that win over the normal ones. Default: 512.
        #[schemars(range(min = 1, max = 2_147_483_646))]
        ipv4_elevated_route_priority: u32,
        /// Metric of IPv6 routes that win over the normal ones. Default: 512.
        #[schemars(range(min = 1, max = 2_147_483_646))]
        ipv6_elevated_route_priority: u32,
        /// How long both routes to a machine stay after it has moved. Default: 30s.
        live_migration_route_convergence_time: Duration,
        /// Whether the host forwards. Default: Enabled.
        ip_forwarding: Switch,

        // NAT.
        /// Source ports of outgoing NAT; what the kernel does if unset.
        nat_port_range: Port,
        /// Source address of outgoing NAT; the interface's if unset.
        #[schemars(extend("format" = "ipv4"))]
        nat_outgoing_address: String,
        /// Destinations that are not translated. Default: IPPoolsOnly.
        nat_outgoing_exclusions: NatOutgoingExclusions,
        /// Interfaces that outgoing NAT is for; all if unset.
        #[serde(rename = "iptablesNATOutgoingInterfaceFilter")]
        #[schemars(length(max = 15))]
        iptables_nat_outgoing_interface_filter: String,
        /// Whether pods get floating addresses. Default: Disabled.
        #[serde(rename = "floatingIPs")]
        floating_ips: Switch,

        // Link layer.
        /// Whether ARP and neighbour discovery are answered for these on the node's subnet.
        /// Default: Disabled.
        #[serde(rename = "localSubnetL2Reachability")]
        local_subnet_l2_reachability: L2Reachability,
        /// Default: 2m.
        #[serde(rename = "localSubnetL2ReachabilityRefreshInterval")]
        local_subnet_l2_reachability_refresh_interval: Duration,

        // Encapsulation.
        /// Whether VXLAN is used; by default, whether a pool says so.
        vxlan_enabled: bool,
        /// UDP port of VXLAN, 1 to 65535. Default: 4789.
        #[schemars(range(min = 1, max = 65535))]
        vxlan_port: u16,
        /// VXLAN network identifier, 1 to 16777215. Default: 4096.
        #[serde(rename = "vxlanVNI")]
        #[schemars(range(min = 1, max = 16_777_215))]
        vxlan_vni: u32,
        /// MTU of the IPv4 VXLAN device in bytes; 0 computes it. Default: 0.
        #[serde(rename = "vxlanMTU")]
        vxlan_mtu: u32,
        /// MTU of the IPv6 VXLAN device in bytes; 0 computes it. Default: 0.
        #[serde(rename = "vxlanMTUV6")]
        vxlan_mtu_v6: u32,
        /// Whether IPIP is used; by default, whether a pool says so.
        ipip_enabled: bool,
        /// MTU of the IPIP device in bytes; 0 computes it. Default: 0.
        #[serde(rename = "ipipMTU")]
        ipip_mtu: u32,

        // WireGuard.
        /// Default: false.
        wireguard_enabled: bool,
        /// Default: false.
        wireguard_enabled_v6: bool,
        /// Default: 51820.
        #[schemars(range(min = 1, max = 65535))]
        wireguard_listening_port: u16,
        /// Default: 51821.
        #[schemars(range(min = 1, max = 65535))]
        wireguard_listening_port_v6: u16,
        /// Default: 99.
        #[schemars(range(min = 1, max = 32765))]
        wireguard_routing_rule_priority: u32,
        /// Default: wireguard.cali.
        #[schemars(length(max = 15))]
        wireguard_interface_name: String,
        /// Default: wg-v6.cali.
        #[schemars(length(max = 15))]
        wireguard_interface_name_v6: String,
        /// In bytes; 0 computes it. Default: 0.
        #[serde(rename = "wireguardMTU")]
        wireguard_mtu: u32,
        /// In bytes; 0 computes it. Default: 0.
        #[serde(rename = "wireguardMTUV6")]
        wireguard_mtu_v6: u32,
        /// Whether traffic between hosts is encrypted too. Default: false.
        wireguard_host_encryption_enabled: bool,
        /// Interval of keepalives; none if 0. Default: 0s.
        wireguard_keep_alive: Duration,
        /// Default: false.
        wireguard_threading_enabled: bool,

        // MTU.
        /// Interfaces, as a regular expression, whose MTU bounds the pods'.
        mtu_iface_pattern: String,
        /// Whether pods wait for the file that holds the MTU. Default: false.
        #[serde(rename = "requireMTUFile")]
        require_mtu_file: bool,

        // Log.
        /// The level of messages on standard output. Default: Info.
        log_severity_screen: FelixLogSeverity,
        /// The level of messages in the log file. Default: Info.
        log_severity_file: FelixLogSeverity,
        /// The level of messages to syslog. Default: Info.
        log_severity_sys: FelixLogSeverity,
        /// The log file.
        log_file_path: String,
        /// Debug messages of these source files only, as a regular expression.
        log_debug_filename_regex: String,
        /// How a line of a Log rule begins: %t is the tier, %k the kind, %n the name and %p the
        /// policy. Default: calico-packet.
        log_prefix: String,
        /// Most lines of Log rules, as N/second, N/minute, N/hour or N/day; no limit if empty.
        #[schemars(regex(pattern = "^([1-9][0-9]{0,3}/(second|minute|hour|day))?$"))]
        log_action_rate_limit: String,
        /// Lines of Log rules at once beyond the limit. Default: 5.
        #[schemars(range(min = 0, max = 9999))]
        log_action_rate_limit_burst: u32,
        /// Whether packets of workloads are counted by the rule that decides about them. Calico has no
        /// such field. Default: Disabled.
        policy_counters: Switch,
        /// What becomes of established flows that policy denies now. Calico has no such field and keeps
        /// them. Default: Cut.
        policy_established_flows: PolicyEstablishedFlows,

        // Health and metrics.
        /// Default: false.
        health_enabled: bool,
        /// Default: localhost.
        health_host: String,
        /// Default: 9099.
        #[schemars(range(min = 1, max = 65535))]
        health_port: u16,
        /// Deadlines of single health reporters.
        health_timeout_overrides: Vec<HealthTimeoutOverride>,
        /// Default: false.
        prometheus_metrics_enabled: bool,
        /// Default: every address.
        prometheus_metrics_host: String,
        /// Default: 9091.
        #[schemars(range(min = 1, max = 65535))]
        prometheus_metrics_port: u16,
        /// The authorities of clients that may read metrics.
        #[serde(rename = "prometheusMetricsCAFile")]
        prometheus_metrics_ca_file: String,
        /// The certificate of the metrics server.
        prometheus_metrics_cert_file: String,
        /// The key of the metrics server.
        prometheus_metrics_key_file: String,
        /// What the metrics server asks of a client.
        prometheus_metrics_client_auth: MetricsClientAuth,
        /// Default: true.
        prometheus_go_metrics_enabled: bool,
        /// Default: true.
        prometheus_process_metrics_enabled: bool,
        /// Default: true.
        prometheus_wire_guard_metrics_enabled: bool,

        // Status.
        /// Where files say which endpoints are programmed. Default: /var/run/calico.
        endpoint_status_path_prefix: String,
        /// Default: false.
        endpoint_reporting_enabled: bool,
        /// Default: 1s.
        endpoint_reporting_delay: Duration,
        /// Where other programs are told of policy.
        policy_sync_path_prefix: String,
        /// Default: 30s.
        reporting_interval: Duration,
        /// Default: 90s.
        #[serde(rename = "reportingTTL")]
        reporting_ttl: Duration,

        // Flow logs.
        /// Default: 5m.
        flow_logs_flush_interval: Duration,
        /// Address of the collector.
        flow_logs_goldmane_server: String,
        /// Default: Disabled.
        flow_logs_local_reporter: Switch,
        /// Default: Continuous.
        flow_logs_policy_evaluation_mode: FlowLogsPolicyEvaluationMode,
        /// Default: false.
        flow_logs_collector_debug_trace: bool,

        // Runtime.
        /// Default: 40.
        #[serde(rename = "goGCThreshold")]
        go_gc_threshold: i32,
        /// Default: -1.
        go_max_procs: i32,
        /// Default: -1.
        #[serde(rename = "goMemoryLimitMB")]
        go_memory_limit_mb: i32,
        /// Default: 90s.
        dataplane_watchdog_timeout: Duration,
        /// Default: true.
        usage_reporting_enabled: bool,
        /// Default: 300s.
        usage_reporting_initial_delay: Duration,
        /// Default: 86400s.
        usage_reporting_interval: Duration,
        /// Kernel features taken as given or missing: `Name=true,Other=false`.
        #[schemars(regex(pattern = "^([a-zA-Z0-9_-]+=(true|false|),)*([a-zA-Z0-9_-]+=(true|false|))?$"))]
        feature_detect_override: String,
        /// Features that are not on by default: `Name=value,...`.
        #[schemars(regex(pattern = "^([a-zA-Z0-9_-]+=[^=]+,)*([a-zA-Z0-9_-]+=[^=]+)?$"))]
        feature_gates: String,
        /// Default: DoNothing.
        aws_src_dst_check: AwsSrcDstCheck,
        /// Default: Disabled.
        istio_ambient_mode: Switch,
        /// Default: false.
        sidecar_acceleration_enabled: bool,
        /// Default: true.
        xdp_enabled: bool,
        /// Default: false.
        #[serde(rename = "genericXDPEnabled")]
        generic_xdp_enabled: bool,
        /// Default: 127.0.0.1.
        metadata_addr: String,
        /// Default: 8775.
        #[schemars(range(min = 0, max = 65535))]
        metadata_port: u16,
        /// The region of an OpenStack cloud.
        openstack_region: String,

        // Debugging.
        /// Where a memory profile is written.
        debug_memory_profile_path: String,
        /// Default: false.
        debug_disable_log_dropping: bool,
        /// Default: never.
        debug_simulate_calc_graph_hang_after: Duration,
        /// Default: never.
        debug_simulate_dataplane_hang_after: Duration,
        /// Default: 0s.
        debug_simulate_dataplane_apply_delay: Duration,
        /// Address of the profiling server.
        debug_host: String,
        /// Port of the profiling server.
        #[schemars(range(min = 0, max = 65535))]
        debug_port: u16,
    }
}
