//! Which policy denies a packet, in fewer words than an explanation has and in so little time that it
//! can be asked of every packet that the kernel tells of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::policies::Revision;
use super::super::program::{Met, Program};
use super::super::table::{Header, Step};
use super::super::workloads::Local;
use super::super::{Engine, slot};
use super::{ends, field};
use crate::model::host::HostHook;
use crate::model::{Class, Direction, Flow, IfIndex, ObjectKey, Verdict};

/// Most policies that are named where none of their rules decides.
const NAMED: usize = 5;
/// Who denies at a host endpoint what no policy decides.
pub(super) const PROFILES: &str = "profiles";

/// Who denies a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    /// At its source (egress), or at its destination.
    pub direction: Direction,
    /// Whose policies: the pod, `namespace/name`, or `HostEndpoint name`.
    pub endpoint: String,
    /// The tier; None: the endpoint has not been given any policy yet, which lets nothing through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Kind, namespace and name of the policy with the rule that decides; None: it is the tier's
    /// default action. `profiles` where no policy decides and a host endpoint's profiles do not allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Where the rule stands in the object, `spec.ingress[0]`; `spec` for a policy that is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// By the tier's default action: which of its policies select the endpoint and have no rule for
    /// the packet; the first five.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub selected_by: Vec<String>,
}

impl Denial {
    /// Of which nothing more is known.
    fn of(direction: Direction, endpoint: String) -> Self {
        let selected_by = Vec::new();
        Self { direction, endpoint, tier: None, policy: None, rule: None, selected_by }
    }
}

impl Engine {
    /// Who denies a packet that came by one interface of this node and was to leave by another; None
    /// where nobody does, as of the last delta. The time it takes grows with the policies of its two
    /// endpoints, not with those of the cluster.
    pub fn denial(
        &self,
        flow: &Flow,
        input: Option<IfIndex>,
        output: Option<IfIndex>,
    ) -> Option<Denial> {
        let sides = [(Direction::Egress, input), (Direction::Ingress, output)];
        sides.into_iter().find_map(|(direction, index)| {
            let local = self.workloads.at(index?)?;
            self.denial_at(local, direction, flow)
        })
    }

    /// Which host endpoint of this node denies a packet at one of these places, asked in this order; as
    /// above.
    pub fn host_denial(
        &self,
        flow: &Flow,
        hooks: &[HostHook],
        input: Option<IfIndex>,
        output: Option<IfIndex>,
    ) -> Option<Denial> {
        hooks.iter().find_map(|hook| {
            let direction = hook.direction();
            let index = match direction {
                Direction::Ingress => input,
                Direction::Egress => output,
            };
            let (own, peer) = ends(flow, direction);
            let own = self.workloads.addresses.class(own);
            let (name, program) = self.hosts.judge_at(*hook, index?, own)?;
            let program = self.programs.get(program)?;
            let class = self.workloads.addresses.class(peer);
            let mut denial =
                self.denial_by(program, format!("HostEndpoint {name}"), class, flow)?;
            if denial.tier.is_none() {
                denial.policy = Some(PROFILES.into());
            }
            Some(denial)
        })
    }

    /// Whose addresses these are: pods of the cluster and endpoints of this node. Where one of them is
    /// a pod's of another node all pods are looked at, once for all addresses.
    pub fn names(&self, addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, ObjectKey> {
        let mut names = BTreeMap::new();
        let mut elsewhere = BTreeSet::new();
        for address in addresses {
            match self.workloads.holders(*address).next() {
                Some(local) => {
                    let (namespace, pod) = (&local.endpoint.namespace, &local.endpoint.pod);
                    names.insert(*address, ObjectKey::namespaced(namespace, pod));
                }
                None if self.workloads.addresses.has_owner(*address) => {
                    elsewhere.insert(*address);
                }
                None => {}
            }
        }
        if !elsewhere.is_empty() {
            let pods = self.workloads.pods().filter(|(address, _)| elsewhere.contains(address));
            names.extend(pods.map(|(address, key)| (address, key.clone())));
        }
        names
    }

    fn denial_at(&self, local: &Local, direction: Direction, flow: &Flow) -> Option<Denial> {
        let endpoint = format!("{}/{}", local.endpoint.namespace, local.endpoint.pod);
        match local.programs[slot(direction)].and_then(|id| self.programs.get(id)) {
            Some(program) => {
                let class = self.class_for(local, direction, ends(flow, direction).1);
                self.denial_by(program, endpoint, class, flow)
            }
            None => Some(Denial::of(direction, endpoint)),
        }
    }

    fn denial_by(
        &self,
        program: &Program,
        endpoint: String,
        class: Class,
        flow: &Flow,
    ) -> Option<Denial> {
        let direction = program.key().direction;
        let atoms = self.classes.atoms(class);
        let mut denial = Denial::of(direction, endpoint);
        let last = program.trace(atoms, Header::of(flow)).pop()?;
        if last.step != Step::Decide(Verdict::Deny) {
            return None;
        }
        match last.rule {
            Some((active, number)) => {
                denial.tier = Some(active.tier.name.to_string());
                let mut policies = program.key().policies.iter();
                let revision = policies.find(|revision| {
                    self.policies.active(**revision).is_some_and(|other| Arc::ptr_eq(other, active))
                });
                if let Some(policy) = revision.and_then(|revision| self.policies.policy(*revision))
                {
                    let rules = policy.rules(direction).unwrap_or_default();
                    let rule = usize::try_from(number).ok().and_then(|number| rules.get(number));
                    denial.rule = rule.map(|rule| field(rule, direction));
                    denial.policy = Some(policy.id.to_string());
                }
            }
            None => {
                let tier = self.tier_that_ends(program, &last);
                for revision in tier {
                    let Some(policy) = self.policies.policy(*revision) else { continue };
                    denial.tier = Some(policy.tier.name.to_string());
                    if denial.selected_by.len() < NAMED {
                        denial.selected_by.push(policy.id.to_string());
                    }
                }
            }
        }
        Some(denial)
    }

    /// The policies of the tier whose default action a line is.
    fn tier_that_ends<'a>(&self, program: &'a Program, line: &Met<'_>) -> &'a [Revision] {
        let key = program.key();
        let active = |revision: &Revision| self.policies.active(*revision);
        let tier = |revision: &Revision| active(revision).map(|active| &active.tier);
        let mut end = 0;
        for policies in key.policies.chunk_by(|a, b| tier(a) == tier(b)) {
            let rules = policies.iter().filter_map(active);
            end += rules.map(|active| active.rules(key.direction).len()).sum::<usize>();
            if end == line.number as usize {
                return policies;
            }
            end += 1;
        }
        &[]
    }
}
