//! Sixteen agents, each a process, on a real etcd of three members: agents and members are killed,
//! the leader is stopped, links are cut. All agents write what they were answered into one file,
//! whose order is the order in which it happened: nobody has an address while another one has it,
//! and one collection later nothing is lost.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, and its modules are shared by several of them"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipam::store::etcd::{EtcdConfig, EtcdStore};
use ipam::{Error, Families, Live, StoreConfig};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

mod common;
use common::cluster::{Cluster, consistent, pool};
use common::eventually;
use common::trio::{Cable, Trio};

const AGENTS: usize = 16;
/// Agents that share one cable.
const PER_CABLE: usize = 4;
/// How many answers must come between two troubles.
const BETWEEN: usize = 60;

fn cluster(store: StoreConfig) -> Cluster {
    // Small enough for blocks to change hands and for addresses to be borrowed.
    let pools = vec![pool("four", "10.0.0.0/25", 29), pool("six", "fd00::/121", 125)];
    let deadline = Duration::from_secs(2);
    // As in the agent.
    Cluster { deadline, own_thread: true, ..Cluster::new(store, pools) }
}

/// One line of the record.
enum Line<'a> {
    /// The agent's pod has the address from now on.
    Got { agent: &'a str, handle: &'a str, address: IpAddr },
    /// The pod is gone; its release begins.
    Gone { handle: &'a str },
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Self {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["got", agent, handle, address] => {
                Self::Got { agent, handle, address: address.parse().unwrap() }
            }
            ["gone", _, handle] => Self::Gone { handle },
            _ => panic!("{line:?}"),
        }
    }
}

/// What all agents were answered.
struct Record(String);

impl Record {
    fn read(path: &Path) -> Self {
        let mut text = std::fs::read_to_string(path).unwrap();
        // A line is written at once; only the last one may be on its way.
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        Self(text)
    }

    fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.0.lines().map(Line::read)
    }

    /// Who has what at the end, and of which agent. Nobody had what another one had: each address
    /// was given and given back in turn, so the answers are those of one allocator that serves one
    /// request after the other.
    fn holders(&self) -> BTreeMap<IpAddr, (String, String)> {
        let mut held: BTreeMap<IpAddr, (String, String)> = BTreeMap::new();
        for line in self.lines() {
            match line {
                Line::Got { agent, handle, address } => {
                    let before = held.insert(address, (agent.to_owned(), handle.to_owned()));
                    assert_eq!(before, None, "{address} was given to {handle} of {agent} too");
                }
                Line::Gone { handle } => held.retain(|_, (_, other)| other != handle),
            }
        }
        held
    }
}

/// The process of one agent; nothing to do where the test runs by itself.
#[tokio::test(flavor = "current_thread")]
async fn agent() {
    let Ok(name) = std::env::var("IPAM_TEST_AGENT") else { return };
    let variable = |name: &str| std::env::var(name).unwrap();
    let (disk, record) = (variable("IPAM_TEST_DISK"), variable("IPAM_TEST_RECORD"));
    let endpoints: Vec<String> =
        variable("IPAM_TEST_ENDPOINTS").split(',').map(str::to_owned).collect();
    let (stopping, stop) = tokio::sync::watch::channel(false);
    std::thread::spawn(move || {
        // Ends when the test does, or says so.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stopping.send_replace(true);
    });
    let config =
        EtcdConfig { request_timeout: Duration::from_secs(1), ..EtcdConfig::new(endpoints) };
    let cluster = cluster(StoreConfig::Etcd(config));
    let ipam = cluster.open_at(&name, Path::new(&disk)).unwrap();
    let path = Path::new(&record);
    let mut out = File::options().append(true).open(path).unwrap();
    let mut write = |line: String| out.write_all(line.as_bytes()).unwrap();

    // What lives here is what the record says, whatever this process's predecessors died of.
    let held = Record::read(path).holders();
    let mine = held.values().filter(|(agent, _)| *agent == name);
    let mut live: BTreeSet<String> = mine.map(|(_, handle)| handle.clone()).collect();
    let collect = async |live: &BTreeSet<String>| loop {
        let epoch = ipam.epoch();
        let proof = Live::handles(epoch, live.clone()).unwrap_or_else(|| Live::none(epoch));
        if ipam.collect(proof).await.is_ok() {
            break;
        }
    };
    let mut random = SmallRng::from_rng(&mut rand::rng());
    let start = random.random::<u32>();
    for n in 0_u32.. {
        if *stop.borrow() {
            break;
        }
        if live.len() > random.random_range(0..7) {
            let handle = live.pop_first().unwrap();
            write(format!("gone {name} {handle}\n"));
            // A failed release is the collector's.
            let _ = ipam.release(&handle).await;
        } else {
            let handle = format!("{name}.{start:08x}.{n}");
            let families = if random.random_bool(0.3) { Families::V4 } else { Families::DUAL };
            let node = common::cluster::request(&handle, families);
            match ipam.assign(node).await {
                Ok(assignment) => {
                    let lines = assignment.ips().map(|ip| format!("got {name} {handle} {ip}\n"));
                    // At once: a pod has all of its addresses or none.
                    write(lines.collect());
                    live.insert(handle);
                }
                Err(Error::StoreUnavailable { .. } | Error::PoolExhausted { .. }) => {}
                Err(Error::Contention { .. }) => {}
                Err(error) => panic!("{handle}: {error}"),
            }
        }
    }
    collect(&live).await;
    ipam.close().await;
}

struct Agent {
    name: String,
    disk: TempDir,
    process: Child,
}

impl Agent {
    fn start(name: &str, disk: TempDir, endpoints: &[String], record: &Path) -> Self {
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["agent", "--exact", "--nocapture"])
            .env("IPAM_TEST_AGENT", name)
            .env("IPAM_TEST_DISK", disk.path())
            .env("IPAM_TEST_RECORD", record)
            .env("IPAM_TEST_ENDPOINTS", endpoints.join(","))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { name: name.to_owned(), disk, process }
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }

    /// Tells it to come to its end, which it does once it has collected.
    fn stop(&mut self) {
        drop(self.process.stdin.take());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn more_answers(record: &Path, count: usize) {
    let lines = || std::fs::read_to_string(record).unwrap().lines().count();
    let before = lines();
    eventually("agents are answered", async || (lines() >= before + count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_agents_agree_whatever_dies() {
    let directory = TempDir::with_prefix("ipam-agents-").unwrap();
    let record = directory.path().join("record");
    File::create(&record).unwrap();
    let mut etcd = Trio::start().await;
    let mut cables = Vec::new();
    for _ in 0..AGENTS / PER_CABLE {
        cables.push(Cable::to(&etcd.endpoints()).await);
    }
    let start = |n: usize, disk: TempDir| {
        Agent::start(&format!("agent{n}"), disk, &cables[n / PER_CABLE].endpoints(), &record)
    };
    let mut agents: Vec<_> =
        (0..AGENTS).map(|n| start(n, TempDir::with_prefix("ipam-agent-").unwrap())).collect();
    more_answers(&record, 2 * BETWEEN).await;

    for (round, cable) in cables.iter().enumerate() {
        // The leader stands still, and comes back as one who does not know that it leads no more.
        let leader = etcd.leader().await;
        etcd.signal(leader, "-STOP");
        more_answers(&record, BETWEEN).await;
        // Agents die in the middle of whatever they do, with and without a leader.
        for n in [round, round + 4, round + 8, round + 12] {
            agents[n].kill();
            let disk = std::mem::replace(&mut agents[n].disk, TempDir::new().unwrap());
            agents[n] = start(n, disk);
        }
        etcd.signal(leader, "-CONT");
        cable.cut();
        more_answers(&record, BETWEEN).await;
        let leader = etcd.leader().await;
        etcd.kill(leader);
        cable.mend();
        more_answers(&record, BETWEEN).await;
        etcd.run(leader);
        more_answers(&record, BETWEEN).await;
    }

    for agent in &mut agents {
        agent.stop();
    }
    for agent in &mut agents {
        let process = &mut agent.process;
        let end = eventually("agents end", async || process.try_wait().unwrap()).await;
        assert!(end.success(), "{}: {end}", agent.name);
    }
    let store = EtcdStore::new(&EtcdConfig::new(etcd.endpoints())).unwrap();
    let record = Record::read(&record);
    let living: BTreeMap<IpAddr, String> =
        record.holders().into_iter().map(|(ip, (_, handle))| (ip, handle)).collect();
    assert_eq!(consistent(&store).await, living, "one collection later");
    eprintln!("{} lines of answers", record.lines().count());
}

/// The positive control: the record finds an address that was given twice.
#[test]
#[should_panic(expected = "10.0.0.1 was given to b of agent2 too")]
fn an_address_given_twice_is_found() {
    let lines =
        "got agent1 a 10.0.0.1\ngone agent1 a\ngot agent1 c 10.0.0.1\ngot agent2 b 10.0.0.1\n";
    Record(lines.to_owned()).holders();
}
