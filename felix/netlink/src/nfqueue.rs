//! Packets that rules hand to user space, which says whether they go on
//! (`include/uapi/linux/netfilter/nfnetlink_queue.h`).
//!
//! A queue has one listener; others are told that it is taken. While nobody listens, a packet passes if
//! its rule says so (`bypass`). When the listener's socket is closed, what it still holds is dropped.

use crate::buffer::{self, Batch, Message};
use crate::{Result, Socket};

const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
const FAMILY_HEADER: usize = 4;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_LENGTH: u16 = 3;
const CONFIG_MASK: u16 = 4;
const CONFIG_FLAGS: u16 = 5;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// What finds the queue full passes (`NFQA_CFG_F_FAIL_OPEN`).
const FAIL_OPEN: u32 = 1;
/// Packets are not cut into pieces as long as the link's for user space (`NFQA_CFG_F_GSO`).
const WHOLE: u32 = 4;

const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const INPUT: u16 = 5;
const OUTPUT: u16 = 6;
const PAYLOAD: u16 = 10;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// How much the kernel holds, and how much of each packet it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Of each packet at most so many bytes, from its IP header on.
    pub bytes: u32,
    /// At most so many packets at once; further ones pass.
    pub packets: u32,
}

/// A packet that waits for [`accept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it is called; never given again while the queue has its listener.
    pub id: u32,
    /// The interface it came in by.
    pub input: Option<u32>,
    /// The interface it goes out by.
    pub output: Option<u32>,
    /// From its IP header on, as far as it was asked for.
    pub payload: &'a [u8],
}

/// Listens to a queue, from now until the socket is closed. Packets may come before the kernel has
/// answered: `early` is given these. The kernel answers `EBUSY` or `EPERM` if another program listens.
pub fn listen(
    socket: &mut Socket,
    queue: u16,
    holding: Holding,
    mut early: impl FnMut(Packet<'_>),
) -> Result<()> {
    let mut batch = Batch::new();
    batch.message(CONFIG, 0, |batch| {
        family(batch, queue);
        // The protocol family has no meaning any more.
        batch.attr(CONFIG_COMMAND, &[BIND, 0, 0, 0]);
        let mut parameters = [0; 5];
        parameters[..4].copy_from_slice(&holding.bytes.to_be_bytes());
        parameters[4] = COPY_PACKET;
        batch.attr(CONFIG_PARAMETERS, &parameters);
        batch.be32(CONFIG_LENGTH, holding.packets);
        batch.be32(CONFIG_FLAGS, FAIL_OPEN | WHOLE);
        batch.be32(CONFIG_MASK, FAIL_OPEN | WHOLE);
    });
    socket.apply_amid(&mut batch, |message| {
        if let Some(packet) = packet(message, queue) {
            early(packet);
        }
    })
}

/// Lets packets go on, in one call. One that the kernel no longer holds is none.
pub fn accept(socket: &mut Socket, queue: u16, ids: impl IntoIterator<Item = u32>) -> Result<()> {
    let mut batch = Batch::new();
    for id in ids {
        batch.message(VERDICT, 0, |batch| {
            family(batch, queue);
            let mut verdict = [0; 8];
            verdict[..4].copy_from_slice(&ACCEPT.to_be_bytes());
            verdict[4..].copy_from_slice(&id.to_be_bytes());
            batch.attr(VERDICT_HEADER, &verdict);
        });
    }
    if batch.is_empty() { Ok(()) } else { socket.tell(&mut batch) }
}

fn family(batch: &mut Batch, queue: u16) {
    let [high, low] = queue.to_be_bytes();
    batch.put(&[0, 0, high, low]);
}

/// A message as a packet of this queue; None if it is something else.
pub fn packet<'a>(message: &Message<'a>, queue: u16) -> Option<Packet<'a>> {
    let of = message.payload.get(2..FAMILY_HEADER).and_then(buffer::be16)?;
    if message.kind != PACKET || of != queue {
        return None;
    }
    let attrs = message.attrs(FAMILY_HEADER);
    let number = |kind| attrs.find(kind).and_then(buffer::be32);
    Some(Packet {
        id: number(PACKET_HEADER)?,
        input: number(INPUT),
        output: number(OUTPUT),
        payload: attrs.find(PAYLOAD).unwrap_or_default(),
    })
}
