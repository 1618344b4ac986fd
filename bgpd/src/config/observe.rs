//! What a speaker tells others of itself: metrics, MRT files, monitoring stations.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Files of what happens, in the format of RFC 6396.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mrt {
    /// Where received messages and changes of state are appended (BGP4MP_ET records).
    pub updates: PathBuf,
    /// Seconds after which a file is renamed to `PATH.SECONDS`, where SECONDS is when it was begun
    /// (since 1970), and a new one is begun; 1 or more. None: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_seconds: Option<u32>,
}

/// A monitoring station (BMP, RFC 7854), which the speaker connects to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BmpStation {
    /// Its address.
    pub address: IpAddr,
    /// Its port, 1 or more; there is none that everybody uses.
    pub port: u16,
    /// What it is told; not empty.
    #[serde(default = "default_monitor")]
    pub monitor: Vec<Monitored>,
    /// Seconds between statistics reports; 0: none.
    #[serde(default)]
    pub stats_interval: u32,
}

fn default_monitor() -> Vec<Monitored> {
    vec![Monitored::PrePolicy]
}

impl BmpStation {
    pub(crate) fn address(&self) -> SocketAddr {
        (self.address, self.port).into()
    }
}

/// A RIB that a monitoring station can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Monitored {
    /// What peers announced (RFC 7854).
    PrePolicy,
    /// What the import policy made of it (RFC 7854).
    PostPolicy,
    /// What peers were told, after the export policy (RFC 8671).
    AdjRibOut,
    /// What is used (RFC 9069).
    LocRib,
}

impl super::Config {
    pub(super) fn validate_observers(&self) -> Result<(), (&'static str, &'static str, String)> {
        if let Some(mrt) = &self.mrt {
            if mrt.updates.as_os_str().is_empty() {
                return Err(("mrt", "updates", "is empty".into()));
            }
            if mrt.rotate_seconds == Some(0) {
                return Err(("mrt", "rotate-seconds", "must be 1 or more".into()));
            }
        }
        for (at, station) in self.bmp.iter().enumerate() {
            let again = self.bmp[..at].iter().any(|other| other.address() == station.address());
            let wrong = if station.address.is_unspecified() || station.address.is_multicast() {
                Some(("address", "is not a unicast address"))
            } else if station.port == 0 {
                Some(("port", "0 is not a port to connect to"))
            } else if station.monitor.is_empty() {
                Some(("monitor", "is empty"))
            } else if again {
                Some(("address", "another station has the same address and port"))
            } else {
                None
            };
            if let Some((field, reason)) = wrong {
                return Err(("bmp", field, format!("{}: {reason}", station.address())));
            }
        }
        if self.metrics_listen.is_some_and(|address: SocketAddr| address.port() == 0) {
            return Err(("speaker", "metrics-listen", "0 is not a port to listen on".into()));
        }
        Ok(())
    }
}
