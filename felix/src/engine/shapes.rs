//! Shapes: everything about a workload that a policy can see, apart from its addresses. The pods
//! of one template share a shape, so that a selector is asked once for all of them. Network sets
//! have shapes too, which stand for their networks.

use std::net::IpAddr;
use std::sync::Arc;

use api::selector::Selector;
use rustc_hash::FxHashMap;

use super::atoms::{Atom, AtomId, Question};
use super::classes::AtomSet;
use super::idset::IdSet;
use super::postings::{Postings, SelectorIndex};
use super::terms::{Analysis, Term, View};
use crate::model::{Labels, NamedPort, ObjectKey};

/// Numbers a shape; given again once nothing has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ShapeId(u32);

/// Numbers a namespace; given again once nothing is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct NamespaceId(u32);

/// What has a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bearer {
    /// A pod, or an endpoint of this node.
    Pod,
    /// A NetworkSet: it has labels and is in a namespace.
    NetworkSet,
    /// A GlobalNetworkSet: it has labels, and its namespace is empty.
    GlobalNetworkSet,
    /// A host endpoint: it has labels and ports, and its namespace is empty.
    HostEndpoint,
}

/// What makes two shapes the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShapeKey {
    pub(super) bearer: Bearer,
    pub(super) namespace: Arc<str>,
    pub(super) service_account: Arc<str>,
    pub(super) labels: Labels,
    pub(super) ports: Arc<[NamedPort]>,
}

#[derive(Clone, Debug)]
struct Shape {
    key: Arc<ShapeKey>,
    namespace: NamespaceId,
    /// Pods, local endpoints and network sets that have it.
    holders: u32,
    /// The active questions it answers, ascending.
    atoms: AtomSet,
    /// The addresses of its holders, one entry for each holder of each.
    addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
struct Namespace {
    name: Arc<str>,
    /// None while the object is not known.
    labels: Option<Labels>,
    shapes: IdSet<ShapeId>,
}

#[derive(Clone, Debug)]
struct ActiveSelector {
    selector: Selector,
    term: Option<Term>,
    /// It looks at labels of namespaces.
    namespace_labels: bool,
}

/// The label index of all workloads in the cluster, and the active selectors they match.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    ids: FxHashMap<Arc<ShapeKey>, ShapeId>,
    shapes: Vec<Option<Shape>>,
    free_shapes: Vec<ShapeId>,
    namespace_ids: FxHashMap<Arc<str>, NamespaceId>,
    namespaces: Vec<Option<Namespace>>,
    free_namespaces: Vec<NamespaceId>,
    accounts: FxHashMap<ObjectKey, Labels>,
    by_label: Postings<ShapeId>,
    namespaces_by_label: Postings<NamespaceId>,
    index: SelectorIndex<AtomId>,
    selectors: FxHashMap<AtomId, ActiveSelector>,
    named_ports: FxHashMap<(Arc<str>, u8), AtomId>,
    /// Asks for workloads whose namespace is not known.
    unknown: Option<AtomId>,
}

impl Shapes {
    /// The shape of this key, which gains a holder.
    pub(super) fn acquire(&mut self, key: ShapeKey) -> ShapeId {
        if let Some(id) = self.ids.get(&key) {
            let id = *id;
            if let Some(shape) = self.get_mut(id) {
                shape.holders += 1;
            }
            return id;
        }
        let id = self.free_shapes.pop().unwrap_or_else(|| {
            self.shapes.push(None);
            ShapeId(slot(self.shapes.len() - 1))
        });
        let namespace = self.namespace(&key.namespace);
        if let Some(namespace) = self.namespaces[namespace.0 as usize].as_mut() {
            namespace.shapes.insert(id);
        }
        for (label, value) in key.labels.iter() {
            self.by_label.insert(label, value, id);
        }
        let key = Arc::new(key);
        self.ids.insert(key.clone(), id);
        self.shapes[id.0 as usize] = Some(Shape {
            key,
            namespace,
            holders: 1,
            atoms: AtomSet::default(),
            addresses: Vec::new(),
        });
        self.recompute(id);
        id
    }

    /// The shape loses a holder.
    pub(super) fn release(&mut self, id: ShapeId) {
        let Some(shape) = self.get_mut(id) else { return };
        shape.holders -= 1;
        if shape.holders > 0 {
            return;
        }
        let Some(shape) = self.shapes[id.0 as usize].take() else { return };
        self.ids.remove(&shape.key);
        for (label, value) in shape.key.labels.iter() {
            self.by_label.remove(label, value, id);
        }
        if let Some(namespace) = self.namespaces[shape.namespace.0 as usize].as_mut() {
            namespace.shapes.remove(id);
        }
        self.forget_namespace_if_unused(shape.namespace);
        self.free_shapes.push(id);
    }

    /// What the shape was made from.
    pub(super) fn key(&self, id: ShapeId) -> Option<&Arc<ShapeKey>> {
        self.get(id).map(|shape| &shape.key)
    }

    /// The active questions that a shape answers, ascending.
    pub(super) fn atoms(&self, id: ShapeId) -> &[Atom] {
        self.get(id).map_or(&[], |shape| &shape.atoms)
    }

    /// The addresses of a shape's holders; may hold duplicates.
    pub(super) fn addresses(&self, id: ShapeId) -> &[IpAddr] {
        self.get(id).map_or(&[], |shape| &shape.addresses)
    }

    /// A holder of the shape has this address. Returns the entry's position, to be kept for
    /// [`Self::remove_address`].
    pub(super) fn add_address(&mut self, id: ShapeId, address: IpAddr) -> u32 {
        let Some(shape) = self.get_mut(id) else { return 0 };
        shape.addresses.push(address);
        slot(shape.addresses.len() - 1)
    }

    /// Removes the entry at a position. Another may have moved there from the last position: then
    /// its address is returned.
    pub(super) fn remove_address(&mut self, id: ShapeId, position: u32) -> Option<IpAddr> {
        let shape = self.get_mut(id)?;
        shape.addresses.swap_remove(position as usize);
        if shape.addresses.capacity() > 2 * shape.addresses.len() + 16 {
            shape.addresses.shrink_to_fit();
        }
        shape.addresses.get(position as usize).copied()
    }

    /// A namespace has these labels, or is not known any more. Returns the shapes that now match
    /// other selectors.
    pub(super) fn set_namespace(
        &mut self,
        name: &Arc<str>,
        labels: Option<&Labels>,
    ) -> Vec<ShapeId> {
        if labels.is_none() && !self.namespace_ids.contains_key(name) {
            return Vec::new();
        }
        let id = self.namespace(name);
        let Some(namespace) = self.namespaces[id.0 as usize].as_mut() else { return Vec::new() };
        if namespace.labels.as_ref() == labels {
            return Vec::new();
        }
        let before = std::mem::replace(&mut namespace.labels, labels.cloned());
        for (key, value) in before.iter().flat_map(Labels::iter) {
            self.namespaces_by_label.remove(key, value, id);
        }
        for (key, value) in labels.into_iter().flat_map(Labels::iter) {
            self.namespaces_by_label.insert(key, value, id);
        }
        let changed = self.recompute_namespace(id, |_| true);
        self.forget_namespace_if_unused(id);
        changed
    }

    /// A service account has these labels, or is not known any more. Returns the shapes that now
    /// match other selectors.
    pub(super) fn set_account(&mut self, key: &ObjectKey, labels: Option<&Labels>) -> Vec<ShapeId> {
        let before = match labels {
            Some(labels) => self.accounts.insert(key.clone(), labels.clone()),
            None => self.accounts.remove(key),
        };
        let id = key.namespace.as_ref().and_then(|name| self.namespace_ids.get(name));
        match id {
            Some(id) if before.as_ref() != labels => {
                self.recompute_namespace(*id, |shape| shape.service_account == key.name)
            }
            _ => Vec::new(),
        }
    }

    /// The shapes of workloads in a namespace.
    pub(super) fn in_namespace(&self, name: &str) -> impl Iterator<Item = ShapeId> {
        let namespace = self.namespace_ids.get(name);
        let namespace = namespace.and_then(|id| self.namespaces[id.0 as usize].as_ref());
        namespace.into_iter().flat_map(|namespace| namespace.shapes.iter())
    }

    /// Whether a selector matches a workload of this shape.
    pub(super) fn matches(&self, id: ShapeId, selector: &Selector) -> bool {
        self.view(id).is_some_and(|view| selector.matches(&view))
    }

    /// The labels of a shape, as selectors see them.
    pub(super) fn view(&self, id: ShapeId) -> Option<View<'_>> {
        let shape = self.get(id)?;
        let namespace = self.namespaces[shape.namespace.0 as usize].as_ref()?;
        Some(View::new(&shape.key, namespace.labels.as_ref(), &self.accounts))
    }

    /// A question is asked from now on. Returns the shapes that answer it.
    pub(super) fn activate(&mut self, id: AtomId, question: &Question) -> Vec<ShapeId> {
        match question {
            Question::Networks(_)
            | Question::Nodes(_)
            | Question::Service(_)
            | Question::ServicePort { .. }
            | Question::Names(_) => Vec::new(),
            Question::NamespaceUnknown => {
                self.unknown = Some(id);
                let shapes: Vec<ShapeId> = self.all().collect();
                self.add_where(id, &shapes, |shapes, shape| {
                    shapes.unknown_atom(shape).into_iter().collect()
                })
            }
            Question::NamedPort { name, protocol } => {
                self.named_ports.insert((name.clone(), *protocol), id);
                let shapes: Vec<ShapeId> = self.all().collect();
                self.add_where(id, &shapes, |shapes, shape| {
                    shapes.port_atoms(shape).into_iter().filter(|atom| atom.id() == id).collect()
                })
            }
            Question::Selector(selector) => {
                let analysis = Analysis::of(selector);
                let term = self.most_selective(analysis.terms);
                self.index.insert(id, term.as_ref());
                let candidates = self.candidates(term.as_ref());
                let active = ActiveSelector {
                    selector: selector.clone(),
                    term,
                    namespace_labels: analysis.namespace_labels,
                };
                self.selectors.insert(id, active);
                self.add_where(id, &candidates, |shapes, shape| {
                    shapes
                        .view(shape)
                        .filter(|view| shapes.selects(id, view))
                        .map(|_| Atom::yes(id))
                        .into_iter()
                        .collect()
                })
            }
        }
    }

    /// A question is not asked any more. Returns the shapes that answered it.
    pub(super) fn deactivate(&mut self, id: AtomId, question: &Question) -> Vec<ShapeId> {
        let candidates = match question {
            Question::Networks(_)
            | Question::Nodes(_)
            | Question::Service(_)
            | Question::ServicePort { .. }
            | Question::Names(_) => return Vec::new(),
            Question::NamespaceUnknown => {
                self.unknown = None;
                self.all().collect()
            }
            Question::NamedPort { name, protocol } => {
                self.named_ports.remove(&(name.clone(), *protocol));
                self.all().collect()
            }
            Question::Selector(_) => {
                let term = self.selectors.remove(&id).and_then(|selector| selector.term);
                self.index.remove(id, term.as_ref());
                self.candidates(term.as_ref())
            }
        };
        let mut changed = Vec::new();
        for shape in candidates {
            let Some(entry) = self.get_mut(shape) else { continue };
            if entry.atoms.iter().any(|atom| atom.id() == id) {
                entry.atoms = entry.atoms.iter().filter(|atom| atom.id() != id).copied().collect();
                changed.push(shape);
            }
        }
        changed
    }

    /// How many shapes there are.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    fn get(&self, id: ShapeId) -> Option<&Shape> {
        self.shapes.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: ShapeId) -> Option<&mut Shape> {
        self.shapes.get_mut(id.0 as usize)?.as_mut()
    }

    fn all(&self) -> impl Iterator<Item = ShapeId> {
        (0..).zip(&self.shapes).filter(|(_, shape)| shape.is_some()).map(|(id, _)| ShapeId(id))
    }

    fn namespace(&mut self, name: &Arc<str>) -> NamespaceId {
        if let Some(id) = self.namespace_ids.get(name) {
            return *id;
        }
        let id = self.free_namespaces.pop().unwrap_or_else(|| {
            self.namespaces.push(None);
            NamespaceId(slot(self.namespaces.len() - 1))
        });
        self.namespace_ids.insert(name.clone(), id);
        self.namespaces[id.0 as usize] =
            Some(Namespace { name: name.clone(), labels: None, shapes: IdSet::default() });
        id
    }

    fn forget_namespace_if_unused(&mut self, id: NamespaceId) {
        let entry = &mut self.namespaces[id.0 as usize];
        if let Some(namespace) = entry
            && namespace.labels.is_none()
            && namespace.shapes.is_empty()
        {
            self.namespace_ids.remove(&namespace.name);
            *entry = None;
            self.free_namespaces.push(id);
        }
    }

    /// Adds to each of `candidates` the answers that `answer` finds. Returns those that got any.
    fn add_where(
        &mut self,
        id: AtomId,
        candidates: &[ShapeId],
        answer: impl Fn(&Self, ShapeId) -> Vec<Atom>,
    ) -> Vec<ShapeId> {
        let mut changed = Vec::new();
        for shape in candidates {
            let new = answer(self, *shape);
            let Some(entry) = self.get_mut(*shape) else { continue };
            if new.is_empty() || entry.atoms.iter().any(|atom| atom.id() == id) {
                continue;
            }
            let mut atoms: Vec<Atom> = entry.atoms.iter().copied().chain(new).collect();
            atoms.sort_unstable();
            atoms.dedup();
            entry.atoms = atoms.into();
            changed.push(*shape);
        }
        changed
    }

    /// The answers of a shape to all active questions.
    fn answers(&self, id: ShapeId) -> Vec<Atom> {
        let Some(view) = self.view(id) else { return Vec::new() };
        let candidates = self.index.candidates(&view);
        let selected = candidates.into_iter().filter(|atom| self.selects(*atom, &view));
        let mut atoms: Vec<Atom> = selected.map(Atom::yes).collect();
        atoms.extend(self.port_atoms(id));
        atoms.extend(self.unknown_atom(id));
        atoms.sort_unstable();
        atoms.dedup();
        atoms
    }

    fn unknown_atom(&self, id: ShapeId) -> Option<Atom> {
        let is_known = self.view(id).is_none_or(|view| view.namespace_is_known());
        self.unknown.filter(|_| !is_known).map(Atom::yes)
    }

    fn port_atoms(&self, id: ShapeId) -> Vec<Atom> {
        let ports = self.get(id).map(|shape| &shape.key.ports);
        let ports = ports.into_iter().flat_map(|ports| ports.iter());
        ports
            .filter_map(|port| {
                let id = self.named_ports.get(&(port.name.clone(), port.protocol))?;
                Some(Atom::port(*id, port.port))
            })
            .collect()
    }

    /// Whether an active selector matches. What is said of a namespace's labels is not true of a
    /// namespace that is not known yet: peers are let in once it is known that they may.
    fn selects(&self, id: AtomId, view: &View<'_>) -> bool {
        self.selectors.get(&id).is_some_and(|active| {
            (!active.namespace_labels || view.namespace_is_known()) && active.selector.matches(view)
        })
    }

    /// Asks all active questions again. True if the answers changed.
    fn recompute(&mut self, id: ShapeId) -> bool {
        let atoms = self.answers(id);
        match self.get_mut(id) {
            Some(shape) if *shape.atoms != *atoms => {
                shape.atoms = atoms.into();
                true
            }
            _ => false,
        }
    }

    fn recompute_namespace(
        &mut self,
        id: NamespaceId,
        concerned: impl Fn(&ShapeKey) -> bool,
    ) -> Vec<ShapeId> {
        let namespace = self.namespaces[id.0 as usize].as_ref();
        let mut shapes: Vec<ShapeId> =
            namespace.into_iter().flat_map(|namespace| namespace.shapes.iter()).collect();
        shapes.retain(|shape| {
            self.key(*shape).is_some_and(|key| concerned(key)) && self.recompute(*shape)
        });
        shapes
    }

    /// The term that the fewest shapes have.
    fn most_selective(&self, terms: Vec<Term>) -> Option<Term> {
        terms.into_iter().min_by_key(|term| match term {
            Term::Label(key, values) => self.by_label.count(key, values.as_deref()),
            Term::Namespace(names) => {
                names.iter().map(|name| self.in_namespace(name).count()).sum()
            }
            Term::NamespaceLabel(..) => self.candidates(Some(term)).len(),
        })
    }

    /// The shapes that have what a term asks for; all shapes if there is none.
    fn candidates(&self, term: Option<&Term>) -> Vec<ShapeId> {
        let in_namespace = |id: NamespaceId| {
            let namespace = self.namespaces[id.0 as usize].as_ref();
            namespace.into_iter().flat_map(|namespace| namespace.shapes.iter())
        };
        match term {
            None => self.all().collect(),
            Some(Term::Label(key, values)) => self.by_label.get(key, values.as_deref()).collect(),
            Some(Term::Namespace(names)) => {
                names.iter().flat_map(|name| self.in_namespace(name)).collect()
            }
            Some(Term::NamespaceLabel(key, values)) => self
                .namespaces_by_label
                .get(key, values.as_deref())
                .flat_map(in_namespace)
                .collect(),
        }
    }
}

/// Slots are counted in 32 bits: more would not fit in memory.
fn slot(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
