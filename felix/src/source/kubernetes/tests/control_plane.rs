//! A real etcd and kube-apiserver on the loopback. Their binaries are found as controller-runtime's
//! envtest finds them: `TEST_ASSET_KUBE_APISERVER` and `TEST_ASSET_ETCD`, else in
//! `KUBEBUILDER_ASSETS`.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::Client;
use tempfile::TempDir;

const START_DEADLINE: Duration = Duration::from_secs(90);
const TOKEN: &str = "of-the-test";

pub(crate) struct ControlPlane {
    etcd: Child,
    api: Option<Child>,
    dir: TempDir,
    etcd_url: String,
    api_binary: PathBuf,
    port: u16,
}

impl Drop for ControlPlane {
    /// The API server first: without etcd it would not end for minutes.
    fn drop(&mut self) {
        self.kill_api();
        end(&mut self.etcd);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Several tests at once may be given the same port; each start is tried again then.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl ControlPlane {
    /// None, and a line that says so, where there are no binaries.
    pub(crate) async fn start() -> Option<Self> {
        let binary = |variable: &str, name: &str| {
            let path = std::env::var_os(variable).map(PathBuf::from).or_else(|| {
                Some(PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?).join(name))
            })?;
            path.is_file().then_some(path)
        };
        let (Some(etcd), Some(api)) = (
            binary("TEST_ASSET_ETCD", "etcd"),
            binary("TEST_ASSET_KUBE_APISERVER", "kube-apiserver"),
        ) else {
            println!("skipped: no kube-apiserver");
            return None;
        };
        let mut plane = Self::start_etcd(&etcd, api).await;
        for name in ["sa.key", "sa.pub"] {
            let private = plane.dir.path().join("sa.key");
            let mut openssl = Command::new("openssl");
            match name {
                "sa.key" => openssl.args(["genrsa", "-out"]).arg(&private).arg("2048"),
                _ => openssl
                    .args(["rsa", "-pubout", "-in"])
                    .arg(&private)
                    .arg("-out")
                    .arg(plane.dir.path().join(name)),
            };
            assert!(
                openssl.stderr(Stdio::null()).status().unwrap().success(),
                "openssl makes {name}"
            );
        }
        let tokens = format!("{TOKEN},tester,tester,\"system:masters\"\n");
        std::fs::write(plane.dir.path().join("tokens"), tokens).unwrap();
        for attempt in 1.. {
            plane.port = free_port();
            plane.start_api();
            if plane.ready().await {
                break;
            }
            plane.kill_api();
            assert!(attempt < 3, "{}", plane.log("api.log"));
        }
        Some(plane)
    }

    async fn start_etcd(binary: &Path, api_binary: PathBuf) -> Self {
        for _ in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let (client, peer) = (free_port(), free_port());
            let (client, peer) =
                (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            let log = std::fs::File::create(dir.path().join("etcd.log")).unwrap();
            let mut etcd = Command::new(binary)
                .arg("--data-dir")
                .arg(dir.path().join("etcd"))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("default={peer}")])
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            let address = client.trim_start_matches("http://").to_owned();
            let started = Instant::now();
            while started.elapsed() < START_DEADLINE && etcd.try_wait().unwrap().is_none() {
                if tokio::net::TcpStream::connect(&address).await.is_ok() {
                    return Self { etcd, api: None, dir, etcd_url: client, api_binary, port: 0 };
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            end(&mut etcd);
        }
        panic!("etcd does not start");
    }

    /// Starts the API server on the port it had.
    pub(crate) fn start_api(&mut self) {
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let log = std::fs::File::create(file("api.log")).unwrap();
        let api = Command::new(&self.api_binary)
            .args(["--etcd-servers", &self.etcd_url])
            .args(["--cert-dir", &file("certs")])
            .args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"])
            .args(["--secure-port", &self.port.to_string()])
            .args(["--service-cluster-ip-range", "10.96.0.0/16"])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .args(["--service-account-key-file", &file("sa.pub")])
            .args(["--service-account-signing-key-file", &file("sa.key")])
            .args(["--token-auth-file", &file("tokens")])
            .args(["--authorization-mode", "RBAC"])
            // Without a controller manager nobody makes ServiceAccounts.
            .args(["--disable-admission-plugins", "ServiceAccount"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.api = Some(api);
    }

    /// Without a chance to say goodbye to its watches.
    pub(crate) fn kill_api(&mut self) {
        if let Some(mut api) = self.api.take() {
            end(&mut api);
        }
    }

    /// Waits until the API server is ready; false if it is not in time or has ended.
    pub(crate) async fn ready(&mut self) -> bool {
        let client = self.client().await;
        let started = Instant::now();
        while started.elapsed() < START_DEADLINE {
            let request = http_get("/readyz");
            if client.request_text(request).await.is_ok_and(|text| text == "ok") {
                return true;
            }
            if self.api.as_mut().is_none_or(|api| api.try_wait().unwrap().is_some()) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// A kubeconfig of the administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        let path = self.dir.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {{server: 'https://127.0.0.1:{}', insecure-skip-tls-verify: true}}
users:
- name: tester
  user: {{token: {TOKEN}}}
contexts:
- name: test
  context: {{cluster: test, user: tester, namespace: caracal-system}}
current-context: test
",
            self.port
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) async fn client(&self) -> Client {
        let config = crate::config::KubernetesConfig {
            kubeconfig: Some(self.kubeconfig()),
            ..crate::config::KubernetesConfig::default()
        };
        crate::source::kubernetes::client(&config).await.unwrap().0
    }

    /// The API server's own words, for a failure.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

fn http_get(path: &str) -> axum::http::Request<Vec<u8>> {
    axum::http::Request::get(path).body(Vec::new()).unwrap()
}
