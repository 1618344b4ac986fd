//! A small server of the DNS that knows a few names, and a client that asks one, over UDP and TCP.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::target::unspecified;
use crate::{serve, tell};

const PORT: u16 = 53;
const HEADER: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;
/// After this a question is sent once more.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a name stands for, and for how many seconds: `NAME/SECONDS=ADDRESS,ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    name: String,
    ttl: u32,
    addresses: Vec<IpAddr>,
}

impl FromStr for Entry {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wanted = "wanted NAME/SECONDS=ADDRESS,ADDRESS";
        let (name, rest) = text.split_once('/').context(wanted)?;
        let (ttl, addresses) = rest.split_once('=').context(wanted)?;
        let addresses = addresses.split(',').map(|text| Ok(text.parse()?));
        let addresses: Vec<IpAddr> = addresses.collect::<Result<_>>()?;
        Ok(Self { name: name.to_ascii_lowercase(), ttl: ttl.parse()?, addresses })
    }
}

/// Serves until killed.
pub(crate) fn serve(entries: Vec<Entry>) -> Result<bool> {
    let entries: Arc<[Entry]> = entries.into();
    let (udp, tcp) = (serve::listen_udp(PORT)?, serve::listen_tcp(PORT)?);
    let of_tcp = Arc::clone(&entries);
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let entries = Arc::clone(&of_tcp);
            // Whoever asks something else gets no answer.
            thread::spawn(move || converse(stream, &entries));
        }
    });
    tell::ready()?;
    let mut buffer = [0; 4096];
    loop {
        // Errors here are ICMP about earlier answers.
        let Ok((length, client)) = udp.recv_from(&mut buffer) else { continue };
        if let Some(reply) = answer(&buffer[..length], &entries) {
            let _ = udp.send_to(&reply, client);
        }
    }
}

fn converse(mut stream: TcpStream, entries: &[Entry]) -> Option<()> {
    loop {
        let question = read_message(&mut stream).ok()?;
        let reply = answer(&question, entries)?;
        stream.write_all(&with_length(&reply)?).ok()?;
    }
}

fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// In one piece, so that it is one segment.
fn with_length(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?;
    Some([&length.to_be_bytes()[..], message].concat())
}

/// None if it is no question for one name.
fn answer(question: &[u8], entries: &[Entry]) -> Option<Vec<u8>> {
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = question.get(at..at + length)?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let kind = question.get(at..at + 2).map(|kind| u16::from_be_bytes([kind[0], kind[1]]))?;
    let asked = question.get(HEADER..at + 4)?;
    let entry = entries.iter().find(|entry| entry.name == name);
    let addresses: Vec<IpAddr> = entry
        .iter()
        .flat_map(|entry| entry.addresses.iter().copied())
        .filter(|address| kind == if address.is_ipv4() { A } else { AAAA })
        .collect();
    let mut reply = question.get(..2)?.to_vec();
    // An answer with authority; without the name there is an error (NXDOMAIN).
    reply.extend([0x85, if entry.is_some() { 0x80 } else { 0x83 }, 0, 1]);
    reply.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(asked);
    for address in addresses {
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(entry?.ttl.to_be_bytes());
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        reply.extend(u16::try_from(bytes.len()).ok()?.to_be_bytes());
        reply.extend(bytes);
    }
    Some(reply)
}

/// Asks for the addresses of a name, of both families, and prints them; true if there are any.
pub(crate) fn resolve(server: IpAddr, name: &str, tcp: bool, timeout: Duration) -> Result<bool> {
    let server = SocketAddr::new(server, PORT);
    let until = Instant::now() + timeout;
    let mut addresses = Vec::new();
    for (number, kind) in [(1, A), (2, AAAA)] {
        let mut question = vec![0, number, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(u8::try_from(label.len())?);
            question.extend(label.as_bytes());
        }
        question.push(0);
        question.extend(kind.to_be_bytes());
        question.extend([0, 1]);
        let reply =
            if tcp { by_tcp(server, &question, until)? } else { by_udp(server, &question, until)? };
        addresses
            .extend(read(&reply, question.len(), kind).context("not the answer of our server")?);
    }
    tell::line(&json!({ "addresses": addresses }));
    Ok(!addresses.is_empty())
}

fn by_udp(server: SocketAddr, question: &[u8], until: Instant) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind((unspecified(server.ip()), 0))?;
    socket.connect(server)?;
    let mut buffer = [0; 4096];
    while Instant::now() < until {
        socket.send(question)?;
        let patience = PATIENCE.min(until.saturating_duration_since(Instant::now()));
        socket.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        if let Ok(length) = socket.recv(&mut buffer)
            && buffer[..2] == question[..2]
        {
            return Ok(buffer[..length].to_vec());
        }
    }
    bail!("no answer from {server}")
}

fn by_tcp(server: SocketAddr, question: &[u8], until: Instant) -> Result<Vec<u8>> {
    let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(&server, left())?;
    stream.set_read_timeout(Some(left()))?;
    stream.write_all(&with_length(question).context("a long question")?)?;
    Ok(read_message(&mut stream)?)
}

/// The addresses in an answer as [`answer`] writes it.
fn read(reply: &[u8], question: usize, kind: u16) -> Result<Vec<IpAddr>> {
    let code = reply.get(3).context("cut off")? & 15;
    ensure!(code == 0, "error {code}");
    let length = if kind == A { 4 } else { 16 };
    let records = reply.get(question..).context("cut off")?.chunks_exact(12 + length);
    let address = |record: &[u8]| -> Result<IpAddr> {
        Ok(match kind {
            A => <[u8; 4]>::try_from(&record[12..])?.into(),
            _ => <[u8; 16]>::try_from(&record[12..])?.into(),
        })
    };
    records.map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_read() {
        let entry: Entry = "Web.lab.test/7=10.0.0.1,fd00::1,10.0.0.2".parse().unwrap();
        let mut question = vec![9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        question.extend(b"\x03web\x03LAB\x04test\x00\x00\x01\x00\x01");
        let reply = answer(&question, std::slice::from_ref(&entry)).unwrap();
        let addresses: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        assert_eq!(read(&reply, question.len(), A).unwrap(), addresses);
        let at = question.len() - 3;
        question[at] = 28;
        let reply = answer(&question, &[entry]).unwrap();
        let wanted: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(read(&reply, question.len(), AAAA).unwrap(), [wanted]);
        assert!(read(&answer(&question, &[]).unwrap(), question.len(), A).is_err());
        assert_eq!(answer(&question[..20], &[]), None);
        for wrong in ["a=1", "a/x=10.0.0.1", "a/1=b", "a/1"] {
            assert!(wrong.parse::<Entry>().is_err(), "{wrong}");
        }
    }
}
