//! The CNI specification 1.1.0 as far as it is about input: versions, commands, environment and
//! configuration, with the codes it gives to what is wrong with them. Pure; used by the plugin
//! before it bothers the agent, and by the agent, which trusts nobody.

mod version;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

pub use self::version::{Command, Version};
use super::lease::{self, Lease};
use super::protocol::{CniRequest, DEFAULT_SOCKET, Error};
use crate::model::EndpointId;

/// Error codes: those of the specification (section "Error"), of libcni, and ours from 100.
pub mod code {
    /// The configuration's `cniVersion` is not supported, or has no such command.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// `CNI_*` variables are missing or wrong; the message names them.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// Standard input is not the JSON it should be.
    pub const DECODE: u32 = 6;
    /// The network configuration is wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace does not exist (libcni's `ErrInvalidNetNS`).
    pub const INVALID_NETNS: u32 = 8;
    /// Nothing is wrong with the request; it can be served later.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: no ADD can be served.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: no ADD can be served, and existing containers may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// ADD of an attachment that exists already; DEL it first.
    pub const ALREADY_ATTACHED: u32 = 100;
    /// ADD where the container already has an interface of that name.
    pub const INTERFACE_EXISTS: u32 = 101;
    /// What the pod's or namespace's annotations ask for cannot be done.
    pub const INVALID_REQUEST: u32 = 102;
    /// CHECK found something missing or different.
    pub const CHECK_FAILED: u32 = 103;
    /// GC or DEL could not remove everything; it goes on in the background.
    pub const INCOMPLETE_REMOVAL: u32 = 104;
    /// A defect of the agent (libcni's number for it).
    pub const INTERNAL: u32 = 999;
}

/// A network configuration, the keys that Caracal reads. Others are ignored, as the
/// specification wants.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Config {
    /// The network's name; first part of the IPAM handle.
    #[serde(default)]
    pub name: String,
    /// The agent's socket, if it is not [`DEFAULT_SOCKET`].
    pub socket: Option<String>,
    /// How many seconds ADD waits for an agent that is not there, at most 60. It may be
    /// restarting. Default 5.
    #[serde(rename = "connectTimeoutSeconds")]
    pub connect_timeout_seconds: Option<u8>,
    /// Largest packet on the link, in bytes; 0 or absent: the agent's.
    #[serde(default)]
    pub mtu: u32,
    /// Which addresses.
    #[serde(default)]
    pub ipam: Ipam,
    /// Copied into the result.
    #[serde(default)]
    pub dns: Value,
    /// The result of the plugins before this one in the chain; for CHECK, of this one too.
    #[serde(default, rename = "prevResult")]
    pub prev_result: Value,
}

/// `ipam` in a network configuration; the keys are Calico's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Ipam {
    /// Whether an IPv4 address is wanted; absent: if there is a pool for it.
    #[serde(default, deserialize_with = "lenient_bool")]
    pub assign_ipv4: Option<bool>,
    /// Whether an IPv6 address is wanted; absent: if there is a pool for it.
    #[serde(default, deserialize_with = "lenient_bool")]
    pub assign_ipv6: Option<bool>,
    /// Pools for IPv4, by CIDR or name; empty: all that the node may use.
    #[serde(default)]
    pub ipv4_pools: Vec<String>,
    /// Pools for IPv6, by CIDR or name; empty: all that the node may use.
    #[serde(default)]
    pub ipv6_pools: Vec<String>,
}

impl Config {
    /// The agent's socket.
    pub fn socket(&self) -> &str {
        self.socket.as_deref().unwrap_or(DEFAULT_SOCKET)
    }
}

/// The pod that an attachment is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAMESPACE`; `default` outside Kubernetes.
    pub namespace: String,
    /// `K8S_POD_NAME`; the container id outside Kubernetes.
    pub name: String,
    /// `K8S_POD_UID`; empty if the runtime did not say.
    pub uid: String,
    /// Whether the runtime named a pod.
    pub kubernetes: bool,
}

/// Addresses of another IPAM plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// What the endpoint is to have.
    pub addresses: Vec<IpAddr>,
    /// The node's networks that the plugin was told to take them from.
    pub networks: Vec<IpNet>,
}

/// A call that is as the specification wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What is to be done.
    pub command: Command,
    /// The configuration's version, which is also the result's.
    pub version: Version,
    /// The network configuration. For DEL only its name and socket are read: what is wrong with
    /// the rest does not keep a container from being removed.
    pub config: Config,
    /// What only the IPAM plugin is told; None for the main plugin's calls.
    pub lease: Option<Lease>,
    /// What another IPAM plugin gave: ADD takes these, and asks for no others. None where the
    /// agent's own IPAM is asked.
    pub delegated: Option<Given>,
    /// Which attachment; empty strings for GC and STATUS.
    pub id: EndpointId,
    /// `CNI_NETNS`; may be empty for DEL, is empty for GC and STATUS.
    pub netns: String,
    /// From `CNI_ARGS`.
    pub pod: PodArgs,
    /// GC: the attachments that stay.
    pub valid_attachments: Vec<EndpointId>,
}

impl Call {
    /// Reads and checks a request, in the order libcni does: environment, then configuration.
    ///
    /// # Errors
    /// Codes 1, 4, 6 and 7 of the specification; the message names the variable or key.
    pub fn parse(request: &CniRequest) -> Result<Self, Error> {
        let command = Command::parse(&request.command);
        check_environment(command, request)?;
        let Some(command) = command else {
            return Err(environment(format!("unknown CNI_COMMAND: {}", request.command)));
        };
        let pod = if command == Command::Add {
            pod_args(&request.args, &request.container_id)?
        } else {
            // Only ADD needs to know the pod; DEL goes by container and interface alone.
            pod_args("", &request.container_id)?
        };

        if !request.config.is_object() {
            return Err(Error {
                code: code::DECODE,
                msg: "the network configuration is not a JSON object".into(),
                details: String::new(),
            });
        }
        let version = Version::of(&request.config)?;
        if version < command.since() {
            return Err(Error {
                code: code::INCOMPATIBLE_VERSION,
                msg: format!("config version does not allow {command}"),
                details: format!(
                    "config is {version}, {command} is in {} and later",
                    command.since()
                ),
            });
        }
        let config = read_config(command, &request.config)?;
        let valid_attachments =
            if command == Command::Gc { valid_attachments(&request.config)? } else { Vec::new() };
        if command == Command::Check && !config.prev_result.is_object() {
            return Err(config_error("prevResult", "CHECK needs the result of ADD"));
        }
        let id = EndpointId {
            container_id: request.container_id.clone(),
            ifname: request.ifname.clone(),
        };
        let netns = request.netns.clone();
        let (lease, delegated) = (None, None);
        Ok(Self { command, version, config, lease, delegated, id, netns, pod, valid_attachments })
    }

    /// The same for a call of the main plugin with the addresses of another IPAM plugin.
    ///
    /// # Errors
    /// As [`Call::parse`]; code 7 for addresses that an endpoint cannot have.
    pub fn parse_delegated(
        request: &CniRequest,
        addresses: &[IpAddr],
        networks: &[IpNet],
    ) -> Result<Self, Error> {
        let mut call = Self::parse(request)?;
        let ipv4 = addresses.iter().filter(|address| address.is_ipv4()).count();
        let count = addresses.len();
        let of_none = |a: &IpAddr| a.is_unspecified() || a.is_multicast() || a.is_loopback();
        let add = call.command == Command::Add;
        if ipv4 > 1 || count - ipv4 > 1 || add == (count == 0) || addresses.iter().any(of_none) {
            let text = format!("gave {addresses:?}: not one address, nor one of each family");
            return Err(config_error("ipam.type", &text));
        }
        let (addresses, networks) = (addresses.to_vec(), networks.to_vec());
        call.delegated = Some(Given { addresses, networks });
        Ok(call)
    }

    /// The same for a call of the IPAM plugin: of the configuration, which is another main
    /// plugin's, only what is meant for it.
    ///
    /// # Errors
    /// As [`Call::parse`].
    pub fn parse_ipam(request: &CniRequest) -> Result<Self, Error> {
        let mut call = Self::parse(&lease::own_part(request))?;
        // What others need for an answer is not asked of those that only take away or list.
        call.lease = Some(match call.command {
            Command::Add | Command::Status => Lease::read(&request.config, &request.args)?,
            Command::Del | Command::Check | Command::Gc => Lease::default(),
        });
        Ok(call)
    }
}

/// The answer to VERSION. It needs nothing, not even a configuration that is sound.
pub fn version_result(config: &Value) -> Value {
    let version = config.get("cniVersion").and_then(Value::as_str);
    json!({
        "cniVersion": version.unwrap_or(Version::V1_1_0.as_str()),
        "supportedVersions": Version::ALL.map(Version::as_str),
    })
}

/// A refusal as it goes to standard output, with the `cniVersion` of the configuration if it has
/// one.
pub fn error_object(config: &Value, error: &Error) -> Value {
    let version = config.get("cniVersion").and_then(Value::as_str);
    let mut object = json!({
        "cniVersion": version.unwrap_or(Version::V1_1_0.as_str()),
        "code": error.code,
        "msg": error.msg,
    });
    if !error.details.is_empty() {
        object["details"] = Value::from(error.details.as_str());
    }
    object
}

/// Whether `text` can be a container id or a network's name: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn check_environment(command: Option<Command>, request: &CniRequest) -> Result<(), Error> {
    let attachment = matches!(command, Some(Command::Add | Command::Del | Command::Check));
    let netns = matches!(command, Some(Command::Add | Command::Check));
    let missing: Vec<&str> = [
        ("CNI_COMMAND", true, &request.command),
        ("CNI_CONTAINERID", attachment, &request.container_id),
        ("CNI_NETNS", netns, &request.netns),
        ("CNI_IFNAME", attachment, &request.ifname),
    ]
    .into_iter()
    .filter(|(_, needed, value)| *needed && value.is_empty())
    .map(|(name, ..)| name)
    .collect();
    if !missing.is_empty() {
        let missing = missing.join(",");
        return Err(environment(format!("required env variables [{missing}] missing")));
    }
    if !attachment {
        return Ok(());
    }
    if !is_identifier(&request.container_id) {
        return Err(environment(format!(
            "CNI_CONTAINERID {:?} is not letters, digits, '_', '.' and '-' after a letter or digit",
            request.container_id
        )));
    }
    let reason = match request.ifname.as_str() {
        name if name.len() > 15 => "is longer than 15 bytes",
        "." | ".." => "is the name of a directory",
        name if name.contains(['/', ':']) => "contains '/' or ':'",
        name if name.contains(char::is_whitespace) => "contains white space",
        name if name.contains(char::is_control) => "contains a control character",
        _ => return Ok(()),
    };
    Err(environment(format!("CNI_IFNAME {:?} {reason}", request.ifname)))
}

fn pod_args(args: &str, container_id: &str) -> Result<PodArgs, Error> {
    let (mut namespace, mut name, mut uid) = ("", "", "");
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(environment(format!("CNI_ARGS: {pair:?} is not KEY=VALUE")));
        };
        match key {
            "K8S_POD_NAMESPACE" => namespace = value,
            "K8S_POD_NAME" => name = value,
            "K8S_POD_UID" => uid = value,
            _ => {}
        }
    }
    for (key, value) in [("K8S_POD_NAMESPACE", namespace), ("K8S_POD_NAME", name)] {
        if !value.is_empty() && (!is_identifier(value) || value.len() > 253) {
            return Err(environment(format!("CNI_ARGS: {key} {value:?} is not a Kubernetes name")));
        }
    }
    match (namespace.is_empty(), name.is_empty()) {
        (false, false) => Ok(PodArgs {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
            kubernetes: true,
        }),
        (true, true) => Ok(PodArgs {
            namespace: "default".into(),
            name: container_id.into(),
            uid: String::new(),
            kubernetes: false,
        }),
        (false, true) => {
            Err(environment("CNI_ARGS has K8S_POD_NAMESPACE and no K8S_POD_NAME".into()))
        }
        (true, false) => {
            Err(environment("CNI_ARGS has K8S_POD_NAME and no K8S_POD_NAMESPACE".into()))
        }
    }
}

fn read_config(command: Command, config: &Value) -> Result<Config, Error> {
    let kept: Value = if command == Command::Del {
        ["name", "socket"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), config.get(key)?.clone())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    } else {
        config.clone()
    };
    // With the path of the key that is wrong.
    let config: Config = serde_path_to_error::deserialize(kept).map_err(|error| Error {
        code: code::INVALID_CONFIG,
        msg: "invalid network configuration".into(),
        details: error.to_string(),
    })?;
    if !is_identifier(&config.name) {
        return Err(config_error("name", &format!("{:?} is not a network's name", config.name)));
    }
    if config.mtu != 0 && !(68..=65_535).contains(&config.mtu) {
        return Err(config_error("mtu", &format!("{} is not in 68 to 65535", config.mtu)));
    }
    if config.connect_timeout_seconds.is_some_and(|seconds| seconds > 60) {
        return Err(config_error("connectTimeoutSeconds", "is more than 60"));
    }
    if config.socket.as_deref().is_some_and(|path| !path.starts_with('/')) {
        return Err(config_error("socket", "is not an absolute path"));
    }
    if !config.prev_result.is_null() && !config.prev_result.is_object() {
        return Err(config_error("prevResult", "is not an object"));
    }
    Ok(config)
}

/// The list as the specification names it, or as libcni before 1.2.3 did. A null is libcni's
/// empty list. No list at all is no proof that anything is to go.
fn valid_attachments(config: &Value) -> Result<Vec<EndpointId>, Error> {
    #[derive(Deserialize)]
    struct Attachment {
        #[serde(rename = "containerID")]
        container_id: String,
        ifname: String,
    }
    let Some((key, list)) = ["cni.dev/valid-attachments", "cni.dev/attachments"]
        .into_iter()
        .find_map(|key| Some((key, config.get(key)?)))
    else {
        return Err(config_error("cni.dev/valid-attachments", "is missing; nothing was removed"));
    };
    let list: Option<Vec<Attachment>> = Deserialize::deserialize(list)
        .map_err(|error| config_error(key, &format!("is wrong: {error}; nothing was removed")))?;
    Ok(list
        .unwrap_or_default()
        .into_iter()
        .map(|one| EndpointId { container_id: one.container_id, ifname: one.ifname })
        .collect())
}

pub(super) fn environment(msg: String) -> Error {
    Error { code: code::INVALID_ENVIRONMENT, msg, details: String::new() }
}

pub(super) fn config_error(key: &str, reason: &str) -> Error {
    Error {
        code: code::INVALID_CONFIG,
        msg: "invalid network configuration".into(),
        details: format!("{key} {reason}"),
    }
}

/// Calico's configurations say `"true"`.
fn lenient_bool<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Bool(bool),
        Text(String),
    }
    match Option::<Either>::deserialize(input)? {
        None => Ok(None),
        Some(Either::Bool(value)) => Ok(Some(value)),
        Some(Either::Text(text)) => match text.as_str() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(serde::de::Error::custom(format!("{text:?} is neither true nor false"))),
        },
    }
}

#[cfg(test)]
mod tests;
