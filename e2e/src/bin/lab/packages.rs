//! The Debian packages that the build and the lab need, and how the missing ones get in.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// A file that is there once the package is, and the package.
const NEEDED: &[(&str, &str)] = &[
    ("/usr/bin/protoc", "protobuf-compiler"),
    ("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev"),
    ("/usr/bin/etcd", "etcd-server"),
    ("/usr/bin/etcdctl", "etcd-client"),
    ("/usr/lib/frr/bgpd", "frr"),
    ("/usr/sbin/bird", "bird2"),
    ("/usr/bin/gobgpd", "gobgpd"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/iptables-nft", "iptables"),
    ("/usr/sbin/dockerd", "docker.io"),
    ("/usr/sbin/firewalld", "firewalld"),
    ("/usr/bin/dbus-daemon", "dbus"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/usr/sbin/ip", "iproute2"),
    ("/usr/bin/tcpdump", "tcpdump"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/lib/cni/host-local", "containernetworking-plugins"),
];

/// Keeps dpkg from starting what it installs: the lab runs its own daemons, in its namespaces.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing; silent when nothing is.
///
/// # Errors
/// Fails when a package is missing and apt-get is not there, or does not install it.
pub(crate) fn install_missing() -> Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(file, _)| !present(file)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted = missing.join(" ");
    if !present("/usr/bin/apt-get") {
        bail!("this machine has no apt-get; please install what Debian calls: {wanted}");
    }
    super::say(&format!("installing Debian packages: {wanted}"));
    let policy = ServicesStayStopped::new()?;
    if apt(&install_arguments(&missing)).is_err() {
        // The usual reason is a package index that was never fetched or is out of date.
        apt(&["update", "-q"])?;
        apt(&install_arguments(&missing))?;
    }
    drop(policy);
    let absent: Vec<&str> =
        NEEDED.iter().filter(|(file, _)| !present(file)).map(|(file, _)| *file).collect();
    if !absent.is_empty() {
        bail!("apt-get succeeded but these files are still missing: {}", absent.join(" "));
    }
    Ok(())
}

/// `/usr/sbin` and `/sbin` are one directory on a merged system and two on an older one.
fn present(file: &str) -> bool {
    Path::new(file).exists() || file.strip_prefix("/usr").is_some_and(|f| Path::new(f).exists())
}

fn install_arguments<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(packages);
    args
}

fn apt(args: &[&str]) -> Result<()> {
    let status = as_root("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(std::process::Stdio::null())
        .status()
        .context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", args.first().copied().unwrap_or_default());
    }
    Ok(())
}

fn as_root(program: &str) -> Command {
    if super::is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env=DEBIAN_FRONTEND").arg(program);
    command
}

/// While it lives, packages do not start their services. A policy that is already there is kept.
struct ServicesStayStopped {
    ours: Option<PathBuf>,
}

impl ServicesStayStopped {
    fn new() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: None });
        }
        // 101: "action forbidden by policy" (invoke-rc.d(8)).
        let draft =
            std::env::temp_dir().join(format!("caracal-policy-rc.d-{}", std::process::id()));
        let mut file = fs::File::create(&draft)
            .with_context(|| format!("cannot write {}", draft.display()))?;
        file.write_all(b"#!/bin/sh\nexit 101\n")?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        drop(file);
        let installed =
            as_root("install").arg("-m755").arg(&draft).arg(POLICY).status().map(|s| s.success());
        fs::remove_file(&draft)?;
        if !installed? {
            bail!("cannot write {POLICY}");
        }
        Ok(Self { ours: Some(POLICY.into()) })
    }
}

impl Drop for ServicesStayStopped {
    fn drop(&mut self) {
        if let Some(path) = &self.ours {
            let _ = as_root("rm").arg("-f").arg(path).status();
        }
    }
}
