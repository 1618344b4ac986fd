//! What `felix status`, `endpoints`, `routes`, `policy`, `explain` and `drops` ask the running agent, and
//! how they show it.
//!
//! The answers are the types below, as JSON over the agent's socket (see [`crate::cni::protocol`]).

mod counters;
mod drops;
mod explain;
mod policies;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cni::protocol::{self, MAX_MESSAGE, MessageError, Request};
use crate::source::SourceStatus;

pub use counters::{CounterRow, CountersReport, counters_text};
pub use drops::{DroppedPacket, DropsReport, PacketEnd, Would, drops_text};
pub(crate) use explain::verdict;
pub use explain::{Explanation, FlowAnswer, Party, Then, explanation_text, parse_traffic};
pub use policies::{HeldRevision, PoliciesReport, PolicyRow, policies_text};
pub use table::{endpoints_table, routes_table, status_text};

/// An agent that takes longer than this to answer hangs.
const DEADLINE: Duration = Duration::from_secs(10);

/// Left free in a message for what is around the rows.
const ENVELOPE: usize = 1024;

/// The answer to [`Request::Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// This node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// The conditions of readiness.
    pub conditions: Vec<ConditionRow>,
    /// Where intent comes from.
    pub source: SourceStatus,
    /// Where addresses come from.
    pub ipam: IpamReport,
    /// What is in the kernel.
    pub kernel: KernelReport,
    /// The BGP speaker.
    pub bgp: BgpReport,
    /// Endpoints of this node.
    pub endpoints: usize,
}

/// A condition of readiness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionRow {
    /// Its name, as in `/readyz`.
    pub name: String,
    /// Why it does not hold; None if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What has an address before a pod gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerMode {
    /// The store.
    #[default]
    Synchronous,
    /// The node's own log; the store follows.
    LocalFirst,
}

/// How address management is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamReport {
    /// `etcd` and its endpoints, or `embedded`.
    pub store: String,
    /// Why the store cannot be used; None if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What has an address before a pod gets it.
    pub mode: AnswerMode,
    /// How many addresses the store has otherwise than this node's log.
    #[serde(default)]
    pub behind: u64,
    /// Since how many seconds the store is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind_seconds: Option<u64>,
    /// Blocks that somebody else has, of which this node gave addresses without knowing it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<IpNet>,
    /// Why no block is claimed, if the store was restored from an older copy: since when, who found
    /// out, and which nodes have still to say what they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
    /// Blocks that are this node's own.
    pub blocks: Vec<BlockRow>,
}

/// An address block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// The block.
    pub cidr: IpNet,
    /// Addresses that endpoints hold; those that rest after their release are not among them.
    pub used: u64,
    /// Addresses in all; saturates for blocks over 64 bits.
    pub size: u64,
}

/// How the kernel is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelReport {
    /// Everything wanted is in the kernel.
    pub in_sync: bool,
    /// What the kernel refused last; None since it took everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Elements of the nftables table.
    pub elements: u64,
    /// Routes of ours.
    pub routes: u64,
    /// What of the wanted the kernel does not take or cannot have yet, and why: at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// Objects that others changed and that were put right, since the start.
    pub repairs: u64,
}

/// How the BGP speaker is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpReport {
    /// The local AS number; None before it is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_as: Option<u32>,
    /// The BGP identifier; None before it is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router_id: Option<Ipv4Addr>,
    /// The node is cordoned: neighbours are asked to use other ways where they have any (RFC 8326).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// The neighbours.
    pub peers: Vec<PeerRow>,
}

/// A BGP neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerRow {
    /// Its address.
    pub address: IpAddr,
    /// Its AS number.
    pub remote_as: u32,
    /// What asked for it: `node-to-node mesh`, or the BGPPeer's name.
    pub origin: String,
    /// The state of RFC 4271 section 8.2.2: `Idle`, `Connect`, `Active`, `OpenSent`,
    /// `OpenConfirm`, `Established`.
    pub state: String,
    /// Seconds in this state.
    pub since_seconds: u64,
    /// Prefixes accepted.
    pub received: u64,
    /// Prefixes advertised.
    pub advertised: u64,
    /// Why it is not Established; None if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The rows that fit in a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows<T> {
    /// All that there are.
    pub total: usize,
    /// As many of them as fit.
    pub rows: Vec<T>,
}

impl<T: Serialize> Rows<T> {
    /// Takes rows as long as they fit in one message of the socket.
    pub fn bounded(all: impl IntoIterator<Item = T>) -> Self {
        let (mut rows, mut total, mut room) = (Vec::new(), 0, MAX_MESSAGE - ENVELOPE);
        for row in all {
            total += 1;
            // A row and the comma behind it. What does not serialise would not be sent either.
            let size = serde_json::to_vec(&row).map_or(usize::MAX, |json| json.len() + 1);
            if rows.len() + 1 == total && size <= room {
                room -= size;
                rows.push(row);
            }
        }
        Self { total, rows }
    }
}

/// A row of the answer to [`Request::Endpoints`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointRow {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The host's end of the veth pair.
    pub interface: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// Its policy is in the kernel.
    pub programmed: bool,
    /// Policies in force for traffic to it, in the order of their evaluation.
    pub ingress: Vec<String>,
    /// Policies in force for traffic from it, in the order of their evaluation.
    pub egress: Vec<String>,
}

/// A row of the answer to [`Request::Routes`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// The destination.
    pub prefix: IpNet,
    /// `via 10.0.0.1`, `dev cali0123456789a`, `blackhole`; more than one is ECMP.
    pub next_hops: Vec<String>,
    /// `endpoint NAMESPACE/POD`, `block`, or `bgp PEER`.
    pub origin: String,
    /// It is in the kernel.
    pub installed: bool,
}

/// Why the agent was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("the agent is not running: nothing listens on {0}")]
    NotRunning(String),
    /// The socket is the administrator's.
    #[error("permission denied on {0}: this must run as root")]
    Denied(String),
    /// It accepts, but does not answer.
    #[error("the agent does not answer: none within {DEADLINE:?} on {0}")]
    Hangs(String),
    /// It ended while it was asked.
    #[error("the agent closed {0} without an answer")]
    Closed(String),
    /// It answered with an error.
    #[error("the agent refused: {0}")]
    Refused(protocol::Error),
    /// Anything else, such as an agent of another version.
    #[error("{0}: {1}")]
    Other(String, MessageError),
}

impl AskError {
    /// Whether it is the same as when an agent ends and another begins.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::NotRunning(_) | Self::Hangs(_) | Self::Closed(_))
    }
}

/// Asks the agent. Blocks, for 10 seconds at most between two bytes.
///
/// # Errors
/// Any [`AskError`].
pub fn ask<T: DeserializeOwned>(socket: &Path, request: &Request) -> Result<T, AskError> {
    let name = || socket.display().to_string();
    let failed = |error: MessageError| match &error {
        MessageError::Io(io) => match io.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AskError::NotRunning(name())
            }
            io::ErrorKind::PermissionDenied => AskError::Denied(name()),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Hangs(name()),
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => AskError::Closed(name()),
            _ => AskError::Other(name(), error),
        },
        MessageError::TooLong(_) | MessageError::Json(_) => AskError::Other(name(), error),
    };
    let mut stream = UnixStream::connect(socket).map_err(|error| failed(error.into()))?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(|error| failed(error.into()))?;
    stream.set_write_timeout(Some(DEADLINE)).map_err(|error| failed(error.into()))?;
    let reply = protocol::ask::<T>(&mut stream, request).map_err(failed)?;
    reply.into_result().map_err(AskError::Refused)
}
