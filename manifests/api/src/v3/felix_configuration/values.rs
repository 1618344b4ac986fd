//! The values that fields of FelixConfiguration take.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::super::schemas;
use super::super::types::Duration;

/// An enumeration whose values are taken in any case, as the agent's configuration always did, and
/// written in one.
macro_rules! any_case {
    ($($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident $(= $text:literal)?,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum $name { $($(#[$value_doc])* $(#[serde(rename = $text)])? $value,)* }

        impl $name {
            const VALUES: &'static [(&'static str, Self)] =
                &[$((any_case!(@text $value $($text)?), Self::$value),)*];
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                let found = Self::VALUES.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text));
                found.map(|(_, value)| *value).ok_or_else(|| {
                    de::Error::unknown_variant(
                        &text,
                        const { &[$(any_case!(@text $value $($text)?),)*] },
                    )
                })
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let names: Vec<&str> = Self::VALUES.iter().map(|(name, _)| *name).collect();
                json_schema!({
                    "type": "string",
                    "pattern": format!("^(?i)({})$", names.join("|")),
                })
            }
        }
    )*};
    (@text $value:ident) => { stringify!($value) };
    (@text $value:ident $text:literal) => { $text };
}

any_case! {
    /// Which iptables is used.
    IptablesBackend {
        /// What the host uses.
        Auto,
        /// The kernel's older interface.
        Legacy,
        /// iptables over nftables.
        Nft = "NFT",
    }
    /// Whether own chains are called first or last.
    ChainInsertMode {
        /// First.
        Insert,
        /// Last.
        Append,
    }
    /// What becomes of traffic from pods to their own host, after the pods' egress policy.
    EndpointToHostAction {
        /// It is dropped.
        Drop,
        /// It is accepted.
        Accept,
        /// The host's own rules decide.
        Return,
    }
    /// How accepted packets leave the chains.
    AllowAction {
        /// At once.
        Accept,
        /// Back to the calling chain.
        Return,
    }
    /// What becomes of denied packets.
    DenyAction {
        /// They vanish.
        Drop,
        /// Their sender is told.
        Reject,
    }
    /// The level from which on messages are logged.
    FelixLogSeverity {
        /// Everything.
        Trace,
        /// What a developer wants to know.
        Debug,
        /// What happens.
        Info,
        /// What may be wrong.
        Warning,
        /// What is wrong.
        Error,
        /// What ends the agent.
        Fatal,
    }
    /// What routes to pods of other nodes are made from.
    RouteSource {
        /// The blocks of IPAM.
        CalicoIpam = "CalicoIPAM",
        /// The addresses of single pods.
        WorkloadIps = "WorkloadIPs",
    }
}

/// An enumeration whose values are taken as they are written.
macro_rules! exact {
    ($($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident $(= $text:literal)?,)* })*) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
            JsonSchema,
        )]
        pub enum $name { $($(#[$value_doc])* $(#[serde(rename = $text)])? $value,)* }
    )*};
}

exact! {
    /// Whether nftables is used.
    NftablesMode {
        /// As kube-proxy does on this node.
        Auto,
        /// It is.
        Enabled,
        /// It is not.
        Disabled,
    }
    /// Whether established flows bypass the chains.
    FlowTableOffload {
        /// None.
        Disabled,
        /// All.
        All,
    }
    /// What becomes of established flows that policy denies now.
    PolicyEstablishedFlows {
        /// They end, until policy allows them again.
        Cut,
        /// They go on.
        Keep,
    }
    /// Whether pods may send from addresses of their annotation.
    WorkloadSourceSpoofing {
        /// From their own only.
        Disabled,
        /// From any they ask for.
        Any,
    }
    /// What becomes of packets to a Service address that nothing serves.
    ServiceLoopPrevention {
        /// They vanish.
        Drop,
        /// Their sender is told.
        Reject,
        /// They are routed.
        Disabled,
    }
    /// Destinations that outgoing NAT leaves alone.
    NatOutgoingExclusions {
        /// Addresses of pools.
        IpPoolsOnly = "IPPoolsOnly",
        /// Addresses of pools and of nodes.
        IpPoolsAndHostIps = "IPPoolsAndHostIPs",
    }
    /// For what ARP and neighbour discovery are answered on the node's subnet.
    L2Reachability {
        /// Nothing.
        Disabled,
        /// Pods and addresses of Services of type LoadBalancer.
        PodsAndLoadBalancers,
    }
    /// What the metrics server asks of a client, in the terms of Go's crypto/tls.
    MetricsClientAuth {
        /// A certificate of a known authority.
        RequireAndVerifyClientCert,
        /// A certificate.
        RequireAnyClientCert,
        /// A certificate of a known authority, if any.
        VerifyClientCertIfGiven,
        /// Nothing.
        NoClientCert,
    }
    /// When the policies of a logged flow are worked out.
    FlowLogsPolicyEvaluationMode {
        /// At its start.
        None,
        /// As long as it lasts.
        Continuous,
    }
    /// What becomes of the source and destination check of an AWS machine.
    AwsSrcDstCheck {
        /// Nothing.
        DoNothing,
        /// It is switched on.
        Enable,
        /// It is switched off.
        Disable,
    }
}

/// A port of the host that policy cannot close.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProtoPort {
    /// `tcp`, `udp` or `sctp`, in any case; `tcp` if unset.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(regex(pattern = "^(?i)(tcp|udp|sctp)?$"))]
    pub protocol: String,
    /// The port, 0 to 65535.
    #[schemars(range(min = 0, max = 65535))]
    pub port: u16,
    /// The other side's range of addresses; any if unset.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schemas::cidr")]
    pub net: String,
}

/// An inclusive range of routing tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteTableRange {
    /// The first, at least 1.
    #[schemars(range(min = 1))]
    pub min: u32,
    /// The last.
    #[schemars(range(min = 1))]
    pub max: u32,
}

/// The deadline of one health reporter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthTimeoutOverride {
    /// The reporter.
    pub name: String,
    /// The deadline.
    pub timeout: Duration,
}
