//! Results of ADD, kept so that DEL, CHECK and GC can give them back. The file format is libcni's.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Attachment, CniError, NetworkList};

/// A folder with one file for each attachment.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Uses a folder, which is made when it is first needed.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf() }
    }

    fn file(&self, list: &NetworkList, attachment: &Attachment) -> PathBuf {
        let Attachment { container_id, ifname, .. } = attachment;
        self.directory.join(format!("{}-{container_id}-{ifname}", list.name))
    }

    pub(super) fn store(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
        result: &Value,
    ) -> Result<(), CniError> {
        let args: Vec<_> = attachment.args.iter().map(|(key, value)| json!([key, value])).collect();
        let entry = json!({
            "kind": "cniCacheV1",
            "containerId": attachment.container_id,
            "ifName": attachment.ifname,
            "networkName": list.name,
            "netns": attachment.netns,
            "cniArgs": args,
            "result": result,
        });
        let file = self.file(list, attachment);
        let write = || -> Result<()> {
            std::fs::create_dir_all(&self.directory)?;
            let draft = file.with_extension("draft");
            std::fs::write(&draft, entry.to_string())?;
            Ok(std::fs::rename(&draft, &file)?)
        };
        write().with_context(|| format!("cannot cache {}", file.display())).map_err(CniError::from)
    }

    /// The cached result, if the attachment is known.
    pub(super) fn result(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
    ) -> Result<Option<Value>, CniError> {
        let file = self.file(list, attachment);
        let entry = read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(entry.map(|entry| entry["result"].clone()))
    }

    pub(super) fn forget(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
    ) -> Result<(), CniError> {
        let file = self.file(list, attachment);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CniError::from(
                anyhow::Error::new(error).context(format!("cannot remove {}", file.display())),
            )),
            _ => Ok(()),
        }
    }

    /// Every attachment to a network.
    pub(crate) fn attachments(&self, list: &NetworkList) -> Result<Vec<Attachment>, CniError> {
        let all = || -> Result<Vec<Attachment>> {
            let mut all = Vec::new();
            let entries = match std::fs::read_dir(&self.directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(all),
                Err(error) => return Err(error.into()),
            };
            for entry in entries {
                let path = entry?.path();
                let Some(value) = read(&path)? else { continue };
                if value["networkName"] == json!(list.name) {
                    all.push(attachment(&value));
                }
            }
            Ok(all)
        };
        all().with_context(|| self.directory.display().to_string()).map_err(CniError::from)
    }
}

fn read(file: &Path) -> Result<Option<Value>> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn attachment(entry: &Value) -> Attachment {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let pair =
        |pair: &Value| Some((pair.get(0)?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned()));
    Attachment {
        container_id: text("containerId"),
        netns: entry["netns"].as_str().map(PathBuf::from),
        ifname: text("ifName"),
        args: entry["cniArgs"].as_array().into_iter().flatten().filter_map(pair).collect(),
    }
}
