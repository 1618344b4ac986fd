//! What the driver is asked for through a [`crate::SpeakerHandle`].

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Driver;
use super::sockets::Listener;
use crate::config::{Config, ConfigError, Password, PeerConfig};
use crate::policy::PeerType;
use crate::speaker::watch::BfdLink;
use crate::speaker::{Core, Question, Report, Request, Shutdown, Time};
use crate::transport::tcp;

pub(in crate::speaker) fn answer(core: &Core, bfd: &BfdLink, now: Time, question: Question) {
    match question {
        Question::Status(reply) => {
            bfd.complete(core.status(), reply, |status, bfd| {
                status.bfd_discarded = Some(bfd.discarded);
            });
        }
        Question::Neighbors(reply) => {
            let keys = core.bfd_keys();
            let neighbors = core.neighbor_statuses(now);
            bfd.complete(neighbors, reply, move |neighbors, bfd| {
                for neighbor in neighbors {
                    neighbor.bfd = bfd.session(keys.get(&neighbor.name));
                }
            });
        }
        Question::Neighbor(name, reply) => {
            let key = core.bfd_keys().remove(&name);
            let detail = core.neighbor_detail(&name, now).map(Box::new);
            bfd.complete(detail, reply, move |detail, bfd| {
                if let Some(detail) = detail {
                    detail.status.bfd = bfd.session(key.as_ref());
                }
            });
        }
        Question::Routes(query, cursor, reply) => {
            drop(reply.send(core.route_slice(&query, cursor)));
        }
        Question::Explain(net, exact, reply) => drop(reply.send(core.explain(net, exact))),
        Question::Dump(dump, reply) => drop(reply.send(core.dump_slice(now, dump))),
        Question::Config(reply) => drop(reply.send(Box::new(core.configuration()))),
        Question::Groups(reply) => drop(reply.send(core.group_statuses())),
        Question::Memory(reply) => drop(reply.send(core.memory())),
    }
}

impl Driver {
    /// Does what is asked; gives back how to end, if that is it.
    pub(super) fn request(&mut self, request: Request) -> Option<(Shutdown, oneshot::Sender<()>)> {
        let now = self.now();
        // A caller that does not wait for its answer any more has lost interest.
        match request {
            Request::Ask(question) => answer(&self.core, &self.bfd, now, question),
            Request::Apply(config, reply) => drop(reply.send(self.apply(*config))),
            Request::Clear(name, how, reply) => {
                drop(reply.send(self.core.clear(now, name.as_deref(), &how)));
            }
            Request::NextHops(known, reply) => drop(reply.send(self.core.resolve(known))),
            Request::Subscribe(wake, reply) => {
                let id = self.core.subscribe(wake);
                if reply.send(id).is_err() {
                    self.core.unsubscribe(id);
                }
            }
            Request::Unsubscribe(id) => self.core.unsubscribe(id),
            Request::Take(id, max, reply) => {
                // What a caller that is gone would have got must not be lost.
                if !reply.is_closed()
                    && let Some(batch) = self.core.take_deltas(id, max)
                {
                    drop(reply.send(batch));
                }
            }
            Request::Acknowledge(id, sequence) => self.core.acknowledge(id, sequence),
            Request::Shutdown(how, reply) => return Some((how, reply)),
        }
        None
    }

    fn apply(&mut self, config: Config) -> Result<Report, ConfigError> {
        let mut new = HashMap::new();
        for address in &config.listen {
            if !self.listeners.contains_key(address) {
                new.insert(*address, Listener::start(*address, &self.events)?);
            }
        }
        self.listeners.retain(|address, _| config.listen.contains(address));
        let rebound = !new.is_empty();
        self.listeners.extend(new);
        if rebound {
            self.keys.renew();
        }
        let old: HashMap<String, Arc<PeerConfig>> =
            self.core.peers().map(|p| (p.name.clone(), p.clone())).collect();
        let report = self.core.apply(self.now(), config);
        self.set_observers();
        self.set_keys();
        self.set_discovery();
        let peers: Vec<Arc<PeerConfig>> = self.core.peers().cloned().collect();
        for peer in peers {
            if let Some(old) = old.get(&peer.name) {
                self.change_sockets(old, &peer);
            }
        }
        Ok(report)
    }

    /// Gives live connections a changed key or TTL.
    fn change_sockets(&self, old: &PeerConfig, new: &PeerConfig) {
        let external =
            self.core.peer_type(&new.name).is_some_and(|sort| sort != PeerType::Internal);
        for conn in self.core.connections_of(&new.name) {
            let connection = self.connections.get(&conn);
            let Some(stream) = connection.and_then(|c| c.stream().map(|s| &**s)) else { continue };
            let mut result = Ok(());
            if old.password != new.password {
                let key = new.password.as_ref().map(Password::bytes);
                result = tcp::set_md5(stream, new.address.into(), key);
            }
            if old.ttl_security != new.ttl_security || old.multihop != new.multihop {
                result = result.and(tcp::set_ttl(stream, new, external));
            }
            if let Err(error) = result {
                tracing::warn!(peer = new.name, %error, "cannot change the live connection");
            }
        }
    }
}
