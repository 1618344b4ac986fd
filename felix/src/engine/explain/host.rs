//! What becomes of a packet at the host endpoints of this node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::host_tables::HostSite;
use super::super::hosts::Unasked;
use super::super::policies::Revision;
use super::super::program::Program;
use super::super::table::{Header, Ruling};
use super::super::{Engine, PolicyId};
use super::denial::PROFILES;
use super::{Considered, Element, Judgement, LISTED, Outcome, ends};
use crate::model::host::{HostHook, View};
use crate::model::{Flow, IfIndex, Key, Traffic, Value, Verdict};

/// The way of a packet through this node, by the indices of its interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// Where it comes in; None: the node itself sends it.
    pub input: Option<IfIndex>,
    /// Where it goes out; None: it is for the node itself.
    pub output: Option<IfIndex>,
}

impl Passage {
    /// Where it may be judged, in order.
    fn hooks(self) -> Vec<(HostHook, IfIndex)> {
        use HostHook::{ForwardIn, ForwardOut, Input, Output, PreDnat, UntrackedIn, UntrackedOut};
        let mut hooks = Vec::new();
        if let Some(index) = self.input {
            let last = if self.output.is_some() { ForwardIn } else { Input };
            hooks.extend([UntrackedIn, PreDnat, last].map(|hook| (hook, index)));
        }
        if let Some(index) = self.output {
            let own: &[HostHook] = &[UntrackedOut, Output];
            let list = if self.input.is_some() { &[ForwardOut] } else { own };
            hooks.extend(list.iter().map(|hook| (*hook, index)));
        }
        hooks
    }
}

impl Engine {
    /// Whether this node has host endpoints that are in force.
    pub fn has_host_endpoints(&self) -> bool {
        self.hosts.locals().next().is_some()
    }

    /// Whether there are host endpoints of a node.
    pub fn has_host_endpoints_on(&self, node: &str) -> bool {
        self.hosts.on_node(node)
    }

    /// Whether an address is that of an interface of this node, but for those of workloads.
    pub fn is_own_address(&self, address: IpAddr) -> bool {
        self.hosts.has_address(address)
    }

    /// The policies that applied to host endpoints of this node when the last delta was made.
    pub fn policies_for_hosts(&self) -> BTreeSet<PolicyId> {
        let revisions = self.hosts.locals().flat_map(|(_, local)| &local.policies);
        let policies = revisions.filter_map(|revision| self.policies.policy(*revision));
        policies.map(|policy| policy.id.clone()).collect()
    }

    /// What becomes of the first packet of a flow at the host endpoints on its way, in the order in which
    /// they are asked, up to the one that denies it, and why. Where nothing is judged, nothing is said.
    pub fn explain_at_hosts(&self, flow: &Flow, passage: Passage) -> Vec<Judgement> {
        let mut judgements: Vec<Judgement> = Vec::new();
        let mut accepted = false;
        for (hook, index) in passage.hooks() {
            // What came in before connection tracking or destination NAT and was accepted there.
            if accepted && hook != HostHook::ForwardOut {
                continue;
            }
            let Some(judgement) = self.judge_at_host(hook, index, flow) else { continue };
            let verdict = judgement.verdict;
            judgements.push(judgement);
            match verdict {
                Verdict::Accept => accepted = true,
                Verdict::Deny => break,
                Verdict::Allow => {}
            }
        }
        judgements
    }

    /// Whether rules of host endpoints on its way that could match a flow's first packet ask about its
    /// source port.
    pub fn asks_source_port_at_hosts(&self, flow: &Flow, passage: Passage) -> bool {
        passage.hooks().into_iter().any(|(hook, index)| {
            let (own, peer) = ends(flow, hook.direction());
            let own = self.workloads.addresses.class(own);
            let program = self.hosts.judge_at(hook, index, own);
            let program = program.and_then(|(_, program)| self.programs.get(program));
            let atoms = self.classes.atoms(self.workloads.addresses.class(peer));
            self.hosts.passes_unasked(hook, flow).is_none()
                && program.is_some_and(|program| {
                    program.asks_source(atoms, flow.protocol, flow.destination_port)
                })
        })
    }

    /// What becomes of it at one place; None: nothing is judged there.
    pub(in crate::engine) fn judge_at_host(
        &self,
        hook: HostHook,
        index: IfIndex,
        flow: &Flow,
    ) -> Option<Judgement> {
        let name = self.hosts.name_of(index)?;
        let own = self.workloads.addresses.class(ends(flow, hook.direction()).0);
        let (endpoint, local, site) = self.hosts.endpoint_at(hook, name, own)?;
        let program = self.programs.get(*local.programs.get(&site)?)?;
        let unasked = self.hosts.passes_unasked(hook, flow);
        if unasked.is_some() && hook.is_early() {
            // The one that follows says so.
            return None;
        }
        let member = |key| Element::new(key, Some(Value::Member));
        let mut judgement = Judgement {
            endpoint: format!("HostEndpoint {endpoint}"),
            interface: name.to_string(),
            hook: Some(hook),
            verdict: Verdict::Allow,
            considered: Vec::new(),
            policies: self.policies.counts().0,
            class: 0,
            memberships: Vec::new(),
            elements: site
                .interface
                .map(|name| member(Key::HostInterface(name)))
                .into_iter()
                .collect(),
        };
        match unasked {
            None => self.judge_by(program, site, &local.policies, flow, &mut judgement),
            Some(unasked) => {
                let (why, key) = match unasked {
                    Unasked::Failsafe(key) => ("failsafe port", Some(key)),
                    Unasked::Link => ("needed by an IPv6 link", None),
                };
                judgement.elements.extend(key.map(member));
                judgement.considered.push(Considered {
                    tier: String::new(),
                    policy: Some(why.into()),
                    outcome: Outcome::Allows,
                    rule: None,
                });
            }
        }
        Some(judgement)
    }

    fn judge_by(
        &self,
        program: &Program,
        HostSite { hook, interface, view }: HostSite,
        applied: &[Revision],
        flow: &Flow,
        judgement: &mut Judgement,
    ) {
        let direction = hook.direction();
        let (own, peer) = ends(flow, direction);
        let addresses = &self.workloads.addresses;
        if view != View::PLAIN {
            let class = addresses.class(own);
            let element = |key, value| Element::new(key, Some(value));
            judgement
                .elements
                .extend(addresses.element(own).map(|key| element(key, Value::Class(class))));
            let key = Key::HostView { hook, interface, class };
            judgement.elements.push(element(key, Value::View(view)));
        }
        let class = addresses.class(peer);
        let atoms = self.classes.atoms(class);
        let header = Header::of(flow);
        let table = program.table(class);
        let (traffic, ruling) = table.find(header);
        if let Some(key) = addresses.element(peer) {
            judgement.elements.push(Element::new(key, Some(Value::Class(class))));
        }
        if let Some(number) = self.programs.host_table(direction, table) {
            let told_apart = program.told_apart(class).map(|_| class).unwrap_or_default();
            let key = Key::HostTable { hook, interface, view, class: told_apart };
            judgement.elements.push(Element::new(key, Some(Value::Table(number))));
            let silent = traffic == Traffic::Any && ruling == Ruling::DENY;
            let key = Key::HostPolicy { table: number, traffic };
            judgement.elements.push(Element::new(key, (!silent).then_some(ruling.into())));
        }
        judgement.verdict = ruling.verdict;
        judgement.class = class.0;
        let memberships = atoms.iter().filter_map(|atom| self.membership(*atom));
        judgement.memberships = memberships.take(LISTED).collect();
        let met = program.trace(atoms, header);
        judgement.considered = self.considered(applied, (direction, Some(hook)), &met);
        // The host's own traffic that no policy decides is its profiles'.
        let profiles = judgement.considered.last_mut().filter(|row| row.tier.is_empty());
        if let Some(row) = profiles.filter(|_| !hook.is_early() && !hook.forwards()) {
            row.policy = Some(PROFILES.into());
        }
    }
}
