//! What follows for the host endpoints of this node.

use std::collections::BTreeSet;
use std::sync::Arc;

use smallvec::SmallVec;

use super::host_tables::HostSite;
use super::policies::Revision;
use super::program::{ProgramKey, Role};
use super::programs::{Site, User};
use super::report::Problem;
use super::{Engine, automatic};
use crate::model::host::HostHook;
use crate::model::{Direction, Kind, ObjectKey};

impl Engine {
    /// Finds the host endpoints that are in force and their policies. Returns those whose programs
    /// must be looked at.
    pub(super) fn reapply_to_hosts(&mut self, policies_changed: bool) -> Vec<Arc<str>> {
        let (gone, changed) = self.hosts.settle(&mut self.pending);
        for local in gone {
            self.policies.reapply(&local.policies, &[]);
            for (site, program) in local.programs {
                self.programs.unassign(Site::Host(site), program, &mut self.pending);
            }
        }
        if !changed && !policies_changed {
            return Vec::new();
        }
        self.leave_interfaces();
        let shapes = &self.workloads.shapes;
        let lists: Vec<(Arc<str>, Vec<Revision>)> = self
            .hosts
            .locals()
            .map(|(name, local)| (name.clone(), self.policies.applicable(shapes, local.shape)))
            .collect();
        let mut names = Vec::new();
        for (name, list) in lists {
            if let Some(local) = self.hosts.local_mut(&name) {
                self.policies.reapply(&local.policies, &list);
                local.policies = list;
                names.push(name);
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
            for site in lost {
                self.leave(&name, site);
            }
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
        for hook in HostHook::ALL {
            let Some(key) = self.host_program(name, hook) else { continue };
            for interface in &interfaces {
                let site = HostSite { hook, interface: *interface };
                wanted.insert(site);
                self.assign_host(name, site, key.clone());
            }
        }
        let Some(local) = self.hosts.local_mut(name) else { return };
        let stale: Vec<HostSite> =
            local.programs.keys().filter(|site| !wanted.contains(site)).copied().collect();
        for site in stale {
            self.leave(name, site);
        }
    }

    /// What is in force for a host endpoint at a hook. None: everything passes there.
    fn host_program(&self, name: &str, hook: HostHook) -> Option<ProgramKey> {
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
        let own = Box::default();
        let policies = revisions.into();
        // What is not tracked is looked up once more after it.
        let untracked = matches!(hook, HostHook::UntrackedIn | HostHook::UntrackedOut);
        let counted = self.counting.is_on() && !untracked;
        Some(ProgramKey { direction, role, policies, ports, own, counted })
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
        let applied: BTreeSet<Revision> =
            self.hosts.locals().flat_map(|(_, local)| local.policies.iter().copied()).collect();
        for policy in applied.into_iter().filter_map(|revision| self.policies.policy(revision)) {
            for (direction, side, own) in [
                (Direction::Ingress, "ingress", "destination"),
                (Direction::Egress, "egress", "source"),
            ] {
                let rules = policy.rules(direction).into_iter().flatten();
                let numbers: BTreeSet<u32> = rules
                    .filter(|rule| rule.own.is_some())
                    .filter_map(|rule| rule.number)
                    .collect();
                problems.extend(numbers.into_iter().map(|number| {
                    Problem {
                        kind: policy.id.kind,
                        key: policy.id.key.clone(),
                        field: format!("spec.{side}[{number}].{own}"),
                        reason:
                            "for host endpoints the address of the host's own side is not looked \
                             at yet: there the rule allows nothing, and denies if it does not allow"
                                .into(),
                    }
                }));
            }
        }
        problems
    }
}
