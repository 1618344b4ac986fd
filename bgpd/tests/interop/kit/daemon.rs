//! Our daemon.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bgpd::Config;
use serde_json::Value;

use super::{LIMIT, Node, Process, Result, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_bgpd");

/// `bgpd run`, asked through its own command line.
pub(crate) struct Daemon<'a> {
    node: &'a Node,
    process: Process,
    config: PathBuf,
    socket: PathBuf,
}

impl<'a> Daemon<'a> {
    /// Starts the daemon with a configuration in YAML, and waits until it answers.
    pub(crate) fn start(node: &'a Node, yaml: &str) -> Self {
        Self::start_with(node, yaml, &[])
    }

    /// As [`Self::start`], with more on the command line. A restarted one has not.
    pub(crate) fn start_with(node: &'a Node, yaml: &str, more: &[&str]) -> Self {
        let config = node.folder().join("bgpd.yaml");
        let socket = node.folder().join("bgpd.sock");
        fs::write(&config, yaml).unwrap();
        // The first of its kind, whoever was in this namespace before.
        if let Err(error) = fs::remove_file(remembered(&socket)) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        let process = Self::run(node, &config, &socket, more);
        let mut daemon = Self { node, process, config, socket };
        daemon.until_it_answers();
        daemon
    }

    fn run(node: &Node, config: &Path, socket: &Path, more: &[&str]) -> Process {
        let mut command = node.command(PROGRAM);
        command.args(["run", "--config"]).arg(config).arg("--socket").arg(socket).args(more);
        command.env("RUST_LOG", "info,bgpd=debug").env("NO_COLOR", "1");
        Process::start(node.name(), command, &node.folder().join("bgpd.log"))
    }

    fn until_it_answers(&mut self) {
        eventually("our daemon's answer", LIMIT, || {
            if let Err(ended) = self.process.check() {
                panic!("{ended:#}");
            }
            self.ask(&["status"])
        });
    }

    /// Starts it anew after [`Process::kill`] or [`Process::end`], with another configuration.
    pub(crate) fn restart(&mut self, yaml: &str) {
        fs::write(&self.config, yaml).unwrap();
        self.process = Self::run(self.node, &self.config, &self.socket, &[]);
        self.until_it_answers();
    }

    /// Waits until it has written down that its peers would keep its routes.
    pub(crate) fn until_remembered(&self) {
        let file = remembered(&self.socket);
        eventually("what the next daemon is to know", LIMIT, || {
            ensure!(file.exists(), "no {}", file.display());
            Ok(())
        });
    }

    /// Gives it another configuration, as an operator does, and waits until it is in effect.
    pub(crate) fn reload(&self, yaml: &str) {
        self.hang_up(yaml, "configuration applied");
    }

    /// Gives it a configuration that it refuses, and returns what it logs of it.
    pub(crate) fn reload_refused(&self, yaml: &str) -> String {
        self.hang_up(yaml, "configuration not changed")
    }

    /// Replaces its configuration and tells it so; what it has logged up to the line that is waited
    /// for, which is included.
    fn hang_up(&self, yaml: &str, line: &str) -> String {
        let before = self.process.log().len();
        fs::write(&self.config, yaml).unwrap();
        self.process.signal(libc::SIGHUP);
        eventually(line, LIMIT, || {
            let log = self.process.log().get(before..).context("a longer log")?.to_owned();
            let end = log.find(line).with_context(|| format!("not said: {log}"))?;
            let end = log[end..].find('\n').context("half a line")? + end;
            Ok(log[..end].to_owned())
        })
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What a question of the command line is answered, as JSON.
    pub(crate) fn ask(&self, question: &[&str]) -> Result<Value> {
        let socket = self.socket.to_str().context("a path of ours")?;
        let words = [&[PROGRAM], question, &["-o", "json", "--socket", socket]].concat();
        Ok(serde_json::from_str(&self.node.run(&words)?)?)
    }

    /// Runs a command of our program that prints what it prints.
    pub(crate) fn command(&self, words: &[&str]) -> Result<String> {
        let socket = self.socket.to_str().context("a path of ours")?;
        self.node.run(&[&[PROGRAM], words, &["--socket", socket]].concat())
    }

    /// Writes the table to a file, as MRT.
    pub(crate) fn dump(&self, file: &Path) {
        let (socket, file) = (self.socket.to_str().unwrap(), file.to_str().unwrap());
        self.node.run(&[PROGRAM, "mrt", "dump", file, "--socket", socket]).unwrap();
    }

    /// One neighbor's status.
    pub(crate) fn neighbor(&self, name: &str) -> Result<Value> {
        let all = self.ask(&["neighbors"])?;
        let found = all.as_array().into_iter().flatten().find(|n| n["name"] == name);
        found.cloned().with_context(|| format!("no neighbor {name}"))
    }

    /// Waits until a session is up.
    pub(crate) fn established(&self, name: &str) -> Value {
        eventually(&format!("our session with {name}"), LIMIT, || {
            let neighbor = self.neighbor(name)?;
            ensure!(neighbor["state"] == "established", "{neighbor}");
            Ok(neighbor)
        })
    }

    /// A prefix's route: its paths and next hops.
    pub(crate) fn route(&self, prefix: &str) -> Result<Value> {
        let routes = self.ask(&["routes", prefix])?;
        routes.get(0).cloned().with_context(|| format!("no route to {prefix}"))
    }

    /// Waits for a prefix's route.
    pub(crate) fn until_route(&self, prefix: &str) -> Value {
        eventually(&format!("our route to {prefix}"), LIMIT, || self.route(prefix))
    }

    /// The route to a prefix that the peer has, as its best path's attributes.
    pub(crate) fn until_path(&self, prefix: &str) -> Value {
        self.until_route(prefix)["paths"][0].clone()
    }

    /// Waits until there is no route to a prefix.
    pub(crate) fn until_no_route(&self, prefix: &str) {
        eventually(&format!("no route of ours to {prefix}"), LIMIT, || {
            let routes = self.ask(&["routes", prefix])?;
            ensure!(routes.as_array().is_some_and(Vec::is_empty), "{routes}");
            Ok(())
        });
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // A thread that panics takes the speaker down with it, but not the daemon.
        if !std::thread::panicking() {
            let log = self.process.log();
            assert!(!log.contains("panicked at"), "our daemon has panicked:\n{log}");
        }
    }
}

/// Where a daemon writes down what the next one is to know.
fn remembered(socket: &Path) -> PathBuf {
    socket.with_extension("sock.restart")
}

/// A configuration as the YAML that the daemon reads. Passwords do not survive this.
pub(crate) fn yaml(config: &Config) -> String {
    serde_saphyr::to_string(config).unwrap()
}
