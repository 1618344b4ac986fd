//! A peer that does what it is told, octet by octet.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bgpd::wire::{Capability, Family, Notification, Open, attributes};
use socket2::{Domain, Socket, Type};

use super::{LIMIT, Node, Result, eventually};

/// Message types (RFC 4271 section 4.1).
pub(crate) const UPDATE: u8 = 2;
pub(crate) const NOTIFICATION: u8 = 3;
pub(crate) const KEEPALIVE: u8 = 4;

/// Who a scripted peer says it is. Its identifier is its address.
#[derive(Clone, Copy)]
pub(crate) struct Speaker {
    pub(crate) address: Ipv4Addr,
    pub(crate) asn: u32,
    /// It knows of AS numbers with four octets.
    pub(crate) four_octets: bool,
    /// Seconds; 0: no KEEPALIVEs are needed.
    pub(crate) hold_time: u16,
}

impl Speaker {
    /// One that needs no KEEPALIVEs, and knows what speakers of today do.
    pub(crate) fn new(host: u8, asn: u32) -> Self {
        let address = Ipv4Addr::new(10, 0, 1, host);
        Self { address, asn, four_octets: true, hold_time: 0 }
    }

    /// Its OPEN, with both families and without graceful restart.
    pub(crate) fn open(&self) -> Vec<u8> {
        let families = Family::ALL.iter().map(|f| Capability::multiprotocol(*f));
        let mut open = Open::new(self.asn, self.hold_time, self.address, families.collect());
        if !self.four_octets {
            open.capabilities.retain(|c| !matches!(c, Capability::FourOctetAs(_)));
        }
        let mut octets = Vec::new();
        open.encode(&mut octets);
        octets
    }
}

/// A connection to our daemon at 10.0.1.1.
pub(crate) struct Script {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Script {
    /// A TCP connection and no more, from an address of the node.
    pub(crate) fn connect(node: &Node, from: Ipv4Addr) -> Result<Self> {
        let stream = node.inside(|| -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from((from, 0)).into())?;
            socket.connect(&SocketAddr::from(([10, 0, 1, 1], 179)).into())?;
            Ok(socket.into())
        })?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// A session: both sides have sent an OPEN and a KEEPALIVE.
    pub(crate) fn establish(node: &Node, speaker: &Speaker) -> Self {
        eventually("a scripted session", LIMIT, || {
            let mut script = Self::connect(node, speaker.address)?;
            script.send_octets(&speaker.open())?;
            script.send(KEEPALIVE, &[])?;
            // OPEN is 1. Until the daemon has seen the end of an earlier connection it refuses.
            for wanted in [1, KEEPALIVE] {
                let (kind, body) = script.next()?;
                ensure!(kind == wanted, "message {kind}: {body:?}");
            }
            Ok(script)
        })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends octets as they are.
    pub(crate) fn send_octets(&mut self, octets: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(octets)?)
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        self.send_octets(&message(kind, body))
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Result<(u8, Vec<u8>)> {
        loop {
            if let Some(header) = self.received.first_chunk::<19>() {
                let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
                if self.received.len() >= len {
                    let message: Vec<u8> = self.received.drain(..len).collect();
                    return Ok((message[18], message[19..].to_vec()));
                }
            }
            let mut octets = [0; 65536];
            match self.stream.read(&mut octets) {
                Ok(0) => bail!("the connection was closed"),
                Ok(len) => self.received.extend_from_slice(&octets[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("no message came"),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the NOTIFICATION that ends the session, whatever comes before it.
    pub(crate) fn until_notification(&mut self) -> Result<Notification> {
        loop {
            let (kind, body) = self.next()?;
            if kind == NOTIFICATION {
                return Ok(Notification::parse(&body));
            }
        }
    }

    /// How long [`Self::next`] waits.
    pub(crate) fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }
}

/// A message with its header.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    [&[0xff; 16][..], &len, &[kind], body].concat()
}

/// The body of an UPDATE.
pub(crate) fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let len = |octets: &[u8]| u16::try_from(octets.len()).unwrap().to_be_bytes();
    [&len(withdrawn)[..], withdrawn, &len(attributes), attributes, nlri].concat()
}

/// The attributes of a route: type and value of each.
type Attributes = Vec<(u8, Vec<u8>)>;

/// What a scripted peer has been told: prefixes as on the wire, by AFI.
#[derive(Default)]
pub(crate) struct Routes(BTreeMap<(u16, Vec<u8>), Attributes>);

impl Routes {
    pub(crate) fn get(&self, afi: u16, prefix: &[u8]) -> Option<&[(u8, Vec<u8>)]> {
        self.0.get(&(afi, prefix.to_vec())).map(Vec::as_slice)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes in the body of an UPDATE.
    pub(crate) fn take(&mut self, body: &[u8]) -> Result<()> {
        let cut = |octets: &[u8]| -> Option<(Vec<u8>, Vec<u8>)> {
            let (len, rest) = octets.split_first_chunk::<2>()?;
            let (field, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
            Some((field.to_vec(), rest.to_vec()))
        };
        let (withdrawn, rest) = cut(body).context("withdrawn routes")?;
        let (block, nlri) = cut(&rest).context("attributes")?;
        let all: Vec<_> = attributes::iter(&block).map(|a| (a.kind, a.value.to_vec())).collect();
        for prefix in prefixes(&withdrawn)? {
            self.0.remove(&(1, prefix));
        }
        for prefix in prefixes(&nlri)? {
            self.0.insert((1, prefix), all.clone());
        }
        for (kind, value) in &all {
            match (kind, &value[..]) {
                (14, [high, low, _safi, hop, rest @ ..]) => {
                    let afi = u16::from_be_bytes([*high, *low]);
                    let nlri = rest.get(usize::from(*hop) + 1..).context("a next hop")?;
                    for prefix in prefixes(nlri)? {
                        self.0.insert((afi, prefix), all.clone());
                    }
                }
                (15, [high, low, _safi, nlri @ ..]) => {
                    let afi = u16::from_be_bytes([*high, *low]);
                    for prefix in prefixes(nlri)? {
                        self.0.remove(&(afi, prefix));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Prefixes as they are on the wire, one by one.
fn prefixes(mut octets: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    while let Some(bits) = octets.first() {
        let len = 1 + usize::from(*bits).div_ceil(8);
        let (prefix, rest) = octets.split_at_checked(len).context("a prefix")?;
        all.push(prefix.to_vec());
        octets = rest;
    }
    Ok(all)
}
