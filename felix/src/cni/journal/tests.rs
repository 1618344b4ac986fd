use std::time::{Duration, Instant};

use proptest::prelude::*;
use smallvec::smallvec;

use super::format::{Decoded, decode, header, put, remove};
use super::*;
use crate::model::LocalEndpoint;

fn endpoint(n: u8) -> LocalEndpoint {
    LocalEndpoint {
        id: EndpointId { container_id: format!("c{n}"), ifname: "eth0".into() },
        namespace: "default".into(),
        pod: format!("pod-{n}"),
        pod_uid: format!("uid-{n}"),
        netns: format!("/run/netns/{n}"),
        host_interface: format!("cali{n:011x}"),
        host_index: 100 + u32::from(n),
        mac: [2, 0, 0, 0, 0, n],
        addresses: smallvec![std::net::Ipv4Addr::new(10, 0, 0, n).into()],
        handle: format!("net.c{n}"),
        mtu: 1500,
        labels: [("app".to_owned(), "é\n\"".to_owned())].into(),
        service_account: "default".into(),
    }
}

fn record(n: u8, phase: Phase) -> Record {
    Record { phase, role: Role::Endpoint, networks: Vec::new(), endpoint: endpoint(n) }
}

fn id(n: u8) -> EndpointId {
    endpoint(n).id
}

/// A life: 1 and 2 added, 1 removed, 3 being added, 4 added and being removed.
fn life() -> Vec<Change> {
    let put = |n, phase| Change::Put(Box::new(record(n, phase)));
    vec![
        put(1, Phase::Adding),
        put(1, Phase::Ready),
        put(2, Phase::Adding),
        put(2, Phase::Ready),
        put(1, Phase::Removing),
        Change::Remove(id(1)),
        put(4, Phase::Adding),
        put(4, Phase::Ready),
        put(3, Phase::Adding),
        put(4, Phase::Removing),
    ]
}

fn line(change: &Change) -> Vec<u8> {
    match change {
        Change::Put(record) => put(record),
        Change::Remove(id) => remove(id),
    }
}

fn apply(records: &mut BTreeMap<EndpointId, Record>, change: &Change) {
    match change {
        Change::Put(record) => {
            records.insert(record.endpoint.id.clone(), (**record).clone());
        }
        Change::Remove(id) => {
            records.remove(id);
        }
    }
}

fn state_after(changes: &[Change]) -> BTreeMap<EndpointId, Record> {
    let mut records = BTreeMap::new();
    for change in changes {
        apply(&mut records, change);
    }
    records
}

fn journal_of(changes: &[Change]) -> Vec<u8> {
    let mut bytes = header("boot");
    bytes.extend(changes.iter().flat_map(line));
    bytes
}

#[test]
fn the_format_is_what_it_says() {
    assert_eq!(
        String::from_utf8(remove(&id(1))).unwrap(),
        "c243bed0a114dbbf 48 {\"remove\":{\"container_id\":\"c1\",\"ifname\":\"eth0\"}}\n"
    );
}

#[test]
fn cut_at_any_byte_it_says_what_its_whole_lines_say() {
    let changes = life();
    let bytes = journal_of(&changes);
    for cut in 0..=bytes.len() {
        let whole = bytes[..cut].iter().filter(|&&byte| byte == b'\n').count();
        // A record that lacks only its line feed is whole.
        let whole = whole + usize::from(bytes.get(cut) == Some(&b'\n'));
        for zeroes in [0, 4096] {
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + zeroes, 0);
            let decoded = decode(&torn);
            let expected = state_after(&changes[..whole.saturating_sub(1)]);
            assert_eq!(decoded.records, expected, "cut at {cut}");
            assert_eq!(decoded.damages, [], "cut at {cut}");
            assert_eq!(decoded.boot_id.is_some(), whole > 0);
        }
    }
}

#[test]
fn a_flipped_bit_costs_one_record_and_never_a_running_pod() {
    let changes = life();
    let clean = journal_of(&changes);
    let truth = state_after(&changes);
    let starts: Vec<usize> = std::iter::once(0)
        .chain(clean.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1))
        .collect();
    let mut bytes = clean.clone();
    bytes.resize(clean.len() + 512, 0);
    for at in 0..clean.len() {
        let index = starts.iter().filter(|start| **start <= at).count() - 1;
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let decoded = decode(&bytes);
            bytes[at] ^= 1 << bit;

            let line_feed = clean[at] == b'\n';
            let mut surviving = changes.iter().collect::<Vec<_>>();
            if index > 0 && !line_feed {
                surviving.remove(index - 1);
            }
            let mut expected = BTreeMap::new();
            for change in surviving {
                apply(&mut expected, change);
            }
            let lost = !line_feed;
            assert!(decoded.damages.len() <= 2, "byte {at} bit {bit}");
            assert_eq!(!decoded.damages.is_empty(), lost, "byte {at} bit {bit}");
            for (id, expected) in &expected {
                let found = &decoded.records[id];
                assert_eq!(found.endpoint, expected.endpoint, "byte {at} bit {bit}");
                let may_have_answered =
                    expected.phase == Phase::Adding && found.phase == Phase::Uncertain;
                assert!(found.phase == expected.phase || may_have_answered, "byte {at} bit {bit}");
                if truth.get(id).is_some_and(|truth| truth.phase == Phase::Ready) {
                    assert!(
                        matches!(found.phase, Phase::Ready | Phase::Uncertain),
                        "byte {at} bit {bit}: {id:?} is running and would be undone"
                    );
                }
            }
            assert_eq!(decoded.records.len(), expected.len(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn an_add_that_may_have_answered_is_left_alone_and_one_that_cannot_have_is_not() {
    let mut bytes = header("boot");
    bytes.extend(put(&record(1, Phase::Adding)));
    let ready = bytes.len();
    bytes.extend(put(&record(1, Phase::Ready)));
    bytes.extend(put(&record(2, Phase::Adding)));
    bytes[ready + 30] ^= 1;
    let decoded = decode(&bytes);
    assert_eq!(decoded.records[&id(1)].phase, Phase::Uncertain);
    assert_eq!(decoded.records[&id(2)].phase, Phase::Adding);
    assert_eq!(decoded.damages.len(), 1);
    assert_eq!((decoded.damages[0].offset, &*decoded.damages[0].reason), (ready, "wrong checksum"));
}

#[test]
fn two_ready_endpoints_never_share_an_address_or_an_interface() {
    let older = record(1, Phase::Ready);
    let mut same_address = record(2, Phase::Ready);
    same_address.endpoint.addresses = older.endpoint.addresses.clone();
    let mut same_interface = record(3, Phase::Ready);
    same_interface.endpoint.host_interface = older.endpoint.host_interface.clone();
    for newer in [same_address, same_interface] {
        let bytes = [put(&older), put(&newer)].concat();
        let Decoded { records, .. } = decode(&bytes);
        assert_eq!(records[&id(1)].phase, Phase::Releasing);
        assert_eq!(records[&newer.endpoint.id].phase, Phase::Ready);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_and_lines_among_them_found(
        before in proptest::collection::vec(any::<u8>(), 0..200),
        after in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = before;
        bytes.push(b'\n');
        bytes.extend(put(&record(1, Phase::Ready)));
        bytes.extend(after);
        let decoded = decode(&bytes);
        prop_assert_eq!(&decoded.records[&id(1)], &record(1, Phase::Ready));
    }
}

/// Content in memory that can fail as a disk does: part of a write is there, and an error comes.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<DiskState>>);

#[derive(Default)]
struct DiskState {
    content: Vec<u8>,
    writes: usize,
    appends: usize,
    /// These writes fail, after so many of their bytes.
    failing: BTreeMap<usize, usize>,
    syncs: usize,
    /// The next so many syncs fail, and what was appended since the last one is lost.
    failing_syncs: usize,
    synced: Vec<u8>,
    /// Each append waits for one of these.
    gate: Option<mpsc::Receiver<()>>,
}

impl Disk {
    fn write(&self, then: impl FnOnce(&mut Vec<u8>, Option<usize>)) -> io::Result<()> {
        let mut state = self.0.lock();
        let write = state.writes;
        state.writes += 1;
        let failing = state.failing.get(&write).copied();
        then(&mut state.content, failing);
        if failing.is_some() { Err(io::Error::other("injected")) } else { Ok(()) }
    }
}

impl Storage for Disk {
    fn append(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let gate = {
            let mut state = self.0.lock();
            state.appends += 1;
            state.gate.take()
        };
        if let Some(gate) = gate {
            gate.recv().unwrap();
            self.0.lock().gate = Some(gate);
        }
        self.write(|content, failing| {
            let written = failing.unwrap_or(bytes.len()).min(bytes.len());
            content[offset..offset + written].copy_from_slice(&bytes[..written]);
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.syncs += 1;
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            state.content = state.synced.clone();
            return Err(io::Error::other("injected"));
        }
        state.synced = state.content.clone();
        Ok(())
    }

    fn replace(&mut self, bytes: &[u8], capacity: usize) -> io::Result<()> {
        self.write(|content, failing| {
            // It is renamed into place or it is not, and either can be followed by an error.
            if failing.is_none_or(|bytes| bytes > 0) {
                *content = bytes.to_vec();
                content.resize(capacity.min(1 << 16), 0);
            }
        })
    }
}

#[test]
fn whatever_write_fails_what_was_acknowledged_is_there() {
    let changes = life();
    // Write 0 is the first replace, then one append for each change; a failed append is followed
    // at once by a replace. Fail every write, at every byte, alone and with the next one.
    for failing in 0..=changes.len() {
        for kept in (0..600).step_by(19) {
            for with_next in [false, true] {
                let disk = Disk::default();
                disk.0.lock().failing.insert(failing, kept);
                if with_next {
                    disk.0.lock().failing.insert(failing + 1, kept % 2);
                }
                let mut writer = Writer::new(disk.clone(), "boot", &[]);
                let _ = writer.commit([]);
                let mut possible = vec![BTreeMap::new()];
                for change in life() {
                    let mut next = possible.last().unwrap().clone();
                    apply(&mut next, &change);
                    possible.push(next);
                    if writer.commit([change]).is_ok() {
                        // Now it must be there. Otherwise any state since the last one that was
                        // acknowledged may be.
                        possible.drain(..possible.len() - 1);
                    }
                    let decoded = decode(&disk.0.lock().content);
                    assert!(
                        possible.contains(&decoded.records),
                        "write {failing} failed after {kept} bytes"
                    );
                    assert_eq!(decoded.damages, []);
                }
                writer.commit([]).unwrap();
                let content = &disk.0.lock().content;
                assert_eq!(decode(content).records, state_after(&changes));
            }
        }
    }
}

#[test]
fn a_failure_is_told_to_who_waits_and_heals_with_the_next_write() {
    let disk = Disk::default();
    // The first append and the replace that would repair it.
    disk.0.lock().failing.extend([(1, 5), (2, 0)]);
    let journal = Journal::start("/j".into(), disk.clone(), "boot", &[]);
    let wait = |written| futures::executor::block_on(written);
    let error = wait(journal.put(record(1, Phase::Ready))).unwrap_err();
    assert_eq!(error.to_string(), "/j: injected");
    assert_eq!(journal.health().unwrap_err().to_string(), "/j: injected");
    wait(journal.put(record(2, Phase::Ready))).unwrap();
    journal.health().unwrap();
    assert_eq!(decode(&disk.0.lock().content).records.len(), 2);
}

#[test]
fn what_the_disk_lost_is_written_again_without_a_request() {
    let disk = Disk::default();
    let mut writer = Writer::new(disk.clone(), "boot", &[]);
    writer.commit([]).unwrap();
    assert_eq!(writer.due, None, "nothing for the disk to have");
    disk.0.lock().failing_syncs = 1;
    writer.commit([Change::Put(Box::new(record(1, Phase::Ready)))]).unwrap();
    assert_eq!(disk.0.lock().syncs, 0, "the request does not wait for the disk");
    assert!(writer.due.is_some());
    // Nor does a full disk stay unknown, or need a request to be tried again.
    disk.0.lock().failing.insert(2, 0);
    writer.settle().unwrap_err();
    assert!(decode(&disk.0.lock().content).records.is_empty(), "the loss was injected");
    assert!(writer.due.is_some(), "to be tried again");
    writer.settle().unwrap();
    assert_eq!(decode(&disk.0.lock().content).records.len(), 1);
    assert_eq!(writer.due, None);
}

#[test]
fn the_disk_is_seen_to_when_it_is_due() {
    let disk = Disk::default();
    let journal = Journal::start("/j".into(), disk.clone(), "boot", &[]);
    disk.0.lock().failing_syncs = 1;
    futures::executor::block_on(journal.put(record(1, Phase::Ready))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while disk.0.lock().writes < 3 {
        assert!(Instant::now() < deadline, "nobody wrote it again");
        std::thread::yield_now();
    }
    assert_eq!(decode(&disk.0.lock().content).records.len(), 1);
}

#[test]
fn requests_in_flight_share_a_write() {
    let (open, gate) = mpsc::channel();
    let disk = Disk::default();
    disk.0.lock().gate = Some(gate);
    let journal = Journal::start("/j".into(), disk.clone(), "boot", &[]);
    let first = journal.put(record(0, Phase::Ready));
    let deadline = Instant::now() + Duration::from_secs(60);
    while disk.0.lock().appends == 0 {
        assert!(Instant::now() < deadline, "the first write never began");
        std::thread::yield_now();
    }
    // While the first write waits, these queue up.
    let others: Vec<Written> = (1..=100).map(|n| journal.put(record(n, Phase::Ready))).collect();
    open.send(()).unwrap();
    open.send(()).unwrap();
    futures::executor::block_on(async {
        first.await.unwrap();
        for written in others {
            written.await.unwrap();
        }
    });
    assert_eq!(disk.0.lock().appends, 2);
    assert_eq!(decode(&disk.0.lock().content).records.len(), 101);
}

#[test]
fn a_directory_is_read_back_bounded_and_locked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let wait = |written| futures::executor::block_on(written);
    {
        let (journal, loaded) = Journal::open(&path, "boot-1").unwrap();
        assert!(loaded.records.is_empty() && loaded.damages.is_empty() && !loaded.rebooted);
        wait(journal.put(record(1, Phase::Ready))).unwrap();
        // Far more than the file's capacity.
        for _ in 0..20 {
            for _ in 0..100 {
                drop(journal.put(record(2, Phase::Ready)));
                drop(journal.remove(id(2)));
            }
            wait(journal.remove(id(2))).unwrap();
        }
        wait(journal.put(record(3, Phase::Adding))).unwrap();
        let error = Journal::open(&path, "boot-1").unwrap_err();
        assert!(matches!(error, OpenError::InUse(_)), "{error}");
        assert!(std::fs::metadata(path.join(LOG)).unwrap().len() <= MIN_CAPACITY as u64);
    }
    // A crash in the middle of a rewrite leaves this.
    std::fs::write(path.join(NEW), "half").unwrap();
    let loaded = reopen(&path, "boot-1").1;
    assert_eq!(loaded.records, [record(1, Phase::Ready), record(3, Phase::Adding)]);

    let loaded = reopen(&path, "boot-2").1;
    assert!(loaded.rebooted);
    assert_eq!(loaded.records, [record(1, Phase::Releasing), record(3, Phase::Releasing)]);
}

#[test]
fn damage_is_set_aside_and_does_not_return() {
    let directory = tempfile::tempdir().unwrap();
    let wait = |written| futures::executor::block_on(written);
    let (journal, _) = Journal::open(directory.path(), "boot").unwrap();
    for n in 1..=3 {
        wait(journal.put(record(n, Phase::Ready))).unwrap();
    }
    drop(journal);
    let log = directory.path().join(LOG);
    let mut bytes = std::fs::read(&log).unwrap();
    let at = header("boot").len() + put(&record(1, Phase::Ready)).len();
    bytes[at + 20] ^= 4;
    wait_unlocked(directory.path());
    std::fs::write(&log, &bytes).unwrap();

    let (journal, loaded) = reopen(directory.path(), "boot");
    assert_eq!(loaded.records, [record(1, Phase::Ready), record(3, Phase::Ready)]);
    assert_eq!((loaded.damages.len(), loaded.damages[0].offset), (1, at));
    let kept = std::fs::read(directory.path().join(CORRUPT)).unwrap();
    assert_eq!(kept, bytes[at..at + put(&record(2, Phase::Ready)).len()]);
    wait(journal.remove(id(3))).unwrap();
    drop(journal);
    assert!(reopen(directory.path(), "boot").1.damages.is_empty());
}

#[test]
fn a_full_disk_does_not_keep_the_agent_from_starting() {
    // No file can be made in this directory but those that are there: the new log's name is
    // taken by a directory, which is what root cannot write over.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::write(path.join(LOG), journal_of(&life())).unwrap();
    std::fs::create_dir(path.join(NEW)).unwrap();
    let (journal, loaded) = Journal::open(path, "boot").unwrap();
    assert_eq!(loaded.records.len(), 3);
    let put = |n| futures::executor::block_on(journal.put(record(n, Phase::Ready)));
    let error = put(7).unwrap_err().to_string();
    assert!(error.contains(LOG) && error.contains("directory"), "{error}");
    assert!(journal.health().is_err());
    std::fs::remove_dir(path.join(NEW)).unwrap();
    put(8).unwrap();
    journal.health().unwrap();
    drop(journal);
    // What was refused in the meantime is there too: nobody asked for its removal.
    assert_eq!(reopen(path, "boot").1.records.len(), 5);
}

/// A dropped journal lets go of its files when its writer has ended.
fn reopen(path: &Path, boot_id: &str) -> (Journal, Loaded) {
    wait_unlocked(path);
    Journal::open(path, boot_id).unwrap()
}

fn wait_unlocked(path: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while lock(&path.join(LOCK)).is_err() {
        assert!(Instant::now() < deadline, "still locked");
        std::thread::yield_now();
    }
}
