//! The last messages of a neighbor, for who asks what was said before a session went down.

use std::collections::VecDeque;
use std::fmt::Write as _;

use smallvec::SmallVec;

use super::core::Time;
use super::status::MessageStatus;
use crate::wire::{Family, HEADER_LEN, MessageType, Notification, Open};

/// Messages kept for each direction.
const KEPT: usize = 16;
/// Octets kept of the body of each.
const HEAD: usize = 64;

/// What is kept: some two kilobytes for each neighbor.
#[derive(Debug, Default)]
pub(super) struct History {
    received: VecDeque<Entry>,
    sent: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    at: Time,
    kind: MessageType,
    messages: usize,
    octets: usize,
    /// The length of the first one's body.
    body: usize,
    head: SmallVec<[u8; HEAD]>,
}

impl History {
    /// A message that has come.
    pub(super) fn received(&mut self, at: Time, kind: MessageType, body: &[u8]) {
        let octets = HEADER_LEN + body.len();
        note(&mut self.received, Entry::new(at, kind, 1, octets, body));
    }

    /// Messages of one type, queued in one go.
    pub(super) fn sent(&mut self, at: Time, kind: MessageType, messages: usize, octets: &[u8]) {
        let Some(header) = octets.first_chunk::<HEADER_LEN>() else { return };
        let len = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let body = octets.get(HEADER_LEN..len).unwrap_or_default();
        note(&mut self.sent, Entry::new(at, kind, messages, octets.len(), body));
    }

    /// All of them, oldest first.
    pub(super) fn statuses(&self, now: Time) -> Vec<MessageStatus> {
        let received = self.received.iter().map(|entry| (true, entry));
        let mut all: Vec<(bool, &Entry)> =
            received.chain(self.sent.iter().map(|entry| (false, entry))).collect();
        all.sort_by_key(|(_, entry)| entry.at);
        all.into_iter().map(|(received, entry)| entry.status(received, now)).collect()
    }
}

/// Keeps an entry. A KEEPALIVE takes the place of the one before: a session that has long been
/// quiet still shows how it came up.
fn note(ring: &mut VecDeque<Entry>, entry: Entry) {
    let keepalive = |entry: &Entry| entry.kind == MessageType::Keepalive;
    if keepalive(&entry) && ring.back().is_some_and(keepalive) {
        ring.pop_back();
    } else if ring.len() >= KEPT {
        ring.pop_front();
    }
    ring.push_back(entry);
}

impl Entry {
    fn new(at: Time, kind: MessageType, messages: usize, octets: usize, body: &[u8]) -> Self {
        let head = SmallVec::from_slice(&body[..body.len().min(HEAD)]);
        Self { at, kind, messages, octets, body: body.len(), head }
    }

    fn status(&self, received: bool, now: Time) -> MessageStatus {
        let mut head = String::with_capacity(2 * self.head.len());
        for octet in &self.head {
            // Writing to a String does not fail.
            let _infallible = write!(head, "{octet:02x}");
        }
        MessageStatus {
            ago: now.saturating_sub(self.at),
            received,
            kind: self.kind,
            messages: self.messages,
            octets: self.octets,
            summary: self.summary(),
            head,
        }
    }

    fn summary(&self) -> String {
        let head = &self.head[..];
        match self.kind {
            MessageType::Keepalive => String::new(),
            MessageType::Notification => Notification::parse(head).to_string(),
            MessageType::Open => match Open::parse(head) {
                Ok(open) => {
                    format!("AS {}, hold time {}, {}", open.asn(), open.hold_time, open.router_id)
                }
                // Longer than what is kept of it, or none that can be read.
                Err(_) => head.get(1..9).map_or_else(String::new, |fixed| {
                    let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
                    format!("AS {} (two octets), hold time {}", word(0), word(2))
                }),
            },
            MessageType::RouteRefresh => match head {
                [high, low, subtype, safi, ..] => {
                    let afi = u16::from_be_bytes([*high, *low]);
                    let family = Family::from_wire(afi, *safi)
                        .map_or_else(|| format!("{afi}/{safi}"), |f| f.to_string());
                    match subtype {
                        0 => family,
                        1 => format!("{family}, begin"),
                        2 => format!("{family}, end"),
                        other => format!("{family}, subtype {other}"),
                    }
                }
                _ => String::new(),
            },
            MessageType::Update => self.update(),
        }
    }

    /// How long the fields of an UPDATE are (RFC 4271 section 4.3).
    fn update(&self) -> String {
        let word = |at: usize| {
            let octets = self.head.get(at..at + 2)?;
            Some(usize::from(u16::from_be_bytes([octets[0], octets[1]])))
        };
        if self.body == 4 {
            return "End-of-RIB ipv4-unicast".to_owned();
        }
        let Some(withdrawn) = word(0) else { return String::new() };
        match word(2 + withdrawn) {
            Some(attributes) => {
                let nlri = self.body.saturating_sub(4 + withdrawn + attributes);
                format!("octets: withdrawn {withdrawn}, attributes {attributes}, NLRI {nlri}")
            }
            None => format!("octets: withdrawn {withdrawn}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wire::{encode_end_of_rib, encode_keepalive, frame};

    fn at(seconds: u64) -> Time {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_said_is_kept_and_never_too_much_of_it() {
        let mut history = History::default();
        let mut open = Vec::new();
        let id = std::net::Ipv4Addr::new(192, 0, 2, 1);
        Open::new(65001, 90, id, Vec::new()).encode(&mut open);
        history.sent(at(0), MessageType::Open, 1, &open);
        for second in 1..1000 {
            let mut keepalive = Vec::new();
            encode_keepalive(&mut keepalive);
            history.sent(at(second), MessageType::Keepalive, 1, &keepalive);
            let body = frame(&open, 4096).unwrap().unwrap().body;
            history.received(at(second), MessageType::Update, &[body, &[0; 4000]].concat());
        }
        let all = history.statuses(at(1000));
        assert_eq!(all.iter().filter(|m| m.received).count(), KEPT);
        let sent: Vec<_> = all.iter().filter(|m| !m.received).collect();
        assert_eq!(sent.len(), 2, "KEEPALIVEs do not drive out the OPEN");
        assert_eq!(sent[0].summary, "AS 65001, hold time 90, 192.0.2.1");
        assert_eq!(sent[1].ago, at(1), "the latest one");
        assert!(all.iter().all(|m| m.head.len() <= 2 * HEAD));
        assert!(all.is_sorted_by_key(|m| std::cmp::Reverse(m.ago)));
    }

    #[test]
    fn messages_say_in_short_what_they_are() {
        let mut history = History::default();
        let mut out = Vec::new();
        encode_end_of_rib(Family::Ipv4Unicast, &mut out);
        history.sent(at(0), MessageType::Update, 1, &out);
        let update = [0, 2, 8, 10, 0, 4, 0x40, 1, 1, 0, 24, 10, 0, 1];
        history.received(at(1), MessageType::Update, &update);
        history.received(at(2), MessageType::RouteRefresh, &[0, 2, 1, 1]);
        history.received(at(3), MessageType::Notification, &[6, 2, 3, b'b', b'y', b'e']);
        // Whatever it is, it is shown.
        for body in [&[][..], &[0], &[255; 60], &[0, 200, 1]] {
            for kind in [MessageType::Open, MessageType::Update, MessageType::RouteRefresh] {
                history.received(at(4), kind, body);
            }
        }
        let all: Vec<String> = history.statuses(at(9)).into_iter().map(|m| m.summary).collect();
        assert_eq!(all[0], "End-of-RIB ipv4-unicast");
        assert_eq!(all[1], "octets: withdrawn 2, attributes 4, NLRI 4");
        assert_eq!(all[2], "ipv6-unicast, begin");
        assert_eq!(all[3], "Cease/Administrative Shutdown (6/2) \"bye\"");
    }
}
