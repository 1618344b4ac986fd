//! A real API server with its etcd, for the length of a test.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Namespace;
use kube::config::AuthInfo;
use kube::{Api, Client, Config};
use tempfile::TempDir;

/// A free port may be taken between being found and being used; then all is tried again.
const ATTEMPTS: u32 = 5;
const START_TIMEOUT: Duration = Duration::from_secs(120);
const TOKEN: &str = "system-masters";

/// The two programs.
pub(crate) struct Binaries {
    kube_apiserver: PathBuf,
    etcd: PathBuf,
}

impl Binaries {
    /// As envtest finds them: `TEST_ASSET_KUBE_APISERVER` and `TEST_ASSET_ETCD`, else in the
    /// directory `KUBEBUILDER_ASSETS`.
    pub(crate) fn find() -> Option<Self> {
        let one = |variable: &str, name: &str| {
            let from = env::var_os(variable).map(PathBuf::from);
            let folder = || env::var_os("KUBEBUILDER_ASSETS").map(|f| PathBuf::from(f).join(name));
            from.or_else(folder).filter(|path| path.exists())
        };
        Some(Self {
            kube_apiserver: one("TEST_ASSET_KUBE_APISERVER", "kube-apiserver")?,
            etcd: one("TEST_ASSET_ETCD", "etcd")?,
        })
    }
}

/// A process that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fields are dropped in their order: the server before its store.
pub(crate) struct ControlPlane {
    _kube_apiserver: Running,
    _etcd: Running,
    client: Client,
    config: Config,
    _folder: TempDir,
}

impl ControlPlane {
    pub(crate) async fn start(binaries: &Binaries) -> Self {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            match Self::attempt(binaries).await {
                Ok(started) => return started,
                Err(error) => last = error,
            }
        }
        panic!("no API server after {ATTEMPTS} attempts: {last}");
    }

    /// A client that may do everything.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client that acts as this user of these groups.
    pub(crate) fn client_as(&self, user: &str, groups: &[&str]) -> Client {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        config.auth_info.impersonate_groups = Some(groups);
        Client::try_from(config).unwrap()
    }

    /// A client with a bearer token of its own.
    pub(crate) fn client_with_token(&self, token: &str) -> Client {
        let mut config = self.config.clone();
        config.auth_info.token = Some(token.to_owned().into());
        Client::try_from(config).unwrap()
    }

    async fn attempt(binaries: &Binaries) -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let [client_port, peer_port, secure_port] = free_ports().map_err(|e| e.to_string())?;
        let store = format!("http://127.0.0.1:{client_port}");
        let etcd = run(
            Command::new(&binaries.etcd)
                .arg("--data-dir")
                .arg(at("etcd"))
                .args(["--listen-client-urls", &store, "--advertise-client-urls", &store])
                .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer_port}")])
                .arg("--unsafe-no-fsync"),
            &at("etcd.log"),
        )?;
        service_account_keys(&at("sa.key"), &at("sa.pub"));
        fs::write(at("tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        fs::set_permissions(at("tokens.csv"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut kube_apiserver = run(
            Command::new(&binaries.kube_apiserver)
                .arg(format!("--etcd-servers={store}"))
                .arg(format!("--cert-dir={}", at("certs").display()))
                .arg(format!("--secure-port={secure_port}"))
                .arg("--bind-address=127.0.0.1")
                .arg("--service-cluster-ip-range=10.96.0.0/16")
                .arg("--service-account-issuer=https://kubernetes.default.svc")
                .arg(format!("--service-account-key-file={}", at("sa.pub").display()))
                .arg(format!("--service-account-signing-key-file={}", at("sa.key").display()))
                .arg(format!("--token-auth-file={}", at("tokens.csv").display()))
                .arg("--authorization-mode=RBAC")
                .arg("--allow-privileged=true"),
            &at("kube-apiserver.log"),
        )?;
        let config = config(secure_port);
        let client = Client::try_from(config.clone()).map_err(|error| error.to_string())?;
        let namespaces = Api::<Namespace>::all(client.clone());
        let started = Instant::now();
        // The server makes this namespace once it is whole.
        while namespaces.get("default").await.is_err() {
            let log = || tail(&fs::read_to_string(at("kube-apiserver.log")).unwrap_or_default());
            if let Ok(Some(status)) = kube_apiserver.0.try_wait() {
                return Err(format!("kube-apiserver ended with {status}: {}", log()));
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(format!("kube-apiserver is not ready: {}", log()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { _kube_apiserver: kube_apiserver, _etcd: etcd, client, config, _folder: folder })
    }
}

/// Whoever connects must be the server just started: its certificate is self-signed.
fn config(port: u16) -> Config {
    let mut config = Config::new(format!("https://127.0.0.1:{port}").parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info = AuthInfo { token: Some(TOKEN.to_owned().into()), ..AuthInfo::default() };
    config
}

fn run(command: &mut Command, log: &Path) -> Result<Running, String> {
    let log = File::create(log).map_err(|error| error.to_string())?;
    let error_log = log.try_clone().map_err(|error| error.to_string())?;
    let command = command.stdin(Stdio::null()).stdout(log).stderr(error_log);
    command.spawn().map(Running).map_err(|error| error.to_string())
}

fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut listeners = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// A new pair of keys for service accounts' tokens, as PEM. To verify, the server takes an ECDSA
/// key only in its public form.
fn service_account_keys(private: &Path, public: &Path) {
    use ring::signature::KeyPair as _;
    let random = ring::rand::SystemRandom::new();
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = ring::signature::EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap();
    let point = [P256_PUBLIC_KEY, pair.public_key().as_ref()].concat();
    for (path, kind, der) in
        [(private, "PRIVATE KEY", key.as_ref().to_vec()), (public, "PUBLIC KEY", point)]
    {
        let base64 = serde_json::to_value(ByteString(der)).unwrap();
        let base64 = base64.as_str().unwrap();
        fs::write(path, format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n"))
            .unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// What precedes the point in a SubjectPublicKeyInfo (RFC 5480) of an ECDSA key on P-256.
const P256_PUBLIC_KEY: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
