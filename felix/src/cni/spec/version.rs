//! Versions of the specification, and the commands that each has.

use std::fmt;

use serde_json::Value;

use super::code;
use crate::cni::protocol::Error;

/// A specification version, in order. Results of 0.1 and 0.2 have another shape and no users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK, `prevResult`
    V0_4_0,
    /// 1.0.0: no `version` in a result's addresses
    V1_0_0,
    /// 1.1.0: GC, STATUS, `mtu` in a result's interfaces
    V1_1_0,
}

impl Version {
    /// All of them, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// As in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(super) fn of(config: &Value) -> Result<Self, Error> {
        // A configuration without a version is one of 0.1.0 (section "Configuration format").
        let text = match config.get("cniVersion") {
            None | Some(Value::Null) => "0.1.0",
            Some(Value::String(text)) => text,
            Some(_) => {
                return Err(Error {
                    code: code::DECODE,
                    msg: "cniVersion is not a string".into(),
                    details: String::new(),
                });
            }
        };
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| Error {
            code: code::INCOMPATIBLE_VERSION,
            msg: "incompatible CNI versions".into(),
            details: format!(
                "config is {text:?}, plugin supports {:?}",
                Self::ALL.map(Self::as_str)
            ),
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the runtime wants done. VERSION needs no agent and is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach a container.
    Del,
    /// See whether an attachment is as it was made.
    Check,
    /// Remove all attachments but those listed.
    Gc,
    /// See whether ADD can be served.
    Status,
}

impl Command {
    /// As in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status]
            .into_iter()
            .find(|command| command.as_str() == text)
    }

    pub(super) fn since(self) -> Version {
        match self {
            Self::Add | Self::Del => Version::V0_3_1,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
