//! A BGP speaker that only sends: the clock of a benchmark starts when its UPDATE is written.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::Ipv4Net;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinHandle;

use super::message::{
    self, Attributes, HEADER, KEEPALIVE, MAX_MESSAGE, NOTIFICATION, OPEN, Prefix,
};
use crate::netns::Netns;

const PATIENCE: Duration = Duration::from_secs(20);

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
        out.write_all(&message::open(local, asn, 0)).await?;
        let mut established = false;
        while !established {
            match read_message(&mut input).await? {
                (OPEN, _) => out.write_all(&message::message(KEEPALIVE, &[])).await?,
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
        let attributes = Attributes {
            path: &[self.asn],
            next_hop: self.next_hop,
            local_pref: None,
            communities: &[],
        };
        let mut bytes = Vec::new();
        message::announce(&mut bytes, &attributes, &plain(prefixes), usize::MAX);
        bytes
    }

    /// The UPDATEs that withdraw prefixes.
    pub(super) fn withdrawal(prefixes: &[Ipv4Net]) -> Vec<u8> {
        let mut bytes = Vec::new();
        message::withdraw(&mut bytes, &plain(prefixes));
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

fn plain(prefixes: &[Ipv4Net]) -> Vec<Prefix> {
    let plain = |net: &Ipv4Net| Prefix { address: net.network(), length: net.prefix_len() };
    prefixes.iter().map(plain).collect()
}

async fn read_message(input: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; HEADER];
    input.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    ensure!((HEADER..=MAX_MESSAGE).contains(&length), "a message of {length} bytes");
    let mut body = vec![0; length - HEADER];
    input.read_exact(&mut body).await?;
    Ok((header[18], body))
}
