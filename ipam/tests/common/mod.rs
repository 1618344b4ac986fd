//! A real etcd for tests: its own directory and ports, ended by its pid.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod cluster;
pub mod counting;
pub mod kubernetes;
pub mod link;
pub mod trio;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipam::store::Store;
use ipam::store::etcd::{EtcdConfig, EtcdStore};
use tempfile::TempDir;

/// One etcd member. Killed and removed when dropped.
pub struct Etcd {
    directory: TempDir,
    client_port: u16,
    peer_port: u16,
    tls: Option<Tls>,
    quota: Option<u64>,
    process: Option<Child>,
}

/// Files for a server that wants client certificates.
#[derive(Clone)]
pub struct Tls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Etcd {
    /// Starts one and waits until it answers.
    pub async fn start() -> Self {
        Self::launch(None, None).await
    }

    /// The same with TLS and required client certificates.
    pub async fn start_tls(tls: Tls) -> Self {
        Self::launch(Some(tls), None).await
    }

    /// One that takes no more than this many bytes.
    pub async fn start_small(quota: u64) -> Self {
        Self::launch(None, Some(quota)).await
    }

    /// Reserves its place without starting it: the endpoint refuses connections.
    pub fn stopped() -> Self {
        let (client_port, peer_port) = (free_port(), free_port());
        let directory = TempDir::with_prefix("ipam-etcd-").unwrap();
        Self { directory, client_port, peer_port, tls: None, quota: None, process: None }
    }

    async fn launch(tls: Option<Tls>, quota: Option<u64>) -> Self {
        // Another process may take a port between our asking and etcd's binding it.
        for _ in 0..10 {
            let mut etcd = Self::stopped();
            etcd.tls = tls.clone();
            etcd.quota = quota;
            if etcd.try_run().await {
                return etcd;
            }
        }
        panic!("etcd does not start");
    }

    /// Starts it (again), with the data it had.
    pub async fn run(&mut self) {
        assert!(self.try_run().await, "etcd does not start again:\n{}", self.log());
    }

    async fn try_run(&mut self) -> bool {
        let log = File::create(self.directory.path().join("log")).unwrap();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new(binary());
        command
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .args(["--name", "test", "--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
            command.arg("--trusted-ca-file").arg(&tls.ca).arg("--client-cert-auth");
        }
        if let Some(quota) = self.quota {
            command.args(["--quota-backend-bytes", &quota.to_string()]);
        }
        self.process = Some(command.spawn().unwrap());
        let store = EtcdStore::new(&self.config()).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.process = None;
                return false;
            }
            if store.read(&["/".to_owned()]).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// A copy of what it has now, as `etcdctl snapshot save` makes it.
    pub fn save(&self) -> PathBuf {
        let copy = self.directory.path().join("copy.db");
        self.control(&["--endpoints", &self.endpoint(), "snapshot", "save"], &copy, &[]);
        copy
    }

    /// Loses what it has, and begins anew with a copy.
    pub async fn restore(&mut self, copy: &Path) {
        self.kill();
        let data = self.directory.path().join("data");
        std::fs::remove_dir_all(&data).unwrap();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let (data, cluster) = (data.display().to_string(), format!("test={peer}"));
        let options = ["--name", "test", "--data-dir", &data, "--initial-cluster", &cluster];
        let address = ["--initial-advertise-peer-urls", &peer];
        self.control(&["snapshot", "restore"], copy, &[&options[..], &address].concat());
        self.run().await;
    }

    fn control(&self, words: &[&str], file: &Path, options: &[&str]) {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(words).arg(file).args(options);
        let output = command.output().unwrap_or_else(|error| panic!("etcdctl: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {words:?}: {said}");
    }

    /// It, as a store.
    pub fn store(&self) -> EtcdStore {
        EtcdStore::new(&self.config()).unwrap()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Where it is reached.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// How it is reached.
    pub fn config(&self) -> EtcdConfig {
        let tls = self.tls.as_ref();
        EtcdConfig {
            ca_file: tls.map(|tls| tls.ca.clone()),
            cert_file: tls.map(|tls| tls.cert.clone()),
            key_file: tls.map(|tls| tls.key.clone()),
            // On a busy machine; a password alone takes a tenth of a second of an idle one.
            request_timeout: Duration::from_secs(20),
            ..EtcdConfig::new([self.endpoint()])
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("etcd's log ends:\n{}", tail(&self.log(), 20));
        }
        self.kill();
    }
}

pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

pub fn binary() -> PathBuf {
    std::env::var_os("TEST_ASSET_ETCD").map_or_else(|| Path::new("etcd").into(), PathBuf::from)
}

/// A port that nobody listens on, outside the range that the kernel takes ports from by itself: it
/// gives none of these to another connection while a test keeps its etcd stopped, and whoever
/// tries to reach the stopped etcd cannot end up connected to itself.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..32_768);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits for a condition and says what was waited for if it never comes.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An authority, and a certificate for 127.0.0.1 that serves both sides. Made by `openssl`, which
/// the tests need as they need etcd: a test that was left out would look like one that passed.
pub fn certificates(directory: &Path) -> Tls {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.current_dir(directory).args(arguments.split(' '));
        let output = command.output().unwrap_or_else(|error| panic!("openssl: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
    };
    std::fs::write(
        directory.join("names"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n",
    )
    .unwrap();
    let key = "ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj";
    openssl(&format!("req -x509 -newkey {key} /CN=ca -days 2 -keyout ca.key -out ca.crt"));
    openssl(&format!("req -newkey {key} /CN=etcd -keyout tls.key -out tls.csr"));
    openssl(
        "x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out tls.crt",
    );
    let file = |name| directory.join(name);
    Tls { ca: file("ca.crt"), cert: file("tls.crt"), key: file("tls.key") }
}
