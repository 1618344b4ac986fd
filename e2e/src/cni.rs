//! The runtime's side of CNI 1.1: what libcni does for containerd, small and on its own, so that
//! it can test any plugin.
//!
//! It loads a network configuration list, calls the plugins of the list in order on ADD (each
//! with its predecessor's result) and in reverse order on DEL, keeps results in a cache for DEL,
//! CHECK and GC, synthesises DELs on GC, and bounds every call in time.

mod cache;
mod config;
mod exec;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

pub(crate) use self::cache::Cache;
pub(crate) use self::config::NetworkList;
pub(crate) use self::exec::CniError;
use self::exec::{Call, invoke};
use crate::netns::Netns;

/// One container's place in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// `CNI_CONTAINERID`.
    pub(crate) container_id: String,
    /// `CNI_NETNS`; none in a DEL after the namespace is gone.
    pub(crate) netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub(crate) ifname: String,
    /// `CNI_ARGS`, in order.
    pub(crate) args: Vec<(String, String)>,
}

/// Calls plugins as the runtime of one node.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    /// Where plugins are looked for, `CNI_PATH`.
    pub(crate) plugin_dirs: Vec<PathBuf>,
    /// Where results are kept.
    pub(crate) cache: Cache,
    /// Plugins run here: the node's own namespace.
    pub(crate) netns: Netns,
    /// After this a plugin is killed, and the call has failed.
    pub(crate) timeout: Duration,
}

impl Runtime {
    /// ADD: every plugin in order. The last result is cached and returned.
    ///
    /// # Errors
    /// The first plugin's that fails. As with libcni, it is the caller's to send DEL then.
    pub(crate) async fn add(&self, list: &NetworkList, to: &Attachment) -> Result<Value, CniError> {
        to.validate()?;
        let mut result = Value::Null;
        for plugin in &list.plugins {
            let config = list.plugin_config(plugin, Some(&result));
            result = self
                .call("ADD", plugin, Some(to), &config)
                .await?
                .ok_or_else(|| CniError::runtime("ADD succeeded without a result"))?;
        }
        self.cache.store(list, to, &result)?;
        Ok(result)
    }

    /// DEL: every plugin, last first, with the cached result as `prevResult`. The cache forgets
    /// the attachment once all have succeeded.
    pub(crate) async fn delete(
        &self,
        list: &NetworkList,
        from: &Attachment,
    ) -> Result<(), CniError> {
        from.validate()?;
        let cached = self.cache.result(list, from)?;
        for plugin in list.plugins.iter().rev() {
            let config = list.plugin_config(plugin, cached.as_ref());
            self.call("DEL", plugin, Some(from), &config).await?;
        }
        self.cache.forget(list, from)
    }

    /// CHECK: every plugin in order, with the cached result.
    pub(crate) async fn check(&self, list: &NetworkList, of: &Attachment) -> Result<(), CniError> {
        of.validate()?;
        if list.disable_check {
            return Ok(());
        }
        let Some(cached) = self.cache.result(list, of)? else {
            return Err(CniError::runtime("CHECK of an attachment that was never added"));
        };
        for plugin in &list.plugins {
            let config = list.plugin_config(plugin, Some(&cached));
            self.call("CHECK", plugin, Some(of), &config).await?;
        }
        Ok(())
    }

    /// GC: a DEL for every cached attachment that is not in `valid`, then GC to every plugin.
    /// Goes on after errors and returns them all.
    pub(crate) async fn gc(
        &self,
        list: &NetworkList,
        valid: &[Attachment],
    ) -> Result<(), Vec<CniError>> {
        let mut errors = Vec::new();
        let cached = self.cache.attachments(list).unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        });
        let is_valid = |known: &Attachment| {
            valid.iter().any(|v| v.container_id == known.container_id && v.ifname == known.ifname)
        };
        for stale in cached.iter().filter(|known| !is_valid(known)) {
            if let Err(error) = self.delete(list, stale).await {
                errors.push(error);
            }
        }
        if list.disable_gc || !list.at_least(1, 1) {
            return if errors.is_empty() { Ok(()) } else { Err(errors) };
        }
        let valid: Vec<Value> = valid
            .iter()
            .map(|v| json!({ "containerID": v.container_id, "ifname": v.ifname }))
            .collect();
        for plugin in &list.plugins {
            let mut config = list.plugin_config(plugin, None);
            config["cni.dev/valid-attachments"] = valid.clone().into();
            // The name it had in the specification's first editions.
            config["cni.dev/attachments"] = valid.clone().into();
            if let Err(error) = self.call("GC", plugin, None, &config).await {
                errors.push(error);
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// STATUS: can the network take ADDs? Before CNI 1.1 there was no way to ask.
    pub(crate) async fn status(&self, list: &NetworkList) -> Result<(), CniError> {
        if !list.at_least(1, 1) {
            return Ok(());
        }
        for plugin in &list.plugins {
            self.call("STATUS", plugin, None, &list.plugin_config(plugin, None)).await?;
        }
        Ok(())
    }

    /// VERSION: what a plugin of the list supports.
    pub(crate) async fn versions(&self, kind: &str) -> Result<Vec<String>, CniError> {
        let config = json!({ "cniVersion": "1.1.0" });
        let answer = self.call("VERSION", &json!({ "type": kind }), None, &config).await?;
        let listed = answer.as_ref().and_then(|a| a["supportedVersions"].as_array());
        let listed =
            listed.ok_or_else(|| CniError::runtime("VERSION without supportedVersions"))?;
        Ok(listed.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
    }

    async fn call(
        &self,
        command: &'static str,
        plugin: &Value,
        attachment: Option<&Attachment>,
        config: &Value,
    ) -> Result<Option<Value>, CniError> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let program = self.find(kind)?;
        let call = Call {
            program: &program,
            command,
            attachment,
            plugin_dirs: &self.plugin_dirs,
            config,
            netns: &self.netns,
            timeout: self.timeout,
        };
        invoke(call).await.map_err(|error| error.of(kind, command))
    }

    /// The plugin's program. Its type is a file name, never a path.
    fn find(&self, kind: &str) -> Result<PathBuf, CniError> {
        if kind.is_empty() || kind.contains('/') {
            return Err(CniError::runtime(format!("{kind:?} is not the type of a plugin")));
        }
        let found = self.plugin_dirs.iter().map(|dir| dir.join(kind)).find(|path| path.is_file());
        found.ok_or_else(|| {
            let dirs: Vec<_> = self.plugin_dirs.iter().map(|d| d.display().to_string()).collect();
            CniError::runtime(format!("no plugin {kind} in {}", dirs.join(":")))
        })
    }
}

impl Attachment {
    /// What the specification wants of the identifiers, as libcni checks it.
    fn validate(&self) -> Result<(), CniError> {
        self.check_names().map_err(|error| CniError::runtime(error.to_string()))
    }

    fn check_names(&self) -> Result<()> {
        let (id, ifname) = (&self.container_id, &self.ifname);
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.chars().all(allowed) {
            bail!("{id:?} is not a container ID: letters, digits, then also _ . -");
        }
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if ifname.is_empty() || ifname.len() > 15 || ifname == "." || ifname == ".." {
            bail!("{ifname:?} is not an interface name: 1 to 15 bytes, not . or ..");
        }
        if ifname.contains(bad) {
            bail!("{ifname:?} is not an interface name: no / : or space");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
