//! What can be probed, and one question to it.

use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::{ping, tell};

/// A protocol and where to speak it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Icmp(IpAddr),
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").context("wanted PROTOCOL://ADDRESS:PORT")?;
        Ok(match scheme {
            "tcp" => Self::Tcp(rest.parse()?),
            "udp" => Self::Udp(rest.parse()?),
            "icmp" => Self::Icmp(rest.trim_matches(['[', ']']).parse()?),
            _ => bail!("{scheme} is none of tcp, udp, icmp"),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Icmp(address) => write!(f, "icmp://{address}"),
        }
    }
}

/// A target, and from which port it is asked, if from a certain one: `TARGET#PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    target: Target,
    from: Option<u16>,
}

impl FromStr for Asked {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.rsplit_once('#') {
            None => Self { target: text.parse()?, from: None },
            Some((target, port)) => {
                let target = target.parse()?;
                ensure!(!matches!(target, Target::Icmp(_)), "ICMP has no ports");
                Self { target, from: Some(port.parse()?) }
            }
        })
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.from {
            None => self.target.fmt(f),
            Some(port) => write!(f, "{}#{port}", self.target),
        }
    }
}

/// Asks all targets at once; prints one line each, in order; true if all answered.
pub(crate) fn connect(targets: &[Asked], timeout: Duration) -> Result<bool> {
    let asked: Vec<_> =
        targets.iter().map(|&target| thread::spawn(move || ask(target, timeout))).collect();
    let mut all = true;
    for (target, answer) in targets.iter().zip(asked) {
        let answer = answer.join().unwrap_or_else(|_| Err(io::Error::other("the probe panicked")));
        let mut row = match answer {
            Ok(row) => row,
            Err(error) => {
                all = false;
                json!({ "ok": false, "error": name(&error), "detail": error.to_string() })
            }
        };
        row["target"] = target.to_string().into();
        tell::line(&row);
    }
    Ok(all)
}

/// The few ends a probe can have that a policy or a route can cause.
fn name(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "timeout",
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => "reset",
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "unreachable",
        _ => "failed",
    }
}

fn ask(asked: Asked, timeout: Duration) -> io::Result<Value> {
    let start = Instant::now();
    let Asked { target, from } = asked;
    let seen = match target {
        Target::Tcp(address) => Some(ask_tcp(address, from, timeout)?),
        Target::Udp(address) => Some(ask_udp(address, from, timeout)?),
        Target::Icmp(address) => ping::echo(address, timeout).map(|()| None)?,
    };
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    let client = seen.as_ref().and_then(|seen| seen["client"].as_str().map(str::to_owned));
    Ok(json!({ "ok": true, "client": client, "micros": micros }))
}

/// A socket for this address; bound, if it is to speak from a certain port.
fn socket(address: SocketAddr, kind: Type, from: Option<u16>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // The same port of the other family is asked from at the same time.
        socket.set_only_v6(true)?;
    }
    if let Some(port) = from {
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(unspecified(address.ip()), port).into())?;
    }
    Ok(socket)
}

fn ask_tcp(address: SocketAddr, from: Option<u16>, timeout: Duration) -> io::Result<Value> {
    let deadline = Instant::now() + timeout;
    let socket = socket(address, Type::STREAM, from)?;
    if from.is_some() {
        // The next connection between the same ports must not find this one's remains.
        socket.set_linger(Some(Duration::ZERO))?;
    }
    socket.connect_timeout(&address.into(), timeout)?;
    let stream = TcpStream::from(socket);
    let left = deadline.saturating_duration_since(Instant::now());
    stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

fn ask_udp(address: SocketAddr, from: Option<u16>, timeout: Duration) -> io::Result<Value> {
    let socket = UdpSocket::from(socket(address, Type::DGRAM, from)?);
    socket.connect(address)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(b"probe")?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(serde_json::from_slice(buffer.get(..length).unwrap_or_default())?)
}

/// The wildcard address of the same family.
pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_as_they_print() {
        for text in ["tcp://10.0.0.1:80", "udp://[fd00::1]:53", "icmp://10.0.0.1", "icmp://fd00::1"]
        {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
            assert_eq!(text.parse::<Asked>().unwrap().to_string(), text);
        }
        let from = "udp://[fd00::1]:53#5353";
        assert_eq!(from.parse::<Asked>().unwrap().to_string(), from);
        assert!("icmp://10.0.0.1#1".parse::<Asked>().is_err());
        for bad in ["10.0.0.1:80", "tcp://10.0.0.1", "sctp://10.0.0.1:80", "icmp://host"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_echo_server_says_who_asked_and_silence_is_a_timeout() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Asked { target: Target::Tcp(address), from: None };
        let silent = ask(asked, Duration::from_millis(50)).unwrap_err();
        assert_eq!(name(&silent), "timeout");
        drop(listener);
        let refused = ask(asked, Duration::from_millis(500)).unwrap_err();
        assert_eq!(name(&refused), "refused");
    }
}
