//! What is counted of a neighbor.

use serde::Serialize;

use crate::wire::{MessageType, code};

/// Counters of a neighbor, since it was configured.
#[allow(missing_docs, reason = "messages by type and direction")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Messages of any type.
    pub messages_received: u64,
    /// Messages of any type.
    pub messages_sent: u64,
    pub opens_received: u64,
    pub opens_sent: u64,
    pub updates_received: u64,
    pub updates_sent: u64,
    pub notifications_received: u64,
    pub notifications_sent: u64,
    pub keepalives_received: u64,
    pub keepalives_sent: u64,
    pub route_refreshes_received: u64,
    pub route_refreshes_sent: u64,
    /// Times the session came up.
    pub established: u64,
    /// Times an established session ended.
    pub dropped: u64,
    /// UPDATEs whose routes were taken as withdrawn (RFC 7606).
    pub treated_as_withdraw: u64,
    /// Attributes left out (RFC 7606).
    pub attributes_discarded: u64,
    /// Families disabled for the rest of a session (RFC 7606).
    pub families_disabled: u64,
    /// Sessions ended because an UPDATE could not be parsed (RFC 7606 leaves few such errors).
    pub malformed_resets: u64,
}

impl Counters {
    /// Counts messages of one type.
    pub(in crate::speaker) const fn count(
        &mut self,
        kind: MessageType,
        received: bool,
        messages: u64,
    ) {
        let (all, one) = match (kind, received) {
            (MessageType::Open, true) => (&mut self.messages_received, &mut self.opens_received),
            (MessageType::Open, false) => (&mut self.messages_sent, &mut self.opens_sent),
            (MessageType::Update, true) => {
                (&mut self.messages_received, &mut self.updates_received)
            }
            (MessageType::Update, false) => (&mut self.messages_sent, &mut self.updates_sent),
            (MessageType::Notification, true) => {
                (&mut self.messages_received, &mut self.notifications_received)
            }
            (MessageType::Notification, false) => {
                (&mut self.messages_sent, &mut self.notifications_sent)
            }
            (MessageType::Keepalive, true) => {
                (&mut self.messages_received, &mut self.keepalives_received)
            }
            (MessageType::Keepalive, false) => (&mut self.messages_sent, &mut self.keepalives_sent),
            (MessageType::RouteRefresh, true) => {
                (&mut self.messages_received, &mut self.route_refreshes_received)
            }
            (MessageType::RouteRefresh, false) => {
                (&mut self.messages_sent, &mut self.route_refreshes_sent)
            }
        };
        *all += messages;
        *one += messages;
    }
}

/// NOTIFICATIONs by direction and error code (RFC 4271 section 4.5). Codes that nobody has defined
/// count as one: a peer cannot make the list longer than that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::speaker) struct NotificationCounts([[u64; KNOWN + 1]; 2]);

/// Codes that are defined, from 1.
const KNOWN: usize = code::SEND_HOLD_TIMER as usize;

/// How many NOTIFICATIONs of one kind there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NotificationCount {
    /// Whether the peer sent them.
    pub received: bool,
    /// The error code, see [`code`]; 0: one that is not defined.
    pub code: u8,
    /// How many.
    pub count: u64,
}

impl NotificationCounts {
    pub(in crate::speaker) fn count(&mut self, received: bool, code: Option<&u8>) {
        let code = code.map_or(0, |code| usize::from(*code));
        self.0[usize::from(received)][if code > KNOWN { 0 } else { code }] += 1;
    }

    /// Those that there were.
    pub(super) fn list(&self) -> Vec<NotificationCount> {
        let of = |received: bool| {
            let codes = (0..).zip(self.0[usize::from(received)]);
            codes.map(move |(code, count)| NotificationCount { received, code, count })
        };
        of(true).chain(of(false)).filter(|it| it.count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_counted_by_direction_and_code() {
        let mut counts = NotificationCounts::default();
        for code in [6, 6, 2, 99, 255] {
            counts.count(true, Some(&code));
        }
        counts.count(true, None);
        counts.count(false, Some(&8));
        let list = |received, all: &[(u8, u64)]| -> Vec<NotificationCount> {
            let of = |(code, count): &(u8, u64)| NotificationCount {
                received,
                code: *code,
                count: *count,
            };
            all.iter().map(of).collect()
        };
        let wanted = [list(true, &[(0, 3), (2, 1), (6, 2)]), list(false, &[(8, 1)])].concat();
        assert_eq!(counts.list(), wanted);
    }
}
