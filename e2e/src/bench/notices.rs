//! The kernel's own notices of changes in a namespace, with the instant at which they came.

use std::io::ErrorKind;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, setsockopt, socket,
};
use tokio::net::UnixDatagram;

use crate::netns::Netns;

/// What is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// The ends of nftables transactions.
    Rulesets,
    /// IPv4 routes.
    Routes,
}

/// rtnetlink(7): a route was added or replaced, removed.
pub(super) const NEW_ROUTE: u16 = 24;
pub(super) const DELETED_ROUTE: u16 = 25;
/// `linux/netfilter/nf_tables.h`: subsystem 10, message 15 (`NFT_MSG_NEWGEN`) ends a transaction.
pub(super) const NEW_GENERATION: u16 = 10 << 8 | 15;

impl Topic {
    /// The protocol, and the multicast group as a bit.
    fn group(self) -> (SockProtocol, u32) {
        match self {
            // NFNLGRP_NFTABLES is group 7.
            Self::Rulesets => (SockProtocol::NetlinkNetFilter, 1 << 6),
            // RTMGRP_IPV4_ROUTE.
            Self::Routes => (SockProtocol::NetlinkRoute, 0x40),
        }
    }
}

/// Room for the notices of tens of thousands of changes, in bytes.
const BUFFER: usize = 64 << 20;

/// Notices since it was opened.
#[derive(Debug)]
pub(super) struct Notices {
    /// A netlink socket. Tokio has no type for one; datagrams are received the same way from both.
    socket: UnixDatagram,
    buffer: Vec<u8>,
}

impl Notices {
    pub(super) async fn open(netns: &Netns, topic: Topic) -> Result<Self> {
        let (protocol, groups) = topic.group();
        let open = move || {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
            setsockopt(&socket, RcvBufForce, &BUFFER)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(UnixDatagram::from_std(socket.into())?)
        };
        let socket = netns.enter(open).await.context("cannot listen to the kernel's notices")?;
        Ok(Self { socket, buffer: vec![0; 1 << 20] })
    }

    /// Forgets what came so far.
    pub(super) fn clear(&mut self) -> Result<()> {
        loop {
            match self.socket.try_recv(&mut self.buffer) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("notices were lost"),
            }
        }
    }

    /// Waits for `count` notices of a type; the instant at which the last one came.
    ///
    /// # Errors
    /// They did not come within the time, or some were lost.
    pub(super) async fn wait(
        &mut self,
        kind: u16,
        count: usize,
        within: Duration,
    ) -> Result<Instant> {
        let mut seen = 0;
        let all = async {
            loop {
                let length = self.socket.recv(&mut self.buffer).await;
                let now = Instant::now();
                let datagram = self.buffer.get(..length.context("notices were lost")?);
                let types = types(datagram.unwrap_or_default());
                seen += types.filter(|found| *found == kind).count();
                if seen >= count {
                    return anyhow::Ok(now);
                }
            }
        };
        match tokio::time::timeout(within, all).await {
            Ok(done) => done,
            Err(_) => bail!("{seen} of {count} notices of type {kind} within {within:?}"),
        }
    }
}

/// The types of the messages in a datagram: netlink(7), `struct nlmsghdr` before each, each aligned
/// to 4 bytes.
fn types(datagram: &[u8]) -> impl Iterator<Item = u16> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.get(..16)?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let next = length.max(16).next_multiple_of(4).min(rest.len());
        rest = &rest[next..];
        Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_and_nonsense_ends_them() {
        let message = |kind: u16, length: u32| {
            let mut bytes = vec![0; (length as usize).next_multiple_of(4)];
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes
        };
        let datagram = [message(NEW_ROUTE, 21), message(DELETED_ROUTE, 16)].concat();
        assert_eq!(types(&datagram).collect::<Vec<_>>(), [NEW_ROUTE, DELETED_ROUTE]);
        assert_eq!(types(&datagram[..10]).count(), 0);
        // A length of nothing must not be read for ever.
        let mut zero = message(NEW_ROUTE, 16);
        zero[..4].fill(0);
        assert_eq!(types(&zero).count(), 1);
    }
}
