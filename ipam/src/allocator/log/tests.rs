use super::*;
use crate::block::{Attribute, Release};
use crate::timestamp::Timestamp;

fn block(cidr: &str) -> Block {
    let now = Timestamp::from_seconds(1_787_405_600);
    Block::new(cidr.parse().unwrap(), Some("host:n".to_owned()), now).unwrap()
}

fn logged(cidr: &str, revision: Revision) -> Logged {
    Logged { revision, stored: block(cidr), local: block(cidr), owned: true }
}

fn given(mut block: Block, handle: &str) -> Block {
    let owner = Attribute { handle_id: Some(handle.to_owned()), ..Attribute::default() };
    block.allocate(&owner, &[]).unwrap();
    block.seal();
    block
}

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ipam-log");
        Self { _directory: directory, path }
    }

    fn begin(&self) -> Log {
        let blocks = [("10.0.0.0/29".parse().unwrap(), logged("10.0.0.0/29", 7))];
        Log::begin(&self.path, ("n", "i"), 5, blocks.into()).unwrap()
    }

    fn open(&self) -> Result<Option<Log>, Error> {
        Log::open(&self.path, "n", "i")
    }

    /// What was written, without the room behind it.
    fn bytes(&self, log: &Log) -> Vec<u8> {
        let mut bytes = fs::read(&self.path).unwrap();
        let behind = bytes.split_off(usize::try_from(log.length).unwrap());
        assert!(!behind.is_empty() && is_zero(&behind));
        bytes
    }

    fn reopened(&self) -> BTreeMap<IpNet, Logged> {
        self.open().unwrap().unwrap().blocks().clone()
    }
}

#[test]
fn says_after_a_restart_what_was_answered() {
    let place = Place::new();
    assert!(place.open().unwrap().is_none());
    let mut log = place.begin();
    assert_eq!(place.reopened(), *log.blocks());
    let local = given(given(block("10.0.0.0/29"), "a"), "b");
    let mut rested = local.clone();
    rested.release_handle("a", Release::Rest(Timestamp::from_seconds(9)));
    rested.seal();
    log.append(vec![Change::Local(Box::new(local))]).unwrap();
    let other = Logged { owned: false, ..logged("10.0.1.0/29", 8) };
    log.append(vec![Change::Local(Box::new(rested)), Change::Block(Box::new(other))]).unwrap();
    assert_eq!(log.blocks().len(), 2);
    assert_eq!(place.reopened(), *log.blocks());
    log.append(vec![Change::Gone("10.0.0.0/29".parse().unwrap())]).unwrap();
    let again = place.open().unwrap().unwrap();
    assert_eq!((again.blocks().len(), again.mark()), (1, 5));
    Log::end(&place.path).unwrap();
    Log::end(&place.path).unwrap();
    assert!(place.open().unwrap().is_none());
}

#[test]
fn a_torn_end_is_cut_wherever_it_was_torn() {
    let place = Place::new();
    let mut log = place.begin();
    let first = given(block("10.0.0.0/29"), "a");
    log.append(vec![Change::Local(Box::new(first.clone()))]).unwrap();
    let (before, whole_before) = (log.blocks().clone(), place.bytes(&log));
    log.append(vec![Change::Local(Box::new(given(first.clone(), "b")))]).unwrap();
    let whole = place.bytes(&log);
    for end in whole_before.len() + 1..whole.len() {
        fs::write(&place.path, &whole[..end]).unwrap();
        assert_eq!(place.reopened(), before, "cut at {end}");
        assert_eq!(fs::metadata(&place.path).unwrap().len(), whole_before.len() as u64);
        // In room that there was: what follows is zeros, and is not taken for a record later.
        let mut in_room = whole[..end].to_vec();
        in_room.resize(whole.len() + 500, 0);
        fs::write(&place.path, in_room).unwrap();
        assert_eq!(place.reopened(), before, "torn at {end}");
    }
    // Grown, and not written.
    let mut zeros = whole_before.clone();
    zeros.resize(whole.len(), 0);
    fs::write(&place.path, zeros).unwrap();
    // It goes on behind what was whole.
    let mut again = place.open().unwrap().unwrap();
    again.append(vec![Change::Local(Box::new(given(first, "c")))]).unwrap();
    assert_eq!(place.reopened(), *again.blocks());
}

#[test]
fn damage_before_the_end_names_file_and_offset() {
    let place = Place::new();
    let mut log = place.begin();
    let second = log.length;
    let first = given(block("10.0.0.0/29"), "a");
    log.append(vec![Change::Local(Box::new(first.clone()))]).unwrap();
    log.append(vec![Change::Local(Box::new(given(first, "b")))]).unwrap();
    let whole = place.bytes(&log);
    // What it began with was durable before the file had its name.
    fs::write(&place.path, &whole[..20]).unwrap();
    let error = place.open().unwrap_err().to_string();
    assert!(error.contains("damaged at byte 0"), "{error}");
    // In the payload, and in the length.
    for at in [second + 20, second + 2] {
        let mut bytes = whole.clone();
        bytes[usize::try_from(at).unwrap()] ^= 0x40;
        fs::write(&place.path, bytes).unwrap();
        let error = place.open().unwrap_err().to_string();
        let wanted = format!("{}: damaged at byte {second}:", place.path.display());
        assert!(error.starts_with(&wanted), "{error}");
    }
}

#[test]
fn another_nodes_log_is_refused() {
    let place = Place::new();
    place.begin();
    let error = Log::open(&place.path, "n", "other").unwrap_err().to_string();
    assert!(error.contains("node n, instance i"), "{error}");
    assert!(Log::open(&place.path, "m", "i").is_err());
}

#[test]
fn does_not_grow_for_ever() {
    let place = Place::new();
    let mut log = place.begin();
    let mut local = block("10.1.0.0/20");
    log.append(vec![Change::Block(Box::new(logged("10.1.0.0/20", 7)))]).unwrap();
    let mut most = 0;
    for round in 0.. {
        // Forgotten, so that the whole block is written.
        local = given(local, "a");
        local.release_handle("a", Release::Now);
        let whole = Logged { local: local.clone(), ..logged("10.1.0.0/20", 7) };
        log.append(vec![Change::Gone(local.cidr()), Change::Block(Box::new(whole))]).unwrap();
        if log.length < most {
            assert!(most > COMPACT / 2 && round < 1000, "{most} after {round} rounds");
            break;
        }
        most = log.length;
    }
    assert_eq!(fs::metadata(&place.path).unwrap().len(), ROOM);
    assert_eq!(place.reopened(), *log.blocks());
    log.append(vec![Change::Local(Box::new(given(local, "b")))]).unwrap();
    assert_eq!(place.reopened(), *log.blocks());
}

#[test]
fn a_change_is_written_as_what_changed() {
    let place = Place::new();
    let cidr: IpNet = "10.1.0.0/24".parse().unwrap();
    let mut full = block("10.1.0.0/24");
    for pod in 0..200 {
        full = given(full, &format!("pod-{pod}"));
    }
    let mut log = place.begin();
    let whole = Logged { stored: full.clone(), local: full.clone(), ..logged("10.1.0.0/24", 7) };
    log.append(vec![Change::Block(Box::new(whole.clone()))]).unwrap();
    let mut length = log.length;
    let mut grew_by = |log: &Log| {
        let grown = log.length - length;
        length = log.length;
        grown
    };
    let local = given(full, "one more");
    log.append(vec![Change::Local(Box::new(local.clone()))]).unwrap();
    assert!(grew_by(&log) < 200, "{:?}", place.bytes(&log));
    // The store has it now, and the node is ahead of that again.
    let next = given(local.clone(), "and one");
    let landed = Logged { revision: 9, stored: local, local: next, ..whole };
    log.append(vec![Change::Block(Box::new(landed.clone()))]).unwrap();
    assert!(grew_by(&log) < 400);
    assert_eq!(place.reopened()[&cidr], landed);
    assert_eq!(place.reopened(), *log.blocks());
}

#[test]
fn a_log_with_whole_blocks_as_changes_is_read() {
    let place = Place::new();
    let log = place.begin();
    let local = given(block("10.0.0.0/29"), "a");
    let mut bytes = place.bytes(&log);
    bytes.extend(frame(&[format!("local {}", text(&local.encode()))]));
    fs::write(&place.path, bytes).unwrap();
    assert_eq!(place.reopened()[&local.cidr()].local, local);
}

#[test]
fn the_checksum_is_that_of_ieee_802_3() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}
