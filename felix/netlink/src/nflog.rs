//! Packets that rules send to user space (`include/uapi/linux/netfilter/nfnetlink_log.h`).
//!
//! A group has one listener; others are told that it is taken. What is logged while nobody listens is
//! gone.

use std::time::{Duration, SystemTime};

use crate::buffer::{self, Batch, Message};
use crate::nft::Hook;
use crate::{Result, Socket};

const SUBSYSTEM: u16 = 4 << 8;
const PACKET: u16 = SUBSYSTEM;
const CONFIG: u16 = SUBSYSTEM | 1;
const FAMILY_HEADER: usize = 4;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_MODE: u16 = 2;
const CONFIG_TIMEOUT: u16 = 4;
const CONFIG_THRESHOLD: u16 = 5;
const CONFIG_FLAGS: u16 = 6;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// Packets of the group are numbered.
const SEQUENCE: u16 = 1;

/// The protocol, and the hook in the third byte.
const HEADER: u16 = 1;
const TIMESTAMP: u16 = 3;
const INPUT: u16 = 4;
const OUTPUT: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
const NUMBER: u16 = 12;

/// How much the kernel gathers before it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Of each packet at most so many bytes, from its IP header on.
    pub bytes: u32,
    /// At most so many packets in one datagram.
    pub packets: u32,
    /// At most so long, to 10 ms.
    pub within: Duration,
}

/// Listens to a group, from now until the socket is closed. The kernel answers `EBUSY` or `EPERM` if
/// another program does.
pub fn listen(socket: &mut Socket, group: u16, delivery: Delivery) -> Result<()> {
    let [high, low] = group.to_be_bytes();
    let mut batch = Batch::new();
    batch.message(CONFIG, 0, |batch| {
        batch.put(&[0, 0, high, low]);
        batch.u8(CONFIG_COMMAND, BIND);
        let mut mode = [0; 6];
        mode[..4].copy_from_slice(&delivery.bytes.to_be_bytes());
        mode[4] = COPY_PACKET;
        batch.attr(CONFIG_MODE, &mode);
        let hundredths = delivery.within.as_millis().div_ceil(10);
        batch.be32(CONFIG_TIMEOUT, u32::try_from(hundredths).unwrap_or(u32::MAX));
        batch.be32(CONFIG_THRESHOLD, delivery.packets);
        batch.be16(CONFIG_FLAGS, SEQUENCE);
    });
    socket.apply(&mut batch)
}

/// A packet that a rule logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// The rule's prefix.
    pub prefix: String,
    /// When it was received or made, if the kernel says so.
    pub time: Option<SystemTime>,
    /// Where it was when the rule met it, if the kernel says so.
    pub hook: Option<Hook>,
    /// The interface it came in by.
    pub input: Option<u32>,
    /// The interface it goes out by.
    pub output: Option<u32>,
    /// Its place among all packets of the group: a gap is what the socket had no room for.
    pub number: Option<u32>,
    /// From its IP header on, as far as it was asked for.
    pub payload: &'a [u8],
}

/// A message as a packet of this group; None if it is something else.
pub fn packet<'a>(message: &Message<'a>, group: u16) -> Option<Packet<'a>> {
    let of = message.payload.get(2..FAMILY_HEADER).and_then(buffer::be16)?;
    if message.kind != PACKET || of != group {
        return None;
    }
    let attrs = message.attrs(FAMILY_HEADER);
    let number = |kind| attrs.find(kind).and_then(buffer::be32);
    Some(Packet {
        prefix: attrs.find(PREFIX).map(buffer::text).unwrap_or_default(),
        time: attrs.find(TIMESTAMP).and_then(time),
        hook: attrs.find(HEADER).and_then(|header| Hook::from_number(u32::from(*header.get(2)?))),
        input: number(INPUT),
        output: number(OUTPUT),
        number: number(NUMBER),
        payload: attrs.find(PAYLOAD).unwrap_or_default(),
    })
}

/// Seconds and microseconds since 1970.
fn time(value: &[u8]) -> Option<SystemTime> {
    let (seconds, micros) = (buffer::be64(value)?, buffer::be64(value.get(8..)?)?);
    let since = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}
