//! `felix install-cni`: puts the CNI plugins and their configuration where the container runtime
//! looks for them. Every file is replaced whole, so a runtime never sees half of one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The plugin's file name, which is also its `type` in a network configuration.
const PLUGIN: &str = "caracal";
/// The IPAM plugin's, for configurations of other main plugins. It lies beside the other.
const IPAM_PLUGIN: &str = "caracal-ipam";
/// Runtimes take the first file of the folder, by name.
const CONFLIST: &str = "10-caracal.conflist";
/// The network's name; it begins every IPAM handle, as Calico's does.
const NETWORK: &str = "k8s-pod-network";

/// What to install, and where.
#[derive(Clone, Debug)]
pub struct Install {
    /// Where the runtime looks for plugins, such as `/opt/cni/bin`.
    pub bin_dir: PathBuf,
    /// Where the runtime looks for configurations, such as `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// The agent's socket, as seen by the runtime.
    pub socket: PathBuf,
    /// The main plugin, with `caracal-ipam` beside it; None: those beside this program.
    pub plugin: Option<PathBuf>,
}

/// What was done: a line for each file, and what may stand in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Files, and whether they were written or were right already.
    pub files: Vec<(PathBuf, bool)>,
    /// For the administrator.
    pub warnings: Vec<String>,
}

impl Install {
    /// Installs the plugins first and then the configuration that names one.
    ///
    /// # Errors
    /// A plugin cannot be read, or a folder cannot be made or written.
    pub fn run(&self) -> Result<Installed> {
        let plugin = match &self.plugin {
            Some(plugin) => plugin.clone(),
            None => {
                std::env::current_exe().context("where this program is")?.with_file_name(PLUGIN)
            }
        };
        let programs = [
            (PLUGIN, program(&plugin)?),
            (IPAM_PLUGIN, program(&plugin.with_file_name(IPAM_PLUGIN))?),
        ];
        if !self.socket.is_absolute() {
            bail!("--socket {}: not an absolute path", self.socket.display());
        }
        for dir in [&self.bin_dir, &self.conf_dir] {
            fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let mut installed = Installed::default();
        let mut put = |path: PathBuf, content: &[u8], mode| -> Result<()> {
            let written = replace(&path, content, mode)
                .with_context(|| format!("writing {}", path.display()))?;
            installed.files.push((path, written));
            Ok(())
        };
        for (name, program) in programs {
            put(self.bin_dir.join(name), &program, 0o755)?;
        }
        let conflist = conflist(&self.socket, self.bin_dir.join("portmap").is_file());
        let mut text = serde_json::to_vec_pretty(&conflist)?;
        text.push(b'\n');
        put(self.conf_dir.join(CONFLIST), &text, 0o644)?;
        installed.warnings = rivals(&self.conf_dir)?;
        Ok(installed)
    }
}

fn program(path: &Path) -> Result<Vec<u8>> {
    let program =
        fs::read(path).with_context(|| format!("reading the CNI plugin {}", path.display()))?;
    if program.is_empty() {
        bail!("the CNI plugin {} is empty", path.display());
    }
    Ok(program)
}

/// The network configuration list. Runtimes that know CNI 1.1 take the highest of `cniVersions`,
/// and with it CHECK, GC and STATUS; older ones (containerd up to 1.7) refuse a `cniVersion` above
/// 1.0.0 and read only that.
fn conflist(socket: &Path, portmap: bool) -> Value {
    let mut plugins = vec![json!({"type": PLUGIN, "socket": socket})];
    if portmap {
        plugins
            .push(json!({"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}));
    }
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": NETWORK,
        "plugins": plugins,
    })
}

/// Replaces a file by rename, flushed to the disk; false: it was right already.
fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<bool> {
    let right = |metadata: fs::Metadata| {
        metadata.is_file() && metadata.permissions().mode() & 0o7777 == mode
    };
    if fs::symlink_metadata(path).is_ok_and(right) && fs::read(path)? == content {
        return Ok(false);
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // Hidden and without the runtime's suffixes: nobody takes it for a plugin or a configuration.
    let temporary = dir.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(content)?;
        // The mode of `open` is subject to the umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)?;
        fs::File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        drop(fs::remove_file(&temporary));
    }
    written.map(|()| true)
}

/// Configurations that the runtime would take instead of ours.
fn rivals(conf_dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in
        fs::read_dir(conf_dir).with_context(|| format!("reading {}", conf_dir.display()))?
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let read_by_runtimes =
            [".conf", ".conflist", ".json"].iter().any(|suffix| name.ends_with(suffix));
        if read_by_runtimes && !name.starts_with('.') && name.as_str() < CONFLIST {
            names.push(name);
        }
    }
    names.sort_unstable();
    let warning = |name| {
        let path = conf_dir.join(name);
        format!("{} comes before {CONFLIST}: the runtime will use it instead", path.display())
    };
    Ok(names.iter().map(warning).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        _dir: tempfile::TempDir,
        install: Install,
    }

    fn host() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let plugin = dir.path().join("built");
        fs::write(&plugin, "program").unwrap();
        fs::write(dir.path().join("caracal-ipam"), "another").unwrap();
        let install = Install {
            bin_dir: dir.path().join("opt/cni/bin"),
            conf_dir: dir.path().join("etc/cni/net.d"),
            socket: "/run/caracal/felix.sock".into(),
            plugin: Some(plugin),
        };
        Host { _dir: dir, install }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_files_appear_and_nothing_else() {
        let Host { install, _dir } = host();
        let installed = install.run().unwrap();
        let plugin = install.bin_dir.join("caracal");
        let conflist = install.conf_dir.join("10-caracal.conflist");
        let ipam = install.bin_dir.join("caracal-ipam");
        assert_eq!(
            installed.files,
            [(plugin.clone(), true), (ipam.clone(), true), (conflist.clone(), true)]
        );
        assert_eq!(fs::read(&ipam).unwrap(), b"another");
        assert_eq!(fs::metadata(&ipam).unwrap().permissions().mode() & 0o7777, 0o755);
        assert!(installed.warnings.is_empty());
        assert_eq!(fs::read(&plugin).unwrap(), b"program");
        assert_eq!(fs::metadata(&plugin).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::metadata(&conflist).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(names(&install.bin_dir), ["caracal", "caracal-ipam"]);
        assert_eq!(names(&install.conf_dir), ["10-caracal.conflist"]);
        let value: Value = serde_json::from_slice(&fs::read(&conflist).unwrap()).unwrap();
        assert_eq!(value["name"], "k8s-pod-network");
        assert_eq!(
            value["plugins"],
            json!([{"type": "caracal", "socket": "/run/caracal/felix.sock"}])
        );
        assert_eq!(value["cniVersions"][3], "1.1.0");
    }

    #[test]
    fn a_second_run_changes_nothing_and_an_upgrade_only_what_differs() {
        let Host { install, _dir } = host();
        install.run().unwrap();
        let again = install.run().unwrap();
        assert!(again.files.iter().all(|(_, written)| !written), "{again:?}");
        fs::write(install.plugin.as_ref().unwrap(), "newer program").unwrap();
        let upgraded = install.run().unwrap();
        assert_eq!(
            upgraded.files.iter().map(|(_, w)| *w).collect::<Vec<_>>(),
            [true, false, false]
        );
        assert_eq!(fs::read(install.bin_dir.join("caracal")).unwrap(), b"newer program");
    }

    /// A running plugin cannot be written to (ETXTBSY), but it can be replaced.
    #[test]
    fn a_plugin_in_use_and_a_symbolic_link_are_replaced() {
        let Host { install, _dir } = host();
        fs::create_dir_all(&install.bin_dir).unwrap();
        let elsewhere = install.bin_dir.join("elsewhere");
        fs::write(&elsewhere, "of another").unwrap();
        std::os::unix::fs::symlink(&elsewhere, install.bin_dir.join("caracal")).unwrap();
        install.run().unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"of another");
        assert!(!fs::symlink_metadata(install.bin_dir.join("caracal")).unwrap().is_symlink());
    }

    #[test]
    fn portmap_is_chained_where_it_is_installed_and_rivals_are_named() {
        let Host { install, _dir } = host();
        fs::create_dir_all(&install.bin_dir).unwrap();
        fs::write(install.bin_dir.join("portmap"), "").unwrap();
        fs::create_dir_all(&install.conf_dir).unwrap();
        for name in ["05-cilium.conflist", "10-calico.conflist", "87-podman.conflist", "README"] {
            fs::write(install.conf_dir.join(name), "{}").unwrap();
        }
        let installed = install.run().unwrap();
        assert_eq!(installed.warnings.len(), 2, "{:?}", installed.warnings);
        assert!(installed.warnings[0].contains("05-cilium.conflist comes before"));
        let value: Value = serde_json::from_slice(
            &fs::read(install.conf_dir.join("10-caracal.conflist")).unwrap(),
        )
        .unwrap();
        assert_eq!(value["plugins"][1]["type"], "portmap");
        assert_eq!(value["plugins"][1]["capabilities"]["portMappings"], true);
    }

    #[test]
    fn failures_name_the_file_and_leave_nothing() {
        let Host { mut install, _dir } = host();
        install.plugin = Some("/nonexistent/caracal".into());
        let error = format!("{:#}", install.run().unwrap_err());
        assert!(error.starts_with("reading the CNI plugin /nonexistent/caracal"), "{error}");
        assert!(!install.bin_dir.exists());
        let Host { install, _dir } = host();
        fs::write(install.plugin.as_ref().unwrap().with_file_name("caracal-ipam"), "").unwrap();
        let error = format!("{:#}", install.run().unwrap_err());
        assert!(error.ends_with("caracal-ipam is empty"), "{error}");
        assert!(!install.bin_dir.exists());
        let Host { mut install, _dir } = host();
        fs::create_dir_all(install.bin_dir.join("caracal")).unwrap();
        let error = format!("{:#}", install.run().unwrap_err());
        assert!(error.contains("caracal: Is a directory"), "{error}");
        assert_eq!(names(&install.bin_dir), ["caracal"]);
        install.socket = "felix.sock".into();
        assert!(install.run().is_err());
    }
}
