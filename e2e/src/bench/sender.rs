//! A BGP speaker that only sends: the clock of a benchmark starts when its UPDATE is written.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::Ipv4Net;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinHandle;

use crate::netns::Netns;

const PATIENCE: Duration = Duration::from_secs(20);
/// RFC 4271 section 4.1.
const MAX_MESSAGE: usize = 4096;
const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

/// An established session, IPv4 unicast only.
#[derive(Debug)]
pub(super) struct Sender {
    out: OwnedWriteHalf,
    asn: u32,
    next_hop: Ipv4Addr,
    /// Reads and forgets what the other side says.
    reader: JoinHandle<()>,
}

impl Sender {
    /// Connects from `local`, in a namespace that has it, and brings the session up. It lasts as
    /// long as its user goes on within the hold time it asks for: none.
    ///
    /// # Errors
    /// The other side refused, or did not answer within 20 s.
    pub(super) async fn open(
        netns: &Netns,
        local: Ipv4Addr,
        to: SocketAddrV4,
        asn: u32,
    ) -> Result<Self> {
        let stream = netns
            .enter(move || {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
                socket.bind(&SocketAddr::from((local, 0)).into())?;
                socket
                    .connect_timeout(&SocketAddr::from(to).into(), PATIENCE)
                    .with_context(|| format!("cannot connect to {to}"))?;
                socket.set_nonblocking(true)?;
                socket.set_tcp_nodelay(true)?;
                Ok(TcpStream::from_std(socket.into())?)
            })
            .await?;
        let open = Self::establish(stream, local, asn);
        tokio::time::timeout(PATIENCE, open).await.context("no session in time")?
    }

    async fn establish(stream: TcpStream, local: Ipv4Addr, asn: u32) -> Result<Self> {
        let (mut input, mut out) = stream.into_split();
        out.write_all(&open_message(local, asn)).await?;
        let mut established = false;
        while !established {
            match read_message(&mut input).await? {
                (OPEN, _) => out.write_all(&message(KEEPALIVE, &[])).await?,
                (KEEPALIVE, _) => established = true,
                (NOTIFICATION, body) => bail!("refused: NOTIFICATION {:?}", body.get(..2)),
                _ => {}
            }
        }
        let reader = tokio::spawn(async move { while read_message(&mut input).await.is_ok() {} });
        Ok(Self { out, asn, next_hop: local, reader })
    }

    /// The UPDATEs that announce prefixes, as many in each as fit.
    pub(super) fn announcement(&self, prefixes: &[Ipv4Net]) -> Vec<u8> {
        let mut attributes = vec![0x40, 1, 1, 0]; // ORIGIN IGP
        attributes.extend([0x40, 2, 6, 2, 1]); // AS_PATH, one AS_SEQUENCE of one AS
        attributes.extend(self.asn.to_be_bytes());
        attributes.extend([0x40, 3, 4]); // NEXT_HOP
        attributes.extend(self.next_hop.octets());
        let mut head = vec![0, 0];
        head.extend(octets(attributes.len()));
        head.extend(attributes);
        let mut bytes = Vec::new();
        for prefixes in packed(prefixes, MAX_MESSAGE - 19 - head.len()) {
            bytes.extend(message(UPDATE, &[&head[..], &prefixes].concat()));
        }
        bytes
    }

    /// The UPDATEs that withdraw prefixes.
    pub(super) fn withdrawal(prefixes: &[Ipv4Net]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for prefixes in packed(prefixes, MAX_MESSAGE - 19 - 4) {
            let mut body = octets(prefixes.len()).to_vec();
            body.extend(prefixes);
            body.extend([0, 0]);
            bytes.extend(message(UPDATE, &body));
        }
        bytes
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).await.context("the session has ended")
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// RFC 4271 section 4.2, with the capabilities IPv4 unicast (RFC 4760) and four-octet AS numbers
/// (RFC 6793), and a hold time of 0.
fn open_message(id: Ipv4Addr, asn: u32) -> Vec<u8> {
    let mut body = vec![4];
    body.extend(u16::try_from(asn).unwrap_or(23456).to_be_bytes());
    body.extend([0, 0]);
    body.extend(id.octets());
    // One parameter: capabilities (RFC 5492).
    body.extend([14, 2, 12, 1, 4, 0, 1, 0, 1, 65, 4]);
    body.extend(asn.to_be_bytes());
    message(OPEN, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(octets(19 + body.len()));
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// A length on the wire. No message of ours comes near what it cannot say.
fn octets(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// Prefixes as NLRI, in pieces of at most `room` bytes.
fn packed(prefixes: &[Ipv4Net], room: usize) -> Vec<Vec<u8>> {
    let mut pieces = vec![Vec::new()];
    for prefix in prefixes {
        let octets = usize::from(prefix.prefix_len()).div_ceil(8);
        if pieces.last().is_none_or(|piece: &Vec<u8>| piece.len() + 1 + octets > room) {
            pieces.push(Vec::new());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(prefix.prefix_len());
            piece.extend(&prefix.network().octets()[..octets]);
        }
    }
    pieces
}

async fn read_message(input: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 19];
    input.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    ensure!((19..=MAX_MESSAGE).contains(&length), "a message of {length} bytes");
    let mut body = vec![0; length - 19];
    input.read_exact(&mut body).await?;
    Ok((header[18], body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_goes_into_another_message() {
        let prefixes: Vec<Ipv4Net> = (0..=255)
            .flat_map(|a| (0..8).map(move |b| Ipv4Net::new_assert(Ipv4Addr::new(100, b, a, 0), 24)))
            .collect();
        let pieces = packed(&prefixes, 4000);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [4000, 4000, 192]);
        let bytes = Sender::withdrawal(&prefixes);
        assert!(bytes.len() < 3 * MAX_MESSAGE && bytes.len() > 2048 * 4);
    }
}
