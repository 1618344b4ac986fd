//! From one desired state to the next, live. No session is reset unless what its OPEN said, or
//! who it is with, is different now; or what was learned on it would be read in another way, and
//! cannot be asked for again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;

use super::core::{Core, Time};
use super::differences::differences;
use super::neighbor::Neighbor;
use crate::config::{Config, ListenRange, PeerConfig};
use crate::policy::PeerType;
use crate::rib::{PeerId, RibPrefix, with_family};
use crate::session::{Direction, Event, State, Timer};
use crate::wire::{Family, Notification, RouteRefresh, cease};

/// What a configuration changed, and how it took effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The changes, in no particular order; empty when the configuration was as before.
    pub changes: Vec<Change>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What changed, such as `peer "tor1"` or `network 10.1.0.0/26`.
    pub object: String,
    /// The fields that changed, as the configuration spells them; empty for an addition or
    /// removal.
    pub fields: Vec<&'static str>,
    /// How it took effect.
    pub effect: Effect,
}

/// How a change takes effect, gentlest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// At once, unnoticed by the peer.
    Live,
    /// With the next OPEN or connection; the session goes on as it is.
    NextSession,
    /// Routes were evaluated anew; the peer is told the differences.
    ReEvaluated,
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// The session was ended with a Cease and starts anew.
    SessionReset,
}

impl Core {
    /// Makes `config`, which has been validated, the desired state.
    pub(crate) fn apply(&mut self, now: Time, mut config: Config) -> Report {
        self.clock = now;
        let mut report = Report::default();
        let mut peers = std::mem::take(&mut config.peers);
        let networks = std::mem::take(&mut config.networks);
        let old = std::mem::replace(&mut self.config, config);
        self.policies.update(&old, &self.config);
        let reset_all = self.apply_speaker(&old, &mut report);
        let confederation = self.config.confederation != old.confederation;
        note_ranges(&old.listen_ranges, &self.config.listen_ranges, &mut report);
        let dynamic = self.dynamic_peers(&peers);
        let names: Vec<String> = dynamic.iter().map(|p| p.name.clone()).collect();
        peers.extend(dynamic);
        let others = self.apply_peers(now, peers, &old, reset_all, &mut report);
        if confederation {
            let effect =
                if reset_all || others { Effect::SessionReset } else { Effect::ReEvaluated };
            let fields = vec!["confederation"];
            report.changes.insert(0, Change { object: "speaker".into(), fields, effect });
        }
        self.assign_ranges(&names);
        self.check_keys(now);
        self.bfd_configured(now);
        self.apply_networks(networks, &mut report);
        self.policies.tidy();
        report
    }

    /// The speaker's own settings; returns whether all sessions must start anew.
    fn apply_speaker(&mut self, old: &Config, report: &mut Report) -> bool {
        let mut note = |fields: Vec<&'static str>, effect| {
            report.changes.push(Change { object: "speaker".into(), fields, effect });
        };
        let new = &self.config;
        let mut identity = Vec::new();
        if new.router_id != old.router_id {
            identity.push("router-id");
        }
        if new.asn != old.asn {
            identity.push("asn");
        }
        let reset_all = !identity.is_empty();
        if reset_all {
            note(identity, Effect::SessionReset);
        }
        if new.cluster_id != old.cluster_id {
            note(vec!["cluster-id"], Effect::ReEvaluated);
        }
        if new.listen != old.listen {
            note(vec!["listen"], Effect::Live);
        }
        if new.graceful_restart != old.graceful_restart {
            note(vec!["graceful-restart"], Effect::NextSession);
        }
        if new.long_lived_graceful_restart != old.long_lived_graceful_restart {
            note(vec!["long-lived-graceful-restart"], Effect::NextSession);
        }
        if new.ebgp_requires_policy != old.ebgp_requires_policy {
            note(vec!["ebgp-requires-policy"], Effect::ReEvaluated);
        }
        for (field, differ) in [
            ("prefix-sets", new.prefix_sets != old.prefix_sets),
            ("community-sets", new.community_sets != old.community_sets),
            ("as-path-sets", new.as_path_sets != old.as_path_sets),
        ] {
            if differ {
                note(vec![field], Effect::ReEvaluated);
            }
        }
        if new.graceful_shutdown != old.graceful_shutdown {
            note(vec!["graceful-shutdown"], Effect::ReEvaluated);
        }
        let wait = new.advertise_after_install;
        if wait != old.advertise_after_install {
            note(vec!["advertise-after-install"], Effect::Live);
        }
        if new.router_advertisement_interval != old.router_advertisement_interval {
            note(vec!["router-advertisement-interval"], Effect::Live);
        }
        if new.metrics_listen != old.metrics_listen {
            note(vec!["metrics-listen"], Effect::Live);
        }
        if new.mrt != old.mrt {
            note(vec!["mrt"], Effect::Live);
        }
        if new.bmp != old.bmp {
            note(vec!["bmp"], Effect::Live);
        }
        if new.multipath != old.multipath {
            note(vec!["multipath"], Effect::ReEvaluated);
            self.rib.multipath = new.multipath;
            self.rib.touch_all();
        }
        if wait != old.advertise_after_install {
            self.wait_for_kernel(wait);
        }
        reset_all
    }

    /// Returns whether a session starts anew for what changed of the speaker, `old` before.
    fn apply_peers(
        &mut self,
        now: Time,
        peers: Vec<PeerConfig>,
        old: &Config,
        reset_all: bool,
        report: &mut Report,
    ) -> bool {
        let mut identity = false;
        self.rename(&peers, report);
        let wanted: HashSet<&str> = peers.iter().map(|peer| &*peer.name).collect();
        let neighbors = self.neighbors.iter().flatten();
        let (stay, gone): (Vec<_>, Vec<_>) =
            neighbors.partition(|n| wanted.contains(&*n.config.name));
        let known: HashMap<String, PeerId> =
            stay.into_iter().map(|n| (n.config.name.clone(), n.id)).collect();
        let gone: Vec<PeerId> = gone.into_iter().map(|n| n.id).collect();
        for peer in gone {
            let name = self.neighbor(peer).map_or_else(String::new, |n| n.config.name.clone());
            let notification = Notification::cease(cease::PEER_DECONFIGURED, "removed");
            self.remove_neighbor(now, peer, &notification);
            report.changes.push(Change {
                object: format!("peer {name:?}"),
                fields: Vec::new(),
                effect: Effect::Removed,
            });
        }
        for config in peers {
            let object = format!("peer {:?}", config.name);
            if let Some(&peer) = known.get(&config.name) {
                let (fields, effect) = self.change_neighbor(now, peer, config, old, reset_all);
                identity |= fields.is_empty() && effect == Effect::SessionReset;
                if !fields.is_empty() {
                    report.changes.push(Change { object, fields, effect });
                }
            } else {
                self.add_neighbor(now, config);
                report.changes.push(Change { object, fields: Vec::new(), effect: Effect::Added });
            }
        }
        identity
    }

    /// A neighbor that is now called something else is the same neighbor: its session goes on. But
    /// not where its connection would have to change at the same time.
    fn rename(&mut self, peers: &[PeerConfig], report: &mut Report) {
        let key = |peer: &PeerConfig| {
            let place = (peer.address, peer.scope_id, peer.interface.clone());
            let source = (peer.source_address, peer.source_interface.clone());
            let address = (place, peer.port, source);
            let keys = (peer.password.clone(), peer.tcp_ao.clone());
            (address, keys, peer.ttl_security, peer.multihop)
        };
        let known: HashSet<String> =
            self.neighbors.iter().flatten().map(|n| n.config.name.clone()).collect();
        let wanted: HashSet<&str> = peers.iter().map(|peer| &*peer.name).collect();
        let nameless = self.neighbors.iter_mut().flatten();
        for neighbor in nameless.filter(|n| !wanted.contains(&*n.config.name)) {
            let same = |peer: &&PeerConfig| {
                !known.contains(&peer.name) && key(peer) == key(&neighbor.given)
            };
            if let Some(peer) = peers.iter().find(same) {
                Arc::make_mut(&mut neighbor.config).name.clone_from(&peer.name);
                Arc::make_mut(&mut neighbor.given).name.clone_from(&peer.name);
                report.changes.push(Change {
                    object: format!("peer {:?}", peer.name),
                    fields: vec!["name"],
                    effect: Effect::Live,
                });
            }
        }
    }

    pub(super) fn add_neighbor(&mut self, now: Time, config: PeerConfig) -> PeerId {
        // A number is free again once no update group tells routes by it.
        let free = (1..self.neighbors.len())
            .filter(|at| self.neighbors[*at].is_none())
            .filter_map(|at| u16::try_from(at).ok().map(PeerId))
            .find(|peer| !self.groups.mentions(*peer));
        let peer = free.unwrap_or_else(|| {
            self.neighbors.push(None);
            PeerId(u16::try_from(self.neighbors.len() - 1).unwrap_or(u16::MAX - 1))
        });
        let neighbor = Neighbor::new(peer, Arc::new(config), &self.config, &mut self.policies, now);
        self.neighbors[peer.index()] = Some(neighbor);
        self.bfd_changed = true;
        self.start(now, peer, Direction::Outgoing);
        peer
    }

    /// Forgets a neighbor, with a last word to it if there is a connection.
    pub(super) fn remove_neighbor(&mut self, now: Time, peer: PeerId, word: &Notification) {
        self.stop(now, peer, Some(word));
        for family in Family::ALL {
            self.purge(peer, family);
        }
        self.neighbors[peer.index()] = None;
        self.bfd_changed = true;
    }

    /// Ends whatever connections a neighbor has.
    pub(super) fn stop(&mut self, now: Time, peer: PeerId, notification: Option<&Notification>) {
        for direction in Direction::BOTH {
            self.event(now, peer, direction, &Event::Stop(notification.cloned()));
        }
    }

    /// Takes over a neighbor's new configuration, and what of the speaker's, `old_speaker` before,
    /// concerns it; returns what is different of its own, and how all took effect.
    fn change_neighbor(
        &mut self,
        now: Time,
        peer: PeerId,
        config: PeerConfig,
        old_speaker: &Config,
        reset_all: bool,
    ) -> (Vec<&'static str>, Effect) {
        let Self { config: speaker, policies, neighbors, .. } = self;
        let Some(Some(neighbor)) = neighbors.get_mut(peer.index()) else {
            return (Vec::new(), Effect::Live);
        };
        let old = neighbor.given.clone();
        let (old_import, old_export) = (neighbor.import.clone(), neighbor.export.clone());
        let (old_arrival, old_departure) = (neighbor.arrival, neighbor.departure);
        let config = Arc::new(config);
        let (old_type, old_local, known) = (neighbor.peer_type, neighbor.local_asn, neighbor.asn());
        neighbor.configure(config.clone(), speaker, policies);
        // Another way to say who it may be, and it still may.
        let admitted = known.is_some_and(|asn| config.asn.admits(asn, neighbor.local_asn));
        let same_as = admitted && neighbor.peer_type == old_type;
        let (fields, mut effect) = differences(&old, &config, same_as);
        // UPDATEs of one's own AS are read in another way in a confederation (RFC 5065 section 5).
        let read_anew = neighbor.peer_type == PeerType::Internal
            && speaker.confederation.is_some() != old_speaker.confederation.is_some();
        let session = neighbor.session.as_ref();
        let lost = read_anew && session.is_some_and(|s| !s.negotiated.route_refresh);
        if lost || (neighbor.peer_type, neighbor.local_asn) != (old_type, old_local) {
            effect = Effect::SessionReset;
        }
        let whole = |c: &Config| c.confederation.as_ref().map_or(c.asn, |c| c.identifier);
        let reflected = old_speaker.cluster() != speaker.cluster()
            || old.route_reflector_client != config.route_reflector_client;
        let import = whole(old_speaker) != whole(speaker)
            || old_speaker.cluster() != speaker.cluster()
            || neighbor.import != old_import
            || neighbor.arrival != old_arrival
            || old.allowas_in != config.allowas_in
            || old.next_hop_v4 != config.next_hop_v4
            || old.next_hop_v6 != config.next_hop_v6;
        let export = reflected
            || neighbor.export != old_export
            || neighbor.departure != old_departure
            || old.add_paths != config.add_paths
            || old.next_hop != config.next_hop
            || old.advertisement_interval != config.advertisement_interval
            || old.next_hop_v4 != config.next_hop_v4
            || old.next_hop_v6 != config.next_hop_v6;

        if let Some(text) = config.shutdown.as_ref().filter(|_| old.shutdown != config.shutdown) {
            let reason = "shut down by configuration";
            let n = Notification::communication(cease::ADMIN_SHUTDOWN, text, reason);
            self.stop(now, peer, Some(&n));
            for family in Family::ALL {
                self.purge(peer, family);
            }
            return (fields, effect);
        }
        if reset_all || effect == Effect::SessionReset {
            let n = Notification::cease(cease::CONFIG_CHANGE, "the configuration has changed");
            self.stop(now, peer, Some(&n));
            for family in Family::ALL {
                self.purge(peer, family);
            }
            if let Some(neighbor) = self.neighbor(peer) {
                neighbor.failures = 0;
            }
            self.start(now, peer, Direction::Outgoing);
            return (fields, effect);
        }
        self.change_live(now, peer, &old, &config);
        if read_anew {
            self.request_routes(peer);
        }
        if import {
            self.judge_again(peer);
        }
        if export && self.progress.selecting {
            for family in Family::ALL {
                if let Some(key) = self.group_key(peer, family) {
                    self.groups.rekey(peer, key, &mut self.rib);
                }
            }
        }
        (fields, effect)
    }

    /// What changes without routes or the session changing.
    fn change_live(&mut self, now: Time, peer: PeerId, old: &PeerConfig, new: &PeerConfig) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let connecting = neighbor.slot(Direction::Outgoing).state < State::OpenSent;
        if let Some(session) = &mut neighbor.session
            && old.keepalive_time != new.keepalive_time
        {
            let third = (session.negotiated.hold_time / 3).max(1);
            let agreed = new.keepalive_time.map_or(third, |k| k.min(third));
            if session.negotiated.keepalive_time > 0 {
                session.negotiated.keepalive_time = agreed;
                let direction = session.direction;
                if let Some(negotiated) = &mut neighbor.slot(direction).negotiated {
                    negotiated.keepalive_time = agreed;
                }
            }
        }
        if old.send_hold_time != new.send_hold_time
            && let Some(direction) = neighbor.session.as_ref().map(|session| session.direction)
            && neighbor.slot(direction).timer(Timer::SendHold).at.is_some()
        {
            self.start_timer(now, peer, direction, Timer::SendHold);
        }
        // What a connection attempt depends on: a new attempt, unless one has succeeded.
        let attempt = old.port != new.port
            || old.passive != new.passive
            || old.password != new.password
            || old.shutdown != new.shutdown
            || old.multihop != new.multihop
            || old.ttl_security != new.ttl_security;
        if attempt && connecting {
            self.event(now, peer, Direction::Outgoing, &Event::Stop(None));
            self.start(now, peer, Direction::Outgoing);
        }
        if old.max_prefixes != new.max_prefixes {
            self.limit_again(now, peer);
        }
        if old.enforce_first_as != new.enforce_first_as {
            self.request_routes(peer);
        }
        if old.route_reflector_client != new.route_reflector_client {
            self.reflect_again(peer, new.route_reflector_client);
        }
    }

    /// A neighbor is a client now, or none any more: others are told its routes, or not.
    fn reflect_again(&mut self, peer: PeerId, client: bool) {
        if let Some(rank) = self.rib.ranks.get_mut(peer.index()) {
            rank.client = client;
        }
        for family in Family::ALL {
            with_family!(family, P => {
                for dest in self.routes_of(peer, family) {
                    self.groups.mark_again::<P>(P::table_mut(&mut self.rib), dest);
                }
            });
        }
    }

    /// Asks a neighbor for its routes again (RFC 2918), where routes were refused that were not
    /// kept.
    pub(super) fn request_routes(&mut self, peer: PeerId) {
        let Some(neighbor) = self.neighbor(peer) else { return };
        let families = neighbor.families();
        let Some(session) = &neighbor.session else { return };
        if !session.negotiated.route_refresh {
            return;
        }
        let direction = session.direction;
        let mut out = Vec::new();
        for family in families.iter() {
            RouteRefresh::Request.encode(family, &mut out);
        }
        self.queue(peer, direction, out);
    }
}

/// Says which listen ranges are new, gone or different; what became of their neighbors is said of
/// each.
fn note_ranges(old: &[ListenRange], new: &[ListenRange], report: &mut Report) {
    let mut note = |range: &ListenRange, fields, effect| {
        let object = format!("listen-range {:?}", range.peer.name);
        report.changes.push(Change { object, fields, effect });
    };
    let find = |all: &'_ [ListenRange], range: &ListenRange| {
        all.iter().position(|other| other.peer.name == range.peer.name)
    };
    for range in old.iter().filter(|range| find(new, range).is_none()) {
        note(range, Vec::new(), Effect::Removed);
    }
    for range in new {
        let Some(known) = find(old, range).map(|at| &old[at]) else {
            note(range, Vec::new(), Effect::Added);
            continue;
        };
        let ListenRange { prefix, limit, peer } = range;
        let fields: Vec<_> = [
            ("prefix", *prefix != known.prefix),
            ("limit", *limit != known.limit),
            ("peer", *peer != known.peer),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect();
        if !fields.is_empty() {
            note(range, fields, Effect::Live);
        }
    }
}
