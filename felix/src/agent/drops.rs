//! Denied packets: from the kernel's sample to records that say which policy it was, the recent past
//! of them, and those who follow.
//!
//! ```text
//!   kernel ── at most 100/s ──▶ queue ──▶ this task ──packets──▶ brain: who denies them?
//!                                            │ ◀──records──────────┘
//!                                            ├──▶ the last 1000, for `felix drops`
//!                                            ├──▶ metrics
//!                                            └──▶ a file, if one is wanted
//! ```
//! While there are staged policies, the same with a sample of what is let through: the brain says what
//! would become of each, and those of which that is something else are kept beside.
//!
//! The brain gives it no more than a twentieth of its time: after each answer the task rests for as
//! long as the answer cost, nineteen times over. What comes meanwhile waits, or is counted as lost.

mod records;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use netlink::nft::Hook;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub(super) use self::records::RecordFile;
use super::brain::Command;
use crate::cni::protocol::{DropsQuestion, MAX_MESSAGE, Place};
use crate::control::{DroppedPacket, DropsReport, PacketEnd, Would};
use crate::engine::{Denial, Engine, Staged};
use crate::kernel::denied::{Denied, DeniedMonitor, DeniedPacket, Fate};
use crate::model::host::HostHook;
use crate::model::{Direction, Flow};
use crate::observe::metrics::{DeniedLabels, DeniedMetrics};
use crate::peering::Peering;

/// Denied packets that may wait to be attributed.
pub(super) const QUEUE: usize = 1024;
/// Most packets in one question to the brain.
const BATCH: usize = 64;
/// The brain's time that this may take, as one part of so many.
const SHARE: u32 = 20;
/// Longest rest.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Records that are kept.
const KEPT: usize = 1000;
/// How long a question waits for the next record.
const WAIT: Duration = Duration::from_millis(800);
/// Different sets of labels of the metric.
const LABELS: usize = 1000;
/// Left free in a message for what is around the records.
const ENVELOPE: usize = 4096;

/// To whom packets are attributed, and the time that it took.
pub(super) type Attributed = oneshot::Sender<(Records, Duration)>;

/// What is said of packets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// Those that were denied.
    pub(super) denied: Vec<DroppedPacket>,
    /// Those that would fare otherwise with the staged policies in force.
    pub(super) staged: Vec<DroppedPacket>,
}

/// The recent past.
#[derive(Debug)]
pub(super) struct Drops {
    start: u64,
    denied: Ring,
    staged: Ring,
    monitor: DeniedMonitor,
}

#[derive(Debug)]
struct Ring {
    recent: Mutex<Recent>,
    /// How many records there were.
    told: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Recent {
    records: VecDeque<Arc<DroppedPacket>>,
    /// How many there were.
    number: u64,
}

impl Drops {
    pub(super) fn new(monitor: DeniedMonitor) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            // Tells one start from another, no more.
            start: u64::try_from(since.as_micros()).unwrap_or(0),
            denied: Ring::new(),
            staged: Ring::new(),
            monitor,
        }
    }
}

impl Ring {
    fn new() -> Self {
        Self { recent: Mutex::default(), told: watch::Sender::new(0) }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, records: impl IntoIterator<Item = DroppedPacket>) {
        let number = {
            let mut recent = self.recent();
            for record in records {
                if recent.records.len() == KEPT {
                    recent.records.pop_front();
                }
                recent.records.push_back(Arc::new(record));
                recent.number += 1;
            }
            recent.number
        };
        self.told.send_replace(number);
    }
}

impl Drops {
    fn ring(&self, question: &DropsQuestion) -> &Ring {
        if question.staged { &self.staged } else { &self.denied }
    }

    /// Packets that found no room, since the agent started.
    pub(super) fn lost(&self) -> u64 {
        self.monitor.status().lost
    }

    /// Answers `felix drops`. With a place to go on from, waits up to 0.8 s for something to tell.
    pub(super) async fn answer(&self, node: &str, question: &DropsQuestion) -> DropsReport {
        let until = tokio::time::Instant::now() + WAIT;
        let mut told = self.ring(question).told.subscribe();
        loop {
            told.borrow_and_update();
            let report = self.report(node, question);
            if !report.packets.is_empty() || report.forgotten > 0 || question.after.is_none() {
                return report;
            }
            match tokio::time::timeout_at(until, told.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return report,
            }
        }
    }

    fn report(&self, node: &str, question: &DropsQuestion) -> DropsReport {
        let status = self.monitor.status();
        let recent = self.ring(question).recent();
        let first = recent.number - recent.records.len() as u64;
        // A place of another start of the agent says nothing of this one.
        let after = question.after.filter(|place| place.start == self.start);
        let from = after.map_or(first, |place| place.number.clamp(first, recent.number));
        let forgotten = after.map_or(0, |place| first.saturating_sub(place.number));
        let skip = usize::try_from(from - first).unwrap_or(usize::MAX);
        let pod = question.pod.as_deref().map(|pod| match pod.split_once('/') {
            Some(_) => pod.to_owned(),
            None => format!("default/{pod}"),
        });
        let (mut packets, mut next) = (Vec::new(), from);
        let mut room = MAX_MESSAGE - ENVELOPE;
        for record in recent.records.iter().skip(skip) {
            if pod.as_deref().is_none_or(|pod| record.is_of(pod)) {
                // With the comma behind it. What does not serialise would not be sent either.
                let size = serde_json::to_vec(&**record).map_or(usize::MAX, |json| json.len() + 1);
                if size > room {
                    break;
                }
                room -= size;
                packets.push(DroppedPacket::clone(record));
            }
            next += 1;
        }
        DropsReport {
            node: node.to_owned(),
            packets,
            next: Place { start: self.start, number: next },
            forgotten,
            lost: status.lost,
            problem: status.problem,
        }
    }
}

/// Attributes packets as they come, until `stop` or until nobody can be asked any more.
pub(super) async fn run(
    mut denied: Denied,
    drops: Arc<Drops>,
    brain: mpsc::WeakSender<Command>,
    metrics: DeniedMetrics,
    mut file: Option<RecordFile>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut counts = Counts { metrics, known: HashSet::new() };
    loop {
        let mut packets = Vec::with_capacity(BATCH);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            n = denied.recv_many(&mut packets, BATCH) => {
                anyhow::ensure!(n > 0, "the listener to denied packets has ended");
            }
        }
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let brain = brain.upgrade()?;
            brain.send(Command::Denied { packets, reply }).await.ok()?;
            answer.await.ok()
        };
        let answer = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            answer = asked => answer,
        };
        // The agent ends.
        let Some((records, took)) = answer else { return Ok(()) };
        let Records { denied: records, staged } = records;
        for record in &records {
            let labels = labels(record.denied.as_ref());
            counts.count(labels, |metrics| &metrics.packets);
        }
        for record in &staged {
            counts.count(staged_labels(record), |metrics| &metrics.staged);
        }
        if let Some(mut open) = file.take() {
            // Those that were let through are told of here alone.
            let allowed = staged.iter().filter(|record| record.denied.is_none());
            let lines: Vec<_> = records.iter().chain(allowed).cloned().collect();
            let written = move || {
                open.append(&lines);
                open
            };
            file = Some(tokio::task::spawn_blocking(written).await?);
        }
        if !records.is_empty() {
            drops.denied.add(records);
        }
        if !staged.is_empty() {
            drops.staged.add(staged);
        }
        let rest = took.saturating_mul(SHARE - 1).min(LONGEST_REST);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// The metric, with a bound on what it can grow to.
struct Counts {
    metrics: DeniedMetrics,
    known: HashSet<DeniedLabels>,
}

impl Counts {
    fn count(
        &mut self,
        mut labels: DeniedLabels,
        of: impl Fn(&DeniedMetrics) -> &Family<DeniedLabels, Counter>,
    ) {
        if !self.known.contains(&labels) {
            if self.known.len() < LABELS {
                self.known.insert(labels.clone());
            } else {
                labels = DeniedLabels { tier: String::new(), policy: "others".into(), ..labels };
            }
        }
        of(&self.metrics).get_or_create(&labels).inc();
    }
}

fn labels(denial: Option<&Denial>) -> DeniedLabels {
    let Some(denial) = denial else {
        return DeniedLabels { direction: "", tier: String::new(), policy: "unknown".into() };
    };
    DeniedLabels {
        direction: match denial.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        },
        tier: denial.tier.clone().unwrap_or_default(),
        policy: denial.policy.clone().unwrap_or_else(|| "default action".into()),
    }
}

fn staged_labels(record: &DroppedPacket) -> DeniedLabels {
    match &record.staged {
        Some(Would::Deny(denial)) => labels(Some(denial)),
        // Of the policy that denies it now.
        _ => DeniedLabels { policy: "allow".into(), ..labels(record.denied.as_ref()) },
    }
}

/// The records of packets, from what is in force, and from what would be.
pub(super) fn attribute(
    packets: &[DeniedPacket],
    engine: &Engine,
    staged: &Staged,
    peering: &Peering,
) -> Records {
    let addresses: BTreeSet<_> =
        packets.iter().flat_map(|packet| [packet.flow.source, packet.flow.destination]).collect();
    let pods = engine.names(&addresses);
    let end = |address, port| {
        let node = || peering.node_at(address).map(|node| format!("node/{}", node.name));
        let name = pods.get(&address).map(ToString::to_string).or_else(node);
        PacketEnd { name, address, port }
    };
    let mut records = Records::default();
    for packet in packets {
        let DeniedPacket { flow, fate, hook, input, output, time } = *packet;
        let established = fate == Fate::Cut;
        // An answer in a flow: policy is asked of its first packet, which went the other way.
        let back = reversed(&flow);
        let ways = [(&flow, input, output), (&back, output, input)];
        let ways = if established { &ways[..] } else { &ways[..1] };
        // What the node forwards passes its host endpoints first.
        let by_host = || engine.host_denial(&flow, host_hooks(hook), input, output);
        let denied = if fate == Fate::Denied { by_host() } else { None };
        let denied = denied
            .or_else(|| ways.iter().find_map(|(flow, from, to)| engine.denial(flow, *from, *to)));
        let would = ways.iter().find_map(|(flow, from, to)| staged.denial(flow, *from, *to));
        let has_ports = matches!(flow.protocol, 6 | 17 | 132);
        let port = |port: u16| has_ports.then_some(port);
        let icmp = matches!(flow.protocol, 1 | 58).then(|| flow.destination_port.to_be_bytes());
        let record = DroppedPacket {
            time: time.into(),
            protocol: DroppedPacket::protocol_name(flow.protocol),
            source: end(flow.source, port(flow.source_port)),
            destination: end(flow.destination, port(flow.destination_port)),
            icmp_type: icmp.map(|[kind, _]| kind),
            icmp_code: icmp.map(|[_, code]| code),
            established,
            denied,
            staged: None,
        };
        let told = fate != Fate::Allowed;
        let would = match (&record.denied, would) {
            // Where policy has changed since, nothing is said of what would have been.
            (None, Some(denial)) if !told => Some(Would::Deny(denial)),
            (Some(_), None) if told && staged.engine().is_some() => Some(Would::Allow),
            _ => None,
        };
        if would.is_some() {
            records.staged.push(DroppedPacket { staged: would, ..record.clone() });
        }
        if told {
            records.denied.push(record);
        }
    }
    records
}

/// Where host endpoints judge a packet that was met there, in this order.
fn host_hooks(hook: Option<Hook>) -> &'static [HostHook] {
    match hook {
        Some(Hook::Prerouting) => &[HostHook::UntrackedIn, HostHook::PreDnat],
        Some(Hook::Input) => &[HostHook::Input],
        Some(Hook::Forward) => &[HostHook::ForwardIn, HostHook::ForwardOut],
        Some(Hook::Output) => &[HostHook::UntrackedOut],
        Some(Hook::Postrouting) => &[HostHook::Output],
        None => &[],
    }
}

fn reversed(flow: &Flow) -> Flow {
    let (source_port, destination_port) = match flow.protocol {
        // Type and code stand in the destination port's place.
        1 | 58 => (flow.source_port, flow.destination_port),
        _ => (flow.destination_port, flow.source_port),
    };
    let (source, destination) = (flow.destination, flow.source);
    Flow { source, destination, source_port, destination_port, ..*flow }
}

/// What the brain does with the packets it is asked about.
pub(super) fn answer(
    packets: &[DeniedPacket],
    (engine, staged): (&Engine, &Staged),
    peering: &Peering,
    reply: Attributed,
) {
    let began = Instant::now();
    let records = attribute(packets, engine, staged, peering);
    // Nobody waits while the agent ends.
    drop(reply.send((records, began.elapsed())));
}

#[cfg(test)]
mod tests;
