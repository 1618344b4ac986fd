//! What follows from all that was recorded since the last delta.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::active::ActivePolicy;
use super::addresses;
use super::atoms::{AtomId, Question, answers};
use super::policies::Revision;
use super::program::{ProgramKey, Role};
use super::programs::{Site, User};
use super::ranges::Family;
use super::shapes::ShapeId;
use super::workloads::{Local, Workloads};
use super::{Engine, slot};
use crate::model::{Direction, EndpointId, NamedPort};

impl Engine {
    /// Works out what follows from everything recorded, from the policies down to the elements.
    pub(super) fn settle(&mut self) {
        let (mut reassigned, mut hosts) = self.reapply_policies();
        self.policies.settle(&mut self.atoms);

        let changes = self.atoms.take_changes();
        let Workloads { shapes, addresses, .. } = &mut self.workloads;
        for (id, question) in &changes.deactivated {
            if let Question::Networks(_) = question {
                addresses.deactivate(*id);
            }
            self.services.deactivate(*id, question, addresses);
            self.nodes.deactivate(*id, question, addresses);
            for shape in shapes.deactivate(*id, question) {
                addresses.shape_changed(shape, shapes);
            }
        }
        for (id, question) in &changes.activated {
            if let Question::Networks(networks) = question {
                addresses.activate(*id, networks);
            }
            self.services.activate(*id, question, addresses);
            self.nodes.activate(*id, question, addresses);
            for shape in shapes.activate(*id, question) {
                addresses.shape_changed(shape, shapes);
            }
        }

        let ranges_change = addresses.ranges_change();
        let (moves, range_moves) = addresses.settle(shapes, &mut self.classes, &mut self.pending);
        self.settle_names(&reassigned, &moves, ranges_change);
        let class_changes = self.classes.take_changes();
        // Rules may ask about the endpoint itself.
        for moved in &moves {
            let holders = self.workloads.holders(moved.address);
            reassigned.extend(holders.map(|local| local.endpoint.id.clone()));
        }
        let news = moves.into_iter().filter(|moved| !self.is_new_here(moved));
        let moves: Vec<addresses::Move> = news.collect();
        let range_moves = if self.started { range_moves } else { Vec::new() };
        let both = (&*moves, &*range_moves);
        self.programs.classes_changed(&class_changes, both, &self.classes, &mut self.pending);
        hosts.extend(self.hosts_asking(&class_changes));
        self.classes.retire(&class_changes.emptied);

        for id in reassigned {
            self.reassign(&id);
        }
        for name in hosts {
            self.reassign_host(&name);
        }
        for moved in &moves {
            if self.own_sides_differ(moved.before, moved.now) {
                self.pending.rejudge(moved.address);
            }
        }
        for moved in &range_moves {
            if self.own_sides_differ(moved.before, moved.now) {
                self.pending.rejudge_range(moved.first, moved.last);
            }
        }
        self.programs.sweep();
        self.counting.sweep(&self.programs);
        self.pools.settle(&mut self.pending);
        if !self.started {
            self.started = true;
            // What was decided before this start is not known.
            for (_, local) in self.workloads.locals() {
                local.endpoint.addresses.iter().for_each(|a| self.pending.rejudge(*a));
            }
        }
    }

    /// Finds out what names stand for now, for endpoints that may ask of others than before, and for
    /// addresses that are in other classes for all.
    fn settle_names(
        &mut self,
        reassigned: &BTreeSet<EndpointId>,
        moves: &[addresses::Move],
        ranges_change: bool,
    ) {
        for id in reassigned {
            let Some(local) = self.workloads.local(id) else { continue };
            let active =
                local.policies.iter().filter_map(|revision| self.policies.active(*revision));
            let asked: BTreeMap<_, _> = active.flat_map(|policy| policy.names()).cloned().collect();
            let index = local.endpoint.host_index;
            self.names.ask(id, index, asked.into_iter().collect(), &mut self.pending);
        }
        if ranges_change {
            self.names.ranges_changed();
        }
        moves.iter().for_each(|moved| self.names.address_moved(moved.address));
        let addresses = &self.workloads.addresses;
        self.names.settle(addresses, &mut self.classes, &mut self.pending);
    }

    /// An address that an endpoint of this node has just got has no flows yet.
    fn is_new_here(&self, moved: &addresses::Move) -> bool {
        let mut holders = self.workloads.holders(moved.address).peekable();
        moved.is_new
            && holders.peek().is_some()
            && holders.all(|local| local.programs == [None, None])
    }

    /// Finds the policies of every endpoint that may have others than before, and returns the
    /// endpoints whose programs must be looked at, in order: those of workloads, and of the host.
    fn reapply_policies(&mut self) -> (BTreeSet<EndpointId>, BTreeSet<Arc<str>>) {
        let dirty = self.workloads.take_dirty();
        let changes = self.policies.take_changes();
        let hosts = self.reapply_to_hosts(!changes.is_empty());
        if dirty.is_empty() && changes.is_empty() {
            return (BTreeSet::new(), hosts);
        }
        let mut changed: Vec<(EndpointId, Vec<Revision>)> = Vec::new();
        for (id, local) in self.workloads.locals() {
            let shapes = &self.workloads.shapes;
            if dirty.contains(id) {
                changed.push((id.clone(), self.policies.applicable(shapes, local.shape)));
                continue;
            }
            let mut list = local.policies.clone();
            list.retain(|revision| changes.retired.binary_search(revision).is_err());
            let mut added = changes.added.clone();
            added.retain(|revision| self.policies.applies(*revision, shapes, local.shape));
            if list.len() < local.policies.len() || !added.is_empty() {
                list.append(&mut added);
                self.policies.sort(&mut list);
                changed.push((id.clone(), list));
            }
        }
        let mut reassigned = BTreeSet::new();
        for (id, list) in changed {
            if let Some(local) = self.workloads.local_mut(&id) {
                self.policies.reapply(&local.policies, &list);
                local.policies = list;
                reassigned.insert(id);
            }
        }
        (reassigned, hosts)
    }

    /// Has an endpoint use the programs that follow from its policies.
    fn reassign(&mut self, id: &EndpointId) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let Some(local) = self.workloads.local(id) else { return };
            let looks = |revision: &Revision| {
                let policy = self.policies.policy(*revision);
                policy.is_some_and(|policy| policy.rules(direction).is_some())
            };
            let revisions: Vec<Revision> = local.policies.iter().copied().filter(looks).collect();
            let policies: Vec<_> = revisions
                .iter()
                .filter_map(|revision| self.policies.active(*revision).cloned())
                .collect();
            let ports = self.own_ports(local.shape, &policies, direction).into();
            let own = Some(self.own_truths(local, &policies, direction).into());
            let key = ProgramKey {
                direction,
                role: Role::Workload,
                policies: revisions.into(),
                ports,
                own,
                counted: self.counting.is_on(),
            };
            let deciders = self.counting.of_lines(&key, &policies, &self.policies);
            let user = User {
                site: Site::Workload(local.endpoint.host_index),
                addresses: local.endpoint.addresses.clone(),
            };
            let before = local.programs[slot(direction)];
            // The tables do not say what becomes of flows to what names stood for.
            let was = before.and_then(|id| self.programs.get(id));
            let lapsed = direction == Direction::Egress
                && !was.is_some_and(|program| program.key().judges_as(&key))
                && self.names.has_lapsed(id);
            let (program, changed) = self.programs.assign(
                &user,
                before,
                key,
                (&policies, deciders),
                &self.classes,
                &mut self.pending,
            );
            if changed || lapsed {
                user.addresses.iter().for_each(|address| self.pending.rejudge(*address));
            }
            if let Some(local) = self.workloads.local_mut(id) {
                local.programs[slot(direction)] = Some(program);
            }
        }
    }

    /// The named ports of an endpoint, as far as its policies ask for them. Sorted.
    pub(super) fn own_ports(
        &self,
        shape: ShapeId,
        policies: &[Arc<ActivePolicy>],
        direction: Direction,
    ) -> Vec<NamedPort> {
        let names: BTreeSet<(u8, &Arc<str>)> =
            policies.iter().flat_map(|policy| policy.own_port_names(direction)).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let ports = self.workloads.shapes.key(shape).map(|key| &key.ports);
        let mut ports: Vec<NamedPort> = ports
            .into_iter()
            .flat_map(|ports| ports.iter())
            .filter(|port| names.contains(&(port.protocol, &port.name)))
            .cloned()
            .collect();
        ports.sort_unstable_by(|a, b| {
            (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port))
        });
        ports.dedup();
        ports
    }

    /// What policies ask about an endpoint's own addresses and is true of them. Sorted.
    fn own_truths(
        &self,
        local: &Local,
        policies: &[Arc<ActivePolicy>],
        direction: Direction,
    ) -> Vec<(Family, AtomId)> {
        let asked: BTreeSet<(Family, AtomId)> =
            policies.iter().flat_map(|policy| policy.own_questions(direction)).collect();
        let is_true = |(family, id): &(Family, AtomId)| {
            let addresses = local.endpoint.addresses.iter();
            let mut own = addresses.filter(|address| Family::of(**address) == *family);
            own.any(|address| {
                let class = self.workloads.addresses.class(*address);
                !answers(self.classes.atoms(class), *id).is_empty()
            })
        };
        asked.into_iter().filter(is_true).collect()
    }
}
