//! How a source is: for readiness, metrics and `felix status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Kind;

/// How the source is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The API server's URL, or the folder.
    pub origin: String,
    /// All that existed has been yielded once. It stays so while the API server is away: what was
    /// yielded is still in force.
    pub in_sync: bool,
    /// Each kind that the source reads.
    pub kinds: BTreeMap<Kind, KindStatus>,
    /// Objects or files that are wrong, by name. Their last good content stays in force.
    pub problems: BTreeMap<String, String>,
    /// Fields that are set but not acted on.
    pub unsupported: Vec<UnsupportedField>,
}

/// How one kind is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KindStatus {
    /// Where its task stands.
    pub state: KindState,
    /// Everything of the kind has been yielded once.
    pub listed: bool,
    /// Objects in force.
    pub objects: usize,
    /// The latest failure, until the next success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Where a kind's task stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KindState {
    /// Everything is being read.
    #[default]
    Listing,
    /// Changes arrive as they happen.
    Watching,
    /// The latest request failed; it is tried again.
    Disconnected,
    /// The API server does not know the kind: its CRD is missing.
    NotServed,
    /// The agent may not read the kind.
    Forbidden,
}

/// A field that objects set and the agent does not act on yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsupportedField {
    /// The kind.
    pub kind: Kind,
    /// The field's path.
    pub field: String,
    /// Objects that set it.
    pub objects: usize,
}

impl SourceStatus {
    /// The readiness condition: holds once everything has been yielded. The reason names what is
    /// waited for, at most a few kinds.
    ///
    /// # Errors
    /// Why it does not hold.
    pub fn ready(&self) -> Result<(), String> {
        const NAMED: usize = 3;
        if self.in_sync {
            return Ok(());
        }
        let waited: Vec<_> = self.kinds.iter().filter(|(_, status)| !status.listed).collect();
        let mut reason = format!("{}: waiting for ", self.origin);
        for (i, (kind, status)) in waited.iter().take(NAMED).enumerate() {
            if i > 0 {
                reason.push_str(", ");
            }
            reason.push_str(kind.name());
            if let Some(error) = &status.error {
                reason.push_str(" (");
                reason.push_str(error);
                reason.push(')');
            }
        }
        if waited.len() > NAMED {
            reason.push_str(&format!(" and {} more", waited.len() - NAMED));
        }
        Err(reason)
    }

    /// Whether changes arrive as they happen, for every kind that the cluster has.
    ///
    /// # Errors
    /// A failure of one of the kinds that do not.
    pub fn connected(&self) -> Result<(), String> {
        let lost = |status: &KindStatus| match status.state {
            KindState::Disconnected => true,
            KindState::Listing => !status.listed,
            KindState::Watching | KindState::NotServed | KindState::Forbidden => false,
        };
        match self.kinds.iter().find(|(_, status)| lost(status)) {
            None => Ok(()),
            Some((kind, status)) => {
                Err(format!("{kind}: {}", status.error.as_deref().unwrap_or("being listed")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_what_is_waited_for() {
        let mut status = SourceStatus { origin: "https://api".into(), ..SourceStatus::default() };
        for kind in Kind::ALL {
            status.kinds.insert(kind, KindStatus::default());
        }
        assert_eq!(
            status.ready().unwrap_err(),
            "https://api: waiting for Pod, Namespace, ServiceAccount and 22 more"
        );
        for (kind, s) in &mut status.kinds {
            s.listed = *kind != Kind::Node;
        }
        status.kinds.entry(Kind::Node).and_modify(|s| s.error = Some("refused".into()));
        assert_eq!(status.ready().unwrap_err(), "https://api: waiting for Node (refused)");
        status.in_sync = true;
        assert_eq!(status.ready(), Ok(()));
        assert_eq!(status.connected().unwrap_err(), "Node: refused");
    }
}
