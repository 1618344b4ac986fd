//! What follows for the host endpoints of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::classes::ClassChanges;
use super::host_tables::HostSite;
use super::hosts::LocalHost;
use super::policies::Revision;
use super::program::{ProgramKey, Role};
use super::programs::{Site, User};
use super::report::Problem;
use super::views::Views;
use super::{Engine, automatic};
use crate::model::host::{HostHook, View};
use crate::model::{Class, Key, Kind, ObjectKey, Value};

impl Engine {
    /// Finds the host endpoints that are in force and their policies. Returns those whose programs
    /// must be looked at.
    pub(super) fn reapply_to_hosts(&mut self, policies_changed: bool) -> BTreeSet<Arc<str>> {
        let (gone, changed) = self.hosts.settle(&mut self.pending);
        for local in gone {
            self.policies.reapply(&local.policies, &[]);
            for (key, view) in local.own_sides {
                self.pending.set(key, Some(Value::View(view)), None);
            }
            for (site, program) in local.programs {
                self.programs.unassign(Site::Host(site), program, &mut self.pending);
            }
        }
        if !changed && !policies_changed {
            return BTreeSet::new();
        }
        self.leave_interfaces();
        let shapes = &self.workloads.shapes;
        let lists: Vec<(Arc<str>, Vec<Revision>)> = self
            .hosts
            .locals()
            .map(|(name, local)| (name.clone(), self.policies.applicable(shapes, local.shape)))
            .collect();
        let mut names = BTreeSet::new();
        for (name, list) in lists {
            if let Some(local) = self.hosts.local_mut(&name) {
                self.policies.reapply(&local.policies, &list);
                local.policies = list;
                names.insert(name);
            }
        }
        names
    }

    /// Has host endpoints give up the interfaces that they have no more, before others get them.
    fn leave_interfaces(&mut self) {
        let names: Vec<Arc<str>> = self.hosts.locals().map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(local) = self.hosts.local(&name) else { continue };
            let lost = |site: &HostSite| !local.interfaces.contains(&site.interface);
            let lost: Vec<HostSite> = local.programs.keys().copied().filter(lost).collect();
            let mut kept = local.own_sides.clone();
            kept.retain(|key, _| match key {
                Key::HostView { interface, .. } => local.interfaces.contains(interface),
                _ => false,
            });
            for site in lost {
                self.leave(&name, site);
            }
            self.show_own_sides(&name, kept);
        }
    }

    fn leave(&mut self, name: &str, site: HostSite) {
        let program = self.hosts.local_mut(name).and_then(|local| local.programs.remove(&site));
        if let Some(program) = program {
            self.programs.unassign(Site::Host(site), program, &mut self.pending);
        }
    }

    /// Has the interfaces of a host endpoint use the programs that follow from its policies.
    pub(super) fn reassign_host(&mut self, name: &str) {
        let Some(local) = self.hosts.local(name) else { return };
        let interfaces = local.interfaces.clone();
        let mut wanted: BTreeSet<HostSite> = BTreeSet::new();
        let mut views: BTreeMap<HostHook, Views> = BTreeMap::new();
        let mut own_sides: BTreeMap<Key, View> = BTreeMap::new();
        for hook in HostHook::ALL {
            let Some((at_hook, key)) = self.host_program(name, hook) else { continue };
            for interface in interfaces.iter().copied() {
                for (view, own) in at_hook.all() {
                    let site = HostSite { hook, interface, view };
                    wanted.insert(site);
                    self.assign_host(name, site, ProgramKey { own, ..key.clone() });
                }
                own_sides.extend(
                    at_hook
                        .classes()
                        .map(|(class, view)| (Key::HostView { hook, interface, class }, view)),
                );
            }
            views.insert(hook, at_hook);
        }
        self.show_own_sides(name, own_sides);
        let Some(local) = self.hosts.local_mut(name) else { return };
        local.views = views;
        let stale: Vec<HostSite> =
            local.programs.keys().filter(|site| !wanted.contains(site)).copied().collect();
        for site in stale {
            self.leave(name, site);
        }
    }

    /// Has the own sides that a host endpoint's policy tells apart in the kernel.
    fn show_own_sides(&mut self, name: &str, now: BTreeMap<Key, View>) {
        let Some(local) = self.hosts.local_mut(name) else { return };
        let before = std::mem::replace(&mut local.own_sides, now);
        let now = &local.own_sides;
        for (key, was) in &before {
            if !now.contains_key(key) {
                self.pending.set(*key, Some(Value::View(*was)), None);
            }
        }
        for (key, is) in now {
            let was = before.get(key);
            if was != Some(is) {
                self.pending.set(*key, was.copied().map(Value::View), Some(Value::View(*is)));
            }
        }
    }

    /// The host endpoints whose policy asks something about the own side that classes which have come or
    /// gone are told apart by.
    pub(super) fn hosts_asking(&self, changes: &ClassChanges) -> Vec<Arc<str>> {
        let asks = |local: &LocalHost| {
            local.views.values().any(|views| views.depend_on(changes, &self.classes))
        };
        let asking = self.hosts.locals().filter(|(_, local)| asks(local));
        asking.map(|(name, _)| name.clone()).collect()
    }

    /// Whether a host endpoint tells two classes apart that its own side is in.
    pub(super) fn own_sides_differ(&self, before: Class, now: Class) -> bool {
        let differ = |local: &LocalHost| {
            local.own_sides.iter().any(|(key, view)| match *key {
                Key::HostView { hook, interface, class } if [before, now].contains(&class) => {
                    let class = if class == before { now } else { before };
                    local.own_sides.get(&Key::HostView { hook, interface, class }) != Some(view)
                }
                _ => false,
            })
        };
        self.hosts.locals().any(|(_, local)| differ(local))
    }

    /// What is in force for a host endpoint at a hook, in its views. None: everything passes there.
    fn host_program(&self, name: &str, hook: HostHook) -> Option<(Views, ProgramKey)> {
        let local = self.hosts.local(name)?;
        let direction = hook.direction();
        let looks = |revision: &Revision| {
            self.policies.policy(*revision).is_some_and(|policy| {
                policy.rules(direction).is_some() && policy.hosts.judges_at(hook)
            })
        };
        let revisions: Vec<Revision> = local.policies.iter().copied().filter(looks).collect();
        let role = if hook.is_early() {
            Role::Early
        } else if hook.forwards() {
            Role::Forward
        } else {
            Role::Host { allows: local.allows }
        };
        if revisions.is_empty() && !matches!(role, Role::Host { .. }) {
            return None;
        }
        let policies: Vec<_> = revisions
            .iter()
            .filter_map(|revision| self.policies.active(*revision).cloned())
            .collect();
        let ports = self.own_ports(local.shape, &policies, direction).into();
        let asked = policies.iter().flat_map(|policy| policy.own_questions(direction)).collect();
        let views = Views::new(asked, &self.classes);
        let policies = revisions.into();
        // A packet counts once.
        let counted = self.counting.is_on() && !hook.is_again();
        Some((views, ProgramKey { direction, role, policies, ports, own: None, counted }))
    }

    fn assign_host(&mut self, name: &str, site: HostSite, key: ProgramKey) {
        let Some(local) = self.hosts.local(name) else { return };
        let before = local.programs.get(&site).copied();
        let active = key.policies.iter().filter_map(|revision| self.policies.active(*revision));
        let policies: Vec<_> = active.cloned().collect();
        let deciders = self.counting.of_lines(&key, &policies, &self.policies);
        let user = User { site: Site::Host(site), addresses: SmallVec::new() };
        // Established flows of the host itself go on, as with Calico.
        let (program, _) = self.programs.assign(
            &user,
            before,
            key,
            (&policies, deciders),
            &self.classes,
            &mut self.pending,
        );
        if let Some(local) = self.hosts.local_mut(name) {
            local.programs.insert(site, program);
        }
    }

    /// What is wrong with host endpoints of this node beyond their own fields, and with policies
    /// that apply to them.
    pub(super) fn host_problems(&self) -> Vec<Problem> {
        let idle = self.hosts.idle().map(|(name, error)| Problem {
            kind: Kind::HostEndpoint,
            key: ObjectKey::cluster(name),
            field: error.field.clone(),
            reason: error.reason.clone(),
        });
        let mut problems: Vec<Problem> = idle.collect();
        problems.extend(self.automatic.clashes().map(|(name, nodes)| Problem {
            kind: Kind::KubeControllersConfiguration,
            key: ObjectKey::cluster(automatic::DEFAULT),
            field: "spec.controllers.node.hostEndpoint.templates".into(),
            reason: format!(
                "{name} is the name of host endpoints of {}: only the first is made",
                nodes.iter().map(|node| &**node).collect::<Vec<_>>().join(", ")
            ),
        }));
        let crowded =
            self.hosts.locals().filter(|(_, local)| local.views.values().any(Views::overflows));
        problems.extend(crowded.map(|(name, _)| Problem {
            kind: Kind::HostEndpoint,
            key: ObjectKey::cluster(name),
            field: "spec".into(),
            reason: format!(
                "the rules of its policies tell more than {} kinds of own addresses apart \
                 (destinations of ingress, sources of egress): for those beyond, rules that ask \
                 for them allow nothing, and deny if they do not allow",
                View::NUMBERED
            ),
        }));
        problems
    }
}
