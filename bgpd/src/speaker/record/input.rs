//! What comes into the core, one kind of record each.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use super::codec::{
    Fields, Malformed, nanoseconds, put_address, put_ip, put_number, put_octets, put_option,
};
use crate::bfd::{Diagnostic, Interface, Key, State, Status};
use crate::rib::Resolution;
use crate::speaker::{Clear, ConnId};
use crate::transport::discovery::Found;
use crate::wire::Notification;

/// A call of the core, with all that it is given.
#[derive(Debug)]
pub(super) enum Input<'a> {
    /// See [`super::settings`] for the octets.
    Apply(&'a [u8]),
    Accepted {
        remote: SocketAddr,
        local: SocketAddr,
        interface: Option<&'a str>,
    },
    Connected {
        conn: ConnId,
        local: SocketAddr,
        remote: SocketAddr,
    },
    ConnectFailed {
        conn: ConnId,
        error: &'a str,
    },
    Received {
        conn: ConnId,
        octets: &'a [u8],
    },
    Closed {
        conn: ConnId,
        error: &'a str,
    },
    Sent {
        conn: ConnId,
        octets: usize,
    },
    Tick,
    Work,
    TakeOutputs,
    TakeBfdSessions,
    Bfd(Key, Cow<'a, Status>),
    Found(Cow<'a, Found>),
    LacksKey {
        net: IpNet,
        why: &'a str,
    },
    Resolve(Cow<'a, BTreeMap<IpAddr, Resolution>>),
    Subscribe,
    Unsubscribe(u64),
    Take {
        id: u64,
        max: usize,
    },
    Acknowledge {
        id: u64,
        sequence: u64,
    },
    StationUp {
        address: SocketAddr,
        wall: Duration,
    },
    StationDown(SocketAddr),
    StationStatistics(SocketAddr),
    StationBatch(SocketAddr),
    StopAll(Option<Cow<'a, Notification>>),
    Clear {
        name: Option<&'a str>,
        how: Cow<'a, Clear>,
    },
}

impl<'a> Input<'a> {
    /// The number of its kind.
    pub(super) const fn kind(&self) -> u8 {
        match self {
            Self::Apply(_) => 2,
            Self::Accepted { .. } => 3,
            Self::Connected { .. } => 4,
            Self::ConnectFailed { .. } => 5,
            Self::Received { .. } => 6,
            Self::Closed { .. } => 7,
            Self::Sent { .. } => 8,
            Self::Tick => 9,
            Self::Work => 10,
            Self::TakeOutputs => 11,
            Self::TakeBfdSessions => 12,
            Self::Bfd(..) => 13,
            Self::Found(_) => 14,
            Self::LacksKey { .. } => 15,
            Self::Resolve(_) => 16,
            Self::Subscribe => 17,
            Self::Unsubscribe(_) => 18,
            Self::Take { .. } => 19,
            Self::Acknowledge { .. } => 20,
            Self::StationUp { .. } => 21,
            Self::StationDown(_) => 22,
            Self::StationStatistics(_) => 23,
            Self::StationBatch(_) => 24,
            Self::StopAll(_) => 25,
            Self::Clear { .. } => 26,
        }
    }

    /// Writes the fields; returns octets that belong behind them.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> &'a [u8] {
        match self {
            Self::Apply(settings) => return settings,
            Self::Accepted { remote, local, interface } => {
                put_address(out, *remote);
                put_address(out, *local);
                put_option(out, *interface, |out, name| put_octets(out, name.as_bytes()));
            }
            Self::Connected { conn, local, remote } => {
                put_number(out, conn.0);
                put_address(out, *local);
                put_address(out, *remote);
            }
            Self::ConnectFailed { conn, error } | Self::Closed { conn, error } => {
                put_number(out, conn.0);
                put_octets(out, error.as_bytes());
            }
            Self::Received { conn, octets } => {
                put_number(out, conn.0);
                return octets;
            }
            Self::Sent { conn, octets } => {
                put_number(out, conn.0);
                put_number(out, *octets as u64);
            }
            Self::Tick | Self::Work | Self::TakeOutputs | Self::TakeBfdSessions => {}
            Self::Subscribe => {}
            Self::Bfd(key, status) => put_bfd(out, key, status),
            Self::Found(found) => put_found(out, found),
            Self::LacksKey { net, why } => {
                put_ip(out, net.addr());
                out.push(net.prefix_len());
                put_octets(out, why.as_bytes());
            }
            Self::Resolve(known) => {
                put_number(out, known.len() as u64);
                for (address, resolution) in known.iter() {
                    put_ip(out, *address);
                    let metric = match resolution {
                        Resolution::Unreachable => None,
                        Resolution::Metric(metric) => Some(u64::from(*metric)),
                    };
                    put_option(out, metric, put_number);
                }
            }
            Self::Unsubscribe(id) => put_number(out, *id),
            Self::Take { id, max } => {
                put_number(out, *id);
                put_number(out, *max as u64);
            }
            Self::Acknowledge { id, sequence } => {
                put_number(out, *id);
                put_number(out, *sequence);
            }
            Self::StationUp { address, wall } => {
                put_address(out, *address);
                put_number(out, nanoseconds(*wall));
            }
            Self::StationDown(address)
            | Self::StationStatistics(address)
            | Self::StationBatch(address) => put_address(out, *address),
            Self::StopAll(notification) => {
                put_option(out, notification.as_deref(), |out, n| {
                    out.extend([n.code, n.subcode]);
                    put_octets(out, &n.data);
                });
            }
            Self::Clear { name, how } => {
                put_option(out, *name, |out, name| put_octets(out, name.as_bytes()));
                match &**how {
                    Clear::Hard { message } => {
                        out.push(0);
                        put_octets(out, message.as_bytes());
                    }
                    Clear::SoftIn => out.push(1),
                    Clear::SoftOut => out.push(2),
                }
            }
        }
        &[]
    }

    /// Reads the fields of a kind of record; None: no event has it.
    pub(super) fn decode(kind: u8, mut fields: Fields<'a>) -> Result<Option<Self>, Malformed> {
        let f = &mut fields;
        let conn = |f: &mut Fields<'_>| f.number().map(ConnId);
        let input = match kind {
            2 => Self::Apply(std::mem::take(&mut f.0.0)),
            3 => Self::Accepted {
                remote: f.address()?,
                local: f.address()?,
                interface: f.option(Fields::text)?,
            },
            4 => Self::Connected { conn: conn(f)?, local: f.address()?, remote: f.address()? },
            5 => Self::ConnectFailed { conn: conn(f)?, error: f.text()? },
            6 => Self::Received { conn: conn(f)?, octets: std::mem::take(&mut f.0.0) },
            7 => Self::Closed { conn: conn(f)?, error: f.text()? },
            8 => Self::Sent { conn: conn(f)?, octets: f.small()? },
            9 => Self::Tick,
            10 => Self::Work,
            11 => Self::TakeOutputs,
            12 => Self::TakeBfdSessions,
            13 => {
                let (key, status) = bfd(f)?;
                Self::Bfd(key, Cow::Owned(status))
            }
            14 => Self::Found(Cow::Owned(found(f)?)),
            15 => {
                let (address, len) = (f.ip()?, f.small()?);
                let net = IpNet::new(address, len).map_err(|_| "holds no prefix length")?;
                Self::LacksKey { net, why: f.text()? }
            }
            16 => {
                let mut known = BTreeMap::new();
                for _ in 0..f.number()? {
                    let address = f.ip()?;
                    let metric = f.option(Fields::small)?;
                    let resolution = metric.map_or(Resolution::Unreachable, Resolution::Metric);
                    known.insert(address, resolution);
                }
                Self::Resolve(Cow::Owned(known))
            }
            17 => Self::Subscribe,
            18 => Self::Unsubscribe(f.number()?),
            19 => Self::Take { id: f.number()?, max: f.small()? },
            20 => Self::Acknowledge { id: f.number()?, sequence: f.number()? },
            21 => Self::StationUp { address: f.address()?, wall: f.duration()? },
            22 => Self::StationDown(f.address()?),
            23 => Self::StationStatistics(f.address()?),
            24 => Self::StationBatch(f.address()?),
            25 => Self::StopAll(f.option(|f| {
                let [code, subcode] = f.0.array().ok_or("ends within a NOTIFICATION")?;
                let reason = "the speaker is shut down";
                Ok(Cow::Owned(Notification::new(code, subcode, f.octets()?, reason)))
            })?),
            26 => Self::Clear {
                name: f.option(Fields::text)?,
                how: Cow::Owned(match f.0.u8() {
                    Some(0) => Clear::Hard { message: f.text()?.to_owned() },
                    Some(1) => Clear::SoftIn,
                    Some(2) => Clear::SoftOut,
                    _ => return Err("holds an unknown way to clear"),
                }),
            },
            _ => return Ok(None),
        };
        fields.end()?;
        Ok(Some(input))
    }
}

impl fmt::Display for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(_) => f.write_str("a configuration is applied"),
            Self::Accepted { remote, local, .. } => {
                write!(f, "{remote} connects to {local}")
            }
            Self::Connected { conn, remote, .. } => {
                write!(f, "connection {} to {remote} is made", conn.0)
            }
            Self::ConnectFailed { conn, error } => {
                write!(f, "connection {} cannot be made: {error}", conn.0)
            }
            Self::Received { conn, octets } => {
                write!(f, "{} octets received on connection {}", octets.len(), conn.0)
            }
            Self::Closed { conn, error } => write!(f, "connection {} ends: {error}", conn.0),
            Self::Sent { conn, octets } => {
                write!(f, "{octets} octets sent on connection {}", conn.0)
            }
            Self::Tick => f.write_str("timers expire"),
            Self::Work => f.write_str("routes are decided and announced"),
            Self::TakeOutputs => f.write_str("what is asked of the driver"),
            Self::TakeBfdSessions => f.write_str("the BFD sessions that are wanted"),
            Self::Bfd(key, status) => write!(f, "BFD with {} is {}", key.peer, status.state),
            Self::Found(found) => match &**found {
                Found::Link(name, Some(_)) => write!(f, "interface {name} works"),
                Found::Link(name, None) => write!(f, "interface {name} is down or not there"),
                Found::Router(name, address) => write!(f, "router {address} is on {name}"),
                Found::Trouble(text) => write!(f, "interfaces cannot be watched: {text}"),
            },
            Self::LacksKey { net, why } => write!(f, "no key can be set for {net}: {why}"),
            Self::Resolve(known) => write!(f, "the ways to {} next hops are known", known.len()),
            Self::Subscribe => f.write_str("a consumer subscribes to the forwarding table"),
            Self::Unsubscribe(id) => write!(f, "consumer {id} goes"),
            Self::Take { id, .. } => write!(f, "consumer {id} takes forwarding changes"),
            Self::Acknowledge { id, sequence } => {
                write!(f, "consumer {id} has carried out batch {sequence}")
            }
            Self::StationUp { address, .. } => write!(f, "BMP station {address} is connected"),
            Self::StationDown(address) => write!(f, "BMP station {address} is gone"),
            Self::StationStatistics(address) => write!(f, "statistics for BMP station {address}"),
            Self::StationBatch(address) => write!(f, "messages for BMP station {address}"),
            Self::StopAll(_) => f.write_str("the speaker is shut down"),
            Self::Clear { name, how } => {
                let whom = name.unwrap_or("every neighbor");
                match **how {
                    Clear::Hard { .. } => write!(f, "{whom} is cleared"),
                    Clear::SoftIn => write!(f, "{whom} is asked for its routes"),
                    Clear::SoftOut => write!(f, "{whom} is sent all routes again"),
                }
            }
        }
    }
}

fn put_bfd(out: &mut Vec<u8>, key: &Key, status: &Status) {
    put_ip(out, key.peer);
    put_number(out, key.scope_id.into());
    put_option(out, key.local, put_ip);
    put_option(out, key.interface, |out, interface| put_octets(out, interface.name()));
    out.push(key.multihop.into());
    out.extend([status.state, status.remote_state].map(|state| state as u8));
    out.extend([status.diagnostic, status.remote_diagnostic].map(Diagnostic::code));
    put_number(out, status.local_discriminator.get().into());
    put_number(out, status.remote_discriminator.map_or(0, NonZeroU32::get).into());
    out.push(status.multihop.into());
    out.push(status.control_plane_independent.into());
    let Status { tx_interval, rx_interval, detection_time, since, .. } = *status;
    for duration in [tx_interval, rx_interval, detection_time, since] {
        put_number(out, nanoseconds(duration));
    }
    for count in [
        status.packets_received,
        status.packets_sent,
        status.packets_authenticated,
        status.flaps,
        status.failures,
    ] {
        put_number(out, count);
    }
    put_option(out, status.error.as_deref(), |out, text| put_octets(out, text.as_bytes()));
}

fn bfd(f: &mut Fields<'_>) -> Result<(Key, Status), Malformed> {
    let key = Key {
        peer: f.ip()?,
        scope_id: f.small()?,
        local: f.option(Fields::ip)?,
        interface: f.option(|f| Interface::new(f.text()?).ok_or("names no interface"))?,
        multihop: f.flag()?,
    };
    let state = |f: &mut Fields<'_>| {
        let number = f.0.u8().ok_or("ends within a BFD session")?;
        let state = State::ALL.into_iter().find(|state| *state as u8 == number);
        state.ok_or("holds an unknown state of BFD")
    };
    let diagnostic =
        |f: &mut Fields<'_>| f.0.u8().map(Diagnostic::new).ok_or("ends within a BFD session");
    let status = Status {
        state: state(f)?,
        remote_state: state(f)?,
        diagnostic: diagnostic(f)?,
        remote_diagnostic: diagnostic(f)?,
        local_discriminator: NonZeroU32::new(f.small()?)
            .ok_or("holds a BFD session without a discriminator")?,
        remote_discriminator: NonZeroU32::new(f.small()?),
        multihop: f.flag()?,
        control_plane_independent: f.flag()?,
        tx_interval: f.duration()?,
        rx_interval: f.duration()?,
        detection_time: f.duration()?,
        since: f.duration()?,
        packets_received: f.number()?,
        packets_sent: f.number()?,
        packets_authenticated: f.number()?,
        flaps: f.number()?,
        failures: f.number()?,
        error: f.option(Fields::text)?.map(str::to_owned),
    };
    Ok((key, status))
}

fn put_found(out: &mut Vec<u8>, found: &Found) {
    match found {
        Found::Link(name, index) => {
            out.push(0);
            put_octets(out, name.as_bytes());
            put_option(out, index.map(u64::from), put_number);
        }
        Found::Router(name, address) => {
            out.push(1);
            put_octets(out, name.as_bytes());
            out.extend(address.octets());
        }
        Found::Trouble(text) => {
            out.push(2);
            put_octets(out, text.as_bytes());
        }
    }
}

fn found(f: &mut Fields<'_>) -> Result<Found, Malformed> {
    let sort = f.0.u8().ok_or("ends before its last field")?;
    let text = f.text()?.to_owned();
    match sort {
        0 => Ok(Found::Link(text, f.option(Fields::small)?)),
        1 => {
            let address = f.0.array::<16>().ok_or("ends within an address")?;
            Ok(Found::Router(text, address.into()))
        }
        2 => Ok(Found::Trouble(text)),
        _ => Err("holds something unknown about an interface"),
    }
}
