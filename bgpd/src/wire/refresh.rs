//! ROUTE-REFRESH messages (RFC 2918, RFC 7313).

use super::{Family, HEADER_LEN, MessageType, Notification, begin, code, finish};

/// What a ROUTE-REFRESH says of a family: its message subtype (RFC 7313 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteRefresh {
    /// 0: send your routes again (RFC 2918).
    Request,
    /// 1, BoRR: my routes follow again.
    Begin,
    /// 2, EoRR: these were all.
    End,
}

impl RouteRefresh {
    const fn wire(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Begin => 1,
            Self::End => 2,
        }
    }

    /// Appends the whole message.
    pub fn encode(self, family: Family, out: &mut Vec<u8>) {
        let (afi, safi) = family.wire();
        let start = begin(out, MessageType::RouteRefresh);
        out.extend_from_slice(&afi.to_be_bytes());
        out.extend_from_slice(&[self.wire(), safi]);
        finish(out, start);
    }

    /// Parses a message body; None for what is to be ignored: a family that we do not carry, a
    /// subtype that we do not know, and a request with more to it than we offered. `enhanced` says
    /// whether the peer offered RFC 7313; without it there are only requests.
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 7313 section 5, for a demarcation of another length than 4.
    pub fn parse(body: &[u8], enhanced: bool) -> Result<Option<(Self, Family)>, Notification> {
        let what = match body.get(2) {
            Some(0) => Self::Request,
            Some(1) if enhanced => Self::Begin,
            Some(2) if enhanced => Self::End,
            _ => return Ok(None),
        };
        let [high, low, _, safi] = body else {
            if what == Self::Request {
                return Ok(None);
            }
            // The data is the whole message.
            let mut message = Vec::with_capacity(HEADER_LEN + body.len());
            let start = begin(&mut message, MessageType::RouteRefresh);
            message.extend_from_slice(body);
            finish(&mut message, start);
            let reason = "a demarcation of route refresh has 4 octets";
            return Err(Notification::new(code::ROUTE_REFRESH, 1, &message, reason));
        };
        let family = Family::from_wire(u16::from_be_bytes([*high, *low]), *safi);
        Ok(family.map(|family| (what, family)))
    }
}
