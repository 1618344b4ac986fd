//! BIRD 2.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::{LIMIT, Node, Process, Result, eventually};

/// BIRD on a node, asked through `birdc`.
pub(crate) struct Bird<'a> {
    node: &'a Node,
    config: PathBuf,
    socket: PathBuf,
    process: Process,
}

impl<'a> Bird<'a> {
    /// Starts BIRD with a configuration, and waits until it answers. Logging and `protocol device`
    /// are set before it.
    pub(crate) fn start(node: &'a Node, config: &str) -> Self {
        let folder = node.folder();
        let (file, socket) = (folder.join("bird.conf"), folder.join("bird.ctl"));
        fs::write(&file, whole(config)).unwrap();
        let process = Self::run(node, &file, &socket);
        let mut bird = Self { node, config: file, socket, process };
        bird.until_it_answers();
        bird
    }

    fn run(node: &Node, config: &Path, socket: &Path) -> Process {
        let mut command = node.command("/usr/sbin/bird");
        command.arg("-f").arg("-c").arg(config).arg("-s").arg(socket);
        command.arg("-P").arg(node.folder().join("bird.pid"));
        Process::start("bird", command, &node.folder().join("bird.log"))
    }

    fn until_it_answers(&mut self) {
        eventually("BIRD's answer", LIMIT, || {
            if let Err(ended) = self.process.check() {
                panic!("{ended:#}");
            }
            self.birdc("show status")
        });
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
        fs::remove_file(&self.socket).unwrap();
    }

    /// Starts it anew after [`Self::kill`], with `-R` for a graceful restart if so wanted.
    pub(crate) fn restart(&mut self) {
        let mut command = self.node.command("/usr/sbin/bird");
        command.args(["-f", "-R", "-c"]).arg(&self.config).arg("-s").arg(&self.socket);
        command.arg("-P").arg(self.node.folder().join("bird.pid"));
        self.process = Process::start("bird", command, &self.node.folder().join("bird.log"));
        self.until_it_answers();
    }

    /// Gives it another configuration.
    pub(crate) fn configure(&self, config: &str) {
        fs::write(&self.config, whole(config)).unwrap();
        let said = self.birdc("configure").unwrap();
        assert!(said.contains("Reconfigured") || said.contains("Reconfiguration"), "{said}");
    }

    /// Runs a command of `birdc`.
    pub(crate) fn birdc(&self, command: &str) -> Result<String> {
        let socket = self.socket.to_str().context("a path of ours")?;
        let mut words = vec!["birdc", "-s", socket];
        words.extend(command.split(' '));
        self.node.run(&words)
    }

    /// Waits until the session of a protocol is up, and returns all about it.
    pub(crate) fn established(&self, protocol: &str) -> String {
        eventually(&format!("BIRD's session {protocol}"), LIMIT, || {
            let said = self.birdc(&format!("show protocols all {protocol}"))?;
            ensure!(said.contains("BGP state:          Established"), "{said}");
            Ok(said)
        })
    }

    /// The routes to a prefix with all attributes, as text.
    pub(crate) fn route(&self, prefix: &str) -> Result<String> {
        let said = self.birdc(&format!("show route all {prefix}"))?;
        ensure!(said.contains("BGP.as_path"), "{said}");
        Ok(said)
    }

    /// Waits for a route to a prefix.
    pub(crate) fn until_route(&self, prefix: &str) -> String {
        eventually(&format!("BIRD's route to {prefix}"), LIMIT, || self.route(prefix))
    }

    /// Waits until there is no route to a prefix.
    pub(crate) fn until_no_route(&self, prefix: &str) {
        eventually(&format!("no route of BIRD's to {prefix}"), LIMIT, || {
            ensure!(self.route(prefix).is_err(), "it is there");
            Ok(())
        });
    }
}

fn whole(config: &str) -> String {
    format!(
        "log stderr all;\ndebug protocols {{ states, events }};\nprotocol device {{ }}\n{config}"
    )
}
