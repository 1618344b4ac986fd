//! The agent's own configuration: `felix.yaml`, each key also as a `CARACAL_*` environment variable.
//!
//! ```yaml
//! nodeName: worker-1            # CARACAL_NODE_NAME; default: the host name, in lower case
//! runDir: /run/caracal          # sockets
//! stateDir: /var/lib/caracal    # endpoints, embedded IPAM store
//! source:                       # where intent comes from
//!   kind: kubernetes            # CARACAL_SOURCE_KIND; or: directory, with path
//!   kubeconfig: /etc/caracal/kubeconfig   # default: the pod's service account
//!   secretNamespace: caracal-system       # default: the namespace of the credentials
//!   streamingLists: false       # needs etcd >= 3.4.31 or >= 3.5.13 behind the API server
//! ipam:
//!   store: etcd                 # or: embedded (one machine alone)
//!   endpoints: [https://10.0.0.1:2379]    # CARACAL_IPAM_ENDPOINTS, separated by commas
//!   caFile: /etc/caracal/etcd/ca.crt
//!   certFile: /etc/caracal/etcd/tls.crt
//!   keyFile: /etc/caracal/etcd/tls.key
//!   username: caracal
//!   passwordFile: /etc/caracal/etcd/password
//!   localFirst: true            # false: etcd has every address before it is answered, always
//! http: {address: "127.0.0.1:9099"}       # /livez, /readyz, /metrics
//! log: {level: info, format: text}        # format: text or json
//! cni: {deadlineSeconds: 30}              # a CNI request that takes longer is undone
//! flowRecords:                  # what policy denies, and would deny, a line of JSON each
//!   file: /var/log/caracal/flows.jsonl    # default: nowhere; root alone can read it
//!   maxMegabytes: 16            # then it becomes flows.jsonl.1, and a new one begins
//! bgp:
//!   port: 179                   # default: as BGPConfiguration says
//!   routerId: 10.0.0.7          # default: the node's IPv4 address
//!   drain: cordoned             # or: never; when peers are asked to prefer other routes (RFC 8326)
//! ```
//! The environment wins over the file. A mistake is an error that names the file and line (or the
//! variable), the field and the reason.

mod fields;
mod settings;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fields::{directory, drain, flow_records, ipam, log, node_name, router_id, source};
use settings::Settings;

/// Read when no other file is named; it may be absent.
pub const DEFAULT_FILE: &str = "/etc/caracal/felix.yaml";

/// Name of the agent's socket in [`Config::run_dir`].
const SOCKET_NAME: &str = "felix.sock";

/// `sun_path` of `struct sockaddr_un` (unix(7)), less its terminating zero.
const SOCKET_PATH_LIMIT: usize = 107;

/// Every field, in the order of the documentation. Its variable is `CARACAL_` and the path with
/// each word in capitals: `ipam.caFile` is `CARACAL_IPAM_CA_FILE`.
const FIELDS: &[&str] = &[
    "nodeName",
    "runDir",
    "stateDir",
    "source.kind",
    "source.path",
    "source.kubeconfig",
    "source.secretNamespace",
    "source.streamingLists",
    "ipam.store",
    "ipam.endpoints",
    "ipam.caFile",
    "ipam.certFile",
    "ipam.keyFile",
    "ipam.username",
    "ipam.passwordFile",
    "ipam.localFirst",
    "http.address",
    "log.level",
    "log.format",
    "cni.deadlineSeconds",
    "flowRecords.file",
    "flowRecords.maxMegabytes",
    "bgp.port",
    "bgp.routerId",
    "bgp.drain",
];

/// The agent's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's `metadata.name`.
    pub node_name: String,
    /// Sockets; gone after a reboot.
    pub run_dir: PathBuf,
    /// What outlives a reboot.
    pub state_dir: PathBuf,
    /// Where intent comes from.
    pub source: SourceConfig,
    /// Where address blocks are kept.
    pub ipam: IpamConfig,
    /// Health and metrics.
    pub http: HttpConfig,
    /// The log.
    pub log: LogConfig,
    /// The CNI server.
    pub cni: CniConfig,
    /// Where flow records go; None: nowhere.
    pub flow_records: Option<FlowRecordsConfig>,
    /// What of BGP is local to this node.
    pub bgp: BgpConfig,
}

/// `source`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// `kind: kubernetes`.
    Kubernetes(KubernetesConfig),
    /// `kind: directory`.
    Directory {
        /// The folder of YAML files; not searched below its first level.
        path: PathBuf,
    },
}

/// `source`, of kind `kubernetes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// None: the service account of the pod that the agent runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Where Secrets are read; None: the namespace of the credentials.
    pub secret_namespace: Option<String>,
    /// Initial lists as one watch (`sendInitialEvents`), where the API server is able to.
    pub streaming_lists: bool,
}

/// `ipam`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpamConfig {
    /// `store: etcd`.
    Etcd(EtcdConfig),
    /// `store: embedded`, in the state directory.
    Embedded,
}

/// `ipam`, with `store: etcd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT`, at least one.
    pub endpoints: Vec<String>,
    /// PEM; required for https.
    pub ca_file: Option<PathBuf>,
    /// PEM; together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM; together with `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Together with `password_file`.
    pub username: Option<String>,
    /// The password, less one trailing newline. Read for each new connection, and again when etcd
    /// no longer takes it, so that a rotated file takes effect.
    pub password_file: Option<PathBuf>,
    /// Whether the node may answer from its own log where nobody borrows from its blocks
    /// (strictAffinity), and etcd follows.
    pub local_first: bool,
}

impl EtcdConfig {
    /// How the store reaches etcd.
    pub fn access(&self) -> ipam::EtcdConfig {
        ipam::EtcdConfig {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            username: self.username.clone(),
            password_file: self.password_file.clone(),
            ..ipam::EtcdConfig::new(self.endpoints.iter().cloned())
        }
    }
}

/// `http`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where `/livez`, `/readyz` and `/metrics` are served, without TLS.
    pub address: SocketAddr,
}

/// `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// A level (`info`) or directives of `tracing_subscriber::EnvFilter` (`info,felix::kernel=debug`).
    /// None: as FelixConfiguration says, `info` until it does.
    pub level: Option<String>,
    /// How a line looks.
    pub format: LogFormat,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object on a line.
    Json,
}

/// `cni`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// A request that is not done by then is undone and fails. Runtimes wait 2 to 4 minutes.
    pub deadline: Duration,
}

/// `flowRecords`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecordsConfig {
    /// A file in a folder that exists.
    pub file: PathBuf,
    /// Its length, in bytes, from which on another one is begun. The one before is kept.
    pub max_bytes: u64,
}

/// `bgp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BgpConfig {
    /// Local TCP port, before BGPConfiguration's `listenPort`.
    pub port: Option<u16>,
    /// BGP identifier (RFC 4271 section 4.2); None: the node's IPv4 address.
    pub router_id: Option<Ipv4Addr>,
    /// When the node's routes are announced as the last choice.
    pub drain: Drain,
}

/// `bgp.drain`: when peers are asked to use other ways than over this node, where they have any
/// (RFC 8326). No session ends for it, and what only this node has stays reachable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// While the node is cordoned (`kubectl cordon`, `kubectl drain`).
    #[default]
    Cordoned,
    /// Not at all.
    Never,
}

/// A mistake in the configuration: where it is, which field, why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file and line, or the variable; None where a field is missing altogether.
    pub origin: Option<Origin>,
    /// The field's path, such as `ipam.endpoints`; empty for the file as a whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file; the line counts from 1, 0 for the file as a whole.
    File(PathBuf, u64),
    /// An environment variable.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
        }
    }
}

impl Config {
    /// Reads `file` (if None, [`DEFAULT_FILE`] where it exists) and then `environment`, which wins.
    ///
    /// # Errors
    /// The first mistake found.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Settings::new(FIELDS);
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => settings.read_yaml(path, &text)?,
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(ConfigError {
                    origin: Some(Origin::File(path.to_owned(), 0)),
                    field: String::new(),
                    reason: error.to_string(),
                });
            }
        }
        settings.read_environment(environment);
        Self::build(&settings)
    }

    /// The agent's socket, for CNI and the CLI.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET_NAME)
    }

    fn build(settings: &Settings) -> Result<Self, ConfigError> {
        let run_dir = directory(settings, "runDir", "/run/caracal")?;
        let socket_length = run_dir.join(SOCKET_NAME).as_os_str().len();
        if socket_length > SOCKET_PATH_LIMIT {
            return Err(settings.error(
                "runDir",
                format!(
                    "the socket in it would have a path of {socket_length} bytes, over the {SOCKET_PATH_LIMIT} that unix(7) allows"
                ),
            ));
        }
        let source = source(settings)?;
        Ok(Self {
            node_name: node_name(settings)?,
            run_dir,
            state_dir: directory(settings, "stateDir", "/var/lib/caracal")?,
            ipam: ipam(settings, &source)?,
            source,
            http: HttpConfig {
                address: settings
                    .parse("http.address", "an address and a port such as 127.0.0.1:9099")?
                    .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 9099))),
            },
            log: log(settings)?,
            cni: CniConfig {
                deadline: Duration::from_secs(
                    settings.number("cni.deadlineSeconds", 1..=240)?.unwrap_or(30),
                ),
            },
            flow_records: flow_records(settings)?,
            bgp: BgpConfig {
                port: settings
                    .number("bgp.port", 1..=65535)?
                    .map(|port| u16::try_from(port).unwrap_or(u16::MAX)),
                router_id: router_id(settings)?,
                drain: drain(settings)?,
            },
        })
    }
}

/// The `CARACAL_*` variables of `environment` that are not settings: a misspelt one would
/// otherwise go unnoticed. Those that Kubernetes makes for a Service named `caracal*` are left out.
pub fn unknown_variables(environment: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    let known: Vec<String> = FIELDS.iter().map(|field| settings::variable(field)).collect();
    let of_a_service = |name: &str| {
        ["_SERVICE_HOST", "_TCP", "_UDP"].iter().any(|part| name.contains(part))
            || name.contains("_SERVICE_PORT")
            || name.ends_with("_PORT")
    };
    environment
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            name.starts_with(settings::PREFIX) && !known.contains(name) && !of_a_service(name)
        })
        .collect()
}
