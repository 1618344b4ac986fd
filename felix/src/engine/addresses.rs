//! From addresses to classes: which workloads hold an address, which active networks it lies in,
//! which Services it is behind, whether it is a node's, and the elements that tell the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::atoms::{Atom, AtomId};
use super::classes::Classes;
use super::pending::Pending;
use super::policy::Networks;
use super::ranges::{Family, Span, bits, flatten};
use super::shapes::{Bearer, ShapeId, Shapes};
use crate::model::{Class, Key, Kind, ObjectKey, Value};

#[derive(Clone, Debug, Default)]
struct Entry {
    /// The shapes of the workloads that hold the address, each with the position of the address
    /// in its shape's list.
    owners: SmallVec<[(ShapeId, u32); 1]>,
    class: Class,
    /// The class that the address has an element for, 0 if it has none.
    shown: Class,
    /// A workload held the address when it was last settled, or it was attested.
    is_held: bool,
}

/// An address now belongs to another class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) address: IpAddr,
    pub(super) before: Class,
    pub(super) now: Class,
    /// No workload held the address before, and no Service or node asked for had it.
    pub(super) is_new: bool,
}

/// All addresses of a range are in another range's class now.
#[derive(Clone, Copy, Debug)]
pub(super) struct RangeMove {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
    pub(super) before: Class,
    pub(super) now: Class,
}

/// All addresses of workloads and of the Services and nodes asked for, and the active networks.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    book: BTreeMap<IpAddr, Entry>,
    dirty: FxHashSet<IpAddr>,
    /// What Services and nodes answer of an address: ascending, once for each slice or node that says so.
    attested: FxHashMap<IpAddr, SmallVec<[Atom; 2]>>,
    networks: BTreeMap<AtomId, Networks>,
    /// Network sets, with the shapes that say what they answer.
    sets: BTreeMap<(Kind, ObjectKey), (ShapeId, Networks)>,
    networks_changed: bool,
    /// Ascending and disjoint.
    ranges: BTreeMap<Family, Vec<(Span, Class)>>,
}

impl Addresses {
    /// A workload of this shape holds the address.
    pub(super) fn add_owner(&mut self, address: IpAddr, shape: ShapeId, shapes: &mut Shapes) {
        let position = shapes.add_address(shape, address);
        self.book.entry(address).or_default().owners.push((shape, position));
        self.dirty.insert(address);
    }

    /// A workload of this shape holds the address no more.
    pub(super) fn remove_owner(&mut self, address: IpAddr, shape: ShapeId, shapes: &mut Shapes) {
        let Some(entry) = self.book.get_mut(&address) else { return };
        let Some(at) = entry.owners.iter().position(|owner| owner.0 == shape) else { return };
        let (_, position) = entry.owners.swap_remove(at);
        self.dirty.insert(address);
        let last = slot(shapes.addresses(shape).len() - 1);
        if let Some(moved) = shapes.remove_address(shape, position)
            && let Some(entry) = self.book.get_mut(&moved)
            && let Some(owner) = entry.owners.iter_mut().find(|owner| **owner == (shape, last))
        {
            owner.1 = position;
        }
    }

    /// Whether a workload holds the address.
    pub(super) fn has_owner(&self, address: IpAddr) -> bool {
        self.book.get(&address).is_some_and(|entry| !entry.owners.is_empty())
    }

    /// A Service's slice or a node says this of the address.
    pub(super) fn attest(&mut self, address: IpAddr, atoms: &[Atom]) {
        if atoms.is_empty() {
            return;
        }
        let attested = self.attested.entry(address).or_default();
        attested.extend_from_slice(atoms);
        attested.sort_unstable();
        self.dirty.insert(address);
    }

    /// A Service's slice or a node says this of the address no more.
    pub(super) fn retract(&mut self, address: IpAddr, atoms: &[Atom]) {
        let Some(attested) = self.attested.get_mut(&address).filter(|_| !atoms.is_empty()) else {
            return;
        };
        for atom in atoms {
            if let Ok(at) = attested.binary_search(atom) {
                attested.remove(at);
            }
        }
        if attested.is_empty() {
            self.attested.remove(&address);
        }
        self.dirty.insert(address);
    }

    /// The shape answers other questions now.
    pub(super) fn shape_changed(&mut self, shape: ShapeId, shapes: &Shapes) {
        self.dirty.extend(shapes.addresses(shape));
        self.networks_changed |= shapes.key(shape).is_some_and(|key| key.bearer != Bearer::Pod);
    }

    /// The network set stands for these networks, or is gone.
    pub(super) fn set_network_set(
        &mut self,
        id: &(Kind, ObjectKey),
        set: Option<(ShapeId, Networks)>,
    ) {
        if self.sets.get(id) == set.as_ref() {
            return;
        }
        self.networks_changed = true;
        match set {
            Some(set) => self.sets.insert(id.clone(), set),
            None => self.sets.remove(id),
        };
    }

    /// A set of networks is asked for from now on.
    pub(super) fn activate(&mut self, id: AtomId, networks: &Networks) {
        self.networks.insert(id, networks.clone());
        self.networks_changed = true;
    }

    /// A set of networks is not asked for any more.
    pub(super) fn deactivate(&mut self, id: AtomId) {
        self.networks.remove(&id);
        self.networks_changed = true;
    }

    /// Networks have changed since classes were last brought up to date.
    pub(super) fn ranges_change(&self) -> bool {
        self.networks_changed
    }

    /// Brings classes and elements up to date. Returns the addresses whose class changed, in
    /// ascending order, and the ranges; the classes they had can be read until they are retired.
    pub(super) fn settle(
        &mut self,
        shapes: &Shapes,
        classes: &mut Classes,
        pending: &mut Pending,
    ) -> (Vec<Move>, Vec<RangeMove>) {
        let mut range_moves = Vec::new();
        if std::mem::take(&mut self.networks_changed) {
            for family in Family::ALL {
                range_moves.extend(self.settle_ranges(family, shapes, classes, pending));
            }
        }
        let mut dirty: Vec<IpAddr> = std::mem::take(&mut self.dirty).into_iter().collect();
        dirty.sort_unstable();
        let mut moves = Vec::new();
        // Pods of one shape in one range are in one class.
        let mut known: FxHashMap<(ShapeId, Class), Class> = FxHashMap::default();
        for address in dirty {
            let range = self.range_class(address);
            let attested = self.attested.get(&address).map(SmallVec::as_slice);
            let entry = match attested {
                Some(_) => Some(self.book.entry(address).or_default()),
                None => self.book.get_mut(&address),
            };
            let Some(entry) = entry else { continue };
            let now = match *entry.owners {
                [] if attested.is_none() => Class(0),
                [(shape, _)] if attested.is_none() => match known.get(&(shape, range)) {
                    Some(class) => {
                        classes.acquire_again(*class);
                        *class
                    }
                    None => {
                        let atoms = union([shape], &[], range, shapes, classes);
                        let class = classes.acquire(&atoms);
                        known.insert((shape, range), class);
                        class
                    }
                },
                ref owners => {
                    let owners = owners.iter().map(|owner| owner.0);
                    let attested = attested.unwrap_or_default();
                    let atoms = union(owners, attested, range, shapes, classes);
                    classes.acquire(&atoms)
                }
            };
            let held = !entry.owners.is_empty() || attested.is_some();
            let shown = if held && now != range { now } else { Class(0) };
            pending.set(Key::Class(address), element(entry.shown), element(shown));
            classes.release(entry.class);
            // Without an owner an address is what its range says.
            let before = if entry.is_held { entry.class } else { range };
            let after = if held { now } else { range };
            if before != after {
                moves.push(Move { address, before, now: after, is_new: !entry.is_held });
            }
            if held {
                (entry.class, entry.shown, entry.is_held) = (now, shown, true);
            } else {
                self.book.remove(&address);
            }
        }
        (moves, range_moves)
    }

    /// The class that the kernel finds for an address.
    pub(super) fn class(&self, address: IpAddr) -> Class {
        match self.book.get(&address) {
            Some(entry) if entry.shown != Class(0) => entry.shown,
            _ => self.range_class(address),
        }
    }

    /// The address or range that the kernel finds the class of an address by; None: it is in none.
    pub(super) fn element(&self, address: IpAddr) -> Option<Key> {
        if self.book.get(&address).is_some_and(|entry| entry.shown != Class(0)) {
            return Some(Key::Class(address));
        }
        let family = Family::of(address);
        let bits = bits(address);
        let mut ranges = self.ranges.get(&family)?.iter();
        let (span, _) = ranges.find(|(span, _)| span.first <= bits && bits <= span.last)?;
        Some(Key::ClassRange(family.address(span.first), family.address(span.last)))
    }

    /// An address of each kind that is told apart: every one that a workload holds or that is of a
    /// Service or node asked for, and the first of each range and behind it.
    pub(super) fn samples(&self) -> impl Iterator<Item = IpAddr> {
        let edges = self.ranges.iter().flat_map(|(family, ranges)| {
            ranges.iter().flat_map(move |(span, _)| {
                let after = span.last.checked_add(1).map(|bits| family.address(bits));
                [Some(family.address(span.first)), after].into_iter().flatten()
            })
        });
        self.book.keys().copied().chain(edges)
    }

    /// How many addresses workloads hold or are of Services or nodes asked for.
    pub(super) fn len(&self) -> usize {
        self.book.len()
    }

    fn range_class(&self, address: IpAddr) -> Class {
        let Some(ranges) = self.ranges.get(&Family::of(address)) else { return Class(0) };
        let bits = bits(address);
        let at = ranges.partition_point(|(span, _)| span.last < bits);
        match ranges.get(at) {
            Some((span, class)) if span.first <= bits => *class,
            _ => Class(0),
        }
    }

    /// Cuts the active networks, and those of the sets that active selectors find, into disjoint ranges, and marks the addresses in those that are
    /// not what they were. Returns what is in another class now.
    fn settle_ranges(
        &mut self,
        family: Family,
        shapes: &Shapes,
        classes: &mut Classes,
        pending: &mut Pending,
    ) -> Vec<RangeMove> {
        let mut spans: Vec<(Span, AtomId)> = self
            .networks
            .iter()
            .flat_map(|(id, networks)| networks.spans(family).into_iter().map(|span| (span, *id)))
            .collect();
        for (shape, networks) in self.sets.values() {
            let atoms = shapes.atoms(*shape);
            if !atoms.is_empty() {
                for span in networks.spans(family) {
                    spans.extend(atoms.iter().map(|atom| (span, atom.id())));
                }
            }
        }
        let ranges: Vec<(Span, Class)> = flatten(&spans)
            .into_iter()
            .map(|(span, ids)| {
                let atoms: Vec<Atom> = ids.into_iter().map(Atom::yes).collect();
                (span, classes.acquire(&atoms))
            })
            .collect();
        let before = self.ranges.insert(family, ranges.clone()).unwrap_or_default();
        for (_, class) in &before {
            classes.release(*class);
        }
        let mut changes: BTreeMap<Span, (Class, Class)> = BTreeMap::new();
        for (span, class) in before {
            changes.entry(span).or_default().0 = class;
        }
        for (span, class) in ranges {
            changes.entry(span).or_default().1 = class;
        }
        // Each with whether it is so now.
        let mut differing: Vec<(Span, (bool, Class))> = Vec::new();
        for (span, (before, now)) in changes {
            if before == now {
                continue;
            }
            let of = [(false, before), (true, now)].into_iter();
            differing.extend(of.filter(|it| it.1 != Class(0)).map(|it| (span, it)));
            let (first, last) = (family.address(span.first), family.address(span.last));
            pending.set(Key::ClassRange(first, last), element(before), element(now));
            self.dirty.extend(self.book.range(first..=last).map(|(address, _)| *address));
        }
        let moved = flatten(&differing).into_iter().map(|(span, of)| {
            let class = |now: bool| of.iter().find(|it| it.0 == now).map_or(Class(0), |it| it.1);
            RangeMove {
                first: family.address(span.first),
                last: family.address(span.last),
                before: class(false),
                now: class(true),
            }
        });
        moved.filter(|moved| moved.before != moved.now).collect()
    }
}

/// All that is true of an address with these owners, that is attested this, in a range of this
/// class; ascending.
fn union(
    owners: impl IntoIterator<Item = ShapeId>,
    attested: &[Atom],
    range: Class,
    shapes: &Shapes,
    classes: &Classes,
) -> Vec<Atom> {
    let mut atoms = classes.atoms(range).to_vec();
    atoms.extend_from_slice(attested);
    for owner in owners {
        atoms.extend_from_slice(shapes.atoms(owner));
    }
    atoms.sort_unstable();
    atoms.dedup();
    atoms
}

fn element(class: Class) -> Option<Value> {
    (class != Class(0)).then_some(Value::Class(class))
}

/// Addresses of one shape are counted in 32 bits: more would not fit in memory.
fn slot(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
