//! OPEN messages and capabilities (RFC 4271 section 4.2, RFC 5492, RFC 9072).

use std::net::Ipv4Addr;

use super::{AS_TRANS, Family, MessageType, Notification, Reader, begin, code, finish};

const PARAMETER_CAPABILITIES: u8 = 2;
/// RFC 9072: the non-extended length and type that say the extended encoding follows.
const PARAMETER_EXTENDED: u8 = 255;

/// A capability (RFC 5492). Those we do not know are kept as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// RFC 4760, code 1: AFI and SAFI.
    Multiprotocol(u16, u8),
    /// RFC 2918, code 2.
    RouteRefresh,
    /// RFC 8950, code 5: families whose routes may have a next hop of another one.
    ExtendedNextHop(Vec<NextHopFamily>),
    /// RFC 8654, code 6.
    ExtendedMessage,
    /// RFC 4724 and RFC 8538, code 64.
    GracefulRestart {
        /// R: the sender has restarted.
        restarting: bool,
        /// N: the sender keeps routes over a NOTIFICATION too (RFC 8538).
        notification: bool,
        /// Seconds the sender needs to come back, 0 to 4095.
        time: u16,
        /// The families it covers.
        families: Vec<FamilyRestart>,
    },
    /// RFC 9234, code 9: what the sender is to the receiver; see [`Role::from_wire`].
    ///
    /// [`Role::from_wire`]: super::Role::from_wire
    Role(u8),
    /// RFC 6793, code 65: the sender's AS number.
    FourOctetAs(u32),
    /// RFC 7313, code 70.
    EnhancedRouteRefresh,
    /// RFC 7911, code 69: several paths to a prefix.
    AddPath(Vec<FamilyAddPath>),
    /// RFC 9494, code 71.
    LongLivedGracefulRestart(Vec<LongLivedFamily>),
    /// Anything else, as received.
    Unknown(u8, Vec<u8>),
}

/// One family of the extended next hop capability (RFC 8950 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHopFamily {
    /// Address family identifier of the routes.
    pub afi: u16,
    /// Subsequent address family identifier of the routes; here it has two octets.
    pub safi: u16,
    /// Address family identifier of their next hop.
    pub next_hop: u16,
}

impl NextHopFamily {
    /// IPv4 unicast by way of an IPv6 next hop.
    pub const IPV4_OVER_IPV6: Self = Self { afi: 1, safi: 1, next_hop: 2 };
}

/// One family of the graceful restart capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyRestart {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// F: forwarding state was kept over the restart.
    pub forwarding: bool,
}

/// One family of the ADD-PATH capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyAddPath {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// Bit 1: the sender receives several paths; bit 2: it sends them. Other values than 1 to 3 mean
    /// nothing (RFC 7911 section 4).
    pub mode: u8,
}

impl FamilyAddPath {
    /// The bit of one who receives.
    pub const RECEIVE: u8 = 1;
    /// The bit of one who sends.
    pub const SEND: u8 = 2;
}

/// One family of the long-lived graceful restart capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongLivedFamily {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// F: forwarding state was kept over the restart.
    pub forwarding: bool,
    /// Seconds for which routes may be kept once the restart time is over, 24 bits.
    pub time: u32,
}

impl Capability {
    /// The capability that offers `family`.
    pub const fn multiprotocol(family: Family) -> Self {
        let (afi, safi) = family.wire();
        Self::Multiprotocol(afi, safi)
    }

    fn parse(code: u8, value: &[u8]) -> Self {
        let typed = match (code, value) {
            (1, [high, low, _, safi]) => {
                Some(Self::Multiprotocol(u16::from_be_bytes([*high, *low]), *safi))
            }
            (2, []) => Some(Self::RouteRefresh),
            (5, families) if families.len() % 6 == 0 => {
                let families = families.chunks_exact(6).map(|f| NextHopFamily {
                    afi: u16::from_be_bytes([f[0], f[1]]),
                    safi: u16::from_be_bytes([f[2], f[3]]),
                    next_hop: u16::from_be_bytes([f[4], f[5]]),
                });
                Some(Self::ExtendedNextHop(families.collect()))
            }
            (6, []) => Some(Self::ExtendedMessage),
            (9, [role]) => Some(Self::Role(*role)),
            (64, [high, low, families @ ..]) if families.len() % 4 == 0 => {
                let flags_time = u16::from_be_bytes([*high, *low]);
                Some(Self::GracefulRestart {
                    restarting: flags_time & 0x8000 != 0,
                    notification: flags_time & 0x4000 != 0,
                    time: flags_time & 0x0fff,
                    families: families
                        .chunks_exact(4)
                        .map(|f| FamilyRestart {
                            afi: u16::from_be_bytes([f[0], f[1]]),
                            safi: f[2],
                            forwarding: f[3] & 0x80 != 0,
                        })
                        .collect(),
                })
            }
            (69, families) if families.len() % 4 == 0 => {
                let family = |f: &[u8; 4]| FamilyAddPath {
                    afi: u16::from_be_bytes([f[0], f[1]]),
                    safi: f[2],
                    mode: f[3],
                };
                Some(Self::AddPath(families.as_chunks::<4>().0.iter().map(family).collect()))
            }
            (65, [a, b, c, d]) => Some(Self::FourOctetAs(u32::from_be_bytes([*a, *b, *c, *d]))),
            (71, families) if families.len() % 7 == 0 => Some(Self::LongLivedGracefulRestart(
                families
                    .chunks_exact(7)
                    .map(|f| LongLivedFamily {
                        afi: u16::from_be_bytes([f[0], f[1]]),
                        safi: f[2],
                        forwarding: f[3] & 0x80 != 0,
                        time: u32::from_be_bytes([0, f[4], f[5], f[6]]),
                    })
                    .collect(),
            )),
            (70, []) => Some(Self::EnhancedRouteRefresh),
            _ => None,
        };
        typed.unwrap_or_else(|| Self::Unknown(code, value.to_vec()))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0, 0]);
        out[at] = match self {
            Self::Multiprotocol(afi, safi) => {
                out.extend_from_slice(&afi.to_be_bytes());
                out.extend_from_slice(&[0, *safi]);
                1
            }
            Self::RouteRefresh => 2,
            Self::ExtendedNextHop(families) => {
                for family in families {
                    for number in [family.afi, family.safi, family.next_hop] {
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                }
                5
            }
            Self::ExtendedMessage => 6,
            Self::Role(role) => {
                out.push(*role);
                9
            }
            Self::GracefulRestart { restarting, notification, time, families } => {
                let flags = u16::from(*restarting) << 15 | u16::from(*notification) << 14;
                out.extend_from_slice(&(flags | time & 0x0fff).to_be_bytes());
                for family in families {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[family.safi, u8::from(family.forwarding) << 7]);
                }
                64
            }
            Self::FourOctetAs(asn) => {
                out.extend_from_slice(&asn.to_be_bytes());
                65
            }
            Self::EnhancedRouteRefresh => 70,
            Self::AddPath(families) => {
                for family in families {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[family.safi, family.mode]);
                }
                69
            }
            Self::LongLivedGracefulRestart(families) => {
                for family in families {
                    out.extend_from_slice(&family.afi.to_be_bytes());
                    out.extend_from_slice(&[family.safi, u8::from(family.forwarding) << 7]);
                    out.extend_from_slice(&family.time.to_be_bytes()[1..]);
                }
                71
            }
            Self::Unknown(code, value) => {
                // A capability's length is one octet; what we build ourselves never exceeds it.
                out.extend_from_slice(&value[..value.len().min(255)]);
                *code
            }
        };
        out[at + 1] = u8::try_from(out.len() - at - 2).unwrap_or(u8::MAX);
    }
}

/// An OPEN message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// My Autonomous System, two octets: [`AS_TRANS`] when the real one needs four.
    pub my_as: u16,
    /// Proposed hold time in seconds.
    pub hold_time: u16,
    /// BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Capabilities in the order they came.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// An OPEN of `asn` with the given capabilities, plus the four-octet AS one.
    pub fn new(
        asn: u32,
        hold_time: u16,
        router_id: Ipv4Addr,
        mut capabilities: Vec<Capability>,
    ) -> Self {
        capabilities.push(Capability::FourOctetAs(asn));
        let my_as = u16::try_from(asn).unwrap_or(AS_TRANS);
        Self { my_as, hold_time, router_id, capabilities }
    }

    /// The sender's AS number: the four-octet one if it offered it (RFC 6793).
    pub fn asn(&self) -> u32 {
        self.capabilities
            .iter()
            .find_map(|c| match c {
                Capability::FourOctetAs(asn) => Some(*asn),
                _ => None,
            })
            .unwrap_or(u32::from(self.my_as))
    }

    /// Parses a message body. What the values mean for the session is checked by the session.
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 4271 section 6.2 for a wrong version (2/1), an unknown optional
    /// parameter (2/4) or lengths that do not fit (2/0).
    pub fn parse(body: &[u8]) -> Result<Self, Notification> {
        let malformed = || Notification::new(code::OPEN, 0, &[], "the OPEN is malformed");
        let mut reader = Reader(body);
        let version = reader.u8().ok_or_else(malformed)?;
        if version != 4 {
            return Err(Notification::new(code::OPEN, 1, &[0, 4], "only BGP version 4 is spoken"));
        }
        let my_as = reader.u16().ok_or_else(malformed)?;
        let hold_time = reader.u16().ok_or_else(malformed)?;
        let router_id = Ipv4Addr::from(reader.array::<4>().ok_or_else(malformed)?);
        let length = reader.u8().ok_or_else(malformed)?;
        let extended =
            length == PARAMETER_EXTENDED && reader.0.first() == Some(&PARAMETER_EXTENDED);
        let length = if extended {
            let _marker = reader.u8();
            reader.u16().ok_or_else(malformed)?
        } else {
            u16::from(length)
        };
        if usize::from(length) != reader.0.len() {
            return Err(malformed());
        }
        let mut capabilities = Vec::new();
        while !reader.is_empty() {
            let kind = reader.u8().ok_or_else(malformed)?;
            let length = if extended { reader.u16() } else { reader.u8().map(u16::from) };
            let value = length.and_then(|n| reader.take(usize::from(n))).ok_or_else(malformed)?;
            if kind != PARAMETER_CAPABILITIES {
                let reason = "an optional parameter other than capabilities";
                return Err(Notification::new(code::OPEN, 4, &[], reason));
            }
            let mut inner = Reader(value);
            while !inner.is_empty() {
                let code = inner.u8().ok_or_else(malformed)?;
                let value = inner.u8().and_then(|n| inner.take(usize::from(n)));
                capabilities.push(Capability::parse(code, value.ok_or_else(malformed)?));
            }
        }
        Ok(Self { my_as, hold_time, router_id, capabilities })
    }

    /// Appends the whole message; in the extended form of RFC 9072 where the capabilities exceed
    /// 255 octets.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin(out, MessageType::Open);
        out.push(4);
        out.extend_from_slice(&self.my_as.to_be_bytes());
        out.extend_from_slice(&self.hold_time.to_be_bytes());
        out.extend_from_slice(&self.router_id.octets());
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities);
        }
        match u8::try_from(capabilities.len()) {
            Ok(0) => out.push(0),
            Ok(len) if len <= 252 => {
                out.extend_from_slice(&[len + 2, PARAMETER_CAPABILITIES, len]);
            }
            _ => {
                let len = u16::try_from(capabilities.len()).unwrap_or(u16::MAX);
                out.extend_from_slice(&[PARAMETER_EXTENDED, PARAMETER_EXTENDED]);
                out.extend_from_slice(&len.saturating_add(3).to_be_bytes());
                out.push(PARAMETER_CAPABILITIES);
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
        out.extend_from_slice(&capabilities);
        finish(out, start);
    }
}
