//! GoBGP.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{LIMIT, Node, Process, Result, eventually};

/// GoBGP on a node, asked through `gobgp`.
pub(crate) struct Gobgp<'a> {
    node: &'a Node,
    process: Process,
}

impl<'a> Gobgp<'a> {
    /// Starts GoBGP with a configuration in YAML, and waits until it answers.
    pub(crate) fn start(node: &'a Node, yaml: &str) -> Self {
        let config = node.folder().join("gobgp.yaml");
        fs::write(&config, yaml).unwrap();
        let mut command = node.command("/usr/bin/gobgpd");
        command.args(["-t", "yaml", "-f"]).arg(config);
        command.args(["--api-hosts", "127.0.0.1:50051", "--pprof-disable", "-l", "debug", "-p"]);
        let process = Process::start("gobgpd", command, &node.folder().join("gobgp.log"));
        let mut gobgp = Self { node, process };
        eventually("GoBGP's answer", LIMIT, || {
            if let Err(ended) = gobgp.process.check() {
                panic!("{ended:#}");
            }
            gobgp.json("neighbor")
        });
        gobgp
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Runs a command of `gobgp`.
    pub(crate) fn run(&self, command: &str) -> Result<String> {
        let mut words = vec!["gobgp"];
        words.extend(command.split(' '));
        self.node.run(&words)
    }

    /// Runs a command of `gobgp` and reads its answer.
    pub(crate) fn json(&self, command: &str) -> Result<Value> {
        let said = self.run(&format!("-j {command}"))?;
        serde_json::from_str(&said).with_context(|| format!("{command}: {said}"))
    }

    /// Waits until the session with an address is up.
    pub(crate) fn established(&self, address: &str) -> Value {
        eventually(&format!("GoBGP's session with {address}"), LIMIT, || {
            let neighbor = self.json(&format!("neighbor {address}"))?;
            // SESSION_STATE of its API: 6 is ESTABLISHED.
            ensure!(neighbor["state"]["session_state"] == 6, "{}", neighbor["state"]);
            Ok(neighbor)
        })
    }

    /// A prefix's paths.
    pub(crate) fn route(&self, prefix: &str) -> Result<Value> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let rib = self.json(&format!("global rib -a {family} {prefix}"))?;
        let paths = rib.get(prefix).and_then(Value::as_array);
        let paths = paths.with_context(|| format!("no route to {prefix}: {rib}"))?;
        ensure!(!paths.is_empty(), "no route to {prefix}");
        Ok(Value::Array(paths.clone()))
    }

    /// Waits for a route to a prefix, and returns the first path.
    pub(crate) fn until_path(&self, prefix: &str) -> Value {
        let what = format!("GoBGP's route to {prefix}");
        eventually(&what, LIMIT, || Ok(self.route(prefix)?[0].clone()))
    }
}
