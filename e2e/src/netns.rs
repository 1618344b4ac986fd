//! Named network namespaces, as `ip netns` knows them.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::process;

/// A network namespace with a name under `/run/netns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    /// Names a namespace, which need not exist.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the namespace is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Creates it, with its loopback up, no duplicate address detection (nobody else is on these
    /// links, and it would cost a second on each), no reverse path filter (multi-homed hosts
    /// answer over either link) and no router advertisements.
    pub(crate) async fn create(&self) -> Result<()> {
        process::output("ip", ["netns", "add", self.name()]).await?;
        self.enter(|| {
            for (key, value) in [
                ("ipv6/conf/all/disable_ipv6", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/dad_transmits", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/all/accept_ra", "0"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
            ] {
                set_sysctl(key, value)?;
            }
            Ok(())
        })
        .await?;
        self.ip_batch("link set lo up\n").await
    }

    /// Deletes it; what is in it goes with its last process. One that is not there is fine.
    pub(crate) async fn delete(&self) -> Result<()> {
        if self.exists() {
            process::output("ip", ["netns", "del", self.name()]).await?;
        }
        Ok(())
    }

    /// Runs `ip -batch` inside.
    ///
    /// # Errors
    /// Names the line that failed, as `ip` does, with the line itself.
    pub(crate) async fn ip_batch(&self, lines: &str) -> Result<()> {
        process::with_input("ip", ["-n", self.name(), "-batch", "-"], lines)
            .await
            .with_context(|| format!("in namespace {}:\n{lines}", self.name))?;
        Ok(())
    }

    /// Runs a closure on a thread of its own inside the namespace. The thread ends with it, so no
    /// other code ever runs in the wrong place.
    pub(crate) async fn enter<T, F>(&self, inside: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let this = self.clone();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name(format!("in {}", self.name)).spawn(move || {
            // Children and sockets made inside belong to the caller's runtime.
            let _runtime = runtime.enter();
            let _ = sender.send(this.join_this_thread().and_then(|()| inside()));
        })?;
        receiver.await.with_context(|| format!("work in namespace {} panicked", self.name))?
    }

    /// Moves the calling thread into the namespace, for good.
    fn join_this_thread(&self) -> Result<()> {
        let file = File::open(self.path())
            .with_context(|| format!("there is no network namespace {}", self.name))?;
        setns(&file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter network namespace {}", self.name))
    }

    /// A TCP connection that starts inside.
    pub(crate) async fn connect(
        &self,
        to: SocketAddr,
        within: Duration,
    ) -> Result<tokio::net::TcpStream> {
        let stream = self
            .enter(move || {
                std::net::TcpStream::connect_timeout(&to, within)
                    .with_context(|| format!("cannot connect to {to}"))
            })
            .await?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(tokio::net::TcpStream::from_std(stream)?)
    }

    /// The processes that are in the namespace, whoever started them.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        let inode = std::fs::metadata(self.path())?.ino();
        let mut inside = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // A process may end while we look.
            let Ok(link) = std::fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
            if link.ino() == inode {
                inside.push(pid);
            }
        }
        Ok(inside)
    }
}

/// Writes a sysctl of the calling thread's namespace: `/proc/thread-self` is what follows the
/// thread, `/proc/sys/net` resolves through it.
fn set_sysctl(key: &str, value: &str) -> Result<()> {
    if key.contains("..") || key.starts_with('/') {
        bail!("{key} is not the name of a sysctl");
    }
    std::fs::write(format!("/proc/sys/net/{key}"), value)
        .with_context(|| format!("cannot set net/{key} to {value}"))
}
