//! A path is not taken for broken because its ends have other work.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::*;

/// Keeps the first CPU busy until it is dropped.
struct Load(Vec<Process>);

impl Load {
    fn start(processes: usize, node: &Node) -> Self {
        let log = node.folder().join("load.log");
        let one = |_| {
            let mut command = node.command("nice");
            let hog = "taskset --cpu-list 0 sh -c";
            command.args(["-n", "-19"]).args(hog.split(' ')).arg("while :; do :; done");
            Process::start("load", command, &log)
        };
        Self((0..processes).map(one).collect())
    }

    /// The processor time that they have had, in clock ticks of 10 ms.
    fn ticks(&self) -> u64 {
        let of = |process: &Process| -> u64 {
            let stat = format!("/proc/{}/stat", process.pid());
            let stat = std::fs::read_to_string(stat).unwrap();
            let (_, fields) = stat.rsplit_once(')').unwrap();
            fields.split_whitespace().nth(11).unwrap().parse().unwrap()
        };
        self.0.iter().map(of).sum()
    }
}

/// What no program can help: how long the first CPU stood still, as a thread sees it that nothing
/// else goes before. A virtual machine's may, for longer than the detection time.
struct Yardstick {
    stop: Arc<AtomicBool>,
    /// In microseconds.
    longest: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Yardstick {
    fn start(node: &Node) -> Self {
        let (stop, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (tell, told) = mpsc::channel();
        let (until, out) = (stop.clone(), longest.clone());
        let thread = std::thread::spawn(move || {
            // proc(5): it leads to PID/task/TID.
            tell.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            let mut last = Instant::now();
            while !until.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
                let now = Instant::now();
                let gap = now.duration_since(last).as_micros();
                out.fetch_max(gap.try_into().unwrap(), Ordering::Relaxed);
                last = now;
            }
        });
        let path = told.recv().unwrap();
        let id = path.file_name().and_then(|id| Path::new(id).to_str()).unwrap();
        node.run(&["taskset", "--cpu-list", "--pid", "0", id]).unwrap();
        node.run(&["chrt", "--fifo", "--pid", "99", id]).unwrap();
        longest.store(0, Ordering::Relaxed);
        Self { stop, longest, thread: Some(thread) }
    }

    fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(Ordering::Relaxed))
    }
}

impl Drop for Yardstick {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Both ends share one CPU with processes that want all of it and go before what is usual: a thread
/// without priority of its own would wait for its turn longer than the detection time.
#[test]
fn does_not_starve_it() {
    let pair = Pair::new();
    let us = Daemon::start(&pair.us, &pair::ours(FAST));
    let theirs = pair::ours(FAST)
        .replace("router-id: 10.255.0.1\nasn: 65001", "router-id: 10.255.0.2\nasn: 65002")
        .replace("address: 10.0.1.2, asn: 65002", "address: 10.0.1.1, asn: 65001");
    let peer = Daemon::start(&pair.peer, &theirs);
    for daemon in [&us, &peer] {
        let pid = daemon.process().pid().to_string();
        pair.us.run(&["taskset", "--all-tasks", "--cpu-list", "--pid", "0", &pid]).unwrap();
    }
    // Where the CPU itself stood still for a time that counts, it is to be seen once more.
    let mut pauses = Vec::new();
    while pauses.len() < 5 {
        let before = until_settled(&us, "peer");
        assert_eq!(before["bfd"]["detection_time"], 0.15);
        let yardstick = Yardstick::start(&pair.us);
        let load = Load::start(20, &pair.us);
        eventually("two seconds of load", LIMIT, || {
            let ticks = load.ticks();
            ensure!(ticks >= 200, "{ticks} ticks");
            Ok(())
        });
        drop(load);
        let after = us.neighbor("peer").unwrap();
        let pause = yardstick.longest();
        let same = |of: &str, what: &str| after[of][what] == before[of][what];
        let held = same("bfd", "flaps") && same("counters", "established");
        if held && after["bfd"]["state"] == "up" {
            return;
        }
        assert!(pause >= Duration::from_millis(75), "a CPU that paused for {pause:?}: {after}");
        pauses.push(pause);
    }
    panic!("this machine's CPU stands still too often to tell: {pauses:?}");
}
