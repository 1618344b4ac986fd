//! The expressions of rules: what one rule matches and does (`include/uapi/linux/netfilter/nf_tables.h`).

use super::types::DataType;
use crate::buffer::{self, Attrs, Batch};

/// A register: 0 is the verdict; 1 to 4 are 16 bytes each; 8 to 23 are the same memory as 4-byte words.
pub type Register = u32;
/// The register of verdicts.
pub(super) const VERDICT: Register = 0;

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const LOOKUP_INVERT: u32 = 1;
/// `NFT_LIMIT_PKTS`.
const LIMIT_PACKETS: u32 = 0;
/// `NFT_REJECT_ICMPX_UNREACH`, and `NFT_REJECT_ICMPX_PORT_UNREACH`.
const REJECT_ICMPX: u32 = 2;
const REJECT_PORT: u8 = 1;

/// What a rule, a base chain's policy or a verdict map's element does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict<'a> {
    /// No further rule of this base chain is asked.
    Accept,
    /// The packet is gone.
    Drop,
    /// The next rule.
    Continue,
    /// Back to the rule after the jump.
    Return,
    /// To a chain, and back.
    Jump(&'a str),
    /// To a chain; its end returns to where the present chain would.
    Goto(&'a str),
}

impl<'a> Verdict<'a> {
    #[allow(clippy::cast_sign_loss, reason = "the kernel's codes are negative numbers on the wire")]
    fn code(self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => -1i32 as u32,
            Self::Jump(_) => -3i32 as u32,
            Self::Goto(_) => -4i32 as u32,
            Self::Return => -5i32 as u32,
        }
    }

    pub(super) fn encode(self, batch: &mut Batch) {
        batch.nest(DATA_VERDICT, |batch| {
            batch.be32(VERDICT_CODE, self.code());
            if let Self::Jump(chain) | Self::Goto(chain) = self {
                batch.str(VERDICT_CHAIN, chain);
            }
        });
    }

    /// From the attributes of a data nest.
    pub(super) fn decode(data: &'a [u8]) -> Option<Self> {
        let verdict = Attrs(Attrs(data).find(DATA_VERDICT)?);
        let chain = || {
            let name = verdict.find(VERDICT_CHAIN)?;
            std::str::from_utf8(name.split(|byte| *byte == 0).next()?).ok()
        };
        Some(match buffer::be32(verdict.find(VERDICT_CODE)?)?.cast_signed() {
            0 => Self::Drop,
            1 => Self::Accept,
            -1 => Self::Continue,
            -3 => Self::Jump(chain()?),
            -4 => Self::Goto(chain()?),
            -5 => Self::Return,
            _ => return None,
        })
    }
}

/// As [`Verdict`], owning the chain's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is as in Verdict")]
pub enum VerdictBuf {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(String),
    Goto(String),
}

impl VerdictBuf {
    /// Borrows the chain's name.
    pub fn as_verdict(&self) -> Verdict<'_> {
        match self {
            Self::Accept => Verdict::Accept,
            Self::Drop => Verdict::Drop,
            Self::Continue => Verdict::Continue,
            Self::Return => Verdict::Return,
            Self::Jump(chain) => Verdict::Jump(chain),
            Self::Goto(chain) => Verdict::Goto(chain),
        }
    }
}

impl From<Verdict<'_>> for VerdictBuf {
    fn from(verdict: Verdict<'_>) -> Self {
        match verdict {
            Verdict::Accept => Self::Accept,
            Verdict::Drop => Self::Drop,
            Verdict::Continue => Self::Continue,
            Verdict::Return => Self::Return,
            Verdict::Jump(chain) => Self::Jump(chain.into()),
            Verdict::Goto(chain) => Self::Goto(chain.into()),
        }
    }
}

/// What `meta` knows of a packet (`enum nft_meta_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the nft keyword of its name")]
pub enum Meta {
    Mark,
    Iif,
    Oif,
    IifName,
    OifName,
    NfProto,
    L4Proto,
}

const METAS: [(Meta, u32); 7] = [
    (Meta::Mark, 3),
    (Meta::Iif, 4),
    (Meta::Oif, 5),
    (Meta::IifName, 6),
    (Meta::OifName, 7),
    (Meta::NfProto, 15),
    (Meta::L4Proto, 16),
];

/// What `ct` knows of a packet's flow (`enum nft_ct_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ct {
    /// A set of [`ct_state`] bits.
    State,
    /// Which way the packet goes, one byte: see [`ct_direction`].
    Direction,
    /// The flow's mark.
    Mark,
    /// The destination port of the packet that began the flow, before any translation.
    OriginalDestinationPort,
}

const CTS: [(Ct, u32); 4] =
    [(Ct::State, 0), (Ct::Direction, 1), (Ct::Mark, 3), (Ct::OriginalDestinationPort, 12)];

impl Ct {
    /// Of which direction it is asked; None: it is one for both.
    fn direction(self) -> Option<u8> {
        (self == Self::OriginalDestinationPort).then_some(ct_direction::ORIGINAL)
    }
}

/// `enum ip_conntrack_dir`.
pub mod ct_direction {
    /// As the packet that began the flow.
    pub const ORIGINAL: u8 = 0;
    /// Back.
    pub const REPLY: u8 = 1;
}

/// Bits of `ct state` (`NF_CT_STATE_BIT`).
pub mod ct_state {
    /// No flow: the packet is malformed or out of the window.
    pub const INVALID: u32 = 1;
    /// Packets were seen in both directions.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to an established flow, as an ICMP error does.
    pub const RELATED: u32 = 4;
    /// The first direction only.
    pub const NEW: u32 = 8;
    /// Not tracked, by `notrack`.
    pub const UNTRACKED: u32 = 64;
}

/// Which header a payload offset is counted from (`enum nft_payload_bases`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// The IP header.
    Network,
    /// The TCP, UDP or SCTP header.
    Transport,
}

/// One instruction of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "fields are those of the kernel's attributes")]
pub enum Expr {
    Meta {
        key: Meta,
        to: Register,
    },
    SetMeta {
        key: Meta,
        from: Register,
    },
    Ct {
        key: Ct,
        to: Register,
    },
    SetCt {
        key: Ct,
        from: Register,
    },
    Payload {
        base: Base,
        offset: u32,
        len: u32,
        to: Register,
    },
    /// Goes on if the register equals (or does not equal) the bytes.
    Compare {
        equal: bool,
        register: Register,
        bytes: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`.
    Bitwise {
        from: Register,
        to: Register,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// To network byte order, in units of `size` bytes.
    ToNetworkOrder {
        from: Register,
        to: Register,
        len: u32,
        size: u32,
    },
    /// Goes on if the set has (or has not) the key that starts in `from`; a map's value goes to `to`.
    Lookup {
        set: String,
        from: Register,
        to: Option<Register>,
        invert: bool,
    },
    /// Loads bytes.
    Immediate {
        to: Register,
        bytes: Vec<u8>,
    },
    /// Ends the rule.
    Verdict(VerdictBuf),
    /// Goes on for so many packets in so many seconds, and at first for a burst of them.
    Limit {
        rate: u64,
        seconds: u64,
        burst: u32,
    },
    /// Sends the packet to whoever listens to the group (`nfnetlink_log`), with a prefix of at most 127
    /// bytes.
    Log {
        group: u16,
        prefix: String,
    },
    /// Counts packets and bytes; any two are equal.
    Counter(Counter),
    /// Hands the packet to whoever listens to the queue (`nfnetlink_queue`), which ends the rule; while
    /// nobody does, the packet passes.
    Queue {
        number: u16,
    },
    /// The same by way of `xt_NFQUEUE`, for kernels that lack the expression.
    QueueTarget {
        number: u16,
    },
    /// The source address becomes that of the outgoing interface; bits of `NF_NAT_RANGE_*`.
    Masquerade {
        flags: u32,
    },
    /// No flow is made of the packet, if there is none yet.
    NoTrack,
    /// The packet is gone, and its sender gets an ICMP error of its family: port unreachable.
    Reject,
    /// Something that this crate does not write; by its name.
    Other(String),
}

/// What a counter counted. Never differs from another counter: rules are compared by what they do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    /// Packets that got so far in the rule.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl PartialEq for Counter {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Counter {}

impl std::hash::Hash for Counter {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`: source ports are random, not successive.
pub const FULLY_RANDOM: u32 = 0x10;

/// `NFT_QUEUE_FLAG_BYPASS`, which `xt_NFQUEUE` calls `NFQ_FLAG_BYPASS`.
const QUEUE_BYPASS: u16 = 1;
const QUEUE_TARGET: &str = "NFQUEUE";
/// The one that has flags.
const QUEUE_TARGET_REVISION: u32 = 3;

/// `struct xt_NFQ_info_v3`, as long as xtables pads it: number, count, flags.
fn queue_target(number: u16) -> [u8; 8] {
    let mut info = [0; 8];
    info[..2].copy_from_slice(&number.to_ne_bytes());
    info[2..4].copy_from_slice(&1u16.to_ne_bytes());
    info[4..6].copy_from_slice(&QUEUE_BYPASS.to_ne_bytes());
    info
}

fn code<T: PartialEq + Copy>(table: &[(T, u32)], key: T) -> u32 {
    table.iter().find(|(k, _)| *k == key).map_or(u32::MAX, |(_, code)| *code)
}

fn key<T: Copy>(table: &[(T, u32)], code: u32) -> Option<T> {
    table.iter().find(|(_, c)| *c == code).map(|(key, _)| *key)
}

impl Expr {
    /// The kernel's name of this kind of expression.
    pub fn name(&self) -> &str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Ct { .. } | Self::SetCt { .. } => "ct",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::ToNetworkOrder { .. } => "byteorder",
            Self::Lookup { .. } => "lookup",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::Limit { .. } => "limit",
            Self::Log { .. } => "log",
            Self::Counter(_) => "counter",
            Self::Queue { .. } => "queue",
            Self::QueueTarget { .. } => "target",
            Self::Masquerade { .. } => "masq",
            Self::NoTrack => "notrack",
            Self::Reject => "reject",
            Self::Other(name) => name,
        }
    }

    pub(super) fn encode(&self, batch: &mut Batch) {
        batch.nest(LIST_ELEM, |batch| self.encode_bare(batch));
    }

    /// Where there is one and not a list.
    pub(super) fn encode_bare(&self, batch: &mut Batch) {
        batch.str(EXPR_NAME, self.name());
        if !matches!(self, Self::NoTrack) {
            batch.nest(EXPR_DATA, |batch| self.encode_data(batch));
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "lengths of keys, at most 64 bytes")]
    fn encode_data(&self, batch: &mut Batch) {
        match self {
            Self::Meta { key, to } => {
                batch.be32(2, code(&METAS, *key));
                batch.be32(1, *to);
            }
            Self::SetMeta { key, from } => {
                batch.be32(2, code(&METAS, *key));
                batch.be32(3, *from);
            }
            Self::Ct { key, to } => {
                batch.be32(2, code(&CTS, *key));
                batch.be32(1, *to);
                if let Some(direction) = key.direction() {
                    batch.u8(3, direction);
                }
            }
            Self::SetCt { key, from } => {
                batch.be32(2, code(&CTS, *key));
                batch.be32(4, *from);
            }
            Self::Payload { base, offset, len, to } => {
                batch.be32(1, *to);
                batch.be32(2, if *base == Base::Network { 1 } else { 2 });
                batch.be32(3, *offset);
                batch.be32(4, *len);
            }
            Self::Compare { equal, register, bytes } => {
                batch.be32(1, *register);
                batch.be32(2, u32::from(!equal));
                batch.nest(3, |batch| batch.attr(DATA_VALUE, bytes));
            }
            Self::Bitwise { from, to, mask, xor } => {
                batch.be32(1, *from);
                batch.be32(2, *to);
                batch.be32(3, mask.len() as u32);
                batch.nest(4, |batch| batch.attr(DATA_VALUE, mask));
                batch.nest(5, |batch| batch.attr(DATA_VALUE, xor));
            }
            Self::ToNetworkOrder { from, to, len, size } => {
                batch.be32(1, *from);
                batch.be32(2, *to);
                batch.be32(3, 1);
                batch.be32(4, *len);
                batch.be32(5, *size);
            }
            Self::Lookup { set, from, to, invert } => {
                batch.str(1, set);
                batch.be32(2, *from);
                if let Some(to) = to {
                    batch.be32(3, *to);
                }
                if *invert {
                    batch.be32(5, LOOKUP_INVERT);
                }
            }
            Self::Immediate { to, bytes } => {
                batch.be32(1, *to);
                batch.nest(2, |batch| batch.attr(DATA_VALUE, bytes));
            }
            Self::Verdict(verdict) => {
                batch.be32(1, VERDICT);
                batch.nest(2, |batch| verdict.as_verdict().encode(batch));
            }
            Self::Limit { rate, seconds, burst } => {
                batch.be64(1, *rate);
                batch.be64(2, *seconds);
                batch.be32(3, *burst);
                batch.be32(4, LIMIT_PACKETS);
                batch.be32(5, 0);
            }
            Self::Log { group, prefix } => {
                batch.str(2, prefix);
                batch.be16(1, *group);
            }
            Self::Counter(counter) => {
                batch.be64(1, counter.bytes);
                batch.be64(2, counter.packets);
            }
            Self::Queue { number } => {
                batch.be16(1, *number);
                batch.be16(2, 1);
                batch.be16(3, QUEUE_BYPASS);
            }
            Self::QueueTarget { number } => {
                batch.str(1, QUEUE_TARGET);
                batch.be32(2, QUEUE_TARGET_REVISION);
                batch.attr(3, &queue_target(*number));
            }
            Self::Masquerade { flags } => {
                if *flags != 0 {
                    batch.be32(1, *flags);
                }
            }
            Self::Reject => {
                batch.be32(1, REJECT_ICMPX);
                batch.attr(2, &[REJECT_PORT]);
            }
            Self::NoTrack | Self::Other(_) => {}
        }
    }

    /// From one element of an expression list. What is not of a shape that this crate writes is
    /// [`Expr::Other`].
    pub(super) fn decode(element: &[u8]) -> Self {
        let attrs = Attrs(element);
        let name = attrs.find(EXPR_NAME).map(buffer::text).unwrap_or_default();
        let data = Attrs(attrs.find(EXPR_DATA).unwrap_or_default());
        Self::decode_data(&name, &data).unwrap_or(Self::Other(name))
    }

    fn decode_data(name: &str, data: &Attrs<'_>) -> Option<Self> {
        let number = |kind| data.find(kind).and_then(buffer::be32);
        let value = |kind| Attrs(data.find(kind)?).find(DATA_VALUE).map(<[u8]>::to_vec);
        Some(match name {
            "meta" => {
                let key = key(&METAS, number(2)?)?;
                match (number(1), number(3)) {
                    (Some(to), None) => Self::Meta { key, to },
                    (None, Some(from)) => Self::SetMeta { key, from },
                    _ => return None,
                }
            }
            "ct" => {
                let key = key(&CTS, number(2)?)?;
                if data.find(3).map(<[u8]>::to_vec) != key.direction().map(|way| vec![way]) {
                    return None;
                }
                match (number(1), number(4)) {
                    (Some(to), None) => Self::Ct { key, to },
                    (None, Some(from)) => Self::SetCt { key, from },
                    _ => return None,
                }
            }
            "payload" => Self::Payload {
                to: number(1)?,
                base: match number(2)? {
                    1 => Base::Network,
                    2 => Base::Transport,
                    _ => return None,
                },
                offset: number(3)?,
                len: number(4)?,
            },
            "cmp" => Self::Compare {
                register: number(1)?,
                equal: match number(2)? {
                    0 => true,
                    1 => false,
                    _ => return None,
                },
                bytes: value(3)?,
            },
            // Attribute 6 is the operation: 0 or absent is mask and xor.
            "bitwise" if number(6).unwrap_or(0) == 0 => {
                Self::Bitwise { from: number(1)?, to: number(2)?, mask: value(4)?, xor: value(5)? }
            }
            "byteorder" if number(3)? == 1 => Self::ToNetworkOrder {
                from: number(1)?,
                to: number(2)?,
                len: number(4)?,
                size: number(5)?,
            },
            "lookup" => Self::Lookup {
                set: buffer::text(data.find(1)?),
                from: number(2)?,
                to: number(3),
                invert: number(5).unwrap_or(0) & LOOKUP_INVERT != 0,
            },
            "immediate" => match number(1)? {
                VERDICT => Self::Verdict(Verdict::decode(data.find(2)?)?.into()),
                to => Self::Immediate { to, bytes: value(2)? },
            },
            "limit" if number(4)? == LIMIT_PACKETS && number(5).unwrap_or(0) == 0 => Self::Limit {
                rate: buffer::be64(data.find(1)?)?,
                seconds: buffer::be64(data.find(2)?)?,
                burst: number(3)?,
            },
            // Attributes 3 to 6 are how much of it, how many at once, and what goes to the kernel's log.
            "log" if (3..=6).all(|kind| data.find(kind).is_none()) => Self::Log {
                group: data.find(1).and_then(buffer::be16)?,
                prefix: buffer::text(data.find(2)?),
            },
            "counter" => Self::Counter(Counter {
                bytes: buffer::be64(data.find(1)?)?,
                packets: buffer::be64(data.find(2)?)?,
            }),
            // One queue; attribute 4 is a register that says which.
            "queue" if data.find(4).is_none() => {
                let short = |kind| data.find(kind).and_then(buffer::be16);
                if (short(2).unwrap_or(1), short(3)?) != (1, QUEUE_BYPASS) {
                    return None;
                }
                Self::Queue { number: short(1)? }
            }
            "target" if number(2)? == QUEUE_TARGET_REVISION => {
                let (name, info) = (data.find(1).map(buffer::text)?, data.find(3)?);
                let queue = u16::from_ne_bytes(info.get(..2)?.try_into().ok()?);
                if name != QUEUE_TARGET || info != queue_target(queue) {
                    return None;
                }
                Self::QueueTarget { number: queue }
            }
            "notrack" => Self::NoTrack,
            "reject" if (number(1)?, data.find(2)?) == (REJECT_ICMPX, &[REJECT_PORT]) => {
                Self::Reject
            }
            "masq" if number(2).is_none() => Self::Masquerade { flags: number(1).unwrap_or(0) },
            _ => return None,
        })
    }
}

/// A part of a packet that set keys are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the nft expression of its name")]
pub enum Field {
    Iif,
    Oif,
    IifName,
    OifName,
    Mark,
    L4Proto,
    Ip4Source,
    Ip4Destination,
    Ip6Source,
    Ip6Destination,
    /// `th sport`: only meaningful after a check of the protocol. What stands there in ICMP is the
    /// type and the code.
    SourcePort,
    /// `th dport`: only meaningful after a check of the protocol.
    DestinationPort,
    /// `icmpv6 type`.
    Icmp6Type,
}

impl Field {
    /// The type of a set's key of this.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Iif | Self::Oif => DataType::IfaceIndex,
            Self::IifName | Self::OifName => DataType::IfName,
            Self::Mark => DataType::Mark,
            Self::L4Proto => DataType::InetProto,
            Self::Ip4Source | Self::Ip4Destination => DataType::Ipv4Addr,
            Self::Ip6Source | Self::Ip6Destination => DataType::Ipv6Addr,
            Self::SourcePort | Self::DestinationPort => DataType::InetService,
            Self::Icmp6Type => DataType::Icmpv6Type,
        }
    }

    pub(super) fn load(self, to: Register) -> Expr {
        let network =
            |offset| Expr::Payload { base: Base::Network, offset, len: self.data_type().len(), to };
        let transport = |offset| Expr::Payload {
            base: Base::Transport,
            offset,
            len: self.data_type().len(),
            to,
        };
        match self {
            Self::Iif => Expr::Meta { key: Meta::Iif, to },
            Self::Oif => Expr::Meta { key: Meta::Oif, to },
            Self::IifName => Expr::Meta { key: Meta::IifName, to },
            Self::OifName => Expr::Meta { key: Meta::OifName, to },
            Self::Mark => Expr::Meta { key: Meta::Mark, to },
            Self::L4Proto => Expr::Meta { key: Meta::L4Proto, to },
            Self::Ip4Source => network(12),
            Self::Ip4Destination => network(16),
            Self::Ip6Source => network(8),
            Self::Ip6Destination => network(24),
            Self::DestinationPort => transport(2),
            Self::SourcePort | Self::Icmp6Type => transport(0),
        }
    }
}
