//! What a node in local-first mode knows and the store may not: an append-only file.
//!
//! ```text
//!   file    frame* zero*
//!   frame   length: u32 LE | CRC-32 (IEEE 802.3) of the payload: u32 LE | payload: line*
//!   line    begins {JSON}                     whose log it is
//!           block {JSON} STORED LOCAL         fields by tabs; blocks in Calico's JSON, LOCAL empty if equal
//!           stored CIDR {JSON} CHANGES        as the store has it now
//!           local CIDR CHANGES                as it is answered for from now on
//!           gone CIDR
//! ```
//! One [`Log::append`] is one frame, one write and one fsync, for all who wait; whoever is answered
//! after it is answered for good. The file is longer than what it says, by zeros that were written
//! before: making them durable costs the file system a third less than making a file grow. A frame
//! that was cut off at the end is what a crash or a power cut leaves, and nobody was answered for
//! it: it is cut away. Damage anywhere else is an error, since what follows it was answered. What is
//! superseded goes when the file has grown: it is written anew and takes the old one's place.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crc32fast::hash as crc32;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::block::{Block, Delta};
use crate::error::Error;
use crate::model;
use crate::store::Revision;

/// Beyond this, and several times what is needed, the file is written anew, in bytes.
const COMPACT: u64 = 4 << 20;
/// Zeros that are written at once, in bytes.
const ROOM: u64 = 1 << 20;
const HEADER: usize = 8;

/// A block as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// The revision of the store that `stored` was seen at.
    pub(crate) revision: Revision,
    /// What the store had when it was last seen.
    pub(crate) stored: Block,
    /// What was answered.
    pub(crate) local: Block,
    /// Whether it was the node's to give from.
    pub(crate) owned: bool,
}

/// A change of what the log says.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// All of it.
    Block(Box<Logged>),
    /// The block as it is answered for from now on.
    Local(Box<Block>),
    /// It is not the node's any more.
    Gone(IpNet),
}

/// The first line: whose log it is, and the revision of the store's mark that it is in force.
#[derive(Serialize, Deserialize)]
struct Begins {
    node: String,
    instance: String,
    mark: Revision,
}

/// What is beside a block's JSON in the line of a whole one.
#[derive(Serialize, Deserialize)]
struct Beside {
    revision: Revision,
    owned: bool,
}

/// The log of one node, while it is in force.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// Where the next frame goes.
    length: u64,
    /// The file's length.
    room: u64,
    /// The length after it was last written anew.
    compact: u64,
    node: String,
    instance: String,
    mark: Revision,
    blocks: BTreeMap<IpNet, Logged>,
}

impl Log {
    /// The log of this instance, if there is one.
    ///
    /// # Errors
    /// It cannot be read, or is damaged before its end: the file and the offset.
    pub(crate) fn open(path: &Path, node: &str, instance: &str) -> Result<Option<Self>, Error> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(path, &error)),
        };
        let bytes = fs::read(path).map_err(|error| failed(path, &error))?;
        let (frames, end) = frames(path, &bytes)?;
        let mut room = bytes.len() as u64;
        if !is_zero(&bytes[end..]) {
            tracing::warn!(path = %path.display(), offset = end, "the log ends in a torn record: cut");
            room = end as u64;
            let cut = file.set_len(end as u64).and_then(|()| file.sync_all());
            cut.map_err(|error| failed(path, &error))?;
        }
        let (mut begun, mut blocks) = (None, BTreeMap::new());
        for (offset, payload) in frames {
            let damaged = |reason: String| damaged(path, offset, &reason);
            let text = std::str::from_utf8(payload).map_err(|error| damaged(error.to_string()))?;
            for line in text.lines() {
                if let Some(json) = line.strip_prefix("begins ") {
                    let read: Result<Begins, _> = serde_json::from_str(json);
                    begun = Some(read.map_err(|error| damaged(error.to_string()))?);
                } else {
                    take(&mut blocks, line).map_err(damaged)?;
                }
            }
        }
        let Some(Begins { node: of, instance: by, mark }) = begun else {
            return Err(damaged(path, 0, "does not say whose log it is"));
        };
        if (of.as_str(), by.as_str()) != (node, instance) {
            let reason = format!(
                "is the log of node {of}, instance {by}; remove it only if no pod of that node runs here"
            );
            return Err(Error::State { path: path.to_owned(), reason });
        }
        Ok(Some(Self {
            path: path.to_owned(),
            file,
            length: end as u64,
            room,
            compact: end as u64,
            node: of,
            instance: by,
            mark,
            blocks,
        }))
    }

    /// Begins a log, which takes the place of an older one.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn begin(
        path: &Path,
        (node, instance): (&str, &str),
        mark: Revision,
        blocks: BTreeMap<IpNet, Logged>,
    ) -> Result<Self, Error> {
        let (file, length, room) =
            write_whole(path, (node, instance), mark, &blocks).map_err(|e| failed(path, &e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
            room,
            compact: length,
            node: node.to_owned(),
            instance: instance.to_owned(),
            mark,
            blocks,
        })
    }

    /// Ends it: it is in force no more, also after a crash.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(crate) fn end(path: &Path) -> Result<(), Error> {
        let removed = match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_directory(path),
        };
        removed.map_err(|error| failed(path, &error))
    }

    /// What it says.
    pub(crate) fn blocks(&self) -> &BTreeMap<IpNet, Logged> {
        &self.blocks
    }

    /// The revision of the mark under which it began.
    pub(crate) fn mark(&self) -> Revision {
        self.mark
    }

    /// Writes changes, all or none of them, and returns when they are durable.
    ///
    /// # Errors
    /// They are perhaps not: the log must not be used any more.
    pub(crate) fn append(&mut self, changes: Vec<Change>) -> Result<(), Error> {
        let path = self.path.clone();
        let lines: Result<Vec<_>, _> =
            changes.into_iter().map(|change| self.make(change)).collect();
        let written = lines.and_then(|lines| self.write(&frame(&lines)));
        written.map_err(|error| failed(&path, &error))?;
        if self.length > COMPACT && self.length > 4 * self.compact {
            let of = (self.node.as_str(), self.instance.as_str());
            let (file, length, room) = write_whole(&path, of, self.mark, &self.blocks)
                .map_err(|error| failed(&path, &error))?;
            (self.file, self.length, self.room, self.compact) = (file, length, room, length);
        }
        Ok(())
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let end = self.length + frame.len() as u64;
        if end > self.room {
            self.room = make_room(&self.file, self.room, end)?;
        }
        self.file.write_all_at(frame, self.length)?;
        self.file.sync_data()?;
        self.length = end;
        Ok(())
    }

    /// Makes a change in memory, and says how it is written.
    fn make(&mut self, change: Change) -> io::Result<String> {
        let logged = match change {
            Change::Block(logged) => *logged,
            Change::Local(block) => {
                let Some(known) = self.blocks.get_mut(&block.cidr()) else {
                    return Err(io::Error::other(format!("{} is not in the log", block.cidr())));
                };
                let line = known.local.delta(&block).map(|delta| of_local(&block.cidr(), &delta));
                known.local = *block;
                // Where its changes alone do not tell all, all is told.
                return Ok(line.unwrap_or_else(|| of_block(known)));
            }
            Change::Gone(cidr) => {
                self.blocks.remove(&cidr);
                return Ok(format!("gone {cidr}"));
            }
        };
        let cidr = logged.local.cidr();
        let line = self.blocks.get(&cidr).and_then(|known| changes(known, &logged));
        let line = line.unwrap_or_else(|| of_block(&logged));
        self.blocks.insert(cidr, logged);
        Ok(line)
    }
}

/// Makes the file longer, by zeros, so that there is room up to `end` and some more. Its length.
fn make_room(file: &File, length: u64, end: u64) -> io::Result<u64> {
    let room = end.next_multiple_of(ROOM);
    let zeros = vec![0; usize::try_from(room - length).unwrap_or(0)];
    file.write_all_at(&zeros, length)?;
    file.sync_all()?;
    Ok(room)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// What is written is UTF-8; the replacement of what is not would be refused at open.
fn text(json: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(json)
}

fn of_block(logged: &Logged) -> String {
    let beside = model::encode(&Beside { revision: logged.revision, owned: logged.owned });
    let (stored, mut local) = (logged.stored.encode(), Vec::new());
    if logged.local != logged.stored {
        local = logged.local.encode();
    }
    format!("block {}\t{}\t{}", text(&beside), text(&stored), text(&local))
}

fn of_local(cidr: &IpNet, changes: &Delta<'_>) -> String {
    format!("local {cidr}\t{}", text(&model::encode(changes)))
}

/// The way from what the log says of a block to something else.
fn changes(known: &Logged, logged: &Logged) -> Option<String> {
    let cidr = logged.local.cidr();
    let beside = model::encode(&Beside { revision: logged.revision, owned: logged.owned });
    let stored = model::encode(&known.stored.delta(&logged.stored)?);
    let mut line = format!("stored {cidr}\t{}\t{}", text(&beside), text(&stored));
    if logged.local != known.local {
        line.push('\n');
        line.push_str(&of_local(&cidr, &known.local.delta(&logged.local)?));
    }
    Some(line)
}

fn take(blocks: &mut BTreeMap<IpNet, Logged>, line: &str) -> Result<(), String> {
    let read = |json: &str| Block::decode(json.as_bytes()).map_err(|error| error.to_string());
    let beside = |json: &str| -> Result<Beside, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    };
    let network = |text: &str| -> Result<IpNet, String> {
        text.parse().map_err(|_| format!("{text:?} is no network"))
    };
    let change = |block: &mut Block, json: &str| {
        let delta: Delta<'_> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        block.apply(&delta).map_err(|error| error.to_string())
    };
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut fields = rest.split('\t');
    let mut field = || fields.next().ok_or_else(|| format!("a field is missing in {kind:?}"));
    match kind {
        "block" => {
            let (beside, stored, local) = (beside(field()?)?, read(field()?)?, field()?);
            let local = if local.is_empty() { stored.clone() } else { read(local)? };
            let Beside { revision, owned } = beside;
            blocks.insert(local.cidr(), Logged { revision, stored, local, owned });
        }
        // As logs were written before changes were told alone.
        "local" if rest.starts_with('{') => {
            let local = read(rest)?;
            let cidr = local.cidr();
            let known = blocks.get_mut(&cidr);
            known.ok_or_else(|| format!("a change of {cidr}, unknown before"))?.local = local;
        }
        "stored" | "local" => {
            let cidr = network(field()?)?;
            let known = blocks.get_mut(&cidr);
            let known = known.ok_or_else(|| format!("a change of {cidr}, unknown before"))?;
            if kind == "local" {
                return change(&mut known.local, field()?);
            }
            let Beside { revision, owned } = beside(field()?)?;
            (known.revision, known.owned) = (revision, owned);
            change(&mut known.stored, field()?)?;
        }
        "gone" => {
            blocks.remove(&network(field()?)?);
        }
        _ => return Err(format!("a record of unknown kind {kind:?}")),
    }
    Ok(())
}

fn frame(lines: &[String]) -> Vec<u8> {
    let payload = lines.join("\n").into_bytes();
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend(length.to_le_bytes());
    frame.extend(crc32(&payload).to_le_bytes());
    frame.extend(payload);
    frame
}

/// The payload of the frame that begins here, if it is whole.
fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(four))
    };
    let (length, sum) = (number(0)? as usize, number(4)?);
    // No frame is empty, and zeros are what a file that grew but was not written has.
    let payload = bytes.get(HEADER..HEADER.checked_add(length)?).filter(|p| !p.is_empty())?;
    (crc32(payload) == sum).then_some(payload)
}

/// Frames by their offsets.
type Frames<'a> = Vec<(usize, &'a [u8])>;

/// All whole frames, with their offsets, and where they end.
fn frames<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Frames<'a>, usize), Error> {
    let (mut found, mut at) = (Vec::new(), 0);
    // A file takes its place when its first frame is durable.
    if whole(bytes).is_none() {
        return Err(damaged(path, 0, "not a record"));
    }
    while at < bytes.len() {
        let Some(payload) = whole(&bytes[at..]) else {
            // Only the last frame may be torn: what was answered is behind a whole one.
            if is_zero(&bytes[at..]) {
                break;
            }
            if (at + 1..bytes.len()).any(|later| whole(&bytes[later..]).is_some()) {
                return Err(damaged(path, at, "not a record, and records follow it"));
            }
            break;
        };
        found.push((at, payload));
        at += HEADER + payload.len();
    }
    Ok((found, at))
}

fn write_whole(
    path: &Path,
    (node, instance): (&str, &str),
    mark: Revision,
    blocks: &BTreeMap<IpNet, Logged>,
) -> io::Result<(File, u64, u64)> {
    let begins = Begins { node: node.to_owned(), instance: instance.to_owned(), mark };
    let begins = model::encode(&begins);
    let begins = format!("begins {}", String::from_utf8_lossy(&begins));
    let lines: Vec<String> = std::iter::once(begins).chain(blocks.values().map(of_block)).collect();
    let (new, frame) = (path.with_extension("new"), frame(&lines));
    // A crash may have left one.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).open(&new)?;
    file.write_all_at(&frame, 0)?;
    let length = frame.len() as u64;
    let room = make_room(&file, length, length + 1)?;
    fs::rename(&new, path)?;
    sync_directory(path)?;
    Ok((file, length, room))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::State { path: path.to_owned(), reason: error.to_string() }
}

fn damaged(path: &Path, offset: usize, reason: &str) -> Error {
    let reason = format!(
        "damaged at byte {offset}: {reason}; addresses of running pods may be in what cannot be \
         read: drain the node before the file is removed"
    );
    Error::State { path: path.to_owned(), reason }
}

#[cfg(test)]
mod tests;
