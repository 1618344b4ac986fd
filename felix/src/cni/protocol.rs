//! What is said on the agent's socket: a message is its length, as four bytes in network order,
//! followed by that many bytes holding one JSON value. A client sends one [`Request`], the agent
//! answers with one [`Reply`], and either side closes. A client that closes before it was
//! answered, also its sending half alone, has given up: an ADD is then undone.
//!
//! Only `std` and serde are needed to speak it, so the CNI plugin stays small; the asynchronous
//! half is for the agent.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Where the agent listens unless it is told otherwise. The socket's mode is 0600.
pub const DEFAULT_SOCKET: &str = "/run/caracal/felix.sock";

/// The largest message, in bytes, without its length. 1 MiB.
pub const MAX_MESSAGE: usize = 1 << 20;

const LENGTH: usize = 4;

/// What a client asks the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub enum Request {
    /// A container runtime called the plugin. The answer is a [`CniReply`].
    Cni(Box<CniRequest>),
    /// Another main plugin called the IPAM plugin. The answer is a [`CniReply`].
    Ipam(Box<CniRequest>),
    /// A container runtime called the plugin, and an IPAM plugin of others has given these
    /// addresses. ADD, and STATUS without any. The answer is a [`CniReply`].
    Delegated {
        /// The runtime's call.
        call: Box<CniRequest>,
        /// What the endpoint is to have.
        addresses: Vec<IpAddr>,
        /// The node's networks that the plugin was told to take them from.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        networks: Vec<IpNet>,
    },
    /// A container runtime called the plugin, and its IPAM plugin of others is to take addresses
    /// from the node's networks: which are they? The answer is a [`CniReply`] with [`PodCidrs`].
    PodCidrs(Box<CniRequest>),
    /// How the agent is: `felix status`.
    Status,
    /// The endpoints of this node: `felix endpoints`.
    Endpoints,
    /// The routes of this node: `felix routes`.
    Routes,
    /// The policies of the cluster, and what of them the kernel has: `felix policy status`.
    Policies {
        /// Only those that apply to this pod of the node: `namespace/name`, or a name in `default`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pod: Option<String>,
    },
    /// What policies and their rules have decided: `felix policy counters`.
    Counters,
    /// What becomes of a packet, and why: `felix explain`.
    Explain(Box<Question>),
    /// Which packets were denied: `felix drops`.
    Drops(DropsQuestion),
}

/// Which denied packets are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DropsQuestion {
    /// Only those that this pod sent or would have got: `namespace/name`, or a name in `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Only those after this place, as an earlier answer gave it; the answer then waits a moment for
    /// one if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Place>,
    /// Instead, the packets that would fare otherwise with the staged policies in force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
}

/// A place in the agent's memory of denied packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which start of the agent it is of.
    pub start: u64,
    /// How many packets came before.
    pub number: u64,
}

/// What `felix explain` asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// Where the packet comes from: an address, `namespace/pod`, a pod of namespace `default`, or a
    /// node, which `node/NAME` is for certain.
    pub source: String,
    /// Where it goes, in the same words.
    pub destination: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; as in [`crate::model::Flow`].
    pub port: u16,
    /// Source port; needed where a rule asks about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Objects in YAML as which the answer is wanted too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
    /// The answer is wanted as with the staged policies in force, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
}

/// One call of the CNI plugin: its environment and standard input, as they came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniRequest {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`; empty if not set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// `CNI_NETNS`, a path; empty if not set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub netns: String,
    /// `CNI_IFNAME`; empty if not set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ifname: String,
    /// `CNI_ARGS`, `KEY=VALUE` pairs separated by `;`; empty if not set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub args: String,
    /// `CNI_PATH`; empty if not set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The network configuration from standard input.
    pub config: Value,
}

/// The networks of a node for its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodCidrs {
    /// The node's name.
    pub node: String,
    /// For an attachment that is on record, those that its addresses were taken from; else those
    /// that the node has now.
    pub networks: Vec<IpNet>,
}

/// What the agent answers: `{"result": ...}` or `{"error": {"code", "msg", "details"}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply<T> {
    /// The request was served.
    Result(T),
    /// The request was not served, and nothing of it remains.
    Error(Error),
}

/// The answer to [`Request::Cni`]: what goes to standard output, if anything does.
pub type CniReply = Reply<Option<Value>>;

impl<T> Reply<T> {
    /// As a `Result`, for `?`.
    pub fn into_result(self) -> Result<T, Error> {
        match self {
            Self::Result(value) => Ok(value),
            Self::Error(error) => Err(error),
        }
    }
}

impl<T> From<Result<T, Error>> for Reply<T> {
    fn from(result: Result<T, Error>) -> Self {
        match result {
            Ok(value) => Self::Result(value),
            Err(error) => Self::Error(error),
        }
    }
}

/// A refusal, in the form and with the codes of the CNI specification 1.1.0, section "Error".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// A code of the specification (1 to 99), or one of the plugin's own (100 and above).
    pub code: u32,
    /// What went wrong, for a person: one sentence without the details.
    pub msg: String,
    /// More about it; empty if there is nothing more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        write!(f, " (code {})", self.code)
    }
}

impl std::error::Error for Error {}

/// Why a message could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The socket failed, or closed in the middle of a message (`UnexpectedEof`).
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The message is longer than [`MAX_MESSAGE`].
    #[error("a message of {0} bytes is over the limit of {MAX_MESSAGE}")]
    TooLong(usize),
    /// The message is not the JSON that was expected.
    #[error("not a valid message: {0}")]
    Json(#[from] serde_json::Error),
}

/// Encodes a message with its length in front.
///
/// # Errors
/// [`MessageError::TooLong`]; [`MessageError::Json`] for a map with keys that are not strings.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, MessageError> {
    let mut bytes = vec![0; LENGTH];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - LENGTH;
    let prefix = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_MESSAGE)
        .ok_or(MessageError::TooLong(length))?;
    bytes[..LENGTH].copy_from_slice(&prefix.to_be_bytes());
    Ok(bytes)
}

/// Writes one message.
///
/// # Errors
/// As [`encode`], and those of the socket.
pub fn send<T: Serialize>(writer: &mut impl Write, message: &T) -> Result<(), MessageError> {
    writer.write_all(&encode(message)?)?;
    writer.flush()?;
    Ok(())
}

/// Reads one message. Nothing is allocated for a length that is over the limit.
///
/// # Errors
/// Any [`MessageError`].
pub fn receive<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T, MessageError> {
    let mut prefix = [0; LENGTH];
    reader.read_exact(&mut prefix)?;
    let mut body = vec![0; length_of(prefix)?];
    reader.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Sends one request over a connected stream and waits for its answer.
///
/// # Errors
/// Any [`MessageError`].
pub fn ask<T: DeserializeOwned>(
    stream: &mut (impl Read + Write),
    request: &Request,
) -> Result<Reply<T>, MessageError> {
    send(stream, request)?;
    receive(stream)
}

/// [`send`], for the agent.
///
/// # Errors
/// As [`send`].
pub async fn send_async<T: Serialize + Sync>(
    writer: &mut (impl AsyncWrite + Unpin + Send),
    message: &T,
) -> Result<(), MessageError> {
    writer.write_all(&encode(message)?).await?;
    writer.flush().await?;
    Ok(())
}

/// [`receive`], for the agent.
///
/// # Errors
/// As [`receive`].
pub async fn receive_async<T: DeserializeOwned>(
    reader: &mut (impl AsyncRead + Unpin + Send),
) -> Result<T, MessageError> {
    let mut prefix = [0; LENGTH];
    reader.read_exact(&mut prefix).await?;
    let mut body = vec![0; length_of(prefix)?];
    reader.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

fn length_of(prefix: [u8; LENGTH]) -> Result<usize, MessageError> {
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MAX_MESSAGE { Err(MessageError::TooLong(length)) } else { Ok(length) }
}

#[cfg(test)]
mod tests;
