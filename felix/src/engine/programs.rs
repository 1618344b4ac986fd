//! All programs in use, and the policy elements they come to for each endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::active::ActivePolicy;
use super::addresses::{Move, RangeMove};
use super::atoms::AtomId;
use super::classes::{ClassChanges, Classes};
use super::comments;
use super::host_tables::{HostSite, HostTables};
use super::pending::Pending;
use super::program::{Program, ProgramKey};
use super::table::{Ruling, Table};
use crate::model::host::TableId;
use crate::model::{Class, Decider, Direction, IfIndex, Key, Traffic, Value};

/// Numbers a program. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ProgramId(u64);

/// The programs of all local endpoints.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs {
    by_key: FxHashMap<ProgramKey, ProgramId>,
    programs: BTreeMap<ProgramId, Program>,
    by_atom: FxHashMap<AtomId, BTreeSet<ProgramId>>,
    hosts: HostTables,
    /// Programs that lost a user.
    left: Vec<ProgramId>,
    last: u64,
}

/// Where a program is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Site {
    /// At the interface of a workload.
    Workload(IfIndex),
    /// At interfaces of the host.
    Host(HostSite),
}

impl Site {
    /// The element that holds for all whom a program does not tell apart, and that is always there.
    fn shown_at(self, direction: Direction) -> Key {
        match self {
            Self::Workload(index) => {
                Key::Policy { direction, index, class: None, traffic: Traffic::Any }
            }
            Self::Host(site) => site.key(Class::default()),
        }
    }
}

/// The endpoint that a program is for.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) site: Site,
    pub(super) addresses: SmallVec<[IpAddr; 2]>,
}

impl Programs {
    /// Takes new classes into all programs, notes the addresses whose move between classes means
    /// something to any of them, and drops the classes that are empty.
    pub(super) fn classes_changed(
        &mut self,
        changes: &ClassChanges,
        (moves, range_moves): (&[Move], &[RangeMove]),
        classes: &Classes,
        pending: &mut Pending,
    ) {
        for &class in &changes.created {
            let atoms = classes.atoms(class);
            for id in self.asking(atoms.iter().map(|atom| atom.id())) {
                let Some(program) = self.programs.get_mut(&id) else { continue };
                if program.add_class(class, atoms).is_some() {
                    emit(program, class, &mut self.hosts, pending, |table| (None, Some(table)));
                }
            }
        }
        let mut matters: FxHashMap<(Class, Class), bool> = FxHashMap::default();
        let mut matters = |before: Class, now: Class| {
            let pair = (before, now);
            *matters.entry(pair).or_insert_with(|| self.tell_apart(pair, classes))
        };
        for moved in moves.iter().filter(|moved| matters(moved.before, moved.now)) {
            pending.rejudge(moved.address);
        }
        for moved in range_moves.iter().filter(|moved| matters(moved.before, moved.now)) {
            pending.rejudge_range(moved.first, moved.last);
        }
        for &class in &changes.emptied {
            for id in self.asking(classes.atoms(class).iter().map(|atom| atom.id())) {
                let Some(program) = self.programs.get_mut(&id) else { continue };
                emit(program, class, &mut self.hosts, pending, |table| (Some(table), None));
                program.remove_class(class);
            }
        }
    }

    /// Has an endpoint use the program of this key instead of the one it used. True if that
    /// changes any verdict.
    pub(super) fn assign(
        &mut self,
        user: &User,
        before: Option<ProgramId>,
        key: ProgramKey,
        (policies, deciders): (&[Arc<ActivePolicy>], Box<[Decider]>),
        classes: &Classes,
        pending: &mut Pending,
    ) -> (ProgramId, bool) {
        let direction = key.direction;
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                self.last += 1;
                let id = ProgramId(self.last);
                let program = Program::new(key.clone(), policies, deciders, classes);
                for atom in program.relevant() {
                    self.by_atom.entry(atom).or_default().insert(id);
                }
                self.by_key.insert(key, id);
                self.programs.insert(id, program);
                id
            }
        };
        let now = self.programs.get(&id);
        let changed = match before {
            Some(before) if before == id => false,
            before => {
                let before = before.and_then(|before| self.programs.get(&before));
                let others = match (before, now) {
                    (Some(before), Some(now)) => !now.key().judges_as(before.key()),
                    _ => true,
                };
                if let Some(now) = now
                    && before.is_none_or(|before| !before.policies().eq(now.policies()))
                {
                    let key = user.site.shown_at(direction);
                    pending.comment(key, comments::of_policies(now.policies()));
                }
                replace(user.site, direction, before, now, &mut self.hosts, pending) && others
            }
        };
        if let Some(before) = before.filter(|before| *before != id) {
            self.leave(before, user.site);
        }
        if let Some(program) = self.programs.get_mut(&id) {
            program.users.insert(user.site, user.addresses.clone());
        }
        (id, changed)
    }

    /// The endpoint is gone, and its elements with it.
    pub(super) fn unassign(&mut self, site: Site, id: ProgramId, pending: &mut Pending) {
        if let Some(program) = self.programs.get(&id) {
            let direction = program.key().direction;
            replace(site, direction, Some(program), None, &mut self.hosts, pending);
            self.leave(id, site);
        }
    }

    /// Forgets programs that nobody uses any more.
    pub(super) fn sweep(&mut self) {
        for id in std::mem::take(&mut self.left) {
            if self.programs.get(&id).is_none_or(|program| !program.users.is_empty()) {
                continue;
            }
            let Some(program) = self.programs.remove(&id) else { continue };
            self.by_key.remove(program.key());
            for atom in program.relevant() {
                if let Some(programs) = self.by_atom.get_mut(&atom) {
                    programs.remove(&id);
                    if programs.is_empty() {
                        self.by_atom.remove(&atom);
                    }
                }
            }
        }
    }

    /// Who decides in any program.
    pub(super) fn deciders(&self) -> FxHashSet<Decider> {
        self.programs.values().flat_map(Program::deciders).copied().collect()
    }

    /// A program.
    pub(super) fn get(&self, id: ProgramId) -> Option<&Program> {
        self.programs.get(&id)
    }

    /// The number of a host endpoint's table.
    pub(super) fn host_table(&self, direction: Direction, table: &Table) -> Option<TableId> {
        self.hosts.id(direction, table)
    }

    /// How many programs there are.
    pub(super) fn len(&self) -> usize {
        self.programs.len()
    }

    fn leave(&mut self, id: ProgramId, site: Site) {
        if let Some(program) = self.programs.get_mut(&id) {
            program.users.remove(&site);
            self.left.push(id);
        }
    }

    /// The programs to which one of these questions makes a difference, ascending.
    fn asking(&self, atoms: impl Iterator<Item = AtomId>) -> BTreeSet<ProgramId> {
        atoms.filter_map(|atom| self.by_atom.get(&atom)).flatten().copied().collect()
    }

    /// Whether any program has different verdicts on two classes.
    fn tell_apart(&self, (a, b): (Class, Class), classes: &Classes) -> bool {
        let (a_atoms, b_atoms) = (classes.atoms(a), classes.atoms(b));
        let differing = a_atoms
            .iter()
            .filter(|atom| b_atoms.binary_search(atom).is_err())
            .chain(b_atoms.iter().filter(|atom| a_atoms.binary_search(atom).is_err()));
        self.asking(differing.map(|atom| atom.id()))
            .into_iter()
            .filter_map(|id| self.programs.get(&id))
            .any(|program| program.table(a) != program.table(b))
    }
}

/// Changes the elements of one class for all users of a program. `change` gives the table before
/// and after.
fn emit<'a>(
    program: &'a Program,
    class: Class,
    hosts: &mut HostTables,
    pending: &mut Pending,
    change: impl Fn(&'a Table) -> (Option<&'a Table>, Option<&'a Table>),
) {
    let Some(table) = program.told_apart(class) else { return };
    let (before, now) = change(table);
    for site in program.users.keys() {
        set(*site, program.key().direction, Some(class), (before, now), hosts, pending);
    }
}

/// Changes the elements of one endpoint from those of one program to those of another. True if
/// any verdict differs; the first program of an endpoint changes none.
fn replace(
    site: Site,
    direction: Direction,
    before: Option<&Program>,
    now: Option<&Program>,
    hosts: &mut HostTables,
    pending: &mut Pending,
) -> bool {
    let default =
        |program: Option<&'_ Program>| program.map(|program| program.default_table().clone());
    let (default_before, default_now) = (default(before), default(now));
    let defaults = (default_before.as_deref(), default_now.as_deref());
    set(site, direction, None, defaults, hosts, pending);
    let mut differ = default_before != default_now;
    let mut classes: BTreeSet<Class> = BTreeSet::new();
    for program in before.iter().chain(&now) {
        classes.extend(program.classes());
    }
    for class in classes {
        let told_apart = |program: Option<&'_ Program>| {
            program.and_then(|program| program.told_apart(class)).cloned()
        };
        let (was, is) = (told_apart(before), told_apart(now));
        if was != is {
            set(site, direction, Some(class), (was.as_deref(), is.as_deref()), hosts, pending);
            differ |= was.or(default_before.clone()) != is.or(default_now.clone());
        }
    }
    differ && before.is_some()
}

/// Changes the elements of one endpoint and class from those of one table to those of another.
fn set(
    site: Site,
    direction: Direction,
    class: Option<Class>,
    (before, now): (Option<&Table>, Option<&Table>),
    hosts: &mut HostTables,
    pending: &mut Pending,
) {
    if before == now {
        return;
    }
    let index = match site {
        Site::Workload(index) => index,
        Site::Host(site) => return hosts.set(site, class, before, now, pending),
    };
    let elements = |table: Option<&Table>| -> Vec<(Traffic, Ruling)> {
        match table {
            None => Vec::new(),
            // Also what is denied at last, which the kernel would do anyway: the element says by which
            // policies.
            Some(table) => table.all_elements().collect(),
        }
    };
    let (before, now) = (elements(before), elements(now));
    let mut put = |traffic, before: Option<Ruling>, now: Option<Ruling>| {
        let key = Key::Policy { direction, index, class, traffic };
        pending.set(key, before.map(Value::from), now.map(Value::from));
    };
    let (mut before, mut now) = (before.into_iter().peekable(), now.into_iter().peekable());
    loop {
        match (before.peek().copied(), now.peek().copied()) {
            (None, None) => return,
            (Some((traffic, was)), is) if is.is_none_or(|is| traffic < is.0) => {
                put(traffic, Some(was), None);
                before.next();
            }
            (was, Some((traffic, is))) if was.is_none_or(|was| traffic < was.0) => {
                put(traffic, None, Some(is));
                now.next();
            }
            (Some((traffic, was)), Some((_, is))) => {
                put(traffic, Some(was), Some(is));
                before.next();
                now.next();
            }
            // One of the guards above holds when only one side is left.
            _ => return,
        }
    }
}
