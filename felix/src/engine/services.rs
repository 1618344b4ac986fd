//! What rules ask of Services: which addresses are behind one, and by which ports. Both are in the
//! EndpointSlices that name it.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::addresses::Addresses;
use super::atoms::{Atom, AtomId, Question};
use crate::model::{EndpointSlice, ObjectKey};

/// All EndpointSlices, and what is asked of their Services. A slice's event costs what the slice
/// changes, and nothing beyond remembering it where no rule names its Service.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    slices: FxHashMap<ObjectKey, EndpointSlice>,
    /// The slices of each Service.
    by_service: FxHashMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// What is asked of each Service.
    asked: FxHashMap<ObjectKey, Vec<(AtomId, Asked)>>,
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The addresses.
    Addresses,
    /// The ports of this protocol.
    Ports(u8),
}

impl Services {
    /// The slice is now this.
    pub(super) fn set(&mut self, slice: EndpointSlice, addresses: &mut Addresses) {
        let before = self.slices.get(&slice.key);
        if before == Some(&slice) {
            return;
        }
        let (said, says) =
            (before.map(|b| self.answers(b)).unwrap_or_default(), self.answers(&slice));
        let listed = before.map_or(&[][..], |before| &before.addresses);
        let stays = |list: &[_], address| said == says && list.binary_search(address).is_ok();
        for address in listed.iter().filter(|address| !stays(&slice.addresses, address)) {
            addresses.retract(*address, &said);
        }
        for address in slice.addresses.iter().filter(|address| !stays(listed, address)) {
            addresses.attest(*address, &says);
        }
        let service = service(&slice);
        if before.and_then(self::service) != service {
            self.forget(&slice.key);
            if let Some(service) = service {
                self.by_service.entry(service).or_default().insert(slice.key.clone());
            }
        }
        self.slices.insert(slice.key.clone(), slice);
    }

    /// The slice is gone.
    pub(super) fn remove(&mut self, key: &ObjectKey, addresses: &mut Addresses) {
        self.forget(key);
        let Some(slice) = self.slices.remove(key) else { return };
        let said = self.answers(&slice);
        slice.addresses.iter().for_each(|address| addresses.retract(*address, &said));
    }

    /// A question is asked from now on. One that is not about Services is ignored.
    pub(super) fn activate(&mut self, id: AtomId, question: &Question, addresses: &mut Addresses) {
        let Some((service, asked)) = about(question) else { return };
        for slice in self.of(service) {
            let says = answers(slice, &[(id, asked)]);
            slice.addresses.iter().for_each(|address| addresses.attest(*address, &says));
        }
        self.asked.entry(service.clone()).or_default().push((id, asked));
    }

    /// A question is not asked any more.
    pub(super) fn deactivate(
        &mut self,
        id: AtomId,
        question: &Question,
        addresses: &mut Addresses,
    ) {
        let Some((service, asked)) = about(question) else { return };
        for slice in self.of(service) {
            let said = answers(slice, &[(id, asked)]);
            slice.addresses.iter().for_each(|address| addresses.retract(*address, &said));
        }
        if let Some(list) = self.asked.get_mut(service) {
            list.retain(|(other, _)| *other != id);
            if list.is_empty() {
                self.asked.remove(service);
            }
        }
    }

    fn of(&self, service: &ObjectKey) -> impl Iterator<Item = &EndpointSlice> {
        let keys = self.by_service.get(service).into_iter().flatten();
        keys.filter_map(|key| self.slices.get(key))
    }

    /// What is true of each address of a slice, ascending.
    fn answers(&self, slice: &EndpointSlice) -> Vec<Atom> {
        let asked = service(slice).and_then(|service| self.asked.get(&service));
        answers(slice, asked.map_or(&[], Vec::as_slice))
    }

    /// A slice is none of its Service's any more.
    fn forget(&mut self, key: &ObjectKey) {
        let Some(service) = self.slices.get(key).and_then(service) else { return };
        if let Some(slices) = self.by_service.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.by_service.remove(&service);
            }
        }
    }
}

fn service(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.service.clone()?;
    Some(ObjectKey { namespace: slice.key.namespace.clone(), name })
}

fn about(question: &Question) -> Option<(&ObjectKey, Asked)> {
    match question {
        Question::Service(service) => Some((service, Asked::Addresses)),
        Question::ServicePort { service, protocol } => Some((service, Asked::Ports(*protocol))),
        Question::Selector(_)
        | Question::Networks(_)
        | Question::Nodes(_)
        | Question::NamedPort { .. }
        | Question::NamespaceUnknown
        | Question::Names(_) => None,
    }
}

fn answers(slice: &EndpointSlice, asked: &[(AtomId, Asked)]) -> Vec<Atom> {
    let mut atoms = Vec::new();
    for (id, asked) in asked {
        match asked {
            Asked::Addresses => atoms.push(Atom::yes(*id)),
            Asked::Ports(protocol) => {
                let ports = slice.ports.iter().filter(|(of, _)| of == protocol);
                atoms.extend(ports.map(|(_, port)| Atom::port(*id, *port)));
            }
        }
    }
    atoms.sort_unstable();
    atoms
}

#[cfg(test)]
mod tests {
    use super::super::atoms::Atoms;
    use super::super::classes::Classes;
    use super::super::pending::Pending;
    use super::super::shapes::Shapes;
    use super::*;
    use crate::model::{Change, Key};

    fn slice(name: &str, service: &str, addresses: &[&str], ports: &[(u8, u16)]) -> EndpointSlice {
        EndpointSlice {
            key: ObjectKey::namespaced("shop", name),
            service: Some(service.into()),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ports: ports.into(),
        }
    }

    #[derive(Default)]
    struct World {
        services: Services,
        addresses: Addresses,
        classes: Classes,
        pending: Pending,
    }

    impl World {
        fn set(&mut self, slice: EndpointSlice) -> Vec<Change> {
            self.services.set(slice, &mut self.addresses);
            self.settle()
        }

        fn settle(&mut self) -> Vec<Change> {
            let shapes = Shapes::default();
            self.addresses.settle(&shapes, &mut self.classes, &mut self.pending);
            let changes = self.classes.take_changes();
            self.classes.retire(&changes.emptied);
            let delta = self.pending.take();
            self.classes.delta_taken();
            delta.map(|delta| delta.elements).unwrap_or_default()
        }
    }

    fn touched(changes: &[Change]) -> Vec<String> {
        let key = |change: &Change| match change.key {
            Key::Class(address) => address.to_string(),
            other => panic!("{other:?}"),
        };
        changes.iter().map(key).collect()
    }

    #[test]
    fn an_event_touches_the_elements_of_what_it_changes() {
        let mut world = World::default();
        let mut atoms = Atoms::default();
        let db = ObjectKey::namespaced("shop", "db");
        let questions =
            [Question::Service(db.clone()), Question::ServicePort { service: db, protocol: 6 }];
        let ports = [(6, 80), (17, 53)];
        let three = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        assert_eq!(world.set(slice("a", "db", &three, &ports)), [], "nobody asks");
        for question in &questions {
            let id = atoms.acquire(question);
            world.services.activate(id, question, &mut world.addresses);
        }
        assert_eq!(touched(&world.settle()), three);
        assert_eq!(world.set(slice("x", "web", &["10.0.0.9"], &ports)), [], "another service");

        let moved = world.set(slice("a", "db", &["10.0.0.1", "10.0.0.3", "10.0.0.4"], &ports));
        assert_eq!(touched(&moved), ["10.0.0.2", "10.0.0.4"]);
        let twice = world.set(slice("b", "db", &["10.0.0.3", "10.0.0.5"], &ports));
        assert_eq!(touched(&twice), ["10.0.0.5"], "it was in another slice already");
        let unasked = world.set(slice("b", "db", &["10.0.0.3", "10.0.0.5"], &[(6, 80), (17, 54)]));
        assert_eq!(unasked, [], "nobody asks for ports of UDP");
        let port = world.set(slice("b", "db", &["10.0.0.3", "10.0.0.5"], &[(6, 80), (6, 81)]));
        assert_eq!(touched(&port), ["10.0.0.3", "10.0.0.5"]);

        world.services.remove(&ObjectKey::namespaced("shop", "a"), &mut world.addresses);
        assert_eq!(touched(&world.settle()), ["10.0.0.1", "10.0.0.4"]);
        let elsewhere = world.set(slice("b", "web", &["10.0.0.3", "10.0.0.5"], &ports));
        assert_eq!(touched(&elsewhere), ["10.0.0.3", "10.0.0.5"]);
        assert_eq!((world.addresses.len(), world.classes.len()), (0, 0), "nothing is left");
    }

    #[test]
    fn what_is_not_asked_any_more_is_forgotten() {
        let mut world = World::default();
        let mut atoms = Atoms::default();
        let question = Question::Service(ObjectKey::namespaced("shop", "db"));
        let id = atoms.acquire(&question);
        world.services.activate(id, &question, &mut world.addresses);
        assert_eq!(touched(&world.set(slice("a", "db", &["10.0.0.1"], &[]))), ["10.0.0.1"]);
        world.services.deactivate(id, &question, &mut world.addresses);
        assert_eq!(touched(&world.settle()), ["10.0.0.1"]);
        assert_eq!((world.addresses.len(), world.classes.len()), (0, 0));
        assert!(world.services.asked.is_empty());
        world.services.remove(&ObjectKey::namespaced("shop", "a"), &mut world.addresses);
        assert!(world.services.by_service.is_empty() && world.services.slices.is_empty());
        assert_eq!(world.settle(), []);
    }
}
