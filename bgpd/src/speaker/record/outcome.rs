//! What the core answered, as far as it shows from outside: what a replay is held against.

use std::fmt;
use std::net::IpAddr;

use super::codec::{
    Digest, Fields, Malformed, digest, nanoseconds, put_ip, put_number, put_option,
};
use crate::rib::{Dest, RibPrefix};
use crate::speaker::neighbor::Outgoing;
use crate::speaker::{ConnId, Core, FibBatch, Output, Report, Time};

/// What followed an input. Those that it has none of say nothing but what the next
/// [`Self::Worked`] shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Applied {
        changes: u64,
    },
    Accepted(Option<ConnId>),
    Connected(bool),
    /// Octets that were there to be sent, as many as were.
    Sent {
        octets: u64,
        digest: u32,
    },
    /// Connections with octets that had not been read: those the core asked about.
    Unread(Vec<ConnId>),
    Worked(Worked),
    Outputs {
        count: u64,
        digest: u32,
    },
    BfdSessions {
        count: u64,
        digest: u32,
    },
    Resolved {
        decided: u64,
    },
    Subscribed {
        id: u64,
    },
    Batch(Option<Batch>),
    Messages {
        octets: u64,
        digest: u32,
    },
}

/// Forwarding changes that a consumer took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    sequence: u64,
    deltas: u64,
    more: bool,
    converged: bool,
    digest: u32,
}

/// What was decided since the beginning: which paths each prefix had, and what became of them.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::speaker) struct Decisions(Digest);

impl Decisions {
    pub(in crate::speaker) fn note<P: RibPrefix>(&mut self, dest: &Dest<P>) {
        let net = dest.prefix.to_net();
        match net.addr() {
            IpAddr::V4(v4) => self.0.octets(&v4.octets()),
            IpAddr::V6(v6) => self.0.octets(&v6.octets()),
        }
        self.0.octets(&[net.prefix_len()]);
        for path in &dest.paths {
            let [high, low] = path.peer.0.to_be_bytes();
            self.0.octets(&[high, low, path.reason as u8, u8::from(path.is_used())]);
            self.0.octets(&path.id.to_be_bytes());
        }
    }
}

/// The core after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Worked {
    /// It has more to do at once.
    more: bool,
    /// It wants to say what BFD is to do.
    bfd: bool,
    /// Requests that wait for the driver.
    outputs: u64,
    /// IPv4 and IPv6 prefixes, attribute sets.
    stored: [u64; 3],
    /// Best paths and forwarding entries that have changed since the beginning.
    changed: [u64; 2],
    /// Digest of what was decided since the beginning.
    decided: u32,
    /// When a timer is due next.
    deadline: Option<Time>,
}

impl Worked {
    pub(super) fn of(core: &Core, more: bool) -> Self {
        let rib = &core.rib;
        Self {
            more,
            bfd: core.bfd_changed,
            outputs: core.outputs.len() as u64,
            stored: [rib.v4.len(), rib.v6.len(), rib.attrs.len()].map(|n| n as u64),
            changed: [core.work_done.best_changes, core.work_done.fib_changes],
            decided: core.decisions.unwrap_or_default().0.finish(),
            deadline: core.next_deadline(),
        }
    }
}

impl Outcome {
    pub(super) const fn applied(report: &Report) -> Self {
        Self::Applied { changes: report.changes.len() as u64 }
    }

    pub(super) fn sent(outgoing: Option<&Outgoing>, octets: usize) -> Self {
        let mut left = octets;
        let mut digest = Digest::default();
        for chunk in outgoing.into_iter().flat_map(Outgoing::chunks) {
            let part = &chunk[..chunk.len().min(left)];
            digest.octets(part);
            left -= part.len();
            if left == 0 {
                break;
            }
        }
        Self::Sent { octets: (octets - left) as u64, digest: digest.finish() }
    }

    pub(super) fn outputs(outputs: &[Output]) -> Self {
        let mut octets = Vec::new();
        for output in outputs {
            match output {
                Output::Connect { conn, peer, external } => {
                    octets.push(1);
                    put_number(&mut octets, conn.0);
                    put_ip(&mut octets, peer.address);
                    put_number(&mut octets, peer.port.into());
                    octets.push(u8::from(*external));
                }
                Output::Write(conn) => {
                    octets.push(2);
                    put_number(&mut octets, conn.0);
                }
                Output::Close { conn, last } => {
                    octets.push(3);
                    put_number(&mut octets, conn.0);
                    put_number(&mut octets, last.iter().map(|part| part.len() as u64).sum());
                    last.iter().for_each(|part| octets.extend_from_slice(part));
                }
            }
        }
        Self::Outputs { count: outputs.len() as u64, digest: digest(&octets) }
    }

    pub(super) fn bfd_sessions(keys: impl ExactSizeIterator<Item = IpAddr>) -> Self {
        let count = keys.len() as u64;
        let mut octets = Vec::new();
        keys.for_each(|peer| put_ip(&mut octets, peer));
        Self::BfdSessions { count, digest: digest(&octets) }
    }

    pub(super) fn batch(batch: Option<&FibBatch>) -> Self {
        Self::Batch(batch.map(|batch| {
            let mut octets = Vec::new();
            let mut digest = Digest::default();
            for delta in &batch.deltas {
                octets.clear();
                put_ip(&mut octets, delta.prefix.addr());
                octets.push(delta.prefix.prefix_len());
                put_number(&mut octets, delta.next_hops.len() as u64);
                for hop in &delta.next_hops {
                    put_ip(&mut octets, hop.addr);
                    put_number(&mut octets, hop.interface.unwrap_or(0).into());
                }
                digest.octets(&octets);
            }
            Batch {
                sequence: batch.sequence,
                deltas: batch.deltas.len() as u64,
                more: batch.more,
                converged: batch.converged,
                digest: digest.finish(),
            }
        }))
    }

    pub(super) fn messages(batch: Result<Option<&[u8]>, &'static str>) -> Self {
        let octets = match batch {
            Ok(octets) => octets.unwrap_or_default(),
            Err(error) => error.as_bytes(),
        };
        Self::Messages { octets: octets.len() as u64, digest: digest(octets) }
    }

    pub(super) const fn kind(&self) -> u8 {
        match self {
            Self::Applied { .. } => 64,
            Self::Accepted(_) => 65,
            Self::Connected(_) => 66,
            Self::Sent { .. } => 67,
            Self::Unread(_) => 68,
            Self::Worked(_) => 69,
            Self::Outputs { .. } => 70,
            Self::BfdSessions { .. } => 71,
            Self::Resolved { .. } => 72,
            Self::Subscribed { .. } => 73,
            Self::Batch(_) => 74,
            Self::Messages { .. } => 75,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Applied { changes } => put_number(out, *changes),
            Self::Accepted(conn) => put_option(out, conn.map(|conn| conn.0), put_number),
            Self::Connected(wanted) => out.push(u8::from(*wanted)),
            Self::Sent { octets: count, digest }
            | Self::Messages { octets: count, digest }
            | Self::Outputs { count, digest }
            | Self::BfdSessions { count, digest } => {
                put_number(out, *count);
                out.extend(digest.to_be_bytes());
            }
            Self::Unread(connections) => {
                put_number(out, connections.len() as u64);
                connections.iter().for_each(|conn| put_number(out, conn.0));
            }
            Self::Worked(Worked { more, bfd, outputs, stored, changed, decided, deadline }) => {
                out.extend([u8::from(*more), u8::from(*bfd)]);
                put_number(out, *outputs);
                stored.iter().chain(changed).for_each(|count| put_number(out, *count));
                out.extend(decided.to_be_bytes());
                put_option(out, deadline.map(nanoseconds), put_number);
            }
            Self::Resolved { decided } => put_number(out, *decided),
            Self::Subscribed { id } => put_number(out, *id),
            Self::Batch(batch) => {
                put_option(out, batch.as_ref(), |out, batch| {
                    put_number(out, batch.sequence);
                    put_number(out, batch.deltas);
                    out.extend([u8::from(batch.more), u8::from(batch.converged)]);
                    out.extend(batch.digest.to_be_bytes());
                });
            }
        }
    }

    /// None: no outcome is of this kind.
    pub(super) fn decode(kind: u8, mut fields: Fields<'_>) -> Result<Option<Self>, Malformed> {
        let f = &mut fields;
        let sum = |f: &mut Fields<'_>| f.0.u32().ok_or("ends within a digest");
        let outcome = match kind {
            64 => Self::Applied { changes: f.number()? },
            65 => Self::Accepted(f.option(|f| f.number().map(ConnId))?),
            66 => Self::Connected(f.flag()?),
            67 => Self::Sent { octets: f.number()?, digest: sum(f)? },
            68 => {
                let mut connections = Vec::new();
                for _ in 0..f.number()? {
                    connections.push(ConnId(f.number()?));
                }
                Self::Unread(connections)
            }
            69 => Self::Worked(Worked {
                more: f.flag()?,
                bfd: f.flag()?,
                outputs: f.number()?,
                stored: [f.number()?, f.number()?, f.number()?],
                changed: [f.number()?, f.number()?],
                decided: sum(f)?,
                deadline: f.option(Fields::duration)?,
            }),
            70 => Self::Outputs { count: f.number()?, digest: sum(f)? },
            71 => Self::BfdSessions { count: f.number()?, digest: sum(f)? },
            72 => Self::Resolved { decided: f.number()? },
            73 => Self::Subscribed { id: f.number()? },
            74 => Self::Batch(f.option(|f| {
                Ok(Batch {
                    sequence: f.number()?,
                    deltas: f.number()?,
                    more: f.flag()?,
                    converged: f.flag()?,
                    digest: sum(f)?,
                })
            })?),
            75 => Self::Messages { octets: f.number()?, digest: sum(f)? },
            _ => return Ok(None),
        };
        fields.end()?;
        Ok(Some(outcome))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied { changes } => write!(f, "{changes} changes"),
            Self::Accepted(Some(conn)) => write!(f, "accepted as connection {}", conn.0),
            Self::Accepted(None) => f.write_str("refused"),
            Self::Connected(true) => f.write_str("wanted"),
            Self::Connected(false) => f.write_str("not wanted any more"),
            Self::Sent { octets, digest } => write!(f, "{octets} octets of digest {digest:08x}"),
            Self::Unread(connections) => {
                write!(f, "{} connections with octets not read yet", connections.len())
            }
            Self::Worked(worked) => {
                let [v4, v6, sets] = worked.stored;
                let [best, fib] = worked.changed;
                let deadline =
                    worked.deadline.map_or_else(|| "none".into(), |at| format!("{at:?}"));
                write!(
                    f,
                    "{} requests, {v4} IPv4 and {v6} IPv6 prefixes, {sets} attribute sets, \
                     {best} changes of best paths and {fib} of the forwarding table so far, \
                     decisions of digest {:08x}, next timer: {deadline}{}{}",
                    worked.outputs,
                    worked.decided,
                    if worked.more { ", more to do" } else { "" },
                    if worked.bfd { ", BFD sessions" } else { "" },
                )
            }
            Self::Outputs { count, digest } => {
                write!(f, "{count} requests of digest {digest:08x}")
            }
            Self::BfdSessions { count, digest } => {
                write!(f, "{count} BFD sessions of digest {digest:08x}")
            }
            Self::Resolved { decided } => write!(f, "{decided} prefixes to be decided anew"),
            Self::Subscribed { id } => write!(f, "consumer {id}"),
            Self::Batch(None) => f.write_str("no such consumer"),
            Self::Batch(Some(batch)) => {
                let Batch { sequence, deltas, more, converged, digest } = batch;
                write!(
                    f,
                    "batch {sequence} of {deltas} changes of digest {digest:08x}{}{}",
                    if *more { ", more waits" } else { "" },
                    if *converged { ", converged" } else { "" },
                )
            }
            Self::Messages { octets, digest } => {
                write!(f, "{octets} octets of digest {digest:08x}")
            }
        }
    }
}
