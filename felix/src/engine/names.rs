//! What names stand for, by the DNS answers of each endpoint: addresses that are in another class for this
//! endpoint than for all others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::addresses::Addresses;
use super::atoms::{Atom, AtomId};
use super::classes::Classes;
use super::pending::Pending;
use crate::model::{Class, EndpointId, IfIndex, Key, Value};
use crate::names::DomainNames;
use crate::names::learned::Known;

/// What an endpoint's policies ask of names.
pub(super) type Asked = Vec<(AtomId, DomainNames)>;

#[derive(Clone, Debug)]
struct Address {
    known: Known,
    /// The class that it is in for this endpoint; 0: that which it is in for all.
    class: Class,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    index: IfIndex,
    asked: Asked,
    addresses: BTreeMap<IpAddr, Address>,
}

/// Addresses beyond which it is not remembered whose flows are cut: those are looked at again with the next
/// change of policy only.
const CUT: usize = 65_536;

/// All endpoints that ask of names, or learned any.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    endpoints: BTreeMap<EndpointId, Entry>,
    by_address: FxHashMap<IpAddr, BTreeSet<EndpointId>>,
    /// Whether, if the class is another one, established flows are to be looked at again.
    dirty: BTreeMap<(EndpointId, IpAddr), bool>,
    /// To whom flows are cut: they go on when an answer says that they may.
    cut: BTreeSet<IpAddr>,
}

impl Names {
    /// The policies of an endpoint, which is at this interface, ask this.
    pub(super) fn ask(
        &mut self,
        id: &EndpointId,
        index: IfIndex,
        asked: Asked,
        pending: &mut Pending,
    ) {
        let known = self.endpoints.contains_key(id);
        if !known && asked.is_empty() {
            return;
        }
        let entry = self.endpoints.entry(id.clone()).or_default();
        if entry.asked == asked && entry.index == index {
            return;
        }
        let member = |asked: &Asked| (!asked.is_empty()).then_some(Value::Member);
        // An endpoint that gets another interface is another one.
        entry.index = index;
        pending.set(Key::Asks(index), member(&entry.asked), member(&asked));
        entry.asked = asked;
        self.dirty.extend(entry.addresses.keys().map(|address| ((id.clone(), *address), true)));
        self.tidy(id);
    }

    /// Whether an endpoint's policies ask of a name.
    pub(super) fn asks(&self, id: &EndpointId, name: &str) -> bool {
        let asked = self.endpoints.get(id).into_iter().flat_map(|entry| &entry.asked);
        asked.into_iter().any(|(_, names)| names.matches(name))
    }

    /// An endpoint, which is at this interface, knows this of an address.
    pub(super) fn learn(&mut self, id: &EndpointId, index: IfIndex, address: IpAddr, known: Known) {
        let entry = self.endpoints.entry(id.clone()).or_default();
        entry.index = index;
        let of = entry.addresses.entry(address);
        of.or_insert_with(|| Address { known: Known::default(), class: Class(0) }).known = known;
        self.by_address.entry(address).or_default().insert(id.clone());
        self.dirty.entry((id.clone(), address)).or_insert(false);
    }

    /// All flows of these addresses were judged, and those to these destinations are cut.
    pub(super) fn judged(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        cut: impl IntoIterator<Item = IpAddr>,
    ) {
        for address in addresses {
            self.cut.remove(address);
        }
        let room = CUT - self.cut.len();
        self.cut.extend(cut.into_iter().take(room));
    }

    /// The endpoint is gone.
    pub(super) fn remove(&mut self, id: &EndpointId, classes: &mut Classes, pending: &mut Pending) {
        let Some(entry) = self.endpoints.remove(id) else { return };
        if !entry.asked.is_empty() {
            pending.set(Key::Asks(entry.index), Some(Value::Member), None);
        }
        for (address, Address { class, .. }) in entry.addresses {
            pending.set(Key::Learned(entry.index, address), element(class), None);
            classes.release(class);
            self.disown(address, id);
        }
    }

    /// All addresses may be in other classes.
    pub(super) fn ranges_changed(&mut self) {
        for (id, entry) in &self.endpoints {
            self.dirty.extend(entry.addresses.keys().map(|address| ((id.clone(), *address), true)));
        }
    }

    /// An address is in another class.
    pub(super) fn address_moved(&mut self, address: IpAddr) {
        let ids = self.by_address.get(&address).into_iter().flatten();
        self.dirty.extend(ids.map(|id| ((id.clone(), address), true)));
    }

    /// Brings classes and elements up to date.
    pub(super) fn settle(
        &mut self,
        addresses: &Addresses,
        classes: &mut Classes,
        pending: &mut Pending,
    ) {
        for ((id, address), rejudge) in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.endpoints.get_mut(&id) else { continue };
            let Some(known) = entry.addresses.get(&address) else { continue };
            let own = answers(&entry.asked, &known.known.names);
            let now = if own.is_empty() {
                Class(0)
            } else {
                classes.acquire(&union(classes.atoms(addresses.class(address)), own))
            };
            let before = known.class;
            pending.set(Key::Learned(entry.index, address), element(before), element(now));
            classes.release(before);
            let may_matter = before != now || !known.known.lapsed.is_empty();
            if may_matter && (rejudge || self.cut.contains(&address)) {
                pending.rejudge(address);
            }
            if known.known.is_empty() {
                entry.addresses.remove(&address);
                self.disown(address, &id);
                self.tidy(&id);
            } else if let Some(known) = entry.addresses.get_mut(&address) {
                known.class = now;
            }
        }
    }

    /// The class of an address for an endpoint, if that is another one than for all.
    pub(super) fn class(&self, id: &EndpointId, address: IpAddr) -> Option<Class> {
        let class = self.endpoints.get(id)?.addresses.get(&address)?.class;
        (class != Class(0)).then_some(class)
    }

    /// What was true of an address for an endpoint at any time; None if no more than is now.
    pub(super) fn once(
        &self,
        id: &EndpointId,
        address: IpAddr,
        addresses: &Addresses,
        classes: &Classes,
    ) -> Option<Vec<Atom>> {
        let entry = self.endpoints.get(id)?;
        let known = &entry.addresses.get(&address)?.known;
        let lapsed = answers(&entry.asked, &known.lapsed);
        if lapsed.is_empty() {
            return None;
        }
        let own = [lapsed, answers(&entry.asked, &known.names)].concat();
        Some(union(classes.atoms(addresses.class(address)), own))
    }

    /// What an endpoint knows of an address.
    pub(super) fn known(&self, id: &EndpointId, address: IpAddr) -> Option<&Known> {
        self.endpoints.get(id)?.addresses.get(&address).map(|address| &address.known)
    }

    /// Whether an endpoint may have flows to what a name stood for.
    pub(super) fn has_lapsed(&self, id: &EndpointId) -> bool {
        self.endpoints.get(id).is_some_and(|Entry { asked, addresses, .. }| {
            let lapsed = |address: &Address| !answers(asked, &address.known.lapsed).is_empty();
            addresses.values().any(lapsed)
        })
    }

    /// The addresses that are in another class for an endpoint.
    pub(super) fn of(&self, id: &EndpointId) -> impl Iterator<Item = IpAddr> {
        let addresses = self.endpoints.get(id).into_iter().flat_map(|entry| &entry.addresses);
        addresses.filter(|(_, of)| of.class != Class(0)).map(|(address, _)| *address)
    }

    fn disown(&mut self, address: IpAddr, id: &EndpointId) {
        if let Some(ids) = self.by_address.get_mut(&address) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }

    fn tidy(&mut self, id: &EndpointId) {
        let empty = |entry: &Entry| entry.asked.is_empty() && entry.addresses.is_empty();
        if self.endpoints.get(id).is_some_and(empty) {
            self.endpoints.remove(id);
        }
    }
}

/// The questions that are answered with yes by an address of these names.
fn answers(asked: &Asked, names: &[Arc<str>]) -> Vec<Atom> {
    let yes = asked.iter().filter(|(_, wanted)| names.iter().any(|name| wanted.matches(name)));
    yes.map(|(id, _)| Atom::yes(*id)).collect()
}

fn union(atoms: &[Atom], mut own: Vec<Atom>) -> Vec<Atom> {
    own.extend_from_slice(atoms);
    own.sort_unstable();
    own.dedup();
    own
}

fn element(class: Class) -> Option<Value> {
    (class != Class(0)).then_some(Value::Class(class))
}
