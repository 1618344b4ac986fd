//! Runs a core over TCP, on a thread of its own.
//!
//! ```text
//!   listener 1 per address ──Accepted──┐  bounded
//!   connector 1 per attempt ─Connected─┤  channel   ┌──────┐  writes at once, and only what
//!   SpeakerHandle ──────────Request────┼───────────▶│ core │─▶ the socket takes; the rest waits
//!   sockets that can be read ──────────┘   reads    └──────┘  in the core's queues
//! ```
//!
//! All of it is one thread. Sockets are read by the driver itself, a piece at a time in the order in
//! which they became ready; what has not been read waits in the kernel, and TCP slows the peer down.

mod connections;
mod readiness;
mod requests;
mod sockets;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::connections::{Connection, Farewell};
use self::readiness::Ready;
pub(super) use self::requests::answer;
use self::sockets::Listener;
use super::record::{Journal, Recorded, Recording};
use super::station::{Station, StationEvent};
use super::updates::Writer;
use super::watch::BfdLink;
use super::{ConnId, Core, Output, Request, Shutdown, Time};
use crate::config::{Config, ConfigError};
use crate::transport::discovery::{Discovery, Found};
use crate::transport::keys::Keys;
use crate::transport::tcp;
use crate::wire::{Notification, cease};

/// Events taken in before routes are decided.
const EVENTS: usize = 64;
/// Octets of routes taken in before they are decided: as many as what is touched for them stays
/// near to the processor.
const TURN: usize = 256 * 1024;
/// Octets read from a connection at a time.
const READ: usize = 64 * 1024;
/// Events that wait to be taken in.
const WAITING: usize = 16;
/// Connections from one address that wait at once for their last word to be read. Only somebody
/// who connects again and again has more, and is not waited for that long.
const FAREWELLS: usize = 64;
/// How long the thread stays awake after a route has changed, as routes seldom come alone: about what
/// it costs to go to sleep and to be woken again, so that at most as much is lost as can be gained.
const AWAKE: Duration = Duration::from_micros(20);
/// When records that could not be handed over are offered again.
const HAND_OVER: Duration = Duration::from_millis(10);

enum Event {
    Accepted(TcpStream, SocketAddr),
    Connected(ConnId, io::Result<TcpStream>),
    Found(Found),
    Station(SocketAddr, StationEvent),
}

/// Runs a speaker until it is shut down. Says through `started` when it listens.
pub(super) fn run(
    config: Config,
    recording: Option<Recording>,
    requests: mpsc::Receiver<Request>,
    started: oneshot::Sender<Result<(), ConfigError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime for the speaker");
            return;
        }
    };
    runtime.block_on(async {
        let (events, receiver) = mpsc::channel(WAITING);
        let mut listeners = HashMap::new();
        for address in &config.listen {
            match Listener::start(*address, &events) {
                Ok(listener) => listeners.insert(*address, listener),
                Err(error) => {
                    let _gone = started.send(Err(error));
                    return;
                }
            };
        }
        let journal = match recording.as_ref().map(Journal::create).transpose() {
            Ok(journal) => journal,
            Err(source) => {
                let path = recording.map(|recording| recording.path).unwrap_or_default();
                let _gone = started.send(Err(ConfigError::Recording { path, source }));
                return;
            }
        };
        let _gone = started.send(Ok(()));
        let epoch = Instant::now();
        let core = Recorded::new(config, Time::ZERO, since_1970(), seed(), journal);
        let mut driver = Driver {
            core,
            epoch,
            events,
            listeners,
            keys: Keys::default(),
            connections: HashMap::new(),
            ready: Ready::default(),
            buffer: vec![0; READ].into(),
            farewells: JoinSet::new(),
            waiting: HashMap::new(),
            bfd: BfdLink::new(seed()),
            discovery: None,
            mrt: None,
            stations: HashMap::new(),
            unrecorded: false,
        };
        driver.set_observers();
        driver.set_keys();
        driver.set_discovery();
        driver.run(requests, receiver).await;
    });
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Where timers are jittered from.
fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

struct Driver {
    core: Recorded,
    epoch: Instant,
    events: mpsc::Sender<Event>,
    listeners: HashMap<SocketAddr, Listener>,
    /// Those that the listeners have.
    keys: Keys,
    connections: HashMap<ConnId, Connection>,
    /// Those for which there is something to do.
    ready: Ready,
    /// What is read is read to here.
    buffer: Box<[u8]>,
    farewells: JoinSet<()>,
    /// The same by the address of the peer, oldest first.
    waiting: HashMap<IpAddr, Vec<Farewell>>,
    bfd: BfdLink,
    /// Only where a neighbor is named by its interface.
    discovery: Option<Discovery>,
    /// Writes down what happens.
    mrt: Option<Writer>,
    /// Monitoring stations.
    stations: HashMap<SocketAddr, Station>,
    /// Records wait here for the thread that writes them.
    unrecorded: bool,
}

impl Driver {
    fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        mut events: mpsc::Receiver<Event>,
    ) {
        let mut more = self.turn();
        let (mut changes, mut awake) = (self.core.changes(), Time::ZERO);
        loop {
            let mut taken = 0;
            let stay = more || self.now() < awake;
            let soon = self.unrecorded.then(|| Instant::now() + HAND_OVER);
            let deadline = self.core.next_deadline().map(|at| self.epoch + at);
            let deadline = deadline.into_iter().chain(soon).min();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => if let Some((how, reply)) = self.request(request) {
                        self.shutdown(&how).await;
                        let _gone = reply.send(());
                        return;
                    },
                    None => return self.shutdown(&Shutdown::ForRestart).await,
                },
                conn = self.ready.next() => taken += self.serve(conn),
                Some(event) = events.recv() => self.event(event),
                event = self.bfd.event() => {
                    self.core.bfd(self.epoch.elapsed(), &event.key, &event.status);
                }
                () = sleep_until(deadline) => {}
                () = tokio::task::yield_now(), if stay => if !more {
                    continue;
                },
                Some(_done) = self.farewells.join_next() => {
                    self.waiting.retain(|_, those| those.iter().any(|it| !it.is_over()));
                }
            }
            for _ in 0..EVENTS {
                let Ok(event) = events.try_recv() else { break };
                self.event(event);
            }
            // All of it, and first: it is what the others wait for when paths fail.
            while let Some(event) = self.bfd.next_event() {
                self.core.bfd(self.epoch.elapsed(), &event.key, &event.status);
            }
            for _ in 0..EVENTS {
                if taken >= TURN {
                    break;
                }
                let Some(conn) = self.ready.pop() else { break };
                taken += self.serve(conn);
            }
            more = self.turn();
            let before = std::mem::replace(&mut changes, self.core.changes());
            if changes != before {
                awake = self.now() + AWAKE;
            }
            if taken >= READ {
                // Who sends much shall not keep the kernel from being asked about the others.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Lets timers expire, decides, and carries out what follows.
    fn turn(&mut self) -> bool {
        let now = self.now();
        let connections = &self.connections;
        let behind = RefCell::new(Vec::new());
        self.core.tick(now, |conn| {
            let stream = connections.get(&conn).and_then(Connection::stream);
            let unread = stream.is_some_and(|s| tcp::has_unread(s));
            behind.borrow_mut().extend(unread.then_some(conn));
            unread
        });
        for conn in behind.into_inner() {
            self.read(conn);
        }
        let more = self.core.work(now);
        if let Some(sessions) = self.core.take_bfd_sessions() {
            self.bfd.set(sessions);
        }
        for output in self.core.take_outputs() {
            match output {
                Output::Connect { conn, peer, external } => self.connect(conn, peer, external),
                Output::Write(conn) => self.write(conn),
                Output::Close { conn, last } => self.close(conn, last),
            }
        }
        if let Some(writer) = &self.mrt {
            writer.take(&mut self.core);
        }
        let more = self.feed_stations() || more;
        self.unrecorded = self.core.hand_over();
        more
    }

    fn station(&mut self, address: SocketAddr, event: StationEvent) {
        let Some(station) = self.stations.get_mut(&address) else { return };
        match event {
            StationEvent::Up(batches) => {
                station.batches = Some(batches);
                let now = self.epoch.elapsed();
                self.core.station_up(address, since_1970().saturating_sub(now));
            }
            StationEvent::Down => {
                station.batches = None;
                self.core.station_down(address);
            }
            StationEvent::Statistics => {
                let now = self.epoch.elapsed();
                self.core.station_statistics(now, address);
            }
            StationEvent::Room => {}
        }
    }

    /// Gives each station that has room one batch; returns whether there is more to do.
    fn feed_stations(&mut self) -> bool {
        let mut more = false;
        for (address, station) in &mut self.stations {
            let Some(batches) = &station.batches else { continue };
            if batches.capacity() == 0 {
                continue;
            }
            match self.core.station_batch(*address) {
                Ok(Some(batch)) if batch.is_empty() => more = true,
                Ok(Some(batch)) => {
                    // There is room, and nobody else sends; a station that is gone says so itself.
                    more |= batches.try_send(batch).is_ok();
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%address, error, "BMP station is told everything anew");
                    let config = station.config.clone();
                    *station = Station::start(config, self.events.clone(), Event::Station);
                    self.core.station_down(*address);
                }
            }
        }
        more
    }

    /// Connects to the stations of the configuration, and to no others.
    fn set_stations(&mut self) {
        let wanted = self.core.config.bmp.clone();
        let Self { stations, core, .. } = self;
        stations.retain(|address, station| {
            let stays = wanted.contains(&station.config);
            if !stays {
                core.station_down(*address);
            }
            stays
        });
        for config in wanted {
            let address = config.address();
            self.stations
                .entry(address)
                .or_insert_with(|| Station::start(config, self.events.clone(), Event::Station));
        }
    }

    /// Starts or ends to write down what happens, as the configuration says.
    fn set_observers(&mut self) {
        self.set_stations();
        let wanted = self.core.config.mrt.clone();
        if self.mrt.as_ref().map(|w| &w.config) == wanted.as_ref() {
            return;
        }
        self.core.observe(None);
        self.mrt = wanted.and_then(|mrt| {
            let path = mrt.updates.clone();
            Writer::start(mrt)
                .inspect_err(|error| tracing::error!(path = %path.display(), %error, "no MRT file"))
                .ok()
        });
        if self.mrt.is_some() {
            self.core.observe(Some(since_1970().saturating_sub(self.now())));
        }
    }

    fn event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Accepted(stream, remote) => self.accepted(stream, remote),
            Event::Connected(conn, Ok(stream)) => {
                let ends = stream.local_addr().and_then(|l| Ok((l, stream.peer_addr()?)));
                match ends {
                    Ok((local, remote)) => {
                        self.attach(conn, stream);
                        if !self.core.connected(now, conn, local, remote) {
                            self.connections.remove(&conn);
                        }
                    }
                    Err(error) => self.core.connect_failed(now, conn, &error.to_string()),
                }
            }
            Event::Connected(conn, Err(error)) => {
                self.core.connect_failed(now, conn, &error.to_string());
            }
            Event::Found(found) => {
                self.core.found(now, &found);
                // Keys go by address.
                self.set_keys();
            }
            Event::Station(address, event) => self.station(address, event),
        }
    }

    /// Looks after the interfaces that neighbors are named by.
    fn set_discovery(&mut self) {
        let interfaces = self.core.interfaces();
        let interval = self.core.advertisement_interval();
        if interfaces.is_empty() {
            self.discovery = None;
        } else if !self.discovery.as_ref().is_some_and(|d| d.is(&interfaces, interval)) {
            let events = self.events.clone();
            self.discovery = Some(Discovery::start(interfaces, interval, events, Event::Found));
        }
    }

    /// Gives the listeners the keys of all peers that have one, and takes back the others.
    fn set_keys(&mut self) {
        let listeners = self.listeners.iter().map(|(address, it)| (*address, &*it.socket));
        self.keys.set(listeners, self.core.keys());
        let now = self.now();
        for (net, why) in self.keys.failures() {
            self.core.lacks_key(now, net, why);
        }
    }

    async fn shutdown(&mut self, how: &Shutdown) {
        for (_, listener) in self.listeners.drain() {
            listener.stop().await;
        }
        if let Shutdown::Administrative(text) = how {
            let reason = "the speaker is shut down";
            let n = Notification::communication(cease::ADMIN_SHUTDOWN, text, reason);
            self.core.stop_all(self.now(), Some(&n));
        } else {
            self.core.stop_all(self.now(), None);
        }
        for output in self.core.take_outputs() {
            if let Output::Close { conn, last } = output {
                self.close(conn, last);
            }
        }
        while self.farewells.join_next().await.is_some() {}
        // Last, so that a peer does not take it for the reason. For a restart BFD goes without a
        // word: by then the peer knows of the restart from the end of the connection, which a word
        // could be taken to be against (RFC 5882 section 4.3.2.2).
        self.bfd.stop(matches!(how, Shutdown::Administrative(_)));
        for (address, station) in self.stations.drain() {
            // The end of the sessions first, and what else there still is to say.
            let mut last = self.core.station_batch(address).ok().flatten().unwrap_or_default();
            last.extend(Core::station_farewell());
            station.finish(last).await;
        }
        if let Some(writer) = self.mrt.take() {
            writer.take(&mut self.core);
            writer.finish().await;
        }
        self.core.finish();
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
