//! Network configuration lists (`.conflist`), CNI 1.1 section 1.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// A network: a name, a version, plugins.
#[derive(Clone, Debug)]
pub(crate) struct NetworkList {
    pub(crate) name: String,
    pub(crate) cni_version: String,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    /// Each as it stands in the list.
    pub(crate) plugins: Vec<Value>,
}

impl NetworkList {
    /// Reads a configuration list.
    ///
    /// # Errors
    /// Names the key that is missing or wrong.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let list: Value = serde_json::from_str(text).context("not JSON")?;
        let name = list["name"].as_str().unwrap_or_default();
        ensure!(!name.is_empty() && !name.contains('/'), "name: missing, or not a plain name");
        let cni_version = list["cniVersion"].as_str().unwrap_or("0.2.0");
        let flag = |key: &str| match &list[key] {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            // libcni takes the strings too.
            Value::String(text) if text == "true" || text == "false" => Ok(text == "true"),
            _ => bail!("{key}: not a boolean"),
        };
        let plugins = list["plugins"].as_array().context("plugins: missing, or not a list")?;
        ensure!(!plugins.is_empty(), "plugins: empty");
        for (index, plugin) in plugins.iter().enumerate() {
            ensure!(plugin["type"].is_string(), "plugins[{index}].type: missing");
        }
        Ok(Self {
            name: name.to_owned(),
            cni_version: cni_version.to_owned(),
            disable_check: flag("disableCheck")?,
            disable_gc: flag("disableGC")?,
            plugins: plugins.clone(),
        })
    }

    /// What a plugin gets on its standard input: its own part of the list, and the list's name
    /// and version; `prevResult` where there is one. What only the runtime needs is taken out.
    pub(super) fn plugin_config(&self, plugin: &Value, previous: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["cniVersion"] = self.cni_version.clone().into();
        config["name"] = self.name.clone().into();
        if let Some(object) = config.as_object_mut() {
            object.remove("capabilities");
        }
        match previous {
            None | Some(Value::Null) => {}
            Some(result) => config["prevResult"] = result.clone(),
        }
        config
    }

    /// Is the list's version that or a later one?
    pub(super) fn at_least(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.cni_version.split('.').map_while(|part| part.parse::<u32>().ok());
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }
}
