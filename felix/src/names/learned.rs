//! Which addresses the names stand for that the pods of this node asked for. Pure: the time is told.
//!
//! An address counts for as long as its answer said, at least [`LEAST`] and at most [`MOST`], and a
//! [`GRACE`] longer: between an answer and the connection that follows is the pod's own time. Then it has
//! *lapsed*: new connections are not let through for it any more, but that it was known is kept, so that
//! connections from before can be told from those that policy denies. What an endpoint may have learned is
//! bounded; beyond that the oldest goes, what has lapsed first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::answer::Answer;
use crate::model::EndpointId;

/// Shortest time that an address counts, before the grace.
pub const LEAST: Duration = Duration::from_secs(10);
/// Longest time that an address counts, before the grace.
pub const MOST: Duration = Duration::from_secs(86_400);
/// What is added to the time that an answer gives.
pub const GRACE: Duration = Duration::from_secs(10);
/// How long is kept what has lapsed: as long as the kernel, as it is set up, keeps a connection that is
/// silent.
pub const KEPT: Duration = Duration::from_secs(5 * 86_400);

/// How much may be learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Addresses of one name, for one endpoint.
    pub of_name: usize,
    /// Pairs of name and address, for one endpoint.
    pub of_endpoint: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { of_name: 128, of_endpoint: 1024 }
    }
}

/// What is known of an address, for one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The names that stand for it now, ascending.
    pub names: Vec<Arc<str>>,
    /// Those that did, ascending.
    pub lapsed: Vec<Arc<str>>,
}

impl Known {
    /// Nothing.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.lapsed.is_empty()
    }
}

/// Something else is known of an address now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// By whom.
    pub endpoint: EndpointId,
    /// Of which.
    pub address: IpAddr,
    /// This.
    pub known: Known,
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pairs of name and address that were not known before to an endpoint.
    pub learned: u64,
    /// Of these, those that went because there were too many.
    pub evicted: u64,
}

/// An address of a name, as it is kept on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// When it was last told, and until when it counts: seconds since the machine was started.
    pub told: u64,
    /// As above.
    pub until: u64,
}

#[derive(Clone, Debug)]
struct Held {
    told: Duration,
    until: Duration,
    lapsed: bool,
}

#[derive(Clone, Debug, Default)]
struct Endpoint {
    held: BTreeMap<(IpAddr, Arc<str>), Held>,
    /// When something of it next lapses, or need not be kept any more.
    next: Option<Duration>,
    /// How many of them count.
    live: usize,
}

/// See the module's documentation. Times are since the machine was started.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    limits: Limits,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    counts: Counts,
    /// What was told since it was last asked which.
    touched: BTreeSet<EndpointId>,
}

impl Learned {
    /// Nothing learned.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// An endpoint was given an answer.
    pub fn learn(&mut self, id: &EndpointId, answer: &Answer, now: Duration) -> Vec<Change> {
        let limits = self.limits;
        let endpoint = self.endpoints.entry(id.clone()).or_default();
        let name: Arc<str> = answer.name.as_str().into();
        let mut changed = BTreeSet::new();
        for (address, ttl) in &answer.addresses {
            let life = Duration::from_secs((*ttl).into()).clamp(LEAST, MOST) + GRACE;
            // In whole seconds, so that they lapse together.
            let until = Duration::from_secs((now + life).as_secs() + 1);
            let key = (*address, name.clone());
            match endpoint.held.get_mut(&key) {
                Some(held) => {
                    if std::mem::take(&mut held.lapsed) {
                        held.until = until;
                        changed.insert(*address);
                    }
                    held.until = held.until.max(until);
                    held.told = now;
                }
                None => {
                    endpoint.held.insert(key, Held { told: now, until, lapsed: false });
                    self.counts.learned += 1;
                    changed.insert(*address);
                }
            }
        }
        let of_name = endpoint.oldest(|key| key.1 == name, limits.of_name);
        let gone = endpoint.drop_all(of_name, &mut changed);
        let of_endpoint = endpoint.oldest(|_| true, limits.of_endpoint);
        let gone = gone + endpoint.drop_all(of_endpoint, &mut changed);
        self.counts.evicted += gone;
        self.touched.insert(id.clone());
        self.tell(id, changed)
    }

    /// What has lapsed by now.
    pub fn lapse(&mut self, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        let due: Vec<EndpointId> = self
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.next.is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(endpoint) = self.endpoints.get_mut(&id) else { continue };
            let mut changed = BTreeSet::new();
            for ((address, _), held) in &mut endpoint.held {
                if !held.lapsed && held.until <= now {
                    held.lapsed = true;
                    changed.insert(*address);
                }
            }
            let old = endpoint.held.iter().filter(|(_, held)| held.is_over(now));
            let old: Vec<_> = old.map(|(key, _)| key.clone()).collect();
            endpoint.drop_all(old, &mut changed);
            self.touched.insert(id.clone());
            changes.extend(self.tell(&id, changed));
        }
        changes
    }

    /// When something next lapses, or need not be kept any more.
    pub fn next(&self) -> Option<Duration> {
        self.endpoints.values().filter_map(|endpoint| endpoint.next).min()
    }

    /// The endpoint is gone.
    pub fn forget(&mut self, id: &EndpointId) {
        if self.endpoints.remove(id).is_some() {
            self.touched.insert(id.clone());
        }
    }

    /// Takes back what was saved of an endpoint of which nothing is known, as it counts now.
    pub fn restore(&mut self, id: &EndpointId, saved: Vec<Saved>, now: Duration) -> Vec<Change> {
        let limits = self.limits;
        let endpoint = self.endpoints.entry(id.clone()).or_default();
        let mut changed = BTreeSet::new();
        for Saved { name, address, told, until } in saved {
            // No answer gives longer, whatever the file says.
            let until = Duration::from_secs(until).min(now + MOST + GRACE);
            let held = Held { told: Duration::from_secs(told), until, lapsed: until <= now };
            if !held.is_over(now) {
                endpoint.held.insert((address, name.into()), held);
                changed.insert(address);
            }
        }
        let surplus = endpoint.oldest(|_| true, limits.of_endpoint);
        endpoint.drop_all(surplus, &mut changed);
        self.tell(id, changed)
    }

    /// What is to be saved of an endpoint.
    pub fn saved(&self, id: &EndpointId) -> Vec<Saved> {
        let held = self.endpoints.get(id).into_iter().flat_map(|endpoint| &endpoint.held);
        let saved = held.map(|((address, name), held)| Saved {
            name: name.to_string(),
            address: *address,
            told: held.told.as_secs(),
            until: held.until.as_secs(),
        });
        saved.collect()
    }

    /// The endpoints of which something else is to be saved than at the last call.
    pub fn take_touched(&mut self) -> BTreeSet<EndpointId> {
        std::mem::take(&mut self.touched)
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Pairs of name and address that count now.
    pub fn len(&self) -> usize {
        self.endpoints.values().map(|endpoint| endpoint.live).sum()
    }

    /// Whether none counts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn tell(&mut self, id: &EndpointId, changed: BTreeSet<IpAddr>) -> Vec<Change> {
        if let Some(endpoint) = self.endpoints.get_mut(id) {
            endpoint.settle();
        }
        let endpoint = self.endpoints.get(id);
        let changes = changed.into_iter().map(|address| {
            let known = endpoint.map(|endpoint| endpoint.known(address)).unwrap_or_default();
            Change { endpoint: id.clone(), address, known }
        });
        let changes = changes.collect();
        if endpoint.is_some_and(|endpoint| endpoint.held.is_empty()) {
            self.endpoints.remove(id);
        }
        changes
    }
}

impl Held {
    /// It need not be kept any more.
    fn is_over(&self, now: Duration) -> bool {
        self.until + KEPT <= now
    }
}

impl Endpoint {
    /// After any change: asked for far more often than it changes.
    fn settle(&mut self) {
        let next = |held: &Held| if held.lapsed { held.until + KEPT } else { held.until };
        self.next = self.held.values().map(next).min();
        self.live = self.held.values().filter(|held| !held.lapsed).count();
    }

    fn known(&self, address: IpAddr) -> Known {
        let mut known = Known::default();
        let from = (address, Arc::from(""));
        for ((of, name), held) in self.held.range(from..) {
            if *of != address {
                break;
            }
            let list = if held.lapsed { &mut known.lapsed } else { &mut known.names };
            list.push(name.clone());
        }
        known
    }

    /// Those of some that are too many.
    fn oldest(
        &self,
        of: impl Fn(&(IpAddr, Arc<str>)) -> bool,
        limit: usize,
    ) -> Vec<(IpAddr, Arc<str>)> {
        if self.held.len() <= limit {
            return Vec::new();
        }
        let mut some: Vec<_> = self.held.iter().filter(|(key, _)| of(key)).collect();
        some.sort_by_key(|(_, held)| (!held.lapsed, held.told));
        let surplus = some.len().saturating_sub(limit);
        some[..surplus].iter().map(|(key, _)| (*key).clone()).collect()
    }

    fn drop_all(&mut self, keys: Vec<(IpAddr, Arc<str>)>, changed: &mut BTreeSet<IpAddr>) -> u64 {
        let mut gone = 0;
        for key in keys {
            if self.held.remove(&key).is_some() {
                gone += 1;
                changed.insert(key.0);
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests;
