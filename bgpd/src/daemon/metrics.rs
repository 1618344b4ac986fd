//! `/metrics` for Prometheus. The figures are read off the speaker when they are asked for, into a
//! registry that is new each time: a neighbor that is gone has none.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bgpd::{NeighborStatus, SpeakerHandle, SpeakerStatus, State, accept};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// Connections answered at the same time; others wait to be accepted.
const CONNECTIONS: usize = 8;
/// The longest request, in octets.
const REQUEST_MAX: usize = 8 * 1024;
/// How long a request, and the taking in of its answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(address: SocketAddr, speaker: SpeakerHandle) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let task = tokio::spawn(serve(listener, speaker)).abort_handle();
        Ok(Self { address, task })
    }
}

async fn serve(listener: TcpListener, speaker: SpeakerHandle) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, _) = accept("metrics", || listener.accept()).await;
        let speaker = speaker.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, answer(stream, &speaker)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "metrics connection"),
                Err(_) => tracing::debug!("metrics connection too slow"),
            }
            drop(place);
        });
    }
}

/// HTTP/1.0: one request, one answer, and the end of the connection is the end of the answer.
async fn answer(mut stream: TcpStream, speaker: &SpeakerHandle) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 1024];
        let n = stream.read(&mut part).await?;
        if n == 0 || request.len() + n > REQUEST_MAX {
            return Ok(());
        }
        request.extend_from_slice(&part[..n]);
    }
    let line = String::from_utf8_lossy(&request);
    let mut words = line.split_ascii_whitespace();
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => match scrape(speaker).await {
            Ok(text) => ("200 OK", text),
            Err(error) => ("503 Service Unavailable", error),
        },
        (Some("GET"), Some(_)) => ("404 Not Found", "only /metrics is here\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET is answered\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.0 {status}\r\n\
         Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

async fn scrape(speaker: &SpeakerHandle) -> Result<String, String> {
    let status = speaker.status().await.map_err(|error| error.to_string())?;
    let neighbors = speaker.neighbors().await.map_err(|error| error.to_string())?;
    let mut registry = Registry::with_prefix("bgp");
    register_speaker(&mut registry, &status);
    register_neighbors(&mut registry, &neighbors);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|error| error.to_string())?;
    Ok(text)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: usize) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let counter: Counter = Counter::default();
    counter.inc_by(value);
    registry.register(name, help, counter);
}

fn register_speaker(registry: &mut Registry, status: &SpeakerStatus) {
    let prefixes = Family::<[(&str, &str); 1], Gauge>::default();
    for (family, count) in ["ipv4-unicast", "ipv6-unicast"].into_iter().zip(status.prefixes) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        prefixes.get_or_create(&[("family", family)]).set(count);
    }
    registry.register("rib_prefixes", "Prefixes known", prefixes);
    gauge(registry, "attribute_sets", "Distinct attribute sets stored", status.attribute_sets);
    gauge(registry, "update_groups", "Sets of peers that share an encoding", status.update_groups);
    let help = "Forwarding changes not taken yet by the consumer that is furthest behind";
    gauge(registry, "fib_pending", help, status.fib_pending);
    let help = "Batches of forwarding changes taken and not acknowledged";
    gauge(registry, "fib_unacknowledged", help, status.fib_unacknowledged);
    let help = "Whether the time after start, in which peers are waited for, is over";
    gauge(registry, "converged", help, usize::from(status.progress.converged));
    let work = status.work;
    counter(registry, "rounds", "Times that the speaker looked what there was to do", work.rounds);
    let help = "Decisions that gave a prefix another best path";
    counter(registry, "best_path_changes", help, work.best_changes);
    let help = "Decisions that gave a prefix other next hops";
    counter(registry, "forwarding_changes", help, work.fib_changes);
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Peer {
    peer: String,
    name: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PeerFamily {
    peer: String,
    name: String,
    family: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PeerMessages {
    peer: String,
    name: String,
    direction: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PeerErrors {
    peer: String,
    name: String,
    treatment: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PeerState {
    peer: String,
    name: String,
    state: String,
}

/// As the other answers of the daemon spell it.
const fn state_name(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Connect => "connect",
        State::Active => "active",
        State::OpenSent => "open-sent",
        State::OpenConfirm => "open-confirm",
        State::Established => "established",
    }
}

const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

fn register_neighbors(registry: &mut Registry, neighbors: &[NeighborStatus]) {
    let peers = |value: fn(&NeighborStatus) -> u64| {
        let family = Family::<Peer, Gauge>::default();
        for n in neighbors {
            let labels = Peer { peer: n.address.to_string(), name: n.name.clone() };
            family.get_or_create(&labels).set(i64::try_from(value(n)).unwrap_or(i64::MAX));
        }
        family
    };
    let up = peers(|n| u64::from(n.state == State::Established));
    registry.register("peer_up", "Whether the session is Established", up);
    let since = peers(|n| n.since.as_secs());
    let help = "Time since the state last changed";
    registry.register_with_unit("peer_state_age", help, Unit::Seconds, since);
    let queue = peers(|n| n.queued_octets as u64);
    let help = "What is queued for the peer and not sent yet";
    registry.register_with_unit("peer_queue", help, Unit::Bytes, queue);

    let states = Family::<PeerState, Gauge>::default();
    let ups = Family::<Peer, Counter>::default();
    let drops = Family::<Peer, Counter>::default();
    let messages = Family::<PeerMessages, Counter>::default();
    let errors = Family::<PeerErrors, Counter>::default();
    let [received, accepted, advertised] = [(); 3].map(|()| Family::<PeerFamily, Gauge>::default());
    for n in neighbors {
        let (peer, name) = (n.address.to_string(), n.name.clone());
        for state in STATES {
            let on = i64::from(state == n.state);
            let state = state_name(state).to_owned();
            let labels = PeerState { peer: peer.clone(), name: name.clone(), state };
            states.get_or_create(&labels).set(on);
        }
        let c = &n.counters;
        let labels = Peer { peer: peer.clone(), name: name.clone() };
        ups.get_or_create(&labels).inc_by(c.established);
        drops.get_or_create(&labels).inc_by(c.dropped);
        for (r#type, came, went) in [
            ("open", c.opens_received, c.opens_sent),
            ("update", c.updates_received, c.updates_sent),
            ("notification", c.notifications_received, c.notifications_sent),
            ("keepalive", c.keepalives_received, c.keepalives_sent),
            ("route-refresh", c.route_refreshes_received, c.route_refreshes_sent),
        ] {
            for (direction, count) in [("received", came), ("sent", went)] {
                let (peer, name) = (peer.clone(), name.clone());
                let labels = PeerMessages { peer, name, direction, r#type };
                messages.get_or_create(&labels).inc_by(count);
            }
        }
        for (treatment, count) in [
            ("attribute-discard", c.attributes_discarded),
            ("treat-as-withdraw", c.treated_as_withdraw),
            ("family-disable", c.families_disabled),
            ("session-reset", c.malformed_resets),
        ] {
            let labels = PeerErrors { peer: peer.clone(), name: name.clone(), treatment };
            errors.get_or_create(&labels).inc_by(count);
        }
        for f in &n.families {
            let family = f.family.to_string();
            let labels = PeerFamily { peer: peer.clone(), name: name.clone(), family };
            for (gauge, count) in
                [(&received, f.received), (&accepted, f.accepted), (&advertised, f.advertised)]
            {
                gauge.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }
    registry.register("peer_state", "1 for the state that the session is in", states);
    registry.register("session_ups", "Times the session came up", ups);
    registry.register("session_drops", "Times an established session ended", drops);
    registry.register("messages", "Messages by type", messages);
    let help = "Malformed UPDATEs by how they were treated (RFC 7606)";
    registry.register("update_errors", help, errors);
    registry.register("peer_prefixes_received", "Paths received from the peer", received);
    registry.register("peer_prefixes_accepted", "Paths of the peer that may be used", accepted);
    registry.register("peer_prefixes_advertised", "Prefixes told to the peer", advertised);
}
