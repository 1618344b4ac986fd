//! Recordings and the reading of them.

use std::io::Cursor;

use super::events::{Events, Tail};
use super::replay::{Replay, Stop, Unreadable, Until};
use super::*;
use crate::speaker::RouteQuery;
use crate::transport::memory::Random;

/// A recording of a speaker with a neighbor that is never there.
fn small() -> Vec<u8> {
    let config: Config = serde_json::from_str(
        r#"{"router-id": "192.0.2.1", "asn": 65001, "listen": [],
            "networks": [{"prefix": "10.1.0.0/24"}],
            "peers": [{"name": "n", "address": "192.0.2.2", "asn": 65002, "password": "secret!"}]}"#,
    )
    .unwrap();
    let journal = Some(Journal::in_memory());
    let mut core = Recorded::new(config.clone(), Time::ZERO, Duration::from_secs(1000), 7, journal);
    core.work(Time::ZERO);
    core.take_outputs();
    let seconds = Duration::from_secs;
    let fib = core.subscribe(Arc::default());
    core.connect_failed(seconds(1), ConnId(1), "refused");
    core.work(seconds(1));
    core.take_outputs();
    for at in 2..10 {
        core.tick(seconds(at), |_| false);
        core.work(seconds(at));
        for output in core.take_outputs() {
            if let Output::Connect { conn, .. } = output {
                core.connect_failed(seconds(at), conn, "refused again");
            }
        }
    }
    core.take_deltas(fib, 10);
    core.apply(seconds(20), Config { networks: Vec::new(), ..config });
    core.work(seconds(20));
    core.take_recording()
}

fn replay(octets: Vec<u8>) -> Result<(Replay, Stop), Unreadable> {
    let mut replay = Replay::of(Cursor::new(octets))?;
    let stop = replay.run(Until::End)?;
    Ok((replay, stop))
}

#[test]
fn a_recording_is_replayed_to_any_moment() {
    let (whole, stop) = replay(small()).unwrap();
    assert_eq!(stop, Stop::Marked(Ending::Finished));
    assert_eq!(whole.time(), Duration::from_secs(20));
    assert_eq!((whole.version(), whole.started().as_secs()), (env!("CARGO_PKG_VERSION"), 1000));
    let mut counts = Vec::new();
    for until in [
        Until::Event(0),
        Until::Event(3),
        Until::Time(Duration::from_secs(19)),
        Until::Wall(Duration::from_secs(1019)),
        Until::Event(u64::MAX),
    ] {
        let mut replay = Replay::of(Cursor::new(small())).unwrap();
        let stop = replay.run(until).unwrap();
        assert_eq!(stop == Stop::Reached, until != Until::Event(u64::MAX), "{until:?}");
        counts.push((replay.count(), replay.core().routes(&RouteQuery::default()).len()));
    }
    let all = whole.count();
    assert!(all > 10);
    assert_eq!(counts, [(0, 1), (3, 1), (all - 2, 1), (all - 2, 1), (all, 0)]);
}

#[test]
fn it_holds_no_secret_and_tells_secrets_apart() {
    let recording = small();
    let find = |text: &[u8]| recording.windows(text.len()).any(|part| part == text);
    assert!(find(b"192.0.2.2") && !find(b"secret!"));
    let peers = r#"[{"name": "a", "address": "192.0.2.2", "asn": 1, "password": "x"},
        {"name": "b", "address": "192.0.2.3", "asn": 1, "password": "y"},
        {"name": "c", "address": "192.0.2.4", "asn": 1, "tcp-ao": {"keys": [
            {"send-id": 1, "recv-id": 1, "key": "x"}, {"send-id": 2, "recv-id": 2, "key": "z"}]}}]"#;
    let config = format!(r#"{{"router-id": "192.0.2.1", "asn": 1, "peers": {peers}}}"#);
    let mut config: Config = serde_json::from_str(&config).unwrap();
    let mut known = settings::Secrets::default();
    let mut read = |config: &Config| settings::decode(&known.encode(config).unwrap()).unwrap();
    let first = read(&config);
    let keys = |config: &Config| {
        let ao = &config.peers[2].tcp_ao.as_ref().unwrap().keys;
        let [a, b] = [0, 1].map(|at| config.peers[at].password.clone().unwrap());
        [a, b, ao[0].key.clone(), ao[1].key.clone()].map(|key| key.reveal().to_owned())
    };
    assert_eq!(keys(&first), ["secret 0", "secret 1", "secret 0", "secret 2"]);
    config.peers[0].password = config.peers[1].password.clone();
    let second = read(&config);
    assert_eq!(keys(&second), ["secret 1", "secret 1", "secret 0", "secret 2"]);
    config.peers[2].tcp_ao = None;
    assert_eq!(read(&config).peers[2], config.peers[2], "all else is as it was");
}

#[test]
fn what_is_cut_off_is_replayed_as_far_as_it_goes() {
    let recording = small();
    let mark = recording.len() - 3;
    let (whole, _) = replay(recording.clone()).unwrap();
    let mut counts = Vec::new();
    for len in 0..mark {
        match replay(recording[..len].to_vec()) {
            Ok((replay, Stop::Cut { left })) => counts.push((replay.count(), left)),
            Ok((_, stop)) => panic!("{len}: {stop:?}"),
            Err(error) => assert!(counts.is_empty(), "{len}: {error}"),
        }
    }
    assert!(counts.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    assert_eq!(counts.first(), Some(&(0, 0)));
    assert!(counts.last().unwrap().0 + 1 >= whole.count());
    // A file that was longer than what had come to the disk.
    let zeros = [&recording[..mark], &[0; 10_000]].concat();
    let (cut, stop) = replay(zeros).unwrap();
    assert_eq!((cut.count(), stop), (whole.count(), Stop::Cut { left: 10_000 }));
}

#[test]
fn what_is_no_recording_is_refused_with_the_place() {
    let recording = small();
    let at = |octets: &[u8]| replay(octets.to_vec()).unwrap_err();
    let events = replay(recording.clone()).unwrap().0.count();
    assert_eq!(at(b"").position, 0);
    assert_eq!(at(b"MRT, say, or anything else").reason, "this is no recording of bgpd");
    let mut other = recording.clone();
    other[8] = 2;
    assert_eq!(at(&other).to_string(), "at octet 8: format 2; this program reads format 1");
    let end = recording.len() - 3;
    for (tail, said) in [
        (&[200, 0][..], "kind 200 is none that this program knows"),
        (&[50, 1, 0], "kind 50 is none that this program knows"),
        (&[1, 1, 0], "kind 1 is none that this program knows"),
        (&[6, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "has a length that none has"),
        (&[10, 2, 0, 0], "is longer than its fields"),
        (&[9, 1, 0xff], "ends within a number"),
        (&[2, 3, 0, 1, b'{'], "holds no configuration"),
        (&[128, 1, 9], "holds no reason"),
        (&[0, 0, 1], "zeros where a record was to be"),
    ] {
        let mut replay = Replay::of(Cursor::new([&recording[..end], tail].concat())).unwrap();
        let error = replay.run(Until::End).unwrap_err();
        assert_eq!(replay.count(), events, "what comes before is replayed: {error}");
        assert_eq!(error.position, end as u64, "{error}");
        assert!(error.reason.contains(said), "{error}");
    }
}

#[test]
fn what_differs_is_said_with_the_event() {
    let recording = small();
    let (_, stop) = replay(recording.clone()).unwrap();
    assert_eq!(stop, Stop::Marked(Ending::Finished));
    let mut events = Events::begin(Cursor::new(recording.clone())).unwrap().1;
    let mut applied = None;
    while let Some(event) = events.next().unwrap() {
        if matches!(event.input, Input::Apply(_)) {
            applied = Some((event.position, event.now));
        }
    }
    let (position, time) = applied.unwrap();
    let mut altered = recording;
    let from = usize::try_from(position).unwrap();
    // The neighbor is in another AS, which takes a session of another kind.
    let place = altered[from..].windows(5).position(|part| part == b"65002").unwrap();
    altered[from + place + 4] = b'3';
    let (replay, stop) = replay(altered).unwrap();
    let Stop::Differs(difference) = stop else { panic!("{stop:?}") };
    assert_eq!((difference.position, difference.time), (position, time), "{difference}");
    assert_eq!(difference.event, replay.count());
    assert_eq!(difference.what, "a configuration is applied");
    assert_eq!(difference.recorded, "1 changes");
    assert_eq!(difference.replayed, "2 changes");
}

/// Octets that are changed, put in, taken out, or come twice.
fn mutate(octets: &mut Vec<u8>, spared: usize, random: &mut Random) {
    let spared = if random.chance(80) { spared } else { 0 };
    for _ in 0..=random.below(4) {
        let at = spared + random.below(octets.len() - spared);
        match random.below(5) {
            0 => octets[at] = random.next().to_le_bytes()[0],
            1 => octets[at] ^= 1 << random.below(8),
            2 => octets.insert(at, [0, 1, 0x7f, 0x80, 0xff][random.below(5)]),
            3 => drop(octets.drain(at..(at + 1 + random.below(40)).min(octets.len()))),
            _ => {
                let end = (at + 1 + random.below(40)).min(octets.len());
                let again = octets[at..end].to_vec();
                octets.splice(at..at, again);
            }
        }
        if octets.len() <= spared {
            return;
        }
    }
}

/// Whatever a file holds, it is replayed, differs, or is refused with a place inside of it.
#[test]
fn mutated_recordings_do_no_harm() {
    let random = &mut Random::new(1);
    let recording = small();
    // Most of what is in the configuration is no configuration any more when it is changed.
    let mut events = Events::begin(Cursor::new(recording.clone())).unwrap().1;
    let first = events.next().unwrap().unwrap().position;
    let first = usize::try_from(first).unwrap();
    let (mut read, mut differ, mut refused) = (0, 0, 0);
    for _ in 0..3000 {
        let mut octets = recording.clone();
        mutate(&mut octets, first, random);
        let len = octets.len() as u64;
        match replay(octets) {
            Ok((_, Stop::Differs(difference))) => {
                assert!(difference.position < len, "{difference}");
                differ += 1;
            }
            Ok(_) => read += 1,
            Err(error) => {
                assert!(error.position <= len, "{error}");
                refused += 1;
            }
        }
    }
    assert!(read > 100 && differ > 100 && refused > 100, "{read} {differ} {refused}");
}

/// Where octets come from, and how many there was room for at most when they were asked for.
struct Asked(Cursor<Vec<u8>>, usize);

impl std::io::Read for Asked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = self.1.max(buffer.len());
        self.0.read(buffer)
    }
}

/// A length that the file does not have costs nothing.
#[test]
fn a_record_is_not_believed_to_be_as_long_as_it_says() {
    let mut octets = small();
    octets.truncate(octets.len() - 3);
    octets.push(6);
    codec::put_number(&mut octets, MAX_RECORD as u64);
    octets.extend([0; 100]);
    let mut source = Asked(Cursor::new(octets), 0);
    let mut events = Events::begin(&mut source).unwrap().1;
    while events.next().unwrap().is_some() {}
    assert_eq!(events.tail(), Some(Tail::Cut(105)));
    assert!(source.1 < 64 << 10, "{}", source.1);
}

/// An outcome that is damaged does not take the event with it that it belongs to.
#[test]
fn the_last_event_before_damage_is_replayed() {
    let recording = small();
    let mut events = Events::begin(Cursor::new(recording.clone())).unwrap().1;
    let mut last = None;
    while let Some(event) = events.next().unwrap() {
        last = Some((event.position, event.outcome.is_some()));
    }
    let (position, true) = last.unwrap() else { panic!("it is followed by an outcome") };
    let (whole, _) = replay(recording.clone()).unwrap();
    let input = usize::try_from(position).unwrap();
    let outcome = input + 2 + usize::from(recording[input + 1]);
    assert!(recording[outcome] >= 64);
    // It says that it has no fields.
    let damaged = [&recording[..outcome], &[recording[outcome], 0]].concat();
    let mut replay = Replay::of(Cursor::new(damaged)).unwrap();
    let error = replay.run(Until::End).unwrap_err();
    assert_eq!((error.position, replay.count()), (outcome as u64, whole.count()), "{error}");
}

fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("bgpd-record-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A core that is told so many times that a connection cannot be made, each with so long a reason.
fn told(recording: &Recording, times: u64, octets: usize) -> Recorded {
    let config = Config::new([192, 0, 2, 1].into(), 65001);
    let journal = Some(Journal::create(recording).unwrap());
    let mut core = Recorded::new(config, Time::ZERO, Time::ZERO, 7, journal);
    let reason = "x".repeat(octets);
    for at in 0..times {
        let now = Duration::from_millis(at);
        core.connect_failed(now, ConnId(at), &reason);
        core.work(now);
        core.take_outputs();
    }
    core
}

#[test]
fn a_file_is_for_its_owner_and_the_one_before_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder("owner");
    let recording = Recording::new(folder.join("run"));
    let old = folder.join("run.old");
    for times in [1, 2, 3] {
        drop(told(&recording, times, 10));
        let mode = std::fs::metadata(&recording.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut replay = Replay::open(&recording.path).unwrap();
        assert_eq!(replay.run(Until::End).unwrap(), Stop::Marked(Ending::Finished));
        // Twice as many and the BFD sessions, which nobody takes, are no event.
        assert_eq!(replay.count(), 2 * times);
        let before = Replay::open(&old).map(|mut replay| {
            replay.run(Until::End).unwrap();
            replay.count()
        });
        assert_eq!(before.ok(), (times > 1).then_some(2 * (times - 1)));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn at_its_limit_a_recording_ends_and_the_speaker_goes_on() {
    let folder = folder("limit");
    let recording = Recording { limit: 100_000, ..Recording::new(folder.join("run")) };
    let mut core = told(&recording, 1000, 1000);
    while core.hand_over() {}
    assert!(core.decisions.is_none(), "no digest is made of what is decided");
    assert!(!core.work(Duration::from_secs(10)));
    let journal = core.journal.as_mut().unwrap();
    assert!(journal.is_over() && journal.take_outcome().is_none() && journal.kept() == 0);
    drop(core);
    let len = std::fs::metadata(&recording.path).unwrap().len();
    assert!((90_000..=100_000).contains(&len), "{len}");
    let mut replay = Replay::open(&recording.path).unwrap();
    assert_eq!(replay.run(Until::End).unwrap(), Stop::Marked(Ending::Limit));
    assert!((100..200).contains(&replay.count()), "{}", replay.count());
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A pipe that nobody reads is a disk that takes nothing.
#[test]
fn where_the_file_is_too_slow_the_recording_ends_and_nothing_waits_for_it() {
    let (reader, mut core) = piped();
    let megabyte = vec![0; 1 << 20];
    let mut most = 0;
    for at in 0..300 {
        let now = Duration::from_millis(at);
        core.received(now, ConnId(1), &megabyte);
        core.work(now);
        most = most.max(core.journal.as_ref().unwrap().waiting());
    }
    assert!((30 << 20..70 << 20).contains(&most), "{most}");
    let ended = std::thread::spawn(move || replay_of(reader));
    until_taken(&mut core);
    drop(core);
    let (count, stop) = ended.join().unwrap();
    assert_eq!(stop, Stop::Marked(Ending::Slow));
    assert!((60..280).contains(&count), "{count}");
}

/// Hands over all there is, and waits until the thread has taken it.
fn until_taken(core: &mut Recorded) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while core.hand_over() || core.journal.as_ref().unwrap().waiting() > 0 {
        assert!(std::time::Instant::now() < end, "it is not taken");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A speaker with its recording in a pipe.
fn piped() -> (std::io::PipeReader, Recorded) {
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = std::os::fd::OwnedFd::from(writer);
    let journal = Journal::to(writer.into(), "pipe".into(), u64::MAX).unwrap();
    let config = Config::new([192, 0, 2, 1].into(), 65001);
    (reader, Recorded::new(config, Time::ZERO, Time::ZERO, 7, Some(journal)))
}

/// A disk that hangs takes the end of the recording, but does not keep the speaker from its own.
#[test]
fn a_file_that_hangs_is_left_behind() {
    let (reader, mut core) = piped();
    core.received(Time::ZERO, ConnId(1), &vec![0; 10 << 20]);
    core.work(Time::ZERO);
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        core.finish();
        done.send(core.journal.is_none()).unwrap();
    });
    assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(true), "it waits for the file");
    drop(reader);
}

/// What follows from decisions does not stay behind until there are others.
#[test]
fn all_that_is_recorded_can_be_handed_over() {
    let folder = folder("hand-over");
    let recording = Recording::new(folder.join("run"));
    let mut core = told(&recording, 1, 10);
    core.subscribe(Arc::default());
    assert!(core.journal.as_ref().unwrap().kept() > 0);
    while core.hand_over() {}
    assert_eq!(core.journal.as_ref().unwrap().kept(), 0);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// One record is as large as others together may be, and the file takes it.
#[test]
fn a_large_record_is_no_sign_of_a_slow_file() {
    let (reader, mut core) = piped();
    let ended = std::thread::spawn(move || replay_of(reader));
    let large = vec![0; 40 << 20];
    for octets in [&large[..10], &large, &large[..10]] {
        core.received(Time::ZERO, ConnId(1), octets);
    }
    core.work(Time::ZERO);
    until_taken(&mut core);
    drop(core);
    assert_eq!(ended.join().unwrap(), (4, Stop::Marked(Ending::Finished)));
}

/// Who tells of something may have looked at the clock before another did.
#[test]
fn the_time_of_a_recording_does_not_go_back() {
    let config = Config::new([192, 0, 2, 1].into(), 65001);
    let journal = Some(Journal::in_memory());
    let mut core = Recorded::new(config, Time::ZERO, Time::ZERO, 7, journal);
    for at in [2, 1, 3] {
        core.received(Duration::from_secs(at), ConnId(1), &[0]);
    }
    let (replay, _) = replay(core.take_recording()).unwrap();
    assert_eq!(replay.time(), Duration::from_secs(3));
}

/// Only a file is put out of the way for a recording. A FIFO is written to; what is neither stays
/// as it is, and is refused.
#[test]
fn what_is_no_file_is_not_moved_away() {
    use std::os::unix::fs::FileTypeExt;
    let folder = folder("kinds");
    let path = |name: &str| folder.join(name);
    std::fs::create_dir(path("directory")).unwrap();
    std::fs::write(path("file"), "kept").unwrap();
    std::os::unix::fs::symlink("file", path("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    for (name, said) in
        [("directory", "a directory"), ("link", "a symbolic link"), ("socket", "a socket")]
    {
        let before = path(name).symlink_metadata().unwrap().file_type();
        let error = Journal::create(&Recording::new(path(name))).err().unwrap();
        assert!(error.to_string().contains(said), "{name}: {error}");
        assert_eq!(path(name).symlink_metadata().unwrap().file_type(), before);
        assert!(!path(&format!("{name}.old")).exists(), "{name}");
    }
    assert_eq!(std::fs::read(path("file")).unwrap(), b"kept");
    let made = std::process::Command::new("mkfifo").arg(path("fifo")).status().unwrap();
    assert!(made.success());
    let core = told(&Recording::new(path("fifo")), 3, 10);
    let reader = std::fs::File::open(path("fifo")).unwrap();
    drop(core);
    assert_eq!(replay_of(reader), (6, Stop::Marked(Ending::Finished)));
    assert!(path("fifo").symlink_metadata().unwrap().file_type().is_fifo());
    assert!(!path("fifo.old").exists());
    std::fs::remove_dir_all(&folder).unwrap();
}

fn replay_of(source: impl std::io::Read + Send + 'static) -> (u64, Stop) {
    let mut replay = Replay::of(source).unwrap();
    let stop = replay.run(Until::End).unwrap();
    (replay.count(), stop)
}

/// A file that takes no more, as on a full disk.
#[test]
fn a_file_that_fails_is_given_up() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let journal = Journal::to(full, "/dev/full".into(), u64::MAX).unwrap();
    let config = Config::new([192, 0, 2, 1].into(), 65001);
    let mut core = Recorded::new(config, Time::ZERO, Time::ZERO, 7, Some(journal));
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let mut at = Time::ZERO;
    while !core.journal.as_ref().unwrap().is_over() {
        at += Duration::from_millis(1);
        core.work(at);
        assert!(std::time::Instant::now() < end, "it is still recorded");
        std::thread::yield_now();
    }
    assert_eq!(core.journal.as_ref().unwrap().waiting(), 0, "nothing is kept for it");
}

/// What a thread that panics was doing is the last event.
#[test]
fn the_event_that_a_speaker_dies_of_is_on_record() {
    let folder = folder("panic");
    let recording = Recording::new(folder.join("run"));
    let theirs = recording.clone();
    let died = std::thread::spawn(move || {
        let mut core = told(&theirs, 3, 10);
        core.note(Duration::from_secs(1), &Input::Work);
        panic!("on purpose");
    });
    assert!(died.join().is_err());
    let mut replay = Replay::open(&recording.path).unwrap();
    assert_eq!(replay.run(Until::End).unwrap(), Stop::Cut { left: 0 });
    assert_eq!((replay.count(), replay.time()), (7, Duration::from_secs(1)));
    std::fs::remove_dir_all(&folder).unwrap();
}
