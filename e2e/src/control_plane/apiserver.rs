//! kube-apiserver, its etcd, and kube-controller-manager.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use nix::sys::signal::Signal;
use ring::signature::KeyPair as _;
use serde_json::json;
use tokio::process::Command;

use super::binaries::Binaries;
use super::{Etcd, NAMESPACE};
use crate::cluster::KubernetesCluster;
use crate::fabric::Place;
use crate::process::{self, Daemon};
use crate::record::Record;
use crate::topology::CONTROL;
use crate::wait;

const PORT: u16 = 6443;
/// How long a start may take on a machine that is busy with others.
const START: Duration = Duration::from_secs(90);
/// Longer than any lab is up.
const TOKEN_SECONDS: i64 = 7 * 86400;

/// A running control plane.
#[derive(Debug)]
pub(crate) struct ApiServer {
    place: Place,
    record: Record,
    binaries: Binaries,
    etcd: Etcd,
    server: Option<Daemon>,
    manager: Option<Daemon>,
}

impl ApiServer {
    /// Starts everything and waits until the server is ready.
    pub(crate) async fn start(place: &Place, record: &Record, binaries: Binaries) -> Result<Self> {
        let directory = place.directory_of("kubernetes");
        std::fs::create_dir_all(&directory)?;
        write_credentials(&directory)?;
        // Nothing here outlives the lab, so nothing need reach the disk.
        let etcd = Etcd::new(
            place,
            record,
            "kubernetes-etcd",
            binaries.etcd.clone(),
            (Ipv4Addr::LOCALHOST, 2391),
            &["--unsafe-no-fsync"],
        );
        let (place, record) = (place.clone(), record.clone());
        let mut this = Self { place, record, binaries, etcd, server: None, manager: None };
        this.etcd.start().await?;
        this.start_server().await?;
        this.start_manager().await?;
        Ok(this)
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(place: &Place) -> PathBuf {
        place.directory_of("kubernetes").join("admin.kubeconfig")
    }

    /// Starts the API server, or starts it again, and waits until it is ready.
    pub(crate) async fn start_server(&mut self) -> Result<()> {
        let directory = self.place.directory_of("kubernetes");
        let at = |file: &str| directory.join(file).display().to_string();
        let key = at("service-account.key");
        let mut command = Command::new(&self.binaries.kube_apiserver);
        command.args([
            format!("--etcd-servers={}", self.etcd.endpoint()),
            format!("--cert-dir={}", at("certificates")),
            format!("--bind-address={CONTROL}"),
            format!("--advertise-address={CONTROL}"),
            format!("--secure-port={PORT}"),
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", at("service-account.pub")),
            format!("--service-account-signing-key-file={key}"),
            format!("--token-auth-file={}", at("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--allow-privileged=true".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--profiling=false".into(),
        ]);
        let netns = self.place.netns(NAMESPACE);
        let log = directory.join("kube-apiserver.log");
        let mut server =
            Daemon::start(&self.record, "kube-apiserver", &netns, command, &log).await?;
        let certificate = directory.join("certificates/apiserver.crt");
        wait::until("the API server's certificate", START, || {
            let state = server.check();
            let there = certificate.exists();
            async move {
                state?;
                ensure!(there, "not written");
                Ok(())
            }
        })
        .await?;
        let token = std::fs::read_to_string(directory.join("admin.token"))?;
        write_kubeconfig(&self.place, &Self::kubeconfig(&self.place), "default", &token)?;
        let cluster = KubernetesCluster::open(&Self::kubeconfig(&self.place), &netns).await?;
        wait::until("the API server to be ready", START, || {
            let state = server.check();
            let client = cluster.client().clone();
            async move {
                state?;
                let request = http::Request::get("/readyz").body(Vec::new())?;
                client.request_text(request).await?;
                Ok(())
            }
        })
        .await
        .map_err(|error| error.context(process::log_tail(&log, 20)))?;
        self.server = Some(server);
        Ok(())
    }

    async fn start_manager(&mut self) -> Result<()> {
        let Some(program) = &self.binaries.kube_controller_manager else { return Ok(()) };
        let directory = self.place.directory_of("kubernetes");
        let kubeconfig = Self::kubeconfig(&self.place).display().to_string();
        let mut command = Command::new(program);
        command.args([
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
            format!(
                "--service-account-private-key-file={}",
                directory.join("service-account.key").display()
            ),
            format!("--root-ca-file={}", certificate(&self.place).display()),
            // The lab's nodes send no heartbeats, and nobody's pods are to be evicted for it.
            "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller".into(),
            "--profiling=false".into(),
        ]);
        let netns = self.place.netns(NAMESPACE);
        let log = directory.join("kube-controller-manager.log");
        let name = "kube-controller-manager";
        self.manager = Some(Daemon::start(&self.record, name, &netns, command, &log).await?);
        Ok(())
    }

    /// Kills the API server; its etcd stays.
    pub(crate) async fn kill_server(&mut self) -> Result<()> {
        if let Some(mut server) = self.server.take() {
            server.stop(Signal::SIGKILL, Duration::from_secs(5)).await?;
        }
        Ok(())
    }

    /// The program, where there is one.
    pub(crate) fn kube_proxy(&self) -> Option<PathBuf> {
        self.binaries.kube_proxy.clone()
    }

    /// Writes a kubeconfig with a token of a ServiceAccount, for its namespace.
    pub(crate) async fn service_account_kubeconfig(
        &self,
        cluster: &KubernetesCluster,
        namespace: &str,
        name: &str,
        file: &Path,
    ) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client().clone(), namespace);
        let spec =
            TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..Default::default() };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("a token of ServiceAccount {namespace}/{name}"))?;
        let token = answer.status.and_then(|status| status.token);
        let token = token.context("a TokenRequest without a token in its status")?;
        write_kubeconfig(&self.place, file, namespace, &token)
    }
}

/// The server signed it itself, so it is its own authority.
fn certificate(place: &Place) -> PathBuf {
    place.directory_of("kubernetes").join("certificates/apiserver.crt")
}

/// The key that ServiceAccount tokens are signed with, and the administrator's token.
fn write_credentials(directory: &Path) -> Result<()> {
    let random = ring::rand::SystemRandom::new();
    let key = ring::signature::EcdsaKeyPair::generate_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        &random,
    )
    .map_err(|_| anyhow::anyhow!("cannot make a key"))?;
    let pair = ring::signature::EcdsaKeyPair::from_pkcs8(
        &ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        key.as_ref(),
        &random,
    )
    .map_err(|_| anyhow::anyhow!("cannot read the key that was made"))?;
    write_secret(&directory.join("service-account.key"), &pem("PRIVATE KEY", key.as_ref()))?;
    // The server reads an ECDSA key that is to verify only in this form.
    let public = [P256_PUBLIC_KEY, pair.public_key().as_ref()].concat();
    write_secret(&directory.join("service-account.pub"), &pem("PUBLIC KEY", &public))?;
    let token = format!("{:032x}", rand::random::<u128>());
    write_secret(&directory.join("admin.token"), &token)?;
    let row = format!("{token},admin,admin,\"system:masters\"\n");
    write_secret(&directory.join("tokens.csv"), &row)
}

/// What precedes the point in a SubjectPublicKeyInfo (RFC 5480) of an ECDSA key on P-256.
const P256_PUBLIC_KEY: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Textual encoding after RFC 7468.
fn pem(label: &str, bytes: &[u8]) -> String {
    let body = STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, letter) in body.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text + "\n-----END " + label + "-----\n"
}

fn write_kubeconfig(place: &Place, file: &Path, namespace: &str, token: &str) -> Result<()> {
    let ca = certificate(place);
    let ca = std::fs::read(&ca).with_context(|| format!("cannot read {}", ca.display()))?;
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "contexts": [{ "name": "lab",
            "context": { "cluster": "lab", "user": "lab", "namespace": namespace } }],
        "clusters": [{ "name": "lab", "cluster": {
            "server": format!("https://{CONTROL}:{PORT}"),
            "certificate-authority-data": STANDARD.encode(ca),
        } }],
        "users": [{ "name": "lab", "user": { "token": token } }],
    });
    write_secret(file, &serde_saphyr::to_string(&config)?)
}

fn write_secret(file: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::File::options();
    options.create(true).truncate(true).write(true).mode(0o600);
    options
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", file.display()))
}
