//! What FelixConfiguration says of this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::v3::{self, EndpointToHostAction, FelixConfigurationSpec};

use crate::kernel::HostAction;
use crate::model::{Kind, Object, Update};

/// The settings that the agent acts on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effective {
    /// `logSeverityScreen`; None: not set.
    pub(super) severity: Option<String>,
    /// `defaultEndpointToHostAction`.
    pub(super) host_action: HostAction,
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
            host_action: match self.field(|spec| spec.default_endpoint_to_host_action) {
                Some(EndpointToHostAction::Drop) => HostAction::Drop,
                Some(EndpointToHostAction::Return) => HostAction::Return,
                // As Calico's manifests set it. Its code's own default, Drop, cuts pods off from
                // the node's DNS and API server where nobody has set anything.
                Some(EndpointToHostAction::Accept) | None => HostAction::Accept,
            },
        }
    }

    fn field<T>(&self, get: impl Fn(&FelixConfigurationSpec) -> Option<T>) -> Option<T> {
        let of = |name: &str| self.objects.get(name).and_then(|object| get(&object.spec));
        of(&self.own).or_else(|| of("default"))
    }
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
    fn a_nodes_own_fields_win_over_the_defaults() {
        let mut settings = Settings::new("node1");
        assert_eq!(settings.effective(), Effective::default());
        assert!(settings.apply(&set(
            "default",
            serde_json::json!({"logSeverityScreen": "Warning", "defaultEndpointToHostAction": "Drop"})
        )));
        assert!(
            settings.apply(&set("node.node1", serde_json::json!({"logSeverityScreen": "Debug"})))
        );
        assert!(
            !settings.apply(&set("node.node2", serde_json::json!({"logSeverityScreen": "Error"})))
        );
        let effective = settings.effective();
        assert_eq!(effective.severity.as_deref(), Some("Debug"));
        assert_eq!(effective.host_action, HostAction::Drop);
        assert!(
            settings
                .apply(&Update::Remove(Kind::FelixConfiguration, ObjectKey::cluster("node.node1")))
        );
        assert_eq!(settings.effective().severity.as_deref(), Some("Warning"));
    }
}
