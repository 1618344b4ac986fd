//! FRR: zebra and bgpd, and bfdd when asked for.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{LIMIT, Node, Process, Result, eventually};

const LIBEXEC: &str = "/usr/lib/frr";
const USER: &str = "frr";

/// What every `router bgp` section starts with: no policies needed for external peers (RFC 8212),
/// no family without `activate`, networks need not be in the kernel, and updates do not wait.
const ALWAYS: &str = "
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 coalesce-time 0
";

/// Which daemons run beside bgpd and zebra.
#[derive(Clone, Copy, Default)]
pub(crate) struct With {
    /// bfdd.
    pub(crate) bfd: bool,
}

/// FRR on a node, asked through `vtysh`.
pub(crate) struct Frr<'a> {
    node: &'a Node,
    vty: PathBuf,
    config: PathBuf,
    /// Ends before zebra: the order of fields is that of their end.
    bgpd: Option<Process>,
    _others: Vec<Process>,
}

impl<'a> Frr<'a> {
    /// Starts zebra and bgpd with a configuration of bgpd, and waits until they answer.
    ///
    /// [`ALWAYS`] is added to each of its `router bgp` sections.
    pub(crate) fn start(node: &'a Node, config: &str) -> Self {
        Self::start_with(node, With::default(), config)
    }

    /// [`Self::start`] with more daemons.
    pub(crate) fn start_with(node: &'a Node, with: With, config: &str) -> Self {
        let vty = node.folder().join("vty");
        fs::create_dir(&vty).unwrap();
        own(node.folder());
        own(&vty);
        let zserv = node.folder().join("zserv.api");
        let mut others = Vec::new();
        let mut command = daemon(node, "zebra", "log stdout\n");
        command.arg("-z").arg(&zserv).args(["-s", "4194304"]).arg("--vty_socket").arg(&vty);
        let mut zebra = Process::start("zebra", command, &node.folder().join("zebra.log"));
        zebra.until_there(&zserv);
        zebra.until_there(&vty.join("zebra.vty"));
        others.push(zebra);
        if with.bfd {
            let mut command = daemon(node, "bfdd", "log stdout\n");
            command.arg("-z").arg(&zserv).arg("--vty_socket").arg(&vty);
            command.arg("--bfdctl").arg(node.folder().join("bfdd.sock"));
            let mut bfdd = Process::start("bfdd", command, &node.folder().join("bfdd.log"));
            bfdd.until_there(&vty.join("bfdd.vty"));
            others.push(bfdd);
        }
        let file = node.folder().join("bgpd.conf");
        fs::write(&file, whole(config)).unwrap();
        let mut frr = Self { node, vty, config: file, bgpd: None, _others: others };
        frr.start_bgpd();
        frr
    }

    /// Starts bgpd, anew after [`Self::kill`].
    pub(crate) fn start_bgpd(&mut self) {
        let folder = self.node.folder();
        let config = fs::read_to_string(&self.config).unwrap();
        let mut command = daemon(self.node, "bgpd", &config);
        command.arg("-z").arg(folder.join("zserv.api")).arg("--vty_socket").arg(&self.vty);
        let log = folder.join("bgpd.log");
        let old = fs::metadata(&log).map_or(0, |m| usize::try_from(m.len()).unwrap());
        let mut bgpd = Process::start("frr's bgpd", command, &log);
        bgpd.until_there(&self.vty.join("bgpd.vty"));
        // Next hops of a session that comes up before zebra has told of them would be wrong.
        let addresses = self.node.addresses();
        eventually("FRR's knowledge of its addresses", LIMIT, || {
            let log = &bgpd.log()[old..];
            let unknown = addresses.iter().find(|address| {
                !log.lines().any(|l| l.contains("Rx Intf address add") && l.contains(*address))
            });
            ensure!(unknown.is_none(), "{unknown:?} is unknown");
            Ok(())
        });
        self.bgpd = Some(bgpd);
    }

    /// bgpd.
    pub(crate) fn process(&self) -> &Process {
        self.bgpd.as_ref().unwrap()
    }

    /// Kills bgpd; zebra goes on.
    pub(crate) fn kill(&mut self) {
        self.bgpd.take().unwrap().kill();
        fs::remove_file(self.vty.join("bgpd.vty")).unwrap();
    }

    /// Runs commands of `vtysh`.
    pub(crate) fn vtysh(&self, lines: &[&str]) -> Result<String> {
        let commands: Vec<&str> = lines.iter().flat_map(|line| ["-c", line]).collect();
        self.ask(&commands)
    }

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let vty = self.vty.to_str().context("a path of ours")?;
        // With a history it writes a file anew for every command, and waits for the disk.
        let vtysh = ["env", "VTYSH_HISTFILE=/nonexistent/history", "vtysh", "--vty_socket", vty];
        self.node.run(&[&vtysh, arguments].concat())
    }

    /// What bgpd answers to a question that ends in `json`.
    pub(crate) fn json(&self, question: &str) -> Result<Value> {
        let answer = self.ask(&["-d", "bgpd", "-c", question])?;
        serde_json::from_str(&answer).with_context(|| format!("{question}: {answer}"))
    }

    /// Changes bgpd's configuration.
    pub(crate) fn configure(&self, lines: &[&str]) {
        let said = self.vtysh(&[&["configure terminal"], lines].concat()).unwrap();
        assert!(!said.contains('%'), "{lines:?}: {said}");
    }

    /// A neighbor's state, as `show bgp neighbors ADDRESS json` has it.
    pub(crate) fn neighbor(&self, address: &str) -> Result<Value> {
        let all = self.json(&format!("show bgp neighbors {address} json"))?;
        all.get(address).cloned().with_context(|| format!("no neighbor {address}: {all}"))
    }

    /// Waits until a session is up.
    pub(crate) fn established(&self, address: &str) -> Value {
        eventually(&format!("FRR's session with {address}"), LIMIT, || {
            let neighbor = self.neighbor(address)?;
            ensure!(neighbor["bgpState"] == "Established", "{}", neighbor["bgpState"]);
            Ok(neighbor)
        })
    }

    /// A prefix's paths, as `show bgp PREFIX json` has them.
    pub(crate) fn route(&self, prefix: &str) -> Result<Value> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let route = self.json(&format!("show bgp {family} unicast {prefix} json"))?;
        ensure!(route["paths"].as_array().is_some_and(|p| !p.is_empty()), "no route to {prefix}");
        Ok(route)
    }

    /// Waits for a prefix's route, and returns the first path.
    pub(crate) fn until_path(&self, prefix: &str) -> Value {
        let what = format!("FRR's route to {prefix}");
        eventually(&what, LIMIT, || Ok(self.route(prefix)?["paths"][0].clone()))
    }

    /// Waits until there is no route to a prefix.
    pub(crate) fn until_no_route(&self, prefix: &str) {
        eventually(&format!("no route of FRR's to {prefix}"), LIMIT, || {
            ensure!(self.route(prefix).is_err(), "it is there");
            Ok(())
        });
    }
}

/// A configuration of bgpd with all that tests have in common.
fn whole(config: &str) -> String {
    let mut text = "frr defaults datacenter\nlog stdout\ndebug bgp zebra\n\
                    bgp route-map delay-timer 0\n"
        .to_owned();
    for line in config.lines() {
        text.extend([line, "\n"]);
        if line.starts_with("router bgp ") {
            text.push_str(ALWAYS);
        }
    }
    text
}

/// A daemon's command line, with its configuration written beside it. A user outside FRR's own
/// groups is refused, root too.
fn daemon(node: &Node, name: &str, config: &str) -> std::process::Command {
    let file = node.folder().join(format!("{name}.conf"));
    fs::write(&file, config).unwrap();
    own(&file);
    let mut command = node.command(Path::new(LIBEXEC).join(name));
    command.args(["-u", USER, "-g", USER, "-P", "0", "-f"]).arg(file);
    command.arg("-i").arg(node.folder().join(format!("{name}.pid")));
    command
}

/// Gives a path to the user that the daemons become.
fn own(path: &Path) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let ids = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(USER);
        let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some((user, group))
    });
    let (user, group): (u32, u32) = ids.expect("FRR's user; is FRR installed?");
    chown(path, Some(user), Some(group)).unwrap();
}
