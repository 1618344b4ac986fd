//! What policy denies, as far as the kernel's limit lets it be told: a thread with a socket of its own
//! listens to the group that the chains of denial log to.
//!
//! Nothing waits for whoever takes the packets: what finds the queue full, or the socket's buffer, is
//! counted and gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use netlink::conntrack::Layer4;
use netlink::nflog::{self, Delivery, Packet};
use netlink::nft::Hook;
use netlink::poll::{self, Waker};
use netlink::{Protocol, Socket, headers};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::layout::deny::{ALLOWED, DENIED_CUT, DENIED_GROUP};
use super::{Error, worker};
use crate::model::{Flow, IfIndex};

/// The longest IP header with the options and extension headers that are seen, and ports.
const DELIVERY: Delivery = Delivery { bytes: 160, packets: 32, within: Duration::from_millis(100) };

/// When the group cannot be listened to (another program does), it is tried again after this.
const RETRY: Duration = Duration::from_secs(2);

/// A packet that policy denied, or, while that is asked for, one that it let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedPacket {
    /// As policy sees it; of one of an established flow, which may be an answer, as it went.
    pub flow: Flow,
    /// What became of it.
    pub fate: Fate,
    /// Where it was judged, if the kernel says so.
    pub hook: Option<Hook>,
    /// The interface that it came in by; None if the node made it.
    pub input: Option<IfIndex>,
    /// The interface that it would have gone out by; None if it was for the node.
    pub output: Option<IfIndex>,
    /// When.
    pub time: SystemTime,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It would have begun a flow, and was denied.
    Denied,
    /// It is of a flow that was allowed before and is cut now.
    Cut,
    /// It begins a flow and was let through.
    Allowed,
}

/// What the listener has to say of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeniedStatus {
    /// Packets that were told but found no room, at least.
    pub lost: u64,
    /// Why nothing is heard now; None if all is well.
    pub problem: Option<String>,
}

/// Tells how the listener is, wherever the packets go.
#[derive(Clone, Debug, Default)]
pub struct DeniedMonitor(Arc<Shared>);

impl DeniedMonitor {
    /// How the listener is now.
    pub fn status(&self) -> DeniedStatus {
        let problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        DeniedStatus { lost: self.0.lost.load(Ordering::Relaxed), problem }
    }
}

#[derive(Debug, Default)]
struct Shared {
    lost: AtomicU64,
    problem: Mutex<Option<String>>,
}

/// Denied packets as they come. The thread behind it ends when this is dropped.
#[derive(Debug)]
pub struct Denied {
    packets: mpsc::Receiver<DeniedPacket>,
    shared: Arc<Shared>,
    waker: Waker,
}

impl Denied {
    /// Starts to listen in the calling thread's network namespace. Up to `queue` packets wait to be
    /// taken.
    ///
    /// # Errors
    /// [`Error::Kernel`]: there are no more threads or file descriptors. That the group cannot be
    /// listened to is no error, see [`DeniedStatus::problem`].
    pub fn listen(queue: usize) -> Result<Self, Error> {
        let waker = Waker::new()
            .map_err(|error| Error::Kernel(format!("making an event descriptor: {error}")))?;
        let (sender, packets) = mpsc::channel(queue);
        let shared = Arc::new(Shared::default());
        let (theirs, woken) = (Arc::clone(&shared), waker.clone());
        worker::spawn("denied", move || run(&sender, &theirs, &woken))?;
        Ok(Self { packets, shared, waker })
    }

    /// One that hears what a test says.
    #[cfg(test)]
    pub(crate) fn by_hand(queue: usize) -> (mpsc::Sender<DeniedPacket>, Self, DeniedMonitor) {
        let (sender, packets) = mpsc::channel(queue);
        let shared = Arc::new(Shared::default());
        let monitor = DeniedMonitor(Arc::clone(&shared));
        // A process that tests has a descriptor left.
        #[allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
        let waker = Waker::new().unwrap();
        (sender, Self { packets, shared, waker }, monitor)
    }

    /// Waits for packets and takes all that are there, at most `limit`, into `packets`. 0: the thread
    /// has ended. Cancel safe.
    pub async fn recv_many(&mut self, packets: &mut Vec<DeniedPacket>, limit: usize) -> usize {
        self.packets.recv_many(packets, limit).await
    }

    /// How the listener is.
    pub fn monitor(&self) -> DeniedMonitor {
        DeniedMonitor(Arc::clone(&self.shared))
    }
}

impl Drop for Denied {
    fn drop(&mut self) {
        self.packets.close();
        self.waker.wake();
    }
}

fn run(packets: &mpsc::Sender<DeniedPacket>, shared: &Shared, waker: &Waker) {
    use std::os::fd::AsFd;
    let tell = |problem: Option<String>| {
        let mut told = shared.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != problem {
            if let Some(problem) = &problem {
                tracing::warn!(problem, "denied packets are not heard of");
            }
            *told = problem;
        }
    };
    while !packets.is_closed() {
        let mut socket = match open() {
            Ok(socket) => socket,
            Err(error) => {
                tell(Some(format!("group {DENIED_GROUP} of nfnetlink_log: {error}")));
                let _ = poll::wait([waker.as_fd()], Some(RETRY));
                continue;
            }
        };
        tell(None);
        let mut expected = None;
        let error = loop {
            if let Err(error) = poll::wait([waker.as_fd(), socket.as_fd()], None) {
                break error.to_string();
            }
            if packets.is_closed() {
                return;
            }
            if let Err(error) = take(&mut socket, packets, shared, &mut expected) {
                break error.to_string();
            }
        };
        tell(Some(error));
        let _ = poll::wait([waker.as_fd()], Some(RETRY));
    }
}

fn open() -> netlink::Result<Socket> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    nflog::listen(&mut socket, DENIED_GROUP, DELIVERY)?;
    Ok(socket)
}

/// Takes all that waits in the socket.
fn take(
    socket: &mut Socket,
    packets: &mpsc::Sender<DeniedPacket>,
    shared: &Shared,
    expected: &mut Option<u32>,
) -> netlink::Result<()> {
    loop {
        let messages = match socket.receive() {
            Ok(Some(messages)) => messages,
            Ok(None) => return Ok(()),
            // The numbers tell how many.
            Err(netlink::Error::Overrun) => continue,
            Err(error) => return Err(error),
        };
        for message in messages {
            let Some(packet) = nflog::packet(&message, DENIED_GROUP) else { continue };
            if let Some(number) = packet.number {
                let missing = expected.map_or(0, |expected| number.wrapping_sub(expected));
                shared.lost.fetch_add(u64::from(missing), Ordering::Relaxed);
                *expected = Some(number.wrapping_add(1));
            }
            let Some(denied) = denied(&packet) else { continue };
            match packets.try_send(denied) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    shared.lost.fetch_add(1, Ordering::Relaxed);
                }
                Err(TrySendError::Closed(_)) => return Ok(()),
            }
        }
    }
}

/// None: it is not an IP packet that policy could have been asked of.
fn denied(packet: &Packet<'_>) -> Option<DeniedPacket> {
    let tuple = headers::tuple(packet.payload)?;
    let (source_port, destination_port) = match tuple.layer4 {
        Layer4::Ports { source, destination } => (source, destination),
        Layer4::Icmp { kind, code, .. } => (0, u16::from_be_bytes([kind, code])),
        Layer4::None => (0, 0),
    };
    Some(DeniedPacket {
        flow: Flow {
            protocol: tuple.protocol,
            source: tuple.source,
            destination: tuple.destination,
            source_port,
            destination_port,
        },
        fate: match packet.prefix.as_str() {
            DENIED_CUT => Fate::Cut,
            ALLOWED => Fate::Allowed,
            _ => Fate::Denied,
        },
        hook: packet.hook,
        input: packet.input,
        output: packet.output,
        time: packet.time.unwrap_or_else(SystemTime::now),
    })
}

#[cfg(test)]
mod tests;
