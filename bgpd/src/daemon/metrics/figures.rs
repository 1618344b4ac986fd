//! What is measured, by name. Names begin with `bgp_`; durations are in seconds, sizes in bytes.
//! Labels name peers, listen ranges and what is listed here, never what a peer may say freely: how
//! many series there are follows from the configuration.

use std::fmt;

use bgpd::bfd::State as BfdState;
use bgpd::wire::code;
use bgpd::{FamilyStatus, NeighborStatus, SpeakerStatus, State};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

type Labels = Vec<(&'static str, String)>;

/// All of it in the text format of OpenMetrics.
pub(super) fn text(
    status: &SpeakerStatus,
    neighbors: &[NeighborStatus],
) -> Result<String, fmt::Error> {
    let mut figures = Figures(Registry::with_prefix("bgp"));
    figures.speaker(status);
    figures.ranges(status);
    figures.sessions(neighbors);
    figures.downs(neighbors);
    figures.messages(neighbors);
    figures.prefixes(neighbors);
    figures.bfd(status, neighbors);
    let mut text = String::new();
    encode(&mut text, &figures.0)?;
    Ok(text)
}

struct Figures(Registry);

impl Figures {
    fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = gauge_family(values);
        self.0.register(name, help, family);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.0.register(name, help, gauge);
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        self.0.register(name, help, counter);
    }

    fn seconds(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register_with_unit(name, help, Unit::Seconds, family);
    }

    fn speaker(&mut self, status: &SpeakerStatus) {
        let families = ["ipv4-unicast", "ipv6-unicast"].into_iter().zip(status.prefixes);
        let known = families.map(|(family, n)| (vec![("family", family.to_owned())], n as u64));
        self.gauges("rib_prefixes", "Prefixes known", known);
        let sets = status.attribute_sets as u64;
        self.gauge("attribute_sets", "Distinct attribute sets stored", sets);
        let groups = status.update_groups as u64;
        self.gauge("update_groups", "Sets of peers that share an encoding", groups);
        let help = "Forwarding changes not taken yet by the consumer that is furthest behind";
        self.gauge("fib_pending", help, status.fib_pending as u64);
        let help = "Batches of forwarding changes taken and not acknowledged";
        self.gauge("fib_unacknowledged", help, status.fib_unacknowledged as u64);
        let help = "Prefixes not announced before the kernel is known to have them";
        self.gauge("fib_awaited", help, status.fib_awaited as u64);
        let help = "Whether the time after start, in which peers are waited for, is over";
        self.gauge("converged", help, u64::from(status.progress.converged));
        let work = status.work;
        self.counter("rounds", "Times that the speaker looked what there was to do", work.rounds);
        let help = "Decisions that gave a prefix another best path";
        self.counter("best_path_changes", help, work.best_changes);
        let help = "Decisions that gave a prefix other next hops";
        self.counter("forwarding_changes", help, work.fib_changes);
    }

    fn ranges(&mut self, status: &SpeakerStatus) {
        let ranges = || {
            let all = status.listen_ranges.iter();
            all.map(|range| (vec![("range", range.name.clone())], range))
        };
        let help = "Neighbors that came from the listen range";
        let neighbors = ranges().map(|(labels, range)| (labels, range.neighbors as u64));
        self.gauges("listen_range_neighbors", help, neighbors);
        let help = "Neighbors that there may be from the listen range";
        let limits = ranges().map(|(labels, range)| (labels, range.limit.into()));
        self.gauges("listen_range_limit", help, limits);
        let help = "Connections refused because the listen range is full";
        let refused = ranges().map(|(labels, range)| (labels, range.refused));
        self.counters("listen_range_refused", help, refused);
    }

    fn sessions(&mut self, neighbors: &[NeighborStatus]) {
        let each = |value: fn(&NeighborStatus) -> u64| {
            neighbors.iter().map(move |n| (labels(n, &[]), value(n)))
        };
        let up = each(|n| u64::from(n.state == State::Established));
        self.gauges("peer_up", "Whether the session is Established", up);
        let help = "Time since the state last changed";
        let ages = neighbors.iter().map(|n| (labels(n, &[]), n.since.as_secs_f64()));
        self.seconds("peer_state_age", help, ages);
        let help = "What is queued for the peer and not sent yet";
        let queues = gauge_family(each(|n| n.queued_octets as u64));
        self.0.register_with_unit("peer_queue", help, Unit::Bytes, queues);
        let states = neighbors.iter().flat_map(|n| {
            STATES.map(|state| (labels(n, &[("state", state_name(state))]), n.state == state))
        });
        let states = states.map(|(labels, on)| (labels, u64::from(on)));
        self.gauges("peer_state", "1 for the state that the session is in", states);
        let help = "Whether there is no session because the peer announced too many prefixes";
        self.gauges("peer_halted", help, each(|n| n.halted.into()));
        self.counters("session_ups", "Times the session came up", each(|n| n.counters.established));
        let help = "Times an established session ended";
        self.counters("session_drops", help, each(|n| n.counters.dropped));
    }

    fn downs(&mut self, neighbors: &[NeighborStatus]) {
        let downs = || neighbors.iter().filter_map(|n| Some((n, n.last_down.as_ref()?)));
        let help = "Why the last session ended, with the NOTIFICATION's error code and subcode";
        let reasons = downs().map(|(n, down)| {
            let notification = down.reason.notification();
            let (code, subcode) = notification.map_or_else(
                || (String::new(), String::new()),
                |it| (code_name(it.code).to_owned(), subcode_name(it.code, it.subcode)),
            );
            let more = [("reason", down.reason.kind()), ("code", &code), ("subcode", &subcode)];
            (labels(n, &more), 1)
        });
        self.gauges("peer_last_down", help, reasons);
        let help = "Time since the last session ended";
        let ages = downs().map(|(n, down)| (labels(n, &[]), down.ago.as_secs_f64()));
        self.seconds("peer_last_down_age", help, ages);
    }

    fn messages(&mut self, neighbors: &[NeighborStatus]) {
        let messages = neighbors.iter().flat_map(|n| {
            let c = &n.counters;
            let types = [
                ("open", c.opens_received, c.opens_sent),
                ("update", c.updates_received, c.updates_sent),
                ("notification", c.notifications_received, c.notifications_sent),
                ("keepalive", c.keepalives_received, c.keepalives_sent),
                ("route-refresh", c.route_refreshes_received, c.route_refreshes_sent),
            ];
            types.into_iter().flat_map(|(sort, came, went)| {
                [("received", came), ("sent", went)].map(|(direction, count)| {
                    (labels(n, &[("direction", direction), ("type", sort)]), count)
                })
            })
        });
        self.counters("messages", "Messages by type", messages);
        let notifications = neighbors.iter().flat_map(|n| {
            n.notifications.iter().map(|it| {
                let direction = if it.received { "received" } else { "sent" };
                let more = [("direction", direction), ("code", code_name(it.code))];
                (labels(n, &more), it.count)
            })
        });
        let help = "NOTIFICATIONs by error code; only those of which there were any";
        self.counters("notifications", help, notifications);
        let errors = neighbors.iter().flat_map(|n| {
            let c = &n.counters;
            let treatments = [
                ("attribute-discard", c.attributes_discarded),
                ("treat-as-withdraw", c.treated_as_withdraw),
                ("family-disable", c.families_disabled),
                ("session-reset", c.malformed_resets),
            ];
            treatments.map(|(treatment, count)| (labels(n, &[("treatment", treatment)]), count))
        });
        let help = "Malformed UPDATEs by how they were treated (RFC 7606)";
        self.counters("update_errors", help, errors);
    }

    fn prefixes(&mut self, neighbors: &[NeighborStatus]) {
        let mut each = |name: &str, help: &str, value: fn(&FamilyStatus) -> Option<u64>| {
            let values = neighbors.iter().flat_map(|n| {
                n.families.iter().filter_map(move |family| {
                    let labels = labels(n, &[("family", &family.family.to_string())]);
                    Some((labels, value(family)?))
                })
            });
            self.gauges(name, help, values);
        };
        let help = "Whether routes of the family are exchanged";
        each("peer_family_up", help, |f| Some((f.negotiated && !f.disabled).into()));
        each("peer_prefixes_received", "Paths received from the peer", |f| Some(f.received as u64));
        each("peer_prefixes_accepted", "Paths of the peer that may be used", |f| {
            Some(f.accepted as u64)
        });
        each("peer_prefixes_advertised", "Prefixes told to the peer", |f| {
            Some(f.advertised as u64)
        });
        let help = "Prefixes that the peer may announce; none where there is no limit";
        each("peer_prefixes_limit", help, |f| f.limit.map(u64::from));
        let help = "Paths kept over a restart of the peer, or not sent again yet in a refresh";
        each("peer_prefixes_stale", help, |f| Some(f.stale_paths as u64));
        let help = "Of the stale paths those that are kept for long (RFC 9494)";
        each("peer_prefixes_long_lived_stale", help, |f| {
            Some(if f.long_lived { f.stale_paths as u64 } else { 0 })
        });
    }

    fn bfd(&mut self, status: &SpeakerStatus, neighbors: &[NeighborStatus]) {
        let sessions = || neighbors.iter().filter_map(|n| Some((n, n.bfd.as_ref()?)));
        let states = sessions().flat_map(|(n, bfd)| {
            BFD_STATES
                .map(|(state, name)| (labels(n, &[("state", name)]), u64::from(bfd.state == state)))
        });
        let help = "1 for the state that the peer's BFD session is in";
        self.gauges("peer_bfd_state", help, states);
        let help = "Times the BFD session was lost after it was Up";
        self.counters(
            "peer_bfd_flaps",
            help,
            sessions().map(|(n, bfd)| (labels(n, &[]), bfd.flaps)),
        );
        let help = "Of these, times the path had failed";
        let failures = sessions().map(|(n, bfd)| (labels(n, &[]), bfd.failures));
        self.counters("peer_bfd_failures", help, failures);
        let help = "Silence that ends the BFD session; 0 before the peer was heard";
        let times = sessions().map(|(n, bfd)| (labels(n, &[]), bfd.detection_time.as_secs_f64()));
        self.seconds("peer_bfd_detection_time", help, times);
        let help = "Whether the BGP session waits for BFD to be Up";
        let waits = neighbors.iter().filter(|n| n.bfd.is_some() || n.waits_for_bfd);
        let waits = waits.map(|n| (labels(n, &[]), n.waits_for_bfd.into()));
        self.gauges("peer_waits_for_bfd", help, waits);
        let discarded = status.bfd_discarded.into_iter().flat_map(|it| {
            [("malformed", it.malformed), ("hops", it.hops), ("unknown", it.unknown)]
        });
        let discarded = discarded.map(|(why, n)| (vec![("reason", why.to_owned())], n));
        let help = "BFD packets that were for no session or not to be believed";
        self.counters("bfd_packets_discarded", help, discarded);
    }
}

fn gauge_family(values: impl IntoIterator<Item = (Labels, u64)>) -> Family<Labels, Gauge> {
    let family = Family::<Labels, Gauge>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX));
    }
    family
}

fn labels(neighbor: &NeighborStatus, more: &[(&'static str, &str)]) -> Labels {
    let own = [("peer", neighbor.address.to_string()), ("name", neighbor.name.clone())];
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    own.into_iter().chain(more).collect()
}

const STATES: [State; 6] = [
    State::Idle,
    State::Connect,
    State::Active,
    State::OpenSent,
    State::OpenConfirm,
    State::Established,
];

/// As the other answers of the daemon spell it.
const fn state_name(state: State) -> &'static str {
    match state {
        State::Idle => "idle",
        State::Connect => "connect",
        State::Active => "active",
        State::OpenSent => "open-sent",
        State::OpenConfirm => "open-confirm",
        State::Established => "established",
    }
}

const BFD_STATES: [(BfdState, &str); 4] = [
    (BfdState::AdminDown, "admin-down"),
    (BfdState::Down, "down"),
    (BfdState::Init, "init"),
    (BfdState::Up, "up"),
];

/// An error code by name; `other` if nobody has defined it.
const fn code_name(number: u8) -> &'static str {
    match number {
        code::HEADER => "message-header",
        code::OPEN => "open",
        code::UPDATE => "update",
        code::HOLD_TIMER => "hold-timer",
        code::FSM => "fsm",
        code::CEASE => "cease",
        code::ROUTE_REFRESH => "route-refresh",
        code::SEND_HOLD_TIMER => "send-hold-timer",
        _ => "other",
    }
}

/// A subcode's number; `other` above those that are defined.
fn subcode_name(of: u8, subcode: u8) -> String {
    let last = match of {
        code::HEADER | code::FSM => 3,
        code::OPEN | code::UPDATE => 11,
        code::CEASE => 10,
        code::ROUTE_REFRESH => 1,
        _ => 0,
    };
    if subcode <= last { subcode.to_string() } else { "other".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_says_makes_no_more_labels_than_there_are_codes() {
        let mut codes: Vec<_> = (0..=255).map(code_name).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), 9);
        let subcodes = (0..=255).flat_map(|of| (0..=255).map(move |sub| (of, sub)));
        let mut all: Vec<_> =
            subcodes.map(|(of, sub)| (code_name(of), subcode_name(of, sub))).collect();
        all.sort_unstable();
        all.dedup();
        assert!(all.len() < 64, "{}", all.len());
        assert_eq!((code_name(6), &*subcode_name(6, 2)), ("cease", "2"));
    }
}
