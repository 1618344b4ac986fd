//! BFD control packets (RFC 5880 section 4.1): octets to fields and back. Total on any input.

use std::num::NonZeroU32;

use serde::Serialize;

/// Octets of a packet without authentication.
pub const LEN: usize = 24;
/// The version that is spoken.
const VERSION: u8 = 1;

/// State of a session (RFC 5880 section 4.1), with its number on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum State {
    /// Turned off by an operator; says nothing about the path.
    AdminDown = 0,
    /// The other side is not heard.
    #[default]
    Down = 1,
    /// The other side is heard, but does not hear us yet.
    Init = 2,
    /// Both sides hear each other.
    Up = 3,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AdminDown => "AdminDown",
            Self::Down => "Down",
            Self::Init => "Init",
            Self::Up => "Up",
        })
    }
}

/// Why a session last changed its state for the worse (RFC 5880 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "&'static str")]
pub struct Diagnostic(u8);

impl Diagnostic {
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    /// The other side said that the session is down.
    pub const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    /// Turned off by an operator.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);

    /// Of a code on the wire, of which five bits count.
    pub const fn new(code: u8) -> Self {
        Self(code & 0x1f)
    }

    /// The code on the wire, 0 to 31.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The RFC's name.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "No Diagnostic",
            1 => "Control Detection Time Expired",
            2 => "Echo Function Failed",
            3 => "Neighbor Signaled Session Down",
            4 => "Forwarding Plane Reset",
            5 => "Path Down",
            6 => "Concatenated Path Down",
            7 => "Administratively Down",
            8 => "Reverse Concatenated Path Down",
            _ => "Reserved",
        }
    }
}

impl From<Diagnostic> for &'static str {
    fn from(diagnostic: Diagnostic) -> Self {
        diagnostic.name()
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A control packet that has passed the checks that need no session. The Multipoint bit, which must
/// be clear, and authentication, which is not supported, have no field. Echo is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The sender's state.
    pub state: State,
    /// Why the sender's state last changed.
    pub diagnostic: Diagnostic,
    /// P: the receiver is to answer at once.
    pub poll: bool,
    /// F: the answer to P.
    pub is_final: bool,
    /// C: the sender's BFD outlives its control plane.
    pub control_plane_independent: bool,
    /// A: an authentication section follows.
    pub authenticated: bool,
    /// D: the sender wants no periodic packets while the session is Up.
    pub demand: bool,
    /// Packets in a row whose loss ends the session; not 0.
    pub multiplier: u8,
    /// The sender's number for the session.
    pub my_discriminator: NonZeroU32,
    /// The receiver's number for the session, once the sender knows it.
    pub your_discriminator: Option<NonZeroU32>,
    /// The interval at which the sender would like to send, in microseconds.
    pub desired_min_tx: u32,
    /// The shortest interval at which the sender can receive, in microseconds; 0: send nothing.
    pub required_min_rx: u32,
    /// The same for echo packets; 0: none, please.
    pub required_min_echo_rx: u32,
}

/// Why a packet is discarded without a look at its session (RFC 5880 section 6.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Too short for its fields, or shorter than its length field says.
    #[error("the length field does not fit")]
    Length,
    /// Another version of the protocol.
    #[error("the version is not 1")]
    Version,
    /// The multiplier is 0.
    #[error("the detection multiplier is 0")]
    Multiplier,
    /// The Multipoint bit is set.
    #[error("the Multipoint bit is set")]
    Multipoint,
    /// The sender has no number.
    #[error("My Discriminator is 0")]
    MyDiscriminator,
    /// No number of ours, in a state that cannot be reached without one.
    #[error("Your Discriminator is 0 in state Init or Up")]
    YourDiscriminator,
}

mod bit {
    pub(super) const POLL: u8 = 0x20;
    pub(super) const FINAL: u8 = 0x10;
    pub(super) const INDEPENDENT: u8 = 0x08;
    pub(super) const AUTHENTICATED: u8 = 0x04;
    pub(super) const DEMAND: u8 = 0x02;
    pub(super) const MULTIPOINT: u8 = 0x01;
}

impl Packet {
    /// Parses the payload of a UDP packet; octets behind the length field's are no part of it.
    ///
    /// # Errors
    /// What is wrong with it; such a packet is to be discarded.
    pub fn parse(octets: &[u8]) -> Result<Self, Malformed> {
        let Some((fixed, _)) = octets.split_first_chunk::<LEN>() else {
            return Err(Malformed::Length);
        };
        let [first, second, multiplier, len, rest @ ..] = fixed;
        let authenticated = second & bit::AUTHENTICATED != 0;
        let len = usize::from(*len);
        if first >> 5 != VERSION {
            return Err(Malformed::Version);
        }
        if len < LEN + usize::from(authenticated) * 2 || len > octets.len() {
            return Err(Malformed::Length);
        }
        if *multiplier == 0 {
            return Err(Malformed::Multiplier);
        }
        if second & bit::MULTIPOINT != 0 {
            return Err(Malformed::Multipoint);
        }
        let mut words = rest.chunks_exact(4).map(|c| u32::from_be_bytes([c[0], c[1], c[2], c[3]]));
        let mut word = || words.next().unwrap_or(0);
        let my_discriminator = NonZeroU32::new(word()).ok_or(Malformed::MyDiscriminator)?;
        let your_discriminator = NonZeroU32::new(word());
        let state = State::ALL[usize::from(second >> 6)];
        if your_discriminator.is_none() && matches!(state, State::Init | State::Up) {
            return Err(Malformed::YourDiscriminator);
        }
        Ok(Self {
            state,
            diagnostic: Diagnostic::new(*first),
            poll: second & bit::POLL != 0,
            is_final: second & bit::FINAL != 0,
            control_plane_independent: second & bit::INDEPENDENT != 0,
            authenticated,
            demand: second & bit::DEMAND != 0,
            multiplier: *multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: word(),
            required_min_rx: word(),
            required_min_echo_rx: word(),
        })
    }

    /// The packet on the wire. Its A bit stays clear: there is nothing to authenticate with.
    pub fn encode(&self) -> [u8; LEN] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut out = [0; LEN];
        out[0] = VERSION << 5 | self.diagnostic.code();
        out[1] = (self.state as u8) << 6
            | flag(self.poll, bit::POLL)
            | flag(self.is_final, bit::FINAL)
            | flag(self.control_plane_independent, bit::INDEPENDENT)
            | flag(self.demand, bit::DEMAND);
        out[2] = self.multiplier;
        out[3] = 24;
        let words = [
            self.my_discriminator.get(),
            self.your_discriminator.map_or(0, NonZeroU32::get),
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        for (place, word) in out[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        out
    }
}
