//! Flow records: what is told of packets, as a line of JSON each, in a file that does not grow beyond a
//! bound. A file of its own and not the log, so that a flood does not push out what the agent says.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::config::FlowRecordsConfig;
use crate::control::DroppedPacket;

/// A line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    node: &'a str,
    #[serde(flatten)]
    packet: &'a DroppedPacket,
}

/// The file, and beside it the one before it, with `.1` at the end of its name.
#[derive(Debug)]
pub(in crate::agent) struct RecordFile {
    node: Arc<str>,
    path: PathBuf,
    limit: u64,
    /// With its length in bytes. None before the first record, and after an error.
    open: Option<(File, u64)>,
    /// The last write failed, and that was said.
    failing: bool,
}

impl RecordFile {
    pub(in crate::agent) fn new(node: &str, config: &FlowRecordsConfig) -> Self {
        let (path, limit) = (config.file.clone(), config.max_bytes);
        Self { node: node.into(), path, limit, open: None, failing: false }
    }

    /// Appends records; blocks. What cannot be written is gone, which the log says once.
    pub(super) fn append(&mut self, records: &[DroppedPacket]) {
        match self.write(records) {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.open = None;
                if !std::mem::replace(&mut self.failing, true) {
                    let file = self.path.display();
                    tracing::error!(%file, %error, "flow records are not written");
                }
            }
        }
    }

    fn write(&mut self, records: &[DroppedPacket]) -> io::Result<()> {
        let mut lines = Vec::new();
        for packet in records {
            serde_json::to_writer(&mut lines, &Line { node: &self.node, packet })?;
            lines.push(b'\n');
        }
        let added = lines.len() as u64;
        let (mut file, mut length) = match self.open.take() {
            Some(open) => open,
            None => self.create()?,
        };
        if length > 0 && length + added > self.limit {
            let mut before = OsString::from(&self.path);
            before.push(".1");
            std::fs::rename(&self.path, before)?;
            (file, length) = self.create()?;
        }
        file.write_all(&lines)?;
        self.open = Some((file, length + added));
        Ok(())
    }

    fn create(&self) -> io::Result<(File, u64)> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }
}
