//! A real etcd of three members, and links to it that can be cut.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use ipam::store::Store;
use ipam::store::etcd::{EtcdConfig, EtcdStore};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::{binary, eventually, free_port, tail};

/// Three members. Killed and removed when dropped.
pub struct Trio {
    directory: TempDir,
    /// Client and peer port of each.
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Child>>,
}

impl Trio {
    /// Starts them and waits until they answer.
    pub async fn start() -> Self {
        let directory = TempDir::with_prefix("ipam-etcd-").unwrap();
        let ports = (0..3).map(|_| (free_port(), free_port())).collect();
        let mut trio = Self { directory, ports, members: (0..3).map(|_| None).collect() };
        for n in 0..3 {
            trio.run(n);
        }
        let store = EtcdStore::new(&EtcdConfig::new(trio.endpoints())).unwrap();
        eventually("three members have a leader", async || {
            store.read(&["/".to_owned()]).await.ok()
        })
        .await;
        trio
    }

    /// Starts a member (again), with the data it had.
    pub fn run(&mut self, n: usize) {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let log = File::options().create(true).append(true).open(self.log(n)).unwrap();
        let (client, peer) = self.ports[n];
        let cluster = self.ports.iter().enumerate();
        let cluster: Vec<_> =
            cluster.map(|(n, (_, peer))| format!("m{n}={}", url(*peer))).collect();
        let mut command = Command::new(binary());
        command
            .arg("--data-dir")
            .arg(self.directory.path().join(format!("data{n}")))
            .args(["--name", &format!("m{n}"), "--listen-client-urls", &url(client)])
            .args(["--advertise-client-urls", &url(client), "--listen-peer-urls", &url(peer)])
            .args(["--initial-advertise-peer-urls", &url(peer)])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.members[n] = Some(command.spawn().unwrap());
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.ports.iter().map(|(client, _)| format!("http://127.0.0.1:{client}")).collect()
    }

    /// `kill -9` of one member.
    pub fn kill(&mut self, n: usize) {
        if let Some(mut member) = self.members[n].take() {
            member.kill().unwrap();
            member.wait().unwrap();
        }
    }

    /// Sends a signal, such as `-STOP`.
    pub fn signal(&self, n: usize, name: &str) {
        let pid = self.members[n].as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// The member that leads.
    pub async fn leader(&self) -> usize {
        eventually("one of the members leads", async || {
            for (n, endpoint) in self.endpoints().into_iter().enumerate() {
                let client = etcd_client::Client::connect([endpoint], None).await;
                let Ok(mut client) = client else { continue };
                let Ok(status) = client.status().await else { continue };
                let me = status.header().unwrap().member_id();
                if status.leader() == me {
                    return Some(n);
                }
            }
            None
        })
        .await
    }

    fn log(&self, n: usize) -> PathBuf {
        self.directory.path().join(format!("log{n}"))
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        for n in 0..3 {
            if std::thread::panicking() {
                let log = std::fs::read_to_string(self.log(n)).unwrap_or_default();
                eprintln!("etcd's member {n} ends:\n{}", tail(&log, 5));
            }
            self.kill(n);
        }
    }
}

/// A way to etcd's members that can be cut. It lives as long as this.
pub struct Cable {
    ports: Vec<u16>,
    whole: Arc<watch::Sender<bool>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Cable {
    pub async fn to(endpoints: &[String]) -> Self {
        let whole = Arc::new(watch::channel(true).0);
        let (mut ports, mut tasks) = (Vec::new(), Vec::new());
        for endpoint in endpoints {
            let target = endpoint.strip_prefix("http://").unwrap().to_owned();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ports.push(listener.local_addr().unwrap().port());
            let whole = whole.subscribe();
            tasks.push(tokio::spawn(async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    let (target, mut whole) = (target.clone(), whole.clone());
                    tokio::spawn(async move {
                        // A cut link accepts nothing; what it carried is cut off in the middle.
                        if !*whole.borrow() {
                            return;
                        }
                        let Ok(mut far) = TcpStream::connect(target).await else { return };
                        tokio::select! {
                            _ = whole.wait_for(|whole| !whole) => {}
                            _ = copy_bidirectional(&mut near, &mut far) => {}
                        }
                    });
                }
            }));
        }
        Self { ports, whole, tasks }
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect()
    }

    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
        for task in &self.tasks {
            task.abort();
        }
    }
}
