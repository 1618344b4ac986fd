//! The tables of verdicts of host endpoints: what is the same is in the kernel once, whichever
//! endpoint, class or hook it is for.

use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashMap, FxHashSet, FxHasher};

use super::pending::Pending;
use super::table::Table;
use crate::model::host::{HostHook, InterfaceName, TableId, View};
use crate::model::{Class, Direction, Key, Value};

/// Where a host endpoint's program is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HostSite {
    pub(super) hook: HostHook,
    /// None: all that have none of their own.
    pub(super) interface: Option<InterfaceName>,
    /// For packets of whose own side this is true.
    pub(super) view: View,
}

impl HostSite {
    /// The element that says which verdicts hold here for peers of a class.
    pub(super) fn key(self, class: Class) -> Key {
        let Self { hook, interface, view } = self;
        Key::HostTable { hook, interface, view, class }
    }
}

/// The tables in use, by direction.
#[derive(Clone, Debug, Default)]
pub(super) struct HostTables {
    ingress: FxHashMap<Table, (TableId, usize)>,
    egress: FxHashMap<Table, (TableId, usize)>,
    taken: FxHashSet<TableId>,
}

impl HostTables {
    /// At this place, peers of a class (None: of all that are not told apart) are judged by `now`
    /// instead of `before`.
    pub(super) fn set(
        &mut self,
        site: HostSite,
        class: Option<Class>,
        before: Option<&Table>,
        now: Option<&Table>,
        pending: &mut Pending,
    ) {
        let direction = site.hook.direction();
        // First, so that a table that stays is not written again.
        let is = now.map(|table| self.acquire(direction, table, pending));
        let was = before.and_then(|table| self.release(direction, table, pending));
        let key = site.key(class.unwrap_or_default());
        pending.set(key, was.map(Value::Table), is.map(Value::Table));
    }

    /// The number of a table in use.
    pub(super) fn id(&self, direction: Direction, table: &Table) -> Option<TableId> {
        let tables = match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        };
        tables.get(table).map(|(id, _)| *id)
    }

    fn of(&mut self, direction: Direction) -> &mut FxHashMap<Table, (TableId, usize)> {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }

    fn acquire(&mut self, direction: Direction, table: &Table, pending: &mut Pending) -> TableId {
        if let Some((id, uses)) = self.of(direction).get_mut(table) {
            *uses += 1;
            return *id;
        }
        let id = self.name(direction, table);
        self.taken.insert(id);
        self.of(direction).insert(table.clone(), (id, 1));
        for (traffic, ruling) in table.needed_elements() {
            let key = Key::HostPolicy { table: id, traffic };
            pending.set(key, None, Some(ruling.into()));
        }
        id
    }

    fn release(
        &mut self,
        direction: Direction,
        table: &Table,
        pending: &mut Pending,
    ) -> Option<TableId> {
        let (id, uses) = self.of(direction).get_mut(table)?;
        let id = *id;
        *uses -= 1;
        if *uses == 0 {
            self.of(direction).remove(table);
            self.taken.remove(&id);
            for (traffic, ruling) in table.needed_elements() {
                let key = Key::HostPolicy { table: id, traffic };
                pending.set(key, Some(ruling.into()), None);
            }
        }
        Some(id)
    }

    /// Made from the content, so that a restarted agent finds its elements in the kernel as it would
    /// write them. Where it is taken, the next that is free.
    fn name(&self, direction: Direction, table: &Table) -> TableId {
        let mut hasher = FxHasher::default();
        table.hash(&mut hasher);
        #[allow(clippy::cast_possible_truncation, reason = "a part of the digest is enough")]
        let mut number = (hasher.finish() >> 32) as u32;
        loop {
            let id = TableId::new(number, direction);
            if !self.taken.contains(&id) {
                return id;
            }
            number = number.wrapping_add(2);
        }
    }
}
