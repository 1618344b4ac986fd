//! NOTIFICATION messages (RFC 4271 section 4.5, RFC 4486, RFC 6608, RFC 9003).

use serde::Serialize;
use smallvec::SmallVec;

use super::{MessageType, begin, finish};

/// Error codes (RFC 4271 section 4.5).
#[allow(missing_docs, reason = "each is the RFC's error code of its name")]
pub mod code {
    pub const HEADER: u8 = 1;
    pub const OPEN: u8 = 2;
    pub const UPDATE: u8 = 3;
    pub const HOLD_TIMER: u8 = 4;
    pub const FSM: u8 = 5;
    pub const CEASE: u8 = 6;
    pub const ROUTE_REFRESH: u8 = 7;
    /// RFC 9687.
    pub const SEND_HOLD_TIMER: u8 = 8;
}

/// Subcodes of Cease (RFC 4486, RFC 8538, RFC 9384).
#[allow(missing_docs, reason = "each is the RFC's subcode of its name")]
pub mod cease {
    pub const MAX_PREFIXES: u8 = 1;
    pub const ADMIN_SHUTDOWN: u8 = 2;
    pub const PEER_DECONFIGURED: u8 = 3;
    pub const ADMIN_RESET: u8 = 4;
    pub const CONNECTION_REJECTED: u8 = 5;
    pub const CONFIG_CHANGE: u8 = 6;
    pub const COLLISION: u8 = 7;
    pub const OUT_OF_RESOURCES: u8 = 8;
    pub const HARD_RESET: u8 = 9;
    /// RFC 9384.
    pub const BFD_DOWN: u8 = 10;
}

/// The longest shutdown communication, in octets of UTF-8 (RFC 9003).
const MAX_COMMUNICATION: usize = 255;

/// A NOTIFICATION, received or to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notification {
    /// The error code, see [`code`].
    pub code: u8,
    /// The error subcode; 0 is unspecific.
    pub subcode: u8,
    /// The data field.
    pub data: SmallVec<[u8; 16]>,
    /// What was wrong, for logs and status. Empty on a received one.
    pub reason: &'static str,
}

impl Notification {
    /// A NOTIFICATION to send. `reason` stays here: it is for our own log and status.
    pub fn new(code: u8, subcode: u8, data: &[u8], reason: &'static str) -> Self {
        Self { code, subcode, data: SmallVec::from_slice(data), reason }
    }

    /// A Cease with a subcode of [`cease`] and no text.
    pub fn cease(subcode: u8, reason: &'static str) -> Self {
        Self::new(code::CEASE, subcode, &[], reason)
    }

    /// Administrative shutdown or reset with a message for the peer's operator (RFC 9003), cut at
    /// a character boundary if it is longer than 255 octets.
    pub fn communication(subcode: u8, text: &str, reason: &'static str) -> Self {
        let mut end = text.len().min(MAX_COMMUNICATION);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut data = SmallVec::new();
        if end > 0 {
            data.push(u8::try_from(end).unwrap_or(u8::MAX));
            data.extend_from_slice(&text.as_bytes()[..end]);
        }
        Self { code: code::CEASE, subcode, data, reason }
    }

    /// Whether the peer shall not take this for a restart (RFC 8538).
    pub fn is_hard_reset(&self) -> bool {
        (self.code, self.subcode) == (code::CEASE, cease::HARD_RESET)
    }

    /// The same as a Hard Reset (RFC 8538 section 3), which carries code, subcode and data of what
    /// it stands for.
    #[must_use]
    pub fn hard_reset(&self) -> Self {
        let mut data = SmallVec::from_slice(&[self.code, self.subcode]);
        data.extend_from_slice(&self.data);
        Self { code: code::CEASE, subcode: cease::HARD_RESET, data, reason: self.reason }
    }

    /// What a Hard Reset stands for, if it says so.
    pub fn inner(&self) -> Option<Self> {
        (self.is_hard_reset() && self.data.len() >= 2).then(|| Self::parse(&self.data))
    }

    /// Whether the session ends for long (RFC 8538 section 5.1), or packets cannot go where it said
    /// they can (RFC 9384), so that a peer that would otherwise keep the routes is sent a Hard Reset.
    pub fn is_lasting(&self) -> bool {
        let lasting =
            [cease::MAX_PREFIXES, cease::ADMIN_SHUTDOWN, cease::PEER_DECONFIGURED, cease::BFD_DOWN];
        self.code == code::CEASE && lasting.contains(&self.subcode)
    }

    /// Parses a message body. A body too short for the two codes (the framing forbids it) reads
    /// as an unspecific error.
    pub fn parse(body: &[u8]) -> Self {
        let (codes, data) = body.split_at_checked(2).unwrap_or((&[0, 0], &[]));
        Self::new(codes[0], codes[1], data, "")
    }

    /// The peer's shutdown communication (RFC 9003): only on Cease 2 and 4, also inside a Hard Reset;
    /// length octet first, invalid UTF-8 replaced, control characters removed.
    pub fn text(&self) -> Option<String> {
        if let Some(inner) = self.inner() {
            // One inside of another says nothing, and has no end.
            return if inner.is_hard_reset() { None } else { inner.text() };
        }
        if self.code != code::CEASE
            || !matches!(self.subcode, cease::ADMIN_SHUTDOWN | cease::ADMIN_RESET)
        {
            return None;
        }
        let (&len, rest) = self.data.split_first()?;
        let text = rest.get(..usize::from(len))?;
        let text: String =
            String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect();
        (!text.is_empty()).then_some(text)
    }

    /// Appends the whole message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin(out, MessageType::Notification);
        out.push(self.code);
        out.push(self.subcode);
        out.extend_from_slice(&self.data);
        finish(out, start);
    }

    /// The RFC's name of the code and subcode.
    pub fn name(&self) -> &'static str {
        match (self.code, self.subcode) {
            (1, 1) => "Message Header Error/Connection Not Synchronized",
            (1, 2) => "Message Header Error/Bad Message Length",
            (1, 3) => "Message Header Error/Bad Message Type",
            (1, _) => "Message Header Error",
            (2, 1) => "OPEN Message Error/Unsupported Version Number",
            (2, 2) => "OPEN Message Error/Bad Peer AS",
            (2, 3) => "OPEN Message Error/Bad BGP Identifier",
            (2, 4) => "OPEN Message Error/Unsupported Optional Parameter",
            (2, 6) => "OPEN Message Error/Unacceptable Hold Time",
            (2, 7) => "OPEN Message Error/Unsupported Capability",
            (2, 11) => "OPEN Message Error/Role Mismatch",
            (2, _) => "OPEN Message Error",
            (3, 1) => "UPDATE Message Error/Malformed Attribute List",
            (3, 2) => "UPDATE Message Error/Unrecognized Well-known Attribute",
            (3, 3) => "UPDATE Message Error/Missing Well-known Attribute",
            (3, 4) => "UPDATE Message Error/Attribute Flags Error",
            (3, 5) => "UPDATE Message Error/Attribute Length Error",
            (3, 6) => "UPDATE Message Error/Invalid ORIGIN Attribute",
            (3, 8) => "UPDATE Message Error/Invalid NEXT_HOP Attribute",
            (3, 9) => "UPDATE Message Error/Optional Attribute Error",
            (3, 10) => "UPDATE Message Error/Invalid Network Field",
            (3, 11) => "UPDATE Message Error/Malformed AS_PATH",
            (3, _) => "UPDATE Message Error",
            (4, _) => "Hold Timer Expired",
            (5, 1) => "Finite State Machine Error/Unexpected Message in OpenSent",
            (5, 2) => "Finite State Machine Error/Unexpected Message in OpenConfirm",
            (5, 3) => "Finite State Machine Error/Unexpected Message in Established",
            (5, _) => "Finite State Machine Error",
            (6, 1) => "Cease/Maximum Number of Prefixes Reached",
            (6, 2) => "Cease/Administrative Shutdown",
            (6, 3) => "Cease/Peer De-configured",
            (6, 4) => "Cease/Administrative Reset",
            (6, 5) => "Cease/Connection Rejected",
            (6, 6) => "Cease/Other Configuration Change",
            (6, 7) => "Cease/Connection Collision Resolution",
            (6, 8) => "Cease/Out of Resources",
            (6, 9) => "Cease/Hard Reset",
            (6, 10) => "Cease/BFD Down",
            (6, _) => "Cease",
            (7, 1) => "ROUTE-REFRESH Message Error/Invalid Message Length",
            (7, _) => "ROUTE-REFRESH Message Error",
            (8, _) => "Send Hold Timer Expired",
            _ => "unknown error",
        }
    }
}

impl std::fmt::Display for Notification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}/{})", self.name(), self.code, self.subcode)?;
        if let Some(inner) = self.inner() {
            write!(f, " for {} ({}/{})", inner.name(), inner.code, inner.subcode)?;
        }
        if let Some(text) = self.text() {
            write!(f, " {text:?}")?;
        }
        if !self.reason.is_empty() {
            write!(f, ": {}", self.reason)?;
        }
        Ok(())
    }
}
