//! What FelixConfiguration says of this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::v3::{
    self, EndpointToHostAction, FelixConfigurationSpec, PolicyEstablishedFlows, ProtoPort, Switch,
};

use crate::engine::{Failsafe, default_failsafe};
use crate::kernel::{DenyAction, HostAction, LogRules};
use crate::model::{Direction, Kind, Object, Update};

/// The settings that the agent acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effective {
    /// `logSeverityScreen`; None: not set.
    pub(super) severity: Option<String>,
    /// `defaultEndpointToHostAction`.
    pub(super) host_action: HostAction,
    /// `nftablesFilterDenyAction`.
    pub(super) deny: DenyAction,
    /// `failsafeInboundHostPorts` and `failsafeOutboundHostPorts`.
    pub(super) failsafe: Vec<Failsafe>,
    /// `logPrefix`, `logActionRateLimit`, `logActionRateLimitBurst`.
    pub(super) log: LogRules,
    /// `policyCounters`.
    pub(super) counting: bool,
    /// `policyEstablishedFlows`: those that policy denies now go on.
    pub(super) keep_established: bool,
}

/// The objects that concern this node: `node.NAME` wins over `default`, field by field.
#[derive(Debug)]
pub(super) struct Settings {
    own: String,
    objects: BTreeMap<String, Arc<v3::FelixConfiguration>>,
}

impl Settings {
    pub(super) fn new(node_name: &str) -> Self {
        Self { own: format!("node.{node_name}"), objects: BTreeMap::new() }
    }

    /// The node's name.
    pub(super) fn node(&self) -> &str {
        self.own.strip_prefix("node.").unwrap_or(&self.own)
    }

    /// True if the update concerns this node's settings.
    pub(super) fn apply(&mut self, update: &Update) -> bool {
        let concerns = |name: &str| name == "default" || name == self.own;
        match update {
            Update::Set(Object::FelixConfiguration(object)) => {
                let name = object.metadata.name.clone().unwrap_or_default();
                let concerned = concerns(&name);
                if concerned {
                    self.objects.insert(name, object.clone());
                }
                concerned
            }
            Update::Remove(Kind::FelixConfiguration, key) if concerns(&key.name) => {
                self.objects.remove(&*key.name).is_some()
            }
            _ => false,
        }
    }

    pub(super) fn effective(&self) -> Effective {
        Effective {
            severity: self
                .field(|spec| spec.log_severity_screen)
                .map(|severity| format!("{severity:?}")),
            log: self.log(),
            counting: self.field(|spec| spec.policy_counters) == Some(Switch::Enabled),
            keep_established: self.field(|spec| spec.policy_established_flows)
                == Some(PolicyEstablishedFlows::Keep),
            host_action: match self.field(|spec| spec.default_endpoint_to_host_action) {
                Some(EndpointToHostAction::Drop) => HostAction::Drop,
                Some(EndpointToHostAction::Return) => HostAction::Return,
                // As Calico's manifests set it. Its code's own default, Drop, cuts pods off from
                // the node's DNS and API server where nobody has set anything.
                Some(EndpointToHostAction::Accept) | None => HostAction::Accept,
            },
            deny: match self.field(|spec| spec.nftables_filter_deny_action) {
                Some(v3::DenyAction::Reject) => DenyAction::Reject,
                Some(v3::DenyAction::Drop) | None => DenyAction::Drop,
            },
            failsafe: [
                failsafe(Direction::Ingress, self.field(|s| s.failsafe_inbound_host_ports.clone())),
                failsafe(Direction::Egress, self.field(|s| s.failsafe_outbound_host_ports.clone())),
            ]
            .concat(),
        }
    }

    fn log(&self) -> LogRules {
        let usual = LogRules::default();
        let limit = self.text(|spec| spec.log_action_rate_limit.as_deref());
        let burst = self.field(|spec| spec.log_action_rate_limit_burst);
        LogRules {
            prefix: self
                .text(|spec| spec.log_prefix.as_deref())
                .map_or(usual.prefix, |text| expanded(&text)),
            // Ours is not to log without end where nobody has said so.
            limit: limit.as_deref().map_or(usual.limit, rate),
            burst: burst.unwrap_or(if limit.is_some() { BURST } else { usual.burst }),
        }
    }

    fn text(&self, get: impl Fn(&FelixConfigurationSpec) -> Option<&str>) -> Option<String> {
        let of = |name: &str| self.objects.get(name).and_then(|object| get(&object.spec));
        of(&self.own).or_else(|| of("default")).map(str::to_owned)
    }

    fn field<T>(&self, get: impl Fn(&FelixConfigurationSpec) -> Option<T>) -> Option<T> {
        let of = |name: &str| self.objects.get(name).and_then(|object| get(&object.spec));
        of(&self.own).or_else(|| of("default"))
    }
}

/// One that cannot be read opens nothing, and is named in the log; the others are in force.
fn failsafe(direction: Direction, ports: Option<Vec<ProtoPort>>) -> Vec<Failsafe> {
    let Some(ports) = ports else { return default_failsafe(direction) };
    let read = |port: &ProtoPort| {
        let protocol = match port.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            _ => return None,
        };
        let net = match port.net.as_str() {
            "" => None,
            text => Some(api::net::parse(text)?),
        };
        Some(Failsafe { direction, protocol, port: port.port, net })
    };
    let of = |port: &ProtoPort| {
        let read = read(port);
        if read.is_none() {
            tracing::error!(?direction, ?port, "FelixConfiguration: not a failsafe port");
        }
        read
    };
    ports.iter().filter_map(of).collect()
}

/// Calico's `logActionRateLimitBurst` where there is a limit.
const BURST: u32 = 5;

/// `N/second`, `/minute`, `/hour` or `/day` as a number in so many seconds; None for no limit. What it
/// is not is refused by the definition of the kind, and limits to what is usual.
fn rate(text: &str) -> Option<(u64, u64)> {
    if text.is_empty() {
        return None;
    }
    let units = [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400)];
    let parsed = text.split_once('/').and_then(|(number, unit)| {
        let (_, seconds) = units.into_iter().find(|(name, _)| *name == unit)?;
        let number: u64 = number.parse().ok()?;
        (number > 0).then_some((number, seconds))
    });
    parsed.or(LogRules::default().limit)
}

/// A `logPrefix` with what stands for the policy that logs (`%t`, `%k`, `%n`, `%p`) replaced by a star:
/// the kernel logs a packet once, whichever policies do. Without what would end a line.
fn expanded(prefix: &str) -> String {
    let mut text = String::new();
    let mut rest = prefix.chars().filter(|c| !c.is_control()).peekable();
    while let Some(c) = rest.next() {
        if c == '%' && rest.next_if(|next| matches!(next, 't' | 'k' | 'n' | 'p')).is_some() {
            text.push('*');
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectKey;

    fn set(name: &str, json: serde_json::Value) -> Update {
        let spec: FelixConfigurationSpec = serde_json::from_value(json).unwrap();
        Update::Set(Object::FelixConfiguration(Arc::new(v3::FelixConfiguration::new(name, spec))))
    }

    #[test]
    fn log_rules_are_as_calico_has_them() {
        let log = |json: serde_json::Value| {
            let mut settings = Settings::new("node1");
            settings.apply(&set("default", json));
            settings.effective().log
        };
        let usual = LogRules::default();
        assert_eq!(log(serde_json::json!({})), usual);
        for (limit, expected) in [
            ("7/second", Some((7, 1))),
            ("1/minute", Some((1, 60))),
            ("9999/hour", Some((9999, 3600))),
            ("3/day", Some((3, 86400))),
            ("", None),
            ("0/second", usual.limit),
            ("5 a week", usual.limit),
        ] {
            let told = log(serde_json::json!({ "logActionRateLimit": limit }));
            assert_eq!(told, LogRules { limit: expected, burst: 5, ..usual.clone() }, "{limit}");
        }
        let told = log(serde_json::json!({ "logActionRateLimitBurst": 70 }));
        assert_eq!(told, LogRules { burst: 70, ..usual.clone() });
        for (prefix, expected) in [
            ("calico-packet", "calico-packet"),
            ("%t/%p 100%\n%%n", "*/* 100%%*"),
            ("", ""),
            ("x%", "x%"),
        ] {
            let told = log(serde_json::json!({ "logPrefix": prefix }));
            assert_eq!(told, LogRules { prefix: expected.into(), ..usual.clone() });
        }
    }

    #[test]
    fn a_nodes_own_fields_win_over_the_defaults() {
        let mut settings = Settings::new("node1");
        let before = settings.effective();
        assert_eq!((before.severity, before.host_action), (None, HostAction::Accept));
        assert_eq!(before.failsafe.len(), 22, "as with Calico, and BFD");
        assert!(!before.counting && !before.keep_established);
        assert!(settings.apply(&set(
            "default",
            serde_json::json!({
                "logSeverityScreen": "Warning",
                "defaultEndpointToHostAction": "Drop",
                "nftablesFilterDenyAction": "Reject",
                "iptablesFilterDenyAction": "Drop",
                "policyEstablishedFlows": "Keep",
            })
        )));
        assert!(settings.apply(&set(
            "node.node1",
            serde_json::json!({"logSeverityScreen": "Debug", "policyCounters": "Enabled"})
        )));
        assert!(
            !settings.apply(&set("node.node2", serde_json::json!({"logSeverityScreen": "Error"})))
        );
        let effective = settings.effective();
        assert_eq!(effective.severity.as_deref(), Some("Debug"));
        assert_eq!(effective.host_action, HostAction::Drop);
        assert_eq!((before.deny, effective.deny), (DenyAction::Drop, DenyAction::Reject));
        assert!(effective.counting && effective.keep_established);
        assert!(
            settings
                .apply(&Update::Remove(Kind::FelixConfiguration, ObjectKey::cluster("node.node1")))
        );
        assert_eq!(settings.effective().severity.as_deref(), Some("Warning"));
    }

    #[test]
    fn failsafe_ports_are_those_that_are_given_or_the_usual_ones() {
        let mut settings = Settings::new("node1");
        settings.apply(&set(
            "default",
            serde_json::json!({
                "failsafeInboundHostPorts": [
                    {"port": 22}, {"protocol": "UDP", "port": 68, "net": "10.0.0.0/8"}
                ],
            }),
        ));
        let of = |settings: &Settings, direction| -> Vec<Failsafe> {
            let all = settings.effective().failsafe.into_iter();
            all.filter(|failsafe| failsafe.direction == direction).collect()
        };
        let direction = Direction::Ingress;
        assert_eq!(
            of(&settings, direction),
            [
                Failsafe { direction, protocol: 6, port: 22, net: None },
                Failsafe { direction, protocol: 17, port: 68, net: "10.0.0.0/8".parse().ok() },
            ]
        );
        assert_eq!(of(&settings, Direction::Egress), default_failsafe(Direction::Egress));
        settings.apply(&set("node.node1", serde_json::json!({"failsafeInboundHostPorts": []})));
        assert_eq!(of(&settings, direction), [], "none, if none is to be open");
    }
}
