//! Where the control plane's programs come from.
//!
//! `TEST_ASSET_KUBE_APISERVER` and its kin name one program each; `KUBEBUILDER_ASSETS` is a folder
//! of them (the conventions of controller-runtime's envtest). Otherwise they are built, with Go,
//! from the modules in `e2e/kubernetes`, once for each state of those modules, into the user's
//! cache folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::process;

/// The version that `e2e/kubernetes/go.mod` pins: a test holds the two together.
const VERSION: &str = "1.36.2";

/// A cold build on two busy cores takes six minutes.
const BUILD: Duration = Duration::from_secs(3600);

/// The programs of a control plane.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) kube_apiserver: PathBuf,
    /// Without it namespaces are never emptied; envtest's own assets have none.
    pub(crate) kube_controller_manager: Option<PathBuf>,
    /// Only who tests beside it needs it; envtest's own assets have none.
    pub(crate) kube_proxy: Option<PathBuf>,
    pub(crate) etcd: PathBuf,
}

/// What there is to run.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Ready(Binaries),
    /// They have to be built first, for minutes, into this folder.
    Buildable(PathBuf),
    /// They cannot be had, and why.
    Nowhere(String),
}

/// Looks for the programs.
pub(crate) fn find() -> Result<Found> {
    if let Some(binaries) = from_environment()? {
        return Ok(Found::Ready(binaries));
    }
    let folder = cache_folder()?;
    if let Some(binaries) = in_folder(&folder) {
        return Ok(Found::Ready(binaries));
    }
    if go().is_none() {
        return Ok(Found::Nowhere(
            "no kube-apiserver: KUBEBUILDER_ASSETS is not set, and there is no Go to build one"
                .into(),
        ));
    }
    Ok(Found::Buildable(folder))
}

/// Builds the programs. Only one process at a time does; the others wait for its result.
pub(crate) async fn build(folder: &Path) -> Result<Binaries> {
    let parent = folder.parent().context("the cache folder has no parent")?;
    std::fs::create_dir_all(parent)?;
    let lock = parent.join("kubernetes.lock");
    let lock = tokio::task::spawn_blocking(move || {
        let file = std::fs::File::create(&lock).with_context(|| lock.display().to_string())?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| anyhow::Error::new(error))
    })
    .await??;
    if let Some(binaries) = in_folder(folder) {
        return Ok(binaries);
    }
    let draft = tempfile::Builder::new().prefix("kubernetes-").tempdir_in(parent)?;
    let minor = VERSION.rsplit_once('.').map_or(VERSION, |(minor, _)| minor);
    let (major, minor) = minor.split_once('.').unwrap_or((minor, ""));
    let version = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {version}.gitVersion=v{VERSION} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    );
    go_build(&modules().join("etcd"), &draft.path().join("etcd"), "-s -w").await?;
    go_build(&modules(), &draft.path().join("kubernetes"), &flags).await?;
    for program in ["kube-apiserver", "kube-controller-manager", "kube-proxy"] {
        std::os::unix::fs::symlink("kubernetes", draft.path().join(program))?;
    }
    // Whoever sees the folder sees all of it.
    std::fs::rename(draft.path(), folder)?;
    drop(lock);
    in_folder(folder).context("the build left no programs")
}

async fn go_build(module: &Path, output: &Path, flags: &str) -> Result<()> {
    let mut command = Command::new(go().context("no Go")?);
    command.current_dir(module).args(["build", "-trimpath", "-ldflags", flags, "-o"]).arg(output);
    command.arg(".").envs([
        ("GOFLAGS", "-mod=readonly"),
        ("CGO_ENABLED", "0"),
        ("GOTOOLCHAIN", "local"),
    ]);
    let done = process::capture(command, None, b"", BUILD).await?;
    if !done.status.success() {
        bail!("go build in {}: {}", module.display(), String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

fn from_environment() -> Result<Option<Binaries>> {
    let folder = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let program = |variable: &str, name: &str| {
        let direct = std::env::var_os(variable).map(PathBuf::from);
        direct.or_else(|| folder.as_ref().map(|folder| folder.join(name)))
    };
    let Some(kube_apiserver) = program("TEST_ASSET_KUBE_APISERVER", "kube-apiserver") else {
        return Ok(None);
    };
    let etcd = program("TEST_ASSET_ETCD", "etcd")
        .context("TEST_ASSET_KUBE_APISERVER is set, TEST_ASSET_ETCD is not")?;
    for file in [&kube_apiserver, &etcd] {
        if !file.is_file() {
            bail!("the environment names {}, which is not there", file.display());
        }
    }
    let manager = program("TEST_ASSET_KUBE_CONTROLLER_MANAGER", "kube-controller-manager");
    let proxy = program("TEST_ASSET_KUBE_PROXY", "kube-proxy");
    Ok(Some(Binaries {
        kube_apiserver,
        kube_controller_manager: manager.filter(|file| file.is_file()),
        kube_proxy: proxy.filter(|file| file.is_file()),
        etcd,
    }))
}

fn in_folder(folder: &Path) -> Option<Binaries> {
    let program = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
    Some(Binaries {
        kube_apiserver: program("kube-apiserver")?,
        kube_controller_manager: program("kube-controller-manager"),
        kube_proxy: program("kube-proxy"),
        etcd: program("etcd")?,
    })
}

fn go() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates: Vec<PathBuf> = std::env::split_paths(&path).map(|d| d.join("go")).collect();
    candidates.push("/usr/local/go/bin/go".into());
    candidates.into_iter().find(|go| go.is_file())
}

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kubernetes")
}

/// `~/.cache/caracal/kubernetes-VERSION-DIGEST`, the digest being that of the modules' files.
fn cache_folder() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    let mut digest = Sha256::new();
    for file in ["go.mod", "go.sum", "main.go", "etcd/go.mod", "etcd/go.sum", "etcd/main.go"] {
        let path = modules().join(file);
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        digest.update(bytes.len().to_be_bytes());
        digest.update(&bytes);
    }
    let digest: String =
        digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    Ok(cache.join("caracal").join(format!("kubernetes-{VERSION}-{digest}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_the_module_pins() {
        let text = std::fs::read_to_string(modules().join("go.mod")).unwrap();
        assert!(text.contains(&format!("k8s.io/kubernetes v{VERSION}\n")));
    }
}
