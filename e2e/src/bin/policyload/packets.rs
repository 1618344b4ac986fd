//! Packets from one pod to another through a node that judges both ends, and what they cost.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::world::World;
use super::{Figures, Node, Times};

/// The port that policy allows between the two.
pub(crate) const ALLOWED: u16 = 9000;
/// UDP, with its header: packets of 64 bytes on the wire.
const LENGTH: usize = 30;
/// Source ports from here on.
const FIRST: u16 = 2000;
/// In a run, each packet with a source port of its own.
const PACKETS: u16 = 50_000;
/// To begin with, and not timed: whatever is allocated once.
const WARM_UP: u16 = 2000;
/// Connections, one after another.
const CONNECTIONS: usize = 3000;

/// Has the policies of two pods in force until standard input ends.
pub(super) fn hold(policies: usize) -> Result<Figures> {
    let mut node = Node::new()?;
    node.fill(&World::both_ways(policies))?;
    writeln!(io::stdout().lock(), "ready")?;
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(Figures::default())
}

/// Sends packets as fast as the kernel takes them, which forwards each before it takes the next: first
/// of a flow that was answered, then as many of flows that do not exist yet.
pub(super) fn send(to: IpAddr) -> Result<Figures> {
    let established = UdpSocket::bind(("0.0.0.0", FIRST))?;
    established.set_read_timeout(Some(Duration::from_secs(5)))?;
    established.send_to(b"?", (to, ALLOWED))?;
    established.recv(&mut [0]).context("no answer over UDP")?;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    let mut figures = Figures::default();
    let mut run = |name: &str, port: &dyn Fn(u16) -> u16| -> Result<()> {
        let mut times = Times::default();
        for at in 0..WARM_UP {
            one(&socket, port(at))?;
        }
        times.time(|| (WARM_UP..WARM_UP + PACKETS).try_for_each(|at| one(&socket, port(at))))?;
        let each: Vec<f64> = times.0.iter().map(|all| all / f64::from(PACKETS)).collect();
        figures.put(name, &each);
        Ok(())
    };
    run("established", &|_| FIRST)?;
    run("first", &|at| FIRST + 1 + at)?;
    figures.put("sent", &[f64::from(WARM_UP + PACKETS) * 2.0]);
    Ok(figures)
}

/// A UDP packet without a checksum, which IPv4 allows.
fn one(socket: &Socket, from: u16) -> io::Result<()> {
    let mut packet = [0; LENGTH];
    packet[..2].copy_from_slice(&from.to_be_bytes());
    packet[2..4].copy_from_slice(&ALLOWED.to_be_bytes());
    packet[5] = u8::try_from(LENGTH).unwrap_or_default();
    socket.send(&packet).map(|_| ())
}

/// Accepts connections and answers one byte with another, until standard input ends; over UDP it
/// answers once and reads no more, so that what else comes costs as little as can be.
pub(super) fn serve() -> Result<Figures> {
    let listener = TcpListener::bind(("0.0.0.0", ALLOWED))?;
    let datagrams = UdpSocket::bind(("0.0.0.0", ALLOWED))?;
    socket2::SockRef::from(&datagrams).set_recv_buffer_size(1)?;
    let answering = datagrams.try_clone()?;
    std::thread::spawn(move || -> io::Result<usize> {
        let (_, client) = answering.recv_from(&mut [0; LENGTH])?;
        answering.send_to(b"!", client)
    });
    writeln!(io::stdout().lock(), "ready")?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut byte = [0];
            // The client's mistakes are the client's.
            let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
        }
    });
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(Figures::default())
}

/// Connects, asks and hangs up, again and again.
pub(super) fn connect(to: IpAddr) -> Result<Figures> {
    let address = SocketAddr::new(to, ALLOWED);
    let ask = || -> Result<()> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0]).context("no answer")?;
        // Closed with a reset: nothing waits for stray segments, and no port is kept.
        Ok(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?)
    };
    for _ in 0..100 {
        ask()?;
    }
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        ask()?;
    }
    let each = start.elapsed().as_secs_f64() / super::count(CONNECTIONS);
    ensure!(each > 0.0, "no time passed");
    let mut figures = Figures::default();
    figures.put("connect", &[each]);
    Ok(figures)
}
